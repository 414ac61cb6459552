"""One step: every outcome and every observation once, the order of rows, and rows apart."""

from __future__ import annotations

import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_task import (
    CARD,
    NAME,
    TRAIN,
    FakeRunner,
    edit,
    final,
    make_tools,
    neighbours,
    reply,
    result,
    submission,
    write_task,
)

from mlagent_lib.core.errors import CoderError, Unscored
from mlagent_lib.environment import step as stepping
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.runner import Runner
from mlagent_lib.environment.step import (
    PendingSteps,
    Toolbox,
    run_step,
    run_steps,
    start_state,
    visible_metric,
)
from mlagent_lib.reward import step_reward
from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.registry import find_task

SAVED = "The edited file is saved to train.py.\n"


@pytest.fixture
def tools(tmp_path, task):
    return make_tools(tmp_path)


@pytest.fixture
def start(task, tools):
    return start_state(task, tools)


def answering(tools, answer, **changes) -> Toolbox:
    """Return the toolbox with a runner that gives this answer, and a cache of its own."""
    fresh = type(tools.cache)(tools.cache.folder.parent / f"cache{id(answer)}")
    return replace(tools, runner=FakeRunner(lambda request: answer), cache=fresh, **changes)


def test_the_first_state_is_the_starter_executed_once(task, tools, start):
    assert (start.task, start.task_digest, start.step, start.done) == (NAME, task.digest, 0, False)
    assert (start.score, start.visible, start.visible_start, start.history) == (5.0, 5.0, 5.0, ())
    assert dict(start.files) == task.env_files()
    assert grade(task, tools.cache.archive[start.submission], "report") == 10.0
    (request,) = tools.runner.requests
    assert request.script == "train.py" and request.data_dir == task.data_dir
    assert set(request.files) == {"train.py", "data_description.txt"} and request.limits.seconds == 5


