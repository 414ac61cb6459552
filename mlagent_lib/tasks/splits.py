"""Splits rows into visible, feedback and report: seeded, in proportion for every class, groups kept whole."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.random import Generator


@dataclass(frozen=True)
class Split:
    """Row numbers of each part, in the order in which they are written.

    Attributes:
        visible: The first three quarters are fitted by the starter, the last quarter validates.
        feedback: Score every step.
        report: Score the final evaluation.
    """

    visible: np.ndarray
    feedback: np.ndarray
    report: np.ndarray

    @classmethod
    def of(
        cls, parts: np.ndarray, strata: np.ndarray, draws: Generator, units: np.ndarray | None = None
    ) -> Split:
        """Return the split of rows whose parts 0, 1, 2 are known (-1 for rows that are not used), mixed.

        The starter cuts the visible rows at three quarters: where the sizes of the units do not add up to
        that, fitting and validation share a unit.
        """
        seen, feedback, report = (np.flatnonzero(parts == part) for part in range(3))
        valid = len(seen) - len(seen) * 3 // 4
        share = valid / max(1, len(seen))
        inner = deal(strata[seen], (1 - share, share), draws, None if units is None else units[seen])
        inner = with_count(inner, strata[seen], valid)
        mixed = [draws.permutation(rows) for rows in (seen[inner == 0], seen[inner == 1], feedback, report)]
        return cls(np.concatenate(mixed[:2]), *mixed[2:])

    @property
    def rows(self) -> tuple[int, int, int]:
        """Return the number of rows of each part."""
        return len(self.visible), len(self.feedback), len(self.report)

    @property
    def order(self) -> np.ndarray:
        """Return all row numbers, visible first, then feedback, then report."""
        return np.concatenate([self.visible, self.feedback, self.report])

    @property
    def fitted_and_valid(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the visible rows that the starter fits, and those on which it validates."""
        cut = len(self.visible) * 3 // 4
        return self.visible[:cut], self.visible[cut:]


def normalised_rows(inputs: pd.DataFrame) -> pd.Series:
    """Return one key for each row that is equal for rows which differ in spelling only.

    Texts lose case, punctuation and blanks; numbers are rounded to six digits.

    Example:
        >>> normalised_rows(pd.DataFrame({"text": ["A  dog.", "a dog", "a cat"]})).nunique()
        2
    """
    parts = {}
    for name in inputs:
        column = inputs[name]
        if pd.api.types.is_numeric_dtype(column):
            parts[name] = [repr(float(value)) for value in column.astype(float).round(6)]
        else:
            parts[name] = [" ".join(re.findall(r"\w+", str(text).casefold())) for text in column]
    return pd.Series(["\x1f".join(row) for row in zip(*parts.values(), strict=True)], index=inputs.index)


