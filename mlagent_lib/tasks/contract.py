"""The rules that a task folder is checked against, each with its place, words and cure (``contract.csv``)."""

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
def rules() -> dict[str, dict[str, str]]:
    """Return the usual place (``where``), words (``found``) and ``cure`` of every rule, in their order."""
    with Path(__file__).with_suffix(".csv").open(encoding="utf-8", newline="") as handle:
        return {row["rule"]: row for row in csv.DictReader(handle)}


def finding(rule: str, ok: object, where: str = "", cure: str = "", **fields: object) -> RuleFinding:
    """Return what was found of a rule, with what the braces of its words stand for.

    Place and cure are the contract's where none is given.

    Example:
        >>> found = finding("the request is not empty", False, count=0)
        >>> found.message, found.cure
        ('0 characters', 'write the request to the agent')
    """
    usual = rules()[rule]
    told = usual["found"].format(**fields)
    return RuleFinding(rule, bool(ok), where or usual["where"], told, cure or usual["cure"])
