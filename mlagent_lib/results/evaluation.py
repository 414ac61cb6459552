"""From trajectories to the numbers that are reported: scores, gains, shares of the gap.

Four different things keep four names: a *score* is in the unit of the task's metric, a *reward* is what the
learner got for one step, an *advantage* never leaves the trainer, a *gain* compares a score with the
starter's.

The score of a trajectory is that of its last valid submission on the report labels, because MLAgentBench
grades the workspace as the agent left it. Beside it stands the submission that was best on the feedback
labels, again scored on the report labels: what an agent that picks its best would hand in. Rows that we
failed to score (``unscored``) are excluded and counted, never set to zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np
import pandas as pd

from mlagent_lib.results.intervals import Interval, best_of, bootstrap_mean, paired_difference

__all__ = [
    "TaskScale",
    "avg_at_k",
    "best_at_k",
    "best_at_k_table",
    "difference_table",
    "gap_closed",
    "overall_table",
    "relative_gain_pct",
    "scales_from_table",
    "starter_rows",
    "task_table",
    "trajectory_table",
]

SPLITS = ("held-in", "held-out")
SCALE_COLUMNS = ("task", "split", "paper_task", "metric", "greater_is_better", "init", "best")


@dataclass(frozen=True)
class TaskScale:
    """What turns a score of one task into a gain: both ends of the scale and the direction.

    Attributes:
        task: Name of the task.
        split: ``held-in``, ``held-out`` or ``other``.
        metric: Name of the metric.
        greater_is_better: Direction of the metric.
        init: Score of the starter script on the report labels (p_init).
        best: Best known score on the report labels.
        paper_task: The paper's task it stands in for.

    Raises:
        ValueError: If ``best`` is not better than ``init``: there is no gap to close.
    """

    task: str
    split: str
    metric: str
    greater_is_better: bool
    init: float
    best: float
    paper_task: str = ""

    def __post_init__(self) -> None:
        gap = (self.best - self.init) * (1 if self.greater_is_better else -1)
        if not gap > 0:
            raise ValueError(
                f"task {self.task!r}: best ({self.best}) must be better than init ({self.init}) for a metric "
                f"where {'higher' if self.greater_is_better else 'lower'} is better"
            )

    @classmethod
    def of(cls, task) -> TaskScale:
        """Return the scale of a loaded task, on its report labels."""
        init, best = float(task.baseline["report"]), float(task.best["report"])
        # said beside every number: such a report is no test on labels that the rewards did not use
        metric = f"{task.metric} (one label set)" if task.one_label_set else task.metric
        return cls(task.name, task.split, metric, bool(task.greater_is_better), init, best, task.paper_task)


def scales_from_table(df: pd.DataFrame) -> dict[str, TaskScale]:
    """Return the scales in a `task_table` (``tasks.csv``): a finished run needs no task folder."""
    rows = df.drop_duplicates("task").itertuples(index=False)
    return {
        r.task: TaskScale(r.task, r.split, r.metric, bool(r.greater_is_better), float(r.init), float(r.best))
        for r in rows
    }


def relative_gain_pct(score: float, init: float, *, greater_is_better: bool) -> float:
    """Return the paper's relative gain in percent.

    Source: v1 section 5.1, ``Delta_r = beta * (p_avg@8 - p_init) / p_init``, beta = -1 where lower is better.

    Args:
        score: p_avg@K, in the unit of the metric.
        init: Score of the starter, positive.
        greater_is_better: Direction of the metric.

    Raises:
        ValueError: If ``init`` is not positive: the paper's ratio loses its sign or its meaning.

    Example:
        House prices of v1 Table 1: a mean absolute error of 20209 from 21676.

        >>> round(relative_gain_pct(20209, 21676, greater_is_better=False), 2)
        6.77
    """
    if not init > 0:
        raise ValueError(f"the relative gain divides by init, which must be positive, not {init}")
    return (1 if greater_is_better else -1) * 100.0 * (score - init) / init + 0.0  # no negative zero


def gap_closed(score: float, init: float, best: float) -> float:
    """Return the share of the way from the starter to the best known score: 0 starter, 1 best known.

    The sign of ``best - init`` carries the direction. Not clipped: below 0 is worse than the starter, above 1
    better than anything known. Not in the paper; it is the performance term of v2's reward, over a
    trajectory.

    Args:
        score: Score in the unit of the metric.
        init: Score of the starter.
        best: Best known score, different from ``init``.

    Raises:
        ValueError: If ``best`` equals ``init``.

    Example:
        >>> round(gap_closed(0.40, 0.50, 0.30), 3)  # an error that fell half of the way
        0.5
    """
    if best == init:
        raise ValueError(f"best and init are both {init}: there is no gap to close")
    return (score - init) / (best - init) + 0.0  # no negative zero


def avg_at_k(scores: Iterable[float]) -> float:
    """Return avg@K, the mean score of K trajectories (v1 section 5.1).

    Example:
        >>> avg_at_k([0.5, 0.75, 1.0])
        0.75
    """
    return float(np.mean(list(scores)))


def best_at_k(scores: Iterable[float], *, greater_is_better: bool, k: int | None = None) -> float:
    """Return best@K: the best of K trajectories (v1 section 5.1), or the expected best of ``k`` out of K.

    Args:
        scores: Scores of K trajectories, in the unit of the metric.
        greater_is_better: Direction of the metric.
        k: Number of trajectories to draw without replacement; all by default.

    Example:
        >>> best_at_k([3.0, 1.0, 2.0], greater_is_better=False)
        1.0
        >>> round(best_at_k([3.0, 1.0, 2.0], greater_is_better=False, k=2), 4)  # of 1,1,2
        1.3333
    """
    values = np.array(list(scores), dtype=float)
    sign = 1.0 if greater_is_better else -1.0
    return sign * float(best_of(k or len(values))(sign * values[None, :])[0])


def _number(value) -> float:
    return float(value) if value is not None and isfinite(value) else nan


def trajectory_table(rows: Iterable[Mapping], scales: Mapping[str, TaskScale]) -> pd.DataFrame:
    """Return one line per trajectory: scores on the report labels, gain and share of the gap closed.

    Args:
        rows: Rows of ``trajectories.jsonl`` (schema ``mlagent.trajectory/1``).
        scales: Scale of every task that occurs.

    Returns:
        Columns policy, task, split, seed, trajectory, metric, greater_is_better, init, best, score,
        score_by_feedback, gap_closed, gap_closed_by_feedback, unscored, steps, stop. A trajectory that we
        failed to score has ``unscored`` true and NaN for its numbers.

    Raises:
        ValueError: If a row names a task without a scale.
    """
    table = []
    for row in rows:
        if row["task"] not in scales:
            raise ValueError(f"trajectory {row['id']!r} is of task {row['task']!r}, which has no scale")
        scale, final = scales[row["task"]], row.get("final") or {}
        last, chosen = _number(final.get("report_last")), _number(final.get("report_best"))
        table.append(
            {
                "policy": row["source"],
                "task": row["task"],
                "split": scale.split,
                "seed": row.get("seed", 0),
                "trajectory": row["id"],
                "paper_task": scale.paper_task,
                "metric": scale.metric,
                "greater_is_better": scale.greater_is_better,
                "init": scale.init,
                "best": scale.best,
                "score": last,
                "score_by_feedback": chosen,
                "gap_closed": gap_closed(last, scale.init, scale.best),
                "gap_closed_by_feedback": gap_closed(chosen, scale.init, scale.best),
                "unscored": not isfinite(last),
                "steps": len(row.get("steps", ())),
                "stop": final.get("stop", ""),
            }
        )
    return pd.DataFrame(table)


def starter_rows(scales: Mapping[str, TaskScale], seeds: Iterable[int] = (0,)) -> list[dict]:
    """Return trajectories of no step: the policy ``starter``, whose gap is 0 exactly."""
    return [
        {
            "id": f"starter-{name}-{seed}",
            "task": name,
            "source": "starter",
            "seed": seed,
            "steps": [],
            "final": {
                "report_last": s.init,
                "report_best": s.init,
                "report_start": s.init,
                "stop": "starter",
            },
        }
        for seed in seeds
        for name, s in sorted(scales.items())
    ]


def task_table(df: pd.DataFrame, *, draws: int = 2000) -> pd.DataFrame:
    """Return one line per task and policy from a `trajectory_table` (``tasks.csv``).

    Columns: task, split, paper_task, metric, greater_is_better, init, best, policy, n, unscored, avg_at_k,
    best_at_k, avg_by_feedback (mean score when each trajectory hands in its best by feedback), gain_pct
    (paper's formula; empty where init is not positive), gap_closed with gap_low and gap_high.
    """
    table = []
    for (_, policy), part in df.groupby(["task", "policy"], sort=True):
        first, good = part.iloc[0], part[~part["unscored"]]
        up = bool(first["greater_is_better"])
        line = {name: first[name] for name in SCALE_COLUMNS}
        line |= {"policy": policy, "n": len(good), "unscored": int(part["unscored"].sum())}
        if len(good):
            found = bootstrap_mean(good, "gap_closed", draws=draws)
            mean = avg_at_k(good["score"])
            line |= {
                "avg_at_k": mean,
                "best_at_k": best_at_k(good["score"], greater_is_better=up),
                "avg_by_feedback": float(good["score_by_feedback"].mean()),
                "gain_pct": relative_gain_pct(mean, first["init"], greater_is_better=up)
                if first["init"] > 0
                else nan,
                "gap_closed": found.value,
                "gap_low": found.low,
                "gap_high": found.high,
            }
        table.append(line)
    return pd.DataFrame(table).sort_values(["split", "task", "policy"], ignore_index=True)


def _with_gain(df: pd.DataFrame) -> pd.DataFrame:
    """Add the gain of each trajectory; its mean over K is that of avg@K, as the formula is linear."""
    beta = np.where(df["greater_is_better"], 1.0, -1.0)
    usable = df["init"] > 0
    return df.assign(
        gain_pct=np.where(usable, beta * 100 * (df["score"] - df["init"]) / df["init"].where(usable), nan)
    )


def overall_table(df: pd.DataFrame, *, draws: int = 2000) -> pd.DataFrame:
    """Return one line per policy and split from a `trajectory_table` (``overall.csv``).

    Every task weighs the same. Columns: policy, split (held-in, held-out, all), tasks, trajectories, seeds,
    unscored, gain_pct, gain_low, gain_high, gap_closed, gap_low, gap_high, gap_by_feedback, level.
    """
    table = []
    for split in (*SPLITS, "all"):
        for policy, part in _with_gain(df).groupby("policy", sort=False):
            part = part if split == "all" else part[part["split"] == split]
            if part["unscored"].all():
                continue
            gap = bootstrap_mean(part, "gap_closed", draws=draws)
            gain = bootstrap_mean(part, "gain_pct", draws=draws) if part["gain_pct"].notna().any() else None
            table.append(
                {
                    "policy": policy,
                    "split": split,
                    "tasks": gap.tasks,
                    "trajectories": gap.n,
                    "seeds": gap.seeds,
                    "unscored": int(part["unscored"].sum()),
                    "gain_pct": gain.value if gain else nan,
                    "gain_low": gain.low if gain else nan,
                    "gain_high": gain.high if gain else nan,
                    "gap_closed": gap.value,
                    "gap_low": gap.low,
                    "gap_high": gap.high,
                    "gap_by_feedback": bootstrap_mean(part, "gap_closed_by_feedback", draws=1).value,
                    "level": gap.level,
                }
            )
    return pd.DataFrame(table)


def difference_table(
    df: pd.DataFrame, pairs: Iterable[tuple[str, str]], *, draws: int = 2000
) -> pd.DataFrame:
    """Return the paired difference in gap closed of (after, before) pairs per split (``differences.csv``).

    Columns: after, before, split, difference, low, high, tasks, trajectories, seeds, unscored, level, verdict
    (``above``, ``includes``, ``below`` zero, or ``unknown``). Pairs that share nothing are left out.
    """
    table = []
    for after, before in pairs:
        for split in (*SPLITS, "all"):
            part = df if split == "all" else df[df["split"] == split]
            if not {after, before} <= set(part[~part["unscored"]]["policy"]):
                continue
            found = paired_difference(part, after, before, "gap_closed", draws=draws)
            table.append({"after": after, "before": before, "split": split, **_difference(found)})
    return pd.DataFrame(table)


def _difference(found: Interval) -> dict:
    return {
        "difference": found.value,
        "low": found.low,
        "high": found.high,
        "tasks": found.tasks,
        "trajectories": found.n,
        "seeds": found.seeds,
        "unscored": found.excluded,
        "level": found.level,
        "verdict": found.verdict,
    }


def best_at_k_table(df: pd.DataFrame, *, draws: int = 1000) -> pd.DataFrame:
    """Return the expected share of the gap closed by the best of k trajectories, for k = 1 to K.

    K is the smallest number of scored trajectories of any task and seed, so that all k rest on the same
    tasks. The best is picked on the report labels, as the paper's best@K does: an upper bound for an agent,
    not a score that it could reach without peeking. Columns: policy, split, k, value, low, high, tasks,
    seeds.
    """
    table = []
    for (policy, split), part in df[~df["unscored"]].groupby(["policy", "split"], sort=True):
        for k in range(1, int(part.groupby(["seed", "task"]).size().min()) + 1):
            found = bootstrap_mean(part, "gap_closed", statistic=best_of(k), centred=True, draws=draws)
            ends = {"low": found.low, "high": found.high, "tasks": found.tasks, "seeds": found.seeds}
            table.append({"policy": policy, "split": split, "k": k, "value": found.value, **ends})
    return pd.DataFrame(table)
