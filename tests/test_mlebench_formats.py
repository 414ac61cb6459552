"""What real competitions of MLE-bench look like: files, archives, groups, run lengths, odd answers."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from mlebench_competition import write_competition

from mlagent_lib.core.errors import TaskError
from mlagent_lib.tasks.foreign import mlebench_read
from mlagent_lib.tasks.foreign.mlebench import import_competition
from mlagent_lib.tasks.foreign.mlebench_read import Competition, Tables, configured, read_tables
from mlagent_lib.tasks.foreign.mlebench_split import groups_of
from mlagent_lib.tasks.foreign.mlebench_starter import make_starter
from mlagent_lib.tasks.foreign.standin import mlebench as standin
from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.pocket.measure import Ran, run_trusted
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.task import Task


@pytest.fixture
def source(tmp_path):
    """Return a competition that a test may spoil."""
    return write_competition(tmp_path / "source")


def sample_of(source: Competition) -> pd.DataFrame:
    return pd.read_csv(source.public / "sample_submission.csv")


def answering(*tables: pd.DataFrame):
    """Return a stand-in for the runner: the n-th run hands in the n-th table, the last one for ever."""
    left = list(tables)

    def execute(task, files):
        table = left.pop(0) if len(left) > 1 else left[0]
        return Ran("ok", "", 0.1, {"submission.csv": table.to_csv(index=False).encode()})

    return execute


# ---- files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["tasks/made", "made", "./x/../made"])
def test_a_relative_place_works(source, tmp_path, monkeypatch, out):
    monkeypatch.chdir(tmp_path)
    sample = sample_of(source)
    made = import_competition("made", Path(out), source, execute=answering(sample))
    assert made.folder == (tmp_path / out).resolve() and made.grader.script.is_file()
    monkeypatch.chdir("/")
    assert grade(find_task(made.folder), sample.to_csv(index=False).encode()) == made.baseline["feedback"]
    card = yaml.safe_load((made.folder / "task.yaml").read_text())
    assert card["grader"]["script"] == "scripts/grade.py"


def hide_sample(source: Competition) -> None:
    (source.public / "sample_submission.csv").rename(source.private / "sample_submission.csv")
    (source.public / "sample_submission.csv.7z").write_bytes(b"7z\xbc\xaf")


def write_config(source: Competition, **dataset: str) -> Path:
    path = source.grade.parent / "config.yaml"
    path.write_text(yaml.safe_dump({"id": "flower-kinds", "dataset": dataset}))
    return path


def test_a_sample_in_an_archive_is_taken_from_private_and_shown(source, tmp_path):
    sample = sample_of(source)
    hide_sample(source)
    made = import_competition("made", tmp_path / "made", source, execute=answering(sample))
    assert pd.read_csv(made.data_dir / "sample_submission.csv").equals(sample)
    assert "data/sample_submission.csv" in made.research_problem


@pytest.mark.parametrize("name", ["sample_submission.csv.7z", "en_sampleSubmission_2.csv.zip"])
def test_a_sample_in_an_archive_alone_has_to_be_unpacked(source, name):
    (source.public / "sample_submission.csv").rename(source.public / name)
    with pytest.raises(TaskError, match=f"found none, but {name}") as error:
        read_tables(source)
    assert error.value.cure == f"unpack {source.public / name}"


def test_the_config_names_the_files(source):
    hide_sample(source)
    (source.private / "test.csv").rename(source.private / "solution.csv")
    (source.private / "more.csv").write_text("id\n1\n")
    with pytest.raises(TaskError, match=r"found more.csv, solution.csv"):
        read_tables(source)
    place = "flower-kinds/prepared/private"
    config = write_config(
        source, answers=f"{place}/solution.csv", sample_submission=f"{place}/sample_submission.csv"
    )
    found = configured(source, config)
    assert (found.answers, found.sample) == ("solution.csv", "sample_submission.csv")
    assert read_tables(found).sample_path.parent == source.private
    assert configured(replace(source, answers="more.csv"), config).answers == "more.csv"  # the user knows


@pytest.mark.parametrize(
    "text", ["", "id: x\n", "dataset:\n", "dataset: {answers: nowhere.csv, sample_submission: 3}\n"]
)
def test_a_config_that_names_nothing_that_is_there_changes_nothing(source, text):
    config = source.grade.parent / "config.yaml"
    assert configured(source, config) == source
    config.write_text(text)
    assert configured(source, config) == source


@pytest.mark.parametrize("text", ["a: [", "just words", "dataset: words"])
def test_a_config_that_is_none_is_named(source, text):
    config = source.grade.parent / "config.yaml"
    config.write_text(text)
    with pytest.raises(TaskError, match=r"config.yaml is no table of keys"):
        configured(source, config)


@pytest.mark.parametrize(("name", "kind"), [("test.jsonl", "JSONL"), ("labels.parquet", "PARQUET")])
def test_answers_that_are_no_table_are_named_with_their_kind(source, name, kind):
    (source.private / "test.csv").rename(source.private / name)
    (source.private / "gold_submission.csv").write_text("id\n1\n")
    with pytest.raises(TaskError, match=rf"found none, but {name} \({kind}\)") as error:
        read_tables(source)
    assert "only CSV is read" in error.value.cure
    with pytest.raises(TaskError, match=f"{name} is no CSV file but {kind}"):
        read_tables(replace(source, answers=name))


def test_the_size_limit_is_that_of_honest_numbers(source):
    rows = 400_000
    ids = pd.DataFrame({"flower_id": range(rows)})
    ids.assign(kind=0).to_csv(source.public / "sample_submission.csv", index=False)
    numbers = np.random.default_rng(0).normal(size=rows) * 1e-5
    ids.assign(kind=numbers.round(2)).to_csv(source.private / "test.csv", index=False)
    tables = read_tables(source)
    size = (source.public / "sample_submission.csv").stat().st_size
    assert tables.largest_bytes == size + 25 * rows > (8 << 20) > size
    assert len(ids.assign(kind=numbers).to_csv(index=False)) <= tables.largest_bytes


def test_texts_may_grow_to_twice_the_true_ones(source):
    texts = pd.DataFrame({"flower_id": range(20), "kind": ["x" * 300_000] * 20})
    texts.to_csv(source.private / "test.csv", index=False)
    texts.assign(kind="y").to_csv(source.public / "sample_submission.csv", index=False)
    size = (source.public / "sample_submission.csv").stat().st_size
    assert read_tables(source).largest_bytes == size + 2 * 20 * 300_000


def test_the_task_knows_its_size_limit(source, tmp_path, monkeypatch):
    monkeypatch.setattr(mlebench_read, "_LONGEST_NUMBER", 400_000)  # 120 rows
    size = (source.public / "sample_submission.csv").stat().st_size
    made = import_competition("made", tmp_path / "made", source, execute=answering(sample_of(source)))
    assert made.grader.largest_bytes == made.limits.file_bytes == size + 48_000_000


# ---- groups ---------------------------------------------------------------------------------------------


def grouped(tmp_path: Path, ids, *, answers=None, test=None, train=None) -> tuple[list[str], str]:
    """Return the groups of a competition with these ids and columns."""
    public = tmp_path / "public"
    public.mkdir(exist_ok=True)
    key = pd.DataFrame({"id": list(map(str, ids))})
    for name, table in (("test", test), ("train", train)):
        if table is not None:
            pd.DataFrame(table).to_csv(public / f"{name}.csv", index=False)
    truth = key.assign(y="0", **{name: list(map(str, column)) for name, column in (answers or {}).items()})
    tables = Tables(truth, Path("a.csv"), key.assign(y=0), "sample.csv", "id", ("y",))
    return groups_of(Competition(public, public, public, public), tables)


BREATHS = [number // 4 for number in range(40)]  # ten of four rows each


def test_what_the_competition_keeps_apart_stays_together(tmp_path):
    ids = range(40)
    test = {"id": ids, "breath": BREATHS, "kind": [number % 5 for number in ids]}
    train = {"id": ids, "breath": [100 + number for number in BREATHS], "kind": [1, 2, 3, 4] * 10, "y": 0}
    assert grouped(tmp_path, ids, test=test, train=train) == (list(map(str, BREATHS)), "breath")
    shared = train | {"breath": BREATHS}
    assert grouped(tmp_path, ids, test=test, train=shared) == (list(map(str, ids)), "")


def test_patients_stay_together_also_where_training_rows_share_them(tmp_path):
    ids = [f"scan{number}" for number in range(40)]
    train = {"id": ["s1"], "PatientID": [3], "y": [0]}
    assert grouped(tmp_path, ids, answers={"PatientID": BREATHS}, train=train)[1] == "PatientID"


@pytest.mark.parametrize("name", ["visit_date", "Month"])
def test_later_days_are_no_groups(tmp_path, name):
    test, train = {"id": range(40), name: BREATHS}, {"id": range(40), name: [99] * 40}
    assert grouped(tmp_path, range(40), test=test, train=train)[1] == ""


def test_ids_that_hold_their_group(tmp_path):
    ids = [f"case{number // 20}_day{number // 2}_{number % 2}" for number in range(40)]
    groups, name = grouped(tmp_path, ids)  # two cases are too few, twenty days are not
    assert name == "first 2 parts of id" and groups[2:5] == ["case0_day1", "case0_day1", "case0_day2"]
    assert grouped(tmp_path, ids, train={"id": ["case0_day3_7"], "y": [1]})[1] == ""
    assert grouped(tmp_path, [f"test_{number}" for number in range(40)])[1] == ""
    assert grouped(tmp_path, [f"{number:04d}_01" for number in range(40)])[1] == ""  # each of one row


def test_rows_of_a_patient_are_not_split(source, tmp_path):
    path = source.private / "test.csv"
    answers = pd.read_csv(path)
    answers["patient"] = [f"p{number // 6}" for number in range(len(answers))]
    answers.to_csv(path, index=False)
    made = import_competition("made", tmp_path / "made", source, execute=answering(sample_of(source)))
    parts = [pd.read_csv(made.grader.answers[name])["patient"] for name in ("feedback", "report")]
    assert not set(parts[0]) & set(parts[1]) and [part.nunique() for part in parts] == [10, 10]
    assert "rows of the same patient together" in made.provenance


def test_an_id_of_several_rows_is_told_apart_by_what_else_is_given(source, tmp_path):
    sizes, letters = [1, 2] * 60, ["a", "a", "b", "b"] * 30
    rows = pd.DataFrame({"flower_id": [f"f{n // 4}" for n in range(120)], "size": sizes, "letter": letters})
    rows["note"] = "n"  # says nothing
    rows.assign(kind="lily").to_csv(source.private / "test.csv", index=False)
    sample = rows.assign(kind="aster")
    sample.to_csv(source.public / "sample_submission.csv", index=False)
    source.grade.write_text(
        "def grade(submission, answers):\n    return float((submission.kind == 'lily').mean())\n"
    )
    source = replace(source, id_column="flower_id")
    made = import_competition("made", tmp_path / "made", source, execute=answering(sample))
    assert made.grader.key == ("flower_id", "size", "letter")


# ---- starters -------------------------------------------------------------------------------------------


def started(tmp_path: Path, train: dict, test: dict, sample: dict, id_column: str = "id"):
    """Return the starter and what it hands in, run in a fork of this process."""
    data = tmp_path / "env" / "data"
    data.mkdir(parents=True)
    for name, table in (("train", train), ("test", test), ("sample_submission", sample)):
        pd.DataFrame(table).to_csv(data / f"{name}.csv", index=False)
    train, test, sample = (
        pd.read_csv(data / f"{name}.csv") for name in ("train", "test", "sample_submission")
    )
    targets = tuple(name for name in sample if name != id_column)
    tables = Tables(sample, Path("a.csv"), sample, "sample_submission.csv", id_column, targets)
    made = make_starter(train, test, tables)
    told = {"modality": "other", "kind": "other", "metric": "score", "greater_is_better": True}
    task = Task(name="t", folder=tmp_path, **told)
    ran = run_trusted(task, {"train.py": made.script.encode()})
    assert ran.status == "ok", ran.output
    (tmp_path / "submission.csv").write_bytes(ran.collected["submission.csv"])
    return made, pd.read_csv(tmp_path / "submission.csv"), sample


UP = [number % 2 for number in range(80)]


@pytest.mark.parametrize("more", ["and a great many more words of it", "now"])  # also texts that are short
def test_row_names_that_are_the_text_are_learned_from(tmp_path, more):
    texts = [f"{'good' if up else 'bad'} day {number} {more}" for number, up in enumerate(UP)]
    test = [f"{text} again" for text in texts]
    made, answer, _ = started(
        tmp_path, {"y": UP, "date": UP[::-1], "comment": texts}, {"date": UP, "comment": test},
        {"y": [0] * 80, "comment": test}, "comment",
    )  # fmt: skip
    assert made.modality == "text" and made.how.endswith("on comment")
    assert answer["y"].tolist() == UP and answer["comment"].tolist() == test


def test_row_names_that_are_hashes_are_not(tmp_path):
    names = [f"{number:064x}" for number in range(160)]
    train, test = {"id": names[:80], "x": UP, "y": UP}, {"id": names[80:], "x": UP}
    made, answer, _ = started(tmp_path, train, test, {"id": names[80:], "y": [0] * 80})
    assert made.how == "a tree of depth 5 on 1 columns" and answer["y"].tolist() == UP


def test_one_hot_answers_to_texts_are_shares_that_add_up(tmp_path):
    texts = [
        f"a {'good' if up else 'bad'} answer number {number} with some more words"
        for number, up in enumerate(UP)
    ]
    one_hot = {"a": UP, "b": [1 - up for up in UP], "tie": [0] * 80}
    made, answer, _ = started(
        tmp_path, {"id": range(80), "text": texts, **one_hot}, {"id": range(80), "text": texts},
        {"id": range(80), **dict.fromkeys(one_hot, 1 / 3)},
    )  # fmt: skip
    shares = answer[list(one_hot)]
    assert made.kind == "multioutput" and np.allclose(shares.sum(axis=1), 1) and (shares > 0).all(axis=None)
    assert (shares.idxmax(axis=1) == np.where(UP, "a", "b")).all()


def test_numbers_stay_within_those_of_the_training_rows(tmp_path):
    values = {"id": range(80), "text": [f"word{number % 7} " * 12 for number in range(80)]}
    score = [0.0, 1.0] * 40
    _, answer, _ = started(tmp_path, values | {"y": score}, values, {"id": range(80), "y": [0.5] * 80})
    assert answer["y"].between(0, 1).all() and answer["y"].nunique() > 1


ROWS = {"id": list(range(80)), "x": UP}


@pytest.mark.parametrize(
    ("truth", "shown"),
    [
        ([f"U+0041 {number} 1 2 3" for number in range(80)], ["U+0041 1 1"] * 80),  # boxes, asked are points
        (["yes", "no"] * 40, [0.5] * 80),
        ([3, 4] * 40, ["3 4 5"] * 80),
        (["new", "old"] * 40, ["old new"] * 80),
    ],
)
@pytest.mark.parametrize("inputs", [ROWS, {"id": ROWS["id"]}])
def test_answers_of_another_format_than_the_training_rows_are_the_sample(tmp_path, truth, shown, inputs):
    sample = {"id": ROWS["id"], "y": shown}
    made, answer, given = started(tmp_path, inputs | {"y": truth}, inputs, sample)
    assert made.how == "the sample submission, unchanged" and answer.equals(given)


def test_free_texts_where_the_sample_is_empty(tmp_path):
    texts = [f"some words of the text number {number}" for number in range(600)]
    rows = {"id": range(600), "text": [text + " and what else it says" for text in texts]}
    made, answer, _ = started(tmp_path, rows | {"y": texts}, rows, {"id": range(600), "y": [""] * 600})
    assert made.how == "the sample submission, unchanged" and answer["y"].isna().all()


def test_an_empty_sample_of_few_classes_is_answered_with_them(tmp_path):
    rows = {"id": range(80), "label": ["cat", "dog", "dog", "dog"] * 20}
    made, answer, _ = started(tmp_path, rows, {"id": range(80)}, {"id": range(80), "label": [""] * 80})
    assert "one answer for all rows" in made.how and set(answer["label"]) == {"dog"}


def test_where_the_grader_refuses_the_starter_the_sample_is_handed_in(source, tmp_path):
    sample = sample_of(source)
    execute = answering(sample.assign(kind="rose"), sample)
    made = import_competition("made", tmp_path / "made", source, execute=execute)
    assert b"sample.to_csv" in made.env_files()["train.py"] and b"Tree" not in made.env_files()["train.py"]
    told = yaml.safe_load((made.folder / "task.yaml").read_text())["baseline"]["provenance"]
    assert told.startswith("the starter: the sample submission, unchanged; a generated one failed")
    assert (made.modality, made.kind) == ("other", "other")
    mine = tmp_path / "mine.py"
    mine.write_text("print('mine')\n")
    with pytest.raises(TaskError, match="unknown kind"):  # a starter of one's own is not replaced
        import_competition(
            "mine",
            tmp_path / "mine",
            source,
            execute=answering(sample.assign(kind="rose"), sample),
            starter=mine,
        )


def test_a_leaderboard_that_the_starter_beats(source, tmp_path):
    lines = [f"{score}" for score in (0.2, 0.15, 0.1)]
    source.leaderboard.write_text("\n".join(["score", *lines]) + "\n")
    made = import_competition("made", tmp_path / "made", source, execute=answering(sample_of(source)))
    assert made.best == {"feedback": 1.0, "report": 1.0} and made.baseline["report"] > 0.2
    assert made.best_provenance.startswith(
        "the true answers' score, as the starter beats 0.2, the best private"
    )
    with pytest.raises(TaskError, match="which is not better"):
        import_competition("x", tmp_path / "x", source, execute=answering(sample_of(source)), best=0.2)


# ---- run lengths ----------------------------------------------------------------------------------------


@pytest.fixture
def helpers(monkeypatch):
    """Return the helpers as a grader imports them."""
    monkeypatch.syspath_prepend(str(Path(standin.__file__).parent.parent))
    from mlebench.competitions import utils

    yield utils
    for name in [name for name in sys.modules if name.partition(".")[0] == "mlebench"]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("text", "height", "width", "mask"),
    [
        ("2 2 6 1", 3, 2, [[0, 0], [1, 0], [1, 1]]),  # down the first column: 1 2 3, then 4 5 6
        ("2 2 6 1", 2, 3, [[0, 1, 0], [1, 0, 1]]),
        ("1 1 2 1", 2, 2, [[1, 0], [1, 0]]),  # side by side is no overlap
        ("1 4", 2, 2, [[1, 1], [1, 1]]),
        ("4 9", 2, 2, [[0, 0], [0, 1]]),  # what reaches beyond the image is cut off
        (" ", 1, 2, [[0, 0]]),
    ],
)
def test_run_lengths_count_down_the_columns_from_one(helpers, text, height, width, mask):
    found = helpers.rle_decode(text, height, width)
    assert found.dtype == bool and found.astype(int).tolist() == mask


@pytest.mark.parametrize("text", ["0 1", "1 0", "1", "3 1 1 1", "1 2 2 1", "-1 3", float("nan"), None])
def test_what_are_no_run_lengths(helpers, text):
    with pytest.raises(AssertionError):
        helpers.rle_decode(text, 2, 2)


def test_many_run_lengths(helpers):
    found = helpers.rles_to_masks(["1 1", ""], [1, 2], [2, 1])
    assert [mask.astype(int).tolist() for mask in found] == [[[1, 0]], [[0], [0]]]
