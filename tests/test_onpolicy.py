"""States that the policy has reached, mixed into a pool: which are remembered, how many are used, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pocket_parts import spoken, train_pocket, write_adapter
from tiny_task import NAME, final, make_tools, neighbours, write_task

from mlagent_lib.core.arms import get_arm
from mlagent_lib.core.files import append_jsonl, read_jsonl
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import StepResult, run_steps, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.training import scoring
from mlagent_lib.training.pool import RECENT, OnPolicyStates
from mlagent_lib.training.scoring import StepReward


class Drawn:
    """A stream whose draws are written down."""

    def __init__(self, shares: list[float], places: list[int]):
        self.shares, self.places, self.sizes = shares, places, []

    def random(self):
        return self.shares.pop(0)

    def integers(self, size):
        self.sizes.append(size)
        return self.places.pop(0)


def a_state(step: int, *, done: bool = False, mark: str = "") -> State:
    return State("t", "d" * 64, {"train.py": mark.encode()}, step=step, done=done)


def visited(outcome: Outcome, state: State) -> StepResult:
    return StepResult(state, outcome, "r", "")


def mixer(share, stream, *, group_size=2, max_steps=6) -> OnPolicyStates:
    return OnPolicyStates(
        share,
        group_size=group_size,
        max_steps=max_steps,
        row_of=lambda state: {"id": state.id},
        stream=stream,
    )


def test_only_states_are_remembered_from_which_an_agent_could_go_on():
    found = mixer(1.0, Drawn([], []))
    kept = [a_state(step, mark=outcome.value) for step, outcome in
            ((1, Outcome.EDITED), (2, Outcome.ERROR), (5, Outcome.CORNER))]  # fmt: skip
    found.visit([
        *(visited(outcome, state) for outcome, state in
          zip((Outcome.EDITED, Outcome.ERROR, Outcome.CORNER), kept, strict=True)),
        visited(Outcome.EDITED, a_state(6)),  # the trajectory is over
        visited(Outcome.EDITED, a_state(3, done=True)),
        visited(Outcome.NEUTRAL, a_state(3)),  # looked, and is where it was
        visited(Outcome.NEUTRAL, a_state(3, done=True)),  # its final answer
        visited(Outcome.INVALID, a_state(3)),
        visited(Outcome.UNSCORED, a_state(3)),
    ])  # fmt: skip
    assert list(found._states) == kept


def test_the_oldest_states_are_forgotten():
    found = mixer(1.0, Drawn([0.0], [0]))
    for number in range(RECENT + 5):
        found.visit([visited(Outcome.EDITED, a_state(1, mark=str(number)))])
    assert len(found._states) == RECENT
    _, states = found.mix([{"id": "pool"}] * 2)
    assert [state.files["train.py"] for state in states.values()] == [b"5"]


def test_groups_are_replaced_whole_and_by_hand():
    stream = Drawn([0.3, 0.9, 0.49, 0.5], [1, 0])
    found = mixer(0.5, stream)
    first, second = a_state(1, mark="a"), a_state(2, mark="b")
    found.visit([visited(Outcome.EDITED, first), visited(Outcome.ERROR, second)])
    rows = [{"id": name} for name in "wxyz" for _ in range(2)]
    mixed, states = found.mix(rows)
    # 0.3 and 0.49 are below the share of 0.5; 0.9 and 0.5 are not
    assert [row["id"] for row in mixed] == [second.id] * 2 + ["x", "x"] + [first.id] * 2 + ["z", "z"]
    assert states == {first.id: first, second.id: second} and found.used == 2
    assert stream.sizes == [2, 2] and stream.shares == stream.places == []
    assert [row["id"] for row in rows] == list("wwxxyyzz")  # the caller's rows are as they were


def test_nothing_is_replaced_before_anything_was_visited():
    found = mixer(1.0, Drawn([], []))  # nothing is drawn either
    rows = [{"id": "w"}] * 2
    assert found.mix(rows) == (rows, {}) and found.used == 0


@pytest.mark.parametrize(
    ("share", "low", "high"), [(0.0, 0, 0), (0.25, 64, 136), (0.5, 160, 240), (1.0, 400, 400)]
)
def test_the_share_of_many_groups(share, low, high):
    found = mixer(share, rng(0, "on-policy"), group_size=1)
    found.visit([visited(Outcome.EDITED, a_state(1, mark=str(number))) for number in range(8)])
    rows = [{"id": "pool"}] * 400
    mixed, states = found.mix(rows)
    replaced = sum(row["id"] != "pool" for row in mixed)
    assert replaced == found.used and low <= replaced <= high  # four standard deviations
    assert len(states) == (0 if share == 0 else 8)
    again = mixer(share, rng(0, "on-policy"), group_size=1)
    again.visit([visited(Outcome.EDITED, a_state(1, mark=str(number))) for number in range(8)])
    assert again.mix(rows)[0] == mixed


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
        1.0, group_size=2, max_steps=6, row_of=lambda state: {"state_id": state.id}, stream=Drawn([0.0], [0])
    )
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
    old = out / "checkpoints" / "checkpoint-1"  # what an interrupted attempt has left
    old.mkdir(parents=True)
    append_jsonl(out / "metrics.jsonl", {"split": "train", "step": 1, "seconds_charged": 1000.0, "old": 1})
    adapter = write_adapter(tmp_path / "start", moved=0.02)
    train_pocket([start, later], tools, adapter, out, states_per_step=2, options={"arm": get_arm("mix-50")})
    rows = read_jsonl(out / "metrics.jsonl")[0]
    trained = [row for row in rows if row["split"] == "train"]
    assert [row["step"] for row in trained] == [1, 2] and not any("old" in row for row in rows)
    stream, hits = rng(0, "on-policy"), 0
    for _ in range(2):  # the groups of the second update; four states were visited in the first
        if stream.random() < 0.5:
            hits += 1
            stream.integers(4)
    assert hits > 0
    assert [row["on_policy_groups"] for row in trained] == [0, hits]
    pool = {start.id, later.id}
    assert [len(states) for states in seen] == [2] * 4  # each update begins its scripts in two parts
    assert {state.id for state in seen[0] + seen[1]} == pool
    new = [state for state in seen[2] + seen[3] if state.id not in pool]
    assert len(new) == 2 * hits and all(state.step in (1, 2) and state.score != 5.0 for state in new)
    assert np.isfinite([row["loss"] for row in trained]).all()
