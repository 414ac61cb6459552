"""Checks a task folder against the rules of the task contract; every finding names file, rule and cure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import yaml

from mlagent_lib.core.errors import MlagentError, SubmissionError, Unscored
from mlagent_lib.tasks.contents import strays
from mlagent_lib.tasks.foreign.grader import nonsense_score, run_grader
from mlagent_lib.tasks.foreign.mlagentbench import MARKER, read_grader
from mlagent_lib.tasks.foreign.old_code import diagnose
from mlagent_lib.tasks.grading import LABEL_SETS, gold_answer, grade, header_of, read_labels
from mlagent_lib.tasks.metrics import METRICS, get_metric
from mlagent_lib.tasks.task import Task, checksums

# Library versions move a score a little: this share of the gap between baseline and best is forgiven.
SCORE_TOLERANCE = 0.02
SHARE_OF_LIMITS = 0.5  # the starter must leave room for better scripts


@dataclass(frozen=True)
class Finding:
    """One rule, checked.

    Attributes:
        rule: What must hold.
        ok: Whether it does.
        where: File or folder, relative to the task.
        message: What was found.
        cure: What to do where it does not hold.
    """

    rule: str
    ok: bool
    where: str
    message: str
    cure: str = ""


def table_bytes(task: Task, ids: tuple[str, ...], answer: np.ndarray) -> bytes:
    """Return a submission with these answers.

    Args:
        task: Gives the header.
        ids: n ids.
        answer: (n, columns) numbers.
    """
    lines = [",".join(header_of(task))]
    # repr keeps every digit; whole numbers are written plainly, as class numbers must be.
    lines += [
        ",".join([key, *(repr(float(value)) for value in row)]) for key, row in zip(ids, answer, strict=True)
    ]
    return ("\n".join(lines) + "\n").encode()


def gold_submission(task: Task, spoiled: float = 0.0) -> bytes:
    """Return the submission that answers every hidden row rightly, or all but a share of them.

    Args:
        task: A task with label files.
        spoiled: Share of the rows that get another row's answer, 0..1, those first whose answers lie farthest
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


def check_task(
    task: Task, execute: Callable[[Task, dict[str, bytes]], object] | None = None
) -> list[Finding]:
    """Return one finding for each rule of the task contract that could be checked.

    Args:
        task: Any task, pocket or foreign.
        execute: From (task, files) to an object with ``status``, ``output``, ``seconds``, ``collected`` and
            ``peak_memory_bytes``, as the isolated runner gives. Without it the starter is not run.
    """
    findings = list(_check_card(task))
    if task.grader is not None:
        findings += _check_grader(task)
        if not task.one_label_set:
            from mlagent_lib.tasks.check_answers import check_answers  # here: it needs `Finding`

            findings += check_answers(task)
    elif task.labels_dir.is_dir():
        findings += _check_labels(task)
        findings += _check_disjoint(task)
    if execute is not None:
        findings += _check_starter(task, execute)
    return findings


def _check_card(task: Task) -> Iterator[Finding]:
    yield Finding(
        "env/train.py exists",
        "train.py" in task.env_files(),
        "env/train.py",
        "the starter",
        "put a starter script that runs into env/train.py",
    )
    yield Finding(
        "the request is not empty",
        bool(task.research_problem),
        "scripts/research_problem.txt",
        f"{len(task.research_problem)} characters",
        "write the request to the agent",
    )
    if not (task.folder / "task.yaml").is_file():
        return
    known = task.metric in METRICS
    yield Finding(
        "the metric is known",
        known or task.grader is not None,  # a foreign grader has its own
        "task.yaml",
        f"metric {task.metric}",
        f"choose one of {', '.join(METRICS)}",
    )
    if known:
        right = get_metric(task.metric).greater_is_better == task.greater_is_better
        yield Finding(
            "the direction fits the metric",
            right,
            "task.yaml",
            f"greater_is_better={task.greater_is_better} for {task.metric}",
            "correct direction",
        )
    sign = 1 if task.greater_is_better else -1
    for name in LABEL_SETS:
        better = sign * (task.best[name] - task.baseline[name])
        yield Finding(
            "the best known score beats the starter's",
            better > 0,
            "task.yaml",
            f"{name}: starter {task.baseline[name]:g}, best {task.best[name]:g}",
            "measure both scores again",
        )
    stated = yaml.safe_load((task.folder / "task.yaml").read_text(encoding="utf-8")).get("checksums")
    if stated is not None:
        found = checksums(task.folder)
        changed = sorted(path for path in stated.keys() | found.keys() if stated.get(path) != found.get(path))
        yield Finding(
            "all files match their checksums",
            not changed,
            ", ".join(changed[:3]) or "env, scripts",
            f"{len(found)} files, {len(changed)} differ",
            "rebuild the task with its scripts/prepare.py",
        )


