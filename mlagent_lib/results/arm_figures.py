"""The tables behind the figures of the comparison, from our arms and from the paper, and redrawing.

``build`` computes everything that is derived (tables, claims, figures) from the raw CSV of one folder, so
that a check can compute it again and compare byte for byte.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlagent_lib.core.arms import ARMS, arm_of
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import write_bytes
from mlagent_lib.results import plots_arms
from mlagent_lib.results.arms import (
    COMMAND,
    Tables,
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
from mlagent_lib.results.claims import PAIRS, TASK_COUNTS, claim_table
from mlagent_lib.results.evaluation import (
    best_at_k_table,
    difference_table,
    measured,
    named,
    overall_table,
    task_table,
)
from mlagent_lib.results.intervals import bootstrap_mean
from mlagent_lib.results.paper.numbers import gains, paper_table, rl_curve
from mlagent_lib.results.style import csv_bytes, read_table, save_figure, with_run

GAP, GAIN = "gap closed (0 starter, 1 best known)", "relative gain, %"
PAPER, OURS = "the paper", "ours"
MAIN = ("rl", "sft", "base")
FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    name: getattr(plots_arms, name) for name in plots_arms.__all__
}


def build(folder: Path | str, *, check: bool = False) -> list[str]:
    """Compute and draw everything from the raw tables of a folder; return the names of files that changed.

    Args:
        folder: With the raw tables and their manifest.
        check: Write nothing, only compare.

    Raises:
        RunError: A raw table is missing or not the manifest's.
    """
    folder = Path(folder)
    tables, manifest = load(folder), manifest_of(folder)
    changed = []
    derived = {
        "overall": overall_table(tables["trajectories"], tables["step_rewards"]),
        "differences": difference_table(tables["trajectories"], PAIRS, tables["step_rewards"]),
        "tasks": main_table(tables),
        "claims": claim_table(tables),
        "coder_blame": blame_summary(tables),
    }
    for name, table in derived.items():
        changed += _put(folder / f"{name}.csv", csv_bytes(table), check)
    hardware = sorted({unit.get("device", "") for unit in manifest["units"].values()})
    with tempfile.TemporaryDirectory() as scratch:
        for name, table in figure_tables(tables | {"means": derived["overall"]}, manifest).items():
            table = with_run(table, profile=manifest["profile"], hardware=" / ".join(hardware))
            stem = Path(scratch) / name
            write_bytes(stem.with_suffix(".csv"), csv_bytes(table))
            table = read_table(stem.with_suffix(".csv"))  # draw from what a reader will read
            for new in save_figure(FIGURES[name](table), table, stem):
                changed += _put(folder / new.name, new.read_bytes(), check)
    return changed


def draw(folder: Path | str, name: str) -> Figure | str:
    """Return a figure drawn from its CSV, or words that say that its arms were not run.

    Args:
        folder: With the CSV.
        name: One of `FIGURES`.
    """
    path = Path(folder) / f"{name}.csv"
    return FIGURES[name](read_table(path)) if path.is_file() else f"{name}: its arms were not run yet"


def _put(path: Path, content: bytes, check: bool) -> list[str]:
    """Write a file unless it is that already, or only say that it would change."""
    if path.is_file() and path.read_bytes() == content:
        return []
    if check and not path.is_file():
        raise RunError(
            f"{path} is missing", cure=f"run 'mlagent figures' to draw it, or '{COMMAND}' to make its results"
        )
    if not check:
        write_bytes(path, content)
    return [path.name]


def of(tables: Tables, names: Iterable[str]) -> pd.DataFrame:
    """Return the trajectories of these policies, named as in `evaluation.who`."""
    rows = tables["trajectories"]
    return rows[rows["who"].isin(names)]


def main_table(tables: Tables, k: int = 8) -> pd.DataFrame:
    """Return avg@k, best@k and gain of the main policies on every task, in its unit (v1 Table 1).

    Args:
        tables: Of `arms.load`.
        k: Trajectories of a seed that best@k picks from.
    """
    rows = of(tables, MAIN)
    return task_table(rows, k=k) if len(rows) else rows


def figure_tables(tables: Tables, manifest: dict) -> dict[str, pd.DataFrame]:
    """Return the table of each figure by name; a figure whose arms were not run is left out.

    Args:
        tables: Of `arms.load`, and ``means``: the `overall_table` of them.
        manifest: Of the same folder.
    """
    makers = {
        "pipeline": lambda: _pipeline(tables, manifest),
        "main_gains": lambda: _main_gains(tables),
        "gain_radar": lambda: _radar(tables),
        "gain_vs_time": lambda: _time(tables),
        "rl_starts": lambda: _starts(tables),
        "reward_parts": lambda: _parts(tables),
        "task_count": lambda: _task_count(tables),
        "best_at_k_pools": lambda: _best_at_k(tables),
        "diversity": lambda: _diversity(tables),
        "no_thought": lambda: _thought(tables),
        "arms_overview": lambda: _overview(tables),
        "saturation": lambda: _saturation(tables),
        "overfit": lambda: _overfit(tables),
        "search_cost": lambda: _search(tables),
        "pool_states": lambda: _pool(tables),
    }
    found = {name: maker() for name, maker in makers.items()}
    return {
        name: table for name, table in found.items() if len(table) and (name == "pipeline" or _ours(table))
    }


def _ours(table: pd.DataFrame) -> bool:
    return "seeds" not in table or bool((table["seeds"].fillna(0) > 0).any())


def _frame(rows: Iterable[dict]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(plots_arms.COLUMNS))


def _row(panel: str, series: str, label: str, value: float, unit: str, **more: object) -> dict:
    line = {"panel": panel, "series": series, "label": label, "x": np.nan, "value": value}
    return line | {"low": np.nan, "high": np.nan, "n": np.nan, "seeds": 0, "unit": unit} | more


def _mine(
    tables: Tables, arms: Iterable[str], measure: str, split: str, panel: str, series: str | None, unit: str
) -> list[dict]:
    """Return a row for each arm that was run."""
    rows = []
    column, stem, count = MEANS[measure]
    means = named(tables["means"])
    means = means[(means["split"] == split) & means[column].notna()].set_index("who")
    for name in arms:
        if name in means.index:
            found = means.loc[name]
            ends = {"low": found[f"{stem}_low"], "high": found[f"{stem}_high"]}
            ends |= {"n": int(found[count]), "seeds": found["seeds"]}
            rows.append(_row(panel, series or name, arm_of(name).label, found[column], unit, **ends))
    return rows


# column, stem of its ends and number of values of each measure in an `overall_table`
MEANS = {
    "gap": ("gap_closed", "gap", "trajectories"),
    "gain": ("gain_pct", "gain", "trajectories"),
    "reward": ("reward", "reward", "states"),
}


def _both_splits(tables: Tables, arms: Iterable[str]) -> list[dict]:
    arms = list(arms)
    return [
        row
        for split in ("held-in", "held-out")
        for row in _mine(tables, arms, "gap", split, f"{OURS}: gap closed", split, GAP)
    ]


def _paper_splits(labels: dict[str, str], **filters: object) -> list[dict]:
    """Return the paper's gains held-in and held-out, for each method under our label."""
    rows = []
    for split in ("held-in", "held-out"):
        found = paper_table("gain", split=split, **filters).set_index("method")["value"]
        for method, label in labels.items():
            if method in found.index:
                value = found[method] if np.isscalar(found[method]) else found[method].iloc[0]
                rows.append(_row(f"{PAPER}: gain", split, label, value, GAIN))
    return rows


