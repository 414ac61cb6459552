#!/usr/bin/env bash
# TRL 1.14.2's GRPOConfig takes generation_kwargs; an eos_token_id given there, say of the mark that ends an
# action, does stop the sampling. But the trainer finds the end of a completion by the end tokens of tokenizer
# and checkpoint alone. What follows the mark, the padding up to the longest completion of the batch, counts
# as the model's: it reaches the reward functions, the loss and every length that is logged, and the model is
# trained on tokens that it has not sampled. No error, no warning. The same token named in the checkpoint's
# generation_config ends both.
# Exit 0: the behaviour is as described; 1: it has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.17.0 tokenizers==0.23.3 \
    trl==1.14.2 datasets==4.8.5 accelerate==1.15.0 torch==2.13.0
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning "$work/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

print(f"transformers {transformers.__version__}, trl {trl.__version__}")
transformers.logging.disable_progress_bar()
words = {word: number for number, word in enumerate([*"ab", "<done>", "<pad>", "</s>"])}
plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>")
done, pad, eos = words["<done>"], words["<pad>"], words["</s>"]

seen = {}
for where in ("generation_config", "generation_kwargs"):
    set_seed(0)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=5, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, pad_token_id=pad, eos_token_id=eos))
    with torch.no_grad():  # a, b and <done> are equally likely, </s> and <pad> are never sampled
        model.model.norm.weight.zero_()
    model.lm_head.bias = torch.nn.Parameter(torch.tensor([0.0, 0.0, 0.0, -20.0, -20.0]))
    stops = [eos, done]
    if where == "generation_config":
        model.generation_config.eos_token_id = stops
    texts = []

    def reward(completion_ids, **_):
        texts.extend(completion_ids)
        return [float(number % 2) for number in range(len(completion_ids))]

    arguments = GRPOConfig(
        where, max_steps=1, logging_steps=1, per_device_train_batch_size=8, num_generations=8,
        max_completion_length=32, bf16=False, gradient_checkpointing=False, use_cpu=True,
        report_to="none", disable_tqdm=True,
        generation_kwargs={"eos_token_id": stops} if where == "generation_kwargs" else None)
    trainer = GRPOTrainer(
        model, reward, args=arguments, train_dataset=Dataset.from_dict({"prompt": list("abab")}),
        processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    log = trainer.state.log_history[0]
    right = sum(ids.index(done) + 1 if done in ids else len(ids) for ids in texts) / len(texts)
    logged = log["completions/mean_length"]
    padding = sum(ids.count(pad) for ids in texts)
    seen[where] = (padding > 0, logged > right)
    print(f"<done> as eos_token_id in {where}:")
    print(f"    the reward function sees {tokenizer.batch_decode(texts[:3])}")
    print(f"    tokens a completion up to <done> {right}, as logged {logged}; padding handed on {padding}")
expected = {"generation_config": (False, False), "generation_kwargs": (True, True)}
if seen != expected:
    sys.exit(f"the behaviour has changed: {seen}")
print("as described: the padding after a stop token of generation_kwargs counts as the model's")
PYTHON
