"""Writes the folder of a paper task, all but its scores: sets, data, labels, starter, texts and card."""

from __future__ import annotations

import tempfile
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.limits import Limits
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.grading import LABEL_SETS
from mlagent_lib.tasks.metrics import get_metric
from mlagent_lib.tasks.paper import readers
from mlagent_lib.tasks.paper.archives import Files
from mlagent_lib.tasks.paper.recipes import PREFIX, Recipe
from mlagent_lib.tasks.paper.splitting import deal, demand, sizes_of, spread_classes
from mlagent_lib.tasks.paper.starters import starter
from mlagent_lib.tasks.pocket.frames import answer_columns
from mlagent_lib.tasks.task import checksums

READ_ONLY = ("data/*", "data_description.txt")
RARE = 3  # a class with fewer rows cannot be in all three sets

_PREPARE = '''"""Builds this task anew from the downloaded data (deterministic)."""

from mlagent_lib.commands.tasks_prepare import prepare_isolated

if __name__ == "__main__":
    prepare_isolated({name!r}, {options}, again=True)
'''
_EVAL = '''"""Scores a submission on the report labels, as MLAgentBench's evaluators do."""

from pathlib import Path

from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.task import load_task


def get_score(folder):
    """Return the {metric} of submission.csv in a folder."""
    task = load_task(Path(__file__).resolve().parent.parent)
    return grade(task, Path(folder, "submission.csv").read_bytes(), "report")
'''


def write_folder(found: Recipe, source: Path, folder: Path, options: dict) -> None:
    """Write all of a task folder but its scores.

    Args:
        found: The recipe.
        source: The download: an archive, or a folder with archives or files.
        folder: The task folder, which does not exist yet; its parent does, and holds what is unpacked.
        options: ``rows`` and ``seed``, and what else `prepare_paper_task` was asked for.

    Raises:
        TaskError: A file or a column is missing, or there are too few rows.
        DamagedArchive: See `unpack`.
    """
    rows, seed = options["rows"], options["seed"]
    caps = found.caps if rows in (None, "all") else (rows, *found.caps[1:])
    limit = None if rows == "all" else sum(caps)
    with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=folder.parent) as work:
        files = Files(source, Path(work), found)
        table = readers.read(found, files, limit, rng(seed, found.name, "sample"))
        table, pictures = _without_rare_and_repeated(found, table)
        part = _cut(found, table, caps, rows == "all", seed)
        if found.unseen:
            _merge_unseen(table, part)
        order = _order(found, table, part, seed)
        _write_data(found, folder, table, pictures, part, order, seed)
    classes = _class_numbers(found, table)
    _demand_classes(found, table, part)
    outputs = tuple(table.targets)
    counts = np.bincount(part[np.concatenate(order)], minlength=3)
    texts = {
        "env/train.py": starter(found, outputs, len(classes)),
        "env/data_description.txt": _description(found, folder, table, counts),
        "scripts/research_problem.txt": _request(found),
        "scripts/read_only_files.txt": "\n".join(READ_ONLY) + "\n",
        "scripts/prepare.py": _PREPARE.format(
            name=PREFIX + found.name, options=", ".join(f"{key}={value!r}" for key, value in options.items())
        ),
        "scripts/eval.py": _EVAL.format(metric=found.metric),
    }  # fmt: skip
    for path, text in texts.items():
        (folder / path).write_text(text, encoding="utf-8")
    card = {
        "name": found.name,
        "modality": found.modality,
        "kind": found.kind,
        "metric": found.metric,
        "direction": "maximize" if get_metric(found.metric).greater_is_better else "minimize",
        "split": found.split,
        "paper_task": found.paper_task,
        "description": found.description,
        "facts": list(found.facts),
        "rows": int(counts[0]),
        "columns": table.inputs.shape[1] + (pictures is not None),
        "provenance": f"{found.page}; {found.splitting}; seed {seed}; {_count_words(counts)}"
        + "".join(f"; {note}" for note in table.notes)
        + "; the labels are public elsewhere, so that a model may have seen them in its training",
        "licence": found.licence,
        "real": False,
        "answer": {
            "columns": list(answer_columns(found.kind, found.metric, len(classes), outputs)),
            "classes": classes,
        },
        "limits": Limits(seconds=found.seconds, memory_bytes=found.memory).to_json(),
        "checksums": checksums(folder),
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(card, sort_keys=False, width=110), encoding="utf-8")


def _count_words(counts: np.ndarray) -> str:
    return f"{counts[0]} visible, {counts[1]} feedback, {counts[2]} report rows"


