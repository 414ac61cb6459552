"""Prepares a Colab runtime for the notebooks. Run by their set-up cell, from a clone or an unpacked zip.

Only the standard library is imported here: the kit is not installed yet. What Colab has stays as it is, above
all torch, numpy and Pillow, which the running kernel may hold already. Ours are only the packages that train
(their settings change from version to version), and what is missing. What it does not do: download the kit.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

# What stands in every notebook behind the cell of the parameters; a test compares it.
CELL = """\
from importlib.util import find_spec
from pathlib import Path
from runpy import run_path
from zipfile import ZipFile, is_zipfile

if find_spec("google") and find_spec("google.colab"):  # on Colab; elsewhere the kit is installed already
    if "/content/drive" in f"{kit}{runs_dir}" and not Path("/content/drive/MyDrive").exists():
        from google.colab import drive

        drive.mount("/content/drive")
    if not find_spec("mlagent_lib"):
        source = Path(f"{kit}").expanduser()
        place = Path("mlagent-kit") if is_zipfile(source) else source
        if place != source:
            ZipFile(source).extractall(place)
        found = [*place.glob("notebooks/_colab.py"), *place.glob("*/notebooks/_colab.py")]
        assert found, f"no kit at {kit!r}: give `kit` the path of a clone, or of an uploaded zip of the kit"
        run_path(str(found[0]))["prepare"](runs_dir)
"""

KEPT = ("torch", "torchvision", "torchaudio", "triton", "numpy", "pillow")  # never touched
# Ours on Colab too: a setting of another version would be missing or mean something else.
OURS = (
    *("transformers", "tokenizers", "huggingface-hub", "trl", "peft", "accelerate", "datasets"),
    *("safetensors", "pyarrow"),
)
LEFT_OUT = ("jupyterlab",)  # Colab is the front end, and it would bring another Jupyter server
# Unsloth goes without its requirements: they name torch's companions, which would draw another torch. Of them
# all but xformers, without which it takes the attention of torch.
FOR_UNSLOTH = (
    *("bitsandbytes", "cut-cross-entropy", "diffusers", "einops", "hf-transfer", "msgspec", "nest-asyncio"),
    *("protobuf", "psutil", "pydantic", "regex", "rich", "sentencepiece", "structlog", "typer", "tyro"),
)
TORCHAO = "0.18.0"  # PEFT refuses to add LoRA beside one that is older than 0.16, and Colab has had 0.10


class SetupError(Exception):
    """This runtime cannot be prepared; the message says what to do."""


def prepare(
    runs_dir: str = "",
    *,
    run: Callable[..., subprocess.CompletedProcess] = subprocess.run,
    python: Sequence[int] = tuple(sys.version_info),
    gpu: bool | None = None,
) -> None:
    """Install the kit and what it needs into this runtime, and make it importable in the running kernel.

    Args:
        runs_dir: Where runs shall be kept, "" for the folder beside the notebooks. It is tried out.
        run: Runs pip; `subprocess.run`.
        python: Version of Python.
        gpu: Whether Unsloth is installed too; None to look for a GPU.

    Raises:
        SetupError: Python is too old, the kit is not whole, pip failed or changed what it must not, a package
            that was changed is loaded already, or the folder cannot hold runs.
    """
    root = Path(__file__).resolve().parent.parent
    project = read_project(root)
    check_python(project["requires-python"], python)
    gpu = shutil.which("nvidia-smi") is not None if gpu is None else gpu
    loaded = [name for name in OURS if name.replace("-", "_") in sys.modules]
    before = installed()
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("".join(f"{line}\n" for line in pinned(before)))
        names = wanted(project["dependencies"], before, gpu=gpu)
        if names:
            _pip(run, "--constraint", str(constraints), *names)
    unsloth = project["optional-dependencies"]["unsloth"]
    if gpu and any(before.get(_name(line)) != _version(line) for line in unsloth):
        _pip(run, "--no-deps", *unsloth)
    _pip(run, "--no-deps", "--editable", str(root))
    importlib.invalidate_caches()
    check_changes(before, installed(), loaded)
    if str(root) not in sys.path:  # an editable installation is seen by the next kernel, not by this one
        sys.path.insert(0, str(root))
    if runs_dir:
        try_folder(Path(f"{runs_dir}").expanduser())
    kept = ", ".join(f"{name} {before[name]}" for name in ("torch", "numpy", "pillow") if name in before)
    print(f"The kit in {root} is ready. Kept: {kept}.")


def check_changes(before: Mapping[str, str], after: Mapping[str, str], loaded: Sequence[str]) -> None:
    """Raise `SetupError` where pip changed what it must not, or what this kernel holds already.

    Args:
        before: Of `installed`, before pip ran.
        after: Of `installed`, now.
        loaded: Packages that this kernel had imported before.
    """
    for name in KEPT:
        if name in before and after.get(name) != before[name]:
            raise SetupError(
                f"pip changed {name} from {before[name]} to {after.get(name)}. What to do: disconnect and "
                "delete the runtime, and report this with the output of `pip freeze`"
            )
    changed = [name for name in loaded if after.get(name) != before.get(name)]
    if changed:
        raise SetupError(
            f"{', '.join(changed)} was loaded before it was changed. What to do: Runtime > Restart session, "
            "then run all cells again"
        )


def read_project(root: Path) -> dict:
    """Return the table ``project`` of the kit's pyproject.toml.

    Raises:
        SetupError: The folder holds no whole kit.
    """
    missing = [name for name in ("mlagent_lib/__init__.py", "pyproject.toml") if not (root / name).is_file()]
    if missing:
        raise SetupError(
            f"{root} is no whole copy of the kit: {missing[0]} is missing. What to do: clone or zip the "
            "whole folder, with mlagent_lib/, notebooks/ and pyproject.toml in it"
        )
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def check_python(required: str, python: Sequence[int]) -> None:
    """Raise `SetupError` where this Python is older than the kit's ``requires-python``, e.g. ``>=3.11``."""
    least = tuple(map(int, re.findall(r"\d+", required)))
    if tuple(python[: len(least)]) < least:
        have = ".".join(map(str, python[:2]))
        raise SetupError(
            f"Python is {have}, the kit needs {required}. What to do: Runtime > Change runtime type, and "
            "choose the latest runtime version"
        )


