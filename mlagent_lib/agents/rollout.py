"""Trajectories: a policy and the environment in turn, many side by side, and the row that records each.

The trajectories of a call advance in two halves that take turns: the policy answers for one half in one
batch while the scripts of the other run. A step that *we* fail to score is tried again; if it fails again,
its trajectory ends as ``unscored`` and is left out of every average, and counted.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mlagent_lib.agents.ideas import Idea
from mlagent_lib.agents.policies import Policy, Turn
from mlagent_lib.agents.schema import SCHEMA_NAME
from mlagent_lib.core.errors import Unscored
from mlagent_lib.core.seeding import rng
from mlagent_lib.core.thinking import split_thinking
from mlagent_lib.environment.actions import UNDO, Action, ActionError, safe_path, storable
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import PendingSteps, StepResult, Toolbox, entry_script, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.reward import reward_of
from mlagent_lib.tasks.task import Task

MAX_UNSCORED = 2  # ours: retries of a step that we failed to score


@dataclass(frozen=True)
class Job:
    """One trajectory to make.

    Attributes:
        index: Number of the trajectory among those of its task and source.
        ideas: What it shall try first.
        start: State to start from; None for the starter.
    """

    task: Task
    source: str
    index: int
    seed: int
    ideas: tuple[Idea, ...] = ()
    start: State | None = None

    @property
    def id(self) -> str:
        """Return the name of the trajectory, unique within a run."""
        return f"{self.source}/{self.task.name}/{self.index}"


@dataclass
class _Running:
    job: Job
    turn: Turn
    steps: list[dict] = field(default_factory=list)
    states: list[State] = field(default_factory=list)
    stop: str = ""
    reply: str | None = None
    unscored: int = 0


def run_trajectories(
    jobs: Sequence[Job],
    policy: Policy,
    tools: Toolbox,
    *,
    max_steps: int,
    progress: Callable[[int], None] | None = None,
    watch: Callable[[Job, dict, str], None] | None = None,
) -> list[dict]:
    """Return one row for each job, in order (schema ``mlagent.trajectory/1``).

    Args:
        max_steps: Longest trajectory ("15 steps", paper section 5.1).
        watch: Called after each step with its job, its record, and why the trajectory ended, or "".

    Raises:
        Unscored: A starter cannot be executed.
    """
    starts = {job.task.name: job.task for job in jobs if job.start is None}
    first = {name: start_state(task, tools) for name, task in starts.items()}
    running = [_begin(job, job.start or first[job.task.name], max_steps) for job in jobs]
    # two halves that take turns: while the scripts of one run, the policy replies for the other
    waiting = deque((half, [], None) for half in (running[0::2], running[1::2]))
    while waiting:
        half, active, pending = waiting.popleft()
        if pending:
            for run, result in zip(active, pending.results(), strict=True):
                if _advance(run, result, max_steps) and watch:
                    watch(run.job, run.steps[-1], run.stop)
            if progress:
                progress(len(active))
        for run in _reply([run for run in half if not run.stop and run.reply is None], policy):
            if watch:
                watch(run.job, run.steps[-1], run.stop)
        if active := [run for run in half if not run.stop]:
            rows = [(run.turn.state, run.reply) for run in active]
            waiting.append((half, active, PendingSteps(rows, tools)))
    return [_row(run) for run in running]


def _begin(job: Job, state: State, max_steps: int) -> _Running:
    stream = rng(job.seed, "trajectory", job.source, job.task.name, job.index)
    turn = Turn(state, job.task, max_steps, stream, job.ideas, name=job.id)
    return _Running(job, turn, states=[state])


def _reply(waiting: list[_Running], policy: Policy) -> list[_Running]:
    """Ask for replies where none is pending, and return the trajectories that ended for want of one.

    After a failure of ours the same reply is tried again.
    """
    replies, ended = policy.act([run.turn for run in waiting]) if waiting else [], []
    for run, reply in zip(waiting, replies, strict=True):
        if isinstance(reply, Unscored):  # its endpoint has spent its tries: the trajectory ends here
            state = run.turn.state
            lost = StepResult(state, Outcome.UNSCORED, "policy-server", "", failure=str(reply))
            run.steps.append(step_row(state, "", lost, run.job.task))
            run.stop = "unscored"
            ended.append(run)
        else:
            run.reply = storable(reply)
    return ended


def _advance(run: _Running, result: StepResult, max_steps: int) -> bool:
    """Move a trajectory on; return whether it made a step: not where a failure of ours is tried again."""
    failed = result.outcome is Outcome.UNSCORED
    run.unscored = run.unscored + 1 if failed else 0
    if failed and run.unscored <= MAX_UNSCORED:
        return False
    run.steps.append(step_row(run.turn.state, run.reply, result, run.job.task, cut=run.turn.cut))
    if failed:
        run.stop = "unscored"
        return True
    run.reply, run.turn.state = None, result.state
    run.states.append(result.state)
    if result.state.done:
        run.stop = "final-answer"
    elif result.state.step >= max_steps:
        run.stop = "steps"
    return True


def step_row(before: State, reply: str, result: StepResult, task: Task, *, cut: dict | None = None) -> dict:
    """Return one step as a trajectory row records it; of a thought in the reply only the length."""
    action, failed = result.action, result.outcome is Outcome.UNSCORED
    reply, thought = split_thinking(reply)
    return {
        "step": before.step,
        "state": before.to_json(),
        "reply": reply,
        "action": action.name if action else "",
        "action_input": dict(action.arguments) if action else {},
        "observation": result.observation,
        "outcome": result.outcome.value,
        "reason": result.reason,
        "score_before": result.score_before,
        "score_after": result.score_after,
        "reward": reward_of(result, task),
        "script_before": before.text(_file_of(action, task, "script_name")),
        "script_after": result.state.text(_file_of(action, task, "save_name")),
        "visible_metric": None if failed else result.state.history[-1].visible,
        "seconds": result.seconds,
        "cache_hit": result.cache_hit,
        "tier": result.tier,
        **({"prompt_cut": cut} if cut else {}),
        **({"thought": thought} if thought else {}),
    }


def edited_state(step: dict, task: Task) -> State:
    """Return the state after a scored edit, as far as scripts and score go, from its recorded step.

    A new script that was run in the starter's place lies in the starter's place.
    """
    before, action = State.from_json(step["state"]), Action(step["action"], step["action_input"], {})
    source, saved = (_file_of(action, task, name) for name in ("script_name", "save_name"))
    text = step["script_after"].encode()
    after = before.with_file(saved, text)
    if entry_script(task, after.files, source, saved) == saved:
        after = after.with_file(task.starter, text)
    return replace(after, score=step["score_after"])


def _file_of(action: Action | None, task: Task, argument: str) -> str:
    """Return which file an edit read (``script_name``) or wrote (``save_name``), in normal form.

    What is undone is one file; for other actions it is the starter.
    """
    with contextlib.suppress(ActionError):
        if action and action.name == UNDO:
            return safe_path(action.arguments["script_name"])
        if action and "save_name" in action.arguments:
            return safe_path(action.arguments[argument])
    return task.starter


def _row(run: _Running) -> dict:
    job, task = run.job, run.job.task
    scored = [state for state in run.states if state.submission]
    best = max(scored, key=lambda state: state.score if task.greater_is_better else -state.score)
    ends = {"start": run.states[0], "last": run.states[-1], "best": best}
    return {
        "schema": SCHEMA_NAME,
        "id": job.id,
        "task": task.name,
        "split": task.split,
        "source": job.source,
        "seed": job.seed,
        "ideas": [idea.to_json() for idea in job.ideas],
        "steps": run.steps,
        "final": {
            "feedback_last": ends["last"].score,
            "feedback_best": best.score,
            "submissions": {name: state.submission for name, state in ends.items()},
            "stop": run.stop,
        },
    }
