"""A competition in the shape of MLE-bench: imported, checked, played, evaluated; every refusal."""

import ast
import doctest
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_openai import FakeOpenAI
from mlebench_competition import BOARD, flowers, write_competition
from tiny_task import edit, final, graded

from mlagent_lib.agents.ideas import candidate_ideas
from mlagent_lib.agents.policies import ChatPolicy, ScriptedExpert
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.agents.server.endpoint_name import parse_endpoint
from mlagent_lib.cli import main
from mlagent_lib.core.errors import SubmissionError, TaskError
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import RuleCoder
from mlagent_lib.environment.runner import Runner
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.results.evaluation import TaskScale, task_table, trajectory_table
from mlagent_lib.results.medals import medal_table
from mlagent_lib.tasks.check import check_task
from mlagent_lib.tasks.foreign import mlebench, mlebench_split, mlebench_starter
from mlagent_lib.tasks.foreign.leaderboard import leaderboard_of
from mlagent_lib.tasks.foreign.mlebench import import_competition
from mlagent_lib.tasks.foreign.mlebench_read import Tables
from mlagent_lib.tasks.foreign.mlebench_split import halves, strata_of
from mlagent_lib.tasks.foreign.mlebench_starter import make_starter
from mlagent_lib.tasks.foreign.standin import mlebench as standin
from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.pocket.measure import Ran, run_trusted
from mlagent_lib.tasks.registry import find_task


@pytest.fixture
def source(tmp_path):
    """Return a competition that a test may spoil."""
    return write_competition(tmp_path / "source")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """Return the folder of the task that the command line makes, and where it was made from."""
    folder = tmp_path_factory.mktemp("mlebench")
    found = write_competition(folder)
    words = [
        "tasks", "import-mlebench", "flower-kinds", "--out", str(folder / "tasks" / "flower-kinds"),
        "--prepared", str(folder / "prepared"), "--competition", str(folder / "competitions/flower-kinds"),
        "--metric", "accuracy", "--seconds", "60",
    ]  # fmt: skip
    assert main(words) == 0
    return folder / "tasks" / "flower-kinds", found


@pytest.fixture(scope="module")
def task(imported):
    return find_task(imported[0])


def unused(task, files):
    raise AssertionError("the starter must not run")


def refusal(source, tmp_path, execute=unused, **options):
    """Return the error of an import; nothing may be left behind."""
    out = tmp_path / "tasks" / "made"
    with pytest.raises(TaskError) as error:
        import_competition("made", out, source, execute=execute, **options)
    assert error.value.cure and not out.exists()
    assert not out.parent.exists() or list(out.parent.iterdir()) == []
    return error.value


def answering(table):
    """Return a stand-in for the runner: every script hands in this table."""
    return lambda task, files: Ran("ok", "", 0.1, {"submission.csv": table.to_csv(index=False).encode()})


# ---- check, collect, evaluate ---------------------------------------------------------------------


def test_the_doctests_hold():
    assert doctest.testmod(mlebench_split).failed == doctest.testmod(mlebench_starter).failed == 0


def test_the_folder_holds_what_a_task_needs(imported, task):
    folder, source = imported
    assert (task.name, task.metric, task.greater_is_better, task.split) == (
        "flower-kinds", "accuracy", True, "other",
    )  # fmt: skip
    assert (task.modality, task.kind, task.answer_columns) == ("tabular", "label", ("kind",))
    assert set(task.env_files()) == {"train.py", "data_description.txt"}
    assert sorted(path.name for path in task.data_dir.iterdir()) == [
        "sample_submission.csv", "test.csv", "train.csv",
    ]  # fmt: skip
    assert "raise the competition's score" in task.research_problem and "flower_id" in task.research_problem
    assert task.limits.seconds == 60 and not task.one_label_set
    assert task.best == {"feedback": 0.99, "report": 0.99}
    assert task.best_provenance.startswith("best private score of 60 teams")
    assert 0.6 < task.baseline["feedback"] < 0.99 and 0.6 < task.baseline["report"] < 0.99
    assert "must not be imported" not in "".join(path.read_text() for path in folder.rglob("*.py"))
    assert leaderboard_of(task).scores == tuple(BOARD)
    assert "teamId" not in (folder / "scripts" / "leaderboard.csv").read_text()


