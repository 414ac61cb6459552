"""What every logged name means: one place for notebooks, the report and readers of the files."""

from __future__ import annotations

__all__ = ["GRPO_METRICS", "NUMBERS", "describe"]

# Fields of one row of GRPO's metrics.jsonl, and of SFT's.
GRPO_METRICS = {
    "step": "Number of the update; 0 is before the first.",
    "split": "Absent or train: sampled while training. holdout: on states never trained on.",
    "reward": "Mean reward of the scored actions of the step (dimensionless). Should rise.",
    "validity": "Share of the scored actions that parse and name a known action with good arguments.",
    "steps": "Actions of this update: states times group size.",
    "groups": "States of this update; each has one group of actions.",
    "reward_std": "Standard deviation of the rewards over the whole batch, not in a group. 0 is no signal.",
    "advantage_std": "Standard deviation of the advantages: near 1 where groups differ, 0 where flat.",
    "share_invalid": "Share of the scored actions that could not be parsed or named no action. Should fall.",
    "share_error": "Share of the scored actions whose script or tool failed.",
    "share_neutral": "Share of the scored actions that are valid and edit nothing.",
    "share_corner": "Share of the scored actions cut short by time, memory or disk, or lost by the coder.",
    "share_edited": "Share of the scored actions that are edits whose script ran and got a score.",
    "unscored": "Actions that we failed to score: no reward, no gradient, not in any mean. Should be 0.",
    "coder_failures": "Actions lost by the coder, counted among the corner cases.",
    "episodes": "Trajectories of this update; only where RL trains on whole trajectories.",
    "episode_return": "Mean sum of a trajectory's rewards; only where RL trains on whole trajectories.",
    "on_policy_groups": "Groups that started where the policy itself had been, not the expert.",
    "flat_groups": "Groups in which every action got the same reward: no gradient comes from them.",
    "kl": "Estimated KL divergence from the policy before RL, in nats per token. Should grow slowly.",
    "entropy": "Mean entropy of the next token, in nats. A fall to 0 means the policy no longer explores.",
    "completion_tokens": "Mean length of an action in tokens.",
    "clipped_share": "Share of actions cut off at the longest allowed length. Should stay near 0.",
    "seconds_generation": "Wall seconds spent sampling actions, and on the reference's log-probabilities.",
    "seconds_coder": "Wall seconds in which the coder wrote the edits.",
    "seconds_execution": "Wall seconds in which the trainer waited and at least one script ran.",
    "seconds_overhead": "Wall seconds of steps that are neither: parsing, starting runs, grading, the cache.",
    "seconds_update": "Wall seconds spent computing gradients and updating.",
    "seconds_total": "Wall seconds of the whole update; the five above.",
    "seconds_scripts": "Seconds that the scripts took when they ran, also those read from the cache.",
    "seconds_charged": "Processor seconds of the trainer and seconds_scripts: arms compare at equal sums.",
    "charged": "Sum of seconds_charged up to here.",
    "cache_hits": "Actions whose experiment had been made before and was read from the cache.",
    "executions": "Scripts that were run or found in the cache.",
    "lr": "Learning rate of the update.",
    "grad_norm": "Norm of the gradient before clipping.",
    "skipped_update": "1 where the gradient overflowed float16 and the update was left out.",
    "token_accuracy": "Share of the reply's tokens that the model, given those before, finds likeliest.",
    "loss": "RL: the clipped objective, near 0 on fresh samples by construction, which measures no progress. "
    "SFT: nats per token of the replies; should fall.",
}

NUMBERS = {
    "score": "What the task's metric says about a submission, in the metric's own unit and direction.",
    "report labels": "Labels that only the final evaluation reads, to grade what finished trajectories have "
    "handed in. Rewards come from other, disjoint labels.",
    "avg@K, best@K": "Mean and best of the scores of K trajectories of one task.",
    "gain (%)": "Paper's relative gain: 100 · β · (avg@K − starter) / starter, β = −1 where lower is better.",
    "gap closed": "(score − starter) / (best known − starter): 0 is the starter, 1 the best known score.",
    "interval": "95 % percentile bootstrap: trajectories (and seeds) are drawn again, tasks stay fixed.",
    "reward": "What the learner gets for one action, a function of the change in score (paper Eq. 6).",
    "advantage": "A reward compared with its group, inside the trainer only.",
    "held-in / held-out": "Tasks whose states RL trains on / tasks that no stage of training has met.",
}


def describe(name: str) -> str:
    """Return what a logged field means, or that it is not described.

    Example:
        >>> describe("lr")
        'Learning rate of the update.'
    """
    return GRPO_METRICS.get(name, "Not described: a field that this version does not know.")
