"""Coders: they turn an edit instruction into an edited script. The policy says what, the coder writes it.

In the paper the coder is Qwen2.5-Coder-32B-Instruct. Here it is one of four: `BlockCoder` and `ScriptCoder`
(the policy's own base weights with the adapter off: the pocket model writes one block, a model that chats the
whole script), `ChatCoder` (any chat endpoint, whole file in a code fence as in MLAgentBench), `RuleCoder`
(the pocket catalogue itself). A coder that fails returns a `CoderError` for its row, and the step becomes a
corner case, not the policy's error.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from mlagent_lib.core.errors import CoderError, EndpointError, Unscored
from mlagent_lib.core.parallel import map_threads
from mlagent_lib.core.thinking import split_thinking
from mlagent_lib.environment.coder_reply import fault_of, find_script
from mlagent_lib.tasks.pocket import catalogue
from mlagent_lib.tasks.task import Task

_KEPT_EDITS = 1000  # of a local coder: a few kilobytes each


@dataclass(frozen=True)
class EditRequest:
    """One piece of work for a coder: which task, which script, what to change."""

    task: Task
    script: str
    instruction: str


class Coder(Protocol):
    """What an environment needs of a coder."""

    def edit_many(self, requests: Sequence[EditRequest]) -> list[str | CoderError | Unscored]:
        """Return the edited script for each request, in order, or why there is none.

        A `CoderError` is the coder's failure (a corner case of the step), an `Unscored` is ours (its server
        is down).
        """


class RuleCoder:
    """The pocket catalogue as a coder: exact on its own wordings with any numbers, refuses all else."""

    def edit_many(self, requests: Sequence[EditRequest]) -> list[str | CoderError]:
        """Return the edited script for each request, in order, or why there is none."""
        return [self._edit(request) for request in requests]

    def _edit(self, request: EditRequest) -> str | CoderError:
        task = request.task
        try:
            understood = catalogue.interpret(request.instruction, task.modality, task.kind)
        except ValueError as error:
            return CoderError(f"the rule coder knows pocket tasks only: {error}", cure="choose another coder")
        if understood is None:
            return CoderError(f"the rule coder does not know the instruction {request.instruction[:80]!r}")
        return _made(catalogue.replace_block, request.script, *understood)


def _made(make: Callable[..., str], *words: object) -> str | CoderError:
    """Return what a function makes; where it cannot, that is the coder's error."""
    try:
        return make(*words)
    except ValueError as error:
        return CoderError(str(error))


def block_prompt(script: str, instruction: str) -> str:
    """Return what a block coder reads: the three blocks of the script and the instruction.

    Raises:
        ValueError: The script has no pocket blocks.
    """
    return f"Script:\n{visible_part(script)}\nEdit: {instruction.strip()}"


def visible_part(script: str) -> str:
    """Return the part of a pocket script that edits can touch, and the name of its validation metric.

    Raises:
        ValueError: A block is missing.

    Example:
        >>> blocks = "# data\\na\\n\\n# model\\nb\\n\\n# learning\\nc\\n\\n"
        >>> text = "import x\\n" + blocks + "print('validation auc:', f())\\n"
        >>> print(visible_part(text))
        # data
        a
        # model
        b
        # learning
        c
        # validation auc
    """
    parts = [f"# {axis}\n{catalogue.read_block(script, axis)}" for axis in catalogue.AXES]
    metric = re.search(r"validation ([\w@-]+):", script)
    return "\n".join(parts + ([f"# validation {metric.group(1)}"] if metric else []))


def parse_block_reply(reply: str) -> tuple[str, str]:
    """Return the axis and the lines of a block coder's reply: a header line, then the block.

    Raises:
        ValueError: The reply does not start with the header of a block, or has nothing after it.
    """
    header, _, block = split_thinking(reply)[0].strip("\n").partition("\n")
    match = re.fullmatch(r"# (data|model|learning)", header.strip())
    if not match or not block.strip() or "\n\n" in block:
        raise ValueError("the coder's reply is not a header and its block")
    return match.group(1), block


CHAT_INSTRUCTIONS = (
    "You edit one Python script for a machine-learning engineer. Apply the edit instruction and nothing "
    "else. Answer with the whole edited script in one ```python code block."
)


