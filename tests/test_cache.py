"""Executions by content: what is in the key, what is kept on disk, what damage does."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from tiny_task import write_task

from mlagent_lib.core.limits import Limits
from mlagent_lib.environment import cache as caching
from mlagent_lib.environment.cache import Execution, ExecutionCache, execution_key, library_versions
from mlagent_lib.environment.workspace import State

SUBMISSION = b"id,prediction\n1,10\n"
RUN = Execution(
    "ok", "validation mae: 0.90\n", 0.5, "T2", None, None, 0.9, None, hashlib.sha256(SUBMISSION).hexdigest()
)


def stored(folder, key="ab12", run=RUN) -> ExecutionCache:
    """Return a cache that holds one run and its submission."""
    cache = ExecutionCache(folder)
    cache.archive.put(SUBMISSION)
    cache.put(key, run)
    return cache


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
    from mlagent_lib.tasks.registry import find_task

    return find_task(task.folder)


def test_history_scores_and_place_are_not_part_of_the_key(task, tmp_path):
    state = state_of(task)
    elsewhere = write_task(tmp_path / "elsewhere")
    key = execution_key(state, "train.py", task, Limits())
    assert key == execution_key(replace(state, score=1.0, step=3), "train.py", task, Limits())
    assert key == execution_key(state_of(elsewhere), "train.py", elsewhere, Limits())


def test_versions_name_what_a_script_imports():
    assert {"python", "numpy", "pandas", "scipy", "scikit-learn", "statsmodels"} == set(library_versions())


def test_what_is_put_is_there_again_in_this_and_in_another_process(tmp_path):
    assert stored(tmp_path).get("ab12") == RUN
    assert ExecutionCache(tmp_path).get("ab12") == RUN
    assert ExecutionCache(tmp_path).get("cd34") is None


@pytest.mark.parametrize("damage", [None, b"", b"id,prediction\n1,11\n"])
def test_a_result_whose_submission_is_lost_or_damaged_is_none_until_it_is_made_again(tmp_path, damage):
    stored(tmp_path)
    (path,) = (path for path in (tmp_path / "submissions").rglob("*") if path.is_file())
    path.unlink() if damage is None else path.write_bytes(damage)
    assert ExecutionCache(tmp_path).get("ab12") is None
    stored(tmp_path)
    assert ExecutionCache(tmp_path).get("ab12") == RUN


@pytest.mark.parametrize("status", ["timeout", "memory", "disk", "files", "processes", "output"])
def test_what_may_depend_on_the_machine_is_remembered_here_only(tmp_path, status):
    cache = ExecutionCache(tmp_path)
    cache.put("ab12", replace(RUN, status=status))
    assert cache.get("ab12").status == status
    assert ExecutionCache(tmp_path).get("ab12") is None


def test_memory_is_bounded_and_what_is_used_stays(tmp_path):
    cache = ExecutionCache(tmp_path, memory_bytes=100_000)
    cache.archive.put(SUBMISSION)
    late = replace(RUN, status="timeout", output="x" * 6_000)
    cache.put("used", late)
    cache.put("unused", late)
    for number in range(40):
        cache.put(f"{number:04}", replace(RUN, output=f"{number} " * 2_000))
        assert cache.get("used") == late
        assert sum(len(kept.output) for kept in cache._memory.values()) <= 100_000
    assert cache.get("unused") is None and len(cache._memory) >= 8
    assert cache.get("0000").output == "0 " * 2_000  # from disk, and in memory again
    assert "0000" in cache._memory
    for _ in range(40):
        cache.put("same", late)
    assert "used" in cache._memory and "0000" in cache._memory


def test_a_result_larger_than_the_memory_is_on_disk_only(tmp_path):
    cache = ExecutionCache(tmp_path, memory_bytes=1_000)
    cache.archive.put(SUBMISSION)
    cache.put("ab12", RUN)
    assert not cache._memory and cache.get("ab12") == RUN


def test_failures_of_scripts_are_kept(tmp_path):
    ExecutionCache(tmp_path).put("ab12", replace(RUN, status="error", score=None, submission=None))
    assert ExecutionCache(tmp_path).get("ab12").score is None


@pytest.mark.parametrize("damage", ["", "{", "5", "[]", "null", "{}", "\xff"])
def test_a_damaged_entry_is_no_entry(tmp_path, damage):
    stored(tmp_path)
    path = next((tmp_path / "executions").rglob("*.json"))
    path.write_bytes(damage.encode("latin-1"))
    assert ExecutionCache(tmp_path).get("ab12") is None
    stored(tmp_path)
    assert ExecutionCache(tmp_path).get("ab12") == RUN


def test_an_edited_score_is_noticed(tmp_path):
    stored(tmp_path)
    path = next((tmp_path / "executions").rglob("*.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | {"score": 0.1}))
    assert ExecutionCache(tmp_path).get("ab12") is None
