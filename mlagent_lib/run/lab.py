"""What the notebooks call: one object that knows the run, and one function for each piece of work.

A notebook says *why* and shows results; the work is here, so that the same code runs under papermill, in
JupyterLab and in tests. Every function that makes something slow writes its rows as they come and goes on
after an interruption.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product
from pathlib import Path

from mlagent_lib.agents.embeddings import embed
from mlagent_lib.agents.ideas import (
    candidate_ideas,
    draw_ideas,
    has_catalogue,
    read_ideas,
    select_v1,
    select_v2,
)
from mlagent_lib.agents.policies import (
    ChatPolicy,
    FixedEdits,
    LocalPolicy,
    Policy,
    RandomIdeas,
    ScriptedExpert,
    Starter,
)
from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.agents.server.accounting import CALLS, Ledger
from mlagent_lib.agents.server.chat import CODER_MAX_TOKENS, Chat
from mlagent_lib.agents.server.endpoint_name import parse_endpoint
from mlagent_lib.agents.server.reply_cache import FOLDER, ReplyCache
from mlagent_lib.core.artifacts import OWN_TASKS, RUN_RECORD, Stage, read_record
from mlagent_lib.core.errors import CoderError, ProfileError
from mlagent_lib.core.files import append_jsonl, read_jsonl
from mlagent_lib.core.parameters import checked
from mlagent_lib.core.profiles import Profile, get_profile
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import ChatCoder, Coder, EditRequest, RuleCoder
from mlagent_lib.environment.runner import Runner
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.results.evaluation import TaskScale
from mlagent_lib.tasks.pocket.fixed import POLICIES as FIXED
from mlagent_lib.tasks.registry import find_task, list_tasks
from mlagent_lib.tasks.task import Task

IDEAS = "ideas.jsonl"  # in the folder of a run: the ideas of its tasks that have no catalogue


@dataclass
class Lab:
    """One run: its profile, its folder, and the tools that its notebooks share.

    Attributes:
        profile: All constants.
        seed: Root of every random stream.
        run_dir: Folder of the run.
        runner: Runs scripts in isolation; closed by `close` or at exit.
        cache: Executions of this run, by content.
        changes: What differs from the named profile, by parameter; part of every stage's parameters.
    """

    profile: Profile
    seed: int
    run_dir: Path
    runner: Runner
    cache: ExecutionCache
    _tasks: dict[str, Task] = field(default_factory=dict)
    changes: dict[str, str] = field(default_factory=dict)

    def stage(self, name: str, **extra: object) -> Stage:
        """Return the stage of that name, under this run's parameters and those that its notebook adds."""
        params = {"profile": self.profile.name, "seed": self.seed, **self.changes, **extra}
        return Stage(self.run_dir, name, params=params, profile=self.profile)

    def task(self, name: str) -> Task:
        """Return a task by name; each is read once."""
        if name not in self._tasks:
            self._tasks[name] = find_task(name)
        return self._tasks[name]

    def know(self, tasks: Iterable[Task]) -> None:
        """Let the run know tasks that are in no suite, by their names."""
        self._tasks.update({task.name: task for task in tasks})

    def adopt(self, train: Sequence[str], test: Sequence[str]) -> None:
        """Take the reader's own tasks in place of the profile's: those trained on, and others to evaluate.

        Tasks without a catalogue get the ideas that the run holds for them, and all seconds of their cards.

        Args:
            train: Folders or names; for this run they are its held-in tasks.
            test: Folders or names that are only evaluated; its held-out tasks.

        Raises:
            ProfileError: Two tasks have the same name.
        """
        ideas = {row["task"]: tuple(map(tuple, row["ideas"])) for row in _rows(self.run_dir / IDEAS)}
        own: dict[str, Task] = {}
        for number, task in enumerate(map(find_task, (*train, *test))):
            if task.name in own:
                raise ProfileError(f"two tasks are named {task.name!r}", cure="rename one of the folders")
            split = "held-in" if number < len(train) else "held-out"
            own[task.name] = replace(task, split=split, ideas=ideas.get(task.name, ()))
        self.know(own.values())
        seconds = [task.limits.seconds for task in own.values() if not has_catalogue(task)]
        self.profile = self.profile.with_values(
            self.profile.name, collect__tasks=tuple(own)[: len(train)], evaluate__tasks=tuple(own),
            script_seconds=max([self.profile.script_seconds, *seconds]),
        )  # fmt: skip

    def without_catalogue(self) -> list[Task]:
        """Return the tasks of the run whose scripts no catalogue of edits fits."""
        names = (*self.tasks(self.profile.collect.tasks), *self.tasks(self.profile.evaluate.tasks))
        return [task for task in dict.fromkeys(names) if not has_catalogue(task)]

    def find_ideas(self, ideas: str = "", expert: str = "scripted") -> None:
        """Give the tasks without a catalogue their ideas, and write them into the run; known ones are kept.

        Args:
            ideas: A file with one idea a line (see `read_ideas`); "" lets the expert write them.
            expert: See `expert_policy`; a server is asked for ideas on each axis.

        Raises:
            TaskError: There is no file, it is no list of ideas, and the expert is no server.
            EndpointError: The server fails, or writes too few.
        """
        generate, least = None, self.profile.collect.ideas_per_task
        if expert != "scripted":
            chat = self.chat(expert, self.run_dir / f"ideas_{CALLS}")
            generate = lambda prompt: chat.reply([{"role": "user", "content": prompt}])  # noqa: E731
        for task in (task for task in self.without_catalogue() if not task.ideas):
            found = read_ideas(Path(ideas)) if ideas else None
            written = () if found else candidate_ideas(task, generate=generate, minimum=least)
            pairs = found or tuple((idea.axis, idea.text) for idea in written)
            append_jsonl(self.run_dir / IDEAS, {"task": task.name, "ideas": pairs})
            self._tasks[task.name] = replace(task, ideas=pairs)

    def tasks(self, choice: str | Sequence[str]) -> list[Task]:
        """Return the tasks of a profile's choice: ``all``, ``held-in``, ``held-out``, or names."""
        names = list_tasks(None if choice == "all" else choice) if isinstance(choice, str) else choice
        return [self.task(name) for name in names]

    def scales(self) -> list[TaskScale]:
        """Return start and best known report score of each task that is evaluated."""
        return [TaskScale.of(task) for task in self.tasks(self.profile.evaluate.tasks)]

    def tools(self, coder: Coder | None = None) -> Toolbox:
        """Return the toolbox of a step; without a coder the rule coder of the catalogue."""
        settings = {"reply_format": self.profile.reply_format, "script_seconds": self.profile.script_seconds}
        return Toolbox(self.runner, coder or RuleCoder(), self.cache, tasks=self._tasks, **settings)

    def chat(self, spec: str, calls: Path, *, role: str = "policy", **options) -> Chat:
        """Return a model behind a server; replies that it gave to the runs beside this one are known.

        Args:
            spec: ``openai:<model>@<url>``.
            calls: The ledger in which its calls are written down.
            role: Who speaks there: ``policy`` or ``coder``.
            **options: Of `parse_endpoint`.
        """
        cache = ReplyCache(self.run_dir.parent / FOLDER)
        return Chat(parse_endpoint(spec, **options), role=role, cache=cache, ledger=Ledger(calls))

    def close(self) -> None:
        """Stop the warm servers."""
        self.runner.close()


