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
    (r"Could not find kaggle\.json|401\W+(?:Client Error|Unauthorized)|error: 401|Reason: Unauthorized|"
     r"You must authenticate",
     "Kaggle does not know you",
     "make an API token in your Kaggle settings and save it as ~/.kaggle/kaggle.json"),
    (r"403\W+(?:Client Error|Forbidden)|error: 403|Reason: Forbidden",
     "the rules of the competition are not accepted",
     "open the competition's page, accept its rules (a phone number may be asked for), then try again"),
    (r"404\W+(?:Client Error|Not Found)|error: 404|Reason: Not Found", "the address is gone",
     "look for its new address and change prepare.py"),
    (r"No such file or directory: '(?:unzip|wget|git|tar)'|(?:unzip|wget|git|tar): (?:command )?not found",
     "one of the programs unzip, wget, git and tar is missing", "install it with the system's packages"),
    (r"No space left on device|\[Errno 28\]|Disk quota exceeded", "the disk is full", "free some space"),
    (r"No such file or directory: '(?:\./)?(?:MLAgentBench/)?benchmarks/[^']*'",
     "the path is written for another folder to start from",
     "write ../env in its place: prepare.py runs in scripts/"),
    (r"unable to resolve host|[Cc]ould not resolve host|Name or service not known|Temporary failure in name "
     r"resolution|Max retries exceeded|URLError|urlopen error|curl: \(\d+\)|Giving up",
     "there is no network, or the server does not answer",
     "look at network and proxy, or put the files into env/ by hand"),
    (r"cannot find or open|End-of-central-directory|not in gzip format|does not look like a tar archive|"
     r"not recoverable", "an archive has not arrived, or is none", "fetch it by hand and put it into env/"),
)  # fmt: skip
_CHILD_FAILURES = (
    (r"\S+: (?:command )?not found", "a program that it starts is missing", "install it"),
    (r"Traceback \(most recent call last\)", "a program that it starts failed", "read what it printed"),
)


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
        TaskError: There is no such folder, or the program failed: which line, which cause, what to do. It
            has failed with exit code 0, too, if its tools told of a failure or it left no data behind.
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
    was_prepared, before = marker.exists(), _data_files(folder)
    marker.unlink(missing_ok=True)  # until it has ended well, nobody knows what lies there
    code, output = _run_program(program, seconds, confirm)
    if code != 0:
        raise _failed(program, code, output, seconds)
    made = _data_files(folder) - before
    _check_ended_well(program, output, made=bool(made) or was_prepared)
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
    files, home = {program.name: program.read_bytes()}, program.parent.parent
    found = diagnose(files, program.name, "error", output, "scripts", home)
    for pattern, cause, cure in _DOWNLOAD_FAILURES:
        if re.search(pattern, output):
            return TaskError(f"{name} failed at {replace(found, cause=cause)}", cure=cure)
    if "EOFError" in found.error:
        return TaskError(
            f"{name} asks for your consent at line {found.line} ({found.source}), and there is no terminal",
            cure="do what it asks for, then run it in a terminal, or with --yes",
        )
    last = "" if found.line else f": {' '.join(output.split())[-_LAST_WORDS:]}"
    return TaskError(f"{name} failed with exit code {code} at {found}{last}", cure=found.cure)


def _data_files(folder: Path) -> set[tuple]:
    """Return name, size and time of each file with content; an empty one is what a failed download leaves."""
    found = set()
    for part in ("env", "scripts"):
        for path in (folder / part).rglob("*"):
            if path.is_file() and "__pycache__" not in path.parts and (info := path.stat()).st_size:
                found.add((path.as_posix(), info.st_size, info.st_mtime_ns))
    return found


