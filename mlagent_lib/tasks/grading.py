"""From the bytes of a submission to a score, against labels that no run can read.

The bytes are parsed strictly and never executed, unpickled or imported. What is wrong with the submission
becomes a `SubmissionError` with a fixed class name; what is wrong with our labels becomes `Unscored`, so that
our failure is never the policy's reward.
"""

from __future__ import annotations

import csv
import io
import re
from functools import lru_cache
from pathlib import Path

import numpy as np

from mlagent_lib.core.errors import SubmissionError, Unscored
from mlagent_lib.tasks.metrics import Metric, get_metric
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.task import Task

LABEL_SETS = ("feedback", "report")
LARGEST_SUBMISSION = 8 << 20
ROW_SUM_TOLERANCE = 1e-3
_NUMBER = re.compile(r"[+-]?(\d{1,30}\.?\d{0,30}|\.\d{1,30})([eE][+-]?\d{1,3})?", re.ASCII)

# Every reason a submission can be refused for. Fixed names: a free text could carry a label to the agent.
REASONS = (
    "missing", "empty", "too-large", "nul-byte", "not-utf8", "bad-csv", "header", "row-count", "unknown-id",
    "duplicate-id", "blank", "not-a-number", "out-of-range", "unknown-class", "row-sum", "undefined-score",
    "evaluator-refused", "evaluator-crash", "evaluator-limit",
)  # fmt: skip


def parse_number(field: str) -> float:
    """Return a plain finite decimal number; its class name is the only thing that is told about another.

    Raises:
        SubmissionError: ``not-a-number`` for nan, inf, 1e999, 0x1, 1_0, digits of other scripts, blanks.

    Example:
        >>> parse_number("-1.5e2")
        -150.0
    """
    value = float(field) if _NUMBER.fullmatch(field) else np.inf
    if not np.isfinite(value):
        raise SubmissionError("not-a-number")
    return value


def _text_of(content: bytes, most: int = LARGEST_SUBMISSION) -> str:
    if not content:
        raise SubmissionError("empty")
    if len(content) > most:
        raise SubmissionError("too-large")
    if b"\0" in content:
        raise SubmissionError("nul-byte")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SubmissionError("not-utf8") from None


def parse_table(
    content: bytes, header: tuple[str, ...], most: int | None = None
) -> dict[str, tuple[float, ...]]:
    """Return the numbers of a submission by id, in the order of its lines.

    A byte-order mark and Windows line ends are allowed, since honest tools write them.

    Args:
        header: The columns that must be there, in this order; the first is the id.
        most: Reading stops, with ``row-count``, where there are more rows than this.

    Raises:
        SubmissionError: With one of `REASONS`.

    Example:
        >>> parse_table(b"id,prediction\\n12,0.5\\n", ("id", "prediction"))
        {'12': (0.5,)}
    """
    reader = csv.reader(io.StringIO(_text_of(content), newline=""), strict=True)
    found: dict[str, tuple[float, ...]] = {}
    try:
        if tuple(next(reader, ())) != header:
            raise SubmissionError("header")
        for row in reader:  # one at a time: eight megabytes of empty lines would fill half a gigabyte
            if len(row) != len(header):
                raise SubmissionError("bad-csv")
            if row[0] in found:
                raise SubmissionError("duplicate-id")
            if len(found) == most:
                raise SubmissionError("row-count")
            found[row[0]] = tuple(parse_number(field) for field in row[1:])
    except csv.Error:
        raise SubmissionError("bad-csv") from None
    return found


@lru_cache(maxsize=128)
def _read_labels(path: Path, stamp: tuple) -> tuple[tuple[str, ...], np.ndarray]:
    """Return ids and values of one label file; ``stamp`` changes with the file, so that memory stays true."""
    try:
        header = tuple(path.read_text(encoding="utf-8").split("\n", 1)[0].strip().split(","))
        table = parse_table(path.read_bytes(), header)
    except (OSError, UnicodeDecodeError) as error:
        raise refusal("labels unread", Unscored, path=path, error=type(error).__name__) from error
    except SubmissionError as error:
        raise refusal("labels damaged", Unscored, path=path, why=error.reason) from error
    if header[0] != "id" or not table:
        raise refusal("labels damaged", Unscored, path=path, why="no id column or no rows")
    return tuple(table), np.array(list(table.values()), dtype=float)


