"""Files and stages: nothing half-written, nothing overwritten, nothing damaged is ever used."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlagent_lib.core import files
from mlagent_lib.core.artifacts import (
    NOTEBOOKS,
    Stage,
    notebook_of,
    read_manifest,
    stage_is_valid,
    stage_problem,
)
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import (
    FolderLock,
    append_jsonl,
    check_free_space,
    read_jsonl,
    sha256_bytes,
    sha256_file,
    write_bytes,
    write_json,
    write_text,
)
from mlagent_lib.core.provenance import device_name
from mlagent_lib.tasks.pocket.suite import ensure_suite

PARAMS = {"profile": "smoke", "seed": 3, "runs_dir": "somewhere", "run_id": "x"}


def finish(run_dir, name="02_sft", params=PARAMS, **contents):
    """Make one finished stage with a text file per keyword."""
    with Stage(run_dir, name, params=params) as stage:
        for key, text in contents.items():
            stage.write_text(f"{key}.txt", text)
    return run_dir / name


# Files


def test_hashes_agree_with_a_known_value(tmp_path):
    path = write_text(tmp_path / "a.txt", "abc")
    assert sha256_file(path) == sha256_bytes(b"abc")
    assert sha256_bytes(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_write_replaces_whole_and_leaves_no_temporary_file(tmp_path):
    write_bytes(tmp_path / "deep" / "a", b"one")
    write_bytes(tmp_path / "deep" / "a", b"two")
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["a"]
    assert (tmp_path / "deep" / "a").read_bytes() == b"two"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_json_refuses_what_json_cannot_carry(tmp_path, value):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", value)
    with pytest.raises(ValueError):
        append_jsonl(tmp_path / "a.jsonl", {"x": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_full_disk_keeps_the_old_file_and_says_what_to_do(tmp_path, monkeypatch, code):
    path = write_text(tmp_path / "a", "old")

    def full(_descriptor):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(RunError, match="cannot write .*What to do: .*space"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_append_puts_the_file_back_after_a_short_write(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    append_jsonl(path, {"n": 1})
    before = path.read_bytes()
    real, calls = os.write, []

    def short(descriptor, data):
        calls.append(data)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data[:5])

    monkeypatch.setattr(files.os, "write", short)
    with pytest.raises(RunError, match="No space left"):
        append_jsonl(path, {"n": 2})
    monkeypatch.undo()
    assert len(calls) == 2 and path.read_bytes() == before
    append_jsonl(path, {"n": 2})
    assert read_jsonl(path) == ([{"n": 1}, {"n": 2}], 0)


@given(st.integers(0, 200), st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=4))
def test_a_torn_tail_costs_at_most_one_row(cut, rows):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.jsonl"
        for row in rows:
            append_jsonl(path, row)
        content = path.read_bytes() if rows else b""
        path.write_bytes(content[: max(0, len(content) - cut)])
        left, _ = read_jsonl(path)
        append_jsonl(path, {"new": True})
        after, bad = read_jsonl(path)
        assert after == [*left, {"new": True}]
        assert left == rows[: len(left)]
        assert bad <= 1


def test_bad_lines_are_counted_not_raised(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a": 1}\nnot json\n\n3\n{"b": NaN}\n\xff\xfe\n{"c": 2}')
    assert read_jsonl(path) == ([{"a": 1}, {"c": 2}], 4)


def test_missing_jsonl_is_an_error_unless_allowed(tmp_path):
    with pytest.raises(RunError, match="is missing"):
        read_jsonl(tmp_path / "none.jsonl")
    assert read_jsonl(tmp_path / "none.jsonl", missing_ok=True) == ([], 0)


def _append_many(path, worker):
    for number in range(50):
        append_jsonl(path, {"worker": worker, "number": number, "filler": "x" * 500})


def test_four_processes_may_append_to_one_file(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append_many, args=(tmp_path / "a.jsonl", n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    rows, bad = read_jsonl(tmp_path / "a.jsonl")
    assert (len(rows), bad) == (200, 0)
    assert [row["number"] for row in rows if row["worker"] == 2] == list(range(50))


def test_too_little_space_is_said_at_the_start(tmp_path):
    assert check_free_space(tmp_path / "not" / "yet", 1) > 0
    with pytest.raises(RunError, match="MiB are needed"):
        check_free_space(tmp_path, 1 << 60)


# Stages


def test_manifest_records_what_a_reader_wants_to_know(tmp_path):
    finish(tmp_path, "01_collection", text="hello")
    with Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        stage.read("01_collection/text.txt")
        append_jsonl(stage.path("rows.jsonl"), {"a": 1})
        append_jsonl(stage.path("rows.jsonl"), {"a": 2})
        stage.write_text("table.csv", "a,b\n1,2\n")
        stage.write_json("deep/numbers.json", {"x": 1})
        stage.summary["accuracy"] = 0.5
        assert read_manifest(stage.dir) is None
    manifest = read_manifest(tmp_path / "02_sft")
    assert manifest["stage"] == "02_sft" and manifest["seed"] == 3 and manifest["device"] == device_name()
    assert manifest["params"] == {"profile": "smoke", "seed": 3}
    assert manifest["inputs"]["01_collection/text.txt"]["sha256"] == sha256_bytes(b"hello")
    assert sorted(manifest["outputs"]) == ["deep/numbers.json", "rows.jsonl", "table.csv"]
    assert manifest["outputs"]["rows.jsonl"]["rows"] == 2 and manifest["outputs"]["table.csv"]["rows"] == 1
    assert manifest["summary"] == {"accuracy": 0.5} and manifest["attempts"] == 1
    assert manifest["wall_s"] >= 0 and manifest["peak_memory_bytes"] > 1 << 20
    assert "numpy" in manifest["versions"] and manifest["package"]
    assert str(tmp_path) not in json.dumps(manifest)


def test_profile_dataclass_goes_into_the_manifest(tmp_path):
    from mlagent_lib.core.profiles import get_profile

    with Stage(tmp_path, "02_sft", params=PARAMS, profile=get_profile("smoke")):
        pass
    assert read_manifest(tmp_path / "02_sft")["profile"]["name"] == "smoke"


def test_missing_input_names_the_notebook_that_makes_it(tmp_path):
    with (
        pytest.raises(RunError, match=r"is missing, and 02_sft needs it.*01_collection\.ipynb"),
        Stage(tmp_path, "02_sft", params=PARAMS) as stage,
    ):
        stage.read("01_collection/trajectories.jsonl")


def test_input_of_an_unfinished_or_damaged_stage_is_refused(tmp_path):
    write_text(tmp_path / "01_collection" / "text.txt", "half")
    with pytest.raises(RunError, match="unfinished"), Stage(tmp_path, "02_sft") as stage:
        stage.read("01_collection/text.txt")
    (tmp_path / "01_collection" / "text.txt").unlink()
    finish(tmp_path, "01_collection", text="whole")
    write_text(tmp_path / "01_collection" / "text.txt", "other")
    with pytest.raises(RunError, match="damaged"), Stage(tmp_path, "02_sft") as stage:
        stage.read("01_collection/text.txt")


@pytest.mark.parametrize("name", ["../escape.txt", "/etc/escape", "manifest.json", "a/../../b", "."])
def test_outputs_stay_inside_the_stage(tmp_path, name):
    with pytest.raises(ValueError), Stage(tmp_path, "02_sft") as stage:
        stage.path(name)


def test_a_finished_stage_is_not_overwritten(tmp_path):
    folder = finish(tmp_path, text="one")
    assert Stage(tmp_path, "02_sft", params=PARAMS).done
    with pytest.raises(RunError, match="overwrite=True"), Stage(tmp_path, "02_sft", params=PARAMS):
        pass
    assert (folder / "text.txt").read_text() == "one" and stage_is_valid(folder)
    with Stage(tmp_path, "02_sft", params=PARAMS, overwrite=True) as stage:
        stage.write_text("text.txt", "two")
    assert (folder / "text.txt").read_text() == "two"
    assert (tmp_path / "02_sft.old-1" / "text.txt").read_text() == "one"


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda d: write_text(d / "text.txt", "changed"), "output text.txt has changed"),
        (lambda d: (d / "text.txt").unlink(), "output text.txt is missing"),
        (lambda d: (d / "manifest.json").write_text('{"schema":'), "damaged manifest"),
        (lambda d: (d / "manifest.json").write_text('{"schema": "mlagent.manifest/1"}'), "damaged manifest"),
        (lambda d: (d / "manifest.json").unlink(), "not finished"),
        (lambda d: write_text(d.parent / "01_collection" / "in.txt", "x"), "input 01_collection/in.txt has"),
    ],
)
def test_damage_is_found_and_the_stage_made_again(tmp_path, harm, problem):
    finish(tmp_path, "01_collection", **{"in": "in"})
    with Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        stage.read("01_collection/in.txt")
        stage.write_text("text.txt", "one")
    folder = tmp_path / "02_sft"
    assert stage_problem(folder, PARAMS) is None
    harm(folder)
    assert problem in stage_problem(folder, PARAMS)
    assert not Stage(tmp_path, "02_sft", params=PARAMS).done
    with Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        assert not (folder / "text.txt").exists()  # the damaged file is aside, not in the way
        stage.write_text("text.txt", "again")
    assert stage_is_valid(folder)


def test_other_parameters_make_the_stage_again_but_another_place_does_not(tmp_path):
    folder = finish(tmp_path, text="one")
    assert "seed" in stage_problem(folder, {**PARAMS, "seed": 4})
    assert stage_is_valid(folder, {**PARAMS, "runs_dir": "elsewhere"})
    with Stage(tmp_path, "02_sft", params={**PARAMS, "seed": 4}) as stage:
        stage.write_text("text.txt", "four")
    assert (tmp_path / "02_sft.old-1" / "text.txt").read_text() == "one"


def test_after_a_failure_there_is_no_manifest_and_the_next_attempt_goes_on(tmp_path):
    with pytest.raises(ZeroDivisionError), Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        append_jsonl(stage.path("rows.jsonl"), {"n": 1})
        raise ZeroDivisionError
    assert stage_problem(tmp_path / "02_sft") == "not finished"
    with Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        assert stage.resumed
        assert read_jsonl(stage.path("rows.jsonl")) == ([{"n": 1}], 0)
    assert read_manifest(tmp_path / "02_sft")["attempts"] == 2


def test_half_done_work_of_other_parameters_or_inputs_is_not_mixed_in(tmp_path):
    finish(tmp_path, "01_collection", text="one")
    with pytest.raises(ZeroDivisionError), Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        stage.read("01_collection/text.txt")
        append_jsonl(stage.path("rows.jsonl"), {"n": 1})
        raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), Stage(tmp_path, "02_sft", params={"seed": 9}) as stage:
        assert not stage.resumed and not stage.path("rows.jsonl").exists()
        stage.read("01_collection/text.txt")
        raise ZeroDivisionError
    with Stage(tmp_path, "01_collection", params=PARAMS, overwrite=True) as stage:
        stage.write_text("text.txt", "two")
    with Stage(tmp_path, "02_sft", params={"seed": 9}) as stage:
        assert not stage.resumed
    assert (tmp_path / "02_sft.old-1" / "rows.jsonl").exists()


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (OSError("20000 requested and 14320 written"), True),  # what numpy raises
        (RuntimeError("write failed"), True),
    ],
)
def test_full_disk_inside_a_library_is_explained(tmp_path, monkeypatch, error, is_full):
    monkeypatch.setattr(Stage, "_disk_is_full", lambda self: is_full)
    with pytest.raises(RunError, match="No space left.*free some disk space"), Stage(tmp_path, "02_sft"):
        raise error
    assert not stage_is_valid(tmp_path / "02_sft")


@pytest.mark.parametrize("error", [RuntimeError("mine"), OSError(errno.ENOENT, "mine"), OSError("mine")])
def test_other_errors_pass_unchanged(tmp_path, error):
    with pytest.raises(type(error), match="mine") as caught, Stage(tmp_path, "02_sft"):
        raise error
    assert caught.value is error


def test_two_processes_cannot_work_on_one_stage(tmp_path):
    holder = Stage(tmp_path, "02_sft")
    second = Stage(tmp_path, "02_sft")
    second._lock.wait_s = 0.2
    with holder, pytest.raises(RunError, match=f"in use by another process .id {os.getpid()}"), second:
        pass
    with FolderLock(tmp_path / "free"), FolderLock(tmp_path / "other"):
        pass


KILLED = """
import sys
from mlagent_lib.core.artifacts import Stage
from mlagent_lib.core.files import append_jsonl
with Stage(sys.argv[1], "02_sft", params={"seed": 0}) as stage:
    for number in range(10**6):
        append_jsonl(stage.path("rows.jsonl"), {"number": number})
        if number == 3: print("ready", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOLCK, "No locks available"),
        (errno.EOPNOTSUPP, "Operation not supported"),
        (errno.ENOSYS, "Function not implemented"),
    ],
)
def test_a_file_system_without_locks_is_one_line_with_the_cure(tmp_path, monkeypatch, number, said):
    def refuse(descriptor, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    before = os.listdir("/proc/self/fd")
    for attempt in (
        lambda: FolderLock(tmp_path / "run", wait_s=5.0).__enter__(),
        lambda: append_jsonl(tmp_path / "run" / "rows.jsonl", {"n": 1}),
        lambda: Stage(tmp_path, "02_sft", params=PARAMS).__enter__(),
        lambda: ensure_suite(tmp_path / "home"),
    ):
        with pytest.raises(RunError, match=f"has no locks: {said}") as caught:
            attempt()
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
        assert "--runs-dir" in caught.value.cure and "MLAGENT_HOME" in caught.value.cure
    assert (tmp_path / "run" / "rows.jsonl").read_bytes() == b""
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_lock_that_another_holds_is_no_missing_lock(tmp_path):
    with FolderLock(tmp_path), pytest.raises(RunError, match=f"in use by another process .id {os.getpid()}"):
        FolderLock(tmp_path).__enter__()


def test_kill_9_leaves_rows_to_go_on_from_and_no_lock(tmp_path, repository):
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
    with Stage(tmp_path, "02_sft", params={"seed": 0}) as stage:
        rows, bad = read_jsonl(stage.path("rows.jsonl"))
        assert stage.resumed and bad <= 1
        assert [row["number"] for row in rows] == list(range(len(rows))) and len(rows) >= 4
    assert stage_is_valid(tmp_path / "02_sft")


def test_each_stage_has_one_notebook():
    stages = [stage for _, names in NOTEBOOKS for stage in names]
    assert len(stages) == len(set(stages))
    assert notebook_of("02_sft") == "02_sft.ipynb" and notebook_of("nothing") is None
