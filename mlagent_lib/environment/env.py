"""The environment with Gymnasium's conventions: text in, text out, states that can be restored and forked."""

from __future__ import annotations

import string
from collections.abc import Mapping

import gymnasium
from gymnasium.vector.utils import create_shared_memory

from mlagent_lib.core.errors import MlagentError, Unscored
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import StepResult, Toolbox, run_step, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.task import Task

MAX_STEPS = 15  # "15 steps", paper v1/v2 section 5.1


class AnyText(gymnasium.spaces.Text):
    """All texts: a reply in any script is an action, if often an invalid one. Samples are printable ASCII."""

    def __init__(self, sample_length: int = 200):
        super().__init__(max_length=sample_length, charset=string.printable)

    def contains(self, x: object) -> bool:
        """Return whether x is a text."""
        return isinstance(x, str)


@create_shared_memory.register(AnyText)
def _no_shared_memory(space: AnyText, n: int = 1, ctx: object = None) -> None:
    """Raise `MlagentError`: a text of any length fits no array, and Gymnasium never reads it back."""
    raise MlagentError(
        "the observations are texts of any length, for which there is no shared memory",
        cure='pass shared_memory=False: make_vec(..., vectorization_mode="async", '
        'vector_kwargs={"shared_memory": False})',
    )


class Environment(gymnasium.Env):
    """One ML task as a Gymnasium environment whose actions and observations are texts.

    The *reward* of the Gymnasium signature is 0.0 here unless ``reward`` is given: the environment knows
    outcomes and scores, `mlagent_lib.reward` knows what they are worth.

    Args:
        reward: Called as ``reward(result, task)`` for each step.
    """

    metadata = {"render_modes": []}

    def __init__(self, task: Task, tools: Toolbox, *, max_steps: int = MAX_STEPS, reward=None):
        self.task, self.tools, self.max_steps = task, tools, max_steps
        self._reward = reward
        tools.tasks[task.name] = task
        self.action_space, self.observation_space = AnyText(), AnyText()
        self.state: State | None = None

    def reset(self, *, seed: int | None = None, options: Mapping | None = None) -> tuple[str, dict]:
        """Return the first observation and info; ``options={"state": state}`` restores that state instead.

        Raises:
            Unscored: The starter cannot be executed.
            MlagentError: The state belongs to another task.
        """
        super().reset(seed=seed)
        state = (options or {}).get("state")
        self.restore(state or start_state(self.task, self.tools))
        history = self.state.history
        return history[-1].observation if history else self.task.research_problem, self._info()

    def step(self, text: str) -> tuple[str, float, bool, bool, dict]:
        """Return observation, reward, terminated, truncated and info (with ``result``) of one reply.

        Raises:
            Unscored: We failed. The state is unchanged, so the step can be tried again.
            MlagentError: `reset` was not called, or the reply is no text.
        """
        if self.state is None:
            raise MlagentError("step() before reset()", cure="call env.reset() first")
        if not isinstance(text, str):
            cure = "pass the reply as a str, decoded"
            raise MlagentError(f"an action is a text, not a {type(text).__name__}", cure=cure)
        result = run_step(self.state, text, self.tools)
        if result.outcome is Outcome.UNSCORED:
            raise Unscored(result.failure, cure="try the step again: the state is unchanged")
        self.state = result.state
        reward = float(self._reward(result, self.task)) if self._reward else 0.0
        truncated = self.state.step >= self.max_steps
        return result.observation, reward, self.state.done, truncated, self._info(result)

    def snapshot(self) -> State:
        """Return the present state: a value, so nothing that follows changes it.

        Raises:
            MlagentError: `reset` was not called.
        """
        if self.state is None:
            raise MlagentError("snapshot() before reset()", cure="call env.reset() first")
        return self.state

    def restore(self, state: State) -> None:
        """Go on from a state.

        Raises:
            MlagentError: It belongs to another task, or to other data of this task.
        """
        if (state.task, state.task_digest) != (self.task.name, self.task.digest):
            raise MlagentError(
                f"the state belongs to task {state.task!r} ({state.task_digest[:12]}…), this environment is "
                f"{self.task.name!r} ({self.task.digest[:12]}…)",
                cure="restore it in an environment of its own task and data",
            )
        self.state = state

    def fork(self, n: int) -> list[Environment]:
        """Return ``n`` environments that start where this one is; they share runner and cache."""
        options = {"max_steps": self.max_steps, "reward": self._reward}
        forks = [Environment(self.task, self.tools, **options) for _ in range(n)]
        for fork in forks:
            fork.state = self.state
        return forks

    def _info(self, result: StepResult | None = None) -> dict:
        return {"state": self.state, "result": result}
