"""Puts the page together and writes it; the notebook's widget is the same page in a frame of its own.

The page may run its own script, known by its hash, and load nothing. The frame of the widget has no origin:
it can read neither the notebook nor its cookies.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from string import Template

import pandas as pd

from mlagent_lib.core.files import write_text
from mlagent_lib.results import show
from mlagent_lib.results.browser.data import counts_by_policy, payload
from mlagent_lib.results.browser.rows import TrajectoryFile, read_files, scales_of
from mlagent_lib.results.show import Shown, escape, items

SCRIPTS = ("data.js", "draw.js", "view.js")
MAX_NAMED = 40


@dataclass(frozen=True)
class Written:
    """What `write_page` wrote: the page, and how much is on it.

    ``problems`` are rows and tables left out, in words, each with its file and line; ``empty`` says why there
    is no trajectory and what to do.
    """

    path: Path
    trajectories: int
    steps: int
    files: int
    problems: tuple[str, ...]
    empty: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {_facts(self.trajectories, self.steps, self.files)}"


@dataclass(frozen=True)
class _Run:
    name: str
    files: list[TrajectoryFile]
    data: dict
    problems: list[str]

    @property
    def size(self) -> tuple[int, int, int]:
        """Number of trajectories, of their steps, and of files."""
        trajectories = self.data["trajectories"]
        return len(trajectories), sum(len(t["steps"]) for t in trajectories), len(self.files)


@cache
def _asset(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")


def _read(run_dir: str | Path, policies: Collection[str], tasks: Collection[str]) -> _Run:
    files = read_files(run_dir)
    scales, problems = scales_of(run_dir, [row for file in files for row in file.rows])
    data = payload(files, scales, policies=policies, tasks=tasks)
    problems = [f"{file.name}, {problem}" for file in files for problem in file.problems] + problems
    return _Run(Path(run_dir).resolve().name, files, data, problems)


def json_for_html(value: object) -> str:
    r"""Return JSON that can stand in an HTML script element: plain ASCII without ``<``, ``>`` and ``&``.

    Example:
        >>> print(json_for_html("</script>\u2028"))
        "\u003c/script\u003e\u2028"
    """
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


def _facts(trajectories: int, steps: int, files: int) -> str:
    words = (("trajectory", "trajectories"), ("step", "steps"), ("file", "files"))
    counts = zip((trajectories, steps, files), words, strict=True)
    return " · ".join(f"{number:,} {one if number == 1 else many}" for number, (one, many) in counts)


def _problems(problems: list[str]) -> str:
    if not problems:
        return ""
    more = [f"and {len(problems) - MAX_NAMED:,} more"] if len(problems) > MAX_NAMED else []
    head, listed = f"Left out because damaged: {len(problems):,}", items(problems[:MAX_NAMED] + more)
    return f'<details class="problems"><summary>{head}</summary>{listed}</details>'


def _empty(run: _Run) -> str:
    """Return why there is nothing to show, and the cure."""
    if run.data["trajectories"]:
        return ""
    if not run.files:
        why = "There is no trajectories.jsonl in this folder or below it."
    elif any(file.rows for file in run.files):
        why = "No trajectory is of the policies and tasks that were asked for."
    elif any(file.problems for file in run.files):
        why = "The files are there, but every row is damaged."
    else:
        why = f"The files are empty: {', '.join(file.name for file in run.files)}."
    return (
        f"No trajectories to show. {why} `mlagent run` writes them in its stages 01_collection and "
        "04_evaluation; the same command goes on with a run that was stopped."
    )


def _render(run: _Run) -> str:
    style = show.CSS + _asset("view.css")
    script = '"use strict";(()=>{\n' + "".join(_asset(name) for name in SCRIPTS) + "})();\n"
    empty = _empty(run)
    policy = (
        f"default-src 'none'; script-src 'sha256-{_hash(script)}'; style-src 'sha256-{_hash(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return Template(_asset("view.html")).substitute(
        policy=policy,
        title=escape(f"Trajectories of {run.name}"),
        style=style,
        facts=escape(_facts(*run.size)),
        notes=_problems(run.problems) + (f'<p class="empty">{escape(empty)}</p>' if empty else ""),
        hidden="" if run.data["trajectories"] else " hidden",
        data=json_for_html(run.data),
        script=script,
    )


def page_html(run_dir: str | Path, *, policies: Collection[str] = (), tasks: Collection[str] = ()) -> str:
    """Return the page of a run as HTML: list, filters, steps, diffs, score lines, counts.

    ``run_dir`` is the folder of a run (every trajectory file below it is shown) or one trajectory file;
    ``policies`` (by the names in the rows) and ``tasks`` show these alone.

    Raises:
        RunError: If there is no such folder or file.
    """
    return _render(_read(run_dir, policies, tasks))


def write_page(run_dir: str | Path, out: str | Path | None = None) -> Written:
    """Write the page of a run as one file and return what was written; the same run gives the same bytes.

    ``out`` is ``view.html`` in the folder by default, and where it is a folder.

    Raises:
        RunError: If there is no such run, or the page cannot be written.
    """
    run = _read(run_dir, (), ())
    place = Path(run_dir)
    target = Path(out) if out is not None else (place if place.is_dir() else place.parent)
    path = write_text(target / "view.html" if target.is_dir() else target, _render(run))
    return Written(path, *run.size, tuple(run.problems), _empty(run))


def widget(
    run_dir: str | Path, *, policies: Collection[str] = (), tasks: Collection[str] = (), height: int = 760
) -> Shown:
    """Return the page of a run to show in a notebook; elsewhere it prints as a table of counts.

    The notebook keeps the whole page in its output, some kilobytes a trajectory: choose policies or tasks
    where that matters. ``height`` is that of the frame in pixels.

    Raises:
        RunError: If there is no such folder or file.
    """
    run = _read(run_dir, policies, tasks)
    frame = (
        f'<iframe title="{escape(f"Trajectories of {run.name}")}" sandbox="allow-scripts" '
        f'style="width:100%;height:{int(height)}px;border:0;color-scheme:inherit" '
        f'srcdoc="{html.escape(_render(run))}"></iframe>'
    )
    lines = [f"Trajectories of {run.name}: {_facts(*run.size)}"]
    lines += [*(f"left out: {problem}" for problem in run.problems), *filter(None, [_empty(run)])]
    if counts := counts_by_policy(run.data):
        lines.append(pd.DataFrame(counts).to_string(index=False, na_rep="-", float_format="{:.3f}".format))
    return Shown(show.page(frame), "\n".join(lines))
