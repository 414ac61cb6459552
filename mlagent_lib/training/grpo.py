"""Step-wise GRPO: restore a state, take ONE action, execute it, update (paper section 4.2, Eq. 4).

Differs from the paper, and each difference is named in the notebook where it happens:

* GRPO (arXiv 2402.03300) for PPO: the mean of G actions from one state is the baseline, so no critic is
  trained. The paper allows it ("any RL algorithm applies").
* LoRA for full fine-tuning; the reference of the KL term is the SFT adapter.
* The checkpoint is chosen on states kept back for it; the paper takes the last.

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
from pathlib import Path

from mlagent_lib.agents.prompts import render
from mlagent_lib.core.artifacts import (
    append_jsonl,
    damaged_file,
    hashes_below,
    read_jsonl,
    write_json,
    write_text,
)
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.profiles import GRPOProfile
from mlagent_lib.core.seeding import derive_seed, rng
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.environment.workspace import State
from mlagent_lib.training.backends import Backend, base_coder, load, lora_config
from mlagent_lib.training.episodes import EpisodeReward
from mlagent_lib.training.onpolicy import OnPolicyStates
from mlagent_lib.training.pool import StatePool
from mlagent_lib.training.scoring import StepReward, evaluate_steps, sampler

log = logging.getLogger("mlagent.grpo")


def train_grpo(
    pool: StatePool,
    select: Sequence[State],
    profile: GRPOProfile,
    *,
    make_tools: Callable[[object], Toolbox],
    model: str,
    backend: str,
    adapter: Path,
    out: Path,
    seed: int,
    style: str,
    max_steps: int,
    coder: str = "base",
    progress: Callable[[dict], None] | None = None,
    episodes: bool = False,
    on_policy: float = 0.0,
    charged_limit: float = math.inf,
) -> dict:
    """Train the policy with step-wise GRPO, save the chosen adapter under ``out/adapter``, return a summary.

    Interrupted training goes on from the last checkpoint of ``out/checkpoints``.

    Time is *charged*: processor seconds of this process, and the recorded duration of every script, also of
    those that the cache knew. So arms compare at equal time whatever else the machine does.

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
        episodes: Train on whole trajectories from the starters of the pool's tasks: the paper's baseline. A
            step then takes ``states_per_step`` tasks and ``group_size`` trajectories of each.
        on_policy: Share of groups that start where the policy has been, 0 to 1 (see `OnPolicyStates`). Such a
            training starts anew after an interruption: what the policy has visited is not kept.
        charged_limit: Training ends after the step that reaches this many charged seconds.

    Raises:
        RunError: The pool is too small for one step.
        Unscored: Not one action of a step could be scored.
    """
    if episodes:
        pool = _starters(pool)
    if len(pool) < profile.states_per_step:
        raise RunError(
            f"the pool holds {len(pool)} states, but a step takes {profile.states_per_step}",
            cure="collect more trajectories, or give a smaller states_per_step",
        )
    loaded = load(model, backend=backend, adapter=adapter, trainable=True)  # first: Unsloth patches trl
    tools = make_tools(base_coder(loaded) if coder == "base" else None)
    if episodes:
        reward = EpisodeReward(
            pool.by_id(), tools, form=profile.reward_form, group_size=profile.group_size,
            max_steps=max_steps, style=style,
        )  # fmt: skip
    else:
        reward = StepReward(pool.by_id(), tools, form=profile.reward_form, group_size=profile.group_size)
    generate = sampler(loaded, temperature=profile.temperature, max_new_tokens=profile.max_new_tokens)

    def measure(step: int) -> dict:
        return evaluate_steps(
            generate, select, tools, style=style, max_steps=max_steps, form=profile.reward_form,
            seed=derive_seed(seed, "grpo-select", step), samples=profile.eval_samples,
        ).statistics  # fmt: skip

    if on_policy:
        shutil.rmtree(out / "checkpoints", ignore_errors=True)
    step, checkpoint = _last_checkpoint(out) or (0, None)
    _forget_after(out / "metrics.jsonl", step if checkpoint else -1)
    recorder = _Recorder(out, reward, measure, progress or (lambda row: None), charged_limit)

    def row_of(state: State) -> dict:
        prompt = render(state, tools.task(state.task), style=style, max_steps=max_steps)
        return {"prompt": prompt, "state_id": state.id, "task": state.task}

    if on_policy:
        reward.visited = OnPolicyStates(
            on_policy, group_size=profile.group_size, max_steps=max_steps, row_of=row_of,
            stream=rng(seed, "on-policy"),
        )  # fmt: skip
    rows = [row_of(state) for state in pool.states]
    config = _config(
        profile, out, seed, on_gpu=loaded.device == "cuda", rows_per_action=max_steps if episodes else 1
    )
    trainer = _trainer(loaded, config, recorder, rows, step)
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    return _finish(trainer.model, out, adapter, recorder.metrics, time.perf_counter() - began)


def _starters(pool: StatePool) -> StatePool:
    """Return the first states of the pool's tasks.

    Raises:
        RunError: The pool does not hold one of each.
    """
    first = {state.task: state for state in pool.states if state.step == 0}
    if missing := sorted({state.task for state in pool.states} - set(first)):
        raise RunError(
            f"the pool holds no first state of task {missing[0]!r}, where its trajectories would start",
            cure="collect more trajectories, or give a larger pool_size",
        )
    return StatePool(tuple(first[task] for task in sorted(first)))


def fresh_adapter(model: str, *, backend: str, r: int, alpha: int, out: Path, seed: int) -> None:
    """Write a LoRA adapter that changes nothing yet (its B is zero): where RL from the base model starts.

    Args:
        model: Name of the base model.
        backend: Name of the backend.
        r: Rank.
        alpha: Scale.
        out: Folder to write.
        seed: Root of its stream.
    """
    from peft import get_peft_model
    from transformers import set_seed

    loaded = load(model, backend=backend)
    set_seed(derive_seed(seed, "fresh-adapter"))
    get_peft_model(loaded.model, lora_config(r, alpha)).save_pretrained(out)


def _config(profile: GRPOProfile, out: Path, seed: int, *, on_gpu: bool, rows_per_action: int = 1):
    """Return TRL's settings: the profile's numbers, and every default that matters, by name."""
    from trl import GRPOConfig

    return GRPOConfig(
        output_dir=str(out / "checkpoints"),
        max_steps=profile.steps,
        per_device_train_batch_size=profile.states_per_step * profile.group_size * rows_per_action,
        gradient_accumulation_steps=1,
        num_generations=profile.group_size * rows_per_action,
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


class _Recorder:
    """What is written while training: a row a step, and one for the states kept back every few steps."""

    def __init__(
        self,
        out: Path,
        reward: StepReward | EpisodeReward,
        measure: Callable[[int], dict],
        progress: Callable[[dict], None],
        charged_limit: float,
    ):
        self.out, self.metrics, self.reward = out, out / "metrics.jsonl", reward
        self._measure, self._progress, self._limit = measure, progress, charged_limit
        self._began = self._seconds = self.rollout_seconds = self._processor = 0.0
        done = read_jsonl(self.metrics, missing_ok=True)[0]
        self.charged = sum(row["seconds_charged"] for row in done if row.get("split") == "train")

    @property
    def is_time_up(self) -> bool:
        """Return whether the charged seconds have reached their limit."""
        return self.charged >= self._limit

    def step_began(self) -> None:
        """Start the clocks; those of the rollout stay 0 where an update reuses the last actions."""
        self._began, self._processor = time.perf_counter(), time.process_time()
        self.reward.seconds = self.rollout_seconds = 0.0

    def step_ended(self) -> None:
        """Stop the clocks, before anything is logged or saved."""
        self._seconds = time.perf_counter() - self._began
        self._processor = time.process_time() - self._processor
        self.charged += self._processor + self.reward.last["seconds_scripts"]

    def trained(self, logs: dict, step: int) -> None:
        """Write the row of a step."""
        row = _train_row(logs, step, self.reward, self.rollout_seconds, self._seconds)
        self._write(row | {"seconds_charged": round(self._processor + row["seconds_scripts"], 4)})

    def kept_back(self, step: int, model) -> None:
        """Write the row for the states kept back, once a step, and keep the adapter when it is the best."""
        if not _has(self.metrics, "holdout", step):
            found = self._measure(step)
            row = {"split": "holdout", "step": step, "charged": round(self.charged, 3)}
            self._write(row | {name: found[name] for name in ("reward", "validity", "unscored")})
        best = _best_row(self.metrics)
        if best["step"] == step:
            _save_adapter(model, self.out / "best")
            write_json(self.out / "best.json", best | {"files": hashes_below(self.out / "best")})

    def _write(self, row: dict) -> None:
        append_jsonl(self.metrics, row)
        self._progress(row)


def _trainer(loaded: Backend, config, recorder: _Recorder, rows: list[dict], done: int):
    """Return TRL's trainer with clocks, and with scripts started as soon as their actions are sampled.

    The algorithm is TRL's.

    Two of its methods are mended so that a training that was cut off goes on as if it had not been.

    Args:
        loaded: Model and tokenizer.
        config: TRL's settings.
        recorder: Told what happens.
        rows: The data set, one row a state.
        done: Steps that were made before.
    """
    from datasets import Dataset
    from peft import load_peft_weights, set_peft_model_state_dict
    from transformers import PrinterCallback
    from trl import GRPOTrainer
    from trl.trainer.utils import entropy_from_logits, selective_log_softmax

    from mlagent_lib.training.prefix import completion_logits

    shares_prompts = loaded.name == "plain"  # Unsloth has kernels of its own for this
    reward = recorder.reward
    episodes = isinstance(reward, EpisodeReward)
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # TRL calls its `rollout_func` experimental

    class Trainer(GRPOTrainer):
        def _generate(self, prompts):
            # the scripts run while the trainer computes the log-probabilities of the reference
            outputs = super()._generate(prompts)
            if not episodes:
                reward.begin(outputs[3], reward.state_ids)
            return outputs

        def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, keep, **options):
            if not shares_prompts:
                return super()._get_per_token_logps_and_entropies(
                    model, input_ids, attention_mask, keep, **options
                )
            logits = completion_logits(model, input_ids, attention_mask, keep) / self.temperature
            found = selective_log_softmax(logits, input_ids[:, -keep:])
            wanted = options.get("compute_entropy", False)
            return found, entropy_from_logits(logits.detach()) if wanted else None, None

        def _generate_and_score_completions(self, inputs):
            began = time.perf_counter()
            if not episodes:
                inputs = reward.mixed(inputs)
            reward.state_ids = [row["state_id"] for row in inputs]
            outputs = super()._generate_and_score_completions(inputs)
            recorder.rollout_seconds = time.perf_counter() - began
            return outputs

        def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
            # Transformers 5.17 finds the copy "ref" in a subfolder, and then skips the adapter in training.
            weights = load_peft_weights(resume_from_checkpoint)
            set_peft_model_state_dict(self.model, weights, adapter_name="default")

        def _get_train_sampler(self, dataset=None):
            # TRL 1.14 shuffles all epochs from one stream, which would begin again with the first one.
            sampler = super()._get_train_sampler(dataset)
            for _ in range(done * config.per_device_train_batch_size // len(sampler)):
                next(iter(sampler))
            return sampler

    trainer = Trainer(
        model=loaded.model,
        args=config,
        processing_class=loaded.tokenizer,
        reward_funcs=reward,
        rollout_func=reward.rollout if episodes else None,
        train_dataset=Dataset.from_list(rows),
        callbacks=[_callback(recorder)],
    )
    trainer.remove_callback(PrinterCallback)  # metrics.jsonl holds what it would print
    return trainer


def _callback(recorder: _Recorder):
    """Return the trainer's callback that tells the recorder what happens."""
    from transformers import TrainerCallback

    class Log(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **kwargs):
            recorder.kept_back(state.global_step, model)  # the start, or what a kill left out

        def on_step_begin(self, args, state, control, **kwargs):
            recorder.step_began()

        def on_step_end(self, args, state, control, **kwargs):
            recorder.step_ended()
            if recorder.is_time_up:
                control.should_training_stop = control.should_save = True

        def on_log(self, args, state, control, logs=None, **kwargs):
            if "loss" in logs:
                recorder.trained(logs, state.global_step)

        def on_save(self, args, state, control, model=None, **kwargs):
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            write_json(folder.with_suffix(".json"), hashes_below(folder))
            recorder.kept_back(state.global_step, model)

    return Log()


