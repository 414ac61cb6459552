"""A soak: thousands of real steps in one process, and what they leave behind in memory and elsewhere.

``python tests/soak/steps.py`` makes 10,000 steps and writes ``steps.csv`` (a row every 200 steps) and
``steps.json`` (the verdict) beside itself. Every script really runs: each state holds a note of its own, so
the cache never knows an experiment.
"""

from __future__ import annotations

import argparse
import collections
import csv
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

MB = 1 << 20
HERE = Path(__file__).resolve().parent
TASKS = ("pocket-homes", "pocket-phrases", "pocket-ballots")
BATCH = 20  # rows of one `run_steps`
SCRIPT_SECONDS = 1.0
LONGEST = 15  # steps of a trajectory, as in the paper
ALLOWED_MB = 50.0
WARM_UP = 0.2  # of the samples: libraries load, pools fill

# what a policy's script may do, beside training: each runs under the limits of its task
SCRIPTS = {
    "fine": "print('validation mae: 1.0')\n",
    "raises": "x = {}\nprint('so far')\nx['missing']\n",
    "exits": "import sys\nsys.exit(3)\n",
    "crashes": "import ctypes\nctypes.string_at(0)\n",
    "memory": "x = bytearray(1 << 40)\n",
    "output": "for i in range(3000): print(i, 'x' * 60)\n",
    "files": "import os\nos.makedirs('a/b')\nfor i in range(40): open(f'a/b/{i}', 'w').write('x' * 999)\n",
    "refused": "open('submission.csv', 'w').write('id,prediction\\n1,nan\\n')\n",
    "daemon": "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(60)\n",
    "threads": "import threading as t\nfor _ in range(4): t.Thread(target=sorted, args=([2, 1],)).start()\n",
}  # fmt: skip
HANGS = "while True: pass\n"


def arguments() -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=10_000, help="how many steps (default 10000)")
    parser.add_argument("--every", type=int, default=200, help="steps between two samples (default 200)")
    parser.add_argument("--workers", type=int, default=2, help="warm servers (default 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the mix of replies (default 0)")
    parser.add_argument("--out", type=Path, default=HERE, help="where to write (default: beside this file)")
    return parser.parse_args()


# ---- what a policy says --------------------------------------------------------------------------


def reply(action: str, **values: str) -> str:
    """Return a six-field reply."""
    return (
        "Reflection: none\nResearch Plan and Status: none\nFact Check: none\nThought: none\n"
        f"Action: {action}\nAction Input: {json.dumps(values)}"
    )


def edit(instruction: str) -> str:
    """Return a reply that edits and so executes the starter."""
    return reply(
        "Edit Script (AI)", script_name="train.py", edit_instruction=instruction, save_name="train.py"
    )


class Mix:
    """Draws rows for `run_steps`: states on their way through trajectories, and replies of every kind."""

    def __init__(self, starts: list, instructions: dict[str, list[str]], seed: int):
        self.starts, self.instructions = starts, instructions
        self.random = random.Random(seed)
        self.slots = [starts[number % len(starts)] for number in range(BATCH)]
        self.made = 0

    def rows(self, count: int) -> list:
        """Return the next rows, at most one for each slot."""
        return [self._row(slot) for slot in range(count)]

    def keep(self, results: list) -> None:
        """Go on from the results; a trajectory that has ended starts again."""
        for slot, result in enumerate(results):
            state = result.state
            ended = state.done or state.step >= LONGEST
            self.slots[slot] = self.random.choice(self.starts) if ended else state

    def _row(self, slot: int) -> tuple:
        self.made += 1
        # train.py is the starter's again, so that every edit of the catalogue applies
        files = self.random.choice([s for s in self.starts if s.task == self.slots[slot].task]).files
        state = replace(self.slots[slot], files={**files, "notes.txt": f"step {self.made}\n".encode()})
        draw, pick = self.random.random(), self.random.choice
        if draw < 0.15:
            return state, pick(["", "hello", reply("Dance"), reply("List Files") + "}", "\ud800\0" * 50])
        if draw < 0.35:
            return state, pick(self._looks())
        if draw < 0.45:
            return state, edit(f"make it better, idea {self.made}")
        if draw < 0.65:
            return state, edit(pick(self.instructions[state.task]))
        script = HANGS if draw < 0.66 else SCRIPTS[pick(sorted(SCRIPTS))]
        return state.with_file("own.py", script.encode()), reply("Execute Script", script_name="own.py")

    @staticmethod
    def _looks() -> list[str]:
        lines = {"script_name": "train.py", "start_line_number": "1", "end_line_number": "30"}
        return [
            reply("List Files", dir_path="data"),
            reply("List Files", dir_path="../.."),
            reply("Inspect Script Lines", **lines),
            reply("Understand File", file_name="train.py", things_to_look_for="the model"),
            reply("Copy File", source="train.py", destination="copy.py"),
            reply("Final Answer", final_answer="done"),
        ]


# ---- what is there -------------------------------------------------------------------------------


def processes_below(pid: int) -> dict[int, str]:
    """Return the state letter of each process below one, by number."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:  # it has ended meanwhile
            continue
        parents[int(name)] = (int(fields[1]), fields[0])
    found, new = {}, [pid]
    while new:
        new = [child for child, (parent, _) in parents.items() if parent in new]
        found |= {child: parents[child][1] for child in new}
    return found


def resident_mb(pid: int) -> float:
    """Return the memory of a process that is in RAM, in MB of 2^20 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / MB


def quiet(servers: int, seconds: float = 5.0) -> dict[int, str]:
    """Return the processes below this one once only the servers are left, or what is there after a while."""
    deadline = time.monotonic() + seconds
    while len(below := processes_below(os.getpid())) > servers and time.monotonic() < deadline:
        time.sleep(0.02)
    return below


