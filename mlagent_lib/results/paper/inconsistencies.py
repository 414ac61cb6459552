"""Where the paper agrees with itself and where it does not, computed from its own numbers.

`checks` compares every pair of numbers that should be equal: two places that print one quantity, or a printed
number and the arithmetic that leads to it. `inconsistencies` returns the pairs that differ by more than
rounding and reading a figure can explain, and, in words, what no arithmetic shows.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from mlagent_lib.results.evaluation import HELD
from mlagent_lib.results.paper.numbers import (
    average_gains,
    break_even,
    complete_updates,
    gains,
    half_digit,
    hours_per_update,
    initial_scores,
    paper_value,
    read_csv,
    reward_of_share,
    rl_curve,
    select,
)

CHECK_COLUMNS = (
    "check", "version", "what", "first", "first_place", "second", "second_place", "difference", "tolerance",
    "agrees", "unit", "comment",
)  # fmt: skip
GAIN = "% of gain"
_ENDPOINT = "v1's figures end above the mean of the gains that Table 1 and v2's main table give"
_DRAW = "another draw of 8 trajectories, or another checkpoint, could explain it; the paper does not say"
Told = tuple[float, str, float]  # a number, where it is from, and what it leaves open on both sides


def checks(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return every comparison of two numbers of the paper that should be equal, one a row.

    Returns:
        Columns check (a family of comparisons), version, what, first and first_place (the number as printed),
        second and second_place (the other one, or what the arithmetic gives), difference (first − second),
        tolerance (rounding, and the error of reading a figure), agrees, unit, comment.

    Example:
        DeepSeek-R1's line in v1 Figure 4 is the mean of the gains that Table 1 implies:

        >>> found = checks().query("check == 'baseline lines' and what.str.contains('DeepSeek-R1')")
        >>> [(row.first, round(row.second, 2), row.agrees) for row in found.itertuples()]
        [(12.64, 12.65, True), (5.09, 5.09, True)]
    """
    families = (_starts, _lines, _endpoints, _agents, _re_expressed, _repeated, _ends, _costs, _setup, _draws)
    rows = [row for family in families for row in family(table)]
    return pd.DataFrame(rows, columns=list(CHECK_COLUMNS))


