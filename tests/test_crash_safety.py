"""Whatever is killed, full, torn, damaged or removed: nothing finished is lost, nothing wrong is used."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from soak.kill_chain import find, kill, processes, wait_until
from test_pipeline import FIRST, PARAMETERS, SECOND, STORY, outputs, write_notebook
from tiny_task import NAME, FakeRunner, make_tools, neighbours, write_task

from mlagent_lib.agents.export import read_trajectories
from mlagent_lib.core import artifacts, files
from mlagent_lib.core.artifacts import Stage, damaged_file, hashes_below, read_manifest, stage_is_valid
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import FolderLock, append_jsonl, read_jsonl, sweep, write_text
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.environment.cache import Execution, ExecutionCache
from mlagent_lib.environment.step import run_step, start_state
from mlagent_lib.environment.workspace import WorkspaceStore
from mlagent_lib.run import notebooks as pipeline
from mlagent_lib.run import stages
from mlagent_lib.run.lab import Lab
from mlagent_lib.run.notebooks import NotebookFailed, run_all

PARAMS = {"profile": "smoke", "seed": 3}
EXECUTION = Execution("ok", "x" * 5000, 0.5, "T2", None, None, 0.9, None, None)
FULL = "(?s)(No space left|free).*What to do: free some disk space"

# A full disk


@pytest.fixture
def small_disk(tmp_path):
    """Return a folder on a disk of its own, and a function that sets the size of that disk in KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*words) -> bool:
        return subprocess.run(["mount", *words, str(folder)], capture_output=True).returncode == 0

    if not shutil.which("mount") or not mount("-t", "tmpfs", "-o", "size=400m", "tmpfs"):
        pytest.skip("this test needs to mount a small disk, which only root may")

    def resize(kib: int | None) -> None:
        """Leave so many KiB free; None for plenty."""
        used = shutil.disk_usage(folder).used >> 10
        assert mount("-o", f"remount,size={400 << 10 if kib is None else used + kib}k")

    try:
        yield folder, resize
    finally:
        subprocess.run(["umount", str(folder)], check=True, capture_output=True)


def fill(folder) -> None:
    """Take the last byte that is free."""
    with open(folder / "ballast", "ab", buffering=0) as handle:
        for size in (1 << 20, 1 << 12, 1):
            while True:
                try:
                    handle.write(b"x" * size)
                except OSError as error:
                    assert error.errno == errno.ENOSPC
                    break


WRITES = {
    "a text": lambda folder: write_text(folder / "new" / "a.txt", "x" * 9000),
    "a row": lambda folder: append_jsonl(folder / "rows.jsonl", {"n": "x" * 9000}),
    "an execution": lambda folder: ExecutionCache(folder / "cache").put("ab12", EXECUTION),
    "a blob": lambda folder: WorkspaceStore(folder / "blobs").put(b"x" * 9000),
    "the record of a run": lambda folder: pipeline._claim(folder, PARAMS),
    "a stage that begins": lambda folder: (
        Stage(folder, "02_sft", params=PARAMS).__enter__().__exit__(*3 * (None,))
    ),
    "a run that begins": lambda folder: run_all("smoke", 0, folder),
}


@pytest.mark.parametrize("kind", WRITES)
def test_on_a_full_disk_each_kind_of_write_ends_with_one_message_and_its_cure(small_disk, monkeypatch, kind):
    folder, resize = small_disk
    resize(64)
    append_jsonl(folder / "rows.jsonl", {"n": 1})
    fill(folder)
    if kind != "a run that begins":  # which says it before it writes at all
        monkeypatch.setattr(artifacts, "check_free_space", lambda folder: None)
    with pytest.raises(RunError, match=FULL) as caught:
        WRITES[kind](folder)
    assert str(caught.value).count("What to do") == 1
    assert not list(folder.rglob(".tmp-*")) and read_jsonl(folder / "rows.jsonl") == ([{"n": 1}], 0)
    resize(None)
    if kind != "a run that begins":
        WRITES[kind](folder)


def test_a_lock_holds_on_a_full_disk(small_disk):
    folder, resize = small_disk
    resize(64)
    fill(folder)
    with FolderLock(folder), pytest.raises(RunError, match="in use by another process"), FolderLock(folder):
        pass


