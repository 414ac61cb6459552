"""The system calls that a run is refused: network, tracing, namespaces, shared memory, signals to others.

A filter is a list of small rules, compiled here to the kernel's BPF without a library. Numbers are from the
kernel's ``unistd_64.h`` (x86_64) and ``asm-generic/unistd.h`` (aarch64). 32-bit calls kill the process.
"""

from __future__ import annotations

import errno
import functools
import os
import platform
import struct

from . import kernel

_MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}  # in the order of the numbers below
_REFUSED = {  # x86_64, aarch64; sendmsg can address any socket, and hide open files in one
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "ptrace": (101, 117),
    "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "mount": (165, 40), "umount2": (166, 39),
    "pivot_root": (155, 41), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "io_uring_setup": (425, 425),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "kexec_load": (246, 104),
    "init_module": (175, 105), "finit_module": (313, 273), "shmget": (29, 194), "msgget": (68, 186),
    "semget": (64, 190), "mq_open": (240, 180), "pidfd_getfd": (438, 438), "open_by_handle_at": (304, 265),
    "swapon": (167, 224), "reboot": (169, 142), "chroot": (161, 51), "personality": (135, 92),
    "setpriority": (141, 140), "ioprio_set": (251, 30), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118), "sched_setscheduler": (144, 119), "symlink": (88, None),
    "symlinkat": (266, 36), "mknod": (133, None), "mknodat": (259, 33), "memfd_create": (319, 279),
    "memfd_secret": (447, 447), "process_madvise": (440, 440), "kcmp": (312, 272), "syslog": (103, 116),
    "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430), "fsmount": (432, 432),
    "mount_setattr": (442, 442), "sendmsg": (46, 211), "sendmmsg": (307, 269),
}  # fmt: skip
_ASKED = {  # refused or not by their arguments
    "clone": (56, 220), "clone3": (435, 435), "prctl": (157, 167), "prlimit64": (302, 261), "fcntl": (72, 25),
    "ioctl": (16, 29), "kill": (62, 129), "tgkill": (234, 131), "truncate": (76, 45),
    "sched_setaffinity": (203, 122), "socketpair": (53, 199), "close_range": (436, 436),
}  # fmt: skip
# Landlock does not guard modes, owners, times and extended attributes. Answering "done" without doing it
# keeps the host unchanged and honest code such as shutil.copy2 working.
_PRETENDED = (
    (90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199, 463, 466, 469),
    (52, 53, 452, 54, 55, 88, 5, 6, 7, 14, 15, 16, 463, 466, 469),
)
# rt_sigqueueinfo, tkill, rt_tgsigqueueinfo, pidfd_send_signal
_SIGNALS = ((129, 200, 297, 424), (138, 130, 240, 424))

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_REFUSE, _NO_SUCH_CALL, _PRETEND = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS, _ERRNO
# offsets into struct seccomp_data (low words, little endian)
_NUMBER, _ARCH, _ARG0, _ARG1, _ARG2 = 0, 4, 16, 24, 32

_CLONE_FILES, _CLONE_THREAD, _CLOSE_RANGE_UNSHARE = 0x400, 0x10000, 2
_AF_UNIX, _SOCK_DGRAM = 1, 2  # of all kinds that a pair can be made of, only datagrams have this bit
_F_SETOWN, _F_SETSIG, _F_SETOWN_EX, _FIOSETOWN, _SIOCSPGRP = 8, 10, 15, 0x8901, 0x8902

Rules = list[tuple[int, int, int, int]]  # instructions of BPF
_BUT_HITS = [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _REFUSE)]  # a test that holds jumps to the second
_ONLY_HITS = [(_RETURN, 0, 0, _REFUSE), (_RETURN, 0, 0, _ALLOW)]
# new namespaces, and threads with open files of their own, which the guard could not see
_CLONE = [(_LOAD, 0, 0, _ARG0), (_ANY_BIT, 3, 0, kernel.NAMESPACE_BITS), (_ANY_BIT, 0, 1, _CLONE_THREAD),
          (_ANY_BIT, 0, 1, _CLONE_FILES), *_BUT_HITS]  # fmt: skip
