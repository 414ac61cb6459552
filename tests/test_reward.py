"""Eq. 6 by hand, in both versions and both directions, and what must hold for any scores."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.reward import FORMS, IDLE, sigmoid, step_reward

SCORES = st.floats(-1e6, 1e6)


def edited(before, after, init, best, form="v1"):
    return step_reward(Outcome.EDITED, before=before, after=after, init=init, best=best, form=form)


@pytest.mark.parametrize(
    ("before", "after", "init", "best", "v1", "v2", "gain"),
    [
        # higher is better: one percent of the way up is sigmoid(1), one percent down is sigmoid(-1)
        (0.50, 0.505, 0.5, 1.0, 0.7310585786, 0.01, 0.01),
        (0.505, 0.50, 0.5, 1.0, 0.2689414214, -0.01, -0.01),
        # the same where lower is better: best - init is negative, so a fall pays
        (10.0, 9.92, 10.0, 2.0, 0.7310585786, 0.01, 0.01),
        (9.92, 10.0, 10.0, 2.0, 0.2689414214, -0.01, -0.01),
        # nothing gained; the whole way; beyond the best known (neither version clips, ours does)
        (0.7, 0.7, 0.5, 1.0, 0.5, 0.0, -0.1),
        (10.0, 2.0, 10.0, 2.0, 1.0, 1.0, 1.0),
        (0.5, 1.25, 0.5, 1.0, 1.0, 1.5, 1.0),
        # below the starter: v2 has no floor either
        (0.5, -0.5, 0.5, 1.0, 0.0, -2.0, -0.3),
        # m_t is the state's score, not the starter's
        (0.9, 0.905, 0.5, 1.0, 0.7310585786, 0.01, 0.01),
    ],
)
def test_the_performance_part_by_hand(before, after, init, best, v1, v2, gain):
    assert edited(before, after, init, best) == pytest.approx(v1, abs=1e-9)
    assert edited(before, after, init, best, "v2") == pytest.approx(v2, abs=1e-12)
    assert edited(before, after, init, best, "gain") == pytest.approx(gain, abs=1e-12)


@pytest.mark.parametrize(
    ("outcome", "values"),
    [  #                       v1   v2  gain  v1 without performance, format, corner; gain without them
        (Outcome.INVALID, (0.0, -1.0, -0.3, 0.0, 0.5, 0.0, -0.3, -0.1, -0.3)),
        (Outcome.ERROR, (0.0, -1.0, -0.3, 0.0, 0.5, 0.0, -0.3, -0.1, -0.3)),
        (Outcome.NEUTRAL, (0.5, 0.0, -0.1, 0.5, 0.5, 0.5, -0.1, -0.1, -0.1)),
        (Outcome.CORNER, (0.5, 0.0, -0.1, 0.5, 0.5, 0.0, -0.1, -0.1, -0.3)),
    ],
)
def test_the_constant_parts_in_every_form(outcome, values):
    assert FORMS[:3] == ("v1", "v2", "gain")
    assert FORMS[3:6] == ("v1-no-performance", "v1-no-format", "v1-no-corner")
    assert FORMS[6:] == ("gain-no-performance", "gain-no-format", "gain-no-corner")
    assert tuple(step_reward(outcome, init=4.0, best=0.0, form=form) for form in FORMS) == values


def test_without_the_performance_part_only_the_sign_counts():
    form = "v1-no-performance"
    assert [edited(4.0, after, 4.0, 0.0, form) for after in (3.999, 4.0, 4.001)] == [1.0, 0.5, 0.0]
    form = "gain-no-performance"
    assert [edited(4.0, after, 4.0, 0.0, form) for after in (3.999, 4.0, 4.001)] == [1.0, -0.1, -0.3]


def test_the_other_ablations_leave_the_performance_part_alone():
    full = edited(0.50, 0.505, 0.5, 1.0)
    assert edited(0.50, 0.505, 0.5, 1.0, "v1-no-format") == full
    assert edited(0.50, 0.505, 0.5, 1.0, "v1-no-corner") == full
    for part in ("format", "corner"):
        assert edited(0.50, 0.505, 0.5, 1.0, f"gain-no-{part}") == pytest.approx(0.01)


@given(before=SCORES, after=SCORES, init=SCORES, best=SCORES, form=st.sampled_from(FORMS))
def test_a_reward_is_finite_in_its_range_and_has_the_sign_of_the_change(before, after, init, best, form):
    if best == init or abs(best - init) < 1e-6:
        return
    value = edited(before, after, init, best, form)
    assert math.isfinite(value)
    neutral = 0.5 if form.startswith("v1") else 0.0
    better = (after - before) * (1 if best > init else -1)
    if after == before and form.startswith("gain"):
        assert value == IDLE  # no change is no neutral thing there: it costs a little
    else:
        assert (value >= neutral) if better >= 0 else (value <= neutral)
    if form != "v2":
        assert (0.0 if neutral else -1.0) <= value <= 1.0


@given(before=SCORES, after=SCORES, form=st.sampled_from(FORMS))
def test_turning_the_metric_round_changes_nothing(before, after, form):
    assert edited(before, after, 1.0, 3.0, form) == edited(-before, -after, -1.0, -3.0, form)


@given(first=SCORES, second=SCORES)
def test_a_better_score_never_pays_less(first, second):
    low, high = sorted((first, second))
    for form in FORMS:
        if not (form.startswith("gain") and 0.0 in (low, high)):  # no change: see `IDLE`
            assert edited(0.0, low, 0.0, 50.0, form) <= edited(0.0, high, 0.0, 50.0, form)


def test_what_has_no_reward_raises_and_names_the_value():
    with pytest.raises(ValueError, match="unscored step has no reward"):
        step_reward(Outcome.UNSCORED, init=0.0, best=1.0)
    with pytest.raises(ValueError, match="after is nan"):
        edited(0.5, float("nan"), 0.5, 1.0)
    with pytest.raises(ValueError, match="before is None"):
        edited(None, 0.5, 0.5, 1.0)
    with pytest.raises(ValueError, match="both 0.5"):
        edited(0.5, 0.6, 0.5, 0.5)
    with pytest.raises(ValueError, match="form 'v3' is unknown"):
        step_reward(Outcome.NEUTRAL, init=0.0, best=1.0, form="v3")
    with pytest.raises(ValueError, match="'lost'"):
        step_reward("lost", init=0.0, best=1.0)


def test_sigmoid_at_its_ends_and_in_the_middle():
    assert sigmoid(0.0) == 0.5
    assert sigmoid(math.log(3)) == pytest.approx(0.75)
    assert sigmoid(-math.log(3)) == pytest.approx(0.25)
    assert (sigmoid(-1e9), sigmoid(1e9)) == (0.0, 1.0)
