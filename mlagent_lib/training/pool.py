"""The state pool: where step-wise RL starts from, and the states kept back to measure it.

The paper samples 10k states from the expert trajectories and says no more (section 5.1). Ours is split by trajectory,
so that no two parts hold states of one trajectory: *train* for SFT and RL, *select* for the choice of the checkpoint,
*test* for what is reported as "states not trained on".
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

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
        share: Fraction kept back for *select*, and again for *test*; at least one trajectory of each task each.

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
                f"task {task!r} has {len(own)} trajectories, but training, selecting and testing need one each",
                cure="collect at least 3 trajectories a task",
            )
        order = rng(seed, "split", task).permutation(len(own))
        kept = max(1, round(share * len(own)))
        for position, index in enumerate(order):
            part = "select" if position < kept else "test" if position < 2 * kept else "train"
            parts[part].append(own[index])
    return parts


@dataclass(frozen=True)
class StatePool:
    """States by id, without doubles.

    Attributes:
        states: The states, in a fixed order.
    """

    states: tuple[State, ...]

    @classmethod
    def from_trajectories(cls, rows: Sequence[dict], *, limit: int | None = None, seed: int = 0) -> StatePool:
        """Return the pool of the states that trajectories went through.

        Args:
            rows: Trajectories.
            limit: Most states to keep, shared evenly between tasks; None keeps all.
            seed: Root of the stream that chooses among them.
        """
        unique = list({state.id: state for state in states_of(rows) if not state.done}.values())
        if limit is None or len(unique) <= limit:
            return cls(tuple(unique))
        order = rng(seed, "pool").permutation(len(unique))
        counts: Counter[str] = Counter()
        ranked = []
        for index in order:
            counts[unique[index].task] += 1
            ranked.append((counts[unique[index].task], index))
        kept = sorted(index for _, index in sorted(ranked)[:limit])
        return cls(tuple(unique[index] for index in kept))

    def __len__(self) -> int:
        return len(self.states)

    def by_id(self) -> dict[str, State]:
        """Return the states by their id."""
        return {state.id: state for state in self.states}

    def sample(self, count: int, seed: int, *names: str | int) -> list[State]:
        """Return ``count`` states, spread over the tasks, drawn from a named stream (all when there are fewer)."""
        return list(StatePool._thin(self.states, count, seed, names))

    @staticmethod
    def _thin(states: Sequence[State], count: int, seed: int, names: tuple) -> list[State]:
        order = rng(seed, "pool-sample", *names).permutation(len(states))
        seen: Counter[str] = Counter()
        ranked = []
        for position, index in enumerate(order):
            seen[states[index].task] += 1
            ranked.append((seen[states[index].task], position, index))
        return [states[index] for _, _, index in sorted(ranked)[:count]]
