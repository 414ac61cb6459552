"""Runs the ``prepare.py`` of a folder of MLAgentBench, which fetches its data, and explains why it failed."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.files import write_text
from mlagent_lib.tasks.foreign.old_code import diagnose, tables

MARKER = "prepared"  # the file that MLAgentBench itself leaves in scripts/
_MOST_OUTPUT = 1 << 20
_LAST_WORDS = 400  # characters of output that a message quotes
_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_OVERRIDE = f"if the data are there all the same, make an empty file scripts/{MARKER}"


def prepare_folder(
    folder: Path, *, seconds: float = 3600.0, confirm: bool = False, again: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> bool:  # fmt: skip
    """Return whether a folder's ``prepare.py`` was run now: not where it was before, or where there is none.

    It is the benchmark's own program and runs with the caller's rights and network, started in ``scripts/``.

    Args:
        seconds: The longest it may take.
        confirm: Answer its questions ("press any key" after a consent) with Enter, for a caller who has
            accepted what they ask for. Without it they are asked in the terminal, if there is one.
        again: Run it although it ran before.

    Raises:
        TaskError: There is no such folder, or the program failed: which line, which cause, what to do. It
            has failed with exit code 0, too, if its tools told of a failure or it left no data behind.
    """
    scripts = folder / "scripts"
    if not scripts.is_dir() or not (folder / "env").is_dir():
        told = f"{folder} is no task folder: it needs env/ and scripts/"
        raise TaskError(told, cure="give the folder of one task")
    program, marker = scripts / "prepare.py", scripts / MARKER
    if not program.is_file():
        say(f"{folder.name} has no scripts/prepare.py: there is nothing to prepare")
        return False
    if marker.exists() and not again:
        say(f"{folder.name} is prepared already (scripts/{MARKER}); --again does it anew")
        return False
    say(f"{folder.name}: running scripts/prepare.py, the benchmark's own program, with your rights")
    was_prepared, before = marker.exists(), _data_files(folder)
    marker.unlink(missing_ok=True)  # until it has ended well, nobody knows what lies there
    code, output = _run_program(program, seconds, confirm)
    if code != 0:
        raise _failed(program, code, output, seconds)
    made = _data_files(folder) - before
    _check_ended_well(program, output, made=bool(made) or was_prepared)
    for path in sorted(Path(row[0]) for row in made):
        if path.suffix not in (".html", ".htm") and _PAGE.match(_head(path)):
            place = path.relative_to(folder).as_posix()
            told = f"{folder.name}/scripts/{program.name} ended with 0, but {place} is a web page"
            cure = "log in where it asks for that, or fetch the file with a browser"
            raise TaskError(told, cure=f"{cure}; {_OVERRIDE}")
    write_text(marker, "success\n")
    say(f"{folder.name} is prepared")
    return True


def _run_program(program: Path, seconds: float, confirm: bool) -> tuple[int | None, str]:
    """Return exit code (None when it was stopped) and output of a program started in its own folder.

    With a terminal it may ask its questions there, and what it prints is shown as well as kept.
    """
    asks = not confirm and sys.stdin is not None and sys.stdin.isatty()
    with tempfile.TemporaryFile() as answers:
        answers.write(b"\n" * 20 if confirm else b"")
        answers.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-u", program.name], cwd=program.parent, stdin=None if asks else answers,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=not asks,
        )  # fmt: skip
        try:
            output = _listen(process, time.monotonic() + seconds, echo=asks)
            code = process.poll()
        finally:
            if process.poll() is None:
                if asks or not hasattr(os, "killpg"):
                    process.kill()
                else:
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            process.stdout.close()
    return code, output.decode("utf-8", "replace").replace(f"{program.parent.resolve()}{os.sep}", "")


def _listen(process: subprocess.Popen, deadline: float, *, echo: bool) -> bytes:
    """Return what a process prints until it ends or its time is up."""
    found = b""
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        ready = select.select([process.stdout], [], [], 0 if ended else 0.2)[0]
        data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if not data and ended:
            break
        if ready and not data:  # it has closed its output, and may go on working
            time.sleep(0.2)
        found = (found + data)[-_MOST_OUTPUT:]
        if echo:
            sys.stdout.write(data.decode("utf-8", "replace"))
            sys.stdout.flush()
    return found


def _failed(program: Path, code: int | None, output: str, seconds: float) -> TaskError:
    """Return the explanation of a failed ``prepare.py``: what its tools said, else where it stopped."""
    name = f"{program.parent.parent.name}/scripts/{program.name}"
    if code is None:
        return TaskError(f"{name} did not end within {seconds:g} s", cure="give it more time with --seconds")
    if code < 0:
        told = f"{name} was ended by the signal {signal.Signals(-code).name}"
        return TaskError(told, cure="see whether the memory of this machine suffices, then run it again")
    files, home = {program.name: program.read_bytes()}, program.parent.parent
    found = diagnose(files, program.name, "error", output, "scripts", home)
    for rule in tables()["downloads"]:
        if re.search(rule["error"], output):
            return TaskError(f"{name} failed at {replace(found, cause=rule['cause'])}", cure=rule["cure"])
    if "EOFError" in found.error:
        return TaskError(
            f"{name} asks for your consent at line {found.line} ({found.source}), and there is no terminal",
            cure="do what it asks for, then run it in a terminal, or with --yes",
        )
    last = "" if found.line else f": {' '.join(output.split())[-_LAST_WORDS:]}"
    return TaskError(f"{name} failed with exit code {code} at {found}{last}", cure=found.cure)


def _data_files(folder: Path) -> set[tuple]:
    """Return name, size and time of each file with content; an empty one is what a failed download leaves."""
    paths = [path for part in ("env", "scripts") for path in (folder / part).rglob("*")]
    files = [path for path in paths if path.is_file() and "__pycache__" not in path.parts]
    found = ((path.as_posix(), path.stat().st_size, path.stat().st_mtime_ns) for path in files)
    return {row for row in found if row[1]}


def _head(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(200)


def _check_ended_well(program: Path, output: str, *, made: bool) -> None:
    """Raise `TaskError` where a ``prepare.py`` ended with 0 although what it started had failed."""
    name = f"{program.parent.parent.name}/scripts/{program.name}"
    for rule in (*tables()["downloads"], *tables()["children"]):
        if found := re.search(rf"^.*(?:{rule['error']}).*$", output, re.MULTILINE):
            line = " ".join(found.group(0).split())[-_LAST_WORDS:]
            told = f"{name} ended with 0, but printed {line!r}: {rule['cause']}"
            raise TaskError(told, cure=f"{rule['cure']}; {_OVERRIDE}")
    if not made:
        cure = f"see whether its download works; a run reads nothing outside of the folder; {_OVERRIDE}"
        raise TaskError(f"{name} ended with 0, but put no data into env/ or scripts/", cure=cure)
