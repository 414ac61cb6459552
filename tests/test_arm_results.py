"""The results of the arms: every number and verdict follows from the raw tables, and from nothing else."""

from __future__ import annotations

import json
import re
import shutil

import arm_tables
import numpy as np
import pandas as pd
import pytest
from arm_tables import GAPS, METHODS, SEEDS, raw_tables, searches, write_raw

from mlagent_lib.core.arms import ARMS
from mlagent_lib.core.errors import RunError
from mlagent_lib.results import arm_figures, claims
from mlagent_lib.results.arm_figures import build, figure_tables, main_table
from mlagent_lib.results.arms import (
    COMMAND,
    RAW,
    blame_summary,
    curve_table,
    diversity_by_arm,
    folder_of,
    left_of,
    load,
    manifest_of,
    overfit_table,
    saturation_summary,
    search_table,
    status_table,
)
from mlagent_lib.results.claims import TASK_COUNTS, claim_table
from mlagent_lib.results.evaluation import contrast, difference_table, mean_of, named, overall_table
from mlagent_lib.results.figures import ARM_FIGURES, from_csv
from mlagent_lib.results.judge import NOT_TESTABLE, OPPOSITE, REPRODUCED, TOO_FEW, UNCLEAR, judge
from mlagent_lib.results.open_questions import answers, search_difference
from mlagent_lib.results.smallest_difference import smallest_differences

DERIVED = ("overall", "differences", "tasks", "claims", "coder_blame")


@pytest.fixture(scope="module")
def tables():
    return raw_tables()


def one_claim(claim: str, tables) -> dict:
    """Return the line of one claim; the whole table takes seven times as long."""
    return dict(zip(claims.COMPUTED, claims.MAKERS[claim](tables), strict=True))


# Reading the raw tables -------------------------------------------------------------------------------------


def test_raw_tables_are_read_as_they_were_written(tables, tmp_path):
    found = load(write_raw(tmp_path))
    assert tuple(found) == RAW
    for name in RAW:
        pd.testing.assert_frame_equal(found[name], tables[name], check_dtype=False, check_like=True)
    assert left_of(tmp_path) == ["seed0/search"]


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"files": 3}'])
def test_a_missing_or_damaged_manifest_names_the_command(tmp_path, text):
    write_raw(tmp_path)
    path = tmp_path / "manifest.json"
    path.write_text(text) if text else path.unlink()
    with pytest.raises(
        RunError, match=rf"manifest\.json is missing or damaged.*restore it from git.*{COMMAND}"
    ):
        load(tmp_path)


def test_a_missing_table_names_the_command(tmp_path):
    (write_raw(tmp_path) / "blame.csv").unlink()
    with pytest.raises(
        RunError, match=rf"blame\.csv is missing.*restore it from git, or make it with '{COMMAND}'"
    ):
        load(tmp_path)


def test_one_changed_byte_is_refused(tmp_path):
    path = write_raw(tmp_path) / "trajectories.csv"
    content = path.read_bytes()
    path.write_bytes(content.replace(b"0.48", b"0.49", 1))
    assert path.read_bytes() != content
    with pytest.raises(
        RunError, match=r"trajectories\.csv is not the file that manifest\.json was written for"
    ):
        load(tmp_path)


# Means and differences by hand ------------------------------------------------------------------------------


def test_means_by_hand(tables):
    found = mean_of(tables["trajectories"], "rl", "gap")
    assert found.value == pytest.approx(0.5)  # the offsets of the seeds cancel, and so does the noise
    assert (found.n, found.tasks, found.seeds, found.excluded) == (12, 2, 3, 1)  # 9.0 is none of ours
    assert 0.43 <= found.low < 0.5 < found.high <= 0.57  # all within a seed's offset and the noise
    assert mean_of(tables["trajectories"], "rl", "gap", "held-in").n == 6
    # accuracy 0.5 of 0.5 to 0.9: 0.7 is +40 %; error 2.0 to 1.0: 1.5 is -25 %
    assert mean_of(tables["trajectories"], "rl", "gain", "held-in").value == pytest.approx(40.0)
    assert mean_of(tables["trajectories"], "rl", "gain", "held-out").value == pytest.approx(25.0)
    assert mean_of(tables["step_rewards"], "sft", "reward").value == pytest.approx(0.4)
    assert (
        mean_of(tables["trajectories"], "mix-0", "gap") is None
        and mean_of(tables["step_rewards"], "base", "reward") is None
    )