def test_the_answers_are_divided_by_class_and_closed_to_others(imported):
    folder, source = imported
    hidden = folder / "scripts" / "answers"
    whole, feedback, report = (pd.read_csv(hidden / f"{name}.csv") for name in ("all", "feedback", "report"))
    assert (hidden / "all.csv").read_bytes() == (source.private / "test.csv").read_bytes()
    assert set(feedback["flower_id"]) & set(report["flower_id"]) == set()
    joined = pd.concat([feedback, report]).set_index("flower_id").loc[whole["flower_id"]].reset_index()
    assert joined.equals(whole)
    for half in (feedback, report):  # in the order of the file: some graders compare by position
        assert half["flower_id"].is_monotonic_increasing
    counts = [half["kind"].value_counts() for half in (feedback, report)]
    assert (counts[0] - counts[1]).abs().max() <= 1
    assert hidden.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in hidden.iterdir()} == {0o600}


def test_no_answer_lies_in_the_open(imported):
    folder, source = imported
    hidden = pd.read_csv(source.private / "test.csv")
    for path in (folder / "env").rglob("*.csv"):
        shown = pd.read_csv(path)
        if "kind" in shown and path.name != "sample_submission.csv":
            assert not shown["flower_id"].isin(hidden["flower_id"]).any()


def test_check_finds_nothing_to_complain_about(imported, capsys):
    assert main(["tasks", "check", str(imported[0])]) == 0
    assert re.search(r"\d+ rules hold, 0 do not", capsys.readouterr().out)


def broken(folder):
    return {finding.rule: finding for finding in check_task(find_task(folder)) if not finding.ok}


@pytest.fixture
def copied(imported, tmp_path):
    """Return a copy of the task that a test may spoil."""
    return Path(shutil.copytree(imported[0], tmp_path / "flower-kinds"))


@pytest.mark.parametrize(
    ("part", "change", "rule", "words"),
    [
        ("report", lambda text, other: text + other.split("\n")[1] + "\n",
         "feedback and report rows are disjoint", "1 ids in both"),
        ("report", lambda text, other: text[: text.rstrip().rfind("\n") + 1],
         "the label sets together are all answers", "1 ids only in one"),
        ("report", lambda text, other: text.replace("flower_id", "nr"),
         "the answers can be read", "KeyError"),
    ],
)  # fmt: skip
def test_check_finds_spoiled_answers(copied, part, change, rule, words):
    hidden = copied / "scripts" / "answers"
    text = (hidden / f"{part}.csv").read_text()
    (hidden / f"{part}.csv").write_text(change(text, (hidden / "feedback.csv").read_text()))
    assert words in broken(copied)[rule].message


def test_check_finds_open_answers(copied):
    (copied / "scripts" / "answers").chmod(0o755)
    assert broken(copied)["only the owner may open the answers"].message == "mode 755"


def test_check_finds_answers_in_the_open(copied):
    feedback = pd.read_csv(copied / "scripts" / "answers" / "feedback.csv")
    feedback.assign(more=1).head(5).to_csv(copied / "env" / "data" / "hint.csv", index=False)
    (copied / "env" / "data" / "empty.csv").write_text("")
    found = broken(copied)["no answer lies in env/"]
    assert found.where == "env/data/hint.csv" and "1 tables" in found.message


def truth_of(source, **changes):
    return pd.read_csv(source.private / "test.csv").assign(**changes).to_csv(index=False).encode()


