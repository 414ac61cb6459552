"""The first lines of a report: what a run showed, computed from its files and never written by hand."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import isfinite

import pandas as pd

from mlagent_lib.results.evaluation import (
    DIFFERENCES,
    difference_table,
    scales_from_table,
    trajectory_table,
)
from mlagent_lib.results.intervals import Interval, paired_difference
from mlagent_lib.results.judge import OPPOSITE, REPRODUCED, TOO_FEW, UNCLEAR
from mlagent_lib.results.run_folder import RunFolder
from mlagent_lib.results.style import number

__all__ = ["Tile", "FirstScreen", "first_screen"]

AFTER, BEFORE = "rl", "sft"
PHRASES = {
    REPRODUCED: "improved on SFT",
    OPPOSITE: "made the policy worse than after SFT",
    UNCLEAR: "showed no clear difference from SFT",
}
THIS_RUN = {
    "above": "ended above SFT",
    "below": "ended below SFT",
    "includes": "cannot be told from SFT",
    "unknown": "differs by an amount whose uncertainty cannot be told",
}


@dataclass(frozen=True)
class Tile:
    """One number of the first screen: what it is, the number with its interval, and what it rests on."""

    label: str
    value: str
    note: str


@dataclass(frozen=True)
class FirstScreen:
    """The first screen: a sentence, its numbers, and what limits them."""

    sentence: str
    tiles: list[Tile] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)


def differences_of(run: RunFolder) -> pd.DataFrame:
    """Return the RL minus SFT rows of ``differences.csv``; where it is absent, from the trajectories."""
    table = run.tables.get("differences")
    if table is None:
        if "tasks" not in run.tables or not run.trajectories:
            return pd.DataFrame(columns=DIFFERENCES)
        scales = scales_from_table(run.tables["tasks"])
        rows = [row for row in run.trajectories if row.get("task") in scales]
        found = trajectory_table(rows, scales) if rows else None
        table = difference_table(found, [(AFTER, BEFORE)] if rows else (), measures=("gap",))
    table = table[(table["after"] == AFTER) & (table["before"] == BEFORE)]
    return table[table["measure"] == "gap"]


def _with_interval(value: float, low: float, high: float) -> str:
    sign = "+" if value > 0 else ""
    ends = f" [{number(low)}, {number(high)}]" if isfinite(low) else " (no interval)"
    return f"{sign}{number(value)}{ends}"


def _gap_tile(run: RunFolder, row) -> Tile:
    overall = run.tables.get("overall", pd.DataFrame())
    note = f"{int(row.tasks)} tasks, {int(row.n)} trajectories, seeds: {int(row.seeds)}"
    if not overall.empty:
        ends = overall[overall["split"] == row.split].set_index("policy")["gap_closed"]
        if {AFTER, BEFORE} <= set(ends.index):
            note = f"from {number(ends[BEFORE])} after SFT to {number(ends[AFTER])} after RL; {note}"
    label = f"{row.split} tasks: share of the gap to the best known score, RL − SFT"
    return Tile(label, _with_interval(row.difference, row.low, row.high), note)


def _reward_tile(run: RunFolder) -> Tile | None:
    """Return reward on states never trained on: a paired interval if measured, else first and last."""
    table = run.tables.get("step_rewards")
    if table is not None and {AFTER, BEFORE} <= set(table.get("policy", ())):
        unit = "state" if "state" in table else None
        found: Interval = paired_difference(table, AFTER, BEFORE, "reward", unit=unit)
        note = f"{found.n} {'states' if unit else 'steps'} of {found.tasks} tasks, seeds: {found.seeds}"
        value = _with_interval(found.value, found.low, found.high)
        return Tile("mean step reward on states not trained on, RL − SFT", value, note)
    rows = [row for row in run.metrics if row.get("split") == "holdout" and row.get("reward") is not None]
    if len(rows) < 2:
        return None
    first, last = rows[0], rows[-1]
    note = f"update {first['step']} to update {last['step']}, one measurement each, no interval"
    value = f"{number(first['reward'])} → {number(last['reward'])}"
    return Tile("mean step reward on states not trained on, before and after RL", value, note)


def _validity_tile(run: RunFolder) -> Tile | None:
    rows = [row for row in run.metrics if row.get("split") == "holdout" and row.get("validity") is not None]
    if not rows:
        return None
    value = f"{number(100 * rows[0]['validity'], 0)} % → {number(100 * rows[-1]['validity'], 0)} %"
    return Tile("valid actions on states not trained on", value, "after SFT → after RL")


def _caveats(run: RunFolder, differences: pd.DataFrame) -> list[str]:
    notes = []
    if str(run.run.get("profile", "")) == "smoke":
        notes.append("The smoke profile tests the machinery: its numbers say nothing about the method.")
    if not differences.empty and int(differences["seeds"].max()) == 1:
        notes.append(
            "One seed: the intervals cover the draw of trajectories, not what another training would give."
        )
    overall = run.tables.get("overall", pd.DataFrame())
    if not overall.empty:
        lost = int(overall[overall["split"] == "all"]["unscored"].sum())
        total = int(overall[overall["split"] == "all"]["trajectories"].sum())
        notes.append(f"{lost} of {lost + total} trajectories could not be scored by us and are left out.")
    lost_steps = sum(int(row.get("unscored") or 0) for row in run.metrics)
    if lost_steps:
        notes.append(f"{lost_steps} actions during RL could not be scored by us and entered no gradient.")
    if run.problems:
        notes.append(f"Missing or damaged, named under What was run: {', '.join(run.problems)}.")
    return notes


def first_screen(run: RunFolder) -> FirstScreen:
    """Return the verdict of a run: RL against SFT on both splits, in words set by the intervals."""
    differences = differences_of(run)
    tiles = [_gap_tile(run, row) for row in differences.itertuples() if row.split in ("held-in", "held-out")]
    tiles += [tile for tile in (_reward_tile(run), _validity_tile(run)) if tile]
    if differences.empty:
        sentence = "No verdict yet: the evaluation of the policies after SFT and after RL is not there."
    else:
        own = {row.split: PHRASES.get(row.verdict, THIS_RUN[row.zero]) for row in differences.itertuples()}
        parts = [f"on {split} tasks it {own[split]}" for split in ("held-in", "held-out") if split in own]
        sentence = f"Step-wise RL: {', '.join(parts)} (share of the gap closed, 95 % intervals)."
        if (differences["verdict"] == TOO_FEW).any():
            sentence += " Whether that holds is not decided: too few seeds."
    return FirstScreen(sentence, tiles, _caveats(run, differences))
