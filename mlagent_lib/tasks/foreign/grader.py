"""Grading by a foreign Python file, in a process of its own, and whose fault it is when that fails.

MLAgentBench's ``eval.py`` has ``get_score(submission_folder)``, MLE-bench's ``grade.py`` has
``grade(submission, answers)``. Both are their benchmark's own code and see the hidden labels, so they run
apart from us (a process of its own, limits, cleaned environment) and apart from every workspace: they get the
archived bytes of one submission and nothing else that a script wrote.

A foreign grader raises for bad submissions and for its own faults alike. The rule that tells them apart: a
grader is sound while it scores some other submission of the task (the *control*: the last valid one on the
way to the state, or a sample file). What fails beside a control that scores is the submission's fault; what
fails without one is ours, `Unscored`. See `ForeignGrader.judge`.

A grader that merges by id, or takes a mean that skips gaps, also pays for rows that are repeated, left out or
blank. So every submission must have the form of the control: header, rows, ids, numbers, blanks.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import select
import signal
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlagent_lib.core.errors import SubmissionError, Unscored
from mlagent_lib.core.files import sha256_file
from mlagent_lib.tasks.foreign import grader_warm
from mlagent_lib.tasks.foreign.old_code import advice
from mlagent_lib.tasks.refusals import refusal

FUNCTIONS = {"folder": "get_score", "frames": "grade"}
SUBMISSION = "submission.csv"
WALL_FACTOR, WALL_EXTRA_SECONDS = 5, 30  # ours: the limit proper is CPU time, which no busy machine breaks
NONSENSE = b"this is no submission\n"
_MOST_LINKS = 200  # entries of env/ that a grader finds in its folder
_MOST_REMEMBERED = 4096
_LAST_WORDS = 300
_LOOK_SECONDS = 0.2  # a grader that forked and died without a word would else be waited for until the limit
# what a grader may take from our environment: places and language, no token
_KEPT = (
    "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH", "HF_HOME", "HF_DATASETS_CACHE", "TORCH_HOME", "NLTK_DATA",
    "SSL_CERT_FILE", "SYSTEMROOT",
)  # fmt: skip
_ENDINGS = {
    "done": ("returned {score}", "look at what the function returns"),
    "wall": ("did not answer in time, although it used little CPU",
             "see whether it waits for a network or for input"),
    "limit": ("reached its limit of CPU time or memory", "raise seconds or memory_bytes of the grader"),
    "crash": ("crashed ({error})", "run it by hand"),
    "start": ("could not be started ({text})", "run it by hand"),
}  # fmt: skip
_SET = {
    "PATH": os.defpath, "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "MPLBACKEND": "Agg", "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MALLOC_ARENA_MAX": "2",
    "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
    # arrow without a thread of its own: a process that has one cannot be forked
    "ARROW_DEFAULT_MEMORY_POOL": "system", "JE_ARROW_MALLOC_CONF": "background_thread:false",
}  # fmt: skip
_OUR_STAGES = ("start", "load", "answers", "wall")
_REASONS = {"read": "bad-csv", "header": "header", "limit": "evaluator-limit", "crash": "evaluator-crash"}
_FORM = "form "  # stage of a submission of another form than the control; the reason follows


@dataclass(frozen=True)
class ForeignGrader:
    """A foreign file that grades, and what it needs.

    Attributes:
        script: The Python file.
        call: ``folder`` for ``get_score(submission_folder)``, ``frames`` for ``grade(submission, answers)``.
        answers: For ``frames``, the table of true answers of each label set: ``feedback`` and ``report``, and
            optionally ``all``, on which the whole submission is checked first.
        id_column: The submission is cut down to the ids of a label set's answers by this column; "" for not.
        import_from: Folders from which the grader may import, after all others.
        control: A submission that a sound grader accepts, e.g. a sample file; None for none.
        seconds: CPU seconds of one grading.
        memory_bytes: Address space of one grading.
        largest_bytes: A larger submission is refused unread.
        key: The columns that name a row together, where an id has several rows; () for the id alone.

    Raises:
        TaskError: The call is unknown, or label sets are missing.

    Example:
        >>> ForeignGrader(Path("scripts/eval.py")).one_label_set
        True
    """

    script: Path
    call: str = "folder"
    answers: Mapping[str, Path] = field(default_factory=dict)
    id_column: str = ""
    import_from: tuple[Path, ...] = ()
    control: Path | None = None
    seconds: float = 60.0
    memory_bytes: int = 4 << 30
    largest_bytes: int = 8 << 20
    key: tuple[str, ...] = ()

    def __post_init__(self):
        if self.call not in FUNCTIONS:
            raise refusal("unknown call", call=self.call, known=", ".join(FUNCTIONS))
        if self.call == "frames" and not {"feedback", "report"} <= set(self.answers):
            raise refusal("answers lacking", script=self.script)

    @property
    def function(self) -> str:
        """Return the name of the function that is called."""
        return FUNCTIONS[self.call]

    @property
    def place(self) -> str:
        """Return the file with its folder, for a reader of the task."""
        return f"{self.script.parent.name}/{self.script.name}"

    @property
    def one_label_set(self) -> bool:
        """Return whether feedback and report are the same labels, as in every unsplit benchmark folder."""
        return self.call == "folder" or self.answers["feedback"] == self.answers["report"]

    def stamp(self) -> tuple:
        """Return what changes when a file of the grader does; its answers may lie anywhere beside it."""
        beside = sorted(self.script.parent.glob("*")) if self.call == "folder" else []
        files = {self.script, *beside, *self.answers.values(), *([self.control] if self.control else [])}
        found = []
        for path in sorted(files):
            with contextlib.suppress(OSError):
                info = path.stat()
                found.append((str(path), info.st_size, info.st_mtime_ns, info.st_ino))
        return (self.call, self.id_column, *found)

    def identity(self) -> list:
        """Return what a score depends on besides the files of the task folder, for the name of a result."""
        files = (self.script, *(self.answers[name] for name in sorted(self.answers)))
        return [self.call, self.id_column, *(sha256_file(path) for path in files if path.is_file())]

    def to_card(self, folder: Path) -> dict:
        """Return the grader as ``task.yaml`` holds it, with paths relative to the task's folder."""
        card = {name: _written(value, folder) for name, value in vars(self).items()}
        return {name: value for name, value in card.items() if value not in (None, "", [], {})}

    @classmethod
    def from_card(cls, folder: Path, card: Mapping) -> ForeignGrader:
        """Return the grader that `to_card` wrote.

        Raises:
            TaskError: A key is unknown or missing.
        """
        path, known = folder / "task.yaml", cls.__dataclass_fields__
        if not isinstance(card, Mapping) or "script" not in card:
            raise refusal("grader without script", path=path)
        unknown = ", ".join(sorted(set(card) - set(known)))
        if unknown:
            raise refusal("grader key", path=path, unknown=unknown, known=", ".join(known))
        read = {
            "script": folder / card["script"],
            "answers": {name: folder / place for name, place in card.get("answers", {}).items()},
            "import_from": tuple(folder / place for place in card.get("import_from", ())),
            "control": folder / card["control"] if card.get("control") else None,
            "key": tuple(card.get("key", ())),
        }
        return cls(**{**card, **read})

    def judge(self, submission: bytes, labels: str = "feedback", *, control: bytes | None = None) -> float:
        """Return the finite score of a submission, in the grader's own unit.

        Whose fault a failure is:

        * The file cannot be loaded, the answers cannot be read, the process cannot start, or the clock runs
          out: ours, always.
        * A table cannot be read from the submission: the submission's.
        * It has another form than `control` of the grader, or than the one given where there is no such file,
          and the grader accepts that one: the submission's.
        * It raises, returns no finite number, crashes, or uses up CPU time or memory: it is tried once more
          where the machine may be the cause. If it fails again, the control decides.
        * A grader that gives nonsense a finite number hides its errors behind that number, as an ``except:
          return 1e10`` does. A submission with exactly this score counts as one that was refused.

        ``control`` is a submission that was scored before; the last one that this process saw scored and the
        grader's own are asked as well.

        Raises:
            SubmissionError: The submission's fault, by a fixed class name.
            Unscored: The grader's fault, or nobody can tell.
        """
        form = _content(self.control) or control
        key = _key(self, submission, labels)
        if form not in (None, submission):
            key = (*key, hashlib.sha256(form).hexdigest())
        found = _memory.get(key)
        if found is None:
            found = _remember(key, _judge(self, submission, labels, control, form))
        if isinstance(found, str):
            raise SubmissionError(found)
        return found


