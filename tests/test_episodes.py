"""Episode-wise RL: returns, rows and masks by hand, and two real updates on the CPU."""

from __future__ import annotations

import math

import pytest
from pocket_parts import spoken, train_pocket, write_adapter
from tiny_task import NAME, FakeRunner, final, make_tools, neighbours, write_task

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.arms import get_arm
from mlagent_lib.core.errors import RunError, Unscored
from mlagent_lib.core.files import read_jsonl
from mlagent_lib.environment.step import run_steps, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.training import episodes
from mlagent_lib.training.episodes import EpisodeReward
from mlagent_lib.training.grpo import _starters
from mlagent_lib.training.pool import StatePool

END = 99


class FakeTrainer:
    """Says scripted replies, turn by turn; the tokens of prompts and replies are their turn and place."""

    eos_token_id = END

    def __init__(self, *turns: list[str]):
        self.turns, self.prompts = list(turns), []
        self.processing_class = self

    def _tokenize_prompts(self, prompts):
        self.prompts.append([messages[-1]["content"] for messages in prompts])
        return [[len(self.prompts), place] for place in range(len(prompts))], None, {}

    def _generate_single_turn(self, prompt_ids, images, fields, count):
        self.replies = self.turns.pop(0)
        assert len(self.replies) == len(prompt_ids)
        return [[10 * turn + place] * 3 for turn, place in prompt_ids], None

    def batch_decode(self, ids, skip_special_tokens):
        return self.replies


def lost(request):
    """Fail on our side where a script has 13 neighbours."""
    return Unscored("lost") if b"n_neighbors=13)" in request.files["train.py"] else None


@pytest.fixture
def tools(tmp_path):
    write_task(tmp_path / "tasks")
    return make_tools(tmp_path, FakeRunner(lost))


@pytest.fixture
def start(tools):
    return start_state(tools.task(NAME), tools)


def rollout(tools, starts, *turns, group_size=2, max_steps=3, form="v2"):
    """Return the reward function, the trainer and the rows of one batch."""
    reward = EpisodeReward(
        {state.id: state for state in starts}, tools, Prompter("pocket", max_steps), form=form,
        group_size=group_size,
    )  # fmt: skip
    batch = [{"state_id": state.id} for state in starts for _ in range(reward.rows_per_start)]
    assert reward.start_batch(batch) == batch
    trainer = FakeTrainer(*turns)
    rows = reward.rollout([None] * len(batch), trainer)
    assert trainer.turns == []
    return reward, trainer, rows


def test_returns_and_rows_by_hand(tools, start):
    # the score is 5.0; n neighbours make it n / 8, and v2 pays the share of the way from 5.0 to 0
    first, second = [neighbours(20), neighbours(8), final()], final()
    reward, trainer, rows = rollout(tools, [start], [first[0], second], [first[1]], [first[2]])
    assert reward.rows_per_start == 6
    assert rows["episode_return"] == pytest.approx([0.8, 0.8, 0.8, 0.0, 0.0, 0.0])  # 0.5 + 0.3 + 0 and 0
    # three actions of the first; one of the second, which has answered, and two rows of nothing
    assert rows["prompt_ids"] == [[1, 0], [2, 0], [3, 0], [1, 1], [1, 1], [1, 1]]
    assert rows["completion_ids"] == [[10] * 3, [20] * 3, [30] * 3, [11] * 3, [END], [END]]
    assert rows["env_mask"] == [[1, 1, 1]] * 4 + [[0], [0]]
    assert rows["logprobs"] is None
    assert reward(None, None, rows["episode_return"], task=["t"] * 6) == rows["episode_return"]
    told = reward.last
    assert (told["episodes"], told["groups"], told["flat_groups"], told["steps"]) == (2, 1, 0, 4)
    assert told["episode_return"] == pytest.approx(0.4) and told["reward"] == pytest.approx(0.2)
    assert (told["executions"], told["unscored"], told["seconds_scripts"]) == (2, 0, 1.0)
    assert reward.seconds > 0


def test_each_action_is_asked_for_in_the_state_that_the_trajectory_has_reached(tools, start):
    _, trainer, _ = rollout(
        tools, [start], [neighbours(20), "nonsense"], [neighbours(8), final()], max_steps=2
    )
    assert [len(turn) for turn in trainer.prompts] == [2, 2]
    assert all(prompt.endswith("Step 1 of 2.") for prompt in trainer.prompts[0])
    assert all(prompt.endswith("Step 2 of 2.") for prompt in trainer.prompts[1])
    assert "n_neighbors=20)" in trainer.prompts[1][0] and "n_neighbors=40)" in trainer.prompts[1][1]


