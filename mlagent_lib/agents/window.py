"""How long a text is in tokens, without a tokenizer, and how it is shortened: so that prompts fit a window.

The estimate needs no model, so the same state gives the same prompt to every policy: to an expert behind a
server, to the trainer, and in evaluation. It is made to be too high rather than too low.
"""

from __future__ import annotations

import re

MESSAGE_TOKENS = 6  # what Qwen2.5's chat template puts around a message, and one to spare
_LETTERS = 6  # ours: letters of a word that make one token; Qwen2.5 knows most words of up to 8 letters whole
_PIECES = re.compile(r"[A-Za-z]+|\d|\s*\n|[ \t]{2,}|[^\sA-Za-z\d]")


def estimate_tokens(text: str) -> int:
    """Return how many tokens of Qwen2.5 a text takes, estimated from above.

    Characters over four is too low for logs: Qwen2.5 makes every digit a token of its own. Here a digit, a
    sign, a line's end with the spaces before it, and an indentation count one each, a word one for every six
    letters begun, any other letter half its UTF-8 bytes.

    Example:
        >>> estimate_tokens("model = fit(x, 12)")  # model, =, fit, (, x, comma, 1, 2, )
        9
        >>> estimate_tokens("RandomForestClassifier"), estimate_tokens("")
        (4, 0)
    """
    total = 0
    for piece in _PIECES.findall(text):
        if piece.isascii() and piece.isalpha():
            total += -(-len(piece) // _LETTERS)
        elif piece.isascii():
            total += 1
        else:
            total += -(-len(piece.encode("utf-8", "surrogatepass")) // 2)
    return total


def messages_tokens(messages: list[dict]) -> int:
    """Return the estimated tokens of chat messages, their template included.

    Example:
        >>> messages_tokens([{"role": "user", "content": "Go on."}])  # Go, on, dot, and the template
        9
    """
    return sum(estimate_tokens(message["content"]) + MESSAGE_TOKENS for message in messages)


def shorten(text: str, longest: int) -> tuple[str, int]:
    """Return a text without its middle, with a note in its place, and how many characters are left out.

    Example:
        >>> shorten("abcdefghij", 4)
        ('ab\\n... 6 characters left out ...\\nij', 6)
        >>> shorten("abcd", 4)
        ('abcd', 0)
    """
    if len(text) <= longest:
        return text, 0
    half = longest // 2
    left_out = len(text) - 2 * half
    return f"{text[:half]}\n... {left_out} characters left out ...\n{text[half + left_out :]}", left_out


def shorten_lines(text: str, longest: int) -> tuple[str, int]:
    """Return a script without the lines of its middle, with a note, and how many characters are left out.

    Example:
        >>> shown, left_out = shorten_lines("a = 1\\nb = 2\\nc = 3\\nd = 4\\n", 12)
        >>> print(shown, end="")
        a = 1
        # ... lines 2 to 3 are not shown here: use Inspect Script Lines ...
        d = 4
        >>> left_out
        12
    """
    if len(text) <= longest:
        return text, 0
    lines = text.splitlines(keepends=True)
    first = last = size = 0
    while first + last < len(lines):  # a line from the start and one from the end in turn
        line = lines[first] if first <= last else lines[-1 - last]
        if size + len(line) > longest:
            break
        size += len(line)
        first, last = (first + 1, last) if first <= last else (first, last + 1)
    hidden = f"{first + 1} to {len(lines) - last}"
    note = f"# ... lines {hidden} are not shown here: use Inspect Script Lines ...\n"
    return "".join(lines[:first]) + note + "".join(lines[len(lines) - last :]), len(text) - size
