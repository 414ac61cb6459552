"""Every constant of a run, with its source. One code path; a profile is data.

The default of each field is the paper's value, or our choice where the paper gives none; ``source`` quotes
where it comes from and ``why`` says what a smaller profile changes and why (a deviation). The profile
``paper`` is made of the defaults and nothing else. Sources: v1 and v2 are the two versions of arXiv
2505.23723, a section without a version stands for both; "open" means that no version states the value.

This module does not know tasks or models: names in it are passed on as they are.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from mlagent_lib.core.errors import ProfileError

if TYPE_CHECKING:
    import pandas as pd

# Which values a field may take, where it is one word out of a few.
CHOICES: dict[str, tuple[str, ...]] = {
    "reply_format": ("six", "no-thought"),
    "prompt_style": ("pocket", "full"),
    "selection": ("v1", "v2"),
    "backend": ("auto", "plain", "unsloth"),
    "precision": ("auto", "bfloat16", "float16", "float32"),
}
POLICIES = ("starter", "random-ideas", "base", "sft", "rl")


def _f(value: Any, source: str, why: str = "") -> Any:
    """Return a dataclass field with its default, its source and the reason of deviations."""
    return field(default=value, metadata={"source": source, "why": why})


def _check(section: Any) -> None:
    """Raise `ProfileError` where a value is out of range or not one of its choices."""
    for item in fields(section):
        value, name = getattr(section, item.name), f"{type(section).__name__}.{item.name}"
        allowed = CHOICES.get(item.name)
        if allowed and value not in allowed:
            raise ProfileError(f"{name} is {value!r}", cure=f"choose one of {', '.join(allowed)}")
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if is_number and not 0 <= value < float("inf"):
            raise ProfileError(f"{name} is {value!r}", cure="give a finite number that is not negative")


@dataclass(frozen=True)
class CollectProfile:
    """Expert trajectories: how many, how long, and how ideas are chosen for them."""

    tasks: str | tuple[str, ...] = _f("held-in", "the 9 training tasks of the paper", "smoke: two")
    trajectories_per_task: int = _f(1112, "10k trajectories over 9 tasks, v1 and v2", "minutes, not days")
    max_steps: int = _f(15, "15 steps, s5.1", "a pocket script has only three blocks to edit")
    ideas_per_task: int = _f(100, "at least 100 candidate ideas a task, v1", "smoke: fewer are quicker")
    selection: str = _f(
        "v1",
        "v1: farthest average distance; v2 (B.1): farthest-point sampling",
        "v2 draws distinct axes, which suits a script of three blocks",
    )
    ideas_kept: int = _f(10, "the 10 farthest ideas, v1; used by selection v1")
    ideas_k: int = _f(5, "open: K per axis is not given in v2 B.1; used by selection v2")

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self)


@dataclass(frozen=True)
class SFTProfile:
    """Exploration-enriched fine-tuning on the expert's turns."""

    lr: float = _f(2e-5, "2e-5, set-up of the paper (s5.1)", "LoRA on a small model: larger steps")
    epochs: float = _f(2.0, "2 epochs, s5.1", "a small set is seen more often")
    batch: int = _f(64, "64, s5.1 and the authors' train_step1.sh", "fits two cores")
    max_length: int = _f(15000, "cutoff_len 15000, the authors' train_step1.sh", "pocket prompts are short")
    warmup_share: float = _f(0.0, "warmup 0, the authors' train_step1.sh", "a short run starts gently")
    weight_decay: float = _f(0.0, "weight decay 0, the authors' train_step1.sh")
    lora_r: int = _f(64, "deviation: LoRA in place of full fine-tuning, so that one GPU is enough")
    lora_alpha: int = _f(64, "deviation: see lora_r", "alpha = 2r learns faster in few steps")
    holdout_share: float = _f(0.1, "deviation: the paper keeps no states back; ours measure validity")
    micro_batch: int = _f(
        1,
        "1 a device, the authors' train_step1.sh (8 devices, 8 accumulated: 64); one card accumulates 64",
        "rows read at once; 0: the whole batch",
    )
    checkpointing: bool = _f(
        True, "on unless switched off in LLaMA-Factory, which the authors use", "it fits, and is faster"
    )

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self)
        if self.holdout_share >= 1:
            raise ProfileError(f"SFTProfile.holdout_share is {self.holdout_share}", cure="give less than 1")


