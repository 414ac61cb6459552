"""The few Linux system calls that Python does not wrap: process flags, capabilities, namespaces, mounts."""

from __future__ import annotations

import ctypes
import os
import struct
import sys

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_SECCOMP = 1, 4, 8, 22
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 36, 38, 47
CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH = 1, 2

NEW_MOUNTS, NEW_UTS, NEW_IPC = 0x00020000, 0x04000000, 0x08000000
NEW_USER, NEW_PIDS, NEW_NET = 0x10000000, 0x20000000, 0x40000000
NAMESPACE_BITS = 0x7E020000  # every CLONE_NEW* bit that clone(2) takes, cgroups included

_CAPABILITY_HEADER = struct.pack("=Ii", 0x20080522, 0)  # version 3, this process
_MS_NOSUID_NODEV_NOEXEC, _MS_REC_PRIVATE = 2 | 4 | 8, 0x4000 | 0x40000
_MADV_COLLAPSE = 25

LINUX = sys.platform == "linux"
_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def syscall(number: int, *args: int | bytes) -> int:
    """Return the result of a raw system call, or minus the errno when it failed; bytes are pointed at."""
    words = [a if isinstance(a, bytes) else ctypes.c_long(a) for a in args]
    result = _libc.syscall(ctypes.c_long(number), *words)
    return result if result >= 0 else -ctypes.get_errno()


def check(result: int, what: str) -> None:
    """Raise `OSError` naming ``what`` when a C call did not return zero."""
    if result != 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def prctl(option: int, a: int = 0, b: int = 0, c: int = 0, d: int = 0) -> int:
    """Return what ``prctl(2)`` returns: zero for the setters used here, -1 on failure."""
    return _libc.prctl(option, *[ctypes.c_ulong(x) for x in (a, b, c, d)])


def install_filter(program: bytes) -> None:
    """Install a seccomp program for this process and all that it will start. Cannot be undone."""
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    check(prctl(PR_SET_NO_NEW_PRIVS, 1), "no_new_privs")
    check(_libc.prctl(PR_SET_SECCOMP, ctypes.c_ulong(2), header, 0, 0), "seccomp")


def _permitted_capabilities() -> int:
    data = ctypes.create_string_buffer(24)
    check(_libc.capget(ctypes.create_string_buffer(_CAPABILITY_HEADER, 8), data), "capget")
    words = struct.unpack("=6I", data.raw)
    return words[1] | words[4] << 32


def set_capabilities(mask: int) -> None:
    """Keep exactly the capabilities in ``mask`` (bit i = capability i), also across ``execve``."""
    low, high = mask & 0xFFFFFFFF, mask >> 32
    data = ctypes.create_string_buffer(struct.pack("=6I", low, low, low, high, high, high), 24)
    check(_libc.capset(ctypes.create_string_buffer(_CAPABILITY_HEADER, 8), data), "capset")
    for bit in range(mask.bit_length()):
        if mask >> bit & 1:
            check(prctl(PR_CAP_AMBIENT, 2, bit), "ambient capability")


def become(uid: int) -> None:
    """Turn from root into the throw-away user ``uid`` for good.

    One right is kept: to *read* files whatever their mode, because the interpreter and the data often lie
    below a home folder of mode 0700. It does not widen what a run may read: Landlock decides that.
    """
    check(prctl(PR_SET_KEEPCAPS, 1), "keepcaps")
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    have = _permitted_capabilities()
    set_capabilities(next((1 << c for c in (CAP_DAC_READ_SEARCH, CAP_DAC_OVERRIDE) if have >> c & 1), 0))


def unshare(flags: int) -> None:
    """Leave the namespaces in ``flags`` and enter fresh ones."""
    check(_libc.unshare(flags), "unshare")


def map_own_ids(uid: int, gid: int) -> None:
    """Map this user, and nobody else, into the user namespace just made."""
    for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as handle:
            handle.write(text)


def _mount(kind: str, target: str, flags: int, options: str = "") -> int:
    words = (kind.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    return _libc.mount(*words)


def private_mounts() -> bool:
    """Mount a ``/proc`` of this process namespace only; return whether ``/dev/shm`` is private too."""
    check(_mount("none", "/", _MS_REC_PRIVATE), "make mounts private")
    check(_mount("proc", "/proc", _MS_NOSUID_NODEV_NOEXEC), "mount /proc")
    return _mount("tmpfs", "/dev/shm", _MS_NOSUID_NODEV_NOEXEC, "size=64m,nr_inodes=1k,mode=1777") == 0


def collapse_memory() -> None:
    """Put this process's own memory into huge pages where the kernel can (Linux 6.1).

    A fork copies one entry per page. With 2 MiB pages the fork of a warm server takes a third of the time;
    a page that the child writes is still copied in 4 KiB pieces.
    """
    huge = 2 << 20
    with open("/proc/self/maps") as handle:
        lines = [line.split() for line in handle]
    for fields in lines:
        if fields[1] == "rw-p" and (len(fields) == 5 or fields[5] == "[heap]"):
            start, end = (int(x, 16) for x in fields[0].split("-"))
            start, end = -(-start // huge) * huge, end // huge * huge
            if end > start:  # a refusal only costs speed
                _libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_COLLAPSE)
