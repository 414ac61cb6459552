"""What every backend can do, and the parts that they share: tokenizer, LoRA settings, sampling."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Self

from mlagent_lib.core.errors import ProfileError, RunError
from mlagent_lib.core.profiles import Loading

# All linear layers, as in QLoRA (arXiv 2305.14314 section 4) and Unsloth's notebooks; the paper tunes all.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GENERATION_ROWS = 96  # conversations sampled at once where the profile says nothing
_TURN_END = "<|im_end|>"


class Backend(ABC):
    """A loaded model with its tokenizer: what training, sampling and coding need of it.

    Attributes:
        name: ``plain`` or ``unsloth``.
        path: Folder or name of the base weights.
        model: A causal language model, with an adapter once `attach_lora` was called or one was loaded.
        tokenizer: Its tokenizer, padding on the left.
        device: ``cpu`` or ``cuda``.
        precision: Of the computation: ``float32``, ``bfloat16`` or ``float16``.
        loading: How it was loaded.
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
        """Put a fresh adapter on all linear layers; its first weights come from the seed, B is zero.

        Raises:
            RunError: There is an adapter already.
        """

    @abstractmethod
    def merge(self, folder: Path | str) -> None:
        """Write base weights with the adapter added, in 16 bits, and the tokenizer; the model stays as it is.

        Raises:
            RunError: There is no adapter.
        """

    @property
    def has_adapter(self) -> bool:
        """Return whether an adapter is on the model."""
        return hasattr(self.model, "peft_config")

    def base(self) -> AbstractContextManager:
        """Return a context in which the adapter is off: the weights that play the coder."""
        return self.model.disable_adapter() if self.has_adapter else nullcontext()

    def generate(
        self,
        conversations: list[list[dict]],
        *,
        temperature: float,
        max_new_tokens: int,
        seed: int | None = None,
    ) -> list[str]:
        """Return one reply for each conversation, in order (see `generate_texts`).

        Raises:
            RunError: A prompt and its reply do not fit the window.
        """
        with self._sampling():
            return generate_texts(
                self.model,
                self.tokenizer,
                conversations,
                temperature=temperature,
                max_new_tokens=max_new_tokens,
                seed=seed,
                batch_size=self.loading.generation_rows or GENERATION_ROWS,
                window=self.loading.window,
            )

    def save(self, folder: Path | str) -> None:
        """Write the adapter alone, without the reference copy that a trainer may keep beside it.

        Raises:
            RunError: There is no adapter.
        """
        self._need_adapter()
        self.model.save_pretrained(folder, selected_adapters=["default"])

    def trainer_settings(self, *, checkpointing: bool) -> dict[str, Any]:
        """Return the settings of TRL's configurations that follow from device and precision.

        Args:
            checkpointing: Whether activations are made again in the backward pass, to save memory.
        """
        on_card = self.device == "cuda"
        return {
            "use_cpu": not on_card,
            "bf16": on_card and self.precision == "bfloat16",
            "fp16": on_card and self.precision == "float16",
            "gradient_checkpointing": checkpointing,
            "gradient_checkpointing_kwargs": self._checkpointing_kwargs if checkpointing else None,
        }

    _checkpointing_kwargs: dict[str, Any] = {"use_reentrant": False}

    def _sampling(self) -> AbstractContextManager:
        """Return a context in which the model samples; what a backend has to switch is switched there."""
        return nullcontext()

    def _need_adapter(self) -> None:
        if not self.has_adapter:
            raise RunError("the model has no adapter", cure="attach one with attach_lora, or load one")

    def _need_no_adapter(self) -> None:
        if self.has_adapter:
            raise RunError(
                "the model has an adapter already", cure="train that one further, or load without it"
            )


def resolve_precision(wanted: str, *, device: str, has_bfloat16: bool = False) -> str:
    """Return the precision that a device computes in: float32 on a CPU, whatever is wanted.

    Args:
        wanted: ``auto``, ``bfloat16``, ``float16`` or ``float32``.
        device: ``cpu`` or ``cuda``.
        has_bfloat16: Whether the card computes in bfloat16 itself (compute capability 8.0 and later).

    Raises:
        ProfileError: The card has no bfloat16.

    Example:
        >>> resolve_precision("auto", device="cuda", has_bfloat16=False)  # a T4
        'float16'
        >>> resolve_precision("bfloat16", device="cpu")
        'float32'
    """
    if device == "cpu":
        return "float32"
    if wanted == "auto":
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
    has_bfloat16 = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return device, resolve_precision(loading.precision, device=device, has_bfloat16=has_bfloat16)


def load_tokenizer(path: str):
    """Return the tokenizer of a model, padding on the left, its end token the one that ends a turn.

    A tokenizer of our own must not go through `AutoTokenizer`: for the Qwen2 architecture Transformers 5
    would put Qwen's splitting rules in place of those in ``tokenizer.json``, and every text would become
    other tokens.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    config = Path(path) / "tokenizer_config.json"
    own = config.exists() and json.loads(config.read_text()).get("tokenizer_class") == "TokenizersBackend"
    kind = PreTrainedTokenizerFast if own else AutoTokenizer
    return ends_with_the_turn(kind.from_pretrained(path, padding_side="left"))


def ends_with_the_turn(tokenizer):
    """Return the tokenizer with ``<|im_end|>`` as its end token where its chat template ends turns so.

    The base models of Qwen2.5 (without Instruct) stop at ``<|endoftext|>``: after SFT on chat turns they
    would end a turn and go on writing.
    """
    template = getattr(tokenizer, "chat_template", None)
    ends_turns = isinstance(template, str) and _TURN_END in template
    if ends_turns and tokenizer.eos_token != _TURN_END and _TURN_END in tokenizer.get_vocab():
        tokenizer.eos_token = _TURN_END
    return tokenizer


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
    batch_size: int = GENERATION_ROWS,
    window: int = 0,
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
        window: Longest prompt and reply together, in tokens; 0 for no check.

    Raises:
        RunError: A prompt and its reply do not fit the window.
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
            _check_window(batch["input_ids"].shape[1], max_new_tokens, window)
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


def _check_window(prompt: int, reply: int, window: int) -> None:
    if window and prompt + reply > window:
        raise RunError(
            f"a prompt of {prompt} tokens and a reply of {reply} do not fit the window of {window}",
            cure="give the profile fewer prompt_tokens, or a larger sft.max_length",
        )
