"""The units of work behind the comparison of arms: one process, one core, one folder with a manifest each.

A unit reads what earlier units of its seed wrote, works, and writes; `schedule` plans and starts them. Four
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
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from mlagent_lib.agents.export import read_trajectories
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.arms import ARMS, FULL, PROFILE, Arm, get_arm
from mlagent_lib.core.artifacts import Stage
from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.files import append_jsonl, read_jsonl
from mlagent_lib.environment.actions import EDIT
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import RuleCoder
from mlagent_lib.environment.step import run_steps
from mlagent_lib.results.evaluation import SCALE_COLUMNS, gap_closed, trajectory_table
from mlagent_lib.results.reading import action_table, gap_paths, reading_table
from mlagent_lib.results.report_scores import report_score
from mlagent_lib.results.steps import curve_rows
from mlagent_lib.reward import reward_of
from mlagent_lib.run.lab import Lab, collect, evaluate, local_agent, open_lab
from mlagent_lib.run.stages import (
    COMPARED,
    adapter_of,
    expert_rows,
    graded_trajectories,
    is_trained,
    luck_table,
    quiet,
    single_steps,
    split_states,
    start_adapter,
    train_rl,
    write_table,
)
from mlagent_lib.tasks.pocket.generate import generate, structures, task_name
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.training.grpo import charged_seconds

OTHER_EXPERTS = ("no-thought", "no-undo")  # starts whose expert is that of the arm of the same name
MADE = "made"  # the generated tasks of a seed, below the folder of its run
# Ours: trajectories of each generated task up to that number. Arms share them; a pool keeps 400 states.
MADE_TRAJECTORIES = {9: 14, 30: 6, 300: 3}


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


def units_of_seed(seed: int) -> list[Unit]:
    """Return the units of one seed, each after those that it needs."""
    units: dict[str, Unit] = {}

    def add(name: str, *needs: str) -> str:
        units.setdefault(name, Unit(seed, name, needs))
        return name

    expert = add("collect-far-apart")
    for arm in ARMS:
        start = add(f"sft-{arm.start}", expert, add(f"collect-{collected(arm.start)}"))
        time = [f"arm-{FULL}"] if arm.equal_time else []
        made = [add(f"collect-{MADE}")] if arm.made else []
        add(f"arm-{arm.name}", expert, start, *time, *made)
    add("search", "sft-far-apart", f"arm-{FULL}")
    return list(units.values())


def collected(start: str) -> str:
    """Return which trajectories an SFT start is made from.

    Example:
        >>> collected("one-idea"), collected("none")
        ('one-idea', 'far-apart')
    """
    return start if start in ("one-idea", "random-ideas", *OTHER_EXPERTS) else "far-apart"


def make_unit(unit: Unit, runs_dir: str, say: Callable[[str], None]) -> None:
    """Make one unit in the run of its seed, by its arm's profile; one that is finished and intact is kept."""
    kind, _, rest = unit.name.partition("-")
    works = {"collect": _collect, "sft": _start, "arm": _arm, "search": _search}
    if kind not in works:
        raise ProfileError(f"unit {unit.name!r} is unknown", cure=f"its kind is one of {', '.join(works)}")
    arm = get_arm(rest) if kind == "arm" or rest in OTHER_EXPERTS else None
    lab = open_lab(PROFILE, unit.seed, runs_dir, f"{PROFILE}-seed{unit.seed}")
    executions = ExecutionCache(Path(runs_dir) / f"{PROFILE}-executions")  # shared by all units
    lab = replace(lab, profile=arm.profile() if arm else lab.profile, cache=executions)
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
    path = stage.path("trajectories.jsonl")
    tell = lambda done, every: say(f"task {done} of {every}")  # noqa: E731
    if ideas == MADE:
        rows = _collect_made(lab, path, say, tell)
    else:
        rows = collect(lab, path, ideas=ideas, progress=tell)
    stage.summary = {"trajectories": len(rows), "ideas": ideas}


