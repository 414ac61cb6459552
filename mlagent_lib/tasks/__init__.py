"""Task folders: what the agent sees, how it is graded, and the pocket suite."""
