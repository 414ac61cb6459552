"""What the notebooks show: small tables and computed sentences, made from a task or from the files of a run.

Nothing here trains, grades or runs a policy; `lab` and `stages` do. Every sentence that states a result is
computed from files, so that a notebook executed again after another run cannot say what is no longer so.
"""

from __future__ import annotations

import difflib
import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.agents.embeddings import embed, pairwise_distances, project, select_farthest_average
from mlagent_lib.agents.ideas import candidate_ideas, select_v2
from mlagent_lib.core.artifacts import read_record
from mlagent_lib.core.errors import ProfileError, RunError
from mlagent_lib.core.parameters import checked
from mlagent_lib.core.provenance import device_name, versions
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.actions import Invalid, parse_action
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.runner import RunRequest
from mlagent_lib.environment.step import StepResult
from mlagent_lib.results.evaluation import median_trajectory
from mlagent_lib.results.figures import put
from mlagent_lib.results.intervals import Interval, paired_difference
from mlagent_lib.results.show import CSS, Shown, diff_html, escape, items, lines_of, table_markup
from mlagent_lib.results.steps import learning_curve_table, outcome_of, spread_table
from mlagent_lib.results.style import ends as ends
from mlagent_lib.results.style import figure_files, footer, look, new_figure, number, styled, with_run
from mlagent_lib.results.tabled import Rows, tabled
from mlagent_lib.reward import reward_of, step_reward
from mlagent_lib.run.lab import Lab, chosen_ideas
from mlagent_lib.tasks.pocket.catalogue import family_of_key
from mlagent_lib.tasks.task import Task, size_of
from mlagent_lib.training.pool import PARTS

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm asks for widgets; our bars need none
RESULTS = Path(__file__).parents[1] / "results"
SHOWN_VERSIONS = ("torch", "transformers", "trl", "peft", "scikit-learn", "pandas")
_STYLE = ".mla-quiet{color:var(--soft)}.mla-counts{background:var(--add);color:var(--addink);font-weight:600}"


def _facts(facts: Mapping[str, object]) -> pd.DataFrame:
    return pd.DataFrame({"what": list(facts), "value": [str(value) for value in facts.values()]})


def _shown(body: str, text: str) -> Shown:
    return Shown(f'<style>{CSS}{_STYLE}</style><div class="mla-root">{body}</div>', text)


def banner(lab: Lab, *sections: str) -> Shown:
    """Return what this notebook runs with: run, profile, seed, isolation, versions, constants of the stage.

    Constants are those of these sections of the profile, beside the paper's.
    """
    found = versions(SHOWN_VERSIONS)
    facts = {"run": lab.run_dir, "profile": f"{lab.profile.name}: {lab.profile.purpose}", "seed": lab.seed}
    told = ", ".join(f"{name} {version}" for name, version in found.items())
    table = _facts(facts | {"isolation tier": lab.runner.tier, "versions": told})
    body = table_markup(table)
    rows = [row for row in lab.profile.as_rows() if row["stage"] in sections]
    if rows:
        names = ("name", "value", "paper", "source", "why")
        listed = pd.DataFrame([{name: str(row[name]) for name in names} for row in rows])
        listed = listed.rename(columns={"value": "here", "why": "why it differs"})
        body += f"<details><summary>Constants, and the paper's</summary>{table_markup(listed)}</details>"
    return _shown(body, table.to_string(index=False))


def say(*sentences: str) -> Shown:
    """Return computed sentences as a list to read; empty ones, of which nothing is known, are left out."""
    sentences = tuple(filter(None, sentences))
    return _shown(items(sentences), "\n".join(f"- {sentence}" for sentence in sentences))


def block(text: str) -> Shown:
    """Return plain text, such as a prompt or a script, as a block to read."""
    lines = "".join(f'<span class="mla-l">{escape(line) or " "}</span>' for line in lines_of(text))
    return _shown(f'<pre class="mla-pre mla-wrap">{lines}</pre>', text)


