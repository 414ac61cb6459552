"""The bench: it compares what it says, misses are said, and the committed numbers are those of the README."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_task import FakeRunner, make_tools, write_task

from mlagent_lib import cli
from mlagent_lib.bench import measure as bench
from mlagent_lib.core.errors import RunError
from mlagent_lib.environment.isolation.probe import probe
from mlagent_lib.environment.step import start_state
from mlagent_lib.training.scoring import covered, parts_of_seconds

isolated = pytest.mark.skipif(probe().chosen is None, reason="no isolation tier works on this machine")


def test_quartiles_and_goals_by_hand():
    assert bench.quartiles([4.0]) == (4.0, 4.0, 4.0)
    assert bench.quartiles([1.0, 3.0, 2.0]) == (1.5, 2.0, 2.5)
    finding = bench.BenchRow("a", "", 1.15, 1.0, 2.0, "x", "<= 1.15", 3, "")
    assert finding.reached and not replace(finding, value=1.16).reached
    assert not replace(finding, goal=">= 5").reached and replace(finding, goal=">= 1.15").reached


def test_time_with_a_script_is_counted_once_and_only_inside_the_window():
    assert covered([], 0.0, 1.0) == 0.0
    assert covered([(5.0, 6.0), (0.0, 2.0), (1.0, 1.5)], 0.0, 10.0) == 3.0
    assert covered([(0.0, 100.0)], 3.0, 4.5) == 1.5
    assert covered([(0.0, 1.0)], 2.0, 3.0) == 0.0


def test_the_parts_of_a_step_add_up_to_the_whole():
    parts = parts_of_seconds(2.0, coder=0.5, scripts=0.0)
    assert parts == {"seconds_coder": 0.5, "seconds_execution": 0.0, "seconds_overhead": 1.5}


def test_a_cache_that_remembers_nothing_makes_every_experiment_again(tmp_path):
    task, runner = write_task(tmp_path / "tasks"), FakeRunner()
    tools = replace(make_tools(tmp_path, runner), cache=bench.NoCache(tmp_path / "none"))
    start_state(task, tools)
    start_state(task, tools)
    assert len(runner.requests) == 2


def test_scripts_are_starters_and_edits_of_them_and_the_same_for_the_same_seed():
    states, tasks = bench.scripts(["pocket-homes", "pocket-digits"], seed=3)
    assert [state.task for state in states] == ["pocket-homes"] * 2 + ["pocket-digits"] * 2
    starter, edited = (state.files["train.py"] for state in states[:2])
    assert starter == tasks["pocket-homes"].env_files()["train.py"] and starter != edited
    assert states == bench.scripts(["pocket-homes", "pocket-digits"], seed=3)[0]


@isolated
def test_the_bench_measures_and_writes_what_it_prints(tmp_path, capsys):
    out = tmp_path / "bench.json"
    assert cli.main(["bench", "--only", "abd", "--tasks", "pocket-homes", "--out", str(out)]) == 0
    record, printed = bench.read_bench(out), capsys.readouterr().out
    assert [row["key"] for row in record["findings"]] == ["a", "b", "d"]
    assert record["scripts"] == 2 and record["tier"] == probe().chosen and record["versions"]["numpy"]
    for row in record["findings"]:
        assert 0 < row["low"] <= row["value"] <= row["high"]
        assert f"{row['value']:.3g}" in printed and ("reached" if row["reached"] else "missed") in printed
    # a cold start loads the scientific stack for each script: whatever the machine, warm is faster
    assert record["findings"][0]["value"] > 1
    assert not list(Path("/tmp").glob("mlagent-bench-*"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--only", "az"], "has no question 'z'"),
        (["--only", "f", "--run", "no-such-run"], "question f needs a finished run"),
    ],
)
def test_a_wrong_question_gets_one_line_with_the_cure(words, message, capsys):
    assert cli.main(["bench", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and "What to do:" in err and err.count("\n") == 1


def test_a_missed_goal_is_explained_and_a_reached_one_is_not():
    rows = [{"key": "b", "reached": False}, {"key": "c", "reached": True}, {"key": "d", "reached": False}]
    (line,) = bench.missed({"findings": rows})
    assert line.startswith("(b) is missed. ") and "page tables" in line


def test_a_file_that_is_no_bench_is_refused(tmp_path):
    with pytest.raises(RunError, match="mlagent bench --out"):
        bench.read_bench(tmp_path / "none.json")
    (tmp_path / "other.json").write_text(json.dumps({"schema": "other"}))
    with pytest.raises(RunError, match="no record of the bench"):
        bench.read_bench(tmp_path / "other.json")
