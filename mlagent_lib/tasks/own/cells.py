"""Knows cells as people write them: numbers with decimal commas or signs, dates, codes, words."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from mlagent_lib.tasks.refusals import refusal

MOST_CATEGORIES = 500  # ours: one-hot encoded they still fit the memory of a run
STRAY_SHARE = 0.1  # a column with fewer words than this among its numbers has typing errors, not categories
FEWEST_OF_WORD = 5  # rows of a word from which it is no typing error
ROWS_OF_CATEGORY = 20  # a different cell, from which a column of numbers and a few words is categories
LARGEST = float(np.finfo(np.float32).max)
_LOOKED_AT = 2_000  # different cells, to tell dates
_SIGNS = "%€$£¥₹"
# How numbers are written -> the sign before the fraction, the signs between thousands.
WAYS = {"signs between thousands": (".", ",'’ \u00a0\u202f"), "decimal commas": (",", ".'’ \u00a0\u202f")}
EITHER = "signs before a fraction or between thousands"
_DATES = [f"%Y{sign}%m{sign}%d" for sign in "-/."] + ["%Y年%m月%d日"]
_DATES += [day.replace("-", sign) + sign + year for sign in "./-" for year in ("%Y", "%y")
           for day in ("%d-%m", "%m-%d")]  # fmt: skip
_DATES += ["%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y", "%d-%b-%y"]
_DATES += ["%Y-%m", "%Y/%m", "%m/%Y", "%b-%y", "%b %Y", "%B %Y"]
_CLOCK = r"[T ]\d{1,2}:\d\d[^,]*$"
_CODE = r"[A-Z]\d[\dA-Z.]*|\d+[A-Z]"
_UNSPACED = r"\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # of these each letter counts as a word


def are_words(column: pd.Series) -> bool:
    """Return whether the present cells of a column are words."""
    return pd.api.types.is_string_dtype(column.dropna())


def words_in(column: pd.Series) -> float:
    """Return the mean number of words a cell; in scripts without blanks each letter is one.

    Example:
        >>> words_in(pd.Series(["a good book", "好书"]))
        2.5
    """
    return float(column.str.count(rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+").mean())


def first_row(flags: pd.Series) -> int:
    """Return the number of the first flagged row, counted from 1 without the line of names."""
    return int(flags.to_numpy().argmax()) + 1


def refuse_too_large(numbers: pd.Series, reason: str) -> None:
    """Refuse numbers that are infinite, or so large that scikit-learn's trees and squares refuse them."""
    if (large := numbers.abs() > LARGEST).any():
        size = stated_size(numbers[large].iloc[0])
        raise refusal(reason, column=numbers.name, size=size, row=first_row(large))


def stated_size(number: float) -> str:
    """Return what to say of a number that is too large.

    Example:
        >>> stated_size(1e300), stated_size(float("inf"))
        ('1e+300, at most 3.4e+38 can be used,', 'infinite')
    """
    return "infinite" if np.isinf(number) else f"{number:g}, at most {LARGEST:.2g} can be used,"


def too_many(cells: pd.Series) -> bool:
    """Return whether words, none of them missing, are too different for categories."""
    different = cells.nunique()
    return (different > len(cells) / 2 and different > 2) or different > MOST_CATEGORIES


def read_numbers(column: pd.Series, like: str = "") -> tuple[pd.Series, str]:
    """Return the numbers in a column of words, and how they are written, "" for the plain way.

    Args:
        column: Words. One way of writing holds for all of them.
        like: The way of writing, one of `WAYS`; by default the one that reads the most cells.

    Returns:
        The numbers, missing where a cell is no number in this way of writing; and the way, `EITHER` where all
        cells can be read in two, with different values.

    Example:
        >>> numbers, how = read_numbers(pd.Series(["1.200,5 %", "-3,25 %", "7%"]))
        >>> numbers.tolist(), how
        ([1200.5, -3.25, 7.0], 'decimal commas and %')
    """
    cells, sign = column.str.strip(), ""
    for found in _SIGNS:
        has = cells.str.contains(found, regex=False, na=False)
        if has.mean() > 0.5:  # a cell without it is no number of this column
            sign, at_an_end = found, rf"^{re.escape(found)}\s*|\s*{re.escape(found)}$"
            cells = cells.where(has).str.replace(at_an_end, "", n=1, regex=True)
            break
    ways = {"": pd.to_numeric(cells, errors="coerce")}
    for how, (point, between) in WAYS.items():
        whole = f"[+-]?([1-9][0-9]{{0,2}}([{between}][0-9]{{3}})+|[0-9]+)"
        is_number = cells.str.fullmatch(f"{whole}([{point}][0-9]+)?([eE][+-]?[0-9]+)?", na=False)
        plain = cells.where(is_number)
        plain = plain.str.replace(f"[{between}]", "", regex=True).str.replace(point, ".", regex=False)
        ways[how] = pd.to_numeric(plain)
    how = like or max(ways, key=lambda found: ways[found].notna().sum())  # the first among equals
    point, comma = (ways[found] for found in WAYS)
    both = all(way.notna().equals(column.notna()) for way in (point, comma)) and not point.equals(comma)
    if both and how and not like:
        return point, EITHER
    if how and point.equals(comma):  # says nothing on commas elsewhere
        return point, "blanks between thousands"
    return ways[how], " and ".join(filter(None, (how, sign)))


def dates_in(column: pd.Series) -> tuple[str, str] | None:
    """Return what to say of a column of dates, and the cure; None where most cells are no dates.

    Example:
        >>> dates_in(pd.Series(["31.12.2023", "1.1.2024 10:30"], name="day"))[0]
        "dates, such as '31.12.2023' in row 1"
    """
    cells = column.dropna().str.strip().drop_duplicates()[:_LOOKED_AT]
    days = cells.str.replace(_CLOCK, "", regex=True)
    read = {form: pd.to_datetime(days, format=form, errors="coerce").notna() for form in _DATES}
    dates = pd.DataFrame(read).any(axis=1)
    if dates.mean() <= 0.5:
        return None
    form = max(read, key=lambda found: read[found].sum())  # the first among equals
    if read[form].all():
        part = "" if days.equals(cells) else ", exact=False"
        how = f"in pandas pd.to_datetime(table[{column.name!r}], format={form!r}{part}).dt.month"
    else:
        how = f"not all have the form {form}: {cells[read[form].idxmin()]!r}"
    row = first_row(column.str.strip() == cells[dates.idxmax()])
    cure = f"write numbers in their place, such as year, month, weekday or age in days ({how})"
    return f"dates, such as {column.iloc[row - 1]!r} in row {row}", cure


def are_codes(cells: pd.Series, is_number: pd.Series) -> bool:
    """Return whether a column of numbers and a few words is names that look like numbers, not numbers.

    That is: a number begins with a needless zero; or the words stand there often, and are codes themselves
    or among few different cells.

    Args:
        cells: Words, none of them missing.
        is_number: Which of them read as numbers.

    Example:
        >>> cells = pd.Series(["250", "414"] * 30 + ["V57"] * 5)
        >>> are_codes(cells, cells != "V57")
        True
    """
    words = cells[~is_number]
    if cells[is_number].str.match(r"0\d").any():
        return True
    often = words.value_counts().min() >= FEWEST_OF_WORD and words.str.contains(r"\w").all()
    few = cells.nunique() * ROWS_OF_CATEGORY <= len(cells)
    return bool((often and few) or (len(words) >= FEWEST_OF_WORD and words.str.fullmatch(_CODE).all()))
