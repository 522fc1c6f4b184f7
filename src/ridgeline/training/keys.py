"""The random keys of a seed: each is named for its use, none is drawn from twice."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from ridgeline.types import Algorithm, EnvSpec, example_obs


def key_for(seed_key: PRNGKeyArray, use: str) -> PRNGKeyArray:
    """The key of a seed for one named use."""
    return jax.random.fold_in(seed_key, ("init", "environments", "iterations", "forks").index(use))


def iteration_keys(stream: PRNGKeyArray, iteration: Int[Array, ""]) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """The keys of one iteration, for acting (folded with row and column) and for the update.

    `stream` is the seed's key for "iterations".
    """
    act_key, update_key = jax.vmap(jax.random.fold_in, (None, 0))(stream, 2 * iteration + jnp.arange(2))
    return act_key, update_key


def row_randomness(
    act_key: PRNGKeyArray, algorithm: Algorithm[Any, Any], policy: Any, spec: EnvSpec, row: Int[Array, ""]
) -> Any:
    """What the N actions of one row explore by."""
    cells = row * algorithm.num_envs + jnp.arange(algorithm.num_envs)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(act_key, cells)
    return jax.vmap(algorithm.randomness, (0, None, None))(keys, policy, example_obs(spec.observation))
