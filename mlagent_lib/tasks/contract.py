"""The rules that a task folder is checked against, each with its place and cure (``contract.csv``)."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class RuleFinding:
    """One rule of the contract, checked: whether it holds, where, what was found, and what to do if not."""

    rule: str
    ok: bool
    where: str
    message: str
    cure: str


@cache
def rules() -> dict[str, tuple[str, str]]:
    """Return the usual place and cure of every rule, in the order of the contract."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as handle:
        return {row["rule"]: (row["where"], row["cure"]) for row in csv.DictReader(handle)}


def finding(rule: str, ok: object, message: str, where: str = "", cure: str = "") -> RuleFinding:
    """Return what was found of a rule; place and cure are the contract's where none is given.

    Example:
        >>> finding("the request is not empty", False, "0 characters").cure
        'write the request to the agent'
    """
    place, remedy = rules()[rule]
    return RuleFinding(rule, bool(ok), where or place, message, cure or remedy)
