"""The name of an endpoint with its options: ``openai:<model>@<url>#rpm=60,concurrency=8``.

One word says everything wherever a model is named: on the command line, as the parameter of a notebook, as a
profile's coder. What follows a ``#`` is never sent to a server.
"""

from __future__ import annotations

import math
import re

from mlagent_lib.agents.server.endpoint import DEFAULT_BASE_URL, ChatEndpoint
from mlagent_lib.agents.server.ratelimit import RateLimit
from mlagent_lib.core.errors import EndpointError

OPTIONS = ("rpm", "tpm", "concurrency", "temperature", "max_tokens", "timeout", "max_wait", "key_env")
CURE = "write openai:<model>@<url>#rpm=60,concurrency=8; the options are " + ", ".join(OPTIONS)
_FIELDS = {"max_wait": "max_total_seconds", "key_env": "api_key_env"}


def parse_endpoint(spec: str, **options) -> ChatEndpoint:
    """Return the endpoint that ``openai:<model>@<url>`` names; without ``@<url>`` it is OpenAI's own.

    Args:
        spec: E.g. ``"openai:gpt-4o-mini"`` or ``"openai:qwen2.5:7b@http://localhost:11434/v1"``; limits and
            sampling may follow, e.g. ``#rpm=60,concurrency=8`` (see `endpoint_fields`).
        options: Further fields of `ChatEndpoint`; those in ``spec`` win.

    Raises:
        EndpointError: When the text has another form.

    Example:
        >>> endpoint = parse_endpoint("openai:org/qwen@http://localhost:8000/v1#concurrency=8")
        >>> endpoint.model, endpoint.url, endpoint.limit.concurrency
        ('org/qwen', 'http://localhost:8000/v1/chat/completions', 8)
    """
    name, _, settings = spec.partition("#")
    kind, _, rest = name.partition(":")
    model, url = rest, DEFAULT_BASE_URL
    match = re.fullmatch(r"(.+?)@(https?://.*)", rest, re.S)
    if match:
        model, url = match.groups()
    elif "@" in rest:
        model = ""
    if kind != "openai" or not model.strip():
        shown = re.sub(r"//[^/@]*@", "//***@", name.partition("?")[0])
        cure = "write openai:<model>@<url>, e.g. openai:qwen@http://localhost:8000/v1"
        raise EndpointError(f"{shown!r} is not the name of an endpoint", cure=cure)
    return ChatEndpoint(model.strip(), url, **(options | endpoint_fields(settings)))


def endpoint_fields(text: str) -> dict:
    """Return the fields of a `ChatEndpoint` that options give.

    Args:
        text: Options separated by commas: ``rpm`` and ``tpm`` (requests and tokens a minute),
            ``concurrency`` (requests at once), ``temperature`` and ``max_tokens`` (``none`` leaves them to
            the server), ``timeout`` (seconds of a request), ``max_wait`` (seconds of a call with all its
            retries), ``key_env`` (the environment variable that holds the key).

    Raises:
        EndpointError: An option is unknown or out of range. It is quoted only where it cannot be a key.

    Example:
        >>> found = endpoint_fields("concurrency=8,max_tokens=none,max_wait=600")
        >>> found["limit"].concurrency, found["max_tokens"], found["max_total_seconds"]
        (8, None, 600.0)
    """
    given = dict(_option(part) for part in filter(None, text.split(",")))
    limits = {"requests_per_minute": given.pop("rpm", None), "tokens_per_minute": given.pop("tpm", None)}
    limit = RateLimit(**limits, concurrency=given.pop("concurrency", None))
    return {"limit": limit} | {_FIELDS.get(name, name): value for name, value in given.items()}


def _option(part: str) -> tuple[str, object]:
    name, _, value = part.partition("=")
    if name not in OPTIONS:
        raise EndpointError(f"option {name[:20]!r} of an endpoint is unknown", cure=CURE)
    if name == "key_env":
        if not re.fullmatch(r"[A-Z_][A-Z0-9_]{0,60}", value):
            raise EndpointError(
                "key_env of an endpoint must name an environment variable, in capitals",
                cure="put the key into an environment variable such as MY_KEY, and write key_env=MY_KEY",
            )
        return name, value
    if value == "none" and name in ("temperature", "max_tokens"):
        return name, None
    return name, _number(name, value)


def _number(name: str, value: str) -> float | int:
    is_whole = name in ("concurrency", "max_tokens")
    try:
        number = int(value) if is_whole else float(value)
        if not (math.isfinite(number) and (number > 0 or (name, number) == ("temperature", 0))):
            raise ValueError
    except ValueError:
        kind = "a whole number above 0" if is_whole else "a number above 0"
        raise EndpointError(f"{name}={value[:20]} of an endpoint is not {kind}", cure=CURE) from None
    return number
