"""Backends: which one runs, in which order libraries load, settings that are held, and one interface."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
import types
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_task import TRAIN, make_tools, neighbours, rl_profile, write_task

from mlagent_lib.core.errors import CoderError, MlagentError, ProfileError, RunError
from mlagent_lib.core.profiles import GRPOProfile, Loading, SFTProfile, get_profile
from mlagent_lib.environment.coder import BlockCoder, EditRequest, ScriptCoder
from mlagent_lib.training.backends import (
    LORA_TARGETS,
    Backend,
    base_coder,
    choose,
    load,
    loading,
    prepare,
    resolve_precision,
)
from mlagent_lib.training.backends.tokens import ends_with_the_turn
from mlagent_lib.training.processes import BatchPlan, plan_batch, world_size
from mlagent_lib.training.trl_settings import check_held, make_config

METADATA = {"transformers_version"}  # of a generation_config, beside what it sets
LIBRARIES = ("transformers", "peft", "trl")


class Named(Backend):
    """A backend of which only device and precision matter."""

    name = "plain"

    @classmethod
    def load(cls, path, loading, *, adapter=None, trainable=False):
        raise NotImplementedError

    def attach_lora(self, r, alpha, *, seed):
        raise NotImplementedError

    def merge(self, folder):
        raise NotImplementedError


def on(device="cpu", precision="float32", **loading) -> Named:
    return Named("path", types.SimpleNamespace(), None, device, precision, Loading(**loading))


# Which backend ----------------------------------------------------------------------------------------------


def test_the_choice_is_never_silent(monkeypatch):
    monkeypatch.setattr(loading, "_missing_for_unsloth", lambda: ("no CUDA device is visible", "use a GPU"))
    assert choose("plain") == choose("auto") == prepare(Loading()) == "plain"
    with pytest.raises(MlagentError, match="'unsloth' cannot run here: no CUDA.*use a GPU, or choose.*plain"):
        choose("unsloth")
    with pytest.raises(MlagentError, match="'cuda' is unknown.*auto, plain or unsloth"):
        choose("cuda")
    with pytest.raises(MlagentError, match="'cuda' is unknown"):
        load("pocket", backend="cuda")
    monkeypatch.setattr(loading, "_missing_for_unsloth", lambda: None)
    assert choose("plain") == "plain" and choose("auto") == choose("unsloth") == "unsloth"


@pytest.mark.parametrize(
    ("cuda", "capability", "missing"),
    [(False, None, "no CUDA device is visible"), (True, (6, 1), "Tesla P4 is older"), (True, (7, 5), None)],
)
def test_what_unsloth_lacks(monkeypatch, cuda, capability, missing):
    import torch

    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P4")
    found = loading._missing_for_unsloth()
    assert found is None if missing is None else missing in found[0]
    monkeypatch.setattr(loading.importlib.util, "find_spec", lambda name: None)
    assert "not installed" in loading._missing_for_unsloth()[0]


@pytest.fixture
def unsloth_runs(monkeypatch):
    """Let Unsloth be the backend, as if its package and a card were there."""
    monkeypatch.setattr(loading, "_missing_for_unsloth", lambda: None)
    monkeypatch.delitem(sys.modules, "unsloth", raising=False)
    for name in ("UNSLOTH_DISABLE_STATISTICS", "UNSLOTH_COMPILE_LOCATION"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize("early", [("transformers",), ("trl", "peft")])
def test_a_library_that_came_before_unsloth_is_refused_with_the_cure(unsloth_runs, early):
    for name in LIBRARIES:
        unsloth_runs.delitem(sys.modules, name, raising=False)
    for name in early:
        unsloth_runs.setitem(sys.modules, name, types.ModuleType(name))
    with pytest.raises(
        RunError, match="imported before unsloth.*restart the kernel.*or choose backend plain"
    ):
        prepare(Loading(backend="unsloth"))
    assert prepare("plain") == "plain"


def test_unsloth_is_imported_once_with_its_reports_off_and_its_cache_by_version(unsloth_runs):
    for name in LIBRARIES:
        unsloth_runs.delitem(sys.modules, name, raising=False)
    asked = []

    def imported(name):
        asked.append(name)
        unsloth_runs.setitem(sys.modules, name, types.ModuleType(name))

    unsloth_runs.setattr(loading.importlib, "import_module", imported)
    assert prepare() == prepare("unsloth") == "unsloth" and asked == ["unsloth"]
    assert os.environ["UNSLOTH_DISABLE_STATISTICS"] == "1"
    import trl

    assert trl.__version__ in Path(os.environ["UNSLOTH_COMPILE_LOCATION"]).name
    unsloth_runs.setitem(sys.modules, "transformers", types.ModuleType("transformers"))
    assert prepare() == "unsloth"  # it came after


def test_an_unsloth_that_cannot_be_imported_is_an_error_of_ours(unsloth_runs):
    def broken(name):
        raise NotImplementedError("Unsloth cannot find any torch accelerator? You need a GPU.")

    for name in LIBRARIES:
        unsloth_runs.delitem(sys.modules, name, raising=False)
    unsloth_runs.setattr(loading.importlib, "import_module", broken)
    with pytest.raises(
        MlagentError, match="cannot be imported: Unsloth cannot find any.*choose backend plain"
    ):
        prepare()


def test_whatever_is_imported_first_unsloth_comes_before_the_libraries_that_it_changes(tmp_path):
    (tmp_path / "unsloth.py").write_text(
        f"import sys\nSEEN = [n for n in {LIBRARIES!r} if n in sys.modules]\n"
    )
    code = f"""
