"""What the adapters share: the time limit, what is said once, and the words of messages."""

import difflib
import importlib
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ridgeline.errors import EnvironmentCrash, UsageError
from ridgeline.specs import FLOAT32_MAX


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


class Notes:
    """Lines about what was made to fit, one of each kind; whoever runs the environments takes and shows them."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._lines: dict[str, str] = {}

    def say(self, kind: str, line: str) -> None:
        """Keep the line, if none of its kind has been said."""
        if kind not in self._said:
            self._said.add(kind)
            self._lines[kind] = line

    def take(self) -> dict[str, str]:
        """The lines since the last call, by kind."""
        taken, self._lines = self._lines, {}
        return taken


def notes_of(env: object) -> Notes:
    """The notes of a factory or a host; empty ones where it keeps none."""
    found = getattr(env, "notes", None)
    return found if isinstance(found, Notes) else Notes()


def bad_reward(rewards: np.ndarray) -> int | None:
    """The first row whose reward is not a finite float32, or None."""
    good = np.abs(rewards) <= FLOAT32_MAX
    return None if np.logical_and.reduce(good) else int(np.argmin(good))


def one_line(error: BaseException) -> str:
    """The exception's type and text on one line."""
    try:
        text = " ".join(str(error).split())
    except Exception:  # it is a user's class
        text = ""
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
