"""The isolation tiers as data: which layers each one has, and what that means in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tier:
    """One way to isolate a run: its name in every record, one line for a reader, which layers each run has.

    Attributes:
        bubblewrap: The server, and with it all of its runs, is inside bubblewrap.
        unsafe: It needs ``allow_unsafe=True``, because a script can read labels or harm the host.
    """

    name: str
    meaning: str
    landlock: bool = False
    seccomp: bool = False
    namespaces: bool = False
    own_user: bool = False
    bubblewrap: bool = False
    unsafe: bool = False


_ROWS = (
    ("T3+uid", "landlock seccomp namespaces own_user",
     "T3 as a throw-away user: the strongest tier, needs root"),
    ("T2+uid", "landlock seccomp own_user", "T2 as a throw-away user, needs root"),
    ("T3", "landlock seccomp namespaces", "T2 in its own user, process, network, ipc and mount namespaces"),
    ("T2", "landlock seccomp", "file rules (Landlock), system-call filter, limits, sweep, watchdog"),
    ("BW", "seccomp bubblewrap", "T2 with bubblewrap around the warm server in place of the file rules"),
    ("T1", "unsafe", "limits, sweep and watchdog only: scripts can read labels"),
    ("T0", "unsafe", "a plain subprocess with a time limit: no isolation"),
)  # fmt: skip
TIERS = {name: Tier(name, meaning, **dict.fromkeys(has.split(), True)) for name, has, meaning in _ROWS}
BEST_FIRST = tuple(name for name, tier in TIERS.items() if not tier.unsafe)
