"""States and rewards for other trainers: one JSON line a state, with every action executed from it.

The format is ``state-rewards.schema.json`` beside this file. A reward is computed anew from outcome and
scores in each of its forms, so that a reader may take any; the recorded one is not read. Actions that *we*
failed to score are counted and left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import write_text
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.workspace import State
from mlagent_lib.reward import FORMS, step_reward
from mlagent_lib.tasks.task import Task

SCHEMA_FILE = Path(__file__).with_name("state-rewards.schema.json")
SCHEMA_NAME = "mlagent.state-rewards/1"
_COPIED = (
    *("step", "reply", "action", "action_input", "outcome", "reason", "score_before", "score_after"),
    *("seconds", "cache_hit", "tier"),
)


def state_reward_rows(
    trajectories: Sequence[Mapping],
    tasks: Mapping[str, Task],
    part_of: Mapping[str, str],
    *,
    prompter: Prompter,
    provenance: Mapping,
) -> list[dict]:
    """Return one row for each state that has a scored action, in the order of their first occurrence.

    Args:
        trajectories: Rows of trajectory files; equal states of several trajectories become one row.
        part_of: Part of each state, by its id.
        provenance: Where they come from, without prompt style and length.

    Raises:
        RunError: A state was made on other data of its task than those that are here: m_init, m_best and the
            prompt would not be its own.
    """
    states: dict[str, State] = {}
    groups: dict[str, list[tuple[Mapping, Mapping]]] = {}
    for row in trajectories:
        for step in row["steps"]:
            state = State.from_json(step["state"])
            states.setdefault(state.id, state)
            groups.setdefault(state.id, []).append((row, step))
    origin = {**provenance, "prompt_style": prompter.style, "max_steps": prompter.max_steps}
    rows = []
    for key, group in groups.items():
        state, task = states[key], tasks[states[key].task]
        scored = [pair for pair in group if pair[1]["outcome"] != Outcome.UNSCORED.value]
        if not scored:
            continue
        if state.task_digest != task.digest:
            raise RunError(
                f"the states of task {task.name!r} were made on other data than those that are here",
                cure="export on the machine that made the run, or with its version of the kit",
            )
        rows.append(
            {
                "schema": SCHEMA_NAME, "state_id": key, "task": task.name, "split": task.split,
                "part": part_of[key], "prompt": prompter.messages(state, task), "state": state.to_json(),
                "metric": task.metric, "greater_is_better": task.greater_is_better,
                "score_init": task.baseline["feedback"], "score_best": task.best["feedback"],
                "actions": [_action(trajectory, step, task) for trajectory, step in scored],
                "unscored": len(group) - len(scored), "provenance": origin,
            }
        )  # fmt: skip
    return rows


def write_state_rewards(path: str | Path, rows: Sequence[Mapping]) -> Path:
    """Write the rows as JSONL, atomically, and their schema beside them; return the path of the schema.

    ``states.jsonl`` gets ``states.schema.json``.
    """
    path = Path(path)
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
    return write_text(path.with_suffix(".schema.json"), SCHEMA_FILE.read_text(encoding="utf-8"))


def _action(trajectory: Mapping, step: Mapping, task: Task) -> dict:
    rewards = {
        form: step_reward(
            Outcome(step["outcome"]), before=step["score_before"], after=step["score_after"],
            init=task.baseline["feedback"], best=task.best["feedback"], form=form,
        )
        for form in FORMS
    }  # fmt: skip
    found = {"source": trajectory["source"], "trajectory": trajectory["id"]}
    found |= {name: step.get(name) for name in _COPIED}
    return found | {"rewards": rewards}
