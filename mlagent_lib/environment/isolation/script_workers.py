"""Workers of a script (pools, managers, loaders of data) without what a run is refused.

Python keeps the locks of processes in ``/dev/shm`` and finds managers by a named socket; PyTorch hands over
tensors by both. They reach beyond the run, so they stay closed, and workers get what every run has: memory
that forks share, files of the workspace, and pipes, which a process opens below ``/proc`` where they belong
to its own run. A tensor is copied to its reader, not shared with it. No script gains a right by this.

Only the standard library is imported: a process that a script spawns, not forks, runs this text first.
"""

from __future__ import annotations

import _multiprocessing
import contextlib
import ctypes
import errno
import functools
import importlib
import importlib.machinery
import mmap
import multiprocessing.connection
import multiprocessing.synchronize
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable
from types import ModuleType

_ANSWER_SECONDS = 20.0  # until a listener has to accept
_END_SECONDS = 2.0  # that a worker gets which cannot be told to end
_SEMAPHORE_BYTES = 64  # more than C's sem_t takes anywhere
_CALLER = struct.Struct("=3i")  # who calls, and by which two of its descriptors
_TEXT = globals().get("_TEXT") or __loader__.get_source(__name__)  # a spawned process is given it


def install() -> None:
    """Make workers work in this process and all that it forks or spawns, where something is refused."""
    changes = {"connection": _by_pipes, "context": _no_fork_server, "spawn": _with_this_text}
    try:
        _multiprocessing.SemLock(1, 1, 1, f"/mlagent-{os.getpid()}", True)
    except OSError:
        _multiprocessing.SemLock, _multiprocessing.sem_unlink = SemLock, _unlink
        # arrays lie in the folder for temporary files
        changes["heap"] = lambda heap: setattr(heap.Arena, "_dir_candidates", [])
        changes["synchronize"] = lambda synchronize: setattr(synchronize, "sem_unlink", _unlink)
    with contextlib.suppress(PermissionError):
        socket.socket(socket.AF_UNIX).close()
        return
    if _signals_refused():
        changes |= {"popen_fork": _wait_for_end, "pool": _leave_last_message}
    for name, change in changes.items():
        change(importlib.import_module(f"multiprocessing.{name}"))
    later = {f"multiprocess.{name}": change for name, change in changes.items()}  # a copy, of other people
    after_import(later | {"torch.multiprocessing.reductions": _copy_tensors})


def after_import(changes: dict[str, Callable]) -> None:
    """Have modules changed, each by its function, as soon as they are loaded; at once where they are."""
    for name in changes.keys() & sys.modules.keys():
        changes.pop(name)(sys.modules[name])
    sys.meta_path.insert(0, _AfterImport(changes))


class _AfterImport:
    """A finder of modules that has some of them changed as soon as they are loaded."""

    def __init__(self, changes: dict[str, Callable]):
        self.changes = changes

    def find_spec(self, name: str, path=None, target=None):
        """Return where the module is, for those to be changed."""
        if name not in self.changes:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            load, change = spec.loader.exec_module, self.changes.pop(name)
            spec.loader.exec_module = lambda module: (load(module), change(module))
        return spec


# ---- starting and ending -------------------------------------------------------------------------


def _with_this_text(spawn: ModuleType) -> None:
    command = spawn.get_command_line

    def get_command_line(**words: object) -> list[str]:
        *first, program, last = command(**words)
        prelude = f"scope = {{'_TEXT': {_TEXT!r}}}; exec(scope['_TEXT'], scope); scope['install']()"
        return [*first, f"{prelude}\n{program}", last]

    spawn.get_command_line = get_command_line


def _no_fork_server(context: ModuleType) -> None:
    """Start a fresh process where a server with a named socket would fork one: the same to a script."""
    context.ForkServerProcess._Popen = staticmethod(context.SpawnProcess._Popen)


def _signals_refused() -> bool:
    """Return whether the filter of system calls refuses signals, as it does for a Landlock that does not."""
    descriptor = os.pidfd_open(os.getpid())
    try:
        signal.pidfd_send_signal(descriptor, 0)
        return False
    except PermissionError:
        return True
    finally:
        os.close(descriptor)


def _wait_for_end(popen_fork: ModuleType) -> None:
    """Give workers that cannot be told to end some seconds to end by themselves."""
    send = popen_fork.Popen._send_signal

    def send_signal(self, number: int) -> None:
        try:
            send(self, number)
        except PermissionError:
            if self.wait(timeout=_END_SECONDS) is None:
                raise

    popen_fork.Popen._send_signal = send_signal


def _leave_last_message(pool: ModuleType) -> None:
    """Let workers read that there is no more work; their pool would keep it from them before it ends them."""
    pool.Pool._help_stuff_finish = staticmethod(lambda *_: None)


# ---- locks ---------------------------------------------------------------------------------------


