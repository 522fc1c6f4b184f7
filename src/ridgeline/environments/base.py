"""JAX environments side by side: their episodes, their time limit, and what happens where one ends."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int, Key, PyTree

from ridgeline.specs import own_spaces
from ridgeline.types import Action, Environment, Obs, Step


class Running(NamedTuple):
    """Environments side by side [N], each in its own episode. `key` is the environment's own stream."""

    key: Key[Array, "N"]
    episode: Int[Array, "N"]
    elapsed: Int[Array, "N"]
    state: PyTree[Array]
    obs: Obs


def start_episodes(env: Environment[Any], keys: Key[Array, "N"], episode: Int[Array, "N"]) -> Running:
    """The given episode of every environment, from a key that depends on nothing else."""
    episode_keys = jax.vmap(jax.random.fold_in)(keys, episode)
    state, obs = jax.vmap(env.reset)(jax.vmap(jax.random.fold_in, (0, None))(episode_keys, 0))
    return Running(keys, episode, jnp.zeros_like(episode), state, obs)


def advance(env: Environment[Any], running: Running, action: Action) -> tuple[Running, Step]:
    """One step of every environment; whichever ended stands in its next episode afterwards.

    The step keeps the true successor. The time limit of the spec is counted here.
    """
    elapsed = running.elapsed + 1
    episode_keys = jax.vmap(jax.random.fold_in)(running.key, running.episode)
    step_keys = jax.vmap(jax.random.fold_in)(episode_keys, elapsed)
    state, step = jax.vmap(env.step)(step_keys, running.state, action)
    if env.spec.max_episode_steps is not None:
        step = step._replace(truncated=step.truncated | (elapsed >= env.spec.max_episode_steps))
    ended = step.terminated | step.truncated
    stay = Running(running.key, running.episode, elapsed, state, step.next_obs)

    def restart() -> Running:
        fresh = start_episodes(env, running.key, running.episode + 1)
        return Running(running.key, *where_ended(ended, tuple(fresh[1:]), tuple(stay[1:])))

    return jax.lax.cond(jnp.any(ended), restart, lambda: stay), step


def where_ended(ended: Bool[Array, "N"], fresh: PyTree[Array], old: PyTree[Array]) -> PyTree[Array]:
    """Row by row, `fresh` where an episode ended and `old` elsewhere."""

    def one(new: Array, kept: Array) -> Array:
        return jnp.where(jnp.reshape(ended, (-1,) + (1,) * (kept.ndim - 1)), new, kept)

    return jax.tree.map(one, fresh, old)


def native_spaces(env: Environment[Any]) -> dict[str, Any]:
    """The spaces of a JAX environment as JSON.

    Its bounded actions mean [−1, 1], or what it has as `action_bounds` (low, high): an attribute of environments
    that are twins of one with other terms, so that a policy trained here acts there.
    """
    return own_spaces(env.spec, getattr(env, "action_bounds", None))
