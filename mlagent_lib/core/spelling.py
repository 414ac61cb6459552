"""The many spellings of one path: dots, slashes, blanks, letter case and Unicode forms.

MLAgentBench's guard compares strings, so that ``./train.csv`` is refused and ``train.csv`` is written. Here
two spellings that any common file system takes for one file are one file everywhere: Windows and macOS ignore
letter case, macOS the way an accent is composed, so that the same step must not depend on where it runs.
"""

from __future__ import annotations

import fnmatch
import posixpath
import unicodedata


def normal(path: str) -> str:
    """Return a path without detours, trailing slashes and blanks around names; "." for the workspace itself.

    Example:
        >>> normal("./a//b/../train.py /")
        'a/train.py'
    """
    return posixpath.normpath("/".join(part.strip() for part in path.replace("\\", "/").split("/")))


def key(path: str) -> str:
    r"""Return what two spellings of one file have in common, on any common file system.

    Example:
        >>> key("./Cafe\u0301.CSV") == key("caf\u00e9.csv")
        True
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", normal(path)).casefold())


def is_protected(path: str, globs: tuple[str, ...]) -> bool:
    """Return whether a path, or a folder that it lies in, matches one of the globs in any spelling.

    Example:
        >>> is_protected("x/../Train.CSV", ("./train.csv",)), is_protected("images/1/2.png", ("images",))
        (True, True)
    """
    clean = key(path)
    patterns = [key(glob) for glob in globs]
    parents = [clean] + [clean[:i] for i, letter in enumerate(clean) if letter == "/"]
    return any(fnmatch.fnmatchcase(name, pattern) for name in parents for pattern in patterns)