def _strata(found: Recipe, table: readers.Rows) -> np.ndarray:
    """Return one key for each row that is equal for rows of the same class."""
    if not found.stratified:
        return np.zeros(len(table.targets), dtype=int)
    return table.targets.astype(str).agg(" ".join, axis=1).to_numpy()


def _without_rare_and_repeated(found: Recipe, table: readers.Rows) -> tuple[readers.Rows, np.ndarray | None]:
    """Return the rows that can be used, and their pictures."""
    if found.kind in ("label", "probability") and table.part is None:
        count = table.targets["target"].map(table.targets["target"].value_counts())
        rare = sorted(set(table.targets["target"][count < RARE]))
        if rare and found.kind == "probability":  # every class is a column of the answer
            raise TaskError(
                f"{found.name}: class {rare[0]} has fewer than {RARE} rows",
                cure="use the whole download, or raise --rows",
            )
        if rare:
            table.notes.append(f"classes with fewer than {RARE} rows left out: {', '.join(map(str, rare))}")
            table = table.take(np.flatnonzero(count >= RARE))
    pictures = table.pictures(np.arange(len(table.targets))) if table.pictures else None
    if pictures is not None:
        keys = pd.Series([sha256(picture.tobytes()).digest() for picture in pictures])
        if table.inputs.shape[1]:
            keys = pd.Series([f"{key} {row}" for key, row in zip(keys, _keys(table.inputs), strict=True)])
    else:
        keys = _keys(table.inputs)
    # A repeated row would stand in two sets, or twice in one: the first stays, wherever the others are. Of
    # official sets the hidden one keeps it, which leaves its labels whole.
    where = np.arange(len(keys)) if table.part is None else np.argsort(-table.part, kind="stable")
    chosen = np.sort(where[~keys.iloc[where].duplicated().to_numpy()])
    if len(chosen) < len(keys):
        table.notes.append(f"{len(keys) - len(chosen)} repeated rows left out")
        table, pictures = table.take(chosen), None if pictures is None else pictures[chosen]
    return table, pictures


def _keys(inputs: pd.DataFrame) -> pd.Series:
    from mlagent_lib.tasks.pocket.suite import normalised_rows  # here: it loads the sources of the suite

    return normalised_rows(inputs)


def _cut(found: Recipe, table: readers.Rows, caps: tuple, every: bool, seed: int) -> np.ndarray:
    """Return for each row 0, 1, 2 (visible, feedback, report) or -1 (not used)."""
    draws, strata = rng(seed, found.name, "sets"), _strata(found, table)
    if table.part is None:
        part = deal(strata, table.groups, sizes_of(len(strata), caps, every), draws)
    else:
        part = table.part.copy()
        hidden = np.flatnonzero(part == readers.HIDDEN)
        if len(hidden):
            part[hidden] = 1 + deal(strata[hidden], None, caps[1:], draws)
        for number, cap in enumerate(caps):
            rows = np.flatnonzero(part == number)
            if len(rows) > cap and not (every and number == 0):
                part[draws.permutation(rows)[cap:]] = -1
    demand(part[part >= 0], found.name)
    return part


def _merge_unseen(table: readers.Rows, part: np.ndarray) -> None:
    """Give class 0 to the hidden rows whose class is in no visible row."""
    target = table.targets["target"].to_numpy().copy()
    seen = np.unique(target[part == 0])
    lost = (part > 0) & ~np.isin(target, seen)
    target[lost] = 0
    table.targets["target"] = target
    table.notes.append(f"{int(lost.sum())} hidden rows of unseen classes became class 0")


