"""Where the paper agrees with itself and where it does not, computed from its own numbers.

`checks` compares every pair of numbers that should be equal: two places that print one quantity, or a printed
number and the arithmetic that leads to it. `inconsistencies` returns the pairs that differ by more than
rounding and reading a figure can explain, and, in words, what no arithmetic shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pandas as pd

from mlagent_lib.results.paper.numbers import (
    average_gains,
    break_even,
    complete_updates,
    gains,
    hours_per_update,
    initial_scores,
    paper_table,
    paper_value,
    reward_of_share,
    rl_curve,
    select,
)

__all__ = ["checks", "inconsistencies"]

CHECK_COLUMNS = (
    "check", "version", "what", "first", "first_place", "second", "second_place", "difference", "tolerance",
    "agrees", "unit", "comment",
)  # fmt: skip
COLUMNS = (
    "kind", "check", "version", "what", "first", "first_place", "second", "second_place", "difference",
    "tolerance", "unit", "comment",
)  # fmt: skip
GAIN = "% of gain"
HELD = ("held-in", "held-out")
_ENDPOINT = "v1's figures end above the mean of the gains that Table 1 and v2's main table give"
_DRAW = "another draw of 8 trajectories, or another checkpoint, could explain it; the paper does not say"


def checks(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return every comparison of two numbers of the paper that should be equal, one a row.

    Args:
        table: Another table of numbers in place of the paper's, with the columns of `paper_table`.

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
    table = paper_table() if table is None else table
    families = (_starts, _lines, _endpoints, _agents, _re_expressed, _repeated, _ends, _costs, _setup, _draws)
    rows = [row for family in families for row in family(table)]
    return pd.DataFrame(rows, columns=list(CHECK_COLUMNS))


def inconsistencies(table: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return where the paper contradicts itself: computed from its numbers, or quoted where words are meant.

    Args:
        table: Another table of numbers in place of the paper's, with the columns of `paper_table`.

    Returns:
        Columns kind (``computed``, ``quoted``) and those of `checks` without ``agrees``. A quoted row has no
        two numbers to compare, so first, second, difference and tolerance are missing.

    Example:
        Both arms are said to be trained for 39 updates; the episode-wise curve ends after 2:

        >>> found = inconsistencies().query("what == 'updates of episode-wise RL'").iloc[0]
        >>> [float(found[name]) for name in ("first", "second", "difference")]
        [39.0, 2.0, 37.0]
    """
    table = paper_table() if table is None else table
    found = checks(table)
    computed = found[~found["agrees"]].assign(kind="computed")
    quoted = pd.DataFrame([dict(row, kind="quoted") for row in _quoted(table)])
    return pd.concat([computed, quoted], ignore_index=True)[list(COLUMNS)]


def _row(check: str, version: str, what: str, first, second, tolerance: float, unit: str, comment="") -> dict:
    """Return one comparison; ``first`` and ``second`` are pairs of a number and its place."""
    (one, here), (two, there) = first, second
    difference = float(one) - float(two)
    return {
        "check": check,
        "version": version,
        "what": what,
        "first": float(one),
        "first_place": here,
        "second": float(two),
        "second_place": there,
        "difference": difference,
        "tolerance": float(tolerance),
        "agrees": abs(difference) <= tolerance + 1e-9,
        "unit": unit,
        "comment": comment,
    }


def _place(row) -> str:
    return f"{row.version} {row.place}"


def _open(row) -> float:
    """Return what a number as given leaves open: the error of reading it, or half of its last digit."""
    return float(row.error) if row.source_kind == "digitised" else 0.5 * 10.0 ** -int(row.decimals)


def _starts(table: pd.DataFrame) -> Iterator[dict]:
    stated = select(table, "initial score").set_index("task")
    for row in initial_scores(table).itertuples():
        given = stated.loc[row.task]
        tolerance = (row.high - row.low) / 2 + _open(given)
        second = (row.derived, "v1 Table 1 and v2 main table")
        yield _row(
            "initial scores", "v1", row.task, (row.stated, _place(given)), second, tolerance, row.metric
        )


def _lines(table: pd.DataFrame) -> Iterator[dict]:
    means = average_gains(table).query("quantity == 'avg@8'").set_index(["method", "split"])
    for row in select(table, topic="baseline-lines").itertuples():
        mean = means.loc[(row.method, row.split)]
        second = (mean["gain"], "v1 Table 1, as gains")
        what = f"{row.method}, {row.split}"
        yield _row(
            "baseline lines", "v1", what, (row.value, _place(row)), second, row.error + mean["error"], GAIN
        )


