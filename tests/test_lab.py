"""What the notebooks call: rows are written as they come, and a piece that was cut off goes on."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from fake_openai import FakeOpenAI
from tiny_task import NAME, TRAIN, FakeRunner, edit, final, write_task

from mlagent_lib.agents.policies import ChatPolicy, RandomIdeas, ScriptedExpert, Starter
from mlagent_lib.agents.schema import validate_row
from mlagent_lib.core.arms import get_arm
from mlagent_lib.core.errors import MlagentError, ProfileError
from mlagent_lib.core.files import read_jsonl
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import ChatCoder, RuleCoder, chat_messages
from mlagent_lib.run import lab as labs
from mlagent_lib.run import stages
from mlagent_lib.run.lab import (
    Lab,
    baseline_policy,
    chosen_ideas,
    collect,
    evaluate,
    expert_policy,
    make_coder,
)


@pytest.fixture
def lab(tmp_path):
    task = write_task(tmp_path / "tasks")
    smoke = get_profile("smoke")
    profile = replace(
        smoke,
        collect=replace(smoke.collect, tasks=(NAME,), trajectories_per_task=3, max_steps=3),
        evaluate=replace(smoke.evaluate, tasks=(NAME,), k=2, max_steps=2),
    )
    return Lab(profile, 0, tmp_path / "run", FakeRunner(), ExecutionCache(tmp_path / "cache"), {NAME: task})


def test_the_toolbox_shares_runner_cache_tasks_and_the_profiles_format(lab):
    tools = lab.tools()
    assert (tools.runner, tools.cache, tools.reply_format) == (lab.runner, lab.cache, "six")
    assert isinstance(tools.coder, RuleCoder) and tools.task(NAME) is lab.task(NAME)
    other = RuleCoder()
    assert lab.tools(other).coder is other
    lab.profile = replace(lab.profile, reply_format="no-thought")
    assert lab.tools().reply_format == "no-thought"


def test_tasks_by_choice(lab, monkeypatch):
    monkeypatch.setattr(labs, "find_task", lambda name: name)
    assert [len(lab.tasks(choice)) for choice in ("all", "held-in", "held-out")] == [19, 9, 10]
    assert lab.tasks([NAME]) == [lab.task(NAME)]
    (scale,) = lab.scales()
    assert scale.task == NAME


def test_opening_makes_the_folder_and_refuses_what_it_does_not_know(tmp_path):
    opened = labs.open_lab("smoke", 3, str(tmp_path), "")
    try:
        assert opened.run_dir == tmp_path / "smoke-seed3" and opened.run_dir.is_dir() and opened.seed == 3
    finally:
        opened.close()
    with pytest.raises(ProfileError, match="seed is '3'"):
        labs.open_lab("smoke", "3", str(tmp_path), "")
    with pytest.raises(ProfileError, match="seed is True"):
        labs.open_lab("smoke", True, str(tmp_path), "")
    with pytest.raises(ProfileError, match="lapto"):
        labs.open_lab("lapto", 0, str(tmp_path), "")


def test_policies_and_coders_by_name(lab):
    assert isinstance(baseline_policy("starter"), Starter)
    assert isinstance(baseline_policy("random-ideas"), RandomIdeas)
    assert baseline_policy("fixed-sequence").name == "fixed-sequence"
    with pytest.raises(ProfileError, match="policy 'best' is unknown"):
        baseline_policy("best")
    record = lab.run_dir / "replies.jsonl"
    assert isinstance(expert_policy(lab, "scripted", record), ScriptedExpert)
    silent = replace(lab, profile=replace(lab.profile, reply_format="no-thought"))
    assert expert_policy(silent, "scripted", record).reply_format == "no-thought"
    assert isinstance(expert_policy(lab, "openai:m@http://127.0.0.1:9/v1", record), ChatPolicy)
    assert isinstance(make_coder(replace(lab, profile=replace(lab.profile, coder="rules"))), RuleCoder)
    assert isinstance(
        make_coder(replace(lab, profile=replace(lab.profile, coder="openai:m@http://127.0.0.1:9/v1"))),
        ChatCoder,
    )
    for wrong in ("endpoint", "rule", ""):
        with pytest.raises(MlagentError):
            make_coder(replace(lab, profile=replace(lab.profile, coder=wrong)))


def test_a_fixed_policy_that_does_not_know_a_task_is_left_out_and_said(lab, capsys):
    assert "best-edit" in lab.profile.evaluate.policies
    assert "best-edit" not in stages.known_policies(lab)  # the tiny task was never measured
    assert f"best-edit is left out: it knows no edit for {NAME}" in capsys.readouterr().out


def test_ideas_by_either_selection(lab):
    task = lab.task(NAME)
    first = replace(lab.profile, collect=replace(lab.profile.collect, selection="v1", ideas_kept=7))
    found = chosen_ideas(replace(lab, profile=first), task)
    assert len(found) == 7 == len({idea.key for idea in found})
    second = replace(lab.profile, collect=replace(lab.profile.collect, selection="v2", ideas_k=4))
    by_axis = chosen_ideas(replace(lab, profile=second), task)
    assert {axis: len(ideas) for axis, ideas in by_axis.items()} == {"data": 4, "model": 4, "learning": 4}
    assert by_axis == chosen_ideas(replace(lab, profile=second), task)
    assert by_axis != chosen_ideas(replace(lab, profile=second, seed=1), task)


def test_collecting_writes_rows_and_goes_on_where_it_stopped(lab, tmp_path):
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    progress = []
    rows = collect(lab, whole, progress=lambda done, of: progress.append((done, of)))
    assert progress == [(1, 1)] and rows == read_jsonl(whole)[0]
    assert [row["id"] for row in rows] == [f"expert/{NAME}/{index}" for index in range(3)]
    for row in rows:
        validate_row(row)
        assert 1 <= len(row["ideas"]) <= 3 and row["seed"] == 0
    cut.write_text(whole.read_text().split("\n")[0] + "\n" + whole.read_text().split("\n")[1][:40])
    again = collect(lab, cut)
    assert [row["id"] for row in again] == [row["id"] for row in rows]
    assert [step["reply"] for row in again for step in row["steps"]] == [
        step["reply"] for row in rows for step in row["steps"]
    ]
    size = cut.stat().st_size
    collect(lab, cut)
    assert cut.stat().st_size == size


FREE = "Look at fewer neighbours, a dozen or so."  # no wording of the catalogue


def expert_and_coder(messages) -> str:
    """Answer as an expert that asks for one edit in its own words, or as the coder that writes it."""
    if messages == chat_messages(TRAIN, FREE):
        return f"```python\n{TRAIN.replace('n_neighbors=40', 'n_neighbors=12')}```"
    return final() if FREE in str(messages) else edit(FREE)


def test_the_edits_of_a_model_as_expert_are_made_by_the_profiles_coder(lab):
    with FakeOpenAI(expert_and_coder) as server:
        lab.profile = replace(lab.profile, coder=f"openai:coder@{server.base_url}")
        stage = lab.stage("01_collection")
        with stage:
            stages.collection(lab, stage, expert=f"openai:expert@{server.base_url}")
    rows, _ = read_jsonl(stage.dir / "trajectories.jsonl")
    for row in rows:
        first = row["steps"][0]
        assert (first["outcome"], first["score_before"], first["score_after"]) == ("edited", 5.0, 1.5)
        assert first["action_input"]["edit_instruction"] == FREE
        assert first["script_after"] != first["script_before"] and "n_neighbors=12" in first["script_after"]
    assert len(rows) == 3 and (lab.run_dir / "coder_calls.jsonl").is_file()


def test_the_scripted_expert_keeps_the_exact_coder(lab, tmp_path):
    with FakeOpenAI(expert_and_coder) as server:
        lab.profile = replace(lab.profile, coder=f"openai:coder@{server.base_url}")
        rows = collect(lab, tmp_path / "rows.jsonl")
        assert "edited" in {step["outcome"] for row in rows for step in row["steps"]}
        assert server.requests == []


def test_an_executed_notebook_means_the_run_around_it(tmp_path, monkeypatch):
    def opened(runs_dir, run_id="", seed=0):
        lab = labs.open_lab("smoke", seed, runs_dir, run_id)
        lab.close()
        return lab.run_dir.resolve()

    run = tmp_path / "copied" / "mine"
    (run / "notebooks").mkdir(parents=True)
    (run / "run.json").write_text(json.dumps({"profile": "smoke", "seed": 0}))
    monkeypatch.chdir(run / "notebooks")
    for runs_dir in ("", "runs", str(tmp_path / "no longer there")):
        assert opened(runs_dir, "mine") == run
    assert opened("") == run
    assert list((run / "notebooks").iterdir()) == []
    # another run that is named, and another seed, are not the run around
    other = tmp_path / "runs" / "other"
    other.mkdir(parents=True)
    (other / "run.json").write_text("{}")
    assert opened(str(tmp_path / "runs"), "other") == other
    assert opened(str(tmp_path / "new"), seed=1) == tmp_path / "new" / "smoke-seed1"
    (run / "run.json").write_text("[]")
    assert opened(str(tmp_path / "new"), "mine") == tmp_path / "new" / "mine"


def test_evaluating_shares_one_file_and_makes_only_what_is_missing(lab, tmp_path):
    path = tmp_path / "trajectories.jsonl"
    first = evaluate(lab, "starter", Starter(), lab.tools(), path)
    assert [row["id"] for row in first] == [f"starter/{NAME}/0", f"starter/{NAME}/1"]
    second = evaluate(lab, "random-ideas", RandomIdeas(), lab.tools(), path)
    assert {row["source"] for row in second} == {"random-ideas"} and len(read_jsonl(path)[0]) == 4
    text = path.read_text()
    assert evaluate(lab, "random-ideas", RandomIdeas(), lab.tools(), path) == second
    assert path.read_text() == text
    # cut off after the first of its two: made anew, the held row kept, none written twice
    path.write_text("".join(line + "\n" for line in text.split("\n")[:3]))
    again = evaluate(lab, "random-ideas", RandomIdeas(), lab.tools(), path)
    assert [row["id"] for row in again] == [row["id"] for row in second]
    assert [row["steps"][0]["reply"] for row in again] == [row["steps"][0]["reply"] for row in second]


def test_rewards_of_single_steps_keep_the_unscored_as_missing(lab):
    task = lab.task("pocket-homes")  # lower is better
    start, best = task.baseline["feedback"], task.best["feedback"]
    row = {"task": task.name, "state_id": "s", "reason": "", "reply": "x", "score_before": start}
    rows = [
        row | {"outcome": "edited", "reward": 0.75, "score_after": (start + best) / 2},
        row | {"outcome": "unscored", "reward": None, "score_after": None},
    ]
    frame = stages.reward_table(rows, {task.name: task}, get_arm("no-format"), 3)
    assert frame["reward"][0] == 0.75 and math.isnan(frame["reward"][1])
    assert frame["share"][0] == pytest.approx(0.5) and math.isnan(frame["share"][1])
    names = frame[["arm", "policy", "seed"]].drop_duplicates().to_numpy().tolist()
    assert names == [["no-format", "rl", 3]]
