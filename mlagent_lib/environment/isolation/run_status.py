"""From what a run left behind to its result: files handed in, clean text, status, error type and line."""

from __future__ import annotations

import os
import re
import signal

from ...core.tracebacks import HEAD, cause_of
from . import paths, run_folder
from .request import RunRequest, RunResult

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_RAISED = re.compile(r"^(?:[\w.<>]+\.)?([A-Za-z_]\w*)(?::|$)")
# a limit of the kernel that the script ran into: which one, by the last line of the traceback
_LIMITS = (
    (re.compile(r"MemoryError\b|Unable to allocate"), "memory"),
    (re.compile(r"\[Errno 27\]|\[Errno 122\]"), "disk"),
    (re.compile(r"BlockingIOError: \[Errno 11\]|can't start new thread"), "processes"),
)


def result_of(report: dict, output: bytes, box: run_folder.Box, request: RunRequest, tier: str) -> RunResult:
    """Return the result of a run that has ended.

    Args:
        report: Of the guard: why it stopped, exit code, seconds, peak memory, bytes of output in all.
        output: The last bytes of it.
        box: The workspace as the run has left it.
    """
    collected, refused = {}, {}
    for name in request.collect:
        try:
            collected[name] = run_folder.collect(box, name, request.limits.file_bytes)
        except run_folder.Refused as error:
            refused[name] = str(error)
    short = {box.path: "/workspace", **machine_paths()}
    if request.data_dir is not None:
        short[str(request.data_dir)] = "/workspace" if request.links else "/workspace/data"
    text = clean_text(output, report["total"], short)
    code = report["code"] if report["stop"] == "exit" else None
    error_type, error_line, message = error_of(text, request.script, code or 0)
    status = status_of(report["stop"], report["code"], message)
    return RunResult(
        status, code, text, report["seconds"], tier, error_type, error_line, collected, refused,
        report["peak"],
    )  # fmt: skip


def clean_text(raw: bytes, total: int, replace: dict[str, str]) -> str:
    """Return a run's output as plain text: no escape codes, no control characters, no path of this machine.

    Args:
        raw: The last bytes that were kept.
        total: How many bytes the run wrote; more than kept is marked at the top.
        replace: Paths, and what to write in their place.

    Example:
        >>> clean_text(b"\\x1b[31mred\\x1b[0m in /tmp/x/a.py", 27, {"/tmp/x": "/workspace"})
        'red in /workspace/a.py'
        >>> clean_text(b"the end", 1007, {})
        '[... 1000 bytes of output cut ...]\\nthe end'
    """
    cut = total - len(raw)
    if cut > 0:
        raw = raw.lstrip(bytes(range(0x80, 0xC0)))  # the cut may have split a character
    text = _ESCAPES.sub("", raw.decode("utf-8", "replace")).replace("\r\n", "\n").replace("\r", "\n")
    text = _CONTROL.sub("", text)
    for path in sorted(replace, key=len, reverse=True):
        text = text.replace(path, replace[path])
    return f"[... {cut} bytes of output cut ...]\n{text}" if cut > 0 else text


def machine_paths() -> dict[str, str]:
    """Return the long paths of this machine's libraries and the short names they get in every output."""
    names = {folder: "site-packages" for folder in paths.site_folders()}
    names[os.path.dirname(__file__)] = "isolation"
    return {**{folder: "python" for folder in paths.standard_folders()}, **names}


def error_of(output: str, script: str, exit_code: int) -> tuple[str | None, int | None, str]:
    """Return (class name, line in the script, last line of the message) of the failure of a run.

    A death by signal gives the signal's name, ``sys.exit`` gives ``SystemExit``.

    Example:
        >>> text = 'Traceback (most recent call last):\\n  File "train.py", line 7, in f\\nValueError: no'
        >>> error_of(text, "train.py", 1)
        ('ValueError', 7, 'ValueError: no')
    """
    if exit_code == 0:
        return None, None, ""
    if exit_code < 0:
        try:
            return signal.Signals(-exit_code).name, None, ""
        except ValueError:
            return f"signal {-exit_code}", None, ""
    place = re.compile(rf'^\s*File "(?:/workspace/)?{re.escape(script)}", line (\d+)')
    lines = cause_of(output).split("\n")
    found = [int(m.group(1)) for m in map(place.match, lines) if m]
    number = found[-1] if found else None
    told = lines[1:] if found or HEAD.match(lines[0]) else []
    raised = next((line for line in told if _RAISED.match(line)), None)
    if raised is None:
        return "SystemExit", number, ""
    return _RAISED.match(raised).group(1), number, raised


def status_of(stop: str, exit_code: int | None, message: str) -> str:
    """Return the status word of a run from why it stopped, its exit code and the error it printed.

    Example:
        >>> status_of("exit", 1, "MemoryError"), status_of("exit", 0, ""), status_of("timeout", None, "")
        ('memory', 'ok', 'timeout')
    """
    if stop != "exit":
        return stop
    if exit_code == 0:
        return "ok"
    if exit_code == -signal.SIGXCPU:
        return "timeout"
    if exit_code == -signal.SIGXFSZ:
        return "disk"
    return next((name for pattern, name in _LIMITS if pattern.search(message)), "error")
