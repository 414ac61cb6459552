"""Finds the role of each column, and makes inputs that the starter and all its edits can take."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlagent_lib.tasks.own.cells import (
    EITHER,
    MOST_CATEGORIES,
    STRAY_SHARE,
    WAYS,
    are_codes,
    are_words,
    dates_in,
    first_row,
    read_numbers,
    refuse_too_large,
    too_many,
    words_in,
)
from mlagent_lib.tasks.own.spec import OwnSpec, closest, listed, quoted
from mlagent_lib.tasks.refusals import refusal

MISSING = "missing"  # stands in empty cells of words and texts, which most encoders and vectorisers refuse
_OWN_GROUP = "give each row a group; a row of its own gets a group of its own"
WORDS_OF_TEXT = 5  # words a cell, on average, from which a column of different cells is taken for text


@dataclass(frozen=True)
class Roles:
    """The columns of a table by their role.

    Attributes:
        inputs: What the agent will see; names and values as they were read, numbers in a plain form.
        target: The answers, likewise.
        groups: Group of each row, or None.
        notes: What the reader should know.
    """

    inputs: pd.DataFrame
    target: pd.Series
    groups: pd.Series | None
    notes: tuple[str, ...]


def find_roles(frame: pd.DataFrame, spec: OwnSpec) -> Roles:
    """Return the columns of the table by the role that the spec gives them.

    Raises:
        TaskError: A column is not there or has two roles, the groups or the ids are unusable, no input is
            left, or a number can be read in two ways.
    """
    one = {"--target": spec.target, "--id": spec.id_column, "--text": spec.text, "--group": spec.group}
    named = [(role, name) for role, name in one.items() if name is not None]
    named += [("--drop", name) for name in spec.drop]
    role_of: dict[str, str] = {}
    for role, name in [*named, *(("--keep", name) for name in spec.keep)]:
        if name not in frame.columns:
            told = {"near": closest(name, frame.columns), "columns": listed(frame.columns, most=20)}
            raise refusal("unknown column", role=role, name=name, file=spec.data.name, **told)
        if role_of.setdefault(name, role) != role and role != "--keep":
            raise refusal("two roles", name=name, other=role_of[name], role=role)
    notes = []
    if spec.id_column is not None:
        _check_ids(frame[spec.id_column])
        notes.append(f"the column {spec.id_column!r} names the rows: left out, rows get new random ids")
    groups = None
    if spec.group is not None:
        _refuse_empty(frame[spec.group], "group", _OWN_GROUP)
        groups = frame[spec.group].astype(str)
    inputs = frame.drop(columns=[name for role, name in named if role != "--text"])
    if inputs.shape[1] == 0:
        raise refusal("no input", file=spec.data.name)
    used = frame[[*inputs, spec.target]].copy()
    told = _make_plain(used, spec.text)
    return Roles(used[list(inputs)], used[spec.target], groups, (*notes, *told))


def _make_plain(frame: pd.DataFrame, text: str | None) -> list[str]:
    """Turn columns of words that are numbers, such as 1.200,5, into numbers; return notes on them."""
    found = {name: read_numbers(frame[name]) for name in frame if name != text and are_words(frame[name])}
    ways = {name: how for name, (read, how) in found.items() if read.notna().equals(frame[name].notna())}
    sure = [way for way in WAYS if any(how.startswith(way) for how in ways.values())]
    for name, how in ways.items():
        if how == EITHER and len(sure) != 1:
            raise refusal("comma or point", name=name, shown=max(frame[name].dropna(), key=len))
        if how == EITHER:  # as in the other columns
            found[name], ways[name] = read_numbers(frame[name], sure[0]), sure[0]
        frame[name] = found[name][0]
    commas = [name for name, how in ways.items() if how.startswith("decimal")]
    for name in frame.select_dtypes("float").columns.difference(commas) if commas else ():
        if _are_thousands(frame[name].dropna()):
            raise refusal("point among commas", first=commas[0], name=name)
    told = {name: how for name, how in ways.items() if how}
    return [f"the column {name!r} is written with {how}: read as numbers" for name, how in told.items()]


def _are_thousands(numbers: pd.Series) -> bool:
    """Return whether numbers that were read with a decimal point look like 1.234 and 950."""
    broken = numbers[numbers % 1 != 0].abs()
    two, three = (np.isclose(broken, broken.round(places), rtol=0, atol=1e-9).all() for places in (2, 3))
    return bool(three and not two and broken.between(1, 1000).all())


def _check_ids(ids: pd.Series) -> None:
    _refuse_empty(ids, "id", "give each row an id, or leave the column out by --drop")
    twice = ids[ids.duplicated(keep=False)]
    if len(twice):
        key, count = twice.iloc[0], int((ids == twice.iloc[0]).sum())
        raise refusal("repeated id", key=key, column=ids.name, count=count, shared=len(twice))


def _refuse_empty(column: pd.Series, role: str, cure: str) -> None:
    if (missing := column.isna()).any():
        where = {"column": column.name, "count": missing.sum(), "row": first_row(missing)}
        raise refusal("empty cells", role=role, cure=cure, **where)


def clean_inputs(inputs: pd.DataFrame, spec: OwnSpec, reserved: Iterable[str]) -> pd.DataFrame:
    """Return the inputs as they will be written: true and false as 1 and 0, no empty words.

    Raises:
        TaskError: A column is empty, holds stray words or infinity, or has a name that the task needs.
    """
    if spec.text is not None and spec.text != "text":
        reserved = [*reserved, "text"]
    for name in reserved:
        if name in inputs.columns:
            or_else = " (or --id id, where it names the rows)" if name == "id" else ""
            raise refusal("reserved name", name=name, file=spec.data.name, or_else=or_else)
    cleaned = {}
    for name in inputs.columns:
        column = inputs[name]
        if column.isna().all():
            raise refusal("empty column", name=name, flagged=quoted(name))
        if name != spec.text:
            cleaned[name] = _cleaned(column, spec.text is None)
        elif pd.api.types.is_string_dtype(column) and not pd.api.types.is_numeric_dtype(column):
            cleaned["text"] = column.fillna(MISSING)
        else:
            raise refusal("no text", column=name)
    return pd.DataFrame(cleaned)


def _cleaned(column: pd.Series, is_tabular: bool) -> pd.Series:
    present = column.dropna()
    if present.map(lambda value: isinstance(value, bool | np.bool_)).all():
        return column.astype(float) if len(present) < len(column) else column.astype(int)
    if pd.api.types.is_numeric_dtype(column):
        refuse_too_large(column.astype(float), "large cell")
        return column
    found = dates_in(column) if is_tabular and too_many(present) else None
    if found:
        raise refusal("dates", column=column.name, what=found[0], cure=found[1], flagged=quoted(column.name))
    stray = read_numbers(present)[0].isna()
    if _are_typing_errors(present, stray):
        first = present[stray].index[0]
        where = {"count": int(stray.sum()), "row": column.index.get_loc(first) + 1}
        raise refusal("typing errors", column=column.name, cell=column[first], **where)
    return column.fillna(MISSING)


def _are_typing_errors(cells: pd.Series, stray: pd.Series) -> bool:
    """Return whether the words among numbers are no categories: few, one, or numbers in another form."""
    words = cells[stray]
    if words.empty or stray.mean() > 0.5:
        return False
    one_kind = words.nunique() == 1 or words.str.fullmatch(r"[-+.,'%€$£\s\d]+").all()
    return (stray.mean() <= STRAY_SHARE or (one_kind and too_many(cells))) and not are_codes(cells, ~stray)


def check_categories(inputs: pd.DataFrame) -> None:
    """Refuse word columns of which no category can be learned: free text, names, dates, ticket numbers.

    Raises:
        TaskError: Names the column, and how to use it all the same.
    """
    for name in inputs.columns:
        column = inputs[name]
        present = column[column != MISSING]
        if pd.api.types.is_numeric_dtype(column) or not too_many(present):
            continue
        different, length = present.nunique(), words_in(present)
        if different > len(present) / 2 and length >= WORDS_OF_TEXT:
            raise refusal("free text", name=name, length=length, different=different, flagged=quoted(name))
        many = {"different": different, "count": len(present), "most": MOST_CATEGORIES}
        raise refusal("many words", name=name, flagged=quoted(name), **many)


def same_kinds(train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Refuse tables in which a column, which is named, reads as numbers here and as words there."""
    for name in test.columns:
        if len({pd.api.types.is_numeric_dtype(table[name]) for table in (train, test)}) > 1:
            raise refusal("kinds differ", name=name)
