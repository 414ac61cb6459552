"""Agents that were evaluated beside a run's own policies: their trajectories, conditions and tables.

``mlagent agent --tasks ... --out runs/<id>`` leaves each agent in ``runs/<id>/agents/<name>/``, a stage of
its own. `with_agents` puts them beside the trajectories of ``04_evaluation``, so that every table of the
evaluation has a row for each of them.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import replace
from math import isclose
from pathlib import Path

import pandas as pd

from mlagent_lib.core.artifacts import read_manifest
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import read_jsonl, sha256_file
from mlagent_lib.results import evaluation
from mlagent_lib.results.evaluation import TaskScale, trajectory_table
from mlagent_lib.results.run_folder import EVALUATION
from mlagent_lib.results.tabled import Rows, tabled

logger = logging.getLogger("mlagent.agents")

AGENTS = "agents"
ROWS = "trajectories.jsonl"
SCALES = "scales.json"


def agent_stages(run_dir: str | Path) -> list[Path]:
    """Return the folders of the agents whose evaluation is finished, by name.

    Those that were moved aside (``<name>.old-1``) and those that are not finished are left out; the latter
    are named in a warning.
    """
    found = []
    for folder in sorted(path for path in (Path(run_dir) / AGENTS).glob("*") if path.is_dir()):
        if re.search(r"\.old-\d+$", folder.name):
            continue
        if read_manifest(folder):
            found.append(folder)
        else:
            logger.warning("%s is not finished, and left out: start its command again", folder)
    return found


def with_agents(run_dir: str | Path) -> list[dict]:
    """Return the trajectories of the run's evaluation, then those of each evaluated agent.

    Every row has its agent's name as ``source``, so that `trajectory_table` and what is made from it have a
    line for each. An evaluation or an agent that is not finished is left out.

    Raises:
        RunError: Nothing is finished, or a file has changed since it was written.
    """
    run_dir = Path(run_dir)
    stages = [run_dir / EVALUATION] if read_manifest(run_dir / EVALUATION) else []
    stages += agent_stages(run_dir)
    if not stages:
        cure = f"run 'mlagent agent --policy POLICY --tasks held-out --out {run_dir}'"
        raise RunError(f"{run_dir} holds neither a finished evaluation nor an evaluated agent", cure=cure)
    return [row for stage in stages for row in _rows(stage)]


def _rows(stage: Path) -> list[dict]:
    path, manifest = stage / ROWS, read_manifest(stage) or {}
    entry = manifest.get("outputs", {}).get(ROWS)
    if entry is None or not path.is_file() or sha256_file(path) != entry["sha256"]:
        cure = f"remove {stage} and make it again"
        raise RunError(f"{path} is missing or has changed since it was written", cure=cure)
    return read_jsonl(path)[0]


@tabled()
def agents_table(run_dir: str | Path) -> Rows:
    """Return under which conditions each agent was evaluated: rows of one main table must share them.

    Columns: agent, policy, coder, tasks, k, steps (most of a trajectory), seed, trajectories, unscored,
    invalid_steps (share of the scored steps), calls, asked_again, cost (None where not known), currency.
    """
    summed = ("trajectories", "unscored", "invalid_steps", "calls", "asked_again", "cost", "currency")
    for stage in agent_stages(run_dir):
        manifest = read_manifest(stage) or {}
        params, summary = manifest["params"], manifest.get("summary", {})
        line = {"agent": stage.name} | {name: params[name]["label"] for name in ("policy", "coder")}
        line |= {"tasks": len(params["tasks"]), "k": params["k"], "steps": params["max_steps"]}
        yield line | {"seed": params["seed"]} | {name: summary.get(name) for name in summed}


def run_scales(run_dir: str | Path) -> dict[str, TaskScale]:
    """Return start and best known report score of each task that the run or an agent was evaluated on.

    Raises:
        RunError: Two of them were evaluated on different versions of a task.
    """
    run_dir, scales, found = Path(run_dir), [], {}
    if read_manifest(run_dir / EVALUATION):
        table = pd.read_csv(run_dir / EVALUATION / "tasks.csv", keep_default_na=False)
        scales += evaluation.scales_from_table(table).values()
    for stage in agent_stages(run_dir):
        scales += [TaskScale(**row) for row in json.loads((stage / SCALES).read_text(encoding="utf-8"))]
    for scale in scales:
        if not _same(found.setdefault(scale.task, scale), scale):
            message = f"task {scale.task!r} has two scales in {run_dir}: it changed between two evaluations"
            raise RunError(message, cure="evaluate again what is older than the task")
    return found


def _same(one: TaskScale, other: TaskScale) -> bool:
    """Return whether two scales are equal, but for the last digits that a table may have lost."""
    ends = isclose(one.init, other.init, rel_tol=1e-9) and isclose(one.best, other.best, rel_tol=1e-9)
    return ends and replace(one, init=other.init, best=other.best) == other


def main_tables(run_dir: str | Path) -> dict[str, pd.DataFrame]:
    """Return the tables of the evaluation with all agents in them, by the name of their CSV.

    Returns:
        ``trajectories.csv``, ``tasks.csv`` and ``overall.csv`` as `trajectory_table`, `task_table` and
        `overall_table` give them, and ``agents.csv`` (see `agents_table`).
    """
    table = trajectory_table(with_agents(run_dir), run_scales(run_dir))
    found = {"trajectories.csv": table, "tasks.csv": evaluation.task_table(table)}
    return found | {"overall.csv": evaluation.overall_table(table), "agents.csv": agents_table(run_dir)}


def unequal_conditions(run_dir: str | Path) -> list[str]:
    """Return a sentence for each agent that had other tasks, steps or another coder than the run's policies.

    A table may hold such rows; whoever reads it must know.
    """
    profile = (read_manifest(Path(run_dir) / EVALUATION) or {}).get("profile")
    if not profile:
        return []
    steps, coder, found = profile["evaluate"]["max_steps"], profile["coder"], []
    every = set(pd.read_csv(Path(run_dir) / EVALUATION / "tasks.csv")["task"])
    for row in agents_table(run_dir).to_dict("records"):
        own = set((read_manifest(Path(run_dir) / AGENTS / row["agent"]) or {})["params"]["tasks"])
        differs = {
            f"{len(every & own)} of the run's {len(every)} tasks": own != every,
            f"{row['steps']} steps a trajectory in place of {steps}": row["steps"] != steps,
            f"coder {row['coder']} in place of {coder}": row["coder"] != coder and row["policy"] != "starter",
        }
        said = ", ".join(text for text, holds in differs.items() if holds)
        if said:
            found.append(f"{row['agent']}: {said}, so not at equal terms with the run's policies")
    return found
