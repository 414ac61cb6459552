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
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.files import read_yaml, write_json
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.folder import add_to_card, drafted, write_tables, write_texts
from mlagent_lib.tasks.grading import LABEL_SETS
from mlagent_lib.tasks.metrics import get_metric
from mlagent_lib.tasks.pocket.audit import THREADS
from mlagent_lib.tasks.pocket.cards import CARDS, COUNTS
from mlagent_lib.tasks.pocket.catalogue import edits, family_of_key
from mlagent_lib.tasks.pocket.making import SIDE, sample
from mlagent_lib.tasks.pocket.measure import Measurement, run_trusted, share_of_gap
from mlagent_lib.tasks.pocket.suite import GRAPH
from mlagent_lib.tasks.spec import TaskSpec
from mlagent_lib.tasks.splits import normalised_rows
from mlagent_lib.tasks.task import load_task

STRUCTURE = "structure.json"
HIDDEN = 400  # rows of each hidden set: ours, as many as the smallest sets of the suite
LEAST_GAIN = 0.2  # of the way from the starter to a perfect score, as the suite's tasks have it
MOST_ALONE = 0.75  # of the gap: what one of the two edits may close
# Ours: what an edit that helps in many places may close where other models fit.
GENERAL, MOST_GENERAL = ("model/forest/100/5", "learning/vote/60"), 0.3
ROWS = {"tabular": (450, 600, 800), "text": (400, 500), "image": (450, 600), "graph": (450, 600)}  # ours
TREES = {"model/forest", "model/boosting"}
# Ours: pairs of blocks that do not fit; any learning edit mends one that leaves rows out, so it is rarer.
PAIRS = (("data", "model"),) * 3 + (("data", "learning"), ("model", "learning"))
TRIES = 40  # ours; the more restricted draws take three on average
_GOALS = {card.metric: card.goal for card in CARDS}
_STATED = {"tabular": "", "text": "short texts", "image": f"{SIDE} by {SIDE} pixels", "graph": "many nodes"}
_ROWS = {
    "tabular": "Rows of a table from a survey that was made up.",
    "text": "Short lines in a language that was made up.",
    "image": f"Grey pictures of {SIDE} by {SIDE} pixels, made up.",
    "graph": "Papers that cite each other, made up, each with 48 numbers.",
}
_ASKED = {
    "label": "The answer is the class of a row.",
    "probability": "The answer is the probability of each class.",
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

    models = [fact for fact, rule in offer["model"].items() if metric in rule.get("metrics", [metric])]
    facts, starter, right = {"model": one(models)}, {}, {}
    for axis in ("model", "data", "learning"):
        options = [
            fact
            for fact, rule in offer[axis].items()
            if facts["model"] in rule.get("with", [facts["model"]])
            and metric in rule.get("metrics", [metric])
            if fitting(axis, rule, "right") and fitting(axis, rule, "wrong")
        ]
        if axis == "learning" and axis not in wrong:  # where all rows are used, nothing shows that they count
            options = ["", *(fact for fact in options if fact != "every row counts")]
        facts.setdefault(axis, one(options))
        rule = offer[axis].get(facts[axis], {"right": ["plain"]})
        right[axis] = fitting(axis, rule, "right")
        starter[axis] = one(fitting(axis, rule, "wrong")) if axis in wrong else right[axis][0]
    return Drawn(
        modality,
        kind,
        metric,
        int(classes[0]) if classes else 1,
        facts,
        wrong,
        starter,
        right,
        one(ROWS[modality]),
    )


def spec_of(name: str, plan: Drawn) -> TaskSpec:
    """Return the card of a plan."""
    stated = [fact for fact in plan.facts.values() if fact]
    stated += [f"{COUNTS[plan.answers]} classes"] if plan.answers > 1 else []
    state = _STATED[plan.modality]
    if plan.modality == "tabular":
        state = "categories" if "categories that matter" in stated else "numbers only"
    block = {edit.key: edit.block for edit in edits(plan.modality, plan.kind)}
    asked = (
        "The answer is the probability of class 1."
        if plan.answers == 2 and plan.kind == "probability"
        else ""
    )
    return TaskSpec(
        name=name,
        modality=plan.modality,
        kind=plan.kind,
        metric=plan.metric,
        **{axis: block[key] for axis, key in plan.starter.items()},
        goal=_GOALS[plan.metric],
        description=f"{_ROWS[plan.modality]} {asked or _ASKED[plan.kind]}",
        facts=(*stated, state),
        split="held-in",
        rows=(plan.rows, HIDDEN, HIDDEN),
        provenance="generated by this package with known structure",
    )


def _why_not(work: Measurement, plan: Drawn, right: dict[str, str]) -> str:
    """Return why a drawn task is not kept, given the blocks that fit; "" where it is."""
    start, top = (work.run(blocks).scores for blocks in (work.blocks, right))
    if start is None or top is None:
        return "a script fails"
    perfect = get_metric(plan.metric).perfect
    if any((top[part] - start[part]) / ((perfect - start[part]) or 1) < LEAST_GAIN for part in LABEL_SETS):
        return "little to gain"
    low, high = (work.sign * scores["feedback"] for scores in (start, top))

    def much(axis: str, block: str, most: float) -> bool:
        return work.value(work.blocks | {axis: block}) - low > most * (high - low)

    if any(much(axis, right[axis], MOST_ALONE) for axis in plan.wrong):
        return "one edit does it"
    if TREES & {family_of_key(key) for key in plan.right["model"]}:
        return ""
    known = {edit.key: edit for edit in edits(plan.modality, plan.kind)}
    # Whatever replaces a learning block that leaves rows out mends it.
    asked = GENERAL[:1] if plan.facts["learning"] == "every row counts" else GENERAL
    general = any(much(known[key].axis, known[key].block, MOST_GENERAL) for key in asked)
    return "an edit that helps in many places does it" if general else ""


def _best_of(work: Measurement, plan: Drawn) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Return the best script of edits that fit, and the fitting edits that run, the best ones first."""
    block = {edit.key: edit.block for edit in edits(plan.modality, plan.kind)}
    best = {axis: block[keys[0]] for axis, keys in plan.right.items()}
    right = {}
    for axis in ("model", "data", "learning"):
        value = {key: work.value(best | {axis: block[key]}) for key in plan.right[axis]}
        right[axis] = sorted((k for k in value if value[k] > float("-inf")), key=lambda k: -value[k])
        best |= {axis: block[right[axis][0]]}
    return best, right


def _write(folder: Path, name: str, plan: Drawn, draws: np.random.Generator) -> str:
    """Write a task into a folder; return why it cannot be kept, "" where it can."""
    spec = spec_of(name, plan)
    total = sum(spec.rows)
    rows = sample(draws, plan.modality, total, plan.answers, set(plan.facts.values()))
    if normalised_rows(rows.inputs).duplicated().any():
        return "rows are repeated"
    cuts = (plan.rows * 3 // 4, plan.rows, plan.rows + HIDDEN, total)
    target, classes = rows.targets["target"].to_numpy(), list(range(plan.answers)) if plan.answers > 1 else []
    for low, high in zip((0, *cuts), cuts, strict=False):
        if not set(classes) <= set(target[low:high]):
            return "a class is missing"
    write_tables(folder, rows, spec.rows, draws)
    write_texts(folder, spec, rows, classes, more=GRAPH if plan.modality == "graph" else ())
    work = Measurement(load_task(folder), run_trusted)
    block = {edit.key: edit.block for edit in edits(plan.modality, plan.kind)}
    if why := _why_not(work, plan, {axis: block[keys[0]] for axis, keys in plan.right.items()}):
        return why
    best, right = _best_of(work, plan)
    if why := _why_not(work, plan, best):  # again, since that may be another script
        return why
    scores = [work.run(blocks).scores for blocks in (work.blocks, best)]
    told = (
        "the starter, run once",
        "the best of the scripts that the generator knows to fit; nothing was searched",
    )
    entries = {
        entry: {part: round(score, 6) for part, score in own.items()} | {"provenance": note}
        for entry, own, note in zip(("baseline", "best"), scores, told, strict=True)
    }
    add_to_card(folder, **entries)
    low, high = (work.sign * own["feedback"] for own in scores)
    values = {axis: work.value(work.blocks | {axis: best[axis]}) for axis in plan.wrong}
    content = {name: getattr(plan, name) for name in ("modality", "kind", "metric", "facts", "starter")}
    content |= {"wrong": list(plan.wrong), "right": right}
    content["alone"] = {axis: share_of_gap(value, low, high) for axis, value in values.items()}
    write_json(folder / STRUCTURE, content)
    return ""


def task_name(number: int) -> str:
    """Return the name of a generated task, which no task of the suite has.

    Example:
        >>> task_name(7)
        'made-0007'
    """
    return f"made-{number:04d}"


class _Dropped(Exception):
    """A draw that is not kept, with the reason."""


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
                if why := _write(draft, name, draw_plan(draws, modality), draws):
                    raise _Dropped(why)
                return dropped
        except _Dropped as reason:
            dropped.append(str(reason))
    raise TaskError(
        f"none of {TRIES} draws made a task {name}", cure="choose another seed, or more modalities"
    )


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
        raise TaskError(f"{out} holds tasks of other draws", cure="give a new folder with --out")
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
