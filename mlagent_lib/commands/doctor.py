"""``mlagent doctor``: isolation of scripts, versions against the pins, and what the machine has."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

from mlagent_lib import __version__
from mlagent_lib.commands.output import print_table


def call(_arguments: argparse.Namespace) -> int:
    """Do what ``mlagent doctor`` is for."""
    from mlagent_lib.core.provenance import git_state, pins, usable_cpus, versions
    from mlagent_lib.environment.runner import probe

    wanted = pins()
    found = versions(tuple(wanted)) if wanted else versions()
    rows = [("python", found.pop("python"), "")]
    for name in wanted or found:
        has, pin = found.get(name, "missing"), wanted.get(name, "")
        is_pin = not pin or has.split("+")[0] == pin  # +cpu and the like only say how it was built
        rows.append((name, has, "" if is_pin else f"the kit was made with {pin}"))
    print("isolation of scripts")
    report = probe()
    for line in report.lines:
        print(f"  {line}")
    print("versions" if wanted else "versions (the kit is not installed: no pins to compare with)")
    print_table(rows, indent="  ")
    known = hasattr(os, "sysconf")  # not on Windows
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if known else 0.0
    state = git_state()
    commit = f"{state['commit'][:12]}{' with changes' if state['dirty'] else ''}" if state else "none"
    print("machine")
    machine = [
        ("cores", f"{usable_cpus()} usable"),
        ("memory", f"{memory:.1f} GiB" if known else "unknown"),
        ("free disk", f"{shutil.disk_usage(Path.cwd()).free / 2**30:.1f} GiB here"),
        ("GPU", "yes: nvidia-smi is there" if shutil.which("nvidia-smi") else "none seen: nothing needs one"),
        ("kit", f"{__version__}, commit {commit}"),
    ]
    print_table(machine, indent="  ")
    return 0 if report.chosen else 1