def _check_grader(task: Task) -> Iterator[Finding]:
    """Check what can be known of a foreign folder and its grader before the starter has run."""
    grader = task.grader
    where = f"{grader.script.parent.name}/{grader.script.name}"
    read = read_grader(grader.script, grader.function)
    yield Finding(
        "the grader can grade", not read.problem, where, read.problem or grader.function, read.cure or "-"
    )
    program = task.folder / "scripts" / "prepare.py"
    if program.is_file() and grader.call == "folder":
        prepared = (program.parent / MARKER).exists()
        yield Finding(
            "the data are prepared",
            prepared,
            "scripts/prepare.py",
            "it ran" if prepared else "it has not run",
            f"mlagent tasks prepare {task.folder}",
        )
    outside = strays(task.folder / "env")
    yield Finding(
        "everything in env/ lies there",
        not outside,
        "env",
        f"{', '.join(outside[:3]) or 'no link'} leads out of env/, where no run can read",
        "copy or bind-mount what the link leads to",
    )
    yield Finding(
        "the label sets are known",
        True,
        where,
        "one label set: feedback and report scores are the same number"
        if task.one_label_set
        else "two label sets",
        "-",
    )


def _check_scores(task: Task, submission: bytes) -> Iterator[Finding]:
    """Check a foreign grader on a submission that it accepts: the same score twice, and none for nonsense."""
    where = f"{task.grader.script.parent.name}/{task.grader.script.name}"
    first, second = (run_grader(task.grader, submission).score for _ in range(2))
    yield Finding(
        "the same submission scores the same twice",
        first == second,
        where,
        f"{first} and {second}",
        "take the chance out of the grader, or seed it",
    )
    hidden = nonsense_score(task.grader)
    told = (
        "it raises" if hidden is None else f"it returns {hidden:g}: a submission with this score is refused"
    )
    yield Finding("nonsense gets no score of its own", True, where, told, "-")
    from mlagent_lib.tasks.check_answers import check_cheats  # here: it needs `Finding`

    yield check_cheats(task, submission)


def _check_labels(task: Task) -> Iterator[Finding]:
    mode = task.labels_dir.stat().st_mode & 0o777
    yield Finding(
        "only the owner may open the labels",
        mode & 0o077 == 0,
        "scripts/labels",
        f"mode {mode:o}",
        "chmod 700 the folder",
    )
    for name in LABEL_SETS:
        where = f"scripts/labels/{name}.csv"
        try:
            gold, spoiled = (grade(task, gold_submission(task, share), name) for share in (0.0, 0.5))
        except (Unscored, SubmissionError, ValueError) as error:
            yield Finding("the true answers can be scored", False, where, str(error), "rebuild the task")
            continue
        perfect = get_metric(task.metric).perfect
        yield Finding(
            "the true answers score best possible",
            abs(gold - perfect) < 1e-9,
            where,
            f"{gold:g}, best possible {perfect:g}",
            "compare the labels with the metric",
        )
        worse = spoiled < gold if task.greater_is_better else spoiled > gold
        yield Finding(
            "wrong answers score worse",
            worse,
            where,
            f"half of the rows wrong: {spoiled:g}",
            "correct direction in task.yaml",
        )


