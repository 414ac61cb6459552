"""The edits that the pocket suite knows: what can be asked for, and the code that does it.

Each pocket ``train.py`` has three blocks, one for each axis of the paper's version 2 (section B.1):
``# data``, ``# model`` and ``# learning``. An `Edit` names one axis, tells in a sentence what to do, and
holds the lines that do it. The catalogue serves three readers: the ideas of an expert, the rule-based
coder, and the text from which the pocket model is pretrained.

It does not know which edits are good: some help, some hurt, some fail (a classifier without probabilities
where probabilities are asked for, dense-only models on sparse text), as in real life.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import product

AXES = ("data", "model", "learning")


@dataclass(frozen=True)
class Edit:
    """One way to change one block of a pocket script.

    Attributes:
        key: Unique name, ``axis/family/parameters``.
        axis: ``data``, ``model`` or ``learning``: the block that is rewritten.
        instruction: The edit instruction in its first wording.
        block: The new lines of the block, without the header and without a final newline.
        wordings: All wordings of the instruction; the first is ``instruction``.
    """

    key: str
    axis: str
    instruction: str
    block: str
    wordings: tuple[str, ...]


@dataclass(frozen=True)
class Family:
    """Edits that differ in their parameters only; ``{Kind}`` stands for Classifier or Regressor."""

    axis: str
    name: str
    wordings: tuple[str, ...]
    block: str
    grid: dict


def _family(axis: str, name: str, wordings: str | tuple[str, ...], block: str, **grid) -> Family:
    return Family(axis, name, (wordings,) if isinstance(wordings, str) else wordings, block, grid)


_SCALERS = {
    "standard": ("standardise", "StandardScaler"),
    "minmax": ("scale to the range 0 to 1", "MinMaxScaler"),
    "rank": ("replace by normal quantiles", "QuantileTransformer"),
}

_TABULAR_DATA = (
    _family(
        "data",
        "impute",
        (
            "Impute missing numbers with the {how} and leave the categories out.",
            "Only impute the numbers by their {how}; drop the word columns.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        'prepare = make_column_transformer((SimpleImputer(strategy="{how}"), numbers))',
        how=("mean", "median"),
    ),
    _family(
        "data",
        "scale",
        (
            "Impute the numbers and {verb} them; leave the categories out.",
            "After imputation {verb} the numeric columns, without categories.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import {scaler}\n"
        "prepare = make_column_transformer((make_pipeline(SimpleImputer(), {scaler}({args})), numbers))",
        scaling=("standard", "minmax", "rank"),
    ),
    _family(
        "data",
        "onehot",
        (
            "Impute the numbers with the {how} and one-hot encode the categories.",
            "One-hot encode the word columns and fill missing numbers with the {how}.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import OneHotEncoder\n"
        'prepare = make_column_transformer((SimpleImputer(strategy="{how}"), numbers), '
        '(OneHotEncoder(handle_unknown="ignore", sparse_output=False), words))',
        how=("mean", "median"),
    ),
    _family(
        "data",
        "scale-onehot",
        (
            "Impute the numbers, {verb} them, and one-hot encode the categories.",
            "One-hot encode the word columns, and {verb} the imputed numbers.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import OneHotEncoder, {scaler}\n"
        "prepare = make_column_transformer((make_pipeline(SimpleImputer(), {scaler}({args})), numbers), "
        '(OneHotEncoder(handle_unknown="ignore", sparse_output=False), words))',
        scaling=("standard", "minmax", "rank"),
    ),
    _family(
        "data",
        "power",
        (
            "Apply a Yeo-Johnson power transform to the numbers and one-hot encode the categories.",
            "Make the numeric columns more normal with PowerTransformer, one-hot encode the rest.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import OneHotEncoder, PowerTransformer\n"
        "prepare = make_column_transformer((make_pipeline(SimpleImputer(), PowerTransformer()), numbers), "
        '(OneHotEncoder(handle_unknown="ignore", sparse_output=False), words))',
    ),
    _family(
        "data",
        "polynomial",
        (
            "Add polynomial features of degree {degree} to the standardised numbers and one-hot "
            "encode the categories.",
            "Expand the standardised numbers with products up to degree {degree}; one-hot "
            "encode the word columns.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import OneHotEncoder, PolynomialFeatures, StandardScaler\n"
        "prepare = make_column_transformer((make_pipeline(SimpleImputer(), StandardScaler(), "
        "PolynomialFeatures({degree})), numbers), "
        '(OneHotEncoder(handle_unknown="ignore", sparse_output=False), words))',
        degree=(2, 3),
    ),
    _family(
        "data",
        "spline",
        (
            "Expand each number into splines with {knots} knots and one-hot encode the categories.",
            "Use SplineTransformer with {knots} knots on the imputed numbers, one-hot on the rest.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import OneHotEncoder, SplineTransformer\n"
        "prepare = make_column_transformer((make_pipeline(SimpleImputer(), "
        "SplineTransformer(n_knots={knots})), "
        'numbers), (OneHotEncoder(handle_unknown="ignore", sparse_output=False), words))',
        knots=(3, 5, 8),
    ),
    _family(
        "data",
        "bins",
        (
            "Cut each number into {bins} bins and one-hot encode the categories.",
            "Discretise the numeric columns into {bins} quantile bins; one-hot encode the rest.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import KBinsDiscretizer, OneHotEncoder\n"
        "prepare = make_column_transformer((make_pipeline(SimpleImputer(), "
        'KBinsDiscretizer({bins}, encode="onehot-dense")), numbers), '
        '(OneHotEncoder(handle_unknown="ignore", sparse_output=False), words))',
        bins=(3, 5, 10),
    ),
    _family(
        "data",
        "ordinal",
        (
            "Impute the numbers and encode the categories as integers.",
            "Use ordinal codes for the word columns and impute the numbers.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import OrdinalEncoder\n"
        "prepare = make_column_transformer((SimpleImputer(), numbers), "
        '(OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), words))',
    ),
    _family(
        "data",
        "missing-flags",
        (
            "Impute the numbers, add a flag for each missing value, and one-hot encode the categories.",
            "Mark missing numbers with indicator columns and one-hot encode the word columns.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import OneHotEncoder\n"
        "prepare = make_column_transformer((SimpleImputer(add_indicator=True), numbers), "
        '(OneHotEncoder(handle_unknown="ignore", sparse_output=False), words))',
    ),
    _family(
        "data",
        "first-columns",
        (
            "Keep the first {count} numeric columns only.",
            "Throw away all columns but the first {count} numeric ones.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.impute import SimpleImputer\n"
        "prepare = make_column_transformer((SimpleImputer(), numbers[:{count}]))",
        count=(1, 2, 3),
    ),
    _family(
        "data",
        "pca",
        (
            "Standardise the numbers and reduce them to {count} principal components.",
            "Compress the standardised numeric columns with PCA to {count} components.",
        ),
        "from sklearn.compose import make_column_transformer\n"
        "from sklearn.decomposition import PCA\n"
        "from sklearn.impute import SimpleImputer\n"
        "from sklearn.preprocessing import StandardScaler\n"
        "prepare = make_column_transformer((make_pipeline(SimpleImputer(), StandardScaler(), "
        "PCA({count}, random_state=0)), numbers))",
        count=(2, 4),
    ),
)

_TEXT_DATA = (
    _family(
        "data",
        "words",
        ("Count the {count} most frequent words.", "Represent the texts by counts of the top {count} words."),
        "from sklearn.feature_extraction.text import CountVectorizer\n"
        "prepare = CountVectorizer(max_features={count})",
        count=(20, 50, 200, 1000),
    ),
    _family(
        "data",
        "tfidf-words",
        ("Use TF-IDF over the {count} most frequent words.", "Weight the top {count} words by TF-IDF."),
        "from sklearn.feature_extraction.text import TfidfVectorizer\n"
        "prepare = TfidfVectorizer(max_features={count}, sublinear_tf=True)",
        count=(50, 200, 1000, 3000),
    ),
    _family(
        "data",
        "tfidf-phrases",
        (
            "Use TF-IDF over words and phrases of up to {size} words.",
            "Take word n-grams from 1 to {size} with TF-IDF weights.",
        ),
        "from sklearn.feature_extraction.text import TfidfVectorizer\n"
        "prepare = TfidfVectorizer(ngram_range=(1, {size}), max_features=3000, sublinear_tf=True)",
        size=(2, 3),
    ),
    _family(
        "data",
        "tfidf-chars",
        (
            "Use TF-IDF over character n-grams of {low} to {high} letters.",
            "Take character n-grams inside words, {low} to {high} long, with TF-IDF weights.",
        ),
        "from sklearn.feature_extraction.text import TfidfVectorizer\n"
        'prepare = TfidfVectorizer(analyzer="char_wb", ngram_range=({low}, {high}), max_features=3000, '
        "sublinear_tf=True)",
        low=(1, 2, 3),
        high=(3, 4, 5),
    ),
    _family(
        "data",
        "words-and-chars",
        (
            "Join TF-IDF of words with TF-IDF of character n-grams of 2 to {high} letters.",
            "Use both words and character n-grams of 2 to {high} letters, with TF-IDF.",
        ),
        "from sklearn.feature_extraction.text import TfidfVectorizer\n"
        "from sklearn.pipeline import make_union\n"
        "prepare = make_union(TfidfVectorizer(max_features=2000, sublinear_tf=True), "
        'TfidfVectorizer(analyzer="char_wb", ngram_range=(2, {high}), max_features=3000, sublinear_tf=True))',
        high=(3, 4),
    ),
    _family(
        "data",
        "lsa",
        (
            "Reduce TF-IDF of words to {count} latent dimensions.",
            "Apply latent semantic analysis with {count} components to the TF-IDF matrix.",
        ),
        "from sklearn.decomposition import TruncatedSVD\n"
        "from sklearn.feature_extraction.text import TfidfVectorizer\n"
        "prepare = make_pipeline(TfidfVectorizer(max_features=2000, sublinear_tf=True), "
        "TruncatedSVD({count}, random_state=0))",
        count=(5, 20, 50),
    ),
    _family(
        "data",
        "stop-words",
        ("Use TF-IDF over words without English stop words.", "Remove the stop words before TF-IDF."),
        "from sklearn.feature_extraction.text import TfidfVectorizer\n"
        'prepare = TfidfVectorizer(stop_words="english", max_features=2000, sublinear_tf=True)',
    ),
    _family(
        "data",
        "binary-words",
        (
            "Mark only whether each of the {count} most frequent words is present.",
            "Use binary presence of the top {count} words.",
        ),
        "from sklearn.feature_extraction.text import CountVectorizer\n"
        "prepare = CountVectorizer(max_features={count}, binary=True)",
        count=(200, 1000),
    ),
    _family(
        "data",
        "length",
        ("Use nothing but the length of the text.", "Replace each text by its number of characters."),
        "from sklearn.preprocessing import FunctionTransformer\n"
        "prepare = FunctionTransformer(lambda texts: np.array([[len(text)] for text in texts], dtype=float))",
    ),
    _family(
        "data",
        "hashed",
        ("Hash the words into {count} buckets.", "Use the hashing trick on words with {count} buckets."),
        "from sklearn.feature_extraction.text import HashingVectorizer\n"
        "prepare = HashingVectorizer(n_features={count}, alternate_sign=False)",
        count=(16, 256),
    ),
)

_FT = "from sklearn.preprocessing import FunctionTransformer\n"
_IMAGE_DATA = (
    _family(
        "data",
        "pixels",
        ("Use the raw pixels.", "Feed the pixels as they are."),
        _FT + "prepare = FunctionTransformer()",
    ),
    _family(
        "data",
        "scale",
        ("Take the pixels and {verb} them.", "Before the model, {verb} every pixel."),
        "from sklearn.preprocessing import {scaler}\nprepare = {scaler}({args})",
        scaling=("standard", "minmax", "rank"),
    ),
    _family(
        "data",
        "per-image",
        ("Normalise each image to mean 0 and deviation 1.", "Remove brightness and contrast of each image."),
        _FT + "prepare = FunctionTransformer(lambda X: (X - X.mean(1, keepdims=True)) / "
        "(X.std(1, keepdims=True) + 1e-6))",
    ),
    _family(
        "data",
        "pca",
        (
            "Reduce the pixels to {count} principal components.",
            "Compress the images with PCA to {count} components.",
        ),
        "from sklearn.decomposition import PCA\nprepare = PCA({count}, random_state=0)",
        count=(2, 5, 10, 20),
    ),
    _family(
        "data",
        "whitened-pca",
        (
            "Reduce the pixels to {count} whitened principal components.",
            "Use PCA with {count} components and whitening.",
        ),
        "from sklearn.decomposition import PCA\nprepare = PCA({count}, whiten=True, random_state=0)",
        count=(5, 10, 20),
    ),
    _family(
        "data",
        "blur",
        (
            "Blur the images with a Gaussian of width {width}.",
            "Smooth the pixels with a Gaussian filter, sigma {width}.",
        ),
        "from scipy.ndimage import gaussian_filter\n"
        + _FT
        + "prepare = FunctionTransformer(lambda X: gaussian_filter(X.reshape(-1, side, side), "
        "(0, {width}, {width})).reshape(len(X), -1))",
        width=(0.5, 1.0, 2.0),
    ),
    _family(
        "data",
        "median",
        ("Remove specks with a 3 by 3 median filter.", "Apply a median filter of size 3 to each image."),
        "from scipy.ndimage import median_filter\n"
        + _FT
        + "prepare = FunctionTransformer(lambda X: median_filter(X.reshape(-1, side, side), "
        "(1, 3, 3)).reshape(len(X), -1))",
    ),
    _family(
        "data",
        "edges",
        (
            "Use the strength of the edges instead of the pixels.",
            "Replace the images by their Sobel gradients.",
        ),
        "from scipy.ndimage import sobel\n"
        + _FT
        + "prepare = FunctionTransformer(lambda X: np.hypot(sobel(X.reshape(-1, side, side), 1), "
        "sobel(X.reshape(-1, side, side), 2)).reshape(len(X), -1))",
    ),
    _family(
        "data",
        "pixels-and-edges",
        ("Use the pixels together with the strength of the edges.", "Append Sobel gradients to the pixels."),
        "from scipy.ndimage import sobel\n" + _FT + "prepare = FunctionTransformer(lambda X: np.hstack([X, "
        "np.hypot(sobel(X.reshape(-1, side, side), 1), "
        "sobel(X.reshape(-1, side, side), 2)).reshape(len(X), -1)]))",
    ),
    _family(
        "data",
        "threshold",
        (
            "Turn the images into black and white at their mean.",
            "Binarise each image at its average brightness.",
        ),
        _FT + "prepare = FunctionTransformer(lambda X: (X > X.mean(1, keepdims=True)).astype(float))",
    ),
    _family(
        "data",
        "pool",
        ("Shrink the images by averaging 2 by 2 pixels.", "Downsample the images by a factor of 2."),
        _FT + "prepare = FunctionTransformer(lambda X: X.reshape(-1, side // 2, 2, side // 2, 2)"
        ".mean((2, 4)).reshape(len(X), -1))",
    ),
    _family(
        "data",
        "projections",
        ("Sum the pixels of each row and each column.", "Use the row and column profiles of the images."),
        _FT + "prepare = FunctionTransformer(lambda X: np.hstack([X.reshape(-1, side, side).sum(1), "
        "X.reshape(-1, side, side).sum(2)]))",
    ),
    _family(
        "data",
        "fourier",
        (
            "Use the magnitudes of the Fourier transform.",
            "Replace the images by their power in each spatial frequency.",
        ),
        _FT + "prepare = FunctionTransformer(lambda X: np.abs(np.fft.fft2(X.reshape(-1, side, side)))"
        ".reshape(len(X), -1))",
    ),
    _family(
        "data",
        "sorted",
        (
            "Sort the pixels of each image by brightness.",
            "Use only the brightness distribution of each image.",
        ),
        _FT + "prepare = FunctionTransformer(lambda X: np.sort(X, axis=1))",
    ),
    _family(
        "data",
        "brightness",
        ("Use nothing but the mean brightness.", "Replace each image by its average pixel."),
        _FT + "prepare = FunctionTransformer(lambda X: X.mean(1, keepdims=True))",
    ),
    _family(
        "data",
        "poly",
        ("Add the squares of the pixels.", "Append squared pixels to the pixels."),
        _FT + "prepare = FunctionTransformer(lambda X: np.hstack([X, X**2]))",
    ),
    _family(
        "data",
        "center-crop",
        ("Keep the middle of the images only.", "Crop the images to their central half."),
        _FT + "prepare = FunctionTransformer(lambda X: X.reshape(-1, side, side)"
        "[:, side // 4 : -(side // 4), side // 4 : -(side // 4)].reshape(len(X), -1))",
    ),
)

_GRAPH_DATA = (
    _family(
        "data",
        "own",
        ("Use the node's own features.", "Take the raw features of each node."),
        _FT + "prepare = FunctionTransformer(lambda rows: F[rows.ravel()])",
    ),
    _family(
        "data",
        "hops",
        (
            "Average the features over {hops} hops of neighbours.",
            "Propagate the features {hops} times over the graph.",
        ),
        _FT + "def spread(H, hops):\n"
        "    for _ in range(hops):\n"
        "        H = A @ H\n"
        "    return H\n"
        "prepare = FunctionTransformer(lambda rows: spread(F, {hops})[rows.ravel()])",
        hops=(1, 2, 3, 4, 6),
    ),
    _family(
        "data",
        "own-and-hops",
        (
            "Join own features with the average over {hops} hops.",
            "Concatenate raw features and features propagated {hops} times.",
        ),
        _FT + "def spread(H, hops):\n"
        "    for _ in range(hops):\n"
        "        H = A @ H\n"
        "    return H\n"
        "prepare = FunctionTransformer(lambda rows: np.hstack([F, spread(F, {hops})])[rows.ravel()])",
        hops=(1, 2, 3),
    ),
    _family(
        "data",
        "scaled-hops",
        (
            "Average over {hops} hops and standardise.",
            "Propagate the features {hops} times, then scale them to unit variance.",
        ),
        "from sklearn.preprocessing import FunctionTransformer, StandardScaler\n"
        "def spread(H, hops):\n"
        "    for _ in range(hops):\n"
        "        H = A @ H\n"
        "    return H\n"
        "prepare = make_pipeline(FunctionTransformer(lambda rows: spread(F, {hops})[rows.ravel()]), "
        "StandardScaler())",
        hops=(1, 2, 3),
    ),
    _family(
        "data",
        "spectral",
        (
            "Use {count} spectral coordinates of the graph.",
            "Embed the graph by a truncated SVD with {count} components.",
        ),
        "from sklearn.decomposition import TruncatedSVD\n"
        + _FT
        + "Z = TruncatedSVD({count}, random_state=0).fit_transform(A)\n"
        "prepare = FunctionTransformer(lambda rows: Z[rows.ravel()])",
        count=(4, 8, 16, 32),
    ),
    _family(
        "data",
        "features-and-spectral",
        (
            "Join the averaged features with {count} spectral coordinates.",
            "Concatenate one hop of features and {count} graph coordinates.",
        ),
        "from sklearn.decomposition import TruncatedSVD\n"
        + _FT
        + "Z = np.hstack([A @ F, TruncatedSVD({count}, random_state=0).fit_transform(A)])\n"
        "prepare = FunctionTransformer(lambda rows: Z[rows.ravel()])",
        count=(8, 16),
    ),
    _family(
        "data",
        "degree",
        ("Use nothing but the number of neighbours.", "Replace the features by the degree of each node."),
        _FT + "prepare = FunctionTransformer(lambda rows: np.asarray((A > 0).sum(1)).reshape(-1, 1)"
        "[rows.ravel()])",
    ),
    _family(
        "data",
        "few-features",
        (
            "Keep the first {count} features of each node.",
            "Throw away all node features but the first {count}.",
        ),
        _FT + "prepare = FunctionTransformer(lambda rows: F[rows.ravel()][:, :{count}])",
        count=(2, 5),
    ),
)

_CLASSIFIERS = (
    _family(
        "model",
        "logistic",
        ("Use logistic regression with C={C}.", "Switch to LogisticRegression and set C to {C}."),
        "from sklearn.linear_model import LogisticRegression\n"
        "model = LogisticRegression(C={C}, max_iter=300)",
        C=(0.001, 0.01, 0.1, 1, 10, 100),
    ),
    _family(
        "model",
        "svm",
        (
            "Use a support vector machine with an RBF kernel and C={C}.",
            "Switch to SVC with an RBF kernel, C={C}.",
        ),
        "from sklearn.svm import SVC\nmodel = SVC(C={C}, random_state=0)",
        C=(0.1, 1, 10),
    ),
    _family(
        "model",
        "linear-svm",
        ("Use a linear support vector machine with C={C}.", "Switch to LinearSVC, C={C}."),
        "from sklearn.svm import LinearSVC\nmodel = LinearSVC(C={C}, random_state=0)",
        C=(0.1, 1),
    ),
    _family(
        "model",
        "gaussian-nb",
        ("Use Gaussian naive Bayes.", "Switch to GaussianNB."),
        "from sklearn.naive_bayes import GaussianNB\nmodel = GaussianNB()",
    ),
    _family(
        "model",
        "lda",
        (
            "Use linear discriminant analysis with shrinkage.",
            "Switch to LinearDiscriminantAnalysis with automatic shrinkage.",
        ),
        "from sklearn.discriminant_analysis import LinearDiscriminantAnalysis\n"
        'model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")',
    ),
    _family(
        "model",
        "kernel-logistic",
        (
            "Use logistic regression on {count} kernel features.",
            "Approximate an RBF kernel by {count} Nystroem features and fit a logistic regression.",
        ),
        "from sklearn.kernel_approximation import Nystroem\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "model = make_pipeline(Nystroem(n_components={count}, random_state=0), "
        "LogisticRegression(C=10, max_iter=300))",
        count=(30, 100),
    ),
)

_TEXT_CLASSIFIERS = (
    _family(
        "model",
        "multinomial-nb",
        ("Use multinomial naive Bayes with smoothing {alpha}.", "Switch to MultinomialNB, alpha={alpha}."),
        "from sklearn.naive_bayes import MultinomialNB\nmodel = MultinomialNB(alpha={alpha})",
        alpha=(0.01, 0.1, 1.0),
    ),
    _family(
        "model",
        "complement-nb",
        ("Use complement naive Bayes.", "Switch to ComplementNB."),
        "from sklearn.naive_bayes import ComplementNB\nmodel = ComplementNB(alpha=0.3)",
    ),
)

_REGRESSORS = (
    _family(
        "model",
        "ridge",
        ("Use ridge regression with alpha={alpha}.", "Switch to Ridge and set alpha to {alpha}."),
        "from sklearn.linear_model import Ridge\nmodel = Ridge(alpha={alpha})",
        alpha=(0.01, 0.1, 1, 10, 100, 1000),
    ),
    _family(
        "model",
        "lasso",
        ("Use the lasso with alpha={alpha}.", "Switch to Lasso and set alpha to {alpha}."),
        "from sklearn.linear_model import Lasso\nmodel = Lasso(alpha={alpha}, random_state=0)",
        alpha=(0.001, 0.01, 0.1, 1),
    ),
    _family(
        "model",
        "svr",
        (
            "Use support vector regression with an RBF kernel and C={C}.",
            "Switch to SVR with an RBF kernel, C={C}.",
        ),
        "from sklearn.svm import SVR\nmodel = SVR(C={C})",
        C=(0.1, 1, 10),
    ),
    _family(
        "model",
        "huber",
        ("Use a Huber regression that ignores outliers.", "Switch to HuberRegressor."),
        "from sklearn.linear_model import HuberRegressor\nmodel = HuberRegressor(max_iter=300)",
    ),
    _family(
        "model",
        "kernel-ridge",
        (
            "Use ridge regression on {count} kernel features.",
            "Approximate an RBF kernel by {count} Nystroem features and fit a ridge.",
        ),
        "from sklearn.kernel_approximation import Nystroem\n"
        "from sklearn.linear_model import Ridge\n"
        "model = make_pipeline(Nystroem(n_components={count}, random_state=0), Ridge(alpha=0.1))",
        count=(30, 100),
    ),
)

_BOTH_MODELS = (
    _family(
        "model",
        "forest",
        (
            "Use a random forest with {trees} trees and leaves of at least {leaf} rows.",
            "Switch to RandomForest{Kind} with {trees} trees, min_samples_leaf={leaf}.",
        ),
        "from sklearn.ensemble import RandomForest{Kind}\n"
        "model = RandomForest{Kind}(n_estimators={trees}, min_samples_leaf={leaf}, random_state=0)",
        trees=(30, 100),
        leaf=(1, 5, 20),
    ),
    _family(
        "model",
        "extra-trees",
        (
            "Use extra trees, {trees} of them, with leaves of at least {leaf} rows.",
            "Switch to ExtraTrees{Kind} with {trees} trees, min_samples_leaf={leaf}.",
        ),
        "from sklearn.ensemble import ExtraTrees{Kind}\n"
        "model = ExtraTrees{Kind}(n_estimators={trees}, min_samples_leaf={leaf}, random_state=0)",
        trees=(30, 100),
        leaf=(1, 5),
    ),
    _family(
        "model",
        "boosting",
        (
            "Use histogram gradient boosting with {rounds} rounds at rate {rate}.",
            "Switch to HistGradientBoosting{Kind}, max_iter={rounds}, learning rate {rate}.",
        ),
        "from sklearn.ensemble import HistGradientBoosting{Kind}\n"
        "model = HistGradientBoosting{Kind}(max_iter={rounds}, learning_rate={rate}, random_state=0)",
        rounds=(20, 60),
        rate=(0.05, 0.2),
    ),
    _family(
        "model",
        "knn",
        ("Use {k} nearest neighbours.", "Switch to KNeighbors{Kind} with k={k}."),
        "from sklearn.neighbors import KNeighbors{Kind}\nmodel = KNeighbors{Kind}(n_neighbors={k})",
        k=(1, 3, 7, 15, 30, 50),
    ),
    _family(
        "model",
        "weighted-knn",
        (
            "Use {k} nearest neighbours weighted by distance.",
            "Switch to KNeighbors{Kind} with k={k} and distance weights.",
        ),
        "from sklearn.neighbors import KNeighbors{Kind}\n"
        'model = KNeighbors{Kind}(n_neighbors={k}, weights="distance")',
        k=(3, 7, 15, 30),
    ),
    _family(
        "model",
        "tree",
        (
            "Use a single decision tree of depth {depth}.",
            "Switch to DecisionTree{Kind} with max_depth={depth}.",
        ),
        "from sklearn.tree import DecisionTree{Kind}\n"
        "model = DecisionTree{Kind}(max_depth={depth}, random_state=0)",
        depth=(1, 2, 3, 6, 9, 12),
    ),
    # As regressors these end in an error since scikit-learn 1.7, where the loss became the first argument: a
    # trap of the kind that outdated advice sets. The pocket model was trained on this text, so mending it
    # here means pretraining anew.
    _family(
        "model",
        "mlp",
        (
            "Use a neural network with {units} hidden units.",
            "Switch to MLP{Kind} with one hidden layer of {units} units.",
        ),
        "from sklearn.neural_network import MLP{Kind}\n"
        "model = MLP{Kind}(({units},), max_iter=60, random_state=0)",
        units=(16, 32, 64, 128),
    ),
    _family(
        "model",
        "deep-mlp",
        (
            "Use a neural network with two hidden layers of {units} units.",
            "Switch to MLP{Kind} with two layers of {units} units.",
        ),
        "from sklearn.neural_network import MLP{Kind}\n"
        "model = MLP{Kind}(({units}, {units}), max_iter=60, random_state=0)",
        units=(16, 64),
    ),
    _family(
        "model",
        "dummy",
        ("Ignore the features and predict what is most common.", "Switch to Dummy{Kind}."),
        "from sklearn.dummy import Dummy{Kind}\nmodel = Dummy{Kind}()",
    ),
)

_BOTH_LEARNING = (
    _family(
        "learning",
        "plain",
        ("Fit one model on all rows.", "Fit the plain pipeline once."),
        "learner = make_pipeline(prepare, model)",
    ),
    _family(
        "learning",
        "bagging",
        (
            "Average {count} models, each fitted on {share} of the rows.",
            "Bag {count} copies of the model with max_samples={share}.",
        ),
        "from sklearn.ensemble import Bagging{Kind}\n"
        "learner = make_pipeline(prepare, Bagging{Kind}(model, n_estimators={count}, max_samples={share}, "
        "random_state=0))",
        count=(5, 10),
        share=(0.3, 0.6, 0.9),
    ),
    _family(
        "learning",
        "few-rows",
        ("Fit on {share} of the rows only.", "Save time by learning from a {share} sample of the rows."),
        "from sklearn.ensemble import Bagging{Kind}\n"
        "learner = make_pipeline(prepare, Bagging{Kind}(model, n_estimators=1, max_samples={share}, "
        "bootstrap=False, random_state=0))",
        share=(0.05, 0.1, 0.2, 0.5),
    ),
    _family(
        "learning",
        "subspace",
        (
            "Average {count} models, each on {share} of the features.",
            "Bag {count} copies of the model with max_features={share}.",
        ),
        "from sklearn.ensemble import Bagging{Kind}\n"
        "learner = make_pipeline(prepare, Bagging{Kind}(model, n_estimators={count}, max_features={share}, "
        "bootstrap=False, random_state=0))",
        count=(5, 10),
        share=(0.3, 0.6),
    ),
    _family(
        "learning",
        "select",
        (
            "Keep the {count} most informative features before the model.",
            "Select {count} features with SelectKBest.",
        ),
        "from sklearn.feature_selection import SelectKBest, f_{test}\n"
        "learner = make_pipeline(prepare, SelectKBest(f_{test}, k={count}), model)",
        count=(2, 5, 10, 30),
    ),
    _family(
        "learning",
        "variance",
        (
            "Divide every feature by its deviation before the model.",
            "Scale all features to unit variance just before fitting.",
        ),
        "from sklearn.preprocessing import StandardScaler\n"
        "learner = make_pipeline(prepare, StandardScaler(with_mean=False), model)",
    ),
    _family(
        "learning",
        "row-norm",
        ("Scale every row to length 1 before the model.", "Normalise each row just before fitting."),
        "from sklearn.preprocessing import Normalizer\nlearner = make_pipeline(prepare, Normalizer(), model)",
    ),
    _family(
        "learning",
        "vote",
        (
            "Average the model with a random forest of {trees} trees.",
            "Vote between the model and a forest of {trees} trees.",
        ),
        "from sklearn.ensemble import RandomForest{Kind}, Voting{Kind}\n"
        'learner = make_pipeline(prepare, Voting{Kind}([("model", model), '
        '("forest", RandomForest{Kind}(n_estimators={trees}, random_state=0))]{soft}))',
        trees=(30, 60),
    ),
)

_CLASS_LEARNING = (
    _family(
        "learning",
        "calibrate",
        (
            "Calibrate the probabilities with the {method} method.",
            "Wrap the pipeline in CalibratedClassifierCV, method {method}.",
        ),
        "from sklearn.calibration import CalibratedClassifierCV\n"
        'learner = CalibratedClassifierCV(make_pipeline(prepare, model), method="{method}", cv=3)',
        method=("sigmoid", "isotonic"),
    ),
    _family(
        "learning",
        "one-vs-rest",
        ("Fit one model for each class.", "Wrap the model in OneVsRestClassifier."),
        "from sklearn.multiclass import OneVsRestClassifier\n"
        "learner = make_pipeline(prepare, OneVsRestClassifier(model))",
    ),
    _family(
        "learning",
        "adaboost",
        (
            "Boost the model {rounds} times with AdaBoost.",
            "Wrap the model in AdaBoostClassifier with {rounds} rounds.",
        ),
        "from sklearn.ensemble import AdaBoostClassifier\n"
        "learner = make_pipeline(prepare, AdaBoostClassifier(model, n_estimators={rounds}, random_state=0))",
        rounds=(5, 20),
    ),
)

_REGRESSION_LEARNING = (
    _family(
        "learning",
        "log-target",
        ("Learn the logarithm of the target.", "Fit on log1p of the target and undo it in the prediction."),
        "from sklearn.compose import TransformedTargetRegressor\n"
        "learner = TransformedTargetRegressor(make_pipeline(prepare, model), func=np.log1p, "
        "inverse_func=np.expm1)",
    ),
    _family(
        "learning",
        "root-target",
        (
            "Learn the square root of the target.",
            "Fit on the square root of the target and square the prediction.",
        ),
        "from sklearn.compose import TransformedTargetRegressor\n"
        "learner = TransformedTargetRegressor(make_pipeline(prepare, model), func=np.sqrt, "
        "inverse_func=np.square)",
    ),
    _family(
        "learning",
        "scaled-target",
        ("Standardise the target.", "Fit on a target with mean 0 and deviation 1."),
        "from sklearn.compose import TransformedTargetRegressor\n"
        "from sklearn.preprocessing import StandardScaler\n"
        "learner = TransformedTargetRegressor(make_pipeline(prepare, model), transformer=StandardScaler())",
    ),
    _family(
        "learning",
        "adaboost",
        (
            "Boost the model {rounds} times with AdaBoost.",
            "Wrap the model in AdaBoostRegressor with {rounds} rounds.",
        ),
        "from sklearn.ensemble import AdaBoostRegressor\n"
        "learner = make_pipeline(prepare, AdaBoostRegressor(model, n_estimators={rounds}, random_state=0))",
        rounds=(5, 20),
    ),
)

_DATA = {"tabular": _TABULAR_DATA, "text": _TEXT_DATA, "image": _IMAGE_DATA, "graph": _GRAPH_DATA}
MODALITIES = tuple(_DATA)
KINDS = ("label", "probability", "rank", "regression", "multioutput")


def is_classification(kind: str) -> bool:
    """Return whether a task of this kind is learned by classifiers.

    Example:
        >>> is_classification("rank"), is_classification("multioutput")
        (True, False)
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r} is unknown: choose one of {', '.join(KINDS)}")
    return kind in ("label", "probability", "rank")


