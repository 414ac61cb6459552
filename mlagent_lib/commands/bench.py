"""``mlagent bench``: how fast experiments run here; with ``--gpu``, how fast a card trains;
with ``--against``, this build beside another one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mlagent_lib.commands.output import print_table, say


def call(arguments: argparse.Namespace) -> int:
    """Do what the arguments of ``mlagent bench`` say."""
    if arguments.gpu:
        return _gpu(arguments)
    if arguments.against:
        return _against(arguments)
    from mlagent_lib.bench.measure import LETTERS, missed, printed_rows, run_bench

    run, only = Path(arguments.run), arguments.only
    if only is None and not (run / "04_evaluation").is_dir():
        only = LETTERS.replace("f", "")
        print(f"question f is left out: there is no finished run {run}")
    out = Path(arguments.out) if arguments.out else None
    record = run_bench(only or LETTERS, run=run, tasks=arguments.tasks, out=out, say=say)
    print(f"{record['device']}, isolation {record['tier']}, {record['scripts']} scripts")
    print_table(printed_rows(record))
    for line in missed(record):
        print(line)
    return 0


def _against(arguments: argparse.Namespace) -> int:
    from mlagent_lib.bench.against import LETTERS, run_against
    from mlagent_lib.bench.measure import printed_rows

    out = Path(arguments.out) if arguments.out else None
    record = run_against(arguments.against, arguments.only or LETTERS, out=out, say=say)
    print(f"{record['device']}, isolation {record['tier']}, this build over {record['against'][:12]}")
    print_table(printed_rows(record))
    return 0


def _gpu(arguments: argparse.Namespace) -> int:
    """Measure, print, and return the exit code: 1 where a measurement failed, other than for memory."""
    from mlagent_lib.bench.gpu import BACKENDS, SIZES, failures, goal_lines, gpu_rows, run_bench_gpu
    from mlagent_lib.run.notebooks import notebooks_folder

    out = Path(arguments.out) if arguments.out else notebooks_folder().parent / "figures" / "bench_gpu.json"
    record = run_bench_gpu(arguments.shapes or SIZES, arguments.backends or BACKENDS, out=out, say=say)
    print_table(gpu_rows(record))
    for line in goal_lines(record):
        print(line)
    print(out)
    return 1 if failures(record) else 0
