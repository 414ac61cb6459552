"""One step of the ML environment: reply -> action -> edit -> execution -> feedback -> outcome.

`run_steps` is the pure form that step-wise RL uses: states and replies in, results out, order kept, and one
bad row never spoils another. As in the paper an edit is followed by its execution, and m_{t+1} is the score
of the edited script on the feedback labels; m_t is the last valid score on the way to the state (the paper is
silent about states whose script is broken). An edit of any other file runs the starter, too, and what
is undone runs again.
"""

from __future__ import annotations

import glob
import math
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlagent_lib.core.errors import CoderError, SubmissionError, Unscored
from mlagent_lib.core.imports import standard_only
from mlagent_lib.core.limits import Limits
from mlagent_lib.core.thinking import split_thinking
from mlagent_lib.environment import actions
from mlagent_lib.environment.actions import Action, ActionError, Invalid, parse_action, safe_path, storable
from mlagent_lib.environment.cache import Execution, ExecutionCache, execution_key
from mlagent_lib.environment.coder import Coder, EditRequest
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.runner import Results, Runner, RunRequest, RunResult
from mlagent_lib.environment.workspace import HistoryStep, State
from mlagent_lib.tasks.foreign.old_code import diagnose
from mlagent_lib.tasks.grading import grade, largest_submission
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.task import Task

_VISIBLE = re.compile(
    r"^validation [\w@ -]+: ([-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?)$", re.MULTILINE | re.IGNORECASE
)
_Job = tuple[State, str]  # a script that is to be executed, with the state that it is of
_Made = tuple[Execution | Unscored, bool]  # what that came to, and whether it was known already
SUBMISSION = "submission.csv"
MAX_FILES = 50  # ours: editable files of a workspace
MAX_SHOWN = 100  # ours: names of a data folder that List Files shows
_CORNER_STATUS = ("timeout", "memory", "disk", "files", "processes", "output")


@dataclass(frozen=True)
class StepResult:
    """What one step came to. No reward: that is `mlagent_lib.reward`'s.

    Attributes:
        state: The state after the step; the same as before when the step was UNSCORED.
        reason: A fixed class name that says why, e.g. ``bad-json`` or ``timeout``.
        score_before: m_t on the feedback labels, in the task's unit.
        score_after: m_{t+1}, only for EDITED.
        seconds: Duration of the execution; a cache hit carries its recorded duration.
        executed: Whether a script was executed (or found in the cache).
        tier: Isolation tier of the execution, or "".
        failure: For UNSCORED, what failed on our side.
    """

    state: State
    outcome: Outcome
    reason: str
    observation: str
    action: Action | None = None
    score_before: float | None = None
    score_after: float | None = None
    seconds: float = 0.0
    cache_hit: bool = False
    executed: bool = False
    tier: str = ""
    failure: str = ""


