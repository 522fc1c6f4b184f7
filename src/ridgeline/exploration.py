"""Noise on continuous actions, for policies that have none of their own."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ridgeline.types import Continuous

type Noise = Literal["gaussian", "ornstein_uhlenbeck"]

# θ of the process, as DDPG has it (Lillicrap et al. 2016, section 7).
_REVERSION = 0.15


def ornstein_uhlenbeck(
    noise: Float[Array, "d"], x: Float[Array, "d"], scale: Float[Array, ""] | float
) -> Float[Array, "d"]:
    """x ← x − θx + σ ε, ε ~ N(0, I): noise that lasts, θ = 0.15 (Uhlenbeck & Ornstein 1930)."""
    return x - _REVERSION * x + scale * noise


def begin_noise(kind: Noise, spec: Continuous) -> Float[Array, "d"] | tuple[()]:
    """What the noise of an episode remembers: x = 0, or nothing."""
    return spec.zeros() if kind == "ornstein_uhlenbeck" else ()


def explore(
    noise: Float[Array, "d"],
    kind: Noise,
    carry: Float[Array, "d"] | tuple[()],
    action: Float[Array, "d"],
    scale: Float[Array, ""] | float,
    bounded: tuple[bool, ...],
) -> tuple[Float[Array, "d"], Float[Array, "d"] | tuple[()]]:
    """a + σ ε, in bounds, ε ~ N(0, I), or a + what such noise adds up to; and what it remembers."""
    if isinstance(carry, tuple):
        return into_bounds(action + scale * noise, bounded), carry
    carry = ornstein_uhlenbeck(noise, carry, scale)
    return into_bounds(action + carry, bounded), carry


def uniform_action(noise: Float[Array, "d"], bounded: tuple[bool, ...]) -> Float[Array, "d"]:
    """2Φ(ε) − 1, uniform in [−1, 1], where an entry is bounded, and ε elsewhere; ε ~ N(0, I)."""
    return jnp.where(jnp.array(bounded), jax.lax.erf(noise / math.sqrt(2)), noise)


def into_bounds(action: Float[Array, "d"], bounded: tuple[bool, ...]) -> Float[Array, "d"]:
    """The nearest action within the bounds there are."""
    return jnp.where(jnp.array(bounded), jnp.clip(action, -1, 1), action)
