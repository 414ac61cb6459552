"""Any chat model: limits kept, replies known, calls written down, broken formats asked for again."""

from __future__ import annotations

import json
import os
import pickle
import threading
import time
from dataclasses import replace

import pytest
from fake_openai import SAYS, FakeOpenAI
from tiny_task import edit, final, make_tools, neighbours, reply

from mlagent_lib.agents.policies import ChatPolicy, format_fault
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.agents.server import ratelimit
from mlagent_lib.agents.server.accounting import Ledger, Spend, read_calls
from mlagent_lib.agents.server.chat import Chat
from mlagent_lib.agents.server.endpoint import ChatEndpoint, RequestRefused
from mlagent_lib.agents.server.endpoint_name import parse_endpoint
from mlagent_lib.agents.server.ratelimit import RateLimit
from mlagent_lib.agents.server.reply_cache import ReplyCache, reply_key
from mlagent_lib.core.errors import EndpointError
from mlagent_lib.core.parallel import map_threads
from mlagent_lib.environment.coder import ChatCoder, EditRequest
from mlagent_lib.environment.outcome import Outcome

KEY = "sk-secret-0123456789abcdef"
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def client(server, **options) -> ChatEndpoint:
    options = {"timeout": 5.0, "max_retries": 3, "max_total_seconds": 10.0, "backoff_s": 0.01} | options
    return ChatEndpoint("fake-model", server.base_url, **options)


class Clock:
    """A clock that only `sleep` moves; it notes the waits."""

    def __init__(self):
        self.now, self.waits = 0.0, []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def limited(**options) -> tuple[RateLimit, Clock]:
    clock = Clock()
    return RateLimit(**options, clock=clock, sleep=clock.sleep), clock


# limits


def test_requests_a_minute_by_hand():
    limit, clock = limited(requests_per_minute=2)
    told = []
    limit.on_wait = lambda seconds, why: told.append((seconds, why))
    times = []
    for pause in (0.0, 10.0, 5.0, 0.0):
        clock.now += pause
        with limit.slot():
            times.append(clock.now)
    # sent at 0 and 10; the third, wanted at 15, waits until 60; the fourth until 70
    assert times == [0.0, 10.0, 60.0, 70.0] and limit.waited_s == 55.0
    assert told == [(45.0, "2 requests a minute"), (10.0, "2 requests a minute")]


def test_tokens_a_minute_by_hand():
    limit, clock = limited(tokens_per_minute=1000)
    for tokens, sent_at in ((600, 0.0), (300, 0.0), (200, 60.0), (5000, 120.0)):
        with limit.slot(tokens) as slot:
            assert clock.now == sent_at
    assert slot.waited_s == 60.0  # more than a minute allows: it waits for a whole minute of its own


def test_a_guess_is_put_right_by_what_was_used():
    limit, clock = limited(tokens_per_minute=1000)
    with limit.slot(900) as slot:
        slot.tokens = 100
    with limit.slot(900):
        assert clock.now == 0.0
    with limit.slot(1):
        assert clock.now == 60.0
    assert ratelimit.guess_tokens(400, None) == 100 and ratelimit.guess_tokens(1, 10) == 11


def test_a_server_that_names_a_time_holds_everybody_back():
    limit, clock = limited()
    limit.pause(7.0, "the server asked for it")
    limit.pause(3.0, "shorter, and forgotten")
    with limit.slot() as slot:
        assert (clock.now, slot.waited_s) == (7.0, 7.0)


def together(count):
    """Return a reply function that waits until so many are asked at once, and a list of how many were."""
    barrier, lock, inside, most = threading.Barrier(count, timeout=20), threading.Lock(), [], []

    def reply(messages):
        with lock:
            inside.append(1)
            most.append(len(inside))
        barrier.wait()
        with lock:
            inside.pop()
        return messages[-1]["content"]

    return reply, most


def test_concurrency_holds_with_threads_and_order_is_kept():
    reply, most = together(3)
    with FakeOpenAI(reply) as server:
        endpoint = client(server, timeout=30, limit=RateLimit(concurrency=3))
        talks = [[{"role": "user", "content": f"number {i}"}] for i in range(9)]
        assert map_threads(endpoint.reply, talks, 8) == [f"number {i}" for i in range(9)]
    assert max(most) == 3 and len(most) == 9


