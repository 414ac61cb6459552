"""One way to a chat model, for policies and coders: a known reply or the server, and a line in the ledger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace

from mlagent_lib.agents.server.accounting import Call, Ledger, Spend, Tokens
from mlagent_lib.agents.server.endpoint import ChatEndpoint
from mlagent_lib.agents.server.reply_cache import Completion, Messages, ReplyCache, reply_key
from mlagent_lib.environment.actions import Invalid, storable

CODER_MAX_TOKENS = 4000  # MLAgentBench's --edit-script-llm-max-tokens: a coder answers with a whole file


class Chat:
    """A chat model with its cache and its ledger. Threads share one object."""

    def __init__(
        self,
        endpoint: ChatEndpoint,
        *,
        role: str = "policy",
        cache: ReplyCache | None = None,
        ledger: Ledger | None = None,
    ):
        self.endpoint, self.role, self.cache, self.ledger = endpoint, role, cache, ledger
        sampling = {"temperature": endpoint.temperature, "max_tokens": endpoint.max_tokens}
        self._sampling = {**sampling, **endpoint.extra}

    @property
    def workers(self) -> int:
        """Requests that are to be under way at once: one, unless more are allowed by name."""
        return self.endpoint.limit.concurrency or 1

    def about(self) -> dict:
        """Return model, address and sampling, without secrets: for manifests."""
        return {"model": self.endpoint.model, "url": self.endpoint.url, "sampling": dict(self._sampling)}

    def key(self, messages: Messages, sample: str = "0") -> str:
        """Return the name of the reply to a conversation (see `reply_key`)."""
        return reply_key(self.endpoint.model, self.endpoint.url, messages, self._sampling, sample)

    def reply(self, messages: Messages) -> str:
        """Return the one reply to a conversation: what a `ChatCoder` is given."""
        return self.ask(messages)

    def ask(
        self,
        messages: Messages,
        *,
        sample: str = "0",
        trajectory: str = "",
        step: int | None = None,
        number: int = 1,
        judge: Callable[[str], Invalid | None] = lambda text: None,
    ) -> str:
        """Return the reply to a conversation, from the cache or from the server.

        Args:
            sample: Tells apart the replies to equal conversations.
            number: Which reply of the step it will be.
            judge: Returns what is wrong with the format of a reply, or None.

        Raises:
            EndpointError: See `ChatEndpoint.complete`. What it cost is in the ledger.
        """
        key, spend = self.key(messages, sample), Spend()
        reply = self.cache.get(key) if self.cache else None
        hit = reply is not None
        try:
            if reply is None:
                made = self.endpoint.complete(messages, spend=spend)
                reply = replace(made, text=storable(made.text))
                if self.cache:
                    about = self.about() | {"sample": sample, "refused": self.endpoint.refused}
                    reply = self.cache.put(key, reply, about)
        finally:
            if self.ledger:
                fault = judge(reply.text) if reply else None
                place = {"trajectory": trajectory, "step": step, "number": number, "key": key, "hit": hit}
                place["broke"] = fault.reason if fault else ""
                self.ledger.add(self._call(reply, spend, place))
        return reply.text

    def _call(self, reply: Completion | None, spend: Spend, place: dict) -> Call:
        used = reply.tokens if reply else Tokens()
        lost = spend.tokens - used if spend.requests else Tokens()
        counts = {f"{name}_tokens": count for name, count in asdict(used).items()}
        counts |= {f"retry_{name}_tokens": count for name, count in asdict(lost).items()}
        return Call(
            role=self.role, model=self.endpoint.model, failed=reply is None, requests=spend.requests,
            without_usage=spend.without_usage, seconds=round(reply.seconds, 3) if reply else 0.0,
            **counts, **place,
        )  # fmt: skip