def test_the_competitions_own_grader_scores_each_half(imported, task):
    source = imported[1]
    assert grade(task, truth_of(source), "feedback") == grade(task, truth_of(source), "report") == 1.0
    answers = pd.read_csv(source.private / "test.csv")
    of_report = pd.read_csv(imported[0] / "scripts" / "answers" / "report.csv")["flower_id"]
    wrong = answers.assign(kind=answers["kind"].where(~answers["flower_id"].isin(of_report[:30]), "lily"))
    hits = (wrong["kind"] == answers["kind"])[answers["flower_id"].isin(of_report)].mean()
    submission = wrong.to_csv(index=False).encode()
    assert grade(task, submission, "feedback") == 1.0
    assert grade(task, submission, "report") == pytest.approx(hits) and hits < 0.9


def test_a_submission_is_refused_where_the_grader_refuses_it_whole(imported, task):
    source = imported[1]
    answers = pd.read_csv(source.private / "test.csv")
    of_report = pd.read_csv(imported[0] / "scripts" / "answers" / "report.csv")["flower_id"]
    stranger = answers.assign(kind=answers["kind"].where(answers["flower_id"] != of_report[0], "rose"))
    for spoiled, reason in (
        (stranger, "evaluator-refused"), (answers[1:], "row-count"),
        (answers.rename(columns={"kind": "class"}), "header"),
    ):  # fmt: skip
        with pytest.raises(SubmissionError, match=reason):  # though its feedback rows are right
            grade(task, spoiled.to_csv(index=False).encode(), "feedback")


@pytest.fixture(scope="module")
def trajectories(task, tmp_path_factory):
    """Return what the scripted expert and a model behind a local server do on the task."""
    ideas = {idea.key: idea for idea in candidate_ideas(task)}
    chosen = tuple(ideas[key] for key in ("model/knn/7", "model/forest/30/None") if key in ideas)
    assert chosen
    turns = iter([edit("Use 5 nearest neighbours."), final()])
    cache = ExecutionCache(tmp_path_factory.mktemp("cache"))
    with Runner(workers=1) as runner, FakeOpenAI(reply=lambda messages: next(turns)) as server:
        tools = Toolbox(runner, RuleCoder(), cache)
        expert = run_trajectories(
            [Job(task, "expert", 0, 0, chosen)], ScriptedExpert(look_share=0.0), tools, max_steps=3
        )
        model = parse_endpoint(f"openai:fake@{server.base_url}")
        chat = run_trajectories(
            [Job(task, "fake", 0, 0)], ChatPolicy(model.reply, name="fake"), tools, max_steps=3
        )
        assert len(server.requests) == 2
    return graded(expert + chat, task, tools)


def test_two_agents_play_it(task, trajectories):
    for row in trajectories:
        outcomes = [step["outcome"] for step in row["steps"]]
        assert outcomes[0] == "edited" and "unscored" not in outcomes
        assert row["steps"][0]["score_before"] == pytest.approx(task.baseline["feedback"])
        assert row["steps"][0]["score_after"] != row["steps"][0]["score_before"]
        assert row["final"]["report_start"] == pytest.approx(task.baseline["report"])
        assert np.isfinite(row["steps"][0]["reward"])
    labels = json.dumps([[step["observation"] for step in row["steps"]] for row in trajectories])
    assert "answers/" not in labels


def test_they_land_in_the_tables_with_medals(task, trajectories):
    table = trajectory_table(trajectories, {task.name: TaskScale.of(task)})
    assert not table["unscored"].any()
    assert set(task_table(table, draws=10)["policy"]) == {"expert", "fake"}
    found = medal_table(table, {task.name: leaderboard_of(task)}).set_index("policy")
    for policy, row in found.iterrows():
        score = table.loc[table["policy"] == policy, "score"].iloc[0]
        beaten = 100 * np.mean([other < round(score, 5) for other in BOARD])
        assert row["percentile"] == pytest.approx(beaten) and row["teams"] == 60
        assert row["gold_score"] == 0.94  # the sixth of 60 teams


# ---- dividing -------------------------------------------------------------------------------------


def test_halves_are_seeded_even_and_keep_ids_together():
    ids = [f"id{number // 2}" for number in range(200)]  # two rows each
    strata = ["rare" if number < 6 else "common" for number in range(200)]
    found = halves(ids, strata, np.random.default_rng(0))
    assert (found == halves(ids, strata, np.random.default_rng(0))).all()
    assert (found != halves(ids, strata, np.random.default_rng(1))).any()
    assert (found[0::2] == found[1::2]).all() and found.sum() == 100
    assert found[:6].sum() in (2, 4)  # three ids of the rare class


