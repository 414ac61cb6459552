"""What an agent that reads nothing can do: fixed edits, chosen once on the held-in tasks' feedback labels.

The best fixed edit, the best fixed sequence (it begins with that edit) and the best single edit of each task
are baselines of every evaluation: an agent that closes no more of the gap has not read its task. Their keys
are chosen here; their scores come from scripts that every run executes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import product
from pathlib import Path

from mlagent_lib.core.files import write_json
from mlagent_lib.tasks.pocket.audit import best_edit, recorded, share_after
from mlagent_lib.tasks.pocket.catalogue import AXES, KINDS, MODALITIES, Edit, edits
from mlagent_lib.tasks.pocket.measure import Measurement, run_trusted
from mlagent_lib.tasks.registry import find_task, list_tasks
from mlagent_lib.tasks.task import Task

FILE = Path(__file__).with_suffix(".json")
LENGTH = 6  # edits: the steps of a laptop trajectory
FRONT = 36  # ours: edits that are tried again after the first one, best first
Gap = Callable[[str, tuple[str, ...]], float]  # from a task and edits in their order to the share they close
POLICIES = ("fixed-edit", "fixed-sequence", "best-edit")


def best_sequence(
    gap_of: Gap, tasks: Sequence[str], keys: Sequence[str], length: int = LENGTH, front: int = FRONT
) -> tuple[str, ...]:
    """Return the edits that, made one after the other on every task, close most of the gap on average.

    Greedy: each edit is the best one after those before it; it ends where none adds anything, so the first
    alone is the best fixed edit.

    Args:

        tasks: Those that the choice is made on.
        length: Most edits.
        front: How many edits, the best ones alone, are tried from the second place on.

    Example:
        Alone "a" closes .4 and "b" .3; together they close .5, and nothing adds to that.

        >>> gaps = {("a",): 0.4, ("b",): 0.3, ("a", "b"): 0.5}
        >>> best_sequence(lambda task, made: gaps.get(made, 0.1), ["one"], ["a", "b"])
        ('a', 'b')
    """
    chosen, reached = (), 0.0
    while len(chosen) < length:
        means = {key: sum(gap_of(task, (*chosen, key)) for task in tasks) / len(tasks) for key in keys}
        best = max(means, key=means.__getitem__)
        if means[best] <= reached:
            break
        chosen, reached = (*chosen, best), means[best]
        keys = sorted(means, key=lambda key: -means[key])[:front] if len(chosen) == 1 else keys
    return chosen


@cache
def chosen() -> Mapping[str, Sequence[str]]:
    """Return what ``fixed.json`` holds: ``sequence``, the keys, and ``gaps`` after each of them."""
    return json.loads(FILE.read_text(encoding="utf-8"))


@cache
def _every_edit() -> dict[str, Edit]:
    """Return all edits by key; of those that several catalogues have, the first one's."""
    every = [edit for one in product(MODALITIES, KINDS) for edit in edits(*one)]
    return {edit.key: edit for edit in reversed(every)}


@cache
def _best_edits() -> dict[str, str]:
    return {name: best_edit(one["shares"]) for name, one in recorded().items()}


def fixed_edits(kind: str, task: Task) -> tuple[Edit, ...]:
    """Return the edits of a fixed policy on a task, in their order.

    An edit that the task's catalogue lacks is asked for all the same, as a policy that reads nothing would;
    the coder refuses it.

    Args:
        kind: One of `POLICIES`: ``best-edit`` is the best single edit of this very task by the feedback
            labels, what a perfect reader could do in one step; nothing for a task that was never measured.
    """
    known = _every_edit() | {edit.key: edit for edit in edits(task.modality, task.kind)}
    keys: Sequence[str] = chosen()["sequence"][: 1 if kind == "fixed-edit" else None]
    if kind == "best-edit":
        keys = [best for name, best in _best_edits().items() if name == task.name]
    return tuple(known[key] for key in keys)


def main() -> None:
    """Choose the sequence on the held-in tasks and write it down."""
    works = {name: Measurement(find_task(name), run_trusted) for name in list_tasks("held-in")}
    shares = {name: recorded()[name]["shares"] for name in works}
    every = dict.fromkeys(key for one in shares.values() for key in one)
    keys = sorted(every, key=lambda key: AXES.index(key.split("/")[0]))

    def gap(task: str, made: Sequence[str]) -> float:
        alone = shares[task].get(made[0]) or 0.0
        return alone if len(made) == 1 else share_after(works[task], made, undo=False)

    found = best_sequence(gap, list(works), keys)
    gaps = [sum(gap(name, found[: at + 1]) for name in works) / len(works) for at in range(len(found))]
    write_json(FILE, {"sequence": found, "gaps": [round(gap, 4) for gap in gaps], "tasks": list(works)})
    print(*zip(found, gaps, strict=True), sep="\n")


if __name__ == "__main__":
    main()