def open_lab(
    profile: str, seed: int, runs_dir: str, run_id: str, *, model: str = "", coder: str = "", vllm: str = ""
) -> Lab:
    """Return the lab of a run; makes its folder when it is new. See `lab_in` for what comes first.

    Args:
        seed: Root of every random stream, from 0 to 4294967295.
        runs_dir: Where runs are kept; "" for ``runs`` beside the notebooks, wherever Jupyter was started.
        run_id: Name of the run; "" for ``<profile>-seed<seed>``.
        model: Another model than the profile's, such as ``Qwen/Qwen2.5-0.5B-Instruct``; "" for the profile's.
        coder: Another coder: ``base``, ``rules`` or ``openai:<model>@<url>``; "" for the profile's.
        vllm: Another engine for the rollouts: ``no``, ``colocate`` or the address of a server; "" likewise.

    Raises:
        ProfileError: A value is unknown or of the wrong kind (see `checked`), or the model does not fit.
        MlagentError: The profile's backend cannot run here.
        RunError: A library was imported before the backend that changes it.
    """
    profile, seed = checked("profile", profile, "laptop"), checked("seed", seed, 0)
    runs_dir, run_id = checked("runs_dir", runs_dir), checked("run_id", run_id)
    given = (("model", model), ("coder", coder), ("vllm", vllm))
    wanted = {name: checked(name, value) for name, value in given}
    found, changes = changed_profile(get_profile(profile), **wanted)
    place = _run_around(profile, seed, runs_dir, run_id)
    if place is None:
        runs = Path(runs_dir) if runs_dir else Path(__file__).resolve().parents[2] / "runs"
        place = runs / (run_id or f"{profile}-seed{seed}")
    return lab_in(place, found, seed, changes)


