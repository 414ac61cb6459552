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
class TaskSpec:
    """What is stated of a task; attributes that are not named here are those of `Task`.

    Attributes:
        layout: How train.py reads the inputs, a key of `frames.LAYOUTS`; the modality by default.
        data: Data block of the starter.
        model: Model block of the starter.
        learning: Learning block of the starter.
        goal: A target that cannot be reached, as in the paper's requests.
        rows: Visible, feedback and report rows.
    """

    name: str
    modality: str
    kind: str
    metric: str
    data: str
    model: str
    goal: str
    description: str
    layout: str = ""
    facts: tuple[str, ...] = ()
    learning: str = PLAIN
    split: str = "other"
    paper_task: str = ""
    rows: tuple[int, int, int] = (0, 0, 0)
    provenance: str = ""
    real: bool = False
    limits: Limits = field(default_factory=Limits)

    @property
    def blocks(self) -> dict[str, str]:
        """Return the three blocks of the starter."""
        return {"data": self.data, "model": self.model, "learning": self.learning}
