"""Which isolation works on this machine, found by trying: a small hostile script has to fail at everything.

A tier is used only if, inside it, an honest script works and every attack of `_ATTACKS` is refused. A tier
that could not be tried, because we failed (no disk, a server that did not start), is not used either, but is
not called broken: its reason starts with `explain.OURS`.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from ...core.errors import IsolationError
from ...core.limits import Limits
from . import bubblewrap, client, explain, kernel, landlock, seccomp
from .explain import OURS
from .request import RunRequest
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
    """What the probe found: the tiers that passed, best first, and the best of them.

    Attributes:
        failed: For each tier that is not used, why; see `explain.OURS`.
        lines: Text for ``mlagent doctor``.
    """

    available: tuple[str, ...]
    chosen: str | None
    failed: dict[str, str]
    lines: tuple[str, ...]


def _try(tier: Tier) -> str:
    """Return why ``tier`` cannot be used here, nothing when it can."""
    try:
        with tempfile.TemporaryDirectory(prefix="mlagent-probe-", ignore_cleanup_errors=True) as base:
            server = client.WarmServer(os.path.join(base, "server"), tier, modules=())
            with contextlib.closing(server):
                os.chmod(base, 0o711)
                return _attack(server, base)
    except client.JailRefused as error:
        return str(error)
    except (client.ServerLost, OSError) as error:
        return f"{OURS}: {error}"


def _attack(server: client.WarmServer, base: str) -> str:
    """Return what goes wrong when a hostile script runs in ``server``, nothing when all is well."""
    data, secret = Path(base, "data"), Path(base, "secret.txt")
    data.mkdir()
    for path, text in ((secret, "secret"), (data / "given.txt", "given")):
        path.write_text(text)
        path.chmod(0o666)  # only the isolation itself may be what refuses
    plan = {"secret": str(secret), "outside": os.path.join(base, "planted"), "parent": os.getpid()}
    plan["namespaces"] = server.tier.namespaces or server.tier.bubblewrap
    files = {"attack.py": _ATTACKS.encode(), "plan.json": json.dumps(plan).encode()}
    run = server.run(RunRequest(files, data, "attack.py", _LIMITS, ("report.json",)))
    if "report.json" not in run.collected:
        return f"an honest script fails: {_last_line(run.output)}"
    report = json.loads(run.collected["report.json"])
    if report["done"]:
        return "not refused: " + ", ".join(report["done"])
    if not report["honest"]:
        return f"an honest script fails: {_last_line(report['error'])}"
    return ""


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2][-200:]


@functools.cache
def _verdict(name: str) -> str:
    """Return why a tier cannot be used here, nothing when it can."""
    tier = TIERS[name]
    if not kernel.LINUX:
        return f"needs Linux, this is {_system()}"
    lacks = (
        (tier.landlock and landlock.abi() == 0,
         "this kernel has no Landlock (Linux 5.13 or later with it switched on)"),
        (tier.seccomp and not seccomp.supported(),
         f"no table of system calls for the processor {platform.machine()}"),
        (tier.own_user and not explain.is_root(), "needs root, to become a throw-away user"),
    )  # fmt: skip
    why_not = next((reason for lacking, reason in lacks if lacking), "")
    try:
        if not why_not and tier.own_user and not client.user_exists(client.throwaway_uid(os.getpid())):
            why_not = "root of this container has no other user ids to become"
        if not why_not and tier.bubblewrap:
            why_not = bubblewrap.why_not()
    except OSError as error:
        return f"{OURS}: {error}"
    return why_not or _try(tier)


def _system() -> str:
    return {"Darwin": "macOS"}.get(platform.system(), platform.system())


@functools.cache
def _chosen() -> str | None:
    name = next((name for name in BEST_FIRST if not _verdict(name)), None)
    better = BEST_FIRST[: BEST_FIRST.index(name)] if name else ()
    missed = [f"{tier} {_verdict(tier)}" for tier in better if _verdict(tier).startswith(OURS)]
    if missed:
        warnings.warn(f"tier {name} is used, because {'; '.join(missed)}", RuntimeWarning, stacklevel=3)
    return name


def choose(tier: str = "auto", *, allow_unsafe: bool = False) -> Tier:
    """Return the tier to use: the best that passes the probe, or the one asked for if it passes.

    Raises:
        IsolationError: If it is unknown, does not work here, or is unsafe and was not allowed.
    """
    if tier == "auto":
        name = _chosen()
        if name is None:
            failed = {n: _verdict(n) for n in BEST_FIRST}
            reasons = "; ".join(f"{n}: {why}" for n, why in failed.items())
            cure = "; ".join(explain.cures(None, failed))
            raise IsolationError(f"no isolation tier works on this machine ({reasons})", cure=cure)
        return TIERS[name]
    if tier not in TIERS:
        cure = f"choose auto or one of {', '.join(TIERS)}"
        raise IsolationError(f"isolation tier {tier!r} is unknown", cure=cure)
    wanted = TIERS[tier]
    if wanted.unsafe and not allow_unsafe:
        told = f"tier {tier} does not keep a script from reading labels or harming this machine"
        raise IsolationError(told, cure="use tier='auto', or allow_unsafe=True for scripts that you trust")
    lacking = "needs Linux" if tier == "T1" and not kernel.LINUX else ""
    why_not = lacking if wanted.unsafe else _verdict(tier)
    if why_not.startswith(OURS):
        raise IsolationError(f"tier {tier} {why_not}", cure="free disk and memory, then start again")
    if why_not:
        raise IsolationError(f"tier {tier} does not work on this machine: {why_not}", cure="use tier='auto'")
    return wanted


@functools.cache
def probe() -> TierReport:
    """Return which tiers work on this machine and which one is used; tried once per process, about a second.

    Example:
        >>> probe().chosen in (None, *TIERS)
        True
    """
    failed = {name: _verdict(name) for name in BEST_FIRST if _verdict(name)}
    available = tuple(name for name in BEST_FIRST if name not in failed)
    chosen = available[0] if available else None
    return TierReport(available, chosen, failed, tuple(_lines(chosen, available, failed)))


def _lines(chosen: str | None, available: tuple[str, ...], failed: dict[str, str]) -> list[str]:
    tier = TIERS[chosen] if chosen else None
    system = f"{_system()} {platform.release()}, {platform.machine()}, Python {platform.python_version()}"
    user = "root" if explain.is_root() else "a normal user"
    states = {name: "works" if name in available else f"no ({failed[name]})" for name in BEST_FIRST}
    nothing = "scripts of a model are refused here; scripts you trust run with allow_unsafe=True"
    return [
        f"machine: {system}",
        f"running as {user}; Landlock version {landlock.abi() or 'none'}" if kernel.LINUX
        else "scripts can only be isolated on Linux: macOS needs a Linux VM, Windows needs WSL2",
        *(f"{name}: {state} - {TIERS[name].meaning}" for name, state in states.items()),
        f"in use: {chosen}" if tier else nothing,
        "layers:",
        *(f"  {name}: {state} - {meaning}" for name, state, meaning in explain.layers(tier)),
        *(("not guaranteed here:", *(f"  {gap}" for gap in explain.gaps(tier))) if tier else ()),
        "to get more:" if tier else "what to do:",
        *(f"  {cure}" for cure in explain.cures(chosen, failed)),
    ]  # fmt: skip
