"""The tables of refusals and of findings: each row is used, and gets what its braces stand for."""

from __future__ import annotations

import ast
from pathlib import Path
from string import Formatter

import pytest

from mlagent_lib.tasks import refusals
from mlagent_lib.tasks.contract import rules
from mlagent_lib.tasks.refusals import refusal

FOLDER = Path(refusals.__file__).parent
TREES = [ast.parse(path.read_text()) for path in sorted(FOLDER.rglob("*.py"))]
TEXTS = {
    "refusal": {reason: list(texts) for reason, texts in refusals.refusals().items()},
    "finding": {rule: [row["found"]] for rule, row in rules().items()},
}
OWN = {"refusal": {"made"}, "finding": {"where", "cure"}}  # arguments that are no field


def fields(texts: list[str]) -> set[str]:
    names = [name for text in texts for _, name, _, _ in Formatter().parse(text) if name]
    return {name.split(".")[0].split("[")[0] for name in names}


def calls(function: str) -> list[tuple[list[str], set[str | None]]]:
    """Return the texts that may be the first argument of each call, and the names of its fields."""
    found = []
    for node in (node for tree in TREES for node in ast.walk(tree) if isinstance(node, ast.Call)):
        if isinstance(node.func, ast.Name) and node.func.id == function:
            parts = [part.value for part in ast.walk(node.args[0]) if isinstance(part, ast.Constant)]
            given = {word.arg for word in node.keywords} - OWN[function]
            found.append(([part for part in parts if part in TEXTS[function]], given))
    return found


@pytest.mark.parametrize("function", TEXTS)
def test_every_row_is_used_and_every_call_fills_its_braces(function):
    wrong = []
    for names, given in calls(function):
        for name in names if None not in given else ():  # with ** nobody can tell without running it
            wrong += [name] if not fields(TEXTS[function][name]) <= given else []
    assert wrong == []
    said = {part.value for tree in TREES for part in ast.walk(tree) if isinstance(part, ast.Constant)}
    assert TEXTS[function].keys() <= said


def test_a_refusal_says_what_to_do():
    assert all(message and cure for message, cure in refusals.refusals().values())
    with pytest.raises(KeyError):
        refusal("no such reason")
