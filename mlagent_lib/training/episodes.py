"""Episode-wise RL, the paper's baseline (Eq. 1): whole trajectories, each action credited with their return.

The loss, the trainer and the reward of a step are those of the step-wise arm. What differs: a group is G
trajectories from a task's starter, and every action of a trajectory gets the advantage of its return, the sum
of its step rewards ("cumulative reward over the trajectory", Eq. 1). There is no pay for variety and no
choice of states. Batch and return of the paper's episode-wise run are not stated.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from mlagent_lib.agents.prompts import Prompter
from mlagent_lib.core.errors import Unscored
from mlagent_lib.environment.outcome import Outcome
from mlagent_lib.environment.step import StepResult, Toolbox, run_steps
from mlagent_lib.environment.workspace import State
from mlagent_lib.reward import reward_of
from mlagent_lib.training.scoring import BatchReward, fill_groups, step_statistics


@dataclass
class _Episode:
    """A trajectory on its way."""

    state: State
    results: list[StepResult] = field(default_factory=list)
    rewards: list[float | None] = field(default_factory=list)
    tokens: list[tuple[list[int], list[int]]] = field(default_factory=list)
    failed: bool = False

    @property
    def is_over(self) -> bool:
        return self.failed or self.state.done

    @property
    def episode_return(self) -> float | None:
        """Return the sum of the rewards, or None where a step could not be scored by us."""
        return None if self.failed else sum(self.rewards)


class EpisodeReward(BatchReward):
    """TRL's rollout function and reward function for whole trajectories; its pool holds first states.

    TRL asks for ``G * max_steps`` completions of each start; they are filled with the actions of G
    trajectories. Where a trajectory ends early the rows left over are one masked token each, which adds
    nothing to the gradient.
    """

    __name__ = "episode_return"

    def __init__(self, pool: dict[str, State], tools: Toolbox, prompter: Prompter, **shape):
        super().__init__(pool, tools, **shape)
        self.prompter, self.max_steps = prompter, prompter.max_steps

    @property
    def rows_per_start(self) -> int:
        """Return how many rows of a batch belong to one start."""
        return self.group_size * self.max_steps

    def rollout(self, prompts: list, trainer) -> dict:
        """Return token ids of every action of the batch's trajectories, and the return of each.

        The trainer generates as it does for single steps. Its prompts are not used: they are rendered here,
        state by state.

        Raises:
            Unscored: Not one trajectory could be scored.
        """
        starts = self.states[:: self.rows_per_start]
        episodes = [_Episode(start) for start in starts for _ in range(self.group_size)]
        for _ in range(self.max_steps):
            active = [episode for episode in episodes if not episode.is_over]
            if active:
                self._advance(active, trainer)
        returns = [episode.episode_return for episode in episodes]
        if all(value is None for value in returns):
            cure = "repair what failed, then run again: training goes on from its last checkpoint"
            raise Unscored(f"none of {len(returns)} trajectories could be scored", cure=cure)
        filled, flat = fill_groups(returns, self.group_size)
        self.last = self._statistics(episodes, flat)
        return self._rows(episodes, filled, trainer)

    def __call__(self, prompts, completions, episode_return, **kwargs) -> list[float]:
        """Return for each action the return of its trajectory."""
        return list(episode_return)

    def _advance(self, active: list[_Episode], trainer) -> None:
        prompts = [self.prompter.messages(e.state, self.tools.task(e.state.task)) for e in active]
        prompt_ids, images, fields = trainer._tokenize_prompts(prompts)
        completion_ids, _ = trainer._generate_single_turn(prompt_ids, images, fields, 1)
        replies = trainer.processing_class.batch_decode(completion_ids, skip_special_tokens=True)
        began = time.perf_counter()
        results = run_steps(list(zip([e.state for e in active], replies, strict=True)), self.tools)
        self.seconds += time.perf_counter() - began
        for episode, result, prompt, completion in zip(
            active, results, prompt_ids, completion_ids, strict=True
        ):
            episode.failed = result.outcome is Outcome.UNSCORED
            episode.results.append(result)
            episode.rewards.append(reward_of(result, self.tools.task(result.state.task), self.form))
            episode.tokens.append((list(prompt), list(completion)))
            episode.state = result.state

    def _rows(self, episodes: Sequence[_Episode], returns: Sequence[float], trainer) -> dict:
        """Return the batch in TRL's form: ``max_steps`` rows for each trajectory."""
        found: dict = {"prompt_ids": [], "completion_ids": [], "env_mask": [], "episode_return": []}
        end = [trainer.processing_class.eos_token_id]
        for episode, value in zip(episodes, returns, strict=True):
            for position in range(self.max_steps):
                is_real = position < len(episode.tokens)
                prompt, completion = episode.tokens[position] if is_real else (episode.tokens[0][0], end)
                found["prompt_ids"].append(prompt)
                found["completion_ids"].append(completion)
                found["env_mask"].append([int(is_real)] * len(completion))
                found["episode_return"].append(value)
        return found | {"logprobs": None}

    def _statistics(self, episodes: Sequence[_Episode], flat: int) -> dict:
        results = [result for episode in episodes for result in episode.results]
        rewards = [reward for episode in episodes for reward in episode.rewards]
        scored = [episode.episode_return for episode in episodes if not episode.failed]
        groups = {"flat_groups": flat, "groups": len(episodes) // self.group_size, "episodes": len(episodes)}
        found = step_statistics(results, rewards) | groups
        return found | {"episode_return": sum(scored) / max(len(scored), 1)}