def test_without_a_limit_threads_are_not_held_back():
    reply, most = together(4)
    with FakeOpenAI(reply) as server:
        map_threads(client(server, timeout=30).reply, [HELLO] * 4, 4)
    assert max(most) == 4 and Chat(client(server)).workers == 1


def test_the_wait_for_a_free_place_is_a_wait():
    now, stands_in_line, waited = [0.0], threading.Event(), []

    def clock() -> float:
        found = now[0]
        if threading.current_thread().name == "second":
            stands_in_line.set()
        return found

    def second():
        with limit.slot() as slot:
            waited.append(slot.waited_s)

    limit = RateLimit(concurrency=1, clock=clock)
    with limit.slot():
        thread = threading.Thread(target=second, name="second")
        thread.start()
        assert stands_in_line.wait(10)
        now[0] = 30.0
    thread.join(10)
    assert waited == [30.0] and limit.waited_s == 0.0


def test_retry_after_is_waited_for_by_the_others_too():
    with FakeOpenAI("fine", script=["429"], retry_after="1") as server:
        endpoint = client(server, limit=RateLimit(concurrency=2))
        first = threading.Thread(target=endpoint.reply, args=(HELLO,))
        first.start()
        while endpoint.limit._not_before == -float("inf"):
            time.sleep(0.01)
        began = time.monotonic()
        assert endpoint.reply(HELLO) == "fine" and time.monotonic() - began > 0.3
        first.join()
        assert len(server.requests) == 3 and endpoint.limit.waited_s > 0.3


def test_waiting_for_our_own_limit_does_not_use_up_the_patience_of_a_call():
    clock = Clock()
    limit = RateLimit(requests_per_minute=1, clock=clock, sleep=clock.sleep)
    with FakeOpenAI("fine") as server:
        endpoint = client(server, limit=limit, max_total_seconds=10.0)
        assert [endpoint.reply(HELLO), endpoint.reply(HELLO)] == ["fine", "fine"]
    assert len(clock.waits) == 1 and 59 < clock.waits[0] <= 60


@pytest.mark.parametrize(
    "bad", [{"requests_per_minute": 0}, {"tokens_per_minute": float("nan")}, {"concurrency": 0}]
)
def test_a_limit_that_lets_nothing_through_is_refused(bad):
    (name,) = bad
    with pytest.raises(EndpointError, match=f"{name} is .*set {name} to 1 or more"):
        RateLimit(**bad)


def test_limits_travel_to_another_process_without_their_count():
    copy = pickle.loads(pickle.dumps(RateLimit(requests_per_minute=5, tokens_per_minute=7, concurrency=2)))
    assert (copy.requests_per_minute, copy.tokens_per_minute, copy.concurrency) == (5, 7, 2)


def test_options_behind_a_name():
    spec = "openai:m@http://h/v1#rpm=60,tpm=9000,concurrency=8,temperature=0,max_tokens=none,timeout=9,max_wait=99"
    endpoint = parse_endpoint(spec + ",key_env=MY_KEY", max_tokens=4000)
    assert (endpoint.temperature, endpoint.max_tokens, endpoint.timeout) == (0.0, None, 9.0)
    assert (endpoint.max_total_seconds, endpoint.api_key_env) == (99.0, "MY_KEY")
    limit = endpoint.limit
    assert (limit.requests_per_minute, limit.tokens_per_minute, limit.concurrency) == (60, 9000, 8)
    assert "#" not in endpoint.url and parse_endpoint("openai:m", max_tokens=4000).max_tokens == 4000
    assert parse_endpoint("openai:m#concurrency=2").limit.concurrency == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("speed=3", "option 'speed' of an endpoint is unknown"),
        ("rpm", "rpm= of an endpoint is not a number above 0"),
        ("rpm=0", "rpm=0 of an endpoint is not a number above 0"),
        ("tpm=inf", "tpm=inf of an endpoint is not a number above 0"),
        ("concurrency=1.5", "concurrency=1.5 of an endpoint is not a whole number above 0"),
        ("temperature=-1", "temperature=-1 of an endpoint"),
        ("timeout=none", "timeout=none of an endpoint"),
        ("rpm=0.5", "requests_per_minute is 0.5"),
        (f"key_env={KEY}", "key_env of an endpoint must name an environment variable"),
    ],
)
def test_options_that_are_refused(options, words):
    with pytest.raises(EndpointError) as caught:
        parse_endpoint(f"openai:m@http://h/v1#{options}")
    assert words in str(caught.value) and caught.value.cure and KEY not in str(caught.value)