def diff(before: str, after: str) -> Shown:
    """Return the difference of two scripts, in colour and with signs."""
    lines = difflib.unified_diff(before.split("\n"), after.split("\n"))
    return _shown(diff_html(before, after), "\n".join(lines))


def run_table(lab: Lab, name: str) -> pd.DataFrame:
    """Return a CSV of the run.

    Raises:
        RunError: It is not there.
    """
    path = lab.run_dir / name
    if not path.is_file():
        cure = "run the notebook of that stage first, with the same run id"
        raise RunError(f"{path} is missing", cure=cure)
    return pd.read_csv(path)


def run_json(lab: Lab, name: str) -> dict:
    """Return a JSON file of the run."""
    return json.loads((lab.run_dir / name).read_text(encoding="utf-8"))


def for_figure(lab: Lab, table: pd.DataFrame) -> pd.DataFrame:
    """Return a table with profile and hardware, which figures print in their footer."""
    return with_run(table, profile=lab.profile.name, hardware=device_name())


# 00 the tour


def task_facts(task: Task) -> pd.DataFrame:
    """Return the card of a task as a table of two columns."""
    facts = {
        "stands in for": task.paper_task,
        "split": task.split,
        "data": ", ".join(filter(None, (task.modality, size_of(task, "visible rows")))),
        "metric": f"{task.metric}, {task.better} is better",
        "starter's score (feedback labels)": number(task.baseline["feedback"], 3),
        "best known score (feedback labels)": number(task.best["feedback"], 3),
        "seconds a run may take": f"{task.limits.seconds:g}",
        "read-only": ", ".join(task.read_only),
    }
    return _facts(facts)


@tabled("reply", "verdict", "the agent is told")
def parsed(replies: Mapping[str, str]) -> Rows:
    """Return what the parser makes of replies: their action, or the named reason why there is none."""
    for name, reply in replies.items():
        found = parse_action(reply)
        if isinstance(found, Invalid):
            yield name, found.reason, found.message
        else:
            yield name, found.name, ", ".join(f"{k}={v}" for k, v in found.arguments.items())


@tabled("form", "case", "delta", "reward")
def reward_shape_table() -> Rows:
    """Return the table of the figure ``reward_shape``: changes of ±15 % of the gap, in ours ±45 %, but 0."""
    for form, most in (("v1", 0.15), ("v2", 0.15), ("gain", 0.45)):
        for case in (Outcome.NEUTRAL, Outcome.ERROR):
            yield form, case.value, None, step_reward(case, init=0.0, best=1.0, form=form)
        for share in map(float, np.linspace(-most, most, 120)):
            paid = step_reward(Outcome.EDITED, before=0.0, after=share, init=0.0, best=1.0, form=form)
            yield form, "edited", share, paid


@tabled()
def outcomes(names: Iterable[str], results: Iterable[StepResult], task: Task) -> Rows:
    """Return what steps came to: reply, outcome, reason, scores, and the reward in both published forms."""
    for name, result in zip(names, results, strict=True):
        row = {"reply": name, "outcome": result.outcome.value, "reason": result.reason}
        row |= {"score before": result.score_before, "score after": result.score_after}
        yield row | {f"reward {form}": reward_of(result, task, form) for form in ("v1", "v2")}


_PEEK = """
import os, socket
tries = {{
    "list the folder of hidden labels": lambda: os.listdir({labels!r}),
    "read the grader of this kit": lambda: open({package!r}).read(),
    "read the records of this run": lambda: os.listdir({run!r}),
    "change the data of the task": lambda: open("data/train.csv", "a"),
    "open a network connection": lambda: socket.socket(),
    "read the environment of the parent": lambda: open(f"/proc/{{os.getppid()}}/environ", "rb").read(1),
    "write into its own workspace": lambda: open("own.txt", "w").write("mine"),
}}
for name, action in tries.items():
    try:
        action()
        print(name, "| worked")
    except OSError as error:
        print(name, "| refused:", type(error).__name__)
"""


