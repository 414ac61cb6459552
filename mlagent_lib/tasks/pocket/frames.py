"""The starter scripts: a short frame for each modality and kind, around the three blocks that edits rewrite.

A frame reads the data, keeps the last quarter of the visible rows for validation, fits ``learner``, prints
one line with the validation score, and writes ``submission.csv``.
"""

from __future__ import annotations

import json

# What a frame defines before the blocks, for each modality: lines after `X_all` (visible inputs) is known.
_INPUTS = {
    "tabular": "X_all, X_test = train[test.columns], test",
    "text": 'X_all, X_test = train["text"], test["text"]',
    "image": "X_all, X_test = train[test.columns].to_numpy(float), test.to_numpy(float)",
    "graph": 'X_all, X_test = train[["node"]].to_numpy(), test.to_numpy()',
}
_EXTRAS = {
    "tabular": 'numbers = X.select_dtypes("number").columns.tolist()\n'
    "words = [name for name in X if name not in numbers]",
    "text": "",
    "image": "side = int(X.shape[1] ** 0.5)",
    "graph": 'F, edges = pd.read_csv("data/nodes.csv").to_numpy(), pd.read_csv("data/edges.csv").to_numpy()\n'
    "A = np.eye(len(F))\n"
    "A[edges, edges[:, ::-1]] = 1\n"
    "A = csr_matrix(A / A.sum(axis=1, keepdims=True))",
}
# Name of the metric -> import, expression of the validation score (`guess` is the answer on X_valid).
METRICS = {
    "accuracy": ("accuracy_score", "accuracy_score(y_valid, guess)"),
    "auc": ("roc_auc_score", "roc_auc_score(y_valid, guess)"),
    "auc-classes": ("roc_auc_score", 'roc_auc_score(y_valid, guess, multi_class="ovr")'),
    "logloss": ("log_loss", "log_loss(y_valid, guess)"),
    "mae": ("mean_absolute_error", "mean_absolute_error(y_valid, guess)"),
    "rmse": ("root_mean_squared_error", "root_mean_squared_error(y_valid.ravel(), guess.ravel())"),
    "rmsle": ("root_mean_squared_log_error", "root_mean_squared_log_error(y_valid, guess)"),
    "mcrmse": ("root_mean_squared_error", "root_mean_squared_error(y_valid, guess)"),
    "qwk": ("cohen_kappa_score", 'cohen_kappa_score(y_valid, guess, weights="quadratic")'),
    "pearson": ("", "np.corrcoef(y_valid, guess)[0, 1]"),
    "map@5": ("", "((guess == y_valid[:, None]) / np.arange(1, 6)).sum(axis=1).mean()"),
}
# The answer of the learner to the inputs {X}.
ANSWERS = {
    "label": "learner.predict({X})",
    "binary": "learner.predict_proba({X})[:, 1]",
    "probability": "learner.predict_proba({X})",
    "rank": "learner.classes_[np.argsort(-learner.predict_proba({X}), axis=1)[:, :5]]",
    "regression": "learner.predict({X})",
    "rmsle": "learner.predict({X}).clip(0)",
    "qwk": "np.clip(np.round(learner.predict({X})), {low}, {high}).astype(int)",
    "multioutput": "learner.predict({X})",
}


def answer_columns(kind: str, metric: str, classes: int, outputs: tuple[str, ...]) -> tuple[str, ...]:
    """Return the columns of a submission besides ``id``.

    Args:
        kind: Of the task.
        metric: Of the task.
        classes: Number of classes, 0 for numbers.
        outputs: Names of the target columns.

    Example:
        >>> answer_columns("probability", "logloss", 3, ("target",))
        ('class_0', 'class_1', 'class_2')
        >>> answer_columns("probability", "auc", 2, ("target",))
        ('probability',)
    """
    if kind == "probability":
        return ("probability",) if classes == 2 else tuple(f"class_{k}" for k in range(classes))
    if kind == "rank":
        return tuple(f"guess_{k}" for k in range(1, 6))
    return outputs if kind == "multioutput" else ("prediction",)


def starter_script(
    modality: str,
    kind: str,
    metric: str,
    classes: int,
    blocks: dict[str, str],
    ratings: tuple[int, int] = (1, 6),
) -> str:
    """Return the text of ``train.py``.

    Args:
        modality: ``tabular``, ``text``, ``image`` or ``graph``.
        kind: ``label``, ``probability``, ``rank``, ``regression`` or ``multioutput``.
        metric: Name of the metric.
        classes: Number of classes, 0 for numbers.
        blocks: Lines of the blocks ``data``, ``model`` and ``learning``.
        ratings: Lowest and highest rating, for ``qwk`` only.

    Example:
        >>> blocks = {"data": "a", "model": "b", "learning": "c"}
        >>> text = starter_script("image", "label", "accuracy", 10, blocks)
        >>> [line for line in text.splitlines() if line.startswith("# ")]
        ['# data', '# model', '# learning']
    """
    binary = kind == "probability" and classes == 2
    needed, score = METRICS["auc-classes" if metric == "auc" and not binary else metric]
    answer = ANSWERS[metric if metric in ("rmsle", "qwk") else "binary" if binary else kind]
    low, high = ratings
    columns = answer_columns(kind, metric, classes, ("prediction",))
    named = "outputs" if kind == "multioutput" else json.dumps(columns) if len(columns) == 1 else "names"
    head = ["import numpy as np", "import pandas as pd"]
    head += ["from scipy.sparse import csr_matrix"] if modality == "graph" else []
    head += [f"from sklearn.metrics import {needed}"] if needed else []
    head += [
        "from sklearn.pipeline import make_pipeline",
        "",
        "SEED = 0",
        "np.random.seed(SEED)",
        'train, test = pd.read_csv("data/train.csv"), pd.read_csv("data/test.csv", index_col="id")',
        _INPUTS[modality],
    ]
    if kind == "multioutput":
        head += [
            "outputs = [name for name in train if name not in test]",
            "y_all = train[outputs].to_numpy()",
        ]
    else:
        head += ['y_all = train["target"].to_numpy()']
    head += [
        "cut = len(train) * 3 // 4",
        "X, X_valid, y, y_valid = X_all[:cut], X_all[cut:], y_all[:cut], y_all[cut:]",
    ]
    head += [_EXTRAS[modality]] if _EXTRAS[modality] else []
    tail = [
        "learner.fit(X, y)",
        f"guess = {answer.format(X='X_valid', low=low, high=high)}",
        f"score = {score}",
        f'print(f"validation {metric}: {{score:.4f}}")',
        f"answer = {answer.format(X='X_test', low=low, high=high)}",
    ]
    if named == "names":
        numbers = "range(1, 6)" if kind == "rank" else "learner.classes_"
        tail.append(f'names = [f"{columns[0][:-2]}_{{k}}" for k in {numbers}]')
    tail.append(f'pd.DataFrame(answer, test.index, {named}).to_csv("submission.csv")')
    middle = [f"# {axis}\n{blocks[axis]}\n" for axis in ("data", "model", "learning")]
    return "\n".join([*head, "", *middle, *tail]) + "\n"
