"""Values as papermill, YAML, scripts and shells give them: taken in one form, or refused by name."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from papermill.cli import _resolve_type

from mlagent_lib import cli
from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.parameters import checked
from mlagent_lib.results import arms
from mlagent_lib.run import notebook_tables as story
from mlagent_lib.run.notebooks import declared_parameters


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A home folder of the test's own, and a working folder beside it that must stay empty of ``~``."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "work")
    yield tmp_path / "home"
    assert not [path for path in Path().iterdir() if path.name.startswith("~")]


@pytest.mark.parametrize(
    ("name", "value", "like", "expected"),
    [
        ("seed", np.int64(3), 0, 3),
        ("seed", np.uint8(255), 0, 255),
        ("seed", 2**32 - 1, 0, 4294967295),
        ("run_id", "007", "", "007"),
        ("run_id", np.str_("1e3"), "", "1e3"),
        ("run_id", None, "", ""),
        ("run_id", "", "", ""),
        ("model", "False", "", "False"),
        ("results", Path("a") / "b", "", "a/b"),
        ("number", -1, 0, -1),
        ("rate", np.float32(0.5), 0.1, 0.5),
        ("rate", 2, 0.1, 2.0),
        ("flag", False, True, False),
        ("anything", [1], None, [1]),
    ],
)
def test_what_has_one_meaning_is_taken_in_the_form_that_json_writes(name, value, like, expected):
    found = checked(name, value, like)
    assert found == expected and type(found) is type(expected)
    assert json.loads(json.dumps(found)) == expected


@pytest.mark.parametrize(
    ("name", "value", "like", "message"),
    [
        ("run_id", _resolve_type("20260501"), "", "run_id is 20260501, an int.*papermill -r run_id"),
        ("run_id", _resolve_type("007"), "", "run_id is 7, an int"),
        ("run_id", _resolve_type("1e5"), "", "run_id is 100000.0, a float"),
        ("run_id", "a/b", "", "run_id is 'a/b', which cannot be the name of a folder"),
        ("run_id", "..", "", "run_id is '..'"),
        ("run_id", "x\n", "", "run_id is 'x.n'"),
        ("vllm", False, "", "vllm is False, a bool"),  # YAML: no
        ("model", ["a"], "", r"model is \['a'\], a list"),
        ("model", b"a", "", "model is b'a', a bytes"),
        ("profile", None, "laptop", "profile is None, a NoneType"),
        ("expert", "", "scripted", "expert is empty.*such as 'scripted'"),
        ("runs_dir", "a\0b", "", "runs_dir is 'a.x00b'.*control"),
        ("runs_dir", "~no-such-user/runs", "", "runs_dir is '~no-such-user/runs', and there is no such home"),
        ("seed", "3", 0, "seed is '3', a str.*whole number"),
        ("seed", _resolve_type("1e3"), 0, "seed is 1000.0, a float"),
        ("seed", np.float64(3.0), 0, r"seed is np.float64\(3.0\), a float64"),
        ("seed", True, 0, "seed is True, a bool"),
        ("seed", np.True_, 0, "seed is np.True_"),
        ("seed", None, 0, "seed is None"),
        ("seed", -1, 0, "seed is -1. What to do: give a whole number from 0 to 4294967295"),
        ("seed", np.int64(2**32), 0, "seed is 4294967296"),
        ("rate", float("nan"), 0.1, "rate is nan"),
        ("rate", 10**400, 0.1, "rate is 1000"),
        ("rate", "0.1", 0.1, "rate is '0.1', a str.*number such as 0.1"),
        ("flag", "False", True, "flag is 'False', a str.*give a bool"),
        ("flag", 0, True, "flag is 0, an int"),
    ],
)
def test_what_has_no_one_meaning_is_refused_by_its_name(name, value, like, message):
    with pytest.raises(ProfileError, match=f"^{message}"):
        checked(name, value, like)


@pytest.mark.parametrize("name", ["runs_dir", "results", "model", "kit"])
def test_a_tilde_is_the_home_folder(home, name):
    assert checked(name, "~/x") == str(home / "x")
    assert checked(name, "~") == str(home)
    assert checked(name, "x/~") == "x/~"  # only in front, as in a shell


DOORS = ("open_lab", "folder_of", "ranked", "checked")  # each goes through `checked`


def opening_cells():
    """Yield each notebook, a cell with one of the doors, and each parameter that is handed in there."""
    for path in sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for text in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
            calls = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
            doors = [call for call in calls if ast.unparse(call.func).rpartition(".")[2] in DOORS]
            given = [
                value for call in doors for value in (*call.args, *(word.value for word in call.keywords))
            ]
            for name in sorted({ast.unparse(value) for value in given} & set(declared_parameters(path))):
                yield pytest.param(path, text, name, id=f"{path.stem}-{name}")


CELLS = list(opening_cells())


def test_every_parameter_is_looked_at_before_it_is_used():
    seen = {}
    for path, _, name in (case.values for case in CELLS):
        seen.setdefault(path, set()).add(name)
    for path, names in seen.items():
        unused = {"profile", "seed", "runs_dir", "run_id"} if path.stem == "05_ablations" else set()
        assert names | unused | {"kit"} == set(declared_parameters(path)) | unused | {"kit"}, path.name
    assert len(seen) == 8


@pytest.mark.parametrize(("path", "cell", "name"), CELLS)
def test_no_notebook_takes_a_value_of_another_type(path, cell, name, home):
    values = declared_parameters(path) | {"runs_dir": str(home / "runs")}
    values[name] = [7]
    with pytest.raises(ProfileError, match=rf"^{name} is \[7\], a list"):
        exec(compile(cell, path.name, "exec"), {**values, "story": story, "arms": arms, "lab": None})
    assert not (home / "runs").exists()


def test_a_trajectory_is_chosen_by_policy_and_number(tmp_path):
    (tmp_path / "04_evaluation").mkdir()
    rows = [("rl", 0.1, "rl/b/0"), ("sft", 0.9, "sft/a/0"), ("rl", 0.7, "rl/a/0"), ("rl", 0.4, "rl/c/0")]
    table = pd.DataFrame(rows, columns=["policy", "gap_closed", "trajectory"]).assign(unscored=False)
    table.to_csv(tmp_path / "04_evaluation" / "trajectories.csv", index=False)
    lab = SimpleNamespace(run_dir=tmp_path)
    own, wanted = story.ranked(lab, "rl", np.int64(1))
    assert own["trajectory"].to_dict() == {1: "rl/a/0", 0: "rl/c/0", -1: "rl/b/0"} and wanted == "rl/a/0"
    assert story.ranked(lab, "sft", 0)[1] == "sft/a/0"
    with pytest.raises(ProfileError, match="number is 2, and rl has 3 trajectories, numbered -1 to 1"):
        story.ranked(lab, "rl", 2)
    with pytest.raises(ProfileError, match="policy is 'expert', which was not evaluated.*one of rl, sft"):
        story.ranked(lab, "expert", 0)


def test_a_command_finds_the_home_folder_where_a_shell_does_not(home, capsys):
    (home / "run").mkdir()
    assert cli.main(["view", "~/run", "--out=~/page.html"]) == 0
    assert (home / "page.html").is_file() and str(home / "page.html") in capsys.readouterr().out
    assert cli.main(["export", "~/run", "--out=~/x.jsonl"]) == 2
    assert cli.main(["figures", "--folder=~/figures", "--runs", "~/none"]) == 2
    assert cli.main(["ablations", "--plan", "--runs-dir=~/runs", "--seeds", "0"]) == 0
    error = capsys.readouterr().err
    assert str(home / "run") in error and str(home / "none") in error and "~" not in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ablations --seeds 0 -1 --plan", "seed is -1"),
        ("ablations --jobs -2", "jobs is -2"),  # would start all units but two, and wait for ever
        ("run --profile smoke --seed 4294967296", "seed is 4294967296"),
        ("run --profile smoke --run-id a/b", "run_id is 'a/b'"),
        ("run --profile smoke -p model=7", "model is 7, an int"),
        ("run --profile smoke -p number=0x", "number is '0x', a str"),
        ("run --profile smoke --runs-dir ~no-such-user/x", "runs_dir is '~no-such-user/x'"),
    ],
)
def test_the_command_line_goes_through_the_same_door(words, message, capsys):
    assert cli.main(words.split()) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"mlagent: {message}") and said.count("\n") == 1 and not list(Path().iterdir())
