"""Splits the rows of an own table, and refuses what leaves a part too small or without a class."""

from __future__ import annotations

import numpy as np
import pandas as pd

from mlagent_lib.tasks.own.target import Target
from mlagent_lib.tasks.refusals import refusal
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
        raise refusal("few rows", rows=rows, least=FEWEST_ROWS, hidden=FEWEST_HIDDEN)


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
        raise refusal("few groups", column=groups.name, count=groups.nunique(), least=FEWEST_GROUPS)
    units = units_of(keys, groups)
    tied = np.zeros(units.max() + 1, bool)
    tied[units[keys.duplicated(keep=False).to_numpy()]] = True
    largest = _SUBMISSION_BYTES / (_FIELD_BYTES * answers)
    hidden = min(HIDDEN_SHARE, MOST_HIDDEN / len(keys), largest / len(keys))
    parts = deal(target.strata, (1 - 2 * hidden, hidden, hidden), draws, units, tied)
    counts, hard = np.bincount(parts, minlength=3), int(tied[units].sum())
    if counts[1:].min() < FEWEST_HIDDEN or counts[0] < FEWEST_VISIBLE:
        why = f" ({hard} rows are repeated or belong to a repeated one, so that they cannot be hidden)"
        least = {"least": FEWEST_VISIBLE, "hidden": FEWEST_HIDDEN}
        raise refusal("small part", counts=counts, why=why if hard else "", **least)
    split = Split.of(parts, target.strata, draws, units)
    for code in target.classes if target.is_classes else ():
        has = target.values == code
        if not all(has[rows].any() for rows in (*split.fitted_and_valid, split.feedback, split.report)):
            own = "" if groups is None else f" (its rows are in {groups[has].nunique()} groups)"
            raise refusal("class not everywhere", code=code, own=own)
    return split
