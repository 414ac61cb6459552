"""Colours, markers and saving of figures: the same policy looks the same everywhere, also in grey.

The colours are those of Okabe and Ito, which colour-blind readers tell apart; every one comes with a marker
and a hatch, so that no figure needs colour to be read. Figures do not go through pyplot: no global state and
no display are touched.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import update_wrapper
from pathlib import Path
from typing import NamedTuple

import matplotlib.style
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

STYLE_FILE = Path(__file__).with_name("mlagent.mplstyle")
INK, MUTED = "#222222", "#666666"
GAP = "gap closed (0 starter, 1 best known, floor −1)"  # the one definition: `evaluation.BOUND`
SPARE = ("#CC79A7", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#E69F00")


class Look(NamedTuple):
    """How a policy, an outcome, an axis of ideas or a part of the time is drawn in every figure."""

    label: str
    colour: str
    marker: str
    hatch: str
    line: object

    @property
    def mark(self) -> dict:
        """Return colour and marker, as matplotlib names them."""
        return {"color": self.colour, "marker": self.marker}

    @property
    def stroke(self) -> dict:
        """Return what a labelled line of it looks like."""
        return self.mark | {"ls": self.line, "label": self.label}


def _looks() -> dict[str, Look]:
    with open(Path(__file__).with_name("looks.csv"), encoding="utf-8", newline="") as handle:
        rows = [(row.pop("key"), row.pop("dashes"), row) for row in csv.DictReader(handle)]
    lines = {dashes: (0, tuple(map(float, dashes.split()))) if dashes else "-" for _, dashes, _ in rows}
    return {key: Look(**row, line=lines[dashes]) for key, dashes, row in rows}


LOOKS = _looks()  # in the order of legends and axes


def look(key: str) -> Look:
    """Return the look of a key; an unknown one has its own name as label and a spare look that depends on it.

    Example:
        >>> look("rl").label
        'after RL'
    """
    if key in LOOKS:
        return LOOKS[key]
    at = sum(key.encode())
    hatch = ("++", "oo", "--")[at % 3]
    return Look(key, SPARE[at % len(SPARE)], "<>hp*"[at % 5], hatch, (0, (4, 1, 1, 1)))


def ordered(keys) -> list[str]:
    """Return distinct keys: known ones in the order of `LOOKS`, then the others as they came."""
    found = list(dict.fromkeys(keys))
    return [key for key in LOOKS if key in found] + [key for key in found if key not in LOOKS]


@contextmanager
def styled() -> Iterator[None]:
    """Draw under the committed style alone, whatever the reader's own matplotlib settings are."""
    with matplotlib.style.context(["default", str(STYLE_FILE)]):
        yield


class KitFigure(Figure):
    """A figure that shows itself in a notebook (as PNG) without pyplot."""

    def _repr_png_(self) -> bytes:
        return _bytes(self, ".png")


def new_figure(width: float, height: float) -> KitFigure:
    """Return an empty figure of ``width`` × ``height`` inches. Call it inside `styled`."""
    figure = KitFigure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    figure.get_layout_engine().set(w_pad=0.06, h_pad=0.05, wspace=0.05)
    return figure


def number(value: float, digits: int = 2) -> str:
    """Return a number with a typographic minus and without a negative zero.

    Example:
        >>> number(-0.001), number(0.456)
        ('0.00', '0.46')
    """
    text = f"{value:.{digits}f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "\u2212")


def span(values: pd.Series) -> str:
    """Return the lowest and the highest of whole numbers in words, or the one that all are.

    Example:
        >>> span(pd.Series([3, 8, 5])), span(pd.Series([3, 3]))
        ('3 to 8', '3')
    """
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def ends(low: float, high: float, digits: int = 2) -> str:
    """Return an interval in brackets, or nothing where there is none.

    Example:
        >>> ends(0.1, 0.25), ends(float("nan"), float("nan"))
        ('[0.10, 0.25]', '')
    """
    return "" if pd.isna(low) else f"[{number(low, digits)}, {number(high, digits)}]"


