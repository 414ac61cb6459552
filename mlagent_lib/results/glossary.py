"""What every logged name means: one place for notebooks, the report and readers of the files."""

from __future__ import annotations

import csv
from pathlib import Path


def _words(kind: str) -> dict[str, str]:
    with open(Path(__file__).with_name("glossary.csv"), encoding="utf-8", newline="") as handle:
        return {row["name"]: row["meaning"] for row in csv.DictReader(handle) if row["kind"] == kind}


METRICS = _words("metric")  # fields of a row of the metrics.jsonl of GRPO and of SFT
NUMBERS = _words("number")  # what results are told in


def describe(name: str) -> str:
    """Return what a logged field means, or that it is not described.

    Example:
        >>> describe("lr")
        'Learning rate of the update.'
    """
    return METRICS.get(name, "Not described: a field that this version does not know.")
