"""What a memory must hold and find, by a deque of rows that is walked step by step: the reference of `Memory`."""

from collections import deque
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from ridgeline.memory import Memory
from ridgeline.types import ArraySpec, Discrete, EnvSpec, Transition

NUMBERS = EnvSpec("numbers", ArraySpec((), "float32"), Discrete(2))

_add = jax.jit(Memory.add)


class Stream:
    """Rollouts [T, N] in which no two observations and no two actions are alike, not even across a reset."""

    def __init__(self) -> None:
        self.count = 1
        self.arriving: dict[int, int] = {}
        self.random = np.random.default_rng(3)

    def number(self) -> int:
        """A number never given before."""
        self.count += 1
        return self.count

    def rollout(self, ends: Int[np.ndarray, "T N"]) -> Transition:
        """One row for each row of `ends`: bit 1 says terminated, bit 2 truncated."""
        obs, action, next_obs = np.zeros((3, *ends.shape), np.int32)
        for (t, column), end in np.ndenumerate(ends):
            obs[t, column] = self.arriving.pop(column, None) or self.number()
            action[t, column], next_obs[t, column] = self.number(), self.number()
            if not end:
                self.arriving[column] = next_obs[t, column]
        reward = self.random.normal(size=ends.shape)
        terminated, truncated = (ends & 1).astype(bool), (ends & 2).astype(bool)
        earned = jnp.asarray(reward.astype(np.float32), float)  # as wide as the memory has it
        rows = obs.astype(np.float32), action, earned, next_obs.astype(np.float32)
        return Transition(*map(jnp.asarray, (*rows, terminated, truncated)))


class SlowMemory:
    """For each column the rows still held, oldest first, and where in the ring each was put."""

    def __init__(self, rows: int, num_envs: int) -> None:
        self.rows = rows
        self.written = 0
        self.columns: list[deque[tuple[int, Transition]]] = [deque(maxlen=rows) for _ in range(num_envs)]

    def add(self, x: Transition) -> None:
        """Every row behind the newest."""
        x = jax.tree.map(np.asarray, x)
        for t in range(len(x.reward)):
            for column, held in enumerate(self.columns):
                held.append((self.written % self.rows, Transition(*(field[t, column] for field in x))))
            self.written += 1

    def window(self, age: int, column: int, n: int, gamma: float) -> dict[str, Any]:
        """Walk from the start until n steps are taken, the episode ends or nothing newer is held."""
        held = self.columns[column]
        index, first = held[age]
        reward, discount, here = 0.0, 1.0, age
        while True:
            step = held[here][1]
            reward += discount * float(step.reward)
            discount *= gamma
            ended = step.terminated or step.truncated
            newest = here == len(held) - 1
            if ended or newest or here - age == n - 1:
                break
            here += 1
        continues = not (ended or newest)
        return {
            "obs": first.obs,
            "action": first.action,
            "reward": reward,
            "next_obs": step.next_obs,
            "next_action": held[here + 1][1].action if continues else 0,
            "continues": continues,
            "discount": 0.0 if step.terminated else discount,
            "index": (index, column),
        }

    def windows(self, n: int, gamma: float) -> dict[str, np.ndarray]:
        """Those of every possible start, [age, column]."""
        starts = [(age, column) for age in range(len(self.columns[0])) for column in range(len(self.columns))]
        found = [self.window(age, column, n, gamma) for age, column in starts]
        stacked = {name: np.asarray([window[name] for window in found]) for name in found[0]}
        return {name: x.reshape(-1, len(self.columns), *x.shape[1:]) for name, x in stacked.items()}


def filled(rows: int, num_envs: int, rollouts: Sequence[Int[np.ndarray, "_ N"]]) -> tuple[Memory, SlowMemory]:
    """The shipped memory and the slow one, after the same rollouts."""
    memory, slow, stream = Memory.create(NUMBERS, rows, num_envs), SlowMemory(rows, num_envs), Stream()
    for ends in rollouts:
        x = stream.rollout(ends)
        memory = _add(memory, x)
        slow.add(x)
    return memory, slow
