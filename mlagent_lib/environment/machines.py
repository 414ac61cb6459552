"""Isolated runs of scripts over processes and machines by a joblib backend: loky here, Dask or Ray there.

Only the execution is spread. Replies are parsed, scripts edited, submissions graded and results cached by the
caller, so labels never leave it: a worker gets the files of a workspace and the path of the task's data, and
gives back a `RunResult`. Each worker process keeps one warm `Runner` of its own for all that it is sent.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import secrets
import socket
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib

from mlagent_lib.core.errors import IsolationError, MlagentError, Unscored
from mlagent_lib.core.files import sha256_file
from mlagent_lib.environment.isolation import run_folder
from mlagent_lib.environment.isolation.client import WARM_MODULES
from mlagent_lib.environment.isolation.probe import choose
from mlagent_lib.environment.runner import NOTHING, Results, Runner, RunnerBase, RunRequest, RunResult
from mlagent_lib.tasks.task import digest_of

_ATTEMPTS = 3
_WAIT_FOR_WORKERS_SECONDS = 60  # for Dask, whose workers may be starting again
_NAME = f"mlagent-run-{secrets.token_hex(8)}"  # of the folders of this process's loky workers
_on_loky: weakref.WeakSet = weakref.WeakSet()  # the open runners of this process, which share its workers


@dataclass(frozen=True)
class _Setting:
    """What the runner of a worker has to be."""

    tier: str
    allow_unsafe: bool
    modules: tuple[str, ...]
    name: str = ""  # how the names of its folders begin; "" for names of its own


class SpreadRunner(RunnerBase):
    """A `Runner` whose scripts run in the workers of a joblib backend. Close it, or use it in a ``with``.

    Results equal those of a `Runner`, in the same order. A worker that is killed costs the rows that were
    dispatched and had not come back one attempt each; what has come back is kept. A row has three attempts,
    the last one alone, and is then `Unscored`. Dask itself gives the row of a lost worker to another one, up
    to its setting ``distributed.scheduler.allowed-failures``, before that counts as an attempt here.

    On this machine::

        with SpreadRunner(workers=2, backend="loky") as runner:
            results = run_steps(rows, Toolbox(runner, RuleCoder(), ExecutionCache("cache")))

    On a Dask cluster (``pip install -e '.[cluster]'`` on every machine), two worker processes on each::

        dask scheduler --scheduler-file cluster.json
        dask worker --scheduler-file cluster.json --nworkers 2 --nthreads 1

        from distributed import Client
        client = Client(scheduler_file="cluster.json")
        runner = SpreadRunner(backend="dask", client=client)

    Every worker needs this version of the kit and the task's data at the same path as here (a shared file
    system, or a checkout at the same place). Dask obeys whoever reaches its scheduler: keep it in a network
    of yours. For Ray, call ``ray.util.joblib.register_ray()`` and choose ``backend="ray"``.

    Args:
        workers: How many scripts run at a time, at least 1; with Dask the cluster decides. One loky worker is
            this very process.
        tier: ``auto`` for the best that works on the first worker asked, or a name from `isolation.tiers`.
            All workers must give the same one.
        allow_unsafe: Permit the tiers that isolate nothing, for scripts that you trust.
        modules: What the warm servers load before the first run.
        options: Passed to the backend, e.g. ``client=`` for Dask.

    Raises:
        MlagentError: The backend is unknown, not installed, or has no client.
        ValueError: There is no worker.
    """

    def __init__(
        self,
        workers: int = 2,
        tier: str = "auto",
        *,
        allow_unsafe: bool = False,
        backend: str = "loky",
        modules: tuple[str, ...] = WARM_MODULES,
        **options: object,
    ):
        super().__init__(workers)
        self.backend = backend
        self._options = _dask_options(options) if backend == "dask" else options
        try:
            with self._configured():
                pass
        except (ValueError, TypeError, ImportError) as error:
            raise MlagentError(
                f"the joblib backend {backend!r} cannot be used: {error}",
                cure="choose loky or dask, or register the backend with joblib first",
            ) from error
        self._setting = _Setting(tier, allow_unsafe, tuple(modules), _NAME if backend == "loky" else "")
        self._found_tier: str | None = None
        self._busy = threading.RLock()
        self._open = contextlib.ExitStack()
        self._parallel: joblib.Parallel | None = None
        self._closed = False

    @property
    def tier(self) -> str:
        """Name of the isolation tier in use; the first call asks a worker.

        Raises:
            IsolationError: If that worker cannot give the tier.
            Unscored: If no worker answers.
        """
        with self._busy:
            if self._found_tier is None:
                (found,) = self._spread(_tier_here, [(self._setting,)])
                if isinstance(found, Exception):
                    raise found
                self._found_tier = found
            return self._found_tier

    def run(self, request: RunRequest) -> RunResult:
        """Return what came of one script, or raise as `run_many` does."""
        return self.run_many([request])[0]

    def run_many(self, requests: Iterable[RunRequest], *, keep_unscored: bool = False) -> Results:
        """Return the results in the order of ``requests``; `Unscored` among them only if ``keep_unscored``.

        Raises:
            IsolationError: If the first worker asked has no safe tier.
            Unscored: The first failure of ours, after all have ended, unless ``keep_unscored``.
            ValueError: If a data folder does not exist or the runner is closed.
        """
        requests = [request.located() for request in requests]
        if not requests:
            return []
        with self._busy:
            setting = replace(self._setting, tier=self.tier)
            rows = [(request, _data_digest(request.data_dir), setting) for request in requests]
            results = self._spread(_run_here, rows)
        failures = [found for found in results if isinstance(found, ValueError)]
        failures += [found for found in results if isinstance(found, Unscored) and not keep_unscored]
        if failures:
            raise failures[0]
        return results

    def warm(self) -> None:
        """Start workers and their warm servers now, instead of on the first runs."""
        self.run_many([NOTHING] * self.workers)

    def close(self) -> None:
        """Wait for the runs in progress, then stop the workers, if they are loky's and no other runner's.

        Loky's workers serve every use of joblib in this process, and start again when needed. Those of a
        cluster keep their warm servers until they end themselves.
        """
        with self._busy:
            self._closed = True
            used = self._parallel is not None
            self._let_go()
            close_here()
            if used and self.backend == "loky" and not _on_loky:
                joblib.externals.loky.get_reusable_executor(reuse=True).shutdown(wait=True)
                _remove_orphans()

    # ---- dispatch --------------------------------------------------------------------------------

    def _spread(self, work: Callable, rows: Sequence[tuple]) -> list:
        """Return ``work(*row)`` for each row, made by the workers; `Unscored` for a row that they lost."""
        if self._closed:
            raise ValueError("this runner is closed")
        found: dict[int, object] = {}
        attempts = [0] * len(rows)
        while todo := [number for number in range(len(rows)) if number not in found]:
            # a row that kills its worker takes those beside it along, so each has its last attempt alone
            batch = [number for number in todo if attempts[number] < _ATTEMPTS - 1] or todo[:1]
            before = sum(attempts)
            try:
                self._dispatch(work, rows, batch, attempts, found)
            except Exception as error:  # noqa: BLE001 - every backend has its own; none is the script's
                self._let_go()
                _remove_orphans()
                started = sum(attempts) > before
                spent = [number for number in batch if attempts[number] >= _ATTEMPTS] if started else todo
                found = {number: self._lost(error) for number in spent} | found
        return [found[number] for number in range(len(rows))]

    def _dispatch(
        self, work: Callable, rows: Sequence[tuple], batch: list[int], attempts: list[int], found: dict
    ) -> None:
        """Put into ``found`` what comes back, until all rows of the batch have or the backend fails."""

        def calls() -> Iterator:
            for number in batch:
                attempts[number] += 1
                yield joblib.delayed(_numbered)(number, work, rows[number], caller)

        caller = os.getpid() if self.backend == "loky" else None
        with contextlib.closing(self._opened()(calls())) as results:
            for number, value in results:
                found[number] = value
                if isinstance(value, RunResult):
                    self._note(value)

    def _configured(self, **more: object) -> joblib.parallel_config:
        return joblib.parallel_config(self.backend, **more, **self._options)

    def _opened(self) -> joblib.Parallel:
        """Return the one pool of this runner: each pool of joblib leaves a folder until this process ends."""
        if self._parallel is None:
            with self._configured(n_jobs=self.workers):
                # nothing is dispatched before a worker is free, so that few rows are lost with one
                parallel = joblib.Parallel(
                    batch_size=1, pre_dispatch="n_jobs", return_as="generator_unordered", max_nbytes=None
                )
            self._parallel = self._open.enter_context(parallel)
            if self.backend == "loky":
                _on_loky.add(self)
        return self._parallel

    def _let_go(self) -> None:
        """Give up the pool; the next dispatch opens a new one."""
        self._parallel = None
        _on_loky.discard(self)
        self._open.close()

    def _lost(self, error: Exception) -> Unscored:
        reason = f"{type(error).__name__}: {str(error).strip()[:500]}"
        return Unscored(
            f"the workers of backend {self.backend!r} lost a script and did not give it back: {reason}",
            cure="see that the workers run, have memory and have this version of the kit, then resume",
        )


def _remove_orphans() -> None:
    """Remove the folders of loky workers that are gone.

    When one worker is lost, loky kills the others with all below them, the warm servers too, which would else
    have cleared up behind their worker.
    """
    for path in Path(tempfile.gettempdir()).glob(f"{_NAME}-*"):
        try:
            os.kill(int(path.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            run_folder.remove(str(path))


def _dask_options(options: dict) -> dict:
    """Return the options of the Dask backend with the client filled in."""
    if importlib.util.find_spec("distributed") is None:
        told = "backend 'dask' cannot run here: the package distributed is not installed"
        raise MlagentError(told, cure="install the kit with its extra: pip install -e '.[cluster]'")
    if "client" not in options:
        from distributed import get_client

        try:
            options = {**options, "client": get_client()}
        except ValueError as error:
            raise MlagentError(
                "backend 'dask' has no client",
                cure="start `dask scheduler --scheduler-file cluster.json` and workers, then give "
                "client=distributed.Client(scheduler_file='cluster.json')",
            ) from error
    return {"wait_for_workers_timeout": _WAIT_FOR_WORKERS_SECONDS, **options}


def _data_digest(folder: Path | None) -> str:
    """Return the sha256 of a folder's files; each state of a folder is read once."""
    if folder is None:
        return ""
    files = ((path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file())
    return _digest_of_files(folder, tuple((path, info.st_size, info.st_mtime_ns) for path, info in files))


@functools.lru_cache(maxsize=64)
def _digest_of_files(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    return digest_of({path.relative_to(folder).as_posix(): sha256_file(path) for path, _, _ in files})


# ---- in a worker ---------------------------------------------------------------------------------

_lock = threading.Lock()  # a worker of several threads runs one script at a time
_held: dict[tuple[int, _Setting], Runner] = {}  # at most one, by process and setting


def _numbered(number: int, work: Callable, row: tuple, caller: int | None) -> tuple[int, object]:
    """Do one row; what goes wrong with the script or with us is a value, so that it cannot end the batch."""
    if caller == os.getppid():
        _end_with(caller)
    with _lock:
        return number, work(*row)


@functools.cache
def _end_with(caller: int) -> None:
    """End this process soon after the caller that started it: a loky worker would wait for minutes."""

    def watch() -> None:
        while os.getppid() == caller:
            time.sleep(1.0)
        os._exit(1)  # the warm server sees its input end, and clears up

    threading.Thread(target=watch, name="mlagent-caller", daemon=True).start()


def _tier_here(setting: _Setting) -> str | IsolationError:
    try:
        return choose(setting.tier, allow_unsafe=setting.allow_unsafe).name
    except IsolationError as error:
        return IsolationError(f"worker {socket.gethostname()}: {error.message}", cure=error.cure)


def _run_here(request: RunRequest, digest: str, setting: _Setting) -> RunResult | Unscored | ValueError:
    folder, host = request.data_dir, socket.gethostname()
    if folder is not None and not (folder.is_dir() and _data_digest(folder) == digest):
        state = "other files than the caller has" if folder.is_dir() else "no folder"
        return Unscored(
            f"worker {host} has {state} at {folder}, where the task's data should be",
            cure=f"give every worker the task's data at {folder}: a shared file system, or a checkout at the "
            "same place",
        )
    try:
        return _runner_here(setting).run(request)
    except (Unscored, ValueError) as error:
        return error
    except IsolationError as error:
        return Unscored(
            f"worker {host} cannot give isolation tier {setting.tier} as the others do: {error.message}",
            cure="run `mlagent doctor` on that worker, or choose a tier that all workers have",
        )


def _runner_here(setting: _Setting) -> Runner:
    """Return the one warm runner of this process; an older one of another setting is closed."""
    here = (os.getpid(), setting)
    if here not in _held:
        _close_held()
        folder = f"{tempfile.gettempdir()}/{setting.name}-{os.getpid()}" if setting.name else None
        _held[here] = Runner(
            1, setting.tier, allow_unsafe=setting.allow_unsafe, modules=setting.modules, folder=folder
        )
    return _held[here]


def _close_held() -> None:
    while _held:
        _held.popitem()[1].close()


def close_here() -> None:
    """Close the warm runner that this process keeps as a worker, if it has one."""
    with _lock:
        _close_held()