import sys
sys.path.insert(0, {str(tmp_path)!r})
import mlagent_lib.run.stages, mlagent_lib.run.notebook_tables, mlagent_lib.run.agent
from mlagent_lib.run.lab import open_lab
from mlagent_lib.training import scoring, sft, grpo, memory
from mlagent_lib.training.backends import loading
loading._missing_for_unsloth = lambda: None
open_lab("smoke", 0, {str(tmp_path)!r}, "").close()
print("seen", sys.modules["unsloth"].SEEN)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[-1:] == ["seen []"], done.stderr[-2000:]


# Device and precision ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "device", "has_bfloat16", "found"),
    [
        ("auto", "cpu", False, "float32"), ("float16", "cpu", False, "float32"),
        ("auto", "cuda", True, "bfloat16"), ("auto", "cuda", False, "float16"),
        ("float16", "cuda", True, "float16"), ("float32", "cuda", True, "float32"),
    ],
)  # fmt: skip
def test_the_precision(wanted, device, has_bfloat16, found):
    assert resolve_precision(wanted, device=device, has_bfloat16=has_bfloat16) == found


def test_bfloat16_on_a_card_without_it_is_refused():
    with pytest.raises(ProfileError, match="'bfloat16' cannot run here.*precision float16"):
        resolve_precision("bfloat16", device="cuda", has_bfloat16=False)


@pytest.mark.parametrize(
    ("device", "precision", "flags"),
    [
        ("cpu", "float32", (True, False, False)),
        ("cuda", "bfloat16", (False, True, False)),
        ("cuda", "float16", (False, False, True)),
        ("cuda", "float32", (False, False, False)),
    ],
)
def test_the_trainer_computes_as_the_model_was_loaded(device, precision, flags):
    found = on(device, precision).trainer_settings(checkpointing=True)
    assert (found["use_cpu"], found["bf16"], found["fp16"]) == flags
    assert found["gradient_checkpointing"] and found["gradient_checkpointing_kwargs"] == {
        "use_reentrant": False
    }
    assert on().trainer_settings(checkpointing=False)["gradient_checkpointing_kwargs"] is None


def test_four_bits_without_a_card_are_refused(tiny):
    with pytest.raises(MlagentError, match="4-bit weights cannot be had here: no CUDA"):
        load(str(tiny / "model"), backend=Loading("plain", four_bit=True))


# Batches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "options", "plan"),
    [
        (64, {}, BatchPlan(64, 1)),
        (64, {"micro": 1, "world": 8}, BatchPlan(1, 8, 8)),
        (2048, {"micro": 4, "group": 8}, BatchPlan(4, 512)),
        (64, {"micro": 7, "group": 8}, BatchPlan(4, 16)),  # 7 does not divide 64: the next smaller divisor
        (16, {"micro": 99, "group": 8, "world": 2}, BatchPlan(8, 1, 2)),
    ],
)
def test_a_batch_is_split_without_rest(total, options, plan):
    assert plan_batch(total, **options) == plan
    assert plan.per_device * plan.accumulation * plan.world == total
    assert plan.per_device * plan.accumulation % options.get("group", 1) == 0


