"""Where a number comes from: versions, commit, machine and memory, for manifests and `mlagent doctor`."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path

import mlagent_lib

DISTRIBUTION = "mlagent-kit"
_PACKAGES = (
    *("torch", "transformers", "tokenizers", "trl", "peft", "datasets", "accelerate", "unsloth"),
    *("numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "gymnasium", "matplotlib", "papermill"),
)


def versions(packages: tuple[str, ...] = _PACKAGES) -> dict[str, str]:
    """Return the installed version of Python and of each package; a package that is absent is left out.

    Example:
        >>> sorted(versions(("numpy", "no-such-package")))
        ['numpy', 'python']
    """
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def pins() -> dict[str, str]:
    """Return the exact version of each dependency that this kit was made with; empty where not installed."""
    try:
        required = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found = (re.fullmatch(r"([A-Za-z0-9_.-]+)==([A-Za-z0-9_.+-]+)", line.strip()) for line in required)
    return {match[1]: match[2] for match in found if match}


def git_state() -> dict | None:
    """Return ``commit`` and ``dirty`` of the checkout that this package runs from, or None outside of one."""
    root = Path(mlagent_lib.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}
    command = ["git", "-C", str(root), "status", "--porcelain=v2", "--branch"]
    try:
        told = subprocess.run(command, capture_output=True, text=True, timeout=20, env=environment).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    head = re.match(r"# branch\.oid ([0-9a-f]+)\n", told)  # not there before the first commit
    return head and {"commit": head[1], "dirty": re.search(r"^[^#]", told, re.MULTILINE) is not None}


def device_name() -> str:
    """Return what tensors run on: the GPU if torch is loaded and sees one, else the CPU.

    torch is never imported here: work that did not load it ran on the CPU.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name()}"
    return f"cpu: {platform.machine()}, {usable_cpus()} cores"


def cpu_name() -> str:
    """Return what the processor calls itself, e.g. ``AMD EPYC 7R13``; else its architecture."""
    try:
        told = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        told = None
    return told[1] if told else platform.processor() or platform.machine()


def usable_cpus() -> int:
    """Return the number of CPU cores that this process may use, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def peak_memory_bytes() -> int:
    """Return the largest resident memory of this process so far; Linux counts it in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
