"""Build the pocket model from nothing: tokenizer, pretraining, measurement, model card. One command does it.

``mlagent pretrain --out DIR`` draws the corpus (`mlagent_lib.training.corpus`), trains a byte-level BPE on it
and a Qwen2-architecture model of a few million parameters with the Transformers Trainer (all weights, loss on
the answers), then measures it as coder and as policy on examples it has not seen. It is a didactic stand-in
for Qwen2.5-7B and its coder, not a language model: outside the pocket suite's vocabulary it knows nothing.
"""

from __future__ import annotations

import json
import logging
import time
from itertools import islice
from pathlib import Path
from textwrap import fill

from mlagent_lib.core.files import write_json, write_text
from mlagent_lib.core.profiles import PretrainProfile
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.actions import Action, parse_action
from mlagent_lib.environment.coder import parse_block_reply
from mlagent_lib.training.backends.tokens import TOKENIZER_NOTE
from mlagent_lib.training.corpus import examples

log = logging.getLogger("mlagent.pretrain")

END, START_TURN, END_TURN = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
# ChatML as Qwen2.5 uses it, without a default system message; `generation` marks what the assistant said.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}{{ message['content'] + '<|im_end|>' + '\\n' }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def build_tokenizer(texts: list[str], vocab_size: int):
    """Return a byte-level BPE tokenizer whose pieces may span words but neither digits nor lines.

    Whole phrases become one piece, so a reply is some 30 tokens and a state some 110; digits stay single, so
    that numbers are copied digit by digit.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    lines = pre_tokenizers.Split(Regex(r"[0-9]|\n|[^0-9\n]+"), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([lines, byte_level])
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, START_TURN, END_TURN],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=END_TURN,
        pad_token=END,
        model_input_names=["input_ids", "attention_mask"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(profile: PretrainProfile, vocab_size: int):
    """Return an untrained Qwen2 model of the profile's size, in float32."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, set_seed

    set_seed(derive_seed(profile.seed, "pretrain", "init"))
    config = Qwen2Config(
        vocab_size=vocab_size,
        hidden_size=profile.hidden,
        intermediate_size=profile.feed_forward,
        num_hidden_layers=profile.layers,
        num_attention_heads=profile.heads,
        num_key_value_heads=profile.heads,
        max_position_embeddings=profile.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return Qwen2ForCausalLM(config)


def _asked(example: dict) -> list[dict]:
    return [{"role": "user", "content": example["prompt"]}]


def tokenized(example: dict, tokenizer) -> dict:
    """Return the token ids of a corpus example, with labels on the answer only (-100 elsewhere)."""
    head = tokenizer.apply_chat_template(_asked(example), tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(head, add_special_tokens=False)["input_ids"]
    answer = tokenizer(example["completion"] + END_TURN, add_special_tokens=False)["input_ids"]
    return {"input_ids": prompt + answer, "labels": [-100] * len(prompt) + answer}


def train(profile: PretrainProfile, out: Path, forbidden: frozenset[str]) -> dict:
    """Train the pocket model, save it under ``out`` and return what was measured.

    Args:
        forbidden: Names of the suite's tasks, none of which may occur in the corpus.
    """
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    began = time.perf_counter()
    drawn = examples(profile.seed, coder_share=profile.coder_share, forbidden=forbidden)
    corpus = list(islice(drawn, profile.examples))
    log.info("corpus of %d examples", len(corpus))
    sample = [f"{row['prompt']}\n{row['completion']}" for row in corpus[: profile.tokenizer_examples]]
    tokenizer = build_tokenizer(sample, profile.vocabulary)
    model = build_model(profile, len(tokenizer))
    config = TrainingArguments(
        output_dir=str(out / "checkpoints"),
        per_device_train_batch_size=profile.batch,
        num_train_epochs=1,
        learning_rate=profile.lr,
        lr_scheduler_type="cosine",
        warmup_steps=0.03,
        weight_decay=0.01,
        adam_beta2=0.98,
        train_sampling_strategy="group_by_length",
        use_cpu=profile.use_cpu,
        bf16=profile.bf16,
        logging_steps=50,
        save_steps=250,
        save_total_limit=1,
        report_to="none",
        seed=derive_seed(profile.seed, "pretrain", "order"),
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=[tokenized(row, tokenizer) for row in corpus],
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=None, label_pad_token_id=-100),
    )
    last = any((out / "checkpoints").glob("checkpoint-*"))
    trainer.train(resume_from_checkpoint=last or None)
    save(trainer.model, tokenizer, out)
    measured = measure(trainer.model, tokenizer, profile.seed, count=profile.measure_examples)
    history = [row for row in trainer.state.log_history if "loss" in row]
    measured |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "examples": len(corpus),
        "steps": trainer.state.global_step,
        "loss_last": history[-1]["loss"] if history else None,
        "seconds": round(time.perf_counter() - began, 1),
    }
    write_json(out / "measured.json", measured)
    return measured


