"""A pure-JAX environment stepped from Python, so that everything made for host environments works with it too."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, PRNGKeyArray, PyTree, UInt

from ridgeline.environments.base import native_spaces
from ridgeline.environments.host import Clock
from ridgeline.types import Action, Environment, EnvSpec, HostEnvironment, Obs, Step


class SteppedFactory:
    """Builds host environments out of one pure-JAX environment."""

    spec: EnvSpec
    backend = "stepped"
    reseeds = True

    def __init__(self, env: Environment[Any]):
        self.spec = env.spec
        self._env = env

    @property
    def spaces(self) -> dict[str, Any]:
        """Its spaces as JSON."""
        return native_spaces(self._env)

    def build(self, num_envs: int) -> HostEnvironment:
        """`num_envs` environments, none of them reset yet."""
        return Stepped(self._env, num_envs)


class Stepped:
    """Rows of one pure-JAX environment. A `HostEnvironment`.

    An episode's key is `jax.random.key(seed)`: its reset uses `fold_in(key, 0)`, its step t = 1, 2, …
    `fold_in(key, t)`.
    """

    def __init__(self, env: Environment[Any], num_envs: int):
        self.spec = env.spec
        self.num_envs = num_envs
        self._env = env
        self._clock = Clock(num_envs, env.spec.max_episode_steps)
        self._keys = self.episode_keys(np.zeros(num_envs, np.int64))
        self._state, _ = _reset(env, self._keys)

    def episode_keys(self, seeds: np.ndarray) -> Key[Array, " N"]:
        """One key for each seed; tests override it."""
        keys: Key[Array, " N"] = _keys(jnp.asarray(seeds.astype(np.uint32)))
        return keys

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> Obs:
        """Start an episode wherever `mask`, from that row's seed; the other rows are not to be used."""
        keys = self.episode_keys(seeds)
        state, obs = _reset(self._env, keys)
        self._keys, self._state = _where(jnp.asarray(mask), (keys, state), (self._keys, self._state))
        self._clock.start(mask)
        return jax.tree.map(np.array, obs)

    def step(self, actions: np.ndarray) -> Step:
        """Take one step in every environment with canonical actions [num_envs, ...]."""
        last = self._clock.tick()
        elapsed = jnp.asarray(self._clock.elapsed.astype(np.int32))
        self._state, step = _step(self._env, self._keys, elapsed, self._state, jnp.asarray(actions))
        arrays: Step = jax.tree.map(np.array, step)
        return arrays._replace(truncated=arrays.truncated | last)

    def close(self) -> None:
        """Nothing to free."""


@jax.jit
def _keys(seeds: UInt[Array, " N"]) -> Key[Array, " N"]:
    keys: Key[Array, " N"] = jax.vmap(jax.random.key)(seeds)
    return keys


@eqx.filter_jit
def _reset(env: Environment[Any], keys: Key[Array, " N"]) -> tuple[PyTree[Array], Obs]:
    return jax.vmap(lambda key: env.reset(jax.random.fold_in(key, 0)))(keys)


@eqx.filter_jit
def _step(
    env: Environment[Any],
    keys: Key[Array, " N"],
    elapsed: Int[Array, " N"],
    state: PyTree[Array],
    actions: Action,
) -> tuple[PyTree[Array], Step]:
    def step(key: PRNGKeyArray, t: Int[Array, ""], state: PyTree[Array], action: Action) -> Any:
        return env.step(jax.random.fold_in(key, t), state, action)

    found: tuple[PyTree[Array], Step] = jax.vmap(step)(keys, elapsed, state, actions)
    return found


@jax.jit
def _where[T](mask: Bool[Array, " N"], new: T, old: T) -> T:
    """The new rows wherever `mask`."""
    result: T = jax.tree.map(
        lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (a.ndim - 1)), a, b), new, old
    )
    return result
