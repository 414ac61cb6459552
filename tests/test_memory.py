"""The memory estimate: shapes, sums by hand, what autograd really keeps, and refusals that help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mlagent_lib.cli import main
from mlagent_lib.core.errors import MlagentError, ProfileError
from mlagent_lib.core.profiles import PROFILES, get_profile
from mlagent_lib.training import memory
from mlagent_lib.training.memory import (
    CONTEXT,
    GB,
    PROGRAMS,
    SHAPES,
    SPARE,
    Shape,
    activation_bytes,
    announce,
    attention_bytes,
    cache_bytes,
    check_fit,
    estimate,
    layer_bytes,
    lora_parameters,
    parameters,
    shape_of,
    weight_bytes,
)


@pytest.mark.parametrize(
    ("size", "count"), [("0.5B", 494032768), ("1.5B", 1543714304), ("3B", 3085938688), ("7B", 7615616512)]
)
def test_the_shapes_have_as_many_parameters_as_transformers_makes_of_them(size, count):
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    shape = SHAPES[size]
    assert sum(parameters(shape)) == count
    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
    )  # fmt: skip
    with torch.device("meta"):  # no memory is taken
        model = Qwen2ForCausalLM(config)
    assert sum(weight.numel() for weight in {id(w): w for w in model.parameters()}.values()) == count
    from peft import get_peft_model

    from mlagent_lib.training.backends import lora_config

    with torch.device("meta"):
        adapted = get_peft_model(model, lora_config(16, 32))
    assert sum(w.numel() for n, w in adapted.named_parameters() if "lora_" in n) == lora_parameters(shape, 16)


def test_names_of_models():
    assert shape_of("Qwen/Qwen2.5-7B") == shape_of("unsloth/Qwen2.5-7B-Instruct") == SHAPES["7B"]
    for name in ("pocket", "Qwen/Qwen2.5-72B", "Qwen/Qwen3-4B", "meta/Llama-3.1-8B"):
        assert shape_of(name) is None


TINY = Shape(hidden=128, feed_forward=512, layers=2, heads=4, kv_heads=2, vocabulary=64, tied=True)


def kept(layers: int, checkpointing: bool, attention: str = "sdpa") -> int:
    """Return the bytes that autograd keeps for 2 texts of 50 tokens, weights and casts of adapters apart."""
    import torch
    from peft import get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from mlagent_lib.training.backends import lora_config

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64, hidden_size=128, intermediate_size=512, num_hidden_layers=layers,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True, attn_implementation=attention,
    )  # fmt: skip
    model = get_peft_model(Qwen2ForCausalLM(config).to(torch.bfloat16), lora_config(8, 8))
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        model.enable_input_require_grads()
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    casts = {(8, 128), (8, 64), (8, 512), (128, 8), (64, 8), (512, 8)}  # adapters in bfloat16: no activations
    seen = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights and tuple(tensor.shape) not in casts:
            seen[storage.data_ptr()] = (storage.nbytes(), tensor)  # held, so that no address comes twice
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16),
    ):
        model(input_ids=torch.randint(0, 64, (2, 50)), use_cache=False)
    return sum(size for size, _ in seen.values())


def test_a_layer_keeps_what_the_formula_says():
    measured = (kept(3, False) - kept(2, False)) / 100
    assert measured == pytest.approx(layer_bytes(TINY, "bfloat16", 8), rel=0.02)
    assert layer_bytes(TINY, "bfloat16", 8) == 24 * 128 + 4 * 64 + 8 * 512 + 14 * 8 + 4 * 4 + 8
    checkpointed = (kept(3, True) - kept(2, True)) / 100
    assert checkpointed == pytest.approx(2 * 128, rel=0.02)  # the layer's input in 16 bits
    both = activation_bytes(TINY, 100, "bfloat16", checkpointing=True, r=8)
    assert both == 100 * (2 * 2 * 128 + layer_bytes(TINY, "bfloat16", 8))


def test_plain_attention_keeps_its_probabilities():
    measured = (kept(3, False, "eager") - kept(2, False, "eager")) - (kept(3, False) - kept(2, False))
    assert attention_bytes(TINY, 2 * 50 * 50, checkpointing=False) == 2 * 4 * 5000 * 6
    assert measured == pytest.approx(attention_bytes(TINY, 2 * 50 * 50, checkpointing=True), rel=0.02)


def test_a_language_model_on_a_processor_by_hand():
    shape, profile = shape_of("smollm2"), get_profile("laptop-llm")
    found = estimate(profile, on_card=False).phases
    assert found["SFT"]["programs"] == PROGRAMS and "CUDA context" not in found["SFT"]
    assert found["SFT"]["attention"] == 30 * 9 * 2 * 512 * 512 * 6
    # four rows of one group: its prompt of 400 tokens once, and four replies of 112
    assert found["GRPO update"]["attention"] == 30 * 9 * 6 * (400 * 400 + 4 * 112 * 512)
    read = activation_bytes(shape, 400 + 4 * 112, "bfloat16", checkpointing=False, r=16)
    assert found["GRPO update"]["activations"] == read
    assert "attention" not in estimate(profile, on_card=False, precision="float32").phases["SFT"]
    assert "attention" not in estimate(profile).phases["SFT"]


def test_the_parts_by_hand():
    shape = SHAPES["0.5B"]
    assert weight_bytes(shape, "float32") == 4 * 494032768
    linear, other = parameters(shape)
    assert weight_bytes(shape, "bfloat16", four_bit=True) == pytest.approx(linear * 4.127 / 8 + 2 * other)
    assert cache_bytes(shape, 16, 1000, "float16") == 16 * 1000 * 24 * 2 * 128 * 2
    profile = get_profile("colab-t4").with_model("Qwen/Qwen2.5-0.5B-Instruct")
    found = estimate(profile)
    lora = lora_parameters(shape, 16)
    assert found.phases["SFT"] == {
        "base weights": 2 * 494032768, "CUDA context": CONTEXT, "adapter, gradient, Adam": 16 * lora,
        "activations": activation_bytes(shape, 3072, "float16", checkpointing=True, r=16),
        "logits": 3072 * 151936 * 12,
    }  # fmt: skip
    assert found.phases["GRPO update"]["logits"] == 4 * 256 * 151936 * 8
    assert found.phases["GRPO sampling"]["keys and values"] == cache_bytes(shape, 16, 3072, "float16")
    assert found.phases["GRPO sampling"]["reference adapter"] == 4 * lora
    assert found.total("SFT") == pytest.approx(sum(found.phases["SFT"].values()) * (1 + SPARE))
    assert found.peak == max(found.total(phase) for phase in found.phases)
    on_cpu = estimate(profile, on_card=False, precision="float32").phases
    assert "CUDA context" not in on_cpu["SFT"] and "flat weights" not in found.phases["GRPO sampling"]
    assert on_cpu["GRPO sampling"]["flat weights"] == 4 * parameters(shape)[0]


def test_more_of_anything_never_takes_less():
    base = get_profile("gpu")
    peak = estimate(base).peak
    for name, value in (
        ("sft__lora_r", 128), ("sft__micro_batch", 2), ("grpo__micro_batch", 16), ("generation_rows", 16),
        ("sft__checkpointing", False), ("grpo__checkpointing", False), ("precision", "float32"),
    ):  # fmt: skip
        more = estimate(base.with_values("more", **{name: value}))
        assert more.peak >= peak and more.phases != estimate(base).phases, name
    assert estimate(base.with_values("less", four_bit=True)).peak < peak
    assert estimate(base, backend="unsloth").peak < peak
    engine = estimate(base.with_values("vllm", grpo__vllm="colocate"), card_gb=80.0)
    assert engine.phases["GRPO update"]["vLLM engine"] == pytest.approx(24 * GB)


@pytest.mark.parametrize("name", [name for name, profile in PROFILES.items() if profile.card_gb])
@pytest.mark.parametrize("backend", ["plain", "unsloth"])
def test_every_profile_fits_the_card_that_it_is_made_for(name, backend):
    profile = get_profile(name)
    assert check_fit(profile, profile.card_gb, backend=backend).peak <= profile.card_gb * GB
    if name == "colab-t4":
        for size in ("0.5B", "1.5B", "3B"):
            other = profile.with_model(f"Qwen/Qwen2.5-{size}-Instruct")
            assert other.four_bit == (size == "3B")
            check_fit(other, profile.card_gb, backend=backend)


def taken(cure: str, profile):
    """Return the profile with what an error's cure names."""
    words = cure.removeprefix("take ").partition(":")[0].split(", ")
    changes = {}
    for word in words:
        name, value = word.split("=")
        changes[name.replace(".", "__")] = value if name == "model" else eval(value)
    return profile.with_values("cured", **changes)


