"""Checks a task folder against the rules of the task contract; every finding names file, rule and cure."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
import yaml

from mlagent_lib.core.errors import MlagentError, SubmissionError, Unscored
from mlagent_lib.tasks.attempt import Execute
from mlagent_lib.tasks.contract import RuleFinding, finding
from mlagent_lib.tasks.foreign.leaderboard import worse_than
from mlagent_lib.tasks.foreign.old_code import diagnose
from mlagent_lib.tasks.grading import LABEL_SETS, gold_answer, grade, header_of, read_labels
from mlagent_lib.tasks.metrics import METRICS, get_metric
from mlagent_lib.tasks.splits import normalised_rows
from mlagent_lib.tasks.task import Task, checksums

# Library versions move a score a little: this share of the gap between baseline and best is forgiven.
SCORE_TOLERANCE = 0.02
SHARE_OF_LIMITS = 0.5  # the starter must leave room for better scripts


def table_bytes(task: Task, ids: tuple[str, ...], answer: np.ndarray) -> bytes:
    """Return a submission with these answers, numbers of shape (n, columns)."""
    # repr keeps every digit; whole numbers are written plainly, as class numbers must be.
    rows = ([key, *(repr(float(value)) for value in row)] for key, row in zip(ids, answer, strict=True))
    return "".join(",".join(row) + "\n" for row in (header_of(task), *rows)).encode()


def gold_submission(task: Task, spoiled: float = 0.0) -> bytes:
    """Return the submission that answers every hidden row rightly, or all but a share of them.

    The share ``spoiled`` of the rows, 0..1, get another row's answer, those first whose answers lie farthest
    apart: of a rare class, too, a row is wrong.

    Raises:
        Unscored: The labels cannot be read.
    """
    ids, answers = [], []
    for name in LABEL_SETS:
        keys, truth = read_labels(task, name)
        answer = gold_answer(task, truth)
        order = np.lexsort(answer.T)
        count = round(spoiled * len(answer) / 2)
        low, high = order[:count], order[::-1][:count]
        spoilt = answer.copy()
        spoilt[low], spoilt[high] = answer[high], answer[low]
        ids += keys
        answers.append(spoilt)
    return table_bytes(task, tuple(ids), np.concatenate(answers))


def check_task(task: Task, execute: Execute | None = None) -> list[RuleFinding]:
    """Return one finding for each rule of the task contract that could be checked.

    Without ``execute`` the starter is not run; what that returns may have ``peak_memory_bytes``.
    """
    findings = list(_check_card(task))
    if task.grader is not None:
        from mlagent_lib.tasks.foreign.check_grader import check_grader  # here: only foreign folders need it

        findings += check_grader(task)
    elif task.labels_dir.is_dir():
        findings += _check_labels(task)
        findings += _check_disjoint(task)
    else:
        from mlagent_lib.tasks.foreign.check_grader import read_grader

        fault = read_grader(task.folder / "scripts" / "eval.py")
        told, cure = (fault.message, fault.cure) if fault else ("", "")
        findings.append(finding("the grader can grade", False, "scripts/eval.py", cure, told=told))
    if execute is not None and all(found.ok for found in findings if found.rule == "the grader can grade"):
        findings += _check_starter(task, execute)
    return findings


def _check_card(task: Task) -> Iterator[RuleFinding]:
    where, cure = f"env/{task.starter}", ""
    if task.starter != "train.py":
        cure = "put a starter script that runs there, or name one with --starter"
    yield finding("the starter is there", task.starter in task.env_files(), where, cure)
    asked = task.research_problem
    yield finding("the request is not empty", asked, count=len(asked))
    card = task.folder / "task.yaml"
    if not card.is_file():
        return
    known = task.metric in METRICS  # a foreign grader has its own
    cure, is_graded = f"choose one of {', '.join(METRICS)}", known or task.grader is not None
    yield finding("the metric is known", is_graded, cure=cure, metric=task.metric)
    if known:
        up = task.greater_is_better
        right = get_metric(task.metric).greater_is_better == up
        yield finding("the direction fits the metric", right, up=up, metric=task.metric)
    for name in LABEL_SETS:
        yield _beaten(task, name, task.baseline[name])
    stated = yaml.safe_load(card.read_text(encoding="utf-8")).get("checksums")
    if stated is not None:
        found = checksums(task.folder)
        changed = sorted(path for path in stated.keys() | found.keys() if stated.get(path) != found.get(path))
        counts, where = {"count": len(found), "changed": len(changed)}, ", ".join(changed[:3])
        yield finding("all files match their checksums", not changed, where, **counts)


def _beaten(task: Task, name: str, start: float, where: str = "", cure: str = "") -> RuleFinding:
    rule, best = "the best known score beats the starter's", task.best[name]
    beaten = worse_than(start, best, task.greater_is_better)
    return finding(rule, beaten, where, cure, name=name, start=start, best=best)


def _check_labels(task: Task) -> Iterator[RuleFinding]:
    mode = task.labels_dir.stat().st_mode & 0o777
    yield finding("only the owner may open the labels", mode & 0o077 == 0, mode=mode)
    for name in LABEL_SETS:
        where = f"scripts/labels/{name}.csv"
        try:
            gold, spoiled = (grade(task, gold_submission(task, share), name) for share in (0.0, 0.5))
        except (Unscored, SubmissionError, ValueError) as error:
            yield finding("the true answers can be scored", False, where, error=error)
            continue
        perfect = get_metric(task.metric).perfect
        rule, is_best = "the true answers score best possible", abs(gold - perfect) < 1e-9
        yield finding(rule, is_best, where, gold=gold, perfect=perfect)
        worse = worse_than(spoiled, gold, task.greater_is_better)
        yield finding("wrong answers score worse", worse, where, spoiled=spoiled)


def _check_disjoint(task: Task) -> Iterator[RuleFinding]:
    try:
        data = task.folder / "env" / "data"  # the runs' data_dir is the folder above where more is linked
        train = pd.read_csv(data / "train.csv")
        test = pd.read_csv(data / "test.csv", index_col="id")
        ids = {name: set(read_labels(task, name)[0]) for name in LABEL_SETS}
    except (OSError, ValueError, KeyError, MlagentError) as error:
        yield finding("the three sets can be compared", False, error=error)
        return
    both, joined = ids["feedback"] & ids["report"], ids["feedback"] | ids["report"]
    yield finding("feedback and report rows are disjoint", not both, count=len(both))
    listed, labels = set(map(str, test.index)), sum(map(len, ids.values()))
    counts = {"count": len(listed), "labels": labels}
    yield finding("test.csv holds exactly the hidden rows", listed == joined, **counts)
    keys = normalised_rows(test)
    repeated = int(keys.duplicated().sum())
    yield finding("no hidden row is there twice", repeated == 0, count=repeated)
    shared = int(keys.isin(set(normalised_rows(train[list(test.columns)]))).sum())
    yield finding("no hidden row is a visible one", shared == 0, count=shared)
    answers = [name for name in (*header_of(task)[1:], "target") if name in test.columns]
    yield finding("test.csv holds no answer", not answers, columns=answers)


def _check_starter(task: Task, execute: Execute) -> Iterator[RuleFinding]:
    where, files = f"env/{task.starter}", task.env_files()
    if task.starter not in files:
        return  # said already
    ran = execute(task, files)
    if ran.status != "ok":
        found = diagnose(files, task.starter, ran.status, ran.output, home=task.folder)
        yield finding("the starter runs", False, where, found.cure, told=found)
        return
    yield finding("the starter runs", True, told=f"{ran.seconds:.2f} s")
    seconds, most = ran.seconds, task.limits.seconds
    fits = seconds / most <= SHARE_OF_LIMITS
    yield finding("the starter leaves time for better scripts", fits, seconds=seconds, most=most)
    share = getattr(ran, "peak_memory_bytes", 0) / task.limits.memory_bytes
    yield finding("the starter leaves memory for better scripts", share <= SHARE_OF_LIMITS, share=share)
    submission = ran.collected.get("submission.csv")
    try:
        scores = {name: grade(task, submission, name) for name in LABEL_SETS}
    except (SubmissionError, Unscored) as error:
        cure = error.cure if isinstance(error, Unscored) else ""
        yield finding("the starter's submission can be scored", False, cure=cure, error=error)
        return
    yield from _check_scores(task, scores)
    if task.grader is not None:
        from mlagent_lib.tasks.foreign.check_grader import check_scoring

        yield from check_scoring(task, submission)


def _check_scores(task: Task, scores: dict[str, float]) -> Iterator[RuleFinding]:
    """Compare the starter's scores with those that the task states."""
    for name, score in scores.items():
        best, stated = task.best.get(name), task.baseline.get(name)
        if stated is not None:
            gap = 0.0 if best is None else abs(best - stated)
            near = abs(score - stated) <= SCORE_TOLERANCE * gap + 1e-6
            told = {"name": name, "score": score, "stated": stated}
            yield finding("the starter reproduces its stated score", near, **told)
        elif best is not None:
            yield _beaten(task, name, score, "env/train.py", "state a better one, or the other direction")
