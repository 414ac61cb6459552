"""A task folder, read from disk: what the agent sees, how it is graded, what it may use.

The layout is MLAgentBench's (``env/``, ``scripts/``) plus a ``task.yaml``; a folder of that benchmark loads
unchanged when the caller states what ``task.yaml`` would say, or its name is among the known ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.limits import Limits
from mlagent_lib.tasks.env_folder import divide

if TYPE_CHECKING:
    from mlagent_lib.tasks.foreign.grader import ForeignGrader

SPLITS = ("held-in", "held-out", "other")


@dataclass(frozen=True)
class Task:
    """One task.

    Attributes:
        name: Name of the folder.
        folder: Where it lies.
        modality: ``tabular``, ``text``, ``image``, ``graph`` or ``other``.
        kind: ``label``, ``probability``, ``regression``, ``multioutput``, ``rank`` or ``other``.
        metric: Name of the metric, e.g. ``logloss``.
        greater_is_better: Its direction.
        split: ``held-in``, ``held-out`` or ``other``.
        paper_task: The task of the paper that this one stands in for, with its metric.
        baseline: Score of the starter on each label set, in the unit of the metric.
        best: Best known score on each label set.
        best_provenance: How the best known score was found.
        limits: What one run of a script may use.
        description: Two or three sentences on the task.
        facts: Short facts on the data.
        rows: Visible rows.
        columns: Input columns (pixels, words are one column).
        research_problem: The request that the agent reads.
        read_only: Globs of files that the agent may not change.
        provenance: Where the data come from.
        real: Whether the rows are public data bundled with a library: a tier that lets a run read that copy
            makes the task contaminated.
        answer_columns: Columns of a submission besides ``id``.
        classes: The classes or ratings that an answer may name; empty for free numbers.
        grader: A foreign file that grades; None where our own metrics and label files do.
        starter: The entry script below ``env/``: what is run, also after another file was edited.
        driver: A protected file below ``env/`` that is run in place of the starter, and runs it; "" for none.
        ideas: Pairs of axis and text that stand in for a catalogue of ideas; empty where there is one.
    """

    name: str
    folder: Path
    modality: str
    kind: str
    metric: str
    greater_is_better: bool
    split: str = "other"
    paper_task: str = ""
    baseline: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_provenance: str = ""
    limits: Limits = field(default_factory=Limits)
    description: str = ""
    facts: tuple[str, ...] = ()
    rows: int = 0
    columns: int = 0
    research_problem: str = ""
    read_only: tuple[str, ...] = ()
    provenance: str = ""
    real: bool = False
    answer_columns: tuple[str, ...] = ()
    classes: tuple[int, ...] = ()
    grader: ForeignGrader | None = None
    starter: str = "train.py"
    driver: str = ""
    ideas: tuple[tuple[str, str], ...] = ()

    @property
    def entry(self) -> str:
        """Return the file below ``env/`` that an execution of the starter runs."""
        return self.driver or self.starter

    @property
    def better(self) -> str:
        """Return the better direction in a word, ``higher`` or ``lower``."""
        return "higher" if self.greater_is_better else "lower"

    @property
    def one_label_set(self) -> bool:
        """Return whether feedback and report are the same labels, so that a report is no test on new ones."""
        return self.grader is not None and self.grader.one_label_set

    @property
    def data_dir(self) -> Path:
        """Return the folder with the data that a run reads: ``env/data``, or ``env`` with its `links`."""
        return self.folder / "env" if self.links else self.folder / "env" / "data"

    @property
    def links(self) -> tuple[str, ...]:
        """Return what of ``env/`` a run reads by reference, where that is more than the folder ``data``."""
        return self._contents[1]

    @property
    def labels_dir(self) -> Path:
        """Return the folder with the hidden labels; a foreign folder has none."""
        return self.folder / "scripts" / "labels"

    @cached_property
    def digest(self) -> str:
        """Return the sha256 of all files of ``env/`` and ``scripts/``, with their paths."""
        return digest_of(checksums(self.folder))

    def env_files(self) -> dict[str, bytes]:
        """Return the text files that the agent works on, by path relative to ``env/``; data are left out."""
        return dict(self._contents[0])

    @cached_property
    def _contents(self) -> tuple[dict[str, bytes], tuple[str, ...]]:
        return divide(self.folder / "env", self.read_only)

    def __hash__(self) -> int:
        return hash((self.name, str(self.folder)))


def size_of(task: Task, rows: str = "rows") -> str:
    """Return how large the data are, as far as the card states it: "" where it does not.

    Example:
        >>> card = {"modality": "text", "kind": "other", "metric": "auc", "greater_is_better": True}
        >>> size_of(Task("a", Path(), **card)), size_of(Task("a", Path(), **card, rows=12), "visible rows")
        ('', '12 visible rows')
    """
    counts = ((task.rows, rows), (task.columns, "columns"))
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def checksums(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of ``env/`` and ``scripts/``, by path relative to ``folder``."""
    found = {}
    for part in ("env", "scripts"):
        for path in sorted((folder / part).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                found[path.relative_to(folder).as_posix()] = sha256(path.read_bytes()).hexdigest()
    return found


def digest_of(sums: dict[str, str]) -> str:
    """Return one sha256 for a table of checksums.

    Example:
        >>> digest_of({"b": "1", "a": "2"}) == digest_of({"a": "2", "b": "1"})
        True
    """
    return sha256("".join(f"{path}\0{value}\n" for path, value in sorted(sums.items())).encode()).hexdigest()


def load_task(
    folder: str | Path, *, greater_is_better: bool | None = None, limits: Limits | None = None, **stated
) -> Task:
    """Return the task in a folder.

    Args:
        folder: With ``env/`` and ``scripts/``.
        greater_is_better: Direction of a foreign folder without ``task.yaml``; never guessed.
        limits: Limits of such a folder; never guessed. For other folders they replace the stated ones.
        stated: Any other attribute of `Task` for such a folder (``metric``, ``modality``, ``baseline`` ...).

    A foreign folder with an ``eval.py`` is graded by it (see `foreign.grader`). ``best`` and ``baseline`` may
    be one number each, since such a folder has one label set for both uses.

    Raises:
        TaskError: No such folder; a file or a key is missing; direction or limits of a foreign folder not
        given.
    """
    if not Path(folder).is_dir():
        raise TaskError(f"there is no task folder {folder}", cure="give an existing folder or a task name")
    folder = Path(folder).resolve()
    for needed in ("env", "scripts"):
        if not (folder / needed).is_dir():
            raise TaskError(
                f"{folder} is no task folder: {needed}/ is missing",
                cure="a task folder holds env/ and scripts/",
            )
    if (folder / "task.yaml").is_file():
        task = _from_card(folder, _read_card(folder / "task.yaml"))
        return task if limits is None else replace(task, limits=limits)
    return _foreign(folder, greater_is_better, limits, stated)


def _foreign(folder: Path, greater_is_better: bool | None, limits: Limits | None, stated: dict) -> Task:
    """Return the task in a folder without ``task.yaml``."""
    from mlagent_lib.tasks.foreign.grader import ForeignGrader
    from mlagent_lib.tasks.foreign.known_tasks import known_folders

    known = known_folders().get(folder.name)
    if greater_is_better is None and known is not None:
        greater_is_better = known.greater_is_better
    if greater_is_better is None or limits is None:
        missing = ["direction"] * (greater_is_better is None) + ["limits"] * (limits is None)
        error = TaskError(
            f"{folder} has no task.yaml, so that its {' and '.join(missing)} "
            f"{'are' if len(missing) > 1 or limits is None else 'is'} not known",
            cure="write its card once with 'mlagent tasks adopt FOLDER --better higher or lower --best SCORE "
            "--seconds N', which 'mlagent tasks check' takes too",
        )
        error.add_note("load_task(folder, greater_is_better=True or False, limits=Limits(...)) states them")
        raise error
    told = {"modality": "other", "kind": "other", "metric": "score"}
    if known is not None and greater_is_better == known.greater_is_better:
        told |= {"metric": known.metric, "modality": known.modality, "best_provenance": known.source}
        told |= {"best": known.best} if known.best is not None else {}
    script = folder / "scripts" / "eval.py"
    if script.is_file() and not (folder / "scripts" / "labels").is_dir():
        told["grader"] = ForeignGrader(script)
    told |= stated
    told |= {name: _both_sets(told[name]) for name in ("best", "baseline") if name in told}
    own = {"name": folder.name, "folder": folder, "greater_is_better": greater_is_better, "limits": limits}
    return Task(**own, **_texts(folder), **told)


def _read_card(path: Path) -> dict:
    try:
        card = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise TaskError(
            f"{path} is not valid YAML ({error.__class__.__name__})", cure="correct the file"
        ) from error
    if not isinstance(card, dict):
        raise TaskError(f"{path} holds no table of keys", cure="write one 'key: value' a line")
    return card


def _texts(folder: Path) -> dict:
    """Return the request and the read-only globs, which both kinds of folders keep in ``scripts/``."""
    problem, globs = folder / "scripts" / "research_problem.txt", folder / "scripts" / "read_only_files.txt"
    if not problem.is_file():
        raise TaskError(f"{problem} is missing", cure="write the request to the agent into that file")
    lines = globs.read_text(encoding="utf-8").split("\n") if globs.is_file() else []
    return {
        "research_problem": problem.read_text(encoding="utf-8").strip(),
        "read_only": tuple(line.strip() for line in lines if line.strip()),
    }


def _both_sets(scores: object) -> object:
    """Return one score of a folder with one label set as the score on either."""
    one = isinstance(scores, (int, float))
    return dict.fromkeys(("feedback", "report"), float(scores)) if one else scores


def _scores(card: dict, key: str, path: Path) -> dict[str, float]:
    scores = _both_sets(card[key]) if "grader" in card else card[key]
    try:
        return {name: float(scores[name]) for name in ("feedback", "report")}
    except (KeyError, TypeError, ValueError) as error:
        raise TaskError(
            f"{path}: {key} must hold numbers for feedback and report, found {scores!r}",
            cure="state both scores",
        ) from error


def _from_card(folder: Path, card: dict) -> Task:
    path = folder / "task.yaml"
    needed = ("name", "modality", "kind", "metric", "direction", "baseline", "best", "limits")
    missing = [key for key in needed if key not in card]
    if missing:
        raise TaskError(f"{path} lacks {', '.join(missing)}", cure=f"a card holds {', '.join(needed)}")
    if card["direction"] not in ("maximize", "minimize"):
        raise TaskError(f"{path}: direction is {card['direction']!r}", cure="write maximize or minimize")
    if card.get("split", "other") not in SPLITS:
        raise TaskError(f"{path}: split is {card['split']!r}", cure=f"choose one of {', '.join(SPLITS)}")
    try:
        limits = Limits(**card["limits"])
    except TypeError as error:
        raise TaskError(
            f"{path}: limits holds an unknown key ({error})",
            cure=f"known are {', '.join(Limits().to_json())}",
        ) from error
    as_written = (
        *needed[:4],
        "split",
        "paper_task",
        "description",
        "rows",
        "columns",
        "provenance",
        "starter",
        "driver",
    )
    answer, grader = card.get("answer", {}), None
    if "grader" in card:
        from mlagent_lib.tasks.foreign.grader import ForeignGrader  # here: most tasks have none

        grader = ForeignGrader.from_card(folder, card["grader"])
    return Task(
        **{name: card[name] for name in as_written if name in card},
        folder=folder,
        greater_is_better=card["direction"] == "maximize",
        baseline=_scores(card, "baseline", path),
        best=_scores(card, "best", path),
        best_provenance=card["best"].get("provenance", "") if isinstance(card["best"], dict) else "",
        limits=limits,
        facts=tuple(card.get("facts", ())),
        real=bool(card.get("real", False)),
        answer_columns=tuple(answer.get("columns", ())),
        classes=tuple(answer.get("classes", ())),
        grader=grader,
        **_texts(folder),
    )
