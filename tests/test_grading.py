"""Strict parsing of submissions, every refusal by its name, and our own faults as Unscored."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

from mlagent_lib.core.errors import SubmissionError, Unscored
from mlagent_lib.core.limits import Limits
from mlagent_lib.tasks import grading
from mlagent_lib.tasks.check import gold_submission
from mlagent_lib.tasks.grading import REASONS, grade
from mlagent_lib.tasks.task import Task, load_task

KINDS = {
    "accuracy": ("label", ("prediction",), (0, 1, 2), "12,0\n31,2\n", "45,1\n"),
    "logloss": ("probability", ("class_0", "class_1", "class_2"), (0, 1, 2), "12,0\n31,2\n", "45,1\n"),
    "auc": ("probability", ("probability",), (0, 1), "12,0\n31,1\n", "45,1\n46,0\n"),
    "mae": ("regression", ("prediction",), (), "12,0.5\n31,2\n", "45,1\n"),
    "rmsle": ("regression", ("prediction",), (), "12,0.5\n31,2\n", "45,1\n"),
    "pearson": ("regression", ("prediction",), (), "12,0.5\n31,2\n", "45,1\n46,7\n"),
    "qwk": ("regression", ("prediction",), (1, 2, 3), "12,1\n31,2\n", "45,1\n46,3\n"),
    "map@5": ("rank", tuple(f"guess_{k}" for k in range(1, 6)), tuple(range(7)), "12,0\n31,2\n", "45,1\n"),
    "mcrmse": ("multioutput", ("a", "b"), (), "12,0,1\n31,2,3\n", "45,1,1\n"),
}


@pytest.fixture
def make(tmp_path):
    """Return a function that makes a tiny task of one metric."""

    def build(metric):
        kind, columns, classes, feedback, report = KINDS[metric]
        task = Task(
            name=metric,
            folder=tmp_path,
            modality="tabular",
            kind=kind,
            metric=metric,
            greater_is_better=grading.get_metric(metric).greater_is_better,
            answer_columns=columns,
            classes=classes,
        )
        task.labels_dir.mkdir(parents=True)
        names = "a,b" if kind == "multioutput" else "target"
        (task.labels_dir / "feedback.csv").write_text(f"id,{names}\n{feedback}")
        (task.labels_dir / "report.csv").write_text(f"id,{names}\n{report}")
        return task

    return build


def refused(task, content, labels="feedback"):
    with pytest.raises(SubmissionError) as error:
        grade(task, content, labels)
    assert error.value.reason in REASONS
    return error.value.reason


def test_the_doctests_hold():
    assert doctest.testmod(grading).failed == 0


@pytest.mark.parametrize("metric", KINDS)
def test_the_true_answers_score_best_on_both_sets(make, metric):
    task = make(metric)
    for labels in ("feedback", "report"):
        if metric in ("pearson", "qwk", "auc") or labels == "feedback":
            assert grade(task, gold_submission(task), labels) == pytest.approx(
                grading.get_metric(metric).perfect
            )


def test_any_order_bom_and_windows_lines_are_accepted(make):
    task = make("accuracy")
    content = "\ufeffid,prediction\r\n45,1\r\n31,0\r\n12,0\r\n".encode()
    assert grade(task, content, "feedback") == 0.5
    assert grade(task, content, "report") == 1.0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing"),
        (b"", "empty"),
        (b"id,prediction\n12,0\n31,2\n45,\0\n", "nul-byte"),
        (b"id,prediction\n12,0\n31,2\n45,\xff\n", "not-utf8"),
        (b"prediction,id\n0,12\n2,31\n1,45\n", "header"),
        (b"id,prediction,extra\n12,0,1\n31,2,1\n45,1,1\n", "header"),
        (b"\x80\x04K\x01.", "not-utf8"),
        (b'id,prediction\n12,0\n31,2\n45,"1\n', "bad-csv"),
        (b"id,prediction\n12,0,9\n31,2\n45,1\n", "bad-csv"),
        (b"id,prediction\n12,0\n31,2\n", "row-count"),
        (b"id,prediction\n12,0\n31,2\n45,1\n46,1\n", "row-count"),
        (b"id,prediction\n12,0\n31,2\n99,1\n", "unknown-id"),
        (b"id,prediction\n12,0\n31,2\n031,1\n", "unknown-id"),
        (b"id,prediction\n12,0\n12,0\n45,1\n", "duplicate-id"),
        (b"id,prediction\n12,0\n31,7\n45,1\n", "unknown-class"),
        (b"id,prediction\n12,0\n31,1.5\n45,1\n", "unknown-class"),
    ],
)
def test_each_fault_has_its_name(make, content, reason):
    assert refused(make("accuracy"), content) == reason


@pytest.mark.parametrize(
    "field",
    [
        "nan",
        "inf",
        "-inf",
        "1e400",
        "0x1",
        "1_0",
        "\u0660",
        " 1",
        "1 ",
        "",
        "True",
        "1e",
        "--1",
        "1,0",
        "=1+1",
        "\uff11",
    ],
)
def test_only_plain_finite_numbers_are_numbers(make, field):
    content = f'id,prediction\n12,0\n31,2\n45,"{field}"\n'.encode()
    assert refused(make("mae"), content) == "not-a-number"


@pytest.mark.parametrize("field", ["1", "1.", ".5", "-0.5", "+2", "1e-5", "2E3", "1.0000000000000002"])
def test_plain_numbers_are_accepted(make, field):
    assert grade(make("mae"), f"id,prediction\n12,0.5\n31,2\n45,{field}\n".encode()) == 0


def test_probabilities_must_be_probabilities(make):
    head = "id,class_0,class_1,class_2\n12,1,0,0\n31,0,0,1\n"
    task = make("logloss")
    assert refused(task, (head + "45,0.5,0.5,0.1\n").encode()) == "row-sum"
    assert refused(task, (head + "45,1.2,-0.1,-0.1\n").encode()) == "out-of-range"
    assert grade(task, (head + "45,0.3333,0.3333,0.3334\n").encode(), "report") == pytest.approx(
        np.log(3), abs=1e-3
    )


def test_ranges_of_the_other_metrics(make, tmp_path):
    assert refused(make("rmsle"), b"id,prediction\n12,-0.5\n31,2\n45,1\n") == "out-of-range"


def test_ratings_outside_the_scale_are_refused(make):
    assert refused(make("qwk"), b"id,prediction\n12,1\n31,9\n45,1\n46,3\n") == "unknown-class"


def test_an_undefined_score_is_the_scripts_fault(make):
    assert refused(make("pearson"), b"id,prediction\n12,1\n31,1\n45,1\n46,1\n") == "undefined-score"


def test_numbers_too_large_to_square_are_refused(make):
    assert refused(make("mcrmse"), b"id,a,b\n12,1e300,1\n31,1,1\n45,1,1\n") == "undefined-score"


def test_a_huge_submission_is_refused_at_once(make):
    assert refused(make("mae"), b"x" * (grading.LARGEST_SUBMISSION + 1)) == "too-large"


@pytest.mark.parametrize(
    "damage", ["id,target\n12,nan\n", "id,target\n", "target\n1\n", "", "id,target\n12,1\n12,1\n"]
)
def test_damaged_labels_are_our_fault(make, damage):
    task = make("mae")
    (task.labels_dir / "feedback.csv").write_text(damage)
    with pytest.raises(Unscored, match="rebuild"):
        grade(task, b"id,prediction\n12,0\n31,2\n45,1\n")


def test_missing_and_unscorable_labels_are_our_fault(make):
    task = make("auc")
    (task.labels_dir / "feedback.csv").write_text("id,target\n12,1\n31,1\n")
    with pytest.raises(Unscored, match="both classes"):
        grade(task, b"id,probability\n12,0\n31,0.5\n45,1\n46,0\n")
    (task.labels_dir / "feedback.csv").unlink()
    with pytest.raises(Unscored, match="missing"):
        grade(task, b"id,probability\n12,0\n31,0.5\n45,1\n46,0\n")


def test_changed_labels_are_read_again(make):
    task, content = make("accuracy"), b"id,prediction\n12,0\n31,2\n45,1\n"
    assert grade(task, content) == 1.0
    (task.labels_dir / "feedback.csv").write_text("id,target\n12,0\n31,1\n")
    assert grade(task, content) == 0.5


def test_no_refusal_echoes_the_submission_or_a_label(make):
    with pytest.raises(SubmissionError) as error:
        grade(make("mae"), b"id,prediction\n12,SECRET\n31,2\n45,1\n")
    assert "SECRET" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_foreign_folder_is_graded_by_its_own_script(tmp_path):
    (tmp_path / "env").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "research_problem.txt").write_text("Improve train.py.")
    (tmp_path / "scripts" / "eval.py").write_text(
        "import os\ndef get_score(folder):\n"
        "    return float(open(os.path.join(folder, 'submission.csv')).read())\n"
    )
    task = load_task(tmp_path, greater_is_better=True, limits=Limits())
    assert grade(task, b"0.25") == 0.25
    assert refused(task, b"no number") == "evaluator-refused"
    assert refused(task, b"nan") == "undefined-score"


def test_formats_of_others_are_loaded_where_a_task_has_one_and_nowhere_else():
    code = "import sys; import mlagent_lib.tasks.task, mlagent_lib.tasks.grading; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "mlagent_lib.tasks.grading" in done.stdout and "mlagent_lib.tasks.foreign" not in done.stdout