def _finish(model, out: Path, adapter: Path, metrics: Path, seconds: float) -> dict:
    """Put the chosen adapter in place: the SFT adapter (step 0) when no checkpoint beats the start."""
    best = _best_row(metrics)
    chosen = out / "best" if best["step"] > 0 else adapter
    saved = json.loads((out / "best.json").read_text())["files"] if best["step"] > 0 else {}
    if lost := damaged_file(chosen, saved):
        raise RunError(
            f"the best checkpoint is damaged: {chosen / lost} is not what was saved",
            cure=f"delete {out} and run again: the training is made anew",
        )
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


def _train_row(
    logs: dict, step: int, reward: StepReward | EpisodeReward, rollout: float, total: float
) -> dict:
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
    """Return the row of the best checkpoint: highest reward on the states kept back, the earlier in a tie."""
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
    """Return step and folder of the newest complete and undamaged checkpoint, or None."""
    found = []
    for folder in (out / "checkpoints").glob("checkpoint-*[0-9]"):
        sums = folder.with_suffix(".json")
        try:
            step = json.loads((folder / "trainer_state.json").read_text())["global_step"]
            damaged = damaged_file(folder, json.loads(sums.read_text()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            damaged = f"cut off while it was written ({error})"
        if damaged:
            log.warning("checkpoint %s is left out: %s", folder.name, damaged)
            shutil.rmtree(folder, ignore_errors=True)
            sums.unlink(missing_ok=True)
            continue
        found.append((step, str(folder)))
    return max(found, default=None)


def _forget_after(metrics: Path, step: int) -> None:
    """Drop the rows of steps that will be made again, so that no step is counted twice."""
    if metrics.exists():
        kept = [row for row in read_jsonl(metrics)[0] if row["step"] <= step]
        write_text(metrics, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))
