"""What every backend can do, and the parts that they share: tokenizer, LoRA settings, sampling."""

from __future__ import annotations

import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from pathlib import Path
from typing import Any, Self

from mlagent_lib.core.errors import MlagentError, ProfileError, RunError
from mlagent_lib.core.files import write_json
from mlagent_lib.core.profiles import Loading

# All linear layers, as in QLoRA (arXiv 2305.14314 section 4) and Unsloth's notebooks; the paper tunes all.
LORA_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
GENERATION_ROWS = 96  # conversations sampled at once where the profile says nothing
_TURN_END = "<|im_end|>"
_PADDING = "<|padding|>"  # ours, where a vocabulary has nothing to pad with
_UNUSED = re.compile(r"[<\[].*(pad|reserved|unused).*[>\]]")  # how makers call tokens that no text uses
# Of a generation_config: what every call here gives itself, and what changes no reply.
_GIVEN = {"do_sample", "temperature", "top_k", "top_p", "max_length", "max_new_tokens", "use_cache"}
_GIVEN |= {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}

log = logging.getLogger("mlagent.backends")


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
        """Write the adapter alone (see `save_adapter`).

        Raises:
            RunError: There is no adapter.
        """
        self._need_adapter()
        save_adapter(self.model, folder)

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


TOKENIZER_NOTE = (
    "Load the tokenizer with `PreTrainedTokenizerFast.from_pretrained`: `AutoTokenizer` of Transformers 5 "
    "would replace its splitting rules by {rules}."
)


def load_tokenizer(path: str):
    """Return the tokenizer of a model, padding on the left, its end token the one that ends a turn.

    Where there is a ``tokenizer.json``, it is loaded as it was saved. `AutoTokenizer` of Transformers 5 would
    put the splitting rules of a class or an architecture in their place (Qwen2 always, Llama where the
    tokenizer is said to be Llama's), and every text would become other tokens.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.utils import cached_file

    saved = cached_file(
        path, "tokenizer.json", _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )  # fmt: skip
    kind = AutoTokenizer if saved is None else PreTrainedTokenizerFast
    return ends_with_the_turn(kind.from_pretrained(path, padding_side="left"))


def save_tokenizer(tokenizer, folder: Path | str) -> None:
    """Write a tokenizer under the class name that Transformers 4 knows too; return nothing."""
    tokenizer.save_pretrained(folder)
    config = Path(folder) / "tokenizer_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    if values["tokenizer_class"] == "TokenizersBackend":
        write_json(config, values | {"tokenizer_class": "PreTrainedTokenizerFast"})


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


def make_ready(model, tokenizer) -> None:
    """Let model and tokenizer agree on their special tokens, and sampling be what training assumes.

    Whatever else the checkpoint's ``generation_config`` sets (penalties, cut-offs, banned or forced tokens)
    is left out and told: TRL's rollouts reset a part of it, and its log-probabilities know none of it, so
    the policy that is measured would not be the one that is trained. A tokenizer that cannot pad, or only
    with its end token, gets a token that no text uses.

    Args:
        model: As loaded, before an adapter is put on.
        tokenizer: Of `load_tokenizer`.

    Raises:
        MlagentError: Neither of them says how a text ends.
    """
    from transformers import GenerationConfig

    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    found = model.generation_config
    ends = found.eos_token_id if isinstance(found.eos_token_id, list) else [found.eos_token_id]
    if tokenizer.eos_token_id is None and ends[0] is not None:
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(ends[0])
    if tokenizer.eos_token_id is None:
        raise MlagentError(
            f"neither the tokenizer nor the model {model.name_or_path} names an end token",
            cure="give eos_token in its tokenizer_config.json",
        )
    ends = [tokenizer.eos_token_id, *(end for end in ends if end not in (None, tokenizer.eos_token_id))]
    _need_padding(model, tokenizer, ends)
    model.config.get_text_config().pad_token_id = tokenizer.pad_token_id
    set_here = {name for name, value in found.to_diff_dict().items() if value not in (None, False)}
    if left_out := sorted(set_here - _GIVEN):
        tell(f"{model.name_or_path}: its generation_config sets {', '.join(left_out)}; not used here")
    model.generation_config = GenerationConfig(
        bos_token_id=found.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id
    )


@cache
def tell(message: str) -> None:
    """Warn once a process: a run loads its model many times."""
    log.warning(message)


def _need_padding(model, tokenizer, ends: Sequence[int]) -> None:
    """Let the tokenizer pad with a token that no text uses, and the model have a row for it."""
    rows = model.get_input_embeddings().weight.shape[0]
    if tokenizer.pad_token_id in (None, tokenizer.eos_token_id):
        taken = {*ends, tokenizer.bos_token_id}
        spare = [
            ("pad" not in name, number, name)
            for name, number in tokenizer.get_vocab().items()
            if _UNUSED.fullmatch(name) and number < rows and number not in taken
        ]
        name = min(spare)[2] if spare else _unknown_but_never_said(tokenizer) or _PADDING
        tokenizer.add_special_tokens({"pad_token": name})
    if tokenizer.pad_token_id >= rows:
        model.resize_token_embeddings(tokenizer.pad_token_id + 1, mean_resizing=False)
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight.data[rows:] = 0.0  # the same in every load, whatever the random stream


def _unknown_but_never_said(tokenizer) -> str:
    """Return the unknown token where every byte has a token of its own, as with Llama 2; else nothing."""
    has_bytes = {f"<0x{byte:02X}>" for byte in range(256)} <= tokenizer.get_vocab().keys()
    is_free = tokenizer.unk_token_id not in (None, tokenizer.eos_token_id)
    return tokenizer.unk_token if has_bytes and is_free else ""


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


def save_adapter(model, folder: Path | str) -> None:
    """Write the trained adapter alone, without a trainer's reference copy; the same one gives the same bytes.

    Args:
        model: With an adapter called ``default``.
        folder: Where to.
    """
    model.save_pretrained(folder, selected_adapters=["default"], save_embedding_layers=False)
    config = Path(folder) / "adapter_config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    for name, value in values.items():  # PEFT holds names of modules as sets, whose order is chance
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            values[name] = sorted(value)
    write_json(config, values)


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
        model: The model, with or without adapter; its ``generation_config`` says what ends a reply.
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