@dataclass(frozen=True)
class GRPOProfile:
    """Step-wise RL. The paper uses PPO ("any RL algorithm applies"); GRPO is our deviation."""

    steps: int = _f(39, "39 steps: 10k states in batches of 256", "as many as the minutes allow")
    states_per_step: int = _f(256, "train batch 256, s5.1", "fits two cores")
    group_size: int = _f(8, "deviation: PPO samples per state not given; GRPO needs a group, 8 or more")
    lr: float = _f(1e-6, "actor 1e-6, s5.1", "LoRA on a small model, few steps")
    beta: float = _f(0.001, "KL coefficient 0.001, s5.1", "a small model drifts off the format sooner")
    epsilon: float = _f(0.2, "open: clip range; the usual default of PPO")
    temperature: float = _f(1.0, "open: rollout temperature; sampling from the policy itself")
    max_new_tokens: int = _f(1024, "open: reply length", "a pocket reply is short")
    reward_form: str = _f("v1", "Eq. 6 of v1; the kit's `reward` module holds v2 and the ablations too")
    num_iterations: int = _f(1, "1 epoch over the states, s5.1")
    eval_every: int = _f(5, "v1 Fig. 4 has a point every 5 steps", "as many points in fewer steps")
    eval_states: int = _f(64, "open: states never trained on: for the curve and the best checkpoint", "time")
    eval_samples: int = _f(1, "open: replies on each of these states", "less noise in the choice")
    test_samples: int = _f(8, "open: replies on each test state, before and after RL", "smoke: fewer")
    pool_size: int = _f(10000, "10k states, s5.1", "as many as the smaller collection gives")
    micro_batch: int = _f(
        4,
        "deviation: one card accumulates what 8 A100 held (s5.1): the same 256 states a step, 4 actions at a "
        "time",
        "actions read at once in an update; 0: all of a step",
    )
    checkpointing: bool = _f(True, "open: activations made again in the update", "they fit, and it is faster")
    vllm: str = _f(
        "no",
        "open: the engine of the rollouts; no, colocate (on the same card), or the address of a server",
    )

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self)
        if self.vllm not in ("no", "colocate") and not self.vllm.startswith(("http://", "https://")):
            raise ProfileError(
                f"GRPOProfile.vllm is {self.vllm!r}",
                cure="choose no, colocate, or the address of a server that 'trl vllm-serve' started",
            )
        if self.group_size < 2:
            raise ProfileError(
                f"GRPOProfile.group_size is {self.group_size}: an advantage compares at least two actions",
                cure="give 8 or more",
            )


@dataclass(frozen=True)
class EvalProfile:
    """Evaluation on the report labels."""

    tasks: str | tuple[str, ...] = _f("all", "3 held-in, 10 held-out, v1 Table 1; here all 19", "smoke: four")
    k: int = _f(8, "avg@8 and best@8, v1 Table 1", "minutes")
    max_steps: int = _f(15, "as in training, 15 steps, s5.1", "minutes")
    temperature: float = _f(0.5, "open: MLAgentBench's default", "the policy as it was trained")
    policies: tuple[str, ...] = _f(POLICIES, "deviation: the paper compares larger models (v1 Table 1)")
    luck_seeds: int = _f(5, "deviation: other seeds for the best scripts; the paper reruns none", "minutes")

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self)


@dataclass(frozen=True)
class PretrainProfile:
    """The pocket model, made from nothing: the paper has no such model, it starts from Qwen2.5-7B."""

    hidden: int = _f(192, "deviation: a stand-in of a few million parameters, Qwen2 architecture")
    layers: int = _f(4, "deviation: see hidden")
    heads: int = _f(4, "deviation: see hidden")
    feed_forward: int = _f(640, "deviation: see hidden")
    vocabulary: int = _f(2048, "deviation: byte-level BPE trained on the generated text")
    max_positions: int = _f(1024, "deviation: the longest pocket prompt and reply fit")
    examples: int = _f(
        80_000, "deviation: until edits are right; about an hour on two cores", "a test builds a toy"
    )
    tokenizer_examples: int = _f(6_000, "deviation: enough for stable pieces", "a test builds a toy")
    coder_share: float = _f(0.5, "deviation: half of the examples are coder edits, half agent turns")
    batch: int = _f(32, "deviation: fits two cores")
    lr: float = _f(2e-3, "deviation: usual for a model of this size")
    use_cpu: bool = _f(True, "deviation: rebuilt without a GPU")
    bf16: bool = _f(True, "deviation: half the time on a CPU with bfloat16")
    measure_examples: int = _f(400, "deviation: fresh examples to measure coder and policy on", "a test")
    seed: int = _f(0, "deviation: of the corpus and the weights")

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self)


