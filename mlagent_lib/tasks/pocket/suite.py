"""Builds the folders of the pocket suite: deterministically, at once or not at all, by one process at a time.

``python -m mlagent_lib.tasks.pocket.suite --measure`` measures the scores that the cards state (see
`measure`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from mlagent_lib.core.errors import TaskError
from mlagent_lib.core.files import lock
from mlagent_lib.core.limits import Limits
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.metrics import get_metric
from mlagent_lib.tasks.pocket.cards import CARDS, Card, card
from mlagent_lib.tasks.pocket.frames import answer_columns, starter_script
from mlagent_lib.tasks.pocket.sources import Sample
from mlagent_lib.tasks.task import checksums, digest_of

SUITE_SEED = 2505_23723
LIMITS = Limits(seconds=20.0)
HERE = Path(__file__).parent
SCORES = HERE / "scores.json"
READ_ONLY = ("data/*", "data_description.txt")


def normalised_rows(inputs: pd.DataFrame) -> pd.Series:
    """Return one key for each row that is equal for rows which differ in spelling only.

    Texts lose case, punctuation and blanks; numbers are rounded to six digits.

    Example:
        >>> normalised_rows(pd.DataFrame({"text": ["A  dog.", "a dog", "a cat"]})).nunique()
        2
    """
    parts = {}
    for name in inputs:
        column = inputs[name]
        if pd.api.types.is_numeric_dtype(column):
            parts[name] = [repr(float(value)) for value in column.astype(float).round(6)]
        else:
            parts[name] = [" ".join(re.findall(r"\w+", str(text).casefold())) for text in column]
    return pd.Series(["\x1f".join(row) for row in zip(*parts.values(), strict=True)], index=inputs.index)


def draw_sample(spec: Card) -> Sample:
    """Return the rows of a task without repeated rows, in random order."""
    module, name = spec.source.split(".")
    function = getattr(import_module(f"mlagent_lib.tasks.pocket.{module}"), name)
    sample = function(rng(SUITE_SEED, spec.name, "rows"))
    order = rng(SUITE_SEED, spec.name, "order").permutation(len(sample.inputs))
    inputs = sample.inputs.iloc[order].reset_index(drop=True)
    targets = sample.targets.iloc[order].reset_index(drop=True)
    fresh = ~normalised_rows(inputs).duplicated()
    inputs, targets = inputs[fresh].reset_index(drop=True), targets[fresh].reset_index(drop=True)
    if len(inputs) < sum(spec.rows):
        raise TaskError(
            f"{spec.name}: {spec.source} gives {len(inputs)} different rows, {sum(spec.rows)} are needed",
            cure="ask for fewer rows in cards.py",
        )
    return Sample(inputs[: sum(spec.rows)], targets[: sum(spec.rows)], sample.extra)


def _description(spec: Card, sample: Sample, more: Sequence[str] = ()) -> str:
    """Return the text that the agent reads about the data, with more lines on the columns where there are."""
    inputs = list(sample.inputs)
    shown = (
        ", ".join(inputs) if len(inputs) <= 12 else f"{inputs[0]} ... {inputs[-1]} ({len(inputs)} columns)"
    )
    targets = list(sample.targets)
    asked = (
        ", ".join(targets)
        if len(targets) <= 4
        else f"{targets[0]} ... {targets[-1]} ({len(targets)} columns)"
    )
    lines = [
        spec.description,
        "",
        f"data/train.csv: {spec.rows[0]} rows, inputs {shown}; answers {asked}.",
        f"data/test.csv: {sum(spec.rows[1:])} rows, id and the same inputs.",
    ]
    if "nodes" in sample.extra:
        lines += [
            "data/nodes.csv: one line of features for each node, node 0 first.",
            "data/edges.csv: source, cites (two node numbers).",
        ]
    lines += more
    lines += ["Facts: " + "; ".join(spec.facts) + ".", "Origin: " + spec.provenance + "."]
    return "\n".join(lines) + "\n"


def _request(spec: Card, limits: Limits = LIMITS) -> str:
    """Return the research problem, in the manner of the paper's figure 7."""
    better = "raise" if get_metric(spec.metric).greater_is_better else "lower"
    return (
        f"{spec.description}\n\n"
        f"You are given a training script train.py and data_description.txt. Understand the script, then "
        f"improve it: {better} the {spec.metric} on the test rows to {spec.goal}.\n"
        f"(1) Do not change the random seed.\n"
        f"(2) Save the answers for all rows of data/test.csv to submission.csv, in the format of train.py.\n"
        f"(3) One run may take {limits.seconds:g} seconds on one core.\n"
    )


