"""Makes a checked task folder of an own table, at once or not at all."""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.files import explained, sha256_file
from mlagent_lib.core.limits import Limits
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.check import check_task
from mlagent_lib.tasks.own.cells import words_in
from mlagent_lib.tasks.own.columns import MISSING, check_categories, clean_inputs, find_roles, same_kinds
from mlagent_lib.tasks.own.leaks import check_contradictions, check_leaks, row_keys
from mlagent_lib.tasks.own.read import read_table
from mlagent_lib.tasks.own.score import STARTER, Execute, find_best, given_best, measure_starter, stated
from mlagent_lib.tasks.own.split import Split, check_size, split_rows
from mlagent_lib.tasks.own.target import Target, check_metric, judge_target
from mlagent_lib.tasks.own.wish import Wish, check_place
from mlagent_lib.tasks.pocket.cards import CARDS, Card
from mlagent_lib.tasks.pocket.catalogue import edits
from mlagent_lib.tasks.pocket.frames import answer_columns
from mlagent_lib.tasks.pocket.sources import Sample
from mlagent_lib.tasks.pocket.suite import write_rest, write_tables
from mlagent_lib.tasks.task import Task, load_task

# Targets that cannot be reached, as in the requests of the suite.
_GOALS = {spec.metric: spec.goal for spec in CARDS}
_COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 8: "eight", 10: "ten", 12: "twelve",
           20: "twenty", 30: "thirty"}  # fmt: skip
FEW_ROWS = 400
RARE = 0.3  # of the share that a class would have among equals
SCALES_APART = 100.0  # ratio of the largest to the smallest deviation of the numeric columns
SKEWED, VERY_SKEWED = 1.0, 3.0
MOST_LINES = 200  # of the description, one a column: a text of several thousand lines is read by nobody
SHORT_WORDS, VERY_SHORT_WORDS, LONG_WORDS = 60, 15, 300


@dataclass(frozen=True)
class Made:
    """A task that was made, and what its reader should know."""

    task: Task
    notes: tuple[str, ...]