def inconsistencies(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return where the paper contradicts itself: computed from its numbers, or quoted where words are meant.

    Returns:
        Columns kind (``computed``, ``quoted``) and those of `checks` without ``agrees``. A quoted row has no
        two numbers to compare, so first, second, difference and tolerance are missing.

    Example:
        Both arms are said to be trained for 39 updates; the episode-wise curve ends after 2:

        >>> found = inconsistencies().query("what == 'updates of episode-wise RL'").iloc[0]
        >>> [float(found[name]) for name in ("first", "second", "difference")]
        [39.0, 2.0, 37.0]
    """
    found = checks(table)
    computed = found[~found["agrees"]].assign(kind="computed")
    quoted = pd.DataFrame([dict(row, kind="quoted") for row in _quoted(table)])
    names = ["kind", *(name for name in CHECK_COLUMNS if name != "agrees")]
    return pd.concat([computed, quoted], ignore_index=True)[names]


def _row(check: str, version: str, what: str, one: Told, two: Told, unit: str = GAIN, comment="") -> dict:
    """Return one comparison of two numbers; what both leave open is tolerated."""
    (first, here, open_here), (second, there, open_there) = one, two
    difference, tolerance = float(first) - float(second), float(open_here + open_there)
    agrees = abs(difference) <= tolerance + 1e-9
    values = (float(first), here, float(second), there, difference, tolerance, agrees, unit, comment)
    return dict(zip(CHECK_COLUMNS, (check, version, what, *values), strict=True))


def _told(row, scale: float = 1.0) -> Told:
    """Return a number as given; open is the error of reading it, or half of its last digit."""
    left_open = float(row.error) if row.source_kind == "digitised" else half_digit(row)
    return scale * row.value, f"{row.version} {row.place}", scale * left_open


def _exact(told: Told) -> Told:
    return *told[:2], 0.0


def _mean(part: pd.DataFrame, place: str) -> Told:
    return part["value"].mean(), place, sum(_told(row)[2] for row in part.itertuples()) / len(part)


def _starts(table: pd.DataFrame) -> Iterator[dict]:
    stated = select(table, "initial score").set_index("task")
    for row in initial_scores(table).itertuples():
        second = (row.derived, "v1 Table 1 and v2 main table", (row.high - row.low) / 2)
        yield _row("initial scores", "v1", row.task, _told(stated.loc[row.task]), second, row.metric)


def _lines(table: pd.DataFrame) -> Iterator[dict]:
    means = average_gains(table).query("quantity == 'avg@8'").set_index(["method", "split"])
    for row in select(table, topic="baseline-lines").itertuples():
        mean = means.loc[(row.method, row.split)]
        second = (mean["gain"], "v1 Table 1, as gains", mean["error"])
        yield _row("baseline lines", "v1", f"{row.method}, {row.split}", _told(row), second)


def _endpoints(table: pd.DataFrame) -> Iterator[dict]:
    """Compare every average of ML-Agent with the mean of its gains in v2's main table."""
    main = select(table, "gain", topic="main", method="ML-Agent")
    per_task = main.query("task != 'all'")
    last = [
        main.query("task == 'all'"),
        select(table, topic="components", method="full"),
        select(table, "gain", topic="rl-curve", method="step-wise RL").query("x == x.max()"),
        select(table, topic="rl-start", method="RL from ML-Agent-SFT"),
        select(table, topic="task-count").query("x == x.max()"),
    ]
    for row in pd.concat(last).itertuples():
        part = per_task if row.split == "all" else per_task[per_task["split"] == row.split]
        second = _mean(part, f"v2 main table, mean of {len(part)} gains")
        what = f"ML-Agent, {row.split} average ({row.topic})"
        comment = _ENDPOINT if row.version == "v1" and row.split == "held-out" else ""
        yield _row("averages of ML-Agent", row.version, what, _told(row), second, comment=comment)


def _agents(table: pd.DataFrame) -> Iterator[dict]:
    """Compare v2's averages of other agents with what v1 prints of the same agent and model."""
    check, scores, drawn = "agents in both versions", "v1 Table 1, as gains", "v1 Figure 3 times v2's gains"
    means = average_gains(table).query("quantity == 'avg@8' and split == 'all'").set_index("method")
    agents = select(table, topic="agents", task="all", split="all")
    for row in agents[(agents["scaffold"] == "MLAB") & agents["method"].isin(means.index)].itertuples():
        mean = means.loc[row.method]
        second = (mean["gain"], scores, mean["error"])
        yield _row(check, "v2", f"MLAB / {row.method}, 13 tasks", _told(row), second)
    ours = select(table, "gain", topic="main", method="ML-Agent").query("task != 'all'").set_index("task")
    ours, figure = ours["value"], select(table, topic="aide")
    for row in agents[(agents["scaffold"] == "AIDE") & agents["method"].isin(figure["method"])].itertuples():
        part = figure[figure["method"] == row.method].set_index("task")
        second = ((part["value"] * ours).mean(), drawn, (part["error"] * ours.abs()).mean())
        comment = "v2 may have run it anew; it does not say so"
        yield _row(check, "v2", f"AIDE / {row.method}, 13 tasks", _told(row), second, comment=comment)


def _re_expressed(table: pd.DataFrame) -> Iterator[dict]:
    """Compare the gains of v2's ablation tables with v1's averages of the same tables."""
    expected = gains(table).query("quantity == 'avg@8'").set_index(["topic", "method", "task"])
    for row in select(table, "gain", topic=["reward", "thought"]).itertuples():
        if (row.topic, row.method, row.task) not in expected.index:
            continue  # v1's reward table has 5 of v2's 8 tasks
        found = expected.loc[(row.topic, row.method, row.task)]
        second = (found["gain"], "v1 avg@8, as gain", found["error"])
        yield _row("gains of v2 from scores of v1", "v2", f"{row.method}, {row.task}", _told(row), second)


def _repeated(table: pd.DataFrame) -> Iterator[dict]:
    """Compare the rows of the full method in the ablation tables with the main tables."""
    main = select(table, topic="main", method="ML-Agent").set_index(["quantity", "task"])
    for row in select(table, topic="reward", method="full").itertuples():
        pair = _exact(_told(row)), _exact(_told(main.loc[(row.quantity, row.task)]))
        unit = GAIN if row.quantity == "gain" else row.metric
        what = f"full method, {row.quantity}, {row.task}"
        yield _row("one number in two tables", row.version, what, *pair, unit)
    stated = next(select(table, "stated change").itertuples())
    for version, quantity in (("v1", "avg@8"), ("v2", "gain")):
        part = select(table, quantity, topic="reward", version=version, task=stated.task)
        _, place, error = _mean(part, _told(next(part.itertuples()))[1])
        change = part.set_index("method")["value"]
        second = (change[stated.method] - change["full"], place, error * 2)
        what = f"{stated.method} against the full method, {quantity}, {stated.task}"
        comment = "v2 keeps v1's points of accuracy beside a table of gains" if version == "v2" else ""
        yield _row("stated change", "v2", what, _told(stated), second, stated.unit, comment)


def _ends(table: pd.DataFrame) -> Iterator[dict]:
    """Compare the arms of Figure 4, the task-count figure and v2's ablations where they show one point."""

    def gain(x: float | None = None, **filters: str):
        found = select(table, "gain", **filters)
        return next(found[found["x"].isna() if x is None else found["x"] == x].itertuples())

    def same(version: str, what: str, one, two) -> dict:
        value, place, error = _told(two)
        return _row("same point", version, what, _told(one), (value, f"{place}, {two.method}", error))

    last = rl_curve("episode-wise RL", table)["update"].max()
    for split in HELD:
        start = gain(0, topic="rl-curve", method="step-wise RL", split=split)
        for other in ({"topic": "task-count"}, {"topic": "rl-curve", "method": "episode-wise RL"}):
            yield same("v1", f"SFT alone, {split}", start, gain(0, split=split, **other))
        for method, other in (
            ("without step-wise RL", gain(last, topic="rl-curve", method="episode-wise RL", split=split)),
            ("without exploration-enriched SFT",
             gain(topic="rl-start", method="RL from Qwen2.5-7B", version="v2", split=split)),
        ):  # fmt: skip
            printed = gain(topic="components", method=method, split=split)
            yield same("v2", f"{method}, {split}", printed, other)
    printed = gain(topic="components", method="without the ML-specific reward", split="held-in")
    part = select(table, "gain", topic="reward", method="without performance", split="held-in")
    second = _mean(part, f"v2 Table 3, without performance, mean of {len(part)} tasks")
    yield _row("same point", "v2", f"{printed.method}, {printed.split}", _told(printed), second)


def _costs(table: pd.DataFrame) -> Iterator[dict]:
    once = select(table, "one-time cost").set_index("item")["value"]
    parts, place = once.drop("total"), "v2 cost analysis"
    second = (parts.sum(), f"sum of {len(parts)} parts", 0.005)
    yield _row("costs", "v2", "one-time cost", (once["total"], place, 0.0), second, "USD")
    for row in break_even(table).itertuples():
        tolerance = max(row.high - row.derived, row.derived - row.low)
        second = (row.derived, "total / difference of the costs", tolerance)
        what = f"break-even against {row.scaffold} / {row.method}"
        yield _row("costs", "v2", what, (row.printed, place, 0.5), second, "trajectories")


def _setup(table: pd.DataFrame) -> Iterator[dict]:
    def setting(item: str, place: str, x: float | None = None) -> Told:
        return paper_value("setting", item=item, place=place, x=x, table=table), f"v1 {place}", 0.0

    yield from _updates(table, setting)
    for source in ("MLAgentBench", "MLE-bench"):
        pair = [setting(f"training tasks from {source}", place) for place in ("text", "task table")]
        yield _row("training tasks", "v1", f"training tasks from {source}", *pair, "tasks")
    named = sorted(select(table, item="RL data size named in the text")["value"])
    methods = select(table, topic="data-size")["method"].unique()  # such as RL on 10k states
    sizes = sorted({1000.0 * float(name.split()[2].removesuffix("k")) for name in methods} - {0.0})
    for text, figure in zip(named, sizes, strict=True):
        pair = ((text, "v1 text", 0.0), (figure, "v1 Figure (RL data size)", 0.0))
        yield _row("data sizes", "v1", f"RL data size {text:.0f}", *pair, "states")
    shown = set(select(table, "avg@8", topic="thought")["task"])
    absent = set(select(table, "avg@8", topic="main")["task"]) - shown
    pair = setting("tasks named beside the table", "Table (no thought)"), (len(shown), "its rows", 0.0)
    comment = f"absent: {', '.join(sorted(absent))}" if absent else ""
    yield _row("thought", "v1", "tasks of the no-thought ablation", *pair, "tasks", comment)
    for share in (1, 5):
        second = (reward_of_share(share), f"sigmoid({share})", 0.0005)
        first = setting("reward of an edit", "Equation 6", x=share)
        yield _row("reward", "v1", f"v1 reward of {share} % of the gap", first, second, "reward")


def _updates(table: pd.DataFrame, setting) -> Iterator[dict]:
    states, batch = (setting(item, "section 5.1")[0] for item in ("RL states", "RL batch"))
    place = f"{states:.0f} states in batches of {batch:.0f}"
    whole = (complete_updates(int(states), int(batch)), place, 0.0)
    pair = setting("RL updates", "text"), whole
    yield _row("updates", "v1", "updates of step-wise RL", *pair, "updates")
    for method, item in (("step-wise RL", "RL updates"), ("episode-wise RL", "episode-wise updates")):
        shown = (rl_curve(method, table)["update"].max(), "v1 Figure 4, last point", 0.0)
        comment = "the curves are compared at equal time, not at equal updates" if "episode" in method else ""
        pair = setting(item, "text"), shown
        yield _row("updates", "v1", f"updates of {method}", *pair, "updates", comment)
    hours = hours_per_update("step-wise RL", table)
    pair = setting("GPU hours per step-wise update", "Figure 4"), (hours, "last point", 0.005)
    yield _row("updates", "v1", "hours of a step-wise update", *pair, "GPU hours")
    times = (hours_per_update("episode-wise RL", table) / hours, "ratio of the last points", 0.5)
    pair = setting("episode-wise against step-wise time of an update", "Figure 4"), times
    yield _row("updates", "v1", "episode-wise against step-wise time", *pair, "times")


def _draws(table: pd.DataFrame) -> Iterator[dict]:
    """Compare best@8 of Table 1 with best@K at K = 8 after RL on 10k states, which is the main run's pool."""
    main = select(table, "best@8", topic="main", method="ML-Agent").set_index("task")
    for row in select(table, topic="data-size", method="RL on 10k states").query("x == 8").itertuples():
        other = main.loc[row.task]
        pair = _told(other), _told(row, 100.0 if other["unit"] == "%" else 1.0)
        yield _row("best of 8", "v1", f"best@8, {row.task}", *pair, other["metric"], _DRAW)


def _quoted(table: pd.DataFrame) -> Iterator[dict]:
    """Yield what the paper says in words against itself; numbers in the sentences are read from the table."""
    again = [*_re_expressed(table), *(row for row in _agents(table) if row["what"].startswith("MLAB"))]
    corner = select(table, "avg@8", topic="reward", task="cifar-10").set_index("method")["value"]
    full, without = corner["full"], corner["without corner"]
    large = select(table, topic="agents", method="GPT-5", split="all")["value"].sort_values()
    facts = {
        "same": sum(row["agrees"] for row in again),
        "again": len(again),
        "ours": paper_value("gain", topic="main", method="ML-Agent", task="all", table=table),
        "large": ", ".join(f"{value:.2f}" for value in large),
    }
    facts |= {"full": full, "without": without, "change": without - full}
    for row in read_csv("quoted").to_dict("records"):
        yield row | {"comment": row["comment"].format(**facts)}
