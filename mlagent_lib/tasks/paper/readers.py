"""Readers: from the files of a download to rows with inputs, answers and, where there are, pictures.

Five shapes cover the 19 tasks: a table (numbers or text), a table with pictures, pictures in one file (radar
bands, the batches of cifar-10), pages, and a graph. Nothing is cut into sets here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.core.files import sha256_bytes
from mlagent_lib.tasks.paper.archives import Files
from mlagent_lib.tasks.paper.recipes import Recipe
from mlagent_lib.tasks.refusals import refusal

CHUNK = 100_000
VISIBLE, FEEDBACK, REPORT = 0, 1, 2
HIDDEN = 3  # to be cut into feedback and report
_LARGEST_PICTURE = 200_000_000  # pixels: a picture beyond this is no honest photo


@dataclass
class Rows:
    """Rows of a task before they are cut into sets.

    Attributes:
        inputs: One line for each row.
        targets: The answers, one column for each output.
        groups: A key for each row; rows with the same key stay in one set. None where each row is its own.
        part: ``VISIBLE``, ``FEEDBACK``, ``REPORT`` or ``HIDDEN`` for each row where an official split
            exists, else None.
        pictures: From row numbers to an array (rows, height, width, channels); None without pictures.
        classes: Names of the classes in the order of their numbers; empty where numbers are the names.
        arrays: Further arrays of the task by file name, made when the sets are known: from the rows and the
            part of each to an array.
        notes: What the reader did to the data, for the card.
    """

    inputs: pd.DataFrame
    targets: pd.DataFrame
    groups: np.ndarray | None = None
    part: np.ndarray | None = None
    pictures: Callable[[np.ndarray], np.ndarray] | None = None
    classes: tuple[str, ...] = ()
    arrays: dict[str, Callable[[Rows, np.ndarray], np.ndarray]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, chosen: np.ndarray) -> Rows:
        """Return the chosen rows in this order."""
        inputs, targets = (table.iloc[chosen].reset_index(drop=True) for table in (self.inputs, self.targets))
        groups, part = (None if keys is None else keys[chosen] for keys in (self.groups, self.part))
        pictures = None if self.pictures is None else lambda rows: self.pictures(chosen[rows])
        return replace(self, inputs=inputs, targets=targets, groups=groups, part=part, pictures=pictures)


def _need(found: Recipe, where: str, has: list[str], columns: tuple[str, ...]) -> None:
    missing = [name for name in columns if name not in has]
    if missing:
        shown = f"{', '.join(map(str, has[:8]))}{' ...' if len(has) > 8 else ''}"
        raise refusal("column missing", found=found, where=where, missing=", ".join(missing), shown=shown)


def sample_csv(path: Path, limit: int | None, draws: np.random.Generator) -> pd.DataFrame:
    """Return the lines of a table, or a uniform sample of ``limit``, in their order, never held whole."""
    if limit is None:
        return pd.read_csv(path)
    kept, keys = None, np.empty(0)
    for chunk in pd.read_csv(path, chunksize=CHUNK, low_memory=False):
        keys = np.concatenate([keys, draws.random(len(chunk))])
        kept = pd.concat([kept, chunk])
        if len(keys) > limit:  # keep the rows with the smallest keys: each row has the same chance
            best = np.sort(np.argpartition(keys, limit)[:limit])
            kept, keys = kept.iloc[best], keys[best]
    return kept.reset_index(drop=True)


def _some(items: list, limit: int | None, draws: np.random.Generator) -> list:
    """Return the items, or so many of them at random, in their order."""
    if limit is None or len(items) <= limit:
        return items
    return [items[i] for i in sorted(draws.choice(len(items), limit, replace=False))]


def _csv(found: Recipe, path: Path, limit: int | None, draws: np.random.Generator) -> pd.DataFrame:
    try:
        table = sample_csv(path, limit, draws)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise refusal("no whole table", found=found, path=path) from error
    needed = (found.id,) * bool(found.id) + found.targets + found.needs + tuple(found.rename)
    _need(found, path.name, list(table.columns), needed)
    if table[list(found.targets)].isna().any(axis=None):
        raise refusal("no answer", found=found, path=path)
    return table


def _classes(found: Recipe, column: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """Return a column as class numbers with their names; whole numbers that are no classes 0..k-1 stay."""
    if found.kind not in ("label", "probability", "rank"):
        return column, ()
    if pd.api.types.is_numeric_dtype(column):  # true and false are numbers, too
        return column.astype(int), ()
    names = sorted(column.astype(str).unique())
    if found.unseen:
        names = [found.unseen, *(name for name in names if name != found.unseen)]
    return column.astype(str).map({name: number for number, name in enumerate(names)}), tuple(names)


def _split_columns(found: Recipe, table: pd.DataFrame) -> Rows:
    """Return inputs and answers of a table."""
    targets = table[list(found.targets)]
    inputs = table.drop(columns=[name for name in (*found.targets, found.id) if name])
    if found.rename:  # a text: only the named columns are inputs
        inputs = inputs[list(found.rename)].rename(columns=found.rename)
    if found.kind == "probability" and len(found.targets) > 1:  # one column for each class, exactly one is 1
        if (targets.sum(axis=1) != 1).any() or not targets.isin([0, 1]).all(axis=None):
            raise refusal("no class marked", found=found, columns=", ".join(found.targets))
        number = pd.DataFrame({"target": targets.to_numpy().argmax(axis=1)})
        return Rows(inputs, number, classes=found.targets)
    if len(found.targets) > 1:
        return Rows(inputs, targets)
    column, classes = _classes(found, targets.iloc[:, 0])
    groups = table[found.group].astype(str).str.split("_").str[0].to_numpy() if found.group else None
    return Rows(inputs, pd.DataFrame({"target": column}), groups, classes=classes)


def read_table(found: Recipe, files: Files, limit: int | None, draws: np.random.Generator) -> Rows:
    """Return the rows of a CSV with numbers, categories or texts."""
    rows = _split_columns(found, _csv(found, files.one(found.files[0]), limit, draws))
    if found.modality == "text":
        rows.inputs = rows.inputs.fillna("")  # an empty text is a text, not a missing number
    return rows


@contextmanager
def _opened(path: Path) -> Iterator:
    """Give an opened picture and turn what goes wrong with it into a `TaskError`."""
    from PIL import Image

    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > _LARGEST_PICTURE:
                raise ValueError("too many pixels")
            yield picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise refusal("no picture", path=path) from error


def _grey(path: Path) -> np.ndarray:
    with _opened(path) as picture:
        return np.asarray(picture.convert("L"))


def shrunk(path: Path, side: int, channels: int) -> np.ndarray:
    """Return a picture as an array (side, side, channels) of bytes, grey for 1; its aspect ratio is lost.

    Raises:
        TaskError: The file is no picture, or is cut off.
    """
    mode = "RGB" if channels == 3 else "L"
    with _opened(path) as picture:
        picture.draft(mode, (2 * side, 2 * side))  # a JPEG is decoded at a fraction of its size
        small = picture.convert(mode).resize((side, side))
    return np.asarray(small, dtype=np.uint8).reshape(side, side, channels)


def _with_pictures(found: Recipe, rows: Rows, paths: list[Path]) -> Rows:
    def pictures(chosen: np.ndarray) -> np.ndarray:
        made = np.empty((len(chosen), found.side, found.side, found.channels), dtype=np.uint8)
        for at, row in enumerate(chosen):
            made[at] = shrunk(paths[row], found.side, found.channels)
        return made

    rows.pictures = pictures
    rows.notes.append(f"pictures brought to {found.side} by {found.side} pixels")
    return rows


def read_pictures(found: Recipe, files: Files, limit: int | None, draws: np.random.Generator) -> Rows:
    """Return the rows of a CSV that names one picture a row."""
    table = _csv(found, files.one(found.files[0]), limit, draws)
    folder, pattern = found.picture.split("/")
    names = {path.name: path for path in files.many(found.files[1])}
    wanted = [pattern.format(value) for value in table[found.picture_column]]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise refusal("pictures missing", found=found, count=len(missing), first=f"{folder}/{missing[0]}")
    rows = _split_columns(found, table)
    if not found.needs:  # without numbers of its own the picture is the only input
        rows.inputs = rows.inputs.iloc[:, :0]
    return _with_pictures(found, rows, [names[name] for name in wanted])


def read_named_pictures(found: Recipe, files: Files, limit: int | None, draws: np.random.Generator) -> Rows:
    """Return pictures whose class is the first word of the file name (``cat.0.jpg``)."""
    paths = _some(files.many(found.files[0]), limit, draws)
    names = [path.name.split(".")[0] for path in paths]
    if set(names) != {"cat", "dog"}:
        raise refusal("other names of pictures", found=found, shown=", ".join(sorted(set(names))[:4]))
    target = pd.DataFrame({"target": [int(name == "dog") for name in names]})
    rows = Rows(pd.DataFrame(index=target.index), target, classes=("cat", "dog"))
    return _with_pictures(found, rows, paths)


def read_bands(found: Recipe, files: Files, limit: int | None, draws: np.random.Generator) -> Rows:
    """Return radar echoes: a JSON list of records with two flattened bands."""
    path = files.one(found.files[0])
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise refusal("no whole json", found=found, path=path) from error
    has = list(records[0]) if isinstance(records, list) and records else []
    _need(found, path.name, has, (found.id, *found.targets, *found.needs))
    records = _some(records, limit, draws)
    shape = (found.side, found.side)
    bands = [np.reshape([record[name] for record in records], (-1, *shape)) for name in ("band_1", "band_2")]
    bands = np.stack(bands, axis=-1).astype(np.float32)
    angle = pd.to_numeric(pd.Series([record["inc_angle"] for record in records]), errors="coerce")
    target = pd.DataFrame({"target": [int(record[found.targets[0]]) for record in records]})
    return Rows(pd.DataFrame({"inc_angle": angle}), target, pictures=lambda rows: bands[rows])


def read_cifar(found: Recipe, files: Files, limit: int | None, draws: np.random.Generator) -> Rows:
    """Return the rows of cifar-10's binary files: a byte of label, then red, green and blue pixels."""
    paths = {path.name: path for path in files.many(found.files[0])} | {"": files.one(found.files[1])}
    tables, parts = [], []
    for name in sorted(paths, reverse=True):  # the test batch last
        content = np.frombuffer(paths[name].read_bytes(), dtype=np.uint8)
        if len(content) % 3073 or not len(content):
            raise refusal("no whole pictures", found=found, path=paths[name], size=3073)
        tables.append(content.reshape(-1, 3073))
        parts.append(np.full(len(tables[-1]), VISIBLE if name else HIDDEN))
    table, part = np.concatenate(tables), np.concatenate(parts)
    names = tuple(files.one(found.files[2]).read_text(encoding="utf-8").split())
    if table[:, 0].max() >= len(names):
        raise refusal("label without name", found=found, file=found.files[2])
    target = pd.DataFrame({"target": table[:, 0].astype(int)})

    def pictures(rows: np.ndarray) -> np.ndarray:
        return table[rows, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)

    return Rows(pd.DataFrame(index=target.index), target, part=part, pictures=pictures, classes=names)


