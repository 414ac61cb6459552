"""Measures the starter's and the best known scores of the pocket tasks, and what each single edit closes.

The scripts run here are this package's own (starters and catalogue edits), so that a plain fork of this
process runs them; scripts of a policy belong into the isolated runner, which can be given as ``execute``.
"""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import platform
import runpy
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from mlagent_lib.core.files import write_text
from mlagent_lib.tasks.attempt import Attempt, Execute, attempt
from mlagent_lib.tasks.folder import add_to_card
from mlagent_lib.tasks.grading import LABEL_SETS
from mlagent_lib.tasks.pocket.cards import CARDS
from mlagent_lib.tasks.pocket.catalogue import AXES, edits, read_block, replace_block
from mlagent_lib.tasks.pocket.suite import SCORES, recorded_scores
from mlagent_lib.tasks.task import Task, load_task

HELPS = 0.02  # of the gap between starter and best: smaller changes count as neither help nor harm
FLOOR = -1.0  # of a task's share of the gap, as in every mean
FRONT = 6  # edits of each axis that the ascent tries again, best single edits first
ROUNDS = 2
# A right block may show its worth only after another one: the ascent begins with either.
ORDERS = (("model", "data", "learning"), ("data", "model", "learning"))
# Parts of scikit-learn that are loaded before the fork, so that no run loads them again.
_WARM = (
    "calibration", "compose", "decomposition", "discriminant_analysis", "dummy", "ensemble",
    "feature_extraction.text", "feature_selection", "impute", "kernel_approximation", "linear_model",
    "metrics", "multiclass", "multioutput", "naive_bayes", "neighbors", "neural_network", "preprocessing",
    "svm", "tree",
)  # fmt: skip


@dataclass(frozen=True)
class Ran:
    """What one run of a trusted script left: the part of the runner's result that is needed here."""

    status: str
    output: str
    seconds: float
    collected: dict[str, bytes] = field(default_factory=dict)
    peak_memory_bytes: int = 0


def _child(folder: str) -> None:
    """Run train.py of a folder in this forked process; its output and its traceback go to ``out.txt``."""
    os.chdir(folder)
    sys.stdout = sys.stderr = open("out.txt", "w")  # noqa: SIM115 - closed by the end of the process
    runpy.run_path("train.py", run_name="__main__")  # our own scripts only


def run_trusted(task: Task, files: dict[str, bytes]) -> Ran:
    """Return the result of one of our own scripts, run in a fork of this process without isolation."""
    for name in _WARM:
        importlib.import_module(f"sklearn.{name}")
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            Path(folder, name).parent.mkdir(parents=True, exist_ok=True)
            Path(folder, name).write_bytes(content)
        Path(folder, "data").symlink_to(task.data_dir)
        start = time.perf_counter()
        process = multiprocessing.get_context("fork").Process(target=_child, args=(folder,))
        process.start()
        process.join(task.limits.seconds)
        status = "ok" if process.exitcode == 0 else "error" if process.exitcode is not None else "timeout"
        if process.is_alive():
            process.kill()
            process.join()
        seconds = time.perf_counter() - start
        output, answer = Path(folder, "out.txt"), Path(folder, "submission.csv")
        collected = {answer.name: answer.read_bytes()} if answer.is_file() else {}
        return Ran(status, output.read_text(errors="replace") if output.is_file() else "", seconds, collected)


class Measurement:
    """All runs of one task, each made once."""

    def __init__(self, task: Task, execute: Execute):
        self.task, self.execute = task, execute
        self.starter = task.env_files()["train.py"].decode()
        self.blocks = {axis: read_block(self.starter, axis) for axis in AXES}
        self.seen: dict[tuple, Attempt] = {}
        self.sign = 1 if task.greater_is_better else -1

    def run(self, blocks: dict[str, str]) -> Attempt:
        """Return the result of the starter with these three blocks."""
        key = tuple(blocks[axis] for axis in AXES)
        if key not in self.seen:
            script = self.starter
            for axis in AXES:
                script = replace_block(script, axis, blocks[axis])
            self.seen[key] = attempt(self.task, self.execute, script.encode())
        return self.seen[key]

    def value(self, blocks: dict[str, str]) -> float:
        """Return the feedback score, larger is better; minus infinity for a failure."""
        scores = self.run(blocks).scores
        return self.sign * scores["feedback"] if scores else float("-inf")

    def climb(self, front: dict[str, list[str]]) -> dict[str, str]:
        """Return the best blocks that a coordinate ascent on the feedback score finds.

        The report labels take no part in the choice.
        """
        found = []
        for order in ORDERS:
            best = dict(self.blocks)
            for _ in range(ROUNDS):
                before = dict(best)
                for axis in order:
                    options = [best | {axis: block} for block in [best[axis], *front[axis]]]
                    best = max(options, key=self.value)
                if best == before:
                    break
            found.append(best)
        return max(found, key=self.value)

    def greedy(self, front: dict[str, list[str]]) -> list[dict[str, str]]:
        """Return the blocks after each of at most three steps: the best edit of a block not yet edited."""
        steps, left = [self.blocks], list(AXES)
        while left:
            options = [(axis, steps[-1] | {axis: block}) for axis in left for block in front[axis]]
            axis, best = max(options, key=lambda option: self.value(option[1]))
            if self.value(best) <= self.value(steps[-1]):
                break
            steps.append(best)
            left.remove(axis)
        return steps[1:]


