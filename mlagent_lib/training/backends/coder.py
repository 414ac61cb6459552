"""The coder that the base weights play: the policy's own model with the adapter off, in the same memory."""

from __future__ import annotations

from mlagent_lib.environment.coder import BlockCoder, Coder, ScriptCoder
from mlagent_lib.training.backends.backend import Backend


def base_coder(backend: Backend, *, style: str = "pocket", max_new_tokens: int = 0) -> Coder:
    """Return the coder that the base weights play: adapter off, likeliest tokens.

    The pocket model writes one block of a pocket script, which is what it was made for. A model that chats
    gets the whole script and gives it back edited, as a coder behind a server does.

    Args:
        style: Prompt style of the policy: ``pocket`` for blocks, ``full`` for whole scripts.
        max_new_tokens: Longest reply in tokens; 0 for the one that the profile loads with.
    """
    longest = max_new_tokens or backend.loading.coder_tokens

    def generate(conversations: list[list[dict]]) -> list[str]:
        with backend.base():
            return backend.generate(conversations, temperature=0.0, max_new_tokens=longest)

    if style == "pocket":
        return BlockCoder(
            lambda prompts: generate([[{"role": "user", "content": prompt}] for prompt in prompts])
        )

    def problem(messages: list[dict], script: str) -> str:
        """Return why a script is too long for this coder, or nothing."""
        size = len(backend.tokenizer(script, add_special_tokens=False)["input_ids"])
        if size > longest:
            return f"the script has {size} tokens, and the coder writes at most {longest}"
        asked = backend.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        prompt = len(backend.tokenizer(asked, add_special_tokens=False)["input_ids"])
        window = backend.loading.window
        if window and prompt + longest > window:
            return f"the coder's prompt has {prompt} tokens, its reply {longest}, and the window is {window}"
        return ""

    return ScriptCoder(generate, problem)
