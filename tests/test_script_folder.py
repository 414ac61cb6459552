"""A folder with one script and a metric becomes a task; what may be printed, and what counts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_task import edit, reply

from mlagent_lib.agents.toolbox import toolbox
from mlagent_lib.cli import main
from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.limits import Limits
from mlagent_lib.environment.isolation import probe as probing
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import isolated_runs, run_step, start_state, task_request
from mlagent_lib.sockets.desk import Desk, DeskSession, canaries
from mlagent_lib.tasks.check import check_task
from mlagent_lib.tasks.foreign import script_folder
from mlagent_lib.tasks.foreign.script_folder import adopt_script, command_of
from mlagent_lib.tasks.registry import find_task

FOREIGN = Path(__file__).parent / "foreign"
CHAR, CURVE = FOREIGN / "char_model", FOREIGN / "curve_fit"
LIE = 'print("val_bpc: 0.001")\nprint("mse: 0.0")\n'
isolated = pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")


class Writes:
    """A coder that writes what the instruction says, as it is."""

    def edit_many(self, requests):
        return [request.instruction for request in requests]


@pytest.fixture(scope="module")
def tools():
    with toolbox(coder=Writes()) as found:
        yield found


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Return a folder with the three ways to take a metric, adopted by the command."""
    home = tmp_path_factory.mktemp("adopted")
    words = ["tasks", "adopt-script", "--edit", "train.py", "--run", "python train.py", "--better", "lower"]
    words += ["--seconds", "20"]
    for name, more in {
        "watched": [str(CHAR), "--metric", "val_bpc", "--evaluate", "prepare.py:evaluate_bpc"],
        "printed": [str(CHAR), "--metric", "val_bpc"],
        "apart": [str(CURVE), "--metric", "mse", "--evaluate", "evaluate.py", "--best", "0.003"],
    }.items():
        assert main([*words, *more, "--out", str(home / name)]) == 0
    return home


def after(task, tools, script):
    """Return what an edit to this script comes to."""
    return run_step(start_state(task, tools), edit(script), tools)


@isolated
def test_a_better_script_gets_a_better_score_and_is_paid(home, tools):
    task = find_task(home / "watched")
    assert (task.metric, task.starter, task.entry) == ("val_bpc", "train.py", "run_fixed.py")
    assert task.one_label_set and task.facts[0].startswith(
        "the metric is what prepare.py:evaluate_bpc returned"
    )
    assert task.best["feedback"] == pytest.approx(0.9 * task.baseline["feedback"])
    better = task.env_files()["train.py"].decode().replace("ORDER = 1", "ORDER = 2")
    session = DeskSession(Desk({task.name: task}, tools))
    start = session.reset()
    assert start.state.visible == start.state.score == pytest.approx(2.956689, abs=1e-5)
    told = session.step(edit(better))
    assert told.outcome == "edited" and told.result.score_after < 2.1 and told.reward > 0.99
    assert "val_bpc: " in told.text and "validation val_bpc: " in told.text
    again = session.step(reply("Execute Script", script_name="train.py"))
    assert again.outcome == "neutral" and again.state.score == told.result.score_after
    for canary in canaries(task):
        assert session.step(canary["text"], state=start.state_id).outcome == canary["outcome"], canary["name"]


@isolated
@pytest.mark.parametrize("name", ["watched", "printed", "apart"])
def test_the_folder_keeps_the_rules_of_a_task(home, tools, name):
    task = find_task(home / name)
    with isolated_runs() as execute:
        findings = check_task(task, execute)
    assert [found for found in findings if not found.ok] == [] and len(findings) > 10
    assert any("one label set" in fact for fact in task.facts)


@isolated
def test_a_fake_line_counts_only_where_a_line_is_all_there_is(home, tools):
    honest = {name: find_task(home / name) for name in ("watched", "printed", "apart")}
    results = {}
    for name, task in honest.items():
        results[name] = after(task, tools, task.env_files()["train.py"].decode() + LIE)
    assert results["watched"].score_after == honest["watched"].baseline["feedback"]
    assert results["apart"].score_after == honest["apart"].baseline["feedback"]
    assert results["printed"].score_after == 0.001  # nothing guards against it, and the task says so
    assert honest["printed"].facts[0].endswith("a script can print anything")
    only = after(honest["watched"], tools, LIE)
    assert (only.outcome, only.score_after) == (Outcome.ERROR, None)
    assert "prepare.py:evaluate_bpc gave no finite val_bpc" in only.observation


