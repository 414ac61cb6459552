"""Small pieces around the pocket model for the tests of training: an adapter, and scripted replies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tiny_task import rl_profile

from mlagent_lib.core.profiles import GRPOProfile
from mlagent_lib.training.grpo import fresh_adapter, train_grpo
from mlagent_lib.training.pool import StatePool

RANK, ALPHA = 4, 8


def write_adapter(folder: Path, *, moved: float = 0.0, seed: int = 0) -> Path:
    """Write an adapter of the pocket model and return its folder; ``moved`` says how much it changes."""
    import torch
    from safetensors.torch import load_file, save_file

    fresh_adapter("pocket", backend="plain", r=RANK, alpha=ALPHA, out=folder, seed=seed)
    if moved:
        path, stream = folder / "adapter_model.safetensors", torch.Generator().manual_seed(0)
        weights = load_file(path)
        for name in [name for name in weights if "lora_B" in name]:
            weights[name] = moved * torch.randn(weights[name].shape, generator=stream)
        save_file(weights, path, metadata={"format": "pt"})
    return folder


def spoken(monkeypatch, module, name: str, replies: Callable[[int], list[str]]) -> list[list]:
    """Let scripted replies take the place of sampled ones; return the list of states they were given in.

    Args:
        monkeypatch: Of pytest.
        module: Which calls ``run_steps`` or ``PendingSteps``.
        name: Which of the two.
        replies: Returns the replies of the n-th call, n from 0.
    """
    real, seen = getattr(module, name), []

    def act(rows, tools):
        states, said = [state for state, _ in rows], replies(len(seen))
        seen.append(states)
        return real(list(zip(states, said, strict=True)), tools)

    monkeypatch.setattr(module, name, act)
    return seen


def train_pocket(states, tools, adapter: Path, out: Path, *, max_steps: int = 6, options=None, **changes):
    """Train on the tiny task for a few updates on the CPU; replies are eight tokens long."""
    values = {
        "steps": 2, "states_per_step": 1, "group_size": 2, "lr": 1e-3, "beta": 0.001, "max_new_tokens": 8,
        "eval_every": 2, "eval_samples": 1, "reward_form": "v2", "checkpointing": False,
        "micro_batch": 0,
    }  # fmt: skip
    profile = rl_profile(grpo=GRPOProfile(**(values | changes)), max_steps=max_steps)
    return train_grpo(
        profile, StatePool(tuple(states)), states[:1], make_tools=lambda coder: tools, adapter=adapter,
        out=out, seed=0, **(options or {}),
    )  # fmt: skip
