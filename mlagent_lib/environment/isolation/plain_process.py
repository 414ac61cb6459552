"""Tier T0: a plain subprocess with a time limit, for machines without Linux and only on explicit request.

It isolates nothing: the script can read labels, write anywhere and leave processes behind.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time

from ...core.limits import Limits
from . import jail, run_folder
from .request import RunRequest, RunResult
from .run_status import result_of


class ColdServer:
    """The same face as `client.WarmServer`, without warmth and without isolation."""

    def __init__(self, folder: str):
        self.folder = folder

    def run(self, request: RunRequest) -> RunResult:
        """Return what came of ``python script``.

        Raises:
            ValueError: Other seeds were asked for: a plain subprocess cannot shift them.
        """
        if request.reseed:
            raise ValueError("tier T0 cannot run a script with other seeds; use a warm tier")
        os.makedirs(self.folder, exist_ok=True)
        workspace = run_folder.make(os.path.join(os.path.realpath(self.folder), "work"), None)
        try:
            data_dir = request.data_dir and str(request.data_dir)
            run_folder.fill(workspace, request.files, data_dir, None, request.links)
            report, output = _execute(workspace.path, request.script, request.limits)
            return result_of(report, output, workspace, request, "T0")
        finally:
            run_folder.remove(workspace.path)

    def close(self, *, kill: bool = False) -> None:
        """Remove the folder of the workspaces."""
        run_folder.remove(self.folder)


def _execute(folder: str, script: str, limits: Limits) -> tuple[dict, bytes]:
    start = time.monotonic()
    with tempfile.TemporaryFile() as sink:
        process = subprocess.Popen(
            [sys.executable, "-B", script], cwd=folder, env={**os.environ, **jail.clean_environment(folder)},
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        stop = "exit"
        try:
            code = process.wait(timeout=limits.seconds)
        except subprocess.TimeoutExpired:
            stop, code = "timeout", None
        finally:
            _kill_group(process)
            process.wait()
        seconds = time.monotonic() - start
        total = sink.seek(0, os.SEEK_END)
        sink.seek(max(0, total - limits.output_bytes))
        return {"stop": stop, "code": code, "seconds": seconds, "peak": 0, "total": total}, sink.read()


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
