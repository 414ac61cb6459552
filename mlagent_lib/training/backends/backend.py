"""What every backend can do, and the settings that they share: precision and LoRA."""

from __future__ import annotations

import json
import logging
import statistics
import time
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any, Self

from mlagent_lib.agents.policies import Sampler
from mlagent_lib.core.errors import MlagentError, ProfileError, RunError
from mlagent_lib.core.files import sha256_bytes, write_json
from mlagent_lib.core.profiles import Loading
from mlagent_lib.core.provenance import cpu_name
from mlagent_lib.tasks.registry import home_folder
from mlagent_lib.training.backends.sampling import GENERATION_ROWS, generate_texts

# All linear layers, as in QLoRA (arXiv 2305.14314 section 4) and Unsloth's notebooks; the paper tunes all.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
WORTH_IT = 1.5  # ours: how many times faster products in bfloat16 must be to be chosen over float32

log = logging.getLogger("mlagent.backends")


class Backend(ABC):
    """A loaded model with its tokenizer: what training, sampling and coding need of it.

    Attributes:
        path: Folder or name of the base weights.
        model: A causal language model, with an adapter once `attach_lora` was called or one was loaded.
        tokenizer: Its tokenizer, padding on the left.
        device: ``cpu`` or ``cuda``.
        precision: Of the computation: ``float32``, ``bfloat16`` or ``float16``.
    """

    name = ""

    def __init__(self, path: str, model: Any, tokenizer: Any, device: str, precision: str, loading: Loading):
        self.path, self.model, self.tokenizer = path, model, tokenizer
        self.device, self.precision, self.loading = device, precision, loading

    @classmethod
    @abstractmethod
    def load(cls, path: str, loading: Loading, *, adapter: Path | str | None, trainable: bool) -> Self:
        """Return the backend with base weights, and an adapter on them when one is given."""

    @abstractmethod
    def attach_lora(self, r: int, alpha: int, *, seed: int) -> None:
        """Put an adapter on all linear layers where none is: its first weights from the seed, B zero."""

    @abstractmethod
    def merge(self, folder: Path | str) -> None:
        """Write base weights with the adapter added, in 16 bits, and the tokenizer; the model stays."""

    @property
    def has_adapter(self) -> bool:
        """Return whether an adapter is on the model."""
        return hasattr(self.model, "peft_config")

    def base(self) -> AbstractContextManager:
        """Return a context in which the adapter is off: the weights that play the coder."""
        return self.model.disable_adapter() if self.has_adapter else nullcontext()

    def generate(self, conversations: list[list[dict]], seed: int | None = None, **options) -> list[str]:
        """Return one reply for each conversation, in order, as `generate_texts` with its options."""
        rows = self.loading.generation_rows or GENERATION_ROWS
        options |= {"seed": seed, "batch_size": rows, "window": self.loading.window}
        with self._sampling():
            return generate_texts(self.model, self.tokenizer, conversations, **options)

    def sampler(self, *, temperature: float, max_new_tokens: int) -> Sampler:
        """Return the function of conversations and a seed that samples replies (for `LocalPolicy`)."""
        return partial(self.generate, temperature=temperature, max_new_tokens=max_new_tokens)

    def save(self, folder: Path | str) -> None:
        """Write the adapter alone (see `save_adapter`), where there is one."""
        self._need_adapter()
        save_adapter(self.model, folder)

    def trainer_settings(self, *, checkpointing: bool) -> dict[str, Any]:
        """Return the settings of TRL's configurations that follow from device and precision."""
        on_card = self.device == "cuda"
        return {
            "use_cpu": not on_card,
            "bf16": self.precision == "bfloat16",
            "fp16": on_card and self.precision == "float16",
            "gradient_checkpointing": checkpointing,
            "gradient_checkpointing_kwargs": self._checkpointing_kwargs if checkpointing else None,
        }

    _checkpointing_kwargs: dict[str, Any] = {"use_reentrant": False}

    def _sampling(self) -> AbstractContextManager:
        """Return a context in which the model samples; what a backend has to switch is switched there."""
        return nullcontext()

    def _need_adapter(self, wanted: bool = True) -> None:
        """Raise `RunError` where there is no adapter, or where there is one and none is wanted."""
        if wanted and not self.has_adapter:
            raise RunError("the model has no adapter", cure="attach one with attach_lora, or load one")
        if not wanted and self.has_adapter:
            cure = "train that one further, or load without it"
            raise RunError("the model has an adapter already", cure=cure)


