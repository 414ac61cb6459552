"""No run can read the places from which the real rows of the suite come, at any tier that works here."""

from __future__ import annotations

import json

import pytest

from mlagent_lib.environment.runner import Runner, RunRequest, probe
from mlagent_lib.tasks.pocket.sources import bundled_folders
from mlagent_lib.tasks.registry import find_task, list_tasks

SCRIPT = """
import json
names, opened = json.load(open("names.json")), []
for name in names:
    try:
        with open(name, "rb") as file:
            opened.append((name, len(file.read(16))))
    except OSError:
        pass
print("opened", len(opened), "of", len(names), opened[:3])
"""
LOADERS = """
from sklearn import datasets
got = []
for load in (datasets.load_digits, datasets.load_sample_images, datasets.load_diabetes):
    try:
        load()
        got.append(load.__name__)
    except OSError:
        pass
try:
    import pydoc_data.topics
    got.append("topics")
except (ImportError, OSError):
    pass
try:
    import statsmodels.datasets.anes96
    statsmodels.datasets.anes96.load_pandas()
    got.append("anes96")
except (ImportError, OSError):
    pass
print("loaded", got)
"""


def source_files() -> list[str]:
    """Return the files that hold real rows: data of the packages, and pydoc's text. Loaders hold none."""
    files = [path for folder in bundled_folders() for path in folder.rglob("*") if path.is_file()]
    held = [path for path in files if path.suffix not in (".py", ".pyc") or path.name == "topics.py"]
    return sorted(str(path) for path in held)


@pytest.mark.parametrize("tier", probe().available)
def test_no_file_with_real_rows_can_be_opened(tier):
    names = source_files()
    known = {"digits.csv.gz", "china.jpg", "topics.py", "anes96.csv", "randhie.csv"}
    assert len(names) > 50 and known <= {name.rsplit("/", 1)[-1] for name in names}
    names += [str(path) for task in list_tasks() for path in find_task(task).labels_dir.glob("*.csv")]
    files = {"look.py": SCRIPT, "load.py": LOADERS, "names.json": json.dumps(names)}
    files = {name: text.encode() for name, text in files.items()}
    with Runner(workers=1, tier=tier) as runner:
        looked = runner.run(RunRequest(files, None, "look.py", collect=()))
        assert looked.output.startswith(f"opened 0 of {len(names)} "), looked.output
        loaded = runner.run(RunRequest(files, None, "load.py", collect=()))
        assert loaded.output.strip() == "loaded []", loaded.output
