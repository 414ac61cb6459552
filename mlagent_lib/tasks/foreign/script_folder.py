"""Makes a task of a folder with one script that may change, a fixed evaluation, and a metric at its end.

This is the layout of autoresearch and its relatives: an agent edits ``train.py``, runs it, and keeps what is
better. The folder is copied; every other file becomes read-only, a driver runs the script and takes the
metric (`script_driver` says how, and what that guards against), and the starter is measured.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlagent_lib.core.files import sha256_bytes, write_text
from mlagent_lib.core.limits import Limits
from mlagent_lib.tasks.attempt import Execute
from mlagent_lib.tasks.env_folder import divide
from mlagent_lib.tasks.folder import drafted
from mlagent_lib.tasks.foreign.mlagentbench import adopt_folder
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.task import Task, load_task

DRIVER = "run_fixed.py"
# "Success" of MLAgentBench is more than 10 % over the starter: a stated stand-in for a best score.
PROXY = 0.1
LONGEST_PROGRAM = 8000  # ours: characters of the folder's own instructions that the agent reads
PROGRAMS = ("program.md", "README.md")
_SKIPPED = shutil.ignore_patterns(".*", "__pycache__", "*.pyc", "node_modules", "submission.csv")
_EVAL = '''"""Reads the metric that the driver handed in."""

import os


def get_score(folder):
    """Return the number below the name of the metric."""
    with open(os.path.join(folder, "submission.csv")) as handle:
        name, value = handle.read().split()
    if name != {metric!r}:
        raise ValueError("the submission names another metric")
    return float(value)
'''
_REQUEST = """\
Make {metric} {better} by changing {files}. All other files are fixed. One run may take \
{limits.seconds:g} seconds, the evaluation included; {how}.
"""
_HOW = {
    "printed": "the metric is the last line that the script prints for it, and a script can print anything",
    "function": "the metric is what {place} returned to the script last; a printed line counts for nothing",
    "apart": "the metric is printed by {place}, which runs after the script in a folder without its code",
}


def command_of(text: str) -> list[str]:
    """Return script and arguments of a command that runs Python.

    Raises:
        TaskError: It runs something else.

    Example:
        >>> command_of("uv run train.py --fast"), command_of("python3 -u train.py")
        (['train.py', '--fast'], ['train.py'])
    """
    words = shlex.split(text)
    if words[:2] == ["uv", "run"]:
        words = words[1:]
    if words and re.fullmatch(r"uv|run|python[\d.]*", words[0]):
        words = [word for word in words[1:] if word not in ("-u", "-B")]
    if words[:1] == ["python"]:
        words = words[1:]
    if not words or not words[0].endswith(".py"):
        raise refusal("no python command", text=text)
    return words


def adopt_script(
    folder: str | Path,
    out: str | Path,
    execute: Execute,
    *,
    edit: Sequence[str],
    run: str,
    metric: str,
    greater_is_better: bool,
    limits: Limits,
    evaluate: str = "",
    best: float | None = None,
    best_source: str = "",
) -> Task:
    """Return the task that was made of a folder, after its script was run once, isolated.

    Args:
        folder: Stays as it is.
        out: The task's folder; must not exist.
        execute: See `isolated_runs`.
        edit: Files that may change; the script that ``run`` names is one of them.
        run: The command, e.g. ``python train.py``.
        metric: Its name, as it is printed.
        limits: Of one run, evaluation included.
        evaluate: "", ``file.py:function`` or ``file.py``: where the metric is taken, see `script_driver`.
        best: Best known score; None for a proxy, a tenth better than the script's.
        best_source: Where it comes from.

    Raises:
        TaskError: Something that was named is not there, the script fails or gives no metric.
    """
    source, target, command = Path(folder), Path(out), command_of(run)
    place, _, function = evaluate.partition(":")
    if target.exists():
        raise refusal("script folder exists", path=target)
    for name in (*edit, command[0], *([place] if place else [])):
        if not (source / name).is_file():
            raise refusal("no such file", folder=source, name=name)
    if command[0] not in edit:
        raise refusal("script is fixed", script=command[0], edit=", ".join(edit))
    if place in edit:
        raise refusal("evaluation may change", place=place)
    if not re.fullmatch(r"[\w@-]+", metric):
        raise refusal("no metric name", metric=metric)
    how = _HOW["function" if function else "apart" if place else "printed"].format(place=evaluate)
    facts = (how, f"only {', '.join(edit)} may change")
    with drafted(target) as draft:
        shutil.copytree(source, draft / "env", ignore=_SKIPPED)
        protected = _protect(draft, edit, command, metric, evaluate)
        write_text(draft / "scripts" / "eval.py", _EVAL.format(metric=metric))
        write_text(draft / "scripts" / "read_only_files.txt", "\n".join(protected) + "\n")
        better = "higher" if greater_is_better else "lower"
        asked = _request(source, edit, metric, better, limits, how)
        write_text(draft / "scripts" / "research_problem.txt", asked)
        stated = {"metric": metric, "starter": command[0], "driver": DRIVER, "facts": facts}
        task = load_task(draft, greater_is_better=greater_is_better, limits=limits, **stated)
        task = replace(task, name=target.name)
        sign = 1 if greater_is_better else -1
        proxy = "a proxy: a tenth better than the script as it came"
        aim = best if best is not None else lambda score: score + sign * (PROXY * abs(score) or PROXY)
        told = best_source or (proxy if best is None else "")
        adopt_folder(task, execute, best=aim, best_provenance=told)
    return load_task(target)


def _protect(draft: Path, edit: Sequence[str], command: list[str], metric: str, evaluate: str) -> list[str]:
    """Write the driver and its job, and return the globs of what may not change."""
    env = draft / "env"
    write_text(env / DRIVER, Path(__file__).with_name("script_driver.py").read_text(encoding="utf-8"))
    names = sorted(path.relative_to(env).as_posix() for path in env.rglob("*") if path.is_file())
    protected = [*(name for name in names if name not in edit), "driver.json"]
    texts, linked = divide(env, tuple(protected))
    fixed = {name: sha256_bytes(data) for name, data in texts.items() if name in protected}
    linked = list(linked) or (["data"] if (env / "data").is_dir() else [])
    job = {"command": command, "metric": metric, "evaluate": evaluate, "fixed": fixed, "linked": linked}
    write_text(env / "driver.json", json.dumps(job, indent=1) + "\n")
    return protected


def _request(source: Path, edit: Sequence[str], metric: str, better: str, limits: Limits, how: str) -> str:
    """Return what the agent is asked: the folder's own instructions, and the rules of the task."""
    found = (source / name for name in PROGRAMS if (source / name).is_file())
    program = next((path.read_text(encoding="utf-8", errors="replace") for path in found), "")
    told = _REQUEST.format(metric=metric, better=better, files=" and ".join(edit), limits=limits, how=how)
    return f"{told}\n{program[:LONGEST_PROGRAM]}".strip() + "\n"
