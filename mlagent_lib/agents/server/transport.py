"""One request to a chat server: sending it under a deadline, naming what failed, reading the reply.

Nothing here retries or counts: that is `endpoint`. Whatever comes back from a server is untrusted text, so it
is bounded in length, made printable, and the key is cut out of it before anything else sees it, also where it
is URL-quoted or in base64 or hexadecimal. A server that scrambles the key in its own way is not caught.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

from mlagent_lib.agents.server.dialect import empty_because, text_of
from mlagent_lib.agents.server.reply_cache import Completion
from mlagent_lib.core.errors import EndpointError

MAX_REPLY_BYTES = 16 << 20
# A shorter "key" is a placeholder of a local server ("EMPTY", "none"); cutting it out would damage replies.
MIN_SECRET_LENGTH = 8
URL_CURE = "give a URL such as https://api.openai.com/v1 or http://localhost:8000/v1"
PROTOCOL_CURE = "check that the server speaks the OpenAI chat protocol at this URL"
LOOPBACK = ("localhost", "::1")


@dataclass(eq=False)
class FailedTryError(Exception):
    """One request gave no usable reply: why, what a person can do, and whether another try may help."""

    cause: str
    cure: str
    retry: bool = True  # the same request may pass later
    wait_s: float | None = None  # that the server asks to wait
    is_request: bool = False  # this one request is to blame, so that others may pass


def send(url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> tuple[int, Mapping, bytes]:
    """POST and return status, headers and body. A timer cuts the connection, so that a drip ends too.

    Raises:
        FailedTryError: The connection failed, was too slow, or the reply is too long.
    """
    opened = _Socket()
    proxies = urllib.request.ProxyHandler({} if is_loopback(urlsplit(url).hostname or "") else None)
    opener = urllib.request.build_opener(proxies, _NoRedirect(), _WatchedHandler(opened))
    timer = threading.Timer(seconds, opened.cut)
    timer.daemon = True
    timer.start()
    try:
        request = urllib.request.Request(url, data=body, headers=dict(headers), method="POST")
        with opener.open(request, timeout=seconds) as response:
            data = response.read(MAX_REPLY_BYTES + 1)
            if len(data) > MAX_REPLY_BYTES:
                cure = "check that this URL is a chat endpoint"
                raise FailedTryError(f"the reply is longer than {MAX_REPLY_BYTES} bytes", cure)
            if response.length:
                raise http.client.IncompleteRead(b"")  # read(n) does not say that bytes are missing
            return response.status, response.headers, data
    except urllib.error.HTTPError as exc:
        with exc:
            try:
                return exc.code, exc.headers, exc.read(MAX_REPLY_BYTES)
            except (OSError, http.client.HTTPException):
                return exc.code, exc.headers, b""  # the status alone says enough
    except (OSError, http.client.HTTPException) as exc:
        raise _connection_failure(exc, opened.expired, seconds) from None
    finally:
        timer.cancel()


class _Socket:
    """The open socket of a request, so that a timer can cut it from outside."""

    def __init__(self):
        self.expired, self._sock, self._lock = False, None, threading.Lock()

    def note(self, sock: socket.socket) -> None:
        with self._lock:
            self._sock = sock
        if self.expired:
            raise TimeoutError

    def cut(self) -> None:
        self.expired = True
        with self._lock:
            if self._sock is not None:
                with contextlib.suppress(OSError):  # closed in the meantime
                    # The plain method also for TLS: the TLS one drops state that the reading thread uses.
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)


class _WatchedHandler(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
    """Opens connections, with TLS or without, whose sockets are noted."""

    def __init__(self, opened: _Socket):
        self._opened, self._tls = opened, ssl.create_default_context()
        super().__init__(context=self._tls)

    def _watched(self, base: type) -> type:
        opened = self._opened

        class Connection(base):
            def connect(self):
                super().connect()
                opened.note(self.sock)

        return Connection

    def http_open(self, req):
        return self.do_open(self._watched(http.client.HTTPConnection), req)

    def https_open(self, req):
        return self.do_open(self._watched(http.client.HTTPSConnection), req, context=self._tls)


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, req, fp, code, msg, headers, newurl):
        return None


def check_url(url: str) -> None:
    """Refuse what is not an http(s) URL, or carries a user name; never quote a password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not url.isascii() or re.search(r"[\x00-\x20\x7f]", url):
        shown = re.sub(r"//[^/@]*@", "//***@", url.partition("?")[0])
        raise EndpointError(f"base_url {shown!r:.200} is not an http or https URL", cure=URL_CURE)
    if "@" in parts.netloc:
        cure = "take it out and put the key into an environment variable (api_key_env)"
        raise EndpointError(f"base_url of {parts.hostname} carries a user name or a password", cure=cure)


def is_loopback(host: str) -> bool:
    """Return whether the host is this machine itself, which no proxy can reach."""
    return host in LOOPBACK or host.startswith("127.")


def read_key(variable: str) -> str:
    """Return the key in an environment variable, or ""; refuse one that no header can carry, unquoted."""
    key = os.environ.get(variable, "").strip()
    if not re.fullmatch(r"[\x21-\x7e]*", key):
        told = f"the key in ${variable} holds a blank, a control or a non-ASCII character"
        raise EndpointError(told, cure=f"set ${variable} again, to the key alone")
    return key


