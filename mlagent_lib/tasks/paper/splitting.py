"""Cuts rows into visible, feedback and report sets: disjoint, seeded, in proportion for every class."""

from __future__ import annotations

import numpy as np

from mlagent_lib.core.errors import TaskError

SETS = ("visible", "feedback", "report")


def sizes_of(rows: int, caps: tuple[int, int, int], every: bool = False) -> tuple[int, int, int]:
    """Return how many rows each set gets: the caps where there are enough rows, else the same ratio.

    Args:
        rows: Rows that there are, at least 3.
        caps: Most rows of each set.
        every: Let the visible set take all rows that the hidden sets leave.

    Example:
        >>> sizes_of(100, (6, 2, 2)), sizes_of(5, (6, 2, 2)), sizes_of(100, (6, 2, 2), every=True)
        ((6, 2, 2), (3, 1, 1), (96, 2, 2))
    """
    share = min(1.0, rows / sum(caps))
    hidden = [max(1, int(cap * share)) for cap in caps[1:]]
    left = rows - sum(hidden)
    return (left if every else min(left, caps[0]), *hidden)


def deal(
    classes: np.ndarray, groups: np.ndarray | None, sizes: tuple[int, ...], draws: np.random.Generator
) -> np.ndarray:
    """Return for each row the number of its set, 0, 1, 2, ...

    Classes are dealt one after the other, each to the set that lacks most, so that every class and every run
    of classes falls to the sets in proportion. A group goes to one set as a whole.

    Args:
        classes: (n,) key of the class of each row; one key for all turns proportion off.
        groups: (n,) key of the group of each row, or None.
        sizes: Rows wanted in each set; only their ratio counts.
        draws: The random stream.

    Example:
        Ten rows of two classes, in the ratio 3 : 1 : 1:

        >>> found = deal(np.repeat([0, 1], 5), None, (6, 2, 2), np.random.default_rng(0))
        >>> [int((found[:5] == k).sum()) for k in range(3)], [int((found[5:] == k).sum()) for k in range(3)]
        ([3, 1, 1], [3, 1, 1])
    """
    keys = np.arange(len(classes)) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = draws.permutation(len(classes))
    first = np.full(keys.max() + 1, -1)
    first[keys[order[::-1]]] = order[::-1]  # a random row of each group stands for its class
    count = np.bincount(keys)
    rank = draws.permutation(len(np.unique(classes)))[np.unique(classes, return_inverse=True)[1]]
    units = draws.permutation(len(first))
    units = units[np.argsort(rank[first[units]], kind="stable")]
    share = np.asarray(sizes, dtype=float) / sum(sizes)
    lack, given = np.zeros(len(sizes)), np.empty(len(first), dtype=int)
    for unit in units:
        lack += share * count[unit]
        given[unit] = int(np.argmax(lack))
        lack[given[unit]] -= count[unit]
    return given[keys]


def spread_classes(classes: np.ndarray, draws: np.random.Generator) -> np.ndarray:
    """Return a random order of rows in which every stretch holds every class in proportion.

    Starters validate on the last quarter of the visible rows, which so holds the same classes as the rest.

    Example:
        >>> order = spread_classes(np.repeat([0, 1], 4), np.random.default_rng(0))
        >>> sorted(int(row) // 4 for row in order[:4])
        [0, 0, 1, 1]
    """
    order = draws.permutation(len(classes))
    place = np.empty(len(classes))
    for key in np.unique(classes):
        rows = order[classes[order] == key]
        place[rows] = (np.arange(len(rows)) + draws.random()) / len(rows)
    return np.argsort(place, kind="stable")


def demand(part: np.ndarray, name: str) -> None:
    """Do nothing where all three sets have rows.

    Raises:
        TaskError: One has none.
    """
    counts = np.bincount(part, minlength=3)
    if counts.min() == 0:
        empty = SETS[int(np.argmin(counts))]
        raise TaskError(
            f"{name}: {len(part)} rows are too few: the {empty} set would be empty",
            cure="use the whole download, or raise --rows",
        )
