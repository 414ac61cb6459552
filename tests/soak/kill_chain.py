"""Kill -9 all over the chain, at seeded random moments: is anything lost, doubled or left behind?

Runs the smoke profile once undisturbed, then again under fire: the `mlagent run` parent, the notebook's
kernel, a warm server or the guard of a run is killed, the command is started again, and so on until enough
kills are made. At the end every result is compared with the undisturbed run's, and processes and temporary
files are looked for. Only processes that this script started are ever killed: they carry its folder in their
environment or their command line.

    python tests/soak/kill_chain.py --kills 50

A soak that was itself interrupted goes on when the same command is started again. Needs Linux (/proc, pidfd).
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from mlagent_lib.core.artifacts import NOTEBOOKS, read_manifest
from mlagent_lib.core.files import append_jsonl, read_jsonl, sha256_file, write_json
from mlagent_lib.core.provenance import git_state, usable_cpus, versions
from mlagent_lib.core.seeding import rng

PROFILE, REFERENCE = "smoke", "undisturbed"
SHARES = {"parent": 0.35, "kernel": 0.35, "server": 0.15, "guard": 0.15}
PROMISED = (  # byte for byte, by the README's section "What is promised"
    "02_sft/adapter/adapter_model.safetensors", "02_sft/test_steps.csv", "03_grpo/group.csv",
    "03_grpo/step_rewards.csv", "04_evaluation/trajectories.csv", "04_evaluation/tasks.csv",
    "04_evaluation/overall.csv", "04_evaluation/differences.csv",
)  # fmt: skip
TRAJECTORIES = ("01_collection/trajectories.jsonl", "04_evaluation/trajectories.jsonl")
CLOCKED = re.compile(
    r"second|minute|wall|time|cache|hit|memory|speed"
)  # columns of which nothing is promised
GONE_S, END_S, TARGET_S = 60.0, 1200.0, 6.0


# Processes


def processes(mark: str) -> dict[int, tuple[int, str]]:
    """Return parent's id and command line of every living process that carries ``mark``, by process id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, ValueError):
            words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            if fields[0] not in "ZX" and (mark in words or mark in _environment(entry)):
                found[int(entry.name)] = (int(fields[1]), words)
    return found


def _environment(entry: Path) -> str:
    with contextlib.suppress(OSError):
        return (entry / "environ").read_bytes().decode(errors="replace")
    return ""


def find(target: str, parent: int, mark: str) -> int | None:
    """Return the process id of a target among the descendants of ``parent``, or None if there is none now."""
    alive = processes(mark)

    def children(pids: list[int], word: str) -> list[int]:
        return [pid for pid, (above, words) in alive.items() if above in pids and word in words]

    kernels = children([parent], "ipykernel_launcher")
    servers = children(kernels, "warm_server.py")
    found = {"parent": [parent], "kernel": kernels, "server": servers, "guard": children(servers, "")}
    return min(found[target], default=None)


def kill(pid: int, mark: str) -> bool:
    """Kill -9 one process and return whether it was still there and ours."""
    with contextlib.suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)  # first: from here on the id cannot come to mean another process
        try:
            if pid in processes(mark):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                return True
        finally:
            os.close(descriptor)
    return False


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether a condition came true within some seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.03)
    return True


# One start of the command


