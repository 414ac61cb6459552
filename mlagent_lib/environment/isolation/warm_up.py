"""What a warm server does once before its first run: fit, predict and write something tiny with everything.

Much of the scientific stack is loaded, compiled or looked up on first use only. Done here, it is done once;
left to the scripts, each fork would do it again. Nothing that is made here is kept.
"""

from __future__ import annotations

import contextlib
import io
import warnings

_ROWS = 24
_FEW = {"n_estimators": 2}
# module of scikit-learn, what of it is fitted and used, and with which settings beside its own
_MODELS = (
    ("linear_model", "LogisticRegression Ridge Lasso LinearRegression RidgeClassifier HuberRegressor "
     "SGDClassifier SGDRegressor PoissonRegressor ElasticNet", {}),
    ("tree", "DecisionTreeClassifier DecisionTreeRegressor", {}),
    ("svm", "SVC SVR LinearSVC LinearSVR", {}),
    ("naive_bayes", "GaussianNB MultinomialNB ComplementNB BernoulliNB", {}),
    ("neighbors", "KNeighborsClassifier KNeighborsRegressor", {}),
    ("discriminant_analysis", "LinearDiscriminantAnalysis", {}),
    ("dummy", "DummyClassifier DummyRegressor", {}),
    ("preprocessing", "MinMaxScaler RobustScaler Normalizer PowerTransformer PolynomialFeatures "
     "FunctionTransformer", {}),
    ("feature_selection", "VarianceThreshold", {}),
    ("ensemble", "RandomForestClassifier RandomForestRegressor ExtraTreesClassifier ExtraTreesRegressor "
     "GradientBoostingClassifier GradientBoostingRegressor", _FEW),
    ("ensemble", "HistGradientBoostingClassifier HistGradientBoostingRegressor", {"max_iter": 1}),
    ("decomposition", "PCA TruncatedSVD", {"n_components": 1}),
    ("neural_network", "MLPClassifier MLPRegressor", {"hidden_layer_sizes": (2,), "max_iter": 1}),
    ("preprocessing", "KBinsDiscretizer",
     {"n_bins": 3, "quantile_method": "averaged_inverted_cdf"}),
    ("preprocessing", "QuantileTransformer", {"n_quantiles": 4}),
    ("kernel_approximation", "Nystroem", {"n_components": 2}),
    ("feature_selection", "SelectKBest", {"k": 1}),
)  # fmt: skip
_METRICS = {
    "of numbers": "roc_auc_score log_loss mean_absolute_error mean_squared_error r2_score",
    "of classes": "accuracy_score f1_score cohen_kappa_score confusion_matrix",
}


def warm_up() -> None:
    """Use the stack once: files, columns, texts, transformers, models of every kind and ways to combine them.

    Raises:
        ModuleNotFoundError: A part of the stack is missing.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        table = _table()
        features, labels = table[["a", "b"]].fillna(0.0).to_numpy(), table["target"].to_numpy()
        for model in [*_models(), *_combined()]:
            _use(model, features, labels)
        _columns(table)
        _texts_and_graphs()
        _numbers(features, labels)


def _table():
    import numpy
    import pandas

    rows = (f"{i},{i % 5},{i % 7}.5,{'xyz'[i % 3]},{i % 2}\n" for i in range(_ROWS))
    frame = pandas.read_csv(io.StringIO("id,a,b,c,target\n" + "".join(rows)), index_col="id")
    frame.select_dtypes("number").columns.tolist()
    frame.isna().sum()
    frame.groupby("c").mean(numeric_only=True)
    frame.loc[frame["a"] > 1, "b"] = numpy.nan
    pandas.DataFrame(frame["b"].to_numpy(), frame.index, ["prediction"]).to_csv(io.StringIO())
    return frame


def _use(model, features, labels) -> None:
    model.fit(features, labels)
    for method in ("predict", "predict_proba", "transform"):
        if hasattr(model, method):
            getattr(model, method)(features)


def _models() -> list:
    import importlib

    return [
        getattr(importlib.import_module(f"sklearn.{module}"), name)(**settings)
        for module, names, settings in _MODELS
        for name in names.split()
    ]


def _combined() -> list:
    from sklearn import ensemble, feature_selection
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    logistic, stump = LogisticRegression(), DecisionTreeClassifier(max_depth=1)
    kinds = [("a", logistic), ("b", stump)]
    values = [("a", Ridge()), ("b", DecisionTreeRegressor(max_depth=1))]
    return [
        ensemble.VotingClassifier(kinds, voting="soft"), ensemble.StackingClassifier(kinds, cv=2),
        ensemble.VotingRegressor(values), ensemble.StackingRegressor(values, cv=2),
        ensemble.BaggingClassifier(stump, **_FEW), ensemble.BaggingRegressor(**_FEW),
        ensemble.AdaBoostClassifier(stump, **_FEW), ensemble.AdaBoostRegressor(**_FEW),
        CalibratedClassifierCV(logistic, cv=2), CalibratedClassifierCV(logistic, method="isotonic", cv=2),
        TransformedTargetRegressor(Ridge()), GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, cv=2),
        feature_selection.SelectKBest(feature_selection.f_regression, k=1),
    ]  # fmt: skip


def _columns(table) -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["a", "b"]),
        (OneHotEncoder(handle_unknown="ignore"), ["c"]),
        (OrdinalEncoder(), ["c"]),
    ).fit_transform(table)


def _texts_and_graphs() -> None:
    import numpy
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline, make_union

    texts, labels = ["some few words", "other words here"] * 6, [0, 1] * 6
    letters = TfidfVectorizer(analyzer="char_wb")
    make_union(CountVectorizer(), HashingVectorizer(n_features=8), letters).fit_transform(texts)
    for model in (LogisticRegression(), MultinomialNB(), Ridge()):
        make_pipeline(TfidfVectorizer(sublinear_tf=True), model).fit(texts, labels).predict(texts)
    graph = csr_matrix(numpy.eye(4))
    hstack([graph @ graph, graph]).toarray()


def _numbers(features, labels) -> None:
    import numpy
    from sklearn import metrics
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import cross_val_score
    from sklearn.multioutput import MultiOutputRegressor

    MultiOutputRegressor(Ridge()).fit(features, features).predict(features)
    cross_val_score(LogisticRegression(), features, labels, cv=2)
    truth, guess = numpy.array([0, 1, 0, 1]), numpy.array([0.2, 0.7, 0.4, 0.6])
    for given, names in zip((guess, truth), _METRICS.values(), strict=True):
        for name in names.split():
            getattr(metrics, name)(truth, given)
    numpy.corrcoef(guess, truth)
    numpy.linalg.svd(numpy.eye(3))
    numpy.linalg.lstsq(numpy.eye(3), numpy.ones(3), rcond=None)
