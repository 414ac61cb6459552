"""What the bench asks of the model at work: sampling, a GRPO step, an evaluation, and how a step grows."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlagent_lib.bench.builds import MODEL, ROOT, Build

if TYPE_CHECKING:
    from mlagent_lib.agents.prompts import Prompter
    from mlagent_lib.training.backends import Backend

GROWTH = (8, 16, 32, 64)  # states a step
_GROUP = 4  # replies of each where growth is measured


def work_of(folder: Path, work: Sequence, turns: int) -> list[dict]:
    """Return what each of some turns took this build (see `Build.turn`)."""
    place = Path(tempfile.mkdtemp(dir=folder))  # two questions may ask for the same work
    with Build(ROOT, place / "build", work) as build:
        return [build.turn() for _ in range(turns)]


def against_generate(folder: Path, rounds: int = 7) -> tuple[list[float], str]:
    """Return how many times more tokens a processor second our decode loop makes than ``generate``.

    64 replies of at most 64 tokens to 8 prompts, as in a step of the laptop profile, in turn.
    """
    from mlagent_lib.agents.prompts import POCKET
    from mlagent_lib.training.backends import load

    asked = starter_prompts(POCKET, 8, 8)
    rates = sampling_rates(load(str(MODEL), backend="plain"), asked, 64, rounds)
    middle = {name: statistics.median(values) for name, values in rates.items()}
    note = f"{middle['ours']:.0f} against {middle['theirs']:.0f} tokens a processor second"
    return [mine / other for mine, other in zip(*rates.values(), strict=True)], note


def starter_prompts(prompter: Prompter, number: int, times: int) -> list[list[dict]]:
    """Return the prompts of the starters of the first ``number`` tasks, each ``times`` times."""
    from mlagent_lib.environment.workspace import State
    from mlagent_lib.tasks.registry import find_task, list_tasks

    prompts = []
    for task in map(find_task, list_tasks()[:number]):
        state = State(task=task.name, task_digest=task.digest, files=task.env_files())
        prompts += [prompter.messages(state, task)] * times
    return prompts


def sampling_rates(
    loaded: Backend, asked: list[list[dict]], longest: int, rounds: int
) -> dict[str, list[float]]:
    """Return tokens a processor second of our decode loop (``ours``) and ``generate`` (``theirs``) by turns.

    Args:
        asked: Conversations, sampled from together at temperature 1.
        longest: Of a reply, in tokens.
        rounds: How many are measured; one more of each, the first, warms up.
    """
    generate, ours = loaded.sampler(temperature=1.0, max_new_tokens=longest), loaded.model.generate
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    for number in range(rounds + 1):
        for name, values in rates.items():
            if name == "ours":
                loaded.model.generate = ours
            else:
                del loaded.model.generate  # that of Transformers
            began = time.process_time()
            replies = generate(asked, number)
            took = time.process_time() - began
            values.append(sum(len(ids) + 1 for ids in loaded.tokenizer(replies)["input_ids"]) / took)
    return {name: values[1:] for name, values in rates.items()}


def busy(folder: Path, work: Sequence, turns: int, what: str) -> tuple[list[float], str]:
    """Return how many cores are busy in each turn of a work, which is ``what`` in words."""
    took = work_of(folder, work, turns)
    wall = statistics.median(row["wall"] for row in took)
    actions = statistics.median(row["actions"] for row in took)
    note = f"{what} takes {wall:.1f} s for {actions:.0f} actions, {1e3 * wall / actions:.0f} ms each"
    return [row["all"] / row["wall"] for row in took], note


def growth(folder: Path, rounds: int = 3) -> tuple[list[float], str]:
    """Return seconds an action in a step of the most states over those of the fewest."""
    found = {
        states: [row["wall"] / row["actions"] for row in work_of(folder, ("step", states, _GROUP), rounds)]
        for states in GROWTH
    }
    table = ", ".join(f"{states}: {1e3 * statistics.median(values):.0f}" for states, values in found.items())
    ratios = [last / first for first, last in zip(found[GROWTH[0]], found[GROWTH[-1]], strict=True)]
    return ratios, f"ms an action by states a step, {_GROUP} replies each: {table}"
