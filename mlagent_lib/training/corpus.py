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
from itertools import count
from pathlib import Path

import numpy as np
from numpy.random import Generator

from mlagent_lib.agents.prompts import pocket_text
from mlagent_lib.agents.replies import edit_reply, final_reply, look_reply, trend_of, undo_reply
from mlagent_lib.core.files import read_yaml
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.actions import EDIT, UNDO
from mlagent_lib.environment.coder import block_prompt
from mlagent_lib.environment.workspace import HistoryStep, State
from mlagent_lib.tasks.pocket import catalogue
from mlagent_lib.tasks.pocket.cards import DECIDES, FACTS

_DATA = read_yaml(Path(__file__).with_suffix(".yaml"))
_FIRST, _SECOND = _DATA["first"].split(), _DATA["second"].split()
_METRICS = {kind: tuple(metrics.items()) for kind, metrics in _DATA["metrics"].items()}
_OF_BLOCK = {axis: sum(decided == axis for decided in DECIDES.values()) for axis in catalogue.AXES}
# Of the facts of a card, half decide a block, and each block is decided as often as the others.
_WEIGHTS = np.array([1 / _OF_BLOCK[DECIDES[fact]] / 6 if fact in DECIDES else 0 for fact in FACTS])
_WEIGHTS[_WEIGHTS == 0] = 0.5 / (_WEIGHTS == 0).sum()
_LOOK_SHARE = 0.12  # ours: turns that look instead of editing
_FINAL_SHARE = 0.04  # ours: turns that end the trajectory
_UNDO_SHARE = 0.06  # ours: turns that take an edit back, where there is one, however the last step went
_FREE_SHARE = 0.7  # ours: coder edits and shown blocks whose numbers are drawn, so that they are copied
_SIBLING_SHARE = 0.3  # ours: coder edits of the family that the block has: the number beside it misleads
_OTHER_FORM_SHARE = 0.15  # ours: drawn numbers that are decimal where the catalogue has none, or whole
_ROUND_SHARE = 0.35  # ours: drawn whole numbers that end in zeros: 10, 100 and 1000 are told apart
_NUMBER = re.compile(r"(?<![\d.])\d+(?:\.\d+)?(?![\d.]*\d)")


def examples(
    seed: int, *, coder_share: float = 0.5, forbidden: frozenset[str] = frozenset()
) -> Iterator[dict]:
    """Yield chat examples without end: ``{"kind", "prompt", "completion"}``; see `branches`."""
    for index in count():
        yield from branches(seed, index, coder_share=coder_share, forbidden=forbidden)


def branches(
    seed: int, index: int, *, coder_share: float, forbidden: frozenset[str] = frozenset(), number: int = 1
) -> list[dict]:
    """Return examples that begin alike: edits of one script, or replies to one prompt of the policy.

    Args:
        index: Which ones, from 0: all are independent of each other.
        coder_share: Chance of coder edits, 0 to 1; the rest are agent turns.
        forbidden: Task names that must not occur (those of the suite).
        number: How many, 1 or more.
    """
    stream = rng(seed, "corpus", index)
    if stream.random() < coder_share:
        return _coder_examples(stream, number)
    return _agent_examples(stream, number, forbidden)


def _coder_examples(stream: Generator, number: int) -> list[dict]:
    """Return coder edits: a random script and instructions, each answered by the block's new lines.

    ``proposed`` tells whether the instruction is one of the catalogue, from which all ideas come, or has
    other numbers.
    """
    modality, kind = _pick(catalogue.MODALITIES, stream), _pick(catalogue.KINDS, stream)
    shown = _shown(modality, kind, stream)
    script, found = _script(shown, modality, kind, _pick(_METRICS[kind], stream)[0], stream), []
    for _ in range(number):
        axis = _pick(catalogue.AXES, stream)
        family = _family(shown[axis]) if stream.random() < _SIBLING_SHARE else ""
        instruction = _pick(_edit(modality, kind, axis, stream, family).wordings, stream)
        instruction = _with_numbers(instruction, modality, kind, stream)
        axis, block = catalogue.interpret(instruction, modality, kind)
        prompt, proposed = block_prompt(script, instruction), instruction in _proposed(modality, kind)
        answer = {"completion": f"# {axis}\n{block}", "proposed": proposed}
        found.append({"kind": "coder", "prompt": prompt} | answer)
    return found


