"""``mlagent tasks adopt-script``: a task from a folder with one script and a metric that it prints."""

from __future__ import annotations

import argparse


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent tasks adopt-script`` say."""
    from mlagent_lib.core.limits import Limits
    from mlagent_lib.environment.step import isolated_runs
    from mlagent_lib.tasks.foreign.script_folder import adopt_script

    source = arguments.folder.resolve()
    out = arguments.out or source.with_name(f"{source.name}-task")
    limits = Limits(seconds=arguments.seconds, memory_bytes=int(arguments.memory_gb * 2**30))
    names = ("edit", "run", "metric", "evaluate", "best", "best_source")
    stated = {name: getattr(arguments, name) for name in names}
    with isolated_runs() as execute:
        task = adopt_script(
            source, out, execute, greater_is_better=arguments.better == "higher", limits=limits, **stated
        )
    starter, best = (f"{scores['report']:.6g}" for scores in (task.baseline, task.best))
    print(f"{task.folder}: {task.metric}, {task.better} is better; the script as it came {starter}, "
          f"best known {best} ({task.best_provenance})")  # fmt: skip
    print("\n".join(task.facts))
