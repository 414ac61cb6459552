"""The script in what a coder wrote: found by lines and fences, whatever their labels, if it compiles.

A block counts where it is closed and labelled as Python, or not at all. What is less sure (another label, no
end, no fence, an excerpt beside it) counts where it is the whole script: it keeps the last line and at least
half of the lines. So prose, or a reply that was cut, is never run, and never paid to the policy.
"""

from __future__ import annotations

import ast
import keyword
import re
import warnings
from dataclasses import dataclass
from itertools import chain

_FENCE = re.compile(r"([^`~]*?)(`{3,}+|~{3,}+)[ \t]*([^`]*)")
_LABEL = re.compile(r"(?i)^(?:python|py)\d*[ \t]*")
_STOP = re.compile(r"(?:<\|\w+\|>|</s>)\s*\Z")  # a token that a server left in
_DIFF = re.compile(r"(?i)\b(?:diff|patch)\b")  # what was taken out stands there too
_PYTHON = re.compile(r"(?i)^$|\b(?:i?python|py)[\d.]*\b")
_CODE = re.compile(r"""(?:[^#"']|"[^"]*"|'[^']*')*""")  # before a fence at the end of a line of code
_WORD = rf"(?!(?:{'|'.join(keyword.kwlist)})\b)[a-z]['\w-]*[,:.!?]*(?: \w|$)"
_PROSE = re.compile(rf"\s*(?:[A-Z*>\d<#-]|[^\x00-\x7f]|{_WORD}|$)(?!.* = )")  # how its lines begin
_MOST = 1000  # fences of a reply, lines of prose around a script: more is a runaway generation
_LEFT_OUT = re.compile(  # a comment, or three points alone, in place of lines of the script
    r"(?im)^(?:\.\.\.[ \t]*$|[ \t]*#[ \t]*(?:\.\.\.|…)[ \t]*[(\w].*"
    r"|[ \t]*#.{0,99}\b(?:rest|remainder|remaining|existing|everything else)\b"
    r".{0,99}\b(?:unchanged|same|as (?:before|is|it was)|omitted|goes here|stays)\b.*)"
)
_OPEN = "unterminated triple-quoted"  # begins Python's words for a text that ends inside a string
_DOES = (ast.Call, ast.Assign, ast.AugAssign, ast.Import, ast.ImportFrom)


@dataclass(frozen=True)
class _Fence:
    line: int
    before: str = ""
    mark: str = ""
    label: str = ""

    def is_end_of(self, other: _Fence) -> bool:
        """Return whether the block that another fence opens may end here; without a mark it may anywhere."""
        fits = self.mark.startswith(other.mark) and not self.label.strip() and _CODE.fullmatch(self.before)
        return self.line > other.line and bool(not other.mark or fits)


def find_script(reply: str, script: str) -> str:
    r"""Return the edited script in a coder's reply. A file that is no Python program need not become one.

    Raises:
        ValueError: No block holds a whole script, or it does not compile.

    Example:
        >>> find_script("Run:\n```bash\npip install x\n```\nThen:\n~~~Python3\nx = 2\n~~~\n", "x = 1\n")
        'x = 2\n'
    """
    lines = _STOP.sub("", reply.replace("\r\n", "\n")).split("\n")
    matches = ((number, _FENCE.fullmatch(line)) for number, line in enumerate(lines))
    fences = [_Fence(number, *match.groups()) for number, match in matches if match][:_MOST]
    reader = _Reader(lines, fences, script)
    whole, blocks, end = [], [], -1
    for fence in [_Fence(-1), *fences]:
        text, fault, closed = reader.read(fence)
        is_file, is_inner = reader.is_trusted(fence), fence.line < end
        if not fault and reader.is_whole(text) and (closed or not is_inner):
            whole.append(text)
        is_prose = not fence.mark and closed == (fences[0].line if fences else 0)
        if not is_inner and not is_prose and (is_file or not fence.before.strip()):
            end = (closed or len(lines)) + 1
            blocks += [(text, fault if closed else "it is cut off")] if is_file else []
    text, fault = max(blocks, key=lambda block: len(block[0]), default=("", ""))
    if whole:
        text = max(whole, key=lambda text: (text.strip() != script.strip(), len(text))).lstrip("\n")
        fault = ""
    if not text.strip():
        raise ValueError("the coder answered without a code block that holds a whole Python script")
    if fault:
        raise ValueError(f"the coder's script is no whole Python program: {fault}")
    if left_out := next((line for line in _LEFT_OUT.findall(text) if line not in script), ""):
        raise ValueError(f"the coder left out a part of the script: {left_out.strip()!r}")
    return text


