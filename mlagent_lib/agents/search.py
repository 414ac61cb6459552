"""Test-time search at equal cost: the same number of executions, spent in different ways.

A *trajectory* search lets a policy act from the starter again and again and hands in what looked best. A
*tree* search in the style of AIDE (arXiv 2502.13138) drafts a few solutions from the starter and then always
improves the one that looks best. "Looks" means the validation metric that scripts print, which an agent can
read; what the choice was worth on the report labels is for the evaluation to grade.

What AIDE does beside that (a debug step for broken nodes, a language model that judges logs) is left out: a
broken node is simply never the best one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from mlagent_lib.agents.policies import Sampler
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.step import StepResult, Toolbox, run_steps, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.task import Task

DRAFTS = 5  # AIDE's default number of drafts before it improves
IDLE = 2  # ours: a search ends after this many times its budget in actions, executed or not


@dataclass(frozen=True)
class Method:
    """One way to spend executions.

    Attributes:
        policy: Whose proposals: ``sft`` or ``full``.
        tree: Whether the best node so far is improved; else trajectories are made one after the other.
    """

    name: str
    policy: str
    tree: bool


METHODS = (
    Method("trained policy, trajectories", "full", False),
    Method("trained policy, tree", "full", True),
    Method("SFT, best of N trajectories", "sft", False),
    Method("SFT, tree", "sft", True),
)


@dataclass
class _Search:
    """One search on its way."""

    task: Task
    repeat: int
    start: State
    tree: bool
    max_steps: int
    nodes: list[State] = field(default_factory=list)
    executions: int = 0
    actions: int = 0
    points: list[dict] = field(default_factory=list)
    current: State | None = None

    def key(self, state: State) -> float:
        """Return how good a node looks: its validation metric, higher is better."""
        sign = 1.0 if self.task.greater_is_better else -1.0
        return float("-inf") if state.visible is None else sign * state.visible

    @property
    def best(self) -> State:
        """Return the node that looks best, the earliest in a tie; the starter is one of them."""
        return max([self.start, *self.nodes], key=self.key)

    def origin(self) -> State:
        """Return the state that the next action starts from."""
        if not self.tree:
            goes_on = self.current and not self.current.done and self.current.step < self.max_steps
            return self.current if goes_on else self.start
        if self.executions < DRAFTS:
            return self.start
        open_nodes = [node for node in self.nodes if node.step < self.max_steps and not node.done]
        return max([self.start, *open_nodes], key=self.key)

    def take(self, result: StepResult) -> None:
        """Record what an action has come to."""
        self.actions += 1
        self.executions += result.executed
        self.current = result.state
        if result.score_after is not None:
            self.nodes.append(result.state)
        if result.executed:
            best = self.best
            point = {"execution": self.executions, "visible": best.visible, "feedback": best.score}
            self.points.append(point | {"submission": best.submission})


def search(
    method: Method,
    jobs: Sequence[tuple[Task, int]],
    generate: Sampler,
    tools: Toolbox,
    *,
    budget: int,
    seed: int,
    prompter: Prompter,
) -> list[dict]:
    """Return one row for each job: what would be handed in after each execution, and what it is worth.

    Args:
        budget: Executions of a search. Actions that execute nothing are free, up to as many again.
        prompter: Makes the prompts; its ``max_steps`` is the longest way from the starter to a node.

    Returns:
        Rows with method, policy, task, split, repeat, executions, actions and points: for each execution its
        number, and of the node that looked best by then the ``visible`` and the ``feedback`` score and the
        archived ``submission``.
    """
    starts = {task.name: start_state(task, tools) for task, _ in jobs}
    how = (method.tree, prompter.max_steps)
    searches = [_Search(task, repeat, starts[task.name], *how) for task, repeat in jobs]
    turn = 0
    while active := [s for s in searches if s.executions < budget and s.actions < IDLE * budget]:
        turn += 1
        origins = [s.origin() for s in active]
        prompts = [prompter.messages(origin, s.task) for s, origin in zip(active, origins, strict=True)]
        replies = generate(prompts, derive_seed(seed, "search", method.name, turn))
        results = run_steps(list(zip(origins, replies, strict=True)), tools)
        for one, result in zip(active, results, strict=True):
            one.take(result)
    kept = ("repeat", "executions", "actions", "points")
    return [
        {"method": method.name, "policy": method.policy, "task": s.task.name, "split": s.task.split}
        | {name: getattr(s, name) for name in kept}
        for s in searches
    ]
