"""Made-up trajectories, metrics and run folders for the tests of `mlagent_lib.results`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.core.artifacts import Stage
from mlagent_lib.core.files import append_jsonl, write_json
from mlagent_lib.results.evaluation import (
    TaskScale,
    best_at_k_table,
    difference_table,
    overall_table,
    task_table,
    trajectory_table,
)
from mlagent_lib.results.reading import ACTION_COLUMNS, gap_by_step_table, gap_paths, reading_table
from mlagent_lib.results.steps import (
    before_after_table,
    learning_curve_table,
    minutes_table,
    outcome_table,
    spread_table,
    step_table,
)
from mlagent_lib.results.style import with_run

SCALES = {
    "up": TaskScale("up", "held-in", "accuracy", True, 0.5, 0.9, "paper-up"),
    "down": TaskScale("down", "held-in", "rmse", False, 2.0, 1.0, "paper-down"),
    "far": TaskScale("far", "held-out", "auc", True, 0.6, 0.8, "paper-far"),
}
SCRIPT = "import numpy as np\n\n# model\nmodel = LogisticRegression(C=0.001)\n"
REPLY = (
    "Reflection: too strong a penalty\nResearch Plan and Status: 1. loosen it\n2. try trees\n"
    "Fact Check: none yet\nThought: C is small\nAction: Edit Script (AI)\n"
    'Action Input: {"script_name": "train.py", "edit_instruction": "Set C to 1", "save_name": "train.py"}'
)


def step(index: int = 0, **changes) -> dict:
    """Return one edited step; ``changes`` replace fields."""
    base = {
        "step": index,
        "state": {},
        "reply": REPLY,
        "action": "Edit Script (AI)",
        "action_input": {},
        "observation": "validation accuracy: 0.61\nsecond line",
        "outcome": "edited",
        "reason": "",
        "score_before": 0.5,
        "score_after": 0.6,
        "reward": 0.25,
        "script_before": SCRIPT,
        "script_after": SCRIPT.replace("0.001", "1.0"),
        "visible_metric": 0.61,
        "seconds": 1.5,
        "cache_hit": False,
        "tier": "T2",
    }
    return {**base, **changes}


def trajectory(task: str, policy: str, score: float | None, *, seed: int = 0, k: int = 0, **changes) -> dict:
    """Return one trajectory whose last submission has ``score`` on the report labels."""
    scale = SCALES[task]
    row = {
        "schema": "mlagent.trajectory/1",
        "id": f"{policy}-{task}-{seed}-{k}",
        "task": task,
        "split": scale.split,
        "source": policy,
        "seed": seed,
        "ideas": [{"key": "c", "axis": "model", "instruction": "Set C to 1"}],
        "steps": [step(0), step(1, outcome="neutral", script_after=SCRIPT, score_after=None, reward=0.0)],
        "final": {
            "feedback_last": score,
            "report_last": score,
            "feedback_best": score,
            "report_best": score,
            "report_kept": score,
            "report_path": [scale.init, score, score],
            "report_start": scale.init,
            "stop": "steps",
        },
    }
    return {**row, **changes}


def starter_rows(seeds: tuple[int, ...] = (0,)) -> list[dict]:
    """Return trajectories of no step: the policy ``starter``, whose gap is 0 exactly."""
    ends = ("report_last", "report_best", "report_kept", "report_start")
    return [
        {"id": f"starter-{name}-{seed}", "task": name, "source": "starter", "seed": seed, "steps": []}
        | {"final": dict.fromkeys(ends, scale.init) | {"stop": "starter"}}
        for seed in seeds
        for name, scale in sorted(SCALES.items())
    ]


def rows(seeds: tuple[int, ...] = (0,), k: int = 3, means: dict[str, float] | None = None) -> list[dict]:
    """Return K trajectories of each task, policy and seed, around a mean share of the gap closed."""
    generator, out = np.random.default_rng(0), starter_rows(seeds)
    for policy, mean in (means or {"base": 0.0, "sft": 0.3, "rl": 0.6}).items():
        for task, scale in SCALES.items():
            for seed in seeds:
                for index in range(k):
                    gap = mean + generator.normal(0, 0.05)
                    score = scale.init + gap * (scale.best - scale.init)
                    out.append(trajectory(task, policy, score, seed=seed, k=index))
    return out


def actions(policies: tuple[str, ...] = ("sft", "rl"), k: int = 3, steps: int = 2) -> pd.DataFrame:
    """Return the actions of policies that say one sentence each, and repeat it to no effect."""
    table = []
    for policy in policies:
        for task, scale in SCALES.items():
            for index in range(k):
                for place in range(steps):
                    own = (policy, 0, task, scale.split, str(index), place)
                    kind = ("favourite", "unchanged")[place % 2]
                    outcome = ("edited", "unchanged")[place % 2]
                    table.append(
                        (*own, kind, outcome, f"model/{policy}", "Use trees.", f"start {place}", 1.0)
                    )
    return pd.DataFrame(table, columns=list(ACTION_COLUMNS))


def reading(all_rows: list[dict]) -> pd.DataFrame:
    """Return the measures of reading of `actions`."""
    return reading_table(actions(), gap_paths(all_rows, SCALES, 2))


def metrics(seed: int = 0) -> list[dict]:
    """Return twelve updates of GRPO and four measurements on states that are not trained on."""
    generator, out = np.random.default_rng(seed), []
    for index in range(12):
        out.append(
            {
                "step": index,
                "reward": 0.1 + 0.02 * index + generator.normal(0, 0.01),
                "share_invalid": 0.1,
                "share_error": 0.1,
                "share_edited": 0.7,
                "unscored": 0,
                "kl": 0.001 * index,
                "entropy": 1.0,
                "seconds_generation": 3.0,
                "seconds_coder": 0.5,
                "seconds_execution": 2.0,
                "seconds_update": 1.0,
            }
        )
        if index % 4 == 0 or index == 11:
            out.append({"step": index, "split": "holdout", "reward": 0.1 + 0.01 * index, "validity": 0.9})
    return out


def ideas() -> pd.DataFrame:
    """Return the table of the map of ideas: 30 ideas in three clouds, 5 of them chosen."""
    axes = np.repeat(["data", "model", "learning"], 10)
    places = np.random.default_rng(1).normal(0, 1, (30, 2)) + np.repeat([[0, 0], [4, 0], [0, 4]], 10, axis=0)
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    chosen = np.argsort(-distances.mean(axis=1), kind="stable")[:5]
    points = pd.DataFrame({"kind": "idea", "axis": axes, "x": places[:, 0], "y": places[:, 1]})
    points["selected"] = [int(index in set(chosen)) for index in range(30)]
    spread = spread_table(distances, {"v1: far apart": chosen}, draws=40).assign(kind="spread")
    return pd.concat([points, spread], ignore_index=True)


def reward_shape() -> pd.DataFrame:
    """Return both forms of the reward over a change of the score."""
    delta = np.linspace(-0.1, 0.1, 21)
    parts = [
        pd.DataFrame(
            {"form": "v1", "case": "edited", "delta": delta, "reward": 1 / (1 + np.exp(-100 * delta))}
        ),
        pd.DataFrame({"form": "v2", "case": "edited", "delta": delta, "reward": delta}),
        pd.DataFrame(
            {"form": ["v1", "v1", "v2", "v2"], "case": ["neutral", "error"] * 2, "reward": [0.5, 0, 0, -1]}
        ),
    ]
    return pd.concat(parts, ignore_index=True)


def figure_tables(seeds: tuple[int, ...] = (0,)) -> dict[str, pd.DataFrame]:
    """Return a table for every figure."""
    all_rows = rows(seeds)
    table = trajectory_table(all_rows, SCALES)
    tables = {
        "learning_curve": learning_curve_table({seed: metrics(seed) for seed in seeds}),
        "gap_by_policy": overall_table(table, draws=100),
        "before_after": before_after_table(task_table(table, draws=50)),
        "idea_map": ideas(),
        "minutes": minutes_table({"02_sft": 30.0, "03_grpo": 90.0}, metrics(), rl_stage="03_grpo"),
        "outcome_shares": outcome_table(step_table(all_rows)),
        "reward_shape": reward_shape(),
        "best_at_k": best_at_k_table(table, draws=100),
        "gap_by_step": gap_by_step_table(gap_paths(all_rows, SCALES, 2), draws=50),
        "action_field": actions(),
        "reading": reading(all_rows),
    }
    return {name: with_run(df, profile="smoke", hardware="2 CPU cores") for name, df in tables.items()}


def make_run(folder: Path, all_rows: list[dict] | None = None, *, profile: str = "laptop") -> Path:
    """Write a run folder with its stages and tables, but without figures."""
    write_json(
        folder / "run.json", {"schema": "mlagent.run/1", "profile": profile, "seed": 0, "parameters": {}}
    )
    all_rows = rows() if all_rows is None else all_rows
    table = trajectory_table(all_rows, SCALES)
    params = {"profile": profile, "seed": 0}
    for name in ("00_tour", "01_collection", "02_sft", "06_paper", "07_explore"):
        with Stage(folder, name, params=params) as stage:
            stage.write_text("done.txt", "done")
    with Stage(folder, "03_grpo", params=params) as stage:
        for row in metrics():
            append_jsonl(stage.path("metrics.jsonl"), row)
    with Stage(folder, "04_evaluation", params=params) as stage:
        for row in all_rows:
            append_jsonl(stage.path("trajectories.jsonl"), row)
        task_table(table, draws=100).to_csv(stage.path("tasks.csv"), index=False)
        overall_table(table, draws=100).to_csv(stage.path("overall.csv"), index=False)
        pairs = [("rl", name) for name in ("sft", "fixed-edit", "random-kept")]
        found = difference_table(table, pairs, measures=("gap",))
        reading(all_rows).to_csv(stage.path("reading.csv"), index=False)
        found.to_csv(stage.path("differences.csv"), index=False)
    for number, name in enumerate(("00_tour", "03_grpo"), 1):  # wall time varies from machine to machine
        path = folder / name / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "wall_s": 60.0 * number}))
    return folder