def _pipeline(tables: Tables, manifest: dict) -> pd.DataFrame:
    units = tables["units"]
    done = units[units["finished"].astype(bool)]
    collected = done[done["unit"] == "collect-far-apart"]["trajectories"].sum()
    updates = tables["curves"].query("who == 'rl' and split == 'train'")
    scored = tables["trajectories"]
    count = f"{updates['seed'].nunique()} seeds × {updates['update'].max():.0f} updates:"
    count = count if len(updates) else "not run yet:"
    trained = f"{count}\n1 state → 8 actions → update"
    tried = f"{len(scored)} trajectories of\n{scored['who'].nunique()} arms on report labels"
    sft, rl = "exploration-enriched SFT", "step-wise RL"
    boxes = [
        (0, 0, "≥ 100 ideas a task", "three axes: data,\nmodel, learning", "far-apart ideas", "data"),
        (0, 1, "far-apart ideas", "farthest-point choice,\n1 to 3 in a trajectory", "expert", "data"),
        (
            0,
            2,
            "expert",
            f"{collected:.0f} trajectories,\nedits run and scored",
            f"{sft};state pool",
            "expert",
        ),
        (0, 3, "state pool", "states of the expert's\nedits", rl, "expert"),
        (1, 2, sft, "LoRA on the expert's turns,\nideas not in the prompt", rl, "sft"),
        (1, 3, rl, trained, "evaluation", "rl"),
        (1, 4, "agentic-ML reward", "0 · 0.5 · σ(100 Δ / gap)\non feedback labels", rl, "rl"),
        (2, 2, "arms", f"{len(ARMS)} arms, each with one\nchange", "evaluation", "update"),
        (2, 3, "evaluation", tried, "", "update"),
    ]
    return pd.DataFrame(boxes, columns=["row", "column", "title", "text", "into", "look"])


