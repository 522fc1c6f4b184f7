"""The memory of off-policy algorithms: a ring of transitions [rows, N], and how an algorithm learns from it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PRNGKeyArray, PyTree

from ridgeline.draws import uniform_below
from ridgeline.errors import UsageError
from ridgeline.normalisation import ObservationNormaliser
from ridgeline.priorities import Priorities, importance
from ridgeline.returns import n_step
from ridgeline.types import (
    Action,
    EnvSpec,
    Metrics,
    Obs,
    Rollout,
    Steps,
    Transition,
    example_transition,
    real,
    size,
    static,
)


class Batch(eqx.Module):
    """Windows of k ≤ n steps as a learner reads them; leading axis: the batch.

    `reward` is Σ_{i<k} γⁱ rᵢ, `discount` is γᵏ (1 − terminated), `next_obs` the state after the k steps.
    `next_action` is what was done there, meaningful only where `continues`. `weight` undoes unequal chances of
    being drawn: 1 where they are equal.
    """

    obs: Obs
    action: Action
    reward: Float[Array, "..."]
    next_obs: Obs
    next_action: Action
    continues: Bool[Array, "..."]
    discount: Float[Array, "..."]
    weight: Float[Array, "..."]
    index: Int[Array, "... 2"]

    def read_through(self, read: Callable[[Obs], Obs]) -> "Batch":
        """The batch with its observations as a network sees them."""
        return dataclasses.replace(self, obs=jax.vmap(read)(self.obs), next_obs=jax.vmap(read)(self.next_obs))


class Memory(eqx.Module):
    """A ring of transitions, arrays [rows, N, ...]; row `head` is written next, `filled` rows hold data."""

    data: Transition
    head: Int[Array, ""]
    filled: Int[Array, ""]
    priorities: Priorities | None

    @classmethod
    def create(cls, spec: EnvSpec, rows: int, num_envs: int, prioritised: bool = False) -> "Memory":
        """An empty memory for rows × num_envs transitions."""
        data = jax.tree.map(lambda x: jnp.zeros((rows, num_envs, *x.shape), x.dtype), example_transition(spec))
        zero = jnp.zeros((), jnp.int32)
        return cls(data, zero, zero, Priorities.create(rows * num_envs) if prioritised else None)

    @property
    def rows(self) -> int:
        """How many rows the ring has."""
        return self.data.reward.shape[0]

    @property
    def columns(self) -> int:
        """How many environments it holds side by side."""
        return self.data.reward.shape[1]

    def add(self, transitions: Transition) -> "Memory":
        """Write a rollout [T, N] at the head, T ≤ rows; a write that crosses the end wraps."""
        length = transitions.reward.shape[0]
        index = (self.head + jnp.arange(length)) % self.rows

        def put(ring: Array, x: Array) -> Array:
            if length == 1:  # one row never wraps, and a slice is written in place
                return jax.lax.dynamic_update_slice_in_dim(ring, x, self.head, 0)
            return ring.at[index].set(x, unique_indices=True)

        priorities = self.priorities
        if priorities is not None:
            cells = index[:, None] * self.columns + jnp.arange(self.columns)[None]
            priorities = priorities.put_new(cells.reshape(-1))
        return Memory(
            jax.tree.map(put, self.data, transitions),
            (self.head + length) % self.rows,
            jnp.minimum(self.filled + length, self.rows),
            priorities,
        )

    def cut(self, columns: Bool[Array, "N"]) -> "Memory":
        """The memory with the episodes that go on in those columns truncated at the newest row."""
        newest = (self.head - 1) % self.rows
        truncated = self.data.truncated.at[newest].max(columns & ~self.data.terminated[newest])
        return dataclasses.replace(self, data=self.data._replace(truncated=truncated))

    def sample(self, key: PRNGKeyArray, count: int, n: int, gamma: Float[Array, ""] | float) -> Batch:
        """`count` windows, their starts uniform over all transitions held, with replacement."""
        cells = uniform_below(key, count, self.filled * self.columns)
        ages, columns = cells // self.columns, cells % self.columns
        return jax.vmap(lambda age, column: self.window(age, column, n, gamma))(ages, columns)

    def sample_prioritised(
        self,
        key: PRNGKeyArray,
        count: int,
        n: int,
        gamma: Float[Array, ""] | float,
        beta: Float[Array, ""] | float,
    ) -> Batch:
        """`count` windows, their starts drawn in proportion to their priorities and weighted against it."""
        assert self.priorities is not None
        cells, probability = self.priorities.draw(key, count)
        rows, columns = cells // self.columns, cells % self.columns
        ages = (rows - self.head + self.filled) % self.rows
        batch = jax.vmap(lambda age, column: self.window(age, column, n, gamma))(ages, columns)
        weight = importance(probability, self.filled * self.columns, beta)
        return dataclasses.replace(batch, weight=weight)

    def prioritise(self, index: Int[Array, "n 2"], mass: Float[Array, "n"]) -> "Memory":
        """The priorities of those transitions replaced."""
        assert self.priorities is not None
        priorities = self.priorities.put(index[:, 0] * self.columns + index[:, 1], mass)
        return dataclasses.replace(self, priorities=priorities)

    def window(
        self, age: Int[Array, ""], column: Int[Array, ""], n: int, gamma: Float[Array, ""] | float
    ) -> Batch:
        """The window of at most n steps from the row that is `age` rows younger than the oldest.

        It stops where the episode ends and at the newest row: there k < n, γᵏ is the right discount still, and
        nothing continues.
        """
        ages = age + jnp.arange(n)
        rows = (self.head - self.filled + ages) % self.rows
        ended = jnp.concatenate([jnp.zeros(1, bool), self.data.ended[rows[:-1], column]])
        held = (ages < self.filled) & ~ended
        reward, k = n_step(self.data.reward[rows, column], held, gamma)
        first, last, following = rows[0], rows[k - 1], (rows[-1] + 1) % self.rows

        def read(x: PyTree[Array], row: Int[Array, ""]) -> PyTree[Array]:
            return jax.tree.map(lambda a: a[row, column], x)

        terminated = self.data.terminated[last, column]
        return Batch(
            obs=read(self.data.obs, first),
            action=read(self.data.action, first),
            reward=reward,
            next_obs=read(self.data.next_obs, last),
            next_action=read(self.data.action, following),
            continues=~self.data.ended[last, column] & (age + k < self.filled),
            discount=jnp.where(terminated, 0, gamma**k),
            weight=jnp.ones_like(reward),
            index=jnp.stack([first, column]),
        )


class Experience[Learner](eqx.Module):
    """The state of an off-policy algorithm: what learns, what it learns from, and how observations are read.

    `largest_reward` is the largest |r| so far: what bounds any true value.
    """

    learner: Learner
    memory: Memory
    normaliser: ObservationNormaliser
    largest_reward: Float[Array, ""]


class Replay(eqx.Module):
    """How an algorithm uses its memory: it stores each rollout, then learns from minibatches."""

    capacity: int = size(100_000)  # transitions held, the oldest overwritten
    batch_size: int = size(64)  # transitions in a minibatch
    warmup: int = size(1_000, low=0)  # environment steps before the first gradient step
    updates: int = size(1)  # gradient steps after each rollout
    window: int = size(1)  # n of n-step returns
    prioritised: bool = static(False)  # draw in proportion to |δ|^α, not uniformly (Schaul et al. 2016)
    priority_exponent: float = real(0.6, 0, 1)  # α: 0 is uniform
    importance_exponent: float = real(0.4, 0, 1)  # β of the weights at the start; 1 at the end of the run

    def check(self, num_envs: int, rollout_length: int) -> None:
        """A minibatch and a rollout fit into the memory."""
        rollout = num_envs * rollout_length
        for name, value in (("batch_size", self.batch_size), ("num_envs × rollout_length", rollout)):
            if value > self.capacity:
                raise UsageError(f"{name} {value} exceeds the memory's capacity {self.capacity}: lower one")

    def begin[Learner](
        self, spec: EnvSpec, num_envs: int, learner: Learner, normalise_observations: bool
    ) -> Experience[Learner]:
        """A fresh learner with an empty memory of `capacity` transitions."""
        memory = Memory.create(spec, self.capacity // num_envs, num_envs, self.prioritised)
        normaliser = ObservationNormaliser.create(spec.observation, normalise_observations)
        return Experience(learner, memory, normaliser, jnp.zeros(()))

    def study[Learner](
        self,
        key: PRNGKeyArray,
        state: Experience[Learner],
        rollout: Rollout,
        steps: Steps,
        gamma: Float[Array, ""] | float,
        learn: Callable[[PRNGKeyArray, Learner, Batch, Steps], tuple[Learner, Metrics, Float[Array, "B"]]],
    ) -> tuple[Experience[Learner], Metrics]:
        """Store the rollout; once `warmup` steps are taken, learn from `updates` minibatches, one by one.

        `learn` returns the learner, metrics and each row's TD error. Observations are folded in afterwards.
        """
        x = rollout.transitions
        largest = jnp.maximum(state.largest_reward, jnp.max(jnp.abs(x.reward)))

        memory = state.memory.add(x)

        # Data is read where it lies: what a scan or a branch carries, XLA may copy.
        def one(at: tuple[Learner, Priorities | None], keys: Key[Array, "2"]) -> tuple[Any, Metrics]:
            (learner, priorities), (sample_key, learn_key) = at, keys
            now = dataclasses.replace(memory, priorities=priorities)
            batch = self._sample(sample_key, now, steps, gamma)
            learner, metrics, error = learn(learn_key, learner, batch.read_through(state.normaliser), steps)
            if self.prioritised:
                now = now.prioritise(batch.index, (jnp.abs(error) + 1e-6) ** self.priority_exponent)
            return (learner, now.priorities), metrics

        def work(at: tuple[Learner, Priorities | None]) -> tuple[Any, Metrics]:
            at, metrics = jax.lax.scan(one, at, jax.random.split(key, (self.updates, 2)))
            return at, jax.tree.map(jnp.nanmean, metrics)  # NaN: not measured in that one

        def wait(at: tuple[Learner, Priorities | None]) -> tuple[Any, Metrics]:
            shapes = jax.eval_shape(work, at)[1]
            return at, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)

        # `steps` is the same for every seed, so this stays a branch when seeds are vectorised.
        at = (state.learner, memory.priorities)
        (learner, priorities), metrics = jax.lax.cond(steps.taken >= self.warmup, work, wait, at)
        memory = dataclasses.replace(memory, priorities=priorities)
        metrics["train/divergence"] = divergence(metrics["train/q_max"], largest, gamma)
        return Experience(learner, memory, state.normaliser.fold(x.obs), largest), metrics

    def _sample(self, key: PRNGKeyArray, memory: Memory, steps: Steps, gamma: Float[Array, ""] | float) -> Batch:
        if not self.prioritised:
            return memory.sample(key, self.batch_size, self.window, gamma)
        beta = self.importance_exponent + (1 - self.importance_exponent) * jnp.minimum(1, steps.progress)
        return memory.sample_prioritised(key, self.batch_size, self.window, gamma, beta)


def divergence(
    q_max: Float[Array, ""], largest_reward: Float[Array, ""], gamma: Float[Array, ""] | float
) -> Float[Array, ""]:
    """max |Q| · (1 − γ) / max(1, max |r|): above 1 where Q exceeds what any policy can earn.

    Soft divergence, as van Hasselt et al. (2018) measure it. With γ = 1 nothing bounds a value, and it is 0.
    """
    return q_max * (1 - gamma) / jnp.maximum(1, largest_reward)
