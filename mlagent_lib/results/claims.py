"""The paper's claims C1 to C7: its number, ours, the statistical test and a verdict that no hand wrote.

How an interval and the seeds' own differences, which are printed for it, become a verdict: see `judge`.

The arms of claims that end close get two seeds more (`ablations.CLOSE`). All seeds count then, and all have
to agree: two more cannot turn an unclear claim into a reproduced one where the first three disagreed.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from mlagent_lib.core.arms import ARMS
from mlagent_lib.results.evaluation import Tables, contrast, mean_of, named
from mlagent_lib.results.judge import NOT_TESTABLE, OPPOSITE, REPRODUCED, TOO_FEW, UNCLEAR, judge
from mlagent_lib.results.paper.numbers import paper_value, rl_curve
from mlagent_lib.results.style import ends, number

TABLE = {"gap": "trajectories", "gain": "trajectories", "reward": "step_rewards"}
REWARD_PARTS = ("no-performance", "no-format", "no-corner")
TASK_COUNTS = {"sft": 0, "tasks-3": 3, "tasks-6": 6, "rl": 9}
MADE_COUNTS = {arm.name: arm.made for arm in ARMS if arm.made}
AGAINST_RL = (
    "sft", "base", "rl-from-base", "one-idea", "random-start", "episode-wise", "episode-small", *REWARD_PARTS,
    "reward-v1", "reward-v2", "no-undo", "no-thought", "tasks-3", "tasks-6", "pool-36", "mix-0", "mix-50",
    "mix-75", "variance", "max-2",
)  # fmt: skip
PAIRS = (*(("rl", name) for name in AGAINST_RL), ("sft", "base"), ("made-300", "made-9"))


class Comparison(NamedTuple):
    """What one comparison says: number, interval, seeds and n to print, and one of the judge's verdicts."""

    text: str
    verdict: str


def compared(tables: Tables, after: str, before: str, measure: str = "gap", split: str = "all") -> Comparison:
    """Return what the difference of two arms says; a missing arm is too few seeds.

    ``after`` is the one that the claim says to be better; for ``measure`` and ``split`` see
    `evaluation.measured`.
    """
    found = contrast(tables[TABLE[measure]], after, before, measure, split)
    if found is None:
        return Comparison(f"{after} − {before}: not run", TOO_FEW)
    at, each = found
    seeds, sides = ", ".join(map(_signed, each)), ends(at.low, at.high) or "[no interval]"
    text = f"{after} − {before}: {_signed(at.value)} {sides} (seeds {seeds}; n = {at.n})"
    return Comparison(text, judge(at.low, at.high, each))


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def claim_table(tables: Tables) -> pd.DataFrame:
    """Return one line per claim: claim, statement, paper, ours, test, verdict, note.

    ``tables`` are those of `arms.load`, or ``trajectories``, ``step_rewards`` and ``curves`` of a run.
    """
    texts = pd.read_csv(Path(__file__).with_name("claims.csv"), keep_default_na=False)
    found = pd.DataFrame([MAKERS[claim](tables) for claim in texts["claim"]], columns=COMPUTED)
    return texts.join(found)[["claim", "statement", "paper", "ours", "test", "verdict", "note"]]


def _gain(split: str, **filters) -> str:
    return f"{number(paper_value('gain', split=split, **filters))} %"


def _pair(**filters) -> str:
    return f"{_gain('held-in', **filters)} held-in, {_gain('held-out', **filters)} held-out"


def _larger(tables: Tables) -> tuple[str, str, str]:
    paper = (
        f"held-out gain: ML-Agent {_gain('held-out', topic='components', method='full')}, "
        f"DeepSeek-R1 {_gain('held-out', topic='baseline-lines', method='DeepSeek-R1')} (v1)"
    )
    mine = mean_of(tables["trajectories"], "rl", "gain", "held-out")
    return paper, "" if mine is None else f"held-out gain of the pocket model in % {mine}", NOT_TESTABLE


def _generalises(tables: Tables) -> tuple[str, str, str]:
    paper = (
        f"held-out gain {_gain('held-out', topic='rl-curve', method='step-wise RL', x=0)} after SFT, "
        f"{_gain('held-out', topic='components', method='full')} after RL"
    )
    found = compared(tables, "rl", "sft", split="held-out")
    return paper, f"gap closed on held-out tasks, {found.text}", found.verdict


def _step_wise(tables: Tables) -> tuple[str, str, str]:
    paper = (
        f"step-wise {_pair(topic='components', method='full')}; "
        f"episode-wise {_pair(topic='components', method='without step-wise RL')}"
    )
    arms = ("rl", "episode-wise", "episode-small")
    found, fair = (compared(tables, "rl", name) for name in arms[1:])
    spent = named(tables["curves"]).groupby(["who", "seed"])["charged"].max().unstack("who") / 60.0
    spent = spent.reindex(columns=[name for name in arms if name in spent]).dropna().mean()  # of shared seeds
    minutes = ", ".join(f"{name} {number(value, 1)}" for name, value in spent.items())
    ours = f"gap closed on all tasks, {found.text}; with as many actions an update, {fair.text}; charged "
    return paper, f"{ours}minutes a seed: {minutes}", found.verdict


