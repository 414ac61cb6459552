"""``mlagent tasks prepare paper/NAME`` and ``mlagent tasks list --suite paper``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

HELP = """\
Without a name: builds the pocket suite. With paper/NAME: fetches and prepares that task of the paper.

Seventeen competitions need a Kaggle account whose user has accepted their rules in a browser, and one of the
clients: pip install kagglehub (or kaggle). Logins that the clients read: KAGGLE_API_TOKEN or
~/.kaggle/access_token (the newer token), kaggle.json or KAGGLE_USERNAME and KAGGLE_KEY (the older pair).
cifar-10 and ogbn-arxiv need no account. A download that was interrupted goes on with the same command.

Kaggle keeps the labels of its test sets: visible, feedback and report rows are cut from the training set, so
scores are near those of the paper, not on the same rows. The best known score is a stated proxy unless you
give one.

examples:
  mlagent tasks prepare                                  the pocket suite
  mlagent tasks prepare paper/spaceship-titanic          download, cut, run the starter once
  mlagent tasks prepare paper/cifar-10 --rows 5000       fewer visible rows, so faster runs
  mlagent tasks prepare paper/leaf-classification --from leaf-classification.zip      downloaded in a browser
  mlagent tasks prepare paper/nomad2018 --best 0.05 --best-source "our own best model"
  mlagent tasks check paper/spaceship-titanic            as for every task"""


def add_options(listing: Any, prepare: Any) -> None:
    """Add the options for the paper's tasks to ``mlagent tasks list`` and ``mlagent tasks prepare``."""
    listing.add_argument("--suite", choices=("pocket", "paper"), default="pocket",
                         help="paper: the paper's own 19 tasks with size, time and command")  # fmt: skip
    group = prepare.add_argument_group("for paper/NAME")
    group.add_argument("--from", dest="source", metavar="PATH", help="an archive or folder that you have")
    group.add_argument("--client", choices=("auto", "kagglehub", "kaggle"), default="auto",
                       help="which client downloads; default the one that is installed")  # fmt: skip
    group.add_argument("--rows", metavar="N", help="most visible rows, or all; default: see the card")
    group.add_argument(
        "--side", type=int, metavar="N", help="pixels of a photo's side; default: see the card"
    )
    group.add_argument("--best", type=float, metavar="X", help="best known score, in the metric's unit")
    group.add_argument("--best-source", default="", metavar="TEXT", help="where that score comes from")
    group.add_argument("--seed", type=int, default=0, help="of the cut into sets, default 0")
    group.add_argument("--again", action="store_true", help="build it anew where it is there already")


def list_paper_tasks(arguments: argparse.Namespace, show: Callable[[list], None]) -> int:
    """Show the table of the paper's tasks."""
    from mlagent_lib.tasks.paper.build import paper_folder
    from mlagent_lib.tasks.paper.recipes import PREFIX, paper_task_rows

    header, *rows = paper_task_rows(arguments.split)
    states = ["prepared" if paper_folder(PREFIX + row[0]).is_dir() else "-" for row in rows]
    table = [(*row[:-1], state, row[-1]) for row, state in zip(rows, states, strict=True)]
    show([(*header[:-1], "state", header[-1]), *table])
    print("\nsizes and times are estimates (5 MB a second, one core); unknown: no source states it")
    return 0


def prepare_isolated(name: str, **options: Any) -> Any:
    """Return a prepared task of the paper; its starter runs isolated (see `prepare_paper_task`)."""
    from mlagent_lib.environment.runner import Runner
    from mlagent_lib.environment.step import task_request
    from mlagent_lib.tasks.paper.build import prepare_paper_task

    with Runner(workers=1) as runner:

        def execute(task: Any, files: dict[str, bytes]) -> object:
            return runner.run(task_request(task, files))

        return prepare_paper_task(name, execute, **options)


def prepare_paper(arguments: argparse.Namespace) -> int:
    """Fetch and prepare the task that the command line names."""
    from mlagent_lib.core.errors import TaskError

    rows = arguments.rows
    if rows is not None and rows != "all":
        if not rows.isdecimal():
            raise TaskError(f"--rows {rows} is no number", cure="give a number of at least 10, or all")
        rows = int(rows)
    task = prepare_isolated(
        arguments.task, source=Path(arguments.source) if arguments.source else None, client=arguments.client,
        rows=rows, side=arguments.side, best=arguments.best, best_source=arguments.best_source,
        seed=arguments.seed, again=arguments.again, say=lambda line: print(line, flush=True),
    )  # fmt: skip
    starter, best = (f"{scores['report']:.4g}" for scores in (task.baseline, task.best))
    better = "higher" if task.greater_is_better else "lower"
    print(f"{task.name}: {task.metric}, {better} is better; starter {starter}, best known {best}")
    print(f"best known score: {task.best_provenance}")
    print(f"folder: {task.folder}")
    return 0
