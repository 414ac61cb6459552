"""The arms of the comparison, from their committed tables: means, intervals, contrasts, tables for figures.

Everything here is computed from the CSV of one folder, which a manifest pins byte by byte. The measures were
fixed before the arms were run:

* ``gap``: share of the gap to the best known score closed at the end of a trajectory, on the report labels,
  bounded below at -1. Without the bound one trajectory that ends with a ruined logloss outweighs all others;
  the unbounded mean stands beside it.
* ``reward``: mean reward (v1) of single steps from test states, between 0 and 1, whatever an arm was trained
  on.
* ``gain``: the paper's relative gain in percent, unbounded, as the paper has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.core.arms import ARMS, PROFILE, get_arm
from mlagent_lib.core.artifacts import sha256_file
from mlagent_lib.core.errors import RunError
from mlagent_lib.results.intervals import Interval, best_of, bootstrap_mean, paired_difference
from mlagent_lib.reward import sigmoid

RAW = ("tasks", "trajectories", "steps", "curves", "edits", "blame", "luck", "searches", "units")
COMMAND = f"mlagent run --profile {PROFILE}"
BOUND = -1.0  # ours: see above
SPLITS = ("held-in", "held-out", "all")
MEASURES = ("gap", "reward", "gain")
SHOWN = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)  # executions of a search at which intervals are computed
Tables = Mapping[str, pd.DataFrame]


def load(folder: Path | str) -> dict[str, pd.DataFrame]:
    """Return the raw tables of a folder by name, each checked against the manifest.

    Args:
        folder: Where they are, e.g. ``figures/ablations``.

    Raises:
        RunError: A file is missing, or is not the one that the manifest was written for.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        sums = dict(manifest["files"])
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise RunError(
            f"{folder / 'manifest.json'} is missing or damaged: {error}",
            cure=f"restore it from git, or make the results with '{COMMAND}'",
        ) from error
    tables = {}
    for name in RAW:
        path = folder / f"{name}.csv"
        if not path.is_file():
            raise RunError(f"{path} is missing", cure=f"restore it from git, or make it with '{COMMAND}'")
        if sha256_file(path) != sums.get(path.name):
            raise RunError(
                f"{path} is not the file that manifest.json was written for",
                cure=f"restore both from git, or make them with '{COMMAND}'",
            )
        tables[name] = pd.read_csv(path)
    return tables


def manifest_of(folder: Path | str) -> dict:
    """Return the manifest of a folder of results."""
    return json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))


def frame_of(tables: Tables, measure: str, split: str = "all") -> pd.DataFrame:
    """Return the rows that a measure averages: policy, seed, task, value, and state for rewards.

    What we failed to score has no value (NaN).

    Args:
        tables: Of `load`.
        measure: One of `MEASURES`.
        split: ``held-in``, ``held-out`` or ``all``; single steps are from held-in tasks only.

    Example:
        >>> rows = pd.DataFrame({"policy": "a", "seed": 0, "task": "t", "split": "held-in",
        ...                      "gap": [-9.0, 0.5], "gain_pct": 1.0, "unscored": False})
        >>> frame_of({"trajectories": rows}, "gap")["value"].tolist()
        [-1.0, 0.5]
    """
    if measure == "reward":
        return tables["steps"].rename(columns={"reward": "value"})
    found = tables["trajectories"]
    found = found if split == "all" else found[found["split"] == split]
    value = found["gap"].clip(lower=BOUND) if measure == "gap" else found["gain_pct"]
    return found.assign(value=value.mask(found["unscored"].astype(bool)))


def mean_of(tables: Tables, policy: str, measure: str, split: str = "all") -> Interval | None:
    """Return the mean of an arm with its interval, or None where it was not run."""
    rows = frame_of(tables, measure, split)
    rows = rows[rows["policy"] == policy]
    return bootstrap_mean(rows, "value") if np.isfinite(rows["value"]).any() else None


def contrast(
    tables: Tables, after: str, before: str, measure: str, split: str = "all"
) -> tuple[Interval, list[float]] | None:
    """Return the paired difference of two arms with its interval, and that of each seed.

    None where an arm was not run.

    Test: hierarchical percentile bootstrap, tasks fixed, seeds drawn for both arms at once, trajectories
    within a task drawn for each (rewards: differences on the same states).

    Args:
        tables: Of `load`.
        after: Arm with the plus sign.
        before: Arm with the minus sign.
        measure: One of `MEASURES`.
        split: See `frame_of`.
    """
    rows = frame_of(tables, measure, split)
    rows = rows[np.isfinite(rows["value"])]
    seeds = set(rows[rows["policy"] == after]["seed"]) & set(rows[rows["policy"] == before]["seed"])
    if not seeds:
        return None
    unit = "state" if measure == "reward" else None
    rows = rows[rows["seed"].isin(seeds)]
    found = paired_difference(rows, after, before, "value", unit=unit)
    each = [
        paired_difference(rows[rows["seed"] == seed], after, before, "value", unit=unit, draws=2).value
        for seed in sorted(seeds)
    ]
    return found, each


