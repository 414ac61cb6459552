"""The text from which the pocket model is pretrained: coder edits, and agent turns on invented tasks.

Every task card, script, history and score here is drawn at random: names from word lists, blocks from the
edit catalogue, scores from a random walk that nobody executed. So the model learns the format, the vocabulary
of edits and how to carry them out, but nothing about which edit is good on which task. No task of the suite,
held-in or held-out, is named or shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np

from mlagent_lib.agents.prompts import pocket_text
from mlagent_lib.agents.replies import edit_reply, final_reply, look_reply, trend_of
from mlagent_lib.core.files import read_yaml
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.coder import block_prompt
from mlagent_lib.environment.workspace import HistoryStep, State
from mlagent_lib.tasks.pocket import catalogue
from mlagent_lib.tasks.pocket.cards import FACTS

_DATA = read_yaml(Path(__file__).with_suffix(".yaml"))
_FIRST, _SECOND = _DATA["first"].split(), _DATA["second"].split()
_METRICS = {kind: tuple(metrics.items()) for kind, metrics in _DATA["metrics"].items()}
_LOOK_SHARE = 0.12  # ours: turns that look instead of editing
_OFF_GRID_SHARE = 0.3  # ours: coder edits with numbers that no idea proposes, so that numbers are copied
_FINAL_SHARE = 0.04  # ours: turns that end the trajectory


def examples(
    seed: int, *, coder_share: float = 0.5, forbidden: frozenset[str] = frozenset()
) -> Iterator[dict]:
    """Yield chat examples without end: ``{"kind", "prompt", "completion"}``.

    Args:
        coder_share: Fraction of coder edits, 0 to 1; the rest are agent turns.
        forbidden: Task names that must not occur (those of the suite).
    """
    index = 0
    while True:
        stream = rng(seed, "corpus", index)
        index += 1
        example = coder_example(stream) if stream.random() < coder_share else agent_example(stream, forbidden)
        yield example


def coder_example(stream: np.random.Generator) -> dict:
    """Return one coder edit: a random script and an instruction, answered by the block's new lines.

    ``proposed`` tells whether the instruction is one of the catalogue, from which all ideas come, or has
    other numbers.
    """
    modality, kind = _pick(catalogue.MODALITIES, stream), _pick(catalogue.KINDS, stream)
    script = _script(modality, kind, _pick(_METRICS[kind], stream)[0], stream)
    instruction, proposed = _instruction(modality, kind, stream)[1], True
    if stream.random() < _OFF_GRID_SHARE:
        other = re.sub(r"(?<![\d.])\d+(?!\.?\d)", lambda _: str(stream.integers(2, 200)), instruction)
        if catalogue.interpret(
            other, modality, kind
        ):  # else the number belongs to the wording, as in "3 by 3"
            proposed, instruction = other == instruction, other
    axis, block = catalogue.interpret(instruction, modality, kind)
    prompt, completion = block_prompt(script, instruction), f"# {axis}\n{block}"
    return {"kind": "coder", "prompt": prompt, "completion": completion, "proposed": proposed}


def agent_example(stream: np.random.Generator, forbidden: frozenset[str] = frozenset()) -> dict:
    """Return one agent turn on a task that does not exist."""
    modality, kind = _pick(catalogue.MODALITIES, stream), _pick(catalogue.KINDS, stream)
    metric, higher = _pick(_METRICS[kind], stream)
    script = _script(modality, kind, metric, stream)
    max_steps = int(_pick((4, 5, 6, 8, 10, 15), stream))
    state = _state(script, modality, kind, max_steps, stream)
    card = _card(modality, kind, metric, higher, stream, forbidden)
    trend, draw = trend_of(state, higher), stream.random()
    if draw < _LOOK_SHARE:
        reply = look_reply(trend=trend, stream=stream)
    elif draw < _LOOK_SHARE + _FINAL_SHARE:
        reply = final_reply(trend=trend, stream=stream)
    else:
        axis, instruction = _instruction(modality, kind, stream)
        reply = edit_reply(instruction, axis, trend=trend, stream=stream)
    return {"kind": "agent", "prompt": pocket_text(card, state, higher, max_steps), "completion": reply}


@cache
def _by_family(modality: str, kind: str) -> dict[str, dict[str, tuple[catalogue.Edit, ...]]]:
    found: dict[str, dict[str, list]] = {axis: {} for axis in catalogue.AXES}
    for edit in catalogue.edits(modality, kind):
        found[edit.axis].setdefault(edit.key.split("/")[1], []).append(edit)
    return found


def _edit(modality: str, kind: str, axis: str, stream: np.random.Generator) -> catalogue.Edit:
    """Draw a family first, so that families with many parameters do not crowd out the others."""
    families = _by_family(modality, kind)[axis]
    return _pick(families[_pick(tuple(families), stream)], stream)


def _instruction(modality: str, kind: str, stream: np.random.Generator) -> tuple[str, str]:
    axis = _pick(catalogue.AXES, stream)
    return axis, _pick(_edit(modality, kind, axis, stream).wordings, stream)


def _script(modality: str, kind: str, metric: str, stream: np.random.Generator) -> str:
    """Return a script of random blocks; the learning block is plain half of the time, as in starters."""
    blocks = {axis: _edit(modality, kind, axis, stream).block for axis in catalogue.AXES}
    if stream.random() < 0.5:
        blocks["learning"] = "learner = make_pipeline(prepare, model)"
    body = "\n\n".join(f"# {axis}\n{blocks[axis]}" for axis in catalogue.AXES)
    return f'{body}\n\nprint("validation {metric}:", 0)\n'


def _state(script: str, modality: str, kind: str, max_steps: int, stream: np.random.Generator) -> State:
    value = (
        float(10 ** stream.uniform(-1.2, 1.6)) if stream.random() < 0.5 else float(stream.uniform(0.1, 0.95))
    )
    start, history = round(value, 4), []
    for _ in range(int(stream.integers(0, min(max_steps, 6)))):
        draw = stream.random()
        if draw < 0.7:
            value = value * float(stream.uniform(0.85, 1.15))
            history.append(_edited(modality, kind, stream, "edited", round(value, 4)))
        elif draw < 0.85:
            history.append(_edited(modality, kind, stream, "error", None))
        else:
            name = _pick(("List Files", "Inspect Script Lines", "Understand File"), stream)
            history.append(HistoryStep("", name, {}, "", "neutral"))
    return State(
        task="none",
        task_digest="",
        files={"train.py": script.encode()},
        history=tuple(history),
        visible_start=start,
        step=len(history),
    )


def _edited(
    modality: str, kind: str, stream: np.random.Generator, outcome: str, visible: float | None
) -> HistoryStep:
    instruction = _instruction(modality, kind, stream)[1]
    return HistoryStep("", "Edit Script (AI)", {"edit_instruction": instruction}, "", outcome, visible)


def _card(
    modality: str,
    kind: str,
    metric: str,
    higher: bool,
    stream: np.random.Generator,
    forbidden: frozenset[str],
) -> str:
    name = f"{_pick(_FIRST, stream)}-{_pick(_SECOND, stream)}"
    while name in forbidden:
        name = f"{_pick(_FIRST, stream)}-{_pick(_SECOND, stream)}"
    count = int(stream.integers(0, 4))
    facts = "; ".join(stream.choice(FACTS, size=count, replace=False)) or "none"
    rows = int(stream.integers(100, 1000))
    columns = 1 if modality in ("text", "graph") else int(stream.integers(4, 150))
    return (
        f"Task: {name}. {modality}, {kind}, {metric}, {'higher' if higher else 'lower'} is better.\n"
        f"Data: {rows} rows, {columns} columns. Facts: {facts}."
    )


def _pick(items, stream: np.random.Generator):
    return items[int(stream.integers(len(items)))]
