"""The warm server: a fresh Python that has the scientific stack loaded and forks one run at a time.

Started as ``python -s -B warm_server.py`` with a clean environment. It reads JSON lines from standard input,
first its configuration, then one job a line, and answers one line each. The end of its input means that the
parent is gone: it kills what is running, removes its workspaces and leaves.

``-I`` would be shorter but also ignores PYTHONHASHSEED, and with it the order of sets would change from
server to server. The environment is an allow-list of ours and this file's folder leaves ``sys.path`` at
once, which closes the same doors.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import gc
import importlib
import importlib.util
import io
import json
import linecache
import os
import select
import sys
import threading
import types
from collections.abc import Iterator

_PACKAGE = "_mlagent_isolation"
_PARTS = (
    "jail", "kernel", "landlock", "limits_os", "run_folder", "script_seeds", "script_workers", "seccomp",
    "warm_up",
)  # fmt: skip
_OURS = (_PACKAGE, *(f"{_PACKAGE}.{part}" for part in _PARTS))  # what a script must not find loaded


def _load_package() -> None:
    """Import this file's folder under a private name, so that ``mlagent_lib`` itself is never imported."""
    folder = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.realpath(p or ".") != os.path.realpath(folder)]
    spec = importlib.util.spec_from_file_location(
        _PACKAGE, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules[_PACKAGE] = module
    spec.loader.exec_module(module)


def _part(name: str) -> types.ModuleType:
    return sys.modules[f"{_PACKAGE}.{name}"]


def _lines(descriptor: int) -> Iterator[bytes]:
    """Yield the lines of a descriptor, read without buffering ahead of what ``poll`` can see."""
    rest = b""
    while data := os.read(descriptor, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        yield from lines


def _load(names: list[str]) -> list[str]:
    """Import the modules, use the scientific stack once; return the names that are not installed."""
    missing = []
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            missing.append(name)
    if "sklearn" in sys.modules and not missing:
        _part("warm_up").warm_up()
    return missing


# ---- inside the jail -----------------------------------------------------------------------------


def execute(job) -> int:
    """Run the script as ``python script`` would, and return its exit code. Called inside the jail."""
    folder = os.getcwd()
    jail, seeds, workers = map(_part, ("jail", "script_seeds", "script_workers"))
    os.environ.clear()
    os.environ.update(jail.clean_environment(folder))
    for name in _OURS:
        del sys.modules[name]
    sys.argv[:] = sys.orig_argv[:] = [job.script]
    sys.path.insert(0, folder)
    _standard_streams()
    seeds.shift(job.reseed)
    workers.install()
    seeds.settle(job.reseed)  # results of unseeded scripts can be cached
    gc.enable()
    code = _execute_main(job.script, folder)
    with contextlib.suppress(BaseException):  # what a script leaves behind must not change its exit code
        threading._shutdown()
        atexit._run_exitfuncs()
    _flush_open_files()
    return code


def _standard_streams() -> None:
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    for name, descriptor, errors in (("stdout", 1, "surrogateescape"), ("stderr", 2, "backslashreplace")):
        stream = open(descriptor, "w", buffering=1, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _execute_main(script: str, folder: str) -> int:
    main = types.ModuleType("__main__")
    main.__dict__.update(__file__=os.path.join(folder, script), __builtins__=builtins)
    sys.modules["__main__"] = main
    try:
        with open(script, "rb") as handle:
            source = handle.read()
        code = compile(source, script, "exec", dont_inherit=True)
        lines = importlib.util.decode_source(source).splitlines(keepends=True)
        linecache.cache[script] = (len(source), None, lines, script)  # found even after a chdir
        exec(code, main.__dict__)
    except SystemExit as stop:
        return _exit_code(stop)
    except BaseException as error:  # noqa: BLE001 - whatever the script raised is printed, as python does
        _print_error(error)
        return 1
    return 0


def _exit_code(stop: SystemExit) -> int:
    if stop.code is None or isinstance(stop.code, int):
        return stop.code or 0
    print(stop.code, file=sys.stderr)
    return 1


def _print_error(error: BaseException) -> None:
    trace = error.__traceback__.tb_next if error.__traceback__ else None  # without our own frame
    try:
        sys.excepthook(type(error), error.with_traceback(trace), trace)
    except BaseException:  # noqa: BLE001 - no memory left to print with, or the script's own hook failed
        os.write(2, b"Traceback (most recent call last):\n%s\n" % type(error).__name__.encode())


def _flush_open_files() -> None:
    """Write out what a script has left in the buffers of files that it never closed."""
    kinds = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
    for thing in [o for o in gc.get_objects() if type(o) in kinds]:
        with contextlib.suppress(OSError, ValueError):
            thing.flush()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.flush()


# ---- the loop ------------------------------------------------------------------------------------


def _serve_one(job, ruleset: int | None, requests: int, reply: int) -> bool:
    """Fork the guard of one run and wait for it; return False when the parent has gone meanwhile."""
    jail = _part("jail")
    if job.seccomp and not job.refused()["signals"]:
        _part("seccomp").program(**job.refused())  # made here once, it is known to every fork
    lifeline, held = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(held)
        jail.guard(job, ruleset, reply, lifeline, execute)
    os.close(lifeline)
    exit_descriptor = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(exit_descriptor, select.POLLIN)
    poll.register(requests, 0)  # its hang-up is reported anyway
    ready = {descriptor for descriptor, _ in poll.poll()}
    parent_there = requests not in ready
    os.close(held)  # now the guard kills the run, if it still has one
    _, status = os.waitpid(pid, 0)
    os.close(exit_descriptor)
    if status != 0:
        left = _part("limits_os").sweep(os.getpid())
        jail.send(reply, {"stop": "guard-died", "left": left})
    return parent_there


def main() -> None:
    """Serve jobs until the input ends."""
    requests, reply = os.dup(0), os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    os.close(null)
    _load_package()
    for name in _OURS[1:]:
        importlib.import_module(name)
    jail, kernel, landlock = map(_part, ("jail", "kernel", "landlock"))

    lines = _lines(requests)
    config = json.loads(next(lines))
    try:
        kernel.prctl(kernel.PR_SET_CHILD_SUBREAPER, 1)
        kernel.prctl(kernel.PR_SET_DUMPABLE, 0)  # no process of the same user may look into this one
        sys.path[:] = config["import_from"]
        missing = _load(config["modules"])
        rulesets = landlock.Rulesets(config["trees"], config["listings"], config["workspace"])
        gc.collect()
        gc.freeze()
        gc.disable()
        if config["modules"]:
            kernel.collapse_memory()
        jail.send(reply, {"ready": True, "missing": missing})
        for line in lines:
            job = jail.Jailed(**json.loads(line))
            ruleset = rulesets.get(job.read) if job.landlock else None
            if not _serve_one(job, ruleset, requests, reply):
                break
    finally:
        if config["folder"] is not None:  # a server inside bubblewrap cannot remove it
            _part("run_folder").remove_of_server(config["folder"])


if __name__ == "__main__":
    main()
