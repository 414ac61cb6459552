"""The units of work behind the comparison of arms: one process, one core, one folder with a manifest each.

A unit reads what earlier units of its seed wrote, works, and writes; `ablations` plans and starts them. Four
kinds: ``collect-<ideas>`` (expert trajectories), ``sft-<start>`` (an adapter to start from), ``arm-<name>``
(RL, single steps from test states, trajectories on every task) and ``search`` (the same budget of executions
spent by the trained policy, by sampling and by a tree search).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mlagent_lib.agents.export import read_trajectories
from mlagent_lib.agents.ideas import candidate_ideas, draw_ideas
from mlagent_lib.agents.policies import ScriptedExpert
from mlagent_lib.agents.rollout import Job, reward_of
from mlagent_lib.core.arms import ARMS, FULL, PROFILE, Arm, get_arm
from mlagent_lib.core.artifacts import Stage, append_jsonl, hashes_below, read_jsonl
from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.seeding import derive_seed, rng
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import RuleCoder
from mlagent_lib.environment.step import run_steps
from mlagent_lib.run.lab import (
    Agent,
    Lab,
    chosen_ideas,
    evaluate,
    extend,
    local_agent,
    make_coder,
    open_lab,
    state_rewards,
)
from mlagent_lib.run.stages import (
    POOL_ACTION,
    expert_rows,
    is_trained,
    luck_table,
    quiet,
    split_states,
    write_table,
)
from mlagent_lib.training.pool import StatePool
from mlagent_lib.training.scoring import evaluate_steps

COMPARED = "v1"  # the reward in which arms are compared, whatever they were trained on


@dataclass(frozen=True)
class Unit:
    """One unit of work.

    Attributes:
        seed: Root of its random streams.
        name: Its folder below the run's.
        needs: Names of the units of the same seed that must be finished first.
    """

    seed: int
    name: str
    needs: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Return ``collect``, ``sft``, ``arm`` or ``search``."""
        return self.name.partition("-")[0]


def units_of(seed: int) -> list[Unit]:
    """Return the units of one seed, each after those that it needs.

    Args:
        seed: Root of the random streams.
    """
    units = [Unit(seed, "collect-far-apart")]
    made = {"collect-far-apart"}
    for arm in ARMS:
        source, start = f"collect-{collected(arm.start)}", f"sft-{arm.start}"
        for unit in (Unit(seed, source), Unit(seed, start, ("collect-far-apart", source))):
            if unit.name not in made:
                made.add(unit.name)
                units.append(unit)
        needs = ("collect-far-apart", start, *([f"arm-{FULL}"] if arm.equal_time else []))
        units.append(Unit(seed, f"arm-{arm.name}", needs))
    return [*units, Unit(seed, "search", ("sft-far-apart", f"arm-{FULL}"))]


def collected(start: str) -> str:
    """Return which trajectories an SFT start is made from.

    Example:
        >>> collected("one-idea"), collected("none")
        ('one-idea', 'far-apart')
    """
    return start if start in ("one-idea", "random-ideas", "no-thought") else "far-apart"


def open_unit(unit: Unit, runs_dir: str, arm: Arm | None = None) -> Lab:
    """Return the lab of a unit: the run of its seed, an arm's profile, executions shared by all units.

    Args:
        unit: What is to be made.
        runs_dir: Folder of all runs.
        arm: Whose profile; None for the profile ``ablations`` itself.
    """
    lab = open_lab(PROFILE, unit.seed, runs_dir, f"{PROFILE}-seed{unit.seed}")
    cache = ExecutionCache(Path(runs_dir) / f"{PROFILE}-executions")
    return replace(lab, profile=arm.profile() if arm else lab.profile, cache=cache)


def make(unit: Unit, runs_dir: str, say: Callable[[str], None]) -> None:
    """Make one unit; one that is finished and intact is kept.

    Args:
        unit: What to make.
        runs_dir: Folder of all runs.
        say: Receives short lines on how far it is.
    """
    kind, _, rest = unit.name.partition("-")
    works = {"collect": _collect, "sft": _start, "arm": _arm, "search": _search}
    if kind not in works:
        raise ProfileError(f"unit {unit.name!r} is unknown", cure=f"its kind is one of {', '.join(works)}")
    arm = get_arm(rest) if kind == "arm" or rest == "no-thought" else None
    lab = open_unit(unit, runs_dir, arm)
    quiet()
    stage = lab.stage(unit.name)
    try:
        if not stage.done:
            with stage:
                works[kind](lab, stage, rest, say)
    finally:
        lab.close()


def _collect(lab: Lab, stage: Stage, ideas: str, say: Callable[[str], None]) -> None:
    """Write expert trajectories whose ideas are far apart, drawn at random, or always the same one."""
    settings, path = lab.profile.collect, stage.path("trajectories.jsonl")
    expert = ScriptedExpert(reply_format=lab.profile.reply_format)
    done = {row["id"] for row in read_jsonl(path, missing_ok=True)[0]}
    for task in lab.tasks(settings.tasks):
        say(task.name)
        pool = ideas_for(lab, task, ideas)
        jobs = [
            Job(task, "expert", index, lab.seed,
                draw_ideas(pool, rng(lab.seed, "draw-ideas", task.name, index)))
            for index in range(settings.trajectories_per_task)
        ]  # fmt: skip
        jobs = [job for job in jobs if job.id not in done]
        extend(path, jobs, expert, lab.tools(), settings.max_steps)
    stage.summary = {"trajectories": len(read_trajectories(path)), "ideas": ideas}


