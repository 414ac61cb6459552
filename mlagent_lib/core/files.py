"""Bytes on disk: hashes, atomic writes, append-only JSONL and folder locks.

A file written here is either the old one or the complete new one, whatever kills the process. A full disk is
a `RunError` with a cure and leaves no half-written file. This module knows nothing of runs and stages.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from mlagent_lib.core.errors import RunError

Made = TypeVar("Made")

MIN_FREE_BYTES = 256 << 20  # a laptop run writes far less; below this something else is about to fail
_HALF = ".tmp-"  # how the name of a file begins that is not whole yet
_CURES = {
    errno.ENOSPC: "free some disk space, then start the same command again: finished work is kept",
    errno.EDQUOT: "your disk quota is used up: free some space, then start the same command again",
    errno.EACCES: "choose a folder that you may write to, for instance with --runs-dir",
    errno.EPERM: "choose a folder that you may write to, for instance with --runs-dir",
    errno.EROFS: "this file system is read-only: choose another folder with --runs-dir",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f), then start the same command again",
    errno.EIO: "check this disk: it fails; then start the same command again",
}
# 524 is what some kernels answer (ENOTSUPP), which has no name here
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, 524)


def sha256_bytes(data: bytes) -> str:
    """Return the SHA-256 of ``data`` as 64 hexadecimal digits.

    Example:
        >>> sha256_bytes(b"")[:8]
        'e3b0c442'
    """
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Return the SHA-256 of the file's bytes as 64 hexadecimal digits, read in chunks."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Turn an `OSError` that a reader can cure (disk full, not allowed) into a `RunError` naming ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno not in _CURES:
            raise
        message = f"cannot write {path}: {os.strerror(error.errno)}"
        raise RunError(message, cure=_CURES[error.errno]) from error


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write ``data`` atomically and return the path: readers see the old file or the whole new one.

    Raises:
        RunError: The disk is full or the folder may not be written. The old file is untouched.
    """
    path = Path(path)
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=_HALF, dir=path.parent)
        try:
            with os.fdopen(descriptor, "wb") as handle:
                handle.write(data)
                handle.flush()
                os.fchmod(handle.fileno(), 0o644)
                os.fsync(handle.fileno())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write ``text`` as UTF-8, atomically, and return the path (see `write_bytes`)."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    """Write ``value`` as readable JSON, atomically, and return the path (see `write_bytes`).

    Raises:
        ValueError: ``value`` holds NaN or an infinity, which JSON cannot carry.
    """
    return write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256_json(value: Any) -> str:
    """Return the SHA-256 of ``value`` as JSON with sorted keys: the same wherever it is made."""
    return sha256_bytes(json.dumps(value, sort_keys=True).encode())


def write_checked(path: str | Path, row: dict) -> Path:
    """Write ``row`` with its own SHA-256 beside it, and return the path (see `write_json`)."""
    return write_json(path, row | {"sha256": sha256_json(row)})


def read_checked(path: str | Path, make: Callable[..., Made]) -> Made | None:
    """Return ``make(**row)`` of what `write_checked` wrote; None where that is missing, damaged or old."""
    try:
        row = json.loads(Path(path).read_text(encoding="utf-8"))
        digest = row.pop("sha256")
        return make(**row) if digest == sha256_json(row) else None
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def read_yaml(path: str | Path) -> Any:
    """Return what a YAML file of this package holds."""
    import yaml  # here: most that reads and writes files needs no YAML

    # PyYAML's C parser, twenty times as fast, is in its wheels; a build without it reads the same.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=loader)


def append_jsonl(path: str | Path, row: dict) -> None:
    """Append ``row`` as one line of JSON, whole or not at all.

    The line goes out in a single write, under a file lock, so that several processes may append. A torn last
    line (left by a kill or a power cut) is sealed with a line break first: it stays one bad line and cannot
    swallow the new row.

    Raises:
        ValueError: ``row`` holds NaN or an infinity.
        RunError: The disk is full. The file ends where it ended before.
    """
    line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n"
    with explained(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            lock(descriptor, path)
            _append_line(descriptor, line)
        finally:
            os.close(descriptor)


def _append_line(descriptor: int, line: bytes) -> None:
    """Write ``line`` at the end of the locked file, or put the file back to its old length."""
    size = os.fstat(descriptor).st_size
    is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
    data = b"\n" + line if is_torn else line
    try:
        while data:  # once, unless the disk fills up in the middle of the line: then the next write says so
            data = data[os.write(descriptor, data) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def read_jsonl(path: str | Path, *, missing_ok: bool = False) -> tuple[list[dict], int]:
    """Return the rows of a JSONL file and the number of bad lines.

    A line is bad if it is not one JSON object: torn, not UTF-8, a bare number, or holding NaN. Empty lines
    are neither. One bad line never spoils another.

    Args:
        missing_ok: Return no rows, instead of failing, where there is no file yet.

    Raises:
        RunError: There is no such file.
    """
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError as error:
        if missing_ok:
            return [], 0
        raise RunError(f"{path} is missing", cure="run the stage that writes it first") from error
    found = [_row_of(line) for line in content.split(b"\n") if line.strip()]
    rows = [row for row in found if row is not None]
    return rows, len(found) - len(rows)


def _row_of(line: bytes) -> dict | None:
    try:
        row = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):  # also UnicodeDecodeError and JSONDecodeError
        return None
    return row if isinstance(row, dict) else None


def mend_jsonl(path: str | Path) -> int:
    """Return how many bad lines a JSONL file had, after taking them out; good lines keep their bytes.

    A kill can tear the last line. Whoever goes on from the file makes the lost row again.
    """
    lines = [line + b"\n" for line in Path(path).read_bytes().split(b"\n") if line.strip()]
    good = [line for line in lines if _row_of(line) is not None]
    if len(good) < len(lines):
        write_bytes(path, b"".join(good))
    return len(lines) - len(good)


def sweep(folder: str | Path, *, older_than_s: float = 0.0) -> int:
    """Return how many half-written files of killed processes were below ``folder``, after deleting them.

    Args:
        older_than_s: Seconds. Younger files are left alone: somebody may be writing them.
    """
    latest, count = time.time() - older_than_s, 0
    for path in Path(folder).rglob(f"{_HALF}*"):
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_mtime <= latest:
                path.unlink()
                count += 1
    return count


def lock(descriptor: int, path: str | Path, *, wait: bool = True) -> None:
    """Lock an open file for this process alone.

    Args:
        wait: Until another holder has gone.

    Raises:
        RunError: The file system has no locks.
        BlockingIOError: Another process holds it, without ``wait``.
    """
    try:
        with explained(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise RunError(
            f"the file system of {path} has no locks: {os.strerror(error.errno)}",
            cure="choose a local disk with --runs-dir or MLAGENT_HOME, or mount this one with locks",
        ) from error


class FolderLock:
    """An exclusive lock on a run or stage folder, released by the system when the process ends.

    Args:
        folder: The folder to lock. It is created.
        wait_s: Seconds to wait for another holder to go away (a killed run needs a moment to die).

    Raises:
        RunError: On ``with``: another process holds the lock. The message names its process id.
    """

    def __init__(self, folder: str | Path, *, wait_s: float = 0.0):
        self.folder, self.wait_s = Path(folder), wait_s
        self._descriptor: int | None = None

    def __enter__(self) -> FolderLock:
        with explained(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        deadline = time.monotonic() + self.wait_s
        while True:
            try:
                lock(descriptor, self.folder, wait=False)
                break
            except RunError:
                os.close(descriptor)
                raise
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.1)
                    continue
                holder = os.pread(descriptor, 64, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(descriptor)
                raise RunError(
                    f"{self.folder} is in use by another process (id {holder})",
                    cure="wait until it ends, or choose another folder with --run-id",
                ) from None
        with contextlib.suppress(OSError):  # a full disk: the lock holds all the same, only without a name
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        self._descriptor = descriptor
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # also for forked children that share it
            os.close(self._descriptor)
            self._descriptor = None


def check_free_space(folder: str | Path, needed_bytes: int = MIN_FREE_BYTES) -> int:
    """Return the free bytes of the disk that holds ``folder`` (which need not exist yet).

    Raises:
        RunError: Fewer than ``needed_bytes`` are free.
    """
    existing = Path(folder).absolute()
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise RunError(
            f"the disk of {folder} has {free >> 20} MiB free, {needed_bytes >> 20} MiB are needed",
            cure="free some disk space or choose another disk with --runs-dir",
        )
    return free


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _sync_folder(folder: Path) -> None:
    """Make a rename in ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
