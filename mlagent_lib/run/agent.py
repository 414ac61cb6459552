"""Any policy at work: one trajectory to watch, or K on each task as a stage of a run, and what it cost.

A policy is named by a word of `WITHOUT_MODEL`, ``base``, ``sft``, ``rl``, the folder of an adapter or of a
run, or ``openai:<model>@<url>``. What a name means is settled first, without loading a model (`agent_spec`);
what is written down of it holds no key and no path.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO

from mlagent_lib.agents.ideas import draw_ideas
from mlagent_lib.agents.policies import ChatPolicy, Policy, ScriptedExpert
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
from mlagent_lib.agents.server.chat import CODER_MAX_TOKENS, Chat
from mlagent_lib.agents.server.endpoint import API_KEY_ENV, ChatEndpoint
from mlagent_lib.agents.server.endpoint_name import parse_endpoint
from mlagent_lib.agents.server.reply_cache import FOLDER, ReplyCache, reply_key
from mlagent_lib.agents.server.transport import MIN_SECRET_LENGTH, read_key
from mlagent_lib.core.artifacts import RUN_RECORD, read_manifest, read_record
from mlagent_lib.core.errors import ProfileError, RunError
from mlagent_lib.core.files import read_jsonl, sha256_file, write_text
from mlagent_lib.core.parameters import checked
from mlagent_lib.core.profiles import POLICIES, Profile, get_profile
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.actions import EDIT, read_text
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import ChatCoder, Coder, chat_messages
from mlagent_lib.environment.runner import Runner
from mlagent_lib.environment.workspace import State
from mlagent_lib.results.evaluated_agents import AGENTS, ROWS, SCALES, main_tables
from mlagent_lib.results.evaluation import TaskScale
from mlagent_lib.results.report_scores import with_report_scores
from mlagent_lib.run.lab import Lab, baseline_policy, chosen_ideas, lab_in, local_agent, make_coder
from mlagent_lib.run.stages import CONFIG, WEIGHTS, write_rows
from mlagent_lib.run.terminal import LiveView, ProgressLine
from mlagent_lib.tasks.task import Task

ADAPTERS = {"sft": "02_sft/adapter", "rl": "03_grpo/adapter"}
WITHOUT_MODEL = ("starter", "fixed-edit", "fixed-sequence", "best-edit", "random-ideas", "scripted")
POLICY_CURE = (
    f"choose {', '.join(WITHOUT_MODEL)}, base, sft, rl, the folder of an adapter or a run, "
    "or openai:<model>@<url>"
)
# what an adapter was trained with
_COMMON = (
    *("model", "coder", "backend", "reply_format", "prompt_style"),
    *("precision", "four_bit", "prompt_tokens"),
)


@dataclass(frozen=True)
class AgentSpec:
    """Who shall act and who shall code, with nothing loaded yet.

    Attributes:
        name: Of the agent: its row in tables, its folder in a run.
        kind: A name of `WITHOUT_MODEL`, ``local`` or ``endpoint``.
        label: The policy in a few words, without path or key.
        coder: ``base``, ``rules`` or ``endpoint``.
        adapter: Folder of the LoRA adapter of a local policy; None for the base model.
        endpoint: Of the policy, where it is a server's.
        coder_endpoint: Of the coder, likewise.
    """

    name: str
    kind: str
    label: str
    coder: str
    adapter: Path | None = None
    endpoint: ChatEndpoint | None = None
    coder_endpoint: ChatEndpoint | None = None

    @property
    def coder_label(self) -> str:
        """The coder in a few words."""
        return f"openai:{self.coder_endpoint.model}" if self.coder_endpoint else self.coder

    def params(self) -> dict:
        """Return what identifies policy and coder in a manifest: no key, no path of this machine."""
        policy, coder = {"label": self.label, "kind": self.kind}, {"label": self.coder_label}
        if self.adapter:
            policy["adapter_sha256"] = sha256_file(self.adapter / WEIGHTS)
        for known, endpoint in ((policy, self.endpoint), (coder, self.coder_endpoint)):
            known |= Chat(endpoint).about() if endpoint else {}
        return {"policy": policy, "coder": coder}


def find_adapter(policy: str, run: Path | None) -> Path | None:
    """Return the adapter folder that a policy names, or None for ``base``.

    Args:
        policy: ``base``, ``sft``, ``rl``, or a folder: an adapter's, or a run's, whose RL adapter is taken.
        run: The run that ``sft`` and ``rl`` are of.

    Raises:
        RunError: There is no adapter.
    """
    if policy == "base":
        return None
    if policy in ADAPTERS:
        found = (run or Path()) / ADAPTERS[policy]
        if run is None or not _is_adapter(found):
            cure = "make it with 'mlagent run', or name another run with --run"
            raise RunError(f"the run {run} has no finished adapter {ADAPTERS[policy]}", cure=cure)
        return found
    folder = Path(policy).expanduser()
    if found := next(filter(_is_adapter, (folder, folder / ADAPTERS["rl"])), None):
        return found
    if folder.exists():
        raise RunError(
            f"{folder} holds neither an adapter ({CONFIG} and {WEIGHTS}) nor a run with {ADAPTERS['rl']}",
            cure="give the folder of an adapter, e.g. runs/laptop-seed0/03_grpo/adapter, or of a run",
        )
    raise RunError(f"policy {policy!r} is unknown, and no folder", cure=POLICY_CURE)


def _is_adapter(folder: Path) -> bool:
    return (folder / CONFIG).is_file() and (folder / WEIGHTS).is_file()


def profile_of_policy(policy: str, run: Path | None, name: str | None) -> Profile:
    """Return the profile to act under: the one named, else the one that made the adapter or the run.

    Raises:
        ProfileError: It is unknown.
    """
    if name is not None:
        return get_profile(name)
    is_folder = policy not in (*WITHOUT_MODEL, *POLICIES) and not policy.startswith("openai:")
    adapter = find_adapter(policy, run) if policy in ADAPTERS or is_folder else None
    recorded = read_record(adapter.parent / "manifest.json").get("profile") if adapter else None
    if isinstance(recorded, dict) and "name" in recorded:
        known = {key: recorded[key] for key in _COMMON if key in recorded}
        return get_profile(recorded["name"]).with_values(recorded["name"], **known)
    return get_profile(read_record(run / RUN_RECORD).get("profile", "laptop") if run else "laptop")


def agent_spec(
    policy: str, profile: Profile, *, coder: str = "", run: Path | None = None, name: str = ""
) -> AgentSpec:
    """Return who shall act and who shall code.

    Args:
        policy: See the head of this module.
        profile: Its model is the one that an adapter must fit.
        coder: ``base``, ``rules`` or ``openai:<model>@<url>``; "" for the profile's.
        run: The run that ``sft`` and ``rl`` are of.
        name: Of the agent; "" to make one of the policy's.

    Raises:
        ProfileError: A name is unknown or taken, or holds a key.
        RunError: An adapter is missing or fits another model.
        EndpointError: An endpoint's name has another form.
    """
    chosen = coder or profile.coder
    for spec in (policy, chosen):
        _refuse_key(spec)
    coder_endpoint = None
    if chosen not in ("base", "rules"):
        coder_endpoint = parse_endpoint(chosen, max_tokens=CODER_MAX_TOKENS)
    fields = {"coder": "endpoint" if coder_endpoint else chosen, "coder_endpoint": coder_endpoint}
    if policy in WITHOUT_MODEL:
        return AgentSpec(_name(name or f"agent-{policy}"), policy, policy, **fields)
    if policy.startswith("openai:"):
        endpoint = parse_endpoint(policy)
        label = f"openai:{endpoint.model}"
        return AgentSpec(_name(name or endpoint.model), "endpoint", label, endpoint=endpoint, **fields)
    adapter = find_adapter(policy, run)
    if adapter:
        _check_fit(adapter, profile.model)
    label = policy if adapter is None or policy in ADAPTERS else _short(adapter)
    return AgentSpec(_name(name or f"agent-{label}"), "local", label, adapter=adapter, **fields)


def _refuse_key(spec: str) -> None:
    """Raise `ProfileError` where a name holds a key: names are shown and written down."""
    variables = {API_KEY_ENV, *re.findall(r"key_env=([A-Z_][A-Z0-9_]*)", spec)}
    for variable in sorted(variables):
        key = os.environ.get(variable) and read_key(variable)
        if key and len(key) >= MIN_SECRET_LENGTH and key in spec:
            cure = f"take it out: it is read from ${variable}"
            raise ProfileError(f"the name of a policy or coder holds the key in ${variable}", cure=cure)


def _name(text: str) -> str:
    """Return a name as a folder may have it.

    Example:
        >>> _name("org/qwen2.5:7b")
        'org-qwen2.5-7b'
    """
    name = re.sub(r"[^\w.+-]+", "-", text, flags=re.ASCII).strip("-.")[:60]
    if not name or name in (*POLICIES, "expert"):
        raise ProfileError(f"an agent cannot be called {text[:60]!r}", cure="choose another --name")
    return name


def _short(adapter: Path) -> str:
    """Return the last names of an adapter's path that tell it from others.

    Example:
        >>> _short(Path("/x/runs/laptop-seed0/03_grpo/adapter"))
        'laptop-seed0-03_grpo'
    """
    names = [part for part in adapter.resolve().parts if part != "adapter"]
    return "-".join(names[-2:])


def _check_fit(adapter: Path, model: str) -> None:
    """Raise `RunError` where an adapter was trained on another model than the profile loads."""
    from mlagent_lib.training.backends import model_path

    trained_on = str(read_record(adapter / CONFIG).get("base_model_name_or_path") or "")
    have, want = (Path(name).name.lower() for name in (trained_on, model_path(model)))
    if have and want not in have:
        message = f"the adapter {adapter} was trained on {have!r}, and the profile loads {want!r}"
        raise RunError(message, cure="name the profile that it was trained under with --profile")


@dataclass
class Actor:
    """Policy and coder ready to act, and how to ask what they cost.

    Attributes:
        policy: Who acts.
        coder: Who writes edits.
        ledger: Calls of both.
        coder_chat: The coder's model, where it is a server's.
    """

    policy: Policy
    coder: Coder
    ledger: Ledger
    coder_chat: Chat | None = None

    def costs(self, rows: Sequence[Mapping], prices: Mapping[str, Price]) -> list[dict]:
        """Return the table of costs of these trajectories (see `cost_rows`)."""
        edits = edits_of(rows, self.coder_chat.key) if self.coder_chat else {}
        return cost_rows(self.ledger.calls, prices, edits)


def edits_of(rows: Sequence[Mapping], key: Callable[[list[dict]], str]) -> dict[str, list[str]]:
    """Return for each conversation with a coder, by its `reply_key`, the trajectories that asked for it."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for step in row["steps"]:
            if step["action"] == EDIT and step["reason"] != "tool":  # else no coder was asked
                asked = step["action_input"]
                script = read_text(State.from_json(step["state"]).files, asked["script_name"])
                name = key(chat_messages(script, asked["edit_instruction"]))
                found.setdefault(name, []).append(row["id"])
    return found


