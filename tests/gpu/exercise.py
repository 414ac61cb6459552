"""SFT and step-wise GRPO for a few steps on a random model, and what came of it: one process a backend.

Used twice: by the tests on a CPU in a tiny shape, and as a program on a GPU in the shape of Qwen2.5-0.5B,
where each backend needs a process of its own, because Unsloth patches the libraries for good.

A random model replies nonsense, and nonsense earns no reward to learn from. So in the tokenizer made here one
id in eight stands for a whole reply ("Use 12 nearest neighbours."), and the other ids, which it does not
know, stand for nothing: some four replies in ten are then valid, and the tiny task pays them differently.

    python exercise.py SCENE BACKEND OUT        writes OUT/record.json
"""

from __future__ import annotations

import hashlib
import json
import sys
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from tiny_task import make_tools, neighbours, rl_profile, write_task

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.files import read_jsonl, write_json
from mlagent_lib.core.profiles import GRPOProfile, SFTProfile
from mlagent_lib.environment.step import run_steps, start_state
from mlagent_lib.training.pool import StatePool

# Architectures: "0.5B" is that of Qwen2.5-0.5B's config.json, "tiny" a toy of the same kind.
SHAPES = {
    "tiny": {
        "vocab_size": 1024, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "0.5B": {
        "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
}  # fmt: skip
STEPS, EVERY, KILL = 4, 2, 3  # updates, updates a checkpoint, and the update after which training is cut off
NEW = 8  # tokens of a reply
GRPO = GRPOProfile(
    steps=STEPS, states_per_step=2, group_size=8, lr=1e-3, beta=0.02, max_new_tokens=NEW, eval_every=EVERY,
    eval_samples=2,
)  # fmt: skip
SFT = SFTProfile(lr=1e-3, epochs=1.0, batch=4, max_length=1024, lora_r=8, lora_alpha=16)
PROMPTER = Prompter("pocket", 6)


class Cut(BaseException):
    """Stands for a kill in the middle of training."""


def states_and_tools(folder: Path):
    """Return four states of the tiny task with histories of different length, and tools to act in them."""
    write_task(folder / "tasks")
    tools = make_tools(folder)
    states = [start_state(tools.task("tiny-homes"), tools)]
    for n in (30, 24, 20):
        states.append(run_steps([(states[-1], neighbours(n))], tools)[0].state)
    return states, tools


def write_scene(folder: Path, shape: str, *, device: str = "cpu") -> Path:
    """Write what both backends start from, a random model and adapter, and return the folder.

    Args:
        folder: A new folder.
        shape: A name of `SHAPES`.
        device: Where the random numbers are drawn; the 0.5B shape takes long on a CPU.
    """
    import torch
    from peft import get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from mlagent_lib.training.backends import lora_config

    states, tools = states_and_tools(folder)
    sizes = SHAPES[shape]
    prompts = [PROMPTER.messages(state, tools.task(state.task)) for state in states]
    write_tokenizer(folder / "model", sizes["vocab_size"], prompts)
    torch.manual_seed(0)
    config = Qwen2Config(
        **sizes, bos_token_id=None, eos_token_id=1, pad_token_id=0, max_position_embeddings=4096,
        rope_theta=1e6, rms_norm_eps=1e-6, dtype="bfloat16",
    )  # fmt: skip
    with torch.device(device):
        model = Qwen2ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder / "model")
    model.name_or_path = str(folder / "model")  # written into the adapter: Unsloth reads the base from there
    adapted = get_peft_model(model, lora_config(8, 16))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    adapted.save_pretrained(folder / "adapter")
    return folder


def write_tokenizer(folder: Path, size: int, prompts: list[list[dict]]) -> None:
    """Write a tokenizer of words: those of the prompts, and replies as long as one id in eight is known.

    Args:
        folder: Of the model.
        size: Rows of the model's vocabulary.
        prompts: Conversations, whose words are known as far as there is room.
    """
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    said = " ".join(message["content"] for prompt in prompts for message in prompt).split()
    words = ["<pad>", "<eos>", "<unk>", *list(dict.fromkeys(said))[: size // 40]]
    for number in range(size // 8):  # no two words are equal, so each reply carries its number
        words.append(neighbours(1 + number % 80).replace("Reflection: none", f"Reflection: {number}"))
    model = Tokenizer(WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer, model.decoder = pre_tokenizers.WhitespaceSplit(), decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=model, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>", padding_side="left",
        clean_up_tokenization_spaces=False, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    tokenizer.chat_template = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder)


def exercise(scene: Path, backend: str, out: Path) -> dict:
    """Return what a backend made of the scene: losses, rewards, digests, log-probabilities.

    Args:
        scene: Of `write_scene`.
        backend: ``plain`` or ``unsloth``.
        out: A new folder.
    """
    from mlagent_lib.training import backends

    loaded = backends.load(str(scene / "model"), backend=backend, adapter=scene / "adapter")  # Unsloth first
    rows = fixed_rows(loaded.model.config.vocab_size)
    record = {"backend": loaded.name, "device": loaded.device, "logprobs": log_probabilities(loaded, rows)}
    del loaded
    states, tools = states_and_tools(out)
    record["sft"] = _sft(scene, backend, out / "sft", states, tools)
    record["grpo"] = _grpo(scene, backend, out / "grpo", states, tools)
    return record


def fixed_rows(vocabulary: int) -> list[list[int]]:
    """Return three rows of ids of different length, the same ones always."""
    import torch

    stream = torch.Generator().manual_seed(7)
    return [torch.randint(3, vocabulary, (size,), generator=stream).tolist() for size in (56, 80, 39)]


def log_probabilities(loaded, rows: list[list[int]], reply: int = 16) -> list[list[float]]:
    """Return the log-probability of each of the last ``reply`` ids of rows, which are padded on the left.

    Args:
        loaded: A `Backend`.
        rows: Token ids.
        reply: How many.
    """
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=loaded.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=loaded.device)
    training = loaded.model.training
    loaded.model.eval()
    with torch.no_grad():
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        logits = loaded.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits.float()
    loaded.model.train(training)
    found = logits[:, -reply - 1 : -1].log_softmax(dim=-1).gather(2, ids[:, -reply:, None])
    return found.squeeze(2).tolist()


def _sft(scene: Path, backend: str, out: Path, states, tools) -> dict:
    from mlagent_lib.training import sft

    out.mkdir(parents=True)
    prompts = [PROMPTER.messages(state, tools.task(state.task)) for state in states]
    rows = [
        {"prompt": prompt, "completion": [{"role": "assistant", "content": neighbours(8)}]}
        for prompt in prompts
        for _ in range(4)
    ]
    with watched(sft) as models:
        summary = sft.train_sft(rows, SFT, model=str(scene / "model"), backend=backend, out=out, seed=0)
    logged = read_jsonl(out / "metrics.jsonl")[0]
    return {
        "steps": summary["steps"],
        "losses": [row["loss"] for row in logged],
        "base_before": models[0][1],
        "base_after": base_digest(models[0][0].model),
        "adapter_changed": max(_largest(out / "adapter", only="lora_B").values()) > 0,  # B starts at zero
    }


def _grpo(scene: Path, backend: str, out: Path, states, tools) -> dict:
    from mlagent_lib.training import grpo

    def train(folder: Path, progress=None) -> dict:
        return grpo.train_grpo(
            rl_profile(str(scene / "model"), backend, grpo=GRPO), StatePool(tuple(states)), states,
            make_tools=lambda coder: tools, adapter=scene / "adapter", out=folder, seed=0, progress=progress,
        )  # fmt: skip

    def cut_off(row: dict) -> None:
        if (row["split"], row["step"]) == ("train", KILL):
            raise Cut

    with watched(grpo) as models:
        whole = train(out / "whole")
    digests = models[0][1], base_digest(models[0][0].model)
    try:
        train(out / "cut", cut_off)
    except Cut:
        kept = sorted(path.name for path in (out / "cut" / "checkpoints").glob("checkpoint-*[0-9]"))
    resumed = train(out / "cut")
    before, after = (_weights(folder) for folder in (scene / "adapter", out / "whole" / "last"))
    again = _weights(out / "cut" / "last")
    return {
        "summary": whole,
        "resumed": resumed,
        "checkpoints_at_the_cut": kept,
        "rows": read_jsonl(out / "whole" / "metrics.jsonl")[0],
        "rows_resumed": read_jsonl(out / "cut" / "metrics.jsonl")[0],
        "base_before": digests[0],
        "base_after": digests[1],
        "adapter_change": max(float((after[name] - before[name]).abs().max()) for name in before),
        "resumed_difference": max(float((after[name] - again[name]).abs().max()) for name in after),
    }


@contextmanager
def watched(module):
    """Give a list that fills with each model that ``module`` loads and the digest of its base then."""
    seen, real = [], module.load

    def load(*args, **options):
        loaded = real(*args, **options)
        seen.append((loaded, base_digest(loaded.model)))
        return loaded

    with mock.patch.object(module, "load", load):
        yield seen


def base_digest(model) -> str:
    """Return a hash over all weights that are no adapter's, in the order of their names."""
    import torch

    plain = {
        name.replace("base_model.model.", "").replace(".base_layer", ""): weight
        for name, weight in model.named_parameters()
        if "lora_" not in name
    }
    digest = hashlib.sha256()
    for name in sorted(plain):
        digest.update(plain[name].detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _weights(folder: Path) -> dict:
    from safetensors.torch import load_file

    return {name: weight.float() for name, weight in load_file(folder / "adapter_model.safetensors").items()}


def _largest(folder: Path, *, only: str) -> dict[str, float]:
    return {name: float(weight.abs().max()) for name, weight in _weights(folder).items() if only in name}


if __name__ == "__main__":
    scene, backend, out = sys.argv[1:]
    write_json(Path(out) / "record.json", exercise(Path(scene), backend, Path(out)))
    print(json.dumps({"backend": backend, "done": True}))
