"""Every constant of a run, with its source. One code path; a profile is data (``profiles.yaml`` beside this).

The default of each field is the paper's value, or our choice where the paper gives none. The profile
``paper`` is made of the defaults and nothing else. Names of tasks and models are passed on as they are.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    "precision": ("auto", "measured", "bfloat16", "float16", "float32"),
    "lr_schedule": ("constant_with_warmup", "linear"),
    "scale_rewards": ("group", "batch", "none"),
    "focus_by": ("regret", "variance"),
}
# OpenMP's threads sleep while they wait for each other. By default they spin, and where another process takes
# one of the cores (scripts run beside the trainer), a step of the pocket model takes ten times as long.
PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}
# Those of a real model spin for some twenty microseconds first (libgomp's count), as they meet again sooner:
# SmolLM2 writes 1.3 times, learns 1.1 times as fast on two free cores. On busy ones the pocket model lost.
SPINNING = PATIENT | {"GOMP_SPINCOUNT": "1000"}

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


def _constants(stage: str) -> Callable[[type], type]:
    """Make a class a dataclass: fields, defaults, sources and reasons are a stage's in ``profiles.yaml``."""

    def made(kind: type) -> type:
        own = kind.__dict__.get("__annotations__", {})
        told = {}
        for name, known in _DATA["constants"][stage].items():
            default = _value(known["paper"])
            origin = {"source": known["source"], "why": known.get("why", "")}
            setattr(kind, name, field(default=default, metadata=origin))
            told[name] = type(default).__name__
        kind.__annotations__ = told | own
        return dataclass(frozen=True)(kind)

    return made


@_constants("collect")
class CollectProfile(_Checked):
    """Expert trajectories: how many, how long, and how ideas are chosen for them."""


@_constants("sft")
class SFTProfile(_Checked):
    """Exploration-enriched fine-tuning on the expert's turns."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.holdout_share >= 1:
            raise ProfileError(f"SFTProfile.holdout_share is {self.holdout_share}", cure="give less than 1")


@_constants("grpo")
class GRPOProfile(_Checked):
    """Step-wise RL. The paper uses PPO ("any RL algorithm applies"); GRPO is our deviation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vllm not in ("no", "colocate") and not self.vllm.startswith(("http://", "https://")):
            cure = "choose no, colocate, or the address of a server that 'trl vllm-serve' started"
            raise ProfileError(f"GRPOProfile.vllm is {self.vllm!r}", cure=cure)
        if self.group_size < 2:
            raise ProfileError(
                f"GRPOProfile.group_size is {self.group_size}: an advantage compares at least two actions",
                cure="give 8 or more",
            )
        if not 1 <= self.best_of <= self.group_size:
            raise ProfileError(
                f"GRPOProfile.best_of is {self.best_of}: a group has {self.group_size} actions",
                cure=f"give 1 to {self.group_size}",
            )


@_constants("evaluate")
class EvalProfile(_Checked):
    """Evaluation on the report labels."""


@_constants("pretrain")
class PretrainProfile(_Checked):
    """The pocket model, made from nothing: the paper has no such model, it starts from Qwen2.5-7B."""


POLICIES: tuple[str, ...] = EvalProfile().policies


@dataclass(frozen=True)
class Loading(_Checked):
    """How a local model is loaded; what `Profile.loading` hands to the backends.

    Attributes:
        precision: Of the weights on a card: ``bfloat16``, ``float16``, ``float32``, or ``auto`` for bfloat16
            where the card has it. On a CPU always float32, but with ``measured``: bfloat16 where the
            processor multiplies it faster.
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

    collect: CollectProfile = field(default_factory=CollectProfile)
    sft: SFTProfile = field(default_factory=SFTProfile)
    grpo: GRPOProfile = field(default_factory=GRPOProfile)
    evaluate: EvalProfile = field(default_factory=EvalProfile)
    pretrain: PretrainProfile = field(default_factory=PretrainProfile)

    def __post_init__(self) -> None:
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
        window = self.sft.max_length if self.prompt_tokens else 0
        same = ("backend", "precision", "four_bit", "generation_rows", "coder_tokens")
        shared = {name: getattr(self, name) for name in same}
        return Loading(window=window, fast_inference=self.grpo.vllm == "colocate", **shared)

    @property
    def threads_wait(self) -> dict[str, str]:
        """Return the environment by which OpenMP's threads wait for each other.

        Example:
            >>> get_profile("laptop").threads_wait, get_profile("laptop-llm").threads_wait["GOMP_SPINCOUNT"]
            ({'OMP_WAIT_POLICY': 'PASSIVE'}, '1000')
        """
        return PATIENT if self.model == "pocket" else SPINNING

    def as_rows(self) -> list[dict]:
        """Return one row per constant: stage, name, value, the paper's value (or ours), source, why.

        ``differs`` is True where the value is not the default, that is, not the one of ``paper``.
        """
        rows = []
        for stage, section in (("common", self), *((name, getattr(self, name)) for name in _SECTIONS)):
            for item in fields(section):
                if item.name not in (*_SECTIONS, "name", "purpose"):
                    value, told = getattr(section, item.name), item.metadata
                    row = {"stage": stage, "name": item.name, "value": value, "paper": item.default}
                    row |= {"source": told["source"], "differs": value != item.default}
                    rows.append(row | {"why": told["why"] if row["differs"] else ""})
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
        made: dict[str, Any] = {"name": name}
        for key, value in changes.items():
            stage, _, constant = key.partition("__")
            section = stage in _SECTIONS
            owner = made.get(stage, getattr(self, stage)) if section else self
            known = [item.name for item in fields(owner) if item.name not in _SECTIONS]
            if (constant if section else key) not in known:
                message = f"profile constant {key!r} is unknown{_hint(constant or key, known)}"
                raise ProfileError(message, cure=f"choose one of {', '.join(known)}")
            made[stage if section else key] = replace(owner, **{constant: value}) if section else value
        return replace(self, **made)


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
