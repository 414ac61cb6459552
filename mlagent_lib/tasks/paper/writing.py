"""Writes the folder of a paper task, all but its scores: the rows of a download, cut into sets."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator

from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.folder import write_tables, write_texts
from mlagent_lib.tasks.grading import LABEL_SETS
from mlagent_lib.tasks.paper import readers
from mlagent_lib.tasks.paper.archives import Files
from mlagent_lib.tasks.paper.recipes import PREFIX, Recipe
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.spec import Sample
from mlagent_lib.tasks.splits import Split, deal, normalised_rows

RARE = 3  # a class with fewer rows cannot be in all three sets
SETS = ("visible", *LABEL_SETS)

_FILES = {
    "pictures": "pictures.npy: all pictures as one array (rows, height, width, channels); picture: its row.",
    "dirty": "dirty.npy: all pages as one array (pages, height, width) of grey values 0 to 255.",
    "clean": "clean.npy: the clean page of each visible page; blank for the others.",
    "nodes": "nodes.npy: one line of features for each node, node 0 first.",
    "edges": "edges.npy: two node numbers a line: a paper and one that it cites.",
    "classes": "classes.csv: the name of each class number.",
}
_PREPARE = '''"""Builds this task anew from the downloaded data (deterministic)."""

import subprocess
import sys

OPTIONS = dict({options})

if __name__ == "__main__":
    command = [sys.executable, "-m", "mlagent_lib", "tasks", "prepare", {name!r}, "--again"]
    for name, value in OPTIONS.items():
        command += [f"--{{name.replace('_', '-')}}", str(value)] if value not in (None, "") else []
    subprocess.run(command, check=True)
'''


def write_folder(found: Recipe, source: Path, folder: Path, options: dict) -> None:
    """Write all of a task folder but its scores.

    Args:
        source: The download: an archive, or a folder with archives or files.
        folder: The task folder, which does not exist yet; its parent does, and holds what is unpacked.
        options: ``rows`` and ``seed``, and what else `prepare_paper_task` was asked for.

    Raises:
        TaskError: A file or a column is missing, or there are too few rows.
    """
    rows, seed = options["rows"], options["seed"]
    caps = found.rows if rows in (None, "all") else (rows, *found.rows[1:])
    limit = None if rows == "all" else sum(caps)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=folder.parent) as work:
        table = readers.read(found, Files(source, Path(work), found), limit, rng(seed, found.name, "sample"))
        table, pictures = _without_rare_and_repeated(found, table)
    parts = _cut(found, table, caps, rows == "all", rng(seed, found.name, "sets"))
    if found.unseen:
        _merge_unseen(table, parts)
    draws = rng(seed, found.name, "order")
    split = Split.of(parts, _strata(found, table), draws, _units(table))
    classes = _class_numbers(found, table)
    _demand_classes(found, table, parts)
    sample = _sample(table, pictures, parts, split, draws)
    counts = ", ".join(f"{count} {name}" for count, name in zip(split.rows, SETS, strict=True))
    provenance = [found.page, found.splitting, f"seed {seed}", f"{counts} rows", *table.notes]
    provenance += ["the labels are public elsewhere, so that a model may have seen them in its training"]
    spec = replace(found, rows=split.rows, paper_task=found.origin, provenance="; ".join(provenance))
    stated = ", ".join(f"{key}={value!r}" for key, value in options.items())
    prepare = _PREPARE.format(name=PREFIX + found.name, options=stated)
    more = [f"data/{text}" for name, text in _FILES.items() if name in sample.extra]
    write_tables(folder, sample, split.rows, rng(seed, found.name, "ids"))
    told = {"may_lack_classes": True, "tell_origin": False, "licence": found.licence}
    write_texts(folder, spec, sample, classes, prepare=prepare, more=more, **told)


def _sample(
    table: readers.Rows, pictures: np.ndarray | None, parts: np.ndarray, split: Split, draws: Generator
) -> Sample:
    """Return the rows in the order of the split, with the arrays that belong to them."""
    order, visible = split.order, len(split.visible)
    inputs, targets = (rows.iloc[order].reset_index(drop=True) for rows in (table.inputs, table.targets))
    extra = {name: make(table, parts) for name, make in table.arrays.items()}
    if pictures is not None:  # the two hidden sets are mixed: a number tells nothing
        place = np.r_[:visible, visible + draws.permutation(len(order) - visible)]
        inputs = pd.concat([pd.Series(place, name="picture"), inputs], axis=1)
        extra["pictures"] = pictures[order[np.argsort(place)]]
    if table.classes:
        extra["classes"] = pd.DataFrame({"target": range(len(table.classes)), "name": table.classes})
    return Sample(inputs, targets, extra)


def _strata(found: Recipe, table: readers.Rows) -> np.ndarray:
    """Return one key for each row that is equal for rows of the same class."""
    if not found.stratified:
        return np.zeros(len(table.targets), dtype=int)
    return table.targets.astype(str).agg(" ".join, axis=1).to_numpy()


def _units(table: readers.Rows) -> np.ndarray | None:
    return None if table.groups is None else pd.factorize(table.groups)[0]


def _without_rare_and_repeated(found: Recipe, table: readers.Rows) -> tuple[readers.Rows, np.ndarray | None]:
    """Return the rows that can be used, and their pictures."""
    if found.kind in ("label", "probability") and table.part is None:
        count = table.targets["target"].map(table.targets["target"].value_counts())
        rare = sorted(set(table.targets["target"][count < RARE]))
        if rare and found.kind == "probability":  # every class is a column of the answer
            raise refusal("rare class", name=found.name, rare=rare[0], least=RARE)
        if rare:
            table.notes.append(f"classes with fewer than {RARE} rows left out: {', '.join(map(str, rare))}")
            table = table.take(np.flatnonzero(count >= RARE))
    pictures = table.pictures(np.arange(len(table.targets))) if table.pictures else None
    keys = normalised_rows(table.inputs) if table.inputs.shape[1] else pd.Series([""] * len(table.targets))
    if pictures is not None:
        keys = keys + [sha256(picture.tobytes()).hexdigest() for picture in pictures]
    # A repeated row would stand in two sets, or twice in one: the first stays, wherever the others are. Of
    # official sets the hidden one keeps it, which leaves its labels whole.
    where = np.arange(len(keys)) if table.part is None else np.argsort(-table.part, kind="stable")
    chosen = np.sort(where[~keys.iloc[where].duplicated().to_numpy()])
    if len(chosen) < len(keys):
        table.notes.append(f"{len(keys) - len(chosen)} repeated rows left out")
        table, pictures = table.take(chosen), None if pictures is None else pictures[chosen]
    return table, pictures


def sizes_of(rows: int, caps: tuple[int, int, int], every: bool = False) -> tuple[int, int, int]:
    """Return how many rows each set gets: the caps where there are enough rows, else the same ratio.

    Args:
        rows: Rows that there are, at least 3.
        caps: Most rows of each set.
        every: Let the visible set take all rows that the hidden sets leave.

    Example:
        >>> sizes_of(100, (6, 2, 2)), sizes_of(5, (6, 2, 2)), sizes_of(100, (6, 2, 2), every=True)
        ((6, 2, 2), (3, 1, 1), (96, 2, 2))
    """
    share = min(1.0, rows / sum(caps))
    hidden = [max(1, int(cap * share)) for cap in caps[1:]]
    left = rows - sum(hidden)
    return (left if every else min(left, caps[0]), *hidden)


def _cut(found: Recipe, table: readers.Rows, caps: tuple, every: bool, draws: Generator) -> np.ndarray:
    """Return for each row 0, 1, 2 (visible, feedback, report) or -1 (not used)."""
    strata = _strata(found, table)
    if table.part is None:
        parts = deal(strata, sizes_of(len(strata), caps, every), draws, _units(table))
    else:
        parts = table.part.copy()
        hidden = np.flatnonzero(parts == readers.HIDDEN)
        if len(hidden):
            parts[hidden] = 1 + deal(strata[hidden], caps[1:], draws)
        for number, cap in enumerate(caps):
            rows = np.flatnonzero(parts == number)
            if len(rows) > cap and not (every and number == 0):
                parts[draws.permutation(rows)[cap:]] = -1
    demand(parts[parts >= 0], found.name)
    return parts


def demand(parts: np.ndarray, name: str) -> None:
    """Raise a `TaskError` where one of the three sets has no rows."""
    counts = np.bincount(parts, minlength=3)
    if counts.min() == 0:
        raise refusal("empty set", name=name, rows=len(parts), empty=SETS[int(np.argmin(counts))])


def _merge_unseen(table: readers.Rows, parts: np.ndarray) -> None:
    """Give class 0 to the hidden rows whose class is in no visible row."""
    target = table.targets["target"].to_numpy().copy()
    lost = (parts > 0) & ~np.isin(target, np.unique(target[parts == 0]))
    target[lost] = 0
    table.targets["target"] = target
    table.notes.append(f"{int(lost.sum())} hidden rows of unseen classes became class 0")


def _class_numbers(found: Recipe, table: readers.Rows) -> list[int]:
    if found.kind not in ("label", "probability", "rank") and found.metric != "qwk":
        return []
    classes = sorted(int(value) for value in np.unique(table.targets["target"]))
    if len(classes) < 2:
        raise refusal("one class", name=found.name)
    return classes


def _demand_classes(found: Recipe, table: readers.Rows, parts: np.ndarray) -> None:
    """Raise where a set lacks a class that its metric needs; a logarithm needs it in the visible set only."""
    if found.kind != "probability" and found.metric != "auc-columns":
        return
    for column, values in table.targets.items():
        for number, name in enumerate(SETS[:1] if found.metric == "logloss" else SETS):
            lost = sorted(set(values) - set(values[parts == number]))
            if lost:
                of_column = f" of {column}" if found.kind != "probability" else ""
                raise refusal("lost class", name=found.name, set=name, lost=lost[0], of_column=of_column)
