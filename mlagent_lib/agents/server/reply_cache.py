"""Replies of model servers by content: what was asked once is not paid for again, and says so.

The key covers everything that the reply is drawn from on our side: the model, the address (without its
query, which may hold a key), the conversation, how it is sampled, and the number of the sample. What a server
changes behind the same name is not seen: use another folder after such a change.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mlagent_lib.agents.server.accounting import Tokens
from mlagent_lib.core.files import read_checked, sha256_json, write_checked

Messages = Sequence[Mapping[str, str]]  # ``{"role": ..., "content": ...}`` from the first turn to the last
FOLDER = "reply-cache"  # beside the runs, which share it


@dataclass(frozen=True)
class Completion:
    """One reply of a model; tokens are as the server bills them, None where it does not say."""

    text: str
    finish_reason: str | None = None  # "stop", "length" (cut at max_tokens), ... or None
    prompt_tokens: int | None = None
    cached_tokens: int | None = None  # of the prompt's, those that the server had in its own cache
    completion_tokens: int | None = None
    seconds: float = 0.0  # of the whole call, tries and waits included
    tries: int = 1  # requests that it took

    @property
    def tokens(self) -> Tokens:
        """What the server bills, with 0 where it does not say."""
        return Tokens(self.prompt_tokens or 0, self.cached_tokens or 0, self.completion_tokens or 0)

    @property
    def billed(self) -> int | None:
        """Tokens of prompt and reply together; None where the server said nothing of either."""
        if self.prompt_tokens is None and self.completion_tokens is None:
            return None
        return self.tokens.prompt + self.tokens.completion


def reply_key(model: str, url: str, messages: Messages, sampling: Mapping[str, object], sample: str) -> str:
    """Return the name of a reply, 64 hexadecimal digits: equal questions have equal names on every machine.

    Args:
        url: Address without its query.
        sampling: Temperature, longest reply, and whatever else is sent.
        sample: Tells apart the replies to equal questions, e.g. ``"0/3"`` for trajectory 3 of seed 0.
    """
    parts = [model, url, [dict(message) for message in messages], dict(sampling), sample]
    return sha256_json(parts)


class ReplyCache:
    """Replies on disk, one JSON file each. Several runs and processes may share a folder."""

    def __init__(self, folder: Path | str):
        self.folder = Path(folder)
        self._lock = threading.Lock()

    def get(self, key: str) -> Completion | None:
        """Return the reply of that name, or None; a damaged file counts as none, so the question is asked."""
        return read_checked(self._path(key), lambda about, reply: Completion(**reply))

    def put(self, key: str, reply: Completion, about: Mapping[str, object]) -> Completion:
        """Keep a reply, and return the one that is kept: the first, where two threads asked at once.

        Args:
            about: Written beside it for a reader: model, address, sampling.
        """
        with self._lock:
            held = self.get(key)
            if held is None:
                write_checked(self._path(key), {"about": dict(about), "reply": asdict(reply)})
        return held or reply

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
