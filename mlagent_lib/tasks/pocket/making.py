"""Rows with a known structure: small makers, one for each modality, that make the facts of a card true.

A maker takes a random generator, the number of rows, of answers (classes; 1 for a number) and the facts that
must hold, and returns the inputs, further tables, and a score (rows, answers) from which `answer` draws what
is asked for. All numbers here are ours: chosen so that the edits that a fact names are worth their while.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import pandas as pd
from scipy.ndimage import gaussian_filter

from mlagent_lib.tasks.pocket.sources import pixels
from mlagent_lib.tasks.spec import Sample

Made = tuple[pd.DataFrame, dict[str, pd.DataFrame], np.ndarray]
SIDE = 8


def _scaled(score: np.ndarray) -> np.ndarray:
    """Return scores with mean 0 and deviation 1."""
    return (score - score.mean(0)) / score.std(0)


def _smooth(rng: np.random.Generator, points: np.ndarray, answers: int) -> np.ndarray:
    """Return random functions of the points that change over a distance of 2.2: sums of waves."""
    waves = rng.normal(0, 1 / 2.2, (points.shape[1], 200))
    return np.cos(points @ waves + rng.uniform(0, 2 * np.pi, 200)) @ rng.normal(0, 1, (200, answers))


def table(rng: np.random.Generator, n: int, answers: int, facts: Collection[str]) -> Made:
    """Return a table of numbers and, where categories matter, of words."""
    alike, depend = "like rows have like answers" in facts, "effects depend on each other" in facts
    width = 6 if alike else 5 if depend else 10
    numbers = rng.normal(0, 1, (n, width))
    if alike:
        score = _smooth(rng, numbers, answers)
    elif depend:
        pairs = np.array([(i, j) for i in range(width) for j in range(i)])
        parts = np.sign(numbers[:, pairs] - rng.normal(0, 0.3, pairs.shape)).prod(axis=2)
        score = parts @ (rng.normal(0, 1, (len(pairs), answers)) * (rng.random((len(pairs), answers)) < 0.4))
    else:
        score = numbers @ rng.normal(0, 1, (width, answers))
    score, words = _scaled(score + 1e-9 * rng.normal(size=score.shape)), {}
    if "categories that matter" in facts:
        codes = rng.integers(0, 6, (n, 3))
        effects = rng.normal(0, 1, (3, 6, answers))
        if depend:  # what a category does depends on another one's
            effects = rng.normal(0, 0.5, (3, 6, answers))
            score += 0.6 * rng.normal(0, 1, (6, 6, answers))[codes[:, 0], codes[:, 1]]
        score += sum(effects[k, codes[:, k]] for k in range(3))
        for k, letter in enumerate("abc"):
            words[f"kind{k}"] = np.array([f"{letter}{level}" for level in range(6)])[codes[:, k]]
    if "skewed columns" in facts:
        numbers = np.exp(1.6 * numbers)
    if "useless columns" in facts:
        numbers = np.hstack([numbers, rng.normal(0, 1, (n, 70))])
    if "columns on very different scales" in facts:
        numbers = (numbers + rng.uniform(-2, 2, width)) * 10 ** rng.permutation(np.linspace(-1, 3, width))
    order = rng.permutation(numbers.shape[1])
    frame = pd.DataFrame(numbers[:, order].round(5), columns=[f"x{i}" for i in range(len(order))])
    return frame.assign(**words), {}, score


def _words(rng: np.random.Generator, count: int) -> list[str]:
    """Return about so many different invented words, of three or four syllables."""
    syllables, lengths = rng.integers(0, (14, 5), (count, 4, 2)), rng.integers(3, 5, count)
    found = {}  # in their order
    for word, length in zip(syllables, lengths, strict=True):
        found["".join("bdfgklmnprstvz"[c] + "aeiou"[v] for c, v in word[:length])] = True
    return list(found)


def _typo(word: str, at: int, how: int, letter: int) -> str:
    """Return the word with one letter left out (0), doubled (1) or replaced (2)."""
    at %= len(word)
    return word[:at] + ("", word[at] * 2, "aeioulnrst"[letter])[how] + word[at + 1 :]


def texts(rng: np.random.Generator, n: int, answers: int, facts: Collection[str]) -> Made:
    """Return texts of invented words, some of which count for or against the answers."""
    words = _words(rng, 360)
    common, telling = words[:60], words[60 : None if "rare words" in facts else 120]
    effects = rng.normal(0, 1, (len(telling), answers))
    lines, score = [], np.zeros((n, answers))
    for row in range(n):
        own = rng.integers(0, len(telling), int(rng.integers(10, 16)))
        score[row] = effects[own].sum(0)
        line = [telling[k] for k in own]
        if "misspelt words" in facts:
            wrong = rng.random(len(line)) < 0.85
            slips = zip(line, wrong, rng.integers(0, (16, 3, 10), (len(line), 3)), strict=True)
            line = [_typo(word, at, how, k) if bad else word for word, bad, (at, how, k) in slips]
        line += [common[k] for k in rng.integers(0, len(common), int(rng.integers(10, 16)))]
        lines.append(" ".join(line[k] for k in rng.permutation(len(line))))
    return pd.DataFrame({"text": lines}), {}, _scaled(score)


def images(rng: np.random.Generator, n: int, answers: int, facts: Collection[str]) -> Made:
    """Return grey images in which spots, fine marks or broad patterns tell the class."""
    label = rng.integers(0, answers, n)
    score = np.eye(answers)[label] * 12.0
    if "spots at any place" in facts:
        return _spots(rng, n, answers, "effects depend on each other" in facts)
    if "small details" in facts:
        marks = rng.normal(0, 1, (answers, SIDE, SIDE))
        marks -= gaussian_filter(marks, (0, 1, 1))
        ground = gaussian_filter(rng.normal(0, 1, (n, SIDE, SIDE)), (0, 1.5, 1.5)) * 60
        return pixels(50 + ground + 4.5 * marks[label] + rng.normal(0, 6, ground.shape)), {}, score
    modes = 6 if "like rows have like answers" in facts else 1
    marks = gaussian_filter(rng.normal(0, 1, (answers, modes, SIDE, SIDE)), (0, 0, 0.8, 0.8))
    marks /= marks.std((2, 3), keepdims=True)
    found, noise = marks[label, rng.integers(0, modes, n)], 1.6 if modes == 1 else 0.7
    found = found + rng.normal(0, noise, found.shape)
    gain, offset = np.exp(rng.normal(0, 0.6, (n, 1, 1))), rng.normal(0, 12, (n, 1, 1))
    return pixels(50 + offset + 5 * gain * found), {}, score


def _spots(rng: np.random.Generator, n: int, answers: int, depend: bool) -> Made:
    """Return images with bright and dark spots at any place.

    Their number tells the class, or (depend) the class is the sum of how many bright and how many dark ones
    there are, counted round and round.
    """
    if depend:
        bright, dark = rng.integers(0, answers, (2, n))
        label = (bright + dark) % answers
        counts = np.stack([3 * bright, 3 * dark])
    else:
        label = rng.integers(0, answers, n)
        counts = np.stack([1 + 3 * label, np.full(n, 2)])
    images = np.full((n, SIDE, SIDE), 50.0)
    flat = images.reshape(n, -1)
    for row in range(n):
        places = rng.permutation(SIDE * SIDE)[: counts[:, row].sum()]
        flat[row, places[: counts[0, row]]] += rng.uniform(15, 30, counts[0, row])
        flat[row, places[counts[0, row] :]] -= rng.uniform(15, 30, counts[1, row])
    return pixels(images + rng.normal(0, 4, images.shape)), {}, np.eye(answers)[label] * 12.0


def graph(rng: np.random.Generator, n: int, answers: int, facts: Collection[str]) -> Made:
    """Return nodes with noisy features and links, most of them inside a class.

    All features also share a few strong moods that say nothing: sums over features cancel them, trees cannot.
    """
    label = rng.integers(0, answers, n)
    moods = rng.normal(0, 1, (n, 6)) @ rng.normal(0, 1.6, (6, 48))
    features = 0.22 * rng.normal(0, 1, (answers, 48))[label] + moods + rng.normal(0, 1.5, (n, 48))
    source = np.repeat(np.arange(n), 1 + rng.poisson(1, n))
    order, counts = np.argsort(label, kind="stable"), np.bincount(label)
    first, own = counts.cumsum() - counts, label[source]
    inside = order[first[own] + rng.integers(0, counts[own])]  # a node of the same class
    cites = np.where(rng.random(len(source)) < 0.75, inside, rng.integers(0, n, len(source)))
    edges = pd.DataFrame({"source": source, "cites": cites})[source != cites].drop_duplicates()
    nodes = pd.DataFrame(features.round(3), columns=[f"f{i}" for i in range(48)])
    inputs = pd.DataFrame({"node": np.arange(n)})
    return inputs, {"nodes": nodes, "edges": edges}, np.eye(answers)[label] * 12.0


MAKERS = {"tabular": table, "text": texts, "image": images, "graph": graph}


def sample(rng: np.random.Generator, modality: str, n: int, answers: int, facts: Collection[str]) -> Sample:
    """Return rows with their answers: the class of the largest score, or a number (a skewed one) from it."""
    inputs, extra, score = MAKERS[modality](rng, n, answers, facts)
    if answers == 1:
        value = score[:, 0] / score.std() + rng.normal(0, 0.25, n)
        target = np.exp(2 + 1.2 * value) if "very skewed target" in facts else 50 + 10 * value
        target = target.round(3).clip(0)
    else:
        target = (4 * score + rng.gumbel(0, 1, score.shape)).argmax(1)
    return Sample(inputs, pd.DataFrame({"target": target}), extra)
