"""A merged model as one GGUF file for llama.cpp, written on any machine; shapes Llama, Qwen2 and Qwen3.

Names of tensors and keys are those of the package gguf 0.19. As llama.cpp wants it, rows of the queries and
keys of Llama are put in the order of its rotation; vectors stay float32 in every quantization.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlagent_lib.core.errors import MlagentError

RECORD = "gguf.json"  # in a folder that was made from a GGUF: how that one calls its splitting rules
QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0")
_SPLITTING = {"qwen2": "qwen2", "qwen3": "qwen2"}  # as llama.cpp's converter calls those of Qwen
_LATER = "export it with --to merged, and give that to llama.cpp's convert_hf_to_gguf.py"


def splitting_of(base: Path, kind: str) -> str:
    """Return how llama.cpp calls the splitting rules of a model's tokenizer.

    Args:
        base: Folder of the base model.
        kind: Its ``model_type``.

    Raises:
        MlagentError: The architecture is another one, or nobody says what the rules are called.
    """
    record = base / RECORD
    known = json.loads(record.read_text(encoding="utf-8"))["pre"] if record.exists() else ""
    if kind not in ("llama", "qwen2", "qwen3") or not (known or kind in _SPLITTING):
        raise MlagentError(
            f"a {kind} model with this tokenizer cannot become GGUF without Unsloth", cure=_LATER
        )
    return known or _SPLITTING[kind]


def write_gguf(folder: Path, out: Path, *, quantization: str, splitting: str) -> None:
    """Write the model in a folder as a GGUF file; return nothing.

    Args:
        folder: Merged weights with their tokenizer, as `PlainBackend.merge` writes them.
        quantization: One of `QUANTIZATIONS`.
        splitting: See `splitting_of`.

    Raises:
        MlagentError: The quantization is another one, the model stretches its positions, or its tokenizer is
            no byte-level BPE.
    """
    import gguf
    from gguf import GGMLQuantizationType, GGUFWriter
    from transformers import AutoModelForCausalLM

    from mlagent_lib.training.backends.decode import rope_type

    if quantization not in QUANTIZATIONS:
        cure = f"choose one of {', '.join(QUANTIZATIONS)}"
        raise MlagentError(f"quantization {quantization!r} cannot be had without Unsloth", cure=cure)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    config, kind = model.config, getattr(GGMLQuantizationType, quantization.upper())
    if rope_type(config) != "default":
        raise MlagentError("the model stretches its positions, which this writer cannot say", cure=_LATER)
    writer = GGUFWriter(str(out), config.model_type)
    writer.add_file_type(gguf.LlamaFileType[f"{'ALL' if quantization == 'f32' else 'MOSTLY'}_{kind.name}"])
    rows = model.get_input_embeddings().weight.shape[0]
    _add_shape(writer, config, rows)
    _add_tokenizer(writer, folder, rows, splitting)
    architecture = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == config.model_type)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        data = _turned(name, weight, config).numpy()
        fits = data.ndim > 1 and (quantization != "q8_0" or data.shape[-1] % 32 == 0)
        own = kind if fits else GGMLQuantizationType.F32
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(known, gguf.quants.quantize(data, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: Any, config: Any, rows: int) -> None:
    """Put the architecture into a GGUF that is being written."""
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    for name, value in {
        "context_length": config.max_position_embeddings, "embedding_length": config.hidden_size,
        "block_count": config.num_hidden_layers, "feed_forward_length": config.intermediate_size,
        "head_count": config.num_attention_heads, "head_count_kv": config.num_key_value_heads,
        "key_length": width, "value_length": width, "rope_dimension_count": width, "vocab_size": rows,
        "rope_freq_base": config.rope_parameters["rope_theta"], "layer_norm_rms_eps": config.rms_norm_eps,
    }.items():  # fmt: skip
        getattr(writer, f"add_{name}")(value)


def _turned(name: str, weight: Any, config: Any) -> Any:
    """Return a weight with its rows as llama.cpp has them: only queries and keys of Llama differ."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    count = heads.get(name.split(".")[-2]) if config.model_type == "llama" else None
    return weight.unflatten(0, (count, 2, -1)).transpose(1, 2).flatten(0, 2) if count else weight


def _add_tokenizer(writer: Any, folder: Path, rows: int, splitting: str) -> None:
    """Put tokens, merges, special tokens and chat template into a GGUF that is being written."""
    from gguf import TokenType

    from mlagent_lib.training.backends.tokens import load_tokenizer

    tokenizer = load_tokenizer(str(folder))
    told = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    if told["model"]["type"] != "BPE" or not told["model"]["merges"]:
        raise MlagentError("the model's tokenizer is no byte-level BPE", cure=_LATER)
    special = {token["id"]: token["special"] for token in told["added_tokens"]}
    by_number = {number: name for name, number in tokenizer.get_vocab().items()}
    kinds = {None: TokenType.NORMAL, True: TokenType.CONTROL, False: TokenType.USER_DEFINED}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    writer.add_token_list([by_number.get(number, f"[PAD{number}]") for number in range(rows)])
    writer.add_token_types(
        [kinds[special.get(n)] if n in by_number else TokenType.UNUSED for n in range(rows)]
    )
    pairs = told["model"]["merges"]
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in pairs])
    for name in ("bos", "eos", "pad", "unk"):
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(False)
    writer.add_chat_template(tokenizer.chat_template)