def test_a_group_is_never_torn_between_processes(monkeypatch):
    with pytest.raises(
        ProfileError, match="batch of 3 states cannot be shared by 2 processes.*multiple of 2"
    ):
        plan_batch(24, group=8, world=2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert world_size() == 4
    monkeypatch.delenv("WORLD_SIZE")
    assert world_size() == 1


# Settings ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Stock:
    """Stands for TRL's configuration."""

    lr: float = 1e-6
    beta: float = 0.0
    epsilon_high: float | None = None
    report_to: list[str] | str = "none"


class Greedy(Stock):
    """Stands for Unsloth's: other defaults, and one argument that it changes or loses."""

    def __init__(self, lr=5e-5, beta=0.001, epsilon_high=0.28, **rest):
        super().__init__(lr, beta, epsilon_high, rest.get("report_to", "none"))


class Dropping(Stock):
    def __init__(self, lr=5e-5, **rest):
        super().__init__(lr=lr)


class Raising(Stock):
    def __init__(self, lr=5e-5, **rest):
        super().__init__(**rest)
        self.lr = 2 * lr


def test_every_field_is_given_so_that_no_other_default_slips_in():
    made = make_config(Greedy, {"lr": 0.5})
    assert (made.lr, made.beta, made.epsilon_high) == (0.5, 0.0, None)  # not 0.001 and 0.28


def test_a_setting_that_was_dropped_or_changed_is_an_error():
    with pytest.raises(RunError, match="Dropping does not hold.*beta is 0.0 instead of 0.25.*versions that"):
        make_config(Dropping, {"beta": 0.25, "lr": 0.1})
    with pytest.raises(RunError, match="Raising does not hold what was asked for: lr is 0.2 instead of 0.1"):
        make_config(Raising, {"lr": 0.1})
    with pytest.raises(RunError, match="Stock has no setting max_prompt_length"):
        make_config(Stock, {"max_prompt_length": 5})
    with pytest.raises(RunError, match="the trainer does not hold.*lr is 1e-06 instead of 1.*beta is 0.0"):
        check_held(Stock(), {"lr": 1, "beta": 2, "report_to": "none"}, "the trainer")
    with pytest.raises(RunError, match=r"rollout_func was dropped \(asked for None\)"):
        check_held(types.SimpleNamespace(), {"rollout_func": None}, "the trainer")


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_trl_holds_all_that_is_asked_for(tmp_path, precision):
    from trl import GRPOConfig, SFTConfig

    from mlagent_lib.training.grpo import grpo_settings
    from mlagent_lib.training.sft import sft_settings

    for name in ("laptop", "colab-t4", "gpu", "paper"):
        profile = get_profile(name)
        wanted = grpo_settings(on(precision=precision), profile.grpo, out=tmp_path, seed=0)
        made = make_config(GRPOConfig, wanted)
        rows = profile.grpo.states_per_step * profile.grpo.group_size
        assert made.generation_batch_size == rows and rows % made.num_generations == 0
        assert made.per_device_train_batch_size * made.gradient_accumulation_steps == rows
        wanted = sft_settings(on(precision=precision), profile.sft, out=tmp_path, seed=0)
        made = make_config(SFTConfig, wanted)
        assert made.per_device_train_batch_size * made.gradient_accumulation_steps == profile.sft.batch
    assert rows == 256 * 8  # the paper's batch of states, on one card


def test_a_laptop_step_is_one_batch_of_32_states_by_4_replies(tmp_path):
    from mlagent_lib.training.grpo import grpo_settings
    from mlagent_lib.training.sft import sft_settings

    profile = get_profile("laptop")
    found = grpo_settings(on(), profile.grpo, out=tmp_path, seed=0)
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == (128, 1)
    assert not found["gradient_checkpointing"] and not found["use_vllm"]
    found = sft_settings(on(), profile.sft, out=tmp_path, seed=0)
    assert (found["per_device_train_batch_size"], found["gradient_accumulation_steps"]) == (16, 1)


@pytest.mark.parametrize(
    ("vllm", "wanted"),
    [
        ("no", {"use_vllm": False}),
        ("colocate", {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 900}),
        ("http://h:8000", {"use_vllm": True, "vllm_mode": "server", "vllm_server_base_url": "http://h:8000"}),
    ],
)
def test_the_engine_of_the_rollouts(tmp_path, vllm, wanted):
    from mlagent_lib.training.grpo import grpo_settings

    found = grpo_settings(on(window=900), GRPOProfile(vllm=vllm), out=tmp_path, seed=0)
    assert found.items() >= wanted.items()
    with pytest.raises(ProfileError, match="vllm is 'yes'.*vllm-serve"):
        GRPOProfile(vllm="yes")


# The plain backend ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """Return the folder of a random model whose tokens are whole replies, and of an adapter for it."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Split
    from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    words = ["<pad>", "<eos>", "<unk>", neighbours(8), neighbours(48), "nonsense", "other"]
    vocabulary = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = Split("|", "removed")  # one token a message
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=vocabulary, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'][-9:] }}|{% endfor %}"
    tokenizer.save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=None, eos_token_id=1, pad_token_id=0,
        tie_word_embeddings=False, initializer_range=0.25,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(folder / "model")
    loaded = load(str(folder / "model"), backend="plain")
    loaded.attach_lora(4, 8, seed=1)
    loaded.save(folder / "adapter")
    return folder


def logits(model):
    import torch

    with torch.no_grad():
        return model(torch.tensor([[3, 4, 5]])).logits


def test_lora_on_off_save_and_merge(tiny, tmp_path):
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    path = str(tiny / "model")
    loaded = load(path, backend="plain")
    bare = logits(loaded.model)
    for what in (loaded.save, loaded.merge):
        with pytest.raises(RunError, match="no adapter.*attach_lora"):
            what(tmp_path / "nothing")
    loaded.attach_lora(4, 8, seed=1)
    assert torch.equal(logits(loaded.model), bare)  # B is zero
    with pytest.raises(RunError, match="an adapter already"):
        loaded.attach_lora(4, 8, seed=1)
    weights = dict(loaded.model.named_parameters())
    assert {name.split(".lora_")[0].split(".")[-1] for name in weights if "lora_" in name} == set(
        LORA_TARGETS
    )
    assert all(w.requires_grad == ("lora_" in name) for name, w in weights.items())
    with torch.no_grad():
        for name, weight in weights.items():
            if "lora_B" in name:
                weight.fill_(0.5)
    on_top = logits(loaded.model)
    assert not torch.allclose(on_top, bare, atol=0.1)
    with loaded.base():
        assert torch.equal(logits(loaded.model), bare)
    loaded.save(tmp_path / "adapter")
    again = load(path, backend="plain", adapter=tmp_path / "adapter", trainable=True)
    assert torch.equal(logits(again.model), on_top)
    assert any(weight.requires_grad for weight in again.model.parameters())
    frozen = load(path, backend="plain", adapter=tmp_path / "adapter")
    assert not any(weight.requires_grad for weight in frozen.model.parameters())
    loaded.merge(tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert merged.dtype == torch.bfloat16 and not hasattr(merged, "peft_config")
    torch.testing.assert_close(logits(merged).float(), on_top, atol=0.05, rtol=0.05)
    assert torch.equal(logits(loaded.model), on_top)  # the loaded model is as it was
    assert (tmp_path / "merged" / "tokenizer.json").exists()
    first = load_file(tiny / "adapter" / "adapter_model.safetensors")
    second = load(path, backend="plain")
    second.attach_lora(4, 8, seed=1)
    second.save(tmp_path / "twin")
    twin = load_file(tmp_path / "twin" / "adapter_model.safetensors")
    assert first.keys() == twin.keys() and all(first[name].equal(twin[name]) for name in first)


def test_sampling_in_rows_and_a_prompt_that_does_not_fit(tiny):
    path = str(tiny / "model")
    asks = [[{"role": "user", "content": text}] for text in ("nonsense", "other", "nonsense", "x", "other")]
    likeliest = {"temperature": 0.0, "max_new_tokens": 2}
    whole = load(path, backend=Loading("plain")).generate(asks, **likeliest)
    parts = load(path, backend=Loading("plain", generation_rows=2, window=3)).generate(asks, **likeliest)
    assert parts == whole and whole[0] == whole[2] and len(whole) == 5
    narrow = load(path, backend=Loading("plain", window=2))
    with pytest.raises(RunError, match="prompt of 1 tokens and a reply of 2 do not fit the window of 2"):
        narrow.generate(asks, **likeliest)


def test_a_base_model_of_qwen_ends_its_turns():
    class Tokenizer:
        chat_template, eos_token = "{{ message }}<|im_end|>\n", "<|endoftext|>"

        def get_vocab(self):
            return {"<|im_end|>": 1, "<|endoftext|>": 2}

    assert ends_with_the_turn(Tokenizer()).eos_token == "<|im_end|>"
    other = Tokenizer()
    other.chat_template = "{{ message }}"
    assert ends_with_the_turn(other).eos_token == "<|endoftext|>"


# Training ---------------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tiny, tmp_path):
    """Return a function that trains two steps of GRPO and returns the adapter's weights and the rows."""
    from safetensors.torch import load_file

    from mlagent_lib.core.files import read_jsonl
    from mlagent_lib.environment.step import run_steps, start_state
    from mlagent_lib.training.grpo import train_grpo
    from mlagent_lib.training.pool import StatePool

    task = write_task(tmp_path / "tasks")
    tools = make_tools(tmp_path)
    start = start_state(task, tools)
    states = [start, run_steps([(start, neighbours(20))], tools)[0].state]

    def train(name, model=tiny / "model", rows_at_once=0, **changes):
        values = {"steps": 2, "states_per_step": 2, "group_size": 4, "lr": 3e-2, "max_new_tokens": 1,
                  "eval_every": 2, "beta": 0.01}  # fmt: skip
        profile = GRPOProfile(**(values | {"micro_batch": 0, "checkpointing": False} | changes))
        train_grpo(
            rl_profile(str(model), grpo=profile, generation_rows=rows_at_once), StatePool(tuple(states)),
            states, make_tools=lambda coder: tools, adapter=tiny / "adapter", out=tmp_path / name, seed=0,
        )  # fmt: skip
        rows = [row for row in read_jsonl(tmp_path / name / "metrics.jsonl")[0] if row["split"] == "train"]
        return load_file(tmp_path / name / "last" / "adapter_model.safetensors"), rows

    return train


@pytest.mark.slow
def test_accumulation_and_checkpointing_make_the_same_update(scene):
    import torch

    whole, rows = scene("whole")
    assert len(rows) == 2 and rows[0]["kl"] == pytest.approx(0, abs=1e-6)  # the reference is the start
    for name, changes in (
        ("parts", {"micro_batch": 3}),
        ("again", {"micro_batch": 2, "checkpointing": True}),
    ):
        weights, parts = scene(name, **changes)  # 8 rows as 4 times 2: 3 does not divide
        assert [row["steps"] for row in parts] == [8, 8]
        assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in rows], abs=1e-4)
        norms, wanted = ([row["grad_norm"] for row in made] for made in (parts, rows))
        assert norms == pytest.approx(wanted, rel=1e-5)
        for key in whole:
            if whole[key].abs().max() > 0:  # where the gradient is zero, Adam makes a step of its rounding
                torch.testing.assert_close(weights[key], whole[key], atol=1e-6, rtol=1e-4)
    assert max(weights[key].abs().max() for key in weights if "lora_B" in key) > 1e-3  # it did learn


