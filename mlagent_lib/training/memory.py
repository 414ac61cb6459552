"""How much memory of a card a profile needs, worked out before anything is loaded, from published shapes.

Sums of products that a person can check; nothing is measured here. Where a number is ours and not a published
one, it says so. GB is 10**9 bytes, as card makers count; a "16 GB" T4 gives programs about 15.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.profiles import Profile
from mlagent_lib.training.backends.weights import gguf_facts, known_folder

GB = 10**9
_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_NF4_BITS = 4.127  # a weight and its share of the constants, double quantization (arXiv 2305.14314 section 3)
_ADAM = 4 + 4 + 8  # bytes a trainable weight: float32 weight, gradient, the two moments of Adam
_SFT_LOGIT = 12  # bytes a logit: float32 log-probability and its gradient, logit and gradient in 16 bits
_GRPO_LOGIT = 8  # bytes a logit: as it is, over the temperature, log-probability, gradient, all in 16 bits
_PLAIN_SCORE = 6  # bytes a score of plain attention: its probability in float32 and in 16 bits
_FUSED_ROWS = 1024  # ours: positions whose logits Unsloth has at once, where plain has them all
CONTEXT = 0.8 * GB  # ours: CUDA context, cuBLAS and the kernels of PyTorch
PROGRAMS = 0.9 * GB  # ours: Python with PyTorch, Transformers and TRL, on a CPU
SPARE = 0.1  # ours: share lost to fragments of the allocator
VLLM_SHARE = 0.3  # of the card, for an engine beside the trainer: TRL's vllm_gpu_memory_utilization


@dataclass(frozen=True)
class Shape:
    """The architecture of a model of the shapes Qwen2 or Llama, from its ``config.json``.

    Attributes:
        hidden: Width of the residual stream (hidden_size).
        feed_forward: Width of the MLP (intermediate_size).
        layers: num_hidden_layers.
        heads: Query heads (num_attention_heads).
        kv_heads: Key and value heads (num_key_value_heads).
        vocabulary: vocab_size.
        tied: Whether embedding and output share weights (tie_word_embeddings).
        head: Width of a head (head_dim); 0 for hidden over heads.
        biases: Whether q, k and v have them, as in Qwen2.
    """

    hidden: int
    feed_forward: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    head: int = 0
    biases: bool = True

    @property
    def query_width(self) -> int:
        """Return the width of queries."""
        return (self.head or self.hidden // self.heads) * self.heads

    @property
    def kv_width(self) -> int:
        """Return the width of keys, and of values."""
        return self.query_width // self.heads * self.kv_heads


# config.json of Qwen/Qwen2.5-<size> and Qwen/Qwen2.5-<size>-Instruct on the Hugging Face Hub (Apache-2.0, 3B:
# Qwen research licence); Qwen2.5 technical report, arXiv 2412.15115, Table 1
SHAPES = {
    "0.5B": Shape(896, 4864, 24, 14, 2, 151936, True),
    "1.5B": Shape(1536, 8960, 28, 12, 2, 151936, True),
    "3B": Shape(2048, 11008, 36, 16, 2, 151936, True),
    "7B": Shape(3584, 18944, 28, 28, 4, 152064, False),
}

OTHERS = {"smollm2": Shape(576, 1536, 30, 9, 3, 49152, True, biases=False)}  # arXiv 2502.02737; its GGUF


def shape_of(model: str) -> Shape | None:
    """Return the shape of a model: known by name, or read from its folder or GGUF on this machine; else None.

    None for the pocket model, too, which fits anywhere.

    Example:
        >>> shape_of("Qwen/Qwen2.5-1.5B-Instruct").layers
        28
        >>> sum(parameters(shape_of("smollm2")))  # "135M", model card
        134515008
    """
    name = model.rsplit("/", 1)[-1]
    size = name.removeprefix("Qwen2.5-").removesuffix("-Instruct")
    if name.startswith("Qwen2.5-") and size in SHAPES:
        return SHAPES[size]
    if model in OTHERS:
        return OTHERS[model]
    place = None if model == "pocket" else known_folder(model)
    if place and place.suffix == ".gguf":
        return _shape_in_gguf(place)
    return _shape_in(place) if place and (place / "config.json").exists() else None


def _shape_in(folder: Path) -> Shape:
    """Return the shape that a ``config.json`` tells; ``text_config`` holds it in models that see, too."""
    told = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    told |= told.get("text_config", {})
    heads = told["num_attention_heads"]
    return Shape(
        told["hidden_size"], told["intermediate_size"], told["num_hidden_layers"], heads,
        told.get("num_key_value_heads") or heads, told["vocab_size"], bool(told.get("tie_word_embeddings")),
        told.get("head_dim") or 0, told.get("model_type") == "qwen2" or bool(told.get("attention_bias")),
    )  # fmt: skip


def _shape_in_gguf(path: Path) -> Shape:
    facts, _ = gguf_facts(path)
    kind = facts["general.architecture"]
    names = "embedding_length feed_forward_length block_count attention.head_count attention.head_count_kv"
    sizes = [int(facts[f"{kind}.{name}"]) for name in names.split()]
    head = int(facts.get(f"{kind}.attention.key_length", 0))
    return Shape(*sizes, facts["vocabulary"], not facts["has output"], head, kind == "qwen2")


def parameters(shape: Shape) -> tuple[int, int]:
    """Return the weights of the linear layers, which 4 bits can hold, and all others.

    Example:
        >>> linear, other = parameters(SHAPES["7B"])
        >>> linear + other  # "7.61B", model card
        7615616512
        >>> sum(parameters(SHAPES["0.5B"]))  # "0.49B"
        494032768
    """
    linear = sum(inner * outer for inner, outer in _linear(shape))
    biases = (shape.query_width + 2 * shape.kv_width) * shape.biases  # of q, k and v
    norms = 2 * shape.hidden
    embeddings = shape.vocabulary * shape.hidden * (1 if shape.tied else 2)
    return shape.layers * linear, shape.layers * (biases + norms) + embeddings + shape.hidden


def _linear(shape: Shape) -> tuple[tuple[int, int], ...]:
    """Return inner and outer width of a layer's q, k, v, o, gate, up, down: those that LoRA adapts."""
    hidden, wide, kv, inner = shape.hidden, shape.query_width, shape.kv_width, shape.feed_forward
    attention = ((hidden, wide), (hidden, kv), (hidden, kv), (wide, hidden))
    return (*attention, (hidden, inner), (hidden, inner), (inner, hidden))