class Start:
    """One `mlagent run`, whose lines are read as they come.

    Attributes:
        notebook: The one that runs now, or "".
        process: The parent.
    """

    def __init__(self, work: Path, run_id: str):
        environment = {**os.environ, "TMPDIR": str(work / "tmp"), "PYTHONPATH": str(REPOSITORY)}
        words = ["run", "--profile", PROFILE, "--runs-dir", str(work / "runs"), "--run-id", run_id]
        self._errors = tempfile.TemporaryFile(dir=work)  # noqa: SIM115 - closed in `end`
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mlagent_lib", *words], env=environment, cwd=REPOSITORY, text=True,
            stdout=subprocess.PIPE, stderr=self._errors, start_new_session=True,
        )  # fmt: skip
        self.notebook = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            name, _, what = line.partition("] ")[2].partition(": ")
            self.notebook = name if what.startswith("running") else ""

    def end(self, seconds: float) -> tuple[int | None, str]:
        """Return exit code (None if it did not end) and what it said on stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=seconds)
        if self.process.returncode is None:
            return None, "did not end"
        self._reader.join(5)
        self.process.stdout.close()
        self._errors.seek(0)
        text = self._errors.read().decode(errors="replace")
        self._errors.close()
        return self.process.returncode, text


# The soak


@dataclass
class Soak:
    """One soak: where it works, what it has done so far, and what was wrong."""

    work: Path
    log: Path
    seed: int
    wanted: int
    kills: list[dict] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    starts: int = 0

    @property
    def mark(self) -> str:
        """Return what tells this soak's processes from all others."""
        return str(self.work / "tmp")

    def record(self, **row: object) -> None:
        """Append one kill to the log."""
        self.kills.append(row)
        append_jsonl(self.log, row)
        words = f"{row['target']} in {row['notebook'] or 'between notebooks'}"
        print(f"kill {len(self.kills)} of {self.wanted}: {words} after {row['after_s']} s", flush=True)

    def undisturbed(self) -> dict[str, float]:
        """Make the run to compare with, if it is not there, and return the seconds of each notebook."""
        start = Start(self.work, REFERENCE)
        code, text = start.end(END_S)
        if code != 0:
            raise SystemExit(f"the undisturbed run ended with {code}: {text[-2000:]}")
        rows, _ = read_jsonl(self.work / "runs" / REFERENCE / "pipeline.jsonl")
        return {row["notebook"]: row["seconds"] for row in rows if row["status"] == "executed"}

    def chain(self, run_id: str, seconds: dict[str, float]) -> None:
        """Bring one run to its end, under fire until enough kills are made."""
        quota = {name: max(self.wanted // len(NOTEBOOKS), 1) + 1 for name, _ in NOTEBOOKS}
        quota = {name: quota[name] - self._made(run_id, name) for name in quota}
        while True:
            start = Start(self.work, run_id)
            self.starts += 1
            shot = self._shoot(start, run_id, seconds, quota)
            code, text = start.end(GONE_S if shot else END_S)
            self._check_end(run_id, shot, code, text)
            if not shot or self.faults:
                return

    def _made(self, run_id: str, notebook: str) -> int:
        return sum(row["run"] == run_id and row["notebook"] == notebook for row in self.kills)

    def _shoot(self, start: Start, run_id: str, seconds: dict[str, float], quota: dict[str, int]) -> str:
        """Kill again and again until a kill ends the run; return its target, or "" if the run ends itself."""
        while len(self.kills) < self.wanted:
            wait_until(lambda: start.process.poll() is not None or quota.get(start.notebook, 0) > 0, END_S)
            if start.process.poll() is not None:
                return ""
            notebook, draw = start.notebook, rng(self.seed, "kill-chain", len(self.kills))
            target = str(draw.choice(list(SHARES), p=list(SHARES.values())))
            delay = float(
                seconds[notebook] * draw.random() ** 1.5
            )  # early in a notebook more often than late
            began = time.monotonic()
            wait_until(lambda: start.process.poll() is not None, delay)
            pid = self._aim(start, target)
            if pid is None:
                target, pid = "kernel", find("kernel", start.process.pid, self.mark)
            where = start.notebook
            if pid is None or not kill(pid, self.mark):
                continue  # it has ended meanwhile: draw no other moment, take the next one
            quota[where] = quota.get(where, 0) - 1
            stages = dict(NOTEBOOKS).get(where, ())
            self.record(
                kill=len(self.kills), run=run_id, notebook=where, stage=stages[0] if stages else "",
                target=target, after_s=round(time.monotonic() - began, 2), time=round(time.time(), 1),
            )  # fmt: skip
            if target in ("parent", "kernel"):
                return target
        return ""

    def _aim(self, start: Start, target: str) -> int | None:
        """Return a target's process id; servers and guards come and go, so wait a little for one."""
        found: list[int] = []

        def seen() -> bool:
            pid = find(target, start.process.pid, self.mark)
            found.extend([pid] if pid else [])
            return bool(found) or start.process.poll() is not None

        wait_until(seen, TARGET_S if target != "parent" else 0)
        return found[0] if found else None

    def _check_end(self, run_id: str, shot: str, code: int | None, text: str) -> None:
        """Note where a start did not end as it should, or left a process behind."""
        expected = {"parent": -signal.SIGKILL, "kernel": 1, "": 0}[shot]
        if code != expected:
            self.faults.append(f"{run_id}: exit code {code}, not {expected}, after {shot}: {text[-1500:]}")
        if shot != "parent" and "Traceback" in text:
            self.faults.append(f"{run_id}: a traceback instead of one line after {shot}: {text[-1500:]}")
        began = time.monotonic()
        if not wait_until(lambda: not processes(self.mark), GONE_S):
            names = [words[:200] for _, words in processes(self.mark).values()]
            self.faults.append(f"{run_id}: processes are left after {shot or 'the end'}: {names}")
        if self.kills and shot:
            self.kills[-1]["gone_s"] = round(time.monotonic() - began, 2)


# Comparison


def compare(reference: Path, run: Path) -> tuple[dict, list[str]]:
    """Return what was compared and what was wrong with a run that was under fire."""
    faults, equal, clocked = [], [], {}
    names = sorted(path.relative_to(reference).as_posix() for path in reference.rglob("*.csv"))
    for name in [*names, *PROMISED, "03_grpo/adapter/adapter_model.safetensors"]:
        if not (run / name).is_file():
            faults.append(f"{name} is missing")
        elif sha256_file(run / name) == sha256_file(reference / name):
            equal.append(name)
        elif name in PROMISED or not name.endswith(".csv"):
            faults.append(f"{name} differs from the undisturbed run's")
        else:
            clocked[name] = _differing_columns(reference / name, run / name)
            bad = [column for column in clocked[name] if not CLOCKED.search(column)]
            faults += [f"{name} differs in {', '.join(bad)}"] if bad else []
    counts = {}
    for name in TRAJECTORIES:
        counts[name], problem = _compare_trajectories(reference / name, run / name)
        faults += [f"{name}: {problem}"] if problem else []
    for _, stages in NOTEBOOKS:
        faults += [f"stage {stage} has no manifest" for stage in stages if read_manifest(run / stage) is None]
    steps = [(row["split"], row["step"]) for row in read_jsonl(run / "03_grpo" / "metrics.jsonl")[0]]
    faults += ["03_grpo/metrics.jsonl holds a step twice"] if len(set(steps)) != len(steps) else []
    faults += [f"{path.name} is left" for path in run.rglob(".tmp-*")]
    faults += [".kernel is left"] if (run / ".kernel").exists() else []
    return {
        "byte_equal": sorted(set(equal)),
        "differ_in_clocks_only": clocked,
        "trajectories": counts,
    }, faults


def _differing_columns(first: Path, second: Path) -> list[str]:
    """Return the columns in which two tables differ; all of them when their shape differs."""
    import pandas as pd

    one, two = pd.read_csv(first, dtype=str), pd.read_csv(second, dtype=str)
    if list(one) != list(two) or len(one) != len(two):
        return ["rows or columns"]
    if "metric" in one and "value" in one:  # a long table: what a row is about stands in its cells
        changed = one["value"].fillna("") != two["value"].fillna("")
        return sorted(set(one.loc[changed, "metric"]))
    return [name for name in one if not one[name].equals(two[name])]


def _compare_trajectories(first: Path, second: Path) -> tuple[int, str]:
    """Return the number of trajectories, and what is wrong with those of the second file, or ""."""
    wanted, _ = read_jsonl(first)
    rows, bad = read_jsonl(second)
    ids, right = [row["id"] for row in rows], [row["id"] for row in wanted]
    if bad:
        return len(rows), f"{bad} lines are torn"
    if len(set(ids)) != len(ids):
        return len(rows), f"doubled: {[name for name, n in Counter(ids).items() if n > 1]}"
    if ids != right:
        return len(
            rows
        ), f"lost {sorted(set(right) - set(ids))}, new {sorted(set(ids) - set(right))}, or moved"
    changed = [
        row["id"] for row, other in zip(rows, wanted, strict=True) if _timeless(row) != _timeless(other)
    ]
    return len(rows), f"other content: {changed}" if changed else ""


def _timeless(value: object) -> object:
    """Return a trajectory without what depends on the clock."""
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in ("seconds", "cache_hit")}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


# The whole


def hardware() -> str:
    """Return processor, cores and memory in words."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        return f"{model}, {usable_cpus()} cores, {memory:.0f} GiB"
    return platform.machine()


def summary(soak: Soak, compared: dict[str, dict], seconds: float) -> dict:
    """Return what is written down in the end."""

    def count(key: str) -> dict[str, int]:
        return dict(sorted(Counter(row[key] for row in soak.kills).items()))

    return {
        "what": "kill -9 at seeded random moments over the whole smoke chain, then compared with an "
        "undisturbed run",
        "result": "failed" if soak.faults else "passed",
        "faults": soak.faults,
        "kills": len(soak.kills),
        "kills_by_target": count("target"),
        "kills_by_stage": count("stage"),
        "chains": len(compared),
        "starts": soak.starts,
        "kills_that_the_run_survived": sum(row["target"] in ("server", "guard") for row in soak.kills),
        "most_seconds_until_all_was_gone": max((row.get("gone_s", 0) for row in soak.kills), default=0),
        "compared": compared,
        "promised_byte_equal": list(PROMISED),
        "seed": soak.seed,
        "profile": PROFILE,
        "seconds": round(seconds, 1),
        "hardware": hardware(),
        "platform": platform.platform(),
        "versions": versions(),
        "git": git_state(),
    }  # fmt: skip


def run(soak: Soak, out: Path, *, keep: bool) -> int:
    """Do the soak, write its summary, and return 0 if nothing was wrong."""
    began, compared, number = time.monotonic(), {}, 0
    seconds = soak.undisturbed()
    while not soak.faults and (number == 0 or len(soak.kills) < soak.wanted):
        number += 1
        run_id = f"killed-{number}"
        soak.chain(run_id, seconds)
        if not soak.faults:
            found, faults = compare(soak.work / "runs" / REFERENCE, soak.work / "runs" / run_id)
            compared[run_id] = found
            soak.faults += [f"{run_id}: {fault}" for fault in faults]
    left = sorted(path.relative_to(soak.work / "tmp").as_posix() for path in (soak.work / "tmp").rglob("*"))
    soak.faults += [f"temporary files are left: {left}"] if left else []
    write_json(out, summary(soak, compared, time.monotonic() - began))
    print(f"{'failed' if soak.faults else 'passed'}: {len(soak.kills)} kills, see {out}")
    for fault in soak.faults:
        print(f"  {fault}")
    if not (keep or soak.faults):
        shutil.rmtree(soak.work)
    return 1 if soak.faults else 0


def main(argv: list[str] | None = None) -> int:
    """Read the command line, do the soak, and return its exit code."""
    here = Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=50, help="how many, default 50")
    parser.add_argument("--seed", type=int, default=0, help="of moments and targets, default 0")
    parser.add_argument("--out", type=Path, default=here / "kill_chain.json", help="the summary")
    parser.add_argument("--log", type=Path, help="one row for each kill, default beside the summary")
    parser.add_argument("--work", type=Path, help="folder of the runs, default in the temporary folder")
    parser.add_argument("--keep", action="store_true", help="keep that folder, to look at it")
    given = parser.parse_args(argv)
    work = given.work or Path(tempfile.gettempdir()) / f"mlagent-kill-chain-{given.seed}"
    work, log = work.absolute(), given.log or given.out.with_suffix(".jsonl")
    goes_on = (work / "tmp").is_dir()
    (work / "tmp").mkdir(parents=True, exist_ok=True)
    if not goes_on:
        log.unlink(missing_ok=True)
    soak = Soak(work, log, given.seed, given.kills, read_jsonl(log, missing_ok=True)[0])
    try:
        return run(soak, given.out, keep=given.keep)
    finally:
        for pid in processes(soak.mark):  # on Ctrl-C or an error of this script
            kill(pid, soak.mark)


if __name__ == "__main__":
    sys.exit(main())
