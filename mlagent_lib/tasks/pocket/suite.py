"""Builds the folders of the pocket suite: deterministically, at once or not at all, by one process at a time.

``python -m mlagent_lib.tasks.pocket.measure --measure`` measures the scores that the cards state (see
`measure`).
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

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.files import lock
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.folder import drafted, write_tables, write_texts
from mlagent_lib.tasks.pocket.cards import CARDS, Card, card_of
from mlagent_lib.tasks.spec import Sample
from mlagent_lib.tasks.splits import normalised_rows

SUITE_SEED = 2505_23723
HERE = Path(__file__).parent
SCORES = HERE / "scores.json"
# What decides the content of the suite.
_SOURCES = ("cards.py", "cards.yaml", "drawing.py", "sources.py", "suite.py", "words.yaml", "writing.py",
            "scores.json", "../folder.py", "../frames.py", "../frames.yaml", "../spec.py")  # fmt: skip
_GRAPH = (
    "data/nodes.csv: one line of features for each node, node 0 first.",
    "data/edges.csv: source, cites (two node numbers).",
)
_PREPARE = '''"""Builds env/data and the labels of this task anew (deterministic)."""

from pathlib import Path

from mlagent_lib.tasks.pocket.suite import write_data

if __name__ == "__main__":
    print(ensure_suite(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd() / "suite"))
