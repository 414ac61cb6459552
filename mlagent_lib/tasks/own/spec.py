"""What a reader asks for when a task is to be made of an own table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.registry import list_tasks

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}", re.ASCII)


@dataclass(frozen=True)
class OwnSpec:
    """One task to be made.

    Attributes:
        name: Name of the task.
        data: A file of comma-separated values.
        target: Column of the answers.
        metric: Name of the metric.
        id_column: A column that names the rows; it is left out.
        text: The column of texts, which makes it a text task.
        group: A column whose rows of one value stay in one split; it is left out of the inputs.
        drop: Columns to leave out.
        keep: Columns to keep although they look like a leak.
        keep_contradictions: Keep rows that are equal but for the answer; they become visible.
        seed: Root of the split, the ids and the order.
        best: A score known to be reachable; None to look for one.
        seconds: How long one run of a script may take.
    """

    name: str
    data: Path
    target: str
    metric: str
    id_column: str | None = None
    text: str | None = None
    group: str | None = None
    drop: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()
    keep_contradictions: bool = False
    seed: int = 0
    best: float | None = None
    seconds: float = 20.0


def closest(name: str, known: Iterable[str]) -> str:
    """Return a hint at the known name that is nearest, or "" where none is near.

    Example:
        >>> closest("Pirce", ["price", "size"])
        "the closest is 'price'; "
    """
    by_lower = {found.lower(): found for found in known}
    near = get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"the closest is {by_lower[near[0]]!r}; " if near else ""


def quoted(name: str) -> str:
    """Return a name in quotes, as a shell takes it.

    Example:
        >>> print(quoted("size"), quoted("it's"), quoted("a\\nb"))
        'size' "it's" $'a\\nb'
    """
    return "$" * ("\\" in repr(name)) + repr(name)


def listed(names: Iterable[str], most: int = 12) -> str:
    """Return names as a list that stays short.

    Example:
        >>> listed("abcd", most=2)
        'a, b and 2 more'
    """
    names = [name if name.isprintable() else repr(name) for name in names]
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def check_place(name: str, folder: Path) -> None:
    """Refuse a name or a folder that a new task cannot have.

    Raises:
        TaskError: The name is no name or is taken, or the folder holds something.
    """
    if not _NAME.fullmatch(name):
        raise refusal("bad name", name=name)
    if name in list_tasks():
        raise refusal("taken name", name=name)
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise refusal("out is a file", folder=folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise refusal("out is not empty", folder=folder)
