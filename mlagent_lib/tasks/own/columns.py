"""Finds the role of each column, and makes inputs that the starter and all its edits can take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlagent_lib.core.errors import TaskError
from mlagent_lib.tasks.own.wish import Wish, closest, listed

MISSING = "missing"  # stands in empty cells of words and texts, which most encoders and vectorisers refuse
MOST_CATEGORIES = 500  # ours: one-hot encoded they still fit the memory of a run
STRAY_SHARE = 0.1  # a column with fewer words than this among its numbers has typing errors, not categories
WORDS_OF_TEXT = 5  # words a cell, on average, from which a column of different cells is taken for text


@dataclass(frozen=True)
class Roles:
    """The columns of a table by their role.

    Attributes:
        inputs: What the agent will see; names and values as they were read.
        target: The answers as they were read.
        groups: Group of each row, or None.
        notes: What the reader should know.
    """

    inputs: pd.DataFrame
    target: pd.Series
    groups: pd.Series | None
    notes: tuple[str, ...]


def find_roles(frame: pd.DataFrame, wish: Wish) -> Roles:
    """Return the columns of the table by the role that the wish gives them.

    Raises:
        TaskError: A column is not there or has two roles, the groups or the ids are unusable, or no input is
            left.
    """
    named = [("--target", wish.target), ("--id", wish.id_column), ("--text", wish.text)]
    named += [("--group", wish.group), *(("--drop", name) for name in wish.drop)]
    role_of: dict[str, str] = {}
    for role, name in [*named, *(("--keep", name) for name in wish.keep)]:
        if name is None:
            continue
        if name not in frame.columns:
            raise TaskError(
                f"{role} names the column {name!r}, which is not in {wish.data.name}",
                cure=f"{closest(name, frame.columns)}the columns are {listed(frame.columns, most=20)}",
            )
        if role_of.setdefault(name, role) != role and role != "--keep":
            raise TaskError(
                f"the column {name!r} is given twice, by {role_of[name]} and {role}", cure="give it one role"
            )
    notes = []
    if wish.id_column is not None:
        _check_ids(frame[wish.id_column])
        notes.append(f"the column {wish.id_column!r} names the rows: left out, rows get new random ids")
    groups = None if wish.group is None else _groups(frame[wish.group])
    inputs = frame.drop(columns=[name for role, name in named if name and role != "--text"])
    if inputs.shape[1] == 0:
        raise TaskError(
            f"no column of {wish.data.name} is left as an input", cure="drop fewer columns or add some"
        )
    return Roles(inputs, frame[wish.target], groups, tuple(notes))


def _check_ids(ids: pd.Series) -> None:
    twice = ids[ids.duplicated(keep=False)]
    if len(twice):
        raise TaskError(
            f"the id {twice.iloc[0]!s} of column {ids.name!r} stands in {int((ids == twice.iloc[0]).sum())} "
            f"rows ({len(twice)} rows share their id with another)",
            cure=f"where rows of one id belong together, say --group {ids.name} instead of --id; else "
            "correct the file",
        )


def _groups(groups: pd.Series) -> pd.Series:
    missing = groups.isna()
    if missing.any():
        raise TaskError(
            f"the group column {groups.name!r} is empty in {int(missing.sum())} rows, first in row "
            f"{int(missing.to_numpy().argmax()) + 1}",
            cure="give each row a group; a row of its own gets a group of its own",
        )
    return groups.astype(str)


def clean_inputs(inputs: pd.DataFrame, wish: Wish, reserved: Iterable[str]) -> pd.DataFrame:
    """Return the inputs as they will be written: true and false as 1 and 0, no empty words.

    Args:
        inputs: As `find_roles` returns them.
        wish: Names the text column, which is called ``text`` from here on.
        reserved: Names that the task's own files use.

    Raises:
        TaskError: A column is empty, holds stray words or infinity, or has a name that the task needs.
    """
    if wish.text is not None and wish.text != "text":
        reserved = [*reserved, "text"]
    for name in reserved:
        if name in inputs.columns:
            raise TaskError(
                f"the task's own files use the name {name!r}, which is an input of {wish.data.name}",
                cure=f"rename that column in the file, or leave it out by --drop {name}"
                + (" (or --id id, where it names the rows)" if name == "id" else ""),
            )
    cleaned = {}
    for name in inputs.columns:
        column = inputs[name]
        if column.isna().all():
            raise TaskError(f"the column {name!r} is empty", cure=f"leave it out: --drop {name!r}")
        if name == wish.text:
            cleaned["text"] = _words(column, wish)
        else:
            cleaned[name] = _cleaned(column)
    return pd.DataFrame(cleaned)


def _cleaned(column: pd.Series) -> pd.Series:
    present = column.dropna()
    if present.map(lambda value: isinstance(value, bool | np.bool_)).all():
        return column.astype(float) if len(present) < len(column) else column.astype(int)
    if pd.api.types.is_numeric_dtype(column):
        infinite = np.isinf(column.to_numpy(float))
        if infinite.any():
            raise TaskError(
                f"the column {column.name!r} is infinite in row {int(infinite.argmax()) + 1}",
                cure="leave the cell empty: an empty cell is a missing value",
            )
        return column
    stray = pd.to_numeric(present, errors="coerce").isna()
    if 0 < stray.mean() <= STRAY_SHARE:
        row = int((column.notna() & pd.to_numeric(column, errors="coerce").isna()).to_numpy().argmax()) + 1
        raise TaskError(
            f"the column {column.name!r} holds numbers, but in {int(stray.sum())} rows words, such as "
            f"{present[stray].iloc[0]!r} in row {row}",
            cure="write a number there, or leave the cell empty: an empty cell is a missing value",
        )
    return column.fillna(MISSING)


def _words(column: pd.Series, wish: Wish) -> pd.Series:
    if not pd.api.types.is_string_dtype(column) or pd.api.types.is_numeric_dtype(column):
        raise TaskError(
            f"--text names the column {column.name!r}, which holds no texts", cure="name a column of words"
        )
    return column.fillna(MISSING)


def check_categories(inputs: pd.DataFrame) -> None:
    """Refuse word columns of which no category can be learned: free text, names, dates, ticket numbers.

    Raises:
        TaskError: Names the column, and how to use it all the same.
    """
    for name in inputs.columns:
        column = inputs[name]
        if pd.api.types.is_numeric_dtype(column):
            continue
        present = column[column != MISSING]
        different = present.nunique()
        mostly = different > len(present) / 2 and different > 2
        length = present.str.split().str.len().mean()
        if mostly and length >= WORDS_OF_TEXT:
            raise TaskError(
                f"the column {name!r} looks like free text ({length:.0f} words a cell, {different} "
                "different cells)",
                cure=f"make it a text task by --text {name!r}, or leave it out by --drop {name!r}",
            )
        if mostly or different > MOST_CATEGORIES:
            raise TaskError(
                f"the column {name!r} has {different} different words in {len(present)} rows, too many for "
                f"categories (at most half of the rows, and {MOST_CATEGORIES})",
                cure=f"leave it out by --drop {name!r} (--id where it names the rows, --group where rows of "
                "one value belong together), or turn it into numbers or fewer words in the file",
            )


def same_kinds(train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Refuse tables in which a column reads as numbers here and as words there.

    Raises:
        TaskError: Names the column.
    """
    for name in test.columns:
        kinds = {pd.api.types.is_numeric_dtype(table[name]) for table in (train, test)}
        if len(kinds) > 1:
            raise TaskError(
                f"the column {name!r} has words in so few rows that one of the splits reads as numbers",
                cure="write numbers as words (say 'n4' for 4) or words as numbers, in all rows of the file",
            )
