"""Reading task folders, and the checks of the task contract on sound and spoiled folders."""

import dataclasses
import doctest
import inspect
import shutil

import numpy as np
import pandas as pd
import pytest
import yaml

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.limits import Limits
from mlagent_lib.tasks import check, contract, registry
from mlagent_lib.tasks import task as task_module
from mlagent_lib.tasks.check import check_task
from mlagent_lib.tasks.foreign import check_grader
from mlagent_lib.tasks.pocket.measure import Ran, run_trusted
from mlagent_lib.tasks.pocket.suite import build_suite
from mlagent_lib.tasks.registry import find_task, list_tasks
from mlagent_lib.tasks.task import load_task

NAME = "pocket-ballots"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    build_suite(folder, [NAME])
    return folder / NAME


@pytest.fixture
def folder(built, tmp_path):
    """Return a copy of a pocket task that a test may spoil."""
    return shutil.copytree(built, tmp_path / NAME)


def broken(folder, execute=None, **changes):
    task = dataclasses.replace(find_task(folder), **changes)
    return {finding.rule for finding in check_task(task, execute) if not finding.ok}


def edit_card(folder, **changes):
    path = folder / "task.yaml"
    card = yaml.safe_load(path.read_text())
    card.update(changes)
    path.write_text(yaml.safe_dump({key: value for key, value in card.items() if value is not None}))


def test_the_doctests_hold():
    assert doctest.testmod(task_module).failed == doctest.testmod(registry).failed == 0
    assert doctest.testmod(check).failed == 0


def test_a_card_becomes_a_task(built):
    task = find_task(built)
    assert (task.name, task.modality, task.kind, task.metric) == (NAME, "tabular", "label", "accuracy")
    assert (
        task.greater_is_better and task.split == "held-in" and task.paper_task.startswith("spaceship-titanic")
    )
    assert set(task.env_files()) == {"train.py", "data_description.txt"}
    assert task.limits.seconds == 20 and task.rows == 344 and task.columns == 15
    assert task.read_only == ("data/*", "data_description.txt")
    assert task.real and "anes96" in task.provenance
    assert "random seed" in task.research_problem
    assert len(task.digest) == 64


def test_names_are_looked_up_in_a_home(built):
    assert find_task(NAME, home=built.parent).folder == find_task(built).folder


def test_the_digest_follows_data_and_scripts(folder):
    before = find_task(folder).digest
    (folder / "env" / "data" / "train.csv").open("a").write("\n")
    assert find_task(folder).digest != before


def test_the_lists_cover_the_papers_tasks():
    assert (len(list_tasks()), len(list_tasks("held-in")), len(list_tasks("held-out"))) == (19, 9, 10)
    with pytest.raises(TaskError, match="held-in"):
        list_tasks("train")


def test_an_unknown_name_tells_the_known_ones(tmp_path):
    with pytest.raises(TaskError, match="pocket-digits"):
        find_task("pocket-digit")
    with pytest.raises(TaskError, match="no task folder"):
        find_task(tmp_path / "nowhere")
    with pytest.raises(TaskError, match="env/ is missing"):
        find_task(tmp_path)


def test_a_foreign_folder_needs_direction_and_limits(folder):
    (folder / "task.yaml").unlink()
    with pytest.raises(TaskError, match="greater_is_better"):
        find_task(folder)
    with pytest.raises(TaskError, match="limits"):
        load_task(folder, greater_is_better=True)
    task = load_task(folder, greater_is_better=False, limits=Limits(seconds=5), metric="loss")
    assert not task.greater_is_better and task.metric == "loss" and task.modality == "other"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"direction": "up"}, "maximize or minimize"),
        ({"direction": None}, "lacks direction"),
        ({"split": "train"}, "split"),
        ({"baseline": {"feedback": 0.5}}, "baseline"),
        ({"limits": {"minutes": 3}}, "minutes"),
    ],
)
def test_a_wrong_card_is_refused_with_its_cure(folder, changes, words):
    edit_card(folder, **changes)
    with pytest.raises(TaskError, match=words) as error:
        find_task(folder)
    assert error.value.cure