def _agent_examples(stream: Generator, number: int, forbidden: frozenset[str]) -> list[dict]:
    """Return agent turns in one state of a task that does not exist."""
    modality, kind = _pick(catalogue.MODALITIES, stream), _pick(catalogue.KINDS, stream)
    metric, higher = _pick(_METRICS[kind], stream)
    script = _script(_shown(modality, kind, stream), modality, kind, metric, stream)
    max_steps = int(_pick((4, 5, 6, 8, 10, 15), stream))
    state = _state(script, modality, kind, max_steps, stream)
    facts = list(stream.choice(FACTS, size=int(stream.integers(0, 6)), replace=False, p=_WEIGHTS))
    about = f"{modality}, {kind}, {metric}, {'higher' if higher else 'lower'} is better"
    card = _card(modality, about, facts, stream, forbidden)
    prompt, wording = pocket_text(card, state, higher, max_steps), {"trend": trend_of(state, higher)}
    may_undo = any(step.action == EDIT for step in state.history)
    replies = (_reply(modality, kind, script, facts, may_undo, stream, wording) for _ in range(number))
    return [{"kind": "agent", "prompt": prompt, "completion": reply} for reply in replies]


def _reply(
    modality: str, kind: str, script: str, facts: list[str], may_undo: bool, stream: Generator, wording: dict
) -> str:
    draw = stream.random()
    if draw < _LOOK_SHARE:
        return look_reply(stream=stream, **wording)
    if draw < _LOOK_SHARE + _FINAL_SHARE:
        return final_reply(stream=stream, **wording)
    if draw < _LOOK_SHARE + _FINAL_SHARE + _UNDO_SHARE and may_undo:
        return undo_reply(stream=stream, **wording)
    axis, instruction = _instruction(modality, kind, stream)
    block = catalogue.read_block(script, axis)
    return edit_reply(instruction, axis, facts=facts, block=block, stream=stream, **wording)


def _family(edit: catalogue.Edit) -> str:
    return edit.key.split("/")[1]


@cache
def _by_family(modality: str, kind: str) -> dict[str, dict[str, tuple[catalogue.Edit, ...]]]:
    found: dict[str, dict[str, list]] = {axis: {} for axis in catalogue.AXES}
    for edit in catalogue.edits(modality, kind):
        found[edit.axis].setdefault(_family(edit), []).append(edit)
    return found


@cache
def _proposed(modality: str, kind: str) -> frozenset[str]:
    return frozenset(wording for edit in catalogue.edits(modality, kind) for wording in edit.wordings)


def _edit(modality: str, kind: str, axis: str, stream: Generator, family: str = "") -> catalogue.Edit:
    """Draw a family first, so that families with many parameters do not crowd out the others."""
    families = _by_family(modality, kind)[axis]
    return _pick(families[family or _pick(tuple(families), stream)], stream)


def _instruction(modality: str, kind: str, stream: Generator) -> tuple[str, str]:
    axis = _pick(catalogue.AXES, stream)
    return axis, _pick(_edit(modality, kind, axis, stream).wordings, stream)


@cache
def _places(instruction: str, modality: str, kind: str) -> list[tuple[int, int]]:
    """Return where an instruction has numbers that may be others, last one first: not those of "3 by 3"."""
    spans = [match.span() for match in _NUMBER.finditer(instruction)]
    others = (f"{instruction[:begin]}77{instruction[end:]}" for begin, end in spans)
    return [
        span for span, other in zip(spans, others, strict=True) if catalogue.interpret(other, modality, kind)
    ][::-1]