def _written(value: object, folder: Path) -> object:
    """Return a field of a grader as a card holds it."""
    if isinstance(value, Path):
        place = os.path.relpath(value, folder) if value.is_absolute() else value.as_posix()
        return place.replace(os.sep, "/")
    if isinstance(value, Mapping):
        return {name: _written(part, folder) for name, part in value.items()}
    return [_written(part, folder) for part in value] if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Grading:
    """What came of one grading.

    Attributes:
        stage: ``done``; or where it ended: ``load``, ``answers``, ``read``, ``form`` with a reason,
            ``header``, ``grade`` (it raised there), ``limit`` (CPU time or memory), ``crash`` (a signal),
            ``wall`` (the clock), ``start``.
        score: What the grader returned; may be NaN.
        error, text: Class and text of the exception. The text may hold labels: never show it to an agent.
        line, source: Where in the grader's file.
        of_system: Whether the exception is one that the machine may have caused.
        output: The last of what the grader printed.
    """

    stage: str
    score: float | None = None
    error: str = ""
    text: str = ""
    line: int | None = None
    source: str = ""
    of_system: bool = False
    output: str = ""

    @property
    def is_sound(self) -> bool:
        """Return whether there is a finite score."""
        return self.stage == "done" and self.score is not None and math.isfinite(self.score)

    def explain(self, place: str, home: Path) -> tuple[str, str]:
        """Return what happened to the grader there, with line and cause, and what to do about it."""
        if self.stage in _ENDINGS:
            ending, cure = _ENDINGS[self.stage]
            return f"{place} {ending.format(**vars(self))}", cure
        line = f", line {self.line} ({self.source})" if self.line else ""
        cause, cure = advice(self.error, self.text, self.source, home)
        told = f"{place}{line}: {self.error}: {self.text}{f' ({cause})' if cause else ''}"
        return told, cure or "run it by hand on a good submission and correct it"


