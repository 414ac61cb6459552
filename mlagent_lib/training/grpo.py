"""Step-wise GRPO: restore a state, take ONE action, execute it, update (paper section 4.2, Eq. 4).

Differs from the paper, and each difference is named in the notebook where it happens:

* GRPO (arXiv 2402.03300) for PPO: the mean of G actions from one state is the baseline, so no critic is
  trained. The paper allows it ("any RL algorithm applies").
* LoRA for full fine-tuning; the reference of the KL term is the SFT adapter.
* The checkpoint is chosen by short trajectories, or on states kept back for it; the paper takes the last.

Rows of the dataset are states, and TRL repeats each row G times in a batch, so a group never mixes states.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.arms import Arm, get_arm
from mlagent_lib.core.artifacts import damaged_file, hashes_below
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import append_jsonl, read_jsonl, write_json
from mlagent_lib.core.profiles import GRPOProfile, Loading, Profile
from mlagent_lib.core.seeding import derive_seed
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.environment.workspace import State
from mlagent_lib.training.backends import Backend, base_coder, load, save_adapter
from mlagent_lib.training.checkpoints import Keeper, forget_after, last_checkpoint
from mlagent_lib.training.episodes import EpisodeReward
from mlagent_lib.training.memory import VLLM_SHARE
from mlagent_lib.training.pool import Focus, OnPolicyStates, StatePool
from mlagent_lib.training.processes import from_main, is_main, over_processes, plan_batch, world_size
from mlagent_lib.training.scoring import (
    BatchReward,
    ShortTrajectories,
    StepReward,
    bounded_gap,
    evaluate_steps,
)
from mlagent_lib.training.trainer import StepTrainer
from mlagent_lib.training.trl_settings import (
    check_held,
    common_settings,
    make_config,
    make_trainer,
    prepare_trainer,
)

log = logging.getLogger("mlagent.grpo")

MAX_OVERFLOWS = 10  # ours: updates in a row that float16 may skip; its scaler halves its factor each time
MEMORY = "memory.json"  # in a checkpoint: what is left to gain in which task, and where the policy has been
LONGEST = 100_000  # updates: where time ends a training, their number does not
# Of TRL's settings those that a profile has under the same name, and those that all profiles share.
SAME = ("num_iterations", "beta", "epsilon", "epsilon_high", "scale_rewards", "entropy_coef", "temperature")
FIXED = {
    "warmup_steps": 3,
    "weight_decay": 0.0,
    "save_strategy": "steps",
    "shuffle_dataset": True,
    "loss_type": "grpo",
    "importance_sampling_level": "token",
    "mask_truncated_completions": False,
    "top_p": 1.0,
    "top_k": 0,
}


def train_grpo(
    profile: Profile,
    pool: StatePool,
    select: Sequence[State],
    *,
    make_tools: Callable[[object], Toolbox],
    adapter: Path,
    out: Path,
    seed: int,
    arm: Arm | None = None,
    charged_limit: float = math.inf,
    progress: Callable[[dict], None] | None = None,
) -> dict:
    """Train the policy with step-wise GRPO, save the chosen adapter under ``out/adapter``, return a summary.

    Interrupted training goes on from the last checkpoint of ``out/checkpoints``. Under `accelerate launch`
    each process acts from its share of the states; the main one writes.

    Time is *charged*: processor seconds of this process, and the recorded duration of every script, also of
    those that the cache knew. So arms compare at equal time whatever else the machine does.

    Args:
        select: States kept back for the curve and the choice of the checkpoint; never trained on.
        make_tools: Takes the base model's coder where the profile has it, else None; returns the toolbox.
        adapter: The SFT adapter to start from; also the reference of the KL term.
        arm: Its method counts; the full method where None. ``episode-wise`` trains on whole trajectories
            from the starters of the pool's tasks: a step then takes ``states_per_step`` tasks and
            ``group_size`` trajectories of each.
        charged_limit: Training ends after the step that reaches this many charged seconds, in place of a
            number of updates.
        progress: Called with each row of metrics.

    Raises:
        RunError: The pool is too small for one step, a setting was dropped by the trainer, or the loss or its
            gradient is no number.
        ProfileError: The batch cannot be shared by the processes in whole groups.
        Unscored: Not one action of a step could be scored.
    """
    arm, grpo, prompter = arm or get_arm("full"), profile.grpo, Prompter.of(profile)
    episodes = arm.method == "episode-wise"
    known = pool.states
    if episodes:
        pool = _starters(pool)
    if len(pool) < grpo.states_per_step:
        raise RunError(
            f"the pool holds {len(pool)} states, but a step takes {grpo.states_per_step}",
            cure="collect more trajectories, or give a smaller states_per_step",
        )
    # first: Unsloth patches trl
    loaded = load(profile.model, backend=profile.loading, adapter=adapter, trainable=True)
    coder = base_coder(loaded, style=profile.prompt_style) if profile.coder == "base" else None
    tools = make_tools(coder)
    generate = loaded.sampler(temperature=grpo.temperature, max_new_tokens=grpo.max_new_tokens)

    def row_of(state: State) -> dict:
        prompt = prompter.messages(state, tools.task(state.task))
        return {"prompt": prompt, "state_id": state.id, "task": state.task}

    shape = {"form": grpo.reward_form, "group_size": grpo.group_size, "scale": grpo.scale_rewards}
    if episodes:
        reward = EpisodeReward(pool.by_id(), tools, prompter, **shape)
    else:
        reward = StepReward(pool.by_id(), tools, **shape)
        reward.variety, reward.best_of = grpo.variety, grpo.best_of
    done, checkpoint = last_checkpoint(out) or (-1, None)
    if not episodes:
        _remember(reward, grpo, pool, row_of, prompter, seed, checkpoint)
    short = ShortTrajectories.of(known, select, grpo, seed)

    def measure(step: int) -> dict:
        stream = derive_seed(seed, "grpo-select", step)
        form, samples = grpo.reward_form, grpo.eval_samples
        found, _ = evaluate_steps(generate, select, tools, prompter, form=form, seed=stream, samples=samples)
        told = {name: found[name] for name in ("reward", "validity", "unscored")}
        return told | (short.measure(generate, tools, prompter, stream) if short.starts else {})

    forget_after(out / "metrics.jsonl", done // grpo.num_iterations)
    from transformers import TrainerCallback

    class Log(Recorder, TrainerCallback):
        """The recorder, told by Transformers' trainer what happens."""

    recorder = Log(out, reward, measure, progress, charged_limit, grpo.num_iterations)
    timed = replace(grpo, steps=LONGEST) if math.isfinite(charged_limit) else grpo
    rows_per_action = prompter.max_steps if episodes else 1
    wanted = grpo_settings(loaded, timed, out=out, seed=seed, rows_per_action=rows_per_action)
    trainer = _trainer(loaded, wanted, recorder, [row_of(state) for state in pool.states], max(done, 0))
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - began
    return from_main(_finish(trainer.model, out, adapter, recorder.metrics, seconds) if is_main() else None)