def test_what_rows_are_divided_by():
    one_hot = pd.DataFrame(np.eye(3, dtype=int)[[0, 1, 2] * 10], columns=list("abc")).astype(str)
    strata, words = strata_of(one_hot)
    assert strata[:2] == ["1 0 0", "0 1 0"] and "mark" in words
    numbers = pd.DataFrame({"a": ["0.5", "0.25"] * 9, "b": ["1.5", "7"] * 9})
    assert strata_of(numbers) == ([""] * 18, "chance")
    assert strata_of(pd.DataFrame(index=range(4))) == ([""] * 4, "chance")


# ---- starters -------------------------------------------------------------------------------------


def tables_for(sample, id_column="id"):
    targets = tuple(name for name in sample if name not in (id_column, "note"))
    return Tables(sample, Path("answers.csv"), sample, "sample_submission.csv", id_column, targets)


def run_starter(tmp_path, train, test, sample, source, rows=None):
    """Return the starter and the submission that it really writes, in a fork of this process."""
    made = make_starter(train, test, tables_for(sample))
    data = tmp_path / "t" / "env" / "data"
    data.mkdir(parents=True)
    for name, table in (("train", train), ("test", test), ("sample_submission", sample)):
        if len(table):
            table.to_csv(data / f"{name}.csv", index=False)
    task = replace(source, folder=tmp_path / "t")
    ran = run_trusted(task, {"train.py": made.script.encode()})
    assert ran.status == "ok", ran.output
    (tmp_path / "submission.csv").write_bytes(ran.collected["submission.csv"])
    return made, pd.read_csv(tmp_path / "submission.csv"), ran.output


@pytest.fixture
def rows():
    draw = np.random.default_rng(0)
    number = draw.normal(size=160)
    texts = np.where(number > 0, "a bright and sunny day in the garden", "a dark and rainy night in the town")
    train = pd.DataFrame({"id": range(160), "x": number, "word": ["u", "v"] * 80, "text": texts + " " * 9})
    test = train.assign(id=range(1000, 1160))
    return train, test, pd.DataFrame({"id": test["id"][::-1]})  # the sample in another order


@pytest.mark.parametrize(
    ("target", "shown", "inputs", "kind", "said"),
    [
        ("label", "a", ["x", "word"], "label", "validation accuracy"),
        ("flag", 0.5, ["x", "word"], "probability", "validation logloss"),
        ("number", 0.0, ["x"], "regression", "validation rmse"),
        ("label", "a", ["word"], "label", "validation accuracy"),
        ("label", "a", ["text", "x"], "label", "validation accuracy"),
        ("number", 0.0, ["text"], "regression", "validation rmse"),
    ],
)
def test_one_column_is_answered(tmp_path, task, rows, target, shown, inputs, kind, said):
    train, test, sample = rows
    truth = {
        "label": np.where(train["x"] > 0, "a", "b"),
        "flag": (train["x"] > 0).astype(int),
        "number": train["x"] * 2.5,
    }[target]
    train = train[["id", *inputs]].assign(**{target: truth})
    sample = sample.assign(**{target: shown})
    made, answer, output = run_starter(tmp_path, train, test[["id", *inputs]], sample, task)
    assert (made.modality, made.kind) == ("text" if "text" in inputs else "tabular", kind)
    assert (
        said in output
        and list(answer) == ["id", target]
        and answer["id"].equals(sample["id"].reset_index(drop=True))
    )
    if inputs == ["word"]:
        return  # it says nothing of the answer; the other inputs tell it
    right = (test["x"] > 0).to_numpy()[::-1]  # in the sample's order
    said_up = {"label": "a", "flag": 0.5, "number": 0.0}[target]
    up = answer[target] == said_up if target == "label" else answer[target] > said_up
    assert (up.to_numpy() == right).mean() > 0.9


