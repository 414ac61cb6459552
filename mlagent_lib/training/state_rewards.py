"""States and rewards of a finished run for other trainers: one JSON line a state, with every action from it.

It reads files of a run and loads no model. The format is ``state-rewards.schema.json`` beside this file. A
reward is computed anew from outcome and scores in each of its forms, so that a reader may take any; the
recorded one is not read. Actions that *we* failed to score are counted and left out.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.agents.export import read_trajectories
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.artifacts import notebook_of, read_manifest, stage_problem
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import write_text
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.workspace import State
from mlagent_lib.reward import FORMS, task_reward
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.task import Task
from mlagent_lib.training.pool import split_trajectories

COLLECTION = "01_collection"
SCHEMA_FILE = Path(__file__).with_name("state-rewards.schema.json")
SCHEMA_NAME = "mlagent.state-rewards/1"
_COPIED = (
    *("step", "reply", "action", "action_input", "outcome", "reason", "score_before", "score_after"),
    *("seconds", "cache_hit", "tier"),
)


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
    """Return the trajectories of a stage of a run (``01_collection``, ``04_evaluation``), split as there.

    Raises:
        RunError: The stage is not finished, or its files have changed since.
    """
    folder = Path(run) / stage
    manifest, problem = read_manifest(folder), stage_problem(folder)
    if manifest is None or problem is not None:
        cure = f"give the folder of a run, and run notebooks/{notebook_of(stage)} in it first"
        raise RunError(f"{folder} cannot be used: {problem}", cure=cure)
    rows = read_trajectories(folder / "trajectories.jsonl")
    profile, seed = manifest["profile"], manifest["seed"]
    if stage == COLLECTION:
        sft, section = profile["sft"], "collect"
        first = sft.get("holdout_first", 0)  # runs of earlier had no such constant
        parts = split_trajectories(rows, seed, share=sft["holdout_share"], first=first)
    else:
        parts, section = {"evaluation": rows}, "evaluate"
    max_steps = profile[section]["max_steps"]
    provenance = {"run": Path(run).resolve().name, "stage": stage, "profile": profile["name"], "seed": seed}
    provenance |= {"package": manifest["package"], "commit": (manifest.get("git") or {}).get("commit")}
    prompter = Prompter(profile["prompt_style"], max_steps, profile.get("prompt_tokens", 0))
    return RunStates(parts, prompter, provenance)


def known_tasks(names: Iterable[str], given: Sequence[Task] = ()) -> dict[str, Task]:
    """Return the tasks of these names: those given, and else the pocket tasks (see `find_task`)."""
    own = {task.name: task for task in given}
    return {name: own[name] if name in own else find_task(name) for name in set(names)}


def export_states(
    run: str | Path, out: str | Path, *, stage: str = COLLECTION, tasks: Sequence[Task] = ()
) -> dict:
    """Write the states and rewards of a run as JSONL, with their schema beside them.

    Returns:
        The numbers of ``states``, ``actions`` and ``unscored``, and the path of the ``schema``:
        ``states.jsonl`` gets ``states.schema.json``.

    Raises:
        RunError: See `read_run` and `state_reward_rows`.
        TaskError: A task is unknown.
    """
    found, path = read_run(run, stage), Path(out)
    trajectories = [row for rows in found.trajectories.values() for row in rows]
    rows = state_reward_rows(found, known_tasks((row["task"] for row in trajectories), tasks))
    actions = sum(len(row["actions"]) for row in rows)
    steps = sum(len(row["steps"]) for row in trajectories)
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    schema = write_text(path.with_suffix(".schema.json"), SCHEMA_FILE.read_text(encoding="utf-8"))
    return {"states": len(rows), "actions": actions, "unscored": steps - actions, "schema": schema}


def state_reward_rows(run: RunStates, tasks: Mapping[str, Task]) -> list[dict]:
    """Return one row for each state that has a scored action, in the order of their first occurrence.

    Equal states of several trajectories become one row. It belongs to the first part that holds it, so that
    none is in two: the starter, which all share, to *train*, as in the run itself.

    Raises:
        RunError: A state was made on other data of its task than those that are here: m_init, m_best and the
            prompt would not be its own.
    """
    states: dict[str, State] = {}
    scored: defaultdict[str, list[tuple[str, Mapping, Mapping]]] = defaultdict(list)
    unscored: Counter[str] = Counter()
    trajectories = [(part, row) for part, found in run.trajectories.items() for row in found]
    for part, row, step in ((*pair, step) for pair in trajectories for step in pair[1]["steps"]):
        state = State.from_json(step["state"])
        states.setdefault(state.id, state)
        if step["outcome"] == Outcome.UNSCORED.value:
            unscored[state.id] += 1
        else:
            scored[state.id].append((part, row, step))
    origin = {**run.provenance, "prompt_style": run.prompter.style, "max_steps": run.prompter.max_steps}
    rows = []
    for key in (key for key in states if key in scored):
        state, task, part = states[key], tasks[states[key].task], scored[key][0][0]
        if state.task_digest != task.digest:
            raise RunError(
                f"the states of task {task.name!r} were made on other data than those that are here",
                cure="export on the machine that made the run, or with its version of the kit",
            )
        rows.append(
            {
                "schema": SCHEMA_NAME, "state_id": key, "task": task.name, "split": task.split, "part": part,
                "prompt": run.prompter.messages(state, task), "state": state.to_json(),
                "metric": task.metric, "greater_is_better": task.greater_is_better,
                "score_init": task.baseline["feedback"], "score_best": task.best["feedback"],
                "actions": [_action(trajectory, step, task) for _, trajectory, step in scored[key]],
                "unscored": unscored[key], "provenance": origin,
            }
        )  # fmt: skip
    return rows


def _action(trajectory: Mapping, step: Mapping, task: Task) -> dict:
    outcome, before, after = Outcome(step["outcome"]), step["score_before"], step["score_after"]
    rewards = {form: task_reward(outcome, task, before, after, form) for form in FORMS}
    found = {"source": trajectory["source"], "trajectory": trajectory["id"]}
    found |= {name: step.get(name) for name in _COPIED}
    return found | {"rewards": rewards}
