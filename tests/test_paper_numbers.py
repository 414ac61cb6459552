"""The paper as data: what the files hold, what follows from them, where the paper contradicts itself."""

from __future__ import annotations

import pandas as pd
import pytest

from mlagent_lib.core.errors import MlagentError
from mlagent_lib.results.paper import numbers
from mlagent_lib.results.paper.inconsistencies import checks, inconsistencies
from mlagent_lib.results.paper.numbers import (
    COLUMNS,
    average_gains,
    break_even,
    complete_updates,
    gains,
    initial_scores,
    paper_table,
    paper_value,
    peers_table,
    reward_of_share,
    rl_curve,
)

# rows for each version, place and topic; by hand: methods x tasks x quantities, points x curves...
ROWS = {
    ("v1", "Table 1", "main"): 13 * 6 * 2,
    ("v1", "Table 1 and v2's main table", "initial"): 13,
    ("v1", "Figure 3", "aide"): 13 * 3,
    ("v1", "Figure 4", "rl-curve"): (9 + 3) * 3,
    ("v1", "Figure 4", "baseline-lines"): 5 * 2,
    ("v1", "Figure 4", "setup"): 2,
    ("v1", "Figure 5", "rl-start"): 4 * 2,
    ("v1", "Table 2", "reward"): 5 * 4 * 2,
    ("v1", "Figure (number of RL tasks)", "task-count"): 4 * 2,
    ("v1", "Figure (RL data size)", "data-size"): 4 * 4 * 6,
    ("v1", "Table (no thought)", "thought"): 12 * 2,
    ("v1", "Figure (action diversity)", "diversity"): 2 + 13,
    ("v2", "main table", "main"): 13 + 1,
    ("v2", "main table", "agents"): 5 + 5 + 3 + 3,
    ("v2", "Figure 2", "cost"): 1 + 6 + 6 + 3,
    ("v2", "Figure 4", "rl-start"): 4 * 2,
    ("v2", "Table 2", "components"): 4 * 2,
    ("v2", "Table 3", "reward"): 8 * 4,
    ("v2", "Table (no thought)", "thought"): 12,
    ("v2", "Table 12", "extra"): 5 * 5,
    ("v2", "cost analysis", "cost"): 4 + 8,
    ("v2", "text", "reward"): 1,
}


@pytest.fixture(scope="module")
def table():
    return paper_table()


@pytest.fixture(scope="module")
def compared():
    return checks()


def changed(table: pd.DataFrame, value: float, x: float | None = None, **where: str) -> pd.DataFrame:
    """Return a copy of the table with one number replaced."""
    copy = table.copy()
    chosen = pd.Series(True, index=copy.index) if x is None else copy["x"] == x
    for column, wanted in where.items():
        chosen &= copy[column] == wanted
    assert chosen.sum() == 1, where
    copy.loc[chosen, "value"] = value
    return copy


def test_every_place_has_all_its_numbers(table):
    found = table.groupby(["version", "place", "topic"]).size()
    found = found[[key in ROWS or key[2] != "setup" for key in found.index]]
    assert found.to_dict() == ROWS
    assert len(table) == sum(ROWS.values()) + (table["topic"] == "setup").sum() - 2


def test_each_number_is_one_row_with_its_origin(table):
    assert tuple(table.columns) == COLUMNS
    key = ["version", "place", "topic", "quantity", "item", "method", "scaffold", "task", "split", "x"]
    free = table[table["item"] != "RL data size named in the text"]  # three sizes under one name
    repeated = free[free.duplicated([*key, "source_kind"], keep=False)]
    assert repeated.empty, repeated
    assert set(table["version"]) == {"v1", "v2", "repo"} and table["place"].str.len().min() > 0
    assert set(table["better"]) == {"higher", "lower", ""}
    missing = table[table["value"].isna()]
    assert set(missing["note"]) == {"N/A: no valid action"} and len(missing) == 4
    spread = table[table["spread"].notna()]
    assert len(spread) == 13 and set(spread["quantity"]) == {"gain"}


