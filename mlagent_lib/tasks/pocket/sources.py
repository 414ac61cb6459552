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

from mlagent_lib.core.files import read_yaml
from mlagent_lib.tasks.spec import Sample

WORDS = read_yaml(Path(__file__).with_name("words.yaml"))  # what tables and texts are made of


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


def _photo_patches(half: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the patches, 8 by 8, of one half (``left``, ``right``) of two grey photos, and which photo."""
    from sklearn.datasets import load_sample_image

    found = []
    for name in ("china.jpg", "flower.jpg"):
        grey = load_sample_image(name).mean(axis=2) / 2.55
        middle = grey.shape[1] // 2
        grey = grey[:, :middle] if half == "left" else grey[:, middle:]
        rows, columns = grey.shape[0] // 8, grey.shape[1] // 8
        cut = grey[: rows * 8, : columns * 8].reshape(rows, 8, columns, 8).swapaxes(1, 2)
        found.append(cut.reshape(-1, 8, 8))
    return np.concatenate(found), np.repeat((0, 1), [len(patches) for patches in found])


def photos(rng: np.random.Generator) -> Sample:
    """Return patches of two photos, 8 by 8, taken at a random exposure; the answer is the photo."""
    patches, label = _photo_patches("left")
    # A random gain and offset for each patch: average brightness alone must not tell the two photos apart.
    mean = patches.mean((1, 2), keepdims=True)
    gain, offset = rng.uniform(0.7, 1.0, (len(patches), 1, 1)), rng.uniform(0, 20, (len(patches), 1, 1))
    patches = gain * (patches - mean) + 0.4 * mean + offset
    return sample_of(pixels(patches + rng.normal(0, 1.5, patches.shape)), label)


def stained_photos(rng: np.random.Generator) -> Sample:
    """Return noisy patches of the right halves of the two photos; the answer is the clean patch."""
    patches, _ = _photo_patches("right")
    noisy = patches + rng.normal(0, 3, patches.shape)
    noisy[rng.random(patches.shape) < 0.01] = 0
    return Sample(pixels(noisy), pixels(patches).rename(columns=lambda name: "c" + name[1:]))


def _readings(rng: np.random.Generator, numbers: pd.DataFrame, sources: int, size: float) -> pd.DataFrame:
    """Return two disturbed readings of each column, in deviations of it.

    All readings of a row share the errors of a few sources, which move each reading by a weight of its own;
    a small error comes from the reading itself.
    """
    shared, found = rng.normal(0, size, (len(numbers), sources)), {}
    for name, values in ((numbers - numbers.mean()) / numbers.std()).items():
        for turn in (1, 2):
            moved = values + shared @ rng.normal(0, 1, sources) + rng.normal(0, 0.15, len(numbers))
            found[f"{name}_{turn}"] = moved.round(2)
    return pd.DataFrame(found)


def ballots(rng: np.random.Generator) -> Sample:
    """Return answers of American voters in 1996 (statsmodels ``anes96``); the answer is the vote.

    Party identification is left out, since it alone decides nine votes of ten; each number is read twice with
    errors, education becomes words, and a twentieth of the cells goes missing.
    """
    from statsmodels.datasets import anes96

    data = anes96.load_pandas().data
    told = ["logpopul", "TVnews", "selfLR", "ClinLR", "DoleLR", "age", "income"]
    inputs = _readings(rng, data[told], sources=4, size=2)
    inputs = inputs.mask(rng.random(inputs.shape) < 0.05)
    inputs["education"] = [WORDS["education"][int(code)] for code in data["educ"]]
    return sample_of(inputs, data["vote"].astype(int))


def visits(rng: np.random.Generator) -> Sample:
    """Return persons of the RAND health insurance experiment (statsmodels ``randhie``) and their visits.

    Each number is read twice with errors; what a person could answer in a word stands as a word.
    """
    from statsmodels.datasets import randhie

    data = randhie.load_pandas().data
    data = data.iloc[rng.permutation(len(data))]
    data = data[~data.drop(columns="mdvis").duplicated()].reset_index(drop=True)
    inputs = _readings(rng, data[["lncoins", "lpi", "fmde"]], sources=2, size=2.5)
    health = data[["hlthg", "hlthf", "hlthp"]].to_numpy() @ np.array([1, 2, 3])
    inputs["health"] = np.array(["excellent", "good", "fair", "poor"])[health.astype(int)]
    counts = ["least", "few", "some", "many", "most"]
    inputs["diseases"] = pd.cut(data["disea"], [-1, 5, 9, 13, 18, 99], labels=counts).astype(str)
    inputs["limited"] = np.where(data["physlm"] > 0.5, "yes", "no")
    inputs["deductible"] = np.where(data["idp"] > 0, "individual", "family")
    return sample_of(inputs, data["mdvis"])


def homes(rng: np.random.Generator, n: int = 2400) -> Sample:
    """Return generated homes with gaps and categories; the answer is the price in 10,000.

    Each number and each category moves the logarithm of the price, independently of the others.
    """
    numbers, words = WORDS["homes"]["numbers"], WORDS["homes"]["words"]
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
    """Return generated forest plots; the answer is one of six kinds of cover.

    Height and slope count only together, and which way distances count depends on soil and zone.
    """
    columns, words = WORDS["forests"]["numbers"], WORDS["forests"]["words"]
    own = rng.normal(0, 1, (n, len(columns)))
    third, high = np.searchsorted([-0.43, 0.43], own), (own > 0).astype(int)
    means, deviations = np.transpose(list(columns.values()))
    inputs = pd.DataFrame((means + deviations * own).round(1), columns=list(columns))
    score, level = rng.gumbel(0, 0.3, (n, 6)), {}
    for name, names in words.items():
        level[name] = rng.integers(0, len(names), n)
        inputs[name] = np.array(names)[level[name]]
        score += 0.5 * rng.normal(0, 1, (len(names), 6))[level[name]]
    for first, second, weight in (
        (third[:, 0], third[:, 1], 2.3),
        (third[:, 2], third[:, 3], 0.6),
        (level["soil"], high[:, 4], 1.8),
        (level["zone"], high[:, 5], 1.8),
    ):
        worth = rng.normal(0, weight, (first.max() + 1, second.max() + 1, 6))
        # Without its means over either, the pair counts only together.
        worth -= worth.mean(0, keepdims=True) + worth.mean(1, keepdims=True) - worth.mean((0, 1))
        score += worth[first, second]
    return sample_of(inputs, score.argmax(axis=1))


def citations(rng: np.random.Generator, n: int = 2400, fields: int = 8, words: int = 48) -> Sample:
    """Return a generated graph of papers that mostly cite their own field; the answer is the field.

    Papers come in series of three, of one field, and cite mostly within their series. What the words say of
    the field is faint, beside topics of every field that move all words at once.
    """
    size, topics = 3, 8
    label = np.repeat(rng.integers(0, fields, n // size), size)
    centre, topic = rng.normal(0, 1, (fields, words)), rng.normal(0, 1, (topics, words))
    loud = rng.normal(0, 2.5, (n, topics)) @ topic
    features = 0.22 * centre[label] + loud + rng.normal(0, 1, (n, words))
    source = np.repeat(np.arange(n), 1 + rng.poisson(1.6, n))
    within = source // size * size + rng.integers(0, size, len(source))
    cites = np.where(rng.random(len(source)) < 0.95, within, rng.integers(0, n, len(source)))
    place = rng.permutation(n)  # or the number of a node would tell its series
    order = np.argsort(place)
    pairs = place[np.column_stack([source, cites])[source != cites]]
    edges = pd.DataFrame(pairs, columns=["source", "cites"]).drop_duplicates()
    nodes = pd.DataFrame(features[order].round(3), columns=[f"f{i}" for i in range(words)])
    return sample_of(pd.DataFrame({"node": np.arange(n)}), label[order], nodes=nodes, edges=edges)
