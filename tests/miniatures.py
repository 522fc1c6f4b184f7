"""Small records, environments and tools that several tests share."""

import contextlib
import functools
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float, Int

from ridgeline.algorithms import REGISTRY
from ridgeline.environments.classic import CartPole, Pendulum
from ridgeline.environments.stepped import Stepped, SteppedFactory
from ridgeline.theory.conformance import (  # noqa: F401  (tests take them from here)
    TINY,
    action_counts,
    all_finite,
    index,
    numpy_leaves,
    random_actions,
    random_obs,
    random_rollout,
)
from ridgeline.theory.probes import kinds, quick, shrunk
from ridgeline.training.evaluation import episode_seeds
from ridgeline.training.keys import key_for
from ridgeline.types import (
    Algorithm,
    ArraySpec,
    Continuous,
    EnvSpec,
    Rollout,
    Step,
    example_transition,
    real,
    size,
)

ALGORITHMS = sorted(REGISTRY)
# Those that stand for all where a check is long and not about one algorithm.
SAMPLE = ("dqn", "pg", "ppo")


def sampled(names: list[str]) -> list[Any]:
    """The names as parameters; those not of the sample run with --full only."""
    return [name if name in SAMPLE else pytest.param(name, marks=pytest.mark.slow) for name in names]


def classic(name: str) -> Any:
    """CartPole, or Pendulum for an algorithm that takes no discrete actions."""
    return CartPole() if False in kinds(quick(name)) else Pendulum()


SEEDS = (0, 1, 2, 3, 4)
TEN = tuple(range(10))


def tiny(name: str, **changes: Any) -> Any:
    """A record that compiles and runs as fast as it can."""
    return shrunk(REGISTRY[name], TINY, **changes)


class DiceState(NamedTuple):
    """Steps taken in this episode, and the last number that was thrown."""

    taken: Int[Array, ""]
    draw: Float[Array, ""]


class Dice(eqx.Module):
    """Observes [steps taken in the episode, a number thrown with this step's key]; terminates at numbers below ¼.

    An action [w, c, …] earns w times the last throw, or 1,000 where c is not the number of steps taken: the carry
    of a `Recorder` that was not started anew with the episode is paid for.
    """

    limit: int | None = eqx.field(default=5, static=True)

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec("Dice-v0", ArraySpec((2,)), Continuous(4, (False,) * 4), self.limit)

    def reset(self, key: jax.Array) -> tuple[DiceState, Array]:
        state = DiceState(jnp.zeros((), jnp.int32), jax.random.uniform(key))
        return state, self._see(state)

    def step(self, key: jax.Array, state: DiceState, action: Array) -> tuple[DiceState, Step]:
        reward = jnp.where(action[1] == state.taken, action[0] * state.draw, 1_000.0)
        state = DiceState(state.taken + 1, jax.random.uniform(key))
        return state, Step(self._see(state), reward, state.draw < 0.25, jnp.array(False))

    def _see(self, state: DiceState) -> Array:
        return jnp.stack([state.taken.astype(float), state.draw])


class Recording(NamedTuple):
    """What acts, the last rollout, and a number drawn with the last update's key."""

    weight: Float[Array, ""]
    rollout: Rollout
    draw: Float[Array, ""]


