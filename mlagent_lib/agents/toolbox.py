"""A toolbox made from plain words, for code that has no run: the Gymnasium names and the drop-in reward.

A run makes its own from its profile (`lab.Lab.tools`). Nothing here is kept longer than asked: servers and
temporary files go with the last user.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from mlagent_lib.agents.server.endpoint_name import parse_endpoint
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import ChatCoder, Coder, RuleCoder
from mlagent_lib.environment.runner import Runner
from mlagent_lib.environment.step import Toolbox

_lock = threading.RLock()  # reentrant: an environment that is garbage collected may close in the middle
_shared: dict[tuple, list] = {}  # settings -> users, toolbox, what closes it


@contextmanager
def toolbox(
    *,
    coder: Coder | str = "rules",
    workers: int = 1,
    cache: str | Path = "",
    tier: str = "auto",
    allow_unsafe: bool = False,
) -> Iterator[Toolbox]:
    """Return a context with a toolbox; its servers stop at the end, and at the latest at exit.

    Args:
        coder: ``rules`` (the pocket catalogue: exact, knows the pocket tasks only),
            ``openai:<model>@<url>`` for a chat server, or a coder of your own.
        cache: Folder in which results are kept; "" for a temporary one that goes with the toolbox.
        tier: Isolation, see `Runner`.
        allow_unsafe: Permit the tiers that isolate nothing.

    Raises:
        IsolationError: This machine cannot give the tier.
        EndpointError: The coder is no name of an endpoint.
    """
    with ExitStack() as stack:
        if isinstance(coder, str):
            coder = RuleCoder() if coder == "rules" else ChatCoder(parse_endpoint(coder).reply)
        runner = stack.enter_context(Runner(workers, tier, allow_unsafe=allow_unsafe))
        folder = cache or stack.enter_context(TemporaryDirectory(prefix="mlagent-cache-"))
        yield Toolbox(runner, coder, ExecutionCache(folder))


@contextmanager
def shared_toolbox(**settings) -> Iterator[Toolbox]:
    """Return a context like `toolbox`, in which equal settings of one process share servers and cache.

    The last user closes them. Each user has a table of tasks of its own.
    """
    key = (os.getpid(), *sorted(settings.items()))  # a forked process must not talk to its parent's servers
    with _lock:
        if key not in _shared:
            stack = ExitStack()
            _shared[key] = [0, stack.enter_context(toolbox(**settings)), stack]
        _shared[key][0] += 1
        tools = _shared[key][1]
    try:
        yield replace(tools, tasks={})
    finally:
        with _lock:
            _shared[key][0] -= 1
            if _shared[key][0] == 0:
                _shared.pop(key)[2].close()