@pytest.mark.slow
def test_what_a_checkpoint_wants_of_sampling_and_how_it_pads_changes_no_training(scene, tiny, tmp_path):
    whole, rows = scene("whole")
    other = shutil.copytree(tiny / "model", tmp_path / "other")
    settings = json.loads((other / "generation_config.json").read_text())
    wants = {"min_p": 0.9, "suppress_tokens": [3, 5, 6], "repetition_penalty": 5.0}
    (other / "generation_config.json").write_text(json.dumps(settings | wants))
    for name in ("tokenizer_config.json", "config.json", "generation_config.json"):
        values = json.loads((other / name).read_text())
        (other / name).write_text(json.dumps({k: v for k, v in values.items() if "pad_token" not in k}))
    weights, again = scene("other", model=other)  # "<pad>" is found again by its name
    names = ("reward", "loss", "kl", "entropy", "grad_norm")
    assert [[row[name] for name in names] for row in again] == [[row[name] for name in names] for row in rows]
    assert weights.keys() == whole.keys() and all(weights[key].equal(whole[key]) for key in whole)


@pytest.mark.slow
def test_a_step_may_be_sampled_in_parts(scene):
    _, rows = scene("rows", rows_at_once=3, steps=1, eval_every=1)
    assert rows[0]["steps"] == 8 and rows[0]["completion_tokens"] == 1


