"""Statistics of steps, and the small tables behind the figures.

A step that we failed to score has no outcome share, no validity and no reward; it is counted beside them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite, nan

import numpy as np
import pandas as pd

from mlagent_lib.core.seeding import rng
from mlagent_lib.results.intervals import bootstrap_mean

__all__ = [
    "OUTCOMES",
    "before_after_table",
    "learning_curve_table",
    "minutes_table",
    "outcome_table",
    "spread_table",
    "step_summary",
    "step_table",
]

OUTCOMES = ("edited", "neutral", "corner", "error", "invalid")


def _number(value) -> float:
    return float(value) if value is not None and isfinite(value) else nan


def step_table(rows: Iterable[Mapping]) -> pd.DataFrame:
    """Return one line per step: policy, task, split, seed, trajectory, step, action, outcome, valid, reward,
    score_before, score_after, seconds, cache_hit, unscored. ``valid`` is NaN for a step that we failed to
    score.
    """
    table = []
    for row in rows:
        for step in row.get("steps", ()):
            outcome = str(step["outcome"]).lower()
            lost = outcome == "unscored"
            table.append(
                {
                    "policy": row["source"],
                    "task": row["task"],
                    "split": row.get("split", ""),
                    "seed": row.get("seed", 0),
                    "trajectory": row["id"],
                    "step": step["step"],
                    "action": step.get("action") or "",
                    "outcome": outcome,
                    "valid": nan if lost else float(outcome != "invalid"),
                    "reward": nan if lost else _number(step.get("reward")),
                    "score_before": _number(step.get("score_before")),
                    "score_after": _number(step.get("score_after")),
                    "seconds": _number(step.get("seconds")),
                    "cache_hit": bool(step.get("cache_hit")),
                    "unscored": lost,
                }
            )
    return pd.DataFrame(table)


def diversity_table(rows: Iterable[Mapping]) -> pd.DataFrame:
    """Return how many different edits each policy asks for: policy, edits, distinct, share, commonest.

    A policy that has found one good edit and repeats it may earn well and explore nothing: ``share`` is the
    fraction of its edits that ask for the commonest one.

    Example:
        >>> steps = [{"action_input": {"edit_instruction": text}} for text in ("a", "b", "a", "a")]
        >>> diversity_table([{"source": "rl", "steps": steps}]).to_dict("records")
        [{'policy': 'rl', 'edits': 4, 'distinct': 2, 'share': 0.75, 'commonest': 'a'}]
    """
    asked: dict[str, Counter[str]] = {}
    for row in rows:
        for step in row.get("steps", ()):
            text = (step.get("action_input") or {}).get("edit_instruction")
            if text:
                asked.setdefault(row["source"], Counter())[text] += 1
    table = []
    for policy, counts in asked.items():
        (commonest, most), edits = counts.most_common(1)[0], counts.total()
        table.append((policy, edits, len(counts), most / edits, commonest))
    return pd.DataFrame(table, columns=["policy", "edits", "distinct", "share", "commonest"])


def outcome_table(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the share of each outcome among the scored steps of each policy.

    Columns: policy, outcome, share (fraction of ``n``), n (scored steps), unscored (steps left out).
    """
    table = []
    for policy, part in steps.groupby("policy", sort=False):
        good = part[~part["unscored"]]
        for outcome in OUTCOMES:
            share = float((good["outcome"] == outcome).mean()) if len(good) else nan
            lost = int(part["unscored"].sum())
            table.append(
                {"policy": policy, "outcome": outcome, "share": share, "n": len(good), "unscored": lost}
            )
    return pd.DataFrame(table)


