"""Does an agent read? What every action was, and measures that a policy of one sentence cannot pass.

A policy that closes much of the gap may do so by saying one good sentence everywhere. What it chooses then
tells nothing about the task or the state, so the mutual information between them is that of chance. Chance is
measured by permutation: for the task, whole trajectories are dealt out to the tasks anew; for the state, the
edits of one task at one step are dealt out to its trajectories anew. Both keep whatever a policy does by
habit or by counting its steps.

Families of edits are those of the catalogue, whatever the numbers and the wording; a policy's favourite is
the family that it asks for most often. The state is how the last step went and which blocks of the script
have been changed by then. To take an edit back is no edit and has no family: how often that follows on a step
that hurt, and on one that helped, is told beside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import product
from math import nan

import numpy as np
import pandas as pd

from mlagent_lib.agents.replies import trend_of, trend_said
from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.actions import UNDO
from mlagent_lib.environment.workspace import State
from mlagent_lib.results.evaluation import BOUND, TaskScale, gap_closed
from mlagent_lib.results.intervals import bootstrap_mean
from mlagent_lib.results.steps import FAILED, outcome_of
from mlagent_lib.results.tabled import Rows, tabled
from mlagent_lib.tasks.pocket.catalogue import AXES, KINDS, MODALITIES, family_of, read_block
from mlagent_lib.tasks.task import Task

DRAWS = 200  # permutations behind each null
ACTION_COLUMNS = (
    "policy", "seed", "task", "split", "trajectory", "step", "kind", "outcome", "family", "edit", "state",
    "agrees",
)  # fmt: skip
READING_COLUMNS = (
    "policy", "seed", "actions", "edits", "distinct", "share", "family_share", "unchanged", "undone",
    "undone_worse", "undone_better", "task_information", "task_chance", "task_chance_high",
    "state_information", "state_chance", "state_chance_high", "reflections", "agrees", "gap_first",
    "gap_last", "commonest",
)  # fmt: skip


def action_table(rows: Iterable[Mapping], task_of: Callable[[str], Task]) -> pd.DataFrame:
    """Return one line for each scored action of trajectories.

    Args:
        rows: Rows of ``trajectories.jsonl``, with the states of their steps.

    Returns:
        Columns `ACTION_COLUMNS`: ``kind`` is ``favourite``, ``other`` (an edit), ``unchanged``, ``undone``
        (an edit taken back), ``no edit`` (a look or the end) or ``failed``; ``family`` and ``edit`` are of
        what was asked for, "" without an edit; ``agrees`` says whether the reply's reflection is true, 1 or
        0, NaN where it says nothing that we know.
    """
    table = []
    for row in rows:
        task, first, place = task_of(row["task"]), None, row["id"].rpartition("/")[2]
        for step in row["steps"]:
            outcome = outcome_of(step)
            state = State.from_json(step["state"])
            first = first or state
            if outcome == "unscored":
                continue
            undone = step.get("action") == UNDO
            edit = UNDO if undone else (step.get("action_input") or {}).get("edit_instruction", "")
            family = UNDO if undone else _family(edit, task.modality, task.kind) if edit else ""
            trend, said = trend_of(state, task.greater_is_better), trend_said(step["reply"])
            agrees = nan if said is None else float(said == trend)
            where = (row["source"], row.get("seed", 0), row["task"], row["split"], place, step["step"])
            known = (outcome, family, edit, f"{trend}{_changed(first, state, task.starter)}", agrees)
            table.append((*where, "", *known))
    return _with_kinds(pd.DataFrame(table, columns=list(ACTION_COLUMNS)))


@cache
def _family(edit: str, modality: str, kind: str) -> str:
    """Return the family of an edit; where the task's catalogue lacks it, that of another: it was said."""
    own = [(modality, kind)] if modality in MODALITIES and kind in KINDS else []
    catalogues = [*own, *product(MODALITIES, KINDS)]
    return next((found for one in catalogues if (found := family_of(edit, *one))), "other")


WORDINGS = ("its catalogue", "another catalogue", "no catalogue")


def wording_table(actions: pd.DataFrame, task_of: Callable[[str], Task]) -> pd.DataFrame:
    """Return what became of edits by whether a catalogue knows their wording (``wordings.csv``).

    Args:
        actions: An `action_table`.

    Returns:
        Columns policy, seed, split, wording (one of `WORDINGS`: its own, only that of another kind of task,
        or none knows it), outcome, count.
    """
    edits = _edits(actions)
    tasks, wordings = {name: task_of(name) for name in edits["task"].unique()}, []
    for row in edits.itertuples():
        task = tasks[row.task]
        own = task.modality in MODALITIES and task.kind in KINDS
        is_own = own and family_of(row.edit, task.modality, task.kind)
        wordings.append(WORDINGS[0] if is_own else WORDINGS[2] if row.family == "other" else WORDINGS[1])
    names = ["policy", "seed", "split", "wording", "outcome"]
    edits = edits.assign(wording=pd.Series(wordings, edits.index, dtype=object))
    return edits.groupby(names, sort=False).size().rename("count").reset_index()


