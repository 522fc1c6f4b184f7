"""The random keys of a seed: each is named for its use, none is drawn from twice."""

import jax
from jaxtyping import Array, Int, Key, PRNGKeyArray


def key_for(seed_key: PRNGKeyArray, use: str) -> PRNGKeyArray:
    """The key of a seed for one named use."""
    return jax.random.fold_in(seed_key, ("init", "environments", "iterations", "forks").index(use))


def row_keys(act_key: PRNGKeyArray, row: Int[Array, ""], num_envs: int) -> Key[Array, "N"]:
    """The keys that one row's actions are drawn with."""
    return jax.random.split(jax.random.fold_in(act_key, row), num_envs)


def iteration_keys(seed_key: PRNGKeyArray, iteration: Int[Array, ""]) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """The keys of one iteration, for acting (folded with the row) and for the update."""
    act_key, update_key = jax.random.split(jax.random.fold_in(key_for(seed_key, "iterations"), iteration))
    return act_key, update_key
