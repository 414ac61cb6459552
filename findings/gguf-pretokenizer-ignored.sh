#!/usr/bin/env bash
# A GGUF file says in tokenizer.ggml.pre how a text is split before BPE: for "smollm" llama.cpp splits off
# each digit, as SmolLM's own tokenizer does, and for "gpt-2" it keeps "12" together. Transformers 5.17 does
# not read that field: the architecture alone decides, "llama" splits like GPT-2, "qwen2" splits off digits.
# The ids are those of another tokenizer, without a warning. The files here hold a vocabulary and no weights.
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
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from transformers import AutoTokenizer

print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
text = "in 12 days"
special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
vocabulary = [*sorted(ByteLevel.alphabet()), "12", "34", *special]
merges = [("1", "2"), ("3", "4")]


def write(path, architecture, pre):
    writer = GGUFWriter(path, architecture)
    for name, value in {
        "context_length": 64, "embedding_length": 16, "block_count": 1, "feed_forward_length": 32,
        "head_count": 2, "head_count_kv": 2, "layer_norm_rms_eps": 1e-5, "rope_dimension_count": 8,
        "vocab_size": len(vocabulary), "tokenizer_model": "gpt2", "tokenizer_pre": pre,
        "token_list": vocabulary, "token_merges": [" ".join(pair) for pair in merges],
        "token_types": [TokenType.CONTROL if token in special else TokenType.NORMAL for token in vocabulary],
        "bos_token_id": vocabulary.index("<|im_start|>"), "eos_token_id": vocabulary.index("<|im_end|>"),
    }.items():
        getattr(writer, f"add_{name}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()


whole = ByteLevel(add_prefix_space=False)
rules = {"gpt-2": whole, "smollm": Sequence([Digits(individual_digits=True), whole])}
right = {}
for pre, rule in rules.items():
    bpe = Tokenizer(models.BPE({token: number for number, token in enumerate(vocabulary)}, merges))
    bpe.pre_tokenizer = rule
    right[pre] = bpe.encode(text).ids
    print(f"{pre:6} by its rules     {right[pre]}")

seen = {}
for architecture in ("llama", "qwen2"):
    for pre in rules:
        write(f"{architecture}-{pre}.gguf", architecture, pre)
        tokenizer = AutoTokenizer.from_pretrained(".", gguf_file=f"{architecture}-{pre}.gguf")
        ids = seen[architecture, pre] = tokenizer(text, add_special_tokens=False)["input_ids"]
        print(f"{pre:6} in a {architecture} file  {ids}{'' if ids == right[pre] else ', wrong'}")
fixed = {"llama": right["gpt-2"], "qwen2": right["smollm"]}
expected = {(architecture, pre): ids for architecture, ids in fixed.items() for pre in rules}
if fixed["llama"] == fixed["qwen2"] or seen != expected:
    sys.exit(f"the behaviour has changed: {seen}")
print("as described: in each architecture the ids are the same, whatever the file says")
PYTHON