@pytest.mark.parametrize(
    ("name", "changes", "card", "cure"),
    [
        ("colab-t4", {"model": "Qwen/Qwen2.5-3B-Instruct"}, 15.0, "four_bit=True:"),
        ("colab-t4", {"model": "Qwen/Qwen2.5-7B-Instruct"}, 15.0, "model=Qwen/Qwen2.5-3B-Instruct, four_bit"),
        ("gpu", {}, 25.4, "model=Qwen/Qwen2.5-3B-Instruct"),
        ("paper", {}, 60.0, "generation_rows=8:"),
        ("gpu", {"sft__micro_batch": 16}, 42.0, "sft.micro_batch=1:"),
        ("gpu", {"sft__checkpointing": False}, 80.0, "sft.checkpointing=True:"),
    ],
)
def test_what_does_not_fit_is_refused_and_a_combination_named_that_does(name, changes, card, cure):
    profile = get_profile(name).with_values("mine", **changes)
    with pytest.raises(
        ProfileError, match=rf"under profile 'mine' needs about .* GB, and there are {card}"
    ) as error:
        check_fit(profile, card)
    assert error.value.cure.startswith(f"take {cure}")
    check_fit(taken(error.value.cure, profile), card)  # it does fit


def test_no_combination_and_no_shape_are_told():
    with pytest.raises(ProfileError, match="take a larger card"):
        check_fit(get_profile("gpu"), 3.0)
    with pytest.raises(ProfileError, match="shape of model 'pocket' is not known.*Qwen2.5-1.5B"):
        estimate(get_profile("laptop"))


