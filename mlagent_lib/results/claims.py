"""The paper's claims C1 to C7: its number, ours, the statistical test and a verdict that no hand wrote.

A claim that compares arms is *reproduced at this scale* where the interval of the difference lies above zero
and every seed agrees; it is *the opposite* where both say so on the other side; else there is *no clear
difference*. With three seeds a bootstrap over seeds is too narrow, which is why the seeds have to agree too,
and why each one's difference is printed.

The arms of claims that end close get two seeds more (`ablations.CLOSE`). All seeds count then, and all have
to agree: two more cannot turn an unclear claim into a reproduced one where the first three disagreed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlagent_lib.results.evaluation import Tables, contrast, mean_of, named
from mlagent_lib.results.judge import NOT_TESTABLE, OPPOSITE, REPRODUCED, TOO_FEW, UNCLEAR, judge
from mlagent_lib.results.paper.numbers import paper_value
from mlagent_lib.results.style import number

BOOTSTRAP = "paired hierarchical bootstrap (95 %), and all seeds on one side"
TREND = (
    "slope over 0, 3, 6, 9 tasks: half widths of its two differences in quadrature, and all seeds on one side"
)
TABLE = {"gap": "trajectories", "gain": "trajectories", "reward": "step_rewards"}
REWARD_PARTS = ("no-performance", "no-format", "no-corner")
TASK_COUNTS = {"sft": 0, "tasks-3": 3, "tasks-6": 6, "rl": 9}
PAIRS = (
    ("rl", "sft"),
    ("rl", "base"),
    ("rl", "rl-from-base"),
    ("rl", "one-idea"),
    ("rl", "random-start"),
    ("rl", "episode-wise"),
    ("rl", "episode-small"),
    *(("rl", name) for name in REWARD_PARTS),
    ("rl", "reward-v2"),
    ("rl", "no-thought"),
    ("rl", "tasks-3"),
    ("rl", "tasks-6"),
    ("rl", "pool-36"),
    ("rl", "mix-25"),
    ("rl", "mix-50"),
    ("sft", "base"),
)


@dataclass(frozen=True)
class Comparison:
    """What one comparison says.

    Attributes:
        text: Number, interval, seeds and n, to print.
        verdict: One of the verdicts of this module.
    """

    text: str
    verdict: str


def compared(tables: Tables, after: str, before: str, measure: str = "gap", split: str = "all") -> Comparison:
    """Return what the difference of two arms says; a missing arm is too few seeds.

    Args:
        tables: Of `arms.load`, or of a run (see `rundata.tables_of`).
        after: Arm that the claim says to be better.
        before: The other one.
        measure: See `evaluation.measured`.
        split: See `evaluation.measured`.
    """
    found = contrast(tables[TABLE[measure]], after, before, measure, split)
    if found is None:
        return Comparison(f"{after} − {before}: not run", TOO_FEW)
    interval, each = found
    seeds = ", ".join(_signed(value) for value in each)
    text = (
        f"{after} − {before}: {_signed(interval.value)} [{number(interval.low)}, {number(interval.high)}]"
        f" (seeds {seeds}; n = {interval.n})"
    )
    return Comparison(text, judge(interval.low, interval.high, each))


def _signed(value: float) -> str:
    return ("+" if value > 0 else "") + number(value)


def claim_table(tables: Tables) -> pd.DataFrame:
    """Return one line per claim: claim, statement, paper, ours, test, verdict, note.

    Args:
        tables: Of `arms.load`, or of a run (see `rundata.tables_of`).
    """
    makers = (_larger, _generalises, _step_wise, _fine_tuning, _reward, _task_count, _improves)
    return pd.DataFrame([maker(tables) for maker in makers])


def _line(claim: str, statement: str, paper: str, ours: str, test: str, verdict: str, note: str) -> dict:
    line = {"claim": claim, "statement": statement, "paper": paper, "ours": ours}
    return line | {"test": test, "verdict": verdict, "note": note}


def _gain(split: str, **filters) -> str:
    return f"{number(paper_value('gain', split=split, **filters))} %"


def _pair(**filters) -> str:
    return f"{_gain('held-in', **filters)} held-in, {_gain('held-out', **filters)} held-out"


def _larger(tables: Tables) -> dict:
    mine = mean_of(tables["trajectories"], "rl", "gain", "held-out")
    ours = "" if mine is None else f"held-out gain of the pocket model {mine}"
    return _line(
        "C1", "A 7B model beats much larger ones.",
        f"held-out gain: ML-Agent {_gain('held-out', topic='components', method='full')}, "
        f"DeepSeek-R1 {_gain('held-out', topic='baseline-lines', method='DeepSeek-R1')} (v1)",
        ours, "none", NOT_TESTABLE,
        "Needs Qwen2.5-7B on a GPU and other models behind an address: `mlagent run --profile gpu`, then "
        "`mlagent agent --policy openai:MODEL@URL --tasks all --k 8 --out runs/gpu-seed0`.",
    )  # fmt: skip


def _generalises(tables: Tables) -> dict:
    found = compared(tables, "rl", "sft", split="held-out")
    return _line(
        "C2", "RL on nine tasks generalises to ten unseen ones.",
        f"held-out gain {_gain('held-out', topic='rl-curve', method='step-wise RL', x=0)} after SFT, "
        f"{_gain('held-out', topic='components', method='full')} after RL",
        f"gap closed on held-out tasks, {found.text}", BOOTSTRAP, found.verdict,
        "The held-out pocket tasks have relatives among the nine.",
    )  # fmt: skip


def charged_minutes(tables: Tables, policies: Sequence[str]) -> dict[str, float]:
    """Return the charged minutes of arms' trainings, mean over the seeds that those which were run share.

    Args:
        tables: Of `arms.load`, or of a run (see `rundata.tables_of`).
        policies: Arms.
    """
    spent = named(tables["curves"]).groupby(["who", "seed"])["charged"].max().unstack("who") / 60.0
    return spent.reindex(columns=[name for name in policies if name in spent]).dropna().mean().to_dict()


def _step_wise(tables: Tables) -> dict:
    found, fair = compared(tables, "rl", "episode-wise"), compared(tables, "rl", "episode-small")
    spent = charged_minutes(tables, ("rl", "episode-wise", "episode-small"))
    minutes = ", ".join(f"{name} {number(value, 1)}" for name, value in spent.items())
    return _line(
        "C3", "Step-wise RL beats episode-wise RL at equal time.",
        f"step-wise {_pair(topic='components', method='full')}; "
        f"episode-wise {_pair(topic='components', method='without step-wise RL')}",
        f"gap closed on all tasks, {found.text}; with as many actions an update, {fair.text}; charged "
        f"minutes a seed: {minutes}",
        BOOTSTRAP, found.verdict,
        "Equal charged time: processor seconds and the recorded duration of every script. The verdict is on "
        "equal rollouts an update, as we read the paper. Where a full arm was made again, the episode-wise "
        "arm may still have the time of the earlier one.",
    )  # fmt: skip


def _fine_tuning(tables: Tables) -> dict:
    found = compared(tables, "rl", "rl-from-base")
    one, drawn = compared(tables, "rl", "one-idea"), compared(tables, "rl", "random-start")
    return _line(
        "C4", "Exploration-enriched fine-tuning is needed.",
        f"with {_pair(topic='components', method='full')}; without "
        f"{_pair(topic='components', method='without exploration-enriched SFT')}",
        f"gap closed on all tasks, {found.text}; diversity alone: {one.text}; {drawn.text}",
        BOOTSTRAP, found.verdict,
        "The pocket base already knows the reply format from its pretraining, so it starts higher than a "
        "base model of 7B. The verdict is on RL from the base model, as in the paper.",
    )  # fmt: skip


def _reward(tables: Tables) -> dict:
    parts = {name: compared(tables, "rl", name) for name in REWARD_PARTS}
    verdicts = {found.verdict for found in parts.values()}
    verdict = next(v for v in (TOO_FEW, OPPOSITE, UNCLEAR, REPRODUCED) if v in verdicts)
    full = paper_value("gain", topic="reward", version="v2", method="full", task="cifar-10")
    less = ", ".join(
        f"{name} {number(paper_value('gain', topic='reward', version='v2', method=name, task='cifar-10'))}"
        for name in ("without performance", "without format", "without corner")
    )
    return _line(
        "C5", "Each part of the reward matters.",
        f"gain on cifar-10 in % (v2 Table 3): full {number(full)}, {less}",
        "gap closed on all tasks, " + "; ".join(found.text for found in parts.values()),
        BOOTSTRAP + ", for each of the three parts", verdict,
        "The weakest of three verdicts counts. The paper gives the value of a part that is taken away for "
        "performance only.",
    )  # fmt: skip


def slope(counts: Sequence[float], values: Sequence[float]) -> float:
    """Return the least-squares slope of values over counts.

    Example:
        >>> slope([0, 3, 6, 9], [0.0, 0.3, 0.6, 0.9])
        0.1
    """
    return round(float(np.polyfit(counts, values, 1)[0]), 12)


def _shared_seeds(rows: pd.DataFrame, arms: Iterable[str]) -> pd.DataFrame:
    """Return the rows of the seeds that all of these arms have."""
    shared = set.intersection(*(set(rows[rows["who"] == arm]["seed"]) for arm in arms))
    return rows[rows["seed"].isin(shared)]


def _task_count(tables: Tables) -> dict:
    paper = "held-out gain on 0, 3, 6, 9 tasks: " + ", ".join(
        f"{number(paper_value('gain', topic='task-count', split='held-out', x=count))} %"
        for count in TASK_COUNTS.values()
    )
    claim, statement = "C6", "More training tasks help."
    # The slope is a weighted sum of the arms: with counts 0, 3, 6, 9 it is that of (rl - sft) and
    # (tasks-6 - tasks-3), 9 and 3 apart, weighted as least squares does.
    rows = _shared_seeds(named(tables["trajectories"]), TASK_COUNTS)
    outer, inner = contrast(rows, "rl", "sft", "gap"), contrast(rows, "tasks-6", "tasks-3", "gap")
    if outer is None or inner is None:
        return _line(claim, statement, paper, "arms with fewer tasks: not run", TREND, TOO_FEW, "")
    each = [0.1 * o + i / 30.0 for o, i in zip(outer[1], inner[1], strict=True)]
    middle = 0.1 * outer[0].value + inner[0].value / 30.0
    half = np.hypot(0.1 * (outer[0].high - outer[0].low) / 2.0, (inner[0].high - inner[0].low) / 60.0)
    means = ", ".join(
        f"{count}: {number(found.value)}"
        for name, count in TASK_COUNTS.items()
        if (found := mean_of(rows, name, "gap")) is not None
    )
    ours = (
        f"gap closed on all tasks, slope {number(middle, 3)} a task [{number(middle - half, 3)}, "
        f"{number(middle + half, 3)}] (seeds {', '.join(number(value, 3) for value in each)}); means {means}"
    )
    note = "The same number of updates for each; three tasks are one image, one table, one text task."
    return _line(claim, statement, paper, ours, TREND, judge(middle - half, middle + half, each), note)


def _improves(tables: Tables) -> dict:
    found = compared(tables, "rl", "sft", measure="reward")
    curve = named(tables["curves"]).query("who == 'rl' and split == 'holdout'")
    ends = [
        (part.sort_values("update")["reward"].iloc[0], part.sort_values("update")["reward"].iloc[-1])
        for _, part in curve.groupby("seed")
    ]
    rises = sum(last > first for first, last in ends)
    verdict = found.verdict if found.verdict != REPRODUCED or rises == len(ends) else UNCLEAR
    return _line(
        "C7", "Performance keeps improving as RL goes on.",
        f"held-in gain {_gain('held-in', topic='rl-curve', method='step-wise RL', x=0)} to "
        f"{_gain('held-in', topic='rl-curve', method='step-wise RL', x=39)} over 39 updates",
        f"step reward on test states, {found.text}; on states kept back the curve ends above its start in "
        f"{rises} of {len(ends)} seeds",
        BOOTSTRAP + ", and a curve that rises in every seed", verdict,
        "The checkpoint is chosen on the states of the curve; the test states are others.",
    )  # fmt: skip
