"""Ideas for an expert: collect many, keep those that lie far apart, draw a few for each trajectory.

Exploration-enriched fine-tuning (paper section 4.1, and B.1 in version 2) starts every expert trajectory
from different ideas. Two selections are given, because the two versions of the paper differ: version 1 keeps
the 10 ideas with the farthest average distance to all others; version 2 keeps a farthest-point sample for
each of the axes data, model and learning (its Algorithm 1), and gives a trajectory one idea from each of 1 to
3 axes.

Nothing here runs a script or writes a trajectory. The paper names neither the embedding model nor the
distance of version 1, nor the sizes of version 2: the cosine distance and 10 per axis are ours.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mlagent_lib.agents.embeddings import select_farthest_average, select_farthest_point
from mlagent_lib.core.errors import EndpointError, TaskError
from mlagent_lib.core.files import sha256_bytes
from mlagent_lib.core.thinking import split_thinking
from mlagent_lib.tasks.pocket.catalogue import AXES, KINDS, MODALITIES, edits, read_block

if TYPE_CHECKING:
    from mlagent_lib.tasks.task import Task

Generate = Callable[[str], str]  # prompt -> reply, e.g. `ChatEndpoint.generate`

MIN_IDEAS = 100
PER_AXIS = 40  # ours: ideas asked for on each axis, version 2 does not give its number
ROUNDS = 4  # ours: how often a model is asked for those of an axis while too few are distinct
SCOPES = {
    "data": "the data: cleaning, imputation, encoding, scaling, construction and selection of features",
    "model": "the model: its family, its architecture, its size, its hyperparameters, ensembles of models",
    "learning": "the learning: loss, optimiser, schedule, regularisation, early stopping, calibration",
}
ADVICE_FLAG = "[advice]"
_QUESTION = """You advise a machine learning engineer who improves the script of one task.

# Task
{problem}

# Script {name}
```python
{script}
```

