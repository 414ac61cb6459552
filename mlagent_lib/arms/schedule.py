"""`mlagent ablations`: all arms over seeds, planned, started side by side, resumable.

Each unit of work is a process on one core (`units`). A unit whose manifest is intact is never made
again; the seconds that finished units took tell how long the rest will take.
"""

from __future__ import annotations

import os
import queue
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.arms.units import Unit, units_of_seed
from mlagent_lib.core.arms import PROFILE, get_arm
from mlagent_lib.core.artifacts import read_manifest, stage_problem
from mlagent_lib.core.errors import ProfileError, RunError
from mlagent_lib.core.files import FolderLock, check_free_space
from mlagent_lib.core.profiles import PATIENT
from mlagent_lib.core.provenance import usable_cpus
from mlagent_lib.run.notebooks import sigterm_unwinds

SEEDS = (0, 1, 2)  # "at least 3 seeds an arm"
# Five seeds for the arms of the claims that ended close over three (C4 to C7: no clear difference).
MORE_SEEDS = (3, 4)
CLOSE = ("sft", "full", "rl-from-base", "no-performance", "no-format", "no-corner", "tasks-3", "tasks-6")
# Seconds of a unit on one of two busy cores of a 2-core x86-64 machine, before any of its kind has been
# measured in this folder. Only for the first estimate.
FIRST_GUESS = {"collect": 45.0, "sft": 45.0, "measured": 190.0, "trained": 800.0, "search": 300.0}
# Seeds of an arm come together, arms in this order: the claims first, so that a run that is stopped early has
# whole comparisons.
ORDER = (
    "sft", "full", "base", "rl-from-base", "episode-wise", "no-performance", "no-format", "no-corner",
    "reward-v1", "reward-v2", "tasks-3", "no-undo", "no-thought", "one-idea", "random-start", "tasks-6",
    "mix-0", "mix-50", "mix-75", "variance", "max-2", "pool-36", "episode-small",
    "made-3", "made-9", "made-30", "made-100", "made-300",
)  # fmt: skip


