"""``mlagent bench``: how fast experiments run here; with ``--gpu``, how fast a card trains;
with ``--against``, this build beside another one.
"""

from __future__ import annotations

import argparse

from mlagent_lib.commands.output import print_table, say


def call(arguments: argparse.Namespace) -> int:
    """Do what the arguments of ``mlagent bench`` say."""
    if arguments.gpu:
        return _gpu(arguments)
    from mlagent_lib.bench import against, measure

    run, only, options = arguments.run, arguments.only, {"out": arguments.out, "say": say}
    if arguments.against:
        record = against.run_against(arguments.against, only or against.LETTERS, **options)
        told, lost = f"this build over {record['against'][:12]}", []
    else:
        if only is None and not (run / "04_evaluation").is_dir():
            only = measure.LETTERS.replace("f", "")
            print(f"question f is left out: there is no finished run {run}")
        record = measure.run_bench(only or measure.LETTERS, run=run, tasks=arguments.tasks, **options)
        told, lost = f"{record['scripts']} scripts", measure.missed(record)
    print(f"{record['device']}, isolation {record['tier']}, {told}")
    print_table(measure.printed_rows(record))
    for line in lost:
        print(line)
    return 0


def _gpu(arguments: argparse.Namespace) -> int:
    """Measure, print, and return the exit code: 1 where a measurement failed, other than for memory."""
    from mlagent_lib.bench.gpu import BACKENDS, SIZES, failures, goal_lines, gpu_rows, run_bench_gpu
    from mlagent_lib.run.notebooks import notebooks_folder

    out = arguments.out or notebooks_folder().parent / "figures" / "bench_gpu.json"
    record = run_bench_gpu(arguments.shapes or SIZES, arguments.backends or BACKENDS, out=out, say=say)
    print_table(gpu_rows(record))
    for line in goal_lines(record):
        print(line)
    print(out)
    return 1 if failures(record) else 0
