"""`mlagent bench --against COMMIT`: this build beside another one, turn by turn, as ratios.

What is compared, and what is aimed at, lies in ``against.yaml``. Nothing here is a test.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlagent_lib.bench.builds import ROOT, paired, worktree
from mlagent_lib.bench.measure import BenchRow, check_letters, finding_lines, recorded
from mlagent_lib.core.files import read_yaml
from mlagent_lib.core.provenance import git_state

SCHEMA = "mlagent.bench-against/1"
AGAINST = "bench_against.json"  # the committed record
LETTERS = "gGhmi"  # all but r, which takes as long as two runs


def compared() -> dict[str, dict]:
    """Return what can be compared, by letter."""
    return read_yaml(Path(__file__).with_name("against.yaml"))


def ratio_row(letter: str, pairs: Sequence[tuple[dict, dict]]) -> BenchRow:
    """Return the row of one comparison: this build over the other one, pair by pair.

    Example:
        >>> ratio_row("g", [({"own": 1.0}, {"own": 4.0}), ({"own": 1.0}, {"own": 2.0})]).value
        0.375
    """
    asked = compared()[letter]
    kind = asked["of"]
    note = " against ".join(_side(kind, took) for took in zip(*pairs, strict=True))
    return BenchRow.of(letter, asked, [mine[kind] / other[kind] for mine, other in pairs], note)


def _side(kind: str, took: Sequence[dict]) -> str:
    """Return the numbers of one build in words."""
    middle = statistics.median(row[kind] for row in took)
    if kind == "peak":
        return f"{middle / 1e6:.0f} MB"
    words = f"{middle:.2f} s"
    if all("tokens" in row for row in took):
        words += f" ({statistics.median(row['tokens'] / row['own'] for row in took):.0f} tokens a second)"
    elif all("actions" in row for row in took):
        busy = statistics.median(row["all"] / row["wall"] for row in took)
        words += (
            f" for {statistics.median(row['actions'] for row in took):.0f} actions, {busy:.2f} cores busy"
        )
    return words


def run_against(
    commit: str, only: str = LETTERS, *, out: Path | None = None, say: Callable[[str], None] = print
) -> dict:
    """Return the paired ratios, this build over that of a commit, as written to ``out``.

    Args:
        commit: Any name of it that git knows.
        only: Letters of `compared`.

    Raises:
        RunError: A letter or the commit is unknown, there is no git checkout, or a build cannot do the work.
    """
    known = compared()
    check_letters(only, known, "comparison")
    if (git_state() or {}).get("dirty"):
        say("files of this checkout are not committed: what lies here is measured, not its last commit")
    began, measured, rows = time.monotonic(), {}, []
    with worktree(commit) as (tree, name), tempfile.TemporaryDirectory(prefix="mlagent-bench-") as folder:
        for letter in only:
            asked = known[letter]
            work = tuple(asked["work"])
            if work not in measured:
                say(f"{letter}: {asked['question']} ...")
                place = Path(folder) / letter
                place.mkdir()
                measured[work] = paired((ROOT, tree), place, work, asked["turns"])
            rows.append(ratio_row(letter, measured[work]))
    return recorded(SCHEMA, rows, began, out, against=name)


def against_lines(figures: Path | str) -> str:
    """Return the table of the committed comparison as Markdown, from its record alone."""
    record = json.loads((Path(figures) / AGAINST).read_text(encoding="utf-8"))
    where = (
        f"This build over that of commit {record['against'][:7]}, turn by turn, on {record['device']}, "
        f"isolation {record['tier']}; n are pairs."
    )
    return f"{finding_lines(record)}\n\n{where}"