def peek(lab: Lab, task: Task) -> pd.DataFrame:
    """Return what a script gets that tries to see what it must not see: columns attempt, result.

    The script is told the real paths, which an agent never learns. The last attempt is an honest one and
    must work.
    """
    package = RESULTS.parent / "tasks" / "grading.py"
    script = _PEEK.format(labels=str(task.labels_dir), package=str(package), run=str(lab.run_dir.resolve()))
    files = {"peek.py": script.encode()}
    request = RunRequest(files, task.data_dir, "peek.py", task.limits, collect=(), links=task.links)
    rows = [line.split(" | ") for line in lab.runner.run(request).output.splitlines() if " | " in line]
    return pd.DataFrame(rows, columns=["attempt", "result"])


# 01 the collection


@tabled()
def idea_counts(lab: Lab) -> Rows:
    """Return how many candidate ideas each task of the collection has, by axis, and how many are kept."""
    for task in lab.tasks(lab.profile.collect.tasks):
        axes = pd.Series([idea.axis for idea in candidate_ideas(task)]).value_counts().sort_index()
        row = {"task": task.name, "candidates": int(axes.sum())} | {str(k): int(v) for k, v in axes.items()}
        yield row | {"kept": len(_flat(chosen_ideas(lab, task)))}


def _flat(pool: Sequence | Mapping) -> list:
    return [idea for own in pool.values() for idea in own] if isinstance(pool, Mapping) else list(pool)


def idea_map_table(lab: Lab, task: Task) -> pd.DataFrame:
    """Return the table of the figure ``idea_map``: where the candidates lie, and the spread of selections.

    The rings are the ideas that this run uses. The spread compares selections of one size, that of version 2.
    """
    ideas = candidate_ideas(task)
    vectors = embed([idea.text for idea in ideas])
    used = {idea.key for idea in _flat(chosen_ideas(lab, task))}
    places = pd.DataFrame([(idea.key, idea.axis) for idea in ideas], columns=["key", "axis"])
    places[["x", "y"]] = project(vectors)[0]
    places = places.assign(kind="idea", selected=places["key"].isin(used).astype(int))
    chosen = _equal_choices(lab, task, ideas, vectors)
    spread = spread_table(pairwise_distances(vectors), chosen, root=lab.seed).assign(kind="spread")
    return pd.concat([places, spread], ignore_index=True)


def _equal_choices(lab: Lab, task: Task, ideas: Sequence, vectors: np.ndarray) -> dict[str, list[int]]:
    """Return the indices of both versions' selections, as many for each."""
    index = {idea.key: place for place, idea in enumerate(ideas)}
    second = select_v2(ideas, vectors, rng(lab.seed, "ideas", task.name), lab.profile.collect.ideas_k)
    second = [index[idea.key] for idea in _flat(second)]
    first = list(select_farthest_average(vectors, len(second)))
    return {"v1: farthest average": first, "v2: per axis": second}


@tabled("selection", "ideas", "families")
def family_table(lab: Lab, task: Task) -> Rows:
    """Return how many different *kinds* of ideas a selection holds: families such as ``svm`` or ``bagging``.

    For ``random`` it is the mean over 200 draws.
    """
    ideas = candidate_ideas(task)
    vectors = embed([idea.text for idea in ideas])
    families = np.array([family_of_key(idea.key) for idea in ideas])
    chosen = _equal_choices(lab, task, ideas, vectors)
    size = len(chosen["v2: per axis"])
    stream = rng(lab.seed, "families", task.name)
    drawn = [len(set(families[stream.choice(len(ideas), size, replace=False)])) for _ in range(200)]
    yield "random", size, float(np.mean(drawn))
    yield from ((name, size, len(set(families[places]))) for name, places in chosen.items())


