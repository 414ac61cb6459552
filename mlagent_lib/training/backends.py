"""Model backends: load, attach LoRA, generate, adapter off. The plain one (Transformers, PEFT) runs anywhere.

Unsloth is chosen by name or, with ``auto``, where CUDA and the package are both there. A backend that cannot
run here is an error, never a silent fallback.
"""

from __future__ import annotations

import importlib.util
import json
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.core.errors import MlagentError

POCKET = Path(__file__).parent / "pocket_model"
# All linear layers, as in QLoRA (arXiv 2305.14314 section 4) and Unsloth's notebooks; the paper tunes all.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass
class Backend:
    """A model with its tokenizer, and where it runs.

    Attributes:
        name: ``plain`` or ``unsloth``.
        model: A causal language model, with an adapter once `with_lora` or `load_adapter` was called.
        tokenizer: Its tokenizer, padding on the left.
        device: ``cpu`` or ``cuda``.
    """

    name: str
    model: object
    tokenizer: object
    device: str

    def base(self):
        """Return a context in which the adapter is off: the weights that play the coder."""
        return self.model.disable_adapter() if hasattr(self.model, "peft_config") else nullcontext()


def choose(name: str = "auto") -> str:
    """Return the backend to use.

    Args:
        name: ``auto``, ``plain`` or ``unsloth``.

    Raises:
        MlagentError: The name is unknown, or Unsloth was asked for and cannot run here.
    """
    if name == "plain":
        return name
    if name not in ("auto", "unsloth"):
        raise MlagentError(f"backend {name!r} is unknown", cure="choose auto, plain or unsloth")
    import torch

    installed = importlib.util.find_spec("unsloth") is not None
    if torch.cuda.is_available() and installed:
        return "unsloth"
    if name == "unsloth":
        missing = "no CUDA device is visible" if installed else "the package unsloth is not installed"
        raise MlagentError(
            f"backend 'unsloth' cannot run here: {missing}", cure="choose backend plain, or use a GPU"
        )
    return "plain"


def model_path(name: str) -> str:
    """Return where the weights of a model are: the shipped folder for ``pocket``, else the name itself.

    Raises:
        MlagentError: The pocket model is not there.
    """
    if name != "pocket":
        return name
    if not (POCKET / "model.safetensors").exists():
        raise MlagentError(
            f"the pocket model is missing from {POCKET}", cure=f"run 'mlagent pretrain --out {POCKET}'"
        )
    return str(POCKET)


def load(
    name: str = "pocket", *, backend: str = "auto", adapter: Path | str | None = None, trainable: bool = False
):
    """Return a `Backend` with the model loaded, and an adapter on it when one is given.

    Args:
        name: ``pocket``, a folder, or a model's name.
        backend: ``auto``, ``plain`` or ``unsloth``.
        adapter: Folder of a LoRA adapter to put on.
        trainable: Whether the adapter shall be trained further.

    Raises:
        MlagentError: The backend cannot run here, or weights are missing.
    """
    chosen = choose(backend)
    if chosen == "unsloth":
        return _load_unsloth(name, adapter)
    import torch
    from transformers import AutoModelForCausalLM

    from mlagent_lib.training.prefix import share_prefixes

    path = model_path(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = load_tokenizer(path)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype).to(device)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter), is_trainable=trainable)
    share_prefixes(model)
    return Backend("plain", model, tokenizer, device)


def load_tokenizer(path: str):
    """Return the tokenizer of a model, padding on the left.

    A tokenizer of our own must not go through `AutoTokenizer`: for the Qwen2 architecture Transformers 5
    would put Qwen's splitting rules in place of those in ``tokenizer.json``, and every text would become
    other tokens.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    config = Path(path) / "tokenizer_config.json"
    own = config.exists() and json.loads(config.read_text()).get("tokenizer_class") == "TokenizersBackend"
    return (PreTrainedTokenizerFast if own else AutoTokenizer).from_pretrained(path, padding_side="left")


def _load_unsloth(name: str, adapter: Path | str | None) -> Backend:
    from unsloth import FastLanguageModel  # before trl, transformers and peft: it patches them

    model, tokenizer = FastLanguageModel.from_pretrained(
        str(adapter) if adapter else model_path(name),
        max_seq_length=4096,
        load_in_4bit=False,
        fast_inference=False,
    )
    tokenizer.padding_side = "left"
    return Backend("unsloth", model, tokenizer, "cuda")


def lora_config(r: int, alpha: int):
    """Return a LoRA configuration over all linear layers.

    Args:
        r: Rank.
        alpha: Scale; the update is multiplied by ``alpha / r``.
    """
    from peft import LoraConfig

    return LoraConfig(
        r=r,
        lora_alpha=alpha,
        lora_dropout=0.0,
        bias="none",
        target_modules=list(LORA_TARGETS),
        task_type="CAUSAL_LM",
    )


def generate_texts(
    model,
    tokenizer,
    conversations: list[list[dict]],
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 160,
    seed: int | None = None,
    batch_size: int = 96,
) -> list[str]:
    """Return one reply for each conversation, in order.

    Args:
        model: The model, with or without adapter.
        tokenizer: Its tokenizer; prompts are padded on the left.
        conversations: Chat messages that end with the user's turn.
        temperature: 0 for the likeliest token; else samples.
        max_new_tokens: Longest reply in tokens; a reply that reaches it is cut.
        seed: Seeds this call's sampling and leaves the global stream as it was.
        batch_size: Conversations generated together.
    """
    import torch

    tokenizer.padding_side = "left"
    training = model.training
    model.eval()
    options = (
        {"do_sample": False}
        if temperature == 0
        else {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0}
    )
    replies = []
    with torch.random.fork_rng(), torch.inference_mode():
        if seed is not None:
            torch.manual_seed(seed)
        for start in range(0, len(conversations), batch_size):
            part = conversations[start : start + batch_size]
            texts = [
                tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                for messages in part
            ]
            batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False).to(
                model.device
            )
            out = model.generate(
                **batch,
                max_new_tokens=max_new_tokens,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
                **options,
            )
            replies += tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    model.train(training)
    return replies


def base_coder(backend: Backend, *, max_new_tokens: int = 160):
    """Return the coder that the base weights play: adapter off, likeliest tokens.

    Args:
        backend: The loaded model; the coder shares its memory.
        max_new_tokens: Longest block in tokens.
    """
    from mlagent_lib.environment.coder import BlockCoder

    def generate(prompts: list[str]) -> list[str]:
        with backend.base():
            return generate_texts(
                backend.model,
                backend.tokenizer,
                [[{"role": "user", "content": prompt}] for prompt in prompts],
                temperature=0.0,
                max_new_tokens=max_new_tokens,
            )

    return BlockCoder(generate, name="base")