def secrets_of(key: str, url: str) -> list[str]:
    """Return what must never come out, longest first: the key and the query's values, in every usual form."""
    values = [key, *(value for _, value in parse_qsl(urlsplit(url).query))]
    found = {form for value in values if len(value) >= MIN_SECRET_LENGTH for form in _forms(value)}
    return sorted(found, key=len, reverse=True)


def _forms(secret: str) -> set[str]:
    """Return a secret as it is, URL-quoted, in hexadecimal, and in base64 wherever in a text it starts."""
    data = secret.encode()
    forms = {secret, quote(secret), quote_plus(secret), data.hex(), data.hex().upper()}
    for before in range(3):  # base64 takes three bytes at a time: there are three ways to cut
        text = base64.b64encode(b"\0" * before + data).decode().rstrip("=")
        # the first letters hold bits of what stands before, the last one of what follows
        own = text[(0, 2, 3)[before] : len(text) - ((before + len(data)) % 3 > 0)]
        forms |= {own, own.replace("+", "-").replace("/", "_")}
    return forms


def _redact(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _connection_failure(exc: Exception, expired: bool, seconds: float) -> FailedTryError:
    reason = getattr(exc, "reason", None)
    cause = reason if isinstance(reason, Exception) else exc
    if expired or isinstance(cause, TimeoutError):
        cure = "raise timeout, lower max_tokens, or use a faster server"
        return FailedTryError(f"no complete reply within {seconds:.3g} s", cure)
    if isinstance(cause, ssl.SSLCertVerificationError):
        what = f"the certificate does not verify ({cause.verify_message})"
        return FailedTryError(what, "fix the certificate, or the clock of this machine", retry=False)
    cure = "check that the server runs, that base_url is right, and that this machine reaches it"
    if isinstance(cause, socket.gaierror):
        return FailedTryError("the host name does not resolve", cure)
    if isinstance(cause, ConnectionRefusedError):
        return FailedTryError("the connection was refused", cure)
    # Only the class: the text of such an error may quote what the server sent.
    return FailedTryError(f"the connection broke ({type(cause).__name__})", cure)


def retry_after(value: str | None) -> float | None:
    """Return the seconds that ``Retry-After`` asks for (a number, or a date), or None.

    >>> retry_after("7"), retry_after("Thu, 01 Jan 1970 00:00:00 GMT"), retry_after("soon")
    (7.0, 0.0, None)
    """
    text = (value or "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,6})?", text):
        return float(text)
    try:
        when = parsedate_to_datetime(text)
        if when.tzinfo is None:
            when = when.replace(tzinfo=UTC)
        return max((when - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError, OverflowError):
        return None


def _load(data: bytes):
    try:
        return json.loads(data.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None


def server_message(data: bytes, secrets: Sequence[str]) -> str:
    """Return the server's own words in one printable line of at most 300 characters, keys cut out."""
    loaded = _load(data)
    if isinstance(loaded, list) and len(loaded) == 1:  # as Gemini's server wraps it
        loaded = loaded[0]
    error = loaded.get("error") or loaded if isinstance(loaded, dict) else None
    if isinstance(error, dict):
        said = ("code", "param", "message", "detail", "errors", "metadata")  # the last: OpenRouter's cause
        error = " ".join(str(error[k]) for k in said if error.get(k))
    if loaded is None and not data.lstrip().startswith(b"<"):  # plain words; a page would tell nothing
        error = data.decode("utf-8", "replace")
    text = error if isinstance(error, str) else ""
    text = re.sub(r"\bsk-[\w-]{8,}", "***", _redact(text, secrets))  # before cutting: no half keys
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]


def parse_reply(data: bytes, secrets: Sequence[str]) -> tuple[Completion, FailedTryError | None]:
    """Return the reply, with its tokens also where it is of no use, and why it is of none (or None)."""
    loaded = _load(data)
    if loaded is None:
        return Completion(""), FailedTryError("the reply is not JSON", PROTOCOL_CURE)
    bare = Completion("", None, *_usage(loaded.get("usage") if isinstance(loaded, dict) else None))
    try:
        choice = loaded["choices"][0]
        message, finish = choice["message"], choice.get("finish_reason")
        why, cure = empty_because(message)
        content = message.get("content") if why else message["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        words = server_message(data, secrets)
        note = f" ({words})" if words else ""
        return bare, FailedTryError(f"the reply has no choices[0].message.content{note}", PROTOCOL_CURE)
    if isinstance(content, list):  # a list of typed parts, as newer servers may send
        texts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(text for text in texts if isinstance(text, str))
    if content is not None and not isinstance(content, str):
        return bare, FailedTryError("the reply's content is not text", PROTOCOL_CURE)
    text = _redact(text_of(content or "", message), secrets)
    finish = _redact(finish, secrets)[:40] if isinstance(finish, str) else None
    if text.strip():
        return replace(bare, text=text, finish_reason=finish), None
    if finish == "length":
        cure = "raise max_tokens: the model spent all of them before its answer"
    cause = "the reply is empty" + _redact(f": {why}" if why else "", secrets)
    return bare, FailedTryError(cause, cure or PROTOCOL_CURE, is_request=True)


def _usage(usage: object) -> tuple[int | None, int | None, int | None]:
    """Return the tokens that a server has read, had in its cache, and written; None where it is silent."""
    found = usage if isinstance(usage, dict) else {}
    details = found.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    counts = found.get("prompt_tokens"), found.get("completion_tokens"), cached
    prompt, completion, cached = (n if type(n) is int and n >= 0 else None for n in counts)
    return prompt, None if cached is None or prompt is None else min(cached, prompt), completion
