"""What every logged name means: one place for notebooks, the report and readers of the files."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

_WORDS = pd.read_csv(Path(__file__).with_name("glossary.csv"), keep_default_na=False, index_col="name")
METRICS = _WORDS.query("kind == 'metric'")["meaning"].to_dict()  # of a row of metrics.jsonl of GRPO and SFT
NUMBERS = _WORDS.query("kind == 'number'")["meaning"].to_dict()  # what results are told in


def describe(name: str) -> str:
    """Return what a logged field means, or that it is not described.

    Example:
        >>> describe("lr")
        'Learning rate of the update.'
    """
    return METRICS.get(name, "Not described: a field that this version does not know.")