def sample(steps: int, began: float, temporary: Path, servers: int) -> dict:
    """Return one row of the table: how much there is of everything, between two batches."""
    below = quiet(servers)
    resident = [resident_mb(pid) for pid, state in below.items() if state != "Z"]
    found = [path for path in temporary.rglob("*")]
    return {
        "steps": steps,
        "seconds": round(time.monotonic() - began, 1),
        "memory_mb": round(resident_mb(os.getpid()), 2),
        "servers_mb": round(sum(resident), 2),
        "descriptors": len(os.listdir("/proc/self/fd")) - 1,  # less the one that lists them
        "threads": len(os.listdir("/proc/self/task")),
        "children": len(below),
        "zombies": sum(state == "Z" for state in below.values()),
        "temporary_entries": len(found),
        "workspace_files": sum(path.is_file() for path in found),
    }


FLAT = ("descriptors", "threads", "children", "zombies", "temporary_entries", "workspace_files")


def judge(samples: list[dict]) -> dict:
    """Return the spread of each column after the warm-up, and whether all is flat."""
    after = samples[max(1, int(len(samples) * WARM_UP)) :]
    spread = {
        name: round(max(row[name] for row in after) - min(row[name] for row in after), 2)
        for name in ("memory_mb", "servers_mb", *FLAT)
    }
    flat = all(spread[name] == 0 for name in FLAT) and after[-1]["zombies"] == 0
    steady = spread["memory_mb"] <= ALLOWED_MB and spread["servers_mb"] <= ALLOWED_MB
    return {
        "samples_after_warm_up": len(after),
        "max_minus_min": spread,
        "allowed_mb": ALLOWED_MB,
        "verdict": "flat" if flat and steady else "not flat",
    }


# ---- the run -------------------------------------------------------------------------------------


def soak(options: argparse.Namespace, folder: Path) -> dict:
    """Make the steps and return the report; the table is written as it grows."""
    from mlagent_lib.core.provenance import git_state, versions
    from mlagent_lib.environment.cache import ExecutionCache
    from mlagent_lib.environment.coder import RuleCoder
    from mlagent_lib.environment.runner import Runner, RunRequest
    from mlagent_lib.environment.step import Toolbox, run_steps, start_state
    from mlagent_lib.tasks.pocket import catalogue
    from mlagent_lib.tasks.registry import find_task

    temporary, samples, outcomes = Path(tempfile.gettempdir()), [], collections.Counter()
    tasks = [find_task(name) for name in TASKS]
    instructions = {t.name: [e.instruction for e in catalogue.edits(t.modality, t.kind)] for t in tasks}
    executed = 0
    with Runner(workers=options.workers) as runner:
        runner.warm()
        # beside each full server a small one, which starts with the first script that needs no more
        small = RunRequest(
            {"a.py": b"import time\ntime.sleep(1)"}, tasks[0].data_dir, "a.py", tasks[0].limits, collect=(),
            standard_only=True,
        )  # fmt: skip
        runner.run_many([small] * options.workers)
        servers = len(quiet(2 * options.workers))
        tools = Toolbox(runner, RuleCoder(), ExecutionCache(folder / "cache"), script_seconds=SCRIPT_SECONDS)
        mix = Mix(
            [start_state(task, replace(tools, script_seconds=None)) for task in tasks],
            instructions,
            options.seed,
        )
        began, done = time.monotonic(), 0
        with open(options.out / "steps.csv", "w", newline="") as handle:
            table = csv.DictWriter(handle, sample(0, began, temporary, servers), lineterminator="\n")
            table.writeheader()
            while True:
                if done % options.every == 0 or done == options.steps:
                    samples.append(sample(done, began, temporary, servers))
                    table.writerow(samples[-1])
                    handle.flush()
                if done == options.steps:
                    break
                count = min(BATCH, options.steps - done, options.every - done % options.every)
                results = run_steps(mix.rows(count), tools)
                mix.keep(results)
                outcomes.update(f"{result.outcome.value}: {result.reason}" for result in results)
                executed += sum(result.executed and not result.cache_hit for result in results)
                done += count
        seconds, tier = round(time.monotonic() - began, 1), runner.tier
    left = {"processes": len(quiet(0)), "temporary_entries": len(list(temporary.rglob("*")))}
    return {
        "steps": options.steps,
        "executed": executed,
        "seconds": seconds,
        "tasks": list(TASKS),
        "workers": options.workers,
        "seed": options.seed,
        "tier": tier,
        **judge(samples),
        "left_after_close": left,
        "outcomes": dict(sorted(outcomes.items())),
        "versions": versions(("numpy", "pandas", "scikit-learn", "scipy")),
        "git": git_state(),
        "hardware": hardware(),
    }


def hardware() -> dict:
    """Return what the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGESIZE") / (1 << 30)
    return {
        "processor": model or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory, 1),
        "system": f"{platform.system()} {platform.release()}",
    }


def main() -> int:
    """Run the soak in a temporary folder of its own; 0 when all is flat."""
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="mlagent-soak-"))
    folder.chmod(0o711)  # a throw-away user of a run has to pass through
    try:
        (folder / "tmp").mkdir(mode=0o711)
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
        report = soak(options, folder)
    finally:
        shutil.rmtree(folder)
    text = json.dumps(report, indent=2) + "\n"
    (options.out / "steps.json").write_text(text)
    print(text, end="")
    clean = not any(report["left_after_close"].values())
    return 0 if report["verdict"] == "flat" and clean else 1


if __name__ == "__main__":
    sys.path.insert(0, str(HERE.parent.parent))  # from a checkout that is not installed
    sys.exit(main())