def _run_around(profile: str, seed: int, runs_dir: str, run_id: str) -> Path | None:
    """Return the run in whose ``notebooks`` folder we work and which is meant, or None.

    Jupyter starts an executed notebook there. The ``runs_dir`` that `mlagent run` has put into it leads
    nowhere from that place, or, where the run was copied, to another one.
    """
    here = Path.cwd()
    run = here.parent
    record = read_record(run / RUN_RECORD)
    is_same = here.name == "notebooks" and (record.get("profile"), record.get("seed")) == (profile, seed)
    elsewhere = (Path(runs_dir) / run_id / RUN_RECORD).exists() if runs_dir else run_id not in ("", run.name)
    return run if is_same and not elsewhere else None


def lab_in(run_dir: Path, profile: Profile, seed: int, changes: dict[str, str] | None = None) -> Lab:
    """Return the lab of a run's folder, of whatever name.

    Before anything else the backend is made ready (Unsloth must come before the libraries that it changes),
    and the memory is estimated that the profile's model will take on this card.
    """
    for name, value in profile.threads_wait.items():  # before torch is loaded, also in JupyterLab
        os.environ.setdefault(name, value)
    ready_backend(profile)
    run_dir.mkdir(parents=True, exist_ok=True)
    runner, cache = Runner(workers=profile.workers), ExecutionCache(run_dir / "cache")
    lab = Lab(profile, seed, run_dir, runner, cache, changes=changes or {})
    if (run_dir / OWN_TASKS).exists():
        lab.adopt(**json.loads((run_dir / OWN_TASKS).read_text(encoding="utf-8")))
    return lab


def changed_profile(profile: Profile, **wanted: str) -> tuple[Profile, dict[str, str]]:
    """Return a profile with another model, coder or engine, and what differs; "" leaves the profile's own."""
    own = {"model": profile.model, "coder": profile.coder, "vllm": profile.grpo.vllm}
    changes = {name: value for name, value in wanted.items() if value and value != own[name]}
    if "model" in changes:
        profile = profile.with_model(changes["model"])
    names = {"coder": "coder", "vllm": "grpo__vllm"}
    others = {names[name]: value for name, value in changes.items() if name in names}
    return profile.with_values(profile.name, **others), changes


def ready_backend(profile: Profile) -> None:
    """Make the profile's backend ready and print what its model will take; nothing for the pocket model."""
    from mlagent_lib.training.backends import prepare
    from mlagent_lib.training.memory import announce, shape_of
    from mlagent_lib.training.timing import announce_time

    backend = prepare(profile.loading)
    if shape_of(profile.model) is not None:
        from mlagent_lib.training.backends.backend import device_and_precision

        announce(profile, backend, device_and_precision(profile.loading)[1])
    announce_time(profile)


