"""Where a score stands on a competition's leaderboard: medal, median, percentile.

The rules are those of MLE-bench (arXiv 2410.07095; ``Grader.rank_score`` in ``mlebench/grade_helpers.py``,
after Kaggle's progression system). It places a score on the competition's *private* leaderboard:

| teams | gold | silver | bronze |
|---|---|---|---|
| 1 to 99 | top 10 % | top 20 % | top 40 % |
| 100 to 249 | top 10 | top 20 % | top 40 % |
| 250 to 999 | top 10 and 0.2 % | top 50 | top 100 |
| 1000 and more | top 10 and 0.2 % | top 5 % | top 10 % |

A share is rounded down and is at least one place. A score wins a medal if it is at least as good as the score
at the medal's last place. The percentile is ours: MLE-bench has none.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median

from mlagent_lib.tasks.refusals import refusal
from mlagent_lib.tasks.task import Task

MEDALS = ("gold", "silver", "bronze")
LFS_MARK = "version https://git-lfs.github.com/spec/"
DIGITS = 5  # MLE-bench rounds a score to five decimals before it is placed
FILE = "leaderboard.csv"


@dataclass(frozen=True)
class Leaderboard:
    """The private leaderboard of one competition.

    Attributes:
        scores: One for each team, the best first, in the unit of the competition's metric.
        greater_is_better: Direction of the metric.

    Raises:
        ValueError: There is no team, or the scores are not sorted in this direction.
    """

    scores: tuple[float, ...]
    greater_is_better: bool

    def __post_init__(self) -> None:
        if not self.scores:
            raise ValueError("a leaderboard needs at least one team")
        if any(worse_than(before, after, self.greater_is_better) for before, after in pairwise(self.scores)):
            raise ValueError("the scores of a leaderboard must be sorted, the best first")

    @property
    def teams(self) -> int:
        """Return the number of teams."""
        return len(self.scores)

    @property
    def best(self) -> float:
        """Return the score of the winner."""
        return self.scores[0]

    @property
    def median(self) -> float:
        """Return the median score, the mean of the two in the middle where the number of teams is even."""
        return float(median(self.scores))


def worse_than(score: float, other: float, greater_is_better: bool) -> bool:
    """Return whether a score is strictly worse than another one.

    Example:
        >>> worse_than(0.9, 0.8, greater_is_better=True), worse_than(0.9, 0.8, greater_is_better=False)
        (False, True)
    """
    return score < other if greater_is_better else score > other


def medal_places(teams: int) -> tuple[int, int, int]:
    """Return the last place that still wins gold, silver and bronze.

    Source: MLE-bench's ``get_thresholds``. Shares are taken in whole numbers, so that no rounding of a float
    moves a place.

    Raises:
        ValueError: There is no team.

    Example:
        10, 20 and 40 % of 50; places 10, 50 and 100; 10 + 0.2 %, 5 and 10 % of 1500:

        >>> medal_places(50), medal_places(300), medal_places(1500)
        ((5, 10, 20), (10, 50, 100), (13, 75, 150))
    """
    if teams < 1:
        raise ValueError(f"the number of teams must be at least 1, not {teams}")
    if teams < 250:
        places = (teams // 10 if teams < 100 else 10, teams // 5, teams * 2 // 5)
    else:
        places = (10 + teams // 500, *((50, 100) if teams < 1000 else (teams // 20, teams // 10)))
    gold, silver, bronze = (max(1, place) for place in places)
    return gold, silver, bronze


def medal_thresholds(board: Leaderboard) -> dict[str, float]:
    """Return the worst score that still wins each medal.

    Example:
        >>> medal_thresholds(Leaderboard((9, 8, 7, 6, 5, 4, 3, 2, 1, 0), greater_is_better=True))
        {'gold': 9, 'silver': 8, 'bronze': 6}
    """
    places = medal_places(board.teams)
    return {name: board.scores[place - 1] for name, place in zip(MEDALS, places, strict=True)}


def medal(score: float, board: Leaderboard) -> str:
    """Return ``gold``, ``silver`` or ``bronze``, or an empty text where a score wins none.

    Raises:
        ValueError: The score is not finite.

    Example:
        Ten teams, lower is better: one gold, two silver and four bronze places.

        >>> board = Leaderboard((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), greater_is_better=False)
        >>> [medal(score, board) for score in (0.05, 0.2, 0.4, 0.41)]
        ['gold', 'silver', 'bronze', '']
    """
    rounded, up = _placed(score), board.greater_is_better
    won = (name for name, least in medal_thresholds(board).items() if not worse_than(rounded, least, up))
    return next(won, "")


def above_median(score: float, board: Leaderboard) -> bool:
    """Return whether a score is strictly better than the median team's.

    Example:
        >>> board = Leaderboard((4.0, 3.0, 2.0, 1.0), greater_is_better=True)
        >>> above_median(2.6, board), above_median(2.5, board)
        (True, False)
    """
    return worse_than(board.median, _placed(score), board.greater_is_better)


def percentile(score: float, board: Leaderboard) -> float:
    """Return the percentage of the teams that a score beats: 0 beats nobody, 100 everybody.

    Teams with the same score are not beaten, so the winner's own score stays below 100.

    Example:
        >>> board = Leaderboard((4.0, 3.0, 2.0, 1.0), greater_is_better=True)
        >>> percentile(3.0, board), percentile(5.0, board), percentile(0.5, board)
        (50.0, 100.0, 0.0)
    """
    rounded = _placed(score)
    beaten = sum(worse_than(other, rounded, board.greater_is_better) for other in board.scores)
    return 100.0 * beaten / board.teams


def _placed(score: float) -> float:
    if not math.isfinite(score):
        raise ValueError(f"a score of {score} has no place on a leaderboard")
    return round(float(score), DIGITS)


def read_leaderboard(path: Path, *, greater_is_better: bool | None = None) -> Leaderboard:
    """Return the leaderboard in a CSV file with a column ``score``, one line for each team, the best first.

    The direction is read from the order, as MLE-bench does: lower is better where the first score is below
    the last one. Where it is known it must agree with the order, and is needed where all scores are one.

    Raises:
        TaskError: The file is missing, a Git-LFS pointer, empty, or no such table; a score is no number; the
            order fits no direction, or not the one that is given.
    """
    scores = _scores(Path(path), _text(Path(path)))
    first, last = scores[0], scores[-1]
    if first == last and greater_is_better is None:
        raise refusal("no direction", path=path, score=first)
    found = first > last if first != last else bool(greater_is_better)
    if greater_is_better not in (None, found):
        seen, stated = ("higher", "lower") if found else ("lower", "higher")
        raise refusal("other direction", path=path, first=first, last=last, seen=seen, stated=stated)
    for number, (before, after) in enumerate(pairwise(scores), start=3):
        if worse_than(before, after, found):
            raise refusal("board not sorted", path=path, line=number, after=after, before=before)
    return Leaderboard(tuple(scores), found)


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise refusal("board unread", path=path, error=type(error).__name__) from error
    if text.startswith(LFS_MARK):
        raise refusal("board is a pointer", path=path)
    return text


def _scores(path: Path, text: str) -> list[float]:
    lines = csv.DictReader(text.splitlines())
    lines.fieldnames = columns = [name.strip() for name in lines.fieldnames or ()]
    if "score" not in columns:
        found = f"its columns are {', '.join(columns)}" if columns else "it is empty"
        raise refusal("board without scores", path=path, found=found)
    scores = []
    for row in lines:
        try:
            scores.append(float(row["score"]))
        except (TypeError, ValueError):
            scores.append(math.nan)
        if not math.isfinite(scores[-1]):
            raise refusal("board score", path=path, line=lines.line_num, score=row["score"])
    if not scores:
        raise refusal("board empty", path=path)
    return scores


def leaderboard_of(task: Task) -> Leaderboard | None:
    """Return the leaderboard that lies in a task's folder, or None where the task has none."""
    path = task.folder / "scripts" / FILE
    return read_leaderboard(path, greater_is_better=task.greater_is_better) if path.is_file() else None
