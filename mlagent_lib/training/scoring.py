"""Single steps of a policy as a reward function for TRL, and as a measurement: executed, scored, counted.

No loss and no update is here (`grpo`), and no formula of a reward (`mlagent_lib.reward`).
"""

from __future__ import annotations

import math
import statistics
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Self

from mlagent_lib.agents.policies import Sampler
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.errors import RunError, Unscored
from mlagent_lib.core.seeding import derive_seed, rng
from mlagent_lib.core.thinking import split_thinking
from mlagent_lib.environment.actions import UNDO
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import PendingSteps, StepResult, Toolbox, run_steps
from mlagent_lib.environment.workspace import State
from mlagent_lib.reward import reward_of
from mlagent_lib.tasks.pocket.catalogue import KINDS, MODALITIES, family_of
from mlagent_lib.training.pool import Focus, OnPolicyStates, in_groups

if TYPE_CHECKING:
    from mlagent_lib.core.profiles import GRPOProfile
    from mlagent_lib.tasks.task import Task

_GUARD = 1e-4  # TRL's, where all rewards are equal
MOST_SHORT = 36  # ours: short trajectories that choose a checkpoint: nine tasks by four, no more for more
RAREST = 0.05  # ours: families with a smaller share of a batch are paid alike, so that no nonsense pays more


class BatchReward:
    """What the reward functions for TRL share: the states of the batch at hand, and how its steps went.

    TRL's rollouts know prompts only, so `start_batch` is told the rows of a batch before anything is sampled.

    Args:
        group_size: G, the actions (or trajectories) of a state.
        scale: See `group_advantages`; for the statistics only.
    """

    __name__ = "reward"
    parts = 1  # in which a batch is best sampled

    def __init__(
        self, pool: dict[str, State], tools: Toolbox, *, form: str, group_size: int, scale: str = "group"
    ):
        self.pool, self.tools, self.form, self.group_size, self.scale = pool, tools, form, group_size, scale
        self.states: list[State] = []
        self.seconds = 0.0
        self.last: dict = {}

    def start_batch(self, rows: list[dict]) -> list[dict]:
        """Take the states of a batch's rows, and return the rows, which may be others."""
        self.states = [self.pool[row["state_id"]] for row in rows]
        return rows

    def begin(self, replies: Sequence[str]) -> None:
        """Let the scripts of these replies start, where they can start before they are waited for."""

    def to_json(self) -> dict:
        """Return what later batches depend on, for a checkpoint."""
        return {}


class StepReward(BatchReward):
    """The reward function that TRL calls: executes each sampled action ONCE from its restored state.

    `begin` may be called before, as soon as some of the actions are known: their scripts then run while the
    trainer samples the others or does other work. A step that we failed to score gets the mean reward of its
    group: its advantage is then zero, so our failure never moves the policy, and it is counted.
    """

    __name__ = "step_reward"
    parts = 2  # the scripts of the first half run while the second is sampled

    def __init__(self, pool: dict[str, State], tools: Toolbox, **shape):
        super().__init__(pool, tools, **shape)
        self.variety, self.best_of = 0.0, 1
        self.visited: OnPolicyStates | None = None
        self.focus: Focus | None = None
        self._pending: list[PendingSteps] = []
        self._begun, self._coder_seconds = 0, 0.0

    def start_batch(self, rows: list[dict]) -> list[dict]:
        """Take the states of a batch, some groups replaced where others are drawn in their place.

        Raises:
            RunError: A group mixes states.
        """
        if self.focus is not None:
            rows = self.focus.mix(rows)
        if self.visited is not None:
            rows, states = self.visited.mix(rows)
            self.pool |= states
        for group in in_groups(rows, self.group_size):
            if len({row["state_id"] for row in group}) != 1:
                raise RunError("a group mixes states", cure="make the batch a multiple of the group size")
        self._pending, self._begun, self._coder_seconds = [], 0, 0.0
        self.tools.runner.spans.clear()
        return super().start_batch(rows)

    def to_json(self) -> dict:
        """Return what later batches depend on, for a checkpoint."""
        known = {"focus": self.focus, "visited": self.visited}
        return {name: memory.to_json() for name, memory in known.items() if memory is not None}

    def go_on(self, known: dict) -> None:
        """Take up what a checkpoint holds."""
        for name, memory in known.items():
            getattr(self, name).go_on(memory)

    def begin(self, replies: Sequence[str]) -> None:
        """Let the scripts of the batch's next replies start; the next call waits for them."""
        began, states = time.perf_counter(), self.states[self._begun : self._begun + len(replies)]
        self._begun += len(replies)
        self._pending.append(PendingSteps(list(zip(states, replies, strict=True)), self.tools))
        self._coder_seconds += self._pending[-1].coder_seconds
        self.seconds += time.perf_counter() - began

    def __call__(self, prompts, completions, **columns) -> list[float]:
        """Return one reward for each completion, in order (see `rewards_of`)."""
        if left := completions[self._begun :]:
            self.begin([completion[0]["content"] for completion in left])
        began, waiting = time.perf_counter(), time.monotonic()
        results = [result for part in self._pending for result in part.results()]
        scripts = covered(self.tools.runner.spans, waiting, time.monotonic())
        self._pending = []
        if self.visited is not None:
            self.visited.visit(results)
        rewards = rewards_of(results, self.tools, self.form)
        filled, flat = fill_groups(rewards, self.group_size)
        if self.focus is not None:
            self.focus.visit(self.states[:: self.group_size], filled)
        if self.variety:
            paid = variety_pay([family_made(result, self.tools) for result in results], self.variety)
            filled = [reward + more for reward, more in zip(filled, paid, strict=True)]
        filled = best_of_pay(filled, self.group_size, self.best_of)
        advantages = group_advantages(filled, self.group_size, self.scale)
        self.seconds += time.perf_counter() - began
        self.last = step_statistics(results, rewards) | {
            "flat_groups": flat,
            "groups": len(rewards) // self.group_size,
            "advantage_std": round(math.sqrt(statistics.fmean(value**2 for value in advantages)), 6),
            **({} if self.visited is None else {"on_policy_groups": self.visited.used}),
            **parts_of_seconds(self.seconds, coder=self._coder_seconds, scripts=scripts),
        }
        return filled


