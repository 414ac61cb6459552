"""What a hostile script is let loose on, and the proof that nothing but its own workspace has changed."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import mlagent_lib
from mlagent_lib.core.limits import Limits
from mlagent_lib.environment.isolation import limits_os
from mlagent_lib.environment.runner import Runner, RunRequest, RunResult

MB = 1 << 20
SMALL = {
    "seconds": 3.0, "memory_bytes": 400 * MB, "output_bytes": 4000, "file_bytes": 2 * MB,
    "disk_bytes": 6 * MB, "files": 60, "processes": 16,
}  # fmt: skip
GRACE = 15.0  # seconds beyond a run's own limit before it counts as stuck, on a machine that does other work
PUBLIC_PLACES = ("/tmp", "/var/tmp", "/dev/shm")
MARK = "abuse-planted"  # in every name that a script tries to leave in a public place

# what every hostile script starts with
HEAD = """
import ctypes, json, os, signal, socket, subprocess, sys, threading, time
plan = json.load(open("plan.json"))
libc = ctypes.CDLL(None, use_errno=True)

def tries(*attacks):
    for number, attack in enumerate(attacks, 1):
        try:
            result = attack()
        except (OSError, ImportError, subprocess.CalledProcessError):
            continue
        if isinstance(result, int) and not isinstance(result, bool) and result < 0:
            continue
        print("NOT REFUSED:", number, repr(result)[:200])
    print("tried", len(attacks))

def write(path, mode="a"):
    with open(path, mode) as handle:
        handle.write("planted")

def read(path):
    with open(path, "rb") as handle:
        return handle.read(40)
"""


@dataclass(frozen=True)
class Case:
    """One hostile script, and what comes of it.

    Attributes:
        number: 1 to 74 as in the kit's threat list, more for what was added to it.
        does: What the code does.
        happens: What comes of it.
        layer: What stops it.
        script: The code, after `HEAD`; bytes are the whole script.
        status: The statuses that the run may end with.
        says: Text that its output must hold.
        limits: Limits other than `SMALL`.
        collect: What it must hand in: name to bytes.
        refuses: Why what it hands in is refused: name to reason.
    """

    number: int
    does: str
    happens: str
    layer: str
    script: str | bytes
    status: tuple[str, ...] = ("ok",)
    says: str = ""
    limits: dict = field(default_factory=dict)
    collect: dict[str, bytes] = field(default_factory=dict)
    refuses: dict[str, str] = field(default_factory=dict)

    def source(self) -> bytes:
        """Return the script as it is executed."""
        if isinstance(self.script, bytes):
            return self.script
        return (HEAD + textwrap.dedent(self.script)).encode()

    def budget(self) -> Limits:
        """Return what the run may use."""
        return Limits(**{**SMALL, **self.limits})


def row(case) -> str:
    """Return the line of the table for a case."""
    return f"| {case.number} | {case.does} | {case.happens} | {case.layer} |"


def name_of(case) -> str:
    """Return what a case is called in a list of tests."""
    return f"{case.number}-{case.does[:40].replace(' ', '-')}"


def digest(folder: Path) -> dict[str, tuple]:
    """Return mode, size, modification time, links and content of all that is below ``folder``."""
    found = {}
    for path in [folder, *sorted(folder.rglob("*"))]:
        info = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if stat.S_ISREG(info.st_mode) else ""
        found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns, info.st_nlink, info.st_uid, content)
    return found


def settles(condition, seconds: float = 5.0) -> bool:
    """Return whether ``condition`` becomes true within ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def _belongs(pid: str, words: Iterable[bytes], uid: int) -> bool:
    try:
        if uid and os.stat(f"/proc/{pid}").st_uid == uid:
            return True
        shown = Path(f"/proc/{pid}/cmdline").read_bytes()
        with suppress(OSError):
            shown += Path(f"/proc/{pid}/environ").read_bytes()
            shown += os.fsencode(os.readlink(f"/proc/{pid}/cwd"))
    except OSError:
        return False
    return any(word in shown for word in words)


