"""Medals, medians and percentiles of trajectories, on the leaderboards of their competitions.

A trajectory is placed by its score on the *report* labels. These are half of the rows that MLE-bench keeps
back, and the leaderboard was made on Kaggle's own test rows: the place is an estimate, as MLE-bench's is.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from mlagent_lib.results.tabled import Rows, tabled
from mlagent_lib.tasks.foreign.leaderboard import (
    MEDALS,
    Leaderboard,
    above_median,
    medal,
    medal_thresholds,
    percentile,
)


def with_medals(df: pd.DataFrame, leaderboards: Mapping[str, Leaderboard]) -> pd.DataFrame:
    """Return the trajectories of tasks that have a leaderboard (by name of the task), each with its place.

    Returns:
        The rows of a `trajectory_table` with the columns medal (``gold``, ``silver``, ``bronze`` or empty),
        above_median and percentile (0 to 100). A trajectory that we failed to score has none of them.
    """
    rows = df[df["task"].isin(list(leaderboards))]
    for name, part in rows.groupby("task"):
        if bool(part["greater_is_better"].iloc[0]) != leaderboards[name].greater_is_better:
            raise ValueError(f"task {name!r}: its leaderboard runs the other way than its metric")

    def places(place) -> pd.Series:
        at = [None if r.unscored else place(r.score, leaderboards[r.task]) for r in rows.itertuples()]
        return pd.Series(at, rows.index, object)

    return rows.assign(medal=places(medal), above_median=places(above_median), percentile=places(percentile))


@tabled()
def medal_table(df: pd.DataFrame, leaderboards: Mapping[str, Leaderboard]) -> Rows:
    """Return one line per task and policy: how its trajectories would stand on Kaggle's private leaderboard.

    Returns:
        Columns task, policy, teams, n (scored trajectories), unscored (those that we failed to score, left
        out of all else), gold, silver, bronze (trajectories that win it), any_medal_share and
        above_median_share (0 to 1), percentile (mean share of the teams that is beaten, 0 to 100),
        best_percentile, and the thresholds gold_score, silver_score, bronze_score, median_score in the unit
        of the task. Tasks without a leaderboard are left out.

    Raises:
        ValueError: Table and leaderboard differ on which direction is better.

    Example:
        Two trajectories among ten teams with the scores 0.9, 0.8 ... 0.0, higher is better:

        >>> board = Leaderboard(tuple(place / 10 for place in range(9, -1, -1)), greater_is_better=True)
        >>> df = pd.DataFrame({"task": "t", "policy": "p", "score": [0.95, 0.35], "unscored": False,
        ...                    "greater_is_better": True})
        >>> line = medal_table(df, {"t": board}).iloc[0]
        >>> int(line["gold"]), float(line["above_median_share"]), float(line["percentile"])
        (1, 0.5, 70.0)
    """
    for (task, policy), part in with_medals(df, leaderboards).groupby(["task", "policy"], sort=True):
        good, board = part[~part["unscored"].astype(bool)], leaderboards[task]
        line = {"task": task, "policy": policy, "teams": board.teams}
        line |= {"n": len(good), "unscored": len(part) - len(good)}
        line |= {name: int((good["medal"] == name).sum()) for name in MEDALS}
        if len(good):
            line["any_medal_share"] = float((good["medal"] != "").mean())
            line["above_median_share"] = float(good["above_median"].astype(bool).mean())
            beaten = good["percentile"].astype(float)
            line |= {"percentile": float(beaten.mean()), "best_percentile": float(beaten.max())}
        line |= {f"{name}_score": score for name, score in medal_thresholds(board).items()}
        yield line | {"median_score": board.median}
