"""Why a script or grader of years ago fails on today's libraries: which line, which cause, what to change.

A stack trace names the place where a library gave up. The reader of a benchmark folder needs the line of the
folder's own file, what has changed since it was written, and the replacement: the rules of ``old_code.yaml``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from mlagent_lib.core.files import read_yaml
from mlagent_lib.core.tracebacks import cause_of

Files = Mapping[str, bytes]  # the content of each, by its path in a workspace


@cache
def tables() -> dict:
    """Return the rules of ``old_code.yaml``, each list of patterns as one pattern."""
    found = read_yaml(Path(__file__).with_suffix(".yaml"))
    for rule in (rule for kind in ("rules", "by_line", "downloads", "children") for rule in found[kind]):
        for key in {"error", "culprit"} & rule.keys():
            rule[key] = rule[key] if isinstance(rule[key], str) else "|".join(rule[key])
    return found


def advice(error: str, text: str, source: str = "", home: Path | None = None) -> tuple[str, str]:
    """Return the likely cause of an exception and what to change; two empty texts where it is not known.

    Args:
        error: Class name of the exception; ``text`` is what it says, ``source`` the line that raised it.
        home: The task's folder, whose requirements may name a package; None where there is none.

    Example:
        >>> advice("AttributeError", "module 'numpy' has no attribute 'float'")
        ('NumPy 1.24 removed np.float', 'write float')
        >>> advice("ValueError", "no such thing")
        ('', '')
    """
    cause, cure, _ = _look_up(error, text, source, home)
    return cause, cure


def _look_up(error: str, text: str, source: str, home: Path | None = None) -> tuple[str, str, str]:
    """Return cause, cure and the pattern of source lines that will fail in the same way."""
    for rule in tables()["rules"]:
        if match := re.search(rule["error"], f"{error}: {text}", re.DOTALL):
            name = (match.groups() or ("",))[0] or ""
            new = tables()["names"].get(rule.get("names"), {}).get(name, rule.get("else", name))
            texts = (rule.get(key, "") for key in ("cause", "cure", "lines"))
            cause, cure, lines = (words.replace("\\1", name).replace("\\2", new) for words in texts)
            return cause, cure, lines
    if error in ("ModuleNotFoundError", "ImportError"):
        return _missing_module(text, home)
    if "***" in source:
        cure = tables()["by_line"][-1]["cure"]
        return "the line is a gap that the benchmark leaves open", cure, r"\*\*\*"
    return "", "", ""


def _look_through(lines: list[str], error: str, text: str) -> tuple[str, str]:
    """Return cause and cure of an exception that an earlier line of the file explains."""
    for rule in tables()["by_line"]:
        if re.search(rule["error"], f"{error}: {text}"):
            found = (i for i, code in enumerate(lines, 1) if re.search(rule["culprit"], code, re.IGNORECASE))
            if line := next(found, 0):
                return rule["cause"].format(line=line), rule["cure"]
    return "", ""


def _missing_module(text: str, home: Path | None) -> tuple[str, str, str]:
    found = re.search(r"No module named '(\w+)[\w.]*'", text)
    if not found:
        return "", "", ""
    name = found.group(1)
    package = tables()["names"]["packages"].get(name)
    listed = next(iter(sorted(home.glob("*/requirements*.txt"))), None) if home else None
    if package:
        install = f"pip install {package}"
    elif listed:
        install = f"install what {listed.parent.name}/{listed.name} names for it"
    else:
        install = f"pip install {name} if it is called so there, for other packages bear names of modules too"
    cure = f"{install}, or delete the import where nothing uses it"
    return f"the package {package or name} is not installed here", cure, rf"\b(?:import|from)\s+{name}\b"


@dataclass(frozen=True)
class Diagnosis:
    """What a failed script tripped over.

    Attributes:
        file, line, source: Where, in the task's own code; line 0 where it is not known.
        error: Class and text of the exception, or the limit that was reached.
        cause: What has changed since the script was written; "" where it is not known.
        cure: What to change.
        other_lines: Further lines of the file that will fail for the same cause.
    """

    file: str
    line: int
    source: str
    error: str
    cause: str
    cure: str
    other_lines: tuple[int, ...] = ()

    def __str__(self) -> str:
        place = f"{self.file}, line {self.line}" if self.line else self.file
        code = f" ({self.source})" if self.source else ""
        also = f"; the same on line{'s' if len(self.other_lines) > 1 else ''} " if self.other_lines else ""
        also += ", ".join(map(str, self.other_lines))
        return f"{place}{code}: {self.error}{f'; cause: {self.cause}' if self.cause else ''}{also}"


def diagnose(
    files: Files, script: str, status: str, output: str, folder: str = "env", home: Path | None = None
) -> Diagnosis:
    """Return what a script tripped over, from the output of its run.

    Args:
        files: The workspace that it ran in; ``folder`` names it, ``home`` is the task's folder.
        status: Of the run, as the isolated runner gives it.
        output: What it printed; paths of the workspace begin with ``/workspace/`` or are relative.

    Example:
        >>> trace = 'Traceback (most recent call last):\\n  File "train.py", line 2, in <module>\\n'
        >>> trace += "AttributeError: module 'numpy' has no attribute 'int'"
        >>> print(diagnose({"train.py": b"import numpy as np\\nx = np.int"}, "train.py", "error", trace))
        env/train.py, line 2 (x = np.int): AttributeError: module 'numpy' has no attribute 'int'; cause: \
NumPy 1.24 removed np.int
    """
    if status in tables()["limits"]:
        cause, cure = tables()["limits"][status]
        return Diagnosis(f"{folder}/{script}", 0, "", status, cause, cure)
    name, line = script, 0
    last = cause_of(output) or output.split("Exception ignored ")[0]
    for place, number in re.findall(r'^\s*File "(?:/workspace/)?([^"]+)", line (\d+)', last, re.MULTILINE):
        if place in files:
            name, line = place, int(number)
    lines = files[name].decode("utf-8", "replace").splitlines() if name in files else []
    source = lines[line - 1].strip() if 0 < line <= len(lines) else ""
    raised = re.findall(r"^((?:\w+\.)*([A-Za-z_]\w*)(?:: .*)?)$", last, re.MULTILINE)
    first = raised[0 if "Traceback (most recent" in output else -1] if raised else ("", "")
    error, text = first[1], first[0].partition(": ")[2]
    cause, cure, pattern = _look_up(error, text, source, home)
    if not cause and raised:  # some libraries put the telling words into the lines around
        cause, cure, pattern = _look_up(error, output[-2000:], source, home)
    if not cause:
        cause, cure = _look_through(lines, error, text)
    also = tuple(i for i, code in enumerate(lines, 1) if pattern and i != line and re.search(pattern, code))
    shown = f"{error}: {text}".rstrip(": ")[:300] if raised else "it ended with an error"
    cure = cure or "run it by hand and correct it"
    return Diagnosis(f"{folder}/{name}", line, source, shown, cause, cure, also)
