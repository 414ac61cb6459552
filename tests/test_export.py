"""Trajectories: the format and its check, conversational rows for TRL, and the Parquet table and back."""

import copy
import json

import numpy as np
import pytest

from mlagent_lib.agents.export import (
    conversational_rows,
    read_parquet,
    read_trajectories,
    write_conversational,
    write_parquet,
)
from mlagent_lib.agents.schema import SCHEMA_FILE, validate_row
from mlagent_lib.core.errors import RunError
from mlagent_lib.environment.outcome import Outcome

TRAJECTORY_SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
from mlagent_lib.core.files import append_jsonl


def a_step(i=0, **changes):
    return {
        "step": i,
        "state": {
            "task": "digits",
            "files": {"train.py": "ab" * 32},
            "history": [{"visible": 0.5}],
            "score": None,
        },
        "reply": "Thought: try ☃\nAction: Edit Script (AI)\nAction Input: {}",
        "action": "Edit Script (AI)",
        "action_input": {"script_name": "train.py", "edit_instruction": "Scale.", "save_name": "train.py"},
        "observation": "The edited file is saved to train.py.",
        "outcome": "edited",
        "reason": "scored",
        "score_before": 0.5,
        "score_after": 0.625,
        "reward": 0.25,
        "script_before": "a = 1\n",
        "script_after": "a = 2\n",
        "visible_metric": 0.61,
        "seconds": 1.5,
        "cache_hit": False,
        "tier": "T2",
    } | changes


def a_row(**changes):
    invalid = {"outcome": "invalid", "action": None, "action_input": None, "score_before": None, "reward": -1}
    return {
        "schema": "mlagent.trajectory/1",
        "id": "digits-expert-0",
        "task": "digits",
        "split": "held-in",
        "source": "expert",
        "seed": 7,
        "ideas": [{"key": "data/scale", "axis": "data", "instruction": "Scale."}],
        "steps": [a_step(0), a_step(1, **invalid, score_after=None, visible_metric=None)],
        "final": {
            "feedback_last": 0.6,
            "report_last": 0.59,
            "feedback_best": 0.6,
            "report_best": 0.59,
            "report_start": 0.4,
            "stop": "steps",
        },
    } | changes


def render(step):
    return [{"role": "system", "content": "You help."}, {"role": "user", "content": f"Step {step['step']}."}]


def changed(path, value="__delete__"):
    row = copy.deepcopy(a_row())
    at = row
    for part in path[:-1]:
        at = at[part]
    if value == "__delete__":
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return row


GOOD = [
    a_row(),
    a_row(steps=[]),
    a_row(final=None),
    a_row(ideas=[], extra_field={"a": [1, None]}),
    a_row(steps=[a_step(seconds=0, reward=1, outcome="neutral", note="more", action_input="raw")]),
    a_row(steps=[a_step(outcome="unscored", reward=None)]),
    changed(["steps", 0, "tier"]),
    changed(["seed"], 3.0),
]

BAD = [
    (changed(["id"]), "'id' is missing"),
    (changed(["id"], ""), "'id' must not be empty"),
    (changed(["schema"], "mlagent.trajectory/9"), "'schema' must be 'mlagent.trajectory/1'"),
    (changed(["split"], "train"), "'split' must be one of held-in, held-out, other, not 'train'"),
    (changed(["seed"], True), "'seed' must be integer, not True"),
    (changed(["seed"], 2**63), "'seed' must be at most"),
    (changed(["steps", 1, "outcome"], "EDITED"), "'steps[1].outcome' must be one of invalid, error"),
    (changed(["steps", 0, "reward"]), "'steps[0].reward' is missing"),
    (changed(["steps", 0, "reward"], "0.5"), "'steps[0].reward' must be number or null, not '0.5'"),
    (changed(["steps", 0, "seconds"], -1), "'steps[0].seconds' must be at least 0"),
    (changed(["steps", 0, "cache_hit"], 1), "'steps[0].cache_hit' must be boolean"),
    (changed(["steps"], {}), "'steps' must be array"),
    (changed(["steps", 1], "x"), "'steps[1]' must be object"),
    (changed(["ideas", 0, "axis"]), "'ideas[0].axis' is missing"),
    (changed(["final", "stop"], None), "'final.stop' must be string, not None"),
    ([], "the row must be object"),
]