@dataclass(frozen=True)
class Toolbox:
    """What a step needs beside the state: who runs scripts, who edits them, where results are kept.

    Attributes:
        runner: Runs scripts in isolation: a `Runner`, or a `SpreadRunner` over several machines.
        home: Where task folders are; None for the default.
        reply_format: ``six`` or ``no-thought``.
        limits: Overrides the limits of the tasks.
        script_seconds: The longest a script may run where the task itself allows more; None for the task's.
        tasks: Tasks by name, each read once; give tasks here that are in no home folder.
    """

    runner: Runner
    coder: Coder
    cache: ExecutionCache
    home: Path | None = None
    reply_format: str = "six"
    limits: Limits | None = None
    script_seconds: float | None = None
    tasks: dict[str, Task] = field(default_factory=dict, repr=False, compare=False)

    def task(self, name: str) -> Task:
        """Return the task of that name; it is read from disk on the first call only."""
        if name not in self.tasks:  # it may be known by its folder
            named = next((task for task in self.tasks.values() if task.name == name), None)
            self.tasks[name] = named or find_task(name, home=self.home)
        return self.tasks[name]

    def execute_many(self, jobs: Sequence[_Job], *, reseed: int = 0) -> list[_Made]:
        """Return for each (state, script) what its execution came to, and whether it was known already.

        Equal experiments are made once, also those of a batch that is still under way: the later ones count
        as hits.

        ``reseed`` is 0 for the seeds that the scripts set; 1, 2, ... for other luck (see `RunRequest`).
        """
        return self.claim_many(jobs, reseed=reseed)()

    def claim_many(self, jobs: Sequence[_Job], *, reseed: int = 0) -> Callable[[], list[_Made]]:
        """Return the function that does `execute_many`, to be called once; what is known is known by now.

        So which of two batches makes an experiment does not depend on the time that their scripts take.
        """
        keys = [
            execution_key(state, script, self.task(state.task), self._limits(state), reseed)
            for state, script in jobs
        ]
        claims = [self.cache.claim(key) for key in keys]
        todo = {key: job for key, job, (_, is_ours) in zip(keys, jobs, claims, strict=True) if is_ours}

        def execute() -> list[_Made]:
            self._execute(todo, reseed)
            return [(place.result(), not is_ours) for place, is_ours in claims]

        return execute

    def _execute(self, todo: Mapping[str, _Job], reseed: int) -> None:
        """Make the experiments that were claimed; whoever waits for one is never left waiting."""
        judged: Sequence = [Unscored("the batch of an experiment was broken off")] * len(todo)
        try:
            requests = [self.request(state, script, reseed) for state, script in todo.values()]
            results = self.runner.run_many(requests, keep_unscored=True) if requests else []
            judged = self._judge_many([state for state, _ in todo.values()], results)
        finally:
            with ExitStack() as settled:
                for key, execution in zip(todo, judged, strict=True):
                    settled.callback(self.cache.settle, key, execution)

    def request(self, state: State, script: str, reseed: int = 0) -> RunRequest:
        """Return what the runner gets for one execution.

        Only a submission that the run itself writes counts, so none is laid into its workspace.
        """
        files = {path: data for path, data in state.files.items() if path != SUBMISSION or path == script}
        return task_request(self.task(state.task), files, script, self._limits(state), reseed=reseed)

    def _limits(self, state: State) -> Limits:
        limits = self.limits or self.task(state.task).limits
        if self.script_seconds is None or self.script_seconds >= limits.seconds:
            return limits
        return replace(limits, seconds=self.script_seconds)

    def _judge_many(self, states: Sequence[State], results: Results) -> list[Execution | Unscored]:
        """Judge in order; a foreign grader is a process that takes a second, so those run side by side."""
        if len(states) < 2 or not any(self.task(state.task).grader for state in states):
            return list(map(self._judge, states, results))
        with ThreadPoolExecutor(self.runner.workers, "mlagent-grade") as pool:
            return list(pool.map(self._judge, states, results))

    def _judge(self, state: State, result: RunResult | Unscored) -> Execution | Unscored:
        """Archive and score what a run left, in this order: a score can be recomputed from the archive."""
        if isinstance(result, Unscored):
            return result
        score = refusal = kept = None
        submission = result.collected.get(SUBMISSION)
        if result.status == "ok" and submission is None:
            refusal = result.collect_errors.get(SUBMISSION, "missing")
        elif result.status == "ok":
            task, digest = self.task(state.task), None
            if len(submission) <= largest_submission(task):  # a larger one is refused unread
                digest = self.cache.archive.put(submission)
            try:
                score = grade(task, submission, "feedback", control=self._control(state, task))
                kept = digest
            except SubmissionError as error:
                refusal = error.reason
            except Unscored as error:
                return error
        told = (result.status, result.output, result.seconds, result.tier)
        return Execution(*told, result.error_type, result.error_line, score, refusal, kept)

    def _control(self, state: State, task: Task) -> bytes | None:
        """Return the last valid submission on the way to a state: a foreign grader must still accept it."""
        known = task.grader is not None and state.submission and self.cache.archive.holds(state.submission)
        return self.cache.archive[state.submission] if known else None


def task_request(
    task: Task,
    files: Mapping[str, bytes],
    script: str | None = None,
    limits: Limits | None = None,
    *,
    reseed: int = 0,
) -> RunRequest:
    """Return the request to run a script of a task, with all that the task's runs may read.

    Without a script it is the starter, and without limits they are the task's own.
    """
    data = task.data_dir if task.data_dir.is_dir() else None
    script, limits = script or task.entry, limits or task.limits
    light = not reseed and script in files and standard_only(files, script)
    return RunRequest(dict(files), data, script, limits, reseed=reseed, links=task.links, standard_only=light)


