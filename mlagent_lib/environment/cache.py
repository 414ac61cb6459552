"""Executions by content: an experiment that was made is never made again, and says so.

The key covers everything that can change the result: the task's data and metric, the workspace, the script,
the limits, the versions of the libraries. Only results that depend on content alone are kept on disk: a
time-out under load may be a success on a quiet machine, so it is remembered for this process only, and there
only among the newest: memory is bounded.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from functools import cache as once
from importlib.metadata import version
from pathlib import Path

from mlagent_lib.core.errors import Unscored
from mlagent_lib.core.files import read_checked, sha256_json, write_checked
from mlagent_lib.core.limits import Limits
from mlagent_lib.environment.workspace import State, WorkspaceStore
from mlagent_lib.tasks.task import Task

_ENTRY_BYTES = 2 << 10  # what an entry takes beside its output, generously
_LIBRARIES = ("numpy", "pandas", "scipy", "scikit-learn", "statsmodels")


@dataclass(frozen=True)
class Execution:
    """What one execution of a script came to; the first fields are those of `RunResult`.

    Attributes:
        seconds: Wall time when it was really executed.
        score: On the feedback labels, in the task's unit; None without a valid submission.
        refusal: Why the submission was refused, or None.
        submission: sha256 of the archived submission, or None.
    """

    status: str
    output: str
    seconds: float
    tier: str
    error_type: str | None
    error_line: int | None
    score: float | None
    refusal: str | None
    submission: str | None


@once
def library_versions() -> dict[str, str]:
    """Return the versions that an execution depends on."""
    return {"python": sys.version.split()[0], **{name: version(name) for name in _LIBRARIES}}


def execution_key(state: State, script: str, task: Task, limits: Limits, reseed: int = 0) -> str:
    """Return the name of an experiment: equal experiments have equal names on every machine.

    The digest of the state covers the workspace and the files of the task, hidden labels included, but not
    its card, of which what it says about scoring counts.
    """
    scoring = [task.metric, task.kind, list(task.answer_columns), list(task.classes)]
    scoring += task.grader.identity() if task.grader else []  # its files may lie outside of the task's folder
    parts = [state.digest, script, scoring, limits.to_json(), library_versions()]
    parts += [reseed] if reseed else []
    return sha256_json(parts)


class ExecutionCache:
    """Results of executions on disk, one JSON file each, and the archive of their submissions.

    Args:
        folder: Where to keep them. Several processes may share it: entries are written atomically.
        memory_bytes: About how much of it this process holds in memory too; those not used for longest go.
    """

    def __init__(self, folder: Path | str, *, memory_bytes: int = 16 << 20):
        self.folder = Path(folder)
        self.archive = WorkspaceStore(self.folder / "submissions")
        self.memory_bytes = memory_bytes
        self._memory: OrderedDict[str, Execution] = OrderedDict()
        self._held_bytes = 0
        self._lock = threading.Lock()
        self._underway: dict[str, Future] = {}

    def claim(self, key: str) -> tuple[Future, bool]:
        """Return where the result of an experiment is or will be, and whether the caller has to make it.

        Experiments that are under way are not made a second time. Whoever has to make one gives its result to
        `settle`, whatever it came to.
        """
        with self._lock:
            if key in self._underway:
                return self._underway[key], False
        found, place = self.get(key), Future()
        if found is not None:
            place.set_result(found)
            return place, False
        with self._lock:
            held = self._underway.setdefault(key, place)
        return held, held is place

    def settle(self, key: str, result: Execution | Unscored) -> None:
        """Keep the result of a claimed experiment where it is one, and give it to all who wait for it."""
        try:
            if isinstance(result, Execution):
                self.put(key, result)
        finally:
            with self._lock:
                place = self._underway.pop(key)
            place.set_result(result)

    def get(self, key: str) -> Execution | None:
        """Return the result of an experiment, or None when it was not made.

        An entry that is damaged, or whose archived submission is lost or damaged, counts as none: the
        experiment is made again, and with it both.
        """
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return self._memory[key]
        found = read_checked(self._path(key), Execution)
        if found is None or (found.submission and not self.archive.holds(found.submission)):
            return None
        self._remember(key, found)
        return found

    def put(self, key: str, execution: Execution) -> None:
        """Keep the result of an experiment; on disk only when it depends on content alone."""
        self._remember(key, execution)
        if execution.status in ("ok", "error"):
            write_checked(self._path(key), asdict(execution))

    def _remember(self, key: str, execution: Execution) -> None:
        with self._lock:
            if key in self._memory:
                self._held_bytes -= _size(self._memory.pop(key))
            self._memory[key] = execution
            self._held_bytes += _size(execution)
            while self._held_bytes > self.memory_bytes:
                self._held_bytes -= _size(self._memory.popitem(last=False)[1])

    def _path(self, key: str) -> Path:
        return self.folder / "executions" / key[:2] / f"{key}.json"


def _size(execution: Execution) -> int:
    return _ENTRY_BYTES + len(execution.output.encode("utf-8", "surrogatepass"))
