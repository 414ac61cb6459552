"""The command ``mlagent``: reads the command line, calls the library, explains errors. No logic of its own.

Exit codes: 0 done; 1 a notebook failed, or a check found something; 2 wrong input, with one line that says
what to do. An unexpected error keeps its traceback.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlagent_lib import __version__
from mlagent_lib.commands import (
    ablations,
    agent,
    bench_gpu,
    card_memory,
    docs,
    export,
    export_model,
    import_mlebench,
    mlagentbench,
    paper,
    tasks_new,
    view,
)
from mlagent_lib.core.errors import MlagentError, ProfileError

RUN_HELP = """\
Executes the notebooks in order into runs/<id>/ and ends with runs/<id>/report.html.

examples:
  mlagent run                            the main job: profile laptop, seed 0, at most 15 minutes
  mlagent run --profile smoke            the whole chain in toy size, at most 3 minutes
  mlagent run --seed 1                   another seed, into runs/laptop-seed1
  mlagent run --profile ablations        all arms of the comparison over seeds: hours, resumable
  mlagent run --run-id mine              into a folder of your choice
  mlagent run -p name=value              a parameter that a notebook declares in its first code cell
  mlagent run --tasks ./churn --run-id churn     tasks of your own (see mlagent tasks new), the same story
  mlagent run --tasks ./house --test-tasks ./imdb -p ideas=ideas.txt -p coder=openai:<model>@<url>
                                         folders of other benchmarks, which no catalogue of ideas fits

Parameters for tasks without a catalogue:
  -p ideas=FILE                          one idea a line, such as  data: Fill gaps with the median.
                                         in place of data: also model: or learning:; none stands for model:
  -p expert=openai:<model>@<url>         a model writes the ideas, and carries them out
  -p coder=openai:<model>@<url>          a model edits the scripts: the pocket model knows pocket scripts only

A run that was stopped goes on when the same command is started again: finished stages are kept."""

TASKS_HELP = """\
examples:
  mlagent tasks list                     the 19 pocket tasks and the paper's task that each stands in for
  mlagent tasks list --split held-out    only those that are never trained on
  mlagent tasks show NAME                card, limits, scores and what the agent is asked
  mlagent tasks check NAME               check one task (a name or a folder); without NAME, all
  mlagent tasks check FOLDER --better lower --seconds 60     a folder of MLAgentBench, without task.yaml
  mlagent tasks prepare FOLDER           run its own prepare.py, once
  mlagent tasks adopt FOLDER --better lower --best 0.05      write its task.yaml, so that it can be named
  mlagent tasks new NAME --data train.csv --target y --metric auc    a task of your own table
  mlagent tasks import-mlebench --help   a prepared competition of MLE-bench becomes a task folder
  mlagent tasks prepare                  build the suite now instead of at its first use
  mlagent tasks list --suite paper       the paper's own 19 tasks: size, time and command of each
  mlagent tasks prepare paper/NAME       fetch and prepare one of them, with your Kaggle login"""

DOCTOR_HELP = """\
Shows what this machine offers: isolation of scripts, versions against the pins, cores, memory, disk, GPU.

Of the isolation it tells which layers are active, what is not guaranteed here, and how to get more.
Exit code 0 where scripts can be run safely, 1 where they are refused.

example:
  mlagent doctor                         run it first when something does not work"""

FIGURES_HELP = """\
Draws the committed figures again from their CSV files, in seconds and without training.

examples:
  mlagent figures                        redraw figures/
  mlagent figures --check                write nothing; exit 1 if a figure would change
  mlagent figures --folder runs/laptop-seed0/figures
  mlagent figures --runs runs/laptop-seed0 runs/laptop-seed1 runs/laptop-seed2
                                         make figures/ and the READMEs' tables from finished runs
  mlagent figures --readme               write the tables of the READMEs again from the committed files"""

BENCH_HELP = """\
Measures how fast experiments run here, side by side in one run, and prints medians with their quartiles:
  a  a warm, isolated, graded step against cold `python train.py`     d  snapshot and restore of a workspace
  b  a step against the bare script in a loaded interpreter           e  overhead of a GRPO step
  c  two workers against one                                          f  the cache on a finished laptop run

