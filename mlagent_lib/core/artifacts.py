"""Runs on disk: one folder per run, one folder per stage, one manifest per finished stage.

``manifest.json`` is written last and atomically: where it is present and its hashes hold, the stage is
finished. A stage that was killed has none; its files stay, and the next attempt may go on from them as long
as its parameters and inputs are the same. Lines of JSONL that the kill has torn are taken out first and
counted in the manifest (``torn_lines``). Nothing is ever overwritten: a stage that has to be made again is
first moved aside, to ``<stage>.old-1``, ``<stage>.old-2``, ...

This module does not decide what a stage does, nor in which order stages run (``run.notebooks``).
"""

from __future__ import annotations

import errno
import json
import os
import platform
import secrets
import shutil
import time
from contextlib import ExitStack
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import mlagent_lib
from mlagent_lib.core.errors import MlagentError, RunError
from mlagent_lib.core.files import (
    FolderLock,
    check_free_space,
    explained,
    mend_jsonl,
    sha256_file,
    sweep,
    write_json,
    write_text,
)
from mlagent_lib.core.provenance import device_name, git_state, peak_memory_bytes, versions

SCHEMA = "mlagent.manifest/1"

# The story in order: each notebook and the stages (folders of a run) that it writes.
NOTEBOOKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("00_tour.ipynb", ("00_tour",)),
    ("01_collection.ipynb", ("01_collection",)),
    ("02_sft.ipynb", ("02_sft",)),
    ("03_stepwise_grpo.ipynb", ("03_grpo",)),
    ("04_evaluation.ipynb", ("04_evaluation",)),
    ("05_ablations.ipynb", ()),
    ("06_paper_vs_ours.ipynb", ("06_paper",)),
    ("07_explore.ipynb", ("07_explore",)),
)

RUN_RECORD = "run.json"  # in the folder of a run: what `mlagent run` was told
OWN_TASKS = "tasks.json"  # in the folder of a run on tasks of one's own: which to train on, which to test on

_MANIFEST = "manifest.json"
_STARTED = "started.json"
_STARTED_KEYS = {"params", "package", "inputs", "attempts"}
_RECORDS = ("params", "inputs", "outputs")
_FULL_BYTES = 4 << 20  # less than this is as good as nothing
_PLACE_PARAMS = ("runs_dir", "run_id")  # where a run lies does not change what it computes


def notebook_of(stage: str) -> str | None:
    """Return the notebook that writes ``stage``, or None where no notebook does.

    Example:
        >>> notebook_of("02_sft")
        '02_sft.ipynb'
    """
    return next((name for name, stages in NOTEBOOKS if stage in stages), None)


