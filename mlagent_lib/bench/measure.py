"""`mlagent bench`: how fast experiments run, as ratios measured side by side in one run.

A time alone says little on a machine that does other things as well, so each question compares two ways of
doing the same work, turn by turn, and prints the median of the ratios with their quartiles. Nothing here is a
test: where a goal is missed, the table says so.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Self

import numpy as np

from mlagent_lib.bench import model_rows
from mlagent_lib.bench.builds import Child
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import read_jsonl, read_yaml, write_json
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.core.provenance import device_name, git_state, usable_cpus, versions
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.cache import Execution, ExecutionCache
from mlagent_lib.environment.coder import RuleCoder
from mlagent_lib.environment.isolation import jail, warm_up
from mlagent_lib.environment.isolation.client import WARM_MODULES
from mlagent_lib.environment.isolation.probe import choose
from mlagent_lib.environment.runner import Runner
from mlagent_lib.environment.step import Toolbox, run_step, run_steps
from mlagent_lib.environment.workspace import State, WorkspaceStore
from mlagent_lib.tasks.pocket import catalogue
from mlagent_lib.tasks.registry import find_task, list_tasks
from mlagent_lib.tasks.task import Task

SCHEMA = "mlagent.bench/1"
EXECUTE = (
    "Reflection: none\nResearch Plan and Status: none\nFact Check: none\nThought: none\n"
    'Action: Execute Script\nAction Input: {"script_name": "train.py"}'
)
_EDITS_PER_TASK = 1  # edited scripts of each task besides its starter
_LONGEST = 3.0  # seconds: slower scripts would hide the overhead that is measured here
BENCH = "bench.json"  # beside the figures; made by `mlagent bench --out figures/bench.json`
_BARE = Path(__file__).with_name("bare.py")
QUESTIONS = Path(__file__).with_name("questions.yaml")


@dataclass(frozen=True)
class BenchRow:
    """One line of the bench.

    Attributes:
        key: The letter of the question.
        value: Median, between first and third quartile (low, high); of ratios where two ways are compared.
        unit: Of the three.
        goal: What was aimed at, as an inequality, e.g. ``>= 5``.
        count: Pairs, rounds or steps that were measured.
        note: The numbers behind it, in words.
    """

    key: str
    question: str
    value: float
    low: float
    high: float
    unit: str
    goal: str
    count: int
    note: str

    @property
    def reached(self) -> bool:
        """Whether the median reaches the goal.

        Example:
            >>> BenchRow("a", "", 6.0, 5.0, 7.0, "x", ">= 5", 3, "").reached
            True
        """
        sign, _, number = self.goal.partition(" ")
        return self.value >= float(number) if sign == ">=" else self.value <= float(number)

    @classmethod
    def of(cls, key: str, asked: Mapping[str, str], values: Sequence[float], note: str) -> Self:
        """Return the line of what was measured: ``asked`` is what the YAML says of the question."""
        low, middle, high = quartiles(values)
        unit = asked.get("unit", "x")
        return cls(key, asked["question"], middle, low, high, unit, asked["goal"], len(values), note)


_Found = tuple[list[float], str]  # the values of a question, and the numbers behind them in words


class NoCache(ExecutionCache):
    """A cache that remembers nothing, so that every script really runs; submissions are archived."""

    def get(self, key: str) -> None:
        """Return None: nothing is known."""

    def put(self, key: str, execution: Execution) -> None:
        """Forget the result."""


@dataclass
class _Bench:
    """What the questions share: scripts to run and a place for files."""

    folder: Path
    states: list[State]
    tasks: dict[str, Task]
    run: Path | None

    def tools(self, runner: Runner, cache: ExecutionCache | None = None) -> Toolbox:
        return Toolbox(runner, RuleCoder(), cache or NoCache(self.folder / "cache"), tasks=self.tasks)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return first quartile, median and third quartile.

    Example:
        >>> quartiles([1.0, 2.0, 3.0, 4.0, 5.0])
        (2.0, 3.0, 4.0)
    """
    return tuple(np.quantile(values, (0.25, 0.5, 0.75)).tolist())


def timed(function: Callable, *arguments: object, **options: object) -> float:
    """Return the wall seconds that a call takes."""
    began = time.perf_counter()
    function(*arguments, **options)
    return time.perf_counter() - began


# ---- scripts -------------------------------------------------------------------------------------


def scripts(names: Sequence[str], seed: int = 0) -> tuple[list[State], dict[str, Task]]:
    """Return states that hold the starter of each task and a drawn edit of it, and the tasks by name."""
    states, tasks = [], {name: find_task(name) for name in names}
    for name, task in tasks.items():
        start = State(task=name, task_digest=task.digest, files=task.env_files(), score=0.0)
        states.append(start)
        pool = catalogue.edits(task.modality, task.kind)
        for index in rng(seed, "bench", name).permutation(len(pool))[:_EDITS_PER_TASK]:
            text = start.files["train.py"].decode()
            edited = catalogue.replace_block(text, pool[index].axis, pool[index].block)
            states.append(start.with_file("train.py", edited.encode()))
    return states, tasks


