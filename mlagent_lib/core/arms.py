"""The arms of the comparison: each is a name, a question and what it changes. Data only.

An arm starts where the paper starts, and differs from the arm ``full`` in one thing. Its profile is
the profile ``ablations`` with the arm's own changes, so that ``mlagent profiles`` shows every constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.profiles import Profile, get_profile

PROFILE = "ablations"
FULL, UNTRAINED = "full", "sft"
# Ours: the paper lists neither of its subsets. Three: the stand-ins of the three held-in tasks that the paper
# evaluates (image, table, text). Six: one more image and two more tables. Nine: all, with the graph.
TASKS_3 = ("pocket-digits", "pocket-homes", "pocket-essays")
TASKS_6 = (*TASKS_3, "pocket-cactus", "pocket-ballots", "pocket-visits")
STARTS = ("far-apart", "one-idea", "random-ideas", "no-thought", "none")
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
        on_policy: Share of groups that start from a state that the policy itself has reached, 0 to 1.
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
    on_policy: float = 0.0
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


_MAIN = {"evaluate__k": 8}  # "avg@8 and best@8", v1 Table 1
ARMS: tuple[Arm, ...] = (
    Arm(
        "base", "main", "pocket base", "What does the untrained model do?", "Qwen2.5-7B, v1 Table 1",
        start="none", method="none", changes=_MAIN,
    ),
    Arm(
        "sft", "main", "after SFT", "What does fine-tuning alone give?", "ML-Agent-SFT, v1 Figs 4-5",
        method="none", changes=_MAIN,
    ),
    Arm(
        "full", "main", "full method", "SFT, then step-wise RL, reward of v1.", "ML-Agent, v1 Table 1",
        changes=_MAIN,
    ),
    Arm(
        "rl-from-base", "start", "RL from base", "Is fine-tuning needed before RL?",
        "v1 Fig. 5, v2 Table 2 (without EE-FT)", start="none",
    ),
    Arm(
        "one-idea", "start", "RL after one idea", "Does the diversity of the ideas matter?",
        "not in the paper: SFT on trajectories that all get the same idea", start="one-idea",
    ),
    Arm(
        "random-start", "start", "RL after random ideas", "Do far-apart ideas beat random ones?",
        "not in the paper: as many ideas, drawn at random", start="random-ideas",
    ),
    Arm(
        "episode-wise", "method", "episode-wise, equal rollouts",
        "Whole trajectories, as many rollouts an update as step-wise has actions: fewer, larger updates.",
        "v1 Fig. 4, v2 Table 2; batch and return are open there",
        method="episode-wise", equal_time=True, changes={"grpo__eval_every": 1},
    ),
    Arm(
        "episode-small", "method", "episode-wise, equal actions",
        "Whole trajectories, about as many actions an update: as many updates as step-wise.",
        "not in the paper: the fairest episode-wise arm that we could think of",
        method="episode-wise", equal_time=True, changes={"grpo__eval_every": 5, "grpo__states_per_step": 1},
    ),
    Arm(
        "reward-v2", "reward", "reward of v2", "Linear and unbounded in place of the sigmoid.", "v2 Eq. 6",
        changes={"grpo__reward_form": "v2"},
    ),
    Arm(
        "no-performance", "reward", "without performance", "Is the size of a gain needed?",
        "v1 Table 2: a binary signal", changes={"grpo__reward_form": "v1-no-performance"},
    ),
    Arm(
        "no-format", "reward", "without format", "Is the penalty of failed actions needed?",
        "v1 Table 2; its value is open", changes={"grpo__reward_form": "v1-no-format"},
    ),
    Arm(
        "no-corner", "reward", "without corner", "Is the neutral reward of corner cases needed?",
        "v1 Table 2; its value is open", changes={"grpo__reward_form": "v1-no-corner"},
    ),
    Arm(
        "no-thought", "reply", "without thought", "Does writing a thought before the action help?",
        "v1 Table 3, v2: SFT without thoughts too", start="no-thought",
        changes={"reply_format": "no-thought"},
    ),
    Arm(
        "tasks-3", "tasks", "RL on 3 tasks", "Do more training tasks help?", "v1 Fig. 6; subsets open",
        tasks=TASKS_3,
    ),
    Arm(
        "tasks-6", "tasks", "RL on 6 tasks", "Do more training tasks help?", "v1 Fig. 6; subsets open",
        tasks=TASKS_6,
    ),
    Arm(
        "pool-36", "pool", "pool of 36 states", "Does the size of the state pool matter?",
        "v1 Fig. 7 varies the number of RL samples", changes={"grpo__pool_size": 36},
    ),
    Arm(
        "mix-25", "states", "25 % on-policy states", "Is the fixed pool of expert states a handicap?",
        "not in the paper; its reviewers asked", on_policy=0.25,
    ),
    Arm(
        "mix-50", "states", "50 % on-policy states", "Is the fixed pool of expert states a handicap?",
        "not in the paper; its reviewers asked", on_policy=0.5,
    ),
)  # fmt: skip


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
