"""The pipeline, on notebooks made on the spot: order, resumption, checked names, clear failures."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, writes

from mlagent_lib.core.artifacts import read_manifest, stage_is_valid
from mlagent_lib.core.errors import ProfileError, RunError
from mlagent_lib.core.files import FolderLock, read_jsonl
from mlagent_lib.run.notebooks import (
    NOTEBOOKS,
    NotebookFailed,
    declared_parameters,
    notebooks_folder,
    parse_value,
    run_all,
)

PARAMETERS = """\
profile: str = "laptop"  # which profile
seed: int = 0
runs_dir: str = "runs"
run_id: str = "dev"
"""
FIRST = """\
from mlagent_lib.core.artifacts import Stage
params = {"profile": profile, "seed": seed, "factor": factor}
stage = Stage(f"{runs_dir}/{run_id}", "01_collection", params=params)
if not stage.done:
    with stage:
        stage.write_json("numbers.json", [seed * factor, seed + 1])
"""
SECOND = """\
import json, os, time
from mlagent_lib.core.artifacts import Stage
from mlagent_lib.core.files import append_jsonl, read_jsonl
stage = Stage(f"{runs_dir}/{run_id}", "02_sft", params={"profile": profile, "seed": seed})
if not stage.done:
    with stage:
        numbers = json.loads(stage.read("01_collection/numbers.json").read_text())
        done, _ = read_jsonl(stage.path("rows.jsonl"), missing_ok=True)
        for step in range(len(done), 4):
            append_jsonl(stage.path("rows.jsonl"), {"step": step, "value": numbers[0] * step})
            time.sleep(float(os.environ.get("TEST_PAUSE", "0")))
