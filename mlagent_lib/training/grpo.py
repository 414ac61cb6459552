"""Step-wise GRPO: restore a state of the pool, take ONE action, execute it, update (paper section 4.2, Eq. 4).

Differs from the paper, and each difference is named in the notebook where it happens:

* GRPO (arXiv 2402.03300) for PPO: the mean of G actions from one state is the baseline, so no critic is trained. The
  paper allows it ("any RL algorithm applies").
* LoRA for full fine-tuning; the reference of the KL term is the SFT adapter.
* The checkpoint is chosen on states kept back for it; the paper takes the last.

Rows of the dataset are states, and TRL repeats each row G times in a batch, so a group never mixes states.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlagent_lib.agents.prompts import render
from mlagent_lib.agents.rollout import reward_of
from mlagent_lib.core.artifacts import append_jsonl, read_jsonl, write_json
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.profiles import GRPOProfile
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import Toolbox, run_steps
from mlagent_lib.environment.workspace import State
from mlagent_lib.training.backends import Backend, base_coder, generate_texts, load
from mlagent_lib.training.pool import StatePool

log = logging.getLogger("mlagent.grpo")


class StepReward:
    """The reward function that TRL calls: executes each sampled action ONCE from its restored state.

    A step that we failed to score gets the mean reward of its group: its advantage is then zero, so our failure
    never moves the policy, and it is counted.

    Args:
        pool: States by id.
        tools: Runner, coder and cache.
        form: Reward form.
        group_size: G, the actions a state.
    """

    __name__ = "step_reward"

    def __init__(self, pool: dict[str, State], tools: Toolbox, *, form: str, group_size: int):
        self.pool, self.tools, self.form, self.group_size = pool, tools, form, group_size
        self.seconds = 0.0
        self.last: dict = {}

    def __call__(self, prompts, completions, state_id, **kwargs) -> list[float]:
        """Return one reward for each completion, in order."""
        began = time.perf_counter()
        for start in range(0, len(state_id), self.group_size):
            if len(set(state_id[start : start + self.group_size])) != 1:
                raise RunError("a group mixes states", cure="make the batch a multiple of the group size")
        texts = [completion[0]["content"] for completion in completions]
        results = run_steps([(self.pool[key], text) for key, text in zip(state_id, texts, strict=True)], self.tools)
        rewards = [reward_of(result, self.tools.task(result.state.task), self.form) for result in results]
        filled, flat = fill_groups(rewards, self.group_size)
        self.seconds = time.perf_counter() - began
        self.last = step_statistics(results, rewards) | {
            "flat_groups": flat,
            "groups": len(rewards) // self.group_size,
            "advantage_std": _spread(filled, self.group_size),
            "seconds_execution": round(self.seconds, 4),
        }
        return filled


def fill_groups(rewards: Sequence[float | None], group_size: int) -> tuple[list[float], int]:
    """Return rewards with the unscored ones set to the mean of their group, and how many groups are flat.

    Args:
        rewards: One for each action; None where we failed. Length is a multiple of ``group_size``.
        group_size: Actions a state.

    Example:
        >>> fill_groups([1.0, 0.0, None, 0.5, 0.5, 0.5], 3)
        ([1.0, 0.0, 0.5, 0.5, 0.5, 0.5], 1)
    """
    filled, flat = [], 0
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size]
        scored = [reward for reward in group if reward is not None]
        mean = sum(scored) / len(scored) if scored else 0.0
        flat += len(set(scored)) <= 1
        filled += [mean if reward is None else reward for reward in group]
    return filled, flat


def _spread(rewards: Sequence[float], group_size: int) -> float:
    """Return the mean over groups of the standard deviation of rewards: what the advantages are scaled by."""
    spreads = []
    for start in range(0, len(rewards), group_size):
        group = rewards[start : start + group_size]
        mean = sum(group) / len(group)
        spreads.append(math.sqrt(sum((reward - mean) ** 2 for reward in group) / len(group)))
    return sum(spreads) / len(spreads)


def step_statistics(results: Sequence, rewards: Sequence[float | None]) -> dict:
    """Return the named statistics of a batch of steps: shares are of the scored steps, 0 to 1."""
    scored = [result for result in results if result.outcome is not Outcome.UNSCORED]
    found = {
        f"share_{case.value}": sum(result.outcome is case for result in scored) / max(len(scored), 1)
        for case in Outcome
        if case is not Outcome.UNSCORED
    }
    known = [reward for reward in rewards if reward is not None]
    executed = [result for result in scored if result.executed]
    return found | {
        "reward": sum(known) / max(len(known), 1),
        "validity": 1.0 - found["share_invalid"],
        "steps": len(results),
        "unscored": len(results) - len(scored),
        "executions": len(executed),
        "cache_hits": sum(result.cache_hit for result in executed),
    }


@dataclass(frozen=True)
class StepEvaluation:
    """What a policy does in one step from given states, without learning from it."""

    statistics: dict
    rows: list[dict]


def evaluate_steps(
    generate: Callable[[list[list[dict]], int], list[str]], states: Sequence[State], tools: Toolbox, *,
    style: str, max_steps: int, form: str, seed: int, samples: int = 1,
) -> StepEvaluation:
    """Return statistics of single steps from states, ``samples`` replies each.

    Args:
        generate: Takes conversations and a seed, returns replies.
        states: Where to start from.
        tools: Runner, coder and cache.
        style: Prompt style.
        max_steps: Length of a trajectory, as the prompt tells it.
        form: Reward form.
        seed: Of the sampling.
        samples: Replies a state.
    """
    repeated = [state for state in states for _ in range(samples)]
    prompts = [render(state, tools.task(state.task), style=style, max_steps=max_steps) for state in repeated]
    replies = generate(prompts, seed)
    results = run_steps(list(zip(repeated, replies, strict=True)), tools)
    rewards = [reward_of(result, tools.task(state.task), form) for state, result in zip(repeated, results, strict=True)]
    rows = [
        {"task": state.task, "state_id": state.id, "outcome": result.outcome.value, "reward": reward, "reply": reply}
        for state, result, reward, reply in zip(repeated, results, rewards, replies, strict=True)
    ]
    return StepEvaluation(step_statistics(results, rewards), rows)


def sampler(backend: Backend, *, temperature: float, max_new_tokens: int) -> Callable[[list[list[dict]], int], list[str]]:
    """Return the function that samples replies from a loaded model, for `LocalPolicy` and `evaluate_steps`."""

    def generate(conversations: list[list[dict]], seed: int) -> list[str]:
        return generate_texts(
            backend.model, backend.tokenizer, conversations, temperature=temperature, max_new_tokens=max_new_tokens,
            seed=seed,
        )

    return generate


def train_grpo(
    pool: StatePool, select: Sequence[State], profile: GRPOProfile, *, make_tools: Callable[[object], Toolbox],
    model: str, backend: str, adapter: Path, out: Path, seed: int, style: str, max_steps: int,
    coder: str = "base", progress: Callable[[dict], None] | None = None,
) -> dict:
    """Train the policy with step-wise GRPO, save the chosen adapter under ``out/adapter``, return a summary.

    Interrupted training goes on from the last checkpoint of ``out/checkpoints``.

    Args:
        pool: States to act from.
        select: States kept back to choose the checkpoint on; never trained on.
        profile: Settings.
        make_tools: Takes the coder and returns the toolbox.
        model: Name of the base model.
        backend: Name of the backend.
        adapter: The SFT adapter to start from; also the reference of the KL term.
        out: Folder of the stage; ``metrics.jsonl`` is written here.
        seed: Root of the streams.
        style: Prompt style.
        max_steps: Length of a trajectory, as the prompt tells it.
        coder: ``base`` for the model's own base weights, ``rules`` for the catalogue.
        progress: Called with each row of metrics.
    """
    loaded = load(model, backend=backend, adapter=adapter, trainable=True)
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    tools = make_tools(base_coder(loaded) if coder == "base" else None)
    reward = StepReward(pool.by_id(), tools, form=profile.reward_form, group_size=profile.group_size)
    on_gpu = loaded.device == "cuda"
    batch = profile.states_per_step * profile.group_size
    config = GRPOConfig(
        output_dir=str(out / "checkpoints"),
        max_steps=profile.steps,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,
        num_generations=profile.group_size,
        num_iterations=profile.num_iterations,
        max_completion_length=profile.max_new_tokens,
        learning_rate=profile.lr,
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=3,
        optim="adamw_torch",
        weight_decay=0.0,
        max_grad_norm=1.0,
        beta=profile.beta,
        epsilon=profile.epsilon,
        epsilon_high=profile.epsilon,
        loss_type="grpo",
        scale_rewards="group",
        importance_sampling_level="token",
        mask_truncated_completions=False,
        temperature=profile.temperature,
        top_p=1.0,
        top_k=0,
        use_vllm=False,
        gradient_checkpointing=False,
        use_cpu=not on_gpu,
        bf16=on_gpu,
        fp16=False,
        logging_steps=1,
        save_strategy="steps",
        save_steps=profile.eval_every,
        save_total_limit=2,
        report_to="none",
        seed=derive_seed(seed, "grpo"),
        shuffle_dataset=True,
        disable_tqdm=True,
    )

    class Trainer(GRPOTrainer):
        """GRPOTrainer with a clock around generation and scoring; the algorithm is TRL's."""

        seconds_rollout = 0.0

        def _generate_and_score_completions(self, inputs):
            began = time.perf_counter()
            outputs = super()._generate_and_score_completions(inputs)
            self.seconds_rollout = time.perf_counter() - began
            return outputs

    metrics = out / "metrics.jsonl"
    generate = sampler(loaded, temperature=profile.temperature, max_new_tokens=profile.max_new_tokens)

    def holdout(step: int) -> dict:
        found = evaluate_steps(
            generate, select, tools, style=style, max_steps=max_steps, form=profile.reward_form,
            seed=derive_seed(seed, "grpo-select", step),
        ).statistics
        return {"split": "holdout", "step": step, **{name: found[name] for name in ("reward", "validity", "unscored")}}

    class Log(TrainerCallback):
        """Write one row a step, and one for the states kept back every few steps; keep the best adapter."""

        def on_step_begin(self, args, state, control, **kwargs):
            self.began = time.perf_counter()
            if state.global_step == 0 and not _has(metrics, "holdout", 0):
                self._write(holdout(0))
                self.began = time.perf_counter()

        def on_step_end(self, args, state, control, **kwargs):
            self.seconds = time.perf_counter() - self.began

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                self._write(_train_row(logs, state.global_step, reward, trainer.seconds_rollout, self.seconds))

        def on_save(self, args, state, control, **kwargs):
            row = holdout(state.global_step)
            self._write(row)
            best = _best_row(metrics)
            if best["step"] == state.global_step:
                _save_adapter(trainer.model, out / "best")
                write_json(out / "best.json", best)

        def _write(self, row: dict) -> None:
            append_jsonl(metrics, row)
            if progress:
                progress(row)

    rows = [
        {
            "prompt": render(state, tools.task(state.task), style=style, max_steps=max_steps),
            "state_id": state.id,
            "task": state.task,
        }
        for state in pool.states
    ]
    trainer = Trainer(
        model=loaded.model, args=config, processing_class=loaded.tokenizer, reward_funcs=reward,
        train_dataset=Dataset.from_list(rows), callbacks=[Log()],
    )
    resumed = _last_checkpoint(out)
    _forget_after(metrics, resumed[0] if resumed else -1)
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=resumed[1] if resumed else None)
    return _finish(trainer.model, out, adapter, metrics, time.perf_counter() - began)


