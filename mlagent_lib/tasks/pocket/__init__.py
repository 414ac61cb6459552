"""The pocket suite: 19 small tasks, one for each task of the paper, and the edits that it knows."""