def collection_table(rows: Iterable[Mapping]) -> pd.DataFrame:
    """Return for each task counts of trajectories and steps, what became of edits, and distinct scripts."""
    table = pd.DataFrame(
        (row["task"], row["id"], step["script_after"], outcome_of(step), step["reward"] or 0.0)
        for row in rows
        for step in row["steps"]
    )
    table.columns = ["task", "trajectory", "script", "outcome", "reward"]
    table["ran"] = table["outcome"].isin(["edited", "unchanged"])
    table["undone"] = table["outcome"] == "undone"
    table["helped"] = table["ran"] & (table["reward"] > 0.5)
    columns = {
        "trajectories": ("trajectory", "nunique"),
        "steps": ("ran", "size"),
        "edits that ran": ("ran", "sum"),
        "edits taken back": ("undone", "sum"),
        "distinct scripts": ("script", "nunique"),
        "edits that helped": ("helped", "sum"),
    }
    found = table.groupby("task", sort=False).agg(**columns).reset_index()
    found["edits that helped"] /= found["edits that ran"].clip(lower=1)
    return found


@tabled()
def part_table(parts) -> Rows:
    """Return how many trajectories and states each part of the collection has, by task."""
    for task in sorted({row["task"] for row in parts.trajectories["train"]}):
        row = {"task": task}
        for part in PARTS:
            row[f"{part}: trajectories"] = sum(own["task"] == task for own in parts.trajectories[part])
            row[f"{part}: states"] = sum(state.task == task for state in getattr(parts, part))
        yield row


# 02 and 03: training

VERDICTS = {
    "above": "clearly above zero",
    "below": "clearly below zero",
    "includes": "not told apart from zero",
    "unknown": "not to be judged: one value for each task",
}
MEASURED = {  # what the card of the pocket model states, and how it is told
    "parameters": "parameters",
    "examples": "training examples",
    "coder_exact": "coder: share of the catalogue's edits made exactly, in scripts never seen",
    "coder_exact_other": "coder: the same with numbers that no idea proposes",
    "agent_valid": "policy: share of valid turns on tasks that do not exist",
}


def model_facts(lab: Lab) -> pd.DataFrame:
    """Return what is known of the model: for the pocket model the numbers of its card, else its size."""
    from mlagent_lib.training.backends import model_path
    from mlagent_lib.training.memory import parameters, shape_of

    facts = {"model": lab.profile.model, "coder": lab.profile.coder}
    if shape := shape_of(lab.profile.model):
        facts |= {"parameters": f"{sum(parameters(shape)):,}", "layers": shape.layers}
    measured = read_record(Path(model_path(lab.profile.model)) / "measured.json")
    known = {text: measured[name] for name, text in MEASURED.items() if measured.get(name) is not None}
    return _facts(facts | {text: f"{value:,.4g}" for text, value in known.items()})


def counted_tokens(lab: Lab, row: Mapping) -> tuple[Shown, str]:
    """Return one SFT row with the tokens marked that enter the loss, and the text of these alone.

    The labels are made as TRL's trainer makes them: the tokens of the prompt get −100, which the loss skips.
    """
    from mlagent_lib.training.backends import load_tokenizer, model_path

    tokenizer = load_tokenizer(model_path(lab.profile.model))
    options = {"tokenize": True, "return_dict": False}
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, **options)
    whole = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], **options)
    read, counted = (tokenizer.decode(part) for part in (whole[: len(prompt)], whole[len(prompt) :]))
    title = f"{len(prompt)} tokens are read, {len(whole) - len(prompt)} count"
    body = f'<span class="mla-quiet">{escape(read)}</span><span class="mla-counts">{escape(counted)}</span>'
    page = f'<p>{title}</p><pre class="mla-pre mla-wrap" style="padding:8px 12px">{body}</pre>'
    return _shown(page, f"{title}\n{read}[{counted}]"), counted


