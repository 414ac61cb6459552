"""States are values: stored, restored, pickled and forked bit-equal, here and on another machine."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_task import make_tools, neighbours, write_task

from mlagent_lib.core.errors import RunError
from mlagent_lib.environment.step import run_step, start_state
from mlagent_lib.environment.workspace import HistoryStep, State, WorkspaceStore

STEP = HistoryStep("reply", "List Files", {"dir_path": "."}, "train.py", "neutral", 0.5)
STATE = State(
    "tiny", "d" * 64, {"b.py": b"\xff\x00\n", "a.txt": "é\r\n".encode()}, (STEP,), 0.25, 0.5, 0.4, "f" * 64, 1
)  # fmt: skip
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
STATES = st.builds(
    State,
    task=TEXT,
    task_digest=TEXT,
    files=st.dictionaries(TEXT, st.binary(max_size=30), max_size=3),
    history=st.tuples(
        st.builds(
            HistoryStep, TEXT, TEXT, st.dictionaries(TEXT, TEXT, max_size=2), TEXT, TEXT,
            st.none() | st.floats(0, 1),
        )
    ),
    score=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    step=st.integers(0, 99),
    done=st.booleans(),
    past=st.lists(st.tuples(TEXT, st.none() | st.binary(max_size=30)), max_size=3).map(tuple),
)  # fmt: skip


def same(first: State, second: State) -> bool:
    return first == second and dict(first.files) == dict(second.files) and first.id == second.id


@given(STATES)
def test_one_json_line_restores_a_state_bit_equal(state):
    line = json.dumps(state.to_json(), allow_nan=False)
    assert "\n" not in line
    assert same(State.from_json(json.loads(line)), state)


def test_a_state_without_edits_has_the_row_and_the_name_of_older_versions():
    row = STATE.to_json()
    assert "past" not in row and State.from_json(row).past == ()
    edited = STATE.with_edit("a.txt", b"new")
    assert edited.to_json()["past"] == [["a.txt", STATE.to_json()["files"]["a.txt"]]]
    assert edited.id != STATE.with_file("a.txt", b"new").id


def test_edits_are_undone_last_first_and_each_file_has_its_own():
    state = STATE.with_edit("a.txt", b"1").with_edit("new.py", b"2").with_edit("a.txt", b"3")
    once = state.without_edit("a.txt")
    assert once.files["a.txt"] == b"1" and once.past == state.past[:2]
    assert same(once.without_edit("a.txt").without_edit("new.py"), STATE)
    assert "new.py" not in state.without_edit("new.py").files
    assert STATE.without_edit("a.txt") is None and state.without_edit("b.py") is None


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda state: pickle.loads(pickle.dumps(state))])
def test_copies_and_pickles_are_equal_and_as_closed(twin):
    found = twin(STATE)
    assert same(found, STATE) and found.digest == STATE.digest
    with pytest.raises(TypeError):
        found.files["a.txt"] = b"changed"


def test_a_store_keeps_each_content_once_and_restores_from_a_row_without_contents(tmp_path):
    store = WorkspaceStore(tmp_path / "store")
    row = store.snapshot(STATE)
    store.snapshot(replace(STATE, files={**STATE.files, "copy": STATE.files["b.py"]}))
    assert "blobs" not in row
    assert len([path for path in (tmp_path / "store").rglob("*") if path.is_file()]) == 2
    again = WorkspaceStore(tmp_path / "store").restore(json.loads(json.dumps(row)))
    assert same(again, STATE)


def test_a_state_cannot_be_changed_and_writing_makes_another():
    with pytest.raises(FrozenInstanceError):
        STATE.score = 1.0
    other = STATE.with_file("a.txt", b"new")
    assert (other.files["a.txt"], STATE.files["a.txt"]) == (b"new", "é\r\n".encode())
    assert other.files["b.py"] == STATE.files["b.py"] and set(other.files) == set(STATE.files)
    assert other.history == STATE.history and other.digest != STATE.digest


def test_the_digest_is_of_the_tree_and_the_id_of_the_whole_state():
    turned = replace(STATE, files=dict(reversed(STATE.files.items())))
    assert (turned.digest, turned.id) == (STATE.digest, STATE.id)
    later = replace(STATE, history=(), step=2)
    assert later.digest == STATE.digest and later.id != STATE.id
    assert replace(STATE, task_digest="e" * 64).digest != STATE.digest
    renamed = replace(STATE, files={"c.py": STATE.files["b.py"], "a.txt": STATE.files["a.txt"]})
    assert renamed.digest != STATE.digest
    ids = {STATE.id, later.id, replace(STATE, score=0.3).id, replace(STATE, visible=0.6).id,
           replace(STATE, done=True).id, replace(STATE, submission=None).id,
           replace(STATE, task="x").id}  # fmt: skip
    assert len(ids) == 7


def test_damage_is_an_error_that_names_the_file(tmp_path):
    row = STATE.to_json()
    digest = row["files"]["a.txt"]
    for blobs in ({}, {digest: "other"}, {digest: {"base64": "%"}}, {digest: {}}, {digest: 5}):
        with pytest.raises(RunError, match=r"file 'a.txt' of a state of task 'tiny' is missing or damaged"):
            State.from_json(row | {"blobs": blobs})
    with pytest.raises(RunError, match="missing or damaged"):
        State.from_json(STATE.to_json(embed=False))
    with pytest.raises(RunError, match="schema 'mlagent.state/0'"):
        State.from_json(row | {"schema": "mlagent.state/0"})
    store = WorkspaceStore(tmp_path)
    short = store.snapshot(STATE)
    (tmp_path / digest[:2] / digest).write_bytes(b"damaged")
    with pytest.raises(RunError, match="is damaged: its content has another sha256"):
        store.restore(short)
    (tmp_path / digest[:2] / digest).unlink()
    with pytest.raises(RunError, match="no blob"):
        store.restore(short)


def test_a_state_goes_on_alike_on_another_machine_with_the_same_data(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    task, elsewhere = write_task(here / "tasks"), write_task(there / "tasks")
    assert task.digest == elsewhere.digest
    tools, others = make_tools(here), make_tools(there)
    state = run_step(start_state(task, tools), neighbours(12), tools).state
    sent = State.from_json(json.loads(json.dumps(state.to_json())))
    first, second = run_step(state, neighbours(4), tools), run_step(sent, neighbours(4), others)
    assert same(first.state, second.state)
    assert (second.score_before, second.score_after, second.cache_hit) == (1.5, 0.5, False)


@pytest.mark.slow
def test_a_pocket_task_built_anew_is_bit_equal(tmp_path):
    from mlagent_lib.tasks.pocket.suite import build_suite
    from mlagent_lib.tasks.registry import find_task

    build_suite(tmp_path / "suite", ["pocket-cactus"])
    here, there = find_task("pocket-cactus"), find_task("pocket-cactus", home=tmp_path / "suite")
    assert here.folder != there.folder and here.digest == there.digest
    assert here.env_files() == there.env_files()
