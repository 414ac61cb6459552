"""``mlagent tasks import-mlebench``: a prepared competition of MLE-bench becomes a task folder."""

from __future__ import annotations

import argparse
from typing import Any

_PLACES = {  # part of a competition: its place in a folder, and the option that names the folder
    "public": ("public", "prepared"),
    "private": ("private", "prepared"),
    "grade": ("grade.py", "competition"),
    "description": ("description.md", "competition"),
}


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent tasks import-mlebench`` say."""
    from mlagent_lib.core.limits import Limits
    from mlagent_lib.environment.step import isolated_runs
    from mlagent_lib.tasks.foreign.mlebench import import_competition

    with isolated_runs() as execute:
        task = import_competition(
            arguments.name, arguments.out, _source(arguments), execute=execute, seed=arguments.seed,
            starter=arguments.starter, best=arguments.best,
            greater_is_better=None if arguments.better is None else arguments.better == "higher",
            limits=Limits(seconds=arguments.seconds, memory_bytes=int(arguments.memory_gb * 2**30)),
        )  # fmt: skip
    print(f"{task.folder}: {task.better} is better; starter {task.baseline['report']:.5g} on the report rows")
    print(f"best known {task.best['report']:.5g}: {task.best_provenance}")


def _source(arguments: argparse.Namespace) -> Any:
    """Return where the parts lie: a path that is given wins over its place in the two folders."""
    from mlagent_lib.core.errors import TaskError
    from mlagent_lib.tasks.foreign.mlebench_read import Competition, configured

    parts = {}
    for part, (name, option) in _PLACES.items():
        given, folder = getattr(arguments, part), getattr(arguments, option)
        if given is None and folder is None:
            raise TaskError(f"--{part} is not given", cure=f"give it, or --{option}")
        parts[part] = given or folder / name
    competition = arguments.competition
    source = Competition(
        **parts, leaderboard=arguments.leaderboard or (competition and competition / "leaderboard.csv"),
        answers=arguments.answers, sample=arguments.sample, id_column=arguments.id, metric=arguments.metric,
    )  # fmt: skip
    return configured(source, competition / "config.yaml") if competition else source
