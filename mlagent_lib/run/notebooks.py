"""`mlagent run`: the notebooks in order, executed by papermill into one run folder, resumable at any moment.

A notebook is skipped where its stages are finished and intact and its executed copy is complete. What a
notebook computes is its own business; this module only starts it, with checked parameters and with the
interpreter that runs this very code.
"""

from __future__ import annotations

import ast
import difflib
import errno
import json
import logging
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import mlagent_lib
from mlagent_lib.agents.server.endpoint_name import parse_endpoint
from mlagent_lib.core.artifacts import NOTEBOOKS, OWN_TASKS, RUN_RECORD, read_record, stage_problem
from mlagent_lib.core.errors import ProfileError, RunError, TaskError
from mlagent_lib.core.files import (
    FolderLock,
    append_jsonl,
    check_free_space,
    explained,
    sha256_bytes,
    sweep,
    write_json,
)
from mlagent_lib.core.parameters import checked
from mlagent_lib.core.profiles import Profile, get_profile
from mlagent_lib.core.provenance import usable_cpus
from mlagent_lib.run.progress import TOLD_IN, minutes, told

__all__ = ["NOTEBOOKS", "NotebookFailed", "declared_parameters", "notebooks_folder", "parse_value", "run_all"]

RUN_SCHEMA = "mlagent.run/1"
LOG = "pipeline.jsonl"  # one row per notebook: what was done with it and how long it took
_BASE = ("profile", "seed", "runs_dir", "run_id")
_KERNEL = "python3"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_PROGRESS = "progress.txt"
_KERNEL_FOLDER = ".kernel"  # in the run's folder, so that what a killed run left there is found again
# What a kernel's loop says while it is being stopped belongs on nobody's terminal.
_LAUNCH = """
import os, sys  # as ipykernel_launcher, by which a kernel is found among the processes
sys.path.pop(0)
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
"""
_ORPHAN_S = 3.0  # a kernel looks every second whether its parent is still there
_HALF_WRITTEN_S = 10.0  # older half-written files belong to processes that are no more
_SECRET = re.compile(r"//[^/\s]*@|[?&][^=&]*(key|token|secret|sig|pass|auth|credential)[^=&]*=", re.I)


class NotebookFailed(RunError):
    """A cell of a notebook raised, or its kernel died; the executed copy shows where."""

    exit_code = 1


def notebooks_folder() -> Path:
    """Return the folder of the notebooks, beside the package in its checkout.

    Raises:
        RunError: The package was installed without its checkout.
    """
    folder = Path(mlagent_lib.__file__).resolve().parent.parent / "notebooks"
    if not folder.is_dir():
        cure = "get a checkout of the kit and install it from there with: pip install -e ."
        raise RunError(f"the notebooks are not beside the package (looked for {folder})", cure=cure)
    return folder


def declared_parameters(path: str | Path) -> dict[str, Any]:
    """Return name and default of each parameter of a notebook, read from its source without running it.

    The parameters are the assignments in the one cell tagged ``parameters``; each must be a literal, because
    a value derived there would keep its old value when papermill injects another one below it.

    Raises:
        RunError: The notebook is missing or is not JSON.
        ProfileError: There is not exactly one such cell, or a value in it is not a literal.
    """
    name = Path(path).name
    cells = [c for c in _read_notebook(path)["cells"] if "parameters" in c["metadata"].get("tags", [])]
    if len(cells) != 1:
        cure = "tag the one cell that sets profile, seed, runs_dir and run_id"
        raise ProfileError(f"{name} has {len(cells)} cells tagged 'parameters', it must have one", cure=cure)
    found: dict[str, Any] = {}
    for node in ast.parse("".join(cells[0]["source"])).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(targets[0], ast.Name):
            continue
        try:
            found[targets[0].id] = ast.literal_eval(node.value)  # type: ignore[arg-type]
        except ValueError as error:
            message = f"parameter {targets[0].id!r} of {name} is not a literal"
            raise ProfileError(message, cure="write the value; derive others in a later cell") from error
    return found


