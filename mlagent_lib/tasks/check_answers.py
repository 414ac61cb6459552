"""Checks the answers that a foreign grader is called with: closed, disjoint, complete, not public.

And what it is handed: a submission that answers less than it must may not be paid for it.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator

import pandas as pd

from mlagent_lib.core.errors import SubmissionError
from mlagent_lib.tasks.check import Finding
from mlagent_lib.tasks.foreign.grader import ExternalGrader, nonsense_score, run_grader
from mlagent_lib.tasks.foreign.leaderboard import worse_than
from mlagent_lib.tasks.grading import LABEL_SETS, grade
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


def check_cheats(task: Task, submission: bytes) -> Finding:
    """Return the finding on submissions that leave out, repeat or spoil answers: which of them would pay.

    Args:
        task: A task with a foreign grader.
        submission: One that it accepts; a cheat pays where it scores better.
    """
    grader, cheats = task.grader, _cheats(task, submission)
    honest = run_grader(grader, submission).score
    paid, kept = [], []
    for name, cheat in cheats.items():
        verdict = run_grader(grader, cheat)
        is_score = verdict.is_sound and verdict.score != nonsense_score(grader)
        if not is_score or not worse_than(honest, verdict.score, task.greater_is_better):
            continue
        paid.append(f"{name} {verdict.score:.4g}")
        with contextlib.suppress(SubmissionError):
            grade(task, cheat, control=submission)
            kept.append(name)
    alone = (
        f"the grader alone would pay {', '.join(paid)} (honest {honest:.4g})" if paid else "none would pay"
    )
    return Finding(
        "no cheat is paid",
        not kept,
        f"{grader.script.parent.name}/{grader.script.name}",
        f"{len(cheats)} tried, {alone}; {', '.join(kept) or 'none'} got through",
        "let the grader refuse it",
    )


def _cheats(task: Task, submission: bytes) -> dict[str, bytes]:
    """Return spoiled copies of a submission by what was done to them; none where it is no table."""
    try:
        table = _texts(io.BytesIO(submission))
    except ValueError:
        return {}
    half, answers = len(table) // 2, [name for name in table if name in task.answer_columns]
    answers = answers or list(table)[1:] or list(table)
    found = {"rows repeated": pd.concat([table, table]), "infinite answers": table.copy()}
    found["infinite answers"][answers] = "inf"
    for which, part in (("first", table.index[:half]), ("second", table.index[half:])):
        found[f"{which} half left out"] = table.drop(part)
        if not _may_be_blank(task.grader, table, answers):
            found[f"{which} half blank"] = blank = table.copy()
            blank.loc[part, answers] = ""
    texts = {name: spoiled.to_csv(index=False).encode() for name, spoiled in found.items()}
    return {name: text for name, text in texts.items() if half and len(text) <= task.grader.largest_bytes}


def _may_be_blank(grader: ExternalGrader, table: pd.DataFrame, answers: list[str]) -> bool:
    tables = [table, *(_texts(path) for name, path in grader.answers.items() if name == "all")]
    return any((known[[name for name in answers if name in known]] == "").any(axis=None) for known in tables)
