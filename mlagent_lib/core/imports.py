"""What Python files import, read without running them."""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Mapping


@functools.lru_cache(maxsize=256)
def imported(source: bytes) -> frozenset[str]:
    """Return the modules that a file names in its imports, as written; none where it is no Python.

    Example:
        >>> sorted(imported(b"import os, numpy as np\\nfrom sklearn.metrics import log_loss"))
        ['numpy', 'os', 'sklearn.metrics']
    """
    found: set[str] = set()
    try:
        nodes = list(ast.walk(ast.parse(source)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return frozenset()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return frozenset(found)


def standard_only(files: Mapping[str, bytes], script: str) -> bool:
    """Return whether a script, as far as its text tells, needs no library but the standard one.

    Args:
        files: The files beside it, by their path; modules among them are followed.

    Example:
        >>> standard_only({"a.py": b"import csv, b", "b.py": b"import json"}, "a.py")
        True
        >>> standard_only({"a.py": b"import csv, b", "b.py": b"import numpy"}, "a.py")
        False
    """
    todo, seen = [script], set()
    while todo:
        path = todo.pop()
        seen.add(path)
        if b"import_module" in files[path] or b"__import__" in files[path]:
            return False
        for top in {name.partition(".")[0] for name in imported(files[path])}:
            beside = [p for p in files if p == f"{top}.py" or (p.startswith(f"{top}/") and p.endswith(".py"))]
            todo += [path for path in beside if path not in seen]
            if not beside and top not in sys.stdlib_module_names:
                return False
    return True
