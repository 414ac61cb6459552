"""The parent's end of one warm server: start it, hand it one run at a time, replace it when it is gone."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from . import bubblewrap, jail, limits_os, paths, run_folder
from .request import RunRequest, RunResult
from .run_status import result_of
from .tiers import Tier

START_SECONDS = 240.0
_GRACE_SECONDS = 60.0  # on top of a run's own limit, before the server counts as hung
_STOP_SECONDS = 10.0

# what a script of the standard library alone may want
LIGHT_MODULES = (
    "csv", "json", "re", "string", "collections", "itertools", "pathlib", "warnings", "tempfile",
    "subprocess", "concurrent.futures", "multiprocessing", "math", "random", "statistics", "datetime",
    "heapq", "bisect", "hashlib", "pickle", "argparse", "logging", "dataclasses", "typing", "decimal",
    "fractions", "array",
)  # fmt: skip
WARM_MODULES = (
    "numpy", "pandas", "scipy.stats", "scipy.sparse", "scipy.optimize", "sklearn.linear_model",
    "sklearn.ensemble", "sklearn.tree", "sklearn.svm", "sklearn.neighbors", "sklearn.neural_network",
    "sklearn.naive_bayes", "sklearn.discriminant_analysis", "sklearn.preprocessing", "sklearn.impute",
    "sklearn.compose", "sklearn.feature_extraction.text", "sklearn.feature_selection",
    "sklearn.decomposition", "sklearn.pipeline", "sklearn.model_selection", "sklearn.calibration",
    "sklearn.metrics", "sklearn.kernel_approximation", "sklearn.gaussian_process", "sklearn.multioutput",
    "sklearn.multiclass", "sklearn.cluster", "sklearn.random_projection", "sklearn.dummy",
    *LIGHT_MODULES,
)  # fmt: skip


class ServerLost(Exception):
    """The warm server, or the guard of the run, ended or did not answer: never the script's failure."""


class JailRefused(ServerLost):
    """The kernel refuses a layer of the tier, so trying again will not help."""


def throwaway_uid(server_pid: int) -> int:
    """Return a user id that nobody else has now: one for each server, inside what this container maps."""
    wanted = 2_000_000 + server_pid
    return wanted if user_exists(wanted) else 61_000 + server_pid % 4_000


def user_exists(uid: int) -> bool:
    """Return whether this container maps the user id; a rootless one often maps root alone."""
    with open("/proc/self/uid_map") as handle:
        ranges = [tuple(map(int, line.split())) for line in handle]
    return any(first <= uid < first + count for first, _, count in ranges)


