"""The library's rooms: what lies at its top, which way imports point, and names that mean one thing."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ORDER = (
    "core", "tasks", "environment", "reward", "agents", "training", "results", "run", "arms", "bench", "gym",
    "sockets", "commands", "cli", "__main__",
)  # fmt: skip
PACKAGE = "mlagent_lib"
# Files that are run alone, in a process that must not import this package.
ALONE = ("environment/isolation", "tasks/foreign/standin", "tasks/foreign/grader_process.py")


@pytest.fixture(scope="module")
def sources(repository):
    """Return path, module name and syntax tree of every file of the library."""
    found = {}
    for path in sorted((repository / PACKAGE).rglob("*.py")):
        parts = path.relative_to(repository).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path, ast.parse(path.read_text())
    return found


def imported(name: str, path: Path, tree: ast.AST, known) -> set[str]:
    """Return the modules of the library that a file imports, also inside functions and in strings."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
            found |= {
                f"{base}.{item.name}" if f"{base}.{item.name}" in known else base for item in node.names
            }
        elif isinstance(node, ast.Import):
            found |= {item.name for item in node.names}
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set(re.findall(rf"^\s*(?:from|import) ({PACKAGE}[\w.]*)", node.value, re.M))
    return {module for module in found if module.split(".")[0] == PACKAGE and module != PACKAGE}


@pytest.fixture(scope="module")
def arrows(sources):
    return {name: imported(name, path, tree, sources) for name, (path, tree) in sources.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_top_holds_rooms_and_little_else(repository):
    files = {path.name for path in (repository / PACKAGE).iterdir() if path.is_file()}
    assert files == {"__init__.py", "__main__.py", "cli.py", "reward.py", "gym.py", "README.md"}
    rooms = {path.name for path in (repository / PACKAGE).iterdir() if (path / "__init__.py").is_file()}
    assert rooms <= set(ORDER)


def test_the_map_names_every_room(repository):
    text = (repository / PACKAGE / "__init__.py").read_text()
    places = [text.find(f"``{name}``") for name in ORDER if (repository / PACKAGE / name).is_dir()]
    assert min(places) > 0 and places == sorted(places), places


def test_imports_point_one_way(arrows):
    wrong = [
        f"{name} imports {other}"
        for name, others in arrows.items()
        for other in others
        if room(name) and ORDER.index(room(other)) > ORDER.index(room(name))
    ]
    assert wrong == []


def test_no_modules_import_each_other(arrows):
    graph = {name: {other for other in others if other != name} for name, others in arrows.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_imports_are_absolute_but_in_files_that_are_run_alone(repository, sources):
    for path, tree in sources.values():
        place = path.relative_to(repository / PACKAGE).as_posix()
        relative = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level]
        assert not relative or place.startswith(ALONE), place


def test_a_public_class_has_a_name_of_its_own(sources):
    places = defaultdict(list)
    for name, (_, tree) in sources.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_") and "standin" not in name:
                places[node.name].append(name)
    assert {name: found for name, found in places.items() if len(found) > 1} == {}
