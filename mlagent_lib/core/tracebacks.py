"""Which of the tracebacks that a script printed tells why it ended."""

from __future__ import annotations

import re

HEAD = re.compile(r"(?:.*\])?(?:Exception Group )?Traceback \(most recent call last\):")
_GROUP = re.compile(r"^  [|+] ")  # what stands before each line of an exception group
_CHAINED = re.compile(r"During handling of the above |The above exception was the direct cause ")
_IGNORED = re.compile(  # what stands above a traceback that ended nothing
    r"Exception ignored |--- Logging error ---|(Task|Future) exception was never|exception calling callback"
)
_INNER = re.compile(r'  File "(?:<.*|.*, in (?!<module>).*)')  # first frame of a thread, a worker, a callback


def cause_of(output: str) -> str:
    """Return the last traceback of those that ended a program, with all up to the next; nothing without one.

    One that Python ignored (in a destructor, in logging) is never the cause; one that does not begin in the
    body of a script, as those of threads and workers, is where there is no other. A syntax error of the
    script itself has no header, only the place.

    Example:
        >>> ignored = "Exception ignored in: <f>\\nTraceback (most recent call last):\\nOSError: late\\n"
        >>> cause_of(f"Traceback (most recent call last):\\nKeyError: 1\\n{ignored}").split("\\n")[1]
        'KeyError: 1'
        >>> cause_of(ignored)
        ''
    """
    lines = [_GROUP.sub("", line) for line in output.split("\n")]
    heads = [i for i, line in enumerate(lines) if HEAD.match(line)]
    if not heads:
        places = [i for i, line in enumerate(lines) if line.startswith('  File "')]
        return "\n".join(lines[places[-1] :]) if places else ""
    ranks: list[int] = []
    for before, head in zip([0, *heads], heads, strict=False):
        chained = ranks and ranks[-1] == 0 and _CHAINED.match(lines[head - 2])
        inner = 1 if any(map(_INNER.match, lines[head + 1 : head + 2])) else 2
        ranks.append(0 if chained or _ignored(lines[before:head]) else inner)
    rank, best = max((rank, i) for i, rank in enumerate(ranks))
    return "\n".join(lines[heads[best] : [*heads, len(lines)][best + 1]]) if rank else ""


def _ignored(above: list[str]) -> bool:
    """Return whether the lines above a traceback say that it ended nothing."""
    if above and above[-1].endswith(">"):  # the thing concerned, which may take several lines
        return any(map(_IGNORED.match, above))
    return bool(above and _IGNORED.match(above[-1]))
