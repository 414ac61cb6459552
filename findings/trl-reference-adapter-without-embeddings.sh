#!/usr/bin/env bash
# To go on with a trained adapter, TRL 1.14.2's GRPOTrainer with beta > 0 adds a second one, "ref", a frozen
# copy for the KL term. It copies the parameters whose name holds ".default."; what PEFT 0.21.2 keeps in a
# ParameterDict ends in ".default" and stays as initialised: LoRA on the embeddings, and rows trained for new
# tokens (trainable_token_indices). At the first step, where model and reference should be one, kl is not 0,
# and the KL term pulls the model away from what it had learnt there. No error, no warning. Adapters without
# such parts are copied whole.
# Exit 0: the behaviour is as described; 1: it has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.17.0 tokenizers==0.23.3 \
    trl==1.14.2 peft==0.21.2 datasets==4.8.5 accelerate==1.15.0 torch==2.13.0
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning "$work/venv/bin/python" - <<'PYTHON'
import sys

import peft
import torch
import transformers
import trl
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed
from transformers.trainer_callback import PrinterCallback
from trl import GRPOConfig, GRPOTrainer

print(f"transformers {transformers.__version__}, trl {trl.__version__}, peft {peft.__version__}")
transformers.logging.disable_progress_bar()
words = {word: number for number, word in enumerate([*"abcdefgh", "<pad>", "</s>"])}
plain = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
plain.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="<pad>", eos_token="</s>")


def base():
    set_seed(0)
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=10, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        initializer_range=0.3, bos_token_id=None, pad_token_id=8, eos_token_id=9))


seen = {}
linear = ["q_proj", "v_proj"]
for folder, kind in {
    "linear layers": {"target_modules": linear},
    "linear layers, embeddings": {"target_modules": [*linear, "embed_tokens"]},
    "linear layers, rows of tokens": {"target_modules": linear, "trainable_token_indices": list(range(8))},
}.items():
    learnt = get_peft_model(base(), LoraConfig(r=2, task_type="CAUSAL_LM", **kind))
    with torch.no_grad():  # stands for the training that came before
        for parameter in learnt.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5)
    learnt.save_pretrained(folder)

    model = PeftModel.from_pretrained(base(), folder, is_trainable=True)
    arguments = GRPOConfig(
        "out", beta=0.1, max_steps=1, logging_steps=1, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=4, bf16=False, gradient_checkpointing=False, use_cpu=True, report_to="none",
        disable_tqdm=True)
    trainer = GRPOTrainer(
        model, lambda completions, **_: [0.0, 1.0, 0.0, 1.0], args=arguments,
        train_dataset=Dataset.from_dict({"prompt": list("abcdefgh")}), processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    parts = dict(trainer.model.named_parameters())
    pairs = {name: name.replace(".default", ".ref") for name in parts if ".default" in name}
    unequal = [name for name in pairs if not torch.equal(parts[name], parts[pairs[name]])]
    other = sorted({name.split(".")[-2] for name in unequal})
    trainer.train()
    kl = trainer.state.log_history[0]["kl"]
    seen[folder] = (other, abs(kl) < 1e-4)
    print(f"{folder}: of {len(pairs)} parameters, those that differ from their copy in ref: "
          f"{', '.join(other) or 'none'}; kl at the first step {kl:.4f}")
expected = {
    "linear layers": ([], True),
    "linear layers, embeddings": (["lora_embedding_A", "lora_embedding_B"], False),
    "linear layers, rows of tokens": (["trainable_tokens_delta"], False),
}
if seen != expected:
    sys.exit(f"the behaviour has changed: {seen}")
print("as described: what an adapter learnt about single tokens is not in its reference")
PYTHON
