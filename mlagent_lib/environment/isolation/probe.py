"""Which isolation works on this machine, found by trying: a small hostile script has to fail at everything.

A tier is used only if, inside it, an honest script works and every attack of `_ATTACKS` is refused.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import tempfile
from dataclasses import dataclass

from ...core.errors import IsolationError
from ...core.limits import Limits
from . import client, kernel, landlock, seccomp
from .tiers import BEST_FIRST, TIERS, Tier

_LIMITS = Limits(seconds=20.0, memory_bytes=1 << 30, processes=16)

_ATTACKS = r"""
import json, os, socket, subprocess, sys

plan = json.load(open("plan.json"))
done = []

def attempt(name, attack):
    try:
        attack()
    except (OSError, ValueError):
        return
    done.append(name)

def signal_parent():
    if plan["namespaces"] and plan["parent"] < 10:
        raise OSError("in here that number is one of our own processes")
    os.kill(plan["parent"], 0)

attempt("read a file outside", lambda: open(plan["secret"]).read())
attempt("write a file outside", lambda: open(plan["outside"], "w").write("x"))
attempt("change a file outside", lambda: open(plan["secret"], "a").write("x"))
attempt("link to a file outside", lambda: os.link(plan["secret"], "linked"))
attempt("make a symbolic link", lambda: os.symlink(plan["secret"], "symbolic"))
attempt("open a socket", lambda: socket.socket())
attempt("open a unix socket", lambda: socket.socket(socket.AF_UNIX))
attempt("signal the parent", signal_parent)
attempt("read the parent's environment", lambda: open(f"/proc/{plan['parent']}/environ", "rb").read(1))
attempt("open the parent's memory", lambda: open(f"/proc/{plan['parent']}/mem", "rb"))

with open("own.txt", "w") as handle:
    handle.write("mine")
