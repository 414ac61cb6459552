"""Measures which columns give the answer away, and which rows stand there twice."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.tasks.metrics import auc
from mlagent_lib.tasks.own.spec import OwnSpec, listed, quoted
from mlagent_lib.tasks.own.target import FEWEST_OF_CLASS, Target
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.splits import normalised_rows

FOLDS = 5
MOST_MEASURED = 5_000  # rows that a column is measured on
DETERMINES = 0.99  # share of the error that a column alone takes away: then the rest of the table is idle
DETERMINES_NUMBER = 0.999  # of the variance, for numbers: what is left is rounding
# What a column that merely names the rows may say about the answer: a little by chance, never this much.
ID_GINI, ID_DEVIATIONS, ID_VARIANCE = 0.25, 4.0, 0.1
_ID_NAME = re.compile(r"(^|[\W_])(id|ids|uid|uuid|guid|index|idx|no|nr|row|rownum|key)$", re.IGNORECASE)
_ID_CAMEL = re.compile(r"[a-z](Id|ID|No|Nr|Index|Key)$")


def check_leaks(inputs: pd.DataFrame, target: Target, spec: OwnSpec) -> list[str]:
    """Return notes on columns that look like ids but say nothing.

    Raises:
        TaskError: A column that names the rows tells the answer, or one column alone determines it.
    """
    notes = []
    rows = _sample(target, np.random.default_rng(derive_seed(spec.seed, "leaks")))
    if np.ptp(target.values[rows]) == 0:
        return notes  # nothing to tell
    for name in inputs.columns:
        if name == "text" and spec.text is not None:
            continue  # no two texts are equal, and that alone makes no id
        codes = _codes(inputs[name])
        if looks_like_id(inputs[name]):
            said, how, limit = _says(codes[rows], target, rows)
            if said > limit and name not in spec.keep:
                raise refusal("id tells", name=name, target=spec.target, how=how, flagged=quoted(name))
            notes.append(f"the column {name!r} looks like an id ({how}): --id {quoted(name)} leaves it out")
            continue
        share = _determines(codes[rows], target, rows)
        if share >= (DETERMINES if target.classes else DETERMINES_NUMBER) and name not in spec.keep:
            raise refusal("column tells", name=name, target=spec.target, share=share, flagged=quoted(name))
    return notes


def _sample(target: Target, stream: np.random.Generator) -> np.ndarray:
    """Return the rows to measure on, in random order: `MOST_MEASURED`, and enough of each class."""
    order = stream.permutation(len(target.values))
    nth = pd.Series(order).groupby(target.strata[order]).cumcount().to_numpy()
    return order[(np.arange(len(order)) < MOST_MEASURED) | (nth < FEWEST_OF_CLASS)]


def looks_like_id(column: pd.Series) -> bool:
    """Return whether a column numbers or names the rows.

    That is: no value occurs twice, and it is words, or whole numbers that are called an id, run through the
    file in order, or leave few numbers out.

    Example:
        >>> [looks_like_id(pd.Series(values, name="x")) for values in ([7, 3, 9, 500], [12, 13, 15, 19])]
        [False, True]
    """
    if column.isna().any() or column.duplicated().any() or len(column) < 2:
        return False
    if not pd.api.types.is_numeric_dtype(column):
        return True
    if (column % 1 != 0).any():
        return False
    steps = np.diff(column.to_numpy(float))
    dense = column.max() - column.min() < 2 * len(column)
    name = str(column.name)
    called = bool(_ID_NAME.search(name) or _ID_CAMEL.search(name))
    return bool(called or dense or (steps > 0).all() or (steps < 0).all())


def _codes(column: pd.Series) -> np.ndarray:
    """Return a column as numbers in the order of its values; missing ones lie below all others."""
    if pd.api.types.is_numeric_dtype(column):
        values = column.astype(float)
        return values.fillna(values.min() - 1).to_numpy()
    return pd.Categorical(column).codes.astype(float)


def _folds(model, codes: np.ndarray, target: Target, rows: np.ndarray, method: str) -> np.ndarray:
    """Return what trees say on rows that they were not fitted on; each fold has its share of every class."""
    from sklearn.model_selection import PredefinedSplit, cross_val_predict

    answers, strata = target.values[rows], target.strata[rows]
    folds = PredefinedSplit(pd.Series(strata).groupby(strata).cumcount() % FOLDS)
    if target.classes:
        answers = answers.astype(int)
    return cross_val_predict(model, codes.reshape(-1, 1), answers, cv=folds, method=method)


def _says(codes: np.ndarray, target: Target, rows: np.ndarray) -> tuple[float, str, float]:
    """Return how much a column of ids tells, that in words, and how much it may tell."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    answers, leaf = target.values[rows], max(5, len(rows) // 100)
    if not target.is_classes:
        tree = DecisionTreeRegressor(min_samples_leaf=leaf, random_state=0)
        guess = _folds(tree, codes, target, rows, "predict")
        said = 1 - np.mean((answers - guess) ** 2) / np.var(answers)
        return said, f"it alone explains {max(said, 0):.0%} of the variance of held-out rows", ID_VARIANCE
    tree = DecisionTreeClassifier(min_samples_leaf=leaf, random_state=0)
    chances = _folds(tree, codes, target, rows, "predict_proba")
    present = np.unique(answers).astype(int)
    area = float(np.mean([auc(answers == k, chances[:, i]) for i, k in enumerate(present)]))
    # One deviation of 2 * AUC - 1 under chance is 1 / sqrt(3 m), m the rows of the rarer side.
    rarest = min(np.bincount(answers.astype(int))[present])
    limit = max(ID_GINI, ID_DEVIATIONS / np.sqrt(3 * rarest))
    return 2 * area - 1, f"AUC {area:.2f} on held-out rows by itself, where 0.5 is chance", limit


