"""Luck: does the gain of a script survive when the same script runs with other seeds?

A policy that is paid for scores may learn to write ``random_state=37``: the number that happens to fit the
rows that pay. Such a gain vanishes when every seed of the script is moved (`isolation.script_seeds`), a real
one stays. The paper does not ask this question; the rule and its constant are ours.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from mlagent_lib.core.errors import Unscored
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.environment.workspace import State

KEPT_SHARE = 0.5  # ours: a gain that loses more than half with other seeds was mostly luck
SEEDS = 5  # ours: reruns of each script


@dataclass(frozen=True)
class Luck:
    """What is left of a gain with other seeds. Gains are in the task's unit, higher is better.

    Attributes:
        claimed: Gain with the seeds that the scripts set.
        gains: Gain with each of the other seeds; None where a script gave no score with it.

    Example:
        >>> Luck(0.10, (0.09, 0.11, 0.10)).verdict, Luck(0.10, (0.01, -0.02, 0.01)).verdict
        ('survives', 'vanishes')
    """

    claimed: float
    gains: tuple[float | None, ...]

    @property
    def kept(self) -> float | None:
        """Mean gain with other seeds over the claimed gain; None where nothing was gained or measured."""
        known = [gain for gain in self.gains if gain is not None]
        return statistics.fmean(known) / self.claimed if known and self.claimed > 0 else None

    @property
    def verdict(self) -> str:
        """``no gain``, ``fails`` (no score with most other seeds), ``vanishes`` or ``survives``."""
        if self.claimed <= 0:
            return "no gain"
        if sum(gain is None for gain in self.gains) * 2 > len(self.gains):
            return "fails"
        return "survives" if self.kept >= KEPT_SHARE else "vanishes"


def luck_of(pairs: Sequence[tuple[State, State]], tools: Toolbox, *, seeds: int = SEEDS) -> list[Luck]:
    """Return the luck in each gain, both scripts of a pair run again with the same other seeds.

    Args:
        pairs: States before and after, whose scripts have feedback scores.
        tools: Its tier must be a warm one.

    Raises:
        Unscored: A script could not be run, through a fault of ours.
        ValueError: There is no other seed, or a state has no score.
    """
    if seeds < 1:
        raise ValueError(f"seeds must be at least 1, got {seeds}")
    if any(state.score is None for pair in pairs for state in pair):
        raise ValueError("luck needs states that have a score")
    jobs = [(state, tools.task(state.task).entry) for pair in pairs for state in pair]
    rounds = []
    for number in range(1, seeds + 1):
        executions = [execution for execution, _ in tools.execute_many(jobs, reseed=number)]
        failed = next((found for found in executions if isinstance(found, Unscored)), None)
        if failed:
            raise failed
        rounds.append([execution.score for execution in executions])
    found = []
    for number, (before, after) in enumerate(pairs):
        sign = 1.0 if tools.task(before.task).greater_is_better else -1.0
        rows = [scores[2 * number : 2 * number + 2] for scores in rounds]
        gains = tuple(None if None in row else sign * (row[1] - row[0]) for row in rows)
        found.append(Luck(sign * (after.score - before.score), gains))
    return found