def expert_policy(lab: Lab, spec: str, record: Path) -> Policy:
    """Return the expert: ``scripted``, or ``openai:<model>@<url>`` for any OpenAI-compatible server.

    Args:
        record: Where a server's replies are written down (see `ChatPolicy`), its calls beside them.
    """
    reply_format = lab.profile.reply_format
    if spec == "scripted":
        undo_share = lab.profile.collect.undo_share
        return ScriptedExpert(undo_share=undo_share, reply_format=reply_format)
    chat = lab.chat(spec, record.with_name(CALLS))
    return ChatPolicy(chat, name="expert", record=record, reply_format=reply_format, seed=lab.seed)


def chosen_ideas(lab: Lab, task: Task) -> tuple | dict:
    """Return the far-apart ideas of a task by the profile's selection: a tuple for v1, by axis for v2.

    Ideas that all stand on one axis, as in a list that names none, are chosen by v1.
    """
    settings = lab.profile.collect
    ideas = candidate_ideas(task, minimum=settings.ideas_per_task)
    vectors = embed([idea.text for idea in ideas])
    if settings.selection == "v1" or len({idea.axis for idea in ideas}) == 1:
        return select_v1(ideas, vectors, settings.ideas_kept)
    return select_v2(ideas, vectors, rng(lab.seed, "ideas", task.name), settings.ideas_k)


def ideas_for(lab: Lab, task: Task, ideas: str = "far-apart") -> tuple | dict:
    """Return the pool of ideas that a task's trajectories draw from.

    Args:
        ideas: ``random-ideas`` for as many as the profile selects, by axis, drawn at random; ``one-idea`` for
            one of them; else those of the profile's selection.
    """
    pools = chosen_ideas(lab, task)
    if ideas not in ("random-ideas", "one-idea"):
        return pools
    stream, every = rng(lab.seed, "ideas", ideas, task.name), candidate_ideas(task)
    if ideas == "one-idea":
        return (every[int(stream.integers(len(every)))],)
    found = {}
    for axis, chosen in pools.items():
        own = [idea for idea in every if idea.axis == axis]
        found[axis] = tuple(own[i] for i in stream.permutation(len(own))[: len(chosen)])
    return found


def collect(
    lab: Lab, path: Path, *, expert: str = "scripted", ideas: str = "far-apart",
    progress: Callable[[int, int], None] | None = None,
) -> list[dict]:  # fmt: skip
    """Return the expert trajectories of the run, written to ``path`` as they are made.

    The scripted expert asks for edits of the catalogue, which the rule coder makes exactly. A model asks in
    words of its own, so there the profile's coder writes the edits.

    Args:
        path: A JSONL file; trajectories that it holds already are kept.
        expert: See `expert_policy`.
        ideas: See `ideas_for`.
        progress: Called with tasks done and tasks in all.
    """
    settings, policy = lab.profile.collect, expert_policy(lab, expert, path.with_name("replies.jsonl"))
    tools = lab.tools(idea_coder(lab) if expert == "scripted" else make_coder(lab))
    tasks = lab.tasks(settings.tasks)
    for number, task in enumerate(tasks):
        pool, jobs = ideas_for(lab, task, ideas), []
        for index in range(settings.trajectories_per_task):
            drawn = draw_ideas(pool, rng(lab.seed, "draw-ideas", task.name, index))
            jobs.append(Job(task, "expert", index, lab.seed, drawn))
        _extend(path, jobs, policy, tools, settings.max_steps)
        if progress:
            progress(number + 1, len(tasks))
    return _rows(path)


class RulesFirst(RuleCoder):
    """The rule coder, and another coder for what the catalogue does not know."""

    def __init__(self, other: Coder):
        self.other = other

    def edit_many(self, requests: Sequence[EditRequest]) -> list:
        """Return the edited script for each request, in order, or why there is none."""
        made = super().edit_many(requests)
        left = [number for number, found in enumerate(made) if isinstance(found, CoderError)]
        others = self.other.edit_many([requests[number] for number in left]) if left else []
        for number, found in zip(left, others, strict=True):
            made[number] = found
        return made


