"""Checkpoints of a training: when one is due, whether one is whole, and what is forgotten on resuming."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path

from mlagent_lib.core.artifacts import damaged_file, hashes_below
from mlagent_lib.core.files import read_jsonl, write_json, write_text
from mlagent_lib.training.processes import from_main, is_main

log = logging.getLogger("mlagent.training")

SAVE_S = 30.0  # ours: a kill loses half a minute, or an update that takes longer


class Keeper:
    """What both trainings do about checkpoints; stands before Transformers' `TrainerCallback`."""

    def __init__(self) -> None:
        self._saved = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Return whether the last checkpoint, or the start, is `SAVE_S` ago."""
        return time.monotonic() - self._saved >= SAVE_S

    def remember(self, checkpoint: Path) -> None:
        """Put into a checkpoint what else the training has to know when it goes on."""

    def on_save(self, args, state, control, **kwargs) -> None:
        """Write the sums of a finished checkpoint beside it (one without them was cut off); count anew."""
        from_main(None)  # each process writes its random state into the folder first
        if is_main():
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self.remember(folder)
            write_json(folder.with_suffix(".json"), hashes_below(folder))
        self._saved = time.monotonic()


def last_checkpoint(out: Path) -> tuple[int, str] | None:
    """Return step and folder of the newest whole checkpoint of a stage, or None; others are deleted."""
    found = []
    for folder in (out / "checkpoints").glob("checkpoint-*[0-9]"):
        sums = folder.with_suffix(".json")
        try:
            step = json.loads((folder / "trainer_state.json").read_text())["global_step"]
            damaged = damaged_file(folder, json.loads(sums.read_text()))
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            damaged = f"cut off while it was written ({error})"
        if damaged:
            log.warning("checkpoint %s is left out: %s", folder.name, damaged)
            shutil.rmtree(folder, ignore_errors=True)
            sums.unlink(missing_ok=True)
            continue
        found.append((step, str(folder)))
    return max(found, default=None)


def forget_after(metrics: Path, step: int) -> None:
    """Drop the rows of steps that will be made again, so that no step is counted twice."""
    if is_main() and metrics.exists():
        kept = [row for row in read_jsonl(metrics)[0] if row["step"] <= step]
        write_text(metrics, "".join(json.dumps(row, allow_nan=False) + "\n" for row in kept))
