"""The audit: its rules on numbers worked by hand, its conditions and its numbers on the committed record."""

from types import SimpleNamespace

import pytest

from mlagent_lib.commands import tasks_audit
from mlagent_lib.tasks.pocket import audit
from mlagent_lib.tasks.pocket.audit import Condition, conditions, learn, recorded, rule_edits, share_after
from mlagent_lib.tasks.pocket.cards import CARDS
from mlagent_lib.tasks.pocket.catalogue import edits
from mlagent_lib.tasks.pocket.measure import Measurement, run_trusted
from mlagent_lib.tasks.registry import find_task, list_tasks

SPLIT_OF = {card.name: card.split for card in CARDS}


@pytest.fixture
def record():
    found = recorded()
    assert list(found) == list_tasks()
    return found


@pytest.mark.parametrize("index", range(7))
def test_the_committed_record_meets_the_conditions(record, index):
    found = conditions(record, SPLIT_OF)
    assert len(found) == 7
    assert found[index].holds, f"{found[index].asked}: {found[index].found}"


def test_the_record_is_of_this_catalogue_and_of_what_it_teaches(record):
    taught = audit.learned_on_held_in(record)
    for card in CARDS:
        one = record[card.name]
        assert list(one["shares"]) == [edit.key for edit in edits(card.modality, card.kind)]
        assert one["rule"]["edits"] == list(rule_edits(card, taught))
        assert one["three"][0] == max(share for share in one["shares"].values() if share is not None)
        assert one["three"] == sorted(one["three"]) and one["three"][-1] <= 1


@pytest.mark.parametrize("name", ["pocket-homes", "pocket-taunts", "pocket-forests"])
def test_three_edits_close_what_is_recorded(record, name):
    work, shares = Measurement(find_task(name), run_trusted), record[name]["shares"]
    best = audit.best_edit(shares)
    for key in (best, "model/knn/7", "learning/variance"):
        again = share_after(work, [key], undo=True)
        assert again == pytest.approx(shares[key] or 0.0, abs=0.02)


def card(kind: str, *facts: str) -> SimpleNamespace:
    return SimpleNamespace(modality="tabular", kind=kind, facts=facts)


TWO = {"one": card("label", "effects add up"), "two": card("label", "effects add up", "skewed columns")}


def test_the_rule_learns_from_the_tasks_that_state_a_fact():
    shares = {
        "one": {"model/lda": 0.5, "model/knn/7": 0.1, "data/power": 0.9},
        "two": {"model/lda": None, "model/knn/7": 0.3, "data/power": 0.2, "data/pca/2": 0.4},
    }
    beside = {
        "one": {"model/lda": 0.7, "model/knn/7": 0.1, "data/power": 0.9},
        "two": {"model/lda": None, "model/knn/7": -0.5, "data/power": 0.6, "data/pca/2": 0.0},
    }
    assert learn(shares, beside, TWO) == {
        ("effects add up", True): ("model/lda", 0.3),  # ((.5 + .7) / 2 + 0) / 2: a failure closes nothing
        ("skewed columns", True): ("data/power", 0.4),  # (.2 + .6) / 2; the pca, better alone, has .2
    }


def test_the_rule_edits_each_block_once_and_prefers_its_own_kind_of_learner():
    taught = {
        ("effects add up", True): ("model/lda", 0.2),
        ("effects add up", False): ("model/ridge/1", 0.9),
        ("skewed columns", False): ("data/power", 0.3),
        ("categories that matter", True): ("data/onehot/mean", 0.4),
        ("useless columns", True): ("learning/select/5", 0.01),
    }
    facts = ("useless columns", "effects add up", "skewed columns", "categories that matter")
    # power is of both kinds, but what classifiers taught goes first; select taught nothing that helps
    assert rule_edits(card("label", *facts), taught) == ("data/onehot/mean", "model/lda")
    assert rule_edits(card("regression", *facts), taught) == ("data/power", "model/ridge/1")
    # no classifier has a ridge, so that nothing carries over where only regressors taught
    only = {("effects add up", False): ("model/ridge/1", 0.9)}
    assert rule_edits(card("label", *facts), only) == ()


def test_the_conditions_by_hand():
    record = {
        name: {"shares": {"a": a, "b": 0.3 - a}, "three": [0.3, 0.6], "rule": {"share": rule}}
        for name, a, rule in (("one", 0.3, 0.0), ("two", 0.1, 0.0), ("three", 0.0, 0.7), ("four", 0.3, 0.6))
    }
    splits = {"one": "held-in", "two": "held-in", "three": "held-out", "four": "held-out"}
    found = conditions(record, splits)
    assert [one.holds for one in found] == [False, False, True, False, True, True, True]
    assert [one.found for one in found] == [
        "a improves 2 of 2", "a closes 0.20", "a improves 1 of 2", "a closes 0.15", "0.65", "0.30", "0.60"
    ]  # fmt: skip


class Work:
    """The runs of a task whose catalogue is the tabular one; a script is worth what ``worth`` says."""

    task = SimpleNamespace(
        modality="tabular", kind="label", baseline={"feedback": 0.5}, best={"feedback": 0.9}
    )
    sign, blocks = 1, dict.fromkeys(audit.AXES, "")

    def value(self, blocks: dict[str, str]) -> float:
        if "PolynomialFeatures" in blocks["data"]:
            return float("-inf")
        return 0.5 + 0.1 * ("LinearDisc" in blocks["model"]) + 0.2 * ("Normalizer" in blocks["learning"])


def test_an_edit_that_fails_is_undone_or_stands():
    keys = ("model/lda", "data/polynomial/2", "model/ridge/1", "learning/row-norm")
    assert share_after(Work(), keys, undo=True) == pytest.approx(0.75)  # (.8 - .5) / (.9 - .5)
    assert share_after(Work(), keys, undo=False) == pytest.approx(0.25)  # all after it fail too
    assert share_after(Work(), [], undo=True) == 0


def test_the_command_prints_the_record_and_says_what_does_not_hold(capsys, monkeypatch, record):
    found = [Condition("(a) asked", "found", True), Condition("(b) asked", "found", False)]
    monkeypatch.setattr(audit, "conditions", lambda record, split_of: found)
    assert tasks_audit.call(SimpleNamespace(measure=None)) == 1
    text = capsys.readouterr().out
    assert "holds" in text and "DOES NOT HOLD  (b) asked" in text
    assert all(name in text for name in list_tasks())
    found.pop()
    assert tasks_audit.call(SimpleNamespace(measure=None)) == 0