def family_made(result: StepResult, tools: Toolbox) -> str | None:
    """Return the family of the edit that a step made; None for a step after which the score is as it was.

    Where no catalogue covers the task, the instruction stands for a family of its own.
    """
    if result.outcome is not Outcome.EDITED or result.score_after == result.score_before:
        return None
    if result.action.name == UNDO:
        return UNDO
    task, asked = tools.task(result.state.task), result.action.arguments["edit_instruction"]
    if task.modality not in MODALITIES or task.kind not in KINDS:
        return asked
    return family_of(asked, task.modality, task.kind)


def variety_pay(families: Sequence[str | None], weight: float) -> list[float]:
    """Return what each action of a batch is paid for the rarity of its family: ``-weight * log(share)``.

    On average that is the entropy of what the policy does over all states of the batch: one edit for all of
    them pays nothing, another edit for each kind of state pays. Ours; the paper has no such term.

    Args:
        families: Of the actions; None is paid nothing, and is no part of the shares.
        weight: In units of the reward, above 0.

    Example:
        Two of three edits are of one family; an edit of the other kind is paid more.

        >>> [round(paid, 3) for paid in variety_pay(["model/knn", "model/knn", "data/pca", None], 0.1)]
        [0.041, 0.041, 0.11, 0.0]
    """
    counts = Counter(family for family in families if family)
    return [
        -weight * math.log(max(counts[family] / counts.total(), RAREST)) if family else 0.0
        for family in families
    ]


def best_of_pay(rewards: Sequence[float], group_size: int, k: int) -> list[float]:
    """Return what each action of a group adds to the best of k of them: max@k in place of the mean reward.

    The mean, over all k actions of its group with this one among them, of the maximum with it less the
    maximum without it (arXiv 2505.15201, leave-one-out minus one; for rewards that are no 0 or 1 arXiv
    2510.23393), times k / G. For k = 1 it is the reward. Where one good action is enough, a second one adds
    nothing, so variety within a group is paid.

    Args:
        rewards: Of whole groups, in units of the reward.
        group_size: G, at least k.
        k: How many attempts the best is taken of.

    Example:
        Of the three pairs with the first action two gain 1 by it, and one gains 0.5: 2.5 / 3 · 2 / 4.

        >>> [round(paid, 3) for paid in best_of_pay([1.0, 0.5, 0.0, 0.0], 4, 2)]
        [0.417, 0.167, 0.0, 0.0]
        >>> best_of_pay([1.0, 1.0, 1.0, 0.0], 4, 4)
        [0.0, 0.0, 0.0, 0.0]
    """
    if k == 1:
        return list(rewards)
    paid = []
    for group in in_groups(rewards, group_size):
        for index, reward in enumerate(group):
            others = combinations(group[:index] + group[index + 1 :], k - 1)
            gains = [max(reward, *other) - max(other) for other in others]
            paid.append(statistics.fmean(gains) * k / group_size)
    return paid


