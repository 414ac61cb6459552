"""What the arms say on questions that the paper leaves open, as computed sentences."""

from __future__ import annotations

from collections.abc import Iterator

from mlagent_lib.results.arms import blame_summary, overfit_table, saturation_summary, search_table
from mlagent_lib.results.claims import compared
from mlagent_lib.results.evaluation import BOUND, Tables
from mlagent_lib.results.intervals import Interval, paired_difference
from mlagent_lib.results.style import ends, number

TRAINED, SFT_TREE = "trained policy, trajectories", "SFT, tree"
ENDS = (1, 24)  # executions of a search: the first, and the whole budget


def answers(tables: Tables) -> list[str]:
    """Return sentences on reward, states, coder, luck, overfitting and search, as far as arms were run."""
    makers = (_saturation, _states, _coder, _luck, _overfitting, _search)
    return [sentence for maker in makers for sentence in maker(tables)]


def search_difference(tables: Tables, after: str, before: str, executions: int) -> Interval | None:
    """Return the paired difference of two searches after as many executions; None where one was not run.

    Both of a seed start from the same adapters; seeds are drawn, tasks fixed. A search that ended early hands
    in what it had.
    """
    rows = tables["searches"]
    rows = rows[(rows["execution"] <= executions) & rows["method"].isin([after, before])]
    if rows["method"].nunique() < 2:
        return None
    rows = rows.assign(policy=rows["method"], value=rows["gap"].clip(lower=BOUND)).sort_values("execution")
    last = rows.groupby(["policy", "seed", "task", "repeat"], as_index=False)["value"].last()
    return paired_difference(last, after, before, "value")


def _saturation(tables: Tables) -> Iterator[str]:
    found = saturation_summary(tables)
    if found["n"]:
        yield (
            f"Reward: v1 pays {found['saturated']:.0%} of {found['n']:,.0f} edits within 0.01 of 0 or 1 "
            f"(after SFT and after RL, made or taken back), and pays "
            f"{found['pairs_lost']:.0%} of pairs alike whose gains differ. Trained on another form: "
            f"{compared(tables, 'rl', 'reward-v1').text}; {compared(tables, 'rl', 'reward-v2').text}. "
            f"Paid for what it adds to the best of two: {compared(tables, 'rl', 'max-2').text}."
        )


def _states(tables: Tables) -> Iterator[str]:
    mixed = "; ".join(compared(tables, "rl", name).text for name in ("mix-0", "mix-50", "mix-75"))
    spread = compared(tables, "rl", "variance").text
    yield f"States: other shares of on-policy states, {mixed}; tasks by the spread of rewards, {spread}."


def _coder(tables: Tables) -> Iterator[str]:
    for row in blame_summary(tables).itertuples():
        fault = row.coder_refused + row.coder_wrong
        yield (
            f"Coder: of {row.edits} edits of {row.who}, {row.failed} failed, {fault} of them by the fault "
            f"of the coder alone; excusing those moves the mean reward from {number(row.reward, 3)} to "
            f"{number(row.excused_reward, 3)}."
        )


def _luck(tables: Tables) -> Iterator[str]:
    rows = tables["luck"]
    if len(rows):
        kept = rows["verdict"].eq("survives")
        yield (
            f"Luck: {int(kept.sum())} of {len(rows)} best scripts keep their gain under other seeds of the "
            f"script, {number(rows['kept'].median())} of it in the median."
        )


def _overfitting(tables: Tables) -> Iterator[str]:
    for row in overfit_table(tables).query("who == 'rl'").itertuples():
        yield (
            f"Overfitting: the full method closes {number(row.feedback)} of the gap on the labels that pay "
            f"and {number(row.report)} on those that never do; difference {number(row.difference)} "
            f"{ends(row.low, row.high)}."
        )


def _search(tables: Tables) -> Iterator[str]:
    table = search_table(tables)
    if {TRAINED, SFT_TREE} <= set(table["method"]):
        means = table.pivot_table(index="execution", columns="method", values="value")
        ahead = means.index[means[SFT_TREE] > means[TRAINED]]
        turn = f"from {ahead[0]} executions on" if len(ahead) else "nowhere"
        told = []
        for executions in ENDS:
            found = search_difference(tables, TRAINED, SFT_TREE, executions)
            told.append(f"{executions}: {number(found.value)} {ends(found.low, found.high)}".rstrip())
        yield (
            f"Search: a greedy tree from the SFT policy is ahead of the trained policy {turn}. Trained "
            f"policy minus tree after executions {'; '.join(told)} (gap closed, "
            f"{int(table['seeds'].max())} seeds)."
        )
