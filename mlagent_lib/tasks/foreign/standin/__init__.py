"""Import path of a foreign grader where the package that it was written for is not installed."""