def entry_script(task: Task, files: Mapping[str, bytes], source: str, saved: str) -> str:
    """Return the file that runs after an edit: the task's entry, whichever file of it was edited.

    A new script that takes the starter's place runs itself: not among the task's files, made from the starter
    or from such a script, and it names ``submission.csv`` if the starter does. Anything else (a module, a
    configuration) is worth what it changes in a run of the starter.

    Args:
        files: The workspace after the edit.
        source: The file that was edited, in normal form.
        saved: What the edited text was saved as, likewise.
    """
    if task.driver:  # it runs the starter, and nothing else
        return task.driver
    own, name = task.env_files(), SUBMISSION.encode()
    is_new = saved.endswith(".py") and saved not in own and (source == task.starter or source not in own)
    is_script = name in files[saved] or name not in files.get(task.starter, b"")
    return saved if is_new and is_script else task.starter


@contextmanager
def isolated_runs() -> Iterator[Callable[[Task, Mapping[str, bytes]], RunResult | Unscored]]:
    """Give a function that runs ``train.py`` of a workspace once: what checks and makers of tasks need."""
    with Runner(workers=1) as runner:
        yield lambda task, files: runner.run(task_request(task, files))


def start_state(task: Task, tools: Toolbox) -> State:
    """Return the first state of a task: the starter's files, executed once for its score.

    Raises:
        Unscored: The starter could not be executed or scored; that is never the policy's fault.
    """
    tools.tasks[task.name] = task
    state = State(task=task.name, task_digest=task.digest, files=task.env_files())
    run, _ = tools.execute_many([(state, task.entry)])[0]
    if isinstance(run, Unscored):
        raise run
    if run.score is None:
        why = run.refusal or diagnose(state.files, task.starter, run.status, run.output, home=task.folder)
        told = f"the starter of task {task.name!r} gave no score ({why}): {run.output[-300:]}"
        raise Unscored(told, cure=f"run 'mlagent tasks check {task.name}'")
    seen = visible_metric(run.output)
    return replace(state, score=run.score, visible=seen, visible_start=seen, submission=run.submission)


def visible_metric(output: str) -> float | None:
    """Return the last validation metric that a script printed, or None without a finite one. Never a score.

    Example:
        >>> visible_metric("epoch 1\\nvalidation accuracy: 0.75\\n")
        0.75
    """
    found = [float(number) for number in _VISIBLE.findall(output)]
    return next((value for value in reversed(found) if math.isfinite(value)), None)


def run_step(state: State, text: str, tools: Toolbox) -> StepResult:
    """Return what one reply does to one state (see `run_steps`)."""
    return run_steps([(state, text)], tools)[0]


def run_steps(rows: Sequence[tuple[State, str]], tools: Toolbox) -> list[StepResult]:
    """Return what each reply does to its state: ONE action a row, executed from the restored state.

    States are values: the same one may occur often. There is one result a row, in order. A row that we failed
    to score is UNSCORED and tells why; the others are not touched by it.
    """
    plans, _ = _prepare(rows, tools)
    return _finish(plans, tools.execute_many(_jobs(plans)))


class PendingSteps:
    """The same steps with their scripts still running, in a thread, so that the caller works meanwhile.

    Replies are parsed and edits written before this is made: the coder may be the very model that the caller
    goes on to use.

    Attributes:
        coder_seconds: Wall seconds that the coder took.
    """

    def __init__(self, rows: Sequence[tuple[State, str]], tools: Toolbox):
        self._plans, self.coder_seconds = _prepare(rows, tools)
        pool = ThreadPoolExecutor(1, "mlagent-steps")
        self._executions = pool.submit(tools.claim_many(_jobs(self._plans)))
        pool.shutdown(wait=False)

    def results(self) -> list[StepResult]:
        """Return what `run_steps` returns, once the scripts have ended."""
        return _finish(self._plans, self._executions.result())