def test_errors_go_with_the_kind_of_source(table):
    assert set(table["source_kind"]) == {"printed", "digitised", "derived"}
    assert (table.loc[table["source_kind"] == "printed", "error"] == 0).all()
    assert (table.loc[table["source_kind"] == "derived", "error"] > 0).all()
    read = table.query("source_kind == 'digitised' and quantity != 'order' and value.notna()")
    assert (read["error"] > 0).all()
    curves = read[read["topic"].isin(["rl-curve", "baseline-lines", "task-count", "aide", "rl-start"])]
    assert set(curves["error"]) == {0.02}


def test_a_task_has_one_split_metric_and_direction(table):
    scores = table[table["quantity"].isin(["avg@8", "best@8", "initial score"])]
    kinds = scores.groupby("task")[["split", "metric", "better", "unit"]].nunique()
    assert len(kinds) == 13 and (kinds == 1).all(axis=None)
    splits = scores.drop_duplicates("task")["split"].value_counts()
    assert splits.to_dict() == {"held-in": 3, "held-out": 10}


def test_best_of_eight_is_never_worse_than_the_average(table):
    scores = table[table["quantity"].isin(["avg@8", "best@8"])]
    wide = scores.pivot_table(index=["topic", "method", "task", "better"], columns="quantity", values="value")
    sign = wide.index.get_level_values("better").map({"higher": 1, "lower": -1})
    assert ((wide["best@8"] - wide["avg@8"]) * sign >= 0).all()


def test_best_of_k_never_gets_worse_as_k_grows(table):
    for (task, method), part in table[table["quantity"] == "best@K"].groupby(["task", "method"]):
        assert list(part["x"]) == [4, 8, 16, 32, 64, 128]
        steps = part["value"].diff().dropna() * (1 if part["better"].iloc[0] == "higher" else -1)
        assert (steps >= 0).all(), (task, method)


def test_ml_agent_is_the_best_of_every_row_of_table_1(table):
    for (task, quantity), part in table[table["place"] == "Table 1"].groupby(["task", "quantity"]):
        if quantity not in ("avg@8", "best@8"):
            continue
        best = part["value"].max() if part["better"].iloc[0] == "higher" else part["value"].min()
        winners = part.loc[part["value"] == best, "method"]
        assert list(winners) == ["ML-Agent"], (task, quantity)


def test_trailing_zeros_count_as_printed_digits(table):
    cifar = {"topic": "main", "task": "cifar-10", "method": "ML-Agent"}
    assert paper_table("gain", **cifar)["decimals"].tolist() == [2]  # printed as 33.80
    assert paper_table("avg@8", topic="main", task="leaf-classification")["decimals"].unique() == [4]
    assert paper_table("break-even")["decimals"].unique() == [0]


def test_starting_scores_lie_inside_the_rounding_of_both_printed_numbers():
    found = initial_scores()
    assert len(found) == 13
    assert (found["low"] < found["high"]).all()
    for row in found.itertuples():
        digits = 0.5 if row.stated > 1000 else 0.005 if row.stated > 10 else 0.00005
        assert row.low - digits <= row.stated <= row.high + digits, row.task
    # by hand: MAE 20209, gain 6.77 %: 20209 / (1 - 0.0677) = 21676.5
    assert found.set_index("task").loc["home-data-for-ml-course", "derived"] == pytest.approx(
        21676.5, abs=0.1
    )


def test_gains_of_table_1_give_v2s_gains_and_the_lines_of_figure_4():
    found = gains().query("topic == 'main' and quantity == 'avg@8'")
    ours = found[found["method"] == "ML-Agent"].set_index("task")["gain"]
    printed = paper_table("gain", topic="main", method="ML-Agent").query("task != 'all'").set_index("task")
    assert (ours - printed["value"]).abs().max() < 0.02
    means = average_gains().query("quantity == 'avg@8'").set_index(["method", "split"])
    for row in paper_table(topic="baseline-lines").itertuples():
        mean = means.loc[(row.method, row.split)]
        assert abs(mean["gain"] - row.value) <= row.error + mean["error"], row.method
    assert means.loc[("Qwen2.5-7B-Instruct", "all"), "gain"] == pytest.approx(1.43, abs=0.02)
    assert means.loc[("ML-Agent", "held-in"), "tasks"] == 3


