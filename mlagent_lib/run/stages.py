"""The work of each notebook's stage, one function each: read what earlier stages wrote, compute, write.

A notebook calls one of these inside ``with stage:`` and afterwards shows what lies in the files;
`notebook_tables` makes the tables for that. Each function goes on where an interrupted attempt stopped, and
draws no figure.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from mlagent_lib.agents.export import (
    conversational_rows,
    read_trajectories,
    write_conversational,
    write_parquet,
)
from mlagent_lib.agents.ideas import has_catalogue
from mlagent_lib.agents.policies import FixedEdits
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.agents.rollout import edited_state
from mlagent_lib.agents.server.accounting import CALLS, COSTS, cost_rows, read_calls, write_costs
from mlagent_lib.core.arms import Arm, get_arm
from mlagent_lib.core.artifacts import Stage, damaged_file, hashes_below
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import write_text
from mlagent_lib.core.seeding import derive_seed, rng
from mlagent_lib.environment.coder import Coder, EditRequest, RuleCoder
from mlagent_lib.environment.luck import luck_of
from mlagent_lib.environment.step import Toolbox, run_steps
from mlagent_lib.environment.workspace import State
from mlagent_lib.results.evaluation import (
    TaskScale,
    best_at_k_table,
    difference_table,
    overall_table,
    task_table,
    trajectory_table,
)
from mlagent_lib.results.medals import medal_table
from mlagent_lib.results.reading import (
    action_table,
    gap_by_step_table,
    gap_paths,
    reading_table,
    wording_table,
)
from mlagent_lib.results.report_scores import with_report_scores
from mlagent_lib.results.steps import outcome_table, standing_table, step_table
from mlagent_lib.results.tabled import Rows, tabled
from mlagent_lib.reward import reward_of
from mlagent_lib.run.lab import (
    Agent,
    Lab,
    baseline_policy,
    collect,
    evaluate,
    idea_coder,
    local_agent,
    make_coder,
    quiet,
)
from mlagent_lib.run.progress import Bar
from mlagent_lib.tasks.foreign.leaderboard import leaderboard_of
from mlagent_lib.tasks.pocket.catalogue import edits
from mlagent_lib.tasks.pocket.fixed import POLICIES as FIXED
from mlagent_lib.tasks.task import Task
from mlagent_lib.training.pool import Parts, StatePool
from mlagent_lib.training.scoring import evaluate_steps, fill_groups, group_advantages

TRAJECTORIES = "01_collection/trajectories.jsonl"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"  # of the folder of an adapter
CODER_EDITS = 24  # ours: edits for each held-in task on which the coder is measured
COMPARED = "v1"  # the reward in which policies are compared, whatever they were trained on
TRAINED_BY = {"sft": "02_sft", "rl": "03_grpo"}  # the stage that made the adapter of a policy
LUCKY = ("random-ideas", "rl")  # ours: whose best edits are run again with other seeds
BASELINES = ("fixed-edit", "fixed-sequence", "random-ideas", "random-kept")  # what needs no reading
PAIRS = (("rl", "sft"), ("sft", "base"), ("rl", "base"), *(("rl", name) for name in BASELINES))


def write_table(stage: Stage, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write a table as CSV into the stage and return it."""
    stage.write_text(name, table.to_csv(index=False, lineterminator="\n"))
    return table


def split_states(lab: Lab, rows: Sequence[dict]) -> Parts:
    """Return the parts of the collection; a state that *train* knows never occurs in the other two."""
    sft = lab.profile.sft
    return Parts.of(rows, lab.seed, share=sft.holdout_share, first=sft.holdout_first)


def collection(lab: Lab, stage: Stage, *, expert: str = "scripted") -> None:
    """Write the expert's trajectories, and the same for TRL and as Parquet."""
    tasks = lab.tasks(lab.profile.collect.tasks)
    bar = Bar("expert at work", len(tasks), "tasks")
    path = stage.path("trajectories.jsonl")
    collect(lab, path, expert=expert, progress=lambda done, _: bar.to(done))
    rows = read_trajectories(path)
    chats = conversational_rows(rows, lambda step: prompt_of(lab, step["state"]), names=True)
    count = write_conversational(stage.path("trl_messages.jsonl"), chats)
    write_parquet(stage.path("trajectories.parquet"), rows)
    stage.summary = {"trajectories": len(rows), "chat_rows": count, "expert": expert}
    if (calls := stage.path(CALLS)).exists():  # tokens; no price is known here (see `mlagent agent --costs`)
        write_costs(stage.path(COSTS), cost_rows(read_calls(calls), {}))


