"""The reading test on a run: its states, prompts and SFT adapter, rewards from a table (see `training`)."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mlagent_lib.agents.export import read_trajectories
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.artifacts import Stage, read_manifest
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.step import start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.run.lab import Lab, changed_profile, lab_in, local_agent
from mlagent_lib.run.stages import TRAJECTORIES, adapter_of, is_trained, split_states, train_rl, write_table
from mlagent_lib.training import reading
from mlagent_lib.training.scoring import evaluate_steps

SAMPLES = 4  # ours: replies to each state that is measured on


def open_reading(run: str | Path, *, settings: str = "", seed: int | None = None, steps: int = 0) -> Lab:
    """Return the lab of a finished collection and SFT, with the learner's settings of a profile.

    Args:
        run: Folder of a run that holds ``01_collection`` and ``02_sft``.
        settings: Profile whose section ``grpo`` is taken; "" for the run's own.
        seed: Of table and training; None for the run's own.
        steps: Updates; 0 for those of the settings.

    Raises:
        RunError: The run has no SFT adapter.
        ProfileError: The profile is unknown.
    """
    made = read_manifest(Path(run) / "02_sft")
    if made is None:
        cure = "run 'mlagent run', or notebooks 01 and 02"
        raise RunError(f"{run} holds no finished stage 02_sft", cure=cure)
    told = made["params"]
    wanted = {name: told[name] for name in ("model", "coder", "vllm") if name in told}
    own, changes = changed_profile(get_profile(told["profile"]), **wanted)
    lab = lab_in(Path(run), own, told["seed"], changes)
    grpo = get_profile(settings).grpo if settings else lab.profile.grpo
    # the states are those of the run, and the table knows single steps only
    fixed = {"reward_form": "v1", "onpolicy_share": 0.0, "eval_trajectories": 0, "variety": 0.0}
    lab.profile = replace(lab.profile, grpo=replace(grpo, steps=steps or grpo.steps, **fixed))
    chosen = {"settings": settings or own.name, "steps": lab.profile.grpo.steps}
    lab.changes = changes | chosen | {"table": lab.seed if seed is None else seed}
    return lab


def reading_stage(lab: Lab) -> Stage:
    """Return the stage of a reading test: one folder for each choice of settings and table."""
    told = lab.changes
    return lab.stage(f"reading-{told['settings']}-{told['steps']}-seed{told['table']}")


def reading_test(lab: Lab, stage: Stage, progress: Callable[[dict], None] | None = None) -> pd.DataFrame:
    """Train on the table and return who is right how often, beside the best constant family and random ones.

    Writes ``choices.csv`` (a row a reply), ``summary.csv`` and what `train_rl` writes; goes on where an
    interrupted attempt stopped. Only the starters of held-out tasks are executed, once each, as their prompts
    show what they print.

    Args:
        lab: Of `open_reading`.

    Returns:
        Columns policy, states (kept back or held-out starters), right, one for each modality (NaN where it
        has no state), commonest, families.
    """
    seed = lab.changes["table"]
    parts = split_states(lab, read_trajectories(stage.read(TRAJECTORIES)))
    table = reading.draw_table(lab.tasks("all"), seed)
    stage.write_text("table.json", json.dumps({name: sorted(own) for name, own in table.items()}))
    starters = [start_state(task, lab.tools()) for task in lab.tasks("held-out")]
    tools, adapter = reading.TableTools.of(lab.tools(), table), adapter_of(stage)
    if not is_trained(stage):
        train_rl(lab, stage, parts, adapter, tools=tools, seed=seed, progress=progress)
    constant = reading.best_constant(lab.tasks("held-in"), table)
    found = []
    for name, states in (("kept back", parts.test), ("held-out starters", starters)):
        repeated = [state for state in states for _ in range(SAMPLES)]
        said = {
            f"always {constant}": reading.said_always(constant, states, tools),
            "random families": reading.drawn_families(repeated, tools, seed),
            "sft": _said(lab, tools, "sft", adapter, states),
            "rl": _said(lab, tools, "rl", stage.path("adapter"), states),
            "rl, last update": _said(lab, tools, "rl", stage.path("last"), states),
        }
        found += [row | {"policy": who, "states": name} for who, rows in said.items() for row in rows]
    rows = write_table(stage, "choices.csv", pd.DataFrame(found))
    summaries = [
        {"policy": who, "states": name, **reading.summary(part.to_dict("records"))}
        for (name, who), part in rows.groupby(["states", "policy"], sort=False)
    ]
    return write_table(stage, "summary.csv", pd.DataFrame(summaries))


def _said(
    lab: Lab, tools: reading.TableTools, name: str, adapter: Path, states: list[State] | tuple[State, ...]
) -> list[dict]:
    """Return the choices of a local policy in these states."""
    agent, stream = local_agent(lab, name, adapter), derive_seed(lab.changes["table"], "reading", name)
    _, rows = evaluate_steps(
        agent.generate, states, tools, Prompter.of(lab.profile), form="v1", seed=stream, samples=SAMPLES
    )
    return reading.choices(rows, tools)
