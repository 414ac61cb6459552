"""A run on tasks of one's own: roles, names and folders are checked first, and kept with the run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_task import NAME, write_task

from mlagent_lib.cli import main
from mlagent_lib.core.artifacts import OWN_TASKS
from mlagent_lib.core.errors import ProfileError, RunError, TaskError
from mlagent_lib.run.lab import open_lab
from mlagent_lib.run.notebooks import run_all


@pytest.fixture
def folders(tmp_path):
    """Return the folders of two tasks, the second a copy under another name."""
    first = Path(write_task(tmp_path / "tasks").folder)
    second = tmp_path / "tasks" / "other-homes"
    shutil.copytree(first, second)
    card = second / "task.yaml"
    card.write_text(card.read_text().replace(NAME, "other-homes"))
    return str(first), str(second)


def start(folders, tmp_path, **more):
    train, test = folders
    return run_all(
        "smoke", 0, tmp_path / "runs", "own", tasks={"train": [train], "test": [test]}, notebooks=(),
        write_report=lambda _: None, say=lambda _: None, **more,
    )  # fmt: skip


def test_the_run_keeps_its_tasks_and_a_lab_takes_them_with_their_roles(folders, tmp_path):
    run_dir = start(folders, tmp_path)
    assert json.loads((run_dir / OWN_TASKS).read_text()) == {"train": [folders[0]], "test": [folders[1]]}
    lab = open_lab("smoke", 0, str(tmp_path / "runs"), "own")
    try:
        assert [task.name for task in lab.tasks(lab.profile.collect.tasks)] == [NAME]
        roles = {task.name: task.split for task in lab.tasks(lab.profile.evaluate.tasks)}
        assert roles == {NAME: "held-in", "other-homes": "held-out"}
        assert lab.task("other-homes").folder == Path(folders[1]), "a bare name is found again"
    finally:
        lab.close()


def test_other_tasks_need_another_run(folders, tmp_path):
    start(folders, tmp_path)
    start(folders, tmp_path)
    with pytest.raises(RunError, match="was made with tasks"):
        start(folders[::-1], tmp_path)


def test_two_tasks_of_one_name_and_unknown_folders_are_refused(folders, tmp_path):
    lab = open_lab("smoke", 0, str(tmp_path / "runs"), "names")
    try:
        with pytest.raises(ProfileError, match="two tasks are named 'tiny-homes'"):
            lab.adopt([folders[0]], [folders[0]])
    finally:
        lab.close()
    with pytest.raises(TaskError, match="no task folder"):
        start((str(tmp_path / "nowhere" / "x"), folders[1]), tmp_path)
    with pytest.raises(ProfileError, match="no task is given to train on"):
        run_all("smoke", 0, tmp_path / "runs", "none", tasks={"test": [folders[1]]}, notebooks=())


def test_the_command_line_says_what_test_tasks_need(capsys):
    assert main(["run", "--test-tasks", "pocket-homes"]) == 2
    assert "--test-tasks needs --tasks" in capsys.readouterr().err
