"""``mlagent agent``: any policy on a task, live in the terminal, or evaluated beside a run's own policies."""

from __future__ import annotations

import argparse
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

from mlagent_lib.agents.server.accounting import Price, read_prices, told
from mlagent_lib.agents.server.reply_cache import FOLDER, ReplyCache
from mlagent_lib.core.artifacts import read_manifest
from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.files import append_jsonl
from mlagent_lib.results.evaluated_agents import unequal_conditions
from mlagent_lib.results.style import ends, number
from mlagent_lib.run import agent as acting


def call(arguments: argparse.Namespace) -> int:
    """Do what the arguments of ``mlagent agent`` say."""
    prices = read_prices(arguments.prices) if arguments.prices else {}
    if arguments.costs:
        if not prices:
            raise ProfileError("no prices were given", cure="give a file with --prices")
        print(told(acting.price_run(arguments.costs, prices)))
        print(Path(arguments.costs) / "costs.csv")
        return 0
    _check(arguments)
    run = _run_of(arguments)
    if arguments.task:
        return _once(arguments, run, prices)
    lab = acting.open_run(arguments.out, arguments.profile, arguments.seed, policy=arguments.policy, run=run)
    with closing(lab):
        return _evaluate(arguments, run, prices, lab)


def _check(arguments: argparse.Namespace) -> None:
    """Raise `ProfileError` where options do not go together."""
    if not arguments.policy:
        raise ProfileError("no policy was given", cure="say who acts with --policy; mlagent agent --help")
    for name in ("out", "k", "name") if arguments.task else ("save", "index"):
        if getattr(arguments, name):
            other = "tasks" if arguments.task else "task"
            raise ProfileError(f"--{name} goes with --{other}", cure=f"leave it out, or choose --{other}")
    if arguments.tasks and not arguments.out:
        raise ProfileError("--tasks needs a run to write into", cure="give its folder with --out runs/<id>")


def _run_of(arguments: argparse.Namespace) -> Path | None:
    """Return the run that ``base``, ``sft`` and ``rl`` are of, or None where there is none."""
    if arguments.run:
        return arguments.run
    for place in filter(None, (arguments.out, "runs/laptop-seed0")):
        if (Path(place) / "02_sft").is_dir():
            return Path(place)
    return None


def _with_flags(arguments: argparse.Namespace, prices: dict, chosen: Any) -> dict:
    """Return the prices with those of the flags, which are of the policy's model."""
    given = arguments.price_in, arguments.price_out
    if given == (None, None) and arguments.price_cached is None:
        return prices
    if None in given:
        raise ProfileError("a price is missing", cure="give both --price-in and --price-out")
    if chosen.endpoint is None or chosen.endpoint.model in prices:
        why = "is no server's" if chosen.endpoint is None else "has a price in the file of --prices"
        raise ProfileError(f"--price-in is given, and the policy {why}", cure="leave out one of them")
    return {**prices, chosen.endpoint.model: Price(*given, arguments.price_cached)}


def _once(arguments: argparse.Namespace, run: Path | None, prices: dict) -> int:
    profile = acting.profile_of_policy(arguments.policy, run, arguments.profile)
    chosen = acting.agent_spec(arguments.policy, profile, coder=arguments.coder, run=run)
    cache = ReplyCache(arguments.reply_cache or f"runs/{FOLDER}")
    with acting.passing_lab(profile, arguments.seed or 0) as lab:
        row = acting.act_once(
            lab, chosen, arguments.task, sys.stdout, index=arguments.index, steps=arguments.steps,
            cache=cache, prices=_with_flags(arguments, prices, chosen),
        )  # fmt: skip
    if arguments.save:
        append_jsonl(arguments.save, row)
        print(f"trajectory appended to {arguments.save}")
    return 1 if row["final"]["stop"] == "unscored" else 0


def _evaluate(arguments: argparse.Namespace, run: Path | None, prices: dict, lab: Any) -> int:
    words = {"coder": arguments.coder, "run": run, "name": arguments.name}
    chosen = acting.agent_spec(arguments.policy, lab.profile, **words)
    named = arguments.tasks
    tasks = named[0] if len(named) == 1 and named[0] in ("all", "held-in", "held-out") else named
    cache = ReplyCache(arguments.reply_cache) if arguments.reply_cache else None
    folder = acting.evaluate_agent(
        lab, chosen, tasks=tasks, k=arguments.k, steps=arguments.steps, err=sys.stderr, cache=cache,
        prices=_with_flags(arguments, prices, chosen),
    )  # fmt: skip
    tables = acting.write_main_tables(lab.run_dir)
    print("share of the gap closed on the report labels (0 starter, 1 best known, floor −1), 95 % intervals:")
    for row in tables["overall.csv"].to_dict("records"):
        mark = "*" if row["policy"] == chosen.name else " "
        print(
            f"{mark} {row['policy']:<24} {row['split']:<9} {row['gap_closed']:7.3f} "
            f"{ends(row['gap_low'], row['gap_high'], 3) or '[no interval]':<15}  "
            f"gain {number(row['gain_pct'], 1):>6} %  "
            f"{row['tasks']} tasks, {row['trajectories']} trajectories, {row['unscored']} unscored"
        )
    for sentence in unequal_conditions(lab.run_dir):
        print(sentence)
    print(f"tables: {folder.parent}/*.csv")
    return 1 if read_manifest(folder)["summary"]["unscored"] else 0
