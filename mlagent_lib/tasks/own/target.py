"""Judges whether a metric fits the answers, and turns the answers into the numbers that are graded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlagent_lib.tasks.metrics import METRICS, get_metric
from mlagent_lib.tasks.own.cells import are_words, dates_in, first_row, read_numbers, refuse_too_large
from mlagent_lib.tasks.own.spec import closest
from mlagent_lib.tasks.refusals import refusal

MOST_CLASSES = 50
MOST_RATINGS = 50
# A fifth of the rows is hidden for feedback and a fifth for the report, and a quarter of the rest validates:
# of ten rows each of these gets at least one, and the fit more than the three folds of a calibration.
FEWEST_OF_CLASS = 10
GUESSES = 5  # of map@5
BINS = 5

_MEANINGS = {
    "rank": "The answer is the five likeliest values of {name}, the likeliest first: {all}.",
    "label": "The answer is {name}: {first} or {last}.",
    "binary": "The answer is the probability that {name} is {last} and not {first}.",
    "probability": "The answer is the probability of each value of {name}: {all}.",
}


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
    if (missing := column.isna()).any():
        raise refusal("empty answer", column=column.name, count=missing.sum(), row=first_row(missing))
    if column.nunique() == 1:
        raise refusal("one answer", column=column.name, shown=_shown(column.iloc[0]))
    of_classes = get_metric(metric).answer in ("class", "probability", "guesses")
    if are_words(column) and (column.nunique() > MOST_CLASSES or not of_classes):
        found = dates_in(column)
        if found:
            raise refusal("dates as answers", name=column.name, found=found)
    if of_classes:
        return _classes(column, metric)
    return _ratings(_numbers(column, metric)) if metric == "qwk" else _free(_numbers(column, metric), metric)


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
        shown = f"{len(names)} different values such as {_shown(names[0])} and {_shown(names[1])}"
        reason = "numbers for classes" if _is_number(column) else "many classes"
        raise refusal(reason, metric=metric, name=name, shown=shown, most=MOST_CLASSES)
    if metric == "auc" and len(names) != 2:
        raise refusal("auc of many", name=name, count=len(names))
    if metric == "map@5" and len(names) < GUESSES:
        raise refusal("map@5 of few", name=name, count=len(names))
    counts = column.value_counts()
    if counts.min() < FEWEST_OF_CLASS:
        rare = [found for found in names if counts[found] < FEWEST_OF_CLASS]
        told = {"shown": _shown(rare[0]), "count": counts[rare[0]], "least": FEWEST_OF_CLASS}
        told["others"] = f" ({len(rare)} classes are as rare)" if len(rare) > 1 else ""
        told["or_else"] = "" if len(names) == 2 else ", join rare classes, or remove them"
        raise refusal("rare answer", name=name, **told)
    codes = column.map({found: code for code, found in enumerate(names)}).to_numpy(float)
    said = [f"{_shown(found)} ({code})" for code, found in enumerate(names)]
    kind = {"accuracy": "label", "map@5": "rank"}.get(metric, "probability")
    meaning = _MEANINGS["binary" if kind == "probability" and len(names) == 2 else kind]
    meaning = meaning.format(name=name, all=", ".join(said), first=", ".join(said[:-1]), last=said[-1])
    return Target(codes, kind, list(range(len(names))), meaning, codes.astype(int))


def _numbers(column: pd.Series, metric: str) -> pd.Series:
    """Return the answers as finite numbers."""
    if not _is_number(column):
        words = read_numbers(column.astype(str))[0].isna() & are_words(column)
        if not words.any():
            raise refusal("true or false", metric=metric, name=column.name)
        reason = "words for numbers" if words.mean() > 0.5 else "a word for a number"
        shown = _shown(column[words].iloc[0])
        raise refusal(reason, metric=metric, name=column.name, shown=shown, row=first_row(words))
    numbers = column.astype(float)
    refuse_too_large(numbers, "large answer")
    return numbers


def _ratings(numbers: pd.Series) -> Target:
    if (broken := numbers % 1 != 0).any():
        shown = _shown(numbers[broken].iloc[0])
        raise refusal("broken rating", name=numbers.name, shown=shown, row=first_row(broken))
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
        raise refusal("negative answer", name=numbers.name, shown=shown, row=first_row(negative))
    order = numbers.rank(method="min").to_numpy() - 1  # what is left of many equal numbers is shared out too
    strata = (order * BINS // len(order)).astype(int)
    return Target(numbers.to_numpy(), "regression", [], f"The answer is the number {numbers.name}.", strata)
