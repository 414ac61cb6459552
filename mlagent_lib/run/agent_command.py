"""Any policy at work: one trajectory to watch, or K on each task as a stage of a run, and what it cost."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

from mlagent_lib.agents.ideas import draw_ideas
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.agents.server.accounting import (
    CALLS,
    COSTS,
    Ledger,
    Price,
    cost_rows,
    read_calls,
    told,
    total_cost,
    write_costs,
)
from mlagent_lib.agents.server.reply_cache import FOLDER, ReplyCache, reply_key
from mlagent_lib.core.artifacts import RUN_RECORD, Stage, read_manifest
from mlagent_lib.core.errors import RunError
from mlagent_lib.core.files import read_jsonl, write_text
from mlagent_lib.core.parameters import checked
from mlagent_lib.core.profiles import Profile, get_profile
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.runner import Runner
from mlagent_lib.results.evaluated_agents import AGENTS, ROWS, SCALES, main_tables
from mlagent_lib.results.evaluation import TaskScale
from mlagent_lib.results.report_scores import with_report_scores
from mlagent_lib.run.actors import Plan, edits_of, make_actor, profile_for, read_record
from mlagent_lib.run.lab import Lab, chosen_ideas, lab_in
from mlagent_lib.run.terminal import LiveView, ProgressLine
from mlagent_lib.tasks.task import Task


def job_of(lab: Lab, chosen: Plan, task: Task, index: int) -> Job:
    """Return the trajectory of that number; the scripted expert gets far-apart ideas to carry out."""
    ideas = ()
    if chosen.kind == "scripted":
        ideas = draw_ideas(chosen_ideas(lab, task), rng(lab.seed, "draw-ideas", task.name, index))
    return Job(task, chosen.name, index, lab.seed, ideas)


@contextmanager
def _passing_lab(profile: Profile, seed: int) -> Iterator[Lab]:
    """Give a lab whose cache is thrown away: one trajectory leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="mlagent-agent-") as folder:
        runner = Runner(workers=1)
        try:
            yield Lab(profile, seed, Path(folder), runner, ExecutionCache(Path(folder) / "cache"))
        finally:
            runner.close()


def act_once(
    chosen: Plan,
    profile: Profile,
    task: str,
    out: TextIO,
    *,
    seed: int = 0,
    index: int = 0,
    steps: int | None = None,
    cache: ReplyCache | None = None,
    prices: Mapping[str, Price] | None = None,
    lab: Lab | None = None,
) -> dict:
    """Return one trajectory (a row as in ``trajectories.jsonl``), shown step by step while it is made.

    Args:
        chosen: Who acts and codes.
        profile: Constants.
        task: Name or folder of the task.
        out: Where it is shown.
        seed: Root of every random stream.
        index: Number of the trajectory: other numbers, other samples.
        steps: Most of them; None for the profile's.
        cache: Replies of servers that are known already.
        prices: Of models, by name.
        lab: A lab to work in; None for one that is thrown away afterwards.
    """
    if lab is None:
        with _passing_lab(profile, seed) as made:
            return act_once(
                chosen, profile, task, out, seed=seed, index=index, steps=steps, cache=cache, prices=prices,
                lab=made,
            )  # fmt: skip
    found = lab.task(task)
    most = steps or lab.profile.evaluate.max_steps
    view, ledger = LiveView(out, found, most), Ledger()
    actor = make_actor(lab, chosen, ledger, cache)
    for endpoint in filter(None, (chosen.endpoint, chosen.coder_endpoint)):
        endpoint.limit.on_wait = lambda seconds, why: view.status(f"waiting {seconds:.0f} s: {why}")

    def watch(job: Job, step: dict, _stop: str) -> None:
        calls = [call for call in ledger.calls if (call.trajectory, call.step) == (job.id, step["step"])]
        view.step(step, calls)

    view.start(chosen.label, chosen.coder_label, lab.runner.tier, seed)
    job = job_of(lab, chosen, found, index)
    (row,) = run_trajectories([job], actor.policy, lab.tools(actor.coder), max_steps=most, watch=watch)
    view.end(row)
    if ledger.calls:
        out.write(told(actor.costs([row], prices or {})) + "\n")
    return row


def open_run(
    out: str | Path, profile: str | None, seed: int | None, *, policy: str, run: Path | None = None
) -> Lab:
    """Return the lab of a run folder that agents are evaluated in; profile and seed are the run's own.

    Args:
        out: Folder of the run, made where it is new.
        profile: For a new run; an old one has its own, and another is refused.
        seed: Likewise.
        policy: Who is to be evaluated: its adapter may name the profile of a new run.
        run: The run that ``sft`` and ``rl`` are of.

    Raises:
        RunError: The run was made under another profile or seed.
    """
    run_dir = Path(out)
    known = read_record(run_dir / RUN_RECORD)
    for name, given in (("profile", profile), ("seed", seed)):
        if known and given is not None and given != known.get(name):
            raise RunError(
                f"the run {run_dir} has {name} {known.get(name)}, not {given}",
                cure=f"leave --{name} out, or choose another --out",
            )
    chosen = profile_for(policy, run, known.get("profile") or profile)
    root = checked("seed", known.get("seed", 0 if seed is None else seed), 0)
    lab = lab_in(run_dir, get_profile(chosen.name), root)
    lab.profile = chosen
    return lab


