"""The states that step-wise RL starts from: the pool, those kept back, and those drawn in its place.

The paper samples 10k states from the expert trajectories and says no more (section 5.1). Ours is split by
trajectory, so that no two parts hold states of one trajectory: *train* for SFT and RL, *select* for the
choice of the checkpoint, *test* for what is reported as "states not trained on".
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from mlagent_lib.core.errors import RunError
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.actions import EDIT
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import StepResult
from mlagent_lib.environment.workspace import State

PARTS = ("train", "select", "test")
POOL_ACTION = EDIT  # ours: RL starts where the expert edited, not where it looked, undid or ended
FADE = 0.8  # ours: of a task's mean reward that a new group leaves: about the last five groups count
RECENT = 256  # ours: states remembered, the edits of some three batches, so that they are the policy's of now


def split_trajectories(
    rows: Sequence[dict], seed: int, *, share: float, first: int = 0
) -> dict[str, list[dict]]:
    """Return the trajectories of each part, split within each task.

    Args:
        share: Fraction kept back for *select*, and again for *test*: at least one trajectory of each task
            each, and never so many that none is left to train on.
        first: Only so many of each task are split, and all that come after them are trained on: a larger
            collection then keeps back what a smaller one does. 0 splits all.

    Raises:
        RunError: A task has fewer than three trajectories.

    Example:
        >>> rows = [{"task": "a", "id": str(i)} for i in range(10)]
        >>> {part: len(found) for part, found in split_trajectories(rows, 0, share=0.2).items()}
        {'train': 6, 'select': 2, 'test': 2}
    """
    parts: dict[str, list[dict]] = {part: [] for part in PARTS}
    for task in sorted({row["task"] for row in rows}):
        own = [row for row in rows if row["task"] == task]
        if first:
            parts["train"] += [row for row in own if _number(row) >= first]
            own = [row for row in own if _number(row) < first]
        if len(own) < len(PARTS):
            raise RunError(
                f"task {task!r} has {len(own)} trajectories, but training, selecting and testing need one "
                "each",
                cure="collect at least 3 trajectories a task",
            )
        order = rng(seed, "split", task).permutation(len(own))
        kept = min(max(1, round(share * len(own))), (len(own) - 1) // 2)
        for position, index in enumerate(order):
            part = "select" if position < kept else "test" if position < 2 * kept else "train"
            parts[part].append(own[index])
    return parts


def _number(row: dict) -> int:
    """Return which trajectory of its task this is."""
    return int(row["id"].rpartition("/")[2])


def states_of(rows: Iterable[dict]) -> list[tuple[State, str]]:
    """Return each state that a step of these trajectories started from, and the action that it was."""
    steps = (step for row in rows for step in row["steps"] if step["outcome"] != "unscored")
    return [(State.from_json(step["state"]), step["action"]) for step in steps]


@dataclass(frozen=True)
class Parts:
    """The expert's trajectories and their states, split by trajectory.

    Attributes:
        trajectories: Those of each part.
        train: States for SFT and RL.
        select: States that choose the checkpoint, none of which is in *train*.
        test: States for what is reported, none of which is in *train* or *select*.
        doubles: States of select and test that were left out because an earlier part holds them (starters).
        edited: States of *train* where the expert edited.
    """

    trajectories: dict[str, list[dict]]
    train: tuple[State, ...]
    select: tuple[State, ...]
    test: tuple[State, ...]
    doubles: int
    edited: tuple[State, ...]

    @classmethod
    def of(cls, rows: Sequence[dict], seed: int, *, share: float, first: int = 0) -> Parts:
        """Return the parts of a collection (see `split_trajectories`).

        Raises:
            RunError: Nothing is left to select or to test on.
        """
        trajectories = split_trajectories(rows, seed, share=share, first=first)
        found = {part: states_of(own) for part, own in trajectories.items()}
        known, states, doubles = set(), {}, 0
        for part in PARTS:
            own = StatePool.of(state for state, _ in found[part]).states
            states[part] = tuple(state for state in own if state.id not in known)
            known |= {state.id for state, _ in found[part]}
            doubles += len(own) - len(states[part])
            if not states[part]:
                raise RunError(
                    f"no state is left for the part {part!r}: the trajectories met the same states",
                    cure="give more tasks with --tasks, a larger --profile, or an expert whose replies "
                    "differ",
                )
        edited = StatePool.of(state for state, action in found["train"] if action == POOL_ACTION)
        return cls(trajectories, *states.values(), doubles, edited.states)


@dataclass(frozen=True)
class StatePool:
    """States in a fixed order, without doubles."""

    states: tuple[State, ...]

    @classmethod
    def of(cls, found: Iterable[State], *, limit: int | None = None, seed: int = 0) -> StatePool:
        """Return the pool of these states without doubles and ends.

        Args:
            limit: Most states to keep, shared evenly between tasks; None keeps all.
        """
        unique = list({state.id: state for state in found if not state.done}.values())
        if limit is None or len(unique) <= limit:
            return cls(tuple(unique))
        kept = _spread(unique, limit, rng(seed, "pool"))
        return cls(tuple(unique[index] for index in sorted(kept)))

    def __len__(self) -> int:
        return len(self.states)

    def by_id(self) -> dict[str, State]:
        """Return the states by their id."""
        return {state.id: state for state in self.states}

    def sample(self, count: int, seed: int, *names: str | int) -> list[State]:
        """Return ``count`` states (or all), spread over the tasks, drawn from the stream of that name."""
        return [self.states[index] for index in _spread(self.states, count, rng(seed, "pool-sample", *names))]


def _spread(states: Sequence[State], count: int, stream: np.random.Generator) -> list[int]:
    """Return the indices of ``count`` states in random order, every task's first before any task's second."""
    seen: Counter[str] = Counter()
    ranked = []
    for position, index in enumerate(stream.permutation(len(states)).tolist()):
        seen[states[index].task] += 1
        ranked.append((seen[states[index].task], position, index))
    return [index for _, _, index in sorted(ranked)[:count]]


def in_groups(values: Sequence, size: int) -> list[Sequence]:
    """Return the values of each group, of ``size`` neighbours each.

    Example:
        >>> in_groups([1, 2, 3, 4], 2)
        [[1, 2], [3, 4]]
    """
    return [values[start : start + size] for start in range(0, len(values), size)]


class OnPolicyStates:
    """Replaces a share of a batch's groups by groups that start where the policy itself has been.

    The paper draws states from the expert only, and says that this costs little (section 4.2); its reviewers
    asked for the measurement. Hardly any expert state lies behind the policy's favourite edit, so nothing
    else teaches what to do after it. Each edit of a batch that ran leaves a state behind, for nothing.

    Args:
        share: Of the groups, 0 to 1.
        max_steps: Length of a trajectory: no group starts at its end.
        row_of: Returns the data set's row for a state.
        gap_of: Returns the share of its task's gap that a state has closed.
        seed: Of the draws; each batch has a stream of its own.
    """

    def __init__(
        self, share: float, *, group_size: int, max_steps: int, row_of: Callable[[State], dict],
        gap_of: Callable[[State], float], seed: int,
    ):  # fmt: skip
        self.share, self.group_size, self.max_steps, self.seed = share, group_size, max_steps, seed
        self._row_of, self._gap_of = row_of, gap_of
        self._states: deque[State] = deque(maxlen=RECENT)
        self.batches = self.used = 0

    def visit(self, results: Sequence[StepResult]) -> None:
        """Remember the states behind edits that ran, where an agent could go on from them."""
        for result in results:
            if result.outcome is Outcome.EDITED and result.state.step < self.max_steps:
                self._states.append(result.state)

    def mix(self, rows: Sequence[dict]) -> tuple[list[dict], dict[str, State]]:
        """Return the rows of a batch with groups replaced, and the states of the new ones by id.

        A group gets a random task that was visited and the better of two random states of it.
        """
        stream, mixed, states = rng(self.seed, "on-policy", self.batches), list(rows), {}
        groups = len(rows) // self.group_size
        self.batches += 1
        self.used = round(self.share * groups) if self._states else 0
        tasks = sorted({state.task for state in self._states})
        for group in stream.permutation(groups)[: self.used]:
            task = tasks[int(stream.integers(len(tasks)))]
            own = [state for state in self._states if state.task == task]
            state = max((own[int(index)] for index in stream.integers(len(own), size=2)), key=self._gap_of)
            states[state.id] = state
            start = int(group) * self.group_size
            mixed[start : start + self.group_size] = [self._row_of(state)] * self.group_size
        return mixed, states

    def to_json(self) -> dict:
        """Return what is remembered, for a checkpoint."""
        return {"batches": self.batches, "states": [state.to_json() for state in self._states]}

    def go_on(self, known: dict) -> None:
        """Take up what a checkpoint holds."""
        self.batches = known["batches"]
        self._states.extend(State.from_json(row) for row in known["states"])


class Focus:
    """Lets groups start more often in the tasks where the policy has most left to gain.

    What is left is the best reward that an action of the task has had, less the mean reward of late: the
    regret of arXiv 2110.02439 (MaxMC), with tasks for levels. The paper draws its states evenly. Where one
    sentence is good in most tasks, even draws hardly ever tell the learner about the others.

    Args:
        share: Of the groups of a batch that are drawn so, 0 to 1; the others stay as they are.
        by: ``regret``, or ``variance`` for the standard deviation of the rewards of a group of late, what can
            be learned there (after AceGRPO, arXiv 2602.07906, which draws single states).
        row_of: Returns the data set's row for a state.
        seed: Of the draws; each batch has a stream of its own.
    """

    def __init__(
        self, states: Sequence[State], share: float, *, group_size: int, row_of: Callable[[State], dict],
        seed: int, by: str = "regret",
    ):  # fmt: skip
        self.share, self.group_size, self.seed, self.by = share, group_size, seed, by
        self._row_of, self._states = row_of, {}
        for state in states:
            self._states.setdefault(state.task, []).append(state)
        self.batches, self.best, self.mean, self.spread = 0, {}, {}, {}

    def left(self) -> dict[str, float]:
        """Return what is left to gain by task; as much as anywhere where nothing is known yet.

        Example:
            >>> states = [State(task=name, task_digest="", files={}) for name in ("a", "b")]
            >>> focus = Focus(states, 1.0, group_size=2, row_of=None, seed=0)
            >>> focus.visit(states, [0.0, 1.0, 0.25, 0.25])
            >>> focus.left()
            {'a': 0.5, 'b': 0.0}
        """
        known = {task: self.best[task] - self.mean[task] for task in self.best}
        known = self.spread if self.by == "variance" else known
        return {task: known.get(task, max(known.values(), default=1.0)) for task in sorted(self._states)}

    def visit(self, states: Sequence[State], rewards: Sequence[float]) -> None:
        """Remember the rewards of all actions, group by group; ``states`` is where each group started."""
        for state, own in zip(states, in_groups(rewards, self.group_size), strict=True):
            mean, spread = sum(own) / len(own), float(np.std(own))
            self.spread[state.task] = FADE * self.spread.get(state.task, spread) + (1 - FADE) * spread
            self.best[state.task] = max(self.best.get(state.task, max(own)), *own)
            self.mean[state.task] = FADE * self.mean.get(state.task, mean) + (1 - FADE) * mean

    def mix(self, rows: Sequence[dict]) -> list[dict]:
        """Return the rows of a batch with the share of groups drawn anew."""
        stream, left = rng(self.seed, "focus", self.batches), self.left()
        self.batches += 1
        count, total = round(self.share * len(rows) / self.group_size), sum(left.values())
        if not self.best or total <= 0:
            return list(rows)
        # evenly spaced points: each task gets its share up to one group
        ends = np.cumsum([value / total for value in left.values()])
        points = (np.arange(count) + stream.random()) / count if count else ()
        mixed = []
        for index in np.minimum(np.searchsorted(ends, points, side="right"), len(ends) - 1):
            own = self._states[list(left)[index]]
            mixed += [self._row_of(own[int(stream.integers(len(own)))])] * self.group_size
        return mixed + list(rows[len(mixed) :])

    def to_json(self) -> dict:
        """Return what is remembered, for a checkpoint."""
        return {"batches": self.batches, "best": self.best, "mean": self.mean, "spread": self.spread}

    def go_on(self, known: dict) -> None:
        """Take up what a checkpoint holds."""
        self.batches, self.best, self.mean = known["batches"], known["best"], known["mean"]
        self.spread = known.get("spread", {})  # checkpoints of earlier
