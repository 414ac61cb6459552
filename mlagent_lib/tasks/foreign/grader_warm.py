"""A loaded process that forks one grader at a time: a grading without the seconds that its imports take.

The forks are what fresh processes are: their own session, limits and home, the cleaned environment, the bytes
of one submission. The process that forks them has loaded libraries alone, never a file of a task.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path

from mlagent_lib.core.imports import imported

PROCESS = Path(__file__).with_name("grader_process.py")
_LIBRARIES = frozenset({"numpy", "pandas", "scipy", "sklearn", "torch"})  # safe to fork after they are loaded
_MOST_KEPT = 2
_START_SECONDS = 60.0
_END_SECONDS = 10.0  # that the kernel gets to end what was killed


def imports(source: bytes) -> tuple[str, ...]:
    """Return which of the libraries that can be loaded beforehand a grader imports, and Pandas.

    Example:
        >>> imports(b"import os, numpy as np\\nfrom sklearn.metrics import log_loss")
        ('numpy', 'pandas', 'sklearn.metrics')
    """
    names = imported(source) | {"pandas"}
    return tuple(sorted(name for name in names if name.partition(".")[0] in _LIBRARIES))


def _run_alone(words: list[str], **options: object) -> subprocess.Popen:
    """Return `grader_process`, started in an interpreter and a session of its own."""
    command = [sys.executable, "-s", "-P", "-B", str(PROCESS), *words]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)


class FreshProcess:
    """One grading in an interpreter of its own."""

    def __init__(self, job: dict, environment: dict[str, str], printed: int, verdict: int, lifeline: int):
        told = json.dumps(job | {"verdict": verdict, "lifeline": lifeline})
        place = {"cwd": job["folder"], "env": environment, "pass_fds": (verdict, lifeline)}
        self._process = _run_alone([told], stdout=printed, stderr=subprocess.STDOUT, **place)

    def ended(self) -> bool:
        """Return whether it has ended, without collecting it: its group keeps its number until `end`."""
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def end(self) -> int:
        """Kill it and its group, and return its exit code."""
        with contextlib.suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()


class ForkedProcess:
    """One grading in a fork of a loaded process; the same face as `FreshProcess`.

    Raises:
        OSError: The loaded process has gone.
    """

    def __init__(self, kept: LoadedProcess, job: dict, printed: int, verdict: int, lifeline: int):
        self._line, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            kept.ask(job, [theirs.fileno(), printed, verdict, lifeline])
        self._pid = int(self._hear() or 0)
        if not self._pid:
            self._line.close()
            raise OSError("the loaded process of graders has ended")

    def _hear(self) -> bytes:
        return self._line.recv(64) if select.select([self._line], [], [], _END_SECONDS)[0] else b""

    def ended(self) -> bool:
        """Return whether it has ended; its group keeps its number until `end`."""
        return bool(select.select([self._line], [], [], 0)[0])

    def end(self) -> int:
        """Kill it and its group, and return its exit code."""
        with self._line:
            self._line.shutdown(socket.SHUT_WR)
            while (word := self._hear()) == b"ended":
                pass
        if word:
            return int(word)
        with contextlib.suppress(OSError):  # the loaded process has gone, so nobody has killed it
            os.killpg(self._pid, signal.SIGKILL)
        return -signal.SIGKILL


class LoadedProcess:
    """The process that has loaded some libraries, and forks when it is asked to."""

    def __init__(self, names: tuple[str, ...], environment: dict[str, str]):
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            words, silent = ["--serve", str(theirs.fileno()), *names], subprocess.DEVNULL
            place = {"cwd": "/", "env": environment, "pass_fds": (theirs.fileno(),)}
            self._process = _run_alone(words, stdout=silent, stderr=silent, **place)
        self._owner = os.getpid()
        ready = select.select([self._channel], [], [], _START_SECONDS)[0]
        self.usable = bool(ready) and self._channel.recv(16) == b"ready"

    def ask(self, job: dict, descriptors: list[int]) -> None:
        """Have one grading forked, which gets the descriptors."""
        socket.send_fds(self._channel, [json.dumps(job).encode()], descriptors)

    def close(self) -> None:
        """End it, and with it all that it has forked; in a fork of the owner, let go of it."""
        self._channel.close()
        if os.getpid() == self._owner:
            self._process.kill()
            self._process.wait()


_kept: OrderedDict[tuple, LoadedProcess] = OrderedDict()
_lock = threading.Lock()


def start(
    job: dict, environment: dict[str, str], printed: int, verdict: int, lifeline: int
) -> FreshProcess | ForkedProcess:
    """Return one grading that has begun, in a fork of a loaded process where this machine can.

    Args:
        job: What `grader_process` is told.
        printed, verdict, lifeline: Descriptors: where it prints, answers, and sees that we are gone.

    Raises:
        OSError: No process could be started.
    """
    if sys.platform == "linux":
        homeless = {name: text for name, text in environment.items() if name not in ("HOME", "TMPDIR")}
        with contextlib.suppress(OSError), _lock:
            if kept := _loaded(imports(Path(job["script"]).read_bytes()), homeless):
                return ForkedProcess(kept, job, printed, verdict, lifeline)
    return FreshProcess(job, environment, printed, verdict, lifeline)


def _loaded(names: tuple[str, ...], environment: dict[str, str]) -> LoadedProcess | None:
    key = (os.getpid(), names, *sorted(environment.items()))
    kept = _kept.get(key)
    if kept is None or (kept.usable and kept._process.poll() is not None):
        kept = _kept[key] = LoadedProcess(names, environment)
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)[1].close()
    _kept.move_to_end(key)
    return kept if kept.usable else None


@atexit.register
def close_all() -> None:
    """End the loaded processes of this process."""
    while _kept:
        _kept.popitem()[1].close()
