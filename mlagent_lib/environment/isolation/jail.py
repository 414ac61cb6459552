"""One run: a guard process that watches, and the jailed process that executes the script.

`guard` runs in a process forked from the warm server and never returns. It forks the run, measures it,
kills everything the run left behind, and writes one JSON line for the parent. The run writes to a pipe that
only the guard reads; it inherits no other descriptor.

With namespaces one small process more stands beside the run: the first of the new process namespace, whose
end makes the kernel kill all the others in it. It is a ``cat`` that waits for the end of a pipe held by the
guard, because a fork of this large process in its place would cost as much as a short script.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from . import kernel, landlock, limits_os, seccomp

SCAN_SECONDS = 0.05
_MAX_SCAN_SHARE = 0.1  # a scan may take a tenth of one core
_SCANS_OF_MAPPINGS = 8  # reading all mappings is slow, so it is done in every eighth scan
_FLOOD_BYTES = 8 << 20
_READY, _FAILED = b"ready", b"failed"
_KERNEL_SECONDS = 5.0  # to kill what is in a namespace: far more than it ever needs
_CAT = shutil.which("cat", path=os.defpath)


@dataclass(frozen=True)
class Jailed:
    """What the parent asks of the server for one run.

    Attributes:
        workspace: The only folder that the run may write.
        limits: ``Limits.to_json()``.
        read: Folders that this run may read besides the libraries (its data).
        uid: The throw-away user to become, or None to stay who we are.
        hidden_tasks: Threads of this user that the guard cannot see but the kernel may count.
    """

    workspace: str
    script: str
    limits: dict
    read: list[str] = field(default_factory=list)
    landlock: bool = True
    seccomp: bool = True
    namespaces: bool = False
    uid: int | None = None
    reseed: int = 0
    hidden_tasks: int = 0

    def refused(self) -> dict[str, bool]:
        """Return what `seccomp.program` has to refuse because Landlock does not."""
        version = landlock.abi() if self.landlock else 0
        apart = self.namespaces or self.uid is not None
        return {"signals": version < 6 and not apart, "truncation": version < 3 and self.uid is None}


Execute = Callable[[Jailed], int]  # runs the script of a job inside the jail, and returns its exit code
_ENVIRONMENT = {
    # every numeric library gets one thread: a fork of a process with OpenMP threads would hang
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "NUMEXPR_NUM_THREADS": "1",
    "PATH": "/usr/local/bin:/usr/bin:/bin", "USER": "run", "LOGNAME": "run", "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONHASHSEED": "0", "PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "MPLBACKEND": "Agg",
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",  # a run has no network: else each call of the hub is tried for half a minute
    # arrow: no background thread in the server, no arena of a gigabyte in a limited address space
    "ARROW_DEFAULT_MEMORY_POOL": "system", "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "MALLOC_ARENA_MAX": "2",  # one arena more for each thread would use up the address space
    "JOBLIB_MULTIPROCESSING": "0",  # loky cannot make semaphores without /dev/shm and would try in every run
}  # fmt: skip


def clean_environment(home: str) -> dict[str, str]:
    """Return the whole environment of a run: nothing of the caller's but language and time zone.

    The hash seed is fixed, as the number of threads is: the same script gives the same output.
    """
    kept = {k: os.environ[k] for k in ("LANG", "LC_ALL", "TZ") if k in os.environ}
    return {**kept, **_ENVIRONMENT, **dict.fromkeys(("HOME", "TMPDIR", "MPLCONFIGDIR"), home)}


def close_all_but(*keep: int | None) -> None:
    """Close every descriptor above standard error that is not in ``keep``."""
    start = 3
    for descriptor in sorted(d for d in keep if d is not None and d >= start):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, os.sysconf("SC_OPEN_MAX"))


def send(descriptor: int, message: dict) -> None:
    """Write a message as one line of JSON."""
    line = json.dumps(message, allow_nan=False).encode() + b"\n"
    while line:
        line = line[os.write(descriptor, line) :]


# ---- the guard -----------------------------------------------------------------------------------


def guard(job: Jailed, ruleset: int | None, reply: int, lifeline: int, execute: Execute) -> None:
    """Run ``job`` to its end, report on ``reply``, leave no process, and exit. Never returns.

    Args:
        ruleset: Descriptor of the Landlock rules, None for a tier without.
        reply: Descriptor of the pipe to the parent.
        lifeline: Descriptor that reaches its end when the server is gone; then everything is killed.
        execute: Called inside the jail; returns the exit code.
    """
    code = 1
    try:
        close_all_but(reply, lifeline, ruleset)
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        send(reply, _supervise(job, ruleset, lifeline, execute))
        code = 0
    finally:
        if code:
            sys.excepthook(*sys.exc_info())  # to the server's log
        os._exit(code)  # never back into the server's code


def _supervise(job: Jailed, ruleset: int | None, lifeline: int, execute: Execute) -> dict:
    output_read, output_write = os.pipe()
    notes_read, notes_write = os.pipe()
    # the kernel counts all threads of the user, so the run gets its own number on top of what is there
    shared_user = job.uid is None and not job.namespaces
    process_base = limits_os.user_tasks(os.getuid()) + job.hidden_tasks + 256 if shared_user else 0
    try:
        head = _enter_namespaces(job) if job.namespaces else None
    except OSError as error:
        return {"stop": "setup", "setup": str(error)}
    pid = os.fork()
    if pid == 0:
        _first_process(job, ruleset, execute, output_write, notes_write, process_base)
    os.close(output_write)
    os.close(notes_write)
    watch = _Watch(job, pid, output_read, notes_read, lifeline)
    stop = watch.until_stopped()
    seconds = time.monotonic() - watch.start
    watch.collect_exit()
    if head is not None:
        _end_namespaces(head)
    left = limits_os.sweep(os.getpid())
    watch.drain()
    return watch.report(stop, left, seconds)


def _enter_namespaces(job: Jailed) -> int:
    """Enter fresh namespaces and return the first process of the one for processes, which ends with us."""
    uid, gid = os.getuid(), os.getgid()
    flags = kernel.NEW_PIDS | kernel.NEW_NET | kernel.NEW_IPC | kernel.NEW_UTS
    if job.uid is not None:  # real root needs no user namespace, and dropping to a user comes later
        kernel.unshare(flags)
    else:
        kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # else /proc/self/uid_map belongs to root
        kernel.unshare(flags | kernel.NEW_USER)
        kernel.map_own_ids(uid, gid)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)
    if _CAT is None:
        raise OSError(errno.ENOENT, "the program cat is missing, which holds the namespaces of a run")
    theirs, _ = os.pipe()  # the other end stays open until we exit, and no other process keeps it
    null = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
    places = [(os.POSIX_SPAWN_DUP2, theirs, 0), null, (os.POSIX_SPAWN_DUP2, 1, 2)]
    pid = os.posix_spawn(_CAT, ["cat"], {}, file_actions=places)
    os.close(theirs)
    return pid


def _end_namespaces(head: int) -> None:
    """Kill the first process, and with it all in its namespace; collect what was ours in there.

    The kernel lets the first process end only when all others are gone and collected, and the run is our
    child.
    """
    os.kill(head, signal.SIGKILL)
    ended, poll = os.pidfd_open(head), select.poll()
    poll.register(ended, select.POLLIN)
    deadline = time.monotonic() + _KERNEL_SECONDS  # what is left then, the sweep counts
    while limits_os.reap() and time.monotonic() < deadline:
        poll.poll(1)
    os.close(ended)


class _Watch:
    """The guard's eyes on one run: output, notes, clock, memory, processes, disk."""

    def __init__(self, job: Jailed, pid: int, output: int, notes: int, lifeline: int):
        self.job, self.pid, self.output, self.notes, self.lifeline = job, pid, output, notes, lifeline
        self.limits = job.limits
        self.exit_descriptor = os.pidfd_open(pid)
        self.start = time.monotonic()
        self.tail, self.total, self.noted = bytearray(), 0, b""
        self.status: int | None = None
        self.peak = self.scans = 0
        os.set_blocking(output, False)
        os.set_blocking(notes, False)
        self.poll = select.poll()
        for descriptor in (output, notes, self.exit_descriptor):
            self.poll.register(descriptor, select.POLLIN)
        self.poll.register(lifeline, 0)  # its hang-up is reported anyway

    def until_stopped(self) -> str:
        """Return why the run stopped or has to be stopped."""
        deadline = self.start + self.limits["seconds"]
        next_scan = self.start + SCAN_SECONDS
        flood = max(_FLOOD_BYTES, 32 * self.limits["output_bytes"])
        while True:
            wait = max(0.0, min(deadline, next_scan) - time.monotonic())
            ready = {descriptor for descriptor, _ in self.poll.poll(1000 * wait + 1)}
            if self.lifeline in ready:
                return "abandoned"
            for descriptor in ready & {self.output, self.notes}:
                self._take(descriptor)
            if self.exit_descriptor in ready:
                return "exit"
            if self.total > flood:
                return "output"
            now = time.monotonic()
            if now >= deadline:
                return "timeout"
            if now >= next_scan:
                began = time.process_time()  # by the clock, a run that keeps all cores busy would blind us
                broken = self._scan()
                if broken:
                    return broken
                cost = time.process_time() - began
                next_scan = now + max(SCAN_SECONDS, cost / _MAX_SCAN_SHARE)

    def _take(self, descriptor: int) -> bool:
        """Read what is there; return False at the end of the pipe or when there is nothing."""
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return False
        if not data:
            self.poll.unregister(descriptor)  # else poll would return at once for ever
            return False
        if descriptor == self.notes:
            self.noted = (self.noted + data)[-4096:]
            return True
        self.total += len(data)
        self.tail += data
        if len(self.tail) > 2 * self.limits["output_bytes"] + 4096:
            del self.tail[: len(self.tail) - self.limits["output_bytes"] - 4]
        return True

    def _scan(self) -> str | None:
        tree = limits_os.descendants(os.getpid())
        self.scans += 1
        if sum(p.threads for p in tree) - self.job.namespaces > self.limits["processes"]:
            return "processes"
        memory = limits_os.resident_bytes(tree, self.limits["memory_bytes"])
        self.peak = max(self.peak, memory)
        if memory > self.limits["memory_bytes"]:
            return "memory"
        if self.scans % 2:
            return None
        hidden = limits_os.deleted_bytes(tree)
        if self.scans % _SCANS_OF_MAPPINGS == 0:  # each of unknown size, so it counts as the largest allowed
            hidden += self.limits["file_bytes"] * limits_os.deleted_but_mapped(tree, self.job.workspace)
        return self._disk(hidden)

    def _disk(self, hidden: int = 0) -> str | None:
        used, count = limits_os.disk_use(self.job.workspace, max_files=self.limits["files"])
        if count > self.limits["files"]:
            return "files"
        return "disk" if used + hidden > self.limits["disk_bytes"] else None

    def collect_exit(self) -> None:
        """Take the exit status and the peak memory of the run, if it has ended by itself."""
        with contextlib.suppress(ChildProcessError):
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                self.status = status
                self.peak = max(self.peak, usage.ru_maxrss * 1024)

    def drain(self) -> None:
        """Read what is left in the pipes. Nobody can write to them any more."""
        for descriptor in (self.output, self.notes):
            with contextlib.suppress(KeyError):
                while self._take(descriptor):
                    pass

    def report(self, stop: str, left: int, seconds: float) -> dict:
        """Return the run as the parent gets it."""
        notes = dict(line.split(b" ", 1) for line in self.noted.split(b"\n") if b" " in line)
        setup = code = None
        if _READY not in notes and stop != "abandoned":
            setup = notes.get(_FAILED, b"the run ended before its jail was ready").decode("utf-8", "replace")
        if stop == "exit":
            code = None if self.status is None else os.waitstatus_to_exitcode(self.status)
            stop = self._disk() or stop
        output = base64.b64encode(self.tail[-self.limits["output_bytes"] :]).decode()
        return {
            "stop": stop, "code": code, "seconds": round(seconds, 4), "peak": self.peak, "left": left,
            "total": self.total, "output": output, "setup": setup,
        }  # fmt: skip


