"""Texts: essays, remarks and technical phrases from small grammars, and real pages of three reference works.

The generated texts hide what they are graded on in the ways that written language does: in rare words, in
letters (misspellings, disguised words), in neighbouring words, and in the length.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from mlagent_lib.tasks.pocket.sources import Sample, bundled_folders, sample_of

# Plain word, learned word.
_SYNONYMS = [pair.split("/") for pair in (
    "good/beneficial big/considerable bad/detrimental help/facilitate show/demonstrate use/utilise many/numerous "
    "people/individuals kids/adolescents teacher/educator get/obtain need/require start/commence hard/demanding "
    "easy/effortless main/essential problem/obstacle idea/notion buy/purchase fast/rapid thing/aspect "
    "change/transform money/funds job/occupation"
).split()]
_ADJECTIVES = (0, 1, 2, 13, 14, 15, 19)
_VERBS = (3, 4, 5, 10, 11, 12, 18, 21)
_NOUNS = (7, 8, 9, 16, 17, 20, 22, 23)
_LINKS = ("however", "moreover", "for example", "as a result", "in contrast", "therefore", "finally")
_LOOSE = ("and", "then", "and then", "so", "but")
_TOPICS = {
    "school": "homework lessons uniform canteen library exam classroom".split(),
    "city": "traffic market bridge tram museum square river".split(),
}


def _misspell(rng: np.random.Generator, word: str) -> str:
    """Return the word with two letters swapped, one doubled, one dropped, or one vowel changed."""
    at, how = int(rng.integers(1, max(2, len(word) - 1))), rng.integers(4)
    if how == 0 and at + 1 < len(word):
        return word[:at] + word[at + 1] + word[at] + word[at + 2:]
    if how == 1:
        return word[:at] + word[at] + word[at:]
    if how == 2:
        return word[:at] + word[at + 1:]
    return re.sub("[aeiou]", lambda _: "aeiou"[rng.integers(5)], word, count=1)


def _pick(rng: np.random.Generator, group: tuple[int, ...], learned: float) -> str:
    return _SYNONYMS[rng.choice(group)][int(rng.random() < learned)]


def _sentence(rng: np.random.Generator, chance: np.ndarray, topic: list[str]) -> str:
    """Return one sentence; ``chance`` holds the four skills (words, spelling, grammar, cohesion) in 0..1."""
    learned, spelling, grammar, cohesion = chance
    subject, plural = (("they", True), ("the " + _pick(rng, _NOUNS, learned), False), ("we", True),
                       ("my friend", False))[rng.integers(4)]
    agrees = rng.random() < 0.35 + 0.65 * grammar
    verb = _pick(rng, _VERBS, learned) + ("" if plural == agrees else "s")
    article = "the " if rng.random() < 0.3 + 0.7 * grammar else ""
    words = f"{subject} {verb} {article}{_pick(rng, _ADJECTIVES, learned)} {rng.choice(topic)}"
    if rng.random() < 0.5:
        words += f" because of {_pick(rng, _ADJECTIVES, learned)} {_pick(rng, _NOUNS, learned)}"
    if rng.random() < 0.25:
        words += " and it should " + ("have" if rng.random() < grammar else "of") + " been " + \
            _pick(rng, _ADJECTIVES, learned)
    words = " ".join(_misspell(rng, word) if len(word) > 3 and rng.random() < 0.3 * (1 - spelling) else word
                     for word in words.split())
    if rng.random() < 0.75:
        words = str(rng.choice(_LINKS if rng.random() < cohesion else _LOOSE)) + " " + words
    return words[0].upper() + words[1:]


def _essay(rng: np.random.Generator, skill: np.ndarray, topic: list[str], sentences: int) -> str:
    chance = 1 / (1 + np.exp(-1.8 * skill))
    text = ". ".join(_sentence(rng, chance, topic) for _ in range(sentences))
    return text + "."


def _skills(rng: np.random.Generator, n: int) -> np.ndarray:
    """Return four skills of n writers, of variance 1, half of it common to all four."""
    return np.sqrt(0.5) * (rng.normal(size=(n, 1)) + rng.normal(size=(n, 4)))


def essays(rng: np.random.Generator, n: int = 1900) -> Sample:
    """Return generated essays of learners, each with four marks from 1 to 5."""
    skill = _skills(rng, n)
    texts = [_essay(rng, row, _TOPICS["school"], int(rng.integers(6, 9))) for row in skill]
    marks = np.clip(3 + 0.8 * skill + rng.normal(0, 0.2, skill.shape), 1, 5)
    names = ["vocabulary", "spelling", "grammar", "cohesion"]
    return Sample(pd.DataFrame({"text": texts}), pd.DataFrame(marks.round(1), columns=names))


def grades(rng: np.random.Generator, n: int = 1900) -> Sample:
    """Return generated essays with one grade from 1 to 6; better writers also write more."""
    skill = _skills(rng, n)
    quality = skill @ np.array([0.35, 0.3, 0.25, 0.25])
    counts = np.clip(np.round(6 + 1.2 * quality + rng.normal(0, 1, n)), 3, 10).astype(int)
    texts = [_essay(rng, row, _TOPICS["city"], k) for row, k in zip(skill, counts, strict=True)]
    grade = np.clip(np.round(3.5 + 1.35 * quality + rng.normal(0, 0.25, n)), 1, 6).astype(int)
    return sample_of(pd.DataFrame({"text": texts}), grade)


def _disguise(rng: np.random.Generator, word: str, rate: float) -> str:
    """Return the word, now and then with letters replaced by look-alikes, stretched, or dotted."""
    if rng.random() > rate:
        return word
    how = rng.integers(4)
    if how == 0:
        return word.replace("o", "0").replace("i", "1").replace("e", "3").replace("a", "@")
    if how == 1:
        at = int(rng.integers(1, len(word)))
        return word[:at] + word[at - 1] * int(rng.integers(1, 4)) + word[at:]
    return word + "s" if how == 2 else _misspell(rng, word)


_GAME = {
    "bad": "clown fool dunce muppet nitwit donkey numpty coward twit buffoon".split(),
    "rude": ["you are a {bad}", "what a {bad} you are", "shut up {bad}", "you {bad}", "you sound like a {bad}",
             "only a {bad} would write this", "go home you {bad}", "nobody likes you {bad}"],
    "mild": ["the {bad} in the story was funny", "do not call people a {bad}", "he played the {bad} on stage",
             "i felt like a {bad} myself", "my costume is a {bad}", "they said {bad} is just a word"],
    "plain": ["you are right", "i like this {thing}", "the {thing} was too long", "you should see the {thing}",
              "what a {thing}", "go to the {thing} with us", "nobody told me about the {thing}",
              "shut the door after the {thing}", "you and i agree on the {thing}", "only the {thing} helps"],
    "thing": "game song recipe match film concert bike garden train story".split(),
}
_TALK = {
    "bad": "garbage rubbish pathetic disgusting stupid worthless moronic filthy hateful ridiculous".split(),
    "rude": ["your edit is {bad}", "you {bad} liar", "leave this page you {bad} troll", "your {bad} face",
             "everyone here thinks you are {bad}", "stop posting your {bad} opinions", "i hate your {bad} rules"],
    "mild": ["the word {bad} needs a source", "the critic called the novel {bad}", "the section on {bad} water is new",
             "sorry my first draft was {bad}", "the quote says {bad} and i kept it"],
    "plain": ["your edit is fine", "please add a source for the {thing}", "the {thing} needs a better title",
              "i moved the {thing} to the talk page", "thanks for the {thing}", "leave the {thing} as it is",
              "everyone here thinks the {thing} is useful", "stop the merge of the {thing} please",
              "i wrote your {thing} into the archive"],
    "thing": "article section template image table citation category summary link map".split(),
}


def _remarks(rng: np.random.Generator, n: int, lists: dict, rate: float, disguised: float) -> Sample:
    """Return remarks of one to four phrases; one that holds a rude phrase has label 1."""
    label = (rng.random(n) < rate).astype(int)
    texts = []
    for rude in label:
        kinds = list(rng.choice(["mild", "plain"], int(rng.integers(1, 4)), p=[0.35, 0.65])) + ["rude"] * int(rude)
        rng.shuffle(kinds)
        phrases = [str(rng.choice(lists[kind])).format(bad=_disguise(rng, str(rng.choice(lists["bad"])), disguised),
                                                       thing=rng.choice(lists["thing"])) for kind in kinds]
        texts.append(str(rng.choice([", ", " ", "! ", ". "])).join(phrases))
    flipped = rng.random(n) < 0.02
    return sample_of(pd.DataFrame({"text": texts}), np.where(flipped, 1 - label, label))


def taunts(rng: np.random.Generator, n: int = 2300) -> Sample:
    """Return generated remarks under videos; the answer is whether the reader is insulted."""
    return _remarks(rng, n, _GAME, 0.45, 0.5)


def talk_pages(rng: np.random.Generator, n: int = 2300) -> Sample:
    """Return generated remarks on talk pages; the answer is whether they are toxic (one in four)."""
    return _remarks(rng, n, _TALK, 0.25, 0.6)


_DOMAINS = {
    "power": "motor battery coil turbine charger rotor grid voltage".split(),
    "fluid": "pump valve pipe nozzle filter tank pressure flow".split(),
    "optics": "lens mirror laser prism fibre camera beam sensor".split(),
    "cloth": "fabric thread weave seam yarn needle felt lining".split(),
}
_CLOSE = {"motor": "engine", "battery": "cell", "pump": "compressor", "valve": "gate", "pipe": "duct",
          "lens": "objective", "mirror": "reflector", "laser": "emitter", "fabric": "textile", "thread": "strand",
          "coil": "winding", "filter": "strainer", "camera": "imager", "seam": "joint", "tank": "vessel",
          "needle": "pin"}
_BROAD = "device apparatus system unit element assembly".split()
_OPPOSITE = "without non free lacking".split()


def phrases(rng: np.random.Generator, n: int = 2000) -> Sample:
    """Return pairs of technical phrases; the answer is how near they are in meaning, 0 to 100."""
    names, texts, scores = list(_DOMAINS), [], []
    kinds = ("electric", "hollow", "flexible", "optical", "thermal", "small", "double", "sealed")
    for _ in range(n):
        domain = str(rng.choice(names))
        noun, adjective = str(rng.choice(_DOMAINS[domain])), str(rng.choice(kinds))
        score, words = 30.0, []
        if rng.random() < 0.6:
            words, score = [adjective], score + 18
        else:
            words, score = [str(rng.choice([k for k in kinds if k != adjective]))], score - 6
        how = rng.choice(["same", "close", "domain", "broad", "other"], p=[0.2, 0.2, 0.2, 0.2, 0.2])
        word = {"same": noun, "close": _CLOSE.get(noun, noun), "domain": str(rng.choice(_DOMAINS[domain])),
                "broad": str(rng.choice(_BROAD)),
                "other": str(rng.choice(_DOMAINS[str(rng.choice([k for k in names if k != domain]))]))}[str(how)]
        score += {"same": 45, "close": 36, "domain": 8, "broad": 4, "other": -26}[str(how)]
        if rng.random() < 0.2:
            words, score = [str(rng.choice(_OPPOSITE)), *words], score - 30
        if rng.random() < 0.3:
            word, score = word + " " + str(rng.choice(_BROAD)), score - 5
        text = f"{domain}: {adjective} {noun} / {' '.join([*words, word])}"
        texts.append(text)
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
            works[2] = [re.sub(r"^(from|import) .*$", "", path.read_text(encoding="utf-8"), flags=re.M)
                        for path in sorted(Path(folder).glob("*/data.py"))]
    found = []
    for pages in works:
        words = re.findall(r"[A-Za-z][a-z'-]+|[.,;:()]", "\n".join(pages))
        found.append(words)
    return found


def manuals(rng: np.random.Generator, size: int = 14) -> Sample:
    """Return snippets of the Python reference (0), scikit-learn's (1) and statsmodels' data descriptions (2)."""
    works = _pages()
    count = min(700, min(len(words) // size for words in works))
    texts, labels = [], []
    for label, words in enumerate(works):
        starts = rng.permutation(len(words) // size)[:count] * size
        texts += [" ".join(words[start : start + size]) for start in starts]
        labels += [label] * count
    return sample_of(pd.DataFrame({"text": texts}), labels)
