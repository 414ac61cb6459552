"""From trajectories to tasks to an overall row, and to differences: one schema for runs and for arms.

Every table has the columns ``arm`` (which profile: ``full`` is the method itself, a run's own), ``policy``
(who acted: ``starter``, ``base``, ``sft``, ``rl``, ...) and ``seed``. Who is compared with whom is named in
one word, see `who`. The measures were fixed before the arms were run:

* ``gap``: share of the gap to the best known score closed at the end of a trajectory, on the report labels,
  bounded below at `BOUND`. Without the bound one trajectory that ends with a ruined logloss outweighs all
  others; the unbounded mean stands beside it.
* ``kept``: the same for the submission whose script printed the best validation metric, which an agent can
  choose by itself.
* ``gain``: the paper's relative gain in percent, unbounded, as the paper has it.
* ``reward``: mean reward (v1) of single steps from test states, between 0 and 1, whatever an arm was trained
  on.

Four different things keep four names: a *score* is in the unit of the task's metric, a *reward* is what the
learner got for one step, an *advantage* never leaves the trainer, a *gain* compares a score with the
starter's.

The score of a trajectory is that of its last valid submission on the report labels, because MLAgentBench
grades the workspace as the agent left it. Beside it stands the submission that was best on validation, again
scored on the report labels. Rows that we failed to score (``unscored``) are excluded and counted, never set
to zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import product
from math import isfinite, nan

import numpy as np
import pandas as pd

from mlagent_lib.results.intervals import Interval, best_of, bootstrap_mean, paired_difference
from mlagent_lib.results.judge import judge
from mlagent_lib.results.tabled import Rows, tabled

Tables = Mapping[str, pd.DataFrame]  # by name: ``trajectories``, ``step_rewards``, ``curves``, ...

FULL = "full"  # the arm that is the method itself
BOUND = -1.0  # ours: see above
HELD = ("held-in", "held-out")
SPLITS = (*HELD, "all")
MEASURES = ("gap", "kept", "reward", "gain")
# Policies that stand in every table a second time, under this name: handing in their best by validation.
KEPT = {"random-ideas": "random-kept"}
SCALE_COLUMNS = ("task", "split", "paper_task", "metric", "greater_is_better", "init", "best")
TRAJECTORY_COLUMNS = (
    "arm", "policy", "seed", "task", "split", "trajectory", "paper_task", "metric", "greater_is_better",
    "init", "best", "score", "score_by_validation", "gap_closed", "gap_closed_by_validation",
    "gap_closed_on_feedback", "gain_pct", "steps", "stop", "unscored",
)  # fmt: skip
DIFFERENCES = (
    "after", "before", "measure", "split", "difference", "low", "high", "n", "tasks", "seeds", "seeds_above",
    "by_seed", "zero", "verdict",
)  # fmt: skip


@dataclass(frozen=True)
class TaskScale:
    """What turns a score of one task into a gain: both ends of the scale and the direction.

    ``init`` is the score of the starter script (p_init) and ``best`` the best known one, both on the report
    labels; ``feedback`` holds both on the feedback labels, where they are known. ``split`` is ``held-in``,
    ``held-out`` or ``other``; ``paper_task`` the paper's task it stands in for.

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
    feedback: tuple[float, float] | None = field(default=None, compare=False)

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
        feedback = (float(task.baseline["feedback"]), float(task.best["feedback"]))
        better = bool(task.greater_is_better)
        return cls(task.name, task.split, metric, better, init, best, task.paper_task, feedback)


def scales_from_table(df: pd.DataFrame) -> dict[str, TaskScale]:
    """Return the scales in a `task_table` (``tasks.csv``): a finished run needs no task folder."""
    rows = df.drop_duplicates("task")[list(SCALE_COLUMNS)].to_dict("records")
    return {row["task"]: TaskScale(**row) for row in rows}


def relative_gain_pct(score: float, init: float, *, greater_is_better: bool) -> float:
    """Return the paper's relative gain in percent.

    Source: v1 section 5.1, ``Delta_r = beta * (p_avg@8 - p_init) / p_init``, beta = -1 where lower is better.

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

    The sign of ``best - init`` carries the direction. Below 0 is worse than the starter, above 1 better than
    anything known; not clipped here, means are bounded below at `BOUND`. Not in the paper; it is the
    performance term of v2's reward, over a trajectory.

    Raises:
        ValueError: If ``best`` equals ``init``.

    Example:
        >>> round(gap_closed(0.40, 0.50, 0.30), 3)  # an error that fell half of the way
        0.5
    """
    if best == init:
        raise ValueError(f"best and init are both {init}: there is no gap to close")
    return (score - init) / (best - init) + 0.0  # no negative zero


