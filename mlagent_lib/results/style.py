"""Colours, markers and saving of figures: the same policy looks the same everywhere, also in grey.

The colours are those of Okabe and Ito, which colour-blind readers tell apart; every one comes with a marker
and a hatch, so that no figure needs colour to be read. Figures do not go through pyplot: no global state and
no display are touched.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style
import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mlagent_lib.core.files import write_bytes

__all__ = [
    "KitFigure",
    "look",
    "need",
    "new_figure",
    "number",
    "read_table",
    "save_figure",
    "styled",
    "with_run",
]

STYLE_FILE = Path(__file__).with_name("mlagent.mplstyle")
SUFFIXES = (".csv", ".png", ".svg")
INK, MUTED = "#222222", "#666666"

# key: (label, colour, marker, hatch, line style); also the order in legends and on axes
LOOKS = {
    "starter": ("starter script", "#000000", "|", "", (0, (1, 2))),
    "random-ideas": ("random ideas", "#999999", "v", "..", (0, (1, 1))),
    "expert": ("scripted expert", "#56B4E9", "P", "xx", (0, (5, 1, 1, 1))),
    "base": ("base model", "#E69F00", "s", "\\\\\\", (0, (3, 1))),
    "sft": ("after SFT", "#0072B2", "D", "///", (0, (6, 2))),
    "rl": ("after RL", "#D55E00", "o", "", "-"),
    "episode-wise": ("episode-wise RL", "#0072B2", "s", "", (0, (3, 1))),
    "episode-small": ("episode-wise, equal actions", "#56B4E9", "^", "", (0, (1, 1))),
    "ML-Agent": ("ML-Agent", "#D55E00", "o", "", "-"),
    "Qwen2.5-7B-Instruct": ("Qwen2.5-7B-Instruct", "#E69F00", "s", "", (0, (3, 1))),
    "Qwen2.5-32B-Instruct": ("Qwen2.5-32B-Instruct", "#999999", "v", "", (0, (1, 1))),
    "GPT-4o-mini": ("GPT-4o-mini", "#56B4E9", "P", "", (0, (5, 1, 1, 1))),
    "GPT-4o": ("GPT-4o", "#0072B2", "D", "", (0, (6, 2))),
    "DeepSeek-R1": ("DeepSeek-R1", "#009E73", "^", "", (0, (1, 2))),
    "step-wise": ("step-wise RL", "#D55E00", "o", "", "-"),
    "feedback labels (paid)": ("feedback labels (paid)", "#0072B2", "D", "", "-"),
    "report labels": ("report labels", "#D55E00", "o", "", "-"),
    "difference": ("difference", "#222222", "s", "", "-"),
    "0k": ("no RL", "#000000", "|", "", (0, (1, 2))),
    "3k": ("3k states", "#56B4E9", "^", "", (0, (5, 1, 1, 1))),
    "10k": ("10k states", "#0072B2", "D", "", (0, (6, 2))),
    "30k": ("30k states", "#D55E00", "o", "", "-"),
    "trained policy, trajectories": ("trained policy, trajectories", "#D55E00", "o", "", "-"),
    "trained policy, tree": ("trained policy, tree", "#E69F00", "s", "", (0, (3, 1))),
    "SFT, best of N trajectories": ("SFT, best of N trajectories", "#0072B2", "D", "", (0, (6, 2))),
    "SFT, tree": ("SFT, tree", "#56B4E9", "^", "", (0, (1, 1))),
    "held-in": ("held-in tasks", "#0072B2", "D", "", "-"),
    "held-out": ("held-out tasks", "#E69F00", "s", "", (0, (4, 1.5))),
    "edited": ("edited and scored", "#009E73", "o", "", "-"),
    "neutral": ("neutral", "#BBBBBB", "s", "..", "-"),
    "corner": ("corner (out of time or memory)", "#F0E442", "^", "\\\\\\", "-"),
    "error": ("error in the script or tool", "#E69F00", "v", "xx", "-"),
    "invalid": ("invalid reply", "#D55E00", "X", "///", "-"),
    "data": ("data", "#0072B2", "o", "", "-"),
    "model": ("model", "#E69F00", "s", "", "-"),
    "learning": ("learning", "#009E73", "^", "", "-"),
    "generation": ("generation", "#56B4E9", "o", "///", "-"),
    "coder": ("the coder", "#F0E442", "P", "++", "-"),
    "execution": ("execution of scripts", "#E69F00", "s", "\\\\\\", "-"),
    "update": ("update", "#009E73", "^", "xx", "-"),
    "other": ("other", "#DDDDDD", "v", "..", "-"),
    "whole stage": ("whole stage", "#0072B2", "D", "", "-"),
}
SPARE = ("#CC79A7", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#E69F00")


def look(key: str) -> tuple[str, str, str, str, object]:
    """Return (label, colour, marker, hatch, line style) of a policy, outcome, axis or part.

    An unknown key gets its own name as label and a spare look that depends on the name only.

    Example:
        >>> look("rl")[0]
        'after RL'
    """
    if key in LOOKS:
        return LOOKS[key]
    index = sum(key.encode())
    return (
        key,
        SPARE[index % len(SPARE)],
        "<>hp*"[index % 5],
        ("++", "oo", "--")[index % 3],
        (0, (4, 1, 1, 1)),
    )


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


def need(df: pd.DataFrame, figure: str, *columns: str) -> None:
    """Raise `ValueError` naming what the table of ``figure`` lacks."""
    missing = [name for name in columns if name not in df]
    if missing or df.empty:
        what = f"lacks the columns {missing}" if missing else "has no rows"
        raise ValueError(f"the table of figure {figure!r} {what}: it needs {', '.join(columns)}")


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
    strip = 0.24 / figure.get_figheight()  # inches kept free below the axes
    figure.text(
        0.01, 0.06 / figure.get_figheight(), " · ".join(parts), fontsize=7.5, color=MUTED
    ).set_in_layout(False)
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
    """Return the table as CSV bytes that `read_table` gives back exactly."""
    return df.to_csv(index=False, lineterminator="\n").encode()


def read_table(path: str | Path) -> pd.DataFrame:
    """Return a CSV written by `save_figure`, every float as it was."""
    return pd.read_csv(path)  # pandas 3 reads every float back exactly


def save_figure(figure: Figure, df: pd.DataFrame, path_stem: str | Path) -> list[Path]:
    """Write ``<stem>.csv``, ``.png`` and ``.svg`` and return their paths.

    The same figure gives the same bytes on every call: no dates, no random ids, one style file.

    Args:
        figure: What a function of `figures` returned.
        df: The table it was drawn from.
        path_stem: Path without suffix; its folder is made if needed.
    """
    stem = Path(path_stem)
    contents = {".csv": csv_bytes(df), ".png": _bytes(figure, ".png"), ".svg": _bytes(figure, ".svg")}
    paths = []
    for suffix, content in contents.items():
        path = stem.with_name(stem.name + suffix)
        paths.append(write_bytes(path, content))
    return paths
