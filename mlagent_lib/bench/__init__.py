"""Measurements side by side: what a step, a worker, a GPU costs, as ratios."""
