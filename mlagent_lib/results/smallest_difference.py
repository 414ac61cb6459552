"""What short arms and few seeds cost in certainty: how large a difference between two arms has to be.

Computed from the spread of the differences that were measured, seed by seed. Without normality nothing is
exact at three seeds; the numbers say of which size a question can be answered here, not what the answer is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import pandas as pd
from scipy.stats import t

from mlagent_lib.results.style import number

# name and split of each measure
MEASURES = {"gap": ("gap closed, all tasks", "all"), "reward": ("reward of a single step", "held-in")}


@dataclass(frozen=True)
class SmallestDifference:
    """How finely a measure tells arms apart, from so many pairs of arms (``contrasts``).

    ``half_width`` is the median of their 95 % intervals', ``between_seeds`` the standard deviation of a
    pair's difference between seeds (root of the mean square over pairs).
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
            f"{MEASURES[self.measure][0]}: two arms differ between seeds by a standard deviation of "
            f"{number(self.between_seeds)} ({self.contrasts} pairs of arms; median half width of their "
            f"intervals {number(self.half_width)}); a t interval tells a difference from zero above {apart}"
        )


def smallest_differences(contrasts: pd.DataFrame) -> list[SmallestDifference]:
    """Return how finely each measure tells arms apart, from an `evaluation.difference_table`.

    Measures without two seeds are left out.
    """
    found = []
    for measure, (_, split) in MEASURES.items():
        rows = contrasts[(contrasts["measure"] == measure) & (contrasts["split"] == split)]
        each = [np.array(words.split(), dtype=float) for words in rows["by_seed"]]
        spread = [np.var(values, ddof=1) for values in each if len(values) > 1]
        if spread:
            half = float(((rows["high"] - rows["low"]) / 2.0).median())
            found.append(SmallestDifference(measure, len(rows), half, float(np.sqrt(np.mean(spread)))))
    return found
