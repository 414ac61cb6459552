"""The arms of the comparison, from their committed tables: what is computed for arms alone.

Everything here is computed from the CSV of one folder, which a manifest pins byte by byte. Means, intervals
and differences are those of a run: see `mlagent_lib.results.evaluation`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.core.arms import ARMS, PROFILE, arm_of
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import sha256_file
from mlagent_lib.core.parameters import checked
from mlagent_lib.results.evaluation import BOUND, SCALE_COLUMNS, Tables, named
from mlagent_lib.results.intervals import bootstrap_mean
from mlagent_lib.results.tabled import Rows, tabled
from mlagent_lib.reward import sigmoid

RAW = ("scales", "trajectories", "step_rewards", "curves", "edits", "blame", "luck", "searches", "units")
BY_ARM = ("trajectories", "step_rewards", "curves", "edits", "blame", "luck")  # with columns arm and policy
COMMAND = f"mlagent run --profile {PROFILE}"
SHOWN = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24)  # executions of a search at which intervals are computed


def load(folder: Path | str) -> dict[str, pd.DataFrame]:
    """Return the raw tables of a folder such as ``figures/ablations`` by name, checked against its manifest.

    Raises:
        RunError: A file is missing, or is not the one that the manifest was written for.
    """
    folder, tables = Path(folder), {}
    again = f"restore it from git, or make it with '{COMMAND}'"
    try:
        sums = dict(manifest_of(folder)["files"])
    except (FileNotFoundError, ValueError, LookupError, TypeError) as error:
        raise RunError(f"{folder / 'manifest.json'} is missing or damaged: {error}", cure=again) from error
    for name in RAW:
        path = folder / f"{name}.csv"
        if not path.is_file():
            raise RunError(f"{path} is missing", cure=again)
        if sha256_file(path) != sums.get(path.name):
            cure = f"restore both from git, or make them with '{COMMAND}'"
            raise RunError(f"{path} is not the file that manifest.json was written for", cure=cure)
        tables[name] = named(pd.read_csv(path)) if name in BY_ARM else pd.read_csv(path)
    scales = tables["scales"][[*SCALE_COLUMNS]].drop(columns="split")
    tables["trajectories"] = tables["trajectories"].merge(scales, on="task", how="left", validate="m:1")
    return tables


def manifest_of(folder: Path | str) -> dict:
    """Return the manifest of a folder of results."""
    return json.loads((Path(folder) / "manifest.json").read_text(encoding="utf-8"))


def curve_table(tables: Tables, policies: Sequence[str]) -> pd.DataFrame:
    """Return the reward on states kept back against charged minutes and updates, for each arm and seed."""
    found = tables["curves"]
    found = found[(found["split"] == "holdout") & found["who"].isin(policies)]
    found = found.assign(minutes=found["charged"] / 60.0)
    labels = {name: arm_of(name).label for name in policies}
    names = ["who", "label", "seed", "update", "minutes", "reward", "validity"]
    return found.assign(label=found["who"].map(labels))[names].sort_values(names[:4], ignore_index=True)


def saturation_table(tables: Tables) -> pd.DataFrame:
    """Return what both rewards pay for the same edits, made or taken back, after SFT and after RL.

    Columns who, seed, task, share (of the gap), v1, v2: v2 pays the share itself (Eq. 6 of v2), v1 the
    sigmoid of 100 times it (Eq. 6 of v1).
    """
    found = tables["step_rewards"]
    kept = (found["outcome"] == "edited") & found["who"].isin(["sft", "rl"])
    found = found[kept & np.isfinite(found["share"])]
    v1 = [sigmoid(100.0 * share) for share in found["share"]]
    return found[["who", "seed", "task", "share"]].assign(v1=v1, v2=found["share"])


def saturation_summary(tables: Tables) -> dict[str, float]:
    """Return how coarse v1 is on edits after SFT and RL: n, share within 1 % of its ends, gains told apart.

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
    saturated = float(((v1 < 0.01) | (v1 > 0.99)).mean())
    pairs_lost = float(lost.mean()) if lost.size else np.nan
    return {"n": float(len(v1)), "saturated": saturated, "pairs_lost": pairs_lost}


@tabled(
    *("who", "edits", "unknown", "failed", "coder_refused", "coder_wrong", "reward", "exact_reward"),
    *("excused_reward", "seeds"),
)
def blame_summary(tables: Tables) -> Rows:
    """Return for each arm how often an edit failed, how often only the coder was to blame, what it costs.

    The exact coder knows the catalogue's edits only; where it refuses, nothing can be said, and the step
    counts as it was. Columns: who, edits, unknown (to the exact coder), failed, coder_refused, coder_wrong
    (failed with the model as coder, scored with the exact one), reward, exact_reward (the same replies with
    the exact coder), excused_reward (failures of the coder alone paid 0.5), seeds.
    """
    for name, part in tables["blame"].groupby("who", sort=False):
        reward, failed = part["reward"], part["outcome"].isin(["error", "corner"])
        unknown, refused = part["exact_reason"] == "coder", part["reason"] == "coder"
        mended = part["exact_outcome"] == "edited"
        fault = failed & mended
        counts = (len(part), *map(int, map(sum, (unknown, failed, refused & mended, fault & ~refused))))
        rewards = (reward, part["exact_reward"].mask(unknown, reward), reward.mask(fault, 0.5))
        yield name, *counts, *(values.mean() for values in rewards), part["seed"].nunique()


