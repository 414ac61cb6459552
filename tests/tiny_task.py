"""A task small enough to be worked by hand, and a runner that runs nothing: for the tests of the environment.

Every true value of the feedback labels is 10, every one of the report labels is 20. `FakeRunner` reads the
number ``n`` of ``n_neighbors=n`` from a script and answers with predictions that are off by ``n / 8`` on
feedback rows and by ``n / 4`` on report rows. So the mean absolute error is ``n / 8`` and ``n / 4`` (exact in
binary): the starter (n = 40) has a score of 5.0 and 10.0, and "Use 12 nearest neighbours." one of 1.5 and
3.0.
"""

from __future__ import annotations

import json
import re
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlagent_lib.core.errors import Unscored
from mlagent_lib.core.limits import Limits
from mlagent_lib.core.profiles import GRPOProfile, Profile, get_profile
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import RuleCoder
from mlagent_lib.environment.runner import RunRequest, RunResult
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.results.report_scores import with_report_scores
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.task import Task

NAME = "tiny-homes"
TRAIN = """import numpy as np
import pandas as pd
from sklearn.pipeline import make_pipeline

# data
from sklearn.impute import SimpleImputer
prepare = SimpleImputer()

# model
from sklearn.neighbors import KNeighborsRegressor
model = KNeighborsRegressor(n_neighbors=40)

# learning
learner = make_pipeline(prepare, model)

print(f"validation mae: {0:.2f}")
"""
CARD = f"""name: {NAME}
modality: tabular
kind: regression
metric: mae
direction: minimize
split: held-in
facts: [numbers only]
rows: 30
columns: 2
answer: {{columns: [prediction]}}
baseline: {{feedback: 5.0, report: 10.0}}
best: {{feedback: 0.0, report: 0.0}}
limits: {{seconds: 5}}
"""


def write_task(home: Path, **replaced: str) -> Task:
    """Write the task under ``home`` and return it; ``replaced`` gives other contents (``train_py="..."``)."""
    folder = home / NAME
    texts = {
        "task.yaml": replaced.get("card", CARD),
        "env/train.py": replaced.get("train_py", TRAIN),
        "env/data_description.txt": "Columns a and b.\nThe target is the price.\n",
        "env/data/train.csv": replaced.get("train_csv", "a,b,target\n1,2,10\n"),
        "env/data/test.csv": "id,a,b\n1,1,1\n2,1,1\n3,1,1\n4,1,1\n",
        "scripts/research_problem.txt": "Predict the price of a home.\n",
        "scripts/read_only_files.txt": "data/*\n./data_description.txt\n",
        "scripts/labels/feedback.csv": "id,target\n1,10\n2,10\n",
        "scripts/labels/report.csv": "id,target\n3,20\n4,20\n",
    }
    for path, text in texts.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return find_task(folder)


def submission(n: float) -> bytes:
    """Return predictions whose mean absolute error is n / 8 on feedback and n / 4 on report rows."""
    near, far = 10 + n / 8, 20 + n / 4
    return f"id,prediction\n1,{near}\n2,{near}\n3,{far}\n4,{far}\n".encode()


def result(status: str = "ok", output: str = "", **changes) -> RunResult:
    """Return a run's result with the named attributes changed."""
    values = {
        "status": status, "exit_code": 0, "output": output, "seconds": 0.5, "tier": "fake",
        "error_type": None, "error_line": None, "collected": {}, "collect_errors": {},
        "peak_memory_bytes": 1 << 20,
    }  # fmt: skip
    return RunResult(**(values | changes))


class FakeRunner:
    """Answers as the module's docstring says, or as ``answer(request)`` does; notes every request."""

    workers, tier = 1, "fake"

    def __init__(self, answer: Callable[[RunRequest], RunResult | Unscored | None] = lambda request: None):
        self.answer, self.requests, self.spans = answer, [], deque()
        self._lock = threading.Lock()

    def run(self, request: RunRequest) -> RunResult | Unscored:
        """Return the answer to one request."""
        with self._lock:
            self.requests.append(request)
        given = self.answer(request)
        if given is not None:
            return given
        found = re.search(rb"n_neighbors=(\d+)", request.files[request.script])
        if not found:
            return result(
                "error", "NameError: name 'x' is not defined\n", error_type="NameError", exit_code=1
            )
        n = int(found.group(1))
        seen = f"validation mae: {n / 8:.3f}\n"
        return result(output=seen, collected={"submission.csv": submission(n)})

    def run_many(self, requests, *, keep_unscored: bool = False) -> list[RunResult | Unscored]:
        """Return the answers in order."""
        results = [self.run(request) for request in requests]
        failures = [found for found in results if isinstance(found, Unscored)]
        if failures and not keep_unscored:
            raise failures[0]
        return results

    def close(self) -> None:
        """Do nothing."""


def make_tools(folder: Path, runner=None, coder=None, **options) -> Toolbox:
    """Return a toolbox over the tiny task of ``folder / "tasks"``, with its cache in ``folder / "cache"``."""
    options = {"limits": Limits(seconds=5), "home": folder / "tasks"} | options
    return Toolbox(runner or FakeRunner(), coder or RuleCoder(), ExecutionCache(folder / "cache"), **options)


def graded(rows: list[dict], task: Task, tools: Toolbox) -> list[dict]:
    """Return trajectories with their scores on the report labels."""
    return with_report_scores(rows, {task.name: task}.get, tools.cache.archive)


def rl_profile(model: str = "pocket", backend: str = "plain", *, grpo: GRPOProfile, **common) -> Profile:
    """Return a profile for `train_grpo` on the tiny task: six steps, pocket prompts, the exact coder."""
    steps = common.pop("max_steps", 6)
    changes = {"model": model, "backend": backend, "coder": "rules"} | common
    profile = get_profile("laptop").with_values("tiny", collect__max_steps=steps, **changes)
    return replace(profile, grpo=grpo)


def reply(action: str, **arguments: str) -> str:
    """Return a six-field reply."""
    return (
        "Reflection: none\nResearch Plan and Status: none\nFact Check: none\nThought: none\n"
        f"Action: {action}\nAction Input: {json.dumps(arguments)}"
    )


def edit(instruction: str, save_name: str = "train.py", script_name: str = "train.py") -> str:
    """Return a six-field reply that edits a script."""
    return reply(
        "Edit Script (AI)", script_name=script_name, edit_instruction=instruction, save_name=save_name
    )


def neighbours(n: int) -> str:
    """Return a six-field reply after which the tiny task has a feedback score of n / 8."""
    return edit(f"Use {n} nearest neighbours.")


def final() -> str:
    """Return a six-field reply that ends a trajectory."""
    return reply("Final Answer", final_answer="done")
