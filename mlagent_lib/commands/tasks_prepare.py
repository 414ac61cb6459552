"""``mlagent tasks prepare``: the pocket suite, a task of the paper, or a folder of MLAgentBench."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlagent_lib.commands.output import say


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent tasks prepare`` say."""
    from mlagent_lib.tasks.registry import list_tasks, suite_home

    if arguments.task is None:
        print(f"{len(list_tasks())} tasks are in {suite_home()}")
    elif arguments.task.startswith("paper/") or not Path(arguments.task).is_dir():
        _paper(arguments)
    else:
        from mlagent_lib.tasks.foreign.prepare import prepare_folder

        prepare_folder(
            Path(arguments.task), seconds=arguments.seconds, confirm=arguments.yes, again=arguments.again,
            say=say,
        )  # fmt: skip


def prepare_isolated(name: str, **options: Any) -> Any:
    """Return a prepared task of the paper; its starter runs isolated (see `prepare_paper_task`)."""
    from mlagent_lib.environment.step import isolated_runs
    from mlagent_lib.tasks.paper.build import prepare_paper_task

    with isolated_runs() as execute:
        return prepare_paper_task(name, execute, **options)


def _paper(arguments: argparse.Namespace) -> None:
    from mlagent_lib.core.errors import TaskError

    rows = arguments.rows
    if rows is not None and rows != "all":
        if not rows.isdecimal():
            raise TaskError(f"--rows {rows} is no number", cure="give a number of at least 10, or all")
        rows = int(rows)
    task = prepare_isolated(
        arguments.task, source=Path(arguments.source) if arguments.source else None, client=arguments.client,
        rows=rows, side=arguments.side, best=arguments.best, best_source=arguments.best_source,
        seed=arguments.seed, again=arguments.again, say=say,
    )  # fmt: skip
    starter, best = (f"{scores['report']:.4g}" for scores in (task.baseline, task.best))
    print(f"{task.name}: {task.metric}, {task.better} is better; starter {starter}, best known {best}")
    print(f"best known score: {task.best_provenance}")
    print(f"folder: {task.folder}")
