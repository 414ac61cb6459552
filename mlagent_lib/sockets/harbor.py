"""A task as a folder of Harbor: instruction, ``task.toml``, ``environment/``, ``tests/``, ``solution/``.

The environment holds what an agent may read. Labels lie in ``tests/`` and the true answers in ``solution/``,
which Harbor copies into the container for the verifier and for its oracle agent only.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from mlagent_lib import __version__
from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.files import write_bytes, write_text
from mlagent_lib.environment.env import MAX_STEPS
from mlagent_lib.tasks.check import gold_submission
from mlagent_lib.tasks.folder import drafted
from mlagent_lib.tasks.task import Task

SCHEMA = "1.4"  # of task.toml, Harbor 0.25
WORKDIR = "/app"
ROOT = Path(__file__).resolve().parent.parent.parent
_LIBRARIES = ("numpy", "pandas", "scipy", "scikit-learn", "statsmodels", "PyYAML")
_TOML = """schema_version = {schema}

[task]
name = {name}
version = {version}
description = {description}
keywords = ["ml-engineering", {modality}]

[metadata]
metric = {metric}
better = {better}
starter_score = {start}
best_known_score = {best}

[agent]
timeout_sec = {agent_seconds}

[verifier]
timeout_sec = 300.0

[environment]
workdir = "{workdir}"
cpus = 1
memory_mb = {memory}
storage_mb = 10240
"""
_INSTRUCTION = """# {task.name}

{task.research_problem}

{task.description}

Your files are in {workdir}. `{task.starter}` is a script that works: improve it and run it, so that it \
writes `{workdir}/submission.csv` with an answer for every id of `data/test.csv`.

The metric is {task.metric}, {task.better} is better, on labels that you do not see. One run should take \
at most {task.limits.seconds:g} seconds. What counts is the last `submission.csv`.
"""
_DOCKERFILE = f"""FROM python:3.11-slim
RUN pip install --no-cache-dir {{libraries}}
COPY app {WORKDIR}
WORKDIR {WORKDIR}
"""
_TEST = f"""#!/bin/sh
# Harbor calls it without arguments; anywhere else: test.sh FOLDER_OF_THE_WORK FOLDER_OF_THE_REWARD
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work="${{1:-{WORKDIR}}}"
out="${{2:-/logs/verifier}}"
mkdir -p "$out"
rm -f "$out/reward.json"
cd "$here"
exec python3 -E -s -B "$here/grade.py" "$work/submission.csv" "$out"
"""
_SOLVE = f"""#!/bin/sh
# hands in the true answers: the oracle of Harbor, to see that the reward reaches its top
set -eu
cp "$(cd "$(dirname "$0")" && pwd)/submission.csv" "${{1:-{WORKDIR}}}/submission.csv"
"""


def grading_modules() -> list[str]:
    """Return the files of the kit that grading loads, by place below the folder of the package.

    Example:
        >>> "mlagent_lib/tasks/metrics.py" in grading_modules()
        True
    """
    asks = "import sys, mlagent_lib.tasks.grading\n"
    asks += "for m in sys.modules.values():\n    print(m.__name__, getattr(m, '__file__', ''))"
    done = subprocess.run([sys.executable, "-c", asks], capture_output=True, text=True, check=True, cwd=ROOT)
    rows = (line.split(" ", 1) for line in done.stdout.splitlines())
    files = [Path(file).resolve() for name, file in rows if name.partition(".")[0] == "mlagent_lib"]
    return sorted(file.relative_to(ROOT).as_posix() for file in files)


def export_harbor(task: Task, out: str | Path) -> Path:
    """Return the folder that a task was exported to.

    Args:
        out: Must not exist.

    Raises:
        TaskError: The folder is there already, or the task is graded by a file of its own.
    """
    target = Path(out)
    if target.exists():
        raise TaskError(f"{target} is there already", cure="name another folder with --out")
    if task.grader is not None or not task.labels_dir.is_dir():
        cure = "export a task whose labels are in the kit's form: a pocket task, or one of mlagent tasks new"
        raise TaskError(f"task {task.name!r} is graded by a file of its own", cure=cure)
    leave = shutil.ignore_patterns("__pycache__", "submission.csv")
    with drafted(target) as draft:
        shutil.copytree(task.folder / "env", draft / "environment" / "app", ignore=leave)
        libraries = " ".join(f'"{name}=={version(name)}"' for name in _LIBRARIES)
        write_text(draft / "environment" / "Dockerfile", _DOCKERFILE.format(libraries=libraries))
        write_text(draft / "instruction.md", _INSTRUCTION.format(task=task, workdir=WORKDIR))
        write_text(draft / "task.toml", _toml(task))
        tests = draft / "tests"
        for part in ("env", "scripts"):
            shutil.copytree(task.folder / part, tests / "task" / part, ignore=leave)
        shutil.copy(task.folder / "task.yaml", tests / "task" / "task.yaml")
        for name in grading_modules():
            (tests / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tests / name)
        shutil.copy(Path(__file__).with_name("harbor_grade.py"), tests / "grade.py")
        write_text(tests / "test.sh", _TEST)
        write_text(draft / "solution" / "solve.sh", _SOLVE)
        write_bytes(draft / "solution" / "submission.csv", gold_submission(task))
        for script in (tests / "test.sh", draft / "solution" / "solve.sh"):
            script.chmod(0o755)
    return target


def _toml(task: Task) -> str:
    words = {name: getattr(task, name) for name in ("modality", "description", "metric", "better")}
    words |= {"schema": SCHEMA, "name": f"mlagent/{task.name}", "version": __version__}
    quoted = {name: json.dumps(word) for name, word in words.items()}
    return _TOML.format(
        **quoted, start=task.baseline["report"], best=task.best["report"], workdir=WORKDIR,
        agent_seconds=task.limits.seconds * MAX_STEPS * 3, memory=task.limits.memory_bytes >> 20,
    )  # fmt: skip
