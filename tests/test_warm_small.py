"""The small server for scripts of the standard library, and the loaded process that forks graders."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from mlagent_lib.core.imports import standard_only
from mlagent_lib.environment.isolation import probe as probing
from mlagent_lib.environment.runner import Runner, RunRequest
from mlagent_lib.tasks.foreign import grader_warm
from mlagent_lib.tasks.foreign.grader import ForeignGrader, run_grader

isolated = pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")


@pytest.mark.parametrize(
    ("text", "found"),
    [(b"import csv, random", True), (b"import numpy", False), (b"def f():\n    from pandas import x", False),
     (b"import importlib as i\ni.import_module('numpy')", False), (b"import helper", False), (b"1 +", True)],
)  # fmt: skip
def test_what_a_script_imports_is_read_from_its_text(text, found):
    assert standard_only({"train.py": text}, "train.py") is found


@isolated
def test_a_script_of_the_standard_library_gets_a_small_server_with_the_same_walls(tmp_path):
    (tmp_path / "label.csv").write_text("secret")
    look = f"""
import os, sys
print("numpy" in sys.modules, os.listdir())
open("left.txt", "w").write("x")
try:
    print(open({str(tmp_path / "label.csv")!r}).read())
except OSError as error:
    print(type(error).__name__)
"""
    asked = RunRequest({"a.py": look.encode()}, None, "a.py", collect=(), standard_only=True)
    with Runner(workers=1) as pool:
        results = [pool.run(asked) for _ in range(2)]
        base, tier = pool._base, pool.tier
        full = pool._servers[0]
        assert full.process is None and pool._light[full].process is not None
        assert pool.run(RunRequest({"a.py": b"import numpy"}, None, "a.py", collect=())).status == "ok"
    assert [r.output for r in results] == ["False ['a.py']\nPermissionError\n"] * 2
    assert {r.tier for r in results} == {tier} and not os.path.exists(base)


@pytest.mark.skipif(sys.platform != "linux", reason="graders are forked on Linux only")
def test_gradings_are_forks_that_share_nothing_and_outlive_a_lost_process(tmp_path):
    script = tmp_path / "scripts" / "eval.py"
    script.parent.mkdir()
    script.write_text(
        "import builtins, os, sys\nloaded = 'pandas' in sys.modules\n"
        "def get_score(folder):\n    seen = getattr(builtins, 'seen', 0)\n    builtins.seen = 1\n"
        "    assert loaded and not seen, (loaded, seen)\n    return float(os.getppid())\n"
    )
    grader = ForeignGrader(script)
    grader_warm.close_all()
    parents = {run_grader(grader, b"%d" % number).score for number in range(3)}
    (kept,) = grader_warm._kept.values()
    assert parents == {float(kept._process.pid)}
    os.kill(kept._process.pid, signal.SIGKILL)
    kept._process.wait()
    assert run_grader(grader, b"4").score not in (None, *parents)
    (again,) = grader_warm._kept.values()
    grader_warm.close_all()
    assert not grader_warm._kept and not Path(f"/proc/{again._process.pid}").exists()
