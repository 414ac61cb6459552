"""The metrics of the tasks, in numpy alone, each with the direction that is better.

The grader uses these functions and no library, so that a script which patches a library changes no score.
Every function refuses inputs that are not finite and answers with a finite number, or raises `ValueError`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

SMALLEST_PROBABILITY = 1e-15


def _finite(*arrays) -> list[np.ndarray]:
    """Return the arrays as floats of one common number of rows; raise `ValueError` otherwise."""
    found = [np.asarray(array, dtype=float) for array in arrays]
    for array in found:
        if array.ndim == 0 or len(array) == 0:
            raise ValueError(f"a metric needs at least one row, not an array of shape {array.shape}")
        if len(array) != len(found[0]):
            raise ValueError(f"truth has {len(found[0])} rows, prediction has {len(array)}")
        if not np.isfinite(array).all():
            raise ValueError("a metric needs finite numbers, found nan or infinity")
    return found


def _same_shape(truth, prediction) -> list[np.ndarray]:
    truth, prediction = _finite(truth, prediction)
    if truth.shape != prediction.shape:
        raise ValueError(f"truth has shape {truth.shape}, prediction has {prediction.shape}")
    return [truth, prediction]


def _tables(truth, prediction) -> list[np.ndarray]:
    truth, prediction = _same_shape(truth, prediction)
    if truth.ndim != 2:
        raise ValueError(f"a mean over columns needs a table of (rows, columns), not shape {truth.shape}")
    return [truth, prediction]


def _logarithms(truth, prediction) -> list[np.ndarray]:
    truth, prediction = _same_shape(truth, prediction)
    if min(truth.min(), prediction.min()) < 0:
        raise ValueError("RMSLE needs numbers that are not negative")
    return [np.log1p(truth), np.log1p(prediction)]


def accuracy(truth, prediction) -> float:
    """Return the share of the n rows whose class is right.

    Example:
        >>> accuracy([0, 1, 2, 2], [0, 1, 1, 2])
        0.75
    """
    truth, prediction = _same_shape(truth, prediction)
    return float(np.mean(truth == prediction))


def _binary_auc(positive: np.ndarray, score: np.ndarray) -> float:
    """Return the chance that a positive row outranks a negative one; ties count half (Mann-Whitney)."""
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if not n_positive or not n_negative:
        raise ValueError("the area under the ROC curve needs rows of both classes")
    _, inverse, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def auc(truth, prediction) -> float:
    """Return the area under the ROC curve, averaged over the classes (one against the rest).

    Classes are numbers 0..k-1; predicted is the score of class 1, shape (n,), or of all classes, (n, k).

    Raises:
        ValueError: A class has no row in ``truth``.

    Example:
        Of the four pairs (negative, positive) one is in the wrong order:

        >>> auc([0, 0, 1, 1], [0.1, 0.4, 0.3, 0.8])
        0.75
    """
    truth, prediction = _finite(truth, prediction)
    if prediction.ndim == 1:
        return _binary_auc(truth == 1, prediction)
    return float(np.mean([_binary_auc(truth == k, prediction[:, k]) for k in range(prediction.shape[1])]))


def logloss(truth, prediction) -> float:
    """Return the mean negative log-probability of the true class.

    Probabilities, shaped as for `auc`, are clipped to 1e-15 and the rows of several classes normalised first,
    as Kaggle does.

    Example:
        Two rows, the true class at 1/2 and at 1/4: (ln 2 + ln 4) / 2 = 1.5 ln 2.

        >>> float(round(logloss([1, 0], [0.5, 0.75]) / np.log(2), 6))
        1.5
    """
    truth, prediction = _finite(truth, prediction)
    if prediction.ndim == 1:
        prediction = np.column_stack([1 - prediction, prediction])
    chosen = truth.astype(int)
    if (chosen != truth).any() or chosen.min() < 0 or chosen.max() >= prediction.shape[1]:
        raise ValueError(f"classes must be whole numbers from 0 to {prediction.shape[1] - 1}")
    clipped = np.clip(prediction, SMALLEST_PROBABILITY, 1)
    clipped = clipped / clipped.sum(axis=1, keepdims=True)
    return float(-np.mean(np.log(clipped[np.arange(len(chosen)), chosen])))


def mae(truth, prediction) -> float:
    """Return the mean absolute error, in the unit of the target.

    Example:
        >>> mae([10, 20], [12, 19])
        1.5
    """
    truth, prediction = _same_shape(truth, prediction)
    return float(np.mean(np.abs(truth - prediction)))


def rmse(truth, prediction) -> float:
    """Return the root of the mean squared error over all numbers, in the unit of the target.

    Example:
        >>> rmse([[0, 0], [0, 0]], [[2, 2], [2, 2]])
        2.0
    """
    truth, prediction = _same_shape(truth, prediction)
    return float(np.sqrt(np.mean((truth - prediction) ** 2)))


def rmsle(truth, prediction) -> float:
    """Return the root mean squared error of log(1 + x).

    Raises:
        ValueError: A number is negative.

    Example:
        >>> round(rmsle([0.0], [np.e - 1]), 6)
        1.0
    """
    return rmse(*_logarithms(truth, prediction))


def mcrmse(truth, prediction) -> float:
    """Return the mean over the columns, shape (n, outputs), of each column's root mean squared error.

    Example:
        Column errors 1 and 3:

        >>> mcrmse([[0, 0], [0, 0]], [[1, 3], [-1, 3]])
        2.0
    """
    truth, prediction = _tables(truth, prediction)
    return float(np.mean(np.sqrt(np.mean((truth - prediction) ** 2, axis=0))))


def rmsle_columns(truth, prediction) -> float:
    """Return the mean over the columns of each column's RMSLE, as in the competition nomad2018.

    Raises:
        ValueError: A number is negative.

    Example:
        Column errors 0 and 1:

        >>> round(rmsle_columns([[3.0, 0.0]], [[3.0, np.e - 1]]), 6)
        0.5
    """
    return mcrmse(*_logarithms(truth, prediction))


def auc_columns(truth, prediction) -> float:
    """Return the mean over the columns of each column's area under the ROC curve, for several labels a row.

    True are zeros and ones, predicted are scores; only their order in a column counts.

    Raises:
        ValueError: A column of ``truth`` has only one class.

    Example:
        The first column is in order, the second in the wrong one:

        >>> auc_columns([[0, 0], [1, 1]], [[0.1, 0.9], [0.2, 0.3]])
        0.5
    """
    truth, prediction = _tables(truth, prediction)
    return float(np.mean([_binary_auc(truth[:, k] == 1, prediction[:, k]) for k in range(truth.shape[1])]))


def map_at_5(truth, prediction) -> float:
    """Return the mean of 1 / (position of the first right guess), 0 where none of five is right.

    With one true class for each row, and guesses of shape (n, 5) with the best first, this is Kaggle's MAP@5.

    Example:
        Right at the first place, right at the second, not at all: (1 + 1/2 + 0) / 3.

        >>> map_at_5([7, 7, 7], [[7, 1, 2, 3, 4], [1, 7, 2, 3, 4], [1, 2, 3, 4, 5]])
        0.5
    """
    truth, prediction = _finite(truth, prediction)
    if prediction.ndim != 2 or prediction.shape[1] != 5:
        raise ValueError(f"MAP@5 needs five guesses for each row, not shape {prediction.shape}")
    hits = prediction == truth[:, None]
    return float(np.mean(np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0.0)))


def qwk(truth, prediction) -> float:
    """Return Cohen's kappa of whole numbers with quadratic weights: 1 is full agreement, 0 is chance.

    Raises:
        ValueError: Both raters always give one and the same rating, so that kappa is 0/0.

    Example:
        Disagreement 1 where independent raters with these margins would have 2:

        >>> qwk([1, 1, 3, 3], [1, 3, 3, 3])
        0.5
    """
    truth, prediction = _same_shape(truth, prediction)
    if (truth != np.round(truth)).any() or (prediction != np.round(prediction)).any():
        raise ValueError("quadratic weighted kappa needs whole numbers")
    expected = np.mean((truth[:, None] - prediction[None, :]) ** 2)
    if expected == 0:
        raise ValueError("quadratic weighted kappa is undefined where all ratings are the same")
    return float(1 - np.mean((truth - prediction) ** 2) / expected)


def pearson(truth, prediction) -> float:
    """Return Pearson's correlation coefficient.

    Raises:
        ValueError: One of the two is constant, so that the coefficient is 0/0.

    Example:
        >>> round(pearson([1, 2, 3], [2, 4, 6]), 6), round(pearson([1, 2, 3], [3, 2, 1]), 6)
        (1.0, -1.0)
    """
    truth, prediction = _same_shape(truth, prediction)
    if np.ptp(truth) == 0 or np.ptp(prediction) == 0:
        raise ValueError("correlation is undefined where all numbers are the same")
    # Scaling to [0, 1] first keeps very large numbers from overflowing in the squares.
    a = (truth - truth.min()) / np.ptp(truth)
    b = (prediction - prediction.min()) / np.ptp(prediction)
    a, b = a - a.mean(), b - b.mean()
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1))


@dataclass(frozen=True)
class Metric:
    """A metric and what the grader has to know about it.

    Attributes:
        name: As in ``task.yaml``.
        greater_is_better: The direction.
        score: From (truth, prediction) to one finite float.
        answer: Form of the prediction: ``class``, ``probability``, ``guesses``, ``number`` or ``rating``.
        perfect: The score of the true answer.
    """

    name: str
    greater_is_better: bool
    score: Callable[..., float]
    answer: str
    perfect: float


METRICS = {
    name: Metric(name, greater_is_better, score, answer, 1.0 if greater_is_better else 0.0)
    for name, greater_is_better, score, answer in (
        ("accuracy", True, accuracy, "class"),
        ("auc", True, auc, "probability"),
        ("logloss", False, logloss, "probability"),
        ("mae", False, mae, "number"),
        ("rmse", False, rmse, "number"),
        ("rmsle", False, rmsle, "number"),
        ("mcrmse", False, mcrmse, "number"),
        ("rmsle-columns", False, rmsle_columns, "number"),
        ("auc-columns", True, auc_columns, "number"),
        ("map@5", True, map_at_5, "guesses"),
        ("qwk", True, qwk, "rating"),
        ("pearson", True, pearson, "number"),
    )
}


def get_metric(name: str) -> Metric:
    """Return the metric of this name.

    Raises:
        ValueError: The name is unknown.

    Example:
        >>> get_metric("logloss").greater_is_better
        False
    """
    if name not in METRICS:
        raise ValueError(f"metric {name!r} is unknown: choose one of {', '.join(METRICS)}")
    return METRICS[name]
