"""The inside of a foreign grader's process: started or forked for one grading, it grades once and ends.

Graders that merge or skip gaps score rows that are repeated, left out or blank. So a submission is compared
first with one that the grader accepts, both as pandas reads them, which is what most graders see.

Run as ``python -s -P -B grader_process.py JOB``, it imports the grader's file and, for tables, pandas; it
never imports this package. With ``--serve DESCRIPTOR NAMES...`` it loads these libraries and forks a process
for each job that it is sent (see `grader_warm`). The verdict is one JSON line on a pipe of its own, so that
nothing a grader prints can be taken for a score. The end of a second pipe tells that the parent is gone: then
the whole group ends.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import importlib
import importlib.util
import json
import linecache
import os
import random
import resource
import select
import signal
import socket
import sys
import threading
import traceback
from collections import Counter

_MOST_TEXT = 500


def main() -> None:
    """Grade one submission, or serve those who have some."""
    if sys.argv[1] == "--serve":
        _serve(socket.socket(fileno=int(sys.argv[2])), sys.argv[3:])
    else:
        _grade(json.loads(sys.argv[1]))


def _serve(channel: socket.socket, names: list[str]) -> None:
    """Load what graders import, then fork until the other end is gone."""
    channel.set_inheritable(False)
    for name in names:
        with contextlib.suppress(Exception):  # the grading itself will meet it
            importlib.import_module(name)
    if len(os.listdir("/proc/self/task")) > 1:
        return  # a fork of a process with threads may hang
    gc.collect()
    gc.freeze()
    channel.send(b"ready")
    desk = _Desk(channel)
    while True:
        for descriptor, _ in desk.poll.poll():
            desk.attend(descriptor)


class _Desk:
    """Who asked for which fork: an asker gets its number, word of its end, and its status at last."""

    def __init__(self, channel: socket.socket):
        self.channel, self.poll = channel, select.poll()
        self.poll.register(channel, select.POLLIN)
        self.asked: dict[int, tuple[int, socket.socket]] = {}  # process and asker, by the process's handle

    def attend(self, descriptor: int) -> None:
        """Do what a descriptor asks for that has become ready."""
        if descriptor == self.channel.fileno():
            self._fork()
        elif descriptor in self.asked:
            self.poll.unregister(descriptor)
            _tell(self.asked[descriptor][1], b"ended")  # uncollected, so its group keeps its number
        else:
            for handle in [handle for handle, (_, line) in self.asked.items() if line.fileno() == descriptor]:
                self._finish(handle)

    def _fork(self) -> None:
        text, given, *_ = socket.recv_fds(self.channel, 1 << 20, 4)
        if not text:
            os._exit(0)  # nobody is left to ask, and the gradings see that themselves
        pid = os.fork()
        if pid == 0:
            _become(json.loads(text), given)
        line, handle = socket.socket(fileno=given[0]), os.pidfd_open(pid)
        for other in given[1:]:
            os.close(other)
        self.asked[handle] = pid, line
        for watched in (handle, line.fileno()):
            self.poll.register(watched, select.POLLIN)
        _tell(line, b"%d" % pid)

    def _finish(self, handle: int) -> None:
        pid, line = self.asked.pop(handle)
        for kill in (os.killpg, os.kill):  # it may not lead a group yet
            with contextlib.suppress(OSError):
                kill(pid, signal.SIGKILL)
        _tell(line, b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        for watched in (handle, line.fileno()):
            with contextlib.suppress(KeyError):  # the handle's, where it has told of the end
                self.poll.unregister(watched)
        os.close(handle)
        line.close()


def _tell(line: socket.socket, word: bytes) -> None:
    with contextlib.suppress(OSError):  # the asker may have gone
        line.send(word)


def _become(job: dict, given: list[int]) -> None:
    """Turn a fork into what a fresh process is, and grade. Never returns."""
    try:
        os.setsid()
        _, printed, verdict, lifeline = given
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (printed, 1), (printed, 2)):
            os.dup2(source, target)
        start = 3
        for kept in (*sorted((verdict, lifeline)), os.sysconf("SC_OPEN_MAX")):
            os.closerange(start, kept)
            start = kept + 1
        os.chdir(job["folder"])
        os.environ.update(HOME=job["home"], TMPDIR=job["home"])
        _grade(job | {"verdict": verdict, "lifeline": lifeline})
    finally:
        os._exit(1)


def _grade(job: dict) -> None:
    for name in ("verdict", "lifeline"):
        os.set_inheritable(job[name], False)
    threading.Thread(target=_end_with_parent, args=(job["lifeline"],), daemon=True).start()
    _limit(job)
    random.seed(0)  # some graders draw numbers: the same submission shall get the same score
    sys.argv[:] = [job["script"]]
    sys.path[:] = [*sys.path, *job["import_from"]]
    progress = {"stage": "load"}
    try:
        verdict = {"stage": "done", "score": _score(job, progress)}
    except BaseException as error:  # noqa: BLE001 - whatever a foreign file raises is told to the parent
        starved = isinstance(error, MemoryError) and progress["stage"] != "load"
        verdict = {"stage": "limit" if starved else progress["stage"], **_told(error, job["script"])}
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    line = json.dumps(verdict).encode() + b"\n"
    while line:
        line = line[os.write(job["verdict"], line) :]
    os._exit(0)  # threads of a grader must not keep the process


def _end_with_parent(lifeline: int) -> None:
    os.read(lifeline, 1)  # nobody writes: this returns at the end only
    os.killpg(0, signal.SIGKILL)


def _limit(job: dict) -> None:
    mapped = 0
    if sys.platform == "linux":
        with open("/proc/self/statm") as handle:
            mapped = int(handle.read().split()[0]) * resource.getpagesize()
    space, cpu = mapped + job["memory_bytes"], max(1, int(job["seconds"]))
    wanted = [(resource.RLIMIT_CORE, 0, 0), (resource.RLIMIT_CPU, cpu, cpu + 1)]
    wanted += [(resource.RLIMIT_AS, space, space)] if sys.platform == "linux" else []  # macOS refuses it
    for limit, soft, hard in wanted:
        ceiling = resource.getrlimit(limit)[1]
        if ceiling != resource.RLIM_INFINITY:
            soft, hard = min(soft, ceiling), min(hard, ceiling)
        resource.setrlimit(limit, (soft, hard))


def _score(job: dict, progress: dict) -> float:
    """Return what the grader says; ``progress`` tells how far it came."""
    spec = importlib.util.spec_from_file_location("foreign_grader", job["script"])
    module = importlib.util.module_from_spec(spec)
    sys.modules["foreign_grader"] = module
    spec.loader.exec_module(module)
    grade = getattr(module, job["function"])
    if job["call"] == "folder":
        _compare(job, progress, None)
        progress["stage"] = "grade"
        return float(grade(os.path.dirname(job["submission"])))
    import pandas

    progress["stage"] = "answers"
    answers = [_table(pandas, path) for path in job["answers"]]
    progress["stage"] = "read"
    submission = _table(pandas, job["submission"])
    _compare(job, progress, answers[0])
    score = float("nan")
    for number, truth in enumerate(answers):
        progress["stage"] = "header"
        asked = submission
        if number == len(answers) - 1 and job["id_column"]:
            found = submission[job["id_column"]].isin(truth[job["id_column"]])
            asked = submission[found].reset_index(drop=True)
        progress["stage"] = "grade"
        score = float(grade(asked.copy(), truth))
    return score


def _table(pandas: object, path: str) -> object:
    if path.endswith((".jsonl", ".jsonl.gz")):
        return pandas.read_json(path, lines=True)
    if path.endswith(".json"):
        return pandas.read_json(path)
    return pandas.read_csv(path)


def _compare(job: dict, progress: dict, truth: object) -> None:
    """Raise where the submission has another form than the control; ``progress`` gets the reason."""
    if not job["control"]:
        return
    progress["stage"] = "load"  # what breaks in here is no fault of the submission
    reason = misfit(job, truth)
    if reason:
        progress["stage"] = f"form {reason}"
        raise ValueError("the submission has another form than one that is accepted")


def misfit(job: dict, truth: object) -> str:
    """Return in what the tables differ besides the answers, or "".

    The same columns, the same rows by name (in any order), numbers where there are numbers, no new blanks.

    Args:
        job: The places of ``control`` and ``submission``, how the grader is called, the ``key`` of a row.
        truth: The table of true answers, or None.
    """
    import pandas

    try:
        header = _header(job)
        known = pandas.read_csv(job["control"], header=header)
    except (ValueError, csv.Error):
        return ""  # no table: there is no form to compare with
    if len(known) < 1 + (header is None):
        return ""
    try:
        given = pandas.read_csv(job["submission"], header=header)
    except ValueError:
        return "bad-csv"
    if list(given) != list(known):
        return "header"
    if len(given) != len(known):
        return "row-count"
    if not given.index.equals(known.index):
        return "bad-csv"  # longer lines than the header's: pandas takes the first column for names
    key = [name for name in job["key"] if name in known] or _key(known)
    mine, theirs = (_rows(table, key) for table in (given, known))
    if mine != theirs:
        return "unknown-id" if mine.keys() - theirs.keys() else "duplicate-id"
    others = [name for name in known if name not in key]
    right = {name: truth[name] for name in others if truth is not None and name in truth}
    found = (_misfit_of(given[name], known[name], right.get(name)) for name in others)
    return next(filter(None, found), "")


def _header(job: dict) -> int | None:
    """Return where the names of the columns stand: for a grader that reads itself, there may be none."""
    with open(job["control"], encoding="utf-8-sig", newline="") as handle:
        lines = csv.reader(handle)
        first = next(lines, [])
        repeated = len(first) == 1 and first in lines
    return None if job["call"] == "folder" and (repeated or all(map(_is_number, first))) else 0


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _key(known: object) -> list:
    """Return the first column where it must be the rows' names: whole numbers or texts, none twice."""
    first = known.iloc[:, 0]
    is_name = known.shape[1] > 1 and first.dtype.kind != "f" and first.is_unique
    return [first.name] if is_name else []


