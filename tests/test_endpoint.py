"""The client of the chat protocol against a server that behaves well, and one that behaves badly."""

import json
import logging
import pickle
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from fake_openai import FakeOpenAI

from mlagent_lib.agents.endpoint import ChatEndpoint, Usage, parse_endpoint
from mlagent_lib.agents.wire import retry_after
from mlagent_lib.core.errors import EndpointError

KEY = "sk-secret-0123456789abcdef"
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    # A proxy of the machine must not swallow a call to this machine.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")


def client(server, **options):
    options = {"timeout": 5.0, "max_retries": 3, "max_total_seconds": 10.0, "backoff_s": 0.01} | options
    return ChatEndpoint("fake-model", server.base_url, **options)


def failure(server, **options) -> str:
    """Return the error text of a call that must fail, after checking that it holds no key."""
    with pytest.raises(EndpointError) as caught:
        client(server, **options).complete(HELLO)
    assert KEY not in str(caught.value) and KEY not in repr(caught.value)
    assert caught.value.__suppress_context__ and caught.value.__context__ is None
    assert caught.value.cure and server.base_url in str(caught.value)
    return str(caught.value)


def test_request_and_reply():
    with FakeOpenAI("two words", api_key=KEY) as server:
        endpoint = client(server, temperature=0.2, max_tokens=7, extra={"top_p": 0.9})
        reply = endpoint.complete(HELLO, seed=11)
        assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("two words", 2, 2)
        assert (reply.tries, reply.finish_reason) == (1, "stop") and 0 < reply.seconds < 5
        sent = server.requests[0]
        assert sent["authorization"] == KEY and sent["path"] == "/v1/chat/completions"
        assert sent["body"] == {
            "model": "fake-model",
            "messages": HELLO,
            "temperature": 0.2,
            "max_tokens": 7,
            "seed": 11,
            "top_p": 0.9,
        }
        assert endpoint.generate("hi", system="be kind") == endpoint.reply(HELLO) == "two words"
        assert [m["role"] for m in server.requests[1]["body"]["messages"]] == ["system", "user"]
        assert endpoint.usage.calls == 3 and endpoint.usage.prompt_tokens == 2 + 3 + 2


def test_none_leaves_a_field_to_the_server_and_an_unset_key_sends_no_header(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with FakeOpenAI() as server:
        client(server, temperature=None, max_tokens=None).complete(HELLO)
        assert server.requests[0]["body"].keys() == {"model", "messages"}
        assert server.requests[0]["authorization"] == ""


@pytest.mark.parametrize(
    "bad",
    [
        "429",
        "500",
        "503",
        "drop",
        "drop-early",
        "bad-json",
        "not-utf8",
        "empty",
        "wrong-shape",
        "error-200",
        "deep",
        "huge-chunk",
    ],
)
def test_what_may_pass_is_tried_again(bad):
    with FakeOpenAI("fine", script=[bad, bad]) as server:
        endpoint = client(server)
        reply = endpoint.complete(HELLO)
        assert (reply.text, reply.tries, len(server.requests)) == ("fine", 3, 3)
        assert endpoint.usage.requests == 3 and endpoint.usage.failed_calls == 0


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("500", "HTTP 500 Internal Server Error (planned planned 500) (3 times)"),
        ("drop", "the connection broke (IncompleteRead)"),
        ("drop-early", "the connection broke (RemoteDisconnected)"),
        ("bad-json", "not JSON"),
        ("empty", "the reply is empty"),
        ("empty-length", "raise max_tokens"),
        ("wrong-shape", "no choices[0].message.content"),
        ("error-200", "upstream failed for ***"),
        ("429", "HTTP 429 Too Many Requests (slow down)"),
    ],
)
def test_a_lasting_failure_ends_in_one_clear_error(bad, words):
    with FakeOpenAI(then=bad) as server:
        text = failure(server, max_retries=2)
        assert words in text and "after 3 tries" in text and "fake-model" in text
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("401", "$OPENAI_API_KEY holds a key that is refused"),
        ("echo-key-401", "HTTP 401 Unauthorized"),
        ("403", "use a key in $OPENAI_API_KEY that may use model 'fake-model'"),
        ("404", "mostly in /v1"),
        ("400", "HTTP 400 Bad Request (planned planned 400)"),
        ("quota", "the quota of the key is spent"),
        ("redirect", "redirects are not followed"),
    ],
)
def test_what_will_not_pass_is_not_tried_again(bad, words):
    with FakeOpenAI(then=bad) as server:
        text = failure(server)
        assert words in text and "after 1 try" in text
        assert len(server.requests) == 1


