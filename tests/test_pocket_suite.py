"""The pocket suite: deterministic, complete, disjoint, gradeable, healthy."""

import ast
import doctest
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from mlagent_lib.tasks import folder as task_folder
from mlagent_lib.tasks import frames, splits
from mlagent_lib.tasks.check import check_task, gold_submission
from mlagent_lib.tasks.grading import grade, read_labels
from mlagent_lib.tasks.pocket import cards, sources, suite, writing
from mlagent_lib.tasks.pocket.cards import CARDS, FACTS
from mlagent_lib.tasks.pocket.catalogue import AXES, edits, read_block, replace_block
from mlagent_lib.tasks.pocket.measure import restate, run_trusted
from mlagent_lib.tasks.pocket.suite import SCORES, build_suite, ensure_suite
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.splits import normalised_rows
from mlagent_lib.tasks.task import checksums

NAMES = [spec.name for spec in CARDS]
PAPER_METRICS = {
    "accuracy": "accuracy",
    "AUC": "auc",
    "logloss": "logloss",
    "MAE": "mae",
    "RMSLE": "rmsle",
    "MCRMSE": "mcrmse",
    "RMSE": "rmse",
    "MAP@5": "map@5",
    "QWK": "qwk",
    "Pearson": "pearson",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return ensure_suite(tmp_path_factory.mktemp("home"))


@pytest.fixture(params=NAMES)
def task(request, built):
    return find_task(built / request.param)


def test_the_doctests_hold():
    for module in (cards, frames, sources, splits, suite, writing):
        assert doctest.testmod(module).failed == 0


def test_each_task_of_the_paper_has_one_stand_in_with_its_metric():
    assert len(NAMES) == len(set(NAMES)) == 19
    for spec in CARDS:
        stated = spec.paper_task.rsplit("(", 1)[1].rstrip(")")
        assert PAPER_METRICS[stated] == spec.metric


def test_cards_state_facts_of_the_common_vocabulary():
    assert {fact for spec in CARDS for fact in spec.facts} <= set(FACTS)


def test_held_out_tasks_have_relatives_among_the_held_in():
    near = {spec.modality for spec in CARDS if spec.split == "held-in"}
    assert {spec.modality for spec in CARDS if spec.split == "held-out"} <= near


def test_rows_and_features_stay_small(task):
    feedback, report = (read_labels(task, name)[1] for name in ("feedback", "report"))
    assert 300 <= task.rows <= 1000
    assert len(feedback) >= 300 and len(report) >= 300
    assert task.columns <= 100


def test_all_rules_but_the_run_hold(task):
    assert [finding for finding in check_task(task) if not finding.ok] == []


def test_every_class_is_among_the_rows_that_are_fitted(task):
    if not task.classes:
        return
    target = pd.read_csv(task.data_dir / "train.csv")["target"]
    for rows in (target[: len(target) * 3 // 4], target[len(target) * 3 // 4 :]):
        assert set(rows) == set(task.classes)
    for name in ("feedback", "report"):
        assert set(read_labels(task, name)[1]) == set(task.classes)


def test_hidden_rows_are_mixed_and_ids_say_nothing(task):
    ids = pd.read_csv(task.data_dir / "test.csv")["id"].astype(str).tolist()
    feedback = set(read_labels(task, "feedback")[0])
    inside = np.array([key in feedback for key in ids])
    runs = 1 + int((inside[1:] != inside[:-1]).sum())
    assert runs > len(ids) // 3  # about half of all neighbours differ in a shuffled list
    numbers = np.array(ids, dtype=float)
    assert abs(np.corrcoef(numbers, inside)[0, 1]) < 0.15


def test_the_frame_is_short_and_has_its_blocks(task):
    script = task.env_files()["train.py"].decode()
    ast.parse(script)
    rest = script
    for axis in AXES:
        assert read_block(script, axis)
        rest = replace_block(rest, axis, "")
    assert len([line for line in rest.splitlines() if line.strip() and not line.startswith("# ")]) <= 22
    assert max(map(len, rest.splitlines())) <= 110  # a block may be longer, as the catalogue's are


def test_no_file_of_the_agent_names_a_hidden_path(task):
    for name, content in task.env_files().items():
        for word in (b"labels/", b"scripts", b"mlagent", b"feedback"):
            assert word not in content, name


def test_the_build_is_deterministic(built, tmp_path):
    names = ["pocket-homes", "pocket-manuals", "pocket-flukes"]
    build_suite(tmp_path, names)
    for name in names:
        assert checksums(tmp_path / name) == checksums(built / name)


def test_prepare_rebuilds_the_data(built, tmp_path):
    build_suite(tmp_path, ["pocket-taunts"])
    folder = tmp_path / "pocket-taunts"
    (folder / "env" / "data" / "train.csv").unlink()
    (folder / "scripts" / "labels" / "report.csv").write_text("id,target\n")
    spec = importlib.util.spec_from_file_location("prepare", folder / "scripts" / "prepare.py")
    source = (folder / "scripts" / "prepare.py").read_text()
    exec(compile(source, str(spec.origin), "exec"), {"__name__": "__main__", "__file__": str(spec.origin)})
    assert checksums(folder) == checksums(built / "pocket-taunts")


def test_eval_scores_a_folder_on_the_report_labels(built, tmp_path):
    task = find_task(built / "pocket-visits")
    (tmp_path / "submission.csv").write_bytes(gold_submission(task, spoiled=0.3))
    spec = importlib.util.spec_from_file_location("task_eval", task.folder / "scripts" / "eval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    expected = grade(task, (tmp_path / "submission.csv").read_bytes(), "report")
    assert module.get_score(str(tmp_path)) == pytest.approx(expected)


@pytest.mark.parametrize(
    "name",
    [
        "pocket-digits",
        "pocket-stains",
        "pocket-citations",
        "pocket-flukes",
        "pocket-manuals",
        "pocket-essays",
    ],
)
def test_starters_reproduce_their_stated_scores(built, name):
    findings = check_task(find_task(built / name), run_trusted)
    assert [finding for finding in findings if not finding.ok] == []


def test_scores_are_recorded_for_exactly_these_files(task):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("recorded with Python 3.11; elsewhere the suite measures its scores when it is built")
    record = json.loads(SCORES.read_text())["tasks"][task.name]
    assert record["digest"] == task.digest


def test_the_tasks_are_healthy(task):
    record = json.loads(SCORES.read_text())["tasks"][task.name]
    rows = record["single_edits"]
    total = sum(row["edits"] for row in rows.values())
    assert 0.1 <= sum(row["help"] for row in rows.values()) / total <= 0.65
    assert sum(row["hurt"] + row["fail"] for row in rows.values()) / total >= 0.1
    assert sum(row["help"] >= 2 for row in rows.values()) >= 2  # two blocks of each starter do not fit
    for name in ("feedback", "report"):
        start, best = record["baseline"][name], record["best"][name]
        if task.greater_is_better:
            start, best = 1 - start, 1 - best
        # At least a fifth of the error is gone; of doctor visits little more than the mean can be told.
        assert best <= (0.98 if task.name == "pocket-visits" else 0.8) * start


def test_the_home_is_built_once_and_at_once(tmp_path, monkeypatch):
    calls = []

    def build(folder):
        calls.append(folder)
        (folder / "one").mkdir()
        return []

    monkeypatch.setattr(suite, "build_suite", build)
    first, second = ensure_suite(tmp_path), ensure_suite(tmp_path)
    assert first == second and len(calls) == 1
    assert [path.name for path in first.iterdir()] == ["one"]
    assert not list(tmp_path.glob(".pocket-*"))


def test_a_failed_build_leaves_nothing(tmp_path, monkeypatch):
    def build(folder):
        (folder / "one").mkdir()
        raise OSError("disk full")

    monkeypatch.setattr(suite, "build_suite", build)
    with pytest.raises(OSError, match="disk full"):
        ensure_suite(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".pocket.lock"]


def test_scores_are_measured_again_where_the_files_differ(tmp_path, monkeypatch):
    monkeypatch.setattr(task_folder, "_request", lambda spec: "Another request.")
    assert build_suite(tmp_path, ["pocket-ballots"]) == ["pocket-ballots"]
    restate(tmp_path, ["pocket-ballots"])
    task = find_task(tmp_path / "pocket-ballots")
    record = json.loads(SCORES.read_text())["tasks"]["pocket-ballots"]
    for name in ("feedback", "report"):
        assert task.baseline[name] == pytest.approx(record["baseline"][name], abs=0.02)
        assert task.best[name] == pytest.approx(record["best"][name], abs=0.02)


def test_rows_are_compared_after_normalising():
    table = pd.DataFrame({"a": [1, 1.00000001, np.nan, np.nan], "b": ["X y", "x  Y!", "z", "z"]})
    assert normalised_rows(table).nunique() == 2


def test_the_bundled_folders_hold_the_real_rows():
    names = {folder.name for folder in sources.bundled_folders()}
    assert {"pydoc_data", "data", "images", "descr", "datasets"} <= names


def test_every_modality_and_kind_of_the_suite_has_enough_edits():
    for spec in CARDS:
        assert len(edits(spec.modality, spec.kind)) >= 100


def test_importing_the_tasks_loads_no_model_library():
    code = (
        "import sys; import mlagent_lib.tasks.task, mlagent_lib.tasks.grading, mlagent_lib.tasks.check; "
        "print({'torch', 'transformers', 'sklearn'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
