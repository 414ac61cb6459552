"""A task as a package of OpenEnv: ``openenv.yaml`` with what reward, oracle, floor and canaries are.

The oracle is no file of answers: it is the word with which the server is asked for its own control, so that
no label leaves the task's folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import yaml

from mlagent_lib import __version__
from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.files import write_text
from mlagent_lib.environment.env import MAX_STEPS
from mlagent_lib.sockets.desk import canaries, control
from mlagent_lib.tasks.registry import list_tasks
from mlagent_lib.tasks.task import Task

PORT = 8000
_SPACE = {"type": "space", "runtime": "fastapi", "app": "mlagent_lib.sockets.openenv:build_app", "port": PORT}
_CAPABILITIES = {
    "verifier": {"kind": "reward_channel"},
    "oracle": {"form": "injected_state", "location": "oracle.json"},
    "set_state": True,
    "task_api": True,
    "canaries": "canaries.json",
}
_DOCKERFILE = """FROM python:3.11-slim
RUN pip install --no-cache-dir "mlagent-kit[openenv]=={version}"
{copy}EXPOSE {port}
CMD ["mlagent", "serve", "--host", "0.0.0.0", "--port", "{port}", "--task", "{task}", "--reward", "{form}"]
"""


def write_package(task: Task, out: Path, *, form: str = "v1") -> Path:
    """Return the folder of the package of a task, written anew; ``openenv validate FOLDER`` reads it.

    Args:
        form: Of the reward. Its range is 0 to 1; for ``v2``, which has no ends, from a failed step's -1 to
            what the oracle is paid.

    Raises:
        TaskError: The folder holds something else already.
        MlagentError: The true answers of the task are not known.
    """
    if out.exists() and not (out / "openenv.yaml").is_file():
        raise TaskError(f"{out} is there already and is no such package", cure="name another folder")
    oracle, floor = (control(task, name, form)[1] for name in ("oracle", "floor"))
    low, high = (min(-1.0, floor), oracle) if form == "v2" else (0.0, 1.0)
    reward = {"range": [low, high], "oracle_tolerance": high - oracle, "floor_margin": (high - floor) / 2}
    memory, disk = task.limits.memory_bytes >> 20, max(1, task.limits.disk_bytes >> 20)
    seconds = task.limits.seconds * MAX_STEPS
    validation = {
        "reward": reward,
        "resources": {"cpu": 1.0, "memory_mb": memory, "disk_mb": disk, "episode_timeout_s": seconds},
        "network": {"mode": "no-network"},
        "capabilities": _CAPABILITIES | {"declared_task_count": {task.split: 1}},
        "types": {"tags": ["ml-engineering", task.modality]},
    }
    card = {"spec_version": 1, "name": task.name, "version": __version__, **_SPACE, "validation": validation}
    name, copy = task.name, ""
    if task.name not in list_tasks():
        name, copy = f"/{task.name}", f"COPY task /{task.name}\n"
        shutil.copytree(task.folder, out / "task", dirs_exist_ok=True)
    docker = _DOCKERFILE.format(version=__version__, copy=copy, port=PORT, task=name, form=form)
    write_text(out / "openenv.yaml", yaml.safe_dump(card, sort_keys=False))
    write_text(out / "Dockerfile", docker)
    write_text(out / "oracle.json", json.dumps({"control": "oracle", "task": task.name}) + "\n")
    write_text(out / "canaries.json", json.dumps(canaries(task), indent=1) + "\n")
    return out