def test_chances_of_classes_are_answered(tmp_path, task, rows):
    train, test, sample = rows
    train = train[["id", "x"]].assign(kind=np.where(train["x"] > 0, "up", "down"))
    sample = sample.assign(down=0.5, up=0.5)
    made, answer, _ = run_starter(tmp_path, train, test[["id", "x"]], sample, task)
    assert made.kind == "probability" and np.allclose(answer[["down", "up"]].sum(axis=1), 1)
    assert ((answer["up"] > 0.5).to_numpy()[::-1] == (train["x"] > 0).to_numpy()).mean() > 0.9


@pytest.mark.parametrize("binary", [True, False])
def test_several_columns_are_answered(tmp_path, task, rows, binary):
    train, test, sample = rows
    one = (train["x"] > 0).astype(int) if binary else train["x"]
    train = train[["id", "text"]].assign(one=one, two=1 - one)
    sample = sample.assign(one=0.5, two=0.5)
    made, answer, _ = run_starter(tmp_path, train, test[["id", "text"]], sample, task)
    assert made.kind == "multioutput" and np.isfinite(answer[["one", "two"]]).all(axis=None)
    assert not binary or answer[["one", "two"]].stack().between(0, 1).all()


def test_missing_values_new_words_and_other_columns_do_no_harm(tmp_path, task, rows):
    train, test, sample = rows
    train = train[["id", "x", "word"]].assign(label=np.where(train["x"] > 0, "a", "b"))
    train.loc[::3, "x"], train.loc[::5, "word"] = np.nan, None
    test = test[["id", "x", "word"]].assign(word="new")
    sample = sample.assign(note="kept", label="a")
    _, answer, _ = run_starter(tmp_path, train, test, sample, task)
    assert set(answer["label"]) <= {"a", "b"} and set(answer["note"]) == {"kept"}


@pytest.mark.parametrize(
    ("truth", "shown", "expected"),
    [([0, 1, 1, 1], 0.5, 0.75), ([3, 3, 1, 2], 0, 3), (["a", "b", "b", "c"], "a", "b")],
)
def test_without_columns_to_learn_from_one_answer_is_given(tmp_path, task, truth, shown, expected):
    train = pd.DataFrame({"id": range(4), "y": truth})
    sample = pd.DataFrame({"id": range(9), "y": shown})
    made, answer, _ = run_starter(tmp_path, train, pd.DataFrame(), sample, task)
    assert made.modality == "other" and set(answer["y"]) == {expected}


def test_where_nothing_is_known_the_sample_is_handed_in(tmp_path, task, rows):
    _, test, sample = rows
    sample = sample.assign(boxes="1 2 3")
    made, answer, _ = run_starter(tmp_path, pd.DataFrame(), test[["id"]], sample, task)
    assert "unchanged" in made.how and answer["boxes"].eq("1 2 3").all()


# ---- what is missing or does not fit ---------------------------------------------------------------


@pytest.mark.parametrize("part", ["public", "private"])
def test_missing_and_empty_folders(source, tmp_path, part):
    error = refusal(replace(source, **{part: tmp_path / "none"}), tmp_path)
    assert f"the {part} data" in error.message and "are not there" in error.message
    assert "mlebench prepare" in error.cure and error.cure.endswith(f"prepared/{part}")
    (tmp_path / "empty").mkdir()
    assert "are empty" in refusal(replace(source, **{part: tmp_path / "empty"}), tmp_path).message


@pytest.mark.parametrize("part", ["grade", "description"])
def test_missing_files(source, tmp_path, part):
    error = refusal(replace(source, **{part: tmp_path / "none.txt"}), tmp_path)
    assert "is not there" in error.message and "clone of MLE-bench" in error.cure


@pytest.mark.parametrize(
    ("text", "words"),
    [("def grade(:", "is no Python file"), ("def score(a, b): pass\n", "no function grade")],
)
def test_files_that_are_no_grader(source, tmp_path, text, words):
    source.grade.write_text(text)
    assert words in refusal(source, tmp_path).message


