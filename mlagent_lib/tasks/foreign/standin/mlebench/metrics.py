"""Metrics that several graders share."""

from collections.abc import Collection, Sequence

import numpy as np


def average_precision_at_k(actual: Collection, predicted: Sequence, k: int) -> float:
    """Return AP@k: the mean precision at the places of the first ``k`` guesses that are right.

    The best guess stands first; one that repeats an earlier one counts as wrong.

    Example:
        Right at the first and third place, two right answers: (1/1 + 2/3) / 2.

        >>> round(average_precision_at_k({"a", "b"}, ["a", "x", "b"], k=5), 4)
        0.8333
    """
    if not actual:
        return 0.0
    guesses, hits, total = list(predicted)[:k], 0, 0.0
    for place, guess in enumerate(guesses, start=1):
        if guess in actual and guess not in guesses[: place - 1]:
            hits += 1
            total += hits / place
    return total / min(len(actual), k)


def mean_average_precision_at_k(actual: Sequence[Collection], predicted: Sequence[Sequence], k: int) -> float:
    """Return MAP@k, the mean of AP@k over the rows.

    Example:
        >>> mean_average_precision_at_k([{"a"}, {"b"}], [["a", "b"], ["a", "b"]], k=5)
        0.75
    """
    pairs = zip(actual, predicted, strict=False)  # as in MLE-bench: a grader checks the lengths itself
    return float(np.mean([average_precision_at_k(right, guesses, k) for right, guesses in pairs]))


def dice_coefficient(
    predicted_mask: np.ndarray, true_mask: np.ndarray, both_empty_value: float = np.nan
) -> float:
    """Return twice the common area of two masks (1 or True, of one shape) over the sum of their areas.

    Example:
        One common pixel, areas 2 and 1:

        >>> round(dice_coefficient(np.array([1, 1, 0]), np.array([1, 0, 0])), 4)
        0.6667
    """
    assert predicted_mask.shape == true_mask.shape, f"shapes {predicted_mask.shape} and {true_mask.shape}"
    area = np.sum(predicted_mask) + np.sum(true_mask)
    return both_empty_value if area == 0 else float(2 * np.sum(predicted_mask * true_mask) / area)
