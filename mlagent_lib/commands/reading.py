"""``mlagent reading``: does the learner's recipe read? Rewards from a table, no scripts."""

from __future__ import annotations

import argparse

from mlagent_lib.commands.output import say


def call(arguments: argparse.Namespace) -> None:
    """Do what the arguments of ``mlagent reading`` say."""
    from mlagent_lib.run.reading import open_reading, reading_stage, reading_test

    lab = open_reading(
        arguments.run, settings=arguments.settings or "", seed=arguments.seed, steps=arguments.steps
    )
    stage = reading_stage(lab)

    def told(row: dict) -> None:
        where = "states kept back" if row["split"] == "holdout" else "training states"
        say(f"update {row['step']:>4}  {where}: reward {row['reward']:.2f}, valid {row['validity']:.0%}")

    try:
        if not stage.done:
            with stage:
                reading_test(lab, stage, progress=told)
        say((stage.dir / "summary.csv").read_text(encoding="utf-8").strip())
        say(f"{stage.dir}: metrics.jsonl, table.json, choices.csv, summary.csv")
    finally:
        lab.close()
