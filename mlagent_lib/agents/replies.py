"""How the scripted agents word a reply: short sentences in the six fields, drawn from a named stream.

The sentences (``sentences.yaml``) carry what the state tells: how the last step went, which fact of the card
speaks for the block to edit, what the block holds now, what comes next. So a model trained on them reads its
history, its card and its script. They are ours; the field names and their order are the paper's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from mlagent_lib.agents.prompts import trends
from mlagent_lib.core.files import read_yaml
from mlagent_lib.environment.actions import EDIT, FIELDS, NO_THOUGHT_FIELDS, UNDO, Invalid, parse_action
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.pocket.cards import DECIDES

_CLASS = re.compile(r"\b([A-Z]\w+)\(")
_EVERYWHERE = ("SimpleImputer", "FunctionTransformer")  # stand in most data blocks, so others tell more


@cache
def _sentences() -> dict:
    return read_yaml(Path(__file__).with_name("sentences.yaml"))


def compose(
    action: str,
    arguments: dict[str, str],
    *,
    topic: str,
    trend: str,
    stream: np.random.Generator,
    reply_format: str = "six",
    fact: str = "",
    now: str = "",
) -> str:
    """Return the text of a reply.

    Args:
        topic: ``data``, ``model``, ``learning``, ``look``, ``undo`` or ``end``: what the reply is about.
        trend: How the last step went, see `trend_of`.
        stream: Where the wording is drawn from.
        fact: Of the task's card, for which the block of the topic is edited; "" for none.
        now: What that block holds, see `held`; "" where that is not known.
    """
    known = _sentences()
    plan = known["because"] if fact else known["plan"][topic]
    thought = (known["now"] if now else known["thought"])[topic]
    told = {"topic": topic, "fact": fact, "Fact": fact.capitalize(), "now": now}
    drawn = (_pick(those, stream) for those in (known["reflection"][trend], plan, known["check"], thought))
    texts = (*(sentence.format(**told) for sentence in drawn), action, json.dumps(arguments))
    names = FIELDS if reply_format == "six" else NO_THOUGHT_FIELDS
    values = dict(zip(FIELDS, texts, strict=True))
    return "\n".join(f"{name}: {values[name]}" for name in names)


def edit_reply(
    instruction: str,
    axis: str,
    *,
    stream: np.random.Generator,
    script: str = "train.py",
    facts: Sequence[str] = (),
    block: str = "",
    **wording,
) -> str:
    """Return a reply that edits a script in place; ``wording`` is as for `compose`.

    Args:
        facts: Of the task's card; one that decides the edited block is named (`cards.DECIDES`).
        block: The lines of that block as they are; what they hold is named.

    Example:
        >>> state = {"facts": ["noisy", "small details"], "block": "p = PCA(5)", "trend": "start"}
        >>> said = edit_reply("Use the raw pixels.", "data", stream=np.random.default_rng(0), **state)
        >>> said.split("\\n")[1].split(": ", 1)[1], "PCA" in said.split("\\n")[3]
        ('Work on the data block, for small details.', True)
    """
    arguments = {"script_name": script, "edit_instruction": instruction, "save_name": script}
    deciding = [fact for fact in facts if DECIDES.get(fact) == axis]
    fact = _pick(deciding, stream) if deciding else ""
    wording |= {"fact": fact, "now": held(block)}
    return compose(EDIT, arguments, topic=axis, stream=stream, **wording)


def held(block: str) -> str:
    """Return what a block of a script holds, in a word or two: the class that tells most, or "".

    Example:
        >>> held("model = SVC(C=3)"), held("learner = make_pipeline(prepare, model)"), held("")
        ('SVC', 'plain', '')
    """
    named = _CLASS.findall(block)
    telling = [name for name in named if name not in _EVERYWHERE] or named
    return telling[0] if telling else "plain" * ("make_pipeline(prepare, model)" in block)


def look_reply(*, stream: np.random.Generator, script: str = "train.py", **wording) -> str:
    """Return a reply that looks without editing: one of the five neutral actions."""
    lines = {"start_line_number": "1", "end_line_number": str(stream.integers(20, 60))}
    asked = {"file_name": "data_description.txt", "things_to_look_for": "columns and target"}
    choices = (
        ("List Files", {"dir_path": "."}),
        ("Inspect Script Lines", {"script_name": script, **lines}),
        ("Understand File", asked),
        ("Execute Script", {"script_name": script}),
        ("Copy File", {"source": script, "destination": "backup.py"}),
    )
    action, arguments = choices[int(stream.integers(len(choices)))]
    return compose(action, arguments, topic="look", stream=stream, **wording)


def final_reply(*, script: str = "train.py", **wording) -> str:
    """Return a reply that ends the trajectory."""
    return compose("Final Answer", {"final_answer": f"{script} is improved."}, topic="end", **wording)


def undo_reply(*, script: str = "train.py", **wording) -> str:
    """Return a reply that takes the last edit of a script back."""
    return compose(UNDO, {"script_name": script}, topic="undo", **wording)


def trend_of(state: State, greater_is_better: bool) -> str:
    """Return how the last step of a state went, or ``start``."""
    return trends(state, greater_is_better)[-1] if state.history else "start"


def trend_said(reply: str) -> str | None:
    """Return how the last step went by the words of a reply, or None where it has no sentence of the list.

    Example:
        >>> trend_said(final_reply(trend="worse", stream=np.random.default_rng(0)))
        'worse'
    """
    found = parse_action(reply)
    said = "" if isinstance(found, Invalid) else found.fields.get("Reflection", "").strip()
    return next((trend for trend, known in _sentences()["reflection"].items() if said in known), None)


def _pick(sentences: Sequence[str], stream: np.random.Generator) -> str:
    return sentences[int(stream.integers(len(sentences)))]
