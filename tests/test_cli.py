"""The command line: help that teaches, one clear line for a mistake, the right exit code."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
import types
from importlib import import_module

import pytest

from mlagent_lib import cli
from mlagent_lib.core.arms import ARMS
from mlagent_lib.core.errors import MlagentError, TaskError
from mlagent_lib.run import notebooks as pipeline
from mlagent_lib.tasks.foreign.known_tasks import KIND_NAMES, MODALITY_NAMES

COMMANDS = ("run", "tasks", "doctor", "figures", "bench", "pretrain", "profiles")


def run_module(repository, *words, **options):
    """Run ``python -m mlagent_lib`` in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "mlagent_lib", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, **options)


def test_help_names_every_command_and_each_explains_itself(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            cli.main([command, "--help"])
        text = capsys.readouterr().out
        assert stop.value.code == 0 and "example" in text and f"mlagent {command}" in text


def test_every_command_has_its_module_and_lists_what_there_is():
    def modules(known, prefix=""):
        for name, words in known.items():
            module = prefix + name.replace("-", "_")
            yield from modules(words["verbs"], f"{module}_") if "verbs" in words else [module]

    known = tomllib.loads(cli.COMMANDS.read_text(encoding="utf-8"))
    for name in modules(known):
        assert callable(import_module(f"mlagent_lib.commands.{name}").call)
    names = ", ".join(arm.name for arm in ARMS)
    assert known["ablations"]["options"]["--arms"]["help"] == f"all where not given: {names}"
    adopt = known["tasks"]["verbs"]["adopt"]["options"]
    assert tuple(adopt["--modality"]["choices"]) == MODALITY_NAMES
    assert tuple(adopt["--kind"]["choices"]) == KIND_NAMES


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--profile", "lapto"], "profile 'lapto' is unknown: the closest is 'laptop'"),
        (["run", "-p", "noequals"], "has no name or no '='. What to do: write -p name=value"),
        (["run", "--run-id", "../x"], "cannot be the name of a folder"),
        (["profiles", "nothing"], "What to do: choose one of smoke, laptop"),
        (["pretrain", "--out", "x", "--profile", "lapto"], "closest is 'laptop'"),
    ],
)
def test_a_mistake_gets_one_line_with_the_cure_and_code_2(capsys, words, expected):
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("mlagent: ") and captured.err.count("\n") == 1
    assert expected in captured.err and captured.out == ""


@pytest.mark.parametrize("words", [[], ["nonsense"], ["run", "--seed", "x"], ["tasks"], ["tasks", "show"]])
def test_words_that_argparse_refuses_give_code_2(words, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2 and "usage: mlagent" in capsys.readouterr().err


def test_run_hands_everything_over(monkeypatch):
    seen = {}

    def fake(profile, seed, runs_dir, run_id, *, parameters, tasks, say):
        seen.update(locals())
        say("hello")

    monkeypatch.setattr(pipeline, "run_all", fake)
    words = "run --profile smoke --seed 5 --runs-dir there --run-id me -p steps=3 -p rate=1e-4 -p name=a=b"
    words += " --tasks a b --test-tasks c"
    assert cli.main(words.split()) == 0
    assert (seen["profile"], seen["seed"], seen["runs_dir"], seen["run_id"]) == ("smoke", 5, "there", "me")
    assert seen["parameters"] == {"steps": 3, "rate": 1e-4, "name": "a=b"}
    assert seen["tasks"] == {"train": ["a", "b"], "test": ["c"]}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MlagentError("rule", cure="cure"), 2),
        (TaskError("rule", cure="cure"), 2),
        (pipeline.NotebookFailed("rule", cure="cure"), 1),
    ],
)
def test_errors_of_the_kit_become_one_line(monkeypatch, capsys, error, code):
    def fail(*_words, **_options):
        raise error

    monkeypatch.setattr(pipeline, "run_all", fail)
    assert cli.main(["run"]) == code
    assert capsys.readouterr().err == "mlagent: rule. What to do: cure\n"


def test_ctrl_c_says_how_to_go_on(monkeypatch, capsys):
    def stop(*_words, **_options):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_all", stop)
    assert cli.main(["run"]) == 130
    assert "start the same command again" in capsys.readouterr().err


def test_an_unexpected_error_keeps_its_traceback(monkeypatch):
    def fail(*_words, **_options):
        raise ZeroDivisionError

    monkeypatch.setattr(pipeline, "run_all", fail)
    with pytest.raises(ZeroDivisionError):
        cli.main(["run"])


