"""Texts: essays, remarks and technical phrases from small grammars, and real pages of three reference works.

The generated texts hide what they are graded on in the ways that written language does: in rare words, in
letters (misspellings, slips of the pen, disguised words), in links between sentences, and in the sum of many
small cues.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pandas as pd

from mlagent_lib.tasks.pocket.sources import WORDS, bundled_folders, sample_of
from mlagent_lib.tasks.spec import Sample


def _pairs(text: str) -> list[list[str]]:
    return [pair.split("/") for pair in text.split()]


_ADJECTIVES, _VERBS, _NOUNS = (_pairs(WORDS["pairs"][name]) for name in ("adjectives", "verbs", "nouns"))
_SOUNDS = _pairs(WORDS["sounds"])
_DOMAINS = {name: words.split() for name, words in WORDS["domains"].items()}
_CLOSE = dict(_pairs(WORDS["close"]))


def _misspell(rng: np.random.Generator, word: str) -> str:
    """Return the word with one sound in it written wrongly."""
    rules = [rule for rule in _SOUNDS if rule[0] in word[1:]]
    if not rules:
        return word + "e"
    wrong, written = rules[rng.integers(len(rules))]
    return word[0] + word[1:].replace(wrong, written, 1)


def _slip(rng: np.random.Generator, word: str) -> str:
    """Return the word with one letter behind the first dropped, doubled, or changed places with the next."""
    at, how = int(rng.integers(1, len(word) - 1)), rng.integers(3)
    return word[:at] + ("", word[at] * 2, word[at + 1] + word[at])[how] + word[at + (2 if how == 2 else 1) :]


def _slips(rng: np.random.Generator, text: str, rate: float, slip: Callable = _slip) -> str:
    """Return the text with a slip (of the pen) in this share of its words of four letters and more."""
    return " ".join(slip(rng, w) if len(w) > 3 and rng.random() < rate else w for w in text.split(" "))


def _pick(rng: np.random.Generator, group: list[list[str]], learned: float) -> str:
    return group[rng.integers(len(group))][int(rng.random() < learned)]


def _sentence(rng: np.random.Generator, chance: np.ndarray, topic: list[str]) -> str:
    """Return one sentence; ``chance`` holds the four skills (words, spelling, grammar, cohesion) in 0..1."""
    learned, spelling, grammar, cohesion = chance
    subjects = ("they", "the " + _pick(rng, _NOUNS, learned), "we", "my friend")
    subject = subjects[rng.integers(4)]
    plural = subject in ("they", "we")
    agrees = rng.random() < 0.35 + 0.65 * grammar
    verb = _pick(rng, _VERBS, learned) + ("" if plural == agrees else "s")
    article = "the " if rng.random() < 0.3 + 0.7 * grammar else ""
    words = f"{subject} {verb} {article}{_pick(rng, _ADJECTIVES, learned)} {rng.choice(topic)}"
    if rng.random() < 0.5:
        words += f" because of {_pick(rng, _ADJECTIVES, learned)} {_pick(rng, _NOUNS, learned)}"
    if rng.random() < 0.25:
        have = "have" if rng.random() < grammar else "of"
        words += f" and it should {have} been {_pick(rng, _ADJECTIVES, learned)}"
    words = _slips(rng, words, 0.5 * (1 - spelling), _misspell)
    if rng.random() < 0.75:
        words = str(rng.choice(WORDS["links" if rng.random() < cohesion else "loose"])) + " " + words
    return words[0].upper() + words[1:]


def _essay(rng: np.random.Generator, skill: np.ndarray, topic: list[str], sentences: int) -> str:
    chance = 1 / (1 + np.exp(-2 * skill))
    return ". ".join(_sentence(rng, chance, topic) for _ in range(sentences)) + "."


def _skills(rng: np.random.Generator, n: int, common: float = 0.5) -> np.ndarray:
    """Return four skills of n writers, of variance 1, this share of it common to all four."""
    return np.sqrt(common) * rng.normal(size=(n, 1)) + np.sqrt(1 - common) * rng.normal(size=(n, 4))


def essays(rng: np.random.Generator, n: int = 1300) -> Sample:
    """Return generated essays of learners, each with four marks from 1 to 5."""
    skill, topic = _skills(rng, n, 0.3), WORDS["topics"]["school"].split()
    texts = [_slips(rng, _essay(rng, row, topic, int(rng.integers(7, 11))), 1.0) for row in skill]
    marks = np.clip(3 + 0.8 * skill + rng.normal(0, 0.2, skill.shape), 1, 5)
    names = ["vocabulary", "spelling", "grammar", "cohesion"]
    return Sample(pd.DataFrame({"text": texts}), pd.DataFrame(marks.round(1), columns=names))


def grades(rng: np.random.Generator, n: int = 1300) -> Sample:
    """Return generated essays with one grade from 1 to 6: the sum of four skills that are independent."""
    skill, topic = _skills(rng, n, 0.0), WORDS["topics"]["city"].split()
    quality = skill @ np.array([0.35, 0.3, 0.25, 0.25])
    texts = [_slips(rng, _essay(rng, row, topic, int(rng.integers(5, 9))), 0.7) for row in skill]
    grade = np.clip(np.round(3.5 + 2.3 * quality + rng.normal(0, 0.25, n)), 1, 6).astype(int)
    return sample_of(pd.DataFrame({"text": texts}), grade)


def _disguise(rng: np.random.Generator, word: str) -> str:
    """Return the word, mostly with letters replaced by look-alikes, stretched, slipped, or wrongly spelt."""
    if rng.random() > 0.9:
        return word
    how = rng.integers(4)
    if how == 0:
        return word.replace("o", "0").replace("i", "1").replace("e", "3").replace("a", "@")
    if how == 1:
        at = int(rng.integers(1, len(word)))
        return word[:at] + word[at - 1] * int(rng.integers(1, 4)) + word[at:]
    return _slip(rng, word) if how == 2 else _misspell(rng, word)


def _remarks(
    rng: np.random.Generator, n: int, lists: dict, rate: float, rude: tuple[float, float], count: int
) -> Sample:
    """Return remarks with ``count`` judgements among plain phrases; a judgement is rude with one chance in
    remarks of label 0 and with another in those of label 1, which are this share of all.
    """
    label = (rng.random(n) < rate).astype(int)
    words = [lists["kind"].split(), lists["bad"].split()]
    things, texts = lists["thing"].split(), []
    for one in label:
        kinds = ["plain"] * int(rng.integers(1, 4)) + ["judging"] * count
        rng.shuffle(kinds)
        phrases = []
        for kind in kinds:
            word = str(rng.choice(words[int(rng.random() < rude[one])]))
            phrase = str(rng.choice(lists[kind]))
            phrases.append(phrase.format(word=_disguise(rng, word), thing=rng.choice(things)))
        texts.append(str(rng.choice([", ", " ", "! ", ". "])).join(phrases))
    flipped = rng.random(n) < 0.02
    return sample_of(pd.DataFrame({"text": texts}), np.where(flipped, 1 - label, label))


def taunts(rng: np.random.Generator, n: int = 2300) -> Sample:
    """Return generated remarks under videos; the answer is whether the reader is insulted."""
    return _remarks(rng, n, WORDS["game"], 0.5, (0.0, 1.0), 1)


def talk_pages(rng: np.random.Generator, n: int = 2300) -> Sample:
    """Return generated remarks on talk pages; the answer is whether they are toxic (one in four)."""
    return _remarks(rng, n, WORDS["talk"], 0.25, (0.36, 0.66), 10)


def phrases(rng: np.random.Generator, n: int = 2000) -> Sample:
    """Return pairs of technical phrases; the answer is how near they are in meaning, 0 to 100."""
    names, texts, scores = list(_DOMAINS), [], []
    kinds, broad, opposite = (WORDS[name].split() for name in ("kinds", "broad", "opposite"))
    for _ in range(n):
        domain = str(rng.choice(names))
        noun, adjective = str(rng.choice(_DOMAINS[domain])), str(rng.choice(kinds))
        if rng.random() < 0.6:
            words, score = [adjective], 48.0
        else:
            words, score = [str(rng.choice([k for k in kinds if k != adjective]))], 24.0
        how = rng.choice(["same", "close", "domain", "broad", "other"], p=[0.2, 0.2, 0.2, 0.2, 0.2])
        word = {
            "same": noun,
            "close": _CLOSE.get(noun, noun),
            "domain": str(rng.choice(_DOMAINS[domain])),
            "broad": str(rng.choice(broad)),
            "other": str(rng.choice(_DOMAINS[str(rng.choice([k for k in names if k != domain]))])),
        }[str(how)]
        score += {"same": 45, "close": 36, "domain": 8, "broad": 4, "other": -26}[str(how)]
        if rng.random() < 0.2:
            words, score = [str(rng.choice(opposite)), *words], score - 30
        if rng.random() < 0.3:
            word, score = word + " " + str(rng.choice(broad)), score - 5
        texts.append(f"{domain}: {adjective} {noun} / {' '.join([*words, word])}")
        scores.append(float(np.clip(score + rng.normal(0, 5), 0, 100).round(1)))
    return sample_of(pd.DataFrame({"text": texts}), scores)


def _pages() -> list[list[str]]:
    """Return the words of the three reference works, one list for each, as found on this machine."""
    from pydoc_data.topics import topics

    works = [list(topics.values()), [], []]
    for folder in bundled_folders():
        if folder.name == "descr":
            works[1] = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.rst"))]
        elif folder.parent.name == "statsmodels":
            pages = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*/data.py"))]
            works[2] = [re.sub(r"^(from|import) .*$", "", page, flags=re.M) for page in pages]
    return [re.findall(r"[A-Za-z][a-z'-]+|[.,;:()]", "\n".join(pages)) for pages in works]


def manuals(rng: np.random.Generator, size: int = 14) -> Sample:
    """Return snippets of Python's reference (0), scikit-learn's (1) and statsmodels' (2) data pages."""
    works = _pages()
    count = min(700, min(len(words) // size for words in works))
    texts, labels = [], []
    for label, words in enumerate(works):
        starts = rng.permutation(len(words) // size)[:count] * size
        texts += [" ".join(words[start : start + size]) for start in starts]
        labels += [label] * count
    return sample_of(pd.DataFrame({"text": texts}), labels)
