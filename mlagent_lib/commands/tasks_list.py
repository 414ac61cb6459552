"""``mlagent tasks list``: the pocket tasks, or the paper's own."""

from __future__ import annotations

import argparse

from mlagent_lib.commands.output import print_table


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent tasks list`` say."""
    from mlagent_lib.tasks.registry import find_task, list_tasks

    if arguments.suite == "paper":
        return _paper(arguments)
    rows = [("task", "split", "modality", "metric", "better", "starter", "best", "stands in for")]
    for name in list_tasks(arguments.split):
        task = find_task(name)
        scores = (f"{group.get('report', float('nan')):.4g}" for group in (task.baseline, task.best))
        rows.append((name, task.split, task.modality, task.metric, task.better, *scores, task.paper_task))
    print_table(rows)


def _paper(arguments: argparse.Namespace) -> None:
    from mlagent_lib.tasks.paper.recipes import PREFIX, paper_folder, paper_task_rows
    from mlagent_lib.tasks.registry import home_folder

    header, *rows = paper_task_rows(arguments.split)
    states = ["prepared" if paper_folder(PREFIX + row[0], home_folder()).is_dir() else "-" for row in rows]
    table = [(*row[:-1], state, row[-1]) for row, state in zip(rows, states, strict=True)]
    print_table([(*header[:-1], "state", header[-1]), *table])
    print("\nsizes and times are estimates (5 MB a second, one core); unknown: no source states it")
