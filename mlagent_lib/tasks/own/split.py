"""Splits the rows of an own table, and refuses what leaves a part too small or without a class."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mlagent_lib.core.errors import TaskError
from mlagent_lib.tasks.own.target import Target
from mlagent_lib.tasks.splits import Split, deal, units_of

HIDDEN_SHARE = 0.2  # of the rows for feedback, and as much for the report
# ours: with fewer hidden rows one row moves an accuracy by more than two points, and no gain can be told from
# luck
FEWEST_HIDDEN = 50
FEWEST_VISIBLE = 100
FEWEST_ROWS = round(FEWEST_HIDDEN / HIDDEN_SHARE)
FEWEST_GROUPS = 10
MOST_HIDDEN = 10_000
_SUBMISSION_BYTES, _FIELD_BYTES = 3 << 20, 26  # of one label set, well within what the grader reads


def check_size(rows: int) -> None:
    """Refuse a table that is too short with a `TaskError` that states the minimum and why."""
    if rows < FEWEST_ROWS:
        raise TaskError(
            f"the table has {rows} rows, at least {FEWEST_ROWS} are needed: a fifth is hidden for feedback "
            f"and a fifth for the report, and on fewer than {FEWEST_HIDDEN} rows a gain looks like luck",
            cure="add rows",
        )


def split_rows(
    keys: pd.Series, groups: pd.Series | None, target: Target, answers: int, draws: np.random.Generator
) -> Split:
    """Return the split; repeated rows, and what stays with them, are visible.

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
    largest = _SUBMISSION_BYTES / (_FIELD_BYTES * answers)
    hidden = min(HIDDEN_SHARE, MOST_HIDDEN / len(keys), largest / len(keys))
    parts = deal(target.strata, (1 - 2 * hidden, hidden, hidden), draws, units, tied)
    _check_parts(np.bincount(parts, minlength=3), int(tied[units].sum()))
    split = Split.of(parts, target.strata, draws, units)
    if target.is_classes:
        _check_classes(split, target, groups)
    return split


def _check_parts(counts: np.ndarray, tied: int) -> None:
    if counts[1:].min() >= FEWEST_HIDDEN and counts[0] >= FEWEST_VISIBLE:
        return
    why = f" ({tied} rows are repeated or belong to a repeated one, so that they cannot be hidden)" * bool(
        tied
    )
    raise TaskError(
        f"the split has {counts[0]} visible, {counts[1]} feedback and {counts[2]} report rows{why}, at "
        f"least {FEWEST_VISIBLE}, {FEWEST_HIDDEN} and {FEWEST_HIDDEN} are needed",
        cure="remove repeated rows (numbers are compared to six decimals), add rows, or take smaller groups",
    )


def _check_classes(split: Split, target: Target, groups: pd.Series | None) -> None:
    for code in target.classes:
        has = target.values == code
        if all(has[rows].any() for rows in (*split.fitted_and_valid, split.feedback, split.report)):
            continue
        own = "" if groups is None else f" (its rows are in {groups[has].nunique()} groups)"
        raise TaskError(
            f"class {code} of the answer{own} cannot be in every part: fit, validation, feedback, report",
            cure="add rows or groups of this class, or remove it",
        )