def plain_interval(value: float, low: float, high: float, digits: int, unit: str = "") -> str:
    """Return a number with its interval, where it has one, for Markdown: with the minus of a keyboard.

    Example:
        >>> plain_interval(-9e-6, -1.25, 2, 1, " %"), plain_interval(0.5, float("nan"), float("nan"), 2)
        ('0.0 % [-1.2, 2.0]', '0.50')
    """
    words = [f"{round(each, digits) + 0.0:.{digits}f}" for each in (value, low, high)]
    return words[0] + unit + ("" if pd.isna(low) else f" [{words[1]}, {words[2]}]")


def drawn(*columns: str, name: str = "") -> Callable:
    """Decorate a function that draws a table into a figure: return the figure of the table, in our style.

    It raises `ValueError` naming what the table lacks of the ``columns``. ``name`` is that of the figure, the
    function's by default.
    """

    def decorate(draw: Callable) -> Callable:
        def checked(df: pd.DataFrame) -> Figure:
            missing = [column for column in columns if column not in df]
            if missing or df.empty:
                what = f"lacks the columns {missing}" if missing else "has no rows"
                title = name or draw.__name__
                raise ValueError(f"the table of figure {title!r} {what}: it needs {', '.join(columns)}")
            with styled():
                figure = new_figure(6.4, 4.8)
                draw(figure, df)
            return figure

        return update_wrapper(checked, draw)

    return decorate


def note(axis, text: str, at: tuple[float, float], *, offset: int = 7, **how) -> None:
    """Write a number to the right of a place."""
    axis.annotate(text, at, xytext=(offset, 0), textcoords="offset points", va="center", **how)


def footer(figure: Figure, df: pd.DataFrame, *facts: str) -> None:
    """Write the small line under a figure (facts, then profile and hardware where known) and fix the layout.

    Call it last. The solver behind the layout differs in the last bits from call to call, so its result is
    rounded and kept: otherwise two equal figures would not have equal bytes.
    """
    parts = [fact for fact in facts if fact]
    for name in ("profile", "hardware"):
        if name in df and df[name].notna().any():
            values = [str(value) for value in dict.fromkeys(df[name].dropna())]
            parts.append(f"{name}: {', '.join(values)}")
    inch = 1 / figure.get_figheight()
    lines = textwrap.wrap(" · ".join(parts), int(18 * figure.get_figwidth()))  # characters to an inch
    strip = (0.12 + 0.12 * len(lines)) * inch  # kept free below the axes
    figure.text(0.01, 0.06 * inch, "\n".join(lines), fontsize=7.5, color=MUTED).set_in_layout(False)
    figure.get_layout_engine().set(rect=(0, strip, 1, 1 - strip))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for axis in figure.axes:
        box = axis.get_position(original=True)
        axis.set_position([round(float(value), 4) for value in box.bounds])


def with_run(df: pd.DataFrame, *, profile: str, hardware: str) -> pd.DataFrame:
    """Return ``df`` with the columns ``profile`` and ``hardware``, which figures print in their footer."""
    return df.assign(profile=profile, hardware=hardware)


def _bytes(figure: Figure, suffix: str) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if suffix == ".svg" else {"Software": None}
    with styled():
        figure.savefig(buffer, format=suffix[1:], metadata=metadata)
    return buffer.getvalue()


def csv_bytes(df: pd.DataFrame) -> bytes:
    """Return the table as CSV bytes, from which pandas reads every float back exactly."""
    return df.to_csv(index=False, lineterminator="\n").encode()


def figure_files(name: str, figure: Figure, df: pd.DataFrame) -> dict[str, bytes]:
    """Return ``<name>.csv``, ``.png`` and ``.svg`` of a figure and the table that it was drawn from.

    The same figure gives the same bytes on every call: no dates, no random ids, one style file.
    """
    pictures = {f"{name}{suffix}": _bytes(figure, suffix) for suffix in (".png", ".svg")}
    return {f"{name}.csv": csv_bytes(df)} | pictures
