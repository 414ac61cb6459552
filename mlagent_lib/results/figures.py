"""Every figure by name: drawn from a table, saved as CSV, PNG and SVG, and redrawn from the CSV alone.

One function per figure, a table in and a matplotlib figure out (`plots_policies`, `plots_run`). Nothing is
computed here and nothing is trained, so `redraw_all` draws everything again in seconds. Each function names
its columns; ``profile`` and ``hardware`` are optional columns of every table (`style.with_run`), which the
footer prints beside n and the interval.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from mlagent_lib.core.errors import RunError
from mlagent_lib.results.plots_policies import before_after, best_at_k, gap_by_policy, outcome_shares
from mlagent_lib.results.plots_run import idea_map, learning_curve, minutes, reward_shape
from mlagent_lib.results.style import csv_bytes, read_table, save_figure, with_run

__all__ = [
    "FIGURES",
    "before_after",
    "best_at_k",
    "gap_by_policy",
    "idea_map",
    "learning_curve",
    "minutes",
    "outcome_shares",
    "redraw_all",
    "render",
    "reward_shape",
    "save_figure",
    "with_run",
]

FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    "learning_curve": learning_curve,
    "gap_by_policy": gap_by_policy,
    "before_after": before_after,
    "idea_map": idea_map,
    "minutes": minutes,
    "outcome_shares": outcome_shares,
    "reward_shape": reward_shape,
    "best_at_k": best_at_k,
}


def render(name: str, df: pd.DataFrame, figures_dir: str | Path) -> Figure:
    """Draw figure ``name`` from ``df``, write CSV, PNG and SVG to ``figures_dir`` and return the figure.

    Raises:
        ValueError: If there is no figure of that name, or its table lacks a column.
    """
    if name not in FIGURES:
        raise ValueError(f"there is no figure {name!r}: choose one of {', '.join(FIGURES)}")
    with tempfile.TemporaryDirectory() as folder:  # draw from what a redraw will read
        copy = Path(folder) / "table.csv"
        copy.write_bytes(csv_bytes(df))
        df = read_table(copy)
    figure = FIGURES[name](df)
    save_figure(figure, df, Path(figures_dir) / name)
    return figure


def redraw_all(figures_dir: str | Path, *, check: bool = False, only: Sequence[str] = ()) -> list[str]:
    """Redraw every figure from its CSV and return the names of the files whose bytes changed.

    Args:
        figures_dir: Folder with ``<figure>.csv``.
        check: Write nothing there, only compare.
        only: Names of figures; all by default.

    Raises:
        RunError: If a CSV is missing or cannot be drawn.
    """
    folder, names = Path(figures_dir), list(only) or list(FIGURES)
    missing = [f"{name}.csv" for name in names if not (folder / f"{name}.csv").is_file()]
    if missing:
        raise RunError(
            f"{folder} lacks {', '.join(missing)}, from which the figures are drawn",
            cure=f"run `mlagent run --profile laptop` and copy runs/<id>/figures/*.csv to {folder}",
        )
    changed = []
    for name in names:
        try:
            df = read_table(folder / f"{name}.csv")
            figure = FIGURES[name](df)
        except (ValueError, KeyError) as error:
            raise RunError(
                f"{folder / name}.csv cannot be drawn: {error}", cure="restore the file from git"
            ) from error
        with tempfile.TemporaryDirectory() as scratch:
            for new in save_figure(figure, df, Path(scratch) / name):
                old = folder / new.name
                if not old.is_file() or old.read_bytes() != new.read_bytes():
                    changed.append(new.name)
        if not check:
            save_figure(figure, df, folder / name)
    return changed
