"""The end of a comparison of arms: tables, claims and figures of what is finished, and its notebook."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from mlagent_lib.arms.tables import gather
from mlagent_lib.core.arms import PROFILE
from mlagent_lib.results.arm_figures import build
from mlagent_lib.results.arms import left_of, manifest_of, origin_lines
from mlagent_lib.run.notebooks import run_all

NOTEBOOKS = (("05_ablations.ipynb", ()),)


def finish(
    runs_dir: Path, out: Path, seeds: Sequence[int] | None, *, notebooks: bool, add: bool = False
) -> Iterator[str]:
    """Write everything that follows from finished units, and yield the lines to print.

    Args:
        notebooks: Whether to execute the notebook of the arms on them.
        add: See `gather`.
    """
    gather(runs_dir, out, seeds, add=add)
    build(out)
    yield from origin_lines(manifest_of(out))
    if left := left_of(out):
        few = ", ".join(left[:6]) + (" ..." if len(left) > 6 else "")
        yield f"{len(left)} units are not finished, the results are without them: {few}"
    for row in pd.read_csv(out / "claims.csv").itertuples():
        yield f"{row.claim}  {row.verdict}: {row.statement}"
    if notebooks:
        run_all(
            "laptop", 0, runs_dir, f"{PROFILE}-notebooks", parameters={"results": str(out.resolve())},
            notebooks=NOTEBOOKS, write_report=lambda _: None, say=lambda _: None,
        )  # fmt: skip
        yield f"executed notebook: {runs_dir / f'{PROFILE}-notebooks' / 'notebooks' / NOTEBOOKS[0][0]}"
    yield f"tables and figures: {out}"
