"""What is served, whatever carries it: tasks, saved states, and the sessions of clients over one toolbox.

A session is one client's place in one trajectory. It can be put into any state: a task's starter, a state of
the pool, the state that any step of any session has led to, or one that the client brings along as JSON. What
goes wrong on our side raises and is counted; it is never a reward.
"""

from __future__ import annotations

import json
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.errors import MlagentError, RunError, TaskError, Unscored
from mlagent_lib.core.files import read_yaml
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.env import MAX_STEPS
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import StepResult, Toolbox, run_step, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.reward import FORMS, reward_of, task_reward
from mlagent_lib.tasks.check import gold_submission
from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.task import Task

POOL = "pool"  # the split whose tasks are the saved states that the server was started with
MOST_STATES = 10_000  # ours: states after steps that are remembered; the oldest go, those of the pool stay
LONGEST_TEXT = 1_000_000  # ours: characters of a message; the policy's own limit is MAX_REPLY_CHARS
CONTROLS = {"oracle": 0.0, "floor": 1.0}  # share of the rows that a gold submission is spoiled by
_TYPES = {"held-in": "train", "held-out": "test", "other": "validation", POOL: "train"}
# as the first six lines of a reply in the format that the toolbox reads; the last two name the action
_FIELDS = "Reflection: -\nResearch Plan and Status: -\nFact Check: -\nThought: -\n"


def action_text(action: str, arguments: Mapping[str, str]) -> str:
    """Return the six-field reply that takes an action and says nothing else.

    Example:
        >>> action_text("List Files", {"dir_path": "."}).splitlines()[-1]
        'Action Input: {"dir_path": "."}'
    """
    return f"{_FIELDS}Action: {action}\nAction Input: {json.dumps(dict(arguments))}"


def canaries(task: Task) -> list[dict]:
    """Return replies that no environment may pay for: ``name``, ``text`` and the ``outcome`` it must have."""
    found = []
    for row in read_yaml(Path(__file__).with_name("canaries.yaml")):
        text = row.get("text")
        if text is None:
            values = {key: value.format(starter=task.starter) for key, value in row["arguments"].items()}
            text = action_text(row["action"], values)
        found.append({"name": row["name"], "text": text, "outcome": row["outcome"]})
    return found


def control(task: Task, name: str, form: str = "v1") -> tuple[float, float]:
    """Return score and reward of a step from the starter to the true answers, or to none of them.

    The answers are written and graded here as ``mlagent tasks check`` does it, and told to nobody.

    Args:
        name: ``oracle``, or ``floor`` where every row is answered with another row's answer.

    Raises:
        MlagentError: There is no such control, or the task has a grader of its own and no known answers.
    """
    if name not in CONTROLS:
        raise MlagentError(f"control {name!r} is unknown", cure=f"choose {' or '.join(CONTROLS)}")
    if not task.labels_dir.is_dir():
        cure = "take a task whose labels are in the kit's form"
        raise MlagentError(f"the true answers of task {task.name!r} are not known", cure=cure)
    score = grade(task, gold_submission(task, CONTROLS[name]), "feedback")
    return score, task_reward(Outcome.EDITED, task, task.baseline["feedback"], score, form)


