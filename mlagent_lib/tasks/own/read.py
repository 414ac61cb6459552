"""Reads the reader's table, and says of every other file what it is and how to make a table of it."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd

from mlagent_lib.core.errors import TaskError
from mlagent_lib.tasks.own.spec import closest

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
_SAVE = "save the table as comma-separated values with one line of column names"


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
        raise TaskError(
            f"{path} has {rows:,} rows, at most {MOST_ROWS:,} fit the limits of a script",
            cure="take a random sample of the rows (of the groups, where rows belong together)",
        )
    try:
        frame = pd.read_csv(io.StringIO(text), index_col=False, low_memory=False)
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise TaskError(f"{path} is not a table: {error}", cure=_SAVE) from error
    frame = _without_objects(frame)
    if header[0].strip():
        return frame, ()
    first = frame.columns[0]
    counts = pd.Series(range(len(frame)), index=frame.index)
    if not any(frame[first].equals(counts + start) for start in (0, 1)):
        raise TaskError(
            f"column 1 of {path} has no name", cure="give it one in the first line, or remove the column"
        )
    return frame.drop(columns=first), ("the first column has no name and numbers the rows: left out",)


def _without_objects(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the table with words for whole numbers that 64 bits cannot hold, and no empty words beside them.

    pandas reads such a column as objects, or as words with "" where a cell is empty.
    """
    for name, column in frame.select_dtypes(["object", "str"]).items():
        is_large = column.dtype == object and pd.api.types.infer_dtype(column) == "integer"
        frame[name] = column.astype("str") if is_large else column.mask(column == "")
    return frame


def _text_of(path: Path) -> str:
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        near = [found.name for found in path.parent.iterdir()] if path.parent.is_dir() else []
        raise TaskError(
            f"the file {path} {what}",
            cure=f"{closest(path.name, near)}give the path of a file of comma-separated values",
        )
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise TaskError(
            f"{path} has {size >> 20} MiB, at most {MOST_BYTES >> 20} fit the limits of a script",
            cure="take a random sample of the rows",
        )
    data = path.read_bytes()
    for magic, what in _MAGIC.items():
        if data.startswith(magic):
            raise TaskError(f"{path} is {what}, not comma-separated values", cure=_SAVE)
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise TaskError(f"{path} is encoded in UTF-16", cure="save it as UTF-8")
    if b"\0" in data:
        raise TaskError(f"{path} holds a zero byte, so it is no text", cure=_SAVE)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise TaskError(
            f"line {line} of {path} holds the byte 0x{data[error.start]:02x}, which is not UTF-8",
            cure="save the file as UTF-8; from Windows programs it is mostly Windows-1252 now",
        ) from None
    if not text.strip():
        raise TaskError(f"{path} is empty", cure="give a file with column names and rows")
    if text.lstrip()[0] in "{[<":
        raise TaskError(f"{path} looks like JSON or HTML, not comma-separated values", cure=_SAVE)
    return text


def _shape_of(path: Path, text: str) -> tuple[list[str], int]:
    """Return the names and the number of rows; every row must have as many fields as there are names."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] = []
    rows = 0
    usual = csv.field_size_limit(MOST_BYTES)  # a text may be as long as the file
    try:
        for fields in reader:
            if not fields:
                continue
            if not header:
                header = fields
                _check_header(path, header)
            elif len(fields) != len(header):
                raise TaskError(
                    f"row {rows + 1} of {path} (line {reader.line_num}) has {len(fields)} fields, the first "
                    f"line has {len(header)}",
                    cure="correct the row; a field that holds a comma needs quotes around it",
                )
            elif fields == header:
                raise TaskError(
                    f"row {rows + 1} of {path} (line {reader.line_num}) is the line of column names again",
                    cure="remove it: files that are joined keep one such line",
                )
            else:
                rows += 1
    except csv.Error as error:
        raise TaskError(
            f"line {reader.line_num} of {path} cannot be read ({error})",
            cure="close the quotes there; a quote inside a quoted field is written twice",
        ) from error
    finally:
        csv.field_size_limit(usual)
    if not rows:
        raise TaskError(f"{path} has column names but no rows", cure="give a file with rows")
    return header, rows


def _check_header(path: Path, header: list[str]) -> None:
    for sign, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if "".join(header).count(sign) >= len(header):
            raise TaskError(f"the columns of {path} are separated by {name}, not commas", cure=_SAVE)
    if len(header) == 1:
        raise TaskError(
            f"{path} has one column only, {header[0]!r}", cure="give a table with inputs and answers"
        )
    for number, name in enumerate(header, 1):
        if not name.strip() and number > 1:
            raise TaskError(
                f"column {number} of {path} has no name",
                cure="give it one in the first line, or remove the column",
            )
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise TaskError(
            f"the column name {twice[0]!r} stands {header.count(twice[0])} times in {path}",
            cure="give each column a name of its own",
        )