Give {number} different pieces of advice that concern only {scope}.
Each must be one line, concrete enough to be carried out as it stands, clearly unlike the others.
"""
_FORM = f"Write {ADVICE_FLAG} once, on a line of its own, and after it one piece of advice per line."
_MAX_WORDS = 60
_MAX_SCRIPT = 20_000  # characters; a longer script would crowd out the question
IDEAS_CURE = (
    "give mlagent run a list with -p ideas=FILE (one idea a line), or a model that writes them with "
    "-p expert=openai:<model>@<url>"
)
_AXIS = re.compile(rf"({'|'.join(AXES)}):\s+", re.IGNORECASE)
_BULLET = re.compile(r"^\s*(?:[-*+•>]+|\(?\d{1,3}[.):]|\(?[a-zA-Z][.)])\s+")


@dataclass(frozen=True)
class Idea:
    """One line of advice on one axis; its key is unique within a task."""

    key: str
    axis: str
    text: str

    def to_json(self) -> dict:
        """Return the idea as a trajectory stores it."""
        return {"key": self.key, "axis": self.axis, "instruction": self.text}


Ideas = tuple[Idea, ...]


def candidate_ideas(task: Task, *, generate: Generate | None = None, minimum: int = MIN_IDEAS) -> Ideas:
    """Return at least ``minimum`` distinct ideas for a task (paper section 4.1: at least 100).

    A pocket task has them in its catalogue, and so has a task whose starter has the same three blocks
    (``mlagent tasks new``). Another task may bring its own, however few (``Task.ideas``). Wherever
    ``generate`` is given, a language model writes them, one prompt per axis as in version 2, asked again
    while too few are distinct.

    Args:
        generate: Maps a prompt to a reply, e.g. ``ChatEndpoint(...).generate``.

    Raises:
        TaskError: No catalogue covers the task, it brings no ideas, and no ``generate`` was given.
        EndpointError: The model did not write ``minimum`` distinct ideas.
    """
    if generate is not None:
        return _generated_ideas(task, generate, minimum)
    if task.ideas:
        return distinct(Idea(_key(axis, text), axis, text) for axis, text in task.ideas)
    if not has_catalogue(task):
        raise TaskError(
            f"task {task.name!r} is not of the pocket suite, nor does its {task.starter} have the suite's "
            f"blocks ({', '.join(f'# {axis}' for axis in AXES)}), so there is no catalogue of ideas for it",
            cure=f"{IDEAS_CURE}; mlagent agent acts on it with --policy openai:<model>@<url>",
        )
    ideas = distinct(Idea(edit.key, edit.axis, edit.instruction) for edit in edits(task.modality, task.kind))
    if len(ideas) < minimum:
        told = f"the catalogue has {len(ideas)} ideas for {task.modality} / {task.kind}, {minimum} are needed"
        raise TaskError(told, cure=f"ask for at most {len(ideas)}")
    return ideas


def has_catalogue(task: Task) -> bool:
    """Return whether the edits of the catalogue can be carried out on the starter of a task."""
    if task.modality not in MODALITIES or task.kind not in KINDS:
        return False
    if task.split in ("held-in", "held-out"):
        return True
    script = task.env_files().get(task.starter, b"").decode("utf-8", "replace")
    with contextlib.suppress(ValueError):
        return all(read_block(script, axis) for axis in AXES)
    return False


def read_ideas(path: Path) -> tuple[tuple[str, str], ...]:
    """Return the ideas of a file, as `Task.ideas` holds them: one a line, such as ``data: Scale columns``.

    Empty lines and those that begin with ``#`` are left out, and so are bullets. A line that does not begin
    with ``data:``, ``model:`` or ``learning:`` is an idea on the model.

    Raises:
        TaskError: It cannot be read, or holds no idea.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        told = f"the list of ideas {path} cannot be read ({error.__class__.__name__})"
        raise TaskError(told, cure="give -p ideas=FILE a text file in UTF-8 with one idea a line") from error
    found = {}
    for line in lines:
        text = _printable(_BULLET.sub("", line))
        axis = _AXIS.match(text)
        text = text[axis.end() :] if axis else text
        if text and not text.startswith("#"):
            found.setdefault(_normal(text), (axis.group(1).lower() if axis else "model", text))
    if not found:
        raise TaskError(f"the list of ideas {path} is empty", cure="write one idea a line")
    return tuple(found.values())


def _printable(text: str) -> str:
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def distinct(ideas: Iterable[Idea]) -> Ideas:
    """Return the ideas without those that repeat an earlier one up to case, blanks and punctuation.

    Example:
        >>> [i.key for i in distinct([Idea("a", "data", "Scale it."), Idea("b", "data", "scale  IT")])]
        ['a']
    """
    first: dict[str, Idea] = {}
    for idea in ideas:
        first.setdefault(_normal(idea.text), idea)
    return tuple(first.values())


def idea_prompt(task: Task, axis: str, number: int, *, known: Sequence[str] = ()) -> str:
    """Return the prompt that asks for one-line ideas on one axis, after a single ``[advice]`` flag.

    Args:
        known: Ideas that were given already and must not come again; the last 60 are shown.
    """
    files = task.env_files()
    name = task.starter if task.starter in files else next((f for f in files if f.endswith(".py")), "")
    script = files.get(name, b"").decode("utf-8", "replace")[:_MAX_SCRIPT]
    given = {"problem": task.research_problem.strip(), "name": name, "script": script.strip()}
    asked = _QUESTION.format(**given, number=number, scope=SCOPES[axis])
    if known:
        asked += "Already given, do not repeat:\n" + "".join(f"- {text}\n" for text in known[-60:])
    return asked + _FORM


