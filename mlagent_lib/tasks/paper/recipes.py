"""The paper's 19 tasks (``recipes.yaml``): where each comes from, what it asks, how its labels are cut."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from mlagent_lib.core.files import read_yaml
from mlagent_lib.core.limits import Limits
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.spec import TaskSpec

PREFIX = "paper/"
KAGGLE = "https://www.kaggle.com/competitions/"
SPLITTING = "cut from the competition's training set, since the labels of its test set are not public"
LICENCE = "Kaggle competition data: use and sharing are bound by the competition's rules, which you accept"


@dataclass(frozen=True, kw_only=True)
class Recipe(TaskSpec):
    """One task of the paper; ``rows`` are the most of each set: a smaller download is cut in the same ratio.

    Attributes:
        reader: Function of `readers` that turns the files into rows.
        files: Files that are needed, as globs matched from the right.
        archives: Archives inside the download that have to be opened for them.
        id: Column that only names a row; empty to keep all.
        targets: Columns with the answer.
        needs: Other columns that must be there: a missing one means that the layout has changed.
        rename: Names of input columns that the task folder uses, by their name in the download.
        group: Column whose first part (before ``_``) keeps rows together; empty for none.
        stratified: Whether the sets get every class in proportion.
        unseen: Class that stands for all classes without a visible row; empty for none.
        splitting: The rule in words.
        picture: Glob of the picture of a row, with ``{}`` for the value of ``picture_column``.
        picture_column: Column that names the picture.
        side: Pixels to which pictures are brought at preparation; 0 where there are none.
        channels: 3 for colour, 1 for grey.
        slug: Kaggle's name of the competition; empty for a public download.
        url: Address of a public download.
        md5: Its checksum where the publisher states one.
        size_mb: About how many megabytes are downloaded; None where no source says.
        size_source: Which source says so.
        disk_mb: Free megabytes asked for before a download whose size is unknown: a reserve, not a size.
        work_minutes: About how many minutes the preparation takes after the download.
        paper_metric: The metric in the paper's words.
        paper_init: Score of the initial script, derived from v1 and v2, in the metric's unit; or None.
        paper_best: The paper's ML-Agent, best@8 of v1 Table 1; None where not published.
        licence: What binds the use of the data.
        note: What a user should know beforehand.
    """

    reader: str
    files: tuple[str, ...]
    targets: tuple[str, ...]
    paper_metric: str
    archives: tuple[str, ...] = ()
    id: str = ""
    needs: tuple[str, ...] = ()
    rename: dict[str, str] = field(default_factory=dict)
    group: str = ""
    stratified: bool = True
    unseen: str = ""
    splitting: str = SPLITTING
    picture: str = ""
    picture_column: str = ""
    side: int = 0
    channels: int = 3
    slug: str = ""
    url: str = ""
    md5: str = ""
    size_mb: float | None = None
    size_source: str = "MLE-bench, table of dataset sizes"
    disk_mb: int = 1000
    work_minutes: int = 1
    paper_init: float | None = None
    paper_best: float | None = None
    licence: str = LICENCE
    note: str = ""
    limits: Limits = field(default_factory=lambda: Limits(seconds=120.0, memory_bytes=4 << 30))

    @property
    def page(self) -> str:
        """Return the address of the page that a reader can open."""
        return KAGGLE + self.slug if self.slug else self.url

    @property
    def command(self) -> str:
        """Return the command that prepares the task."""
        return f"mlagent tasks prepare {PREFIX}{self.name}"

    @property
    def origin(self) -> str:
        """Return name, metric and table row as the paper has them."""
        row = "training task, without a row in v1 Table 1" if self.paper_best is None else "v1 Table 1"
        scores = {"initial script, derived,": self.paper_init, "ML-Agent best@8": self.paper_best}
        told = [f"{words} {value:g}" for words, value in scores.items() if value is not None]
        return f"{self.name} ({self.paper_metric}; {', '.join([row, *told])})"


def _recipe(entry: dict) -> Recipe:
    entry = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    if "memory" in entry:
        entry["limits"] = Limits(seconds=120.0, memory_bytes=entry.pop("memory"))
    return Recipe(**entry)


RECIPES = tuple(_recipe(entry) for entry in read_yaml(Path(__file__).with_suffix(".yaml"))["recipes"])


def recipe(name: str) -> Recipe:
    """Return the recipe of this name; Kaggle's name of the competition will do, with or without ``paper/``.

    Raises:
        TaskError: There is none; the message names the nearest.

    Example:
        >>> recipe("paper/nomad2018").slug
        'nomad2018-predict-transparent-conductors'
    """
    short = name.removeprefix(PREFIX)
    for found in RECIPES:
        if short and short in (found.name, found.slug):
            return found
    names = [name for found in RECIPES for name in (found.name, found.slug) if name]
    near = difflib.get_close_matches(short, names, 1, 0.3)
    raise refusal("no paper task", name=short, hint=f"did you mean {PREFIX}{near[0]}? " if near else "")


def paper_folder(name: str, home: Path) -> Path:
    """Return where the task folder of a paper task lies below ``home``, or will lie."""
    return home / "paper" / recipe(name).name


def prepared_folder(name: str, home: Path) -> Path:
    """Return the folder of a paper task that is prepared.

    Raises:
        TaskError: It is not; the message names the command.
    """
    folder = paper_folder(name, home)
    if not folder.is_dir():
        raise refusal("not prepared", recipe=recipe(name), prefix=PREFIX)
    return folder


def rough_size(found: Recipe) -> str:
    """Return the size of the download in words.

    Example:
        >>> rough_size(recipe("cifar-10")), rough_size(recipe("spaceship-titanic"))
        ('about 162 MB', 'unknown')
    """
    return "unknown" if found.size_mb is None else f"about {found.size_mb:g} MB"


def rough_time(found: Recipe) -> str:
    """Return the time in words: a download at 5 MB a second, then the preparation on one core; an estimate.

    Example:
        850 MB at 5 MB/s are 2.8 minutes; 3 minutes of work follow.

        >>> rough_time(recipe("dogs-vs-cats-redux")), rough_time(recipe("home-data-for-ml-course"))
        ('about 6 min', 'about 1 min + download')
    """
    if found.size_mb is None:
        return f"about {found.work_minutes} min + download"
    return f"about {round(found.size_mb / 5 / 60 + found.work_minutes)} min"


def paper_task_rows(split: str | None = None) -> list[tuple[str, ...]]:
    """Return the table of the paper's tasks (of one split, or of both), with its header."""
    rows = [("task", "split", "metric", "download", "time", "command")]
    for found in RECIPES:
        if split in (None, found.split):
            estimated = rough_size(found), rough_time(found)
            rows.append((found.name, found.split, found.paper_metric, *estimated, found.command))
    return rows


def paper_task_lines() -> list[str]:
    """Return the same table as lines of Markdown, for the README."""
    header, *rows = paper_task_rows()
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return lines + ["| " + " | ".join([*row[:-1], f"`{row[-1]}`"]) + " |" for row in rows]
