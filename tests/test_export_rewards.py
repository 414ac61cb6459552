"""States and rewards for other trainers: rows worked by hand, their schema, the parts, and the command."""

from __future__ import annotations

import json
import re
from types import SimpleNamespace

import pytest
from tiny_task import FakeRunner, edit, final, make_tools, neighbours, write_task

from mlagent_lib import cli
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.core.artifacts import Stage
from mlagent_lib.core.errors import RunError, TaskError, Unscored
from mlagent_lib.core.files import append_jsonl
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.workspace import State
from mlagent_lib.reward import FORMS
from mlagent_lib.run.stages import split_states
from mlagent_lib.training.state_rewards import (
    SCHEMA_FILE,
    SCHEMA_NAME,
    RunStates,
    export_states,
    known_tasks,
    read_run,
    state_reward_rows,
)

jsonschema = pytest.importorskip("jsonschema")  # comes with Jupyter

PLANS = {  # what each trajectory does; the first step of all starts from the starter
    0: (neighbours(20), "nonsense", final()),
    1: (neighbours(20), neighbours(8), final()),
    2: (neighbours(12), edit("Do what nobody knows."), final()),
    3: (final(),),
    4: (neighbours(16), neighbours(99), final()),
}
PROVENANCE = {
    "run": "r",
    "stage": "01_collection",
    "profile": "smoke",
    "seed": 0,
    "package": "0",
    "commit": None,
}


class Says:
    name = "says"

    def act(self, turns):
        return [PLANS[int(turn.name.rsplit("/", 1)[1])][turn.state.step] for turn in turns]


def lost(request):
    return Unscored("lost") if b"n_neighbors=99)" in request.files["train.py"] else None


@pytest.fixture
def trajectories(task, tmp_path):
    jobs = [Job(task, "expert", index, 0) for index in PLANS]
    return run_trajectories(jobs, Says(), make_tools(tmp_path, FakeRunner(lost)), max_steps=4)


@pytest.fixture
def run(tmp_path, trajectories):
    """Return the folder of a run whose collection is finished."""
    folder = tmp_path / "runs" / "smoke-seed0"
    stage = Stage(
        folder, "01_collection", params={"profile": "smoke", "seed": 0}, profile=get_profile("smoke")
    )
    with stage:
        for row in trajectories:
            append_jsonl(stage.path("trajectories.jsonl"), row)
    return folder


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def broken_rules(row):
    schema = json.loads(SCHEMA_FILE.read_text())
    return [error.message for error in jsonschema.Draft202012Validator(schema).iter_errors(row)]


def test_a_state_and_its_actions_by_hand(task, trajectories):
    rows = state_reward_rows(
        RunStates({"train": trajectories}, Prompter("pocket", 4), PROVENANCE), {task.name: task}
    )
    first = rows[0]  # the starter, from which all five trajectories act
    assert [action["trajectory"] for action in first["actions"]] == [
        f"expert/tiny-homes/{index}" for index in PLANS
    ]
    # 5.0 at the start and 0.0 at best: 20 neighbours score 2.5, 12 score 1.5, 16 score 2.0
    assert [action["rewards"]["v2"] for action in first["actions"]] == [0.5, 0.5, 0.7, 0.0, 0.6]
    assert [action["score_after"] for action in first["actions"]] == [2.5, 2.5, 1.5, None, 2.0]
    assert {action["score_before"] for action in first["actions"]} == {5.0}
    assert first["actions"][3]["outcome"] == "neutral" and first["actions"][3]["rewards"]["v1"] == 0.5
    assert (first["score_init"], first["score_best"], first["metric"]) == (5.0, 0.0, "mae")
    assert first["greater_is_better"] is False and first["split"] == "held-in" and first["unscored"] == 0
    state = State.from_json(first["state"])
    assert state.id == first["state_id"] and state.files["train.py"] == task.env_files()["train.py"]
    assert first["prompt"] == Prompter("pocket", 4).messages(state, task)
    assert first["provenance"] == PROVENANCE | {"prompt_style": "pocket", "max_steps": 4}

    [second] = [row for row in rows if row["actions"][0]["trajectory"] == "expert/tiny-homes/0"][1:2]
    bad, good = second["actions"]  # both trajectories tried 20 neighbours first: one state
    assert (bad["outcome"], bad["rewards"]["v1"], bad["rewards"]["v2"]) == ("invalid", 0.0, -1.0)
    assert bad["rewards"]["v1-no-format"] == 0.5
    assert (good["score_before"], good["score_after"], good["rewards"]["v2"]) == (2.5, 1.0, 0.3)
    assert all(action["rewards"].keys() == set(FORMS) for row in rows for action in row["actions"])


