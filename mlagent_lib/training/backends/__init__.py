"""Model backends behind one interface: load, attach LoRA, generate, adapter off, save, merge.

`plain` (Transformers, PEFT) runs anywhere, `unsloth` on a CUDA card. A backend that cannot run here is an
error, never a silent fallback. Nothing heavy is imported before `load` or `prepare` is called.
"""

from mlagent_lib.training.backends.choice import POCKET, choose, load, model_path, prepare
from mlagent_lib.training.backends.coder import base_coder
from mlagent_lib.training.backends.interface import (
    LORA_TARGETS,
    Backend,
    generate_texts,
    load_tokenizer,
    lora_config,
    resolve_precision,
    save_adapter,
)
from mlagent_lib.training.backends.settings import check_held, make_config

__all__ = [
    "LORA_TARGETS",
    "POCKET",
    "Backend",
    "base_coder",
    "check_held",
    "choose",
    "generate_texts",
    "load",
    "load_tokenizer",
    "lora_config",
    "make_config",
    "model_path",
    "prepare",
    "resolve_precision",
    "save_adapter",
]
