"""A run: its lab, the work of each stage, the notebooks, and what is shown and published of it."""
