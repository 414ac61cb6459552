"""Folders of MLAgentBench: prepare their data, read their grader before it runs, write the card they lack.

Such a folder (``env/``, ``scripts/``) is used as it is. What it does not state (direction, limits, starter's
and best known score) comes from the caller or from `known_tasks`, and may be written beside it as
``task.yaml``, which the benchmark itself does not read.
"""

from __future__ import annotations

import ast
import os
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from mlagent_lib.core.errors import SubmissionError, TaskError, Unscored
from mlagent_lib.core.files import write_bytes, write_text
from mlagent_lib.tasks.foreign.grader import FUNCTIONS
from mlagent_lib.tasks.foreign.known_tasks import known_folders
from mlagent_lib.tasks.foreign.old_code import diagnose
from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.task import Task, load_task

MARKER = "prepared"  # the file that MLAgentBench itself leaves in scripts/
CONTROL = "control.csv"
_MOST_OUTPUT = 1 << 20
_LAST_WORDS = 400  # characters of output that a message quotes

# what the tools that a prepare.py starts print when they fail; it often goes on, and fails later elsewhere
_DOWNLOAD_FAILURES = (
    (r"No such file or directory: 'kaggle'|kaggle: (?:command )?not found",
     "the program kaggle is missing", "pip install kaggle"),
    (r"Could not find kaggle\.json|401 (?:-|Client Error)|Unauthorized|You must authenticate",
     "Kaggle does not know you",
     "make an API token in your Kaggle settings and save it as ~/.kaggle/kaggle.json"),
    (r"403 (?:-|Client Error)|Forbidden",
     "the rules of the competition are not accepted",
     "open the competition's page, accept its rules (a phone number may be asked for), then try again"),
    (r"404 (?:-|Client Error)|Not Found", "the address is gone",
     "look for its new address and change prepare.py"),
    (r"No such file or directory: '(?:unzip|wget|git|tar)'|(?:unzip|wget|git|tar): (?:command )?not found",
     "one of the programs unzip, wget, git and tar is missing", "install it with the system's packages"),
    (r"No space left on device|\[Errno 28\]|Disk quota exceeded", "the disk is full", "free some space"),
    (r"No such file or directory: '(?:\./)?(?:MLAgentBench/)?benchmarks/[^']*'",
     "the path is written for another folder to start from",
     "write ../env in its place: prepare.py runs in scripts/"),
)  # fmt: skip


def prepare_folder(
    folder: Path, *, seconds: float = 3600.0, confirm: bool = False, again: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> bool:  # fmt: skip
    """Return whether a folder's ``prepare.py`` was run now: not where it was before, or where there is none.

    It is the benchmark's own program and runs with the caller's rights and network, started in ``scripts/``.

    Args:
        folder: The task's folder.
        seconds: The longest it may take.
        confirm: Answer its questions ("press any key" after a consent) with Enter, for a caller who has
            accepted what they ask for. Without it they are asked in the terminal, if there is one.
        again: Run it although it ran before.
        say: Told what happens.

    Raises:
        TaskError: There is no such folder, or the program failed: which line, which cause, what to do.
    """
    scripts = folder / "scripts"
    if not scripts.is_dir() or not (folder / "env").is_dir():
        raise TaskError(
            f"{folder} is no task folder: it needs env/ and scripts/", cure="give the folder of one task"
        )
    program, marker = scripts / "prepare.py", scripts / MARKER
    if not program.is_file():
        say(f"{folder.name} has no scripts/prepare.py: there is nothing to prepare")
        return False
    if marker.exists() and not again:
        say(f"{folder.name} is prepared already (scripts/{MARKER}); --again does it anew")
        return False
    say(f"{folder.name}: running scripts/prepare.py, the benchmark's own program, with your rights")
    code, output = _run_program(program, seconds, confirm)
    if code != 0:
        raise _failed(program, code, output, seconds)
    write_text(marker, "success\n")
    say(f"{folder.name} is prepared")
    return True


def _run_program(program: Path, seconds: float, confirm: bool) -> tuple[int | None, str]:
    """Return exit code (None when it was stopped) and output of a program started in its own folder.

    With a terminal it may ask its questions there, and what it prints is shown as well as kept.
    """
    asks = not confirm and sys.stdin is not None and sys.stdin.isatty()
    with tempfile.TemporaryFile() as answers:
        answers.write(b"\n" * 20 if confirm else b"")
        answers.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-u", program.name], cwd=program.parent, stdin=None if asks else answers,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=not asks,
        )  # fmt: skip
        try:
            output = _listen(process, time.monotonic() + seconds, echo=asks)
            code = process.poll()
        finally:
            if process.poll() is None:
                _stop(process, group=not asks)
            process.stdout.close()
    return code, output.decode("utf-8", "replace").replace(f"{program.parent.resolve()}{os.sep}", "")


