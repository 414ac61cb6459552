"""The system calls that a run is refused: network, tracing, namespaces, shared memory, signals to others.

A filter is a list of small rules, compiled here to the kernel's BPF without a library. Numbers are from the
kernel's ``unistd_64.h`` (x86_64) and ``asm-generic/unistd.h`` (aarch64). 32-bit calls kill the process.
"""

from __future__ import annotations

import errno
import os
import platform
import struct

from . import kernel

_X86 = {
    "socket": 41, "connect": 42, "bind": 49, "listen": 50, "ptrace": 101, "process_vm_readv": 310,
    "process_vm_writev": 311, "mount": 165, "umount2": 166, "pivot_root": 155, "unshare": 272,
    "setns": 308, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323, "io_uring_setup": 425,
    "keyctl": 250, "add_key": 248, "request_key": 249, "kexec_load": 246, "init_module": 175,
    "finit_module": 313, "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "pidfd_getfd": 438,
    "open_by_handle_at": 304, "swapon": 167, "reboot": 169, "chroot": 161, "personality": 135,
    "setpriority": 141, "ioprio_set": 251, "sched_setattr": 314, "sched_setparam": 142,
    "sched_setscheduler": 144, "symlink": 88, "symlinkat": 266, "mknod": 133, "mknodat": 259,
    "memfd_create": 319, "memfd_secret": 447, "process_madvise": 440, "kcmp": 312, "syslog": 103,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsmount": 432, "mount_setattr": 442,
    "sendmsg": 46, "sendmmsg": 307,  # they can address any socket, and hide open files in one
}  # fmt: skip
_ARM = {
    "socket": 198, "connect": 203, "bind": 200, "listen": 201, "ptrace": 117, "process_vm_readv": 270,
    "process_vm_writev": 271, "mount": 40, "umount2": 39, "pivot_root": 41, "unshare": 97, "setns": 268,
    "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "io_uring_setup": 425, "keyctl": 219,
    "add_key": 217, "request_key": 218, "kexec_load": 104, "init_module": 105, "finit_module": 273,
    "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "pidfd_getfd": 438,
    "open_by_handle_at": 265, "swapon": 224, "reboot": 142, "chroot": 51, "personality": 92,
    "setpriority": 140, "ioprio_set": 30, "sched_setattr": 274, "sched_setparam": 118,
    "sched_setscheduler": 119, "symlinkat": 36, "mknodat": 33, "memfd_create": 279, "memfd_secret": 447,
    "process_madvise": 440, "kcmp": 272, "syslog": 116, "open_tree": 428, "move_mount": 429,
    "fsopen": 430, "fsmount": 432, "mount_setattr": 442, "sendmsg": 211, "sendmmsg": 269,
}  # fmt: skip
# Landlock does not guard modes, owners, times and extended attributes. Answering "done" without doing it
# keeps the host unchanged and honest code such as shutil.copy2 working.
_X86_PRETEND = [
    90,
    91,
    268,
    452,
    92,
    93,
    94,
    260,
    132,
    235,
    261,
    280,
    188,
    189,
    190,
    197,
    198,
    199,
    463,
    466,
    469,
]
_ARM_PRETEND = [52, 53, 452, 54, 55, 88, 5, 6, 7, 14, 15, 16, 463, 466, 469]
# rt_sigqueueinfo, tkill, rt_tgsigqueueinfo, pidfd_send_signal
_X86_SIGNALS, _ARM_SIGNALS = [129, 200, 297, 424], [138, 130, 240, 424]

_SPECIAL = {
    "x86_64": {"arch": 0xC000003E, "clone": 56, "clone3": 435, "prctl": 157, "prlimit64": 302, "fcntl": 72,
               "ioctl": 16, "kill": 62, "tgkill": 234, "truncate": 76, "sched_setaffinity": 203,
               "socketpair": 53, "close_range": 436},
    "aarch64": {"arch": 0xC00000B7, "clone": 220, "clone3": 435, "prctl": 167, "prlimit64": 261, "fcntl": 25,
                "ioctl": 29, "kill": 129, "tgkill": 131, "truncate": 45, "sched_setaffinity": 122,
                "socketpair": 199, "close_range": 436},
}  # fmt: skip

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE, _NO_SUCH_CALL, _PRETEND = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ERRNO
# offsets into struct seccomp_data (low words, little endian)
_NUMBER, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32

_CLONE_FILES, _CLONE_THREAD, _CLOSE_RANGE_UNSHARE = 0x400, 0x10000, 2
_AF_UNIX, _SOCK_DGRAM = 1, 2  # of all kinds that a pair can be made of, only datagrams have this bit

