"""How a step's batch is split over devices and passes, so that every device holds whole groups.

TRL's rule: the group size divides the batch that is generated together. Ours is stricter: it divides each
device's share, because a device rewards its own groups.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from mlagent_lib.core.errors import ProfileError


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


def world_size() -> int:
    """Return how many processes train together: what `accelerate launch` and torchrun say, else 1."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def plan_batch(total: int, *, micro: int = 0, group: int = 1, world: int = 1) -> BatchPlan:
    """Return how a batch is split; the update is that of the whole batch, whatever the split.

    Args:
        total: Rows of a batch over all devices (states times G for GRPO).
        micro: Most rows that a device reads at once; 0 for its whole share. The largest divisor of the share
            up to it is taken, so that no pass is shorter than another.
        group: Rows that belong together (G); a device gets whole groups.
        world: Devices.

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