def _collect_made(lab: Lab, path: Path, say: Callable[[str], None], tell) -> list[dict]:
    """Write far-apart trajectories of generated tasks: fewer of those that only the larger arms train on."""
    most, rows = max(MADE_TRAJECTORIES), []
    generate(
        lab.run_dir / MADE, most, lab.seed, list(structures()), workers=1,
        tell=lambda done, _: say(f"made {done} of {most} tasks"),
    )  # fmt: skip
    names, first = _made_tasks(lab, most), 0
    for last, count in MADE_TRAJECTORIES.items():
        own = {"collect__tasks": names[first:last], "collect__trajectories_per_task": count}
        rows = collect(
            replace(lab, profile=lab.profile.with_values(lab.profile.name, **own)), path, progress=tell
        )
        first = last
    return rows


def _made_tasks(lab: Lab, count: int) -> tuple[str, ...]:
    """Let a lab know the generated tasks of its run, and return the names of the first so many."""
    found = [find_task(str(lab.run_dir / MADE / task_name(number))) for number in range(1, count + 1)]
    lab.know(replace(task, split="held-in") for task in found)
    return tuple(task.name for task in found)


def _parts(lab: Lab, stage: Stage, ideas: str = "far-apart"):
    return split_states(lab, read_trajectories(stage.read(f"collect-{ideas}/trajectories.jsonl")))


def _start(lab: Lab, stage: Stage, start: str, say: Callable[[str], None]) -> None:
    """Write the adapter that RL starts from: fine-tuned on these trajectories, or fresh for ``none``."""
    say("fine-tuning")
    rows = None if start == "none" else expert_rows(lab, _parts(lab, stage, collected(start)))
    start_adapter(lab, stage, rows)


def _arm(lab: Lab, stage: Stage, name: str, say: Callable[[str], None]) -> None:
    """Train the arm, take single steps from the test states, and make trajectories on every task."""
    arm, parts = get_arm(name), _parts(lab, stage)
    trained = parts
    if arm.made:
        arm, trained = replace(arm, tasks=_made_tasks(lab, arm.made)), _parts(lab, stage, MADE)
    adapter, limit = adapter_of(stage, f"sft-{arm.start}"), float("inf")
    if arm.equal_time:
        limit = charged_seconds(stage.read(f"arm-{FULL}/metrics.jsonl"))
    if arm.method != "none":
        if not is_trained(stage):
            train_rl(
                lab, stage, trained, adapter, arm, charged_limit=limit,
                progress=lambda row: say(f"update {row['step']}, reward {row['reward']:.2f}"),
            )  # fmt: skip
        metrics = read_jsonl(stage.path("metrics.jsonl"))[0]
        write_table(stage, "curves.csv", curve_rows(metrics, lab.seed, **arm.keys))
        adapter = stage.path("adapter")
    agent = local_agent(lab, arm.who, adapter)
    say("test states")
    write_table(stage, "step_rewards.csv", single_steps(lab, stage, agent, arm, parts.test))
    if name in ("sft", FULL):
        write_table(stage, "blame.csv", blame_table(lab, stage, arm, parts.test))
    say("evaluation")
    evaluate(lab, arm.who, agent.policy, agent.tools, stage.path("trajectories.jsonl"))
    rows = graded_trajectories(lab, stage.path("trajectories.jsonl"))
    scales = {scale.task: scale for scale in lab.scales()}
    table = trajectory_table(rows, scales)
    shared = [column for column in SCALE_COLUMNS if column not in ("task", "split")]
    write_table(stage, "trajectories.csv", table.assign(**arm.keys).drop(columns=shared))
    paths = gap_paths(rows, scales, lab.profile.evaluate.max_steps)
    reading = reading_table(action_table(rows, lab.task), paths, root=lab.seed)
    write_table(stage, "edits.csv", reading.assign(**arm.keys))
    if name in ("sft", FULL):
        say("other seeds")
        luck = luck_table(lab, rows, (arm.who,))
        write_table(stage, "luck.csv", luck.assign(seed=lab.seed, **arm.keys))
    stage.summary = {"trajectories": len(rows), "arm": name}


