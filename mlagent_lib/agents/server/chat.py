"""One way to a chat model, for policies and coders: a known reply or the server, and a line in the ledger."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from mlagent_lib.agents.server.accounting import Call, Ledger, Spend, Tokens
from mlagent_lib.agents.server.endpoint import ChatEndpoint
from mlagent_lib.agents.server.reply_cache import KnownReply, ReplyCache, reply_key
from mlagent_lib.environment.actions import storable

CODER_MAX_TOKENS = 4000  # MLAgentBench's --edit-script-llm-max-tokens: a coder answers with a whole file


class Chat:
    """A chat model with its cache and its ledger. Threads share one object.

    Args:
        endpoint: The server.
        role: ``policy`` or ``coder``, as the ledger names it.
        cache: Known replies; None asks always.
        ledger: Where calls are written down; None keeps none.
    """

    def __init__(
        self,
        endpoint: ChatEndpoint,
        *,
        role: str = "policy",
        cache: ReplyCache | None = None,
        ledger: Ledger | None = None,
    ):
        self.endpoint, self.role, self.cache, self.ledger = endpoint, role, cache, ledger
        self._sampling = {
            "temperature": endpoint.temperature, "max_tokens": endpoint.max_tokens, **endpoint.extra,
        }  # fmt: skip

    @property
    def workers(self) -> int:
        """Requests that are to be under way at once: one, unless more are allowed by name."""
        return self.endpoint.limit.concurrency or 1

    def about(self) -> dict:
        """Return model, address and sampling, without secrets: for manifests."""
        return {"model": self.endpoint.model, "url": self.endpoint.url, "sampling": dict(self._sampling)}

    def key(self, messages: Sequence[Mapping[str, str]], sample: str = "0") -> str:
        """Return the name of the reply to a conversation (see `reply_key`)."""
        return reply_key(self.endpoint.model, self.endpoint.url, messages, self._sampling, sample)

    def reply(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Return the one reply to a conversation: what a `ChatCoder` is given."""
        return self.ask(messages)

    def ask(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        sample: str = "0",
        trajectory: str = "",
        step: int | None = None,
        number: int = 1,
        judge: Callable[[str], str] = lambda text: "",
    ) -> str:
        """Return the reply to a conversation, from the cache or from the server.

        Args:
            messages: The conversation.
            sample: Tells apart the replies to equal conversations.
            trajectory: For the ledger, like the next two.
            step: Of the trajectory.
            number: Which reply of the step it will be.
            judge: Returns why a reply breaks the format, or "".

        Raises:
            EndpointError: See `ChatEndpoint.complete`. What it cost is in the ledger.
        """
        key, spend = self.key(messages, sample), Spend()
        reply = self.cache.get(key) if self.cache else None
        hit = reply is not None
        try:
            if reply is None:
                reply = self._fetch(messages, spend)
                if self.cache:
                    about = self.about() | {"sample": sample, "refused": self.endpoint.refused}
                    reply = self.cache.put(key, reply, about)
        finally:
            if self.ledger:
                place = {"trajectory": trajectory, "step": step, "number": number, "key": key, "hit": hit}
                broke = judge(reply.text) if reply else ""
                self.ledger.add(self._call(reply, spend, place | {"broke": broke}))
        return reply.text

    def _fetch(self, messages: Sequence[Mapping[str, str]], spend: Spend) -> KnownReply:
        made = self.endpoint.complete(messages, spend=spend)
        tokens = made.prompt_tokens, made.cached_tokens, made.completion_tokens
        return KnownReply(storable(made.text), made.finish_reason, *tokens, made.seconds)

    def _call(self, reply: KnownReply | None, spend: Spend, place: dict) -> Call:
        used = Tokens()
        if reply:
            used = Tokens(reply.prompt_tokens or 0, reply.cached_tokens or 0, reply.completion_tokens or 0)
        lost = spend.tokens - used if spend.requests else Tokens()
        return Call(
            role=self.role,
            model=self.endpoint.model,
            failed=reply is None,
            requests=spend.requests,
            prompt_tokens=used.prompt,
            cached_tokens=used.cached,
            completion_tokens=used.completion,
            retry_prompt_tokens=lost.prompt,
            retry_cached_tokens=lost.cached,
            retry_completion_tokens=lost.completion,
            without_usage=spend.without_usage,
            seconds=round(reply.seconds, 3) if reply else 0.0,
            **place,
        )
