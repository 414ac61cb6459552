"""More than one process: the parts alone, and two processes against one with the same batch."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.files import read_jsonl
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.training.processes import COUNTS, from_main, is_main, merged, over_processes

HERE = Path(__file__).resolve().parent


def test_alone_everything_is_given_back(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    assert is_main() and from_main({"a": 1}) == {"a": 1} and over_processes({"steps": 3}) == {"steps": 3}
    monkeypatch.setenv("RANK", "1")
    assert not is_main()


def test_counts_are_added_and_shares_are_averaged_by_hand():
    shares = [
        {"steps": 8, "seconds_scripts": 1.5, "reward": 0.25, "share_edited": 1.0, "cache_hits": 2},
        {"steps": 8, "seconds_scripts": 0.5, "reward": 0.75, "share_edited": 0.5, "cache_hits": 0},
    ]
    assert merged(shares) == {
        "steps": 16, "seconds_scripts": 2.0, "reward": 0.5, "share_edited": 0.75, "cache_hits": 2,
    }  # fmt: skip
    assert merged(shares[:1]) == shares[0]


def test_every_count_of_a_step_is_known_as_one():
    from mlagent_lib.training.scoring import step_statistics

    found = step_statistics([], [])
    assert {name for name, value in found.items() if isinstance(value, int)} <= set(COUNTS)


# The engine of the rollouts --------------------------------------------------------------------------------

SERVER = "http://localhost:8000"


class Loaded:
    """Stands for a loaded model: only its settings are asked for."""

    class loading:
        """As a profile's `Loading`."""

        window = 8192

    def trainer_settings(self, *, checkpointing):
        """Return the settings of a CPU."""
        return {"use_cpu": True, "bf16": False, "fp16": False, "gradient_checkpointing": checkpointing}


def settings_of(tmp_path, **changes):
    """Return TRL's configuration of the profile gpu with changes."""
    from trl import GRPOConfig

    from mlagent_lib.training.grpo import grpo_settings
    from mlagent_lib.training.trl_settings import make_config

    profile = replace(get_profile("gpu").grpo, **changes)
    return make_config(GRPOConfig, grpo_settings(Loaded(), profile, out=tmp_path, seed=0))


def test_a_profile_can_name_a_vllm_server(tmp_path):
    config = settings_of(tmp_path, vllm=SERVER)
    assert (config.use_vllm, config.vllm_mode, config.vllm_server_base_url) == (True, "server", SERVER)
    assert get_profile("gpu").with_values("mine", grpo__vllm=SERVER).grpo.vllm == SERVER
    assert settings_of(tmp_path).use_vllm is False
    same_card = settings_of(tmp_path, vllm="colocate")
    assert (same_card.use_vllm, same_card.vllm_mode) == (True, "colocate")


@pytest.mark.parametrize("name", ["yes", "localhost:8000", ""])
def test_anything_else_than_an_address_is_refused(name):
    with pytest.raises(ProfileError, match="vllm is .*trl vllm-serve"):
        replace(get_profile("gpu").grpo, vllm=name)


# Two processes ---------------------------------------------------------------------------------------------


def train(scene: Path, out: Path, processes: int) -> Path:
    """Train in this many processes, started by `accelerate launch` where there are several."""
    out.mkdir()
    program = [str(HERE / "train_together.py"), str(scene), str(out)]
    command = [sys.executable, *program]
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        # --multi_gpu is what starts several processes; where no card is, they talk by gloo
        command = [
            sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu",
            "--num_processes", str(processes), "--num_machines", "1", "--mixed_precision", "no",
            "--dynamo_backend", "no", "--main_process_port", str(port), *program,
        ]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "WORLD_SIZE")}
    environment |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=out, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """Return the folders of the same training in one process and in two."""
    sys.path.insert(0, str(HERE / "gpu"))
    from exercise import write_scene

    folder = tmp_path_factory.mktemp("together")
    scene = write_scene(folder / "scene", "tiny")
    return train(scene, folder / "one", 1), train(scene, folder / "two", 2)


def rows(folder: Path, stage: str, split: str | None = None) -> list[dict]:
    """Return the rows of a stage's metrics without what a clock said."""
    found = read_jsonl(folder / stage / "metrics.jsonl")[0]
    return [
        {name: value for name, value in row.items() if not name.startswith(("seconds", "cache", "charged"))}
        for row in found
        if split is None or row["split"] == split
    ]


@pytest.mark.slow
def test_two_processes_fine_tune_as_one_with_the_same_batch(together):
    one, two = (rows(folder, "sft") for folder in together)
    assert len(one) == len(two) > 0 and one[0]["step"] == 1
    for alone, shared in zip(one, two, strict=True):
        assert shared["loss"] == pytest.approx(alone["loss"], abs=2e-4) and shared["step"] == alone["step"]
    assert one[0]["loss"] != one[-1]["loss"]
    assert_same_adapters(together, "sft/adapter")


@pytest.mark.slow
def test_two_processes_reinforce_as_one_with_the_same_batch(together):
    one, two = (rows(folder, "grpo", "train") for folder in together)
    assert [row["step"] for row in one] == [row["step"] for row in two] == [1, 2, 3]
    assert max(abs(row["loss"]) for row in one) > 1e-4 and max(row["reward_std"] for row in one) > 0.01
    for alone, shared in zip(one, two, strict=True):
        assert shared.keys() == alone.keys() and shared["steps"] == alone["steps"] == 16
        for name in ("reward", "validity", "share_edited", "groups", "unscored", "executions"):
            assert shared[name] == pytest.approx(alone[name], abs=1e-9), name
        for name in ("loss", "kl", "grad_norm", "reward_std"):
            assert shared[name] == pytest.approx(alone[name], rel=2e-3, abs=2e-5), name
    assert_same_adapters(together, "grpo/last")


@pytest.mark.slow
def test_only_one_process_writes_and_all_are_told(together):
    _, two = together
    held = rows(two, "grpo", "holdout")
    assert [row["step"] for row in held] == [0, 2, 3]
    told = [json.loads((two / f"told-{rank}.json").read_text()) for rank in (0, 1)]
    assert told[0]["grpo"] == told[1]["grpo"] and told[0]["grpo"]["steps"] == 3
    assert not (two / "grpo" / "checkpoints").exists() and (two / "grpo" / "adapter").is_dir()


def assert_same_adapters(folders, name: str) -> None:
    """Compare two adapters weight by weight; training must have moved them far more than they differ."""
    from safetensors.torch import load_file

    first, second = (load_file(folder / name / "adapter_model.safetensors") for folder in folders)
    start = load_file(folders[0].parent / "scene" / "adapter" / "adapter_model.safetensors")
    apart = max(float((first[key] - second[key]).abs().max()) for key in first)
    moved = max(float((first[key] - start[key]).abs().max()) for key in first)
    assert apart < 0.05 * moved, (apart, moved)
