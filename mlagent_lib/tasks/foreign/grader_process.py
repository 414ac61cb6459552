"""The inside of a foreign grader's process: started fresh by `external`, it grades once and ends.

Run as ``python -s -P -B grader_process.py JOB``. It imports the grader's file and, for tables, pandas; it
never imports this package. The verdict is one JSON line on a pipe of its own, so that nothing a grader prints
can be taken for a score. The end of a second pipe tells that the parent is gone: then the whole group ends.
"""

from __future__ import annotations

import importlib.util
import json
import linecache
import os
import random
import signal
import sys
import threading
import traceback

_MOST_TEXT = 500


def main() -> None:
    """Grade one submission and write the verdict."""
    job = json.loads(sys.argv[1])
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
    try:
        import resource
    except ImportError:  # Windows
        return
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
        progress["stage"] = "grade"
        return float(grade(os.path.dirname(job["submission"])))
    import pandas

    progress["stage"] = "answers"
    answers = [_table(pandas, path) for path in job["answers"]]
    progress["stage"] = "read"
    submission = pandas.read_csv(job["submission"])
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
    return pandas.read_json(path) if path.endswith(".json") else pandas.read_csv(path)


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