def test_a_stage_whose_disk_fills_up_keeps_its_rows_and_goes_on(small_disk):
    folder, resize = small_disk
    text = "x" * 3000
    with pytest.raises(RunError, match=FULL), Stage(folder, "02_sft", params=PARAMS) as stage:
        resize(32)
        for number in range(100):
            append_jsonl(stage.path("rows.jsonl"), {"n": number, "text": text})
    kept, bad = read_jsonl(folder / "02_sft" / "rows.jsonl")
    assert 2 <= len(kept) < 100 and bad == 0 and not stage_is_valid(folder / "02_sft")
    resize(None)
    with Stage(folder, "02_sft", params=PARAMS) as stage:
        assert stage.resumed and read_jsonl(stage.path("rows.jsonl")) == (kept, 0)
    assert stage_is_valid(folder / "02_sft")


def test_a_stage_that_cannot_write_its_manifest_is_not_finished(small_disk):
    folder, resize = small_disk
    with pytest.raises(RunError, match=FULL), Stage(folder, "02_sft", params=PARAMS) as stage:
        append_jsonl(stage.path("rows.jsonl"), {"n": 1})
        resize(4)
        fill(folder)
    assert read_manifest(folder / "02_sft") is None
    resize(None)
    with Stage(folder, "02_sft", params=PARAMS) as stage:
        assert stage.resumed


def test_a_limit_on_file_sizes_is_explained_too(tmp_path):
    path = write_text(tmp_path / "a", "old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        for write in (lambda: write_text(path, "x" * 2000), lambda: append_jsonl(path, {"n": "x" * 2000})):
            with pytest.raises(RunError, match="File too large.*raise the limit on file sizes"):
                write()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_text() == "old" and [found.name for found in tmp_path.iterdir()] == ["a"]


# The story of two notebooks

ROWS = 14  # of the second notebook: more than it can write before an orphan notices

LONG = SECOND.replace('"value": numbers[0] * step}', '"value": numbers[0] * step, "text": "x" * 9000}')
LONG = LONG.replace("range(len(done), 4)", f"range(len(done), {ROWS})")
MAIN = """
import functools, signal, sys
from mlagent_lib.run import notebooks as pipeline
from mlagent_lib import cli
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell inherits it as ignored
pipeline.run_all = functools.partial(
    pipeline.run_all, notebooks_dir=sys.argv[1], write_report=lambda run_dir: None,
    notebooks=(("a_collect.ipynb", ("01_collection",)), ("b_train.ipynb", ("02_sft",))),
)
sys.exit(cli.main(["run", "--profile", "smoke", "--seed", "3", "--runs-dir", sys.argv[2]]))
"""


class Story:
    """Two cheap notebooks, run by `mlagent run` in a process of its own or here.

    Attributes:
        runs: Folder of the runs.
        rows: The file that the second notebook appends to, a row at a time.
        mark: What the environment of every process of the story holds.
    """

    def __init__(self, tmp_path, repository):
        self.notebooks, self.runs, self.temporary = (
            tmp_path / "notebooks",
            tmp_path / "runs",
            tmp_path / "tmp",
        )
        write_notebook(
            self.notebooks / "a_collect.ipynb", FIRST, parameters=PARAMETERS + "factor: int = 10\n"
        )
        write_notebook(self.notebooks / "b_train.ipynb", LONG, "print('the end')")
        self.temporary.mkdir()
        self.mark, self.repository = str(self.temporary), repository
        self.run_dir = self.runs / "smoke-seed3"
        self.rows = self.run_dir / "02_sft" / "rows.jsonl"

    def start(self, pause: float = 0.25) -> subprocess.Popen:
        """Start `mlagent run`; ``pause`` is the seconds between two rows of the second notebook."""
        environment = os.environ | {
            "TMPDIR": self.mark, "PYTHONPATH": str(self.repository), "TEST_PAUSE": str(pause)
        }  # fmt: skip
        command = [sys.executable, "-c", MAIN, str(self.notebooks), str(self.runs)]
        return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)

    def here(self, run_id: str | None = None):
        """Run to the end in this process and return the run's folder."""
        return run_all(
            "smoke", 3, self.runs, run_id, notebooks_dir=self.notebooks, notebooks=STORY,
            write_report=lambda run_dir: None, say=lambda line: None,
        )  # fmt: skip

    def wait_for_rows(self, count: int) -> None:
        """Wait until the second notebook has written so many rows."""
        assert wait_until(lambda: self.rows.exists() and len(read_jsonl(self.rows)[0]) >= count, 60)

    def left(self) -> list[str]:
        """Return processes and temporary files that are still there after a while."""
        names = self.alive() + [path.name for path in self.temporary.iterdir()]
        return names + [path.name for path in self.runs.rglob(".tmp-*")]

    def alive(self) -> list[str]:
        """Return processes that are still there after a while."""
        wait_until(lambda: not processes(self.mark), 20)
        return [words for _, words in processes(self.mark).values()]


