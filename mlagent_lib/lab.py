"""What the notebooks call: one object that knows the run, and one function for each piece of work.

A notebook says *why* and shows results; the work is here, so that the same code runs under papermill, in
JupyterLab and in tests. Every function that makes something slow writes its rows as they come and goes on
after an interruption.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from mlagent_lib.agents.endpoint import parse_endpoint
from mlagent_lib.agents.ideas import candidate_ideas, draw_ideas, embed, select_v1, select_v2
from mlagent_lib.agents.policies import ChatPolicy, LocalPolicy, Policy, RandomIdeas, ScriptedExpert, Starter
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.core.artifacts import Stage, append_jsonl, read_jsonl
from mlagent_lib.core.errors import ProfileError
from mlagent_lib.core.profiles import PATIENT, Profile, get_profile
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import ChatCoder, Coder, RuleCoder
from mlagent_lib.environment.runner import Runner
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.results.evaluation import TaskScale
from mlagent_lib.tasks.task import Task, list_tasks, load_task


@dataclass
class Lab:
    """One run: its profile, its folder, and the tools that its notebooks share.

    Attributes:
        profile: All constants.
        seed: Root of every random stream.
        run_dir: Folder of the run.
        runner: Runs scripts in isolation; closed by `close` or at exit.
        cache: Executions of this run, by content.
    """

    profile: Profile
    seed: int
    run_dir: Path
    runner: Runner
    cache: ExecutionCache
    _tasks: dict[str, Task] = field(default_factory=dict)

    def stage(self, name: str, **extra: object) -> Stage:
        """Return the stage of that name, under this run's parameters and those that its notebook adds."""
        params = {"profile": self.profile.name, "seed": self.seed, **extra}
        return Stage(self.run_dir, name, params=params, profile=self.profile)

    def task(self, name: str) -> Task:
        """Return a task by name; each is read once."""
        if name not in self._tasks:
            self._tasks[name] = load_task(name)
        return self._tasks[name]

    def tasks(self, choice: str | Sequence[str]) -> list[Task]:
        """Return the tasks of a profile's choice: ``all``, ``held-in``, ``held-out``, or names."""
        names = list_tasks(None if choice == "all" else choice) if isinstance(choice, str) else choice
        return [self.task(name) for name in names]

    def scales(self) -> list[TaskScale]:
        """Return start and best known report score of each task that is evaluated."""
        return [TaskScale.of(task) for task in self.tasks(self.profile.evaluate.tasks)]

    def tools(self, coder: Coder | None = None) -> Toolbox:
        """Return the toolbox of a step; without a coder the rule coder of the catalogue."""
        return Toolbox(
            self.runner,
            coder or RuleCoder(),
            self.cache,
            reply_format=self.profile.reply_format,
            tasks=self._tasks,
            script_seconds=self.profile.script_seconds,
        )

    def close(self) -> None:
        """Stop the warm servers."""
        self.runner.close()


def open_lab(profile: str, seed: int, runs_dir: str, run_id: str) -> Lab:
    """Return the lab of a run; makes its folder when it is new.

    Args:
        profile: Name of the profile.
        seed: Root of every random stream.
        runs_dir: Where runs are kept; "" for ``runs`` beside the notebooks, wherever Jupyter was started.
        run_id: Name of the run; "" for ``<profile>-seed<seed>``.

    Raises:
        ProfileError: The profile is unknown or the seed is no whole number.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", PATIENT)  # before torch is loaded, also in JupyterLab
    found = get_profile(profile)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise ProfileError(f"seed is {seed!r}", cure="give a whole number")
    runs = Path(runs_dir) if runs_dir else Path(__file__).resolve().parent.parent / "runs"
    run_dir = runs / (run_id or f"{profile}-seed{seed}")
    run_dir.mkdir(parents=True, exist_ok=True)
    return Lab(found, seed, run_dir, Runner(workers=found.workers), ExecutionCache(run_dir / "cache"))


def expert_policy(spec: str, reply_format: str = "six", record: Path | None = None) -> Policy:
    """Return the expert: ``scripted``, or ``openai:<model>@<url>`` for any OpenAI-compatible server.

    Args:
        spec: Which expert.
        reply_format: ``six`` or ``no-thought``.
        record: Where a server's replies are written down (see `ChatPolicy`).
    """
    if spec == "scripted":
        return ScriptedExpert(reply_format=reply_format)
    return ChatPolicy(parse_endpoint(spec).reply, name="expert", record=record)


def chosen_ideas(lab: Lab, task: Task) -> tuple | dict:
    """Return the far-apart ideas of a task by the profile's selection: a tuple for v1, by axis for v2."""
    settings = lab.profile.collect
    ideas = candidate_ideas(task, minimum=settings.ideas_per_task)
    vectors = embed([idea.text for idea in ideas], "tfidf").vectors
    if settings.selection == "v1":
        return select_v1(ideas, vectors, settings.ideas_kept)
    return select_v2(ideas, vectors, rng(lab.seed, "ideas", task.name), settings.ideas_k)


