"""Cheats through whole steps: each has its documented outcome, and none is worth more than doing nothing."""

from __future__ import annotations

import json
import textwrap
import tracemalloc
from dataclasses import replace

import cases_labels
import pytest
from label_task import HEAD, HONEST, ScriptCoder, write_task
from scene import digest, name_of
from test_abuse import tiers
from tiny_task import edit, reply

from mlagent_lib.core.errors import SubmissionError
from mlagent_lib.core.limits import Limits
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.env import MAX_STEPS, Environment
from mlagent_lib.environment.isolation import probe as probing
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.runner import Runner, probe
from mlagent_lib.environment.step import Toolbox, run_step, start_state
from mlagent_lib.reward import step_reward
from mlagent_lib.tasks.grading import LARGEST_SUBMISSION, grade

pytestmark = pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")

LIMITS = Limits(seconds=5.0, memory_bytes=400 << 20, processes=16)
SCRIPTS = {str(c.number): HEAD + textwrap.dedent(c.script) for c in cases_labels.ALL} | {"honest": HONEST}


def tools_of(folder, task, runner) -> Toolbox:
    return Toolbox(
        runner, ScriptCoder(SCRIPTS), ExecutionCache(folder / "cache"), limits=LIMITS, tasks={task.name: task}
    )


@pytest.fixture(scope="module", params=tiers())
def runner(request):
    if request.param not in probe().available:
        pytest.skip(f"{request.param} does not work here: {probe().failed.get(request.param)}")
    with Runner(workers=1, tier=request.param) as pool:
        pool.warm()
        yield pool


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_task(tmp_path_factory.mktemp("bundled"))


@pytest.fixture(scope="module")
def tools(tmp_path_factory, task, runner):
    return tools_of(tmp_path_factory.mktemp("tools"), task, runner)


@pytest.fixture(scope="module")
def start(task, tools):
    return start_state(task, tools)


def rewards(result, task) -> dict[str, float]:
    """Return what a step is worth in both published forms."""
    known = {"before": result.score_before, "after": result.score_after}
    scale = {"init": task.baseline["feedback"], "best": task.best["feedback"]}
    return {form: step_reward(result.outcome, **known, **scale, form=form) for form in ("v1", "v2")}


def test_an_honest_edit_pays(task, tools, start):
    result = run_step(start, edit("honest"), tools)
    assert (result.outcome, result.reason) == (Outcome.EDITED, "scored"), result.observation
    assert result.score_after > 0.9 and 0.5 <= start.score < 0.75
    worth = rewards(result, task)
    assert worth["v1"] > 0.99 and worth["v2"] > 0.4


@pytest.mark.parametrize("case", cases_labels.CASES, ids=name_of)
def test_a_cheat_has_its_outcome_and_does_not_pay(task, tools, start, case):
    before, pid = digest(task.folder), tools.runner._servers[0].process.pid
    result = run_step(start, edit(str(case.number)), tools)
    assert (result.outcome, result.reason in case.reason) == (case.outcome, True), result
    assert case.says in result.observation
    worth = rewards(result, task)
    assert worth["v1"] <= 0.5 and worth["v2"] <= 0.0, "no cheat is worth more than a neutral action"
    if result.outcome is Outcome.EDITED:
        archived = tools.cache.archive[result.state.submission]
        assert result.score_after == grade(task, archived), "every score can be recomputed from the archive"
        assert result.score_after == start.score or not case.gains_nothing
    else:
        assert result.score_after is None and result.state.score == start.score
    assert digest(task.folder) == before
    assert tools.runner._servers[0].process.pid == pid, "no cheat costs a server"


@pytest.mark.parametrize("number", ["71", "97"])
def test_without_isolation_the_look_ups_pay_in_full(tmp_path, task, number):
    with Runner(workers=1, tier="T1", allow_unsafe=True, modules=()) as runner:
        tools = tools_of(tmp_path, task, runner)
        result = run_step(start_state(task, tools), edit(number), tools)
    assert (result.outcome, result.score_after) == (Outcome.EDITED, 1.0), result.observation


def test_the_seed_of_generated_rows_cannot_be_guessed(tmp_path, runner):
    task = write_task(tmp_path, made=True)
    tools = tools_of(tmp_path, task, runner)
    start = start_state(task, tools)
    result = run_step(start, edit(str(cases_labels.GUESS.number)), tools)
    assert (result.outcome, result.score_after) == (Outcome.EDITED, start.score), result.observation
    assert cases_labels.GUESS.says in result.observation


@pytest.mark.parametrize("line", ["\n", "x\n", "1,1\n"])
def test_eight_megabytes_of_short_lines_do_not_fill_the_graders_memory(task, line):
    body = b"id,probability\n" + line.encode() * ((LARGEST_SUBMISSION - 20) // len(line))
    tracemalloc.start()
    try:
        with pytest.raises(SubmissionError):
            grade(task, body)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(body)  # decoded and laid out for reading; as lists of rows it would be sixty times


def test_a_stale_submission_is_not_scored(task, tools, start):
    good = run_step(start, edit("honest"), tools)
    assert good.outcome is Outcome.EDITED
    after = run_step(good.state, edit("56"), tools)
    assert (after.outcome, after.reason) == (Outcome.ERROR, "submission-missing")
    assert after.state.score == good.state.score  # m_t stays what the last valid run has earned
    planted = replace(good.state, files={**good.state.files, "submission.csv": b"id,probability\n"})
    assert run_step(planted, edit("56"), tools).reason == "submission-missing"


@pytest.mark.parametrize("name", cases_labels.READ_ONLY)
def test_no_spelling_of_a_protected_name_is_written(task, tools, start, name):
    before = digest(task.folder)
    for text in (edit("honest", save_name=name), reply("Copy File", source="train.py", destination=name)):
        result = run_step(start, text, tools)
        assert (result.outcome, result.reason, result.executed) == (Outcome.ERROR, "tool", False), result
        assert result.state.files == start.files
        assert rewards(result, task) == {"v1": 0.0, "v2": -1.0}
    assert digest(task.folder) == before


def test_an_episode_has_a_budget_of_scores_and_a_reply_has_one_action(task, tools):
    environment = Environment(task, tools)
    environment.reset()
    ended = [environment.step(edit("53"))[3] for _ in range(MAX_STEPS)]
    assert ended == [False] * (MAX_STEPS - 1) + [True]
    many = "\n".join([edit("honest")] * 200)
    before = len(tools.runner.spans)
    result = run_step(environment.state, many, tools)
    assert len(tools.runner.spans) - before <= 1
    assert result.state.step == environment.state.step + 1 and len(result.state.history) == MAX_STEPS + 1


def test_no_observation_shows_a_label_or_a_hidden_score(task, tools, start):
    text = (task.labels_dir / "feedback.csv").read_text()
    shown = json.dumps([run_step(start, edit(str(c.number)), tools).observation for c in cases_labels.CASES])
    assert not [line for line in text.splitlines()[1:] if f"\\n{line}\\n" in shown]
    assert repr(start.score) not in shown and f"{start.score:.4f}" not in shown