def _check_disjoint(task: Task) -> Iterator[Finding]:
    from mlagent_lib.tasks.pocket.suite import normalised_rows  # here: it loads the sources of the suite

    where = "env/data"
    try:
        data = task.folder / "env" / "data"  # the runs' data_dir is the folder above where more is linked
        train = pd.read_csv(data / "train.csv")
        test = pd.read_csv(data / "test.csv", index_col="id")
        ids = {name: set(read_labels(task, name)[0]) for name in LABEL_SETS}
    except (OSError, ValueError, KeyError, MlagentError) as error:
        yield Finding(
            "the three sets can be compared",
            False,
            where,
            str(error),
            "write data/train.csv and data/test.csv with an id column",
        )
        return
    both = ids["feedback"] & ids["report"]
    yield Finding(
        "feedback and report rows are disjoint",
        not both,
        "scripts/labels",
        f"{len(both)} ids in both",
        "split the hidden rows anew",
    )
    listed = set(map(str, test.index))
    yield Finding(
        "test.csv holds exactly the hidden rows",
        listed == ids["feedback"] | ids["report"],
        "env/data/test.csv",
        f"{len(listed)} ids, {sum(map(len, ids.values()))} labels",
        "write one line for each hidden label",
    )
    keys = normalised_rows(test)
    repeated = int(keys.duplicated().sum())
    yield Finding(
        "no hidden row is there twice",
        repeated == 0,
        "env/data/test.csv",
        f"{repeated} repeated rows",
        "drop rows that are equal after normalising",
    )
    shared = int(keys.isin(set(normalised_rows(train[list(test.columns)]))).sum())
    yield Finding(
        "no hidden row is a visible one",
        shared == 0,
        "env/data/train.csv",
        f"{shared} shared rows",
        "drop rows that are equal after normalising",
    )
    answers = [name for name in header_of(task)[1:] if name in test.columns] + [
        name for name in ("target",) if name in test.columns
    ]
    yield Finding(
        "test.csv holds no answer",
        not answers,
        "env/data/test.csv",
        f"columns {answers}",
        "remove the columns",
    )


def _check_starter(task: Task, execute: Callable[[Task, dict[str, bytes]], object]) -> Iterator[Finding]:
    where, files = "env/train.py", task.env_files()
    if "train.py" not in files:
        return  # said already
    ran = execute(task, files)
    if ran.status != "ok":
        found = diagnose(files, "train.py", ran.status, ran.output)
        yield Finding("the starter runs", False, where, str(found), found.cure)
        return
    yield Finding("the starter runs", True, where, f"{ran.seconds:.2f} s", "-")
    share = ran.seconds / task.limits.seconds
    yield Finding(
        "the starter leaves time for better scripts",
        share <= SHARE_OF_LIMITS,
        where,
        f"{ran.seconds:.2f} s of {task.limits.seconds:g} s",
        "raise limits.seconds or use fewer rows",
    )
    memory = getattr(ran, "peak_memory_bytes", 0) / task.limits.memory_bytes
    yield Finding(
        "the starter leaves memory for better scripts",
        memory <= SHARE_OF_LIMITS,
        where,
        f"{memory:.0%} of the limit",
        "raise limits.memory_bytes or use fewer rows",
    )
    gap = {name: abs(task.best[name] - task.baseline[name]) for name in task.baseline if name in task.best}
    for name in LABEL_SETS:
        try:
            score = grade(task, ran.collected.get("submission.csv"), name)
        except (SubmissionError, Unscored) as error:
            write = "write submission.csv with an answer for every id of test.csv"
            cure = error.cure if isinstance(error, Unscored) else write
            yield Finding("the starter's submission can be scored", False, where, error.message, cure)
            return
        if name in task.baseline:
            near = abs(score - task.baseline[name]) <= SCORE_TOLERANCE * gap.get(name, 0.0) + 1e-6
            yield Finding(
                "the starter reproduces its stated score",
                near,
                "task.yaml",
                f"{name}: {score:.6g}, stated {task.baseline[name]:.6g}",
                "measure the scores again",
            )
        elif name in task.best:
            yield Finding(
                "the best known score beats the starter's",
                (task.best[name] > score) == task.greater_is_better and task.best[name] != score,
                where,
                f"{name}: starter {score:.6g}, best {task.best[name]:.6g}",
                "state a better one, or the other direction",
            )
    if task.grader is not None:
        yield from _check_scores(task, ran.collected["submission.csv"])
