"""Graders that merge, or skip gaps: what is repeated, left out or blank is refused before they are asked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from mlagent_lib.core.errors import SubmissionError, Unscored
from mlagent_lib.tasks.foreign import check_grader
from mlagent_lib.tasks.foreign.check_grader import check_cheats
from mlagent_lib.tasks.foreign.grader import ForeignGrader, run_grader
from mlagent_lib.tasks.foreign.grader_process import misfit
from mlagent_lib.tasks.task import Task

judge = ForeignGrader.judge

MERGES = """\
def grade(submission, answers):
    both = answers.merge(submission, on="id", suffixes=("_t", "_p"))
    return float((both["y_t"] == both["y_p"]).sum() / len(answers))
"""
SKIPS = """\
def grade(submission, answers):
    both = answers.merge(submission, on="id", suffixes=("_t", "_p"))
    return float((both["y_t"] - both["y_p"]).abs().mean())
"""
TRUTH = {"1": "0", "2": "1", "3": "1", "4": "0"}


def table(rows, header="id,y"):
    return "\n".join([header, *(f"{key},{value}" for key, value in rows)]).encode() + b"\n"


CONTROL = table((key, "0") for key in TRUTH)


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a grader of four rows, two of them feedback."""

    def build(text, truth=TRUTH, header="id,y", **more):
        rows = list(truth.items())
        for name, some in {"all": rows, "feedback": rows[:2], "report": rows[2:]}.items():
            (tmp_path / f"{name}.csv").write_bytes(table(some, header))
        (tmp_path / "grade.py").write_text(text)
        answers = {name: tmp_path / f"{name}.csv" for name in ("all", "feedback", "report")}
        more = {"call": "frames", "answers": answers, "id_column": header.split(",")[0], **more}
        return ForeignGrader(tmp_path / "grade.py", **more)

    return build


def reason(grader, submission, control=CONTROL):
    """Return why a submission is refused, "" for its being scored."""
    try:
        judge(grader, submission, control=control)
    except SubmissionError as error:
        return error.reason
    return ""


@pytest.fixture
def form(tmp_path):
    """Return a function that tells in what a submission differs from a control, without a process."""

    def compare(submission, control=CONTROL, *, truth=None, call="frames", key=("id",)):
        (tmp_path / "control.csv").write_bytes(control)
        (tmp_path / "submission.csv").write_bytes(submission)
        job = {name: str(tmp_path / f"{name}.csv") for name in ("control", "submission")}
        answers = None if truth is None else pd.DataFrame({"id": range(len(truth)), "y": truth})
        return misfit(job | {"call": call, "key": list(key)}, answers)

    return compare