def _remember(
    reward: StepReward, grpo: GRPOProfile, pool: StatePool, row_of: Callable[[State], dict],
    prompter: Prompter, seed: int, checkpoint: str | None,
) -> None:  # fmt: skip
    """Let groups start where most is left to gain or where the policy has been, as a checkpoint knows it."""
    stream = derive_seed(seed, "focus", os.environ.get("RANK", "0"))  # processes draw states of their own
    shared = {"group_size": grpo.group_size, "row_of": row_of, "seed": stream}
    if grpo.focus:
        reward.focus = Focus(pool.states, grpo.focus, by=grpo.focus_by, **shared)
    if grpo.onpolicy_share:
        reward.visited = OnPolicyStates(
            grpo.onpolicy_share, max_steps=prompter.max_steps,
            gap_of=lambda state: bounded_gap(state, reward.tools.task(state.task)), **shared,
        )  # fmt: skip
    if checkpoint:
        reward.go_on(json.loads((Path(checkpoint) / MEMORY).read_text(encoding="utf-8")))


def _starters(pool: StatePool) -> StatePool:
    """Return the first states of the pool's tasks, of which it must hold one each."""
    first = {state.task: state for state in pool.states if state.step == 0}
    if missing := sorted({state.task for state in pool.states} - set(first)):
        raise RunError(
            f"the pool holds no first state of task {missing[0]!r}, where its trajectories would start",
            cure="collect more trajectories, or give a larger pool_size",
        )
    return StatePool(tuple(first[task] for task in sorted(first)))


