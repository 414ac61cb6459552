"""Figures of runs: learning, policies, reading, tasks, steps, ideas, minutes. A table in, a figure out.

All are `WIDTH` inches wide, with panels below each other: a telephone shows them at full width, and the words
stay legible.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

import numpy as np
import pandas as pd
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mlagent_lib.results.evaluation import KEPT
from mlagent_lib.results.steps import OUTCOMES
from mlagent_lib.results.style import GAP, INK, MUTED, Look, drawn, footer, look, note, number, ordered, span

WIDTH = 4.8  # inches: 9 points are 9 pixels on a screen of 400
SPLIT_TITLES = {"held-in": "held-in tasks", "held-out": "held-out tasks", "other": "other tasks"}
CURVES = {  # column, title and label of each panel of the learning curve
    "reward": ("Mean reward of a step", "reward"),
    "validity": ("Valid actions", "share of sampled actions"),
    "kl": ("Drift from the SFT policy", "KL (nats per token)"),
}
WORSE = (0, (2, 1.5))  # line style of a task that lost


def _interval_note(df: pd.DataFrame) -> str:
    level = df["level"].dropna() if "level" in df else pd.Series(dtype=float)
    percent = f"{100 * level.iloc[0]:.0f} % " if len(level) else ""
    seeds = int(df["seeds"].max()) if "seeds" in df else 1
    several = f" and {seeds} seeds" if seeds > 1 else " of one seed"
    return f"{percent}bootstrap interval over trajectories{several}"


def _split_panels(figure: Figure, df: pd.DataFrame, **share) -> Iterator[tuple]:
    """Yield an axis with its rows for each split of the table."""
    splits = [name for name in SPLIT_TITLES if name in set(df["split"])]
    axes = figure.subplots(len(splits), 1, squeeze=False, **share)[:, 0]
    for axis, split in zip(axes, splits, strict=True):
        part = df[df["split"] == split]
        axis.set_title(f"{SPLIT_TITLES[split]} ({span(part['tasks'])})")
        yield axis, part


def _banded(axis, part: pd.DataFrame, x: str, policies: Iterable[str], without: Collection[str] = ()) -> None:
    """Draw the value over x with its band for each policy, but for those ``without`` one, and a line at 0."""
    for policy in policies:
        run, at = part[part["policy"] == policy].sort_values(x), look(policy)
        if policy not in without:
            axis.fill_between(run[x], run["low"], run["high"], color=at.colour, alpha=0.13, lw=0)
        line = at.stroke | {"marker": at.marker.strip("|"), "mec": INK, "mew": 0.5}
        axis.plot(run[x], run["value"], **line)
    axis.axhline(0, color=MUTED, lw=1, zorder=0)


def _stack(axis, widths: pd.DataFrame, names: list[str]) -> pd.Series:
    """Draw a bar for each row, with a piece for each column, and return where the bars end."""
    left = pd.Series(0.0, index=widths.index)
    for key in widths:
        at, size = look(key), widths[key]
        piece = {"color": at.colour, "hatch": at.hatch, "ec": INK, "label": at.label}
        axis.barh(range(len(left)), size, 0.68, left=left, **piece)
        left = left + size
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    return left


@drawn("seed", "split", "step", "reward", "validity", "kl")
def learning_curve(figure: Figure, df: pd.DataFrame) -> None:
    """Draw mean step reward, validity and KL over GRPO steps: thin per seed, thick mean, diamonds held out.

    Columns: seed, split (``train`` or ``holdout``), step, reward, validity (fraction), kl.
    """
    sides = (
        ("train", look("rl").colour, "", "-", "training states"),
        ("holdout", look("sft").colour, "D", (0, (5, 2)), "states not trained on"),
    )
    figure.set_size_inches(WIDTH, 6.6)
    axes = figure.subplots(3, 1, sharex=True)
    for axis, (column, (title, label)) in zip(axes, CURVES.items(), strict=True):
        for split, colour, marker, line, name in sides:
            part = df[(df["split"] == split) & df[column].notna()]
            if part.empty:
                continue
            for _, run in part.groupby("seed") if part["seed"].nunique() > 1 else ():
                axis.plot(run["step"], run[column], color=colour, lw=0.7, alpha=0.55)
            mean = part.groupby("step")[column].mean()
            axis.plot(mean.index, mean, color=colour, marker=marker, ms=4.5, ls=line, lw=2.2, label=name)
        axis.set(title=title, ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[1].set_ylim(-0.02, 1.02)
    axes[2].set(xlabel="update step", ylim=(0, None))
    axes[0].legend(loc="best")
    seeds = df["seed"].nunique()
    footer(figure, df, f"{seeds} seeds: thin lines each, thick line their mean" if seeds > 1 else "one seed")


@drawn("policy", "split", "gap_closed", "gap_low", "gap_high", "tasks", "trajectories")
def gap_by_policy(figure: Figure, df: pd.DataFrame) -> None:
    """Draw the gap closed by each policy: by the last submission, and hollow by the best on validation.

    Columns (an `overall_table`): policy, split, gap_closed, gap_low, gap_high, tasks, trajectories, seeds,
    level; gap_kept, kept_low, kept_high where they are known.
    """
    df = df[df["split"].isin(list(SPLIT_TITLES))]
    policies = ordered(df[~df["policy"].isin(KEPT.values())]["policy"])[::-1]  # the lower mark says it
    figure.set_size_inches(WIDTH, 1.6 + 0.8 * len(policies))
    for axis, part in _split_panels(figure, df, sharex=True, sharey=True):
        rows = part.set_index("policy")
        for y, policy in enumerate(policies):
            if policy in rows.index:
                _gap(axis, y, rows.loc[policy], look(policy))
        axis.axvline(0, color=MUTED, lw=1, zorder=0)
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.14)
        axis.set_xlabel(GAP, loc="right")
    first = figure.axes[0]
    first.set_yticks(np.arange(len(policies)) - 0.15, [look(policy).label for policy in policies])
    first.set_ylim(-0.7, len(policies) - 0.5)
    for name, fill in (("upper: last submission", INK), ("lower: best by validation", "white")):
        first.plot([], [], marker="o", ls="", mec=INK, mfc=fill, label=name)
    figure.legend(loc="outside upper right", ncols=2)
    footer(figure, df, f"n = {span(df['trajectories'])} trajectories per point", _interval_note(df))


def _gap(axis, y: int, row: pd.Series, at: Look) -> None:
    """Draw both ways to hand in: the last submission, and hollow below it the best by validation."""
    ways = (("gap", "gap_closed", 0.0, at.colour), ("kept", "gap_kept", 0.3, "white"))
    for stem, place, below, fill in ways:
        value, high = row.get(place, np.nan), row.get(f"{stem}_high", np.nan)
        if np.isnan(value):
            continue
        ends = [[value - row[f"{stem}_low"]], [high - value]]
        ends = None if np.isnan(ends).any() else ends
        edge = 1.6 if at.marker in "|x+" or below else 0.6
        mark = at.mark | {"mfc": fill, "mec": at.colour if below else INK, "mew": edge}
        axis.errorbar([value], [y - below], xerr=ends, **mark, ms=7, capsize=3, elinewidth=1.4)
        note(axis, number(value), (high if ends else value, y - below), fontsize=9, color=INK)


@drawn("task", "split", "before_policy", "after_policy", "before", "after", "n_before", "n_after")
def before_after(figure: Figure, df: pd.DataFrame) -> None:
    """Draw one line per task from the policy before to the policy after, on the share of the gap closed.

    Columns (a `before_after_table`): task, split, before_policy, after_policy, before, after, n_before,
    n_after. Beyond −1 and 1.3 a point is drawn at the edge and its value written there.
    """
    rows = df.sort_values(["split", "after", "task"], ascending=[False, True, True])
    parts = [part for _, part in rows.groupby("split")][::-1]  # held-in on top: drawn last
    before, after = (look(df[f"{side}_policy"].iloc[0]) for side in ("before", "after"))
    hollow = {"marker": before.marker, "mfc": "white", "mec": before.colour, "mew": 1.5, "ls": ""}
    figure.set_size_inches(WIDTH, 1.6 + 0.27 * (len(df) + len(parts)))
    axis = figure.subplots()
    y, ticks = 0, {}
    for part in parts:
        for row in part.itertuples():
            _change(axis, y, row, after, hollow)
            ticks[y] = row.task
            y += 1
        title = SPLIT_TITLES[part["split"].iloc[0]]
        head = {"fontweight": "bold", "fontsize": 9, "va": "center"}
        axis.text(0.008, y - 0.15, title, transform=axis.get_yaxis_transform(), **head)
        y += 1
    axis.set_yticks(list(ticks), ticks.values())
    axis.set_ylim(-0.7, y - 0.4)
    axis.axvline(0, color=MUTED, lw=1, zorder=0)
    axis.axvline(1, color=MUTED, lw=1, ls=(0, (1, 2)), zorder=0)
    axis.grid(axis="y", visible=False)
    axis.set_xlabel(GAP)
    axis.plot([], [], label=before.label, **hollow)
    axis.plot([], [], **after.mark, mec=INK, mew=0.5, label=f"{after.label}: better")
    axis.plot([], [], color=MUTED, ls=WORSE, label="worse")
    figure.legend(loc="outside upper right", ncols=3)
    runs = pd.concat([df["n_before"], df["n_after"]])
    footer(figure, df, f"mean of n = {span(runs)} trajectories per task and policy")


def _change(axis, y: int, row, after: Look, hollow: dict) -> None:
    ends = np.clip([row.before, row.after], -1.0, 1.3)
    colour, line = (after.colour, "-") if row.after >= row.before else (MUTED, WORSE)
    axis.plot(ends, [y, y], color=colour, lw=2.2, ls=line, zorder=2)
    axis.plot(ends[0], y, ms=6.5, zorder=3, **hollow)
    axis.plot(ends[1], y, marker=after.marker, mfc=after.colour, mec=INK, mew=0.5, ms=7.5, ls="", zorder=4)
    for value, end in zip((row.before, row.after), ends, strict=True):
        if value != end:
            shift, side = (8, "left") if end < 0 else (-8, "right")
            line = {"xytext": (shift, 5), "textcoords": "offset points", "ha": side, "fontsize": 7.5}
            axis.annotate(number(value, 1), (end, y), **line)


@drawn("policy", "outcome", "share", "n", "unscored")
def outcome_shares(figure: Figure, df: pd.DataFrame) -> None:
    """Draw what became of the steps of each policy, as shares of the scored steps.

    Columns (an `outcome_table`): policy, outcome, share, n, unscored.
    """
    policies = ordered(df["policy"])
    table = df.pivot_table(index="policy", columns="outcome", values="share", fill_value=0.0)
    counts = df.drop_duplicates("policy").set_index("policy")
    figure.set_size_inches(WIDTH, 1.9 + 0.38 * len(policies))
    axis = figure.subplots()
    widths = 100 * table.loc[policies, [name for name in OUTCOMES if name in table]]
    _stack(axis, widths, [f"{look(p).label}\n(n = {int(counts.loc[p, 'n'])})" for p in policies])
    axis.set(xlim=(0, 100), xlabel="percent of the scored steps")
    figure.legend(loc="outside upper right", ncols=2)
    footer(figure, df, "n: scored steps", f"{int(counts['unscored'].sum())} unscored steps left out")


@drawn("policy", "split", "k", "value", "low", "high", "tasks")
def best_at_k(figure: Figure, df: pd.DataFrame) -> None:
    """Draw the expected best of k trajectories over k, per policy, held-in above held-out.

    Columns (a `best_at_k_table`): policy, split, k, value, low, high, tasks, seeds.
    """
    figure.set_size_inches(WIDTH, 1.6 + 2.3 * len(set(df["split"]) & set(SPLIT_TITLES)))
    handles = {}
    for axis, part in _split_panels(figure, df, sharey=True):
        _banded(axis, part, "k", ordered(part["policy"]))
        axis.set(xticks=sorted(part["k"].unique()), xlabel="k trajectories, the best one counts")
        handles |= {name: handle for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.axes[0].set_ylabel(GAP)
    figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=2)
    footer(figure, df, f"bands: centred {_interval_note(df)}")


@drawn("stage", "part", "seconds")
def minutes(figure: Figure, df: pd.DataFrame) -> None:
    """Draw where the minutes went: one bar per stage, split into generation, execution, update and the rest.

    Columns (a `minutes_table`): stage, part, seconds.
    """
    stages, parts = list(dict.fromkeys(df["stage"])), ordered(df["part"])
    table = df.pivot_table(index="stage", columns="part", values="seconds", aggfunc="sum", fill_value=0.0)
    figure.set_size_inches(WIDTH, 1.9 + 0.38 * len(stages))
    axis = figure.subplots()
    totals = _stack(axis, (table / 60).loc[stages, parts], stages)
    for y, total in enumerate(totals):
        text = f"{total:.1f} min" if total >= 1 else f"{60 * total:.0f} s"
        note(axis, text, (total, y), offset=5, fontsize=8.5)
    axis.set(xlim=(0, max(float(totals.max()), 1e-9) * 1.13), xlabel="minutes of wall time")
    axis.set_title(f"Where the {totals.sum():.1f} minutes went")
    if len(parts) > 1:
        figure.legend(loc="outside upper right", ncols=min(3, len(parts)))
    footer(figure, df, f"{len(stages)} stages")


@drawn("kind", "axis", "x", "y", "selected", "selection", "mean_distance", "coverage")
def idea_map(figure: Figure, df: pd.DataFrame) -> None:
    """Draw the candidate ideas in two dimensions, the chosen ones ringed, and how far apart choices are.

    Columns: kind (``idea`` or ``spread``). Idea rows: axis (data, model, learning), x, y, selected (0 or 1).
    Spread rows (a `spread_table`): selection, mean_distance, coverage; many rows of ``random``.
    """
    ideas, spread = df[df["kind"] == "idea"], df[df["kind"] == "spread"]
    figure.set_size_inches(WIDTH, 7.0)
    axes = figure.subplot_mosaic([["places", "places"], ["between", "nearest"]], height_ratios=[1.5, 1])
    places, between, nearest = axes.values()
    for key in ordered(ideas["axis"]):
        part, at = ideas[ideas["axis"] == key], look(key)
        mark = {"c": at.colour, "marker": at.marker}
        places.scatter(part["x"], part["y"], s=26, alpha=0.6, lw=0, label=at.label, **mark)
        chosen = part[part["selected"].astype(float) == 1]
        places.scatter(chosen["x"], chosen["y"], s=120, ec=INK, lw=1.8, zorder=3, **mark)
    places.scatter([], [], s=120, c="white", ec=INK, lw=1.8, label="chosen")
    places.set(title="Candidate ideas", xticks=[], yticks=[])
    places.spines[["left", "bottom"]].set_visible(False)
    spacing = {"handletextpad": 0.3, "columnspacing": 1.2}
    places.legend(loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, **spacing)
    _strip(between, spread, "mean_distance")
    between.set(title="Between chosen ideas", ylabel="mean distance (more is better)")
    _strip(nearest, spread, "coverage")
    nearest.set(title="To the nearest chosen", ylabel="mean distance (less is better)")
    count = int((spread["selection"] == "random").sum())
    footer(figure, df, f"{len(ideas)} candidates", f"{count} random choices of the same size")


def _strip(axis, spread: pd.DataFrame, column: str) -> None:
    """Draw random choices as a cloud with fixed jitter and every other choice as a labelled mark."""
    cloud = spread[spread["selection"] == "random"][column].to_numpy(float)
    if cloud.size:
        jitter = ((np.arange(cloud.size) * 0.6180339887) % 1.0 - 0.5) * 0.7
        axis.scatter(jitter, cloud, s=9, c="#999999", alpha=0.55, lw=0)
        axis.plot([-0.45, 0.45], [cloud.mean()] * 2, color=INK, lw=1.4)
    others = spread[spread["selection"] != "random"]
    for x, row in enumerate(others.itertuples(), start=1):
        colour, marker = (("#D55E00", "D"), ("#0072B2", "^"), ("#009E73", "s"), ("#E69F00", "P"))[(x - 1) % 4]
        axis.plot([x], [getattr(row, column)], marker=marker, color=colour, mec=INK, mew=0.6, ms=9, ls="")
    names = ["random", *others["selection"]]
    axis.set_xticks(range(len(names)), [name.replace(" ", "\n") for name in names])
    axis.grid(axis="x", visible=False)
    axis.set_xlim(-0.6, len(names) - 0.4)


@drawn("form", "case", "delta", "reward")
def reward_shape(figure: Figure, df: pd.DataFrame) -> None:
    """Draw the reward of a step over the change of the score it made: both of the paper's Eq. 6, and ours.

    Columns: form (``v1``, ``v2``, ``gain``), case (``edited``, ``neutral``, ``error``), delta (change of the
    score as a share of the gap between starter and best; ignored unless edited), reward.
    """
    titles = {"v1": "v1: σ(100 · Δ)", "v2": "v2: Δ", "gain": "gain, ours: Δ within bounds; 0 pays −0.1"}
    levels = {
        "neutral": {"color": MUTED, "ls": (0, (4, 2)), "label": "neutral or corner", "lw": 1.8},
        "error": {"color": look("invalid").colour, "ls": ":", "label": "invalid or error", "lw": 1.8},
    }
    forms = list(dict.fromkeys(df["form"]))
    figure.set_size_inches(WIDTH, 0.4 + 2.6 * len(forms))
    axes = figure.subplots(len(forms), 1, squeeze=False)[:, 0]
    for axis, form in zip(axes, forms, strict=True):
        part = df[df["form"] == form]
        edited = part[part["case"] == "edited"].sort_values("delta")
        colour = look("edited").colour
        axis.plot(edited["delta"], edited["reward"], color=colour, lw=2.4, label="edited and scored")
        for case, line in levels.items():
            for value in part[part["case"] == case]["reward"].head(1):
                axis.axhline(value, **line)
        axis.set(title=titles.get(form, form), ylabel="reward of the step")
        axis.set_xlabel("Δ: change of the score, share of the gap")
        axis.margins(y=0.08)
    axes[0].legend(loc="best")
    footer(figure, df[["form"]], "formula, not a measurement; invalid and error get the same")


FIXED = ("fixed-edit", "fixed-sequence")  # lines to beat, without a band
STEPPED = (*FIXED, "random-ideas", "sft", "rl")  # a line over steps each
FIELD = {  # kinds of action; of middle lightness, so that a dark page may turn a figure round
    "failed": ("#D55E00", "failed"),
    "favourite": ("#0072B2", "its favourite family of edits"),
    "other": ("#009E73", "another edit"),
    "unchanged": ("#CC79A7", "edit that changes nothing"),
    "undone": ("#B58900", "an edit taken back"),
    "no edit": ("#DDDDDD", "no edit (a look, the end)"),
}


@drawn("policy", "split", "step", "value", "low", "high", "tasks")
def gap_by_step(figure: Figure, df: pd.DataFrame) -> None:
    """Draw the gap closed after each step of a trajectory, with the fixed policies as lines to beat.

    Columns (a `gap_by_step_table`): policy, split, step, value, low, high, n, tasks, seeds.
    """
    figure.set_size_inches(WIDTH, 1.6 + 2.3 * len(set(df["split"]) & set(SPLIT_TITLES)))
    for axis, part in _split_panels(figure, df, sharex=True, sharey=True):
        shown = [name for name in STEPPED if name in set(part["policy"])]
        _banded(axis, part, "step", shown, without=FIXED)
        axis.set(ylabel="gap closed", xticks=sorted(part["step"].unique()))
    figure.axes[-1].set_xlabel("steps of the trajectory; the last submission by then is handed in")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    footer(figure, df, "0 starter, 1 best known, floor −1", f"bands: {_interval_note(df)}")


@drawn("policy", "seed", "task", "split", "trajectory", "step", "kind")
def action_field(figure: Figure, df: pd.DataFrame) -> None:
    """Draw every action of every trajectory: a row for each task, a block for each step, SFT above RL.

    Columns (of an `action_table`): policy, seed, task, split, trajectory, step, kind. Within a block stands
    one cell for each trajectory; white is a trajectory that had ended.
    """
    policies, kinds = ordered(df["policy"]), list(FIELD)
    tasks = df.sort_values(["split", "task"])["task"].drop_duplicates().tolist()
    steps, runs = int(df["step"].max()) + 1, df.groupby(["seed", "trajectory"]).ngroup()
    across = runs.nunique()
    figure.set_size_inches(WIDTH, 1.5 + len(policies) * (0.5 + 0.15 * len(tasks)))
    for axis, policy in zip(figure.subplots(len(policies), 1, squeeze=False)[:, 0], policies, strict=True):
        own = df["policy"] == policy
        field = np.full((len(tasks), steps * across), np.nan)
        rows = df[own]["task"].map(tasks.index)
        field[rows, df[own]["step"] * across + runs[own]] = df[own]["kind"].map(kinds.index)
        colours = ListedColormap([colour for colour, _ in FIELD.values()])
        edges = (np.arange(steps * across + 1), np.arange(len(tasks) + 1))
        axis.pcolormesh(*edges, field, cmap=colours, vmin=-0.5, vmax=len(kinds) - 0.5, ec="white", lw=0.5)
        for step in range(1, steps):
            axis.axvline(step * across, color=INK, lw=1.0)
        axis.set_xticks((np.arange(steps) + 0.5) * across, range(1, steps + 1))
        names = [name.removeprefix("pocket-") for name in tasks]
        axis.set_yticks(np.arange(len(tasks)) + 0.5, names, fontsize=7.5)
        axis.invert_yaxis()
        axis.grid(visible=False)
        axis.set_title(look(policy).label)
    figure.axes[-1].set_xlabel("step of the trajectory")
    handles = [Patch(color=colour, label=label) for colour, label in FIELD.values()]
    handles.append(Patch(fc="white", ec=MUTED, label="ended before"))
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    seeds = ", ".join(map(str, sorted(set(df["seed"]))))
    footer(figure, df, f"{across} trajectories a task, side by side within a step; seed {seeds}")


@drawn("policy", "share", "unchanged", "agrees", "task_information", "state_information")
def reading(figure: Figure, df: pd.DataFrame) -> None:
    """Draw how much each policy reads: what its edits tell of task and state beside chance; three shares.

    Columns (a `reading_table`): policy, seed, share, unchanged, agrees, and for ``task`` and ``state`` what
    the family of an edit tells (``_information``) with median (``_chance``) and 95 % (``_chance_high``) of
    chance.
    """
    means = df.drop(columns=["commonest"], errors="ignore").groupby("policy").mean(numeric_only=True)
    policies = ordered(means.index)[::-1]
    figure.set_size_inches(WIDTH, 2.2 + 0.9 * len(policies))
    places = np.arange(len(policies))
    axes = figure.subplots(3, 1, sharey=True)
    for axis, what in zip(axes, ("task", "state"), strict=False):
        for y, policy in enumerate(policies):
            at, row = look(policy), means.loc[policy]
            seen, chance, high = (row[f"{what}_{name}"] for name in ("information", "chance", "chance_high"))
            axis.barh(y, high, 0.5, color="#DDDDDD", label="chance, up to 95 %" if y == 0 else None)
            axis.plot([chance] * 2, [y - 0.25, y + 0.25], color=MUTED, lw=1.5)
            axis.plot(seen, y, **at.mark, mec=INK, mew=1.6 if at.marker in "|x+" else 0.6, ms=7, ls="")
            note(axis, number(seen), (max(seen, high), y), fontsize=8.5)
    axes[0].set(title="What an edit tells about the task", xlabel="nats")
    axes[1].set(title="What it tells about the state in a task", xlabel="nats")
    shares = {"share": "o", "family_share": "D", "unchanged": "s", "agrees": "^"}
    words = ("commonest edit", "favourite family", "edit that changes nothing", "true reflections")
    rises = np.linspace(0.27, -0.27, len(shares))  # above each other: equal shares would hide one another
    for (name, marker), word, rise in zip(shares.items(), words, rises, strict=True):
        values = 100 * means.loc[policies, name]
        axes[2].plot(values, np.array(places) - rise, marker=marker, ls="", ms=5, label=word)
    axes[2].set(title="Shares, percent", xlim=(-4, 104))
    axes[0].set_yticks(places, [look(policy).label for policy in policies])
    handles = [*axes[0].get_legend_handles_labels()[0], *axes[2].get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    for axis in axes:
        axis.margins(x=0.12)
        axis.grid(axis="y", visible=False)
    seeds = df["seed"].nunique()
    footer(figure, df, "line in the bar: median of chance", "one seed" if seeds == 1 else f"{seeds} seeds")


DRAWN = (
    learning_curve, gap_by_step, action_field, gap_by_policy, reading, before_after, idea_map, minutes,
    outcome_shares, reward_shape,
)  # fmt: skip
FIGURES = {draw.__name__: draw for draw in (*DRAWN, best_at_k)}
