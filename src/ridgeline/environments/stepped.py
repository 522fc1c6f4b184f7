"""A pure-JAX environment stepped from Python, so that everything made for host environments works with it too."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, PRNGKeyArray, PyTree, UInt

from ridgeline.environments.base import native_spaces
from ridgeline.environments.host import Clock, bad_reward
from ridgeline.environments.watchdog import Watch, allow
from ridgeline.errors import ContractError
from ridgeline.specs import require_finite
from ridgeline.types import Action, Environment, EnvSpec, HostEnvironment, Obs, Step, observation_parts


class SteppedFactory:
    """Builds host environments out of one pure-JAX environment."""

    spec: EnvSpec
    backend = "stepped"
    reseeds = True

    def __init__(self, env: Environment[Any], env_timeout: float | int | None = None):
        self.spec = env.spec
        self._env = env
        self._timeout = allow(env_timeout)

    @property
    def spaces(self) -> dict[str, Any]:
        """Its spaces as JSON."""
        return native_spaces(self._env)

    def build(self, num_envs: int) -> HostEnvironment:
        """`num_envs` environments, none of them reset yet."""
        return Stepped(self._env, num_envs, self._timeout)


class Stepped:
    """Rows of one pure-JAX environment. A `HostEnvironment`.

    An episode's key is `jax.random.key(seed)`: its reset uses `fold_in(key, 0)`, its step t = 1, 2, …
    `fold_in(key, t)`.
    """

    def __init__(self, env: Environment[Any], num_envs: int, timeout: float = 0.0):
        self._watch = Watch(timeout, lambda: f"a call of {env.spec.id}")
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
        with self._watch:
            state, obs = jax.block_until_ready(_reset(self._env, keys))
        self._keys, self._state = _where(jnp.asarray(mask), (keys, state), (self._keys, self._state))
        self._clock.start(mask)
        arrays = jax.tree.map(np.array, obs)
        self._require(arrays, np.asarray(mask, bool))
        return arrays

    def step(self, actions: np.ndarray) -> Step:
        """Take one step in every environment with canonical actions [num_envs, ...]."""
        if actions.dtype.kind == "f":
            require_finite(actions)
        last = self._clock.tick()
        elapsed = jnp.asarray(self._clock.elapsed.astype(np.int32))
        with self._watch:
            self._state, step = _step(self._env, self._keys, elapsed, self._state, jnp.asarray(actions))
            arrays: Step = jax.tree.map(np.array, step)
        if (bad := bad_reward(arrays.reward)) is not None:
            raise self._violation(bad, f"reward is {arrays.reward[bad]}, expected a finite float32")
        self._require(arrays.next_obs, np.ones(self.num_envs, bool))
        return arrays._replace(truncated=arrays.truncated | last)

    def close(self) -> None:
        """Stop watching."""
        self._watch.close()

    def _require(self, obs: Obs, rows: np.ndarray) -> None:
        """Check that floats are finite and categories exist in those rows."""
        for name, spec in observation_parts(self.spec.observation):
            array = obs[name] if isinstance(obs, dict) else obs
            if spec.categories:
                counts = np.reshape(spec.categories, spec.shape)
                good, expected = (array >= 0) & (array < counts), "one of the categories of its spec"
            elif array.dtype.kind == "f":
                good, expected = np.isfinite(array), "a finite number"
            else:
                continue
            if good.all() or (good := good | ~rows.reshape(-1, *[1] * len(spec.shape))).all():
                continue
            at = np.unravel_index(int(np.argmin(good)), good.shape)
            entry = [int(i) for i in at[1:]]
            where = f"observation {repr(name) if name else ''}".strip() + (str(entry) if entry else "")
            raise self._violation(int(at[0]), f"{where} is {array[at]!s}, expected {expected}")

    def _violation(self, row: int, problem: str) -> ContractError:
        at = f"step {self._clock.elapsed[row]} of its episode"
        return ContractError(f"environment {row}, {at}: {problem}; fix {self.spec.id} or its spec")


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