def _endpoints(table: pd.DataFrame) -> Iterator[dict]:
    """Compare every average of ML-Agent with the mean of its gains in v2's main table."""
    per_task = select(table, "gain", topic="main", method="ML-Agent").query("task != 'all'")
    average = select(table, "gain", topic="main", method="ML-Agent", task="all")
    last = [
        average,
        select(table, topic="components", method="full"),
        select(table, "gain", topic="rl-curve", method="step-wise RL").query("x == x.max()"),
        select(table, topic="rl-start", method="RL from ML-Agent-SFT"),
        select(table, topic="task-count").query("x == x.max()"),
    ]
    for row in pd.concat(last).itertuples():
        part = per_task if row.split == "all" else per_task[per_task["split"] == row.split]
        tolerance = _open(row) + sum(_open(one) for one in part.itertuples()) / len(part)
        second = (part["value"].mean(), f"v2 main table, mean of {len(part)} gains")
        what = f"ML-Agent, {row.split} average ({row.topic})"
        comment = _ENDPOINT if row.version == "v1" and row.split == "held-out" else ""
        yield _row(
            "averages of ML-Agent",
            row.version,
            what,
            (row.value, _place(row)),
            second,
            tolerance,
            GAIN,
            comment,
        )


def _agents(table: pd.DataFrame) -> Iterator[dict]:
    """Compare v2's averages of other agents with what v1 prints of the same agent and model."""
    check, scores, drawn = "agents in both versions", "v1 Table 1, as gains", "v1 Figure 3 times v2's gains"
    means = average_gains(table).query("quantity == 'avg@8' and split == 'all'").set_index("method")
    agents = select(table, topic="agents", task="all", split="all")
    for row in agents[(agents["scaffold"] == "MLAB") & agents["method"].isin(means.index)].itertuples():
        mean = means.loc[row.method]
        first, tolerance = (row.value, _place(row)), _open(row) + mean["error"]
        what = f"MLAB / {row.method}, 13 tasks"
        yield _row(check, "v2", what, first, (mean["gain"], scores), tolerance, GAIN)
    ours = select(table, "gain", topic="main", method="ML-Agent").query("task != 'all'").set_index("task")
    figure = select(table, topic="aide")
    for row in agents[(agents["scaffold"] == "AIDE") & agents["method"].isin(figure["method"])].itertuples():
        part = figure[figure["method"] == row.method].set_index("task")
        second = ((part["value"] * ours["value"]).mean(), drawn)
        first, tolerance = (row.value, _place(row)), (part["error"] * ours["value"].abs()).mean()
        what, comment = f"AIDE / {row.method}, 13 tasks", "v2 may have run it anew; it does not say so"
        yield _row(check, "v2", what, first, second, _open(row) + tolerance, GAIN, comment)


def _re_expressed(table: pd.DataFrame) -> Iterator[dict]:
    """Compare the gains of v2's ablation tables with v1's averages of the same tables."""
    expected = gains(table).query("quantity == 'avg@8'").set_index(["topic", "method", "task"])
    for row in select(table, "gain", topic=["reward", "thought"]).itertuples():
        if (row.topic, row.method, row.task) not in expected.index:
            continue  # v1's reward table has 5 of v2's 8 tasks
        found = expected.loc[(row.topic, row.method, row.task)]
        first, second = (row.value, _place(row)), (found["gain"], "v1 avg@8, as gain")
        what, tolerance = f"{row.method}, {row.task}", _open(row) + found["error"]
        yield _row("gains of v2 from scores of v1", "v2", what, first, second, tolerance, GAIN)


def _repeated(table: pd.DataFrame) -> Iterator[dict]:
    """Compare the rows of the full method in the ablation tables with the main tables."""
    main = select(table, topic="main", method="ML-Agent").set_index(["quantity", "task"])
    for row in select(table, topic="reward", method="full").itertuples():
        other = main.loc[(row.quantity, row.task)]
        what = f"full method, {row.quantity}, {row.task}"
        unit = GAIN if row.quantity == "gain" else row.metric
        first, second = (row.value, _place(row)), (other["value"], _place(other))
        yield _row("one number in two tables", row.version, what, first, second, 0.0, unit)
    stated = next(select(table, "stated change").itertuples())
    for version, quantity in (("v1", "avg@8"), ("v2", "gain")):
        part = select(table, quantity, topic="reward", version=version, task=stated.task)
        change = part.set_index("method")["value"]
        second = (change[stated.method] - change["full"], _place(next(part.itertuples())))
        what = f"{stated.method} against the full method, {quantity}, {stated.task}"
        comment = "v2 keeps v1's points of accuracy beside a table of gains" if version == "v2" else ""
        tolerance = _open(stated) + sum(_open(row) for row in part.itertuples()) / len(part) * 2
        first = (stated.value, _place(stated))
        yield _row("stated change", "v2", what, first, second, tolerance, stated.unit, comment)


