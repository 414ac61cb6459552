"""Statistics of steps, and the small tables behind the figures.

A step that we failed to score has no outcome share, no validity and no reward; it is counted beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf, nan

import numpy as np
import pandas as pd

from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.actions import UNDO
from mlagent_lib.results.evaluation import or_nan
from mlagent_lib.results.tabled import Rows, tabled
from mlagent_lib.tasks.task import Task

OUTCOMES = ("edited", "undone", "unchanged", "neutral", "corner", "error", "invalid")
FAILED = ("invalid", "error", "corner")
STEP_TABLE = (
    "policy", "task", "split", "seed", "trajectory", "step", "action", "outcome", "valid", "reward",
    "score_before", "score_after", "seconds", "cache_hit", "unscored",
)  # fmt: skip


def outcome_of(step: Mapping) -> str:
    """Return the outcome of a step as a lower-case word, from a row or an enumeration.

    An edit that ran and left the script as it was is ``unchanged``: it neither fails nor does anything; one
    that was taken back is ``undone``.

    Example:
        >>> outcome_of({"outcome": "edited", "script_before": "a", "script_after": "a"})
        'unchanged'
    """
    outcome = str(getattr(step["outcome"], "value", step["outcome"])).lower()
    before, after = step.get("script_before"), step.get("script_after")
    if outcome == "edited" and step.get("action") == UNDO:
        return "undone"
    return "unchanged" if outcome == "edited" and before is not None and before == after else outcome


@tabled(*STEP_TABLE)
def step_table(rows: Iterable[Mapping]) -> Rows:
    """Return one line per step, `STEP_TABLE`: ``valid`` is NaN for a step that we failed to score."""
    for row in rows:
        own = (row["source"], row["task"], row.get("split", ""), row.get("seed", 0), row["id"])
        for step in row.get("steps", ()):
            outcome = outcome_of(step)
            lost = outcome == "unscored"
            valid = nan if lost else float(outcome != "invalid")
            reward = nan if lost else or_nan(step.get("reward"))
            numbers = (or_nan(step.get(name)) for name in ("score_before", "score_after", "seconds"))
            said = (step["step"], step.get("action") or "", outcome, valid, reward)
            yield *own, *said, *numbers, bool(step.get("cache_hit")), lost


@tabled("policy", "outcome", "share", "n", "unscored")
def outcome_table(steps: pd.DataFrame) -> Rows:
    """Return the share of each outcome among the scored steps of each policy.

    Columns: policy, outcome, share (fraction of ``n``), n (scored steps), unscored (steps left out).
    """
    for policy, part in steps.groupby("policy", sort=False):
        good = part[~part["unscored"]]
        for outcome in OUTCOMES:
            share = float((good["outcome"] == outcome).mean()) if len(good) else nan
            yield policy, outcome, share, len(good), int(part["unscored"].sum())


# Ours: where a script stands, in shares of the gap on the feedback labels, and what is shown of it.
STANDS = {"worse than the starter": -0.05, "like the starter": 0.05, "a part closed": 0.4, "much closed": inf}


def standing_table(steps: pd.DataFrame, task_of: Callable[[str], Task]) -> pd.DataFrame:
    """Return what the actions of each policy do, by how much of the gap was closed before them.

    Args:
        steps: A `step_table`; its scores are on the feedback labels.

    Returns:
        Columns policy, split, closed (one of `STANDS`), actions; undone (an edit was taken back), of the
        others helped, hurt, same and failed, fractions of the actions; change, the mean change of the share
        of the gap, each bounded at -1 and 1.
    """
    table = steps[~steps["unscored"]]
    tasks = {name: task_of(name) for name in table["task"].unique()}
    init = table["task"].map({name: task.baseline["feedback"] for name, task in tasks.items()})
    best = table["task"].map({name: task.best["feedback"] for name, task in tasks.items()})
    edges = [-inf, *STANDS.values()]
    closed = pd.cut((table["score_before"] - init) / (best - init), edges, labels=list(STANDS))
    change = ((table["score_after"] - table["score_before"]) / (best - init)).clip(-1.0, 1.0)
    failed, undone = table["outcome"].isin(FAILED), table["outcome"] == "undone"
    told = table[["policy", "split"]].assign(
        closed=closed, actions=1, undone=undone, helped=~undone & (change > 0), hurt=~undone & (change < 0),
        same=~failed & ~undone & ~(change.abs() > 0), failed=failed, change=change.fillna(0.0),
    )  # fmt: skip
    how = dict.fromkeys(("undone", "helped", "hurt", "same", "failed", "change"), "mean")
    groups = told.groupby(["policy", "split", "closed"], observed=True)
    return groups.agg({"actions": "sum"} | how).reset_index()


@tabled("seed", "split", "step", "reward", "validity", "kl")
def learning_curve_table(metrics: Mapping[int, Iterable[Mapping]]) -> Rows:
    """Return the rows of GRPO's ``metrics.jsonl`` that the learning curve needs.

    Args:
        metrics: Rows of ``metrics.jsonl`` per seed. A row without ``split`` is a training step.

    Returns:
        Columns seed, split (``train`` or ``holdout``), step, reward (mean of the step), validity (fraction),
        kl (nats per token, NaN for holdout rows).

    Example:
        >>> learning_curve_table({0: [{"step": 1, "reward": 0.5, "share_invalid": 0.25}]})["validity"].item()
        0.75
    """
    for seed, row in ((seed, row) for seed, rows in metrics.items() for row in rows):
        reward, known, invalid, kl = map(or_nan, map(row.get, ("reward", "validity", "share_invalid", "kl")))
        validity = known if "validity" in row else 1.0 - invalid
        yield seed, row.get("split") or "train", row["step"], reward, validity, kl


CURVE_COLUMNS = ("reward", "validity", "kl", "steps", "unscored", "coder_failures", "on_policy_groups")


@tabled("arm", "policy", "seed", "split", "update", "charged", *CURVE_COLUMNS)
def curve_rows(metrics: Iterable[Mapping], seed: int, *, arm: str = "full", policy: str = "rl") -> Rows:
    """Return the rows of one training, each with the charged seconds spent by then (``curves.csv``)."""
    charged = 0.0
    for row in metrics:
        charged += row.get("seconds_charged", 0.0) if row["split"] == "train" else 0.0
        own = (arm, policy, seed, row["split"], row["step"], round(charged, 2))
        yield *own, *(row.get(name) for name in CURVE_COLUMNS)


def before_after_table(tasks: pd.DataFrame) -> pd.DataFrame:
    """Return the share of the gap closed by the policies before and after RL, from a `task_table`.

    Columns: task, split, metric, before_policy, after_policy, before, after, n_before, n_after. Tasks that
    one of the two lacks are left out.
    """
    sides = [
        tasks[tasks["policy"] == policy].rename(columns={"gap_closed": at, "n": f"n_{at}"})
        for policy, at in (("sft", "before"), ("rl", "after"))
    ]
    both = sides[0].merge(sides[1][["task", "after", "n_after"]], on="task")
    both = both.assign(before_policy="sft", after_policy="rl").dropna(subset=["before", "after"])
    columns = ["before_policy", "after_policy", "before", "after", "n_before", "n_after"]
    return both[["task", "split", "metric", *columns]].reset_index(drop=True)


@tabled("selection", "mean_distance", "coverage")
def spread_table(
    distances: np.ndarray, chosen: Mapping[str, Sequence[int]], *, draws: int = 200, root: int = 0
) -> Rows:
    """Return how far apart and how covering a choice of ideas is, beside random choices of the same size.

    Args:
        distances: (N, N) symmetric distances between the candidate ideas.
        chosen: Indices picked by each way of choosing; random draws have the size of the first.

    Returns:
        Columns selection, mean_distance (mean over pairs of chosen ideas, larger is further apart), coverage
        (mean distance of a candidate to its nearest chosen idea, smaller covers better).

    Example:
        Three ideas on a line at 0, 1, 3; the two ends are 3 apart and the middle one is 1 from an end.

        >>> line = np.array([[0.0, 1, 3], [1, 0, 2], [3, 2, 0]])
        >>> found = spread_table(line, {"ends": [0, 2]}, draws=0)
        >>> found["mean_distance"].item(), round(found["coverage"].item(), 4)
        (3.0, 0.3333)
    """
    distances = np.asarray(distances, dtype=float)
    size = len(next(iter(chosen.values())))
    generator = rng(root, "random ideas")
    picks = list(chosen.items())
    picks += [("random", generator.choice(len(distances), size, replace=False)) for _ in range(draws)]
    for name, indices in picks:
        inside = distances[np.ix_(indices, indices)]
        pairs = inside[np.triu_indices(len(indices), 1)]
        cover = distances[:, indices].min(axis=1).mean()
        yield name, float(pairs.mean()), float(cover)


@tabled("stage", "part", "seconds")
def minutes_table(stages: Mapping[str, float], metrics: Iterable[Mapping] = (), *, rl_stage="") -> Rows:
    """Return where the time went: one line per stage and part.

    Args:
        stages: Wall seconds of each stage, in order.
        metrics: Rows of GRPO's ``metrics.jsonl``; their ``seconds_*`` split the RL stage into generation,
            coder, execution and update, and what they do not explain is ``other``.
        rl_stage: Which stage the metrics belong to.

    Example:
        >>> row = {"seconds_generation": 3, "seconds_coder": 1, "seconds_execution": 4, "seconds_update": 2}
        >>> minutes_table({"grpo": 12.0}, [row], rl_stage="grpo")["seconds"].tolist()
        [3.0, 1.0, 4.0, 2.0, 2.0]
    """
    rows = list(metrics)
    for stage, seconds in stages.items():
        parts = {"whole stage": float(seconds)}
        if stage == rl_stage and rows:
            names = ("generation", "coder", "execution", "update")
            parts = {part: float(sum(row.get(f"seconds_{part}") or 0.0 for row in rows)) for part in names}
            parts["other"] = max(0.0, float(seconds) - sum(parts.values()))
        yield from ((stage, part, value) for part, value in parts.items())
