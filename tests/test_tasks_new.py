"""Own tables become tasks: made, checked, used by the scripted expert; and every refusal with its cure."""

from __future__ import annotations

import csv
import dataclasses
import doctest
import re

import numpy as np
import pandas as pd
import pytest
import yaml

from mlagent_lib import cli
from mlagent_lib.agents.ideas import Idea, candidate_ideas
from mlagent_lib.agents.policies import ScriptedExpert
from mlagent_lib.agents.rollout import Job, run_trajectories
from mlagent_lib.core.errors import TaskError
from mlagent_lib.environment.cache import ExecutionCache
from mlagent_lib.environment.coder import RuleCoder
from mlagent_lib.environment.runner import Runner, RunRequest
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.tasks import splits
from mlagent_lib.tasks.check import check_task, gold_submission, table_bytes
from mlagent_lib.tasks.grading import grade, read_labels
from mlagent_lib.tasks.own import cells, columns, leaks, read, score, spec, split, target
from mlagent_lib.tasks.own.make import make_task
from mlagent_lib.tasks.own.spec import OwnSpec
from mlagent_lib.tasks.pocket.cards import FACTS
from mlagent_lib.tasks.pocket.catalogue import AXES, edits, read_block
from mlagent_lib.tasks.pocket.measure import Ran
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.splits import normalised_rows

ROWS = 300
PATIENCE = 120.0  # seconds for a script that needs a tenth of one: a busy machine must not fail a test
ANSWERS = ("left", "level", "price", "stars")


def own_table(rows=ROWS, seed=0):
    """Return a table with numbers, words, flags, empty cells, an id, and answers for every metric."""
    draws = np.random.default_rng(seed)
    age, income = draws.normal(50, 12, rows).round(1), draws.lognormal(8, 1, rows).round(2)
    city, owner = draws.choice(list("abcde"), rows), draws.choice([True, False], rows)
    hidden = 0.1 * (age - 50) + np.log(income) - 8 + 2 * (city == "a") + owner + draws.normal(0, 0.4, rows)
    table = pd.DataFrame({"age": age, "income": income, "city": city, "owner": owner})
    table.loc[draws.random(rows) < 0.1, "age"] = np.nan
    table.loc[draws.random(rows) < 0.05, "city"] = np.nan
    table["left"] = np.where(hidden > np.median(hidden), "yes", "no")
    table["level"] = pd.qcut(hidden, 3, labels=["low", "mid", "high"]).astype(str)
    table["price"] = (100 + 10 * hidden).round(3)
    table["stars"] = np.clip(np.round(hidden + 2), 0, 4).astype(int)
    return table


