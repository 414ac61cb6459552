"""The paper's 19 tasks: a tiny download with the real layout becomes a checked task; each refusal is seen."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import sys
import threading
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import paper_archives as made
import pytest
import yaml

from mlagent_lib import cli
from mlagent_lib.core.errors import RunError, TaskError
from mlagent_lib.core.files import FolderLock
from mlagent_lib.environment.runner import Runner, RunRequest
from mlagent_lib.results.paper.numbers import initial_scores, paper_table
from mlagent_lib.tasks.check import check_task
from mlagent_lib.tasks.grading import read_labels
from mlagent_lib.tasks.metrics import get_metric
from mlagent_lib.tasks.paper import build, fetch, readers, writing
from mlagent_lib.tasks.paper.archives import DamagedArchive, Files, check_disk, disk_full, unpack
from mlagent_lib.tasks.paper.build import best_known, prepare_paper_task
from mlagent_lib.tasks.paper.fetch import Interrupted, choose_client, explain
from mlagent_lib.tasks.paper.logins import find_login
from mlagent_lib.tasks.paper.recipes import RECIPES, paper_task_lines, recipe, rough_size
from mlagent_lib.tasks.pocket.measure import Ran, run_trusted
from mlagent_lib.tasks.registry import find_task
from mlagent_lib.tasks.splits import deal

NAMES = [found.name for found in RECIPES]
SECRET = "KGAT_5f2a-secret-value"
LOGIN_VARIABLES = (
    "KAGGLE_API_TOKEN",
    "KAGGLE_USERNAME",
    "KAGGLE_KEY",
    "KAGGLE_CONFIG_DIR",
    "XDG_CONFIG_HOME",
)


@pytest.fixture(autouse=True)
def no_login(tmp_path, monkeypatch):
    """Give every test an empty home, so that no real login is seen, and take fake clients away afterwards."""
    for name in LOGIN_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "person"))
    monkeypatch.setenv("MLAGENT_HOME", str(tmp_path / "home"))
    yield
    for name in ("kaggle", "kagglehub", "py7zr"):
        sys.modules.pop(name, None)


@pytest.fixture
def login(monkeypatch):
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)


def install(monkeypatch, tmp_path, name, code):
    """Put a module of this name onto the path, in place of a client that is not installed here."""
    folder = tmp_path / "site"
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(str(folder))


def prepared(name, folder, contents=None, execute=run_trusted, **options):
    source = made.write_archive(recipe(name), folder / "archives" / name, contents)
    return prepare_paper_task(name, execute, home=folder, source=source, **options)


def without_starter(task, files):
    """Answer for the starter with the first class or the mean of the training answers, at once."""
    table = pd.read_csv(task.data_dir / "test.csv", usecols=["id"])
    train = pd.read_csv(task.data_dir / "train.csv")
    for column in task.answer_columns:
        source = "target" if "target" in train else column
        value = task.classes[0] if task.metric == "accuracy" else train[source].mean()
        table[column] = 1 / len(task.answer_columns) if task.kind == "probability" else value
    return Ran("ok", "", 0.1, {"submission.csv": table.to_csv(index=False).encode()})


# ---------------------------------------------------------------- the recipes


def test_the_recipes_are_the_papers_tasks_with_its_numbers():
    assert len(NAMES) == len(set(NAMES)) == 19
    assert sum(found.split == "held-in" for found in RECIPES) == 9
    best = paper_table("best@8", method="ML-Agent", version="v1").set_index("task")
    init = initial_scores().set_index("task")
    assert {found.name for found in RECIPES if found.paper_best is not None} == set(best.index)
    for found in RECIPES:
        metric = get_metric(found.metric)
        if found.name in best.index:
            unit = 100 if best.loc[found.name, "unit"] == "%" else 1
            assert found.paper_best == pytest.approx(best.loc[found.name, "value"] / unit)
            assert found.paper_init == pytest.approx(init.loc[found.name, "stated"] / unit)
            assert metric.greater_is_better == (init.loc[found.name, "better"] == "higher")
            assert found.split == init.loc[found.name, "split"]


def test_the_readme_table_has_size_time_and_command_of_each():
    header, _, *lines = paper_task_lines()
    assert header == "| task | split | metric | download | time | command |"
    assert len(lines) == 19 and all(f"`mlagent tasks prepare paper/{name}`" in line
                                    for name, line in zip(NAMES, lines, strict=True))  # fmt: skip
    assert "about 850 MB" in lines[NAMES.index("dogs-vs-cats-redux")]
    unknown = [found for found in RECIPES if found.size_mb is None]
    assert {rough_size(found) for found in unknown} == {"unknown"} and len(unknown) == 6


def test_a_task_is_found_by_both_names_and_a_wrong_one_hints_at_the_right_one():
    assert recipe("paper/dogs-vs-cats-redux-kernels-edition") is recipe("dogs-vs-cats-redux")
    with pytest.raises(TaskError, match="paper/spaceship-titanic"):
        recipe("paper/spaceship-titani")
    with pytest.raises(TaskError, match="no task ''"):
        recipe("paper/")


# ---------------------------------------------------------------- all 19, from the download to the folder


@pytest.mark.parametrize("name", NAMES)
def test_each_download_becomes_a_task_folder_that_holds_the_contract(name, tmp_path):
    task = prepared(name, tmp_path)
    found = recipe(name)
    assert (task.name, task.metric, task.split, task.modality) == (
        name,
        found.metric,
        found.split,
        found.modality,
    )
    assert [finding for finding in check_task(task) if not finding.ok] == []
    assert task.read_only == ("data/*", "data_description.txt") and not task.real
    assert task.paper_task.startswith(f"{name} ({found.paper_metric}")
    assert "seed 0" in task.provenance and "public" in task.provenance
    assert not list(tmp_path.glob("downloads/.*/draft"))  # no draft is left
    compile((task.folder / "scripts/prepare.py").read_text(), "prepare.py", "exec")
    train, test = (pd.read_csv(task.data_dir / f"{part}.csv") for part in ("train", "test"))
    assert task.rows == len(train) and len(train) > len(test) / 2
    shared = set(train) & set(test)
    assert shared == set(test) - {"id"}  # the same inputs on both sides, and no answer in test.csv
    ids = [set(read_labels(task, labels)[0]) for labels in ("feedback", "report")]
    assert not ids[0] & ids[1] and ids[0] | ids[1] == set(map(str, test["id"]))
    assert abs(len(ids[0]) - len(ids[1])) <= max(2, 0.34 * len(test))


@pytest.fixture(scope="module")
def isolated():
    """Give a function that runs a script of a task in the isolated runner."""
    with Runner(workers=1) as runner:
        yield lambda task, files: runner.run(RunRequest(files, task.data_dir, "train.py", task.limits))


@pytest.mark.parametrize(
    "name", ["jigsaw-toxic-comment-classification", "statoil-iceberg-classifier", "ogbn-arxiv"]
)
def test_three_tasks_pass_the_whole_check_in_the_isolated_runner(name, tmp_path, isolated):
    task = prepared(name, tmp_path, execute=isolated)
    findings = check_task(find_task(task.folder), isolated)
    assert [finding for finding in findings if not finding.ok] == []
    assert {"the starter reproduces its stated score", "the starter leaves memory for better scripts"} <= {
        finding.rule for finding in findings
    }
    card = yaml.safe_load((task.folder / "task.yaml").read_text())
    assert "isolation" in card["baseline"]["provenance"] and "proxy" in card["best"]["provenance"]


def test_the_command_prepares_a_task_that_was_downloaded_by_hand(tmp_path, capsys, isolated):
    source = made.write_archive(recipe("spaceship-titanic"), tmp_path)
    words = ["tasks", "prepare", "paper/spaceship-titanic", "--from", str(source), "--best", "0.99",
             "--best-source", "a leaderboard"]  # fmt: skip
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert "accuracy, higher is better" in said and "given by the user: a leaderboard" in said
    findings = check_task(find_task("paper/spaceship-titanic"), isolated)
    assert [finding for finding in findings if not finding.ok] == []


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_cut(tmp_path):
    source = made.write_archive(recipe("nomad2018"), tmp_path)
    folders = {}
    for home, seed in (("a", 0), ("b", 0), ("c", 1)):
        task = prepare_paper_task(
            "nomad2018", without_starter, home=tmp_path / home, source=source, seed=seed
        )
        folders[home] = {
            path.name: path.read_bytes() for path in task.folder.rglob("*.csv")
        }  # fmt: skip
    assert folders["a"] == folders["b"]
    assert folders["a"]["train.csv"] != folders["c"]["train.csv"]


# ---------------------------------------------------------------- what is special about a task


def test_people_who_travel_together_stay_in_one_set(tmp_path):
    task = prepared("spaceship-titanic", tmp_path, execute=without_starter)
    train, test = (pd.read_csv(task.data_dir / f"{part}.csv") for part in ("train", "test"))
    test["set"] = [str(i) in set(read_labels(task, "report")[0]) for i in test["id"]]
    group = test["PassengerId"].str.split("_").str[0]
    assert not set(group) & set(train["PassengerId"].str.split("_").str[0])
    assert (test.groupby(group)["set"].nunique() == 1).all()
    assert set(train["target"]) == {0, 1}


def test_pages_with_the_same_text_stay_in_one_set_and_hidden_clean_pages_are_blank(tmp_path):
    task = prepared("denoising-dirty-documents", tmp_path, execute=without_starter)
    train, test = (pd.read_csv(task.data_dir / f"{part}.csv") for part in ("train", "test"))
    test["set"] = np.isin(test["id"].astype(str), read_labels(task, "report")[0])
    order = sorted(f"{i + 2}.png" for i in range(12))  # pages are numbered in the order of the file names
    text = {page: (int(name[:-4]) - 2) // 2 for page, name in enumerate(order)}
    sets = {}
    for table, mark in ((train, "visible"), (test[~test["set"]], "feedback"), (test[test["set"]], "report")):
        for page in table["page"].unique():
            sets.setdefault(text[page], set()).add(mark)
    assert len(sets) == 6 and all(len(marks) == 1 for marks in sets.values())
    clean, dirty = (np.load(task.data_dir / f"{name}.npy") for name in ("clean", "dirty"))
    assert clean.shape == dirty.shape == (12, 40, 30)
    for page in test["page"].unique():
        assert (clean[page] == 255).all() and not (dirty[page] == 255).all()
    first = train.iloc[0].astype(int)
    assert clean[first["page"], first["row"], first["column"]] / 255 == pytest.approx(
        train["target"][0], abs=1e-4
    )


def test_whales_without_a_visible_photo_become_class_0(tmp_path):
    task = prepared("whale-categorization-playground", tmp_path, execute=without_whales)
    train = pd.read_csv(task.data_dir / "train.csv")
    names = pd.read_csv(task.data_dir / "classes.csv")
    assert names["name"][0] == "new_whale"
    for labels in ("feedback", "report"):
        assert set(read_labels(task, labels)[1].astype(int)) <= set(train["target"]) | {0}
    assert set(task.classes) == set(train["target"]) | {0}


def without_whales(task, files):
    table = pd.read_csv(task.data_dir / "test.csv", usecols=["id"])
    for k in range(1, 6):
        table[f"guess_{k}"] = task.classes[k]
    return Ran("ok", "", 0.1, {"submission.csv": table.to_csv(index=False).encode()})


def test_a_class_with_one_row_is_left_out_and_the_card_says_so(tmp_path):
    task = prepared("tabular-playground-series-dec-2021", tmp_path, execute=without_starter)
    assert task.classes == (1, 2, 3) and "left out: 5" in task.provenance


def test_official_sets_stay_official(tmp_path):
    cifar = prepared("cifar-10", tmp_path, execute=without_starter)
    assert cifar.rows == 100 and len(pd.read_csv(cifar.data_dir / "test.csv")) == 40
    pictures = np.load(cifar.data_dir / "pictures.npy")
    train = pd.read_csv(cifar.data_dir / "train.csv")
    assert pictures.shape == (140, 32, 32, 3)
    # The fixture draws pixels from 12 * class to 12 * class + 119: a picture belongs to its label.
    assert all(pictures[row.picture].min() >= 12 * row.target for row in train.itertuples())
    graph = prepared("ogbn-arxiv", tmp_path, execute=without_starter)
    sizes = [graph.rows, *(len(read_labels(graph, labels)[0]) for labels in ("feedback", "report"))]
    assert sizes == [50, 20, 30]


def test_the_nodes_are_renumbered_with_features_edges_and_labels(tmp_path):
    task = prepared("ogbn-arxiv", tmp_path, execute=without_starter)
    features, edges = np.load(task.data_dir / "nodes.npy"), np.load(task.data_dir / "edges.npy")
    train = pd.read_csv(task.data_dir / "train.csv")
    # The fixture's features lie around the class: its mean tells the class of a node.
    assert np.abs(features[train["node"]].mean(axis=1) - train["target"]).max() < 0.5
    assert edges.shape == (300, 2) and sorted(train["node"]) != list(range(50))
    files = made.CONTENTS["ogbn-arxiv"]()
    old = np.loadtxt(gzip.decompress(files["arxiv/raw/edge.csv.gz"]).decode().splitlines(), delimiter=",")
    kinds = np.sort(old.astype(int) % 5, axis=0)  # classes of both ends survive the renumbering
    assert (np.sort(np.round(features.mean(axis=1))[edges], axis=0) == kinds).all()


def test_what_a_killed_process_left_is_swept_and_two_at_a_time_are_refused(tmp_path):
    locked = tmp_path / "downloads" / ".nomad2018"
    put(locked / "draft" / "task" / "half.txt", "x")
    with FolderLock(locked), pytest.raises(RunError, match="in use by another process"):
        prepared("nomad2018", tmp_path, execute=without_starter)
    prepared("nomad2018", tmp_path, execute=without_starter)
    assert not (locked / "draft").exists()


def test_repeated_rows_and_pictures_are_left_out(tmp_path):
    contents = made.CONTENTS["spooky-author-identification"]()
    table = pd.read_csv(io.BytesIO(_inner(contents["train.zip"], "train.csv")))
    again = table.head(9).assign(id=[f"again{i}" for i in range(9)], text=table["text"].head(9).str.upper())
    contents["train.zip"] = made.zip_bytes({"train.csv": made.csv_bytes(pd.concat([table, again]))})
    task = prepared("spooky-author-identification", tmp_path, contents, execute=without_starter)
    assert "9 repeated rows left out" in task.provenance
    dogs = made.CONTENTS["dogs-vs-cats-redux"]()
    pictures = _all(dogs["train.zip"])
    pictures["train/cat.99.jpg"] = pictures["train/cat.0.jpg"]
    dogs["train.zip"] = made.zip_bytes(pictures)
    task = prepared("dogs-vs-cats-redux", tmp_path, dogs, execute=without_starter)
    assert "1 repeated rows left out" in task.provenance
    assert [f for f in check_task(task) if not f.ok] == []


def _all(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def _inner(archive: bytes, name: str) -> bytes:
    return _all(archive)[name]


def test_fewer_and_more_rows_can_be_asked_for(tmp_path):
    few = prepared("detecting-insults-in-social-commentary", tmp_path, rows=30, execute=without_starter)
    assert few.rows < 30
    every = prepared("detecting-insults-in-social-commentary", tmp_path, rows="all", again=True,
                     execute=without_starter)  # fmt: skip
    hidden = len(pd.read_csv(every.data_dir / "test.csv"))
    assert every.rows + hidden == 60
    assert "rows='all'" in (every.folder / "scripts/prepare.py").read_text()


def test_photos_can_be_kept_larger(tmp_path):
    task = prepared("plant-pathology-2020-fgvc7", tmp_path, side=24, execute=without_starter)
    assert np.load(task.data_dir / "pictures.npy").shape[1:] == (24, 24, 3)
    with pytest.raises(TaskError, match="--side 24 is not possible for spaceship-titanic"):
        prepared("spaceship-titanic", tmp_path, side=24)
    with pytest.raises(TaskError, match="--rows 3 is not possible"):
        prepared("spaceship-titanic", tmp_path, rows=3)


def test_a_sample_of_a_long_table_is_uniform_and_keeps_its_order(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "CHUNK", 10)
    path = tmp_path / "long.csv"
    pd.DataFrame({"a": range(100)}).to_csv(path, index=False)
    counts = np.zeros(100)
    for seed in range(80):
        found = readers.sample_csv(path, 20, np.random.default_rng(seed))["a"].to_numpy()
        assert len(found) == 20 and (np.diff(found) > 0).all()
        counts[found] += 1
    assert counts.min() > 2 and counts.max() < 32  # 16 expected, standard deviation 3.6
    assert len(readers.sample_csv(path, None, np.random.default_rng(0))) == 100


# ---------------------------------------------------------------- cutting


def test_dealing_keeps_classes_in_proportion_and_groups_whole():
    rng = np.random.default_rng(0)
    classes = rng.integers(0, 7, 700)
    part = deal(classes, (6, 2, 2), rng)
    for key in range(7):
        share = np.bincount(part[classes == key], minlength=3) / (classes == key).sum()
        assert np.abs(share - [0.6, 0.2, 0.2]).max() < 0.03
    groups = rng.integers(0, 90, 700)
    part = deal(classes, (6, 2, 2), rng, groups)
    assert all(len(set(part[groups == key])) == 1 for key in range(90))
    assert np.abs(np.bincount(part) / 700 - [0.6, 0.2, 0.2]).max() < 0.03


def test_classes_with_one_row_go_to_all_sets():
    part = deal(np.arange(100), (6, 2, 2), np.random.default_rng(1))
    assert np.bincount(part).tolist() == [60, 20, 20]


def test_an_empty_set_is_refused():
    with pytest.raises(TaskError, match="the report set would be empty"):
        writing.demand(np.array([0, 0, 1]), "x")


# ---------------------------------------------------------------- the best known score


def test_the_best_score_is_given_or_a_stated_proxy():
    home = recipe("home-data-for-ml-course")
    start = {"feedback": 25_000.0, "report": 24_000.0}
    assert best_known(home, start) == (18440, best_known(home, start)[1])
    assert "proxy" in best_known(home, start)[1] and "Table 1" in best_known(home, start)[1]
    value, words = best_known(home, start, 12_000.0, "my leaderboard")
    assert value == 12_000 and words == "given by the user: my leaderboard"
    assert (
        best_known(home, {"feedback": 18_000.0, "report": 24_000.0})[0] == 0
    )  # the paper's does not beat it
    titanic = best_known(recipe("spaceship-titanic"), {"feedback": 0.7, "report": 0.7})
    assert titanic[0] == 1.0 and "nobody reaches" in titanic[1]


@pytest.mark.parametrize("given", [26_000.0, 24_500.0, -1.0, float("nan")])
def test_a_best_score_that_is_none_is_refused(given):
    with pytest.raises(TaskError, match="is no best score"):
        best_known(recipe("home-data-for-ml-course"), {"feedback": 25_000.0, "report": 24_000.0}, given)


def test_a_starter_that_is_perfect_leaves_no_task():
    with pytest.raises(TaskError, match="nothing is left to improve"):
        best_known(recipe("spaceship-titanic"), {"feedback": 1.0, "report": 0.9})


@pytest.mark.parametrize(
    ("ran", "words"),
    [
        (Ran("timeout", "", 120.0), "timeout: no output"),
        (Ran("error", "Traceback\nNameError: x", 0.1), "error: NameError: x"),
        (Ran("ok", "", 0.1), "cannot be scored .missing"),
    ],
)
def test_a_starter_that_fails_leaves_nothing(tmp_path, ran, words):
    with pytest.raises(TaskError, match=words):
        prepared("nomad2018", tmp_path, execute=lambda task, files: ran)
    assert list((tmp_path / "paper").iterdir()) == []


# ---------------------------------------------------------------- logins


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_every_login_style_is_found_and_none_is_shown(monkeypatch):
    home = Path.home() / ".kaggle"
    with pytest.raises(TaskError, match="no Kaggle login") as error:
        find_login()
    assert "KAGGLE_API_TOKEN" in error.value.cure and "kaggle.json" in error.value.cure
    found = []
    put(home / "credentials.json", "{}")
    found.append(find_login())
    put(home / "kaggle.json", json.dumps({"username": "me", "key": SECRET}))
    found.append(find_login())
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", SECRET)
    found.append(find_login())
    put(home / "access_token", SECRET + "\n")
    found.append(find_login())
    monkeypatch.setenv("KAGGLE_API_TOKEN", SECRET)
    found.append(find_login())
    assert found == [
        "the login of `kaggle auth login`", "kaggle.json", "the variables KAGGLE_USERNAME and KAGGLE_KEY",
        "~/.kaggle/access_token", "the variable KAGGLE_API_TOKEN",
    ]  # fmt: skip
    assert SECRET not in "".join(found)


def test_other_folders_of_the_login_are_known(monkeypatch, tmp_path):
    put(tmp_path / "conf" / "kaggle" / "kaggle.json", json.dumps({"username": "me", "key": SECRET}))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "conf"))
    assert find_login() == "kaggle.json"
    put(tmp_path / "other" / "kaggle.json", json.dumps({"username": "me", "key": SECRET}))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "other"))
    assert find_login() == "kaggle.json"


def test_half_a_login_and_a_damaged_file_are_told(monkeypatch):
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    with pytest.raises(TaskError, match="half a Kaggle login: KAGGLE_USERNAME is set, KAGGLE_KEY is not"):
        find_login()
    for text in ("{", "[]", '{"username": "me"}', '{"username": "me", "key": ""}'):
        put(Path.home() / ".kaggle" / "kaggle.json", text)
        with pytest.raises(TaskError, match="kaggle.json is damaged"):
            find_login()


# ---------------------------------------------------------------- clients

KAGGLE = """
import os, shutil
class Api:
    def authenticate(self):
        print("Warning: key SECRET is readable")
    def competition_download_files(self, competition, path=None, force=False, quiet=True, unzip=False):
        shutil.copy(os.environ["FAKE_ARCHIVE"], path)