def _check_ended_well(program: Path, output: str, *, made: bool) -> None:
    """Raise `TaskError` where a ``prepare.py`` ended with 0 although what it started had failed."""
    name = f"{program.parent.parent.name}/scripts/{program.name}"
    override = f"if the data are there all the same, make an empty file scripts/{MARKER}"
    for pattern, cause, cure in (*_DOWNLOAD_FAILURES, *_CHILD_FAILURES):
        if found := re.search(rf"^.*(?:{pattern}).*$", output, re.MULTILINE):
            line = " ".join(found.group(0).split())[-_LAST_WORDS:]
            raise TaskError(f"{name} ended with 0, but printed {line!r}: {cause}", cure=f"{cure}; {override}")
    if not made:
        raise TaskError(
            f"{name} ended with 0, but put no data into env/ or scripts/",
            cure=f"see whether its download works; a run reads nothing outside of the folder; {override}",
        )


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
        task: A task with a starter.
        execute: Runs it: from (task, files) to an object with ``status``, ``output`` and ``collected``.

    Raises:
        TaskError: The starter fails or is refused: which line, which cause, what to change.
    """
    files = task.env_files()
    if task.starter not in files:
        others = ", ".join(name for name in files if name.endswith(".py")) or "no script"
        raise TaskError(
            f"{task.folder}: env/{task.starter} is missing",
            cure=f"put a starter that runs there, or name it with --starter; env/ holds {others}",
        )
    ran = execute(task, files)
    if ran.status != "ok":
        found = diagnose(files, task.starter, ran.status, ran.output, home=task.folder)
        raise TaskError(f"the starter of {task.name} fails: {found}", cure=found.cure)
    submission = ran.collected.get("submission.csv")
    try:
        return {labels: grade(task, submission, labels) for labels in ("feedback", "report")}, submission
    except SubmissionError as error:
        raise TaskError(
            f"the starter of {task.name} runs, but its submission.csv is refused: {error.reason}",
            cure=f"let env/{task.starter} write submission.csv as scripts/eval.py reads it",
        ) from error
    except Unscored as error:
        raise TaskError(error.message, cure=error.cure) from error


def check_adoptable(folder: Path) -> None:
    """Check what needs no run: that a folder has no card yet, and a grader that can be used.

    Raises:
        TaskError: It has a card, or its ``scripts/eval.py`` is missing or cannot grade.
    """
    if (folder / "task.yaml").exists():
        raise TaskError(f"{folder / 'task.yaml'} is there already", cure="edit it, or delete it first")
    script = folder / "scripts" / "eval.py"
    if (read := read_grader(script)).problem:
        raise TaskError(f"{script} cannot grade: {read.problem}", cure=read.cure)


def place_starter(folder: Path, starter: str) -> str:
    """Return the name of a starter below ``env/``; a file from elsewhere is copied there under its own name.

    Args:
        folder: The task's folder.
        starter: A path below ``env/``, or of a file elsewhere.

    Raises:
        TaskError: There is no such file, or another one of its name in ``env/``.
    """
    env, source = (folder / "env").resolve(), Path(starter)
    inside = (env / starter).resolve()
    if inside.is_file() and inside.is_relative_to(env):
        return inside.relative_to(env).as_posix()
    if not source.is_file():
        raise TaskError(
            f"there is no starter {starter}, neither in {folder / 'env'} nor elsewhere",
            cure="give --starter the name of a script in env/, or the path of one",
        )
    target = env / source.name
    if target.exists() and target.read_bytes() != source.read_bytes():
        raise TaskError(
            f"{folder / 'env' / source.name} is another file than {starter}, and stays as it is",
            cure="give the starter another name",
        )
    write_bytes(target, source.read_bytes())
    return source.name


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
        TaskError: There is a card already, the grader or the starter fails, or the best known score does not
            beat the starter's.
    """
    check_adoptable(task.folder)
    card = task.folder / "task.yaml"
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
        "description": task.description
        or (f"A folder of MLAgentBench, {task.name}." if known else f"{task.name}, by its own grader."),
        "facts": ["one label set: feedback and report scores are the same number"]
        + ([known.warning] if known and known.warning else []),
        "provenance": task.provenance
        or ("MLAgentBench, github.com/snap-stanford/MLAgentBench" if known else "not stated"),
        "starter": task.starter,
        "grader": grader.to_card(task.folder),
        "baseline": scores,
        "best": task.best | {"provenance": why},
        "limits": task.limits.to_json(),
    }
    write_text(card, yaml.safe_dump(written, sort_keys=False, width=110, allow_unicode=True))
    return load_task(task.folder)
