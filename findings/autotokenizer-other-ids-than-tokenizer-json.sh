#!/usr/bin/env bash
# A tokenizer saved with save_pretrained beside a Qwen2 configuration, or as LlamaTokenizer beside any, is not
# the one that AutoTokenizer of Transformers 5.17 gives back: the vocabulary is kept, the splitting rules of
# tokenizer.json are replaced by those of the class, and no warning is given. The ids change, and a text may
# not even survive its round trip. PreTrainedTokenizerFast.from_pretrained reads the same folder as it was
# saved. Exit 0: the behaviour is as described; 1: it has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.17.0 tokenizers==0.23.3
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning "$work/venv/bin/python" - <<'PYTHON'
import json
import sys
from pathlib import Path

import tokenizers
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}")
text = "the quick brown fox 12 jumps"
bpe = Tokenizer(models.BPE())
bpe.pre_tokenizer = pre_tokenizers.Sequence([
    pre_tokenizers.Split(Regex(r"[0-9]|\n|[^0-9\n]+"), "isolated"),  # pieces may span words
    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
])
bpe.decoder = decoders.ByteLevel()
alphabet = pre_tokenizers.ByteLevel.alphabet()
bpe.train_from_iterator([text] * 9, trainers.BpeTrainer(
    vocab_size=300, special_tokens=["<s>", "</s>"], initial_alphabet=alphabet, show_progress=False))
folder = Path("saved")
PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<s>", eos_token="</s>").save_pretrained(folder)
saved = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids
print("tokenizer.json        ", saved)

config = folder / "tokenizer_config.json"
seen = []
for model, name in (
    (Qwen2Config, "TokenizersBackend"), (Qwen2Config, "PreTrainedTokenizerFast"),
    (LlamaConfig, "LlamaTokenizer"), (LlamaConfig, "PreTrainedTokenizerFast"),
):
    model().save_pretrained(folder)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"tokenizer_class": name}))
    auto = AutoTokenizer.from_pretrained(folder)
    ids = auto(text, add_special_tokens=False)["input_ids"]
    fast = PreTrainedTokenizerFast.from_pretrained(folder)(text, add_special_tokens=False)["input_ids"]
    seen.append((ids == saved, fast == saved))
    print(f"{model.model_type}, {name}: AutoTokenizer gives a {type(auto).__name__}, "
          f"{'the same ids' if ids == saved else f'other ids {ids}, read back as {auto.decode(ids)!r}'}")
expected = [(False, True), (False, True), (False, True), (True, True)]
if seen != expected:
    sys.exit(f"the behaviour has changed: {seen}")
print("as described: three of four folders give other ids, PreTrainedTokenizerFast gives the saved ones in all")
PYTHON
