"""A server on 127.0.0.1 that speaks the OpenAI chat protocol, well or badly, for tests without a network.

    with FakeOpenAI(reply="hello", script=["429", "ok"]) as server:
        ChatEndpoint("fake", server.base_url).generate("hi")

By hand: ``python tests/fake_openai.py --port 8000 --reply "hello"``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import threading
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BEHAVIOURS = (
    "ok",
    "429",
    "429-date",
    "429-long",
    "quota",
    "500",
    "503",
    "drop",
    "drop-early",
    "bad-json",
    "not-utf8",
    "empty",
    "empty-length",
    "slow",
    "drip",
    "wrong-shape",
    "error-200",
    "echo-key",
    "echo-key-401",
    "401",
    "403",
    "404",
    "400",
    "redirect",
    "no-usage",
    "bad-usage",
    "parts",
    "deep",
    "huge-chunk",
    "malformed",
    "unknown-action",
)
_SINGS = (
    "Reflection: a\nResearch Plan and Status: b\nFact Check: c\nThought: d\nAction: Sing\nAction Input: {}"
)
SAYS = {"malformed": "I would rather talk about the weather.", "unknown-action": _SINGS}


class FakeOpenAI:
    """Run the server in a thread; a context manager.

    Args:
        reply: The assistant's text, or a function from the list of messages to it, or to the message's
            fields.
        script: What the 1st, 2nd, ... request meets (one of `BEHAVIOURS`); after its end `then` applies.
        then: Behaviour after the script.
        api_key: When given, other keys meet a 401.
        slow_s: Seconds that ``slow`` waits and ``drip`` spreads its bytes over.
        retry_after: The value of the header that ``429`` sends.
        usage: The ``usage`` field of every reply; None counts words.
        refuse: Takes a body and returns status and text of an error, or None for a good answer.
        port: 0 picks a free one.

    Attributes:
        requests: Bodies received, in order (``{"body", "path", "authorization"}``).
        base_url: What a client is given.
    """

    def __init__(
        self,
        reply: str | Callable[[list[dict]], str | dict] = "ok",
        *,
        script: Sequence[str] = (),
        then: str = "ok",
        api_key: str | None = None,
        slow_s: float = 2.0,
        retry_after: str = "0",
        usage: dict | None = None,
        refuse: Callable[[dict], tuple[int, str] | None] = lambda body: None,
        port: int = 0,
    ):
        unknown = {*script, then} - set(BEHAVIOURS)
        if unknown:
            raise ValueError(f"unknown behaviours {sorted(unknown)}: use {BEHAVIOURS}")
        self.reply, self.then, self.api_key = reply, then, api_key
        self.slow_s, self.retry_after, self.usage = slow_s, retry_after, usage
        self.requests: list[dict] = []
        self.refuse = refuse
        self._script, self._lock = list(script), threading.Lock()
        self._stopping = threading.Event()
        fake = self

        class Handler(_Handler):
            owner = fake

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def __enter__(self) -> FakeOpenAI:
        self._thread.start()
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def close(self) -> None:
        """Stop the server and free its port."""
        self._stopping.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def next_behaviour(self, seen: dict) -> str:
        with self._lock:
            self.requests.append(seen)
            return self._script.pop(0) if self._script else self.then

    def answer(self, messages: list[dict]) -> str | dict:
        return self.reply(messages) if callable(self.reply) else self.reply


class _Handler(BaseHTTPRequestHandler):
    owner: FakeOpenAI

    def log_message(self, *_args):
        pass

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        key = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        body = json.loads(raw)
        behaviour = self.owner.next_behaviour({"body": body, "path": self.path, "authorization": key})
        if self.owner.api_key is not None and key != self.owner.api_key:
            behaviour = "401"
        if not self.path.partition("?")[0].endswith("/v1/chat/completions"):
            behaviour = "404"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client gave up
            if refusal := self.owner.refuse(body):
                self._send(*refusal)
            else:
                self._behave(behaviour, body, key)

    def _behave(self, behaviour: str, body: dict, key: str) -> None:  # noqa: C901 (a flat list of cases)
        good = self._chat(body, SAYS.get(behaviour) or self.owner.answer(body["messages"]))
        text = json.dumps(good)
        if behaviour in ("401", "403", "404", "400", "500", "503"):
            self._send(
                int(behaviour), json.dumps({"error": {"message": f"planned {behaviour}", "code": "planned"}})
            )
        elif behaviour.startswith("429"):
            after = {
                "429": self.owner.retry_after,
                "429-long": "3600",
                "429-date": formatdate(time.time() + 1, usegmt=True),
            }[behaviour]
            self._send(429, '{"error": {"message": "slow down"}}', {"Retry-After": after})
        elif behaviour == "quota":
            self._send(429, '{"error": {"message": "no money left", "code": "insufficient_quota"}}')
        elif behaviour == "drop":
            self._send(200, text, {"Content-Length": str(len(text) + 50)})
        elif behaviour == "drop-early":
            self.close_connection = True  # not even a status line
        elif behaviour == "not-utf8":
            self._send(200, b'{"choices": "\xff\xfe"}')
        elif behaviour in ("slow", "drip"):
            self._slowly(text, drip=behaviour == "drip")
        elif behaviour == "redirect":
            self._send(302, "", {"Location": "http://127.0.0.1:9/v1/chat/completions"})
        elif behaviour == "echo-key-401":
            self._send(401, json.dumps({"error": {"message": "x" * 290 + f" Incorrect key Bearer {key}"}}))
        elif behaviour == "huge-chunk":
            self._send(200, b"zz\r\n" + text.encode(), {"Transfer-Encoding": "chunked"})
        else:
            self._send(200, self._variant(behaviour, good, key))

    def _variant(self, behaviour: str, good: dict, key: str) -> str:
        message = good["choices"][0]["message"]
        if behaviour == "bad-json":
            return '{"choices": [{"message"'
        if behaviour == "deep":
            return "[" * 200_000
        if behaviour == "wrong-shape":
            return '{"choices": []}'
        if behaviour == "error-200":
            return json.dumps({"error": {"message": f"upstream failed for {key}"}})
        if behaviour.startswith("empty"):
            message["content"] = " \n" if behaviour == "empty" else None
            good["choices"][0]["finish_reason"] = "length" if behaviour == "empty-length" else "stop"
        elif behaviour == "echo-key":
            message["content"] = f"your key is {key}, thank you"
        elif behaviour == "no-usage":
            del good["usage"]
        elif behaviour == "bad-usage":
            good["usage"] = {"prompt_tokens": "many", "completion_tokens": -3}
        elif behaviour == "parts":
            message["content"] = [{"type": "text", "text": message["content"]}]
        return json.dumps(good)

    def _chat(self, body: dict, text: str | dict) -> dict:
        message = {"content": text} if isinstance(text, str) else text
        asked = sum(len(m["content"].split()) for m in body["messages"])
        said = len(str(message.get("content")).split())
        return {
            "id": "chatcmpl-fake",
            "object": "chat.completion",
            "created": 0,
            "model": body.get("model"),
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant"} | message}],
            "usage": self.owner.usage
            or {"prompt_tokens": asked, "completion_tokens": said, "total_tokens": asked + said},
        }

    def _send(self, status: int, body: str | bytes, headers: dict | None = None) -> None:
        data = body if isinstance(body, bytes) else body.encode()
        sent = {"Content-Type": "application/json", "Content-Length": str(len(data)), **(headers or {})}
        if "Transfer-Encoding" in sent:
            del sent["Content-Length"]
        self.send_response(status)
        for name, value in sent.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _slowly(self, text: str, *, drip: bool) -> None:
        if not drip:
            self.owner._stopping.wait(self.owner.slow_s)
            self._send(200, text)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        for char in text.encode():  # each byte arrives well inside a per-read timeout
            self.wfile.write(bytes([char]))
            if self.owner._stopping.wait(self.owner.slow_s / len(text)):
                return


def main() -> None:
    """Serve until interrupted, for trying a command by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--reply", default="ok")
    parser.add_argument("--behaviour", choices=BEHAVIOURS, default="ok")
    given = parser.parse_args()
    with FakeOpenAI(given.reply, then=given.behaviour, port=given.port) as server:
        print(f"serving at {server.base_url}; interrupt to stop")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
