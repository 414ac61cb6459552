"""What a task folder is made of: the rows, and what its card and its texts say of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mlagent_lib.core.limits import Limits

if TYPE_CHECKING:  # cards are read wherever tasks are listed, long before rows are
    import numpy as np
    import pandas as pd

PLAIN = "learner = make_pipeline(prepare, model)"  # the learning block of most starters


@dataclass(frozen=True)
class Sample:
    """Rows of one task.

    Attributes:
        inputs: One row for each example, columns as the agent will see them.
        targets: The same rows; one column ``target``, or one for each output.
        extra: Further tables and arrays that belong to the inputs and hold no label, by file name.
    """

    inputs: pd.DataFrame
    targets: pd.DataFrame
    extra: dict[str, pd.DataFrame | np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Stated:
    """What is stated of a task, before its folder is made and after.

    Attributes:
        name: Name of the folder.
        modality: ``tabular``, ``text``, ``image``, ``graph`` or ``other``.
        kind: ``label``, ``probability``, ``regression``, ``multioutput``, ``rank`` or ``other``.
        metric: Name of the metric, e.g. ``logloss``.
        split: ``held-in``, ``held-out`` or ``other``.
        paper_task: The task of the paper that this one stands in for, with its metric.
        description: Two or three sentences on the task.
        facts: Short facts on the data.
        provenance: Where the data come from.
        real: Whether the rows are public data bundled with a library: a tier that lets a run read that copy
            makes the task contaminated.
        limits: What one run of a script may use.
    """

    name: str
    modality: str
    kind: str
    metric: str
    split: str = "other"
    paper_task: str = ""
    description: str = ""
    facts: tuple[str, ...] = ()
    provenance: str = ""
    real: bool = False
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, kw_only=True)
class TaskSpec(Stated):
    """What makes a task.

    Attributes:
        layout: How train.py reads the inputs, a key of `frames.LAYOUTS`; the modality by default.
        data, model, learning: The blocks of the starter.
        goal: A target that cannot be reached, as in the paper's requests.
        rows: Visible, feedback and report rows.
    """

    data: str
    model: str
    goal: str
    layout: str = ""
    learning: str = PLAIN
    rows: tuple[int, int, int] = (0, 0, 0)

    @property
    def blocks(self) -> dict[str, str]:
        """Return the three blocks of the starter."""
        return {"data": self.data, "model": self.model, "learning": self.learning}
