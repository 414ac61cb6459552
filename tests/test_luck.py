"""A gain that hangs on a seed vanishes with other seeds, a real one stays; and what a moved seed means."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from tiny_task import FakeRunner, make_tools, write_task

from mlagent_lib.core.errors import Unscored
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import RuleCoder
from mlagent_lib.environment.isolation import script_seeds
from mlagent_lib.environment.isolation.probe import probe
from mlagent_lib.environment.luck import Luck, luck_of
from mlagent_lib.environment.runner import Runner, RunRequest
from mlagent_lib.environment.step import Toolbox, start_state
from mlagent_lib.tasks.registry import find_task

isolated = pytest.mark.skipif(probe().chosen is None, reason="no isolation tier works on this machine")

DRAWS = """
import random
import numpy as np
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.utils import check_random_state
features = np.arange(200.0).reshape(50, 4) % 7
labels = np.arange(50) * 7 % 3
print(random.random(), random.Random(1).random(), random.Random("text").random())
print(np.random.rand(), np.random.RandomState(3).rand(), np.random.default_rng(3).random())
print(ExtraTreesClassifier(3, random_state=0).fit(features, labels).predict_proba(features[:5] + 0.4)[:, 0])
assert isinstance(np.random.mtrand._rand, np.random.RandomState)
assert isinstance(check_random_state(None), np.random.RandomState)
assert random.Random("text").random() == random.Random("text").random()
"""


def outputs(script, *numbers):
    with Runner(workers=1) as runner:
        made = [
            runner.run(RunRequest({"a.py": script.encode()}, None, "a.py", collect=(), reseed=number))
            for number in numbers
        ]
    assert [result.status for result in made] == ["ok"] * len(numbers), made
    return [result.output for result in made]


@isolated
def test_other_seeds_change_every_draw_and_the_same_number_gives_the_same_draws():
    own, again, first, same, second = outputs(DRAWS, 0, 0, 1, 1, 2)
    assert own == again and first == same
    assert len({own, first, second}) == 3
    for mine, moved in zip(own.split("\n"), first.split("\n"), strict=True):
        words = list(zip(mine.split(), moved.split(), strict=False))
        assert not words or any(a != b for a, b in words)
    # a seed that is no number keeps its meaning
    assert own.split("\n")[0].split()[2] == first.split("\n")[0].split()[2]


def test_a_moved_seed_stays_one_that_numpy_takes():
    assert script_seeds.shifted((1 << 32) - 1, 1) == 1_000_002
    assert script_seeds.shifted(True, 1) is True and script_seeds.shifted([1, 2], 1) == [1, 2]
    state = random.getstate()
    script_seeds.shift(0)
    assert random.getstate() == state


@pytest.mark.parametrize(
    ("claimed", "gains", "kept", "verdict"),
    [
        (0.10, (0.05, 0.05), 0.5, "survives"),
        (0.10, (0.04, 0.05), 0.45, "vanishes"),
        (0.10, (-0.2, 0.0), -1.0, "vanishes"),
        (0.0, (0.1, 0.1), None, "no gain"),
        (-0.1, (0.1, 0.1), None, "no gain"),
        (0.10, (None, 0.1), 1.0, "survives"),
        (0.10, (None, None, 0.1), 1.0, "fails"),
        (0.10, (None,), None, "fails"),
    ],
)
def test_the_verdict_follows_the_share_that_is_kept(claimed, gains, kept, verdict):
    luck = Luck(claimed, gains)
    assert luck.verdict == verdict
    assert luck.kept == (None if kept is None else pytest.approx(kept))


def test_both_scripts_run_with_the_same_seeds_and_each_experiment_once(tmp_path):
    task, runner = write_task(tmp_path / "tasks"), FakeRunner()
    tools = make_tools(tmp_path, runner)
    start = start_state(task, tools)
    script = start.files["train.py"].replace(b"n_neighbors=40", b"n_neighbors=12")
    better = replace(start.with_file("train.py", script), score=1.5)
    runner.requests.clear()
    (luck,) = luck_of([(start, better)], tools, seeds=3)
    # the mean absolute error falls from 5.0 to 1.5 whatever the seed: the fake runner knows no luck
    assert luck == Luck(3.5, (3.5, 3.5, 3.5))
    assert sorted(request.reseed for request in runner.requests) == [1, 1, 2, 2, 3, 3]
    runner.requests.clear()
    luck_of([(start, better)], tools, seeds=3)
    assert runner.requests == []


def test_our_failure_is_raised_and_never_a_verdict(tmp_path):
    task = write_task(tmp_path / "tasks")
    tools = make_tools(tmp_path, FakeRunner())
    start = start_state(task, tools)
    broken = make_tools(tmp_path / "other", FakeRunner(lambda request: Unscored("the disk is full")))
    broken.tasks[task.name] = task
    with pytest.raises(Unscored, match="the disk is full"):
        luck_of([(start, start)], broken)
    with pytest.raises(ValueError, match="at least 1"):
        luck_of([(start, start)], tools, seeds=0)
    with pytest.raises(ValueError, match="a score"):
        luck_of([(replace(start, score=None), start)], tools)


@isolated
def test_a_hacked_seed_is_reported_and_an_honest_edit_is_not(tmp_path):
    task = find_task("pocket-forests")
    with Runner(workers=2) as runner:
        tools = Toolbox(runner, RuleCoder(), ExecutionCache(tmp_path / "cache"), tasks={task.name: task})
        start = start_state(task, tools)
        source = start.files["train.py"].decode()
        head, tail = source.split("# model\n", 1)
        body = tail.split("\n\n", 1)[1]

        def scored(model):
            script = f"{head}# model\n{model}\n\n{body}"
            state = start.with_file("train.py", script.encode())
            return replace(state, score=tools.execute_many([(state, "train.py")])[0][0].score)

        # one shallow random tree: the score hangs on the seed, so take the worst and the best of many
        noisy = (
            "from sklearn.tree import ExtraTreeClassifier\n"
            "model = ExtraTreeClassifier(max_depth=3, random_state={})"
        )
        tried = sorted((scored(noisy.format(seed)) for seed in range(12)), key=lambda state: state.score)
        honest = scored(
            "from sklearn.ensemble import ExtraTreesClassifier\n"
            "model = ExtraTreesClassifier(200, random_state=0)"
        )
        hacked, real = luck_of([(tried[0], tried[-1]), (tried[0], honest)], tools, seeds=3)
    assert hacked.claimed > 0 and hacked.verdict == "vanishes"
    assert real.claimed > 0 and real.verdict == "survives"
