"""States and rewards for a plain TRL trainer: the data set, the reward function, and the README's script."""

from __future__ import annotations

import json
import math
import re

import pytest
from tiny_task import FakeRunner, final, make_tools, neighbours

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.agents.toolbox import toolbox
from mlagent_lib.core.artifacts import Stage
from mlagent_lib.core.errors import EndpointError, RunError, TaskError, Unscored
from mlagent_lib.core.files import append_jsonl
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.environment.step import run_steps, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.training.dropin import StepRewardFunc, states_dataset, step_reward_func


@pytest.fixture
def tools(tmp_path, task):
    return make_tools(tmp_path)


@pytest.fixture
def states(task, tools):
    start = start_state(task, tools)
    return [start, run_steps([(start, neighbours(20))], tools)[0].state]


def write_run(folder, rows):
    """Write the finished collection of a run."""
    stage = Stage(
        folder, "01_collection", params={"profile": "smoke", "seed": 0}, profile=get_profile("smoke")
    )
    with stage:
        for row in rows:
            append_jsonl(stage.path("trajectories.jsonl"), row)
    return folder


class Says:
    name = "says"

    def act(self, turns):
        return [(neighbours(30 + int(turn.name[-1])), final())[turn.state.step] for turn in turns]


def texts(*replies):
    return [[{"role": "assistant", "content": reply}] for reply in replies]


# The data set -----------------------------------------------------------------------------------------------


def test_a_row_holds_prompt_and_the_whole_state(states, task):
    pytest.importorskip("datasets")
    rows = states_dataset([states[0], states[0], *states[1:]], style="pocket", max_steps=4, tasks=[task])
    assert len(rows) == 2 and rows.column_names == ["prompt", "state", "state_id", "task"]
    for row, state in zip(rows, states, strict=True):
        assert State.from_json(json.loads(row["state"])) == state and row["state_id"] == state.id
        assert row["prompt"] == Prompter("pocket", 4).messages(state, task)
    assert len(states_dataset(states, limit=1, tasks=[task])) == 1
    assert states_dataset(states[:1], tasks=[task])[0]["prompt"] == Prompter("full", 15).messages(
        states[0], task
    )


def test_of_a_run_the_states_that_it_trains_on(task, tools, tmp_path):
    pytest.importorskip("datasets")
    rows = run_trajectories([Job(task, "expert", k, 0) for k in range(5)], Says(), tools, max_steps=2)
    run = write_run(tmp_path / "runs" / "smoke-seed0", rows)
    edits = states_dataset(run, tasks=[task])
    assert len(edits) == 1  # all edits start from the starter
    assert edits[0]["prompt"][0]["content"].endswith("Step 1 of 2.")  # style and length are the run's
    everything = states_dataset(run, action=None, tasks=[task])
    assert len(everything) == 4  # the starter, and one state of each of the three trajectories of *train*
    whole = states_dataset(run / "01_collection" / "trajectories.jsonl", action=None, tasks=[task])
    assert len(whole) == 6 and whole[0]["prompt"][0]["role"] == "system"


def test_what_is_missing_is_named(states, task, tmp_path):
    with pytest.raises(RunError, match="01_collection cannot be used: not finished"):
        states_dataset(tmp_path, tasks=[task])
    with pytest.raises(RunError, match=r"no state is left to train on.*action=None"):
        states_dataset([], tasks=[task])
    with pytest.raises(TaskError, match="no task named 'tiny-homes'"):
        states_dataset(states)


# The reward function ----------------------------------------------------------------------------------------


def test_rewards_by_hand_each_from_its_own_state(states, tools):
    reward = StepRewardFunc(tools, "v2")
    column = [json.dumps(state.to_json()) for state in (states[0], states[1], states[0], states[1])]
    replies = (neighbours(8), neighbours(8), "nonsense", final())
    logged = {}
    found = reward(
        prompts=[""] * 4, completions=texts(*replies), state=column, state_id=["-"] * 4, task=["-"] * 4,
        completion_ids=[[0]] * 4, trainer_state=None, log_extra=None, log_metric=logged.__setitem__,
    )  # fmt: skip
    assert found == [0.8, pytest.approx(0.3), -1.0, 0.0]  # 5.0 -> 1.0 and 2.5 -> 1.0, of 5.0 to gain
    assert logged == {"step/validity": 0.75, "step/share_edited": 0.5, "step/unscored": 0.0}
    assert reward(prompts=[""], completions=[replies[0]], state=column[:1]) == [0.8]  # plain text


def test_what_we_fail_has_no_reward_and_a_batch_of_it_stops_the_training(states, task, tmp_path):
    def answer(request):
        return Unscored("lost") if b"n_neighbors=8)" in request.files["train.py"] else None

    reward = StepRewardFunc(make_tools(tmp_path, FakeRunner(answer)), "v2")
    column = [json.dumps(states[0].to_json())] * 2
    assert reward(None, texts(neighbours(8), neighbours(20)), column) == [None, 0.5]
    with pytest.raises(Unscored, match="none of the 2 actions of a step could be scored: lost"):
        reward(None, texts(neighbours(8), neighbours(8)), column)


def test_wrong_settings_are_named(tmp_path):
    with pytest.raises(RunError, match="reward form 'v9' is unknown. What to do: choose one of v1"):
        step_reward_func(form="v9")
    with pytest.raises(EndpointError, match="'rule' is not the name of an endpoint"):
        step_reward_func(coder="rule")


# The script of the README -----------------------------------------------------------------------------------


def script_of(readme):
    found = re.search(r"<!-- trl-example -->\s*```python\n(.*?)```", readme, re.DOTALL)
    return found[1] if found else None


@pytest.mark.slow
def test_the_script_of_the_readme_trains(repository, tmp_path, monkeypatch):
    """The very lines of the README, with the numbers of the configuration made small."""
    trl = pytest.importorskip("trl")
    script = script_of((repository / "mlagent_lib" / "training" / "README.md").read_text(encoding="utf-8"))
    assert script and len([line for line in script.splitlines() if line.strip()]) <= 12
    task = find_task("pocket-forests")
    with toolbox() as tools:
        jobs = [Job(task, "expert", index, 0) for index in range(3)]
        rows = run_trajectories(jobs, Says(), tools, max_steps=1)
    write_run(tmp_path / "runs" / "laptop-seed0", rows)

    real = trl.GRPOConfig
    small = {"max_steps": 1, "per_device_train_batch_size": 4, "num_generations": 4, "logging_steps": 1}
    small |= {"report_to": "none", "save_strategy": "no", "use_cpu": True, "disable_tqdm": True}
    monkeypatch.setattr(trl, "GRPOConfig", lambda *words, **named: real(*words, **(named | small)))
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(script, "README.md", "exec"), names)  # noqa: S102
    trainer = names["trainer"]
    row = trainer.state.log_history[0]
    assert trainer.state.global_step == 1 and math.isfinite(
        row["loss"] if "loss" in row else row["train_loss"]
    )
    assert 0.0 <= row["rewards/step_reward/mean"] <= 1.0
    assert 0.0 <= row["step/validity"] <= 1.0 and row["step/unscored"] == 0.0
    trainer.reward_funcs[0].close()

    # what `StepRewardFunc` relies on: a reward of None is left out of the baseline and gets no advantage
    trainer.reward_funcs[0] = lambda completions, **columns: [None, 1.0, 0.0, None]
    outputs = trainer._generate_and_score_completions([trainer.train_dataset[0]] * 4)
    assert outputs["advantages"].tolist() == pytest.approx([0.0, 0.7071, -0.7071, 0.0], abs=3e-4)
