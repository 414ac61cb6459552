"""What chat servers do differently: fields of a request that they refuse, answers beside the text.

No server and no model is known by name here: what counts is what it says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from mlagent_lib.environment.actions import KNOWN
from mlagent_lib.environment.reader import FIELDS, letters, read_name, split_fields

SYSTEM = "a system turn"
_REFUSES = re.compile(
    r"unsupported|(?:not|n't) (?:be )?(?:support|permit|allow|accept|us(?:e|ing)|set|recogni|valid|enabl"
    r"|implement|compat)|incompat"
    r"|unrecogni[sz]ed|unknown|unexpected|invalid (?:param|argument|field|role)"
    r"|must be (?:one of|the default|1\b)"
    r"|extra[ _](?:inputs|fields|forbidden)|deprecated|cannot both|must alternate"
    r"|should be .?(?:user|assistant)\b|\bonly\b.{0,60}(?:support|allow|accept|default|set to)"
    r"|(?:support|allow|accept)\w* only",
    re.IGNORECASE,
)
_RANGE = re.compile(
    r"too (?:large|long|big|high|low|small)|context (?:length|window)|exceed|between|up to"
    r"|(?:less|more|greater|higher|lower) than",
    re.IGNORECASE,
)
_THOUGHTS = ("reasoning_content", "reasoning", "thinking")


def refused_field(message: str, fields: Mapping[str, object]) -> str:
    """Return the field of a request that a server does not take, `SYSTEM` for a system turn, or "".

    A value out of range is none: that is the user's to put right.

    Example:
        >>> refused_field("Unsupported parameter: 'max_tokens' is not supported.", {"max_tokens": 9})
        'max_tokens'
        >>> refused_field("max_tokens is too large: 9. Only up to 8 is supported.", {"max_tokens": 9})
        ''
    """
    if not _REFUSES.search(message) or _RANGE.search(message):
        return ""
    words = {name: re.escape(name).replace("_", "_?") for name in fields if name not in ("model", "messages")}
    if any(turn["role"] == "system" for turn in fields.get("messages", ())):
        words[SYSTEM] = "system|developer|roles?"
    found = {
        match.start(): name
        for name, word in words.items()
        if (match := re.search(rf"(?<![a-z_])(?:{word})(?![a-z_])", message, re.IGNORECASE))
    }
    return found[min(found)] if found else ""


def substitute(name: str, message: str, fields: Mapping[str, object]) -> str:
    """Return the field that takes the place of a refused one, where the server names it, or ""."""
    other = "max_completion_tokens" if name == "max_tokens" else ""
    return other if other in message and other not in fields else ""


def adapted(fields: Mapping[str, object], refused: Mapping[str, str]) -> dict:
    """Return a request without what a server refuses.

    Args:
        refused: Names of fields (or `SYSTEM`), each with the name that takes its place, or "". What the
            system turns say goes to the head of the first user turn.

    Example:
        >>> turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
        >>> adapted({"messages": turns, "max_tokens": 9}, {"max_tokens": "", SYSTEM: ""})
        {'messages': [{'role': 'user', 'content': 'Be brief.\\n\\nHi'}]}
    """
    sent = dict(fields)
    for name, other in refused.items():
        if name == SYSTEM:
            sent["messages"] = _without_system(sent["messages"])
        elif name in sent:
            value = sent.pop(name)
            sent |= {other: value} if other else {}
    return sent


def _without_system(messages: Sequence[Mapping[str, str]]) -> list[dict]:
    said = [turn["content"] for turn in messages if turn["role"] == "system"]
    rest = [dict(turn) for turn in messages if turn["role"] != "system"]
    if said and (not rest or rest[0]["role"] != "user"):
        rest.insert(0, {"role": "user", "content": ""})
    if said:
        rest[0]["content"] = "\n\n".join(filter(None, [*said, rest[0]["content"]]))
    return rest


def text_of(content: str, message: Mapping[str, object]) -> str:
    """Return the text of a model's message; one call that completes our six fields is read as text.

    Example:
        >>> call = {"function": {"name": "List_Files", "arguments": '{"dir_path": "."}'}}
        >>> said = "Reflection: a\\nResearch Plan and Status: b\\nFact Check: c\\nThought: d"
        >>> print(text_of(said, {"tool_calls": [call]}).partition("d\\n")[2])
        Action: List Files
        Action Input: {"dir_path": "."}
    """
    calls = _calls(message)
    if len(calls) != 1 or _is_complete(content):
        return content
    text = "\n".join(filter(None, [content, _as_text(calls[0])]))
    return text if _is_complete(text) else content


def empty_because(message: Mapping[str, object]) -> tuple[str, str]:
    """Return why a message without a text may be empty, and the cure, or two empty texts."""
    if calls := _calls(message):
        called = ", ".join(repr(str(call.get("name")))[:60] for call in calls[:3])
        cure = "turn tool calls off at the server (vLLM: no --enable-auto-tool-choice), or take another model"
        return f"the model calls tools ({called}) where a text was asked for", cure
    thoughts = [str(message[name]) for name in _THOUGHTS if message.get(name)]
    if thoughts:
        cure = "raise max_tokens, or turn the model's thinking off"
        return f"the model thought ({len(thoughts[0])} characters) and did not answer", cure
    if message.get("refusal"):
        return f"the model refused ({str(message['refusal'])[:200]})", "take another model or another task"
    return "", ""


def _calls(message: Mapping[str, object]) -> list[dict]:
    """Return the functions that a message calls, also in the older form of one call."""
    listed = message.get("tool_calls")
    listed = listed if isinstance(listed, list) else []
    calls = [call.get("function") for call in listed if isinstance(call, dict)]
    return [call for call in (*calls, message.get("function_call")) if isinstance(call, dict)]


def _as_text(call: Mapping[str, object]) -> str:
    """Return a call as lines of our fields: they are its arguments, or it is one of our actions."""
    try:
        given = call.get("arguments")
        given = json.loads(given) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        return ""
    plain = {letters(name): value for name, value in given.items()}
    found = {name: plain[letters(name)] for name in FIELDS if letters(name) in plain}
    action = read_name(str(call.get("name")), KNOWN)
    if action and not found:
        found = {"Action": action, "Action Input": given}
    return "\n".join(f"{k}: {v if isinstance(v, str) else json.dumps(v)}" for k, v in found.items())


def _is_complete(text: str) -> bool:
    return split_fields(text).keys() == set(FIELDS)