@pytest.fixture
def story(tmp_path, repository):
    """Return the story, and kill what a failed test has left of it."""
    made = Story(tmp_path, repository)
    yield made
    for pid in processes(made.mark):
        kill(pid, made.mark)


def test_whoever_is_killed_at_whichever_row_the_end_is_that_of_an_undisturbed_run(story):
    expected = outputs(story.here("undisturbed"))
    for target, code in (("parent", -9), ("kernel", 1), ("parent", -9)):
        held = len(read_jsonl(story.rows, missing_ok=True)[0])
        with story.start() as process:
            story.wait_for_rows(held + 1)
            assert kill(find(target, process.pid, story.mark), story.mark)
            _, said = process.communicate(timeout=60)
        assert process.returncode == code and not stage_is_valid(story.run_dir / "02_sft")
        assert said.count("\n") == (code == 1) and ("kernel of b_train.ipynb died" in said) == (code == 1)
        assert story.alive() == []
    assert len(list(story.temporary.iterdir())) == 1  # of the last start, which could not remove it
    with story.start() as process:
        assert process.communicate(timeout=60)[1] == "" and process.returncode == 0
    assert outputs(story.run_dir) == expected
    assert read_manifest(story.run_dir / "02_sft")["attempts"] == 4
    assert story.left() == [] and not (story.run_dir / ".kernel").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_with_one_line_and_leaves_nothing(story, number, code):
    with story.start() as process:
        story.wait_for_rows(1)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.strip() == "mlagent: stopped; start the same command again to go on from here"
    assert story.left() == [] and not (story.run_dir / ".kernel").exists()
    kept = read_jsonl(story.rows)[0]
    story.here()
    assert read_jsonl(story.rows)[0][: len(kept)] == kept and len(read_jsonl(story.rows)[0]) == ROWS


def test_of_two_runs_into_one_folder_the_second_is_refused_and_the_first_unharmed(story):
    expected = outputs(story.here("undisturbed"))
    with story.start() as first:
        story.wait_for_rows(1)
        with story.start() as second:
            _, said = second.communicate(timeout=60)
        assert second.returncode == 2 and said.count("\n") == 1
        assert f"in use by another process (id {first.pid})" in said and "What to do: wait" in said
        assert first.communicate(timeout=60)[1] == "" and first.returncode == 0
    assert outputs(story.run_dir) == expected and read_manifest(story.run_dir / "02_sft")["attempts"] == 1
    assert story.left() == []


def test_a_run_whose_folder_is_removed_says_so_in_one_line(story):
    with story.start() as process:
        story.wait_for_rows(1)
        shutil.rmtree(story.run_dir, ignore_errors=True)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.count("\n") == 1
    assert f"{story.run_dir} was removed or moved while the run went on. What to do: start the same" in said
    assert story.left() == []
    shutil.rmtree(story.run_dir, ignore_errors=True)
    assert stage_is_valid(story.here() / "02_sft")


def test_half_of_a_stage_that_somebody_removed_never_looks_like_a_whole_one(story):
    with story.start() as process:
        story.wait_for_rows(2)
        shutil.rmtree(story.run_dir / "02_sft")
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1 and said.count("What to do") == 1
    assert "02_sft was removed or replaced while 02_sft was being made" in said
    assert not stage_is_valid(story.run_dir / "02_sft")
    assert [row["step"] for row in read_jsonl(story.here() / "02_sft" / "rows.jsonl")[0]] == list(range(ROWS))


