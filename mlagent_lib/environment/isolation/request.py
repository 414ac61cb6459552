"""What is asked of an isolated run (files, data, script, limits, what to bring back), and what came of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from ...core.limits import Limits
from . import run_folder


@dataclass(frozen=True)
class RunRequest:
    """One script to run.

    Attributes:
        files: The workspace: relative path to content.
        data_dir: A folder that the run reads as ``data``, or None.
        collect: Files to bring back.
        reseed: 0 for the seeds that the script sets; 1, 2, ... for the same script with other luck (see
            `isolation.script_seeds`).
        links: Names in ``data_dir`` that the run finds under these very names; none for ``data_dir`` itself
            as ``data``.
        standard_only: The script needs the standard library alone, so a small server will do; a wrong word
            costs time, nothing else.

    Raises:
        ValueError: If ``script`` is not among ``files``, or a name cannot lie in a workspace.
    """

    files: dict[str, bytes]
    data_dir: Path | None
    script: str
    limits: Limits = field(default_factory=Limits)
    collect: tuple[str, ...] = ("submission.csv",)
    reseed: int = 0
    links: tuple[str, ...] = ()
    standard_only: bool = False

    def __post_init__(self):
        if self.script not in self.files:
            raise ValueError(f"script {self.script!r} is not among the files {sorted(self.files)}")
        if self.links and self.data_dir is None:
            raise ValueError("links need a data folder that they lead to")
        linked = self.links or (() if self.data_dir is None else ("data",))
        run_folder.check_names([*self.files], linked)
        run_folder.check_names([*self.collect, *self.links], ())

    def located(self) -> RunRequest:
        """Return the request with the full path of its data folder.

        Raises:
            ValueError: If that does not exist.
        """
        if self.data_dir is None:
            return self
        data_dir = Path(os.path.realpath(self.data_dir))
        if not data_dir.is_dir():
            raise ValueError(f"the data folder {data_dir} does not exist")
        return replace(self, data_dir=data_dir)


@dataclass(frozen=True)
class RunResult:
    """What came of a script.

    Attributes:
        status: ``ok``, ``error`` (it failed by itself), or the limit that it broke: ``timeout``, ``memory``,
            ``disk``, ``files``, ``processes``, ``output``.
        exit_code: As a shell gives it, negative for a signal, None when it was stopped.
        output: The last of stdout and stderr together, as plain text. Untrusted: never parse a score from it.
        error_type: Class name of the exception that ended it, or the name of a signal.
        error_line: Line of the script where that exception passed.
        collect_errors: Name to reason (see `isolation.run_folder.collect`) of those that could not be had.
        peak_memory_bytes: Most memory seen, the shared libraries included.
    """

    status: str
    exit_code: int | None
    output: str
    seconds: float
    tier: str
    error_type: str | None
    error_line: int | None
    collected: dict[str, bytes]
    collect_errors: dict[str, str]
    peak_memory_bytes: int
