#!/usr/bin/env bash
# A GGUF file names its special tokens by id. The tokenizer that Transformers 5.17 makes of it has others:
# in a "llama" file the token that begins a text also ends it, in a "qwen2" file <|endoftext|> always does.
# The model's configuration, read from the same file, has the ids of the file, so model and tokenizer do not
# agree on the end of a text, without a warning. The special tokens here are those of the chat models SmolLM2
# and Qwen2.5; the files hold a vocabulary and no weights.
# Exit 0: the behaviour is as described; 1: it has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.17.0 tokenizers==0.23.3 \
    torch==2.13.0 gguf==0.19.0
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning "$work/venv/bin/python" - <<'PYTHON'
import sys

import tokenizers
import transformers
from gguf import GGUFWriter, TokenType
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoConfig, AutoTokenizer

print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
vocabulary = [*sorted(ByteLevel.alphabet()), "12", "34", *special]


def write(path, architecture, pre, bos, eos):
    writer = GGUFWriter(path, architecture)
    for name, value in {
        "context_length": 64, "embedding_length": 16, "block_count": 1, "feed_forward_length": 32,
        "head_count": 2, "head_count_kv": 2, "layer_norm_rms_eps": 1e-5, "rope_dimension_count": 8,
        "vocab_size": len(vocabulary), "tokenizer_model": "gpt2", "tokenizer_pre": pre,
        "token_list": vocabulary, "token_merges": ["1 2", "3 4"],
        "token_types": [TokenType.CONTROL if token in special else TokenType.NORMAL for token in vocabulary],
        "bos_token_id": vocabulary.index(bos), "eos_token_id": vocabulary.index(eos),
    }.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


seen = []
for architecture, pre, bos in (("llama", "smollm", "<|im_start|>"), ("qwen2", "qwen2", "<|endoftext|>")):
    path = f"{architecture}.gguf"
    write(path, architecture, pre, bos, "<|im_end|>")
    config = AutoConfig.from_pretrained(".", gguf_file=path)
    tokenizer = AutoTokenizer.from_pretrained(".", gguf_file=path)
    model = [vocabulary[config.bos_token_id], vocabulary[config.eos_token_id]]
    seen.append((model, [tokenizer.bos_token, tokenizer.eos_token]))
    print(f"{architecture}: the file begins a text with {bos} and ends it with <|im_end|>")
    print(f"    configuration: {model}, tokenizer: {seen[-1][1]}")
expected = [
    (["<|im_start|>", "<|im_end|>"], ["<|im_start|>", "<|im_start|>"]),
    (["<|endoftext|>", "<|im_end|>"], [None, "<|endoftext|>"]),
]
if seen != expected:
    sys.exit(f"the behaviour has changed: {seen}")
print("as described: neither tokenizer ends a text with the token that file and configuration name")
PYTHON