def parse_value(text: str) -> Any:
    """Return the value written as ``text`` on a command line: a Python literal if it is one, else the text.

    Example:
        >>> [parse_value(text) for text in ("3", "1e-4", "false", "None", "v2")]
        [3, 0.0001, False, None, 'v2']
    """
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.strip().lower() in words:
        return words[text.strip().lower()]
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def run_all(
    profile: str = "laptop", seed: int = 0, runs_dir: str | Path = "runs", run_id: str | None = None, *,
    parameters: Mapping[str, Any] | None = None, tasks: Mapping[str, Sequence[str]] | None = None,
    notebooks_dir: str | Path | None = None, notebooks: Sequence[tuple[str, tuple[str, ...]]] = NOTEBOOKS,
    write_report: Callable[[Path], object] | None = None, say: Callable[[str], None] = print,
) -> Path:  # fmt: skip
    """Execute the notebooks of a run in order and return the run folder; what is already finished is kept.

    Args:
        run_id: Name of this run's folder, ``<profile>-seed<seed>`` where not given. If it exists, it is
            resumed.
        parameters: Values for further parameters that notebooks declare.
        tasks: Tasks of one's own, ``train`` and ``test``: folders or names; else the profile's.
        notebooks_dir: Where the notebooks are; beside the package where not given.
        notebooks: Notebook files in order, each with the stages that it writes.
        write_report: Called with the run folder at the end; `results.report.write_report` where not given.
        say: Receives one line for each notebook.

    Raises:
        ProfileError: The profile or a parameter is unknown, before anything is run.
        RunError: The run folder is in use, belongs to other parameters or cannot be written.
        NotebookFailed: A notebook did not reach its end. The ones before it are kept.
    """
    profile, seed = checked("profile", profile, "laptop"), checked("seed", seed, 0)
    chosen, own_name = get_profile(profile), f"{profile}-seed{seed}"
    run_id = checked("run_id", own_name if run_id is None else run_id, own_name)
    runs_dir = Path(checked("runs_dir", runs_dir))
    folder = Path(notebooks_dir) if notebooks_dir is not None else notebooks_folder()
    extra = dict(parameters or {})
    base = {"profile": profile, "seed": seed, "runs_dir": str(runs_dir), "run_id": run_id}
    _refuse_secrets(extra)
    if isinstance(extra.get("ideas"), str) and extra["ideas"]:
        if not tasks:
            raise ProfileError("a list of ideas is for tasks of your own", cure="name them with --tasks")
        extra["ideas"] = str(Path(extra["ideas"]).expanduser().resolve())
    values = _values_per_notebook(folder, [name for name, _ in notebooks], base, extra)
    _check_endpoints(extra)
    places = _places(tasks, chosen, extra, say) if tasks else {}
    run_dir = runs_dir / run_id
    check_free_space(runs_dir)
    with sigterm_unwinds(), FolderLock(run_dir), _kernel_environment(chosen, run_dir):
        sweep(run_dir, older_than_s=_HALF_WRITTEN_S)
        own = {"tasks": places} if places else {}
        _claim(run_dir, {"profile": profile, "seed": seed, "parameters": extra, **own})
        if places:
            write_json(run_dir / OWN_TASKS, places)
        started = time.monotonic()
        for number, (name, stages) in enumerate(notebooks, 1):
            made = _Notebook(folder / name, run_dir, stages, values[name])
            if made.is_finished():
                say(f"[{number}/{len(notebooks)}] {name}: already made, kept")
                made.record("kept", 0.0)
                continue
            say(f"[{number}/{len(notebooks)}] {name}: running ({_elapsed(started, chosen)})")
            with told(run_dir / _KERNEL_FOLDER / _PROGRESS, say):
                seconds = made.execute()
            say(f"[{number}/{len(notebooks)}] {name}: done in {minutes(seconds)} min")
        _check_still_there(run_dir)
        if write_report is None:
            from mlagent_lib.results.report import write_report
        write_report(run_dir)
        sweep(run_dir, older_than_s=_HALF_WRITTEN_S)
        say(f"done in {minutes(time.monotonic() - started)} min: open {run_dir / 'report.html'}")
    return run_dir


def _check_endpoints(extra: Mapping[str, Any]) -> None:
    """Refuse names of models that a later notebook would stumble over."""
    for name, known in (("expert", ("scripted",)), ("coder", ("", "base", "rules"))):
        if extra.get(name, known[0]) not in known:
            parse_endpoint(extra[name])


