"""Scores on the report labels, for the evaluation alone: finished trajectories, graded from the archive.

Nobody reads these labels while trajectories are made or a policy is trained. Nothing is run again here: what
a script handed in lies in the archive of submissions, by its hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

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
    """Return trajectories with their scores on the report labels in ``final``.

    ``report_start``, ``report_last`` and ``report_best`` are of the named submissions; ``report_path`` holds
    the score of what the agent would hand in after 0, 1, 2, ... steps; ``report_kept`` is that of the
    submission whose script printed the best validation metric: all that an agent can know (see `handed_in`).

    Args:
        rows: Finished trajectories, graded before or not.
        archive: Of the cache that their steps were made with.
    """
    known: dict[tuple[str, str], float] = {}

    def score(name: str, submission: str) -> float:
        if (name, submission) not in known:
            known[name, submission] = report_score(task_of(name), archive, submission)
        return known[name, submission]

    graded = []
    for row in rows:
        task = task_of(row["task"])
        named, path = row["final"]["submissions"], handed_in(row)
        scores: dict = {f"report_{name}": score(task.name, submission) for name, submission in named.items()}
        scores["report_path"] = [score(task.name, submission) for submission, _ in path]
        scores["report_kept"] = scores["report_path"][best_printed(path, task.greater_is_better)]
        graded.append({**row, "final": row["final"] | scores})
    return graded


def handed_in(row: Mapping) -> list[tuple[str, float | None]]:
    """Return what an agent could hand in after 0, 1, 2, ... steps of a trajectory.

    Each is the sha256 of the last submission by then and the validation metric that its script printed, None
    where it printed none.
    """
    steps = row["steps"]
    found = [(step["state"]["submission"], step["state"]["visible"]) for step in steps]
    last = row["final"]["submissions"]["last"]
    if not found:
        return [(last, None)]
    ran = steps[-1]["outcome"] == "edited"
    return [*found, (last, steps[-1].get("visible_metric") if ran else found[-1][1])]


def best_printed(path: Sequence[tuple[str, float | None]], greater_is_better: bool) -> int:
    """Return the place of the best validation metric, the first of equals; the last place without any.

    Example:
        >>> best_printed([("a", 0.5), ("b", 0.7), ("c", None), ("d", 0.7)], True)
        1
    """
    sign = 1 if greater_is_better else -1
    places = [place for place, (_, printed) in enumerate(path) if printed is not None]
    return max(places, key=lambda place: sign * path[place][1], default=len(path) - 1)