def test_a_score_that_gets_worse_is_a_negative_gain_in_both_directions():
    found = gains().set_index(["topic", "quantity", "method", "task"])["gain"]
    # logloss 0.3209 from 0.2909 is worse: -(0.3209 - 0.2909) / 0.2909
    assert found[("main", "avg@8", "GPT-4o", "statoil-iceberg-classifier")] == pytest.approx(-10.31, abs=0.01)
    assert found[("reward", "avg@8", "without format", "leaf-classification")] == pytest.approx(
        -30.25, abs=0.1
    )


def test_curves_have_their_points_in_hours_and_updates():
    step, episode = rl_curve(), rl_curve("episode-wise RL")
    assert step["update"].tolist() == [0, 5, 10, 15, 20, 25, 30, 35, 39]
    assert (step["hours"] - 0.23 * step["update"]).abs().max() < 0.02
    assert step.iloc[-1].tolist() == [39, 8.97, 18.01, 16.26]
    assert episode.iloc[-1].tolist() == [2, 10.94, 10.71, 2.86]
    assert step.iloc[0, 2:].tolist() == episode.iloc[0, 2:].tolist() == [8.35, 0.41]


def test_updates_rewards_and_costs_follow_from_the_setup():
    assert complete_updates(10_000, 256) == 39 and complete_updates(255, 256) == 0
    assert reward_of_share(0) == 0.5 and reward_of_share(-1) == pytest.approx(1 - 0.731, abs=5e-4)
    assert reward_of_share(100, form="v2") == 1.0
    costs = break_even()
    assert len(costs) == 8
    assert ((costs["low"] <= costs["printed"]) & (costs["printed"] <= costs["high"])).all()


def test_what_should_agree_agrees(compared):
    passed = compared.groupby("check")["agrees"].agg(["sum", "size"])
    whole = [
        "baseline lines",
        "costs",
        "gains of v2 from scores of v1",
        "initial scores",
        "one number in two tables",
        "reward",
        "same point",
    ]
    assert (passed.loc[whole, "sum"] == passed.loc[whole, "size"]).all()
    assert passed.loc["gains of v2 from scores of v1", "size"] == 5 * 4 + 12
    assert len(compared) == 124


def test_the_papers_contradictions_are_found_with_both_numbers():
    found = inconsistencies()
    computed = found[found["kind"] == "computed"].set_index("what")
    expected = {
        "ML-Agent, held-out average (rl-curve)": (16.26, 15.913),
        "ML-Agent, held-out average (rl-start)": (16.27, 15.913),
        "ML-Agent, held-out average (task-count)": (16.26, 15.913),
        "AIDE / DeepSeek-R1, 13 tasks": (11.40, 14.395),
        "without format against the full method, gain, cifar-10": (-11.75, 10.98 - 33.80),
        "updates of episode-wise RL": (39, 2),
        "training tasks from MLAgentBench": (4, 5),
        "training tasks from MLE-bench": (5, 4),
        "RL data size 6000": (6000, 10_000),
        "RL data size 9000": (9000, 30_000),
        "tasks of the no-thought ablation": (13, 12),
        "best@8, cifar-10": (81.45, 69.3),
        "best@8, home-data-for-ml-course": (18440, 18797),
        "best@8, denoising-dirty-documents": (0.0556, 0.06),
        "best@8, us-patent-phrase-to-phrase-matching": (0.5791, 0.483),
    }
    assert set(computed.index) == set(expected)
    for what, (first, second) in expected.items():
        row = computed.loc[what]
        assert (row["first"], row["second"]) == (first, pytest.approx(second, abs=1e-3)), what
        assert row["difference"] == pytest.approx(first - second, abs=1e-3)
    assert (
        computed.loc["tasks of the no-thought ablation", "comment"]
        == "absent: whale-categorization-playground"
    )
    quoted = found[found["kind"] == "quoted"]
    assert len(quoted) == 9 and quoted["first"].isna().all() and quoted["comment"].str.len().min() > 10
    words = quoted.set_index("check")["comment"]
    assert words["reward formula"].startswith("34 of 34 gains") and "-10.42 points" in words["corner"]