def lora_parameters(shape: Shape, r: int) -> int:
    """Return the weights of an adapter of rank r on all linear layers: r times inner plus outer width each.

    Example:
        >>> lora_parameters(SHAPES["7B"], 64)  # 28 layers * 64 * 90112
        161480704
    """
    return shape.layers * r * sum(inner + outer for inner, outer in _linear(shape))


def weight_bytes(shape: Shape, precision: str, four_bit: bool = False) -> float:
    """Return the bytes of the base weights.

    Example:
        >>> weight_bytes(SHAPES["7B"], "bfloat16") / GB
        15.231233024
        >>> weight_bytes(SHAPES["7B"], "float16", four_bit=True) // 10**7  # 6.525 * 4.127 / 8 + 1.09 * 2
        554.0
    """
    linear, other = parameters(shape)
    return linear * (_NF4_BITS / 8 if four_bit else _BYTES[precision]) + other * _BYTES[precision]


def cache_bytes(shape: Shape, rows: int, tokens: int, precision: str) -> int:
    """Return the bytes of keys and values of ``rows`` texts of ``tokens`` tokens.

    Example:
        >>> cache_bytes(SHAPES["7B"], 1, 1, "bfloat16")  # 2 * 28 layers * 512 * 2 bytes
        57344
    """
    return 2 * shape.layers * shape.kv_width * _BYTES[precision] * rows * tokens


def layer_bytes(shape: Shape, precision: str, r: int) -> int:
    """Return the bytes that one layer keeps of one token for the backward pass, with LoRA on it.

    What autograd keeps of Transformers' Qwen2 under PEFT in 16-bit autocast: the residual stream in float32
    in both norms; six inputs of adapted layers, query and attention's output, all of width hidden; key and
    value; four vectors of the MLP's width; seven of width r; a number a head. Base weights are frozen, so
    nothing is kept for their gradients. In float32 twice the 16-bit part is an upper bound.

    Example:
        >>> layer_bytes(SHAPES["0.5B"], "bfloat16", 16)  # 24*896 + 4*128 + 8*4864 + 14*16 + 4*14 + 8
        61216
    """
    norms = 8 * shape.hidden
    rest = 16 * shape.hidden + 4 * shape.kv_width + 8 * shape.feed_forward + 14 * r
    return norms + rest * _BYTES[precision] // 2 + 4 * shape.heads + 8


def activation_bytes(shape: Shape, tokens: int, precision: str, *, checkpointing: bool, r: int) -> int:
    """Return the bytes that the backward pass needs of ``tokens`` tokens, without the logits.

    With checkpointing a layer keeps its input only, and one layer at a time is made again.

    Example:
        >>> activation_bytes(SHAPES["0.5B"], 1, "bfloat16", checkpointing=False, r=16)  # 24 * 61216
        1469184
        >>> activation_bytes(SHAPES["0.5B"], 1, "bfloat16", checkpointing=True, r=16)  # 24 * 2 * 896 + 61216
        104224
    """
    layer = layer_bytes(shape, precision, r)
    if checkpointing:
        return tokens * (shape.layers * _BYTES[precision] * shape.hidden + layer)
    return tokens * shape.layers * layer