@contextlib.contextmanager
def _workspace(state: State, task: Task) -> Iterator[Path]:
    """Give a folder with the files of a state and the task's data, as an agent without this kit has it."""
    with tempfile.TemporaryDirectory(prefix="mlagent-bench-") as place:
        folder = Path(place)
        for name, data in state.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        if task.data_dir.is_dir():
            (folder / "data").symlink_to(task.data_dir.resolve())
        yield folder


def _cold(state: State, task: Task) -> float:
    """Return the seconds of ``python train.py`` in a fresh folder: what MLAgentBench does for each step."""
    with _workspace(state, task) as folder:
        environment = {**os.environ, **jail.clean_environment(str(folder))}
        options = {"cwd": folder, "env": environment, "capture_output": True, "timeout": 120}
        return timed(subprocess.run, [sys.executable, "train.py"], **options)


def _warm(state: State, tools: Toolbox) -> float:
    """Return the seconds of a whole step: restored, executed in isolation, collected, graded."""
    began = time.perf_counter()
    result = run_step(state, EXECUTE, tools)
    if result.failure:
        raise RunError(f"a step of the bench failed: {result.failure}", cure="run `mlagent doctor`")
    return time.perf_counter() - began


def _loaded(folder: Path) -> Child:
    """Return a Python with the scientific stack loaded that executes scripts and does no more."""
    environment = {**os.environ, **jail.clean_environment(tempfile.gettempdir())}
    words = [str(_BARE), warm_up.__file__, *WARM_MODULES]
    return Child(words, environment, folder / "bare.log", "the loaded interpreter")


# ---- questions -----------------------------------------------------------------------------------


def _against_cold(bench: _Bench) -> _Found:
    with Runner(workers=1) as runner:
        runner.warm()
        tools = bench.tools(runner)
        pairs = [(_cold(state, bench.tasks[state.task]), _warm(state, tools)) for state in bench.states]
    cold, warm = (sum(column) for column in zip(*pairs, strict=True))
    count = len(pairs)
    note = f"{count / warm:.1f} steps/s against {count / cold:.2f}; over all of them {cold / warm:.1f} times"
    return [first / second for first, second in pairs], note


def _against_bare(bench: _Bench) -> _Found:
    """Measure each script three times in turn and take the best of both, as noise only ever adds."""
    with Runner(workers=1) as runner, _loaded(bench.folder) as loaded:
        runner.warm()
        tools, pairs = bench.tools(runner), []
        for state in bench.states:
            bare, step = [], []
            for _ in range(3):
                with _workspace(state, bench.tasks[state.task]) as folder:
                    bare.append(float(loaded.ask(str(folder))))
                step.append(_warm(state, tools))
            pairs.append((min(bare), min(step)))
    extra = statistics.median(step - bare for bare, step in pairs)
    bare, step = (sum(column) for column in zip(*pairs, strict=True))
    note = (
        f"median script {1e3 * statistics.median(b for b, _ in pairs):.0f} ms bare, a step adds "
        f"{1e3 * extra:.0f} ms, so the goal holds for scripts of {1e3 * extra / 0.15:.0f} ms and more; over "
        f"all scripts together {step / bare:.2f}"
    )
    return [step / bare for bare, step in pairs], note


def _two_workers(bench: _Bench, rounds: int = 5) -> _Found:
    rows = [(state, EXECUTE) for state in bench.states]
    seconds: dict[int, list[float]] = {1: [], 2: []}
    with Runner(workers=1) as one, Runner(workers=2) as two:
        for runner in (one, two):
            runner.warm()
            run_steps(rows[:4], bench.tools(runner))
        for _ in range(rounds):
            for count, runner in ((1, one), (2, two)):
                seconds[count].append(timed(run_steps, rows, bench.tools(runner)))
    medians = {count: statistics.median(values) for count, values in seconds.items()}
    note = f"{len(rows)} steps in {medians[1]:.2f} s and {medians[2]:.2f} s, on {usable_cpus()} cores"
    return [first / second for first, second in zip(*seconds.values(), strict=True)], note


