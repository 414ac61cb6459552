"""`mlagent bench --against`: two builds in turn, ratios pair by pair, a worktree that does not stay."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mlagent_lib import cli
from mlagent_lib.bench import against, builds
from mlagent_lib.bench.against_worker import processor_seconds
from mlagent_lib.core.errors import RunError
from mlagent_lib.environment.isolation.probe import probe

isolated = pytest.mark.skipif(probe().chosen is None, reason="no isolation tier works on this machine")
WORKER = """
import os, sys
name = sys.argv[2][-1]
if sys.argv[1] == "broken":
    raise SystemExit("this build is older than that")
print("{}", flush=True)
for turn, _ in enumerate(sys.stdin):
    with open(sys.argv[3], "a") as log:
        log.write(name + os.environ["PYTHONPATH"][-1])
    print(f'{{"own": {turn + 1 + int(name)}, "peak": 4}}', flush=True)
    print("{}", flush=True)
"""


@pytest.fixture
def repository_of_two(tmp_path, monkeypatch):
    """Return a git repository with two commits, in the place of the checkout."""
    root = tmp_path / "kit"
    root.mkdir()

    def git(*words):
        author = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(root), *author, *words], check=True, capture_output=True)

    git("init", "-q")
    for number in (1, 2):
        (root / "file").write_text(str(number))
        git("add", "file")
        git("commit", "-qm", "x")
    monkeypatch.setattr(builds, "ROOT", root)
    return root


def test_another_build_lies_in_a_worktree_that_is_removed(repository_of_two):
    with builds.worktree("HEAD~1") as (tree, name):
        assert (tree / "file").read_text() == "1" and len(name) == 40
    assert not tree.exists() and (repository_of_two / "file").read_text() == "2"
    listed = subprocess.run(
        ["git", "-C", str(repository_of_two), "worktree", "list"], capture_output=True, text=True
    ).stdout
    assert listed.count("\n") == 1


def test_a_commit_that_is_not_there_and_a_folder_without_git_are_told(
    repository_of_two, tmp_path, monkeypatch
):
    for name in ("no-such", "--help"):
        with pytest.raises(RunError, match="git log"), builds.worktree(name):
            pass
    monkeypatch.setattr(builds, "ROOT", tmp_path / "elsewhere")
    with pytest.raises(RunError, match="no git checkout"), builds.worktree("HEAD"):
        pass


def test_the_builds_take_turns_and_in_beginning_too(tmp_path, monkeypatch):
    worker, log = tmp_path / "worker.py", tmp_path / "log"
    worker.write_text(WORKER)
    monkeypatch.setattr(builds, "WORKER", worker)
    trees = [tmp_path / "x", tmp_path / "y"]
    monkeypatch.setattr(builds, "MODEL", log)
    found = builds.paired(trees, tmp_path, ("sampling", 8, 8), 3)
    assert [(mine["own"], other["own"]) for mine, other in found] == [(1, 2), (2, 3), (3, 4)]
    assert log.read_text() == "0x1y" + "1y0x" + "0x1y"
    row = against.ratio_row("g", found)
    assert row.value == pytest.approx(2 / 3) and row.count == 3 and not row.reached
    assert against.ratio_row("m", found).reached  # the same memory


def test_a_build_that_cannot_do_the_work_says_why(tmp_path, monkeypatch):
    worker = tmp_path / "worker.py"
    worker.write_text(WORKER)
    monkeypatch.setattr(builds, "WORKER", worker)
    with pytest.raises(RunError, match="this build is older than that"):
        builds.paired([tmp_path / "x", tmp_path / "y"], tmp_path, ("broken",), 1)


def test_wrong_words_get_one_line_with_the_cure(capsys):
    assert cli.main(["bench", "--against", "HEAD", "--only", "gq"]) == 2
    err = capsys.readouterr().err
    assert "no comparison 'q'" in err and "What to do:" in err and err.count("\n") == 1


def test_processor_seconds_of_children_count():
    before = processor_seconds()
    subprocess.run(["python3", "-c", "import time\nwhile time.process_time() < 0.3: pass"], check=True)
    assert processor_seconds() - before > 0.25


def test_processor_seconds_of_children_that_are_alive_count():
    before, script = processor_seconds(), (
        "import subprocess, sys\n"
        "inner = 'import time\\nwhile time.process_time() < 0.3: pass\\nprint(flush=True)\\ninput()'\n"
        "subprocess.run([sys.executable, '-c', inner])"
    )  # fmt: skip
    words = [sys.executable, "-c", script]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        assert processor_seconds() - before > 0.25
        child.stdin.close()


@isolated
@pytest.mark.slow
def test_the_worker_samples_and_trains_by_this_build(tmp_path):
    with builds.Build(builds.ROOT, tmp_path / "g", ("sampling", 2, 2)) as build:
        took = build.turn()
    assert took["actions"] == 4 and took["tokens"] >= 4 and 0 < took["own"] <= took["all"] + 0.05
    with builds.Build(builds.ROOT, tmp_path / "h", ("step", 2, 2)) as build:
        took = build.turn()
    assert took["actions"] == 4 and took["row"]["step"] == 2 and took["peak"] > 1e8