class WarmServer:
    """One warm server, started on first use. Not for several threads at once: a `Runner` sees to that.

    Its folder is made on start and removed by `close`.
    """

    def __init__(self, folder: str, tier: Tier, modules: tuple[str, ...] = WARM_MODULES):
        self.folder, self.tier, self.modules = folder, tier, modules
        self.process: subprocess.Popen | None = None
        self._requests = self._replies = -1
        self._log, self._rest = None, b""
        self._box: run_folder.Box | None = None
        self._owner: int | None = None
        self._mounts = bubblewrap.Mounts()

    def run(self, request: RunRequest) -> RunResult:
        """Return what came of a run, once nothing of it is left.

        Raises:
            ServerLost: When we failed; the server is gone and the next call starts a new one.
            ValueError: If a file name does not fit a workspace.
        """
        data_dir, tier = request.data_dir and str(request.data_dir), self.tier
        try:
            if tier.bubblewrap and self._mounts.add(data_dir):
                self.close()  # a mount cannot be added to a running server
            self._start()
            run_folder.fill(self._box, request.files, data_dir, self._owner, request.links)
            hidden_tasks = limits_os.user_tasks(os.getuid()) if tier.bubblewrap else 0
            job = jail.Jailed(
                self._box.path, request.script, request.limits.to_json(), [data_dir] if data_dir else [],
                tier.landlock, tier.seccomp, tier.namespaces, self._owner, request.reseed, hidden_tasks,
            )  # fmt: skip
            jail.send(self._requests, vars(job))
            report = self._receive(request.limits.seconds + _GRACE_SECONDS)
            self._check(report)
            output = base64.b64decode(report["output"])
            result = result_of(report, output, self._box, request, tier.name)
            run_folder.empty(self._box.path)
            return result
        except BaseException as error:
            # whatever happened (also Ctrl-C), the state of the run is unknown: nothing of it may live on
            self.close(kill=True)
            if isinstance(error, OSError):
                raise ServerLost(f"{type(error).__name__}: {error}") from error
            raise

    def _check(self, report: dict) -> None:
        if report["stop"] in ("guard-died", "abandoned"):
            raise ServerLost(f"the guard of the run ended early: {report['stop']}")
        if report["stop"] == "setup" or report["setup"]:
            raise JailRefused(f"the jail could not be used: {report['setup']}")
        if report["left"]:
            raise ServerLost(f"{report['left']} processes of the run could not be killed")
        if report["stop"] == "exit" and report["code"] is None:
            raise ServerLost("the run ended without an exit status")

    # ---- the process -----------------------------------------------------------------------------

    def _start(self) -> None:
        if self.process is not None and self.process.poll() is None:
            return
        self.close(kill=True)
        os.makedirs(os.path.dirname(self.folder), exist_ok=True)
        os.mkdir(self.folder)
        for folder in (os.path.dirname(self.folder), self.folder):
            os.chmod(folder, 0o711)  # a throw-away user has to pass through, and sees no names
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - `close` closes it
        folder = os.path.realpath(self.folder)
        workspace = os.path.join(folder, "work")
        if self.tier.bubblewrap:
            self._box = run_folder.make(workspace, None)
            self.process = self._inside_bubblewrap(workspace)
        else:
            program = str(Path(__file__).with_name("warm_server.py"))
            self.process = self._popen([program, self.folder])  # the folder only tells who it is
            self._owner = throwaway_uid(self.process.pid) if self.tier.own_user else None
            self._box = run_folder.make(workspace, self._owner)
        trees, listings = paths.readable()
        folder = None if self.tier.bubblewrap else folder  # the launcher removes it, from outside
        config = {"modules": self.modules, "import_from": paths.import_path(), "trees": trees}
        config |= {"listings": listings, "workspace": workspace, "folder": folder}
        jail.send(self._requests, config)
        self._receive(START_SECONDS)

    def _popen(self, words: list[str], **more: object) -> subprocess.Popen:
        # -s -B and a clean environment; its own session, so that Ctrl-C in a terminal reaches only us
        process = subprocess.Popen(
            [sys.executable, "-s", "-B", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, bufsize=0, cwd="/",
            env=jail.clean_environment("/nonexistent"), start_new_session=True, **more,
        )  # fmt: skip
        self._requests, self._replies = process.stdin.fileno(), process.stdout.fileno()
        return process

    def _inside_bubblewrap(self, workspace: str) -> subprocess.Popen:
        bwrap = bubblewrap.program()
        if bwrap is None:
            raise ServerLost("the program bwrap has gone")
        words = bubblewrap.arguments(workspace, self._mounts.folders(), *paths.readable())
        with tempfile.TemporaryFile() as handle:
            handle.write(b"".join(os.fsencode(word) + b"\0" for word in words))
            handle.seek(0)
            descriptor = handle.fileno()
            server = [sys.executable, "-s", "-B", f"{bubblewrap.HERE}/warm_server.py", self.folder]
            launcher = str(Path(__file__).with_name("launcher.py"))
            words = [launcher, os.path.dirname(workspace), str(descriptor), bwrap, "--args", str(descriptor)]
            return self._popen([*words, "--", *server], pass_fds=(descriptor,))

    def _receive(self, seconds: float) -> dict:
        deadline = time.monotonic() + seconds
        while b"\n" not in self._rest:
            data = self._read(deadline)
            if data is None:
                raise ServerLost(f"the warm server did not answer within {seconds:.0f} s")
            if not data:
                raise ServerLost(f"the warm server ended{self._last_words()}")
            self._rest += data
        line, self._rest = self._rest.split(b"\n", 1)
        try:
            return json.loads(line)
        except ValueError:
            raise ServerLost("the warm server sent a broken line") from None

    def _read(self, deadline: float) -> bytes | None:
        """Return what the server has sent, nothing when it has ended, None when it is late."""
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        ready = poll.poll(1000 * max(0.0, deadline - time.monotonic()))
        return os.read(self._replies, 1 << 16) if ready else None

    def _last_words(self) -> str:
        self._log.seek(0)
        text = self._log.read()[-2000:].decode("utf-8", "replace").strip()
        return f": {text}" if text else ""

    def close(self, *, kill: bool = False) -> None:
        """Stop the server and whatever it runs, and remove its folder."""
        process, self.process, self._rest = self.process, None, b""
        if process is not None:
            if kill:
                process.kill()  # the guard of a run sees its lifeline end, and kills the run
            process.stdin.close()
            deadline = time.monotonic() + _STOP_SECONDS
            with contextlib.suppress(OSError):
                while self._read(deadline):
                    pass  # until both the server and the guard, which share the pipe, have closed it
            process.kill()
            process.wait()
            process.stdout.close()
        if self._log is not None:
            self._log.close()
            self._log = None
        run_folder.remove(self.folder)
