"""The first lines of a report: what a run showed, computed from its files and never written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import nan
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from mlagent_lib.results.evaluation import DIFFERENCES, KEPT
from mlagent_lib.results.intervals import paired_difference
from mlagent_lib.results.judge import OPPOSITE, REPRODUCED, TOO_FEW, UNCLEAR
from mlagent_lib.results.reading import reading_sentence
from mlagent_lib.results.run_folder import RunFolder
from mlagent_lib.results.style import ends, look, number

AFTER, BEFORE, FIXED = "rl", "sft", "fixed-edit"
BESIDE = (BEFORE, FIXED)  # whom the policy after RL is compared with in a number each
SUBJECTS = {  # what reads nothing: the measure it is compared by, and how both are spoken of
    FIXED: ("gap", "The policy after RL", "the best fixed edit"),
    "fixed-sequence": ("gap", "The policy after RL", "the best fixed sequence"),
    "random-kept": ("gap", "By its last submission the policy after RL", "the best that random ideas kept"),
    "random-ideas": ("kept", "By its best one kept it", "the best that random ideas kept"),
}
ALARMS = pd.read_csv(Path(__file__).with_name("alarms.csv"))  # ours: see `alarms`
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
    """The first screen: what a fixed edit says to the result, RL against SFT, numbers, alarms, limits."""

    headline: str
    sentence: str
    others: list[str]
    reading: str
    tiles: list[Tile]
    alarms: list[str]
    caveats: list[str]


def _with_interval(value: float, low: float, high: float) -> str:
    return f"{'+' if value > 0 else ''}{number(value)} {ends(low, high) or '(no interval)'}"


def against(differences: pd.DataFrame, name: str = FIXED) -> str:
    """Return whether the policy after RL closes more of the gap than one that reads nothing; "" if not known.

    Args:
        differences: A `difference_table`.
        name: A key of `SUBJECTS`.

    Example:
        >>> row = {"after": "rl", "before": "fixed-edit", "measure": "gap", "split": "held-in",
        ...        "difference": 0.004, "low": -0.05, "high": 0.06, "zero": "includes"}
        >>> print(*against(pd.DataFrame([row])).split(" ("), sep="\\n")
        The policy after RL cannot be told from the best fixed edit
        RL minus it, held-in: +0.00 [−0.05, 0.06]).
    """
    measure, subject, noun = SUBJECTS[name]
    pair = (differences["after"] == AFTER) & (differences["before"] == name)
    rows = differences[pair & (differences["measure"] == measure) & (differences["split"] != "all")]
    if rows.empty:
        return ""
    told = {row.split: _with_interval(row.difference, row.low, row.high) for row in rows.itertuples()}
    said = f"{subject} cannot be told from {noun}"
    if set(rows["zero"]) == {"unknown"}:
        said += " for want of an interval"
    for side, word in (("below", "less"), ("above", "more")):
        if found := sorted(set(rows[rows["zero"] == side]["split"])):
            only = "" if len(found) == len(told) else f", but on {' and '.join(found)} tasks only"
            said = f"{subject} closes {word} of the gap than {noun}{only}"
    sides = "; ".join(f"{split}: {value}" for split, value in told.items())
    return f"{said} (RL minus it, {sides})."


def alarms(metrics: Iterable[Mapping], reading: pd.DataFrame | None) -> list[str]:
    """Return the alarms that ring, in words; their limits are in ``alarms.csv``.

    Args:
        metrics: Rows of GRPO's ``metrics.jsonl``.
        reading: A `reading_table`, where there is one.

    Example:
        >>> alarms([{"step": i, "kl": 0.2 * i, "entropy": 0.4, "share_invalid": 0.0} for i in range(3)], None)
        ['KL to the policy before RL, nats per token, last third of the updates: 0.40, limit 0.3']
    """
    rows = pd.DataFrame([row for row in metrics if row.get("split") in (None, "train")])
    found, third = {}, max(1, len(rows) // 3)
    for name in set(rows) & set(ALARMS["number"]):
        found[name] = rows[name][-third:].mean() / (rows[name][:third].mean() if name == "entropy" else 1.0)
    if reading is not None:
        own = reading[reading["policy"] == AFTER]
        found |= {name: own[name].mean() for name in ("share", "unchanged") if len(own)}
    rung = []
    for alarm in ALARMS.itertuples():
        value = found.get(alarm.number, nan)
        if value > alarm.limit if alarm.rings == "above" else value < alarm.limit:
            rung.append(f"{alarm.words}: {value:.2f}, limit {alarm.limit:g}")
    return rung


def _gap_tile(run: RunFolder, row) -> Tile:
    overall = run.tables.get("overall", pd.DataFrame())
    note = f"{int(row.tasks)} tasks, {int(row.n)} trajectories, seeds: {int(row.seeds)}"
    if not overall.empty:
        gaps = overall[overall["split"] == row.split].set_index("policy")["gap_closed"]
        if {AFTER, row.before} <= set(gaps.index):
            before = f"{number(gaps[row.before])} {look(row.before).label}"
            note = f"from {before} to {number(gaps[AFTER])} after RL; {note}"
    what = "SFT" if row.before == BEFORE else look(row.before).label
    label = f"{row.split} tasks: share of the gap to the best known score, RL − {what}"
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
        once = (overall["split"] == "all") & ~overall["policy"].isin(KEPT.values())
        lost, kept = overall[once][["unscored", "trajectories"]].sum().astype(int)
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
    gaps = table[(table["after"] == AFTER) & (table["measure"] == "gap")]
    differences = gaps[gaps["before"] == BEFORE]
    beside = (gaps[(gaps["before"] == name) & (gaps["split"] != "all")] for name in BESIDE)
    tiles = [_gap_tile(run, row) for rows in beside for row in rows.itertuples()]
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
    reading = run.tables.get("reading")
    told = "" if reading is None else reading_sentence(reading)
    rung = alarms(run.metrics, reading)
    others = [said for name in SUBJECTS if name != FIXED and (said := against(table, name))]
    return FirstScreen(against(table), sentence, others, told, tiles, rung, _caveats(run, differences))
