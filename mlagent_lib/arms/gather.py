"""From finished units of the comparison to its committed tables: tidy CSV, and a manifest of their origin.

Only what units wrote is copied here, row by row; everything that is computed from these tables (intervals,
contrasts, verdicts, figures) is computed in `results`, again and again from the same files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.arms.merge import key_of, merged
from mlagent_lib.arms.schedule import plan, run_of
from mlagent_lib.arms.units import Unit
from mlagent_lib.core.arms import ARMS, PROFILE, get_arm
from mlagent_lib.core.artifacts import read_jsonl, read_manifest, sha256_file, write_json, write_text
from mlagent_lib.core.errors import RunError
from mlagent_lib.results.arms import RAW, load
from mlagent_lib.results.evaluation import TaskScale, gap_closed, relative_gain_pct
from mlagent_lib.results.steps import diversity_table
from mlagent_lib.tasks.task import Task, list_tasks, load_task

KEPT = ("seed", "git", "package", "versions", "platform", "device", "wall_s", "peak_memory_bytes", "attempts")


def gather(
    runs_dir: Path | str, out: Path | str, seeds: Sequence[int] | None = None, *, add: bool = False
) -> dict[str, pd.DataFrame]:
    """Write the tables of all finished units and return them by name; units that are not finished are named.

    Args:
        runs_dir: Folder of all runs.
        out: Folder to write.
        seeds: See `ablations.plan`.
        add: Whether units that ``out`` already holds, and the folder of runs does not, stay.

    Raises:
        RunError: Not one arm is finished; with ``add``, what ``out`` holds is damaged or of other tasks.
    """
    out, at = Path(out), plan(runs_dir, seeds)
    done = [unit for unit in at.units if unit in at.done]
    arms = [unit for unit in done if unit.kind == "arm"]
    if not arms:
        raise RunError(f"{runs_dir} holds no finished arm", cure=f"run 'mlagent run --profile {PROFILE}'")
    tasks = {name: load_task(name) for name in list_tasks()}
    rows = {unit: read_jsonl(_folder(runs_dir, unit) / "trajectories.jsonl")[0] for unit in arms}
    tables = {
        "tasks": tasks_table(tasks.values()),
        "trajectories": trajectories_table(rows, tasks),
        "steps": pd.concat([_steps(runs_dir, unit, tasks) for unit in arms], ignore_index=True),
        "curves": _curves(runs_dir, [unit for unit in arms if _trains(unit)]),
        "edits": pd.concat(
            [diversity_table(found).assign(seed=unit.seed) for unit, found in rows.items()], ignore_index=True
        ),
        "blame": _joined(runs_dir, arms, "blame.csv"),
        "luck": _joined(runs_dir, arms, "luck.csv"),
        "searches": _searches(runs_dir, [unit for unit in done if unit.kind == "search"], tasks),
        "units": _units(runs_dir, at.units, at.done),
    }
    manifest = _manifest(runs_dir, done, at.left)
    if add:
        tables, manifest = merged(tables, manifest, out)
    for name in RAW:
        write_text(out / f"{name}.csv", tables[name].to_csv(index=False, lineterminator="\n"))
    sums = {f"{name}.csv": sha256_file(out / f"{name}.csv") for name in RAW}
    write_json(out / "manifest.json", manifest | {"files": sums})
    return load(out)


def _folder(runs_dir: Path | str, unit: Unit) -> Path:
    return run_of(runs_dir, unit.seed) / unit.name


def _name(unit: Unit) -> str:
    return unit.name.removeprefix("arm-")


def _trains(unit: Unit) -> bool:
    return get_arm(_name(unit)).method != "none"


def tasks_table(tasks: Iterable[Task]) -> pd.DataFrame:
    """Return one line per task: both ends of its scale, on the report and on the feedback labels."""
    return pd.DataFrame(
        [
            {
                "task": task.name,
                "split": task.split,
                "paper_task": task.paper_task,
                "metric": task.metric,
                "greater_is_better": bool(task.greater_is_better),
                "init": task.baseline["report"],
                "best": task.best["report"],
                "init_feedback": task.baseline["feedback"],
                "best_feedback": task.best["feedback"],
            }
            for task in tasks
        ]
    )


def trajectories_table(rows: dict[Unit, list[dict]], tasks: dict[str, Task]) -> pd.DataFrame:
    """Return one line per trajectory: arm, seed, task, split, number, scores, gaps closed, gain, unscored.

    Args:
        rows: Trajectories of each unit.
        tasks: Tasks by name.

    Returns:
        ``gap`` is of the last submission on the report labels, ``gap_feedback`` of the same submission on the
        feedback labels, ``gap_best`` of the submission that was best on the feedback labels, on the report
        labels.
    """
    table = []
    for unit, found in rows.items():
        for row in found:
            task, final = tasks[row["task"]], row["final"]
            scale, hidden = TaskScale.of(task), (task.baseline["feedback"], task.best["feedback"])
            score = np.nan if final["report_last"] is None else float(final["report_last"])
            is_lost = not np.isfinite(score) or final["stop"] == "unscored"
            ratio = scale.init > 0 and not is_lost
            table.append(
                {
                    "policy": _name(unit),
                    "seed": unit.seed,
                    "task": task.name,
                    "split": task.split,
                    "index": int(row["id"].rsplit("/", 1)[1]),
                    "score": score,
                    "gap": gap_closed(score, scale.init, scale.best),
                    "gap_best": gap_closed(final["report_best"], scale.init, scale.best),
                    "gap_feedback": gap_closed(final["feedback_last"], *hidden),
                    "gain_pct": relative_gain_pct(score, scale.init, greater_is_better=task.greater_is_better)
                    if ratio
                    else np.nan,
                    "steps": len(row["steps"]),
                    "stop": final["stop"],
                    "unscored": is_lost,
                }
            )
    return pd.DataFrame(table)


def _steps(runs_dir: Path | str, unit: Unit, tasks: dict[str, Task]) -> pd.DataFrame:
    """Return one line per single step from a test state; ``share`` is what v2 pays for an edit."""
    table = []
    for row in read_jsonl(_folder(runs_dir, unit) / "test_steps.jsonl")[0]:
        task = tasks[row["task"]]
        width = task.best["feedback"] - task.baseline["feedback"]
        after, before = row["score_after"], row["score_before"]
        table.append(
            {
                "policy": _name(unit),
                "seed": unit.seed,
                "task": row["task"],
                "state": row["state_id"][:16],
                "outcome": row["outcome"],
                "reason": row["reason"],
                "share": np.nan if after is None else (after - before) / width,
                "reward": row["reward"],
            }
        )
    return pd.DataFrame(table)


def _curves(runs_dir: Path | str, units: Sequence[Unit]) -> pd.DataFrame:
    """Return the rows of all trainings, each with the charged seconds spent by then."""
    table = []
    names = ("reward", "validity", "kl", "steps", "unscored", "coder_failures", "on_policy_groups")
    for unit in units:
        charged = 0.0
        for row in read_jsonl(_folder(runs_dir, unit) / "metrics.jsonl")[0]:
            charged = charged + row["seconds_charged"] if row["split"] == "train" else charged
            table.append(
                {"policy": _name(unit), "seed": unit.seed, "split": row["split"], "update": row["step"]}
                | {"charged": round(charged, 2)}
                | {name: row.get(name) for name in names}
            )
    columns = ["policy", "seed", "split", "update", "charged", *names]
    return pd.DataFrame(table, columns=columns)


def _joined(runs_dir: Path | str, units: Sequence[Unit], name: str) -> pd.DataFrame:
    """Return one CSV of all units that wrote it."""
    found = [
        pd.read_csv(path).assign(policy=_name(unit), seed=unit.seed)
        for unit in units
        if (path := _folder(runs_dir, unit) / name).exists()
    ]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=["policy", "seed"])


def _searches(runs_dir: Path | str, units: Sequence[Unit], tasks: dict[str, Task]) -> pd.DataFrame:
    """Return one line per execution of a search: what would be handed in then, as shares of the gap.

    Before the first one (number 0) that is the starter, also where a search has executed nothing at all.
    """
    table = []
    for unit in units:
        for row in read_jsonl(_folder(runs_dir, unit) / "searches.jsonl")[0]:
            task = tasks[row["task"]]
            for point in [{"execution": 0, "report": task.baseline["report"]}, *row["points"]]:
                table.append(
                    {
                        "policy": row["method"],
                        "seed": unit.seed,
                        "task": row["task"],
                        "split": row["split"],
                        "repeat": row["repeat"],
                        "execution": point["execution"],
                        "gap": gap_closed(point["report"], task.baseline["report"], task.best["report"]),
                    }
                )
    columns = ["policy", "seed", "task", "split", "repeat", "execution", "gap"]
    return pd.DataFrame(table, columns=columns)


def _units(runs_dir: Path | str, units: Sequence[Unit], done: Iterable[Unit]) -> pd.DataFrame:
    """Return one line per unit: seed, name, whether it is finished, its seconds and what it counted."""
    table, done = [], set(done)
    for unit in units:
        folder = _folder(runs_dir, unit)
        manifest = read_manifest(folder) if unit in done else None
        summary = (manifest or {}).get("summary") or {}
        line = {"seed": unit.seed, "unit": unit.name, "finished": unit in done}
        line |= {"wall_s": manifest["wall_s"] if manifest else np.nan}
        table.append(line | {"trajectories": summary.get("trajectories", np.nan)})
    return pd.DataFrame(table)


def _manifest(runs_dir: Path | str, done: Sequence[Unit], left: Sequence[Unit]) -> dict:
    manifests = {unit: read_manifest(_folder(runs_dir, unit)) for unit in done}
    return {
        "schema": "mlagent.ablations/1",
        "profile": PROFILE,
        "command": f"mlagent run --profile {PROFILE}",
        "arms": {arm.name: {"question": arm.question, "paper": arm.paper} for arm in ARMS},
        "units": {
            key_of(unit): {key: row.get(key) for key in KEPT}
            | {"outputs": {name: entry["sha256"] for name, entry in row["outputs"].items()}}
            for unit, row in manifests.items()
        },
        "left": [key_of(unit) for unit in left],
    }
