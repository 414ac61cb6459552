"""``mlagent export``: the states and rewards of a run as JSONL, for other trainers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = """\
Writes one JSON line for each state of a run: the prompt, the whole state, every action that was executed from
it with outcome, scores and the reward in each form, its part (train, select, test, evaluation) and where it
comes from. The JSON Schema of the format is written beside the file.

examples:
  mlagent export runs/laptop-seed0 --out states.jsonl     the expert's states
  mlagent export runs/laptop-seed0 --out evaluated.jsonl --stage 04_evaluation
                                         what the evaluated policies did, on held-out tasks too"""


def add(commands: Any, plain: type) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "export", help="states and rewards for other trainers", formatter_class=plain, description=HELP
    )
    parser.add_argument("run", metavar="RUN", help="folder of a run, e.g. runs/laptop-seed0")
    parser.add_argument("--out", required=True, metavar="FILE", help="the JSONL file to write")
    parser.add_argument(
        "--stage", choices=("01_collection", "04_evaluation"), default="01_collection",
        help="whose trajectories, default 01_collection",
    )  # fmt: skip
    parser.add_argument(
        "--task", action="append", default=[], metavar="FOLDER",
        help="folder of a task of the run that is no pocket task; may be repeated",
    )  # fmt: skip
    parser.set_defaults(call=_export)


def _export(arguments: argparse.Namespace) -> int:
    from mlagent_lib.tasks.task import load_task
    from mlagent_lib.training.run_states import export_states

    tasks = [load_task(Path(folder).resolve()) for folder in arguments.task]
    found = export_states(arguments.run, Path(arguments.out), stage=arguments.stage, tasks=tasks)
    print(f"{arguments.out}: {found['states']} states, {found['actions']} actions")
    if found["unscored"]:
        print(f"{found['unscored']} actions were left out: we failed to score them")
    print(f"{found['schema']}: what a line holds")
    return 0