def test_cached_tokens_are_read_and_never_more_than_the_prompt():
    usage = {"prompt_tokens": 100, "completion_tokens": 7, "prompt_tokens_details": {"cached_tokens": 64}}
    for told, read in ((64, 64), (900, 100), (-1, None), ("many", None)):
        usage["prompt_tokens_details"] = {"cached_tokens": told}
        with FakeOpenAI("fine", usage=usage) as server:
            spend = Spend()
            reply = client(server).complete(HELLO, spend=spend)
        assert (reply.prompt_tokens, reply.cached_tokens, reply.completion_tokens) == (100, read, 7)
        assert spend.tokens.cached == (read or 0)


# threads


def test_map_threads_keeps_order_and_stops_at_the_first_failure():
    assert map_threads(lambda n: n * n, [3, 1, 2], 2) == [9, 1, 4] and map_threads(len, [], 3) == []
    seen, release = [], threading.Event()

    def work(n):
        seen.append(n)
        if n == 1:
            raise ValueError("one")
        release.wait(10)

    with pytest.raises(ValueError, match="one"):
        map_threads(work, range(50), 2)
    release.set()
    time.sleep(0.05)
    assert sorted(seen) == [0, 1]


# known replies


def test_the_name_of_a_reply_covers_all_that_it_is_drawn_from():
    base = ("m", "http://h/v1", HELLO, {"temperature": 0.5}, "0/0")
    names = {reply_key(*base)}
    for place, other in enumerate(("n", "http://i/v1", [], {"temperature": 0.6}, "0/1")):
        names.add(reply_key(*base[:place], other, *base[place + 1 :]))
    assert len(names) == 6 and reply_key(*base) in names


def test_a_known_reply_is_not_asked_for_and_the_ledger_says_so(tmp_path):
    cache, path = ReplyCache(tmp_path / "cache"), tmp_path / "calls.jsonl"
    with FakeOpenAI("two words", usage={"prompt_tokens": 50, "completion_tokens": 5}) as server:
        endpoint = ChatEndpoint("m", server.base_url + "?api-key=topsecret123", backoff_s=0.01)
        for _ in range(2):  # another object each time: only the disk remembers
            chat = Chat(endpoint, cache=cache, ledger=Ledger(path))
            assert chat.ask(HELLO, sample="0/1", trajectory="a/t/1", step=3) == "two words"
        assert len(server.requests) == 1
        assert chat.ask(HELLO, sample="0/2") == "two words" and len(server.requests) == 2
    paid, known, _ = read_calls(path)
    assert (paid.hit, paid.requests, paid.prompt_tokens, paid.completion_tokens) == (False, 1, 50, 5)
    assert (known.hit, known.requests, known.prompt_tokens, known.completion_tokens) == (True, 0, 50, 5)
    assert (known.trajectory, known.step, known.key, known.seconds) == ("a/t/1", 3, paid.key, paid.seconds)
    texts = [file.read_text() for file in tmp_path.rglob("*") if file.is_file()]
    assert len(texts) == 3 and not [text for text in texts if "topsecret" in text or KEY in text]


@pytest.mark.parametrize("damage", ["", "{}", "[]", "other text"])
def test_a_damaged_file_counts_as_none(tmp_path, damage):
    cache = ReplyCache(tmp_path)
    with FakeOpenAI("fine") as server:
        chat = Chat(client(server), cache=cache)
        chat.ask(HELLO)
        (path,) = tmp_path.rglob("*.json")
        if damage == "other text":
            row = json.loads(path.read_text())
            row["reply"]["text"] = "forged"
            damage = json.dumps(row)
        path.write_text(damage)
        assert chat.ask(HELLO) == "fine" and len(server.requests) == 2
        assert json.loads(path.read_text())["reply"]["text"] == "fine" or damage  # and it is made good
        assert chat.ask(HELLO) == "fine" and len(server.requests) == 2


def test_two_that_ask_at_once_go_on_with_the_same_reply(tmp_path):
    said = iter("abcdefgh")
    with FakeOpenAI(lambda messages: next(said), then="slow", slow_s=0.1) as server:
        chat = Chat(client(server, limit=RateLimit(concurrency=4)), cache=ReplyCache(tmp_path))
        replies = map_threads(lambda _: chat.ask(HELLO), range(4), 4)
        assert len(set(replies)) == 1 and chat.ask(HELLO) == replies[0]