def own_texts(rows=ROWS, seed=0):
    draws = np.random.default_rng(seed)
    plain = ["table", "chair", "house", "river", "stone", "cloud", "tree", "road", "lamp", "book"]
    moods = [[f"{mood}{i}" for i in range(10)] for mood in ("glad", "sour")]
    texts = [
        " ".join(draws.permutation([*draws.choice(plain, 8), *draws.choice(moods[i % 2], 3)]))
        for i in range(rows)
    ]
    return pd.DataFrame({"review": texts, "tone": ["pos", "neg"] * (rows // 2), "length": range(rows)[::-1]})


@pytest.fixture(scope="module")
def execute():
    """Run scripts isolated, as the command does."""
    with Runner(workers=1) as runner:
        yield lambda task, files: runner.run(RunRequest(files, task.data_dir, "train.py", task.limits))


def never(task, files):
    raise AssertionError("a table that is refused runs nothing")


def spec_for(folder, table, answer, metric, **changes):
    """Return a spec for one answer of a table, the other answers dropped."""
    path = folder / "own.csv"
    table.to_csv(path, index=False)
    others = tuple(name for name in ANSWERS if name in table and name != answer)
    return dataclasses.replace(
        OwnSpec("mine", path, answer, metric, drop=others, seconds=PATIENCE), **changes
    )


def refused(folder, table, answer="left", metric="auc", execute=never, **changes):
    """Return the message of the refusal; nothing may be left of the task."""
    with pytest.raises(TaskError) as error:
        make_task(spec_for(folder, table, answer, metric, **changes), folder / "made" / "mine", execute)
    assert error.value.cure
    assert not (folder / "made").exists() or not list((folder / "made").iterdir())
    return str(error.value)


def expert_rows(task, execute, folder):
    """Return a trajectory of the scripted expert with one idea of each axis, through the rule coder."""

    class Runs:
        workers, tier, spans = 1, "as given", ()

        def run_many(self, requests, *, keep_unscored=False):
            return [execute(task, request.files) for request in requests]

    ideas = {idea.key: idea for idea in candidate_ideas(task)}
    tools = Toolbox(Runs(), RuleCoder(), ExecutionCache(folder / "cache"))
    chosen = tuple(next(idea for key, idea in ideas.items() if key.startswith(wanted)) for wanted in (
        "model/forest/30/5", "learning/variance", "data/",
    ))  # fmt: skip
    job = Job(task, "expert", 0, 0, chosen)
    return run_trajectories([job], ScriptedExpert(look_share=0.0), tools, max_steps=4)


CASES = {
    "auc": ("left", "probability", None),
    "accuracy": ("level", "label", 0.99),
    "logloss": ("level", "probability", 0.01),
    "rmse": ("price", "regression", None),
    "mae": ("price", "regression", 0.001),
    "rmsle": ("price", "regression", 0.001),
    "qwk": ("stars", "regression", 0.99),
}


@pytest.mark.parametrize("metric", CASES)
def test_a_table_becomes_a_checked_task_that_the_expert_works_on(metric, tmp_path, execute):
    answer, kind, best = CASES[metric]
    table = own_table()
    made = make_task(spec_for(tmp_path, table, answer, metric, best=best), tmp_path / "mine", execute)
    task = find_task(tmp_path / "mine")
    assert made.task == task
    assert [finding for finding in check_task(task, execute) if not finding.ok] == []
    assert (task.name, task.modality, task.kind, task.metric) == ("mine", "tabular", kind, metric)
    assert (task.rows, task.columns, task.split) == (180, 4, "other")
    assert set(task.facts) <= set(FACTS) and "missing values" in task.facts
    sign = 1 if task.greater_is_better else -1
    assert all(sign * (task.best[name] - task.baseline[name]) > 0 for name in ("feedback", "report"))
    assert ("chosen on the feedback labels" in task.best_provenance) == (best is None)
    assert all(read_block(task.env_files()["train.py"].decode(), axis) for axis in AXES)
    [row] = expert_rows(task, execute, tmp_path)
    outcomes = [step["outcome"] for step in row["steps"]]
    assert outcomes == ["edited", "edited", "edited", "neutral"], [
        step["observation"] for step in row["steps"]
    ]
    assert sign * (row["steps"][0]["score_after"] - row["steps"][0]["score_before"]) > 0
    assert row["steps"][0]["visible_metric"] is not None


def test_a_text_becomes_a_task_too(tmp_path, execute):
    found = spec_for(tmp_path, own_texts(), "tone", "accuracy", text="review", drop=("length",))
    task = make_task(found, tmp_path / "mine", execute).task
    assert [finding for finding in check_task(task, execute) if not finding.ok] == []
    assert (task.modality, task.kind, task.columns) == ("text", "label", 1)
    assert "TfidfVectorizer" in task.env_files()["train.py"].decode()
    assert "called review in own.csv" in task.env_files()["data_description.txt"].decode()
    assert "very short texts" in task.facts
    [row] = expert_rows(task, execute, tmp_path)
    assert [step["outcome"] for step in row["steps"]][:2] == ["edited", "edited"]


def made_quietly(folder, table, answer="left", metric="auc", **changes):
    """Return a task whose runs are answered by a guess: enough where splits and files are looked at."""
    folder.mkdir(exist_ok=True)

    def guess(task, files):
        ids, truth = zip(*(read_labels(task, name) for name in ("feedback", "report")), strict=True)
        every = np.concatenate(truth)
        rows = np.where(np.arange(len(every)) % 4 == 0, 1 - every, every)[:, None]
        return Ran("ok", "", 0.1, {"submission.csv": table_bytes(task, ids[0] + ids[1], rows)})

    found = spec_for(folder, table, answer, metric, **({"best": 1.0} | changes))
    return make_task(found, folder / "mine", guess)


def test_visible_and_hidden_rows_share_nothing(tmp_path):
    table = own_table()
    again = table.iloc[:100].copy()
    again["city"] = again["city"].str.upper() + " "  # the same rows in another spelling
    made = made_quietly(tmp_path, pd.concat([table, again]))
    data = made.task.data_dir
    train, test = pd.read_csv(data / "train.csv"), pd.read_csv(data / "test.csv", index_col="id")
    seen, hidden = normalised_rows(train[list(test.columns)]), normalised_rows(test)
    assert not set(seen) & set(hidden) and hidden.is_unique
    assert int(seen.duplicated().sum()) == 100  # repeated rows are all visible
    assert any("200 rows stand there more than once" in note for note in made.notes)
    labels = {name: set(read_labels(made.task, name)[0]) for name in ("feedback", "report")}
    assert not labels["feedback"] & labels["report"]
    assert len(train) + len(test) == ROWS + 100
    assert "target" not in test and not {"left", "level", "price", "stars"} & set(test)


def test_each_part_has_its_share_of_every_class(tmp_path):
    table = own_table()
    table.loc[table.index[:280], "left"] = "no"
    table.loc[table.index[280:], "left"] = "yes"
    task = made_quietly(tmp_path, table).task
    train = pd.read_csv(task.data_dir / "train.csv")["target"]
    parts = [train[: len(train) * 3 // 4], train[len(train) * 3 // 4 :]]
    parts += [pd.Series(read_labels(task, name)[1]) for name in ("feedback", "report")]
    assert [len(part) for part in parts] == [135, 45, 60, 60]
    assert [int(part.sum()) for part in parts] == [9, 3, 4, 4]  # 20 rows: 45, 15, 20 and 20 percent


def test_the_cut_of_the_starter_falls_between_fit_and_validation():
    """Three quarters of 8 rows are 6; the row that moves is of the commonest class, so that none is lost."""
    strata = np.array([0, 0, 0, 0, 1, 0, 0, 1])
    assert splits.with_count(np.array([0, 0, 0, 0, 0, 1, 1, 1]), strata, 2).tolist() == [
        0,
        0,
        0,
        0,
        0,
        1,
        0,
        1,
    ]
    assert splits.with_count(np.array([0, 0, 0, 0, 0, 0, 0, 1]), strata, 2).tolist() == [
        0,
        0,
        0,
        0,
        0,
        0,
        1,
        1,
    ]
    groups = pd.Series([f"g{i}" for i in np.random.default_rng(0).integers(0, 40, ROWS)])
    keys = pd.Series(np.arange(ROWS).astype(str))
    answers = target.judge_target(pd.Series(np.arange(ROWS) % 10 == 0, name="y"), "auc")
    found = split.split_rows(keys, groups, answers, 1, np.random.default_rng(0))
    assert sorted(found.order) == list(range(ROWS))
    cut = len(found.visible) * 3 // 4
    apart = set(groups[found.visible[:cut]]) & set(groups[found.visible[cut:]])
    assert len(apart) <= 1  # groups are divided only where their sizes force it


def test_rows_of_a_group_stay_in_one_part(tmp_path):
    table = own_table()
    table["patient"] = [f"p{i // 5}" for i in range(ROWS)]
    task = made_quietly(tmp_path, table, group="patient").task
    where = {}
    numbers = table.set_index("income")["patient"]  # an income is there once
    hidden = pd.read_csv(task.data_dir / "test.csv", index_col="id")
    for part, incomes in [("visible", pd.read_csv(task.data_dir / "train.csv")["income"])] + [
        (name, hidden.loc[[int(key) for key in read_labels(task, name)[0]], "income"])
        for name in ("feedback", "report")
    ]:
        for patient in numbers[incomes]:
            where.setdefault(patient, set()).add(part)
    assert len(where) == 60 and all(len(parts) == 1 for parts in where.values())
    assert {part for parts in where.values() for part in parts} == {"visible", "feedback", "report"}
    assert "patient" not in hidden


def files_of(task):
    return {
        path.relative_to(task.folder).as_posix(): path.read_bytes()
        for path in sorted(task.folder.rglob("*"))
        if path.is_file()
    }


def test_one_seed_gives_the_same_bytes_and_another_seed_another_split(tmp_path):
    table = own_table()
    first, again, other = (
        files_of(made_quietly(tmp_path / name, table, seed=seed).task)
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first == again
    assert first["env/data/train.csv"] != other["env/data/train.csv"]
    assert str(tmp_path).encode() not in b"".join(first.values())


def test_the_measured_scores_are_reproduced_byte_for_byte(tmp_path, execute):
    cards = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        found = spec_for(tmp_path / name, own_table(), "price", "mae", best=0.001)
        task = make_task(found, tmp_path / name / "mine", execute).task
        cards.append((task.folder / "task.yaml").read_bytes())
    assert cards[0] == cards[1]


def test_the_card_tells_the_command_and_the_agent_reads_no_hidden_path(tmp_path):
    table = own_table()
    table["nr"] = np.random.default_rng(1).permutation(ROWS)
    made = made_quietly(tmp_path, table, id_column="nr")
    card = yaml.safe_load((made.task.folder / "task.yaml").read_text())
    assert card["made_by"] == (
        "mlagent tasks new mine --data own.csv --target left --metric auc --id nr --drop level price stars "
        "--best 1.0 --seed 0 --seconds 120"
    )
    assert any("'nr' names the rows" in note for note in made.notes)
    for content in made.task.env_files().values():
        assert not any(word in content for word in (b"labels/", b"scripts", b"mlagent", b"feedback"))
    assert "The answer is the probability that left is 'yes' (1) and not 'no' (0)." in made.task.description
    text = made.task.env_files()["data_description.txt"].decode()
    assert "city: words, 5 different" in text and "empty (written 'missing')" in text


def test_an_id_without_a_message_is_kept_and_named(tmp_path):
    table = own_table()
    table["customerId"] = np.random.default_rng(1).permutation(ROWS) + 5000
    assert any("'customerId' looks like an id (AUC" in note for note in made_quietly(tmp_path, table).notes)


# ---- refusals: the file


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"PK\x03\x04rest", "is a zip archive or an Excel sheet, not comma-separated values"),
        (b"PAR1rest", "is a Parquet file"),
        (b'[{"a": 1}]', "looks like JSON or HTML"),
        ("a,b\n1,2\n".encode("utf-16"), "is encoded in UTF-16"),
        (b"a,b\n1,\0\n", "holds a zero byte"),
        ("a,b\n1,x\n2,caf\xe9\n".encode("latin-1"), "line 3 of .* holds the byte 0xe9, which is not UTF-8"),
        (b"a,b\n1,2\n3,4,5\n", r"row 2 of .* \(line 3\) has 3 fields, the first line has 2"),
        (b'a,b\n1,"2\n3,4\n', "cannot be read .* close the quotes"),
        (b"a;b\n1;2\n", "separated by semicolons, not commas"),
        (b"a\tb\n1\t2\n", "separated by tabs"),
        (b"size, m2;b;c\n1,5;2;3\n", "separated by semicolons"),
        (b"a,b\n1,2\n3,4\na,b\n5,6\n", r"row 3 of .* \(line 4\) is the line of column names again"),
        (b"a\n1\n", "one column only, 'a'"),
        (b"a,b\n", "column names but no rows"),
        (b"a,b,a\n1,2,3\n", "column name 'a' stands 2 times"),
        (b"a,,b\n1,2,3\n", "column 2 of .* has no name"),
        (b",a,b\n7,1,2\n9,1,3\n", "column 1 of .* has no name"),
    ],
)
def test_a_file_that_is_no_table_is_refused_with_the_cure(content, words, tmp_path):
    path = tmp_path / "own.csv"
    path.write_bytes(content)
    with pytest.raises(TaskError, match=words) as error:
        read.read_table(path)
    assert error.value.cure


def test_a_missing_file_names_the_closest_and_a_folder_is_named(tmp_path):
    (tmp_path / "train.csv").write_text("a,b\n1,2\n")
    with pytest.raises(TaskError, match="does not exist") as error:
        read.read_table(tmp_path / "trian.csv")
    assert "the closest is 'train.csv'" in error.value.cure
    with pytest.raises(TaskError, match="is a folder"):
        read.read_table(tmp_path)


def test_too_large_tables_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "own.csv"
    path.write_text("a,b\n" + "1,2\n" * 9)
    monkeypatch.setattr(read, "MOST_ROWS", 8)
    with pytest.raises(TaskError, match="has 9 rows, at most 8"):
        read.read_table(path)
    monkeypatch.setattr(read, "MOST_BYTES", 10)
    with pytest.raises(TaskError, match="MiB"):
        read.read_table(path)


def test_a_text_may_be_longer_than_the_csv_module_allows(tmp_path):
    usual = csv.field_size_limit()
    (tmp_path / "own.csv").write_text("a,b\n" + "long " * 40_000 + ",1\n")
    frame, _ = read.read_table(tmp_path / "own.csv")
    assert len(frame["a"][0]) == 200_000 > usual == csv.field_size_limit()


def test_a_nameless_column_that_numbers_the_rows_is_left_out_with_a_note(tmp_path):
    (tmp_path / "own.csv").write_text("\ufeff,a,b\r\n0,1,x\r\n1,2,y\r\n", encoding="utf-8")
    frame, notes = read.read_table(tmp_path / "own.csv")
    assert list(frame.columns) == ["a", "b"] and "numbers the rows" in notes[0]


# ---- refusals: names and places


def test_names_and_places_are_checked_first(tmp_path):
    for name in ("", "a/b", "-x", "1a", "a" * 65, ".."):
        with pytest.raises(TaskError, match="cannot be the name of a task"):
            spec.check_place(name, tmp_path / "new")
    with pytest.raises(TaskError, match="the name of a pocket task"):
        spec.check_place("pocket-digits", tmp_path / "new")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    with pytest.raises(TaskError, match="full is not empty"):
        spec.check_place("mine", tmp_path / "full")
    with pytest.raises(TaskError, match="is no folder"):
        spec.check_place("mine", tmp_path / "full" / "x")


def test_an_empty_folder_may_be_used(tmp_path):
    (tmp_path / "mine").mkdir()
    assert made_quietly(tmp_path, own_table()).task.folder == tmp_path / "mine"


# ---- refusals: columns and roles


def test_unknown_columns_name_the_closest(tmp_path):
    message = refused(tmp_path, own_table(), "Left", "auc", drop=())
    assert "--target names the column 'Left'" in message and "the closest is 'left'" in message
    assert "--drop names the column 'cty'" in refused(tmp_path, own_table(), drop=("cty",))
    assert "--keep names the column 'x'" in refused(tmp_path, own_table(), keep=("x",))


def test_a_column_has_one_role_and_some_input_is_left(tmp_path):
    table = own_table()
    assert "given twice, by --target and --id" in refused(tmp_path, table, id_column="left")
    drop = tuple(name for name in table if name != "left")
    assert "no column of own.csv is left" in refused(tmp_path, table, drop=drop)


def test_ids_and_groups_must_be_usable(tmp_path):
    table = own_table()
    table["nr"] = np.arange(ROWS) // 2
    message = refused(tmp_path, table, id_column="nr")
    assert "the id 0 of column 'nr' stands in 2 rows (300 rows share" in message and "--group nr" in message
    table["ward"] = np.where(np.arange(ROWS) < 150, "a", "b")
    assert "has 2 groups, at least 10" in refused(tmp_path, table.drop(columns="nr"), group="ward")
    table.loc[4, "ward"] = np.nan
    message = refused(tmp_path, table.drop(columns="nr"), group="ward")
    assert "is empty in 1 rows, first in row 5" in message


def test_a_class_must_reach_every_part_whatever_the_groups(tmp_path):
    table = own_table()
    table["left"] = np.where(np.arange(ROWS) < 20, "yes", "no")
    table["patient"] = [f"p{i // 10}" for i in range(ROWS)]
    message = refused(tmp_path, table, group="patient")
    assert "class 1 of the answer (its rows are in 2 groups) cannot be in every part" in message


@pytest.mark.parametrize("name", ["id", "target", "probability"])
def test_names_of_the_tasks_own_files_are_refused(name, tmp_path):
    message = refused(tmp_path, own_table().rename(columns={"age": name}))
    assert f"use the name {name!r}" in message and f"--drop {name}" in message


def test_inputs_that_no_starter_could_take_are_refused(tmp_path):
    table = own_table()
    assert "the column 'void' is empty" in refused(tmp_path, table.assign(void=np.nan))
    ages = table["age"].fillna(1).astype(str)
    ages[7] = "old"
    message = refused(tmp_path, table.assign(age=ages))
    assert "'age' holds numbers, but in 1 rows words, such as 'old' in row 8" in message
    incomes = table["income"].copy()
    incomes[2] = np.inf
    assert "'income' is infinite in row 3" in refused(tmp_path, table.assign(income=incomes))
    incomes[2] = -1e300
    message = refused(tmp_path, table.assign(income=incomes))
    assert "'income' is -1e+300, at most 3.4e+38 can be used, in row 3" in message


def test_whole_numbers_of_any_length_are_numbers_and_name_rows_to_the_last_digit(tmp_path):
    for number, least in enumerate((2**63, 10**25, -(10**25))):
        cells = pd.Series([str(least + row) for row in range(ROWS)])
        table = own_table().assign(long=cells, mixed=cells.where(cells.index % 2 > 0, "-7.5"))
        assert made_quietly(tmp_path / str(number), table, id_column="long").task.columns == 5
        found = spec_for(tmp_path, table.assign(long=cells.where(cells.index != 3)), "left", "auc")
        roles = columns.find_roles(read.read_table(found.data)[0], found)
        assert roles.inputs["long"].dropna().tolist() == [float(cell) for cell in cells.drop(3)]
        assert roles.inputs["mixed"].tolist() == [float(cell) for cell in table["mixed"]]
        message = refused(tmp_path, table.assign(long=cells.where(cells.index != 3)), id_column="long")
        assert "the id column 'long' is empty in 1 rows, first in row 4" in message


def test_words_without_categories_are_refused_with_the_way_to_use_them(tmp_path):
    table = own_table()
    names = [f"n{i // 2 * 7919 % 1000}" if i % 3 else f"m{i}" for i in range(ROWS)]
    assert "different words in 300 rows, too many" in refused(tmp_path, table.assign(ticket=names))
    texts = [*own_texts()["review"][:-1], own_texts()["review"][0]]
    message = refused(tmp_path, table.assign(remark=texts))
    assert "looks like free text (11 words a cell" in message and "--text 'remark'" in message
    assert "which holds no texts" in refused(tmp_path, table, text="age")


def test_a_column_that_reads_as_numbers_in_one_part_only_is_refused():
    train, test = pd.DataFrame({"a": ["1", "x"]}), pd.DataFrame({"a": [1, 2]})
    with pytest.raises(TaskError, match="'a' has words in so few rows"):
        columns.same_kinds(train, test)


# ---- numbers, dates and codes as people write them


@pytest.mark.parametrize(
    ("written", "numbers", "how"),
    [
        (["201,42", "7", "-3,5"], [201.42, 7, -3.5], "decimal commas"),
        (["1.200,5", "1.234"], [1200.5, 1234], "decimal commas"),
        (["1,234", "0,5"], [1.234, 0.5], "decimal commas"),  # 0,5 has no thousands, so 1,234 has none
        (["$1,234.50", "$7"], [1234.5, 7], "signs between thousands and $"),
        (["1 234 567", "12"], [1234567, 12], "blanks between thousands"),
        (["12,5 %", "3%"], [12.5, 3], "decimal commas and %"),
        (["1.234", "5"], [1.234, 5], ""),
    ],
)
def test_numbers_are_read_as_the_whole_column_has_them(written, numbers, how):
    found = cells.read_numbers(pd.Series(written, name="x"))
    assert (found[0].tolist(), found[1]) == (numbers, how)


def test_a_column_with_decimal_commas_becomes_numbers_with_a_note(tmp_path):
    """Prices such as 103,415 can be thousands: they are read as the incomes, which cannot."""
    table = own_table()
    comma = table.assign(
        income=table["income"].map("{:.2f}".format).str.replace(".", ","),
        price=table["price"].map("{:.3f}".format).str.replace(".", ","),
    )
    made, plain = (
        make_task(spec_for(tmp_path, each, "price", "mae", best=1e-9), tmp_path / name, guess_numbers)
        for name, each in (("comma", comma), ("plain", table))
    )
    notes = [note for note in made.notes if "decimal commas" in note]
    assert notes == [
        f"the column {name!r} is written with decimal commas: read as numbers" for name in ("income", "price")
    ]
    for name in ("env/data/train.csv", "env/data/test.csv", "scripts/labels/report.csv"):
        assert (made.task.folder / name).read_bytes() == (plain.task.folder / name).read_bytes()


def guess_numbers(task, files):
    ids, truth = zip(*(read_labels(task, name) for name in ("feedback", "report")), strict=True)
    rows = np.concatenate(truth)[:, None] + 1.0
    return Ran("ok", "", 0.1, {"submission.csv": table_bytes(task, ids[0] + ids[1], rows)})


def test_a_sign_that_can_be_both_is_refused(tmp_path):
    table = own_table()
    both = table["income"].map("{:,.0f}".format)  # 2,981 and 1,003: two numbers each, and nothing tells which
    message = refused(tmp_path, table.assign(income=both.where(both.str.contains(","), "7,000")))
    assert "before a fraction or between thousands: " in message and "'income'" in message
    pay = both.str.replace(",", ".").where(table["income"] > 1000, "950")
    commas = table["age"].fillna(1.5).map("{:.1f}".format).str.replace(".", ",")
    message = refused(tmp_path, table.assign(income=pay.astype(float), age=commas))
    assert "'age' is written with decimal commas, so that a point in the column 'income' can" in message
    assert "1 rows words, such as '-' in row 4" in refused(
        tmp_path, table.assign(age=commas.where(commas.index != 3, "-"))
    )


DAYS = pd.Series(pd.date_range("2022-12-28 08:15", periods=ROWS, freq="31h"))


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%y", "%d %B %Y", "%Y-%m-%dT%H:%M:%S+02:00", "%d.%m.%Y %H:%M"],
)
def test_dates_are_named_and_the_cure_reads_them(form, tmp_path):
    table = own_table().assign(when=DAYS.dt.strftime(form))
    message = refused(tmp_path, table)
    assert f"the column 'when' holds dates, such as {table['when'][0]!r} in row 1" in message
    assert "year, month, weekday or age in days" in message and "--drop 'when'" in message
    told = re.search(r"in pandas (.*[.]dt[.]month)", message)[1]
    months = eval(told, {"pd": pd, "table": table})
    assert months.tolist() == DAYS.dt.month.tolist()
    assert made_quietly(tmp_path / "cured", table.assign(when=months)).task.columns == 5


@pytest.mark.parametrize("form", ["%Y-%m", "%m/%Y", "%b-%y", "%B %Y"])
def test_months_are_dates(form):
    days = pd.Series(pd.date_range("1990-01-15", periods=300, freq="MS"))
    _, cure = cells.dates_in(days.dt.strftime(form).rename("when"))
    assert f"format={form!r}).dt.month" in cure


def test_dates_in_several_forms_and_as_answers_are_named(tmp_path):
    table = own_table()
    mixed = DAYS.dt.strftime("%d.%m.%Y").where(DAYS.index % 3 > 0, DAYS.dt.strftime("%Y-%m-%d"))
    message = refused(tmp_path, table.assign(when=mixed))
    assert "not all have the form %d.%m.%Y: '2022-12-28'" in message
    for metric in ("mae", "accuracy"):
        message = refused(tmp_path, table.assign(price=DAYS.dt.strftime("%Y-%m-%d")), "price", metric)
        assert "target 'price' holds dates, such as '2022-12-28' in row 1" in message


def test_codes_that_look_like_numbers_stay_texts(tmp_path):
    """A column of numbers and a few words is codes where the words come often, and an error where not."""
    table, draws = own_table(), np.random.default_rng(0)
    codes = pd.Series(draws.choice(["1E2", "3E4", "07", "7B"], ROWS, p=[0.4, 0.4, 0.15, 0.05]))
    task = made_quietly(tmp_path, table.assign(city=codes)).task
    for name in ("train.csv", "test.csv"):
        assert set(pd.read_csv(task.data_dir / name)["city"]) == {"1E2", "3E4", "07", "7B"}
    message = refused(tmp_path, table.assign(city=codes.replace("07", "7").where(codes.index != 3, "x")))
    assert "'city' holds numbers, but in" in message and "write a letter before each (n4 for 4)" in message
    zips = pd.Series([f"{i % 30 * 300 + 1000:05d}" for i in range(ROWS)]).where(codes != "7B", "unknown")
    assert not columns._are_typing_errors(zips, zips == "unknown")
    weights = pd.Series([str(40 + i % 50) for i in range(ROWS)]).where(codes != "7B", "<40")
    assert columns._are_typing_errors(weights, weights == "<40")


def test_a_text_without_blanks_is_a_text(tmp_path):
    draws = np.random.default_rng(0)
    texts = ["".join(draws.choice(list("的了这那是在我们他东西天买店家"), 15)) for _ in range(ROWS)]
    message = refused(tmp_path, own_table().assign(remark=texts))
    assert "looks like free text (15 words a cell" in message and "--text 'remark'" in message


def test_a_cure_quotes_names_as_a_shell_takes_them(tmp_path):
    message = refused(tmp_path, own_table().assign(**{"line\nbreak": np.nan}))
    assert "--drop $'line\\nbreak'" in message and "\n" not in message


def test_a_wide_table_passes_the_check(tmp_path):
    draws = np.random.default_rng(0)
    wide = pd.DataFrame(draws.normal(size=(ROWS, 1700)).round(3)).add_prefix("measured_feature_number_")
    task = made_quietly(tmp_path, wide.assign(left=own_table()["left"])).task
    text = task.env_files()["data_description.txt"].decode()  # copied, so that an agent can read it
    assert task.columns == 1700 and task.links == ()
    assert "measured_feature_number_199: " in text and "measured_feature_number_200: " not in text
    assert (
        "1500 more columns, named in the first line of data/train.csv: 1500 of numbers, 0 of words." in text
    )
    (task.folder / "env" / "data_description.txt").write_text("long " * 20_000)
    linked = find_task(task.folder)
    broken = [finding.rule for finding in check_task(linked) if not finding.ok]
    assert linked.links and broken == ["all files match their checksums"]


# ---- refusals: target and metric


def test_an_unknown_metric_names_the_closest_and_all(tmp_path):
    message = refused(tmp_path, own_table(), metric="acuracy")
    assert "the closest is 'accuracy'" in message and "pearson" in message and "mcrmse" not in message
    assert "several target columns" in refused(tmp_path, own_table(), metric="mcrmse")


@pytest.mark.parametrize(
    ("answer", "metric", "words"),
    [
        ("level", "auc", "auc needs two classes, target 'level' has 3"),
        ("price", "auc", "numbers, not classes"),
        ("price", "accuracy", "for numbers choose rmse"),
        ("level", "rmse", "rmse needs numbers, but target 'level' is"),
        ("owner", "mae", "target 'owner' is true or false"),
        ("price", "qwk", "qwk compares ratings, which are whole numbers"),
        ("left", "map@5", "five different guesses, target 'left' has 2 classes"),
    ],
)
def test_a_metric_that_does_not_fit_the_target_is_refused(answer, metric, words, tmp_path):
    assert words in refused(tmp_path, own_table(), answer, metric)


def numbers_in(**changed):
    values = pd.Series(np.arange(40.0), name="y")
    for row, value in changed.items():
        values[int(row[1:])] = value
    return values


@pytest.mark.parametrize(
    ("values", "metric", "words"),
    [
        (numbers_in(r3=np.nan, r9=np.nan), "rmse", "empty in 2 rows, first in row 4"),
        (numbers_in() * 0, "rmse", "is 0 in every row"),
        (numbers_in(r5=np.inf), "mae", "infinite in row 6"),
        (numbers_in(r5=1e300), "rmse", "1e.300, at most 3.4e.38 can be used, in row 6"),
        (numbers_in(r5=-2.0), "rmsle", "is -2 in row 6"),
        (numbers_in(r39=900.0), "qwk", "goes from 0 to 900"),
        (numbers_in().astype(str).where(numbers_in() != 3, "x"), "rmse", "'x' in row 4.*write a number"),
        (pd.Series(["a"] * 20 + ["b"] * 9, name="y"), "auc", "class 'b' of target 'y' has 9 rows"),
        (
            pd.Series([f"c{i}" for i in range(60)], name="y"),
            "accuracy",
            "60 different values .* more than 50",
        ),
    ],
)
def test_targets_that_cannot_be_learned_are_refused(values, metric, words):
    with pytest.raises(TaskError, match=words.replace(".*", "(.|\n)*")) as error:
        target.judge_target(values, metric)
    assert words.endswith("write a number") is False or "write a number" in error.value.cure


def test_answers_become_numbers_in_the_order_of_their_values():
    classes = target.judge_target(pd.Series([10, 2, 33] * 10, name="y"), "logloss")
    assert classes.values[:3].tolist() == [1, 0, 2] and classes.classes == [0, 1, 2]
    assert "2 (0), 10 (1), 33 (2)" in classes.meaning
    ratings = target.judge_target(pd.Series([3, 5, 7] * 10, name="y"), "qwk")
    assert ratings.classes == [3, 4, 5, 6, 7] and ratings.values[:3].tolist() == [3, 5, 7]
    flags = target.judge_target(pd.Series([True, False] * 10, name="y"), "auc")
    assert flags.values[:2].tolist() == [1, 0]
    assert target.judge_target(pd.Series(list("abcde") * 10, name="y"), "map@5").kind == "rank"


def test_too_few_rows_are_refused_with_the_reason(tmp_path):
    message = refused(tmp_path, own_table(249))
    assert "has 249 rows, at least 250 are needed" in message and "looks like luck" in message


# ---- refusals: leaks and repeated rows


def test_an_id_that_tells_the_answer_is_refused(tmp_path):
    table = own_table().sort_values("left").reset_index(drop=True)
    table["nr"] = np.arange(ROWS) * 3 + 1000  # in the order of the file, which is sorted by the answer
    message = refused(tmp_path, table)
    assert (
        "the column 'nr' names the rows and yet predicts 'left' (AUC 1.00 " in message
        and "--id 'nr'" in message
    )
    assert made_quietly(tmp_path / "left-out", table, id_column="nr").task.columns == 4
    assert made_quietly(tmp_path / "kept", table, keep=("nr",)).task.columns == 5
    named = table.assign(nr=[f"{answer}-{i}" for i, answer in enumerate(table["left"])])
    assert "'nr' names the rows and yet predicts" in refused(tmp_path, named)
    priced = own_table().sort_values("price").reset_index(drop=True).assign(nr=range(ROWS))
    assert "it alone explains 9" in refused(tmp_path, priced, "price", "rmse")


@pytest.mark.parametrize(
    ("answer", "metric", "copy"),
    [
        ("left", "auc", lambda table: table["left"].map({"yes": "out", "no": "in"})),
        ("level", "accuracy", lambda table: table["level"].map({"low": 2, "mid": 0, "high": 1})),
        ("price", "rmse", lambda table: table["price"] * 1.1 + 3),
        ("stars", "qwk", lambda table: table["stars"] + (np.arange(ROWS) % 7) / 10),
        ("price", "mae", lambda table: -np.exp(table["price"] / 20)),
    ],
)
def test_a_column_that_determines_the_answer_is_refused(answer, metric, copy, tmp_path):
    table = own_table()
    table["code"] = copy(table)
    message = refused(tmp_path, table, answer, metric)
    assert f"the column 'code' alone determines {answer!r}" in message and "--drop 'code'" in message


def test_good_columns_are_no_leaks():
    """A strong but honest column, an unordered unique number, and noise are all let through."""
    draws = np.random.default_rng(0)
    codes = np.repeat([0, 1], 200)
    answers = target.judge_target(pd.Series(codes, name="y"), "auc")
    strong = np.where(draws.random(400) < 0.05, 1 - codes, codes)
    table = pd.DataFrame(
        {"strong": strong, "pay": draws.permutation(10**6)[:400], "noise": draws.random(400)}
    )
    assert leaks.check_leaks(table, answers, OwnSpec("m", None, "y", "auc")) == []


def test_a_rare_class_does_not_hide_a_copy_and_does_not_make_one():
    codes = np.repeat([0, 1], [980, 20])
    answers = target.judge_target(pd.Series(codes, name="y"), "auc")
    ask = OwnSpec("m", None, "y", "auc")
    assert leaks.check_leaks(pd.DataFrame({"same": np.zeros(1000)}), answers, ask) == []
    with pytest.raises(TaskError, match="alone determines"):
        leaks.check_leaks(pd.DataFrame({"copy": codes}), answers, ask)


def test_a_sample_holds_each_class_and_judges_honest_columns(monkeypatch):
    """Twelve of 20,000 rows: of 5,000 drawn at random mostly a few, and of some folds none."""
    draws = np.random.default_rng(0)
    codes = np.repeat([0, 1], [19_988, 12])
    answers = target.judge_target(pd.Series(codes, name="y"), "auc")
    ask = OwnSpec("m", None, "y", "auc")
    for seed in range(5):
        rows = leaks._sample(answers, np.random.default_rng(seed))
        assert codes[rows].sum() >= 10 and len(set(rows)) == len(rows) <= leaks.MOST_MEASURED + 10
    honest = pd.DataFrame({"noise": draws.random(20_000), "user_id": draws.permutation(20_000)})
    [note] = leaks.check_leaks(honest, answers, ask)
    assert "'user_id' looks like an id (AUC 0." in note
    with pytest.raises(TaskError, match="'copy' alone determines"):
        leaks.check_leaks(pd.DataFrame({"copy": codes}), answers, ask)
    ratings = target.judge_target(pd.Series(np.repeat([-1, 0, 1], [100, 150, 3]), name="y"), "qwk")
    assert leaks.check_leaks(pd.DataFrame({"noise": draws.random(253)}), ratings, ask) == []
    monkeypatch.setattr(leaks, "MOST_MEASURED", 50)  # of 49 zeros and a 1 the sample may hold zeros only
    zeros = target.judge_target(pd.Series(np.arange(1000) == 999, name="y").astype(float), "rmse")
    assert leaks.check_leaks(pd.DataFrame({"noise": draws.random(1000)}), zeros, ask) == []


@pytest.mark.parametrize("rare", [0, 1])
def test_the_check_accepts_a_task_with_a_rare_class(rare, tmp_path):
    """Of some 80 hidden rows two or three are rare; each is spoiled, and a common row for it."""
    table = own_table(400)
    hidden = table["price"].rank(method="first") > 388
    table["left"] = np.where(hidden, rare, 1 - rare)
    task = made_quietly(tmp_path, table, metric="accuracy").task
    for name in ("feedback", "report"):
        truth = read_labels(task, name)[1]
        count = int((truth == rare).sum())
        assert count in (2, 3)
        assert grade(task, gold_submission(task, 0.5), name) == pytest.approx(1 - 2 * count / len(truth))
        assert grade(task, gold_submission(task), name) == 1.0
    assert all(finding.ok for finding in check_task(task))


def test_numbers_that_are_mostly_zero_are_shared_out():
    """Of 20 numbers among 380 zeros each hidden part has a fifth, and so has a pearson."""
    values = pd.Series(np.r_[np.zeros(380), np.arange(1, 21)], name="y")
    answers = target.judge_target(values, "pearson")
    found = split.split_rows(pd.Series(range(400)), None, answers, 1, np.random.default_rng(0))
    assert [int((values[part] > 0).sum()) for part in (found.feedback, found.report)] == [4, 4]


def test_hidden_answers_that_have_no_score_are_named(tmp_path):
    table = own_table().assign(price=np.where(np.arange(ROWS) == 5, 1.0, 0.0))
    message = refused(tmp_path, table, "price", "pearson", guess_numbers, best=1.0)
    assert "labels cannot be scored" in message and "choose another metric" in message


def test_equal_inputs_with_different_numbers_are_noted_only(tmp_path):
    table = own_table()
    again = table.iloc[:3].assign(price=[1.0, 2.0, 3.0])
    found = spec_for(tmp_path, pd.concat([table, again]), "price", "mae", best=1e-9)
    made = make_task(found, tmp_path / "mine", guess_numbers)
    assert any("6 of them contradict each other" in note for note in made.notes)


def test_contradictions_are_refused_and_visible_where_allowed(tmp_path):
    table = own_table()
    again = table.iloc[:3].copy()
    again["left"] = again["left"].map({"yes": "no", "no": "yes"})
    table = pd.concat([table, again], ignore_index=True)
    message = refused(tmp_path, table)
    assert "6 rows of own.csv contradict each other" in message and "--keep-contradictions" in message
    assert "first in rows" in message
    made = made_quietly(tmp_path, table, keep_contradictions=True)
    assert any("6 of them contradict each other" in note for note in made.notes)
    train = pd.read_csv(made.task.data_dir / "train.csv").drop(columns="target")
    assert int(normalised_rows(train).duplicated(keep=False).sum()) == 6


def test_a_table_of_repeated_rows_is_refused(tmp_path):
    half = own_table(150)
    message = refused(tmp_path, pd.concat([half, half]))
    assert "0 feedback and 0 report rows (300 rows are repeated" in message


# ---- refusals: scores


def test_a_best_score_must_beat_the_starter_and_be_possible(tmp_path, execute):
    message = refused(tmp_path, own_table(), "left", "auc", execute, best=0.2)
    assert "--best 0.2 is not better than the starter, whose auc is 0." in message
    message = refused(tmp_path, own_table(), "left", "auc", execute, best=1.5)
    assert "beyond the best possible auc, 1" in message


def test_a_task_without_headroom_is_refused(tmp_path, execute):
    table = own_table()
    table["left"] = np.where(table["owner"] ^ (np.random.default_rng(0).random(ROWS) < 0.1), "yes", "no")
    message = refused(tmp_path, table, "left", "accuracy", execute)
    assert "the task has no headroom: the best of 6 standard models" in message and "--best" in message


def test_a_perfect_starter_is_a_leak(tmp_path, execute):
    table = own_table()
    # two incomes only, so that a tree finds the limit from any rows
    table["income"] = np.where(table["income"] > 2500, 5000.0, 1000.0)
    table["left"] = np.where(table["owner"] & (table["income"] > 2500), "yes", "no")
    message = refused(tmp_path, table, "left", "accuracy", execute)
    assert "the starter already reaches the best possible accuracy" in message


def test_a_starter_that_fails_is_told_with_its_last_line(tmp_path):
    message = refused(tmp_path, own_table(), execute=lambda task, files: Ran("timeout", "line\nslow", 20.0))
    assert "the starter does not run on this table (timeout: slow)" in message and "--seconds" in message


def test_standard_models_that_all_fail_are_told(tmp_path):
    calls = []

    def once(task, files):
        calls.append(files)
        if len(calls) > 1:
            return Ran("error", "ValueError: no", 0.1)
        ids, truth = zip(*(read_labels(task, name) for name in ("feedback", "report")), strict=True)
        rows = np.full((sum(map(len, truth)), 1), 0.5)
        return Ran("ok", "", 0.1, {"submission.csv": table_bytes(task, ids[0] + ids[1], rows)})

    message = refused(tmp_path, own_table(), execute=once)
    assert "none of 6 standard models ran, the first because of error: ValueError: no" in message
    assert len(calls) == 7


def test_every_standard_model_and_starter_is_in_the_catalogue():
    for (modality, classes), every in score.CANDIDATES.items():
        known = {edit.key for edit in edits(modality, "label" if classes else "regression")}
        wanted = {key for keys in every for key in keys} | set(score.STARTER[modality].values())
        assert wanted <= known
    assert set(score._LOG_TARGET) <= {edit.key for edit in edits("tabular", "regression")}


def test_a_gain_within_luck_does_not_count(tmp_path):
    task = made_quietly(tmp_path, own_table(), "left", "accuracy").task
    truth = read_labels(task, "report")[1]
    wrong = {count: truth[:, None].copy() for count in (10, 11, 30)}
    for count, answers in wrong.items():
        answers[:count] = 1 - answers[:count]
    known = {count: score.Answered({}, answers) for count, answers in wrong.items()}
    assert score.beats(task, known[10], known[30], 0)  # 20 rows of 60
    assert not score.beats(task, known[10], known[11], 0)  # one row


# ---- the command, the ideas, the rest


def test_the_command_makes_the_folder_and_says_what_it_did(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_table().to_csv("own.csv", index=False)
    words = "tasks new mine --data own.csv --target left --metric auc --best 0.99 --seconds 120 "
    words += "--drop level price stars"
    assert cli.main(words.split()) == 0
    shown = capsys.readouterr().out
    assert "mine: made and checked" in shown and "starter: auc 0." in shown and "given by --best" in shown
    assert find_task(tmp_path / "mine").best["report"] == 0.99
    assert cli.main(words.split()) == 2
    assert "the folder mine is not empty. What to do:" in capsys.readouterr().err


def test_the_command_explains_itself(capsys):
    with pytest.raises(SystemExit):
        cli.main(["tasks", "new", "--help"])
    shown = capsys.readouterr().out
    assert "examples:" in shown and "--keep-contradictions" in shown


def test_a_foreign_starter_without_the_blocks_has_no_catalogue(tmp_path):
    task = made_quietly(tmp_path, own_table()).task
    assert isinstance(candidate_ideas(task)[0], Idea)
    (task.folder / "env" / "train.py").write_text("print('mine')\n")
    with pytest.raises(TaskError, match="nor does its train.py have the suite's blocks"):
        candidate_ideas(find_task(task.folder))
    with pytest.raises(TaskError, match="no catalogue"):
        candidate_ideas(dataclasses.replace(task, kind="other"))


def test_the_doctests_hold():
    for module in (cells, columns, leaks, read, score, split, target, spec):
        assert doctest.testmod(module).failed == 0
