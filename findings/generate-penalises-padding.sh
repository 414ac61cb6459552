#!/usr/bin/env bash
# Transformers 5.17's generate applies repetition_penalty to each id of a row, its left padding included. An
# end token that serves as padding, as is usual for models without another, is so made less likely in padded
# rows and in no others: whether an answer ends depends on how long its neighbours' prompts are. The attention
# mask says what is padding and is not asked. Without a penalty a row in a batch is scored as it is alone, and
# with a padding token of its own all but that token is. No warning.
# Exit 0: the behaviour is as described; 1: it has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.17.0 torch==2.13.0
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning "$work/venv/bin/python" - <<'PYTHON'
import itertools
import sys

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, set_seed

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
set_seed(0)
words, own, end = 10, 10, 11  # ten words, a padding token of its own, the end of a text
model = LlamaForCausalLM(LlamaConfig(
    vocab_size=12, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    initializer_range=0.3, bos_token_id=None, pad_token_id=own, eos_token_id=end)).eval()
prompts = torch.tensor(list(itertools.product(range(words), repeat=2)))  # all of two words
neighbour = torch.arange(8).unsqueeze(0)


def answers(ids, mask, padding, penalty):
    made = model.generate(ids, attention_mask=mask, max_new_tokens=1, do_sample=False, pad_token_id=padding,
                          repetition_penalty=penalty, output_scores=True, return_dict_in_generate=True)
    return made.scores[0][:len(prompts)]


seen = {}
for padding, penalty in ((end, 1.0), (own, 1.3), (end, 1.3)):
    alone = answers(prompts, torch.ones_like(prompts), padding, penalty)
    padded = torch.cat([torch.full((len(prompts), 6), padding), prompts], dim=1)
    mask = torch.cat([torch.zeros(len(prompts), 6), torch.ones(len(prompts), 2)], dim=1).long()
    mask = torch.cat([mask, torch.ones_like(neighbour)])
    batch = answers(torch.cat([padded, neighbour]), mask, padding, penalty)
    differ = (alone - batch).abs() > 1e-3
    ends = [int((scores.argmax(-1) == end).sum()) for scores in (alone, batch)]
    tokens = sorted(set(differ.nonzero()[:, 1].tolist()))
    seen[padding, penalty] = (tokens, ends[0] > ends[1])
    print(f"padding is {'the end token' if padding == end else 'a token of its own'}, penalty {penalty}: "
          f"{ends[0]} of {len(prompts)} prompts are answered by the end at once, "
          f"beside a longer one {ends[1]}; tokens with other scores: {tokens}")
expected = {(end, 1.0): ([], False), (own, 1.3): ([own], False), (end, 1.3): ([end], True)}
if seen != expected:
    sys.exit(f"the behaviour has changed: {seen}")
print("as described: with the end token as padding, the penalty falls on the end of padded rows only")
PYTHON