def best_at_k(scores: Iterable[float], *, greater_is_better: bool, k: int | None = None) -> float:
    """Return best@K: the best of K trajectories (v1 section 5.1), or the expected best of ``k`` out of K.

    Example:
        >>> best_at_k([3.0, 1.0, 2.0], greater_is_better=False)
        1.0
        >>> round(best_at_k([3.0, 1.0, 2.0], greater_is_better=False, k=2), 4)  # of 1,1,2
        1.3333
    """
    values = np.array(list(scores), dtype=float)
    sign = 1.0 if greater_is_better else -1.0
    return sign * float(best_of(k or len(values))(sign * values[None, :])[0])


def or_nan(value) -> float:
    """Return a number as it is, and NaN for what is none or not finite."""
    return float(value) if value is not None and isfinite(value) else nan


def who(arm: str, policy: str) -> str:
    """Return the word that names a policy of an arm in every comparison.

    Example:
        >>> who("full", "sft"), who("full", "rl"), who("no-format", "rl")
        ('sft', 'rl', 'no-format')
    """
    return policy if arm == FULL else arm


@tabled(*TRAJECTORY_COLUMNS)
def trajectory_table(rows: Iterable[Mapping], scales: Mapping[str, TaskScale]) -> Rows:
    """Return one line per trajectory: scores on the report labels, gain and share of the gap closed.

    Args:
        rows: Rows of ``trajectories.jsonl`` (schema ``mlagent.trajectory/1``).
        scales: Scale of every task that occurs.

    Returns:
        Columns `TRAJECTORY_COLUMNS`. ``by_validation`` is of the submission whose script printed the best
        validation metric, ``on_feedback`` of the last one, on the feedback labels; ``gain_pct`` is NaN where
        init is not positive. Gaps are not bounded here. A trajectory that we failed to score has ``unscored``
        true and NaN for its numbers. A policy of `KEPT` has a second line, in which that submission is the
        last one.

    Raises:
        ValueError: A row names a task without a scale, or is not graded on the report labels.
    """
    for row in rows:
        if row["task"] not in scales:
            raise ValueError(f"trajectory {row['id']!r} is of task {row['task']!r}, which has no scale")
        final = row.get("final") or {}
        if "submissions" in final and "report_last" not in final:
            raise ValueError(f"trajectory {row['id']!r} is not graded: call with_report_scores first")
        yield _trajectory(row, scales[row["task"]])
        if row["source"] in KEPT:
            best = {"report_last": final.get("report_kept"), "feedback_last": None}
            again = {**row, "source": KEPT[row["source"]], "final": {**final, **best}}
            yield _trajectory(again, scales[row["task"]])


def _trajectory(row: Mapping, scale: TaskScale) -> tuple:
    final, up = row.get("final") or {}, scale.greater_is_better
    stop, paid = final.get("stop", ""), or_nan(final.get("feedback_last"))
    scores = [
        nan if stop == "unscored" else or_nan(final.get(f"report_{which}")) for which in ("last", "kept")
    ]
    gaps = [gap_closed(score, scale.init, scale.best) for score in scores]
    gaps.append(gap_closed(paid, *scale.feedback) if scale.feedback else nan)
    gain = relative_gain_pct(scores[0], scale.init, greater_is_better=up) if scale.init > 0 else nan
    known = (scale.paper_task, scale.metric, up, scale.init, scale.best)
    own = (FULL, row["source"], row.get("seed", 0), row["task"], scale.split, row["id"])
    return *own, *known, *scores, *gaps, gain, len(row.get("steps", ())), stop, not isfinite(scores[0])


def named(df: pd.DataFrame) -> pd.DataFrame:
    """Return a table with the column ``who``, from ``arm`` and ``policy``; without arms it is a run's."""
    if "who" in df:
        return df
    arms = df["arm"] if "arm" in df else pd.Series(FULL, df.index)
    names = [who(arm, policy) for arm, policy in zip(arms, df["policy"], strict=True)]
    return df.assign(who=pd.Series(names, df.index, dtype=object))


def measured(df: pd.DataFrame, measure: str, split: str = "all") -> pd.DataFrame:
    """Return the rows that a measure averages, with the columns ``who`` and ``value``.

    What we failed to score has no value (NaN).

    Args:
        df: A `trajectory_table`; for ``reward`` rows of single steps (policy, seed, task, state, reward).
        measure: One of `MEASURES`.
        split: One of `SPLITS`; single steps are from held-in tasks only.

    Example:
        >>> rows = pd.DataFrame({"policy": "a", "seed": 0, "task": "t", "split": "held-in",
        ...                      "gap_closed": [-9.0, 0.5], "gain_pct": 1.0, "unscored": False})
        >>> measured(rows, "gap")["value"].tolist()
        [-1.0, 0.5]
    """
    df = named(df)
    if measure == "reward":
        return df.rename(columns={"reward": "value"})
    df = df if split == "all" else df[df["split"] == split]
    name = {"gap": "gap_closed", "kept": "gap_closed_by_validation", "gain": "gain_pct"}[measure]
    value = df.get(name, pd.Series(nan, df.index))  # results of earlier do not know the second one
    value = value if measure == "gain" else value.clip(lower=BOUND)
    return df.assign(value=value.mask(df["unscored"].astype(bool)))


