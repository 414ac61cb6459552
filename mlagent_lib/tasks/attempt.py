"""Runs a script of a task once and scores what it hands in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from mlagent_lib.core.errors import SubmissionError
from mlagent_lib.tasks.grading import LABEL_SETS, grade
from mlagent_lib.tasks.task import Task

# From (task, files) to an object with `status`, `output`, `seconds` and `collected`, as the isolated runner
# gives.
Execute = Callable[[Task, dict[str, bytes]], object]


@dataclass(frozen=True)
class Attempt:
    """What came of one run.

    Attributes:
        scores: On both label sets; None where there is no score.
        why: Why not; "" where there is one.
        submission: What was handed in, or None.
        ran: What ``execute`` returned.
    """

    scores: dict[str, float] | None
    why: str
    submission: bytes | None
    ran: object


def attempt(task: Task, execute: Execute, script: bytes | None = None) -> Attempt:
    """Return what a script, or the starter, scores.

    Raises:
        Unscored: The labels cannot be scored.
    """
    ran = execute(task, task.env_files() | ({} if script is None else {task.starter: script}))
    if ran.status != "ok":
        lines = ran.output.strip().splitlines()
        return Attempt(None, f"{ran.status}: {lines[-1][:200] if lines else 'no output'}", None, ran)
    submission = ran.collected.get("submission.csv")
    try:
        return Attempt({name: grade(task, submission, name) for name in LABEL_SETS}, "", submission, ran)
    except SubmissionError as error:
        return Attempt(None, f"its submission cannot be scored ({error.reason})", submission, ran)
