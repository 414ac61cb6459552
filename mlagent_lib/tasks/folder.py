"""Writes task folders: tables with the hidden labels, starter, texts and card; at once or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from numpy.random import Generator

from mlagent_lib.core.files import explained, write_text
from mlagent_lib.tasks.frames import answer_columns, starter_script
from mlagent_lib.tasks.grading import LABEL_SETS
from mlagent_lib.tasks.metrics import get_metric
from mlagent_lib.tasks.spec import Sample, TaskSpec
from mlagent_lib.tasks.task import checksums, digest_of

READ_ONLY = ("data/*", "data_description.txt")
MOST_INPUTS, MOST_OUTPUTS = 15, 6  # more columns are not named one by one
_EVAL = '''"""Scores a submission on the report labels, as MLAgentBench's evaluators do."""

from pathlib import Path

from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.task import load_task


def get_score(folder):
    """Return the {metric} of submission.csv in a folder."""
    task = load_task(Path(__file__).resolve().parent.parent)
    return grade(task, Path(folder, "submission.csv").read_bytes(), "report")
'''

_DESCRIPTION = """\
{spec.description}

data/train.csv: {spec.rows[0]} rows, inputs {inputs}; answers {answers}.
data/test.csv: {hidden} rows, id and the same inputs."""
_REQUEST = """\
{spec.description}

You are given a training script train.py and data_description.txt. Understand the script, then \
improve it: {better} the {metric} on the test rows to {spec.goal}.
(1) Do not change the random seed.
(2) Save the answers for all rows of data/test.csv to submission.csv, in the format of train.py.
(3) One run may take {spec.limits.seconds:g} seconds on one core.
"""


@contextmanager
def drafted(target: Path) -> Iterator[Path]:
    """Give an empty folder beside ``target`` that takes its place at the end, or vanishes after an error."""
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
        draft.chmod(0o755)
    try:
        yield draft
        with explained(target):
            os.replace(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def write_tables(folder: Path, sample: Sample, rows: tuple[int, int, int], draws: Generator) -> None:
    """Write the visible rows, the hidden inputs, and the hidden labels, which only the owner may open.

    The sample holds first the visible, then the feedback, then the report rows, as many as ``rows`` says.
    """
    data, labels = folder / "env" / "data", folder / "scripts" / "labels"
    data.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    labels.chmod(0o700)
    visible, feedback, report = rows
    pd.concat([sample.inputs, sample.targets], axis=1)[:visible].to_csv(data / "train.csv", index=False)
    # The two hidden sets are mixed, and ids say nothing: a script cannot tell which rows are which.
    ids = 100_000 + draws.choice(900_000, feedback + report, replace=False)
    hidden = sample.targets[visible:].set_axis(pd.Index(ids, name="id"), axis=0)
    test = sample.inputs[visible:].set_axis(hidden.index, axis=0)
    test.iloc[draws.permutation(len(test))].to_csv(data / "test.csv")
    for name, part in zip(LABEL_SETS, (hidden[:feedback], hidden[feedback:]), strict=True):
        part.to_csv(labels / f"{name}.csv")
        (labels / f"{name}.csv").chmod(0o600)
    for name, table in sample.extra.items():
        if isinstance(table, pd.DataFrame):
            table.to_csv(data / f"{name}.csv", index=False)
        else:
            np.save(data / f"{name}.npy", table)


def _named(names: Sequence[str], most: int) -> str:
    return ", ".join(names) if len(names) <= most else f"{names[0]} ... {names[-1]} ({len(names)} columns)"


def _description(spec: TaskSpec, sample: Sample, more: Sequence[str], tell_origin: bool) -> str:
    """Return the text that the agent reads about the data."""
    inputs, answers = _named(list(sample.inputs), MOST_INPUTS), _named(list(sample.targets), MOST_OUTPUTS)
    told = {"inputs": inputs, "answers": answers, "hidden": sum(spec.rows[1:])}
    lines = [_DESCRIPTION.format(spec=spec, **told), *more, f"Facts: {'; '.join(spec.facts)}."]
    lines += [f"Origin: {spec.provenance}."] if tell_origin else []
    return "\n".join(lines) + "\n"


def _request(spec: TaskSpec) -> str:
    """Return the research problem, in the manner of the paper's figure 7."""
    better = "raise" if get_metric(spec.metric).greater_is_better else "lower"
    return _REQUEST.format(spec=spec, better=better, metric=spec.metric.removesuffix("-columns"))


def write_texts(
    folder: Path,
    spec: TaskSpec,
    sample: Sample,
    classes: Sequence[int],
    *,
    prepare: str = "",
    more: Sequence[str] = (),
    recorded: dict | None = None,
    may_lack_classes: bool = False,
    tell_origin: bool = True,
    **stated: object,
) -> None:
    """Write starter, texts and card of a task whose tables are written.

    Args:
        classes: The classes or ratings that an answer may name; empty for free numbers.
        prepare: Text of ``scripts/prepare.py``; "" for none.
        more: Further lines of ``data_description.txt``.
        recorded: Scores that were measured on exactly these files, as `measure` records them; used only where
            their digest is that of the files.
        may_lack_classes: See `starter_script`.
        tell_origin: Whether the agent reads where the data come from.
        stated: Further entries of the card.
    """
    files = {
        "env/train.py": starter_script(spec, classes, may_lack_classes=may_lack_classes),
        "env/data_description.txt": _description(spec, sample, more, tell_origin),
        "scripts/research_problem.txt": _request(spec),
        "scripts/read_only_files.txt": "\n".join(READ_ONLY) + "\n",
        "scripts/eval.py": _EVAL.format(metric=spec.metric),
    } | ({"scripts/prepare.py": prepare} if prepare else {})
    for path, text in files.items():
        (folder / path).write_text(text, encoding="utf-8")
    sums, metric = checksums(folder), get_metric(spec.metric)
    if not recorded or recorded["digest"] != digest_of(sums):
        unknown = dict.fromkeys(LABEL_SETS, metric.perfect) | {"provenance": "not measured"}
        recorded = {"baseline": unknown, "best": dict(unknown)}
    columns = answer_columns(spec.kind, len(classes), list(sample.targets))
    content = {name: getattr(spec, name) for name in ("name", "modality", "kind", "metric")}
    content["direction"] = "maximize" if metric.greater_is_better else "minimize"
    content |= {name: getattr(spec, name) for name in ("split", "paper_task", "description")}
    content |= {"facts": list(spec.facts), "rows": spec.rows[0], "columns": sample.inputs.shape[1]}
    content |= {"provenance": spec.provenance, **stated, "real": spec.real}
    content |= {"answer": {"columns": list(columns), "classes": list(classes)}}
    content |= {name: dict(recorded[name]) for name in ("baseline", "best")}
    content |= {"limits": spec.limits.to_json(), "checksums": sums}
    write_card(folder, content)


def write_card(folder: Path, content: dict) -> None:
    """Write ``task.yaml``."""
    write_text(folder / "task.yaml", yaml.safe_dump(content, sort_keys=False, width=110, allow_unicode=True))


def add_to_card(folder: Path, **entries: object) -> None:
    """Write entries, such as measured scores, into a card that is there."""
    write_card(folder, yaml.safe_load((folder / "task.yaml").read_text(encoding="utf-8")) | entries)