def test_what_such_graders_would_pay(make):
    repeated = table([("2", "1")] * 4 + [("1", "0")] * 3)
    assert run_grader(make(MERGES), repeated).score == 3.5  # 7 right rows of 2
    assert reason(make(MERGES), repeated) == "row-count"
    assert judge(make(MERGES), table(TRUTH.items()), control=CONTROL) == 1.0
    blank = table([("1", "0"), ("2", ""), ("3", ""), ("4", "")])
    assert run_grader(make(SKIPS), blank).score == 0.0  # though three of four rows have no answer
    assert reason(make(SKIPS), blank) == "blank"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (table([("4", 1), ("3", 1), ("2", 1), ("1", 1)]), ""),  # any order
        (table([("1.0", 1), ("2.0", 1), ("3.0", 1), ("4.0", 1)]), ""),
        (b"\xef\xbb\xbf" + CONTROL.replace(b"\n", b"\r\n"), ""),
        (table([("1", " 0.5"), ("2", "1e-3"), ("3", "0"), (" 4", "1")]), ""),
        (table([("1", 0.5), ("2", 0.5), ("3", 0.5)]), "row-count"),
        (table([("1", 1), ("2", 1), ("3", 1), ("4", 1), ("5", 1)]), "row-count"),
        (table([("1", 1), ("2", 1), ("3", 1), ("3", 1)]), "duplicate-id"),
        (table([("1", 1), ("2", 1), ("3", 1), ("7", 1)]), "unknown-id"),
        (table([("1", 1), ("2", 1), ("3", 1), ("", 1)]), "unknown-id"),
        (table([("1", 1), ("2", 1), ("3", 1), ("4x", 1)]), "unknown-id"),
        (table([("1", 1), ("2", 1), ("3", 1), ("4", "")]), "blank"),
        (table([("1", 1), ("2", 1), ("3", 1), ("4", "NA")]), "blank"),  # pandas reads it as a gap
        (table([("1", 1), ("2", 1), ("3", 1), ("4", "inf")]), "not-a-number"),
        (table([("1", 1), ("2", 1), ("3", 1), ("4", "-1e400")]), "not-a-number"),
        (table([("1", 1), ("2", 1), ("3", 1), ("4", "one")]), "not-a-number"),
        (table([("1", 1), ("2", 1), ("3", 1), ("4", "0x1")]), "not-a-number"),
        (table(TRUTH.items(), "ID,y"), "header"),
        (table(TRUTH.items(), "id, y"), "header"),
        (table([(f"{key},{key}", 1) for key in TRUTH], "id,z,y"), "header"),
        (table([(1, 1), (0, 2), (0, 3), (1, 4)], "y,id"), "header"),
        (table([(f"{key},1", 5) for key in TRUTH]), "bad-csv"),  # three cells below two names
        (CONTROL.replace(b"\n4,0", b'\n"4,0'), "bad-csv"),
        (b"{}", "header"),
    ],
)
def test_the_form_of_the_control(form, content, expected):
    assert form(content, truth=[0, 1, 1, 0]) == expected


def test_the_stored_control_counts_before_the_one_that_is_given(make, tmp_path):
    stored = tmp_path / "control.csv"
    stored.write_bytes(CONTROL)
    grader = replace(make(MERGES), control=stored)
    half = table(list(TRUTH.items())[:2])
    assert reason(grader, half, control=half) == "row-count"
    assert reason(make(MERGES), half, control=half) == ""  # nothing tells that it is a half


def test_a_score_of_before_does_not_spare_the_comparison(make):
    half = table(list(TRUTH.items())[:2])
    assert judge(make(MERGES), half) == 1.0
    assert reason(make(MERGES), half) == "row-count"


def test_a_control_that_the_grader_refuses_blames_nobody(make):
    strict = MERGES.replace("    both", "    assert len(submission) == len(answers)\n    both", 1)
    with pytest.raises(Unscored, match="must accept as well"):
        judge(make(strict), table(TRUTH.items()), control=table([("1", "0")]))


@pytest.mark.parametrize(
    ("truth", "control", "expected"),
    [
        (("a b", "c", None, "d"), "x", ""),  # an empty answer is one of the true ones
        (("a b", "c", "e", "d"), "", ""),  # the control is empty itself
        (("a b", "c", "e", "d"), "x", "blank"),
        ((3, 4, 5, 6), "x", "blank"),
    ],
)
def test_texts_may_be_blank_where_blanks_are_known(form, truth, control, expected):
    given = table(zip(TRUTH, ("a b", "", "", "x y"), strict=True))
    assert form(given, table((key, control) for key in TRUTH), truth=truth) == expected


def test_texts_may_stand_where_the_control_holds_numbers_and_the_answers_texts(form):
    texts = table((key, "1 2") for key in TRUTH)
    assert form(texts, truth=["3 5", "1", "2 2", "4"]) == ""
    assert form(texts, truth=[3, 1, 2, 4]) == form(texts) == "not-a-number"


def test_gaps_of_numbers_may_not_grow(form):
    control = table([("1", ""), ("2", 0), ("3", 0), ("4", 0)])
    assert form(table([("1", 5), ("2", ""), ("3", 0), ("4", 0)]), control) == ""
    assert form(table([("1", ""), ("2", ""), ("3", 0), ("4", 0)]), control) == "blank"