def read_labels(task: Task, labels: str) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the n ids and the true values of one hidden label set, shape (n,) or, for several outputs,
    (n, outputs).

    Raises:
        Unscored: The file is missing or damaged: our failure.
    """
    if labels not in LABEL_SETS:
        raise ValueError(f"labels is {labels!r}: choose one of {', '.join(LABEL_SETS)}")
    path = task.labels_dir / f"{labels}.csv"
    try:
        ids, values = _read_labels(path, _stamp(path))
    except OSError as error:
        raise refusal("labels missing", Unscored, path=path) from error
    return ids, values if task.kind == "multioutput" else values[:, 0]


def _stamp(path: Path) -> tuple:
    stat = path.stat()
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


@lru_cache(maxsize=128)
def _read_ids(path: Path, stamp: tuple) -> frozenset[str]:
    """Return the ids of a table of hidden rows; ``stamp`` changes with the file."""
    import pandas as pd  # here: the grader of a foreign task needs none

    return frozenset(pd.read_csv(path, usecols=["id"], dtype=str, keep_default_na=False)["id"])


def hidden_ids(task: Task) -> frozenset[str]:
    """Return the ids that a submission must answer: those of ``env/data/test.csv``, which the agent reads.

    So no label file is opened but the one that is graded on. A folder without such a table has its ids in
    its label files alone.

    Raises:
        Unscored: A label file is missing or damaged.
    """
    path = task.folder / "env" / "data" / "test.csv"
    try:
        return _read_ids(path, _stamp(path))
    except (OSError, ValueError):
        return frozenset(key for name in LABEL_SETS for key in read_labels(task, name)[0])


def header_of(task: Task) -> tuple[str, ...]:
    """Return the columns that a submission must have, in this order."""
    return ("id", *task.answer_columns)


def _check_values(task: Task, metric: Metric, values: np.ndarray) -> None:
    """Refuse numbers that the metric cannot take; ``values`` has shape (n, columns)."""
    if metric.answer in ("class", "guesses", "rating"):
        if not np.isin(values, np.asarray(task.classes, dtype=float)).all():
            raise SubmissionError("unknown-class")
    elif metric.answer == "probability":
        if values.min() < 0 or values.max() > 1:
            raise SubmissionError("out-of-range")
        # AUC ranks each column by itself; only a logarithm needs rows that are distributions.
        sums_matter = metric.name == "logloss" and values.shape[1] > 1
        if sums_matter and np.abs(values.sum(axis=1) - 1).max() > ROW_SUM_TOLERANCE:
            raise SubmissionError("row-sum")
    elif metric.name in ("rmsle", "rmsle-columns") and values.min() < 0:
        raise SubmissionError("out-of-range")


def gold_answer(task: Task, truth: np.ndarray) -> np.ndarray:
    """Return the answer that scores best possible, shape (n, columns), for true values of `read_labels`."""
    metric = get_metric(task.metric)
    if metric.answer == "probability" and len(task.answer_columns) > 1:
        return (truth[:, None] == np.asarray(task.classes)[None, :]).astype(float)
    if metric.answer == "guesses":
        others = np.asarray(task.classes, dtype=float)
        return np.array([[label, *others[others != label][:4]] for label in truth])
    return truth.reshape(len(truth), -1).astype(float)


def score_answer(task: Task, truth: np.ndarray, answer: np.ndarray) -> float:
    """Return the finite score of answers of shape (n, columns).

    Raises:
        ValueError: The metric is undefined for these numbers.
    """
    flat = answer[:, 0] if answer.shape[1] == 1 and task.kind != "multioutput" else answer
    with np.errstate(all="ignore"):
        score = get_metric(task.metric).score(truth, flat)
    if not np.isfinite(score):
        raise ValueError(f"{task.metric} is not finite")
    return score


def largest_submission(task: Task) -> int:
    """Return the bytes above which a submission is refused unread."""
    return task.grader.largest_bytes if task.grader else LARGEST_SUBMISSION


def grade(
    task: Task, submission: bytes | None, labels: str = "feedback", *, control: bytes | None = None
) -> float:
    """Return the score of a submission on one hidden label set, in the unit of the task's metric.

    The submission must answer the ids of both label sets, so that a script cannot tell them apart. Labels of
    the other set are not read.

    Args:
        task: Whose labels and metric, or foreign grader, are used.
        submission: Bytes of ``submission.csv``, read once after the run was over; None where there is none.
        labels: ``feedback`` (scores every step) or ``report`` (the final evaluation only).
        control: A submission of this task that was scored before, if one is known: a foreign grader that no
            longer accepts it is at fault itself (see `ForeignGrader.judge`).

    Raises:
        SubmissionError: A fault of the script, with one of `REASONS`.
        Unscored: A fault of ours.
    """
    if not submission:
        raise SubmissionError("missing" if submission is None else "empty")
    if task.grader is not None:
        _text_of(submission, task.grader.largest_bytes)
        return task.grader.judge(submission, labels, control=control)
    try:
        metric = get_metric(task.metric)
        ids, truth = read_labels(task, labels)
        known = hidden_ids(task)
        if not known.issuperset(ids):
            raise ValueError("data/test.csv lacks some of their ids")
        score_answer(task, truth, gold_answer(task, truth))
    except ValueError as error:
        raise refusal("labels unscored", Unscored, task=task, labels=labels, error=error) from error
    table = parse_table(submission, header_of(task), len(known))
    if len(table) != len(known):
        raise SubmissionError("row-count")
    if known != table.keys():
        raise SubmissionError("unknown-id")
    _check_values(task, metric, np.array(list(table.values()), dtype=float))
    try:
        return score_answer(task, truth, np.array([table[key] for key in ids], dtype=float))
    except ValueError:
        raise SubmissionError("undefined-score") from None