# all but local streams: a datagram can be sent to any other socket, also without connecting
_SOCKETPAIR = [(_LOAD, 0, 0, _ARG0), (_EQUAL, 0, 3, _AF_UNIX), (_LOAD, 0, 0, _ARG1),
               (_ANY_BIT, 1, 0, _SOCK_DGRAM), *_BUT_HITS]  # fmt: skip


def supported() -> bool:
    """Return whether the system-call table of this processor is known."""
    return kernel.LINUX and platform.machine() in _MACHINES


def _for(number: int, body: Rules) -> Rules:
    """Return the rules of one call; the others jump over them."""
    return [(_EQUAL, 0, len(body), number), *body]


def _guarded(number: int, offset: int, *values: int, test: int = _EQUAL, unless: bool = False) -> Rules:
    """Refuse a call whose argument is one of ``values`` (``unless``: none); ``test`` may ask for a bit."""
    body: Rules = [(_LOAD, 0, 0, offset)]
    for position, value in enumerate(values):
        body.append((test, len(values) - position, 0, value))  # jump over the other tests and the "miss"
    return _for(number, body + (_ONLY_HITS if unless else _BUT_HITS))


def program(*, signals: bool, truncation: bool) -> bytes:
    """Return the filter as the kernel's BPF code, eight bytes an instruction.

    Args:
        signals: Also refuse signals to any other process (for kernels whose Landlock does not, ABI < 6).
        truncation: Also refuse ``truncate`` by path (ABI < 3).
    """
    return _program(truncation, os.getpid() if signals else None)


@functools.lru_cache(maxsize=4)
def _program(truncation: bool, signals_from: int | None) -> bytes:
    column = list(_MACHINES).index(platform.machine())
    number = {name: numbers[column] for name, numbers in _ASKED.items()}
    refused = [numbers[column] for numbers in _REFUSED.values() if numbers[column] is not None]
    code: Rules = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, _MACHINES[platform.machine()])]
    code += [(_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    if platform.machine() == "x86_64":
        code += [(_AT_LEAST, 0, 1, 0x40000000), (_RETURN, 0, 0, _REFUSE)]  # the x32 calls
    code += _for(number["clone"], _CLONE)
    # the flags of clone3 cannot be read; libc falls back to clone
    code += _for(number["clone3"], [(_RETURN, 0, 0, _NO_SUCH_CALL)])
    code += _guarded(number["prctl"], _ARG0, kernel.PR_SET_DUMPABLE)  # stay visible to the guard
    # another process of the same user must keep its limits and its cores
    code += _guarded(number["prlimit64"], _ARG0, 0, unless=True)
    code += _guarded(number["sched_setaffinity"], _ARG0, 0, unless=True)
    code += _for(number["socketpair"], _SOCKETPAIR)
    code += _guarded(number["close_range"], _ARG2, _CLOSE_RANGE_UNSHARE, test=_ANY_BIT)
    if signals_from is not None:
        refused += _SIGNALS[column]
        # to itself and to its own group, which `setsid` made
        code += _guarded(number["kill"], _ARG0, signals_from, 0, unless=True)
        code += _guarded(number["tgkill"], _ARG0, signals_from, unless=True)  # abort() still works
        code += _guarded(number["fcntl"], _ARG1, _F_SETOWN, _F_SETSIG, _F_SETOWN_EX)
        code += _guarded(number["ioctl"], _ARG1, _FIOSETOWN, _SIOCSPGRP)
    if truncation:
        refused.append(number["truncate"])
    answers = [(call, _REFUSE) for call in refused] + [(call, _PRETEND) for call in _PRETENDED[column]]
    for call, answer in answers:
        code += _for(call, [(_RETURN, 0, 0, answer)])
    code.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in code)


def enter(*, signals: bool, truncation: bool) -> None:
    """Install the filter for this process and all that it will start. Cannot be undone."""
    kernel.install_filter(program(signals=signals, truncation=truncation))
