"""Whether reading a card pays: what every single edit closes on every pocket task, and what follows of it.

Three conditions keep a free lunch out of the suite (`conditions`): no edit does well everywhere; what the
cards say does well, by a rule that is learned on held-in tasks only; and three edits do more than one. Shares
are those of the gap between starter and best known score on the feedback labels, from -1 up; an edit that
fails, or that a task's catalogue lacks, closes nothing. ``mlagent tasks audit`` prints the record,
``audit.json``.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean

from mlagent_lib.core.files import write_text
from mlagent_lib.tasks.pocket.cards import CARDS, DECIDES, Card, card_of
from mlagent_lib.tasks.pocket.catalogue import AXES, edits, is_classification
from mlagent_lib.tasks.pocket.measure import (
    FLOOR,
    HELPS,
    Measurement,
    measure,
    run_trusted,
    share_of_gap,
    still_true,
    store_scores,
)
from mlagent_lib.tasks.pocket.suite import build_suite, recorded_scores
from mlagent_lib.tasks.spec import Stated
from mlagent_lib.tasks.task import Task, load_task

FILE = Path(__file__).with_suffix(".json")
# The limits of the conditions are ours.
MOST_HELPED, MOST_FIXED = 0.6, 0.1  # tasks that one edit improves; what the best fixed edit closes on average
LEAST_RULE = 0.6  # what the rule closes on held-out tasks on average
MOST_SINGLE, LEAST_MORE = 0.6, 0.25  # what a task's best edit closes; what three add to it
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Shares = Mapping[str, Mapping[str, float | None]]  # task -> key of an edit -> share; None: it fails
Learned = Mapping[tuple[str, bool], tuple[str, float]]  # (fact, is a classifier's) -> key, mean share


def closes(shares: Shares, tasks: Sequence[str], key: str) -> float:
    """Return what an edit closes on average.

    Example:
        >>> closes({"one": {"a": 0.6}, "two": {"a": None}, "three": {}}, ["one", "two", "three"], "a")
        0.2
    """
    return round(fmean(shares[task].get(key) or 0.0 for task in tasks), 4)


def best_fixed(shares: Shares, tasks: Sequence[str]) -> str:
    """Return the edit that closes most on these tasks on average.

    Example:
        >>> best_fixed({"one": {"a": 0.6, "b": 0.4}, "two": {"a": -1.0, "b": 0.1}}, ["one", "two"])
        'b'
    """
    keys = dict.fromkeys(key for task in tasks for key in shares[task])
    return max(keys, key=lambda key: closes(shares, tasks, key))


def most_helped(shares: Shares, tasks: Sequence[str]) -> tuple[str, int]:
    """Return the edit that improves most of these tasks (by more than `HELPS`), and how many they are.

    Example:
        >>> most_helped({"one": {"a": 0.9, "b": 0.1}, "two": {"a": 0.02, "b": 0.1}}, ["one", "two"])
        ('b', 2)
    """
    keys = dict.fromkeys(key for task in tasks for key in shares[task])
    counts = {key: sum((shares[task].get(key) or 0.0) > HELPS for task in tasks) for key in keys}
    best = max(counts, key=counts.__getitem__)
    return best, counts[best]


def learn(shares: Shares, beside: Shares, stated: Mapping[str, Stated]) -> Learned:
    """Return for each fact that decides a block, and kind of learner, the edit that does best there.

    Judged is the mean of what an edit closes alone and of what it closes beside the best other blocks: some
    edits help a bad script and ruin a good one.

    Args:
        shares: Of the tasks to learn from, each edit alone.
        beside: The same, each edit beside the best known other blocks.
        stated: Their cards, by name.

    Example:
        >>> cards = {name: card_of(name) for name in ("pocket-essays",)}
        >>> alone = {"pocket-essays": {"data/length": 0.4, "data/hashed/16": 0.3}}
        >>> best = {"pocket-essays": {"data/length": -1.0, "data/hashed/16": 0.9}}
        >>> learn(alone, best, cards)["rare words", False]
        ('data/hashed/16', 0.6)
    """
    found = {}
    for fact, axis in DECIDES.items():
        for classify in (True, False):
            own = {}
            for task, card in stated.items():
                if fact in card.facts and is_classification(card.kind) == classify:
                    alone = {key: share for key, share in shares[task].items() if key.startswith(axis)}
                    own[task] = {key: _mean(share, beside[task].get(key)) for key, share in alone.items()}
            if any(own.values()):
                best = best_fixed(own, list(own))
                found[fact, classify] = best, closes(own, list(own), best)
    return found


def _mean(alone: float | None, beside: float | None) -> float | None:
    return None if alone is None else (alone + (beside or 0.0)) / 2


def rule_edits(card: Stated, learned: Learned) -> tuple[str, ...]:
    """Return the edits that the rule makes on a task: block by block, that of the best-learned fact.

    What was learned from the same kind of learner goes first; else what the other kind taught, where the
    task's catalogue has it. A fact that taught nothing that helps is passed over.

    Example:
        >>> from types import SimpleNamespace
        >>> card = SimpleNamespace(modality="image", kind="label", facts=("effects add up", "small details"))
        >>> taught = {("effects add up", True): ("model/lda", 0.4)}
        >>> rule_edits(card, taught | {("small details", False): ("data/pixels", 0.3)})
        ('data/pixels', 'model/lda')
    """
    classify = is_classification(card.kind)
    known = {edit.key for edit in edits(card.modality, card.kind)}
    made = []
    for axis in AXES:
        facts = [fact for fact in card.facts if DECIDES.get(fact) == axis]
        places = [(same, (fact, same == classify)) for fact in facts for same in (True, False)]
        taught = [(same, *learned[place]) for same, place in places if place in learned]
        options = [(same, share, key) for same, key, share in taught if share > HELPS and key in known]
        made += [max(options, key=lambda option: option[:2])[2]] if options else []
    return tuple(made)


def share_after(work: Measurement, keys: Sequence[str], undo: bool) -> float:
    """Return the share of the gap that edits close, made one after the other, on the feedback labels.

    One that fails leaves the score as it was, and one that the task's catalogue lacks changes nothing.

    Args:
        undo: Whether an edit that fails also leaves the script as it was; the environment lets it stand.
    """
    known = {edit.key: edit for edit in edits(work.task.modality, work.task.kind)}
    start, best = (work.sign * scores["feedback"] for scores in (work.task.baseline, work.task.best))
    blocks, value = dict(work.blocks), start
    for edit in (known[key] for key in keys if key in known):
        after = blocks | {edit.axis: edit.block}
        made = work.value(after)
        if made != float("-inf"):
            value = made
        elif undo:
            continue
        blocks = after
    return share_of_gap(value, start, best)


@dataclass(frozen=True)
class Condition:
    """One condition on the suite: what it asks for, what was found, and whether that is enough."""

    asked: str
    found: str
    holds: bool


def conditions(record: Mapping[str, Mapping], split_of: Mapping[str, str]) -> list[Condition]:
    """Return the three conditions on a record of the suite (`recorded`), those of one edit a split.

    Args:
        record: By task: ``shares``, ``three`` (after each of at most three greedy steps on different blocks)
            and ``rule`` (what the rule closes).
        split_of: The split of each task.
    """
    shares = {name: one["shares"] for name, one in record.items()}
    splits = {s: [name for name in record if split_of[name] == s] for s in ("held-in", "held-out")}
    found = []
    fixed = best_fixed(shares, splits["held-in"])
    for split, names in splits.items():
        key, count = most_helped(shares, names)
        told = f"{key} improves {count} of {len(names)}"
        asked = f"(a) no edit improves more than {MOST_HELPED:.0%} of the {split} tasks"
        found.append(Condition(asked, told, count <= MOST_HELPED * len(names)))
        mean = closes(shares, names, fixed)
        asked = f"(a) the best fixed edit of held-in closes at most {MOST_FIXED:.2f} of {split}"
        found.append(Condition(asked, f"{fixed} closes {mean:.2f}", mean <= MOST_FIXED))
    rule = fmean(record[name]["rule"]["share"] for name in splits["held-out"])
    asked = f"(b) what cards say, learned on held-in, closes at least {LEAST_RULE:.2f} of held-out"
    found.append(Condition(asked, f"{rule:.2f}", rule >= LEAST_RULE))
    single, three = (fmean(one["three"][at] for one in record.values()) for at in (0, -1))
    asked = f"(c) the best edit of a task closes at most {MOST_SINGLE:.2f} on average"
    found.append(Condition(asked, f"{single:.2f}", single <= MOST_SINGLE))
    asked = f"(c) the best three, one a block, close at least {LEAST_MORE:.2f} more"
    return [*found, Condition(asked, f"{three:.2f}", three - single >= LEAST_MORE)]


def recorded() -> dict[str, dict]:
    """Return the record of each task that was measured, in the order of the cards."""
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {}


def learned_on_held_in(record: Mapping[str, Mapping]) -> Learned:
    """Return what the held-in tasks of a record teach."""
    cards = {card.name: card for card in CARDS if card.split == "held-in" and card.name in record}
    return learn(*({name: record[name][how] for name in cards} for how in ("shares", "beside")), cards)


def best_edit(shares: Mapping[str, float | None]) -> str:
    """Return the edit that closes most of a task's gap alone."""
    return max(shares, key=lambda key: FLOOR if shares[key] is None else shares[key])


