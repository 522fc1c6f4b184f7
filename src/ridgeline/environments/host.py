"""What the adapters share: the count of the time limit, and the words of their messages."""

import difflib
import importlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ridgeline.errors import EnvironmentCrash, UsageError


class Clock:
    """Counts the steps of each environment's episode (`elapsed`) and says where the time limit is reached."""

    elapsed: np.ndarray

    def __init__(self, num_envs: int, limit: int | None):
        self.elapsed = np.zeros(num_envs, np.int64)
        self._limit = math.inf if limit is None else limit

    def start(self, mask: np.ndarray) -> None:
        """An episode starts wherever `mask`."""
        self.elapsed[mask] = 0

    def tick(self) -> np.ndarray:
        """Count one step; True where it was the last one allowed."""
        self.elapsed += 1
        return self.elapsed >= self._limit


def one_line(error: BaseException) -> str:
    """The exception's type and text on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def near(name: str, known: Iterable[str]) -> str:
    """What to do about a name that is not known."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else "write module:Id if a module of yours registers it"


def load(module: str) -> Any:
    """The module of that name.

    Raises: `UsageError` where there is none, `EnvironmentCrash` where importing it raises.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {module}: {one_line(error)}; install it or fix the name") from error
    except Exception as error:
        raise EnvironmentCrash(f"importing {module} raised {one_line(error)}: fix the module") from error
