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
        names = (name for name, _, _ in layers(Tier("", False, False, False, False, "")))
        return [(name, "off", "no script is run") for name in names]
    apart = tier.namespaces or tier.bubblewrap
    rows = [
        _file_rules(tier),
        ("system-call filter", tier.seccomp,
         "no socket, tracing, mount, link, device or memory outside the limits can be asked of the kernel"
         if tier.seccomp else "a script can ask the kernel for anything that its user may"),
        ("namespaces", apart,
         "a script has its own list of processes, network and inter-process communication"
         if apart else "a script sees the list of all processes"),
        ("throw-away user", tier.own_user,
         "a script runs as a user that owns nothing else" if tier.own_user
         else "a script runs as the user who started this"),
        ("rlimits", kernel.LINUX,
         "the kernel bounds address space, CPU time, size of a file, open files and processes"
         if kernel.LINUX else "only time is limited"),
        ("watchdog and sweep", kernel.LINUX,
         "time, memory, disk, files, processes and output are watched, and nothing of a run outlives it"
         if kernel.LINUX else "a script may leave processes behind"),
        ("network block", tier.seccomp,
         "no socket can be opened, so a script has no network" if tier.seccomp
         else "a script reaches the network"),
    ]  # fmt: skip
    return [(name, "on" if state else "off", meaning) for name, state, meaning in rows]


def _file_rules(tier: Tier) -> tuple[str, bool, str]:
    means = "a script reads the interpreter, the libraries without bundled data, and its task's data; "
    means += "it writes its workspace only"
    if tier.landlock:
        return "file rules", True, f"Landlock {landlock.abi()}: {means}"
    if tier.bubblewrap:
        return "file rules", True, f"bubblewrap's mounts: {means}"
    return "file rules", False, "a script can read labels and write wherever its user can"


def gaps(tier: Tier) -> list[str]:
    """Return what is *not* guaranteed while ``tier`` is in use on this machine, a sentence each."""
    found = ["same kernel: a hole in it opens every tier, so keep secrets off a machine with hostile models"]
    if not tier.bubblewrap:
        found.append(
            "where a script knows or guesses a path, it learns whether the file exists, its size and times, "
            "never its contents"
        )
    if not (tier.namespaces or tier.bubblewrap):
        found.append("the list of all processes, with their command lines, is visible to scripts")
    found.append("workers of a script get copies of PyTorch's tensors, not memory shared through a queue")
    if not tier.namespaces:
        found.append("share_memory_() of PyTorch and SharedMemory fail in scripts: there is no /dev/shm")
    if tier.bubblewrap:
        found.append(
            "a script can read the data (not the hidden labels) of tasks that its server ran before: run two "
            "tasks that split the same rows apart"
        )
        found.append(
            "a task's data folder that is new to a server costs a start of that server, seconds each"
        )
        found.append(_NO_SIGNALS)
    if not tier.own_user and (is_root() or not tier.namespaces):
        found.append(
            "the kernel's limit on processes is approximate: it does not bind root, and counts all that the "
            "user runs; the watchdog counts exactly, but only now and then"
        )
    found.append("memory, disk and processes are looked at some twenty times a second: short peaks pass")
    if tier.landlock:
        found += _old_landlock(landlock.abi(), signals_guarded=tier.namespaces or tier.own_user)
    found.append("no GPU: it is hidden from scripts")
    found.append("no protection against side channels: scripts share cores and caches, and can measure time")
    return found


def _old_landlock(version: int, *, signals_guarded: bool) -> list[str]:
    found = []
    if version < 2:
        found.append("Landlock 1: a script cannot move a file from one folder of its workspace to another")
    if version < 3:
        found.append("Landlock below 3: a script cannot cut a file short by its path (os.truncate)")
    if version < 6 and not signals_guarded:
        found.append(f"Landlock below 6: {_NO_SIGNALS}")
    return found


def cures(chosen: str | None, failed: dict[str, str]) -> list[str]:
    """Return what to do for a stronger tier than ``chosen``, or for any at all, an imperative sentence each.

    Args:
        chosen: Name of the tier in use, None when no tier works.
        failed: Tier to reason, as the probe found it.
    """
    if not kernel.LINUX:
        return [_elsewhere()]
    reasons = " ".join(failed.values())
    found = []
    if any(why.startswith(OURS) for why in failed.values()):
        found.append("free disk and memory, see why a tier could not be tried, and start again")
    if "no Landlock" in reasons:
        found.append(
            "use Linux 5.13 or later with Landlock switched on (a kernel started with lsm=landlock,...)"
        )
    if "bwrap is missing" in reasons and chosen is None:
        found.append("install the package bubblewrap (apt-get install bubblewrap, dnf install bubblewrap)")
    setting = bubblewrap.who_refuses()
    refused = "unshare" in reasons or "user namespaces are refused" in reasons
    if chosen not in ("T3+uid", "T3") and refused:
        found.append(f"allow user namespaces on this machine or in this container{setting}")
    if "needs root" in reasons:
        found.append("run as root, as on Colab, to give every run a throw-away user")
    if chosen is None:
        found.append("or use another machine with Linux 5.13 or later (WSL2 on Windows, a VM on macOS)")
        found.append("for scripts that you trust, give tier='T1' with allow_unsafe=True")
    else:
        found.append("for hostile models, use a virtual machine that holds nothing else")
    return found


def _elsewhere() -> str:
    trust = "; for scripts that you trust, give tier='T0' with allow_unsafe=True"
    if platform.system() == "Darwin":
        return f"run in a Linux virtual machine (macOS itself has nothing that the kit relies on){trust}"
    if platform.system() == "Windows":
        return f"run inside WSL2 (wsl --install; Windows itself has nothing that the kit relies on){trust}"
    return f"run on Linux 5.13 or later{trust}"
