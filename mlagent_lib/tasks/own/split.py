"""Splits rows into visible, feedback and report: seeded, stratified, groups and repeated rows together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlagent_lib.core.errors import TaskError
from mlagent_lib.tasks.own.target import Target

HIDDEN_SHARE = 0.2  # of the rows for feedback, and as much for the report
# ours: with fewer hidden rows one row moves an accuracy by more than two points, and no gain can be told from
# luck
FEWEST_HIDDEN = 50
FEWEST_VISIBLE = 100
FEWEST_ROWS = round(FEWEST_HIDDEN / HIDDEN_SHARE)
FEWEST_GROUPS = 10
MOST_HIDDEN = 10_000
_SUBMISSION_BYTES, _FIELD_BYTES = 3 << 20, 26  # of one label set, well within what the grader reads


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

    @property
    def rows(self) -> tuple[int, int, int]:
        """Return the number of rows of each part."""
        return len(self.visible), len(self.feedback), len(self.report)

    @property
    def order(self) -> np.ndarray:
        """Return all row numbers, visible first, then feedback, then report."""
        return np.concatenate([self.visible, self.feedback, self.report])


def check_size(rows: int) -> None:
    """Refuse a table that is too short.

    Raises:
        TaskError: States the minimum and why.
    """
    if rows < FEWEST_ROWS:
        raise TaskError(
            f"the table has {rows} rows, at least {FEWEST_ROWS} are needed: a fifth is hidden for feedback "
            f"and a fifth for the report, and on fewer than {FEWEST_HIDDEN} rows a gain looks like luck",
            cure="add rows",
        )


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
    labels = connected_components(links, directed=False)[1][row_codes]
    return pd.factorize(labels)[0]


def split_rows(
    keys: pd.Series, groups: pd.Series | None, target: Target, answers: int, draws: np.random.Generator
) -> Split:
    """Return the split; repeated rows, and what stays with them, are visible.

    The starter cuts the visible rows at three quarters: where the sizes of the groups do not add up to that,
    fitting and validation share a group.

    Args:
        keys: Equal for equal rows.
        groups: Group of each row, or None.
        target: Gives the strata.
        answers: Columns of a submission besides the id.
        draws: Decides everything that is drawn.

    Raises:
        TaskError: There are too few groups, too few rows that can be hidden, or a class is not in every part.
    """
    if groups is not None and groups.nunique() < FEWEST_GROUPS:
        raise TaskError(
            f"the group column {groups.name!r} has {groups.nunique()} groups, at least {FEWEST_GROUPS} are "
            "needed to have several in each split",
            cure="add groups, or choose a finer one",
        )
    units = units_of(keys, groups)
    tied = np.zeros(units.max() + 1, bool)
    tied[units[keys.duplicated(keep=False).to_numpy()]] = True
    hidden = min(
        HIDDEN_SHARE, MOST_HIDDEN / len(keys), _SUBMISSION_BYTES / (_FIELD_BYTES * answers * len(keys))
    )
    everything = np.arange(len(keys))
    parts = _assign(everything, units, target.strata, (1 - 2 * hidden, hidden, hidden), tied, draws)
    seen, feedback, report = (everything[parts == part] for part in range(3))
    _check_parts(seen, feedback, report, int(tied[units].sum()))
    inner = _assign(seen, units, target.strata, (0.75, 0.25), np.zeros_like(tied), draws)
    inner = _exact(inner, target.strata[seen], len(seen) - len(seen) * 3 // 4)
    fit, valid = seen[inner == 0], seen[inner == 1]
    if target.is_classes:
        _check_classes((fit, valid, feedback, report), target, groups)
    fit, valid, feedback, report = (draws.permutation(part) for part in (fit, valid, feedback, report))
    return Split(np.concatenate([fit, valid]), feedback, report)


def _assign(
    rows: np.ndarray,
    units: np.ndarray,
    strata: np.ndarray,
    shares: Sequence[float],
    tied: np.ndarray,
    draws: np.random.Generator,
) -> np.ndarray:
    """Return the part of each row: unit by unit, the largest first, to where its strata are missed most.

    Args:
        rows: (n,) row numbers to assign.
        units: Unit of every row of the table.
        strata: Stratum of every row of the table.
        shares: Share of the rows for each part; part 0 takes the tied units.
        tied: Whether a unit must go to part 0.
        draws: Decides among equals.
    """
    own = units[rows]
    counts = np.bincount(strata[rows]).astype(float)
    missed = np.outer(shares, counts)  # (parts, strata)
    weight = 1 / np.maximum(counts, 1)
    order = np.argsort(own, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(own[order]) > 0])
    members = np.split(order, starts[1:])
    lottery = draws.permutation(len(members))
    # tied units first, so that the others make up for them; then the largest, which fit least easily
    queue = sorted(lottery, key=lambda k: (not tied[own[members[k][0]]], -len(members[k])))
    parts = np.zeros(len(rows), int)
    for k in queue:
        found = np.bincount(strata[rows[members[k]]], minlength=len(counts))
        part = 0 if tied[own[members[k][0]]] else int(np.argmax(missed @ (found * weight)))
        parts[members[k]] = part
        missed[part] -= found
    return parts


def _exact(parts: np.ndarray, strata: np.ndarray, wanted: int) -> np.ndarray:
    """Return the parts 0 and 1 with exactly so many rows in part 1, moving rows of the commonest strata."""
    parts = parts.copy()
    while (excess := int(parts.sum()) - wanted) != 0:
        giver = 1 if excess > 0 else 0
        counts = np.bincount(strata[parts == giver])
        row = np.flatnonzero((parts == giver) & (strata == counts.argmax()))[-1]
        parts[row] = 1 - giver
    return parts


def _check_parts(seen: np.ndarray, feedback: np.ndarray, report: np.ndarray, tied: int) -> None:
    if min(len(feedback), len(report)) >= FEWEST_HIDDEN and len(seen) >= FEWEST_VISIBLE:
        return
    why = (
        f" ({tied} rows are repeated or belong to a repeated one, so that they cannot be hidden)"
        if tied
        else ""
    )
    raise TaskError(
        f"the split has {len(seen)} visible, {len(feedback)} feedback and {len(report)} report rows{why}, at "
        f"least {FEWEST_VISIBLE}, {FEWEST_HIDDEN} and {FEWEST_HIDDEN} are needed",
        cure="remove repeated rows (numbers are compared to six decimals), add rows, or choose smaller "
        "groups",
    )


def _check_classes(parts: Sequence[np.ndarray], target: Target, groups: pd.Series | None) -> None:
    for code in target.classes:
        lacking = sum(not (target.values[part] == code).any() for part in parts)
        if lacking:
            own = (
                ""
                if groups is None
                else f" (its rows are in {groups[target.values == code].nunique()} groups)"
            )
            raise TaskError(
                f"class {code} of the answer{own} cannot be in every part: fit, validation, feedback, report",
                cure="add rows or groups of this class, or remove it",
            )
