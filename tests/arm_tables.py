"""Raw tables of a comparison of arms, small enough to be worked by hand: for the tests of its results.

Two tasks, three seeds, two trajectories of each. All trajectories of an arm close the share `GAPS` of the
gap, plus the offset of their seed, plus or minus 0.02. So the difference of two arms is exact, the same for
every task and every seed, and its interval lies within 0.04 of it.
"""

from __future__ import annotations

from math import nan
from pathlib import Path

import pandas as pd

from mlagent_lib.core.arms import arm_of
from mlagent_lib.core.files import sha256_file, write_json
from mlagent_lib.results.arms import RAW

SEEDS = (0, 1, 2)
OFFSET = {0: 0.0, 1: 0.05, 2: -0.05}
GAPS = {
    "base": 0.0,
    "sft": 0.2,
    "rl": 0.5,
    "rl-from-base": 0.3,
    "episode-wise": 0.7,
    "episode-small": 0.5,
    "no-performance": 0.3,
    "no-format": 0.4,
    "no-corner": 0.5,
    "tasks-3": 0.3,
    "tasks-6": 0.4,
    "no-thought": 0.45,
    "pool-36": 0.35,
}
REWARDS = {"sft": 0.4, "rl": 0.6}
TASKS = {  # split, greater is better, starter, best
    "pocket-up": ("held-in", True, 0.5, 0.9),
    "pocket-down": ("held-out", False, 2.0, 1.0),
}
METHODS = ("trained policy, trajectories", "SFT, tree")


def keys(who: str) -> dict[str, str]:
    """Return the columns that name an arm's policy."""
    return arm_of(who).keys | {"who": who}


def trajectories(gaps: dict[str, float] = GAPS, seeds: tuple[int, ...] = SEEDS) -> pd.DataFrame:
    """Return the trajectories of arms; the last one of ``rl`` could not be scored by us."""
    rows = []
    for policy, gap in gaps.items():
        for seed in seeds:
            for task, (split, up, init, best) in TASKS.items():
                for index, noise in enumerate((-0.02, 0.02)):
                    closed = gap + OFFSET[seed] + noise
                    score = init + closed * (best - init)
                    gain = 100.0 * (score - init) / init * (1 if up else -1)
                    rows.append(
                        keys(policy)
                        | {
                            "seed": seed, "task": task, "split": split, "trajectory": index, "score": score,
                            "gap_closed": closed, "gap_closed_by_feedback": closed + 0.1,
                            "gap_closed_on_feedback": closed + (0.1 if policy == "rl" else 0.0),
                            "gain_pct": gain, "steps": 6, "stop": "steps", "unscored": False,
                            "paper_task": f"paper-{task}", "metric": "auc" if up else "rmse",
                            "greater_is_better": up, "init": init, "best": best,
                        }
                    )  # fmt: skip
    if "rl" in gaps:
        lost = {"trajectory": 2, "gap_closed": 9.0, "stop": "unscored", "unscored": True}
        rows.append(rows[-1] | keys("rl") | lost)
    return pd.DataFrame(rows)