def prompt_of(lab: Lab, state: dict) -> list[dict]:
    """Return the messages that the policy reads in a stored state."""
    restored = State.from_json(state)
    return Prompter.of(lab.profile).messages(restored, lab.task(restored.task))


def expert_rows(lab: Lab, parts: Parts) -> list[dict]:
    """Return the SFT set: one prompt-completion row for each step of the *train* trajectories."""
    from mlagent_lib.training.sft import sft_rows

    rows = parts.trajectories["train"]
    tasks = {row["task"]: lab.task(row["task"]) for row in rows}
    return sft_rows(rows, tasks, Prompter.of(lab.profile))


def start_adapter(lab: Lab, stage: Stage, rows: Sequence[dict] | None) -> None:
    """Write the adapter that RL starts from: fine-tuned on these rows, or fresh where there are none.

    Args:
        stage: Where ``adapter/`` and ``training.json`` go; what an earlier attempt has finished stays.
        rows: Of `expert_rows`; None for a fresh adapter.
    """
    from mlagent_lib.training.grpo import fresh_adapter
    from mlagent_lib.training.sft import train_sft

    if is_trained(stage):
        return
    quiet()
    model, settings, found = lab.profile.model, lab.profile.sft, {"rows": 0}
    options = {"backend": lab.profile.loading, "seed": lab.seed}
    if rows is None:
        lora = {"r": settings.lora_r, "alpha": settings.lora_alpha}
        fresh_adapter(model, out=stage.path("adapter"), **lora, **options)
    else:
        options |= {"model": model, "progress": _updates("fine-tuning")}
        found = train_sft(rows, settings, out=stage.dir, **options)
    stage.write_json("training.json", found | {"files": hashes_below(stage.path("adapter"))})


def _updates(what: str) -> Callable[[int, int, str], None]:
    """Return what shows how many updates of how many are made; the bar begins with the first of them."""
    bars: list[Bar] = []

    def show(done: int, total: int, note: str) -> None:
        if not bars:
            bars.append(Bar(what, total, "updates"))
        bars[0].to(done, note)

    return show


def fine_tuning(lab: Lab, stage: Stage) -> None:
    """Train the SFT adapter, measure the coder, and take single steps from test states before and after."""
    parts = split_states(lab, read_trajectories(stage.read(TRAJECTORIES)))
    start_adapter(lab, stage, expert_rows(lab, parts))
    bar = Bar("what it learned", 3, "parts")
    base = local_agent(lab, "base", None)
    write_table(stage, "coder.csv", coder_check(lab, base))
    bar.add(1, "coder measured")
    before = single_steps(lab, stage, base, get_arm("base"), parts.test)
    bar.add(1, "base model measured")
    tuned = local_agent(lab, "sft", stage.path("adapter"))
    after = single_steps(lab, stage, tuned, get_arm("sft"), parts.test)
    write_table(stage, "test_steps.csv", pd.concat([before, after], ignore_index=True))
    bar.add(1, "adapter measured")


def is_trained(stage: Stage) -> bool:
    """Return whether an earlier attempt has finished the training and its adapter is still what it wrote."""
    try:
        files = json.loads(stage.path("training.json").read_text(encoding="utf-8"))["files"]
        return damaged_file(stage.path("adapter"), files) is None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none yet, or damaged: train again
        return False


def single_steps(lab: Lab, stage: Stage, agent: Agent, arm: Arm, states: Sequence[State]) -> pd.DataFrame:
    """Return one row for each reply to a test state, and write the steps themselves, with both scores.

    The rewards are those of v1 whatever an arm was trained on, so that arms compare.

    Args:
        stage: Where ``<who>_steps.jsonl`` goes.

    Returns:
        See `reward_table`.
    """
    seed, samples = derive_seed(lab.seed, "test-steps", arm.who), lab.profile.grpo.test_samples
    options = {"form": COMPARED, "seed": seed, "samples": samples}
    _, rows = evaluate_steps(agent.generate, states, agent.tools, Prompter.of(lab.profile), **options)
    write_rows(stage.path(f"{arm.who}_steps.jsonl"), rows)
    return reward_table(rows, {state.task: lab.task(state.task) for state in states}, arm, lab.seed)


