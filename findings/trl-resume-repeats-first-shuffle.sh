#!/usr/bin/env bash
# TRL 1.14.2's GRPOTrainer takes the order of all epochs from one random stream that starts at the seed. On
# resume, the Trainer of Transformers 5.17 skips the steps of the epoch that was cut off, not the epochs
# before it, so the stream starts anew: the rest of the second epoch has the order of the first, some prompts
# come twice in it and others never, and the third has the order of the second. Transformers' own Trainer goes
# on in the right order. Exit 0: the behaviour is as described; 1: it has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.17.0 tokenizers==0.23.3 \
    trl==1.14.2 datasets==4.8.5 accelerate==1.15.0 torch==2.13.0
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning "$work/venv/bin/python" - <<'PYTHON'
import sys

import transformers
import trl
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments, set_seed)
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

print(f"transformers {transformers.__version__}, trl {trl.__version__}")
transformers.logging.disable_progress_bar()
prompts = list("abcdefgh")
words = {word: number for number, word in enumerate([*prompts, "<pad>", "</s>"])}
plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>")
often = {"num_train_epochs": 3, "save_steps": 10, "use_cpu": True, "report_to": "none", "disable_tqdm": True}


def model():
    set_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=None, pad_token_id=8, eos_token_id=9))


def grpo(seen):
    def reward(prompts, **_):
        seen.append(prompts[0])
        return [0.0, 1.0]

    arguments = GRPOConfig(
        "grpo", per_device_train_batch_size=2, num_generations=2, max_completion_length=2, bf16=False,
        gradient_checkpointing=False, **often)
    rows = Dataset.from_dict({"prompt": prompts})
    return GRPOTrainer(model(), reward, args=arguments, train_dataset=rows, processing_class=tokenizer)


def supervised(seen):
    def collate(rows):
        seen.append(prompts[rows[0]["input_ids"][0]])
        return transformers.default_data_collator(rows)

    arguments = TrainingArguments("supervised", per_device_train_batch_size=1, **often)
    rows = [{"input_ids": [number], "labels": [number]} for number in range(8)]
    return Trainer(model(), arguments, data_collator=collate, train_dataset=rows)


def order(make, checkpoint=None):
    seen = []
    trainer = make(seen)
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=checkpoint)
    return "".join(seen)


found = {}
for make in (supervised, grpo):
    whole, rest = order(make), order(make, f"{make.__name__}/checkpoint-10")[-14:]
    epochs = found[make] = [whole[:8], whole[8:16], whole[16:], rest[:6], rest[6:]]
    assert all(sorted(epoch) == prompts for epoch in epochs[:3])
    print(f"{make.__name__}, one prompt a step, three epochs: {' '.join(epochs[:3])}")
    print(f"    resumed after step 10:   {' ' * 20}{epochs[1][:2]}|{' '.join(epochs[3:])}")
first, second, third, rest, last = found[supervised]
right = (rest, last) == (second[2:], third)
first, second, third, rest, last = found[grpo]
repeated = (rest, last) == (first[2:], second) and rest != second[2:]
if not (right and repeated):
    sys.exit(f"the behaviour has changed: {list(found.values())}")
print("as described: GRPO goes on in the order of the first epoch, then in that of the second")
PYTHON