def test_a_card_that_is_no_yaml_is_refused(folder):
    (folder / "task.yaml").write_text("a: [")
    with pytest.raises(TaskError, match="not valid YAML"):
        find_task(folder)


def test_data_and_binary_files_are_no_workspace_text(folder):
    (folder / "env" / "weights.bin").write_bytes(b"\0\1")
    (folder / "env" / "data" / "more.txt").write_text("x")
    assert set(find_task(folder).env_files()) == {"train.py", "data_description.txt"}


def test_a_sound_folder_has_no_broken_rule(built):
    findings = check_task(find_task(built), run_trusted)
    assert [finding for finding in findings if not finding.ok] == []
    assert len(findings) >= 18


def test_a_changed_file_breaks_its_checksum(folder):
    (folder / "env" / "data_description.txt").open("a").write("x")
    assert broken(folder) == {"all files match their checksums"}


def test_a_wrong_direction_is_found(folder):
    edit_card(folder, direction="minimize")
    rules = broken(folder)
    assert {"the direction fits the metric", "wrong answers score worse"} <= rules


def test_open_labels_are_found(folder):
    (folder / "scripts" / "labels").chmod(0o755)
    assert broken(folder) == {"only the owner may open the labels"}


def test_damaged_labels_are_found(folder):
    path = folder / "scripts" / "labels" / "report.csv"
    path.write_text(path.read_text().replace("\n", ",9\n", 3))
    assert "the true answers can be scored" in broken(folder)


def test_a_row_in_both_hidden_sets_is_found(folder):
    labels = folder / "scripts" / "labels"
    line = (labels / "feedback.csv").read_text().splitlines()[1]
    (labels / "report.csv").open("a").write(line + "\n")
    assert "feedback and report rows are disjoint" in broken(folder)


def test_a_hidden_row_among_the_visible_is_found_even_when_written_differently(folder):
    data = folder / "env" / "data"
    train, test = pd.read_csv(data / "train.csv"), pd.read_csv(data / "test.csv")
    row = test.iloc[0].drop("id").copy()
    row["education"] = row["education"].upper() + " "
    row["target"] = 0
    pd.concat([train, row.to_frame().T]).to_csv(data / "train.csv", index=False)
    assert "no hidden row is a visible one" in broken(folder)


def test_repeated_hidden_rows_and_answers_in_test_are_found(folder):
    path = folder / "env" / "data" / "test.csv"
    test = pd.read_csv(path)
    test.iloc[1, 1:] = test.iloc[0, 1:]
    test["target"] = 0
    test.to_csv(path, index=False)
    pd.read_csv(path).to_csv(path, index=False)
    assert {"no hidden row is there twice", "test.csv holds no answer"} <= broken(folder)


@pytest.mark.parametrize(
    ("ran", "rule"),
    [
        (Ran("error", "NameError: x", 0.1), "the starter runs"),
        (Ran("ok", "", 19.0), "the starter leaves time for better scripts"),
        (Ran("ok", "", 0.1, {}, 2 << 30), "the starter leaves memory for better scripts"),
        (Ran("ok", "", 0.1), "the starter's submission can be scored"),
    ],
)
def test_a_bad_starter_is_found(built, ran, rule):
    assert rule in broken(built, lambda task, files: ran)


def test_a_wrong_stated_score_is_found(built):
    task = find_task(built)
    stated = {name: value + 0.1 for name, value in task.baseline.items()}
    assert "the starter reproduces its stated score" in broken(built, run_trusted, baseline=stated)


def test_a_best_score_that_is_none_is_found(built):
    task = find_task(built)
    assert "the best known score beats the starter's" in broken(built, best=dict(task.baseline))


def test_every_finding_tells_where_and_what_to_do(built):
    for finding in check_task(find_task(built)):
        assert finding.rule and finding.where and finding.cure
    assert np.all([finding.message for finding in check_task(find_task(built))])


def test_the_table_of_rules_is_that_of_the_checks():
    code = inspect.getsource(check) + inspect.getsource(check_grader)
    for rule, row in contract.rules().items():
        assert row["where"] and row["found"] and row["cure"] and f'"{rule}"' in code, rule