# OpenMP's threads sleep while they wait for each other. By default they spin, and where another process takes
# one of the cores (scripts run beside the trainer), a step of the pocket model takes ten times as long.
PATIENT = "PASSIVE"

_SECTIONS = ("collect", "sft", "grpo", "evaluate", "pretrain")


@dataclass(frozen=True)
class Loading:
    """How a local model is loaded; what `Profile.loading` hands to the backends.

    Attributes:
        backend: ``auto``, ``plain`` or ``unsloth``.
        precision: Of the weights on a card: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for bfloat16
            where the card has it. On a CPU always float32.
        four_bit: Whether the base weights are kept in 4 bits (NF4, arXiv 2305.14314).
        window: Longest prompt and reply together, in tokens; 0 for the model's own.
        generation_rows: Conversations sampled at once; 0 for as many as a call has, at most 96.
        coder_tokens: Longest reply of the base coder, in tokens.
        fast_inference: Whether Unsloth loads the model with its vLLM engine.
    """

    backend: str = "auto"
    precision: str = "auto"
    four_bit: bool = False
    window: int = 0
    generation_rows: int = 0
    coder_tokens: int = 160
    fast_inference: bool = False

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check(self)


@dataclass(frozen=True)
class Profile:
    """One profile: what is common to the stages, and one section for each of them."""

    name: str = _f("paper", "the name given to --profile")
    purpose: str = _f(
        "The paper's numbers, on one 80 GB card with an endpoint as coder: what 8 A100 held at once is "
        "accumulated, 256 states a step as there. Days, not minutes.",
        "for the reader",
    )
    budget_minutes: float = _f(0.0, "open: 0 is no promise", "what the profile promises on its machine")
    model: str = _f("Qwen/Qwen2.5-7B", "Qwen2.5-7B (base), s5.1", "a model that the machine can train")
    coder: str = _f(
        "endpoint",
        "Qwen2.5-Coder-32B-Instruct, v1 B.2",
        "the policy's own base weights: one model in memory",
    )
    backend: str = _f("auto", "deviation: Unsloth with CUDA, else plain Transformers and PEFT, said aloud")
    precision: str = _f(
        "bfloat16", "bf16, the authors' train_step1.sh", "what the machine has; a T4 has float16 only"
    )
    four_bit: bool = _f(False, "16-bit weights, s5.1", "smaller than 16 bit, for small cards")
    card_gb: float = _f(
        80.0,
        "A100 (s5.1), its memory is not stated: 80 GB here",
        "the card that the numbers are made for, in 10**9 bytes; 0: none",
    )
    prompt_tokens: int = _f(
        13976, "cutoff_len 15000, the authors' train_step1.sh, less the reply", "the window; 0: not cut"
    )
    coder_tokens: int = _f(
        4000, "MLAgentBench's edit-script-llm-max-tokens: a whole script", "a block or a short script"
    )
    generation_rows: int = _f(
        16, "open: replies sampled at once, what an 80 GB card holds", "what fits; 0: as many as a call has"
    )
    reply_format: str = _f("six", "six fields, v1 Tables 5-6; no-thought is the ablation of v2")
    prompt_style: str = _f("full", "the MLAgentBench prompt, v1 Table 5", "a short prompt for a small model")
    workers: int = _f(8, "open: scripts executed at once", "one per core")
    threads: int = _f(8, "open: OMP_NUM_THREADS of the notebooks", "one per core")
    script_seconds: float = _f(
        1800.0, "open: no limit of a script is given; 30 minutes a trajectory", "a pocket script needs one"
    )
    collect: CollectProfile = field(default_factory=CollectProfile)
    sft: SFTProfile = field(default_factory=SFTProfile)
    grpo: GRPOProfile = field(default_factory=GRPOProfile)
    evaluate: EvalProfile = field(default_factory=EvalProfile)
    pretrain: PretrainProfile = field(default_factory=PretrainProfile)

    def __post_init__(self) -> None:
        """Check the ranges, and that a whole prompt with its reply is never cut by the trainer."""
        _check(self)
        longest = self.prompt_tokens + self.grpo.max_new_tokens
        if self.prompt_tokens and longest > self.sft.max_length:
            raise ProfileError(
                f"profile {self.name!r}: prompt_tokens + grpo.max_new_tokens is {longest}, more than "
                f"sft.max_length ({self.sft.max_length}): the trainer would cut replies off",
                cure="raise sft.max_length, or lower prompt_tokens",
            )

    def with_model(self, model: str) -> Profile:
        """Return the profile with another model, in 4 bits where the profile's card has no room for 16.

        Example:
            >>> small = get_profile("colab-t4").with_model("Qwen/Qwen2.5-3B-Instruct")
            >>> small.model, small.four_bit
            ('Qwen/Qwen2.5-3B-Instruct', True)
        """
        small = model.rsplit("/", 1)[-1] in _IN_FOUR_BITS.get(self.name, ())
        return self.with_values(self.name, model=model, four_bit=self.four_bit or small)

    @property
    def loading(self) -> Loading:
        """Return how this profile's local model is loaded."""
        return Loading(
            backend=self.backend,
            precision=self.precision,
            four_bit=self.four_bit,
            window=self.sft.max_length if self.prompt_tokens else 0,
            generation_rows=self.generation_rows,
            coder_tokens=self.coder_tokens,
            fast_inference=self.grpo.vllm == "colocate",
        )

    def to_json(self) -> dict:
        """Return the whole profile as plain nested dictionaries."""
        return asdict(self)

    def as_rows(self) -> list[dict]:
        """Return one row per constant: stage, name, value, the paper's value (or ours), source, why.

        ``differs`` is True where the value is not the default, that is, not the one of ``paper``.
        """
        rows = []
        for stage, section in (("common", self), *((name, getattr(self, name)) for name in _SECTIONS)):
            for item in fields(section):
                if item.name in _SECTIONS or item.name in ("name", "purpose"):
                    continue
                value = getattr(section, item.name)
                differs = value != item.default
                why = item.metadata["why"] if differs else ""
                row = {"stage": stage, "name": item.name, "value": value, "paper": item.default}
                rows.append({**row, "source": item.metadata["source"], "differs": differs, "why": why})
        return rows

    def as_table(self) -> pd.DataFrame:
        """Return `as_rows` as a DataFrame, for a notebook to show."""
        import pandas as pd

        return pd.DataFrame(self.as_rows()).set_index(["stage", "name"])

    def with_values(self, name: str, **changes: Any) -> Profile:
        """Return a copy called ``name`` with other constants, e.g. ``with_values("arm", grpo__steps=5)``.

        Args:
            name: The name of the copy.
            changes: ``<stage>__<constant>`` for a constant of a stage, ``<constant>`` for a common one.

        Raises:
            ProfileError: A constant is unknown or out of range.

        Example:
            >>> get_profile("smoke").with_values("arm", grpo__steps=5, model="other").grpo.steps
            5
        """
        common: dict[str, Any] = {"name": name}
        sections: dict[str, dict[str, Any]] = {}
        for key, value in changes.items():
            stage, dots, constant = key.partition("__")
            owner = getattr(self, stage) if dots and stage in _SECTIONS else self
            known = [item.name for item in fields(owner) if item.name not in _SECTIONS]
            constant = constant if owner is not self else key
            if constant not in known:
                message = f"profile constant {key!r} is unknown{_hint(constant, known)}"
                raise ProfileError(message, cure=f"choose one of {', '.join(known)}")
            (common if owner is self else sections.setdefault(stage, {}))[constant] = value
        made = {stage: dataclasses.replace(getattr(self, stage), **new) for stage, new in sections.items()}
        return dataclasses.replace(self, **common, **made)