def _main_gains(tables: Tables) -> pd.DataFrame:
    rows = []
    paper = _paper_gains()
    for method in ("ML-Agent", "Qwen2.5-7B-Instruct"):
        for row in paper[paper["method"] == method].itertuples():
            rows.append(_row(f"{PAPER}: avg@8, v1 Table 1", method, _short(row.task), row.gain, GAIN))
    mine = measured(tables["trajectories"], "gain")
    for series in MAIN:
        own = mine[(mine["who"] == series) & np.isfinite(mine["value"])]
        for task, part in own.groupby("task", sort=True):
            found = bootstrap_mean(part, "value", draws=500)
            ends = {"low": found.low, "high": found.high, "n": found.n, "seeds": found.seeds}
            label = task.removeprefix("pocket-")
            rows.append(_row(f"{OURS}: avg@8, every pocket task", series, label, found.value, GAIN, **ends))
    table = _frame(rows)
    for column in ("value", "low", "high"):  # one ruined metric would flatten all others
        table[column] = table[column].clip(lower=-100.0)
    return table


def _paper_gains() -> pd.DataFrame:
    """Return the gains of v1 Table 1, on average over eight trajectories."""
    return gains().query("topic == 'main' and quantity == 'avg@8'")


def _short(task: str) -> str:
    """Return a short name of a Kaggle task.

    Example:
        >>> _short("feedback-prize-english-language-learning"), _short("leaf-classification")
        ('feedback', 'leaf')
    """
    return task.split("-")[0] if task != "us-patent-phrase-to-phrase-matching" else "us-patent"


def _radar(tables: Tables) -> pd.DataFrame:
    rows = []
    paper = _paper_gains()
    best = paper.groupby("task")["gain"].max()
    rows += [
        _row(PAPER, row.method, _short(row.task), max(row.gain / best[row.task], -1.0), "share of best")
        for row in paper.itertuples()
        if best[row.task] > 0
    ]
    mine = main_table(tables)
    for task, part in mine.groupby("task", sort=True):
        top = part["gain_pct"].max()
        for row in part.itertuples() if top > 0 else ():
            value = max(row.gain_pct / top, -1.0)
            rows.append(
                _row(
                    OURS,
                    row.policy,
                    task.removeprefix("pocket-"),
                    value,
                    "share of best",
                    n=row.n,
                    seeds=row.seeds,
                )
            )
    return _frame(rows)


