"""Build the pocket model from nothing: tokenizer, pretraining, measurement, model card. One command does it.

``mlagent pretrain --out DIR`` draws the corpus (`mlagent_lib.training.corpus`), trains a byte-level BPE on it
and a Qwen2-architecture model of a few million parameters (all weights, loss on the answers), then measures
it as coder and as policy on examples it has not seen. It is a didactic stand-in for Qwen2.5-7B and its coder,
not a language model: outside the pocket suite's vocabulary it knows nothing.

Answers that begin alike are trained in one row, as branches of a tree: what they share is computed once, and
no branch sees another. Matrices learn by Muon, all else by AdamW, in one schedule: linear up, linear down.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import count, islice
from pathlib import Path
from textwrap import fill

from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import write_json, write_text
from mlagent_lib.core.profiles import PretrainProfile
from mlagent_lib.core.seeding import derive_seed, rng
from mlagent_lib.environment.actions import Action, parse_action
from mlagent_lib.environment.coder import parse_block_reply
from mlagent_lib.training.backends.tokens import TOKENIZER_NOTE
from mlagent_lib.training.corpus import branches, examples

_WARMUP = 0.05  # ours: share of the steps in which the learning rate rises
_SORTED_STEPS = 32  # ours: batches that are cut from trees sorted by length, so that little is padding
_ROUND = 32  # ours: batches of few sizes take less memory and time than batches of any size
_SAVED_STEPS = 100  # ours: steps that an interruption may cost
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
    pieces = {"vocab_size": vocab_size, "special_tokens": [END, START_TURN, END_TURN]}
    pieces["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(texts, trainers.BpeTrainer(show_progress=False, **pieces))
    special = {"eos_token": END_TURN, "pad_token": END, "chat_template": CHAT_TEMPLATE}
    columns = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=bpe, model_input_names=columns, **special)


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


@dataclass(frozen=True)
class Tree:
    """Examples that begin alike as one row: what they share, then one branch after the other.

    Attributes:
        ids: Token ids.
        targets: The token that follows in the same branch, where it is the answer's; -100 elsewhere.
        places: Position of each token: that of its example.
        branch: 0 for what is shared, else the number of the branch.
    """

    ids: list[int]
    targets: list[int]
    places: list[int]
    branch: list[int]


def tree_of(rows: list[dict], tokenizer) -> Tree:
    """Return examples of the corpus as a tree; the loss is on the answers only."""
    heads = [
        tokenizer.apply_chat_template(_asked(row), tokenize=False, add_generation_prompt=True) for row in rows
    ]
    ends = [row["completion"] + END_TURN for row in rows]
    prompts, answers = (tokenizer(texts, add_special_tokens=False)["input_ids"] for texts in (heads, ends))
    # the last token of a prompt belongs to the branch: what follows it is another token in each
    shared = min(len(os.path.commonprefix(prompts)), min(map(len, prompts)) - 1)
    ids, targets = prompts[0][:shared], [-100] * shared
    places, branch = list(range(shared)), [0] * shared
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True), start=1):
        own = prompt[shared:] + answer
        ids += own
        targets += [-100] * (len(own) - len(answer) - 1) + answer + [-100]
        places += range(shared, shared + len(own))
        branch += [number] * len(own)
    return Tree(ids, targets, places, branch)


def batches(
    profile: PretrainProfile, tokenizer, forbidden: frozenset[str], start: int
) -> Iterator[list[Tree]]:
    """Yield the batches from step ``start`` on: any step's are known without those before it."""
    chunk = _SORTED_STEPS * profile.batch
    options = {"coder_share": profile.coder_share, "forbidden": forbidden}
    for number in count(start // _SORTED_STEPS):
        indices = range(number * chunk, (number + 1) * chunk)
        drawn = (branches(profile.seed, index, number=profile.branches, **options) for index in indices)
        trees = sorted((tree_of(rows, tokenizer) for rows in drawn), key=lambda tree: len(tree.ids))
        order = rng(profile.seed, "pretrain", "order", number).permutation(_SORTED_STEPS)
        for step, at in enumerate(order, start=number * _SORTED_STEPS):
            if step >= start:
                yield trees[at * profile.batch : (at + 1) * profile.batch]


def loss_of(model, trees: list[Tree]):
    """Return the mean loss over all tokens of the answers of a batch.

    A token sees those before it in its own branch and in what is shared.
    """
    import torch
    from torch.nn.functional import cross_entropy, linear

    size = _rounded(max(len(tree.ids) for tree in trees))

    def padded(name: str, filler: int):
        return torch.tensor([(getattr(tree, name) + [filler] * size)[:size] for tree in trees])

    ids, targets = padded("ids", 0), padded("targets", -100)
    places, branch = padded("places", 0), padded("branch", -1)
    same = (branch[:, None, :] == branch[:, :, None]) | (branch[:, None, :] == 0)
    mask = (same & torch.ones_like(same).tril())[:, None]
    hidden = model.model(input_ids=ids, attention_mask=mask, position_ids=places).last_hidden_state
    # the answers' tokens first, then as many others as round their number
    chosen = torch.argsort(targets.flatten() < 0, stable=True)[: _rounded(int((targets >= 0).sum()))]
    logits = linear(hidden.flatten(0, 1)[chosen], model.lm_head.weight)
    return cross_entropy(logits.float(), targets.flatten()[chosen])


def _rounded(size: int) -> int:
    """Return a size that many batches have: PyTorch compiles and keeps its products for each one.

    Example:
        >>> _rounded(33), _rounded(64), _rounded(1025)
        (64, 64, 1056)
    """
    return -(-size // _ROUND) * _ROUND


def optimizers(model, lr: float) -> list:
    """Return Muon for the matrices of the layers, and AdamW for embeddings, norms and biases."""
    from torch.optim import AdamW, Muon

    layers = [value for value in model.model.layers.parameters() if value.ndim == 2]
    known = set(map(id, layers))
    others = [value for value in model.parameters() if id(value) not in known]
    return [
        Muon(layers, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),  # so both have one rate
        AdamW(others, lr=lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def _rate(step: int, steps: int) -> float:
    """Return the share of the learning rate in a step: up in a line, and down in a line.

    Example:
        >>> [_rate(step, 100) for step in (0, 4, 5, 99)]
        [0.2, 1.0, 1.0, 0.010526315789473684]
    """
    rising = max(1, round(_WARMUP * steps))
    return min((step + 1) / rising, (steps - step) / (steps - rising))


def train(profile: PretrainProfile, out: Path, forbidden: frozenset[str]) -> dict:
    """Train the pocket model, save it under ``out`` and return what was measured.

    An interrupted training goes on at its last checkpoint, and ends with the same weights.

    Args:
        forbidden: Names of the suite's tasks, none of which may occur in the corpus.

    Raises:
        RunError: ``out`` has a checkpoint of another profile.
    """
    import torch

    began = time.perf_counter()
    drawn = examples(profile.seed, coder_share=profile.coder_share, forbidden=forbidden)
    sample = [f"{row['prompt']}\n{row['completion']}" for row in islice(drawn, profile.tokenizer_examples)]
    tokenizer = build_tokenizer(sample, profile.vocabulary)
    model = build_model(profile, len(tokenizer)).train()
    learners, checkpoint = optimizers(model, profile.lr), out / "checkpoint.pt"
    parts = {"model": model, "matrices": learners[0], "others": learners[1]}
    done = {"profile": asdict(profile), "step": 0, "seconds": 0.0, "loss": None}
    if checkpoint.exists():
        found = torch.load(checkpoint, weights_only=True)
        if found["profile"] != done["profile"]:
            raise RunError(
                f"{checkpoint} is of another profile", cure="give --out another folder, or remove it"
            )
        for name, part in parts.items():
            part.load_state_dict(found.pop(name))
        done = found
        log.info("goes on at step %d", done["step"])
    recent = []
    for trees in islice(batches(profile, tokenizer, forbidden, done["step"]), profile.steps - done["step"]):
        for learner in learners:
            learner.param_groups[0]["lr"] = profile.lr * _rate(done["step"], profile.steps)
            learner.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=profile.bf16):
            loss = loss_of(model, trees)
        loss.backward()
        for learner in learners:
            learner.step()
        recent = [*recent[1 - _SAVED_STEPS :], float(loss.detach())]
        done["step"] += 1
        if done["step"] % _SAVED_STEPS == 0 or done["step"] == profile.steps:
            done["loss"] = round(sum(recent) / len(recent), 4)
            now = time.perf_counter()
            done["seconds"], began = round(done["seconds"] + now - began, 1), now
            state = done | {name: part.state_dict() for name, part in parts.items()}
            torch.save(state, checkpoint.with_suffix(".new"))  # a checkpoint is whole, or it is not there
            checkpoint.with_suffix(".new").replace(checkpoint)
            log.info("step %d, loss %.4f, %.0f s", done["step"], done["loss"], done["seconds"])
    save(model, tokenizer, out)
    measured = measure(out, profile.seed, count=profile.measure_examples)
    measured |= {
        "parameters": sum(p.numel() for p in model.parameters()),
        "examples": profile.steps * profile.batch * profile.branches,
        "steps": done["step"],
        "loss_last": done["loss"],
        "seconds": round(done["seconds"] + time.perf_counter() - began, 1),
    }
    write_json(out / "measured.json", measured)
    checkpoint.unlink(missing_ok=True)
    return measured


def save(model, tokenizer, out: Path) -> None:
    """Write weights (bfloat16 safetensors), config and tokenizer."""
    import torch

    out.mkdir(parents=True, exist_ok=True)
    state = {name: value.to(torch.bfloat16) for name, value in model.state_dict().items()}
    model.config.dtype = torch.bfloat16
    model.save_pretrained(out, state_dict=state)
    tokenizer.save_pretrained(out)


def measure(folder: Path, seed: int, *, count: int) -> dict:
    """Return how well a model does both jobs on examples it has not seen, ``count`` of each.

    Returns:
        ``coder_exact``: share of edits whose script equals the rule coder's, character by character, where
            the instruction is one of the catalogue.
        ``coder_exact_other``: the same where the instruction has numbers that no idea proposes.
        ``agent_valid``: share of sampled turns that parse to a valid action.
    """
    from mlagent_lib.training.backends import load

    backend, stream = load(str(folder), backend="plain"), derive_seed(seed, "measure")
    found = {"count": count}
    for name, proposed in (("coder_exact", True), ("coder_exact_other", False)):
        edits = (row for row in examples(stream, coder_share=1.0) if row["proposed"] is proposed)
        rows = list(islice(edits, count))
        replies = backend.generate(list(map(_asked, rows)), temperature=0.0, max_new_tokens=160)
        right = [_same_block(reply, row["completion"]) for reply, row in zip(replies, rows, strict=True)]
        found[name] = round(sum(right) / count, 4)
    turns = islice(examples(derive_seed(stream, "agent"), coder_share=0.0), count)
    replies = backend.generate(list(map(_asked, turns)), seed=stream, temperature=1.0, max_new_tokens=160)
    valid = sum(isinstance(parse_action(reply), Action) for reply in replies)
    return found | {"agent_valid": round(valid / count, 4)}


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