def _fine_tuning(tables: Tables) -> tuple[str, str, str]:
    paper = (
        f"with {_pair(topic='components', method='full')}; without "
        f"{_pair(topic='components', method='without exploration-enriched SFT')}"
    )
    found, one, drawn = (
        compared(tables, "rl", name) for name in ("rl-from-base", "one-idea", "random-start")
    )
    ours = f"gap closed on all tasks, {found.text}; diversity alone: {one.text}; {drawn.text}"
    return paper, ours, found.verdict


def _reward(tables: Tables) -> tuple[str, str, str]:
    names = ("full", "without performance", "without format", "without corner")
    how = {"topic": "reward", "version": "v2", "task": "cifar-10"}
    values = ", ".join(f"{name} {number(paper_value('gain', method=name, **how))}" for name in names)
    parts = [compared(tables, "rl", name) for name in REWARD_PARTS]
    ours = "gap closed on all tasks, " + "; ".join(found.text for found in parts)
    verdict = _weakest(*(found.verdict for found in parts))
    return f"gain on cifar-10 in % (v2 Table 3): {values}", ours, verdict


def _weakest(*verdicts: str) -> str:
    return next(verdict for verdict in (TOO_FEW, OPPOSITE, UNCLEAR, REPRODUCED) if verdict in verdicts)


def _task_count(tables: Tables) -> tuple[str, str, str]:
    counts = TASK_COUNTS.values()
    gains = ", ".join(_gain("held-out", topic="task-count", x=count) for count in counts)
    paper = f"held-out gain on {', '.join(map(str, counts))} tasks: {gains}"
    rows = named(tables["trajectories"])
    shared = set.intersection(*(set(rows[rows["who"] == arm]["seed"]) for arm in TASK_COUNTS))
    rows = rows[rows["seed"].isin(shared)]
    # The slope is a weighted sum of the arms: with counts 0, 3, 6, 9 it is that of (rl - sft) and
    # (tasks-6 - tasks-3), 9 and 3 apart, weighted as least squares does.
    outer, inner = contrast(rows, "rl", "sft", "gap"), contrast(rows, "tasks-6", "tasks-3", "gap")
    if outer is None or inner is None:
        told = compared(tables, "rl", "tasks-3").text
        return paper, f"some arms with fewer tasks: not run; nine against three, {told}", TOO_FEW
    each = [0.1 * o + i / 30.0 for o, i in zip(outer[1], inner[1], strict=True)]
    middle = 0.1 * outer[0].value + inner[0].value / 30.0
    half = np.hypot(0.1 * (outer[0].high - outer[0].low) / 2.0, (inner[0].high - inner[0].low) / 60.0)
    found = {count: mean_of(rows, name, "gap") for name, count in TASK_COUNTS.items()}
    means = ", ".join(f"{count}: {number(at.value)}" for count, at in found.items() if at is not None)
    made = [(count, mean_of(rows, name, "gap")) for name, count in MADE_COUNTS.items()]
    if told := ", ".join(f"{count}: {number(at.value)}" for count, at in made if at is not None):
        means += f"; of generated tasks {told} ({compared(tables, 'made-300', 'made-9').text})"
    seeds = ", ".join(number(value, 3) for value in each)
    # from none to three tasks the slope rises by RL itself: more of them have to help, too
    more = compared({"trajectories": rows}, "rl", "tasks-3")
    verdict = _weakest(judge(middle - half, middle + half, each), more.verdict)
    sides = ends(middle - half, middle + half, 3)
    ours = f"gap closed on all tasks, slope {number(middle, 3)} a task {sides} (seeds {seeds})"
    return paper, f"{ours}; nine against three, {more.text}; means {means}", verdict


def _improves(tables: Tables) -> tuple[str, str, str]:
    updates = rl_curve()["update"].max()
    first, last = (_gain("held-in", topic="rl-curve", method="step-wise RL", x=x) for x in (0, updates))
    found = compared(tables, "rl", "sft", measure="reward")
    curve = named(tables["curves"]).query("who == 'rl' and split == 'holdout'").sort_values("update")
    curves = [part["reward"] for _, part in curve.groupby("seed")]
    rises = sum(part.iloc[-1] > part.iloc[0] for part in curves)
    verdict = found.verdict if found.verdict != REPRODUCED or rises == len(curves) else UNCLEAR
    ours = f"step reward on test states, {found.text}; on states kept back the curve ends above its start in "
    paper = f"held-in gain {first} to {last} over {updates} updates"
    return paper, f"{ours}{rises} of {len(curves)} seeds", verdict


COMPUTED = ["paper", "ours", "verdict"]  # what a maker returns
MAKERS = {
    "C1": _larger,
    "C2": _generalises,
    "C3": _step_wise,
    "C4": _fine_tuning,
    "C5": _reward,
    "C6": _task_count,
    "C7": _improves,
}