def parse_ideas(reply: str) -> list[str]:
    """Return the ideas in a model's reply, one per line; any text gives a list, possibly an empty one.

    What a model thinks, what stands before the last ``[advice]`` flag, bullets and numbers, code fences,
    headings, and lines of under 3 or over 60 words are left out.

    Example:
        >>> parse_ideas("Sure!\\n[advice]\\n1. Scale all the columns.\\n\\n- **Use** more trees.\\n```")
        ['Scale all the columns.', 'Use more trees.']
    """
    found = []
    for line in split_thinking(reply)[0].rpartition(ADVICE_FLAG)[2].splitlines():
        text = _printable(_BULLET.sub("", line).replace("**", "").replace("`", ""))
        is_heading = text.startswith("#") or text.endswith(":")
        if not is_heading and 3 <= len(text.split()) <= _MAX_WORDS and re.search(r"[^\W\d_]{2}", text):
            found.append(text)
    return found


def _generated_ideas(task: Task, generate: Generate, minimum: int) -> Ideas:
    ideas, per_axis = (), max(PER_AXIS, -(-minimum // len(AXES)))
    for axis in AXES:
        for _ in range(ROUNDS):
            known = [idea.text for idea in ideas if idea.axis == axis]
            if len(known) >= per_axis:
                break
            texts = parse_ideas(generate(idea_prompt(task, axis, per_axis - len(known), known=known)))
            ideas = distinct([*ideas, *(Idea(_key(axis, text), axis, text) for text in texts)])
    if len(ideas) < minimum:
        raise EndpointError(
            f"the expert gave {len(ideas)} distinct ideas for {task.name!r} in {ROUNDS} rounds per axis, "
            f"{minimum} are needed",
            cure="use a stronger model, or raise temperature or max_tokens behind its address, as in "
            "openai:<model>@<url>#temperature=1,max_tokens=4096",
        )
    return ideas


def _normal(text: str) -> str:
    return " ".join(re.findall(r"[\w.%+-]*\w", text.lower()))


def _key(axis: str, text: str) -> str:
    return f"{axis}/{sha256_bytes(_normal(text).encode())[:10]}"


def select_v1(ideas: Sequence[Idea], vectors: np.ndarray, k: int = 10) -> Ideas:
    """Return version 1's pool: the ``k`` ideas of `select_farthest_average`, whatever their axis."""
    return tuple(ideas[i] for i in select_farthest_average(vectors, min(k, len(ideas))))


def select_v2(
    ideas: Sequence[Idea], vectors: np.ndarray, rng: np.random.Generator, k: int = 10
) -> dict[str, Ideas]:
    """Return version 2's pools: for each axis that has ideas, ``k`` of them by `select_farthest_point`."""
    pools = {}
    for axis in AXES:
        members = [i for i, idea in enumerate(ideas) if idea.axis == axis]
        if members:
            chosen = select_farthest_point(vectors[members], min(k, len(members)), rng=rng)
            pools[axis] = tuple(ideas[members[i]] for i in chosen)
    return pools


def draw_ideas(pool: Mapping[str, Sequence[Idea]] | Sequence[Idea], rng: np.random.Generator) -> Ideas:
    """Return the ideas of one trajectory, in the order in which they are to be tried.

    From pools by axis (version 2, B.1): k ~ Uniform{1, 2, 3} distinct axes in shuffled order, one idea from
    each. From one pool (version 1): 1 to 3 of its ideas, uniformly, without repetition.

    Raises:
        ValueError: The pool is empty.

    Example:
        >>> pools = {axis: [Idea(axis, axis, f"Change the {axis}.")] for axis in AXES}
        >>> drawn = draw_ideas(pools, np.random.default_rng(0))
        >>> 1 <= len(drawn) <= 3, len({idea.axis for idea in drawn}) == len(drawn)
        (True, True)
    """
    by_axis = isinstance(pool, Mapping)
    choices = [axis for axis, members in pool.items() if members] if by_axis else pool
    if not choices:
        raise ValueError("the pool of ideas is empty: select some first")
    count = int(rng.integers(1, min(3, len(choices)) + 1))
    drawn = [choices[i] for i in rng.permutation(len(choices))[:count]]
    if by_axis:
        drawn = [pool[axis][int(rng.integers(len(pool[axis])))] for axis in drawn]
    return tuple(drawn)