def test_one_ruined_trajectory_is_bounded_and_shown_unbounded():
    rows = arm_tables.trajectories({"sft": 0.2, "rl": 0.5})
    spoilt = (
        rows["who"].eq("sft") & rows["seed"].eq(0) & rows["task"].eq("pocket-up") & rows["trajectory"].eq(0)
    )
    rows.loc[spoilt, "gap_closed"] = -60.0
    found = overall_table(rows)
    line = found[(found["policy"] == "sft") & (found["split"] == "all")].iloc[0]
    # one of twelve: 0.18 becomes -1 in the mean that counts, and -60 in the one beside it
    assert line["gap_closed"] == pytest.approx(0.2 - 1.18 / 12)
    assert line["gap_unbounded"] == pytest.approx(0.2 - 60.18 / 12)


def test_the_table_of_arms_has_a_line_for_each_that_was_run(tables):
    found = named(overall_table(tables["trajectories"], tables["step_rewards"]))
    assert list(found["who"].unique()) == list(GAPS)
    lines = found[found["who"] == "rl"].set_index("split")
    assert list(lines.index) == ["held-in", "held-out", "all"]
    assert lines["gap_closed"].notna().all() and lines["gain_pct"].notna().all()
    assert lines["reward"].notna().tolist() == [True, False, False]  # single steps are from held-in tasks
    gaps = found[found["split"] == "all"].set_index("who")
    for policy, gap in GAPS.items():
        assert gaps.loc[policy, "gap_closed"] == pytest.approx(gap, abs=1e-9)
    # what we failed to score is in no mean: not in the unbounded one either
    assert gaps.loc["rl", "gap_unbounded"] == pytest.approx(0.5) and gaps.loc["rl", "unscored"] == 1
    assert gaps.loc["sft", "unscored"] == 0


def test_paired_differences_by_hand(tables):
    found, each = contrast(tables["trajectories"], "rl", "sft", "gap")
    assert found.value == pytest.approx(0.3) and each == pytest.approx([0.3] * 3)
    assert 0.26 <= found.low <= found.high <= 0.34  # paired by seed: their offsets are in neither end
    found, each = contrast(tables["step_rewards"], "rl", "sft", "reward")
    assert found.value == pytest.approx(0.2) and each == pytest.approx([0.2] * 3)
    assert (found.low, found.high) == pytest.approx((0.2, 0.2))  # state by state the difference is the same
    assert contrast(tables["trajectories"], "rl", "mix-50", "gap") is None
    assert contrast(tables["step_rewards"], "rl", "base", "reward") is None


def test_a_difference_counts_the_seeds_that_both_have(tables):
    rows = tables["trajectories"]
    kept = rows[~((rows["who"] == "sft") & (rows["seed"] == 1))]
    found, each = contrast(kept, "rl", "sft", "gap")
    assert found.seeds == 2 and each == pytest.approx([0.3, 0.3])
    # and it is their difference, although the third seed of one of them is higher than both
    assert found.value == pytest.approx(0.3)


def test_the_table_of_contrasts(tables):
    rows = tables["trajectories"], tables["step_rewards"]
    found = difference_table(rows[0], [("rl", "sft"), ("rl", "mix-0")], rows[1])
    assert set(found["before"]) == {"sft"}  # the other was not run
    line = found[(found["measure"] == "gap") & (found["split"] == "all")].iloc[0]
    assert (line["seeds"], line["seeds_above"], line["by_seed"]) == (3, 3, "+0.300 +0.300 +0.300")
    assert (
        line["zero"] == "above" and line["verdict"] == REPRODUCED and line["difference"] == pytest.approx(0.3)
    )
    nothing = difference_table(rows[0], [("rl", "mix-0")], rows[1])
    assert nothing.empty and list(nothing.columns) == list(found.columns)


