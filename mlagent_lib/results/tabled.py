"""Tables of functions that yield their rows: columns stand at the head, the body makes one row at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import wraps

import pandas as pd

Rows = Iterable[tuple | Mapping]  # what a function yields that `tabled` makes a table of


def tabled(*columns: str) -> Callable[[Callable[..., Rows]], Callable[..., pd.DataFrame]]:
    """Decorate a function that yields rows: return them as a table with these columns.

    Without columns the rows are mappings, whose keys are the columns.

    Example:
        >>> @tabled("number", "square")
        ... def squares(count):
        ...     for number in range(count):
        ...         yield number, number**2
        >>> squares(3)["square"].tolist(), squares(0).columns.tolist()
        ([0, 1, 4], ['number', 'square'])
    """

    def decorate(rows: Callable[..., Rows]) -> Callable[..., pd.DataFrame]:
        @wraps(rows)
        def table(*args, **options) -> pd.DataFrame:
            return pd.DataFrame(list(rows(*args, **options)), columns=list(columns) or None)

        return table

    return decorate
