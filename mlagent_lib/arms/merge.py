"""Results of arms that were made in several places: what a folder of tables holds already stays as it is.

A unit that is in both places is taken from the folder of runs. Rows are handled as text, so that what is kept
is kept as it was written.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from mlagent_lib.arms.units import Unit, units_of
from mlagent_lib.core.errors import RunError
from mlagent_lib.results.arms import RAW, Tables, frame_of, load, manifest_of

BY_ARM = ("trajectories", "steps", "curves", "edits", "blame", "luck")


def key_of(unit: Unit) -> str:
    """Return the name of a unit in a manifest.

    Example:
        >>> key_of(Unit(2, "arm-full"))
        'seed2/arm-full'
    """
    return f"seed{unit.seed}/{unit.name}"


def merged(
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
    then = load(out)  # raises where a file is damaged
    earlier = manifest_of(out)
    before = {name: _text((out / f"{name}.csv").read_text(encoding="utf-8")) for name in RAW}
    now = {name: _text(tables[name].to_csv(index=False)) for name in RAW}
    if not before["tasks"].equals(now["tasks"]):
        raise RunError(
            f"{out / 'tasks.csv'} has other tasks or other scores of them than the runs to be added",
            cure="gather into a folder of its own with --out, or leave out --add",
        )
    kept = {key: row for key, row in earlier["units"].items() if key not in manifest["units"]}
    in_order = dict.fromkeys([*_unit_keys(now["units"]), *manifest["units"], *kept])
    order = {key: place for place, key in enumerate(in_order)}
    found = {"tasks": now["tasks"]}
    for name in BY_ARM:
        found[name] = _joined(now[name], before[name], _arm_keys, kept, order)
    found["searches"] = _joined(now["searches"], before["searches"], _search_keys, kept, order)
    missing = now["units"][[key not in kept for key in _unit_keys(now["units"])]]
    found["units"] = _joined(missing, before["units"], _unit_keys, kept, order)
    changed = {
        key
        for key, row in manifest["units"].items()
        if key in earlier["units"] and row["outputs"] != earlier["units"][key].get("outputs")
    }
    again = earlier.get("made_again", {}) | {
        key: {"before": _gap(then, key), "now": _gap(tables, key)}
        for key in sorted(changed, key=order.__getitem__)
        if "/arm-" in key
    }
    other = _made_from(kept, changed) | set(earlier.get("other_start", ()))
    every = {**manifest["units"], **kept}
    return found, {
        **manifest,
        "units": {key: every[key] for key in sorted(every, key=order.__getitem__)},
        "left": [key for key in manifest["left"] if key not in kept],
        "kept": sorted(kept, key=order.__getitem__),
        "made_again": again,
        "other_start": sorted(other & set(kept), key=order.__getitem__),
    }


def origin_lines(manifest: Mapping) -> list[str]:
    """Return in words which units stay from earlier results; nothing where none do.

    Args:
        manifest: Of a folder of tables.

    Example:
        >>> again = {"seed0/arm-full": {"before": 0.374, "now": 0.371}}
        >>> origin_lines({"kept": ["seed0/arm-sft"], "other_start": ["seed0/arm-sft"], "made_again": again})
        ... # doctest: +NORMALIZE_WHITESPACE
        ['1 units stay from earlier results, of which 1 started from files that were made again since, with
          other bytes', '1 arms were made again: their gap closed differs from before by 0.003 at most']
    """
    kept, other, again = (manifest.get(name, ()) for name in ("kept", "other_start", "made_again"))
    lines = [f"{len(kept)} units stay from earlier results"] if kept else []
    if other:
        lines[0] += f", of which {len(other)} started from files that were made again since, with other bytes"
    if again:
        most = max(abs(row["now"] - row["before"]) for row in again.values())
        lines.append(
            f"{len(again)} arms were made again: their gap closed differs from before by {most:.3f} at most"
        )
    return lines


def _gap(tables: Tables, key: str) -> float:
    """Return the mean over tasks of the gap closed, bounded as in all results, of one arm and seed."""
    rows = frame_of(tables, "gap")
    own = rows[[own == key for own in _arm_keys(rows)]]
    return round(float(own.groupby("task")["value"].mean().mean()), 4)


def _made_from(units: Iterable[str], changed: set[str]) -> set[str]:
    """Return which of these units need one of those that have changed, directly or not."""
    needs = {}
    for key in units:
        seed = key.removeprefix("seed").split("/")[0]
        needs |= {key_of(unit): [f"seed{seed}/{need}" for need in unit.needs] for unit in units_of(int(seed))}

    def touched(key: str) -> bool:
        return key in changed or any(touched(need) for need in needs.get(key, ()))

    return {key for key in units if touched(key)}


def _text(text: str) -> pd.DataFrame:
    return pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)


def _arm_keys(rows: pd.DataFrame) -> list[str]:
    return [f"seed{row.seed}/arm-{row.policy}" for row in rows[["seed", "policy"]].itertuples()]


def _search_keys(rows: pd.DataFrame) -> list[str]:
    return [f"seed{seed}/search" for seed in rows["seed"]]


def _unit_keys(rows: pd.DataFrame) -> list[str]:
    return [f"seed{row.seed}/{row.unit}" for row in rows[["seed", "unit"]].itertuples()]


def _joined(now: pd.DataFrame, before: pd.DataFrame, keys, kept: Mapping, order: Mapping) -> pd.DataFrame:
    """Return the rows of both, of the older ones those of kept units, units in the order of the plan."""
    old = before[[key in kept for key in keys(before)]]
    both = pd.concat([part for part in (now, old) if len(part)] or [now], ignore_index=True).fillna("")
    return both.assign(_=[order[key] for key in keys(both)]).sort_values("_", kind="stable").drop(columns="_")