def _finish(model, out: Path, adapter: Path, metrics: Path, seconds: float) -> dict:
    """Put the chosen adapter in place. When no checkpoint beats the start, the SFT adapter stays, and says so."""
    best = _best_row(metrics)
    chosen = out / "best" if best["step"] > 0 else adapter
    shutil.rmtree(out / "adapter", ignore_errors=True)
    shutil.copytree(chosen, out / "adapter")
    _save_adapter(model, out / "last")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    rows = [row for row in read_jsonl(metrics)[0] if row.get("split") == "train"]
    return {
        "chosen_step": best["step"],
        "chosen_holdout_reward": best["reward"],
        "steps": rows[-1]["step"] if rows else 0,
        "unscored": sum(row["unscored"] for row in rows),
        "seconds": round(seconds, 2),
    }


def _train_row(logs: dict, step: int, reward: StepReward, rollout: float, total: float) -> dict:
    """Return one row of metrics.jsonl; the names are explained in the glossary of the report."""
    generation = max(rollout - reward.seconds, 0.0)
    row = {
        "split": "train",
        "step": step,
        **reward.last,
        "reward_std": float(logs["reward_std"]),
        "kl": float(logs.get("kl", 0.0)),
        "entropy": float(logs.get("entropy", 0.0)),
        "loss": float(logs["loss"]),
        "grad_norm": float(logs.get("grad_norm", 0.0)),
        "lr": float(logs["learning_rate"]),
        "completion_tokens": float(logs.get("completions/mean_length", 0.0)),
        "clipped_share": float(logs.get("completions/clipped_ratio", 0.0)),
        "seconds_generation": round(generation, 4),
        "seconds_update": round(max(total - rollout, 0.0), 4),
        "seconds_total": round(total, 4),
    }
    return row


