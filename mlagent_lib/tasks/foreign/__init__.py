"""Tasks of others: MLAgentBench folders, MLE-bench competitions, external graders, leaderboards."""
