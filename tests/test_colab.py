"""A Colab runtime, simulated: what pip is told, what stays as it is, and each message that a user may meet.

`COLAB` is taken from the list that Colab publishes of its own packages (googlecolab/backend-info on GitHub,
June 2026): those that concern the kit. Colab itself, its GPU and Drive are not here.
"""

from __future__ import annotations

import ast
import doctest
import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

PUBLISHED = """
accelerate==1.13.0 click==8.4.1 cloudpickle==3.1.2 datasets==4.0.0 diffusers==0.37.1 dill==0.3.8
einops==0.8.2 entrypoints==0.4 farama-notifications==0.0.6 filelock==3.29.0 fsspec==2025.3.0
gymnasium==1.3.0 hf-xet==1.5.0 httpx==0.28.1 huggingface-hub==1.17.0 ipykernel==6.17.1 jinja2==3.1.6
joblib==1.5.3 matplotlib==3.10.0 multiprocess==0.70.16 nbclient==0.10.4 nbconvert==7.17.1 nbformat==5.10.4
fastjsonschema==2.21.2
nest-asyncio==1.6.0 numpy==2.0.2 packaging==26.2 pandas==2.2.2 peft==0.19.1 pillow==11.3.0
protobuf==5.29.6 psutil==5.9.5 pyarrow==18.1.0 pydantic==2.12.3 pyyaml==6.0.3 regex==2025.11.3
requests==2.32.4 rich==13.9.4 safetensors==0.7.0 scikit-learn==1.6.1 scipy==1.16.3 sentencepiece==0.2.1
statsmodels==0.14.6 tenacity==9.1.4 tokenizers==0.22.2 torch==2.11.0+cu128 torchao==0.10.0
torchaudio==2.11.0+cu128 torchvision==0.26.0+cu128 tqdm==4.67.3 transformers==5.9.0 triton==3.6.0
typer==0.25.1 typing-extensions==4.15.0 xxhash==3.7.0
"""
COLAB = dict(line.split("==") for line in PUBLISHED.split())
KERNEL = ("torch", "torchvision", "torchaudio", "triton", "numpy", "pillow")


