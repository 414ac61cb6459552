"""Limits of a model server: requests a minute, tokens a minute, requests at once.

A limit is kept on our side, so that a server has no reason to refuse. Where it refuses all the same and names
a time (``Retry-After``), everybody who shares the limit waits until then. How many tokens a request will take
is not known before: it is guessed from its length and the longest reply, and put right once the reply is in.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from mlagent_lib.core.errors import EndpointError

WINDOW_S = 60.0
CHARACTERS_PER_TOKEN = 4  # a rule of thumb for English and code; only reservations depend on it


def guess_tokens(characters: int, max_tokens: int | None) -> int:
    """Return about how many tokens a request may take, prompt and reply together.

    Example:
        >>> guess_tokens(401, 100)
        201
    """
    return math.ceil(characters / CHARACTERS_PER_TOKEN) + (max_tokens or 0)


@dataclass
class Slot:
    """Leave to send one request.

    Attributes:
        tokens: What the request is counted with; set it to what was really used.
    """

    waited_s: float
    tokens: int
    at: float = 0.0


class RateLimit:
    """What a server allows. Threads share one object.

    Args:
        requests_per_minute: In any 60 seconds; None for no limit.
        tokens_per_minute: Prompt and completion together, in any 60 seconds; None for no limit.
        concurrency: Requests under way at once, 1 or more; None for as many as there are threads that ask.

    Attributes:
        on_wait: Told the seconds of each wait before it begins, and why; None for nobody.
        waited_s: Seconds waited for a minute to pass, or for a time that the server named, over all threads.

    Raises:
        EndpointError: A limit is not positive.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        concurrency: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.requests_per_minute, self.tokens_per_minute = requests_per_minute, tokens_per_minute
        self.concurrency = concurrency
        for name, value in vars(self).items():
            if value is not None and not (math.isfinite(value) and value >= 1):
                raise EndpointError(f"{name} is {value:g}", cure=f"set {name} to 1 or more")
        self.on_wait: Callable[[float, str], None] | None = None
        self.waited_s = 0.0
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(concurrency) if concurrency else nullcontext()
        self._sent: deque[Slot] = deque()
        self._not_before, self._why = -math.inf, ""

    def __reduce__(self):
        """Pickle the limits alone: another process counts for itself."""
        names = ("requests_per_minute", "tokens_per_minute", "concurrency")
        return partial(RateLimit, **{name: getattr(self, name) for name in names}), ()

    @contextmanager
    def slot(self, tokens: int = 0) -> Iterator[Slot]:
        """Wait until a request may go out, and hold its place while it is under way.

        Args:
            tokens: What it will take, see `guess_tokens`. More than a minute's worth waits for a whole one.
        """
        asked = self._clock()
        with self._free:
            while True:
                with self._lock:
                    wait, why = self._wait_s(tokens)
                    if wait <= 0:
                        now = self._clock()
                        slot = Slot(now - asked, tokens, now)
                        self._sent.append(slot)
                        break
                    self.waited_s += wait
                if self.on_wait:
                    self.on_wait(wait, why)
                self._sleep(wait)
            yield slot

    def pause(self, seconds: float, why: str) -> None:
        """Let nobody send before so many seconds have gone: the server has asked for it."""
        with self._lock:
            until = self._clock() + seconds
            if until > self._not_before:
                self._not_before, self._why = until, why

    def _wait_s(self, tokens: int) -> tuple[float, str]:
        now = self._clock()
        while self._sent and self._sent[0].at <= now - WINDOW_S:
            self._sent.popleft()
        waits = [(self._not_before - now, self._why)]
        most = self.requests_per_minute
        if most is not None and len(self._sent) >= int(most):
            oldest = self._sent[len(self._sent) - int(most)]
            waits.append((oldest.at + WINDOW_S - now, f"{most:g} requests a minute"))
        most = self.tokens_per_minute
        if most is not None:
            over = sum(slot.tokens for slot in self._sent) + min(tokens, most) - most
            for slot in self._sent:
                if over <= 0:
                    break
                over -= slot.tokens
                waits.append((slot.at + WINDOW_S - now, f"{most:g} tokens a minute"))
        return max(waits)