def save(model, tokenizer, out: Path) -> None:
    """Write weights (bfloat16 safetensors), config and tokenizer."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(out, state_dict=state)
    tokenizer.save_pretrained(out)


def measure(model, tokenizer, seed: int, *, count: int) -> dict:
    """Return how well a model does both jobs on examples it has not seen.

    Returns:
        ``coder_exact``: share of edits whose script equals the rule coder's, character by character, where
            the instruction is one of the catalogue; ``coder_edits`` of them were measured.
        ``coder_exact_other``: the same where the instruction has numbers that no idea proposes.
        ``agent_valid``: share of sampled turns that parse to a valid action.
    """
    from mlagent_lib.training.backends import generate_texts

    found = {"count": count}
    stream = derive_seed(seed, "measure")
    coder = list(islice(examples(stream, coder_share=1.0), count))
    replies = generate_texts(model, tokenizer, list(map(_asked, coder)), temperature=0.0)
    right = [_same_block(reply, row["completion"]) for reply, row in zip(replies, coder, strict=True)]
    for name, proposed in (("coder_exact", True), ("coder_exact_other", False)):
        kind = [ok for ok, row in zip(right, coder, strict=True) if row["proposed"] is proposed]
        found[name] = round(sum(kind) / len(kind), 4) if kind else None
    found["coder_edits"] = sum(row["proposed"] for row in coder)
    agent = list(islice(examples(derive_seed(stream, "agent"), coder_share=0.0), count))
    replies = generate_texts(model, tokenizer, list(map(_asked, agent)), temperature=1.0, seed=stream)
    found["agent_valid"] = sum(isinstance(parse_action(reply), Action) for reply in replies) / count
    return found


def _same_block(reply: str, expected: str) -> bool:
    try:
        return parse_block_reply(reply) == parse_block_reply(expected)
    except ValueError:
        return False


def write_card(out: Path, profile: PretrainProfile, measured: dict) -> None:
    """Write the model card next to the weights, from the measured numbers."""
    from jinja2 import Environment, StrictUndefined

    text = Path(__file__).with_name("pocket_card.md.jinja").read_text(encoding="utf-8")
    options = {"trim_blocks": True, "keep_trailing_newline": True, "undefined": StrictUndefined}
    told = {"note": "", "tokenizer_note": fill(TOKENIZER_NOTE.format(rules="Qwen's"), 110)} | measured
    write_text(out / "README.md", Environment(**options).from_string(text).render(profile=profile, **told))


def main(out: Path, profile: PretrainProfile | None = None) -> dict:
    """Build the pocket model under ``out``: what ``mlagent pretrain`` calls. Returns the measured numbers."""
    from mlagent_lib.tasks.registry import list_tasks

    profile = profile or PretrainProfile()
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    measured = train(profile, out, frozenset(list_tasks()))
    write_card(out, profile, measured)
    log.info("%s", json.dumps(measured))
    return measured
