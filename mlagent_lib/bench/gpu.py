"""`mlagent bench --gpu`: Unsloth beside the plain backend on one card, in one run, at true model sizes.

Weights are random: what is measured does not depend on their values. Each backend works in a process of its
own (`bench_gpu_worker`), one after the other, on the same model. Nothing here is a test: where a goal is
missed, or a backend runs out of memory, the table says so.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mlagent_lib.bench.builds import last_line
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import write_json
from mlagent_lib.core.provenance import git_state, versions
from mlagent_lib.training.flops import peak_tflops
from mlagent_lib.training.memory import SHAPES

SCHEMA = "mlagent.bench-gpu/1"
SIZES = ("0.5B", "1.5B", "7B")
BACKENDS = ("plain", "unsloth")
GOALS = {"faster": 1.5, "memory": 0.6, "share": 0.35}


def run_bench_gpu(
    shapes: Sequence[str] = SIZES,
    backends: Sequence[str] = BACKENDS,
    *,
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict:
    """Return what was measured, as written to ``out``: a row a shape and backend, goals, card, versions.

    Args:
        shapes: Names of `mlagent_lib.training.memory.SHAPES`.

    Raises:
        RunError: A shape is unknown, there is no CUDA device, or a model could not be written.
        MlagentError: A backend cannot run here.
    """
    for shape in shapes or [""]:
        if shape not in SHAPES:
            raise RunError(f"shape {shape!r} is unknown", cure=f"choose among {', '.join(SHAPES)}")
    check_cuda()
    from mlagent_lib.training.backends import choose

    for backend in backends:
        choose(backend)
    began, rows = time.monotonic(), []
    with tempfile.TemporaryDirectory(prefix="mlagent-bench-gpu-") as folder:
        for shape in shapes:
            model = Path(folder) / shape
            say(f"{shape}: writing a random model ...")
            done = _worker("write", shape, str(model))
            if done.returncode:
                raise RunError(
                    f"the random model of {shape} could not be written: {last_line(done.stderr)}",
                    cure="see that memory and temporary disk suffice, or choose smaller --shapes",
                )
            for backend in backends:
                say(f"{shape}: {backend} ...")
                rows.append(_measured(backend, shape, model, Path(folder) / f"{shape}-{backend}"))
    record = assemble(rows, gpu=describe_gpu()) | {"seconds": round(time.monotonic() - began, 1)}
    if out is not None:
        write_json(out, record)
    return record


def check_cuda() -> None:
    """Raise `RunError` where there is no CUDA device."""
    import torch

    if not torch.cuda.is_available():
        cure = "run it on a machine with an NVIDIA card; without one, `mlagent bench` measures execution"
        raise RunError("the GPU bench needs a CUDA device, and torch sees none", cure=cure)


def _worker(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "mlagent_lib.bench.gpu_worker", *words]
    return subprocess.run(command, capture_output=True, text=True)


def _measured(backend: str, shape: str, model: Path, work: Path) -> dict:
    """Return the row of one measurement; a process that failed is a row that says so."""
    work.mkdir()
    done = _worker("measure", backend, shape, str(model), str(work / "record.json"))
    if done.returncode:
        return {"backend": backend, "shape": shape, "failed": last_line(done.stderr)}
    return json.loads((work / "record.json").read_text())


def describe_gpu() -> dict:
    """Return name, driver and peak of the first card; the driver is "unknown" where nvidia-smi is missing."""
    import torch

    name = torch.cuda.get_device_name()
    try:
        command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
        driver = answer.stdout.split("\n")[0].strip() or "unknown"
    except (OSError, subprocess.TimeoutExpired):
        driver = "unknown"
    return {"name": name, "driver": driver}


def assemble(rows: Sequence[dict], *, gpu: dict) -> dict:
    """Return the record of measurements: with shares of the peak, and the goals."""
    found = peak_tflops(gpu["name"])
    peak, source = found if found else (None, "no data sheet of this card is known to the kit")
    full = [
        row if peak is None or "failed" in row else row | {"share_of_peak": row["update_tflops"] / peak}
        for row in rows
    ]
    record = {"schema": SCHEMA, "gpu": gpu | {"peak_tflops": peak, "peak_source": source}, "rows": full}
    return record | {"goals": goals(full), "versions": versions(), "git": git_state()}


def goals(rows: Sequence[dict]) -> list[dict]:
    """Return the two goals at 7B, each reached, missed or not measured (None).

    Example:
        >>> plain = {"shape": "7B", "backend": "plain", "step_seconds": 30.0, "peak_bytes": 50}
        >>> fast = {"shape": "7B", "backend": "unsloth", "step_seconds": 20.0, "peak_bytes": 45}
        >>> [goal["reached"] for goal in goals([plain, fast])]  # 1.5 times as fast; no share of a peak
        [True, None]
    """
    at = {row["backend"]: row for row in rows if row["shape"] == "7B" and "failed" not in row}
    plain, unsloth = at.get("plain"), at.get("unsloth")
    compared, faster, memory = None, None, None
    if plain and unsloth:
        faster = plain["step_seconds"] / unsloth["step_seconds"]
        memory = unsloth["peak_bytes"] / plain["peak_bytes"]
        compared = faster >= GOALS["faster"] or memory <= GOALS["memory"]
    share = unsloth.get("share_of_peak") if unsloth else None
    speed, room = f">= {GOALS['faster']} times faster", f"<= {GOALS['memory']} of the memory"
    values = {"times_faster": faster, "share_of_memory": memory}
    first = {"goal": f"Unsloth at 7B: a step {speed}, or {room}", "values": values, "reached": compared}
    reached = None if share is None else share >= GOALS["share"]
    goal = f"update at 7B: >= {GOALS['share']:.0%} of the card's peak"
    return [first, {"goal": goal, "values": {"share_of_peak": share}, "reached": reached}]


def gpu_rows(record: dict) -> list[tuple[str, ...]]:
    """Return the rows that ``mlagent bench --gpu`` prints, the heading first."""
    rows = [("size", "backend", "tokens/s", "s a step", "s its update", "peak GiB", "of peak", "")]
    for row in record["rows"]:
        if "failed" in row:
            rows.append((row["shape"], row["backend"], *("-",) * 5, f"failed: {row['failed']}"))
            continue
        share = row.get("share_of_peak")
        numbers = (f"{row['tokens_per_second']:,.0f}", f"{row['step_seconds']:.2f}")
        numbers += (f"{row['update_seconds']:.2f}", f"{row['peak_bytes'] / 2**30:.1f}")
        lengths = f"{row['prompt_tokens']:.0f} + {row['completion_tokens']:.0f} tokens, {row['steps']} steps"
        peak = "-" if share is None else f"{share:.0%}"
        rows.append((row["shape"], row["backend"], *numbers, peak, lengths))
    return rows


def goal_lines(record: dict) -> list[str]:
    """Return the lines below the table: the goals, and what the numbers come from."""
    words = {True: "reached", False: "missed", None: "not measured"}
    lines = []
    for goal in record["goals"]:
        values = ", ".join(f"{k} {v:.2f}" for k, v in goal["values"].items() if v is not None)
        lines.append(f"{goal['goal']}: {words[goal['reached']]}{f' ({values})' if values else ''}")
    gpu = record["gpu"]
    peak = f"{gpu['peak_tflops']:g} TFLOPS" if gpu["peak_tflops"] else "unknown"
    lines.append(f"{gpu['name']}, driver {gpu['driver']}; peak {peak} ({gpu['peak_source']})")
    return lines


def failures(record: dict) -> int:
    """Return how many measurements failed for another reason than memory."""
    return sum(row.get("failed", "out of memory") != "out of memory" for row in record["rows"])
