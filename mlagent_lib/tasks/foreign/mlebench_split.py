"""Divides the private answers of a competition of MLE-bench into feedback and report labels.

Rows of one group (a patient, a molecule, a sentence) resemble each other. Were they split over feedback and
report, a report would be no test on new rows.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.random import Generator

from mlagent_lib.tasks.foreign.mlebench_read import (
    FEWEST_ROWS,
    MOST_CLASSES,
    Competition,
    Tables,
    read_public,
)
from mlagent_lib.tasks.splits import deal

FEWEST_GROUPS = 4
_MOST_GROUPS = 0.9  # of the rows: what repeats less is no group
_PERSONS = re.compile("patient|subject|person", re.IGNORECASE)
_TIMES = re.compile("date|day|week|month|year|time", re.IGNORECASE)  # test rows may be the later ones


def divide_answers(source: Competition, tables: Tables, stream: Generator) -> tuple[np.ndarray, str]:
    """Return for each row of the answers whether it is a report row, and in words what divides them."""
    strata, divided = strata_of(tables.answers[[name for name in tables.targets if name in tables.answers]])
    groups, group = groups_of(source, tables)
    divided += f", rows of the same {group} together" if group else ""
    return halves(groups, strata, stream), divided


def halves(ids: Sequence[str], strata: Sequence[str], stream: Generator) -> np.ndarray:
    """Return for each row whether it belongs to the second half.

    Rows of one id stay together; the stratum of its first row counts. The halves of a stratum, and of the
    whole, differ by one id at most.

    Example:
        >>> found = halves(list("abcdef"), list("xxxxyy"), np.random.default_rng(0))
        >>> int(found[:4].sum()), int(found[4:].sum())
        (2, 1)
    """
    numbers, names = pd.factorize(pd.Series(ids))
    first = pd.Series(strata, dtype=str)[~pd.Series(numbers).duplicated()]
    return deal(first.to_numpy(), (1, 1), stream)[numbers] == 1


def strata_of(answers: pd.DataFrame) -> tuple[list[str], str]:
    """Return the stratum of each row of the answered columns, texts, and in words what divides the rows.

    Example:
        >>> strata_of(pd.DataFrame({"y": ["cat", "dog", "cat"] * 5}))[1]
        'the classes of y'
        >>> strata_of(pd.DataFrame({"y": [str(number / 7) for number in range(99)]}))[1]
        'chance'
    """
    names = list(answers)
    if len(names) == 1 and answers[names[0]].nunique() <= min(MOST_CLASSES, len(answers) // 2):
        return answers[names[0]].tolist(), f"the classes of {names[0]}"
    if len(names) > 1 and answers.isin(["0", "1", "0.0", "1.0"]).all(axis=None):
        return answers.agg(" ".join, axis=1).tolist(), "the classes that the answer columns mark"
    return [""] * len(answers), "chance"


def groups_of(source: Competition, tables: Tables) -> tuple[list[str], str]:
    """Return the group of each row of the answers, and what groups them: ids and "" where nothing does.

    A group is a column of the answers or of test.csv whose values repeat and are none of the training rows',
    since then the competition itself has kept it apart, or whose name tells a person. It may also be the
    first parts of ids as ``case7_day2_13``. The coarsest one counts.
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
        learned = _training_values(source, name, tables.id_column)
        of_id = isinstance(name, int)
        is_apart = not learned & set(column) if learned else of_id and sizes[name] >= FEWEST_ROWS
        if (is_apart and not _TIMES.search(str(name))) or _PERSONS.search(str(name)):
            first = f"first {f'{name} parts' if name != 1 else 'part'} of {tables.id_column}"
            return column.tolist(), first if of_id else name
    return ids.tolist(), ""


def _columns(source: Competition, tables: Tables) -> dict[str | int, pd.Series]:
    """Return what may be a group, by name, or by number for so many first parts of the ids."""
    ids, given = tables.answers[tables.id_column], (tables.id_column, *tables.targets)
    found = {name: tables.answers[name] for name in tables.answers if name not in given}
    test = read_public(source, "test", texts=True)
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


def _training_values(source: Competition, name: str | int, id_column: str) -> set[str]:
    """Return the values of a group among the training rows; none where train.csv does not tell."""
    column = id_column if isinstance(name, int) else name
    train = read_public(source, "train", texts=True, usecols=[column].__contains__)
    if column not in train:
        return set()
    return set(_first_parts(train[column], name) if isinstance(name, int) else train[column])