def test_a_run_whose_disk_fills_up_in_the_middle_goes_on_when_there_is_space_again(
    story, small_disk, monkeypatch
):
    folder, resize = small_disk
    expected = outputs(story.here("undisturbed"))
    story.runs = folder
    story.rows = folder / "smoke-seed3" / "02_sft" / "rows.jsonl"
    monkeypatch.setenv("TEST_PAUSE", "0.3")

    def shrink() -> None:
        story.wait_for_rows(1)
        resize(8)

    thread = threading.Thread(target=shrink)
    thread.start()
    with pytest.raises(RunError, match=FULL) as caught:
        story.here()
    thread.join()
    assert str(caught.value).count("What to do") == 1
    kept, bad = read_jsonl(story.rows)
    assert 1 <= len(kept) < ROWS and bad == 0
    resize(None)
    run_dir = story.here()
    assert outputs(run_dir) == expected and read_manifest(run_dir / "02_sft")["attempts"] == 2


def test_a_figure_that_finds_no_space_gets_the_cure_of_a_full_disk(story):
    cell = "raise OSError(28, 'No space left on device')"
    write_notebook(story.notebooks / "b_train.ipynb", LONG, cell)
    with pytest.raises(NotebookFailed, match="No space left.*What to do: free some disk space"):
        story.here()


# Torn lines and half-written files


@pytest.fixture
def lab(tmp_path):
    """Return a lab whose expert makes four trajectories of the tiny task."""
    task = write_task(tmp_path / "tasks")
    smoke = get_profile("smoke")
    collect = replace(smoke.collect, tasks=(NAME,), trajectories_per_task=4, max_steps=3)
    profile = replace(smoke, collect=collect)
    return Lab(profile, 0, tmp_path / "run", FakeRunner(), ExecutionCache(tmp_path / "cache"), {NAME: task})


