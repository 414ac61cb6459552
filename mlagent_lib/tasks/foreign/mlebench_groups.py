"""Which rows of a competition belong together: those of one patient, one molecule, one sentence.

Rows of one group resemble each other. Were they split over feedback and report, a report would be no test on
new rows.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from mlagent_lib.tasks.foreign.mlebench_source import FEWEST_ROWS, Competition, Tables, read_table

FEWEST_GROUPS = 4
_MOST_GROUPS = 0.9  # of the rows: what repeats less is no group
_PERSONS = re.compile("patient|subject|person", re.IGNORECASE)
_TIMES = re.compile("date|day|week|month|year|time", re.IGNORECASE)  # test rows may be the later ones


def groups_of(source: Competition, tables: Tables) -> tuple[list[str], str]:
    """Return the group of each row of the answers, and what groups them: ids and "" where nothing does.

    A group is a column of the answers or of test.csv whose values repeat and are none of the training rows',
    since then the competition itself has kept it apart, or whose name tells a person. It may also be the
    first parts of ids as ``case7_day2_13``. The coarsest one counts.

    Args:
        source: Where the competition lies.
        tables: Its answers and sample.
    """
    ids = tables.answers[tables.id_column]
    columns = _columns(source, tables)
    sizes = {name: column.nunique() for name, column in columns.items()}
    for name in sorted(columns, key=sizes.get):
        column = columns[name]
        if not FEWEST_GROUPS <= sizes[name] <= _MOST_GROUPS * len(ids) or (column == "").any():
            continue
        if not ids.is_unique and column.groupby(ids).nunique().max() > 1:
            continue
        learned = _training_values(source.public / "train.csv", name, tables.id_column)
        is_apart = not learned & set(column) if learned else _is_of_id(name) and sizes[name] >= FEWEST_ROWS
        is_apart = is_apart and not _TIMES.search(str(name))
        if is_apart or _PERSONS.search(str(name)):
            return column.tolist(), _name(name, tables.id_column)
    return ids.tolist(), ""


def _columns(source: Competition, tables: Tables) -> dict[str | int, pd.Series]:
    """Return what may be a group, by name, or by number for so many first parts of the ids."""
    ids, given = tables.answers[tables.id_column], (tables.id_column, *tables.targets)
    found = {name: tables.answers[name] for name in tables.answers if name not in given}
    path = source.public / "test.csv"
    test = read_table(path, texts=True) if path.is_file() else pd.DataFrame()
    if tables.id_column in test and test[tables.id_column].is_unique:
        test = test.set_index(tables.id_column)
        if ids.isin(test.index).all():
            test = test.loc[ids].set_index(ids.index)
            found |= {name: test[name] for name in test if name not in given}
    parts = ids.str.count("_")
    if parts.nunique() == 1 and ids.str.fullmatch(r".*_-?\d+").all():
        found |= {number: _first_parts(ids, number) for number in range(1, parts.iloc[0] + 1)}
    return found


def _first_parts(ids: pd.Series, number: int) -> pd.Series:
    return ids.str.split("_").str[:number].str.join("_")


def _is_of_id(name: str | int) -> bool:
    return isinstance(name, int)


def _name(name: str | int, id_column: str) -> str:
    return f"first {f'{name} parts' if name > 1 else 'part'} of {id_column}" if _is_of_id(name) else name


def _training_values(path: Path, name: str | int, id_column: str) -> set[str]:
    """Return the values of a group among the training rows; none where train.csv does not tell."""
    column = id_column if _is_of_id(name) else name
    if not path.is_file() or column not in read_table(path, texts=True, nrows=0):
        return set()
    values = read_table(path, texts=True, usecols=[column])[column]
    return set(_first_parts(values, name) if _is_of_id(name) else values)
