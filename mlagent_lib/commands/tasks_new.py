"""``mlagent tasks new``: a table of the reader's own becomes a checked task folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlagent_lib.commands.output import say


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent tasks new`` say."""
    from mlagent_lib.environment.step import isolated_runs
    from mlagent_lib.tasks.own.make import make_task
    from mlagent_lib.tasks.own.spec import OwnSpec

    spec = OwnSpec(
        name=arguments.name, data=arguments.data, target=arguments.target, metric=arguments.metric,
        id_column=arguments.id, text=arguments.text, group=arguments.group, drop=tuple(arguments.drop),
        keep=tuple(arguments.keep), keep_contradictions=arguments.keep_contradictions,
        seed=arguments.seed, best=arguments.best, seconds=arguments.seconds,
    )  # fmt: skip
    folder = arguments.out or Path(arguments.name)
    with isolated_runs() as execute:
        made = make_task(spec, folder, execute, say)
    task = made.task
    for note in made.notes:
        print(f"note: {note}")
    for name, scores in (("starter", task.baseline), ("best known", task.best)):
        print(f"{name}: {task.metric} {scores['feedback']:.4g} (feedback), {scores['report']:.4g} (report)")
    print(f"best known is {task.best_provenance}")
    print(f"{folder}: made and checked; look at it: mlagent tasks show {folder}")