def ideas_for(lab: Lab, task, ideas: str) -> tuple | dict:
    """Return the pool of ideas that a task's trajectories draw from.

    Args:
        lab: The run.
        task: The task.
        ideas: ``random-ideas`` for as many as the profile selects, by axis, drawn at random; ``one-idea`` for
            one of them; else those of the profile's selection.
    """
    pools = chosen_ideas(lab, task)
    if ideas not in ("random-ideas", "one-idea"):
        return pools
    stream, every = rng(lab.seed, "ideas", ideas, task.name), candidate_ideas(task)
    if ideas == "one-idea":
        return (every[int(stream.integers(len(every)))],)
    found = {}
    for axis, chosen in pools.items():
        own = [idea for idea in every if idea.axis == axis]
        found[axis] = tuple(own[i] for i in stream.permutation(len(own))[: len(chosen)])
    return found


def _parts(lab: Lab, stage: Stage, ideas: str = "far-apart"):
    return split_states(lab, read_trajectories(stage.read(f"collect-{ideas}/trajectories.jsonl")))


def _start(lab: Lab, stage: Stage, start: str, say: Callable[[str], None]) -> None:
    """Write the adapter that RL starts from: fine-tuned on these trajectories, or fresh for ``none``."""
    from mlagent_lib.training.grpo import fresh_adapter
    from mlagent_lib.training.sft import train_sft

    profile = lab.profile
    if start == "none":
        fresh_adapter(
            profile.model, backend=profile.backend, r=profile.sft.lora_r, alpha=profile.sft.lora_alpha,
            out=stage.path("adapter"), seed=lab.seed,
        )  # fmt: skip
        stage.write_json("training.json", {"rows": 0, "files": hashes_below(stage.path("adapter"))})
        return
    say("fine-tuning")
    rows = expert_rows(lab, _parts(lab, stage, collected(start)))
    if not is_trained(stage):
        found = train_sft(
            rows, profile.sft, model=profile.model, backend=profile.backend, out=stage.dir, seed=lab.seed
        )
        stage.write_json("training.json", found | {"files": hashes_below(stage.path("adapter"))})


def adapter_of(stage: Stage, unit: str) -> Path:
    """Return the adapter that a unit wrote, recorded as an input.

    Args:
        stage: Who reads.
        unit: Whose adapter.
    """
    stage.read(f"{unit}/adapter/adapter_config.json")
    return stage.read(f"{unit}/adapter/adapter_model.safetensors").parent


def _arm(lab: Lab, stage: Stage, name: str, say: Callable[[str], None]) -> None:
    """Train the arm, take single steps from the test states, and make trajectories on every task."""
    arm, parts = get_arm(name), _parts(lab, stage)
    adapter = adapter_of(stage, f"sft-{arm.start}")
    if arm.method != "none":
        if not is_trained(stage):
            found = _train(lab, stage, arm, parts, adapter, say)
            stage.write_json("training.json", found | {"files": hashes_below(stage.path("adapter"))})
        adapter = stage.path("adapter")
    agent = local_agent(lab, name, adapter)
    say("test states")
    write_table(stage, "step_rewards.csv", single_steps(lab, stage, agent, name, parts.test))
    if name in ("sft", FULL):
        write_table(stage, "blame.csv", blame_table(lab, stage, parts.test))
    say("evaluation")
    rows = evaluate(lab, name, agent.policy, agent.tools, stage.path("trajectories.jsonl"))
    if name in ("sft", FULL):
        say("other seeds")
        write_table(stage, "luck.csv", luck_table(lab, rows, (name,)))
    stage.summary = {"trajectories": len(rows), "arm": name}


def _train(lab: Lab, stage: Stage, arm: Arm, parts, adapter: Path, say: Callable[[str], None]) -> dict:
    from mlagent_lib.training.grpo import train_grpo

    profile = lab.profile
    rows = [row for row in parts.trajectories["train"] if not arm.tasks or row["task"] in arm.tasks]
    pool = StatePool.from_trajectories(rows, limit=profile.grpo.pool_size, seed=lab.seed, action=POOL_ACTION)
    select = [state for state in parts.select if not arm.tasks or state.task in arm.tasks]
    select = StatePool(tuple(select)).sample(profile.grpo.eval_states, lab.seed, "select")
    limit, settings = float("inf"), profile.grpo
    if arm.equal_time:
        limit = charged_seconds(stage.read(f"arm-{FULL}/metrics.jsonl"))
        settings = replace(settings, steps=LONGEST)
    found = train_grpo(
        pool, select, settings, make_tools=lambda coder: lab.tools(coder or make_coder(profile)),
        model=profile.model, backend=profile.backend, adapter=adapter, out=stage.dir, seed=lab.seed,
        style=profile.prompt_style, max_steps=profile.collect.max_steps, coder=profile.coder,
        progress=lambda row: say(f"update {row['step']}, reward {row['reward']:.2f}"),
        episodes=arm.method == "episode-wise", on_policy=arm.on_policy, charged_limit=limit,
    )  # fmt: skip
    return found | {"pool": len(pool), "select": len(select)}