def read_pages(found: Recipe, files: Files, limit: int | None, draws: np.random.Generator) -> Rows:
    """Return a random sample of pixels of every page, with dirty and clean pages as arrays.

    Pages of different heights are padded with white below. Pages with the same clean page are one group.
    """
    clean_paths = {path.name: path for path in files.many(found.files[1])}
    dirty, clean = [], []
    for path in files.many(found.files[0]):
        if path.name not in clean_paths:
            raise refusal("no clean page", found=found, page=path.name)
        dirty.append(_grey(path))
        clean.append(_grey(clean_paths[path.name]))
        if dirty[-1].shape != clean[-1].shape:
            raise refusal("pages differ", found=found, page=path.name)
    count = max(1, (limit or sum(found.rows)) // len(dirty))
    alike = pd.factorize(np.array([f"{page.shape} {sha256_bytes(page.tobytes())}" for page in clean]))[0]
    tables = []
    for page, answer in enumerate(clean):
        at = np.sort(draws.choice(answer.size, min(count, answer.size), replace=False))
        row, column = np.divmod(at, answer.shape[1])
        grey = np.round(answer[row, column] / 255, 4)
        tables.append(pd.DataFrame({"page": page, "row": row, "column": column, "target": grey}))
    table = pd.concat(tables, ignore_index=True)
    groups = alike[table["page"]]
    whole = tuple(max(size) for size in zip(*(page.shape for page in dirty), strict=True))

    def padded(pages: list[np.ndarray], shown: Collection[int]) -> np.ndarray:
        made = np.full((len(pages), *whole), 255, dtype=np.uint8)
        for at in shown:
            made[at, : pages[at].shape[0], : pages[at].shape[1]] = pages[at]
        return made

    def visible_clean(rows: Rows, part: np.ndarray) -> np.ndarray:
        """Only visible pages have a clean one; of the others there is blank paper."""
        return padded(clean, set(rows.inputs["page"][part == VISIBLE]))

    arrays = {"dirty": lambda rows, part: padded(dirty, range(len(dirty))), "clean": visible_clean}
    notes = [f"{count} pixels of each page are rows"]
    return Rows(table.drop(columns="target"), table[["target"]], groups, arrays=arrays, notes=notes)


def _gz(found: Recipe, path: Path) -> np.ndarray:
    try:
        return pd.read_csv(path, header=None).to_numpy()
    except (OSError, EOFError, ValueError) as error:
        raise refusal("no whole table", found=found, path=path) from error


def read_graph(found: Recipe, files: Files, limit: int | None, draws: np.random.Generator) -> Rows:
    """Return the nodes of a graph in the layout of the Open Graph Benchmark, renumbered at random."""
    features, labels, edges, *sets = (_gz(found, files.one(name)) for name in found.files)
    nodes = len(features)
    ends = [edges.max(initial=0), *(chosen.max(initial=0) for chosen in sets)]
    if len(labels) != nodes or edges.shape[1] != 2 or max(ends) >= nodes:
        sizes = {"nodes": nodes, "labels": len(labels), "columns": edges.shape[1], "last": max(ends)}
        raise refusal("other graph", found=found, **sizes)
    old = np.concatenate([chosen.ravel() for chosen in sets])
    part = np.repeat([VISIBLE, FEEDBACK, REPORT], [len(chosen) for chosen in sets])
    new = draws.permutation(nodes)  # the official order of the nodes could tell something
    moved = np.empty_like(features, dtype=np.float32)
    moved[new] = features
    edges = new[edges]
    edges = edges[np.lexsort((edges[:, 1], edges[:, 0]))]
    target = pd.DataFrame({"target": labels[old, 0].astype(int)})
    arrays = {"nodes": lambda rows, part: moved, "edges": lambda rows, part: edges}
    return Rows(pd.DataFrame({"node": new[old]}), target, part=part, arrays=arrays)


def read(found: Recipe, files: Files, limit: int | None, draws: np.random.Generator) -> Rows:
    """Return the rows of a recipe.

    Args:
        limit: Draw so many rows at random where there are more; None for all.
        draws: The random stream of that draw.

    Raises:
        TaskError: A column is missing, or a file does not hold what its name says.
    """
    return _READERS[found.reader](found, files, limit, draws)


_READERS = {
    "table": read_table,
    "pictures": read_pictures,
    "named_pictures": read_named_pictures,
    "bands": read_bands,
    "cifar": read_cifar,
    "pages": read_pages,
    "graph": read_graph,
}