@pytest.fixture
def colab(repository):
    """Return the set-up file as a fresh module."""
    spec = importlib.util.spec_from_file_location("_colab", repository / "notebooks" / "_colab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(repository):
    """Return the table ``project`` of pyproject.toml."""
    return tomllib.loads((repository / "pyproject.toml").read_text())["project"]


class Runtime:
    """Packages and a pip that installs what it is told, unless it is made to do worse."""

    def __init__(self, packages, worse=None, code=0):
        self.packages, self.worse, self.code = dict(packages), worse or {}, code
        self.commands, self.constraints = [], []

    def installed(self):
        return dict(self.packages)

    def run(self, command, **options):
        """Record a pip command and do what it says."""
        assert command[:4] == [sys.executable, "-m", "pip", "install"]
        words = [word for word in command[4:] if word not in ("--quiet", "--disable-pip-version-check")]
        self.commands.append(words)
        if "--constraint" in words:
            self.constraints = Path(words[words.index("--constraint") + 1]).read_text().split()
        if not self.code:
            for word in words:
                name, pin, version = word.partition("==")
                if not word.startswith("-") and "/" not in word:
                    self.packages[name.replace("_", "-").lower()] = version if pin else "1"
            self.packages |= self.worse
        return SimpleNamespace(returncode=self.code, stderr="one\ntwo\nthree\nERROR: no network\n")


def prepared(colab, monkeypatch, runtime, **options):
    """Prepare a simulated runtime."""
    monkeypatch.setattr(colab, "installed", runtime.installed)
    for name in colab.OURS:
        monkeypatch.delitem(sys.modules, name.replace("-", "_"), raising=False)
    colab.prepare(run=runtime.run, **({"gpu": False, "python": (3, 12)} | options))
    return runtime


def test_pip_is_told_to_hold_what_the_kernel_may_have_loaded(colab, monkeypatch):
    runtime = prepared(colab, monkeypatch, Runtime(COLAB))
    assert runtime.constraints == [f"{name}=={COLAB[name]}" for name in KERNEL]
    words = [word for command in runtime.commands for word in command]
    assert not {"-U", "--upgrade", "--force-reinstall", "--pre"} & set(words)
    assert not {word.split("==")[0] for word in words} & {*KERNEL, "pandas", "scikit-learn", "jupyterlab"}


def test_only_ours_are_changed_and_only_what_is_missing_is_added(colab, monkeypatch, project):
    runtime = prepared(colab, monkeypatch, Runtime(COLAB))
    pins = dict(line.lower().replace("_", "-").split("==") for line in project["dependencies"])
    changed = {name for name in COLAB if runtime.packages[name] != COLAB[name]}
    assert changed == {name for name in colab.OURS if name in COLAB} | {"torchao"}
    assert all(runtime.packages[name] == pins[name] for name in colab.OURS)
    assert set(runtime.packages) - set(COLAB) == {"trl", "papermill"}
    assert [command[0] for command in runtime.commands] == ["--constraint", "--no-deps"]


def test_on_a_gpu_unsloth_comes_without_its_requirements(colab, monkeypatch, project):
    runtime = prepared(colab, monkeypatch, Runtime(COLAB), gpu=True)
    _, alone, kit = runtime.commands
    assert alone == ["--no-deps", *project["optional-dependencies"]["unsloth"]]
    assert kit[:2] == ["--no-deps", "--editable"]
    added = set(runtime.packages) - set(COLAB) - {"trl", "papermill", "unsloth", "unsloth-zoo"}
    missing = {"bitsandbytes", "cut-cross-entropy", "hf-transfer", "msgspec", "structlog", "tyro"}
    assert added == missing and "xformers" not in runtime.packages
    assert all(runtime.packages[name] == COLAB[name] for name in KERNEL)


def test_the_second_time_nothing_but_the_kit_is_installed(colab, monkeypatch):
    runtime = prepared(colab, monkeypatch, Runtime(COLAB), gpu=True)
    runtime.commands.clear()
    prepared(colab, monkeypatch, runtime, gpu=True)
    assert [command[:2] for command in runtime.commands] == [["--no-deps", "--editable"]]


def test_a_missing_torchao_is_added_only_for_unsloth(colab):
    without = {name: version for name, version in COLAB.items() if name != "torchao"}
    assert colab.wanted([], without, gpu=False) == []
    assert "torchao==0.18.0" in colab.wanted([], without, gpu=True)


def test_the_kit_can_be_imported_by_the_running_kernel(colab, monkeypatch, repository, capsys):
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place != str(repository)])
    prepared(colab, monkeypatch, Runtime(COLAB))
    assert sys.path[0] == str(repository)
    assert "Kept: torch 2.11.0+cu128, numpy 2.0.2, pillow 11.3.0." in capsys.readouterr().out


def test_its_examples_are_true(colab):
    found = doctest.testmod(colab)
    assert found.attempted >= 3 and found.failed == 0


def test_real_packages_are_found_under_their_normal_names(colab):
    found = colab.installed()
    assert found["numpy"] == importlib.import_module("numpy").__version__
    assert {"huggingface-hub", "scikit-learn", "pyyaml"} <= found.keys()


# What may go wrong -----------------------------------------------------------------------------------------


def refused(colab, monkeypatch, runtime, **options):
    """Return the message of a preparation that is refused."""
    with pytest.raises(colab.SetupError, match="What to do: ") as caught:
        prepared(colab, monkeypatch, runtime, **options)
    return str(caught.value)


def test_an_old_python_is_refused_before_pip_runs(colab, monkeypatch):
    runtime = Runtime(COLAB)
    assert "Python is 3.10, the kit needs >=3.11" in refused(colab, monkeypatch, runtime, python=(3, 10, 12))
    assert runtime.commands == []
    for enough in ((3, 11), (3, 12, 3), (4, 0)):
        colab.check_python(">=3.11", enough)


def test_a_changed_torch_is_said(colab, monkeypatch):
    message = refused(colab, monkeypatch, Runtime(COLAB, worse={"torch": "2.14.0"}))
    assert "pip changed torch from 2.11.0+cu128 to 2.14.0" in message and "delete the runtime" in message


def test_a_package_that_was_loaded_before_it_was_changed_asks_for_a_restart(colab, monkeypatch):
    runtime = Runtime(COLAB)
    monkeypatch.setattr(colab, "OURS", ("transformers",))
    monkeypatch.setattr(colab, "installed", runtime.installed)
    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace())
    with pytest.raises(colab.SetupError, match=r"transformers was loaded .* Restart session"):
        colab.prepare(run=runtime.run, gpu=False, python=(3, 12))
    colab.prepare(run=runtime.run, gpu=False, python=(3, 12))  # after the restart it is the right one


