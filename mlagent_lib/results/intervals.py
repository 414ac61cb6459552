"""Bootstrap intervals of a mean over tasks, with the tasks fixed and trajectories and seeds resampled.

The tasks are the suite itself, not a sample of some larger population, so they are never resampled: an
interval speaks about *these* tasks. What varies from run to run is resampled: trajectories within a task, and
the seeds of the whole pipeline when there are several. With one seed an interval says nothing about how much
another training run would differ; `Interval.seeds` keeps that visible. With two or three seeds the percentile
bootstrap is too narrow, which no resampling can cure.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import comb, isfinite, nan

import numpy as np
import pandas as pd

from mlagent_lib.core.seeding import rng

__all__ = ["Interval", "best_of", "bootstrap_mean", "paired_difference"]

Statistic = Callable[[np.ndarray], np.ndarray]
Cells = list[list[np.ndarray]]  # [seed][task] -> values of the trajectories
LEVEL = 0.95  # nominal coverage of every interval here


@dataclass(frozen=True)
class Interval:
    """A mean over tasks of the mean over seeds, with its bootstrap interval.

    ``low`` and ``high`` are NaN where nothing could be resampled (one seed and one trajectory per task).
    ``n`` values of ``tasks`` and ``seeds`` entered; ``excluded`` rows were never scored.

    Example:
        >>> print(Interval(0.25, 0.1, 0.4, n=36, tasks=9, seeds=1, excluded=0))
        0.25 [0.10, 0.40]
    """

    value: float
    low: float
    high: float
    n: int
    tasks: int
    seeds: int
    excluded: int
    level: float = LEVEL

    def __str__(self) -> str:
        if not isfinite(self.low):
            return f"{self.value:.2f} [no interval: one value per task]"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"

    @property
    def verdict(self) -> str:
        """Return ``above``, ``below`` or ``includes`` zero, or ``unknown`` without an interval."""
        if not isfinite(self.low):
            return "unknown"
        return "above" if self.low > 0 else "below" if self.high < 0 else "includes"


def _mean(values: np.ndarray) -> np.ndarray:
    return values.mean(axis=1)


def best_of(k: int) -> Statistic:
    """Return the statistic "expected best of ``k`` values drawn without replacement" over axis 1.

    With ``n`` values the i-th smallest is the best of a random k-subset with probability
    ``C(i-1, k-1) / C(n, k)``: no luck of the draw enters, and ``k = n`` is the plain maximum.

    Example:
        Best of 2 out of 1, 2, 3: subsets {1,2}, {1,3}, {2,3} have best 2, 3, 3.

        >>> round(float(best_of(2)(np.array([[1.0, 2.0, 3.0]]))[0]), 4)
        2.6667
    """

    def statistic(values: np.ndarray) -> np.ndarray:
        n = values.shape[1]
        if not 1 <= k <= n:
            raise ValueError(f"k must lie between 1 and the number of values ({n}), not {k}")
        weights = np.array([comb(i, k - 1) for i in range(n)], dtype=float) / comb(n, k)
        # no matrix product: its last digit depends on the processor, and tables are compared byte for byte
        return (np.sort(values, axis=1) * weights).sum(axis=1)

    return statistic


def _draw(cells: Cells, chosen: np.ndarray, statistic: Statistic, generator) -> np.ndarray:
    """Return (draws, tasks) means over the resampled seeds of resampled trajectories; NaN where none fell."""
    draws, slots = chosen.shape
    total = np.zeros((draws, len(cells[0])))
    count = np.zeros_like(total)
    for slot in range(slots):
        for index, row in enumerate(cells):
            hit = np.flatnonzero(chosen[:, slot] == index)
            for task, values in enumerate(row):
                if values.size and hit.size:
                    picks = values[generator.integers(values.size, size=(hit.size, values.size))]
                    total[hit, task] += statistic(picks)
                    count[hit, task] += 1
    return np.divide(total, count, out=np.full_like(total, nan), where=count > 0)


def _point(cells: Cells, statistic: Statistic) -> np.ndarray:
    """Return (tasks,) means over seeds."""
    table = np.array([[statistic(v[None, :])[0] if v.size else nan for v in row] for row in cells])
    return np.nanmean(table, axis=0)


def _prepare(df: pd.DataFrame, value: str) -> tuple[pd.DataFrame, int]:
    missing = [name for name in (value, "task") if name not in df]
    if missing:
        raise ValueError(f"an interval needs the columns {value!r} and 'task'; {missing} not in the table")
    df = df if "seed" in df else df.assign(seed=0)
    kept = df[np.isfinite(df[value].astype(float))]
    if "unscored" in kept:
        kept = kept[~kept["unscored"].astype(bool)]
    return kept, len(df) - len(kept)


def _summary(points, samples, cells: Cells, excluded: int, *, centred: bool = False) -> Interval:
    sizes = [v.size for row in cells for v in row]
    varies = len(cells) > 1 or max(sizes) > 1
    means = np.nanmean(samples, axis=1)
    if centred:
        means = means - means.mean() + np.mean(points)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]) if varies else (nan, nan)
    value, n = float(np.mean(points)), int(sum(sizes))
    return Interval(value, float(low), float(high), n, len(points), len(cells), excluded)


def _grids(sides: list[pd.DataFrame], value: str, draws: int, root: int):
    """Return the cells of each side on one grid of seeds and tasks, its drawn seeds, and the generator."""
    tasks, seeds = sorted(sides[0]["task"].unique()), sorted(sides[0]["seed"].unique())
    generator = rng(root, "bootstrap", value)
    chosen = generator.integers(len(seeds), size=(draws, len(seeds)))
    grids = []
    for side in sides:
        cells = {key: part[value].to_numpy(float) for key, part in side.groupby(["seed", "task"], sort=True)}
        grids.append([[cells.get((seed, task), np.empty(0)) for task in tasks] for seed in seeds])
    return grids, chosen, generator


def bootstrap_mean(
    df: pd.DataFrame,
    value: str,
    *,
    statistic: Statistic = _mean,
    centred: bool = False,
    draws: int = 2000,
    root: int = 0,
) -> Interval:
    """Return the mean over tasks of ``value`` with its hierarchical percentile bootstrap interval.

    Args:
        df: One row per trajectory (or state, or step): ``value``, ``task`` (every task weighs the same) and,
            for several runs of the pipeline, ``seed``. Rows with a value that is not finite, or flagged
            ``unscored``, are left out and counted.
        value: Column to average.
        statistic: What one task yields from its (draws, n) values, the mean by default; see `best_of`.
        centred: Shift the bootstrap distribution so that its mean is the estimate. For statistics such as the
            best of k: values drawn twice leave fewer different ones, which pulls every resampled best down.
        root: Seed of the bootstrap: the same rows give the same interval.

    Raises:
        ValueError: If a column is missing or no row is left.

    Example:
        Two tasks weigh the same although one has more trajectories: (0.5 + 0.1) / 2.

        >>> rows = pd.DataFrame({"task": ["a", "a", "b"], "gap": [0.4, 0.6, 0.1]})
        >>> round(bootstrap_mean(rows, "gap").value, 4)
        0.3
    """
    kept, excluded = _prepare(df, value)
    if kept.empty:
        raise ValueError(f"no scored row is left for {value!r}: {excluded} of {len(df)} rows are unscored")
    (cells,), chosen, generator = _grids([kept], value, draws, root)
    samples = _draw(cells, chosen, statistic, generator)
    return _summary(_point(cells, statistic), samples, cells, excluded, centred=centred)


def paired_difference(
    df: pd.DataFrame,
    after: str,
    before: str,
    value: str,
    *,
    unit: str | None = None,
    draws: int = 2000,
    root: int = 0,
) -> Interval:
    """Return mean(``after``) − mean(``before``) of two policies over the tasks and seeds that both have.

    The pairing is by task and seed: both policies of one seed share the expert data and the model, so a seed
    is drawn for both at once. Trajectories of the two are independent and resampled separately, unless
    ``unit`` names a column (such as ``state``) on which they pair row by row; then differences are resampled,
    and several rows of one unit are averaged first. ``df`` is that of `bootstrap_mean` with ``policy``.

    Raises:
        ValueError: If the two policies share no task and seed.

    Example:
        >>> rows = pd.DataFrame({"policy": ["sft", "rl", "sft", "rl"], "task": ["a", "a", "b", "b"],
        ...                      "gap": [0.1, 0.3, 0.2, 0.6]})
        >>> round(paired_difference(rows, "rl", "sft", "gap").value, 4)
        0.3
    """
    kept, excluded = _prepare(df[df["policy"].isin([after, before])], value)
    keys = ["seed", "task"] + ([unit] if unit else [])
    sides = [kept[kept["policy"] == name] for name in (after, before)]
    common = pd.MultiIndex.from_frame(sides[0][keys]).intersection(pd.MultiIndex.from_frame(sides[1][keys]))
    if common.empty:
        raise ValueError(f"{after!r} and {before!r} share no {' and '.join(keys)}: nothing can be paired")
    sides = [side[pd.MultiIndex.from_frame(side[keys]).isin(common)] for side in sides]
    if unit:
        one, other = (side.groupby(keys)[value].mean() for side in sides)
        found = bootstrap_mean((one - other).reset_index(), value, draws=draws, root=root)
        return replace(found, excluded=excluded)
    grids, chosen, generator = _grids(sides, value, draws, root)
    points = _point(grids[0], _mean) - _point(grids[1], _mean)
    samples = _draw(grids[0], chosen, _mean, generator) - _draw(grids[1], chosen, _mean, generator)
    both = [left + right for left, right in zip(*grids, strict=True)]
    return _summary(points, samples, both, excluded)
