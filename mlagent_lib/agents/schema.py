"""The check of a line of a trajectory file, whose fields ``trajectory.schema.json`` describes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

from mlagent_lib.core.errors import RunError
from mlagent_lib.environment.outcome import Outcome

SCHEMA_FILE = Path(__file__).with_name("trajectory.schema.json")
SCHEMA_NAME = "mlagent.trajectory/1"
_RULES = {  # of JSON Schema: what they ask for, in our words
    "type": lambda wanted: " or ".join([wanted] if isinstance(wanted, str) else wanted),
    "const": repr,
    "enum": lambda wanted: f"one of {', '.join(wanted)}",
    "minimum": lambda wanted: f"at least {wanted}",
    "maximum": lambda wanted: f"at most {wanted}",
}
_TOO_LARGE = 2**1023  # an integer that no float holds


@cache
def _check() -> Callable[[object], object]:
    import fastjsonschema

    return fastjsonschema.compile(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def validate_row(row: object, *, where: str = "row") -> None:
    """Check one trajectory; return nothing.

    Besides the schema it asks for what a schema cannot say: steps are numbered 0, 1, 2, ..., no number is NaN
    or infinite, and a step that we failed to score has no reward. Fields that the schema does not name are
    allowed.

    Args:
        where: What to call the row in an error, e.g. ``"trajectories.jsonl, line 7"``.

    Raises:
        RunError: A field is missing or breaks a rule; the message names it.

    Example:
        >>> validate_row({"schema": "mlagent.trajectory/1"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        mlagent_lib.core.errors.RunError: row: field 'id' is missing. What to do: ...
    """
    problem = _problem(row) or _order_problem(row["steps"]) or _finite_problem(row, "")
    if problem is not None:
        cure = f"write rows of {SCHEMA_NAME} ({SCHEMA_FILE.name} lists the fields), or leave this row out"
        raise RunError(f"{where}: {problem}", cure=cure)


def _problem(row: object) -> str | None:
    """Return what breaks the schema, in our words: those of the library quote its rules, not the field."""
    from fastjsonschema import JsonSchemaValueException

    try:
        _check()(row)
    except JsonSchemaValueException as error:
        path, wanted, value = error.name.removeprefix("data").lstrip("."), error.rule_definition, error.value
        if error.rule == "required":
            missing = next(name for name in wanted if name not in value)
            return f"field {'.'.join(filter(None, (path, missing)))!r} is missing"
        name = f"field {path!r}" if path else "the row"
        if error.rule not in _RULES:
            return f"{name} must not be empty"
        return f"{name} must be {_RULES[error.rule](wanted)}, not {_shown(value)}"
    return None


def _order_problem(steps: list) -> str | None:
    for i, step in enumerate(steps):
        if step["step"] != i:
            return f"field 'steps[{i}].step' must be {i}, not {step['step']}: steps are numbered from 0"
        if step["outcome"] == Outcome.UNSCORED.value and step["reward"] is not None:
            return f"field 'steps[{i}].reward' must be null for an unscored step, not {step['reward']}"
    return None


def _finite_problem(value: object, path: str) -> str | None:
    if isinstance(value, (float, int)):
        is_fine = math.isfinite(value) if isinstance(value, float) else abs(value) < _TOO_LARGE
        return None if is_fine else f"field {path!r} must be a finite number or null, not {_shown(value)}"
    inner = ()
    if isinstance(value, dict):
        inner = ((f"{path}.{name}".lstrip("."), item) for name, item in value.items())
    elif isinstance(value, (list, tuple)):
        inner = ((f"{path}[{i}]", item) for i, item in enumerate(value))
    return next((found for name, item in inner if (found := _finite_problem(item, name))), None)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < _TOO_LARGE else "a huge integer"
    return text if len(text) <= 60 else text[:57] + "..."