@pytest.mark.parametrize(
    ("text", "outcome", "reason", "observation"),
    [
        # INVALID: the reply is no action; one row for each class is in test_actions
        ("hello", "invalid", "missing-field",
         "Invalid action: the field 'Reflection:' is missing or out of order."),
        (reply("Dance"), "invalid", "unknown-action",
         "Invalid action: 'Dance'. Choose one of: List Files, Copy File, Execute Script, Final Answer, "
         "Understand File, Inspect Script Lines, Edit Script (AI)."),
        (reply("Final Answer", answer="x"), "invalid", "wrong-arguments",
         "ActionInputParsingError: the keys must be exactly final_answer."),
        (reply("List Files", dir_path=["."]), "invalid", "wrong-type",
         "ActionInputParsingError: dir_path must be a plain string."),
        (reply("Inspect Script Lines", script_name="train.py", start_line_number="a", end_line_number="2"),
         "invalid", "wrong-type", "ActionInputParsingError: start_line_number must be a whole number."),
        (reply("Final Answer", final_answer="x") + "}", "invalid", "bad-json",
         "ActionInputParsingError: the Action Input is not one JSON object."),
        ("x" * 20_001, "invalid", "too-long", "Invalid action: the reply is longer than 20000 characters."),
        # NEUTRAL: looks, copies, the end
        (reply("List Files", dir_path="."), "neutral", "valid", "data/\ndata_description.txt\ntrain.py"),
        (reply("List Files", dir_path="data"), "neutral", "valid", "test.csv\ntrain.csv"),
        (reply("Copy File", source="train.py", destination="./old/train.py"), "neutral", "valid",
         "File train.py copied to old/train.py"),
        (reply("Inspect Script Lines", script_name="train.py", start_line_number="5", end_line_number="6"),
         "neutral", "valid", "Here are the lines (the file ends at line 16):\n\n# data\n"
         "from sklearn.impute import SimpleImputer"),
        (reply("Understand File", file_name="data_description.txt", things_to_look_for="the target"),
         "neutral", "valid", "data_description.txt has 2 lines. By key word, without a reading model:\n"
         "2: The target is the price."),
        (final(), "neutral", "valid", "The answer is noted. The run ends here."),
        (reply("Execute Script", script_name="train.py"), "neutral", "valid",
         "The script has been executed. Here is the output:\nvalidation mae: 5.000\n"),
        # ERROR: the tool refuses
        (reply("List Files", dir_path="none"), "error", "tool",
         "EnvError: cannot list files in the folder none: no such folder."),
        (reply("List Files", dir_path="../"), "error", "tool",
         "EnvError: '../' is not a path inside the workspace."),
        (reply("Copy File", source="data/train.csv", destination="a.csv"), "error", "tool",
         "EnvError: cannot read file data/train.csv: it does not exist or is data."),
        (reply("Copy File", source="train.py", destination="./data/../data_description.txt"), "error", "tool",
         "EnvError: data_description.txt is read-only."),
        (reply("Copy File", source="train.py", destination="data"), "error", "tool",
         "EnvError: data is read-only."),
        (reply("Copy File", source="train.py", destination="."), "error", "tool",
         "EnvError: '.' is not a path inside the workspace."),
        (reply("Copy File", source="train.py", destination="train.py/copy"), "error", "tool",
         "EnvError: train.py/copy is a folder or lies below a file."),
        (reply("Copy File", source="train.py", destination="submission.csv"), "error", "tool",
         "EnvError: submission.csv is written by a script that runs, not by hand."),
        (reply("Inspect Script Lines", script_name="train.py", start_line_number="1", end_line_number="101"),
         "error", "tool", "EnvError: lines 1 to 101: show at most 100 lines, first to last."),
        (reply("Execute Script", script_name="none.py"), "error", "tool",
         "EnvError: cannot read file none.py: it does not exist or is data."),
        (edit("Use 12 nearest neighbours.", save_name="data_description.txt"), "error", "tool",
         "EnvError: data_description.txt is read-only."),
        (edit("Use 12 nearest neighbours.", script_name="none.py"), "error", "tool",
         "EnvError: cannot read file none.py: it does not exist or is data."),
        # ERROR: the script fails
        (edit("Use a linear model without regularisation."), "error", "NameError",
         f"{SAVED}The script has failed.\nNameError: name 'x' is not defined\n"),
        # CORNER: the coder fails
        (edit("Make it good."), "corner", "coder",
         "LLMError: the edit was not made: the rule coder does not know the instruction 'Make it good.'"),
        # EDITED
        (neighbours(12), "edited", "scored",
         f"{SAVED}The script has been executed. Here is the output:\nvalidation mae: 1.500\n"),
        (edit("Use 12 nearest neighbours.", save_name="b.py"), "edited", "scored",
         "The edited file is saved to b.py.\nThe script has been executed. Here is the output:\n"
         "validation mae: 1.500\n"),
    ],
)  # fmt: skip
def test_outcome_reason_and_observation_of_a_reply(start, tools, text, outcome, reason, observation):
    if "linear model without" in text:
        text = text.replace("Use a linear model without regularisation.", plain_linear())
    found = run_step(start, text, tools)
    assert (found.outcome.value, found.reason, found.observation) == (outcome, reason, observation)
    assert found.state.history[-1].observation == observation and found.state.step == 1
    assert found.executed == (found.tier != "")


UNDO = reply("Undo Edit Script", script_name="train.py")
BACK = "train.py is as it was before its last edit.\n"


def told(tools, state, *texts):
    """Return what the last of these replies does, one after the other."""
    for text in texts:
        found = run_step(state, text, tools)
        state = found.state
    return found


def test_what_is_undone_runs_again_and_is_worth_what_it_was(start, tools):
    found = told(tools, start, neighbours(12), neighbours(64), UNDO)
    ran = "The script has been executed. Here is the output:\nvalidation mae: 1.500\n"
    assert (found.outcome.value, found.reason, found.observation) == ("edited", "scored", BACK + ran)
    assert (found.score_before, found.score_after, found.cache_hit) == (8.0, 1.5, True)
    assert found.state.visible == 1.5 and b"n_neighbors=12)" in found.state.files["train.py"]
    once = told(tools, found.state, UNDO)
    assert once.score_after == 5.0 and dict(once.state.files) == dict(start.files) and not once.state.past
    more = told(tools, once.state, UNDO)
    assert (more.outcome.value, more.reason) == ("error", "tool")
    assert more.observation == "EnvError: there is no edit of train.py to undo."
    assert more.state.score == 5.0 and dict(more.state.files) == dict(start.files)