def _edits(actions: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of an `action_table` that ask for an edit; to take one back is none."""
    return actions[~actions["edit"].isin(["", UNDO])]


def _changed(first: State, state: State, script: str) -> str:
    """Return which blocks of the script are not the starter's, or whether it is another where it has none."""
    before, after = (one.files.get(script, b"").decode(errors="replace") for one in (first, state))
    try:
        return "".join(f" {axis}" for axis in AXES if read_block(before, axis) != read_block(after, axis))
    except ValueError:
        return " changed" * (before != after)


def _with_kinds(df: pd.DataFrame) -> pd.DataFrame:
    asked = _edits(df).groupby(["policy", "seed"])["family"]
    favourite = asked.agg(lambda said: said.value_counts().index[0]).rename("favourite").reset_index()
    favourite = df[["policy", "seed"]].merge(favourite, how="left")["favourite"].to_numpy()
    kind = np.where(df["family"] == favourite, "favourite", "other")
    kind = np.where(df["edit"] == "", "no edit", kind)
    kind = np.where(df["outcome"] == "unchanged", "unchanged", kind)
    kind = np.where(df["edit"] == UNDO, "undone", kind)
    return df.assign(kind=np.where(df["outcome"].isin(FAILED), "failed", kind))


def field_table(actions: pd.DataFrame) -> pd.DataFrame:
    """Return what the figure ``action_field`` needs: SFT beside RL, the first seed alone."""
    shown = actions[actions["policy"].isin(["sft", "rl"]) & (actions["seed"] == actions["seed"].min())]
    return shown[["policy", "seed", "task", "split", "trajectory", "step", "kind"]]


def mutual_information(one: Sequence, other: Sequence) -> float:
    """Return the mutual information of two columns of labels, in nats, from their counts.

    Example:
        One of two that tells the other, and one that is always the same:

        >>> round(mutual_information(["a", "b"], [1, 2]), 4), mutual_information(["a", "a"], [1, 2])
        (0.6931, 0.0)
    """
    rows, columns = (np.unique(np.asarray(labels), return_inverse=True)[1] for labels in (one, other))
    counts = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(counts, (rows, columns), 1)
    shares = counts / counts.sum()
    alone = shares.sum(axis=1, keepdims=True) * shares.sum(axis=0, keepdims=True)
    seen = shares > 0
    return abs(round(float((shares[seen] * np.log(shares[seen] / alone[seen])).sum()), 12))  # no −1e-17


def given(one: np.ndarray, other: np.ndarray, known: np.ndarray) -> float:
    """Return the mutual information of two columns given a third: its mean over the third, in nats.

    Example:
        Half of the rows tell all of two equal values, the others nothing: log(2) / 2.

        >>> one, known = np.array(["a", "b", "a", "b"]), np.array(["x", "x", "y", "y"])
        >>> round(float(given(one, np.array([1, 2, 1, 1]), known)), 6)
        0.346574
    """
    parts = [np.flatnonzero(known == value) for value in np.unique(known)]
    return sum(len(at) * mutual_information(one[at], other[at]) for at in parts) / len(known)


def task_information(edits: pd.DataFrame, stream: np.random.Generator, draws: int = DRAWS) -> list[float]:
    """Return what the edits of one policy tell about their task, in nats, and median and 95 % of chance.

    Args:
        edits: Rows of an `action_table` with a family.
        stream: For the permutations, in which whole trajectories change their task.
    """
    trajectory = pd.factorize(edits["task"] + "/" + edits["trajectory"].astype(str))[0]
    families, tasks = (pd.factorize(edits[name])[0] for name in ("family", "task"))
    owners = np.zeros(trajectory.max() + 1, dtype=int)
    owners[trajectory] = tasks
    chance = [mutual_information(families, stream.permutation(owners)[trajectory]) for _ in range(draws)]
    return [mutual_information(families, tasks), *np.quantile(chance, [0.5, 0.95])]


def state_information(edits: pd.DataFrame, stream: np.random.Generator, draws: int = DRAWS) -> list[float]:
    """Return what the edits of one policy tell about the state given the task, and what chance gives.

    The arguments are those of `task_information`; here edits of one task at one step change places.
    """
    families, states, tasks = (pd.factorize(edits[name])[0] for name in ("family", "state", "task"))
    cell = pd.factorize(edits["task"] + "/" + edits["step"].astype(str))[0]
    order, chance = np.argsort(cell, kind="stable"), []
    for _ in range(draws):
        dealt = np.empty_like(families)
        dealt[order] = families[np.lexsort((stream.random(len(cell)), cell))]
        chance.append(given(dealt, states, tasks))
    return [given(families, states, tasks), *np.quantile(chance, [0.5, 0.95])]


@tabled("policy", "seed", "task", "split", "trajectory", "step", "gap")
def gap_paths(rows: Iterable[Mapping], scales: Mapping[str, TaskScale], steps: int) -> Rows:
    """Return the bounded share of the gap closed after each step, 1 to ``steps``, on the report labels.

    A trajectory that ends early keeps what it has; one that we failed to score is left out.
    """
    for row in rows:
        final = row.get("final") or {}
        path = final.get("report_path")
        if not path or final.get("stop") == "unscored" or None in path:
            continue
        scale = scales[row["task"]]
        own = (row["source"], row.get("seed", 0), row["task"], scale.split, row["id"])
        for step in range(1, steps + 1):
            score = path[min(step, len(path) - 1)]
            yield *own, step, max(BOUND, gap_closed(score, scale.init, scale.best))


@tabled("policy", "split", "step", "value", "low", "high", "n", "tasks", "seeds")
def gap_by_step_table(paths: pd.DataFrame, *, draws: int = 500) -> Rows:
    """Return the mean gap closed after each step of `gap_paths`, with its interval; tasks weigh the same."""
    for (policy, split, step), part in paths.groupby(["policy", "split", "step"], sort=False):
        at = bootstrap_mean(part, "gap", draws=draws)
        yield policy, split, step, at.value, at.low, at.high, at.n, at.tasks, at.seeds


@tabled(*READING_COLUMNS)
def reading_table(actions: pd.DataFrame, paths: pd.DataFrame, *, root: int = 0) -> Rows:
    """Return the measures of reading: one line for each policy that edits and each seed (``reading.csv``).

    Args:
        actions: An `action_table`.
        paths: See `gap_paths`.

    Returns:
        Columns `READING_COLUMNS`: counts of actions, edits and distinct edits; ``share``, the part of the
        edits that ask for the ``commonest`` one, ``family_share`` those of its favourite family;
        ``unchanged``, the part of the actions that are edits which leave the script as it was, ``undone``
        those that take an edit back, ``undone_worse`` and ``undone_better`` the part of it after a step that
        made the printed metric worse or better; what an edit's family tells about the task, and about the
        state given the task, in nats, each beside median and 95 % of chance; ``agrees``, the part of the
        ``reflections`` that are true; the gap closed after the first and after the last step.
    """
    for (policy, seed), own in actions.groupby(["policy", "seed"], sort=False):
        edits, undone = _edits(own), own["edit"] == UNDO
        if edits.empty:
            continue
        counts, families = edits["edit"].value_counts(), edits["family"].value_counts()
        trend = own["state"].str.split().str[0]
        taken = (undone.mean(), *(undone[trend == how].mean() for how in ("worse", "better")))
        idle = (own["outcome"] == "unchanged").mean()
        shares = (counts.iloc[0] / len(edits), families.iloc[0] / len(edits), idle, *taken)
        of_task, of_state = (
            measure(edits, rng(root, "reading", name, policy, int(seed)))
            for name, measure in (("task", task_information), ("state", state_information))
        )
        path = paths[(paths["policy"] == policy) & (paths["seed"] == seed)]
        means = path.groupby(["step", "task"])["gap"].mean().groupby("step").mean()
        ends = (means.iloc[0], means.iloc[-1]) if len(means) else (nan, nan)
        reflections = (own["agrees"].count(), own["agrees"].mean())
        known = (policy, seed, len(own), len(edits), len(counts), *shares, *of_task, *of_state)
        yield *known, *reflections, *ends, counts.index[0]


def reading_sentence(reading: pd.DataFrame) -> str:
    """Return the measures after RL as a sentence, the mean over the seeds; "" where there are none."""
    own = reading[reading["policy"] == "rl"]
    if own.empty:
        return ""
    at, told = own.mean(numeric_only=True), []
    for what in ("task", "state"):
        value, chance, high = (at[f"{what}_{name}"] for name in ("information", "chance", "chance_high"))
        word = "more than" if value > high else "no more than"
        told.append(f"{word} chance ({value:.2f} nats; chance {chance:.2f}, 95 % of it below {high:.2f})")
    agrees = "" if np.isnan(at["agrees"]) else f" Of the reflections {at['agrees']:.0%} are true."
    undone = ""
    if at.get("undone", 0.0) > 0:
        undone = (
            f", {at['undone']:.0%} take one back: {at['undone_worse']:.0%} of those after a step that hurt "
            f"by the printed metric, {at['undone_better']:.0%} of those after one that helped"
        )
    return (
        f"After RL: the commonest edit makes {at['share']:.0%} of the edits, its favourite family "
        f"{at['family_share']:.0%}; {at['unchanged']:.0%} of the actions are edits that change "
        f"nothing{undone}. An edit's family tells about the task {told[0]}, and about the state given the "
        f"task {told[1]}. Gap closed after the first step {at['gap_first']:.2f}, after the last "
        f"{at['gap_last']:.2f}.{agrees}"
    )
