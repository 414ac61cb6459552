"""Exploration-enriched fine-tuning: LoRA SFT on expert trajectories with TRL, loss on the replies only.

Differs from the paper (v1 section 4.1, Eq. 2), which tunes all weights of Qwen2.5-7B with LLaMA-Factory: LoRA
here, and one row for each step (its prompt is the state as the policy reads it) instead of one row for a
whole conversation; the sum of Eq. 2 over steps is the same. The ideas are not in the prompt, so that the
policy learns to have them.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from mlagent_lib.agents.prompts import render
from mlagent_lib.core.artifacts import append_jsonl
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.profiles import Loading, SFTProfile
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.task import Task
from mlagent_lib.training.backends import Backend, check_held, load, make_config
from mlagent_lib.training.batches import plan_batch, world_size
from mlagent_lib.training.processes import from_main, is_main

log = logging.getLogger("mlagent.sft")


def sft_rows(
    trajectories: Sequence[dict], tasks: dict[str, Task], *, style: str, max_steps: int
) -> list[dict]:
    """Return one prompt-completion row in TRL's conversational form for each step of the expert.

    Args:
        trajectories: Expert trajectories.
        tasks: Tasks by name.
        style: Prompt style.
        max_steps: Length of a trajectory, as the prompt tells it.
    """
    rows = []
    for trajectory in trajectories:
        task = tasks[trajectory["task"]]
        for step in trajectory["steps"]:
            if step["outcome"] == "unscored":
                continue
            prompt = render(State.from_json(step["state"]), task, style=style, max_steps=max_steps)
            rows.append({"prompt": prompt, "completion": [{"role": "assistant", "content": step["reply"]}]})
    return rows


def train_sft(
    rows: Sequence[dict], profile: SFTProfile, *, model: str, backend: str | Loading, out: Path, seed: int
) -> dict:
    """Train a LoRA adapter on the rows, save it under ``out/adapter`` and return what was measured.

    Args:
        rows: Of `sft_rows`.
        profile: Settings.
        model: Name of the base model.
        backend: How to load it: a profile's `Loading`, or a backend's name.
        out: Folder of the stage; ``metrics.jsonl`` and the adapter are written here.
        seed: Root of the streams.

    Raises:
        RunError: A setting was dropped by the trainer, it would learn the prompts too, or the loss is no
            number.
    """
    loaded = load(model, backend=backend)  # first: Unsloth must be imported before trl
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    began = time.perf_counter()
    wanted = sft_settings(loaded, profile, out=out, seed=seed)
    config = make_config(SFTConfig, wanted)
    (out / "metrics.jsonl").unlink(missing_ok=True)

    class Log(TrainerCallback):
        """Write each logged row as JSONL under our names."""

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs and is_main():
                row = {
                    "step": state.global_step,
                    "loss": float(logs["loss"]),
                    "lr": float(logs["learning_rate"]),
                }
                if not math.isfinite(row["loss"]):
                    raise RunError(
                        f"step {row['step']} of SFT has loss {row['loss']}: training cannot go on",
                        cure="take a smaller sft.lr, or a card with bfloat16",
                    )
                row["token_accuracy"] = float(logs.get("mean_token_accuracy", float("nan")))
                append_jsonl(out / "metrics.jsonl", {k: v for k, v in row.items() if v == v})

    loaded.attach_lora(profile.lora_r, profile.lora_alpha, seed=config.seed)
    set_seed(config.seed)  # the same stream whatever the backend drew
    trainer = SFTTrainer(
        model=loaded.model,
        args=config,
        processing_class=loaded.tokenizer,
        train_dataset=Dataset.from_list(list(rows)),
        callbacks=[Log()],
    )
    check_held(trainer.args, wanted, "the SFT trainer")
    _check_only_replies_count(trainer)
    keep_adapter_in_float32(trainer.model)
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl holds what it would print
    trainer.train()
    if is_main():
        loaded.save(out / "adapter")
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    from_main(None)  # the others wait until the adapter is there
    return {
        "rows": len(rows),
        "steps": trainer.state.global_step,
        "seconds": round(time.perf_counter() - began, 2),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "rows_cut": _rows_cut(rows, loaded, profile.max_length),
    }


def sft_settings(loaded: Backend, profile: SFTProfile, *, out: Path, seed: int) -> dict:
    """Return the settings of TRL's SFT trainer, by name: none that matters is left to a default.

    Args:
        loaded: Device and precision come from it.
        profile: The profile's numbers.
        out: Folder of the stage.
        seed: Root of the streams.

    Raises:
        ProfileError: The batch cannot be shared by the processes.
    """
    plan = plan_batch(profile.batch, micro=profile.micro_batch, world=world_size())
    return {
        "output_dir": str(out / "checkpoints"),
        "per_device_train_batch_size": plan.per_device,
        "gradient_accumulation_steps": plan.accumulation,
        "num_train_epochs": profile.epochs,
        "max_steps": -1,
        "learning_rate": profile.lr,
        "lr_scheduler_type": "cosine",
        "warmup_steps": profile.warmup_share,
        "weight_decay": profile.weight_decay,
        "max_grad_norm": 1.0,
        "optim": "adamw_torch",
        "max_length": profile.max_length,
        "completion_only_loss": True,
        "packing": False,
        "padding_free": False,
        "loss_type": "nll",
        "logging_steps": 5,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,  # a loss that is no number is told, not hidden
        "save_strategy": "no",
        "eval_strategy": "no",
        "report_to": "none",
        "seed": derive_seed(seed, "sft"),
        "disable_tqdm": True,
        **loaded.trainer_settings(checkpointing=profile.checkpointing),
    }


def _check_only_replies_count(trainer) -> None:
    """Raise where the trainer has the prompt of its first row in the loss, or the reply out of it."""
    batch = trainer.data_collator([trainer.train_dataset[0]])
    labels = batch["labels"][batch["input_ids"] != trainer.processing_class.pad_token_id]
    counted = int((labels != -100).sum())
    if not 0 < counted < len(labels):
        raise RunError(
            f"{counted} of {len(labels)} tokens of the first row enter the loss, not those of its reply only",
            cure="install the versions that the kit pins, or choose backend plain",
        )


def keep_adapter_in_float32(model) -> None:
    """Make trainable weights float32, as they were attached: TRL turns those on 4-bit weights to bfloat16.

    In float16 training that would fail (its gradient scaler has no bfloat16), on a T4 it would be slow.
    """
    import torch

    for weight in model.parameters():
        if weight.requires_grad and weight.dtype != torch.float32:
            weight.data = weight.data.float()


def _rows_cut(rows: Sequence[dict], loaded: Backend, max_length: int) -> int:
    """Return how many rows are longer than the trainer reads: they lose the end of their reply."""
    texts = [
        loaded.tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], tokenize=False)
        for row in rows
    ]
    sizes = [len(ids) for ids in loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    cut = sum(size > max_length for size in sizes)
    if cut:
        log.warning("%d of %d rows are longer than max_length (%d): cut", cut, len(rows), max_length)
    return cut