def _listen(process: subprocess.Popen, deadline: float, *, echo: bool) -> bytes:
    """Return what a process prints until it ends or its time is up."""
    found = b""
    while time.monotonic() < deadline:
        ended = process.poll() is not None
        ready = select.select([process.stdout], [], [], 0 if ended else 0.2)[0]
        data = os.read(process.stdout.fileno(), 1 << 16) if ready else b""
        if not data and ended:
            break
        if ready and not data:  # it has closed its output, and may go on working
            time.sleep(0.2)
        found = (found + data)[-_MOST_OUTPUT:]
        if echo:
            sys.stdout.write(data.decode("utf-8", "replace"))
            sys.stdout.flush()
    return found


def _stop(process: subprocess.Popen, group: bool) -> None:
    if group and hasattr(os, "killpg"):
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _failed(program: Path, code: int | None, output: str, seconds: float) -> TaskError:
    """Return the explanation of a failed ``prepare.py``: what its tools said, else where it stopped."""
    name = f"{program.parent.parent.name}/scripts/{program.name}"
    if code is None:
        return TaskError(f"{name} did not end within {seconds:g} s", cure="give it more time with --seconds")
    found = diagnose({program.name: program.read_bytes()}, program.name, "error", output, "scripts")
    for pattern, cause, cure in _DOWNLOAD_FAILURES:
        if re.search(pattern, output):
            return TaskError(f"{name} failed at {found}; cause: {cause}", cure=cure)
    if "EOFError" in found.error:
        return TaskError(
            f"{name} asks for your consent at line {found.line} ({found.source}), and there is no terminal",
            cure="do what it asks for, then run it in a terminal, or with --yes",
        )
    last = "" if found.line else f": {' '.join(output.split())[-_LAST_WORDS:]}"
    return TaskError(f"{name} failed with exit code {code} at {found}{last}", cure=found.cure)


