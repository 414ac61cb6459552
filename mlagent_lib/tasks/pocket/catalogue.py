"""The edits that the pocket suite knows: what can be asked for, and the code that does it.

Each pocket ``train.py`` has three blocks, one for each axis of the paper's version 2 (section B.1):
``# data``, ``# model`` and ``# learning``. An `Edit` names one axis, tells in a sentence what to do, and
holds the lines that do it; ``catalogue.yaml`` holds them all. The catalogue serves three readers: the ideas
of an expert, the rule-based coder, and the text from which the pocket model is pretrained.

It does not know which edits are good: some help, some hurt, some fail (a classifier without probabilities
where probabilities are asked for, dense-only models on sparse text), as in real life.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path

from mlagent_lib.core.files import read_yaml

AXES = ("data", "model", "learning")
MODALITIES = ("tabular", "text", "image", "graph")
KINDS = ("label", "probability", "rank", "regression", "multioutput")
_NUMBER = r"(\d+(?:\.\d+)?)"
_SCALERS = {
    "standard": {"verb": "standardise", "scaler": "StandardScaler", "args": ""},
    "minmax": {"verb": "scale to the range 0 to 1", "scaler": "MinMaxScaler", "args": ""},
    "rank": {"verb": "replace by normal quantiles", "scaler": "QuantileTransformer",
             "args": 'n_quantiles=100, output_distribution="normal"'},
}  # fmt: skip


@dataclass(frozen=True)
class Edit:
    """One way to change one block of a pocket script.

    Attributes:
        key: Unique name, ``axis/family/parameters``.
        axis: ``data``, ``model`` or ``learning``: the block that is rewritten.
        instruction: The edit instruction in its first wording.
        block: The new lines of the block, without the header and without a final newline.
        wordings: All wordings of the instruction; the first is ``instruction``.
    """

    key: str
    axis: str
    instruction: str
    block: str
    wordings: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Edits that differ in their parameters only; ``{Kind}`` stands for Classifier or Regressor."""

    axis: str
    name: str
    wordings: list[str]
    block: str
    grid: dict[str, list] = field(default_factory=dict)

    def fields(self, values: dict, kind: str) -> dict:
        """Return what the braces of the family's texts stand for, given its parameters."""
        classify = is_classification(kind)
        return {
            "Kind": "Classifier" if classify else "Regressor",
            "test": "classif" if classify else "regression",
            "soft": ', voting="soft"' if classify and kind != "label" else "",
            **values,
            **(_SCALERS[values["scaling"]] if "scaling" in values else {}),
        }