def _places(
    tasks: Mapping[str, Sequence[str]], profile: Profile, extra: Mapping[str, Any], say: Callable[[str], None]
) -> dict[str, list[str]]:
    """Return the tasks with folders as full paths: notebooks work in another folder."""
    from mlagent_lib.agents.ideas import has_catalogue
    from mlagent_lib.tasks.registry import find_task

    if not tasks.get("train"):
        raise ProfileError("no task is given to train on", cure="give at least one with --tasks")
    found, bare, known = {}, [], set()
    for role in ("train", "test"):
        names = [str(name) for name in tasks.get(role, ())]
        for task in map(find_task, names):
            if task.name in known:
                raise ProfileError(f"two tasks are named {task.name!r}", cure="rename one of the folders")
            known.add(task.name)
            bare += [] if has_catalogue(task) else [task.name]
        found[role] = [str(Path(name).resolve()) if Path(name).is_dir() else name for name in names]
    if bare:
        _check_help(bare, profile, extra, say)
    elif extra.get("ideas"):
        say("note: the list of ideas is not used, since the catalogue fits every task")
    return found


def _check_help(
    bare: Sequence[str], profile: Profile, extra: Mapping[str, Any], say: Callable[[str], None]
) -> None:
    """Check that tasks without a catalogue get ideas from somewhere, and say where no coder can edit."""
    from mlagent_lib.agents.ideas import IDEAS_CURE, read_ideas

    names = ", ".join(bare)
    if extra.get("ideas"):
        read_ideas(Path(extra["ideas"]))
    elif extra.get("expert", "scripted") == "scripted":
        raise TaskError(f"no catalogue of ideas fits the tasks {names}", cure=IDEAS_CURE)
    coder, model = extra.get("coder") or profile.coder, extra.get("model") or profile.model
    if coder == "rules" or (coder, model) == ("base", "pocket"):
        say(
            f"note: the coder of this run knows pocket scripts only, so edits of {names} will fail and "
            "count as the coder's failures; name another one with -p coder=openai:<model>@<url>"
        )


def _elapsed(started: float, profile: Profile) -> str:
    """Return how much of the budget has gone."""
    spent = minutes(time.monotonic() - started)
    budget = f" of {minutes(60 * profile.budget_minutes)}" if profile.budget_minutes else ""
    return f"elapsed {spent}{budget} min"


@dataclass(frozen=True)
class _Notebook:
    """One notebook of a run: its source, the run, the stages that it writes, its parameters."""

    source: Path
    run_dir: Path
    stages: tuple[str, ...]
    values: dict[str, Any]

    @property
    def out(self) -> Path:
        return self.run_dir / "notebooks" / self.source.name

    def is_finished(self) -> bool:
        """Return whether all its stages are intact and its executed copy is whole."""
        problems = (stage_problem(self.run_dir / stage, self.values) for stage in self.stages)
        return not any(problems) and _is_complete(self.out, self.values)

    def record(self, status: str, seconds: float) -> None:
        """Write down what was done with it."""
        row = {"notebook": self.source.name, "status": status, "seconds": seconds}
        append_jsonl(self.run_dir / LOG, row)

    def execute(self) -> float:
        """Return the seconds that it took; raise `NotebookFailed` where it does not reach its end."""
        name, started, status = self.source.name, time.monotonic(), "failed"
        try:
            _papermill(self.source, self.out, self.values)
            if not _is_complete(self.out, self.values):
                cure = f"look at the last executed cell in {self.out}"
                raise NotebookFailed(f"{name} stopped before its last cell", cure=cure)
            for stage in self.stages:
                if problem := stage_problem(self.run_dir / stage):
                    raise NotebookFailed(
                        f"{name} ended, but its stage {stage} is not usable: {problem}",
                        cure=f"look at {self.out}; the notebook must write this stage",
                    )
            status = "executed"
        finally:
            _check_still_there(self.run_dir)
            seconds = round(time.monotonic() - started, 3)
            self.record(status, seconds)
        return seconds


def _check_still_there(run_dir: Path) -> None:
    """Raise `RunError` where somebody has removed the run's folder: half a run must not look like a whole."""
    if not (run_dir / RUN_RECORD).exists():
        cure = "start the same command again, and leave the folder of a run alone until it has ended"
        raise RunError(f"{run_dir} was removed or moved while the run went on", cure=cure) from None