@pytest.mark.slow
def test_a_loss_that_is_no_number_ends_the_training(scene, monkeypatch):
    from trl import GRPOTrainer

    def no_number(self, model, *rest, **options):
        return sum(weight.sum() for weight in model.parameters() if weight.requires_grad) * math.nan

    monkeypatch.setattr(GRPOTrainer, "compute_loss", no_number)
    with pytest.raises(RunError, match="step 1 has loss nan.*training cannot go on.*smaller grpo.lr"):
        scene("nan", steps=1, eval_every=1)


def test_float16_may_skip_some_updates_and_not_all(tmp_path):
    from mlagent_lib.training.grpo import MAX_OVERFLOWS, Recorder, _gradient

    recorder = Recorder(tmp_path, None, None, None, 0.0)
    overflow, good = {"loss": 0.1, "grad_norm": float("inf")}, {"loss": 0.1, "grad_norm": 2.0}
    with pytest.raises(RunError, match="step 1 has loss 0.1 and gradient norm inf"):
        recorder._check_finite(overflow, 1)
    recorder = Recorder(tmp_path, None, None, None, 0.0)
    recorder.float16 = True
    for step in range(MAX_OVERFLOWS):
        recorder._check_finite(overflow, step)
    recorder._check_finite(good, 11)
    for step in range(MAX_OVERFLOWS):
        recorder._check_finite(overflow, step)
    with pytest.raises(RunError, match="step 99"):
        recorder._check_finite(overflow, 99)
    assert _gradient(2.0) == {"grad_norm": 2.0} and _gradient(float("inf")) == {"skipped_update": 1}


