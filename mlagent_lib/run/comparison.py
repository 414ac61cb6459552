"""The paper beside a run: its numbers, ours, what a run of this size can say, and where we differ.

The paper's numbers lie in ``results/paper/``, the deviations in ``results/deviations.csv``. A verdict is
computed from the files of the run by the judge of all claims: one run alone has too few seeds for any.
"""

from __future__ import annotations

import pandas as pd

from mlagent_lib.core.artifacts import Stage
from mlagent_lib.core.files import read_jsonl
from mlagent_lib.results.claims import claim_table
from mlagent_lib.results.paper.numbers import paper_table
from mlagent_lib.results.steps import curve_rows
from mlagent_lib.results.style import ends
from mlagent_lib.results.tabled import Rows, tabled
from mlagent_lib.run.lab import Lab
from mlagent_lib.run.notebook_tables import RESULTS
from mlagent_lib.run.stages import write_table

_SAME = {"base": "Qwen2.5-7B-Instruct", "sft": "after SFT", "rl": "after step-wise RL"}
_ABLATED = {  # rows of v2 Table 2, by the name they have beside a run
    "full": "after step-wise RL",
    "without exploration-enriched SFT": "RL without SFT",
    "without step-wise RL": "after episode-wise RL",
    "without the ML-specific reward": "RL with a binary reward",
}


_HEADLINE = (
    *("split", "policy", "paper_policy", "paper_gain_pct", "our_gain_pct", "interval", "gap_closed"),
    *("gap_kept", "trajectories", "tasks", "source"),
)


def paper_numbers() -> pd.DataFrame:
    """Return what a run is compared with: task, split, metric, better, method, statistic, value, source.

    Table 1, ML-Agent's gains and the starting scores by task, and the average gains (task ``all``) of v1
    Figure 4 and v2 Table 2. ``better`` is the direction of the metric. All numbers of the paper, and how each
    was read, are in `mlagent_lib.results.paper.numbers`.

    Example:
        >>> found = paper_numbers().query("task == 'cifar-10' and method == 'ML-Agent'")
        >>> found = found.set_index("statistic").loc["avg@8"]
        >>> float(found["value"]), found["source"]
        (68.88, 'v1 Table 1')
    """
    by_task = paper_table(topic=["main", "initial"]).query("task != 'all'")
    better = by_task.query("quantity == 'avg@8'").drop_duplicates("task").set_index("task")["better"]
    by_task["better"] = by_task["task"].map(better)
    lines, ablated = paper_table(topic="baseline-lines"), paper_table(topic="components")
    ablated["method"] = ablated["method"].map(_ABLATED)
    start = paper_table("gain", topic="rl-curve", method="step-wise RL").query("x == 0")
    table = pd.concat([by_task, lines, start.assign(method="after SFT"), ablated], ignore_index=True)
    table["statistic"] = table["quantity"].replace("initial score", "score")
    how = {"printed": "", "digitised": ", read off the figure", "derived": ", derived"}
    table["source"] = table["version"] + " " + table["place"] + table["source_kind"].map(how)
    return table[["task", "split", "metric", "better", "method", "statistic", "value", "source"]]


def deviations() -> pd.DataFrame:
    """Return where the method here differs from the paper's: number, what, paper, here, why, notebooks."""
    return pd.read_csv(RESULTS / "deviations.csv", dtype=str)


@tabled(*_HEADLINE)
def headline(overall: pd.DataFrame) -> Rows:
    """Return the average gains of the paper, with their source, beside those of a run.

    ``gap_kept`` is that of the submission that was best on validation.
    """
    paper = paper_numbers().query("task == 'all'").set_index(["method", "split"])
    for row in overall[overall["split"] != "all"].itertuples():
        method = _SAME.get(row.policy)
        known = paper.loc[(method, row.split)] if method else None
        paid = (None, "") if known is None else (float(known["value"]), known["source"])
        gain = (row.gain_pct, ends(row.gain_low, row.gain_high, 1))
        ours = (*gain, row.gap_closed, row.gap_kept, row.trajectories, row.tasks)
        yield row.split, row.policy, method or "–", paid[0], *ours, paid[1]


@tabled()
def per_task(tasks: pd.DataFrame) -> Rows:
    """Return each task of the paper's Table 1 beside the task that stands in for it here."""
    wide = paper_numbers().query("task != 'all' and method in ('ML-Agent', 'initial script')")
    wide = wide.pivot_table(index=["task", "metric"], columns="statistic", values="value", sort=False)
    ours = tasks[tasks["policy"] == "rl"].set_index("paper_task")
    for row in wide.reset_index().to_dict("records"):
        mine = [name for name in ours.index if str(name).startswith(row["task"])]
        found = ours.loc[mine[0]] if mine else {}
        line = {"paper's task": row["task"], "metric": row["metric"], "start": row["score"]}
        line |= {"avg@8": row["avg@8"], "gain %": row["gain"]}
        line |= {"our task": found.get("task", "not in this profile"), "our start": found.get("init")}
        yield line | {"our avg@K": found.get("avg_at_k"), "our gain %": found.get("gain_pct")}


def compare(lab: Lab, stage: Stage) -> None:
    """Write the comparison with the paper: headline, tasks and claims, from the files of the run."""
    overall, tasks, trajectories = (
        pd.read_csv(stage.read(f"04_evaluation/{name}.csv")) for name in ("overall", "tasks", "trajectories")
    )
    steps = pd.read_csv(stage.read("03_grpo/step_rewards.csv"))
    curves = curve_rows(read_jsonl(stage.read("03_grpo/metrics.jsonl"))[0], lab.seed)
    write_table(stage, "headline.csv", headline(overall))
    write_table(stage, "per_task.csv", per_task(tasks))
    tables = {"trajectories": trajectories, "step_rewards": steps, "curves": curves}
    write_table(stage, "claims.csv", claim_table(tables))
    write_table(stage, "deviations.csv", deviations())
