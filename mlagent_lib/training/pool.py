"""The state pool: where step-wise RL starts from, and the states kept back to measure it.

The paper samples 10k states from the expert trajectories and says no more (section 5.1). Ours is split by
trajectory, so that no two parts hold states of one trajectory: *train* for SFT and RL, *select* for the
choice of the checkpoint, *test* for what is reported as "states not trained on".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mlagent_lib.agents.rollout import states_of
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.workspace import State

PARTS = ("train", "select", "test")


def split_trajectories(rows: Sequence[dict], seed: int, *, share: float) -> dict[str, list[dict]]:
    """Return the trajectories of each part, split within each task.

    Args:
        rows: Expert trajectories.
        seed: Root of the streams.
        share: Fraction kept back for *select*, and again for *test*: at least one trajectory of each task
            each, and never so many that none is left to train on.

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


def part_of_states(trajectories: dict[str, Sequence[dict]]) -> dict[str, str]:
    """Return the part of each state by its id: the first part that holds it, so that none is in two.

    States that all trajectories share, such as the starter, belong to *train*, as in the run itself.

    Args:
        trajectories: By part.
    """
    order = [*(part for part in PARTS if part in trajectories), *(set(trajectories) - set(PARTS))]
    found: dict[str, str] = {}
    for part in order:
        for row in trajectories[part]:
            for state in states_of([row]):
                found.setdefault(state.id, part)
    return found


@dataclass(frozen=True)
class StatePool:
    """States by id, without doubles.

    Attributes:
        states: The states, in a fixed order.
    """

    states: tuple[State, ...]

    @classmethod
    def from_trajectories(
        cls, rows: Sequence[dict], *, limit: int | None = None, seed: int = 0, action: str | None = None
    ) -> StatePool:
        """Return the pool of the states that trajectories went through.

        Args:
            rows: Trajectories.
            limit: Most states to keep, shared evenly between tasks; None keeps all.
            seed: Root of the stream that chooses among them.
            action: Keep the states in which the expert took this action; None keeps all.
        """
        found = states_of(rows, action=action)
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
