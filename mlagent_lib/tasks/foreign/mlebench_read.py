"""Reads a prepared competition of MLE-bench: its parts are found, read, and compared with each other.

Everything that can be wrong with a user's folders is said here, before a file is written.
"""

from __future__ import annotations

import filecmp
import re
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import yaml

from mlagent_lib.tasks import grading
from mlagent_lib.tasks.foreign.check_grader import read_grader
from mlagent_lib.tasks.foreign.leaderboard import Leaderboard, read_leaderboard
from mlagent_lib.tasks.refusals import refusal

FEWEST_ROWS = 10  # of the answers; half of them are feedback
MOST_CLASSES = 50  # whole numbers with more different values are numbers
LARGEST_SUBMISSION = 64 << 20
_LONGEST_NUMBER = 25  # characters of -1.2345678901234567e-123 and a comma
_USUAL = {"answers": ("answers", "test", "labels"), "sample": ("sample_submission",)}  # names of files


@dataclass(frozen=True)
class Competition:
    """Where the parts of a prepared competition lie.

    Attributes:
        public: ``prepared/public``: what an agent may see.
        private: ``prepared/private``: the answers.
        grade: ``grade.py`` with ``grade(submission, answers)``; the Python files beside it come along.
        description: ``description.md``.
        leaderboard: ``leaderboard.csv``, or None.
        answers: File of the answers below ``private``; "" to look for it.
        sample: The sample submission below ``public``, else below ``private``; "" to look for it.
        id_column: The column that names a row; "" to look for it.
        metric: Name of the metric, for tables.
    """

    public: Path
    private: Path
    grade: Path
    description: Path
    leaderboard: Path | None = None
    answers: str = ""
    sample: str = ""
    id_column: str = ""
    metric: str = "score"


@dataclass(frozen=True)
class Tables:
    """Answers and sample submission of a competition, which fit each other.

    Attributes:
        answers: Every cell as the text that the file holds.
        answers_path: Their file.
        sample: The sample submission, as pandas reads it.
        sample_name: Its file, below the public data.
        id_column: The column that names a row in both.
        targets: The columns of a submission that have to be answered.
        sample_path: Where the sample submission was read; None for below the public data.
        largest_bytes: A larger submission is none of honest answers.
    """

    answers: pd.DataFrame
    answers_path: Path
    sample: pd.DataFrame
    sample_name: str
    id_column: str
    targets: tuple[str, ...]
    sample_path: Path | None = None
    largest_bytes: int = grading.LARGEST_SUBMISSION


def configured(source: Competition, config: Path) -> Competition:
    """Return the competition with the files that its ``config.yaml`` names, as far as none were given.

    Raises:
        TaskError: There is such a file and it cannot be read.
    """
    if not config.is_file():
        return source
    try:
        dataset = (yaml.safe_load(config.read_text(encoding="utf-8")) or {}).get("dataset") or {}
        named = {"answers": dataset.get("answers"), "sample": dataset.get("sample_submission")}
    except (OSError, ValueError, yaml.YAMLError, AttributeError) as error:
        raise refusal("config unread", path=config, error=type(error).__name__) from error
    found = {}
    for what, path in named.items():  # <competition>/prepared/<public or private>/<name>
        part, _, name = str(path).rpartition("prepared/")[2].partition("/")
        folder = {"public": source.public, "private": source.private}.get(part)
        if folder and (folder / name).is_file() and not getattr(source, what):
            found[what] = name
    return replace(source, **found)


def read_tables(source: Competition) -> Tables:
    """Return answers and sample submission of a competition.

    Raises:
        TaskError: A part is missing, cannot be read, or does not fit the others; the answers lie in the open.
    """
    _check_parts(source)
    answers_path = _one_file((source.private,), source.answers, "answers")
    folders = (source.public, source.private)  # a few public samples are archives
    sample_path = _one_file(folders, source.sample, "sample")
    _check_size(sample_path.stat().st_size, sample_path)
    for path in source.public.rglob("*"):
        if path.is_file() and filecmp.cmp(path, answers_path, shallow=False):
            raise refusal("answers in public", path=path, answers=answers_path)
    answers, shown = (read_table(path, texts=True) for path in (answers_path, sample_path))
    id_column = source.id_column or _find_id(answers, shown)
    if not id_column:
        raise refusal("no id column", sample=sample_path, answers=answers_path)
    for path, table in ((answers_path, answers), (sample_path, shown)):
        if id_column not in table:
            raise refusal("id not there", path=path, name=id_column, columns=", ".join(map(str, table)))
    _check_rows(set(answers[id_column]), set(shown[id_column]), answers_path, sample_path)
    targets = _targets(answers, shown, id_column)
    if not targets:
        raise refusal("sample answers all", path=sample_path)
    largest = sample_path.stat().st_size + sum(_honest_bytes(answers, shown, target) for target in targets)
    _check_size(largest, sample_path)
    is_public = sample_path.is_relative_to(source.public)
    return Tables(
        answers=answers,
        answers_path=answers_path,
        sample=read_table(sample_path),
        sample_name=sample_path.relative_to(source.public).as_posix() if is_public else sample_path.name,
        id_column=id_column,
        targets=targets,
        sample_path=sample_path,
        largest_bytes=max(largest, grading.LARGEST_SUBMISSION),
    )


