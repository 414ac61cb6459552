"""Our metrics against scikit-learn and scipy, and their refusals."""

import doctest

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from mlagent_lib.tasks import metrics
from mlagent_lib.tasks.metrics import METRICS, get_metric


def draws(seed):
    return np.random.default_rng(seed)


def test_the_doctests_hold():
    assert doctest.testmod(metrics).failed == 0


@pytest.mark.parametrize("seed", range(5))
def test_class_metrics_agree_with_scikit_learn(seed):
    rng = draws(seed)
    truth = np.r_[np.arange(4), rng.integers(0, 4, 60)]
    guess = rng.integers(0, 4, 64)
    proba = rng.dirichlet(np.ones(4), 64)
    assert metrics.accuracy(truth, guess) == pytest.approx(reference.accuracy_score(truth, guess))
    assert metrics.logloss(truth, proba) == pytest.approx(reference.log_loss(truth, proba))
    expected = reference.roc_auc_score(truth, proba, multi_class="ovr", average="macro")
    assert metrics.auc(truth, proba) == pytest.approx(expected)
    kappa = reference.cohen_kappa_score(truth, guess, weights="quadratic")
    assert metrics.qwk(truth, guess) == pytest.approx(kappa)


@pytest.mark.parametrize("seed", range(5))
def test_binary_metrics_agree_with_scikit_learn_with_ties(seed):
    rng = draws(seed)
    truth = np.r_[0, 1, rng.integers(0, 2, 60)]
    score = np.round(rng.random(62), 1)
    assert metrics.auc(truth, score) == pytest.approx(reference.roc_auc_score(truth, score))
    inside = np.clip(score, 0.05, 0.95)
    assert metrics.logloss(truth, inside) == pytest.approx(reference.log_loss(truth, inside))


@pytest.mark.parametrize("seed", range(5))
def test_number_metrics_agree_with_the_libraries(seed):
    rng = draws(seed)
    truth, guess = rng.gamma(2, 10, (2, 50))
    assert metrics.mae(truth, guess) == pytest.approx(reference.mean_absolute_error(truth, guess))
    assert metrics.rmse(truth, guess) == pytest.approx(reference.root_mean_squared_error(truth, guess))
    assert metrics.rmsle(truth, guess) == pytest.approx(reference.root_mean_squared_log_error(truth, guess))
    assert metrics.pearson(truth, guess) == pytest.approx(stats.pearsonr(truth, guess).statistic)
    assert metrics.pearson(truth * 1e300, guess) == pytest.approx(metrics.pearson(truth, guess))
    tables = rng.normal(size=(2, 30, 3))
    assert metrics.mcrmse(*tables) == pytest.approx(reference.root_mean_squared_error(*tables))


def test_map_at_5_agrees_with_a_plain_loop():
    rng = draws(0)
    truth = rng.integers(0, 8, 40)
    guesses = np.array([rng.permutation(8)[:5] for _ in range(40)])
    plain = [
        next((1 / (i + 1) for i, g in enumerate(row) if g == t), 0.0)
        for t, row in zip(truth, guesses, strict=True)
    ]
    assert metrics.map_at_5(truth, guesses) == pytest.approx(np.mean(plain))


def _perfect_answer(metric):
    if metric.answer == "guesses":
        return np.array([0, 1, 2]), np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [2, 0, 1, 3, 4]])
    if metric.name in ("mcrmse", "rmsle-columns", "auc-columns"):
        return np.eye(3), np.eye(3)
    if metric.answer == "probability":
        return np.array([0, 1, 2]), np.eye(3)
    return np.array([0.0, 1.0, 2.0]), np.array([0.0, 1.0, 2.0])


@pytest.mark.parametrize("name", METRICS)
def test_the_truth_scores_perfectly_and_a_worse_answer_is_worse(name):
    metric = get_metric(name)
    truth, answer = _perfect_answer(metric)
    best = metric.score(truth, answer)
    assert best == pytest.approx(metric.perfect, abs=1e-9)
    worse = metric.score(truth, answer[::-1])
    assert (worse < best) if metric.greater_is_better else (worse > best)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(name, bad):
    metric = get_metric(name)
    truth, answer = _perfect_answer(metric)
    answer = answer.astype(float)
    answer.flat[0] = bad
    with pytest.raises(ValueError, match="finite"):
        metric.score(truth, answer)


@pytest.mark.parametrize("name", METRICS)
def test_other_numbers_of_rows_are_refused(name):
    metric = get_metric(name)
    truth, answer = _perfect_answer(metric)
    with pytest.raises(ValueError, match="rows"):
        metric.score(truth, answer[:-1])


def test_undefined_scores_are_refused():
    with pytest.raises(ValueError, match="same"):
        metrics.pearson([1, 2], [3, 3])
    with pytest.raises(ValueError, match="same"):
        metrics.qwk([2, 2], [2, 2])
    with pytest.raises(ValueError, match="both classes"):
        metrics.auc([1, 1], [0.1, 0.2])
    with pytest.raises(ValueError, match="negative"):
        metrics.rmsle([1.0], [-0.5])
    with pytest.raises(ValueError, match="choose one of"):
        get_metric("f1")
