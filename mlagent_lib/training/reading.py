"""The reading test: can a learner choose what fits the task that it reads, where that is what pays?

States, prompts, trainer and reward are those of a run, but no script runs: a table says which families of
edits are right for a modality. In the reward of v1 a right edit pays 1, an action that edits nothing 0.5,
another valid edit 0.05 and a failed action 0. No family is right in more than two modalities, so a policy
that says one sentence, whatever it reads, cannot do well. Ours; the paper has no such test.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from mlagent_lib.core.seeding import rng
from mlagent_lib.environment.actions import Invalid, parse_action
from mlagent_lib.environment.cache import Execution
from mlagent_lib.environment.coder import EditRequest
from mlagent_lib.environment.step import Toolbox
from mlagent_lib.environment.workspace import State
from mlagent_lib.tasks.pocket.catalogue import edits, family_of, family_of_key
from mlagent_lib.tasks.task import Task

FEWEST, MOST = 12, 14  # ours: right families of a modality, about two fifths of those that fit its tasks
MODALITIES_EACH = 2  # ours: in which a family may be right
OTHER = math.log(0.05 / 0.95) / 100  # share of the gap for which the reward of v1 is 0.05
_MARK = "\n# asks for "

Table = Mapping[str, frozenset[str]]


def fitting(task: Task) -> set[str]:
    """Return the families of edits that fit a task, as ``axis/family``."""
    return {family_of_key(edit.key) for edit in edits(task.modality, task.kind)}


def draw_table(tasks: Iterable[Task], seed: int) -> Table:
    """Return by modality which families of edits are right, drawn at random.

    Args:
        tasks: Those trained and those measured on: what is right fits all tasks of its modality.
    """
    stream, used, table = rng(seed, "reading"), Counter(), {}
    known: dict[str, set[str]] = {}
    for task in tasks:
        known[task.modality] = known.get(task.modality, fitting(task)) & fitting(task)
    for modality in sorted(known):
        free = [family for family in sorted(known[modality]) if used[family] < MODALITIES_EACH]
        count = int(stream.integers(FEWEST, MOST + 1))
        table[modality] = frozenset(free[index] for index in stream.permutation(len(free))[:count])
        used.update(table[modality])
    return table


class _Marking:
    """A coder that writes behind the script which family an instruction asks for, and edits nothing."""

    name = "table"

    def edit_many(self, requests: Sequence[EditRequest]) -> list[str]:
        """Return the marked script for each request, in order."""
        return [
            f"{asked.script}{_MARK}{family_of(asked.instruction, asked.task.modality, asked.task.kind)}"
            for asked in requests
        ]


@dataclass(frozen=True)
class TableTools(Toolbox):
    """A toolbox whose scores come from a table: no script runs.

    Attributes:
        table: Right families by modality (see `draw_table`).
    """

    table: Table = field(default_factory=dict)

    @classmethod
    def of(cls, tools: Toolbox, table: Table) -> TableTools:
        """Return a toolbox for the same tasks and the same form of replies."""
        same = {"home": tools.home, "reply_format": tools.reply_format, "tasks": tools.tasks}
        return cls(tools.runner, _Marking(), tools.cache, table=table, **same)

    def claim_many(
        self, jobs: Sequence[tuple[State, str]], *, reseed: int = 0
    ) -> Callable[[], list[tuple[Execution, bool]]]:
        """Return what gives for each (state, script) what the table says; an edit of no family fails."""
        return lambda: [(self._looked_up(state, script), False) for state, script in jobs]

    def _looked_up(self, state: State, script: str) -> Execution:
        task, (_, mark, family) = self.task(state.task), state.files[script].decode().rpartition(_MARK)
        share = (1.0 if family in self.table[task.modality] else OTHER) if mark else 0.0
        score = state.score + share * (task.best["feedback"] - task.baseline["feedback"])
        if mark and family not in fitting(task):
            return Execution("error", "", 0.0, "table", "unknown-edit", None, None, None, None)
        return Execution("ok", "", 0.0, "table", None, None, score, None, None)


def choices(rows: Iterable[Mapping], tools: TableTools) -> list[dict]:
    """Return what each reply of `evaluate_steps` chose, and whether that is right.

    Returns:
        Rows of task, split, modality, family ("" for no edit that ran) and right.
    """
    found = []
    for row in rows:
        task, action = tools.task(row["task"]), parse_action(row["reply"], tools.reply_format)
        is_edit = row["outcome"] == "edited" and not isinstance(action, Invalid)
        asked = action.arguments.get("edit_instruction", "") if is_edit else ""
        found.append(_choice(task, family_of(asked, task.modality, task.kind) or "", tools))
    return found


def _choice(task: Task, family: str, tools: TableTools) -> dict:
    told = {"task": task.name, "split": task.split, "modality": task.modality, "family": family}
    return told | {"right": family in tools.table[task.modality]}


def summary(found: Sequence[Mapping]) -> dict[str, float]:
    """Return the share of right replies, in all and by modality, and what part of all asks for one family.

    Example:
        >>> row = {"modality": "text", "family": "model/knn", "right": True}
        >>> other = {"modality": "graph", "family": "model/knn", "right": False}
        >>> summary([row, row, other, other | {"family": ""}])
        {'right': 0.5, 'right_graph': 0.0, 'right_text': 1.0, 'commonest': 0.75, 'families': 1}
    """
    by: dict[str, list[bool]] = {}
    for row in found:
        by.setdefault(row["modality"], []).append(row["right"])
    said = Counter(row["family"] for row in found if row["family"])
    return {
        "right": round(fmean(row["right"] for row in found), 4),
        **{f"right_{name}": round(fmean(by[name]), 4) for name in sorted(by)},
        "commonest": round(max(said.values(), default=0) / len(found), 4),
        "families": len(said),
    }


def best_constant(tasks: Sequence[Task], table: Table) -> str:
    """Return the family that is right on most of the tasks, the first by name in a tie."""
    counts = Counter(family for task in tasks for family in table[task.modality])
    return min(counts, key=lambda family: (-counts[family], family))


def said_always(family: str, states: Sequence[State], tools: TableTools) -> list[dict]:
    """Return the `choices` of a policy that asks for one family in all states."""
    return [_choice(tools.task(state.task), family, tools) for state in states]


def drawn_families(states: Sequence[State], tools: TableTools, seed: int) -> list[dict]:
    """Return the `choices` of a policy that asks for a random family of those that fit the task."""
    stream, found = rng(seed, "reading", "random"), []
    for task in (tools.task(state.task) for state in states):
        known = sorted(fitting(task))
        found.append(_choice(task, known[int(stream.integers(len(known)))], tools))
    return found
