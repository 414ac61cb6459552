"""The tables behind the figures of the comparison, from our arms and from the paper.

``build`` computes everything that is derived (tables, claims, figures) from the raw CSV of one folder, so
that a check can compute it again and compare byte for byte.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from math import nan
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.core.arms import ARMS, PROFILE, arm_of
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.results.arms import (
    COMMAND,
    blame_summary,
    curve_table,
    diversity_by_arm,
    load,
    manifest_of,
    overfit_table,
    saturation_summary,
    saturation_table,
    search_table,
)
from mlagent_lib.results.claims import MADE_COUNTS, PAIRS, REWARD_PARTS, TASK_COUNTS, claim_table
from mlagent_lib.results.evaluation import (
    HELD,
    Tables,
    best_at_k_table,
    difference_table,
    measured,
    named,
    overall_table,
    task_table,
)
from mlagent_lib.results.figures import draw_files, put
from mlagent_lib.results.intervals import bootstrap_mean
from mlagent_lib.results.paper.numbers import gains, paper_table, rl_curve
from mlagent_lib.results.plots_arms import PANEL_COLUMNS
from mlagent_lib.results.style import GAP, csv_bytes, number, with_run
from mlagent_lib.results.tabled import Rows, tabled
from mlagent_lib.reward import IDLE, LOWEST

GAIN = "relative gain, %"
MOST_GAIN = 200.0  # ours: where the figure of gains is cut
PAPER, OURS = "the paper", "ours"
MAIN = ("rl", "sft", "base")
# column, stem of its ends and number of values of each measure in an `overall_table`
MEANS = {
    "gap": ("gap_closed", "gap", "trajectories"),
    "gain": ("gain_pct", "gain", "trajectories"),
    "reward": ("reward", "reward", "states"),
}
STARTS = {  # what RL starts from, as the paper and as we call it
    "RL from ML-Agent-SFT": "full method",
    "RL from Qwen2.5-7B-Instruct": "RL from Instruct",
    "RL from Qwen2.5-7B": "RL from base",
}
# what a reward form pays for an edit that works, in a few signs
_PAID = {
    "v1": "0 · 0.5 · σ(100 Δ / gap)",
    "v2": "Δ / gap",
    "gain": f"Δ / gap, from {number(LOWEST, 1)} to 1,\n{number(IDLE, 1)} for no change",
}


def build(folder: Path | str, *, check: bool = False) -> list[str]:
    """Compute and draw everything from the raw tables of a folder; return the names of files that changed.

    Args:
        folder: With the raw tables and their manifest.
        check: Write nothing, only compare.

    Raises:
        RunError: A raw table is missing or not the manifest's.
    """
    tables, manifest = load(folder), manifest_of(folder)
    derived = {
        "overall": overall_table(tables["trajectories"], tables["step_rewards"]),
        "differences": difference_table(tables["trajectories"], PAIRS, tables["step_rewards"]),
        "tasks": main_table(tables),
        "claims": claim_table(tables),
        "coder_blame": blame_summary(tables),
    }
    files = {f"{name}.csv": csv_bytes(table) for name, table in derived.items()}
    hardware = " / ".join(sorted({unit.get("device", "") for unit in manifest["units"].values()}))
    for name, table in figure_tables(tables | {"means": derived["overall"]}).items():
        files |= draw_files(name, with_run(table, profile=manifest["profile"], hardware=hardware))[1]
    return put(folder, files, check=check, command=COMMAND)


def figure_tables(tables: Tables) -> dict[str, pd.DataFrame]:
    """Return the table of each figure by name; a figure whose arms were not run is left out.

    Args:
        tables: Of `arms.load`, and ``means``: the `overall_table` of them.
    """
    found = {name: frame(tables, name) for name in MAKERS}
    return {name: table for name, table in found.items() if len(table) and _ours(table)}


def frame(tables: Tables, name: str) -> pd.DataFrame:
    """Return the table of one figure."""
    found = MAKERS[name](tables)
    return found if isinstance(found, pd.DataFrame) else pd.DataFrame(found, columns=list(PANEL_COLUMNS))


def _ours(table: pd.DataFrame) -> bool:
    return "seeds" not in table or bool((table["seeds"].fillna(0) > 0).any())


def trajectories_of(tables: Tables, names: Iterable[str]) -> pd.DataFrame:
    """Return the trajectories of these policies, named as in `evaluation.who`."""
    rows = tables["trajectories"]
    return rows[rows["who"].isin(names)]


def main_table(tables: Tables, k: int = 8) -> pd.DataFrame:
    """Return avg@k, best@k and gain of the main policies on every task, in its unit (v1 Table 1).

    ``k`` is the number of trajectories of a seed that best@k picks from.
    """
    rows = trajectories_of(tables, MAIN)
    return task_table(rows, k=k) if len(rows) else rows


def _cited(panel: str, series: str, label: str, value: float, unit: str, x: float = nan) -> tuple:
    """Return a row of the paper's."""
    return panel, series, label, x, value, nan, nan, nan, 0, unit


