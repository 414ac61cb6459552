"""Trajectories: rows that tell the truth, stops, retries of what we failed, and report labels."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_task import (
    TRAIN,
    FakeRunner,
    edit,
    final,
    graded,
    make_tools,
    neighbours,
    reply,
    submission,
    write_task,
)

from mlagent_lib.agents.ideas import Idea
from mlagent_lib.agents.policies import RandomIdeas, ScriptedExpert, Starter
from mlagent_lib.agents.rollout import (
    Job,
    edited_state,
    run_trajectories,
    step_row,
)
from mlagent_lib.agents.schema import SCHEMA_NAME, validate_row
from mlagent_lib.core.errors import Unscored
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import run_step, start_state
from mlagent_lib.environment.workspace import State
from mlagent_lib.results.evaluation import TaskScale, trajectory_table
from mlagent_lib.reward import reward_of
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.training.pool import states_of


class Says:
    """A policy that says these replies in turn, and counts how often it was asked."""

    name = "says"

    def __init__(self, *replies):
        self.replies, self.asked = replies, []

    def act(self, turns):
        self.asked.append(len(turns))
        return [self.replies[turn.state.step] for turn in turns]


def test_a_trajectory_row_by_hand(task, tmp_path):
    tools = make_tools(tmp_path)
    policy = Says(neighbours(8), "nonsense", neighbours(16), final())
    ideas = (Idea("model/knn/8", "model", "Use 8 nearest neighbours."),)
    progress = []
    (row,) = run_trajectories(
        [Job(task, "expert", 3, 7, ideas)], policy, tools, max_steps=15, progress=progress.append
    )
    validate_row(json.loads(json.dumps(row, allow_nan=False)))
    assert (row["schema"], row["id"], row["task"]) == (SCHEMA_NAME, "expert/tiny-homes/3", "tiny-homes")
    assert (row["split"], row["source"]) == ("held-in", "expert")
    assert row["ideas"] == [
        {"key": "model/knn/8", "axis": "model", "instruction": "Use 8 nearest neighbours."}
    ]
    steps = row["steps"]
    assert [step["outcome"] for step in steps] == ["edited", "invalid", "edited", "neutral"]
    assert [step["score_before"] for step in steps] == [5.0, 1.0, 1.0, 2.0]
    assert [step["score_after"] for step in steps] == [1.0, None, 2.0, None]
    assert [step["visible_metric"] for step in steps] == [1.0, None, 2.0, None]
    assert [step["reward"] for step in steps] == [1.0, 0.0, pytest.approx(2e-9, rel=0.1), 0.5]  # sigmoid(-20)
    assert [step["step"] for step in steps] == [0, 1, 2, 3] and progress == [1, 1, 1, 1]
    assert "n_neighbors=40" in steps[0]["script_before"] and "n_neighbors=8)" in steps[0]["script_after"]
    assert steps[1]["script_before"] == steps[1]["script_after"] == steps[0]["script_after"]
    kept = row["final"].pop("submissions")
    assert row["final"] == {"feedback_last": 2.0, "feedback_best": 1.0, "stop": "final-answer"}
    assert [tools.cache.archive[kept[name]] for name in ("start", "last", "best")] == [
        submission(n) for n in (40, 16, 8)
    ]
    row["final"]["submissions"] = kept
    (row,) = graded([row], task, tools)
    validate_row(json.loads(json.dumps(row, allow_nan=False)))
    del row["final"]["submissions"]
    assert row["final"] == {
        "feedback_last": 2.0, "report_last": 4.0, "feedback_best": 1.0, "report_best": 2.0,
        "report_start": 10.0, "report_path": [10.0, 2.0, 2.0, 4.0, 4.0], "report_kept": 2.0,
        "stop": "final-answer",
    }  # fmt: skip


def test_who_makes_trajectories_needs_no_report_labels(task, tmp_path):
    tools, path = make_tools(tmp_path), task.labels_dir / "report.csv"
    digest, labels = task.digest, path.read_bytes()
    path.unlink()
    policy = Says(neighbours(8), "nonsense", neighbours(16), final())
    rows = run_trajectories([Job(task, "x", 0, 0)], policy, tools, max_steps=15)
    assert [step["score_after"] for step in rows[0]["steps"]] == [1.0, None, 2.0, None]
    assert not [name for name in rows[0]["final"] if "report" in name] and task.digest == digest
    with pytest.raises(ValueError, match="is not graded"):
        trajectory_table(rows, {task.name: TaskScale.of(task)})
    with pytest.raises(Unscored, match="report.csv are missing"):
        graded(rows, task, tools)
    path.write_bytes(labels)
    (row,) = once = graded(rows, task, tools)
    assert [row["final"][f"report_{name}"] for name in ("start", "last", "best")] == [10.0, 4.0, 2.0]
    assert graded(once, task, tools) == once


def test_each_steps_state_restores_to_where_it_started(task, tmp_path):
    tools = make_tools(tmp_path)
    texts = (
        neighbours(8),
        reply("Copy File", source="train.py", destination="b.py"),
        neighbours(16),
        final(),
    )
    (row,) = run_trajectories([Job(task, "x", 0, 0)], Says(*texts), tools, max_steps=15)
    for step, text in zip(row["steps"], texts, strict=True):
        again = run_step(State.from_json(step["state"]), text, tools)
        assert step_row(State.from_json(step["state"]), text, again, task) | {"cache_hit": 0} == step | {
            "cache_hit": 0
        }
    found = [state for state, _ in states_of([row])]
    assert [state.step for state in found] == [0, 1, 2, 3] and found[0] == start_state(task, tools)


def test_all_advance_together_and_stop_each_in_its_own_way(task, tmp_path):
    class Mixed:
        name = "mixed"

        def act(self, turns):
            return [final() if turn.state.step == 1 and turn.ideas else neighbours(8) for turn in turns]

    some = (Idea("k", "model", "t"),)
    jobs = [Job(task, "x", 0, 0, some), Job(task, "x", 1, 0)]
    rows = run_trajectories(jobs, Mixed(), make_tools(tmp_path), max_steps=3)
    assert [row["id"] for row in rows] == ["x/tiny-homes/0", "x/tiny-homes/1"]
    assert [(row["final"]["stop"], len(row["steps"])) for row in rows] == [("final-answer", 2), ("steps", 3)]


def test_a_step_that_we_fail_is_tried_again_with_the_same_reply(task, tmp_path):
    failures = [Unscored("lost"), Unscored("lost")]

    def answer(request):
        return failures.pop() if failures and b"n_neighbors=8)" in request.files["train.py"] else None

    policy = Says(neighbours(8), final())
    (row,) = run_trajectories(
        [Job(task, "x", 0, 0)], policy, make_tools(tmp_path, FakeRunner(answer)), max_steps=5
    )
    assert [step["outcome"] for step in row["steps"]] == ["edited", "neutral"]
    assert policy.asked == [1, 1] and row["final"]["stop"] == "final-answer"


def test_a_step_that_we_fail_for_good_ends_its_own_trajectory_only(task, tmp_path):
    def answer(request):
        return Unscored("lost") if b"n_neighbors=8)" in request.files["train.py"] else None

    class Two:
        name = "two"

        def act(self, turns):
            return [
                neighbours(16) if turn.state.step == 0 else neighbours(8 if turn.ideas else 4)
                for turn in turns
            ]

    jobs = [Job(task, "x", 0, 0, (Idea("k", "model", "t"),)), Job(task, "x", 1, 0)]
    tools = make_tools(tmp_path, FakeRunner(answer))
    failed, whole = run_trajectories(jobs, Two(), tools, max_steps=3)
    assert failed["final"]["stop"] == "unscored" and whole["final"]["stop"] == "steps"
    last = failed["steps"][-1]
    assert (last["outcome"], last["reward"], last["score_after"], last["visible_metric"]) == (
        "unscored", None, None, None,
    )  # fmt: skip
    assert failed["final"]["feedback_last"] == 2.0 and len(failed["steps"]) == 2
    validate_row(json.loads(json.dumps(failed)))
    assert [state.step for state, _ in states_of([failed])] == [0]
    assert sum(b"n_neighbors=8)" in r.files["train.py"] for r in tools.runner.requests) == 3


def test_the_starter_scores_what_the_starter_scores(task, tmp_path):
    tools = make_tools(tmp_path)
    rows = run_trajectories([Job(task, "starter", 0, 0)], Starter(), tools, max_steps=15)
    (row,) = graded(rows, task, tools)
    found = row["final"]
    assert found["report_last"] == found["report_best"] == found["report_start"] == 10.0
    assert found["feedback_best"] == 5.0


def test_the_best_state_is_chosen_in_the_metrics_direction(tmp_path):
    card = __import__("tiny_task").CARD.replace("minimize", "maximize")
    task = write_task(tmp_path / "tasks", card=card)
    policy = Says(neighbours(48), neighbours(8), final())
    (row,) = run_trajectories([Job(task, "x", 0, 0)], policy, make_tools(tmp_path), max_steps=5)
    assert (row["final"]["feedback_best"], row["final"]["feedback_last"]) == (6.0, 1.0)


def test_a_job_may_start_from_a_state(task, tmp_path):
    tools = make_tools(tmp_path)
    state = run_step(start_state(task, tools), neighbours(8), tools).state
    rows = run_trajectories([Job(task, "x", 0, 0, start=state)], Says(None, final()), tools, max_steps=5)
    (row,) = graded(rows, task, tools)
    assert row["steps"][0]["step"] == 1 and row["final"]["report_start"] == 2.0


def test_script_after_follows_the_saved_name_in_any_spelling(task, tmp_path):
    (row,) = run_trajectories(
        [Job(task, "x", 0, 0)],
        Says(
            edit("Use 8 nearest neighbours.", save_name="./lib/../b.py"),
            edit("Use 8.", save_name="../b"),
            final(),
        ),
        make_tools(tmp_path),
        max_steps=5,
    )
    assert "n_neighbors=8)" in row["steps"][0]["script_after"]
    assert row["steps"][1]["outcome"] == "error" and "n_neighbors=40" in row["steps"][1]["script_after"]


def test_the_state_after_an_edit_runs_what_the_edit_ran(task, tmp_path):
    says = Says(edit("Use 8 nearest neighbours.", save_name="b.py"), neighbours(16), final())
    (row,) = run_trajectories([Job(task, "x", 0, 0)], says, make_tools(tmp_path), max_steps=5)
    copy, starter = (edited_state(step, task) for step in row["steps"][:2])
    assert b"n_neighbors=8)" in copy.files["train.py"] == copy.files["b.py"] and copy.score == 1.0
    assert b"n_neighbors=16)" in starter.files["train.py"] and starter.score == 2.0
    assert b"n_neighbors=8)" in starter.files["b.py"]


def test_a_step_records_the_file_that_was_edited(tmp_path):
    folder = Path(write_task(tmp_path / "tasks").folder)
    (folder / "env" / "model.py").write_text(TRAIN.replace("n_neighbors=40", "n_neighbors=7"))
    says = Says(edit("Use 8 nearest neighbours.", "model.py", "model.py"), final())
    (row,) = run_trajectories([Job(find_task(folder), "x", 0, 0)], says, make_tools(tmp_path), max_steps=5)
    edited, last = row["steps"]
    assert "n_neighbors=7)" in edited["script_before"] and "n_neighbors=8)" in edited["script_after"]
    assert (edited["outcome"], edited["score_after"]) == ("edited", 5.0)  # train.py does not read it here
    assert "n_neighbors=40)" in last["script_before"] == last["script_after"]


def test_replies_that_no_file_can_hold_are_recorded_all_the_same(task, tmp_path):
    (row,) = run_trajectories(
        [Job(task, "x", 0, 0)], Says("\ud800", final()), make_tools(tmp_path), max_steps=5
    )
    json.dumps(row, ensure_ascii=False).encode()
    assert row["steps"][0]["reply"] == "?"


def test_rewards_take_the_tasks_feedback_scale(task, tmp_path):
    tools = make_tools(tmp_path)
    start = start_state(task, tools)
    better, lost = run_step(start, neighbours(36), tools), run_step(start, neighbours(44), tools)
    assert reward_of(better, task, "v2") == pytest.approx(0.1) and reward_of(
        lost, task, "v2"
    ) == pytest.approx(-0.1)
    unscored = type(better)(start, Outcome.UNSCORED, "execution", "")
    assert reward_of(unscored, task) is None


def test_a_starter_that_cannot_run_is_our_failure(task, tmp_path):
    tools = make_tools(tmp_path, FakeRunner(lambda request: Unscored("no server")))
    with pytest.raises(Unscored, match="no server"):
        run_trajectories([Job(task, "x", 0, 0)], Starter(), tools, max_steps=5)


@pytest.mark.parametrize("policy", [RandomIdeas(), ScriptedExpert()])
def test_rows_depend_on_seed_and_index_and_not_on_company(task, tmp_path, policy):
    ideas = (Idea("k", "model", "Use 8 nearest neighbours."),)
    tools = make_tools(tmp_path)

    def run(*numbers, seed=0):
        jobs = [Job(task, policy.name, number, seed, ideas) for number in numbers]
        rows = run_trajectories(jobs, policy, tools, max_steps=3)
        return [[step["reply"] for step in row["steps"]] for row in rows]

    assert run(0, 1, 2)[1] == run(1)[0] == run(2, 1)[1]
    assert run(1) != run(1, seed=1) or run(2) != run(2, seed=1)
