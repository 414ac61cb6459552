"""Several processes that train together (`accelerate launch`): who writes, and what all of them know.

The main process writes files and decides; the others train their share and follow. Alone, a process is the
main one, and everything here gives back what it got.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

# What counts something is added up over processes; all else is a mean, of shares of equal size.
COUNTS = (
    *("steps", "unscored", "executions", "cache_hits", "coder_failures", "seconds_scripts"),
    *("flat_groups", "groups", "on_policy_groups"),
)


def is_main() -> bool:
    """Return whether this process is the one that writes: what the launcher calls rank 0, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def from_main(value: Any) -> Any:
    """Return the main process's value in every process; each waits for the others here.

    Args:
        value: Of this process; only the main process's counts.
    """
    if not _together():
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def over_processes(found: Mapping[str, float]) -> dict[str, float]:
    """Return the statistics of the whole batch from those of each process's share.

    Args:
        found: Of this process's share, by name.
    """
    if not _together():
        return dict(found)
    from accelerate.utils import gather_object

    return merged(gather_object([dict(found)]))


def merged(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the statistics of all shares together: sums of what counts something, else means.

    Args:
        shares: One for each process, with the same names.

    Example:
        >>> merged([{"steps": 8, "reward": 0.5}, {"steps": 8, "reward": 1.0}])
        {'steps': 16, 'reward': 0.75}
    """
    return {
        name: (sum if name in COUNTS else statistics.fmean)([share[name] for share in shares])
        for name in shares[0]
    }


def _together() -> bool:
    """Return whether other processes train along."""
    import torch.distributed as group

    return group.is_available() and group.is_initialized() and group.get_world_size() > 1