def _ends(table: pd.DataFrame) -> Iterator[dict]:
    """Compare the arms of Figure 4, the task-count figure and v2's ablations where they show one point."""

    def gain(x: float | None = None, **filters: str):
        found = select(table, "gain", **filters)
        return next(found[found["x"].isna() if x is None else found["x"] == x].itertuples())

    def same(version: str, what: str, one, two) -> dict:
        first, second = (one.value, _place(one)), (two.value, f"{_place(two)}, {two.method}")
        return _row("same point", version, what, first, second, _open(one) + _open(two), GAIN)

    for split in HELD:
        start = gain(0, topic="rl-curve", method="step-wise RL", split=split)
        episode = rl_curve("episode-wise RL", table)["update"].max()
        yield same("v1", f"SFT alone, {split}", start, gain(0, topic="task-count", split=split))
        other = gain(0, topic="rl-curve", method="episode-wise RL", split=split)
        yield same("v1", f"SFT alone, {split}", start, other)
        pairs = {
            "without step-wise RL": {"topic": "rl-curve", "method": "episode-wise RL", "x": episode},
            "without exploration-enriched SFT": {
                "topic": "rl-start", "method": "RL from Qwen2.5-7B", "version": "v2",
            },
        }  # fmt: skip
        for method, filters in pairs.items():
            printed = gain(topic="components", method=method, split=split)
            yield same("v2", f"{method}, {split}", printed, gain(split=split, **filters))
    printed = gain(topic="components", method="without the ML-specific reward", split="held-in")
    part = select(table, "gain", topic="reward", method="without performance", split="held-in")
    second = (part["value"].mean(), f"v2 Table 3, without performance, mean of {len(part)} tasks")
    tolerance = _open(printed) + sum(_open(row) for row in part.itertuples()) / len(part)
    what, first = f"{printed.method}, {printed.split}", (printed.value, _place(printed))
    yield _row("same point", "v2", what, first, second, tolerance, GAIN)


def _costs(table: pd.DataFrame) -> Iterator[dict]:
    once = select(table, "one-time cost").set_index("item")["value"]
    parts = once.drop("total")
    here, second = (once["total"], "v2 cost analysis"), (parts.sum(), f"sum of {len(parts)} parts")
    yield _row("costs", "v2", "one-time cost", here, second, 0.005, "USD")
    for row in break_even(table).itertuples():
        printed, derived = (row.printed, "v2 cost analysis"), (row.derived, "total / difference of the costs")
        tolerance = max(row.high - row.derived, row.derived - row.low) + 0.5
        what = f"break-even against {row.scaffold} / {row.method}"
        yield _row("costs", "v2", what, printed, derived, tolerance, "trajectories")


