"""Figures of the comparison of arms, the paper beside ours. A table in, a figure out, nothing computed.

All but two of them share one tidy table: panel, series, label, x, value, low, high, n, seeds, unit. A panel
is one axis; the paper's and ours are never on the same one, as their units differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from mlagent_lib.results.style import INK, MUTED, drawn, footer, look, note, number, span

PANEL_COLUMNS = ("panel", "series", "label", "x", "value", "low", "high", "n", "seeds", "unit")
NOTE = "95 % bootstrap interval over trajectories and seeds"
SEEDS = "bands and bars: lowest and highest seed"


def _facts(df: pd.DataFrame, ends: str) -> list[str]:
    """Return what the footer says on n and intervals, from the rows that are ours."""
    mine = df[df["seeds"].fillna(0) > 0]
    if mine.empty:
        return ["the paper's numbers only"]
    seeds = " or ".join(map(str, sorted({int(value) for value in mine["seeds"]})))
    return [f"ours: n = {span(mine['n'])}, seeds: {seeds}", ends if mine["low"].notna().any() else ""]


def _panels(figure: Figure, df: pd.DataFrame, **options) -> Iterator[tuple]:
    """Yield an axis with its rows for each panel of the table."""
    panels = list(dict.fromkeys(df["panel"]))
    axes = figure.subplots(1, len(panels), squeeze=False, **options)[0]
    for axis, panel in zip(axes, panels, strict=True):
        axis.set_title(panel)
        yield axis, df[df["panel"] == panel]


def _dots(figure: Figure, df: pd.DataFrame, *, width: float = 9.4, ends_note: str = NOTE) -> None:
    """Draw a panel for each of the table's: labels down, values across, one marker for each series."""
    tallest = df.groupby("panel")["label"].nunique().max()
    several = df["series"].nunique() > 1
    figure.set_size_inches(width, 1.35 + 0.34 * tallest + (0.3 if several else 0))
    handles = {}
    for axis, part in _panels(figure, df):
        labels = list(dict.fromkeys(part["label"]))[::-1]
        series = list(dict.fromkeys(part["series"]))
        for rank, one in enumerate(series):
            shift = 0.0 if len(series) == 1 else 0.5 * (0.5 - rank / (len(series) - 1)) * 0.9
            own, at = part[part["series"] == one], look(one)
            y = np.array([labels.index(label) for label in own["label"]]) + shift
            ends = np.array([own["value"] - own["low"], own["high"] - own["value"]])
            ends = np.nan_to_num(np.abs(ends), nan=0.0)
            line = at.mark | {"ms": 7, "mec": INK, "mew": 0.6, "capsize": 3, "elinewidth": 1.5}
            handles[at.label] = axis.errorbar(own["value"], y, xerr=ends, ls="", **line)
            shown = zip(own["value"], y, ends[1], strict=True) if len(series) == 1 else ()
            for value, height, half in shown:
                note(axis, number(value), (value + half, height), fontsize=8)
        axis.axvline(0, color=MUTED, lw=1, zorder=0)
        axis.set_yticks(range(len(labels)), labels)
        axis.set_ylim(-0.6, len(labels) - 0.4)
        axis.grid(axis="y", visible=False)
        axis.margins(x=0.16)
        axis.set_xlabel(part["unit"].iloc[0])
    if several:
        figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=len(handles))
    footer(figure, df, *_facts(df, ends_note))


def _lines(figure: Figure, df: pd.DataFrame, *, x: str, width: float = 9.4, ends_note: str = NOTE) -> None:
    """Draw a panel for each of the table's: values over x, a line for each series, bands where known.

    Of two words for x, the first is the paper's.
    """
    paper, _, ours = x.partition(" / ")
    figure.set_size_inches(width, 3.6)
    for axis, part in _panels(figure, df):
        for one in dict.fromkeys(part["series"]):
            own, at = part[part["series"] == one].sort_values("x"), look(one)
            axis.plot(own["x"], own["value"], ms=5, **at.stroke)
            if own["low"].notna().any():
                axis.fill_between(own["x"], own["low"], own["high"], color=at.colour, alpha=0.15, lw=0)
        first = part.iloc[0]
        axis.set(xlabel=paper if "paper" in first["panel"] else ours or paper, ylabel=first["unit"])
        axis.legend(loc="best")
    footer(figure, df, *_facts(df, ends_note))


@drawn(*PANEL_COLUMNS)
def gain_radar(figure: Figure, df: pd.DataFrame) -> None:
    """Draw the gain of each task on a radar, each axis from the starter (centre ring) to the best of them.

    Columns: `PANEL_COLUMNS`; value is the gain over the best method's on that task, at least -1.
    """
    figure.set_size_inches(11.0, 5.6)
    for axis, part in _panels(figure, df, subplot_kw={"projection": "polar"}):
        labels = list(dict.fromkeys(part["label"]))
        angles = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
        for one in dict.fromkeys(part["series"]):
            own, at = part[part["series"] == one].set_index("label")["value"].reindex(labels), look(one)
            axis.plot([*angles, angles[0]], [*own, own.iloc[0]], ms=4.5, lw=1.5, **at.stroke)
        axis.plot(np.linspace(0, 2 * np.pi, 180), np.zeros(180), color=INK, lw=1)
        axis.set_xticks(angles, labels, fontsize=7.5)
        axis.set_ylim(-1.05, 1.05)
        axis.set_yticks([-1, 0, 1], ["≤ −1", "starter", "best"], fontsize=7)
        axis.set_rlabel_position(180 / len(labels))  # between two tasks
        axis.set_title(part["panel"].iloc[0], pad=24)
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=7.5)
    footer(figure, df, _facts(df, "")[0], "an axis: gain over the best method's gain on that task")


