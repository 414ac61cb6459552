"""A small competition in the shape that MLE-bench prepares, written for the tests.

A flower has a length, a width and a colour; its kind follows from them, with one row in ten drawn at random.
The grader imports MLE-bench's helpers and a file beside it, as many graders there do.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.tasks.foreign.mlebench_read import Competition

KINDS = ("aster", "daisy", "lily")
GRADER = """\
import pandas as pd

from mlebench.competitions.utils import prepare_for_accuracy_metric
from mlebench.grade_helpers import InvalidSubmissionError

from .classes import CLASSES


def grade(submission: pd.DataFrame, answers: pd.DataFrame) -> float:
    inputs = prepare_for_accuracy_metric(submission, answers, target_column="kind", id_column="flower_id")
    if not set(inputs["y_pred"]) <= set(CLASSES):
        raise InvalidSubmissionError("unknown kind")
    return float((inputs["y_pred"] == inputs["y_true"]).mean())
"""
BOARD = [round(0.99 - place * 0.01, 2) for place in range(60)]  # 60 teams: 0.99 ... 0.40


def flowers(rows: int, first_id: int, seed: int) -> pd.DataFrame:
    """Return flowers with their kinds."""
    draw = np.random.default_rng(seed)
    length, width = draw.uniform(0, 10, rows), draw.uniform(0, 10, rows)
    colour = draw.choice(["white", "red"], rows)
    kind = np.where(length * width > 30, 2, np.where(colour == "red", 1, 0))
    kind = np.where(draw.random(rows) < 0.1, draw.integers(0, 3, rows), kind)
    return pd.DataFrame(
        {
            "flower_id": [f"f{number}" for number in range(first_id, first_id + rows)],
            "length": length.round(3),
            "width": width.round(3),
            "colour": colour,
            "kind": np.array(KINDS)[kind],
        }
    )


def write_competition(folder: Path) -> Competition:
    """Write the competition under ``folder`` and return where its parts lie."""
    public, private = folder / "prepared" / "public", folder / "prepared" / "private"
    code = folder / "competitions" / "flower-kinds"
    for path in (public, private, code):
        path.mkdir(parents=True)
    train, test = flowers(240, 0, 1), flowers(120, 1000, 2)
    train.to_csv(public / "train.csv", index=False)
    test.drop(columns="kind").to_csv(public / "test.csv", index=False)
    test[["flower_id"]].assign(kind="aster").to_csv(public / "sample_submission.csv", index=False)
    (public / "description.md").write_text("# Flower kinds\n\nTell the kind of a flower.\n")
    test[["flower_id", "kind"]].to_csv(private / "test.csv", index=False)
    (code / "grade.py").write_text(GRADER)
    (code / "classes.py").write_text(f"CLASSES = {list(KINDS)}\n")
    (code / "prepare.py").write_text("raise RuntimeError('must not be imported')\n")
    (code / "description.md").write_text("# Flower kinds\n\nTell the kind of a flower.\n")
    lines = [f"{number},{score}" for number, score in enumerate(BOARD)]
    (code / "leaderboard.csv").write_text("\n".join(["teamId,score", *lines]) + "\n")
    return Competition(
        public, private, code / "grade.py", code / "description.md", code / "leaderboard.csv",
        metric="accuracy",
    )  # fmt: skip
