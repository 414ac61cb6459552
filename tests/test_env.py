"""The environment keeps Gymnasium's conventions, and its states can be restored and forked."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace

import pytest
from gymnasium.utils.env_checker import check_env
from tiny_task import FakeRunner, final, make_tools, neighbours, write_task

from mlagent_lib.core.errors import MlagentError, Unscored
from mlagent_lib.environment.env import MAX_STEPS, Environment
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.workspace import State
from mlagent_lib.reward import step_reward


@pytest.fixture
def env(task, tmp_path):
    return Environment(task, make_tools(tmp_path), max_steps=4)


def reward_v2(result, task):
    return step_reward(
        result.outcome, before=result.score_before, after=result.score_after, init=task.baseline["feedback"],
        best=task.best["feedback"], form="v2",
    )  # fmt: skip


def test_gymnasiums_own_checker_has_nothing_to_say(env):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*Not able to test alternative render modes.*")
        check_env(env)


def test_an_episode_step_by_step(task, tmp_path):
    env = Environment(task, make_tools(tmp_path), max_steps=4, reward=reward_v2)
    observation, info = env.reset(seed=0)
    assert observation == "Predict the price of a home." and info["result"] is None
    assert info["state"].score == 5.0
    observation, reward, terminated, truncated, info = env.step(neighbours(20))
    assert observation.endswith("validation mae: 2.500\n") and info["result"].outcome is Outcome.EDITED
    assert (reward, terminated, truncated) == (0.5, False, False)
    assert env.step("nonsense")[1:4] == (-1.0, False, False)
    assert env.step(neighbours(40))[1:4] == (-0.5, False, False)
    assert env.step(neighbours(8))[1:4] == (0.8, False, True)  # the fourth of four steps


def test_a_final_answer_terminates_and_by_default_no_reward_is_known(env):
    env.reset()
    assert env.step(neighbours(8))[1] == 0.0
    assert env.step(final())[2:4] == (True, False)


def test_fifteen_steps_as_in_the_paper(task, tmp_path):
    assert Environment(task, make_tools(tmp_path)).max_steps == MAX_STEPS == 15


def test_any_text_is_an_action_and_an_observation(env):
    for text in ("", "é\n…", "x" * 30_000):
        assert env.action_space.contains(text) and env.observation_space.contains(text)
    assert not env.action_space.contains(3)
    assert isinstance(env.action_space.sample(), str)


def test_a_state_is_restored_in_another_environment(env, task, tmp_path):
    env.reset()
    env.step(neighbours(8))
    state = State.from_json(json.loads(json.dumps(env.snapshot().to_json())))
    other = Environment(task, make_tools(tmp_path / "other", home=tmp_path / "tasks"), max_steps=4)
    observation, info = other.reset(options={"state": state})
    assert observation.endswith("validation mae: 1.000\n") and info["state"] == env.snapshot()
    assert other.step(neighbours(16))[0] == env.step(neighbours(16))[0]
    assert other.snapshot() == env.snapshot()
    start, _ = other.reset(options={"state": replace(state, history=())})
    assert start == "Predict the price of a home."


def test_snapshots_and_forks_are_independent(env):
    env.reset()
    before = env.snapshot()
    first, second = env.fork(2)
    first.step(neighbours(8))
    env.step("nonsense")
    assert (first.snapshot().score, second.snapshot(), env.snapshot().score) == (1.0, before, 5.0)
    assert second.step(neighbours(8))[0] == first.snapshot().history[-1].observation
    assert before.history == () and len(env.snapshot().history) == 1
    assert first.max_steps == 4


def test_a_state_of_another_task_or_of_other_data_is_refused(env):
    env.reset()
    for change in ({"task": "other"}, {"task_digest": "0" * 64}):
        with pytest.raises(MlagentError, match="belongs to task"):
            env.restore(replace(env.snapshot(), **change))


def test_before_reset_there_is_nothing_to_step_from(env):
    for use in (env.snapshot, lambda: env.step("x")):
        with pytest.raises(MlagentError, match=r"before reset\(\)"):
            use()


@pytest.mark.parametrize("reply", [3, None, b"Action: List Files"])
def test_an_action_is_a_text(env, reply):
    env.reset()
    with pytest.raises(MlagentError, match=f"an action is a text, not a {type(reply).__name__}"):
        env.step(reply)


def test_our_failure_is_raised_and_the_step_can_be_tried_again(task, tmp_path):
    broken = [Unscored("no memory")]
    tools = make_tools(
        tmp_path, FakeRunner(lambda request: broken[0] if b"=8)" in request.files["train.py"] else None)
    )
    env = Environment(task, tools)
    env.reset()
    before = env.snapshot()
    with pytest.raises(Unscored, match="no memory"):
        env.step(neighbours(8))
    assert env.snapshot() is before
    broken[0] = None
    assert env.step(neighbours(8))[4]["state"].score == 1.0


def test_a_task_that_is_in_no_home_folder_can_be_used(tmp_path):
    task = write_task(tmp_path / "somewhere")
    env = Environment(task, make_tools(tmp_path, home=tmp_path / "nowhere"))
    env.reset()
    assert env.step(neighbours(8))[4]["state"].score == 1.0
