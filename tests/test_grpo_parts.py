"""The parts of step-wise GRPO by hand, and a policy of a few weights that learns which action pays."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import FakeRunner, edit, final, make_tools, neighbours, reply, rl_profile, write_task

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.artifacts import hashes_below
from mlagent_lib.core.errors import RunError, Unscored
from mlagent_lib.core.files import append_jsonl, read_jsonl, write_json
from mlagent_lib.core.profiles import GRPOProfile
from mlagent_lib.environment.coder import BlockCoder
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import StepResult, run_step, run_steps, start_state
from mlagent_lib.results.glossary import METRICS, describe
from mlagent_lib.training import checkpoints, grpo
from mlagent_lib.training.checkpoints import forget_after, last_checkpoint
from mlagent_lib.training.episodes import EpisodeReward
from mlagent_lib.training.grpo import (
    Recorder,
    _best_row,
    _finish,
    train_grpo,
)
from mlagent_lib.training.pool import Focus, OnPolicyStates, StatePool
from mlagent_lib.training.scoring import (
    ShortTrajectories,
    StepReward,
    best_of_pay,
    evaluate_steps,
    family_made,
    fill_groups,
    group_advantages,
    step_statistics,
    variety_pay,
)


@pytest.fixture
def tools(tmp_path, task):
    return make_tools(tmp_path)


@pytest.fixture
def states(task, tools):
    start = start_state(task, tools)
    return [start, run_steps([(start, neighbours(20))], tools)[0].state]


def completions(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def rewards(reward, states, *texts, **columns):
    """Return what TRL gets for a batch of these states and replies."""
    reward.start_batch([{"state_id": state.id} for state in states])
    return reward(None, completions(*texts), **columns)


# Groups -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rewards", "size", "filled", "flat"),
    [
        ([1.0, 0.0, None, 0.5, 0.5, 0.5], 3, [1.0, 0.0, 0.5, 0.5, 0.5, 0.5], 1),
        ([None, None, 1.0, 0.0], 2, [0.0, 0.0, 1.0, 0.0], 1),  # a group without any score is flat
        ([None, 0.25, 1.0, None], 2, [0.25, 0.25, 1.0, 1.0], 2),
        ([-1.0, 0.0, 0.4, None], 4, [-1.0, 0.0, 0.4, pytest.approx(-0.2)], 0),
        ([], 2, [], 0),
    ],
)
def test_filling_groups(rewards, size, filled, flat):
    assert fill_groups(rewards, size) == (filled, flat)


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([1, 1, 0, 0, 0], [1.0954, 1.0954, -0.7303, -0.7303, -0.7303]),  # mean 0.4, std sqrt(0.3)
        ([0.2, 0.2, 0.2], [0, 0, 0]),
        ([1, -1], [0.7071, -0.7071]),  # mean 0, std sqrt(2)
    ],
)
def test_advantages_by_hand(rewards, expected):
    assert group_advantages(rewards, len(rewards)) == pytest.approx(expected, abs=3e-4)


REWARDS = st.lists(st.none() | st.floats(-1, 1).map(lambda value: round(value, 3)), min_size=4, max_size=4)


@given(first=REWARDS, second=REWARDS, order=st.permutations(range(4)))
def test_groups_never_mix_and_the_order_within_does_not_matter(first, second, order):
    filled, flat = fill_groups(first + second, 4)
    alone = [fill_groups(group, 4) for group in (first, second)]
    assert filled == alone[0][0] + alone[1][0] and flat == alone[0][1] + alone[1][1]
    turned, _ = fill_groups([first[i] for i in order], 4)
    assert turned == pytest.approx([filled[i] for i in order])
    advantages = group_advantages(filled, 4)
    for reward, advantage in zip(first + second, advantages, strict=True):
        if reward is None:
            assert advantage == pytest.approx(0.0, abs=1e-6)  # our failure moves nothing
    assert sum(advantages) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_groups_start_where_most_is_left_to_gain(states, share):
    other = replace(states[0], task="other")
    done = replace(states[0], task="done")
    focus = Focus((*states, other, done), share, group_size=2, row_of=lambda state: state.task, seed=0)
    rows = ["even"] * 16
    assert focus.mix(rows) == rows  # nothing is known yet
    focus.visit([other, done], [1.0, 0.0, 0.5, 0.5])
    assert focus.left() == {"tiny-homes": 0.5, "other": 0.5, "done": 0.0}  # unknown: as much as anywhere
    focus.visit([states[0]], [0.75, 0.25])
    mixed = focus.mix(rows)
    counts = {name: mixed.count(name) for name in ("other", "tiny-homes", "done", "even")}
    assert counts["done"] == 0 and counts["even"] == 16 * (1 - share)
    assert abs(counts["other"] - 2 * counts["tiny-homes"]) <= 6  # 0.5 to 0.25, each up to a group
    assert all(mixed[at] == mixed[at + 1] for at in range(0, 16, 2))
    focus.visit([other], [0.0, 0.0])  # 0.8 * 0.5: more is left, the best stays known
    assert focus.left()["other"] == pytest.approx(0.6)
    again = Focus((*states, other, done), share, group_size=2, row_of=lambda state: state.task, seed=0)
    again.go_on(json.loads(json.dumps(focus.to_json())))
    assert again.mix(rows) == focus.mix(rows)


def test_groups_start_where_their_rewards_differ(states):
    """``a`` paid 1 and 0 (deviation 0.5), then twice the same: 0.8 of it is left; ``b`` paid 0.5 and 0.25."""
    tasks = [replace(states[0], task=name) for name in "abc"]
    focus = Focus(tasks, 1.0, group_size=2, row_of=lambda state: state.task, seed=0, by="variance")
    focus.visit([tasks[0], tasks[0], tasks[1], tasks[2]], [1.0, 0.0, 1.0, 1.0, 0.5, 0.25, 0.0, 0.0])
    assert focus.left() == pytest.approx({"a": 0.4, "b": 0.125, "c": 0.0})
    assert set(focus.mix(["even"] * 16)) == {"a", "b"}
    again = Focus(tasks, 1.0, group_size=2, row_of=None, seed=0, by="variance")
    again.go_on(json.loads(json.dumps(focus.to_json())))
    assert again.left() == focus.left()


def test_what_adds_to_the_best_of_k_moves_a_policy_towards_it():
    """Over all draws of a group the weights are the gradient of the expected best of k."""
    values, group, k = [0.0, 0.4, 1.0], 4, 2
    chances = np.array([0.5, 0.3, 0.2])

    def best(chance):
        return sum(
            chance[list(drawn)].prod() * max(values[i] for i in drawn)
            for drawn in itertools.product(range(3), repeat=k)
        )

    slope = np.zeros(3)
    for drawn in itertools.product(range(3), repeat=group):
        paid = best_of_pay([values[i] for i in drawn], group, k)
        for i, weight in zip(drawn, paid, strict=True):  # the gradient of log p by the logits
            slope += chances[list(drawn)].prod() * weight * (np.eye(3)[i] - chances)
    for i in range(3):
        moved = np.log(chances) + 1e-5 * np.eye(3)[i]
        moved = np.exp(moved) / np.exp(moved).sum()
        assert slope[i] == pytest.approx((best(moved) - best(chances)) / 1e-5, abs=1e-3)


def test_the_batchs_scale_is_that_of_trl_and_none_is_none():
    torch = pytest.importorskip("torch")
    rewards = [0.1, 0.9, 0.5, 0.5]
    wanted = (torch.tensor([-0.4, 0.4, 0.0, 0.0]) / (torch.tensor(rewards).std() + 1e-4)).tolist()
    assert group_advantages(rewards, 2, "batch") == pytest.approx(wanted)
    assert group_advantages(rewards, 2, "none") == pytest.approx([-0.4, 0.4, 0.0, 0.0])


def test_the_advantages_are_those_of_trl():
    torch = pytest.importorskip("torch")
    rewards = [0.1, 0.9, 0.5, 0.5, 0.0, 1.0, 1.0, 0.3]
    grouped = torch.tensor(rewards, dtype=torch.float64).view(2, 4)
    wanted = (grouped - grouped.mean(1, keepdim=True)) / (grouped.std(1, keepdim=True) + 1e-4)
    assert group_advantages(rewards, 4) == pytest.approx(wanted.flatten().tolist())


# The reward function that TRL calls -------------------------------------------------------------------------


def test_rewards_by_hand_one_execution_each_from_its_own_state(states, tools):
    first, second = states
    reward = StepReward({state.id: state for state in states}, tools, form="v2", group_size=2)
    before = len(tools.runner.requests)
    texts = (neighbours(8), "nonsense", neighbours(8), final())
    batch = [first, first, second, second]
    assert rewards(reward, batch, *texts, task=["t"] * 4) == [0.8, -1.0, pytest.approx(0.3), 0.0]
    assert len(tools.runner.requests) == before + 1  # the two edits are one experiment
    row = reward.last
    assert (row["flat_groups"], row["groups"], row["steps"], row["unscored"]) == (0, 2, 4, 0)
    assert (row["executions"], row["cache_hits"], row["validity"]) == (2, 1, 0.75)
    assert row["reward"] == pytest.approx((0.8 - 1.0 + 0.3 + 0.0) / 4)
    assert row["advantage_std"] == pytest.approx(math.sqrt(0.5), abs=1e-3)  # two a group: +-0.7071
    assert row["seconds_execution"] >= 0 and reward.seconds > 0


def test_equal_rewards_are_flat_and_say_nothing(states, tools):
    first, _ = states
    reward = StepReward({first.id: first}, tools, form="v1", group_size=3)
    assert rewards(reward, [first] * 3, "a", "b", "c") == [0.0, 0.0, 0.0]
    assert (reward.last["flat_groups"], reward.last["advantage_std"]) == (1, 0.0)


def test_a_group_that_mixes_states_is_an_error(states, tools):
    first, second = states
    reward = StepReward({state.id: state for state in states}, tools, form="v1", group_size=2)
    with pytest.raises(RunError, match="a group mixes states"):
        rewards(reward, [first, second], "a", "b")


def test_what_we_fail_gets_the_mean_of_its_group_and_is_counted(states, task, tmp_path):
    def answer(request):
        return Unscored("lost") if b"n_neighbors=8)" in request.files["train.py"] else None

    broken = make_tools(tmp_path / "b", FakeRunner(answer), home=tmp_path / "tasks")
    first = states[0]
    reward = StepReward({first.id: first}, broken, form="v2", group_size=3)
    texts = (neighbours(20), neighbours(8), neighbours(40))
    assert rewards(reward, [first] * 3, *texts) == [0.5, 0.25, 0.0]
    assert (reward.last["unscored"], reward.last["steps"], reward.last["flat_groups"]) == (1, 3, 0)
    assert reward.last["reward"] == 0.25 and reward.last["share_edited"] == 1.0


def test_a_batch_without_any_score_stops_the_training(states, task, tmp_path):
    broken = make_tools(
        tmp_path / "b", FakeRunner(lambda request: Unscored("no server")), home=tmp_path / "tasks"
    )
    first = states[0]
    reward = StepReward({first.id: first}, broken, form="v1", group_size=2)
    with pytest.raises(Unscored, match="none of the 2 actions of a step could be scored: no server"):
        rewards(reward, [first] * 2, neighbours(8), neighbours(9))


# Statistics -------------------------------------------------------------------------------------------------


def test_statistics_leave_the_unscored_out_and_count_them(states):
    def row(outcome, reason="r", **values):
        return StepResult(states[0], outcome, reason, "", **values)

    results = [
        row(Outcome.EDITED, executed=True, cache_hit=True, seconds=0.5), row(Outcome.CORNER, "coder"),
        row(Outcome.INVALID), row(Outcome.EDITED, executed=True, seconds=1.25),
        row(Outcome.UNSCORED, "coder", executed=True, seconds=9.0),
    ]  # fmt: skip
    found = step_statistics(results, [1.0, 0.5, 0.0, 0.5, None])
    assert found == {
        "share_invalid": 0.25, "share_error": 0.0, "share_neutral": 0.0, "share_corner": 0.25,
        "share_edited": 0.5,
        "reward": 0.5, "validity": 0.75, "steps": 5, "unscored": 1, "executions": 2, "cache_hits": 1,
        "coder_failures": 1, "seconds_scripts": 1.75,  # a known execution counts with its recorded seconds
    }  # fmt: skip
    assert math.isclose(sum(value for name, value in found.items() if name.startswith("share_")), 1.0)
    empty = step_statistics([], [])
    assert (empty["reward"], empty["steps"], empty["unscored"]) == (0.0, 0, 0)


def test_evaluating_steps_asks_once_and_records_each_reply(states, tools):
    asked = []

    def generate(conversations, seed):
        asked.append((len(conversations), seed))
        return [neighbours(8), "nonsense", final(), neighbours(8)]

    found, rows = evaluate_steps(generate, states, tools, Prompter("pocket", 6), form="v2", seed=5, samples=2)
    assert asked == [(4, 5)]
    assert [row["reward"] for row in rows] == [0.8, -1.0, 0.0, pytest.approx(0.3)]
    assert [row["state_id"] for row in rows] == [states[0].id] * 2 + [states[1].id] * 2
    assert [row["outcome"] for row in rows] == ["edited", "invalid", "neutral", "edited"]
    assert rows[1]["reply"] == "nonsense" and found["validity"] == 0.75


# Checkpoints ------------------------------------------------------------------------------------------------


def test_the_best_row_is_the_highest_held_back_reward_and_the_earlier_of_equals(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    for step, split, reward in (
        (0, "holdout", 0.5),
        (5, "holdout", 0.7),
        (5, "train", 0.9),
        (10, "holdout", 0.7),
    ):
        append_jsonl(metrics, {"step": step, "split": split, "reward": reward})
    assert _best_row(metrics)["step"] == 5
    append_jsonl(metrics, {"step": 15, "split": "holdout", "reward": 0.71})
    assert _best_row(metrics)["step"] == 15


def test_rows_after_the_checkpoint_are_forgotten(tmp_path):
    metrics = tmp_path / "metrics.jsonl"
    forget_after(metrics, 3)
    assert not metrics.exists()
    for step in (0, 1, 2, 3, 3, 4):
        append_jsonl(metrics, {"step": step})
    forget_after(metrics, 3)
    assert [row["step"] for row in read_jsonl(metrics)[0]] == [0, 1, 2, 3, 3]
    forget_after(metrics, -1)
    assert read_jsonl(metrics)[0] == []


def test_the_newest_whole_checkpoint_is_taken(tmp_path):
    assert last_checkpoint(tmp_path) is None
    for step, text in (
        (4, '{"global_step": 4}'),
        (12, '{"global_step": 12}'),
        (20, '{"global_st'),
        (24, None),
        (28, '{"global_step": 28}'),
        (32, '{"global_step": 32}'),
    ):
        folder = tmp_path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(bytes(16))
        if text:
            (folder / "trainer_state.json").write_text(text)
        if step != 32:  # killed between the checkpoint and its sums
            write_json(folder.with_suffix(".json"), hashes_below(folder))
    (tmp_path / "checkpoints" / "checkpoint-28" / "adapter_model.safetensors").write_bytes(bytes(15) + b"1")
    step, folder = last_checkpoint(tmp_path)
    assert step == 12 and Path(folder).name == "checkpoint-12"  # by number, not by name: 4 < 12
    for gone in (20, 24, 28, 32):
        assert not list((tmp_path / "checkpoints").glob(f"checkpoint-{gone}*"))


def test_a_damaged_best_checkpoint_is_refused_and_not_used(tmp_path):
    row = {"split": "holdout", "step": 4, "reward": 0.5}
    append_jsonl(tmp_path / "metrics.jsonl", row)
    (tmp_path / "best").mkdir()
    (tmp_path / "best" / "adapter_model.safetensors").write_bytes(b"right")
    write_json(tmp_path / "best.json", row | {"files": hashes_below(tmp_path / "best")})
    (tmp_path / "best" / "adapter_model.safetensors").write_bytes(b"wrong")
    with pytest.raises(RunError, match="best checkpoint is damaged.*run again"):
        _finish(None, tmp_path, tmp_path / "sft", tmp_path / "metrics.jsonl", 1.0)
    assert not (tmp_path / "adapter").exists()


# Learning ---------------------------------------------------------------------------------------------------

PAYS, WASTES = neighbours(8), neighbours(48)
REPLIES = (PAYS, WASTES, "nonsense", final(), edit("Make it good."))


@pytest.fixture(scope="module")
def bandit(tmp_path_factory):
    """Return folders of a random model whose every token is a reply, and of an adapter that does nothing."""
    import torch
    from peft import get_peft_model
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    from mlagent_lib.training.backends import lora_config

    folder = tmp_path_factory.mktemp("bandit")
    words = ["<pad>", "<eos>", "<unk>", *REPLIES]
    vocabulary = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'][-9:] }}{% endfor %}"
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2, bos_token_id=None, eos_token_id=1, pad_token_id=0, tie_word_embeddings=False,
        initializer_range=0.25,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder / "model")
    get_peft_model(model, lora_config(4, 8)).save_pretrained(folder / "adapter")
    return folder


def train(bandit, states, tools, out, *, progress=None, **changes):
    values = {
        "steps": 24, "states_per_step": 2, "group_size": 8, "lr": 3e-2, "beta": 0.001, "max_new_tokens": 1,
        "eval_every": 8, "eval_samples": 24,
    }  # fmt: skip
    profile = GRPOProfile(**(values | changes))
    return train_grpo(
        rl_profile(str(bandit / "model"), grpo=profile), StatePool(tuple(states)), states,
        make_tools=lambda coder: tools, adapter=bandit / "adapter", out=out, seed=0, progress=progress,
    )  # fmt: skip


@pytest.mark.slow
def test_the_spread_of_rewards_is_over_the_batch_as_the_glossary_says(
    bandit, states, tools, tmp_path, monkeypatch
):
    batches, call = [], StepReward.__call__
    monkeypatch.setattr(
        StepReward, "__call__", lambda *args, **rest: batches.append(call(*args, **rest)) or batches[-1]
    )
    train(bandit, states, tools, tmp_path, steps=2, eval_every=2)
    rows = [row for row in read_jsonl(tmp_path / "metrics.jsonl")[0] if row["split"] == "train"]
    assert [len(batch) for batch in batches] == [16, 16]
    for row, batch in zip(rows, batches, strict=True):
        within = statistics.fmean(statistics.stdev(batch[start : start + 8]) for start in (0, 8))
        assert row["reward_std"] == pytest.approx(statistics.stdev(batch), rel=1e-5)
        assert row["reward_std"] != pytest.approx(within, rel=1e-3)
    assert "over the whole batch" in METRICS["reward_std"]


def test_every_field_of_every_log_is_described(tools, states, tmp_path, monkeypatch):
    from transformers import TrainerControl, TrainerState

    monkeypatch.setattr(grpo, "_save_adapter", lambda model, folder: folder.mkdir(parents=True))
    reward = StepReward({state.id: state for state in states}, tools, form="v1", group_size=2)
    reward.visited = OnPolicyStates(
        0.5, group_size=2, max_steps=6, row_of=None, gap_of=None, seed=0
    )  # fmt: skip
    rewards(reward, [states[0]] * 2, PAYS, WASTES)
    episodes = EpisodeReward({}, tools, Prompter("pocket", 6), form="v1", group_size=1)
    statistics_of_episodes, control = episodes._statistics([], 0), TrainerControl()
    logs = {"loss": 0.1, "learning_rate": 0.1, "reward_std": 0.2, "grad_norm": 1.0}
    for number, last in enumerate((reward.last, statistics_of_episodes), start=1):
        reward.last = last
        told = reward.last | {"gap": 0.1, "gap_unscored": 0}
        recorder = Recorder(tmp_path, reward, lambda step, told=told: told, lambda row: None, 0.0)
        recorder.float16 = True
        recorder.on_step_begin(None, TrainerState(global_step=0), control)
        recorder.on_step_end(None, TrainerState(global_step=1), control)
        made = logs | {"grad_norm": math.inf if number == 2 else 1.0}
        recorder.on_log(None, TrainerState(global_step=number), control, logs=made)
        recorder.kept_back(number, None)
    logged = {name for row in read_jsonl(tmp_path / "metrics.jsonl")[0] for name in row}
    assert {"charged", "episodes", "skipped_update", "on_policy_groups", "coder_failures"} <= logged
    assert [name for name in logged if describe(name).startswith("Not described")] == []
    assert describe("news").startswith("Not described")


def spoken(*turns):
    """Return a policy that says these replies, a list for each call, and the prompts that it was given."""
    asked = []

    def generate(prompts, seed):
        asked.append([prompt[-1]["content"] for prompt in prompts])
        return list(turns[len(asked) - 1])

    return generate, asked


def test_short_trajectories_start_from_starters_and_from_states_kept_back_in_turn(states):
    start, later = states
    alone = replace(later, task="other", step=3)
    short = ShortTrajectories.of((start, later), (later, alone), GRPOProfile(eval_trajectories=3), 0)
    assert short.steps == 3
    # no starter of the other task is in the pool: its state kept back stands in
    assert short.starts == (alone, alone, alone, start, later, start)
    assert not ShortTrajectories.of((start,), (later,), GRPOProfile(eval_trajectories=0), 0).starts


def test_of_many_tasks_a_few_choose_the_checkpoint(states):
    many = [replace(states[0], task=f"made-{number:03d}") for number in range(100)]
    short = ShortTrajectories.of(many, [], GRPOProfile(eval_trajectories=4), 0)
    tasks = [state.task for state in short.starts]
    assert len(tasks) == len(set(tasks)) == 36 and tasks == sorted(tasks)  # as many as nine tasks make
    nine = ShortTrajectories.of(many[:9], [], GRPOProfile(eval_trajectories=4), 0)
    assert [state.task for state in nine.starts] == [state.task for state in many[:9] for _ in range(4)]


def test_the_gap_that_short_trajectories_close_by_hand(states, tools):
    short = ShortTrajectories(tuple(states), 2)  # scores 5.0, the starter's, and 2.5; the best known is 0
    generate, asked = spoken([neighbours(8), neighbours(12)], [final(), neighbours(96)])
    found = short.measure(generate, tools, Prompter("pocket", 6), 0)
    # 8 neighbours score 1.0: 0.8 of the gap; the other ends at 12.0, far below the starter: -1.4, bounded
    assert found == {"gap": pytest.approx((0.8 - 1.0) / 2), "gap_unscored": 0}
    assert [len(prompts) for prompts in asked] == [2, 2]
    generate, asked = spoken([neighbours(8)])  # with one step a trajectory, the second start is an end
    found = short.measure(generate, tools, Prompter("pocket", 1), 0)
    assert found["gap"] == pytest.approx((0.8 + 0.5) / 2) and [len(prompts) for prompts in asked] == [1]


def test_a_short_trajectory_that_we_fail_to_score_is_left_out_and_counted(states, tools, tmp_path):
    lost = Unscored("no", cure="wait")
    runner = FakeRunner(lambda request: lost if b"=20" in request.files["train.py"] else None)
    broken = make_tools(tmp_path / "broken", runner, home=tmp_path / "tasks")
    short = ShortTrajectories((states[0],) * 2, 1)
    generate, _ = spoken([neighbours(8), neighbours(20)])
    found = short.measure(generate, broken, Prompter("pocket", 6), 0)
    assert found == {"gap": pytest.approx(0.8), "gap_unscored": 1}
    with pytest.raises(Unscored, match="no short trajectory"):
        ShortTrajectories((states[0],), 1).measure(
            spoken([neighbours(20)])[0], broken, Prompter("pocket", 6), 0
        )


@pytest.mark.parametrize(("with_gap", "chosen"), [(True, 5), (False, 15)])
def test_the_checkpoint_of_the_best_trajectories_is_kept_though_single_steps_pay_more_and_more(
    states, tools, tmp_path, monkeypatch, with_gap, chosen
):
    def save(model, folder):
        write_json(folder / "adapter.json", {"of": model})

    monkeypatch.setattr(grpo, "_save_adapter", save)
    gaps = {0: 0.1, 5: 0.52, 10: 0.52, 15: 0.36}  # the earlier of two equal ones

    def measure(step):
        told = {"reward": 0.01 * step, "validity": 1.0, "unscored": 0}
        return told | ({"gap": gaps[step], "gap_unscored": 0} if with_gap else {})

    reward = StepReward({}, tools, form="gain", group_size=2)
    recorder = Recorder(tmp_path, reward, measure, lambda row: None, 0.0)
    for step in gaps:
        recorder.kept_back(step, f"weights {step}")
    assert json.loads((tmp_path / "best" / "adapter.json").read_text()) == {"of": f"weights {chosen}"}
    found = _finish("weights 15", tmp_path, tmp_path / "start", tmp_path / "metrics.jsonl", 1.0)
    assert found["chosen_step"] == chosen and found.get("chosen_gap") == (0.52 if with_gap else None)
    assert json.loads((tmp_path / "adapter" / "adapter.json").read_text()) == {"of": f"weights {chosen}"}


@pytest.mark.slow
def test_a_random_policy_learns_which_action_pays(bandit, states, tools, tmp_path):
    from safetensors.torch import load_file

    out = tmp_path / "out"
    found = train(bandit, states, tools, out)
    rows = read_jsonl(out / "metrics.jsonl")[0]
    held = {row["step"]: row for row in rows if row["split"] == "holdout"}
    trained = [row for row in rows if row["split"] == "train"]
    assert list(held) == [0, 8, 16, 24] and [row["step"] for row in trained] == list(range(1, 25))
    # five replies of about equal chance: 1 + 0 + 0 + 0.5 + 0.5 of 5, with a margin for the draw
    assert held[0]["reward"] < 0.6
    assert max(row["reward"] for row in held.values()) > held[0]["reward"] + 0.25
    late = statistics.fmean(row["reward"] for row in trained[-5:])
    assert late > statistics.fmean(row["reward"] for row in trained[:5]) + 0.25
    best = max(held.values(), key=lambda row: (row["reward"], -row["step"]))
    assert (found["chosen_step"], found["chosen_holdout_reward"]) == (best["step"], best["reward"])
    assert (found["steps"], found["unscored"]) == (24, 0)
    # the chosen adapter is not the one at the start, and only the adapter was trained
    before = load_file(bandit / "adapter" / "adapter_model.safetensors")
    after = load_file(out / "adapter" / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)
    assert not (out / "checkpoints").exists()
    assert all(row["kl"] >= 0 and math.isfinite(row["loss"]) for row in trained)


class Killed(BaseException):
    """Stands for a kill in the middle of training."""


def numbers(out: Path) -> list[dict]:
    """Return the rows of metrics without what may differ from run to run: clocks and hits of the cache."""
    rows = read_jsonl(out / "metrics.jsonl")[0]
    return [
        {name: value for name, value in row.items() if not name.startswith(("seconds", "cache", "charged"))}
        for row in rows
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kill", "settings"),
    [
        (("train", 7), {"states_per_step": 2}),  # in mid-epoch
        (("train", 7), {"states_per_step": 1}),
        (("holdout", 3), {"states_per_step": 1}),  # where an epoch ends
        (("train", 7), {"states_per_step": 2, "focus": 0.5}),
        (("train", 7), {"states_per_step": 2, "onpolicy_share": 0.5, "eval_trajectories": 2}),
        (("train", 7), {"states_per_step": 2, "num_iterations": 3}),
        (("train", 6), {"states_per_step": 2, "num_iterations": 3, "save_s": 0.0}),  # each update takes long
    ],
)
def test_a_killed_training_ends_where_an_uninterrupted_one_ends(
    bandit, states, tools, tmp_path, monkeypatch, kill, settings
):
    from safetensors.torch import load_file

    every = 1 if "save_s" in settings else 3
    short = {"steps": 8, "eval_every": 3, **settings}
    monkeypatch.setattr(checkpoints, "SAVE_S", short.pop("save_s", checkpoints.SAVE_S))
    saved = (kill[1] - (every == 1)) // every * every * settings.get("num_iterations", 1)
    whole = train(bandit, states, tools, tmp_path / "whole", **short)

    def progress(row):
        if (row["split"], row["step"]) == kill:
            raise Killed

    with pytest.raises(Killed):
        train(bandit, states, tools, tmp_path / "cut", progress=progress, **short)
    assert (tmp_path / "cut" / "checkpoints" / f"checkpoint-{saved}").is_dir()
    resumed = train(bandit, states, tools, tmp_path / "cut", **short)
    assert numbers(tmp_path / "cut") == numbers(tmp_path / "whole")
    assert {**resumed, "seconds": 0} == {**whole, "seconds": 0}
    for folder in ("adapter", "last"):
        first, second = (
            load_file(tmp_path / run / folder / "adapter_model.safetensors") for run in ("whole", "cut")
        )
        assert all(first[name].equal(second[name]) for name in first)


@pytest.mark.slow
def test_the_base_weights_can_play_the_coder_while_the_adapter_is_trained(bandit, states, tools, tmp_path):
    from safetensors.torch import load_file

    coders = []

    def make_tools_with(coder):
        coders.append(coder)
        return replace(tools, coder=coder)

    profile = GRPOProfile(steps=2, states_per_step=2, group_size=4, lr=3e-2, max_new_tokens=1, eval_every=2)
    train_grpo(
        rl_profile(str(bandit / "model"), grpo=profile, coder="base"), StatePool(tuple(states)), states,
        make_tools=make_tools_with, adapter=bandit / "adapter", out=tmp_path, seed=1,
    )  # fmt: skip
    assert isinstance(coders[0], BlockCoder) and coders[0]._memory  # it was asked; what it said is no block
    before, after = (
        load_file(path / "adapter_model.safetensors") for path in (bandit / "adapter", tmp_path / "last")
    )
    assert any(not before[name].equal(after[name]) for name in before)


@pytest.mark.slow
def test_a_pool_smaller_than_a_step_is_an_error(bandit, states, tools, tmp_path):
    with pytest.raises(RunError, match="holds 2 states, but a step takes 3"):
        train(bandit, states, tools, tmp_path, states_per_step=3)


@pytest.mark.slow
def test_the_coder_is_the_base_model_whatever_the_adapter(bandit, tmp_path):
    import torch

    from mlagent_lib.training.backends import generate_texts, load

    loaded = load(str(bandit / "model"), backend="plain", adapter=bandit / "adapter", trainable=True)
    plain = load(str(bandit / "model"), backend="plain")
    with torch.no_grad():
        for name, weight in loaded.model.named_parameters():
            if "lora_B" in name:
                weight.fill_(2.0)
    ask = [[{"role": "user", "content": "anything"}]]

    def logits(backend):
        batch = backend.tokenizer("anything", return_tensors="pt").input_ids
        return backend.model(batch).logits

    bare = logits(plain)
    assert not torch.equal(logits(loaded), bare)
    trainable = {name for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    with loaded.base():
        assert torch.equal(logits(loaded), bare)
        generate_texts(loaded.model, loaded.tokenizer, ask, temperature=0.0, max_new_tokens=1)
    assert trainable == {name for name, weight in loaded.model.named_parameters() if weight.requires_grad}
    assert trainable and all("lora" in name for name in trainable)


@pytest.mark.slow
def test_sampling_follows_its_seed_and_leaves_the_global_stream(bandit):
    import torch

    from mlagent_lib.training.backends import load

    loaded = load(str(bandit / "model"), backend="plain")
    generate = loaded.sampler(temperature=1.0, max_new_tokens=1)
    asks = [[{"role": "user", "content": str(number)}] for number in range(40)]
    torch.manual_seed(5)
    first = generate(asks, 1)
    left = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), left)
    assert generate(asks, 1) == first != generate(asks, 2)
    assert set(first) <= {*REPLIES, ""} and len(set(first)) > 2


@pytest.mark.slow
def test_without_a_better_checkpoint_the_start_is_kept(bandit, states, tools, tmp_path):
    from safetensors.torch import load_file

    flat = [replace(state, score=None) for state in states]  # nothing else than a look: every reward is equal
    out = tmp_path / "out"
    runner = FakeRunner(lambda request: None)
    silent = make_tools(
        tmp_path / "silent", runner, coder=NoCoder(), home=tmp_path / "tasks", reply_format="six"
    )
    found = train(bandit, flat, silent, out, steps=2, eval_every=1, reward_form="v1-no-format")
    assert found["chosen_step"] == 0
    first, second = (
        load_file(path / "adapter_model.safetensors") for path in (bandit / "adapter", out / "adapter")
    )
    assert all(first[name].equal(second[name]) for name in first)
    rows = [row for row in read_jsonl(out / "metrics.jsonl")[0] if row["split"] == "train"]
    assert all(row["flat_groups"] == row["groups"] and row["advantage_std"] == 0.0 for row in rows)
    json.dumps(found, allow_nan=False)


class NoCoder:
    """Refuses every edit: each becomes a corner case."""

    name = "none"

    def edit_many(self, requests):
        from mlagent_lib.core.errors import CoderError

        return [CoderError("no") for _ in requests]


def test_an_edit_taken_back_is_a_family_and_what_changes_no_score_is_none(tmp_path):
    task, tools = write_task(tmp_path / "tasks"), make_tools(tmp_path)
    texts = [neighbours(8), neighbours(8), reply("Undo Edit Script", script_name="train.py"), final()]
    state, found = start_state(task, tools), []
    for text in texts:
        result = run_step(state, text, tools)
        state, found = result.state, [*found, family_made(result, tools)]
    assert found == ["model/knn", None, None, None]  # the second edit changed nothing, nor does its end
    edited = run_step(start_state(task, tools), texts[0], tools).state
    assert family_made(run_step(edited, texts[2], tools), tools) == "Undo Edit Script"


def test_variety_pays_the_entropy_of_what_a_batch_does():
    """Two families, half each: log 2 on average; one family for everything: nothing."""
    even = variety_pay(["model/knn", "data/pca"] * 8, 0.1)
    assert even == pytest.approx([0.1 * math.log(2)] * 16)
    assert variety_pay(["model/knn"] * 16, 0.1) == [0.0] * 16
    # nonsense that nobody else says is paid no more than what one in twenty says
    rare = variety_pay(["model/knn"] * 99 + ["data/pca"], 0.1)
    assert rare[-1] == pytest.approx(0.1 * math.log(20))
    assert variety_pay([None, "model/knn", None], 0.1) == [0.0, 0.0, 0.0]
