"""``mlagent tasks new``: a table of the reader's own becomes a checked task folder."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = """\
Makes a task folder of your own table, in one step: looks for leaks, splits the rows into visible, feedback
and report rows, writes a starter, runs it isolated for its score, looks for a better score among some
standard models (or takes yours), and checks the folder. What it refuses, it refuses with the cure, and leaves
nothing behind.

The table: comma-separated values in UTF-8, one line of column names, at least 250 rows. Empty cells are
missing values. Decimal commas (1.200,5), percent and currency signs are read where all cells of a column have
them. The starter has the blocks of the pocket tasks, so that the scripted expert, the rule coder and the
pocket model work on it as they are.

metrics: accuracy, auc (two classes), logloss, map@5 for classes; rmse, mae, rmsle, pearson for numbers; qwk
for ratings

examples:
  mlagent tasks new churn --data churn.csv --target left --metric auc --id customer
  mlagent tasks new rent --data flats.csv --target price --metric rmsle --drop agent remarks --seed 1
  mlagent tasks new tone --data reviews.csv --target stars --metric qwk --text review
  mlagent tasks new scans --data scans.csv --target ill --metric auc --group patient --out tasks/scans
  mlagent tasks check churn              later: starter, gold submission, splits, checksums, limits"""


def add(verbs: Any, plain: type) -> None:
    """Add the verb to the parser of ``mlagent tasks``."""
    parser = verbs.add_parser(
        "new", help="make a task of your own table", formatter_class=plain, description=HELP
    )
    parser.add_argument("name", metavar="NAME", help="name of the task")
    parser.add_argument("--data", required=True, metavar="FILE", help="comma-separated values")
    parser.add_argument("--target", required=True, metavar="COLUMN", help="the answers")
    parser.add_argument("--metric", required=True, help="what is scored")
    parser.add_argument("--id", metavar="COLUMN", help="names the rows; left out")
    parser.add_argument(
        "--text", metavar="COLUMN", help="makes it a text task; the starter reads this column"
    )
    parser.add_argument("--group", metavar="COLUMN", help="rows of one value stay in one split; no input")
    columns = {"nargs": "+", "action": "extend", "default": [], "metavar": "COLUMN"}
    parser.add_argument("--drop", help="leave these columns out", **columns)
    parser.add_argument("--keep", help="keep these although they look like a leak", **columns)
    parser.add_argument(
        "--keep-contradictions", action="store_true",
        help="keep rows that are equal but for the answer, as visible rows",
    )  # fmt: skip
    parser.add_argument(
        "--best", type=float, metavar="SCORE", help="a reachable score; default: look for one"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split, default 0")
    parser.add_argument("--seconds", type=float, default=20.0, help="limit of one script, default 20")
    parser.add_argument("--out", metavar="DIR", help="the task folder to make, default ./NAME")
    parser.set_defaults(call=_new)


def _new(arguments: argparse.Namespace) -> int:
    from mlagent_lib.environment.runner import Runner
    from mlagent_lib.environment.step import task_request
    from mlagent_lib.tasks.own.make import make_task
    from mlagent_lib.tasks.own.wish import Wish

    wish = Wish(
        name=arguments.name, data=Path(arguments.data), target=arguments.target, metric=arguments.metric,
        id_column=arguments.id, text=arguments.text, group=arguments.group, drop=tuple(arguments.drop),
        keep=tuple(arguments.keep), keep_contradictions=arguments.keep_contradictions,
        seed=arguments.seed, best=arguments.best, seconds=arguments.seconds,
    )  # fmt: skip
    folder = Path(arguments.out or arguments.name)
    with Runner(workers=1) as runner:

        def execute(task: Any, files: dict[str, bytes]) -> object:
            return runner.run(task_request(task, files))

        made = make_task(wish, folder, execute, lambda line: print(line, flush=True))
    task = made.task
    for note in made.notes:
        print(f"note: {note}")
    for name, scores in (("starter", task.baseline), ("best known", task.best)):
        print(f"{name}: {task.metric} {scores['feedback']:.4g} (feedback), {scores['report']:.4g} (report)")
    print(f"best known is {task.best_provenance}")
    print(f"{folder}: made and checked; look at it: mlagent tasks show {folder}")
    return 0
