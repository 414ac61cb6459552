"""The exceptions that cross a boundary of the kit.

A failure of the *policy* is never an exception: it is an outcome of a step and gets a reward. What is raised
here is either a mistake of the caller (wrong name, broken folder) or a failure of ours (`Unscored`), which
must never turn into a reward.
"""

from __future__ import annotations


class MlagentError(Exception):
    """Base of all errors of the kit: what was wrong, where, and what to do about it.

    Args:
        message: The rule that was broken, with the offending value and its place.
        cure: What the reader can do, as an imperative sentence. Shown after the message.

    Example:
        >>> str(MlagentError("profile 'lapto' is unknown", cure="choose smoke or laptop"))
        "profile 'lapto' is unknown. What to do: choose smoke or laptop"
    """

    def __init__(self, message: str, *, cure: str = ""):
        self.message = str(message)  # AsyncVectorEnv makes an error of a worker's error
        self.cure = cure
        super().__init__(message)

    def __str__(self) -> str:
        return f"{self.message}. What to do: {self.cure}" if self.cure else self.message


class TaskError(MlagentError):
    """A task folder breaks a rule of the task contract."""


class ProfileError(MlagentError):
    """A profile or a parameter of it is unknown or out of range."""


class RunError(MlagentError):
    """A run directory is missing something, is damaged, or is in use by another process."""


class IsolationError(MlagentError):
    """This machine cannot give the isolation that was asked for."""


class EndpointError(MlagentError):
    """A model server did not give a usable reply within its budget of retries."""


class CoderError(MlagentError):
    """The coder (not the policy) could not turn an edit instruction into a script."""


class SubmissionError(MlagentError):
    """A submission cannot be scored, through a fault of the script that wrote it.

    Args:
        reason: A fixed class name such as ``missing`` or ``row-count``. Never free text, because the text of
            an exception could carry a label back to the agent.
    """

    def __init__(self, reason: str):
        self.reason = reason
        super().__init__(f"submission refused: {reason}")

    def __reduce__(self):
        return type(self), (self.reason,)


class Unscored(MlagentError):
    """We failed, not the policy: the step has no score, enters no gradient and no average, and is counted."""
