"""How a reply is read: fields, name of the action, arguments, also where a model is careless with their form.

One rule: what has exactly one reading is read, what has none or several is refused. `FORGIVEN` lists what is
read although the form is broken. What an action means is `actions`' affair.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Sequence

FIELDS = ("Reflection", "Research Plan and Status", "Fact Check", "Thought", "Action", "Action Input")
_EDIT = '{"script_name": "train.py", "edit_instruction": "Scale.", "save_name": "new.py"}'
_LAST = 'Action: Final Answer\nAction Input: {"final_answer": "Done."}'
# What is forgiven, a reply that shows it, and the last argument that is read from it.
FORGIVEN = (
    ("fields in bold, quotes or backticks", _LAST.replace("Action:", "**Action:**"), "Done."),
    ("a heading in place of a colon", _LAST.replace("Action: ", "### Action\n"), "Done."),
    ("fields in another case, spaced otherwise", _LAST.replace("Action Input", "ACTION_INPUT"), "Done."),
    ("full-width colons", _LAST.replace(":", "："), "Done."),
    ("fields indented, listed or numbered", _LAST.replace("Action", "  1. Action", 1), "Done."),
    ("fields within a line, each named once", _LAST.replace("\n", " "), "Done."),
    ("actions in another case, marked or spaced otherwise", _LAST.replace("Final A", "`final_a"), "Done."),
    ("actions without their brackets", f"Action: Edit Script\nAction Input: {_EDIT}", "new.py"),
    ("lines 'Action:' before it that name none", f"Action: I shall end here.\n{_LAST}", "Done."),
    ("fences and sentences around the object", _LAST.replace("{", "```json\n{") + "\n```\nBye.", "Done."),
    ("an invented observation, and further steps", f"{_LAST}\nObservation: {{}}\n{_LAST}", "Done."),
    ("raw line breaks and tabs in a string", _LAST.replace("Done", "All\n\tdone"), "All\n\tdone."),
    ("a comma after the last argument", _LAST.replace('"}', '",\n}'), "Done."),
    ("no comma between arguments", f"Action: Edit Script\nAction Input: {_EDIT}".replace(",", ""), "new.py"),
    ("a backslash that escapes nothing", _LAST.replace("Done", r"No \d"), r"No \d."),
    ("quotes in a string that can end in one place only", _LAST.replace("Done", 'No "a"!'), 'No "a"!.'),
    ("single, triple or curly quotes", _LAST.replace('"', "'"), "Done."),
    ("no quotes around names, or around one word", _LAST.replace('"', ""), "Done."),
    ("a last brace that is missing", _LAST.removesuffix("}"), "Done."),
    ("an object inside a string", _LAST.replace('"', r"\"").replace("{", '"{') + '"', "Done."),
)  # fmt: skip

_QUOTE = "[\"'`“”‘’]"
# How a string opens, and the pattern of how it closes.
_ENDS = (('"""', '"""'), ("'''", "'''"), ('"', '"'), ("'", "'"), ("`", "`"), ("“", '[”“"]'), ("‘", "[’‘']"))
_ESCAPE = re.compile(r"""\\(["\\/nrt]|u[0-9a-fA-F]{4})|\\(['`])|\\|\"""")  # \b and \f: no text holds such
_MARKS = r"(?:[^\w\n:：]|_)"
_OPENS = rf"^{_MARKS}*(?:\d{{1,2}}[.)]{_MARKS}*)?"


def _words(name: str) -> str:
    return r"(?:[^\S\n]|[_-])?".join(re.escape(word) for word in name.split())


def _lines(names: Iterable[str]) -> re.Pattern:
    """Return the pattern of a line that starts with one of these fields."""
    one = f"(?:{'|'.join(map(_words, names))})"
    heading = rf"^[ \t]*(?:#+|\*\*|__)[ \t]*{one}[ \t*_#]*$"
    return re.compile(rf"{_OPENS}{one}{_MARKS}{{0,6}}[:：][*_`\"]*|{heading}", re.IGNORECASE | re.MULTILINE)


_STOPS = _lines([*FIELDS, "Observation"])


def split_fields(text: str, names: Sequence[str] = FIELDS) -> dict[str, str]:
    r"""Return the fields of a reply that stand in the given order, each from its name to the next name.

    Example:
        >>> split_fields("Action: List Files\nAction Input: {}", ("Action", "Action Input"))
        {'Action': 'List Files', 'Action Input': '{}'}
    """
    found, at = [], 0
    for name in names:
        match = _lines([name]).search(text, at)
        if match is None:
            within = list(re.compile(rf"(?<=\s)[*_`]*{name}[*_`]*[:：][*_`]*").finditer(text, at))
            match = within[0] if len(within) == 1 else None
        if match:
            found.append((name, match.start(), match.end()))
            at = match.end()
    ends = [start for _, start, _ in found[1:]] + [len(text)] * bool(found)
    return {name: text[begin:end].strip() for (name, _, begin), end in zip(found, ends, strict=True)}


def read_name(text: str, names: Iterable[str]) -> str | None:
    r"""Return which action the field ``Action`` names; None where it is none, or more than one.

    Example:
        >>> read_name("`list_files`.", ["List Files"]), read_name("List Files now", ["List Files"])
        ('List Files', None)
    """
    known = {letters(form): name for name in names for form in (name, name.partition(" (")[0])}
    named = [known.get(letters(part)) for part in _lines(["Action"]).split(text)]
    return named[-1] if len({*named} - {None}) == 1 else None


def letters(text: str) -> str:
    """Return the small letters and the digits of a text: what a name is known by, however it is written."""
    return re.sub(r"[\W_]", "", text.lower())


def read_arguments(text: str, names: Sequence[str]) -> object:
    r"""Return the JSON value in the field ``Action Input``.

    Args:
        text: The field, and whatever follows it: an invented observation, or another step, is not read.

    Raises:
        ValueError: It has no reading, or more than one.

    Example:
        >>> read_arguments('```json\n{"dir_path": ".",}\n```\nObservation: ...', ["dir_path"])
        {'dir_path': '.'}
    """
    own = _STOPS.split(text, 1)[0]
    if re.search(r'\{\s*\\"', own):
        with contextlib.suppress(ValueError):
            text = own = json.loads(f'"{own.strip().strip(chr(34))}"', strict=False)
    begin = own.find("{") if "{" in own else len(own) - len(own.lstrip())
    try:
        value, end = _DECODER.raw_decode(text, begin)
        rest = _STOPS.split(text[end:], 1)[0]
        _refuse_braces(rest)
        if isinstance(value, dict) or not rest.strip():
            return value
    except (ValueError, RecursionError):
        pass
    return _read_by_names(own, names)


def _once(pairs: list[tuple[str, object]]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("an argument is given twice")
    return dict(pairs)


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_once)


def _refuse_braces(text: str) -> None:
    if "{" in text or "}" in text:
        raise ValueError("there is more than one object")


def _read_by_names(text: str, names: Sequence[str]) -> dict:
    """Return the arguments of an object that is no JSON: each lasts from its name to the next name."""
    places = []
    for name in names:
        quoted, plain = rf"{_QUOTE}{name}{_QUOTE}\s*[:：]", rf"(?<![\w\"'`“”‘’]){name}\s*[:：]"
        found = list(re.finditer(quoted, text)) or list(re.finditer(plain, text))
        if len(found) != 1:
            raise ValueError(f"{name} is given {len(found)} times")
        places.append((found[0].start(), found[0].end(), name))
    places.sort()
    before, brace, gap = text[: places[0][0]].rpartition("{")
    _refuse_braces(before)
    if brace and gap.strip():
        raise ValueError("an argument has no name")
    ends = [start for start, _, _ in places[1:]] + [None]
    return {
        name: _read_value(text[begin:end].strip(), is_last=end is None)
        for (_, begin, name), end in zip(places, ends, strict=True)
    }


def _read_value(text: str, *, is_last: bool) -> object:
    opens, closes = next((pair for pair in _ENDS if text.startswith(pair[0])), ("", ""))
    if not opens:
        return _read_bare(text, is_last=is_last)
    body = text[len(opens) :]
    quote = rf"(?<!\\)(?:\\\\)*(?P<end>{closes})"
    ends = list(re.finditer(quote + r"\s*(?:,\s*)?" + (r"\}" if is_last else r"\Z"), body))
    if is_last and not ends:  # a brace is missing, or the reply was cut off within a string
        quotes = list(re.finditer(quote, body))
        ends = quotes if len(quotes) == 1 and not body[quotes[0].end() :].strip(" \n,`") else []
    if len(ends) > 1:
        ends = [end for end in ends if not _is_inside(body[: end.start()])]
    if len(ends) != 1:
        raise ValueError(f"a string can end in {len(ends)} places")
    _refuse_braces(body[ends[0].end() :])
    body = body[: ends[0].start("end")]
    name = rf"{_QUOTE}\w+{_QUOTE}\s*[:：]"
    more = rf"{closes}(?:(?:\s*\+\s*|\s+){_QUOTE}|\s*,\s*(?:{name}|\w+\s*[:：]))"
    if not all(_is_inside(body[: found.start()]) for found in re.finditer(more, body)):
        raise ValueError("a string is followed by something that is no argument")
    return json.loads(f'"{_ESCAPE.sub(_escaped, body)}"', strict=False)


def _is_inside(text: str) -> bool:
    """Return whether more brackets are open than closed at the end of a text, as within a call or a list."""
    return sum(map(text.count, "([{")) > sum(map(text.count, ")]}"))


def _escaped(match: re.Match) -> str:
    """Return an escape as JSON wants it: quotes, and backslashes that escape nothing, get one more."""
    return match[0] if match[1] else match[2] or f"\\{match[0]}"


def _read_bare(text: str, *, is_last: bool) -> object:
    """Return a number, a constant or words without quotes; at the end they could be cut off."""
    word, brace, rest = text.partition("}") if is_last else (text, "}", "")
    _refuse_braces(rest)
    word = word.strip().removesuffix(",").strip()
    if not word or not brace or re.search(rf"[\"{{\[\]:\n]|^{_QUOTE}|{_QUOTE}$", word):
        raise ValueError("a value is neither a string nor plain words")
    with contextlib.suppress(ValueError):
        return json.loads(word.lower().replace("none", "null"))
    if word[0] in "-+0123456789":
        raise ValueError("a value starts like a number and is none")
    return word
