"""Sampling replies from a model with its chat template: a prompt in, a reply out, many side by side."""

from __future__ import annotations

from mlagent_lib.core.errors import RunError
from mlagent_lib.training.backends.tokens import chat_texts

GENERATION_ROWS = 96  # conversations sampled at once where the profile says nothing


def generate_texts(
    model,
    tokenizer,
    conversations: list[list[dict]],
    *,
    temperature: float = 1.0,
    max_new_tokens: int = 160,
    seed: int | None = None,
    batch_size: int = GENERATION_ROWS,
    window: int = 0,
) -> list[str]:
    """Return one reply for each conversation, in order.

    Args:
        model: The model, with or without adapter; its ``generation_config`` says what ends a reply.
        temperature: 0 for the likeliest token; else samples.
        max_new_tokens: Longest reply in tokens; a reply that reaches it is cut.
        seed: Seeds this call's sampling and leaves the global stream as it was.
        window: Longest prompt and reply together, in tokens; 0 for no check.

    Raises:
        RunError: A prompt and its reply do not fit the window.
    """
    import torch

    tokenizer.padding_side = "left"
    training = model.training
    model.eval()
    options = {"do_sample": temperature > 0, "max_new_tokens": max_new_tokens}
    if temperature > 0:
        options |= {"temperature": temperature, "top_p": 1.0, "top_k": 0}
    replies = []
    with torch.random.fork_rng(), torch.inference_mode():
        if seed is not None:
            torch.manual_seed(seed)
        for start in range(0, len(conversations), batch_size):
            part = conversations[start : start + batch_size]
            texts = chat_texts(tokenizer, part, add_generation_prompt=True)
            batch = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
            length = batch["input_ids"].shape[1]
            if window and length + max_new_tokens > window:
                both = f"a prompt of {length} tokens and a reply of {max_new_tokens}"
                cure = "give the profile fewer prompt_tokens, or a larger sft.max_length"
                raise RunError(f"{both} do not fit the window of {window}", cure=cure)
            out = model.generate(**batch.to(model.device), **options)
            replies += tokenizer.batch_decode(out[:, length:], skip_special_tokens=True)
    model.train(training)
    return replies