def arm_table(tables: Tables) -> pd.DataFrame:
    """Return one line per arm, measure and split: value, low, high, unbounded mean, n, seeds, excluded."""
    lines = []
    for arm in ARMS:
        for measure in MEASURES:
            for split in SPLITS if measure != "reward" else ("held-in",):
                found = mean_of(tables, arm.name, measure, split)
                if found is None:
                    continue
                rows = frame_of(tables, measure, split)
                rows = rows[(rows["policy"] == arm.name) & np.isfinite(rows["value"])]
                raw = rows.groupby("task")["gap"].mean().mean() if measure == "gap" else found.value
                line = {"policy": arm.name, "group": arm.group, "label": arm.label, "measure": measure}
                line |= {"split": split, "value": found.value, "low": found.low, "high": found.high}
                line |= {"unbounded": raw, "n": found.n, "tasks": found.tasks, "seeds": found.seeds}
                lines.append(line | {"excluded": found.excluded, "level": found.level})
    return pd.DataFrame(lines)


def contrast_table(tables: Tables, pairs: Sequence[tuple[str, str]]) -> pd.DataFrame:
    """Return one line per pair, measure and split: difference, low, high, and what each seed says.

    Args:
        tables: Of `load`.
        pairs: Arms (after, before).
    """
    lines = []
    for after, before in pairs:
        for measure in MEASURES:
            for split in SPLITS if measure != "reward" else ("held-in",):
                found = contrast(tables, after, before, measure, split)
                if found is None:
                    continue
                interval, each = found
                lines.append(
                    {
                        "after": after,
                        "before": before,
                        "measure": measure,
                        "split": split,
                        "difference": interval.value,
                        "low": interval.low,
                        "high": interval.high,
                        "n": interval.n,
                        "seeds": len(each),
                        "seeds_above": sum(value > 0 for value in each),
                        "by_seed": " ".join(f"{value:+.3f}" for value in each),
                        "verdict": interval.verdict,
                    }
                )
    columns = [
        "after",
        "before",
        "measure",
        "split",
        "difference",
        "low",
        "high",
        "n",
        "seeds",
        "seeds_above",
    ]
    return pd.DataFrame(lines, columns=[*columns, "by_seed", "verdict"])


def main_table(tables: Tables, k: int = 8) -> pd.DataFrame:
    """Return one line per task and main arm: avg@k, best@k, gain, in the task's unit (v1 Table 1).

    avg@k is the mean over all trajectories; best@k the expected best of ``k`` of a seed's trajectories, mean
    over seeds. The best is picked on the report labels, as the paper's best@8 is.

    Args:
        tables: Of `load`.
        k: Trajectories that best@k picks from.
    """
    scales, lines = tables["tasks"].set_index("task"), []
    rows = tables["trajectories"]
    rows = rows[~rows["unscored"].astype(bool)]
    main = [arm.name for arm in ARMS if arm.group == "main"]
    for (policy, task), part in rows[rows["policy"].isin(main)].groupby(["policy", "task"], sort=True):
        scale = scales.loc[task]
        sign = 1.0 if scale["greater_is_better"] else -1.0
        seeds = [sign * own["score"].to_numpy() for _, own in part.groupby("seed") if len(own) >= k]
        best = [float(best_of(k)(values[None, :])[0]) for values in seeds]
        lines.append(
            {
                "task": task,
                "split": scale["split"],
                "paper_task": scale["paper_task"],
                "metric": scale["metric"],
                "greater_is_better": bool(scale["greater_is_better"]),
                "policy": policy,
                "init": scale["init"],
                "best_known": scale["best"],
                "avg": part["score"].mean(),
                "best": sign * np.mean(best) if best else np.nan,
                "gain_pct": part["gain_pct"].mean(),
                "n": len(part),
                "seeds": part["seed"].nunique(),
            }
        )
    names = ["task", "split", "paper_task", "metric", "greater_is_better", "policy", "init", "best_known"]
    return pd.DataFrame(lines, columns=[*names, "avg", "best", "gain_pct", "n", "seeds"])