def step_summary(steps: pd.DataFrame, *, draws: int = 2000) -> pd.DataFrame:
    """Return validity and mean reward of a step per policy, every task weighing the same, with intervals.

    Columns: policy, steps, unscored, validity, validity_low, validity_high, reward, reward_low, reward_high.
    Steps of one trajectory depend on each other: the interval resamples trajectories (their means), not
    steps.
    """
    table = []
    for policy, part in steps.groupby("policy", sort=False):
        line = {
            "policy": policy,
            "steps": int((~part["unscored"]).sum()),
            "unscored": int(part["unscored"].sum()),
        }
        means = part.groupby(["seed", "task", "trajectory"])[["valid", "reward"]].mean().reset_index()
        for name, column in (("validity", "valid"), ("reward", "reward")):
            if means[column].notna().any():
                found = bootstrap_mean(means, column, draws=draws)
                line |= {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
        table.append(line)
    return pd.DataFrame(table)


def learning_curve_table(metrics: Mapping[int, Iterable[Mapping]]) -> pd.DataFrame:
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
    table = []
    for seed, rows in metrics.items():
        for row in rows:
            invalid = _number(row.get("share_invalid"))
            table.append(
                {
                    "seed": seed,
                    "split": row.get("split") or "train",
                    "step": row["step"],
                    "reward": _number(row.get("reward")),
                    "validity": _number(row["validity"]) if "validity" in row else 1.0 - invalid,
                    "kl": _number(row.get("kl")),
                }
            )
    return pd.DataFrame(table, columns=["seed", "split", "step", "reward", "validity", "kl"])


CURVE_COLUMNS = ("reward", "validity", "kl", "steps", "unscored", "coder_failures", "on_policy_groups")


def curve_rows(
    metrics: Iterable[Mapping], seed: int, *, arm: str = "full", policy: str = "rl"
) -> pd.DataFrame:
    """Return the rows of one training, each with the charged seconds spent by then (``curves.csv``).

    Args:
        metrics: Rows of GRPO's ``metrics.jsonl``.
        seed: Of the training.
        arm: That was trained.
        policy: That came of it.
    """
    table, charged = [], 0.0
    for row in metrics:
        charged += row.get("seconds_charged", 0.0) if row["split"] == "train" else 0.0
        line = {"arm": arm, "policy": policy, "seed": seed, "split": row["split"], "update": row["step"]}
        line |= {"charged": round(charged, 2)}
        table.append(line | {name: row.get(name) for name in CURVE_COLUMNS})
    return pd.DataFrame(
        table, columns=["arm", "policy", "seed", "split", "update", "charged", *CURVE_COLUMNS]
    )


def before_after_table(tasks: pd.DataFrame, *, before: str = "sft", after: str = "rl") -> pd.DataFrame:
    """Return the share of the gap closed by two policies, side by side, from a `task_table`.

    Columns: task, split, metric, before_policy, after_policy, before, after, n_before, n_after. Tasks that
    one of the two lacks are left out.
    """
    sides = [tasks[tasks["policy"] == name].set_index("task") for name in (before, after)]
    common = [t for t in sides[0].index if t in sides[1].index]
    left, right = (side.loc[common] for side in sides)
    table = pd.DataFrame(
        {
            "task": common,
            "split": left["split"].to_numpy(),
            "metric": left["metric"].to_numpy(),
            "before_policy": before,
            "after_policy": after,
            "before": left["gap_closed"].to_numpy(float),
            "after": right["gap_closed"].to_numpy(float),
            "n_before": left["n"].to_numpy(),
            "n_after": right["n"].to_numpy(),
        }
    )
    return table.dropna(subset=["before", "after"]).reset_index(drop=True)


def spread_table(
    distances: np.ndarray, chosen: Mapping[str, Sequence[int]], *, draws: int = 200, root: int = 0
) -> pd.DataFrame:
    """Return how far apart and how covering a choice of ideas is, beside random choices of the same size.

    Args:
        distances: (N, N) symmetric distances between the candidate ideas.
        chosen: Indices picked by each way of choosing; random draws have the size of the first.
        draws: Number of random choices.
        root: Seed of the random choices.

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
    picks = [(name, list(indices)) for name, indices in chosen.items()]
    picks += [
        ("random", generator.choice(len(distances), size, replace=False).tolist()) for _ in range(draws)
    ]
    table = []
    for name, indices in picks:
        inside = distances[np.ix_(indices, indices)]
        pairs = inside[np.triu_indices(len(indices), 1)]
        cover = distances[:, indices].min(axis=1).mean()
        table.append({"selection": name, "mean_distance": float(pairs.mean()), "coverage": float(cover)})
    return pd.DataFrame(table)


def minutes_table(
    stages: Mapping[str, float], metrics: Iterable[Mapping] = (), *, rl_stage: str = ""
) -> pd.DataFrame:
    """Return where the time went: one line per stage and part (columns stage, part, seconds).

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
    rows, table = list(metrics), []
    for stage, seconds in stages.items():
        parts = {"whole stage": float(seconds)}
        if stage == rl_stage and rows:
            names = ("generation", "coder", "execution", "update")
            parts = {part: float(sum(row.get(f"seconds_{part}") or 0.0 for row in rows)) for part in names}
            parts["other"] = max(0.0, float(seconds) - sum(parts.values()))
        table += [{"stage": stage, "part": part, "seconds": value} for part, value in parts.items()]
    return pd.DataFrame(table, columns=["stage", "part", "seconds"])