def rewards_of(results: Sequence[StepResult], tools: Toolbox, form: str) -> list[float | None]:
    """Return the reward of each step, None for one that we failed to score.

    Raises:
        Unscored: Not one could be scored: something of ours is broken, and training on would be idle.
    """
    rewards = [reward_of(result, tools.task(result.state.task), form) for result in results]
    if rewards and all(reward is None for reward in rewards):
        raise Unscored(
            f"none of the {len(rewards)} actions of a step could be scored: {results[0].failure}",
            cure="repair what failed, then run again; training of the kit goes on from its last checkpoint",
        )
    return rewards


def parts_of_seconds(total: float, *, coder: float, scripts: float) -> dict[str, float]:
    """Return the named parts of ``total`` seconds spent on a batch of steps.

    ``seconds_coder`` and ``seconds_execution`` (waiting while at least one script ran) are work;
    ``seconds_overhead`` is all else: parsing, starting and cleaning up runs, grading, the cache.
    """
    parts = {"coder": coder, "execution": scripts, "overhead": max(total - coder - scripts, 0.0)}
    return {f"seconds_{name}": round(value, 4) for name, value in parts.items()}


def covered(spans: Iterable[tuple[float, float]], begin: float, end: float) -> float:
    """Return how much of the time from ``begin`` to ``end`` lies in at least one span.

    Spans are pairs of begin and end, in any order, on one clock.

    Example:
        >>> covered([(0.0, 2.0), (1.0, 3.0), (7.0, 20.0)], 0.5, 10.0)
        5.5
    """
    total, reached = 0.0, begin
    for first, last in sorted(spans):
        first, last = max(first, reached), min(last, end)
        if last > first:
            total, reached = total + last - first, last
    return total


def fill_groups(rewards: Sequence[float | None], group_size: int) -> tuple[list[float], int]:
    """Return rewards with the unscored ones set to the mean of their group, and how many groups are flat.

    A reward is None where we failed; their number is a multiple of ``group_size``.

    Example:
        >>> fill_groups([1.0, 0.0, None, 0.5, 0.5, 0.5], 3)
        ([1.0, 0.0, 0.5, 0.5, 0.5, 0.5], 1)
    """
    filled, flat = [], 0
    for group in in_groups(rewards, group_size):
        scored = [reward for reward in group if reward is not None]
        mean = sum(scored) / len(scored) if scored else 0.0
        flat += len(set(scored)) <= 1
        filled += [mean if reward is None else reward for reward in group]
    return filled, flat


def group_advantages(rewards: Sequence[float], group_size: int, scale: str = "group") -> list[float]:
    """Return each reward less its group's mean, over a standard deviation, as TRL does.

    The number of rewards is a multiple of ``group_size``, which is at least 2.

    Args:
        scale: Whose deviation: ``group``, ``batch`` for that of all rewards, or ``none``. Over that of its
            group a difference of a hundredth counts like one of a whole.

    Example:
        >>> [round(value, 2) for value in group_advantages([1.0, 1.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0], 4)]
        [0.87, 0.87, -0.87, -0.87, 0.0, 0.0, 0.0, 0.0]
        >>> rewards = [0.0, 0.01, 0.0, 1.0]
        >>> [round(value, 2) for value in group_advantages(rewards, 2)]
        [-0.7, 0.7, -0.71, 0.71]
        >>> [round(value, 2) for value in group_advantages(rewards, 2, "batch")]
        [-0.01, 0.01, -1.0, 1.0]
    """
    found = []
    spread = 1.0 if scale == "none" else statistics.stdev(rewards) + _GUARD
    for group in in_groups(rewards, group_size):
        mean = statistics.fmean(group)
        if scale == "group":
            spread = statistics.stdev(group) + _GUARD
        found += [(reward - mean) / spread for reward in group]
    return found


def step_statistics(results: Sequence[StepResult], rewards: Sequence[float | None]) -> dict:
    """Return the named statistics of a batch of steps: shares are of the scored steps, 0 to 1."""
    scored = [result for result in results if result.outcome is not Outcome.UNSCORED]
    found = {
        f"share_{case.value}": sum(result.outcome is case for result in scored) / max(len(scored), 1)
        for case in Outcome
        if case is not Outcome.UNSCORED
    }
    known = [reward for reward in rewards if reward is not None]
    executed = [result for result in scored if result.executed]
    return found | {
        "reward": sum(known) / max(len(known), 1),
        "validity": 1.0 - found["share_invalid"],
        "steps": len(results),
        "unscored": len(results) - len(scored),
        "executions": len(executed),
        "cache_hits": sum(result.cache_hit for result in executed),
        "coder_failures": sum(result.reason == "coder" for result in scored),
        "seconds_scripts": round(sum(result.seconds for result in executed), 4),
    }


