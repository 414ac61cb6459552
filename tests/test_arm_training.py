"""What the arms ask of training beside the method, and a few units of the comparison made for real."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
from pocket_parts import spoken, train_pocket, write_adapter
from tiny_task import NAME, make_tools, neighbours, write_task

from mlagent_lib import cli
from mlagent_lib.arms import units as arm_units
from mlagent_lib.arms.schedule import plan, run_of
from mlagent_lib.arms.tables import gather
from mlagent_lib.arms.units import make_unit, units_of_seed
from mlagent_lib.core.arms import get_arm
from mlagent_lib.core.artifacts import read_manifest
from mlagent_lib.core.files import append_jsonl, read_jsonl
from mlagent_lib.core.profiles import PROFILES, get_profile
from mlagent_lib.environment.step import start_state
from mlagent_lib.results.arm_figures import build
from mlagent_lib.results.arms import RAW, load, manifest_of
from mlagent_lib.results.claims import NOT_TESTABLE, TOO_FEW
from mlagent_lib.tasks import grading
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.training import grpo, scoring
from mlagent_lib.training.grpo import Recorder

# Charged time -----------------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path):
    write_task(tmp_path / "tasks")
    return make_tools(tmp_path)


def test_an_interrupted_training_goes_on_counting(tmp_path):
    def recorder(limit):
        return Recorder(tmp_path, None, None, None, limit)

    assert recorder(0.5).charged == 0.0 and not recorder(0.5).is_time_up
    for split, seconds in (("holdout", None), ("train", 1.0), ("train", 1.5), ("holdout", None)):
        append_jsonl(
            tmp_path / "metrics.jsonl", {"split": split} | ({"seconds_charged": seconds} if seconds else {})
        )
    assert recorder(math.inf).charged == 2.5 and not recorder(math.inf).is_time_up
    assert recorder(2.5).is_time_up and not recorder(2.6).is_time_up


@pytest.mark.slow
def test_training_ends_with_the_update_that_spends_the_last_charged_second(tools, tmp_path, monkeypatch):
    monkeypatch.setattr(grpo.time, "process_time", lambda: 0.0)  # so that scripts alone are charged
    spoken(monkeypatch, scoring, "PendingSteps", lambda call: [neighbours(8), neighbours(48)])
    adapter, out = write_adapter(tmp_path / "start", moved=0.02), tmp_path / "out"
    start = start_state(tools.task(NAME), tools)
    found = train_pocket(
        [start], tools, adapter, out, steps=50, eval_every=50, options={"charged_limit": 2.5}
    )
    # two scripts of 0.5 s an update, known to the cache or not: 1, 2 and 3 seconds
    rows = read_jsonl(out / "metrics.jsonl")[0]
    trained = [row for row in rows if row["split"] == "train"]
    assert [row["seconds_charged"] for row in trained] == [1.0, 1.0, 1.0]
    assert [row["cache_hits"] for row in trained] == [0, 2, 2] and found["steps"] == 3
    held = [row for row in rows if row["split"] == "holdout"]
    assert [(row["step"], row["charged"]) for row in held] == [(0, 0.0), (3, 3.0)]  # measured where it ended
    assert (out / "adapter" / "adapter_model.safetensors").is_file()


# Where RL from the base model starts ------------------------------------------------------------------------


def test_a_fresh_adapter_changes_nothing_yet_and_follows_its_seed(tmp_path):
    torch = pytest.importorskip("torch")
    from safetensors.torch import load_file

    from mlagent_lib.training.backends import load

    first, same, other = (
        load_file(write_adapter(tmp_path / name, seed=seed) / "adapter_model.safetensors")
        for name, seed in (("first", 0), ("same", 0), ("other", 1))
    )
    assert first.keys() == same.keys() and all(first[name].equal(same[name]) for name in first)
    assert all(not weight.any() for name, weight in first.items() if "lora_B" in name)
    outer = [name for name in first if "lora_A" in name]
    assert outer and all(first[name].any() and not first[name].equal(other[name]) for name in outer)
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        bare = load("pocket", backend="plain").model(ids).logits
        fresh = load("pocket", backend="plain", adapter=tmp_path / "first").model(ids).logits
    assert fresh.equal(bare)


# Four units made for real, in toy size ----------------------------------------------------------------------

MADE = ("collect-far-apart", "sft-none", "arm-base", "arm-rl-from-base")
TASKS = ("pocket-homes", "pocket-grades")


def toy_profile():
    """Return the profile of the comparison in toy size: the same code path, no result worth reading."""
    smoke, small = get_profile("smoke"), {"grpo__steps": 1, "grpo__group_size": 2, "evaluate__tasks": TASKS}
    for stage, names in {
        "collect": ("tasks", "trajectories_per_task", "max_steps", "ideas_per_task"),
        "grpo": ("states_per_step", "eval_every", "eval_states", "pool_size", "test_samples"),
        "evaluate": ("max_steps", "luck_seeds", "k"),
    }.items():
        small |= {f"{stage}__{name}": getattr(getattr(smoke, stage), name) for name in names}
    return get_profile("ablations").with_values("ablations", **small)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return the folder of runs that holds four finished units, and what was said while they were made.

    Whoever opens report labels before the evaluation of an arm is stopped.
    """
    runs, said = tmp_path_factory.mktemp("runs"), []
    units = {unit.name: unit for unit in units_of_seed(0)}
    read = grading._read_labels

    def watched(path, stamp):
        assert path.name != "report.csv" or said[-1] == "evaluation"
        opened.add(path.name)
        return read(path, stamp)

    opened = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROFILES, "ablations", toy_profile())
        patch.setattr(grading, "_read_labels", watched)
        for name in MADE:
            said.append(f"begin {name}")
            make_unit(units[name], str(runs), said.append)
        count = len(said)
        make_unit(units["arm-base"], str(runs), said.append)  # finished: kept
        assert len(said) == count and opened == {"feedback.csv", "report.csv"}
    return runs, said


