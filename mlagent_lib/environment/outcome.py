"""What a step came to: the only bridge from feedback to reward."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """The six cases of a step (paper section 4.3, Eq. 6, and one of our own).

    The paper lists no members of its sets; ours are (a deviation, because the paper is silent):

    * ``INVALID``: the reply cannot be parsed, names no known action, or has wrong arguments (a not in
      A_valid).
    * ``ERROR``: the tool or the script failed (f in F_error).
    * ``NEUTRAL``: a valid action that edits nothing (a in A_valid but not in A_edit).
    * ``CORNER``: time, memory, disk or processes ran out, or the *coder* failed (f in F_corner).
    * ``EDITED``: an edit whose script ran and was scored (f in F_success).
    * ``UNSCORED``: we failed. It has no reward and enters no gradient and no average.
    """

    INVALID = "invalid"
    ERROR = "error"
    NEUTRAL = "neutral"
    CORNER = "corner"
    EDITED = "edited"
    UNSCORED = "unscored"
