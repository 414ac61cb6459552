"""One measurement of `mlagent bench --gpu` in a process of its own: Unsloth patches the libraries for good.

Started as a program: ``write SHAPE FOLDER`` makes a random model of the true architecture, ``measure BACKEND
SHAPE FOLDER OUT`` writes what one backend made of it. It measures the kit's own trainer, not a loop like it.
"""

from __future__ import annotations

import gc
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.bench.measure import NoCache, scripts, timed
from mlagent_lib.core.files import read_jsonl, write_json
from mlagent_lib.core.profiles import GRPOProfile, get_profile
from mlagent_lib.core.provenance import versions
from mlagent_lib.environment.coder import RuleCoder
from mlagent_lib.environment.runner import Runner
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.training.flops import update_flops
from mlagent_lib.training.memory import SHAPES, Shape

# The profile `gpu` with fewer and shorter steps: the same loading, micro-batches and checkpointing.
PROFILE = get_profile("gpu").with_values(
    "bench", coder="rules", grpo__steps=6, grpo__states_per_step=2, grpo__max_new_tokens=256,
    grpo__eval_every=1000, grpo__eval_states=1, grpo__eval_samples=1,
)  # fmt: skip
LOADING, GRPO = PROFILE.loading, PROFILE.grpo
ROWS, RANK = 16, 64  # conversations sampled at once; r of the LoRA
_WARM_UP = 2  # first steps compile and allocate; they are left out
_TASKS = ("pocket-homes", "pocket-digits", "pocket-manuals", "pocket-forests")
_PACKAGES = (
    *("torch", "transformers", "trl", "peft", "accelerate"),
    *("unsloth", "unsloth_zoo", "triton", "xformers"),
)


def write_model(shape: Shape, folder: Path) -> None:
    """Write a randomly initialised model of this architecture in bfloat16, with tokenizer and LoRA adapter.

    Args:
        folder: To write; the adapter, which changes nothing yet, goes into ``adapter`` in it.
    """
    import torch
    from peft import get_peft_model
    from transformers import Qwen2Config, Qwen2ForCausalLM

    from mlagent_lib.training.backends import load_tokenizer, lora_config, model_path

    tokenizer = load_tokenizer(model_path("pocket"))
    tokenizer.save_pretrained(folder)
    config = Qwen2Config(
        vocab_size=shape.vocabulary, hidden_size=shape.hidden, intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers, num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads, tie_word_embeddings=shape.tied,
        max_position_embeddings=32768, rope_theta=1e6, rms_norm_eps=1e-6, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, dtype="bfloat16",
    )  # fmt: skip
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)  # 7B in float32 first would take twice the memory
    try:
        with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
            model = Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder)
    model.name_or_path = str(folder)  # written into the adapter: Unsloth reads the base from there
    get_peft_model(model, lora_config(RANK, RANK)).save_pretrained(folder / "adapter")


def measure_backend(
    backend: str, shape: Shape, model: Path, work: Path, *, grpo: GRPOProfile = GRPO, rows: int = ROWS,
    tasks: Sequence[str] = _TASKS, style: str = "full",
) -> dict:  # fmt: skip
    """Return how fast a backend samples and trains, and how much memory training takes.

    A random model replies nonsense, so no script runs, and a step is generation and update alone.

    Args:
        rows: Conversations sampled at once.
        tasks: Pocket tasks whose starters are the states.
    """
    states, known = scripts(tasks)
    states = [replace(state, score=1.0) for state in states]
    prompter = Prompter(style, PROFILE.collect.max_steps)
    prompts = [prompter.messages(state, known[state.task]) for state in states]
    found = _sampling(backend, model, prompts, rows, grpo.max_new_tokens)
    import torch

    gc.collect()
    on_gpu = found["device"] != "cpu"
    if on_gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    steps = _train(backend, model, work, states, known, grpo, style)
    peak = torch.cuda.max_memory_allocated() if on_gpu else 0
    update = statistics.median(row["seconds_update"] for row in steps)
    completion = statistics.fmean(row["completion_tokens"] for row in steps)
    # the plain backend reads the prompt of a group once, if nothing is checkpointed or cut into parts
    shares = found["backend"] == "plain" and not grpo.checkpointing and not grpo.micro_batch
    flops = update_flops(
        shape, rows=grpo.states_per_step * grpo.group_size, prompt=found["prompt_tokens"],
        completion=completion, prompt_rows=grpo.states_per_step if shares else None,
    )  # fmt: skip
    return found | {
        "step_seconds": statistics.median(row["seconds_total"] for row in steps),
        "update_seconds": update,
        "steps": len(steps),
        "peak_bytes": peak,
        "update_tflops": flops / update / 1e12,
        "completion_tokens": round(completion, 1),
        "versions": versions(_PACKAGES) | {"cuda": torch.version.cuda or "none"},
    }


def _sampling(backend: str, model: Path, prompts: list[list[dict]], rows: int, new_tokens: int) -> dict:
    """Return how fast a backend samples; the model is gone from the memory afterwards."""
    from mlagent_lib.training.backends import load

    loaded = load(str(model), backend=replace(LOADING, backend=backend))  # first: Unsloth patches the others
    import torch

    generate = loaded.sampler(temperature=1.0, max_new_tokens=new_tokens)
    asked = [prompts[number % len(prompts)] for number in range(rows)]
    generate(asked, 0)  # warm up
    seconds = timed(generate, asked, 1)
    encode = loaded.tokenizer.apply_chat_template
    lengths = [len(encode(prompt, add_generation_prompt=True, return_dict=False)) for prompt in prompts]
    device = torch.cuda.get_device_name() if loaded.device == "cuda" else "cpu"
    speed, length = round(rows * new_tokens / seconds, 1), round(statistics.fmean(lengths), 1)
    return {"backend": loaded.name, "device": device, "tokens_per_second": speed, "prompt_tokens": length}


def _train(backend, model, work, states, known, grpo, style) -> list[dict]:
    """Return the rows of the updates behind the warm-up."""
    from mlagent_lib.training.grpo import train_grpo
    from mlagent_lib.training.pool import StatePool

    profile = replace(PROFILE, model=str(model), backend=backend, prompt_style=style, grpo=grpo)
    with Runner(workers=1) as runner:
        tools = Toolbox(runner, RuleCoder(), NoCache(work / "cache"), tasks=known)
        train_grpo(
            profile, StatePool(tuple(states)), states[:1], make_tools=lambda coder: tools,
            adapter=model / "adapter", out=work / "grpo", seed=0,
        )  # fmt: skip
    rows = [row for row in read_jsonl(work / "grpo" / "metrics.jsonl")[0] if row["split"] == "train"]
    return rows[min(_WARM_UP, len(rows) - 1) :]


def main(words: Sequence[str]) -> int:
    """Run one of the two programs and return its exit code; running out of memory is a result."""
    if words[0] == "write":
        write_model(SHAPES[words[1]], Path(words[2]))
        return 0
    _, backend, shape, folder, out = words
    from mlagent_lib.training.backends import choose

    choose(backend)
    try:
        found = measure_backend(backend, SHAPES[shape], Path(folder), Path(out).parent)
    except Exception as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's; also as seen through Unsloth
            raise
        found = {"backend": backend, "failed": "out of memory"}
    write_json(out, found | {"shape": shape})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
