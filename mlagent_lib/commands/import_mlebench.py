"""``mlagent tasks import-mlebench``: a prepared competition of MLE-bench becomes a task folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = """\
Makes a task folder of a competition that MLE-bench has prepared. The package mlebench is not needed, only
files: what 'mlebench prepare -c NAME' wrote (prepared/public, prepared/private), and the competition's folder
in a clone of MLE-bench (grade.py, description.md, config.yaml, leaderboard.csv: 'git lfs pull' there first).

The private answers are divided in half: feedback labels for the rewards, report labels for the tables. The
competition's own grade.py grades, in a process of its own. A starter is written, or taken from --starter, run
once and scored. Direction and best known score come from the leaderboard.

examples:
  mlagent tasks import-mlebench spaceship-titanic --out tasks/spaceship-titanic \\
      --prepared DATA/spaceship-titanic/prepared \\
      --competition mle-bench/mlebench/competitions/spaceship-titanic
  mlagent tasks import-mlebench NAME --out tasks/NAME --public DIR --private DIR --grade grade.py \\
      --description description.md --leaderboard leaderboard.csv --starter train.py
  mlagent tasks check tasks/NAME         starter, gold submission, direction, limits"""


def add(verbs: Any, plain: type) -> None:
    """Add the verb to the parser of ``mlagent tasks``."""
    parser = verbs.add_parser(
        "import-mlebench", help="make a task of an MLE-bench competition", formatter_class=plain,
        description=HELP,
    )  # fmt: skip
    parser.add_argument("name", metavar="NAME", help="name of the task")
    parser.add_argument("--out", required=True, metavar="DIR", help="the task folder to make")
    parser.add_argument("--prepared", metavar="DIR", help="holds public/ and private/")
    parser.add_argument(
        "--competition", metavar="DIR", help="holds grade.py, description.md, leaderboard.csv"
    )
    parser.add_argument("--public", metavar="DIR", help="default PREPARED/public")
    parser.add_argument("--private", metavar="DIR", help="default PREPARED/private")
    parser.add_argument("--grade", metavar="FILE", help="default COMPETITION/grade.py")
    parser.add_argument("--description", metavar="FILE", help="default COMPETITION/description.md")
    parser.add_argument("--leaderboard", metavar="FILE", help="default COMPETITION/leaderboard.csv")
    parser.add_argument("--starter", metavar="FILE", help="a train.py of your own; default: one is written")
    parser.add_argument(
        "--answers", default="", metavar="NAME", help="file in private/, where it is not clear"
    )
    parser.add_argument("--sample", default="", metavar="NAME", help="file in public/ or private/, likewise")
    parser.add_argument("--id", default="", metavar="COLUMN", help="column that names a row, where not clear")
    parser.add_argument("--metric", default="score", help="name of the metric, for tables")
    parser.add_argument("--better", choices=("higher", "lower"), help="default: the leaderboard's order")
    parser.add_argument("--best", type=float, help="best known score; default: the leaderboard's best")
    parser.add_argument("--seed", type=int, default=0, help="of the division of the answers, default 0")
    parser.add_argument("--seconds", type=float, default=300.0, help="limit of one script, default 300")
    parser.add_argument("--memory-gb", type=float, default=4.0, help="limit of one script, default 4")
    parser.set_defaults(call=_import)


def _import(arguments: argparse.Namespace) -> int:
    from mlagent_lib.core.limits import Limits
    from mlagent_lib.environment.runner import Runner
    from mlagent_lib.environment.step import task_request
    from mlagent_lib.tasks.foreign.mlebench import import_competition

    with Runner(workers=1) as runner:

        def execute(task: Any, files: dict[str, bytes]) -> object:
            return runner.run(task_request(task, files))

        task = import_competition(
            arguments.name,
            Path(arguments.out),
            _source(arguments),
            execute=execute,
            seed=arguments.seed,
            starter=Path(arguments.starter) if arguments.starter else None,
            greater_is_better=None if arguments.better is None else arguments.better == "higher",
            best=arguments.best,
            limits=Limits(seconds=arguments.seconds, memory_bytes=int(arguments.memory_gb * 2**30)),
        )
    better = "higher" if task.greater_is_better else "lower"
    print(f"{task.folder}: {better} is better; starter {task.baseline['report']:.5g} on the report rows")
    print(f"best known {task.best['report']:.5g}: {task.best_provenance}")
    return 0


def _source(arguments: argparse.Namespace) -> Any:
    """Return where the parts lie: a path that is given wins over its place in the two folders."""
    from mlagent_lib.core.errors import TaskError
    from mlagent_lib.tasks.foreign.mlebench_read import Competition, configured

    def place(given: str | None, folder: str | None, name: str, option: str) -> Path:
        if given is None and folder is None:
            raise TaskError(f"--{name.partition('.')[0]} is not given", cure=f"give it, or --{option}")
        return Path(given) if given is not None else Path(folder, name)

    names = {"public": "public", "private": "private", "grade": "grade.py", "description": "description.md"}
    parts = {
        part: place(
            getattr(arguments, part),
            arguments.prepared if part in ("public", "private") else arguments.competition,
            name,
            "prepared" if part in ("public", "private") else "competition",
        )
        for part, name in names.items()
    }
    board = Path(arguments.competition, "leaderboard.csv") if arguments.competition else None
    source = Competition(
        **parts,
        leaderboard=Path(arguments.leaderboard) if arguments.leaderboard else board,
        answers=arguments.answers,
        sample=arguments.sample,
        id_column=arguments.id,
        metric=arguments.metric,
    )
    return configured(source, Path(arguments.competition, "config.yaml")) if arguments.competition else source
