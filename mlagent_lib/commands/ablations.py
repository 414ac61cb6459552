"""``mlagent ablations``, also as ``mlagent run --profile ablations``: all arms, tables and figures."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlagent_lib.commands.output import say
from mlagent_lib.core.errors import ProfileError


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent ablations`` say."""
    from mlagent_lib.arms.finish import finish
    from mlagent_lib.arms.schedule import plan, plan_lines, run
    from mlagent_lib.core.arms import ARMS, PROFILE
    from mlagent_lib.core.parameters import checked

    runs_dir, arms = Path(checked("runs_dir", arguments.runs_dir, "runs")), arguments.arms
    jobs = checked("jobs", arguments.jobs, 0)
    seeds = arguments.seeds and [checked("seed", seed, 0) for seed in arguments.seeds]
    known = [arm.name for arm in ARMS]
    if unknown := sorted(set(arms or ()) - set(known)):
        raise ProfileError(f"arm {unknown[0]!r} is unknown", cure=f"choose of {', '.join(known)}")
    if arguments.plan:
        print("\n".join(plan_lines(plan(runs_dir, seeds, arms), jobs)))
        return
    if not arguments.gather:
        run(runs_dir, seeds, arms=arms, jobs=jobs, say=say)
    out = arguments.out or runs_dir / PROFILE
    for line in finish(runs_dir, out, seeds, notebooks=not arguments.gather, add=arguments.add):
        say(line)


def from_run(arguments: argparse.Namespace, parameters: Mapping[str, Any]) -> None:
    """Do ``mlagent run --profile ablations``: seeds and jobs may be given as parameters.

    Raises:
        ProfileError: Another parameter was given, or an option that has no meaning here.
    """
    if set(parameters) - {"seeds", "jobs"} or arguments.run_id or arguments.seed:
        raise ProfileError(
            "the profile ablations runs all arms over seeds; it takes no --seed, no --run-id, no parameter "
            "but seeds and jobs",
            cure="write -p seeds=5 for five seeds of every arm, or see 'mlagent ablations --help'",
        )
    for name, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < (name == "seeds"):
            cure = "give a whole number: how many seeds, at least 1, or how many units at once"
            raise ProfileError(f"parameter {name} is {value!r}", cure=cure)
    seeds = list(range(parameters["seeds"])) if "seeds" in parameters else None
    words = {"runs_dir": arguments.runs_dir, "seeds": seeds, "jobs": parameters.get("jobs", 0)}
    words |= {"arms": None, "out": None, "plan": False, "gather": False, "add": False}
    return call(argparse.Namespace(**words))