def _rows(table: object, key: list) -> Counter:
    columns = (table[name].astype(object) for name in key)
    return Counter(zip(*(column.where(column.notna(), None) for column in columns), strict=True))


def _misfit_of(given: object, known: object, truth: object) -> str:
    """Return what is wrong with a column of answers, or "". Texts may be blank where some are."""
    sound = [column for column in (known, truth) if column is not None]
    told = [column for column in sound if column.notna().any()]
    is_number = bool(told) and all(column.dtype.kind in "iuf" for column in told)
    may_be_blank = not is_number and any(column.isna().any() for column in sound)
    if not may_be_blank and given.isna().sum() > known.isna().sum():
        return "blank"
    if is_number and given.dtype.kind not in "iufb":
        return "not-a-number"
    return "not-a-number" if given.dtype.kind == "f" and given.abs().eq(float("inf")).any() else ""


def _told(error: BaseException, script: str) -> dict:
    """Return class, text and place of an error: the last line of the grader's own file that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    mine = [frame for frame in frames if os.path.realpath(frame.filename) == os.path.realpath(script)]
    line, source = (mine[-1].lineno, mine[-1].line) if mine else (None, "")
    if isinstance(error, SyntaxError) and error.filename and os.path.samefile(error.filename, script):
        line, source = error.lineno, linecache.getline(script, error.lineno or 0).strip()
    text = str(error)[:_MOST_TEXT]
    return {"error": type(error).__name__, "text": text, "line": line, "source": source or "",
            "of_system": isinstance(error, (OSError, ImportError, MemoryError))}  # fmt: skip


if __name__ == "__main__":
    main()