def _with_numbers(instruction: str, modality: str, kind: str, stream: Generator) -> str:
    """Return an instruction, in `_FREE_SHARE` of the cases with numbers from anywhere."""
    if stream.random() < _FREE_SHARE:
        for begin, end in _places(instruction, modality, kind):
            drawn = _number("." in instruction[begin:end], stream)
            instruction = instruction[:begin] + drawn + instruction[end:]
    return instruction


def _number(decimal: bool, stream: Generator) -> str:
    """Return a number of one to four digits, or a decimal of up to four, as text."""
    digits = int(stream.integers(1, 5))
    if decimal != (stream.random() < _OTHER_FORM_SHARE):
        whole = _pick(
            ("0", "0", "0", "0", str(stream.integers(1, 10)), str(stream.integers(10, 100))), stream
        )
        zeros = "0" * min(int(stream.geometric(0.7)) - 1, digits - 1)  # 0.05 and 0.001 are frequent forms
        return f"{whole}.{zeros}" + "".join(str(stream.integers(10)) for _ in range(digits - len(zeros)))
    if stream.random() < _ROUND_SHARE:
        return str(stream.integers(1, 10)) + "0" * (digits - 1)
    return str(stream.integers(10 ** (digits - 1), 10**digits))


def _shown(modality: str, kind: str, stream: Generator) -> dict[str, catalogue.Edit]:
    """Return an edit of each block that a script shows; its numbers are still to draw."""
    return {axis: _edit(modality, kind, axis, stream) for axis in catalogue.AXES}


def _script(
    shown: dict[str, catalogue.Edit], modality: str, kind: str, metric: str, stream: Generator
) -> str:
    """Return a script of random blocks; the learning block is plain half of the time, as in starters."""
    blocks = {}
    for axis, edit in shown.items():
        instruction = _with_numbers(edit.instruction, modality, kind, stream)
        blocks[axis] = catalogue.interpret(instruction, modality, kind)[1]
    if stream.random() < 0.5:
        blocks["learning"] = "learner = make_pipeline(prepare, model)"
    body = "\n\n".join(f"# {axis}\n{blocks[axis]}" for axis in catalogue.AXES)
    return f'{body}\n\nprint("validation {metric}:", 0)\n'


def _state(script: str, modality: str, kind: str, max_steps: int, stream: Generator) -> State:
    value = float(10 ** stream.uniform(-1.2, 1.6) if stream.random() < 0.5 else stream.uniform(0.1, 0.95))
    start = round(value, 4)
    held, history = [start], []  # the metric of the starter, and after each edit that still stands
    for _ in range(int(stream.integers(0, min(max_steps, 6)))):
        draw, asked = stream.random(), {}
        if draw < 0.1 and len(held) > 1:
            held.pop()
            name, result = UNDO, ("edited", held[-1])
        elif draw < 0.85:
            worked = draw < 0.7
            held.append(round(held[-1] * float(stream.uniform(0.85, 1.15)), 4) if worked else held[-1])
            name, asked = EDIT, {"edit_instruction": _instruction(modality, kind, stream)[1]}
            result = ("edited", held[-1]) if worked else ("error", None)
        else:
            name = _pick(("List Files", "Inspect Script Lines", "Understand File"), stream)
            result = ("neutral", None)
        history.append(HistoryStep("", name, asked, "", *result))
    at = {"history": tuple(history), "visible_start": start, "step": len(history)}
    return State(task="none", task_digest="", files={"train.py": script.encode()}, **at)


def _card(modality: str, about: str, facts: list[str], stream: Generator, forbidden: frozenset[str]) -> str:
    while (name := f"{_pick(_FIRST, stream)}-{_pick(_SECOND, stream)}") in forbidden:
        continue
    rows = int(stream.integers(100, 1000))
    columns = 1 if modality in ("text", "graph") else int(stream.integers(4, 150))
    return (
        f"Task: {name}. {about}.\nData: {rows} rows, {columns} columns. Facts: {'; '.join(facts) or 'none'}."
    )


def _pick(items, stream: Generator):
    return items[int(stream.integers(len(items)))]
