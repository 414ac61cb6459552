"""Model backends behind one interface: load, attach LoRA, sample, adapter off, save, merge.

`plain` (Transformers, PEFT) runs anywhere, `unsloth` on a CUDA card. A backend that cannot run here is an
error, never a silent fallback. Nothing heavy is imported before `load` or `prepare` is called.

`weights` finds the folder of a model or makes it, `loading` chooses a backend and loads it, `sampling`
samples replies (`prefix` reads a prompt that they share once, `decode` is a loop of our own), `tokens` has
tokenizers, `coder` lets the base weights play the coder, `backend` says what `plain` and `unsloth` have in
common.
"""

from mlagent_lib.training.backends.backend import (
    LORA_TARGETS,
    Backend,
    lora_config,
    resolve_precision,
    save_adapter,
)
from mlagent_lib.training.backends.coder import base_coder
from mlagent_lib.training.backends.loading import choose, load, prepare
from mlagent_lib.training.backends.sampling import generate_texts
from mlagent_lib.training.backends.tokens import load_tokenizer
from mlagent_lib.training.backends.weights import POCKET, model_path

__all__ = [
    "LORA_TARGETS", "POCKET", "Backend", "base_coder", "choose", "generate_texts", "load", "load_tokenizer",
    "lora_config", "model_path", "prepare", "resolve_precision", "save_adapter",
]  # fmt: skip
