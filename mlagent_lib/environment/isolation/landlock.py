"""Landlock: which files a run may read and write, decided by the kernel, without any privilege.

Source: Linux kernel documentation, ``userspace-api/landlock``. The interface grew in versions ("ABI"): 1
files, 2 renames across folders, 3 truncation, 4 TCP, 5 device ioctls, 6 signals and abstract sockets. What
an older kernel cannot do, `seccomp` does more bluntly. Landlock only ever *adds* rights below a folder, it
cannot take a subfolder out again; `paths.allow_tree` works around that.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import struct
from collections.abc import Iterable

from . import kernel

_CREATE, _ADD, _RESTRICT = 444, 445, 446  # the same numbers on every architecture

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << i for i in range(6))
_MAKE_DIR, _MAKE_REG = 1 << 7, 1 << 8
_REFER, _TRUNCATE, _IOCTL = 1 << 13, 1 << 14, 1 << 15
_FOR_FILES = EXECUTE | WRITE_FILE | READ_FILE | _TRUNCATE | _IOCTL

READ = EXECUTE | READ_FILE | READ_DIR
# no right to make links, pipes, sockets or devices: a submission can only be a plain file
WRITE = READ | WRITE_FILE | REMOVE_DIR | REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _REFER | _TRUNCATE

_MOST_KEPT = 64
_MOST_USES = 300  # with namespaces every run adds rules for its private mounts


@functools.lru_cache(maxsize=1)
def abi() -> int:
    """Return the Landlock version of the running kernel, 0 when it has none or it is switched off."""
    return max(0, kernel.syscall(_CREATE, 0, 0, 1)) if kernel.LINUX else 0


def _call(what: str, number: int, *args: int | bytes) -> int:
    """Return the result of a system call; `OSError` naming ``what`` where the kernel refuses it."""
    result = kernel.syscall(number, *args)
    if result < 0:
        raise OSError(-result, f"{what}: {os.strerror(-result)}")
    return result


def _unknown() -> int:
    """Return the rights that this kernel does not know."""
    return sum(right for since, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL)) if abi() < since)


def create() -> int:
    """Return the file descriptor of a fresh rule set that handles every right this kernel knows."""
    version = abi()
    files = ((1 << 13) - 1 | _REFER | _TRUNCATE | _IOCTL) & ~_unknown()
    network = 3 if version >= 4 else 0
    scoped = 3 if version >= 6 else 0  # abstract unix sockets and signals stay inside
    size = 8 if version < 4 else 16 if version < 6 else 24
    rules = struct.pack("=QQQ", files, network, scoped)[:size]
    descriptor = _call("landlock_create_ruleset", _CREATE, rules, size, 0)
    os.set_inheritable(descriptor, False)
    return descriptor


def allow(ruleset: int, paths: Iterable[str], rights: int) -> None:
    """Add ``rights`` below each of ``paths``. A path that does not exist is passed over."""
    rights &= ~_unknown()
    for path in paths:
        with contextlib.suppress(FileNotFoundError):
            _allow_one(ruleset, path, rights)


def _allow_one(ruleset: int, path: str, rights: int) -> None:
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            rights &= _FOR_FILES
        if rights:
            _call(f"landlock_add_rule {path}", _ADD, ruleset, 1, struct.pack("=Qi", rights, descriptor), 0)
    finally:
        os.close(descriptor)


class Rulesets:
    """Rule sets, built once for each data folder and kept: thousands of rules take tens of milliseconds.

    A rule set is kept for a folder, not for a path: a folder deleted and made again gets a new one.
    """

    def __init__(self, trees: list[str], listings: list[str], workspace: str):
        self.trees, self.listings, self.workspace = trees, listings, workspace
        self._kept: dict[tuple, tuple[int, int]] = {}  # descriptor, times used

    def get(self, read: list[str]) -> int:
        """Return the descriptor of the rule set of a run that may also read ``read``."""
        infos = [os.stat(path) for path in [self.workspace, *read]]
        key = tuple((info.st_dev, info.st_ino) for info in infos)
        ruleset, uses = self._kept.get(key, (-1, _MOST_USES))
        if uses >= _MOST_USES:
            if ruleset < 0 and len(self._kept) >= _MOST_KEPT:
                ruleset, _ = self._kept.pop(next(iter(self._kept)))
            if ruleset >= 0:
                os.close(ruleset)
            ruleset, uses = self._build(read), 0
        self._kept[key] = (ruleset, uses + 1)
        return ruleset

    def _build(self, read: list[str]) -> int:
        ruleset = create()
        allow(ruleset, [*self.trees, *read], READ)
        allow(ruleset, self.listings, READ_DIR)
        allow(ruleset, [self.workspace], WRITE)
        allow(ruleset, [os.devnull], READ_FILE | WRITE_FILE)
        return ruleset


def enter(ruleset: int) -> None:
    """Lock this process, and all that it will start, into the rule set. Cannot be undone."""
    kernel.check(kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    _call("landlock_restrict_self", _RESTRICT, ruleset, 0)