def _best_row(metrics: Path) -> dict:
    """Return the row of the best checkpoint: highest reward on the states kept back. Ties go to the earlier."""
    rows = [row for row in read_jsonl(metrics)[0] if row.get("split") == "holdout"]
    return max(rows, key=lambda row: (row["reward"], -row["step"]))


def _has(metrics: Path, split: str, step: int) -> bool:
    rows = read_jsonl(metrics)[0] if metrics.exists() else []
    return any(row.get("split") == split and row["step"] == step for row in rows)


def _save_adapter(model, folder: Path) -> None:
    """Save the trained adapter only, not the reference copy that TRL keeps beside it."""
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder, selected_adapters=["default"])


def _last_checkpoint(out: Path) -> tuple[int, str] | None:
    """Return step and folder of the newest complete checkpoint, or None."""
    found = []
    for folder in (out / "checkpoints").glob("checkpoint-*"):
        try:
            step = json.loads((folder / "trainer_state.json").read_text())["global_step"]
        except (OSError, ValueError, KeyError):  # cut off while it was written
            shutil.rmtree(folder, ignore_errors=True)
            continue
        found.append((step, str(folder)))
    return max(found, default=None)


def _forget_after(metrics: Path, step: int) -> None:
    """Drop the rows of steps that will be made again, so that no step is counted twice."""
    rows = read_jsonl(metrics)[0] if metrics.exists() else []
    metrics.unlink(missing_ok=True)
    for row in rows:
        if row["step"] <= step:
            append_jsonl(metrics, row)