@pytest.mark.parametrize(
    ("where", "value", "check", "what"),
    [
        (
            {"topic": "main", "quantity": "avg@8", "method": "DeepSeek-R1", "task": "cifar-10"},
            68.39,
            "baseline lines",
            "DeepSeek-R1, held-in",
        ),
        ({"topic": "initial", "task": "jigsaw-toxic-comment-classification"}, 0.9572, "initial scores", None),
        (
            {
                "topic": "reward",
                "quantity": "gain",
                "method": "without corner",
                "task": "leaf-classification",
            },
            8.05,
            "gains of v2 from scores of v1",
            "without corner, leaf-classification",
        ),
        ({"quantity": "one-time cost", "item": "SFT"}, 97.20, "costs", "one-time cost"),
        ({"topic": "main", "quantity": "gain", "task": "all"}, 16.04, "averages of ML-Agent", None),
        ({"topic": "cost", "quantity": "cost", "scaffold": "MLAB", "method": "GPT-5"}, 0.22, "costs", None),
    ],
)
def test_one_changed_number_fails_its_check(table, compared, where, value, check, what):
    after = checks(changed(table, value, **where))
    failed = after[~after["agrees"] & (after["check"] == check)]
    before = compared[~compared["agrees"] & (compared["check"] == check)]
    assert len(failed) > len(before)
    if what:
        assert what in set(failed["what"])
    new = inconsistencies(changed(table, value, **where))
    assert set(failed["what"]) <= set(new["what"])


def test_a_contradiction_that_is_mended_goes_away(table):
    mended = changed(
        table, 15.91, x=39, topic="rl-curve", quantity="gain", method="step-wise RL", split="held-out"
    )
    assert "ML-Agent, held-out average (rl-curve)" not in set(inconsistencies(mended)["what"])


def test_the_sentences_are_computed_too(table):
    where = {"topic": "reward", "quantity": "avg@8", "method": "without corner", "task": "cifar-10"}
    words = inconsistencies(changed(table, 60.00, **where)).query("kind == 'quoted'").set_index("check")
    assert "68.88 to 60.00 % (-8.88 points)" in words.loc["corner", "comment"]
    assert words.loc["reward formula", "comment"].startswith("33 of 34 gains")


def test_unknown_filters_name_what_there_is(table):
    with pytest.raises(MlagentError, match="no text column 'quality'") as caught:
        paper_table(quality="gain")
    assert "scaffold" in caught.value.cure
    with pytest.raises(MlagentError, match="has method 'GPT-6'") as caught:
        paper_table("gain", topic="agents", method="GPT-6")
    assert "GPT-5" in caught.value.cure and "ML-Agent" not in caught.value.cure
    with pytest.raises(MlagentError, match="9 numbers of the paper have quantity 'gain'"):
        paper_value("gain", topic="rl-curve", method="step-wise RL", split="held-in")
    with pytest.raises(MlagentError, match="0 numbers"):
        paper_value("gain", topic="task-count", split="held-in", x=4)


def test_the_table_given_out_is_a_copy():
    first = paper_table()
    first["value"] = 0.0
    assert paper_value("avg@8", topic="main", task="cifar-10", method="ML-Agent") == 68.88


def test_a_missing_or_damaged_file_says_so(tmp_path, monkeypatch):
    for name in numbers.FILES:
        text = (numbers.FOLDER / f"{name}.csv").read_text(encoding="utf-8")
        (tmp_path / f"{name}.csv").write_text(text, encoding="utf-8")
    monkeypatch.setattr(numbers, "FOLDER", tmp_path)
    fresh = numbers._all_numbers.__wrapped__
    assert len(fresh()) == len(paper_table())
    costs = tmp_path / "costs.csv"
    costs.write_text(costs.read_text(encoding="utf-8").replace("322.81", "322.8l"), encoding="utf-8")
    with pytest.raises(MlagentError, match="damaged: column value.*322.8l"):
        fresh()
    costs.unlink()
    with pytest.raises(MlagentError, match="costs.csv is missing from the package"):
        fresh()


def test_peers_are_cited_and_cannot_enter_a_statistic(table):
    peers = peers_table()
    assert "peers" not in numbers.FILES and "value" not in peers.columns
    assert pd.api.types.is_string_dtype(peers["cited"])
    with pytest.raises(TypeError):
        peers["cited"].mean()
    assert (peers[["peer", "reference", "place", "quantity", "cited"]] != "").all(axis=None)
    assert not set(peers["peer"]) & set(table["method"])
    assert peers["reference"].str.contains(r"@[0-9a-f]{7}$|^arXiv \d{4}\.\d{5}$").all()