def _order(found: Recipe, table: readers.Rows, part: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the visible rows and the hidden rows in the order in which they are written."""
    draws, visible = rng(seed, found.name, "order"), np.flatnonzero(part == 0)
    hidden = np.flatnonzero(part > 0)
    if found.group or found.reader == "pages":  # rows that belong together stay together for validation
        keys = pd.Series(table.groups[visible])
        place = {key: at for at, key in enumerate(draws.permutation(keys.unique()))}
        visible = visible[np.argsort(keys.map(place).to_numpy(), kind="stable")]
    else:
        visible = visible[spread_classes(_strata(found, table)[visible], draws)]
    return visible, draws.permutation(hidden)


def _write_data(found, folder, table, pictures, part, order, seed) -> None:
    """Write env/data and the hidden labels."""
    data, labels = folder / "env" / "data", folder / "scripts" / "labels"
    data.mkdir(parents=True)
    labels.mkdir(parents=True)
    visible, hidden = order
    inputs = table.inputs.copy()
    if pictures is not None:
        place = np.full(len(inputs), -1)
        place[np.concatenate(order)] = np.arange(len(visible) + len(hidden))
        inputs.insert(0, "picture", place)
        np.save(data / "pictures.npy", pictures[np.concatenate(order)])
    pd.concat([inputs, table.targets], axis=1).iloc[visible].to_csv(data / "train.csv", index=False)
    # The two hidden sets are mixed, and ids say nothing: a script cannot tell which rows are which.
    ids = 100_000 + rng(seed, found.name, "ids").choice(900_000, len(hidden), replace=False)
    index = pd.Index(ids, name="id")
    inputs.iloc[hidden].set_axis(index, axis=0).to_csv(data / "test.csv")
    answers = table.targets.iloc[hidden].set_axis(index, axis=0)
    for number, name in enumerate(LABEL_SETS, start=1):
        answers[part[hidden] == number].to_csv(labels / f"{name}.csv")
        (labels / f"{name}.csv").chmod(0o600)
    labels.chmod(0o700)
    for name, make in table.arrays.items():
        np.save(data / name, make(table, part))
    if table.classes:
        names = pd.DataFrame({"target": range(len(table.classes)), "name": table.classes})
        names.to_csv(data / "classes.csv", index=False)


def _class_numbers(found: Recipe, table: readers.Rows) -> list[int]:
    if found.kind not in ("label", "probability", "rank") and found.metric != "qwk":
        return []
    classes = sorted(int(value) for value in np.unique(table.targets["target"]))
    if len(classes) < 2:
        raise TaskError(f"{found.name}: all rows that are left have one class", cure="use the whole download")
    return classes


def _demand_classes(found: Recipe, table: readers.Rows, part: np.ndarray) -> None:
    """Raise where a set lacks a class that its metric needs."""
    if found.kind == "probability":
        columns = {"": table.targets["target"].to_numpy()}
    elif found.metric == "auc-columns":
        columns = {name: table.targets[name].to_numpy() for name in table.targets}
    else:
        return
    for column, values in columns.items():
        for number, name in enumerate(("visible", *LABEL_SETS)):
            lost = sorted(set(np.unique(values)) - set(np.unique(values[part == number])))
            if lost and (number == 0 or found.metric != "logloss"):
                raise TaskError(
                    f"{found.name}: the {name} set has no row of class {lost[0]}"
                    + f" of {column}" * bool(column),
                    cure="use the whole download, or raise --rows",
                )


def _description(found: Recipe, folder: Path, table: readers.Rows, counts: np.ndarray) -> str:
    """Return the text that the agent reads about the data."""
    inputs, targets = list(table.inputs), list(table.targets)
    if (folder / "env" / "data" / "pictures.npy").is_file():
        inputs = ["picture", *inputs]
    shown = (
        ", ".join(inputs) if len(inputs) <= 15 else f"{inputs[0]} ... {inputs[-1]} ({len(inputs)} columns)"
    )
    lines = [
        found.description,
        "",
        f"data/train.csv: {counts[0]} rows, inputs {shown}; answers {', '.join(targets)}.",
        f"data/test.csv: {counts[1] + counts[2]} rows, id and the same inputs.",
    ]
    files = {
        "pictures.npy": "all pictures as one array (rows, height, width, channels); picture is the row.",
        "dirty.npy": "all pages as one array (pages, height, width) of grey values 0 to 255.",
        "clean.npy": "the clean page of each visible page; blank for the others.",
        "nodes.npy": "one line of features for each node, node 0 first.",
        "edges.npy": "two node numbers a line: a paper and one that it cites.",
        "classes.csv": "the name of each class number.",
    }
    lines += [
        f"data/{name}: {text}" for name, text in files.items() if (folder / "env/data" / name).is_file()
    ]
    lines += ["Facts: " + "; ".join(found.facts) + "."]
    return "\n".join(lines) + "\n"


def _request(found: Recipe) -> str:
    """Return the research problem, in the manner of the paper's figure 7."""
    better = "raise" if get_metric(found.metric).greater_is_better else "lower"
    words = found.metric.removesuffix("-columns")
    return (
        f"{found.description}\n\n"
        f"You are given a training script train.py and data_description.txt. Understand the script, then "
        f"improve it: {better} the {words} on the test rows to {found.goal}.\n"
        f"(1) Do not change the random seed.\n"
        f"(2) Save the answers for all rows of data/test.csv to submission.csv, in the format of train.py.\n"
        f"(3) One run may take {found.seconds:g} seconds on one core.\n"
    )
