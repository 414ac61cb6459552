"""Where the rows of the pocket tasks come from: data bundled with declared dependencies, or a generator.

A source is a function from a random generator to a `Sample`. This module holds the real sources, the tabular
and the graph generators; `drawing` holds the generated images and `writing` the generated texts. Nothing here
knows which rows become visible.
"""

from __future__ import annotations

import sysconfig
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.tasks.spec import Sample


def sample_of(inputs: pd.DataFrame, target, **extra: pd.DataFrame) -> Sample:
    """Return a sample with the single target column ``target``."""
    return Sample(inputs, pd.DataFrame({"target": np.asarray(target)}), extra)


def bundled_folders() -> list[Path]:
    """Return the folders whose files hold the real rows of the suite: a run must not read them.

    The text of ``pydoc_data`` is a file of the standard library, the others belong to packages. Folders that
    this machine lacks are left out. No package is imported for it.
    """
    found = [Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data"]
    for package, parts in (("sklearn", ("data", "images", "descr")), ("statsmodels", ("",))):
        spec = find_spec(package)
        for root in spec.submodule_search_locations or () if spec else ():
            found += [Path(root) / "datasets" / part for part in parts]
    return [folder for folder in found if folder.is_dir()]


def pixels(images: np.ndarray) -> pd.DataFrame:
    """Return images of shape (n, side, side) as whole grey values 0..100 in columns p0, p1, ..."""
    flat = np.clip(np.round(images.reshape(len(images), -1)), 0, 100).astype(int)
    return pd.DataFrame(flat, columns=[f"p{i}" for i in range(flat.shape[1])])


def digits(rng: np.random.Generator) -> Sample:
    """Return scanned digits, 8 by 8 (scikit-learn's ``load_digits``, from the UCI repository)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return sample_of(pixels(bunch.images * 6.25), bunch.target)


def _photo_patches(side: int, half: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the grey patches of one half (``left``, ``right``) of the two sample photos, and which photo."""
    from sklearn.datasets import load_sample_image

    found, labels = [], []
    for label, name in enumerate(("china.jpg", "flower.jpg")):
        grey = load_sample_image(name).mean(axis=2) / 2.55
        middle = grey.shape[1] // 2
        grey = grey[:, :middle] if half == "left" else grey[:, middle:]
        rows, columns = grey.shape[0] // side, grey.shape[1] // side
        cut = grey[: rows * side, : columns * side].reshape(rows, side, columns, side).swapaxes(1, 2)
        found.append(cut.reshape(-1, side, side))
        labels.append(np.full(rows * columns, label))
    return np.concatenate(found), np.concatenate(labels)


def photos(rng: np.random.Generator) -> Sample:
    """Return patches of two photos, 8 by 8, taken at a random exposure; the answer is the photo."""
    patches, label = _photo_patches(8, "left")
    # A random gain and offset for each patch: average brightness alone must not tell the two photos apart.
    mean = patches.mean((1, 2), keepdims=True)
    gain, offset = rng.uniform(0.4, 1.0, (2, len(patches), 1, 1))
    patches = gain * (patches - mean) + 0.4 * mean + 50 * offset
    noisy = patches + rng.normal(0, 1.5, patches.shape)
    return sample_of(pixels(noisy), label)


def stained_photos(rng: np.random.Generator) -> Sample:
    """Return noisy patches of the right halves of the two photos; the answer is the clean patch."""
    patches, _ = _photo_patches(8, "right")
    noisy = patches + rng.normal(0, 9, patches.shape)
    noisy[rng.random(patches.shape) < 0.06] = 0
    clean = pixels(patches).rename(columns=lambda name: "c" + name[1:])
    return Sample(pixels(noisy), clean)


def ballots(rng: np.random.Generator) -> Sample:
    """Return answers of American voters in 1996 (statsmodels ``anes96``); the answer is the vote.

    Party identification is left out, since it alone decides nine votes of ten; education becomes words and a
    twentieth of the cells goes missing.
    """
    from statsmodels.datasets import anes96

    data = anes96.load_pandas().data
    vote = data["vote"].astype(int)
    inputs = data[["popul", "TVnews", "selfLR", "ClinLR", "DoleLR", "age", "income"]].copy()
    inputs = inputs.mask(rng.random(inputs.shape) < 0.05)
    levels = ("none", "grades", "high-school", "some-college", "college-degree", "bachelor", "master",
              "doctorate")  # fmt: skip
    inputs["education"] = [levels[int(code)] for code in data["educ"]]
    return sample_of(inputs, vote)


def visits(rng: np.random.Generator) -> Sample:
    """Return persons of the RAND health insurance experiment (statsmodels ``randhie``) and their visits."""
    from statsmodels.datasets import randhie

    data = randhie.load_pandas().data
    inputs = data.drop(columns="mdvis").round(4)
    health = data[["hlthg", "hlthf", "hlthp"]].to_numpy() @ np.array([1, 2, 3])
    inputs = inputs.drop(columns=["hlthg", "hlthf", "hlthp"])
    inputs["health"] = np.array(["excellent", "good", "fair", "poor"])[health.astype(int)]
    return sample_of(inputs, data["mdvis"])


def homes(rng: np.random.Generator, n: int = 2400) -> Sample:
    """Return generated homes with gaps and categories; the answer is the price in 10,000.

    Each number and each category moves the logarithm of the price, independently of the others.
    """
    numbers = {"area": (120, 30, 1), "lot": (700, 200, 1), "year": (1985, 20, 1), "centre": (5000, 1500, -1),
               "sun": (1500, 200, 1), "noise": (55, 8, -1)}  # fmt: skip
    words = {
        "district": ("harbour", "old-town", "hill", "station", "mill", "park", "field", "quarry"),
        "style": ("cottage", "row", "villa", "tower", "farm", "loft"),
        "condition": ("poor", "fair", "good", "new"),
        "heating": ("gas", "oil", "heat-pump", "stove"),
    }
    log_price, inputs = 2.6 + rng.normal(0, 0.1, n), pd.DataFrame()
    for name, (mean, deviation, sign) in numbers.items():
        own = rng.normal(0, 1, n)
        inputs[name] = (mean + deviation * own).round()
        log_price += 0.3 * sign * own
    inputs = inputs.mask(rng.random(inputs.shape) < 0.04)
    for (name, levels), weight in zip(words.items(), (0.9, 0.7, 0.6, 0.5), strict=True):
        worth = rng.permutation(np.linspace(-weight, weight, len(levels)))
        level = rng.integers(0, len(levels), n)
        log_price += worth[level]
        inputs[name] = np.array(levels)[level]
    return sample_of(inputs, np.exp(log_price).round(2))


def forests(rng: np.random.Generator, n: int = 2600) -> Sample:
    """Return generated forest plots; the answer is one of six kinds of cover."""
    height = rng.normal(0, 1, n)
    aspect, slope = rng.uniform(0, 360, n), rng.gamma(3, 5, n)
    water, road, fire = rng.gamma(1.5, 200, n), rng.gamma(2, 900, n), rng.gamma(2, 800, n)
    soils = np.array(["rock", "loam", "sand", "clay", "peat"])
    soil = rng.integers(0, 5, n)
    area = rng.integers(0, 3, n)
    north = np.cos(np.deg2rad(aspect))
    score = np.column_stack([
        1.6 * height + 0.5 * (soil == 0),
        1.2 - 1.3 * height**2 + 0.6 * (soil == 1),
        -1.3 * height + 0.9 * (area == 1) - 0.4 * north,
        -1.6 * height + 1.1 * (soil == 4) + 0.8 * (water < 150) - 0.5,
        0.9 * north * (slope > 14) + 1.3 * (area == 2) + 0.3 * (soil == 3) - 0.2 * height,
        1.2 * height + 1.4 * (water > 420) + 0.7 * (soil == 2) - 0.9,
    ])  # fmt: skip
    cover = np.argmax(3.2 * score + rng.gumbel(0, 0.75, score.shape), axis=1)
    shade = (220 + 20 * north - slope + rng.normal(0, 6, n)).round()
    inputs = pd.DataFrame({
        "elevation": (2700 + 280 * height).round(), "aspect": aspect.round(), "slope": slope.round(1),
        "water": water.round(), "road": road.round(), "fire": fire.round(), "shade_noon": shade,
        "soil": soils[soil], "area": np.array(["north-range", "valley", "south-range"])[area],
    })  # fmt: skip
    return sample_of(inputs, cover)


def citations(rng: np.random.Generator, n: int = 2400, fields: int = 8, words: int = 32) -> Sample:
    """Return a generated graph of papers that mostly cite their own field; the answer is the field."""
    label = rng.integers(0, fields, n)
    centre = rng.normal(0, 1, (fields, words))
    centre[:, words // 2 :] = 0  # half of the features say nothing
    features = 0.45 * centre[label] + rng.normal(0, 1, (n, words))
    near = [np.flatnonzero(label == k) for k in range(fields)]
    pairs = []
    for node in range(n):
        for _ in range(1 + rng.poisson(1.6)):
            # Fields 0-1, 2-3, ... are neighbours: most citations that leave a field go to its neighbour.
            draw = rng.random()
            pool = near[label[node]] if draw < 0.68 else near[label[node] ^ 1] if draw < 0.8 else np.arange(n)
            pairs.append((node, int(rng.choice(pool))))
    edges = pd.DataFrame([pair for pair in pairs if pair[0] != pair[1]], columns=["source", "cites"])
    nodes = pd.DataFrame(features.round(3), columns=[f"f{i}" for i in range(words)])
    return sample_of(pd.DataFrame({"node": np.arange(n)}), label, nodes=nodes, edges=edges.drop_duplicates())