def _store(record: Mapping[str, Mapping]) -> None:
    names = [card.name for card in CARDS if card.name in record]
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(record[name])}" for name in names)
    write_text(FILE, f"{{\n{lines}\n}}\n")


@contextmanager
def _built(name: str) -> Iterator[Task]:
    with tempfile.TemporaryDirectory() as folder:
        build_suite(Path(folder), [name])
        yield load_task(Path(folder, name))


def _catalogue_of(card: Card) -> str:
    """Return a hash of all edits that a task knows."""
    known = edits(card.modality, card.kind)
    return sha256("\0".join(f"{edit.key}\0{edit.block}" for edit in known).encode()).hexdigest()[:12]


def _measured(name: str, wanted: bool) -> tuple[dict, dict] | None:
    """Return the records of one task, measured now; None where it is not wanted and those there are true."""
    scores, known, catalogue = recorded_scores().get(name), recorded().get(name), _catalogue_of(card_of(name))
    with _built(name) as task:
        if not wanted and scores and known and known["catalogue"] == catalogue:
            if scores["digest"] == task.digest:
                return None
            if still_true(task, scores):
                return scores | {"digest": task.digest}, known
        scores, found = measure(task)
    return scores, {"catalogue": catalogue} | found


def _ruled(name: str, keys: Sequence[str]) -> dict:
    with _built(name) as task:
        return {"edits": list(keys), "share": share_after(Measurement(task, run_trusted), keys, undo=True)}