def make_actor(
    lab: Lab, chosen: AgentSpec, ledger: Ledger, cache: ReplyCache | None, on_wait: Callable
) -> Actor:
    """Return policy and coder that were chosen, models loaded.

    Args:
        ledger: Where calls to servers are written down.
        on_wait: Called with seconds and reason where a rate limit makes us wait.
    """
    for endpoint in filter(None, (chosen.endpoint, chosen.coder_endpoint)):
        endpoint.limit.on_wait = on_wait
    coder_chat = coder = None
    if chosen.coder_endpoint:
        coder_chat = Chat(chosen.coder_endpoint, role="coder", cache=cache, ledger=ledger)
        coder = ChatCoder(coder_chat.reply, workers=coder_chat.workers)
    local = lab.profile.with_values(lab.profile.name, coder="rules" if coder else chosen.coder)
    if chosen.kind == "local":
        lab.profile = local
        agent = local_agent(lab, chosen.name, chosen.adapter)
        return Actor(agent.policy, coder or agent.tools.coder, ledger, coder_chat)
    coder = coder or make_coder(replace(lab, profile=local))
    reply_format = lab.profile.reply_format
    if chosen.endpoint:
        chat = Chat(chosen.endpoint, cache=cache, ledger=ledger)
        policy: Policy = ChatPolicy(chat, name=chosen.name, reply_format=reply_format, seed=lab.seed)
    elif chosen.kind == "scripted":
        policy = ScriptedExpert(reply_format=reply_format)
    else:
        policy = baseline_policy(chosen.kind)
    return Actor(policy, coder, ledger, coder_chat)