def _measured(panel: str, series: str, label: str, found, unit: str, x: float = nan) -> tuple:
    """Return a row of ours; ``found`` has value, low, high, n and seeds."""
    return panel, series, label, x, found.value, found.low, found.high, found.n, found.seeds, unit


def _means(
    tables: Tables, arms: Iterable[str], measure: str, split: str, panel: str, series: str, unit: str, x=nan
) -> Rows:
    """Yield a row for each arm that was run."""
    column, stem, count = MEANS[measure]
    means = named(tables["means"])
    means = means[(means["split"] == split) & means[column].notna()].astype({count: int})
    names = {column: "value", f"{stem}_low": "low", f"{stem}_high": "high", count: "n"}
    means = means.rename(columns=names).set_index("who")
    for row in means.loc[[arm for arm in arms if arm in means.index]].itertuples():
        yield _measured(panel, series, arm_of(row.Index).label, row, unit, x)


def _gaps(tables: Tables, arms: Iterable[str]) -> Rows:
    for split in HELD:
        yield from _means(tables, arms, "gap", split, f"{OURS}: gap closed", split, GAP)


@tabled("row", "column", "title", "text", "into", "look")
def _pipeline(tables: Tables) -> Rows:
    units, scored = tables["units"], tables["trajectories"]
    done = units[units["finished"].astype(bool)]
    collected = done[done["unit"] == "collect-far-apart"]["trajectories"].sum()
    updates = tables["curves"].query("who == 'rl' and split == 'train'")
    count = f"{updates['seed'].nunique()} seeds × {updates['update'].max():.0f} updates:"
    grpo = get_profile(PROFILE).grpo
    step = f"{grpo.states_per_step} states × {grpo.group_size} actions,\n{grpo.num_iterations} passes over"
    trained = f"{count if len(updates) else 'not run yet:'}\n{step}"
    ran = scored["who"].nunique()
    tried = f"{len(scored)} trajectories of\n{ran} arms on report labels"
    sft, rl = "exploration-enriched SFT", "step-wise RL"
    collection = f"{collected:.0f} trajectories,\nedits run and scored"
    yield from [
        (0, 0, "≥ 100 ideas a task", "three axes: data,\nmodel, learning", "far-apart ideas", "data"),
        (0, 1, "far-apart ideas", "farthest-point choice,\n1 to 3 in a trajectory", "expert", "data"),
        (0, 2, "expert", collection, f"{sft};state pool", "expert"),
        (0, 3, "state pool", "states of the expert's\nedits", rl, "expert"),
        (1, 2, sft, "LoRA on the expert's turns,\nideas not in the prompt", rl, "sft"),
        (1, 3, rl, trained, "evaluation", "rl"),
        (1, 4, "agentic-ML reward", f"{_PAID[grpo.reward_form]}\non feedback labels", rl, "rl"),
        (2, 2, "arms", f"{ran} of {len(ARMS)} arms, each\nwith one change", "evaluation", "update"),
        (2, 3, "evaluation", tried, "", "update"),
    ]


def _main_gains(tables: Tables) -> pd.DataFrame:
    rows, paper = [], _paper_gains()
    for method in ("ML-Agent", "Qwen2.5-7B-Instruct"):
        for row in paper[paper["method"] == method].itertuples():
            rows.append(_cited(f"{PAPER}: avg@8, v1 Table 1", method, _short(row.task), row.gain, GAIN))
    mine = measured(tables["trajectories"], "gain")
    panel = f"{OURS}: avg@8 of each task, cut at {MOST_GAIN:.0f} %"
    for series in MAIN:
        own = mine[(mine["who"] == series) & np.isfinite(mine["value"])]
        for task, part in own.groupby("task", sort=True):
            found = bootstrap_mean(part, "value", draws=500)
            rows.append(_measured(panel, series, _short(task), found, GAIN))
    table = pd.DataFrame(rows, columns=list(PANEL_COLUMNS))
    ends = ["value", "low", "high"]
    # one ruined metric, or one weak starter, would flatten all others
    return table.assign(**table[ends].clip(-100.0, MOST_GAIN))