def blame_table(lab: Lab, stage: Stage, arm: Arm, states) -> pd.DataFrame:
    """Return what the exact coder makes of the same replies: who is to blame where a step has failed?

    Args:
        stage: Where the file of `stages.single_steps` is.

    Returns:
        One row for each reply that is an edit: task, state, outcome, reward, and outcome and reward with the
        rule coder (``exact_outcome``, ``exact_reward``) in place of the model.
    """
    by_id = {state.id: state for state in states}
    rows = [
        row for row in read_jsonl(stage.path(f"{arm.who}_steps.jsonl"))[0] if row["outcome"] != "unscored"
    ]
    tools = lab.tools(RuleCoder())
    results = run_steps([(by_id[row["state_id"]], row["reply"]) for row in rows], tools)
    table = []
    for row, result in zip(rows, results, strict=True):
        if result.action is None or result.action.name != EDIT:
            continue
        line = arm.keys | {"seed": lab.seed, "task": row["task"], "state": row["state_id"]}
        line |= {name: row[name] for name in ("outcome", "reason", "reward")}
        line |= {"exact_outcome": result.outcome.value, "exact_reason": result.reason}
        table.append(line | {"exact_reward": reward_of(result, lab.task(row["task"]), COMPARED)})
    return pd.DataFrame(table)


def _search(lab: Lab, stage: Stage, _rest: str, say: Callable[[str], None]) -> None:
    """Spend the same number of executions by the trained policy, by sampling, and by a tree search."""
    from mlagent_lib.agents.search import METHODS, search

    path = stage.path("searches.jsonl")
    done = {(row["method"], row["task"], row["repeat"]) for row in read_jsonl(path, missing_ok=True)[0]}
    made = {"sft": "sft-far-apart", FULL: f"arm-{FULL}"}
    agents = {who: local_agent(lab, who, adapter_of(stage, unit)) for who, unit in made.items()}
    for method in METHODS:
        say(method.name)
        agent = agents[method.policy]
        jobs = [(task, repeat) for task in lab.tasks(lab.profile.evaluate.tasks) for repeat in range(REPEATS)]
        todo = [job for job in jobs if (method.name, job[0].name, job[1]) not in done]
        for row in search(
            method, todo, agent.generate, agent.tools, budget=BUDGET, seed=lab.seed,
            prompter=replace(Prompter.of(lab.profile), max_steps=lab.profile.evaluate.max_steps),
        ) if todo else []:  # fmt: skip
            append_jsonl(path, row)
    write_table(stage, "searches.csv", search_rows(read_jsonl(path)[0], lab))


def search_rows(rows: Iterable[dict], lab: Lab) -> pd.DataFrame:
    """Return one line per execution of a search: what would be handed in then, as shares of the gap.

    Before the first one (number 0) that is the starter, also where a search has executed nothing at all.
    """
    table = []
    for row in rows:
        task = lab.task(row["task"])
        start, best = task.baseline["report"], task.best["report"]
        scores = {0: start} | {
            point["execution"]: report_score(task, lab.cache.archive, point["submission"])
            for point in row["points"]
        }
        for execution, score in scores.items():
            line = {name: row[name] for name in ("method", "task", "split", "repeat")} | {"seed": lab.seed}
            table.append(line | {"execution": execution, "gap": gap_closed(score, start, best)})
    columns = ["method", "seed", "task", "split", "repeat", "execution", "gap"]
    return pd.DataFrame(table, columns=columns)


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
    unit = next((unit for unit in units_of_seed(int(seed)) if unit.name == name), None)
    if unit is None:
        raise ProfileError(f"unit {name!r} is unknown", cure="see `mlagent ablations --plan`")

    def say(text: str) -> None:
        print(json.dumps({"unit": name, "seed": unit.seed, "at": text}), flush=True)

    make_unit(unit, runs_dir, say)


if __name__ == "__main__":
    main(sys.argv[1:])