Instruction = tuple[int, int, int, int]


def supported() -> bool:
    """Return whether the system-call table of this processor is known."""
    return kernel.LINUX and platform.machine() in _SPECIAL


def _answer(number: int, action: int) -> list[Instruction]:
    return [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, action)]


def _guarded(
    number: int, offset: int, tests: list[tuple[int, int]], *, unless: bool = False
) -> list[Instruction]:
    """Refuse call ``number`` when one of ``tests`` holds for its argument (``unless``: when none holds)."""
    hit, miss = (_ALLOW, _REFUSE) if unless else (_REFUSE, _ALLOW)
    body: list[Instruction] = [(_LOAD, 0, 0, offset)]
    for position, (test, value) in enumerate(tests):
        body.append((test, len(tests) - position, 0, value))  # jump over the other tests and the "miss"
    body += [(_RETURN, 0, 0, miss), (_RETURN, 0, 0, hit)]
    return [(_EQUAL, 0, len(body), number), *body]


def _clone(number: int) -> list[Instruction]:
    """Refuse new namespaces, and threads with open files of their own, which the guard could not see."""
    body = [
        (_LOAD, 0, 0, _ARG0), (_ANY_BIT, 3, 0, kernel.NAMESPACE_BITS), (_ANY_BIT, 0, 1, _CLONE_THREAD),
        (_ANY_BIT, 0, 1, _CLONE_FILES), (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE),
    ]  # fmt: skip
    return [(_EQUAL, 0, len(body), number), *body]


def _socketpair(number: int) -> list[Instruction]:
    """Refuse all but local streams: a datagram can be sent to any other socket, also without connecting."""
    body = [
        (_LOAD, 0, 0, _ARG0), (_EQUAL, 0, 3, _AF_UNIX), (_LOAD, 0, 0, _ARG1), (_ANY_BIT, 1, 0, _SOCK_DGRAM),
        (_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE),
    ]  # fmt: skip
    return [(_EQUAL, 0, len(body), number), *body]


def program(*, signals: bool, truncation: bool) -> bytes:
    """Return the filter as the kernel's BPF code, eight bytes an instruction.

    Args:
        signals: Also refuse signals to any other process (for kernels whose Landlock does not, ABI < 6).
        truncation: Also refuse ``truncate`` by path (ABI < 3).
    """
    x86 = platform.machine() == "x86_64"
    number = _SPECIAL[platform.machine()]
    refused = list((_X86 if x86 else _ARM).values())
    code: list[Instruction] = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, number["arch"]), (_RETURN, 0, 0, _KILL)]
    code += [(_LOAD, 0, 0, _NUMBER)]
    if x86:
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)]  # the x32 calls
    code += _clone(number["clone"])
    code += _answer(number["clone3"], _NO_SUCH_CALL)  # its flags cannot be read; libc falls back to clone
    code += _guarded(number["prctl"], _ARG0, [(_EQUAL, kernel.PR_SET_DUMPABLE)])  # stay visible to the guard
    # another process of the same user must keep its limits and its cores
    code += _guarded(number["prlimit64"], _ARG0, [(_EQUAL, 0)], unless=True)
    code += _guarded(number["sched_setaffinity"], _ARG0, [(_EQUAL, 0)], unless=True)
    code += _socketpair(number["socketpair"])
    code += _guarded(number["close_range"], _ARG2, [(_ANY_BIT, _CLOSE_RANGE_UNSHARE)])
    if signals:
        refused += _X86_SIGNALS if x86 else _ARM_SIGNALS
        # to itself and to its own group, which `setsid` made
        code += _guarded(number["kill"], _ARG0, [(_EQUAL, os.getpid()), (_EQUAL, 0)], unless=True)
        code += _guarded(number["tgkill"], _ARG0, [(_EQUAL, os.getpid())], unless=True)  # abort() still works
        code += _guarded(
            number["fcntl"], _ARG1, [(_EQUAL, 8), (_EQUAL, 10), (_EQUAL, 15)]
        )  # F_SETOWN, F_SETSIG
        code += _guarded(number["ioctl"], _ARG1, [(_EQUAL, 0x8901), (_EQUAL, 0x8902)])
    if truncation:
        refused.append(number["truncate"])
    for call in refused:
        code += _answer(call, _REFUSE)
    for call in _X86_PRETEND if x86 else _ARM_PRETEND:
        code += _answer(call, _PRETEND)
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def enter(*, signals: bool, truncation: bool) -> None:
    """Install the filter for this process and all that it will start. Cannot be undone."""
    kernel.install_filter(program(signals=signals, truncation=truncation))