examples:
  mlagent bench                          all of it on a quiet machine: about five minutes
  mlagent bench --only abcd              without a model and without a finished run: about two minutes
  mlagent bench --run runs/laptop-seed1  question f on another run
  mlagent bench --out figures/bench.json the committed numbers again; `mlagent figures --readme` puts them
                                         into the README"""

PRETRAIN_HELP = """\
Rebuilds the pocket model from nothing: corpus, tokenizer, weights, measurement and card. No network.

examples:
  mlagent pretrain --out build/pocket    the shipped model again: hours on two cores, resumable
  mlagent pretrain --out build/toy --profile smoke     a toy, to see the code run"""

PROFILES_HELP = """\
examples:
  mlagent profiles                       the profiles and what each is for
  mlagent profiles laptop                every constant of one, the paper's value and the source"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Args:
        argv: The words after ``mlagent``; those of this process where not given.

    Example:
        >>> main(["profiles", "lapto"])
        2
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = _parser().parse_args([_with_home(word) for word in words])
        return arguments.call(arguments) or 0
    except MlagentError as error:
        print(f"mlagent: {_one_line(error)}", file=sys.stderr)
        return getattr(error, "exit_code", 2)
    except KeyboardInterrupt:
        print("\nmlagent: stopped; start the same command again to go on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has gone, as in `mlagent tasks list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _with_home(word: str) -> str:
    """Return a word with the home folder in place of ``~/``, which no shell expands behind an option's ``=``.

    Example:
        >>> _with_home("--out=~/page.html") == "--out=" + _with_home("~/page.html"), _with_home("~")
        (True, '~')
    """
    option, place = re.fullmatch(r"(--[a-z-]+=)?(.*)", word, re.DOTALL).groups("")
    return option + (os.path.expanduser(place) if place.startswith("~/") else place)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all commands."""
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="mlagent",
        formatter_class=plain,
        description="Reproduce ML-Agent (arXiv 2505.23723), from a laptop without a GPU to one large card.",
        epilog="start with: mlagent run          each command explains itself: mlagent COMMAND --help",
    )
    parser.add_argument("--version", action="version", version=f"mlagent-kit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser(
        "run", help="the main job: all notebooks, then a report", formatter_class=plain, description=RUN_HELP
    )
    run.add_argument("--profile", default="laptop", help="default laptop; see mlagent profiles")
    run.add_argument("--seed", type=int, default=0, help="root of every random stream, default 0")
    run.add_argument("--runs-dir", default="runs", help="folder of all runs, default runs")
    run.add_argument("--run-id", help="folder of this run, default <profile>-seed<seed>")
    run.add_argument("-p", dest="parameters", action="append", default=[], metavar="name=value",
                     help="set a parameter of the notebooks; may be repeated")  # fmt: skip
    run.add_argument("--tasks", nargs="+", metavar="TASK",
                     help="folders or names of tasks to train on, in place of the profile's")  # fmt: skip
    run.add_argument("--test-tasks", nargs="+", metavar="TASK", default=[],
                     help="with --tasks: further tasks that are only evaluated")  # fmt: skip
    run.set_defaults(call=_run)

    _add_tasks(commands, plain)
    doctor = commands.add_parser(
        "doctor", help="what this machine offers", formatter_class=plain, description=DOCTOR_HELP
    )
    doctor.set_defaults(call=_doctor)

    figures = commands.add_parser(
        "figures", help="redraw the figures from their CSV", formatter_class=plain, description=FIGURES_HELP
    )
    figures.add_argument("--check", action="store_true", help="write nothing, exit 1 if one would change")
    figures.add_argument("--runs", nargs="+", metavar="RUN", help="make them anew from these finished runs")
    figures.add_argument("--readme", action="store_true", help="write the READMEs' tables again")
    figures.add_argument("--folder", help="folder of the figures, default figures/ of the checkout")
    figures.set_defaults(call=_figures)

    bench = commands.add_parser(
        "bench",
        help="how fast experiments run here",
        formatter_class=plain,
        description=BENCH_HELP + bench_gpu.HELP,
    )
    bench.add_argument("--only", metavar="LETTERS", help="only these questions, e.g. abd; default all")
    bench.add_argument("--run", default="runs/laptop-seed0", metavar="RUN", help="a finished run, for f")
    bench.add_argument("--tasks", nargs="+", metavar="NAME", default=(), help="pocket tasks; default all")
    bench.add_argument("--out", metavar="FILE", help="also write the numbers as JSON")
    bench_gpu.add_options(bench)
    bench.set_defaults(call=_bench)

    pretrain = commands.add_parser(
        "pretrain", help="rebuild the pocket model", formatter_class=plain, description=PRETRAIN_HELP
    )
    pretrain.add_argument("--out", required=True, help="folder for weights, tokenizer, card and measurements")
    pretrain.add_argument("--profile", default="laptop", help="whose constants to take, default laptop")
    pretrain.set_defaults(call=_pretrain)
    profiles = commands.add_parser(
        "profiles", help="the profiles and their constants", formatter_class=plain, description=PROFILES_HELP
    )
    profiles.add_argument("name", nargs="?", help="show every constant of this profile")
    profiles.set_defaults(call=_profiles)
    for module in (export, export_model, docs, view, agent, ablations, card_memory):
        module.add(commands, plain)
    return parser


def _add_tasks(commands: Any, plain: type) -> None:
    """Add ``mlagent tasks`` and its verbs."""
    tasks = commands.add_parser(
        "tasks", help="list, show, check, build and make tasks", formatter_class=plain, description=TASKS_HELP
    )
    verbs = tasks.add_subparsers(dest="verb", required=True, metavar="VERB")
    listing = verbs.add_parser("list", help="the pocket tasks")
    listing.add_argument("--split", choices=("held-in", "held-out"), help="only these")
    listing.set_defaults(call=_tasks_list)
    show = verbs.add_parser("show", help="one task in full")
    show.add_argument("task", metavar="NAME", help="name or folder of a task")
    show.set_defaults(call=_tasks_show)
    check = verbs.add_parser("check", help="check tasks: scores, splits, checksums, limits")
    check.add_argument("tasks", metavar="NAME", nargs="*", help="names or folders; all pocket tasks if none")
    mlagentbench.add_statements(check)
    check.set_defaults(call=_tasks_check)
    prepare = verbs.add_parser(
        "prepare", help="build the pocket suite, or a task of the paper", formatter_class=plain,
        description=paper.HELP,
    )  # fmt: skip
    what = "paper/<name>, or a folder of MLAgentBench; the pocket suite if none"
    prepare.add_argument("task", nargs="?", metavar="NAME", help=what)
    mlagentbench.add_options(prepare)
    paper.add_options(listing, prepare)
    prepare.set_defaults(call=_tasks_prepare)
    tasks_new.add(verbs, plain)
    import_mlebench.add(verbs, plain)
    mlagentbench.add(verbs, plain)


def _run(arguments: argparse.Namespace) -> int:
    from mlagent_lib.run.notebooks import parse_value, run_all

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
        return ablations.from_run(arguments, parameters)
    run_all(
        arguments.profile, arguments.seed, arguments.runs_dir, arguments.run_id, tasks=tasks,
        parameters=parameters, say=lambda line: print(line, flush=True),
    )  # fmt: skip
    return 0


def _tasks_list(arguments: argparse.Namespace) -> int:
    from mlagent_lib.tasks.task import list_tasks, load_task

    if arguments.suite == "paper":
        return paper.list_paper_tasks(arguments, _print_table)
    rows = [("task", "split", "modality", "metric", "better", "starter", "best", "stands in for")]
    for name in list_tasks(arguments.split):
        task = load_task(name)
        better = "higher" if task.greater_is_better else "lower"
        scores = (f"{group.get('report', float('nan')):.4g}" for group in (task.baseline, task.best))
        rows.append((name, task.split, task.modality, task.metric, better, *scores, task.paper_task))
    _print_table(rows)
    return 0


def _tasks_show(arguments: argparse.Namespace) -> int:
    from mlagent_lib.tasks.task import load_task, size_of

    task = load_task(arguments.task)
    print(f"{task.name}: {task.description}\n")
    limits = ", ".join(f"{name} {value:g}" for name, value in task.limits.to_json().items())
    rows = [
        ("stands in for", task.paper_task),
        ("split", task.split),
        ("kind", ", ".join(filter(None, (task.modality, task.kind, size_of(task, "visible rows"))))),
        ("metric", f"{task.metric}, {'higher' if task.greater_is_better else 'lower'} is better"),
        ("starter's score", ", ".join(f"{k} {v:.5g}" for k, v in task.baseline.items())),
        ("best known score", ", ".join(f"{k} {v:.5g}" for k, v in task.best.items())),
        ("found by", task.best_provenance),
        ("data", task.provenance),
        ("facts", ", ".join(task.facts)),
        ("labels", "one set: feedback and report are the same" if task.one_label_set else ""),
        ("limits of a script", limits),
        ("folder", str(task.folder)),
    ]
    _print_table([row for row in rows if row[1]])
    print(f"\nWhat the agent is asked:\n\n{task.research_problem}")
    return 0


def _tasks_check(arguments: argparse.Namespace) -> int:
    from mlagent_lib.environment.runner import Runner
    from mlagent_lib.environment.step import task_request
    from mlagent_lib.tasks.check import check_task
    from mlagent_lib.tasks.task import list_tasks

    bad = 0
    with Runner(workers=1) as runner:

        def execute(task: Any, files: dict[str, bytes]) -> object:
            return runner.run(task_request(task, files))

        for name in arguments.tasks or list_tasks():
            try:
                task = mlagentbench.load_stated(name, arguments)
                findings = check_task(task, execute)
            except MlagentError as error:
                print(f"{name}: {_one_line(error)}", file=sys.stderr, flush=True)
                bad += 1
                continue
            broken = [finding for finding in findings if not finding.ok]
            bad += bool(broken)
            held = len(findings) - len(broken)
            print(f"{name}: {held} rules hold, {len(broken)} do not", flush=True)
            if task.one_label_set:
                print("  one label set: feedback and report scores are the same number")
            for finding in broken:
                print(f"  {finding.where}: {finding.rule}: {finding.message}. What to do: {finding.cure}")
    return 1 if bad else 0


def _tasks_prepare(arguments: argparse.Namespace) -> int:
    from mlagent_lib.tasks.task import list_tasks, suite_home

    if arguments.task is not None:
        is_paper = arguments.task.startswith("paper/") or not Path(arguments.task).is_dir()
        return paper.prepare_paper(arguments) if is_paper else mlagentbench.prepare(arguments)
    print(f"{len(list_tasks())} tasks are in {suite_home()}")
    return 0


def _doctor(_arguments: argparse.Namespace) -> int:
    from mlagent_lib.core.provenance import git_state, pins, usable_cpus, versions
    from mlagent_lib.environment.runner import probe

    wanted = pins()
    found = versions(tuple(wanted)) if wanted else versions()
    rows = [("python", found.pop("python"), "")]
    for name in wanted or found:
        has, pin = found.get(name, "missing"), wanted.get(name, "")
        is_pin = not pin or has.split("+")[0] == pin  # +cpu and the like only say how it was built
        rows.append((name, has, "" if is_pin else f"the kit was made with {pin}"))
    print("isolation of scripts")
    report = probe()
    for line in report.lines:
        print(f"  {line}")
    print("versions" if wanted else "versions (the kit is not installed: no pins to compare with)")
    _print_table(rows, indent="  ")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    known = hasattr(os, "sysconf")  # not on Windows
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30 if known else 0.0
    state = git_state()
    commit = f"{state['commit'][:12]}{' with changes' if state['dirty'] else ''}" if state else "none"
    machine = [
        ("cores", f"{usable_cpus()} usable"),
        ("memory", f"{memory:.1f} GiB" if known else "unknown"),
        ("free disk", f"{free:.1f} GiB here"),
        ("GPU", "yes: nvidia-smi is there" if shutil.which("nvidia-smi") else "none seen: nothing needs one"),
        ("kit", f"{__version__}, commit {commit}"),
    ]
    print("machine")
    _print_table(machine, indent="  ")
    return 0 if report.chosen else 1


def _figures(arguments: argparse.Namespace) -> int:
    from mlagent_lib.results.figures import redraw_all
    from mlagent_lib.run.notebooks import notebooks_folder

    folder = Path(arguments.folder) if arguments.folder else notebooks_folder().parent / "figures"
    if arguments.runs or arguments.readme:
        from mlagent_lib.run.publish import publish, refresh_documents

        if arguments.runs:
            publish(arguments.runs, folder)
            print(f"{folder}: made from {len(arguments.runs)} runs")
        for place in refresh_documents(folder.parent, folder):
            print(f"{folder.parent / place}: tables brought up to date")
        return 0
    changed = redraw_all(folder, check=arguments.check)
    if not arguments.folder:
        from mlagent_lib.results.arm_figures import build
        from mlagent_lib.run.publish import derive

        changed += derive(folder, check=arguments.check)
        changed += [f"ablations/{name}" for name in build(folder / "ablations", check=arguments.check)]
    for name in changed:
        print(f"{name}: {'would change' if arguments.check else 'redrawn'}")
    if not changed:
        print(f"all figures in {folder} are what their CSV files give")
    return 1 if changed and arguments.check else 0


def _bench(arguments: argparse.Namespace) -> int:
    if arguments.gpu:
        return bench_gpu.run(arguments, _print_table)
    from mlagent_lib.bench.measure import missed, run_bench, table

    run, only = Path(arguments.run), arguments.only
    if only is None and not (run / "04_evaluation").is_dir():
        only = "abcde"
        print(f"question f is left out: there is no finished run {run}")
    record = run_bench(
        only or "abcdef", run=run, tasks=arguments.tasks, out=Path(arguments.out) if arguments.out else None,
        say=lambda line: print(line, flush=True),
    )  # fmt: skip
    print(f"{record['device']}, isolation {record['tier']}, {record['scripts']} scripts")
    _print_table(table(record))
    for line in missed(record):
        print(line)
    return 0


def _pretrain(arguments: argparse.Namespace) -> int:
    import logging

    from mlagent_lib.core.profiles import get_profile

    constants = get_profile(arguments.profile).pretrain
    from mlagent_lib.training.pretrain import main as pretrain

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    pretrain(Path(arguments.out), constants)
    return 0


def _profiles(arguments: argparse.Namespace) -> int:
    from mlagent_lib.core.profiles import PROFILES, get_profile

    if arguments.name is None:
        rows = [("profile", "minutes", "model", "for")]
        for profile in PROFILES.values():
            minutes = f"{profile.budget_minutes:g}" if profile.budget_minutes else "-"
            rows.append((profile.name, minutes, profile.model, profile.purpose))
        _print_table(rows)
        return 0
    rows = [("stage", "constant", "value", "paper", "source and reason")]
    for row in get_profile(arguments.name).as_rows():
        paper = _short(row["paper"]) if row["differs"] else "same"
        reason = f"{row['source']}; {row['why']}" if row["why"] else row["source"]
        rows.append((row["stage"], row["name"], _short(row["value"]), paper, reason))
    print(f"{arguments.name}: {get_profile(arguments.name).purpose}\n")
    _print_table(rows)
    return 0


def _one_line(error: MlagentError) -> str:
    return " ".join(str(error).split())


def _short(value: Any) -> str:
    """Return a value as a cell of a table.

    Example:
        >>> [_short(value) for value in (1e-06, ("a", "b"), (), 3)]
        ['1e-06', 'a, b', '-', '3']
    """
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _print_table(rows: Sequence[tuple[str, ...]], indent: str = "") -> None:
    """Print rows in columns; the last column may be long and is not padded."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    for row in rows:
        padded = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=True)]
        print((indent + "  ".join([*padded, row[-1]])).rstrip())
