"""What of a task's ``env/`` is copied into every workspace, and what a run reads by reference.

MLAgentBench copies all of ``env/`` for each run and each step. Here the small texts are copied, for they are
what an agent reads and edits and what a state holds; everything else (tables, images, weights) stays where it
is and is linked into the workspace, readable and never writable.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
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
    found = dict(_contents(env.resolve(), "", read_only))
    files = {name: content for name, content in found.items() if content is not None}
    links = [name for name in found if name not in files]
    _spill(files, links)
    return dict(sorted(files.items())), () if links in ([], ["data"]) else tuple(sorted(links))


def strays(env: Path) -> list[str]:
    """Return the links of ``env/`` that lead out of it: no run can read what is there."""
    root = env.resolve()
    walked = os.walk(env)
    paths = [Path(place, name) for place, folders, names in walked for name in (*folders, *names)]
    outside = [path for path in paths if path.is_symlink() and not path.resolve().is_relative_to(root)]
    return sorted(path.relative_to(env).as_posix() for path in outside)


def _contents(env: Path, prefix: str, read_only: tuple[str, ...]) -> Iterator[tuple[str, bytes | None]]:
    """Yield each name below a folder of ``env/``, with its bytes where it is copied, None where linked."""
    for path in sorted((env / prefix).iterdir()):
        name = prefix + path.name
        if path.name == "__pycache__" or name == SUBMISSION:  # only a run itself hands one in
            continue
        if path.is_symlink():
            if path.resolve().is_relative_to(env):
                yield name, None
        elif path.is_file():
            yield name, _text_of(path, is_protected(name, read_only))
        elif path.is_dir() and (name == "data" or _is_data(path)):
            yield name, None
        elif path.is_dir():
            yield from _contents(env, name + "/", read_only)


def _text_of(path: Path, is_read_only: bool) -> bytes | None:
    """Return the content of a small text, None for anything else."""
    if path.stat().st_size > (LARGEST_READ_ONLY if is_read_only else LARGEST_TEXT):
        return None
    content = path.read_bytes()
    return None if b"\0" in content else content


def _is_data(folder: Path) -> bool:
    paths = [Path(place, name) for place, _, names in os.walk(folder) for name in names]
    if any(path.suffix == ".py" for path in paths):
        return False
    texts = (_text_of(path, False) for path in paths if path.is_file())
    return len(paths) > MOST_IN_FOLDER or None in texts


def _spill(files: dict[str, bytes], links: list[str]) -> None:
    """Link the largest texts that are no code, until what is copied is few and small."""
    rest = sorted((name for name in files if not name.endswith(_CODE)), key=lambda name: len(files[name]))
    while rest and (len(files) > MOST_FILES or sum(map(len, files.values())) > MOST_BYTES):
        name = rest.pop()
        del files[name]
        links.append(name)