class Scene:
    """A home, labels, an evaluator and other people's processes, all open to everybody but for the isolation.

    Args:
        folder: An empty folder to build in.
        runner: One worker, warm; every attack runs in it, and it must serve the next run as if nothing were.
    """

    def __init__(self, folder: Path, runner: Runner):
        self.runner, self.folder = runner, folder
        self.secret = f"canary-{secrets.token_hex(16)}"
        self.host, self.data = folder / "host", folder / "host" / "task" / "env" / "data"
        self._build()
        self.listeners = self._listen()
        self.victim = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(3600)"], stdin=subprocess.DEVNULL
        )
        self.server = runner._servers[0]
        self.pid = self.server.process.pid
        self.before = self._state()
        self.memory = self._server_memory()

    def _build(self) -> None:
        texts = {
            "home/.bashrc": "alias ls=ls\n", "home/.ssh/id_rsa": self.secret,
            "home/.config/token": self.secret,
            "task/env/data/train.csv": "id,x,y\n1,2,0\n", "task/env/data/test.csv": "id,x\n2,3\n",
            "task/scripts/labels/feedback.csv": f"id,target\n2,{self.secret}\n",
            "task/scripts/eval.py": "def get_score(folder):\n    return 0.5\n",
            "other/work/submission.csv": "id,prediction\n2,1\n",
        }  # fmt: skip
        for name, text in texts.items():
            (self.host / name).parent.mkdir(parents=True, exist_ok=True)
            (self.host / name).write_text(text)
        for path in [self.folder, self.host, *self.host.rglob("*")]:
            path.chmod(0o777)  # only the isolation may be what refuses

    def _listen(self) -> dict[str, socket.socket]:
        self.socket_folder = self.folder / "sockets"
        self.socket_folder.mkdir()
        abstract = f"\0{MARK}-{secrets.token_hex(4)}"
        places = {
            "tcp": (socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
            "udp": (socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", 0)),
            "path": (socket.AF_UNIX, socket.SOCK_STREAM, str(self.socket_folder / "s")),
            "datagram": (socket.AF_UNIX, socket.SOCK_DGRAM, str(self.socket_folder / "d")),
            "abstract": (socket.AF_UNIX, socket.SOCK_STREAM, abstract),
        }
        listeners = {}
        for name, (family, kind, address) in places.items():
            listener = socket.socket(family, kind)
            listener.bind(address)
            listener.setblocking(False)
            if kind == socket.SOCK_STREAM:
                listener.listen()
            listeners[name] = listener
        for name in ("s", "d"):
            (self.socket_folder / name).chmod(0o777)
        return listeners

    def plan(self) -> dict:
        """Return what the hostile script is told, so that it need not search."""
        host = str(self.host)
        return {
            "home": f"{host}/home", "key": f"{host}/home/.ssh/id_rsa",
            "labels": f"{host}/task/scripts/labels",
            "label_file": f"{host}/task/scripts/labels/feedback.csv", "eval": f"{host}/task/scripts/eval.py",
            "task": f"{host}/task", "host": host, "other": f"{host}/other/work", "parent": os.getpid(),
            "group": os.getpgid(0), "server": self.pid, "victim": self.victim.pid, "mark": MARK,
            "base": self.runner._base, "packages": os.path.dirname(os.path.dirname(np.__file__)),
            "kit": os.path.dirname(mlagent_lib.__file__), "namespaces": "T3" in self.runner.tier,
            "tcp": self.listeners["tcp"].getsockname()[1], "udp": self.listeners["udp"].getsockname()[1],
            "path": self.listeners["path"].getsockname(),
            "datagram": self.listeners["datagram"].getsockname(),
            "abstract": self.listeners["abstract"].getsockname().decode(),
        }  # fmt: skip

    # ---- what must not change ------------------------------------------------------------------

    def _state(self) -> dict:
        """Return everything outside the workspace that a script could have changed."""
        places = (*PUBLIC_PLACES, self.plan()["packages"])
        return {
            "files": digest(self.host),
            "sockets": sorted(os.listdir(self.socket_folder)),
            "planted": [name for place in places for name in os.listdir(place) if MARK in name],
            "workspace": sorted(str(p) for p in Path(self.runner._base).rglob("*")),
            "segments": [Path(f"/proc/sysvipc/{kind}").read_text() for kind in ("shm", "sem", "msg")],
            "mounts": Path("/proc/self/mountinfo").read_text(),
            "descriptors": len(os.listdir("/proc/self/fd")),
            "limits": Path("/proc/self/limits").read_text(),
            "handlers": signal.getsignal(signal.SIGTERM),
        }

    def census(self) -> list[int]:
        """Return every process that a run could have left, zombies included; the server is not one."""
        words = [os.fsencode(self.runner._base), MARK.encode()]
        uid = self.server._owner or 0
        known = {self.pid, os.getpid()}
        named = {int(p) for p in os.listdir("/proc") if p.isdigit() and _belongs(p, words, uid)}
        tree = {p.pid for p in limits_os.descendants(self.pid)}
        zombies = {p.pid for p in limits_os.processes() if p.parent == os.getpid() and p.state == "Z"}
        return sorted((named | tree | zombies) - known)

    def _server_memory(self) -> int:
        text = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Rss:")) * 1024

    def _contacts(self) -> list[str]:
        """Return the listeners that somebody has spoken to."""
        spoken = []
        for name, listener in self.listeners.items():
            with suppress(BlockingIOError):
                listener.recv(100) if listener.type == socket.SOCK_DGRAM else listener.accept()[0].close()
                spoken.append(name)
        return spoken

    def check(self, what: str) -> None:
        """Assert that nothing is left of a run and that the next one finds everything as before."""
        assert settles(lambda: not self.census()), (what, "processes left", self.census())
        assert self.server.process and self.server.process.pid == self.pid, (what, "cost a server")
        assert self._state() == self.before, what
        assert self._contacts() == [], what
        assert self.victim.poll() is None, (what, "killed another process of the user")
        after = self.runner.run(
            RunRequest({"a.py": b"import os\nprint(os.listdir())"}, None, "a.py", Limits(), ())
        )
        assert (after.status, after.output) == ("ok", "['a.py']\n"), (what, "the next run suffers", after)

    def run(self, case: Case) -> RunResult:
        """Return what came of a case, after checking all that holds for every case."""
        files = {"train.py": case.source(), "plan.json": json.dumps(self.plan()).encode()}
        names = tuple([*case.collect, *case.refuses]) or ("submission.csv",)
        began = time.monotonic()
        result = self.runner.run(RunRequest(files, self.data, "train.py", case.budget(), names))
        assert time.monotonic() - began < case.budget().seconds + GRACE, "the run did not end in time"
        shown = json.dumps([result.output, *(c.decode("latin-1") for c in result.collected.values())])
        assert self.secret not in shown, "the run has read a secret"
        assert len(result.output) <= case.budget().output_bytes + 100
        self.check(case.does)
        return result

    def close(self) -> None:
        """Stop the bystander and the listeners; the server must not have grown under all the attacks."""
        self.victim.kill()
        self.victim.wait()
        for listener in self.listeners.values():
            listener.close()
        grown = self._server_memory() - self.memory
        assert grown < 20 * MB, f"the attacks left {grown / MB:.0f} MB in the server"