def is_classification(kind: str) -> bool:
    """Return whether a task of this kind is learned by classifiers.

    Example:
        >>> is_classification("rank"), is_classification("multioutput")
        (True, False)
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown: choose one of {', '.join(KINDS)}")
    return kind in ("label", "probability", "rank")


@cache
def _groups() -> dict[str, list[Family]]:
    found = {}
    for name, group in read_yaml(Path(__file__).with_suffix(".yaml")).items():
        found[name] = [Family(group["axis"], **family) for family in group["families"]]
    return found


def _families(modality: str, kind: str) -> list[Family]:
    if modality not in MODALITIES:
        raise ValueError(f"modality {modality!r} is unknown: choose one of {', '.join(MODALITIES)}")
    learner = "classifier" if is_classification(kind) else "regressor"
    names = [modality, f"{learner}s", "both models"]
    if learner == "classifier" and modality == "text":
        names.append("text classifiers")
    names += ["both learning", f"{learner} learning"]
    return [family for name in names for family in _groups()[name]]


def _expand(family: Family, kind: str) -> list[Edit]:
    found = []
    for combination in product(*family.grid.values()):
        values = dict(zip(family.grid, combination, strict=True))
        if "low" in values and values["low"] > values["high"]:
            continue
        fields = family.fields(values, kind)
        wordings = tuple(text.format(**fields) for text in family.wordings)
        key = "/".join([family.axis, family.name, *map(str, combination)])
        found.append(Edit(key, family.axis, wordings[0], family.block.format(**fields), wordings))
    return found


@cache
def edits(modality: str, kind: str) -> tuple[Edit, ...]:
    """Return all edits for tasks of one modality (decides the data axis) and kind (decides the models).

    Raises:
        ValueError: The modality or the kind is unknown.

    Example:
        >>> found = edits("tabular", "label")
        >>> len(found) >= 100, len({edit.key for edit in found}) == len(found)
        (True, True)
        >>> next(edit.instruction for edit in found if edit.key == "model/knn/7")
        'Use 7 nearest neighbours.'
    """
    return tuple(edit for family in _families(modality, kind) for edit in _expand(family, kind))


def _bounds(script: str, axis: str) -> tuple[int, int]:
    header = f"# {axis}\n"
    at = 0 if script.startswith(header) else script.find("\n" + header) + 1
    if not script.startswith(header, at):
        raise ValueError(f"the script has no block '# {axis}': the header line must stand alone on a line")
    start = at + len(header)
    end = script.find("\n\n", start)
    return start, len(script.rstrip("\n")) if end < 0 else end


def read_block(script: str, axis: str) -> str:
    r"""Return the lines of one block of a pocket ``train.py``, without its header.

    Raises:
        ValueError: The script has no such block.

    Example:
        >>> read_block("x = 1\n# model\nmodel = f()\n\nprint(1)\n", "model")
        'model = f()'
    """
    start, end = _bounds(script, axis)
    return script[start:end]


def replace_block(script: str, axis: str, block: str) -> str:
    r"""Return the script with the lines of one block (given without its header) replaced.

    Raises:
        ValueError: The script has no such block.

    Example:
        >>> replace_block("# model\nmodel = f()\n\nprint(1)\n", "model", "model = g()")
        '# model\nmodel = g()\n\nprint(1)\n'
    """
    start, end = _bounds(script, axis)
    return script[:start] + block.strip("\n") + script[end:]


@cache
def _patterns(modality: str, kind: str) -> list[tuple[re.Pattern, Family, list[str], dict]]:
    """Return one pattern for each wording and each choice of words; numbers stay open."""
    found = []
    for family in _families(modality, kind):
        words = {name: values for name, values in family.grid.items() if isinstance(values[0], str)}
        numbers = {name: f"\0{name}\0" for name in family.grid if name not in words}
        for combination in product(*words.values()):
            fixed = dict(zip(words, combination, strict=True))
            for wording in family.wordings:
                text = wording.rstrip(".").format(**family.fields(fixed | numbers, kind))
                parts = re.split("\0(\\w+)\0", text)
                pattern = _NUMBER.join(re.escape(part.lower()) for part in parts[::2])
                found.append((re.compile(pattern), family, parts[1::2], fixed))
    return found


def _understood(instruction: str, modality: str, kind: str) -> tuple[Family, dict] | None:
    """Return the family that an instruction asks for and its parameters, or None."""
    text = " ".join(instruction.lower().split()).rstrip(".")
    for pattern, family, order, fixed in _patterns(modality, kind):
        match = pattern.fullmatch(text)
        if match:
            return family, fixed | dict(zip(order, match.groups(), strict=True))
    return None


def interpret(instruction: str, modality: str, kind: str) -> tuple[str, str] | None:
    """Return the axis and the new lines of the block that an instruction asks for, or None.

    Any wording of the catalogue is understood, with any numbers: the grid decides what is *proposed*, not
    what is understood.

    Example:
        >>> interpret("use 9 nearest neighbours", "tabular", "regression")[1].split("\\n")[1]
        'model = KNeighborsRegressor(n_neighbors=9)'
        >>> interpret("make it good", "tabular", "regression") is None
        True
    """
    if (found := _understood(instruction, modality, kind)) is None:
        return None
    family, values = found
    return family.axis, family.block.format(**family.fields(values, kind))


def family_of(instruction: str, modality: str, kind: str) -> str | None:
    """Return the axis and the family of edits that an instruction asks for, or None.

    Example:
        >>> family_of("use 9 nearest neighbours", "tabular", "regression")
        'model/knn'
    """
    found = _understood(instruction, modality, kind)
    return found and f"{found[0].axis}/{found[0].name}"


def family_of_key(key: str) -> str:
    """Return the axis and the family that a key of an edit or an idea names.

    Example:
        >>> family_of_key("model/forest/100/5")
        'model/forest'
    """
    return "/".join(key.split("/")[:2])