def _prepare(rows: Sequence[tuple[State, str]], tools: Toolbox) -> tuple[list[_Plan], float]:
    plans = [_plan(state, text, tools) for state, text in rows]
    began = time.perf_counter()
    _edit([plan for plan in plans if plan.edit], tools)
    return plans, time.perf_counter() - began


def _jobs(plans: Sequence[_Plan]) -> list[_Job]:
    return [(plan.after, plan.script) for plan in plans if plan.script]


def _finish(plans: Sequence[_Plan], executed: Sequence[_Made]) -> list[StepResult]:
    executions = iter(executed)
    return [_result(plan, *(next(executions) if plan.script else (None, False))) for plan in plans]


@dataclass
class _Plan:
    """A row on its way: filled in by parsing, by the coder, and by the execution."""

    before: State
    text: str
    task: Task
    after: State
    action: Action | None = None
    edit: EditRequest | None = None
    saved: str = ""
    script: str = ""
    outcome: Outcome = Outcome.NEUTRAL
    reason: str = "valid"
    observation: str = ""
    failure: str = ""

    def comes_to(self, outcome: Outcome, reason: str, observation: str = "", failure: str = "") -> None:
        self.outcome, self.reason, self.observation, self.failure = outcome, reason, observation, failure


def _plan(state: State, text: str, tools: Toolbox) -> _Plan:
    task = tools.task(state.task)
    text = split_thinking(storable(text))[0]  # no thought enters the history
    plan = _Plan(before=state, text=text, task=task, after=state)
    parsed = parse_action(text, tools.reply_format)
    if task.digest != state.task_digest:
        failure = f"the state was made on other data of task {task.name!r}"
        plan.comes_to(Outcome.UNSCORED, "other-data", failure=failure)
    elif isinstance(parsed, Invalid):
        plan.comes_to(Outcome.INVALID, parsed.reason, parsed.message)
    else:
        plan.action = parsed
        try:
            plan.observation = _act(plan, parsed.name, parsed.arguments)
        except ActionError as error:
            plan.comes_to(Outcome.ERROR, "tool", str(error))
    return plan


def _act(plan: _Plan, name: str, arguments: Mapping[str, str]) -> str:
    """Perform what needs neither coder nor execution, and note what does; return the observation so far."""
    files = plan.before.files
    if name == "List Files":
        return actions.list_files(files, _data_names(plan.task), arguments["dir_path"])
    if name == "Inspect Script Lines":
        first, last = int(arguments["start_line_number"]), int(arguments["end_line_number"])
        return actions.inspect_lines(files, arguments["script_name"], first, last)
    if name == "Understand File":
        return actions.look_for(files, arguments["file_name"], arguments["things_to_look_for"])
    if name == "Final Answer":
        plan.after = replace(plan.before, done=True)
        return "The answer is noted. The run ends here."
    if name == "Copy File":
        source, target = safe_path(arguments["source"]), _writable(plan, arguments["destination"])
        actions.read_text(files, source)
        plan.after = plan.before.with_file(target, files[source])
        return f"File {source} copied to {target}"
    script = actions.read_text(files, arguments["script_name"])
    if name == "Execute Script":
        named = safe_path(arguments["script_name"])
        plan.script = plan.task.entry if named == plan.task.starter else named
    elif name == actions.UNDO:
        plan.saved = _writable(plan, arguments["script_name"])
        back = plan.before.without_edit(plan.saved)
        if back is None:
            raise ActionError(f"EnvError: there is no edit of {plan.saved} to undo.")
        plan.after = back
        if plan.saved not in back.files:  # the edit had made it
            return f"{plan.saved} is as before its first edit: it does not exist."
        plan.script = entry_script(plan.task, plan.after.files, plan.saved, plan.saved)
    else:
        plan.saved = _writable(plan, arguments["save_name"])
        plan.edit = EditRequest(plan.task, script, arguments["edit_instruction"])
    return ""


def _data_names(task: Task) -> tuple[str, ...]:
    """Return the paths that a run reads by reference, and what lies in linked folders, one level deep."""
    env, found = task.folder / "env", []
    for name in task.links or ("data",):
        if (env / name).is_dir():
            inside = sorted(path.name for path in (env / name).iterdir())
            found += [f"{name}/{inner}" for inner in inside[:MAX_SHOWN]]
            found += [f"{name}/... {len(inside)} names in all"] if len(inside) > MAX_SHOWN else []
        elif (env / name).exists():
            found.append(name)
    return tuple(found)


