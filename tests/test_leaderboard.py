"""Medals, medians and percentiles worked by hand, and every way a leaderboard can be wrong."""

import doctest
import math

import pandas as pd
import pytest

from mlagent_lib.core.errors import TaskError
from mlagent_lib.results import medals
from mlagent_lib.results.medals import medal_table, with_medals
from mlagent_lib.tasks.foreign import leaderboard
from mlagent_lib.tasks.foreign.leaderboard import (
    Leaderboard,
    above_median,
    medal,
    medal_places,
    medal_thresholds,
    percentile,
    read_leaderboard,
)

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:1087afc671c8eddcca7f8dc792a4d55877213ce86ac9d1f8c7b280edd0eb2514\nsize 67155\n"
)


def board(teams, *, up=True):
    """Return a leaderboard on which place k has the score k where lower is better, teams - k otherwise."""
    scores = range(teams - 1, -1, -1) if up else range(1, teams + 1)
    return Leaderboard(tuple(map(float, scores)), greater_is_better=up)


def test_the_doctests_hold():
    assert doctest.testmod(leaderboard).failed == 0
    assert doctest.testmod(medals).failed == 0


@pytest.mark.parametrize(
    ("teams", "places"),
    [
        (1, (1, 1, 1)),  # a share is at least one place
        (9, (1, 1, 3)),  # 0.9, 1.8 and 3.6, rounded down
        (99, (9, 19, 39)),  # the last of the shares: 10, 20, 40 %
        (100, (10, 20, 40)),  # gold is ten places from here on
        (249, (10, 49, 99)),
        (250, (10, 50, 100)),  # 10 + 0.5 rounded down; places from here on
        (499, (10, 50, 100)),
        (500, (11, 50, 100)),  # 10 + 1
        (999, (11, 50, 100)),
        (1000, (12, 50, 100)),  # 5 and 10 % from here on
        (2500, (15, 125, 250)),
        (35_000, (80, 1750, 3500)),
    ],
)
def test_medal_places(teams, places):
    assert medal_places(teams) == places


def test_whole_numbers_give_the_places_that_mle_bench_gets_from_floats():
    for teams in range(1, 6000):
        if teams < 100:
            floats = (int(teams * 0.1), int(teams * 0.2), int(teams * 0.4))
        elif teams < 250:
            floats = (10, int(teams * 0.2), int(teams * 0.4))
        elif teams < 1000:
            floats = (10 + int(teams * 0.002), 50, 100)
        else:
            floats = (10 + int(teams * 0.002), int(teams * 0.05), int(teams * 0.1))
        assert medal_places(teams) == tuple(max(1, place) for place in floats)


def test_no_teams_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        medal_places(0)
    with pytest.raises(ValueError, match="at least one team"):
        Leaderboard((), greater_is_better=True)


@pytest.mark.parametrize("scores", [(1.0, 2.0), (3.0, 1.0, 2.0)])
def test_an_unsorted_leaderboard_is_refused(scores):
    with pytest.raises(ValueError, match="sorted"):
        Leaderboard(scores, greater_is_better=True)


def test_medals_where_lower_is_better():
    found = board(300, up=False)  # place k has score k: gold to 10, silver to 50, bronze to 100
    assert medal_thresholds(found) == {"gold": 10.0, "silver": 50.0, "bronze": 100.0}
    scores = (0.5, 10.0, 10.1, 50.0, 100.0, 100.1, 300.0)
    expected = ["gold", "gold", "silver", "silver", "bronze", "", ""]
    assert [medal(score, found) for score in scores] == expected


def test_medals_where_higher_is_better():
    found = board(50)  # scores 49 to 0: gold to place 5 (45), silver to 10 (40), bronze to 20 (30)
    assert [medal(score, found) for score in (60, 45, 44, 40, 30, 29.9)] == [
        "gold", "gold", "silver", "silver", "bronze", "",
    ]  # fmt: skip


def test_teams_with_the_threshold_score_all_win():
    found = Leaderboard((5.0,) * 30 + (1.0,) * 20, greater_is_better=True)
    assert medal(5.0, found) == "gold" and medal(4.9, found) == ""


def test_a_score_is_rounded_to_five_decimals_before_it_is_placed():
    found = Leaderboard((0.12345, 0.5, 0.6), greater_is_better=False)
    assert medal(0.1234549, found) == "gold" and medal(0.1234551, found) == ""


def test_median_and_percentile():
    odd, even = board(5, up=False), board(4, up=False)  # 1 2 3 4 5 and 1 2 3 4
    assert (odd.median, even.median) == (3.0, 2.5)
    assert above_median(2.9, odd) and not above_median(3.0, odd)
    assert above_median(2.4, even) and not above_median(2.5, even)
    assert percentile(1.0, odd) == 80.0 and percentile(0.0, odd) == 100.0 and percentile(5.0, odd) == 0.0
    tied = Leaderboard((2.0, 2.0, 2.0, 1.0), greater_is_better=True)
    assert percentile(2.0, tied) == 25.0  # teams with the same score are not beaten


