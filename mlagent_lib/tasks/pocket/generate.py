"""Makes checked tasks of the pocket suite's form with known structure, as many as are wanted.

Each draws what `made.yaml` offers for its modality: a kind and its metric, facts that decide a block, and
which two of the starter's blocks do not fit them. The rows make the facts true (`making`). A task is kept
only where the script that fits beats the starter clearly and no single edit does it alone; else it is drawn
anew.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mlagent_lib.core.files import read_yaml, write_json
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.folder import add_to_card, drafted, write_tables, write_texts
from mlagent_lib.tasks.grading import LABEL_SETS
from mlagent_lib.tasks.metrics import get_metric
from mlagent_lib.tasks.pocket.audit import THREADS
from mlagent_lib.tasks.pocket.cards import CARDS, COUNTS
from mlagent_lib.tasks.pocket.catalogue import edits, family_of_key
from mlagent_lib.tasks.pocket.making import sample
from mlagent_lib.tasks.pocket.measure import Measurement, rounded, run_trusted, share_of_gap
from mlagent_lib.tasks.pocket.suite import GRAPH
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.spec import TaskSpec
from mlagent_lib.tasks.splits import normalised_rows
from mlagent_lib.tasks.task import load_task

STRUCTURE = "structure.json"
HIDDEN = 400  # rows of each hidden set: ours, as many as the smallest sets of the suite
LEAST_GAIN = 0.2  # of the way from the starter to a perfect score, as the suite's tasks have it
MOST_ALONE = 0.75  # of the gap: what one of the two edits may close
# Ours: what an edit that helps in many places may close where other models fit.
GENERAL, MOST_GENERAL = ("model/forest/100/5", "learning/vote/60"), 0.3

TREES = {"model/forest", "model/boosting"}
# Ours: pairs of blocks that do not fit; any learning edit mends one that leaves rows out, so it is rarer.
PAIRS = (("data", "model"),) * 3 + (("data", "learning"), ("model", "learning"))
TRIES = 40  # ours; the more restricted draws take three on average
_GOALS = {card.metric: card.goal for card in CARDS}
_TOLD = {
    "baseline": "the starter, run once",
    "best": "the best of the scripts that the generator knows to fit; nothing was searched",
}

_ASKED = {
    "label": "The answer is the class of a row.",
    "probability": "The answer is the probability of each class.",
    "binary": "The answer is the probability of class 1.",
    "rank": "The answer is the five most likely classes, best first.",
    "regression": "The answer is a number.",
}


@cache
def structures() -> dict[str, dict]:
    """Return what ``made.yaml`` offers, by modality."""
    found = read_yaml(Path(__file__).with_name("made.yaml"))
    return {name: offer for name, offer in found.items() if "kinds" in offer}


@dataclass(frozen=True)
class Drawn:
    """What was drawn for one task.

    Attributes:
        answers: Number of classes, 1 for a number.
        facts: The fact that decides each block; a block may have none.
        wrong: The two blocks of the starter that do not fit.
        starter: Key of each of the starter's blocks.
        right: Keys of the edits that fit, by block.
        rows: Visible rows.
    """

    modality: str
    kind: str
    metric: str
    answers: int
    facts: dict[str, str]
    wrong: tuple[str, ...]
    starter: dict[str, str]
    right: dict[str, list[str]]
    rows: int

    def block(self, key: str) -> str:
        """Return the lines of an edit of the task's catalogue."""
        return next(edit.block for edit in edits(self.modality, self.kind) if edit.key == key)


