"""A group shares its prompt, so the model reads it once: the same numbers for a fraction of the work.

The G actions of a group follow one prompt, which is five times as long as an action. Both places where the
trainer would read it G times take it once here and repeat its keys and values: sampling, and the
log-probabilities with their gradient. Causal attention makes the two ways equal up to rounding.
"""

from __future__ import annotations

import torch
from transformers import DynamicCache

from mlagent_lib.training.backends.decode import distinct_rows, generated


def repeated(cache: DynamicCache, which: torch.Tensor) -> DynamicCache:
    """Return the cache with its rows repeated as ``which`` says; gradients flow back into the original."""
    return DynamicCache([(layer.keys[which], layer.values[which]) for layer in cache.layers])


def completion_logits(model, ids: torch.Tensor, mask: torch.Tensor, completion_length: int) -> torch.Tensor:
    """Return the logits that predict each completion token, shape (rows, completion_length, vocabulary).

    Args:
        ids: Prompts and completions, shape (rows, length): prompts padded on the left, completions on the
            right.
        mask: 1 for tokens, 0 for padding, same shape.
        completion_length: Columns of the completions.
    """
    start = ids.size(1) - completion_length
    prompts, prompt_mask, which = distinct_rows(ids[:, :start], mask[:, :start])
    first = model(input_ids=prompts, attention_mask=prompt_mask, use_cache=True, logits_to_keep=1)
    rest = model(
        input_ids=ids[:, start:],
        attention_mask=mask,
        past_key_values=repeated(first.past_key_values, which),
        use_cache=True,
    )
    # float32: a log-probability of bfloat16 logits is off by a hundredth
    return torch.cat([first.logits[which], rest.logits[:, :-1]], dim=1).float()


def share_prefixes(model) -> None:
    """Let ``model.generate`` read equal prompts once, by our own loop where that can run the model.

    Called on a model that runs as it is.
    """
    plain = model.generate

    def generate(*args, input_ids=None, attention_mask=None, **options):
        config, others = options.get("generation_config"), dict(options)
        others.pop("generation_config", None)
        ours = None if args else generated(model, input_ids, attention_mask, config, **others)
        if ours is not None:
            return ours
        tokens = (0, 0) if args or input_ids is None or attention_mask is None else input_ids.shape
        if min(tokens) > 1:  # several prompts, and something before their last token
            prompts, prompt_mask, which = distinct_rows(input_ids, attention_mask)
            if 2 * len(prompts) <= len(input_ids):
                # all but the last token: generation reads that one itself, and counts positions as here
                positions = (prompt_mask.cumsum(dim=1) - 1).clamp(min=0)
                with torch.no_grad():
                    read = model(
                        input_ids=prompts[:, :-1], attention_mask=prompt_mask[:, :-1],
                        position_ids=positions[:, :-1], use_cache=True, logits_to_keep=1,
                    )  # fmt: skip
                options["past_key_values"] = repeated(read.past_key_values, which)
        return plain(*args, input_ids=input_ids, attention_mask=attention_mask, **options)

    model.generate = generate
