"""SmolLM2 at the work of profile laptop-llm: ``python -m mlagent_lib.bench.real_model FILE``, 15 minutes.

What is measured: a whole GRPO update and its memory, our decode loop beside Transformers' ``generate``, and
catalogue edits that the base weights make exactly as coder. The policy was taught the format of actions
before (a short SFT on turns of invented tasks), so that its replies are as long as in a run and its scripts
are executed. Each part works in a process of its own, whose peak memory is its own.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

from mlagent_lib.bench.against_worker import passed_states, tasks_of, tools_at_work
from mlagent_lib.bench.measure import quartiles
from mlagent_lib.bench.model_rows import sampling_rates, starter_prompts
from mlagent_lib.core.files import write_json
from mlagent_lib.core.profiles import Profile, get_profile
from mlagent_lib.core.provenance import cpu_name, git_state, peak_memory_bytes, usable_cpus, versions

PROFILE = "laptop-llm"
EXAMPLES = 256  # ours: turns that the policy is taught first, so that replies are as long as in a run
UPDATES = 3  # ours: of GRPO, the first of which warms up
ROUNDS = 3  # ours: of sampling, each way


def _sft(profile: Profile, folder: Path) -> dict:
    """Teach an adapter the format of actions."""
    from mlagent_lib.training.corpus import examples
    from mlagent_lib.training.sft import train_sft

    rows = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in islice(examples(0, coder_share=0.0), EXAMPLES)
    ]
    once = replace(profile.sft, epochs=1.0)
    found = train_sft(rows, once, model=profile.model, backend=profile.loading, out=folder, seed=0)
    return {"rows": found["rows_trained"], "seconds": found["seconds"]}


def _update(profile: Profile, folder: Path) -> dict:
    """Make updates of GRPO from states that random ideas pass through."""
    from mlagent_lib.training.grpo import train_grpo
    from mlagent_lib.training.pool import StatePool

    rows = []
    short = profile.with_values(
        "bench", grpo__steps=UPDATES, grpo__eval_every=UPDATES, grpo__eval_trajectories=0,
        grpo__eval_samples=1,
    )  # fmt: skip
    with tools_at_work(folder, profile.workers, tasks_of("held-in")) as tools:
        states = [state for state in passed_states(tools) if not state.done]
        train_grpo(
            short, StatePool(tuple(states)), states[:1], make_tools=lambda coder: tools,
            adapter=folder / "adapter", out=folder / "grpo", seed=0, progress=rows.append,
        )  # fmt: skip
    updates = [row for row in rows if row["split"] == "train"][1:]
    parts = ("generation", "execution", "update", "overhead", "total", "charged")
    told = ("validity", "completion_tokens", "clipped_share")
    return {
        "actions": profile.grpo.states_per_step * profile.grpo.group_size,
        "seconds": {part: [round(row[f"seconds_{part}"], 1) for row in updates] for part in parts},
        **{name: round(statistics.mean(row[name] for row in updates), 3) for name in told},
    }


def _sampling(profile: Profile, folder: Path) -> dict:
    """Sample the replies of a GRPO step from the starters' prompts, both ways in turn."""
    from mlagent_lib.agents.prompts import Prompter
    from mlagent_lib.training.backends import load

    grpo = profile.grpo
    loaded = load(profile.model, backend=profile.loading, adapter=folder / "adapter")
    asked = starter_prompts(Prompter.of(profile), grpo.states_per_step, grpo.group_size)
    rates = sampling_rates(loaded, asked, grpo.max_new_tokens, ROUNDS)
    ratios = [mine / other for mine, other in zip(*rates.values(), strict=True)]
    per_second = {name: [round(rate, 1) for rate in found] for name, found in rates.items()}
    return {
        "prompts": len(asked) // grpo.group_size, "replies": len(asked), "longest": grpo.max_new_tokens,
        "tokens a processor second": per_second,
        "ratio [quartile, median, quartile]": [round(value, 2) for value in quartiles(ratios)],
    }  # fmt: skip


def _coder(profile: Profile, folder: Path) -> dict:
    """Let the base weights edit blocks, as the profile asks, and whole scripts, as one asks a chat model."""
    from mlagent_lib.run.stages import edits_checked
    from mlagent_lib.tasks.registry import find_task, list_tasks
    from mlagent_lib.training.backends import base_coder, load

    loaded, found = load(profile.model, backend=profile.loading), {}
    tasks = [find_task(name) for name in list_tasks("held-in")]
    styles = (("pocket", "blocks", profile.coder_tokens), ("full", "whole scripts", 640))
    for style, kind, longest in styles:  # the longest starter has 440 tokens
        coder = base_coder(loaded, style=style, max_new_tokens=longest)
        results = edits_checked(coder, tasks, 0, per_task=8)["result"]
        found[kind] = {name: int((results == name).sum()) for name in ("exact", "other", "refused")}
    return found


PARTS: dict[str, Callable[[Profile, Path], dict]] = {
    "sft": _sft, "update": _update, "sampling": _sampling, "coder": _coder,
}  # fmt: skip


def run(out: Path) -> None:
    """Measure all parts, one after the other, and write the record."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="mlagent-real-model-") as folder:
        for name in PARTS:
            print(f"{name} ...", flush=True)
            began = time.monotonic()
            subprocess.run([sys.executable, "-m", __spec__.name, name, folder], check=True)
            part = json.loads((Path(folder) / f"{name}.json").read_text(encoding="utf-8"))
            found[name] = part | {"took_s": round(time.monotonic() - began)}
            print(found[name], flush=True)
    machine = f"{usable_cpus()} cores ({cpu_name()})"
    record = {"profile": PROFILE, "model": get_profile(PROFILE).model, **found, "machine": machine}
    write_json(out, record | {"date": time.strftime("%Y-%m-%d"), "versions": versions(), "git": git_state()})


def _part(name: str, folder: Path) -> None:
    import torch

    from mlagent_lib.training.backends.backend import device_and_precision

    profile = get_profile(PROFILE)
    found = PARTS[name](profile, folder)
    found |= {"peak_gb": round(peak_memory_bytes() / 1e9, 2), "threads": torch.get_num_threads()}
    write_json(folder / f"{name}.json", found | {"precision": device_and_precision(profile.loading)[1]})


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(f"usage: python -m {__spec__.name} FILE.json\n\n{__doc__}")
    if sys.argv[1] in PARTS:
        _part(sys.argv[1], Path(sys.argv[2]))
    else:
        run(Path(sys.argv[1]))
