"""Returns and advantages of one trajectory; `vmap` over environments at the edge.

A trajectory here is T consecutive rows of one environment, which may hold several episodes: `ended` cuts between
them. `terminated` alone stops a bootstrap, so values enter as V(s) and V(s′), where s′ is the true successor.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def rewards_to_go(
    reward: Float[Array, "T"], ended: Bool[Array, "T"], gamma: Float[Array, ""] | float = 1.0
) -> Float[Array, "T"]:
    """Gₜ = rₜ + γ (1 − endedₜ) Gₜ₊₁: the discounted reward from each row to the end of its episode."""

    def back(later: Float[Array, ""], row: tuple[Array, Array]) -> tuple[Array, Array]:
        r, end = row
        now = r + gamma * jnp.where(end, 0, later)
        return now, now

    return jax.lax.scan(back, jnp.zeros_like(reward[0]), (reward, ended), reverse=True, unroll=8)[1]


def first_episode(ended: Bool[Array, "T"]) -> Bool[Array, "T"]:
    """Which rows belong to the episode that begins with row 0: those up to its end, and that row itself."""
    return jnp.cumsum(ended) - ended == 0


def gae(
    reward: Float[Array, "T"],
    value: Float[Array, "T"],
    next_value: Float[Array, "T"],
    terminated: Bool[Array, "T"],
    ended: Bool[Array, "T"],
    gamma: Float[Array, ""] | float,
    lambda_: Float[Array, ""] | float,
) -> Float[Array, "T"]:
    """Âₜ = Σₖ (γλ)ᵏ δₜ₊ₖ, δₜ = rₜ + γ (1 − terminatedₜ) V(s′ₜ) − V(sₜ); the sum stops where an episode ends.

    Generalised advantage estimation (Schulman et al. 2016, eq. 16). λ = 0 is the TD error, λ = 1 the Monte Carlo
    return minus V.
    """
    delta = reward + gamma * jnp.where(terminated, 0, next_value) - value
    return rewards_to_go(delta, ended, gamma * lambda_)


def n_step(
    reward: Float[Array, "n"], valid: Bool[Array, "n"], gamma: Float[Array, ""] | float
) -> tuple[Float[Array, ""], Int[Array, ""]]:
    """(Σ_{i<k} γⁱ rᵢ, k), where k is the number of leading rows that are `valid`."""
    leading = jnp.cumprod(valid.astype(reward.dtype))
    powers = gamma ** jnp.arange(reward.shape[0])
    return jnp.sum(leading * powers * reward), jnp.sum(leading).astype(int)


def explained_variance(value: Float[Array, "n"], target: Float[Array, "n"]) -> Float[Array, ""]:
    """1 − Var[target − value] / Var[target]: 1 is perfect, 0 no better than a constant, NaN if nothing varies."""
    variance = jnp.var(target - target[0])  # exactly 0 where all are equal, whatever the mean rounds to
    return jnp.where(variance > 0, 1 - jnp.var(target - value) / variance, jnp.nan)
