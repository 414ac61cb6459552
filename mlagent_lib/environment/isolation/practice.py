"""What a warm server does once before its first run: fit, predict and write something tiny with everything.

Much of the scientific stack is loaded, compiled or looked up on first use only. Done here, it is done once;
left to the scripts, each fork would do it again. Nothing that is made here is kept.
"""

from __future__ import annotations

import contextlib
import io
import warnings

_ROWS = 24


def practise() -> None:
    """Use the stack once: files, columns, texts, transformers, models of every kind and ways to combine them.

    Raises:
        ModuleNotFoundError: A part of the stack is missing.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        table = _tables()
        _transformers(table)
        for model in _models():
            _fit(model, table)
        _texts_and_graphs()
        _combinations(table)
        _numbers()


def _tables():
    import numpy
    import pandas

    text = "id,a,b,c,target\n" + "".join(
        f"{i},{i % 5},{i % 7}.5,{'xyz'[i % 3]},{i % 2}\n" for i in range(_ROWS)
    )
    frame = pandas.read_csv(io.StringIO(text), index_col="id")
    frame.select_dtypes("number").columns.tolist()
    frame.isna().sum()
    frame.groupby("c").mean(numeric_only=True)
    frame.loc[frame["a"] > 1, "b"] = numpy.nan
    pandas.DataFrame(frame["b"].to_numpy(), frame.index, ["prediction"]).to_csv(io.StringIO())
    return frame


def _columns(table):
    return table[["a", "b"]].fillna(0.0).to_numpy(), table["target"].to_numpy()


def _transformers(table) -> None:
    from sklearn.compose import make_column_transformer
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.feature_selection import SelectKBest, VarianceThreshold, f_classif, f_regression
    from sklearn.impute import SimpleImputer
    from sklearn.kernel_approximation import Nystroem
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import (
        FunctionTransformer,
        KBinsDiscretizer,
        MinMaxScaler,
        Normalizer,
        OneHotEncoder,
        OrdinalEncoder,
        PolynomialFeatures,
        PowerTransformer,
        QuantileTransformer,
        RobustScaler,
        StandardScaler,
    )

    numbers, words = ["a", "b"], ["c"]
    make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        (OneHotEncoder(handle_unknown="ignore"), words),
        (OrdinalEncoder(), words),
    ).fit_transform(table)
    features, labels = _columns(table)
    for step in (
        MinMaxScaler(), RobustScaler(), Normalizer(), PowerTransformer(), PolynomialFeatures(2), PCA(1),
        QuantileTransformer(n_quantiles=4), KBinsDiscretizer(3, quantile_method="averaged_inverted_cdf"),
        VarianceThreshold(), TruncatedSVD(1), Nystroem(n_components=2), FunctionTransformer(),
        SelectKBest(f_classif, k=1), SelectKBest(f_regression, k=1),
    ):  # fmt: skip
        step.fit_transform(features, labels)


def _models() -> list:
    from sklearn import ensemble, linear_model, naive_bayes, neighbors, svm, tree
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.dummy import DummyClassifier, DummyRegressor
    from sklearn.neural_network import MLPClassifier, MLPRegressor

    few = {"n_estimators": 2}
    return [
        linear_model.LogisticRegression(), linear_model.Ridge(), linear_model.Lasso(),
        linear_model.LinearRegression(), linear_model.RidgeClassifier(), linear_model.HuberRegressor(),
        linear_model.SGDClassifier(), linear_model.SGDRegressor(), linear_model.PoissonRegressor(),
        linear_model.ElasticNet(), tree.DecisionTreeClassifier(), tree.DecisionTreeRegressor(),
        ensemble.RandomForestClassifier(**few), ensemble.RandomForestRegressor(**few),
        ensemble.ExtraTreesClassifier(**few), ensemble.ExtraTreesRegressor(**few),
        ensemble.GradientBoostingClassifier(**few), ensemble.GradientBoostingRegressor(**few),
        ensemble.HistGradientBoostingClassifier(max_iter=1), svm.SVC(), svm.SVR(), svm.LinearSVC(),
        ensemble.HistGradientBoostingRegressor(max_iter=1), svm.LinearSVR(), naive_bayes.GaussianNB(),
        naive_bayes.MultinomialNB(), naive_bayes.ComplementNB(), naive_bayes.BernoulliNB(),
        neighbors.KNeighborsClassifier(), neighbors.KNeighborsRegressor(), LinearDiscriminantAnalysis(),
        MLPClassifier(hidden_layer_sizes=(2,), max_iter=1), DummyClassifier(), DummyRegressor(),
        MLPRegressor(hidden_layer_sizes=(2,), max_iter=1),
    ]  # fmt: skip


def _fit(model, table) -> None:
    features, labels = _columns(table)
    model.fit(features, labels)
    model.predict(features)
    if hasattr(model, "predict_proba"):
        model.predict_proba(features)


def _texts_and_graphs() -> None:
    import numpy
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline, make_union

    texts, labels = ["some few words", "other words here"] * 6, [0, 1] * 6
    union = make_union(
        CountVectorizer(), HashingVectorizer(n_features=8), TfidfVectorizer(analyzer="char_wb")
    )
    union.fit_transform(texts)
    for model in (LogisticRegression(), MultinomialNB(), Ridge()):
        make_pipeline(TfidfVectorizer(sublinear_tf=True), model).fit(texts, labels).predict(texts)
    graph = csr_matrix(numpy.eye(4))
    hstack([graph @ graph, graph]).toarray()


def _combinations(table) -> None:
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.ensemble import (
        AdaBoostClassifier,
        AdaBoostRegressor,
        BaggingClassifier,
        BaggingRegressor,
        StackingClassifier,
        StackingRegressor,
        VotingClassifier,
        VotingRegressor,
    )
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import GridSearchCV, cross_val_score
    from sklearn.multioutput import MultiOutputRegressor
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    features, labels = _columns(table)
    kinds, values = [("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=1))], [
        ("a", Ridge()), ("b", DecisionTreeRegressor(max_depth=1)),
    ]  # fmt: skip
    few = {"n_estimators": 2}
    for model in (
        VotingClassifier(kinds, voting="soft"), StackingClassifier(kinds, cv=2), VotingRegressor(values),
        StackingRegressor(values, cv=2), BaggingClassifier(kinds[1][1], **few), BaggingRegressor(**few),
        AdaBoostClassifier(kinds[1][1], **few), AdaBoostRegressor(**few),
        CalibratedClassifierCV(kinds[0][1], cv=2), TransformedTargetRegressor(Ridge()),
        CalibratedClassifierCV(kinds[0][1], method="isotonic", cv=2),
        GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, cv=2),
    ):  # fmt: skip
        _fit(model, table)
    MultiOutputRegressor(Ridge()).fit(features, features).predict(features)
    cross_val_score(kinds[0][1], features, labels, cv=2)


def _numbers() -> None:
    import numpy
    from sklearn import metrics

    truth, guess = numpy.array([0, 1, 0, 1]), numpy.array([0.2, 0.7, 0.4, 0.6])
    for name in ("roc_auc_score", "log_loss", "mean_absolute_error", "mean_squared_error", "r2_score"):
        getattr(metrics, name)(truth, guess)
    for name in ("accuracy_score", "f1_score", "cohen_kappa_score", "confusion_matrix"):
        getattr(metrics, name)(truth, truth)
    numpy.corrcoef(guess, truth)
    numpy.linalg.svd(numpy.eye(3))
    numpy.linalg.lstsq(numpy.eye(3), numpy.ones(3), rcond=None)
