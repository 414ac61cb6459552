"""Makes a checked task folder of an own table, at once or not at all."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.core.files import sha256_file
from mlagent_lib.core.limits import Limits
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.attempt import Execute
from mlagent_lib.tasks.check import check_task
from mlagent_lib.tasks.folder import add_to_card, drafted, write_tables, write_texts
from mlagent_lib.tasks.frames import answer_columns
from mlagent_lib.tasks.own.cells import words_in
from mlagent_lib.tasks.own.columns import MISSING, check_categories, clean_inputs, find_roles, same_kinds
from mlagent_lib.tasks.own.leaks import check_contradictions, check_leaks, row_keys
from mlagent_lib.tasks.own.read import read_table
from mlagent_lib.tasks.own.score import STARTER, find_best, given_best, measure_starter, stated
from mlagent_lib.tasks.own.spec import OwnSpec, check_place
from mlagent_lib.tasks.own.split import check_size, split_rows
from mlagent_lib.tasks.own.target import Target, check_metric, judge_target
from mlagent_lib.tasks.pocket.cards import CARDS, COUNTS
from mlagent_lib.tasks.pocket.catalogue import edits
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.spec import Sample, TaskSpec
from mlagent_lib.tasks.splits import Split
from mlagent_lib.tasks.task import Task, load_task

# Targets that cannot be reached, as in the requests of the suite.
_GOALS = {card.metric: card.goal for card in CARDS}
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
    spec: OwnSpec, folder: Path, execute: Execute, say: Callable[[str], None] = lambda line: None
) -> Made:
    """Return the task made of an own table, in a new folder that passes every check.

    Args:
        folder: Where the task is to lie; missing or empty.
        execute: Runs a script, as for `check.check_task`; give the isolated runner.
        say: Called with one line before each piece of work that takes time.

    Raises:
        TaskError: The table, the metric or a column cannot be used; names it and the cure. Nothing is left.
    """
    check_place(spec.name, folder)
    check_metric(spec.metric)
    frame, notes = read_table(spec.data)
    check_size(len(frame))
    roles = find_roles(frame, spec)
    target = judge_target(roles.target, spec.metric)
    columns = answer_columns(target.kind, len(target.classes), ("target",))
    inputs = clean_inputs(roles.inputs, spec, ("id", "target", *columns))
    say(f"{spec.data.name}: {len(frame)} rows, {inputs.shape[1]} inputs; looking for leaks")
    found = check_leaks(inputs, target, spec)
    if spec.text is None:
        check_categories(inputs)
    keys = row_keys(inputs, spec)
    found += check_contradictions(keys, target, spec)
    split = split_rows(keys, roles.groups, target, len(columns), rng(spec.seed, "split"))
    with drafted(folder) as draft:
        _write(draft, spec, inputs, target, split)
        say("running the starter" + ("" if spec.best is not None else " and some standard models"))
        _measure(draft, spec, execute)
        broken = [finding for finding in check_task(load_task(draft), execute) if not finding.ok]
        if broken:
            raise refusal("rule broken", count=len(broken), first=broken[0])
    return Made(load_task(folder), (*notes, *roles.notes, *found))


def _write(draft: Path, spec: OwnSpec, inputs: pd.DataFrame, target: Target, split: Split) -> None:
    """Write all files of the task, with scores that are not measured yet."""
    answers = pd.DataFrame({"target": _plain(target.values[split.order])})
    sample = Sample(inputs.iloc[split.order].reset_index(drop=True), answers)
    visible = split.rows[0]
    card = _card(spec, sample.inputs[:visible], target, target.values[split.visible], split.rows)
    write_tables(draft, sample, split.rows, rng(spec.seed, "ids"))
    data = draft / "env" / "data"
    same_kinds(pd.read_csv(data / "train.csv"), pd.read_csv(data / "test.csv", index_col="id"))
    write_texts(draft, card, sample, target.classes, more=_column_lines(sample.inputs[:visible], spec))


def _plain(values: np.ndarray) -> np.ndarray:
    """Return whole numbers as integers, so that files show 1 and not 1.0."""
    return values.astype(int) if (values % 1 == 0).all() and np.abs(values).max() < 2**53 else values


def _card(
    spec: OwnSpec, visible: pd.DataFrame, target: Target, answers: np.ndarray, rows: tuple[int, int, int]
) -> TaskSpec:
    """Return what makes the task; facts are taken from the visible rows only."""
    modality = "tabular" if spec.text is None else "text"
    blocks = {edit.key: edit.block for edit in edits(modality, target.kind)}
    chosen = STARTER[modality]
    return TaskSpec(
        name=spec.name,
        modality=modality,
        kind=target.kind,
        metric=spec.metric,
        rows=rows,
        data=blocks[chosen["data"]],
        model=blocks[chosen["model"]],
        goal=_GOALS[spec.metric],
        description=f"Rows of the table {spec.data.name}. {target.meaning}",
        facts=_facts(visible, target, answers, is_text=spec.text is not None),
        provenance=f"own table {spec.data.name}, sha256 {sha256_file(spec.data)[:16]}",
        limits=Limits(seconds=spec.seconds),
    )


def _command(spec: OwnSpec) -> str:
    """Return the command that makes the same folder again, without the folders of this machine."""
    words = ["mlagent", "tasks", "new", spec.name, "--data", spec.data.name, "--target", spec.target]
    words += ["--metric", spec.metric]
    for flag, value in (("--id", spec.id_column), ("--text", spec.text), ("--group", spec.group)):
        words += [flag, value] if value is not None else []
    for flag, values in (("--drop", spec.drop), ("--keep", spec.keep)):
        words += [flag, *values] if values else []
    words += ["--keep-contradictions"] if spec.keep_contradictions else []
    words += ["--best", repr(spec.best)] if spec.best is not None else []
    words += ["--seed", str(spec.seed), "--seconds", f"{spec.seconds:g}"]
    return shlex.join(words)


def _facts(visible: pd.DataFrame, target: Target, answers: np.ndarray, *, is_text: bool) -> tuple[str, ...]:
    """Return short facts on the visible rows, in the words of the suite where it has them."""
    if target.is_classes:
        count = len(target.classes)
        facts = [f"{COUNTS.get(count, count)} classes"]
        if np.bincount(answers.astype(int)).min() < RARE * len(answers) / count:
            facts.append("one class is rare" if count == 2 else "imbalanced classes")
    else:
        facts = _number_facts(answers, bool(target.classes))
    facts += ["few rows"] if len(visible) < FEW_ROWS else []
    if is_text:
        length = words_in(visible["text"])
        kinds = ("very short texts", "short texts", "", "long texts")
        kind = kinds[np.searchsorted((VERY_SHORT_WORDS, SHORT_WORDS, LONG_WORDS), length, side="right")]
        return (*facts, kind) if kind else tuple(facts)
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


def _column_lines(visible: pd.DataFrame, spec: OwnSpec) -> list[str]:
    """Return a line on each input, as the visible rows show it."""
    lines = [f"target: in {spec.data.name} it is called {spec.target}."]
    for name in visible.columns[:MOST_LINES]:
        column = visible[name]
        if name == "text" and spec.text is not None:
            called = "" if spec.text == "text" else f" (called {spec.text} in {spec.data.name})"
            lines.append(f"text: texts{called}, {words_in(column):.0f} words on average.")
        elif pd.api.types.is_numeric_dtype(column):
            empty = f", {column.isna().mean():.0%} missing" if column.isna().any() else ""
            lines.append(f"{name}: numbers from {column.min():g} to {column.max():g}{empty}.")
        else:
            empty = (column == MISSING).mean()
            told = f", {empty:.0%} empty (written {MISSING!r})" if empty else ""
            lines.append(f"{name}: words, {column[column != MISSING].nunique()} different{told}.")
    rest = visible.iloc[:, MOST_LINES:]
    if more := rest.shape[1]:
        numbers = rest.select_dtypes("number").shape[1]
        told = f"{more} more columns, named in the first line of data/train.csv"
        lines.append(f"{told}: {numbers} of numbers, {more - numbers} of words.")
    if spec.text is not None and visible.shape[1] > 1:
        lines.append("train.py reads the text only; the other columns are there to be used.")
    return lines


def _measure(draft: Path, spec: OwnSpec, execute: Execute) -> None:
    """Run the starter and, where no best score is given, the standard models; write the scores."""
    task = load_task(draft)
    starter = measure_starter(task, execute)
    if spec.best is None:
        best = find_best(task, starter, execute, spec.seed)
    else:
        best = given_best(task, starter, spec.best)
    baseline = stated(starter.scores, "the starter, run once, isolated")
    add_to_card(draft, baseline=baseline, best=best, made_by=_command(spec))