def test_what_a_call_took_is_written_down_also_where_it_failed(tmp_path):
    usage = {"prompt_tokens": 40, "completion_tokens": 2}
    with FakeOpenAI("fine", script=["empty", "ok", "empty", "500"], then="empty", usage=usage) as server:
        ledger = Ledger()
        chat = Chat(client(server, max_retries=1), ledger=ledger)
        chat.ask(HELLO)
        with pytest.raises(EndpointError):
            chat.ask(HELLO)
        with pytest.raises(RequestRefused):
            chat.ask(HELLO)
    good, dropped, refused = ledger.calls
    assert (good.requests, good.prompt_tokens, good.retry_prompt_tokens) == (2, 40, 40)
    assert (dropped.failed, dropped.requests, dropped.prompt_tokens, dropped.retry_prompt_tokens) == (
        True,
        2,
        0,
        40,
    )
    assert (refused.failed, refused.retry_prompt_tokens, refused.retry_completion_tokens) == (True, 80, 4)


def test_replies_without_usage_are_counted():
    with FakeOpenAI("fine", then="no-usage") as server:
        ledger = Ledger()
        Chat(client(server), ledger=ledger).ask(HELLO)
    assert ledger.calls[0].without_usage == 1 and ledger.calls[0].prompt_tokens == 0


# the format


def played(task, tmp_path, server, *, steps=1, **options):
    """Return the trajectory of a chat policy and the calls that it took."""
    ledger = Ledger()
    policy = ChatPolicy(Chat(client(server), ledger=ledger), name="agent", **options)
    (row,) = run_trajectories([Job(task, "agent", 0, 0)], policy, make_tools(tmp_path), max_steps=steps)
    return row, ledger.calls


def test_what_breaks_the_format_and_what_is_an_invalid_step():
    assert format_fault(SAYS["malformed"]).reason == "missing-field"
    assert format_fault(SAYS["unknown-action"]).reason == "unknown-action"
    assert format_fault("x" * 30_000).reason == "too-long"
    assert format_fault(final().replace("{", "{{")).reason == "bad-json"
    assert format_fault("Action: List Files\nAction Input: {}", "no-thought").reason == "wrong-arguments"
    lines = {"script_name": "train.py", "start_line_number": "first", "end_line_number": "9"}
    assert format_fault(reply("Inspect Script Lines", **lines)).reason == "wrong-type"
    assert format_fault("<think>I would list the files.").reason == "missing-field"
    assert format_fault(final()) is None


def test_a_broken_format_is_asked_for_again_with_what_was_wrong(task, tmp_path):
    script = ["malformed", "malformed", "unknown-action", "malformed"]
    with FakeOpenAI(neighbours(12), script=script) as server:
        row, calls = played(task, tmp_path, server)
        talks = [seen["body"]["messages"] for seen in server.requests]
    (step,) = row["steps"]
    assert (step["outcome"], step["score_after"]) == ("edited", 1.5)
    assert [call.number for call in calls] == [1, 2, 3, 4, 5]
    assert [call.broke for call in calls] == [
        "missing-field",
        "missing-field",
        "unknown-action",
        "missing-field",
        "",
    ]
    assert {call.step for call in calls} == {0} and {call.trajectory for call in calls} == {row["id"]}
    # thrown away as in MLAgentBench: the conversation keeps its turns, only the last one grows
    assert [len(talk) for talk in talks] == [len(talks[0])] * 5
    first, last = talks[0][-1]["content"], talks[4][-1]["content"]
    assert last.startswith(first) and last.count("Your reply was thrown away.") == 4
    assert "the field 'Reflection:' is missing" in last and "'Sing'. Choose one of: List Files" in last
    assert SAYS["malformed"] not in json.dumps(talks)


