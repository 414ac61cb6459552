"""Models that think aloud: what they think is cut off here, in one place, before anything reads a reply.

A thought is nobody's answer: it may hold a draft of an action or of a script, and it would fill every later
prompt. Only its length is kept.
"""

from __future__ import annotations

import re

# The tags of Qwen, DeepSeek and most others, Magistral's and Kimi's; in any case, as models write them too.
# Where a server leaves them in, the channels of gpt-oss: all before its final one is a thought.
_TAG = (
    r"(?:(?:<|◁|\[(?=/?THINK\])) ?(?P<end>/?) ?(?:think(?:ing)?|thought|reasoning|seed:think) ?[>\]▷]"
    r"|(?:<\|start\|>assistant)?<\|channel\|>(?:analysis|commentary|(?P<final>final))<\|message\|>)"
)
_MARK = re.compile(
    rf"(?P<first>^[ \t\ufeff]*)?(?P<tag>{_TAG})(?P<last>[ \t]*$)?|^[ \t]*(?P<fence>`{{3,}}|~{{3,}})[^`~\n]*$"
    r"|(?P<line>\n)|(?<!\\)(?P<quote>[\"`]|(?<!\w)'|'(?!\w))",  # no apostrophes
    re.IGNORECASE | re.MULTILINE,
)


def split_thinking(text: str) -> tuple[str, int]:
    r"""Return what a model answers, and how many characters it thought.

    A thought starts with a tag at the start of a line and ends with its end tag. Without an end tag it lasts
    to the end of the text; without a start tag (many chat templates write it themselves) it lasts from the
    start. Tags that an answer quotes, in a string or in a block of code, are no thought. Tags, and blanks
    around a thought, do not count. A text without a thought comes back as it is.

    Example:
        >>> split_thinking("<think>\nTrees?\n</think>\n\nAction: List Files")
        ('Action: List Files', 6)
        >>> split_thinking("Trees?</think>Action: List Files"), split_thinking("<think>Trees?")
        (('Action: List Files', 6), ('', 6))
        >>> split_thinking("x = text.split('</think>')[-1]")
        ("x = text.split('</think>')[-1]", 0)
    """
    if not re.search(_TAG, text, re.IGNORECASE):
        return text, 0
    answer, length, at, is_thought, in_code, quotes = [], 0, 0, False, False, set()
    for mark in _MARK.finditer(text):
        start, end = mark.span("tag")
        is_end = bool(mark["end"] or mark["final"])
        if mark["quote"]:
            quotes ^= {mark["quote"]}
        elif mark["line"]:
            quotes.clear()
        elif mark["fence"]:
            in_code ^= not is_thought
        elif is_thought and is_end:
            length, at, is_thought = length + len(text[at:start].strip()), end, False
        elif not is_thought and not in_code and (_is_alone(mark, at) or (is_end and not quotes)):
            answer.append(text[at:start])
            at, is_thought = end, not is_end
            if is_end:  # nothing opened it: all that came before was thought
                length += len("".join(answer).strip())
                answer.clear()
    if not at:
        return text, 0
    length += len(text[at:].strip()) if is_thought else 0
    return "".join([*answer, "" if is_thought else text[at:]]).strip(), length


def _is_alone(mark: re.Match, at: int) -> bool:
    """Return whether a tag starts a line, or follows the last one, or is an end tag that ends a line."""
    follows = at == mark.start("tag") > 0
    return follows or mark["first"] is not None or bool(mark["end"] and mark["last"] is not None)
