"""Tasks of others.

Any foreign grader: ``grader`` (and ``grader_process``, its inside), ``check_grader``, ``old_code``.
MLAgentBench: ``prepare`` (its data), ``mlagentbench`` (the card it lacks), ``known_tasks``.
MLE-bench: ``mlebench_read`` (a competition), ``mlebench_split`` (its answers), ``mlebench_starter``,
``mlebench`` (the task made of them), ``leaderboard``, ``standin`` (the few names that its graders import).
"""