def test_it_is_printed_before_anything_is_loaded(monkeypatch):
    lines = []
    profile = get_profile("colab-t4")
    announce(get_profile("laptop"), "plain", "float32", say=lines.append)
    assert lines == []  # the pocket model fits anywhere
    monkeypatch.setattr(memory, "available_gb", lambda: (15.8, True))
    announce(profile, "unsloth", "float16", say=lines.append)
    assert lines[0] == "Qwen/Qwen2.5-1.5B-Instruct, backend unsloth, float16"
    assert lines[-1].startswith("needs about 9.") and lines[-1].endswith("GB of the 15.8 GB of this card")
    monkeypatch.setattr(memory, "available_gb", lambda: (64.0, False))
    announce(profile, "plain", "float32", say=lines.append)
    assert "this machine; without CUDA it runs on the CPU" in lines[-1]
    monkeypatch.setattr(memory, "available_gb", lambda: (6.0, True))
    with pytest.raises(ProfileError, match="needs about .* and there are 6.0.*take"):
        announce(profile, "plain", "float16", say=lines.append)


def test_the_memory_to_fit_into(monkeypatch):
    import torch

    there, on_card = memory.available_gb()
    assert there > 1 and on_card == torch.cuda.is_available()
    card = type("Card", (), {"total_memory": 15_828_320_256})
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert memory.available_gb() == (15.828320256, True)


def test_the_lab_refuses_before_it_loads(monkeypatch, tmp_path):
    from mlagent_lib.run import lab

    monkeypatch.setattr(memory, "available_gb", lambda: (6.0, False))
    with pytest.raises(ProfileError, match="Qwen2.5-1.5B-Instruct.*there are 6.0"):
        lab.open_lab("colab-t4", 0, str(tmp_path), "")
    assert not list(tmp_path.iterdir())
    opened = lab.open_lab("smoke", 0, str(tmp_path), "", coder="rules")
    try:
        assert opened.profile.coder == "rules" and opened.changes == {"coder": "rules"}
        assert opened.stage("x").params == {"profile": "smoke", "seed": 0, "coder": "rules"}
    finally:
        opened.close()


