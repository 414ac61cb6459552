"""A group shares its prompt, so the model reads it once: the same numbers for a fraction of the work.

The G actions of a group follow one prompt, which is five times as long as an action. Both places where the
trainer would read it G times take it once here and repeat its keys and values: sampling, and the
log-probabilities with their gradient. Causal attention makes the two ways equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from mlagent_lib.training.backends.decode import distinct_rows, generated

PARTS = 4  # ours: completions are read in so many parts of like length: padding costs as much as tokens
PART_ROWS = 16  # ours: fewest rows of a part
ROUND = 16  # ours: lengths in bfloat16 are multiples of it; torch builds a kernel for each new shape there


def repeated(cache: DynamicCache, which: Tensor) -> DynamicCache:
    """Return the cache with its rows repeated as ``which`` says; gradients flow back into the original."""
    return DynamicCache([(layer.keys[which], layer.values[which]) for layer in cache.layers])


def completion_parts(
    model, ids: Tensor, mask: Tensor, completion_length: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield which rows, and the logits that predict their completions, by length: hardly any is for padding.

    Columns that are padding in all prompts, as where a part of a step has none of its longest, are not read.

    Args:
        ids: Prompts and completions, shape (rows, length): prompts padded on the left, completions on the
            right.
        mask: 1 for tokens, 0 for padding, same shape.
        completion_length: Columns of the completions.

    Yields:
        Row numbers, shape (n,), and logits, shape (n, longest completion of them, vocabulary).
    """
    start = ids.size(1) - completion_length
    longest = start - int(mask[:, :start].any(dim=0).int().argmax())
    unread = max(0, start - _rounded(longest, ROUND))
    ids, mask, start = ids[:, unread:], mask[:, unread:], start - unread
    prompts, prompt_mask, which = distinct_rows(ids[:, :start], mask[:, :start])
    first = model(input_ids=prompts, attention_mask=prompt_mask, use_cache=True, logits_to_keep=1)
    lengths, step = mask[:, start:].sum(dim=1), ROUND if first.logits.dtype == torch.bfloat16 else 1
    for rows in lengths.argsort(stable=True).split(max(PART_ROWS, -(-len(ids) // PARTS))):
        end = start + min(completion_length, _rounded(max(1, int(lengths[rows[-1]])), step))
        cache = repeated(first.past_key_values, which[rows])
        tokens = {"input_ids": ids[rows, start:end], "attention_mask": mask[rows, :end]}
        rest = model(**tokens, past_key_values=cache, use_cache=True)
        # float32: a log-probability of bfloat16 logits is off by a hundredth
        yield rows, torch.cat([first.logits[which[rows]], rest.logits[:, :-1]], dim=1).float()


def _rounded(length: int, step: int) -> int:
    return -(-length // step) * step


def grouped(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the parts of a batch with rows of the same prompt side by side, in parts of the same sizes.

    Args:
        parts: Values by name: a row each along the first dimension, or a scalar for all; ``prompt_ids`` and
            ``prompt_mask`` among them.

    Example:
        >>> one, other = ({"prompt_ids": torch.tensor([[5], [6]]), "prompt_mask": torch.ones(2, 1)},) * 2
        >>> [part["prompt_ids"].tolist() for part in grouped([one, other])]
        [[[5], [5]], [[6], [6]]]
    """
    prompts = (torch.cat([part[name] for part in parts]) for name in ("prompt_ids", "prompt_mask"))
    order = distinct_rows(*prompts)[2].argsort(stable=True).split([len(part["prompt_ids"]) for part in parts])

    def value(name: str, rows: Tensor) -> Any:
        known = [part[name] for part in parts]
        return torch.cat(known)[rows] if isinstance(known[0], Tensor) and known[0].dim() else known[0]

    return [{name: value(name, rows) for name in parts[0]} for rows in order]


def in_order(parts: Iterable[tuple[Tensor, Tensor]], length: int) -> Tensor:
    """Return the values of all rows in the order of their numbers, zeros behind the end of each part.

    Args:
        parts: Row numbers and values, shape (n, positions) or (n, positions, width).
        length: Positions of the result.

    Example:
        >>> in_order([(torch.tensor([1]), torch.ones(1, 1)), (torch.tensor([0]), torch.ones(1, 2))], 3)
        tensor([[1., 1., 0.],
                [1., 0., 0.]])
    """
    rows, values = zip(*parts, strict=True)
    behind = [(0, 0) * (part.dim() - 2) + (0, length - part.size(1)) for part in values]
    padded = torch.cat(list(map(torch.nn.functional.pad, values, behind)))
    return padded[torch.cat(rows).argsort()]


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