def _unlink(name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # its folder may have gone before
        os.unlink(name)


class SemLock(_multiprocessing.SemLock):
    """Python's own, over memory that forks share, or over a file for other processes.

    Python opens a semaphore by its name; one without a name it takes where it is told that it lies.
    """

    name = None  # the path of the file

    def __new__(cls, kind: int, value: int, maxvalue: int, name: str, unlink: bool):
        """Return a new semaphore."""
        place = None if unlink else multiprocessing.util.get_temp_dir() + name
        if place is not None:
            with open(place, "xb") as handle:
                handle.truncate(_SEMAPHORE_BYTES)
        lock = cls._rebuild(0, kind, maxvalue, place)
        if ctypes.CDLL(None, use_errno=True).sem_init(ctypes.c_void_p(lock.handle), 1, value):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return lock

    @classmethod
    def _rebuild(cls, handle: int, kind: int, maxvalue: int, name: str | None):
        if name is None:
            memory = mmap.mmap(-1, _SEMAPHORE_BYTES)
        else:
            with open(name, "r+b") as file:
                memory = mmap.mmap(file.fileno(), _SEMAPHORE_BYTES)
        address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        lock = super()._rebuild(address, kind, maxvalue, None)
        lock.name, lock._memory = name, memory
        return lock


# ---- connections ---------------------------------------------------------------------------------


def _by_pipes(connection: ModuleType) -> None:
    duplex = _duplex(connection.Connection)
    connection.SocketListener = functools.partial(_Listener, duplex)
    connection.SocketClient = functools.partial(_call, duplex)


def _duplex(kind: type) -> type:
    """Return a kind of connection that has two pipes where ``kind`` has a socket."""

    class Duplex(kind):
        def __init__(self, source: int, sink: int):
            super().__init__(source)
            self._sink = sink

        def _send(self, data):
            super()._send(data, lambda _, rest: os.write(self._sink, rest))

        def _close(self):
            os.close(self._sink)
            super()._close()

    return Duplex


class _Listener:
    """A pipe on which callers say who they are; the file at the address tells where it is."""

    def __init__(self, duplex: type, address: str, family: str, backlog: int = 1):
        if family != "AF_UNIX":
            raise PermissionError(errno.EPERM, "a script has no network")
        self._duplex, self._address, self._last_accepted = duplex, address, None
        self._calls = os.pipe()
        with open(address, "x") as handle:
            handle.write(f"/proc/{os.getpid()}/fd/{self._calls[1]}")
        self._unlink = multiprocessing.util.Finalize(self, _unlink, args=(address,), exitpriority=0)

    def accept(self):
        pid, source, sink = _CALLER.unpack(os.read(self._calls[0], _CALLER.size))
        source = os.open(f"/proc/{pid}/fd/{source}", os.O_RDONLY | os.O_CLOEXEC)
        sink = os.open(f"/proc/{pid}/fd/{sink}", os.O_WRONLY | os.O_CLOEXEC)
        os.write(sink, b"1")
        return self._duplex(source, sink)

    def close(self) -> None:
        for descriptor in self._calls:
            os.close(descriptor)
        self._unlink()


def _call(duplex: type, address: str):
    """Return a connection with the listener at ``address``, once that has accepted it."""
    with open(address) as handle:
        door = os.open(handle.read(), os.O_WRONLY | os.O_CLOEXEC)
    (their_source, sink), (source, their_sink) = os.pipe(), os.pipe()
    try:
        os.write(door, _CALLER.pack(os.getpid(), their_source, their_sink))
        answered = select.select([source], [], [], _ANSWER_SECONDS)[0]
    finally:
        for descriptor in (door, their_source, their_sink):
            os.close(descriptor)
    made = duplex(source, sink)
    if not answered or os.read(source, 1) != b"1":
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED), address)
    return made


# ---- tensors -------------------------------------------------------------------------------------


def _copy_tensors(reductions: ModuleType) -> None:
    """Have PyTorch write out the memory of tensors where it would hand it to a reader through a socket."""
    import torch

    share, reduce = reductions.reduce_storage, reductions.reduce_tensor
    read = functools.partial(torch.frombuffer, dtype=torch.uint8)

    class Memory:
        def __init__(self, storage):
            self.bytes = bytearray((ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr()))

        def __reduce__(self):
            return read, (self.bytes,)

    def reduce_storage(storage):
        inherited = multiprocessing.context.get_spawning_popen() is not None and storage.is_shared()
        if inherited or storage.device.type != "cpu":
            return share(storage)
        if not storage.nbytes():
            return type(storage), ()
        return torch.Tensor.untyped_storage, (Memory(storage),)

    def reduce_tensor(tensor):
        plain = type(tensor) is torch.Tensor and tensor.layout is torch.strided and not tensor.is_nested
        if plain and not tensor.is_shared() and tensor.untyped_storage().nbytes() > tensor.nbytes:
            tensor = tensor.detach().clone().requires_grad_(tensor.requires_grad)  # a view without the rest
        return reduce(tensor)

    def new_private(kind, size, *, device="cpu"):
        return kind(size, device=device)

    reductions.reduce_storage, reductions.reduce_tensor = reduce_storage, reduce_tensor
    reductions.init_reductions()
    torch.UntypedStorage._new_shared = classmethod(new_private)  # workers make batches in one
