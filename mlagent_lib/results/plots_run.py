"""Figures of one run and its method: learning curve, minutes, map of ideas, shape of the reward."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from mlagent_lib.results.style import INK, MUTED, footer, look, need, new_figure, ordered, styled

__all__ = ["learning_curve", "minutes", "idea_map", "reward_shape"]


def learning_curve(df: pd.DataFrame) -> Figure:
    """Draw mean step reward, validity and KL over GRPO steps: thin per seed, thick mean, diamonds held out.

    Columns: seed, split (``train`` or ``holdout``), step, reward, validity (fraction), kl.
    """
    need(df, "learning_curve", "seed", "split", "step", "reward", "validity", "kl")
    panels = {
        "reward": ("Mean reward of a step", "reward"),
        "validity": ("Valid actions", "share of sampled actions"),
        "kl": ("Drift from the SFT policy", "KL (nats per token)"),
    }
    with styled():
        figure = new_figure(9.6, 3.3)
        axes = figure.subplots(1, 3)
        for axis, (column, (title, label)) in zip(axes, panels.items(), strict=True):
            for split, key, marker in (("train", "rl", ""), ("holdout", "sft", "D")):
                part = df[(df["split"] == split) & df[column].notna()]
                name, colour = (
                    {"train": "training states", "holdout": "states not trained on"}[split],
                    look(key)[1],
                )
                if part.empty:
                    continue
                if part["seed"].nunique() > 1:
                    for _, run in part.groupby("seed"):
                        axis.plot(run["step"], run[column], color=colour, lw=0.7, alpha=0.55)
                mean = part.groupby("step")[column].mean()
                style = "-" if split == "train" else (0, (5, 2))
                axis.plot(mean.index, mean, color=colour, marker=marker, ms=4.5, ls=style, lw=2.2, label=name)
            axis.set_title(title)
            axis.xaxis.get_major_locator().set_params(integer=True)
            axis.set_xlabel("update step")
            axis.set_ylabel(label)
        axes[1].set_ylim(-0.02, 1.02)
        axes[2].set_ylim(bottom=0)
        axes[0].legend(loc="best")
        seeds = df["seed"].nunique()
        lines = f"{seeds} seeds: thin lines each, thick line their mean" if seeds > 1 else "one seed"
        footer(figure, df, lines)
    return figure


def minutes(df: pd.DataFrame) -> Figure:
    """Draw where the minutes went: one bar per stage, split into generation, execution, update and the rest.

    Columns (a `minutes_table`): stage, part, seconds.
    """
    need(df, "minutes", "stage", "part", "seconds")
    stages, parts = list(dict.fromkeys(df["stage"])), ordered(df["part"])
    table = (
        df.pivot_table(index="stage", columns="part", values="seconds", aggfunc="sum", fill_value=0.0) / 60
    )
    with styled():
        figure = new_figure(7.8, 1.5 + 0.38 * len(stages))
        axis = figure.subplots()
        left = pd.Series(0.0, index=stages)
        for part in parts:
            label, colour, _, hatch, _ = look(part)
            width = table[part].reindex(stages)
            axis.barh(
                range(len(stages)), width, 0.68, left=left, color=colour, hatch=hatch, ec=INK, label=label
            )
            left = left + width
        for y, total in enumerate(left):
            text = f"{total:.1f} min" if total >= 1 else f"{60 * total:.0f} s"
            axis.annotate(
                text, (total, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5
            )
        axis.set_yticks(range(len(stages)), stages)
        axis.invert_yaxis()
        axis.set_xlim(0, max(float(left.max()), 1e-9) * 1.13)
        axis.grid(axis="y", visible=False)
        axis.set_xlabel("minutes of wall time")
        axis.set_title(f"Where the {left.sum():.1f} minutes went")
        if len(parts) > 1:
            figure.legend(loc="outside upper right", ncols=min(5, len(parts)))
        footer(figure, df, f"{len(stages)} stages")
    return figure


def idea_map(df: pd.DataFrame) -> Figure:
    """Draw the candidate ideas in two dimensions, the chosen ones ringed, and how far apart choices are.

    Columns: kind (``idea`` or ``spread``). Idea rows: axis (data, model, learning), x, y, selected (0 or 1).
    Spread rows (a `spread_table`): selection, mean_distance, coverage; many rows of ``random``.
    """
    need(df, "idea_map", "kind", "axis", "x", "y", "selected", "selection", "mean_distance", "coverage")
    ideas, spread = df[df["kind"] == "idea"], df[df["kind"] == "spread"]
    with styled():
        figure = new_figure(9.4, 4.2)
        axes = figure.subplots(1, 3, width_ratios=[1.9, 1, 1])
        for key in ordered(ideas["axis"]):
            part, (label, colour, marker, _, _) = ideas[ideas["axis"] == key], look(key)
            axes[0].scatter(part["x"], part["y"], s=26, c=colour, marker=marker, alpha=0.6, lw=0, label=label)
            chosen = part[part["selected"].astype(float) == 1]
            axes[0].scatter(
                chosen["x"], chosen["y"], s=120, marker=marker, c=colour, ec=INK, lw=1.8, zorder=3
            )
        axes[0].scatter([], [], s=120, c="white", ec=INK, lw=1.8, label="chosen")
        axes[0].set_title("Candidate ideas")
        axes[0].set_xticks([])
        axes[0].set_yticks([])
        for side in ("left", "bottom"):
            axes[0].spines[side].set_visible(False)
        axes[0].legend(
            loc="upper center", bbox_to_anchor=(0.5, 0.0), ncols=4, handletextpad=0.3, columnspacing=1.2
        )
        titles = ("Between chosen ideas", "To the nearest chosen")
        notes = (
            "mean distance over pairs (more is better)",
            "mean distance over candidates (less is better)",
        )
        for axis, column, title, note in zip(
            axes[1:], ("mean_distance", "coverage"), titles, notes, strict=True
        ):
            _strip(axis, spread, column)
            axis.set_title(title)
            axis.set_ylabel(note)
        count = int((spread["selection"] == "random").sum())
        footer(figure, df, f"{len(ideas)} candidates", f"{count} random choices of the same size")
    return figure


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


def reward_shape(df: pd.DataFrame) -> Figure:
    """Draw the reward of a step over the change of the score it made, for each published form (paper Eq. 6).

    Columns: form (``v1``, ``v2``), case (``edited``, ``neutral``, ``error``), delta (change of the score as a
    share of the gap between starter and best; ignored unless edited), reward.
    """
    need(df, "reward_shape", "form", "case", "delta", "reward")
    titles = {"v1": "v1: σ(100 · Δ)", "v2": "v2: Δ"}
    forms = list(dict.fromkeys(df["form"]))
    with styled():
        figure = new_figure(4.2 * len(forms), 3.4)
        axes = figure.subplots(1, len(forms), squeeze=False)[0]
        for axis, form in zip(axes, forms, strict=True):
            part = df[df["form"] == form]
            edited = part[part["case"] == "edited"].sort_values("delta")
            axis.plot(
                edited["delta"], edited["reward"], color=look("edited")[1], lw=2.4, label="edited and scored"
            )
            for case, label, style in (
                ("neutral", "neutral or corner", (0, (4, 2))),
                ("error", "invalid or error", ":"),
            ):
                for value in part[part["case"] == case]["reward"].head(1):
                    colour = MUTED if case == "neutral" else look("invalid")[1]
                    axis.axhline(value, color=colour, ls=style, lw=1.8, label=label)
            axis.set_title(titles.get(form, form))
            axis.set_xlabel("Δ: change of the score, share of the gap")
            axis.set_ylabel("reward of the step")
            axis.margins(y=0.08)
        axes[0].legend(loc="best")
        footer(figure, df[["form"]], "formula, not a measurement; invalid and error get the same")
    return figure