# Verdicts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "by_seed", "expected"),
    [
        (0.1, 0.4, [0.2, 0.3, 0.1], REPRODUCED),
        (0.1, 0.4, [0.6, 0.3, -0.1], UNCLEAR),  # a seed disagrees
        (0.1, 0.4, [0.6, 0.3, 0.0], UNCLEAR),
        (-0.1, 0.4, [0.2, 0.3, 0.1], UNCLEAR),  # the interval holds zero
        (0.0, 0.4, [0.2, 0.3, 0.1], UNCLEAR),
        (-0.4, -0.1, [-0.2, -0.3, -0.1], OPPOSITE),
        (-0.4, -0.1, [-0.2, -0.3, 0.1], UNCLEAR),
        (-0.4, 0.0, [-0.2, -0.3, -0.1], UNCLEAR),
        (0.1, 0.4, [0.2, 0.3], TOO_FEW),
        (float("nan"), float("nan"), [0.2], TOO_FEW),
        (float("nan"), float("nan"), [0.2, 0.2, 0.2], UNCLEAR),
    ],
)
def test_judging_by_hand(low, high, by_seed, expected):
    assert judge(low, high, by_seed) == expected


def test_the_verdicts_on_the_seven_claims(tables):
    found = claim_table(tables).set_index("claim")
    assert found["verdict"].to_dict() == {
        "C1": NOT_TESTABLE,
        "C2": REPRODUCED,  # +0.3 on held-out tasks
        "C3": OPPOSITE,  # episode-wise is 0.2 better
        "C4": REPRODUCED,  # +0.2 over RL from the base model
        "C5": UNCLEAR,  # +0.2, +0.1 and 0: the weakest counts
        "C6": REPRODUCED,
        "C7": REPRODUCED,
    }
    assert "rl − sft: +0.30 [" in found.loc["C2", "ours"]
    assert "rl − episode-wise: −0.20 [" in found.loc["C3", "ours"]
    assert found.loc["C3", "ours"].endswith("a seed: rl 2.0, episode-wise 2.0, episode-small 2.0")
    assert "(seeds +0.20, +0.20, +0.20; n = 24)" in found.loc["C4", "ours"]
    assert "rl − one-idea: not run; rl − random-start: not run" in found.loc["C4", "ours"]
    assert "curve ends above its start in 3 of 3 seeds" in found.loc["C7", "ours"]
    assert "15.91 % after RL" in found.loc["C2", "paper"] and (found["paper"].str.len() > 20).all()


@pytest.mark.parametrize(
    ("claim", "gaps", "expected"),
    [
        ("C2", {"rl": 0.2}, UNCLEAR),
        ("C2", {"rl": 0.1}, OPPOSITE),
        ("C3", {"episode-wise": 0.3}, REPRODUCED),
        ("C4", {"rl-from-base": 0.6}, OPPOSITE),
        ("C4", {"rl-from-base": 0.5}, UNCLEAR),
        # C5: the weakest of the three
        ("C5", {"no-corner": 0.3}, REPRODUCED),
        ("C5", {"no-corner": 0.7}, OPPOSITE),
        ("C5", {"no-corner": 0.7, "no-format": 0.5}, OPPOSITE),
        ("C5", {"no-corner": 0.4, "no-format": 0.5}, UNCLEAR),
        ("C6", {"tasks-3": 0.9, "tasks-6": 0.0, "rl": 0.2}, OPPOSITE),
        ("C6", {"tasks-3": 0.5, "tasks-6": 0.5}, UNCLEAR),  # RL helps, on however many tasks
    ],
)
def test_a_verdict_follows_the_arms(claim, gaps, expected):
    found = raw_tables(trajectories=arm_tables.trajectories(GAPS | gaps))
    assert one_claim(claim, found)["verdict"] == expected


def test_where_nothing_could_be_drawn_again_no_interval_is_claimed(tables):
    one = tables["trajectories"].query("seed == 0 and trajectory == 0")
    found = claims.compared({"trajectories": one}, "rl", "sft")
    assert "rl − sft: +0.30 [no interval] (seeds +0.30; n = 4)" in found.text and found.verdict == TOO_FEW


def without(*arms: str) -> pd.DataFrame:
    return arm_tables.trajectories({name: gap for name, gap in GAPS.items() if name not in arms})