def median_trajectory(df: pd.DataFrame, policy: str = "rl") -> str:
    """Return the trajectory that stands for a policy wherever one is shown: that of median gap closed.

    Of two in the middle it is the worse one; equal ones go by name. ``df`` is a `trajectory_table` of one
    seed.

    Raises:
        ValueError: None of the policy was scored.

    Example:
        >>> rows = pd.DataFrame({"policy": "rl", "trajectory": ["a", "b", "c", "d"], "unscored": False,
        ...                      "gap_closed": [0.3, 0.9, 0.1, 0.4]})
        >>> median_trajectory(rows)
        'a'
    """
    own = df[(df["policy"] == policy) & ~df["unscored"].astype(bool)]
    if own.empty:
        raise ValueError(f"no trajectory of {policy!r} was scored")
    own = own.sort_values(["gap_closed", "trajectory"])
    return str(own["trajectory"].iloc[(len(own) - 1) // 2])


@tabled()
def task_table(df: pd.DataFrame, *, k: int | None = None, draws: int = 2000) -> Rows:
    """Return one line per task and policy of each arm from a `trajectory_table` (``tasks.csv``).

    Args:
        df: A `trajectory_table`.
        k: Trajectories of a seed that best@k picks from (on the report labels, as the paper's best@8 does;
            mean over seeds); all of a policy by default.

    Returns:
        Columns task, split, paper_task, metric, greater_is_better, init, best, arm, policy, n, seeds,
        unscored, avg_at_k, best_at_k, gain_pct (paper's formula; empty where init is not positive),
        gap_closed (bounded) with gap_low and gap_high, gap_unbounded.
    """
    for (_, _, arm, policy), part in df.groupby(["split", "task", "arm", "policy"], sort=True):
        first, good = part.iloc[0], part[~part["unscored"].astype(bool)]
        line = {name: first[name] for name in SCALE_COLUMNS} | {"arm": arm, "policy": policy}
        line |= {"n": len(good), "seeds": good["seed"].nunique(), "unscored": len(part) - len(good)}
        if len(good):
            seeds = [good] if k is None else [own for _, own in good.groupby("seed") if len(own) >= k]
            up = bool(first["greater_is_better"])
            best = [best_at_k(own["score"], greater_is_better=up, k=k) for own in seeds]
            line |= {"avg_at_k": good["score"].mean(), "best_at_k": float(np.mean(best)) if best else nan}
            line["gain_pct"] = good["gain_pct"].mean()
            line |= _ends("gap", bootstrap_mean(measured(good, "gap"), "value", draws=draws), "gap_closed")
            line["gap_unbounded"] = good["gap_closed"].mean()
        yield line


def mean_of(df: pd.DataFrame, name: str, measure: str, split: str = "all", **how) -> Interval | None:
    """Return the mean of a measure for one policy with its interval, or None where nothing was scored.

    ``name`` is that of `who`, the next three are those of `measured`, the rest goes to `bootstrap_mean`.
    """
    rows = measured(df, measure, split)
    rows = rows[rows["who"] == name]
    return bootstrap_mean(rows, "value", **how) if np.isfinite(rows["value"]).any() else None


@tabled()
def overall_table(df: pd.DataFrame, steps: pd.DataFrame | None = None, *, draws: int = 2000) -> Rows:
    """Return one line per policy of each arm and split (``overall.csv``); every task weighs the same.

    Args:
        df: A `trajectory_table`.
        steps: Single steps from test states, where they were taken; they are from held-in tasks.

    Returns:
        Columns arm, policy, split, tasks, trajectories, seeds, unscored, gap_closed (bounded) with gap_low
        and gap_high, gap_unbounded, gap_kept (bounded) with kept_low and kept_high, gain_pct, gain_low,
        gain_high, reward, reward_low, reward_high, states (that the reward is a mean of), level.
    """
    df = named(df)  # once, not again for every mean
    for split, row in product(SPLITS, df.drop_duplicates("who").itertuples()):
        gap = mean_of(df, row.who, "gap", split, draws=draws)
        if gap is None:
            continue
        line = {"arm": getattr(row, "arm", FULL), "policy": row.policy, "split": split}
        line |= {"tasks": gap.tasks, "trajectories": gap.n, "seeds": gap.seeds, "unscored": gap.excluded}
        part = measured(df, "gap", split)
        part = part[(part["who"] == row.who) & part["value"].notna()]
        unbounded = part.groupby("task")["gap_closed"].mean().mean()
        line |= _ends("gap", gap, "gap_closed") | {"gap_unbounded": unbounded}
        line |= _ends("kept", mean_of(df, row.who, "kept", split, draws=draws), "gap_kept")
        line |= _ends("gain", mean_of(df, row.who, "gain", split, draws=draws), "gain_pct")
        if steps is not None and split == "held-in":
            found = mean_of(steps, row.who, "reward", draws=draws)
            line |= _ends("reward", found, "reward") | {"states": found.n if found else 0}
        yield line | {"level": gap.level}


def _ends(stem: str, found: Interval | None, value: str) -> dict[str, float]:
    ends = (found.value, found.low, found.high) if found else (nan, nan, nan)
    return dict(zip((value, f"{stem}_low", f"{stem}_high"), ends, strict=True))


def contrast(
    df: pd.DataFrame, after: str, before: str, measure: str, split: str = "all", **how
) -> tuple[Interval, list[float]] | None:
    """Return the paired difference of two policies with its interval, and that of each seed that both have.

    None where one of them was not scored. ``df``, ``measure`` and ``split`` are those of `measured`,
    ``after`` (the plus sign) and ``before`` (the minus sign) are named as in `who`.

    Test: hierarchical percentile bootstrap, tasks fixed, seeds drawn for both at once, trajectories within a
    task drawn for each (rewards: differences on the same states). See `paired_difference`.
    """
    rows = measured(df, measure, split)
    rows = rows[np.isfinite(rows["value"])].assign(policy=lambda found: found["who"])
    seeds = set(rows[rows["policy"] == after]["seed"]) & set(rows[rows["policy"] == before]["seed"])
    if not seeds:
        return None
    how = {"unit": "state" if measure == "reward" else None} | how
    found = paired_difference(rows[rows["seed"].isin(seeds)], after, before, "value", **how)
    own = (rows[rows["seed"] == seed] for seed in sorted(seeds))
    return found, [
        paired_difference(part, after, before, "value", **how | {"draws": 2}).value for part in own
    ]


@tabled(*DIFFERENCES)
def difference_table(
    df: pd.DataFrame, pairs: Iterable[tuple], steps: pd.DataFrame | None = None, *, measures=MEASURES
) -> Rows:
    """Return one line per pair, measure and split: difference, low, high, and what each seed says.

    Args:
        df: A `trajectory_table`.
        pairs: Policies (after, before), named as in `who`; pairs of which one was not run are left out.
        steps: Single steps from test states, where they were taken.
        measures: Which of `MEASURES`.

    Returns:
        Columns `DIFFERENCES`: ``zero`` says where the interval lies (``above``, ``includes``, ``below`` zero,
        or ``unknown``), ``verdict`` is that of `judge`.
    """
    df = named(df)  # once, not again for every pair
    cases = [(name, split) for name in measures for split in (("held-in",) if name == "reward" else SPLITS)]
    for (after, before), (measure, split) in product(pairs, cases):
        rows = steps if measure == "reward" else df
        if rows is None or (found := contrast(rows, after, before, measure, split)) is None:
            continue
        at, each = found
        above, by_seed = sum(value > 0 for value in each), " ".join(f"{value:+.3f}" for value in each)
        said = (above, by_seed, at.verdict, judge(at.low, at.high, each))
        yield after, before, measure, split, at.value, at.low, at.high, at.n, at.tasks, len(each), *said


@tabled("arm", "policy", "split", "k", "value", "low", "high", "n", "tasks", "seeds")
def best_at_k_table(df: pd.DataFrame, *, draws: int = 1000) -> Rows:
    """Return the expected share of the gap closed (bounded) by the best of k trajectories, for k = 1 to K.

    K is the smallest number of scored trajectories of any task and seed, so that all k rest on the same
    tasks. The best is picked on the report labels, as the paper's best@K does: an upper bound for an agent,
    not a score that it could reach without peeking.
    """
    for split in SPLITS:
        rows = measured(df, "gap", split)
        for _, part in rows[rows["value"].notna()].groupby("who", sort=True):
            first = part.iloc[0]
            for k in range(1, int(part.groupby(["seed", "task"]).size().min()) + 1):
                at = bootstrap_mean(part, "value", statistic=best_of(k), centred=True, draws=draws)
                line = (first.get("arm", FULL), first["policy"], split, k)
                yield *line, at.value, at.low, at.high, at.n, at.tasks, at.seeds
