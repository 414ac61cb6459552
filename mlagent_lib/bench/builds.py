"""Builds of the kit at work, each in a process of its own (`against_worker`), a turn at a time.

Only one of them works at a time, and they take turns in beginning. Another build is laid out in a git
worktree and runs with the same Python and libraries, the same pocket model, the same numbers of states and
actions.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from mlagent_lib.core.errors import RunError
from mlagent_lib.core.profiles import PATIENT, get_profile
from mlagent_lib.core.provenance import usable_cpus

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("against_worker.py")
MODEL = ROOT / "mlagent_lib" / "training" / "pocket_model"


def _git(*words: str, cure: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise RunError("the program git is not here", cure="install git") from None
    if done.returncode:
        told = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
        raise RunError(f"git {words[0]} failed: {told}", cure=cure)
    return done.stdout.strip()


@contextlib.contextmanager
def worktree(commit: str) -> Iterator[tuple[Path, str]]:
    """Give a folder with the files of a commit, and its full name; the folder is removed afterwards.

    Raises:
        RunError: The package does not run from a git checkout, or there is no such commit.
    """
    if not (ROOT / ".git").exists():
        cure = "clone the repository, and run `mlagent bench --against` there"
        raise RunError(f"{ROOT} is no git checkout, so there is no other build to compare with", cure=cure)
    cure = f"choose one that `git log` shows in {ROOT}; a shallow clone needs `git fetch --unshallow` first"
    name = _git("rev-parse", "--verify", "--end-of-options", f"{commit}^{{commit}}", cure=cure)
    with tempfile.TemporaryDirectory(prefix="mlagent-against-") as folder:
        tree = Path(folder) / "tree"
        _git("worktree", "add", "--detach", str(tree), name, cure="see that the temporary folder has space")
        try:
            yield tree, name
        finally:
            _git("worktree", "remove", "--force", str(tree), cure="run `git worktree prune`")


class Build:
    """A build at work in a process of its own, a turn at a time; see `against_worker`."""

    def __init__(self, tree: Path, folder: Path, work: Sequence[object]):
        folder.mkdir()
        self.tree, self._log = tree, folder / "log"
        self._words = [str(WORKER), str(work[0]), str(folder), str(MODEL), *map(str, work[1:])]

    def __enter__(self) -> Build:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", *self._words], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=log, text=True, env=environment(self.tree),
            )  # fmt: skip
        self._answer()
        return self

    def turn(self) -> dict:
        """Return what one turn took: ``wall``, ``own`` and ``all`` seconds, ``peak`` bytes, ``actions``."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        took = self._answer()
        self._answer()  # ready for the next one
        return took

    def _answer(self) -> dict:
        if line := self._process.stdout.readline():
            return json.loads(line)
        self._process.wait()
        told = self._log.read_text().strip().splitlines() or ["it gave no reason"]
        cure = "compare with a commit that has the same libraries, or measure less with --only"
        raise RunError(f"the build in {self.tree} cannot do this work: {told[-1][:300]}", cure=cure)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which a build works as `mlagent run` lets it work."""
    threads = str(min(get_profile("laptop").threads, usable_cpus()))
    return os.environ | {
        "PYTHONPATH": str(tree), "OMP_NUM_THREADS": threads, **PATIENT,
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip


class WholeRun(Build):
    """A build that makes a whole laptop run in a turn."""

    def __init__(self, tree: Path, folder: Path, work: Sequence[object]):
        super().__init__(tree, folder, work)
        self._runs, self._count = folder / "runs", 0

    def __enter__(self) -> WholeRun:
        return self

    def turn(self) -> dict:
        """Return the wall seconds of a run."""
        self._count += 1
        words = ["run", "--runs-dir", str(self._runs), "--run-id", f"run-{self._count}"]
        began = time.perf_counter()
        with self._log.open("w") as log:
            done = subprocess.run(
                [sys.executable, "-P", "-m", "mlagent_lib", *words], stdout=log, stderr=log, cwd=self.tree,
                env=environment(self.tree),
            )  # fmt: skip
        if done.returncode:
            last = (self._log.read_text().strip().splitlines() or ["it gave no reason"])[-1]
            raise RunError(f"the run of the build in {self.tree} failed: {last[:300]}", cure="run it alone")
        return {"wall": time.perf_counter() - began}

    def __exit__(self, *_: object) -> None:
        pass


def paired(
    trees: Sequence[Path], folder: Path, work: Sequence[object], turns: int
) -> list[tuple[dict, dict]]:
    """Return what each turn took the two builds; the one that begins changes from turn to turn."""
    kind = WholeRun if work[0] == "run" else Build
    found = []
    with contextlib.ExitStack() as stack:
        builds = [
            stack.enter_context(kind(tree, folder / str(place), work)) for place, tree in enumerate(trees)
        ]
        for number in range(turns):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            took = {place: builds[place].turn() for place in order}
            found.append((took[0], took[1]))
    return found
