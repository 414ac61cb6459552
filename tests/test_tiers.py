"""The tiers as a whole: bubblewrap, old kernels, what the probe says of failures of ours, and the doctor."""

# ruff: noqa: E501 - scripts in strings

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlagent_lib.core.errors import IsolationError
from mlagent_lib.core.limits import Limits
from mlagent_lib.environment.isolation import bubblewrap, client, explain, kernel, landlock, paths, probe
from mlagent_lib.environment.isolation.tiers import BEST_FIRST, TIERS
from mlagent_lib.environment.runner import Runner, RunRequest

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
ROOT = Path(__file__).resolve().parent.parent
SMALL = Limits(
    seconds=20.0, memory_bytes=400 << 20, output_bytes=8000, file_bytes=2 << 20, disk_bytes=6 << 20,
    files=60, processes=16,
)  # fmt: skip


def request(script, data=None, **options):
    return RunRequest({"train.py": textwrap.dedent(script).encode()}, data, "train.py", SMALL, **options)


def settles(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


def processes_with(mark):
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            line = Path("/proc", name, "cmdline").read_bytes()
        except OSError:
            continue
        if mark.encode() in line:
            found.append(int(name))
    return found


# ---- bubblewrap ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bwrap_works():
    why_not = bubblewrap.why_not() if sys.platform == "linux" else "needs Linux"
    if why_not:
        pytest.skip(why_not)


@pytest.fixture(scope="module")
def boxed(bwrap_works):
    with Runner(workers=1, tier="BW", modules=()) as pool:
        yield pool


def test_where_bubblewrap_makes_its_namespaces_the_tier_passes_the_probe(bwrap_works):
    assert probe._verdict("BW") == ""
    assert probe.choose("BW").bubblewrap and "BW" in probe.probe().available


def test_a_run_inside_bubblewrap_is_recorded_as_such_and_uses_the_libraries(bwrap_works):
    script = """
        import subprocess, sys
        import numpy, sklearn.linear_model, pandas
        model = sklearn.linear_model.LinearRegression().fit([[0.0], [1.0]], [1.0, 3.0])
        print(round(float(model.predict([[2.0]])[0]), 6))
        print(subprocess.run([sys.executable, "-c", "import numpy; print(numpy.arange(4).sum())"], capture_output=True, text=True).stdout.strip())
        open("submission.csv", "w").write("x")
    """
    with Runner(workers=1, tier="BW") as pool:
        result = pool.run(request(script))
    assert (result.status, result.output, result.tier) == ("ok", "5.0\n6\n", "BW")
    assert result.collected == {"submission.csv": b"x"}


# what only the mounts and the position of the server refuse; the rest is in the abuse suite and the probe
ESCAPES = """
import json, os
plan, done = json.load(open("plan.json")), []

def attempt(name, attack):
    try:
        attack()
    except (OSError, ValueError):
        return
    done.append(name)

def write(path):
    os.close(os.open(path, os.O_WRONLY))  # nothing is written: to be let in is enough

for path in plan["hidden"]:
    attempt("see " + path, lambda: os.stat(path))
for folder in ("/proc/sys/kernel", "/proc/sys/vm", "/proc/sys/fs"):
    for name in os.listdir(folder):
        attempt("change " + name, lambda: write(os.path.join(folder, name)))
attempt("sysrq", lambda: write("/proc/sysrq-trigger"))
for pid in (p for p in os.listdir("/proc") if p.isdigit() and int(p) != os.getpid()):
    for inner in ("environ", "mem", "maps", "root/etc/passwd"):
        attempt(f"look into {pid}/{inner}", lambda: open(f"/proc/{pid}/{inner}", "rb").read(1))
    for number in range(16):
        attempt(f"write to the pipe {pid}/{number}", lambda: write(f"/proc/{pid}/fd/{number}"))
        attempt(f"follow {pid}/{number}", lambda: os.readlink(f"/proc/{pid}/fd/{number}"))
for folder in ("/", "/tmp", "/dev", "/dev/shm", "/isolation", "/usr/lib", "/etc", "data", os.path.dirname(os.getcwd()), plan["site"]):
    attempt("plant in " + folder, lambda: open(os.path.join(folder, "planted"), "w"))
attempt("replace the workspace", lambda: os.rename(os.getcwd(), os.getcwd() + ".moved"))
attempt("chroot", lambda: os.chroot("."))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
rights = [status[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")]
isolation = sorted(os.listdir("/isolation"))
json.dump({"done": done, "rights": rights, "nnp": status["NoNewPrivs"].strip(), "isolation": isolation}, open("report.json", "w"))
"""


def test_a_run_inside_bubblewrap_sees_neither_labels_nor_kit_and_changes_nothing_outside(boxed, tmp_path):
    task = tmp_path / "task"
    for name in ("env/data/train.csv", "scripts/labels/report.csv", "runs/laptop/steps.jsonl"):
        (task / name).parent.mkdir(parents=True, exist_ok=True)
        (task / name).write_text("x")
    data = task / "env" / "data"
    for path in (tmp_path, *task.rglob("*")):
        path.chmod(0o777)
    site = str(paths.site_folders()[0])
    hidden = [
        task / "scripts",
        task / "runs",
        ROOT / "mlagent_lib" / "__init__.py",
        ROOT / "tests",
        tmp_path / "other",
    ]
    hidden += [
        Path(site, "mlagent_lib", "__init__.py"),
        Path.home() / ".ssh",
        Path("/etc/shadow"),
        Path("/var"),
    ]
    plan = {"hidden": list(map(str, hidden)), "site": site}
    files = {"train.py": ESCAPES.encode(), "plan.json": json.dumps(plan).encode()}
    result = boxed.run(RunRequest(files, data, "train.py", SMALL, ("report.json",)))
    assert result.status == "ok", result.output
    report = json.loads(result.collected["report.json"])
    assert report["done"] == []
    assert set(report["rights"]) == {"0" * 16} and report["nnp"] == "1"
    assert all(name.endswith(".py") or name == "__pycache__" for name in report["isolation"])
    assert sorted(p.name for p in data.iterdir()) == ["train.csv"]


def test_what_is_bound_holds_no_label_and_no_scripts_of_a_task():
    from mlagent_lib.tasks.registry import find_task, list_tasks

    words = bubblewrap.arguments("/w", ["/d"], *paths.readable())
    sources = {
        b for a, b in zip(words, words[1:], strict=False) if a in ("--ro-bind", "--ro-bind-try", "--bind")
    }
    kit = str(ROOT / "mlagent_lib")
    inside_kit = [s for s in sources if s == kit or s.startswith(kit + "/")]
    assert inside_kit == [str(ROOT / "mlagent_lib" / "environment" / "isolation")]
    assert all(p.suffix in (".py", ".pyc") for p in Path(inside_kit[0]).rglob("*") if p.is_file())
    for name in list_tasks():
        labels = str(find_task(name).labels_dir)
        assert not [s for s in sources if labels == s or labels.startswith(s + "/")]


def test_nothing_passes_from_run_to_run_inside_bubblewrap(boxed):
    leave = """
        import os
        for path in ("left.txt", "/tmp/left.txt", "/dev/shm/left.txt"):
            try:
                open(path, "w").write("x")
            except OSError:
                pass
        if os.fork() == 0:
            os.setsid()
            import time
            time.sleep(60)
    """
    assert boxed.run(request(leave)).status == "ok"
    look = """
        import os
        seen = [name for folder in (".", "/tmp", "/dev/shm") for name in os.listdir(folder)]
        print("train.py" in seen, "left.txt" in seen, len([p for p in os.listdir("/proc") if p.isdigit()]))
    """
    # three processes: the server, the guard of this run, and the run
    assert boxed.run(request(look)).output == "True False 3\n"


def test_limits_hold_inside_bubblewrap(boxed):
    late = request("import time\ntime.sleep(60)")
    late = RunRequest(late.files, None, "train.py", Limits(**{**SMALL.to_json(), "seconds": 0.5}))
    assert boxed.run(late).status == "timeout"
    many = "import os, time\nfor _ in range(40):\n    if os.fork() == 0:\n        time.sleep(30); os._exit(0)\ntime.sleep(30)"
    assert boxed.run(request(many)).status in ("processes", "error")
    assert boxed.run(request("x = bytearray(900 << 20)")).error_type == "MemoryError"
    assert boxed.run(request("import os\nos.kill(-1, 9)\n")).status in ("ok", "error")
    assert boxed.run(request("print('next')")).output == "next\n"


def test_a_new_data_folder_restarts_the_server_and_those_it_had_stay(boxed, tmp_path):
    folders = []
    for name in ("one", "two"):
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        (folders[-1] / "given.txt").write_text(name)
    server, script = boxed._servers[0], request("print(open('data/given.txt').read())").files

    def run(folder):
        output = boxed.run(RunRequest(script, folder, "train.py", SMALL, ())).output.strip()
        return output, server.process.pid

    first, second = run(folders[0]), run(folders[1])
    assert (first[0], second[0]) == ("one", "two") and first[1] != second[1]
    assert [run(folder) for folder in (*folders, folders[0])] == [
        ("one", second[1]),
        second,
        ("one", second[1]),
    ]
    shutil.rmtree(folders[0])
    folders[0].mkdir()
    (folders[0] / "given.txt").write_text("made again")
    again = run(folders[0])
    assert again[0] == "made again" and again[1] != second[1]
    shutil.rmtree(folders[1])  # one that has gone must not keep the server from starting
    server.process.kill()
    assert run(folders[0])[0] == "made again"


def test_old_data_folders_are_given_up_when_there_are_too_many(tmp_path):
    mounts = bubblewrap.Mounts()
    names = [tmp_path / str(i) for i in range(mounts.MOST + 1)]
    for name in names:
        name.mkdir()
        assert mounts.add(str(name)) and not mounts.add(str(name))
    assert mounts.folders() == list(map(str, names[1:]))
    assert not mounts.add(None)
    with pytest.raises(OSError):
        mounts.add(str(tmp_path / "missing"))


@pytest.mark.parametrize("victim", ["launcher", "bwrap", "server"])
def test_whatever_is_killed_around_a_boxed_server_it_is_replaced(bwrap_works, victim):
    with Runner(workers=1, tier="BW", modules=()) as pool:
        pool.warm()
        launcher = pool._servers[0].process.pid
        bwrap = int(Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()[0])
        server = int(Path(f"/proc/{bwrap}/task/{bwrap}/children").read_text().split()[0])
        os.kill({"launcher": launcher, "bwrap": bwrap, "server": server}[victim], signal.SIGKILL)
        assert pool.run(request("print(1)")).output == "1\n"
        base = pool._base
    assert settles(lambda: not processes_with(base)) and not os.path.exists(base)


def test_when_the_parent_is_killed_everything_of_a_boxed_server_goes(bwrap_works, tmp_path):
    program = """
        from mlagent_lib.environment.runner import Runner, RunRequest
        pool = Runner(workers=1, tier="BW", modules=())
        print(pool._base, flush=True)
        pool.run(RunRequest({"a.py": b"import time\\ntime.sleep(60)"}, None, "a.py"))
    """
    (tmp_path / "parent.py").write_text(textwrap.dedent(program))
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")], stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    base = parent.stdout.readline().strip()
    assert settles(lambda: os.path.exists(f"{base}/server0/work/a.py"), seconds=30)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    assert settles(lambda: not processes_with(base) and not os.path.exists(base))


def test_a_boxed_server_survives_the_end_of_the_thread_that_started_it(bwrap_works):
    with Runner(workers=1, tier="BW", modules=()) as pool:
        pool.run_many([request("print(1)")])  # in a thread of a pool that ends
        process = pool._servers[0].process
        assert pool.run(request("print(2)")).output == "2\n"
        assert pool._servers[0].process is process


@settings(max_examples=60)
@given(st.data())
def test_the_mounts_show_exactly_what_is_granted(tmp_path_factory, data):
    base = tmp_path_factory.mktemp("tree")
    names = data.draw(
        st.lists(
            st.lists(st.sampled_from("abc"), min_size=1, max_size=4), min_size=1, max_size=12, unique_by=tuple
        )
    )
    files = []
    for parts in names:
        target = base.joinpath(*parts[:-1], parts[-1] + ".txt")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("")
        files.append(str(target))
    denied = data.draw(st.sets(st.sampled_from([*files, *(str(p) for p in base.rglob("*") if p.is_dir())])))
    trees, listings = paths.allow_tree(str(base), denied)
    view = bubblewrap._View(paths._without_nested(trees))
    view.roots(listings)
    for name in files:
        granted = not any(name == d or name.startswith(d + "/") for d in denied)
        assert _shown(view.mounts, name) == granted, (name, view.mounts)
    assert set(view.seals[1::2]) == {
        b for a, b in zip(view.mounts, view.mounts[1:], strict=False) if a == "--tmpfs"
    }


def test_a_denied_path_inside_a_denied_folder_does_not_open_that_folder(tmp_path):
    for name in ("lib/secret.csv", "lib/data/rows.csv", "code.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    trees, _ = paths.allow_tree(str(tmp_path), [str(tmp_path / "lib"), str(tmp_path / "lib" / "data")])
    assert trees == [str(tmp_path / "code.py")]


def _shown(mounts, name):
    """Whether a file can be seen after all mounts, the last on its path decides."""
    state, words = False, iter(mounts)
    for word in words:
        source = next(words)
        target = source if word == "--tmpfs" else next(words)
        if name == target or name.startswith(target + "/"):
            state = word == "--ro-bind-try"
    return state


def test_links_on_the_way_to_the_interpreter_are_found(tmp_path):
    (tmp_path / "opt" / "bin").mkdir(parents=True)
    (tmp_path / "opt" / "bin" / "python3.11").write_text("")
    (tmp_path / "opt" / "bin" / "python").symlink_to("python3.11")
    (tmp_path / "env").symlink_to(tmp_path / "opt")
    (tmp_path / "loop").symlink_to("loop")
    base = tmp_path.resolve()
    found = bubblewrap.links(str(base / "env" / "bin" / "python"))
    assert found == {
        str(base / "env"): str(tmp_path / "opt"),
        str(base / "opt" / "bin" / "python"): "python3.11",
    }
    assert bubblewrap.links(str(base / "loop" / "x")) == {str(base / "loop"): "loop"}


def test_more_mounts_than_bubblewrap_takes_are_a_failure_of_ours(monkeypatch, tmp_path):
    monkeypatch.setattr(bubblewrap, "_MOST_ARGUMENTS", 10)
    with pytest.raises(OSError, match="words for its mounts"):
        bubblewrap.arguments("/w", [], *paths.readable())


# ---- why bubblewrap cannot be used ---------------------------------------------------------------


@pytest.fixture
def fake_bwrap(monkeypatch, tmp_path):
    def make(script):
        (tmp_path / "bwrap").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "bwrap").chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return make


@linux
def test_a_missing_bwrap_is_told_with_the_package_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bubblewrap.why_not() == "the program bwrap is missing: install the package bubblewrap"
    assert any(
        "apt-get install bubblewrap" in cure for cure in explain.cures(None, {"BW": bubblewrap.why_not()})
    )


@linux
def test_refused_user_namespaces_are_told_with_who_refuses_them(fake_bwrap, monkeypatch, tmp_path):
    (tmp_path / "sys" / "kernel").mkdir(parents=True)
    (tmp_path / "sys" / "kernel" / "apparmor_restrict_unprivileged_userns").write_text("1\n")
    who = bubblewrap.who_refuses(str(tmp_path / "sys"))
    assert who == " (AppArmor, as Ubuntu 24.04 sets it up: kernel.apparmor_restrict_unprivileged_userns=1)"
    monkeypatch.setattr(bubblewrap, "who_refuses", lambda: who)
    fake_bwrap("echo 'bwrap: setting up uid map: Permission denied' >&2; exit 1")
    why_not = bubblewrap.why_not()
    assert why_not == f"user namespaces are refused (bwrap: setting up uid map: Permission denied){who}"
    assert any("apparmor" in cure for cure in explain.cures("T2", {"BW": why_not}))
    fake_bwrap("echo 'bwrap: Unknown option --unshare-user' >&2; exit 1")
    assert "too old" in bubblewrap.why_not()


@linux
@pytest.mark.parametrize(("text", "told"), [("0", True), ("1000", False)])
def test_a_limit_of_no_user_namespaces_is_named(tmp_path, text, told):
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "max_user_namespaces").write_text(text)
    assert ("user.max_user_namespaces=0" in bubblewrap.who_refuses(str(tmp_path))) is told


