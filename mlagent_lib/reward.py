"""The agentic-ML reward of the paper: Eq. 6 in both published versions, a form of ours, and ablations.

It runs no code, reads no files and sees no labels: `Outcome` tells which case a step is, the task the scores.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from mlagent_lib.environment.outcome import Outcome

if TYPE_CHECKING:
    from mlagent_lib.environment.step import StepResult
    from mlagent_lib.tasks.task import Task

# Ours, of the form `gain`: for an action after which the score is as it was; for one that fails or ruins it.
IDLE, LOWEST = -0.1, -0.3
_PARTS = ("performance", "format", "corner")
FORMS = ("v1", "v2", "gain", *(f"{form}-no-{part}" for form in ("v1", "gain") for part in _PARTS))


def reward_of(result: StepResult, task: Task, form: str = "v1") -> float | None:
    """Return the reward of a step in one of the `FORMS`, or None for one that we failed to score."""
    if result.outcome is Outcome.UNSCORED:
        return None
    return task_reward(result.outcome, task, result.score_before, result.score_after, form)


def task_reward(
    outcome: Outcome, task: Task, before: float | None, after: float | None, form: str = "v1"
) -> float:
    """Return `step_reward` with the scores of a task's starter and of its best on the feedback labels."""
    init, best = task.baseline["feedback"], task.best["feedback"]
    return step_reward(outcome, before=before, after=after, init=init, best=best, form=form)


def step_reward(
    outcome: Outcome,
    *,
    before: float | None = None,
    after: float | None = None,
    init: float,
    best: float,
    form: str = "v1",
) -> float:
    """Return the reward of one action: Eq. 6 of arXiv 2505.23723.

    ``v1`` (29 May 2025) is ``sigmoid(100 * (after - before) / (best - init))``, with 0 for a failed and 0.5
    for a neutral action. ``v2`` (30 Apr 2026) is ``(after - before) / (best - init)``, with -1 and 0. Neither
    clips. ``gain`` is ours, a deviation: ``v2`` clipped to `LOWEST` and 1, with `LOWEST` for a failed action
    and `IDLE` for what leaves the score as it was. Under ``v1`` a safe small edit pays as much as a large
    one, under ``v2`` one ruined logloss outweighs all else, and where most edits hurt, a policy that pays
    nothing for doing nothing learns that first. The ablations take one part away from ``v1`` or ``gain``. The
    paper states the value only for the performance part (a binary signal);
    the other two are ours:

    * ``…-no-performance``: the most for a better score, the least for a worse one, neutral for the same.
    * ``…-no-format``: a failed action gets the neutral reward.
    * ``…-no-corner``: a corner case counts as a failed action.

    Args:
        before: Score m_t of the state the action started from, in the task's unit. Needed for ``EDITED``.
        after: Score m_{t+1} of the edited script, in the task's unit. Needed for ``EDITED``.
        init: Score of the starter script, m_init.
        best: Best known score, m_best. ``best < init`` where lower is better: the sign of ``best - init``
            carries the direction, so there is no flag.

    Raises:
        ValueError: The outcome is ``UNSCORED``, a score is missing or not finite, ``best`` equals ``init``,
            or the form is unknown. A score of NaN is never a reward of 0.

    Example:
        >>> round(step_reward(Outcome.EDITED, before=0.50, after=0.51, init=0.5, best=1.0), 4)
        0.8808
        >>> step_reward(Outcome.EDITED, before=8.0, after=6.0, init=10.0, best=2.0, form="v2")
        0.25
        >>> step_reward(Outcome.EDITED, before=8.0, after=90.0, init=10.0, best=2.0, form="gain")
        -0.3
        >>> [step_reward(case, init=0.5, best=1.0) for case in (Outcome.INVALID, Outcome.NEUTRAL)]
        [0.0, 0.5]
    """
    if form not in FORMS:
        raise ValueError(f"reward form {form!r} is unknown: choose one of {', '.join(FORMS)}")
    outcome = Outcome(outcome)
    if outcome is Outcome.UNSCORED:
        raise ValueError("an unscored step has no reward: leave it out of the batch and count it")
    base, _, without = form.partition("-no-")
    failed, neutral = {"v1": (0.0, 0.5), "v2": (-1.0, 0.0), "gain": (LOWEST, IDLE)}[base]
    if outcome in (Outcome.INVALID, Outcome.ERROR):
        return neutral if without == "format" else failed
    if outcome is Outcome.CORNER:
        return failed if without == "corner" else neutral
    if outcome is Outcome.NEUTRAL:
        return neutral
    share = _share(before, after, init, best)
    if without == "performance":
        return 1.0 if share > 0 else failed if share < 0 else neutral
    if base == "v1":
        return sigmoid(100.0 * share)
    if base == "v2":
        return share
    return min(max(share, LOWEST), 1.0) if share else IDLE


def _share(before: float | None, after: float | None, init: float, best: float) -> float:
    for name, value in (("before", before), ("after", after), ("init", init), ("best", best)):
        if value is None or not math.isfinite(value):
            raise ValueError(f"{name} is {value!r}: an edited step needs four finite scores")
    if best == init:
        raise ValueError(
            f"best and init are both {best!r}: the task leaves nothing to gain, so Eq. 6 is undefined"
        )
    return (after - before) / (best - init)


def sigmoid(x: float) -> float:
    """Return the logistic function of x, without overflow at either end.

    Example:
        >>> sigmoid(0.0), sigmoid(-1e6), sigmoid(1e6)
        (0.5, 0.0, 1.0)
    """
    if x >= 0:
        return 1.0 / (1.0 + math.exp(-x))
    grown = math.exp(x)
    return grown / (1.0 + grown)
