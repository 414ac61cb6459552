#!/usr/bin/env bash
# A GGUF file says how the positions of its model are stretched for long texts: in the keys *.rope.scaling.*
# (linear, YaRN) or, for Llama 3.1 and later ones, in the tensor rope_freqs.weight of llama.cpp's converter.
# Transformers 5.17 reads neither, save for gpt-oss: rope_type is "default" and the tensor is dropped, while
# the context length is that of the stretched model. Such a model turns by other angles than the one that was
# converted, without a warning; the rest of the file is read right, as is the same model's own folder.
# Exit 0: the behaviour is as described; 1: it has changed.
set -euo pipefail
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check transformers==5.17.0 tokenizers==0.23.3 \
    accelerate==1.15.0 torch==2.13.0 gguf==0.19.0
cd "$work"
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=warning "$work/venv/bin/python" - <<'PYTHON'
import sys

import torch
import transformers
from gguf import GGUFWriter, RopeScalingType
from transformers import (
    AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM)

print(f"transformers {transformers.__version__}, torch {torch.__version__}")
transformers.logging.disable_progress_bar()
size = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 4096,
        "bos_token_id": 0, "eos_token_id": 1}
stretched = {
    "default": {}, "linear": {"factor": 8.0},
    "yarn": {"factor": 8.0, "original_max_position_embeddings": 512},
    "llama3": {"factor": 8.0, "original_max_position_embeddings": 512, "low_freq_factor": 1.0,
               "high_freq_factor": 4.0}}
names = {  # of Transformers: of GGUF
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    **{f"model.layers.0.{ours}": f"blk.0.{theirs}" for ours, theirs in {
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}.items()}}


def interleaved(weight, heads=2):  # llama.cpp's order of the rows of q and k in a "llama" file
    return weight.view(heads, 2, -1, weight.shape[-1]).swapaxes(1, 2).reshape(weight.shape)


def write(path, model, scaling):
    config, architecture = model.config, model.config.model_type
    writer = GGUFWriter(path, architecture)
    for name, value in {
        "context_length": config.max_position_embeddings, "embedding_length": 32, "block_count": 1,
        "feed_forward_length": 32, "head_count": 2, "head_count_kv": 2, "layer_norm_rms_eps": 1e-6,
        "rope_dimension_count": 16, "vocab_size": 32, "rope_freq_base": 10000.0,
        "bos_token_id": 0, "eos_token_id": 1,
    }.items():
        getattr(writer, f"add_{name}")(value)
    if scaling == "llama3":
        plain = 10000.0 ** (-torch.arange(0, 16, 2) / 16)
        writer.add_tensor("rope_freqs.weight", (plain / model.model.rotary_emb.inv_freq).numpy())
    elif scaling != "default":
        writer.add_rope_scaling_type(RopeScalingType(scaling))
        writer.add_rope_scaling_factor(8.0)
        writer.add_rope_scaling_orig_ctx_len(512)
    for name, tensor in model.state_dict().items():
        module, kind = name.rsplit(".", 1)
        if architecture == "llama" and module.endswith(("q_proj", "k_proj")):
            tensor = interleaved(tensor)
        writer.add_tensor(f"{names[module]}.{kind}", tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


text = torch.randint(2, 32, (1, 2000), generator=torch.Generator().manual_seed(0))
seen = {}
for kind, make, scaling in (
    (Qwen2Config, Qwen2ForCausalLM, "default"), (Qwen2Config, Qwen2ForCausalLM, "linear"),
    (Qwen2Config, Qwen2ForCausalLM, "yarn"), (LlamaConfig, LlamaForCausalLM, "default"),
    (LlamaConfig, LlamaForCausalLM, "llama3"),
):
    rope = {"rope_type": scaling, "rope_theta": 10000.0, **stretched[scaling]}
    torch.manual_seed(0)
    model = make(kind(**size, rms_norm_eps=1e-6, initializer_range=0.5, rope_parameters=rope)).eval()
    folder = f"{kind.model_type}-{scaling}"
    model.save_pretrained(folder)
    write(f"{folder}.gguf", model, scaling)
    from_folder = AutoModelForCausalLM.from_pretrained(folder)
    from_file = AutoModelForCausalLM.from_pretrained(".", gguf_file=f"{folder}.gguf")
    with torch.no_grad():
        right, folders, files = (each(text).logits[0, -1] for each in (model, from_folder, from_file))
    found = from_file.config.rope_parameters["rope_type"]
    away = [float((logits - right).abs().max()) for logits in (folders, files)]
    seen[folder] = (found, from_file.config.max_position_embeddings, away[0] < 1e-3, away[1] < 1e-3)
    print(f"{folder}: from the file, rope_type {found}, context {seen[folder][1]}; last logits of up to "
          f"{float(right.abs().max()):.1f} differ by {away[1]:.4f}, from the folder by {away[0]:.4f}")
expected = {name: ("default", 4096, True, name.endswith("default")) for name in seen}
if len(seen) != 5 or seen != expected:
    sys.exit(f"the behaviour has changed: {seen}")
print("as described: each stretched model is read as one that is not, the others are read right")
PYTHON
