"""States that the policy itself has reached, mixed into a pool of expert states.

The paper draws states from the expert only, and says that this costs little (section 4.2); its reviewers
asked for the measurement. Where the policy has just been is known for nothing: each action of a batch leaves
a state behind, from which a later batch may start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import StepResult
from mlagent_lib.environment.workspace import State

RECENT = 128  # ours: states remembered, some four batches of the arms, so that they are the policy's of now


class OnPolicyStates:
    """Replaces a share of a batch's groups by groups that start where the policy has been.

    Args:
        share: Of the groups, 0 to 1.
        group_size: Rows of a group.
        max_steps: Length of a trajectory: no group starts at its end.
        row_of: Returns the data set's row for a state.
        stream: Draws groups and states.
    """

    def __init__(
        self,
        share: float,
        *,
        group_size: int,
        max_steps: int,
        row_of: Callable[[State], dict],
        stream: np.random.Generator,
    ):
        self.share, self.group_size, self.max_steps = share, group_size, max_steps
        self._row_of, self._stream = row_of, stream
        self._states: deque[State] = deque(maxlen=RECENT)
        self.used = 0

    def visit(self, results: Sequence[StepResult]) -> None:
        """Remember the states that these steps have led to, where an agent could go on from them."""
        for result in results:
            goes_on = not result.state.done and result.state.step < self.max_steps
            if goes_on and result.outcome in (Outcome.EDITED, Outcome.ERROR, Outcome.CORNER):
                self._states.append(result.state)

    def mix(self, rows: Sequence[dict]) -> tuple[list[dict], dict[str, State]]:
        """Return the rows of a batch with groups replaced, and the states of the new ones by id.

        Args:
            rows: In groups of equal rows, as TRL gives them.
        """
        mixed, states = [], {}
        self.used = 0
        for start in range(0, len(rows), self.group_size):
            group = list(rows[start : start + self.group_size])
            if self._states and self._stream.random() < self.share:
                state = self._states[int(self._stream.integers(len(self._states)))]
                states[state.id] = state
                group = [self._row_of(state)] * len(group)
                self.used += 1
            mixed += group
        return mixed, states
