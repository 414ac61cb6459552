"""Every figure by name: drawn from a table, saved as CSV, PNG and SVG, and redrawn from the CSV alone.

One function per figure, a table in and a matplotlib figure out (`plots_run`, `plots_arms`). Nothing is
computed here and nothing is trained, so `redraw_all` draws everything again in seconds. Each function names
its columns; ``profile`` and ``hardware`` are optional columns of every table (`style.with_run`), which the
footer prints beside n and the interval.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import write_bytes
from mlagent_lib.results import plots_arms, plots_run
from mlagent_lib.results.style import csv_bytes, figure_files

RUN_FIGURES, ARM_FIGURES = plots_run.FIGURES, plots_arms.FIGURES
FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = RUN_FIGURES | ARM_FIGURES


def draw_files(name: str, df: pd.DataFrame) -> tuple[Figure, dict[str, bytes]]:
    """Return figure ``name`` and its CSV, PNG and SVG by name of file, drawn from what a reader will read.

    Raises:
        ValueError: If there is no figure of that name, or its table lacks a column.
    """
    if name not in FIGURES:
        raise ValueError(f"there is no figure {name!r}: choose one of {', '.join(FIGURES)}")
    df = pd.read_csv(io.BytesIO(csv_bytes(df)))
    figure = FIGURES[name](df)
    return figure, figure_files(name, figure, df)


def render(name: str, df: pd.DataFrame, figures_dir: str | Path) -> Figure:
    """Draw figure ``name`` from ``df``, write CSV, PNG and SVG to ``figures_dir`` and return the figure."""
    figure, files = draw_files(name, df)
    put(figures_dir, files)
    return figure


def from_csv(figures_dir: str | Path, name: str) -> Figure | str:
    """Return figure ``name`` drawn from its CSV, or words that say that its arms were not run."""
    path = Path(figures_dir) / f"{name}.csv"
    return FIGURES[name](pd.read_csv(path)) if path.is_file() else f"{name}: its arms were not run yet"


def put(
    folder: str | Path, files: Mapping[str, bytes], *, check: bool = False, command: str = "mlagent run"
) -> list[str]:
    """Write the files whose bytes differ from what lies in a folder and return their names.

    Args:
        check: Write nothing, only compare.
        command: What makes the results again.

    Raises:
        RunError: A file that should be checked is missing.
    """
    changed = []
    for name, content in files.items():
        path = Path(folder) / name
        if path.is_file() and path.read_bytes() == content:
            continue
        if check and not path.is_file():
            cure = f"run 'mlagent figures' to draw it, or '{command}' to make its results"
            raise RunError(f"{path} is missing", cure=cure)
        if not check:
            write_bytes(path, content)
        changed.append(name)
    return changed


def redraw_all(figures_dir: str | Path, *, check: bool = False, only: Sequence[str] = ()) -> list[str]:
    """Redraw every figure of runs from its CSV and return the names of the files whose bytes changed.

    Args:
        figures_dir: Folder with ``<figure>.csv``.
        check: Write nothing there, only compare.

    Raises:
        RunError: If a file is missing or a CSV cannot be drawn.
    """
    folder, names, changed = Path(figures_dir), list(only) or list(RUN_FIGURES), []
    missing = [f"{name}.csv" for name in names if not (folder / f"{name}.csv").is_file()]
    if missing:
        cure = f"run `mlagent run --profile laptop` and copy runs/<id>/figures/*.csv to {folder}"
        raise RunError(f"{folder} lacks {', '.join(missing)}, from which the figures are drawn", cure=cure)
    for name in names:
        try:
            _, files = draw_files(name, pd.read_csv(folder / f"{name}.csv"))
        except (ValueError, KeyError) as error:
            cure = "restore the file from git"
            raise RunError(f"{folder / name}.csv cannot be drawn: {error}", cure=cure) from error
        changed += put(folder, files, check=check)
    return changed
