"""Judges whether a metric fits the answers, and turns the answers into the numbers that are graded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlagent_lib.core.errors import TaskError
from mlagent_lib.tasks.metrics import METRICS, get_metric
from mlagent_lib.tasks.own.cells import are_words, dates_in, is_too_large, read_numbers, stated_size
from mlagent_lib.tasks.own.spec import closest, refusal

MOST_CLASSES = 50
MOST_RATINGS = 50
# A fifth of the rows is hidden for feedback and a fifth for the report, and a quarter of the rest validates:
# of ten rows each of these gets at least one, and the fit more than the three folds of a calibration.
FEWEST_OF_CLASS = 10
GUESSES = 5  # of map@5
BINS = 5

_NUMBERS = "for numbers choose rmse, mae, rmsle or pearson"
_CLASSES = "for classes choose accuracy or logloss, for two classes also auc"


@dataclass(frozen=True)
class Target:
    """The answers, ready to be graded.

    Attributes:
        values: (n,) numbers as graded: class numbers 0..k-1, ratings, or the numbers themselves.
        kind: What the frame asks of the learner.
        classes: Numbers that an answer may name; empty for free numbers.
        meaning: A sentence on what the answer is.
        strata: (n,) whole numbers: each split gets its share of each.
    """

    values: np.ndarray
    kind: str
    classes: list[int]
    meaning: str
    strata: np.ndarray

    @property
    def is_classes(self) -> bool:
        """Return whether the answers are classes."""
        return self.kind in ("label", "probability", "rank")


def check_metric(name: str) -> None:
    """Refuse a metric that is unknown, or that needs more than one target column.

    Raises:
        TaskError: Names the closest metric and all of them.
    """
    known = [found for found in METRICS if found != "mcrmse"]
    if name == "mcrmse":
        raise refusal("mcrmse")
    if name not in METRICS:
        raise refusal("unknown metric", name=name, near=closest(name, known), known=", ".join(known))


def judge_target(column: pd.Series, metric: str) -> Target:
    """Return the answers as they are graded by this metric.

    Raises:
        TaskError: Answers are missing or all equal, or the metric does not fit them.

    Example:
        >>> found = judge_target(pd.Series(["no", "yes"] * 10, name="left"), "auc")
        >>> found.values[:3].tolist(), found.meaning
        ([0.0, 1.0, 0.0], "The answer is the probability that left is 'yes' (1) and not 'no' (0).")
    """
    check_metric(metric)
    missing = column.isna()
    if missing.any():
        raise refusal("empty answer", column=column.name, count=int(missing.sum()), row=_row(missing))
    if column.nunique() == 1:
        raise refusal("one answer", column=column.name, shown=_shown(column.iloc[0]))
    of_classes = get_metric(metric).answer in ("class", "probability", "guesses")
    if are_words(column) and (column.nunique() > MOST_CLASSES or not of_classes):
        found = dates_in(column)
        if found:
            raise TaskError(f"target {column.name!r} holds {found[0]}", cure=found[1])
    if of_classes:
        return _classes(column, metric)
    return _ratings(_numbers(column, metric)) if metric == "qwk" else _free(_numbers(column, metric), metric)


def _row(flags: pd.Series) -> int:
    """Return the number of the first flagged row, counted from 1 without the line of names."""
    return int(flags.to_numpy().argmax()) + 1


def _shown(value: object) -> str:
    """Return a value as it stood in the file."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return repr(value) if isinstance(value, str) else str(value)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def _classes(column: pd.Series, metric: str) -> Target:
    name, names = column.name, sorted(column.unique())
    fractions = _is_number(column) and (column % 1 != 0).any()
    if len(names) > MOST_CLASSES or (fractions and len(names) > BINS):
        kind = "numbers, not classes" if _is_number(column) else f"more than {MOST_CLASSES} classes"
        raise TaskError(
            f"{metric} needs classes, but target {name!r} has {len(names)} different values such as "
            f"{_shown(names[0])} and {_shown(names[1])}: {kind}",
            cure=_NUMBERS if _is_number(column) else "join rare classes, or choose another target",
        )
    if metric == "auc" and len(names) != 2:
        raise refusal("auc of many", name=name, count=len(names))
    if metric == "map@5" and len(names) < GUESSES:
        raise refusal("map@5 of few", name=name, count=len(names))
    counts = column.value_counts()
    if counts.min() < FEWEST_OF_CLASS:
        rare = [found for found in names if counts[found] < FEWEST_OF_CLASS]
        raise TaskError(
            f"class {_shown(rare[0])} of target {name!r} has {counts[rare[0]]} rows"
            + (f" ({len(rare)} classes are as rare)" if len(rare) > 1 else "")
            + f", each class needs {FEWEST_OF_CLASS}: to fit, to validate, for feedback and for the report",
            cure="add rows of it" + ("" if len(names) == 2 else ", join rare classes, or remove them"),
        )
    codes = column.map({found: code for code, found in enumerate(names)}).to_numpy(float)
    said = [f"{_shown(found)} ({code})" for code, found in enumerate(names)]
    if metric == "map@5":
        meaning = (
            f"The answer is the five likeliest values of {name}, the likeliest first: {', '.join(said)}."
        )
    elif metric == "accuracy":
        meaning = f"The answer is {name}: {', '.join(said[:-1])} or {said[-1]}."
    elif len(names) == 2:
        meaning = f"The answer is the probability that {name} is {said[1]} and not {said[0]}."
    else:
        meaning = f"The answer is the probability of each value of {name}: {', '.join(said)}."
    kind = {"accuracy": "label", "map@5": "rank"}.get(metric, "probability")
    return Target(codes, kind, list(range(len(names))), meaning, codes.astype(int))