_PREPARE = '''"""Builds env/data and the labels of this task anew (deterministic)."""

from pathlib import Path

from mlagent_lib.tasks.pocket.suite import write_data

if __name__ == "__main__":
    write_data("{name}", Path(__file__).resolve().parent.parent)
'''
_EVAL = '''"""Scores a submission on the report labels, as MLAgentBench's evaluators do."""

from pathlib import Path

from mlagent_lib.tasks.grading import grade
from mlagent_lib.tasks.task import load_task


def get_score(folder):
    """Return the {metric} of submission.csv in a folder."""
    task = load_task(Path(__file__).resolve().parent.parent)
    return grade(task, Path(folder, "submission.csv").read_bytes(), "report")
'''


def write_data(name: str, folder: Path) -> Sample:
    """Write ``env/data`` and the hidden labels of a pocket task into a folder and return its rows."""
    spec = card(name)
    sample = draw_sample(spec)
    write_tables(folder, sample, spec.rows, rng(SUITE_SEED, name, "ids"))
    return sample


def write_tables(
    folder: Path, sample: Sample, rows: tuple[int, int, int], draws: np.random.Generator
) -> None:
    """Write the visible rows, the hidden inputs, and the hidden labels, which only the owner may open.

    Args:
        folder: Of the task.
        sample: First the visible, then the feedback, then the report rows.
        rows: How many of each.
        draws: Gives ids and order of the hidden rows.
    """
    data, labels = folder / "env" / "data", folder / "scripts" / "labels"
    data.mkdir(parents=True, exist_ok=True)
    labels.mkdir(parents=True, exist_ok=True)
    labels.chmod(0o700)
    visible, feedback, report = rows
    train = pd.concat([sample.inputs, sample.targets], axis=1)[:visible]
    train.to_csv(data / "train.csv", index=False)
    # The two hidden sets are mixed, and ids say nothing: a script cannot tell which rows are which.
    ids = 100_000 + draws.choice(900_000, feedback + report, replace=False)
    hidden = sample.targets[visible:].set_axis(pd.Index(ids, name="id"), axis=0)
    test = sample.inputs[visible:].set_axis(hidden.index, axis=0)
    test.iloc[draws.permutation(len(test))].to_csv(data / "test.csv")
    hidden[:feedback].to_csv(labels / "feedback.csv")
    hidden[feedback:].to_csv(labels / "report.csv")
    for part in labels.iterdir():
        part.chmod(0o600)
    for part, table in sample.extra.items():
        table.to_csv(data / f"{part}.csv", index=False)


def write_task(spec: Card, folder: Path, recorded: dict | None = None) -> None:
    """Write all files of one task, with the recorded scores where they belong to exactly these files."""
    sample = write_data(spec.name, folder)
    texts = {"scripts/prepare.py": _PREPARE.format(name=spec.name)}
    write_rest(folder, spec, sample, _classes(spec, sample), texts=texts, recorded=recorded)


def write_rest(
    folder: Path,
    spec: Card,
    sample: Sample,
    classes: list[int],
    *,
    limits: Limits = LIMITS,
    texts: dict[str, str] | None = None,
    more: Sequence[str] = (),
    recorded: dict | None = None,
) -> None:
    """Write starter, texts and card of a task whose tables are written.

    Args:
        folder: Of the task.
        spec: What makes it.
        sample: Its rows.
        classes: The classes or ratings that an answer may name; empty for free numbers.
        limits: What one run may use.
        texts: Further files, by path.
        more: Further lines of ``data_description.txt``.
        recorded: Scores that were measured on exactly these files, as `measure` records them; used only where
            their digest is that of the files.
    """
    ratings = {"ratings": (classes[0], classes[-1])} if spec.metric == "qwk" else {}
    files = {
        "env/train.py": starter_script(
            spec.modality, spec.kind, spec.metric, len(classes), spec.blocks, **ratings
        ),
        "env/data_description.txt": _description(spec, sample, more),
        "scripts/research_problem.txt": _request(spec, limits),
        "scripts/read_only_files.txt": "\n".join(READ_ONLY) + "\n",
        "scripts/eval.py": _EVAL.format(metric=spec.metric),
    }
    for path, text in (files | (texts or {})).items():
        (folder / path).write_text(text, encoding="utf-8")
    sums = checksums(folder)
    digest = digest_of(sums)
    exact = bool(recorded) and recorded["digest"] == digest
    columns = answer_columns(spec.kind, spec.metric, len(classes), tuple(sample.targets))
    content = {
        "name": spec.name,
        "modality": spec.modality,
        "kind": spec.kind,
        "metric": spec.metric,
        "direction": "maximize" if get_metric(spec.metric).greater_is_better else "minimize",
        "split": spec.split,
        "paper_task": spec.paper_task,
        "description": spec.description,
        "facts": list(spec.facts),
        "rows": spec.rows[0],
        "columns": sample.inputs.shape[1],
        "provenance": spec.provenance,
        "real": spec.real,
        "answer": {"columns": list(columns), "classes": classes},
        **_stated_scores(spec, recorded if exact else None),
        "limits": limits.to_json(),
        "checksums": sums,
    }
    (folder / "task.yaml").write_text(yaml.safe_dump(content, sort_keys=False, width=110), encoding="utf-8")


