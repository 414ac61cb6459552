"""What a line of a trajectory file holds: the JSON Schema, its check, and its description for readers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from mlagent_lib.core.errors import RunError
from mlagent_lib.environment.outcome import Outcome

SCHEMA_NAME = "mlagent.trajectory/1"

_SCORE = "on the feedback labels, in the unit of the task's metric; null where there is none"
_REPORT = "on the report labels; only the evaluation writes it"


def _field(kind: str | list[str], text: str, **rules) -> dict:
    return {"type": kind, "description": text, **rules}


def _object(fields: dict, text: str, *, optional: tuple[str, ...] = (), kind: str = "object") -> dict:
    return _field(kind, text, properties=fields, required=[name for name in fields if name not in optional])


_IDEA = _object(
    {
        "key": _field("string", "Name of the idea within the task.", minLength=1),
        "axis": _field("string", "Axis of the idea: data, model or learning.", minLength=1),
        "instruction": _field("string", "The idea in one line.", minLength=1),
    },
    "One idea that the trajectory was told to try first.",
)

_STEP = _object(
    {
        "step": _field("integer", "Index of the step, from 0.", minimum=0),
        "state": _field(["object", "null"], "The state s_t that the step started from (see State.to_json)."),
        "reply": _field("string", "The policy's text, as it was generated, without what it thought."),
        "action": _field(
            ["string", "null"], "Name of the parsed action; empty or null for an invalid reply."
        ),
        "action_input": _field(["object", "string", "null"], "Arguments of the action."),
        "observation": _field("string", "What the environment answered."),
        "outcome": _field(
            "string", "Case of Eq. 6, or unscored.", enum=[outcome.value for outcome in Outcome]
        ),
        "reason": _field(["string", "null"], "Class name that says why, e.g. bad-json or timeout."),
        "score_before": _field(["number", "null"], f"m_t {_SCORE}."),
        "score_after": _field(["number", "null"], f"m_(t+1) {_SCORE}."),
        "reward": _field(["number", "null"], "Reward of the step, without unit; null for an unscored step."),
        "script_before": _field(["string", "null"], "The script before the step, as text."),
        "script_after": _field(["string", "null"], "The script after the step, as text."),
        "visible_metric": _field(["number", "null"], "Validation metric that the script printed."),
        "seconds": _field(
            "number", "Duration of the execution; a cache hit carries the recorded one.", minimum=0
        ),
        "cache_hit": _field("boolean", "Whether the execution was already known."),
        "tier": _field(["string", "null"], "Isolation tier of the execution; empty or null without one."),
        "prompt_cut": _field(
            "object",
            "What the prompt left out to fit the window: steps, observations, shortened (observations), "
            "script and problem (characters); absent where it left out nothing.",
        ),
        "thought": _field(
            "integer", "Characters that a model thought before its reply; absent where none.", minimum=1
        ),
    },
    "One step.",
    optional=("visible_metric", "tier", "script_before", "script_after", "reason", "prompt_cut", "thought"),
)

_FINAL = _object(
    {
        "feedback_last": _field(["number", "null"], f"Score of the last submission {_SCORE}."),
        "feedback_best": _field(["number", "null"], f"Score of the best submission {_SCORE}."),
        "submissions": _object(
            {
                "start": _field("string", "Of the state that the trajectory started from."),
                "last": _field("string", "The last valid one."),
                "best": _field("string", "The best one on the feedback labels."),
            },
            "Names (sha256) of submissions in the archive, from which the evaluation grades.",
        ),
        "report_start": _field(["number", "null"], f"Score of submission start {_REPORT}."),
        "report_last": _field(["number", "null"], f"Score of submission last {_REPORT}."),
        "report_best": _field(["number", "null"], f"Score of submission best {_REPORT}."),
        "stop": _field("string", "Why the trajectory ended, e.g. final-answer, steps or time.", minLength=1),
    },
    "How the trajectory ended; null while it runs.",
    optional=("submissions", "report_start", "report_last", "report_best"),
    kind=["object", "null"],
)

TRAJECTORY_SCHEMA: dict = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": SCHEMA_NAME,
    **_object(
        {
            "schema": _field("string", "Name and version of this format.", const=SCHEMA_NAME),
            "id": _field("string", "Unique name of the trajectory.", minLength=1),
            "task": _field("string", "Name of the task.", minLength=1),
            "split": _field("string", "held-in, held-out or other.", enum=["held-in", "held-out", "other"]),
            "source": _field(
                "string", "Who acted: expert, random-ideas, base, sft, rl, starter, ...", minLength=1
            ),
            "seed": _field("integer", "Seed of the trajectory.", minimum=-(2**63), maximum=2**63 - 1),
            "ideas": _field("array", "Ideas given at the start, in their order.", items=_IDEA),
            "steps": _field("array", "The steps, in their order.", items=_STEP),
            "final": _FINAL,
        },
        "One trajectory: one line of a trajectory file.",
    ),
}

_TOO_LARGE = 2**1023  # an integer that no float holds
_TYPES = {
    "object": Mapping,
    "array": (list, tuple),
    "string": str,
    "boolean": bool,
    "null": type(None),
}


def validate_row(row: object, *, where: str = "row") -> None:
    """Check one trajectory; return nothing.

    Besides `TRAJECTORY_SCHEMA` it asks for what a schema cannot say: steps are numbered 0, 1, 2, ..., no
    number is NaN or infinite, and a step that we failed to score has no reward. Fields that the schema does
    not name are allowed.

    Args:
        row: A line of a trajectory file, parsed.
        where: What to call the row in an error, e.g. ``"trajectories.jsonl, line 7"``.

    Raises:
        RunError: A field is missing or breaks a rule; the message names it.

    Example:
        >>> validate_row({"schema": "mlagent.trajectory/1"})  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        mlagent_lib.core.errors.RunError: row: field 'id' is missing. What to do: ...
    """
    problem = _problem(row, TRAJECTORY_SCHEMA, "")
    if problem is None:
        problem = _order_problem(row["steps"]) or _finite_problem(row, "")
    if problem is not None:
        raise RunError(
            f"{where}: {problem}",
            cure=f"write rows of {SCHEMA_NAME} (describe_schema() lists the fields), or leave this row out",
        )


def describe_schema() -> str:
    """Return the trajectory format as a Markdown table: field, type, meaning."""
    lines = [
        f"Format `{SCHEMA_NAME}`, one JSON object per line.",
        "",
        "| Field | Type | Meaning |",
        "|---|---|---|",
    ]

    def add(schema: dict, prefix: str) -> None:
        for name, rule in schema["properties"].items():
            kinds = " or ".join(_kinds(rule))
            note = "" if name in schema["required"] else " (optional)"
            lines.append(f"| `{prefix}{name}` | {kinds}{note} | {rule['description']} |")
            inner, mark = (rule["items"], "[].") if "items" in rule else (rule, ".")
            if "properties" in inner:
                add(inner, f"{prefix}{name}{mark}")

    add(TRAJECTORY_SCHEMA, "")
    return "\n".join(lines) + "\n"


def _kinds(rule: dict) -> list[str]:
    return [rule["type"]] if isinstance(rule["type"], str) else rule["type"]


def _is_kind(value: object, kind: str) -> bool:
    if kind in ("number", "integer"):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            return False
        return kind == "number" or isinstance(value, int) or value.is_integer()
    return isinstance(value, _TYPES[kind])


def _problem(value: object, rule: dict, path: str) -> str | None:
    name = f"field {path!r}" if path else "the row"
    if not any(_is_kind(value, kind) for kind in _kinds(rule)):
        return f"{name} must be {' or '.join(_kinds(rule))}, not {_shown(value)}"
    if "const" in rule and value != rule["const"]:
        return f"{name} must be {rule['const']!r}, not {_shown(value)}"
    if "enum" in rule and value not in rule["enum"]:
        return f"{name} must be one of {', '.join(rule['enum'])}, not {_shown(value)}"
    if "minimum" in rule and value < rule["minimum"]:
        return f"{name} must be at least {rule['minimum']}, not {_shown(value)}"
    if "maximum" in rule and value > rule["maximum"]:
        return f"{name} must be at most {rule['maximum']}, not {_shown(value)}"
    if "minLength" in rule and len(value) < rule["minLength"]:
        return f"{name} must not be empty"
    return _inner_problem(value, rule, path)


def _inner_problem(value: object, rule: dict, path: str) -> str | None:
    if isinstance(value, Mapping) and "properties" in rule:
        dot = f"{path}." if path else ""
        for name, inner in rule["properties"].items():
            if name not in value:
                if name in rule["required"]:
                    return f"field {dot + name!r} is missing"
                continue
            if found := _problem(value[name], inner, dot + name):
                return found
    elif isinstance(value, (list, tuple)) and "items" in rule:
        for i, item in enumerate(value):
            if found := _problem(item, rule["items"], f"{path}[{i}]"):
                return found
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
    if isinstance(value, Mapping):
        inner = ((f"{path}.{name}" if path else str(name), item) for name, item in value.items())
    elif isinstance(value, (list, tuple)):
        inner = ((f"{path}[{i}]", item) for i, item in enumerate(value))
    else:
        return None
    return next((found for name, item in inner if (found := _finite_problem(item, name))), None)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < _TOO_LARGE else "a huge integer"
    return text if len(text) <= 60 else text[:57] + "..."