def units_of(keys: pd.Series, groups: pd.Series | None) -> np.ndarray:
    """Return a number for each row; rows of one number stay together: equal rows, rows of one group.

    Example:
        Rows 0 and 2 are equal, rows 2 and 3 belong to one group, so the three stay together:

        >>> units_of(pd.Series(["a", "b", "a", "c"]), pd.Series(["g", "h", "i", "i"])).tolist()
        [0, 1, 0, 0]
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    row_codes, names = pd.factorize(keys)
    if groups is None:
        return row_codes
    group_codes, group_names = pd.factorize(groups)
    size = len(names) + len(group_names)
    links = coo_matrix((np.ones(len(keys)), (row_codes, len(names) + group_codes)), shape=(size, size))
    return pd.factorize(connected_components(links, directed=False)[1][row_codes])[0]


def deal(
    strata: np.ndarray,
    shares: Sequence[float],
    draws: Generator,
    units: np.ndarray | None = None,
    tied: np.ndarray | None = None,
) -> np.ndarray:
    """Return the part of each row, 0, 1, 2, ...: as many rows as its share says, of every stratum.

    Args:
        strata: (n,) key of the stratum of each row; one key for all turns proportion off.
        shares: Of each part; only their ratio counts.
        draws: Decides what is drawn.
        units: (n,) whole numbers; rows of one number go to one part. None where each row is its own.
        tied: Whether a unit must go to part 0, by its number.

    Example:
        Ten rows of two classes, in the ratio 3 : 1 : 1:

        >>> found = deal(np.repeat([0, 1], 5), (6, 2, 2), np.random.default_rng(0))
        >>> np.bincount(found[:5]).tolist(), np.bincount(found[5:]).tolist()
        ([3, 1, 1], [3, 1, 1])
    """
    codes = np.unique(strata, return_inverse=True)[1]
    quotas = _quotas(np.bincount(codes), np.asarray(shares, dtype=float) / sum(shares), draws)
    if units is not None:
        return _deal_units(codes, quotas.astype(float), draws, units, tied)
    order = draws.permutation(len(codes))
    parts = np.empty(len(codes), int)
    which = np.tile(np.arange(len(shares)), quotas.shape[1])
    parts[order[np.argsort(codes[order], kind="stable")]] = np.repeat(which, quotas.T.ravel())
    return parts


def _quotas(counts: np.ndarray, shares: np.ndarray, draws: Generator) -> np.ndarray:
    """Return the rows of each stratum for each part, shape (parts, strata).

    What rounding takes from a part in one stratum it gets in the next, so that strata of one row, too, fall
    to the parts in proportion.
    """
    quotas, lack = np.zeros((len(shares), len(counts)), int), np.zeros(len(shares))
    # A stream of its own, so that the number of strata moves no other draw.
    for stratum in draws.spawn(1)[0].permutation(len(counts)):
        lack += shares * counts[stratum]
        given = np.floor(lack + 1e-9).clip(0).astype(int)
        for _ in range(counts[stratum] - given.sum()):
            given[np.argmax(lack - given)] += 1
        quotas[:, stratum] = given
        lack -= given
    return quotas


def _deal_units(
    codes: np.ndarray, missed: np.ndarray, draws: Generator, units: np.ndarray, tied: np.ndarray | None
) -> np.ndarray:
    """Return the part of each row: unit by unit, the largest first, to where its strata are missed most."""
    weight = 1 / np.maximum(np.bincount(codes), 1)
    order = np.argsort(units, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(units[order]) > 0) + 1)
    bound = [tied is not None and bool(tied[units[rows[0]]]) for rows in members]
    # Tied units first, so that the others make up for them; then the largest, which fit least easily.
    queue = sorted(draws.permutation(len(members)), key=lambda k: (not bound[k], -len(members[k])))
    parts = np.zeros(len(codes), int)
    for k in queue:
        found = np.bincount(codes[members[k]], minlength=len(weight))
        part = 0 if bound[k] else int(np.argmax(missed @ (found * weight)))
        parts[members[k]] = part
        missed[part] -= found
    return parts


def with_count(parts: np.ndarray, strata: np.ndarray, wanted: int) -> np.ndarray:
    """Return the parts 0 and 1 with exactly so many rows in part 1, moving rows of the commonest strata.

    Example:
        Six of eight rows stay in part 0; of the commonest stratum one moves, so that no stratum is lost:

        >>> with_count(np.array([0, 0, 0, 0, 0, 1, 1, 1]), np.array([0, 0, 0, 0, 1, 0, 0, 1]), 2).tolist()
        [0, 0, 0, 0, 0, 1, 0, 1]
    """
    parts = parts.copy()
    codes = np.unique(strata, return_inverse=True)[1]
    while (excess := int(parts.sum()) - wanted) != 0:
        giver = 1 if excess > 0 else 0
        commonest = np.bincount(codes[parts == giver]).argmax()
        parts[np.flatnonzero((parts == giver) & (codes == commonest))[-1]] = 1 - giver
    return parts