def test_the_reference_is_the_adapter_at_the_start_whoever_made_the_trainer(tiny):
    import torch

    from mlagent_lib.training.grpo import _keep_reference

    for given in (False, True):  # Unsloth takes TRL's copy out; TRL gives one
        loaded = load(str(tiny / "model"), backend="plain", adapter=tiny / "adapter", trainable=True)
        if given:
            loaded.model.add_adapter("ref", loaded.model.peft_config["default"])  # not yet a copy
        _keep_reference(loaded.model)
        weights = dict(loaded.model.named_parameters())
        copies = [name for name in weights if ".ref." in name]
        assert copies and loaded.model.active_adapter == "default"
        for name in copies:
            assert torch.equal(weights[name], weights[name.replace(".ref.", ".default.")])
            assert not weights[name].requires_grad
            assert weights[name].data_ptr() != weights[name.replace(".ref.", ".default.")].data_ptr()
            assert weights[name.replace(".ref.", ".default.")].requires_grad


def test_an_adapter_that_a_trainer_made_bfloat16_is_float32_again(tiny):
    import torch

    from mlagent_lib.training.trl_settings import keep_adapter_in_float32

    loaded = load(str(tiny / "model"), backend="plain", adapter=tiny / "adapter", trainable=True)
    for weight in loaded.model.parameters():
        weight.data = weight.data.to(torch.bfloat16)
    keep_adapter_in_float32(loaded.model)
    for weight in loaded.model.parameters():
        assert weight.dtype == (torch.float32 if weight.requires_grad else torch.bfloat16)


@pytest.mark.slow
def test_sft_accumulates_the_same_batch_and_counts_rows_that_are_cut(tiny, tmp_path, caplog):
    import torch
    from safetensors.torch import load_file

    from mlagent_lib.training.sft import train_sft, trainable_rows

    asked, answered = {"role": "user", "content": "nonsense"}, {"role": "assistant", "content": "other"}
    rows = [{"prompt": [asked], "completion": [answered]}] * 4
    rows += [{"prompt": [asked, answered, asked], "completion": [answered]}] * 4
    made = {}
    for name, changes in (
        ("whole", {"micro_batch": 0}),
        ("parts", {"micro_batch": 2, "checkpointing": True}),
    ):
        values = {"epochs": 1.0, "batch": 4, "lora_r": 4, "lora_alpha": 8, "lr": 1e-2, "checkpointing": False}
        profile = SFTProfile(**(values | {"max_length": 4} | changes))
        (tmp_path / name).mkdir()
        found = train_sft(
            rows, profile, model=str(tiny / "model"), backend="plain", out=tmp_path / name, seed=0
        )
        assert (found["steps"], found["rows"], found["rows_cut"]) == (2, 8, 0)
        made[name] = load_file(tmp_path / name / "adapter" / "adapter_model.safetensors")
    for key, whole in made["whole"].items():
        if whole.abs().max() > 0:  # where the gradient is zero, Adam makes a step of its rounding
            torch.testing.assert_close(made["parts"][key], whole, atol=1e-5, rtol=1e-3)
    loaded = load(str(tiny / "model"), backend="plain")
    # a prompt of 1 and a whole of 2 tokens, or of 3 and 4: the long ones are dropped with 3
    assert trainable_rows(rows, loaded.tokenizer, 3) == (
        rows[:4], {"rows": 8, "rows_trained": 4, "rows_dropped": 4, "rows_cut": 0}
    )  # fmt: skip
    assert "8 rows, max_length 3: 4 dropped as their prompt fills it, 0 lose the end" in caplog.text


@pytest.mark.parametrize(
    ("labels", "counted"), [([3, 4, 5], 3), ([-100, -100, -100], 0), ([-100, -100, 5], None)]
)
def test_only_replies_may_enter_the_loss(labels, counted):
    import torch

    from mlagent_lib.training.sft import _check_only_replies_count

    batch = {"input_ids": torch.tensor([[3, 4, 5, 0]]), "labels": torch.tensor([[*labels, -100]])}
    trainer = types.SimpleNamespace(
        data_collator=lambda rows: batch, train_dataset=[{}],
        processing_class=types.SimpleNamespace(pad_token_id=0),
    )  # fmt: skip
    if counted is None:
        _check_only_replies_count(trainer)
    else:
        with pytest.raises(RunError, match=f"{counted} of 3 tokens of the first row enter the loss"):
            _check_only_replies_count(trainer)


@pytest.mark.slow
def test_a_loss_of_sft_that_is_no_number_is_told(tiny, tmp_path, monkeypatch):
    from trl import SFTTrainer

    from mlagent_lib.training.sft import train_sft

    def no_number(self, model, *rest, **options):
        return sum(weight.sum() for weight in model.parameters() if weight.requires_grad) * math.nan

    monkeypatch.setattr(SFTTrainer, "compute_loss", no_number)
    row = {
        "prompt": [{"role": "user", "content": "nonsense"}],
        "completion": [{"role": "assistant", "content": "other"}],
    }
    with pytest.raises(RunError, match="step 1 of SFT has loss nan.*smaller sft.lr"):
        train_sft(
            [row] * 4, SFTProfile(batch=2, epochs=1.0, max_length=9), model=str(tiny / "model"),
            backend="plain", out=tmp_path, seed=0,
        )  # fmt: skip


