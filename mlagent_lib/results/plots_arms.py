"""Figures of the comparison of arms, the paper beside ours. A table in, a figure out, nothing computed.

All but two of them share one tidy table: panel, series, label, x, value, low, high, n, seeds, unit. A panel
is one axis; the paper's and ours are never on the same one, as their units differ.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlagent_lib.results.style import INK, MUTED, footer, look, need, new_figure, number, styled

__all__ = [
    "arms_overview",
    "best_at_k_pools",
    "diversity",
    "gain_radar",
    "gain_vs_time",
    "main_gains",
    "no_thought",
    "overfit",
    "pipeline",
    "pool_states",
    "reward_parts",
    "rl_starts",
    "saturation",
    "search_cost",
    "task_count",
]

COLUMNS = ("panel", "series", "label", "x", "value", "low", "high", "n", "seeds", "unit")
NOTE = "95 % bootstrap interval over trajectories and seeds"
SEEDS = "bands and bars: lowest and highest seed"


def _panels(df: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(df["panel"]))


def _facts(df: pd.DataFrame, note: str = NOTE) -> list[str]:
    """Return what the footer says on n and intervals, from the rows that are ours."""
    mine = df[df["seeds"].fillna(0) > 0]
    if mine.empty:
        return ["the paper's numbers only"]
    low, high = int(mine["n"].min()), int(mine["n"].max())
    seeds = sorted({int(value) for value in mine["seeds"]})
    n = f"ours: n = {low}" if low == high else f"ours: n = {low} to {high}"
    return [f"{n}, seeds: {' or '.join(map(str, seeds))}", note if mine["low"].notna().any() else ""]


def _dots(df: pd.DataFrame, name: str, *, width: float = 9.4, note: str = NOTE) -> Figure:
    """Draw a panel for each of the table's: labels down, values across, one marker for each series."""
    need(df, name, *COLUMNS)
    panels, facts = _panels(df), _facts(df, note)
    tallest = max(df[df["panel"] == panel]["label"].nunique() for panel in panels)
    several = df["series"].nunique() > 1
    with styled():
        figure = new_figure(width, 1.35 + 0.34 * tallest + (0.3 if several else 0))
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        handles = {}
        for axis, panel in zip(axes, panels, strict=True):
            part = df[df["panel"] == panel]
            labels = list(dict.fromkeys(part["label"]))[::-1]
            series = list(dict.fromkeys(part["series"]))
            for rank, one in enumerate(series):
                shift = 0.0 if len(series) == 1 else 0.5 * (0.5 - rank / (len(series) - 1)) * 0.9
                own, (text, colour, marker, _, _) = part[part["series"] == one], look(one)
                y = np.array([labels.index(label) for label in own["label"]]) + shift
                ends = np.nan_to_num(
                    np.abs(np.array([own["value"] - own["low"], own["high"] - own["value"]])), nan=0.0
                )
                handles[text] = axis.errorbar(
                    own["value"], y, xerr=ends, ls="", color=colour, marker=marker, ms=7, mec=INK, mew=0.6,
                    capsize=3, elinewidth=1.5,
                )  # fmt: skip
                if len(series) == 1:
                    for value, at, half in zip(own["value"], y, ends[1], strict=True):
                        axis.annotate(number(value), (value + half, at), xytext=(7, 0), va="center",
                                      textcoords="offset points", fontsize=8)  # fmt: skip
            axis.axvline(0, color=MUTED, lw=1, zorder=0)
            axis.set_yticks(range(len(labels)), labels)
            axis.set_ylim(-0.6, len(labels) - 0.4)
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.16)
            axis.set_title(panel)
            axis.set_xlabel(part["unit"].iloc[0])
        if several:
            figure.legend(handles.values(), handles.keys(), loc="outside upper right", ncols=len(handles))
        footer(figure, df, *facts)
    return figure


