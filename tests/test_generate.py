"""Generated tasks: the same from a seed, true to their facts, better with the script that fits, checked."""

import doctest
import json
import os
from collections import Counter

import numpy as np
import pandas as pd
import pytest
from scipy.stats import skew
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.svm import SVR

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.check import check_task
from mlagent_lib.tasks.pocket import generate as generating
from mlagent_lib.tasks.pocket.cards import FACTS
from mlagent_lib.tasks.pocket.catalogue import edits
from mlagent_lib.tasks.pocket.generate import generate, make_task, structures, task_name
from mlagent_lib.tasks.pocket.making import sample
from mlagent_lib.tasks.pocket.measure import Measurement, run_trusted
from mlagent_lib.tasks.registry import find_task, list_tasks
from mlagent_lib.tasks.task import checksums

COUNT = 8  # two of each modality


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made")
    told = []
    generate(out, COUNT, 0, list(structures()), 2, lambda done, dropped: told.append(done))
    assert told == list(range(1, COUNT + 1))
    assert os.environ["OMP_NUM_THREADS"] == "1"  # a worker that uses more takes many times as long
    return out


@pytest.fixture(params=range(1, COUNT + 1))
def folder(request, made):
    return made / task_name(request.param)


def structure(folder):
    return json.loads((folder / "structure.json").read_text())


def test_the_doctests_hold():
    assert doctest.testmod(generating).failed == 0


def test_all_rules_hold(folder):
    assert [finding for finding in check_task(find_task(folder), run_trusted) if not finding.ok] == []


def test_the_card_states_the_facts_and_no_more_than_it_may(folder):
    task, known = find_task(folder), structure(folder)
    assert task.split == "held-in" and task.name == folder.name and task.name not in list_tasks()
    assert len(task.facts) <= 5 and set(task.facts) <= set(FACTS)
    assert {fact for fact in known["facts"].values() if fact} <= set(task.facts)
    assert not any(fact and fact in task.description for fact in known["facts"].values())
    assert (task.modality, task.kind, task.metric) == (known["modality"], known["kind"], known["metric"])
    assert list(folder.glob("env/**/structure.json")) == []


def test_the_script_that_fits_beats_the_starter_and_each_wrong_block_counts(folder):
    task, known = find_task(folder), structure(folder)
    work, block = Measurement(task, run_trusted), {e.key: e.block for e in edits(task.modality, task.kind)}
    right = {axis: block[keys[0]] for axis, keys in known["right"].items()}
    top, start = work.value(right), work.value(work.blocks)
    assert top == pytest.approx(work.sign * task.best["feedback"], abs=1e-6) and top > start
    for axis in known["wrong"]:
        assert work.blocks[axis] == block[known["starter"][axis]]
        assert known["alone"][axis] <= 0.8 and work.value(right | {axis: work.blocks[axis]}) < top
    (third,) = set(right) - set(known["wrong"])
    assert known["starter"][third] in known["right"][third]


def test_a_seed_makes_the_same_tasks_and_keeps_those_there(made, tmp_path):
    make_task(tmp_path, 3, 0, list(structures()))
    assert checksums(tmp_path / "made-0003") == checksums(made / "made-0003")
    assert structure(tmp_path / "made-0003") == structure(made / "made-0003")
    assert generate(made, COUNT, 0, list(structures())) == Counter()
    with pytest.raises(TaskError, match="other draws"):
        generate(made, COUNT, 1, list(structures()))


def test_a_draw_that_is_not_kept_is_drawn_anew_and_leaves_nothing(tmp_path, monkeypatch):
    def drop(work, plan, right):
        raise generating._Dropped("little to gain")

    monkeypatch.setattr(generating, "_demand_worth", drop)
    monkeypatch.setattr(generating, "TRIES", 2)
    with pytest.raises(TaskError, match="none of 2 draws"):
        make_task(tmp_path, 1, 0, ["tabular"])
    assert list(tmp_path.iterdir()) == []


def rows(modality: str, answers: int, *facts: str):
    found = sample(rng(1, *facts), modality, 800, answers, set(facts))
    return found.inputs, found.targets["target"].to_numpy(), found.extra


def fits(model, inputs, target) -> float:
    return cross_val_score(model, inputs, target, cv=3).mean()


def test_effects_add_up_depend_and_are_alike_as_stated():
    linear, forest, kernel = Ridge(), RandomForestRegressor(60, random_state=0), SVR(C=100)
    x, y, _ = rows("tabular", 1, "effects add up")
    assert fits(linear, x, y) > fits(forest, x, y) + 0.1
    x, y, _ = rows("tabular", 1, "effects depend on each other")
    assert fits(forest, x, y) > fits(linear, x, y) + 0.3
    x, y, _ = rows("tabular", 1, "like rows have like answers")
    assert fits(kernel, x, y) > max(fits(linear, x, y), fits(forest, x, y)) + 0.1


def test_columns_are_as_stated():
    x, y, _ = rows("tabular", 1, "effects add up", "categories that matter")
    told = [pd.Series(y).groupby(x[f"kind{k}"].to_numpy()).mean().std() for k in range(3)]
    assert max(told) > 0.25 * y.std()
    x, y, _ = rows("tabular", 1, "like rows have like answers", "columns on very different scales")
    assert x.std().max() / x.std().min() > 1000
    x, y, _ = rows("tabular", 1, "effects add up", "skewed columns")
    assert skew(x).min() > 2
    x, y, _ = rows("tabular", 1, "effects add up", "useless columns", "very skewed target")
    assert sum(abs(np.corrcoef(x[name], np.log(y + 1))[0, 1]) < 0.1 for name in x) > 0.8 * x.shape[1]
    assert skew(y) > 3


def test_words_are_as_stated():
    def once(facts: tuple[str, ...]) -> float:
        counts = Counter(" ".join(rows("text", 2, *facts)[0]["text"]).split())
        return np.mean([count == 1 for count in counts.values()])

    assert once(("misspelt words",)) > 0.4 > 0.05 > once(())
    texts = rows("text", 2, "rare words")[0]["text"]
    shares = Counter(word for text in texts for word in set(text.split()))
    assert np.median(list(shares.values())) < 0.06 * len(texts)


def test_images_are_as_stated():
    x, y, _ = rows("image", 4, "effects add up", "varying exposure")
    contrast = x.std(axis=1)
    assert contrast.quantile(0.9) > 3 * contrast.quantile(0.1)
    x, y, _ = rows("image", 4, "effects add up", "small details")
    linear = LinearDiscriminantAnalysis()
    assert fits(linear, x, y) > fits(make_pipeline(PCA(5), linear), x, y) + 0.3
    x, y, _ = rows("image", 2, "effects depend on each other", "spots at any place")
    means = np.stack([x[y == k].mean() for k in (0, 1)])
    assert means.std(axis=1).max() < 2 and x.std(axis=1).mean() > 6


def test_links_are_as_stated():
    _, y, extra = rows("graph", 4, "effects add up", "most links stay in a class")
    edges = extra["edges"].to_numpy()
    assert np.mean(y[edges[:, 0]] == y[edges[:, 1]]) > 0.7
