"""Prepares a task of the paper: fetched, cut, written, measured; at once or not at all."""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlagent_lib.core.files import FolderLock
from mlagent_lib.tasks.attempt import Execute, attempt
from mlagent_lib.tasks.folder import add_to_card
from mlagent_lib.tasks.grading import LABEL_SETS
from mlagent_lib.tasks.metrics import get_metric
from mlagent_lib.tasks.paper.archives import DamagedArchive
from mlagent_lib.tasks.paper.fetch import Client, fetch, forget
from mlagent_lib.tasks.paper.recipes import PREFIX, Recipe, paper_folder, recipe, rough_size
from mlagent_lib.tasks.paper.writing import write_folder
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.registry import home_folder
from mlagent_lib.tasks.task import Task, load_task

_PAPER_BEST = (
    "a proxy: the best of ML-Agent's eight trajectories in the paper's v1 Table 1, on another split; the "
    "paper does not publish the human scores that it used. Give one with --best"
)
_PERFECT = (
    "a proxy: the best value that {metric.name} can take, which nobody reaches; the paper does not publish "
    "the human score that it used. Give one with --best"
)


def prepare_paper_task(
    name: str,
    execute: Execute,
    *,
    home: Path | None = None,
    source: Path | None = None,
    client: Client | str = "auto",
    rows: int | str | None = None,
    side: int | None = None,
    best: float | None = None,
    best_source: str = "",
    seed: int = 0,
    again: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> Task:
    """Return a task of the paper, fetched, cut, written and measured; one that is there is only loaded.

    Args:
        name: Name of the task, with or without ``paper/``.
        execute: Runs the starter, as in `check_task`.
        home: Folder for caches; that of the kit by default.
        source: An archive or a folder that was downloaded by hand; nothing is fetched then.
        client: See `fetch`.
        rows: Most visible rows, ``all``, or None for the recipe's number.
        side: Pixels of a picture's side; None for the recipe's.
        best: Best known score, in the metric's unit; None for the stated proxy.
        best_source: Where that score comes from.
        seed: Root of the random streams that sample and cut the rows.
        again: Build it anew where it is there already.
        say: Receives one line for each step.

    Raises:
        TaskError: Something is missing or damaged, or the starter fails; nothing is left half made.
        RunError: Another process prepares the same task.
    """
    found = recipe(name)
    home = home or home_folder()
    target = paper_folder(name, home)
    if target.is_dir() and not again:
        say(f"{PREFIX}{found.name} is prepared already ({target}); --again builds it anew")
        return load_task(target)
    _check_options(found, rows, side)
    found = replace(found, side=side or found.side)
    if source is not None and not source.exists():
        raise refusal("no source", source=source)
    fetched = source is None
    if fetched:
        say(f"1/3 download from {found.page}, size {rough_size(found)}")
        source = fetch(found, home, client)
    target.parent.mkdir(parents=True, exist_ok=True)
    with FolderLock(home / "downloads" / f".{found.name}") as lock:
        draft = lock.folder / "draft"
        shutil.rmtree(draft, ignore_errors=True)  # of a process that was killed
        draft.mkdir()
        try:
            say("2/3 read the files and cut the rows")
            options = {"rows": rows, "side": side, "best": best, "best_source": best_source, "seed": seed}
            write_folder(found, source, draft / "task", options)
            say("3/3 run the starter")
            _state_scores(found, draft / "task", execute, best, best_source)
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(draft / "task", target)
        except DamagedArchive:
            if fetched:
                forget(found, home)
            raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return load_task(target)


def _check_options(found: Recipe, rows: int | str | None, side: int | None) -> None:
    if rows is not None and rows != "all" and not (isinstance(rows, int) and rows >= 10):
        raise refusal("rows not possible", rows=rows)
    if side is not None and (found.reader not in ("pictures", "named_pictures") or not 8 <= side <= 512):
        raise refusal("side not possible", side=side, name=found.name)


def _state_scores(found: Recipe, folder: Path, execute: Execute, best: float | None, source: str) -> None:
    """Run the starter and write its scores and the best known ones into the card."""
    made = attempt(load_task(folder), execute)
    if made.scores is None:
        raise refusal("starter of paper fails", name=found.name, why=made.why)
    known, provenance = best_known(found, made.scores, best, source)
    tier = getattr(made.ran, "tier", "no")
    baseline = made.scores | {"provenance": f"the starter, run once under {tier} isolation"}
    best_scores = dict.fromkeys(LABEL_SETS, known) | {"provenance": provenance}
    add_to_card(folder, baseline=baseline, best=best_scores)


def best_known(
    found: Recipe, baseline: dict[str, float], given: float | None = None, source: str = ""
) -> tuple[float, str]:
    """Return the best known score and where it comes from; the paper does not publish the ones it used.

    A score that was given comes first; then the best of ML-Agent's eight trajectories (v1 Table 1), another
    split of the same data; then the best value that the metric can take.

    Raises:
        TaskError: The given score does not beat the starter's, or no score can.

    Example:
        >>> whale = recipe("whale-categorization-playground")
        >>> best_known(whale, {"feedback": 0.1, "report": 0.1})[0]
        0.2524
        >>> best_known(whale, {"feedback": 0.3, "report": 0.3})[0]
        1.0
    """
    metric = get_metric(found.metric)
    sign = 1 if metric.greater_is_better else -1

    def beats(score: float) -> bool:
        return all(sign * (score - value) > 0 for value in baseline.values())

    if given is not None:
        beyond = sign * (given - metric.perfect) > 0
        if not math.isfinite(given) or beyond or not beats(given):
            measured = ", ".join(f"{name} {value:.5g}" for name, value in baseline.items())
            raise refusal("no best score", given=given, measured=measured, metric=metric)
        return given, f"given by the user: {source or 'no source named'}"
    if found.paper_best is not None and beats(found.paper_best):
        return found.paper_best, _PAPER_BEST
    if not beats(metric.perfect):
        raise refusal("nothing to improve", name=found.name, metric=metric)
    return metric.perfect, _PERFECT.format(metric=metric)