def _snapshots(bench: _Bench, count: int = 200) -> _Found:
    store = WorkspaceStore(bench.folder / "blobs")
    values = []
    for number in range(count):
        base = bench.states[number % len(bench.states)]
        state = base.with_file("train.py", base.files["train.py"] + f"\n# {number}\n".encode())
        began = time.perf_counter()
        row = store.snapshot(state)
        restored = store.restore(row)
        values.append(1e3 * (time.perf_counter() - began))
        if restored != state:
            raise RunError("a restored workspace differs from its snapshot", cure="report this as a bug")
    folders = {task.data_dir for task in bench.tasks.values() if task.data_dir.is_dir()}
    data = sum(path.stat().st_size for folder in folders for path in folder.rglob("*") if path.is_file())
    blobs = sum(path.stat().st_size for path in store.folder.rglob("*") if path.is_file())
    note = (
        f"{blobs / count / 1e3:.1f} kB written for each, of the tasks' {data / 1e6:.1f} MB of data nothing: "
        "they are referred to by their hash"
    )
    return values, note


def _grpo_overhead(bench: _Bench) -> _Found:
    """Train a few steps as the laptop profile does, from the pocket base."""
    grpo = get_profile("laptop").grpo
    work = ("step", grpo.states_per_step, grpo.group_size)
    rows = [took["row"] for took in model_rows.work_of(bench.folder, work, 6)]
    parts = ("generation", "coder", "execution", "update", "overhead")
    spent = {part: statistics.median(row[f"seconds_{part}"] for row in rows) for part in parts}
    note = "median seconds of a step: " + ", ".join(f"{part} {value:.2f}" for part, value in spent.items())
    return [row["seconds_overhead"] / row["seconds_total"] for row in rows], note


def _cache_effect(bench: _Bench, count: int = 3) -> _Found:
    """Run the scripts of a finished run's evaluation on some tasks again, in their order, twice.

    Once without and once with a cache that starts empty. A batch is what ran side by side: the trajectories
    of one policy on one task.
    """
    from mlagent_lib.agents.rollout import edited_state

    rows = read_jsonl(bench.run / "04_evaluation" / "trajectories.jsonl")[0]
    recorded = [step for row in rows for step in row["steps"] if step["seconds"]]
    known = [step for step in recorded if step["cache_hit"]]
    metrics = read_jsonl(bench.run / "03_grpo" / "metrics.jsonl")[0]
    updates = [row for row in metrics if row["split"] == "train"]
    trained = sum(row["cache_hits"] for row in updates) / sum(row["executions"] for row in updates)
    tasks = {name: find_task(name) for name in list(dict.fromkeys(row["task"] for row in rows))[:count]}
    batches: dict[tuple[str, str], list[State]] = {}
    for row in rows:
        if row["task"] in tasks:
            task = tasks[row["task"]]
            edited = [edited_state(step, task) for step in row["steps"] if step["outcome"] == "edited"]
            batches.setdefault((row["source"], row["task"]), []).extend(edited)
    pairs = []
    with Runner(workers=2) as runner:
        runner.warm()
        tools = replace(bench.tools(runner, ExecutionCache(bench.folder / "effect")), tasks=tasks)
        for states in filter(None, batches.values()):
            jobs = [(state, "train.py") for state in states]
            requests = [tools.request(*job) for job in jobs]
            pairs.append((timed(runner.run_many, requests), timed(tools.execute_many, jobs)))
    spent = [sum(column) for column in zip(*pairs, strict=True)]
    share = f"{len(known) / len(recorded):.0%} of {len(recorded)} executions"
    saved = [sum(step["seconds"] for step in steps) for steps in (known, recorded)]
    note = (
        f"replayed in {spent[0]:.1f} s without and {spent[1]:.1f} s with a cache that starts empty; in the "
        f"whole evaluation {share} were known and saved {saved[0]:.0f} of {saved[1]:.0f} script seconds; in "
        f"training {trained:.0%} were known"
    )
    return [without / with_it for without, with_it in pairs], note


_MEASURES: dict[str, Callable[[_Bench], _Found]] = {
    "a": _against_cold, "b": _against_bare, "c": _two_workers, "d": _snapshots, "e": _grpo_overhead,
    "f": _cache_effect, "g": lambda bench: model_rows.against_generate(bench.folder),
    "h": lambda bench: model_rows.busy(bench.folder, ("step", 8, 8), 7, "a step of 8 states x 8 replies"),
    "i": lambda bench: model_rows.busy(
        bench.folder, ("evaluation", 4, 6), 1, "one policy on 19 tasks x 4 x 6 steps"
    ),
    "j": lambda bench: model_rows.growth(bench.folder),
}  # fmt: skip
LETTERS = "".join(_MEASURES)


@cache
def _questions() -> dict[str, dict[str, str]]:
    return read_yaml(QUESTIONS)


