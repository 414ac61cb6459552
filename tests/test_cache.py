"""Executions by content: what is in the key, what is kept on disk, what damage does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from tiny_task import write_task

from mlagent_lib.core.limits import Limits
from mlagent_lib.environment import cache as caching
from mlagent_lib.environment.cache import Execution, ExecutionCache, execution_key, library_versions
from mlagent_lib.environment.workspace import State

RUN = Execution("ok", "validation mae: 0.90\n", 0.5, "T2", None, None, 0.9, None, "a" * 64)


@pytest.fixture
def task(tmp_path):
    return write_task(tmp_path / "tasks")


def state_of(task) -> State:
    return State(task=task.name, task_digest=task.digest, files=task.env_files())


def test_the_key_covers_all_that_can_change_a_result(task, tmp_path, monkeypatch):
    state, limits = state_of(task), Limits()
    other_data = write_task(tmp_path / "b", train_csv="a,b,target\n1,2,11\n")
    keys = [
        execution_key(state, "train.py", task, limits),
        execution_key(state.with_file("train.py", b"print(1)"), "train.py", task, limits),
        execution_key(state.with_file("helper.py", b""), "train.py", task, limits),
        execution_key(state, "other.py", task, limits),
        execution_key(state, "train.py", task, replace(limits, seconds=1.0)),
        execution_key(state, "train.py", replace(task, metric="rmse"), limits),
        execution_key(state, "train.py", replace(task, classes=(0, 1)), limits),
        execution_key(state_of(other_data), "train.py", other_data, limits),
    ]
    monkeypatch.setattr(caching, "library_versions", lambda: library_versions() | {"numpy": "0"})
    keys.append(execution_key(state, "train.py", task, limits))
    assert len(set(keys)) == len(keys)


def test_hidden_labels_are_part_of_the_data(task):
    before = state_of(task)
    (task.labels_dir / "feedback.csv").write_text("id,target\n1,10\n2,11\n")
    after = state_of(write_task_again(task))
    assert execution_key(before, "train.py", task, Limits()) != execution_key(
        after, "train.py", task, Limits()
    )


def write_task_again(task):
    from mlagent_lib.tasks.task import load_task

    return load_task(task.folder)


def test_history_scores_and_place_are_not_part_of_the_key(task, tmp_path):
    state = state_of(task)
    elsewhere = write_task(tmp_path / "elsewhere")
    key = execution_key(state, "train.py", task, Limits())
    assert key == execution_key(replace(state, score=1.0, step=3), "train.py", task, Limits())
    assert key == execution_key(state_of(elsewhere), "train.py", elsewhere, Limits())


def test_versions_name_what_a_script_imports():
    assert {"python", "numpy", "pandas", "scipy", "scikit-learn", "statsmodels"} == set(library_versions())


def test_what_is_put_is_there_again_in_this_and_in_another_process(tmp_path):
    ExecutionCache(tmp_path).put("ab12", RUN)
    assert ExecutionCache(tmp_path).get("ab12") == RUN
    assert ExecutionCache(tmp_path).get("cd34") is None


@pytest.mark.parametrize("status", ["timeout", "memory", "disk", "files", "processes", "output"])
def test_what_may_depend_on_the_machine_is_remembered_here_only(tmp_path, status):
    cache = ExecutionCache(tmp_path)
    cache.put("ab12", replace(RUN, status=status))
    assert cache.get("ab12").status == status
    assert ExecutionCache(tmp_path).get("ab12") is None


def test_failures_of_scripts_are_kept(tmp_path):
    ExecutionCache(tmp_path).put("ab12", replace(RUN, status="error", score=None))
    assert ExecutionCache(tmp_path).get("ab12").score is None


@pytest.mark.parametrize("damage", ["", "{", "5", "[]", "null", "{}", "\xff"])
def test_a_damaged_entry_is_no_entry(tmp_path, damage):
    ExecutionCache(tmp_path).put("ab12", RUN)
    path = next((tmp_path / "executions").rglob("*.json"))
    path.write_bytes(damage.encode("latin-1"))
    assert ExecutionCache(tmp_path).get("ab12") is None
    ExecutionCache(tmp_path).put("ab12", RUN)
    assert ExecutionCache(tmp_path).get("ab12") == RUN


def test_an_edited_score_is_noticed(tmp_path):
    ExecutionCache(tmp_path).put("ab12", RUN)
    path = next((tmp_path / "executions").rglob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"score": 0.1}))
    assert ExecutionCache(tmp_path).get("ab12") is None
