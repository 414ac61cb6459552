"""Scripts spread over loky and a real Dask cluster: the results of a `Runner`, also when workers die."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_task import TRAIN, edit, final, make_tools, neighbours, reply, write_task

from mlagent_lib.core.errors import IsolationError, MlagentError, Unscored
from mlagent_lib.environment import machines as spread
from mlagent_lib.environment.coder import RuleCoder
from mlagent_lib.environment.isolation import probe as probing
from mlagent_lib.environment.machines import SpreadRunner
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.runner import Runner, RunRequest
from mlagent_lib.environment.step import run_steps, start_state

pytestmark = pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")

# what `FakeRunner` of the tiny task computes, by a script that really runs
SCRIPT = (
    TRAIN.replace('print(f"validation mae: {0:.2f}")\n', "n = model.n_neighbors\n")
    + """import csv
with open("data/test.csv") as handle:
    rows = [row["id"] for row in csv.DictReader(handle)]
with open("submission.csv", "w") as handle:
    print("id,prediction", file=handle)
    for i in rows:
        print(f"{i},{10 + n / 8 if int(i) < 3 else 20 + n / 4}", file=handle)
print(f"validation mae: {n / 8:.3f}")
"""
)


class Coder(RuleCoder):
    """The rule coder, with a server that is down for one instruction."""

    def _edit(self, request):
        if request.instruction == "down":
            return Unscored("the coder's server failed", cure="start it")
        return super()._edit(request)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spread")
    write_task(folder / "tasks", train_py=SCRIPT)
    return folder


def toolbox(home, runner, name):
    tools = make_tools(home, runner, Coder())
    return replace(tools, cache=type(tools.cache)(home / f"cache-{name}"))


def steps_of(home, runner, name):
    """Return the results of a list of rows of every kind, without their durations."""
    tools = toolbox(home, runner, name)
    start = start_state(tools.task("tiny-homes"), tools)
    crash = start.with_file("other.py", b"print('so far')\nx = {}['a']\n")
    greedy = start.with_file("other.py", b"x = bytearray(1 << 40)\n")
    rows = [
        (start, neighbours(12)),
        (start, "hello"),
        (crash, reply("Execute Script", script_name="other.py")),
        (start, edit("down")),
        (start, neighbours(24)),
        (replace(start, task_digest="0" * 64), neighbours(24)),
        (greedy, reply("Execute Script", script_name="other.py")),
        (start, reply("List Files", dir_path="data")),
        (start, neighbours(12)),
        (start, edit("make it good")),
        (start, neighbours(8)),
        (start, final()),
    ]
    return [replace(result, seconds=0.0) for result in run_steps(rows, tools)]


@pytest.fixture(scope="module")
def expected(home):
    with Runner(workers=1) as runner:
        return steps_of(home, runner, "plain")


@pytest.fixture(scope="module")
def loky():
    with SpreadRunner(workers=2) as runner:
        yield runner


@pytest.fixture(scope="module")
def dask(tmp_path_factory, repository):
    """Yield the client of a cluster that the commands of the documentation have started."""
    distributed = pytest.importorskip("distributed")
    folder = tmp_path_factory.mktemp("dask")
    commands = [
        line.strip() for line in SpreadRunner.__doc__.splitlines() if line.strip().startswith("dask ")
    ]
    assert [line.split()[1] for line in commands] == ["scheduler", "worker"]
    here = {"scheduler": "--host 127.0.0.1 --port 0 --no-dashboard", "worker": "--no-dashboard"}
    environment = {**os.environ, "PYTHONPATH": str(repository), "DASK_TEMPORARY_DIRECTORY": str(folder)}
    started = []
    try:
        for line in commands:
            program, *words = shlex.split(f"{line} {here[line.split()[1]]}")
            with open(folder / f"{words[0]}.log", "wb") as log:
                path = str(Path(sys.executable).with_name(program))
                started.append(
                    subprocess.Popen([path, *words], cwd=folder, env=environment, stdout=log, stderr=log)
                )
            assert settles((folder / "cluster.json").exists, 60), (folder / f"{words[0]}.log").read_text()
        with distributed.Client(scheduler_file=folder / "cluster.json", set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
            yield client
    finally:
        for process in reversed(started):
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def settles(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def children(pid):
    """Return the living processes below one, by number."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[1]) == pid and fields[0] != "Z":
            found += [int(name), *children(int(name))]
    return found


