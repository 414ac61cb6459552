"""Folders of MLAgentBench: ``mlagent tasks prepare FOLDER`` and ``mlagent tasks adopt FOLDER``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlagent_lib.tasks.foreign.known_tasks import KIND_NAMES, MODALITY_NAMES

ADOPT_HELP = """\
Writes the task.yaml that a folder of MLAgentBench lacks. It runs the starter once, isolated, grades it with
the folder's own scripts/eval.py in a process of its own, and notes direction, limits, the starter's score and
the best known one. Afterwards the folder can be named wherever a task can. MLAgentBench does not read
task.yaml, so the folder stays one of that benchmark. Known folders (cifar10, imdb, ogbn-arxiv, house-price,
feedback) need neither --better nor --best. Many starters of that benchmark have gaps and do not run: name one
of yours with --starter. Where the starter has the blocks of the pocket suite (# data, # model, # learning),
--modality and --kind give the folder the suite's catalogue of ideas.

Such a folder has one set of hidden labels: the score that rewards are made of is the score that is reported.
Every table says so.

examples:
  mlagent tasks adopt benchmarks/house-price --seconds 120
  mlagent tasks adopt my-task --better lower --best 0.05 --best-source "a gradient boosting of mine"
  mlagent tasks adopt my-task --better lower --best 0.05 --modality text --starter ./first_try.py"""


def add(verbs: Any, plain: type) -> None:
    """Add the verb ``adopt`` to the parser of ``mlagent tasks``."""
    adopt = verbs.add_parser(
        "adopt", help="write the card of a folder of MLAgentBench", formatter_class=plain,
        description=ADOPT_HELP,
    )  # fmt: skip
    adopt.add_argument("task", metavar="FOLDER", help="holds env/ and scripts/")
    add_statements(adopt)
    adopt.add_argument("--best-source", default="", metavar="TEXT", help="where the best known score is from")
    adopt.set_defaults(call=_adopt)


def add_statements(parser: Any) -> None:
    """Add the options that say what a folder without ``task.yaml`` does not."""
    group = parser.add_argument_group("for a folder without task.yaml")
    group.add_argument("--better", choices=("higher", "lower"), help="direction; known folders need none")
    group.add_argument("--best", type=float, metavar="SCORE", help="best known score; some are known")
    group.add_argument("--seconds", type=float, default=20.0, help="limit of one script, default 20")
    group.add_argument("--memory-gb", type=float, default=2.0, help="limit of one script, default 2")
    group.add_argument("--modality", choices=MODALITY_NAMES, help="of the data; default other, or as known")
    group.add_argument("--kind", choices=KIND_NAMES, help="of the answers; default other")
    group.add_argument("--starter", metavar="FILE", help="the script that is run and edited: a name in env/, "
                       "or (adopt) a file that is copied there; default train.py")  # fmt: skip


def add_options(prepare: Any) -> None:
    """Add the options for a folder to ``mlagent tasks prepare``."""
    group = prepare.add_argument_group("for FOLDER: its own scripts/prepare.py, with your rights and network")
    group.add_argument("--yes", action="store_true", help="you have accepted what it asks consent for")
    group.add_argument("--seconds", type=float, default=3600.0, help="the longest it may take, default 3600")


def load_stated(name: str, arguments: argparse.Namespace) -> Any:
    """Return a task; a folder without ``task.yaml`` takes from the command line what it does not state."""
    from mlagent_lib.core.limits import Limits
    from mlagent_lib.tasks.task import load_task

    folder = Path(name)
    if not folder.is_dir() or (folder / "task.yaml").exists():
        return load_task(name)
    limits = Limits(seconds=arguments.seconds, memory_bytes=int(arguments.memory_gb * 2**30))
    up = None if arguments.better is None else arguments.better == "higher"
    names = ("best", "modality", "kind", "starter")
    stated = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return load_task(folder, greater_is_better=up, limits=limits, **stated)


def prepare(arguments: argparse.Namespace) -> int:
    """Run the ``prepare.py`` of a folder."""
    from mlagent_lib.tasks.foreign.mlagentbench import prepare_folder

    prepare_folder(
        Path(arguments.task), seconds=arguments.seconds, confirm=arguments.yes, again=arguments.again,
        say=lambda line: print(line, flush=True),
    )  # fmt: skip
    return 0


def _adopt(arguments: argparse.Namespace) -> int:
    from mlagent_lib.environment.runner import Runner
    from mlagent_lib.environment.step import task_request
    from mlagent_lib.tasks.foreign.mlagentbench import adopt_folder, check_adoptable, place_starter

    if (folder := Path(arguments.task)).is_dir():
        check_adoptable(folder)
        if arguments.starter is not None:
            arguments.starter = place_starter(folder, arguments.starter)
    given = load_stated(arguments.task, arguments)
    with Runner(workers=1) as runner:
        task = adopt_folder(
            given, lambda task, files: runner.run(task_request(task, files)),
            best=arguments.best, best_provenance=arguments.best_source,
        )  # fmt: skip
    better = "higher" if task.greater_is_better else "lower"
    print(f"{task.folder}/task.yaml: {better} is better; starter {task.baseline['report']:.6g}, best known "
          f"{task.best['report']:.6g} ({task.best_provenance})")  # fmt: skip
    print("one label set: feedback and report scores are the same number")
    return 0