@pytest.mark.parametrize(
    ("claim", "missing"),
    [("C2", "sft"), ("C3", "episode-wise"), ("C4", "rl-from-base"), ("C5", "no-corner"), ("C6", "tasks-6")],
)
def test_a_claim_whose_arms_were_not_run_is_not_decided(claim, missing):
    found = one_claim(claim, raw_tables(trajectories=without(missing)))
    assert found["verdict"] == TOO_FEW and "not run" in found["ours"]


def test_two_seeds_decide_nothing():
    tables = raw_tables(trajectories=arm_tables.trajectories(seeds=(0, 1)))
    found = {claim: one_claim(claim, tables) for claim in ("C2", "C4", "C5", "C6")}
    assert {line["verdict"] for line in found.values()} == {TOO_FEW}
    assert "(seeds +0.30, +0.30;" in found["C2"]["ours"]


def test_the_slope_over_the_number_of_tasks_by_hand(tables):
    # values 0.2, 0.3, 0.4, 0.5 at 0, 3, 6, 9 tasks: a straight line of 0.3 in nine
    assert np.polyfit([0, 3, 6, 9], [0.2, 0.3, 0.4, 0.5], 1)[0] == pytest.approx(1 / 30)
    text = one_claim("C6", tables)["ours"]
    assert "slope 0.033 a task [" in text and "(seeds 0.033, 0.033, 0.033)" in text
    assert text.endswith("means 0: 0.20, 3: 0.30, 6: 0.40, 9: 0.50")


def test_the_slope_is_that_of_least_squares_in_every_seed():
    rows = arm_tables.trajectories()
    moved = {("rl", 0): 0.2, ("tasks-3", 1): -0.7, ("tasks-6", 2): 0.5, ("sft", 2): 0.3}
    for (policy, seed), by in moved.items():
        rows.loc[rows["who"].eq(policy) & rows["seed"].eq(seed), "gap_closed"] += by
    text = one_claim("C6", raw_tables(trajectories=rows))["ours"]
    told = [float(word.replace("−", "-")) for word in re.search(r"seeds ([^)]*)", text)[1].split(", ")]
    names = list(TASK_COUNTS)
    fits = [
        np.polyfit([0, 3, 6, 9], [GAPS[name] + moved.get((name, seed), 0.0) for name in names], 1)[0]
        for seed in SEEDS
    ]
    assert told == pytest.approx(fits, abs=6e-4)
    assert float(re.search(r"slope (\d\S+) a task", text)[1]) == pytest.approx(np.mean(fits), abs=6e-4)


def test_the_slope_takes_the_seeds_that_all_four_arms_have(tables):
    rows = tables["trajectories"]
    kept = rows[~(rows["who"].eq("tasks-6") & rows["seed"].eq(0))].copy()
    kept.loc[kept["who"].eq("rl") & kept["seed"].eq(0), "gap_closed"] = 0.9  # a seed that must not count
    text = one_claim("C6", {**tables, "trajectories": kept})["ours"]
    assert "slope 0.033 a task" in text and "(seeds 0.033, 0.033)" in text


def test_without_an_arm_there_is_no_slope_but_what_nine_are_against_three(tables):
    rows = tables["trajectories"]
    found = one_claim("C6", {**tables, "trajectories": rows[rows["who"] != "tasks-6"]})
    assert found["verdict"] == TOO_FEW
    assert "nine against three, rl − tasks-3: +0.20 [" in found["ours"] and "slope" not in found["ours"]


def test_performance_that_does_not_keep_improving_is_not_reproduced(tables):
    falling = tables["curves"].copy()
    end = falling["who"].eq("rl") & falling["seed"].eq(1) & falling["update"].eq(20)
    falling.loc[end & falling["split"].eq("holdout"), "reward"] = 0.3
    found = one_claim("C7", {**tables, "curves": falling})
    assert found["verdict"] == UNCLEAR and "in 2 of 3 seeds" in found["ours"]
    worse = raw_tables(step_rewards=arm_tables.steps({"sft": 0.7, "rl": 0.6}))
    assert one_claim("C7", worse)["verdict"] == OPPOSITE


