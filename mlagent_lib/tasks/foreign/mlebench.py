"""A prepared competition of MLE-bench becomes a task folder of the kit. The package mlebench is not needed.

MLE-bench has one hidden label set, on which agents are graded at the end. A learner needs two: *feedback*
labels pay the rewards, *report* labels are for the tables. So the private answers are split in half, by a
seed, each class divided evenly where the target is a class, and the competition's own grader is called on the
rows of a half. Rows that belong together (those of one patient, say) stay together. A submission must still
answer every row, and is first checked whole by that grader.

Two things differ from MLE-bench and are stated in every task made here: the starter, and the best known
score, which comes from the leaderboard and so from Kaggle's test rows, not from these.
"""

from __future__ import annotations

import ast
import contextlib
import re
import shutil
from dataclasses import replace
from pathlib import Path

from mlagent_lib.core.errors import SubmissionError, TaskError, Unscored
from mlagent_lib.core.limits import Limits
from mlagent_lib.core.seeding import rng
from mlagent_lib.tasks.attempt import Execute
from mlagent_lib.tasks.folder import READ_ONLY, drafted, write_card
from mlagent_lib.tasks.foreign.grader import ForeignGrader
from mlagent_lib.tasks.foreign.leaderboard import FILE as LEADERBOARD
from mlagent_lib.tasks.foreign.leaderboard import Leaderboard, worse_than
from mlagent_lib.tasks.foreign.mlebench_read import Competition, Tables, read_board, read_public, read_tables
from mlagent_lib.tasks.foreign.mlebench_split import divide_answers
from mlagent_lib.tasks.foreign.mlebench_starter import StarterScript, make_starter, sample_starter
from mlagent_lib.tasks.grading import LABEL_SETS, grade
from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.task import Task, checksums, load_task

LIMITS = Limits(seconds=300.0, memory_bytes=4 << 30)
GIVEN = "given by the user"
_BOARD = "best private score of {teams} teams on Kaggle's leaderboard, on Kaggle's own test rows"
_ORIGIN = (
    "a competition prepared by MLE-bench; the {rows} private rows are divided into feedback and report by "
    "{divided}, seed {seed}"
)
PACKAGE = "mlebench_competition"  # the grader's folder is imported under this name
_STANDIN = Path(__file__).with_name("standin") / "mlebench"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_WRAPPER = f'''"""Hands on the competition's grader, which imports files beside it as part of a package."""

from {PACKAGE}.grade import grade as grade
'''
_REQUEST = """\
A Kaggle competition, described in data_description.txt. You are given a training script train.py. \
Understand the script, then improve it: {wish} the competition's score on the test rows as far as you can.
(1) Do not change the random seed.
(2) Save the answers to submission.csv, in the format of data/{tables.sample_name}: one line for each of \
its {rows} rows, with {tables.id_column} and {asked}.
(3) One run may take {limits.seconds:g} seconds on one core.
"""


def import_competition(
    name: str,
    out: Path,
    source: Competition,
    *,
    execute: Execute,
    seed: int = 0,
    starter: Path | None = None,
    greater_is_better: bool | None = None,
    best: float | None = None,
    limits: Limits = LIMITS,
) -> Task:
    """Return the task made of a competition, written to ``out`` at once or not at all.

    Args:
        seed: Of the split into feedback and report labels.
        starter: A ``train.py`` of your own; None for a generated one.
        greater_is_better: The direction; None to read it from the leaderboard's order.
        best: Best known score; None for the leaderboard's best.
        limits: What one run of a script may use.

    Raises:
        TaskError: A part is missing or does not fit the others; the starter fails; its score is not below the
            best known one, nor below that of the true answers.
    """
    out = Path(out).absolute()  # the draft's paths are compared with others below
    if not _NAME.fullmatch(name):
        raise refusal("bad folder name", name=name)
    if out.exists():
        raise refusal("folder exists", path=out)
    tables = read_tables(source)
    board = read_board(source, greater_is_better, best)
    up = board.greater_is_better if board else bool(greater_is_better)
    made = _starter(source, tables, starter)
    limits = replace(limits, file_bytes=max(limits.file_bytes, tables.largest_bytes))
    with drafted(out) as draft:
        _write_env(draft, source, tables)
        _write_request(draft, tables, up, limits)
        _write_grader(draft, source, board)
        divided = _write_answers(draft, source, tables, seed)
        card = _card(name, source, tables, up, limits)
        card["provenance"] = _ORIGIN.format(rows=len(tables.answers), divided=divided, seed=seed)
        known = GIVEN if best is not None else _BOARD.format(teams=board.teams)
        best = board.best if best is None else best
        card["best"] = dict.fromkeys(LABEL_SETS, float(best)) | {"provenance": known}
        card["grader"] = _grader(draft, tables).to_card(draft)
        card["baseline"] = dict(card["best"])  # so that the folder loads; measured next
        card["baseline"] = _measure_first(draft, card, tables, execute, made, given=starter is not None)
        card["grader"] = _grader(draft, tables).to_card(draft)  # now with its control
        card["checksums"] = checksums(draft)
        write_card(draft, card)
    return load_task(out)