def attention_bytes(shape: Shape, pairs: int, *, checkpointing: bool) -> int:
    """Return the bytes that plain attention keeps for the backward pass; a fused one keeps none of them.

    Args:
        pairs: Of a query and a key, padding among them.

    Example:
        >>> attention_bytes(OTHERS["smollm2"], 2 * 512 * 512, checkpointing=False) / GB  # 30 * 9 heads * 6
        0.84934656
    """
    return (1 if checkpointing else shape.layers) * shape.heads * pairs * _PLAIN_SCORE


@dataclass(frozen=True)
class Estimate:
    """What a profile needs, in bytes: for each phase its parts by name.

    The parts of a phase are there at the same time; the phases are not.
    """

    phases: dict[str, dict[str, float]]

    def total(self, phase: str) -> float:
        """Return the bytes of a phase, with what the allocator loses."""
        return sum(self.phases[phase].values()) * (1 + SPARE)

    @property
    def peak(self) -> float:
        """Return the bytes of the largest phase."""
        return max(self.total(phase) for phase in self.phases)

    def lines(self) -> list[str]:
        """Return a table of GB, one line for each part, one column for each phase."""
        rows = {"GB": list(self.phases)}
        for name in dict.fromkeys(name for parts in self.phases.values() for name in parts):
            cells = (parts.get(name) for parts in self.phases.values())
            rows[name] = ["" if value is None else f"{value / GB:.2f}" for value in cells]
        rows[f"in all, {SPARE:.0%} spare"] = [f"{self.total(phase) / GB:.2f}" for phase in self.phases]
        return [f"{name:<28}" + "".join(f"{cell:>14}" for cell in cells) for name, cells in rows.items()]


