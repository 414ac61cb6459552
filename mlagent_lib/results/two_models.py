"""A pretrained model beside the pocket model: on the same states, tasks and seeds, from committed results.

Both folders are of `mlagent figures --runs`. Seeds that only one of them has are left out, and so are states
that only one was tested on, so that a number differs by the model and by its profile's constants alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd

from mlagent_lib.core.errors import RunError
from mlagent_lib.core.profiles import get_profile
from mlagent_lib.results.arms import manifest_of
from mlagent_lib.results.evaluation import HELD, contrast, mean_of, overall_table
from mlagent_lib.results.reading import WORDINGS
from mlagent_lib.results.style import ends, look, number

READ = ("trajectories", "step_rewards", "reading", "wordings", "grpo_metrics")
OWN = ("base", "sft", "rl")  # the policies that are the model
FEW_STATES = 10  # ours: what single steps pay is not told of fewer states that both models were tested on
BESIDE = ("rl", "sft"), ("rl", "fixed-edit"), ("rl", "random-kept")


def load_both(folders: Sequence[Path]) -> dict[str, pd.DataFrame]:
    """Return the tables of two folders of results in one, by name, with a column ``model``.

    Raises:
        RunError: A folder has no results, or they have no seed in common.
    """
    found: dict[str, list[pd.DataFrame]] = {name: [] for name in (*READ, "stages")}
    for folder in folders:
        if not (folder / "manifest.json").is_file():
            cure = "make them with 'mlagent figures --runs RUN --folder'"
            raise RunError(f"{folder} has no results of runs", cure=cure)
        manifest = manifest_of(folder)
        model = get_profile(manifest["profile"]).model
        for name in READ:
            found[name].append(pd.read_csv(folder / f"{name}.csv").assign(model=model))
        rows = [stage for stages in manifest["runs"].values() for stage in stages.values()]
        found["stages"].append(pd.DataFrame(rows).assign(model=model))
    seeds = set.intersection(*(set(table["seed"]) for table in found["trajectories"]))
    if not seeds:
        raise RunError("the two folders have no seed in common", cure="publish runs of the same seeds")
    tables = {name: pd.concat(parts, ignore_index=True) for name, parts in found.items()}
    tables = {name: table[table["seed"].isin(seeds)] for name, table in tables.items()}
    rewards = tables["step_rewards"]
    shared = rewards.groupby(["seed", "state"])["model"].transform("nunique") == rewards["model"].nunique()
    return tables | {"step_rewards": rewards[shared]}


def gap_table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return what the figure ``gap_by_policy`` draws: the own policies of both models, and the fixed edit."""
    found = [
        _named(overall_table(rows[rows["policy"].isin(OWN)]), model)
        for model, rows in tables["trajectories"].groupby("model", sort=False)
    ]
    rows = tables["trajectories"]
    fixed = rows[(rows["policy"] == "fixed-edit") & (rows["model"] == rows["model"].iloc[0])]
    return pd.concat([*found, overall_table(fixed)], ignore_index=True)


def _named(rows: pd.DataFrame, model: str) -> pd.DataFrame:
    return rows.assign(policy=[f"{model}: {look(name).label}" for name in rows["policy"]])


