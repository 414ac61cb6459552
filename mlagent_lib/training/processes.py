"""Several processes that train together (`accelerate launch`): who writes, what all know, who trains what.

The main process writes files and decides; the others train their share and follow. Alone, a process is the
main one, and everything here gives back what it got. A device's share holds whole groups: TRL asks only that
the group size divides the batch that is generated together, but a device rewards its own groups.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlagent_lib.core.errors import ProfileError

# What counts something is added up over processes; all else is a mean, of shares of equal size.
COUNTS = (
    *("steps", "unscored", "executions", "cache_hits", "coder_failures", "seconds_scripts"),
    *("flat_groups", "groups", "on_policy_groups"),
)


def world_size() -> int:
    """Return how many processes train together: what `accelerate launch` and torchrun say, else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Return whether this process is the one that writes: what the launcher calls rank 0, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def from_main(value: Any) -> Any:
    """Return the main process's value in every process; each waits for the others here."""
    if not _together():
        return value
    from accelerate.utils import broadcast_object_list

    return broadcast_object_list([value])[0]


def over_processes(found: Mapping[str, float]) -> dict[str, float]:
    """Return the statistics of the whole batch from those of each process's share."""
    if not _together():
        return dict(found)
    from accelerate.utils import gather_object

    return merged(gather_object([dict(found)]))


def merged(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the statistics of all shares together: sums of what counts something, else means.

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


@dataclass(frozen=True)
class BatchPlan:
    """One batch: ``per_device * accumulation * world`` rows.

    Attributes:
        per_device: Rows that a device reads at once.
        accumulation: Passes whose gradients are added before an update.
        world: Devices (processes).
    """

    per_device: int
    accumulation: int
    world: int = 1


def plan_batch(total: int, *, micro: int = 0, group: int = 1, world: int = 1) -> BatchPlan:
    """Return how a batch is split; the update is that of the whole batch, whatever the split.

    Args:
        total: Rows of a batch over all devices (states times G for GRPO).
        micro: Most rows that a device reads at once; 0 for its whole share. The largest divisor of the share
            up to it is taken, so that no pass is shorter than another.
        group: Rows that belong together (G); a device gets whole groups.

    Raises:
        ProfileError: The batch cannot be shared out in whole groups.

    Example:
        >>> plan_batch(2048, micro=8, group=8)  # 256 states, G = 8, one card
        BatchPlan(per_device=8, accumulation=256, world=1)
        >>> plan_batch(64, micro=1, world=8)  # SFT as the authors ran it
        BatchPlan(per_device=1, accumulation=8, world=8)
    """
    if total % (group * world):
        what = "states" if group > 1 else "rows"
        raise ProfileError(
            f"a batch of {total // group} {what} cannot be shared by {world} processes in whole parts",
            cure=f"give a number of {what} that is a multiple of {world}",
        )
    share = total // world
    limit = min(micro or share, share)
    per_device = next(rows for rows in range(limit, 0, -1) if share % rows == 0)
    return BatchPlan(per_device, share // per_device, world)
