"""Runs of scripts that a model wrote: a request in, a result out, isolated and warm.

`Runner` keeps one warm server per worker (`isolation.client`) and hands every run to a free one. What a
script does wrong is a status of the result. What we do wrong (a server that died, a jail that could not be
built) is tried again and then raised as `Unscored`; it never becomes the script's failure.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import tempfile
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Self

from mlagent_lib.core.errors import Unscored
from mlagent_lib.environment.isolation import run_folder
from mlagent_lib.environment.isolation.client import LIGHT_MODULES, WARM_MODULES, ServerLost, WarmServer
from mlagent_lib.environment.isolation.plain_process import ColdServer
from mlagent_lib.environment.isolation.probe import TierReport, choose, probe
from mlagent_lib.environment.isolation.request import RunRequest, RunResult

__all__ = ["Runner", "RunnerBase", "RunRequest", "RunResult", "TierReport", "probe"]

Results = list[RunResult | Unscored]
_ATTEMPTS = 3
NOTHING = RunRequest({"warm.py": b""}, None, "warm.py", collect=())  # to run: it starts a server, no more


class RunnerBase:
    """What the runners of scripts have in common: a number of workers, when scripts ran, and ``with``."""

    def __init__(self, workers: int):
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        self.workers = workers
        # when scripts ran, on the clock of time.monotonic: the newest ones only, for whoever measures speed
        self.spans: deque[tuple[float, float]] = deque(maxlen=10_000)

    def _note(self, result: RunResult) -> RunResult:
        """Return a result that has come just now, after noting when its script ran."""
        now = time.monotonic()
        self.spans.append((now - result.seconds, now))
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Runner(RunnerBase):
    """A pool of warm servers. Usable from several threads; close it, or use it as a context manager.

    Args:
        workers: How many scripts run at a time, at least 1.
        tier: ``auto`` for the best that works here, or a name from `isolation.tiers`.
        allow_unsafe: Permit the tiers that isolate nothing, for scripts that you trust.
        modules: What the servers load before the first run; scripts may import anything else as well.
        folder: Where workspaces go, a path that does not exist yet; None for one in the temporary folder.

    Raises:
        IsolationError: If this machine cannot give the tier.

    Example:
        >>> with Runner(workers=1) as runner:
        ...     result = runner.run(RunRequest({"a.py": b"print(1 + 1)"}, None, "a.py", collect=()))
        >>> result.status, result.output
        ('ok', '2\\n')
    """

    def __init__(
        self,
        workers: int = 2,
        tier: str = "auto",
        *,
        allow_unsafe: bool = False,
        modules: tuple[str, ...] = WARM_MODULES,
        folder: str | None = None,
    ):
        super().__init__(workers)
        self._tier = choose(tier, allow_unsafe=allow_unsafe)
        # made by the first server, so that a runner that was never used leaves nothing, even when killed
        self._base = folder or os.path.join(tempfile.gettempdir(), f"mlagent-run-{secrets.token_hex(8)}")
        is_warm = self._tier.name != "T0"
        kind = partial(WarmServer, tier=self._tier, modules=modules) if is_warm else ColdServer
        self._servers = [kind(os.path.join(self._base, f"server{number}")) for number in range(workers)]
        # beside each full server a small one, started when the first script comes for which it is enough
        paired = self._servers if is_warm and modules == WARM_MODULES else []
        self._light = {full: WarmServer(f"{full.folder}-light", self._tier, LIGHT_MODULES) for full in paired}
        self._free: queue.LifoQueue = queue.LifoQueue()  # the last used is the warmest
        for server in reversed(self._servers):
            self._free.put(server)
        self._closed = threading.Event()
        self._finalizer = weakref.finalize(
            self, _close, [*self._servers, *self._light.values()], self._base, os.getpid()
        )

    @property
    def tier(self) -> str:
        """Name of the isolation tier in use."""
        return self._tier.name

    def run(self, request: RunRequest) -> RunResult:
        """Return what came of one script; waits for a free server.

        Raises:
            Unscored: If we failed, three times in a row.
            ValueError: If the data folder does not exist or the runner is closed.
        """
        request = request.located()
        server = self._free.get()
        try:
            if self._closed.is_set():
                raise ValueError("this runner is closed")
            chosen = self._light.get(server, server) if request.standard_only else server
            return self._note(self._attempt(chosen, request))
        finally:
            self._free.put(server)

    def _attempt(self, server: WarmServer | ColdServer, request: RunRequest) -> RunResult:
        for _ in range(_ATTEMPTS):
            try:
                return server.run(request)
            except ServerLost as error:
                reason = str(error)
        raise Unscored(
            f"{request.script} could not be run in tier {self.tier}, {_ATTEMPTS} times: {reason}",
            cure="free memory and disk on this machine, then resume; `mlagent doctor` checks the isolation",
        )

    def run_many(self, requests: Iterable[RunRequest], *, keep_unscored: bool = False) -> Results:
        """Return the results in the order of ``requests``, computed as many at a time as there are workers.

        Args:
            keep_unscored: Give back a failure of ours in its place, so that it does not spoil the others.

        Raises:
            Unscored: The first failure of ours, after all have ended, unless ``keep_unscored``.
        """

        def run(request: RunRequest) -> RunResult | Unscored:
            try:
                return self.run(request)
            except Unscored as error:
                return error

        requests = list(requests)
        with ThreadPoolExecutor(self.workers, "mlagent-run") as pool:
            results = list(pool.map(run, requests))
        failure = next((result for result in results if isinstance(result, Unscored)), None)
        if failure and not keep_unscored:
            raise failure
        return results

    def warm(self) -> None:
        """Start all servers that are free now, in parallel, instead of on the first runs."""
        servers: list[WarmServer | ColdServer] = []
        try:
            with contextlib.suppress(queue.Empty):
                while True:
                    servers.append(self._free.get_nowait())
            with ThreadPoolExecutor(self.workers, "mlagent-warm") as pool:
                list(pool.map(lambda server: self._attempt(server, NOTHING), servers))
        finally:
            for server in reversed(servers):
                self._free.put(server)

    def close(self) -> None:
        """Wait for the runs in progress, stop all servers, remove all temporary files."""
        if self._closed.is_set():
            return
        self._closed.set()
        held = [self._free.get() for _ in self._servers]
        self._finalizer()
        for server in held:
            self._free.put(server)


def _close(servers: list, base: str, owner_pid: int) -> None:
    if os.getpid() != owner_pid:
        return  # a fork of the owner: the servers are not ours
    for server in servers:
        server.close()
    run_folder.remove(base)
