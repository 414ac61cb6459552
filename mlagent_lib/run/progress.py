"""Progress of a long cell, in JupyterLab and in a notebook that papermill executes, without widgets."""

from __future__ import annotations

import time


class Bar:
    """A line that tells how far a long cell is, updated in place; its last form stays in the notebook.

    Outside of a notebook it shows nothing.

    Args:
        what: The work, in a few words.
        total: Units in all.
        unit: Their name, in the plural.
    """

    def __init__(self, what: str, total: int, unit: str):
        from IPython import get_ipython

        self.what, self.total, self.unit, self.done = what, max(total, 1), unit, 0
        self._began, self._shown_at, self._handle = time.monotonic(), 0.0, None
        if get_ipython() is not None:
            from IPython.display import display

            self._handle = display(self._line(), raw=True, display_id=True)

    def to(self, done: int, note: str = "") -> None:
        """Show that ``done`` units are done."""
        self.done = min(done, self.total)
        now = time.monotonic()
        if self._handle is None or (now - self._shown_at < 0.3 and self.done < self.total):
            return
        self._shown_at = now
        self._handle.update(self._line(note), raw=True)

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
        spent = time.monotonic() - self._began
        clock = f"{int(spent) // 60}:{int(spent) % 60:02d}"
        bar = "█" * filled + "░" * (24 - filled)
        text = f"{self.what}  {bar}  {self.done} of {self.total} {self.unit}, {clock} min"
        return {"text/plain": f"{text}  {note}".rstrip()}