def _time(tables: Tables) -> pd.DataFrame:
    rows = []
    for split, column in (("held-in", "held_in"), ("held-out", "held_out")):
        for method, series in (("step-wise RL", "step-wise"), ("episode-wise RL", "episode-wise")):
            for row in rl_curve(method).to_dict("records"):
                rows.append(_row(f"{PAPER}, {split}", series, method, row[column], GAIN, x=row["hours"]))
    curves = curve_table(tables, ("rl", "episode-wise", "episode-small"))
    for name, part in curves.groupby("who", sort=False):
        for _, own in part.groupby("update"):
            if own["seed"].nunique() < part["seed"].nunique():
                continue  # a mean over fewer seeds is another curve
            series = "step-wise" if name == "rl" else name
            ours, label = f"{OURS}: states kept back", arm_of(name).name
            rows.append(
                _row(ours, series, label, own["reward"].mean(), "mean step reward",
                     x=own["minutes"].mean(), low=own["reward"].min(), high=own["reward"].max(), n=len(own),
                     seeds=own["seed"].nunique())
            )  # fmt: skip
    return _frame(rows)


def _starts(tables: Tables) -> pd.DataFrame:
    labels = {
        "RL from ML-Agent-SFT": "full method",
        "RL from Qwen2.5-7B-Instruct": "RL from Instruct",
        "RL from Qwen2.5-7B": "RL from base",
    }
    rows = _paper_splits(labels, topic="rl-start", version="v2")
    arms = ("rl", "rl-from-base", "one-idea", "random-start", "sft", "base")
    return _frame([*rows, *_both_splits(tables, arms)])


def _parts(tables: Tables) -> pd.DataFrame:
    rows = []
    labels = {"full": "full method", "without performance": "without performance",
              "without format": "without format", "without corner": "without corner"}  # fmt: skip
    found = paper_table("gain", topic="reward", version="v2")
    for method, label in labels.items():
        own = found[found["method"] == method]
        for split, part in own[own["split"].isin(["held-in", "held-out"])].groupby("split"):
            title = f"{PAPER}: mean gain, v2 Table 3"
            rows.append(_row(title, split, label, part["value"].mean(), f"{GAIN} (3 and 5 tasks)"))
    arms = ("rl", "no-performance", "no-format", "no-corner", "reward-v2")
    return _frame([*rows, *_both_splits(tables, arms)])


def _task_count(tables: Tables) -> pd.DataFrame:
    rows = []
    for split in ("held-in", "held-out"):
        found = paper_table("gain", topic="task-count", split=split)
        rows += [_row(f"{PAPER}: gain", split, "", row.value, GAIN, x=row.x) for row in found.itertuples()]
    for split in ("held-in", "held-out"):
        for arm, count in TASK_COUNTS.items():
            for row in _mine(tables, (arm,), "gap", split, f"{OURS}: gap closed", split, GAP):
                rows.append(row | {"x": count})
    return _frame(rows)


def _best_at_k(tables: Tables) -> pd.DataFrame:
    rows = []
    for task in ("cifar-10", "us-patent-phrase-to-phrase-matching"):
        for row in paper_table("best@K", topic="data-size", task=task).itertuples():
            series = row.method.replace("RL on ", "").replace(" states", "")
            panel = f"{PAPER}: {_short(task)}"
            rows.append(_row(panel, series, "", row.value, f"best@K, {row.metric}", x=row.x))
    mine = named(best_at_k_table(of(tables, MAIN), draws=500)) if len(of(tables, MAIN)) else ()
    for series in MAIN if len(mine) else ():
        for row in mine[(mine["who"] == series) & (mine["split"] == "all")].itertuples():
            ends = {"low": row.low, "high": row.high, "n": row.n, "seeds": row.seeds}
            rows.append(_row(f"{OURS}: all tasks", series, "", row.value, GAP, x=row.k, **ends))
    return _frame(rows)