def read_record(path: str | Path) -> dict:
    """Return the JSON object in a file, empty where there is none or it is damaged."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_manifest(stage_dir: str | Path) -> dict | None:
    """Return the manifest of a stage folder, or None where there is none or it cannot be read."""
    found = read_record(Path(stage_dir) / _MANIFEST)
    is_whole = found.get("schema") == SCHEMA and all(isinstance(found.get(key), dict) for key in _RECORDS)
    return found if is_whole else None


def stage_problem(stage_dir: str | Path, params: dict | None = None) -> str | None:
    """Return why a stage is not finished and intact, or None where it is.

    Every output and every input is hashed again, so a damaged, deleted or replaced file is found. Of
    ``params``, those that the stage records must be the same, but for those that only say where a run lies.
    """
    stage_dir = Path(stage_dir)
    manifest = read_manifest(stage_dir)
    if manifest is None:
        return "damaged manifest" if (stage_dir / _MANIFEST).exists() else "not finished"
    made, wanted = manifest["params"], params or {}
    known = (set(made) & set(wanted)) - set(_PLACE_PARAMS)
    if changed := sorted(name for name in known if made[name] != wanted[name]):
        return f"made with other parameters ({', '.join(changed)})"
    groups = (("output", stage_dir, manifest["outputs"]), ("input", stage_dir.parent, manifest["inputs"]))
    for kind, base, entries in groups:
        for name, entry in entries.items():
            path = base / os.path.expanduser(name)
            if not path.is_file():
                return f"{kind} {name} is missing"
            if sha256_file(path) != entry["sha256"]:
                return f"{kind} {name} has changed since"
    return None


def stage_is_valid(stage_dir: str | Path, params: dict | None = None) -> bool:
    """Return whether a stage is finished and its inputs and outputs are intact (see `stage_problem`)."""
    return stage_problem(stage_dir, params) is None


def hashes_below(folder: str | Path) -> dict[str, str]:
    """Return the SHA-256 of every file below ``folder``, by its name relative to it."""
    return {name: sha256_file(Path(folder) / name) for name in _output_names(Path(folder))}


def damaged_file(folder: str | Path, hashes: dict[str, str]) -> str | None:
    """Return the first file that is missing or not what `hashes_below` saw, or None if all are whole."""
    for name, digest in hashes.items():
        path = Path(folder) / os.path.expanduser(name)
        if not path.is_file() or sha256_file(path) != digest:
            return name
    return None


class Stage:
    """One stage of a run: what it reads, what it writes, and the proof that it finished.

    Use it as a context manager. On a clean exit the manifest is written, last; after an exception there is
    none and the files stay, so that the next attempt can go on (``stage.resumed``). ``stage.done`` tells
    before entering whether there is anything to do::

        stage = Stage(run_dir, "02_sft", params=params)
        if not stage.done:
            with stage:
                rows, _ = read_jsonl(stage.read("01_collection/trajectories.jsonl"))
                stage.write_json("numbers.json", train(rows))

    Args:
        run_dir: The folder of the run, e.g. ``runs/laptop-seed0``.
        name: The folder of the stage inside it, e.g. ``02_sft``.
        params: JSON values that identify the work. ``seed`` and ``profile`` (a name) are copied to the top
            of the manifest.
        profile: The resolved profile (a dataclass or a dictionary), for the manifest.
        overwrite: Make a finished stage again; the old one is moved aside.

    Raises:
        RunError: On ``with``: the stage is finished, or another process works on it, or the disk is full.
    """

    def __init__(
        self,
        run_dir: str | Path,
        name: str,
        *,
        params: dict | None = None,
        profile: Any = None,
        overwrite: bool = False,
    ):
        self.run_dir, self.name = Path(run_dir), name
        self.dir = self.run_dir / name
        self.params = json.loads(json.dumps(params or {}, allow_nan=False))
        self.profile = asdict(profile) if is_dataclass(profile) else profile
        self.overwrite = overwrite
        self.summary: dict[str, Any] = {}  # numbers worth having in the manifest itself
        self.resumed = False
        self.inputs: dict[str, dict] = {}
        self._lock = FolderLock(self.run_dir / ".locks" / name, wait_s=5.0)
        self._started_at = 0.0
        self._attempts, self._torn_lines = 1, 0
        self._token = ""  # tells this attempt's folder from another one of the same name

    @property
    def done(self) -> bool:
        """Whether the stage is finished, intact and made with these parameters, and need not be made."""
        return not self.overwrite and stage_is_valid(self.dir, self.params)

    def __enter__(self) -> Stage:
        check_free_space(self.run_dir)
        with ExitStack() as held:
            held.enter_context(self._lock)
            self._clear_the_way()
            self._started_at, self._token = time.monotonic(), secrets.token_hex(8)
            with explained(self.dir):
                self.dir.mkdir(parents=True, exist_ok=True)
            self._write_started()
            held.pop_all()  # the lock stays until the end
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: object) -> None:
        try:
            if error is None or isinstance(error, Exception):
                self._check_still_there()
            if isinstance(error, Exception) and not isinstance(error, MlagentError):
                self._explain(error)
            if error is None:
                write_json(self.dir / _MANIFEST, self._manifest())
                (self.dir / _STARTED).unlink(missing_ok=True)
        finally:
            self._started_at = 0.0
            self._lock.__exit__()

    def read(self, path: str | Path) -> Path:
        """Return ``path`` (relative to the run folder) as an existing file, and record its hash as an input.

        Raises:
            RunError: The file is missing, or it belongs to a stage that is unfinished or damaged. The
                message names the notebook that makes it.
        """
        full = self.run_dir / path
        name = self._input_name(full)
        maker = name.split("/")[0] if "/" in name else ""
        notebook = notebook_of(maker)
        cure = f"run notebooks/{notebook} first, with the same run id" if notebook else "make this file first"
        if not full.is_file():
            raise RunError(f"{full} is missing, and {self.name} needs it", cure=cure)
        digest = sha256_file(full)
        if notebook and maker != self.name:
            entry = (read_manifest(self.run_dir / maker) or {}).get("outputs", {}).get(name[len(maker) + 1 :])
            if entry is None:
                raise RunError(f"{full} belongs to the unfinished stage {maker}", cure=cure)
            if entry["sha256"] != digest:
                raise RunError(f"{full} is damaged: it has changed since {maker} wrote it", cure=cure)
        self.inputs[name] = {"sha256": digest, "bytes": full.stat().st_size}
        if self._started_at:
            self._check_still_there()
            self._write_started()
        return full

    def path(self, name: str | Path) -> Path:
        """Return the path of an output file ``name`` inside the stage folder; its folder exists afterwards.

        Raises:
            ValueError: ``name`` points outside the stage folder or at one of the stage's own records.
        """
        full = self.dir / name
        inside = os.path.normpath(full).startswith(os.path.normpath(self.dir) + os.sep)
        if not inside or full.name in (_MANIFEST, _STARTED):
            raise ValueError(f"output {str(name)!r} must lie inside {self.dir} and be none of its records")
        with explained(full):
            full.parent.mkdir(parents=True, exist_ok=True)
        return full

    def write_json(self, name: str, value: Any) -> Path:
        """Write an output as JSON, atomically, and return its path (see `files.write_json`)."""
        return write_json(self.path(name), value)

    def write_text(self, name: str, text: str) -> Path:
        """Write an output as UTF-8 text, atomically, and return its path."""
        return write_text(self.path(name), text)

    def _clear_the_way(self) -> None:
        """Refuse a finished stage; move a damaged, outdated or unwanted one aside; keep a resumable one."""
        if (self.dir / _MANIFEST).exists():
            if self.done:
                cure = "pass overwrite=True to make it again, or choose another run id"
                raise RunError(f"{self.dir} is finished and would be overwritten", cure=cure)
            self._move_aside()
            return
        started = read_record(self.dir / _STARTED)
        if not started and not (self.dir.exists() and any(self.dir.iterdir())):
            return
        if self.overwrite or not self._is_same_work(started):
            self._move_aside()
            return
        self.resumed, self._attempts = True, int(started["attempts"]) + 1
        self.inputs = dict(started["inputs"])
        self._torn_lines = int(started.get("torn_lines", 0))
        sweep(self.dir)
        for path in sorted(self.dir.rglob("*.jsonl")):
            self._torn_lines += mend_jsonl(path)

    def _check_still_there(self) -> None:
        """Raise `RunError` where the folder was removed, or made anew by somebody else, since we entered."""
        if read_record(self.dir / _STARTED).get("token") != self._token:
            raise RunError(
                f"{self.dir} was removed or replaced while {self.name} was being made: it is not complete",
                cure="start the same command again, and leave the folder of a run alone until it has ended",
            )

    def _explain(self, error: Exception) -> None:
        """Raise a `RunError` where a full or closed disk is behind an exception of a library."""
        with explained(self.dir):
            if isinstance(error, OSError) and error.errno is not None:
                raise error
            if self._disk_is_full():  # some libraries hide the cause in an exception of their own
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error

    def _disk_is_full(self) -> bool:
        return shutil.disk_usage(self.dir).free < _FULL_BYTES

    def _is_same_work(self, started: dict) -> bool:
        if not set(started) >= _STARTED_KEYS or not self._work().items() <= started.items():
            return False
        files = {name: entry["sha256"] for name, entry in started["inputs"].items()}
        return damaged_file(self.run_dir, files) is None

    def _move_aside(self) -> None:
        number = 1
        while (target := self.dir.with_name(f"{self.dir.name}.old-{number}")).exists():
            number += 1
        with explained(target):
            self.dir.rename(target)

    def _work(self) -> dict:
        """Return what must be the same where an attempt goes on from the files of another."""
        params = {key: value for key, value in self.params.items() if key not in _PLACE_PARAMS}
        return {"params": params, "package": mlagent_lib.__version__}

    def _write_started(self) -> None:
        counts = {"attempts": self._attempts, "torn_lines": self._torn_lines, "token": self._token}
        write_json(self.dir / _STARTED, self._work() | {"inputs": self.inputs} | counts)

    def _input_name(self, full: Path) -> str:
        """Return how the manifest names an input: relative to the run, or to the home folder, or absolute."""
        absolute = Path(os.path.abspath(full))
        for base, prefix in ((self.run_dir, ""), (Path.home(), "~/")):
            root = Path(os.path.abspath(base))
            if absolute.is_relative_to(root):
                return prefix + absolute.relative_to(root).as_posix()
        return absolute.as_posix()

    def _manifest(self) -> dict:
        return {
            "schema": SCHEMA,
            "stage": self.name,
            **self._work(),
            "profile": self.profile,
            "seed": self.params.get("seed"),
            "git": git_state(),
            "versions": versions(),
            "platform": platform.platform(),
            "device": device_name(),
            "inputs": self.inputs,
            "outputs": {name: _describe(self.dir / name) for name in _output_names(self.dir)},
            "summary": self.summary,
            "attempts": self._attempts,
            "torn_lines": self._torn_lines,
            "wall_s": round(time.monotonic() - self._started_at, 3),
            "peak_memory_bytes": peak_memory_bytes(),
        }


def _output_names(folder: Path) -> list[str]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    names = (path.relative_to(folder).as_posix() for path in files)
    return sorted(n for n in names if n not in (_MANIFEST, _STARTED) and not Path(n).name.startswith(".tmp-"))


def _describe(path: Path) -> dict:
    """Return hash, size and, for a table of lines, the number of rows of an output."""
    entry: dict[str, Any] = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    if path.suffix in (".jsonl", ".csv"):
        with open(path, "rb") as handle:
            entry["rows"] = max(sum(1 for line in handle if line.strip()) - (path.suffix == ".csv"), 0)
    return entry