_LAPTOP = Profile(
    name="laptop",
    purpose="The main job: the whole story on 2 CPU cores, no network, no account.",
    budget_minutes=15.0,
    model="pocket",
    coder="base",
    prompt_style="pocket",
    precision="auto",
    card_gb=0.0,
    prompt_tokens=0,
    coder_tokens=160,
    generation_rows=0,
    workers=2,
    threads=2,
    script_seconds=6.0,
    collect=CollectProfile(trajectories_per_task=14, max_steps=6, selection="v2"),
    sft=SFTProfile(
        lr=5e-4, epochs=3.0, batch=16, max_length=768, warmup_share=0.05, lora_r=16, lora_alpha=32,
        holdout_share=0.15, micro_batch=0, checkpointing=False,
    ),
    grpo=GRPOProfile(
        steps=40, states_per_step=8, lr=4e-3, beta=0.02, max_new_tokens=64, eval_every=10, eval_states=48,
        eval_samples=2, test_samples=4, pool_size=400, micro_batch=0, checkpointing=False,
    ),
    evaluate=EvalProfile(k=4, max_steps=6, temperature=1.0, luck_seeds=3),
)  # fmt: skip

_SMOKE = _LAPTOP.with_values(
    "smoke",
    purpose="The whole chain in toy size, for tests: same code path, no result worth reading.",
    budget_minutes=3.0,
    collect__tasks=("pocket-digits", "pocket-homes"),
    evaluate__tasks=("pocket-digits", "pocket-homes", "pocket-grades", "pocket-forests"),
    collect__trajectories_per_task=3,
    collect__max_steps=2,
    collect__ideas_per_task=30,
    sft__epochs=1.0,
    sft__warmup_share=0.0,
    grpo__steps=2,
    grpo__states_per_step=2,
    grpo__eval_every=1,
    grpo__eval_states=4,
    grpo__pool_size=8,
    grpo__eval_samples=1,
    grpo__test_samples=1,
    evaluate__k=1,
    evaluate__max_steps=2,
    evaluate__luck_seeds=1,
    pretrain__hidden=32,
    pretrain__layers=2,
    pretrain__feed_forward=64,
    pretrain__vocabulary=512,
    pretrain__examples=64,
    pretrain__tokenizer_examples=64,
    pretrain__measure_examples=4,
)

