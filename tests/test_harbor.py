"""An exported task: Harbor's own loader, labels out of reach, the tests script in a plain folder."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mlagent_lib.cli import main
from mlagent_lib.core.errors import TaskError
from mlagent_lib.sockets.harbor import export_harbor
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.task import load_task

# Harbor needs Python 3.12: name one that has it. Its loader is asked there, in a process of its own.
HARBOR = os.environ.get("MLAGENT_HARBOR_PYTHON")
ASKS = """
import sys
from harbor.models.task.task import Task
assert Task.is_valid_dir(sys.argv[1])
task = Task(sys.argv[1])
print(task.name, task.config.environment.workdir, task.config.metadata["better"], task.paths.solve_path.name)
"""


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    out = tmp_path_factory.mktemp("harbor") / "pocket-manuals"
    assert main(["export-harbor", "pocket-manuals", "--out", str(out)]) == 0
    return out


def verified(exported, work, out):
    """Return the finished process of the tests script; Python on the path is this one, without the kit."""
    bare = out.parent / "bin"
    bare.mkdir(exist_ok=True)
    if not (bare / "python3").exists():
        (bare / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (bare / "python3").chmod(0o755)
    surroundings = {"PATH": f"{bare}:{os.defpath}"}
    command = ["sh", exported / "tests" / "test.sh", work, out]
    return subprocess.run(command, capture_output=True, text=True, env=surroundings, cwd="/")


@pytest.mark.skipif(HARBOR is None, reason="MLAGENT_HARBOR_PYTHON names no Python 3.12 with harbor")
def test_harbors_own_loader_reads_it(exported):
    done = subprocess.run([HARBOR, "-c", ASKS, str(exported)], capture_output=True, text=True)
    assert done.stdout == "mlagent/pocket-manuals /app lower solve.sh\n", done.stderr


def test_openenv_lists_it_as_a_task_of_harbor(exported):
    tasks = pytest.importorskip("openenv.harbor.tasks")
    spec = str(exported.parent)
    provider = tasks.HarborTaskProvider([spec])
    assert provider.num_tasks(spec) == 1 and "pocket-manuals" in provider.get_task(spec, 0)["instruction"]


def test_the_card_says_what_the_task_is(exported):
    card, task = tomllib.loads((exported / "task.toml").read_text()), find_task("pocket-manuals")
    assert card["task"]["name"] == "mlagent/pocket-manuals" and card["metadata"]["metric"] == "logloss"
    assert card["metadata"]["starter_score"] == task.baseline["report"]
    assert card["environment"]["memory_mb"] == 2048
    assert task.research_problem in (exported / "instruction.md").read_text()
    assert "numpy==" in (exported / "environment" / "Dockerfile").read_text()


def test_no_label_lies_where_the_agent_can_read_it(exported):
    task = find_task("pocket-manuals")
    seen = exported / "environment"
    own = {path.relative_to(seen / "app").as_posix() for path in (seen / "app").rglob("*") if path.is_file()}
    assert own == {path.relative_to(task.folder / "env").as_posix() for path in _files(task.folder / "env")}
    labels = [line for part in ("feedback", "report") for line in _lines(task.labels_dir / f"{part}.csv")]
    gold = _lines(exported / "solution" / "submission.csv")
    told = (
        "".join(path.read_text(errors="replace") for path in _files(seen))
        + (exported / "instruction.md").read_text()
    )
    assert len(labels) == len(gold) == 780
    assert not [line for line in gold if line in told]
    assert not list(seen.rglob("labels")) and not list(seen.rglob("scripts"))


def _files(folder):
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]


def _lines(path):
    return path.read_text().splitlines()[1:]


def test_the_tests_script_grades_in_a_plain_folder(exported, tmp_path):
    work, out = tmp_path / "app", tmp_path / "logs"
    shutil.copytree(exported / "environment" / "app", work)
    done = verified(exported, work, out)
    assert done.returncode == 0, done.stderr
    assert "refused: missing" in done.stdout
    assert json.loads((out / "reward.json").read_text()) == {"reward": 0.0, "valid": 0}
    subprocess.run([sys.executable, "train.py"], cwd=work, check=True, capture_output=True)
    assert verified(exported, work, out).returncode == 0
    starter = json.loads((out / "reward.json").read_text())
    assert starter["valid"] == 1 and starter["reward"] == pytest.approx(0.0, abs=0.02)
    assert starter["score"] == pytest.approx(find_task("pocket-manuals").baseline["report"], rel=0.01)
    subprocess.run(["sh", exported / "solution" / "solve.sh", work], check=True)
    assert verified(exported, work, out).returncode == 0
    assert json.loads((out / "reward.json").read_text())["reward"] == 1.0
    (work / "submission.csv").write_text("id,nothing\n")
    verified(exported, work, out)
    assert json.loads((out / "reward.json").read_text())["reward"] == 0.0


def test_what_we_fail_is_no_reward(exported, tmp_path):
    broken = shutil.copytree(exported, tmp_path / "broken")
    (broken / "tests" / "task" / "scripts" / "labels" / "report.csv").write_text("id,target\n")
    work, out = tmp_path / "app", tmp_path / "logs"
    work.mkdir()
    shutil.copy(exported / "solution" / "submission.csv", work)
    done = verified(broken, work, out)
    assert done.returncode != 0 and not (out / "reward.json").exists() and "Unscored" in done.stderr


def test_what_cannot_be_exported_is_named(exported, tmp_path):
    with pytest.raises(TaskError, match="is there already"):
        export_harbor(find_task("pocket-manuals"), exported)
    folder = shutil.copytree(Path(__file__).parent / "foreign" / "mlagentbench_task", tmp_path / "own")
    from mlagent_lib.core.limits import Limits

    task = load_task(folder, greater_is_better=True, limits=Limits(), baseline=0.0, best=1.0)
    with pytest.raises(TaskError, match="is graded by a file of its own"):
        export_harbor(task, tmp_path / "out")
    assert not (tmp_path / "out").exists()
