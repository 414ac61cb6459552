"""Scores, gains and intervals, against numbers worked out by hand."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic_run import SCALES, SCRIPT, rows, starter_rows, step, trajectory

from mlagent_lib.results.evaluation import (
    TaskScale,
    best_at_k,
    best_at_k_table,
    difference_table,
    gap_closed,
    median_trajectory,
    overall_table,
    relative_gain_pct,
    scales_from_table,
    task_table,
    trajectory_table,
)
from mlagent_lib.results.intervals import best_of, bootstrap_mean, paired_difference
from mlagent_lib.results.judge import TOO_FEW
from mlagent_lib.results.report_scores import best_printed, handed_in
from mlagent_lib.results.steps import outcome_table, spread_table, standing_table, step_table

# The paper's own numbers: starter, ML-Agent's average of 8 (v1 Table 1), gain in % (v2), direction.
PAPER = [
    (51.48, 68.88, 33.80, True),
    (21676, 20209, 6.77, False),
    (0.6830, 0.5910, 13.47, False),
    (0.1556, 0.0741, 52.38, False),
    (0.1162, 0.2009, 72.89, True),
]


@pytest.mark.parametrize(("init", "score", "gain", "up"), PAPER)
def test_relative_gain_reproduces_the_papers_numbers(init, score, gain, up):
    assert relative_gain_pct(score, init, greater_is_better=up) == pytest.approx(gain, abs=0.01)


@pytest.mark.parametrize("init", [0.0, -0.1, math.nan])
def test_relative_gain_refuses_a_starter_without_meaning(init):
    with pytest.raises(ValueError, match="positive"):
        relative_gain_pct(0.5, init, greater_is_better=True)


def test_gap_closed_is_zero_at_the_starter_and_one_at_the_best_in_both_directions():
    assert gap_closed(0.5, 0.5, 0.9) == 0
    assert gap_closed(0.9, 0.5, 0.9) == 1
    assert gap_closed(1.5, 2.0, 1.0) == 0.5
    assert gap_closed(3.0, 2.0, 1.0) == -1.0  # worse than the starter is not clipped
    with pytest.raises(ValueError, match="no gap"):
        gap_closed(0.5, 0.5, 0.5)


def test_scale_refuses_a_best_that_is_not_better():
    with pytest.raises(ValueError, match="lower is better"):
        TaskScale("t", "held-in", "rmse", False, 1.0, 1.2)


def test_best_at_k_takes_the_direction():
    assert best_at_k([0.2, 0.4], greater_is_better=True) == 0.4
    assert best_at_k([0.2, 0.4], greater_is_better=False) == 0.2
    with pytest.raises(ValueError, match="between 1 and"):
        best_at_k([0.2, 0.4], greater_is_better=True, k=3)


def test_expected_best_of_k_equals_the_mean_over_all_subsets():
    from itertools import combinations

    values = np.array([0.3, -1.0, 2.0, 0.7, 0.7])
    for k in range(1, 6):
        expected = np.mean([max(subset) for subset in combinations(values, k)])
        assert best_of(k)(values[None, :])[0] == pytest.approx(expected)


def test_trajectory_table_scores_the_last_submission_and_keeps_the_best_by_validation_beside_it():
    row = trajectory("down", "rl", 1.5)
    row["final"]["report_kept"] = 1.25
    found = trajectory_table([row], SCALES).iloc[0]
    assert (found["score"], found["gap_closed"]) == (1.5, 0.5)
    assert (found["score_by_validation"], found["gap_closed_by_validation"]) == (1.25, 0.75)
    line = overall_table(trajectory_table([row], SCALES)).iloc[0]
    assert (line["gap_closed"], line["gap_kept"]) == (0.5, 0.75)


def test_random_ideas_stand_twice_the_second_time_handing_in_their_best():
    row = trajectory("down", "random-ideas", 3.0)
    row["final"]["report_kept"] = 1.5
    made = [row, trajectory("down", "rl", 1.25)]
    overall = overall_table(trajectory_table(made, SCALES)).query("split == 'held-in'").set_index("policy")
    assert overall["gap_closed"].to_dict() == {"random-ideas": -1.0, "random-kept": 0.5, "rl": 0.75}
    found = difference_table(trajectory_table(made, SCALES), [("rl", "random-kept")], measures=["gap"])
    assert set(found["difference"]) == {0.25}


def test_what_an_agent_keeps_is_what_its_scripts_printed_not_what_pays():
    path = [("start", 0.5), ("better", 0.8), ("silent", None), ("worse", 0.6), ("as good", 0.8)]
    assert best_printed(path, True) == 1 and best_printed(path, False) == 0
    step = {"outcome": "edited", "visible_metric": 0.7, "state": {"submission": "a", "visible": 0.5}}
    row = {"steps": [step], "final": {"submissions": {"last": "b"}}}
    assert handed_in(row) == [("a", 0.5), ("b", 0.7)]
    row["steps"] = [step | {"outcome": "error", "visible_metric": None}]
    assert handed_in(row | {"final": {"submissions": {"last": "a"}}}) == [("a", 0.5), ("a", 0.5)]
    assert handed_in(row | {"steps": []}) == [("b", None)]


def test_the_median_trajectory_is_the_lower_middle_one_of_what_was_scored():
    table = pd.DataFrame(
        {
            "policy": ["rl"] * 5 + ["sft"],
            "trajectory": list("edcbaz"),
            "gap_closed": [0.5, 0.2, 0.2, 0.9, math.nan, 0.3],
            "unscored": [False] * 4 + [True, False],
        }
    )
    assert median_trajectory(table) == "d"  # of c and d with 0.2, e with 0.5, b with 0.9
    assert median_trajectory(table, "sft") == "z"
    with pytest.raises(ValueError, match="no trajectory of 'base'"):
        median_trajectory(table, "base")


def test_an_edit_that_changes_nothing_is_an_outcome_of_its_own():
    same = step(0, script_after=SCRIPT)
    table = step_table([trajectory("up", "rl", 0.7, steps=[step(0), same, step(2, outcome="error")])])
    assert table["outcome"].tolist() == ["edited", "unchanged", "error"]
    shares = outcome_table(table).set_index("outcome")["share"]
    assert shares["edited"] == shares["unchanged"] == shares["error"] == pytest.approx(1 / 3)


def test_what_an_action_does_by_what_was_closed_before_it():
    """The gap of the task is from 0.5 to 0.9."""
    before_after = [(0.5, 0.7), (0.7, 0.6), (0.7, 0.7), (0.5, None), (0.2, -9.0)]
    made = [
        step(n, score_before=one, score_after=other, **({} if other else {"outcome": "error"}))
        for n, (one, other) in enumerate(before_after)
    ]
    task = SimpleNamespace(baseline={"feedback": 0.5}, best={"feedback": 0.9})
    table = standing_table(step_table([trajectory("up", "rl", 0.7, steps=made)]), lambda name: task)
    assert table["closed"].tolist() == ["worse than the starter", "like the starter", "much closed"]
    assert table["actions"].tolist() == [1, 2, 2]
    assert table[["helped", "hurt", "same", "failed"]].to_numpy().tolist() == [
        [0, 1, 0, 0], [0.5, 0, 0, 0.5], [0, 0.5, 0.5, 0],
    ]  # fmt: skip
    assert table["change"].tolist() == pytest.approx([-1.0, 0.25, -0.125])


def test_unscored_trajectories_are_left_out_and_counted_never_zero():
    table = trajectory_table([trajectory("up", "rl", 0.7), trajectory("up", "rl", None, k=1)], SCALES)
    line = task_table(table).iloc[0]
    assert (line["n"], line["unscored"]) == (1, 1)
    assert line["avg_at_k"] == 0.7
    assert line["gap_closed"] == pytest.approx(0.5)
    overall = overall_table(table).set_index("split")
    assert overall.loc["held-in", "unscored"] == 1
    assert overall.loc["held-in", "gap_closed"] == pytest.approx(0.5)


def test_a_policy_that_was_never_scored_has_a_line_without_numbers_and_no_average():
    table = trajectory_table([trajectory("up", "rl", None)], SCALES)
    line = task_table(table).iloc[0]
    assert (line["n"], line["unscored"]) == (0, 1)
    assert overall_table(table).empty


def test_unknown_task_is_named():
    row = {**trajectory("up", "rl", 0.7), "task": "other"}
    with pytest.raises(ValueError, match="'other', which has no scale"):
        trajectory_table([row], SCALES)


def test_task_and_overall_tables_by_hand():
    table = trajectory_table(
        [
            trajectory("up", "rl", 0.7),  # gap 0.5, gain 40 %
            trajectory("up", "rl", 0.9, k=1),  # gap 1.0, gain 80 %
            trajectory("down", "rl", 2.0),  # gap 0.0, gain 0 %
        ],
        SCALES,
    )
    up = task_table(table).set_index("task").loc["up"]
    assert (up["avg_at_k"], up["best_at_k"], up["gap_closed"]) == pytest.approx((0.8, 0.9, 0.75))
    assert up["gain_pct"] == pytest.approx(60)
    overall = overall_table(table).set_index("split").loc["held-in"]
    assert overall["gap_closed"] == pytest.approx((0.75 + 0.0) / 2)  # tasks weigh the same, not trajectories
    assert overall["gain_pct"] == pytest.approx((60 + 0) / 2)
    assert (overall["tasks"], overall["trajectories"]) == (2, 3)


def test_scales_survive_the_round_trip_through_the_task_table():
    table = task_table(trajectory_table(starter_rows(), SCALES))
    found = scales_from_table(table)
    assert {n: (s.init, s.best, s.greater_is_better) for n, s in found.items()} == {
        n: (s.init, s.best, s.greater_is_better) for n, s in SCALES.items()
    }
    assert set(trajectory_table(starter_rows(), SCALES)["gap_closed"]) == {0.0}


def test_interval_keeps_tasks_fixed():
    df = pd.DataFrame({"task": ["a", "b"], "seed": 0, "gap": [0.0, 1.0]})
    found = bootstrap_mean(df, "gap")
    assert found.value == 0.5
    assert math.isnan(found.low)  # nothing was drawn: no width is claimed
    assert found.verdict == "unknown"


def test_interval_covers_the_mean_about_as_often_as_it_says():
    generator, hits = np.random.default_rng(0), 0
    for trial in range(200):
        df = pd.DataFrame({"task": np.repeat(["a", "b", "c"], 20), "gap": generator.normal(0.2, 1.0, 60)})
        found = bootstrap_mean(df, "gap", draws=300, root=trial)
        hits += found.low <= 0.2 <= found.high
    assert 0.90 <= hits / 200 <= 0.98


def test_interval_over_seeds_is_wider_when_the_seeds_disagree():
    base = [{"task": "a", "seed": s, "k": k, "gap": 0.1 * k} for s in (0, 1, 2) for k in range(4)]
    same = bootstrap_mean(pd.DataFrame(base), "gap")
    apart = bootstrap_mean(pd.DataFrame([{**row, "gap": row["gap"] + row["seed"]} for row in base]), "gap")
    assert apart.high - apart.low > 3 * (same.high - same.low)
    assert (same.seeds, same.n, same.tasks) == (3, 12, 1)


def test_interval_does_not_depend_on_the_order_of_the_rows():
    table = trajectory_table(rows((0, 1)), SCALES)
    again = table.sample(frac=1, random_state=1).sort_values(["seed", "task", "policy", "trajectory"])
    ordered = table.sort_values(["seed", "task", "policy", "trajectory"])
    assert bootstrap_mean(again, "gap_closed") == bootstrap_mean(ordered, "gap_closed")


def test_paired_difference_uses_only_what_both_have():
    df = pd.DataFrame(
        {
            "policy": ["sft", "sft", "rl", "rl", "rl"],
            "task": ["a", "b", "a", "b", "c"],
            "gap": [0.1, 0.2, 0.2, 0.4, 9.0],
        }
    )
    found = paired_difference(df, "rl", "sft", "gap")
    assert found.value == pytest.approx((0.1 + 0.2) / 2)
    assert found.tasks == 2
    with pytest.raises(ValueError, match="share no"):
        paired_difference(df, "rl", "base", "gap")


def test_pairing_on_states_removes_what_the_states_share():
    generator = np.random.default_rng(0)
    level = generator.normal(0, 5, 30)  # easy and hard states
    parts = [
        pd.DataFrame({"policy": name, "task": "a", "state": range(30), "reward": level + shift + noise})
        for name, shift, noise in (("sft", 0.0, 0.0), ("rl", 0.2, generator.normal(0, 0.1, 30)))
    ]
    df = pd.concat(parts)
    paired = paired_difference(df, "rl", "sft", "reward", unit="state")
    loose = paired_difference(df, "rl", "sft", "reward")
    assert paired.verdict == "above"
    assert loose.verdict == "includes"
    assert paired.value == pytest.approx(loose.value)


def test_difference_table_gives_a_verdict_per_split():
    table = trajectory_table(rows(means={"sft": 0.3, "rl": 0.6}), SCALES)
    found = difference_table(table, [("rl", "sft"), ("rl", "gpt")], measures=["gap"])
    assert set(found["after"]) == {"rl"} and list(found["split"]) == ["held-in", "held-out", "all"]
    assert (found["zero"] == "above").all() and (found["verdict"] == TOO_FEW).all()  # it is one seed
    turned = difference_table(table, [("sft", "rl")], measures=["gap"])
    assert (turned["zero"] == "below").all() and (turned["verdict"] == TOO_FEW).all()


def test_a_ruined_metric_counts_as_one_gap_lost():
    table = trajectory_table([trajectory("down", "rl", 12.0), trajectory("down", "rl", 1.0, k=1)], SCALES)
    assert sorted(table["gap_closed"]) == [-10.0, 1.0]
    line = overall_table(table).set_index("split").loc["held-in"]
    assert (line["gap_closed"], line["gap_unbounded"]) == (0.0, -4.5)  # (-1 + 1) / 2 and (-10 + 1) / 2
    assert task_table(table).iloc[0]["gap_closed"] == 0.0 and best_at_k_table(table)["value"].min() == 0.0


def test_the_reward_of_single_steps_is_compared_state_by_state():
    steps = pd.DataFrame(
        {"policy": policy, "seed": 0, "task": "a", "state": state, "reward": reward}
        for policy, rewards in (("sft", (0.0, 0.5)), ("rl", (0.5, 1.0)))
        for state, reward in zip("xy", rewards, strict=True)
    )
    table = trajectory_table([trajectory("up", name, 0.7) for name in ("sft", "rl")], SCALES)
    line = difference_table(table, [("rl", "sft")], steps, measures=["reward"]).iloc[0]
    assert (line["difference"], line["low"], line["high"], line["n"]) == (0.5, 0.5, 0.5, 2)
    overall = overall_table(table, steps).query("split == 'held-in'").set_index("policy")["reward"]
    assert overall.to_dict() == {"sft": 0.25, "rl": 0.75}


def test_best_at_k_table_starts_at_the_mean_and_rises():
    table = trajectory_table(rows(k=4), SCALES)
    found = best_at_k_table(table, draws=50)
    line = found[(found["policy"] == "rl") & (found["split"] == "held-in")].set_index("k")["value"]
    mean = overall_table(table, draws=50).query("policy == 'rl' and split == 'held-in'")["gap_closed"].item()
    assert line[1] == pytest.approx(mean)
    assert line.is_monotonic_increasing and list(line.index) == [1, 2, 3, 4]


def test_step_statistics_leave_unscored_steps_out_and_count_them():
    steps = [step(0), step(1, outcome="invalid", reward=-1.0), step(2, outcome="unscored", reward=None)]
    steps += [step(3, outcome="error", reward=-1.0)]
    table = step_table([trajectory("up", "rl", 0.7, steps=steps)])
    shares = outcome_table(table).set_index("outcome")
    assert shares.loc["edited", "share"] == pytest.approx(1 / 3)
    assert (shares["n"].iloc[0], shares["unscored"].iloc[0]) == (3, 1)
    assert shares["share"].sum() == pytest.approx(1)
    scored = table[~table["unscored"]]
    assert scored["valid"].mean() == pytest.approx(2 / 3)
    assert scored["reward"].mean() == pytest.approx((0.25 - 1 - 1) / 3)
    assert len(scored) == 3 and table.loc[table["unscored"], ["valid", "reward"]].isna().all(axis=None)


def test_outcomes_may_be_written_in_capitals():
    table = step_table([trajectory("up", "rl", 0.7, steps=[step(0, outcome="UNSCORED")])])
    assert table["unscored"].tolist() == [True]


def test_far_apart_choice_has_a_larger_distance_than_random_ones():
    line = np.arange(20.0)
    distances = np.abs(line[:, None] - line[None])
    found = spread_table(distances, {"ends": [0, 1, 18, 19]}, draws=100)
    random = found[found["selection"] == "random"]
    assert found["mean_distance"].iloc[0] == pytest.approx((1 + 18 + 19 + 17 + 18 + 1) / 6)
    assert (random["mean_distance"] < found["mean_distance"].iloc[0]).mean() > 0.95
    pd.testing.assert_frame_equal(found, spread_table(distances, {"ends": [0, 1, 18, 19]}, draws=100))
