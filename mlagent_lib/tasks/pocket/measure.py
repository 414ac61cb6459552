"""Measures the starter's and the best known scores of the pocket tasks, and how healthy each task is.

The scripts run here are this package's own (starters and catalogue edits), so that a plain fork of this
process runs them; scripts of a policy belong into the isolated runner, which can be given as ``execute``.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import platform
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from mlagent_lib.tasks.attempt import Attempt, Execute, attempt
from mlagent_lib.tasks.folder import add_to_card
from mlagent_lib.tasks.grading import LABEL_SETS
from mlagent_lib.tasks.pocket.cards import CARDS, card_of
from mlagent_lib.tasks.pocket.catalogue import AXES, edits, replace_block
from mlagent_lib.tasks.pocket.suite import SCORES, build_suite, recorded_scores
from mlagent_lib.tasks.task import Task, load_task

HELPS = 0.02  # of the gap between starter and best: smaller changes count as neither help nor harm
FRONT = 6  # edits of each axis that the ascent tries again, best single edits first
ROUNDS = 2
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
    source = Path("train.py").read_text(encoding="utf-8")
    exec(compile(source, "train.py", "exec"), {"__name__": "__main__"})  # our own scripts only


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
        self.blocks = dict(card_of(task.name).blocks)
        self.starter = task.env_files()["train.py"].decode()
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
        best = dict(self.blocks)
        for _ in range(ROUNDS):
            before = dict(best)
            for axis in ("model", "data", "learning"):
                options = [best | {axis: block} for block in [best[axis], *front[axis]]]
                best = max(options, key=self.value)
            if best == before:
                break
        return best


def measure(task: Task, execute: Execute = run_trusted) -> dict:
    """Return the record of one task: baseline, best, and how many single edits help, hurt or fail."""
    work = Measurement(task, execute)
    baseline = work.run(work.blocks).scores
    if baseline is None:
        raise RuntimeError(f"the starter of {task.name} fails: {work.run(work.blocks).why}")
    catalogue = edits(task.modality, task.kind)
    singles = {edit.key: work.blocks | {edit.axis: edit.block} for edit in catalogue}
    order = sorted(catalogue, key=lambda edit: -work.value(singles[edit.key]))
    front = {axis: [edit.block for edit in order if edit.axis == axis][:FRONT] for axis in AXES}
    # A block may help only together with others: from each axis also some edits from the middle of the order.
    for axis in AXES:
        rest = [edit.block for edit in order if edit.axis == axis][FRONT:]
        front[axis] += rest[: len(rest) // 2 : max(1, len(rest) // 12)]
    best = work.climb(front)
    top = work.run(best).scores
    gap = work.sign * (top["feedback"] - baseline["feedback"])
    gains = {edit.key: work.value(singles[edit.key]) - work.sign * baseline["feedback"] for edit in catalogue}
    health = {
        axis: _health([gains[edit.key] for edit in catalogue if edit.axis == axis], gap) for axis in AXES
    }
    keys = {edit.block: edit.key for edit in catalogue}
    seconds = sorted(made.ran.seconds for made in work.seen.values())
    note = f"coordinate ascent over the catalogue, chosen on feedback, {len(work.seen)} runs"
    return {
        "digest": task.digest,
        "baseline": _rounded(baseline) | {"provenance": "the starter, run once"},
        "best": _rounded(top) | {"provenance": note},
        "best_blocks": {axis: keys.get(best[axis], "starter") for axis in AXES},
        "single_edits": health,
        "best_single": {
            "key": order[0].key,
            "feedback": round(work.sign * work.value(singles[order[0].key]), 6),
        },
        "slowest_seconds": round(seconds[-1], 1),
        "median_seconds": round(seconds[len(seconds) // 2], 2),
    }


def _health(gains: list[float], gap: float) -> dict[str, int]:
    """Return how many single edits of one axis help, hurt and fail."""
    fail = gains.count(float("-inf"))
    helps, hurt = sum(gain > HELPS * gap for gain in gains), sum(gain < -HELPS * gap for gain in gains)
    return {"edits": len(gains), "help": helps, "fail": fail, "hurt": hurt - fail}


def _rounded(scores: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 6) for name, value in scores.items()}


def summary(name: str, record: dict) -> str:
    """Return one line on the health of a task."""
    health = record["single_edits"].values()
    total = sum(axis["edits"] for axis in health)
    shares = " ".join(
        f"{word} {sum(axis[word] for axis in health) / total:.0%}" for word in ("help", "hurt", "fail")
    )
    axes = " ".join(f"{axis} {row['help']}/{row['edits']}" for axis, row in record["single_edits"].items())
    return (
        f"{name:19s} starter {record['baseline']['feedback']:.4f}|{record['baseline']['report']:.4f} "
        f"best {record['best']['feedback']:.4f}|{record['best']['report']:.4f} {shares} ({axes}) "
        f"single {record['best_single']['key']} {record['best_single']['feedback']:.4f} "
        f"{record['median_seconds']}s max {record['slowest_seconds']}s {list(record['best_blocks'].values())}"
    )


def _store(records: dict) -> None:
    versions = {"python": platform.python_version()}
    versions |= {name: metadata.version(name) for name in ("numpy", "pandas", "scikit-learn")}
    content = {
        "note": "measured by python -m mlagent_lib.tasks.pocket.measure --measure",
        "versions": versions,
        "tasks": {spec.name: records[spec.name] for spec in CARDS if spec.name in records},
    }
    SCORES.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _known(task: Task, record: dict, execute: Execute) -> dict[str, Attempt]:
    """Return what the starter and the best known script of a record (the starter, without one) score now."""
    work = Measurement(task, execute)
    by_key = {edit.key: edit.block for edit in edits(task.modality, task.kind)}
    best = {axis: by_key[key] for axis, key in record.get("best_blocks", {}).items() if key in by_key}
    return {"baseline": work.run(work.blocks), "best": work.run(work.blocks | best)}


def confirm(folder: Path, names: list[str], execute: Execute = run_trusted) -> list[str]:
    """Run starter and best known script once; where both still score as recorded, record the new files.

    After a change of words (a description, a comment) the measured scores stay true, and need no new search.

    Returns:
        The tasks whose scores changed: they must be measured again.
    """
    changed = []
    for name in names:
        task, record = load_task(folder / name), recorded_scores().get(name)
        found = _known(task, record or {}, execute)
        if record and all(
            made.scores and abs(made.scores[part] - record[entry][part]) < 1e-5
            for entry, made in found.items()
            for part in LABEL_SETS
        ):
            _store(recorded_scores() | {name: record | {"digest": task.digest}})
        else:
            changed.append(name)
    return changed


def restate(folder: Path, names: list[str], execute: Execute = run_trusted) -> None:
    """Run starter and best known script of tasks once and write their scores into ``task.yaml``."""
    for name in names:
        task = load_task(folder / name)
        for entry, made in _known(task, recorded_scores().get(name, {}), execute).items():
            if made.scores is None:
                raise RuntimeError(f"{name}: the {entry} script fails: {made.why}")
            add_to_card(task.folder, **{entry: made.scores | {"provenance": "measured on this machine"}})


def main(arguments: list[str]) -> None:
    """Measure all or some tasks and record the scores, or restate those of a built suite."""
    parser = argparse.ArgumentParser(prog="python -m mlagent_lib.tasks.pocket.measure")
    parser.add_argument("--measure", nargs="*", metavar="TASK", help="tasks to measure; all without a name")
    parser.add_argument(
        "--restate", nargs="+", metavar="FOLDER TASK", help="a built suite and some of its tasks"
    )
    parser.add_argument(
        "--confirm", action="store_true", help="only confirm recorded scores for changed files"
    )
    found = parser.parse_args(arguments)
    if found.restate:
        restate(Path(found.restate[0]), found.restate[1:])
        return
    names = found.measure or [spec.name for spec in CARDS]
    with tempfile.TemporaryDirectory() as folder:
        build_suite(Path(folder), names)
        if found.confirm:
            print("to be measured again:", ", ".join(confirm(Path(folder), names)) or "none")
            return
        for name in names:
            start = time.perf_counter()
            record = measure(load_task(Path(folder, name)))
            _store(recorded_scores() | {name: record})
            print(summary(name, record), f"[{time.perf_counter() - start:.0f} s]", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
