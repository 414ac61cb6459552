"""A trajectory in the terminal while it is made, and the progress of many: text for people.

Whatever comes from a model or a script is shown without control characters, so that a reply cannot move the
cursor, colour the screen or hide a line. Colour is a help only: signs and words say the same.
"""

from __future__ import annotations

import difflib
import os
import shutil
import textwrap
import threading
import time
from collections.abc import Mapping, Sequence
from math import isfinite
from typing import TextIO

from mlagent_lib.agents.server.accounting import Call
from mlagent_lib.results.evaluation import BOUND, gap_closed, relative_gain_pct
from mlagent_lib.results.show import lines_of, reply_fields
from mlagent_lib.results.style import number
from mlagent_lib.run.progress import minutes
from mlagent_lib.tasks.task import Task

COLOURS = {"+": "32", "-": "31", "@": "36", "good": "32", "bad": "31", "head": "1", "soft": "2"}
SHOWN_FIELDS = {"Reflection": "reflects", "Thought": "thought"}
LONGEST_FIELD = 600  # characters of a thought; a page of it hides the rest
LONGEST_DIFF = 40  # lines
QUIET_S = 30.0  # between two lines of progress where the line cannot be written over


def printable(text: object) -> str:
    r"""Return text with everything that is not seen, but tab and newline, as a visible escape.

    Example:
        >>> printable("red \x1b[31m\u202e")
        'red \\u001b[31m\\u202e'
    """
    return "".join(
        c if c in "\n\t" or c.isprintable() else f"\\u{ord(c):04x}" for c in str(text).replace("\r\n", "\n")
    )


