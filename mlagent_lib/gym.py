"""The tasks by their Gymnasium names: ``import mlagent_lib.gym``, then ``gymnasium.make("mlagent/...-v0")``.

Gymnasium 1.0 dropped the plug-ins that registered environments by themselves, so an import does it, as for
every other package of environments; ``gymnasium.make("mlagent_lib.gym:mlagent/pocket-homes-v0")`` does both.
Nothing is built or started before an environment is made.

>>> import gymnasium
>>> gymnasium.spec("mlagent/pocket-homes-v0").kwargs
{'task': 'pocket-homes'}
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import gymnasium

from mlagent_lib.agents.toolbox import shared_toolbox
from mlagent_lib.core.errors import MlagentError, TaskError
from mlagent_lib.environment.coder import Coder
from mlagent_lib.environment.env import MAX_STEPS, Environment
from mlagent_lib.reward import FORMS, reward_of
from mlagent_lib.tasks.registry import find_task, list_tasks

NAMESPACE = "mlagent"


class TaskEnvironment(Environment):
    """What ``gymnasium.make("mlagent/<task>-v0")`` gives: an `Environment` with a reward and its own tools.

    Environments of one process share a runner; the last one that is closed stops it. The length of an
    episode is ``max_steps``, counted from the starter also after a restored state, so the name carries no
    limit of Gymnasium's.

    Args:
        task: Name of a pocket task, or a task folder.
        reward: One of `mlagent_lib.reward.FORMS`; None for a reward of 0.0 in each step.
        max_steps: Steps until truncation.
        coder: See `mlagent_lib.agents.toolbox.toolbox`.
        cache: Folder in which results are kept; "" for a temporary one.
        tier: Isolation of the scripts, see `Runner`.
        allow_unsafe: Permit the tiers that isolate nothing.

    Raises:
        TaskError: There is no such task, or its scores do not define a reward.
        MlagentError: The reward form is unknown.
        IsolationError: This machine cannot give the tier.
    """

    def __init__(
        self,
        task: str | Path,
        *,
        reward: str | None = "v1",
        max_steps: int = MAX_STEPS,
        coder: Coder | str = "rules",
        cache: str | Path = "",
        tier: str = "auto",
        allow_unsafe: bool = False,
    ):
        if reward is not None and reward not in FORMS:
            raise MlagentError(
                f"reward form {reward!r} is unknown", cure=f"choose None or one of {', '.join(FORMS)}"
            )
        found = find_task(task)
        if reward is not None and not ("feedback" in found.baseline and "feedback" in found.best):
            raise TaskError(
                f"task {found.name!r} states no score of its starter or no best score, so that a step has no "
                "reward",
                cure="state baseline and best in its task.yaml, or pass reward=None",
            )
        self._closing = ExitStack()
        tools = self._closing.enter_context(
            shared_toolbox(coder=coder, cache=cache, tier=tier, allow_unsafe=allow_unsafe)
        )
        self._closed = False
        pays = None if reward is None else partial(reward_of, form=reward)
        super().__init__(found, tools, max_steps=max_steps, reward=pays)

    def reset(self, *, seed: int | None = None, options: Mapping | None = None) -> tuple[str, dict]:
        """Return the first observation and info, see `Environment.reset`.

        Raises:
            MlagentError: The environment is closed.
        """
        if self._closed:
            raise MlagentError("reset() of a closed environment", cure="make it again with gymnasium.make")
        return super().reset(seed=seed, options=options)

    def close(self) -> None:
        """Leave the runner, which stops with its last user. Closing twice is allowed."""
        self.state, self._closed = None, True
        self._closing.close()


def register_folder(folder: str | Path) -> str:
    """Return the Gymnasium name of a task folder of your own, registered for this process.

    Args:
        folder: With ``task.yaml``, ``env/`` and ``scripts/``.

    Raises:
        TaskError: It is no task folder, or its name cannot be part of a Gymnasium name.
    """
    task = find_task(Path(folder).resolve())
    try:
        return _register(task.name, str(task.folder))
    except gymnasium.error.Error as error:
        raise TaskError(
            f"the name {task.name!r} of {folder} cannot be part of a Gymnasium name ({error})",
            cure="name the task with letters, digits, '-', '_' and '.' only",
        ) from error


def _register(name: str, task: str) -> str:
    name = f"{NAMESPACE}/{name}-v0"
    gymnasium.registry.pop(name, None)  # a name given again means the new folder; Gymnasium would only warn
    gymnasium.register(name, entry_point="mlagent_lib.gym:TaskEnvironment", kwargs={"task": task})
    return name


for _name in list_tasks():
    _register(_name, _name)
