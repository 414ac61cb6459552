"""The tasks by their Gymnasium names: Gymnasium's own checker, vector environments, what closing frees."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from dataclasses import replace

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from tiny_task import CARD, edit, final, make_tools, neighbours, write_task

import mlagent_lib.gym  # noqa: F401  registers the names
from mlagent_lib.agents import toolbox as toolboxes
from mlagent_lib.core.errors import EndpointError, IsolationError, MlagentError, TaskError
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.gym import TaskEnvironment, register_folder
from mlagent_lib.tasks.registry import list_tasks


@pytest.fixture
def fake(monkeypatch, tmp_path):
    """Let scripts be answered by the fake runner; return the runners that were made, closed ones marked."""
    made = []

    class Runner:
        def __init__(self, workers, tier, *, allow_unsafe):
            self.closed, self.settings = False, (workers, tier, allow_unsafe)
            self._real = make_tools(tmp_path).runner
            made.append(self)

        def __getattr__(self, name):
            return getattr(self._real, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.closed = True

    monkeypatch.setattr(toolboxes, "Runner", Runner)
    return made


@pytest.fixture
def name(tmp_path):
    return register_folder(write_task(tmp_path / "tasks").folder)


def test_every_pocket_task_has_a_name():
    names = [spec.name for spec in gymnasium.registry.values() if spec.namespace == "mlagent"]
    assert set(list_tasks()) <= set(names)


def test_the_name_alone_loads_the_module(repository):
    code = "import gymnasium; gymnasium.make('mlagent_lib.gym:mlagent/pocket-home-v0')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(repository)},
    )  # fmt: skip
    assert "NameNotFound" in done.stderr and "Did you mean: `pocket-homes`" in done.stderr


def test_gymnasiums_checker_has_nothing_to_say_of_an_environment_made_by_name(name, fake):
    env = gymnasium.make(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    assert len(fake) == 1 and not fake[0].closed  # the checker's own environments shared it
    env.close()
    env.close()
    assert fake[0].closed


def test_gymnasiums_checker_on_a_pocket_task_with_real_scripts():
    env = gymnasium.make("mlagent/pocket-forests-v0", max_steps=2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            check_env(env.unwrapped)
        seen = []
        for _ in range(2):
            env.reset(seed=3)
            observation, reward, *ends, info = env.step(edit("Use 3 nearest neighbours."))
            seen.append((observation, reward, ends, info["result"].outcome))
        assert seen[0] == seen[1] and seen[0][3] is Outcome.EDITED
        assert 0.0 < seen[0][1] < 1.0 and seen[0][2] == [False, False]
    finally:
        env.close()


def test_an_episode_pays_as_the_formula_says(name, fake):
    env = gymnasium.make(name, reward="v2", max_steps=2)
    observation, _ = env.reset(seed=0)
    assert observation == "Predict the price of a home."
    assert env.step(neighbours(20))[1:4] == (0.5, False, False)  # 5.0 -> 2.5 of 5.0 to gain
    assert env.step("nonsense")[1:4] == (-1.0, False, True)
    env.reset()
    assert env.step(final())[1:4] == (0.0, True, False)
    env.close()
    assert gymnasium.make(name).unwrapped._reward.keywords == {"form": "v1"}
    unpaid = gymnasium.make(name, reward=None)
    unpaid.reset()
    assert unpaid.step(neighbours(20))[1] == 0.0


def test_two_in_one_vector_environment_share_a_runner(name, fake):
    envs = gymnasium.make_vec(name, num_envs=2, reward="v2")
    observations, infos = envs.reset(seed=[1, 2])
    assert observations == ("Predict the price of a home.",) * 2
    assert [state.score for state in infos["state"]] == [5.0, 5.0]
    observations, rewards, terminated, truncated, infos = envs.step((neighbours(20), "nonsense"))
    assert rewards.tolist() == [0.5, -1.0] and not terminated.any() and not truncated.any()
    assert [result.outcome.value for result in infos["result"]] == ["edited", "invalid"]
    assert all(isinstance(text, str) for text in envs.action_space.sample())
    assert len(fake) == 1
    envs.close()
    assert fake[0].closed and not toolboxes._shared


def test_async_without_shared_memory_gives_the_texts_that_sync_gives(name, fake):
    texts = [neighbours(20), "x" * 5000 + "\u00e9\n"]
    seen = []
    for mode, extra in (("sync", {}), ("async", {"shared_memory": False, "context": "fork"})):
        envs = gymnasium.make_vec(
            name, num_envs=2, vectorization_mode=mode, vector_kwargs=extra, reward="v2", max_steps=1
        )
        first = envs.reset(seed=[1, 2])[0]
        (now, rewards, _, truncated, infos), again = envs.step(texts), envs.step(texts)[0]
        outcomes = [result.outcome for result in infos["result"]]
        seen.append((first, now, rewards.tolist(), truncated.tolist(), outcomes, again))
        envs.close()
    assert seen[0] == seen[1]
    first, now, rewards, truncated, outcomes, again = seen[1]
    assert first == again == ("Predict the price of a home.",) * 2  # the last step began anew
    assert rewards == [0.5, -1.0] and truncated == [True, True] and all(now)
    assert outcomes == [Outcome.EDITED, Outcome.INVALID]


@pytest.mark.parametrize("wrap", [lambda env: env, lambda env: gymnasium.wrappers.TimeLimit(env, 3)])
def test_async_with_shared_memory_is_refused_before_it_would_show_wrong_texts(name, fake, wrap):
    with pytest.raises(MlagentError, match="for which there is no shared memory.*shared_memory=False"):
        gymnasium.make_vec(name, num_envs=2, vectorization_mode="async", wrappers=[wrap])
    assert all(runner.closed for runner in fake) and not toolboxes._shared


def test_an_error_in_another_process_keeps_its_words(name, fake):
    one = gymnasium.make(name)
    one.reset()
    other = replace(one.unwrapped.snapshot(), task="pocket-forests")
    one.close()
    envs = gymnasium.make_vec(
        name, num_envs=1, vectorization_mode="async",
        vector_kwargs={"shared_memory": False, "context": "fork"},
    )  # fmt: skip
    with warnings.catch_warnings(), pytest.raises(MlagentError) as raised:
        warnings.simplefilter("ignore")  # Gymnasium tells the traceback of the process as a warning
        envs.reset(options={"state": other})
    assert "belongs to task 'pocket-forests'" in str(raised.value) and "What to do: restore" in str(
        raised.value
    )
    envs.close(terminate=True)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_each_way_of_beginning_anew_keeps_whole_texts(name, fake, mode):
    envs = gymnasium.make_vec(name, num_envs=1, max_steps=1, vector_kwargs={"autoreset_mode": mode})
    (start,), _ = envs.reset()
    (seen,), _, _, truncated, infos = envs.step(("nonsense " * 100,))
    last = infos["final_obs"][0] if mode == "SameStep" else seen
    assert truncated.tolist() == [True] and "invalid" in last.lower() and last != start
    assert (seen == start) == (mode == "SameStep")
    envs.close()


def test_other_settings_have_a_runner_of_their_own(name, fake, tmp_path):
    first = gymnasium.make(name)
    second = gymnasium.make(name, cache=str(tmp_path / "kept"), tier="T2")
    assert [runner.settings for runner in fake] == [(1, "auto", False), (1, "T2", False)]
    second.reset()
    second.close()
    assert [runner.closed for runner in fake] == [False, True]
    assert list((tmp_path / "kept").rglob("*.json"))  # results of a named folder stay
    folder = first.unwrapped.tools.cache.folder
    assert folder.is_dir()
    first.close()
    assert not folder.exists()  # those of a temporary one do not


def test_two_tasks_of_one_name_do_not_mix_in_a_shared_runner(fake, tmp_path):
    folders = [write_task(tmp_path / place).folder for place in "ab"]
    (folders[1] / "env" / "data" / "train.csv").write_text("a,b,target\n7,7,10\n")
    first, second = (TaskEnvironment(folder, reward="v2") for folder in folders)
    first.reset(), second.reset()
    assert len(fake) == 1 and first.task.digest != second.task.digest
    assert first.step(neighbours(20))[1] == second.step(neighbours(20))[1] == 0.5
    first.close(), second.close()


def test_a_forked_process_gets_servers_of_its_own(name, fake, monkeypatch):
    env = gymnasium.make(name)
    monkeypatch.setattr(toolboxes.os, "getpid", lambda: -1)  # as in a process of AsyncVectorEnv
    other = gymnasium.make(name)
    assert len(fake) == 2
    other.close()
    assert [runner.closed for runner in fake] == [False, True]
    env.close()


def test_an_environment_that_is_forgotten_frees_the_runner(name, fake):
    env = TaskEnvironment(gymnasium.spec(name).kwargs["task"])
    assert not fake[0].closed
    del env
    assert fake[0].closed


def test_a_closed_environment_says_so(name, fake):
    env = gymnasium.make(name)
    env.reset()
    env.close()
    with pytest.raises(MlagentError, match="reset\\(\\) of a closed environment.*gymnasium.make"):
        env.reset()
    with pytest.raises(MlagentError, match="before reset"):
        env.unwrapped.step("x")


def test_an_unknown_name_is_answered_with_the_closest():
    with pytest.raises(gymnasium.error.NameNotFound, match="Did you mean: `pocket-homes`"):
        gymnasium.make("mlagent/pocket-home-v0")
    with pytest.raises(gymnasium.error.VersionNotFound, match="v7"):
        gymnasium.make("mlagent/pocket-homes-v7")
    with pytest.raises(TaskError, match="no task named 'pocket-home'"):
        TaskEnvironment("pocket-home")


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"reward": "v9"}, MlagentError, "reward form 'v9' is unknown. What to do: choose None or one of v1"),
        ({"tier": "T9"}, IsolationError, "isolation tier 'T9' is unknown"),
        ({"coder": "rule"}, EndpointError, "'rule' is not the name of an endpoint"),
    ],
)
def test_wrong_settings_are_named(name, options, kind, words):
    with pytest.raises(kind, match=re.escape(words)):
        gymnasium.make(name, **options)
    assert not toolboxes._shared  # nothing is left open


def test_a_folder_that_cannot_pay_or_be_named(tmp_path):
    foreign = write_task(tmp_path / "a").folder
    (foreign / "task.yaml").unlink()
    with pytest.raises(TaskError, match="has no task.yaml"):
        register_folder(foreign)
    odd = write_task(tmp_path / "b", card=CARD.replace("tiny-homes", "tiny homes")).folder
    with pytest.raises(TaskError, match="'tiny homes' of .* cannot be part of a Gymnasium name"):
        register_folder(odd)


def test_a_task_without_scores_has_no_reward(tmp_path, fake, monkeypatch):
    task = replace(write_task(tmp_path / "a"), best={})
    monkeypatch.setattr(mlagent_lib.gym, "find_task", lambda _: task)
    with pytest.raises(TaskError, match="no best score, so that a step has no reward.* reward=None"):
        TaskEnvironment("a")
    env = TaskEnvironment("a", reward=None)
    env.reset()
    assert env.step(neighbours(20))[1] == 0.0
