"""What the policy reads: a state as chat messages, in the short pocket style or the paper's full style.

The full style follows the structure of the paper's prompt (v1 Tables 4-6): a request, the tools with their
arguments, the research problem, the reply format, then the last steps in turn. The pocket style says the same
in some 150 tokens, and shows the blocks of the script as if they had just been inspected (a deviation: the
small model has no window for a whole history). Neither ever shows a score on hidden labels, only what the
script printed.

A full prompt is cut to a number of tokens as MLAgentBench cuts its own: the last steps stay whole, of older
ones the observation goes, and then the step; long texts lose their middle. `Prompt.cut` tells what is
missing, and every step of a trajectory records it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from mlagent_lib.agents.window import messages_tokens, shorten, shorten_lines
from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.profiles import Profile
from mlagent_lib.environment.actions import ACTIONS, EDIT
from mlagent_lib.environment.coder import visible_part
from mlagent_lib.environment.workspace import HistoryStep, State
from mlagent_lib.tasks.task import Task, size_of

HISTORY_STEPS = 3  # "last 3 steps in context", MLAgentBench's agent; the paper does not say
LONGEST_OBSERVATION = 5000  # MLAgentBench shortens observations above 5000 characters
NO_ANSWER = "(no answer)"  # of a reply that was all thought: some servers refuse an empty turn
LONGEST_BROKEN = 1500  # ours: characters of a script without the pocket blocks
LONGEST_BLOCKLESS = 700  # ours: the same where the task has no catalogue, so that every row stays short
_SYSTEM = (
    "You are a machine-learning engineer who improves the script of a task step by step. In each step you "
    "take one action.\n\nActions:\n{tools}\n\n"
    "Edit Script (AI) hands your instruction to a coder and runs the edited script at once.\n"
    "Answer with these fields, each on a line of its own, and nothing after the last: Reflection, Research "
    "Plan and Status, Fact Check, Thought, Action, Action Input. Action Input is one JSON object.\n"
    "You have {max_steps} steps in all. Attempts to read hidden labels or to leave the workspace are logged "
    "and do not pay."
)
DROPPED = "<Done>"  # what MLAgentBench's agent shows in place of an older observation


@dataclass(frozen=True)
class Cut:
    """What a prompt leaves out of a state.

    Attributes:
        steps: Past steps that are not shown at all.
        observations: Shown steps whose observation is dropped.
        shortened: Observations without their middle.
        script: Characters of the script that are not shown.
        problem: Characters of the research problem that are not shown.
    """

    steps: int = 0
    observations: int = 0
    shortened: int = 0
    script: int = 0
    problem: int = 0

    def to_json(self) -> dict[str, int]:
        """Return what is missing, by name; empty where nothing is.

        Example:
            >>> Cut(steps=2).to_json()
            {'steps': 2}
        """
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True)
class Prompt:
    """Chat messages, and what they leave out."""

    messages: list[dict]
    cut: Cut = Cut()


@dataclass(frozen=True)
class Prompter:
    """How a state becomes the prompt that a policy answers.

    Attributes:
        style: ``pocket`` or ``full``.
        max_steps: Length of a trajectory; the prompt says how far the agent is.
        tokens: Longest prompt, in estimated tokens; 0 for no limit. The pocket style is never cut.
    """

    style: str = "pocket"
    max_steps: int = 15
    tokens: int = 0

    @classmethod
    def of(cls, profile: Profile) -> Prompter:
        """Return the one of a profile, for trajectories as long as those of its collection."""
        return cls(profile.prompt_style, profile.collect.max_steps, profile.prompt_tokens)

    def messages(self, state: State, task: Task) -> list[dict]:
        """Return the chat messages of `prompt`."""
        return self.prompt(state, task).messages

    def prompt(self, state: State, task: Task) -> Prompt:
        """Return the prompt of a state, and what it leaves out.

        Raises:
            ValueError: The style is unknown.
            ProfileError: Not even the shortest prompt has so few tokens.
        """
        if self.style == "pocket":
            most = LONGEST_BLOCKLESS if task.ideas else LONGEST_BROKEN
            text = pocket_text(card(task), state, task.greater_is_better, self.max_steps, task.starter, most)
            return Prompt([{"role": "user", "content": text}])
        if self.style != "full":
            raise ValueError(f"prompt style {self.style!r} is unknown: choose pocket or full")
        for room in _rooms(state, task):
            made = _full(state, task, self.max_steps, room)
            size = messages_tokens(made.messages)
            if not self.tokens or size <= self.tokens:
                return made
        told = f"the shortest prompt of task {task.name!r} takes about {size} tokens"
        told += f", and {self.tokens} are allowed"
        raise ProfileError(told, cure="give the profile more prompt_tokens, or take the pocket style")


POCKET, FULL = Prompter("pocket"), Prompter("full")


def card(task: Task) -> str:
    """Return two lines on a task for the pocket prompt."""
    direction = "higher" if task.greater_is_better else "lower"
    facts = "; ".join(task.facts) or "none"
    size = size_of(task)
    return (
        f"Task: {task.name}. {task.modality}, {task.kind}, {task.metric}, {direction} is better.\n"
        f"{f'Data: {size}. ' if size else ''}Facts: {facts}."
    )


def pocket_text(
    task_card: str,
    state: State,
    greater_is_better: bool,
    max_steps: int,
    starter: str = "train.py",
    most: int = LONGEST_BROKEN,
) -> str:
    """Return the user message of the pocket style.

    Args:
        starter: The script that is shown.
        most: Characters of it that are shown where it has no pocket blocks.
    """
    script = state.text(starter)
    shown = script[:most]  # of a script that has lost a block, or never had one, what there is
    with contextlib.suppress(ValueError):
        shown = visible_part(script)
    history = history_text(state, greater_is_better)
    return f"{task_card}\n{shown}\nHistory:{history}\nStep {state.step + 1} of {max_steps}."


def history_text(state: State, greater_is_better: bool) -> str:
    """Return one line for each of the last steps: what was done, and how the visible metric moved.

    The trend compares with the last visible value before the step, so the reader need not compare numbers.
    """
    if not state.history:
        start = "" if state.visible_start is None else f" {_number(state.visible_start)}"
        return f"\nstart{start}"
    words = trends(state, greater_is_better)
    lines = [
        f"{_short(step)} -> {'' if step.visible is None else _number(step.visible) + ' '}{word}"
        for step, word in zip(state.history, words, strict=True)
    ]
    return "\n" + "\n".join(lines[-HISTORY_STEPS:])


def trends(state: State, greater_is_better: bool) -> list[str]:
    """Return for each past step how it went, from what the agent could see.

    The words are ``better``, ``worse`` and ``same`` for a step with a visible metric; ``done`` for a look,
    and ``failed`` for the rest.
    """
    words, last = [], state.visible_start
    for step in state.history:
        if step.visible is None:
            words.append("done" if step.outcome == "neutral" else "failed")
            continue
        if last is None or step.visible == last:
            words.append("same")
        else:
            words.append("better" if (step.visible > last) == greater_is_better else "worse")
        last = step.visible
    return words


def _short(step: HistoryStep) -> str:
    if step.action == EDIT:
        return str(step.action_input.get("edit_instruction", ""))[:160].rstrip(".")
    return step.action or "unreadable reply"


def _number(value: float) -> str:
    """Return a value in at most four significant digits, as the prompt shows it."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _rooms(state: State, task: Task) -> Iterator[dict[str, int]]:
    """Yield how much of each part a full prompt shows, ever less, what matters least given up first.

    Of ``steps`` and their ``observations`` it is a number, of the ``longest`` observation, the ``script`` and
    the research ``problem`` it is characters.
    """
    shown = min(HISTORY_STEPS, len(state.history))
    script, problem = len(state.text(task.starter)), len(task.research_problem)
    room = {"steps": shown, "observations": shown, "longest": LONGEST_OBSERVATION}
    room |= {"script": script, "problem": problem}
    yield room
    changes = [
        *({"observations": number} for number in range(shown - 1, 0, -1)),  # the older ones, oldest first
        *({"steps": number} for number in range(shown - 1, 0, -1)),  # whole steps; the last one stays
        *({"longest": longest} for longest in (2000, 1000, 500)),
        *({"script": int(share * script)} for share in (0.75, 0.5, 0.35, 0.25)),
        *({"problem": int(share * problem)} for share in (0.5, 0.25)),
        {"script": int(0.1 * script)},
        {"steps": 0, "observations": 0},
    ]
    for change in changes:
        room = room | change
        yield room


