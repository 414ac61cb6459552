"""Policies: state in, reply out. Scripted, random, endpoint and local ones share interface and prompt.

A policy answers a list of turns at once, so that a local model generates in batches while the environment
executes in batches. None of them sees a score on hidden labels.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np

from mlagent_lib.agents.ideas import Idea, candidate_ideas, has_catalogue
from mlagent_lib.agents.prompts import FULL, POCKET, Prompter
from mlagent_lib.agents.replies import edit_reply, final_reply, look_reply, trend_of, undo_reply
from mlagent_lib.agents.server.chat import Chat
from mlagent_lib.agents.server.endpoint import RequestRefused
from mlagent_lib.core.errors import Unscored
from mlagent_lib.core.files import append_jsonl, read_jsonl, sha256_bytes
from mlagent_lib.core.parallel import map_threads
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.actions import EDIT, FIELDS, NO_THOUGHT_FIELDS, Invalid, parse_action, storable
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.pocket.catalogue import Edit, edits, read_block
from mlagent_lib.tasks.pocket.fixed import fixed_edits
from mlagent_lib.tasks.task import Task

Sampler = Callable[[list[list[dict]], int], list[str]]  # conversations and a seed -> replies, in order
_RECORD = ("trajectory", "step", "prompt", "reply")  # of a reply that an endpoint gave
_HINT = (
    "Your reply was thrown away. {fault} Answer again, with all these fields, each on a line of its own: "
    "{names}."
)
MAX_REPLIES = 5  # for one step: MLAgentBench's --max-retries, default 5, which counts the first one too


@dataclass
class Turn:
    """One trajectory's present turn, as a policy gets it.

    Attributes:
        stream: This trajectory's own random stream.
        ideas: Ideas that this trajectory shall try first (paper section 4.1); empty in evaluation.
        memory: The policy's notes on this trajectory; nobody else reads them.
        name: Of the trajectory, unique within a run.
        cut: What the policy's last prompt left out (`Cut.to_json`); recorded with the step.
    """

    state: State
    task: Task
    max_steps: int
    stream: np.random.Generator
    ideas: tuple[Idea, ...] = ()
    memory: dict = field(default_factory=dict)
    name: str = ""
    cut: dict[str, int] = field(default_factory=dict)


class Policy(Protocol):
    """What a rollout needs of a policy."""

    name: str

    def act(self, turns: Sequence[Turn]) -> list[str | Unscored]:
        """Return one reply for each turn, in order; an `Unscored` where we failed to get one."""


def _wording(turn: Turn) -> dict:
    """Return what a scripted reply depends on besides its content."""
    trend = trend_of(turn.state, turn.task.greater_is_better)
    return {"trend": trend, "stream": turn.stream, "script": turn.task.starter}


def _edit(turn: Turn, instruction: str, axis: str, **options) -> str:
    """Return a scripted reply that edits a block, for what the card and the script tell about it."""
    block = ""
    with contextlib.suppress(ValueError):  # no pocket script, or one that has lost the block
        block = read_block(turn.state.text(turn.task.starter), axis)
    return edit_reply(instruction, axis, facts=turn.task.facts, block=block, **_wording(turn), **options)


class _Scripted:
    """A policy by rules, which answers each turn by itself."""

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """Return one reply for each turn, in order."""
        return [self._reply(turn) for turn in turns]


class Starter(_Scripted):
    """The baseline that changes nothing: Final Answer at once."""

    name = "starter"

    def _reply(self, turn: Turn) -> str:
        return final_reply(**_wording(turn))


class FixedEdits(_Scripted):
    """The baseline that reads nothing: the same edits on every task, one a step, then Final Answer.

    Args:
        kind: The best fixed edit, the best fixed sequence, or each task's best edit (``fixed.POLICIES``).
    """

    def __init__(self, kind: str):
        self.name = kind

    def edits_of(self, task: Task) -> tuple[Edit, ...]:
        """Return the edits that it makes on a task, in their order; none where it knows none."""
        return fixed_edits(self.name, task) if has_catalogue(task) else ()

    def _reply(self, turn: Turn) -> str:
        todo = self.edits_of(turn.task)[turn.state.step :]
        return _edit(turn, todo[0].instruction, todo[0].axis) if todo else final_reply(**_wording(turn))


class RandomIdeas(_Scripted):
    """The baseline that tries a random idea of its task in each step, and always with a valid reply."""

    name = "random-ideas"

    def _reply(self, turn: Turn) -> str:
        pool = candidate_ideas(turn.task)
        idea = pool[int(turn.stream.integers(len(pool)))]
        return _edit(turn, idea.text, idea.axis)


class ScriptedExpert(_Scripted):
    """The default expert: it looks around now and then, implements its ideas one by one, and ends.

    It stands in for GPT-4o-mini (paper v1 section 5.1) where there is no account: the diversity of its
    trajectories comes from the ideas, as in the paper, its wording from a list of short sentences.

    Args:
        look_share: Chance of a look (a neutral action) before each idea, 0 to 1.
        undo_share: Chance that it takes back an edit after which the script failed or printed a worse metric.
    """

    name = "expert"

    def __init__(self, *, look_share: float = 0.12, undo_share: float = 0.0, reply_format: str = "six"):
        self.look_share, self.undo_share, self.reply_format = look_share, undo_share, reply_format

    def _reply(self, turn: Turn) -> str:
        todo = turn.memory.setdefault("todo", list(turn.ideas))
        options = {**_wording(turn), "reply_format": self.reply_format}
        last = turn.state.history[-1].action if turn.state.past else ""
        hurt = last == EDIT and options["trend"] in ("worse", "failed")
        if hurt and self.undo_share and turn.stream.random() < self.undo_share:
            return undo_reply(**options)
        if not todo:
            return final_reply(**options)
        looks = not turn.memory.get("looked", False) and turn.stream.random() < self.look_share
        turn.memory["looked"] = looks
        if looks:
            return look_reply(**options)
        idea = todo.pop(0)
        return _edit(turn, self._word(idea, turn), idea.axis, reply_format=self.reply_format)

    @staticmethod
    def _word(idea: Idea, turn: Turn) -> str:
        """Return one of the catalogue's wordings of an idea, or its own text when the catalogue has none."""
        with contextlib.suppress(ValueError):  # no pocket task
            for edit in edits(turn.task.modality, turn.task.kind):
                if edit.key == idea.key:
                    return edit.wordings[int(turn.stream.integers(len(edit.wordings)))]
        return idea.text


