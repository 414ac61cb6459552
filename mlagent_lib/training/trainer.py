"""What the kit adds to TRL's GRPO trainer: clocks, early starts of scripts, shared prompts, exact resumption.

A mixin, so that it stands before whichever class the backend puts under the name ``GRPOTrainer``. Two of
TRL's methods are mended so that a training that was cut off goes on as if it had not been.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Kit:
    """What a `StepTrainer` works with.

    Attributes:
        recorder: Its ``reward`` is the reward function; told how long the rollout took.
        episodes: Whether groups are whole trajectories.
        shares_prompts: Whether the prompt of a group is read once.
        rows_at_once: Most replies sampled at once; 0 for all of a step.
        steps_done: Steps that were made before an interruption.
    """

    recorder: Any
    episodes: bool
    shares_prompts: bool
    rows_at_once: int
    steps_done: int


class StepTrainer:
    """Stands before TRL's `GRPOTrainer`; the algorithm is TRL's."""

    kit: Kit

    def _generate(self, prompts):
        # the scripts run while the trainer computes the log-probabilities of the reference
        outputs = super()._generate(prompts)
        if not self.kit.episodes:
            reward = self.kit.recorder.reward
            reward.begin(outputs[3], reward.state_ids)
        return outputs

    def _generate_single_turn(self, prompt_ids, *rest, **options):
        # no more replies at once than the card holds keys and values for
        size = self.kit.rows_at_once
        if not size or self.use_vllm or len(prompt_ids) <= size:
            return super()._generate_single_turn(prompt_ids, *rest, **options)
        found = []
        for start in range(0, len(prompt_ids), size):
            part, _ = super()._generate_single_turn(prompt_ids[start : start + size], *rest, **options)
            found += part
        return found, None

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, *rest, **options):
        if not self.kit.shares_prompts:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, *rest, **options
            )
        import torch
        from trl.trainer.utils import entropy_from_logits, selective_log_softmax

        from mlagent_lib.training.prefix import completion_logits

        keep = rest[0] if rest else options["logits_to_keep"]
        size = options.get("batch_size") or len(input_ids)
        found, entropies = [], []
        for start in range(0, len(input_ids), size):
            ids, mask = (tensor[start : start + size] for tensor in (input_ids, attention_mask))
            logits = completion_logits(model, ids, mask, keep) / self.temperature
            found.append(selective_log_softmax(logits, ids[:, -keep:]))
            if options.get("compute_entropy", False):
                entropies.append(entropy_from_logits(logits.detach()))
        return torch.cat(found), torch.cat(entropies) if entropies else None, None

    def _generate_and_score_completions(self, inputs):
        began = time.perf_counter()
        reward = self.kit.recorder.reward
        if not self.kit.episodes:
            inputs = reward.mixed(inputs)
        reward.state_ids = [row["state_id"] for row in inputs]
        outputs = super()._generate_and_score_completions(inputs)
        self.kit.recorder.rollout_seconds = time.perf_counter() - began
        return outputs

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # Transformers 5.17 finds the copy "ref" in a subfolder, and then skips the adapter in training.
        from peft import load_peft_weights, set_peft_model_state_dict

        weights = load_peft_weights(resume_from_checkpoint)
        set_peft_model_state_dict(self.model, weights, adapter_name="default")

    def _get_train_sampler(self, dataset=None):
        # TRL 1.14 shuffles all epochs from one stream, which would begin again with the first one.
        sampler = super()._get_train_sampler(dataset)
        read = self.kit.steps_done * self.args.gradient_accumulation_steps * self.args.generation_batch_size
        for _ in range(read // len(sampler)):
            next(iter(sampler))
        return sampler