# ---- the grader, read and not run ------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """What can be known of a foreign grader without running it.

    Attributes:
        problem: Why it cannot grade, with its line; "" for nothing found.
        cure: What to do about it.
    """

    problem: str = ""
    cure: str = ""


_UNPICKLERS = {
    ("pickle", "load"), ("pickle", "loads"), ("torch", "load"), ("joblib", "load"), ("dill", "load"),
    ("cloudpickle", "load"), ("pandas", "read_pickle"), ("pd", "read_pickle"),
}  # fmt: skip


def read_grader(script: Path, function: str = FUNCTIONS["folder"]) -> Reading:
    """Return what stands in the way of a grader, by its text alone.

    A grader that loads a model which a script saved would run code of that script beside the hidden labels,
    or load what this kit does not hand over: only ``submission.csv`` is archived and graded.

    Args:
        script: The Python file.
        function: The function that will be called.
    """
    if not script.is_file():
        return Reading(
            "it is missing", f"write a function {function}(submission_folder) that returns a number"
        )
    try:
        tree = ast.parse(script.read_bytes(), str(script))
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        return Reading(f"line {line}: {getattr(error, 'msg', error)}", "correct the file")
    names = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    names |= {alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom)
              for alias in node.names}  # fmt: skip
    if function not in names:
        return Reading(f"it has no function {function}", f"name the function that grades {function}")
    for node in ast.walk(tree):
        called = node.func if isinstance(node, ast.Call) else None
        if not isinstance(called, ast.Attribute):
            continue
        owner = called.value.id if isinstance(called.value, ast.Name) else ""
        if (owner, called.attr) in _UNPICKLERS or called.attr == "from_pretrained":
            return Reading(
                f"line {node.lineno} loads a saved model or object ({ast.unparse(called)}): what a script "
                "saved would run as code beside the labels",
                "let the script write its answers into submission.csv and grade these",
            )
    return Reading()


# ---- the card ----------------------------------------------------------------------------------------


def starter_scores(
    task: Task, execute: Callable[[Task, dict[str, bytes]], object]
) -> tuple[dict[str, float], bytes]:
    """Return the starter's score on each label set, and the submission that it wrote.

    Args:
        task: A task whose starter is ``env/train.py``.
        execute: Runs it: from (task, files) to an object with ``status``, ``output`` and ``collected``.

    Raises:
        TaskError: The starter fails or is refused: which line, which cause, what to change.
    """
    files = task.env_files()
    if "train.py" not in files:
        raise TaskError(f"{task.folder}: env/train.py is missing", cure="put a starter that runs there")
    ran = execute(task, files)
    if ran.status != "ok":
        found = diagnose(files, "train.py", ran.status, ran.output)
        raise TaskError(f"the starter of {task.name} fails: {found}", cure=found.cure)
    submission = ran.collected.get("submission.csv")
    try:
        return {labels: grade(task, submission, labels) for labels in ("feedback", "report")}, submission
    except SubmissionError as error:
        raise TaskError(
            f"the starter of {task.name} runs, but its submission.csv is refused: {error.reason}",
            cure="let env/train.py write submission.csv as scripts/eval.py reads it",
        ) from error
    except Unscored as error:
        raise TaskError(error.message, cure=error.cure) from error


def adopt_folder(
    task: Task, execute: Callable[[Task, dict[str, bytes]], object], *, best: float | None = None,
    best_provenance: str = "",
) -> Task:  # fmt: skip
    """Return the task after measuring its starter and writing its ``task.yaml`` and ``scripts/control.csv``.

    Afterwards the folder can be named wherever a task can, and a fresh process knows a submission that the
    grader accepts.

    Args:
        task: A folder without ``task.yaml``, loaded with direction and limits.
        execute: See `starter_scores`.
        best: Best known score; None for the known one.
        best_provenance: Where it comes from.

    Raises:
        TaskError: There is a card already, the starter fails, or the best known score does not beat it.
    """
    card = task.folder / "task.yaml"
    if card.exists():
        raise TaskError(f"{card} is there already", cure="edit it, or delete it first")
    if task.grader is None:
        raise TaskError(f"{task.folder} has no scripts/eval.py", cure="write get_score(submission_folder)")
    if best is None and not task.best:
        raise TaskError(
            f"the best known score of {task.name} is not known", cure="state it with --best SCORE"
        )
    task = replace(task, best=dict.fromkeys(("feedback", "report"), best)) if best is not None else task
    scores, submission = starter_scores(task, execute)
    sign = 1 if task.greater_is_better else -1
    if not sign * (task.best["feedback"] - scores["feedback"]) > 0:
        raise TaskError(
            f"the starter of {task.name} scores {scores['feedback']:g}, and the best known score "
            f"{task.best['feedback']:g} is not better",
            cure="state a better one with --best, or check --better",
        )
    control = task.folder / "scripts" / CONTROL
    write_bytes(control, submission)
    grader = replace(task.grader, control=control)
    known = known_folders().get(task.name)
    why = best_provenance or (task.best_provenance if best is None else "stated by the caller")
    written = {
        "name": task.name,
        "modality": task.modality,
        "kind": task.kind,
        "metric": task.metric,
        "direction": "maximize" if task.greater_is_better else "minimize",
        "split": "other",
        "description": task.description or f"A folder of MLAgentBench, {task.name}.",
        "facts": ["one label set: feedback and report scores are the same number"]
        + ([known.warning] if known and known.warning else []),
        "provenance": task.provenance or "MLAgentBench, github.com/snap-stanford/MLAgentBench",
        "grader": grader.to_card(task.folder),
        "baseline": scores,
        "best": task.best | {"provenance": why},
        "limits": task.limits.to_json(),
    }
    write_text(card, yaml.safe_dump(written, sort_keys=False, width=110, allow_unicode=True))
    return load_task(task.folder)
