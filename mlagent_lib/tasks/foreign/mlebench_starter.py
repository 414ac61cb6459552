"""A first ``train.py`` for a competition, from its train.csv, test.csv and sample submission.

MLE-bench has no starters (the paper had them written by GPT-4o-mini). This one is plain on purpose: a shallow
tree on the columns, or word counts with a linear model, or one constant answer where the tables hold nothing
to learn from (images, sound). The first two have the three blocks ``# data``, ``# model`` and ``# learning``
of the pocket tasks, so the same ideas and the same rule coder work on them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from pandas.api.types import is_bool_dtype, is_float_dtype, is_numeric_dtype

from mlagent_lib.core.files import read_yaml
from mlagent_lib.tasks.foreign.mlebench_read import MOST_CLASSES, Tables
from mlagent_lib.tasks.frames import fitted
from mlagent_lib.tasks.spec import PLAIN

LONG_TEXT = 40  # mean characters of a column that is read as text and not as a category
NAME_WORDS = 3  # mean words of row names that are the text itself, as a comment without an id is
MOST_TEXTS = 500  # different texts as answers; more are free text, which no classifier here can learn


@dataclass(frozen=True)
class StarterScript:
    """A generated starter and what it says of its task.

    Attributes:
        script: Text of ``train.py``.
        modality: ``tabular``, ``text`` or ``other``.
        kind: Of the task: ``label``, ``probability``, ``regression``, ``multioutput`` or ``other``.
        how: What it does, in a few words.
    """

    script: str
    modality: str
    kind: str
    how: str


@cache
def _texts() -> dict:
    return read_yaml(Path(__file__).with_suffix(".yaml"))


def make_starter(train: pd.DataFrame, test: pd.DataFrame, tables: Tables) -> StarterScript:
    """Return the starter of a competition, given train.csv and test.csv; empty tables where there are none.

    Example:
        >>> from pathlib import Path
        >>> train = pd.DataFrame({"id": [1, 2], "x": [0.5, 0.7], "y": ["a", "b"]})
        >>> tables = Tables(train, Path("test.csv"), train[["id", "y"]], "sample.csv", "id", ("y",))
        >>> found = make_starter(train, train[["id", "x"]], tables)
        >>> found.modality, found.kind, found.how
        ('tabular', 'label', 'a tree of depth 5 on 1 columns')
    """
    id_column, targets = tables.id_column, list(tables.targets)
    inputs = [name for name in test if name in train and name not in targets]
    names = [name for name in inputs if name == id_column and _words(train[name]) >= NAME_WORDS]
    inputs = [name for name in inputs if name != id_column] + names
    form, learned = _form(train, test, tables)
    rows = _rows(test, tables)
    if not form or not inputs or not rows:
        return _constant(train, tables)
    text = _text_column(train[inputs]) or "".join(names)
    modality = "text" if text else "tabular"
    layout = _texts()["modalities"][modality]
    kind, model, needed, metric, score, answer = _texts()["forms"][form]
    blocks = {"data": layout["data"], "model": layout[model], "learning": PLAIN}
    imports = [f"from sklearn.metrics import {needed}", "from sklearn.pipeline import make_pipeline"]
    script = _head(tables, imports) + _texts()["learning"].format(
        targets=json.dumps(targets),
        inputs=layout["inputs"].format(names=json.dumps(text or inputs)),
        learned="targets" if len(learned) > 1 else json.dumps(learned[0]),
        fitted=fitted(blocks, metric, score, answer, layout["extras"]),
        id=json.dumps(id_column),
        columns="[str(name) for name in learner.classes_]" if form == "classes" else "targets",
        rows=rows,
    )
    return StarterScript(script, modality, kind, f"{layout['how']} on {text or f'{len(inputs)} columns'}")


def _form(train: pd.DataFrame, test: pd.DataFrame, tables: Tables) -> tuple[str, list[str]]:
    """Return the form of the answer, "" for none that can be learned, and the columns of train it learns."""
    targets = list(tables.targets)
    if all(name in train for name in targets):
        if len(targets) == 1:
            return _form_of_one(train[targets[0]], tables.sample[targets[0]]), targets
        table = train[targets]
        if not all(is_numeric_dtype(table[name]) for name in targets) or table.isna().any(axis=None):
            return "", targets
        is_one_hot = table.isin([0, 1]).all(axis=None) and (table.sum(axis=1) == 1).all()
        return ("shares" if is_one_hot else "multioutput"), targets
    for name in train:  # a column of classes whose names head the columns of the submission
        is_free = name not in test and name != tables.id_column
        if is_free and len(targets) > 1 and set(train[name].astype(str)) == set(targets):
            return "classes", [name]
    return "", targets


def _form_of_one(truth: pd.Series, shown: pd.Series) -> str:
    if truth.isna().any() or not _fits(truth, shown):
        return ""
    if not is_float_dtype(truth) or (truth == truth.round()).all():
        classes = truth.nunique()
        is_number = is_numeric_dtype(truth) and not is_bool_dtype(truth)
        if 2 <= classes <= MOST_CLASSES or (classes > 1 and not is_number):
            asks_for_chances = is_float_dtype(shown) and (shown != shown.round()).any()
            return "binary" if classes == 2 and asks_for_chances else "label"
    return "regression" if is_numeric_dtype(truth) else ""


def _fits(truth: pd.Series, shown: pd.Series) -> bool:
    """Return whether answers as the training rows have them are what the sample shows: no other format."""
    if is_numeric_dtype(truth):
        return is_numeric_dtype(shown)
    return truth.nunique() <= MOST_TEXTS and set(shown.dropna()) <= set(truth.dropna())


def _words(column: pd.Series) -> float:
    return column.dropna().astype(str).str.split().str.len().mean()


def _text_column(inputs: pd.DataFrame) -> str:
    """Return the column with the longest texts, or "" where all are short."""
    texts = (name for name in inputs if not is_numeric_dtype(inputs[name]) and inputs[name].notna().any())
    lengths = {name: inputs[name].dropna().astype(str).str.len().mean() for name in texts}
    longest = max(lengths, key=lengths.get, default="")
    return longest if longest and lengths[longest] >= LONG_TEXT else ""


def _rows(test: pd.DataFrame, tables: Tables) -> str:
    """Return the answers in the order of the submission, as an expression; "" where they cannot reach it."""
    name, ids = tables.id_column, tables.sample[tables.id_column]
    if name not in test:
        return ""
    if test[name].equals(ids):
        return "answer"
    is_key = test[name].is_unique and set(test[name]) >= set(ids)
    return f"answer.loc[sample[{json.dumps(name)}]]" if is_key else ""


def _head(tables: Tables, imports: list[str]) -> str:
    lines = "".join(f"{line}\n" for line in imports)
    return _texts()["head"].format(imports=lines, sample=_sample_path(tables))


def _sample_path(tables: Tables) -> str:
    return json.dumps(f"data/{tables.sample_name}")


def sample_starter(tables: Tables) -> StarterScript:
    """Return the starter that hands in the sample submission."""
    script = _texts()["sample"].format(sample=_sample_path(tables))
    return StarterScript(script, "other", "other", "the sample submission, unchanged")


def _constant(train: pd.DataFrame, tables: Tables) -> StarterScript:
    """Return a starter that gives every row the same answer, where the training rows tell one."""
    for name in tables.targets:
        if name not in train or not train[name].notna().any() or not _fits(train[name], tables.sample[name]):
            return sample_starter(tables)
    script = _head(tables, []) + _texts()["constant"].format(targets=json.dumps(list(tables.targets)))
    how = "one answer for all rows: the mean, or the commonest class"
    return StarterScript(script, "other", "other", how)