def _paper_gains() -> pd.DataFrame:
    """Return the gains of v1 Table 1, on average over eight trajectories."""
    return gains().query("topic == 'main' and quantity == 'avg@8'")


def _short(task: str) -> str:
    """Return a short name of a pocket task or of a Kaggle task.

    Example:
        >>> [_short(task) for task in ("pocket-fruit", "leaf-classification", "us-patent-phrase-matching")]
        ['fruit', 'leaf', 'us-patent']
    """
    if task.startswith("pocket-"):
        return task.removeprefix("pocket-")
    return "us-patent" if task.startswith("us-patent-") else task.split("-")[0]


def _gain_radar(tables: Tables) -> Rows:
    paper, unit = _paper_gains(), "share of best"
    best = paper.groupby("task")["gain"].max()
    for row in paper.itertuples():
        if best[row.task] > 0:
            yield _cited(PAPER, row.method, _short(row.task), max(row.gain / best[row.task], -1.0), unit)
    for task, part in main_table(tables).groupby("task", sort=True):
        top = part["gain_pct"].max()
        for row in part.itertuples() if top > 0 else ():
            value = max(row.gain_pct / top, -1.0)
            yield OURS, row.policy, _short(task), nan, value, nan, nan, row.n, row.seeds, unit


def _gain_vs_time(tables: Tables) -> Rows:
    for split, column in (("held-in", "held_in"), ("held-out", "held_out")):
        for method, series in (("step-wise RL", "step-wise"), ("episode-wise RL", "episode-wise")):
            for row in rl_curve(method).to_dict("records"):
                yield _cited(f"{PAPER}, {split}", series, method, row[column], GAIN, row["hours"])
    panel, unit = f"{OURS}: states kept back", "mean step reward"
    for name, part in curve_table(tables, ("rl", "episode-wise", "episode-small")).groupby("who", sort=False):
        series, label = "step-wise" if name == "rl" else name, arm_of(name).name
        for _, own in part.groupby("update"):
            seeds, reward = own["seed"].nunique(), own["reward"]
            if seeds < part["seed"].nunique():
                continue  # a mean over fewer seeds is another curve
            found = (own["minutes"].mean(), reward.mean(), reward.min(), reward.max(), len(own), seeds)
            yield panel, series, label, *found, unit


def _rl_starts(tables: Tables) -> Rows:
    for split in HELD:
        found = paper_table("gain", split=split, topic="rl-start", version="v2").set_index("method")["value"]
        for method, label in STARTS.items():
            yield _cited(f"{PAPER}: gain", split, label, found[method], GAIN)
    yield from _gaps(tables, ("rl", "rl-from-base", "one-idea", "random-start", "sft", "base"))


def _reward_parts(tables: Tables) -> Rows:
    found = paper_table("gain", topic="reward", version="v2", split=list(HELD))
    for method in ("full", "without performance", "without format", "without corner"):
        label = "full method" if method == "full" else method
        for split, part in found[found["method"] == method].groupby("split"):
            value, unit = part["value"].mean(), f"{GAIN} (3 and 5 tasks)"
            yield _cited(f"{PAPER}: mean gain, v2 Table 3", split, label, value, unit)
    yield from _gaps(tables, ("rl", *REWARD_PARTS, "reward-v1", "reward-v2", "max-2"))


_POOLS = ("sft", "pool-36", "mix-0", "rl", "mix-50", "mix-75", "variance")


def _task_count(tables: Tables) -> Rows:
    for split in HELD:
        for row in paper_table("gain", topic="task-count", split=split).itertuples():
            yield _cited(f"{PAPER}: gain", split, "", row.value, GAIN, row.x)
    counted = ((f"{OURS}: gap closed", TASK_COUNTS), (f"{OURS}: gap closed, generated tasks", MADE_COUNTS))
    for split, (panel, counts) in product(HELD, counted):
        for arm, count in counts.items():
            yield from _means(tables, (arm,), "gap", split, panel, split, GAP, count)


