"""What of a task's ``env/`` is copied into every workspace, and what a run reads by reference.

MLAgentBench copies all of ``env/`` for each run and each step. Here the small texts are copied, for they are
what an agent reads and edits and what a state holds; everything else (tables, images, weights) stays where it
is and is linked into the workspace, readable and never writable.
"""

from __future__ import annotations

import os
from pathlib import Path

from mlagent_lib.core.spelling import is_protected

SUBMISSION = "submission.csv"
LARGEST_TEXT = 1 << 20
LARGEST_READ_ONLY = 64 << 10  # a protected text above this is data: nobody edits it and nobody reads it whole
MOST_FILES = 40  # of a workspace at its start; the agent may add some
MOST_BYTES = 4 << 20
MOST_IN_FOLDER = 20  # a folder without code that holds more files than this is data
_CODE = (".py", ".sh", ".yaml", ".yml", ".toml", ".cfg", ".json")


def divide(env: Path, read_only: tuple[str, ...]) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return the files to copy, by path relative to ``env/``, and the names to link; none for ``data`` alone.

    The folder ``data`` is always linked. A folder without a script that holds many files, or one that is no
    text, is linked as a whole.
    """
    files: dict[str, bytes] = {}
    links: list[str] = []
    _visit(env.resolve(), "", read_only, files, links)
    _spill(files, links)
    return dict(sorted(files.items())), () if links in ([], ["data"]) else tuple(sorted(links))


def strays(env: Path) -> list[str]:
    """Return the links of ``env/`` that lead out of it: no run can read what is there."""
    root, found = env.resolve(), []
    for folder, folders, names in os.walk(env):
        for name in (*folders, *names):
            path = Path(folder, name)
            if path.is_symlink() and not path.resolve().is_relative_to(root):
                found.append(path.relative_to(env).as_posix())
    return sorted(found)


def _visit(
    env: Path, prefix: str, read_only: tuple[str, ...], files: dict[str, bytes], links: list[str]
) -> None:
    with os.scandir(env / prefix) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = prefix + entry.name
        if entry.name == "__pycache__" or name == SUBMISSION:  # only a run itself hands one in
            continue
        if entry.is_symlink():
            if Path(entry.path).resolve().is_relative_to(env):
                links.append(name)
        elif entry.is_dir():
            if name == "data" or _is_data(Path(entry.path)):
                links.append(name)
            else:
                _visit(env, name + "/", read_only, files, links)
        elif entry.is_file():
            content = _text_of(Path(entry.path), is_protected(name, read_only))
            if content is None:
                links.append(name)
            else:
                files[name] = content


def _text_of(path: Path, is_read_only: bool) -> bytes | None:
    """Return the content of a small text, None for anything else."""
    if path.stat().st_size > (LARGEST_READ_ONLY if is_read_only else LARGEST_TEXT):
        return None
    content = path.read_bytes()
    return None if b"\0" in content else content


def _is_data(folder: Path) -> bool:
    names = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    if any(path.suffix == ".py" for path in names):
        return False
    return len(names) > MOST_IN_FOLDER or any(
        _text_of(path, False) is None for path in names if path.is_file()
    )


def _spill(files: dict[str, bytes], links: list[str]) -> None:
    """Link the largest texts that are no code, until what is copied is few and small."""
    rest = sorted((name for name in files if not name.endswith(_CODE)), key=lambda name: len(files[name]))
    while rest and (len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_BYTES):
        name = rest.pop()
        del files[name]
        links.append(name)
