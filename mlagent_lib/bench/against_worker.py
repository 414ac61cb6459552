"""One build of the kit at work, a turn each time it is asked: ``python against_worker.py WHAT FOLDER MODEL``.

It is started with the other build first on ``PYTHONPATH``, so it uses only what the layouts of both have, and
says where they differ. A line on the input is a turn; a line of JSON on the output is what it took.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ALL_STATES = 81  # starters and the states after one and two random ideas, four trajectories of nine tasks


def processor_seconds() -> float:
    """Return the processor seconds of this process, its children, and theirs, dead or alive.

    Who is whose child is read from each process's own line: not every kernel lists the children of one.
    """
    found, ticks = sum(os.times()[:4]), os.sysconf("SC_CLK_TCK")
    children: dict[int, list[tuple[int, float]]] = {}
    for process in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            words = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            seconds = sum(map(int, words[11:15])) / ticks
            children.setdefault(int(words[1]), []).append((process, seconds))
    todo = [os.getpid()]
    while todo:
        own = children.get(todo.pop(), ())
        todo += [process for process, _ in own]
        found += sum(seconds for _, seconds in own)
    return found


class Turns:
    """The dialogue with whoever measures: waits for a turn, tells what it took."""

    def __init__(self):
        self._answers = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # whatever a library prints is no answer
        self._began = (0.0, 0.0, 0.0)

    def wait(self) -> bool:
        """Say that all is ready, wait for a turn, start the clocks; return whether there is one."""
        print("{}", file=self._answers)
        asked = bool(sys.stdin.readline())
        self._began = time.perf_counter(), processor_seconds(), time.process_time()
        return asked

    def tell(self, **more: object) -> None:
        """Answer a turn with what it took."""
        wall, all_cores, own = self._began
        took = {"wall": time.perf_counter() - wall, "all": processor_seconds() - all_cores}
        took |= {"own": time.process_time() - own}
        took["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps(took | more), file=self._answers)


def tasks_of(split: str | None) -> dict:
    """Return the pocket tasks of a split by name; all where it is None."""
    try:
        from mlagent_lib.tasks.registry import find_task, list_tasks
    except ImportError:  # before the rooms
        from mlagent_lib.tasks.task import list_tasks
        from mlagent_lib.tasks.task import load_task as find_task
    return {name: find_task(name) for name in list_tasks(split)}


@contextlib.contextmanager
def tools_at_work(folder: Path, workers: int, tasks: dict) -> Iterator:
    """Give a toolbox with the exact coder and a cache of its own for these tasks, its runner warm."""
    from mlagent_lib.environment.cache import ExecutionCache
    from mlagent_lib.environment.coder import RuleCoder
    from mlagent_lib.environment.runner import Runner
    from mlagent_lib.environment.step import Toolbox

    with Runner(workers=workers) as runner:
        runner.warm()
        cache = ExecutionCache(folder / f"cache-{time.monotonic_ns()}")
        yield Toolbox(runner, RuleCoder(), cache, script_seconds=6.0, tasks=tasks)


def passed_states(tools) -> list:
    """Return states that expert trajectories pass through: starters, and some edits on."""
    from mlagent_lib.agents.policies import RandomIdeas
    from mlagent_lib.agents.rollout import Job, run_trajectories
    from mlagent_lib.environment.workspace import State

    jobs = [Job(task, "random-ideas", index, 0) for task in tools.tasks.values() for index in range(4)]
    rows = run_trajectories(jobs, RandomIdeas(), tools, max_steps=3)
    states = [State.from_json(step["state"]) for row in rows for step in row["steps"]]
    found = {state.id: state for state in states}
    return sorted(found.values(), key=lambda state: (state.step, state.id))[:ALL_STATES]


def _messages(profile, states: list, tasks: dict) -> list:
    try:
        from mlagent_lib.agents.prompts import Prompter
    except ImportError:
        from mlagent_lib.agents.prompts import render

        return [render(state, tasks[state.task], style=profile.prompt_style, max_steps=6) for state in states]
    return [Prompter(profile.prompt_style, 6).messages(state, tasks[state.task]) for state in states]


def _sampler(backend, profile) -> Callable:
    options = {"temperature": 1.0, "max_new_tokens": profile.grpo.max_new_tokens}
    if hasattr(backend, "sampler"):
        return backend.sampler(**options)
    from mlagent_lib.training.grpo import sampler

    return sampler(backend, **options)


def _loaded(profile, model: str, adapter: Path | None = None):
    from mlagent_lib.training.backends import load

    return load(model, backend=profile.loading, adapter=adapter)


def _adapter(profile, model: str, folder: Path) -> Path:
    """Write an adapter that changes nothing yet, and return its folder."""
    made = _loaded(profile, model)
    made.attach_lora(profile.sft.lora_r, profile.sft.lora_alpha, seed=0)
    made.save(folder / "adapter")
    return folder / "adapter"


def sampling(turns: Turns, folder: Path, model: str, states: int, group: int) -> None:
    """A turn: the replies of one GRPO step, prompts rendered and tokenised, nothing executed."""
    from mlagent_lib.core.profiles import get_profile

    profile = get_profile("laptop")
    with tools_at_work(folder, 2, tasks_of("held-in")) as tools:
        prompts = _messages(profile, passed_states(tools)[-states:], tools.tasks)
    backend = _loaded(profile, model, _adapter(profile, model, folder))
    generate = _sampler(backend, profile)
    asked = [prompt for prompt in prompts for _ in range(group)]
    turn = 0
    generate(asked, turn)
    while turns.wait():
        turn += 1
        replies = generate(asked, turn)
        took = time.process_time()
        tokens = sum(len(ids) + 1 for ids in backend.tokenizer(replies)["input_ids"])
        turns.tell(tokens=tokens, actions=len(asked), counting=time.process_time() - took)


def step(turns: Turns, folder: Path, model: str, states: int, group: int) -> None:
    """A turn: one whole update of GRPO, from sampling to the changed weights."""
    from dataclasses import replace

    from mlagent_lib.core.profiles import get_profile
    from mlagent_lib.training.grpo import train_grpo
    from mlagent_lib.training.pool import StatePool

    profile = get_profile("laptop").with_values(
        "bench", model=model, backend="plain", grpo__steps=10_000, grpo__eval_every=10_000,
        grpo__eval_states=1, grpo__eval_samples=1, grpo__states_per_step=states, grpo__group_size=group,
    )  # fmt: skip
    adapter, count = _adapter(profile, model, folder), 0

    def told(row: dict) -> None:
        nonlocal count
        if count and row["split"] == "train":
            turns.tell(actions=states * group, row=row)
        count += row["split"] == "train"  # the first update warms up, and is not told
        if count and not turns.wait():
            raise SystemExit(0)

    with tools_at_work(folder, profile.workers, tasks_of("held-in")) as tools:
        found = passed_states(tools)
        pool = StatePool(tuple(state for state in found if not state.done))
        shared = {
            "make_tools": lambda coder: replace(tools, coder=coder), "adapter": adapter,
            "out": folder / "out", "seed": 0, "progress": told,
        }  # fmt: skip
        try:
            from mlagent_lib.training.scoring import BatchReward  # noqa: F401 - tells the layouts apart
        except ImportError:
            train_grpo(
                pool, found[:1], profile.grpo, model=model, backend=profile.loading,
                style=profile.prompt_style, max_steps=profile.collect.max_steps, coder="base", **shared,
            )  # fmt: skip
        else:
            train_grpo(profile, pool, found[:1], **shared)


def evaluation(turns: Turns, folder: Path, model: str, k: int, max_steps: int) -> None:
    """A turn: all trajectories of one policy on all tasks, no result known before."""
    from dataclasses import replace

    from mlagent_lib.agents.policies import LocalPolicy
    from mlagent_lib.agents.rollout import Job, run_trajectories
    from mlagent_lib.core.profiles import get_profile
    from mlagent_lib.environment.cache import ExecutionCache
    from mlagent_lib.training.backends import base_coder

    profile, turn = get_profile("laptop"), 0
    backend = _loaded(profile, model, _adapter(profile, model, folder))
    with tools_at_work(folder, profile.workers, tasks_of(None)) as tools:
        while turns.wait():
            turn += 1
            fresh = replace(
                tools, coder=base_coder(backend, style=profile.prompt_style),
                cache=ExecutionCache(folder / f"turn-{turn}"),
            )  # fmt: skip
            policy = LocalPolicy(_sampler(backend, profile), name="sft", seed=turn)
            jobs = [Job(task, "sft", index, turn) for task in tools.tasks.values() for index in range(k)]
            rows = run_trajectories(jobs, policy, fresh, max_steps=max_steps)
            turns.tell(actions=sum(len(row["steps"]) for row in rows))


def run(turns: Turns, folder: Path, model: str) -> None:
    """A turn: a whole run of the laptop profile, with the build's own model."""
    number = 0
    while turns.wait():
        number += 1
        words = ["run", "--runs-dir", str(folder / "runs"), "--run-id", f"run-{number}"]
        command = [sys.executable, "-P", "-m", "mlagent_lib", *words]
        done = subprocess.run(command, cwd=os.environ["PYTHONPATH"], stdin=subprocess.DEVNULL)
        if done.returncode:  # its last line says why
            raise SystemExit(done.returncode)
        turns.tell()


WORK = {"sampling": sampling, "step": step, "evaluation": evaluation, "run": run}

if __name__ == "__main__":
    what, folder, model, *numbers = sys.argv[1:]
    WORK[what](Turns(), Path(folder), model, *map(int, numbers))