def test_401_says_when_no_key_was_set(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with FakeOpenAI(then="401") as server, pytest.raises(EndpointError, match=r"\$OPENAI_API_KEY is not set"):
        client(server).complete(HELLO)


def test_retry_after_in_seconds_and_as_a_date():
    for behaviour, shortest in (("429", 0.4), ("429-date", 0.0)):
        with FakeOpenAI(script=[behaviour], retry_after="0.4") as server:
            assert client(server).complete(HELLO).seconds >= shortest
    assert retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0.0
    assert (
        3000
        < retry_after(time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 3600)))
        <= 3600
    )
    for nonsense in (None, "", "-5", "nan", "inf", "1e9", "tomorrow", "9" * 400):
        assert retry_after(nonsense) is None


def test_a_wait_past_the_budget_is_not_waited():
    with FakeOpenAI(then="429-long") as server:
        started = time.monotonic()
        assert "past max_total_seconds" in failure(server)
        assert time.monotonic() - started < 3 and len(server.requests) == 1


@pytest.mark.parametrize("behaviour", ["slow", "drip"])
def test_timeout_counts_the_whole_reply(behaviour):
    with FakeOpenAI("x" * 200, then=behaviour, slow_s=20.0) as server:
        started = time.monotonic()
        assert "no complete reply within 0.3 s (2 times)" in failure(server, timeout=0.3, max_retries=1)
        assert time.monotonic() - started < 4


def test_total_budget_shortens_the_last_try():
    with FakeOpenAI(then="slow", slow_s=20.0) as server:
        started = time.monotonic()
        failure(server, timeout=5.0, max_total_seconds=0.5)
        assert time.monotonic() - started < 3


def test_server_that_is_down_and_host_that_is_unknown():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    endpoint = ChatEndpoint("m", f"http://127.0.0.1:{port}/v1", max_retries=1, backoff_s=0.01)
    with pytest.raises(EndpointError, match="connection was refused.*check that the server runs"):
        endpoint.complete(HELLO)
    assert endpoint.usage.failed_calls == 1 and endpoint.usage.calls == 0


def test_wrong_path_is_a_404_that_says_what_to_check():
    with FakeOpenAI() as server, pytest.raises(EndpointError, match="mostly in /v1"):
        ChatEndpoint("m", server.base_url.removesuffix("/v1"), backoff_s=0.01).complete(HELLO)


def test_the_key_never_comes_out(caplog):
    with FakeOpenAI(then="echo-key") as server, caplog.at_level(logging.DEBUG):
        endpoint = client(server)
        assert endpoint.complete(HELLO).text == "your key is ***, thank you"
        for shown in (
            repr(endpoint),
            str(endpoint),
            repr(vars(endpoint)),
            pickle.dumps(endpoint).decode("latin1"),
        ):
            assert KEY not in shown
    with FakeOpenAI(then="error-200") as server, caplog.at_level(logging.DEBUG):
        failure(server, max_retries=1)
    assert "upstream failed for ***" in caplog.text and KEY not in caplog.text


def test_a_placeholder_key_does_not_damage_replies(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "EMPTY")
    with FakeOpenAI("the frame is EMPTY") as server:
        assert client(server).complete(HELLO).text == "the frame is EMPTY"


@pytest.mark.parametrize("value", ["sk-12345678\nX-Evil: 1", "sk-12345678 90", "sk-ключ-12345678"])
def test_a_malformed_key_is_named_by_its_variable_only(monkeypatch, value):
    monkeypatch.setenv("OPENAI_API_KEY", value)
    with FakeOpenAI() as server, pytest.raises(EndpointError) as caught:
        client(server).complete(HELLO)
    assert "$OPENAI_API_KEY" in str(caught.value) and "12345678" not in str(caught.value)


