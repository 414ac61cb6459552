"""The starter scripts: a short frame around the three blocks that edits rewrite (``frames.yaml``)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mlagent_lib.core.files import read_yaml
from mlagent_lib.tasks.spec import TaskSpec


@cache
def _texts() -> dict:
    return read_yaml(Path(__file__).with_suffix(".yaml"))


def answer_columns(kind: str, classes: int, outputs: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of a submission besides ``id``.

    Args:
        classes: Number of classes, 0 for numbers.
        outputs: Names of the target columns.

    Example:
        >>> answer_columns("probability", 3, ["target"]), answer_columns("probability", 2, ["target"])
        (('class_0', 'class_1', 'class_2'), ('probability',))
    """
    if kind == "probability":
        return ("probability",) if classes == 2 else tuple(f"class_{k}" for k in range(classes))
    if kind == "rank":
        return tuple(f"guess_{k}" for k in range(1, 6))
    return tuple(outputs) if kind == "multioutput" else ("prediction",)


def fitted(
    blocks: dict[str, str], metric: str, score: str, answer: str, extras: str, **fields: object
) -> str:
    """Return the lines of a starter from the cut into fit and validation to ``answer``.

    Args:
        blocks: Lines of the blocks ``data``, ``model`` and ``learning``.
        metric: The word that the script prints.
        score: Expression of the score of ``guess``.
        answer: Expression of the learner's answer to ``{X}``.
        extras: Lines on what the blocks may use besides.
        fields: What further braces of the answer stand for.
    """
    guess, final = (answer.format(X=name, **fields) for name in ("X_valid", "X_test"))
    texts = {**blocks, "guess": guess, "score": score, "metric": metric, "answer": final, "extras": extras}
    return _texts()["fitted"].format(**texts)


def starter_script(spec: TaskSpec, classes: Sequence[int], *, may_lack_classes: bool = False) -> str:
    """Return the text of ``train.py``.

    Args:
        classes: Class numbers or ratings; empty for free numbers.
        may_lack_classes: Whether a class may be in no row of the validation.

    Example:
        >>> spec = TaskSpec(name="x", modality="image", kind="label", metric="accuracy", data="a", model="b",
        ...                 goal="1", description="")
        >>> [line for line in starter_script(spec, range(10)).splitlines() if line.startswith("# ")]
        ['# data', '# model', '# learning']
    """
    texts, binary = _texts(), spec.kind == "probability" and len(classes) == 2
    layout = texts["layouts"][spec.layout or spec.modality]
    needed, score = texts["metrics"]["auc-classes" if spec.metric == "auc" and not binary else spec.metric]
    answers = texts["answers"]
    answer = answers[spec.metric if spec.metric in answers else "binary" if binary else spec.kind]
    columns = answer_columns(spec.kind, len(classes), ())
    named, names = "outputs" if spec.kind == "multioutput" else json.dumps(columns), ""
    if len(columns) > 1:
        numbers = "range(1, 6)" if spec.kind == "rank" else "learner.classes_"
        named, names = "names", f'names = [f"{columns[0][:-2]}_{{k}}" for k in {numbers}]\n'
    score = score.format(labels=", labels=learner.classes_" if may_lack_classes else "")
    imports = layout.get("imports", "") + (f"from sklearn.metrics import {needed}\n" if needed else "")
    low, high = (classes[0], classes[-1]) if classes else (0, 0)
    return texts["frame"].format(
        imports=imports,
        inputs=layout["inputs"],
        answers=texts["y_all"]["several" if spec.kind == "multioutput" else "one"],
        fitted=fitted(spec.blocks, spec.metric, score, answer, layout.get("extras", ""), low=low, high=high),
        names=names,
        columns=named,
    )