# ---- the jailed side -----------------------------------------------------------------------------


def _first_process(
    job: Jailed, ruleset: int | None, execute: Execute, output: int, notes: int, process_base: int
) -> None:
    """In the forked child: become the run. Never returns."""
    try:
        close_all_but(output, notes, ruleset)
        kernel.check(kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL), "pdeathsig")
        shared_memory = False
        if job.namespaces:
            kernel.unshare(kernel.NEW_MOUNTS)
            shared_memory = kernel.private_mounts()
        _lock_in(job, ruleset, output, notes, shared_memory, process_base)
    except (OSError, ValueError) as error:
        os.write(notes, _FAILED + b" " + str(error).replace("\n", " ").encode() + b"\n")
        os._exit(1)
    code = 1
    try:
        os.write(notes, _READY + b" 1\n")
        os.close(notes)
        code = execute(job)
    finally:
        os._exit(code & 255)


def _lock_in(
    job: Jailed, ruleset: int | None, output: int, notes: int, shared_memory: bool, process_base: int
) -> None:
    """Give up every right that the run does not need; each step needs the rights that the next gives up."""
    os.setsid()
    null = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((null, 0), (output, 1), (output, 2)):
        os.dup2(source, target)
    close_all_but(notes, ruleset)
    os.set_inheritable(notes, False)
    os.chdir(job.workspace)
    os.umask(0o077)
    if ruleset is not None and job.namespaces:  # fresh mounts, so not yet in the rules
        landlock.allow(ruleset, ["/proc"], landlock.READ)
        landlock.allow(ruleset, ["/dev/shm"] if shared_memory else [], landlock.WRITE)
    if job.uid is not None:
        kernel.become(job.uid)
    elif ruleset is not None:
        kernel.set_capabilities(0)
    limits_os.set_rlimits(job.limits, process_base)
    kernel.prctl(kernel.PR_SET_DUMPABLE, 1)  # so that the guard may read the run's share of memory
    # changing user has cleared it
    kernel.check(kernel.prctl(kernel.PR_SET_PDEATHSIG, signal.SIGKILL), "pdeathsig")
    kernel.check(kernel.prctl(kernel.PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    if ruleset is not None:
        landlock.enter(ruleset)
        os.close(ruleset)
    if job.seccomp:
        seccomp.enter(**job.refused())