def make_task(
    wish: Wish, folder: Path, execute: Execute, say: Callable[[str], None] = lambda line: None
) -> Made:
    """Return the task made of an own table, in a new folder that passes every check.

    Args:
        wish: What is asked for.
        folder: Where the task is to lie; missing or empty.
        execute: Runs a script, as for `check.check_task`; give the isolated runner.
        say: Called with one line before each piece of work that takes time.

    Raises:
        TaskError: The table, the metric or a column cannot be used; names it and the cure. Nothing is left.
    """
    check_place(wish.name, folder)
    check_metric(wish.metric)
    frame, notes = read_table(wish.data)
    check_size(len(frame))
    roles = find_roles(frame, wish)
    target = judge_target(roles.target, wish.metric)
    columns = answer_columns(target.kind, wish.metric, len(target.classes), ("target",))
    inputs = clean_inputs(roles.inputs, wish, ("id", "target", *columns))
    say(f"{wish.data.name}: {len(frame)} rows, {inputs.shape[1]} inputs; looking for leaks")
    found = check_leaks(inputs, target, wish)
    if wish.text is None:
        check_categories(inputs)
    keys = row_keys(inputs, wish)
    found += check_contradictions(keys, target, wish)
    split = split_rows(keys, roles.groups, target, len(columns), rng(wish.seed, "split"))
    with explained(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{wish.name}-", dir=folder.parent))
    try:
        draft.chmod(0o755)
        _write(draft, wish, inputs, target, split)
        say("running the starter" + ("" if wish.best is not None else " and some standard models"))
        _measure(draft, wish, execute)
        _check(draft, execute)
        with explained(folder):
            os.replace(draft, folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Made(load_task(folder), (*notes, *roles.notes, *found))


def _write(draft: Path, wish: Wish, inputs: pd.DataFrame, target: Target, split: Split) -> None:
    """Write all files of the task, with scores that are not measured yet."""
    sample = Sample(
        inputs.iloc[split.order].reset_index(drop=True),
        pd.DataFrame({"target": _plain(target.values[split.order])}),
    )
    visible = split.rows[0]
    spec = _card(wish, sample.inputs[:visible], target, target.values[split.visible], split.rows)
    write_tables(draft, sample, split.rows, rng(wish.seed, "ids"))
    data = draft / "env" / "data"
    same_kinds(pd.read_csv(data / "train.csv"), pd.read_csv(data / "test.csv", index_col="id"))
    more = _column_lines(sample.inputs[:visible], wish)
    write_rest(draft, spec, sample, target.classes, limits=Limits(seconds=wish.seconds), more=more)


def _plain(values: np.ndarray) -> np.ndarray:
    """Return whole numbers as integers, so that files show 1 and not 1.0."""
    return values.astype(int) if (values % 1 == 0).all() and np.abs(values).max() < 2**53 else values


def _card(
    wish: Wish, visible: pd.DataFrame, target: Target, answers: np.ndarray, rows: tuple[int, int, int]
) -> Card:
    """Return what makes the task; facts are taken from the visible rows only."""
    modality = "tabular" if wish.text is None else "text"
    blocks = {edit.key: edit.block for edit in edits(modality, target.kind)}
    chosen = STARTER[modality]
    return Card(
        name=wish.name,
        paper_task="",
        split="other",
        modality=modality,
        kind=target.kind,
        metric=wish.metric,
        source="",
        rows=rows,
        data=blocks[chosen["data"]],
        model=blocks[chosen["model"]],
        goal=_GOALS[wish.metric],
        description=f"Rows of the table {wish.data.name}. {target.meaning}",
        facts=_facts(visible, target, answers, is_text=wish.text is not None),
        provenance=f"own table {wish.data.name}, sha256 {sha256_file(wish.data)[:16]}",
    )


def _command(wish: Wish) -> str:
    """Return the command that makes the same folder again, without the folders of this machine."""
    words = ["mlagent", "tasks", "new", wish.name, "--data", wish.data.name, "--target", wish.target]
    words += ["--metric", wish.metric]
    for flag, value in (("--id", wish.id_column), ("--text", wish.text), ("--group", wish.group)):
        words += [flag, value] if value is not None else []
    for flag, values in (("--drop", wish.drop), ("--keep", wish.keep)):
        words += [flag, *values] if values else []
    words += ["--keep-contradictions"] if wish.keep_contradictions else []
    words += ["--best", repr(wish.best)] if wish.best is not None else []
    words += ["--seed", str(wish.seed), "--seconds", f"{wish.seconds:g}"]
    return shlex.join(words)


def _facts(visible: pd.DataFrame, target: Target, answers: np.ndarray, *, is_text: bool) -> tuple[str, ...]:
    """Return short facts on the visible rows, in the words of the suite where it has them."""
    facts = []
    if target.is_classes:
        count = len(target.classes)
        facts.append(f"{_COUNTS.get(count, count)} classes")
        if np.bincount(answers.astype(int)).min() < RARE * len(answers) / count:
            facts.append("one class is rare" if count == 2 else "imbalanced classes")
    else:
        facts += _number_facts(answers, bool(target.classes))
    facts += ["few rows"] if len(visible) < FEW_ROWS else []
    if is_text:
        length = words_in(visible["text"])
        facts += [name for name, holds in (
            ("very short texts", length < VERY_SHORT_WORDS),
            ("short texts", VERY_SHORT_WORDS <= length < SHORT_WORDS),
            ("long texts", length >= LONG_WORDS),
        ) if holds]  # fmt: skip
        return tuple(facts)
    numbers = visible.select_dtypes("number")
    spread = numbers.std()
    spread = spread[spread > 0]
    facts += ["numbers only"] if numbers.shape[1] == visible.shape[1] else ["categories"]
    facts += ["missing values"] if numbers.isna().any().any() or (visible == MISSING).any().any() else []
    if len(spread) > 1 and spread.max() > SCALES_APART * spread.min():
        facts.append("columns on very different scales")
    return tuple(facts)


def _number_facts(answers: np.ndarray, is_rating: bool) -> list[str]:
    if is_rating:
        return ["ordered target"]
    whole = (answers % 1 == 0).all() and answers.min() >= 0
    skew = float(pd.Series(answers).skew())
    facts = ["count target"] if whole else []
    if abs(skew) > SKEWED:
        facts.append("very skewed target" if abs(skew) > VERY_SKEWED else "skewed target")
    return facts


def _column_lines(visible: pd.DataFrame, wish: Wish) -> list[str]:
    """Return a line on each input, as the visible rows show it."""
    lines = [f"target: in {wish.data.name} it is called {wish.target}."]
    for name in visible.columns[:MOST_LINES]:
        column = visible[name]
        if name == "text" and wish.text is not None:
            called = "" if wish.text == "text" else f" (called {wish.text} in {wish.data.name})"
            lines.append(f"text: texts{called}, {words_in(column):.0f} words on average.")
        elif pd.api.types.is_numeric_dtype(column):
            empty = f", {column.isna().mean():.0%} missing" if column.isna().any() else ""
            lines.append(f"{name}: numbers from {column.min():g} to {column.max():g}{empty}.")
        else:
            empty = (column == MISSING).mean()
            told = f", {empty:.0%} empty (written {MISSING!r})" if empty else ""
            lines.append(f"{name}: words, {column[column != MISSING].nunique()} different{told}.")
    rest = visible.iloc[:, MOST_LINES:]
    if rest.shape[1]:
        numbers = rest.select_dtypes("number").shape[1]
        lines.append(
            f"{rest.shape[1]} more columns, named in the first line of data/train.csv: {numbers} of numbers, "
            f"{rest.shape[1] - numbers} of words."
        )
    if wish.text is not None and visible.shape[1] > 1:
        lines.append("train.py reads the text only; the other columns are there to be used.")
    return lines


def _measure(draft: Path, wish: Wish, execute: Execute) -> None:
    """Run the starter and, where no best score is given, the standard models; write the scores."""
    task = load_task(draft)
    starter = measure_starter(task, execute)
    best = (
        find_best(task, starter, execute, wish.seed)
        if wish.best is None
        else given_best(task, starter, wish.best)
    )
    path = draft / "task.yaml"
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    content |= {"baseline": stated(starter, "the starter, run once, isolated"), "best": best}
    content["made_by"] = _command(wish)
    path.write_text(yaml.safe_dump(content, sort_keys=False, width=110), encoding="utf-8")


def _check(draft: Path, execute: Execute) -> None:
    """Hold the new folder against every rule of the task contract.

    Raises:
        TaskError: A rule is broken.
    """
    broken = [finding for finding in check_task(load_task(draft), execute) if not finding.ok]
    if broken:
        first = broken[0]
        raise TaskError(
            f"the new task breaks {len(broken)} rules of a task folder, first: {first.rule} ({first.where}: "
            f"{first.message})",
            cure=f"{first.cure}; --seconds sets the time limit",
        )
