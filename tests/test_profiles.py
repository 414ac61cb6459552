"""Profiles: the paper is the paper, each constant has a source, a wrong name is told the right one."""

from __future__ import annotations

import dataclasses
import json

import pytest

from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.profiles import (
    PROFILES,
    CollectProfile,
    EvalProfile,
    GRPOProfile,
    Profile,
    SFTProfile,
    get_profile,
)


def test_the_profiles_in_order():
    assert list(PROFILES) == [
        "smoke",
        "laptop",
        "reader",
        "laptop-llm",
        "ablations",
        "colab-t4",
        "gpu",
        "paper",
    ]
    assert all(profile.name == name for name, profile in PROFILES.items())


def test_paper_is_the_paper_and_nothing_else():
    paper = get_profile("paper")
    assert paper == Profile()
    assert not [row for row in paper.as_rows() if row["differs"]]
    assert (paper.sft.lr, paper.sft.epochs, paper.sft.batch) == (2e-5, 2.0, 64)
    assert (paper.grpo.lr, paper.grpo.beta) == (1e-6, 0.001)
    assert (paper.grpo.states_per_step, paper.grpo.steps) == (256, 39)
    assert (paper.collect.max_steps, paper.evaluate.k) == (15, 8)
    assert paper.collect.trajectories_per_task * 9 >= 10_000
    assert paper.model == "Qwen/Qwen2.5-7B" and paper.coder == "endpoint"


@pytest.mark.parametrize("name", list(PROFILES))
def test_every_constant_has_a_source_and_every_deviation_a_reason(name):
    for row in get_profile(name).as_rows():
        assert row["source"], row
        if row["differs"] and row["stage"] != "pretrain":
            assert row["why"] or row["source"].startswith(("deviation", "open")), row


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_profile_is_plain_data(name):
    profile = get_profile(name)
    assert (
        json.loads(json.dumps(dataclasses.asdict(profile), allow_nan=False))["grpo"]["steps"]
        == profile.grpo.steps
    )
    assert profile.grpo.group_size >= (8 if get_profile(name).card_gb else 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        profile.grpo.steps = 1


def test_smoke_is_laptop_in_small():
    smoke, laptop = get_profile("smoke"), get_profile("laptop")
    assert smoke.budget_minutes == 3 and laptop.budget_minutes == 15
    for name in ("model", "coder", "reply_format", "prompt_style", "workers"):
        assert getattr(smoke, name) == getattr(laptop, name)
    assert laptop.evaluate.k >= 4 and laptop.evaluate.max_steps >= 6


def test_table_shows_values_beside_the_papers():
    table = get_profile("laptop").as_table()
    assert list(table.columns) == ["value", "paper", "source", "differs", "why"]
    assert table.loc[("grpo", "beta"), "paper"] == 0.001


@pytest.mark.parametrize(
    ("wrong", "right"), [("lapto", "laptop"), ("Smoke", "smoke"), ("colab", "colab-t4"), ("papper", "paper")]
)
def test_an_unknown_name_is_told_the_closest(wrong, right):
    with pytest.raises(ProfileError, match=f"'{wrong}' is unknown: the closest is '{right}'.*smoke, laptop"):
        get_profile(wrong)


def test_with_values_changes_a_copy():
    arm = get_profile("laptop").with_values("v2-arm", grpo__reward_form="v2", workers=4)
    assert (arm.name, arm.grpo.reward_form, arm.workers) == ("v2-arm", "v2", 4)
    assert get_profile("laptop").grpo.reward_form == "gain"
    assert arm.grpo.steps == get_profile("laptop").grpo.steps


@pytest.mark.parametrize("key", ["grpo__step", "steps", "nonsense__lr", "grpo", "sft__"])
def test_with_values_refuses_an_unknown_constant(key):
    with pytest.raises(ProfileError, match="is unknown"):
        get_profile("laptop").with_values("arm", **{key: 1})


@pytest.mark.parametrize(
    ("section", "values"),
    [
        (GRPOProfile, {"group_size": 1}),
        (GRPOProfile, {"best_of": 9}),
        (GRPOProfile, {"focus_by": "luck"}),
        (GRPOProfile, {"lr": -1.0}),
        (GRPOProfile, {"beta": float("nan")}),
        (SFTProfile, {"holdout_share": 1.0}),
        (SFTProfile, {"lr": float("inf")}),
        (CollectProfile, {"selection": "v3"}),
        (EvalProfile, {"k": -1}),
        (Profile, {"reply_format": "five"}),
        (Profile, {"backend": "cuda"}),
    ],
)
def test_values_out_of_range_are_refused(section, values):
    with pytest.raises(ProfileError, match=next(iter(values))):
        section(**values)


def test_one_card_makes_the_papers_batch_and_the_profile_says_so():
    paper = get_profile("paper")
    assert "accumulated, 256 states" in paper.purpose and paper.grpo.states_per_step == 256
    rows = {row["name"]: row for row in paper.as_rows() if row["stage"] == "grpo"}
    assert "8 A100" in rows["micro_batch"]["source"] and rows["micro_batch"]["value"] == 4
    assert (paper.precision, paper.sft.max_length, paper.sft.micro_batch) == ("bfloat16", 15000, 1)


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.prompt_tokens])
def test_prompt_and_reply_fit_what_the_trainer_reads(name):
    profile = get_profile(name)
    assert profile.prompt_tokens + profile.grpo.max_new_tokens <= profile.sft.max_length
    assert profile.loading.window == profile.sft.max_length
    with pytest.raises(ProfileError, match="the trainer would cut replies off.*raise sft.max_length"):
        profile.with_values("arm", prompt_tokens=profile.sft.max_length)


def test_a_t4_computes_in_float16_without_an_engine():
    colab = get_profile("colab-t4")
    assert (colab.precision, colab.grpo.vllm, colab.four_bit) == ("float16", "no", False)
    assert colab.loading.precision == "float16" and not colab.loading.fast_inference
    for size, four_bit in (("0.5B", False), ("3B", True)):
        assert colab.with_model(f"Qwen/Qwen2.5-{size}-Instruct").loading.four_bit is four_bit
    assert get_profile("gpu").with_values("arm", grpo__vllm="colocate").loading.fast_inference


def test_the_small_profiles_are_loaded_as_before():
    for name in ("smoke", "laptop", "ablations"):
        loading = get_profile(name).loading
        assert (loading.window, loading.generation_rows, loading.coder_tokens) == (0, 0, 160)
        assert (loading.backend, loading.precision, loading.four_bit) == ("auto", "auto", False)
