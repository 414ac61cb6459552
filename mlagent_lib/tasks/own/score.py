"""Measures the starter, and looks for a score that is known to be reachable."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlagent_lib.core.errors import Unscored
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.attempt import Execute, attempt
from mlagent_lib.tasks.grading import LABEL_SETS, header_of, parse_table, read_labels, score_answer
from mlagent_lib.tasks.metrics import get_metric
from mlagent_lib.tasks.pocket.catalogue import edits, is_classification, replace_block
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.task import Task

# The starter's blocks: a pipeline that takes whatever the table holds, and a model that leaves room.
STARTER = {
    "tabular": {"data": "data/onehot/mean", "model": "model/tree/3"},
    "text": {"data": "data/tfidf-words/1000", "model": "model/tree/3"},
}
_TREES = tuple(
    ("data/onehot/mean", f"model/{name}")
    for name in ("forest/100/5", "extra-trees/100/1", "boosting/60/0.05", "boosting/60/0.2")
)
# Standard models, all of them reachable by two or three edits of the catalogue: (modality, classes) -> keys.
CANDIDATES = {
    ("tabular", True): (
        ("data/scale-onehot/standard", "model/logistic/1"),
        ("data/scale-onehot/standard", "model/kernel-logistic/100"),
        *_TREES,
    ),
    ("tabular", False): (
        ("data/scale-onehot/standard", "model/ridge/1"),
        ("data/scale-onehot/standard", "model/kernel-ridge/100"),
        *_TREES,
    ),
    ("text", True): (
        ("data/tfidf-words/3000", "model/logistic/10"),
        ("data/words-and-chars/4", "model/logistic/10"),
        ("data/tfidf-phrases/2", "model/multinomial-nb/0.1"),
        ("data/tfidf-words/1000", "model/extra-trees/100/1"),
        ("data/lsa/50", "model/boosting/60/0.05"),
    ),
    ("text", False): (
        ("data/tfidf-words/3000", "model/ridge/1"),
        ("data/words-and-chars/4", "model/ridge/1"),
        ("data/tfidf-words/1000", "model/forest/100/5"),
        ("data/lsa/50", "model/boosting/60/0.05"),
    ),
}
_LOG_TARGET = ("data/onehot/mean", "model/boosting/60/0.05", "learning/log-target")
DRAWS = 400
LUCK = 0.05  # the best model must beat the starter in all but this share of the draws of the report rows


@dataclass(frozen=True)
class Answered:
    """A script that was scored: its scores on both label sets, and its answers on the report rows."""

    scores: dict[str, float]
    report: np.ndarray


def answer_of(task: Task, script: bytes, execute: Execute) -> Answered | str:
    """Return what a script (text of ``train.py``) scores, or why it has no score.

    Raises:
        TaskError: The metric has no value for the hidden answers.
    """
    try:
        made = attempt(task, execute, script)
    except Unscored as error:  # hidden answers that are all equal have no pearson
        raise refusal("no value of metric", why=error.message) from error
    if made.scores is None:
        return made.why
    table = parse_table(made.submission, header_of(task))
    ids = read_labels(task, "report")[0]
    return Answered(made.scores, np.array([table[key] for key in ids], dtype=float))


def measure_starter(task: Task, execute: Execute) -> Answered:
    """Return the scores of the starter.

    Raises:
        TaskError: It does not run on this table.
    """
    found = answer_of(task, task.env_files()["train.py"], execute)
    if isinstance(found, str):
        raise refusal("starter fails", why=found)
    if min(found.scores.values()) <= 0:
        raise refusal("score not positive", metric=task.metric, scores=_pair(found.scores))
    return found


def stated(scores: dict[str, float], provenance: str) -> dict:
    """Return scores as the card states them: six significant digits and where they come from."""
    return {name: float(f"{value:.6g}") for name, value in scores.items()} | {"provenance": provenance}


def given_best(task: Task, starter: Answered, best: float) -> dict:
    """Return the best score that the reader knows of, as the card states it.

    Raises:
        TaskError: It is not better than the starter's, or better than possible.
    """
    sign = 1 if task.greater_is_better else -1
    perfect = get_metric(task.metric).perfect
    if not np.isfinite(best) or sign * best > sign * perfect:
        raise refusal("best beyond", best=best, metric=task.metric, perfect=perfect)
    if any(sign * best <= sign * score for score in starter.scores.values()):
        scores = _pair(starter.scores)
        raise refusal("best not better", best=best, metric=task.metric, scores=scores, better=task.better)
    return {name: float(best) for name in LABEL_SETS} | {"provenance": "given by --best, not measured here"}


def find_best(task: Task, starter: Answered, execute: Execute, seed: int) -> dict:
    """Return the score of the best of some standard models, as the card states it.

    The choice is made on the feedback labels; the report labels only decide whether the gain is luck.

    Raises:
        TaskError: None is clearly better than the starter: the task has no headroom.
    """
    sign = 1 if task.greater_is_better else -1
    known = {edit.key: edit for edit in edits(task.modality, task.kind)}
    found, failed, candidates = {}, [], CANDIDATES[task.modality, is_classification(task.kind)]
    if task.metric == "rmsle" and task.modality == "tabular":
        candidates = (*candidates, _LOG_TARGET)
    for keys in candidates:
        script = task.env_files()["train.py"].decode()
        for key in keys:
            script = replace_block(script, known[key].axis, known[key].block)
        answered = answer_of(task, script.encode(), execute)
        if isinstance(answered, str):
            failed.append(answered)
        else:
            found[keys] = answered
    tried = len(found) + len(failed)
    if not found:
        raise refusal("no model runs", tried=tried, why=failed[0])
    keys = max(found, key=lambda keys: sign * found[keys].scores["feedback"])
    top = found[keys]
    better = all(sign * (top.scores[name] - starter.scores[name]) > 0 for name in LABEL_SETS)
    if all(score == get_metric(task.metric).perfect for score in starter.scores.values()):
        raise refusal("starter is perfect", metric=task.metric)
    if not better or not beats(task, top, starter, seed):
        pairs = {"best": _pair(top.scores), "starter": _pair(starter.scores)}
        raise refusal("no headroom", tried=tried, metric=task.metric, **pairs)
    words = " ".join(known[key].instruction for key in keys)
    note = f"the best of {tried} standard models, chosen on the feedback labels: {words}"
    return stated(top.scores, note + (f" ({len(failed)} of them failed)" if failed else ""))


def beats(task: Task, one: Answered, other: Answered, seed: int) -> bool:
    """Return whether one script beats another on the report rows beyond luck: a paired bootstrap."""
    truth = read_labels(task, "report")[1]
    sign, draws = 1 if task.greater_is_better else -1, rng(seed, "headroom", task.name)
    lost = counted = 0
    for _ in range(DRAWS):
        rows = draws.integers(len(truth), size=len(truth))
        try:
            scores = [score_answer(task, truth[rows], found.report[rows]) for found in (one, other)]
        except ValueError:  # a draw without one of the classes has no score
            continue
        counted += 1
        lost += sign * (scores[0] - scores[1]) <= 0
    return counted > 0 and lost <= LUCK * counted


def _pair(scores: dict[str, float]) -> str:
    return " and ".join(f"{scores[name]:.4g}" for name in LABEL_SETS)