def test_a_broken_script_is_mended_by_undo_and_an_edit_that_was_not_made_is_none(start, tools):
    broken = told(tools, start, neighbours(12), edit(plain_linear()), edit("Make it good."))
    assert len(broken.state.past) == 2
    found = told(tools, broken.state, UNDO)
    assert (found.outcome.value, found.score_before, found.score_after) == ("edited", 1.5, 1.5)


def test_undo_knows_files_apart_and_removes_what_an_edit_had_made(start, tools):
    new = told(tools, start, edit("Use 12 nearest neighbours.", save_name="b.py"), neighbours(8))
    assert told(tools, new.state, UNDO).score_after == 5.0
    gone = told(tools, new.state, reply("Undo Edit Script", script_name="b.py"))
    assert (gone.outcome.value, gone.executed, gone.state.score) == ("neutral", False, 1.0)
    assert gone.observation == "b.py is as before its first edit: it does not exist."
    assert set(gone.state.files) == set(start.files)


def plain_linear() -> str:
    """Return an instruction after which the script has no n_neighbors, so that `FakeRunner` fails it."""
    from mlagent_lib.tasks.pocket.catalogue import edits

    return next(
        e.instruction
        for e in edits("tabular", "regression")
        if e.axis == "model" and "n_neighbors" not in e.block
    )


@pytest.mark.parametrize(
    ("answer", "outcome", "reason", "observation"),
    [
        *[
            (result(status, "half way\n"), "corner", status,
             f"The script was stopped: {status} limit reached.\nhalf way\n")
            for status in ("timeout", "memory", "disk", "files", "processes", "output")
        ],
        (result("error", "boom\n", error_type="KeyError"), "error", "KeyError",
         "The script has failed.\nboom\n"),
        (result("error", "killed\n"), "error", "script", "The script has failed.\nkilled\n"),
        (result(output="x\n"), "error", "submission-missing",
         "The script ended, but its submission.csv was refused: missing.\nx\n"),
        (result(output="x\n", collect_errors={"submission.csv": "symlink"}), "error", "submission-symlink",
         "The script ended, but its submission.csv was refused: symlink.\nx\n"),
        (result(output="x\n", collected={"submission.csv": b"id,prediction\n1,5\n"}), "error",
         "submission-row-count", "The script ended, but its submission.csv was refused: row-count.\nx\n"),
        (result(output="x\n", collected={"submission.csv": submission(8).replace(b"11.0", b"nan")}), "error",
         "submission-not-a-number",
         "The script ended, but its submission.csv was refused: not-a-number.\nx\n"),
        (result(output="b" * 9 + "a" * 2000, collected={"submission.csv": submission(8)}), "edited", "scored",
         "The script has been executed. Here is the output:\n" + "a" * 2000),
    ],
)  # fmt: skip
def test_what_came_of_a_script(start, tools, answer, outcome, reason, observation):
    found = run_step(start, neighbours(8), answering(tools, answer))
    assert (found.outcome.value, found.reason, found.observation) == (outcome, reason, SAVED + observation)
    assert (found.executed, found.seconds, found.tier) == (True, 0.5, "fake")
    # the edit stays, the score of a script that gave none does not move
    assert b"n_neighbors=8)" in found.state.files["train.py"]
    expected = (5.0, 1.0) if outcome == "edited" else (5.0, None)
    assert (found.score_before, found.score_after) == expected
    assert found.state.score == (1.0 if outcome == "edited" else 5.0)
    assert (found.state.submission == start.submission) == (outcome != "edited")


def test_every_outcome_occurs_in_the_tables_and_unscored_is_its_own_test():
    import sys

    own = sys.modules[__name__]
    seen = set()
    for test in (own.test_outcome_reason_and_observation_of_a_reply, own.test_what_came_of_a_script):
        seen |= {row[1] for mark in test.pytestmark if mark.name == "parametrize" for row in mark.args[1]}
    assert seen == {outcome.value for outcome in Outcome} - {"unscored"}


