"""Exploration-enriched fine-tuning: LoRA SFT on expert trajectories with TRL, loss on the replies only.

Differs from the paper (v1 section 4.1, Eq. 2), which tunes all weights of Qwen2.5-7B with LLaMA-Factory: LoRA
here, and one row for each step (its prompt is the state as the policy reads it) instead of one row for a
whole conversation; the sum of Eq. 2 over steps is the same. The ideas are not in the prompt, so that the
policy learns to have them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from mlagent_lib.agents.prompts import render
from mlagent_lib.core.artifacts import append_jsonl
from mlagent_lib.core.profiles import SFTProfile
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.task import Task
from mlagent_lib.training.backends import load, lora_config


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
    rows: Sequence[dict], profile: SFTProfile, *, model: str, backend: str, out: Path, seed: int
) -> dict:
    """Train a LoRA adapter on the rows, save it under ``out/adapter`` and return what was measured.

    Args:
        rows: Of `sft_rows`.
        profile: Settings.
        model: Name of the base model.
        backend: Name of the backend.
        out: Folder of the stage; ``metrics.jsonl`` and the adapter are written here.
        seed: Root of the streams.
    """
    loaded = load(model, backend=backend)  # first: Unsloth must be imported before trl
    from datasets import Dataset
    from transformers import PrinterCallback, TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    began = time.perf_counter()
    on_gpu = loaded.device == "cuda"
    config = SFTConfig(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=profile.batch,
        gradient_accumulation_steps=1,
        num_train_epochs=profile.epochs,
        learning_rate=profile.lr,
        lr_scheduler_type="cosine",
        warmup_steps=profile.warmup_share,
        weight_decay=profile.weight_decay,
        optim="adamw_torch",
        max_length=profile.max_length,
        completion_only_loss=True,
        packing=False,
        loss_type="nll",
        gradient_checkpointing=False,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        fp16=False,
        logging_steps=5,
        logging_first_step=True,
        save_strategy="no",
        report_to="none",
        seed=derive_seed(seed, "sft"),
        disable_tqdm=True,
    )
    (out / "metrics.jsonl").unlink(missing_ok=True)

    class Log(TrainerCallback):
        """Write each logged row as JSONL under our names."""

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                row = {
                    "step": state.global_step,
                    "loss": float(logs["loss"]),
                    "lr": float(logs["learning_rate"]),
                }
                row["token_accuracy"] = float(logs.get("mean_token_accuracy", float("nan")))
                append_jsonl(out / "metrics.jsonl", {k: v for k, v in row.items() if v == v})

    set_seed(config.seed)  # TRL draws the adapter's first weights before its trainer seeds anything
    trainer = SFTTrainer(
        model=loaded.model,
        args=config,
        processing_class=loaded.tokenizer,
        train_dataset=Dataset.from_list(list(rows)),
        peft_config=lora_config(profile.lora_r, profile.lora_alpha),
        callbacks=[Log()],
    )
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl holds what it would print
    trainer.train()
    trainer.model.save_pretrained(out / "adapter")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return {
        "rows": len(rows),
        "steps": trainer.state.global_step,
        "seconds": round(time.perf_counter() - began, 2),
        "trainable_parameters": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
    }
