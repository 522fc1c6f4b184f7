"""The memory of off-policy algorithms: a ring of transitions [rows, N], and how an algorithm learns from it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from ridgeline.errors import UsageError
from ridgeline.returns import n_step
from ridgeline.types import Action, EnvSpec, Metrics, Obs, Rollout, Steps, Transition, example_transition, size


class Batch(eqx.Module):
    """Windows of k ≤ n steps as a learner reads them; leading axis: the batch.

    `reward` is Σ_{i<k} γⁱ rᵢ, `discount` is γᵏ (1 − terminated), `next_obs` the state after the k steps.
    `next_action` is what was done there, meaningful only where `continues`.
    """

    obs: Obs
    action: Action
    reward: Float[Array, "..."]
    next_obs: Obs
    next_action: Action
    continues: Bool[Array, "..."]
    discount: Float[Array, "..."]
    index: Int[Array, "... 2"]

    def read_through(self, read: Callable[[Obs], Obs]) -> "Batch":
        """The batch with its observations as a network sees them."""
        return dataclasses.replace(self, obs=jax.vmap(read)(self.obs), next_obs=jax.vmap(read)(self.next_obs))


class Memory(eqx.Module):
    """A ring of transitions, arrays [rows, N, ...]; row `head` is written next, `filled` rows hold data."""

    data: Transition
    head: Int[Array, ""]
    filled: Int[Array, ""]

    @classmethod
    def create(cls, spec: EnvSpec, rows: int, num_envs: int) -> "Memory":
        """An empty memory for rows × num_envs transitions."""
        data = jax.tree.map(lambda x: jnp.zeros((rows, num_envs, *x.shape), x.dtype), example_transition(spec))
        zero = jnp.zeros((), jnp.int32)
        return cls(data, zero, zero)

    @property
    def rows(self) -> int:
        """How many rows the ring has."""
        return self.data.reward.shape[0]

    def add(self, transitions: Transition) -> "Memory":
        """Write a rollout [T, N] at the head, T ≤ rows; a write that crosses the end wraps."""
        length = transitions.reward.shape[0]
        index = (self.head + jnp.arange(length)) % self.rows

        def put(ring: Array, x: Array) -> Array:
            if length == 1:  # one row never wraps, and a slice is written in place
                return jax.lax.dynamic_update_index_in_dim(ring, x[0], self.head, 0)
            return ring.at[index].set(x, unique_indices=True)

        return Memory(
            jax.tree.map(put, self.data, transitions),
            (self.head + length) % self.rows,
            jnp.minimum(self.filled + length, self.rows),
        )

    def sample(self, key: PRNGKeyArray, count: int, n: int, gamma: Float[Array, ""] | float) -> Batch:
        """`count` windows, their starts uniform over all transitions held, with replacement."""
        age_key, column_key = jax.random.split(key)
        ages = jax.random.randint(age_key, (count,), 0, self.filled)
        columns = jax.random.randint(column_key, (count,), 0, self.data.reward.shape[1])
        return jax.vmap(lambda age, column: self.window(age, column, n, gamma))(ages, columns)

    def window(
        self, age: Int[Array, ""], column: Int[Array, ""], n: int, gamma: Float[Array, ""] | float
    ) -> Batch:
        """The window of at most n steps from the row that is `age` rows younger than the oldest.

        It stops where the episode ends and at the newest row: there k < n, and γᵏ is the right discount still.
        """
        ages = age + jnp.arange(n)
        rows = (self.head - self.filled + ages) % self.rows
        ended = self.data.ended[rows, column] if n > 1 else jnp.zeros(1, bool)
        held = (ages < self.filled) & ~jnp.concatenate([jnp.zeros(1, bool), ended[:-1]])
        reward, k = n_step(self.data.reward[rows, column], held, gamma)
        first, last, following = rows[0], rows[k - 1], (rows[k - 1] + 1) % self.rows

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
            index=jnp.stack([first, column]),
        )


class Replay(eqx.Module):
    """How an algorithm uses its memory: it stores each rollout, then learns from minibatches."""

    capacity: int = size(100_000)  # transitions held, the oldest overwritten
    batch_size: int = size(64)  # transitions in a minibatch
    warmup: int = size(1_000, low=0)  # environment steps before the first gradient step
    updates: int = size(1)  # gradient steps after each rollout
    window: int = size(1)  # n of n-step returns

    def check(self, num_envs: int, rollout_length: int) -> None:
        """A minibatch and a rollout fit into the memory."""
        rollout = num_envs * rollout_length
        for name, value in (("batch_size", self.batch_size), ("num_envs × rollout_length", rollout)):
            if value > self.capacity:
                raise UsageError(f"{name} {value} exceeds the memory's capacity {self.capacity}: lower one")

    def create(self, spec: EnvSpec, num_envs: int) -> Memory:
        """An empty memory of `capacity` transitions."""
        return Memory.create(spec, self.capacity // num_envs, num_envs)

    def study[Learner](
        self,
        key: PRNGKeyArray,
        learner: Learner,
        memory: Memory,
        rollout: Rollout,
        steps: Steps,
        gamma: Float[Array, ""] | float,
        read: Callable[[Obs], Obs],
        learn: Callable[[PRNGKeyArray, Learner, Batch], tuple[Learner, Metrics]],
    ) -> tuple[Learner, Memory, Metrics]:
        """Store the rollout; once `warmup` steps are taken, learn from `updates` minibatches, one by one."""
        memory = memory.add(rollout.transitions)

        def one(learner: Learner, key: PRNGKeyArray) -> tuple[Learner, Metrics]:
            sample_key, learn_key = jax.random.split(key)
            batch = memory.sample(sample_key, self.batch_size, self.window, gamma)
            return learn(learn_key, learner, batch.read_through(read))

        def work(learner: Learner) -> tuple[Learner, Any]:
            learner, metrics = jax.lax.scan(one, learner, jax.random.split(key, self.updates))
            return learner, jax.tree.map(jnp.mean, metrics)

        def wait(learner: Learner) -> tuple[Learner, Any]:
            shapes = jax.eval_shape(work, learner)[1]
            return learner, jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan, x.dtype), shapes)

        # `steps` is the same for every seed, so this stays a branch when seeds are vectorised.
        learner, metrics = jax.lax.cond(steps.taken >= self.warmup, work, wait, learner)
        return learner, memory, metrics
