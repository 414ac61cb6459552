"""The first lines of a report: what a run showed, computed from its files and never written by hand."""

from __future__ import annotations

from math import isfinite
from typing import NamedTuple

import pandas as pd

from mlagent_lib.results.evaluation import DIFFERENCES
from mlagent_lib.results.intervals import paired_difference
from mlagent_lib.results.judge import OPPOSITE, REPRODUCED, TOO_FEW, UNCLEAR
from mlagent_lib.results.run_folder import RunFolder
from mlagent_lib.results.style import number

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


class Tile(NamedTuple):
    """One number of the first screen: what it is, the number with its interval, and what it rests on."""

    label: str
    value: str
    note: str


class FirstScreen(NamedTuple):
    """The first screen: a sentence, its numbers, and what limits them."""

    sentence: str
    tiles: list[Tile]
    caveats: list[str]


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


def _held_back(run: RunFolder, name: str) -> list[dict]:
    """Return the measurements of a number on states never trained on."""
    return [row for row in run.metrics if row.get("split") == "holdout" and row.get(name) is not None]


def _reward_tiles(run: RunFolder) -> list[Tile]:
    """Return reward on states never trained on: a paired interval if measured, else first and last."""
    table, label = run.tables.get("step_rewards"), "mean step reward on states not trained on"
    if table is not None and {AFTER, BEFORE} <= set(table.get("policy", ())):
        unit = "state" if "state" in table else None
        found = paired_difference(table, AFTER, BEFORE, "reward", unit=unit)
        note = f"{found.n} {'states' if unit else 'steps'} of {found.tasks} tasks, seeds: {found.seeds}"
        return [Tile(f"{label}, RL − SFT", _with_interval(found.value, found.low, found.high), note)]
    rows = _held_back(run, "reward")
    if len(rows) < 2:
        return []
    first, last = rows[0], rows[-1]
    note = f"update {first['step']} to update {last['step']}, one measurement each, no interval"
    value = f"{number(first['reward'])} → {number(last['reward'])}"
    return [Tile(f"{label}, before and after RL", value, note)]


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
        lost, kept = overall[overall["split"] == "all"][["unscored", "trajectories"]].sum().astype(int)
        notes.append(f"{lost} of {lost + kept} trajectories could not be scored by us and are left out.")
    lost_steps = sum(int(row.get("unscored") or 0) for row in run.metrics)
    if lost_steps:
        notes.append(f"{lost_steps} actions during RL could not be scored by us and entered no gradient.")
    if run.problems:
        notes.append(f"Missing or damaged, named under What was run: {', '.join(run.problems)}.")
    return notes


def first_screen(run: RunFolder) -> FirstScreen:
    """Return the verdict of a run: RL against SFT on both splits, in words set by the intervals."""
    table = run.tables.get("differences", pd.DataFrame(columns=DIFFERENCES))
    differences = table[(table["after"] == AFTER) & (table["before"] == BEFORE) & (table["measure"] == "gap")]
    tiles = [_gap_tile(run, row) for row in differences.itertuples() if row.split in ("held-in", "held-out")]
    tiles += _reward_tiles(run)
    if rows := _held_back(run, "validity"):
        value = " → ".join(f"{number(100 * row['validity'], 0)} %" for row in (rows[0], rows[-1]))
        tiles.append(Tile("valid actions on states not trained on", value, "after SFT → after RL"))
    if differences.empty:
        sentence = "No verdict yet: the evaluation of the policies after SFT and after RL is not there."
    else:
        own = {row.split: PHRASES.get(row.verdict, THIS_RUN[row.zero]) for row in differences.itertuples()}
        parts = [f"on {split} tasks it {own[split]}" for split in ("held-in", "held-out") if split in own]
        sentence = f"Step-wise RL: {', '.join(parts)} (share of the gap closed, 95 % intervals)."
        if (differences["verdict"] == TOO_FEW).any():
            sentence += " Whether that holds is not decided: too few seeds."
    return FirstScreen(sentence, tiles, _caveats(run, differences))
