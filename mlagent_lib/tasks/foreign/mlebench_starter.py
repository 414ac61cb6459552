"""A first ``train.py`` for a competition, from its train.csv, test.csv and sample submission.

MLE-bench has no starters (the paper had them written by GPT-4o-mini). This one is plain on purpose: a shallow
tree on the columns, or word counts with a linear model, or one constant answer where the tables hold nothing
to learn from (images, sound). The first two have the three blocks ``# data``, ``# model`` and ``# learning``
of the pocket tasks, so the same ideas and the same rule coder work on them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import pandas as pd

from mlagent_lib.tasks.foreign.mlebench_read import MOST_CLASSES, Tables

LONG_TEXT = 40  # mean characters of a column that is read as text and not as a category
NAME_WORDS = 3  # mean words of row names that are the text itself, as a comment without an id is
MOST_TEXTS = 500  # different texts as answers; more are free text, which no classifier here can learn

_DATA = {
    "tabular": "from sklearn.compose import make_column_transformer\n"
    "from sklearn.impute import SimpleImputer\n"
    "from sklearn.preprocessing import OrdinalEncoder\n"
    'codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)\n'
    'prepare = make_column_transformer((SimpleImputer(strategy="median"), numbers), (codes, words))',
    "text": "from sklearn.feature_extraction.text import TfidfVectorizer\n"
    "prepare = TfidfVectorizer(max_features=2000)",
}
_MODELS = {
    ("tabular", "class"): "from sklearn.tree import DecisionTreeClassifier\n"
    "model = DecisionTreeClassifier(max_depth=5, min_samples_leaf=5, random_state=0)",
    ("tabular", "number"): "from sklearn.tree import DecisionTreeRegressor\n"
    "model = DecisionTreeRegressor(max_depth=5, min_samples_leaf=5, random_state=0)",
    ("text", "class"): "from sklearn.naive_bayes import MultinomialNB\nmodel = MultinomialNB()",
    ("text", "number"): "from sklearn.linear_model import Ridge\nmodel = Ridge()",
}
# Kind of the answer -> import of the validation metric, its name, its expression, the answer to {X}.
_KINDS = {
    "label": ("accuracy_score", "accuracy", "accuracy_score(y_valid, guess)", "learner.predict({X})"),
    "binary": (
        "log_loss",
        "logloss",
        "log_loss(y_valid, guess, labels=learner.classes_)",
        "learner.predict_proba({X})[:, 1]",
    ),
    "classes": (
        "log_loss",
        "logloss",
        "log_loss(y_valid, guess, labels=learner.classes_)",
        "learner.predict_proba({X})",
    ),
    "regression": (
        "root_mean_squared_error",
        "rmse",
        "root_mean_squared_error(y_valid, guess)",
        "learner.predict({X}).clip(y.min(0), y.max(0))",  # a grader may refuse a chance above 1
    ),
}
_KINDS["multioutput"] = _KINDS["regression"]
_KINDS["shares"] = (
    *_KINDS["regression"][:3],
    "(some := learner.predict({X}).clip(1e-6, 1)) / some.sum(1, keepdims=True)",
)


@dataclass(frozen=True)
class Starter:
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


def make_starter(train: pd.DataFrame, test: pd.DataFrame, tables: Tables) -> Starter:
    """Return the starter of a competition.

    Args:
        train: ``train.csv``; empty where there is none.
        test: ``test.csv``; empty where there is none.
        tables: The sample submission, and which of its columns have to be answered.

    Example:
        >>> from pathlib import Path
        >>> train = pd.DataFrame({"id": [1, 2], "x": [0.5, 0.7], "y": ["a", "b"]})
        >>> tables = Tables(train, Path("test.csv"), train[["id", "y"]], "sample.csv", "id", ("y",))
        >>> found = make_starter(train, train[["id", "x"]], tables)
        >>> found.modality, found.kind, found.how
        ('tabular', 'label', 'a tree of depth 5 on 1 columns')
    """
    sample, id_column, sample_file = tables.sample, tables.id_column, tables.sample_name
    targets = list(tables.targets)
    inputs = [name for name in test if name in train and name not in targets]
    names = [name for name in inputs if name == id_column and _words(train[name]) >= NAME_WORDS]
    inputs = [name for name in inputs if name != id_column] + names
    answer, learned = _answer(train, test, sample, targets, id_column)
    order = _order(test, sample, id_column)
    if not answer or not inputs or order is None:
        return _constant(train, sample, targets, sample_file)
    text = _text_column(train[inputs]) or "".join(names)
    modality = "text" if text else "tabular"
    script = _frame(modality, answer, learned, targets, text or inputs, sample_file)
    script += _tail(answer, order, id_column)
    kind = {"binary": "probability", "classes": "probability", "shares": "multioutput"}.get(answer, answer)
    model = {"tabular": "a tree of depth 5", "text": "word counts and a linear model"}[modality]
    return Starter(script, modality, kind, f"{model} on {text or f'{len(inputs)} columns'}")


def _answer(
    train: pd.DataFrame, test: pd.DataFrame, sample: pd.DataFrame, targets: list[str], id_column: str
) -> tuple[str, list[str]]:
    """Return the form of the answer (a key of `_KINDS`, or "") and the columns of train that it learns."""
    if all(name in train for name in targets):
        if len(targets) == 1:
            return _single(train[targets[0]], sample[targets[0]]), targets
        table = train[targets]
        are_numbers = all(pd.api.types.is_numeric_dtype(table[name]) for name in targets)
        if not are_numbers or table.isna().any(axis=None):
            return "", targets
        is_one_hot = table.isin([0, 1]).all(axis=None) and (table.sum(axis=1) == 1).all()
        return ("shares" if is_one_hot else "multioutput"), targets
    for name in train:  # a column of classes whose names head the columns of the submission
        is_free = name not in test and name != id_column
        if is_free and len(targets) > 1 and set(train[name].astype(str)) == set(targets):
            return "classes", [name]
    return "", targets


def _single(truth: pd.Series, shown: pd.Series) -> str:
    if truth.isna().any() or not _fits(truth, shown):
        return ""
    if not pd.api.types.is_float_dtype(truth) or (truth == truth.round()).all():
        classes = truth.nunique()
        is_number = pd.api.types.is_numeric_dtype(truth) and not pd.api.types.is_bool_dtype(truth)
        if 2 <= classes <= MOST_CLASSES or (classes > 1 and not is_number):
            asks_for_chances = pd.api.types.is_float_dtype(shown) and (shown != shown.round()).any()
            return "binary" if classes == 2 and asks_for_chances else "label"
    return "regression" if pd.api.types.is_numeric_dtype(truth) else ""


def _fits(truth: pd.Series, shown: pd.Series) -> bool:
    """Return whether answers as the training rows have them are what the sample shows: no other format."""
    if pd.api.types.is_numeric_dtype(truth):
        return pd.api.types.is_numeric_dtype(shown)
    return truth.nunique() <= MOST_TEXTS and set(shown.dropna()) <= set(truth.dropna())


def _words(column: pd.Series) -> float:
    return column.dropna().astype(str).str.split().str.len().mean()


def _text_column(inputs: pd.DataFrame) -> str:
    """Return the column with the longest texts, or "" where all are short."""
    lengths = {
        name: inputs[name].dropna().astype(str).str.len().mean()
        for name in inputs
        if not pd.api.types.is_numeric_dtype(inputs[name]) and inputs[name].notna().any()
    }
    longest = max(lengths, key=lengths.get, default="")
    return longest if longest and lengths[longest] >= LONG_TEXT else ""


def _order(test: pd.DataFrame, sample: pd.DataFrame, id_column: str) -> str | None:
    """Return how the rows of ``test`` reach those of the submission; None where they cannot."""
    if id_column not in test:
        return None
    if test[id_column].equals(sample[id_column]):
        return "same"
    is_key = test[id_column].is_unique and set(test[id_column]) >= set(sample[id_column])
    return "by id" if is_key else None


def _head(sample_file: str) -> list[str]:
    return [
        "import numpy as np",
        "import pandas as pd",
        "",
        "SEED = 0",
        "np.random.seed(SEED)",
        'train = pd.read_csv("data/train.csv").sample(frac=1, random_state=SEED)',
        f"sample = pd.read_csv({json.dumps('data/' + sample_file)})",
    ]


def _frame(
    modality: str,
    answer: str,
    learned: list[str],
    targets: list[str],
    inputs: str | list[str],
    sample_file: str,
) -> str:
    needed, metric, score, expression = _KINDS[answer]
    lines = _head(sample_file)
    lines[2:2] = [
        f"from sklearn.metrics import {needed}",
        "from sklearn.pipeline import make_pipeline",
    ]
    lines += ['test = pd.read_csv("data/test.csv")', f"targets = {json.dumps(targets)}"]
    if modality == "text":
        lines += [f'X_all, X_test = (table[{json.dumps(inputs)}].fillna("") for table in (train, test))']
    else:
        lines += [f"inputs = {json.dumps(inputs)}", "X_all, X_test = train[inputs], test[inputs]"]
    one = json.dumps(learned[0])
    lines += [
        "y_all = train[targets].to_numpy()" if len(learned) > 1 else f"y_all = train[{one}].to_numpy()",
        "cut = len(train) * 3 // 4",
        "X, X_valid, y, y_valid = X_all[:cut], X_all[cut:], y_all[:cut], y_all[cut:]",
    ]
    if modality == "tabular":
        lines += [
            'numbers = X.select_dtypes("number").columns.tolist()',
            "words = [name for name in X if name not in numbers]",
            "as_text = dict.fromkeys(words, str)",
            "X, X_valid, X_test = (table.astype(as_text) for table in (X, X_valid, X_test))",
        ]
    model = "class" if answer in ("label", "binary", "classes") else "number"
    blocks = {
        "data": _DATA[modality],
        "model": _MODELS[modality, model],
        "learning": "learner = make_pipeline(prepare, model)",
    }
    lines += [""] + [f"# {axis}\n{block}\n" for axis, block in blocks.items()]
    lines += [
        "learner.fit(X, y)",
        f"guess = {expression.format(X='X_valid')}",
        f"score = {score}",
        f'print(f"validation {metric}: {{score:.4f}}")',
        f"answer = {expression.format(X='X_test')}",
    ]
    return "\n".join(lines) + "\n"


def _tail(answer: str, order: str, id_column: str) -> str:
    """Return the lines that write the submission."""
    name = json.dumps(id_column)
    columns = "[str(name) for name in learner.classes_]" if answer == "classes" else "targets"
    rows = {"same": "answer", "by id": f"answer.loc[sample[{name}]]"}[order]
    lines = [
        f"answer = pd.DataFrame(answer, test[{name}], {columns}).reindex(columns=targets, fill_value=0)",
        f"sample[targets] = {rows}.to_numpy()",
        'sample.to_csv("submission.csv", index=False)',
    ]
    return "\n".join(lines) + "\n"


def sample_starter(sample_file: str) -> Starter:
    """Return the starter that hands in the sample submission.

    Args:
        sample_file: Its place below ``data/``.
    """
    script = (
        "import pandas as pd\n\n"
        f"sample = pd.read_csv({json.dumps('data/' + sample_file)})\n"
        'sample.to_csv("submission.csv", index=False)\n'
    )
    return Starter(script, "other", "other", "the sample submission, unchanged")


def _constant(train: pd.DataFrame, sample: pd.DataFrame, targets: list[str], sample_file: str) -> Starter:
    """Return a starter that gives every row the same answer."""
    if not all(name in train and train[name].notna().any() and _fits(train[name], sample[name])
               for name in targets):  # fmt: skip
        return sample_starter(sample_file)
    lines = _head(sample_file) + [
        f"for name in {json.dumps(targets)}:",
        "    known = train[name].dropna()",
        "    is_free = any(pd.api.types.is_float_dtype(column) for column in (known, sample[name]))",
        "    is_free = is_free and pd.api.types.is_numeric_dtype(known)",
        "    sample[name] = known.mean() if is_free else known.mode()[0]",
        'sample.to_csv("submission.csv", index=False)',
    ]
    how = "one answer for all rows: the mean, or the commonest class"
    return Starter("\n".join(lines) + "\n", "other", "other", how)
