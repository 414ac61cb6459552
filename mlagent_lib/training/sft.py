"""Exploration-enriched fine-tuning: LoRA SFT on expert trajectories with TRL, loss on the replies only.

Differs from the paper (v1 section 4.1, Eq. 2), which tunes all weights of Qwen2.5-7B with LLaMA-Factory: LoRA
here, and one row for each step (its prompt is the state as the policy reads it) instead of one row for a
whole conversation; the sum of Eq. 2 over steps is the same. The ideas are not in the prompt, so that the
policy learns to have them.
"""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import append_jsonl
from mlagent_lib.core.profiles import Loading, SFTProfile
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.task import Task
from mlagent_lib.training.backends import Backend, load
from mlagent_lib.training.backends.tokens import chat_texts
from mlagent_lib.training.checkpoints import Keeper, forget_after, last_checkpoint
from mlagent_lib.training.processes import from_main, is_main, plan_batch, world_size
from mlagent_lib.training.trl_settings import common_settings, make_config, make_trainer, prepare_trainer

# Of TRL's settings those that are the same in every profile; checkpoints are saved by the clock.
FIXED = {
    "max_steps": -1,
    "lr_scheduler_type": "cosine",
    "completion_only_loss": True,
    "packing": False,
    "padding_free": False,
    "loss_type": "nll",
    "logging_steps": 5,
    "logging_first_step": True,
    "save_strategy": "no",
}
log = logging.getLogger("mlagent.sft")


def sft_rows(trajectories: Sequence[dict], tasks: dict[str, Task], prompter: Prompter) -> list[dict]:
    """Return one prompt-completion row in TRL's conversational form for each step of expert trajectories."""
    return [
        {
            "prompt": prompter.messages(State.from_json(step["state"]), tasks[trajectory["task"]]),
            "completion": [{"role": "assistant", "content": step["reply"]}],
        }
        for trajectory in trajectories
        for step in trajectory["steps"]
        if step["outcome"] != "unscored"
    ]


