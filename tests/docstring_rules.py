"""The rules of docstrings: every public name has one, and it says nothing that its function does not do.

Read from the source without importing it. The form is Google's: a first sentence, paragraphs, sections.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mlagent_lib

PACKAGE = Path(mlagent_lib.__file__).parent
_ARGS = re.compile(r"^Args:\n(.*?)(?=^\w+:$|\Z)", re.MULTILINE | re.DOTALL)
_ENTRY = re.compile(r"^    \*{0,2}([\w.]+): ", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One public class, function or method, with its class in the name."""

    name: str
    text: str
    parameters: tuple[str, ...] | None  # None for a class without ``__init__``
    returns: bool


def problems(package: Path = PACKAGE) -> list[str]:
    """Return one line for each docstring that is missing or says what its function does not do."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[-1].startswith("_") and parts[-1] != "__init__":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if not ast.get_docstring(tree):
            found.append(f"{module}: no docstring")
        found += [f"{module}.{entry.name}: {what}" for entry in _entries(tree.body) for what in _wrong(entry)]
    return found


def _entries(body: list[ast.stmt], owner: str = "") -> Iterator[Entry]:
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        text, name = ast.get_docstring(node) or "", owner + node.name
        if isinstance(node, ast.FunctionDef):
            yield Entry(name, text, _parameters(node), _gives_back(node))
            continue
        made = _maker(node, body)
        yield Entry(name, text, _parameters(made) if made else None, False)
        yield from _entries(node.body, f"{node.name}.")


def _maker(node: ast.ClassDef, body: list[ast.stmt]) -> ast.FunctionDef | None:
    """Return the ``__init__`` of a class, also where a base in the same module has it; None without one."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item
    bases = {ast.unparse(base) for base in node.bases}
    owners = [item for item in body if isinstance(item, ast.ClassDef) and item.name in bases]
    return next((made for item in owners if (made := _maker(item, body))), None)


def _parameters(node: ast.FunctionDef) -> tuple[str, ...]:
    given = node.args
    rest = [item for item in (given.vararg, given.kwarg) if item]
    names = [item.arg for item in (*given.posonlyargs, *given.args, *given.kwonlyargs, *rest)]
    return tuple(name for name in names if name not in ("self", "cls"))


def _gives_back(node: ast.FunctionDef) -> bool:
    """Return whether a function returns or yields a value, or has no body to tell (a protocol's)."""
    is_bare = all(isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant) for item in node.body)
    return is_bare or any(
        isinstance(item, (ast.Yield, ast.YieldFrom)) or (isinstance(item, ast.Return) and item.value)
        for item in ast.walk(node)
    )


def _wrong(entry: Entry) -> Iterator[str]:
    if not entry.text:
        yield "no docstring"
    elif not re.search(r"[.:?!]$", entry.text.split("\n\n")[0]):
        yield "the first sentence does not end"
    section = _ARGS.search(entry.text)
    for name in _ENTRY.findall(section[1]) if section else ():
        if name not in (entry.parameters or ()):
            yield f"it explains an argument {name!r} that it does not have"
    if entry.text.startswith("Return ") and not entry.returns:
        yield "it says that it returns something, and does not"
