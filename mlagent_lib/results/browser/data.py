"""What the page holds: every script, line, reply and feedback once, steps as short rows of numbers.

A thousand trajectories repeat few scripts, and scripts repeat their lines, so a page of some megabytes holds
what the files keep in a hundred. Edits are compared here, so that the page need not: a diff is a list of
changed blocks, four line numbers each.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterable, Mapping
from difflib import SequenceMatcher

from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.results.browser.rows import Scale, TrajectoryFile
from mlagent_lib.results.show import FIELDS, MARKS, reply_pieces, visible
from mlagent_lib.results.steps import outcome_of
from mlagent_lib.results.style import look, ordered

SCHEMA = "mlagent.view/1"
STEP_COLUMNS = (
    "step", "action", "outcome", "reason", "before", "after", "reward", "script", "script_after", "diff",
    "reply", "feedback", "metric", "seconds", "cached", "tier",
)  # fmt: skip
ALL_OUTCOMES = (*(outcome.value for outcome in Outcome), "unchanged", "undone")
_FINAL = ("feedback_last", "feedback_best", "report_start", "report_last", "report_kept", "stop")


class Interned:
    """A list without repetitions, whose members are named by their place.

    Example:
        >>> table = Interned()
        >>> [table.add(text) for text in ("a", "b", "a")], table.items
        ([0, 1, 0], ['a', 'b'])
    """

    def __init__(self) -> None:
        self.items: list = []
        self._places: dict[Hashable, int] = {}

    def add(self, item: Hashable) -> int:
        """Return the place of an item, which is put at the end where it is new."""
        place = self._places.setdefault(item, len(self.items))
        if place == len(self.items):
            self.items.append(item)
        return place


def changed_blocks(before: tuple, after: tuple) -> tuple[int, ...]:
    """Return the changed blocks of two lists of lines, four numbers each, one after the other.

    Lines ``[a:b]`` of ``before`` give way to lines ``[c:d]`` of ``after``; all else is the same.

    Example:
        >>> changed_blocks(("x", "y", "z"), ("x", "Y", "z", "new"))
        (1, 2, 1, 2, 3, 3, 3, 4)
    """
    codes = SequenceMatcher(None, before, after).get_opcodes()
    return tuple(place for tag, *places in codes if tag != "equal" for place in places)


class _Shared:
    """The tables that all trajectories share."""

    def __init__(self) -> None:
        self.texts, self.lines, self.scripts = Interned(), Interned(), Interned()
        self.replies, self.diffs = Interned(), Interned()
        self._known: dict[tuple[int, int], int] = {}

    def text(self, text: str) -> int:
        return self.texts.add(visible(text))

    def script(self, text: str | None) -> int:
        if text is None:
            return -1
        return self.scripts.add(tuple(self.lines.add(line) for line in visible(text).split("\n")))

    def diff(self, before: int, after: int) -> int:
        if before == after or min(before, after) < 0:
            return -1
        if (before, after) not in self._known:
            blocks = changed_blocks(self.scripts.items[before], self.scripts.items[after])
            self._known[before, after] = self.diffs.add(blocks)
        return self._known[before, after]

    def reply(self, text: str) -> int:
        """Return the place of a reply: which field each piece is (-1 for none) and its text, in turn."""
        flat: list[int] = []
        for name, piece in reply_pieces(text):
            flat += [FIELDS.index(name) if name else -1, self.text(piece)]
        return self.replies.add(tuple(flat))


def _step(step: Mapping, shared: _Shared) -> list:
    before, after = shared.script(step.get("script_before")), shared.script(step.get("script_after"))
    return [  # in the order of `STEP_COLUMNS`
        step["step"], shared.text(step["action"] or ""), ALL_OUTCOMES.index(outcome_of(step)),
        shared.text(step.get("reason") or ""), step["score_before"], step["score_after"], step["reward"],
        before, after, shared.diff(before, after), shared.reply(step["reply"]),
        shared.text(step["observation"]), step.get("visible_metric"), step["seconds"],
        int(step["cache_hit"]), shared.text(step.get("tier") or ""),
    ]  # fmt: skip


def _trajectory(row: Mapping, file: int, key: str, shared: _Shared) -> dict:
    final = {name: (row["final"] or {}).get(name) for name in _FINAL}
    ideas = [shared.text(f"{idea['axis']}: {idea['instruction']}") for idea in row["ideas"]]
    own = {"key": key, "file": file, "task": visible(row["task"]), "policy": visible(row["source"])}
    own |= {"split": row["split"], "seed": row["seed"], "ideas": ideas}
    own["final"] = {name: visible(at) if isinstance(at, str) else at for name, at in final.items()}
    return own | {"steps": [_step(step, shared) for step in row["steps"]]}


def payload(
    files: Iterable[TrajectoryFile],
    scales: Mapping[str, Scale],
    *,
    policies: Collection[str] = (),
    tasks: Collection[str] = (),
) -> dict:
    """Return what the page shows, ready for JSON; the same files give the same value.

    ``scales`` are by task; ``policies`` and ``tasks`` choose trajectories, and empty ones keep all.
    """
    shared, keys, trajectories, names = _Shared(), {}, [], []
    for place, file in enumerate(files):
        names.append(visible(file.name))
        for row in file.rows:
            if (policies and row["source"] not in policies) or (tasks and row["task"] not in tasks):
                continue
            name = visible(row["id"])
            keys[name] = keys.get(name, 0) + 1  # two files may use one name: the link must still find each
            key = name if keys[name] == 1 else f"{name}~{keys[name]}"
            trajectories.append(_trajectory(row, place, key, shared))
    labels = {visible(name): visible(look(name)[0]) for name in ordered(t["policy"] for t in trajectories)}
    known = {"schema": SCHEMA, "columns": STEP_COLUMNS, "fields": FIELDS, "outcomes": ALL_OUTCOMES}
    known |= {"marks": [MARKS[name] for name in ALL_OUTCOMES], "policies": labels, "files": names}
    known["scales"] = {visible(name): vars(scale) for name, scale in scales.items()}
    tables = ("texts", "lines", "scripts", "diffs", "replies")
    return known | {name: getattr(shared, name).items for name in tables} | {"trajectories": trajectories}


def counts_by_policy(data: Mapping) -> list[dict]:
    """Return one line of counts for each policy: trajectories, steps, steps of each outcome, mean reward.

    The mean is over the steps with a reward; None where there are none.
    """
    outcome, reward = STEP_COLUMNS.index("outcome"), STEP_COLUMNS.index("reward")
    lines = []
    for policy, label in data["policies"].items():
        own = [t for t in data["trajectories"] if t["policy"] == policy]
        steps = [step for t in own for step in t["steps"]]
        rewards = [step[reward] for step in steps if step[reward] is not None]
        counts = {name: sum(step[outcome] == i for step in steps) for i, name in enumerate(ALL_OUTCOMES)}
        line = {"policy": label, "trajectories": len(own), "steps": len(steps), **counts}
        lines.append(line | {"mean reward": sum(rewards) / len(rewards) if rewards else None})
    return lines