def timeless(value):
    """Return rows without what depends on the clock."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in ("seconds", "cache_hit")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("cut", [1, 2, 500])
def test_a_torn_trajectory_is_counted_and_made_again_and_none_is_doubled(lab, cut):
    with lab.stage("01_collection") as stage:
        stages.collection(lab, stage)
    path = stage.dir / "trajectories.jsonl"
    whole, lines = read_trajectories(path), path.read_bytes().splitlines(keepends=True)
    shutil.rmtree(stage.dir)
    with pytest.raises(ZeroDivisionError), lab.stage("01_collection") as stage:
        path.write_bytes(b"".join(lines[:3])[:-cut])  # what a kill, or a power cut, leaves
        raise ZeroDivisionError
    with lab.stage("01_collection") as stage:
        assert stage.resumed
        stages.collection(lab, stage)
    rows = read_trajectories(path)  # which refuses a file with a torn line
    assert timeless(rows) == timeless(whole) and [row["id"] for row in rows] == [row["id"] for row in whole]
    assert read_manifest(stage.dir)["torn_lines"] == (cut > 1)  # without its line break a row is still whole
    assert read_manifest(stage.dir)["outputs"]["trajectories.jsonl"]["rows"] == 4


def test_torn_metrics_are_counted_once_over_several_attempts(tmp_path):
    for torn in (b'{"step": 2, "los', b"\xff\xfe\n\n3\n"):
        with pytest.raises(ZeroDivisionError), Stage(tmp_path, "03_grpo", params=PARAMS) as stage:
            append_jsonl(stage.path("metrics.jsonl"), {"step": 1})
            with open(stage.path("metrics.jsonl"), "ab") as handle:
                handle.write(torn)
            raise ZeroDivisionError
    with Stage(tmp_path, "03_grpo", params=PARAMS) as stage:
        assert read_jsonl(stage.path("metrics.jsonl")) == ([{"step": 1}, {"step": 1}], 0)
    assert read_manifest(stage.dir)["torn_lines"] == 3


def test_half_written_files_of_the_killed_are_swept_and_young_ones_left_alone(tmp_path):
    with pytest.raises(ZeroDivisionError), Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        write_text(stage.path("deep/.tmp-abc"), "half")
        raise ZeroDivisionError
    assert sweep(tmp_path, older_than_s=60) == 0
    with Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        assert not stage.path("deep/.tmp-abc").exists()
    assert sweep(tmp_path / "none") == 0


@pytest.mark.parametrize("damage", ["", "{", "[]", "{}", '{"params": {}}', "3"])
def test_a_damaged_record_of_a_started_stage_puts_its_files_aside(tmp_path, damage):
    with pytest.raises(ZeroDivisionError), Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        stage.write_text("a.txt", "old")
        raise ZeroDivisionError
    (tmp_path / "02_sft" / "started.json").write_text(damage)
    with Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        assert not stage.resumed and not stage.path("a.txt").exists()
    assert (tmp_path / "02_sft.old-1" / "a.txt").read_text() == "old"


# Damaged items


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: path.write_bytes(path.read_bytes().replace(b"1", b"2", 1)),
    ],
    ids=["lost", "empty", "cut", "changed"],
)
@pytest.mark.parametrize("where", ["executions", "submissions"])
def test_a_damaged_execution_or_submission_is_made_again_and_made_good(tmp_path, where, harm):
    task, runner = write_task(tmp_path / "tasks"), FakeRunner()
    tools = make_tools(tmp_path, runner)
    start = start_state(task, tools)
    first = run_step(start, neighbours(12), tools)
    assert len(runner.requests) == 2 and not first.cache_hit
    for path in (tmp_path / "cache" / where).rglob("*"):
        if path.is_file():
            harm(path)
    tools = make_tools(tmp_path, runner)  # another process: nothing is remembered
    again = run_step(start, neighbours(12), tools)
    assert len(runner.requests) == 3 and not again.cache_hit
    assert (again.score_after, again.state.submission) == (first.score_after, first.state.submission)
    tools.cache.archive[again.state.submission]  # raises for a damaged blob
    assert run_step(start, neighbours(12), make_tools(tmp_path, runner)).cache_hit


HARMS = {
    "nothing": lambda folder: None,
    "weights": lambda folder: (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"weightz"),
    "half": lambda folder: (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"wei"),
    "lost": lambda folder: (folder / "adapter" / "adapter_config.json").unlink(),
    "all": lambda folder: shutil.rmtree(folder / "adapter"),
    "record": lambda folder: (folder / "training.json").write_text('{"steps": 3'),
    "list": lambda folder: (folder / "training.json").write_text("[]"),
    "old record": lambda folder: (folder / "training.json").write_text('{"steps": 3}'),
}


@pytest.mark.parametrize("harm", HARMS)
def test_an_adapter_that_is_not_what_the_training_wrote_is_trained_again(tmp_path, harm):
    with pytest.raises(ZeroDivisionError), Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        stage.write_text("adapter/adapter_model.safetensors", "weights")
        stage.write_json("adapter/adapter_config.json", {"r": 8})
        assert not stages.is_trained(stage)
        stage.write_json("training.json", {"steps": 3, "files": hashes_below(stage.path("adapter"))})
        raise ZeroDivisionError
    HARMS[harm](tmp_path / "02_sft")
    with Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        assert stages.is_trained(stage) is (harm == "nothing")


def test_a_finished_adapter_that_was_damaged_is_refused_with_the_notebook_that_makes_it(tmp_path):
    with Stage(tmp_path, "02_sft", params=PARAMS) as stage:
        stage.write_text("adapter/adapter_model.safetensors", "weights")
        stage.write_json("adapter/adapter_config.json", {"r": 8})
    (tmp_path / "02_sft" / "adapter" / "adapter_model.safetensors").write_bytes(b"weightz")
    with (
        pytest.raises(RunError, match=r"is damaged: it has changed.*run notebooks/02_sft\.ipynb"),
        Stage(tmp_path, "03_grpo", params=PARAMS) as later,
    ):
        stages.adapter_of(later)
    assert not stage_is_valid(tmp_path / "02_sft")


def test_hashes_name_the_first_file_that_is_no_longer_what_it_was(tmp_path):
    write_text(tmp_path / "a" / "x.txt", "1")
    write_text(tmp_path / "b.txt", "2")
    seen = hashes_below(tmp_path)
    assert sorted(seen) == ["a/x.txt", "b.txt"] and damaged_file(tmp_path, seen) is None
    (tmp_path / "b.txt").write_text("3")
    assert damaged_file(tmp_path, seen) == "b.txt"


def test_mending_keeps_every_byte_of_the_good_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"a":  1}\n{"b": NaN}\n{"c": "\xc3\xa9"}\n[' + b"[" * 100_000 + b"\n{")
    assert files.mend_jsonl(path) == 3 and path.read_bytes() == b'{"a":  1}\n{"c": "\xc3\xa9"}\n'
    stamp = path.stat().st_mtime_ns
    assert files.mend_jsonl(path) == 0 and path.stat().st_mtime_ns == stamp
    assert json.loads(path.read_bytes().split(b"\n")[0]) == {"a": 1}