def _setup(table: pd.DataFrame) -> Iterator[dict]:
    def setting(item: str, place: str, x: float | None = None) -> tuple[float, str]:
        return paper_value("setting", item=item, place=place, x=x, table=table), f"v1 {place}"

    def compare(check: str, what: str, first, second, tolerance: float, unit: str, comment: str = "") -> dict:
        return _row(check, "v1", what, first, second, tolerance, unit, comment)

    stated = setting("RL updates", "text")
    states, batch = (setting(item, "section 5.1")[0] for item in ("RL states", "RL batch"))
    whole = (complete_updates(int(states), int(batch)), f"{states:.0f} states in batches of {batch:.0f}")
    yield compare("updates", "updates of step-wise RL", stated, whole, 0, "updates")
    for method, item in (("step-wise RL", "RL updates"), ("episode-wise RL", "episode-wise updates")):
        shown = (rl_curve(method, table)["update"].max(), "v1 Figure 4, last point")
        comment = "the curves are compared at equal time, not at equal updates" if "episode" in method else ""
        yield compare("updates", f"updates of {method}", setting(item, "text"), shown, 0, "updates", comment)
    hours = hours_per_update("step-wise RL", table)
    given = setting("GPU hours per step-wise update", "Figure 4")
    yield compare("updates", "hours of a step-wise update", given, (hours, "last point"), 0.005, "GPU hours")
    times = (hours_per_update("episode-wise RL", table) / hours, "ratio of the last points")
    given = setting("episode-wise against step-wise time of an update", "Figure 4")
    yield compare("updates", "episode-wise against step-wise time", given, times, 0.5, "times")
    for source in ("MLAgentBench", "MLE-bench"):
        pair = [setting(f"training tasks from {source}", place) for place in ("text", "task table")]
        yield compare("training tasks", f"training tasks from {source}", *pair, 0, "tasks")
    named = sorted(select(table, item="RL data size named in the text")["value"])
    sizes = sorted(_thousands(select(table, topic="data-size")["method"].unique()) - {0.0})
    for text, figure in zip(named, sizes, strict=True):
        pair = ((text, "v1 text"), (figure, "v1 Figure (RL data size)"))
        yield compare("data sizes", f"RL data size {text:.0f}", *pair, 0, "states")
    shown = set(select(table, "avg@8", topic="thought")["task"])
    absent = set(select(table, "avg@8", topic="main")["task"]) - shown
    first, second = setting("tasks named beside the table", "Table (no thought)"), (len(shown), "its rows")
    comment = f"absent: {', '.join(sorted(absent))}" if absent else ""
    yield compare("thought", "tasks of the no-thought ablation", first, second, 0, "tasks", comment)
    for share in (1, 5):
        first = setting("reward of an edit", "Equation 6", x=share)
        second = (reward_of_share(share), f"sigmoid({share})")
        yield compare("reward", f"v1 reward of {share} % of the gap", first, second, 0.0005, "reward")


def _thousands(methods: Iterable[str]) -> set[float]:
    """Return the numbers of states in names such as ``RL on 10k states``."""
    return {1000.0 * float(name.split()[2].removesuffix("k")) for name in methods}


def _draws(table: pd.DataFrame) -> Iterator[dict]:
    """Compare best@8 of Table 1 with best@K at K = 8 after RL on 10k states, which is the main run's pool."""
    main = select(table, "best@8", topic="main", method="ML-Agent").set_index("task")
    for row in select(table, topic="data-size", method="RL on 10k states").query("x == 8").itertuples():
        other = main.loc[row.task]
        scale = 100.0 if other["unit"] == "%" else 1.0
        first, second = (other["value"], _place(other)), (scale * row.value, _place(row))
        tolerance = _open(other) + scale * row.error
        yield _row("best of 8", "v1", f"best@8, {row.task}", first, second, tolerance, other["metric"], _DRAW)


def _quoted(table: pd.DataFrame) -> Iterator[dict]:
    """Yield what the paper says in words against itself; numbers in the sentences are read from the table."""
    again = [*_re_expressed(table), *(row for row in _agents(table) if row["what"].startswith("MLAB"))]
    same = sum(row["agrees"] for row in again)
    corner = select(table, "avg@8", topic="reward", task="cifar-10").set_index("method")["value"]
    ours = paper_value("gain", topic="main", method="ML-Agent", task="all", table=table)
    large = select(table, topic="agents", method="GPT-5", split="all")["value"].sort_values()
    sentences = (
        ("reward formula", "both", "two reward formulas, one set of results",
         f"{same} of {len(again)} gains of v2 are v1's averages again, yet v1 prints a sigmoid reward and v2 "
         "a linear one, with another pipeline of ideas"),
        ("corner", "v1", '"minimal impact" of the corner case',
         f"on cifar-10 the average falls from {corner['full']:.2f} to {corner['without corner']:.2f} % "
         f"({corner['without corner'] - corner['full']:.2f} points)"),
        ("claim", "v2", '"comparable to GPT-5"',
         f"average over 13 tasks {ours:.2f} %, agents with GPT-5 {', '.join(f'{v:.2f}' for v in large)} %"),
        ("ideas", "v2", "two pipelines of ideas",
         "appendix B.1 draws from three axes by farthest-point sampling; B.3 still keeps 10 of at least 100"),
        ("initial scripts", "v1", "who wrote the first scripts",
         "GPT-4o-mini for each task, and elsewhere only because MLE-bench has no natural initial script"),
        ("data types", "v1", '"three data types"', "ogbn-arxiv is a graph, a fourth type"),
        ("citation", "v1", "source of ogbn-arxiv", "cited to a paper on IMDB"),
        ("metric", "v1", "metric of detecting-insults", "accuracy in the table, AUC in the case study"),
        ("problem type", "v1", "spaceship-titanic and tabular-playground",
         "called regression, scored by accuracy"),
    )  # fmt: skip
    for check, version, what, comment in sentences:
        yield {"check": check, "version": version, "what": what, "comment": comment}
