"""From finished units of the comparison to its committed tables: CSV read and put together, and their origin.

Each unit has written its rows in the schema of all results; here they are only read and concatenated, as
text, so that they stay as they were written. Everything that is computed from them (intervals, differences,
verdicts, figures) is computed in `results`, again and again from the same files.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.arms.schedule import plan, run_of
from mlagent_lib.arms.units import Unit, units_of_seed
from mlagent_lib.core.arms import ARMS, PROFILE, arm_of
from mlagent_lib.core.artifacts import read_manifest
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import sha256_file, write_json, write_text
from mlagent_lib.results.arms import BY_ARM, RAW, load, manifest_of
from mlagent_lib.results.evaluation import measured, who
from mlagent_lib.tasks.registry import find_task, list_tasks
from mlagent_lib.tasks.task import Task

KEPT = ("seed", "git", "package", "versions", "platform", "device", "wall_s", "peak_memory_bytes", "attempts")


def gather(
    runs_dir: Path | str, out: Path | str, seeds: Sequence[int] | None = None, *, add: bool = False
) -> dict[str, pd.DataFrame]:
    """Write the tables of all finished units and return them by name; units that are not finished are named.

    Args:
        add: Whether units that ``out`` already holds, and the folder of runs does not, stay.

    Raises:
        RunError: Not one arm is finished; with ``add``, what ``out`` holds is damaged or of other tasks.
    """
    out, at = Path(out), plan(runs_dir, seeds)
    done = [unit for unit in at.units if unit in at.done]
    if not any(unit.kind == "arm" for unit in done):
        raise RunError(f"{runs_dir} holds no finished arm", cure=f"run 'mlagent run --profile {PROFILE}'")
    tables = {name: _joined(runs_dir, done, name) for name in (*BY_ARM, "searches")}
    tables["scales"] = scales_table(find_task(name) for name in list_tasks())
    tables["units"] = _units(runs_dir, at.units, at.done)
    manifest = _manifest(runs_dir, done, at.left)
    if add:
        tables, manifest = merged_tables(tables, manifest, out)
    for name in RAW:
        write_text(out / f"{name}.csv", tables[name].to_csv(index=False, lineterminator="\n"))
    sums = {f"{name}.csv": sha256_file(out / f"{name}.csv") for name in RAW}
    write_json(out / "manifest.json", manifest | {"files": sums})
    return load(out)


_SCALES = (
    *("task", "split", "paper_task", "metric", "greater_is_better"),
    *("init", "best", "init_feedback", "best_feedback"),
)


def scales_table(tasks: Iterable[Task]) -> pd.DataFrame:
    """Return one line per task: both ends of its scale, on the report and on the feedback labels."""
    rows = []
    for task in tasks:
        ends = [scores[labels] for labels in ("report", "feedback") for scores in (task.baseline, task.best)]
        rows.append(
            (task.name, task.split, task.paper_task, task.metric, bool(task.greater_is_better), *ends)
        )
    return pd.DataFrame(rows, columns=_SCALES)


def _folder(runs_dir: Path | str, unit: Unit) -> Path:
    return run_of(runs_dir, unit.seed) / unit.name


def _joined(runs_dir: Path | str, units: Sequence[Unit], name: str) -> pd.DataFrame:
    """Return one CSV of all units that wrote it, as text."""
    paths = [path for unit in units if (path := _folder(runs_dir, unit) / f"{name}.csv").exists()]
    if not paths:  # no unit of its kind is finished; whoever reads it asks for these columns
        return pd.DataFrame(columns=EMPTY[name])
    return pd.concat([_text(path) for path in paths], ignore_index=True)


EMPTY = {name: ["arm", "policy", "seed"] for name in BY_ARM} | {
    "curves": ["arm", "policy", "seed", "split", "update", "charged", "reward", "validity"],
    "searches": ["method", "seed", "task", "split", "repeat", "execution", "gap"],
}


def _text(source) -> pd.DataFrame:
    return pd.read_csv(source, dtype=str, keep_default_na=False)


def _units(runs_dir: Path | str, units: Sequence[Unit], done: Iterable[Unit]) -> pd.DataFrame:
    """Return one line per unit: seed, name, whether it is finished, its seconds and what it counted."""
    table, done = [], set(done)
    for unit in units:
        manifest = (read_manifest(_folder(runs_dir, unit)) if unit in done else None) or {}
        line = {"seed": unit.seed, "unit": unit.name, "finished": unit in done}
        line |= {"wall_s": manifest.get("wall_s", np.nan)}
        table.append(line | {"trajectories": (manifest.get("summary") or {}).get("trajectories", np.nan)})
    return pd.DataFrame(table)


def key_of(unit: Unit) -> str:
    """Return the name of a unit in a manifest.

    Example:
        >>> key_of(Unit(2, "arm-full"))
        'seed2/arm-full'
    """
    return f"seed{unit.seed}/{unit.name}"


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


def merged_tables(
    tables: Mapping[str, pd.DataFrame], manifest: Mapping, out: Path | str
) -> tuple[dict[str, pd.DataFrame], dict]:
    """Return tables and manifest with what a folder holds of units that the manifest does not name.

    Args:
        tables: Raw tables by name, of the units that the manifest names.
        manifest: Its ``units`` and ``left``, see `gather`.
        out: Folder with the raw tables of earlier, and their manifest.

    Raises:
        RunError: A table of the folder is missing or is not the one of its manifest; or its tasks are others.
    """
    out = Path(out)
    then, earlier = load(out), manifest_of(out)  # raises where a file is damaged
    before = {name: _text(out / f"{name}.csv") for name in RAW}
    now = {name: _text(io.StringIO(tables[name].to_csv(index=False))) for name in RAW}
    if not before["scales"].equals(now["scales"]):
        raise RunError(
            f"{out / 'scales.csv'} has other tasks or other scores of them than the runs to be added",
            cure="gather into a folder of its own with --out, or leave out --add",
        )
    kept = {key: row for key, row in earlier["units"].items() if key not in manifest["units"]}
    keys = dict.fromkeys([*_keys(tables["units"]), *manifest["units"], *kept])
    order = {key: place for place, key in enumerate(keys)}
    now["units"] = now["units"][[key not in kept for key in _keys(now["units"])]]
    found = {name: _both(now[name], before[name], kept, order) for name in RAW if name != "scales"}
    changed = {
        key
        for key, row in manifest["units"].items()
        if key in earlier["units"] and row["outputs"] != earlier["units"][key].get("outputs")
    }
    again = earlier.get("made_again", {}) | {
        key: {"before": _gap(then["trajectories"], key), "now": _gap(tables["trajectories"], key)}
        for key in sorted(changed, key=order.__getitem__)
        if "/arm-" in key
    }
    other = _made_from(kept, changed) | set(earlier.get("other_start", ()))
    every = {**manifest["units"], **kept}
    return found | {"scales": now["scales"]}, {
        **manifest,
        "units": {key: every[key] for key in sorted(every, key=order.__getitem__)},
        "left": [key for key in manifest["left"] if key not in kept],
        "kept": sorted(kept, key=order.__getitem__),
        "made_again": again,
        "other_start": sorted(other & set(kept), key=order.__getitem__),
    }


def _keys(rows: pd.DataFrame) -> list[str]:
    """Return the unit that each row of a raw table is from."""
    if "unit" in rows:
        return [f"seed{seed}/{unit}" for seed, unit in zip(rows["seed"], rows["unit"], strict=True)]
    if "method" in rows:
        return [f"seed{seed}/search" for seed in rows["seed"]]
    names = zip(rows["seed"], rows["arm"], rows["policy"], strict=True)
    return [f"seed{seed}/arm-{arm_of(who(arm, policy)).name}" for seed, arm, policy in names]


def _both(now: pd.DataFrame, before: pd.DataFrame, kept: Mapping, order: Mapping) -> pd.DataFrame:
    """Return the rows of both, of the older ones those of kept units, units in the order of the plan."""
    old = before[[key in kept for key in _keys(before)]]
    both = pd.concat([part for part in (now, old) if len(part)] or [now], ignore_index=True).fillna("")
    return (
        both.assign(_=[order[key] for key in _keys(both)]).sort_values("_", kind="stable").drop(columns="_")
    )


def _gap(trajectories: pd.DataFrame, key: str) -> float:
    """Return the mean over tasks of the gap closed, bounded as in all results, of one arm and seed."""
    own = trajectories[[own == key for own in _keys(trajectories)]]
    numbers = own.assign(
        gap_closed=pd.to_numeric(own["gap_closed"]),
        gain_pct=np.nan,
        unscored=own["unscored"].astype(str) == "True",
    )
    return round(float(measured(numbers, "gap").groupby("task")["value"].mean().mean()), 4)


def _made_from(units: Iterable[str], changed: set[str]) -> set[str]:
    """Return which of these units need one of those that have changed, directly or not."""
    needs = {}
    for seed in {int(key.removeprefix("seed").split("/")[0]) for key in units}:
        needs |= {
            key_of(unit): [key_of(Unit(seed, need)) for need in unit.needs] for unit in units_of_seed(seed)
        }

    def touched(key: str) -> bool:
        return key in changed or any(touched(need) for need in needs.get(key, ()))

    return {key for key in units if touched(key)}