def test_another_model_coder_and_engine_are_one_parameter_each():
    from mlagent_lib.run.lab import changed_profile

    profile = get_profile("colab-t4")
    same, changes = changed_profile(profile, model="", coder="base", vllm="")
    assert same == profile and changes == {}
    wanted = {"model": "Qwen/Qwen2.5-3B-Instruct", "coder": "openai:m@http://h/v1", "vllm": "http://h:8000"}
    other, changes = changed_profile(profile, **wanted)
    assert changes == wanted and (other.model, other.coder, other.grpo.vllm) == tuple(wanted.values())
    assert other.four_bit and other.name == "colab-t4"
    assert replace(other, model=profile.model, coder="base", four_bit=False, grpo=profile.grpo) == profile


def test_the_command(capsys):
    assert main(["memory", "--profile", "colab-t4", "--model", "Qwen/Qwen2.5-3B-Instruct"]) == 0
    shown = capsys.readouterr().out
    assert "4-bit base" in shown and "keys and values" in shown and "GB of 15.0" in shown
    assert main(["memory", "--profile", "gpu", "--card-gb", "25.4"]) == 2
    caught = capsys.readouterr()
    assert "base weights                         15.23" in caught.out
    assert "needs about 40.9 GB, and there are 25.4" in caught.err and "take " in caught.err
    assert (
        main(["memory", "--profile", "gpu", "--card-gb", "25.4", "--four-bit", "--backend", "unsloth"]) == 0
    )
    assert main(["memory", "--profile", "laptop"]) == 2
    assert "made for no card" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["memory", "--card-gb", "-1"])


def test_shapes_are_read_from_a_folder_and_a_gguf(tmp_path, monkeypatch):
    pytest.importorskip("gguf")
    from test_weights import as_gguf
    from transformers import AutoConfig, AutoModelForCausalLM

    for kind in ("llama", "qwen2"):
        path = as_gguf(tmp_path / kind, kind)
        model = AutoModelForCausalLM.from_pretrained(tmp_path / kind / "source")
        for place in (path.parent / "source", path):
            shape = shape_of(str(place))
            assert sum(parameters(shape)) == sum(weight.numel() for weight in model.parameters()), place
    config = AutoConfig.for_model(
        "qwen3", hidden_size=32, head_dim=16, num_attention_heads=4, num_key_value_heads=2
    )
    config.save_pretrained(tmp_path / "qwen3")
    shape = shape_of(str(tmp_path / "qwen3"))
    assert (shape.query_width, shape.kv_width, shape.biases) == (64, 32, False)
    assert shape_of(str(tmp_path / "nothing")) is None
    monkeypatch.setattr(memory, "available_gb", lambda: (4.0, False))
    with pytest.raises(ProfileError, match="take sft.micro_batch=.*grpo.micro_batch="):
        check_fit(get_profile("laptop-llm"), 2.9, on_card=False)
    assert check_fit(get_profile("laptop-llm"), 8.0, on_card=False).peak < 8 * GB


def test_the_time_follows_from_a_step_that_is_measured_once(tmp_path, monkeypatch):
    from test_checkpoints import save_checkpoint

    from mlagent_lib.training import timing

    monkeypatch.setenv("MLAGENT_HOME", str(tmp_path / "home"))
    folder = save_checkpoint(tmp_path / "model")
    profile = get_profile("laptop-llm").with_values("x", model=str(folder), precision="auto")
    lines = []
    timing.announce_time(profile, lines.append)
    assert lines[0].startswith("measured here, float32: ") and "the profile promises 150" in lines[1]
    (record,) = (tmp_path / "home").glob("speed-*.json")
    before = record.stat().st_mtime_ns
    speed = timing.speed_of(str(folder), profile.loading)
    assert record.stat().st_mtime_ns == before and 0 < speed.learn < 1 and 0 < speed.sample < 1
    twice = timing.Speed(2 * speed.learn, 2 * speed.sample, "float32")
    whole, doubled = (timing.minutes_of(profile, one) for one in (speed, twice))
    assert all(doubled[name] == pytest.approx(2 * whole[name], rel=0.05, abs=2e-4) for name in whole)
    with pytest.raises(MlagentError, match="gpt2 has no q_proj.*take a Qwen2"):
        timing.speed_of(str(save_checkpoint(tmp_path / "other", "gpt2")), profile.loading)
    timing.announce_time(get_profile("laptop"), lines.append)
    assert len(lines) == 2  # the pocket model's time is known