def test_answers_that_are_not_clear(source, tmp_path):
    (source.private / "test.csv").rename(source.private / "one.csv")
    (source.private / "two.csv").write_text("id\n1\n")
    (source.private / "gold_submission.csv").write_text("id\n1\n")
    error = refusal(source, tmp_path)
    assert "one table of answers, found one.csv, two.csv" in error.message and "--answers" in error.cure
    assert "none.csv is not there" in refusal(replace(source, answers="none.csv"), tmp_path).message
    (source.private / "answers.json").write_text("{}")
    assert "no CSV file" in refusal(replace(source, answers="answers.json"), tmp_path).message


def test_a_sample_that_is_not_there(source, tmp_path):
    (source.public / "sample_submission.csv").unlink()
    error = refusal(source, tmp_path)
    assert "one table of sample, found none" in error.message and "--sample" in error.cure


def test_other_names_are_found(source):
    (source.public / "sample_submission.csv").rename(source.public / "sample_submission_null.csv")
    (source.private / "test.csv").rename(source.private / "anything.csv")
    (source.private / "gold_submission.csv").write_text("id\n1\n")
    tables = mlebench.read_tables(source)
    assert tables.sample_name == "sample_submission_null.csv" and tables.answers_path.name == "anything.csv"


def test_tables_that_cannot_be_read(source, tmp_path):
    (source.private / "test.csv").write_text("")
    error = refusal(source, tmp_path)
    assert "cannot be read as a table" in error.message and "prepare the competition again" in error.cure


def test_ids_that_are_not_found(source, tmp_path):
    assert "no column 'nr'" in refusal(replace(source, id_column="nr"), tmp_path).message
    path = source.private / "test.csv"
    path.write_text(path.read_text().replace("flower_id", "nr"))
    error = refusal(source, tmp_path)
    assert "no column of" in error.message and "--id" in error.cure


def test_tables_of_different_rows(source, tmp_path):
    path = source.private / "test.csv"
    path.write_text(path.read_text().replace("f1000,", "f9,"))
    error = refusal(replace(source, id_column="flower_id"), tmp_path)
    assert "1 ids are only in the first, 1 only in the second" in error.message


def test_too_few_rows(source, tmp_path):
    for path in (source.private / "test.csv", source.public / "sample_submission.csv"):
        path.write_text("\n".join(path.read_text().split("\n")[:10]) + "\n")
    assert "answers 9 rows, 10 are needed" in refusal(source, tmp_path).message


def test_answers_in_the_open(source, tmp_path):
    hidden = (source.private / "test.csv").read_bytes()
    (source.public / "more").mkdir()
    (source.public / "more" / "test_solution.csv").write_bytes(hidden)
    assert "is a copy of the private answers" in refusal(source, tmp_path).message
    (source.public / "more" / "test_solution.csv").unlink()
    (source.public / "sample_submission.csv").write_bytes(hidden + b"\n")
    assert "holds the true answers" in refusal(source, tmp_path).message


def test_submissions_that_are_too_large(source, tmp_path, monkeypatch):
    monkeypatch.setattr("mlagent_lib.tasks.foreign.mlebench_read.LARGEST_SUBMISSION", 1000)
    assert "the kit reads at most 0.0 MB" in refusal(source, tmp_path).message


def test_a_pointer_instead_of_the_leaderboard(source, tmp_path):
    source.leaderboard.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    error = refusal(source, tmp_path)
    assert "Git-LFS pointer" in error.message and "git lfs pull" in error.cure


def test_no_leaderboard(source, tmp_path):
    error = refusal(replace(source, leaderboard=None), tmp_path, greater_is_better=True)
    assert "without a leaderboard" in error.message and "--better and --best" in error.cure


def test_names_places_and_starters(source, tmp_path):
    assert "is no name for a task" in refusal_of_name(source, tmp_path, "a/b").message
    (tmp_path / "there").mkdir()
    with pytest.raises(TaskError, match="exists already"):
        import_competition("made", tmp_path / "there", source, execute=unused)
    error = refusal(source, tmp_path, starter=tmp_path / "none.py")
    assert "cannot be read (FileNotFoundError)" in error.message and "--starter" in error.cure


