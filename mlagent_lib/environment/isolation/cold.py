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
import threading
import time

from . import box, jail
from .client import Finished


class ColdServer:
    """The same face as `client.WarmServer`, without warmth and without isolation."""

    def __init__(self, folder: str):
        self.folder = folder

    def run(
        self, files: dict[str, bytes], data_dir: str | None, script: str, limits: dict, collect: tuple,
        reseed: int = 0, links: tuple[str, ...] = (),
    ):  # fmt: skip
        """Return a `Finished` run of ``python script``.

        Raises:
            ValueError: Other seeds were asked for: a plain subprocess cannot shift them.
        """
        if reseed:
            raise ValueError("tier T0 cannot run a script with other seeds; use a warm tier")
        os.makedirs(self.folder, exist_ok=True)
        workspace = box.make(os.path.join(os.path.realpath(self.folder), "work"), None)
        try:
            box.fill(workspace, files, data_dir, None, links)
            report, output = _execute(workspace.path, script, limits)
            collected, refused = {}, {}
            for name in collect:
                try:
                    collected[name] = box.collect(workspace, name, limits["file_bytes"])
                except box.Refused as error:
                    refused[name] = str(error)
            return Finished(report, output, workspace.path, collected, refused)
        finally:
            box.remove(workspace.path)

    def close(self, *, kill: bool = False) -> None:
        """Remove the folder of the workspaces."""
        box.remove(self.folder)


def _execute(folder: str, script: str, limits: dict) -> tuple[dict, bytes]:
    start = time.monotonic()
    with tempfile.TemporaryFile() as sink:
        process = subprocess.Popen(
            [sys.executable, "-B", script], cwd=folder, env={**os.environ, **jail.clean_environment(folder)},
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        late = threading.Event()
        timer = threading.Timer(limits["seconds"], lambda: (late.set(), _kill_group(process)))
        timer.start()
        try:
            code = process.wait()
        finally:
            timer.cancel()
            _kill_group(process)
        total = sink.seek(0, os.SEEK_END)
        sink.seek(max(0, total - limits["output_bytes"]))
        output = sink.read()
    stop = "timeout" if late.is_set() else "exit"
    return {
        "stop": stop,
        "code": code,
        "seconds": time.monotonic() - start,
        "peak": 0,
        "total": total,
    }, output


def _kill_group(process: subprocess.Popen) -> None:
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