def _honest_bytes(answers: pd.DataFrame, shown: pd.DataFrame, target: str) -> int:
    """Return how long a column of honest answers may be: a sample of zeros tells nothing of it."""
    texts = [table[target].str.len().sum() for table in (answers, shown) if target in table]
    return int(max(_LONGEST_NUMBER * len(shown), *(2 * length for length in texts)))


def _check_size(size: int, path: Path) -> None:
    if size > LARGEST_SUBMISSION:
        raise refusal("large submission", size=size / 1e6, path=path, most=LARGEST_SUBMISSION / 1e6)


def _targets(answers: pd.DataFrame, shown: pd.DataFrame, id_column: str) -> tuple[str, ...]:
    """Return the columns of the sample that it does not answer rightly itself."""
    truth, given = (table.drop_duplicates(id_column).set_index(id_column) for table in (answers, shown))
    is_wrong = (name not in truth or (given[name] != truth[name][given.index]).any() for name in given)
    return tuple(given.columns[list(is_wrong)])


def _check_parts(source: Competition) -> None:
    for part, folder in (("public", source.public), ("private", source.private)):
        if not folder.is_dir() or not any(folder.iterdir()):
            state = "empty" if folder.is_dir() else "not there"
            raise refusal("data not prepared", part=part, folder=folder, state=state)
    for part, path in (("grader", source.grade), ("description", source.description)):
        if not path.is_file():
            raise refusal("part not there", part=part, path=path)
    if fault := read_grader(source.grade, "grade"):
        raise refusal("grader cannot grade", path=source.grade, fault=fault)


def _check_rows(ids: set[str], shown: set[str], answers_path: Path, sample_path: Path) -> None:
    if ids != shown:
        counts = {"first": len(shown - ids), "second": len(ids - shown)}
        raise refusal("other rows", sample=sample_path, answers=answers_path, **counts)
    if len(ids) < FEWEST_ROWS:
        raise refusal("few answers", path=answers_path, count=len(ids), least=FEWEST_ROWS)


def _one_file(folders: tuple[Path, ...], named: str, what: str) -> Path:
    """Return the table that is named, or the one that must be meant, in the first folder that has one."""
    if named:
        path = next((path for folder in folders if (path := folder / named).is_file()), None)
        if path is None:
            raise refusal("named not there", path=folders[0] / named, what=what)
    else:
        files = [[path for path in sorted(folder.iterdir()) if _may_be(path, what)] for folder in folders]
        tables = next(filter(None, ([path for path in few if path.suffix == ".csv"] for few in files)), [])
        known = [path for path in tables if path.stem in _USUAL[what]] or tables
        if len(known) != 1:
            raise _not_one(folders[0], known, sum(files, []), what)
        path = known[0]
    if path.suffix != ".csv":
        raise refusal("no csv", path=path, kind=_kind(path))
    return path


def _may_be(path: Path, what: str) -> bool:
    is_sample = re.search("sample_?submission", path.name, re.IGNORECASE) is not None
    return path.is_file() and is_sample == (what == "sample") and not path.stem.startswith("gold")


def _kind(path: Path) -> str:
    return path.suffix[1:].upper() or "a file without a suffix"


def _not_one(folder: Path, known: list[Path], others: list[Path], what: str) -> Exception:
    """Return the error of a folder that holds no table or several: other files there may be what is meant."""
    if known or not others:
        found = ", ".join(path.name for path in known) or "none"
        return refusal("not one table", folder=folder, what=what, found=found)
    found = ", ".join(f"{path.name} ({_kind(path)})" for path in others[:3])
    packed = [path for path in others if path.suffix in (".zip", ".7z", ".gz", ".tar")]
    cure = f"unpack {packed[0]}" if packed else "choose a competition with tables: only CSV is read"
    return refusal("no table but others", folder=folder, what=what, found=found, cure=cure)


def read_table(path: Path, *, texts: bool = False, **options: object) -> pd.DataFrame:
    """Return a CSV file as a table, every cell as the text that the file holds where ``texts`` are asked."""
    as_texts = {"dtype": str, "keep_default_na": False} if texts else {}
    try:
        return pd.read_csv(path, **as_texts, **options)
    except (ValueError, OSError) as error:  # pandas' own errors are ValueErrors
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise refusal("table unread", path=path, why=why) from error


def read_public(source: Competition, name: str, **options: object) -> pd.DataFrame:
    """Return ``train.csv`` or ``test.csv`` of the public data, an empty table where there is none."""
    path = source.public / f"{name}.csv"
    return read_table(path, **options) if path.is_file() else pd.DataFrame()


def _find_id(answers: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Return the first column of the sample that names rows, each once in the answers; "" for none."""
    for name in shown:
        if name in answers and answers[name].is_unique and set(shown[name]) == set(answers[name]):
            return name
    return ""


def read_board(source: Competition, greater_is_better: bool | None, best: float | None) -> Leaderboard | None:
    """Return the leaderboard, or None where there is none but direction and best score are given.

    Raises:
        TaskError: It is damaged, or something is not known.
    """
    if source.leaderboard is not None:
        return read_leaderboard(source.leaderboard, greater_is_better=greater_is_better)
    if greater_is_better is None or best is None:
        raise refusal("no leaderboard")
    return None
