"""The state pool and the splits of its trajectories, and the rows of supervised fine-tuning."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import final, make_tools, neighbours, write_task

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.core.errors import RunError
from mlagent_lib.environment.actions import EDIT
from mlagent_lib.environment.workspace import State
from mlagent_lib.training.pool import PARTS, StatePool, split_trajectories, states_of
from mlagent_lib.training.sft import sft_rows


def a_state(task: str, number: int) -> State:
    return State(task, "d" * 64, {"train.py": b""}, step=number)


def a_row(task: str, *numbers: int, outcome: str = "edited") -> dict:
    steps = [
        {"state": a_state(task, number).to_json(), "outcome": outcome, "action": EDIT} for number in numbers
    ]
    return {"task": task, "steps": steps}


def pool_of(rows: list[dict], **options) -> StatePool:
    return StatePool.of((state for state, _ in states_of(rows)), **options)


@given(
    counts=st.dictionaries(st.sampled_from("abc"), st.integers(3, 25), min_size=1),
    share=st.floats(0.0, 0.99),
    seed=st.integers(0, 5),
)
def test_a_split_loses_nothing_doubles_nothing_and_leaves_each_part_something(counts, share, seed):
    rows = [
        {"task": task, "id": f"{task}{number}"} for task, count in counts.items() for number in range(count)
    ]
    parts = split_trajectories(rows, seed, share=share)
    assert tuple(parts) == PARTS == ("train", "select", "test")
    found = [row["id"] for part in PARTS for row in parts[part]]
    assert sorted(found) == sorted(row["id"] for row in rows)
    for task, count in counts.items():
        sizes = [sum(row["task"] == task for row in parts[part]) for part in PARTS]
        assert min(sizes) >= 1 and sizes[1] == sizes[2] <= max(1, round(share * count))


def test_a_split_follows_the_seed_and_no_other_task():
    rows = [{"task": task, "id": f"{task}{number}"} for task in "ab" for number in range(12)]
    first = split_trajectories(rows, 0, share=0.25)
    assert first == split_trajectories(rows, 0, share=0.25) != split_trajectories(rows, 1, share=0.25)
    alone = split_trajectories(rows[:12], 0, share=0.25)
    for part in PARTS:
        assert [row for row in first[part] if row["task"] == "a"] == alone[part]
    assert [len(alone[part]) for part in PARTS] == [6, 3, 3]


def test_a_larger_collection_keeps_back_what_a_smaller_one_does():
    rows = [{"task": task, "id": f"expert/{task}/{number}"} for number in range(40) for task in "ab"]
    small = [row for row in rows if int(row["id"].split("/")[2]) < 14]
    kept, whole = (split_trajectories(part, 3, share=0.15, first=14) for part in (small, rows))
    assert kept == split_trajectories(small, 3, share=0.15)
    assert whole["select"] == kept["select"] and whole["test"] == kept["test"]
    assert [len(whole[part]) for part in PARTS] == [72, 4, 4]


def test_two_trajectories_cannot_be_split_in_three():
    with pytest.raises(RunError, match=r"task 'a' has 2 trajectories.* collect at least 3"):
        split_trajectories([{"task": "a"}] * 2, 0, share=0.1)


def test_the_pool_holds_each_state_once_without_ends_and_without_what_we_failed():
    done = {
        "task": "a",
        "steps": [
            {"state": {**a_state("a", 9).to_json(), "done": True}, "outcome": "neutral", "action": "Look"}
        ],
    }
    rows = [a_row("a", 0, 1, 2), a_row("a", 0, 3), a_row("a", 7, outcome="unscored"), done, a_row("b", 0)]
    pool = pool_of(rows)
    assert [(state.task, state.step) for state in pool.states] == [
        ("a", 0),
        ("a", 1),
        ("a", 2),
        ("a", 3),
        ("b", 0),
    ]
    assert len(pool) == 5 and pool.by_id()[pool.states[3].id] is pool.states[3]


def test_a_limit_is_shared_between_the_tasks():
    rows = [a_row("a", *range(50)), a_row("b", *range(3)), a_row("c", *range(50))]
    pool = pool_of(rows, limit=15, seed=1)
    assert Counter(state.task for state in pool.states) == {"a": 6, "b": 3, "c": 6}
    again = pool_of(rows, limit=15, seed=1)
    assert pool == again != pool_of(rows, limit=15, seed=2)
    whole = pool_of(rows).states
    positions = [whole.index(state) for state in pool.states]
    assert positions == sorted(positions) and max(positions[:6]) > 6  # a draw, not the first six
    assert len(pool_of(rows, limit=1000)) == 103


def test_a_sample_is_spread_over_the_tasks_and_follows_its_stream():
    pool = StatePool(tuple(a_state(task, number) for task in "ab" for number in range(20)))
    drawn = pool.sample(6, 0, "select")
    assert Counter(state.task for state in drawn) == {"a": 3, "b": 3}
    assert len({state.id for state in drawn}) == 6
    assert drawn == pool.sample(6, 0, "select")
    assert drawn != pool.sample(6, 0, "test") and drawn != pool.sample(6, 1, "select")
    assert sorted(state.id for state in pool.sample(99, 0)) == sorted(state.id for state in pool.states)


def test_training_rows_pair_each_prompt_with_the_experts_reply(tmp_path):
    task = write_task(tmp_path / "tasks")

    class Says:
        name = "says"

        def act(self, turns):
            return [(neighbours(8), "nonsense", final())[turn.state.step] for turn in turns]

    (row,) = run_trajectories([Job(task, "expert", 0, 0)], Says(), make_tools(tmp_path), max_steps=6)
    row["steps"].append(row["steps"][0] | {"outcome": "unscored"})
    rows = sft_rows([row], {task.name: task}, Prompter("pocket", 6))
    assert [found["completion"] for found in rows] == [
        [{"role": "assistant", "content": text}] for text in (neighbours(8), "nonsense", final())
    ]
    states = [State.from_json(step["state"]) for step in row["steps"][:3]]
    assert [found["prompt"] for found in rows] == [
        Prompter(max_steps=6).messages(state, task) for state in states
    ]