def command_line(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode()
    except OSError:
        return ""


def loky_workers(pid):
    return [child for child in children(pid) if "popen_loky" in command_line(child)]


def folders():
    """Return the folders of this process's loky workers."""
    return list(Path(tempfile.gettempdir()).glob(f"{spread._NAME}-*"))


def sleeping(count, seconds=0.4):
    script = "import time\ntime.sleep({})\nprint({})"
    files = [{"a.py": script.format(seconds, number).encode()} for number in range(count)]
    return [RunRequest(named, None, "a.py", collect=()) for named in files]


# ---- the same results ----------------------------------------------------------------------------


def test_the_plain_runner_gives_every_outcome_in_its_place(expected):
    assert [result.outcome for result in expected] == [
        Outcome.EDITED, Outcome.INVALID, Outcome.ERROR, Outcome.UNSCORED, Outcome.EDITED, Outcome.UNSCORED,
        Outcome.CORNER, Outcome.NEUTRAL, Outcome.EDITED, Outcome.CORNER, Outcome.EDITED, Outcome.NEUTRAL,
    ]  # fmt: skip
    scores = [result.score_after for result in expected if result.outcome is Outcome.EDITED]
    assert scores == [1.5, 3.0, 1.5, 1.0] and [result.cache_hit for result in expected].count(True) == 1
    assert (expected[2].reason, expected[6].reason) == ("KeyError", "memory")


def test_loky_gives_the_same_steps_in_the_same_order(home, expected, loky):
    assert steps_of(home, loky, "loky") == expected
    assert loky.tier == expected[0].tier and len(loky.spans) == 6


@pytest.mark.slow
def test_a_dask_cluster_of_two_processes_gives_the_same_steps_in_the_same_order(home, expected, dask):
    assert len(set(dask.run(os.getpid).values())) == 2
    with SpreadRunner(backend="dask", client=dask) as runner:
        assert steps_of(home, runner, "dask") == expected


def test_results_come_in_order_and_run_beside_each_other(loky):
    requests = sleeping(6)
    requests[0] = sleeping(1, seconds=1.2)[0]
    results = loky.run_many(requests)
    assert [result.output for result in results] == [f"{number}\n" for number in range(6)]
    assert pickle.loads(pickle.dumps(results)) == results
    spans = list(loky.spans)[-6:]
    assert sum(end - begin for begin, end in spans) > max(e for _, e in spans) - min(b for b, _ in spans)
    assert loky.run_many([]) == []


def test_other_luck_reaches_the_worker(loky):
    script = {"a.py": b"import random\nrandom.seed(1)\nprint(random.random())"}
    outputs = [loky.run(RunRequest(script, None, "a.py", collect=(), reseed=by)).output for by in (0, 0, 1)]
    assert outputs[0] == outputs[1] != outputs[2]


# ---- workers that die ----------------------------------------------------------------------------


@pytest.fixture
def dispatches(monkeypatch):
    """Note, for each dispatch, its rows and what had come back before."""
    noted, dispatch = [], SpreadRunner._dispatch

    def noting(self, work, rows, batch, attempts, found):
        noted.append((list(batch), set(found), attempts))
        dispatch(self, work, rows, batch, attempts, found)

    monkeypatch.setattr(SpreadRunner, "_dispatch", noting)
    return noted


def kill_when_one_row_is_back(runner, requests, victim):
    """Run the requests; kill a worker when the first result has come. Return the results."""
    runner.warm()
    runner.spans.clear()
    results = []
    thread = threading.Thread(target=lambda: results.extend(runner.run_many(requests)))
    thread.start()
    assert settles(lambda: runner.spans, 60)
    os.kill(victim, signal.SIGKILL)
    thread.join(timeout=120)
    return [result.output for result in results]


def test_a_killed_loky_worker_costs_one_retry_and_not_the_batch(dispatches):
    with SpreadRunner(workers=2, modules=()) as runner:
        runner.warm()
        del dispatches[:]
        before = loky_workers(os.getpid())
        outputs = kill_when_one_row_is_back(runner, sleeping(8), before[0])
        assert outputs == [f"{number}\n" for number in range(8)]
        assert not set(before) & set(loky_workers(os.getpid()))
        assert settles(
            lambda: {int(path.name.split("-")[-1]) for path in folders()} == set(loky_workers(os.getpid()))
        )
    assert settles(lambda: not [path for path in folders() if int(path.name.split("-")[-1]) in before])
    _, first, second = dispatches  # the first warms
    assert first[0] == list(range(8)) and 1 <= len(second[1]) < 8
    assert sorted([*second[0], *second[1]]) == list(range(8))  # what had come back is kept
    attempts = second[2]
    assert max(attempts) == 2 and all(attempts[number] == 1 for number in second[1])
    assert sum(attempts) <= 8 + 2 * runner.workers  # joblib holds as many rows ready as it has workers


@pytest.mark.slow
def test_a_killed_dask_worker_costs_no_dispatch_at_all(dask, dispatches):
    with SpreadRunner(backend="dask", client=dask, modules=()) as runner:
        runner.warm()
        del dispatches[:]
        before = set(dask.run(os.getpid).values())
        outputs = kill_when_one_row_is_back(runner, sleeping(6), min(before))
        assert outputs == [f"{number}\n" for number in range(6)]
        assert len(dispatches) == 2 and dispatches[-1][2] == [1] * 6  # the first warms
        dask.wait_for_workers(2, timeout=60)
        assert min(before) not in dask.run(os.getpid).values()


def die_if(deadly, number):
    if deadly:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.2)
    return number


