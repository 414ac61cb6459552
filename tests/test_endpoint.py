"""The client of the chat protocol against a server that behaves well, and one that behaves badly."""

import base64
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from fake_openai import FakeOpenAI
from test_pipeline import PARAMETERS, write_notebook
from tiny_task import NAME, FakeRunner, final, neighbours, write_task

from mlagent_lib.agents.schema import validate_row
from mlagent_lib.agents.server.accounting import Spend, Tokens
from mlagent_lib.agents.server.chat import Chat
from mlagent_lib.agents.server.endpoint import ChatEndpoint, RequestRefused
from mlagent_lib.agents.server.endpoint_name import parse_endpoint
from mlagent_lib.agents.server.reply_cache import ReplyCache
from mlagent_lib.agents.server.transport import retry_after, secrets_of
from mlagent_lib.core.artifacts import Stage
from mlagent_lib.core.errors import EndpointError
from mlagent_lib.core.files import read_jsonl
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.environment.actions import parse_action
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.run import lab as labs

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
        assert len(server.requests) == 3
        assert [m["role"] for m in server.requests[1]["body"]["messages"]] == ["system", "user"]
        spend = Spend()
        for messages in (HELLO, server.requests[1]["body"]["messages"], HELLO):
            endpoint.complete(messages, spend=spend)
        assert spend.requests == 3 and spend.tokens.prompt == 2 + 3 + 2


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
        spend = Spend()
        reply = client(server).complete(HELLO, spend=spend)
        assert (reply.text, reply.tries, len(server.requests)) == ("fine", 3, 3)
        assert spend.requests == 3


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
        endpoint, spend = client(server), Spend()
        first, second, third = (endpoint.complete(HELLO, spend=spend) for _ in range(3))
        assert first.prompt_tokens is second.completion_tokens is None
        assert third.text == "naïve ☃" and third.prompt_tokens == 2
        assert spend.without_usage == 2


def test_usage_counts_refused_replies_and_threads_share_it():
    with FakeOpenAI("a b c", script=["empty"]) as server:
        endpoint, spent = client(server), [Spend() for _ in range(24)]
        with ThreadPoolExecutor(8) as pool:
            replies = list(
                pool.map(lambda i: endpoint.complete(HELLO, seed=i, spend=spent[i]).text, range(24))
            )
        assert replies == ["a b c"] * 24
        tokens = sum((spend.tokens for spend in spent), Tokens())
        assert sum(spend.requests for spend in spent) == 25
        assert tokens.prompt == 50 and tokens.completion == 25 * 3
        assert sorted(r["body"]["seed"] for r in server.requests[1:]) != []
        copy = pickle.loads(pickle.dumps(endpoint))
        assert copy == endpoint and copy.complete(HELLO).text == "a b c"


