"""Limits of one run: what the kernel enforces (rlimits), what a guard measures (tree, memory, disk)."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import stat
import time
from dataclasses import dataclass, replace

try:
    import resource
except ImportError:  # Windows: no tier but T0 works there
    resource = None

MAX_DEPTH = 40
_OPEN_FILES = 256
_NPROC_SLACK = 8


def set_rlimits(limits: dict, process_base: int) -> None:
    """Set the kernel's own limits for this process and all that it will start.

    Address space that this process has already mapped does not count.

    Args:
        limits: ``Limits.to_json()``.
        process_base: Processes and threads of the same user that do not belong to this run.
    """
    cpu = 2 * int(limits["seconds"] + 1)  # a backstop; the guard's wall clock comes first
    with open("/proc/self/statm") as handle:
        space = int(handle.read().split()[0]) * os.sysconf("SC_PAGE_SIZE") + limits["memory_bytes"]
    tasks = process_base + limits["processes"] + _NPROC_SLACK  # the guard counts exactly
    wanted = {
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_CPU: (cpu, cpu + 1),
        resource.RLIMIT_AS: (space, space),
        resource.RLIMIT_FSIZE: (limits["file_bytes"],) * 2,
        resource.RLIMIT_NOFILE: (_OPEN_FILES,) * 2,
        resource.RLIMIT_NPROC: (tasks, tasks),
        resource.RLIMIT_MEMLOCK: (0, 0),
        resource.RLIMIT_MSGQUEUE: (0, 0),
    }
    for limit, (soft, hard) in wanted.items():
        ceiling = resource.getrlimit(limit)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(limit, (soft, hard))


@dataclass(frozen=True)
class Process:
    """One line of ``/proc/<pid>/stat``: who, whose child, how many threads, pages in memory.

    ``look`` is the number under which ``/proc`` shows its memory and its open files: that of a thread that
    still lives, because a first thread that has ended shows neither.
    """

    pid: int
    parent: int
    state: str
    threads: int
    resident: int
    look: int


def processes() -> list[Process]:
    """Return every process that ``/proc`` shows."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            process = _process(int(name))
            headless = process.state == "Z" and process.threads > 1
            found.append(_with_living_thread(process) if headless else process)
    return found


def _process(pid: int) -> Process:
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as handle:
        text = handle.read(4096)
    fields = text[text.rindex(b")") + 2 :].split()
    return Process(pid, int(fields[1]), chr(fields[0][0]), int(fields[17]), int(fields[21]), pid)


def _with_living_thread(process: Process) -> Process:
    """Return the process with what one of its living threads shows; all share memory and descriptors."""
    for name in os.listdir(f"/proc/{process.pid}/task"):
        with contextlib.suppress(OSError, ValueError):
            thread = _process(int(name))
            if thread.state != "Z":
                return replace(process, resident=thread.resident, look=thread.pid)
    return process


def descendants(root: int) -> list[Process]:
    """Return the children of ``root``, their children and so on, zombies included."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found, todo = [], [root]
    while todo:
        for child in children.get(todo.pop(), ()):
            found.append(child)
            todo.append(child.pid)
    return found


def user_tasks(uid: int) -> int:
    """Return how many threads the user ``uid`` has on this machine; RLIMIT_NPROC counts them all."""
    count = 0
    for process in processes():
        with contextlib.suppress(OSError):
            count += process.threads if os.stat(f"/proc/{process.pid}").st_uid == uid else 0
    return count


def sweep(root: int, *, seconds: float = 5.0) -> int:
    """Kill and reap all descendants of ``root`` (this process, a subreaper); return how many are left.

    Everything is stopped before anything is killed, so that nothing can fork its way out meanwhile. An orphan
    becomes a child of the subreaper, so no child means no descendant, and ``/proc`` need not be searched.
    """
    deadline = time.monotonic() + seconds
    while True:
        if not reap():
            return 0
        tree = descendants(root)
        for sign in (signal.SIGSTOP, signal.SIGKILL):
            for process in tree:  # zombies too: one whose first thread alone has ended still runs
                with contextlib.suppress(OSError):
                    os.kill(process.pid, sign)
        if not tree or time.monotonic() > deadline:
            return len(tree)
        time.sleep(0.002)


def reap() -> bool:
    """Collect every child that has ended, without waiting; return whether a child is left."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    except ChildProcessError:
        return False
    return True