OWN_RULES = [  # what a JSON Schema cannot say
    (changed(["steps", 1, "step"], 2), "'steps[1].step' must be 1, not 2"),
    (changed(["steps", 0, "score_after"], float("nan")), "'steps[0].score_after' must be a finite number"),
    (changed(["steps", 0, "state", "score"], float("inf")), "'steps[0].state.score' must be a finite number"),
    (changed(["steps", 0, "reward"], 10**400), "'steps[0].reward' must be a finite number"),
    (changed(["steps", 0, "outcome"], "unscored"), "'steps[0].reward' must be null for an unscored step"),
]


@pytest.mark.parametrize("row", GOOD)
def test_good_rows_pass_and_agree_with_jsonschema(row):
    validate_row(row)
    pytest.importorskip("jsonschema").Draft202012Validator(TRAJECTORY_SCHEMA).validate(row)


@pytest.mark.parametrize(("row", "words"), BAD)
def test_bad_rows_are_refused_by_field_and_agree_with_jsonschema(row, words):
    with pytest.raises(RunError) as caught:
        validate_row(row, where="t.jsonl, row 3")
    assert (
        words in str(caught.value) and str(caught.value).startswith("t.jsonl, row 3: ") and caught.value.cure
    )
    jsonschema = pytest.importorskip("jsonschema")
    assert not jsonschema.Draft202012Validator(TRAJECTORY_SCHEMA).is_valid(row)


@pytest.mark.parametrize(("row", "words"), OWN_RULES)
def test_rules_beyond_the_schema(row, words):
    with pytest.raises(RunError) as caught:
        validate_row(row)
    assert words in str(caught.value)


def test_schema_is_a_schema_and_every_field_is_described():
    pytest.importorskip("jsonschema").Draft202012Validator.check_schema(TRAJECTORY_SCHEMA)

    def described(schema, prefix=""):
        for name, rule in schema["properties"].items():
            assert rule["description"]
            yield prefix + name
            inner = rule.get("items", rule)
            if "properties" in inner:
                yield from described(inner, f"{prefix}{name}{'[]' * ('items' in rule)}.")

    names = set(described(TRAJECTORY_SCHEMA))
    assert {"id", "ideas[].axis", "steps[].outcome", "steps[].state", "final.report_best"} <= names
    steps = TRAJECTORY_SCHEMA["properties"]["steps"]["items"]["properties"]
    assert steps["outcome"]["enum"] == [outcome.value for outcome in Outcome]


def test_read_trajectories(tmp_path):
    path = tmp_path / "t.jsonl"
    append_jsonl(path, a_row())
    append_jsonl(path, a_row(id="b"))
    assert [row["id"] for row in read_trajectories(path)] == ["digits-expert-0", "b"]
    append_jsonl(path, changed(["task"]))
    with pytest.raises(RunError, match="t.jsonl, row 3: field 'task' is missing"):
        read_trajectories(path)
    path.write_text("{torn")
    with pytest.raises(RunError, match="has 1 lines that are not JSON"):
        read_trajectories(path)


def test_conversational_forms():
    messages, other = conversational_rows([a_row()], render)
    assert [m["role"] for m in messages["messages"]] == ["system", "user", "assistant"]
    assert messages["messages"][-1]["content"] == a_step()["reply"] and other.keys() == {"messages"}
    first, second = conversational_rows([a_row()], render, form="prompt-completion", names=True)
    assert first["prompt"] == render(a_step(0)) and second["prompt"][1]["content"] == "Step 1."
    assert first["completion"] == [{"role": "assistant", "content": a_step()["reply"]}]
    assert (second["trajectory"], second["task"], second["step"]) == ("digits-expert-0", "digits", 1)