def train_sft(
    rows: Sequence[dict], profile: SFTProfile, *, model: str, backend: str | Loading, out: Path, seed: int,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict:  # fmt: skip
    """Train a LoRA adapter on the rows, save it under ``out/adapter`` and return what was measured.

    Args:
        backend: How to load it: a profile's `Loading`, or a backend's name.
        out: Folder of the stage; ``metrics.jsonl`` is written here, too. Interrupted training goes on from
            the last of its ``checkpoints``.
        progress: Called with each row of the metrics: update, how many in all, and the loss in words.

    Returns:
        Of the ``rows``, how many were trained (``rows_trained``), how many of those lose the end of their
        reply (``rows_cut``), and how many were left out as their prompt fills ``max_length``
        (``rows_dropped``); ``steps``, ``seconds`` and ``trainable_parameters``.

    Raises:
        RunError: No row is left, a setting was dropped by the trainer, it would learn the prompts too, or the
            loss is no number.
    """
    loaded = load(model, backend=backend)  # first: Unsloth must be imported before trl
    trained, counts = trainable_rows(rows, loaded.tokenizer, profile.max_length)
    from transformers import TrainerCallback, set_seed
    from trl import SFTConfig, SFTTrainer

    began = time.perf_counter()
    wanted = sft_settings(loaded, profile, out=out, seed=seed)
    config = make_config(SFTConfig, wanted)
    done, checkpoint = last_checkpoint(out) or (-1, None)
    forget_after(out / "metrics.jsonl", done)

    class Log(Keeper, TrainerCallback):
        """Write each logged row as JSONL under our names, and save where a kill would lose much."""

        def on_step_end(self, args, state, control, **kwargs):
            is_logged = state.global_step % args.logging_steps == 0  # a row is a mean since the one before
            control.should_save |= is_logged and from_main(self.is_due)

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" not in logs or not is_main():
                return
            step, loss = state.global_step, float(logs["loss"])
            if not math.isfinite(loss):
                cure = "take a smaller sft.lr, or a card with bfloat16"
                raise RunError(f"step {step} of SFT has loss {loss}: training cannot go on", cure=cure)
            row = {"step": step, "loss": loss, "lr": float(logs["learning_rate"])}
            row["token_accuracy"] = float(logs.get("mean_token_accuracy", math.nan))
            append_jsonl(out / "metrics.jsonl", {k: v for k, v in row.items() if not math.isnan(v)})
            if progress:
                progress(step, state.max_steps, f"loss {loss:.2f}")

    loaded.attach_lora(profile.lora_r, profile.lora_alpha, seed=config.seed)
    set_seed(config.seed)  # the same stream whatever the backend drew
    trainer = make_trainer(SFTTrainer, loaded, config, trained, Log())
    prepare_trainer(trainer, wanted, "the SFT trainer")
    _check_only_replies_count(trainer)
    trainer.train(resume_from_checkpoint=checkpoint)
    if is_main():
        loaded.save(out / "adapter")
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    from_main(None)  # the others wait until the adapter is there
    found = {"steps": trainer.state.global_step, "seconds": round(time.perf_counter() - began, 2)}
    weights = sum(weight.numel() for weight in trainer.model.parameters() if weight.requires_grad)
    return counts | found | {"trainable_parameters": weights}


def sft_settings(loaded: Backend, profile: SFTProfile, *, out: Path, seed: int) -> dict:
    """Return the settings of TRL's SFT trainer, by name: none that matters is left to a default."""
    from mlagent_lib.training.backends.prefix import ROUND

    plan = plan_batch(profile.batch, micro=profile.micro_batch, world=world_size())
    return common_settings(loaded, profile, plan, out=out, seed=derive_seed(seed, "sft")) | {
        **FIXED,
        "num_train_epochs": profile.epochs,
        "warmup_steps": profile.warmup_share,
        "weight_decay": profile.weight_decay,
        "max_length": profile.max_length,
        # torch builds a kernel for each new shape of a product in bfloat16 on a CPU
        "pad_to_multiple_of": ROUND if (loaded.device, loaded.precision) == ("cpu", "bfloat16") else None,
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


def trainable_rows(rows: Sequence[dict], tokenizer, max_length: int) -> tuple[list[dict], dict[str, int]]:
    """Return the rows whose reply reaches the loss, and how many were given, trained, dropped and cut.

    TRL drops a row whose prompt fills ``max_length`` without a word; it is told here, for every backend.

    A row that is longer than ``max_length`` tokens loses its end.

    Raises:
        RunError: No row is left.
    """
    prompts = _token_ids(tokenizer, [row["prompt"] for row in rows], add_generation_prompt=True)
    whole = _token_ids(tokenizer, [[*row["prompt"], *row["completion"]] for row in rows])
    # as TRL does: the reply begins where the prompt alone and the whole part ways
    starts = [len(os.path.commonprefix(pair)) for pair in zip(prompts, whole, strict=True)]
    kept = [start < min(len(ids), max_length) for start, ids in zip(starts, whole, strict=True)]
    if not any(kept):
        raise RunError(
            f"none of the {len(rows)} rows of SFT can be trained: the shortest prompt has "
            f"{min(starts, default=0)} tokens, and sft.max_length is {max_length}",
            cure="give a larger sft.max_length, or collect trajectories with replies",
        )
    counts = {"rows": len(rows), "rows_trained": sum(kept), "rows_dropped": len(rows) - sum(kept)}
    counts["rows_cut"] = sum(keep and len(ids) > max_length for keep, ids in zip(kept, whole, strict=True))
    if counts["rows_dropped"] or counts["rows_cut"]:
        log.warning(
            "%(rows)d rows, max_length %(max_length)d: %(rows_dropped)d dropped as their prompt fills it, "
            "%(rows_cut)d lose the end of their reply",
            counts | {"max_length": max_length},
        )
    return [row for row, keep in zip(rows, kept, strict=True) if keep], counts


def _token_ids(tokenizer, conversations: Sequence[list[dict]], **options) -> list[list[int]]:
    """Return the tokens of conversations as the chat template writes them."""
    texts = chat_texts(tokenizer, conversations, **options)
    return tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