def _best_at_k_pools(tables: Tables) -> Rows:
    for task in ("cifar-10", "us-patent-phrase-to-phrase-matching"):
        for row in paper_table("best@K", topic="data-size", task=task).itertuples():
            series = row.method.replace("RL on ", "").replace(" states", "")
            yield _cited(f"{PAPER}: {_short(task)}", series, "", row.value, f"best@K, {row.metric}", row.x)
    mine = trajectories_of(tables, MAIN)
    mine = named(best_at_k_table(mine, draws=500)).query("split == 'all'") if len(mine) else ()
    for series in MAIN if len(mine) else ():
        for row in mine[mine["who"] == series].itertuples():
            yield _measured(f"{OURS}: all tasks", series, "", row, GAP, row.k)


def _diversity(tables: Tables) -> Rows:
    for row in paper_table("order", topic="diversity").itertuples():
        unit = "−1 Instruct, +1 after SFT"
        yield _cited(f"{PAPER}: different nouns of a verb", "data", row.item, row.value, unit)
    mine = diversity_by_arm(tables).rename(columns={"different": "value", "edits": "n"}).set_index("who")
    wanted = ("base", "sft", "rl", "one-idea", "random-start", "mix-50")
    for row in mine.loc[[name for name in wanted if name in mine.index]].itertuples():
        yield _measured(f"{OURS}: different edits", "data", arm_of(row.Index).label, row, "share of edits")


def _no_thought(tables: Tables) -> Rows:
    with_thought = paper_table("gain", topic="main", method="ML-Agent", version="v2")
    without = paper_table("gain", topic="thought", version="v2")
    tasks = set(without["task"]) & set(with_thought["task"])
    for label, found in (("with thought", with_thought), ("without thought", without)):
        for split, part in found[found["task"].isin(tasks)].groupby("split"):
            value, unit = part["value"].mean(), f"{GAIN} ({len(tasks)} tasks)"
            yield _cited(f"{PAPER}: mean gain, v2", split, label, value, unit)
    yield from _gaps(tables, ("rl", "no-thought"))


def _rewards_and_gaps(tables: Tables, arms: Iterable[str]) -> Rows:
    """Yield the two panels that show arms alone: rewards of single steps, gaps closed by trajectories."""
    steps, ends = f"{OURS}: single steps from test states", f"{OURS}: trajectories, all tasks"
    yield from _means(tables, arms, "reward", "held-in", steps, "rl", "mean reward (v1)")
    yield from _means(tables, arms, "gap", "all", ends, "rl", GAP)


def _saturation(tables: Tables) -> pd.DataFrame:
    found, summary = saturation_table(tables), saturation_summary(tables)
    ends = {name: summary[name] for name in ("saturated", "pairs_lost")}
    return found[["share", "v1", "v2"]].round(5).assign(**ends)


def _overfit(tables: Tables) -> Rows:
    panel, kinds = "gap closed at the end", {"feedback": "feedback labels (paid)", "report": "report labels"}
    for row in overfit_table(tables).itertuples():
        for column, series in kinds.items():
            yield panel, series, row.label, nan, getattr(row, column), nan, nan, row.n, row.seeds, GAP
        ends = (row.difference, row.low, row.high, row.n, row.seeds)
        yield "difference", "difference", row.label, nan, *ends, "paid − report"


def _search_cost(tables: Tables) -> Rows:
    for row in search_table(tables).itertuples():
        yield _measured("held-in and held-out tasks", row.method, row.method, row, GAP, row.execution)


MAKERS = {
    "pipeline": _pipeline,
    "main_gains": _main_gains,
    "gain_radar": _gain_radar,
    "gain_vs_time": _gain_vs_time,
    "rl_starts": _rl_starts,
    "reward_parts": _reward_parts,
    "task_count": _task_count,
    "best_at_k_pools": _best_at_k_pools,
    "diversity": _diversity,
    "no_thought": _no_thought,
    "arms_overview": lambda tables: _rewards_and_gaps(tables, [arm.who for arm in ARMS]),
    "saturation": _saturation,
    "overfit": _overfit,
    "search_cost": _search_cost,
    "pool_states": lambda tables: _rewards_and_gaps(tables, _POOLS),
}