def test_waits_follow_the_seed(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    with FakeOpenAI(then="500") as server:
        for seed in (0, 0, 1):
            failure(server, backoff_s=0.4, backoff_seed=seed)
    first, again, other = waits[:3], waits[3:6], waits[6:]
    assert first == again != other
    assert all(0.2 * 2**i <= w <= 0.4 * 2**i for i, w in enumerate(first))


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
        "import json, sys, mlagent_lib.agents.ideas, mlagent_lib.agents.export;"
        "import mlagent_lib.agents.server.endpoint;"
        "print(json.dumps([m for m in ('torch', 'transformers', 'sklearn', 'pyarrow') if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(json.loads(done.stdout)) & {"torch", "transformers"}


# The key, through the whole chain

ODD_KEY = "sk-odd/key+with&signs=0123456789"  # has other letters when it is quoted


def forms(key: str) -> list[str]:
    """Return a key as a server could send it back: as it is, quoted, in hexadecimal, in base64."""
    data = key.encode()
    texts = [key, quote(key, safe=""), data.hex(), data.hex().upper()]
    for before in ("", "k", "my", "key"):
        text = f"{before}{key} and more".encode()
        texts += [base64.b64encode(text).decode(), base64.urlsafe_b64encode(text).decode()]
    return texts


def cores(key: str) -> list[str]:
    """Return what must be in no file: each form of a key, without ends that depend on what is beside it."""
    return [key, quote(key, safe=""), key.encode().hex(), *(text[8:36] for text in forms(key)[4:])]


@pytest.mark.parametrize("secret", [KEY, ODD_KEY])
def test_a_key_is_cut_out_in_every_usual_form(monkeypatch, secret):
    monkeypatch.setenv("OPENAI_API_KEY", secret)
    with FakeOpenAI(lambda messages: " | ".join(forms(secret))) as server:
        text = client(server).complete(HELLO).text
    assert text.count("***") == len(forms(secret))
    assert not [part for part in cores(secret) if part.lower() in text.lower()]


def test_a_short_secret_makes_no_holes_in_honest_text():
    assert secrets_of("EMPTY", "http://h/v1?version=2024") == []
    honest = "Use 12 nearest neighbours; validation mae: 0.1234, c2Vjc21l " * 20
    assert not [form for form in secrets_of(KEY, "http://h/v1") if form in honest]


def test_a_request_that_is_refused_is_told_from_a_server_that_is_down():
    with FakeOpenAI(script=["400", "empty", "empty", "500", "500", "401"]) as server:
        for kind in (RequestRefused, RequestRefused, EndpointError, EndpointError):
            with pytest.raises(EndpointError) as caught:
                client(server, max_retries=1).complete(HELLO)
            assert type(caught.value) is kind


TINY = f"""\
from dataclasses import replace
from pathlib import Path
from tiny_task import FakeRunner, write_task
from mlagent_lib.run import stages
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.run.lab import Lab
run = Path(runs_dir) / run_id
task = write_task(run.parent / "tasks")
smoke = get_profile(profile)
collect = replace(smoke.collect, tasks=("{NAME}",), trajectories_per_task=2, max_steps=2)
small = replace(smoke, collect=collect)
lab = Lab(small, seed, run, FakeRunner(), ExecutionCache(run / "cache"), {{"{NAME}": task}})
stage = lab.stage("01_collection", expert=expert)
if not stage.done:
    with stage:
        stages.collection(lab, stage, expert=expert)
print((stage.dir / "trajectories.jsonl").read_text())
"""
COMMAND = """\
import functools, logging, sys
from mlagent_lib.run import notebooks as pipeline
from mlagent_lib import cli
logging.basicConfig(level=logging.DEBUG)
pipeline.run_all = functools.partial(
    pipeline.run_all, notebooks_dir=sys.argv[1], notebooks=(("a.ipynb", ("01_collection",)),)
)
sys.exit(cli.main(["run", "--profile", "smoke", "--runs-dir", sys.argv[2], *sys.argv[3:]]))
"""


@pytest.fixture
def collection(tmp_path, repository, monkeypatch):
    """Return a function that runs a collection by `mlagent run` and gives exit code and all it printed."""
    monkeypatch.setenv("OPENAI_API_KEY", ODD_KEY)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(repository), str(repository / "tests")]))
    write_notebook(tmp_path / "notebooks" / "a.ipynb", TINY, parameters=PARAMETERS + 'expert: str = ""\n')

    def run(*words):
        command = [sys.executable, "-c", COMMAND, str(tmp_path / "notebooks"), str(tmp_path / "runs"), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        return done.returncode, done.stdout + done.stderr

    run.folder = tmp_path
    return run


def leaks(folder: Path, printed: str) -> list[str]:
    """Return the places where the key is, in any form."""
    texts = {str(path): path.read_bytes().decode("latin1") for path in folder.rglob("*") if path.is_file()}
    texts["printed"] = printed
    return [name for name, text in texts.items() for part in cores(ODD_KEY) if part.lower() in text.lower()]


def told(messages) -> str:
    """Answer with a valid edit that has the key in its thoughts and in its instruction."""
    loud = " ".join(forms(ODD_KEY))
    reply = neighbours(12) if "Use 12" not in str(messages) else final()
    return reply.replace("Thought: none", f"Thought: the key is {loud}").replace("Use 12", f"{loud} Use 12")


def test_the_key_is_in_no_file_and_no_message_of_a_collection(collection):
    with FakeOpenAI(told, api_key=ODD_KEY, script=["error-200"]) as server:
        code, printed = collection("-p", f"expert=openai:model@{server.base_url}")
        assert code == 0, printed
        assert {seen["authorization"] for seen in server.requests} == {ODD_KEY}
    run = collection.folder / "runs" / "smoke-seed0"
    rows, _ = read_jsonl(run / "01_collection" / "trajectories.jsonl")
    assert len(rows) == 2 and all("the key is ***" in row["steps"][0]["reply"] for row in rows)
    assert "the key is ***" in (run / "notebooks" / "a.ipynb").read_text()
    assert "upstream failed for ***" in printed + (run / "notebooks" / "a.ipynb").read_text()
    for name in ("report.html", "run.json", "pipeline.jsonl", "01_collection/manifest.json"):
        assert (run / name).is_file()
    assert leaks(collection.folder, printed) == []


def test_the_key_is_in_no_trace_of_a_collection_that_fails(collection):
    with FakeOpenAI(told, script=["ok"], then="echo-key-401") as server:
        code, printed = collection("-p", f"expert=openai:model@{server.base_url}")
    assert code == 1 and "$OPENAI_API_KEY holds a key that is refused" in printed
    executed = (collection.folder / "runs" / "smoke-seed0" / "notebooks" / "a.ipynb").read_text()
    assert "Incorrect key Bearer" in executed or "EndpointError" in executed
    assert leaks(collection.folder, printed) == []


@pytest.mark.parametrize(
    "expert",
    [
        "openai:m@http://user:hunter22@h/v1",
        "openai:m@http://h/v1?api-key=hunter22",
        "openai:m@http://h/v1?version=1&Access_Token=hunter22",
        f"openai:{ODD_KEY}",
    ],
)
def test_a_key_given_as_a_parameter_is_refused_before_anything_is_written(collection, expert):
    code, printed = collection("-p", f"expert={expert}")
    assert code == 2 and "put it into the environment variable $OPENAI_API_KEY" in printed
    assert "hunter22" not in printed and ODD_KEY not in printed
    assert not (collection.folder / "runs").exists()


# An expert behind a server that fails


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Return a lab whose expert makes three trajectories of at most three steps of the tiny task."""
    monkeypatch.setattr(labs, "parse_endpoint", partial(parse_endpoint, max_retries=1, backoff_s=0.01))
    task = write_task(tmp_path / "tasks")
    smoke = get_profile("smoke")
    collect = replace(smoke.collect, tasks=(NAME,), trajectories_per_task=3, max_steps=3)
    tools = FakeRunner(), ExecutionCache(tmp_path / "cache"), {NAME: task}
    return labs.Lab(replace(smoke, collect=collect), 0, tmp_path / "run", *tools)


def stepwise(messages) -> str:
    """Answer by how far the agent is, and with the number of its first idea in mind."""
    return neighbours(10 + len(str(messages)) % 7)


def content(rows) -> list:
    """Return trajectories without what depends on the clock."""
    kept = ("reply", "outcome", "reward", "score_after", "observation")
    return [
        (row["id"], row["final"], [[step[name] for name in kept] for step in row["steps"]]) for row in rows
    ]


def test_after_a_server_died_each_reply_that_came_is_used_and_none_is_asked_for_twice(lab, tmp_path):
    with FakeOpenAI(stepwise) as server:
        spec = f"openai:model@{server.base_url}"
        other = f"openai:whole@{server.base_url}"  # a model of its own: known replies are not shared
        whole = labs.collect(lab, tmp_path / "whole" / "trajectories.jsonl", expert=other)
        port = int(server.base_url.split(":")[2].split("/")[0])
        assert len(server.requests) == 9
    path = tmp_path / "cut" / "trajectories.jsonl"
    with (
        FakeOpenAI(stepwise, script=["ok"] * 5, then="500", port=port),
        pytest.raises(EndpointError) as caught,
    ):
        labs.collect(lab, path, expert=spec)
    assert "HTTP 500" in str(caught.value) and caught.value.cure
    assert len(read_jsonl(path.with_name("replies.jsonl"))[0]) == 5
    with pytest.raises(EndpointError, match="connection was refused.*check that the server runs"):
        labs.collect(lab, path, expert=spec)
    with FakeOpenAI(stepwise, port=port) as server:
        rows = labs.collect(lab, path, expert=spec)
        assert len(server.requests) == 4
    assert content(rows) == content(whole)


@pytest.mark.parametrize("bad", ["400", "empty"])
def test_a_request_that_is_refused_costs_its_own_trajectory_only(lab, tmp_path, bad):
    script = ["ok", *[bad] * (2 if bad == "empty" else 1)]  # the second trajectory asked; empty ones twice
    with FakeOpenAI(stepwise, script=script) as server, Stage(tmp_path / "run", "01_collection") as stage:
        rows = labs.collect(lab, stage.path("trajectories.jsonl"), expert=f"openai:m@{server.base_url}")
    stops = [row["final"]["stop"] for row in rows]
    assert (
        sorted(stops) == ["steps", "steps", "unscored"] and [len(row["steps"]) for row in rows].count(3) == 2
    )
    lost = rows[stops.index("unscored")]
    validate_row(lost)
    (step,) = lost["steps"]
    assert (step["outcome"], step["reason"], step["reward"]) == ("unscored", "policy-server", None)


def test_a_server_that_refuses_everything_is_an_error_and_no_trajectory(lab, tmp_path):
    path = tmp_path / "cut" / "trajectories.jsonl"
    with FakeOpenAI(then="400") as server, pytest.raises(RequestRefused, match="HTTP 400"):
        labs.collect(lab, path, expert=f"openai:m@{server.base_url}")
    assert not path.exists()


# What servers do differently -------------------------------------------------------------------------------

TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
MERGED = [{"role": "user", "content": "Be brief.\n\nHi"}]
SIX = {
    "Reflection": "a", "Research Plan and Status": "b", "Fact Check": "c", "Thought": "d",
    "Action": "List Files", "Action Input": {"dir_path": "."},
}  # fmt: skip
FOUR = "Reflection: a\nResearch Plan and Status: b\nFact Check: c\nThought: d"
LIST_FILES = f'{FOUR}\nAction: List Files\nAction Input: {{"dir_path": "."}}'


def said(message: str, **more) -> str:
    return json.dumps({"error": {"message": message, "type": "invalid_request_error", **more}})


def gemini(name):
    return json.dumps([{"error": {"code": 400, "message": f'Unknown name "{name}": Cannot find field.'}}])


def pydantic(name):
    return json.dumps({"detail": [{"type": "extra_forbidden", "loc": ["body", name], "msg": "Extra inputs"}]})


@pytest.mark.parametrize(
    ("status", "words", "left"),
    [
        (400, said("Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                   "'max_completion_tokens' instead.", param="max_tokens"), {"max_completion_tokens": 7}),
        (400, said("Unsupported parameter", param="max_tokens"), {}),
        (422, pydantic("max_tokens"), {}),
        (400, gemini("max_tokens"), {}),
        (500, said("generate() got an unexpected keyword argument 'max_tokens'"), {}),
        (422, "Failed to deserialize the JSON body: unknown field `max_tokens`", {}),
        (200, said("maxTokens is not supported by the provider"), {}),
    ],
)  # fmt: skip
def test_a_field_that_a_server_refuses_is_left_out_and_stays_out(caplog, status, words, left):
    with FakeOpenAI(refuse=lambda body: (status, words) if "max_tokens" in body else None) as server:
        endpoint = client(server, temperature=0.2, max_tokens=7, max_retries=0)
        first, second = endpoint.complete(HELLO, seed=1), endpoint.complete(HELLO)
    bodies = [request["body"] for request in server.requests]
    common = {"model": "fake-model", "messages": HELLO, "temperature": 0.2}
    assert bodies == [common | {"max_tokens": 7, "seed": 1}, common | {"seed": 1} | left, common | left]
    assert (first.tries, second.tries, first.text) == (2, 1, "ok")
    assert caplog.text.count("asking again with") == 1 and "max_tokens" in caplog.text
    assert pickle.loads(pickle.dumps(endpoint)).refused == endpoint.refused == {"max_tokens": "".join(left)}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("temperature", "Unsupported value: 'temperature' does not support 0.5 with this model. Only the "
                        "default (1) value is supported."),
        ("temperature", "invalid temperature: only 1 is allowed for this model"),
        ("temperature", "`temperature` may only be set to 1 when thinking is enabled."),
        ("temperature", "`temperature` and `top_p` cannot both be specified for this model."),
        ("temperature", "gpt-5 models don't support temperature=0.5. Only temperature=1 is supported."),
        ("temperature", "`temperature` is deprecated for this model."),
        ("top_p", "does not support parameters: ['top_p'], for model=o1"),
        ("stop", "Argument not supported on this model: stop"),
        ("seed", "property 'seed' is unsupported"),
        ("stop", "Invalid parameter: stop"),
        ("temperature", "temperature must be 1 for this model"),
        ("top_p", "topP cannot be used with this model"),
        ("seed", "The parameter seed is not implemented"),
        ("temperature", "temperature is incompatible with thinking"),
    ],
)  # fmt: skip
def test_refusals_as_servers_word_them(name, words):
    with FakeOpenAI(refuse=lambda body: (400, said(words)) if name in body else None) as server:
        endpoint = client(server, extra={"top_p": 0.9, "stop": ["x"]}, max_retries=0)
        assert endpoint.complete(HELLO, seed=1).text == "ok"
    asked, again = (request["body"].keys() for request in server.requests)
    assert asked - again == {name} and not again - asked


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (400, said("System role not supported")),
        (400, json.dumps({"object": "error", "message": "System role not supported", "code": 400})),
        (400, said("Unsupported value: 'messages[0].role' does not support 'system' with this model.")),
        (400, said("Conversation roles must alternate user/assistant/user/assistant/...")),
        (500, said("Only user and assistant roles are supported!")),
        (422, said("messages.0.role: must be one of user, assistant")),
        (400, said("Developer instruction is not enabled for models/gemma-3-27b-it")),
        (400, json.dumps({"errors": [{"message": "System role not supported"}]})),
        (
            400,
            json.dumps(
                {
                    "error": {
                        "message": "Provider returned error",
                        "code": 400,
                        "metadata": {"raw": "System role not supported"},
                    }
                }
            ),
        ),
    ],
)
def test_a_system_turn_that_is_refused_goes_to_the_head_of_the_first_user_turn(status, words):
    def refuse(body):
        return (status, words) if any(turn["role"] == "system" for turn in body["messages"]) else None

    with FakeOpenAI(refuse=refuse) as server:
        endpoint = client(server, max_retries=0)
        assert [endpoint.reply(turns) for turns in (TURNS, TURNS, HELLO, TURNS[:1])] == ["ok"] * 4
    asked = [request["body"]["messages"] for request in server.requests]
    assert asked == [TURNS, MERGED, MERGED, HELLO, [{"role": "user", "content": "Be brief."}]]
    assert TURNS[1]["content"] == "Hi"  # the caller's turns are as they were


def test_several_refusals_cost_no_try_and_each_is_asked_about_once():
    def refuse(body):
        for name in ("max_tokens", "max_completion_tokens", "temperature", "seed"):
            if name in body:
                return 400, said(f"Unsupported: '{name}' (max_completion_tokens)")
        return None

    with FakeOpenAI(refuse=refuse) as server:
        endpoint = client(server, max_retries=0)
        assert endpoint.complete(HELLO, seed=1).tries == 5
        assert endpoint.complete(HELLO, seed=1).tries == 1
    with FakeOpenAI(refuse=lambda body: (400, said("'temperature', 'seed' unsupported"))) as server:
        text = failure(server, temperature=1.0)  # it refuses whatever it is asked
        assert len(server.requests) == 2 and "asked again without temperature" in text


@pytest.mark.parametrize(
    "words",
    [
        "max_tokens is too large: 1024. This model supports only up to 512.",
        "This model's maximum context length is 4096 tokens, max_tokens is not allowed to exceed it.",
        "temperature must be between 0 and 1, other values are not supported",
        "Unsupported model",
        "seed 3 is bad luck",
    ],
)
def test_a_value_out_of_range_is_told_and_nothing_is_left_out(words):
    with FakeOpenAI(refuse=lambda body: (400, said(words))) as server:
        endpoint = client(server)
        with pytest.raises(RequestRefused, match=words[:20]):
            endpoint.complete(HELLO, seed=3)
    assert len(server.requests) == 1 and endpoint.refused == {}


def test_what_was_refused_stands_beside_a_known_reply(tmp_path):
    refuse = lambda body: (400, said("'temperature' unsupported")) if "temperature" in body else None  # noqa: E731
    with FakeOpenAI(refuse=refuse) as server:
        Chat(client(server), cache=ReplyCache(tmp_path)).reply(HELLO)
    (path,) = tmp_path.rglob("*.json")
    assert json.loads(path.read_text())["about"]["refused"] == {"temperature": ""}


def call(name, arguments):
    return {
        "content": None,
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


@pytest.mark.parametrize(
    "message",
    [
        call("answer", json.dumps(SIX)),
        call("answer", SIX),
        call("answer", {name.lower().replace(" ", "_"): value for name, value in SIX.items()}),
        call("answer", SIX | {"Action Input": '{"dir_path": "."}'}),
        {"content": None, "function_call": {"name": "answer", "arguments": json.dumps(SIX)}},
        {"function_call": {"name": "answer", "arguments": SIX}},  # no content at all
        call("List Files", '{"dir_path": "."}') | {"content": FOUR},
        call("list_files", {"dir_path": "."}) | {"content": [{"type": "text", "text": FOUR}]},
        call("search", {"q": "x"}) | {"content": LIST_FILES},  # the text is complete without it
    ],
)
def test_a_call_that_carries_our_fields_is_read_as_text(message):
    with FakeOpenAI(lambda messages: message) as server:
        text = client(server).reply(HELLO)
    assert text == LIST_FILES and parse_action(text).arguments == {"dir_path": "."}


def test_a_call_of_an_action_needs_no_brackets_in_its_name():
    arguments = {"script_name": "train.py", "edit_instruction": "Scale.", "save_name": "new.py"}
    with FakeOpenAI(
        lambda messages: call("edit_script", json.dumps(arguments)) | {"content": FOUR}
    ) as server:
        found = parse_action(client(server).reply(HELLO))
    assert (found.name, found.arguments) == ("Edit Script (AI)", arguments)


@pytest.mark.parametrize(
    ("message", "words"),
    [
        (call("List Files", '{"dir_path": "."}'), "calls tools ('List Files')"),
        (call("answer", "{not json"), "calls tools ('answer')"),
        (call("answer", [1]), "turn tool calls off"),
        ({"content": "", "function_call": {"name": "search", "arguments": "{}"}}, "calls tools ('search')"),
        ({"content": None, "tool_calls": call("a", SIX)["tool_calls"] * 2}, "calls tools ('a', 'a')"),
        ({"content": None, "reasoning_content": "Hm. " * 10}, "thought (40 characters) and did not answer"),
        ({"content": " ", "reasoning": "Hm."}, "thought (3 characters)"),
        ({"reasoning": f"my key is {KEY}"}, "raise max_tokens"),
        ({"content": None, "refusal": f"No, {KEY}."}, "the model refused (No, ***.)"),
    ],
)
def test_an_answer_beside_the_text_is_named(message, words):
    with FakeOpenAI(lambda messages: message) as server:
        assert words in failure(server, max_retries=0)
        with pytest.raises(RequestRefused):
            client(server, max_retries=0).complete(HELLO)
