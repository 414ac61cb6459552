"""Both backends train, on a GPU in the shape of Qwen2.5-0.5B; the same bodies on a CPU in a tiny shape."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
from exercise import (
    EVERY,
    GRPO,
    KILL,
    SFT,
    STEPS,
    exercise,
    fixed_rows,
    log_probabilities,
    write_scene,
)

HERE = Path(__file__).resolve().parent
GPU_CASES = [pytest.param(name, marks=pytest.mark.gpu) for name in ("cuda-plain", "cuda-unsloth")]


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """Return a function that gives the record of a case; each is made once, a GPU's in its own process."""
    made = {}

    def scene(device: str) -> Path:
        if device not in made:
            folder = tmp_path_factory.mktemp(f"scene-{device}") / "scene"
            made[device] = write_scene(folder, "tiny" if device == "cpu" else "0.5B", device=device)
        return made[device]

    def record(case: str) -> dict:
        device, backend = case.split("-")
        if case not in made:
            out = tmp_path_factory.mktemp(case) / "out"
            out.mkdir()
            if device == "cpu":
                made[case] = json.loads(json.dumps(exercise(scene(device), backend, out)))
            else:
                made[case] = in_a_process(scene(device), backend, out)
        return made[case]

    return record


def in_a_process(scene: Path, backend: str, out: Path) -> dict:
    """Return the record that a process of its own made."""
    places = [str(HERE), str(HERE.parent), str(HERE.parent.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, places))}
    command = [sys.executable, str(HERE / "exercise.py"), str(scene), backend, str(out)]
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads((out / "record.json").read_text())


@pytest.fixture(params=["cpu-plain", *GPU_CASES])
def record(request, records):
    """Return the record of each case in turn."""
    return records(request.param)


@pytest.mark.slow
def test_sft_trains_the_adapter_and_nothing_else(record):
    found = record["sft"]
    assert found["steps"] == 16 // SFT.batch and all(math.isfinite(loss) for loss in found["losses"])
    assert min(found["losses"]) > 0 and found["adapter_changed"]
    assert found["base_before"] == found["base_after"]


@pytest.mark.slow
def test_grpo_rewards_differ_and_everything_is_finite(record):
    rows = [row for row in record["grpo"]["rows"] if row["split"] == "train"]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    for row in rows:
        assert all(math.isfinite(value) for value in row.values() if isinstance(value, float)), row
        assert 0 <= row["reward"] <= 1 and row["steps"] == GRPO.states_per_step * GRPO.group_size
    # otherwise every group would be flat, and the test would show nothing
    assert max(row["reward_std"] for row in rows) > 0 and max(row["grad_norm"] for row in rows) > 0
    assert statistics.fmean(row["validity"] for row in rows) > 0.1


@pytest.mark.slow
def test_grpo_trains_the_adapter_and_nothing_else(record):
    found = record["grpo"]
    assert found["adapter_change"] > 0 and found["base_before"] == found["base_after"]
    assert found["base_before"] == record["sft"]["base_before"]


@pytest.mark.slow
def test_grpo_goes_on_from_its_checkpoint(record):
    found = record["grpo"]
    assert found["checkpoints_at_the_cut"] == [f"checkpoint-{KILL // EVERY * EVERY}"]
    for rows in (found["rows"], found["rows_resumed"]):
        assert [row["step"] for row in rows if row["split"] == "train"] == list(range(1, STEPS + 1))
        assert [row["step"] for row in rows if row["split"] == "holdout"] == list(range(0, STEPS + 1, EVERY))
    assert found["summary"]["steps"] == found["resumed"]["steps"] == STEPS
    # on a CPU bit for bit; on a GPU sums are taken in any order, and one other token changes an update
    allowed = 0.0 if record["device"] == "cpu" else 4 * STEPS * GRPO.lr
    assert found["resumed_difference"] <= allowed


@pytest.mark.gpu
@pytest.mark.slow
def test_both_backends_give_the_same_log_probabilities(records):
    """Other kernels, the same numbers: bfloat16 keeps 8 bits, and errors of 24 layers add up."""
    plain, unsloth = (records(case)["logprobs"] for case in ("cuda-plain", "cuda-unsloth"))
    assert records("cuda-unsloth")["backend"] == "unsloth"
    pairs = [(a, b) for one, two in zip(plain, unsloth, strict=True) for a, b in zip(one, two, strict=True)]
    differences = [abs(a - b) for a, b in pairs]
    assert statistics.fmean(differences) <= 0.02 and max(differences) <= 0.2
    # the numbers themselves must differ by more than that, or anything would agree
    assert statistics.stdev(a for a, _ in pairs) > 0.2


@pytest.mark.slow
def test_the_rows_that_backends_are_compared_by_do_not_depend_on_padding(records, tmp_path):
    from mlagent_lib.training.backends import load

    found = records("cpu-plain")["logprobs"]
    scene = write_scene(tmp_path / "scene", "tiny")
    loaded = load(str(scene / "model"), backend="plain", adapter=scene / "adapter")
    for row, together in zip(fixed_rows(1024), found, strict=True):
        assert log_probabilities(loaded, [row])[0] == pytest.approx(together, abs=1e-4)
    assert statistics.stdev(value for row in found for value in row) > 0.01