honest = open("own.txt").read() == "mine" and open("data/given.txt").read() == "given"
other = subprocess.run([sys.executable, "-c", "print(6 * 7)"], capture_output=True, text=True)
honest = honest and other.stdout.strip() == "42"
json.dump({"honest": honest, "done": done, "error": other.stderr[-500:]}, open("report.json", "w"))
"""


@dataclass(frozen=True)
class TierReport:
    """What the probe found.

    Attributes:
        available: Names of the tiers that passed, best first.
        chosen: The best of them, None when there is none.
        why: One sentence on the choice.
        failed: For each tier that was tried and failed, why.
        lines: Text for ``mlagent doctor``.
    """

    available: tuple[str, ...]
    chosen: str | None
    why: str
    failed: dict[str, str]
    lines: tuple[str, ...]


def _try(tier: Tier) -> str:
    """Return why ``tier`` cannot be used here, nothing when it can."""
    base = tempfile.mkdtemp(prefix="mlagent-probe-")
    os.chmod(base, 0o711)
    server = client.WarmServer(os.path.join(base, "server"), tier, modules=())
    try:
        data = os.path.join(base, "data")
        os.mkdir(data)
        secret = os.path.join(base, "secret.txt")
        for path, text in ((secret, "secret"), (os.path.join(data, "given.txt"), "given")):
            with open(path, "w") as handle:
                handle.write(text)
            os.chmod(path, 0o666)  # only the isolation itself may be what refuses
        plan = {"secret": secret, "outside": os.path.join(base, "planted"), "parent": os.getpid()}
        plan["namespaces"] = tier.namespaces
        files = {"attack.py": _ATTACKS.encode(), "plan.json": json.dumps(plan).encode()}
        run = server.run(files, data, "attack.py", _LIMITS.to_json(), ("report.json",))
        if "report.json" not in run.collected:
            return f"an honest script fails: {_last_line(run.output.decode('utf-8', 'replace'))}"
        report = json.loads(run.collected["report.json"])
        if report["done"]:
            return "not refused: " + ", ".join(report["done"])
        if not report["honest"]:
            return f"an honest script fails: {_last_line(report['error'])}"
        return ""
    except client.ServerLost as error:
        return str(error)
    finally:
        server.close()
        shutil.rmtree(base, ignore_errors=True)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][-200:]


@functools.cache
def _verdict(name: str) -> str:
    tier = TIERS[name]
    if not kernel.LINUX:
        return f"needs Linux, this is {platform.system()}"
    if tier.landlock and landlock.abi() == 0:
        return "this kernel has no Landlock (Linux 5.13 or later with it switched on)"
    if tier.seccomp and not seccomp.supported():
        return f"no table of system calls for the processor {platform.machine()}"
    if tier.own_user and os.geteuid() != 0:
        return "needs root, to become a throw-away user"
    return _try(tier)


@functools.cache
def _chosen() -> str | None:
    return next((name for name in BEST_FIRST if not _verdict(name)), None)


def choose(tier: str = "auto", *, allow_unsafe: bool = False) -> Tier:
    """Return the tier to use: the best that passes the probe, or the one asked for if it passes.

    Raises:
        IsolationError: If it is unknown, does not work here, or is unsafe and was not allowed.
    """
    if tier == "auto":
        name = _chosen()
        if name is None:
            reasons = "; ".join(f"{n}: {_verdict(n)}" for n in BEST_FIRST)
            raise IsolationError(
                f"no isolation tier works on this machine ({reasons})",
                cure="run on Linux 5.13 or later (WSL2 on Windows, a VM on macOS), or, for scripts that you "
                "trust, give tier='T1' (Linux) or 'T0' with allow_unsafe=True",
            )
        return TIERS[name]
    if tier not in TIERS:
        raise IsolationError(
            f"isolation tier {tier!r} is unknown", cure=f"choose auto or one of {', '.join(TIERS)}"
        )
    wanted = TIERS[tier]
    if wanted.unsafe and not allow_unsafe:
        raise IsolationError(
            f"tier {tier} does not keep a script from reading labels or harming this machine",
            cure="use tier='auto', or allow_unsafe=True for scripts that you trust",
        )
    why_not = "" if wanted.unsafe else _verdict(tier)
    if tier == "T1" and not kernel.LINUX:
        why_not = "needs Linux"
    if why_not:
        raise IsolationError(f"tier {tier} does not work on this machine: {why_not}", cure="use tier='auto'")
    return wanted


@functools.lru_cache(maxsize=1)
def probe() -> TierReport:
    """Return which tiers work on this machine and which one is used; tried once per process, about a second.

    Example:
        >>> probe().chosen in (None, *TIERS)
        True
    """
    failed = {name: _verdict(name) for name in BEST_FIRST if _verdict(name)}
    available = tuple(name for name in BEST_FIRST if name not in failed)
    chosen = available[0] if available else None
    why = (
        f"the strongest tier that passed the probe: {TIERS[chosen].meaning}"
        if chosen
        else "no tier passed the probe"
    )
    return TierReport(available, chosen, why, failed, tuple(_lines(chosen, available, failed)))


def _lines(chosen: str | None, available: tuple[str, ...], failed: dict[str, str]) -> list[str]:
    system = (
        f"{platform.system()} {platform.release()}, {platform.machine()}, Python {platform.python_version()}"
    )
    lines = [f"machine: {system}"]
    if kernel.LINUX:
        user = "root" if os.geteuid() == 0 else "a normal user"
        version = landlock.abi()
        lines.append(f"running as {user}; Landlock version {version or 'none'}")
    else:
        lines.append("scripts can only be isolated on Linux: macOS needs a Linux VM, Windows needs WSL2")
    for name in BEST_FIRST:
        state = "works" if name in available else f"no ({failed[name]})"
        lines.append(f"{name}: {state} - {TIERS[name].meaning}")
    if chosen is None:
        return [*lines, "scripts of a model are refused here; scripts you trust run with allow_unsafe=True"]
    tier = TIERS[chosen]
    lines.append(f"in use: {chosen}")
    lines.append("a run reads the interpreter, the libraries without their bundled data, its task's data")
    lines.append(
        "a run writes its workspace only; it has no network and cannot signal or look into other processes"
    )
    if not tier.namespaces:
        lines.append(
            "a run sees the sizes of files and the list of processes; multiprocessing.Pool does not work"
        )
    lines.append(
        "same kernel: a hole in it opens every tier, so keep secrets off a machine with hostile models"
    )
    return lines