def _fields(family: Family, values: dict, kind: str) -> dict:
    """Return what the braces of a family's texts stand for."""
    classify = is_classification(kind)
    fields = dict(
        values,
        Kind="Classifier" if classify else "Regressor",
        test="classif" if classify else "regression",
        soft=', voting="soft"' if classify and kind != "label" else "",
    )
    if "scaling" in values:
        verb, scaler = _SCALERS[values["scaling"]]
        args = 'n_quantiles=100, output_distribution="normal"' if values["scaling"] == "rank" else ""
        fields.update(verb=verb, scaler=scaler, args=args)
    return fields


def _expand(family: Family, kind: str) -> list[Edit]:
    found = []
    for combination in product(*family.grid.values()):
        values = dict(zip(family.grid, combination, strict=True))
        if "low" in values and values["low"] > values["high"]:
            continue
        fields = _fields(family, values, kind)
        wordings = tuple(text.format(**fields) for text in family.wordings)
        key = "/".join([family.axis, family.name, *map(str, combination)])
        found.append(Edit(key, family.axis, wordings[0], family.block.format(**fields), wordings))
    return found


@cache
def edits(modality: str, kind: str) -> tuple[Edit, ...]:
    """Return all edits for tasks of one modality and kind, in a fixed order.

    Args:
        modality: ``tabular``, ``text``, ``image`` or ``graph``; decides the data axis.
        kind: One of `KINDS`; decides between classifiers and regressors.

    Raises:
        ValueError: The modality or the kind is unknown.

    Example:
        >>> found = edits("tabular", "label")
        >>> len(found) >= 100, len({edit.key for edit in found}) == len(found)
        (True, True)
        >>> next(edit.instruction for edit in found if edit.key == "model/knn/7")
        'Use 7 nearest neighbours.'
    """
    if modality not in _DATA:
        raise ValueError(f"modality {modality!r} is unknown: choose one of {', '.join(MODALITIES)}")
    return tuple(edit for family in _families(modality, kind) for edit in _expand(family, kind))