"""
STORY = (("a_collect.ipynb", ("01_collection",)), ("b_train.ipynb", ("02_sft",)))


def write_notebook(path, *cells, parameters=PARAMETERS):
    """Write a notebook with a parameters cell and these code cells."""
    tagged = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    path.parent.mkdir(parents=True, exist_ok=True)
    notebook = new_notebook(cells=[new_markdown_cell("# A notebook"), tagged, *map(new_code_cell, cells)])
    path.write_text(writes(notebook))


@pytest.fixture
def story(tmp_path):
    """Return a function that runs the two notebooks and gives run folder and spoken lines."""
    folder = tmp_path / "notebooks"
    write_notebook(folder / "a_collect.ipynb", FIRST, parameters=PARAMETERS + "factor: int = 10\n")
    write_notebook(folder / "b_train.ipynb", SECOND, "print('the end')")

    def run(profile="smoke", seed=3, **options):
        lines, reports = [], []
        options = {"notebooks_dir": folder, "notebooks": STORY, "say": lines.append} | options
        run_dir = run_all(profile, seed, tmp_path / "runs", write_report=reports.append, **options)
        assert reports == [run_dir]
        return run_dir, lines

    run.folder, run.runs = folder, tmp_path / "runs"
    return run


def outputs(run_dir):
    """Return what the run computed: file contents without manifests and executed notebooks."""
    names = ("01_collection/numbers.json", "02_sft/rows.jsonl")
    return {name: (run_dir / name).read_bytes() for name in names}


def test_a_run_executes_the_notebooks_and_a_second_keeps_them(story):
    run_dir, lines = story()
    assert run_dir.name == "smoke-seed3"
    assert [line.split(": ")[1].split(" ")[0] for line in lines[:-1]] == ["running", "done"] * 2
    assert "of 3:00 min" in lines[0] and "report.html" in lines[-1]
    assert outputs(run_dir)["01_collection/numbers.json"].split() == [b"[", b"30,", b"4", b"]"]
    assert json.loads((run_dir / "run.json").read_text())["seed"] == 3
    assert read_manifest(run_dir / "02_sft")["inputs"].keys() == {"01_collection/numbers.json"}
    before = (run_dir / "notebooks" / "b_train.ipynb").read_bytes()
    again, lines = story()
    assert again == run_dir and lines[0] == "[1/2] a_collect.ipynb: already made, kept"
    assert (run_dir / "notebooks" / "b_train.ipynb").read_bytes() == before
    rows, _ = read_jsonl(run_dir / "pipeline.jsonl")
    assert [row["status"] for row in rows] == ["executed", "executed", "kept", "kept"]


def test_the_kernel_is_this_interpreter_with_the_threads_of_the_profile(story, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("PATH", "/nonexistent")
    write_notebook(
        story.folder / "a_collect.ipynb",
        FIRST + "import sys\nassert sys.executable == " + repr(sys.executable),
        "import os\nassert 1 <= int(os.environ['OMP_NUM_THREADS']) <= 2",
        parameters=PARAMETERS + "factor: int = 10\n",
    )
    story()


def test_a_damaged_output_is_made_again_and_so_is_what_depends_on_it(story):
    run_dir, _ = story()
    good = outputs(run_dir)
    (run_dir / "01_collection" / "numbers.json").write_text("[31, 4]")
    _, lines = story()
    assert outputs(run_dir) == good
    assert "running" in lines[0]
    assert (run_dir / "01_collection.old-1" / "numbers.json").read_text() == "[31, 4]"
    (run_dir / "02_sft" / "rows.jsonl").unlink()
    _, lines = story()
    assert outputs(run_dir) == good and "kept" in lines[0] and "running" in lines[1]


def test_a_notebook_without_its_executed_copy_is_executed_again_on_the_kept_stage(story):
    run_dir, _ = story()
    (run_dir / "notebooks" / "b_train.ipynb").unlink()
    stamp = (run_dir / "02_sft" / "manifest.json").stat().st_mtime_ns
    story()
    assert (run_dir / "notebooks" / "b_train.ipynb").exists()
    assert (run_dir / "02_sft" / "manifest.json").stat().st_mtime_ns == stamp


def test_parameters_reach_the_notebook_that_declares_them(story):
    run_dir, _ = story(parameters={"factor": 7})
    assert json.loads(outputs(run_dir)["01_collection/numbers.json"]) == [21, 4]
    with pytest.raises(RunError, match="made with parameters .*--run-id"):
        story(parameters={"factor": 8})
    assert json.loads(outputs(run_dir)["01_collection/numbers.json"]) == [21, 4]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"facto": 7}, "no notebook has a parameter 'facto': the closest is 'factor'"),
        ({"nonsense": 7}, "no notebook has a parameter 'nonsense'"),
        ({"factor": "7x"}, "is '7x', a str.*give a whole number such as 10"),
        ({"factor": True}, "is True, a bool"),
        ({"seed": 4}, "use the options"),
    ],
)
def test_a_wrong_parameter_is_refused_before_anything_runs(story, parameters, message):
    with pytest.raises(ProfileError, match=message):
        story(parameters=parameters)
    assert not story.runs.exists()


@pytest.mark.parametrize("run_id", ["", "..", "a/b", ".hidden", "x" * 101, "a b"])
def test_a_run_id_must_be_a_folder_name(story, run_id):
    with pytest.raises(ProfileError, match="cannot be the name of a folder"):
        story(run_id=run_id)


def test_numbers_of_numpy_and_a_home_folder_are_the_plain_ones(story, tmp_path, monkeypatch):
    run_dir, _ = story(seed=np.int64(3), run_id="007", parameters={"factor": np.int32(7)})
    assert run_dir.name == "007" and json.loads((run_dir / "run.json").read_text())["seed"] == 3
    assert json.loads(outputs(run_dir)["01_collection/numbers.json"]) == [21, 4]
    _, lines = story(seed=3, run_id="007", parameters={"factor": 7})
    assert all("kept" in line for line in lines[:-1])  # the same run
    for wrong in ({"run_id": 7}, {"seed": 3.0}, {"profile": None}, {"parameters": {"factor": None}}):
        with pytest.raises(
            ProfileError, match="^(run_id is 7|seed is 3.0|profile is None|factor is None), a"
        ):
            story(**wrong)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    done = run_all(
        "smoke", 3, "~/runs", notebooks_dir=story.folder, notebooks=STORY[:1], write_report=print, say=str
    )
    assert done == tmp_path / "home" / "runs" / "smoke-seed3" and not (tmp_path / "~").exists()
    assert (done / "01_collection" / "numbers.json").is_file()


def test_an_unknown_profile_is_refused(story):
    with pytest.raises(ProfileError, match="closest is 'smoke'"):
        story(profile="smok")


def test_a_failing_cell_is_named_with_its_cure_and_the_run_goes_on_after_the_repair(story, monkeypatch):
    broken = "from mlagent_lib.core.errors import TaskError\nraise TaskError('no such task', cure='wait')"
    write_notebook(story.folder / "b_train.ipynb", SECOND, broken)
    with pytest.raises(NotebookFailed) as caught:
        story()
    text = str(caught.value)
    assert "b_train.ipynb failed in cell" in text and "TaskError: no such task. What to do: wait" in text
    assert str(story.runs / "smoke-seed3" / "notebooks" / "b_train.ipynb") in text
    assert text.count("What to do") == 1
    executed = json.loads((story.runs / "smoke-seed3" / "notebooks" / "b_train.ipynb").read_text())
    assert executed["metadata"]["papermill"]["exception"] is True
    write_notebook(story.folder / "b_train.ipynb", SECOND, "print('repaired')")
    run_dir, lines = story()
    assert "kept" in lines[0] and "running" in lines[1] and stage_is_valid(run_dir / "02_sft")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("raise SystemExit(0)", "stopped before its last cell"),
        ("print('wrote nothing')", "its stage 02_sft is not usable: not finished"),
        ("import os; os.kill(os.getpid(), 9)", "kernel of b_train.ipynb died"),
    ],
)
def test_other_ways_to_fail_are_failures_too(story, cell, message):
    write_notebook(story.folder / "b_train.ipynb", cell, "1 + 1")
    with pytest.raises(NotebookFailed, match=message):
        story()
    rows, _ = read_jsonl(story.runs / "smoke-seed3" / "pipeline.jsonl")
    assert [row["status"] for row in rows] == ["executed", "failed"]


def test_a_kernel_that_dies_while_it_starts_is_said_in_one_line(story, monkeypatch):
    import papermill

    def dies(*_, **__):
        raise RuntimeError("Kernel died before replying to kernel_info")

    monkeypatch.setattr(papermill, "execute_notebook", dies)
    with pytest.raises(NotebookFailed, match="kernel of a_collect.ipynb did not start: Kernel died before"):
        story()


def test_an_error_of_papermill_that_is_no_kernels_passes_unchanged(story, monkeypatch):
    import papermill

    def fails(*_, **__):
        raise RuntimeError("something of ours")

    monkeypatch.setattr(papermill, "execute_notebook", fails)
    with pytest.raises(RuntimeError, match="something of ours"):
        story()


def test_two_runs_into_one_folder(story):
    with FolderLock(story.runs / "smoke-seed3"), pytest.raises(RunError, match="in use by another process"):
        story()


COMMAND = """
import signal
import sys
from mlagent_lib.run.notebooks import run_all
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits it as ignored
run_all("smoke", 3, sys.argv[1], notebooks_dir=sys.argv[2],
        notebooks=(("a_collect.ipynb", ("01_collection",)), ("b_train.ipynb", ("02_sft",))),
        write_report=lambda run_dir: None)
