"""Runs of scripts: what comes back, what is left (nothing), and what happens when we ourselves fail."""

# ruff: noqa: E501 - scripts in strings

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from mlagent_lib.core.errors import IsolationError, Unscored
from mlagent_lib.core.limits import Limits
from mlagent_lib.environment.isolation import probe as probing
from mlagent_lib.environment.runner import Runner, RunRequest, probe

pytestmark = pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")

MB = 1 << 20
SMALL = Limits(
    seconds=20.0,
    memory_bytes=400 * MB,
    output_bytes=4000,
    file_bytes=2 * MB,
    disk_bytes=6 * MB,
    files=60,
    processes=16,
)


def request(script, *, data=None, limits=SMALL, collect=(), **files):
    files = {name.replace("__", "."): content.encode() for name, content in files.items()}
    return RunRequest(
        {"train.py": textwrap.dedent(script).encode(), **files}, data, "train.py", limits, collect
    )


def limited(**changes):
    return Limits(**{**SMALL.to_json(), **changes})


@pytest.fixture(scope="module")
def runner():
    with Runner(workers=2) as pool:
        pool.warm()
        yield pool


def ours(mark):
    """Command lines of living processes that carry ``mark``."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path(f"/proc/{name}/cmdline").read_bytes()
            state = Path(f"/proc/{name}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if mark.encode() in line and state != "Z":
            found.append((int(name), line))
    return found


def settles(condition, seconds=5.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


def gone(mark):
    return settles(lambda: not ours(mark))


# ---- ordinary runs -------------------------------------------------------------------------------


def test_a_script_reads_its_data_and_hands_in_a_submission(runner, tmp_path):
    (tmp_path / "train.csv").write_text("x,y\n1,0\n2,0\n3,1\n4,1\n")
    result = runner.run(
        request(
            """
            import pandas as pd
            from sklearn.linear_model import LogisticRegression
            from helper import name
            frame = pd.read_csv("data/train.csv")
            model = LogisticRegression().fit(frame[["x"]], frame["y"])
            pd.DataFrame({"id": frame.index, name: model.predict(frame[["x"]])}).to_csv("submission.csv", index=False)
            print("validation accuracy:", model.score(frame[["x"]], frame["y"]))
            """,
            data=tmp_path,
            collect=("submission.csv", "other.csv"),
            helper__py="name = 'prediction'",
        )
    )
    assert (result.status, result.exit_code, result.error_type) == ("ok", 0, None)
    assert result.output == "validation accuracy: 1.0\n"
    assert result.collected == {"submission.csv": b"id,prediction\n0,0\n1,0\n2,1\n3,1\n"}
    assert result.collect_errors == {"other.csv": "missing"}
    assert result.tier == runner.tier == probe().chosen
    assert 0 < result.seconds < 20 and result.peak_memory_bytes > MB


def test_a_file_that_the_script_never_closed_is_complete(runner):
    result = runner.run(
        request("handle = open('submission.csv', 'w')\nhandle.write('1,2')", collect=("submission.csv",))
    )
    assert result.collected == {"submission.csv": b"1,2"}


@pytest.mark.parametrize(
    ("script", "kind", "line", "code"),
    [
        ("x = 1\nimport numpy as np\nnp.linalg.inv(np.zeros((2, 2)))\n", "LinAlgError", 3, 1),
        ("def f():\n    return {}['a']\n\nf()\n", "KeyError", 2, 1),
        ("x = (\n", "SyntaxError", 1, 1),
        ("import not_there\n", "ModuleNotFoundError", 1, 1),
        ("def f(): f()\nf()\n", "RecursionError", 1, 1),
        ("import sys\nprint('bye')\nsys.exit(3)\n", "SystemExit", None, 3),
        ("import os\nos.kill(os.getpid(), 15)\n", "SIGTERM", None, -15),
        ("import ctypes\nctypes.string_at(0)\n", "SIGSEGV", None, -11),
        ("import os\nos.abort()\n", "SIGABRT", None, -6),
    ],
)
def test_an_error_has_a_type_and_a_line(runner, script, kind, line, code):
    result = runner.run(request(script))
    assert (result.status, result.error_type, result.error_line, result.exit_code) == (
        "error",
        kind,
        line,
        code,
    )
    assert "/tmp" not in result.output and "warm_server" not in result.output


def test_the_traceback_is_what_python_prints(runner):
    result = runner.run(request("def f():\n    return 1 / 0\n\nf()\n"))
    assert result.output == textwrap.dedent("""\
        Traceback (most recent call last):
          File "train.py", line 4, in <module>
            f()
          File "train.py", line 2, in f
            return 1 / 0
                   ~~^~~
        ZeroDivisionError: division by zero
        """) or sys.version_info[:2] != (3, 11)


def test_the_same_request_gives_the_same_output():
    script = """
        import os, random, sys
        import numpy as np
        print({"a", "b", "c", "d"}, hash("a"), random.random(), np.random.rand(), os.getcwd(), __file__, sys.argv)
        print(sorted(os.environ), os.path.realpath("data"), sys.path[0])
        x = np.random.rand(50, 3)
        from sklearn.ensemble import RandomForestClassifier
        print(RandomForestClassifier(3).fit(x, x[:, 0] > .5).predict_proba(x[:5]).tolist())
    """
    outputs = set()
    with tempfile.TemporaryDirectory() as data:
        for _ in range(2):  # two fresh servers
            with Runner(workers=1) as pool:
                outputs |= {pool.run(request(script, data=Path(data))).output for _ in range(2)}
    assert len(outputs) == 1
    assert "/tmp" not in outputs.pop()


def test_a_script_without_a_seed_draws_the_same_numbers_each_time_and_others_in_each_process_and_luck():
    script = """
        import os, random, secrets, uuid
        import numpy as np
        def draw():
            made = [np.random.default_rng().random(), np.random.SeedSequence().entropy, np.random.RandomState().rand()]
            made += [np.random.PCG64().random_raw(), random.random(), random.Random().random(), uuid.uuid4().hex]
            return [*made, secrets.token_hex(), random.SystemRandom().random(), os.urandom(8).hex()]
        def in_a_fork():
            read, write = os.pipe()
            if os.fork() == 0:
                os.write(write, repr(draw()).encode())
                os._exit(0)
            os.wait()
            return eval(os.read(read, 9999))
        for made in (draw(), draw(), in_a_fork(), in_a_fork()): print(*made)
        np.random.seed(), random.seed()
        print(np.random.rand(), random.random())
        print(np.random.default_rng(3).random(), random.Random(3).random())
    """
    outputs = {0: set(), 1: set()}
    for _ in range(2):  # two fresh servers
        with Runner(workers=1) as pool:
            for by, made in outputs.items():
                made |= {pool.run(replace(request(script), reseed=by)).output for _ in range(2)}
    assert [len(made) for made in outputs.values()] == [1, 1]
    own, other = (made.pop().split("\n") for made in outputs.values())
    seen = [word for line in (*own[:5], *other[:5]) for word in line.split()]
    assert len(seen) == len(set(seen)) == 2 * (4 * 10 + 2), own
    # NumPy's documented first draw of seed 3, and Python's: a seed of the script keeps its meaning
    assert own[5] == "0.08564916714362436 0.23796462709189137"


# ---- limits --------------------------------------------------------------------------------------


def test_long_output_is_cut_at_the_front_and_marked(runner):
    result = runner.run(request("for i in range(5000): print(i, '\\x1b[31mred\\x1b[0m')"))
    assert result.status == "ok"
    assert result.output.startswith("[... ") and " bytes of output cut ...]\n" in result.output
    assert result.output.endswith("4998 red\n4999 red\n") and len(result.output) < 4100


def test_what_a_run_changes_in_a_library_does_not_reach_the_next():
    with Runner(workers=1) as pool:
        patch = """
            import builtins, os, numpy as np, sklearn.metrics
            sklearn.metrics.accuracy_score = lambda *a, **k: 1.0
            np.mean = lambda *a: 42
            builtins.len = lambda x: 7
            os.environ["LEFT"] = "behind"
            open("left.txt", "w").write("behind")
            print(sklearn.metrics.accuracy_score([0], [1]))
        """
        assert pool.run(request(patch)).output == "1.0\n"
        check = """
            import os, numpy as np, sklearn.metrics
            print(sklearn.metrics.accuracy_score([0], [1]), np.mean([1, 3]), len("ab"), os.environ.get("LEFT"), os.listdir())
        """
        assert pool.run(request(check)).output == "0.0 2.0 2 None ['train.py']\n"


# ---- when we ourselves fail ----------------------------------------------------------------------


def test_a_server_killed_between_runs_is_replaced():
    with Runner(workers=1, modules=()) as pool:
        assert pool.run(request("print(1)")).output == "1\n"
        pool._servers[0].process.kill()
        assert pool.run(request("print(2)")).output == "2\n"


def test_a_server_killed_during_a_run_is_replaced_and_the_run_repeated():
    mark = f"during-{os.getpid()}-{time.monotonic_ns()}"
    script = f"""
        import subprocess, sys
        subprocess.run([sys.executable, "-c", "import time; time.sleep(1)", "{mark}"])
        print("done")
    """
    with Runner(workers=1, modules=()) as pool:
        pool.warm()
        results = []
        thread = threading.Thread(target=lambda: results.append(pool.run(request(script))))
        thread.start()
        assert settles(lambda: len(ours(mark)) == 1, seconds=10)
        (first,) = [pid for pid, _ in ours(mark)]
        pool._servers[0].process.kill()
        thread.join(timeout=60)
        assert results[0].output == "done\n"
        assert first not in [pid for pid, _ in ours(mark)]
    assert gone(mark)


def test_three_failures_of_ours_are_unscored_and_never_the_scripts_failure(monkeypatch):
    with Runner(workers=1, modules=()) as pool:
        starts = []

        def broken(self):
            starts.append(1)
            raise OSError("no memory to fork")

        monkeypatch.setattr(type(pool._servers[0]), "_start", broken)
        with pytest.raises(Unscored, match="no memory to fork"):
            pool.run(request("print(1)"))
        assert len(starts) == 3
        kept = pool.run_many([request("print(1)")] * 2, keep_unscored=True)
        assert [type(k) for k in kept] == [Unscored, Unscored]
        with pytest.raises(Unscored):
            pool.run_many([request("print(1)")] * 2)


def test_when_the_parent_is_killed_everything_of_it_goes(tmp_path):
    mark = f"parent-{os.getpid()}-{time.monotonic_ns()}"
    program = f"""
        import sys, tempfile
        from mlagent_lib.environment.runner import Runner, RunRequest
        pool = Runner(workers=1, modules=())
        print(pool._base, flush=True)
        script = b"import os, sys, time\\nif os.fork() == 0: os.setsid()\\nos.execv(sys.executable, [sys.executable, '-c', 'import time; time.sleep(60)', '{mark}'])"
        pool.run(RunRequest({{"a.py": script}}, None, "a.py"))
    """  # noqa: E501
    root = str(Path(__file__).resolve().parent.parent)
    (tmp_path / "parent.py").write_text(textwrap.dedent(program))
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    base = parent.stdout.readline().strip()
    assert settles(lambda: len(ours(mark)) == 2, seconds=30)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert gone(mark) and gone(base)
    assert not os.path.exists(base)


def test_ctrl_c_leaves_nothing_behind_and_the_runner_usable(monkeypatch):
    with Runner(workers=1, modules=()) as pool:
        pool.warm()
        server = pool._servers[0]

        def interrupted(seconds, receive=server._receive):
            monkeypatch.setattr(server, "_receive", receive)
            raise KeyboardInterrupt

        monkeypatch.setattr(server, "_receive", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.run(request("import time\ntime.sleep(30)"))
        assert gone(pool._base)
        assert pool.run(request("print('again')")).output == "again\n"


# ---- many runs -----------------------------------------------------------------------------------


def test_run_many_keeps_the_order_and_runs_in_parallel(runner):
    scripts = [f"import time\ntime.sleep({0.4 if i % 3 == 0 else 0})\nprint({i})" for i in range(8)]
    results = runner.run_many(request(script) for script in scripts)
    assert [r.output for r in results] == [f"{i}\n" for i in range(8)]
    assert runner.run_many([]) == []


def test_one_bad_row_does_not_spoil_another(runner):
    results = runner.run_many(map(request, ["print(1)", "1 / 0", "import os; os._exit(0)", "print(4)"]))
    assert [r.status for r in results] == ["ok", "error", "ok", "ok"]


def test_a_hundred_runs_leave_no_descriptor_no_zombie_no_file(runner):
    def state():
        zombies = [p for p in os.listdir("/proc") if p.isdigit() and _is_zombie_of_ours(p)]
        return len(os.listdir("/proc/self/fd")), len(zombies), len(ours(runner._base))

    runner.run_many([request("")] * 4)
    assert settles(lambda: len(ours(runner._base)) == 2)  # the last guards are on their way out
    before = state()
    results = runner.run_many([request("print(1)", collect=("a",))] * 100)
    assert [r.output for r in results] == ["1\n"] * 100
    assert settles(lambda: state() == before), (before, state())
    assert {p.name for p in Path(runner._base).rglob("*")} <= {"server0", "server1", "work"}


def _is_zombie_of_ours(pid):
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return False
    return fields[0] == "Z" and int(fields[1]) == os.getpid()


def test_a_closed_runner_leaves_nothing_and_says_that_it_is_closed():
    descriptors = len(os.listdir("/proc/self/fd"))
    pool = Runner(workers=2, modules=())
    assert not ours(pool._base)  # servers start on first use
    pool.warm()
    assert settles(lambda: len(ours(pool._base)) == 2)  # the guards are on their way out
    pool.close()
    pool.close()
    assert not ours(pool._base) and not os.path.exists(pool._base)
    assert len(os.listdir("/proc/self/fd")) == descriptors
    with pytest.raises(ValueError, match="closed"):
        pool.run(request("print(1)"))


def test_a_runner_that_nobody_closed_is_cleaned_up_at_exit():
    program = (
        "from mlagent_lib.environment.runner import Runner, RunRequest\n"
        "pool = Runner(1, modules=())\nprint(pool._base, pool.run(RunRequest({'a.py': b''}, None, 'a.py')).status)"
    )
    root = str(Path(__file__).resolve().parent.parent)
    environment = {**os.environ, "PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=60
    )
    base, status = done.stdout.split()
    assert (status, done.stderr) == ("ok", "")
    assert gone(base) and not os.path.exists(base)


# ---- arguments -----------------------------------------------------------------------------------


def test_wrong_requests_are_refused_before_anything_runs(runner):
    with pytest.raises(ValueError, match="not among the files"):
        RunRequest({"a.py": b""}, None, "b.py")
    with pytest.raises(ValueError, match="relative path"):
        RunRequest({"a.py": b"", "../b": b""}, None, "a.py")
    with pytest.raises(ValueError, match="does not exist"):
        runner.run(request("", data=Path("/not/there")))
    with pytest.raises(ValueError, match="at least 1"):
        Runner(workers=0)
    with pytest.raises(IsolationError, match="allow_unsafe"):
        Runner(tier="T1")


@pytest.mark.parametrize("tier", ["T0", "T1"])
def test_unsafe_tiers_run_trusted_scripts(tier):
    with Runner(workers=1, tier=tier, allow_unsafe=True, modules=()) as pool:
        result = pool.run(
            request("open('submission.csv', 'w').write('x')\nprint(1)", collect=("submission.csv",))
        )
        assert (result.status, result.output, result.tier) == ("ok", "1\n", tier)
        assert result.collected == {"submission.csv": b"x"}
        late = pool.run(request("import time\ntime.sleep(20)", limits=limited(seconds=0.5)))
        assert late.status == "timeout" and late.seconds < 5
        assert pool.run(request("\n1 / 0")).error_line == 2
