"""The arms of the comparison: each is a name, a question and what it changes (``arms.yaml``).

An arm starts where the paper starts, and differs from the arm ``full`` in one thing. Its profile is
the profile ``ablations`` with the arm's own changes, so that ``mlagent profiles`` shows every constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.files import read_yaml
from mlagent_lib.core.profiles import Profile, get_profile

PROFILE = "ablations"
FULL = "full"
STARTS = ("far-apart", "one-idea", "random-ideas", "no-thought", "no-undo", "none")
METHODS = ("step-wise", "episode-wise", "none")
GROUPS = ("main", "start", "method", "reward", "reply", "tasks", "pool", "states")


@dataclass(frozen=True)
class Arm:
    """One arm.

    Attributes:
        name: Its name in every table.
        group: Which question it belongs to, one of `GROUPS`.
        label: A few words for figures.
        question: What the arm is there to tell.
        paper: Where the paper has it, or what it leaves open.
        start: Which SFT it starts from, one of `STARTS`; ``none`` is the pocket base with a fresh adapter.
        method: ``step-wise``, ``episode-wise``, or ``none`` for a policy that is only measured.
        tasks: Training tasks of the pool; all nine where empty.
        made: RL on the first so many tasks of the generator in their place; SFT stays on the nine.
        equal_time: Whether training ends when the charged seconds of ``full`` (same seed) are spent.
        changes: Constants that differ from the profile ``ablations``.
    """

    name: str
    group: str
    label: str
    question: str
    paper: str
    start: str = "far-apart"
    method: str = "step-wise"
    tasks: tuple[str, ...] = ()
    made: int = 0
    equal_time: bool = False
    changes: dict[str, Any] = field(default_factory=dict)

    @property
    def who(self) -> str:
        """Return the name of the arm's policy in every comparison: ``rl`` is that of the full method."""
        return "rl" if self.name == FULL else self.name

    @property
    def keys(self) -> dict[str, str]:
        """Return the columns ``arm`` and ``policy`` of its results; ``full`` where nothing is trained."""
        trains = self.method != "none"
        return {"arm": self.name if trains else FULL, "policy": "rl" if trains else self.name}

    def profile(self) -> Profile:
        """Return the profile of the arm, under the arm's name.

        Example:
            >>> get_arm("reward-v2").profile().grpo.reward_form
            'v2'
        """
        return get_profile(PROFILE).with_values(f"{PROFILE}/{self.name}", **self.changes)


_DATA = read_yaml(Path(__file__).with_name("arms.yaml"))
ARMS: tuple[Arm, ...] = tuple(Arm(**row | {"tasks": tuple(row.get("tasks", ()))}) for row in _DATA)


def get_arm(name: str) -> Arm:
    """Return the arm called ``name``.

    Raises:
        ProfileError: There is no such arm.
    """
    for arm in ARMS:
        if arm.name == name:
            return arm
    raise ProfileError(f"arm {name!r} is unknown", cure=f"choose one of {', '.join(a.name for a in ARMS)}")


def arm_of(who: str) -> Arm:
    """Return the arm whose policy has that name in a comparison.

    Example:
        >>> arm_of("rl").name, arm_of("sft").name
        ('full', 'sft')
    """
    return get_arm(FULL if who == "rl" else who)