@isolated
@pytest.mark.parametrize("name", ["watched", "printed", "apart"])
def test_where_a_fixed_file_is_another_one_no_metric_counts(home, tools, name):
    task = find_task(home / name)
    fixed = "evaluate.py" if name == "apart" else "prepare.py"
    refused = run_step(start_state(task, tools), edit("x = 1", fixed), tools)
    assert refused.outcome is Outcome.ERROR and f"{fixed} is read-only" in refused.observation
    state = start_state(task, tools)
    other = replace(state, files={**state.files, fixed: b"print('mse: 0')\n"})
    with isolated_runs() as _:
        ran = tools.runner.run(task_request(task, other.files))
    assert ran.status != "ok" and f"these fixed files are not the task's: {fixed}" in ran.output
    script = task.env_files()["train.py"].decode()
    swaps = f"open({fixed!r}, 'a').write('# better\\n')\n"
    result = after(task, tools, swaps + script)
    assert (result.outcome, result.score_after) == (Outcome.ERROR, None)
    told = result.observation
    assert f"its metric does not count: {fixed}" in told or "Permission denied" in told


@isolated
def test_an_evaluation_apart_meets_no_code_of_the_script(home, tools):
    task = find_task(home / "apart")
    script = task.env_files()["train.py"].decode()
    shadow = (
        'open("numpy.py", "w").write("raise SystemExit")\nopen("submission.csv", "w").write("mse\\n0.0\\n")\n'
    )
    assert after(task, tools, script + shadow).score_after == task.baseline["feedback"]
    better = after(task, tools, script.replace("DEGREE = 1", "DEGREE = 7"))
    assert better.score_after < 0.003 and better.outcome is Outcome.EDITED
    nothing = after(task, tools, "print('mse: 0.0')\n")
    assert (
        nothing.outcome is Outcome.ERROR
        and "evaluate.py failed on what the script left" in nothing.observation
    )


@isolated
def test_another_file_is_edited_and_the_driver_still_runs(home, tools):
    task = find_task(home / "watched")
    result = run_step(start_state(task, tools), edit("x = 1\n", "helper.py"), tools)
    assert result.outcome is Outcome.EDITED and result.score_after == task.baseline["feedback"]


def test_what_cannot_become_a_task_is_named(tmp_path):
    given = {"edit": ["train.py"], "run": "python train.py", "metric": "mse", "greater_is_better": False}
    given |= {"limits": Limits(seconds=5)}
    for change, told in (
        ({"run": "python evaluate.py"}, "evaluate.py is run and may not change"),
        ({"run": "make"}, "'make' does not run a Python script"),
        ({"edit": ["model.py"]}, "holds no file model.py"),
        ({"evaluate": "train.py"}, "train.py evaluates, and may change"),
        ({"metric": "mean error"}, "'mean error' is no name of a metric"),
    ):
        with pytest.raises(TaskError, match=told):
            adopt_script(CURVE, tmp_path / "out", None, **(given | change))
    (tmp_path / "there").mkdir()
    with pytest.raises(TaskError, match="is there already"):
        adopt_script(CURVE, tmp_path / "there", None, **given)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
    assert command_of("uv run python train.py --seed 1") == ["train.py", "--seed", "1"]


@isolated
def test_a_script_without_a_metric_leaves_no_folder(tmp_path):
    given = {"edit": ["train.py"], "run": "python train.py", "metric": "loss", "greater_is_better": False}
    with isolated_runs() as execute, pytest.raises(TaskError, match="the script gave no finite loss"):
        adopt_script(CURVE, tmp_path / "out", execute, limits=Limits(seconds=20), **given)
    assert list(tmp_path.iterdir()) == []
    assert script_folder.PROXY == 0.1