def _starter(source: Competition, tables: Tables, given: Path | None) -> StarterScript:
    if given is None:
        return make_starter(read_public(source, "train"), read_public(source, "test"), tables)
    try:
        return StarterScript(given.read_text(encoding="utf-8"), "other", "other", GIVEN)
    except (OSError, UnicodeDecodeError) as error:
        raise refusal("starter unread", path=given, error=type(error).__name__) from error


def _write_env(folder: Path, source: Competition, tables: Tables) -> None:
    data = folder / "env" / "data"
    shutil.copytree(source.public, data, ignore=shutil.ignore_patterns("description*.md"))
    if not (data / tables.sample_name).exists():  # it lies in private, or in public as an archive
        shutil.copyfile(tables.sample_path, data / tables.sample_name)
    shutil.copyfile(source.description, folder / "env" / "data_description.txt")


def _write_request(folder: Path, tables: Tables, up: bool, limits: Limits) -> None:
    wish, asked = "raise" if up else "lower", ", ".join(tables.targets)
    request = _REQUEST.format(wish=wish, asked=asked, rows=len(tables.sample), tables=tables, limits=limits)
    (folder / "scripts").mkdir()
    (folder / "scripts" / "research_problem.txt").write_text(request, encoding="utf-8")
    (folder / "scripts" / "read_only_files.txt").write_text("\n".join(READ_ONLY) + "\n", encoding="utf-8")


def _write_grader(folder: Path, source: Competition, board: Leaderboard | None) -> None:
    scripts = folder / "scripts"
    shutil.copytree(_STANDIN, scripts / "standin" / "mlebench", ignore=shutil.ignore_patterns("__pycache__"))
    (scripts / PACKAGE).mkdir()
    for path in source.grade.parent.glob("*.py"):
        if path == source.grade or path.name not in ("prepare.py", "grade.py"):
            shutil.copyfile(path, scripts / PACKAGE / ("grade.py" if path == source.grade else path.name))
    nodes = ast.walk(ast.parse(source.grade.read_text(encoding="utf-8")))
    if any(isinstance(node, ast.ImportFrom) and node.level for node in nodes):  # from .classes import CLASSES
        (scripts / PACKAGE / "__init__.py").touch()
        (scripts / "grade.py").write_text(_WRAPPER, encoding="utf-8")
    if board:
        lines = "\n".join(["score", *map(repr, board.scores)])
        (scripts / LEADERBOARD).write_text(lines + "\n", encoding="utf-8")


def _write_answers(folder: Path, source: Competition, tables: Tables, seed: int) -> str:
    """Write the divided answers; return in words what they are divided by."""
    report, divided = divide_answers(source, tables, rng(seed, "mlebench", "labels"))
    hidden = folder / "scripts" / "answers"
    hidden.mkdir(mode=0o700)
    shutil.copyfile(tables.answers_path, hidden / "all.csv")
    for part, rows in (("feedback", ~report), ("report", report)):
        tables.answers[rows].to_csv(hidden / f"{part}.csv", index=False)
    for path in hidden.iterdir():
        path.chmod(0o600)
    return divided


def _key(tables: Tables) -> tuple[str, ...]:
    """Return the columns that name a row of the sample together; () where the id does, or nothing."""
    key = [tables.id_column]
    for name in tables.sample:
        if tables.sample.duplicated(key).any() and name not in (*key, *tables.targets):
            key.append(name)
    return tuple(key) if len(key) > 1 and not tables.sample.duplicated(key).any() else ()