@pytest.fixture(scope="module")
def gathered(made, tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    return out, gather(made[0], out, (0,))


def metrics(runs):
    return read_jsonl(run_of(runs, 0) / "arm-rl-from-base" / "metrics.jsonl")[0]


@pytest.mark.slow
def test_units_are_made_and_the_plan_knows_them(made, capsys):
    runs, said = made
    assert "evaluation" in said and any(line.startswith("update 1, reward ") for line in said)
    at = plan(runs, (0,))
    assert {unit.name for unit in at.done} == set(MADE) and len(at.left) == 37
    seconds = {unit.name: taken for unit, taken in at.done.items()}
    assert seconds["arm-base"] == read_manifest(run_of(runs, 0) / "arm-base")["wall_s"] > 0
    assert cli.main(["ablations", "--plan", "--seeds", "0", "--runs-dir", str(runs)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("4 of 41 units are finished; 37 left, about ") and len(lines) == 38
    assert not any(name in line.split() for line in lines for name in MADE)


@pytest.mark.slow
def test_a_unit_records_what_it_was_made_from(made):
    found = [(row["split"], row["step"]) for row in metrics(made[0])]
    assert found == [("holdout", 0), ("train", 1), ("holdout", 1)]
    manifest = read_manifest(run_of(made[0], 0) / "arm-rl-from-base")
    assert manifest["profile"]["name"] == "ablations/rl-from-base" and manifest["seed"] == 0
    wanted = {"collect-far-apart/trajectories.jsonl", "sft-none/adapter/adapter_model.safetensors"}
    assert wanted <= set(manifest["inputs"])
    assert manifest["summary"] == {"trajectories": 2, "arm": "rl-from-base"}


@pytest.mark.slow
def test_an_arm_on_generated_tasks_trains_on_them_and_is_measured_on_the_suite(made, tmp_path, monkeypatch):
    runs, said = tmp_path / "runs", []
    shutil.copytree(made[0], runs)
    monkeypatch.setitem(PROFILES, "ablations", toy_profile())
    monkeypatch.setattr(arm_units, "MADE_TRAJECTORIES", {1: 4, 3: 3})
    monkeypatch.setattr(
        arm_units, "get_arm", lambda name: replace(get_arm(name), start="none")
    )  # no SFT here
    units = {unit.name: unit for unit in units_of_seed(0)}
    assert "collect-made" in units["arm-made-3"].needs
    for name in ("collect-made", "arm-made-3"):
        make_unit(units[name], str(runs), said.append)
    folder = run_of(runs, 0)
    rows = read_jsonl(folder / "collect-made" / "trajectories.jsonl")[0]
    assert Counter(row["task"] for row in rows) == {"made-0001": 4, "made-0002": 3, "made-0003": 3}
    acted = read_jsonl(folder / "arm-made-3" / "made-3_steps.jsonl")[0]
    assert not any(row["task"].startswith("made-") for row in acted)  # the suite's test states
    played = read_jsonl(folder / "arm-made-3" / "trajectories.jsonl")[0]
    assert {row["task"] for row in played} == set(TASKS)
    manifest = read_manifest(folder / "arm-made-3")
    assert "collect-made/trajectories.jsonl" in manifest["inputs"]
    assert json.loads((folder / "arm-made-3" / "training.json").read_text())["pool"] > 0


@pytest.mark.slow
def test_what_is_gathered_is_what_the_units_wrote(made, gathered):
    (runs, _), (out, tables) = made, gathered
    found = load(out)
    assert {name: len(table) for name, table in found.items()} == {name: len(tables[name]) for name in RAW}
    wanted = [
        row
        for name in ("base", "rl-from-base")
        for row in read_jsonl(run_of(runs, 0) / f"arm-{name}" / "trajectories.jsonl")[0]
    ]
    lines = found["trajectories"]
    assert lines.groupby("who").size().to_dict() == {"base": 16, "rl-from-base": 2}  # 8 and 1 of two tasks
    for line, row in zip(lines.to_dict("records"), wanted, strict=True):
        task = find_task(row["task"])
        init, best = task.baseline["report"], task.best["report"]
        assert line["gap_closed"] == pytest.approx((row["final"]["report_last"] - init) / (best - init))
        assert (line["task"], line["split"], line["steps"]) == (row["task"], row["split"], len(row["steps"]))
    assert set(found["step_rewards"]["who"]) == {"base", "rl-from-base"}
    charged = next(row["seconds_charged"] for row in metrics(runs) if row["split"] == "train")
    assert found["curves"]["charged"].tolist() == pytest.approx([0.0, charged, charged], abs=0.006)
    assert set(found["units"].query("finished")["unit"]) == set(MADE)
    about = manifest_of(out)
    assert set(about["units"]) == {f"seed0/{name}" for name in MADE} and len(about["left"]) == 37
    unit = about["units"]["seed0/arm-base"]
    assert unit["versions"]["torch"] and unit["device"] and unit["wall_s"] > 0 and "git" in unit


@pytest.mark.slow
def test_a_unit_that_the_runs_have_lost_stays_in_the_results_byte_by_byte(made, gathered, tmp_path):
    runs, out = tmp_path / "runs", tmp_path / "out"
    shutil.copytree(made[0], runs)
    shutil.copytree(gathered[0], out)
    shutil.rmtree(run_of(runs, 0) / "arm-base")
    gather(runs, out, (0,), add=True)
    for name in RAW:
        assert (out / f"{name}.csv").read_bytes() == (gathered[0] / f"{name}.csv").read_bytes(), name
    before, after = manifest_of(gathered[0]), manifest_of(out)
    assert after["kept"] == ["seed0/arm-base"] and after["other_start"] == []
    assert {key: after[key] for key in before} == before
    gather(runs, out, (0,))  # without it, what the runs hold is all there is
    assert set(load(out)["trajectories"]["who"]) == {"rl-from-base"}


@pytest.mark.slow
def test_a_part_of_the_comparison_gives_results_too(gathered):
    changed = build(gathered[0])
    assert {"overall.csv", "claims.csv", "pipeline.png", "arms_overview.svg", "rl_starts.csv"} <= set(changed)
    assert set(pd.read_csv(gathered[0] / "claims.csv")["verdict"]) == {NOT_TESTABLE, TOO_FEW}