def _judge(
    grader: ForeignGrader, submission: bytes, labels: str, control: bytes | None, form: bytes | None
) -> float | str:
    key = (grader.stamp(), _set_of(grader, labels))
    verdict = run_grader(grader, submission, labels, form)
    if _is_score(grader, verdict):
        _proofs[key] = submission
        return verdict.score
    is_doubtful = verdict.of_system or verdict.stage in ("limit", "crash")
    if is_doubtful:
        verdict = run_grader(grader, submission, labels, form)
        if _is_score(grader, verdict):
            return verdict.score
    if verdict.stage in _OUR_STAGES:
        raise _ours(grader, verdict, "the grader is at fault")
    if verdict.stage in ("read", "header") and not verdict.of_system:
        return _REASONS[verdict.stage]
    reason = verdict.stage.removeprefix(_FORM) if verdict.stage.startswith(_FORM) else ""
    asked = (form,) if reason else (control, _proofs.get(key), form)
    known = [found for found in asked if found]
    if not known:
        raise _ours(grader, verdict, "nothing that this grader accepts is known: it may be at fault itself")
    if submission in known:
        raise _ours(grader, verdict, "it refuses a submission that it must accept")
    if not any(_is_accepted(grader, found, labels, afresh=is_doubtful) for found in known):
        raise _ours(grader, verdict, "it refuses a submission that it must accept as well")
    if verdict.stage == "done" and not verdict.is_sound:
        return "undefined-score"
    return reason or _REASONS.get(verdict.stage, "evaluator-refused")


def _ours(grader: ForeignGrader, verdict: Grading, why: str) -> Unscored:
    told, cure = verdict.explain(grader.place, grader.script.parent.parent)
    if verdict.is_sound:
        told += ", the score that it gives to a text that is no submission"
        cure = "let it raise an error for what it cannot read, or give the folder a starter of another score"
    printed = f"; it printed: {verdict.output}" if verdict.output and verdict.stage != "done" else ""
    return Unscored(f"a submission cannot be scored: {told}{printed}; {why}", cure=cure)


def _is_score(grader: ForeignGrader, verdict: Grading) -> bool:
    return verdict.is_sound and verdict.score != nonsense_score(grader)


def _is_accepted(grader: ForeignGrader, control: bytes, labels: str, *, afresh: bool) -> bool:
    """Return whether the grader scores the control now; a score of before counts unless ``afresh``."""
    key = _key(grader, control, labels)
    if not afresh and isinstance(_memory.get(key), float):
        return True
    verdict = run_grader(grader, control, labels)
    if not _is_score(grader, verdict):
        return False
    _remember(key, verdict.score)
    return True


def nonsense_score(grader: ForeignGrader) -> float | None:
    """Return the finite score that the grader gives to a text that is no submission, or None.

    Raises:
        Unscored: The grader could not even try.
    """
    key = ("nonsense", grader.stamp())
    found = _memory.get(key)
    if found is None:
        verdict = run_grader(grader, NONSENSE)
        if verdict.stage in _OUR_STAGES:
            raise _ours(grader, verdict, "the grader is at fault")
        found = _remember(key, verdict.score if verdict.is_sound else "none")
    return None if found == "none" else found