LONGEST = 100_000  # updates: where time ends a training, their number does not


def charged_seconds(metrics: Path) -> float:
    """Return the charged seconds of a training: processor time and recorded scripts (see `train_grpo`).

    Args:
        metrics: Its ``metrics.jsonl``.
    """
    return sum(row["seconds_charged"] for row in read_jsonl(metrics)[0] if row["split"] == "train")


def single_steps(lab: Lab, stage: Stage, agent: Agent, name: str, states) -> pd.DataFrame:
    """Return one row for each reply to a test state, and write the steps themselves, with both scores.

    The rewards are those of v1 for every arm, so that arms trained on other rewards compare.

    Args:
        lab: The run.
        stage: Where ``test_steps.jsonl`` goes.
        agent: Who replies.
        name: Of the arm.
        states: Test states.
    """
    profile = lab.profile
    found = evaluate_steps(
        agent.generate, states, agent.tools, style=profile.prompt_style, max_steps=profile.collect.max_steps,
        form=COMPARED, seed=derive_seed(lab.seed, "test-steps", name), samples=profile.grpo.test_samples,
    )  # fmt: skip
    path = stage.path("test_steps.jsonl")
    path.unlink(missing_ok=True)
    for row in found.rows:
        append_jsonl(path, row)
    return state_rewards(found.rows, name, lab.seed)


def blame_table(lab: Lab, stage: Stage, states) -> pd.DataFrame:
    """Return what the exact coder makes of the same replies: who is to blame where a step has failed?

    Args:
        lab: The run.
        stage: Where ``test_steps.jsonl`` is.
        states: Test states.

    Returns:
        One row for each reply that is an edit: task, state, outcome, reward, and outcome and reward with the
        rule coder (``exact_outcome``, ``exact_reward``) in place of the model.
    """
    by_id = {state.id: state for state in states}
    rows = [row for row in read_jsonl(stage.path("test_steps.jsonl"))[0] if row["outcome"] != "unscored"]
    tools = lab.tools(RuleCoder())
    results = run_steps([(by_id[row["state_id"]], row["reply"]) for row in rows], tools)
    table = [
        {
            "seed": lab.seed,
            "task": row["task"],
            "state": row["state_id"],
            "outcome": row["outcome"],
            "reason": row["reason"],
            "reward": row["reward"],
            "exact_outcome": result.outcome.value,
            "exact_reason": result.reason,
            "exact_reward": reward_of(result, lab.task(row["task"]), COMPARED),
        }
        for row, result in zip(rows, results, strict=True)
        if result.action is not None and result.action.name == POOL_ACTION
    ]
    return pd.DataFrame(table)


def _search(lab: Lab, stage: Stage, _rest: str, say: Callable[[str], None]) -> None:
    """Spend the same number of executions by the trained policy, by sampling, and by a tree search."""
    from mlagent_lib.agents.search import METHODS, search

    path = stage.path("searches.jsonl")
    done = {(row["method"], row["task"], row["repeat"]) for row in read_jsonl(path, missing_ok=True)[0]}
    agents = {
        "sft": local_agent(lab, "sft", adapter_of(stage, "sft-far-apart")),
        FULL: local_agent(lab, FULL, adapter_of(stage, f"arm-{FULL}")),
    }
    for method in METHODS:
        say(method.name)
        agent = agents[method.policy]
        jobs = [(task, repeat) for task in lab.tasks(lab.profile.evaluate.tasks) for repeat in range(REPEATS)]
        todo = [job for job in jobs if (method.name, job[0].name, job[1]) not in done]
        for row in search(
            method, todo, agent.generate, agent.tools, budget=BUDGET, seed=lab.seed,
            max_steps=lab.profile.evaluate.max_steps, style=lab.profile.prompt_style,
        ) if todo else []:  # fmt: skip
            append_jsonl(path, row)


BUDGET, REPEATS = 24, 1  # ours: executions of a search (four trajectories' worth), and searches a task


def _end_with(parent: int) -> None:
    """End this process soon after its parent has gone: a killed scheduler shall leave no unit behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def main(words: list[str]) -> None:
    """Make the unit ``SEED NAME RUNS_DIR``; lines of JSON on the output tell how far it is."""
    _end_with(os.getppid())
    seed, name, runs_dir = words
    unit = next((unit for unit in units_of(int(seed)) if unit.name == name), None)
    if unit is None:
        raise ProfileError(f"unit {name!r} is unknown", cure="see `mlagent ablations --plan`")
    make(
        unit,
        runs_dir,
        lambda text: print(json.dumps({"unit": name, "seed": unit.seed, "at": text}), flush=True),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
