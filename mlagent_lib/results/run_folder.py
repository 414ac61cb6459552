"""What a run folder holds, read for the report: nothing is computed, and whatever is missing is named."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from mlagent_lib.core.artifacts import NOTEBOOKS, read_manifest, stage_problem
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import read_jsonl

__all__ = ["RunFolder", "read_run_folder"]

STAGES = tuple(stage for _, stages in NOTEBOOKS for stage in stages)
EVALUATION = next((stage for stage in STAGES if "evaluation" in stage), "04_evaluation")
GRPO = next((stage for stage in STAGES if "grpo" in stage), "03_grpo")


@dataclass(frozen=True)
class RunFolder:
    """A run folder in memory.

    Attributes:
        folder: The run folder.
        run: ``run.json`` (profile, seed, parameters), empty where missing.
        manifests: Manifest of each finished stage, in order.
        problems: What is missing or damaged, in words, by path relative to the folder.
        metrics: Rows of GRPO's ``metrics.jsonl``.
        trajectories: Rows of the evaluation's ``trajectories.jsonl``.
        tables: ``tasks``, ``overall`` and, where written, ``differences``, ``step_rewards`` and ``luck``.
        log: Rows of ``pipeline.jsonl``.
    """

    folder: Path
    run: dict[str, Any] = field(default_factory=dict)
    manifests: dict[str, dict] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    metrics: list[dict] = field(default_factory=list)
    trajectories: list[dict] = field(default_factory=list)
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)
    log: list[dict] = field(default_factory=list)

    @property
    def command(self) -> str:
        """The command that makes, or goes on making, this run."""
        words = ["mlagent", "run"]
        for option in ("profile", "seed"):
            if self.run.get(option) is not None:
                words += [f"--{option}", str(self.run[option])]
        if self.folder.parent.name != "runs":
            words += ["--runs-dir", str(self.folder.parent)]
        return shlex.join([*words, "--run-id", self.folder.name])

    @property
    def grpo(self) -> str:
        """The stage folder of step-wise GRPO."""
        return next((name for name in self.manifests if "grpo" in name), _find(self.folder, "grpo", GRPO))


def _find(folder: Path, word: str, default: str) -> str:
    found = sorted(p.name for p in folder.glob(f"*{word}*") if p.is_dir() and ".old-" not in p.name)
    return default if default in found or not found else found[0]


def _rows(path: Path, name: str, problems: dict[str, str]) -> list[dict]:
    if not path.is_file():
        problems[name] = "missing"
        return []
    rows, bad = read_jsonl(path)
    if bad:
        problems[name] = f"{bad} unreadable lines, left out"
    return rows


def _guarded(
    path: Path, name: str, problems: dict[str, str], read: Callable[[Path], Any], *, needed: bool
) -> Any:
    if not path.is_file():
        if needed:
            problems[name] = "missing"
        return None
    try:
        return read(path)
    except (ValueError, OSError) as error:  # a parser error of pandas and bad UTF-8 are ValueErrors
        problems[name] = f"damaged: {error}"
        return None


def read_run_folder(run_dir: str | Path) -> RunFolder:
    """Return what a run folder holds; a missing or damaged piece goes to ``problems`` and stops nothing.

    Raises:
        RunError: If there is no such folder.
    """
    folder = Path(run_dir)
    if not folder.is_dir():
        raise RunError(f"there is no run folder {folder}", cure="make one with `mlagent run`")
    problems: dict[str, str] = {}
    names = [p.parent.name for p in sorted(folder.glob("*/manifest.json")) if ".old-" not in p.parent.name]
    manifests = {name: found for name in names if (found := read_manifest(folder / name)) is not None}
    for stage in [*STAGES, *(name for name in names if name not in STAGES)]:
        if problem := stage_problem(folder / stage):
            problems[f"{stage}/manifest.json"] = problem
    tables = {}
    evaluation, grpo = _find(folder, "evaluation", EVALUATION), _find(folder, "grpo", GRPO)
    for name in ("tasks", "overall", "differences", "step_rewards", "luck"):
        place = f"{evaluation}/{name}.csv"
        needed = name in ("tasks", "overall")
        if needed and (folder / "agents" / f"{name}.csv").is_file():
            place = f"agents/{name}.csv"  # the same table, with the agents that were evaluated later
        found = _guarded(folder / place, place, problems, pd.read_csv, needed=needed)
        if found is not None:
            tables[name] = found
    run = _guarded(
        folder / "run.json", "run.json", problems, lambda p: json.loads(p.read_text("utf-8")), needed=False
    )
    return RunFolder(
        folder=folder,
        run=run if isinstance(run, dict) else {},
        manifests=manifests,
        problems=problems,
        metrics=_rows(folder / grpo / "metrics.jsonl", f"{grpo}/metrics.jsonl", problems),
        trajectories=_rows(
            folder / evaluation / "trajectories.jsonl", f"{evaluation}/trajectories.jsonl", problems
        ),
        tables=tables,
        log=_rows(folder / "pipeline.jsonl", "pipeline.jsonl", {}),
    )