api = Api()
"""
HUB = """
import os, shutil, zipfile
CALLS = []
def competition_download(handle, path=None, *, force_download=False, output_dir=None):
    CALLS.append(force_download)
    target = os.path.join(os.environ["FAKE_CACHE"], handle)
    with zipfile.ZipFile(os.environ["FAKE_ARCHIVE"]) as opened:
        opened.extractall(target)
    return target
"""


def test_without_a_client_the_message_says_what_to_install(login):
    with pytest.raises(TaskError, match="no client of Kaggle is installed") as error:
        choose_client()
    assert "pip install kagglehub" in error.value.cure and "--from" in error.value.cure
    with pytest.raises(TaskError, match="the client kaggle is not installed"):
        choose_client("kaggle")
    with pytest.raises(TaskError, match="unknown"):
        choose_client("wget")


@pytest.mark.parametrize(("client", "code"), [("kaggle", KAGGLE), ("kagglehub", HUB)])
def test_both_clients_bring_a_task_to_the_command_line(client, code, login, tmp_path, monkeypatch, capfd):
    found = recipe("aerial-cactus-identification")
    install(monkeypatch, tmp_path, client, code.replace("SECRET", SECRET))
    monkeypatch.setenv("FAKE_ARCHIVE", str(made.write_archive(found, tmp_path / "server")))
    monkeypatch.setenv("FAKE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("mlagent_lib.commands.tasks_prepare.prepare_isolated",
                        lambda name, **options: prepare_paper_task(name, run_trusted, **options))  # fmt: skip
    assert cli.main(["tasks", "prepare", f"paper/{found.name}"]) == 0
    said = capfd.readouterr()
    assert "starter" in said.out and "proxy" in said.out and SECRET not in said.out + said.err
    task = find_task(f"paper/{found.name}")
    assert task.folder == (tmp_path / "home" / "paper" / found.name).resolve()
    for path in (tmp_path / "home").rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes()
    monkeypatch.delenv("FAKE_ARCHIVE")  # a second download would fail
    assert cli.main(["tasks", "prepare", f"paper/{found.name}"]) == 0
    assert "prepared already" in capfd.readouterr().out
    assert cli.main(["tasks", "prepare", f"paper/{found.name}", "--again", "--rows", "all"]) == 0
    assert cli.main(["tasks", "list", "--suite", "paper"]) == 0
    listed = capfd.readouterr().out
    assert listed.count("mlagent tasks prepare paper/") == 19 and listed.count("  prepared  ") == 1


def test_the_command_refuses_in_one_line(capsys, login):
    assert cli.main(["tasks", "prepare", "paper/nomad2018"]) == 2
    assert capsys.readouterr().err.startswith("mlagent: no client of Kaggle is installed. What to do: pip")
    assert cli.main(["tasks", "prepare", "paper/nomad2018", "--rows", "x"]) == 2
    assert "--rows x is no number" in capsys.readouterr().err
    assert cli.main(["tasks", "prepare", "paper/nomad2018", "--from", "/nowhere"]) == 2
    assert "/nowhere does not exist" in capsys.readouterr().err
    assert cli.main(["tasks", "check", "paper/nomad2018"]) == 1
    assert "not prepared yet. What to do: mlagent tasks prepare paper/nomad2018" in capsys.readouterr().err


class HTTPError(Exception):
    """As that of requests: the status is in the response, the text may hold a signed address."""

    def __init__(self, status):
        self.response = SimpleNamespace(status_code=status)
        super().__init__(f"{status} for url: https://storage.example/x?X-Goog-Signature={SECRET}")


class ApiException(Exception):
    """As that of older clients."""

    def __init__(self, status):
        self.status = status
        super().__init__(f"({status}) {SECRET}")


class UnauthenticatedError(Exception):
    pass


class NewConnectionError(Exception):
    pass


class ChunkedEncodingError(Exception):
    pass


FAILURES = [
    (HTTPError(401), "refuses the login in the variable KAGGLE_API_TOKEN .401", "kaggle.com/settings/api"),
    (ApiException(401), "401", "new token"),
    (HTTPError(403), "403.*rules are not accepted", "competitions/spaceship-titanic/rules"),
    (ApiException(403), "403", "spaceship-titanic/rules"),
    (HTTPError(404), "404.*gone or was renamed", "--from"),
    (HTTPError(429), "error 429", "wait"),
    (HTTPError(503), "error 503", "wait"),
    (SystemExit(1), "does not accept the login", "pip install -U"),
    (UnauthenticatedError(SECRET), "does not accept the login", "access_token"),
    (NewConnectionError(SECRET), "no connection to www.kaggle.com", "network"),
    (TimeoutError(SECRET), "no connection", "proxy"),
    (ChunkedEncodingError(SECRET), "was interrupted", "start the same command again"),
    (OSError(28, "No space left on device"), "became full", "MLAGENT_HOME"),
    (KeyError(SECRET), "client failed with KeyError", "browser"),
]


@pytest.mark.parametrize(
    ("failure", "words", "cure"), FAILURES, ids=lambda value: getattr(value, "args", value)
)
def test_every_failure_of_a_client_has_its_message_and_cure_and_no_secret(
    failure, words, cure, login, tmp_path
):
    def download(slug, folder):
        raise failure

    with pytest.raises(TaskError, match=words) as error:
        fetch.fetch(recipe("spaceship-titanic"), tmp_path, download)
    assert cure in error.value.cure
    assert SECRET not in str(error.value) + error.value.cure
    assert error.value.__suppress_context__ and error.value.__cause__ is None  # nor in a traceback
    assert not (tmp_path / "downloads" / "spaceship-titanic").exists()


def test_the_insults_page_is_told_to_have_a_closed_door():
    error = explain(HTTPError(403), recipe("detecting-insults-in-social-commentary"), "kaggle.json", False)
    assert "cannot accept its rules" in error.cure and "--from" in error.cure


def test_an_interrupted_client_goes_on_from_what_is_there(login, tmp_path):
    found, content = recipe("nomad2018"), made.archive_bytes(recipe("nomad2018"))
    tries = []

    def download(slug, folder):
        target = folder / f"{slug}.zip"
        tries.append(target.stat().st_size if target.exists() else 0)
        with open(target, "ab") as handle:
            handle.write(content[tries[-1] :][: len(content) // 2 if len(tries) == 1 else None])
        if len(tries) == 1:
            raise ConnectionResetError(SECRET)
        return folder

    with pytest.raises(Interrupted):
        fetch.fetch(found, tmp_path, download)
    assert not (tmp_path / "downloads" / found.name).exists()  # half a download is no download
    folder = fetch.fetch(found, tmp_path, download)
    assert tries == [0, len(content) // 2]
    assert (folder / f"{found.slug}.zip").read_bytes() == content
    assert fetch.fetch(found, tmp_path, download) == folder and len(tries) == 2  # it is not downloaded again
    (folder / f"{found.slug}.zip").write_bytes(content[:-1])
    fetch.fetch(found, tmp_path, download)
    assert len(tries) == 3  # a file that was changed is no download either


def test_a_client_that_brings_nothing_is_told(login, tmp_path):
    with pytest.raises(TaskError, match="brought no file"):
        fetch.fetch(recipe("nomad2018"), tmp_path, lambda slug, folder: folder)


def test_a_missing_login_is_told_before_a_client_runs(tmp_path):
    with pytest.raises(TaskError, match="no Kaggle login"):
        fetch.fetch(recipe("nomad2018"), tmp_path, lambda slug, folder: pytest.fail("ran"))


def test_too_small_a_disk_is_told_before_the_download(login, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000_000))
    with pytest.raises(TaskError, match="dogs-vs-cats-redux needs some 2125 MB .* 100 MB are free") as error:
        fetch.fetch(recipe("dogs-vs-cats-redux"), tmp_path, lambda slug, folder: pytest.fail("ran"))
    assert "MLAGENT_HOME" in error.value.cure
    check_disk(tmp_path / "not" / "there", 100_000_000, "this")


# ---------------------------------------------------------------- public downloads


class Server:
    """Serves one file with ranges; can break off, change the file, or answer with an error."""

    def __init__(self, content: bytes):
        self.content, self.etag, self.breaks, self.status, self.ranges = content, '"1"', [], 200, []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                if outer.status != 200:
                    self.send_error(outer.status)
                    return
                first = 0
                wanted = self.headers.get("Range")
                outer.ranges.append(wanted)
                if wanted and self.headers.get("If-Range") == outer.etag:
                    first = int(wanted.split("=")[1].rstrip("-"))
                if first >= len(outer.content):
                    self.send_error(416)
                    return
                self.send_response(206 if first else 200)
                self.send_header("ETag", outer.etag)
                self.send_header("Content-Length", str(len(outer.content) - first))
                self.end_headers()
                last = outer.breaks.pop(0) if outer.breaks else len(outer.content)
                self.wfile.write(outer.content[first:last])

            def log_message(self, *args):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/data/cifar-10-binary.tar.gz"

    def close(self):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    found = Server(made.archive_bytes(recipe("cifar-10")))
    yield found
    found.close()


def public(server, content=None):
    digest = hashlib.md5(server.content if content is None else content).hexdigest()
    return replace(recipe("cifar-10"), url=server.url, md5=digest)


def test_a_public_download_goes_on_after_a_break(server, tmp_path):
    half = len(server.content) // 2
    server.breaks = [half]
    folder = fetch.fetch(public(server), tmp_path)
    assert (folder / "cifar-10-binary.tar.gz").read_bytes() == server.content
    assert server.ranges == [None, f"bytes={half}-"]
    assert sorted(path.name for path in folder.iterdir()) == ["cifar-10-binary.tar.gz", "complete.json"]
    assert len(Files(folder, tmp_path, recipe("cifar-10")).many("data_batch_?.bin")) == 5


def test_a_public_download_that_breaks_off_again_and_again_keeps_what_it_has(server, tmp_path):
    part = len(server.content) // 4
    server.breaks = [part, 2 * part, 2 * part]
    with pytest.raises(Interrupted, match="was interrupted"):
        fetch.fetch(public(server), tmp_path)
    assert not (tmp_path / "downloads" / "cifar-10").exists()
    folder = fetch.fetch(public(server), tmp_path)
    assert (folder / "cifar-10-binary.tar.gz").read_bytes() == server.content
    assert server.ranges[-1] == f"bytes={2 * part}-"


def test_a_changed_file_is_fetched_from_its_beginning(server, tmp_path):
    server.breaks = [10, 10, 10]
    with pytest.raises(Interrupted):
        fetch.fetch(public(server), tmp_path)
    server.content, server.etag = server.content[::-1], '"2"'
    folder = fetch.fetch(public(server), tmp_path)
    assert (folder / "cifar-10-binary.tar.gz").read_bytes() == server.content


def test_a_download_killed_at_its_very_end_is_begun_anew(server, tmp_path):
    part = tmp_path / "downloads" / "cifar-10.part"
    part.mkdir(parents=True)
    (part / "cifar-10-binary.tar.gz").write_bytes(server.content)
    (part / "cifar-10-binary.tar.gz.state").write_text('{"version": "\\"1\\""}')
    folder = fetch.fetch(public(server), tmp_path)
    assert (folder / "cifar-10-binary.tar.gz").read_bytes() == server.content


def test_a_wrong_checksum_a_missing_page_and_no_network_have_their_messages(server, tmp_path):
    with pytest.raises(TaskError, match="checksum differs"):
        fetch.fetch(public(server, b"other"), tmp_path)
    assert not list((tmp_path / "downloads" / "cifar-10.part").glob("*.gz"))
    server.status = 404
    with pytest.raises(TaskError, match="is gone .404"):
        fetch.fetch(public(server), tmp_path)
    server.status = 503
    with pytest.raises(TaskError, match="error 503"):
        fetch.fetch(public(server), tmp_path)
    server.close()
    with pytest.raises(TaskError, match="no connection to 127.0.0.1") as error:
        fetch.fetch(public(server), tmp_path)
    assert "--from" in error.value.cure


def test_no_network_at_all_is_told(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise urllib.error.URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(TaskError, match="no connection to snap.stanford.edu"):
        fetch.fetch(recipe("ogbn-arxiv"), tmp_path)


# ---------------------------------------------------------------- archives and layouts


def changed(name, change):
    contents = made.CONTENTS[name]()
    change(contents)
    return contents


def drop_column(member, column):
    def change(contents):
        table = pd.read_csv(io.BytesIO(contents[member]))
        contents[member] = made.csv_bytes(table.drop(columns=column))

    return change


LAYOUTS = [
    ("spaceship-titanic", lambda c: c.pop("train.csv"), "train.csv is missing in the download"),
    (
        "spaceship-titanic",
        drop_column("train.csv", "Transported"),
        "layout of train.csv has changed: Transported",
    ),
    ("spaceship-titanic", drop_column("train.csv", "Cabin"), "has changed: Cabin is missing"),
    (
        "us-patent-phrase-to-phrase-matching",
        drop_column("train.csv", "target"),
        "has changed: target is missing",
    ),
    ("spaceship-titanic", lambda c: c.update({"train.csv": b""}), "cannot be read as a table"),
    (
        "home-data-for-ml-course",
        lambda c: c.update({"train.csv": c["train.csv"][:-9]}),
        "rows without an answer",
    ),
    (
        "plant-pathology-2020-fgvc7",
        lambda c: c.pop("images/Train_7.jpg"),
        "1 pictures are missing .* images/Train_7",
    ),
    (
        "plant-pathology-2020-fgvc7",
        lambda c: c.update({"images/Train_7.jpg": c["images/Train_7.jpg"][:200]}),
        "Train_7.jpg cannot be read as a picture",
    ),
    (
        "plant-pathology-2020-fgvc7",
        lambda c: c.update({"train.csv": c["train.csv"].replace(b",1", b",0")}),
        "do not mark one class",
    ),
    (
        "dogs-vs-cats-redux",
        lambda c: c.update({"train.zip": made.zip_bytes({"train/fox.1.jpg": b"x"})}),
        "do not begin with cat or dog but with fox",
    ),
    (
        "statoil-iceberg-classifier",
        lambda c: c.update({"data/processed/train.json": b'[{"id": 1'}),
        "no whole JSON",
    ),
    (
        "statoil-iceberg-classifier",
        lambda c: c.update({"data/processed/train.json": b'[{"id": 1}]'}),
        "has changed: is_iceberg, band_1",
    ),
    (
        "denoising-dirty-documents",
        lambda c: c.update({"train_cleaned.zip": made.zip_bytes({"train_cleaned/2.png": b"x"})}),
        "the clean page of 10.png is missing|cannot be read as a picture",
    ),
    ("cifar-10", lambda c: c.update({"cifar-10-batches-bin/data_batch_2.bin": b"123"}), "whole pictures"),
    ("cifar-10", lambda c: c.update({"cifar-10-batches-bin/batches.meta.txt": b"cat\n"}), "no name"),
    ("ogbn-arxiv", lambda c: c.update({"arxiv/raw/edge.csv.gz": b"123"}), "edge.csv.gz cannot be read"),
    (
        "ogbn-arxiv",
        lambda c: c.update({"arxiv/raw/edge.csv.gz": made._gz(np.array([[1, 500]]))}),
        "layout of the files has changed",
    ),
    ("ogbn-arxiv", lambda c: c.pop("arxiv/split/time/valid.csv.gz"), "time/valid.csv.gz is missing"),
    (
        "jigsaw-toxic-comment-classification",
        lambda c: c.update({"train.csv.zip": c["train.csv.zip"][:-60]}),
        "train.csv.zip is damaged",
    ),
]


@pytest.mark.parametrize(("name", "change", "words"), LAYOUTS)
def test_missing_files_changed_layouts_and_damage_are_told(name, change, words, tmp_path):
    with pytest.raises(TaskError, match=words) as error:
        prepared(name, tmp_path, changed(name, change), execute=without_starter)
    assert error.value.cure
    assert not list((tmp_path / "paper").iterdir())


def test_too_few_rows_are_told(tmp_path):
    def few(contents):
        contents["train.csv"] = b"\n".join(contents["train.csv"].split(b"\n")[:3]) + b"\n"

    with pytest.raises(TaskError, match="set would be empty"):
        prepared(
            "feedback-prize-english-language-learning",
            tmp_path,
            changed("feedback-prize-english-language-learning", few),
            execute=without_starter,
        )

    def one_label(contents):
        table = pd.read_csv(io.BytesIO(_inner(contents["train.csv.zip"], "train.csv")))
        table["threat"] = 0
        table.loc[0, "threat"] = 1
        contents["train.csv.zip"] = made.zip_bytes({"train.csv": made.csv_bytes(table)})

    name = "jigsaw-toxic-comment-classification"
    with pytest.raises(TaskError, match="has no row of class 1 of threat"):
        prepared(name, tmp_path, changed(name, one_label), execute=without_starter)


def test_a_class_of_a_probability_task_cannot_be_left_out(tmp_path):
    def one_poe(contents):
        table = pd.read_csv(io.BytesIO(_inner(contents["train.zip"], "train.csv")))
        table = table[(table["author"] != "EAP") | (table["id"] == "id00000")]
        contents["train.zip"] = made.zip_bytes({"train.csv": made.csv_bytes(table)})

    name = "spooky-author-identification"
    with pytest.raises(TaskError, match="class 0 has fewer than 3 rows"):
        prepared(name, tmp_path, changed(name, one_poe), execute=without_starter)


def test_rows_of_one_class_are_no_task(tmp_path):
    def no_dogs(contents):
        pictures = {name: content for name, content in _all(contents["train.zip"]).items() if "cat" in name}
        cats = {f"train/dog.{i}.jpg": pictures[f"train/cat.{i}.jpg"] for i in range(3)}  # repeated pictures
        contents["train.zip"] = made.zip_bytes(pictures | cats)

    with pytest.raises(TaskError, match="all rows that are left have one class"):
        prepared("dogs-vs-cats-redux", tmp_path, changed("dogs-vs-cats-redux", no_dogs))


def test_a_damaged_download_is_put_away_and_fetched_anew(login, tmp_path, monkeypatch):
    found = recipe("nomad2018")
    whole = made.write_archive(found, tmp_path / "server")
    content = whole.read_bytes()
    whole.write_bytes(content[:-30])
    install(monkeypatch, tmp_path, "kaggle", KAGGLE)
    monkeypatch.setenv("FAKE_ARCHIVE", str(whole))
    with pytest.raises(DamagedArchive, match="is damaged") as error:
        prepare_paper_task(found.name, without_starter, home=tmp_path / "home")
    assert "start the same command again" in error.value.cure
    assert not (tmp_path / "home" / "downloads" / found.name).exists()
    whole.write_bytes(content)
    assert prepare_paper_task(found.name, without_starter, home=tmp_path / "home").name == found.name
    assert not list((tmp_path / "home" / "downloads").glob("*.part"))


def test_after_damage_the_hub_is_asked_past_its_cache(login, tmp_path, monkeypatch):
    found = recipe("nomad2018")
    install(monkeypatch, tmp_path, "kagglehub", HUB)
    monkeypatch.setenv("FAKE_ARCHIVE", str(made.write_archive(found, tmp_path / "server")))
    monkeypatch.setenv("FAKE_CACHE", str(tmp_path / "cache"))
    fetch.fetch(found, tmp_path)
    fetch.forget(found, tmp_path)
    source = fetch.fetch(found, tmp_path)
    assert sys.modules["kagglehub"].CALLS == [False, True]
    assert source == tmp_path / "cache" / found.slug and source.is_dir()


def test_an_archive_cannot_write_outside_its_folder(tmp_path):
    (tmp_path / "into").mkdir()
    for name in ("../train.csv", "/tmp/train.csv", "a\\..\\train.csv", "C:/train.csv"):
        (tmp_path / "x.zip").write_bytes(made.zip_bytes({name: b"a"}))
        with pytest.raises(TaskError, match="leaves its folder"):
            unpack(tmp_path / "x.zip", tmp_path / "into", lambda member: True)
    found = replace(recipe("cifar-10"), url="https://x/x.tar.gz")
    (tmp_path / "x.tar.gz").write_bytes(made.archive_bytes(found, {"../data_batch_1.bin": b"a"}))
    with pytest.raises(TaskError, match="leaves its folder"):
        unpack(tmp_path / "x.tar.gz", tmp_path / "into", lambda member: True)
    (tmp_path / "x.tar.gz").write_bytes(b"no archive")
    with pytest.raises(DamagedArchive):
        unpack(tmp_path / "x.tar.gz", tmp_path / "into", lambda member: True)


def test_too_small_a_disk_is_told_before_unpacking(tmp_path, monkeypatch):
    (tmp_path / "x.zip").write_bytes(made.zip_bytes({"train.csv": b"a" * 1000}))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=999))
    with pytest.raises(TaskError, match="not enough disk space: unpacking x.zip"):
        unpack(tmp_path / "x.zip", tmp_path, lambda member: True)
    assert disk_full(PermissionError(13, "x"), tmp_path) is None


PY7ZR = """
import json, os
class exceptions:
    class ArchiveError(Exception): pass