def share_of_gap(value: float, start: float, best: float) -> float | None:
    """Return which share of the way from the starter to the best known score a score is, from the floor up.

    All three are larger for better; a failure (minus infinity) has no share.

    Example:
        >>> share_of_gap(0.7, 0.6, 0.8), share_of_gap(0.1, 0.6, 0.8), share_of_gap(float("-inf"), 0.6, 0.8)
        (0.5, -1.0, None)
    """
    share = (value - start) / (best - start)
    return None if value == float("-inf") else round(max(FLOOR, share), 4)


def measure(task: Task) -> tuple[dict, dict]:
    """Return the records of one task: for ``scores.json``, and for ``audit.json`` (see `audit`)."""
    work = Measurement(task, run_trusted)
    baseline = work.run(work.blocks).scores
    if baseline is None:
        raise RuntimeError(f"the starter of {task.name} fails: {work.run(work.blocks).why}")
    catalogue = edits(task.modality, task.kind)
    value = {edit.key: work.value(work.blocks | {edit.axis: edit.block}) for edit in catalogue}
    order = sorted(catalogue, key=lambda edit: -value[edit.key])
    front = {axis: [edit.block for edit in order if edit.axis == axis][:FRONT] for axis in AXES}
    steps = work.greedy(front)
    # A block may help only together with others: from each axis also some edits from the middle of the order.
    for axis in AXES:
        rest = [edit.block for edit in order if edit.axis == axis][FRONT:]
        front[axis] += rest[: len(rest) // 2 : max(1, len(rest) // 12)]
    best = max([work.climb(front), *steps], key=work.value)
    if work.value(best) <= work.value(work.blocks):
        raise RuntimeError(f"no edit improves the starter of {task.name}: change its card")
    top = work.run(best).scores
    start, end = (work.sign * scores["feedback"] for scores in (baseline, top))
    shares = {edit.key: share_of_gap(value[edit.key], start, end) for edit in catalogue}
    keys = {edit.block: edit.key for edit in catalogue}
    seconds = sorted(made.ran.seconds for made in work.seen.values())
    note = f"coordinate ascent over the catalogue, chosen on feedback, {len(work.seen)} runs"
    own = {axis: [shares[edit.key] for edit in catalogue if edit.axis == axis] for axis in AXES}
    scores = {
        "digest": task.digest,
        "baseline": rounded(baseline) | {"provenance": "the starter, run once"},
        "best": rounded(top) | {"provenance": note},
        "best_blocks": {axis: keys.get(best[axis], "starter") for axis in AXES},
        "single_edits": {axis: _health(own[axis]) for axis in AXES},
        "slowest_seconds": round(seconds[-1], 1),
        "median_seconds": round(seconds[len(seconds) // 2], 2),
    }
    three = [share_of_gap(work.value(step), start, end) for step in steps] or [0.0]
    found = {"shares": shares, "three": three}
    if task.split == "held-in":  # what can be learned: how good an edit is beside the best other blocks
        beside = {edit.key: work.value(best | {edit.axis: edit.block}) for edit in catalogue}
        found["beside"] = {key: share_of_gap(made, start, end) for key, made in beside.items()}
    return scores, found


def _health(shares: list[float | None]) -> dict[str, int]:
    """Return how many single edits of one axis help, hurt and fail."""
    ran = [share for share in shares if share is not None]
    helps, hurt = sum(share > HELPS for share in ran), sum(share < -HELPS for share in ran)
    return {"edits": len(shares), "help": helps, "fail": len(shares) - len(ran), "hurt": hurt}


def rounded(scores: dict[str, float]) -> dict[str, float]:
    """Return scores as a card states them, to six digits behind the point."""
    return {name: round(value, 6) for name, value in scores.items()}


def store_scores(records: dict) -> None:
    """Write the scores of all tasks into ``scores.json``, in the order of the cards."""
    versions = {"python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("numpy", "pandas", "scikit-learn")}
    tasks = {card.name: records[card.name] for card in CARDS if card.name in records}
    content = {"note": "measured by mlagent tasks audit --measure", "versions": versions, "tasks": tasks}
    write_text(SCORES, json.dumps(content, indent=1, allow_nan=False) + "\n")  # whole or not at all


def _known(task: Task, record: dict) -> dict[str, Attempt]:
    """Return what the starter and the best known script of a record (the starter, without one) score now."""
    work = Measurement(task, run_trusted)
    by_key = {edit.key: edit.block for edit in edits(task.modality, task.kind)}
    best = {axis: by_key[key] for axis, key in record.get("best_blocks", {}).items() if key in by_key}
    return {"baseline": work.run(work.blocks), "best": work.run(work.blocks | best)}


def still_true(task: Task, record: dict) -> bool:
    """Return whether starter and best known script, run once more, score as a record of other files says.

    After a change of words (a description, a fact) the measured scores stay true, and need no new search.
    """
    return all(
        made.scores and abs(made.scores[part] - record[entry][part]) < 1e-5
        for entry, made in _known(task, record).items()
        for part in LABEL_SETS
    )


def restate(folder: Path, names: list[str]) -> None:
    """Run starter and best known script of tasks once and write their scores into ``task.yaml``."""
    for name in names:
        task = load_task(folder / name)
        for entry, made in _known(task, recorded_scores().get(name, {})).items():
            if made.scores is None:
                raise RuntimeError(f"{name}: the {entry} script fails: {made.why}")
            add_to_card(task.folder, **{entry: made.scores | {"provenance": "measured on this machine"}})


if __name__ == "__main__":
    restate(Path(sys.argv[1]), sys.argv[2:])
