"""``mlagent serve``: tasks and saved states behind OpenEnv, for trainers of others."""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

from mlagent_lib.core.errors import MlagentError


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent serve`` say."""
    from mlagent_lib.agents.toolbox import toolbox
    from mlagent_lib.sockets.desk import Desk
    from mlagent_lib.tasks.registry import find_task, list_tasks

    names = list(arguments.task or ())
    if arguments.tasks:
        names += list_tasks(None if arguments.tasks == "all" else arguments.tasks)
    if not names:
        raise MlagentError("no task was named", cure="give --task NAME, or --tasks all")
    tasks = {task.name: task for task in map(find_task, names)}
    if arguments.package:
        from mlagent_lib.sockets.package import write_package

        for task in tasks.values():
            print(write_package(task, Path(arguments.package) / task.name, form=arguments.reward))
        return
    if find_spec("openenv") is None:
        raise MlagentError("the package openenv is missing", cure="pip install 'mlagent-kit[openenv]'")
    from mlagent_lib.sockets.openenv import serve

    pool = []
    if arguments.states:
        from mlagent_lib.training.dropin import read_states

        pool = [state for state in read_states(arguments.states)[0] if state.task in tasks]
    settings = {
        name: getattr(arguments, name) for name in ("coder", "workers", "cache", "tier", "allow_unsafe")
    }
    with toolbox(**settings) as tools:
        tools.runner.warm()
        desk = Desk(tasks, tools, pool, arguments.reward, arguments.max_steps)
        print(
            f"http://{arguments.host}:{arguments.port}: {len(tasks)} tasks, {len(pool)} saved states, "
            f"at most {arguments.sessions} sessions, {arguments.workers} scripts at a time, "
            f"isolation {tools.runner.tier}; Ctrl-C ends it",
            file=sys.stderr,
        )
        serve(desk, arguments.host, arguments.port, arguments.sessions)