def installed() -> dict[str, str]:
    """Return the version of every installed package by its normal name (lower case, dashes)."""
    found: dict[str, str] = {}
    for package in importlib.metadata.distributions():
        name = package.metadata["Name"]
        if name:  # a folder that pip left behind half removed has none
            found.setdefault(_name(name), package.version)  # the first one is the one that is imported
    return found


def pinned(have: Mapping[str, str]) -> list[str]:
    """Return pip's constraints that hold what must not change.

    Args:
        have: Of `installed`.

    Example:
        >>> pinned({"torch": "2.11.0+cu128", "numpy": "2.0.2", "pandas": "2.2.2"})
        ['torch==2.11.0+cu128', 'numpy==2.0.2']
    """
    return [f"{name}=={have[name]}" for name in KEPT if name in have]


def wanted(dependencies: Sequence[str], have: Mapping[str, str], *, gpu: bool) -> list[str]:
    """Return what pip shall install: ours at our version, and what is missing at any that fits.

    Args:
        dependencies: The kit's, ``name==version`` each.
        have: Of `installed`.
        gpu: Whether Unsloth will be installed too.

    Example:
        >>> have = {"numpy": "2.0.2", "pandas": "2.2.2", "trl": "0.9.0"}
        >>> wanted(["numpy==2.4.6", "pandas==3.1.1", "trl==1.14.2", "papermill==2.7.0"], have, gpu=False)
        ['trl==1.14.2', 'papermill']
    """
    found = []
    for line in dependencies:
        name = _name(line)
        if name in OURS and have.get(name) != _version(line):
            found.append(line)
        elif name not in have and name not in (*OURS, *LEFT_OUT):
            found.append(line.split("==")[0])
    if have.get("torchao", "" if gpu else TORCHAO) != TORCHAO:
        found.append(f"torchao=={TORCHAO}")
    return found + [name for name in FOR_UNSLOTH if gpu and name not in have]


def try_folder(folder: Path) -> None:
    """Raise `SetupError` where a folder cannot hold runs: locks, whole replacement and added lines are tried.

    Args:
        folder: Made if it is not there.
    """
    from mlagent_lib.core.errors import MlagentError
    from mlagent_lib.core.files import FolderLock, append_jsonl, write_json

    trial = folder / ".mlagent-trial"
    try:
        with FolderLock(trial):
            write_json(trial / "whole.json", {})
            write_json(trial / "whole.json", {})  # the second one replaces the first
            append_jsonl(trial / "lines.jsonl", {})
        shutil.rmtree(trial)
    except (OSError, MlagentError) as error:
        said = getattr(error, "message", error)  # without a cure of its own
        raise SetupError(
            f"{folder} cannot hold runs ({said}). What to do: leave `runs_dir` empty, and copy the folder "
            "of the run away when you are done"
        ) from error


def _pip(run: Callable[..., subprocess.CompletedProcess], *words: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *words]
    done = run(command, capture_output=True, text=True)
    if done.returncode:
        last = " ".join(done.stderr.strip().splitlines()[-3:]) or "it gave no reason"
        raise SetupError(
            f"pip failed: {last}. What to do: see that the runtime has network, and try a fresh runtime "
            "(Runtime > Disconnect and delete runtime)"
        )


def _name(text: str) -> str:
    """Return the normal name of a package from its name or a requirement.

    Example:
        >>> _name("Huggingface_Hub==1.33.0")
        'huggingface-hub'
    """
    return re.sub(r"[-_.]+", "-", re.split(r"[=<>!~\[; ]", text, maxsplit=1)[0]).lower()


def _version(line: str) -> str:
    return line.partition("==")[2]
