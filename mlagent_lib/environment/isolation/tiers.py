"""The isolation tiers as data: which layers each one has, and what that means in words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tier:
    """One way to isolate a run.

    Attributes:
        name: How the tier is called in every record.
        landlock, seccomp, namespaces, own_user: Which layers each run has.
        meaning: One line for a reader.
        unsafe: It needs ``allow_unsafe=True``, because a script can read labels or harm the host.
        bubblewrap: The server, and with it all of its runs, is inside bubblewrap.
    """

    name: str
    landlock: bool
    seccomp: bool
    namespaces: bool
    own_user: bool
    meaning: str
    unsafe: bool = False
    bubblewrap: bool = False


TIERS = {
    tier.name: tier
    for tier in (
        Tier("T3+uid", True, True, True, True, "T3 as a throw-away user: the strongest tier, needs root"),
        Tier("T2+uid", True, True, False, True, "T2 as a throw-away user, needs root"),
        Tier("T3", True, True, True, False, "T2 in its own user, process, network, ipc and mount namespaces"),
        Tier(
            "T2",
            True,
            True,
            False,
            False,
            "file rules (Landlock), system-call filter, limits, sweep, watchdog",
        ),
        Tier(
            "BW",
            False,
            True,
            False,
            False,
            "T2 with bubblewrap around the warm server in place of the file rules",
            bubblewrap=True,
        ),
        Tier(
            "T1", False, False, False, False, "limits, sweep and watchdog only: scripts can read labels", True
        ),
        Tier("T0", False, False, False, False, "a plain subprocess with a time limit: no isolation", True),
    )
}
BEST_FIRST = ("T3+uid", "T2+uid", "T3", "T2", "BW")