def refusal_of_name(source, tmp_path, name):
    with pytest.raises(TaskError) as error:
        import_competition(name, tmp_path / "x", source, execute=unused)
    return error.value


def test_a_starter_that_fails(source, tmp_path):
    error = refusal(source, tmp_path, lambda task, files: Ran("error", "NameError: x\n", 0.1))
    assert "does not run (error): NameError: x" in error.message and "--starter" in error.cure


def test_a_starter_without_a_submission(source, tmp_path):
    error = refusal(source, tmp_path, lambda task, files: Ran("ok", "", 0.1))
    assert "cannot be scored on the feedback rows: submission refused: missing" in error.message


def test_a_starter_whose_submission_is_refused(source, tmp_path):
    sample = pd.read_csv(source.public / "sample_submission.csv").assign(kind="rose")
    error = refusal(source, tmp_path, answering(sample))
    assert "cannot be scored on the feedback rows" in error.message and "unknown kind" in error.message


def test_a_grader_that_needs_more_than_the_stand_in_has(source, tmp_path):
    source.grade.write_text("from mlebench.metrics import unheard_of\n\n\ndef grade(a, b):\n    return 1.0\n")
    error = refusal(source, tmp_path, answering(pd.read_csv(source.public / "sample_submission.csv")))
    assert "unheard_of" in error.message


def test_a_best_score_that_is_none(source, tmp_path, monkeypatch):
    monkeypatch.setattr(mlebench, "grade", lambda *arguments, **options: 0.3)
    sample = pd.read_csv(source.public / "sample_submission.csv")
    error = refusal(source, tmp_path, answering(sample), best=0.1)
    assert "scores 0.3 on the feedback rows, and the best known score is 0.1" in error.message
    assert "which is not better" in error.message and "--best" in error.cure


def test_a_leaderboard_that_runs_against_the_grader(source, tmp_path, monkeypatch):
    truth = truth_of(source)
    monkeypatch.setattr(mlebench, "grade", lambda task, given, part, **_: 1.0 if given == truth else 0.3)
    lines = [f"{score}" for score in sorted(BOARD)]
    source.leaderboard.write_text("\n".join(["score", "0.01", *lines]) + "\n")
    sample = pd.read_csv(source.public / "sample_submission.csv")
    error = refusal(source, tmp_path, answering(sample))
    assert "the true answers score 1 on the feedback rows, worse than the starter's" in error.message
    assert "lower cannot be better" in error.message


def test_a_starter_and_a_best_score_of_your_own(source, tmp_path):
    mine = tmp_path / "mine.py"
    mine.write_text("print('mine')\n")
    source.grade.write_text(  # no file beside it is needed: the grader itself is the script
        "def grade(submission, answers):\n"
        "    return float((submission['kind'].values == answers['kind'].values).mean())\n"
    )
    sample = pd.read_csv(source.public / "sample_submission.csv")
    made = import_competition(
        "mine", tmp_path / "made", replace(source, leaderboard=None), execute=answering(sample),
        starter=mine, greater_is_better=True, best=0.97,
    )  # fmt: skip
    assert made.env_files()["train.py"] == b"print('mine')\n" and made.modality == "other"
    assert made.best == {"feedback": 0.97, "report": 0.97} and made.best_provenance == "given by the user"
    # this grader compares by position: the halves keep the order of the rows
    assert grade(made, truth_of(source), "feedback") == grade(made, truth_of(source), "report") == 1.0
    assert leaderboard_of(made) is None and made.grader.script.parent.name == "mlebench_competition"
    answers = flowers(120, 1000, 2)
    assert made.baseline["feedback"] == pytest.approx((answers["kind"] == "aster").mean(), abs=0.01)


