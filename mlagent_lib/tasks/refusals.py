"""Why a task cannot be made, read or graded: message and cure of every reason (``refusals.csv``)."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import TypeVar

from mlagent_lib.core.errors import MlagentError, TaskError

Refused = TypeVar("Refused", bound=MlagentError)


@cache
def refusals() -> dict[str, tuple[str, str]]:
    """Return message and cure by reason."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as handle:
        return {row["reason"]: (row["message"], row["cure"]) for row in csv.DictReader(handle)}


def refusal(reason: str, /, made: type[Refused] = TaskError, **fields: object) -> Refused:
    """Return the error for a reason of `refusals`, with what its braces stand for.

    Example:
        >>> print(refusal("taken name", name="pocket-homes"))
        'pocket-homes' is the name of a pocket task. What to do: choose another name
    """
    message, cure = (text.format(**fields) for text in refusals()[reason])
    return made(message, cure=cure)
