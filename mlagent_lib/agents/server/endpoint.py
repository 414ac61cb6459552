"""A client of any server that speaks the OpenAI chat protocol (OpenAI, vLLM, Ollama, llama.cpp, ...).

It asks for one completion at a time, retries what may pass (rate limits, server errors, dropped or broken
replies) inside a budget of tries and seconds, and ends with one `EndpointError` that names server, cause and
cure. It does not stream, batch, know replies or prices (`chat`), or keep a conversation.

The API key is read from the environment at each call and is never stored, shown, logged or returned: it is
cut out of everything the server sends back.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from http.client import responses
from urllib.parse import urlsplit, urlunsplit

from mlagent_lib.agents.server import transport
from mlagent_lib.agents.server.accounting import Spend
from mlagent_lib.agents.server.dialect import adapted, refused_field, substitute
from mlagent_lib.agents.server.ratelimit import RateLimit, guess_tokens
from mlagent_lib.agents.server.reply_cache import Completion, Messages
from mlagent_lib.agents.server.transport import FailedTryError
from mlagent_lib.core.errors import EndpointError
from mlagent_lib.core.seeding import rng

logger = logging.getLogger("mlagent.endpoint")

DEFAULT_BASE_URL = "https://api.openai.com/v1"
API_KEY_ENV = "OPENAI_API_KEY"
MAX_WAIT_S = 30.0
_LATER = "wait and start again, raise max_retries or max_total_seconds, or send fewer requests at once"
_USUAL = (
    "read the server's message; a prompt that is too long or a field that the server does not know are the "
    "usual reasons"
)
RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524, 529})


class RequestRefused(EndpointError):
    """The server is up, and has no usable reply to this one request: others may pass."""


@dataclass(frozen=True)
class ChatEndpoint:
    """A chat model behind a URL. Threads may share one object.

    Attributes:
        model: Name of the model as the server knows it, e.g. ``"gpt-4o-mini-2024-07-18"``.
        base_url: Up to and including ``/v1``. Without user name and password.
        api_key_env: The environment variable that holds the key. Unset or empty: no key is sent.
        timeout: Seconds that one request may take, from connecting to the last byte.
        max_retries: Further requests after the first one, 0 or more.
        max_total_seconds: Seconds that one call may take with all its tries and waits; waits for ``limit``
            are not counted.
        temperature: Sampling temperature; ``None`` leaves it to the server.
        max_tokens: Longest reply in tokens; ``None`` leaves it to the server.
        backoff_s: First wait in seconds; doubles with each try up to 30 s, times a jitter of 0.5 to 1.
        backoff_seed: Root seed of the jitter.
        extra: Further fields of the request, e.g. ``{"top_p": 0.9}``.
        limit: Requests and tokens a minute, and requests at once.

    Raises:
        EndpointError: When a value is out of range, or ``base_url`` is not an http(s) URL.

    Example:
        >>> ChatEndpoint("qwen", "http://localhost:8000/v1/").url
        'http://localhost:8000/v1/chat/completions'
    """

    model: str
    base_url: str = DEFAULT_BASE_URL
    api_key_env: str = API_KEY_ENV
    timeout: float = 60.0
    max_retries: int = 5
    max_total_seconds: float = 300.0
    temperature: float | None = 0.5
    max_tokens: int | None = 1024
    backoff_s: float = 1.0
    backoff_seed: int = 0
    extra: Mapping[str, object] = field(default_factory=dict, repr=False)
    limit: RateLimit = field(default_factory=RateLimit, repr=False, compare=False)
    _calls: Counter[str] = field(init=False, repr=False, compare=False, default_factory=Counter)
    _refused: dict[str, str] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self):
        transport.check_url(self.base_url)
        if not self.model.strip():
            raise EndpointError("the name of an endpoint's model is empty", cure="give the model's name")
        lowest = {"timeout": 1e-3, "max_total_seconds": 1e-3, "max_retries": 0, "backoff_s": 0}
        for name, low in lowest.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= low):
                told = f"{name} of an endpoint must be at least {low}, not {value!r}"
                raise EndpointError(told, cure=f"set {name} to {low} or more")
        host = urlsplit(self.base_url).hostname or ""
        is_open = self.base_url.startswith("http://") and not transport.is_loopback(host)
        if is_open and os.environ.get(self.api_key_env):
            told = "endpoint %s is not encrypted: the key in $%s travels in clear text"
            logger.warning(told, self.url, self.api_key_env)

    def __repr__(self) -> str:
        return f"ChatEndpoint(model={self.model!r}, url={self.url!r}, api_key_env={self.api_key_env!r})"

    @property
    def url(self) -> str:
        """The address that is called, without its query (which may carry a key)."""
        return self._full_url().partition("?")[0]

    @property
    def refused(self) -> dict[str, str]:
        """What the server refused so far, each with what is sent in its place, or "" (see `dialect`)."""
        return dict(self._refused)

    def generate(self, prompt: str, *, system: str | None = None, seed: int | None = None) -> str:
        """Return the reply to one user message, as text (see `complete`)."""
        head = [{"role": "system", "content": system}] if system else []
        return self.reply([*head, {"role": "user", "content": prompt}], seed=seed)

    def reply(self, messages: Messages, *, seed: int | None = None) -> str:
        """Return the text of the reply to a conversation (see `complete`); what a `ChatCoder` is given."""
        return self.complete(messages, seed=seed).text

    def complete(
        self, messages: Messages, *, seed: int | None = None, spend: Spend | None = None
    ) -> Completion:
        """Return the model's reply to a conversation.

        Retried: HTTP 408, 409, 425, 429 and 5xx, timeouts, refused or dropped connections, replies that are
        not JSON, of the wrong shape, or empty. Not retried: every other status, a spent quota, a certificate
        that does not verify, redirects (they would carry the key elsewhere). ``Retry-After`` is obeyed, also
        by whoever else shares ``limit``. A field or a system turn that the server refuses is left out, in
        this and in later calls (see `dialect`).

        Args:
            messages: ``{"role": ..., "content": ...}`` from the first turn to the last.
            seed: Sent to the server, which may or may not obey it.
            spend: Filled with what all requests of this call took, also where it fails.

        Raises:
            RequestRefused: The server answers, but not this request (too long, or empty replies only).
            EndpointError: No usable reply within ``max_retries`` and ``max_total_seconds``.
        """
        fields, refused, spend = self._fields(messages, seed), self.refused, spend or Spend()
        key = transport.read_key(self.api_key_env)
        secrets = transport.secrets_of(key, self.base_url)
        self._calls["made"] += 1
        jitter = rng(self.backoff_seed, "endpoint", self.model, self._calls["made"])
        guess = guess_tokens(sum(len(message["content"]) for message in messages), self.max_tokens)
        causes: Counter[str] = Counter()
        most, began = self.max_retries + 1, time.monotonic()

        def left() -> float:
            return began + self.max_total_seconds - time.monotonic()

        for attempt in itertools.count(1):
            sent = adapted(fields, refused)
            try:
                with self.limit.slot(guess) as slot:
                    began += slot.waited_s  # waiting for our own limit does not count
                    reply = self._one_request(sent, key, secrets, min(self.timeout, left()), spend)
                    slot.tokens = reply.billed or slot.tokens
            except FailedTryError as exc:
                failure = exc
            else:
                self._refused.update(refused)
                return replace(reply, seconds=time.monotonic() - began, tries=attempt)
            if left() > 0 and (how := self._left_out(failure.cause, sent, refused)):
                causes[f"{failure.cause}, asked again {how}"] += 1
                most += 1  # no try is lost: the same request would never pass
                continue
            causes[failure.cause] += 1
            if not failure.retry or attempt >= most:
                break
            wait = self._wait(failure, attempt, jitter)
            if wait >= left():
                causes[f"the next try would be in {wait:.0f} s, past max_total_seconds"] += 1
                break
            cause = f"{failure.cause}; try {attempt + 1} of {most} in {wait:.1f} s"
            logger.warning("endpoint %s: %s", self.url, cause)
            time.sleep(wait)
        listed = "; ".join(f"{cause} ({n} times)" if n > 1 else cause for cause, n in causes.items())
        # `from None`, and outside the except block: a cause could show headers, and with them the key.
        raise (RequestRefused if failure.is_request else EndpointError)(
            f"the endpoint {self.url} gave no usable reply for model {self.model!r} after {attempt} "
            f"{'try' if attempt == 1 else 'tries'} in {time.monotonic() - began:.1f} s: {listed}",
            cure=failure.cure,
        ) from None

    def _left_out(self, cause: str, sent: Mapping[str, object], refused: dict[str, str]) -> str:
        """Return how to ask again where the server refuses a field, and note that field, or return ""."""
        name = refused_field(cause, sent)
        if not name:
            return ""
        refused[name] = substitute(name, cause, sent)
        how = f"with {refused[name]} for {name}" if refused[name] else f"without {name}"
        logger.warning("endpoint %s: %s; asking again %s", self.url, cause, how)
        return how

    def _wait(self, failure: FailedTryError, attempt: int, jitter) -> float:
        """Return the seconds until the next try; where the server named them, others wait too."""
        wait = min(self.backoff_s * 2 ** (attempt - 1), MAX_WAIT_S) * jitter.uniform(0.5, 1.0)
        if failure.wait_s is None:
            return wait
        self.limit.pause(failure.wait_s, "the server asked for it")
        return failure.wait_s + 0.1 * wait  # never before the time named; not all threads at once

    def _full_url(self) -> str:
        parts = urlsplit(self.base_url)
        path = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))

    def _fields(self, messages: Messages, seed: int | None) -> dict:
        for i, message in enumerate(messages):
            if not (isinstance(message.get("role"), str) and isinstance(message.get("content"), str)):
                told = f"message {i} must have a text role and a text content, not {message!r:.200}"
                raise EndpointError(told, cure="give messages as {'role': 'user', 'content': '...'}")
        optional = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": seed}
        fields = {"model": self.model, "messages": [dict(m) for m in messages], **self.extra}
        return fields | {name: value for name, value in optional.items() if value is not None}

    def _one_request(
        self, fields: dict, key: str, secrets: Sequence[str], seconds: float, spend: Spend
    ) -> Completion:
        body = json.dumps(fields, allow_nan=False).encode()
        spend.requests += 1
        head = {"Content-Type": "application/json", "User-Agent": "mlagent-kit"}
        head |= {"Authorization": f"Bearer {key}"} if key else {}
        status, headers, data = transport.send(self._full_url(), body, head, max(seconds, 1e-3))
        if status != 200:
            raise self._status_failure(status, headers, transport.server_message(data, secrets))
        reply, problem = transport.parse_reply(data, secrets)
        spend.tokens = spend.tokens + reply.tokens
        if problem:
            raise problem
        spend.without_usage += reply.billed is None
        return reply

    def _status_failure(self, status: int, headers: Mapping, message: str) -> FailedTryError:
        phrase = responses.get(status, "(unknown status)")  # the server's own is not to be trusted
        cause = f"HTTP {status} {phrase}" + (f" ({message})" if message else "")
        key = f"${self.api_key_env}"
        cures = {
            401: f"set {key} to a valid key of this server",
            403: f"use a key in {key} that may use model {self.model!r}",
            404: "check that base_url ends where /chat/completions follows (mostly in /v1) and that the "
            f"server knows a model {self.model!r}",
        }
        if status == 401:
            state = "holds a key that is refused" if transport.read_key(self.api_key_env) else "is not set"
            cause = f"{cause}: {key} {state}"
        elif 300 <= status < 400:
            cause = f"{cause}: redirects are not followed, the key could leak"
            cures[status] = "set base_url to the address that the server redirects to"
        elif "quota" in message.lower():
            cures[429] = "the quota of the key is spent: top it up or wait"
        if status in cures:
            return FailedTryError(cause, cures[status], retry=False)
        if status in RETRIED_STATUS or status >= 500:
            return FailedTryError(cause, _LATER, wait_s=transport.retry_after(headers.get("Retry-After")))
        return FailedTryError(cause, _USUAL, retry=False, is_request=True)