def _lines(
    df: pd.DataFrame, name: str, x_labels: dict[str, str], *, width: float = 9.4, note: str = NOTE
) -> Figure:
    """Draw a panel for each of the table's: values over x, a line for each series, bands where known."""
    need(df, name, *COLUMNS)
    panels, facts = _panels(df), _facts(df, note)
    with styled():
        figure = new_figure(width, 3.6)
        axes = figure.subplots(1, len(panels), squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            part = df[df["panel"] == panel]
            for one in dict.fromkeys(part["series"]):
                own = part[part["series"] == one].sort_values("x")
                text, colour, marker, _, style = look(one)
                axis.plot(own["x"], own["value"], color=colour, marker=marker, ms=5, ls=style, label=text)
                if own["low"].notna().any():
                    axis.fill_between(own["x"], own["low"], own["high"], color=colour, alpha=0.15, lw=0)
            axis.set_title(panel)
            axis.set_xlabel(x_labels.get(panel, ""))
            axis.set_ylabel(part["unit"].iloc[0])
            axis.legend(loc="best")
        footer(figure, df, *facts)
    return figure


def main_gains(df: pd.DataFrame) -> Figure:
    """Draw the relative gain of each task (avg@8), the paper's methods and ours. Columns: `COLUMNS`."""
    return _dots(df, "main_gains", width=10.6)


def rl_starts(df: pd.DataFrame) -> Figure:
    """Draw RL from different starts: the paper's gains, ours as gap closed. Columns: `COLUMNS`."""
    return _dots(df, "rl_starts")


def reward_parts(df: pd.DataFrame) -> Figure:
    """Draw the reward without its parts: the paper's gains, ours as gap closed. Columns: `COLUMNS`."""
    return _dots(df, "reward_parts")


def no_thought(df: pd.DataFrame) -> Figure:
    """Draw replies with and without a thought: the paper's gains, ours as gap closed. Columns: `COLUMNS`."""
    return _dots(df, "no_thought")


def pool_states(df: pd.DataFrame) -> Figure:
    """Draw the size of the pool and the share of on-policy states in it. Columns: `COLUMNS`."""
    return _dots(df, "pool_states")


def arms_overview(df: pd.DataFrame) -> Figure:
    """Draw every arm: mean reward of a step from test states, gap closed. Columns: `COLUMNS`."""
    return _dots(df, "arms_overview", width=10.2)


def overfit(df: pd.DataFrame) -> Figure:
    """Draw the gap closed on the labels that pay beside that on the report labels. Columns: `COLUMNS`."""
    return _dots(df, "overfit", width=8.2)


def diversity(df: pd.DataFrame) -> Figure:
    """Draw how diverse actions are: the paper's verbs, our share of different edits. Columns: `COLUMNS`."""
    return _dots(df, "diversity", width=10.2, note=SEEDS)


def gain_vs_time(df: pd.DataFrame) -> Figure:
    """Draw the paper's gain over GPU hours and our reward over charged minutes. Columns: `COLUMNS`."""
    axis = {panel: "GPU hours" if "paper" in panel else "charged minutes" for panel in _panels(df)}
    return _lines(df, "gain_vs_time", axis, width=11.0, note=SEEDS)


def task_count(df: pd.DataFrame) -> Figure:
    """Draw the gain over the number of training tasks. Columns: `COLUMNS`."""
    return _lines(df, "task_count", dict.fromkeys(_panels(df), "training tasks"))


def best_at_k_pools(df: pd.DataFrame) -> Figure:
    """Draw best@K over K, the paper's amounts of RL data and our arms. Columns: `COLUMNS`."""
    return _lines(df, "best_at_k_pools", dict.fromkeys(_panels(df), "K trajectories"), width=12.5)


def search_cost(df: pd.DataFrame) -> Figure:
    """Draw the gap closed after each execution, for each way of spending them. Columns: `COLUMNS`."""
    return _lines(df, "search_cost", dict.fromkeys(_panels(df), "executions"), width=7.4)


def gain_radar(df: pd.DataFrame) -> Figure:
    """Draw the gain of each task on a radar, each axis from the starter (centre ring) to the best of them.

    Columns: `COLUMNS`; value is the gain over the best method's on that task, at least -1.
    """
    need(df, "gain_radar", *COLUMNS)
    panels = _panels(df)
    with styled():
        figure = new_figure(11.0, 5.6)
        axes = figure.subplots(1, len(panels), subplot_kw={"projection": "polar"}, squeeze=False)[0]
        for axis, panel in zip(axes, panels, strict=True):
            part = df[df["panel"] == panel]
            labels = list(dict.fromkeys(part["label"]))
            angles = np.linspace(0, 2 * np.pi, len(labels), endpoint=False)
            for one in dict.fromkeys(part["series"]):
                own = part[part["series"] == one].set_index("label")["value"].reindex(labels).to_numpy()
                text, colour, marker, _, style = look(one)
                axis.plot([*angles, angles[0]], [*own, own[0]], color=colour, marker=marker, ms=4.5, ls=style,
                          lw=1.5, label=text)  # fmt: skip
            axis.plot(np.linspace(0, 2 * np.pi, 180), np.zeros(180), color=INK, lw=1)
            axis.set_xticks(angles, labels, fontsize=7.5)
            axis.set_ylim(-1.05, 1.05)
            axis.set_yticks([-1, 0, 1], ["≤ −1", "starter", "best"], fontsize=7)
            axis.set_title(panel, pad=24)
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=3, fontsize=7.5)
        footer(figure, df, *_facts(df)[:1], "an axis: gain over the best method's gain on that task")
    return figure


