"""The tokenizer of a model, and the special tokens on which model and tokenizer agree."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from mlagent_lib.core.errors import MlagentError
from mlagent_lib.core.files import write_json

_TURN_END = "<|im_end|>"
_PADDING = "<|padding|>"  # ours, where a vocabulary has nothing to pad with
_UNUSED = re.compile(r"[<\[].*(pad|reserved|unused).*[>\]]")  # how makers call tokens that no text uses
# Of a generation_config: what every call here gives itself, and what changes no reply.
_GIVEN = {"do_sample", "temperature", "top_k", "top_p", "max_length", "max_new_tokens", "use_cache"}
_GIVEN |= {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}

log = logging.getLogger("mlagent.backends")


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

    quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    saved = cached_file(path, "tokenizer.json", **quiet)
    kind = AutoTokenizer if saved is None else PreTrainedTokenizerFast
    return ends_with_the_turn(kind.from_pretrained(path, padding_side="left"))


def chat_texts(tokenizer, conversations: Sequence[list[dict]], **options) -> list[str]:
    """Return conversations as the tokenizer's chat template writes them.

    Args:
        options: Of ``apply_chat_template``, such as ``add_generation_prompt``.

    Raises:
        MlagentError: There is no template, or it refuses a turn, such as one of the system.
    """
    from jinja2 import TemplateError

    try:
        return [tokenizer.apply_chat_template(one, tokenize=False, **options) for one in conversations]
    except ValueError as error:
        if tokenizer.chat_template:
            raise
        raise MlagentError(
            f"the tokenizer of {tokenizer.name_or_path or 'the model'} has no chat template",
            cure="take the Instruct variant of the model, or put a chat_template.jinja into its folder",
        ) from error
    except TemplateError as error:
        roles = sorted({turn["role"] for one in conversations for turn in one})
        raise MlagentError(
            f"the chat template of {tokenizer.name_or_path} refuses a conversation with the turns "
            f"{', '.join(roles)}: {error}",
            cure="take a profile with pocket prompts (laptop-llm), which are one turn of the user, or put a "
            "chat_template.jinja that takes all of them into the model's folder",
        ) from error


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
