"""The starter script of each task: a short frame around three blocks, as those of the pocket suite.

A starter reads the data, keeps the last quarter of the visible rows for validation, prints one score and
writes submission.csv. It is simple on purpose: what helps is left to the agent.
"""

from __future__ import annotations

from mlagent_lib.tasks.paper.recipes import Recipe
from mlagent_lib.tasks.pocket.frames import ANSWERS, METRICS, answer_columns

_TABLE = 'train, test = pd.read_csv("data/train.csv"), pd.read_csv("data/test.csv", index_col="id")'
_PICTURES = """\
pictures = np.load("data/pictures.npy", mmap_mode="r")  # (rows, height, width, channels)
SIDE = {side}


def small(picture):
    # Each channel is brought to SIDE by SIDE pixels.
    channels = [Image.fromarray(np.ascontiguousarray(picture[..., k])) for k in range(picture.shape[-1])]
    return np.concatenate([np.asarray(one.resize((SIDE, SIDE)), float).ravel() for one in channels])


X_all = np.array([small(pictures[i]) for i in train["picture"]])
X_test = np.array([small(pictures[i]) for i in test["picture"]])"""
_PAGES = """\
pages = np.load("data/dirty.npy")


def windows(rows, size=1):
    # The grey values around each pixel, (2 * size + 1) squared numbers.
    padded = np.pad(pages, ((0, 0), (size, size), (size, size)), mode="edge")
    steps = range(2 * size + 1)
    place = [rows[name].to_numpy() for name in ("page", "row", "column")]
    found = [padded[place[0], place[1] + down, place[2] + right] for down in steps for right in steps]
    return np.column_stack(found) / 255


X_all, X_test = windows(train), windows(test)"""
_TABULAR = """\
inputs = [name for name in test if name != "picture"]
X_all, X_test = train[inputs], test[inputs]"""
_PAIRS = """\
X_all, X_test = (rows["anchor"].fillna("") + " " + rows["phrase"].fillna("") for rows in (train, test))"""
_TEXT = 'X_all, X_test = (rows["text"].fillna("").astype(str) for rows in (train, test))'
_GRAPH = """\
F = np.load("data/nodes.npy")  # (nodes, 128)
edges = np.load("data/edges.npy")  # (edges, 2): node, node that it cites
X_all, X_test = F[train["node"]], F[test["node"]]"""

# As in the pocket frames, except where rows of a split may lack a class, or an answer has several columns.
_METRICS = METRICS | {
    "auc-classes": (
        "roc_auc_score",
        'roc_auc_score(y_valid, guess, multi_class="ovr", labels=learner.classes_)',
    ),
    "auc-columns": METRICS["auc"],
    "logloss": ("log_loss", "log_loss(y_valid, guess, labels=learner.classes_)"),
    "rmse": ("root_mean_squared_error", "root_mean_squared_error(y_valid, guess)"),
    "rmsle-columns": METRICS["rmsle"],
}
_ANSWERS = ANSWERS | {
    "rmsle-columns": ANSWERS["rmsle"],
    "qwk": "np.clip(np.round(learner.predict({X})), y_all.min(), y_all.max()).astype(int)",
    "auc-columns": "np.column_stack([one[:, 1] for one in learner.predict_proba({X})])",
}


def _inputs(found: Recipe) -> str:
    if found.reader in ("graph", "pages"):
        return _GRAPH if found.reader == "graph" else _PAGES
    if "numbers" in found.data:
        return _TABULAR
    if found.side:
        return _PICTURES.format(side=min(16, found.side // 2))
    if found.modality == "text":
        return _PAIRS if "phrase" in dict(found.rename).values() else _TEXT
    raise ValueError(f"{found.name}: no starter for {found.reader}")


def starter(found: Recipe, outputs: tuple[str, ...], classes: int) -> str:
    """Return the text of ``train.py``.

    Args:
        found: The recipe.
        outputs: Names of the answers in train.csv.
        classes: Number of classes, 0 for numbers.

    Example:
        >>> from mlagent_lib.tasks.paper.recipes import recipe
        >>> text = starter(recipe("spooky-author-identification"), ("target",), 3)
        >>> [line for line in text.splitlines() if line.startswith("# ")]
        ['# data', '# model', '# learning']
    """
    binary = found.kind == "probability" and classes == 2
    needed, score = _METRICS["auc-classes" if found.metric == "auc" and not binary else found.metric]
    answer = _ANSWERS.get(found.metric) or _ANSWERS["binary" if binary else found.kind]
    columns = answer_columns(found.kind, found.metric, classes, outputs)
    inputs = _inputs(found)
    head = ["import numpy as np", "import pandas as pd"]
    head += ["from PIL import Image"] if "Image" in inputs else []
    head += [f"from sklearn.metrics import {needed}"] if needed else []
    head += [
        "from sklearn.pipeline import make_pipeline",
        "",
        "SEED = 0",
        "np.random.seed(SEED)",
        _TABLE,
        inputs,
    ]
    if found.kind == "multioutput":
        head.append(f"outputs = {list(outputs)}\ny_all = train[outputs].to_numpy()")
    else:
        head.append('y_all = train["target"].to_numpy()')
    head += [
        "cut = len(train) * 3 // 4",
        "X, X_valid, y, y_valid = X_all[:cut], X_all[cut:], y_all[:cut], y_all[cut:]",
    ]
    if inputs == _TABULAR:
        head.append('numbers = X.select_dtypes("number").columns.tolist()')
    tail = [
        "learner.fit(X, y)",
        f"guess = {answer.format(X='X_valid')}",
        f"score = {score}",
        f'print(f"validation {found.metric}: {{score:.4f}}")',
        f"answer = {answer.format(X='X_test')}",
    ]
    names = f'["{columns[0]}"]' if len(columns) == 1 else "outputs"
    if found.kind in ("probability", "rank") and len(columns) > 1:
        numbers = "range(1, 6)" if found.kind == "rank" else "learner.classes_"
        stem = columns[0].rsplit("_", 1)[0]
        names = f'[f"{stem}_{{k}}" for k in {numbers}]'
    tail.append(f'pd.DataFrame(answer, test.index, {names}).to_csv("submission.csv")')
    blocks = {"data": found.data, "model": found.model, "learning": "learner = make_pipeline(prepare, model)"}
    middle = [f"# {axis}\n{text}\n" for axis, text in blocks.items()]
    return "\n".join([*head, "", *middle, *tail]) + "\n"
