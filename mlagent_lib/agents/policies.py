"""Policies: state in, reply out. Scripted, random, endpoint and local ones share interface and prompt.

A policy answers a list of turns at once, so that a local model generates in batches while the environment
executes in batches. None of them sees a score on hidden labels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from mlagent_lib.agents.endpoint import RequestRefused
from mlagent_lib.agents.ideas import Idea, candidate_ideas
from mlagent_lib.agents.prompts import render
from mlagent_lib.agents.replies import edit_reply, final_reply, look_reply, trend_of
from mlagent_lib.core.errors import Unscored
from mlagent_lib.core.files import append_jsonl, read_jsonl
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.actions import storable
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.pocket.catalogue import edits
from mlagent_lib.tasks.task import Task

_RECORD = ("trajectory", "step", "prompt", "reply")  # of a reply that an endpoint gave


@dataclass
class Turn:
    """One trajectory's present turn, as a policy gets it.

    Attributes:
        state: Where the agent is.
        task: Its task.
        max_steps: Length of the trajectory.
        stream: This trajectory's own random stream.
        ideas: Ideas that this trajectory shall try first (paper section 4.1); empty in evaluation.
        memory: The policy's notes on this trajectory; nobody else reads them.
        name: Of the trajectory, unique within a run.
    """

    state: State
    task: Task
    max_steps: int
    stream: np.random.Generator
    ideas: tuple[Idea, ...] = ()
    memory: dict = field(default_factory=dict)
    name: str = ""


class Policy(Protocol):
    """What a rollout needs of a policy."""

    name: str

    def act(self, turns: Sequence[Turn]) -> list[str | Unscored]:
        """Return one reply for each turn, in order; an `Unscored` where we failed to get one."""


class Starter:
    """The baseline that changes nothing: Final Answer at once."""

    name = "starter"

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """Return one reply for each turn, in order."""
        return [
            final_reply(trend=trend_of(turn.state, turn.task.greater_is_better), stream=turn.stream)
            for turn in turns
        ]


class RandomIdeas:
    """The baseline that tries a random idea of the catalogue in each step, and always with a valid reply."""

    name = "random-ideas"

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """Return one reply for each turn, in order."""
        replies = []
        for turn in turns:
            pool = candidate_ideas(turn.task)
            idea = pool[int(turn.stream.integers(len(pool)))]
            trend = trend_of(turn.state, turn.task.greater_is_better)
            replies.append(edit_reply(idea.text, idea.axis, trend=trend, stream=turn.stream))
        return replies


class ScriptedExpert:
    """The default expert: it looks around now and then, implements its ideas one by one, and ends.

    It stands in for GPT-4o-mini (paper v1 section 5.1) where there is no account: the diversity of its
    trajectories comes from the ideas, as in the paper, its wording from a list of short sentences.

    Args:
        look_share: Chance of a look (a neutral action) before each idea, 0 to 1.
        reply_format: ``six`` or ``no-thought``.
    """

    name = "expert"

    def __init__(self, *, look_share: float = 0.12, reply_format: str = "six"):
        self.look_share, self.reply_format = look_share, reply_format

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """Return one reply for each turn, in order."""
        return [self._reply(turn) for turn in turns]

    def _reply(self, turn: Turn) -> str:
        todo = turn.memory.setdefault("todo", list(turn.ideas))
        options = {
            "trend": trend_of(turn.state, turn.task.greater_is_better),
            "stream": turn.stream,
            "reply_format": self.reply_format,
        }
        looked = turn.memory.get("looked", False)
        if todo and not looked and turn.stream.random() < self.look_share:
            turn.memory["looked"] = True
            return look_reply(**options)
        turn.memory["looked"] = False
        if not todo:
            return final_reply(**options)
        idea = todo.pop(0)
        return edit_reply(self._word(idea, turn), idea.axis, **options)

    @staticmethod
    def _word(idea: Idea, turn: Turn) -> str:
        """Return one of the catalogue's wordings of an idea, or its own text when the catalogue has none."""
        for edit in edits(turn.task.modality, turn.task.kind):
            if edit.key == idea.key:
                return edit.wordings[int(turn.stream.integers(len(edit.wordings)))]
        return idea.text


class ChatPolicy:
    """Any chat model behind an endpoint, as expert or as evaluated agent.

    A reply costs money and minutes, so each is written down as it comes. After an interruption the same
    trajectory gets the same replies again, without a request.

    Args:
        complete: Takes chat messages and returns the reply's text. Raises `EndpointError` when the server
            fails.
        name: Recorded as the source of its trajectories.
        style: Prompt style.
        record: A JSONL file of the replies, made if it is not there; None keeps none.
    """

    def __init__(
        self,
        complete: Callable[[list[dict]], str],
        *,
        name: str = "endpoint",
        style: str = "full",
        record: Path | None = None,
    ):
        self.name, self.style = name, style
        self._complete, self._record = complete, record
        rows = read_jsonl(record, missing_ok=True)[0] if record else []
        self._known = {tuple(map(row.get, _RECORD[:3])): row["reply"] for row in rows if _RECORD[3] in row}
        self._has_answered = bool(rows)

    def act(self, turns: Sequence[Turn]) -> list[str | Unscored]:
        """Return one reply for each turn, in order; an `Unscored` where the server refuses that one request.

        Raises:
            EndpointError: The server does not answer, or has refused everything so far. Replies that came
                before are in the record.
        """
        replies = [self._reply(turn) for turn in turns]
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
        prompt = hashlib.sha256(json.dumps(messages).encode()).hexdigest()
        key = (turn.name, turn.state.step, prompt)
        if self._record and key in self._known:
            return self._known[key]
        try:
            reply = self._complete(messages)
        except RequestRefused as error:
            return error
        self._has_answered = True
        if self._record:
            append_jsonl(self._record, dict(zip(_RECORD, (*key, storable(reply)), strict=True)))
        return reply

    def _messages(self, turn: Turn) -> list[dict]:
        messages = render(turn.state, turn.task, style=self.style, max_steps=turn.max_steps)
        if turn.ideas:
            wanted = "\n".join(f"- {idea.text}" for idea in turn.ideas)
            first = next(message for message in messages if message["role"] == "user")
            first["content"] += f"\n\nImplement these ideas first, one by one:\n{wanted}"
        return messages


class LocalPolicy:
    """A local model as policy: sampled in batches, seeded for each call.

    Args:
        generate: Takes conversations and a seed, returns replies, in order.
        name: Recorded as the source of its trajectories.
        seed: Root of its sampling streams.
        style: Prompt style.
    """

    def __init__(
        self,
        generate: Callable[[list[list[dict]], int], list[str]],
        *,
        name: str,
        seed: int,
        style: str = "pocket",
    ):
        self.name, self.style, self.seed = name, style, seed
        self._generate = generate
        self._calls = 0

    def act(self, turns: Sequence[Turn]) -> list[str]:
        """Return one reply for each turn, in order."""
        conversations = [
            render(turn.state, turn.task, style=self.style, max_steps=turn.max_steps) for turn in turns
        ]
        self._calls += 1
        return self._generate(conversations, derive_seed(self.seed, self.name, "call", self._calls))
