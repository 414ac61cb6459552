"""The parts of the isolation one by one: files, rules, words, and the probe that chooses a tier."""

# ruff: noqa: E501 - scripts in strings

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import pytest

from mlagent_lib.core.errors import IsolationError
from mlagent_lib.environment.isolation import (
    jail,
    landlock,
    limits_os,
    paths,
    probe,
    run_folder,
    run_status,
    seccomp,
)
from mlagent_lib.environment.isolation.tiers import BEST_FIRST, TIERS
from mlagent_lib.tasks.foreign.old_code import diagnose

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux")
isolated = pytest.mark.skipif(probe._chosen() is None, reason="no isolation tier works on this machine")


# ---- workspace -----------------------------------------------------------------------------------


@pytest.fixture
def work(tmp_path):
    return run_folder.make(str(tmp_path / "work"), None)


def test_a_workspace_holds_its_files_and_the_link_to_the_data(work, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.csv").write_text("a\n1\n")
    run_folder.fill(work, {"train.py": b"x = 1", "deep/er/utils.py": b"y = 2"}, str(tmp_path / "data"), None)
    assert run_folder.collect(work, "deep/er/utils.py", 100) == b"y = 2"
    assert os.path.islink(os.path.join(work.path, "data"))
    assert Path(work.path, "data", "train.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize("name", ["/etc/passwd", "../up", "a/../../up", "", ".", "nul\0"])
def test_names_that_leave_the_workspace_are_refused(name):
    with pytest.raises(ValueError, match="relative path"):
        run_folder.check_names([name], ())


def test_no_file_may_lie_below_the_link_to_the_data():
    with pytest.raises(ValueError, match="link to the task's data"):
        run_folder.check_names(["data/train.csv"], ("data",))


def _plant(kind, folder, outside):
    target = os.path.join(folder, "submission.csv")
    if kind == "symlink":
        os.symlink(outside, target)
    elif kind == "hardlink":
        os.link(outside, target)
    elif kind == "special-file":
        os.mkfifo(target)
    elif kind == "too-large":
        with open(target, "wb") as handle:
            handle.truncate(1 << 40)  # sparse: a terabyte that costs nothing
    elif kind == "empty":
        open(target, "w").close()
    elif kind == "workspace-replaced":
        os.rename(folder, folder + ".moved")
        os.symlink(os.path.dirname(outside), folder)


@linux
@pytest.mark.parametrize(
    "kind", ["missing", "symlink", "hardlink", "special-file", "too-large", "empty", "workspace-replaced"]
)
def test_only_a_plain_file_can_be_handed_in(kind, work, tmp_path):
    outside = tmp_path / "submission.csv"
    outside.write_text("labels")
    _plant(kind, work.path, str(outside))
    with pytest.raises(run_folder.Refused, match=kind):
        run_folder.collect(work, "submission.csv", 1 << 20)


@linux
def test_a_folder_on_the_way_may_not_be_a_link(work, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "a.csv").write_text("x")
    os.symlink(tmp_path / "out", os.path.join(work.path, "out"))
    with pytest.raises(run_folder.Refused, match="symlink"):
        run_folder.collect(work, "out/a.csv", 100)


@linux
def test_anything_can_be_removed_and_links_are_not_followed(work, tmp_path):
    keep = tmp_path / "keep.txt"
    keep.write_text("still here")
    os.symlink(keep, os.path.join(work.path, "link"))
    os.symlink(tmp_path, os.path.join(work.path, "folder"))
    os.mkdir(os.path.join(work.path, "closed"))
    open(os.path.join(work.path, "closed", "x"), "w").close()
    os.chmod(os.path.join(work.path, "closed"), 0)
    open(os.path.join(os.fsencode(work.path), b"bad \xff name"), "w").close()
    where = os.open(work.path, os.O_RDONLY)
    for _ in range(1200):  # far beyond the longest path and the deepest recursion
        os.mkdir("d", dir_fd=where)
        inner = os.open("d", os.O_RDONLY, dir_fd=where)
        os.close(where)
        where = inner
    os.close(where)
    assert limits_os.disk_use(work.path, max_files=100)[1] > 100  # too deep counts as too many
    run_folder.remove(work.path)
    assert not os.path.exists(work.path)
    assert keep.read_text() == "still here"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keep.txt"]


# ---- what is read --------------------------------------------------------------------------------


def test_allow_tree_grants_the_neighbours_of_what_is_denied_and_nothing_more(tmp_path):
    for name in ("a/data/secret.csv", "a/code.py", "b/code.py", "a/inner/deep/x.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    os.symlink(tmp_path / "a" / "data", tmp_path / "b" / "shortcut")
    os.symlink(tmp_path / "a" / "data", tmp_path / "shortcut")
    grants, listings = paths.allow_tree(str(tmp_path), [str(tmp_path / "a/data"), "/elsewhere"])
    assert sorted(os.path.relpath(g, tmp_path) for g in grants) == ["a/code.py", "a/inner", "b"]
    assert listings == [str(tmp_path)]
    assert paths.allow_tree(str(tmp_path), []) == ([str(tmp_path)], [])
    assert paths.allow_tree(str(tmp_path), [str(tmp_path)]) == ([], [])


def test_data_of_libraries_is_denied_and_their_code_is_not(tmp_path):
    files = [
        "lib/datasets/__init__.py", "lib/datasets/data/__init__.py", "lib/datasets/data/iris.csv",
        "lib/datasets/descr/iris.rst", "lib/core.py", "lib/table.csv", "lib/tests/test_x.py",
        "lib/tests/results/numbers.csv", "pure/tests/test_y.py", "mlagent_lib/runner.py",
    ]  # fmt: skip
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    denied = {os.path.relpath(p, tmp_path) for p in paths.bundled_data(str(tmp_path))}
    assert denied == {"lib/datasets/data/iris.csv", "lib/datasets/descr", "lib/tests", "mlagent_lib"}


def test_on_this_machine_no_data_set_of_a_library_is_granted():
    import sklearn.datasets

    home = os.path.dirname(os.path.realpath(sklearn.datasets.__file__))
    trees, _ = paths.readable()

    def granted(path):
        return any(path == tree or path.startswith(tree + os.sep) for tree in trees)

    assert granted(os.path.join(home, "_base.py"))
    for name in ("data/iris.csv", "data/digits.csv.gz", "descr/iris.rst", "images/china.jpg"):
        assert os.path.exists(os.path.join(home, name)) and not granted(os.path.join(home, name))
    assert not granted(os.path.realpath(paths.__file__))  # nor is this kit
    assert not granted(os.path.join(os.path.dirname(os.__file__), "pydoc_data", "topics.py"))
    assert not granted(os.path.expanduser("~"))
    assert not any("mlagent_lib" in p for p in paths.import_path())


# ---- words ---------------------------------------------------------------------------------------


def test_output_is_plain_text_and_says_how_much_is_missing():
    raw = b"\xa4\x1b[1mbold\x1b[0m\x00\x07 \x1b]0;title\x07\xff end\r50%\r100%"
    text = run_status.clean_text(raw, len(raw) + 90, {})
    assert text == "[... 90 bytes of output cut ...]\nbold \ufffd end\n50%\n100%"
    assert run_status.clean_text(b"in /tmp/a/b/x.py", 16, {"/tmp/a": "A", "/tmp/a/b": "B"}) == "in B/x.py"


MAIN = 'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\nKeyError: 1\n'
INNER = 'Traceback (most recent call last):\n  File "train.py", line 6, in f\nOSError: late\n'
DURING = "\nDuring handling of the above exception, another exception occurred:\n\n"


@pytest.mark.parametrize(
    ("output", "code", "expected"),
    [
        ("fine", 0, (None, None)),
        ("bye", 3, ("SystemExit", None)),
        ("", -11, ("SIGSEGV", None)),
        (
            "  File \"train.py\", line 3\n    x = (\n        ^\nSyntaxError: '(' was never closed",
            1,
            ("SyntaxError", 3),
        ),
        (
            'score: 1\nTraceback (most recent call last):\n  File "train.py", line 9, in <module>\n    f()\n'
            '  File "train.py", line 4, in f\n  File "site-packages/numpy/x.py", line 70, in g\n'
            "numpy.linalg.LinAlgError: Singular\nmatrix: yes",
            1,
            ("LinAlgError", 4),
        ),
        (
            'Traceback (most recent call last):\n  File "train.py", line 1\nKeyError: 1\n\nDuring handling of the above '
            'exception, another exception occurred:\n\nTraceback (most recent call last):\n  File "train.py", line 5\n'
            "ValueError",
            1,
            ("ValueError", 5),
        ),
        # what Python ignored is not the cause: a destructor at exit, an atexit callback whose name takes lines
        (f"{MAIN}Exception ignored in: <function A.__del__ at 0x7f>\n{INNER}", 1, ("KeyError", 3)),
        (f"{MAIN}Exception ignored in atexit callback: <A\n  1 2\n>\n{INNER}", 1, ("KeyError", 3)),
        (f"Exception ignored in: <function A.__del__ at 0x7f>\n{INNER}no data", 1, ("SystemExit", None)),
        (f"Exception ignored in: <f>\n{INNER}{DURING}{INNER}no data", 1, ("SystemExit", None)),
        (f"{MAIN}--- Logging error ---\n{MAIN.replace('3', '8')}", 1, ("KeyError", 3)),
        (f"{MAIN}Task exception was never retrieved\nfuture: <Task finished>\n{INNER}", 1, ("KeyError", 3)),
        # nor is what ended a thread, a process or a callback, unless there is nothing else
        (f"{MAIN}Exception in thread Thread-1 (f):\n{INNER}", 1, ("KeyError", 3)),
        (f"{MAIN}Process Process-1:\n{INNER}{DURING}{INNER}", 1, ("KeyError", 3)),
        (f"Exception in thread Thread-1 (f):\n{INNER}", 1, ("OSError", 6)),
        # a worker's own traceback is quoted above that of the script
        (f'pool.RemoteTraceback: \n"""\n{INNER}"""\n{DURING}{MAIN}', 1, ("KeyError", 3)),
        # warnings after it, a group, a class made in a function
        (f"{MAIN}sys:1: ResourceWarning: unclosed file <_io.TextIOWrapper>\n", 1, ("KeyError", 3)),
        (
            '  + Exception Group Traceback (most recent call last):\n  |   File "train.py", line 4, in <module>\n'
            "  | ExceptionGroup: two (2 sub-exceptions)\n  +-+---------------- 1 ----------------\n"
            '    | Traceback (most recent call last):\n    |   File "train.py", line 2, in f\n'
            "    | ValueError: 1\n    +------------------------------------\n",
            1,
            ("ExceptionGroup", 4),
        ),
        (MAIN.replace("KeyError", "f.<locals>.Bad"), 1, ("Bad", 3)),
        # behind a progress bar whose line has no end
        (f"{MAIN}  0%|  | 0/9 [00:00<?, ?it/s]{MAIN.replace('3', '8')}", 1, ("KeyError", 8)),
        (f"  0%|  | 0/9 [00:00<?, ?it/s]{MAIN}Exception ignored in: <f>\n{INNER}", 1, ("KeyError", 3)),
    ],
)
def test_the_error_is_read_from_the_traceback_that_ended_the_script(output, code, expected):
    assert run_status.error_of(output, "train.py", code)[:2] == expected


def test_a_starter_is_diagnosed_by_the_same_traceback():
    ignored = f"Exception ignored in: <function A.__del__ at 0x7f>\n{INNER}"
    files = {"train.py": b"\n\nx = {}[1]\n\n\nraise OSError"}
    found = diagnose(files, "train.py", "error", MAIN + ignored)
    assert (found.line, found.source, found.error) == (3, "x = {}[1]", "KeyError: 1")
    assert diagnose(files, "train.py", "error", ignored).line == 0


# ---- the kernel's part ---------------------------------------------------------------------------


@linux
def test_the_filter_of_system_calls_is_well_formed_for_both_processors(monkeypatch):
    for machine in ("x86_64", "aarch64"):
        monkeypatch.setattr(seccomp.platform, "machine", lambda m=machine: m)
        assert seccomp.supported()
        code = seccomp.program(signals=True, truncation=True)
        assert len(code) % 8 == 0 and len(code) // 8 < 4096  # the kernel's longest program
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "riscv64")
    assert not seccomp.supported()


def _filter_answer(code, machine_word, number, *args):
    """Execute the filter as the kernel would."""
    import struct

    data = struct.pack("=iIQ6Q", number, machine_word, 0, *(list(args) + [0] * (6 - len(args))))
    position = accumulator = 0
    while True:
        operation, jump_true, jump_false, value = struct.unpack_from("=HBBI", code, 8 * position)
        position += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
            continue
        hit = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: accumulator & value != 0}[
            operation
        ]
        position += jump_true if hit else jump_false


@linux
def test_the_filter_answers_each_call_as_meant(monkeypatch):
    monkeypatch.setattr(seccomp.platform, "machine", lambda: "x86_64")
    code, x86 = seccomp.program(signals=True, truncation=True), 0xC000003E
    allow, refuse, pretend = 0x7FFF0000, 0x00050001, 0x00050000
    expected = {
        (0,): allow, (41,): refuse, (53, 1, 0x80001): allow, (53, 1, 5): allow,
        (53, 1, 0x80002): refuse, (53, 1, 3): refuse, (53, 2, 1): refuse, (46,): refuse, (307,): refuse,
        (90,): pretend, (88,): refuse, (62, 1): refuse, (62, os.getpid()): allow, (76,): refuse,
        (56, 0x01200011): allow, (56, 0x10000011): refuse, (56, 0x3D0F00): allow, (56, 0x3D0B00): refuse,
        (436, 3, 99, 0): allow, (436, 3, 99, 2): refuse, (435,): 0x00050026, (157, 4): refuse, (157, 15): allow,
        (302, 0): allow, (302, 1234): refuse, (203, 0): allow, (203, 99): refuse, (234, os.getpid()): allow,
        (234, 1): refuse, (72, 3, 2): allow, (72, 3, 8): refuse, (72, 3, 10): refuse, (72, 3, 15): refuse,
        (0x40000000,): refuse, (231,): allow,
    }  # fmt: skip
    assert {call: _filter_answer(code, x86, *call) for call in expected} == expected
    assert _filter_answer(code, 0x40000003, 0) == 0x80000000  # 32-bit calls kill
    free = seccomp.program(signals=False, truncation=False)
    assert _filter_answer(free, x86, 62) == _filter_answer(free, x86, 76) == allow


@linux
def test_rule_sets_are_kept_for_a_folder_not_for_a_path(tmp_path):
    if landlock.abi() == 0:
        pytest.skip("no Landlock")
    (tmp_path / "work").mkdir()
    (tmp_path / "data").mkdir()
    rules = landlock.Rulesets([], [], str(tmp_path / "work"))
    first = rules.get([str(tmp_path / "data")])
    assert rules.get([str(tmp_path / "data")]) == first
    os.rename(tmp_path / "data", tmp_path / "old")
    (tmp_path / "data").mkdir()
    second = rules.get([str(tmp_path / "data")])
    assert second != first
    for descriptor in (first, second):
        os.close(descriptor)


@linux
def test_deleted_but_open_files_count_as_disk():
    import tempfile

    me = [p for p in limits_os.processes() if p.pid == os.getpid()]
    before = limits_os.deleted_bytes(me)
    with tempfile.TemporaryFile() as handle:
        handle.write(b"x" * (1 << 20))
        handle.flush()
        assert limits_os.deleted_bytes(me) - before >= 1 << 20


def test_the_environment_of_a_run_is_an_allow_list(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("MY_PASSWORD", "secret")
    environment = jail.clean_environment("/home")
    assert "secret" not in environment.values()
    assert environment["PYTHONHASHSEED"] == "0" and environment["OMP_NUM_THREADS"] == "1"


# ---- the probe -----------------------------------------------------------------------------------


@isolated
def test_the_probe_chooses_the_best_tier_that_works_and_says_so():
    report = probe.probe()
    assert report.chosen == report.available[0] == probe.choose().name
    assert not TIERS[report.chosen].unsafe
    assert any(line == f"in use: {report.chosen}" for line in report.lines)
    assert set(report.available) | set(report.failed) == set(BEST_FIRST)


@linux
def test_the_probe_sees_that_a_tier_without_isolation_isolates_nothing():
    why_not = probe._try(TIERS["T1"])
    for attack in ("read a file outside", "write a file outside", "open a socket", "signal the parent"):
        assert attack in why_not


def test_unsafe_and_unknown_tiers_are_refused_with_a_cure():
    for tier in ("T0", "T1"):
        with pytest.raises(IsolationError, match="allow_unsafe"):
            probe.choose(tier)
    with pytest.raises(IsolationError, match="unknown"):
        probe.choose("T9")
    assert probe.choose("T0", allow_unsafe=True).name == "T0"


def test_without_any_tier_the_error_says_what_to_do(monkeypatch):
    monkeypatch.setattr(probe, "_chosen", lambda: None)
    monkeypatch.setattr(probe, "_verdict", lambda name: "needs Linux, this is Darwin")
    with pytest.raises(IsolationError, match="Darwin") as caught:
        probe.choose("auto")
    assert "WSL2" in caught.value.cure
    lines = probe._lines(None, (), dict.fromkeys(probe.BEST_FIRST, "needs Linux"))
    assert any("refused here" in line for line in lines)


def test_removing_needs_no_rights_on_the_file_itself(tmp_path):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "x").write_text("")
    os.chmod(tmp_path / "work" / "x", 0)
    os.chmod(tmp_path / "work", stat.S_IRUSR)
    run_folder.remove(str(tmp_path / "work"))
    assert not (tmp_path / "work").exists()
