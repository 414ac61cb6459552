#!/usr/bin/env bash
# A model of PEFT 0.21.2 with two adapters, "default" in training and a copy "ref" (TRL adds one for the
# KL term), is saved with the first at the top of the checkpoint and "ref" in a folder of its own. Where the
# Trainer of Transformers 5.17 finds such a folder on resume, it loads only them: the adapter in training
# stays as it was initialised, while step count and optimizer go on as saved, without a warning. With one
# adapter alone, the same resume gives the weights of the checkpoint.
# Exit 0: the behaviour is as described; 1: it has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.17.0 peft==0.21.2 \
    accelerate==1.15.0 torch==2.13.0
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning "$work/venv/bin/python" - <<'PYTHON'
import sys
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict, load_peft_weights
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

print(f"transformers {transformers.__version__}, peft {peft.__version__}, torch {torch.__version__}")
rows = [{"input_ids": [number] * 4, "labels": [number] * 4} for number in range(8)]


def trainer(folder, reference):
    set_seed(0)
    base = LlamaForCausalLM(LlamaConfig(
        vocab_size=16, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2))
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(base, lora)
    if reference:
        model.add_adapter("ref", lora)
    arguments = TrainingArguments(
        folder, max_steps=4, save_steps=4, learning_rate=0.1, per_device_train_batch_size=2, use_cpu=True,
        report_to="none", disable_tqdm=True)
    made = Trainer(model, arguments, train_dataset=rows)
    made.remove_callback(PrinterCallback)
    return made


seen = []
for reference in (False, True):
    folder = "two" if reference else "one"
    trainer(folder, reference).train()
    checkpoint = Path(folder, "checkpoint-4")
    saved = load_peft_weights(checkpoint, device="cpu")
    resumed = trainer(folder, reference)
    resumed.train(resume_from_checkpoint=str(checkpoint))  # all four steps are done: it only loads
    loaded = get_peft_model_state_dict(resumed.model, adapter_name="default")
    assert loaded.keys() == saved.keys() and resumed.state.global_step == 4
    parts = [name for name in saved if "lora_B" in name]
    assert all(saved[name].any() for name in parts)
    same = all(torch.equal(loaded[name], saved[name]) for name in saved)
    untrained = all(not loaded[name].any() for name in parts)
    seen.append((same, untrained))
    files = sorted(str(path.relative_to(checkpoint)) for path in checkpoint.rglob("adapter_model.*"))
    print(f"{folder} adapter{'s' * reference}, saved as {files}")
    print(f"    resumed at step 4: {'the saved weights' if same else 'not the saved weights'}"
          f"{', lora_B is all zeros as at the start' * untrained}")
if seen != [(True, False), (False, True)]:
    sys.exit(f"the behaviour has changed: {seen}")
print("as described: beside a reference adapter, the adapter in training is not loaded")
PYTHON
