"""What the policy reads: a state as chat messages, in the short pocket style or the paper's full style.

The full style follows the structure of the paper's prompt (v1 Tables 4-6): a request, the tools with their
arguments, the research problem, the reply format, then the last steps in turn. The pocket style says the same
in some 150 tokens, and shows the blocks of the script as if they had just been inspected (a deviation: the
small model has no window for a whole history). Neither ever shows a score on hidden labels, only what the
script printed.
"""

from __future__ import annotations

from mlagent_lib.environment.actions import ACTIONS
from mlagent_lib.environment.coder import visible_part
from mlagent_lib.environment.workspace import HistoryStep, State
from mlagent_lib.tasks.task import Task

HISTORY_STEPS = 3  # "last 3 steps in context", MLAgentBench's agent; the paper does not say
LONGEST_OBSERVATION = 5000  # MLAgentBench shortens observations above 5000 characters


def render(state: State, task: Task, *, style: str = "pocket", max_steps: int = 15) -> list[dict]:
    """Return the chat messages that a policy answers in this state.

    Args:
        state: Where the agent is.
        task: Its task.
        style: ``pocket`` or ``full``.
        max_steps: Length of a trajectory; the prompt says how far the agent is.

    Raises:
        ValueError: The style is unknown.
    """
    if style == "pocket":
        return [
            {"role": "user", "content": pocket_text(card(task), state, task.greater_is_better, max_steps)}
        ]
    if style == "full":
        return _full(state, task, max_steps)
    raise ValueError(f"prompt style {style!r} is unknown: choose pocket or full")


def card(task: Task) -> str:
    """Return two lines on a task for the pocket prompt."""
    direction = "higher" if task.greater_is_better else "lower"
    facts = "; ".join(task.facts) or "none"
    return (
        f"Task: {task.name}. {task.modality}, {task.kind}, {task.metric}, {direction} is better.\n"
        f"Data: {task.rows} rows, {task.columns} columns. Facts: {facts}."
    )


def pocket_text(task_card: str, state: State, greater_is_better: bool, max_steps: int) -> str:
    """Return the user message of the pocket style.

    Args:
        task_card: Text of `card`.
        state: Where the agent is.
        greater_is_better: Direction of the metric.
        max_steps: Length of a trajectory.
    """
    script = state.files.get("train.py", b"").decode(errors="replace")
    try:
        shown = visible_part(script)
    except ValueError:  # the script lost a block: show what there is
        shown = script[:1500]
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
    if step.action == "Edit Script (AI)":
        return str(step.action_input.get("edit_instruction", ""))[:160].rstrip(".")
    return step.action or "unreadable reply"


def _number(value: float) -> str:
    """Return a value in at most four significant digits, as the prompt shows it."""
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _full(state: State, task: Task, max_steps: int) -> list[dict]:
    tools = "\n".join(
        f"- {name}: Action Input is {{{', '.join(f'{argument!r}: ...' for argument in names)}}}".replace(
            "'", '"'
        )
        for name, names in ACTIONS.items()
    )
    system = (
        "You are a machine-learning engineer who improves the script of a task step by step. In each step "
        f"you take one action.\n\nActions:\n{tools}\n\n"
        "Edit Script (AI) hands your instruction to a coder and runs the edited script at once.\n"
        "Answer with these fields, each on a line of its own, and nothing after the last: Reflection, "
        "Research Plan and Status, Fact Check, Thought, Action, Action Input. "
        "Action Input is one JSON object.\n"
        f"You have {max_steps} steps in all. Attempts to read hidden labels or to leave the workspace "
        "are logged and do not pay."
    )
    script = state.files.get("train.py", b"").decode(errors="replace")
    problem = (
        f"Research problem: {task.research_problem}\n\n{card(task)}\n\n"
        f"train.py now:\n```python\n{script}\n```"
    )
    messages = [{"role": "system", "content": system}, {"role": "user", "content": problem}]
    recent = state.history[-HISTORY_STEPS:]
    if len(state.history) > len(recent):
        cut = len(state.history) - len(recent)
        messages[-1]["content"] += f"\n\n({cut} earlier steps are left out.)"
    for step in recent:
        messages.append({"role": "assistant", "content": step.reply})
        messages.append({"role": "user", "content": f"Observation:\n{_shorten(step.observation)}"})
    messages[-1]["content"] += f"\n\nStep {state.step + 1} of {max_steps}."
    return messages


def _shorten(text: str) -> str:
    if len(text) <= LONGEST_OBSERVATION:
        return text
    half = LONGEST_OBSERVATION // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
