"""The exception by which a grader refuses a submission."""


class InvalidSubmissionError(Exception):
    """The submission cannot be graded, through its own fault."""