def job_of(lab: Lab, chosen: AgentSpec, task: Task, index: int) -> Job:
    """Return the trajectory of that number; the scripted expert gets far-apart ideas to carry out."""
    ideas = ()
    if chosen.kind == "scripted":
        ideas = draw_ideas(chosen_ideas(lab, task), rng(lab.seed, "draw-ideas", task.name, index))
    return Job(task, chosen.name, index, lab.seed, ideas)


@contextmanager
def passing_lab(profile: Profile, seed: int) -> Iterator[Lab]:
    """Give a lab whose cache is thrown away: one trajectory leaves nothing behind."""
    with tempfile.TemporaryDirectory(prefix="mlagent-agent-") as folder:
        lab = Lab(profile, seed, Path(folder), Runner(workers=1), ExecutionCache(Path(folder) / "cache"))
        with closing(lab):
            yield lab


def act_once(
    lab: Lab, chosen: AgentSpec, task: str, out: TextIO, *, index: int = 0, steps: int | None = None,
    cache: ReplyCache | None = None, prices: Mapping[str, Price] | None = None,
) -> dict:  # fmt: skip
    """Return one trajectory (a row as in ``trajectories.jsonl``), shown step by step while it is made.

    Args:
        index: Number of the trajectory: other numbers, other samples.
        steps: Most of them; None for the profile's.
        cache: Replies of servers that are known already.
    """
    found = lab.task(task)
    most = steps or lab.profile.evaluate.max_steps
    view, ledger = LiveView(out, found, most), Ledger()
    actor = make_actor(lab, chosen, ledger, cache, view.on_wait)

    def watch(job: Job, step: dict, _stop: str) -> None:
        calls = [call for call in ledger.calls if (call.trajectory, call.step) == (job.id, step["step"])]
        view.step(step, calls)

    view.start(chosen.label, chosen.coder_label, lab.runner.tier, lab.seed)
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
        policy: Who is to be evaluated: its adapter may name the profile of a new run.
        run: The run that ``sft`` and ``rl`` are of.

    Raises:
        RunError: The run was made under another profile or seed.
    """
    run_dir = Path(out)
    known = read_record(run_dir / RUN_RECORD)
    for name, given in (("profile", profile), ("seed", seed)):
        if known and given is not None and given != known.get(name):
            cure = f"leave --{name} out, or choose another --out"
            raise RunError(f"the run {run_dir} has {name} {known.get(name)}, not {given}", cure=cure)
    chosen = profile_of_policy(policy, run, known.get("profile") or profile)
    root = checked("seed", known.get("seed", 0 if seed is None else seed), 0)
    lab = lab_in(run_dir, get_profile(chosen.name), root)
    lab.profile = chosen
    return lab


def evaluate_agent(
    lab: Lab, chosen: AgentSpec, *, tasks: str | Sequence[str], k: int | None = None,
    steps: int | None = None, cache: ReplyCache | None = None, prices: Mapping[str, Price] | None = None,
    err: TextIO | None = None,
) -> Path:  # fmt: skip
    """Return the folder of an agent's evaluation: K trajectories on each task, a finished stage of the run.

    An evaluation that is finished is kept. One that was stopped goes on: replies of servers and executions
    are known, so that only what is missing is asked for and run.

    Args:
        tasks: ``all``, ``held-in``, ``held-out``, or names.
        k: Trajectories of each task; None for the profile's.
        steps: Most of a trajectory; None for the profile's.
        cache: Replies of servers that are known already; None for those that the runs beside this one share.
        err: Where progress goes, standard error by default.

    Raises:
        RunError: Another process evaluates this agent, or the folder cannot be written.
    """
    found = lab.tasks(tasks)
    scales = [asdict(_scale(task)) for task in found]  # before anything is asked for
    k, most = k or lab.profile.evaluate.k, steps or lab.profile.evaluate.max_steps
    work = {"tasks": {task.name: task.digest for task in found}, "k": k, "max_steps": most}
    work |= {"reply_format": lab.profile.reply_format, **chosen.params()}
    stage = lab.stage(f"{AGENTS}/{chosen.name}", **work)
    if stage.done:
        print(f"{stage.dir}: finished before, kept")
        return stage.dir
    with stage:
        bar = ProgressLine(err or sys.stderr, chosen.name, k * len(found), most)
        ledger = Ledger(stage.path(CALLS), on_call=bar.on_call)
        shared = cache or ReplyCache(lab.run_dir.parent / FOLDER)
        actor = make_actor(lab, chosen, ledger, shared, bar.on_wait)
        jobs = [job_of(lab, chosen, task, index) for task in found for index in range(k)]
        rows = run_trajectories(jobs, actor.policy, lab.tools(actor.coder), max_steps=most, watch=bar.on_step)
        bar.finish()
        rows = with_report_scores(rows, {task.name: task for task in found}.get, lab.cache.archive)
        stage.write_json(SCALES, scales)
        write_rows(stage.path(ROWS), rows)
        costs = actor.costs(rows, prices or {})
        if ledger.calls:
            write_costs(stage.path(COSTS), costs)
        stage.summary = _summary(rows, costs)
    print(f"{stage.dir}: {len(rows)} trajectories, {stage.summary['unscored']} unscored")
    print(told(costs))
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

    Returns:
        Rows as of `cost_rows`, each with ``ledger``, the file it comes from.

    Raises:
        RunError: The run has no ledger, or one is damaged.
    """
    run_dir, table = Path(run_dir), []
    paths = [path for path in sorted(run_dir.rglob(f"*{CALLS}")) if ".old-" not in str(path)]
    if not paths:
        cure = "only runs with an openai:... expert, coder or agent have costs; check the folder"
        raise RunError(f"{run_dir} holds no ledger of calls ({CALLS})", cure=cure)
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
    rows, _ = read_jsonl(ledger.with_name(ROWS))
    return edits_of(rows, lambda messages: reply_key(*about, messages, coder["sampling"], "0"))