"""


@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_run_goes_on_and_ends_like_an_undisturbed_one(story, repository, kind):
    expected = outputs(story(run_id="undisturbed")[0])
    environment = {**os.environ, "PYTHONPATH": str(repository), "TEST_PAUSE": "0.5"}
    rows = story.runs / "smoke-seed3" / "02_sft" / "rows.jsonl"
    command = [sys.executable, "-c", COMMAND, str(story.runs), str(story.folder)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not rows.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(kind)
        assert process.wait(timeout=30) != 0
    assert not stage_is_valid(story.runs / "smoke-seed3" / "02_sft")
    run_dir, lines = story()
    assert "kept" in lines[0] and "running" in lines[1]
    assert outputs(run_dir) == expected
    assert read_manifest(run_dir / "02_sft")["attempts"] == 2


def test_declared_parameters_are_read_without_running(tmp_path):
    path = tmp_path / "n.ipynb"
    write_notebook(path, parameters='a: int = 5  # help\nb = "x=y"\nc = {"k": None}\nd = -1e-4\nprint(1)\n')
    assert declared_parameters(path) == {"a": 5, "b": "x=y", "c": {"k": None}, "d": -1e-4}


def test_notebooks_with_untrustworthy_parameters_are_refused(tmp_path):
    path = tmp_path / "n.ipynb"
    write_notebook(path, parameters="size = 8\nbatch = size * 8\n")
    with pytest.raises(ProfileError, match="'batch' of n.ipynb is not a literal"):
        declared_parameters(path)
    path.write_text(writes(new_notebook(cells=[new_code_cell("a = 1")])))
    with pytest.raises(ProfileError, match="0 cells tagged"):
        declared_parameters(path)
    path.write_text("{")
    with pytest.raises(RunError, match="is not JSON"):
        declared_parameters(path)
    with pytest.raises(RunError, match="is missing"):
        declared_parameters(tmp_path / "none.ipynb")


def test_a_notebook_must_declare_the_common_parameters(story):
    write_notebook(story.folder / "b_train.ipynb", parameters='profile = "x"\nruns_dir = ""\nrun_id = ""\n')
    with pytest.raises(ProfileError, match="b_train.ipynb does not declare the parameter 'seed'"):
        story()


def test_values_of_the_command_line():
    assert [parse_value(t) for t in ("0012", "True", "[1]", "a=b", "")] == ["0012", True, [1], "a=b", ""]


def test_the_notebooks_of_the_kit_are_beside_the_package():
    folder = notebooks_folder()
    present = [name for name, _ in NOTEBOOKS if (folder / name).exists()]
    if not present:
        pytest.skip("the notebooks are not written yet")
    assert present == [name for name, _ in NOTEBOOKS]
    for name in present:
        assert {"profile", "seed", "runs_dir", "run_id"} <= declared_parameters(folder / name).keys()