class _Reader:
    """Reads the blocks of one reply, in the light of the script that was to be edited."""

    def __init__(self, lines: list[str], fences: list[_Fence], script: str):
        self._lines, self._fences = lines, fences
        self._wanted = [line.strip() for line in script.split("\n") if re.search(r"\w", line)]
        self._known, self._is_python = set(self._wanted), not fault_of(script)

    def is_trusted(self, fence: _Fence) -> bool:
        """Return whether what stands in such a block is meant to be the file."""
        if not fence.mark or _DIFF.search(fence.label):
            return False
        return not self._is_python or bool(_PYTHON.search(fence.label.strip()))

    def is_whole(self, text: str) -> bool:
        """Return whether a text keeps the last line and at least half of the lines of the script."""
        found = {line.strip() for line in text.split("\n")}
        kept = [line for line in self._wanted if line in found]
        return 2 * len(kept) >= len(self._wanted) > 0 and kept[-1:] == self._wanted[-1:]

    def read(self, fence: _Fence) -> tuple[str, str, int]:
        """Return the block that a fence opens, what is wrong with it, and the line of its end, or 0.

        A fence inside a string of the script is not its end. The block of no fence ends at the first one.
        """
        ends = (end for end in self._fences if end.is_end_of(fence))
        for end in chain(ends, [_Fence(len(self._lines))]):
            body = self._body(fence, end) + [end.before] * bool(end.before.strip())
            is_sure = fence.mark and end.mark
            text, fault = self._trimmed(body) if not is_sure else (_text(body), "")
            if is_sure and self._is_python:
                fault = fault_of(text)
            if not (fault.startswith(_OPEN) or (fault and end.before.strip())):
                break
        fault = fault or ("it is a diff" if _DIFF.search(fence.label) else "")
        return text, fault, end.line if end.mark else 0

    def _body(self, fence: _Fence, end: _Fence) -> list[str]:
        """Return the lines between fences, also where the label has the first one, or a line of its own."""
        body, label = self._lines[fence.line + 1 : end.line], fence.label.strip()
        first = _LABEL.sub("", label)
        if first in self._known:
            return [first, *body]
        return body[bool(not label and body and _LABEL.fullmatch(body[0])) :]

    def _trimmed(self, body: list[str]) -> tuple[str, str]:
        """Return a text without the prose around it, and what is wrong with what is left.

        Prose is what looks like it and does not compile or do anything, before the first or after the last
        known line.
        """
        known = [number for number, line in enumerate(body) if line.strip() in self._known]
        if not known or not self._is_python:
            text = _text(body)
            return text, _OPEN if text.count('"""') % 2 or text.count("'''") % 2 else "no line of it is known"
        begin, end = 0, len(body)
        if max(known[0], end - known[-1]) > _MOST:
            return _text(body), "there is too much around it"
        for _ in range(_MOST):
            text = _text(body[begin:end])
            fault, lines = _compiled(text)
            places = [at for line in lines if _PROSE.match(body[at := min(begin + line, end) - 1])]
            if places and min(places) < known[0]:
                begin = min(places) + 1
            elif places and max(places) > known[-1]:
                end = max(places)
            else:
                return text, fault
        return text, "there is too much around it"


def _text(body: list[str]) -> str:
    """Return lines as a text, without the indentation of the first one, as a list item has it."""
    indent = re.match(r"\s*", next(filter(str.strip, body), "")).group()
    text = "\n".join(line.removeprefix(indent) for line in body).rstrip("\n") + "\n"
    return text.removeprefix("\ufeff")


def fault_of(script: str) -> str:
    """Return why a text is not a Python program that does something, or nothing.

    Example:
        >>> fault_of("x = (1"), fault_of("Done"), fault_of("x = 1")
        ("'(' was never closed (line 1)", 'it does nothing', '')
    """
    return _compiled(script)[0]


def _compiled(script: str) -> tuple[str, list[int]]:
    """Return what is wrong with a program, and its lines that may be prose: faulty, or words at an end."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the script: they are told where it runs
            tree = ast.parse(script.removeprefix("\ufeff"))  # as Python reads a file
            compile(tree, "script", "exec", dont_inherit=True)
    except SyntaxError as error:
        return f"{error.msg} (line {error.lineno})", [error.lineno] if error.lineno else []
    except (ValueError, RecursionError, MemoryError) as error:
        return f"it cannot be read ({type(error).__name__})", []
    fault = "" if any(isinstance(node, _DOES) for node in ast.walk(tree)) else "it does nothing"
    return fault, [node.lineno for node in tree.body[:1] + tree.body[-1:] if _is_word(node)]


def _is_word(node: ast.stmt) -> bool:
    """Return whether a statement does nothing, as ``Done``, ``- tested`` and ``Note: x`` do."""
    if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant):
        return not any(isinstance(inner, _DOES) for inner in ast.walk(node))
    return isinstance(node, ast.AnnAssign) and node.value is None