def run_bench(
    which: str = LETTERS,
    *,
    run: Path | None = None,
    tasks: Sequence[str] = (),
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Return what was measured, as written to ``out``: findings, machine and versions.

    Args:
        which: Letters of the questions.
        run: A finished run folder, for question f.
        tasks: Pocket tasks whose scripts are used; all where none is given.

    Raises:
        RunError: A letter is unknown, or question f has no finished run.
    """
    check_letters(which, _MEASURES, "question")
    if "f" in which and (run is None or not (run / "04_evaluation" / "trajectories.jsonl").is_file()):
        cure = "make one with `mlagent run`, or leave f out with --only abcdeghij"
        raise RunError(f"question f needs a finished run, {run} is none", cure=cure)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mlagent-bench-") as folder:
        states, known = scripts(tasks or list_tasks())
        bench = _Bench(Path(folder), states, known, run)
        bench.states = _quick_ones(bench)
        found = []
        for letter in which:
            asked = _questions()[letter]
            say(f"{letter}: {asked['title']} ...")
            found.append(BenchRow.of(letter, asked, *_MEASURES[letter](bench)))
    return recorded(SCHEMA, found, began, out, scripts=len(bench.states))


def check_letters(letters: str, known: Mapping[str, object], what: str) -> None:
    """Raise `RunError` where a letter is unknown, or where there is none."""
    for letter in letters or [""]:
        if letter not in known:
            cure = f"choose letters from {''.join(known)}"
            raise RunError(f"the bench has no {what} {letter!r}", cure=cure)


def recorded(schema: str, rows: Sequence[BenchRow], began: float, out: Path | None, **more: object) -> dict:
    """Return the record of a bench that began then (`time.monotonic`), as written to ``out`` if given."""
    findings = [vars(row) | {"reached": row.reached} for row in rows]
    record = {"schema": schema, "findings": findings, **more, "device": device_name(), "tier": choose().name}
    record |= {"versions": versions(), "git": git_state(), "seconds": round(time.monotonic() - began, 1)}
    if out is not None:
        write_json(out, record)
    return record


def _quick_ones(bench: _Bench) -> list[State]:
    """Return the states whose script ends by itself within some seconds, by one run of each."""
    with Runner(workers=min(2, usable_cpus())) as runner:
        found = bench.tools(runner).execute_many([(state, "train.py") for state in bench.states])
    return [
        state
        for state, (execution, _) in zip(bench.states, found, strict=True)
        if isinstance(execution, Execution) and execution.score is not None and execution.seconds < _LONGEST
    ]


def printed_rows(record: dict) -> list[tuple[str, ...]]:
    """Return the rows that ``mlagent bench`` prints, the heading first."""
    rows = [("", "question", "median", "quartiles", "goal", "", "n", "behind it")]
    for row in record["findings"]:
        value, low, high = (f"{row[name]:.3g}" for name in ("value", "low", "high"))
        median = f"{value} ms" if row["unit"] == "ms" else value
        told = (row["goal"], "reached" if row["reached"] else "missed", str(row["count"]), row["note"])
        rows.append((row["key"], row["question"], median, f"{low} to {high}", *told))
    return rows


def missed(record: dict) -> list[str]:
    """Return one line for each goal that was missed and whose limit is known."""
    asked = _questions()
    lost = [row["key"] for row in record["findings"] if not row["reached"]]
    return [f"({key}) is missed. {asked[key]['limit']}" for key in lost if "limit" in asked[key]]


def read_bench(path: Path) -> dict:
    """Return a record that `run_bench` wrote.

    Raises:
        RunError: There is none, or it is another file.
    """
    try:
        record = json.loads(Path(path).read_text())
    except (FileNotFoundError, ValueError) as error:
        raise RunError(f"no bench in {path}: {error}", cure=f"run `mlagent bench --out {path}`") from error
    if not isinstance(record, dict) or record.get("schema") != SCHEMA:
        raise RunError(f"{path} is no record of the bench", cure=f"run `mlagent bench --out {path}`")
    return record


def finding_lines(record: dict) -> str:
    """Return the rows of a record of the bench as a table in Markdown."""
    lines = ["| | question | median [quartiles] | goal | n | behind it |", "|---|---|---|---|---|---|"]
    for key, question, median, spread, goal, told, count, note in printed_rows(record)[1:]:
        median += f" [{spread.replace(' to ', ', ')}]"
        goal = goal.replace(">=", "≥").replace("<=", "≤") + f": {told}"
        lines.append(f"| {key} | {question} | {median} | {goal} | {count} | {note} |")
    return "\n".join(lines)


def speed_lines(figures: Path | str) -> str:
    """Return the table of the bench as Markdown, from the committed record alone."""
    record = read_bench(Path(figures) / BENCH)
    versions = record["versions"]
    where = (
        f"Measured in one run on {record['device']}, isolation {record['tier']}, with {record['scripts']} "
        f"scripts (the starter of each task and an edit of it), Python {versions['python']}, "
        f"scikit-learn {versions['scikit-learn']}, torch {versions['torch']}."
    )
    return "\n\n".join([finding_lines(record), *missed(record), where])