# The coder on one card --------------------------------------------------------------------------------------


class Speaking(Named):
    """A backend whose replies are given, and which tells whether its adapter was off."""

    def __init__(self, replies, **loading):
        super().__init__("path", None, self, "cpu", "float32", Loading(**loading))
        self.replies, self.asked, self.off = replies, [], False

    @contextmanager
    def base(self):
        self.off = True
        yield
        self.off = False

    def generate(self, conversations, *, temperature, max_new_tokens, seed=None):
        assert self.off and temperature == 0.0
        self.asked.append((conversations, max_new_tokens))
        return [self.replies[messages[-1]["content"].rpartition(" ")[2]] for messages in conversations]

    def __call__(self, text, add_special_tokens=True):  # as tokenizer: a token a character
        return {"input_ids": list(text)}

    def apply_chat_template(self, messages, *, tokenize, add_generation_prompt):
        return "".join(message["content"] for message in messages)


def test_a_model_that_chats_edits_the_whole_script_with_the_adapter_off(tmp_path):
    task = write_task(tmp_path)
    edited = TRAIN.replace("n_neighbors=40", "n_neighbors=9")
    backend = Speaking(
        {"nine": f"Here:\n```python\n{edited}```\n", "cut": f"```python\n{edited[:150]}"}, coder_tokens=5000
    )
    coder = base_coder(backend, style="full")
    assert isinstance(coder, ScriptCoder)
    rows = [EditRequest(task, TRAIN, word) for word in ("nine", "cut", "nine")]
    good, refused, again = coder.edit_many(rows)
    assert good == again == edited and not backend.off
    assert isinstance(refused, CoderError) and "cut off" in str(refused)
    ((conversations, longest),) = backend.asked  # once for each request, all in one batch
    assert len(conversations) == 2 and longest == 5000
    assert [message["role"] for message in conversations[0]] == ["system", "user"]
    assert (
        TRAIN in conversations[0][1]["content"] and "Edit instruction: nine" in conversations[0][1]["content"]
    )
    assert coder.edit_many(rows)[0] == edited and len(backend.asked) == 1  # remembered


def test_a_script_that_the_coder_cannot_hold_is_its_failure_and_spoils_no_other_row(tmp_path):
    task = write_task(tmp_path)
    backend = Speaking({"nine": "```\nx = 1\n```"}, coder_tokens=100, window=600)
    long, wide, short = base_coder(backend, style="full").edit_many(
        [
            EditRequest(task, "a" * 101, "nine"),
            EditRequest(task, "a", "b" * 400 + " nine"),
            EditRequest(task, "a", "nine"),
        ]  # fmt: skip
    )
    assert isinstance(long, CoderError) and "101 tokens, and the coder writes at most 100" in str(long)
    assert isinstance(wide, CoderError) and "the window is 600" in str(wide)
    assert short == "x = 1\n"


def test_the_pocket_model_still_writes_a_block(tmp_path):
    task = write_task(tmp_path)
    block = "from sklearn.neighbors import KNeighborsRegressor\nmodel = KNeighborsRegressor(n_neighbors=9)"
    backend = Speaking({"nine": f"# model\n{block}"})
    coder = base_coder(backend)
    assert isinstance(coder, BlockCoder)
    assert coder.edit_many([EditRequest(task, TRAIN, "nine")]) == [TRAIN.replace("=40", "=9")]
    assert backend.asked[0][1] == 160 and len(backend.asked[0][0][0]) == 1


# The Unsloth backend, in front of a stand-in for its package ------------------------------------------------


def stand_in(calls: list):
    """Return a stand-in for `FastLanguageModel` that writes down how it is called."""
    import torch

    class Model(torch.nn.Linear):
        device, name_or_path = "cpu", "stand-in"

        def __init__(self):
            from transformers import GenerationConfig, Qwen2Config

            super().__init__(2, 2)
            self.config, self.generation_config = Qwen2Config(), GenerationConfig(min_p=0.5, eos_token_id=1)

        def get_input_embeddings(self):
            return self

        def save_pretrained(self, folder, **options):
            calls.append(("save", str(folder), options))
            (Path(folder) / "adapter_config.json").write_text('{"target_modules": ["v", "q"], "r": 16}')

        def save_pretrained_merged(self, folder, tokenizer, **options):
            calls.append(("merge", folder, options))

        def generate(self, input_ids, **options):
            calls.append(("generate", self.training))
            return torch.cat([input_ids, torch.zeros(len(input_ids), 1, dtype=int)], dim=1)

    class FastLanguageModel:
        @staticmethod
        def from_pretrained(**options):
            calls.append(("load", options))
            return Model(), None

        @staticmethod
        def get_peft_model(model, **options):
            calls.append(("lora", options))
            model.peft_config = {"default": None}
            return model

        @staticmethod
        def for_inference(model):
            calls.append(("for_inference",))
            model.eval()

        @staticmethod
        def for_training(model):
            calls.append(("for_training",))
            model.train()

    return FastLanguageModel