def test_scores_pass_from_step_to_step(start, tools):
    first = run_step(start, neighbours(12), tools)
    assert (first.score_before, first.score_after, first.state.score, first.state.visible) == (
        5.0,
        1.5,
        1.5,
        1.5,
    )
    second = run_step(first.state, neighbours(16), tools)
    assert (second.score_before, second.score_after) == (1.5, 2.0)
    # a broken script leaves m_t at the last valid score, and the next edit starts from it
    broken = run_step(second.state, edit(plain_linear()), tools)
    assert (broken.outcome, broken.state.score, broken.score_after) == (Outcome.ERROR, 2.0, None)
    mended = run_step(broken.state, neighbours(4), tools)
    assert (mended.score_before, mended.score_after) == (2.0, 0.5)
    assert mended.state.visible_start == 5.0 and mended.state.step == 4
    assert [step.visible for step in mended.state.history] == [1.5, 2.0, None, 0.5]
    assert [step.outcome for step in mended.state.history] == ["edited", "edited", "error", "edited"]
    assert len(start.history) == 0


def test_history_holds_what_the_policy_did_and_saw(start, tools):
    text = reply("Copy File", source="./train.py", destination="b.py")
    state = run_step(run_step(start, "nonsense", tools).state, text, tools).state
    invalid, copied = state.history
    assert (invalid.reply, invalid.action, invalid.action_input, invalid.outcome) == (
        "nonsense",
        "",
        {},
        "invalid",
    )
    assert (copied.reply, copied.action) == (text, "Copy File")
    assert copied.action_input == {"source": "./train.py", "destination": "b.py"}
    assert state.files["b.py"] == state.files["train.py"]


def test_only_a_final_answer_ends(start, tools):
    assert run_step(start, final(), tools).state.done
    assert not run_step(start, neighbours(8), tools).state.done


def test_a_full_workspace_takes_no_further_file(start, tools):
    full = replace(start, files={**start.files, **{f"f{i}.py": b"" for i in range(48)}})
    found = run_step(full, reply("Copy File", source="train.py", destination="new.py"), tools)
    assert (found.outcome, found.observation) == (
        Outcome.ERROR, "EnvError: the workspace is full: it holds at most 50 files.",
    )  # fmt: skip
    assert run_step(full, reply("Copy File", source="train.py", destination="f0.py"), tools).reason == "valid"


def test_a_file_cannot_take_the_place_of_a_folder(start, tools):
    nested = start.with_file("lib/a.py", b"")
    found = run_step(nested, reply("Copy File", source="train.py", destination="lib"), tools)
    assert found.observation == "EnvError: lib is a folder or lies below a file."


def test_rows_keep_their_order_and_equal_experiments_are_made_once(start, tools):
    before = len(tools.runner.requests)
    texts = [neighbours(16), "nonsense", neighbours(8), final(), neighbours(16)]
    found = run_steps([(start, text) for text in texts], tools)
    assert [row.score_after for row in found] == [2.0, None, 1.0, None, 2.0]
    assert [row.outcome.value for row in found] == ["edited", "invalid", "edited", "neutral", "edited"]
    assert [row.cache_hit for row in found] == [False, False, False, False, True]
    assert len(tools.runner.requests) == before + 2
    again = run_steps([(start, text) for text in reversed(texts)], tools)
    assert [row.score_after for row in again] == [2.0, None, 1.0, None, 2.0]
    assert len(tools.runner.requests) == before + 2
    assert all(row.cache_hit and row.seconds == 0.5 for row in again if row.executed)
    assert run_steps([], tools) == []


def test_the_same_row_alone_and_among_others_gives_the_same(start, tools):
    texts = [neighbours(8), "nonsense", edit("Make it good."), reply("List Files", dir_path=".")]
    together = run_steps([(start, text) for text in texts], tools)
    for row, text in zip(together, texts, strict=True):
        assert run_step(start, text, tools).state == row.state


def test_a_row_that_we_fail_is_unscored_and_spoils_no_other(start, tools):
    lost = Unscored("the server died", cure="wait")
    runner = FakeRunner(lambda request: lost if b"n_neighbors=8)" in request.files["train.py"] else None)
    found = run_steps([(start, neighbours(n)) for n in (16, 8, 4, 8)], replace(tools, runner=runner))
    assert [row.outcome.value for row in found] == ["edited", "unscored", "edited", "unscored"]
    assert found[1].state is start and found[1].reason == "execution"
    assert found[1].failure == "the server died. What to do: wait" and found[1].observation == ""
    assert (found[1].score_after, found[1].executed) == (None, False)
    with pytest.raises(ValueError, match="no reward"):
        step_reward(found[1].outcome, init=5.0, best=0.0)
    # nothing of it was remembered: with a server that is well the same step is scored
    assert run_step(start, neighbours(8), tools).score_after == 1.0


