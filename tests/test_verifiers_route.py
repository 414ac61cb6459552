"""verifiers plays a task through its own OpenEnv taskset: the rewards of the steps, summed.

verifiers 0.4 and openenv 0.10 ask for different versions of ``mcp``, so verifiers lives in an environment of
its own (``pip install 'verifiers[openenv]'``); the test is told where: MLAGENT_VERIFIERS_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from fake_openai import FakeOpenAI
from served import served
from tiny_task import final, make_tools, neighbours, write_task

from mlagent_lib.sockets.desk import Desk

PYTHON = os.environ.get("MLAGENT_VERIFIERS_PYTHON")
CONFIG = """
model = "fake"
push = false
output_dir = {out}

[env.taskset]
id = "openenv"
base_url = {url}
resets = [{{task = "tiny-homes", prompt = "full"}}]

[env.player.harness]
id = "null"

[env.player.runtime]
type = "subprocess"

[client]
base_url = {model}
api_key_var = "FAKE_KEY"
"""


@pytest.mark.skipif(PYTHON is None, reason="MLAGENT_VERIFIERS_PYTHON names no Python with verifiers[openenv]")
def test_verifiers_plays_a_task_and_sums_its_rewards(tmp_path):
    pytest.importorskip("openenv")
    task = write_task(tmp_path / "tasks")
    desk = Desk({task.name: task}, make_tools(tmp_path), form="v2")
    asked = []

    def says(messages):
        asked.append(messages)
        return (neighbours(8), neighbours(20), final())[len(asked) - 1]

    with served(desk) as url, FakeOpenAI(reply=says) as server:
        config = tmp_path / "eval.toml"
        words = {"out": str(tmp_path / "out"), "url": url, "model": server.base_url}
        config.write_text(CONFIG.format(**{name: json.dumps(word) for name, word in words.items()}))
        command = [str(Path(PYTHON).with_name("vf-eval")), "@", str(config), "--no-rich"]
        surroundings = os.environ | {"FAKE_KEY": "none", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, env=surroundings, cwd=tmp_path
        )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    [trace] = [line for path in (tmp_path / "out").rglob("traces.jsonl") for line in path.open()]
    rewards = json.loads(trace)["rewards"]
    assert rewards["openenv_reward"] == pytest.approx(0.8 - 0.3 + 0.0), told
    assert len(asked) == 3 and "Predict the price of a home." in json.dumps(asked[0])
