"""Small records, environments and tools that several tests share."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ridgeline.algorithms import REGISTRY
from ridgeline.environments.stepped import Stepped, SteppedFactory
from ridgeline.memory import Replay
from ridgeline.training.compiled import key_for
from ridgeline.training.runner import prepare
from ridgeline.types import (
    ACTION_MASK,
    Algorithm,
    ArraySpec,
    Continuous,
    EnvSpec,
    Rollout,
    Step,
    Transition,
    example_transition,
    observation_parts,
    real,
    size,
)

ALGORITHMS = sorted(REGISTRY)


def shrunk(name: str, sizes: dict[str, Any], **changes: Any) -> Any:
    """The record of a registered algorithm, with those of `sizes` that are fields of it and all the changes."""
    fields = {field.name for field in dataclasses.fields(REGISTRY[name])}
    return prepare(REGISTRY[name](**{k: v for k, v in sizes.items() if k in fields} | changes))


TINY = {
    "num_envs": 2,
    "rollout_length": 4,
    "epochs": 2,
    "batch_size": 4,
    "target_period": 3,
    "hidden": (8,),
    "replay": Replay(capacity=16, batch_size=4, warmup=0, updates=2),
}

# Learns any probe within 100 iterations; where the tests below use it too, they share its compilations.
QUICK = {
    "num_envs": 8,
    "rollout_length": 8,
    "epochs": 4,
    "batch_size": 32,
    "gamma": 0.9,
    "learning_rate": 1e-2,
    "epsilon_end": 0.5,
    "target_period": 10,
    "log_std": -1.5,
    "hidden": (16,),
    "replay": Replay(capacity=512, batch_size=32, warmup=128, updates=8),
}


def tiny(name: str, **changes: Any) -> Any:
    """A record that compiles and runs as fast as it can."""
    return shrunk(name, TINY, **changes)


def quick(name: str, **changes: Any) -> Any:
    """A record that learns fast on environments as small as the probes."""
    return shrunk(name, QUICK, **changes)


def random_obs(key: jax.Array, spec: EnvSpec) -> Any:
    """An observation of noise; its mask forbids one action, in each choice one of several."""

    def one(key: jax.Array, name: str, part: ArraySpec) -> jax.Array:
        if name == ACTION_MASK:
            counts = getattr(spec.action, "counts", None) or (spec.action.count,)
            keys = jax.random.split(key, len(counts))
            kept = [jnp.arange(n) != jax.random.randint(k, (), 0, n) for n, k in zip(counts, keys, strict=True)]
            return jnp.concatenate(kept).astype(part.dtype)
        if part.dtype.startswith("float"):
            return jax.random.normal(key, part.shape, part.dtype)
        high = jnp.asarray(part.categories).reshape(part.shape) if part.categories else 256
        return jax.random.randint(key, part.shape, 0, high).astype(part.dtype)

    parts = observation_parts(spec.observation)
    arrays = {name: one(jax.random.fold_in(key, i), name, part) for i, (name, part) in enumerate(parts)}
    return arrays[""] if "" in arrays else arrays


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
    mortal: float = 0.25

    @property
    def spec(self) -> EnvSpec:
        return EnvSpec("Dice-v0", ArraySpec((2,)), Continuous(4, (False,) * 4), self.limit)

    def reset(self, key: jax.Array) -> tuple[DiceState, Array]:
        state = DiceState(jnp.zeros((), jnp.int32), jax.random.uniform(key))
        return state, self._see(state)

    def step(self, key: jax.Array, state: DiceState, action: Array) -> tuple[DiceState, Step]:
        reward = jnp.where(action[1] == state.taken, action[0] * state.draw, 1_000.0)
        state = DiceState(state.taken + 1, jax.random.uniform(key))
        return state, Step(self._see(state), reward, state.draw < self.mortal, jnp.array(False))

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
    ceiling: float = real(float("inf"))
    doom: float = real(2.0)

    def init(self, key: jax.Array, spec: EnvSpec) -> Recording:
        shape = (self.rollout_length, self.num_envs)
        row = jax.tree.map(lambda x: jnp.zeros((*shape, *x.shape), x.dtype), example_transition(spec))
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


class Twin(Stepped):
    """Stepped environments whose episodes are those of the compiled runner, stream for stream."""

    def __init__(self, env: Any, streams: jax.Array):
        self.streams = streams
        self.episode = np.full(len(streams), -1)
        super().__init__(env, len(streams))

    def episode_keys(self, seeds: np.ndarray) -> jax.Array:
        return jax.vmap(jax.random.fold_in)(self.streams, jnp.asarray(seeds.astype(np.uint32)))

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> Any:
        self.episode += mask
        return super().reset(np.maximum(self.episode, 0), mask)


class TwinFactory(SteppedFactory):
    """Builds the twins of the environments that the compiled runner has for these seeds."""

    def __init__(self, env: Any, seeds: tuple[int, ...]):
        super().__init__(env)
        self.env, self.seeds = env, seeds

    def build(self, num_envs: int) -> Twin:
        each = num_envs // len(self.seeds)
        keys = [key_for(jax.random.key(seed), "environments") for seed in self.seeds]
        return Twin(self.env, jnp.concatenate([jax.random.split(key, each) for key in keys]))


def numpy_leaves(tree: Any) -> dict[str, np.ndarray]:
    """Every leaf by its path, keys as their words."""

    def array(x: Any) -> np.ndarray:
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return {jax.tree_util.keystr(path): array(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def assert_same(actual: Any, expected: Any, **tolerance: float) -> None:
    """Two trees agree leaf by leaf: bit for bit, or within a tolerance."""
    left, right = numpy_leaves(actual), numpy_leaves(expected)
    assert left.keys() == right.keys()
    for name in left:
        if tolerance:
            np.testing.assert_allclose(left[name], right[name], err_msg=name, **tolerance)
        else:
            np.testing.assert_array_equal(left[name], right[name], err_msg=name, strict=True)


def index(tree: Any, i: int) -> Any:
    """Entry i of every leaf's leading axis."""
    return jax.tree.map(lambda x: x[i], tree)


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


def flat_transitions(recorded: Recording) -> Transition:
    """The rows [S, T, N] of the last rollout, as NumPy arrays."""
    return jax.tree.map(np.asarray, recorded.rollout.transitions)
