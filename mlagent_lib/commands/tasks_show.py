"""``mlagent tasks show``: one task in full."""

from __future__ import annotations

import argparse

from mlagent_lib.commands.output import print_table


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent tasks show`` say."""
    from mlagent_lib.tasks.registry import find_task
    from mlagent_lib.tasks.task import size_of

    task = find_task(arguments.task)
    print(f"{task.name}: {task.description}\n")
    rows = [
        ("stands in for", task.paper_task),
        ("split", task.split),
        ("kind", ", ".join(filter(None, (task.modality, task.kind, size_of(task, "visible rows"))))),
        ("metric", f"{task.metric}, {task.better} is better"),
        ("starter's score", ", ".join(f"{k} {v:.5g}" for k, v in task.baseline.items())),
        ("best known score", ", ".join(f"{k} {v:.5g}" for k, v in task.best.items())),
        ("found by", task.best_provenance),
        ("data", task.provenance),
        ("facts", ", ".join(task.facts)),
        ("labels", "one set: feedback and report are the same" if task.one_label_set else ""),
        ("limits of a script", ", ".join(f"{k} {v:g}" for k, v in task.limits.to_json().items())),
        ("folder", str(task.folder)),
    ]
    print_table([row for row in rows if row[1]])
    print(f"\nWhat the agent is asked:\n\n{task.research_problem}")