def test_one_number_in_the_raw_tables_changes_the_verdict(tables, tmp_path):
    changed = tables["trajectories"].copy()
    one = changed.query("who == 'rl' and seed == 2 and task == 'pocket-up' and trajectory == 0").index
    assert len(one) == 1
    # rl − rl-from-base is +0.2 in seed 2; one of its four trajectories 1.43 lower: 0.2 - 1.43 / 4 < 0
    changed.loc[one, "gap_closed"] = -1.0
    folder = write_raw(tmp_path, raw_tables(trajectories=changed))
    found = one_claim("C4", load(folder))
    assert found["verdict"] == UNCLEAR and ", −0.16;" in found["ours"]
    assert one_claim("C4", tables)["verdict"] == REPRODUCED


# Other tables -----------------------------------------------------------------------------------------------


def test_the_main_table_by_hand(tables):
    found = main_table(tables, k=2).set_index(["task", "policy"])
    assert sorted(found.index) == sorted(
        (task, policy) for task in arm_tables.TASKS for policy in ("base", "sft", "rl")
    )
    up, down = found.loc[("pocket-up", "rl")], found.loc[("pocket-down", "rl")]
    # gap closed 0.5 on average; the better of two trajectories 0.52, in either direction of the metric
    assert (up["avg_at_k"], up["best_at_k"], up["gain_pct"]) == pytest.approx((0.7, 0.5 + 0.52 * 0.4, 40.0))
    assert (down["avg_at_k"], down["best_at_k"], down["gain_pct"]) == pytest.approx((1.5, 2.0 - 0.52, 25.0))
    assert (up["n"], up["seeds"], up["best"], up["init"]) == (6, 3, 0.9, 0.5)
    assert main_table(tables, k=8)["best_at_k"].isna().all()  # nobody made eight


def test_saturation_by_hand():
    rows = pd.DataFrame({"who": "rl", "seed": 0, "task": "t", "outcome": "edited", "reason": ""}, index=[0])
    # v1 pays sigmoid(100 share): 0.5, nearly 1 and nearly 1
    tables = {"step_rewards": pd.concat([rows.assign(share=share) for share in (0.0, 0.3, 0.5)])}
    found = saturation_summary(tables)
    assert found["n"] == 3 and found["saturated"] == pytest.approx(2 / 3)
    assert found["pairs_lost"] == pytest.approx(1 / 3, abs=0.02)  # of the three pairs one, (0.3, 0.5)
    # nothing to pay for, or nothing to tell apart
    none = saturation_summary({"step_rewards": rows.assign(share=np.nan, outcome="error")})
    assert none["n"] == 0 and np.isnan(none["saturated"]) and np.isnan(none["pairs_lost"])
    one = saturation_summary({"step_rewards": rows.assign(share=0.0)})
    assert (one["n"], one["saturated"]) == (1, 0.0) and np.isnan(one["pairs_lost"])


def test_blame_by_hand(tables):
    (line,) = blame_summary(tables).to_dict("records")
    assert (line["who"], line["edits"], line["failed"], line["seeds"]) == ("rl", 10, 3, 1)
    assert (line["coder_refused"], line["coder_wrong"]) == (1, 1)  # the third fails with any coder
    assert line["reward"] == pytest.approx(0.65) and line["exact_reward"] == pytest.approx(0.8)
    assert line["excused_reward"] == pytest.approx(0.7)  # 6 + 0 + 0.5 + 0.5 + 0 of ten
    assert blame_summary({"blame": pd.DataFrame(columns=tables["blame"].columns)}).empty


def test_overfitting_by_hand(tables):
    found = overfit_table(tables).set_index("who")
    full, sft = found.loc["rl"], found.loc["sft"]
    assert (full["feedback"], full["report"], full["difference"]) == pytest.approx((0.6, 0.5, 0.1))
    assert (full["low"], full["high"]) == pytest.approx((0.1, 0.1))  # of the same trajectories
    assert (sft["difference"], sft["low"], sft["high"]) == pytest.approx((0.0, 0.0, 0.0), abs=1e-12)
    assert full["n"] == 12 and "mix-0" not in found.index


def test_searches_by_hand(tables):
    found = search_table(tables)
    assert list(found["method"].unique()) == list(METHODS)
    first = found[found["method"] == METHODS[0]].set_index("execution")
    # the search that ended early hands in what it had
    assert first["value"].to_dict() == pytest.approx({1: 0.1, 2: 0.3, 3: 0.5})
    assert set(first["n"]) == {2} and set(first["seeds"]) == {2}
    other = found[found["method"] == METHODS[1]].set_index("execution")
    assert set(other["value"]) == {-1.0}  # bounded, like every gap
    nothing = search_table({"searches": tables["searches"].iloc[:0]})
    assert nothing.empty and list(nothing.columns) == list(found.columns)


