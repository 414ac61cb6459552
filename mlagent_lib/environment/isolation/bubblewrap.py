"""Tier BW: the warm server inside bubblewrap, for kernels without Landlock (old or cut down, gVisor).

Landlock locks in each run. Bubblewrap locks in a process that it starts, and runs are forked from a warm
server, so here the *server* sees an empty root, into which `arguments` mounts, read-only, what every run may
read, and its workspace. Root, ``/proc`` and ``/dev`` are private and read-only, so that nothing passes from
run to run but what `run_folder.empty` removes: ``/tmp`` cannot be written, and there is no shared memory. The
server is process 1 in there and not dumpable: a run cannot reach its pipe to the parent through
``/proc/1/fd``, as it could with bubblewrap's own process 1.

A mount cannot be added later. When a run brings a data folder that its server does not have, the server is
started again with it: one start (seconds, with the scientific stack) for each new folder and worker, nothing
afterwards. The price is that a run can read the data, never the hidden labels, of tasks that its server ran
before, which Landlock would refuse: two tasks that split the same rows would give each other away. Likewise a
file that is put into a library folder while a server runs may be readable, because what is denied is looked
up when the server starts.

Two processes stand around the server: bubblewrap itself, and `launcher`, which starts it. Bubblewrap dies
with its parent *thread*, and a thread of a pool ends early; and the folder has to be removed from outside.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from . import paths

HERE = "/isolation"  # where this folder is inside; it holds code only
_MOST_ARGUMENTS = 8_900  # bubblewrap itself takes 9000
_ALONE = (
    "--unshare-user", "--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--new-session",
    "--as-pid-1",
)  # fmt: skip
# settings below /proc/sys that refuse user namespaces, with the value that does
_REFUSING = (
    ("kernel/apparmor_restrict_unprivileged_userns", "1", "AppArmor, as Ubuntu 24.04 sets it up"),
    ("kernel/unprivileged_userns_clone", "0", "a setting of Debian"),
    ("user/max_user_namespaces", "0", "a limit of the kernel"),
)
_LINKS = ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/localtime")
_MADE_INSIDE = ("/proc", "/dev")
_TRY_SECONDS = 20.0


def program() -> str | None:
    """Return the path of ``bwrap``, None when it is not installed."""
    return shutil.which("bwrap")


def why_not() -> str:
    """Return why bubblewrap cannot be used here, nothing when it can make its namespaces.

    Raises:
        OSError: If it could not be tried.
    """
    bwrap = program()
    if bwrap is None:
        return "the program bwrap is missing: install the package bubblewrap"
    command = [bwrap, *_ALONE, "--ro-bind", "/", "/", "--", sys.executable, "-I", "-S", "-c", ""]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
            errors="replace", timeout=_TRY_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"bwrap did not answer within {_TRY_SECONDS:.0f} s"
    if done.returncode == 0:
        return ""
    said = done.stderr.strip().rpartition("\n")[2][-200:] or f"exit code {done.returncode}"
    if said.startswith("bwrap: Unknown option"):
        return f"bwrap is too old, 0.4 or later is needed ({said})"
    return f"user namespaces are refused ({said}){who_refuses()}"


def who_refuses(root: str = "/proc/sys") -> str:
    """Return which setting of this machine refuses user namespaces, in brackets; nothing when none does."""
    for name, value, meaning in _REFUSING:
        with contextlib.suppress(OSError):
            if Path(root, name).read_text().strip() == value:
                return f" ({meaning}: {name.replace('/', '.')}={value})"
    return ""


def links(path: str) -> dict[str, str]:
    """Return every symbolic link that the kernel follows on the way along ``path``, with its text.

    Example:
        >>> import tempfile, pathlib
        >>> base = pathlib.Path(tempfile.mkdtemp()).resolve()
        >>> (base / "real").mkdir()
        >>> (base / "short").symlink_to("real")
        >>> links(str(base / "short" / "python")) == {str(base / "short"): "real"}
        True
    """
    found: dict[str, str] = {}
    here, todo = "/", path.split("/")
    while todo:
        part = todo.pop(0)
        if part in ("", "."):
            continue
        there = os.path.dirname(here) if part == ".." else os.path.join(here, part)
        if os.path.islink(there) and there not in found:
            found[there] = os.readlink(there)
            here = "/" if found[there].startswith("/") else here
            todo = found[there].split("/") + todo
        else:
            here = there
    return found


class _View:
    """Mounts that show what is granted and nothing else of the folders on the way, as few as possible.

    Bubblewrap takes 9000 words and each mount costs time, but what is granted may be thousands of files. So
    of each folder on the way to a grant either the grants are mounted into an empty folder, or the folder is
    mounted whole and what is not granted is covered: a folder by an empty one, a file by a device that
    cannot be opened.
    """

    def __init__(self, grants: Iterable[str]):
        self.whole = set(grants)
        self.on_way = {parent for path in self.whole for parent in paths._parents(path)}
        self.mounts: list[str] = []
        self.seals: list[str] = []  # made read-only last, when all that lies below is mounted
        self._seen: set[str] = set()

    def bind(self, path: str) -> None:
        self.mounts += ["--ro-bind-try", path, path]

    def cover(self, folder: str, *, shown: bool) -> None:
        """Show what is granted below ``folder``, all of which can already be seen if ``shown``."""
        self._seen.add(folder)
        granted, inner, rest = self._sorted(folder)
        # an empty folder over one that is seen costs two words more
        keep = len(rest) <= len(granted) + 1 if shown else len(rest) < len(granted)
        if keep and not shown:
            self.bind(folder)
        if shown and not keep:
            self._empty(folder)
        for path in () if keep else granted:
            self.bind(path)
        for entry in rest if keep else ():
            if entry.is_dir(follow_symlinks=False):
                self._empty(entry.path)
            else:
                self.mounts += ["--ro-bind", os.devnull, entry.path]
        for path in inner:
            self.cover(path, shown=keep)

    def _sorted(self, folder: str) -> tuple[list[str], list[str], list[os.DirEntry]]:
        """Return what of a folder is granted, on the way to a grant, and neither."""
        granted, inner, rest = [], [], []
        for entry in paths._entries(folder):
            if entry.path in self.whole:
                granted.append(entry.path)
            elif entry.is_symlink():
                continue  # leads only to what can be seen inside
            elif entry.path in self.on_way and entry.is_dir():
                inner.append(entry.path)
            else:
                rest.append(entry)
        return granted, inner, rest

    def roots(self, listings: Iterable[str]) -> None:
        """Show what is granted below the folders ``listings``, and the grants outside them."""
        listings = sorted(listings, key=len)
        for folder in listings:
            inside = {folder, *paths._parents(folder)}
            if not inside & self.whole and folder in self.on_way and folder not in self._seen:
                self.cover(folder, shown=False)
        tops = set(listings)
        for path in sorted(self.whole):
            if path in tops or not tops & set(paths._parents(path)):
                self.bind(path)

    def _empty(self, folder: str) -> None:
        self.mounts += ["--tmpfs", folder]
        self.seals += ["--remount-ro", folder]


def arguments(workspace: str, data: list[str], trees: Iterable[str], listings: Iterable[str]) -> list[str]:
    """Return the words for bubblewrap, without the command.

    Args:
        workspace: The only folder that can be written; it exists.
        data: Folders of tasks, read-only.

    Raises:
        OSError: If it takes more mounts than bubblewrap does.
    """
    grants = [p for p in trees if not any(p == top or p.startswith(f"{top}/") for top in _MADE_INSIDE)]
    view = _View(grants)
    view.roots(listings)
    words = [*_ALONE, "--tmpfs", "/", "--proc", "/proc", "--dev", "/dev", *view.mounts]
    words += ["--ro-bind", str(Path(__file__).resolve().parent), HERE]
    for folder in data:
        words += ["--ro-bind", folder, folder]
    words += ["--bind", workspace, workspace]
    for path, text in {k: v for p in (sys.executable, *_LINKS) for k, v in links(p).items()}.items():
        if not {path, *paths._parents(path)} & set(words):  # else the link came with its folder
            words += ["--symlink", text, path]
    # root's own settings of the kernel in /proc/sys obey the user's number, not the capabilities it lacks
    words += [*view.seals, "--remount-ro", "/proc", "--remount-ro", "/dev", "--remount-ro", "/"]
    if len(words) > _MOST_ARGUMENTS:
        raise OSError(errno.E2BIG, f"bubblewrap would need {len(words)} words for its mounts")
    return words


class Mounts:
    """Which data folders the server of one worker has, and whether it has to be started again."""

    MOST = 32

    def __init__(self) -> None:
        self._folders: dict[str, tuple[int, int]] = {}

    def add(self, data_dir: str | None) -> bool:
        """Take in a folder; return whether it is new, or another than the one that had this path.

        Raises:
            OSError: If it does not exist.
        """
        if data_dir is None:
            return False
        info = os.stat(data_dir)
        identity = (info.st_dev, info.st_ino)
        if self._folders.get(data_dir) == identity:
            return False
        self._folders.pop(data_dir, None)
        while len(self._folders) >= self.MOST:
            del self._folders[next(iter(self._folders))]
        self._folders[data_dir] = identity
        return True

    def folders(self) -> list[str]:
        """Return the folders that are still there, oldest first."""
        self._folders = {path: key for path, key in self._folders.items() if os.path.isdir(path)}
        return list(self._folders)