def _papermill(source: Path, out: Path, values: dict[str, Any]) -> None:
    """Execute a notebook; what papermill and its kernel raise becomes one `NotebookFailed`."""
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    logging.getLogger("papermill").addHandler(logging.NullHandler())  # what it would say is in the error
    keep = "finished stages are kept: start the same command again to go on"
    try:
        with explained(out):
            out.parent.mkdir(parents=True, exist_ok=True)
            connection = Path(os.environ["JUPYTER_RUNTIME_DIR"]) / "connection.json"
            connection.unlink(missing_ok=True)
            papermill.execute_notebook(
                os.path.relpath(source) if source.is_relative_to(Path.cwd()) else str(source),
                str(out),
                parameters=values,
                kernel_name=_KERNEL,
                language="python",
                progress_bar=sys.stderr.isatty(),
                config=Config({"KernelManager": {"connection_file": str(connection)}}),
            )
    except PapermillExecutionError as error:
        text, _, cure = _ANSI.sub("", str(error.evalue)).strip().partition(". What to do: ")
        if not cure and f"[Errno {errno.ENOSPC}]" in text:
            cure = "free some disk space"
        raise NotebookFailed(
            f"{source.name} failed in cell {error.cell_index + 1}: {error.ename}: {text[:1000]}",
            cure=f"{cure[:1000] or 'read the failed cell'}; the executed notebook is {out}; {keep}",
        ) from error
    except DeadKernelError as error:
        raise NotebookFailed(
            f"the kernel of {source.name} died; the usual reason is too little memory",
            cure=f"close other programs or take a smaller profile; {keep}",
        ) from error
    except RuntimeError as error:  # how jupyter_client says that a kernel ended, or hung, while it started
        if "kernel" not in str(error).lower():
            raise
        cure = f"close other programs and look at 'mlagent doctor'; {keep}"
        raise NotebookFailed(f"the kernel of {source.name} did not start: {error}", cure=cure) from error


def _refuse_secrets(parameters: Mapping[str, Any]) -> None:
    """Raise `ProfileError` where a parameter holds a key: parameters are written into the run's files."""
    from mlagent_lib.agents.server.endpoint import API_KEY_ENV
    from mlagent_lib.agents.server.transport import MIN_SECRET_LENGTH

    key = os.environ.get(API_KEY_ENV, "").strip()
    for name, value in parameters.items():
        text = str(value)
        if _SECRET.search(text) or (len(key) >= MIN_SECRET_LENGTH and key in text):
            raise ProfileError(
                f"parameter {name!r} holds a key or a password, and the run's files show all parameters",
                cure=f"take it out and put it into the environment variable ${API_KEY_ENV}",
            )