def test_profiles_lists_all_and_shows_one(capsys):
    assert cli.main(["profiles"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        *("profile", "smoke", "laptop", "reader", "laptop-llm", "ablations", "colab-t4", "gpu", "paper")
    ]
    assert cli.main(["profiles", "laptop"]) == 0
    assert "KL coefficient 0.001" in capsys.readouterr().out


def test_tasks_list_shows_all_nineteen(capsys):
    assert cli.main(["tasks", "list", "--split", "held-out"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 11
    assert cli.main(["tasks", "show", "no-such-task"]) == 2
    assert "no task named 'no-such-task'" in capsys.readouterr().err


def test_tasks_show_tells_what_the_agent_is_asked(capsys):
    from mlagent_lib.tasks.registry import find_task, list_tasks

    name = list_tasks("held-in")[0]
    assert cli.main(["tasks", "show", name]) == 0
    text = capsys.readouterr().out
    assert find_task(name).research_problem in text and "limits of a script" in text


def test_tasks_check_of_a_broken_folder_fails_with_one_message(tmp_path, capsys):
    pytest.importorskip("mlagent_lib.environment.runner")
    assert cli.main(["tasks", "check", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and "is no task folder" in captured.err


LAYERS = (
    "file rules", "system-call filter", "namespaces", "throw-away user", "rlimits", "watchdog and sweep",
    "network block",
)  # fmt: skip


@pytest.fixture
def fresh_probe():
    """Forget what the probe found, before and after."""
    from mlagent_lib.environment.isolation import probe

    def forget():
        for kept in (probe._verdict, probe._chosen, probe.probe):
            kept.cache_clear()

    forget()
    yield probe
    forget()


def test_doctor_reports_isolation_versions_and_machine(capsys):
    from mlagent_lib.environment.runner import probe

    assert cli.main(["doctor"]) == (0 if probe().chosen else 1)
    text = capsys.readouterr().out
    for word in ("isolation of scripts", "torch", "cores", "free disk", "GPU", *LAYERS):
        assert word in text


def test_doctor_tells_what_is_not_guaranteed_and_how_to_get_more(capsys):
    from mlagent_lib.environment.runner import probe

    if probe().chosen is None:
        pytest.skip("no isolation tier works on this machine")
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    _, _, rest = text.partition("not guaranteed here:")
    gaps, _, cures = rest.partition("to get more:")
    assert all(word in gaps for word in ("same kernel", "no GPU", "side channels"))
    assert "virtual machine" in cures


@pytest.mark.parametrize(
    ("system", "name", "cure"),
    [("Darwin", "macOS", "run in a Linux virtual machine"), ("Windows", "Windows", "run inside WSL2")],
)
def test_doctor_fails_with_the_cure_where_no_script_can_be_isolated(
    fresh_probe, monkeypatch, capsys, system, name, cure
):
    monkeypatch.setattr(fresh_probe.kernel, "LINUX", False)
    monkeypatch.setattr(fresh_probe.platform, "system", lambda: system)
    if system == "Windows":
        monkeypatch.delattr(os, "sysconf")
        monkeypatch.delattr(os, "geteuid")
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert f"machine: {name}" in text and "refused here" in text and cure in text
    assert all(f"{layer}: off - no script is run" in text for layer in LAYERS)
    assert "in use:" not in text and "not guaranteed here" not in text


def test_doctor_fails_with_the_cure_on_linux_without_any_layer(fresh_probe, monkeypatch, capsys):
    if sys.platform != "linux":
        pytest.skip("needs Linux")
    monkeypatch.setattr(fresh_probe.landlock, "abi", lambda: 0)
    monkeypatch.setattr(fresh_probe.bubblewrap, "program", lambda: None)
    assert cli.main(["doctor"]) == 1
    text = capsys.readouterr().out
    assert "BW: no (the program bwrap is missing: install the package bubblewrap)" in text
    assert "what to do:" in text and "apt-get install bubblewrap" in text and "Landlock switched on" in text


def test_figures_check_uses_the_exit_code(monkeypatch, capsys, tmp_path):
    fake = types.ModuleType("mlagent_lib.results.figures")
    fake.redraw_all = lambda folder, *, check: ["a.svg"] if check else []
    monkeypatch.setitem(sys.modules, "mlagent_lib.results.figures", fake)
    assert cli.main(["figures", "--check", "--folder", str(tmp_path)]) == 1
    assert "a.svg: would change" in capsys.readouterr().out
    assert cli.main(["figures", "--folder", str(tmp_path)]) == 0


def test_python_dash_m_is_the_same_command(repository):
    done = run_module(repository, "run", "--profile", "smok")
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("mlagent: profile 'smok' is unknown: the closest is 'smoke'")
    assert run_module(repository, "--version").stdout.startswith("mlagent-kit ")


def test_a_closed_pipe_is_no_error(repository):
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    line = f"{sys.executable} -m mlagent_lib profiles paper | head -n 1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stderr == "" and done.returncode == 0


@pytest.mark.parametrize("module", ["mlagent_lib", "mlagent_lib.cli", "mlagent_lib.run.notebooks"])
def test_importing_loads_neither_torch_nor_notebooks(repository, module):
    code = f"import sys, json, {module}; print(json.dumps(sorted(sys.modules)))"
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"torch", "transformers", "papermill", "pandas", "sklearn", "matplotlib"}
