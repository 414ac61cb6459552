"""``mlagent ablations``, also as ``mlagent run --profile ablations``: all arms, tables and figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mlagent_lib.core.arms import ARMS, PROFILE
from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.parameters import checked

HELP = """\
Trains and measures every arm of the comparison over seeds: each is a laptop run with one change. A unit of
work is one process on one core; a finished unit is never made again. Ends with the tables, the claims with
their verdicts, the figures, and the notebook 05 executed on them, in runs/ablations.

Without --seeds every arm runs over seeds 0 to 2, and the arms of the claims that end close over 3 and 4 too.

examples:
  mlagent ablations                      all arms; the same as mlagent run --profile ablations
  mlagent ablations --plan               what is finished, what is left, and about how long it takes
  mlagent ablations --arms full sft rl-from-base episode-wise     some arms, with what they need
  mlagent ablations --seeds 0 1 2 3 4    five seeds of every arm
  mlagent ablations --gather --out figures/ablations    tables and figures of what is finished
  mlagent ablations --gather --add --out figures/ablations
                                         the same, and keep the units that figures/ablations already holds and
                                         this folder of runs does not: arms made on several machines"""


def add(commands: Any, plain: type) -> None:
    """Add the command to the parser."""
    parser = commands.add_parser(
        "ablations", help="all arms over seeds: hours, resumable", formatter_class=plain, description=HELP
    )
    parser.add_argument("--runs-dir", default="runs", help="folder of all runs, default runs")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: see above")
    names = ", ".join(arm.name for arm in ARMS)
    parser.add_argument("--arms", nargs="+", metavar="ARM", help=f"all where not given: {names}")
    parser.add_argument("--jobs", type=int, default=0, help="units at once, default one for each core")
    parser.add_argument("--out", help="folder of tables and figures, default <runs-dir>/ablations")
    parser.add_argument("--plan", action="store_true", help="start nothing, say what is left")
    parser.add_argument(
        "--gather", action="store_true", help="train nothing: tables and figures of what is there"
    )
    parser.add_argument(
        "--add", action="store_true", help="keep what the folder --out holds of units that are not there"
    )
    parser.set_defaults(call=call)


def call(arguments: argparse.Namespace) -> int:
    """Do what the arguments of ``mlagent ablations`` say."""
    from mlagent_lib.arms.finish import finish
    from mlagent_lib.arms.schedule import plan, plan_lines, run

    runs_dir, arms = Path(checked("runs_dir", arguments.runs_dir, "runs")), arguments.arms
    arguments.jobs = checked("jobs", arguments.jobs, 0)
    seeds = arguments.seeds and [checked("seed", seed, 0) for seed in arguments.seeds]
    unknown = sorted(set(arms or ()) - {arm.name for arm in ARMS})
    if unknown:
        raise ProfileError(
            f"arm {unknown[0]!r} is unknown", cure=f"choose of {', '.join(arm.name for arm in ARMS)}"
        )
    if arguments.plan:
        for line in plan_lines(plan(runs_dir, seeds, arms), arguments.jobs):
            print(line)
        return 0
    if not arguments.gather:
        run(runs_dir, seeds, arms=arms, jobs=arguments.jobs, say=lambda line: print(line, flush=True))
    out = Path(arguments.out) if arguments.out else runs_dir / PROFILE
    for line in finish(runs_dir, out, seeds, notebooks=not arguments.gather, add=arguments.add):
        print(line, flush=True)
    return 0


def from_run(arguments: argparse.Namespace, parameters: dict[str, Any]) -> int:
    """Do ``mlagent run --profile ablations``: seeds and jobs may be given as parameters.

    Raises:
        ProfileError: Another parameter was given, or an option that has no meaning here.
    """
    unknown = sorted(set(parameters) - {"seeds", "jobs"})
    if unknown or arguments.run_id or arguments.seed:
        raise ProfileError(
            f"the profile {PROFILE} runs all arms over seeds; it takes no --seed, no --run-id, no parameter "
            "but seeds and jobs",
            cure="write -p seeds=5 for five seeds of every arm, or see 'mlagent ablations --help'",
        )
    for name, value in parameters.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < (name == "seeds"):
            raise ProfileError(
                f"parameter {name} is {value!r}",
                cure="give a whole number: how many seeds, at least 1, or how many units at once",
            )
    seeds = list(range(parameters["seeds"])) if "seeds" in parameters else None
    words = {"seeds": seeds, "jobs": parameters.get("jobs", 0), "arms": None, "out": None}
    words |= {"plan": False, "gather": False, "add": False}
    return call(argparse.Namespace(runs_dir=arguments.runs_dir, **words))