def test_what_the_coder_failed_is_a_corner_and_what_we_failed_is_left_out_and_counted(run, task, tmp_path):
    found = export_states(run, tmp_path / "states.jsonl", tasks=[task])
    rows = rows_of(tmp_path / "states.jsonl")
    actions = [action for row in rows for action in row["actions"]]
    assert (found["states"], found["actions"], found["unscored"]) == (len(rows), len(actions), 1)
    [refused] = [action for action in actions if action["outcome"] == "corner"]
    assert (refused["reason"], refused["rewards"]["v1"], refused["rewards"]["v1-no-corner"]) == (
        "coder",
        0.5,
        0,
    )
    assert not any(action["trajectory"].endswith("/4") and action["step"] == 1 for action in actions)
    assert sum(row["unscored"] for row in rows) == 0  # its state had no other action, so it is no row


def test_a_failure_of_ours_beside_scored_actions_is_counted_in_its_row(task, trajectories):
    trajectories[1]["steps"][0] |= {"outcome": "unscored", "reward": None, "score_after": None}
    rows = state_reward_rows(
        RunStates({"train": trajectories}, Prompter("pocket", 4), PROVENANCE), {task.name: task}
    )
    assert rows[0]["unscored"] == 1 and len(rows[0]["actions"]) == 4 and broken_rules(rows[0]) == []


def test_every_row_keeps_the_schema_that_is_written_beside_it(run, task, tmp_path):
    found = export_states(run, tmp_path / "out" / "states.jsonl", tasks=[task])
    assert found["schema"] == tmp_path / "out" / "states.schema.json"
    schema = json.loads(found["schema"].read_text())
    assert schema == json.loads(SCHEMA_FILE.read_text()) and schema["title"] == SCHEMA_NAME
    jsonschema.Draft202012Validator.check_schema(schema)
    rows = rows_of(tmp_path / "out" / "states.jsonl")
    assert rows and [broken_rules(row) for row in rows] == [[]] * len(rows)
    assert set(schema["required"]) == set(schema["properties"]) == set(rows[0])
    fields = schema["properties"]["actions"]["items"]
    assert set(fields["required"]) == set(fields["properties"]) == set(rows[0]["actions"][0])
    cases = {outcome.value for outcome in Outcome} - {"unscored"}
    assert set(fields["properties"]["outcome"]["enum"]) == cases


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda row: row.pop("state_id"), "'state_id' is a required property"),
        (lambda row: row.update(schema="mlagent.state-rewards/0"), "was expected"),
        (lambda row: row.update(part="holdout"), "is not one of"),
        (lambda row: row.update(prompt=[]), "should be non-empty"),
        (lambda row: row.update(actions=[]), "should be non-empty"),
        (lambda row: row.update(note=1), "Additional properties"),
        (lambda row: row["state"].pop("blobs"), "'blobs' is a required property"),
        (lambda row: row["actions"][0].update(outcome="unscored"), "is not one of"),
        (lambda row: row["actions"][0]["rewards"].update(v1=1.5), "greater than the maximum"),
        (lambda row: row["actions"][0]["rewards"].pop("v2"), "'v2' is a required property"),
        (lambda row: row["provenance"].pop("seed"), "'seed' is a required property"),
    ],
)
def test_each_rule_of_the_schema_can_be_broken(run, task, tmp_path, change, words):
    export_states(run, tmp_path / "states.jsonl", tasks=[task])
    row = rows_of(tmp_path / "states.jsonl")[0]
    change(row)
    assert any(words in message for message in broken_rules(row)), broken_rules(row)