def test_the_command_line_names_what_is_not_given(tmp_path, capsys):
    words = ["tasks", "import-mlebench", "x", "--out", str(tmp_path / "x")]
    assert main([*words, "--prepared", "p"]) == 2
    assert "--grade is not given. What to do: give it, or --competition" in capsys.readouterr().err
    assert main([*words, "--competition", "c"]) == 2
    assert "--public is not given. What to do: give it, or --prepared" in capsys.readouterr().err


# ---- the stand-in for mlebench --------------------------------------------------------------------


@pytest.fixture
def helpers(monkeypatch):
    """Return the helpers as a grader imports them: from a package named mlebench."""
    monkeypatch.syspath_prepend(str(Path(standin.__file__).parent.parent))
    from mlebench.competitions import utils

    yield utils
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlebench"]:
        del sys.modules[name]


ANSWERS = pd.DataFrame({"id": [1, 2, 3], "y": [0, 1, 1]})


def test_rows_are_aligned_by_id(helpers):
    given = pd.DataFrame({"y": [0.9, 0.1, 0.8], "id": [3, 1, 2]})
    found = helpers.prepare_for_auroc_metric(given, ANSWERS, "id", "y")
    assert found["y_true"].tolist() == [0, 1, 1] and found["y_score"].tolist() == [0.1, 0.8, 0.9]
    found = helpers.prepare_for_accuracy_metric(given, ANSWERS, "y", "id")
    assert found["y_pred"].tolist() == [0.1, 0.8, 0.9]


@pytest.mark.parametrize(
    "given",
    [
        {"id": [1, 2], "y": [0, 1]},
        {"id": [1, 2, 4], "y": [0, 1, 1]},
        {"nr": [1, 2, 3], "y": [0, 1, 1]},
        {"id": [1, 2, 3], "z": [0, 1, 1]},
        {"id": [1, 2, 3], "y": [0, 1, 1.5]},
        {"id": [1, 2, 3], "y": ["0", "1", "one"]},
    ],
)
def test_wrong_submissions_are_refused(helpers, given):
    with pytest.raises(helpers.InvalidSubmissionError):
        helpers.prepare_for_auroc_metric(pd.DataFrame(given), ANSWERS, "id", "y")


def test_log_loss_inputs(helpers):
    answers = pd.DataFrame({"id": [1, 2], "a": [1, 0], "b": [0, 1]})
    given = pd.DataFrame({"id": [2, 1], "b": [0.8, 0.3], "a": [0.2, 0.7], "more": [9, 9]})
    found = helpers.one_hot_dfs_to_log_loss_inputs(given, answers, apply_softmax=False)
    assert found["y_true"].tolist() == [[1, 0], [0, 1]] and found["y_pred"].tolist() == [
        [0.7, 0.3],
        [0.2, 0.8],
    ]
    soft = helpers.one_hot_dfs_to_log_loss_inputs(given, answers)["y_pred"]
    assert soft[0, 0] == pytest.approx(1 / (1 + np.exp(-0.4)))  # softmax of 0.7 and 0.3
    with pytest.raises(helpers.InvalidSubmissionError):
        helpers.one_hot_dfs_to_log_loss_inputs(given.drop(columns="a"), answers)
    with pytest.raises(AssertionError):
        helpers.one_hot_dfs_to_log_loss_inputs(given.assign(id=[3, 1]), answers)


def test_readers(helpers, tmp_path):
    from mlebench.utils import read_csv, read_jsonl

    (tmp_path / "a.csv").write_text("x\n0.30000000000000004\n")
    assert read_csv(tmp_path / "a.csv")["x"][0] == 0.1 + 0.2
    (tmp_path / "b.csv").write_text("")
    assert read_csv(tmp_path / "b.csv").empty
    (tmp_path / "c.jsonl").write_text('{"a": 1}\n# no\n\n{"a": 2}\n')
    assert [row["a"] for row in read_jsonl(tmp_path / "c.jsonl", skip_commented_out_lines=True)] == [1, 2]


def test_the_stand_in_imports_nothing_of_this_package():
    for path in Path(standin.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not any(name.startswith(("mlagent_lib", "mlebench")) for name in names)
