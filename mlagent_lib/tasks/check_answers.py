"""Checks the answers that a foreign grader is called with: closed, disjoint, complete, not public."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from mlagent_lib.tasks.check import Finding
from mlagent_lib.tasks.foreign.grader import ExternalGrader
from mlagent_lib.tasks.grading import LABEL_SETS
from mlagent_lib.tasks.task import Task


def check_answers(task: Task) -> Iterator[Finding]:
    """Return the findings on the answers of a task whose grader takes tables (MLE-bench).

    Args:
        task: A task with such a grader and two label sets; its answers are CSV files.
    """
    grader = task.grader
    folders = {path.parent for path in grader.answers.values()}
    modes = {folder.relative_to(task.folder).as_posix(): folder.stat().st_mode & 0o777 for folder in folders}
    open_ones = [name for name, mode in sorted(modes.items()) if mode & 0o077]
    yield Finding(
        "only the owner may open the answers",
        not open_ones,
        ", ".join(sorted(modes)),
        ", ".join(f"mode {modes[name]:o}" for name in sorted(modes)),
        "chmod 700 the folder",
    )
    try:
        tables = {name: _texts(path) for name, path in grader.answers.items()}
        ids = {name: set(table[grader.id_column]) for name, table in tables.items()}
    except (OSError, ValueError, KeyError) as error:
        yield Finding(
            "the answers can be read",
            False,
            "scripts/answers",
            f"{type(error).__name__}: {error}",
            "import the competition again",
        )
        return
    both = ids["feedback"] & ids["report"]
    yield Finding(
        "feedback and report rows are disjoint",
        not both,
        "scripts/answers",
        f"{len(both)} ids in both",
        "import the competition again",
    )
    joined = set.union(*(ids[name] for name in LABEL_SETS))
    missing = ids.get("all", joined) ^ joined
    yield Finding(
        "the label sets together are all answers",
        not missing,
        "scripts/answers",
        f"{len(missing)} ids only in one of them",
        "import the competition again",
    )
    known = pd.concat([tables[name] for name in LABEL_SETS]).drop_duplicates(grader.id_column)
    shown = _public_answers(task, grader, known.set_index(grader.id_column))
    yield Finding(
        "no answer lies in env/",
        not shown,
        ", ".join(shown[:3]) or "env/data",
        f"{len(shown)} tables hold the true answers of hidden rows",
        "remove them: an agent reads everything there",
    )


def _texts(path: object, **options: object) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, **options)


def _public_answers(task: Task, grader: ExternalGrader, known: pd.DataFrame) -> list[str]:
    """Return the tables of ``env/`` in which every hidden row that occurs has its true answer."""
    found = []
    for path in sorted((task.folder / "env").rglob("*.csv")):
        try:
            names = _texts(path, nrows=0).columns
        except ValueError:  # empty, or no table: it answers nothing
            continue
        answers = [name for name in task.answer_columns if name in names and name in known]
        if grader.id_column not in names or not answers:
            continue
        table = _texts(path, usecols=[grader.id_column, *answers])
        table = table[table[grader.id_column].isin(known.index)]
        truth = known.loc[table[grader.id_column], answers]
        if len(table) and (table[answers].to_numpy() == truth.to_numpy()).all():
            found.append(path.relative_to(task.folder).as_posix())
    return found