def idea_coder(lab: Lab) -> Coder:
    """Return who carries out ideas: the catalogue, and the profile's coder where a task has none."""
    if lab.profile.coder == "rules" or not lab.without_catalogue():
        return RuleCoder()
    return RulesFirst(make_coder(lab))


def baseline_policy(name: str) -> Policy:
    """Return a policy that needs no model: ``starter``, ``random-ideas``, or one of ``fixed.POLICIES``."""
    known = {"starter": Starter, "random-ideas": RandomIdeas}
    known |= {kind: partial(FixedEdits, kind) for kind in FIXED}
    if name not in known:
        cure = f"choose one of {', '.join(known)}, base, sft, rl"
        raise ProfileError(f"policy {name!r} is unknown", cure=cure)
    return known[name]()


def quiet() -> None:
    """Switch off the progress bars and the advice of the training libraries: notebooks show their own."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


@dataclass
class Agent:
    """A local policy ready to act, its toolbox with the profile's coder, and the model behind both."""

    policy: LocalPolicy
    tools: Toolbox
    generate: Callable
    backend: object


def local_agent(lab: Lab, name: str, adapter: Path | None) -> Agent:
    """Return the local policy of that name with its coder.

    Args:
        name: ``base``, ``sft``, ``rl`` or another name to record.
        adapter: Folder of its LoRA adapter; None for the base model.
    """
    from mlagent_lib.training.backends import load

    quiet()
    profile = lab.profile
    backend = load(profile.model, backend=profile.loading, adapter=adapter)
    options = {"temperature": profile.evaluate.temperature, "max_new_tokens": profile.grpo.max_new_tokens}
    generate = backend.sampler(**options)
    policy = LocalPolicy(generate, name=name, seed=lab.seed, prompter=Prompter.of(profile))
    return Agent(policy, lab.tools(make_coder(lab, backend)), generate, backend)


def make_coder(lab: Lab, backend=None) -> Coder:
    """Return the profile's coder: ``base``, ``rules``, or ``openai:<model>@<url>``.

    Args:
        backend: The model behind ``base``; loaded where it is needed and not given.
    """
    profile = lab.profile
    if profile.coder == "rules":
        return RuleCoder()
    if profile.coder == "base":
        from mlagent_lib.training.backends import base_coder, load

        quiet()
        loaded = backend or load(profile.model, backend=profile.loading)
        return base_coder(loaded, style=profile.prompt_style)
    calls = lab.run_dir / f"coder_{CALLS}"
    chat = lab.chat(profile.coder, calls, role="coder", max_tokens=CODER_MAX_TOKENS)
    return ChatCoder(chat.reply, workers=chat.workers)


def evaluate(lab: Lab, name: str, policy: Policy, tools: Toolbox, path: Path, *, progress=None) -> list[dict]:
    """Return K trajectories of one policy on each evaluated task, written to ``path``.

    Args:
        name: Recorded as the source.
        path: A JSONL file that all policies share; trajectories that it holds already are kept.
        progress: Called with the number of steps just made.
    """
    settings = lab.profile.evaluate
    pairs = product(lab.tasks(settings.tasks), range(settings.k))
    jobs = [Job(task, name, index, lab.seed) for task, index in pairs]
    _extend(path, jobs, policy, tools, settings.max_steps, progress, is_one_stream=True)
    return [row for row in _rows(path) if row["source"] == name]


def _extend(
    path: Path, jobs: Sequence[Job], policy: Policy, tools: Toolbox, max_steps: int, progress=None, *,
    is_one_stream: bool = False,
) -> None:  # fmt: skip
    """Make the trajectories that a file lacks and append them.

    A policy whose sampling is one stream makes all of them anew where it was cut off; the held rows stay.
    """
    held = {row["id"] for row in _rows(path)}
    left = [job for job in jobs if job.id not in held]
    if not left:
        return
    wanted = jobs if is_one_stream else left
    for row in run_trajectories(wanted, policy, tools, max_steps=max_steps, progress=progress):
        if row["id"] not in held:
            append_jsonl(path, row)


def _rows(path: Path) -> list[dict]:
    return read_jsonl(path, missing_ok=True)[0]
