"""The errors that a user can meet, one class for each exit code.

Each message is one line: what, where (environment index, step, field, value), what to do.
"""

import signal


class RidgelineError(Exception):
    """Base of every error that ridgeline raises on purpose; `exit_code` is the process's."""

    exit_code = 1


class UsageError(RidgelineError):
    """A name, a value or a combination of values that cannot be used."""

    exit_code = 2


class ContractError(RidgelineError):
    """An environment returned something that its spaces do not allow."""

    exit_code = 3


class NumericalError(RidgelineError):
    """Training produced a number that is not finite."""

    exit_code = 4


class FileError(RidgelineError):
    """A file is unreadable, damaged or of another version."""

    exit_code = 5


class StorageError(RidgelineError):
    """A folder cannot be written."""

    exit_code = 6


class EnvironmentCrash(RidgelineError):
    """An environment raised an error, died or stopped answering."""

    exit_code = 7


class Interruption(BaseException):
    """Not an environment's own exception: it passes through one, to be caught further out."""


class Stopped(Interruption, KeyboardInterrupt):
    """A signal of that number asked a run to stop; `hint` says how to go on."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number
        self.hint = ""

    def __str__(self) -> str:
        return signal.Signals(self.number).name + self.hint


def short(value: object) -> str:
    """The value on one line of at most 80 characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # it is a user's class
        text = f"a {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "..."