def estimate(
    profile: Profile, *, backend: str = "plain", precision: str = "", on_card: bool = True, card_gb: float = 0
) -> Estimate:
    """Return what a profile needs for SFT, for the sampling and the update of GRPO.

    It is an upper bound for Unsloth, whose kernels keep less than those of Transformers. Every profile that
    samples shorter prompts than its longest needs less, too.

    Args:
        backend: ``plain`` or ``unsloth``: whether all logits are there at once.
        card_gb: Size of the card, of which a vLLM engine on it takes its share.

    Raises:
        ProfileError: The shape of the profile's model is not known.
    """
    shape = shape_of(profile.model)
    if shape is None:
        raise ProfileError(
            f"the shape of model {profile.model!r} is not known, so its memory cannot be estimated",
            cure=f"choose one of {', '.join(f'Qwen/Qwen2.5-{size}-Instruct' for size in SHAPES)}, smollm2, "
            "or give the folder or the GGUF of a model",
        )
    sft, grpo = profile.sft, profile.grpo
    kind = precision or (profile.precision if profile.precision in _BYTES else "bfloat16")
    lora = lora_parameters(shape, sft.lora_r)
    fixed = {"base weights": weight_bytes(shape, kind, profile.four_bit)}
    fixed |= {"CUDA context": CONTEXT} if on_card else {"programs": PROGRAMS}
    fixed |= {"adapter, gradient, Adam": lora * _ADAM}
    both = fixed | {"reference adapter": lora * 4}
    engine = {"vLLM engine": VLLM_SHARE * card_gb * GB} if grpo.vllm == "colocate" else {}

    plain_attention = backend == "plain" and not on_card and kind == "bfloat16"  # see `PlainBackend.load`

    def update(tokens: int, positions: int, size: int, checkpointing: bool, pairs: int) -> dict[str, float]:
        """Return what a backward pass takes; Unsloth never has the logits of all positions at once."""
        found = {
            "activations": activation_bytes(shape, tokens, kind, checkpointing=checkpointing, r=sft.lora_r)
        }
        if plain_attention:
            found["attention"] = attention_bytes(shape, pairs, checkpointing=checkpointing)
        at_once = min(positions, _FUSED_ROWS) if backend == "unsloth" else positions
        return found | {"logits": at_once * shape.vocabulary * size}

    reads = sft.max_length * min(sft.micro_batch or sft.batch, sft.batch)
    replies = grpo.states_per_step * grpo.group_size
    rows = min(grpo.micro_batch or replies, replies)
    # where prompts are not cut, what SFT reads bounds them
    longest = grpo.max_new_tokens + (profile.prompt_tokens or max(sft.max_length - grpo.max_new_tokens, 0))
    sampled = longest * min(profile.generation_rows or replies, replies)
    # the widest moment of reading the prompts: the product in an MLP
    wide = sampled * _BYTES[kind] * (3 * shape.feed_forward + 2 * shape.hidden)
    sampling = {"keys and values": cache_bytes(shape, 1, sampled, kind), "reading prompts": wide}
    if not on_card:  # the decode loop lays the linear layers out anew for the time of a call
        sampling["flat weights"] = parameters(shape)[0] * _BYTES[kind]
    # plain reads the prompt of a group once, but where activations are made again; rows are sorted by group
    shares, prompt = backend == "plain" and not grpo.checkpointing, longest - grpo.max_new_tokens
    read = (-(-rows // grpo.group_size) if shares else rows) * prompt
    written = rows * grpo.max_new_tokens
    pairs = read * prompt + written * longest
    learning = update(read + written, written, _GRPO_LOGIT, grpo.checkpointing, pairs)
    return Estimate(
        {
            "SFT": fixed | update(reads, reads, _SFT_LOGIT, sft.checkpointing, reads * sft.max_length),
            "GRPO sampling": both | (engine or sampling),
            "GRPO update": both | learning | engine,
        }
    )


# What may be given up, in this order and each as little as possible: less at once (the same numbers come out,
# more slowly), activations made again, then 4-bit weights.
_LADDER: dict[str, tuple[object, ...]] = {
    "generation_rows": (8, 4, 2, 1),
    "sft__micro_batch": (4, 2, 1),
    "grpo__micro_batch": (8, 4, 2, 1),
    "sft__checkpointing": (True,),
    "grpo__checkpointing": (True,),
    "four_bit": (True,),
}


def alternative(
    profile: Profile, available_gb: float, *, on_card: bool = True, **options
) -> tuple[str, Estimate] | None:
    """Return a smaller variant of a profile that fits, in words, and its estimate; None where none does.

    The model stays if it can; else the largest smaller one is taken.
    """
    own = shape_of(profile.model)

    def estimated(changes: dict[str, object]) -> Estimate:
        changed = profile.with_values(profile.name, **changes)
        return estimate(changed, card_gb=available_gb, on_card=on_card, **options)

    def now(name: str) -> object:
        return attrgetter(name.replace("__", "."))(profile)

    suffix = "-Instruct" if profile.model.endswith("-Instruct") else ""
    smaller = {f"Qwen/Qwen2.5-{size}{suffix}": shape for size, shape in reversed(SHAPES.items())}
    ladder = {name: rungs for name, rungs in _LADDER.items() if on_card or name != "four_bit"}
    for model, shape in {profile.model: own, **smaller}.items():
        if model != profile.model and shape == own:
            continue
        taken = {"model": model, **{name: rungs[-1] for name, rungs in ladder.items()}}
        if shape.layers * shape.hidden > own.layers * own.hidden or estimated(taken).peak > available_gb * GB:
            continue
        for name, rungs in reversed(ladder.items()):  # what costs most is given back first
            trials = (taken | {name: rung} for rung in (now(name), *rungs))
            taken = next(trial for trial in trials if estimated(trial).peak <= available_gb * GB)
        changed = (
            f"{name.replace('__', '.')}={value}" for name, value in taken.items() if value != now(name)
        )
        return ", ".join(changed), estimated(taken)
    return None


def check_fit(profile: Profile, available_gb: float, **options) -> Estimate:
    """Return the estimate of a profile that fits.

    Raises:
        ProfileError: It does not fit; the message names a combination that does.
    """
    found = estimate(profile, card_gb=available_gb, **options)
    if found.peak <= available_gb * GB:
        return found
    what = f"{profile.model}{' in 4 bits' if profile.four_bit else ''} under profile {profile.name!r}"
    smaller = alternative(profile, available_gb, **options)
    cure = f"take {smaller[0]}: about {smaller[1].peak / GB:.1f} GB" if smaller else "take a larger card"
    raise ProfileError(
        f"{what} needs about {found.peak / GB:.1f} GB, and there are {available_gb:.1f}", cure=cure
    )


def available_gb() -> tuple[float, bool]:
    """Return the memory to fit into, in GB, and whether it is a card's: else it is this machine's own."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory / GB, True
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GB, False


def announce(profile: Profile, backend: str, precision: str, say=print) -> None:
    """Print what a profile will need, before anything is loaded (see `check_fit`); nothing for ``pocket``."""
    if shape_of(profile.model) is None:
        return
    there, on_card = available_gb()
    where = "this card" if on_card else "this machine; without CUDA it runs on the CPU, slowly"
    found = check_fit(profile, there, backend=backend, precision=precision, on_card=on_card)
    say(f"{profile.model}, backend {backend}, {precision}{', base in 4 bits' if profile.four_bit else ''}")
    for line in found.lines():
        say(line)
    say(f"needs about {found.peak / GB:.1f} GB of the {there:.1f} GB of {where}")