def _numbers(column: pd.Series, metric: str) -> pd.Series:
    """Return the answers as finite numbers."""
    if not _is_number(column):
        words = read_numbers(column.astype(str))[0].isna() & are_words(column)
        raise TaskError(
            f"{metric} needs numbers, but target {column.name!r} is {_shown(column[words].iloc[0])} in row "
            f"{_row(words)}"
            if words.any()
            else f"{metric} needs numbers, target {column.name!r} is true or false",
            cure=_CLASSES
            if words.mean() > 0.5 or not words.any()
            else "write a number there as in the other rows, or remove the row",
        )
    numbers = column.astype(float)
    infinite = is_too_large(numbers)
    if infinite.any():
        size = stated_size(numbers[infinite].iloc[0])
        raise refusal("large answer", column=column.name, size=size, row=_row(infinite))
    return numbers


def _ratings(numbers: pd.Series) -> Target:
    broken = numbers % 1 != 0
    if broken.any():
        shown = _shown(numbers[broken].iloc[0])
        raise refusal("broken rating", name=numbers.name, shown=shown, row=_row(broken))
    low, high = int(numbers.min()), int(numbers.max())
    if high - low >= MOST_RATINGS:
        raise refusal("many ratings", name=numbers.name, low=low, high=high, most=MOST_RATINGS)
    meaning = f"The answer is the rating {numbers.name}, a whole number from {low} to {high}."
    values = numbers.to_numpy()
    return Target(values, "regression", list(range(low, high + 1)), meaning, (values - low).astype(int))


def _free(numbers: pd.Series, metric: str) -> Target:
    negative = numbers < 0
    if metric == "rmsle" and negative.any():
        shown = _shown(numbers[negative].iloc[0])
        raise refusal("negative answer", name=numbers.name, shown=shown, row=_row(negative))
    order = numbers.rank(method="min").to_numpy() - 1  # what is left of many equal numbers is shared out too
    strata = (order * BINS // len(order)).astype(int)
    meaning = f"The answer is the number {numbers.name}."
    return Target(numbers.to_numpy(), "regression", [], meaning, strata)