def wants_colour(out: TextIO) -> bool:
    """Return whether to colour: on a terminal, unless ``NO_COLOR`` is set or the terminal is a dumb one."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return _is_terminal(out) and not plain


def _is_terminal(out: TextIO) -> bool:
    return bool(getattr(out, "isatty", lambda: False)())


def score_text(value: float | None) -> str:
    """Return a score in four significant digits, or a dash.

    Example:
        >>> score_text(0.98765), score_text(None)
        ('0.9877', '–')
    """
    return "–" if value is None or not isfinite(value) else f"{value:.4g}"


class _Screen:
    """Where lines go; on a terminal the last of them may be one that the next replaces."""

    def __init__(self, out: TextIO):
        self.out, self.is_terminal = out, _is_terminal(out)
        self._lock, self._has_status = threading.RLock(), False

    def status(self, text: str) -> None:
        """Show what is going on now, in a line that the next one replaces; only on a terminal."""
        if self.is_terminal:
            columns = shutil.get_terminal_size((100, 24)).columns
            self._write("\r\x1b[K" + printable(text)[: columns - 1], is_status=bool(text))

    def _print(self, text: str) -> None:
        with self._lock:
            self._write(("\r\x1b[K" if self._has_status else "") + f"{text}\n")

    def _write(self, text: str, *, is_status: bool = False) -> None:
        with self._lock:
            self.out.write(text)
            self.out.flush()
            self._has_status = is_status


class LiveView(_Screen):
    """Shows one trajectory, step by step.

    Args:
        task: Its task: metric, direction, scale.
        colour: None to decide by ``out``.
    """

    def __init__(self, out: TextIO, task: Task, max_steps: int, *, colour: bool | None = None):
        super().__init__(out)
        self.task, self.max_steps = task, max_steps
        self.colour = wants_colour(out) if colour is None else colour
        self.width = max(min(shutil.get_terminal_size((100, 24)).columns, 120), 40)
        self._path: list[str] = []

    def start(self, policy: str, coder: str, tier: str, seed: int) -> None:
        """Show who is at work on what."""
        task = self.task
        self._print(self._tint(f"{task.name}: {task.metric}, {task.better} is better", "head"))
        self._print(f"policy {policy} · coder {coder} · seed {seed} · isolation {tier}")
        ends = score_text(task.baseline.get("feedback")), score_text(task.best.get("feedback"))
        self._print("feedback score of the starter {}, best known {}".format(*ends))
        self._at_work(1)

    def step(self, step: Mapping, calls: Sequence[Call] = ()) -> None:
        """Show a step as it was recorded.

        Args:
            calls: For its reply to a model server.
        """
        count = step["step"] + 1
        self._head(f"step {count} of at most {self.max_steps}")
        self._reply(step)
        self._diff(step["script_before"], step["script_after"])
        if step["outcome"] in ("error", "corner", "invalid") and step["observation"]:
            self._named("told", step["observation"].strip().splitlines()[-1])
        if asked := _asked(calls):
            self._named("server", asked)
        self._verdict(step)
        if count < self.max_steps:
            self._at_work(count + 1)

    def end(self, row: Mapping) -> None:
        """Show where a trajectory started, where it ended, and what was gained, on the feedback labels."""
        self.status("")
        last, stop = row["final"]["feedback_last"], row["final"]["stop"]
        start = row["steps"][0]["score_before"] if row["steps"] else None
        start = self.task.baseline.get("feedback") if start is None else start
        self._head("end")
        self._print(f"feedback score {score_text(start)} → {score_text(last)}, {self._gain(start, last)}")
        self._print(f"stopped: {stop}, after {len(row['steps'])} steps")
        if stop == "unscored":
            self._print("not counted: a step could not be scored, through a failure of ours or of a server")

    def on_wait(self, seconds: float, why: str) -> None:
        """Tell that a rate limit makes us wait."""
        self.status(f"waiting {seconds:.0f} s: {why}")

    def _at_work(self, count: int) -> None:
        self.status(f"step {count} of at most {self.max_steps}: at work")

    def _head(self, title: str) -> None:
        self._print("")
        self._print(self._tint(f"{title} {'─' * max(self.width - len(title) - 1, 3)}", "head"))

    def _reply(self, step: Mapping) -> None:
        reply = str(step["reply"])
        if not step["action"]:
            self._named("reply", reply or "(empty)")
            return
        fields = reply_fields(reply)
        for field, label in SHOWN_FIELDS.items():
            if fields.get(field):
                self._named(label, fields[field])
        arguments = dict(step["action_input"] or {})
        instruction = arguments.pop("edit_instruction", None)
        shown = ", ".join(f"{name}={value}" for name, value in arguments.items())
        self._named("action", f"{step['action']} ({shown})")
        if instruction is not None:
            self._named("edit", instruction)

    def _diff(self, before: str, after: str) -> None:
        if not after or before == after:
            return
        lines = difflib.unified_diff(lines_of(before), lines_of(after), n=1, lineterm="")
        lines = [line for line in list(lines)[2:] if not line.startswith("@@")]
        for line in lines[:LONGEST_DIFF]:
            self._print("    " + self._tint(printable(line), line[:1]))
        if len(lines) > LONGEST_DIFF:
            self._print(f"    … {len(lines) - LONGEST_DIFF} lines more")

    def _verdict(self, step: Mapping) -> None:
        before, after, reward = step["score_before"], step["score_after"], step["reward"]
        if not self._path:
            self._path = [score_text(before)]
        self._path.append(score_text(after) if after is not None else step["outcome"])
        word, kind = "", "soft"
        if before is not None and after is not None:
            is_better = (after > before) == self.task.greater_is_better
            word = "same" if after == before else "better" if is_better else "worse"
            kind = {"better": "good", "worse": "bad"}.get(word, "soft")
        outcome = step["outcome"] + (f" ({step['reason']})" if step["reason"] else "")
        paid = "no reward" if reward is None else f"reward {reward:.3f}"
        time_taken = f"{step['seconds']:.1f} s" + (", known already" if step["cache_hit"] else "")
        moved = f"{score_text(before)} → {score_text(after)} {word}" if after is not None else "unchanged"
        self._named("score", f"{moved.strip()} · {paid} · {outcome} · {time_taken}", kind)
        self._named("path", " → ".join(self._path))

    def _gain(self, start: float | None, last: float | None) -> str:
        """Return the gain in percent and the share of the gap closed, as far as the task has a scale."""
        task, parts = self.task, []
        ends = task.baseline.get("feedback"), task.best.get("feedback")
        if last is not None and start is not None and start > 0:
            gain = relative_gain_pct(last, start, greater_is_better=task.greater_is_better)
            parts.append(f"gain {number(gain, 1)} %")
        if last is not None and None not in ends and ends[0] != ends[1]:
            share = number(max(BOUND, gap_closed(last, *ends)), 3)
            parts.append(f"gap closed {share} (0 starter, 1 best known, floor −1)")
        return ", ".join(parts) or "no gain is known"

    def _named(self, label: str, text: str, kind: str = "") -> None:
        shown = printable(text).strip()
        if len(shown) > LONGEST_FIELD:
            shown = f"{shown[:LONGEST_FIELD]} … ({len(shown) - LONGEST_FIELD} characters more)"
        wrap = textwrap.TextWrapper(self.width - 11, break_on_hyphens=False)
        lines = [part for line in shown.splitlines() for part in wrap.wrap(line) or [""]]
        for place, line in enumerate(lines or [""]):
            name = self._tint(f"  {label if place == 0 else '':<8} ", "soft")
            self._print(name + (self._tint(line, kind) if kind else line))

    def _tint(self, text: str, kind: str) -> str:
        return f"\x1b[{COLOURS[kind]}m{text}\x1b[0m" if self.colour and kind in COLOURS else text


def _asked(calls: Sequence[Call]) -> str:
    """Return what a step's reply took, where that is worth a line: tries, broken formats, known replies."""
    if not calls:
        return ""
    tokens = (sum(getattr(call, f"{kind}_tokens") for call in calls) for kind in ("prompt", "completion"))
    parts = ["{:,} tokens in, {:,} out".format(*tokens)]
    if broke := [call.broke for call in calls if call.broke]:
        parts.append(f"{len(broke)} of {len(calls)} replies broke the format ({', '.join(broke)})")
    if retries := sum(max(call.requests - 1, 0) for call in calls):
        parts.append(f"{retries} {'retry' if retries == 1 else 'retries'}")
    if hits := sum(call.hit for call in calls):
        parts.append("known already" if hits == len(calls) else f"{hits} known already")
    return ", ".join(parts)