def _full(state: State, task: Task, max_steps: int, room: dict[str, int]) -> Prompt:
    inputs = {name: ", ".join(f'"{argument}": ...' for argument in names) for name, names in ACTIONS.items()}
    tools = "\n".join(f"- {name}: Action Input is {{{given}}}" for name, given in inputs.items())
    system = _SYSTEM.format(tools=tools, max_steps=max_steps)
    script, script_cut = shorten_lines(state.text(task.starter), room["script"])
    asked, problem_cut = shorten(task.research_problem, room["problem"])
    problem = f"Research problem: {asked}\n\n{card(task)}\n\n{task.starter} now:\n```python\n{script}\n```"
    messages = [{"role": "system", "content": system}, {"role": "user", "content": problem}]
    recent = state.history[len(state.history) - room["steps"] :]
    earlier = len(state.history) - len(recent)
    if earlier:
        messages[-1]["content"] += f"\n\n({earlier} earlier steps are left out.)"
    dropped = shortened = 0
    for age, step in zip(range(len(recent), 0, -1), recent, strict=True):
        if age > room["observations"]:
            seen, dropped = DROPPED, dropped + 1
        else:
            seen, left_out = shorten(step.observation, room["longest"])
            shortened += left_out > 0
        messages.append({"role": "assistant", "content": step.reply or NO_ANSWER})
        messages.append({"role": "user", "content": f"Observation:\n{seen}"})
    messages[-1]["content"] += f"\n\nStep {state.step + 1} of {max_steps}."
    return Prompt(messages, Cut(earlier, dropped, shortened, script_cut, problem_cut))
