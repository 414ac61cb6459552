"""Finds tasks by name: the pocket suite, the paper's tasks that are prepared, and any folder."""

from __future__ import annotations

import os
from pathlib import Path

from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.task import SPLITS, Task, load_task


def home_folder() -> Path:
    """Return where built suites are kept: ``MLAGENT_HOME``, or ``~/.cache/mlagent``."""
    return Path(os.environ.get("MLAGENT_HOME") or Path.home() / ".cache" / "mlagent")


def suite_home() -> Path:
    """Return the folder with the 19 pocket tasks, building it on the first use (some seconds)."""
    from mlagent_lib.tasks.pocket.suite import ensure_suite  # here, since it loads pandas and the sources

    return ensure_suite(home_folder())


def list_tasks(split: str | None = None) -> list[str]:
    """Return the names of the pocket tasks, in the order of the paper's table, without building them.

    Args:
        split: ``held-in`` (9), ``held-out`` (10), or None for all.

    Raises:
        TaskError: The split is unknown.

    Example:
        >>> len(list_tasks("held-in")), len(list_tasks("held-out"))
        (9, 10)
    """
    if split is not None and split not in SPLITS:
        raise refusal("unknown split", split=split, known=", ".join(SPLITS))
    from mlagent_lib.tasks.pocket.cards import CARDS  # here, since most that names a folder reads no cards

    return [card.name for card in CARDS if split in (None, card.split)]


def find_task(name: str | Path, *, home: Path | None = None) -> Task:
    """Return the pocket task of this name, the prepared task ``paper/NAME``, or the task in a folder.

    Args:
        name: A name of `list_tasks`, of a task of the paper, or a folder.
        home: Folder with tasks to look names up in; the pocket suite by default.

    Raises:
        TaskError: There is none, it is not prepared, or its folder cannot be loaded (see `load_task`).
    """
    folder = Path(name)
    if not folder.is_dir() and str(name).startswith("paper/"):
        from mlagent_lib.tasks.paper.recipes import prepared_folder  # here, for the same reason

        folder = prepared_folder(str(name), home or home_folder())
    if not folder.is_dir() and str(name) == folder.name:
        if home is None and str(name) not in list_tasks():
            raise refusal("unknown task", name=str(name), known=", ".join(list_tasks()))
        folder = (home or suite_home()) / str(name)
    return load_task(folder)