class SevenZipFile:
    def __init__(self, path):
        self.content = open(path, "rb").read()
        if not self.content.startswith(b"7z"):
            raise exceptions.ArchiveError("not a 7z file")
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def getnames(self): return ["data/processed/train.json", "data/processed/other.json"]
    def extract(self, path, targets):
        assert targets == ["data/processed/train.json"]
        os.makedirs(os.path.join(path, "data/processed"))
        with open(os.path.join(path, targets[0]), "wb") as handle:
            handle.write(self.content[2:])
"""


def test_a_7z_needs_py7zr_and_is_read_with_it(tmp_path, monkeypatch):
    name = "statoil-iceberg-classifier"
    contents = {"train.json.7z": b"7z" + json.dumps(made.iceberg_records()).encode(), "test.json.7z": b"7z"}
    monkeypatch.setitem(sys.modules, "py7zr", None)
    with pytest.raises(TaskError, match="train.json.7z is a 7z archive") as error:
        prepared(name, tmp_path, contents, execute=without_starter)
    assert "pip install py7zr" in error.value.cure
    monkeypatch.delitem(sys.modules, "py7zr")
    install(monkeypatch, tmp_path, "py7zr", PY7ZR)
    task = prepared(name, tmp_path, contents, execute=without_starter)
    assert np.load(task.data_dir / "pictures.npy").shape == (40, 75, 75, 2)
    train = pd.read_csv(task.data_dir / "train.csv")
    assert train["inc_angle"].isna().any() and train["inc_angle"].notna().any()
    with pytest.raises(DamagedArchive):
        prepared(name, tmp_path, contents | {"train.json.7z": b"xx"}, execute=without_starter, again=True)
    assert find_task(task.folder).name == name  # the task that was there stays


def test_a_folder_that_was_unpacked_by_hand_works_as_well(tmp_path):
    found = recipe("leaf-classification")
    for name, content in made.CONTENTS[found.name]().items():
        put_bytes(tmp_path / "mine" / name, content)
    task = prepare_paper_task(found.name, without_starter, home=tmp_path, source=tmp_path / "mine")
    assert task.columns == 193
    assert build.paper_folder(found.name, tmp_path) == task.folder


def put_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def test_only_what_is_needed_is_unpacked(tmp_path):
    found = recipe("aerial-cactus-identification")
    (tmp_path / "work").mkdir()
    Files(made.write_archive(found, tmp_path), tmp_path / "work", found)
    names = {path.name for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert "train.csv" in names and "test.zip" not in names and "sample_submission.csv" not in names
