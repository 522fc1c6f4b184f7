"""The time limit of host environments, counted by us."""

import math

import numpy as np


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
