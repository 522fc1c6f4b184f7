"""Adam: gradient steps scaled by the moments of the gradient (Kingma & Ba 2015, algorithm 1).

m ← β₁ m + (1 − β₁) g,  v ← β₂ v + (1 − β₂) g²,  θ ← θ − α m̂/(√v̂ + ε)
m̂ = m/(1 − β₁ᵗ),  v̂ = v/(1 − β₂ᵗ),  β₁ = 0.9, β₂ = 0.999, ε = 1e-5

Optax is its oracle in the tests; that divides three times for each number, and cannot leave a step out.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

_BETA1, _BETA2 = 0.9, 0.999
# As the PPO baselines have it; Adam's own 1e-8 lets a near-zero second moment take a huge step.
_EPSILON = 1e-5


class Moments[Params](eqx.Module):
    """Steps taken t, and the running means m of g and v of g²."""

    count: Int[Array, ""]
    mu: Params
    nu: Params

    @classmethod
    def begin(cls, params: Params) -> "Moments[Params]":
        """No steps, and zeros."""
        zeros = [jax.tree.map(jnp.zeros_like, params) for _ in range(2)]
        return cls(jnp.zeros((), jnp.int32), *zeros)


def adam[Params: PyTree[Array]](
    params: Params,
    gradient: Params,
    moments: Moments[Params],
    learning_rate: Float[Array, ""] | float,
    taken: Bool[Array, ""] | bool,
) -> tuple[Params, Moments[Params]]:
    """One step; θ, t, m and v stay what they are if it is not `taken` and g = 0."""
    # Weights of 0 leave a step out: to choose between new and old, XLA would copy every leaf first.
    share = jnp.asarray(taken, float)
    first, second = (1 - _BETA1) * share, (1 - _BETA2) * share
    # By then no mean is corrected, and 2³¹ steps are a week of a small network's.
    count = jnp.minimum(moments.count, 2**31 - 2) + jnp.asarray(taken, moments.count.dtype)
    mu = jax.tree.map(lambda m, g: (1 - first) * m + first * g, moments.mu, gradient)
    nu = jax.tree.map(lambda v, g: (1 - second) * v + second * g**2, moments.nu, gradient)
    t = jnp.maximum(count, 1).astype(float)
    step, root = share * learning_rate / (1 - _BETA1**t), jax.lax.rsqrt(1 - _BETA2**t)
    moved = jax.tree.map(lambda p, m, v: p - step * m / (jnp.sqrt(v) * root + _EPSILON), params, mu, nu)
    return moved, Moments(count, mu, nu)