def test_labels_that_are_lost_are_our_failure(start, task, tools):
    (task.labels_dir / "feedback.csv").unlink()
    found = run_step(start, neighbours(8), tools)
    assert (found.outcome, found.reason) == (
        Outcome.UNSCORED,
        "execution",
    ) and "feedback.csv" in found.failure


class MixedCoder:
    """Fails in each way a coder can, by the instruction."""

    name = "mixed"

    def edit_many(self, requests):
        made = {
            "up": TRAIN.replace("40", "8"),
            "odd": TRAIN.replace("40", "16") + "# \ud800\n",
            "no": CoderError("cannot \ud800"),
            "lost": Unscored("no server"),
        }
        return [made[request.instruction] for request in requests]


def test_the_coders_failures_are_not_the_policys(start, tools):
    mixed = replace(tools, coder=MixedCoder())
    up, lost, refused, odd = run_steps([(start, edit(word)) for word in ("up", "lost", "no", "odd")], mixed)
    assert (up.outcome, up.score_after) == (Outcome.EDITED, 1.0)
    assert (lost.outcome, lost.reason, lost.failure) == (Outcome.UNSCORED, "coder-server", "no server")
    assert lost.state is start
    assert (refused.outcome, refused.reason) == (Outcome.CORNER, "coder")
    assert refused.observation == "LLMError: the edit was not made: cannot ?"
    assert refused.state.files == start.files and not refused.executed
    assert (odd.outcome, odd.score_after) == (Outcome.EDITED, 2.0)
    assert odd.state.files["train.py"].endswith(b"# ?\n")


# ---- edits of other files than the entry script ------------------------------------------------------

WHOLE = "from lib.model import N\nshift=0\nwrites submission.csv\n"


class LastWord:
    """Writes the last word of an instruction in place of the number after ``shift=``."""

    name = "last-word"

    def edit_many(self, requests):
        return [
            re.sub(r"shift=-?\d+", f"shift={request.instruction.split()[-1]}", request.script)
            for request in requests
        ]


def from_the_module(request):
    """Run as a real script would: only the starter and its copies hand in, with what the other files say."""
    text = b"".join(request.files.get(name, b"") for name in ("lib/model.py", "config.yaml"))
    hands_in = b"submission.csv" in request.files[request.script]
    n = 40 + sum(map(int, re.findall(rb"shift=(-?\d+)", text + request.files[request.script])))
    return result(collected={"submission.csv": submission(n)} if hands_in else {})


@pytest.fixture
def wide(tmp_path):
    """Return the start of a task whose script reads a module in a folder and a configuration."""
    folder = Path(write_task(tmp_path / "tasks", train_py=WHOLE).folder) / "env"
    (folder / "lib").mkdir()
    (folder / "lib" / "model.py").write_text("N = 1  # shift=0\n")
    (folder / "config.yaml").write_text("size: 1  # shift=0\n")
    tools = make_tools(tmp_path, FakeRunner(from_the_module), LastWord())
    return start_state(find_task(tmp_path / "tasks" / NAME), tools), tools


@pytest.mark.parametrize(
    ("source", "saved", "runs", "score"),  # off by 5.0 with 40 neighbours, by 1.0 with 32 fewer
    [
        ("lib/model.py", "lib/model.py", "train.py", 1.0),
        ("./lib/../lib/model.py", "lib/model.py/", "train.py", 1.0),
        ("config.yaml", "config.yaml", "train.py", 1.0),
        ("config.yaml", "lib/new.yaml", "train.py", 5.0),  # a new file that nothing reads
        ("lib/model.py", "lib/other.py", "train.py", 5.0),  # a new module that nothing imports yet
        ("train.py", "train.py", "train.py", 1.0),
        ("train.py", "train2.py", "train2.py", 1.0),  # a copy of the starter stands in its place
        ("train.py", "lib/model.py", "train.py", 1.0),  # a module that is overwritten stays a module
    ],
)
def test_an_edit_is_worth_what_it_changes_in_a_run_of_the_entry_script(wide, source, saved, runs, score):
    start, tools = wide
    made = run_step(start, edit("shift to -32", saved, source), tools)
    assert tools.runner.requests[-1].script == runs
    assert (made.outcome, made.reason) == (Outcome.EDITED, "scored"), made.observation
    assert (made.score_before, made.score_after) == (5.0, score)
    told = made.observation.split("\n")[1]
    assert told.startswith("The script has" if runs == saved else "train.py has")
    empty = run_step(made.state, edit("shift to 0"), tools)  # train.py as it was
    if source == saved == "lib/model.py":
        assert (empty.score_before, empty.score_after) == (1.0, 1.0)  # no gain is left for the next edit