class Tokens:
    """A tokenizer that makes two tokens of everything."""

    padding_side, chat_template, pad_token_id, eos_token_id = "left", None, 0, 1

    def save_pretrained(self, folder):
        (Path(folder) / "tokenizer_config.json").write_text('{"tokenizer_class": "TokenizersBackend"}')

    def apply_chat_template(self, messages, **options):
        return messages[-1]["content"]

    def __call__(self, texts, **options):
        import torch
        from transformers import BatchEncoding

        return BatchEncoding({"input_ids": torch.ones(len(texts), 2, dtype=int)})

    def batch_decode(self, ids, **options):
        return ["reply"] * len(ids)


@pytest.fixture
def fast(monkeypatch):
    """Return the calls that reach a stand-in for Unsloth's package."""
    calls: list = []
    package = types.ModuleType("unsloth")
    package.FastLanguageModel = stand_in(calls)
    monkeypatch.setattr("mlagent_lib.training.backends.unsloth.load_tokenizer", lambda path: Tokens())
    monkeypatch.setitem(sys.modules, "unsloth", package)
    monkeypatch.setattr(loading, "_missing_for_unsloth", lambda: None)
    return calls


def test_unsloth_is_told_everything_that_it_would_choose_itself(fast, tmp_path):
    import torch

    loaded = load("Qwen/Qwen2.5-0.5B", backend=Loading("unsloth", four_bit=True, window=3072))
    assert (loaded.name, loaded.path, loaded.tokenizer.padding_side) == (
        "unsloth",
        "Qwen/Qwen2.5-0.5B",
        "left",
    )
    ((_, options),) = fast
    assert options == {
        "model_name": "Qwen/Qwen2.5-0.5B", "max_seq_length": 3072, "dtype": torch.float32,
        "load_in_4bit": True, "load_in_8bit": False, "full_finetuning": False,
        "use_gradient_checkpointing": "unsloth", "use_exact_model_name": True, "fast_inference": False,
        "max_lora_rank": 64,
    }  # fmt: skip
    loaded.attach_lora(16, 32, seed=7)
    assert fast[-1][1].items() >= {"r": 16, "lora_alpha": 32, "random_state": 7, "lora_dropout": 0}.items()
    assert fast[-1][1]["target_modules"] == list(LORA_TARGETS)
    with pytest.raises(RunError, match="an adapter already"):
        loaded.attach_lora(16, 32, seed=7)
    loaded.save(tmp_path)
    loaded.merge(tmp_path)
    alone = {"selected_adapters": ["default"], "save_embedding_layers": False}
    assert fast[-2] == ("save", str(tmp_path), alone)
    assert json.loads((tmp_path / "adapter_config.json").read_text()) == {
        "target_modules": ["q", "v"],
        "r": 16,
    }
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert written == {"tokenizer_class": "PreTrainedTokenizerFast"}
    assert loaded.model.generation_config.to_diff_dict().keys() == {"eos_token_id", "pad_token_id"} | METADATA
    assert fast[-1] == ("merge", str(tmp_path), {"save_method": "merged_16bit"})
    assert loaded.trainer_settings(checkpointing=True)["gradient_checkpointing_kwargs"] == {
        "use_reentrant": True
    }
    assert load("m", backend="unsloth").loading.window == 0 and fast[-1][1]["max_seq_length"] == 4096


def test_unsloth_samples_with_its_own_kernels_and_trains_on_afterwards(fast):
    loaded = load("m", backend="unsloth", adapter="folder", trainable=True)
    assert fast[0][1]["model_name"] == "folder" and all(w.requires_grad for w in loaded.model.parameters())
    loaded.model.train()
    ask = [[{"role": "user", "content": "go"}]]
    assert loaded.generate(ask, temperature=0.0, max_new_tokens=1) == ["reply"]
    assert fast[1:] == [("for_inference",), ("generate", False), ("for_training",)] and loaded.model.training
    frozen = load("m", backend="unsloth", adapter="folder")
    assert not any(weight.requires_grad for weight in frozen.model.parameters())
    frozen.model.eval()
    frozen.generate(ask, temperature=0.0, max_new_tokens=1)
    assert fast[-1] == ("generate", False)  # a model that only acts is not switched to training
