"""Figures that compare policies: gap closed, before and after, best of k, outcomes of steps."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlagent_lib.results.steps import OUTCOMES
from mlagent_lib.results.style import INK, MUTED, footer, look, need, new_figure, number, ordered, styled

__all__ = ["gap_by_policy", "before_after", "outcome_shares", "best_at_k"]

SPLIT_TITLES = {"held-in": "held-in tasks", "held-out": "held-out tasks", "other": "other tasks"}
GAP_LABEL = "share of the gap to the best known score closed"


def _interval_note(df: pd.DataFrame) -> str:
    level = df["level"].dropna() if "level" in df else pd.Series(dtype=float)
    percent = f"{100 * level.iloc[0]:.0f} % " if len(level) else ""
    return f"{percent}bootstrap interval over trajectories{_seed_note(df)}"


def _seed_note(df: pd.DataFrame) -> str:
    seeds = int(df["seeds"].max()) if "seeds" in df else 1
    return f" and {seeds} seeds" if seeds > 1 else " of one seed"


def _span(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def gap_by_policy(df: pd.DataFrame) -> Figure:
    """Draw the share of the gap closed by each policy, held-in beside held-out.

    Columns (an `overall_table`): policy, split, gap_closed, gap_low, gap_high, tasks, trajectories, seeds,
    level.
    """
    need(df, "gap_by_policy", "policy", "split", "gap_closed", "gap_low", "gap_high", "tasks", "trajectories")
    splits = [name for name in ("held-in", "held-out", "other") if name in set(df["split"])]
    df = df[df["split"].isin(splits)]
    policies = ordered(df["policy"])[::-1]
    with styled():
        figure = new_figure(8.2, 1.5 + 0.36 * len(policies))
        axes = figure.subplots(1, len(splits), sharex=True, sharey=True, squeeze=False)[0]
        for axis, split in zip(axes, splits, strict=True):
            part = df[df["split"] == split].set_index("policy")
            for y, policy in enumerate(policies):
                if policy not in part.index:
                    continue
                row, (_, colour, marker, _, _) = part.loc[policy], look(policy)
                ends = [[row["gap_closed"] - row["gap_low"]], [row["gap_high"] - row["gap_closed"]]]
                ends = None if np.isnan(ends).any() else ends
                width = 1.6 if marker == "|" else 0.6
                axis.errorbar([row["gap_closed"]], [y], xerr=ends, color=colour, marker=marker, ms=8,
                              capsize=3.5, mec=INK, mew=width, elinewidth=1.6)  # fmt: skip
                top = row["gap_high"] if ends else row["gap_closed"]
                axis.annotate(number(row["gap_closed"]), (top, y), xytext=(7, 0), textcoords="offset points",
                              va="center", fontsize=8, color=INK)  # fmt: skip
            axis.axvline(0, color=MUTED, lw=1, zorder=0)
            axis.set_title(f"{SPLIT_TITLES[split]} ({_span(part['tasks'])})")
            axis.grid(axis="y", visible=False)
            axis.margins(x=0.14)
        axes[0].set_yticks(range(len(policies)), [look(policy)[0] for policy in policies])
        axes[0].set_ylim(-0.6, len(policies) - 0.4)
        axes[0].set_xlabel(f"{GAP_LABEL} (0 starter, 1 best known)", loc="left")
        footer(figure, df, f"n = {_span(df['trajectories'])} trajectories per point", _interval_note(df))
    return figure


def before_after(df: pd.DataFrame) -> Figure:
    """Draw one line per task from the policy before to the policy after, on the share of the gap closed.

    Columns (a `before_after_table`): task, split, before_policy, after_policy, before, after, n_before,
    n_after.
    Beyond −1 and 1.3 a point is drawn at the edge and its value written there.
    """
    need(
        df,
        "before_after",
        "task",
        "split",
        "before_policy",
        "after_policy",
        "before",
        "after",
        "n_before",
        "n_after",
    )
    low, high = -1.0, 1.3
    parts = [
        p
        for _, p in df.sort_values(["split", "after", "task"], ascending=[False, True, True]).groupby("split")
    ]
    parts = parts[::-1]  # held-in on top: drawn last
    before, after = look(df["before_policy"].iloc[0]), look(df["after_policy"].iloc[0])
    with styled():
        figure = new_figure(7.6, 1.5 + 0.27 * (len(df) + len(parts)))
        axis = figure.subplots()
        y, ticks, names = 0, [], []
        for part in parts:
            for row in part.itertuples():
                ends = np.clip([row.before, row.after], low, high)
                better = row.after >= row.before
                line = (after[1], "-") if better else (MUTED, (0, (2, 1.5)))
                axis.plot(ends, [y, y], color=line[0], lw=2.2, ls=line[1],
                          zorder=2)  # fmt: skip
                axis.plot(
                    ends[0], y, marker=before[2], mfc="white", mec=before[1], mew=1.5, ms=6.5, ls="", zorder=3
                )
                axis.plot(
                    ends[1], y, marker=after[2], mfc=after[1], mec=INK, mew=0.5, ms=7.5, ls="", zorder=4
                )
                for value, end in zip((row.before, row.after), ends, strict=True):
                    if value != end:
                        side = (8, "left") if end < 0 else (-8, "right")
                        axis.annotate(number(value, 1), (end, y), xytext=(side[0], 5),
                                      textcoords="offset points", ha=side[1], fontsize=7.5)  # fmt: skip
                ticks.append(y)
                names.append(row.task)
                y += 1
            title = SPLIT_TITLES[part["split"].iloc[0]]
            axis.text(0.008, y - 0.15, title, transform=axis.get_yaxis_transform(),
                      fontweight="bold", fontsize=9, va="center")  # fmt: skip
            y += 1
        axis.set_yticks(ticks, names)
        axis.set_ylim(-0.7, y - 0.4)
        axis.axvline(0, color=MUTED, lw=1, zorder=0)
        axis.axvline(1, color=MUTED, lw=1, ls=(0, (1, 2)), zorder=0)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel(f"{GAP_LABEL} (0 starter, 1 best known)")
        axis.plot([], [], marker=before[2], mfc="white", mec=before[1], mew=1.5, ls="", label=before[0])
        axis.plot([], [], marker=after[2], color=after[1], mec=INK, mew=0.5, label=f"{after[0]}: better")
        axis.plot([], [], color=MUTED, ls=(0, (2, 1.5)), label="worse")
        figure.legend(loc="outside upper right", ncols=3)
        runs = pd.concat([df["n_before"], df["n_after"]])
        footer(figure, df, f"mean of n = {_span(runs)} trajectories per task and policy")
    return figure


def outcome_shares(df: pd.DataFrame) -> Figure:
    """Draw what became of the steps of each policy, as shares of the scored steps.

    Columns (an `outcome_table`): policy, outcome, share, n, unscored.
    """
    need(df, "outcome_shares", "policy", "outcome", "share", "n", "unscored")
    policies = ordered(df["policy"])
    table = df.pivot_table(index="policy", columns="outcome", values="share", fill_value=0.0)
    counts = df.drop_duplicates("policy").set_index("policy")
    with styled():
        figure = new_figure(7.8, 1.7 + 0.38 * len(policies))
        axis = figure.subplots()
        left = pd.Series(0.0, index=policies)
        for outcome in [name for name in OUTCOMES if name in table]:
            label, colour, _, hatch, _ = look(outcome)
            width = 100 * table[outcome].reindex(policies)
            axis.barh(
                range(len(policies)), width, 0.68, left=left, color=colour, hatch=hatch, ec=INK, label=label
            )
            left = left + width
        names = [f"{look(p)[0]}\n(n = {int(counts.loc[p, 'n'])})" for p in policies]
        axis.set_yticks(range(len(policies)), names)
        axis.invert_yaxis()
        axis.set_xlim(0, 100)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("percent of the scored steps")
        figure.legend(loc="outside upper center", ncols=3)
        footer(figure, df, "n: scored steps", f"{int(counts['unscored'].sum())} unscored steps left out")
    return figure


def best_at_k(df: pd.DataFrame) -> Figure:
    """Draw the expected best of k trajectories over k, per policy, held-in beside held-out.

    Columns (a `best_at_k_table`): policy, split, k, value, low, high, tasks, seeds.
    """
    need(df, "best_at_k", "policy", "split", "k", "value", "low", "high", "tasks")
    splits = [name for name in ("held-in", "held-out", "other") if name in set(df["split"])]
    with styled():
        figure = new_figure(4.2 * len(splits), 3.6)
        axes = figure.subplots(1, len(splits), sharey=True, squeeze=False)[0]
        for axis, split in zip(axes, splits, strict=True):
            part = df[df["split"] == split]
            for policy in ordered(part["policy"]):
                run, (label, colour, marker, _, style) = (
                    part[part["policy"] == policy].sort_values("k"),
                    look(policy),
                )
                marker = "" if marker == "|" else marker
                axis.fill_between(run["k"], run["low"], run["high"], color=colour, alpha=0.13, lw=0)
                axis.plot(
                    run["k"],
                    run["value"],
                    color=colour,
                    marker=marker,
                    ls=style,
                    mec=INK,
                    mew=0.5,
                    label=label,
                )
            axis.set_title(f"{SPLIT_TITLES[split]} ({_span(part['tasks'])})")
            axis.set_xticks(sorted(part["k"].unique()))
            axis.set_xlabel("k trajectories, the best one counts")
            axis.axhline(0, color=MUTED, lw=1, zorder=0)
        axes[0].set_ylabel("share of the gap closed")
        handles = {
            name: handle
            for axis in axes
            for handle, name in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles.keys(), loc="outside right upper")
        footer(figure, df, f"bands: centred {_interval_note(df)}")
    return figure