WIDE, HIGH = 2.5, 0.95  # of a box of the pipeline


@drawn("row", "column", "title", "text", "into")
def pipeline(figure: Figure, df: pd.DataFrame) -> None:
    """Draw the three parts of the method as boxes, with what each holds in the committed results.

    Columns: row (0 to 2), column (0 to 3), title, text, into (titles that arrows lead to, split by ``;``).
    """
    place = {row.title: (row.column * (WIDE + 0.55), -row.row * (HIGH + 0.5)) for row in df.itertuples()}
    box = {"boxstyle": "round,pad=0.02,rounding_size=0.08", "fc": "white", "lw": 2.2}
    figure.set_size_inches(11.2, 1.5 * (df["row"].max() + 1) + 0.3)
    axis = figure.subplots()
    for row in df.itertuples():
        x, y = place[row.title]
        axis.add_patch(FancyBboxPatch((x, y), WIDE, HIGH, ec=look(row.look).colour, **box))
        axis.text(x + 0.1, y + HIGH - 0.12, row.title, va="top", fontsize=8.6, fontweight="bold")
        axis.text(x + 0.1, y + HIGH - 0.37, row.text, va="top", fontsize=7.6, color=INK, linespacing=1.3)
        for target in filter(None, row.into.split(";")) if isinstance(row.into, str) else ():
            _arrow(axis, (x, y), place[target])
    axis.set_xlim(-0.1, (df["column"].max() + 1) * (WIDE + 0.55) - 0.4)
    axis.set_ylim(-df["row"].max() * (HIGH + 0.5) - 0.15, HIGH + 0.1)
    axis.axis("off")
    footer(figure, df, "counts are those of the committed results")


def _arrow(axis, start, end) -> None:
    """Draw an arrow from a box to the next one: sideways in a row, down to another row."""
    (x, y), (to_x, to_y) = start, end
    if y == to_y:
        right = to_x > x
        tail = (x + WIDE + 0.03 if right else x - 0.03, y + HIGH / 2)
        head = (to_x - 0.04 if right else to_x + WIDE + 0.04, to_y + HIGH / 2)
    else:
        tail, head = (x + WIDE / 2, y - 0.04), (to_x + WIDE / 2, to_y + HIGH + 0.04)
    axis.annotate("", head, tail, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.3})


@drawn("share", "v1", "v2", "saturated", "pairs_lost")
def saturation(figure: Figure, df: pd.DataFrame) -> None:
    """Draw what both rewards pay for the same actions, and how often v1 is at one of its ends.

    Columns: share, v1, v2, saturated, pairs_lost (the last two the same in every row).
    """
    saturated, lost = 100 * df["saturated"].iloc[0], 100 * df["pairs_lost"].iloc[0]
    figure.set_size_inches(10.4, 3.5)
    v1, v2, counts = figure.subplots(1, 3)
    near = df[df["share"].abs() <= 1.0]
    for axis, column, key, low in ((v1, "v1", "sft", 0.0), (v2, "v2", "rl", -1.0)):
        axis.plot(near["share"], near[column], ls="", ms=4, alpha=0.35, mec="none", **look(key).mark)
        axis.set(title=f"reward of {column}", xlabel="share of the gap that was closed")
        axis.set_ylim(low - 0.05, 1.05)
    v1.set_ylabel("reward")
    bins = np.linspace(0, 1, 21)
    counts.hist(df["v1"], bins=bins, color=look("sft").colour, ec=INK, lw=0.5, hatch="///")
    counts.set(title=f"{saturated:.0f} % at an end of v1", xlabel="reward of v1", ylabel="scored actions")
    far = f"{len(df) - len(near)} beyond ±1 not drawn on the left"
    same = f"v1 pays the same for {lost:.0f} % of pairs whose gains differ by 1 %"
    footer(figure, df, f"n = {len(df)} edits, made or taken back", far, same)


_SHAPES = {
    # labels down, values across: the paper's gains on the left, ours on the right
    "main_gains": partial(_dots, width=10.6),  # of each task, avg@8
    "rl_starts": _dots,
    "reward_parts": _dots,
    "no_thought": _dots,
    # ours alone
    "pool_states": _dots,  # size of the pool, share of on-policy states in it
    "arms_overview": partial(_dots, width=10.2),
    "overfit": partial(_dots, width=8.2),  # labels that pay beside report labels
    "diversity": partial(_dots, width=10.2, ends_note=SEEDS),
    # values over x
    "gain_vs_time": partial(_lines, x="GPU hours / charged minutes", width=11.0, ends_note=SEEDS),
    "task_count": partial(_lines, x="training tasks"),
    "best_at_k_pools": partial(_lines, x="K trajectories", width=12.5),
    "search_cost": partial(_lines, x="executions", width=7.4),
}
FIGURES = {name: drawn(*PANEL_COLUMNS, name=name)(draw) for name, draw in _SHAPES.items()}
FIGURES |= {"gain_radar": gain_radar, "pipeline": pipeline, "saturation": saturation}
