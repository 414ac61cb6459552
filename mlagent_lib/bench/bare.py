"""The other side of `mlagent bench` (b): a loaded interpreter that executes scripts with nothing around them.

Started as a script with the file of the warm-up and the names of the modules to load. Reads a folder a line,
executes ``train.py`` in it and answers with the seconds that it took.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import runpy
import sys
import time
import traceback


def main() -> None:
    """Serve folders until the input ends."""
    warming, *modules = sys.argv[1:]
    for name in modules:
        importlib.import_module(name)
    runpy.run_path(warming)["warm_up"]()
    answer = os.fdopen(os.dup(1), "w")
    print("ready", file=answer, flush=True)
    for line in sys.stdin:
        print(seconds_of(line.rstrip("\n")), file=answer, flush=True)


def seconds_of(folder: str) -> float:
    """Return the wall seconds of the script in ``folder``; what it prints is dropped."""
    os.chdir(folder)
    with open("train.py") as handle:
        code = compile(handle.read(), "train.py", "exec")
    began = time.perf_counter()
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            exec(code, {"__name__": "__main__", "__file__": "train.py"})
        except Exception:  # noqa: BLE001 - a script that fails is timed like any other
            traceback.print_exc()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
