"""The backend that runs anywhere: Transformers and PEFT as they are, on a CPU or a CUDA card."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from mlagent_lib.core.errors import MlagentError
from mlagent_lib.core.profiles import Loading
from mlagent_lib.training.backends.backend import (
    Backend,
    check_trainable,
    device_and_precision,
    lora_config,
)
from mlagent_lib.training.backends.tokens import load_tokenizer, make_ready, save_tokenizer, tell


class PlainBackend(Backend):
    """Transformers and PEFT; equal prompts of a batch are read once (see `share_prefixes`)."""

    name = "plain"

    @classmethod
    def load(cls, path: str, loading: Loading, *, adapter: Path | str | None, trainable: bool) -> Self:
        """Return the backend with base weights, and an adapter on them when one is given."""
        import torch
        from transformers import AutoModelForCausalLM

        from mlagent_lib.training.backends.decode import reason_against
        from mlagent_lib.training.backends.prefix import share_prefixes

        device, precision = device_and_precision(loading)
        dtype = getattr(torch, precision)
        options = _four_bit(device, dtype) if loading.four_bit else {"dtype": dtype}
        if device == "cpu" and dtype == torch.bfloat16:
            # torch 2.13's fused attention goes back slowly there: plainly a micro-batch took 26 % less
            options["attn_implementation"] = "eager"
        with _had(path):
            tokenizer = load_tokenizer(path)
            model = AutoModelForCausalLM.from_pretrained(path, **options)
        make_ready(model, tokenizer)
        if not loading.four_bit:
            model = model.to(_card() if device == "cuda" else "cpu")
        if adapter is not None:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
        share_prefixes(model)
        if device == "cpu" and (reason := reason_against(model)):
            tell(f"{path}: Transformers' generate samples the replies, since {reason}")
        return cls(path, model, tokenizer, device, precision, loading)

    def attach_lora(self, r: int, alpha: int, *, seed: int) -> None:
        """Put a fresh adapter on all linear layers (see `Backend.attach_lora`)."""
        self._need_adapter(False)
        from peft import get_peft_model
        from transformers import set_seed

        from mlagent_lib.training.backends.prefix import share_prefixes

        check_trainable(self.model)
        set_seed(seed)
        del self.model.generate  # the shared prefixes move to the outer model
        self.model = get_peft_model(self.model, lora_config(r, alpha))
        share_prefixes(self.model)

    def merge(self, folder: Path | str, *, precision: str = "") -> None:
        """Write the merged model (see `Backend.merge`), or in another precision, such as ``float32``.

        The base is read once more on the CPU: 4-bit weights would lose their rounding for good, and the
        model that is loaded may be in training.
        """
        self._need_adapter()
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM

        dtype = getattr(torch, precision or ("float16" if self.precision == "float16" else "bfloat16"))
        with tempfile.TemporaryDirectory(prefix="mlagent-merge-") as adapter:
            self.save(adapter)
            base = AutoModelForCausalLM.from_pretrained(self.path, dtype=dtype)
            make_ready(base, self.tokenizer)
            merged = PeftModel.from_pretrained(base, adapter).merge_and_unload()
        merged.save_pretrained(folder)
        save_tokenizer(self.tokenizer, folder)


@contextmanager
def _had(path: str) -> Iterator[None]:
    """Say what to do where Transformers cannot find a model, or does not know it."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise MlagentError(
            f"model {path!r} cannot be loaded: {str(error).strip().splitlines()[0]}",
            cure="check the name and the network; without one give pocket, smollm2, a folder or a .gguf file",
        ) from error


def _card() -> str:
    """Return this process's own card: `accelerate launch` gives each process a number."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"


def _four_bit(device: str, dtype: Any) -> dict[str, Any]:
    """Return the options for NF4 weights with double quantization (QLoRA, arXiv 2305.14314 section 3)."""
    missing, cure = "", "use a GPU runtime, or a profile without four_bit"
    if device != "cuda":
        missing = "no CUDA device is visible"
    elif importlib.util.find_spec("bitsandbytes") is None:
        missing = "the package bitsandbytes is not installed"
        cure = "install the extra 'unsloth', or take a profile without four_bit"
    if missing:
        raise MlagentError(f"4-bit weights cannot be had here: {missing}", cure=cure)
    from transformers import BitsAndBytesConfig

    nf4 = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True, "bnb_4bit_compute_dtype": dtype}
    config = BitsAndBytesConfig(load_in_4bit=True, **nf4)
    return {"quantization_config": config, "dtype": dtype, "device_map": {"": _card()}}
