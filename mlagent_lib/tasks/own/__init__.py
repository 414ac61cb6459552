"""Makes a task folder from a reader's own table: read, judge, split, write, measure, check."""