def steps(rewards: dict[str, float] = REWARDS) -> pd.DataFrame:
    """Return two single steps of each policy from each of three test states a seed."""
    rows = [
        keys(policy)
        | {
            "seed": seed, "task": "pocket-up", "state": f"{seed}-{state}",
            "outcome": "edited", "reason": "scored", "share": reward - 0.5 + noise,
            "reward": reward + OFFSET[seed] + noise,
        }
        for policy, reward in rewards.items() for seed in SEEDS for state in range(3)
        for noise in (-0.01, 0.01)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def curves(policies: tuple[str, ...] = ("rl", "episode-wise", "episode-small")) -> pd.DataFrame:
    """Return curves that rise from 0.4 to 0.6 in two charged minutes, measured three times."""
    rows = []
    for policy in policies:
        for seed in SEEDS:
            for update in range(21):
                row = keys(policy) | {"seed": seed, "update": update, "charged": 6.0 * update}
                row |= {"reward": 0.4 + 0.01 * update, "validity": 1.0, "kl": nan, "steps": nan}
                row |= {"unscored": 0, "coder_failures": nan, "on_policy_groups": nan}
                if update:
                    rows.append(row | {"split": "train", "kl": 0.001, "steps": 64, "coder_failures": 2})
                if update % 10 == 0:
                    rows.append(row | {"split": "holdout"})
    return pd.DataFrame(rows)


def blame() -> pd.DataFrame:
    """Return ten edits of ``rl``: three failed, one of them refused by the coder, one spoilt by it."""
    rows = [("edited", "scored", 1.0, "edited", "scored", 1.0)] * 6
    rows += [
        ("edited", "scored", 0.0, "edited", "scored", 0.0),
        ("corner", "coder", 0.5, "edited", "scored", 1.0),
        ("error", "script", 0.0, "edited", "scored", 1.0),
        ("error", "script", 0.0, "error", "script", 0.0),
    ]
    names = ("outcome", "reason", "reward", "exact_outcome", "exact_reason", "exact_reward")
    table = pd.DataFrame(rows, columns=names)
    return table.assign(**keys("rl"), seed=0, task="pocket-up", state="s")


def searches() -> pd.DataFrame:
    """Return two searches of three executions, the first of which ended after two, for both methods."""
    points = {0: (0.0, 0.2, 0.4), 1: (0.0, 0.0, 0.2, 0.6)}  # what would be handed in after 0, 1, 2, 3
    return pd.DataFrame(
        [
            {
                "method": method, "seed": seed, "task": "pocket-up", "split": "held-in", "repeat": 0,
                "execution": execution, "gap": gap + extra,
            }
            for method, extra in zip(METHODS, (0.0, -3.0), strict=True) for seed, gaps in points.items()
            for execution, gap in enumerate(gaps)
        ]
    )  # fmt: skip


def raw_tables(**changes: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return all raw tables by name; ``changes`` replace some."""
    tasks = [
        {
            "task": task, "split": split, "paper_task": f"paper-{task}", "metric": "auc" if up else "rmse",
            "greater_is_better": up, "init": init, "best": best, "init_feedback": init, "best_feedback": best,
        }
        for task, (split, up, init, best) in TASKS.items()
    ]  # fmt: skip
    edits = [
        keys(policy) | {"seed": seed, "edits": 20, "distinct": count, "share": 0.25, "commonest": "x"}
        for policy, counts in {"sft": (10, 12, 14), "rl": (4, 5, 6)}.items()
        for seed, count in enumerate(counts)
    ]
    luck = keys("rl") | {"task": "pocket-up", "split": "held-in", "claimed": 0.1, "kept": 1.0}
    units = [
        {"seed": seed, "unit": f"arm-{arm_of(arm).name}", "finished": True, "wall_s": 60.0 * (seed + 1),
         "trajectories": 4}
        for arm in GAPS for seed in SEEDS
    ]  # fmt: skip
    units.append(
        {"seed": 0, "unit": "collect-far-apart", "finished": True, "wall_s": 5.0, "trajectories": 30}
    )
    units.append({"seed": 0, "unit": "search", "finished": False, "wall_s": nan, "trajectories": nan})
    tables = {
        "scales": pd.DataFrame(tasks),
        "trajectories": trajectories(),
        "step_rewards": steps(),
        "curves": curves(),
        "edits": pd.DataFrame(edits),
        "blame": blame(),
        "luck": pd.DataFrame([luck | {"seeds": 3, "verdict": "survives", "seed": 0}]),
        "searches": searches(),
        "units": pd.DataFrame(units),
    }
    return tables | changes


def write_raw(folder: Path, tables: dict[str, pd.DataFrame] | None = None) -> Path:
    """Write raw tables with the manifest that names them, and return the folder."""
    tables = tables or raw_tables()
    folder.mkdir(parents=True, exist_ok=True)
    scales = ["paper_task", "metric", "greater_is_better", "init", "best"]
    for name in RAW:  # as they are committed: who is computed, and the ends of a task stand in its own table
        table = tables[name].drop(columns="who", errors="ignore")
        if name == "trajectories":
            table = table.drop(columns=scales)
        table.to_csv(folder / f"{name}.csv", index=False, lineterminator="\n")
    done = tables["units"][tables["units"]["finished"]]
    units = {
        f"seed{row.seed}/{row.unit}": {"device": "cpu: test", "git": {"commit": "ab" * 20, "dirty": False}}
        for row in done.itertuples()
    }
    write_json(
        folder / "manifest.json",
        {
            "profile": "ablations", "units": units, "left": ["seed0/search"],
            "files": {f"{name}.csv": sha256_file(folder / f"{name}.csv") for name in RAW},
        },
    )  # fmt: skip
    return folder
