"""States that the policy has reached, mixed into a pool: which are remembered, how many are used, by hand."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from pocket_parts import spoken, train_pocket, write_adapter
from tiny_task import NAME, final, make_tools, neighbours, write_task

from mlagent_lib.core.files import read_jsonl
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import StepResult, run_steps, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.training import scoring
from mlagent_lib.training.pool import RECENT, OnPolicyStates
from mlagent_lib.training.scoring import StepReward, bounded_gap


def a_state(step: int, *, done: bool = False, mark: str = "", task: str = "t", score: float = 0.0) -> State:
    return State(task, "d" * 64, {"train.py": mark.encode()}, step=step, done=done, score=score)


def visited(outcome: Outcome, state: State) -> StepResult:
    return StepResult(state, outcome, "r", "")


def mixer(share, *, group_size=2, seed=0) -> OnPolicyStates:
    return OnPolicyStates(
        share, group_size=group_size, max_steps=6, row_of=lambda state: {"id": state.id},
        gap_of=lambda state: state.score, seed=seed,
    )  # fmt: skip


def test_only_states_behind_edits_that_ran_are_remembered_where_an_agent_could_go_on():
    found, kept = mixer(1.0), a_state(1)
    found.visit([
        visited(Outcome.EDITED, kept),
        visited(Outcome.EDITED, a_state(6)),  # the trajectory is over
        visited(Outcome.ERROR, a_state(2)),
        visited(Outcome.CORNER, a_state(5)),
        visited(Outcome.NEUTRAL, a_state(3)),  # looked, and is where it was
        visited(Outcome.NEUTRAL, a_state(3, done=True)),  # its final answer
        visited(Outcome.INVALID, a_state(3)),
        visited(Outcome.UNSCORED, a_state(3)),
    ])  # fmt: skip
    assert list(found._states) == [kept]


def test_the_oldest_states_are_forgotten():
    found = mixer(1.0)
    states = [a_state(1, mark=str(number)) for number in range(RECENT + 5)]
    found.visit([visited(Outcome.EDITED, state) for state in states])
    assert list(found._states) == states[5:]


def test_groups_are_replaced_whole_an_exact_share_of_them():
    found, state = mixer(0.5), a_state(1)
    rows = [{"id": name} for name in "wxyz" for _ in range(2)]
    assert found.mix(rows) == (rows, {}) and found.used == 0  # nothing was visited yet
    found.visit([visited(Outcome.EDITED, state)])
    mixed, states = found.mix(rows)
    ids = [row["id"] for row in mixed]
    assert ids[::2] == ids[1::2] and found.used == 2  # half of four groups
    assert [new if new == state.id else old for old, new in zip("wxyz", ids[::2], strict=True)] == ids[::2]
    assert ids.count(state.id) == 4 and states == {state.id: state}
    assert [row["id"] for row in rows] == list("wwxxyyzz")  # the caller's rows are as they were


def test_tasks_come_alike_often_and_of_two_states_of_a_task_the_better():
    found = mixer(1.0, group_size=1)
    low, middle, high = (a_state(1, mark=str(score), score=score) for score in (-0.5, 0.2, 0.7))
    rare = a_state(1, task="rare", score=-1.0)
    found.visit([visited(Outcome.EDITED, state) for state in (low, middle, high, rare)])
    ids = Counter(row["id"] for row in found.mix([{"id": "pool"}] * 3600)[0])
    # half of them each task; of two draws the best: 1, 3 and 5 of the 9 pairs
    expected = {rare.id: 1800, low.id: 200, middle.id: 600, high.id: 1000}
    assert all(abs(ids[name] - count) < 4 * count**0.5 for name, count in expected.items())


def test_a_memory_goes_on_where_a_checkpoint_was_written():
    found, again = mixer(0.5, group_size=1), mixer(0.5, group_size=1)
    states = [a_state(1, mark=str(number), score=number / 8) for number in range(8)]
    found.visit([visited(Outcome.EDITED, state) for state in states])
    rows = [{"id": str(number)} for number in range(40)]
    first = found.mix(rows)
    again.go_on(json.loads(json.dumps(found.to_json())))
    second = again.mix(rows)
    assert second == found.mix(rows) != first


# In the reward function -------------------------------------------------------------------------------------


@pytest.fixture
def tools(tmp_path):
    write_task(tmp_path / "tasks")
    return make_tools(tmp_path)


@pytest.fixture
def start(tools):
    return start_state(tools.task(NAME), tools)


def test_actions_of_a_replaced_group_start_where_the_policy_has_been(tools, start):
    reward = StepReward({start.id: start}, tools, form="v2", group_size=2)
    rows = [{"state_id": start.id}] * 2
    assert reward.start_batch(rows) is rows  # nothing is mixed in where nothing was asked for
    reward.visited = OnPolicyStates(
        1.0, group_size=2, max_steps=6, row_of=lambda state: {"state_id": state.id},
        gap_of=lambda state: bounded_gap(state, tools.task(NAME)), seed=0,
    )  # fmt: skip
    assert reward.start_batch(rows) == rows  # nothing was visited yet
    said = [[{"role": "assistant", "content": text}] for text in (neighbours(8), final())]
    assert reward(None, said) == [0.8, 0.0] and reward.last["on_policy_groups"] == 0
    mixed = reward.start_batch(rows)
    assert mixed[0] == mixed[1] != rows[0]
    ids = [row["state_id"] for row in mixed]
    assert reward.pool[ids[0]].score == 1.0 and reward.pool[ids[0]].step == 1
    # from a score of 1.0 to 0.5, a tenth of the way from 5.0 to 0
    again = [[{"role": "assistant", "content": text}] for text in (neighbours(4), final())]
    assert reward(None, again) == pytest.approx([0.1, 0.0]) and reward.last["on_policy_groups"] == 1


@pytest.mark.slow
def test_two_real_updates_half_of_them_from_states_of_the_policy(tools, start, tmp_path, monkeypatch):
    later = run_steps([(start, neighbours(20))], tools)[0].state
    replies = [
        neighbours(8),
        neighbours(48),
        neighbours(12),
        neighbours(16),
    ]  # all are edits: all are visited
    seen = spoken(monkeypatch, scoring, "PendingSteps", lambda call: replies[2 * (call % 2) :][:2])
    out = tmp_path / "out"
    adapter = write_adapter(tmp_path / "start", moved=0.02)
    train_pocket([start, later], tools, adapter, out, states_per_step=2, onpolicy_share=0.5)
    trained = [row for row in read_jsonl(out / "metrics.jsonl")[0] if row["split"] == "train"]
    assert [row["step"] for row in trained] == [1, 2]
    assert [row["on_policy_groups"] for row in trained] == [0, 1]  # one of two
    pool = {start.id, later.id}
    assert [len(states) for states in seen] == [2] * 4  # each update begins its scripts in two parts
    assert {state.id for state in seen[0] + seen[1]} == pool
    new = [state for state in seen[2] + seen[3] if state.id not in pool]
    assert len(new) == 2 and all(state.step in (1, 2) and state.score != 5.0 for state in new)
    assert np.isfinite([row["loss"] for row in trained]).all()
