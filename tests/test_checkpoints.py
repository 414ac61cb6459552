"""Checkpoints of others: their tokens as saved, no sampling of their own, padding that no text uses."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from mlagent_lib.core.artifacts import hashes_below
from mlagent_lib.core.errors import MlagentError, RunError
from mlagent_lib.core.files import append_jsonl, read_jsonl
from mlagent_lib.core.profiles import GRPOProfile, Loading, SFTProfile
from mlagent_lib.results.glossary import METRICS
from mlagent_lib.training.backends import load, load_tokenizer

TEXT = "the quick brown fox 12 jumps\n over 3 dogs"
CHAT = "{% for m in messages %}{{ m['content'] + '</s>' }}{% endfor %}"
ASKS = [[{"role": "user", "content": text}] for text in ("the fox", "the quick brown fox jumps over", "3")]


def save_checkpoint(folder: Path, kind: str = "llama", special=(), more_rows: int = 0, **tokens) -> Path:
    """Write a random model and a tokenizer with splitting rules of its own; return the folder."""
    import torch
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split(Regex(r"[0-9]|\n|[^0-9\n]+"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([lines, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<s>", "</s>", *special], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    bpe.train_from_iterator([TEXT] * 9, trainer)
    own = {"bos_token": "<s>", "eos_token": "</s>"} | tokens
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **own)
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=len(tokenizer) + more_rows, hidden_size=16, intermediate_size=16,
        num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, bos_token_id=0, eos_token_id=1,
        pad_token_id=None, initializer_range=0.5,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def change(file: Path, **values) -> None:
    """Set keys of a JSON file; None takes one out."""
    found = json.loads(file.read_text()) | values
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))


@pytest.fixture
def checkpoint(tmp_path):
    return save_checkpoint(tmp_path / "checkpoint")


# Tokens -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["qwen2", "llama"])
def test_tokens_are_those_of_the_saved_file_whatever_is_said_beside_it(tmp_path, kind):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    folder = save_checkpoint(tmp_path, kind)
    wanted = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(TEXT).ids
    others = 0
    for name in (
        *("PreTrainedTokenizerFast", "TokenizersBackend", "Qwen2TokenizerFast", "Qwen2Tokenizer"),
        *("LlamaTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", None),
    ):
        change(folder / "tokenizer_config.json", tokenizer_class=name)
        tokenizer = load_tokenizer(str(folder))
        assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == wanted, name
        assert tokenizer.decode(wanted) == TEXT
        assert (tokenizer.eos_token, tokenizer.padding_side) == ("</s>", "left")
        others += AutoTokenizer.from_pretrained(folder)(TEXT, add_special_tokens=False)["input_ids"] != wanted
    assert others == {"qwen2": 8, "llama": 5}[kind]  # that is why it is not asked
    (folder / "tokenizer_config.json").unlink()
    loaded = load(str(folder), backend="plain")  # the model's configuration says how a text ends
    assert loaded.tokenizer(TEXT, add_special_tokens=False)["input_ids"] == wanted
    assert loaded.tokenizer.eos_token == "</s>"


def test_a_tokenizer_without_the_one_file_is_still_loaded(tmp_path):
    folder = save_checkpoint(tmp_path, "gpt2")
    merges = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(merges["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in merges["merges"]))
    (folder / "tokenizer.json").unlink()
    change(folder / "tokenizer_config.json", tokenizer_class="GPT2Tokenizer")
    assert (
        load_tokenizer(str(folder)).decode(load_tokenizer(str(folder))("the fox")["input_ids"]) == "the fox"
    )


def test_a_checkpoint_that_says_nowhere_how_a_text_ends_is_refused(checkpoint):
    change(checkpoint / "tokenizer_config.json", eos_token=None)
    change(checkpoint / "generation_config.json", eos_token_id=None)
    change(checkpoint / "config.json", eos_token_id=None)
    with pytest.raises(MlagentError, match="names an end token.*give eos_token in its tokenizer_config"):
        load(str(checkpoint), backend="plain")


def test_a_merged_model_keeps_its_tokens_under_a_class_that_older_versions_know(checkpoint, tmp_path):
    loaded = load(str(checkpoint), backend="plain")
    loaded.attach_lora(2, 4, seed=0)
    change(checkpoint / "generation_config.json", repetition_penalty=1.5)
    loaded.merge(tmp_path / "merged")
    named = json.loads((tmp_path / "merged" / "tokenizer_config.json").read_text())["tokenizer_class"]
    assert named == "PreTrainedTokenizerFast"
    again = load(str(tmp_path / "merged"), backend="plain").tokenizer
    assert again(TEXT)["input_ids"] == loaded.tokenizer(TEXT)["input_ids"]
    assert again.pad_token_id == loaded.tokenizer.pad_token_id
    found = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert "repetition_penalty" not in found and found["eos_token_id"] == [1]


# Sampling ---------------------------------------------------------------------------------------------------

SETTINGS = {
    "repetition_penalty": 9.0, "min_p": 0.9, "no_repeat_ngram_size": 1,
    "suppress_tokens": list(range(2, 260)), "begin_suppress_tokens": list(range(2, 260)),
    "bad_words_ids": [[number] for number in range(2, 260)],
    "sequence_bias": [[[5], 99.0]], "typical_p": 0.1, "epsilon_cutoff": 0.02, "forced_eos_token_id": 7,
    "exponential_decay_length_penalty": [1, 9.0], "num_beams": 3,
}  # fmt: skip


def replies(folder: Path) -> list[list[str]]:
    loaded = load(str(folder), backend=Loading("plain"))
    found = {"max_new_tokens": 12, "seed": 3}
    return [loaded.generate(ASKS, temperature=temperature, **found) for temperature in (0.0, 1.0)]


@pytest.mark.parametrize("name", SETTINGS)
def test_a_checkpoint_samples_as_training_assumes(checkpoint, name, caplog):
    import torch
    from transformers import AutoModelForCausalLM

    def as_the_checkpoint_says():
        torch.manual_seed(3)
        model = AutoModelForCausalLM.from_pretrained(checkpoint)
        ids = torch.arange(3, 9).repeat(4, 1)
        return [
            model.generate(ids, max_new_tokens=12, pad_token_id=0, **options).tolist()
            for options in ({"do_sample": False}, {"do_sample": True, "top_k": 0})
        ]

    plain, bare = replies(checkpoint), as_the_checkpoint_says()
    assert "generation_config" not in caplog.text
    change(checkpoint / "generation_config.json", **{name: SETTINGS[name]})
    assert as_the_checkpoint_says() != bare  # it would have changed the replies
    assert replies(checkpoint) == plain
    # said once for each checkpoint, not at each loading
    assert caplog.text.count(f"{checkpoint}: its generation_config sets {name}; not used here") == 1


def test_what_a_configuration_of_older_days_sets_is_left_out_too(checkpoint):
    plain = replies(checkpoint)
    (checkpoint / "generation_config.json").unlink()
    change(checkpoint / "config.json", repetition_penalty=9.0, temperature=0.1)
    assert replies(checkpoint) == plain


def test_what_is_measured_ends_where_a_rollout_ends(checkpoint):
    import torch

    loaded = load(str(checkpoint), backend="plain")
    (ids,) = loaded.tokenizer(["the fox</s>"], add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        first = int(loaded.model(torch.tensor([ids])).logits[0, -1].argmax())
    long = loaded.generate([ASKS[0]], temperature=0.0, max_new_tokens=9)
    change(checkpoint / "generation_config.json", eos_token_id=[first, 2])
    loaded = load(str(checkpoint), backend="plain")
    # the tokenizer's end first, then those that the model names, as TRL's rollouts have it
    assert loaded.model.generation_config.eos_token_id == [1, first, 2]
    short = loaded.generate([ASKS[0]], temperature=0.0, max_new_tokens=9)
    assert long[0].startswith(short[0]) and len(short[0]) < len(long[0])


# Padding ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "pad", "rows"),
    [
        ({}, "<|padding|>", 271),  # nothing to spare: a token and a row of its own
        ({"more_rows": 20}, "<|padding|>", 290),  # rows that no token has
        ({"special": ["<|reserved_1|>", "<|fine_pad_id|>"]}, "<|fine_pad_id|>", 270),
        ({"special": ["<|tool|>", "<|reserved_1|>"]}, "<|reserved_1|>", 270),
        ({"special": ["<unused0>"], "eos_token": "<unused0>"}, "<|padding|>", 271),
        ({"special": ["<pad>"], "pad_token": "<pad>"}, "<pad>", 270),
        ({"pad_token": "</s>", "special": ["[PAD]", "<pad>"]}, "<pad>", 270),  # never the end token
        ({"pad_token": "</s>"}, "<|padding|>", 271),
        ({"special": ["<unk>"], "unk_token": "<unk>"}, "<|padding|>", 271),  # texts may have unknown parts
    ],
)
def test_padding_is_a_token_that_no_text_uses(tmp_path, made, pad, rows):
    import torch
    from transformers import AutoModelForCausalLM

    folder = save_checkpoint(tmp_path, **made)
    loaded = load(str(folder), backend="plain")
    tokenizer, model = loaded.tokenizer, loaded.model
    assert tokenizer.pad_token == pad and tokenizer.pad_token_id < rows
    ends = model.generation_config.eos_token_id
    assert tokenizer.pad_token_id not in (*ends, tokenizer.bos_token_id)
    assert model.config.pad_token_id == model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert tokenizer.pad_token_id not in tokenizer(TEXT + CHAT + "ü€\x00")["input_ids"]
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size == rows
    ids = torch.tensor([[3, 4, 5]])
    with torch.no_grad():
        was, now = AutoModelForCausalLM.from_pretrained(folder)(ids).logits, model(ids).logits
    assert torch.equal(now[..., : was.shape[-1]], was)  # no other token is touched
    together = loaded.generate(ASKS, temperature=0.0, max_new_tokens=6)
    assert together == [loaded.generate([ask], temperature=0.0, max_new_tokens=6)[0] for ask in ASKS]
    assert pad not in "".join(together)


def test_llama_2_pads_with_its_unknown_token_since_bytes_say_all(tmp_path):
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    folder = save_checkpoint(tmp_path)
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {word: number for number, word in enumerate(words)}
    bpe = Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    bpe.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    loaded = load(str(folder), backend="plain")
    assert (loaded.tokenizer.pad_token, loaded.model.config.vocab_size) == ("<unk>", 270)
    assert 0 not in loaded.tokenizer("ü€\x00 fox", add_special_tokens=False)["input_ids"]


def test_a_padding_token_beyond_the_weights_gets_a_row(tmp_path):
    folder = save_checkpoint(tmp_path)  # as people add "[PAD]" to a tokenizer and forget the model
    tokenizer = load_tokenizer(str(folder))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    loaded = load(str(folder), backend="plain")
    assert (loaded.tokenizer.pad_token, loaded.model.config.vocab_size) == ("[PAD]", 271)
    assert len(loaded.generate(ASKS, temperature=1.0, max_new_tokens=3)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("pad_token", [None, "</s>"])
def test_fine_tuning_learns_the_end_of_a_reply_where_nothing_was_there_to_pad_with(tmp_path, pad_token):
    from safetensors.torch import load_file

    from mlagent_lib.training.sft import train_sft

    folder = save_checkpoint(tmp_path / "model", **({"pad_token": pad_token} if pad_token else {}))
    rows = [
        {"prompt": ask, "completion": [{"role": "assistant", "content": reply}]}
        for ask, reply in zip(ASKS * 20, ["dogs"] * 60, strict=True)
    ]
    profile = SFTProfile(epochs=4.0, batch=6, lora_r=8, lora_alpha=32, lr=2e-2, max_length=60)
    out = tmp_path / "out"
    out.mkdir()
    found = train_sft(rows, profile, model=str(folder), backend="plain", out=out, seed=0)
    assert (found["rows_trained"], found["steps"]) == (60, 40)
    weights = load_file(out / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name for name in weights)  # no row that was added for padding
    loaded = load(str(folder), backend="plain", adapter=out / "adapter")
    said = loaded.generate(ASKS, temperature=0.0, max_new_tokens=30)
    assert said == ["dogs"] * 3  # and stops
    loaded.merge(tmp_path / "merged")
    assert load(str(tmp_path / "merged"), backend="plain").model.config.vocab_size == 271


@pytest.mark.slow
@pytest.mark.parametrize("gain", [1.0, 9.0])  # of bfloat16: the weights are in float32, or in bfloat16
def test_a_killed_fine_tuning_ends_where_an_undisturbed_one_ends(checkpoint, tmp_path, monkeypatch, gain):
    from mlagent_lib.training import checkpoints, sft
    from mlagent_lib.training.backends import backend

    monkeypatch.setattr(backend, "bfloat16_gain", lambda: gain)
    monkeypatch.setattr(checkpoints, "SAVE_S", 0.0)  # as if every update took long
    rows = [row(str(10 + i), str(90 - i)) for i in range(30)]  # each another: their order counts
    profile = SFTProfile(epochs=3.0, batch=4, micro_batch=2, lora_r=2, lora_alpha=4, lr=1e-2, max_length=8)
    how = Loading("plain", precision="measured")

    def train(name: str) -> dict:
        (tmp_path / name).mkdir(exist_ok=True)
        return sft.train_sft(rows, profile, model=str(checkpoint), backend=how, out=tmp_path / name, seed=0)

    def killed(path, line):
        append_jsonl(path, line)
        if line["step"] == 15:
            raise KeyboardInterrupt

    whole = train("whole")
    monkeypatch.setattr(sft, "append_jsonl", killed)
    with pytest.raises(KeyboardInterrupt):
        train("cut")
    assert (tmp_path / "cut" / "checkpoints" / "checkpoint-10").is_dir()  # in the second of three epochs
    monkeypatch.setattr(sft, "append_jsonl", append_jsonl)
    assert train("cut") | {"seconds": 0} == whole | {"seconds": 0}
    assert not (tmp_path / "cut" / "checkpoints").exists()
    for name in ("adapter/adapter_model.safetensors", "metrics.jsonl"):
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name


@pytest.mark.slow
def test_grpo_trains_a_llama_that_had_nothing_to_pad_with(checkpoint, tmp_path):
    from safetensors.torch import load_file
    from tiny_task import make_tools, rl_profile, write_task

    from mlagent_lib.environment.step import start_state
    from mlagent_lib.training.grpo import fresh_adapter, train_grpo
    from mlagent_lib.training.pool import StatePool

    change(checkpoint / "generation_config.json", suppress_tokens=list(range(1, 260)))
    tools, adapter = make_tools(tmp_path), tmp_path / "fresh"
    states = [start_state(write_task(tmp_path / "tasks"), tools)]
    fresh_adapter(str(checkpoint), backend="plain", r=2, alpha=4, out=adapter, seed=0)
    profile = GRPOProfile(
        steps=2, states_per_step=1, group_size=6, lr=1e-2, beta=0.01, max_new_tokens=12, eval_every=1,
        temperature=1.0, micro_batch=0, checkpointing=False,
    )  # fmt: skip
    train_grpo(
        rl_profile(str(checkpoint), grpo=profile), StatePool(tuple(states)), states,
        make_tools=lambda coder: tools, adapter=adapter, out=tmp_path / "out", seed=0,
    )  # fmt: skip
    rows = [row for row in read_jsonl(tmp_path / "out" / "metrics.jsonl")[0] if row["split"] == "train"]
    assert [row["steps"] for row in rows] == [6, 6]
    assert all(row["completion_tokens"] <= 12 and row["entropy"] > 0 for row in rows)
    last = load_file(tmp_path / "out" / "last" / "adapter_model.safetensors")
    assert last.keys() == load_file(adapter / "adapter_model.safetensors").keys()


# Rows that cannot be trained --------------------------------------------------------------------------------


def row(prompt: str, reply: str) -> dict:
    said = [{"role": "assistant", "content": reply}] if reply else []
    return {"prompt": [{"role": "user", "content": prompt}], "completion": said}


@pytest.mark.slow
def test_rows_are_counted_as_the_trainer_takes_them(checkpoint, tmp_path, caplog):
    from mlagent_lib.training.sft import train_sft

    # digits are a token each, and the end of a turn is one: 2 + 2, 3 + 3, 4 + 2 and 2 + 0 tokens
    rows = [row("1", "2"), row("12", "34"), row("123", "4"), row("1", "")] * 2
    profile = SFTProfile(epochs=1.0, batch=2, lora_r=2, lora_alpha=4, max_length=4)
    found = train_sft(rows, profile, model=str(checkpoint), backend="plain", out=tmp_path, seed=0)
    counted = {"rows": 8, "rows_trained": 4, "rows_dropped": 4, "rows_cut": 2}
    assert found.items() >= counted.items() and found["steps"] == 2
    logged = {name for logs in read_jsonl(tmp_path / "metrics.jsonl")[0] for name in logs}
    assert logged == {"step", "loss", "lr", "token_accuracy"} and logged <= set(METRICS)
    assert "8 rows, max_length 4: 4 dropped" in caplog.text and "2 lose the end of their reply" in caplog.text


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row("123", "4"), row("12", "4")] * 2, "none of the 4 rows.*shortest prompt has 3.*max_length is 3"),
        ([row("1", "")], "none of the 1 rows"),
        ([], "none of the 0 rows"),
    ],
)
def test_no_row_that_could_be_trained_is_an_error_with_the_cure(checkpoint, tmp_path, rows, words):
    from mlagent_lib.training.sft import train_sft

    with pytest.raises(RunError, match=f"{words}.*give a larger sft.max_length"):
        train_sft(
            rows, SFTProfile(max_length=3), model=str(checkpoint), backend="plain", out=tmp_path, seed=0
        )  # fmt: skip


def test_rows_that_all_fit_are_told_of_nothing(checkpoint, caplog):
    from mlagent_lib.training.sft import trainable_rows

    rows, tokenizer = [row("1", "2")] * 3, load_tokenizer(str(checkpoint))
    caplog.set_level(logging.INFO)
    kept, counts = trainable_rows(rows, tokenizer, 4)
    assert kept == rows and counts == {"rows": 3, "rows_trained": 3, "rows_dropped": 0, "rows_cut": 0}
    assert not caplog.records


# Adapters ---------------------------------------------------------------------------------------------------


def test_an_adapter_made_again_is_the_same_file_by_file(checkpoint, tmp_path):
    from mlagent_lib.training.backends import save_adapter

    loaded = load(str(checkpoint), backend="plain")
    loaded.attach_lora(2, 4, seed=0)
    config, made = loaded.model.peft_config["default"], []
    names = sorted(config.target_modules)
    for order in (names, names[::-1], names[3:] + names[:3]):  # a set's order is another in each process
        config.target_modules, config.exclude_modules = list(order), ["b", "a"][:: 1 if made else -1]
        save_adapter(loaded.model, tmp_path / f"{len(made)}")
        made.append(hashes_below(tmp_path / f"{len(made)}"))
    assert made[0] == made[1] == made[2] and "adapter_config.json" in made[0]
    written = json.loads((tmp_path / "0" / "adapter_config.json").read_text())
    assert written["target_modules"] == names and written["exclude_modules"] == ["a", "b"]