def test_a_search_that_executed_nothing_hands_in_the_starter(tables):
    rows = tables["searches"]
    idle = rows[rows["method"].eq(METHODS[0]) & rows["execution"].eq(0) & rows["seed"].eq(0)].assign(seed=2)
    found = search_table({"searches": pd.concat([rows, idle])}).set_index(["method", "execution"])
    assert found.loc[(METHODS[0], 3), "value"] == pytest.approx(1.0 / 3)  # 0.4, 0.6 and 0


def test_diversity_and_curves_by_hand(tables):
    found = diversity_by_arm(tables).set_index("who")
    assert found.loc["rl", ["different", "low", "high"]].tolist() == pytest.approx([0.25, 0.2, 0.3])
    assert found.loc["sft", "edits"] == 60 and found.loc["sft", "seeds"] == 3
    curve = curve_table(tables, ("rl",))
    assert curve["update"].tolist() == [0, 10, 20] * 3 and curve["minutes"].tolist() == [0.0, 1.0, 2.0] * 3
    assert curve["reward"].tolist() == pytest.approx([0.4, 0.5, 0.6] * 3)
    assert set(curve["label"]) == {"full method"}


def test_the_status_says_what_is_finished(tables, tmp_path):
    found = status_table(write_raw(tmp_path), tables).set_index("arm")
    assert list(found.index) == [arm.label for arm in ARMS]
    assert found.loc["full method", ["seeds", "minutes a seed", "commit"]].tolist() == [3, 2.0, "abababab"]
    missing = found.loc["expert states only"]
    assert missing["seeds"] == 0 and np.isnan(missing["minutes a seed"]) and missing["commit"] == ""


def test_the_folder_of_the_results(repository):
    assert folder_of() == repository / "figures" / "ablations"
    assert str(folder_of("elsewhere")) == "elsewhere"


# Everything that is derived ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Return a folder with everything built, and what the first build said."""
    folder = write_raw(tmp_path_factory.mktemp("arms"))
    return folder, build(folder)


def three_figures(tables):
    """Return the tables of three figures, which are enough to see what a check sees."""
    return {name: arm_figures.frame(tables, name) for name in ("pipeline", "overfit", "search_cost")}