def loss_curve(lab: Lab, rows: Sequence[Mapping]):
    """Return the figure of the SFT loss over updates, saved as ``figures/sft_loss``."""
    table = for_figure(lab, pd.DataFrame(rows)[["step", "loss"]])
    with styled():
        figure = new_figure(6.2, 3.0)
        axis = figure.subplots()
        axis.plot(table["step"], table["loss"], **look("sft").mark, ms=3.5, lw=1.8)
        axis.set(xlabel="update step", ylabel="loss (nats per counted token)", ylim=(0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
        footer(figure, table, "each mark: mean since the one before")
    put(lab.run_dir / "figures", figure_files("sft_loss", figure, table))
    return figure


@tabled("policy", "states", "actions", "unscored", "validity", "edited", "reward")
def step_table_of(steps: pd.DataFrame) -> Rows:
    """Return validity and mean reward for each policy over single steps from held-back states.

    ``validity`` and ``edited`` are shares of the scored; in ``reward`` every task weighs the same.
    """
    for policy, part in steps.groupby("policy", sort=False):
        scored = part[part["outcome"] != "unscored"]
        counts = (part["state"].nunique(), len(part), len(part) - len(scored))
        shares = ((scored["outcome"] != "invalid").mean(), (scored["outcome"] == "edited").mean())
        yield policy, *counts, *shares, scored.groupby("task")["reward"].mean().mean()


@tabled()
def coder_table(table: pd.DataFrame) -> Rows:
    """Return the coder's results by task, and for all: edits, exact, other script, refused, share exact."""
    for name, part in [("all", table), *table.groupby("task", sort=False)]:
        counts = {case: int((part["result"] == case).sum()) for case in ("exact", "other", "refused")}
        share = float((part["result"] == "exact").mean())
        yield {"task": name, "edits": len(part), **counts, "share exact": share}


def coder_sentence(table: pd.DataFrame) -> str:
    """Return how many edits the coder made exactly as asked, or why that is not known."""
    made, edits = table["share exact"].iloc[0], table["edits"].iloc[0]
    if not edits:
        return "How well the coder edits is not known: no task has a catalogue of exact edits."
    return f"The coder made {made:.1%} of {edits} edits exactly as asked."


def reward_difference(steps: pd.DataFrame, after: str, before: str) -> Interval:
    """Return the paired difference in step reward of two policies, over states that both met."""
    return paired_difference(steps, after, before, "reward", unit="state")


def verdict_word(found: Interval) -> str:
    """Return what a 95 % interval says about a difference, in words."""
    return VERDICTS[found.verdict]


def learning_curve(lab: Lab, rows: Sequence[Mapping]) -> pd.DataFrame:
    """Return the table of the figure ``learning_curve``."""
    return for_figure(lab, learning_curve_table({lab.seed: rows}))


@tabled("part", "seconds", "share")
def time_table(rows: Sequence[Mapping]) -> Rows:
    """Return where the seconds of training went, and how many executions were known already."""
    frame = pd.DataFrame([row for row in rows if row["split"] == "train"])
    total, known = frame["seconds_total"].sum(), frame["cache_hits"].sum() / max(frame["executions"].sum(), 1)
    parts = {name: frame[f"seconds_{name}"].sum() for name in ("generation", "execution", "update")}
    yield from ((name, value, value / total) for name, value in parts.items())
    yield "executions that were known already", None, known


# 07 to explore


def ranked(lab: Lab, policy: str, number: int) -> tuple[pd.DataFrame, str]:
    """Return the evaluated trajectories of a policy, best first, and the name of the one of that number.

    Args:
        number: 0 is the median one (see `median_trajectory`), 1 the next better, -1 the next worse; it is the
            index of the table.

    Raises:
        ProfileError: The policy has none, or not so many.
        RunError: The run was not evaluated.
    """
    policy, number = checked("policy", policy, "rl"), checked("number", number, 0)
    table = run_table(lab, "04_evaluation/trajectories.csv")
    own = table[table["policy"] == policy].sort_values(["gap_closed", "trajectory"], ascending=[False, True])
    if own.empty:
        known = ", ".join(table["policy"].unique())
        raise ProfileError(f"policy is {policy!r}, which was not evaluated", cure=f"choose one of {known}")
    middle = own["trajectory"].tolist().index(median_trajectory(own, policy))
    own = own.set_axis(middle - np.arange(len(own)))
    if number not in own.index:
        told = f"{policy} has {len(own)} trajectories, numbered {own.index[-1]} to {own.index[0]}"
        raise ProfileError(f"number is {number}, and {told}", cure="choose one of them")
    return own, own["trajectory"].loc[number]
