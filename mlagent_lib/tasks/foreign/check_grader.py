"""Checks a foreign grader: what can be known of it unrun, its answers, its scores, and whom it would pay.

The answers must be closed to others, disjoint, complete and nowhere public. A submission that answers less
than it must may not be paid for it.
"""

from __future__ import annotations

import ast
import contextlib
import io
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from mlagent_lib.core.errors import SubmissionError, TaskError
from mlagent_lib.tasks.contract import RuleFinding, finding
from mlagent_lib.tasks.env_folder import strays
from mlagent_lib.tasks.foreign.grader import FUNCTIONS, ForeignGrader, nonsense_score, run_grader
from mlagent_lib.tasks.foreign.leaderboard import worse_than
from mlagent_lib.tasks.foreign.prepare import MARKER
from mlagent_lib.tasks.grading import LABEL_SETS, grade
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.task import Task

_UNPICKLERS = {
    ("pickle", "load"), ("pickle", "loads"), ("torch", "load"), ("joblib", "load"), ("dill", "load"),
    ("cloudpickle", "load"), ("pandas", "read_pickle"), ("pd", "read_pickle"),
}  # fmt: skip


def read_grader(script: Path, function: str = FUNCTIONS["folder"]) -> TaskError | None:
    """Return why a foreign grader cannot grade, as its text tells, and what to do about it; None for nothing.

    A grader that loads a model which a script saved would run code of that script beside the hidden labels,
    or load what this kit does not hand over: only ``submission.csv`` is archived and graded.
    """
    if not script.is_file():
        return refusal("grader missing", function=function)
    try:
        tree = ast.parse(script.read_bytes(), str(script))
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
        return refusal("grader no python", line=line, error=getattr(error, "msg", error))
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    imports = (node.names for node in tree.body if isinstance(node, ast.ImportFrom))
    names |= {alias.asname or alias.name for some in imports for alias in some}
    if function not in names:
        return refusal("grader without function", function=function)
    calls = (node.func for node in ast.walk(tree) if isinstance(node, ast.Call))
    for called in (node for node in calls if isinstance(node, ast.Attribute)):
        owner = called.value.id if isinstance(called.value, ast.Name) else ""
        if (owner, called.attr) in _UNPICKLERS or called.attr == "from_pretrained":
            return refusal("grader loads", line=called.lineno, call=ast.unparse(called))
    return None


def check_grader(task: Task) -> Iterator[RuleFinding]:
    """Check what can be known of a foreign folder and its grader before the starter has run."""
    grader = task.grader
    fault = read_grader(grader.script, grader.function)
    told, cure = (fault.message, fault.cure) if fault else (grader.function, "")
    yield finding("the grader can grade", not fault, grader.place, cure, told=told)
    program = task.folder / "scripts" / "prepare.py"
    if program.is_file() and grader.call == "folder":
        prepared = (program.parent / MARKER).exists()
        told, cure = "it ran" if prepared else "it has not run", f"mlagent tasks prepare {task.folder}"
        yield finding("the data are prepared", prepared, cure=cure, told=told)
    outside = strays(task.folder / "env")
    names = ", ".join(outside[:3]) or "no link"
    yield finding("everything in env/ lies there", not outside, names=names)
    one = "one label set: feedback and report scores are the same number"
    told = one if task.one_label_set else "two label sets"
    yield finding("the label sets are known", True, grader.place, told=told)
    if not task.one_label_set:
        yield from _check_answers(task)


def _check_answers(task: Task) -> Iterator[RuleFinding]:
    """Check the answer files of a grader that takes tables (MLE-bench)."""
    grader = task.grader
    folders = {path.parent for path in grader.answers.values()}
    modes = {folder.relative_to(task.folder).as_posix(): folder.stat().st_mode & 0o777 for folder in folders}
    closed = not any(mode & 0o077 for mode in modes.values())
    told = ", ".join(f"mode {modes[name]:o}" for name in sorted(modes))
    yield finding("only the owner may open the answers", closed, ", ".join(sorted(modes)), modes=told)
    try:
        tables = {name: _texts(path) for name, path in grader.answers.items()}
        ids = {name: set(table[grader.id_column]) for name, table in tables.items()}
    except (OSError, ValueError, KeyError) as error:
        yield finding("the answers can be read", False, error=f"{type(error).__name__}: {error}")
        return
    where, cure = "scripts/answers", "import the competition again"
    both = ids["feedback"] & ids["report"]
    yield finding("feedback and report rows are disjoint", not both, where, cure, count=len(both))
    joined = set.union(*(ids[name] for name in LABEL_SETS))
    missing = ids.get("all", joined) ^ joined
    yield finding("the label sets together are all answers", not missing, count=len(missing))
    known = pd.concat([tables[name] for name in LABEL_SETS]).drop_duplicates(grader.id_column)
    shown = _public_answers(task, grader, known.set_index(grader.id_column))
    yield finding("no answer lies in env/", not shown, ", ".join(shown[:3]), count=len(shown))


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
    both = {"first": first, "second": second}
    yield finding("the same submission scores the same twice", first == second, where, **both)
    hidden = nonsense_score(task.grader)
    refused = f"it returns {hidden}: a submission with this score is refused"
    told = "it raises" if hidden is None else refused
    yield finding("nonsense gets no score of its own", True, where, told=told)
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
        if is_score and worse_than(honest, verdict.score, task.greater_is_better):
            paid.append(f"{name} {verdict.score:.4g}")
            with contextlib.suppress(SubmissionError):
                grade(task, cheat, control=submission)
                kept.append(name)
    would = f"the grader alone would pay {', '.join(paid)} (honest {honest:.4g})"
    would = would if paid else "none would pay"
    told = f"{len(cheats)} tried, {would}; {', '.join(kept) or 'none'} got through"
    return finding("no cheat is paid", not kept, grader.place, told=told)


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
    known = [table, *(_texts(path) for name, path in task.grader.answers.items() if name == "all")]
    may_be_blank = any((one.filter(answers) == "").any(axis=None) for one in known)
    for which, part in (("first", table.index[:half]), ("second", table.index[half:])):
        found[f"{which} half left out"] = table.drop(part)
        if not may_be_blank:
            found[f"{which} half blank"] = blank = table.copy()
            blank.loc[part, answers] = ""
    texts = {name: spoiled.to_csv(index=False).encode() for name, spoiled in found.items()}
    return {name: text for name, text in texts.items() if half and len(text) <= task.grader.largest_bytes}