def _stated_scores(spec: Card, recorded: dict | None) -> dict:
    """Return the score entries of a card; without a record, marked as not measured."""
    if recorded:
        return {key: dict(recorded[key]) for key in ("baseline", "best")}
    metric = get_metric(spec.metric)
    unknown = {"feedback": metric.perfect, "report": metric.perfect, "provenance": "not measured"}
    return {"baseline": dict(unknown), "best": dict(unknown)}


def _classes(spec: Card, sample: Sample) -> list[int]:
    if spec.metric == "qwk":
        return list(range(1, 7))
    if spec.kind in ("label", "probability", "rank"):
        return sorted(int(value) for value in np.unique(sample.targets["target"]))
    return []


def recorded_scores() -> dict:
    """Return the measured scores of all tasks by name; empty before the first measurement."""
    return json.loads(SCORES.read_text(encoding="utf-8"))["tasks"] if SCORES.is_file() else {}


def fingerprint() -> str:
    """Return a short hash of everything that decides the content of the suite: its code and its scores."""
    parts = [HERE / f"{name}.py" for name in ("cards", "drawing", "frames", "sources", "suite", "writing")]
    content = b"".join(path.read_bytes() for path in [*parts, SCORES] if path.is_file())
    versions = f"{sys.version_info[:2]} {np.__version__} {pd.__version__}"
    return sha256(content + versions.encode()).hexdigest()[:12]


def build_suite(folder: Path, names: list[str] | None = None) -> list[str]:
    """Write the tasks into a folder and return the names of those whose scores are not recorded for these
    files.

    Args:
        folder: An empty or missing folder.
        names: Tasks to build; all by default.
    """
    scores = recorded_scores()
    unmeasured = []
    for spec in CARDS:
        if names is None or spec.name in names:
            write_task(spec, folder / spec.name, scores.get(spec.name))
            if "not measured" in (folder / spec.name / "task.yaml").read_text(encoding="utf-8"):
                unmeasured.append(spec.name)
    return unmeasured


def ensure_suite(home: Path) -> Path:
    """Return the folder of the built suite below ``home``; build it where it is missing.

    Scores are recorded for exact files. Where this machine makes other files (another Python has other manual
    pages), the starter and the best known script of those tasks are run once more, in a process of their own.

    Args:
        home: Folder for caches.
    """
    home = home.resolve()
    home.mkdir(parents=True, exist_ok=True)
    target = home / f"pocket-{fingerprint()}"
    if target.is_dir():
        return target
    with open(home / ".pocket.lock", "w") as handle:
        lock(handle.fileno(), home)
        if target.is_dir():
            return target
        draft = Path(tempfile.mkdtemp(prefix=".pocket-", dir=home))
        try:
            unmeasured = build_suite(draft)
            if unmeasured:
                _measure_again(draft, unmeasured)
            os.replace(draft, target)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return target


def _measure_again(folder: Path, names: list[str]) -> None:
    command = [sys.executable, "-m", "mlagent_lib.tasks.pocket.measure", "--restate", str(folder), *names]
    roots = [str(HERE.parents[2]), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, roots)), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise TaskError(
            f"the scores of {', '.join(names)} could not be measured: {done.stderr.strip()[-500:]}",
            cure="install the pinned versions of the packages",
        )


if __name__ == "__main__":
    if any(argument.startswith("--") for argument in sys.argv[1:]):
        from mlagent_lib.tasks.pocket.measure import main

        main(sys.argv[1:])
    else:
        print(ensure_suite(Path(sys.argv[1]) if len(sys.argv) > 1 else Path.cwd() / "suite"))