@tabled("who", "label", "feedback", "report", "difference", "low", "high", "n", "seeds")
def overfit_table(tables: Tables) -> Rows:
    """Return for each arm the mean gap closed on the feedback labels (which pay) and on the report labels.

    Both of the same last submissions, bounded below, with the interval of their difference.
    """
    rows = tables["trajectories"]
    for arm in ARMS:
        part = rows[(rows["who"] == arm.who) & ~rows["unscored"].astype(bool)]
        if part.empty:
            continue
        paid, seen = (part[f"gap_closed{on}"].clip(lower=BOUND) for on in ("_on_feedback", ""))
        means = (values.groupby(part["task"]).mean().mean() for values in (paid, seen))
        at = bootstrap_mean(part.assign(value=paid - seen), "value")
        yield arm.who, arm.label, *means, at.value, at.low, at.high, at.n, at.seeds


@tabled("method", "execution", "value", "low", "high", "n", "seeds")
def search_table(tables: Tables) -> Rows:
    """Return the gap closed by each way of spending executions, after some of them, with intervals."""
    rows = tables["searches"]
    for method, part in rows.assign(value=rows["gap"].clip(lower=BOUND)).groupby("method", sort=False):
        wide = part.pivot_table(index=["seed", "task", "repeat"], columns="execution", values="value")
        wide = wide.ffill(axis=1)  # a search that ended early hands in what it had
        for execution in (column for column in wide if column in SHOWN or column == wide.columns[-1]):
            at = bootstrap_mean(wide[execution].reset_index(name="value").dropna(), "value", draws=500)
            yield method, int(execution), at.value, at.low, at.high, at.n, at.seeds


def diversity_by_arm(tables: Tables) -> pd.DataFrame:
    """Return for each arm which share of its edits is different, and the share of the commonest one."""
    found = tables["edits"].assign(different=lambda rows: rows["distinct"] / rows["edits"])
    ends = {"different": "mean", "low": "min", "high": "max"}
    shares = {name: ("different", how) for name, how in ends.items()}
    counts = {"commonest": ("share", "mean"), "edits": ("edits", "sum"), "seeds": ("seed", "nunique")}
    return found.groupby("who", sort=False).agg(**shares, **counts).reset_index()


def folder_of(results: str = "") -> Path:
    """Return the folder of the results: the committed one beside the package where none is named.

    Raises:
        ProfileError: It is no text.
    """
    results = checked("results", results)
    return Path(results) if results else Path(__file__).resolve().parents[2] / "figures" / PROFILE


def left_of(folder: Path | str) -> list[str]:
    """Return the units of the comparison that the committed results do not hold."""
    return list(manifest_of(folder).get("left", ()))


def origin_lines(manifest: Mapping) -> list[str]:
    """Return in words which units stay from earlier results; nothing where none do.

    Example:
        >>> again = {"seed0/arm-full": {"before": 0.374, "now": 0.371}}
        >>> origin_lines({"kept": ["seed0/arm-sft"], "other_start": ["seed0/arm-sft"], "made_again": again})
        ... # doctest: +NORMALIZE_WHITESPACE
        ['1 units stay from earlier results, of which 1 started from files that were made again since, with
          other bytes', '1 arms were made again: their gap closed differs from before by 0.003 at most']
    """
    kept, other, again = (manifest.get(name, ()) for name in ("kept", "other_start", "made_again"))
    lines = [f"{len(kept)} units stay from earlier results"] if kept else []
    if other:
        lines[0] += f", of which {len(other)} started from files that were made again since, with other bytes"
    if again:
        most = max(abs(row["now"] - row["before"]) for row in again.values())
        lines.append(
            f"{len(again)} arms were made again: their gap closed differs from before by {most:.3f} at most"
        )
    return lines


@tabled("arm", "question", "paper", "seeds", "minutes a seed", "commit")
def status_table(folder: Path | str, tables: Tables) -> Rows:
    """Return one line per arm: name, question, the paper's place, finished seeds, minutes, commit."""
    units, manifest = tables["units"], manifest_of(folder)
    for arm in ARMS:
        own = units[(units["unit"] == f"arm-{arm.name}") & units["finished"].astype(bool)]
        made = [manifest["units"][f"seed{seed}/arm-{arm.name}"] for seed in own["seed"]]
        commits = ", ".join(sorted({(row.get("git") or {}).get("commit", "")[:8] for row in made}))
        yield arm.label, arm.question, arm.paper, len(own), own["wall_s"].mean() / 60.0, commits


def side_by_side(rows: pd.DataFrame) -> pd.DataFrame:
    """Return avg@8 and best@8 as ``avg | best``, a line for each task and a column for each method.

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