def curve_table(tables: Tables, policies: Sequence[str]) -> pd.DataFrame:
    """Return the reward on states kept back against charged minutes and updates, for each arm and seed.

    Args:
        tables: Of `load`.
        policies: Arms.
    """
    found = tables["curves"]
    found = found[(found["split"] == "holdout") & found["policy"].isin(policies)]
    found = found.assign(minutes=found["charged"] / 60.0)
    labels = {name: get_arm(name).label for name in policies}
    names = ["policy", "label", "seed", "update", "minutes", "reward", "validity"]
    return found.assign(label=found["policy"].map(labels))[names].sort_values(names[:4], ignore_index=True)


def saturation_table(tables: Tables) -> pd.DataFrame:
    """Return what both rewards pay for the same edits: share of the gap, reward of v1, reward of v2.

    v2 pays the share itself (Eq. 6 of v2), v1 the sigmoid of 100 times it (Eq. 6 of v1).
    """
    found = tables["steps"]
    found = found[(found["outcome"] == "edited") & np.isfinite(found["share"])]
    v1 = [sigmoid(100.0 * share) for share in found["share"]]
    return pd.DataFrame(
        {"policy": found["policy"], "seed": found["seed"], "task": found["task"], "share": found["share"]}
    ).assign(v1=v1, v2=found["share"].to_numpy())


def saturation_summary(tables: Tables) -> dict[str, float]:
    """Return how coarse v1 is on the edits of all arms: n, share within 1 % of its ends, gains told apart.

    ``saturated`` is the fraction of edits with a v1 reward below 0.01 or above 0.99; ``pairs_lost`` the
    fraction of pairs of edits, different in their gain, that v1 pays within 0.01 of each other.
    """
    found = saturation_table(tables)
    if found.empty:
        return {"n": 0.0, "saturated": np.nan, "pairs_lost": np.nan}
    v1, share = found["v1"].to_numpy(), found["share"].to_numpy()
    generator = np.random.default_rng(0)
    first, second = generator.integers(len(v1), size=(2, 20_000))
    differ = np.abs(share[first] - share[second]) > 0.01
    lost = np.abs(v1[first] - v1[second])[differ] < 0.01
    return {
        "n": float(len(v1)),
        "saturated": float(((v1 < 0.01) | (v1 > 0.99)).mean()),
        "pairs_lost": float(lost.mean()) if lost.size else np.nan,
    }


def blame_summary(tables: Tables) -> pd.DataFrame:
    """Return for each arm how often an edit failed, how often only the coder was to blame, what it costs.

    The exact coder knows the catalogue's edits only; where it refuses, nothing can be said, and the step
    counts as it was. Columns: policy, edits, unknown (to the exact coder), failed, coder_refused, coder_wrong
    (failed with the model as coder, scored with the exact one), reward, exact_reward (the same replies with
    the exact coder), excused_reward (failures of the coder alone paid 0.5).
    """
    lines = []
    for policy, part in tables["blame"].groupby("policy", sort=False):
        failed = part["outcome"].isin(["error", "corner"])
        mended = part["exact_outcome"] == "edited"
        refused = part["reason"] == "coder"
        fault = failed & mended
        unknown = part["exact_reason"] == "coder"
        lines.append(
            {
                "policy": policy,
                "edits": len(part),
                "unknown": int(unknown.sum()),
                "failed": int(failed.sum()),
                "coder_refused": int((refused & mended).sum()),
                "coder_wrong": int((fault & ~refused).sum()),
                "reward": part["reward"].mean(),
                "exact_reward": part["exact_reward"].mask(unknown, part["reward"]).mean(),
                "excused_reward": part["reward"].mask(fault, 0.5).mean(),
                "seeds": part["seed"].nunique(),
            }
        )
    names = ["policy", "edits", "unknown", "failed", "coder_refused", "coder_wrong", "reward", "exact_reward"]
    return pd.DataFrame(lines, columns=[*names, "excused_reward", "seeds"])


