"""What the isolation of a tier means on this machine, in a user's words: layers, gaps, how to get more."""

from __future__ import annotations

import os
import platform

from . import bubblewrap, kernel, landlock
from .tiers import Tier

OURS = "could not be tried"  # starts the reason for a tier that failed through us, not through the machine
_NO_SIGNALS = (
    "a script cannot send signals to processes that it started: workers have to end by themselves, as those "
    "of pools and loaders do"
)
# layer, whether a tier has it here, what that means, what it means that it is missing
_LAYERS = (
    ("file rules", lambda tier: tier.landlock or tier.bubblewrap,
     "{walls}: a script reads the interpreter, the libraries without bundled data, and its task's data; it "
     "writes its workspace only", "a script can read labels and write wherever its user can"),
    ("system-call filter", lambda tier: tier.seccomp,
     "no socket, tracing, mount, link, device or memory outside the limits can be asked of the kernel",
     "a script can ask the kernel for anything that its user may"),
    ("namespaces", lambda tier: tier.namespaces or tier.bubblewrap,
     "a script has its own list of processes, network and inter-process communication",
     "a script sees the list of all processes"),
    ("throw-away user", lambda tier: tier.own_user, "a script runs as a user that owns nothing else",
     "a script runs as the user who started this"),
    ("rlimits", lambda tier: kernel.LINUX,
     "the kernel bounds address space, CPU time, size of a file, open files and processes",
     "only time is limited"),
    ("watchdog and sweep", lambda tier: kernel.LINUX,
     "time, memory, disk, files, processes and output are watched, and nothing of a run outlives it",
     "a script may leave processes behind"),
    ("network block", lambda tier: tier.seccomp, "no socket can be opened, so a script has no network",
     "a script reaches the network"),
)  # fmt: skip
# for which tiers something is not guaranteed here, and what
_GAPS = (
    (lambda tier: True,
     "same kernel: a hole in it opens every tier, so keep secrets off a machine with hostile models"),
    (lambda tier: not tier.bubblewrap,
     "where a script knows or guesses a path, it learns whether the file exists, its size and times, never "
     "its contents"),
    (lambda tier: not (tier.namespaces or tier.bubblewrap),
     "the list of all processes, with their command lines, is visible to scripts"),
    (lambda tier: True,
     "workers of a script get copies of PyTorch's tensors, not memory shared through a queue"),
    (lambda tier: not tier.namespaces,
     "share_memory_() of PyTorch and SharedMemory fail in scripts: there is no /dev/shm"),
    (lambda tier: tier.bubblewrap,
     "a script can read the data (not the hidden labels) of tasks that its server ran before: run two tasks "
     "that split the same rows apart"),
    (lambda tier: tier.bubblewrap,
     "a task's data folder that is new to a server costs a start of that server, seconds each"),
    (lambda tier: tier.bubblewrap, _NO_SIGNALS),
    (lambda tier: not tier.own_user and (is_root() or not tier.namespaces),
     "the kernel's limit on processes is approximate: it does not bind root, and counts all that the user "
     "runs; the watchdog counts exactly, but only now and then"),
    (lambda tier: True,
     "memory, disk and processes are looked at some twenty times a second: short peaks pass"),
    (lambda tier: tier.landlock and landlock.abi() < 2,
     "Landlock 1: a script cannot move a file from one folder of its workspace to another"),
    (lambda tier: tier.landlock and landlock.abi() < 3,
     "Landlock below 3: a script cannot cut a file short by its path (os.truncate)"),
    (lambda tier: tier.landlock and landlock.abi() < 6 and not (tier.namespaces or tier.own_user),
     f"Landlock below 6: {_NO_SIGNALS}"),
    (lambda tier: True, "no GPU: it is hidden from scripts"),
    (lambda tier: True,
     "no protection against side channels: scripts share cores and caches, and can measure time"),
)  # fmt: skip
_ELSEWHERE = {
    "Darwin": "run in a Linux virtual machine (macOS itself has nothing that the kit relies on)",
    "Windows": "run inside WSL2 (wsl --install; Windows itself has nothing that the kit relies on)",
}


def is_root() -> bool:
    """Return whether this process runs as root; never on Windows, where the question has no meaning."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def layers(tier: Tier | None) -> list[tuple[str, str, str]]:
    """Return (layer, ``on`` or ``off``, what that means) for the tier in use; None: no script is run.

    Example:
        >>> [(name, state) for name, state, _ in layers(None)][0]
        ('file rules', 'off')
    """
    if tier is None:
        return [(name, "off", "no script is run") for name, *_ in _LAYERS]
    walls = f"Landlock {landlock.abi()}" if tier.landlock else "bubblewrap's mounts"
    return [
        (name, "on", on.format(walls=walls)) if has(tier) else (name, "off", off)
        for name, has, on, off in _LAYERS
    ]


def gaps(tier: Tier) -> list[str]:
    """Return what is *not* guaranteed while ``tier`` is in use on this machine, a sentence each."""
    return [text for holds, text in _GAPS if holds(tier)]


def cures(chosen: str | None, failed: dict[str, str]) -> list[str]:
    """Return what to do for a stronger tier than ``chosen``, or for any at all, an imperative sentence each.

    Args:
        chosen: Name of the tier in use, None when no tier works.
        failed: Tier to reason, as the probe found it.
    """
    if not kernel.LINUX:
        place = _ELSEWHERE.get(platform.system(), "run on Linux 5.13 or later")
        return [f"{place}; for scripts that you trust, give tier='T0' with allow_unsafe=True"]
    reasons, nothing = " ".join(failed.values()), chosen is None
    refused = "unshare" in reasons or "user namespaces are refused" in reasons
    rows = (
        (any(why.startswith(OURS) for why in failed.values()),
         "free disk and memory, see why a tier could not be tried, and start again"),
        ("no Landlock" in reasons,
         "use Linux 5.13 or later with Landlock switched on (a kernel started with lsm=landlock,...)"),
        (nothing and "bwrap is missing" in reasons,
         "install the package bubblewrap (apt-get install bubblewrap, dnf install bubblewrap)"),
        (refused and chosen not in ("T3+uid", "T3"),
         f"allow user namespaces on this machine or in this container{bubblewrap.who_refuses()}"),
        ("needs root" in reasons, "run as root, as on Colab, to give every run a throw-away user"),
        (nothing, "or use another machine with Linux 5.13 or later (WSL2 on Windows, a VM on macOS)"),
        (nothing, "for scripts that you trust, give tier='T1' with allow_unsafe=True"),
        (not nothing, "for hostile models, use a virtual machine that holds nothing else"),
    )  # fmt: skip
    return [text for holds, text in rows if holds]
