"""``mlagent export``: the states and rewards of a run as JSONL, for other trainers."""

from __future__ import annotations

import argparse
from pathlib import Path


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent export`` say."""
    from mlagent_lib.tasks.registry import find_task
    from mlagent_lib.training.state_rewards import export_states

    tasks = [find_task(Path(folder).resolve()) for folder in arguments.task]
    found = export_states(arguments.run, Path(arguments.out), stage=arguments.stage, tasks=tasks)
    print(f"{arguments.out}: {found['states']} states, {found['actions']} actions")
    if found["unscored"]:
        print(f"{found['unscored']} actions were left out: we failed to score them")
    print(f"{found['schema']}: what a line holds")