@dataclass
class Desk:
    """Everything that sessions share. Usable from several threads.

    Attributes:
        tasks: Those that are served, by name, in order.
        tools: Runs and edits scripts, with the limits and isolation of its runner.
        pool: Saved states that are never forgotten; the split `POOL` lists them.
        form: Of the reward, one of `mlagent_lib.reward.FORMS`.
        max_steps: Length of a trajectory, counted from the starter.
        counts: Of ``steps``, ``resets``, ``unscored`` (our failures) and ``refused`` (errors of callers).

    Raises:
        MlagentError: The form is unknown, a task's scores define no reward, or a state is of another task.
    """

    tasks: dict[str, Task]
    tools: Toolbox
    pool: Sequence[State] = ()
    form: str = "v1"
    max_steps: int = MAX_STEPS
    counts: Counter = field(default_factory=Counter)

    def __post_init__(self):
        if self.form not in FORMS:
            cure = f"choose one of {', '.join(FORMS)}"
            raise MlagentError(f"reward form {self.form!r} is unknown", cure=cure)
        for task in self.tasks.values():
            if not ("feedback" in task.baseline and "feedback" in task.best):
                told = f"task {task.name!r} states no score of its starter or no best score"
                raise TaskError(told, cure="state baseline and best in its task.yaml")
        self.tools = replace(self.tools, tasks=dict(self.tasks))
        self._lock = threading.Lock()
        self._starts: dict[str, State] = {}
        self._reached: OrderedDict[str, State] = OrderedDict()
        self._pool = {self.checked(state).id: state for state in self.pool}
        self._listed = self._rows()

    def count(self, name: str) -> None:
        """Add one to a count."""
        with self._lock:
            self.counts[name] += 1

    def keep(self, state: State) -> str:
        """Return the id of a state, under which `saved` finds it again."""
        name = state.id
        with self._lock:
            self._reached[name] = state
            self._reached.move_to_end(name)
            while len(self._reached) > MOST_STATES:
                self._reached.popitem(last=False)
        return name

    def saved(self, given: str | Mapping) -> State:
        """Return a saved state: by its id, or from its JSON (a table, or the text of one).

        Raises:
            RunError: The id is unknown, or what was given is no state.
            MlagentError: It belongs to no task that is served, or to other data of one.
        """
        if isinstance(given, str) and not given.lstrip().startswith("{"):
            with self._lock:
                found = self._pool.get(given) or self._reached.get(given)
            if found is None:
                raise RunError(
                    f"state id {given[:40]!r} is unknown here: neither in the pool of {len(self._pool)} "
                    f"states nor among the last {MOST_STATES} that steps led to",
                    cure="give the state itself, as JSON",
                )
            return found
        try:
            return self.checked(State.from_json(json.loads(given) if isinstance(given, str) else given))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            cure = "give what state() calls 'saved', or a line of a pool, unchanged"
            raise RunError(f"this is no saved state ({type(error).__name__}: {error})", cure=cure) from error

    def checked(self, state: State) -> State:
        """Return a state whose task is served, on the same data.

        Raises:
            MlagentError: It is not.
        """
        task = self.tasks.get(state.task)
        if task is None:
            cure = f"served are {', '.join(self.tasks)}"
            raise MlagentError(f"the state belongs to task {state.task!r}, which is not served", cure=cure)
        if state.task_digest != task.digest:
            raise MlagentError(
                f"the state was made on other data of task {task.name!r} ({state.task_digest[:12]}…) than "
                f"those that are here ({task.digest[:12]}…)",
                cure="collect the states again with this version of the task",
            )
        return state

    def start(self, task: Task) -> State:
        """Return the first state of a task; its starter is executed once a server.

        Raises:
            Unscored: The starter could not be executed or scored.
        """
        if task.name not in self._starts:
            self._starts[task.name] = start_state(task, self.tools)
        return self._starts[task.name]

    # ---- what there is -----------------------------------------------------------------------------

    def _rows(self) -> dict[str, list[dict]]:
        """Return what each split holds that holds something: a row a task, for `POOL` a row a state."""
        told = ("metric", "better", "modality", "kind", "description", "one_label_set")
        rows: dict[str, list[dict]] = {split: [] for split in _TYPES}
        for name, task in self.tasks.items():
            rows[task.split].append({"id": name} | {word: getattr(task, word) for word in told})
        for name, state in self._pool.items():
            rows[POOL].append({"id": name, "task": state.task, "step": state.step})
        return {
            split: [{**row, "split": split, "index": index} for index, row in enumerate(found)]
            for split, found in rows.items()
            if found
        }

    def splits(self) -> list[dict]:
        """Return the splits that hold something: ``name`` and OpenEnv's ``type``."""
        return [{"name": name, "type": _TYPES[name]} for name in self._listed]

    def listed(self, split: str) -> list[dict]:
        """Return what a split holds: a row a task, for `POOL` a row a state.

        Raises:
            MlagentError: There is no such split.
        """
        if split not in self._listed:
            cure = f"choose one of {', '.join(self._listed)}"
            raise MlagentError(f"split {split!r} is unknown here", cure=cure)
        return [dict(row) for row in self._listed[split]]

    def entry(self, split: str, index: int) -> dict:
        """Return one row of `listed`; for a task with its canaries and what oracle and floor are paid.

        Raises:
            IndexError: The split holds fewer.
            MlagentError: There is no such split.
        """
        rows = self.listed(split)
        if not 0 <= index < len(rows):
            raise IndexError(f"index {index} of split {split!r}, which holds {len(rows)}")
        row = rows[index]
        if split == POOL:
            return row
        task = self.tasks[row["id"]]
        paid = {name: control(task, name, self.form)[1] for name in CONTROLS if task.labels_dir.is_dir()}
        return row | {"controls": paid, "canaries": canaries(task)}

    def chosen(
        self, task: str | None, split: str | None, index: int | None, seed: int | None
    ) -> tuple[Task, State | None]:
        """Return the task that a reset is about, and the saved state where it is one of the pool.

        Without an index it is drawn by the seed; without a split, among all tasks in their order.

        Raises:
            MlagentError: The task or the split is not served, the index is too large, or task and index
                are both given.
        """
        if task is not None:
            if task not in self.tasks or index is not None:
                told = f"task {task!r} is not served here"
                told = told if index is None else "a task and an index are given"
                raise MlagentError(told, cure=f"give one of {', '.join(self.tasks)}, or a split and an index")
            return self.tasks[task], None
        splits = [name for name in self._listed if name != POOL] if split is None else [split]
        rows = [row for name in splits for row in self.listed(name)]
        if index is None:
            index = int(rng(seed or 0, "serve", split or "all").integers(len(rows)))
        if not 0 <= index < len(rows):
            cure = f"give 0 to {len(rows) - 1}"
            raise MlagentError(f"index {index} is too large for {split or 'all tasks'}", cure=cure)
        name = rows[index]["id"]
        saved = self._pool[name] if split == POOL else None
        return self.tasks[saved.task if saved else name], saved