def format_fault(text: str, reply_format: str = "six") -> Invalid | None:
    """Return what is wrong with the format of a reply, or None where it is an action with its arguments.

    Example:
        >>> format_fault("I would use more trees.").reason
        'missing-field'
    """
    found = parse_action(text, reply_format)
    return found if isinstance(found, Invalid) else None


class ChatPolicy:
    """Any chat model behind an endpoint, as expert or as evaluated agent.

    A reply costs money and minutes, so each is written down as it comes. After an interruption the same
    trajectory gets the same replies again, without a request.

    A reply that breaks the format is thrown away, and the model is asked again with a sentence more that says
    what was wrong. The last of ``max_replies`` goes to the environment as it is, and the step is invalid.
    MLAgentBench does not ask again about arguments, and would end the run (``results/deviations.csv``).

    Args:
        complete: A `Chat`, or a function that takes chat messages and returns the reply's text. Raises
            `EndpointError` when the server fails.
        name: Recorded as the source of its trajectories.
        record: A JSONL file of the replies, made if it is not there; None keeps none.
        max_replies: Asked for in one step, 1 or more.
        seed: Of the run: two seeds never share a known reply.
    """

    def __init__(
        self,
        complete: Chat | Callable[[list[dict]], str],
        *,
        name: str = "endpoint",
        prompter: Prompter = FULL,
        record: Path | None = None,
        reply_format: str = "six",
        max_replies: int = MAX_REPLIES,
        seed: int = 0,
    ):
        self.name, self.prompter, self.reply_format = name, prompter, reply_format
        self.max_replies, self.seed = max_replies, seed
        self._complete, self._record = complete, record
        self._workers = complete.workers if isinstance(complete, Chat) else 1
        rows = read_jsonl(record, missing_ok=True)[0] if record else []
        self._known = {tuple(map(row.get, _RECORD[:3])): row["reply"] for row in rows if _RECORD[3] in row}
        self._has_answered = bool(rows)

    def act(self, turns: Sequence[Turn]) -> list[str | Unscored]:
        """Return one reply for each turn, in order; an `Unscored` where the server refuses that one request.

        Raises:
            EndpointError: The server does not answer, or has refused everything so far. Replies that came
                before are in the record.
        """
        replies = map_threads(self._reply, turns, self._workers)
        refusals = [reply for reply in replies if isinstance(reply, RequestRefused)]
        if refusals and not self._has_answered:
            raise refusals[0]
        return [
            Unscored(f"the policy's server refused: {reply.message}", cure=reply.cure)
            if isinstance(reply, RequestRefused)
            else reply
            for reply in replies
        ]

    def _reply(self, turn: Turn) -> str | RequestRefused:
        messages = self._messages(turn)
        prompt = sha256_bytes(json.dumps(messages).encode())
        key = (turn.name, turn.state.step, prompt)
        if self._record and key in self._known:
            return self._known[key]
        try:
            reply = self._well_formed(messages, turn)
        except RequestRefused as error:
            return error
        if self._record:
            append_jsonl(self._record, dict(zip(_RECORD, (*key, storable(reply)), strict=True)))
        return reply

    def _well_formed(self, messages: list[dict], turn: Turn) -> str:
        """Return the first reply in the format, or the last one allowed."""
        names = FIELDS if self.reply_format == "six" else NO_THOUGHT_FIELDS
        for number in range(1, self.max_replies + 1):
            reply = self._ask(messages, turn, number)
            self._has_answered = True
            fault = format_fault(reply, self.reply_format)
            if fault is None:
                break
            hint, last = _HINT.format(fault=fault.message, names=", ".join(names)), messages[-1]
            messages = [*messages[:-1], {**last, "content": f"{last['content']}\n\n{hint}"}]
        return reply

    def _ask(self, messages: list[dict], turn: Turn, number: int) -> str:
        if not isinstance(self._complete, Chat):
            return self._complete(messages)
        sample = f"{self.seed}/{turn.name.rpartition('/')[2]}"
        place = {"trajectory": turn.name, "step": turn.state.step, "number": number}
        judge = partial(format_fault, reply_format=self.reply_format)
        return self._complete.ask(messages, sample=sample, judge=judge, **place)

    def _messages(self, turn: Turn) -> list[dict]:
        messages = _prompt(turn, self.prompter)
        if turn.ideas:
            wanted = "\n".join(f"- {idea.text}" for idea in turn.ideas)
            first = next(message for message in messages if message["role"] == "user")
            first["content"] += f"\n\nImplement these ideas first, one by one:\n{wanted}"
        return messages


def _prompt(turn: Turn, prompter: Prompter) -> list[dict]:
    """Return the messages of a turn, and note on it what they leave out."""
    made = replace(prompter, max_steps=turn.max_steps).prompt(turn.state, turn.task)
    turn.cut = made.cut.to_json()
    return made.messages


class LocalPolicy:
    """A local model as policy: sampled in batches, seeded for each call."""

    def __init__(self, generate: Sampler, *, name: str, seed: int, prompter: Prompter = POCKET):
        self.name, self.prompter, self.seed = name, prompter, seed
        self._generate = generate
        self._calls = 0

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """Return one reply for each turn, in order."""
        conversations = [_prompt(turn, self.prompter) for turn in turns]
        self._calls += 1
        return self._generate(conversations, derive_seed(self.seed, self.name, "call", self._calls))
