"""The workspace folder of one run: made fresh, read once by strict rules, removed whatever is in it."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath

_NOFOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_LONG_PATH = 1000  # characters; the kernel takes 4096 in all


class Refused(Exception):
    """A file of a workspace is not what a script may hand in; the text is a fixed class name."""


@dataclass(frozen=True)
class Box:
    """A workspace: its path, and which folder it was when it was made (device, inode)."""

    path: str
    identity: tuple[int, int]


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if not name or path.is_absolute() or ".." in path.parts or "\0" in name or path == PurePosixPath("."):
        raise ValueError(f"a file of a workspace needs a relative path without '..', got {name!r}")
    return path


def make(path: str, owner: int | None) -> Box:
    """Return a new, empty workspace that belongs to the user ``owner`` (None: to us)."""
    os.mkdir(path, 0o700)
    if owner is not None:
        os.chown(path, owner, owner)
    info = os.stat(path, follow_symlinks=False)
    return Box(path, (info.st_dev, info.st_ino))


def check_names(names: Iterable[str], links: Iterable[str]) -> None:
    """Refuse names that cannot be files of a workspace.

    Raises:
        ValueError: If a name leaves the workspace, or is or lies below one of its ``links``.
    """
    linked = {PurePosixPath(link) for link in links}
    for name in names:
        path = _inside(name)
        for link in linked.intersection((path, *path.parents)):
            told = f"'{link}' is the link to the task's data, so {name!r} cannot be a file of a workspace"
            raise ValueError(told)


def fill(
    box: Box, files: dict[str, bytes], data_dir: str | None, owner: int | None, links: tuple[str, ...] = ()
) -> None:
    """Write ``files`` (see `check_names`) into an empty workspace, and links to the data.

    All shall belong to the user ``owner`` (None: to us). ``links`` are names in ``data_dir`` to link under
    these names; without any, ``data`` leads to it.
    """
    made: list[str] = []
    for name, content in files.items():
        target = _place(box, name, made)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NOFOLLOW | _CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(content)
        made.append(target)
    for name in links:
        os.symlink(os.path.join(data_dir, name), _place(box, name, made))
    if data_dir is not None and not links:
        os.symlink(data_dir, os.path.join(box.path, "data"), target_is_directory=True)
    if owner is not None:
        for item in made:
            os.chown(item, owner, owner)


def _place(box: Box, name: str, made: list[str]) -> str:
    """Return the path of a file to be, after making the folders on its way, which are added to ``made``."""
    folder = box.path
    *parents, last = _inside(name).parts
    for part in parents:
        folder = os.path.join(folder, part)
        if not os.path.isdir(folder):
            os.mkdir(folder, 0o700)
            made.append(folder)
    return os.path.join(folder, last)


def collect(box: Box, name: str, max_bytes: int) -> bytes:
    """Return the bytes of one file that the run has left, read once and without following any link.

    Raises:
        Refused: With one of ``missing``, ``symlink``, ``hardlink``, ``special-file``, ``unreadable``,
            ``too-large``, ``empty``, ``workspace-replaced``.
    """
    folder_flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NOFOLLOW | _CLOEXEC
    try:
        folder = os.open(box.path, folder_flags)
    except OSError:
        raise Refused("workspace-replaced") from None
    try:
        info = os.fstat(folder)
        if (info.st_dev, info.st_ino) != box.identity:
            raise Refused("workspace-replaced")
        parts = _inside(name).parts
        for part in parts[:-1]:
            inner = _open_at(folder, part, folder_flags)
            os.close(folder)
            folder = inner
        # non-blocking: opening a pipe must not wait for its other end
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | _NOFOLLOW | _CLOEXEC
        descriptor = _open_at(folder, parts[-1], flags)
    finally:
        os.close(folder)
    try:
        return _read_plain(descriptor, max_bytes)
    finally:
        os.close(descriptor)


def _open_at(folder: int, name: str, flags: int) -> int:
    try:
        return os.open(name, flags, dir_fd=folder)
    except FileNotFoundError:
        raise Refused("missing") from None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            with contextlib.suppress(OSError):
                if stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                    raise Refused("symlink") from None
            raise Refused("missing") from None
        raise Refused("special-file" if error.errno == errno.ENXIO else "unreadable") from None


def _read_plain(descriptor: int, max_bytes: int) -> bytes:
    info = os.fstat(descriptor)
    if not stat.S_ISREG(info.st_mode):
        raise Refused("special-file")
    if info.st_nlink != 1:
        raise Refused("hardlink")
    if info.st_size == 0:
        raise Refused("empty")
    chunks, size = [], 0
    while info.st_size <= max_bytes and size <= max_bytes:
        chunk = os.read(descriptor, 1 << 20)
        if not chunk:
            return b"".join(chunks)
        chunks.append(chunk)
        size += len(chunk)
    raise Refused("too-large")


def empty(path: str) -> None:
    """Remove all that is in a folder: thousands of levels deep, with mode 0, with any name.

    Where a path grows long, the folder is moved up beside ``path`` and emptied there. Links are not followed.
    """
    counter = itertools.count()
    waiting = [path]
    while waiting:
        folder = waiting[-1]
        _open_up(folder)
        with os.scandir(folder) as entries:
            found = list(entries)
        deeper = [e.path for e in found if e.is_dir(follow_symlinks=False)]
        for entry in found:
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
        for inner in deeper:
            _open_up(inner)  # moving a folder needs the right to write it
            if len(inner) > len(path) + _LONG_PATH:
                flat = f"{path}.{next(counter)}.gone"
                os.rename(inner, flat)
                inner = flat
            waiting.append(inner)
        if not deeper:
            waiting.pop()
            if folder != path:
                os.rmdir(folder)


def remove(path: str) -> None:
    """Remove a folder and all in it, see `empty`. That it is not there is no error."""
    with contextlib.suppress(FileNotFoundError):
        empty(path)
        os.rmdir(path)


def remove_of_server(folder: str) -> None:
    """Remove the folder of a server, and after the last one what they lie in."""
    remove(folder)
    with contextlib.suppress(OSError):
        os.rmdir(os.path.dirname(folder))


def _open_up(folder: str) -> None:
    if stat.S_IMODE(os.stat(folder, follow_symlinks=False).st_mode) & 0o700 != 0o700:
        os.chmod(folder, 0o700)
