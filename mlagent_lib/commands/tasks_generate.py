"""``mlagent tasks generate``: checked tasks with known structure, as many as are wanted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent tasks generate`` say."""
    from mlagent_lib.tasks.pocket.generate import generate, structures

    def tell(done: int, dropped: int) -> None:
        bar = "#" * (30 * done // arguments.count)
        end = "\r" if sys.stderr.isatty() and done < arguments.count else "\n"
        if end == "\r" or done % 10 == 0 or done == arguments.count:
            told = f"[{bar:30s}] {done} of {arguments.count} tasks, {dropped} draws not kept"
            print(told, end=end, file=sys.stderr, flush=True)

    modalities = arguments.modality or list(structures())
    reasons = generate(
        Path(arguments.out), arguments.count, arguments.seed, modalities, arguments.workers, tell
    )
    print(f"{arguments.count} tasks are in {arguments.out}")
    for reason, often in reasons.most_common():
        print(f"  not kept, {reason}: {often}")
