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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

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
        raise RunError(f"git {words[0]} failed: {last_line(done.stderr)}", cure=cure)
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


class Child:
    """A program at work that answers each line with a line, and says by a first one that it is ready.

    Args:
        log: File for all else that it prints; its last line tells why the program has ended.
        what: What it is, for the error where it has.
    """

    cure = "run `mlagent doctor`"

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], log: Path, what: str):
        self._words, self._environment, self._log, self.what = words, environment, log, what

    def __enter__(self) -> Self:
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, *self._words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, env=self._environment,
            )  # fmt: skip
        self.answer()
        return self

    def ask(self, line: str = "") -> str:
        """Return what the program answers to a line.

        Raises:
            RunError: It has ended.
        """
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.answer()

    def answer(self) -> str:
        """Return its next line (see `ask`)."""
        if line := self._process.stdout.readline():
            return line
        self._process.wait()
        raise RunError(f"{self.what} cannot do this work: {last_line(self._log.read_text())}", cure=self.cure)

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def last_line(text: str) -> str:
    """Return the last line that is not empty, at most 300 characters of it.

    Example:
        >>> last_line("Traceback\\nValueError: no\\n\\n"), last_line("")
        ('ValueError: no', 'it gave no reason')
    """
    return (text.strip().splitlines() or ["it gave no reason"])[-1].strip()[:300]


class Build(Child):
    """A build at work in a process of its own, a turn at a time; see `against_worker`."""

    cure = "compare with a commit that has the same libraries, or measure less with --only"

    def __init__(self, tree: Path, folder: Path, work: Sequence):
        folder.mkdir()
        words = ["-P", str(WORKER), str(work[0]), str(folder), str(MODEL), *map(str, work[1:])]
        super().__init__(words, environment(tree), folder / "log", f"the build in {tree}")

    def turn(self) -> dict:
        """Return what one turn took: ``wall``, ``own`` and ``all`` seconds, ``peak`` bytes, ``actions``."""
        took = json.loads(self.ask())
        self.answer()  # ready for the next one
        return took


def environment(tree: Path) -> dict[str, str]:
    """Return the environment in which a build works as `mlagent run` lets it work."""
    threads = str(min(get_profile("laptop").threads, usable_cpus()))
    own = {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    return os.environ | PATIENT | own


def paired(trees: Sequence[Path], folder: Path, work: Sequence, turns: int) -> list[tuple[dict, dict]]:
    """Return what each turn took the two builds; the one that begins changes from turn to turn."""
    found = []
    with contextlib.ExitStack() as stack:
        builds = [
            stack.enter_context(Build(tree, folder / str(place), work)) for place, tree in enumerate(trees)
        ]
        for number in range(turns):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            took = {place: builds[place].turn() for place in order}
            found.append((took[0], took[1]))
    return found
