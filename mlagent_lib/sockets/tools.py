"""The tasks as tools that a model calls: what TRL's ``environment_factory`` wants.

Each public method of `ToolEnvironment` but ``reset`` and ``get_reward`` is a tool; its docstring is what the
model reads. TRL asks for one reward a trajectory; the README of this folder says what that loses.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from mlagent_lib.agents.prompts import POCKET
from mlagent_lib.agents.toolbox import toolbox
from mlagent_lib.core.errors import MlagentError, Unscored
from mlagent_lib.environment.actions import EDIT, UNDO
from mlagent_lib.environment.coder import Coder
from mlagent_lib.environment.env import MAX_STEPS
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.reward import task_reward
from mlagent_lib.sockets.desk import Desk, DeskSession, Told, action_text
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.task import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PAYS = ("gain", "sum")


class ToolEnvironment:
    """One trajectory by tool calls.

    Args:
        desk: What is served, shared by all of them.
        pays: ``gain`` for Eq. 6 from the score at the reset to the one at the end, as if the trajectory were
            one action; ``sum`` for the sum of the rewards of its calls.
    """

    def __init__(self, desk: Desk, pays: str = "gain"):
        self._desk, self._pays, self._session = desk, pays, DeskSession(desk)
        self._first: Told | None = None
        self._steps: list[Told] = []
        self._failure: Unscored | None = None

    def reset(self, task: str | None = None, state: str | None = None, **row: object) -> str:
        """Return what the model is shown: the task, its script, what was done so far.

        Args:
            task: Name of a task; the only one where there is one.
            state: Id or JSON of a saved state to start from, as in the rows of `states_dataset`.
            row: Other columns of the data set, not read.
        """
        self._steps, self._failure = [], None
        self._first = self._session.reset(task=None if state else task, state=state)
        at = self._first.state
        return POCKET.messages(at, self._desk.tasks[at.task])[0]["content"]

    def edit(self, script_name: str, edit_instruction: str) -> str:
        """Change a script as told, run it, and see what it prints.

        Args:
            script_name: The script.
            edit_instruction: What to change.
        """
        words = {"edit_instruction": edit_instruction, "save_name": script_name}
        return self._call(EDIT, script_name=script_name, **words)

    def execute(self, script_name: str) -> str:
        """Run a script and see what it prints.

        Args:
            script_name: The script.
        """
        return self._call("Execute Script", script_name=script_name)

    def undo(self, script_name: str) -> str:
        """Take the last edit of a script back, run it, and see what it prints.

        Args:
            script_name: The script.
        """
        return self._call(UNDO, script_name=script_name)

    def inspect(self, script_name: str, start_line_number: int, end_line_number: int) -> str:
        """Read lines of a script, at most 100.

        Args:
            script_name: The script.
            start_line_number: First line.
            end_line_number: Last line.
        """
        lines = {"start_line_number": str(start_line_number), "end_line_number": str(end_line_number)}
        return self._call("Inspect Script Lines", script_name=script_name, **lines)

    def final_answer(self, answer: str) -> str:
        """End the work.

        Args:
            answer: What was done.
        """
        return self._call("Final Answer", final_answer=answer)

    def get_reward(self) -> float | None:
        """Return the one reward of the trajectory; None where we failed, which TRL leaves out of the group.

        With ``gain`` a trajectory without a scored edit is worth what its best call is: neutral, or failed.
        """
        if self._failure is not None:
            return None
        if self._pays == "sum":
            return float(sum(step.reward for step in self._steps))
        at, outcomes = self._session.state, {step.outcome for step in self._steps}
        found = Outcome.INVALID
        if Outcome.EDITED.value in outcomes:
            found = Outcome.EDITED
        elif outcomes & {Outcome.NEUTRAL.value, Outcome.CORNER.value}:
            found = Outcome.NEUTRAL
        task, before = self._desk.tasks[at.task], self._first.state.score
        return task_reward(found, task, before, at.score, self._desk.form)

    def _call(self, action: str, **arguments: str) -> str:
        try:
            told = self._session.step(action_text(action, arguments))
        except Unscored as error:
            self._failure = error
            raise
        self._steps.append(told)
        return told.text


def tool_environment(
    tasks: Sequence[str | Task],
    *,
    form: str = "v1",
    pays: str = "gain",
    max_steps: int = MAX_STEPS,
    workers: int = 2,
    **settings: Coder | str | bool,
) -> Callable[[], ToolEnvironment]:
    """Return the factory for TRL's ``environment_factory``; its servers stop at exit.

    Args:
        tasks: Names, folders, or tasks.
        form: One of `mlagent_lib.reward.FORMS`.
        pays: See `ToolEnvironment`.
        max_steps: Most calls of a trajectory, counted from the starter.
        workers: Scripts at a time.
        settings: ``coder``, ``cache``, ``tier`` and ``allow_unsafe`` of `mlagent_lib.agents.toolbox.toolbox`.

    Raises:
        MlagentError: A name or a word is unknown.
        IsolationError: This machine cannot give the tier.
    """
    if pays not in PAYS:
        raise MlagentError(f"pays {pays!r} is unknown", cure=f"choose {' or '.join(PAYS)}")
    found = [task if isinstance(task, Task) else find_task(task) for task in tasks]
    stack = ExitStack()
    tools = stack.enter_context(toolbox(workers=workers, **settings))
    atexit.register(stack.close)
    desk = Desk({task.name: task for task in found}, tools, form=form, max_steps=max_steps)
    return lambda: ToolEnvironment(desk, pays)


def tool_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model with a short chat template that has tools, for TRL.

    For models whose own template has none, such as the pocket model: its window is too short for the JSON
    schemas that other templates write out. A model must first learn the calls, by SFT on such conversations.
    """
    from transformers import AutoTokenizer
    from trl.chat_template_utils import qwen3_template

    template = Path(__file__).with_name("tool_chat.jinja").read_text(encoding="utf-8").strip()
    tokenizer = AutoTokenizer.from_pretrained(path, chat_template=template)
    tokenizer.response_template = qwen3_template  # calls are written as Qwen writes them
    return tokenizer