class ProgressLine(_Screen):
    """How far many trajectories are, in one line: written over on a terminal, else now and then a new one.

    Args:
        clock: Seconds that only grow.
    """

    def __init__(self, out: TextIO, what: str, trajectories: int, max_steps: int, *, clock=time.monotonic):
        super().__init__(out)
        self.what, self.trajectories, self.max_steps = what, trajectories, max_steps
        self.steps = self.ended = self.unscored = 0
        self.requests = self.retries = self.hits = self.asked_again = self.tokens_in = self.tokens_out = 0
        self._clock, self._began, self._shown_at, self._note = clock, clock(), float("-inf"), ""

    def on_step(self, _job: object, _step: Mapping, stop: str) -> None:
        """Count a step, and the trajectory where it ended."""
        with self._lock:
            self.steps += 1
            self.ended += bool(stop)
            self.unscored += stop == "unscored"
        self._show()

    def on_call(self, call: Call) -> None:
        """Count a call to a model server."""
        with self._lock:
            self._note = ""
            self.requests += call.requests
            self.retries += max(call.requests - 1, 0)
            self.hits += call.hit
            self.asked_again += call.number > 1
            if not call.hit:
                self.tokens_in += call.used.prompt + call.lost.prompt
                self.tokens_out += call.used.completion + call.lost.completion
        self._show()

    def on_wait(self, seconds: float, why: str) -> None:
        """Tell that a rate limit makes us wait."""
        self._note = f"waiting {seconds:.0f} s: {why}"
        self._show()

    def finish(self) -> None:
        """Show the last line and leave it there."""
        self._note, self._shown_at = "", float("-inf")
        self._show()
        if self.is_terminal:
            self._write("\n")

    def line(self) -> str:
        """Return the line."""
        spent = minutes(self._clock() - self._began)
        parts = [
            f"{self.what}: {self.ended} of {self.trajectories} trajectories, {self.steps:,} of at most "
            f"{self.trajectories * self.max_steps:,} steps, {spent} min"
        ]
        if self.requests or self.hits:
            parts.append(
                f"{self.requests:,} requests ({self.retries} retries), {self.hits:,} known, "
                f"{self.asked_again} asked again, {self.tokens_in:,} tokens in, {self.tokens_out:,} out"
            )
        if self.unscored:
            parts.append(f"{self.unscored} unscored")
        return printable(" | ".join(filter(None, [*parts, self._note])))

    def _show(self) -> None:
        with self._lock:
            now = self._clock()
            if now - self._shown_at < (0.2 if self.is_terminal else QUIET_S):
                return
            self._shown_at = now
            show = self.status if self.is_terminal else self._print
            show(self.line())