def draw_plan(draws: np.random.Generator, modality: str) -> Drawn:
    """Return what a task of a modality shall be.

    Example:
        >>> plan = draw_plan(rng(0, "example"), "graph")
        >>> plan.kind in ("label", "probability"), plan.facts["data"], len(plan.wrong)
        (True, 'most links stay in a class', 2)
    """

    def one(options: Sequence) -> object:
        return options[int(draws.integers(len(options)))]

    offer = structures()[modality]
    kind, metric, *classes = one(offer["kinds"]).split("/")
    wrong = one(PAIRS)
    known = {edit.key for edit in edits(modality, kind)}

    def fitting(axis: str, rule: dict, side: str) -> list[str]:
        return [key for key in (f"{axis}/{name}" for name in rule[side]) if key in known]

    def fits(axis: str, rule: dict) -> bool:
        goes_with = facts["model"] in rule.get("with", [facts["model"]])
        is_graded_so = metric in rule.get("metrics", [metric])
        return goes_with and is_graded_so and all(fitting(axis, rule, side) for side in ("right", "wrong"))

    models = [fact for fact, rule in offer["model"].items() if metric in rule.get("metrics", [metric])]
    facts, starter, right = {"model": one(models)}, {}, {}
    for axis in ("model", "data", "learning"):
        options = [fact for fact, rule in offer[axis].items() if fits(axis, rule)]
        if axis == "learning" and axis not in wrong:  # where all rows are used, nothing shows that they count
            options = ["", *(fact for fact in options if fact != "every row counts")]
        facts.setdefault(axis, one(options))
        rule = offer[axis].get(facts[axis], {"right": ["plain"]})
        right[axis] = fitting(axis, rule, "right")
        starter[axis] = one(fitting(axis, rule, "wrong")) if axis in wrong else right[axis][0]
    answers, rows = int(classes[0]) if classes else 1, one(offer["sizes"])
    return Drawn(modality, kind, metric, answers, facts, wrong, starter, right, rows)


def spec_of(name: str, plan: Drawn) -> TaskSpec:
    """Return the card of a plan."""
    stated = [fact for fact in plan.facts.values() if fact]
    stated += [f"{COUNTS[plan.answers]} classes"] if plan.answers > 1 else []
    offer = structures()[plan.modality]
    state = "categories" if "categories that matter" in stated else offer["state"]
    asked = _ASKED["binary" if plan.answers == 2 and plan.kind == "probability" else plan.kind]
    return TaskSpec(
        name=name,
        **{name: getattr(plan, name) for name in ("modality", "kind", "metric")},
        **{axis: plan.block(key) for axis, key in plan.starter.items()},
        goal=_GOALS[plan.metric],
        description=f"{offer['about']} {asked}",
        facts=(*stated, state),
        split="held-in",
        rows=(plan.rows, HIDDEN, HIDDEN),
        provenance="generated by this package with known structure",
    )


class _Dropped(Exception):
    """A draw that is not kept, with the reason."""


def _demand_worth(work: Measurement, plan: Drawn, right: dict[str, str]) -> None:
    """Drop a drawn task, given the blocks that fit, unless two edits are worth their while, and only both."""
    start, top = (work.run(blocks).scores for blocks in (work.blocks, right))
    if start is None or top is None:
        raise _Dropped("a script fails")
    perfect = get_metric(plan.metric).perfect
    if any((top[part] - start[part]) / ((perfect - start[part]) or 1) < LEAST_GAIN for part in LABEL_SETS):
        raise _Dropped("little to gain")
    low, high = (work.sign * scores["feedback"] for scores in (start, top))

    def much(axis: str, block: str, most: float) -> bool:
        return work.value(work.blocks | {axis: block}) - low > most * (high - low)

    if any(much(axis, right[axis], MOST_ALONE) for axis in plan.wrong):
        raise _Dropped("one edit does it")
    if TREES & {family_of_key(key) for key in plan.right["model"]}:
        return
    # Whatever replaces a learning block that leaves rows out mends it.
    asked = GENERAL[:1] if plan.facts["learning"] == "every row counts" else GENERAL
    if any(much(key.split("/")[0], plan.block(key), MOST_GENERAL) for key in asked):
        raise _Dropped("an edit that helps in many places does it")