@tabled()
def reward_table(rows: Sequence[dict], tasks: Mapping[str, Task], arm: Arm, seed: int) -> Rows:
    """Return one row for each single step; one that we failed to score has no reward (NaN).

    Args:
        rows: Of `evaluate_steps`.

    Returns:
        Columns arm, policy, seed, task, state, outcome, reason, share (of the gap, what v2 pays for an edit),
        reward.
    """
    for row in rows:
        task, after, before = tasks[row["task"]], row["score_after"], row["score_before"]
        width = task.best["feedback"] - task.baseline["feedback"]
        line = arm.keys | {"seed": seed, "task": row["task"], "state": row["state_id"]}
        line |= {"outcome": row["outcome"], "reason": row["reason"]}
        line |= {"share": None if after is None else (after - before) / width}
        yield line | {"reward": row["reward"]}


def coder_check(lab: Lab, agent: Agent) -> pd.DataFrame:
    """Return how the model's base weights edit the held-in starters (see `edits_checked`).

    Args:
        agent: Whose base weights play the coder, whichever coder the profile takes.
    """
    from mlagent_lib.training.backends import base_coder

    coder = base_coder(agent.backend, style=lab.profile.prompt_style)
    return edits_checked(coder, lab.tasks(lab.profile.collect.tasks), lab.seed)


@tabled("task", "axis", "instruction", "result")
def edits_checked(coder: Coder, tasks: Iterable[Task], seed: int, per_task: int = CODER_EDITS) -> Rows:
    """Return how a coder edits the starters of tasks, beside the rule coder, which is exact.

    Tasks without a catalogue are left out: nobody knows what an exact edit of theirs is.

    Args:
        per_task: Edits drawn from the catalogue of each task.

    Returns:
        One row for each edit; its result is ``exact``, ``other`` or ``refused``.
    """
    requests, axes = [], []
    for task in filter(has_catalogue, tasks):
        pool, script = edits(task.modality, task.kind), task.env_files()[task.starter].decode()
        for index in rng(seed, "coder-check", task.name).permutation(len(pool))[:per_task]:
            requests.append(EditRequest(task, script, pool[index].instruction))
            axes.append(pool[index].axis)
    wanted, got = RuleCoder().edit_many(requests), coder.edit_many(requests)
    for asked, axis, right, made in zip(requests, axes, wanted, got, strict=True):
        result = "exact" if made == right else "other" if isinstance(made, str) else "refused"
        yield asked.task.name, axis, asked.instruction, result


def adapter_of(stage: Stage, name: str = "02_sft") -> Path:
    """Return the adapter folder of an earlier stage, its weights recorded as an input."""
    stage.read(f"{name}/adapter/{CONFIG}")
    return stage.read(f"{name}/adapter/{WEIGHTS}").parent


@tabled("action", "what", "outcome", "score_before", "score_after", "reward", "advantage", "reply")
def group_steps(lab: Lab, agent: Agent, state: State, *names: str) -> Rows:
    """Return one group by hand: G replies to ONE state, executed, with rewards and advantages.

    Args:
        state: Where all of them start.

    Returns:
        One row for each reply; ``what`` is its edit instruction. For the advantage see `group_advantages`.
    """
    profile, task = lab.profile, lab.task(state.task)
    prompt = Prompter.of(profile).messages(state, task)
    seed = derive_seed(lab.seed, "group", *names)
    replies = agent.generate([prompt] * profile.grpo.group_size, seed)
    results = run_steps([(state, text) for text in replies], agent.tools)
    rewards = [reward_of(result, task, profile.grpo.reward_form) for result in results]
    advantages = group_advantages(fill_groups(rewards, len(rewards))[0], len(rewards))
    for reply, result, *paid in zip(replies, results, rewards, advantages, strict=True):
        name, what = (result.action.name, result.action.arguments) if result.action else ("–", {})
        scores = (result.outcome.value, result.score_before, result.score_after)
        yield name, what.get("edit_instruction", result.reason), *scores, *paid, reply


def grpo(lab: Lab, stage: Stage) -> None:
    """Show one group by hand, train with step-wise GRPO, and take single steps from the test states."""
    profile, parts = lab.profile, split_states(lab, read_trajectories(stage.read(TRAJECTORIES)))
    adapter, before = adapter_of(stage), pd.read_csv(stage.read("02_sft/test_steps.csv"))
    if not stage.path("group.csv").exists():
        first = min(pool_of(lab, parts).states, key=lambda state: (state.step, state.task, state.id))
        write_table(stage, "group.csv", group_steps(lab, local_agent(lab, "sft", adapter), first, "first"))
    if not is_trained(stage):
        bar = Bar("step-wise GRPO", profile.grpo.steps, "updates")
        train_rl(lab, stage, parts, adapter, progress=lambda row: _told(bar, row))
    agent = local_agent(lab, "rl", stage.path("adapter"))
    after = single_steps(lab, stage, agent, get_arm("full"), parts.test)
    kept = before[before["policy"] == "sft"]
    write_table(stage, "step_rewards.csv", pd.concat([kept, after], ignore_index=True))