def test_a_row_that_kills_its_worker_three_times_is_unscored_and_spoils_no_other(dispatches):
    with SpreadRunner(workers=2, modules=()) as runner:
        found = runner._spread(die_if, [(number == 2, number) for number in range(5)])
    assert [found[number] for number in (0, 1, 3, 4)] == [0, 1, 3, 4]
    assert isinstance(found[2], Unscored) and "TerminatedWorkerError" in str(found[2])
    assert dispatches[-1][2][2] == 3 and max(dispatches[-1][2]) == 3


def test_a_backend_that_cannot_start_loses_every_row_at_once(monkeypatch, dispatches):
    def down(self):
        raise TimeoutError("no worker after 60 seconds")

    monkeypatch.setattr(SpreadRunner, "_opened", down)
    runner = SpreadRunner(workers=2, tier="T2")
    runner._found_tier = "T2"
    kept = runner.run_many(sleeping(3), keep_unscored=True)
    assert [type(row) for row in kept] == [Unscored] * 3 and len(dispatches) == 1
    with pytest.raises(Unscored, match="no worker after 60 seconds"):
        runner.run(sleeping(1)[0])


# ---- nothing is left -----------------------------------------------------------------------------

PROGRAM = """
import os, signal, sys
from mlagent_lib.environment.runner import RunRequest
from mlagent_lib.environment.machines import SpreadRunner
runner = SpreadRunner(workers=2, modules=())
runner.warm()
print(runner.run(RunRequest({"a.py": b"print(1)"}, None, "a.py", collect=())).output.strip(), flush=True)
sys.stdin.readline()
if sys.argv[1] == "close":
    runner.close()
elif sys.argv[1] == "kill":
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("end", ["close", "forget", "kill"])
def test_nothing_is_left_when_the_caller_ends(end, tmp_path, repository):
    environment = {**os.environ, "PYTHONPATH": str(repository), "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, end],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment,
    )  # fmt: skip
    assert process.stdout.readline() == b"1\n"
    below = children(process.pid)
    assert sum("warm_server" in command_line(pid) for pid in below) == 2
    assert len(list(tmp_path.glob("mlagent-run-*"))) == 2
    process.communicate(b"\n", timeout=60)
    assert settles(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in below), 20)
    assert settles(lambda: not list(tmp_path.iterdir()))
    shared = Path("/dev/shm")
    # between separators: the random half of a foreign name may hold the same digits
    own = re.compile(rf"(?:^|[-_]){process.pid}(?:[-_]|$)")
    assert settles(lambda: not [path for path in shared.iterdir() if own.search(path.name)])


def test_many_calls_leave_no_folder_each(loky):
    def count():
        return len(list(Path("/dev/shm").glob(f"joblib_memmapping_folder_{os.getpid()}_*")))

    loky.run(sleeping(1, 0.0)[0])
    before = count()
    for _ in range(5):
        loky.run(sleeping(1, 0.0)[0])
    assert count() == before


def test_a_runner_that_is_closed_leaves_the_workers_to_the_others(loky):
    loky.run(sleeping(1, 0.0)[0])
    before = loky_workers(os.getpid())
    with SpreadRunner(workers=2) as other:
        other.run(sleeping(1, 0.0)[0])
    assert before and loky_workers(os.getpid()) == before


def test_a_closed_runner_says_so():
    runner = SpreadRunner(workers=2)
    runner.close()
    runner.close()
    with pytest.raises(ValueError, match="closed"):
        runner.run(sleeping(1)[0])


# ---- what a worker must have ---------------------------------------------------------------------


def on_data(folder):
    return RunRequest({"a.py": b""}, folder, "a.py", collect=())


def test_a_worker_without_the_same_data_gives_no_result(tmp_path):
    setting = spread._Setting(probing._chosen(), False, ())
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("x\n1\n")
    digest = spread._data_digest(tmp_path / "data")
    try:
        assert spread._run_here(on_data(tmp_path / "data"), digest, setting).status == "ok"
        gone = spread._run_here(on_data(tmp_path / "gone"), digest, setting)
        (tmp_path / "data" / "train.csv").write_text("x\n2\n3\n")
        other = spread._run_here(on_data(tmp_path / "data"), digest, setting)
    finally:
        spread.close_here()
    assert isinstance(gone, Unscored) and f"no folder at {tmp_path / 'gone'}" in gone.message
    assert isinstance(other, Unscored) and "other files than the caller has" in other.message
    assert gone.cure.startswith(f"give every worker the task's data at {tmp_path / 'gone'}")


def test_a_worker_without_the_tier_of_the_others_fails_closed(monkeypatch):
    def no_tier(tier, allow_unsafe):
        raise IsolationError("no isolation tier works on this machine", cure="run on Linux")

    setting = spread._Setting("T3+uid", False, ())
    monkeypatch.setattr("mlagent_lib.environment.runner.choose", no_tier)
    found = spread._run_here(on_data(None), "", setting)
    assert isinstance(found, Unscored) and "cannot give isolation tier T3+uid" in found.message
    monkeypatch.setattr(spread, "choose", no_tier)
    with SpreadRunner(workers=1) as runner, pytest.raises(IsolationError, match="worker .*no isolation tier"):
        runner.run_many(sleeping(2), keep_unscored=True)


def test_an_unsafe_tier_needs_permission_in_the_worker_too():
    with SpreadRunner(workers=1, tier="T1") as runner, pytest.raises(IsolationError, match="allow_unsafe"):
        runner.run(sleeping(1)[0])
    with SpreadRunner(workers=1, tier="T1", allow_unsafe=True, modules=()) as runner:
        assert runner.run(sleeping(1)[0]).tier == runner.tier == "T1"


def test_wrong_arguments_are_refused_with_a_cure(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        SpreadRunner(workers=0)
    with pytest.raises(MlagentError, match="'lokky' cannot be used.*What to do: choose loky or dask"):
        SpreadRunner(backend="lokky")
    with pytest.raises(ValueError, match="does not exist"):
        SpreadRunner(workers=1).run(on_data(tmp_path / "gone"))
    pytest.importorskip("distributed")
    with pytest.raises(MlagentError, match="has no client.*dask scheduler"):
        SpreadRunner(backend="dask")
    monkeypatch.setattr(spread.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MlagentError, match=r"not installed.*pip install -e '.\[cluster\]'"):
        SpreadRunner(backend="dask")
