"""Scores on the report labels, for the evaluation alone: finished trajectories, graded from the archive.

Nobody reads these labels while trajectories are made or a policy is trained. Nothing is run again here: what
a script handed in lies in the archive of submissions, by its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mlagent_lib.environment.workspace import WorkspaceStore
from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.task import Task


def report_score(task: Task, archive: WorkspaceStore, submission: str) -> float:
    """Return the score of an archived submission (its sha256) on the report labels, in the task's unit.

    Raises:
        Unscored: The labels are missing or damaged.
        SubmissionError: The metric is undefined on these labels.
    """
    return grade(task, archive[submission], "report")


def with_report_scores(
    rows: Iterable[Mapping], task_of: Callable[[str], Task], archive: WorkspaceStore
) -> list[dict]:
    """Return trajectories with ``report_start``, ``report_last`` and ``report_best`` in their ``final``.

    Args:
        rows: Finished trajectories, graded before or not.
        task_of: Gives a task by its name.
        archive: Of the cache that their steps were made with.
    """
    known: dict[tuple[str, str], float] = {}
    graded = []
    for row in rows:
        scores = {}
        for name, submission in row["final"]["submissions"].items():
            key = row["task"], submission
            if key not in known:
                known[key] = report_score(task_of(row["task"]), archive, submission)
            scores[f"report_{name}"] = known[key]
        graded.append({**row, "final": row["final"] | scores})
    return graded