def _content(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path else None
    except OSError as error:
        raise refusal("control unread", Unscored, path=path, error=type(error).__name__) from error


def _set_of(grader: ForeignGrader, labels: str) -> str:
    return "one" if grader.one_label_set else labels


def _key(grader: ForeignGrader, submission: bytes, labels: str) -> tuple:
    return (grader.stamp(), hashlib.sha256(submission).hexdigest(), _set_of(grader, labels))


# Results of this process, the newest ones: a trajectory asks for the same score several times.
_memory: OrderedDict[tuple, float | str] = OrderedDict()
_proofs: dict[tuple, bytes] = {}  # the last submission that each grader has scored
_lock = threading.Lock()


def _remember(key: tuple, value: float | str) -> float | str:
    with _lock:
        _memory[key] = value
        while len(_memory) > _MOST_REMEMBERED:
            _memory.popitem(last=False)
    return value


# ---- the process ---------------------------------------------------------------------------------


def run_grader(
    grader: ForeignGrader, submission: bytes, labels: str = "feedback", form: bytes | None = None
) -> Grading:
    """Return what one grading in a process of its own came to. Never raises for what the grader does.

    The bytes of the submission are all that the process gets from a run. It must have the form of ``form``,
    another submission, where one is given.
    """
    names = [name for name in ("all", labels) if name in grader.answers]
    with tempfile.TemporaryDirectory(prefix="mlagent-grade-") as folder:
        base = Path(folder)
        place = _furnish(base, grader)
        given, control = base / "submission" / SUBMISSION, base / "control.csv"
        given.write_bytes(submission)
        control.write_bytes(form or b"")
        stated = ("call", "function", "id_column", "seconds", "memory_bytes")
        job = {name: getattr(grader, name) for name in stated} | {
            "script": str(grader.script.resolve()),
            "submission": str(given),
            "answers": [str(grader.answers[name].resolve()) for name in names],
            "key": list(grader.key) or [grader.id_column],
            "control": str(control) if form else "",
            "import_from": [str(path.resolve()) for path in (grader.script.parent, *grader.import_from)],
            "folder": str(place),
            "home": str(base / "home"),
        }
        return _run(job)


def _furnish(base: Path, grader: ForeignGrader) -> Path:
    """Return the folder where a grader starts: ``../env`` and ``./data`` lead to the task's files.

    The graders of MLAgentBench look their data up relative to ``scripts/`` or to ``env/``.
    """
    for name in ("submission", "home", "scripts"):
        (base / name).mkdir()
    env = grader.script.resolve().parent.parent / "env"
    if grader.call == "folder" and env.is_dir():
        (base / "env").symlink_to(env, target_is_directory=True)
        with os.scandir(env) as entries:
            for entry, _ in zip(entries, range(_MOST_LINKS), strict=False):
                (base / "scripts" / entry.name).symlink_to(entry.path)
    return base / "scripts"


def _run(job: dict) -> Grading:
    verdict_read, verdict_write = os.pipe()
    lifeline, held = os.pipe()  # its end tells the process that we are gone
    ends = [verdict_read, verdict_write, lifeline, held]
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment = {**kept, **_SET, "HOME": job["home"], "TMPDIR": job["home"]}
    try:
        with tempfile.TemporaryFile() as printed:
            try:
                process = grader_warm.start(job, environment, printed.fileno(), verdict_write, lifeline)
            except OSError as error:
                return Grading("start", text=str(error))
            for descriptor in (verdict_write, lifeline):
                os.close(descriptor)
                ends.remove(descriptor)
            line: bytes | None = None
            try:
                line = _line(verdict_read, process.ended, job["seconds"] * WALL_FACTOR + WALL_EXTRA_SECONDS)
            finally:  # also on Ctrl-C: it and what it started, nothing of it may live on
                code = process.end()
            printed.seek(max(0, printed.seek(0, os.SEEK_END) - _LAST_WORDS))
            output = " ".join(printed.read().decode("utf-8", "replace").split())
    finally:
        for descriptor in ends:
            os.close(descriptor)
    if line:
        return Grading(**json.loads(line), output=output)
    if line is None:
        return Grading("wall", output=output)
    if code == -signal.SIGXCPU:
        return Grading("limit", output=output)
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Grading("crash", error=name, output=output)


def _line(descriptor: int, has_ended: Callable[[], bool], seconds: float) -> bytes | None:
    """Return the line of the verdict, nothing where the process ended without it, None at the limit."""
    deadline, found = time.monotonic() + seconds, b""
    while not found.endswith(b"\n"):
        ended = has_ended()
        ready = select.select([descriptor], [], [], 0 if ended else _LOOK_SECONDS)[0]
        data = os.read(descriptor, 1 << 16) if ready else b""
        found += data
        if (ready or ended) and not data:
            return b""
        if not data and time.monotonic() > deadline:
            return None
    return found
