"""The paper's numbers, read from the files beside this module, and what follows from them by arithmetic.

One number is one row, with the version and the place that print it, its error where it was read off a figure,
and ``derived`` where it is our arithmetic. Nothing here is measured by this kit. Where a function takes a
``table``, another table of numbers with the columns of `paper_table` may stand in place of the paper's.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pandas as pd

from mlagent_lib.core.errors import MlagentError
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.results.evaluation import SPLITS, relative_gain_pct
from mlagent_lib.results.tabled import Rows, tabled
from mlagent_lib.reward import step_reward

FOLDER = Path(__file__).parent
FILES = ("main_table", "curves", "ablations", "costs", "setup")
COLUMNS = (
    "topic", "version", "place", "quantity", "item", "method", "scaffold", "task", "split", "metric",
    "better", "x", "x_unit", "value", "unit", "spread", "decimals", "error", "source_kind", "note",
)  # fmt: skip
NUMERIC = ("x", "value", "spread", "error")
TEXTS = tuple(name for name in COLUMNS if name not in (*NUMERIC, "decimals"))


def paper_table(quantity: str | list[str] | None = None, **filters: str | list[str]) -> pd.DataFrame:
    """Return the paper's numbers, one a row, with the columns `COLUMNS`.

    Texts are empty where they do not apply. ``better`` is the direction of ``value``, ``spread`` the standard
    deviation over 8 trajectories (gains of v2), ``decimals`` the digits after the point as printed, ``error``
    the error of reading a figure (0 where printed), ``source_kind`` one of printed, digitised, derived.
    ``value`` is missing only where the paper prints N/A.

    Args:
        quantity: One value of the column or several: ``avg@8``, ``best@8``, ``best@K``, ``gain``, ``cost``...
        **filters: The same for any other column of text: ``topic="rl-curve"``, ``split="held-in"``...

    Raises:
        MlagentError: A column or a value of it is unknown, or a file of the package is missing or damaged.

    Example:
        >>> found = paper_table("avg@8", topic="main", task="cifar-10", method="ML-Agent")
        >>> [(row.place, row.value) for row in found.itertuples()]
        [('Table 1', 68.88)]
        >>> len(paper_table(topic="main", place="Table 1"))  # 13 tasks, 6 methods, avg and best
        156
    """
    return select(None, quantity, **filters)


def select(table: pd.DataFrame | None, quantity=None, **filters: str | list[str]) -> pd.DataFrame:
    """Return the rows of a table of numbers (None: the paper's) that pass every filter of `paper_table`."""
    table = _all_numbers() if table is None else table
    for column, wanted in ({"quantity": quantity} | filters).items():
        if wanted is None:
            continue
        if column not in TEXTS:
            cure = f"choose one of {', '.join(TEXTS)}"
            raise MlagentError(f"the paper's numbers have no text column {column!r}", cure=cure)
        wanted = [wanted] if isinstance(wanted, str) else list(wanted)
        known = set(table[column])
        for value in wanted:
            if value not in known:
                cure = f"with the filters before it, choose among {', '.join(sorted(known)) or 'nothing'}"
                raise MlagentError(f"no number of the paper here has {column} {value!r}", cure=cure)
        table = table[table[column].isin(wanted)]
    return table.reset_index(drop=True)


def paper_value(
    quantity: str, *, x: float | None = None, table: pd.DataFrame | None = None, **filters: str | list[str]
) -> float:
    """Return the one number of the paper that passes the filters.

    Args:
        quantity: As in `paper_table`.
        x: Value of the column ``x`` (an update, a number of trajectories or tasks), where a curve is meant.
        **filters: As in `paper_table`.

    Raises:
        MlagentError: Not exactly one row passes.

    Example:
        >>> paper_value("gain", topic="rl-curve", method="step-wise RL", split="held-out", x=39)
        16.26
    """
    found = select(table, quantity, **filters)
    if x is not None:
        found = found[found["x"] == x]
    if len(found) != 1:
        message = f"{len(found)} numbers of the paper have quantity {quantity!r}, x {x!r} and {filters}"
        raise MlagentError(message, cure="filter until one is left; paper_table shows them")
    return float(found["value"].iloc[0])


def peers_table() -> pd.DataFrame:
    """Return numbers that other projects state of themselves: cited, not measured here, never to be averaged.

    The columns are peer, reference, place, quantity, item, subset, cited (the number as text), unit, better,
    note. There is no column ``value``, and the numbers stay text: they are for a table that a person reads.

    Example:
        >>> found = peers_table().query("item == 'MLAB / gpt-4o'")
        >>> [(row.subset, row.cited, row.reference) for row in found.itertuples()][0]
        ('Lite, 22 competitions', '4.55', 'openai/mle-bench@783b15a')
    """
    return read_csv("peers")


@tabled("task", "split", "metric", "better", "derived", "low", "high", "stated")
def initial_scores(table: pd.DataFrame | None = None) -> Rows:
    """Return each task's starting score, which the paper does not print, from v1's average and v2's gain.

    v1 prints ML-Agent's avg@8 ``p`` and v2 its gain ``g`` in percent. By the gain's formula (v1 section 5.1)
    the starter's score is ``p / (1 + beta g / 100)``, beta = -1 where lower is better.

    Returns:
        ``low`` and ``high`` are the ends that the rounding of the two printed numbers leaves to ``derived``,
        ``stated`` is the value in ``main_table.csv``.

    Example:
        The accuracy of 68.88 on cifar-10 is 33.80 % above the start, and 68.88 / 1.338 = 51.48:

        >>> first = initial_scores().iloc[0]
        >>> first["task"], round(float(first["derived"]), 2), bool(first["low"] < 51.48 < first["high"])
        ('cifar-10', 51.48, True)
    """
    gain = select(table, "gain", topic="main", method="ML-Agent").set_index("task")
    stated = select(table, "initial score").set_index("task")["value"]
    for at in select(table, "avg@8", topic="main", method="ML-Agent").itertuples():
        beta, found = 1 if at.better == "higher" else -1, gain.loc[at.task]
        scores = [at.value + sign * half_digit(at) for sign in (-1, 0, 1)]
        ratios = [1 + beta * (found["value"] + sign * half_digit(found)) / 100 for sign in (-1, 0, 1)]
        ends = [score / ratio for score in scores for ratio in ratios]
        task = (at.task, at.split, at.metric, at.better)
        yield *task, scores[1] / ratios[1], min(ends), max(ends), stated[at.task]


@tabled("topic", "quantity", "method", "task", "split", "score", "gain", "error")
def gains(table: pd.DataFrame | None = None) -> Rows:
    """Return every avg@8 and best@8 of v1 as a relative gain over the starting score, in percent.

    Returns:
        Columns topic (main, reward, thought), quantity, method, task, split, score, gain, error (what the
        rounding of the score and of the starting score leaves open, in points of gain).

    Example:
        >>> found = gains().query("topic == 'main' and method == 'DeepSeek-R1' and task == 'cifar-10'")
        >>> round(float(found.query("quantity == 'avg@8'")["gain"].iloc[0]), 2)
        28.96
    """
    start = select(table, "initial score").set_index("task")
    for row in select(table, ["avg@8", "best@8"]).itertuples():
        init = start.loc[row.task]
        error = half_digit(row) + row.value / init["value"] * half_digit(init)
        gain = relative_gain_pct(row.value, init["value"], greater_is_better=row.better == "higher")
        own = (row.topic, row.quantity, row.method, row.task, row.split, row.value)
        yield *own, gain, 100 * error / init["value"]


@tabled("quantity", "method", "split", "gain", "error", "tasks")
def average_gains(table: pd.DataFrame | None = None) -> Rows:
    """Return the mean gain of each method of v1's main table over the held-in, the held-out and all tasks.

    Returns:
        Columns quantity, method, split, gain (percent), error (mean of the tasks' rounding errors), tasks.

    Example:
        The lines of v1 Figure 4 are these means of Table 1; DeepSeek-R1's were read off as 12.64 and 5.09:

        >>> found = average_gains().query("method == 'DeepSeek-R1' and quantity == 'avg@8'")
        >>> [(row.split, round(row.gain, 2), row.tasks) for row in found.itertuples()]
        [('held-in', 12.65, 3), ('held-out', 5.09, 10), ('all', 6.84, 13)]
    """
    found = gains(table).query("topic == 'main'")
    for (quantity, method), part in found.groupby(["quantity", "method"], sort=False):
        for split in SPLITS:
            kept = part if split == "all" else part[part["split"] == split]
            yield quantity, method, split, kept["gain"].mean(), kept["error"].mean(), len(kept)


def rl_curve(method: str = "step-wise RL", table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return a curve of v1 Figure 4: update, hours (of the GPUs), held_in and held_out (gain in percent).

    Args:
        method: ``step-wise RL`` (9 points) or ``episode-wise RL`` (3 points).

    Example:
        >>> rl_curve("episode-wise RL").to_dict("list")["hours"]
        [0.0, 5.47, 10.94]
    """
    found = select(table, topic="rl-curve", method=method)
    hours = found[found["quantity"] == "hours"].set_index("x")["value"]
    columns = {"hours": hours}
    for split in ("held-in", "held-out"):
        part = found[(found["quantity"] == "gain") & (found["split"] == split)]
        columns[split.replace("-", "_")] = part.set_index("x")["value"]
    return pd.DataFrame(columns).rename_axis("update").reset_index().astype({"update": int})


def hours_per_update(method: str = "step-wise RL", table: pd.DataFrame | None = None) -> float:
    """Return the GPU hours of one update, from the last point of a curve of v1 Figure 4.

    Example:
        >>> round(hours_per_update("episode-wise RL") / hours_per_update(), 1)
        23.8
    """
    last = rl_curve(method, table).iloc[-1]
    return float(last["hours"] / last["update"])


def complete_updates(states: int = 10_000, batch: int = 256) -> int:
    """Return how many whole batches the states make in one epoch: 39 with the paper's numbers.

    Example:
        >>> complete_updates()
        39
    """
    return states // batch


def reward_of_share(share_pct: float, form: str = "v1") -> float:
    """Return the reward of an edit that closes a share of the gap from m_init to m_best, in percent.

    Example:
        v1 pays sigmoid(1) for one hundredth of the gap: nearly a yes or no.

        >>> [round(reward_of_share(share), 3) for share in (1, 5)]
        [0.731, 0.993]
        >>> reward_of_share(5, form="v2")
        0.05
    """
    return step_reward(Outcome.EDITED, before=0.0, after=share_pct / 100, init=0.0, best=1.0, form=form)


@tabled("scaffold", "method", "derived", "low", "high", "printed")
def break_even(table: pd.DataFrame | None = None) -> Rows:
    """Return after how many trajectories training ML-Agent is cheaper than another agent.

    Source: v2's cost analysis: the one-time cost divided by the difference of the costs of a trajectory.

    Returns:
        ``low`` and ``high`` are the ends that the error of the two costs leaves to ``derived``.

    Example:
        322.81 / (0.202 - 0.0047) = 1636 trajectories of GPT-5 in MLAgentBench's scaffold; printed: 1633.

        >>> found = break_even().query("scaffold == 'MLAB' and method == 'GPT-5'").iloc[0]
        >>> round(float(found["derived"])), round(float(found["printed"]))
        (1636, 1633)
    """
    once = paper_value("one-time cost", item="total", table=table)
    costs = select(table, "cost", topic="cost").set_index(["scaffold", "method"])[["value", "error"]]
    ours = costs.loc[("", "ML-Agent")]
    for row in select(table, "break-even").itertuples():
        theirs = costs.loc[(row.scaffold, row.method)]
        saved, error = theirs["value"] - ours["value"], theirs["error"] + ours["error"]
        ends = (once / (saved + error), once / (saved - error))
        yield row.scaffold, row.method, once / saved, *ends, row.value


def half_digit(row) -> float:
    """Return half of the last digit of a number as printed."""
    return 0.5 * 10.0 ** -int(row.decimals)


def read_csv(name: str) -> pd.DataFrame:
    """Return a file beside this module as texts."""
    path = FOLDER / f"{name}.csv"
    if not path.is_file():
        message = f"the paper's numbers are incomplete: {path.name} is missing from the package"
        raise MlagentError(message, cure="install the kit again (pip install -e .)")
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@cache
def _all_numbers() -> pd.DataFrame:
    table = pd.concat([read_csv(name) for name in FILES], ignore_index=True)
    table["decimals"] = table["value"].str.partition(".")[2].str.len()
    for column in NUMERIC:
        filled = table[column].where(table[column] != "")
        try:
            table[column] = pd.to_numeric(filled)
        except ValueError as error:
            message = f"the paper's numbers are damaged: column {column}: {error}"
            raise MlagentError(message, cure="install the kit again (pip install -e .)") from error
    return table[list(COLUMNS)]
