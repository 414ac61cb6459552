"""The entry of a task that was a script with a metric: runs it, and hands in what the fixed evaluation says.

It is copied into the task, where no edit reaches it, and knows no other module of the kit. Beside it lies
``driver.json``: the command, the metric, the evaluation, and the sha256 of every fixed file. Where a fixed
file is another one before or after the run, no metric is handed in.

How the metric is taken, by ``evaluate``:

* "" - the last line ``metric: number`` that the run prints. A script can print anything.
* ``file.py:function`` - what the fixed function returned last, when the script called it. A printed line
  counts for nothing; a script that reaches into the interpreter could still lie, as they share it.
* ``file.py`` - the last such line of the evaluation, which starts when the script and its process group have
  ended, in a folder of its own with the fixed files and whatever the run left that is no code.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile

CODE = (".py", ".pyc", ".pth", ".so", ".pyd", ".egg", ".zip", ".sh")
WATCHED = """
import json, os, runpy, sys
module, function, channel, script = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
os.set_inheritable(channel, False)
sys.argv[:] = sys.argv[4:]
sys.path.insert(0, os.getcwd())
fixed = __import__(module)
def watched(call, write):
    def called(*args, **named):
        value = call(*args, **named)
        write(json.dumps(float(value)).encode() + b"\\n")
        return value
    return called
def to(channel, write):
    return lambda data: write(channel, data)
setattr(fixed, function, watched(getattr(fixed, function), to(channel, os.write)))
del module, function, channel, fixed, watched, to
runpy.run_path(script, run_name="__main__")
"""


class NoMetric(Exception):
    """The run has ended, and there is no metric that counts."""


def changed(fixed):
    """Return the fixed files that are not what they were."""
    found = []
    for name, digest in sorted(fixed.items()):
        try:
            with open(name, "rb") as handle:
                is_same = hashlib.sha256(handle.read()).hexdigest() == digest
        except OSError:
            is_same = False
        if not is_same:
            found.append(name)
    return found


def run(command, folder=".", channel=None):
    """Run a command to its end with its output shown; return exit code and output, and end its group."""
    kept = () if channel is None else (channel,)
    told = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "errors": "replace"}
    process = subprocess.Popen(command, cwd=folder, start_new_session=True, pass_fds=kept, **told)
    lines = []
    for line in process.stdout:
        print(line, end="", flush=True)
        lines.append(line)
    code = process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return code, "".join(lines)


def printed(text, metric):
    """Return the last finite number that was printed for a metric, or None."""
    return last(re.findall(rf"^\s*{re.escape(metric)}\s*[:=]\s*(\S+)\s*$", text, re.MULTILINE))


def last(found):
    """Return the last of some texts as a finite number, or None."""
    try:
        value = float(found[-1])
    except (IndexError, ValueError):
        return None
    return value if math.isfinite(value) else None


def watch(job, python):
    """Run the script in sight of the fixed function; return exit code and what that returned last."""
    place, _, function = job["evaluate"].partition(":")
    read, write = os.pipe()
    words = [place.removesuffix(".py").replace("/", "."), function, str(write), *job["command"]]
    code, _ = run([*python, "-c", WATCHED, *words], channel=write)
    os.close(write)
    os.set_blocking(read, False)
    try:
        told = os.read(read, 1 << 16).decode().split("\n")
    except BlockingIOError:  # it was never called
        told = []
    return code, last([line for line in told if line])


def evaluate(job, python):
    """Run the fixed evaluation on what the run has left, where none of the run's code is; as `run`."""
    folder = tempfile.mkdtemp(dir=os.getcwd())
    for place, folders, names in os.walk("."):
        folders[:] = [name for name in folders if os.path.abspath(os.path.join(place, name)) != folder]
        for name in names:
            path = os.path.relpath(os.path.join(place, name), ".")
            if path in job["fixed"] or not (name.endswith(CODE) or os.path.islink(path)):
                target = os.path.join(folder, path)
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copyfile(path, target)
    for name in job["linked"]:
        if not os.path.lexists(os.path.join(folder, name)):
            os.symlink(os.path.abspath(name), os.path.join(folder, name))
    found = run([*python, job["evaluate"]], folder)
    shutil.rmtree(folder, ignore_errors=True)
    return found


def main():
    """Run the job of ``driver.json`` and write ``submission.csv``."""
    with open("driver.json") as handle:
        job = json.load(handle)
    python = [sys.executable, "-u", "-B"]
    before = changed(job["fixed"])
    if before:
        raise NoMetric(f"these fixed files are not the task's: {', '.join(before)}")
    if ":" in job["evaluate"]:
        code, value = watch(job, python)
    else:
        code, output = run([*python, *job["command"]])
        value = None if job["evaluate"] else printed(output, job["metric"])
    if code:
        sys.exit(code if code > 0 else 128 - code)
    after = changed(job["fixed"])
    if after:
        raise NoMetric(f"the run has changed fixed files, so its metric does not count: {', '.join(after)}")
    if job["evaluate"].endswith(".py"):
        code, output = evaluate(job, python)
        if code:
            raise NoMetric(f"{job['evaluate']} failed on what the script left (exit code {code})")
        value = printed(output, job["metric"])
    if value is None:
        source = job["evaluate"] or "the script"
        raise NoMetric(f"{source} gave no finite {job['metric']}")
    print(f"validation {job['metric']}: {value!r}")
    if os.path.lexists("submission.csv"):
        os.remove("submission.csv")
    with open("submission.csv", "w") as handle:
        handle.write(f"{job['metric']}\n{value!r}\n")


if __name__ == "__main__":
    main()