def test_query_of_the_url_is_kept_but_not_shown():
    with FakeOpenAI(then="400") as server:
        endpoint = ChatEndpoint("m", server.base_url + "?api-key=topsecret123")
        with pytest.raises(EndpointError) as caught:
            endpoint.complete(HELLO)
        assert server.requests[0]["path"] == "/v1/chat/completions?api-key=topsecret123"
        assert "topsecret" not in str(caught.value) + repr(endpoint)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://host:x/v1",
        "http://[::1",
        "http://ho st/v1",
        "http://hést/v1",
        "http://user:hunter22@host/v1",
    ],
)
def test_bad_urls_are_refused_at_once(url):
    with pytest.raises(EndpointError) as caught:
        ChatEndpoint("m", url)
    assert "hunter22" not in str(caught.value) and caught.value.cure


@pytest.mark.parametrize(
    "options",
    [
        {"timeout": 0},
        {"timeout": float("nan")},
        {"max_retries": -1},
        {"max_total_seconds": float("inf")},
        {"model": " "},
    ],
)
def test_bad_numbers_are_refused_at_once(options):
    with pytest.raises(EndpointError):
        ChatEndpoint(**{"model": "m"} | options)


def test_bad_message_is_the_callers_mistake():
    with FakeOpenAI() as server, pytest.raises(EndpointError, match="message 0"):
        client(server).complete([{"role": "user"}])
    assert server.requests == []


def test_odd_but_legal_replies():
    with FakeOpenAI("naïve ☃", script=["no-usage", "bad-usage", "parts"]) as server:
        endpoint = client(server)
        first, second, third = (endpoint.complete(HELLO) for _ in range(3))
        assert first.prompt_tokens is second.completion_tokens is None
        assert third.text == "naïve ☃" and third.prompt_tokens == 2
        assert endpoint.usage.replies_without_usage == 2


def test_usage_counts_refused_replies_and_threads_share_it():
    with FakeOpenAI("a b c", script=["empty"]) as server:
        endpoint = client(server)
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda i: endpoint.complete(HELLO, seed=i).text, range(24)))
        assert replies == ["a b c"] * 24
        usage = endpoint.usage
        assert (usage.calls, usage.requests, usage.failed_calls) == (24, 25, 0)
        assert usage.prompt_tokens == 50 and usage.completion_tokens == 25 * 3
        assert sorted(r["body"]["seed"] for r in server.requests[1:]) != []
        copy = pickle.loads(pickle.dumps(endpoint))
        assert copy == endpoint and copy.usage == usage and copy.complete(HELLO).text == "a b c"
        assert endpoint.usage == usage


def test_waits_follow_the_seed(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with FakeOpenAI(then="500") as server:
        for seed in (0, 0, 1):
            failure(server, backoff_s=0.4, backoff_seed=seed)
    first, again, other = waits[:3], waits[3:6], waits[6:]
    assert first == again != other
    assert all(0.2 * 2**i <= w <= 0.4 * 2**i for i, w in enumerate(first))


def test_replace_makes_a_fresh_meter():
    with FakeOpenAI() as server:
        endpoint = client(server)
        endpoint.complete(HELLO)
        assert replace(endpoint, max_retries=0).usage == Usage()


@pytest.mark.parametrize(
    ("spec", "model", "url"),
    [
        ("openai:gpt-4o-mini", "gpt-4o-mini", "https://api.openai.com/v1/chat/completions"),
        (
            "openai:qwen2.5:7b@http://localhost:11434/v1",
            "qwen2.5:7b",
            "http://localhost:11434/v1/chat/completions",
        ),
        ("openai:a@b@https://h/v1/chat/completions", "a@b", "https://h/v1/chat/completions"),
    ],
)
def test_parse_endpoint(spec, model, url):
    endpoint = parse_endpoint(spec, timeout=3.0)
    assert (endpoint.model, endpoint.url, endpoint.timeout) == (model, url, 3.0)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "openai",
        "openai:",
        "openai:@http://h/v1",
        "gpt-4o",
        "openai:m@host:80/v1",
        "local:m@http://u:hunter22@h/v1",
        "openai:m@http://u:hunter22@h/v1",
    ],
)
def test_parse_endpoint_refuses(spec):
    with pytest.raises(EndpointError) as caught:
        parse_endpoint(spec)
    assert "hunter22" not in str(caught.value)


def test_import_is_light():
    import subprocess
    import sys

    code = (
        "import sys, mlagent_lib.agents.endpoint, mlagent_lib.agents.ideas, mlagent_lib.agents.export, json;"
        "print(json.dumps([m for m in ('torch', 'transformers', 'sklearn', 'pyarrow') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & {"torch", "transformers"}