_ABLATIONS = _LAPTOP.with_values(
    "ablations",
    purpose="All arms over seeds: each a laptop run with one change, on one core; hours on a CPU.",
    budget_minutes=240.0,
    workers=1,
    threads=1,
    grpo__eval_states=32,
    grpo__eval_samples=1,
    grpo__test_samples=2,
    evaluate__k=2,
)

_GPU = Profile(
    name="gpu",
    purpose="One card of 40 GB or more (24 with four_bit and Unsloth): Qwen2.5-7B, which is its own coder.",
    model="Qwen/Qwen2.5-7B-Instruct",
    coder="base",
    card_gb=42.0,
    prompt_tokens=7680,
    coder_tokens=2048,
    generation_rows=8,
    collect=CollectProfile(trajectories_per_task=100),
    sft=SFTProfile(lr=1e-4, batch=16, max_length=8192, warmup_share=0.05, micro_batch=1),
    grpo=GRPOProfile(
        steps=100, states_per_step=16, lr=1e-5, max_new_tokens=512, pool_size=2000, micro_batch=2,
    ),
)  # fmt: skip

# In 16 bits these leave a T4 too little for the rest; Unsloth's own T4 notebook for 3B takes 4 bits.
_IN_FOUR_BITS = {"colab-t4": ("Qwen2.5-3B", "Qwen2.5-3B-Instruct")}

_COLAB = _GPU.with_values(
    "colab-t4",
    purpose="A free T4 (15 GB, float16, 2 CPU cores): Qwen2.5-1.5B, or 0.5B and 3B by the parameter model.",
    budget_minutes=180.0,
    model="Qwen/Qwen2.5-1.5B-Instruct",
    precision="float16",
    card_gb=15.0,
    prompt_tokens=2816,
    coder_tokens=1024,
    generation_rows=16,
    workers=2,
    threads=2,
    collect__trajectories_per_task=20,
    collect__max_steps=8,
    sft__batch=8,
    sft__max_length=3072,
    sft__lora_r=16,
    sft__lora_alpha=32,
    sft__micro_batch=1,
    grpo__steps=60,
    grpo__states_per_step=4,
    grpo__max_new_tokens=256,
    grpo__eval_states=24,
    grpo__pool_size=500,
    grpo__micro_batch=4,
    evaluate__k=4,
    evaluate__max_steps=8,
)

PROFILES: dict[str, Profile] = {p.name: p for p in (_SMOKE, _LAPTOP, _ABLATIONS, _COLAB, _GPU, Profile())}


def get_profile(name: str) -> Profile:
    """Return the profile called ``name``.

    Raises:
        ProfileError: There is no such profile; the message names the closest one and lists all.

    Example:
        >>> get_profile("paper").grpo.lr
        1e-06
    """
    if name not in PROFILES:
        known = list(PROFILES)
        message = f"profile {name!r} is unknown{_hint(name, known)}"
        raise ProfileError(message, cure=f"choose one of {', '.join(known)}")
    return PROFILES[name]


def _hint(name: str, known: list[str]) -> str:
    """Return words that name the closest known name, or nothing where none is close.

    Example:
        >>> _hint("lapto", ["smoke", "laptop"])
        ": the closest is 'laptop'"
    """
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f": the closest is {close[0]!r}" if close else ""