def _values_per_notebook(
    folder: Path, names: list[str], base: dict[str, Any], extra: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the parameters of each notebook, each name and type checked against what it declares.

    Those of ``extra`` get the form that the code takes, see `checked`.
    """
    declared = {name: declared_parameters(folder / name) for name in names}
    for name, known in declared.items():
        if missing := [key for key in base if key not in known]:
            cure = "declare it as a literal in the cell tagged 'parameters'"
            raise ProfileError(f"{name} does not declare the parameter {missing[0]!r}", cure=cure)
    everywhere = sorted({key for known in declared.values() for key in known} - set(_BASE))
    for key, value in extra.items():
        if key in _BASE:
            cure = "use the options --profile, --seed, --runs-dir and --run-id"
            raise ProfileError(f"parameter {key!r} has an option of its own", cure=cure)
        if key not in everywhere:
            close = difflib.get_close_matches(key, everywhere, n=1, cutoff=0.5)
            hint = f": the closest is {close[0]!r}" if close else ""
            cure = f"choose one of {', '.join(everywhere)}" if everywhere else "leave it out: there are none"
            raise ProfileError(f"no notebook has a parameter {key!r}{hint}", cure=cure)
        for known in declared.values():
            if key in known:
                extra[key] = checked(key, value, known[key])
    return {
        name: {**base, **{key: value for key, value in extra.items() if key in known}}
        for name, known in declared.items()
    }


def _is_complete(out: Path, values: dict[str, Any]) -> bool:
    """Return whether ``out`` was executed to its end with these parameters (their place aside)."""
    try:
        notebook = _read_notebook(out)
    except RunError:
        return False
    record = notebook["metadata"].get("papermill", {})
    used = record.get("parameters", {})
    if record.get("exception") or any(used.get(k) != v for k, v in values.items() if k not in _BASE[2:]):
        return False
    cells = [cell["metadata"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    cells = [cell for cell in cells if "skip-execution" not in cell.get("tags", [])]
    return all(cell.get("papermill", {}).get("status") == "completed" for cell in cells)


def _read_notebook(path: str | Path) -> dict:
    """Return a notebook as the dictionary that its JSON holds."""
    cure = "restore it from the checkout of the kit"
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"notebook {path} is missing", cure=cure) from error
    except ValueError as error:
        raise RunError(f"notebook {path} is not JSON: {error}", cure=cure) from error
    if not isinstance(notebook, dict) or "cells" not in notebook or "metadata" not in notebook:
        raise RunError(f"{path} is not a notebook", cure=cure)
    return notebook


def _claim(run_dir: Path, identity: dict[str, Any]) -> None:
    """Write what the run is, or check that the existing run is the same one."""
    path = run_dir / RUN_RECORD
    record = {"schema": RUN_SCHEMA, **identity}
    existing = read_record(path)
    if not existing:  # a damaged record is written again: the stages hold the proof
        write_json(path, record)
        return
    for key, value in record.items():
        if existing.get(key) != value:
            cure = "choose another folder with --run-id, or give the same values to resume it"
            raise RunError(f"{run_dir} was made with {key} {existing.get(key)!r}, not {value!r}", cure=cure)


@contextmanager
def sigterm_unwinds() -> Iterator[None]:
    """Let SIGTERM end the run as Ctrl-C does: kernel and temporary files go, and exit code 143 comes."""

    def stop(_number: int, _frame: object) -> None:
        print("\nmlagent: stopped; start the same command again to go on from here", file=sys.stderr)
        # The interrupted cell may end after us, and asyncio would print its traceback below this line.
        logging.getLogger("asyncio").disabled = True
        raise SystemExit(143)

    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _private_folder(folder: Path) -> Iterator[str]:
    """Make a folder that only we may read (it will hold the kernel's key), and remove it in the end."""
    with explained(folder):
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed; its lock is ours now
        folder.mkdir(mode=0o700)
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _temporary_folder(run_dir: Path) -> Iterator[str]:
    """Make the kernels' temporary folder; in the end remove it, and those that killed starts have left."""
    name = f"mlagent-{sha256_bytes(str(run_dir.resolve()).encode())[:12]}-"
    with explained(tempfile.gettempdir()):
        folder = Path(tempfile.mkdtemp(prefix=name))
        folder.chmod(0o711)  # a throw-away user has to pass through, and sees no names
    started = time.monotonic()
    try:
        yield str(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if others := list(folder.parent.glob(f"{name}*")):
            # the kernel of a start that was killed a moment ago may still be using its own
            time.sleep(max(0.0, started + _ORPHAN_S - time.monotonic()))
            for other in others:
                shutil.rmtree(other, ignore_errors=True)


@contextmanager
def _kernel_environment(profile: Profile, run_dir: Path) -> Iterator[None]:
    """Offer papermill one private kernel: this interpreter, this package, and none of the user's settings."""
    root = str(Path(mlagent_lib.__file__).resolve().parent.parent)
    kernel = _private_folder(run_dir.absolute() / _KERNEL_FOLDER)
    with kernel as folder, _temporary_folder(run_dir) as temporary:
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            "PYTHONPATH": os.pathsep.join(paths),
            "IPYTHONDIR": folder,
            "TMPDIR": temporary,
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(min(profile.threads, usable_cpus())),
            **profile.threads_wait,
            "TOKENIZERS_PARALLELISM": "false",
            "PYDEVD_DISABLE_FILE_VALIDATION": "1",
            TOLD_IN: str(Path(folder) / _PROGRESS),
        }
        # what a cell raises comes back in its reply: the kernel's own log would only repeat it
        argv = [sys.executable, "-c", _LAUNCH, "--log-level=CRITICAL", "-f", "{connection_file}"]
        spec = {"argv": argv, "display_name": "Python 3 (ipykernel)", "language": "python"}
        write_json(Path(folder) / "kernels" / _KERNEL / "kernel.json", spec | {"env": environment})
        with patch.dict(os.environ, JUPYTER_PATH=folder, JUPYTER_RUNTIME_DIR=folder):  # put back in the end
            yield
