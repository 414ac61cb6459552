"""Builds the folders of the pocket suite: deterministically, at once or not at all, by one process at a time.

``mlagent tasks audit --measure`` measures the scores that the cards state (see `audit`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.core.files import lock
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.folder import drafted, write_tables, write_texts
from mlagent_lib.tasks.pocket.cards import CARDS, Card, card_of
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.spec import Sample
from mlagent_lib.tasks.splits import normalised_rows

SUITE_SEED = 2505_23723
HERE = Path(__file__).parent
SCORES = HERE / "scores.json"
# What decides the content of the suite.
_SOURCES = ("cards.py", "cards.yaml", "drawing.py", "sources.py", "suite.py", "words.yaml", "writing.py",
            "scores.json", "../folder.py", "../frames.py", "../frames.yaml", "../spec.py")  # fmt: skip
GRAPH = (
    "data/nodes.csv: one line of features for each node, node 0 first.",
    "data/edges.csv: source, cites (two node numbers).",
)
_PREPARE = '''"""Builds env/data and the labels of this task anew (deterministic)."""

from pathlib import Path

from mlagent_lib.tasks.pocket.suite import write_data

if __name__ == "__main__":
    write_data("{name}", Path(__file__).resolve().parent.parent)
'''


def draw_sample(spec: Card) -> Sample:
    """Return the rows of a task without repeated rows, in random order."""
    module, name = spec.source.split(".")
    function = getattr(import_module(f"mlagent_lib.tasks.pocket.{module}"), name)
    sample = function(rng(SUITE_SEED, spec.name, "rows"))
    order = rng(SUITE_SEED, spec.name, "order").permutation(len(sample.inputs))
    fresh = ~normalised_rows(sample.inputs.iloc[order]).duplicated().to_numpy()
    chosen = order[fresh][: sum(spec.rows)]
    if len(chosen) < sum(spec.rows):
        raise refusal("few different rows", spec=spec, count=len(chosen), wanted=sum(spec.rows))
    inputs, targets = (table.iloc[chosen].reset_index(drop=True) for table in (sample.inputs, sample.targets))
    return Sample(inputs, targets, sample.extra)


def write_data(name: str, folder: Path) -> Sample:
    """Write ``env/data`` and the hidden labels of a pocket task into a folder and return its rows."""
    spec = card_of(name)
    sample = draw_sample(spec)
    write_tables(folder, sample, spec.rows, rng(SUITE_SEED, name, "ids"))
    return sample


def write_task(spec: Card, folder: Path, recorded: dict | None = None) -> None:
    """Write all files of one task, with the recorded scores where they belong to exactly these files."""
    sample = write_data(spec.name, folder)
    classes = list(range(1, 7)) if spec.metric == "qwk" else []
    if spec.kind in ("label", "probability", "rank"):
        classes = sorted(int(value) for value in np.unique(sample.targets["target"]))
    more, prepare = GRAPH if "nodes" in sample.extra else (), _PREPARE.format(name=spec.name)
    write_texts(folder, spec, sample, classes, prepare=prepare, more=more, recorded=recorded)


def recorded_scores() -> dict:
    """Return the measured scores of all tasks by name; empty before the first measurement."""
    return json.loads(SCORES.read_text(encoding="utf-8"))["tasks"] if SCORES.is_file() else {}


def fingerprint() -> str:
    """Return a short hash of everything that decides the content of the suite: its code and its scores."""
    content = b"".join((HERE / name).read_bytes() for name in _SOURCES if (HERE / name).is_file())
    versions = f"{sys.version_info[:2]} {np.__version__} {pd.__version__}"
    return sha256(content + versions.encode()).hexdigest()[:12]


def build_suite(folder: Path, names: list[str] | None = None) -> list[str]:
    """Write the tasks into a folder and return the names of those whose scores are not recorded for these
    files.
    """
    scores = recorded_scores()
    unmeasured = []
    for spec in CARDS:
        if names is None or spec.name in names:
            write_task(spec, folder / spec.name, scores.get(spec.name))
            if "not measured" in (folder / spec.name / "task.yaml").read_text(encoding="utf-8"):
                unmeasured.append(spec.name)
    return unmeasured


def ensure_suite(home: Path) -> Path:
    """Return the folder of the built suite below ``home``, a folder for caches; build it where it is missing.

    Scores are recorded for exact files. Where this machine makes other files (another Python has other manual
    pages), the starter and the best known script of those tasks are run once more, in a process of their own.
    """
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    target = home / f"pocket-{fingerprint()}"
    if target.is_dir():
        return target
    with open(home / ".pocket.lock", "w") as handle:
        lock(handle.fileno(), home)
        if not target.is_dir():
            with drafted(target) as draft:
                unmeasured = build_suite(draft)
                if unmeasured:
                    _measure_again(draft, unmeasured)
    return target


def _measure_again(folder: Path, names: list[str]) -> None:
    command = [sys.executable, "-m", "mlagent_lib.tasks.pocket.measure", str(folder), *names]
    roots = [str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, roots)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise refusal("not measured again", names=", ".join(names), last=done.stderr.strip()[-500:])


if __name__ == "__main__":
    print(ensure_suite(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd() / "suite"))