def test_pip_failing_gives_its_last_words(colab, monkeypatch):
    message = refused(colab, monkeypatch, Runtime(COLAB, code=1))
    assert "pip failed: two three ERROR: no network" in message


def test_a_folder_that_cannot_hold_runs_is_refused(colab, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused(colab, monkeypatch, Runtime(COLAB), runs_dir=str(tmp_path / "file" / "runs"))
    assert "cannot hold runs" in message and "leave `runs_dir` empty" in message


def test_a_folder_without_locks_is_refused(colab, monkeypatch, tmp_path):
    def flock(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("mlagent_lib.core.files.fcntl.flock", flock)
    with pytest.raises(colab.SetupError, match=r"cannot hold runs .*Operation not supported"):
        colab.try_folder(tmp_path / "runs")


def test_a_good_folder_is_left_clean(colab, monkeypatch, tmp_path):
    prepared(colab, monkeypatch, Runtime(COLAB), runs_dir=str(tmp_path / "runs"))
    assert list((tmp_path / "runs").iterdir()) == []
    monkeypatch.setenv("HOME", str(tmp_path))
    prepared(colab, monkeypatch, Runtime(COLAB), runs_dir="~/other")
    assert (tmp_path / "other").is_dir()


def test_half_a_kit_is_refused(colab, tmp_path):
    (tmp_path / "pyproject.toml").write_text("")
    with pytest.raises(
        colab.SetupError, match=r"no whole copy of the kit: mlagent_lib/__init__\.py is missing"
    ):
        colab.read_project(tmp_path)


# The cell --------------------------------------------------------------------------------------------------

RECORDING = "def prepare(runs_dir):\n    print('prepared', __file__, repr(runs_dir))\n"


@pytest.fixture
def cell(colab, tmp_path, monkeypatch):
    """Return a function that runs the cell in a folder that stands for /content, where Colab's package is."""
    (tmp_path / "site" / "google" / "colab").mkdir(parents=True)
    (tmp_path / "site" / "google" / "__init__.py").write_text("")
    (tmp_path / "site" / "google" / "colab" / "__init__.py").write_text("")
    drive = "def mount(place):\n    print('mounted', place)\n"
    (tmp_path / "site" / "google" / "colab" / "drive.py").write_text(drive)
    (tmp_path / "content").mkdir()
    monkeypatch.chdir(tmp_path / "content")
    for name in [name for name in sys.modules if name.split(".")[0] == "google"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path / "site")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlagent_lib" else real(name, *rest)
    )

    def run(kit="", runs_dir=""):
        exec(compile(colab.CELL, "cell", "exec"), {"kit": kit, "runs_dir": runs_dir})

    yield run
    for name in [name for name in sys.modules if name.split(".")[0] == "google"]:
        del sys.modules[name]


def write_zip(path, top, code=RECORDING):
    """Write a zip of a kit, whose files lie below ``top``."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{top}notebooks/_colab.py", code)
        archive.writestr(f"{top}mlagent_lib/__init__.py", "")


@pytest.mark.parametrize("top", ["", "mlagent-kit-main/"])
def test_the_cell_unpacks_a_zip_with_or_without_a_folder_in_it(cell, capsys, top):
    write_zip("kit.zip", top)
    cell("kit.zip", "my-runs")
    assert (
        capsys.readouterr().out == f"prepared {Path('mlagent-kit') / top / 'notebooks/_colab.py'} 'my-runs'\n"
    )
    assert (Path("mlagent-kit") / top / "mlagent_lib" / "__init__.py").is_file()


@pytest.mark.parametrize("kit", ["", "clone"])
def test_the_cell_finds_a_clone_named_or_beside(cell, capsys, kit):
    Path("clone/notebooks").mkdir(parents=True)
    Path("clone/notebooks/_colab.py").write_text(RECORDING)
    cell(kit)
    assert capsys.readouterr().out == "prepared clone/notebooks/_colab.py ''\n"


def test_the_cell_takes_the_home_folder_and_names_a_number(cell, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path / "content"))
    write_zip("kit.zip", "")
    cell("~/kit.zip", 7)  # the kit itself refuses the number by name, once it is there
    assert capsys.readouterr().out == "prepared mlagent-kit/notebooks/_colab.py 7\n"
    with pytest.raises(AssertionError, match="no kit at 7: give `kit` the path"):
        cell(7)


@pytest.mark.parametrize("kit", ["", "no-such.zip", "empty", "other.zip", "broken.zip"])
def test_the_cell_says_that_there_is_no_kit(cell, kit):
    Path("empty").mkdir()
    Path("broken.zip").write_bytes(b"PK\x03\x04 cut off")
    with zipfile.ZipFile("other.zip", "w") as archive:
        archive.writestr("readme.txt", "another project")
    with pytest.raises(AssertionError, match=f"no kit at {kit!r}: give `kit` the path of a clone, or of an"):
        cell(kit)


def test_the_cell_mounts_drive_only_when_asked_and_once(cell, capsys, monkeypatch):
    write_zip("kit.zip", "")
    cell("kit.zip", "/content/drive/MyDrive/runs")
    assert capsys.readouterr().out.startswith("mounted /content/drive\nprepared ")
    real = Path.exists
    monkeypatch.setattr(Path, "exists", lambda path: str(path) == "/content/drive/MyDrive" or real(path))
    cell("kit.zip", "/content/drive/MyDrive/runs")
    assert "mounted" not in capsys.readouterr().out


def test_the_cell_does_nothing_elsewhere_and_where_the_kit_is_there(colab, cell, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace())
    cell("no-such.zip")  # Colab, and the kit is installed: a kernel of papermill, or a restarted one
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    cell("no-such.zip", "/content/drive/x")  # no Colab
    assert capsys.readouterr().out == ""


def test_one_notebook_has_this_cell_and_the_others_name_it(colab, repository):
    for path in sorted((repository / "notebooks").glob("*.ipynb")):
        cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
        second = "".join(cells[1]["source"])
        if path.name == "colab.ipynb":
            assert second == colab.CELL.rstrip()
        else:
            assert len([line for line in second.splitlines() if line]) <= 3 and "_colab" not in second
            with pytest.raises(AssertionError, match=r"on Colab open colab\.ipynb"):
                exec(second.replace("mlagent_lib", "no_such_package"), {})
            exec(second, {})
    ast.parse(colab.CELL)


def test_a_zip_of_this_kit_prepares_a_runtime(cell, colab, repository, tmp_path, monkeypatch, capsys):
    """The real files through the real cell; only pip is replaced, by one that does nothing."""
    with zipfile.ZipFile("kit.zip", "w") as archive:
        for name in ("notebooks/_colab.py", "mlagent_lib/__init__.py", "pyproject.toml"):
            archive.write(repository / name, f"kit-1.0/{name}")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    asked = []

    def pip(command, **options):
        asked.append(command)
        return SimpleNamespace(returncode=0, stderr="")

    monkeypatch.setattr(
        runpy, "run_path", lambda path: {"prepare": lambda runs: load(path).prepare(runs, run=pip)}
    )
    cell("kit.zip")
    assert asked[-1][-2:] == ["--editable", str(tmp_path / "content" / "mlagent-kit" / "kit-1.0")]
    assert "mlagent-kit/kit-1.0 is ready" in capsys.readouterr().out


def load(path):
    """Return a Python file as a module."""
    spec = importlib.util.spec_from_file_location("_colab_copy", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif("MLAGENT_COLAB_RESOLVE" not in os.environ, reason="asks the package index: minutes")
@pytest.mark.parametrize("gpu", [False, True])
def test_pip_finds_versions_that_fit_beside_those_of_colab(colab, project, tmp_path, gpu):
    """The real pip in an environment that claims to hold Colab's packages; it only says what it would do."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "env")], check=True)
    [site] = (tmp_path / "env" / "lib").glob("python*/site-packages")
    for name, version in COLAB.items():
        folder = site / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (tmp_path / "constraints").write_text("\n".join(colab.pinned(COLAB)))
    command = [
        str(python),
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--report",
        str(tmp_path / "report"),
    ]
    names = colab.wanted(project["dependencies"], COLAB, gpu=gpu)
    subprocess.run([*command, "--constraint", str(tmp_path / "constraints"), *names], check=True)
    made = json.loads((tmp_path / "report").read_text())["install"]
    changed = {colab._name(item["metadata"]["name"]) for item in made} & set(COLAB)
    assert changed <= {
        *colab.OURS,
        "torchao",
        "click",
        "hf-xet",
    }  # the last two at the wish of the hub's client