def test_a_module_that_breaks_the_run_is_the_edits_fault(wide):
    start, tools = wide
    broken = replace(tools, runner=FakeRunner(lambda request: result("error", "no", error_type="KeyError")))
    made = run_step(start, edit("shift to -32", "lib/model.py", "lib/model.py"), broken)
    assert (made.outcome, made.reason, made.state.score) == (Outcome.ERROR, "KeyError", 5.0)
    assert made.observation.startswith("The edited file is saved to lib/model.py.\ntrain.py has failed.")


def test_a_module_runs_by_itself_when_it_is_asked_for(wide):
    start, tools = wide
    made = run_step(start, reply("Execute Script", script_name="lib/model.py"), tools)
    assert tools.runner.requests[-1].script == "lib/model.py"
    assert (made.outcome, made.reason) == (Outcome.ERROR, "submission-missing")


def test_work_goes_on_in_a_copy_of_the_starter(wide):
    start, tools = wide
    first = run_step(start, edit("shift to -8", "v2.py"), tools)
    second = run_step(first.state, edit("shift to -16", "v2.py", "v2.py"), tools)
    third = run_step(second.state, edit("shift to -24", "v3.py", "v2.py"), tools)
    assert [made.score_after for made in (first, second, third)] == [4.0, 3.0, 2.0]


def test_the_tasks_own_starter_is_the_entry_script(tmp_path):
    folder = Path(write_task(tmp_path / "tasks", train_py="shift=0\n").folder)
    (folder / "env" / "main.py").write_text(WHOLE)
    (folder / "task.yaml").write_text(CARD + "starter: main.py\n")
    tools = make_tools(tmp_path, FakeRunner(from_the_module), LastWord())
    start = start_state(find_task(folder), tools)
    made = run_step(start, edit("shift to -32", "train.py"), tools)
    assert {request.script for request in tools.runner.requests} == {"main.py"}
    assert (start.score, made.score_after) == (5.0, 5.0)


def test_a_state_of_other_data_is_unscored(start, tools):
    found = run_step(replace(start, task_digest="0" * 64), neighbours(8), tools)
    assert (found.outcome, found.reason) == (Outcome.UNSCORED, "other-data")
    assert found.failure == f"the state was made on other data of task {NAME!r}"


def test_a_task_is_read_once(start, tools, monkeypatch):
    reads = []
    monkeypatch.setattr(
        stepping, "find_task", lambda name, home: reads.append(name) or find_task(home / name)
    )
    fresh = replace(tools, tasks={})
    run_steps([(start, neighbours(n)) for n in range(2, 12)], fresh)
    run_step(start, neighbours(40), fresh)
    assert reads == [NAME]


def test_a_submission_in_the_workspace_is_not_taken_for_the_runs_own(start, tools):
    planted = start.with_file("submission.csv", submission(0))
    run_step(planted, neighbours(8), tools)
    assert "submission.csv" not in tools.runner.requests[-1].files


def test_limits_of_the_task_hold_unless_overridden(task, tmp_path):
    tools = make_tools(tmp_path, limits=None)
    start_state(task, tools)
    assert tools.runner.requests[0].limits == task.limits


def test_a_starter_without_a_score_is_our_failure(task, tools):
    with pytest.raises(Unscored, match=r"'tiny-homes' gave no score \(env/train.py: timeout; "):
        start_state(task, answering(tools, result("timeout")))
    with pytest.raises(Unscored, match="lost"):
        start_state(task, answering(tools, Unscored("lost")))


@pytest.mark.parametrize(
    ("output", "seen"),
    [
        ("validation accuracy: 0.75\n", 0.75),
        ("validation mae: 3\nvalidation mae: 2.5\n", 2.5),  # the last counts
        ("Validation map@5: 1e-3", 0.001),
        ("validation rmse: -1.5e+2\nbye", -150.0),
        ("the validation mae: 3", None),  # not at the start of a line
        ("validation mae: 3 (mean)", None),
        ("validation mae: nan", None),
        ("validation mae: 2\nvalidation mae: 1e999\n", 2.0),  # JSON cannot carry infinity
        ("", None),
    ],
)
def test_the_visible_metric(output, seen):
    assert visible_metric(output) == seen


