"""``mlagent tasks adopt``: the ``task.yaml`` that a folder of MLAgentBench lacks."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent tasks adopt`` say."""
    from mlagent_lib.environment.step import isolated_runs
    from mlagent_lib.tasks.foreign.mlagentbench import adopt_folder, check_adoptable, place_starter

    if (folder := Path(arguments.task)).is_dir():
        check_adoptable(folder)
        if arguments.starter is not None:
            arguments.starter = place_starter(folder, arguments.starter)
    given = load_stated(arguments.task, arguments)
    with isolated_runs() as execute:
        task = adopt_folder(given, execute, best=arguments.best, best_provenance=arguments.best_source)
    starter, best = (f"{scores['report']:.6g}" for scores in (task.baseline, task.best))
    print(f"{task.folder}/task.yaml: {task.better} is better; starter {starter}, best known {best} "
          f"({task.best_provenance})")  # fmt: skip
    print("one label set: feedback and report scores are the same number")


def load_stated(name: str, arguments: argparse.Namespace) -> Any:
    """Return a task; a folder without ``task.yaml`` takes from the command line what it does not state."""
    from mlagent_lib.core.limits import Limits
    from mlagent_lib.tasks.registry import find_task
    from mlagent_lib.tasks.task import load_task

    folder = Path(name)
    if not folder.is_dir() or (folder / "task.yaml").exists():
        return find_task(name)
    limits = Limits(seconds=arguments.seconds, memory_bytes=int(arguments.memory_gb * 2**30))
    up = None if arguments.better is None else arguments.better == "higher"
    names = ("best", "modality", "kind", "starter")
    stated = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    return load_task(folder, greater_is_better=up, limits=limits, **stated)