def chat_messages(script: str, instruction: str) -> list[dict]:
    """Return what a chat coder reads: script and instruction."""
    user = f"Script:\n```python\n{script}\n```\n\nEdit instruction: {instruction}"
    return [{"role": "system", "content": CHAT_INSTRUCTIONS}, {"role": "user", "content": user}]


def read_chat_reply(reply: str, script: str) -> str:
    """Return the edited script in a chat coder's reply; `ValueError` as of `find_script`.

    Example:
        >>> read_chat_reply("Here it is:\\n```python\\nx = 1\\n```\\n", "x = 2\\n")
        'x = 1\\n'
    """
    return find_script(split_thinking(reply)[0], script)


class _LocalCoder:
    """A model in this process as coder: asked once for each request, in one batch.

    A kind of it says what the model is asked (``_prompt``) and which script a reply makes (``_read``); both
    raise `ValueError` where there is none.

    Args:
        generate: Takes prompts and returns replies, in order. Greedy, so that the same request gives the same
            script and results can be cached; the newest are kept.
    """

    def __init__(self, generate: Callable[[list], list[str]]):
        self._generate = generate
        self._memory: dict[tuple[str, str], str | CoderError] = {}

    def edit_many(self, requests: Sequence[EditRequest]) -> list[str | CoderError]:
        """Return the edited script for each request, in order, or why there is none."""
        keys = [(request.script, request.instruction) for request in requests]
        todo = [key for key in dict.fromkeys(keys) if key not in self._memory]
        prompts = {key: _made(self._prompt, *key) for key in todo}
        self._memory |= {key: asked for key, asked in prompts.items() if isinstance(asked, CoderError)}
        ready = [key for key in todo if key not in self._memory]
        replies = self._generate([prompts[key] for key in ready]) if ready else []
        for key, reply in zip(ready, replies, strict=True):
            self._memory[key] = _made(self._read, reply, key[0])
        made = [self._memory[key] for key in keys]
        for key in list(self._memory)[:-_KEPT_EDITS]:
            del self._memory[key]
        return made


class BlockCoder(_LocalCoder):
    """A small model as coder: asked by `block_prompt`, it answers with the block that it rewrites."""

    _prompt = staticmethod(block_prompt)

    @staticmethod
    def _read(reply: str, script: str) -> str:
        made = catalogue.replace_block(script, *parse_block_reply(reply))
        if fault := fault_of(made):
            raise ValueError(f"the coder's script is no whole Python program: {fault}")
        return made


class ScriptCoder(_LocalCoder):
    """A chat model in this process as coder: asked as `ChatCoder` asks, it answers with the whole script.

    Args:
        generate: Takes conversations (of `chat_messages`) and returns replies, as for `BlockCoder`.
        problem: Takes a conversation and its script, returns why it is too long for the model, or nothing.
    """

    _read = staticmethod(read_chat_reply)

    def __init__(
        self,
        generate: Callable[[list[list[dict]]], list[str]],
        problem: Callable[[list[dict], str], str] = lambda messages, script: "",
    ):
        super().__init__(generate)
        self._problem = problem

    def _prompt(self, script: str, instruction: str) -> list[dict]:
        messages = chat_messages(script, instruction)
        if problem := self._problem(messages, script):
            raise ValueError(problem)
        return messages


class ChatCoder:
    """Any chat model as coder: it gets script and instruction, and answers with the file in a code fence.

    Args:
        complete: Takes chat messages and returns the reply's text, or raises `EndpointError`.
        workers: Requests that may be under way at once.
    """

    def __init__(self, complete: Callable[[list[dict]], str], workers: int = 1):
        self._complete, self.workers = complete, workers

    def edit_many(self, requests: Sequence[EditRequest]) -> list[str | CoderError | Unscored]:
        """Return the edited script for each request, in order, or why there is none."""
        replies = map_threads(self._reply, requests, self.workers)
        return [
            reply if isinstance(reply, Unscored) else _made(read_chat_reply, reply, request.script)
            for request, reply in zip(requests, replies, strict=True)
        ]

    def _reply(self, request: EditRequest) -> str | Unscored:
        try:
            return self._complete(chat_messages(request.script, request.instruction))
        except EndpointError as error:
            return Unscored(f"the coder's server failed: {error.message}", cure=error.cure)
