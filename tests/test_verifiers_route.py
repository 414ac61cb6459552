"""verifiers plays a task through its own OpenEnv taskset: the rewards of the steps, summed.

verifiers 0.4 and openenv 0.10 ask for different versions of ``mcp``, so verifiers lives in an environment of
its own (``pip install 'verifiers[openenv]'``); the test is told where: MLAGENT_VERIFIERS_PYTHON.
"""

from __future__ import annotations

import json
import os
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
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


class Streams(BaseHTTPRequestHandler):
    """A model that says what it is told to, as the stream that verifiers asks for."""

    replies, asked = (neighbours(8), neighbours(20), final()), []

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body["messages"])
        told = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "fake"}
        first = {"role": "assistant", "content": self.replies[len(self.asked) - 1]}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for delta, reason in ((first, None), ({}, "stop")):
            chunk = told | {"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        last = told | {"choices": [], "usage": usage}
        self.wfile.write(f"data: {json.dumps(last)}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def model():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Streams)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


@pytest.mark.skipif(PYTHON is None, reason="MLAGENT_VERIFIERS_PYTHON names no Python with verifiers[openenv]")
def test_verifiers_plays_a_task_and_sums_its_rewards(tmp_path, model):
    pytest.importorskip("openenv")
    task = write_task(tmp_path / "tasks")
    desk = Desk({task.name: task}, make_tools(tmp_path), form="v2")
    with served(desk) as url:
        config = tmp_path / "eval.toml"
        words = {"out": str(tmp_path / "out"), "url": url, "model": model}
        config.write_text(CONFIG.format(**{name: json.dumps(word) for name, word in words.items()}))
        command = [str(Path(PYTHON).with_name("vf-eval")), "@", str(config), "--no-rich"]
        surroundings = os.environ | {"FAKE_KEY": "none", "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=300, env=surroundings, cwd=tmp_path
        )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told
    [trace] = [line for path in (tmp_path / "out").rglob("traces.jsonl") for line in path.open()]
    [played] = json.loads(trace)["traces"]
    assert played["rewards"]["openenv_reward"]["score"] == pytest.approx(0.8 - 0.3 + 0.0), told
    assert played["ok"] and len(Streams.asked) == 3
    assert "Predict the price of a home." in json.dumps(Streams.asked[0])
