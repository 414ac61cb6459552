"""``mlagent agent``: any policy on a task, live in the terminal, or evaluated beside a run's own policies."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from mlagent_lib.core.errors import ProfileError

HELP = """\
Lets a policy act: on one task, shown step by step, or on many, evaluated into a run beside its own policies.

policies:
  starter | random-ideas | scripted      without a model
  base | sft | rl                        the model of a run (--run), without and with its adapters
  FOLDER                                 an adapter (runs/<id>/03_grpo/adapter), or a run: its RL adapter
  openai:<model>@<url>                   any server that speaks the OpenAI chat protocol: vLLM, Ollama, hosted

examples:
  mlagent agent --policy scripted --task pocket-homes
  mlagent agent --policy runs/laptop-seed0 --task pocket-forests --seed 3
  mlagent agent --policy openai:qwen2.5:7b@http://localhost:11434/v1 --task pocket-homes --coder rules
  mlagent agent --policy openai:NAME@URL#rpm=60,concurrency=8 --tasks held-out --k 8 --out runs/laptop-seed0
  mlagent agent --costs runs/laptop-seed0 --prices prices.yaml     what a run's calls cost; asks no server

Behind # an endpoint takes options: rpm and tpm (requests and tokens a minute), concurrency, temperature,
max_tokens, timeout, max_wait (seconds), key_env (the variable that holds the key; default OPENAI_API_KEY).
The coder writes the edits that the policy asks for: base (the model of the profile), rules (the pocket
catalogue, which knows its own wordings only), or an endpoint: for free instructions choose an endpoint.

Replies are kept by content in runs/reply-cache: the same command again asks for none of them a second time.
Prices are yours, per million tokens; a file of them is  models: {NAME: {input: 1, output: 2, cached: 0.5}}
A reply that breaks the format is asked for again, at most 5 replies a step; then the step is invalid.
An evaluation that was stopped goes on when the same command is started again. Scores are on the feedback
labels in the terminal, on the report labels in runs/<id>/agents/*.csv. Exit code 1: not all was scored."""


def add(commands: Any, plain: type) -> None:
    """Add the command to the parser."""
    agent = commands.add_parser(
        "agent", help="let any policy act on a task, and watch", formatter_class=plain, description=HELP
    )
    agent.add_argument("--policy", metavar="POLICY", help="who acts, see above")
    what = agent.add_mutually_exclusive_group(required=True)
    what.add_argument("--task", metavar="NAME", help="one trajectory on this task (a name or a folder), live")
    what.add_argument("--tasks", metavar="NAME", nargs="+", help="evaluate: held-in, held-out, all, or names")
    what.add_argument("--costs", metavar="RUN", help="only put prices to the calls of a run")
    agent.add_argument("--out", metavar="RUN", help="with --tasks: the run that the agent is put into")
    agent.add_argument("--k", type=_positive, help="with --tasks: trajectories a task, default the profile's")
    agent.add_argument("--name", default="", help="with --tasks: its row in the tables, default the model's")
    agent.add_argument("--save", metavar="FILE", help="with --task: append the trajectory to this JSONL file")
    agent.add_argument("--index", type=int, default=0, help="with --task: its number, default 0")
    agent.add_argument("--steps", type=_positive, help="most steps of a trajectory, default the profile's")
    agent.add_argument("--seed", type=int, help="root of every random stream, default 0 or the run's")
    agent.add_argument("--coder", default="", help="base, rules or openai:...; default the profile's")
    agent.add_argument("--run", metavar="RUN", help="whose base, sft and rl; default --out or laptop-seed0")
    agent.add_argument("--profile", help="default the one that made the adapter or the run, else laptop")
    agent.add_argument("--price-in", type=float, help="of the policy's model, per million prompt tokens")
    agent.add_argument("--price-out", type=float, help="the same for completion tokens")
    agent.add_argument("--price-cached", type=float, help="the same for prompt tokens in the server's cache")
    agent.add_argument("--prices", metavar="FILE", help="prices of models, coder included, as YAML")
    agent.add_argument("--reply-cache", metavar="DIR", help="default reply-cache/ beside the runs")
    agent.set_defaults(call=_agent)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def _agent(arguments: argparse.Namespace) -> int:
    from mlagent_lib.agents.server.accounting import read_prices, told
    from mlagent_lib.run import agent_command as acting

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
    try:
        return _evaluate(arguments, run, prices, lab)
    finally:
        lab.close()


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
        return Path(arguments.run)
    for place in filter(None, (arguments.out, "runs/laptop-seed0")):
        if (Path(place) / "02_sft").is_dir():
            return Path(place)
    return None


def _with_flags(arguments: argparse.Namespace, prices: dict, chosen: Any) -> dict:
    """Return the prices with those of the flags, which are of the policy's model."""
    from mlagent_lib.agents.server.accounting import Price

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
    from mlagent_lib.agents.server.reply_cache import FOLDER, ReplyCache
    from mlagent_lib.core.files import append_jsonl
    from mlagent_lib.run import actors
    from mlagent_lib.run import agent_command as acting

    profile = actors.profile_for(arguments.policy, run, arguments.profile)
    chosen = actors.plan(arguments.policy, profile, coder=arguments.coder, run=run)
    row = acting.act_once(
        chosen, profile, arguments.task, sys.stdout, seed=arguments.seed or 0, index=arguments.index,
        steps=arguments.steps, cache=ReplyCache(arguments.reply_cache or f"runs/{FOLDER}"),
        prices=_with_flags(arguments, prices, chosen),
    )  # fmt: skip
    if arguments.save:
        append_jsonl(arguments.save, row)
        print(f"trajectory appended to {arguments.save}")
    return 1 if row["final"]["stop"] == "unscored" else 0


def _evaluate(arguments: argparse.Namespace, run: Path | None, prices: dict, lab: Any) -> int:
    from mlagent_lib.agents.server.reply_cache import ReplyCache
    from mlagent_lib.core.artifacts import read_manifest
    from mlagent_lib.results.evaluated_agents import unequal_conditions
    from mlagent_lib.results.style import number
    from mlagent_lib.run import actors
    from mlagent_lib.run import agent_command as acting
    from mlagent_lib.run.story import ends

    chosen = actors.plan(arguments.policy, lab.profile, coder=arguments.coder, run=run, name=arguments.name)
    words = arguments.tasks
    tasks = words[0] if len(words) == 1 and words[0] in ("all", "held-in", "held-out") else words
    cache = ReplyCache(arguments.reply_cache) if arguments.reply_cache else None
    folder = acting.evaluate_agent(
        lab, chosen, tasks=tasks, k=arguments.k, steps=arguments.steps, err=sys.stderr, cache=cache,
        prices=_with_flags(arguments, prices, chosen),
    )  # fmt: skip
    tables = acting.write_main_tables(lab.run_dir)
    print("share of the gap closed on the report labels (0 starter, 1 best known), 95 % intervals:")
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
