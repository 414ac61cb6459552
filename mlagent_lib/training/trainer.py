"""What the kit adds to TRL's GRPO trainer: clocks, early starts of scripts, shared prompts, exact resumption.

A mixin, so that it stands before whichever class the backend puts under the name ``GRPOTrainer``. What is
overridden is private in TRL 1.14.2 (``trl/trainer/grpo_trainer.py``) and Transformers 5.17.0
(``transformers/trainer.py``); each method says which behaviour of theirs it mends.
"""

from __future__ import annotations

import time
from typing import Any


class StepTrainer:
    """Stands before TRL's `GRPOTrainer`; the algorithm is TRL's.

    Attributes:
        recorder: Its ``reward`` is the reward function; told how long the rollout took.
        shares_prompts: Whether the prompt of a group is read once.
        rows_at_once: Most replies sampled at once; 0 for all of a step.
        overlaps: Whether a step is sampled in parts, so that scripts run meanwhile: not where a card samples
            all of it in the time of a part.
        steps_done: Steps that were made before an interruption.
    """

    recorder: Any  # a `grpo.Recorder`
    shares_prompts = False
    rows_at_once = 0
    overlaps = False
    steps_done = 0

    def _generate_and_score_completions(self, inputs):
        # TRL samples from ``[row["prompt"] for row in inputs]`` and shows its other columns to the reward
        # function only, after the reference's log-probabilities: too late to start scripts early, and a
        # `rollout_func` never sees them. So the reward function gets the rows here, before all else.
        began = time.perf_counter()
        outputs = super()._generate_and_score_completions(self.recorder.reward.start_batch(inputs))
        self.recorder.rollout_seconds = time.perf_counter() - began
        return outputs

    def _generate_single_turn(self, prompt_ids, *rest, **options):
        # TRL gives `model.generate` all rows of a step at once (its branch for transformers); no more than
        # the card holds keys and values for are sampled together here. It runs reward functions after the
        # log-probabilities (`_generate_and_score_completions` calls `_calculate_rewards` last), so that
        # scripts and model would wait for each other. Scripts start here, as soon as replies are known.
        reward, found, logprobs = self.recorder.reward, [], None
        size = len(prompt_ids)
        if self.overlaps:  # whole groups
            size = -(-size // (reward.parts * self.num_generations)) * self.num_generations
        if self.rows_at_once and not self.use_vllm:
            size = min(size, self.rows_at_once)
        for start in range(0, len(prompt_ids), size):
            part, logprobs = super()._generate_single_turn(prompt_ids[start : start + size], *rest, **options)
            reward.begin(self.processing_class.batch_decode(part, skip_special_tokens=True))
            found += part
        return found, logprobs

    def _prepare_inputs(self, generation_batch):
        # TRL shuffles the rows of a step before it cuts them into micro-batches, so that each of these would
        # read prompts of many groups again. All of them end in one update, where their order does not count.
        known = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        made = self._buffered_inputs
        if self.shares_prompts and made is not known and len(made) > 1:
            from mlagent_lib.training.backends.prefix import grouped

            self._buffered_inputs = grouped(made)
            inputs = self._buffered_inputs[self._step % len(made)]
        return inputs

    def _get_per_token_logps_and_entropies(self, model, input_ids, attention_mask, *rest, **options):
        # TRL reads the prompt anew for each of the G completions (`_full_logits_logps`); read once, the
        # numbers are the same up to rounding.
        if not self.shares_prompts:
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, *rest, **options
            )
        from trl.trainer.utils import entropy_from_logits, selective_log_softmax

        from mlagent_lib.training.backends.prefix import completion_parts, in_order

        keep = rest[0] if rest else options["logits_to_keep"]
        size = options.get("batch_size") or len(input_ids)
        found, entropies = [], []
        for start in range(0, len(input_ids), size):
            ids, mask = (tensor[start : start + size] for tensor in (input_ids, attention_mask))
            for rows, logits in completion_parts(model, ids, mask, keep):
                logits, labels = logits / self.temperature, ids[rows, -keep:][:, : logits.size(1)]
                found.append((rows + start, selective_log_softmax(logits, labels)))
                if options.get("compute_entropy", False):
                    # with a gradient where an entropy bonus asks for it, as in TRL
                    kept = logits if self._entropy_bonus_enabled else logits.detach()
                    entropies.append((rows + start, entropy_from_logits(kept)))
        return in_order(found, keep), in_order(entropies, keep) if entropies else None, None

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        # Transformers finds the reference's copy "ref" in a subfolder of the checkpoint (`adapter_subdirs`)
        # and then loads the subfolders only: the adapter in training would stay as it was at the start.
        from peft import load_peft_weights, set_peft_model_state_dict

        weights = load_peft_weights(resume_from_checkpoint)
        set_peft_model_state_dict(self.model, weights, adapter_name="default")

    def _get_train_sampler(self, dataset=None):
        # TRL's `RepeatSampler` shuffles all epochs from one stream, and Transformers skips only the batches
        # of the epoch that was cut off: a resumed training would begin again with the first shuffle.
        sampler = super()._get_train_sampler(dataset)
        read = self.steps_done * self.args.gradient_accumulation_steps * self.args.generation_batch_size
        for _ in range(read // len(sampler)):
            next(iter(sampler))
        return sampler