def resolve_precision(wanted: str, *, device: str, has_bfloat16: bool | None = None) -> str:
    """Return the precision that a device computes in: on a CPU float32, but where ``measured`` is wanted.

    Args:
        has_bfloat16: Whether the card computes in bfloat16 itself (compute capability 8.0 and later), or the
            CPU faster than in float32.

    Raises:
        ProfileError: The card has no bfloat16.

    Example:
        >>> resolve_precision("auto", device="cuda", has_bfloat16=False)  # a T4
        'float16'
        >>> resolve_precision("bfloat16", device="cpu")
        'float32'
        >>> resolve_precision("measured", device="cpu", has_bfloat16=True)
        'bfloat16'
    """
    if device == "cpu":
        return "bfloat16" if wanted == "measured" and has_bfloat16 else "float32"
    if wanted in ("auto", "measured"):
        return "bfloat16" if has_bfloat16 else "float16"
    if wanted == "bfloat16" and not has_bfloat16:
        raise ProfileError(
            "precision 'bfloat16' cannot run here: the card does not have it (a T4 has float16 only)",
            cure="take precision float16, as profile colab-t4 does",
        )
    return wanted


def device_and_precision(loading: Loading) -> tuple[str, str]:
    """Return ``cpu`` or ``cuda``, and the precision there."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bfloat16 = loading.precision == "measured" and bfloat16_gain() >= WORTH_IT
    return device, resolve_precision(loading.precision, device=device, has_bfloat16=has_bfloat16)


def bfloat16_gain() -> float:
    """Return how many times faster this CPU multiplies in bfloat16 than in float32, measured once a machine.

    The median of five pairs, each of one product of 512 × 576 by 576 × 1536 numbers in either precision (a
    layer of SmolLM2-135M). It is kept below `home_folder`, so that a run that goes on computes as it began.
    """
    import torch
    from torch.nn.functional import linear

    name = sha256_bytes(f"{cpu_name()} {torch.__version__} {torch.get_num_threads()}".encode())[:12]
    record = home_folder() / f"bfloat16-{name}.json"
    if record.exists():
        return json.loads(record.read_text(encoding="utf-8"))["gain"]
    stream, seconds = torch.Generator().manual_seed(0), []
    whole = [torch.randn(rows, 576, generator=stream) for rows in (512, 1536)]
    pairs = whole, [part.bfloat16() for part in whole]
    with torch.inference_mode():
        for _ in range(6):  # the first pair only warms up
            for inputs, weight in pairs:
                began = time.perf_counter()
                linear(inputs, weight)
                seconds.append(time.perf_counter() - began)
    gain = statistics.median(f32 / bf16 for f32, bf16 in zip(seconds[2::2], seconds[3::2], strict=True))
    write_json(record, {"gain": round(gain, 2), "cpu": cpu_name(), "threads": torch.get_num_threads()})
    log.warning("this CPU multiplies %.1f times as fast in bfloat16 as in float32", gain)
    return gain


def lora_config(r: int, alpha: int):
    """Return a LoRA configuration over all linear layers; the update is multiplied by ``alpha / r``."""
    from peft import LoraConfig

    fixed = {"lora_dropout": 0.0, "bias": "none", "task_type": "CAUSAL_LM"}
    return LoraConfig(r=r, lora_alpha=alpha, target_modules=list(LORA_TARGETS), **fixed)


def check_trainable(model) -> None:
    """Raise `MlagentError` where a model lacks a layer of `LORA_TARGETS`: PEFT would adapt the rest."""
    there = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    if missing := [name for name in LORA_TARGETS if name not in there]:
        raise MlagentError(
            f"a model of the architecture {model.config.model_type} has no {', '.join(missing)}, so this kit "
            "cannot train it",
            cure="take a Qwen2, Qwen3, Llama, Mistral or Gemma, whose layers have the projections "
            + ", ".join(LORA_TARGETS),
        )


def save_adapter(model, folder: Path | str) -> None:
    """Write the trained adapter alone, without the reference; the same adapter gives the same bytes."""
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    config = Path(folder) / "adapter_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    for name, value in values.items():  # PEFT holds names of modules as sets, whose order is chance
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            values[name] = sorted(value)
    write_json(config, values)
