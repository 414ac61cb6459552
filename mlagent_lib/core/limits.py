"""What one execution of a script may use."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Limits:
    """The budget of one script run. The paper limits a trajectory (15 steps, 30 minutes), not a script.

    Attributes:
        seconds: Wall-clock seconds.
        memory_bytes: Address space of one process, and resident memory of the whole tree.
        output_bytes: How much of stdout and stderr together is kept.
        file_bytes: Largest single file the script may write.
        disk_bytes: All files of the workspace together.
        files: Number of files and folders in the workspace.
        processes: Processes and threads of the run.
    """

    seconds: float = 20.0
    memory_bytes: int = 2 << 30
    output_bytes: int = 64 << 10
    file_bytes: int = 32 << 20
    disk_bytes: int = 128 << 20
    files: int = 2000
    processes: int = 32

    def to_json(self) -> dict:
        """Return the limits as a plain dictionary, in the order of the attributes."""
        return asdict(self)