def _determines(codes: np.ndarray, target: Target, rows: np.ndarray) -> float:
    """Return the share of the error that one column takes away, 1 for a copy of the answer."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    answers = target.values[rows]
    if target.classes:  # ratings too: a copy of one need not lie on a line
        guess = _folds(DecisionTreeClassifier(random_state=0), codes, target, rows, "predict")
        most = np.unique(answers, return_counts=True)[1].max()
        return 1 - float(np.sum(guess != answers)) / max(1, len(answers) - most)
    if np.ptp(codes) == 0:
        return 0.0
    guess = _folds(DecisionTreeRegressor(random_state=0), codes, target, rows, "predict")
    by_tree = 1 - np.mean((answers - guess) ** 2) / np.var(answers)
    # A copy in another unit lies on a line, its logarithm has its ranks.
    both = pd.DataFrame({"codes": codes, "answers": answers})
    by_line, by_rank = (np.corrcoef(table, rowvar=False)[0, 1] ** 2 for table in (both, both.rank()))
    return float(max(by_tree, by_line, by_rank))


def row_keys(inputs: pd.DataFrame, spec: OwnSpec) -> pd.Series:
    """Return one key for each row, equal for rows that differ in spelling only; of a text task the text's."""
    return normalised_rows(inputs[["text"]] if spec.text is not None else inputs)


def check_contradictions(keys: pd.Series, target: Target, spec: OwnSpec) -> list[str]:
    """Return notes on rows that stand there more than once.

    Raises:
        TaskError: Rows with equal inputs have different classes, and nobody allowed that. Different numbers
            are what every measurement gives, and are only noted.
    """
    repeated = keys.duplicated(keep=False)
    if not repeated.any():
        return []
    kinds = pd.Series(target.values, index=keys.index)[repeated].groupby(keys[repeated]).nunique()
    contradict = kinds.index[kinds > 1]
    count = int(keys.isin(contradict).sum())
    if count and target.classes and not spec.keep_contradictions:
        rows = (np.flatnonzero(keys == contradict[0])[:4] + 1).tolist()
        raise refusal("contradictions", count=count, file=spec.data.name, rows=listed(map(str, rows)))
    note = f"{int(repeated.sum())} rows stand there more than once (equal inputs): all of them are visible"
    return [note + (f"; {count} of them contradict each other" if count else "")]