def _best_of(
    work: Measurement, plan: Drawn, fitting: dict[str, str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the best script of edits that fit, and the fitting edits that run, the best ones first."""
    best, right = dict(fitting), {}
    for axis in ("model", "data", "learning"):
        value = {key: work.value(best | {axis: plan.block(key)}) for key in plan.right[axis]}
        right[axis] = sorted((k for k in value if value[k] > float("-inf")), key=lambda k: -value[k])
        best[axis] = plan.block(right[axis][0])
    return best, right


def _write(folder: Path, name: str, plan: Drawn, draws: np.random.Generator) -> None:
    """Write a task into a folder, or drop it."""
    spec = spec_of(name, plan)
    total = sum(spec.rows)
    rows = sample(draws, plan.modality, total, plan.answers, set(plan.facts.values()))
    if normalised_rows(rows.inputs).duplicated().any():
        raise _Dropped("rows are repeated")
    cuts = (plan.rows * 3 // 4, plan.rows, plan.rows + HIDDEN, total)
    target, classes = rows.targets["target"].to_numpy(), list(range(plan.answers)) if plan.answers > 1 else []
    if not all(set(classes) <= set(target[low:high]) for low, high in pairwise((0, *cuts))):
        raise _Dropped("a class is missing")
    write_tables(folder, rows, spec.rows, draws)
    write_texts(folder, spec, rows, classes, more=GRAPH if plan.modality == "graph" else ())
    work = Measurement(load_task(folder), run_trusted)
    fitting = {axis: plan.block(keys[0]) for axis, keys in plan.right.items()}
    _demand_worth(work, plan, fitting)
    best, right = _best_of(work, plan, fitting)
    _demand_worth(work, plan, best)  # again, since that may be another script
    scores = {"baseline": work.run(work.blocks).scores, "best": work.run(best).scores}
    stated = {entry: rounded(own) | {"provenance": _TOLD[entry]} for entry, own in scores.items()}
    add_to_card(folder, **stated)
    low, high = (work.sign * own["feedback"] for own in scores.values())
    values = {axis: work.value(work.blocks | {axis: best[axis]}) for axis in plan.wrong}
    content = {name: getattr(plan, name) for name in ("modality", "kind", "metric", "facts", "starter")}
    content |= {"wrong": list(plan.wrong), "right": right}
    content["alone"] = {axis: share_of_gap(value, low, high) for axis, value in values.items()}
    write_json(folder / STRUCTURE, content)


def task_name(number: int) -> str:
    """Return the name of a generated task, which no task of the suite has.

    Example:
        >>> task_name(7)
        'made-0007'
    """
    return f"made-{number:04d}"


def make_task(out: Path, number: int, seed: int, modalities: Sequence[str]) -> list[str]:
    """Make the task ``made-NNNN`` below a folder, and return why the draws before it were not kept.

    Raises:
        TaskError: No draw could be kept.
    """
    name, dropped, modality = task_name(number), [], modalities[(number - 1) % len(modalities)]
    for attempt in range(TRIES):
        draws = rng(seed, "made", number, attempt)
        try:
            with drafted(out / name) as draft:
                _write(draft, name, draw_plan(draws, modality), draws)
            return dropped
        except _Dropped as reason:
            dropped.append(str(reason))
    raise refusal("no draw kept", tries=TRIES, name=name)


def generate(
    out: Path,
    count: int,
    seed: int,
    modalities: Sequence[str],
    workers: int = 2,
    tell: Callable[[int, int], None] = lambda done, dropped: None,
) -> Counter:
    """Make tasks ``made-0001``, ... in a folder; those that are there already, from the same draws, are kept.

    Args:
        out: The folder; it also gets ``made.json``, which says what was asked for.
        count: How many tasks.
        seed: Root of every draw. A task does not depend on how many others are made.
        modalities: Of the tasks, in turn.
        workers: Tasks at a time, one core each.
        tell: Told after each task how many are done, and how many draws were not kept.

    Returns:
        How often draws were not kept, by reason.

    Raises:
        TaskError: The folder holds tasks of other draws; no draw of a task could be kept.
    """
    asked = {"seed": seed, "modalities": list(modalities)}
    record = out / "made.json"
    if record.is_file() and json.loads(record.read_text(encoding="utf-8")) != asked:
        raise refusal("other draws", out=out)
    write_json(record, asked)
    todo = [number for number in range(1, count + 1) if not (out / task_name(number)).is_dir()]
    reasons, done = Counter(), count - len(todo)
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read by the workers when they load numpy
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = [pool.submit(make_task, out, number, seed, asked["modalities"]) for number in todo]
        try:
            for job in as_completed(jobs):
                reasons.update(job.result())
                done += 1
                tell(done, reasons.total())
        finally:  # after an error or a stop nothing new is begun
            pool.shutdown(cancel_futures=True)
    return reasons
