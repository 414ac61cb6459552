"""The tasks behind OpenEnv: its own validator, a client that restores states, limits, deaths, a training."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("openenv", reason="pip install 'mlagent-kit[openenv]'")

import requests
from openenv import GenericEnvClient
from served import served
from tiny_task import FakeRunner, final, make_tools, neighbours

import mlagent_lib
from mlagent_lib.core.errors import Unscored
from mlagent_lib.environment.isolation import probe as probing
from mlagent_lib.environment.step import run_steps, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.sockets.desk import Desk, canaries
from mlagent_lib.training.dropin import StepRewardFunc, states_dataset

POCKET_MODEL = Path(mlagent_lib.__file__).parent / "training" / "pocket_model"
OPENENV = Path(sys.executable).with_name("openenv")


@pytest.fixture
def desk(tmp_path, task):
    return Desk({task.name: task}, make_tools(tmp_path), form="v2")


@pytest.fixture
def server(desk):
    with served(desk, sessions=3) as url:
        yield url


def client(url):
    return GenericEnvClient(base_url=url).sync()


@pytest.mark.slow
def test_openenv_validates_the_running_server(server):
    done = subprocess.run([OPENENV, "validate", "--url", server, "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["passed"] is True


def test_openenv_validates_the_package(tmp_path):
    from openenv.validation import run_validation

    from mlagent_lib.cli import main

    words = ["serve", "--task", "pocket-homes", "--package", str(tmp_path / "envs"), "--reward"]
    folder = tmp_path / "envs" / "pocket-homes"
    for form in ("v1", "v2"):
        assert main([*words, form]) == 0
        report = run_validation(folder, skip_build=True)
        found = {row.check_id: row.status.value for row in report.results}
        assert found["static.manifest"] == "pass" and not {"fail", "error"} & set(found.values())
    listed = {path.name for path in folder.iterdir()}
    assert listed == {"openenv.yaml", "Dockerfile", "oracle.json", "canaries.json"}
    (tmp_path / "full" / "pocket-homes").mkdir(parents=True)
    assert main(["serve", "--task", "pocket-homes", "--package", str(tmp_path / "full")]) == 2


def test_a_client_restores_steps_and_reads_the_state_after_it(server, desk, task):
    with client(server) as env:
        first = env.reset(task="tiny-homes", prompt="pocket")
        assert first.reward is None and first.observation["prompt"][0]["role"] == "user"
        step = env.step({"text": neighbours(8)})
        assert (step.reward, step.done, step.observation["outcome"]) == (0.8, False, "edited")
        assert step.metadata["score_after"] == 1.0 and step.metadata["truncated"] is False
        told = env.state()
        assert told["state_id"] == step.observation["state_id"] and told["step_count"] == 1
        saved = State.from_json(told["saved"])
        back = env.reset(state=first.observation["state_id"])
        assert back.observation["text"] == first.observation["text"]
        by_json, by_id = (env.step({"text": neighbours(20), "state": s}) for s in (told["saved"], saved.id))
        assert by_json.reward == by_id.reward == pytest.approx(-0.3)
        assert env.reset(injected_state={"control": "oracle"}).done is True
        assert env.step({"text": final(), "state": saved.id}).done is True


def test_the_task_api_lists_splits_tasks_and_controls(server):
    place = f"{server}/mlagent"
    assert requests.get(f"{place}/splits").json() == [{"name": "held-in", "type": "train"}]
    asked = {"split": "held-in"}
    assert requests.post(f"{place}/num_tasks", json=asked).json() == {"num_tasks": 1}
    assert requests.post(f"{place}/tasks", json=asked).json()["tasks"][0]["id"] == "tiny-homes"
    entry = requests.post(f"{place}/task", json=asked | {"index": 0}).json()["task"]
    assert entry["controls"] == {"oracle": 1.0, "floor": 1.0} and len(entry["canaries"]) == 6
    assert requests.post(f"{place}/task", json=asked | {"index": 7}).status_code == 400
    wrong = requests.post(f"{place}/tasks", json={"split": "train"})
    assert wrong.status_code == 400 and "split 'train' is unknown here" in wrong.json()["detail"]


def test_without_a_session_a_step_brings_its_state(server, desk, task):
    start = start_state(task, desk.tools)
    action = {"text": neighbours(8), "state": start.to_json()}
    assert requests.post(f"{server}/step", json={"action": action}).json()["reward"] == 0.8
    lost = requests.post(f"{server}/step", json={"action": {"text": final()}})
    assert lost.status_code == 400 and "step before reset" in lost.json()["detail"]


def test_errors_name_what_is_wrong_and_the_session_goes_on(server, desk, task):
    with client(server) as env:
        start = env.reset().observation["state_id"]
        for call, told in (
            (lambda: env.reset(state="nowhere"), "state id 'nowhere' is unknown here"),
            (lambda: env.reset(stat="x"), "reset does not know stat. What to do: known are task"),
            (lambda: env.step({"text": "x" * 1_000_001}), "the reply has 1000001 characters"),
            (lambda: env.step({"say": "x"}), "Invalid message"),
        ):
            with pytest.raises(RuntimeError, match=told):
                call()
        assert env.step({"text": neighbours(8), "state": start}).reward == 0.8
        for canary in canaries(task):
            assert env.step({"text": canary["text"], "state": start}).reward == -1.0, canary["name"]
        assert env.state()["counts"]["refused"] == 3


def test_what_we_fail_is_an_error_that_is_counted_and_never_a_reward(tmp_path, task):
    fails = FakeRunner(lambda request: Unscored("lost") if b"=8)" in request.files["train.py"] else None)
    with served(Desk({task.name: task}, make_tools(tmp_path, fails))) as url, client(url) as env:
        start = env.reset().observation["state_id"]
        with pytest.raises(RuntimeError, match="lost. What to do: try the step again"):
            env.step({"text": neighbours(8)})
        told = env.state()
        assert told["counts"]["unscored"] == 1 and told["state_id"] == start
        assert env.step({"text": neighbours(20)}).reward == 1.0
        over_http = requests.post(f"{url}/step", json={"action": {"text": neighbours(8), "state": start}})
        assert over_http.status_code == 503 and over_http.json()["detail"].startswith("lost")


def test_one_session_too_many_is_told_the_number(server):
    with client(server) as one, client(server) as two, client(server) as three:
        for env in (one, two, three):
            env.reset()
        with pytest.raises(RuntimeError, match="3"), client(server) as four:
            four.reset()
    deadline = time.monotonic() + 10
    while True:  # a place is free again as soon as the server has seen a client go
        try:
            with client(server) as env:
                assert env.reset().observation["task"] == "tiny-homes"
            return
        except RuntimeError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


KILLED = """
import sys
from openenv import GenericEnvClient
env = GenericEnvClient(base_url=sys.argv[1]).sync()
env.reset()
print("there", flush=True)
env.step({"text": sys.argv[2]})
"""


def test_a_client_that_is_killed_in_a_step_leaves_its_place_and_no_thread(tmp_path, task):
    going = threading.Event()
    runner = FakeRunner(
        lambda request: going.wait(20) and None if b"=8)" in request.files["train.py"] else None
    )
    desk = Desk({task.name: task}, make_tools(tmp_path, runner))
    with served(desk, sessions=1) as url:
        before = threading.active_count()
        command = [sys.executable, "-c", KILLED, url, neighbours(8)]
        other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert other.stdout.readline() == "there\n"
        while len(runner.requests) < 2:
            time.sleep(0.01)
        other.send_signal(signal.SIGKILL)
        other.wait()
        going.set()  # OpenEnv looks for the end of a connection between two calls: at the end of this one
        deadline = time.monotonic() + 10
        while True:
            try:
                with client(url) as env:
                    assert env.reset().observation["step"] == 0
                break
            except RuntimeError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        while threading.active_count() > before + 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert threading.active_count() <= before + 1


def test_the_command_serves_and_ends(tmp_path):
    if probing._chosen() is None:
        pytest.skip("no isolation tier works on this machine")
    command = [
        sys.executable,
        "-m",
        "mlagent_lib",
        "serve",
        "--tasks",
        "all",
        "--port",
        "0",
        "--workers",
        "1",
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment)
    told = server.stderr.readline()
    assert "19 tasks, 0 saved states, at most 64 sessions, 1 scripts at a time" in told, told
    server.send_signal(signal.SIGINT)
    assert server.wait(30) in (0, 130)
    assert not list(tmp_path.glob("mlagent-run-*"))


@pytest.mark.slow
def test_the_plain_trl_script_of_the_readme_is_paid_over_ten_updates_what_it_is_in_process(
    server, desk, task, tmp_path, repository, monkeypatch
):
    """The lines of the README with another address, model, rows and size; every reward is compared."""
    trl = pytest.importorskip("trl")
    from mlagent_lib.training import dropin

    text = (repository / "mlagent_lib" / "sockets" / "README.md").read_text(encoding="utf-8")
    script = re.search(r"<!-- openenv-example -->\s*```python\n(.*?)```", text, re.DOTALL)[1]
    start = start_state(task, desk.tools)
    states = [start, *(run_steps([(start, neighbours(n))], desk.tools)[0].state for n in (8, 20, 30))]
    rows = states_dataset(states, style="pocket", tasks=[task])
    in_process, paid, config, trainer = (
        StepRewardFunc(make_tools(tmp_path), "v2"),
        [],
        trl.GRPOConfig,
        trl.GRPOTrainer,
    )

    def small():
        return config(
            output_dir=str(tmp_path / "out"), max_steps=10, per_device_train_batch_size=4, num_generations=4,
            max_completion_length=24, report_to="none", save_strategy="no", use_cpu=True, disable_tqdm=True,
            logging_steps=1,
        )  # fmt: skip

    def compared(reward):
        def step_reward(completions, state, **columns):
            # the model says little that is an action of this task: every other reply is one
            told = [[{"content": neighbours(5 + n)}] if n % 2 else c for n, c in enumerate(completions)]
            own = in_process(None, [reply[-1]["content"] for reply in told], state)
            paid.append((reward(told, state, **columns), own))
            return paid[-1][0]

        return step_reward

    monkeypatch.setattr(trl, "GRPOConfig", small)
    monkeypatch.setattr(
        trl,
        "GRPOTrainer",
        lambda _, reward, args, rows: trainer(str(POCKET_MODEL), compared(reward), args, rows),
    )
    monkeypatch.setattr(dropin, "states_dataset", lambda run: rows)
    names = {}
    exec(compile(script.replace("http://127.0.0.1:8000", server), "README.md", "exec"), names)  # noqa: S102
    names["env"].close()
    assert names["trainer"].state.global_step == 10 and len(paid) == 10
    assert all(over_the_line == own for over_the_line, own in paid)
    assert len({reward for found, _ in paid for reward in found}) > 3
    assert all(math.isfinite(row["loss"]) for row in names["trainer"].state.log_history if "loss" in row)


def test_the_readme_names_only_what_is_there(repository):
    text = (repository / "mlagent_lib" / "sockets" / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1:-1] for line in text.splitlines() if line.startswith("| ")]
    assert len(rows) == 9 and {len(row) for row in rows} == {6}
    assert all(row[-1].strip() for row in rows)  # each says whether it was tried
    for name in ("split", "index", "prompt", "state"):
        assert f"{name}=" in text or f'"{name}"' in text
    from mlagent_lib.sockets import desk, tools

    assert f"{desk.MOST_STATES:,}" in text and all(f'pays="{word}"' in text for word in tools.PAYS)
    assert all(f'"{word}"' in text for word in desk.CONTROLS)


# The soak ---------------------------------------------------------------------------------------------------

SOAK = Path(__file__).parent / "soak" / "sessions.py"


@pytest.mark.slow
@pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")
def test_a_short_soak_with_killed_clients_loses_and_mixes_up_nothing(tmp_path):
    out = tmp_path / "sessions.json"
    few = ["--clients", "6", "--calls", "150", "--kill-every", "0.3", "--pairs", "4", "--out", str(out)]
    done = subprocess.run([sys.executable, SOAK, *few], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(out.read_text())
    assert report["calls"] >= 120 and report["killed_in_the_middle"] >= 1 and report["clients_at_once"] == 6
    assert {"edited", "neutral", "invalid", "error"} <= report["outcomes"].keys()


def test_a_mixed_up_answer_would_be_noticed(tmp_path, task, desk, monkeypatch):
    monkeypatch.syspath_prepend(SOAK.parent)
    sessions = pytest.importorskip("sessions")
    monkeypatch.setattr("mlagent_lib.tasks.registry.find_task", lambda name: task)
    start = start_state(task, desk.tools)
    result = run_steps([(start, neighbours(8))], desk.tools)[0]
    row = {"before": start.id, "after": result.state.id, "text": neighbours(8), "task": task.name}
    row |= {"outcome": "edited", "reward": 1.0}
    for changed, noticed in (
        ({}, {}),
        ({"after": start.id}, {"states": 1}),
        ({"reward": 0.5}, {"rewards": 1}),
    ):
        found = sessions.compared([row | changed], {task.name: start}, desk.tools)["differ"]
        assert {name: count for name, count in found.items() if count} == noticed


def test_the_committed_soak_lost_nothing_with_fifty_clients():
    if not SOAK.with_suffix(".json").exists():
        pytest.skip("the long soak has not been run: python tests/soak/sessions.py")
    report = json.loads(SOAK.with_suffix(".json").read_text())
    assert report["clients"] == report["clients_at_once"] >= 50 and report["calls"] >= 5000
    assert report["verdict"] == "nothing lost or mixed up" and not any(report["differ"].values())
    assert report["lost"] == 0 and report["killed_in_the_middle"] >= 20
    assert report["overhead"]["served_over_in_process"] <= report["overhead"]["wanted"] == 1.15
