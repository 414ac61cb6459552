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

STAGES = tuple(stage for _, stages in NOTEBOOKS for stage in stages)
EVALUATION, GRPO = "04_evaluation", "03_grpo"
NEEDED = ("tasks", "overall")
TABLES = (*NEEDED, "differences", "step_rewards", "luck", "reading")


@dataclass
class RunFolder:
    """A run folder in memory; ``problems`` says what is missing or damaged, by path below the folder."""

    folder: Path
    run: dict[str, Any] = field(default_factory=dict)  # run.json: profile, seed, parameters
    manifests: dict[str, dict] = field(default_factory=dict)  # of each finished stage, in order
    problems: dict[str, str] = field(default_factory=dict)
    metrics: list[dict] = field(default_factory=list)  # rows of GRPO's metrics.jsonl
    trajectories: list[dict] = field(default_factory=list)  # rows of the evaluation's trajectories.jsonl
    tables: dict[str, pd.DataFrame] = field(default_factory=dict)  # `TABLES` that are there
    log: list[dict] = field(default_factory=list)  # rows of pipeline.jsonl

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

    def read(self, name: str, read: Callable[[Path], Any], *, needed: bool = True) -> Any:
        """Return what a file holds; a missing or damaged one is None and named in ``problems``."""
        path = self.folder / name
        if not path.is_file():
            if needed:
                self.problems[name] = "missing"
            return None
        try:
            return read(path)
        except (ValueError, OSError) as error:  # a parser error of pandas and bad UTF-8 are ValueErrors
            self.problems[name] = f"damaged: {error}"
            return None

    def rows(self, name: str, *, needed: bool = True) -> list[dict]:
        """Return the rows of a file of JSON lines."""
        rows, bad = self.read(name, read_jsonl, needed=needed) or ([], 0)
        if bad and needed:
            self.problems[name] = f"{bad} unreadable lines, left out"
        return rows


def read_run_folder(run_dir: str | Path) -> RunFolder:
    """Return what a run folder holds; a missing or damaged piece goes to ``problems`` and stops nothing.

    Raises:
        RunError: If there is no such folder.
    """
    run = RunFolder(Path(run_dir))
    if not run.folder.is_dir():
        raise RunError(f"there is no run folder {run.folder}", cure="make one with `mlagent run`")
    names = sorted(path.parent.name for path in run.folder.glob("*/manifest.json"))
    stages = [name for name in names if ".old-" not in name]
    found = {stage: read_manifest(run.folder / stage) for stage in stages}
    run.manifests = {stage: manifest for stage, manifest in found.items() if manifest is not None}
    for stage in dict.fromkeys([*STAGES, *stages]):
        if problem := stage_problem(run.folder / stage):
            run.problems[f"{stage}/manifest.json"] = problem
    for name in TABLES:
        place, needed = f"{EVALUATION}/{name}.csv", name in NEEDED
        if needed and (run.folder / "agents" / f"{name}.csv").is_file():
            place = f"agents/{name}.csv"  # the same table, with the agents that were evaluated later
        table = run.read(place, pd.read_csv, needed=needed)
        run.tables |= {} if table is None else {name: table}
    known = run.read("run.json", lambda path: json.loads(path.read_text("utf-8")), needed=False)
    run.run = known if isinstance(known, dict) else {}
    run.metrics = run.rows(f"{GRPO}/metrics.jsonl")
    run.trajectories = run.rows(f"{EVALUATION}/trajectories.jsonl")
    run.log = run.rows("pipeline.jsonl", needed=False)
    return run
