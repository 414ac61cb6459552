"""Vectors of texts by TF-IDF, distances between them, and points that lie far apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mlagent_lib.core.errors import MlagentError

_DIGITS = 9  # kept in what is ranked: ties are ties on every machine, in whatever order its BLAS adds
_KINDS = (  # words and pairs of words, and 3 to 5 letters within words
    {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
    {"analyzer": "char_wb", "ngram_range": (3, 5)},
)


def embed(texts: Sequence[str]) -> np.ndarray:
    """Return a vector for each text, shape (n, d), of length 1 (or 0 for a text without any word).

    Raises:
        MlagentError: There is no text.

    Example:
        >>> made = embed(["use more trees", "use more trees", "scale the columns"])
        >>> pairwise_distances(made)[0].round(3).tolist()[:2]
        [0.0, 0.0]
    """
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.preprocessing import normalize

    if not texts:
        raise MlagentError("there is no text to embed", cure="give at least one idea")
    parts = []
    for options in _KINDS:
        try:
            parts.append(TfidfVectorizer(sublinear_tf=True, **options).fit_transform(texts))
        except ValueError:  # no text has a word of this kind
            parts.append(csr_matrix((len(texts), 1)))
    return normalize(hstack(parts).toarray())


def project(vectors: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the first two principal components, shape (n, 2), and the fractions of variance they carry.

    The sign of an axis, which is free, is set so that the entry of largest size is positive.

    Example:
        >>> project(np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [9.0, 0.0]]))[0][:, 0].round(6).tolist()
        [-3.75, -1.75, 0.25, 5.25]
    """
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    found = (left * sizes)[:, :2]
    coords = np.pad(found, ((0, 0), (0, 2 - found.shape[1])))
    top = np.abs(coords).round(9).argmax(axis=0)
    coords[:, coords[top, [0, 1]] < 0] *= -1.0
    shares = [float(size) for size in sizes[:2] ** 2 / ((sizes**2).sum() or 1.0)] + [0.0]
    return coords, (shares[0], shares[1])


def pairwise_distances(vectors: np.ndarray, *, metric: str = "cosine") -> np.ndarray:
    """Return all distances between rows of shape (n, d): shape (n, n), symmetric, zero on the diagonal.

    The cosine distance, 1 - cos, runs from 0 (same direction) to 2 (opposite); a row of zeros is at distance
    1 from every other row. The other metric is ``"euclidean"``.

    Example:
        >>> pairwise_distances(np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))[0].tolist()
        [0.0, 1.0, 2.0]
    """
    from sklearn.metrics import pairwise_distances as distances_of

    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors must be a finite array of shape (n, d), not of shape {vectors.shape}")
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric {metric!r} is unknown: choose cosine or euclidean")
    return distances_of(vectors, metric=metric).round(12)  # equal rows are at 0, also where a BLAS rounds


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k ({k}) must be between 1 and the number of ideas ({n})")


def select_farthest_average(vectors: np.ndarray, k: int = 10, *, metric: str = "cosine") -> tuple[int, ...]:
    """Return the ``k`` points with the farthest average distance to all others (version 1, section 4.1).

    Nothing keeps two of them apart from each other: two outliers side by side are both taken.

    Returns:
        Indices, the farthest first; ties go to the lower index.

    Raises:
        ValueError: ``k`` is not in 1..n.

    Example:
        On a line, the averages of 0, 1, 9 and 10 are 20/3, 6, 6 and 20/3:

        >>> select_farthest_average(np.array([[0.0], [1.0], [9.0], [10.0]]), k=2, metric="euclidean")
        (0, 3)
        >>> select_farthest_average(np.array([[0.0], [1.0], [30.0], [31.0], [0.5]]), k=2, metric="euclidean")
        (3, 2)
    """
    distances = pairwise_distances(vectors, metric=metric)
    _check_k(k, len(distances))
    average = np.round(distances.sum(axis=1) / max(len(distances) - 1, 1), _DIGITS)
    return tuple(int(i) for i in np.argsort(-average, kind="stable")[:k])


def select_farthest_point(
    vectors: np.ndarray,
    k: int,
    *,
    first: int | None = None,
    rng: np.random.Generator | None = None,
    metric: str = "cosine",
) -> tuple[int, ...]:
    """Return ``k`` points by farthest-point sampling (version 2, Algorithm 1, there for each axis).

    Each next point is the one whose nearest chosen point is farthest away. Where the index of the ``first``
    one is not given, ``rng`` draws it.

    Returns:
        Indices in the order of choice; ties go to the lower index.

    Raises:
        ValueError: ``k`` is not in 1..n, or neither ``first`` nor ``rng`` is given.

    Example:
        From 0, the farthest of 0, 1, 9 and 10 is 10; then 1 and 9 are both 1 away from a chosen point:

        >>> select_farthest_point(np.array([[0.0], [1.0], [9.0], [10.0]]), 3, first=0, metric="euclidean")
        (0, 3, 1)
    """
    distances = np.round(pairwise_distances(vectors, metric=metric), _DIGITS)
    _check_k(k, len(distances))
    if first is None and rng is None:
        raise ValueError("the first point is open: give first or rng")
    chosen = [int(rng.integers(len(distances))) if first is None else int(first)]
    nearest = distances[chosen[0]].copy()
    while len(chosen) < k:
        nearest[chosen] = -1.0
        chosen.append(int(np.argmax(nearest)))
        nearest = np.minimum(nearest, distances[chosen[-1]])
    return tuple(chosen)
