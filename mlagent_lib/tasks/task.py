"""A task folder, read from disk: what the agent sees, how it is graded, what it may use.

The layout is MLAgentBench's (``env/``, ``scripts/``) plus a ``task.yaml``; a folder of that benchmark loads
unchanged when the caller states what ``task.yaml`` would say, or its name is among the known ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from mlagent_lib.core.files import sha256_bytes, sha256_file
from mlagent_lib.core.limits import Limits
from mlagent_lib.tasks.env_folder import divide
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.spec import Stated

if TYPE_CHECKING:
    from mlagent_lib.tasks.foreign.grader import ForeignGrader

SPLITS = ("held-in", "held-out", "other")
# What a card must hold. The first four, and these others, are attributes of the task as they stand there.
_NEEDED = ("name", "modality", "kind", "metric", "direction", "baseline", "best", "limits")
_MORE = ("split", "paper_task", "description", "rows", "columns", "provenance", "starter", "driver")


@dataclass(frozen=True, kw_only=True)
class Task(Stated):
    """One task: what is stated of it, and what lies in its folder.

    Attributes:
        folder: Where it lies.
        greater_is_better: The direction of the metric.
        baseline: Score of the starter on each label set, in the unit of the metric.
        best: Best known score on each label set.
        best_provenance: How the best known score was found.
        rows: Visible rows.
        columns: Input columns (pixels, words are one column).
        research_problem: The request that the agent reads.
        read_only: Globs of files that the agent may not change.
        answer_columns: Columns of a submission besides ``id``.
        classes: The classes or ratings that an answer may name; empty for free numbers.
        grader: A foreign file that grades; None where our own metrics and label files do.
        starter: The entry script below ``env/``: what is run, also after another file was edited.
        driver: A protected file below ``env/`` that is run in place of the starter, and runs it; "" for none.
        ideas: Pairs of axis and text that stand in for a catalogue of ideas; empty where there is one.
    """

    folder: Path
    greater_is_better: bool
    baseline: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    best_provenance: str = ""
    rows: int = 0
    columns: int = 0
    research_problem: str = ""
    read_only: tuple[str, ...] = ()
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
        >>> task = Task(name="a", folder=Path(), **card)
        >>> size_of(task), size_of(replace(task, rows=12), "visible rows")
        ('', '12 visible rows')
    """
    counts = ((task.rows, rows), (task.columns, "columns"))
    return ", ".join(f"{count} {what}" for count, what in counts if count)


def task_files(folder: Path) -> list[Path]:
    """Return every file of ``env/`` and ``scripts/``, in their order."""
    paths = [path for part in ("env", "scripts") for path in sorted((folder / part).rglob("*"))]
    return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]


def checksums(folder: Path) -> dict[str, str]:
    """Return the sha256 of every file of ``env/`` and ``scripts/``, by path relative to ``folder``."""
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in task_files(folder)}


def digest_of(sums: dict[str, str]) -> str:
    """Return one sha256 for a table of checksums.

    Example:
        >>> digest_of({"b": "1", "a": "2"}) == digest_of({"a": "2", "b": "1"})
        True
    """
    return sha256_bytes("".join(f"{path}\0{value}\n" for path, value in sorted(sums.items())).encode())


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
        raise refusal("no folder", folder=folder)
    folder = Path(folder).resolve()
    for needed in ("env", "scripts"):
        if not (folder / needed).is_dir():
            raise refusal("no task folder", folder=folder, needed=needed)
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
        verb = "is" if missing == ["direction"] else "are"
        error = refusal("no card", folder=folder, missing=" and ".join(missing), verb=verb)
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
        raise refusal("card no yaml", path=path, error=type(error).__name__) from error
    if not isinstance(card, dict):
        raise refusal("card no table", path=path)
    return card


def _texts(folder: Path) -> dict:
    """Return the request and the read-only globs, which both kinds of folders keep in ``scripts/``."""
    problem, globs = folder / "scripts" / "research_problem.txt", folder / "scripts" / "read_only_files.txt"
    if not problem.is_file():
        raise refusal("no request", path=problem)
    lines = globs.read_text(encoding="utf-8").split("\n") if globs.is_file() else []
    read_only = tuple(line.strip() for line in lines if line.strip())
    return {"research_problem": problem.read_text(encoding="utf-8").strip(), "read_only": read_only}


def _both_sets(scores: object) -> object:
    """Return one score of a folder with one label set as the score on either."""
    one = isinstance(scores, (int, float))
    return dict.fromkeys(("feedback", "report"), float(scores)) if one else scores


def _scores(card: dict, key: str, path: Path) -> dict[str, float]:
    scores = _both_sets(card[key]) if "grader" in card else card[key]
    try:
        return {name: float(scores[name]) for name in ("feedback", "report")}
    except (KeyError, TypeError, ValueError) as error:
        raise refusal("no two scores", path=path, key=key, scores=scores) from error


def _from_card(folder: Path, card: dict) -> Task:
    path = folder / "task.yaml"
    missing = [key for key in _NEEDED if key not in card]
    if missing:
        raise refusal("card lacks", path=path, missing=", ".join(missing), needed=", ".join(_NEEDED))
    if card["direction"] not in ("maximize", "minimize"):
        raise refusal("card direction", path=path, direction=card["direction"])
    if card.get("split", "other") not in SPLITS:
        raise refusal("card split", path=path, split=card["split"], known=", ".join(SPLITS))
    try:
        limits = Limits(**card["limits"])
    except TypeError as error:
        raise refusal("card limits", path=path, error=error, known=", ".join(Limits().to_json())) from error
    answer, grader = card.get("answer", {}), None
    if "grader" in card:
        from mlagent_lib.tasks.foreign.grader import ForeignGrader  # here: most tasks have none

        grader = ForeignGrader.from_card(folder, card["grader"])
    return Task(
        **{name: card[name] for name in (*_NEEDED[:4], *_MORE) if name in card},
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