def overfit_table(tables: Tables) -> pd.DataFrame:
    """Return for each arm the mean gap closed on the feedback labels (which pay) and on the report labels.

    Both of the same last submissions, bounded below at -1, with the interval of their difference.
    """
    lines = []
    rows = tables["trajectories"]
    for arm in ARMS:
        part = rows[(rows["policy"] == arm.name) & ~rows["unscored"].astype(bool)]
        if part.empty:
            continue
        part = part.assign(paid=part["gap_feedback"].clip(lower=BOUND), seen=part["gap"].clip(lower=BOUND))
        difference = bootstrap_mean(part.assign(value=part["paid"] - part["seen"]), "value")
        lines.append(
            {
                "policy": arm.name,
                "label": arm.label,
                "feedback": part.groupby("task")["paid"].mean().mean(),
                "report": part.groupby("task")["seen"].mean().mean(),
                "difference": difference.value,
                "low": difference.low,
                "high": difference.high,
                "n": difference.n,
                "seeds": difference.seeds,
            }
        )
    return pd.DataFrame(lines)


def search_table(tables: Tables) -> pd.DataFrame:
    """Return the gap closed by each way of spending executions, after some of them, with intervals."""
    lines = []
    rows = tables["searches"]
    if rows.empty:
        return pd.DataFrame(columns=["policy", "execution", "value", "low", "high", "n", "seeds"])
    rows = rows.assign(value=rows["gap"].clip(lower=BOUND))
    for policy, part in rows.groupby("policy", sort=False):
        wide = part.pivot_table(index=["seed", "task", "repeat"], columns="execution", values="value")
        wide = wide.ffill(axis=1)  # a search that ended early hands in what it had
        for execution in (column for column in wide.columns if column in SHOWN or column == wide.columns[-1]):
            own = wide[execution].reset_index(name="value")
            found = bootstrap_mean(own.dropna(), "value", draws=500)
            line = {"policy": policy, "execution": int(execution), "value": found.value}
            lines.append(line | {"low": found.low, "high": found.high, "n": found.n, "seeds": found.seeds})
    return pd.DataFrame(lines)


def diversity_by_arm(tables: Tables) -> pd.DataFrame:
    """Return for each arm which share of its edits is different, and the share of the commonest one."""
    found = tables["edits"].assign(different=lambda rows: rows["distinct"] / rows["edits"])
    grouped = found.groupby("policy", sort=False)
    return pd.DataFrame(
        {
            "different": grouped["different"].mean(),
            "low": grouped["different"].min(),
            "high": grouped["different"].max(),
            "commonest": grouped["share"].mean(),
            "edits": grouped["edits"].sum(),
            "seeds": grouped["seed"].nunique(),
        }
    ).reset_index()


def folder_of(results: str = "") -> Path:
    """Return the folder of the results: the committed one beside the package where none is named."""
    return Path(results) if results else Path(__file__).resolve().parents[2] / "figures" / PROFILE


def left_of(folder: Path | str) -> list[str]:
    """Return the units of the comparison that the committed results do not hold."""
    return list(manifest_of(folder).get("left", ()))


def status_table(folder: Path | str, tables: Tables) -> pd.DataFrame:
    """Return one line per arm: name, question, the paper's place, finished seeds, minutes, commit.

    Args:
        folder: With the manifest.
        tables: Of `load`.
    """
    units, manifest = tables["units"], manifest_of(folder)
    lines = []
    for arm in ARMS:
        own = units[(units["unit"] == f"arm-{arm.name}") & units["finished"].astype(bool)]
        made = [manifest["units"][f"seed{seed}/arm-{arm.name}"] for seed in own["seed"]]
        commits = {(row.get("git") or {}).get("commit", "")[:8] for row in made}
        lines.append(
            {
                "arm": arm.label,
                "question": arm.question,
                "paper": arm.paper,
                "seeds": len(own),
                "minutes a seed": own["wall_s"].mean() / 60.0,
                "commit": ", ".join(sorted(commits)),
            }
        )
    return pd.DataFrame(lines)


def side_by_side(rows: pd.DataFrame) -> pd.DataFrame:
    """Return avg@8 and best@8 as ``avg | best``, a line for each task and a column for each method.

    Args:
        rows: Columns task, metric, method, avg, best.

    Example:
        >>> rows = {"task": ["leaf"], "metric": ["logloss"], "method": ["sft"], "avg": [0.0784]}
        >>> side_by_side(pd.DataFrame(rows | {"best": [0.05]})).iloc[0].tolist()
        ['leaf', 'logloss', '0.0784 | 0.05']
    """
    text = [f"{row.avg:.5g} | {row.best:.5g}" for row in rows.itertuples()]
    wide = rows.assign(text=text).pivot_table(
        index=["task", "metric"], columns="method", values="text", aggfunc="first", sort=False
    )
    return wide.reset_index().rename_axis(columns=None)
