"""The values of parameters as papermill, a notebook, a script or the command line gives them.

``papermill -p`` reads ``007`` as 7 and ``None`` as nothing, YAML reads ``no`` as false, scripts pass NumPy's
integers and paths. What can be meant in one way only is taken; all else is refused by the parameter's name.
"""

from __future__ import annotations

import operator
import os
import re
from math import isfinite, nan
from numbers import Real
from typing import Any

from mlagent_lib.core.errors import ProfileError

_RANGES = {"seed": range(2**32), "jobs": range(1025)}  # of a seed: what the trainers and their NumPy take
_FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


def checked(name: str, value: Any, like: Any = "") -> Any:
    """Return a parameter in the form that the code takes: a plain text, whole number, number or the like.

    A text that begins with ``~`` is a place below a home folder, and a path is taken as its text.

    Args:
        name: Its name. A ``run_id`` must be able to name a folder, a ``seed`` suit every library.
        value: As given. None is "" where ``like`` is.
        like: A value of its type, such as the default that a notebook declares; None allows everything. Where
            it is "", so may the value be.

    Raises:
        ProfileError: The value is of another type or out of range.

    Example:
        >>> checked("run_id", "007"), checked("seed", True + True, 0), checked("model", None)
        ('007', 2, '')
        >>> checked("run_id", 7)
        Traceback (most recent call last):
        mlagent_lib.core.errors.ProfileError: run_id is 7, an int. What to do: give a text: papermill ...
    """
    if like is None:
        return value
    if isinstance(like, str):
        return _text(name, "" if value is None and not like else value, like)
    if isinstance(like, bool) or not isinstance(like, Real):
        return value if type(value) is type(like) else _refuse(name, value, f"give a {type(like).__name__}")
    return _whole(name, value, like) if isinstance(like, int) else _number(name, value, like)


def _refuse(name: str, value: Any, cure: str) -> Any:
    kind = type(value).__name__
    raise ProfileError(f"{name} is {value!r}, a{'n' * (kind[0] in 'aeiou')} {kind}", cure=cure)


def _text(name: str, value: Any, like: str) -> str:
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(value, str):
        cure = f"give a text: papermill -r {name} keeps it as written, elsewhere put it into quotes"
        _refuse(name, value, cure)
    if _CONTROLS.search(value):
        raise ProfileError(f"{name} is {value!r}", cure="leave the control characters out")
    if name == "run_id" and (value or like) and not _FOLDER_NAME.fullmatch(value):
        cure = "use letters, digits, '.', '_', '+' and '-', at most 100 of them"
        raise ProfileError(f"run_id is {value!r}, which cannot be the name of a folder", cure=cure)
    if like and not value:
        raise ProfileError(f"{name} is empty", cure=f"give a text such as {like!r}")
    found = os.path.expanduser(value)
    if value.startswith("~") and found == value:
        raise ProfileError(f"{name} is {value!r}, and there is no such home folder", cure="write it in full")
    return str(found)


def _whole(name: str, value: Any, like: int) -> int:
    try:
        found = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        found = None
    if found is None:
        return _refuse(name, value, f"give a whole number such as {like}")
    allowed = _RANGES.get(name)
    if allowed and found not in allowed:
        raise ProfileError(
            f"{name} is {found}", cure=f"give a whole number from {allowed[0]} to {allowed[-1]}"
        )
    return found


def _number(name: str, value: Any, like: float) -> float:
    try:
        found = float(value) if isinstance(value, Real) and not isinstance(value, bool) else nan
    except OverflowError:  # a whole number that no float holds
        found = nan
    return found if isfinite(found) else _refuse(name, value, f"give a number such as {like:g}")
