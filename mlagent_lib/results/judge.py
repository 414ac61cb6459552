"""The one judge of runs, arms, README and notebooks: from an interval and its seeds to a verdict."""

from __future__ import annotations

from collections.abc import Sequence

FEWEST_SEEDS = 3  # "at least 3 seeds an arm"
REPRODUCED = "reproduced at this scale"
UNCLEAR = "not reproduced: no clear difference"
OPPOSITE = "not reproduced: the opposite"
NOT_TESTABLE = "not testable here"
TOO_FEW = "not decided: too few seeds"


def judge(low: float, high: float, by_seed: Sequence[float]) -> str:
    """Return the verdict on a difference that a claim says to be positive.

    It is *reproduced at this scale* where the interval lies above zero and every seed agrees; *the opposite*
    where both say so on the other side; else there is *no clear difference*. With few seeds a bootstrap over
    seeds is too narrow, which is why the seeds have to agree too; with fewer than `FEWEST_SEEDS` nothing is
    decided. ``low`` and ``high`` are the ends of the interval, ``by_seed`` the difference in each seed.

    Example:
        >>> judge(0.1, 0.4, [0.2, 0.3, 0.1]), judge(0.1, 0.4, [0.6, 0.3, -0.1])
        ('reproduced at this scale', 'not reproduced: no clear difference')
        >>> judge(0.1, 0.4, [0.2])
        'not decided: too few seeds'
    """
    if len(by_seed) < FEWEST_SEEDS:
        return TOO_FEW
    if low > 0 and all(value > 0 for value in by_seed):
        return REPRODUCED
    if high < 0 and all(value < 0 for value in by_seed):
        return OPPOSITE
    return UNCLEAR