def _writable(plan: _Plan, name: str) -> str:
    path, files = safe_path(name), plan.before.files
    if actions.is_read_only(path, (*plan.task.read_only, *map(glob.escape, plan.task.links))):
        raise ActionError(f"EnvError: {path} is read-only.")
    if twin := actions.same_file(path, (*files, SUBMISSION)):
        raise ActionError(f"EnvError: {path} differs from {twin} in letter case or accents only.")
    if path == SUBMISSION:
        raise ActionError(f"EnvError: {SUBMISSION} is written by a script that runs, not by hand.")
    if any(path.startswith(other + "/") or other.startswith(path + "/") for other in files):
        raise ActionError(f"EnvError: {path} is a folder or lies below a file.")
    if len(files) >= MAX_FILES and path not in files:
        raise ActionError(f"EnvError: the workspace is full: it holds at most {MAX_FILES} files.")
    return path


def _edit(plans: list[_Plan], tools: Toolbox) -> None:
    if not plans:
        return
    for plan, edited in zip(plans, tools.coder.edit_many([plan.edit for plan in plans]), strict=True):
        if isinstance(edited, Unscored):
            plan.comes_to(Outcome.UNSCORED, "coder-server", failure=str(edited))
        elif isinstance(edited, CoderError):
            told = storable(f"LLMError: the edit was not made: {edited.message}")
            plan.comes_to(Outcome.CORNER, "coder", told)
        else:
            plan.after = plan.before.with_edit(plan.saved, storable(edited).encode())
            source = safe_path(plan.action.arguments["script_name"])
            plan.script = entry_script(plan.task, plan.after.files, source, plan.saved)


def _result(plan: _Plan, execution: Execution | Unscored | None, hit: bool) -> StepResult:
    if isinstance(execution, Unscored):
        plan.comes_to(Outcome.UNSCORED, "execution", failure=str(execution))
    if plan.outcome is Outcome.UNSCORED:
        return StepResult(plan.before, plan.outcome, plan.reason, "", plan.action, failure=plan.failure)
    after, visible, seconds, tier = plan.after, None, 0.0, ""
    if execution is not None:
        _classify(plan, execution)
        seconds, tier = execution.seconds, execution.tier
        if execution.score is not None:
            visible = visible_metric(execution.output)
            after = replace(after, score=execution.score, submission=execution.submission, visible=visible)
    action, outcome = plan.action, plan.outcome
    told = (action.name, dict(action.arguments)) if action else ("", {})
    past = HistoryStep(plan.text, *told, plan.observation, outcome.value, visible)
    after = replace(after, history=after.history + (past,), step=after.step + 1)
    score = execution.score if outcome is Outcome.EDITED else None
    return StepResult(
        after, outcome, plan.reason, plan.observation, action, plan.before.score, score, seconds, hit,
        executed=execution is not None, tier=tier,
    )  # fmt: skip


def _classify(plan: _Plan, execution: Execution) -> None:
    """Turn what an execution came to into outcome, reason and observation, in this one place."""
    edited, saved = bool(plan.saved), ""
    if edited:
        undone = f"{plan.saved} is as it was before its last edit.\n"
        saved = f"The edited file is saved to {plan.saved}.\n" if plan.edit else undone
    ran = "The script" if not edited or plan.script == plan.saved else plan.script
    if execution.status in _CORNER_STATUS:
        found = Outcome.CORNER, execution.status, f"was stopped: {execution.status} limit reached."
    elif execution.status != "ok":
        found = Outcome.ERROR, execution.error_type or "script", "has failed."
    elif execution.score is None:
        why = execution.refusal
        found = Outcome.ERROR, f"submission-{why}", f"ended, but its {SUBMISSION} was refused: {why}."
    else:
        ends = (Outcome.EDITED, "scored") if edited else (Outcome.NEUTRAL, "valid")
        found = *ends, "has been executed. Here is the output:"
    plan.comes_to(found[0], found[1], f"{saved}{ran} {found[2]}\n{execution.output[-2000:]}")