def test_a_trajectory_that_we_fail_to_score_gets_the_mean_of_its_group(tools, start):
    reward, _, rows = rollout(
        tools, [start], [neighbours(20), neighbours(13), "nonsense"], [neighbours(8), final()],
        group_size=3, max_steps=2,
    )  # fmt: skip
    # 0.8 and -1.0 + 0: the lost one gets -0.1, its two rows too, and no further action is asked of it
    assert rows["episode_return"] == pytest.approx([0.8, 0.8, -0.1, -0.1, -1.0, -1.0])
    assert rows["env_mask"] == [[1] * 3, [1] * 3, [1] * 3, [0], [1] * 3, [1] * 3]
    assert reward.last["unscored"] == 1 and reward.last["flat_groups"] == 0
    assert reward.last["episode_return"] == pytest.approx(-0.1)  # of the two that were scored
    assert reward.last["reward"] == pytest.approx((0.5 + 0.3 - 1.0 + 0.0) / 4)


def test_groups_do_not_mix_and_flat_ones_are_counted(tools, start):
    later = run_steps([(start, neighbours(8))], tools)[0].state  # a score of 1.0
    reward, _, rows = rollout(tools, [start, later], [neighbours(20), neighbours(8), "a", "b"], max_steps=1)
    assert rows["episode_return"] == pytest.approx([0.5, 0.8, -1.0, -1.0])
    assert (reward.last["groups"], reward.last["flat_groups"], reward.last["episodes"]) == (2, 1, 4)
    reward, _, rows = rollout(
        tools, [start, later], [neighbours(20), neighbours(13), neighbours(4), "b"], max_steps=1
    )
    # one of the first group is left, so nothing is to be compared; the second group is as it was
    assert rows["episode_return"] == pytest.approx([0.5, 0.5, 0.1, -1.0])
    assert reward.last["flat_groups"] == 1


def test_a_batch_without_any_scored_trajectory_stops_the_training(tools, start):
    with pytest.raises(Unscored, match="none of 2 trajectories could be scored.*run again"):
        rollout(tools, [start], [neighbours(13), neighbours(13)])


def test_trajectories_start_from_the_first_state_of_each_task():
    def state(task, step):
        return State(task, "d" * 64, {"train.py": b""}, step=step)

    pool = StatePool((state("b", 2), state("b", 0), state("a", 0), state("a", 1)))
    assert [(found.task, found.step) for found in _starters(pool).states] == [("a", 0), ("b", 0)]
    with pytest.raises(RunError, match="no first state of task 'c'.*a larger pool_size"):
        _starters(StatePool((*pool.states, state("c", 1))))


def turns(call: int) -> list[str]:
    """Return the replies of four trajectories of at most two steps: first turn, second turn, and again."""
    if call % 2 == 0:
        return [neighbours(20), "nonsense", final(), neighbours(13)]
    return [neighbours(8), neighbours(8)]  # the third has answered, the fourth was lost


@pytest.mark.slow
def test_two_real_updates_with_known_returns(tools, start, tmp_path, monkeypatch):
    from safetensors.torch import load_file
    from trl import GRPOTrainer

    real, batches = GRPOTrainer._generate_and_score_completions, []

    def scored(self, inputs):
        batches.append(real(self, inputs))
        return batches[-1]

    monkeypatch.setattr(GRPOTrainer, "_generate_and_score_completions", scored)
    seen = spoken(monkeypatch, episodes, "run_steps", turns)
    adapter, out = write_adapter(tmp_path / "start", moved=0.02), tmp_path / "out"
    found = train_pocket(
        [start], tools, adapter, out, group_size=4, max_steps=2, options={"arm": get_arm("episode-wise")}
    )
    assert [len(states) for states in seen] == [4, 2, 4, 2]
    # returns 0.8, -0.2, 0 and the mean of these, 0.2; over two rows each: mean 0.2, deviation 0.4
    for batch in batches:
        wanted = [1.5, 1.5, -1.0, -1.0, -0.5, -0.5, 0.0, 0.0]
        assert batch["advantages"].tolist() == pytest.approx(wanted, abs=1e-3)
        learnt = (batch["completion_mask"] * batch["tool_mask"]).sum(dim=1).tolist()
        assert [count > 0 for count in learnt] == [True] * 5 + [False, True, False]
    rows = read_jsonl(out / "metrics.jsonl")[0]
    assert [(row["split"], row["step"]) for row in rows] == [
        ("holdout", 0), ("train", 1), ("train", 2), ("holdout", 2),
    ]  # fmt: skip
    for row in rows[1:3]:
        assert (row["episodes"], row["groups"], row["flat_groups"], row["unscored"]) == (4, 1, 0, 1)
        assert row["episode_return"] == pytest.approx(0.2) and row["steps"] == 6
        assert row["seconds_scripts"] == 1.5  # three scripts of 0.5 s, also where the cache knew them
        assert row["seconds_charged"] > 1.5 and math.isfinite(row["loss"]) and row["grad_norm"] > 0
    assert rows[2]["cache_hits"] == 3 and (found["steps"], found["unscored"]) == (2, 2)
    before, after = (load_file(path / "adapter_model.safetensors") for path in (adapter, out / "last"))
    assert any(not before[name].equal(after[name]) for name in before)
