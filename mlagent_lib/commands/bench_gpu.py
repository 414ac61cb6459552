"""``mlagent bench --gpu``: Unsloth beside the plain backend on a CUDA card, at true model sizes."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

HELP = """

With --gpu, on a CUDA card, with random weights of the true sizes (nothing is downloaded): tokens a second,
seconds of a GRPO step, peak memory and the share of the card's peak, Unsloth beside plain.

examples:
  mlagent bench --gpu                    0.5B, 1.5B and 7B, into figures/bench_gpu.json
  mlagent bench --gpu --shapes 0.5B --out small.json
  mlagent bench --gpu --backends plain   where Unsloth is not installed"""


def add_options(bench: argparse.ArgumentParser) -> None:
    """Add the options of the GPU bench to ``mlagent bench``."""
    bench.add_argument("--gpu", action="store_true", help="measure training on a CUDA card instead")
    bench.add_argument("--shapes", nargs="+", metavar="SIZE", help="with --gpu: 0.5B, 1.5B, 3B, 7B")
    bench.add_argument("--backends", nargs="+", choices=("plain", "unsloth"), help="with --gpu; default both")


def run(arguments: argparse.Namespace, print_table: Callable) -> int:
    """Measure, print, and return the exit code: 1 where a measurement failed, other than for memory."""
    from mlagent_lib.bench.gpu import BACKENDS, SIZES, failures, run_bench_gpu, table, told
    from mlagent_lib.run.notebooks import notebooks_folder

    out = Path(arguments.out) if arguments.out else notebooks_folder().parent / "figures" / "bench_gpu.json"
    record = run_bench_gpu(
        arguments.shapes or SIZES, arguments.backends or BACKENDS, out=out,
        say=lambda line: print(line, flush=True),
    )  # fmt: skip
    print_table(table(record))
    for line in told(record):
        print(line)
    print(out)
    return 1 if failures(record) else 0