def _diversity(tables: Tables) -> pd.DataFrame:
    rows = []
    found = paper_table("order", topic="diversity")
    for row in found.itertuples():
        title = f"{PAPER}: different nouns of a verb"
        rows.append(_row(title, "data", row.item, row.value, "−1 Instruct, +1 after SFT"))
    mine = diversity_by_arm(tables).set_index("who")
    for name in ("base", "sft", "rl", "one-idea", "random-start", "mix-50"):
        if name in mine.index:
            row = mine.loc[name]
            ends = {
                "low": row["low"],
                "high": row["high"],
                "n": int(row["edits"]),
                "seeds": int(row["seeds"]),
            }
            title = f"{OURS}: different edits"
            rows.append(_row(title, "data", arm_of(name).label, row["different"], "share of edits", **ends))
    return _frame(rows)


def _thought(tables: Tables) -> pd.DataFrame:
    rows = []
    with_thought = paper_table("gain", topic="main", method="ML-Agent", version="v2")
    without = paper_table("gain", topic="thought", version="v2")
    tasks = set(without["task"]) & set(with_thought["task"])
    for label, found in (("with thought", with_thought), ("without thought", without)):
        found = found[found["task"].isin(tasks)]
        for split, part in found.groupby("split"):
            title = f"{PAPER}: mean gain, v2"
            rows.append(_row(title, split, label, part["value"].mean(), f"{GAIN} ({len(tasks)} tasks)"))
    return _frame([*rows, *_both_splits(tables, ("rl", "no-thought"))])


def _overview(tables: Tables) -> pd.DataFrame:
    return _rewards_and_gaps(tables, [arm.who for arm in ARMS])


def _rewards_and_gaps(tables: Tables, arms: Iterable[str]) -> pd.DataFrame:
    """Return the two panels that show arms alone: rewards of single steps, gaps closed by trajectories."""
    arms, steps, ends = list(arms), "single steps from test states", "trajectories, all tasks"
    rows = _mine(tables, arms, "reward", "held-in", f"{OURS}: {steps}", "rl", "mean reward (v1)")
    return _frame([*rows, *_mine(tables, arms, "gap", "all", f"{OURS}: {ends}", "rl", GAP)])


def _saturation(tables: Tables) -> pd.DataFrame:
    found = saturation_table(tables)
    summary = saturation_summary(tables)
    kept = found[found["who"].isin(["sft", "rl"])][["share", "v1", "v2"]]
    return kept.round(5).assign(saturated=summary["saturated"], pairs_lost=summary["pairs_lost"])


def _overfit(tables: Tables) -> pd.DataFrame:
    rows = []
    for row in overfit_table(tables).itertuples():
        n = {"n": row.n, "seeds": row.seeds}
        rows.append(
            _row("gap closed at the end", "feedback labels (paid)", row.label, row.feedback, GAP, **n)
        )
        rows.append(_row("gap closed at the end", "report labels", row.label, row.report, GAP, **n))
        ends = {"low": row.low, "high": row.high}
        rows.append(_row("difference", "difference", row.label, row.difference, "paid − report", **n, **ends))
    return _frame(rows)


def _search(tables: Tables) -> pd.DataFrame:
    return _frame(
        _row("held-in and held-out tasks", row.method, row.method, row.value, GAP,
             x=row.execution, low=row.low, high=row.high, n=row.n, seeds=row.seeds)
        for row in search_table(tables).itertuples()
    )  # fmt: skip


def _pool(tables: Tables) -> pd.DataFrame:
    return _rewards_and_gaps(tables, ("sft", "pool-36", "rl", "mix-25", "mix-50"))
