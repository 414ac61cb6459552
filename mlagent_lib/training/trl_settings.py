"""Settings of TRL's trainers: every one given by name, and none dropped on the way.

Unsloth puts classes of its own in the place of TRL's, under the same names, with other defaults, and drops
arguments that it does not know with a printed line. So every field is given, and afterwards the objects are
asked what they hold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import MISSING
from enum import Enum
from pathlib import Path
from typing import Any

from mlagent_lib.core.errors import RunError
from mlagent_lib.core.profiles import GRPOProfile, SFTProfile
from mlagent_lib.training.backends import Backend
from mlagent_lib.training.processes import BatchPlan

_MISSING = object()
# The same in every training; a loss that is no number is told, not hidden.
FIXED = {
    "optim": "adamw_torch",
    "max_grad_norm": 1.0,
    "logging_nan_inf_filter": False,
    "eval_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "save_total_limit": 2,
}


def common_settings(
    loaded: Backend, profile: SFTProfile | GRPOProfile, plan: BatchPlan, *, out: Path, seed: int
) -> dict[str, Any]:
    """Return the settings that SFT and GRPO share, by name."""
    return {
        "output_dir": str(out / "checkpoints"),
        "per_device_train_batch_size": plan.per_device,
        "gradient_accumulation_steps": plan.accumulation,
        "learning_rate": profile.lr,
        "seed": seed,
        **FIXED,
        **loaded.trainer_settings(checkpointing=profile.checkpointing),
    }


def make_trainer(kind: type, loaded: Backend, config: Any, rows: list[dict], callback: Any, **more: Any):
    """Return a trainer of this kind for a loaded model; ``more`` are arguments of its own."""
    from datasets import Dataset

    more |= {"model": loaded.model, "args": config, "processing_class": loaded.tokenizer}
    return kind(train_dataset=Dataset.from_list(rows), callbacks=[callback], **more)


def prepare_trainer(trainer, wanted: Mapping[str, Any], what: str) -> None:
    """Check that a trainer holds its settings, keep its adapter in float32, and let it print nothing."""
    from transformers import PrinterCallback

    check_held(trainer.args, wanted, what)
    keep_adapter_in_float32(trainer.model)
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl holds what it would print


def keep_adapter_in_float32(model) -> None:
    """Make trainable weights float32, as they were attached: TRL turns those on 4-bit weights to bfloat16.

    In float16 training that would fail (its gradient scaler has no bfloat16), on a T4 it would be slow.
    """
    import torch

    for weight in model.parameters():
        if weight.requires_grad and weight.dtype != torch.float32:
            weight.data = weight.data.float()


def make_config(kind: type, wanted: Mapping[str, Any]):
    """Return a configuration that holds what is wanted, and TRL's own default in every other field.

    The kind is ``GRPOConfig`` or ``SFTConfig``, imported after the backend was prepared.

    Raises:
        RunError: A setting is unknown to this version, or the object holds another value.
    """
    known = _defaults(kind)
    if unknown := sorted(set(wanted) - set(known)):
        cure = "install the versions that the kit pins"
        raise RunError(f"{kind.__name__} has no setting {', '.join(unknown)}", cure=cure)
    config = kind(**(known | dict(wanted)))
    check_held(config, wanted, kind.__name__)
    return config


def check_held(held: Any, wanted: Mapping[str, Any], what: str) -> None:
    """Check that an object holds what was asked for; return nothing.

    Raises:
        RunError: A setting was dropped or changed; the message names each with both values.
    """
    changed = []
    for name, value in wanted.items():
        found = getattr(held, name, _MISSING)
        if found is _MISSING:
            changed.append(f"{name} was dropped (asked for {value!r})")
        elif _plain(found) != _plain(value):
            changed.append(f"{name} is {found!r} instead of {value!r}")
    if changed:
        cure = "install the versions that the kit pins, or choose backend plain"
        raise RunError(f"{what} does not hold what was asked for: {'; '.join(changed)}", cure=cure)


def _defaults(kind: type) -> dict[str, Any]:
    """Return the default of each field: those that Unsloth's subclass inherits are still TRL's own."""
    own = [item for item in dataclasses.fields(kind) if item.init]
    made = {item.name: item.default_factory() for item in own if item.default_factory is not MISSING}
    return {item.name: None if item.default is MISSING else item.default for item in own} | made


def _plain(value: Any) -> Any:
    """Return a value as it was written: enumerations by value, ``"none"`` as the empty list it becomes."""
    if isinstance(value, Enum):
        value = value.value
    if value in ("none", [], ["none"]):
        return []
    return list(value) if isinstance(value, tuple) else value