def resident_bytes(tree: list[Process], limit: int) -> int:
    """Return the memory of the tree: a quick upper bound, and the exact value where that exceeds ``limit``.

    Adding resident pages counts a page shared by several forks once for each; only the proportional share
    (PSS) is fair, and it is slow. So it is read only when the quick sum is suspicious.
    """
    page = os.sysconf("SC_PAGE_SIZE")
    quick = sum(p.resident for p in tree) * page
    if quick <= limit:
        return quick
    return sum(_proportional_bytes(p.look, p.resident * page) for p in tree)


def _proportional_bytes(pid: int, otherwise: int) -> int:
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as handle:
            for line in handle:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except PermissionError:
        return otherwise
    except OSError:
        return 0  # it ended meanwhile
    return 0


def disk_use(folder: str, *, max_files: int) -> tuple[int, int]:
    """Return (bytes on disk, entries) below ``folder``, giving up above ``max_files`` entries.

    Iterative, because recursion dies on a thousand nested folders; links are not followed. A tree deeper than
    `MAX_DEPTH` counts as too many files.
    """
    total = count = 0
    todo = [(folder, 0)]
    while todo and count <= max_files:
        path, depth = todo.pop()
        for entry in _entries(path, max_files + 1):
            count += 1
            try:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
                is_dir = entry.is_dir(follow_symlinks=False)
            except OSError:
                continue
            if is_dir and depth + 1 >= MAX_DEPTH:
                return total, max_files + 1
            if is_dir:
                todo.append((entry.path, depth + 1))
    return total, count


def _entries(path: str, most: int) -> list[os.DirEntry]:
    with contextlib.suppress(OSError):
        try:
            entries = os.scandir(path)
        except PermissionError:
            open_up(path)
            entries = os.scandir(path)
        with entries:
            return list(itertools.islice(entries, most))
    return []


def open_up(path: str) -> None:
    """Give ourselves back the rights on a folder made with mode 0; a link in its place is not followed."""
    descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.chmod(f"/proc/self/fd/{descriptor}", 0o700)
    finally:
        os.close(descriptor)


def deleted_bytes(tree: list[Process]) -> int:
    """Return the bytes of files that the tree has deleted but keeps open, which no folder shows."""
    return sum(_deleted_but_open(tree).values())


def _deleted_but_open(tree: list[Process]) -> dict[int, int]:
    sizes = {}
    for process in tree:
        with contextlib.suppress(OSError), os.scandir(f"/proc/{process.look}/fd") as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    info = entry.stat()
                    if stat.S_ISREG(info.st_mode) and info.st_nlink == 0:
                        sizes[info.st_ino] = info.st_blocks * 512
    return sizes


def deleted_but_mapped(tree: list[Process], folder: str) -> int:
    """Return how many deleted files of ``folder`` the tree holds by a mapping alone.

    One mapped page keeps a whole file on the disk, and ``/proc`` does not tell its size. Python's ``mmap``
    keeps the file open, so honest scripts have none of these. Slow: it reads every mapping of every process.
    """
    place = f" {folder}/".encode()
    mapped = set()
    for process in tree:
        with contextlib.suppress(OSError), open(f"/proc/{process.look}/maps", "rb") as handle:
            text = handle.read()
            if b" (deleted)\n" in text:
                lines = (line for line in text.split(b"\n") if line.endswith(b" (deleted)") and place in line)
                mapped |= {int(line.split(maxsplit=5)[4]) for line in lines}
    return len(mapped - set(_deleted_but_open(tree)))