def fresh_adapter(model: str, *, backend: str | Loading, r: int, alpha: int, out: Path, seed: int) -> None:
    """Write a LoRA adapter that changes nothing yet (its B is zero): where RL from the base model starts."""
    loaded = load(model, backend=backend)
    loaded.attach_lora(r, alpha, seed=derive_seed(seed, "fresh-adapter"))
    loaded.save(out)


def grpo_settings(
    loaded: Backend, profile: GRPOProfile, *, out: Path, seed: int, rows_per_action: int = 1
) -> dict:
    """Return the settings of TRL's GRPO trainer, by name: none that matters is left to a default.

    Args:
        rows_per_action: Rows of a batch for each of the G samples of a state: 1, or the length of an episode.
    """
    group = profile.group_size * rows_per_action
    rows = profile.states_per_step * group
    plan = plan_batch(rows, micro=profile.micro_batch, group=group, world=world_size())
    found = common_settings(loaded, profile, plan, out=out, seed=derive_seed(seed, "grpo"))
    found |= FIXED | {name: getattr(profile, name) for name in SAME}
    found |= _vllm_settings(profile.vllm, loaded.loading.window)
    return found | {
        "max_steps": profile.steps * profile.num_iterations,
        "steps_per_generation": plan.accumulation,  # all actions of a step come from one policy
        "num_generations": group,
        "max_completion_length": profile.max_new_tokens,
        "lr_scheduler_type": profile.lr_schedule,
        "logging_steps": profile.num_iterations,  # a row for each batch of actions, whatever its passes
        "save_steps": profile.eval_every * profile.num_iterations,
    }


def _vllm_settings(vllm: str, window: int) -> dict:
    """Return the settings of the rollouts: by the model itself, an engine on the same card, or a server.

    An engine samples with other kernels than those that update: the difference is corrected by importance
    weights, as TRL does by default.
    """
    if vllm == "no":
        return {"use_vllm": False}
    own = {"vllm_gpu_memory_utilization": VLLM_SHARE, "vllm_max_model_length": window or None}
    place = own if vllm == "colocate" else {"vllm_server_base_url": vllm}
    mode = "colocate" if vllm == "colocate" else "server"
    return {"use_vllm": True, "vllm_importance_sampling_correction": True, "vllm_mode": mode} | place


