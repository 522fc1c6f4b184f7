"""What the parameters that acted say of a rollout, computed once before any of them changes."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from ridgeline.distributions import Distribution
from ridgeline.returns import gae
from ridgeline.types import Action, Obs, Transition

# Cells [T · N] that a CPU works on together.
_BLOCK = 256


class Sample(NamedTuple):
    """One row of a rollout, ready to learn from; leading axes are free."""

    obs: Obs
    action: Action
    log_prob: Float[Array, "..."]
    advantage: Float[Array, "..."]
    target: Float[Array, "..."]


def everywhere(function: Callable[..., Any], *rows: Any) -> Any:
    """`function` of every cell of arrays [T, N]."""
    return jax.vmap(jax.vmap(function))(*rows)


def in_blocks(function: Callable[..., Any], *rows: Any) -> Any:
    """`everywhere`, for what is not differentiated; on a CPU of few cells at once, which stay in its cache."""
    times, columns = jax.tree.leaves(rows)[0].shape[:2]
    if times * columns <= _BLOCK:
        return everywhere(function, *rows)

    def block_by_block(*rows: Any) -> Any:
        found = jax.lax.map(lambda cell: function(*cell), flatten(rows), batch_size=_BLOCK)
        return jax.tree.map(lambda x: x.reshape(times, columns, *x.shape[1:]), found)

    return jax.lax.platform_dependent(*rows, cpu=block_by_block, default=partial(everywhere, function))


def samples(
    distribution: Callable[[Obs], Distribution],
    state_value: Callable[[Obs], Float[Array, ""]],
    read: Callable[[Obs], Obs],
    x: Transition,
    gamma: Float[Array, ""] | float,
    lambda_: Float[Array, ""] | float,
) -> Sample:
    """Rows [T, N] with log π_θold(a|s), Â and V^targ = Â + V_θold(s); observations as a network reads them."""

    def describe(obs: Obs, action: Action) -> tuple[Obs, Float[Array, ""], Float[Array, ""]]:
        obs = read(obs)
        return obs, state_value(obs), distribution(obs).log_prob(action)

    obs, value, log_probs = in_blocks(describe, x.obs, x.action)
    next_value = successor_values(lambda s: state_value(read(s)), x, value)
    advantage = jax.vmap(gae, in_axes=(1, 1, 1, 1, 1, None, None), out_axes=1)(
        x.reward, value, next_value, x.terminated, x.ended, gamma, lambda_
    )
    return Sample(obs, x.action, log_probs, advantage, advantage + value)


def successor_values(
    state_value: Callable[[Obs], Float[Array, ""]], x: Transition, value: Float[Array, "T N"]
) -> Float[Array, "T N"]:
    """V(s′) of rows [T, N] whose V(s) is known; it may be anything where s′ is terminal.

    On a CPU it is that of the next row, and computed only where there is none: where an episode was cut.
    """

    def of_row(t: Int[Array, ""]) -> Float[Array, "N"]:
        return jax.vmap(state_value)(jax.tree.map(lambda s: s[t], x.next_obs))

    def one_by_one(value: Float[Array, "T N"]) -> Float[Array, "T N"]:
        def compute(at: tuple[Bool[Array, "T"], Array]) -> tuple[Bool[Array, "T"], Array]:
            wanted, found = at
            t = jnp.argmax(wanted)
            return wanted.at[t].set(False), found.at[t].set(of_row(t))

        cut = jnp.any(x.truncated & ~x.terminated, 1).at[-1].set(True)
        return jax.lax.while_loop(lambda at: jnp.any(at[0]), compute, (cut, jnp.roll(value, -1, 0)))[1]

    def at_once(value: Float[Array, "T N"]) -> Float[Array, "T N"]:
        return everywhere(state_value, x.next_obs)

    return jax.lax.platform_dependent(value, cpu=one_by_one, default=at_once)


def flatten(rows: PyTree[Array]) -> PyTree[Array]:
    """[T, N, ...] as [T · N, ...]."""
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), rows)


def standardise(x: Float[Array, "n"]) -> Float[Array, "n"]:
    """(x − mean) / (std + 1e-8): entries that are all equal become zeros."""
    return (x - jnp.mean(x)) / (jnp.std(x) + 1e-8)