def pipeline(df: pd.DataFrame) -> Figure:
    """Draw the three parts of the method as boxes, with what each holds in the committed results.

    Columns: row (0 to 2), column (0 to 3), title, text, into (titles that arrows lead to, split by ``;``).
    """
    need(df, "pipeline", "row", "column", "title", "text", "into")
    wide, high = 2.5, 0.95
    place = {row.title: (row.column * (wide + 0.55), -row.row * (high + 0.5)) for row in df.itertuples()}
    with styled():
        figure = new_figure(11.2, 1.5 * (df["row"].max() + 1) + 0.3)
        axis = figure.subplots()
        for row in df.itertuples():
            x, y = place[row.title]
            axis.add_patch(_box(x, y, wide, high, look(row.look)[1]))
            axis.text(x + 0.1, y + high - 0.12, row.title, va="top", fontsize=9, fontweight="bold")
            axis.text(x + 0.1, y + high - 0.37, row.text, va="top", fontsize=7.6, color=INK, linespacing=1.3)
            for target in filter(None, str(row.into).split(";")) if isinstance(row.into, str) else ():
                _arrow(axis, (x, y), place[target], wide, high)
        axis.set_xlim(-0.1, (df["column"].max() + 1) * (wide + 0.55) - 0.4)
        axis.set_ylim(-df["row"].max() * (high + 0.5) - 0.15, high + 0.1)
        axis.axis("off")
        footer(figure, df, "counts are those of the committed results")
    return figure


def _box(x: float, y: float, width: float, height: float, colour: str):
    from matplotlib.patches import FancyBboxPatch

    return FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.08", fc="white", ec=colour, lw=2.2
    )


def _arrow(axis, start, end, wide: float, high: float) -> None:
    """Draw an arrow from a box to the next one: sideways in a row, down to another row."""
    (x, y), (to_x, to_y) = start, end
    if y == to_y:
        right = to_x > x
        tail = (x + wide + 0.03 if right else x - 0.03, y + high / 2)
        head = (to_x - 0.04 if right else to_x + wide + 0.04, to_y + high / 2)
    else:
        tail, head = (x + wide / 2, y - 0.04), (to_x + wide / 2, to_y + high + 0.04)
    axis.annotate("", head, tail, arrowprops={"arrowstyle": "-|>", "color": INK, "lw": 1.3})


def saturation(df: pd.DataFrame) -> Figure:
    """Draw what both rewards pay for the same edits, and how often v1 is at one of its ends.

    Columns: share, v1, v2, saturated, pairs_lost (the last two the same in every row).
    """
    need(df, "saturation", "share", "v1", "v2", "saturated", "pairs_lost")
    with styled():
        figure = new_figure(10.4, 3.5)
        axes = figure.subplots(1, 3)
        near = df[df["share"].abs() <= 1.0]
        for axis, column, key, low in zip(axes[:2], ("v1", "v2"), ("sft", "rl"), (0.0, -1.0), strict=True):
            _, colour, marker, _, _ = look(key)
            axis.plot(
                near["share"], near[column], ls="", marker=marker, ms=4, color=colour, alpha=0.35, mec="none"
            )
            axis.set_title(f"reward of {column}")
            axis.set_xlabel("share of the gap that the edit closed")
            axis.set_ylim(low - 0.05, 1.05)
        axes[0].set_ylabel("reward")
        bins = np.linspace(0, 1, 21)
        axes[2].hist(df["v1"], bins=bins, color=look("sft")[1], ec=INK, lw=0.5, hatch="///")
        axes[2].set_title(f"{100 * df['saturated'].iloc[0]:.0f} % of edits at an end of v1")
        axes[2].set_xlabel("reward of v1")
        axes[2].set_ylabel("edits")
        beyond = int((df["share"].abs() > 1.0).sum())
        footer(
            figure, df, f"n = {len(df)} edits", f"{beyond} beyond ±1 not drawn on the left",
            f"v1 pays the same for {100 * df['pairs_lost'].iloc[0]:.0f} % of pairs whose gains differ by 1 %",
        )  # fmt: skip
    return figure