WORDS = st.sampled_from(
    [
        "train.py",
        ".",
        "data",
        "data/train.csv",
        "b.py",
        "..",
        "",
        "1",
        "5",
        "Use 8 nearest neighbours.",
        "\ud800",
        "x",
    ]
)
CALLS = st.one_of(
    st.builds(lambda a: reply("List Files", dir_path=a), WORDS),
    st.builds(lambda a, b: reply("Copy File", source=a, destination=b), WORDS, WORDS),
    st.builds(lambda a: reply("Execute Script", script_name=a), WORDS),
    st.builds(lambda a, b: reply("Understand File", file_name=a, things_to_look_for=b), WORDS, WORDS),
    st.builds(lambda a, b, c: edit(a, save_name=b, script_name=c), WORDS, WORDS, WORDS),
    st.builds(
        lambda a, b, c: reply(
            "Inspect Script Lines", script_name=a, start_line_number=b, end_line_number=c
        ),
        WORDS, WORDS, WORDS,
    ),
    st.text(st.characters(exclude_categories=())),
)  # fmt: skip


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(texts=st.lists(CALLS, min_size=1, max_size=4))
def test_any_texts_come_to_one_scored_outcome_each_and_a_finite_reward(start, tools, texts):
    found = run_steps([(start, text) for text in texts], tools)
    assert len(found) == len(texts)
    for row in found:
        assert row.outcome is not Outcome.UNSCORED and row.reason and row.observation.isprintable is not None
        value = step_reward(row.outcome, before=row.score_before, after=row.score_after, init=5.0, best=0.0)
        assert 0.0 <= value <= 1.0
        assert row.state.step == 1 and set(start.files) <= set(row.state.files)
        assert row.state.files["data_description.txt"] == start.files["data_description.txt"]
        json.dumps(row.state.to_json(), ensure_ascii=False, allow_nan=False).encode()


@pytest.mark.slow
def test_a_real_edit_of_a_real_pocket_task_is_isolated_scored_and_remembered(tmp_path):
    from mlagent_lib.environment.cache import ExecutionCache
    from mlagent_lib.environment.coder import RuleCoder

    task = find_task("pocket-digits")
    with Runner(workers=1) as runner:
        tools = Toolbox(runner, RuleCoder(), ExecutionCache(tmp_path))
        start = start_state(task, tools)
        rows = [edit("Use the raw pixels."), "nonsense", edit("Use 9999 nearest neighbours.")]
        good, invalid, bad = run_steps([(start, text) for text in rows], tools)
        again = run_step(start, rows[0], tools)
    assert start.score == pytest.approx(task.baseline["feedback"])
    assert (
        good.outcome is Outcome.EDITED and good.score_after > start.score + 0.03 and good.tier == runner.tier
    )
    assert invalid.outcome is Outcome.INVALID
    assert (bad.outcome, bad.reason) == (Outcome.ERROR, "ValueError") and "n_neighbors" in bad.observation
    assert again.cache_hit and again.state == good.state


def test_experiments_that_are_under_way_are_not_made_again(start, tools):
    holds = threading.Event()
    runner = FakeRunner(lambda request: holds.wait(30) and None)  # each script waits, then is answered
    tools = replace(tools, runner=runner)
    first = PendingSteps([(start, neighbours(8)), (start, neighbours(16))], tools)
    second = PendingSteps([(start, neighbours(16)), (start, neighbours(4))], tools)
    holds.set()
    found = [*first.results(), *second.results()]
    assert [row.score_after for row in found] == [1.0, 2.0, 2.0, 0.5]
    assert [row.cache_hit for row in found] == [False, False, True, False] and len(runner.requests) == 3


def test_a_batch_that_breaks_leaves_nobody_waiting(start, tools):
    def broken(request):
        raise KeyboardInterrupt

    bad = PendingSteps([(start, neighbours(8))], replace(tools, runner=FakeRunner(broken)))
    with pytest.raises(KeyboardInterrupt):
        bad.results()
    assert run_step(start, neighbours(8), tools).score_after == 1.0
