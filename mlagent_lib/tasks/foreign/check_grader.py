"""Checks a foreign grader: what can be known of it unrun, its answers, its scores, and whom it would pay.

The answers must be closed to others, disjoint, complete and nowhere public. A submission that answers less
than it must may not be paid for it.
"""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from mlagent_lib.core.errors import SubmissionError
from mlagent_lib.tasks.contract import RuleFinding, finding
from mlagent_lib.tasks.env_folder import strays
from mlagent_lib.tasks.foreign.grader import FUNCTIONS, ForeignGrader, nonsense_score, run_grader
from mlagent_lib.tasks.foreign.leaderboard import worse_than
from mlagent_lib.tasks.foreign.prepare import MARKER
from mlagent_lib.tasks.grading import LABEL_SETS, grade
from mlagent_lib.tasks.task import Task

_UNPICKLERS = {
    ("pickle", "load"), ("pickle", "loads"), ("torch", "load"), ("joblib", "load"), ("dill", "load"),
    ("cloudpickle", "load"), ("pandas", "read_pickle"), ("pd", "read_pickle"),
}  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """Why a foreign grader cannot grade, as its text tells, "" for nothing found; and what to do about it."""

    problem: str = ""
    cure: str = ""


def read_grader(script: Path, function: str = FUNCTIONS["folder"]) -> Reading:
    """Return what stands in the way of a grader, by its text alone.

    A grader that loads a model which a script saved would run code of that script beside the hidden labels,
    or load what this kit does not hand over: only ``submission.csv`` is archived and graded.
    """
    if not script.is_file():
        cure = f"write a function {function}(submission_folder) that returns a number"
        return Reading("it is missing", cure)
    try:
        tree = ast.parse(script.read_bytes(), str(script))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        told = f"it is no Python file{line}: {getattr(error, 'msg', error)}"
        return Reading(told, "correct the file")
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    imports = (node.names for node in tree.body if isinstance(node, ast.ImportFrom))
    names |= {alias.asname or alias.name for some in imports for alias in some}
    if function not in names:
        return Reading(f"it has no function {function}", f"name the function that grades {function}")
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if not isinstance(called, ast.Attribute):
            continue
        owner = called.value.id if isinstance(called.value, ast.Name) else ""
        if (owner, called.attr) in _UNPICKLERS or called.attr == "from_pretrained":
            told = f"line {node.lineno} loads a saved model or object ({ast.unparse(called)})"
            return Reading(
                f"{told}: what a script saved would run as code beside the labels",
                "let the script write its answers into submission.csv and grade these",
            )
    return Reading()


def check_grader(task: Task) -> Iterator[RuleFinding]:
    """Check what can be known of a foreign folder and its grader before the starter has run."""
    grader = task.grader
    read = read_grader(grader.script, grader.function)
    yield finding(
        "the grader can grade", not read.problem, read.problem or grader.function, grader.place, read.cure
    )
    program = task.folder / "scripts" / "prepare.py"
    if program.is_file() and grader.call == "folder":
        prepared = (program.parent / MARKER).exists()
        told, cure = "it ran" if prepared else "it has not run", f"mlagent tasks prepare {task.folder}"
        yield finding("the data are prepared", prepared, told, cure=cure)
    outside = strays(task.folder / "env")
    told = f"{', '.join(outside[:3]) or 'no link'} leads out of env/, where no run can read"
    yield finding("everything in env/ lies there", not outside, told)
    one = "one label set: feedback and report scores are the same number"
    told = one if task.one_label_set else "two label sets"
    yield finding("the label sets are known", True, told, grader.place)
    if not task.one_label_set:
        yield from _check_answers(task)


def _check_answers(task: Task) -> Iterator[RuleFinding]:
    """Check the answer files of a grader that takes tables (MLE-bench)."""
    grader = task.grader
    folders = {path.parent for path in grader.answers.values()}
    modes = {folder.relative_to(task.folder).as_posix(): folder.stat().st_mode & 0o777 for folder in folders}
    closed = not any(mode & 0o077 for mode in modes.values())
    told = ", ".join(f"mode {modes[name]:o}" for name in sorted(modes))
    yield finding("only the owner may open the answers", closed, told, ", ".join(sorted(modes)))
    try:
        tables = {name: _texts(path) for name, path in grader.answers.items()}
        ids = {name: set(table[grader.id_column]) for name, table in tables.items()}
    except (OSError, ValueError, KeyError) as error:
        yield finding("the answers can be read", False, f"{type(error).__name__}: {error}")
        return
    where, cure = "scripts/answers", "import the competition again"
    both = ids["feedback"] & ids["report"]
    yield finding("feedback and report rows are disjoint", not both, f"{len(both)} ids in both", where, cure)
    joined = set.union(*(ids[name] for name in LABEL_SETS))
    missing = ids.get("all", joined) ^ joined
    told = f"{len(missing)} ids only in one of them"
    yield finding("the label sets together are all answers", not missing, told)
    known = pd.concat([tables[name] for name in LABEL_SETS]).drop_duplicates(grader.id_column)
    shown = _public_answers(task, grader, known.set_index(grader.id_column))
    told = f"{len(shown)} tables hold the true answers of hidden rows"
    yield finding("no answer lies in env/", not shown, told, ", ".join(shown[:3]))


def _texts(path: object, **options: object) -> pd.DataFrame:
    return pd.read_csv(path, dtype=str, keep_default_na=False, **options)


def _public_answers(task: Task, grader: ForeignGrader, known: pd.DataFrame) -> list[str]:
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


def check_scoring(task: Task, submission: bytes) -> Iterator[RuleFinding]:
    """Check a foreign grader on a submission that it accepts: the same score twice, and none for nonsense."""
    where = task.grader.place
    first, second = (run_grader(task.grader, submission).score for _ in range(2))
    yield finding(
        "the same submission scores the same twice", first == second, f"{first} and {second}", where
    )
    hidden = nonsense_score(task.grader)
    refused = f"it returns {hidden}: a submission with this score is refused"
    told = "it raises" if hidden is None else refused
    yield finding("nonsense gets no score of its own", True, told, where)
    yield check_cheats(task, submission)


def check_cheats(task: Task, submission: bytes) -> RuleFinding:
    """Return the finding on copies of an accepted submission that leave out, repeat or spoil answers.

    Such a cheat is paid where it scores better than the submission itself.
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
    told = f"{len(cheats)} tried, {alone}; {', '.join(kept) or 'none'} got through"
    return finding("no cheat is paid", not kept, told, grader.place)


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


def _may_be_blank(grader: ForeignGrader, table: pd.DataFrame, answers: list[str]) -> bool:
    tables = [table, *(_texts(path) for name, path in grader.answers.items() if name == "all")]
    return any((known[[name for name in answers if name in known]] == "").any(axis=None) for known in tables)
