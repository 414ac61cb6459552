"""The actions of an agent: parse a reply, check the arguments, and act on the files of a workspace.

Parsing is total: any text gives either an `Action` or an `Invalid` with a named reason. Nothing here runs a
script or calls a model; `step` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from mlagent_lib.core.spelling import is_protected, key, normal
from mlagent_lib.core.thinking import split_thinking
from mlagent_lib.environment.reader import FIELDS, read_arguments, read_name, split_fields

EDIT = "Edit Script (AI)"
# Names, argument names and their order: paper v1 Table 4 / v2 Table 5 (they are MLAgentBench's).
ACTIONS: dict[str, tuple[str, ...]] = {
    "List Files": ("dir_path",),
    "Copy File": ("source", "destination"),
    "Execute Script": ("script_name",),
    "Final Answer": ("final_answer",),
    "Understand File": ("file_name", "things_to_look_for"),
    "Inspect Script Lines": ("script_name", "start_line_number", "end_line_number"),
    EDIT: ("script_name", "edit_instruction", "save_name"),
}
UNDO = "Undo Edit Script"  # MLAgentBench's; the paper's prompt lacks it, and so does ours in the full style
KNOWN = ACTIONS | {UNDO: ("script_name",)}
NO_THOUGHT_FIELDS = ("Action", "Action Input")
MAX_INSPECT_LINES = 100  # "max 100 lines", tools prompt, paper v1 Table 4
MAX_PATH_BYTES = 200  # ours: file systems allow 255 a name
MAX_REPLY_CHARS = 20_000  # ours: a reply is a few hundred characters; longer ones are a runaway generation


@dataclass(frozen=True)
class Action:
    """A well-formed action: its name and its checked arguments, with the fields that came before."""

    name: str
    arguments: Mapping[str, str]
    fields: Mapping[str, str]


@dataclass(frozen=True)
class Invalid:
    """Why a reply is no action: a fixed class name, and a sentence for the agent."""

    reason: str
    message: str


def parse_action(text: str, reply_format: str = "six") -> Action | Invalid:
    r"""Return the action of a reply, or why there is none. Never raises, whatever the text.

    A model's thinking is not read. Of a reply with several steps the first one counts. ``reply_format`` is
    ``six`` for all six fields of MLAgentBench, ``no-thought`` for the last two (paper's ablation).

    Example:
        >>> parse_action('Action: List Files\nAction Input: {"dir_path": "."}', "no-thought").name
        'List Files'
        >>> parse_action("I would try a bigger model").reason
        'missing-field'
    """
    names = FIELDS if reply_format == "six" else NO_THOUGHT_FIELDS
    text, thought = split_thinking(text.replace("\r\n", "\n"))
    if thought and not text:
        return Invalid("missing-field", "Invalid action: the reply is a thought without an answer.")
    if len(text) > MAX_REPLY_CHARS:
        return Invalid("too-long", f"Invalid action: the reply is longer than {MAX_REPLY_CHARS} characters.")
    fields = split_fields(text, names)
    if missing := next((name for name in names if name not in fields), None):
        told = f"Invalid action: the field '{missing}:' is missing or out of order."
        return Invalid("missing-field", told)
    name = read_name(fields["Action"], KNOWN)
    if name is None:
        shown = fields["Action"][:60]
        return Invalid("unknown-action", f"Invalid action: {shown!r}. Choose one of: {', '.join(ACTIONS)}.")
    arguments = _parse_arguments(fields["Action Input"], KNOWN[name])
    return arguments if isinstance(arguments, Invalid) else Action(name, arguments, fields)


def _parse_arguments(text: str, names: tuple[str, ...]) -> dict[str, str] | Invalid:
    def refused(reason: str, told: str) -> Invalid:
        return Invalid(reason, f"ActionInputParsingError: {told}.")

    try:
        value = read_arguments(text, names)
    except ValueError:
        return refused("bad-json", "the Action Input is not one JSON object")
    if not isinstance(value, dict) or set(value) != set(names):
        return refused("wrong-arguments", f"the keys must be exactly {', '.join(names)}")
    arguments = {}
    for name in names:
        is_number = name.endswith("_line_number")
        read, kind = (_whole_number, "whole number") if is_number else (_plain_text, "plain string")
        arguments[name] = read(value[name])
        if arguments[name] is None:
            return refused("wrong-type", f"{name} must be a {kind}")
    return arguments


def _whole_number(item: object) -> str | None:
    if not isinstance(item, int | str) or (isinstance(item, int) and abs(item) >= 10**9):
        return None
    text = str(item).strip()
    return text if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def _plain_text(item: object) -> str | None:
    return item if isinstance(item, str) and "\0" not in item and item == storable(item) else None


def storable(text: str) -> str:
    r"""Return the text with each lone surrogate, which no file can hold, replaced by a question mark.

    Example:
        >>> storable("a\ud800b")
        'a?b'
    """
    return text.encode("utf-8", "replace").decode()


class ActionError(Exception):
    """The tool failed: MLAgentBench's ``EnvError``. An outcome of the policy's action, not of ours."""


def safe_path(path: str) -> str:
    """Return the path of a file or folder inside the workspace in normal form.

    Raises:
        ActionError: The path leaves the workspace, is the workspace, is too long, or holds control
            characters.

    Example:
        >>> safe_path("./scripts/../train.py")
        'train.py'
    """
    clean = normal(path)
    leaves = clean.startswith("/") or clean.split("/")[0] in ("..", ".")
    if leaves or not clean.isprintable() or len(clean.encode()) > MAX_PATH_BYTES:
        raise ActionError(f"EnvError: {path[:80]!r} is not a path inside the workspace.")
    return clean


def is_read_only(path: str, globs: tuple[str, ...]) -> bool:
    """Return whether a path is protected, whatever its spelling (MLAgentBench's guard compares raw strings).

    Example:
        >>> is_read_only("data/../train.csv", ("./train.csv",))
        True
    """
    return is_protected(path, (*globs, "data"))


def same_file(path: str, others: Iterable[str]) -> str | None:
    """Return the one of ``others`` that is the same file as ``path`` by another spelling, or None.

    Example:
        >>> same_file("Train.py", ["train.py"]), same_file("train.py", ["train.py"])
        ('train.py', None)
    """
    mine = key(path)
    return next((other for other in others if other != path and key(other) == mine), None)


def read_text(files: Mapping[str, bytes], name: str) -> str:
    """Return the text of a file of the workspace.

    Raises:
        ActionError: There is no such editable file, or it is not text.
    """
    path = safe_path(name)
    if path not in files:
        raise ActionError(f"EnvError: cannot read file {path}: it does not exist or is data.")
    try:
        return files[path].decode()
    except UnicodeDecodeError:
        raise ActionError(f"EnvError: file {path} is not text.") from None


def list_files(files: Mapping[str, bytes], data_names: tuple[str, ...], dir_path: str) -> str:
    """Return the names in a folder of the workspace, folders with a slash; data are read by reference.

    Raises:
        ActionError: There is no such folder.
    """
    folder = "" if normal(dir_path) == "." else safe_path(dir_path) + "/"
    every = [*sorted(files), *data_names]
    inside = [path[len(folder) :] for path in every if path.startswith(folder)]
    if not inside:
        raise ActionError(f"EnvError: cannot list files in the folder {dir_path[:80]}: no such folder.")
    return "\n".join(sorted({name.split("/")[0] + ("/" if "/" in name else "") for name in inside}))


def inspect_lines(files: Mapping[str, bytes], script_name: str, start: int, end: int) -> str:
    """Return lines ``start`` to ``end`` of a script, counted from 1 and both included.

    Raises:
        ActionError: The range is empty or longer than `MAX_INSPECT_LINES`, or there is no such script.
    """
    lines = read_text(files, script_name).splitlines()
    if start > end or end - start >= MAX_INSPECT_LINES:
        told = f"show at most {MAX_INSPECT_LINES} lines, first to last"
        raise ActionError(f"EnvError: lines {start} to {end}: {told}.")
    shown = lines[max(start - 1, 0) : end]
    return f"Here are the lines (the file ends at line {len(lines)}):\n\n" + "\n".join(shown)


def look_for(files: Mapping[str, bytes], file_name: str, things: str) -> str:
    """Return the lines of a file that mention what is looked for: the pocket form of Understand File.

    The paper lets a model read the file. Without one the kit quotes lines by key word, and says so.

    Raises:
        ActionError: There is no such file.
    """
    lines = read_text(files, file_name).splitlines()
    words = _key_words(things)
    numbered = [(f"{i}: {line}", words & _key_words(line)) for i, line in enumerate(lines, 1)]
    shown = [line for line, hit in numbered if hit] or [line for line, _ in numbered]
    head = f"{file_name} has {len(lines)} lines. By key word, without a reading model:"
    return "\n".join([head, *shown[:12]])


def _key_words(text: str) -> set[str]:
    return set(re.findall(r"[a-z_]{3,}", text.lower()))
