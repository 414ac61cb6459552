"""The reading test: what its table pays, and what is counted as right."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest
from tiny_task import edit, final, make_tools, neighbours, reply, write_task

from mlagent_lib.agents.prompts import POCKET
from mlagent_lib.environment.step import PendingSteps, run_steps, start_state
from mlagent_lib.reward import reward_of
from mlagent_lib.tasks.pocket.catalogue import edits
from mlagent_lib.tasks.registry import find_task, list_tasks
from mlagent_lib.training import reading
from mlagent_lib.training.scoring import evaluate_steps


@pytest.fixture(scope="module")
def tasks():
    return [find_task(name) for name in list_tasks()]


@pytest.mark.parametrize("seed", range(5))
def test_a_table_is_right_for_all_tasks_of_a_modality_and_no_family_is_right_everywhere(tasks, seed):
    table = reading.draw_table(tasks, seed)
    assert set(table) == {task.modality for task in tasks}
    assert all(12 <= len(own) <= 14 for own in table.values())
    assert max(Counter(family for own in table.values() for family in own).values()) == 2
    for task in tasks:
        keys = [edit.key for edit in edits(task.modality, task.kind)]
        assert all(any(key.startswith(f"{family}/") or key == family for key in keys)
                   for family in table[task.modality])  # fmt: skip
    assert reading.draw_table(tasks, seed) == table != reading.draw_table(tasks, seed + 1)


@pytest.fixture
def tools(tmp_path):
    write_task(tmp_path / "tasks")
    return make_tools(tmp_path)


TREE = next(found.instruction for found in edits("tabular", "regression") if "/tree" in found.key)
REPLIES = {
    "right": (neighbours(7), 1.0),
    "other": (edit(TREE), 0.05),
    "neutral": (final(), 0.5),
    "unknown": (edit("Make it good."), 0.0),
    "unreadable": ("I would try a bigger model", 0.0),
    "no such file": (reply("Copy File", source="nowhere.py", destination="b.py"), 0.0),
}


@pytest.mark.parametrize("case", REPLIES)
def test_what_the_table_pays(tools, case):
    text, paid = REPLIES[case]
    start = start_state(tools.task("tiny-homes"), tools)
    ran = len(tools.runner.requests)
    table = reading.TableTools.of(tools, {"tabular": frozenset({"model/knn"})})
    rows = [(start, text)]
    for result in (*run_steps(rows, table), *PendingSteps(rows, table).results()):  # measuring, and training
        assert reward_of(result, tools.task("tiny-homes"), "v1") == pytest.approx(paid, abs=1e-6)
    assert len(tools.runner.requests) == ran, "a script ran"


def test_only_an_edit_of_a_right_family_that_ran_counts(tools):
    start = start_state(tools.task("tiny-homes"), tools)
    table = reading.TableTools.of(tools, {"tabular": frozenset({"model/knn"})})
    said = [text for text, _ in REPLIES.values()]
    _, rows = evaluate_steps(lambda prompts, seed: said, [start], table, POCKET, form="v1", seed=0, samples=6)
    found = reading.choices(rows, table)
    assert [row["right"] for row in found] == [True] + [False] * 5
    assert [row["family"] for row in found] == ["model/knn", "model/tree", "", "", "", ""]
    assert reading.summary(found) == {
        "right": 0.1667, "right_tabular": 0.1667, "commonest": 0.1667, "families": 2,
    }  # fmt: skip


def test_the_baselines_by_hand(tasks, tools):
    table = {"tabular": {"a", "b"}, "image": {"b"}, "text": {"c"}, "graph": {"c"}}
    trained = [task for task in tasks if task.split == "held-in"]  # 3 tabular, 4 image, 1 text, 1 graph
    assert reading.best_constant(trained, table) == "b"
    start = start_state(tools.task("tiny-homes"), tools)
    known = reading.TableTools.of(tools, {"tabular": frozenset(reading.fitting(tools.task("tiny-homes")))})
    assert reading.summary(reading.drawn_families([start] * 8, known, 0))["right"] == 1.0
    assert reading.summary(reading.said_always("model/none", [start], known))["right"] == 0.0


@pytest.mark.slow
def test_the_command_trains_on_a_run_and_goes_on_where_it_stopped(capsys):
    from mlagent_lib import cli

    if "MLAGENT_SMOKE_RUN" not in os.environ:
        pytest.skip("MLAGENT_SMOKE_RUN names no run")
    run = Path(os.environ["MLAGENT_SMOKE_RUN"])
    assert cli.main(["reading", str(run), "--steps", "2", "--seed", "5"]) in (0, None)
    told = capsys.readouterr().out
    (folder,) = run.glob("reading-*-2-seed5")
    rows = (folder / "summary.csv").read_text().splitlines()
    assert rows[0].startswith("policy,states,right") and len(rows) == 11
    assert all(name in told for name in ("always ", "random families", "sft", "rl, last update"))
    before = (folder / "manifest.json").stat().st_mtime_ns
    assert cli.main(["reading", str(run), "--steps", "2", "--seed", "5"]) in (0, None)
    assert (folder / "manifest.json").stat().st_mtime_ns == before


def test_in_a_policy_of_a_few_weights_one_sentence_wins_or_what_fits_is_chosen():
    from dataclasses import replace

    from mlagent_lib.core.profiles import GRPOProfile, get_profile
    from mlagent_lib.training.few_weights import TASKS, compared, learn

    once = GRPOProfile(steps=60, states_per_step=32, group_size=4, beta=0.0)
    settings = {"once": once, "reader": get_profile("reader").grpo}
    first, last = compared(settings, seeds=3)
    assert first["seeds that read"] == "0 of 3" and last["seeds that read"] == "3 of 3"
    assert first["text"] < 0.1 and first["image"] > 0.9 and first["commonest"] > 0.7
    assert all(last[modality] > 0.9 for modality in TASKS)
    assert learn(once, 0) == learn(once, 0) != learn(once, 1)
    blind = learn(replace(once, steps=0), 0)  # before any step: diverse, and right by chance
    assert 0.2 < blind["image"] < 0.6 and blind["commonest"] < 0.2
