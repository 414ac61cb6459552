"""``mlagent profiles``: the profiles, or every constant of one beside the paper's."""

from __future__ import annotations

import argparse
from typing import Any

from mlagent_lib.commands.output import print_table


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent profiles`` say."""
    from mlagent_lib.core.profiles import PROFILES, get_profile

    if arguments.name is None:
        rows = [("profile", "minutes", "model", "for")]
        for profile in PROFILES.values():
            minutes = f"{profile.budget_minutes:g}" if profile.budget_minutes else "-"
            rows.append((profile.name, minutes, profile.model, profile.purpose))
        print_table(rows)
        return
    rows = [("stage", "constant", "value", "paper", "source and reason")]
    for row in get_profile(arguments.name).as_rows():
        paper = _short(row["paper"]) if row["differs"] else "same"
        reason = f"{row['source']}; {row['why']}" if row["why"] else row["source"]
        rows.append((row["stage"], row["name"], _short(row["value"]), paper, reason))
    print(f"{arguments.name}: {get_profile(arguments.name).purpose}\n")
    print_table(rows)


def _short(value: Any) -> str:
    """Return a value as a cell of a table.

    Example:
        >>> [_short(value) for value in (1e-06, ("a", "b"), (), 3)]
        ['1e-06', 'a, b', '-', '3']
    """
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