@dataclass(frozen=True)
class Told:
    """What a client is told after a reset or a step.

    Attributes:
        text: The observation.
        reward: Of the step; None after a reset.
        ended: Whether the trajectory is over: by its Final Answer, or its length.
        result: The step in full; None after a reset.
    """

    state: State
    state_id: str
    text: str
    reward: float | None = None
    ended: bool = False
    result: StepResult | None = None
    outcome: str = ""
    prompt: tuple[dict, ...] = ()


class DeskSession:
    """One client's place in one trajectory. Calls come one at a time."""

    def __init__(self, desk: Desk):
        self.desk, self.state, self._ended = desk, None, False
        self._prompter: Prompter | None = None

    def reset(
        self,
        *,
        task: str | None = None,
        split: str | None = None,
        index: int | None = None,
        seed: int | None = None,
        state: str | Mapping | None = None,
        prompt: str | None = None,
    ) -> Told:
        """Return what a client is told first: of a task's starter, or of the saved state it asks for.

        Args:
            task: Name of a task; else ``split`` and ``index`` choose, and without an index the ``seed``.
            state: Id or JSON of a saved state, or ``{"control": "oracle"}`` (or ``"floor"``) for the state
                after the true answers (or only wrong ones) were handed in, with its reward.
            prompt: ``pocket`` or ``full``: also tell the chat messages that a policy answers next.

        Raises:
            MlagentError: Something that was asked for is not there.
            Unscored: We failed to run the starter.
        """
        if prompt not in (None, "pocket", "full"):
            raise MlagentError(f"prompt style {prompt!r} is unknown", cure="choose pocket or full")
        self._prompter = Prompter(prompt, self.desk.max_steps) if prompt else None
        asks_control = isinstance(state, Mapping) and "control" in state
        if state is not None and not asks_control:
            self._enter(self.desk.saved(state))
            if task not in (None, self.state.task):
                told = f"the state belongs to task {self.state.task!r}, not to {task!r}"
                raise MlagentError(told, cure="leave out the task")
        else:
            chosen, saved = self.desk.chosen(task, split, index, seed)
            if asks_control:
                return self._control(chosen, str(state["control"]))
            self._enter(saved or self.desk.start(chosen))
        self.desk.count("resets")
        problem = self.desk.tasks[self.state.task].research_problem
        return self._told(self.state.history[-1].observation if self.state.history else problem)

    def step(self, text: str, state: str | Mapping | None = None) -> Told:
        """Return what one reply came to; with ``state``, from that saved state instead of the present one.

        Raises:
            Unscored: We failed. The state is as before, so the step can be tried again.
            MlagentError: There was no reset, the trajectory is over, the text is too long, or the state is
                not known.
        """
        if len(text) > LONGEST_TEXT:
            cure = "cut it: the policy's own limit is shorter by far"
            raise MlagentError(f"the reply has {len(text)} characters, {LONGEST_TEXT} are allowed", cure=cure)
        if state is not None:
            self._enter(self.desk.saved(state))
        if self.state is None:
            raise MlagentError("step before reset", cure="call reset first, or give the step its state")
        if self._ended:
            raise MlagentError("the trajectory is over", cure="call reset, or give the step its state")
        result = run_step(self.state, text, self.desk.tools)
        if result.outcome is Outcome.UNSCORED:
            raise Unscored(result.failure, cure="try the step again: the state is unchanged")
        self.desk.count("steps")
        self._enter(result.state)
        reward = reward_of(result, self.desk.tasks[self.state.task], self.desk.form)
        return self._told(result.observation, reward, result)

    def _enter(self, state: State) -> None:
        self.state, self._ended = state, state.done or state.step >= self.desk.max_steps

    def _told(self, text: str, reward: float | None = None, result: StepResult | None = None) -> Told:
        prompt = ()
        if self._prompter and not self._ended:
            prompt = tuple(self._prompter.messages(self.state, self.desk.tasks[self.state.task]))
        outcome = result.outcome.value if result else ""
        name = self.desk.keep(self.state)
        return Told(self.state, name, text, reward, self._ended, result, outcome, prompt)

    def _control(self, task: Task, name: str) -> Told:
        score, reward = control(task, name, self.desk.form)
        self._enter(self.desk.start(task))
        self._ended = True
        told = f"Control {name!r} of task {task.name!r}: {score:g} {task.metric} on the feedback labels."
        return replace(self._told(told, reward), outcome=Outcome.EDITED.value)
