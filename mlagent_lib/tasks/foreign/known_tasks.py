"""What folders of MLAgentBench do not state: metric, direction, best known score and its source."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mlagent_lib.core.files import read_yaml


@dataclass(frozen=True)
class KnownTask:
    """One task of MLAgentBench.

    Attributes:
        metric: What its ``eval.py`` computes, with its direction.
        modality: As in `Task`.
        best: Best known score in the unit of the metric, and its source; None where no source is known.
        warning: What a reader of a score has to know; "" for nothing special.
    """

    metric: str
    greater_is_better: bool
    modality: str
    best: float | None = None
    source: str = ""
    warning: str = ""


MODALITY_NAMES = ("tabular", "text", "image", "graph", "other")
KIND_NAMES = ("label", "probability", "regression", "multioutput", "rank", "other")


@cache
def known_folders() -> dict[str, KnownTask]:
    """Return the known tasks by name of their folder; a caller who states other values is always right."""
    return {name: KnownTask(**row) for name, row in read_yaml(Path(__file__).with_suffix(".yaml")).items()}