def evaluate_agent(
    lab: Lab,
    chosen: Plan,
    *,
    tasks: str | Sequence[str],
    k: int | None = None,
    steps: int | None = None,
    cache: ReplyCache | None = None,
    prices: Mapping[str, Price] | None = None,
    err: TextIO | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Return the folder of an agent's evaluation: K trajectories on each task, a finished stage of the run.

    An evaluation that is finished is kept. One that was stopped goes on: replies of servers and executions
    are known, so that only what is missing is asked for and run.

    Args:
        lab: The run.
        chosen: Who acts and codes.
        tasks: ``all``, ``held-in``, ``held-out``, or names.
        k: Trajectories of each task; None for the profile's.
        steps: Most of a trajectory; None for the profile's.
        cache: Replies of servers that are known already; None for those that the runs beside this one share.
        prices: Of models, by name.
        err: Where progress goes, standard error by default.
        say: Receives lines for the reader.

    Raises:
        RunError: Another process evaluates this agent, or the folder cannot be written.
    """
    found = lab.tasks(tasks)
    scales = [asdict(_scale(task)) for task in found]  # before anything is asked for
    k, most = k or lab.profile.evaluate.k, steps or lab.profile.evaluate.max_steps
    work = {"tasks": {task.name: task.digest for task in found}, "k": k, "max_steps": most}
    work |= {"reply_format": lab.profile.reply_format, **chosen.params()}
    stage = Stage(
        lab.run_dir,
        f"{AGENTS}/{chosen.name}",
        params={"profile": lab.profile.name, "seed": lab.seed, **work},
        profile=lab.profile,
    )
    if stage.done:
        say(f"{stage.dir}: finished before, kept")
        return stage.dir
    with stage:
        bar = ProgressLine(err or sys.stderr, chosen.name, k * len(found), most)
        ledger = Ledger(stage.path(CALLS), on_call=bar.on_call)
        actor = make_actor(lab, chosen, ledger, cache or ReplyCache(lab.run_dir.parent / FOLDER))
        for endpoint in filter(None, (chosen.endpoint, chosen.coder_endpoint)):
            endpoint.limit.on_wait = bar.on_wait
        jobs = [job_of(lab, chosen, task, index) for task in found for index in range(k)]
        tools = lab.tools(actor.coder)
        rows = run_trajectories(jobs, actor.policy, tools, max_steps=most, watch=bar.on_step)
        bar.finish()
        rows = with_report_scores(rows, {task.name: task for task in found}.get, lab.cache.archive)
        stage.write_json(SCALES, scales)
        stage.write_text(ROWS, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))
        costs = actor.costs(rows, prices or {})
        if ledger.calls:
            write_costs(stage.path(COSTS), costs)
        stage.summary = _summary(rows, costs)
    say(f"{stage.dir}: {len(rows)} trajectories, {stage.summary['unscored']} unscored")
    say(told(costs))
    return stage.dir


def _scale(task: Task) -> TaskScale:
    try:
        return TaskScale.of(task)
    except (KeyError, ValueError) as error:
        raise RunError(
            f"task {task.name!r} cannot be evaluated: it has no starter's and better best score on the "
            f"report labels ({error})",
            cure="state both in its task.yaml",
        ) from None


def _summary(rows: Sequence[Mapping], costs: Sequence[Mapping]) -> dict:
    """Return the numbers of an evaluation that its manifest holds."""
    outcomes = [step["outcome"] for row in rows for step in row["steps"] if step["outcome"] != "unscored"]
    cost, currency = total_cost(costs)
    whole = [row for row in costs if row["scope"] == "run"]
    return {
        "trajectories": len(rows),
        "unscored": sum(row["final"]["stop"] == "unscored" for row in rows),
        "invalid_steps": outcomes.count("invalid") / len(outcomes) if outcomes else None,
        "calls": sum(row["calls"] for row in whole),
        "asked_again": sum(row["asked_again"] for row in whole),
        "cost": cost,
        "currency": currency,
    }


def write_main_tables(run_dir: str | Path) -> dict:
    """Write the tables of the evaluation with all agents in them into the run's ``agents``; return them.

    A report that the run has is written again, so that it shows the agents too.
    """
    tables = main_tables(run_dir)
    for name, table in tables.items():
        write_text(Path(run_dir) / AGENTS / name, table.to_csv(index=False, lineterminator="\n"))
    if (Path(run_dir) / "report.html").exists():
        from mlagent_lib.results.report import write_report  # here: it loads matplotlib

        write_report(run_dir)
    return tables


def price_run(run_dir: str | Path, prices: Mapping[str, Price]) -> list[dict]:
    """Write the costs of everything that a run asked model servers for, and return the rows.

    No server is asked: ledgers are read, so prices can be put in, or changed, at any time.

    Args:
        run_dir: Folder of a run; ``costs.csv`` is written into it.
        prices: Of models, by name.

    Returns:
        Rows as of `cost_rows`, each with ``ledger``, the file it comes from.

    Raises:
        RunError: The run has no ledger, or one is damaged.
    """
    run_dir, table = Path(run_dir), []
    paths = [path for path in sorted(run_dir.rglob(f"*{CALLS}")) if ".old-" not in str(path)]
    if not paths:
        raise RunError(
            f"{run_dir} holds no ledger of calls ({CALLS})",
            cure="only runs with an openai:... expert, coder or agent have costs; check the folder",
        )
    for path in paths:
        rows = cost_rows(read_calls(path), prices, _edits_beside(path))
        table += [{"ledger": path.relative_to(run_dir).as_posix(), **row} for row in rows]
    write_costs(run_dir / COSTS, table)
    return table


def _edits_beside(ledger: Path) -> dict[str, list[str]]:
    """Return who asked the coder for what, where the trajectories and the coder's sampling are recorded."""
    coder = ((read_manifest(ledger.parent) or {}).get("params") or {}).get("coder")
    if not isinstance(coder, dict) or "sampling" not in coder:
        return {}
    about = coder["model"], coder["url"]
    return edits_of(
        read_jsonl(ledger.with_name(ROWS))[0],
        lambda messages: reply_key(*about, messages, coder["sampling"], "0"),
    )
