"""What short arms and few seeds cost in certainty: how large a difference between two arms has to be.

Computed from the spread of the differences that were measured, seed by seed. Without normality nothing is
exact at three seeds; the numbers say of which size a question can be answered here, not what the answer is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd
from scipy.stats import t

from mlagent_lib.results.style import number

NAMES = {"gap": "gap closed, all tasks", "reward": "reward of a single step"}
SPLIT = {"gap": "all", "reward": "held-in"}


@dataclass(frozen=True)
class SmallestDifference:
    """How finely a measure tells arms apart.

    Attributes:
        measure: ``gap`` or ``reward``.
        contrasts: How many pairs of arms it is computed from.
        half_width: Median half width of their 95 % intervals.
        between_seeds: Standard deviation of a pair's difference between seeds, root of the mean square over
            pairs.
    """

    measure: str
    contrasts: int
    half_width: float
    between_seeds: float

    def told_apart(self, seeds: int) -> float:
        """Return the smallest mean difference that a 95 % t interval over these many seeds tells from zero.

        Example:
            >>> round(SmallestDifference("gap", 1, 0.2, 0.1).told_apart(3), 3)  # 4.303 * 0.1 / sqrt(3)
            0.248
        """
        return float(t.ppf(0.975, seeds - 1)) * self.between_seeds / sqrt(seeds)

    def __str__(self) -> str:
        apart = ", ".join(f"{number(self.told_apart(seeds))} with {seeds} seeds" for seeds in (3, 5, 10))
        return (
            f"{NAMES[self.measure]}: two arms differ between seeds by a standard deviation of "
            f"{number(self.between_seeds)} ({self.contrasts} pairs of arms; median half width of their "
            f"intervals {number(self.half_width)}); a t interval tells a difference from zero above {apart}"
        )


def smallest_differences(
    contrasts: pd.DataFrame, measures: Sequence[str] = tuple(NAMES)
) -> list[SmallestDifference]:
    """Return how finely each measure tells arms apart; measures without two seeds are left out.

    Args:
        contrasts: Of `arms.contrast_table`.
        measures: ``gap``, ``reward``.
    """
    found = []
    for measure in measures:
        rows = contrasts[(contrasts["measure"] == measure) & (contrasts["split"] == SPLIT[measure])]
        each = [[float(word) for word in words.split()] for words in rows["by_seed"]]
        spread = [np.var(values, ddof=1) for values in each if len(values) > 1]
        if spread:
            half = float(((rows["high"] - rows["low"]) / 2.0).median())
            found.append(SmallestDifference(measure, len(rows), half, float(np.sqrt(np.mean(spread)))))
    return found