def beside_table(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return what both models did, a line for each question: columns question, and one for each model."""
    models = list(dict.fromkeys(tables["trajectories"]["model"]))
    answers = {model: _answers({k: v[v["model"] == model] for k, v in tables.items()}) for model in models}
    return pd.DataFrame(answers).rename_axis("question").reset_index()


def _answers(own: dict[str, pd.DataFrame]) -> dict[str, str]:
    found, steps = {"seeds": str(own["trajectories"]["seed"].nunique())}, own["step_rewards"]
    valid = (steps["outcome"] != "invalid").groupby(steps["policy"]).mean()
    states = steps.groupby("seed")["state"].nunique().sum()
    question = f"valid replies on {states} states never trained on: SFT, RL"
    if states >= FEW_STATES:
        found[question] = _pair(f"{valid[policy]:.0%}" for policy in OWN[1:])
        told = (mean_of(steps, policy, "reward") for policy in OWN[1:])
        found["mean step reward there: SFT, RL"] = _pair(map(_ends, told))
    for split in HELD:
        means = (mean_of(own["trajectories"], policy, "gap", split) for policy in OWN)
        found[f"gap closed, {split}: base, SFT, RL"] = _pair(map(_ends, means))
        for after, before in BESIDE:
            pair = contrast(own["trajectories"], after, before, "gap", split)
            found[f"gap closed, {split}: RL − {look(before).label}"] = _ends(pair and pair[0])
    for what in ("task", "state"):
        found[f"nats that an edit tells about the {what} (95 % of chance): SFT, RL"] = _pair(
            f"{number(row[f'{what}_information'])} ({number(row[f'{what}_chance_high'])})"
            for row in _read(own)
        )
    for name, words in {
        "share": "commonest edit", "unchanged": "actions that change nothing", "agrees": "true reflections",
    }.items():  # fmt: skip
        found[f"{words}: SFT, RL"] = _pair(f"{row[name]:.0%}" for row in _read(own))
    for wording in WORDINGS[1:]:
        found[f"edits in words of {wording}: SFT, RL"] = _pair(
            _wording(own, name, wording) for name in OWN[1:]
        )
    updates = own["grpo_metrics"].query("split == 'train'")
    replies, tokens = updates["steps"].sum(), (updates["completion_tokens"] * updates["steps"]).sum()
    found["RL: replies, tokens of a reply"] = f"{replies:,.0f}, {tokens / replies:.0f}"
    runs = own["trajectories"]["seed"].nunique()
    found["RL: processor hours charged, each run"] = f"{updates['seconds_charged'].sum() / 3600 / runs:.2f}"
    hours = own["stages"]["wall_s"].sum() / 3600 / runs
    peak = own["stages"]["peak_memory_bytes"].max() / 1e9
    found["wall hours of a run (of a killed stage, the last attempt); peak memory of a notebook"] = (
        f"{hours:.2f}; {peak:.1f} GB"
    )
    return found


def _read(own: dict[str, pd.DataFrame]) -> list[pd.Series]:
    means = own["reading"].groupby("policy").mean(numeric_only=True)
    return [means.loc[name] for name in OWN[1:]]


def _wording(own: dict[str, pd.DataFrame], policy: str, wording: str) -> str:
    rows = own["wordings"].query("policy == @policy")
    part = rows[rows["wording"] == wording].groupby("outcome")["count"].sum().sort_values(ascending=False)
    became = ", ".join(f"{count} {look(outcome).label}" for outcome, count in part.items())
    if rows.empty:
        return "–"
    return f"{part.sum() / rows['count'].sum():.0%}" + (f" ({became})" if became else "")


def _pair(values) -> str:
    return ", ".join(values)


def _ends(found) -> str:
    return f"{number(found.value)} {ends(found.low, found.high)}".rstrip() if found else "–"


def sentences(tables: dict[str, pd.DataFrame]) -> list[str]:
    """Return what pretraining changes, by intervals: each policy of the one model against the other's."""
    first, second = dict.fromkeys(tables["trajectories"]["model"])
    rows, told = tables["trajectories"], []
    rows = rows[rows["policy"].isin(OWN)].assign(policy=rows["model"] + " " + rows["policy"])
    for split, policy in product(HELD, OWN):
        pair = contrast(rows, f"{second} {policy}", f"{first} {policy}", "gap", split)
        if pair:
            said = {
                "above": f"{second} closes more of the gap than {first}",
                "below": f"{second} closes less of the gap than {first}",
            }.get(pair[0].verdict, f"{second} and {first} cannot be told apart")
            told.append(f"{look(policy).label}, {split}: {said} ({_ends(pair[0])}).")
    return told
