"""How the scripted agents word a reply: short sentences in the six fields, drawn from a named stream.

The sentences carry what the state tells (how the last step went, what comes next), so that a model trained on
them reads its history. They are ours; the field names and their order are the paper's.
"""

from __future__ import annotations

import json

import numpy as np

from mlagent_lib.agents.prompts import trends
from mlagent_lib.environment.actions import FIELDS, NO_THOUGHT_FIELDS
from mlagent_lib.environment.workspace import State

_REFLECTION = {
    "start": ("Nothing has been tried yet.", "This is the first step."),
    "better": ("The last step made it better.", "That helped."),
    "worse": ("The last step made it worse.", "That hurt."),
    "same": ("The last step changed nothing.", "The score stayed the same."),
    "failed": ("The last step failed.", "The last script did not run."),
    "done": ("The last step only looked.", "I have looked around."),
}
_PLAN = {
    "data": ("Work on the data block.", "Give the model better inputs."),
    "model": ("Work on the model block.", "Find a model that fits."),
    "learning": ("Work on the learning block.", "Change how the model is fitted."),
    "look": ("Look before editing.", "Understand the task first."),
    "end": ("The plan is done.", "Stop here."),
}
_CHECK = ("The script printed this itself.", "The history shows this.", "No claim without a run.")
_THOUGHT = {
    "data": ("Other features may help.", "The inputs can be prepared better."),
    "model": ("Another model may fit better.", "The model is the weak part."),
    "learning": ("Another way of fitting may help.", "The fit itself can be improved."),
    "look": ("I need to see more.", "First I read."),
    "end": ("Further edits may not help.", "I am satisfied."),
}


def compose(
    action: str,
    arguments: dict[str, str],
    *,
    topic: str,
    trend: str,
    stream: np.random.Generator,
    reply_format: str = "six",
) -> str:
    """Return the text of a reply.

    Args:
        action: Name of the action.
        arguments: Its arguments.
        topic: ``data``, ``model``, ``learning``, ``look`` or ``end``: what the reply is about.
        trend: How the last step went, a key of the reflection sentences.
        stream: Where the wording is drawn from.
        reply_format: ``six`` or ``no-thought``.
    """
    texts = (
        _pick(_REFLECTION[trend], stream),
        _pick(_PLAN[topic], stream),
        _pick(_CHECK, stream),
        _pick(_THOUGHT[topic], stream),
        action,
        json.dumps(arguments),
    )
    names = FIELDS if reply_format == "six" else NO_THOUGHT_FIELDS
    values = dict(zip(FIELDS, texts, strict=True))
    return "\n".join(f"{name}: {values[name]}" for name in names)


def edit_reply(
    instruction: str,
    axis: str,
    *,
    trend: str,
    stream: np.random.Generator,
    reply_format: str = "six",
    script: str = "train.py",
) -> str:
    """Return a reply that edits a script in place."""
    arguments = {"script_name": script, "edit_instruction": instruction, "save_name": script}
    return compose(
        "Edit Script (AI)", arguments, topic=axis, trend=trend, stream=stream, reply_format=reply_format
    )


def look_reply(
    *, trend: str, stream: np.random.Generator, reply_format: str = "six", script: str = "train.py"
) -> str:
    """Return a reply that looks without editing: one of the four neutral actions."""
    choices = (
        ("List Files", {"dir_path": "."}),
        (
            "Inspect Script Lines",
            {
                "script_name": script,
                "start_line_number": "1",
                "end_line_number": str(stream.integers(20, 60)),
            },
        ),
        (
            "Understand File",
            {"file_name": "data_description.txt", "things_to_look_for": "columns and target"},
        ),
        ("Execute Script", {"script_name": script}),
        ("Copy File", {"source": script, "destination": "backup.py"}),
    )
    action, arguments = choices[int(stream.integers(len(choices)))]
    return compose(action, arguments, topic="look", trend=trend, stream=stream, reply_format=reply_format)


def final_reply(
    *, trend: str, stream: np.random.Generator, reply_format: str = "six", script: str = "train.py"
) -> str:
    """Return a reply that ends the trajectory."""
    return compose(
        "Final Answer",
        {"final_answer": f"{script} is improved."},
        topic="end",
        trend=trend,
        stream=stream,
        reply_format=reply_format,
    )


def trend_of(state: State, greater_is_better: bool) -> str:
    """Return how the last step of a state went, or ``start``."""
    return trends(state, greater_is_better)[-1] if state.history else "start"


def _pick(sentences: tuple[str, ...], stream: np.random.Generator) -> str:
    return sentences[int(stream.integers(len(sentences)))]