def test_keep_and_a_render_that_brings_its_own_reply():
    def no_thought(step):
        return [*render(step), {"role": "assistant", "content": "Action: List Files"}]

    rows = list(conversational_rows([a_row()], no_thought, keep=lambda step: step["outcome"] != "invalid"))
    assert len(rows) == 1 and len(rows[0]["messages"]) == 3
    assert rows[0]["messages"][-1]["content"] == "Action: List Files"


@pytest.mark.parametrize(
    "rendered",
    [
        [],
        [{"role": "assistant", "content": "x"}],
        [{"role": "user"}],
        ["text"],
        [{"role": "robot", "content": "x"}],
    ],
)
def test_a_bad_render_is_named(rendered):
    with pytest.raises(RunError, match="trajectory 'digits-expert-0', step 0: "):
        list(conversational_rows([a_row()], lambda step: rendered))
    with pytest.raises(ValueError, match="form 'chat' is unknown"):
        list(conversational_rows([a_row()], render, form="chat"))


def test_conversational_file_is_readable_by_datasets(tmp_path):
    broken = a_row(steps=[a_step(reply="half \ud800 of a pair")])
    path = tmp_path / "sft.jsonl"
    rows = list(conversational_rows([a_row(), broken], render, form="prompt-completion"))
    assert write_conversational(path, rows) == 3
    table = pytest.importorskip("pyarrow.json").read_json(path).to_pylist()
    assert table == rows and table[2]["completion"][0]["content"] == "half \ufffd of a pair"


def test_parquet_round_trip(tmp_path):
    rows = GOOD[:6]
    path = tmp_path / "t.parquet"
    assert write_parquet(path, rows) == 2 + 1 + 2 + 2 + 1 + 1
    assert read_parquet(path) == rows
    import pandas as pd

    frame = pd.read_parquet(path)
    assert frame["reward"].tolist()[:2] == [0.25, -1.0] and frame["score_after"].dtype == np.float64
    assert json.loads(frame["state"][0])["task"] == "digits"
    assert not [p for p in tmp_path.iterdir() if p != path]  # nothing temporary is left


def test_parquet_absent_optional_fields_come_back_as_null(tmp_path):
    write_parquet(tmp_path / "t.parquet", [changed(["steps", 0, "tier"])])
    assert read_parquet(tmp_path / "t.parquet") == [changed(["steps", 0, "tier"], None)]


def test_parquet_of_nothing_and_of_a_bad_row(tmp_path):
    path = tmp_path / "t.parquet"
    assert write_parquet(path, []) == 0 and read_parquet(path) == []
    with pytest.raises(RunError, match="trajectory 2: field 'task' is missing"):
        write_parquet(path, [a_row(), changed(["task"])])
    assert read_parquet(path) == []  # the old file is untouched


def test_parquet_repairs_broken_unicode_and_says_so(tmp_path, caplog):
    path = tmp_path / "t.parquet"
    write_parquet(path, [a_row(steps=[a_step(observation="x\udc80y", state={"raw": "\udc80"})])])
    step = read_parquet(path)[0]["steps"][0]
    assert step["observation"] == "x\ufffdy" and step["state"] == {"raw": "\udc80"}
    assert "1 values held broken Unicode" in caplog.text


def test_read_parquet_refuses_other_files(tmp_path):
    with pytest.raises(RunError, match="is missing"):
        read_parquet(tmp_path / "no.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(RunError, match="not a readable Parquet file"):
        read_parquet(tmp_path / "bad.parquet")
    import pandas as pd

    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(RunError, match="holds the format ''"):
        read_parquet(tmp_path / "other.parquet")