@dataclass(frozen=True)
class ShortTrajectories:
    """A few trajectories of a few steps, by whose ends a checkpoint is chosen: as an agent works.

    Single steps pay the same for an edit that helps once and for one after which nothing more is gained, so
    the mean reward of a step may rise while trajectories get worse. Ours.
    """

    starts: tuple[State, ...]  # one for each trajectory
    steps: int  # at most

    @classmethod
    def of(cls, pool: Iterable[State], kept_back: Iterable[State], grpo: GRPOProfile, seed: int) -> Self:
        """Return those of a profile: for each task of the pool its starter and states kept back in turn.

        Where a task has no state of the one kind, those of the other stand in.
        """
        first = {state.task: state for state in pool if state.step == 0}
        later: dict[str, list[State]] = {task: [] for task in first}
        for state in kept_back:
            later.setdefault(state.task, []).append(state)
        starts = []
        for task, own in sorted(later.items()):
            order = [own[index] for index in rng(seed, "short", task).permutation(len(own))]
            turns = (order or [first[task]], [first[task]] if task in first else order)
            for number in range(grpo.eval_trajectories):
                kind = turns[(number + 1) % 2]
                starts.append(kind[number // 2 % len(kind)])
        spread = min(1.0, MOST_SHORT / max(len(starts), 1))  # of many tasks evenly spaced ones
        starts = [start for at, start in enumerate(starts) if int((at + 1) * spread) > int(at * spread)]
        return cls(tuple(starts), grpo.eval_steps)

    def measure(self, generate: Sampler, tools: Toolbox, prompter: Prompter, seed: int) -> dict[str, float]:
        """Return ``gap``, the mean share of the gap closed by the last submissions, and ``gap_unscored``.

        Shares are of the feedback labels and bounded at -1 and 1, as a step's reward is. Trajectories that
        we failed to score are left out of the mean and counted.

        Raises:
            Unscored: None could be scored.
        """
        states = dict(enumerate(self.starts))
        for step in range(self.steps):
            active = [i for i, state in states.items() if not state.done and state.step < prompter.max_steps]
            prompts = [prompter.messages(states[i], tools.task(states[i].task)) for i in active]
            replies = generate(prompts, derive_seed(seed, "short", step)) if active else []
            results = run_steps([(states[i], text) for i, text in zip(active, replies, strict=True)], tools)
            for i, result in zip(active, results, strict=True):
                states[i] = result.state
                if result.outcome is Outcome.UNSCORED:
                    del states[i]
        ends = [bounded_gap(state, tools.task(state.task)) for state in states.values()]
        if not ends:
            raise Unscored("no short trajectory could be scored", cure="repair what failed, then run again")
        return {"gap": round(statistics.fmean(ends), 6), "gap_unscored": len(self.starts) - len(ends)}


def bounded_gap(state: State, task: Task) -> float:
    """Return the share of the gap that a state's last valid score closes on feedback labels, from -1 to 1."""
    start, best = task.baseline["feedback"], task.best["feedback"]
    return min(max((state.score - start) / (best - start), -1.0), 1.0)


def evaluate_steps(
    generate: Sampler,
    states: Sequence[State],
    tools: Toolbox,
    prompter: Prompter,
    *,
    form: str,
    seed: int,
    samples: int = 1,
) -> tuple[dict, list[dict]]:
    """Return statistics of single steps from states, ``samples`` replies each, and a row for each reply."""
    repeated = [state for state in states for _ in range(samples)]
    prompts = [prompter.messages(state, tools.task(state.task)) for state in repeated]
    replies = generate(prompts, seed)
    results = run_steps(list(zip(repeated, replies, strict=True)), tools)
    rewards = [reward_of(result, tools.task(result.state.task), form) for result in results]
    rows = []
    for state, result, reward, reply in zip(repeated, results, rewards, replies, strict=True):
        row = {"task": state.task, "state_id": state.id, "outcome": result.outcome.value}
        row |= {name: getattr(result, name) for name in ("reason", "score_before", "score_after")}
        rows.append(row | {"reward": reward, "reply": split_thinking(reply)[0]})
    return step_statistics(results, rewards), rows
