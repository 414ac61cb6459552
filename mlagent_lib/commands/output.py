"""How commands print: lines that come at once, and tables in columns."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

say = partial(print, flush=True)


def print_table(rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """Print rows in columns; the last column may be long and is not padded."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print((indent + "  ".join([*padded, row[-1]])).rstrip())
