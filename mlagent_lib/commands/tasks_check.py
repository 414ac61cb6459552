"""``mlagent tasks check``: scores, splits, checksums and limits of tasks."""

from __future__ import annotations

import argparse
import sys

from mlagent_lib.commands.output import say
from mlagent_lib.commands.tasks_adopt import load_stated
from mlagent_lib.core.errors import MlagentError


def call(arguments: argparse.Namespace) -> int:
    """Do what the arguments of ``mlagent tasks check`` say."""
    from mlagent_lib.environment.step import isolated_runs
    from mlagent_lib.tasks.check import check_task
    from mlagent_lib.tasks.registry import list_tasks

    bad = 0
    with isolated_runs() as execute:
        for name in arguments.tasks or list_tasks():
            try:
                task = load_stated(name, arguments)
                findings = check_task(task, execute)
            except MlagentError as error:
                print(f"{name}: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
                bad += 1
                continue
            broken = [finding for finding in findings if not finding.ok]
            bad += bool(broken)
            say(f"{name}: {len(findings) - len(broken)} rules hold, {len(broken)} do not")
            if task.one_label_set:
                print("  one label set: feedback and report scores are the same number")
            for finding in broken:
                print(f"  {finding.where}: {finding.rule}: {finding.message}. What to do: {finding.cure}")
    return 1 if bad else 0