def _families(modality: str, kind: str) -> tuple[Family, ...]:
    classify = is_classification(kind)
    models = (_CLASSIFIERS if classify else _REGRESSORS) + _BOTH_MODELS
    if classify and modality == "text":
        models = models + _TEXT_CLASSIFIERS
    return _DATA[modality] + models + _BOTH_LEARNING + (_CLASS_LEARNING if classify else _REGRESSION_LEARNING)


def wordings(edit: Edit) -> tuple[str, ...]:
    """Return all wordings of the edit's instruction; the first is the one in ``edit.instruction``."""
    return edit.wordings


def read_block(script: str, axis: str) -> str:
    r"""Return the lines of one block, without its header.

    Args:
        script: Text of a pocket ``train.py``.
        axis: ``data``, ``model`` or ``learning``.

    Raises:
        ValueError: The script has no such block.

    Example:
        >>> read_block("x = 1\n# model\nmodel = f()\n\nprint(1)\n", "model")
        'model = f()'
    """
    start, end = _bounds(script, axis)
    return script[start:end]


def replace_block(script: str, axis: str, block: str) -> str:
    r"""Return the script with the lines of one block replaced.

    Args:
        script: Text of a pocket ``train.py``.
        axis: ``data``, ``model`` or ``learning``.
        block: The new lines, without header.

    Raises:
        ValueError: The script has no such block.

    Example:
        >>> replace_block("# model\nmodel = f()\n\nprint(1)\n", "model", "model = g()")
        '# model\nmodel = g()\n\nprint(1)\n'
    """
    start, end = _bounds(script, axis)
    return script[:start] + block.strip("\n") + script[end:]