def collect(
    lab: Lab, path: Path, *, expert: str = "scripted", progress: Callable[[int, int], None] | None = None
) -> list[dict]:
    """Return the expert trajectories of the run, written to ``path`` as they are made.

    Args:
        lab: The run.
        path: A JSONL file; trajectories that it holds already are kept.
        expert: See `expert_policy`.
        progress: Called with tasks done and tasks in all.
    """
    settings = lab.profile.collect
    policy = expert_policy(expert, lab.profile.reply_format, path.with_name("replies.jsonl"))
    tasks = lab.tasks(settings.tasks)
    done = {row["id"] for row in _rows(path)}
    for number, task in enumerate(tasks):
        pool = chosen_ideas(lab, task)
        jobs = [
            Job(
                task,
                "expert",
                index,
                lab.seed,
                draw_ideas(pool, rng(lab.seed, "draw-ideas", task.name, index)),
            )
            for index in range(settings.trajectories_per_task)
        ]
        extend(path, [job for job in jobs if job.id not in done], policy, lab.tools(), settings.max_steps)
        if progress:
            progress(number + 1, len(tasks))
    return _rows(path)


def baseline_policy(name: str) -> Policy:
    """Return a policy that needs no model: ``starter`` or ``random-ideas``."""
    known = {"starter": Starter, "random-ideas": RandomIdeas}
    if name not in known:
        raise ProfileError(
            f"policy {name!r} is unknown", cure=f"choose one of {', '.join(known)}, base, sft, rl"
        )
    return known[name]()


@dataclass
class Agent:
    """A local policy ready to act, its toolbox with the profile's coder, and the model behind both."""

    policy: LocalPolicy
    tools: Toolbox
    generate: Callable
    backend: object


def local_agent(lab: Lab, name: str, adapter: Path | None, *, temperature: float | None = None) -> Agent:
    """Return the local policy of that name with its coder.

    Args:
        lab: The run.
        name: ``base``, ``sft``, ``rl`` or another name to record.
        adapter: Folder of its LoRA adapter; None for the base model.
        temperature: Of its sampling; None for the profile's.
    """
    from mlagent_lib.training.backends import load
    from mlagent_lib.training.grpo import sampler

    profile = lab.profile
    backend = load(profile.model, backend=profile.backend, adapter=adapter)
    heat = profile.evaluate.temperature if temperature is None else temperature
    generate = sampler(backend, temperature=heat, max_new_tokens=profile.grpo.max_new_tokens)
    policy = LocalPolicy(generate, name=name, seed=lab.seed, style=profile.prompt_style)
    return Agent(policy, lab.tools(make_coder(profile, backend)), generate, backend)


def make_coder(profile: Profile, backend=None) -> Coder:
    """Return the profile's coder: ``base``, ``rules``, or ``openai:<model>@<url>``."""
    if profile.coder == "rules":
        return RuleCoder()
    if profile.coder == "base":
        from mlagent_lib.training.backends import base_coder

        return base_coder(backend)
    return ChatCoder(parse_endpoint(profile.coder).reply)


def evaluate(lab: Lab, name: str, policy: Policy, tools: Toolbox, path: Path, *, progress=None) -> list[dict]:
    """Return K trajectories of one policy on each evaluated task, written to ``path``.

    Args:
        lab: The run.
        name: Recorded as the source.
        policy: Who acts.
        tools: With its coder.
        path: A JSONL file that all policies share; trajectories that it holds already are kept.
        progress: Called with the number of steps just made.
    """
    settings = lab.profile.evaluate
    jobs = [
        Job(task, name, index, lab.seed) for task in lab.tasks(settings.tasks) for index in range(settings.k)
    ]
    done = {row["id"] for row in _rows(path)}
    todo = [job for job in jobs if job.id not in done]
    if todo:  # a policy that was cut off is made anew, and its held rows kept: its sampling is one stream
        todo = jobs
    extend(path, todo, policy, tools, settings.max_steps, progress=progress)
    return [row for row in _rows(path) if row["source"] == name]


def extend(
    path: Path, jobs: Sequence[Job], policy: Policy, tools: Toolbox, max_steps: int, progress=None
) -> None:
    """Make trajectories and append them; rows that are there already are not written twice."""
    if not jobs:
        return
    made = run_trajectories(jobs, policy, tools, max_steps=max_steps, progress=progress)
    held = {row["id"] for row in _rows(path)}
    for row in made:
        if row["id"] not in held:
            append_jsonl(path, row)


def _rows(path: Path) -> list[dict]:
    return read_jsonl(path)[0] if Path(path).exists() else []


def state_rewards(rows: Iterable[dict], policy: str, seed: int) -> pd.DataFrame:
    """Return a row for each step from a state not trained on: policy, seed, task, state, reward, outcome."""
    frame = pd.DataFrame(rows)
    return pd.DataFrame(
        {
            "policy": policy,
            "seed": seed,
            "task": frame["task"],
            "state": frame["state_id"],
            "reward": frame["reward"],
            "outcome": frame["outcome"],
        }
    )
