"""Set-up shared by all tests: one thread each, no display, no model hub; GPU tests only where a GPU is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["MPLBACKEND"] = "Agg"

import pytest
from hypothesis import settings

REPOSITORY = Path(__file__).resolve().parent.parent
if str(REPOSITORY) not in sys.path:  # so that the tests run from a checkout that is not installed
    sys.path.insert(0, str(REPOSITORY))

settings.register_profile("kit", deadline=None, derandomize=True)
settings.load_profile("kit")

collect_ignore_glob = ["foreign/*"]  # folders of other benchmarks: their scripts run when a test says so


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked ``gpu`` on a machine without CUDA; torch is asked only if there are such tests."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    import torch

    if not torch.cuda.is_available():
        for item in gpu_items:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the checkout."""
    return REPOSITORY


@pytest.fixture
def task(tmp_path):
    """Return the tiny task, written for this test; see ``tiny_task``."""
    from tiny_task import write_task

    return write_task(tmp_path / "tasks")