class UnitFailed(RunError):
    """At least one unit did not reach its end; the others are kept."""

    exit_code = 1


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        units: All units in the order in which they are started.
        done: Those that are finished and intact, with the seconds that they took.
    """

    units: tuple[Unit, ...]
    done: dict[Unit, float]

    @property
    def left(self) -> list[Unit]:
        """Return the units that are still to be made, in order."""
        return [unit for unit in self.units if unit not in self.done]

    def needed(self, unit: Unit) -> set[Unit]:
        """Return the units that must be finished before another one."""
        return {other for other in self.units if other.seed == unit.seed and other.name in unit.needs}

    def expected(self, unit: Unit) -> float:
        """Return about how many seconds a unit takes: the mean of its like, of its kind, or a guess."""
        alike = [seconds for other, seconds in self.done.items() if other.name == unit.name]
        kind = [seconds for other, seconds in self.done.items() if family(other) == family(unit)]
        return statistics.fmean(alike or kind or [FIRST_GUESS[family(unit)]])

    def minutes_left(self, jobs: int) -> float:
        """Return about how many minutes the rest takes with ``jobs`` units at once."""
        return sum(self.expected(unit) for unit in self.left) / max(jobs, 1) / 60.0


def family(unit: Unit) -> str:
    """Return which units take about as long: the kind, arms apart by whether they train.

    Example:
        >>> family(Unit(0, "arm-sft")), family(Unit(0, "arm-full")), family(Unit(0, "search"))
        ('measured', 'trained', 'search')
    """
    if unit.kind != "arm":
        return unit.kind
    return "measured" if get_arm(unit.name.removeprefix("arm-")).method == "none" else "trained"


def run_of(runs_dir: Path | str, seed: int) -> Path:
    """Return the folder of the units of one seed."""
    return Path(runs_dir) / f"{PROFILE}-seed{seed}"


def plan(runs_dir: Path | str, seeds: Sequence[int] | None = None, arms: Sequence[str] | None = None) -> Plan:
    """Return what a folder of runs holds of the comparison, and what is left.

    Args:
        seeds: Roots of the random streams; where not given `SEEDS`, and `MORE_SEEDS` for the arms in `CLOSE`.
        arms: Names of the arms wanted; all where not given. What they need comes along.
    """
    wanted = _wanted(seeds, arms)
    chosen: list[Unit] = []
    every = (unit for seed in {seed for seed, _ in wanted} for unit in units_of_seed(seed))
    by_name = {(unit.seed, unit.name): unit for unit in every}

    def add(unit: Unit) -> None:
        for need in unit.needs:
            add(by_name[unit.seed, need])
        if unit not in chosen:
            chosen.append(unit)

    for key in wanted:
        add(by_name[key])
    done = {}
    for unit in chosen:
        folder = run_of(runs_dir, unit.seed) / unit.name
        if stage_problem(folder) is None:
            done[unit] = float((read_manifest(folder) or {}).get("wall_s", 0.0))
    return Plan(tuple(chosen), done)


def _wanted(seeds: Sequence[int] | None, arms: Sequence[str] | None) -> list[tuple[int, str]]:
    """Return seed and name of the arms and searches that are asked for, in the order of work."""
    first, more = (SEEDS, MORE_SEEDS) if seeds is None else (seeds, ())
    found = [(seed, f"arm-{name}") for name in ORDER for seed in first if name in (arms or ORDER)]
    found += [(seed, "search") for seed in first if arms is None]
    return found + [(seed, f"arm-{name}") for name in CLOSE for seed in more if name in (arms or CLOSE)]


def run(
    runs_dir: Path | str,
    seeds: Sequence[int] | None = None,
    *,
    arms: Sequence[str] | None = None,
    jobs: int = 0,
    say: Callable[[str], None] = print,
) -> Plan:
    """Make all units that are left, several at once, and return the plan as it then stands.

    Args:
        jobs: Units at once; 0 for one on each core.
        say: Receives one line for each unit and now and then how far the running ones are.

    Raises:
        UnitFailed: A unit has failed. What does not need it was made all the same.
        RunError: Another process works on this folder.
        ProfileError: ``jobs`` is negative.
    """
    if jobs < 0:
        raise ProfileError(f"jobs is {jobs}", cure="give 0 for one unit on each core, or a number above it")
    runs_dir, jobs = Path(runs_dir), jobs or usable_cpus()
    check_free_space(runs_dir)
    with (
        sigterm_unwinds(),
        FolderLock(runs_dir / f".{PROFILE}"),
        tempfile.TemporaryDirectory(prefix="mlagent-arms-") as temporary,
    ):
        os.chmod(temporary, 0o711)  # a throw-away user has to pass through, and sees no names
        at = plan(runs_dir, seeds, arms)
        say(plan_lines(at, jobs)[0])
        failed = _work(at, runs_dir, jobs, temporary, say)
    at = plan(runs_dir, seeds, arms)
    if failed:
        names = ", ".join(f"{unit.name} (seed {unit.seed})" for unit in failed)
        cure = f"read {runs_dir / PROFILE}-logs; start the same command again: finished units are kept"
        raise UnitFailed(f"{len(failed)} units failed: {names}", cure=cure)
    return at


def plan_lines(at: Plan, jobs: int = 0) -> list[str]:
    """Return what is finished and what is left, in words, a line for each unit that is left."""
    head = f"{len(at.done)} of {len(at.units)} units are finished; {_left(at, jobs or usable_cpus())}"
    return [head, *(f"  {unit.name} seed {unit.seed}: about {at.expected(unit):.0f} s" for unit in at.left)]


def _left(at: Plan, jobs: int) -> str:
    if not at.left:
        return "nothing is left"
    minutes = round(at.minutes_left(jobs))
    return f"{len(at.left)} left, about {minutes // 60}:{minutes % 60:02d} h with {jobs} at once"


def _work(at: Plan, runs_dir: Path, jobs: int, temporary: str, say: Callable[[str], None]) -> list[Unit]:
    """Start units as cores and needs allow; return those that failed."""
    todo, done, failed, running = at.left, dict(at.done), [], {}
    ended: queue.Queue[tuple[Unit, int, float]] = queue.Queue()
    try:
        while todo or running:
            for unit in [unit for unit in todo if at.needed(unit) & set(failed)]:
                say(f"{unit.name} (seed {unit.seed}) is left out: what it needs has failed")
                todo.remove(unit)
                failed.append(unit)
            ready = [unit for unit in todo if at.needed(unit) <= done.keys()]
            for unit in ready[: jobs - len(running)]:
                todo.remove(unit)
                running[unit] = _start(unit, runs_dir, temporary, ended)
            if not running:
                continue
            unit, code, took = ended.get()
            del running[unit]
            if code:
                failed.append(unit)
                say(f"{unit.name} (seed {unit.seed}): failed after {took:.0f} s, see {_log(runs_dir, unit)}")
                continue
            done[unit] = took
            head = f"[{len(done)}/{len(at.units)}] {unit.name} seed {unit.seed}"
            say(f"{head}: {took:.0f} s; {_left(Plan(at.units, done), jobs)}")
    finally:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    return failed


def _log(runs_dir: Path, unit: Unit) -> Path:
    return runs_dir / f"{PROFILE}-logs" / f"seed{unit.seed}-{unit.name}.log"


def _command(unit: Unit, runs_dir: Path) -> list[str]:
    return [sys.executable, "-m", "mlagent_lib.arms.units", str(unit.seed), unit.name, str(runs_dir)]


def _start(unit: Unit, runs_dir: Path, temporary: str, ended: queue.Queue) -> subprocess.Popen:
    """Start a unit as a process on one core, its output in a file; its end goes into the queue."""
    log = _log(runs_dir, unit)
    log.parent.mkdir(parents=True, exist_ok=True)
    own = tempfile.mkdtemp(dir=temporary)
    os.chmod(own, 0o711)
    environment = {"OMP_NUM_THREADS": "1", **PATIENT, "TOKENIZERS_PARALLELISM": "false", "TMPDIR": own}
    with log.open("ab") as file:
        process = subprocess.Popen(
            _command(unit, runs_dir), stdout=file, stderr=subprocess.STDOUT, env=os.environ | environment
        )
    began = time.monotonic()

    def wait() -> None:
        code = process.wait()
        shutil.rmtree(own, ignore_errors=True)
        ended.put((unit, code, time.monotonic() - began))

    threading.Thread(target=wait, daemon=True).start()
    return process
