"""Generated grey images, ten by ten: textures, leaves, radar targets, outlines, individuals.

Each function returns images on a scale of 0..100 in which the class shows, but not in one fixed pixel:
position, exposure and noise vary, as they do in photographs.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter

from mlagent_lib.tasks.pocket.sources import pixels, sample_of
from mlagent_lib.tasks.spec import Sample

SIDE = 10


def _grid(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the coordinates of all pixels, each of shape (1, SIDE, SIDE), centre at 0."""
    axis = np.arange(SIDE) - (SIDE - 1) / 2
    rows, columns = np.meshgrid(axis, axis, indexing="ij")
    return rows[None], columns[None]


def _column(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, dtype=float)[:, None, None]


def _dimmed(rng: np.random.Generator, images: np.ndarray, darkest: float, noise: float) -> np.ndarray:
    """Return images (around 0) at a random brightness and a gain from ``darkest`` to 1, with noise.

    A tenfold range of gains hides how strong a pattern is, but not how strong it is for its picture.
    """
    n = len(images)
    gain, light = np.exp(rng.uniform(np.log(darkest), 0, (n, 1, 1))), rng.uniform(30, 70, (n, 1, 1))
    return images * gain + light + rng.normal(0, noise, images.shape)


def _ground(rng: np.random.Generator, n: int, smooth: float, rough: tuple[float, float]) -> np.ndarray:
    """Return textures around 0: smooth ones of deviation ``smooth``, with more or less grain."""
    wide = gaussian_filter(rng.normal(0, 1, (n, SIDE, SIDE)), (0, 1.2, 1.2))
    return wide / wide.std() * smooth + rng.normal(0, 1, wide.shape) * rng.uniform(*rough, (n, 1, 1))


def cactus(rng: np.random.Generator, n: int = 2400) -> Sample:
    """Return aerial textures with a column of spines: strong ones of a cactus, weak ones of a stump."""
    label = rng.integers(0, 2, n)
    ground = _ground(rng, n, 30, (3, 6))
    body = np.exp(-((_grid(n)[1] / 4) ** 4))
    spines = rng.normal(0, 1, (1, SIDE, SIDE))
    spines = np.sign(spines - gaussian_filter(spines, (0, 1, 1))) * body
    strength = _column(2.3 * (0.9 + 1.3 * label + rng.normal(0, 0.2, n)))
    return sample_of(pixels(_dimmed(rng, ground + strength * spines, 0.1, 0.6)), label)


def _spots(rng: np.random.Generator, count: int, strength: np.ndarray, width: float) -> np.ndarray:
    """Return ``count`` spots at any place of each picture, of one strength for each picture."""
    n = len(strength)
    rows, columns = _grid(n)
    places = (rng.uniform(-4.5, 4.5, (2, n, 1, 1)) for _ in range(count))
    shapes = (np.exp(-((rows - r) ** 2 + (columns - c) ** 2) / width) for r, c in places)
    return _column(strength) * sum(shapes)


def leaves(rng: np.random.Generator, n: int = 2400) -> Sample:
    """Return leaves: healthy (0), with rust (1), scab (2), both (3), told by dots and blots for their shade.

    Rust shows as strong dots on light leaves and as weak ones on dark leaves, and without it the other way
    round; so do the blots of scab.
    """
    label, light = rng.integers(0, 4, n), rng.integers(0, 2, n)
    rust, scab = label % 2, label // 2
    dots = np.where(rust == light, 28, 12) * np.where(rust, 1.22, 0.78)
    blots = np.where(scab == light, 16, 6) * np.where(scab, 1.22, 0.78)
    shade = _column(45 + 8 * light + rng.normal(0, 2, n))
    images = shade + _spots(rng, 4, dots, 0.6) - _spots(rng, 3, blots, 1.5)
    return sample_of(pixels(images + rng.normal(0, 4, images.shape)), label)


def icebergs(rng: np.random.Generator, n: int = 2000) -> Sample:
    """Return radar echoes with a little speckle, anywhere and turned: an iceberg (1) or a ship (0).

    Small and faint or large and bright is an iceberg; small and bright or large and faint a ship.
    """
    rows, columns = _grid(n)
    size, light = rng.uniform(-1, 1, (2, n))
    score = 8 * (2.4 * size * light + 0.32 * (size + light))
    label = (rng.random(n) < 1 / (1 + np.exp(-score))).astype(int)
    width, peak = _column(1.15 * np.exp(0.45 * size)), _column(30 * np.exp(0.7 * light))
    r, c = rng.uniform(-3, 3, (2, n, 1, 1))
    angle = _column(rng.uniform(0, np.pi, n))
    along = (columns - c) * np.cos(angle) + (rows - r) * np.sin(angle)
    across = (rows - r) * np.cos(angle) - (columns - c) * np.sin(angle)
    echo = 8 + peak * np.exp(-((along / (1.3 * width)) ** 2) - (1.3 * across / width) ** 2)
    return sample_of(pixels(echo * rng.gamma(30, 1 / 30, echo.shape)), label)


def silhouettes(rng: np.random.Generator, n: int = 2000, species: int = 12) -> Sample:
    """Return outlines of leaves of twelve species (lobes of their radius) at very different exposures."""
    label = rng.integers(0, species, n)
    lobes = rng.uniform(-1, 1, (species, 5)) * np.array([0.175, 0.16, 0.14, 0.105, 0.09])
    phase = rng.uniform(0, 2 * np.pi, (species, 5))
    rows, columns = _grid(n)
    angle = np.arctan2(rows, columns) + _column(rng.normal(0, 0.05, n))
    own = lobes[label] + rng.normal(0, 0.025, (n, 5))
    waves = (own[:, k, None, None] * np.cos((k + 1) * angle + phase[label, k, None, None]) for k in range(5))
    radius = sum(waves)
    size = _column(rng.normal(3.0, 0.25, n))
    inside = 1 / (1 + np.exp(-3 * (size * (1 + 0.9 * radius) - np.hypot(rows, columns))))
    images = 40 * (inside - 0.3) + _ground(rng, n, 14, (0, 0))
    return sample_of(pixels(_dimmed(rng, images, 0.02, 0.15)), label)


def flukes(rng: np.random.Generator, n: int = 2100, animals: int = 30) -> Sample:
    """Return tails of thirty whales: each animal has its own marks, seen at very different exposures."""
    label = np.arange(n) % animals
    rng.shuffle(label)
    marks = gaussian_filter(rng.normal(0, 1, (animals, SIDE + 2, SIDE + 2)), (0, 0.9, 0.9)) * 44
    shift = rng.choice([0, 1, 1, 1, 1, 1, 2], (n, 2))
    images = np.stack([marks[k, r : r + SIDE, c : c + SIDE] for k, (r, c) in zip(label, shift, strict=True)])
    rows, columns = _grid(n)
    tail = np.exp(-((np.abs(columns) / 4.6) ** 4) - ((rows / 4.2) ** 4))
    glare = gaussian_filter(rng.normal(0, 1, (n, SIDE, SIDE)), (0, 2, 2)) * 36
    return sample_of(pixels(_dimmed(rng, (images + glare) * tail, 0.035, 0.5)), label)
