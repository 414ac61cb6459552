"""``mlagent run``: all notebooks in order, then a report."""

from __future__ import annotations

import argparse
from pathlib import Path

from mlagent_lib.commands.output import say
from mlagent_lib.core.errors import ProfileError


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent run`` say."""
    from mlagent_lib.core.parameters import checked
    from mlagent_lib.core.profiles import get_profile
    from mlagent_lib.run.notebooks import parse_value, run_all
    from mlagent_lib.training.timing import announce_time

    parameters = {}
    for text in arguments.parameters:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ProfileError("a -p has no name or no '='", cure="write -p name=value")  # it may be a key
        parameters[name.strip()] = parse_value(value)
    if arguments.test_tasks and not arguments.tasks:
        raise ProfileError("--test-tasks needs --tasks", cure="name the tasks to train on with --tasks")
    tasks = {"train": arguments.tasks, "test": arguments.test_tasks} if arguments.tasks else None
    if arguments.profile == "ablations":
        from mlagent_lib.commands.ablations import from_run

        return from_run(arguments, parameters)
    named = checked("model", parameters.get("model", ""), "")
    model = named or get_profile(arguments.profile).model
    if "/" in model and Path(model).exists():  # notebooks work in another folder
        model = parameters["model"] = str(Path(model).resolve())
    announce_time(get_profile(arguments.profile).with_model(model), say)
    run_all(
        arguments.profile, arguments.seed, arguments.runs_dir, arguments.run_id, tasks=tasks,
        parameters=parameters, say=say,
    )  # fmt: skip