class Recorder(Keeper):
    """What is written while training: a row a step, and one for the states kept back every few steps."""

    def __init__(
        self,
        out: Path,
        reward: BatchReward,
        measure: Callable[[int], dict],
        progress: Callable[[dict], None] | None,
        charged_limit: float,
        passes: int = 1,
    ):
        super().__init__()
        self.passes = passes  # the optimizer's steps on each batch of actions: ours are batches
        self.out, self.metrics, self.reward = out, out / "metrics.jsonl", reward
        self._measure, self._progress, self._limit = measure, progress, charged_limit
        self._began = self._seconds = self.rollout_seconds = self._processor = 0.0
        self.float16, self._overflows = False, 0
        self.charged = charged_seconds(self.metrics)

    @property
    def is_time_up(self) -> bool:
        """Return whether the charged seconds have reached their limit."""
        return self.charged >= self._limit

    def on_train_begin(self, args, state, control, model=None, **kwargs) -> None:
        """Measure the start, or what a kill left out."""
        self._reached(args, state, model)

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        """Start the clocks where a batch of actions begins."""
        if state.global_step % self.passes == 0:
            self._began, self._processor = time.perf_counter(), time.process_time()
            self.reward.seconds = self.rollout_seconds = 0.0

    def on_step_end(self, args, state, control, **kwargs) -> None:
        """Stop the clocks after the last pass over a batch, before anything is logged or saved."""
        import torch

        if torch.cuda.is_available():  # calls return before a card has done what it was given
            torch.cuda.synchronize()
        if is_last_pass := state.global_step % self.passes == 0:
            self._seconds = time.perf_counter() - self._began
            self._processor = time.process_time() - self._processor
            self.charged += self._processor + self.reward.last["seconds_scripts"]
        done, due = from_main((self.is_time_up, self.is_due))
        control.should_training_stop |= done
        control.should_save |= done or (due and is_last_pass)

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        """Write the row of a step from TRL's logs; its names are explained in the glossary of the report."""
        if "loss" not in logs:
            return
        step = state.global_step // self.passes
        self._check_finite(logs, step)
        found, rollout, total = over_processes(self.reward.last), self.rollout_seconds, self._seconds
        row = {
            "split": "train",
            "step": step,
            **found,
            "reward_std": float(logs["reward_std"]),
            "kl": float(logs.get("kl", 0.0)),
            "entropy": float(logs.get("entropy", 0.0)),
            "loss": float(logs["loss"]),
            **_gradient(float(logs.get("grad_norm", 0.0))),
            "lr": float(logs["learning_rate"]),
            "completion_tokens": float(logs.get("completions/mean_length", 0.0)),
            "clipped_share": float(logs.get("completions/clipped_ratio", 0.0)),
            "seconds_generation": round(max(rollout - self.reward.seconds, 0.0), 4),
            "seconds_update": round(max(total - rollout, 0.0), 4),
            "seconds_total": round(total, 4),
            "seconds_charged": round(self._processor + found["seconds_scripts"], 4),
        }
        self._write(row)

    def _check_finite(self, logs: dict, step: int) -> None:
        """Raise where an update was no number; float16 may overflow now and then, and skips that update."""
        loss, gradient = float(logs["loss"]), float(logs.get("grad_norm", 0.0))
        self._overflows = 0 if math.isfinite(gradient) else self._overflows + 1
        if not math.isfinite(loss) or self._overflows > (MAX_OVERFLOWS if self.float16 else 0):
            raise RunError(
                f"step {step} has loss {loss} and gradient norm {gradient}: training cannot go on",
                cure="take a smaller grpo.lr, or a card with bfloat16; then delete the stage and run again",
            )

    def remember(self, checkpoint: Path) -> None:
        """Put into a checkpoint what the reward function remembers."""
        write_json(checkpoint / MEMORY, self.reward.to_json())

    def on_save(self, args, state, control, model=None, **kwargs) -> None:
        """Seal a checkpoint, and measure the states kept back at it."""
        super().on_save(args, state, control)
        self._reached(args, state, model)

    def _reached(self, args, state, model) -> None:
        """Measure where the curve has a point; time asks for checkpoints elsewhere, too."""
        is_last = state.global_step >= state.max_steps or self.is_time_up
        if is_last or state.global_step % args.save_steps == 0:
            self.kept_back(state.global_step // self.passes, model)
        self._saved = time.monotonic()  # measuring takes a while

    def kept_back(self, step: int, model) -> None:
        """Write the row for the states kept back, once a step, and keep the adapter when it is the best."""
        if not is_main():
            return
        known = read_jsonl(self.metrics, missing_ok=True)[0]
        if not any(row.get("split") == "holdout" and row["step"] == step for row in known):
            found = self._measure(step)
            row = {"split": "holdout", "step": step, "charged": round(self.charged, 3)}
            self._write(row | found)
        best = _best_row(self.metrics)
        if best["step"] == step:
            _save_adapter(model, self.out / "best")
            write_json(self.out / "best.json", best | {"files": hashes_below(self.out / "best")})

    def _write(self, row: dict) -> None:
        if is_main():
            append_jsonl(self.metrics, row)
            if self._progress:
                self._progress(row)


def charged_seconds(metrics: Path) -> float:
    """Return the charged seconds of a training until now: processor time and recorded scripts."""
    rows = read_jsonl(metrics, missing_ok=True)[0]
    return sum(row["seconds_charged"] for row in rows if row.get("split") == "train")


def _trainer(loaded: Backend, wanted: dict, recorder: Recorder, rows: list[dict], done: int):
    """Return TRL's trainer with what `StepTrainer` adds; the algorithm is TRL's.

    Args:
        done: Steps that were made before.
    """
    from trl import GRPOConfig, GRPOTrainer

    config, reward = make_config(GRPOConfig, wanted), recorder.reward
    recorder.float16 = config.fp16
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # TRL calls its `rollout_func` experimental

    class Trainer(StepTrainer, GRPOTrainer):
        # Unsloth has kernels of its own for this, and checkpointing keeps no cache to share
        shares_prompts = loaded.name == "plain" and not config.gradient_checkpointing
        rows_at_once = loaded.loading.generation_rows
        overlaps = loaded.device == "cpu" and not config.use_vllm
        steps_done = done

    Trainer.recorder = recorder
    held = {"reward_funcs": [reward], "rollout_func": getattr(reward, "rollout", None)}
    trainer = make_trainer(Trainer, loaded, config, rows, recorder, **held)
    check_held(trainer, held, "the GRPO trainer")
    if config.beta:
        _keep_reference(trainer.model)
    prepare_trainer(trainer, wanted, "the GRPO trainer")
    return trainer


def _keep_reference(model) -> None:
    """See to it that the reference of the KL term is the adapter that training starts from.

    TRL copies it under the name ``ref``; Unsloth takes that copy out, and the base weights would be the
    reference. What computes the reference looks for the name, whoever gave it.
    """
    if "ref" not in model.peft_config:
        model.add_adapter("ref", model.peft_config["default"])
        model.set_adapter("default")
    weights = dict(model.named_parameters())
    for name, weight in weights.items():
        if ".default." in name:
            copy = weights[name.replace(".default.", ".ref.")]
            copy.data = weight.data.detach().clone().to(copy.dtype)
            copy.requires_grad_(False)


def _finish(model, out: Path, adapter: Path, metrics: Path, seconds: float) -> dict:
    """Put the chosen adapter in place: the SFT adapter (step 0) when no checkpoint beats the start."""
    best = _best_row(metrics)
    chosen = out / "best" if best["step"] > 0 else adapter
    saved = json.loads((out / "best.json").read_text())["files"] if best["step"] > 0 else {}
    if lost := damaged_file(chosen, saved):
        cure = f"delete {out} and run again: the training is made anew"
        raise RunError(f"the best checkpoint is damaged: {chosen / lost} is not what was saved", cure=cure)
    shutil.rmtree(out / "adapter", ignore_errors=True)
    shutil.copytree(chosen, out / "adapter")
    _save_adapter(model, out / "last")
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    rows = [row for row in read_jsonl(metrics)[0] if row.get("split") == "train"]
    found = {"chosen_step": best["step"], "chosen_holdout_reward": best["reward"]}
    found |= {"chosen_gap": best["gap"]} if "gap" in best else {}
    steps, unscored = rows[-1]["step"] if rows else 0, sum(row["unscored"] for row in rows)
    return found | {"steps": steps, "unscored": unscored, "seconds": round(seconds, 2)}


def _gradient(norm: float) -> dict:
    """Return the norm of the gradient, or that it overflowed, in which case the update was skipped."""
    return {"grad_norm": norm} if math.isfinite(norm) else {"skipped_update": 1}


def _best_row(metrics: Path) -> dict:
    """Return the row of the best checkpoint, the earlier in a tie.

    That is the most of the gap closed by short trajectories, or where none were made the highest reward on
    the states kept back.
    """
    rows = [row for row in read_jsonl(metrics)[0] if row.get("split") == "holdout"]
    return max(rows, key=lambda row: (row.get("gap", row["reward"]), -row["step"]))


def _save_adapter(model, folder: Path) -> None:
    """Save the trained adapter in the place of an older one."""
    shutil.rmtree(folder, ignore_errors=True)
    save_adapter(model, folder)