@pytest.fixture
def fresh_probe():
    def clear():
        for kept in (probe._verdict, probe._chosen, probe.probe):
            kept.cache_clear()

    clear()
    yield
    clear()


@linux
def test_without_landlock_bubblewrap_is_what_is_chosen(bwrap_works, fresh_probe, monkeypatch):
    monkeypatch.setattr(landlock, "abi", lambda: 0)
    assert probe.choose().name == "BW"
    report = probe.probe()
    assert report.available == ("BW",) and all(
        "no Landlock" in report.failed[name] for name in BEST_FIRST[:4]
    )
    assert any("Landlock switched on" in line for line in report.lines)


# ---- failures of ours are not failures of a tier -------------------------------------------------


@linux
def test_a_full_disk_is_not_taken_for_a_tier_that_does_not_isolate(fresh_probe, monkeypatch):
    def full(*_words, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(probe.tempfile, "mkdtemp", full)
    with pytest.raises(IsolationError, match=r"could not be tried: .*No space left") as caught:
        probe.choose()
    assert "free disk" in caught.value.cure
    with pytest.raises(IsolationError, match=r"tier T2 could not be tried: .*No space left") as caught:
        probe.choose("T2")
    assert "free disk" in caught.value.cure and "does not work" not in caught.value.message
    assert probe.probe().chosen is None


@linux
def test_a_weaker_tier_taken_because_of_a_failure_of_ours_is_said(fresh_probe, monkeypatch):
    if landlock.abi() == 0:
        pytest.skip("this kernel has no Landlock")
    start = client.WarmServer._start

    def failing(self):
        if self.tier.name != "T2":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        start(self)

    monkeypatch.setattr(client.WarmServer, "_start", failing)
    with pytest.warns(
        RuntimeWarning, match=r"tier T2 is used, because .*T3 could not be tried: .*allocate memory"
    ):
        assert probe.choose().name == "T2"
    report = probe.probe()
    assert report.failed["T3"].startswith("could not be tried: ")
    assert any("see why a tier could not be tried" in line for line in report.lines)
    assert all(not why.startswith("not refused") for why in report.failed.values())


@linux
def test_a_layer_that_the_kernel_refuses_is_the_machines_failure_and_a_dead_guard_is_ours():
    server = client.WarmServer("/nowhere", TIERS["T3"])
    with pytest.raises(client.JailRefused, match="Operation not permitted"):
        server._check({"stop": "setup", "setup": "unshare: Operation not permitted", "left": 0})
    with pytest.raises(client.ServerLost) as caught:
        server._check({"stop": "guard-died", "left": 0})
    assert not isinstance(caught.value, client.JailRefused)


@linux
def test_a_container_with_root_alone_is_named_and_not_called_a_failure_of_ours(fresh_probe, monkeypatch):
    monkeypatch.setattr(explain, "is_root", lambda: True)
    monkeypatch.setattr(client, "user_exists", lambda uid: False)
    if landlock.abi() == 0:
        pytest.skip("this kernel has no Landlock")
    assert probe._verdict("T2+uid") == "root of this container has no other user ids to become"


@linux
@pytest.mark.parametrize("tier", [name for name in BEST_FIRST if name in probe.probe().available])
def test_a_workspace_that_cannot_be_made_is_a_lost_server_that_leaves_nothing(tier, monkeypatch, tmp_path):
    def refuse(path, owner):
        raise OSError(errno.EINVAL, "Invalid argument", path)

    server = client.WarmServer(str(tmp_path / "base" / "server"), TIERS[tier], modules=())
    monkeypatch.setattr(client.run_folder, "make", refuse)
    with pytest.raises(client.ServerLost, match="Invalid argument"):
        server.run(RunRequest({"a.py": b""}, None, "a.py", SMALL, ()))
    assert server.process is None and not (tmp_path / "base" / "server").exists()
    assert settles(lambda: not processes_with(str(tmp_path)))


# ---- old kernels ---------------------------------------------------------------------------------


@pytest.fixture
def old_kernel(monkeypatch, tmp_path):
    """Return a function that gives new servers the Landlock of an older kernel."""

    def pretend(version: int) -> None:
        if landlock.abi() <= version:
            pytest.skip(f"this kernel's Landlock is {landlock.abi()} itself")
        copy = tmp_path / "isolation"
        shutil.copytree(Path(client.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
        source = (copy / "landlock.py").read_text()
        old = source.replace("return max(0, kernel", f"return min({version}, kernel")
        assert old != source
        (copy / "landlock.py").write_text(old)
        monkeypatch.setattr(client, "__file__", str(copy / "client.py"))  # from where the server is started

    return pretend


@linux
@pytest.mark.parametrize("version", [1, 4])
def test_the_probe_passes_with_the_landlock_of_older_kernels(version, monkeypatch, old_kernel):
    old_kernel(version)
    assert probe._try(TIERS["T2"]) == ""
    monkeypatch.setattr(landlock, "abi", lambda: version)
    told = " ".join(explain.gaps(TIERS["T2"]))
    assert ("Landlock 1:" in told) is (version == 1) and ("Landlock below 3" in told) is (version == 1)
    assert "Landlock below 6" in told


@linux
def test_workers_end_by_themselves_where_the_kernel_refuses_their_parents_signals(old_kernel, tmp_path):
    if "T2" not in probe.probe().available:
        pytest.skip("T2 does not work here")
    old_kernel(4)
    script = """
        import multiprocessing, os
        def square(x): return x * x
        if __name__ == "__main__":
            for kind in ("fork", "spawn"):
                with multiprocessing.get_context(kind).Pool(2) as pool:
                    print(pool.map(square, range(3)))
            worker = multiprocessing.Process(target=multiprocessing.Event().wait, daemon=True)
            worker.start()
            worker.terminate()
    """
    with Runner(workers=1, tier="T2") as pool:
        result = pool.run(request(script, collect=()))
    assert result.output.startswith("[0, 1, 4]\n[0, 1, 4]\n"), result.output
    assert (result.status, result.error_type, result.error_line) == ("error", "PermissionError", 10)


# ---- a normal user -------------------------------------------------------------------------------


@linux
def test_the_probe_finds_a_safe_tier_for_a_user_without_rights(tmp_path_factory):
    """Only root can become somebody else; the interpreter has to be one that everybody may read."""
    python = Path("/usr/bin/python3")
    if os.geteuid() != 0 or not python.exists():
        pytest.skip("needs root and a /usr/bin/python3")
    version = subprocess.run(
        [python, "-c", "import sys; print(sys.version_info >= (3, 11))"], capture_output=True
    )
    if version.stdout.strip() != b"True":
        pytest.skip("the /usr/bin/python3 of this machine is too old for the kit")
    base = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        shutil.copytree(
            ROOT / "mlagent_lib",
            base / "mlagent_lib",
            ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"),
        )
        (base / "tmp").mkdir()
        for path in (base, *base.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        (base / "tmp").chmod(0o1777)
        program = (
            "import json\nfrom mlagent_lib.environment.isolation import bubblewrap, probe\n"
            "report = probe.probe()\nprint(json.dumps([report.chosen, report.available, report.failed, bubblewrap.why_not()]))"
        )
        done = subprocess.run(
            [python, "-B", "-c", program], user=65534, group=65534, extra_groups=[], cwd=base, capture_output=True,
            text=True, env={"PYTHONPATH": str(base), "TMPDIR": str(base / "tmp"), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        chosen, available, failed, no_bubblewrap = json.loads(done.stdout)
        assert failed["T3+uid"] == failed["T2+uid"] == "needs root, to become a throw-away user"
        assert ("BW" in available) is (no_bubblewrap == "")
        assert ("T2" in available) is (landlock.abi() > 0), failed
        assert chosen == available[0]
        assert list((base / "tmp").iterdir()) == []
    finally:
        shutil.rmtree(base)


# ---- words for users -----------------------------------------------------------------------------


def test_every_layer_is_told_for_every_tier_and_for_none():
    names = [name for name, _, _ in explain.layers(None)]
    assert names == [
        "file rules", "system-call filter", "namespaces", "throw-away user", "rlimits", "watchdog and sweep",
        "network block",
    ]  # fmt: skip
    assert {state for _, state, _ in explain.layers(None)} == {"off"}
    for tier in TIERS.values():
        rows = explain.layers(tier)
        assert [name for name, _, _ in rows] == names
        state = {name: state for name, state, _ in rows}
        assert (state["file rules"] == "on") is (tier.landlock or tier.bubblewrap)
        assert (state["network block"] == state["system-call filter"] == "on") is tier.seccomp
        assert (state["throw-away user"] == "on") is tier.own_user
    meanings = {name: meaning for name, _, meaning in explain.layers(TIERS["BW"])}
    assert "bubblewrap" in meanings["file rules"]


def test_what_a_tier_does_not_guarantee_is_told():
    told = {name: " ".join(explain.gaps(TIERS[name])) for name in BEST_FIRST}
    for text in told.values():
        assert all(word in text for word in ("same kernel", "GPU", "side channels"))
    for name in BEST_FIRST:
        assert ("list of all processes" in told[name]) is (name in ("T2+uid", "T2"))
        assert "copies of PyTorch's tensors" in told[name]
        assert ("cannot send signals" in told[name]) is (
            name == "BW" or (name == "T2" and landlock.abi() < 6)
        )
        assert ("share_memory_()" in told[name]) is (name not in ("T3+uid", "T3"))
        assert ("tasks that its server ran before" in told[name]) is (name == "BW")
    assert "approximate" in told["T2"] and "approximate" not in told["T3+uid"]


@pytest.mark.parametrize(
    ("system", "name", "cure"), [("Darwin", "macOS", "Linux virtual machine"), ("Windows", "Windows", "WSL2")]
)
def test_other_systems_are_named_and_refused_with_what_to_do(fresh_probe, monkeypatch, system, name, cure):
    monkeypatch.setattr(kernel, "LINUX", False)
    monkeypatch.setattr(platform, "system", lambda: system)
    report = probe.probe()
    assert report.chosen is None and set(report.failed) == set(BEST_FIRST)
    assert set(report.failed.values()) == {f"needs Linux, this is {name}"}
    with pytest.raises(IsolationError, match=f"this is {name}") as caught:
        Runner(workers=1)
    assert cure in caught.value.cure and "allow_unsafe=True" in caught.value.cure
    with pytest.raises(IsolationError, match="allow_unsafe"):
        Runner(workers=1, tier="T0")
    with pytest.raises(IsolationError, match="needs Linux"):
        Runner(workers=1, tier="T1", allow_unsafe=True)
    with Runner(workers=1, tier="T0", allow_unsafe=True) as pool:
        result = pool.run(request("print(1)", collect=()))
    assert (result.output, result.tier) == ("1\n", "T0")
    text = "\n".join(report.lines)
    assert "refused here" in text and cure in text and f"machine: {name}" in text


def test_no_folder_of_ours_is_writable_for_others(boxed):
    boxed.run(request("print(1)"))
    mode = stat.S_IMODE(os.stat(boxed._base).st_mode)
    assert mode == 0o711