def test_the_parts_are_those_of_the_run(run, task, trajectories, tmp_path):
    found = read_run(run)
    assert {part: len(rows) for part, rows in found.trajectories.items()} == {
        "train": 3,
        "select": 1,
        "test": 1,
    }
    lab = SimpleNamespace(seed=0, profile=get_profile("smoke"))
    parts = {row["state_id"]: row["part"] for row in state_reward_rows(found, {task.name: task})}
    wanted = split_states(lab, trajectories)
    for part in ("train", "select", "test"):
        for state in getattr(wanted, part):
            assert parts[state.id] == part
    export_states(run, tmp_path / "states.jsonl", tasks=[task])
    starter = rows_of(tmp_path / "states.jsonl")
    assert [row["part"] for row in starter if row["state"]["step"] == 0] == ["train"]
    assert {row["part"] for row in starter} == {"train", "select", "test"}


def test_no_place_of_this_machine_is_in_the_file(run, task, tmp_path):
    export_states(run, tmp_path / "states.jsonl", tasks=[task])
    text = (tmp_path / "states.jsonl").read_text()
    assert (
        str(tmp_path) not in text
        and rows_of(tmp_path / "states.jsonl")[0]["provenance"]["run"] == "smoke-seed0"
    )


def test_the_command(run, task, tmp_path, capsys):
    out = tmp_path / "states.jsonl"
    words = ["export", str(run), "--out", str(out), "--task", str(task.folder)]
    assert cli.main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    count = len(rows_of(out))
    assert re.fullmatch(rf"{out}: {count} states, \d+ actions", lines[0])
    assert lines[1].startswith("1 actions were left out") and lines[2].endswith(
        "states.schema.json: what a line holds"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (
            ["nowhere", "--out", "x"],
            "nowhere/01_collection cannot be used: not finished. What to do: give the",
        ),
        (["RUN", "--out", "x", "--stage", "04_evaluation"], "run notebooks/04_evaluation.ipynb in it first"),
        (["RUN", "--out", "x"], "there is no task named 'tiny-homes'"),
        (["RUN", "--out", "x", "--task", "no/such"], "there is no task folder"),
    ],
)
def test_mistakes_get_one_line(run, words, expected, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["export", *(str(run) if word == "RUN" else word for word in words)]) == 2
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1 and not (tmp_path / "x").exists()


def test_a_damaged_run_and_other_data_are_refused(run, task, tmp_path):
    other = write_task(tmp_path / "other", train_csv="a,b,target\n3,2,10\n")
    with pytest.raises(RunError, match="states of task 'tiny-homes' were made on other data"):
        export_states(run, tmp_path / "states.jsonl", tasks=[other])
    with (run / "01_collection" / "trajectories.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(RunError, match="trajectories.jsonl has changed since"):
        export_states(run, tmp_path / "states.jsonl", tasks=[task])
    with pytest.raises(TaskError, match="no task named 'tiny-homes'"):
        known_tasks(["tiny-homes"])


def test_evaluated_policies_are_of_the_part_evaluation(run, task, trajectories, tmp_path):
    stage = Stage(run, "04_evaluation", params={"profile": "smoke", "seed": 0}, profile=get_profile("smoke"))
    with stage:
        append_jsonl(stage.path("trajectories.jsonl"), trajectories[0] | {"source": "rl"})
    found = export_states(run, tmp_path / "e.jsonl", stage="04_evaluation", tasks=[task])
    rows = rows_of(tmp_path / "e.jsonl")
    assert found["states"] == 3 and {row["part"] for row in rows} == {"evaluation"}
    assert {action["source"] for row in rows for action in row["actions"]} == {"rl"}
    assert rows[0]["provenance"]["stage"] == "04_evaluation" and broken_rules(rows[0]) == []