def pool_of(lab: Lab, parts: Parts, tasks: Sequence[str] = ()) -> StatePool:
    """Return the states that RL samples from: those where the expert edited, of these tasks or of all."""
    own = (state for state in parts.edited if not tasks or state.task in tasks)
    return StatePool.of(own, limit=lab.profile.grpo.pool_size, seed=lab.seed)


def train_rl(
    lab: Lab, stage: Stage, parts: Parts, adapter: Path, arm: Arm | None = None, *,
    charged_limit: float = float("inf"), progress: Callable[[dict], None] | None = None,
    tools: Toolbox | None = None, seed: int | None = None,
) -> None:  # fmt: skip
    """Train a policy by RL as an arm says, and write ``adapter/``, ``metrics.jsonl`` and ``training.json``.

    Args:
        stage: Where it goes; goes on where an earlier attempt stopped.
        parts: States to train and to select on.
        arm: Method, tasks and share of on-policy states; the full method's by default.
        charged_limit: Charged seconds after which training ends, in place of a number of updates.
        seed: Of the training; the run's own by default.
    """
    from mlagent_lib.training.grpo import train_grpo

    quiet()
    profile, arm = lab.profile, arm or get_arm("full")
    select = StatePool(tuple(state for state in parts.select if not arm.tasks or state.task in arm.tasks))
    select = select.sample(profile.grpo.eval_states, lab.seed, "select")
    pool = pool_of(lab, parts, arm.tasks)
    if len(pool) < profile.grpo.states_per_step:
        print(f"the pool holds {len(pool)} states: a step takes these, not {profile.grpo.states_per_step}")
        profile = profile.with_values(profile.name, grpo__states_per_step=len(pool))
    found = train_grpo(
        profile, pool, select, adapter=adapter, out=stage.dir, arm=arm,
        make_tools=lambda coder: tools or lab.tools(coder or make_coder(lab)),
        seed=lab.seed if seed is None else seed, charged_limit=charged_limit, progress=progress,
    )  # fmt: skip
    counts = {"pool": len(pool), "select": len(select)}
    stage.write_json("training.json", found | counts | {"files": hashes_below(stage.path("adapter"))})


def _told(bar: Bar, row: dict) -> None:
    where = "held-back states" if row["split"] == "holdout" else "training states"
    bar.to(row["step"], f"{where}: reward {row['reward']:.2f}, valid {row['validity']:.0%}")


def evaluation(lab: Lab, stage: Stage) -> None:
    """Let every policy make its trajectories and write the tables of scores, gains and differences."""
    settings, path = lab.profile.evaluate, stage.path("trajectories.jsonl")
    stage.read(TRAJECTORIES)
    shared = write_table(stage, "step_rewards.csv", pd.read_csv(stage.read("03_grpo/step_rewards.csv")))
    count = len(lab.tasks(settings.tasks)) * settings.k * settings.max_steps
    for name in known_policies(lab):
        bar = Bar(f"{name:>12}", count, "steps")
        policy, tools = _actor(lab, stage, name)
        rows = evaluate(lab, name, policy, tools, path, progress=bar.add)
        bar.finish(f"{len(rows)} trajectories")
    rows = graded_trajectories(lab, path)
    scales = {scale.task: scale for scale in lab.scales()}
    table = trajectory_table(rows, scales)
    tables = {"trajectories": table, **score_tables(table, shared), "luck": luck_table(lab, rows, LUCKY)}
    tables |= edit_tables(rows, lab.task, scales, settings.max_steps, root=lab.seed)
    boards = {task.name: board for task in lab.tasks(settings.tasks) if (board := leaderboard_of(task))}
    if boards:  # competitions of MLE-bench: where the trajectories would have stood on Kaggle
        tables["medals"] = medal_table(table, boards)
    for name, made in tables.items():
        write_table(stage, f"{name}.csv", made)
    stage.summary = {"trajectories": len(rows), "step_rewards": len(shared)}


