"""Every constant of a run, with its source. One code path; a profile is data (``profiles.yaml`` beside this).

The default of each field is the paper's value, or our choice where the paper gives none. The profile
``paper`` is made of the defaults and nothing else. Names of tasks and models are passed on as they are.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, dataclass_transform

from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.files import read_yaml

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
# OpenMP's threads sleep while they wait for each other. By default they spin, and where another process takes
# one of the cores (scripts run beside the trainer), a step of the pocket model takes ten times as long.
PATIENT = "PASSIVE"

_DATA = read_yaml(Path(__file__).with_name("profiles.yaml"))
_SECTIONS = ("collect", "sft", "grpo", "evaluate", "pretrain")


def _value(found: Any) -> Any:
    return tuple(found) if isinstance(found, list) else found


class _Checked:
    """A dataclass whose values are in their range, and one of the `CHOICES` where there are such."""

    def __post_init__(self) -> None:
        """Raise `ProfileError` where a value is out of range or not one of its choices."""
        for item in fields(self):
            value, name = getattr(self, item.name), f"{type(self).__name__}.{item.name}"
            allowed = CHOICES.get(item.name)
            if allowed and value not in allowed:
                raise ProfileError(f"{name} is {value!r}", cure=f"choose one of {', '.join(allowed)}")
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if is_number and not 0 <= value < float("inf"):
                raise ProfileError(f"{name} is {value!r}", cure="give a finite number that is not negative")


@dataclass_transform(frozen_default=True)
def _constants(stage: str) -> Callable[[type], type]:
    """Make a class a dataclass whose defaults, sources and reasons are a stage's in ``profiles.yaml``."""

    def made(kind: type) -> type:
        for name, known in _DATA["constants"][stage].items():
            told = {"source": known["source"], "why": known.get("why", "")}
            setattr(kind, name, field(default=_value(known["paper"]), metadata=told))
        return dataclass(frozen=True)(kind)

    return made


@_constants("collect")
class CollectProfile(_Checked):
    """Expert trajectories: how many, how long, and how ideas are chosen for them."""

    tasks: str | tuple[str, ...]
    trajectories_per_task: int
    max_steps: int
    ideas_per_task: int
    selection: str
    ideas_kept: int
    ideas_k: int


@_constants("sft")
class SFTProfile(_Checked):
    """Exploration-enriched fine-tuning on the expert's turns."""

    lr: float
    epochs: float
    batch: int
    max_length: int
    warmup_share: float
    weight_decay: float
    lora_r: int
    lora_alpha: int
    holdout_share: float
    micro_batch: int
    checkpointing: bool

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
        if self.holdout_share >= 1:
            raise ProfileError(f"SFTProfile.holdout_share is {self.holdout_share}", cure="give less than 1")


@_constants("grpo")
class GRPOProfile(_Checked):
    """Step-wise RL. The paper uses PPO ("any RL algorithm applies"); GRPO is our deviation."""

    steps: int
    states_per_step: int
    group_size: int
    lr: float
    beta: float
    epsilon: float
    temperature: float
    max_new_tokens: int
    reward_form: str
    num_iterations: int
    eval_every: int
    eval_states: int
    eval_samples: int
    test_samples: int
    pool_size: int
    micro_batch: int
    checkpointing: bool
    vllm: str

    def __post_init__(self) -> None:
        """Check the ranges."""
        super().__post_init__()
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


@_constants("evaluate")
class EvalProfile(_Checked):
    """Evaluation on the report labels."""

    tasks: str | tuple[str, ...]
    k: int
    max_steps: int
    temperature: float
    policies: tuple[str, ...]
    luck_seeds: int


@_constants("pretrain")
class PretrainProfile(_Checked):
    """The pocket model, made from nothing: the paper has no such model, it starts from Qwen2.5-7B."""

    hidden: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int
    max_positions: int
    examples: int
    tokenizer_examples: int
    coder_share: float
    batch: int
    lr: float
    use_cpu: bool
    bf16: bool
    measure_examples: int
    seed: int


POLICIES: tuple[str, ...] = EvalProfile().policies


@dataclass(frozen=True)
class Loading(_Checked):
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


@_constants("common")
class Profile(_Checked):
    """One profile: what is common to the stages, and one section for each of them."""

    name: str
    purpose: str
    budget_minutes: float
    model: str
    coder: str
    backend: str
    precision: str
    four_bit: bool
    card_gb: float
    prompt_tokens: int
    coder_tokens: int
    generation_rows: int
    reply_format: str
    prompt_style: str
    workers: int
    threads: int
    script_seconds: float
    collect: CollectProfile = field(default_factory=CollectProfile)
    sft: SFTProfile = field(default_factory=SFTProfile)
    grpo: GRPOProfile = field(default_factory=GRPOProfile)
    evaluate: EvalProfile = field(default_factory=EvalProfile)
    pretrain: PretrainProfile = field(default_factory=PretrainProfile)

    def __post_init__(self) -> None:
        """Check also that a whole prompt with its reply is never cut by the trainer."""
        super().__post_init__()
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
        small = model.rsplit("/", 1)[-1] in _DATA["in_four_bits"].get(self.name, ())
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


def _profile(name: str) -> Profile:
    """Return a profile as the data tell it: what it changes of the one that it is like, or of the paper's."""
    told = dict(_DATA["profiles"][name])
    like = told.pop("like", None)
    changes = {key: value for key, value in told.items() if key not in _SECTIONS}
    for stage in set(told) & set(_SECTIONS):
        changes |= {f"{stage}__{constant}": _value(value) for constant, value in told[stage].items()}
    return (_profile(like) if like else Profile()).with_values(name, **changes)


PROFILES: dict[str, Profile] = {name: _profile(name) for name in _DATA["profiles"]}


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