def test_percentile_and_medal_never_contradict_each_other():
    for up in (True, False):
        found = board(120, up=up)
        values = [percentile(score, found) for score in found.scores]
        assert values == sorted(values, reverse=True)
        ranks = [("gold", "silver", "bronze", "").index(medal(score, found)) for score in found.scores]
        assert ranks == sorted(ranks) and set(ranks) == {0, 1, 2, 3}


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_none_has_no_place(score):
    with pytest.raises(ValueError, match="no place"):
        medal(score, board(3))


# ---- files ----------------------------------------------------------------------------------------


def write(tmp_path, text):
    path = tmp_path / "leaderboard.csv"
    path.write_text(text)
    return path


def test_the_direction_is_read_from_the_order(tmp_path):
    higher = read_leaderboard(write(tmp_path, "teamId,score\n1,0.9\n2,0.9\n3,0.1\n"))
    assert higher.greater_is_better and higher.scores == (0.9, 0.9, 0.1) and higher.best == 0.9
    lower = read_leaderboard(write(tmp_path, "\ufeffscore ,x\n0.1,a\n0.2,b\n"))
    assert not lower.greater_is_better and lower.teams == 2


def test_equal_scores_need_a_stated_direction(tmp_path):
    path = write(tmp_path, "score\n0.5\n0.5\n")
    with pytest.raises(TaskError, match="tells no direction") as error:
        read_leaderboard(path)
    assert "--better" in error.value.cure
    assert not read_leaderboard(path, greater_is_better=False).greater_is_better


@pytest.mark.parametrize(
    ("text", "words", "cure"),
    [
        (POINTER, "Git-LFS pointer", "git lfs pull"),
        ("", "is empty", "column 'score'"),
        ("teamId,points\n1,0.5\n", "its columns are teamId, points", "column 'score'"),
        ("score\n", "holds no team", "below the header"),
        ("score\n0.5\nnone\n", "line 3: the score 'none'", "without a private score"),
        ("team,score\na,0.5\nb\n", "line 3: the score None", "without a private score"),
        ("score\n0.5\nnan\n", "no finite number", "without a private score"),
        ("score\n0.9\n0.3\n0.5\n0.1\n", "line 4: 0.5 is better than 0.3", "best team first"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path, text, words, cure):
    with pytest.raises(TaskError, match=words) as error:
        read_leaderboard(write(tmp_path, text))
    assert cure in error.value.cure


def test_a_missing_file_and_a_wrong_direction_are_explained(tmp_path):
    with pytest.raises(TaskError, match="FileNotFoundError"):
        read_leaderboard(tmp_path / "none.csv")
    path = write(tmp_path, "score\n0.9\n0.1\n")
    with pytest.raises(TaskError, match="higher is better there; lower was stated"):
        read_leaderboard(path, greater_is_better=False)


# ---- the table ------------------------------------------------------------------------------------


def trajectories(**changes):
    rows = {
        "task": ["t", "t", "t", "t", "other"],
        "policy": ["a", "a", "a", "b", "a"],
        "score": [48.0, 20.0, math.nan, 31.0, 1.0],
        "unscored": [False, False, True, False, False],
        "greater_is_better": True,
    }
    return pd.DataFrame(rows | changes)


def test_the_table_counts_medals_and_leaves_out_what_we_failed_to_score():
    found = medal_table(trajectories(), {"t": board(50)}).set_index("policy")  # 49 to 0, median 24.5
    assert list(found.index) == ["a", "b"]
    a, b = found.loc["a"], found.loc["b"]
    assert (a["teams"], a["n"], a["unscored"]) == (50, 2, 1)
    assert (a["gold"], a["silver"], a["bronze"]) == (1, 0, 0)
    assert a["any_medal_share"] == 0.5 and a["above_median_share"] == 0.5
    assert a["percentile"] == (96.0 + 40.0) / 2 and a["best_percentile"] == 96.0  # beats 48 and 20 of 50
    assert (b["gold"], b["silver"], b["bronze"], b["unscored"]) == (0, 0, 1, 0)
    assert tuple(a[f"{name}_score"] for name in ("gold", "silver", "bronze", "median")) == (45, 40, 30, 24.5)


def test_each_trajectory_has_its_place():
    found = with_medals(trajectories(), {"t": board(50)})
    assert found["medal"].tolist() == ["gold", "", None, "bronze"]
    assert found["above_median"].tolist() == [True, False, None, True]


def test_a_task_without_a_score_keeps_its_line():
    df = trajectories(unscored=True, score=math.nan)
    found = medal_table(df, {"t": board(50)})
    assert found["n"].tolist() == [0, 0] and found["gold"].tolist() == [0, 0]


def test_without_leaderboards_the_table_is_empty():
    assert medal_table(trajectories(), {}).empty


def test_a_leaderboard_of_the_other_direction_is_refused():
    with pytest.raises(ValueError, match="runs the other way"):
        medal_table(trajectories(), {"t": board(50, up=False)})
