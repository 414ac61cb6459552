"""Reads the reader's table, and says of every other file what it is and how to make a table of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd

from mlagent_lib.tasks.own.spec import closest
from mlagent_lib.tasks.refusals import refusal

MOST_ROWS = 200_000  # ours: a script loads the table within seconds and in 2 GiB, with room for a model
MOST_BYTES = 256 << 20

_MAGIC = {
    b"PK\x03\x04": "a zip archive or an Excel sheet",
    b"\x1f\x8b": "a gzip archive",
    b"PAR1": "a Parquet file",
    b"\xd0\xcf\x11\xe0": "an old Excel sheet",
    b"%PDF": "a PDF",
    b"SQLite format 3": "an SQLite database",
}


def read_table(path: Path) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return the table of a file of comma-separated values, and notes on what was left out.

    Args:
        path: The file: UTF-8, one line of distinct names, then as many fields in each row.

    Raises:
        TaskError: Any of this does not hold; names the row.
    """
    text = _text_of(path)
    header, rows = _shape_of(path, text)
    if rows > MOST_ROWS:
        raise refusal("many rows", path=path, rows=rows, most=MOST_ROWS)
    try:
        frame = pd.read_csv(io.StringIO(text), index_col=False, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise refusal("no table", path=path, error=error) from error
    # Whole numbers that 64 bits cannot hold pandas reads as objects, or as words with "" for an empty cell.
    for name, column in frame.select_dtypes(["object", "str"]).items():
        is_large = column.dtype == object and pd.api.types.infer_dtype(column) == "integer"
        frame[name] = column.astype("str") if is_large else column.mask(column == "")
    if header[0].strip():
        return frame, ()
    first = frame.columns[0]
    counts = pd.Series(range(len(frame)), index=frame.index)
    if not any(frame[first].equals(counts + start) for start in (0, 1)):
        raise refusal("first column unnamed", path=path)
    return frame.drop(columns=first), ("the first column has no name and numbers the rows: left out",)


def _text_of(path: Path) -> str:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        near = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        raise refusal("no file", path=path, what=what, near=closest(path.name, near))
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise refusal("large file", path=path, size=size >> 20, most=MOST_BYTES >> 20)
    data = path.read_bytes()
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            raise refusal("other file", path=path, what=what)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise refusal("utf-16", path=path)
    if b"\0" in data:
        raise refusal("zero byte", path=path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise refusal("not utf-8", line=line, path=path, byte=data[error.start]) from None
    if not text.strip():
        raise refusal("empty file", path=path)
    if text.lstrip()[0] in "{[<":
        raise refusal("json or html", path=path)
    return text


def _shape_of(path: Path, text: str) -> tuple[list[str], int]:
    """Return the names and the number of rows; every row must have as many fields as there are names."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header, rows = [], 0
    usual = csv.field_size_limit(MOST_BYTES)  # a text may be as long as the file
    try:
        for fields in filter(None, reader):
            if not header:
                header = fields
                _check_header(path, header)
            elif len(fields) != len(header):
                sizes = {"fields": len(fields), "names": len(header)}
                raise refusal("ragged row", row=rows + 1, path=path, line=reader.line_num, **sizes)
            elif fields == header:
                raise refusal("header again", row=rows + 1, path=path, line=reader.line_num)
            else:
                rows += 1
    except csv.Error as error:
        raise refusal("broken quotes", line=reader.line_num, path=path, error=error) from error
    finally:
        csv.field_size_limit(usual)
    if not rows:
        raise refusal("no rows", path=path)
    return header, rows


def _check_header(path: Path, header: list[str]) -> None:
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if "".join(header).count(sign) >= len(header):
            raise refusal("other separator", path=path, name=name)
    if len(header) == 1:
        raise refusal("one column", path=path, name=header[0])
    for number, name in enumerate(header[1:], 2):
        if not name.strip():
            raise refusal("column unnamed", number=number, path=path)
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise refusal("column twice", name=twice[0], count=header.count(twice[0]), path=path)