class Recorder(Algorithm[Recording, Array]):
    """Keeps its last rollout instead of learning. Its carry counts the steps of the episode.

    Its action is [weight, carry, a number drawn with the key, steps.taken]. The weight becomes infinite after the
    iteration numbered `doom`, if it is above `ceiling`.
    """

    num_envs: int = size(3)
    rollout_length: int = size(4)
    ceiling: float = real(1e9)
    doom: float = real(2.0)

    def init(self, key: jax.Array, spec: EnvSpec) -> Recording:
        shape = (self.rollout_length, self.num_envs)
        row = example_transition(spec)._replace(action=jnp.zeros(4))
        row = jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape), x.dtype), row)
        carry = jnp.zeros(self.num_envs, jnp.int32)
        return Recording(jax.random.uniform(key, minval=1, maxval=2), Rollout(row, carry), jnp.zeros(()))

    def policy(self, state: Recording) -> Array:
        return state.weight

    def begin(self, spec: EnvSpec) -> Array:
        return jnp.zeros((), jnp.int32)

    def act(self, key: jax.Array, policy: Array, carry: Array, obs: Array, steps: Any) -> tuple[Array, Array]:
        draw = jax.random.uniform(key)
        return jnp.stack([policy, carry.astype(float), draw, steps.taken]), carry + 1

    def greedy(self, key: jax.Array, policy: Array, carry: Array, obs: Array) -> tuple[Array, Array]:
        return jnp.stack([policy, carry.astype(float), jnp.zeros(()), jnp.zeros(())]), carry + 1

    def update(self, key: jax.Array, state: Recording, rollout: Rollout, steps: Any) -> tuple[Recording, dict]:
        broken = (steps.iteration == self.doom) & (state.weight > self.ceiling)
        weight = jnp.where(broken, jnp.inf, state.weight)
        i = steps.iteration.astype(float)
        metrics = {
            "train/iteration": i,
            "train/even": jnp.where(i % 2 == 0, i, jnp.nan),
            "train/never": jnp.full((), jnp.nan),
        }
        return Recording(weight, rollout, jax.random.uniform(key)), metrics


fold_each = jax.jit(jax.vmap(jax.random.fold_in))


@functools.cache
def episode_number(seed: int, column: int, given: int) -> int:
    """Which episode of a column a hosted runner means by the seed that it gives."""
    return next(k for k in itertools.count() if episode_seeds(seed, 1, column, k, count=1)[0] == given)


class Twin(Stepped):
    """Stepped environments whose episodes are those of the compiled runner, stream for stream."""

    def __init__(self, env: Any, streams: jax.Array, seeds: tuple[int, ...]):
        self.streams, self.seeds = streams, seeds
        self.episode = np.zeros(len(streams), np.int64)
        super().__init__(env, len(streams))

    def episode_keys(self, seeds: np.ndarray) -> jax.Array:
        return fold_each(self.streams, seeds.astype(np.uint32))

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> Any:
        each = self.num_envs // len(self.seeds)
        for row in np.flatnonzero(mask):
            s, n = divmod(int(row), each)
            self.episode[row] = episode_number(self.seeds[s], n, int(seeds[row]))
        return super().reset(self.episode, mask)


class TwinFactory(SteppedFactory):
    """Builds the twins of the environments that the compiled runner has for these seeds."""

    def __init__(self, env: Any, seeds: tuple[int, ...]):
        super().__init__(env)
        self.env, self.seeds = env, seeds

    def build(self, num_envs: int) -> Twin:
        each = num_envs // len(self.seeds)
        keys = [key_for(jax.random.key(seed), "environments") for seed in self.seeds]
        return Twin(self.env, jnp.concatenate([jax.random.split(key, each) for key in keys]), self.seeds)


def assert_same(actual: Any, expected: Any, **tolerance: float) -> None:
    """Two trees agree leaf by leaf: bit for bit, or within a tolerance."""
    left, right = numpy_leaves(actual), numpy_leaves(expected)
    assert left.keys() == right.keys()
    for name in left:
        if tolerance:
            np.testing.assert_allclose(left[name], right[name], err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name, strict=True)


@contextlib.contextmanager
def compilations() -> Iterator[list[str]]:
    """A list that grows by one entry whenever XLA compiles a program."""
    seen: list[str] = []

    def listen(event: str, seconds: float, **details: Any) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(str(details.get("fun_name", event)))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield seen
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def orthonormal(weight: Any, gain: float) -> None:
    """Assert that the shorter side's vectors are orthogonal and `gain` long."""
    flat = np.asarray(weight).reshape(-1, weight.shape[-1])
    flat = flat if flat.shape[0] >= flat.shape[1] else flat.T
    np.testing.assert_allclose(flat.T @ flat, gain**2 * np.eye(flat.shape[1]), atol=1e-5)
