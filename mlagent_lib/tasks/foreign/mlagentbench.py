"""Writes the card that a folder of MLAgentBench lacks, after measuring its starter.

Such a folder (``env/``, ``scripts/``) is used as it is. What it does not state (direction, limits, starter's
and best known score) comes from the caller or from `known_tasks`, and may be written beside it as
``task.yaml``, which the benchmark itself does not read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlagent_lib.core.errors import SubmissionError, TaskError, Unscored
from mlagent_lib.core.files import write_bytes
from mlagent_lib.tasks.attempt import Execute
from mlagent_lib.tasks.folder import write_card
from mlagent_lib.tasks.foreign.check_grader import read_grader
from mlagent_lib.tasks.foreign.known_tasks import known_folders
from mlagent_lib.tasks.foreign.leaderboard import worse_than
from mlagent_lib.tasks.foreign.old_code import diagnose
from mlagent_lib.tasks.grading import LABEL_SETS, grade
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.task import Task, load_task

CONTROL = "control.csv"
Best = float | Callable[[float], float] | None  # a score, or what makes it of the starter's


def starter_scores(task: Task, execute: Execute) -> tuple[dict[str, float], bytes]:
    """Return the starter's score on each label set, and the submission that it wrote.

    Raises:
        TaskError: The starter fails or is refused: which line, which cause, what to change.
    """
    files = task.env_files()
    if task.starter not in files:
        others = ", ".join(name for name in files if name.endswith(".py")) or "no script"
        raise refusal("starter missing", task=task, others=others)
    ran = execute(task, files)
    if ran.status != "ok":
        found = diagnose(files, task.starter, ran.status, ran.output, home=task.folder)
        raise refusal("starter of folder fails", task=task, found=found)
    submission = ran.collected.get("submission.csv")
    try:
        return {labels: grade(task, submission, labels) for labels in LABEL_SETS}, submission
    except SubmissionError as error:
        raise refusal("starter refused", task=task, reason=error.reason) from error
    except Unscored as error:
        raise TaskError(error.message, cure=error.cure) from error


def check_adoptable(folder: Path) -> None:
    """Check what needs no run: that a folder has no card yet, and a grader that can be used.

    Raises:
        TaskError: It has a card, or its ``scripts/eval.py`` is missing or cannot grade.
    """
    if (folder / "task.yaml").exists():
        raise refusal("card is there", path=folder / "task.yaml")
    script = folder / "scripts" / "eval.py"
    if fault := read_grader(script):
        raise refusal("script cannot grade", path=script, fault=fault)


def place_starter(folder: Path, starter: str) -> str:
    """Return the name of a starter below ``env/``; a file from elsewhere is copied there under its own name.

    Raises:
        TaskError: There is no such file, or another one of its name in ``env/``.
    """
    env, source = (folder / "env").resolve(), Path(starter)
    inside = (env / starter).resolve()
    if inside.is_file() and inside.is_relative_to(env):
        return inside.relative_to(env).as_posix()
    if not source.is_file():
        raise refusal("no such starter", starter=starter, env=folder / "env")
    target = env / source.name
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise refusal("another starter", path=folder / "env" / source.name, starter=starter)
    write_bytes(target, source.read_bytes())
    return source.name


def adopt_folder(task: Task, execute: Execute, *, best: Best = None, best_provenance: str = "") -> Task:
    """Return the task after measuring its starter and writing its ``task.yaml`` and ``scripts/control.csv``.

    Afterwards the folder can be named wherever a task can, and a fresh process knows a submission that the
    grader accepts.

    Args:
        task: A folder without ``task.yaml``, loaded with direction and limits.
        best: Best known score; None for the known one.
        best_provenance: Where it comes from.

    Raises:
        TaskError: There is a card already, the grader or the starter fails, or the best known score does not
            beat the starter's.
    """
    check_adoptable(task.folder)
    if task.grader is None:
        raise refusal("no eval script", folder=task.folder)
    if best is None and not task.best:
        raise refusal("best not known", name=task.name)
    scores, submission = starter_scores(task, execute)
    if best is not None:
        reached = best(scores["feedback"]) if callable(best) else best
        task = replace(task, best=dict.fromkeys(LABEL_SETS, reached))
    if not worse_than(scores["feedback"], task.best["feedback"], task.greater_is_better):
        numbers = {"score": scores["feedback"], "best": task.best["feedback"]}
        raise refusal("best of folder beaten", name=task.name, **numbers)
    control = task.folder / "scripts" / CONTROL
    write_bytes(control, submission)
    grader = replace(task.grader, control=control)
    known = known_folders().get(task.name)
    why = best_provenance or (task.best_provenance if best is None else "stated by the caller")
    about, origin = f"{task.name}, by its own grader.", "not stated"
    if known:
        about = f"A folder of MLAgentBench, {task.name}."
        origin = "MLAgentBench, github.com/snap-stanford/MLAgentBench"
    facts = ["one label set: feedback and report scores are the same number"]
    written = {name: getattr(task, name) for name in ("name", "modality", "kind", "metric")} | {
        "direction": "maximize" if task.greater_is_better else "minimize",
        "split": "other",
        "description": task.description or about,
        "facts": [*task.facts, *facts] + ([known.warning] if known and known.warning else []),
        "provenance": task.provenance or origin,
        "starter": task.starter,
        "driver": task.driver,
        "grader": grader.to_card(task.folder),
        "baseline": scores,
        "best": task.best | {"provenance": why},
        "limits": task.limits.to_json(),
    }
    write_card(task.folder, written)
    return load_task(task.folder)
