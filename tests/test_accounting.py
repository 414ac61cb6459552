"""Tokens and money, worked by hand: prices are the user's, and what is not known is never a number."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest

from mlagent_lib.agents.server.accounting import (
    COLUMNS,
    Call,
    Ledger,
    Price,
    Tokens,
    cost_rows,
    read_calls,
    read_prices,
    told,
    total_cost,
    write_costs,
)
from mlagent_lib.core.errors import ProfileError, RunError

CALL = Call(
    role="policy", model="m", trajectory="a/t/0", step=0, number=1, key="k1", hit=False, failed=False,
    broke="", requests=1, prompt_tokens=1000, cached_tokens=400, completion_tokens=200, retry_prompt_tokens=0,
    retry_cached_tokens=0, retry_completion_tokens=0, without_usage=0, seconds=1.0,
)  # fmt: skip
PRICE = Price(2.0, 8.0, 0.5, "credits")


def line(rows, trajectory="", role="policy"):
    """Return the one row of a trajectory, or of the run."""
    scope = "trajectory" if trajectory else "run"
    (row,) = [r for r in rows if (r["scope"], r["trajectory"], r["role"]) == (scope, trajectory, role)]
    return row


def test_a_call_by_hand():
    # 600 fresh tokens at 2, 400 cached at 0.5, 200 written at 8: 1200 + 200 + 1600 millionths
    assert PRICE.of(CALL.used) == pytest.approx(0.003)
    assert Price(2.0, 8.0).of(CALL.used) == pytest.approx(0.0036)  # cached ones cost like the others
    assert Price(0, 0).of(CALL.used) == 0.0
    assert Tokens(3, 2, 1) + Tokens(1, 1, 1) - Tokens(1, 0, 0) == Tokens(3, 3, 2)


def test_retries_and_replies_asked_for_again_are_part_of_the_sum_and_counted_apart():
    tried = replace(
        CALL, requests=3, retry_prompt_tokens=1000, retry_completion_tokens=50, broke="missing-field"
    )
    again = replace(CALL, number=2, key="k2", prompt_tokens=1100, cached_tokens=1000, completion_tokens=100)
    other = replace(
        CALL, trajectory="a/t/1", key="k3", prompt_tokens=10, cached_tokens=0, completion_tokens=1
    )
    rows = cost_rows([tried, again, other], {"m": PRICE})
    first = line(rows, "a/t/0")
    assert (first["calls"], first["requests"], first["retries"], first["asked_again"]) == (2, 4, 2, 1)
    assert (first["prompt_tokens"], first["cached_tokens"]) == (1000 + 1000 + 1100, 400 + 1000)
    assert (first["completion_tokens"], first["retry_tokens"]) == (200 + 50 + 100, 1050)
    assert first["asked_again_tokens"] == 1200
    # (3100 - 1400) * 2 + 1400 * 0.5 + 350 * 8 = 3400 + 700 + 2800
    assert first["cost"] == pytest.approx(0.0069)
    # without the lost tries: (2100 - 1400) * 2 + 700 + 300 * 8 = 1400 + 700 + 2400
    assert first["cost_without_hits"] == pytest.approx(0.0045)
    whole = line(rows)
    assert whole["cost"] == pytest.approx(0.0069 + line(rows, "a/t/1")["cost"]) and whole["calls"] == 3
    cost, unit = total_cost(rows)
    assert (cost, unit) == (pytest.approx(0.0069 + 28e-6), "credits")


def test_a_hit_costs_nothing_and_is_counted_once_however_often_it_was_met():
    hit = replace(CALL, hit=True, requests=0)
    rows = cost_rows([hit, hit], {"m": PRICE})
    assert (line(rows)["calls"], line(rows)["hits"], line(rows)["prompt_tokens"]) == (1, 1, 0)
    assert (line(rows)["cost"], line(rows)["cost_without_hits"]) == (0.0, pytest.approx(0.003))
    # a run that was stopped: paid for, then met again
    rows = cost_rows([CALL, hit], {"m": PRICE})
    assert (line(rows)["calls"], line(rows)["hits"], line(rows)["cost"]) == (1, 0, pytest.approx(0.003))


def test_a_call_that_failed_is_paid_for_too():
    failed = replace(
        CALL, failed=True, requests=2, prompt_tokens=0, cached_tokens=0, completion_tokens=0,
        retry_prompt_tokens=500,
    )  # fmt: skip
    rows = cost_rows([failed], {"m": PRICE})
    assert (line(rows)["failed"], line(rows)["hits"], line(rows)["retries"]) == (1, 0, 1)
    assert line(rows)["cost"] == pytest.approx(0.001)
    rows = cost_rows([failed, CALL], {"m": PRICE})  # tried again later, and it worked
    assert (line(rows)["calls"], line(rows)["failed"], line(rows)["cost"]) == (1, 0, pytest.approx(0.004))
    rows = cost_rows([failed, replace(CALL, hit=True)], {"m": PRICE})  # another run had paid for the reply
    assert (line(rows)["hits"], line(rows)["cost"]) == (1, pytest.approx(0.001))


def test_a_coders_call_is_billed_to_the_first_that_asked_for_the_edit():
    edit = replace(CALL, role="coder", trajectory="", step=None, key="edit")
    known = replace(edit, hit=True, requests=0)
    rows = cost_rows([edit, known, known], {"m": PRICE}, {"edit": ["a/t/1", "a/t/2"]})
    assert line(rows, "a/t/1", "coder")["cost"] == pytest.approx(0.003)
    second = line(rows, "a/t/2", "coder")
    assert (second["cost"], second["hits"], second["cost_without_hits"]) == (0.0, 1, pytest.approx(0.003))
    assert line(rows, role="coder")["calls"] == 2
    (alone,) = [row for row in cost_rows([edit], {}) if row["scope"] == "trajectory"]
    assert alone["trajectory"] == ""  # nobody is known to have asked


def test_what_is_not_known_is_no_number(tmp_path):
    rows = cost_rows([CALL], {})
    assert line(rows)["cost"] is None and total_cost(rows) == (None, "")
    assert told(rows).endswith("cost unknown: no price was given")
    silent = replace(CALL, without_usage=1, prompt_tokens=0, cached_tokens=0, completion_tokens=0)
    rows = cost_rows([silent], {"m": PRICE})
    assert line(rows)["cost"] is None and line(rows)["cost_without_hits"] is None
    assert told(rows).endswith("cost unknown: 1 replies came without their tokens")
    mixed = cost_rows([CALL, replace(CALL, model="n")], {"m": PRICE, "n": Price(1, 1, currency="other")})
    assert total_cost(mixed) == (None, "")  # two units make no sum
    with open(write_costs(tmp_path / "costs.csv", rows), newline="") as handle:
        (single, whole) = csv.DictReader(handle)
    assert tuple(single) == COLUMNS and single["cost"] == whole["cost"] == "" and whole["scope"] == "run"


def test_the_table_and_the_sentence(tmp_path):
    rows = cost_rows([CALL, replace(CALL, number=2, key="k2")], {"m": PRICE})
    with open(write_costs(tmp_path / "costs.csv", [{"ledger": "x", **row} for row in rows]), newline="") as f:
        table = list(csv.DictReader(f))
    assert [row["cost"] for row in table] == ["0.006", "0.006"] and table[0]["ledger"] == "x"
    assert told(rows) == (
        "2 calls (0 hits, 0 failed), 2 requests (0 retries), 1 asked again; "
        "2,000 tokens in (800 cached), 400 out; cost 0.006 credits"
    )
    assert told(cost_rows([CALL], {"m": Price(2, 8)})).endswith("cost 0.0036 (in the unit of your prices)")


def test_the_ledger_survives_and_names_what_is_no_call(tmp_path):
    path, heard = tmp_path / "calls.jsonl", []
    ledger = Ledger(path, on_call=heard.append)
    ledger.add(CALL)
    Ledger(path).add(replace(CALL, step=1))
    assert heard == [CALL] and read_calls(path) == [CALL, replace(CALL, step=1)] == Ledger(path).calls
    path.write_text(path.read_text() + '{"role": "policy"}\n')
    with pytest.raises(RunError, match=r"calls.jsonl is no ledger of calls: .*missing"):
        Ledger(path)
    path.write_text("{\n")
    with pytest.raises(RunError, match="1 unreadable lines"):
        read_calls(path)
    with pytest.raises(RunError, match="is missing"):
        read_calls(tmp_path / "none.jsonl")


def test_prices_from_a_file(tmp_path):
    path = tmp_path / "prices.yaml"
    path.write_text(
        "currency: credits\n"
        "models:\n  org/m: {input: 2, output: 8.0, cached: 0.5}\n  7: {input: 0, output: 0}"
    )
    assert read_prices(path) == {"org/m": Price(2, 8.0, 0.5, "credits"), "7": Price(0, 0, None, "credits")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("models: [", "cannot be read: while parsing"),
        ("just words", "must hold 'models'"),
        ("models: {}", "must hold 'models'"),
        ("models: {m: {input: 1, output: 1}}\nprices: 3", "must hold 'models'"),
        ("models: {m: 3}", "model 'm' in .* must have input and output"),
        ("models: {m: {input: 1}}", "model 'm' in .* must have input and output"),
        ("models: {m: {input: 1, output: 1, per: hour}}", "model 'm' in .* must have input and output"),
        ("models: {m: {input: -1, output: 1}}", "the price input is -1"),
        ("models: {m: {input: 1, output: .nan}}", "the price output is nan"),
        ("models: {m: {input: 1, output: cheap}}", "the price output is 'cheap'"),
        ("models: {m: {input: 1, output: 1, cached: true}}", "the price cached is True"),
    ],
)
def test_a_price_file_that_breaks_a_rule_is_named(tmp_path, text, words):
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=words) as caught:
        read_prices(path)
    assert caught.value.cure


def test_a_price_file_that_is_missing(tmp_path):
    with pytest.raises(ProfileError, match="there is no price file"):
        read_prices(tmp_path / "none.yaml")
    with pytest.raises(ProfileError, match="the price input is None"):
        Price(None, 1.0)
