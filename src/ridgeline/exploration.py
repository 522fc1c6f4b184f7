"""Noise on continuous actions, for policies that have none of their own."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ridgeline.types import Continuous

type Noise = Literal["gaussian", "ornstein_uhlenbeck"]

# θ of the process, as DDPG has it (Lillicrap et al. 2016, section 7).
_REVERSION = 0.15


def ornstein_uhlenbeck(
    key: PRNGKeyArray, x: Float[Array, "d"], scale: Float[Array, ""] | float
) -> Float[Array, "d"]:
    """x ← x − θx + σ ε, ε ~ N(0, I): noise that lasts, θ = 0.15 (Uhlenbeck & Ornstein 1930)."""
    return x - _REVERSION * x + scale * jax.random.normal(key, x.shape)


def begin_noise(kind: Noise, spec: Continuous) -> Float[Array, "d"] | tuple[()]:
    """What the noise of an episode remembers: x = 0, or nothing."""
    return spec.zeros() if kind == "ornstein_uhlenbeck" else ()


def explore(
    key: PRNGKeyArray,
    kind: Noise,
    carry: Float[Array, "d"] | tuple[()],
    action: Float[Array, "d"],
    scale: Float[Array, ""] | float,
    bounded: tuple[bool, ...],
) -> tuple[Float[Array, "d"], Float[Array, "d"] | tuple[()]]:
    """a + noise, in bounds; and what the noise remembers."""
    if isinstance(carry, tuple):
        return into_bounds(action + scale * jax.random.normal(key, action.shape), bounded), carry
    carry = ornstein_uhlenbeck(key, carry, scale)
    return into_bounds(action + carry, bounded), carry


def uniform_action(key: PRNGKeyArray, bounded: tuple[bool, ...]) -> Float[Array, "d"]:
    """Uniform in [−1, 1] where an entry is bounded, N(0, 1) elsewhere."""
    uniform_key, normal_key = jax.random.split(key)
    size = (len(bounded),)
    uniform = jax.random.uniform(uniform_key, size, minval=-1, maxval=1)
    return jnp.where(jnp.array(bounded), uniform, jax.random.normal(normal_key, size))


def into_bounds(action: Float[Array, "d"], bounded: tuple[bool, ...]) -> Float[Array, "d"]:
    """The nearest action within the bounds there are."""
    return jnp.where(jnp.array(bounded), jnp.clip(action, -1, 1), action)