def score_tables(trajectories: pd.DataFrame, rewards: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables that follow from trajectories and single steps, by name."""
    return {
        "tasks": task_table(trajectories),
        "overall": overall_table(trajectories, rewards),
        "differences": difference_table(trajectories, PAIRS, rewards),
        "best_at_k": best_at_k_table(trajectories),
    }


def edit_tables(
    rows: Sequence[dict], task_of: Callable[[str], Task], scales: Mapping[str, TaskScale], steps: int, root=0
) -> dict[str, pd.DataFrame]:
    """Return what became of the steps of graded trajectories, and whether their policies read, by name."""
    actions, paths, each = action_table(rows, task_of), gap_paths(rows, scales, steps), step_table(rows)
    return {
        "outcomes": outcome_table(each),
        "standing": standing_table(each, task_of),
        "actions": actions,
        "gap_by_step": gap_by_step_table(paths),
        "reading": reading_table(actions, paths, root=root),
        "wordings": wording_table(actions, task_of),
    }


def known_policies(lab: Lab) -> list[str]:
    """Return the policies to evaluate; a fixed one that does not know every task is left out, and said.

    The reader's own tasks may have no catalogue, and were never measured.
    """
    tasks, found = lab.tasks(lab.profile.evaluate.tasks), []
    for name in lab.profile.evaluate.policies:
        lacks = [task.name for task in tasks if name in FIXED and not FixedEdits(name).edits_of(task)]
        if lacks:
            print(f"{name} is left out: it knows no edit for {', '.join(lacks)}")
        else:
            found.append(name)
    return found


def graded_trajectories(lab: Lab, path: Path) -> list[dict]:
    """Grade the trajectories of a file on the report labels, write it anew, and return them."""
    rows = with_report_scores(read_trajectories(path), lab.task, lab.cache.archive)
    write_rows(path, rows)
    return rows


def write_rows(path: Path, rows: Iterable[Mapping]) -> None:
    """Write rows as a file of JSON lines, in place of what it held."""
    write_text(path, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


@tabled("policy", "task", "split", "claimed", "kept", "seeds", "verdict")
def luck_table(lab: Lab, rows: Sequence[dict], policies: Sequence[str]) -> Rows:
    """Return whether the best edit of each policy on each task survives other seeds of the script.

    Returns:
        One row for each policy and task that gained anything: claimed (gain on the feedback labels, in the
        task's unit, higher is better), kept (mean gain with other seeds over the claimed one), seeds and
        verdict.
    """
    found, pairs = [], []
    for name in policies:
        for task in lab.tasks(lab.profile.evaluate.tasks):
            sign = 1.0 if task.greater_is_better else -1.0
            own = [row for row in rows if (row["source"], row["task"]) == (name, task.name)]
            ends = [(row["steps"][0]["state"], step) for row in own for step in row["steps"]]
            ends = [(start, step) for start, step in ends if step["score_after"] is not None]
            gains = [sign * (step["score_after"] - start["score"]) for start, step in ends]
            if gains and max(gains) > 0:
                start, step = ends[gains.index(max(gains))]
                found.append((name, task.name, task.split))
                pairs.append((State.from_json(start), edited_state(step, task)))
    lucks = luck_of(pairs, lab.tools(), seeds=lab.profile.evaluate.luck_seeds)
    for known, luck in zip(found, lucks, strict=True):
        yield *known, luck.claimed, luck.kept, len(luck.gains), luck.verdict


def _actor(lab: Lab, stage: Stage, name: str) -> tuple:
    """Return a policy by name with the toolbox that holds its coder."""
    if name == "base" or name in TRAINED_BY:
        agent = local_agent(lab, name, None if name == "base" else adapter_of(stage, TRAINED_BY[name]))
        return agent.policy, agent.tools
    return baseline_policy(name), lab.tools(idea_coder(lab))


def same_state(lab: Lab, stage: Stage, *, task: str) -> None:
    """Let the SFT and the RL policy act from the same held-back state, and write both groups.

    Raises:
        RunError: No state of that task was kept back.
    """
    states = split_states(lab, read_trajectories(stage.read(TRAJECTORIES))).test
    own = [state for state in states if state.task == task] or ([] if task else list(states))
    if not own:
        known = ", ".join(sorted({state.task for state in states}))
        raise RunError(f"no state of task {task!r} was kept back", cure=f"choose one of {known}")
    state = min(own, key=lambda found: (found.step, found.id))
    stage.write_text("state.json", json.dumps(state.to_json(), allow_nan=False))
    groups = []
    for name, folder in TRAINED_BY.items():
        agent = local_agent(lab, name, adapter_of(stage, folder))
        groups.append(group_steps(lab, agent, state, "same-state", name).assign(policy=name))
    write_table(stage, "groups.csv", pd.concat(groups, ignore_index=True))
