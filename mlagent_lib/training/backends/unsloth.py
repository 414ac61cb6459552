"""The backend with Unsloth's kernels: a CUDA card, less memory and time for the same numbers.

Written against Unsloth 2026.10.7; everything that it would choose by itself is given by name. Differences
from plain that the rest of the kit must know: its trainers take no `peft_config` (so adapters are attached
before), and its GRPO trainer takes the base weights as reference of the KL term unless the model has an
adapter called ``ref`` (so `train_grpo` gives it one).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from mlagent_lib.core.profiles import Loading
from mlagent_lib.training.backends.backend import LORA_TARGETS, Backend, device_and_precision
from mlagent_lib.training.backends.tokens import load_tokenizer, make_ready, save_tokenizer

WINDOW = 4096  # ours: tokens, where the profile gives no window; Unsloth reserves memory by it
_MAX_RANK = 64  # of an adapter in the vLLM engine, only used with fast_inference


class UnslothBackend(Backend):
    """`FastLanguageModel` with the interface of a `Backend`."""

    name = "unsloth"
    _checkpointing_kwargs: dict[str, Any] = {"use_reentrant": True}  # Unsloth's own needs it, and sets it

    @classmethod
    def load(cls, path: str, loading: Loading, *, adapter: Path | str | None, trainable: bool) -> Self:
        """Return the backend with base weights, and an adapter on them when one is given.

        Args:
            path: Folder or name of the base weights. With an adapter Unsloth reads them from the place that
                the adapter names.
        """
        import torch
        from unsloth import FastLanguageModel

        device, precision = device_and_precision(loading)
        model, _ = FastLanguageModel.from_pretrained(
            model_name=str(adapter) if adapter is not None else path,
            max_seq_length=loading.window or WINDOW,
            dtype=getattr(torch, precision),
            load_in_4bit=loading.four_bit,
            load_in_8bit=False,
            full_finetuning=False,
            use_gradient_checkpointing="unsloth",
            use_exact_model_name=True,  # the same weights as the plain backend, not a copy elsewhere
            fast_inference=loading.fast_inference,
            max_lora_rank=_MAX_RANK,
        )
        if adapter is not None and not trainable:
            for weight in model.parameters():
                weight.requires_grad_(False)
        tokenizer = load_tokenizer(path)  # Unsloth's is `AutoTokenizer`'s
        make_ready(model, tokenizer)
        return cls(path, model, tokenizer, device, precision, loading)

    def attach_lora(self, r: int, alpha: int, *, seed: int) -> None:
        """Put a fresh adapter on all linear layers (see `Backend.attach_lora`)."""
        self._need_adapter(False)
        from unsloth import FastLanguageModel

        self.model = FastLanguageModel.get_peft_model(
            self.model,
            r=r,
            lora_alpha=alpha,
            lora_dropout=0,
            bias="none",
            target_modules=list(LORA_TARGETS),
            use_gradient_checkpointing="unsloth",  # its trainers switch it off where the settings say so
            random_state=seed,
            use_rslora=False,
            loftq_config={},
        )

    def merge(self, folder: Path | str) -> None:
        """Write the merged model (see `Backend.merge`)."""
        self._need_adapter()
        self.model.save_pretrained_merged(str(folder), self.tokenizer, save_method="merged_16bit")
        save_tokenizer(self.tokenizer, folder)

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        """Switch to Unsloth's kernels for sampling, and back to those for training."""
        from unsloth import FastLanguageModel

        training = self.model.training
        FastLanguageModel.for_inference(self.model)
        try:
            yield
        finally:
            if training:
                FastLanguageModel.for_training(self.model)