@pytest.fixture
def few(monkeypatch):
    """Let a build draw three figures only."""
    monkeypatch.setattr(arm_figures, "figure_tables", three_figures)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a folder with three arms and three figures built."""
    folder = write_raw(tmp_path_factory.mktemp("small"), three_arms())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arm_figures, "figure_tables", three_figures)
        build(folder)
    return folder


def three_arms(episode_wise: float = 0.7) -> dict[str, pd.DataFrame]:
    gaps = {"sft": 0.2, "rl": 0.5, "episode-wise": episode_wise}
    return raw_tables(trajectories=arm_tables.trajectories(gaps))


def copy_of(folder, target):
    shutil.copytree(folder, target / "copy")
    return target / "copy"


def test_a_build_writes_every_table_and_every_figure(built):
    folder, changed = built
    wanted = {f"{name}.csv" for name in DERIVED}
    wanted |= {f"{name}{suffix}" for name in ARM_FIGURES for suffix in (".csv", ".png", ".svg")}
    assert set(changed) == wanted and len(ARM_FIGURES) == 15
    raw = {f"{name}.csv" for name in RAW} | {"manifest.json"}
    assert {path.name for path in folder.iterdir()} == wanted | raw
    read = {name: pd.read_csv(folder / f"{name}.csv") for name in ARM_FIGURES}
    assert all(set(table["profile"]) == {"ablations"} for table in read.values())
    assert all(set(table["hardware"]) == {"cpu: test"} for table in read.values())
    assert "3 seeds × 20 updates:" in " ".join(read["pipeline"]["text"])


def test_a_figure_is_drawn_from_its_table_or_says_why_not(built, tmp_path):
    assert from_csv(built[0], "overfit").axes
    assert from_csv(tmp_path, "overfit") == "overfit: its arms were not run yet"


def test_one_arm_alone_gives_results_too(tmp_path):
    alone = raw_tables(
        trajectories=arm_tables.trajectories({"rl-from-base": 0.3}),
        step_rewards=arm_tables.steps({"rl-from-base": 0.4}).assign(outcome="error", share=np.nan),
        curves=arm_tables.curves(("rl-from-base",)),
        edits=raw_tables()["edits"].query("who == 'none'"),
        blame=pd.DataFrame(columns=["arm", "policy", "seed"]),
        searches=arm_tables.searches().iloc[:0],
    )
    tables = load(write_raw(tmp_path, alone))
    assert set(claim_table(tables)["verdict"]) == {NOT_TESTABLE, TOO_FEW}
    means = {"means": overall_table(tables["trajectories"], tables["step_rewards"])}
    shown = figure_tables(tables | means)
    assert set(shown) == {"pipeline", "rl_starts", "arms_overview", "overfit"}
    assert "not run yet" in " ".join(shown["pipeline"]["text"])
    assert "nan" not in " ".join(shown["pipeline"]["text"])
    empty = main_table(tables)
    assert empty.empty and "gain_pct" in empty.columns


def test_a_second_build_gives_the_same_bytes(small, few):
    before = {path.name: path.read_bytes() for path in small.iterdir()}
    assert build(small, check=True) == [] == build(small)
    assert {path.name: path.read_bytes() for path in small.iterdir()} == before


def test_a_check_finds_what_was_changed_by_hand_and_writes_nothing(small, few, tmp_path):
    folder = copy_of(small, tmp_path)
    text = (folder / "claims.csv").read_text()
    (folder / "claims.csv").write_text(text.replace(OPPOSITE, REPRODUCED))
    picture = bytearray((folder / "overfit.png").read_bytes())
    picture[-20] ^= 1
    (folder / "overfit.png").write_bytes(picture)
    table = pd.read_csv(folder / "search_cost.csv")
    table.assign(value=table["value"] + 0.1).to_csv(folder / "search_cost.csv", index=False)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert build(folder, check=True) == ["claims.csv", "overfit.png", "search_cost.csv"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert build(folder) == ["claims.csv", "overfit.png", "search_cost.csv"]
    assert all((folder / name).read_bytes() == (small / name).read_bytes() for name in before)


@pytest.mark.parametrize("name", ["differences.csv", "overfit.svg"])
def test_a_deleted_file_names_the_commands(small, few, tmp_path, name):
    folder = copy_of(small, tmp_path)
    (folder / name).unlink()
    with pytest.raises(RunError, match=rf"{name} is missing.*'mlagent figures' to draw it, or '{COMMAND}'"):
        build(folder, check=True)
    assert build(folder) == [name]


def test_a_changed_raw_table_changes_what_is_derived(small, few, tmp_path):
    folder = copy_of(small, tmp_path)
    write_raw(folder, three_arms(episode_wise=0.3))
    figure = [f"overfit{suffix}" for suffix in (".csv", ".png", ".svg")]
    assert build(folder, check=True) == ["overall.csv", "differences.csv", "claims.csv", *figure]


# The committed results --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def committed(repository):
    folder = repository / "figures" / "ablations"
    if not (folder / "manifest.json").is_file():
        pytest.skip("there are no committed results of the arms yet")
    return folder


def test_every_finished_unit_of_the_committed_results_says_where_it_comes_from(committed):
    manifest, tables = manifest_of(committed), load(committed)
    done = tables["units"][tables["units"]["finished"].astype(bool)]
    assert set(manifest["units"]) == {f"seed{row.seed}/{row.unit}" for row in done.itertuples()}
    assert not set(manifest["units"]) & set(manifest["left"])
    for name, unit in manifest["units"].items():
        assert unit["seed"] == int(name.split("/")[0].removeprefix("seed")), name
        assert len(unit["git"]["commit"]) == 40 and not unit["git"]["dirty"], name
        assert {"python", "torch", "transformers", "trl"} <= set(unit["versions"]), name
        assert unit["device"] and unit["wall_s"] > 0 and unit["outputs"], name
    assert len({unit["package"] for unit in manifest["units"].values()}) == 1


def test_the_committed_claims_are_those_of_the_committed_tables(committed):
    computed = json.loads(claim_table(load(committed)).to_json(orient="records"))
    stored = json.loads(
        pd.read_csv(committed / "claims.csv", keep_default_na=False).to_json(orient="records")
    )
    assert computed == stored
    assert {row["claim"] for row in stored} == {f"C{number}" for number in range(1, 8)}


@pytest.mark.slow
def test_the_committed_tables_and_figures_follow_from_the_raw_tables(committed):
    assert build(committed, check=True) == []


# Certainty --------------------------------------------------------------------------------------------------


def contrasts_of(*by_seed: str, measure: str = "gap", half: float = 0.2) -> pd.DataFrame:
    line = {"measure": measure, "split": "all" if measure == "gap" else "held-in", "low": -half, "high": half}
    return pd.DataFrame([line | {"by_seed": words} for words in by_seed])


def test_how_large_a_difference_has_to_be_by_hand():
    # variances 0.01 and 0.03: a standard deviation of sqrt(0.02) = 0.141
    found = smallest_differences(contrasts_of("+0.100 +0.200 +0.300", "+0.000 -0.300 +0.000", half=0.25))
    assert [(row.measure, row.contrasts, row.half_width) for row in found] == [("gap", 2, 0.25)]
    assert found[0].between_seeds == pytest.approx(0.02**0.5)
    assert found[0].told_apart(3) == pytest.approx(4.3027 * 0.02**0.5 / 3**0.5, rel=1e-4)  # t of a table
    assert found[0].told_apart(5) == pytest.approx(2.7764 * 0.02**0.5 / 5**0.5, rel=1e-4)
    assert str(found[0]).endswith("above 0.35 with 3 seeds, 0.18 with 5 seeds, 0.10 with 10 seeds")


def test_one_seed_knows_no_spread():
    assert smallest_differences(contrasts_of("+0.100")) == []
    both = pd.concat([contrasts_of("+0.100 +0.200"), contrasts_of("+0.1 +0.3", measure="reward")])
    assert [row.measure for row in smallest_differences(both)] == ["gap", "reward"]


# Beyond the paper -------------------------------------------------------------------------------------------


def test_the_difference_of_two_searches_by_hand(tables):
    # after one execution both close 0.2 and 0.0, the tree 3.0 less, bounded at -1: 0.1 against -1
    found = search_difference(tables, *METHODS, 1)
    assert found.value == pytest.approx(1.1) and found.seeds == 2
    # after three: seed 0 ended with 0.4 after two, seed 1 has 0.6
    assert search_difference(tables, *METHODS, 3).value == pytest.approx(1.5)
    assert search_difference(tables, METHODS[0], "none such", 3) is None


def test_what_the_paper_leaves_open_is_said_in_numbers(tables):
    said = dict(sentence.split(":", 1) for sentence in answers(tables))
    assert list(said) == ["Reward", "States", "Coder", "Luck", "Overfitting", "Search"]
    assert "rl − reward-v2: not run" in said["Reward"] and "rl − mix-0: not run" in said["States"]
    # three of ten edits failed; the exact coder mends two of them, which paid 0.5 and 0.0
    assert "of 10 edits of rl, 3 failed, 2 of them by the fault of the coder alone" in said["Coder"]
    assert "from 0.650 to 0.700" in said["Coder"]
    assert "1 of 1 best scripts" in said["Luck"]
    assert "closes 0.60 of the gap on the labels that pay and 0.50 on those" in said["Overfitting"]
    assert "ahead of the trained policy nowhere" in said["Search"] and "24: 1.50 [" in said["Search"]
    rows = searches()
    rows["gap"] = rows["gap"].where(rows["method"] == METHODS[0], 0.3)  # above 0.1 after one, 0.3 after two
    turned = answers(raw_tables(searches=rows))[-1]
    assert "ahead of the trained policy from 1 executions on" in turned


def test_what_was_not_run_is_not_said(tables):
    empty = {name: tables[name].iloc[:0] for name in ("step_rewards", "blame", "luck", "searches")}
    assert [sentence.split(":")[0] for sentence in answers({**tables, **empty})] == ["States", "Overfitting"]