def measure_all(names: Sequence[str], workers: int, say: Callable[[str], None]) -> None:
    """Measure tasks anew and record what was found, task by task, then what the rule closes on each.

    Tasks that are not named are measured where no record fits their files, their scores and their catalogue,
    so that what was stopped goes on.

    Args:
        names: Tasks that are measured in any case.
        workers: Tasks at a time, one core each.
        say: Told of each task that is done.
    """
    os.environ.update(dict.fromkeys(THREADS, "1"))  # read by the workers when they load numpy
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        jobs = {pool.submit(_measured, card.name, card.name in names): card.name for card in CARDS}
        for job in as_completed(jobs):
            if (found := job.result()) is not None:
                name = jobs[job]
                store_scores(recorded_scores() | {name: found[0]})
                _store(recorded() | {name: found[1]})
                say(f"{name}: best edit closes {found[1]['three'][0]:.2f}, three {found[1]['three'][-1]:.2f}")
        record = recorded()
        taught = learned_on_held_in(record)
        ruled = {name: rule_edits(card_of(name), taught) for name in record}
        known = {name: one.get("rule", {}).get("edits") for name, one in record.items()}
        todo = {name: keys for name, keys in ruled.items() if known[name] != list(keys)}
        jobs = {pool.submit(_ruled, name, keys): name for name, keys in todo.items()}
        for job in as_completed(jobs):
            record[jobs[job]]["rule"] = job.result()
        _store(record)