def _grader(folder: Path, tables: Tables) -> ForeignGrader:
    scripts = folder / "scripts"
    wrapper, control = scripts / "grade.py", scripts / "control.csv"
    return ForeignGrader(
        script=wrapper if wrapper.is_file() else scripts / PACKAGE / "grade.py",
        call="frames",
        answers={part: scripts / "answers" / f"{part}.csv" for part in ("all", *LABEL_SETS)},
        id_column=tables.id_column,
        key=_key(tables),
        import_from=(scripts, scripts / "standin"),
        control=control if control.is_file() else None,
        largest_bytes=tables.largest_bytes,
    )


def _card(name: str, source: Competition, tables: Tables, up: bool, limits: Limits) -> dict:
    train = read_public(source, "train")
    description = source.description.read_text(encoding="utf-8", errors="replace").strip()
    title = description.partition("\n")[0].lstrip("# ").strip()
    return {
        "name": name,
        "modality": "other",  # these two follow from the starter
        "kind": "other",
        "metric": source.metric,
        "direction": "maximize" if up else "minimize",
        "split": "other",
        "description": f"A competition of MLE-bench: {title or name}.",
        "facts": [f"{len(tables.answers)} hidden rows", f"answers {', '.join(tables.targets)}"[:200]],
        "rows": len(train),
        "columns": max(0, train.shape[1] - len(tables.targets)),
        "answer": {"columns": list(tables.targets)},
        "limits": limits.to_json(),
    }


class _StarterError(TaskError):
    """A starter does not run, or is not scored."""


def _measure_first(
    folder: Path, card: dict, tables: Tables, execute: Execute, made: StarterScript, *, given: bool
) -> dict[str, float | str]:
    """Return the scores of the starter, or of the sample as it is where a generated starter fails."""
    failed = None
    for starter in [made] if given else dict.fromkeys((made, sample_starter(tables))):
        (folder / "env" / "train.py").write_text(starter.script, encoding="utf-8")
        card |= {"modality": starter.modality, "kind": starter.kind}
        write_card(folder, card)
        try:
            scores = _measure(folder, card, tables, execute)
        except _StarterError as error:
            failed = failed or error
            continue
        why = f"; a generated one failed: {failed.message}" if failed else ""
        return scores | {"provenance": f"the starter: {starter.how}{why}"}
    raise failed


def _measure(folder: Path, card: dict, tables: Tables, execute: Execute) -> dict[str, float]:
    """Return the starter's score on both label sets; keep its submission as the grader's control."""
    task = load_task(folder)
    ran = execute(task, task.env_files())
    if ran.status != "ok":
        last = ran.output.strip()[-300:]
        raise refusal("starter does not run", _StarterError, status=ran.status, last=last)
    submission = ran.collected.get("submission.csv")
    columns = [name for name in tables.sample if name in tables.answers]
    gold = tables.answers[columns].to_csv(index=False).encode()
    scores, perfect = {}, {}
    for part in LABEL_SETS:
        try:
            scores[part] = grade(task, submission, part)
        except (SubmissionError, Unscored) as error:
            cure = error.cure or "give a starter whose submission the grader accepts with --starter"
            why = error.message
            raise refusal("starter unscored", _StarterError, part=part, why=why, cure=cure) from error
        with contextlib.suppress(SubmissionError):  # answers may have another form than submissions
            perfect[part] = grade(task, gold, part, control=submission)
    _check_scores(task, card, scores, perfect)
    (folder / "scripts" / "control.csv").write_bytes(submission)
    return scores


def _check_scores(task: Task, card: dict, scores: dict[str, float], perfect: dict[str, float]) -> None:
    """Refuse scores that no best one exceeds; where the leaderboard is beaten, the true answers count."""
    up, best = task.greater_is_better, card["best"]
    beaten = [part for part in scores if not worse_than(scores[part], best[part], up)]
    has_room = all(part in perfect and worse_than(scores[part], perfect[part], up) for part in scores)
    if beaten and has_room and best["provenance"] != GIVEN:
        known = f"the true answers' score, as the starter beats {best[beaten[0]]:g}, the {best['provenance']}"
        best |= perfect | {"provenance": known}
    elif beaten:
        part = beaten[0]
        raise refusal("best is beaten", score=scores[part], part=part, best=best[part])
    for part, score in perfect.items():
        if worse_than(score, scores[part], up):
            told = {"score": score, "part": part, "starter": scores[part], "better": task.better}
            raise refusal("answers score worse", **told)
