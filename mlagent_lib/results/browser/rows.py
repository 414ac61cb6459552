"""Finds the trajectory files of a run and reads them line by line; a damaged row is named, never guessed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mlagent_lib.agents.schema import validate_row
from mlagent_lib.core.errors import RunError

PATTERN = "trajectories*.jsonl"
_COLUMNS = {"task", "metric", "greater_is_better", "best"}


@dataclass
class TrajectoryFile:
    """One file of trajectories, named by its path below the run folder.

    ``rows`` keep the format, without the states but for their ``task_digest``; ``problems`` say what is wrong
    with each row left out, with its line number.
    """

    name: str
    rows: list[dict] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Scale:
    """What a score of one task is compared with; what is not known is empty.

    ``better`` is ``higher`` or ``lower``, ``best`` the best known score in the unit of the metric, ``labels``
    those that it was measured on: ``feedback``, as the steps' scores, or ``report``.
    """

    metric: str = ""
    better: str = ""
    best: float | None = None
    labels: str = ""


def read_files(run_dir: str | Path) -> list[TrajectoryFile]:
    """Return every trajectory file below a folder, in the order of their names, or the one file given.

    Folders that a stage moved aside (``.old-1``, ...) and hidden ones are left out.

    Raises:
        RunError: If there is no such folder or file.
    """
    place = Path(run_dir)
    if place.is_file():
        return [_read(place, place.name)]
    if not place.is_dir():
        cure = "make a run with `mlagent run`, or name a folder that holds a trajectories.jsonl"
        raise RunError(f"there is no run folder {place}", cure=cure)
    found = sorted(place.rglob(PATTERN))
    named = [(path, path.relative_to(place)) for path in found if not path.is_dir()]
    return [_read(path, name.as_posix()) for path, name in named if not _is_aside(name)]


def _is_aside(name: Path) -> bool:
    return any(part.startswith(".") or ".old-" in part for part in name.parts)


def _read(path: Path, name: str) -> TrajectoryFile:
    out = TrajectoryFile(name)
    try:
        with open(path, "rb") as handle:
            for number, line in enumerate(handle, 1):
                if line.strip():
                    _add(out, line, f"line {number}")
    except OSError as error:
        out.problems.append(f"cannot be read: {error.strerror}")
    return out


def _add(out: TrajectoryFile, line: bytes, where: str) -> None:
    try:
        row = json.loads(line.decode("utf-8"))
        validate_row(row, where=where)
    except RunError as error:
        out.problems.append(error.message)
    except (ValueError, RecursionError):  # also UnicodeDecodeError and JSONDecodeError
        out.problems.append(f"{where}: not a line of JSON")
    else:
        for step in row["steps"]:  # a state repeats the whole history: most of the file, and not shown
            step["state"] = {"task_digest": (step["state"] or {}).get("task_digest")}
        out.rows.append(row)


def scales_of(run_dir: str | Path, rows: list[dict]) -> tuple[dict[str, Scale], list[str]]:
    """Return the scale of each task in ``rows``, and the problems of the tables that were read for it.

    A pocket task has its best known score on the feedback labels, if the states were made with the data that
    it was measured on. Any other task has what the evaluation of the run states (``tasks.csv``), on the
    report labels, or nothing.
    """
    tables, problems = {}, []
    place = Path(run_dir)
    for path in sorted(place.glob("*/tasks.csv")) if place.is_dir() else ():
        name = path.relative_to(place)
        if not _is_aside(name):
            try:
                tables = dict(_table(path)) | tables
            except (OSError, ValueError) as error:
                problems.append(f"{name.as_posix()}: {error}")
    pocket = _pocket_scales(rows)
    names = dict.fromkeys(row["task"] for row in rows)
    return {name: pocket.get(name) or tables.get(name) or Scale() for name in names}, problems


def _table(path: Path) -> Iterator[tuple[str, Scale]]:
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := _COLUMNS - set(table):
        raise ValueError(f"the column {sorted(missing)[0]} is missing")
    for line in table.to_dict("records"):
        best = float(line["best"] or "nan")
        known = (best, "report") if math.isfinite(best) else (None, "")
        better = "higher" if line["greater_is_better"] == "True" else "lower"
        yield line["task"], Scale(line["metric"], better, *known)


def _pocket_scales(rows: list[dict]) -> dict[str, Scale]:
    """Return the scales of the pocket tasks whose data are those that the kit's scores were measured on."""
    from mlagent_lib.tasks.metrics import get_metric
    from mlagent_lib.tasks.pocket.cards import CARDS
    from mlagent_lib.tasks.pocket.suite import recorded_scores

    seen = {(row["task"], step["state"]["task_digest"]) for row in rows for step in row["steps"]}
    scores, out = recorded_scores(), {}
    for card in CARDS:
        known = scores.get(card.name)
        if known and (card.name, known["digest"]) in seen:
            better = "higher" if get_metric(card.metric).greater_is_better else "lower"
            out[card.name] = Scale(card.metric, better, float(known["best"]["feedback"]), "feedback")
    return out
