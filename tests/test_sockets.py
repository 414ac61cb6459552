"""What is served, without a transport: saved states, splits, controls, and errors that name what is wrong."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from tiny_task import FakeRunner, final, make_tools, neighbours, write_task

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.errors import MlagentError, RunError, TaskError, Unscored
from mlagent_lib.environment.actions import MAX_REPLY_CHARS
from mlagent_lib.environment.step import run_steps, start_state
from mlagent_lib.sockets import desk as desks
from mlagent_lib.sockets.desk import Desk, DeskSession, canaries, control
from mlagent_lib.tasks.registry import find_task


@pytest.fixture
def desk(tmp_path, task):
    return Desk({task.name: task}, make_tools(tmp_path), form="v2", max_steps=3)


def test_a_session_steps_from_any_saved_state(desk, task):
    session = DeskSession(desk)
    first = session.reset(task=task.name)
    assert first.text == "Predict the price of a home." and first.reward is None and not first.ended
    better = session.step(neighbours(8))
    assert (better.reward, better.outcome, better.state.step) == (0.8, "edited", 1)  # 5.0 -> 1.0 of 5.0
    again = session.step(neighbours(20), state=first.state_id)
    assert again.reward == 0.5 and again.state.step == 1
    third = DeskSession(desk).step(neighbours(20), state=better.state_id)  # of another session, by id
    assert third.reward == pytest.approx(-0.3)  # 1.0 -> 2.5 of 5.0
    fourth = DeskSession(desk).step(neighbours(20), state=json.dumps(better.state.to_json()))
    assert fourth.state == third.state and fourth.state_id == third.state_id
    expected = run_steps([(better.state, neighbours(20))], desk.tools)[0]
    assert third.state == expected.state and third.text == expected.observation
    assert desk.counts == {"resets": 1, "steps": 4}


def test_a_trajectory_ends_by_its_answer_or_its_length(desk):
    session = DeskSession(desk)
    session.reset()
    assert session.step(final()).ended
    with pytest.raises(MlagentError, match="the trajectory is over. What to do: call reset"):
        session.step(final())
    session.reset()
    assert [session.step("nonsense").ended for _ in range(3)] == [False, False, True]


def test_the_prompt_is_told_where_it_is_asked_for(desk, task):
    told = DeskSession(desk).reset(prompt="pocket")
    assert list(told.prompt) == Prompter("pocket", 3).messages(told.state, task)
    with pytest.raises(MlagentError, match="prompt style 'poket' is unknown"):
        DeskSession(desk).reset(prompt="poket")


def test_a_long_reply_is_the_policys_up_to_what_a_message_may_hold(desk):
    session = DeskSession(desk)
    session.reset()
    told = session.step("x" * (MAX_REPLY_CHARS + 1))
    assert (told.outcome, told.result.reason, told.reward) == ("invalid", "too-long", -1.0)
    with pytest.raises(MlagentError, match="the reply has 1000001 characters, 1000000 are allowed"):
        session.step("x" * 1_000_001)
    assert session.state.step == 1


@pytest.mark.parametrize(
    ("asked", "told"),
    [({"state": "0123456789abcdef"}, "state id '0123456789abcdef' is unknown here"),
     ({"state": {"schema": "other"}}, "a state has schema 'other'"),
     ({"state": {"schema": "mlagent.state/1"}}, "this is no saved state .KeyError: 'files'"),
     ({"state": "{"}, "this is no saved state .JSONDecodeError"),
     ({"task": "pocket-moons"}, "task 'pocket-moons' is not served here"),
     ({"task": "tiny-homes", "index": 0}, "a task and an index are given"),
     ({"split": "held-out"}, "split 'held-out' is unknown here. What to do: choose one of held-in"),
     ({"split": "held-in", "index": 1}, "index 1 is too large for held-in"),
     ({"index": -1}, "index -1 is too large for all tasks"),
     ({"state": {"control": "gold"}}, "control 'gold' is unknown")],
)  # fmt: skip
def test_what_is_not_there_is_named(desk, asked, told):
    with pytest.raises(MlagentError, match=told):
        DeskSession(desk).reset(**asked)


def test_states_of_other_tasks_or_data_are_refused(desk, task, tmp_path):
    state = start_state(task, desk.tools).to_json()
    with pytest.raises(MlagentError, match="task 'pocket-x', which is not served"):
        desk.saved(state | {"task": "pocket-x"})
    with pytest.raises(MlagentError, match="made on other data of task 'tiny-homes'"):
        desk.saved(state | {"task_digest": "0" * 64})
    with pytest.raises(RunError, match="missing or damaged"):
        desk.saved(state | {"blobs": {}})
    with pytest.raises(MlagentError, match="step before reset"):
        DeskSession(desk).step(final())
    with pytest.raises(MlagentError, match="reward form 'v9' is unknown"):
        Desk({task.name: task}, desk.tools, form="v9")
    card = (task.folder / "task.yaml").read_text().replace("best: {feedback: 0.0, report: 0.0}", "best: {}")
    with pytest.raises(TaskError):
        Desk({"t": write_task(tmp_path / "other", card=card)}, desk.tools)


def test_what_we_fail_is_no_reward_and_leaves_the_state(tmp_path, task):
    def answer(request):
        return Unscored("lost") if b"n_neighbors=8)" in request.files["train.py"] else None

    session = DeskSession(Desk({task.name: task}, make_tools(tmp_path, FakeRunner(answer))))
    before = session.reset().state
    with pytest.raises(Unscored, match="lost"):
        session.step(neighbours(8))
    assert session.state == before and session.desk.counts["steps"] == 0


def test_splits_seed_and_pool(tmp_path, task):
    tools = make_tools(tmp_path)
    start = start_state(task, tools)
    pool = [run_steps([(start, neighbours(n))], tools)[0].state for n in (8, 20)]
    desk = Desk({task.name: task}, tools, pool)
    assert desk.splits() == [{"name": "held-in", "type": "train"}, {"name": "pool", "type": "train"}]
    assert [row["id"] for row in desk.listed("pool")] == [state.id for state in pool]
    assert DeskSession(desk).reset(split="pool", index=1).state == pool[1]
    drawn = {DeskSession(desk).reset(split="pool", seed=seed).state.id for seed in range(8)}
    assert drawn == {state.id for state in pool}  # both are drawn, and each seed draws the same again
    again = [DeskSession(desk).reset(split="pool", seed=3).state.id for _ in range(2)]
    assert again[0] == again[1]
    assert DeskSession(desk).reset(state=pool[0].id).state == pool[0]
    with pytest.raises(IndexError):
        desk.entry("held-in", 1)


def test_oracle_floor_and_canaries_of_a_pocket_task(tmp_path):
    task = find_task("pocket-homes")
    desk = Desk({task.name: task}, make_tools(tmp_path, home=None))
    entry = desk.entry("held-in", 0)
    assert entry["controls"]["oracle"] == 1.0 and entry["controls"]["floor"] < 0.01
    assert control(task, "oracle", "v2")[0] == 0.0 and control(task, "oracle", "v2")[1] > 1
    text = json.dumps(entry)
    labels = (task.labels_dir / "feedback.csv").read_text().splitlines()[1:]
    assert len(labels) == 600 and not any(line in text for line in labels)


def test_no_canary_is_paid(desk, task):
    session = DeskSession(desk)
    start = session.reset()
    for canary in canaries(task):
        told = session.step(canary["text"], state=start.state_id)
        assert told.outcome == canary["outcome"] and told.reward == -1.0, canary["name"]
    assert len(desk.tools.runner.requests) == 1  # the starter's: no canary came as far as a run


def test_the_oldest_states_are_forgotten_and_those_of_the_pool_are_not(tmp_path, task, monkeypatch):
    monkeypatch.setattr(desks, "MOST_STATES", 2)
    tools = make_tools(tmp_path)
    start = start_state(task, tools)
    desk = Desk({task.name: task}, tools, [start])
    ids = [DeskSession(desk).step(neighbours(n), state=start.id).state_id for n in (8, 12, 16)]
    assert desk.saved(start.id) == start and desk.saved(ids[2])
    with pytest.raises(RunError, match="neither in the pool of 1 states"):
        desk.saved(ids[0])


def test_sessions_side_by_side_do_not_mix(desk):
    def walk(number):
        session = DeskSession(desk)
        session.reset()
        told = [session.step(neighbours(n)) for n in (number, number + 1)]
        return [step.state.history[0].reply == neighbours(number) for step in told], told[
            -1
        ].result.score_after

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(walk, range(8, 40)))
    assert all(all(same) for same, _ in found)
    assert [score for _, score in found] == [(n + 1) / 8 for n in range(8, 40)]
    assert desk.counts["steps"] == 64
