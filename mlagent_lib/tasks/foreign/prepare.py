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
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.task import task_files

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
        raise refusal("no task folder to prepare", folder=folder)
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
    for path in sorted(row[0] for row in made):
        if path.suffix not in (".html", ".htm") and _PAGE.match(_head(path)):
            place = path.relative_to(folder).as_posix()
            raise refusal("web page", name=_name(program), place=place, override=_OVERRIDE)
    write_text(marker, "success\n")
    say(f"{folder.name} is prepared")
    return True


def _name(program: Path) -> str:
    return f"{program.parent.parent.name}/scripts/{program.name}"


def _run_program(program: Path, seconds: float, confirm: bool) -> tuple[int | None, str]:
    """Return exit code (None when it was stopped) and output of a program started in its own folder.

    With a terminal it may ask its questions there, and what it prints is shown as well as kept.
    """
    asks = not confirm and sys.stdin is not None and sys.stdin.isatty()
    with tempfile.TemporaryFile() as answers:
        answers.write(b"\n" * 20 if confirm else b"")
        answers.seek(0)
        streams = {"stdin": None if asks else answers, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        command = [sys.executable, "-u", program.name]
        process = subprocess.Popen(command, cwd=program.parent, start_new_session=not asks, **streams)
        try:
            output = _listen(process, time.monotonic() + seconds, echo=asks)
            code = process.poll()
        finally:
            if process.poll() is None:
                if asks:
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
    name = _name(program)
    if code is None:
        return refusal("preparing takes long", name=name, seconds=seconds)
    if code < 0:
        return refusal("preparing was ended", name=name, signal=signal.Signals(-code).name)
    files, home = {program.name: program.read_bytes()}, program.parent.parent
    found = diagnose(files, program.name, "error", output, "scripts", home)
    for rule in tables()["downloads"]:
        if re.search(rule["error"], output):
            found = replace(found, cause=rule["cause"])
            return refusal("download fails", name=name, found=found, cure=rule["cure"])
    if "EOFError" in found.error:
        return refusal("asks for consent", name=name, found=found)
    last = "" if found.line else f": {' '.join(output.split())[-_LAST_WORDS:]}"
    return refusal("preparing fails", name=name, code=code, found=found, last=last)


def _data_files(folder: Path) -> set[tuple]:
    """Return path, size and time of each file with content; an empty one is what a failed download leaves."""
    found = ((path, path.stat()) for path in task_files(folder))
    return {(path, stat.st_size, stat.st_mtime_ns) for path, stat in found if stat.st_size}


def _head(path: Path) -> bytes:
    with path.open("rb") as handle:
        return handle.read(200)


def _check_ended_well(program: Path, output: str, *, made: bool) -> None:
    """Raise `TaskError` where a ``prepare.py`` ended with 0 although what it started had failed."""
    name = _name(program)
    for rule in (*tables()["downloads"], *tables()["children"]):
        if found := re.search(rf"^.*(?:{rule['error']}).*$", output, re.MULTILINE):
            line = " ".join(found.group(0).split())[-_LAST_WORDS:]
            raise refusal("printed a failure", name=name, line=line, rule=rule, override=_OVERRIDE)
    if not made:
        raise refusal("made no data", name=name, override=_OVERRIDE)