def test_rows_that_share_an_id_are_told_apart_by_their_key(make):
    truth = {"1,a": "0", "1,b": "1", "2,a": "1", "2,b": "1"}
    grader = make(SKIPS.replace('on="id"', 'on=["id", "part"]'), truth, "id,part,y", key=("id", "part"))
    control = table(((key, "0") for key in truth), "id,part,y")
    assert reason(grader, table(((key, "1") for key in reversed(truth)), "id,part,y"), control) == ""
    twice = table([("1,b", 1), ("1,b", 1), ("2,a", 1), ("2,b", 1)], "id,part,y")
    assert run_grader(grader, twice).score == 0.0 and reason(grader, twice, control) == "duplicate-id"
    card = grader.to_card(grader.script.parent)
    assert ForeignGrader.from_card(grader.script.parent, card).key == ("id", "part")


@pytest.mark.parametrize(
    ("control", "given", "expected"),
    [
        (b",0,1\n0,0.5,0.5\n1,0.5,0.5\n", b",0,1\n1,0.1,0.9\n0,0.2,0.8\n", ""),
        (b",0,1\n0,0.5,0.5\n1,0.5,0.5\n", b",0,1\n0,0.1,0.9\n0,0.2,0.8\n", "duplicate-id"),
        (b"name,y\na,1\nb,2\n", b"name,y\na,1\nc,2\n", "unknown-id"),
        (b"p,q\n0.25,0.5\n0.5,0.5\n", b"p,q\n0.1,0.9\n0.2,0.8\n", ""),  # no column of names
        (b"y\n1\n2\n", b"y\n3\n4\n", ""),  # one column names nothing
        (b"y\n1\n2\n", b"y\n3\n", "row-count"),
    ],
)
def test_a_folders_grader_names_no_ids(form, control, given, expected):
    assert form(given, control, call="folder", key=("",)) == expected


@pytest.mark.parametrize(
    ("control", "given", "expected"),
    [
        (b"0.5,1\n0.6,1\n", b"0.25,3\n0.125,3\n", ""),
        (b"0.5,1\n0.6,1\n", b"0.25,3\n", "row-count"),
        (b"0.5,1\n0.6,1\n", b"0.25,3\n0.5,\n", "blank"),
        (b"3.25\n", b"1.5\n", ""),  # one number is no table
        (b"1\n2\n1\n", b"2\n2\n3\n", ""),
    ],
)
def test_a_folders_submission_may_have_no_header(form, control, given, expected):
    assert form(given, control, call="folder", key=("",)) == expected


def task_of(grader: ForeignGrader, greater_is_better: bool) -> Task:
    return Task(
        name="cheated", folder=Path(grader.script.parent), modality="other", kind="other", metric="score",
        greater_is_better=greater_is_better, answer_columns=("y",), grader=grader,
    )  # fmt: skip


def test_the_check_tells_which_cheats_the_grader_would_pay(make):
    given = table([("1", 0), ("2", 0), ("3", 0), ("4", 0)])
    found = check_cheats(task_of(make(MERGES), True), given)  # one of the two feedback rows is right
    assert found.ok and "rows repeated 1 (honest 0.5)" in found.message
    assert "6 tried" in found.message and found.message.endswith("none got through")
    grader = make(SKIPS, {"1": "0", "3": "1", "2": "1", "4": "0"})
    given = table(
        [("1", 0), ("2", 0), ("3", 0), ("4", 0)]
    )  # without row 3, the wrong one, feedback is perfect
    found = check_cheats(task_of(grader, False), given)
    assert found.ok and "second half left out 0, second half blank 0 (honest 0.5)" in found.message


def test_the_check_fails_where_a_cheat_gets_through(make, monkeypatch):
    monkeypatch.setattr(check_grader, "grade", lambda *arguments, **options: 1.0)  # as if nobody compared
    given = table([("1", 0), ("2", 0), ("3", 0), ("4", 0)])
    found = check_cheats(task_of(make(MERGES), True), given)
    assert not found.ok and found.message.endswith("rows repeated got through") and found.cure
