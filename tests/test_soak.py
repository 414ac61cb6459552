"""Memory: a short soak leaves nothing behind, a leak would be noticed, the long one says what it found."""

from __future__ import annotations

import csv
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from mlagent_lib.environment.isolation import probe as probing

SCRIPT = Path(__file__).parent / "soak" / "steps.py"


@pytest.fixture(scope="module")
def soak():
    spec = importlib.util.spec_from_file_location("soak_steps", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def table(folder):
    """Return the rows of a soak's table as numbers."""
    with open(folder / "steps.csv", newline="") as handle:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(handle)]


@pytest.mark.slow
@pytest.mark.skipif(probing._chosen() is None, reason="no isolation tier works on this machine")
def test_a_hundred_and_fifty_steps_leave_nothing_behind(tmp_path, soak):
    command = [sys.executable, str(SCRIPT), "--steps", "150", "--every", "15", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    report, rows = json.loads((tmp_path / "steps.json").read_text()), table(tmp_path)
    assert [row["steps"] for row in rows] == list(range(0, 151, 15))
    assert all(row[name] == rows[0][name] for row in rows for name in soak.FLAT), rows
    assert rows[0]["children"] == 4 and rows[0]["zombies"] == 0
    assert max(row["memory_mb"] for row in rows) - rows[0]["memory_mb"] < 10
    assert report["left_after_close"] == {"processes": 0, "temporary_entries": 0}
    kinds = {name.partition(":")[0] for name in report["outcomes"]}
    assert kinds == {"edited", "neutral", "error", "corner", "invalid"}
    assert sum(report["outcomes"].values()) == 150 and report["executed"] > 50


def rows_of(soak, **changes):
    """Return ten samples that are flat, but for columns that grow from one to the next."""
    flat = dict.fromkeys(("memory_mb", "servers_mb", *soak.FLAT), 100.0) | {"zombies": 0.0}
    return [flat | {name: flat[name] + step * by for name, by in changes.items()} for step in range(10)]


def test_flat_samples_are_flat_and_the_warm_up_does_not_count(soak):
    rows = rows_of(soak, memory_mb=5.0)
    assert soak.judge(rows)["verdict"] == "flat" and soak.judge(rows)["max_minus_min"]["memory_mb"] == 35.0
    rows[0] = rows[0] | {"memory_mb": 0.0, "descriptors": 3.0}
    assert soak.judge(rows)["verdict"] == "flat"


@pytest.mark.parametrize(
    ("column", "growth"),
    [("memory_mb", 8.0), ("servers_mb", -8.0), ("descriptors", 1.0), ("threads", 1.0), ("children", 1.0),
     ("zombies", 1.0), ("temporary_entries", 1.0), ("workspace_files", 1.0)],
)  # fmt: skip
def test_a_leak_is_noticed(soak, column, growth):
    assert soak.judge(rows_of(soak, **{column: growth}))["verdict"] == "not flat"


def test_the_committed_figures_are_flat_over_ten_thousand_steps(soak):
    if not (SCRIPT.parent / "steps.json").exists():
        pytest.skip("the long soak has not been run: python tests/soak/steps.py")
    report, rows = json.loads((SCRIPT.parent / "steps.json").read_text()), table(SCRIPT.parent)
    assert report["steps"] == rows[-1]["steps"] >= 10_000 and report["verdict"] == "flat"
    assert report["max_minus_min"] == soak.judge(rows)["max_minus_min"]
    assert report["left_after_close"] == {"processes": 0, "temporary_entries": 0}
