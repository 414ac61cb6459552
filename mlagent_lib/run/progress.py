"""Progress of a long cell, in JupyterLab and in a notebook that papermill executes, without widgets."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TOLD_IN = "MLAGENT_PROGRESS"  # names the file into which a kernel writes its line, for `told`
TELL_S = 60.0  # ours: between two lines in a terminal; many cells end before the first
SURE_S = 20.0  # ours: earlier the rate is a guess, and no time left is told


def minutes(seconds: float) -> str:
    """Return minutes and seconds.

    Example:
        >>> minutes(161.4)
        '2:41'
    """
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Bar:
    """A line that tells how far a long cell is, updated in place; its last form stays in the notebook.

    Outside of a notebook it shows nothing. The time left is told by the rate since units were first told, so
    that those made before an interruption do not count.
    """

    def __init__(self, what: str, total: int, unit: str):
        from IPython import get_ipython

        self.what, self.total, self.unit, self.done = what, max(total, 1), unit, 0
        self._began, self._shown_at, self._handle = time.monotonic(), 0.0, None
        self._first: tuple[float, int] | None = None
        if get_ipython() is not None:
            from IPython.display import display

            self._handle = display(self._line(), raw=True, display_id=True)

    def to(self, done: int, note: str = "") -> None:
        """Show that ``done`` units are done."""
        self.done = min(done, self.total)
        now = time.monotonic()
        self._first = self._first or (now, self.done)
        if self._handle is None or (now - self._shown_at < 0.3 and self.done < self.total):
            return
        self._shown_at = now
        line = self._line(note)
        self._handle.update(line, raw=True)
        if place := os.environ.get(TOLD_IN):
            Path(place).write_text(line["text/plain"], encoding="utf-8")

    def add(self, count: int, note: str = "") -> None:
        """Show that ``count`` units more are done."""
        self.to(self.done + count, note)

    def finish(self, note: str = "") -> None:
        """Show that all is done, where the total was only the most that could be."""
        self.total = max(self.done, 1)
        self._shown_at = 0.0
        self.to(self.done, note)

    def _line(self, note: str = "") -> dict:
        filled = round(24 * self.done / self.total)
        spent, bar = minutes(time.monotonic() - self._began), "█" * filled + "░" * (24 - filled)
        text = f"{self.what}  {bar}  {self.done} of {self.total} {self.unit}, {spent} min"
        return {"text/plain": f"{text}{self._left()}  {note}".rstrip()}

    def _left(self) -> str:
        """Return the time left in words, once the rate is known."""
        began, known = self._first or (time.monotonic(), 0)
        spent, made = time.monotonic() - began, self.done - known
        if spent < SURE_S or made < 1 or self.done >= self.total:
            return ""
        return f", about {max(1, round(spent / made * (self.total - self.done) / 60))} min left"


@contextmanager
def told(place: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Tell the line that a kernel writes into a file, every `TELL_S` seconds while it changes."""
    place.unlink(missing_ok=True)
    stop, last = threading.Event(), ""

    def watch() -> None:
        nonlocal last
        while not stop.wait(TELL_S):
            line = place.read_text(encoding="utf-8", errors="replace") if place.is_file() else ""
            if line and line != last:
                say(f"      {line}")
                last = line

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
