"""The states of a finished run with all that a trainer needs to know of them: parts, prompts, provenance.

It reads files of a run and loads no model. The kit's own trainers do not need it: they have the run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.agents.export import read_trajectories
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.agents.state_rewards import state_reward_rows, write_state_rewards
from mlagent_lib.core.artifacts import notebook_of, read_manifest, stage_problem
from mlagent_lib.core.errors import RunError
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.task import Task
from mlagent_lib.training.pool import part_of_states, split_trajectories

COLLECTION, EVALUATION = "01_collection", "04_evaluation"


@dataclass(frozen=True)
class RunStates:
    """The trajectories of one stage of a run, by part.

    Attributes:
        trajectories: Those of *train*, *select* and *test* for the collection; of *evaluation* for the
            evaluation.
        prompter: Makes the prompts of that stage.
        provenance: Run, stage, profile, seed, package and commit, for whoever gets the rows.
    """

    trajectories: dict[str, list[dict]]
    prompter: Prompter
    provenance: dict


def read_run(run: str | Path, stage: str = COLLECTION) -> RunStates:
    """Return the trajectories of a stage of a run, split as the run split them.

    Args:
        run: Folder of the run.
        stage: ``01_collection`` or ``04_evaluation``.

    Raises:
        RunError: The stage is not finished, or its files have changed since.
    """
    folder = Path(run) / stage
    manifest = read_manifest(folder)
    problem = stage_problem(folder)
    if manifest is None or problem is not None:
        raise RunError(
            f"{folder} cannot be used: {problem}",
            cure=f"give the folder of a run, and run notebooks/{notebook_of(stage)} in it first",
        )
    rows = read_trajectories(folder / "trajectories.jsonl")
    profile, seed = manifest["profile"], manifest["seed"]
    if stage == COLLECTION:
        parts = split_trajectories(rows, seed, share=profile["sft"]["holdout_share"])
        max_steps = profile["collect"]["max_steps"]
    else:
        parts, max_steps = {"evaluation": rows}, profile["evaluate"]["max_steps"]
    provenance = {
        "run": Path(run).resolve().name,
        "stage": stage,
        "profile": profile["name"],
        "seed": seed,
        "package": manifest["package"],
        "commit": (manifest.get("git") or {}).get("commit"),
    }
    prompter = Prompter(profile["prompt_style"], max_steps, profile.get("prompt_tokens", 0))
    return RunStates(parts, prompter, provenance)


def known_tasks(names: Iterable[str], given: Sequence[Task] = ()) -> dict[str, Task]:
    """Return the tasks of these names: those given, and else the pocket tasks.

    Args:
        names: Names of tasks.
        given: Tasks that are no pocket tasks.

    Raises:
        TaskError: A task is unknown.
    """
    own = {task.name: task for task in given}
    return {name: own[name] if name in own else find_task(name) for name in set(names)}


def export_states(
    run: str | Path, out: str | Path, *, stage: str = COLLECTION, tasks: Sequence[Task] = ()
) -> dict:
    """Write the states and rewards of a run (see `agents.state_rewards`) and return what was written.

    Args:
        run: Folder of the run.
        out: The JSONL file; its schema is written beside it.
        stage: ``01_collection`` or ``04_evaluation``.
        tasks: Tasks that are no pocket tasks.

    Returns:
        The numbers of ``states``, ``actions`` and ``unscored``, and the path of the ``schema``.

    Raises:
        RunError: The stage is not finished, or the data of a task here are others.
        TaskError: A task is unknown.
    """
    found = read_run(run, stage)
    trajectories = [row for rows in found.trajectories.values() for row in rows]
    rows = state_reward_rows(
        trajectories, known_tasks((row["task"] for row in trajectories), tasks),
        part_of_states(found.trajectories), prompter=found.prompter,
        provenance=found.provenance,
    )  # fmt: skip
    actions = sum(len(row["actions"]) for row in rows)
    steps = sum(len(row["steps"]) for row in trajectories)
    schema = write_state_rewards(out, rows)
    return {"states": len(rows), "actions": actions, "unscored": steps - actions, "schema": schema}