def test_after_five_replies_the_step_is_invalid_and_the_next_one_goes_on(task, tmp_path):
    with FakeOpenAI(neighbours(12), script=["malformed"] * 5) as server:
        row, calls = played(task, tmp_path, server, steps=2)
        assert len(server.requests) == 6
    assert [step["outcome"] for step in row["steps"]] == ["invalid", "edited"]
    assert row["steps"][0]["reason"] == "missing-field" and row["steps"][0]["reply"] == SAYS["malformed"]
    assert [call.number for call in calls] == [1, 2, 3, 4, 5, 1]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (final().replace("{", "{{"), "bad-json"),
        (final().replace("final_answer", "answer"), "wrong-arguments"),
        (final().partition("Action Input")[0], "missing-field"),
        ("<think>" + final(), "missing-field"),  # cut off while it thought: the action in it is a draft
    ],
)
def test_arguments_that_do_not_parse_are_asked_for_again_too(text, fault, task, tmp_path):
    with FakeOpenAI(text) as server:
        row, calls = played(task, tmp_path, server)
    assert row["steps"][0]["reason"] == fault and [call.broke for call in calls] == [fault] * 5


def test_how_often_is_up_to_the_caller(task, tmp_path):
    with FakeOpenAI("", then="malformed") as server:
        row, _ = played(task, tmp_path, server, max_replies=1)
        assert len(server.requests) == 1 and row["steps"][0]["outcome"] == "invalid"


def test_trajectories_and_seeds_have_samples_of_their_own_and_a_rerun_is_free(task, tmp_path):
    cache = ReplyCache(tmp_path / "replies")
    numbers = iter(range(8, 100))

    def play(server, seed):
        ledger = Ledger()
        limit = RateLimit(concurrency=4)
        policy = ChatPolicy(
            Chat(client(server, limit=limit), cache=cache, ledger=ledger), name="a", seed=seed
        )
        jobs = [Job(task, "a", index, seed) for index in range(4)]
        rows = run_trajectories(jobs, policy, make_tools(tmp_path), max_steps=1)
        return [row["steps"][0]["reply"] for row in rows], ledger.calls

    with FakeOpenAI(lambda messages: neighbours(next(numbers))) as server:
        first, calls = play(server, 0)
        assert len(set(first)) == 4 and not any(call.hit for call in calls)
        again, calls = play(server, 0)
        assert again == first and all(call.hit for call in calls) and len(server.requests) == 4
        other, _ = play(server, 1)
        assert not set(other) & set(first) and len(server.requests) == 8


def test_a_chat_coder_asks_for_several_edits_at_once(task):
    script = task.env_files()["train.py"].decode()
    reply, most = together(4)
    with FakeOpenAI(lambda messages: f"```python\nx = {reply(messages)[-1]}\n```") as server:
        endpoint = client(server, timeout=30, limit=RateLimit(concurrency=4))
        chat = Chat(endpoint, role="coder", ledger=Ledger())
        coder = ChatCoder(chat.reply, workers=chat.workers)
        made = coder.edit_many([EditRequest(task, script, f"make {i}") for i in range(4)])
    assert [text.strip() for text in made] == [f"x = {i}" for i in range(4)] and max(most) == 4
    assert {call.role for call in chat.ledger.calls} == {"coder"}


def test_watching_sees_each_step_and_the_end(task, tmp_path):
    seen = []

    class Says:
        name = "says"

        def act(self, turns):
            return [edit("Make it good.") if turn.state.step == 0 else final() for turn in turns]

    jobs = [Job(task, "says", index, 0) for index in range(2)]
    run_trajectories(
        jobs, Says(), make_tools(tmp_path), max_steps=5,
        watch=lambda job, step, stop: seen.append((job.index, step["step"], step["outcome"], stop)),
    )  # fmt: skip
    corner, neutral = Outcome.CORNER.value, Outcome.NEUTRAL.value
    assert sorted(seen) == [
        (index, step, outcome, stop)
        for index in range(2)
        for step, outcome, stop in ((0, corner, ""), (1, neutral, "final-answer"))
    ]


def test_the_key_of_another_variable_is_used_and_not_shown(monkeypatch):
    monkeypatch.setenv("MY_KEY", "sk-other-0123456789")
    with FakeOpenAI("fine", api_key="sk-other-0123456789") as server:
        endpoint = parse_endpoint(f"openai:m@{server.base_url}#key_env=MY_KEY")
        assert endpoint.reply(HELLO) == "fine"
        assert "sk-other" not in repr(endpoint) + json.dumps(Chat(endpoint).about())
        assert replace(endpoint, max_retries=0).limit is endpoint.limit and os.environ["MY_KEY"]
