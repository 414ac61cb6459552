"""States and rewards for a trainer that is not ours: a data set and a reward function as TRL takes them.

A row of the data set carries its whole state, so that the two need not know of each other and a batch may be
split over processes in any way. A step that *we* fail to score gets no reward (None), which TRL leaves out of
the group's baseline and gives no advantage.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mlagent_lib.agents.export import read_trajectories
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.agents.toolbox import toolbox
from mlagent_lib.core.errors import RunError
from mlagent_lib.environment.step import Toolbox, run_steps
from mlagent_lib.environment.workspace import State
from mlagent_lib.reward import FORMS
from mlagent_lib.tasks.task import Task
from mlagent_lib.training.pool import POOL_ACTION, StatePool, states_of
from mlagent_lib.training.scoring import rewards_of, step_statistics
from mlagent_lib.training.state_rewards import known_tasks, read_run

if TYPE_CHECKING:
    from datasets import Dataset


def states_dataset(
    source: str | Path | Sequence[State],
    *,
    style: str | None = None,
    max_steps: int | None = None,
    action: str | None = POOL_ACTION,
    limit: int | None = None,
    seed: int = 0,
    tasks: Sequence[Task] = (),
) -> Dataset:
    """Return states as a data set of TRL: ``prompt`` (messages), ``state`` (JSON), ``state_id``, ``task``.

    Args:
        source: Folder of a run (its *train* states; those kept back stay kept back), a JSONL file of
            trajectories, or states.
        style: Prompt style, ``pocket`` or ``full``; the run's where it is one, else ``full``.
        max_steps: Length of a trajectory, as the prompt tells it; the run's where it is one, else 15.
        action: From trajectories, keep the states in which the expert took this action; None keeps all.
        limit: Most states to keep, shared evenly between tasks; None keeps all.
        seed: Of the choice among them.
        tasks: Tasks that are no pocket tasks.

    Raises:
        RunError: The run is not finished, the file is not one of trajectories, or no state is left.
        TaskError: A task is unknown.
    """
    found, prompter = read_states(source, action)
    pool = StatePool.of(found)
    states = pool.states if limit is None else pool.sample(limit, seed, "dropin")
    if not states:
        raise RunError(
            "no state is left to train on", cure="give more trajectories, or action=None for every action"
        )
    known = known_tasks((state.task for state in states), tasks)
    from datasets import Dataset

    given = {"style": style, "max_steps": max_steps}
    prompter = replace(prompter, **{name: value for name, value in given.items() if value})
    rows = []
    for state in states:
        row = {"prompt": prompter.messages(state, known[state.task]), "state": json.dumps(state.to_json())}
        rows.append(row | {"state_id": state.id, "task": state.task})
    return Dataset.from_list(rows)


def read_states(
    source: str | Path | Sequence[State], action: str | None = POOL_ACTION
) -> tuple[list[State], Prompter]:
    """Return the states of a source and what makes their prompts, as `states_dataset` takes them."""
    prompter = Prompter("full")
    if not isinstance(source, (str, Path)):
        return list(source), prompter
    if Path(source).is_dir():
        run = read_run(source)
        prompter, rows = run.prompter, run.trajectories["train"]
    else:
        rows = read_trajectories(source)
    return [state for state, taken in states_of(rows) if action in (None, taken)], prompter


def step_reward_func(
    *, form: str = "v1", workers: int = 2, reply_format: str = "six", tasks: Sequence[Task] = (), **options
) -> StepRewardFunc:
    """Return the reward function for the rows of `states_dataset`; its servers start with the first batch.

    Args:
        form: One of `mlagent_lib.reward.FORMS`.
        workers: Scripts at a time.
        reply_format: ``six`` or ``no-thought``.
        tasks: Tasks that are no pocket tasks.
        **options: Of `mlagent_lib.agents.toolbox.toolbox`: ``coder`` (who writes the edits), ``cache``
            (folder in which results are kept for the next training), ``tier`` and ``allow_unsafe``.

    Raises:
        RunError: The form is unknown.
        IsolationError: This machine cannot give the tier.
    """
    if form not in FORMS:
        raise RunError(f"reward form {form!r} is unknown", cure=f"choose one of {', '.join(FORMS)}")
    stack = ExitStack()
    tools = stack.enter_context(toolbox(workers=workers, **options))
    known = {task.name: task for task in tasks}
    return StepRewardFunc(replace(tools, reply_format=reply_format, tasks=known), form, stack)


class StepRewardFunc:
    """Executes each sampled action ONCE from its own state and returns what it is worth."""

    __name__ = "step_reward"  # TRL logs it under this name

    def __init__(self, tools: Toolbox, form: str, closing: ExitStack | None = None):
        self.tools, self.form = tools, form
        self._closing = closing or ExitStack()

    def __call__(
        self, prompts: Sequence, completions: Sequence, state: Sequence[str], log_metric=None, **columns
    ) -> list[float | None]:
        """Return one reward for each completion, in order; None where we failed to score.

        Replies are messages or text, ``state`` is the column of `states_dataset`. With TRL's ``log_metric``
        the shares of the outcomes are logged. Where not one action could be scored it raises `Unscored`.
        """
        texts = [reply if isinstance(reply, str) else reply[-1]["content"] for reply in completions]
        read = {text: State.from_json(json.loads(text)) for text in set(state)}
        results = run_steps([(read[row], text) for row, text in zip(state, texts, strict=True)], self.tools)
        rewards = rewards_of(results, self.tools, self.form)
        if log_metric is not None:
            found = step_statistics(results, rewards)
            for name in ("validity", "share_edited", "unscored"):
                log_metric(f"step/{name}", float(found[name]))
        return rewards

    def close(self) -> None:
        """Stop the servers; also done at exit."""
        self._closing.close()