def _bounds(script: str, axis: str) -> tuple[int, int]:
    header = f"# {axis}\n"
    at = 0 if script.startswith(header) else script.find("\n" + header) + 1
    if not script.startswith(header, at):
        raise ValueError(f"the script has no block '# {axis}': the header line must stand alone on a line")
    start = at + len(header)
    end = script.find("\n\n", start)
    return start, len(script.rstrip("\n")) if end < 0 else end


_NUMBER = r"(\d+(?:\.\d+)?)"


@cache
def _patterns(modality: str, kind: str) -> tuple[tuple[re.Pattern, Family, tuple[str, ...], dict], ...]:
    """Return one pattern for each wording and each choice of words; numbers stay open."""
    edits(modality, kind)  # raises for unknown names
    found = []
    for family in _families(modality, kind):
        words = {name: values for name, values in family.grid.items() if not _is_numeric(values)}
        open_names = tuple(name for name in family.grid if name not in words)
        for combination in product(*words.values()):
            fixed = dict(zip(words, combination, strict=True))
            fields = _fields(family, fixed | {name: f"\0{name}\0" for name in open_names}, kind)
            for wording in family.wordings:
                parts = re.split("\0(\\w+)\0", wording.rstrip(".").format(**fields))
                order = parts[1::2]
                pattern = _NUMBER.join(re.escape(part.lower()) for part in parts[::2])
                found.append((re.compile(pattern), family, tuple(order), fixed))
    return tuple(found)


def _is_numeric(values: tuple) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _normalise(instruction: str) -> str:
    return " ".join(instruction.lower().split()).rstrip(".")


def interpret(instruction: str, modality: str, kind: str) -> tuple[str, str] | None:
    """Return the axis and the new lines of the block that an instruction asks for, or None.

    Any wording of the catalogue is understood, with any numbers: the grid decides what is *proposed*, not
    what is understood.

    Args:
        instruction: The edit instruction of an action.
        modality: Of the task whose script is edited.
        kind: Of the same task.

    Example:
        >>> interpret("use 9 nearest neighbours", "tabular", "regression")[1].split("\\n")[1]
        'model = KNeighborsRegressor(n_neighbors=9)'
        >>> interpret("make it good", "tabular", "regression") is None
        True
    """
    text = _normalise(instruction)
    for pattern, family, order, fixed in _patterns(modality, kind):
        match = pattern.fullmatch(text)
        if match:
            numbers = dict(zip(order, match.groups(), strict=True))
            return family.axis, family.block.format(**_fields(family, fixed | numbers, kind))
    return None
