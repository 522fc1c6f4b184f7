"""PPO's clipped surrogate: where its gradient is the policy gradient, and where it is 0 (property 19)."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ridgeline.algorithms.pg import surrogate
from ridgeline.algorithms.ppo import clipped_surrogate
from ridgeline.theory.mdp import TabularPolicy
from ridgeline.theory.property import Measured, proves

_EPSILON = 0.2


def _slope(ratio: float, advantage: float, epsilon: float = _EPSILON) -> float:
    """∂L/∂ρ."""
    return float(jax.grad(clipped_surrogate)(jnp.asarray(ratio), jnp.asarray(advantage), epsilon))


def _loss(logits: Float[Array, "S A"], data: tuple[Array, ...], epsilon: float) -> Float[Array, ""]:
    """Σ L^CLIP over rows of a table."""
    s, a, then, advantage = data

    def one(s: Array, a: Array, then: Array, advantage: Array) -> Array:
        ratio = jnp.exp(TabularPolicy(logits).distribution(s).log_prob(a) - then)
        return clipped_surrogate(ratio, advantage, epsilon)

    return jnp.sum(jax.vmap(one)(s, a, then, advantage))


@proves(19, "clipped where it should be, and the policy gradient elsewhere", ("ppo",), "autodiff, closed form")
def the_clipped_surrogate_is_the_policy_gradient(full: bool) -> list[Measured]:
    """All cells of ρ below, in and above the range × A < 0, = 0, > 0; ρ = 1; ε = ∞."""
    random = np.random.default_rng(19)
    flat: list[float] = []
    steep: list[float] = []
    for ratio, gain in itertools.product((0.5, 1.0, 1.5), (-2.0, 0.0, 2.0)):
        clipped = (ratio > 1 + _EPSILON and gain > 0) or (ratio < 1 - _EPSILON and gain < 0)
        error = abs(_slope(ratio, gain) - (0.0 if clipped else gain))
        (flat if clipped or gain == 0 else steep).append(error)
    count = 2_000 if full else 200
    logits = jnp.asarray(random.normal(size=(5, 3)))
    s, a = (jnp.asarray(random.integers(0, n, count)) for n in (5, 3))
    advantage = jnp.asarray(random.normal(size=count))

    def log_probs(logits: Array) -> Array:
        return jax.vmap(lambda s, a: TabularPolicy(logits).distribution(s).log_prob(a))(s, a)

    def policy_gradient(psi: Array) -> Array:
        return jax.grad(lambda x: surrogate(log_probs(x), psi, jnp.ones(count, bool)))(logits)

    same = jax.grad(_loss)(logits, (s, a, log_probs(logits), advantage), _EPSILON)
    then = log_probs(jnp.asarray(random.normal(size=(5, 3))))
    free = jax.grad(_loss)(logits, (s, a, then, advantage), 1e9)
    plain = policy_gradient(advantage)
    weighted = policy_gradient(jnp.exp(log_probs(logits) - then) * advantage)
    return [
        Measured("slope where clipped or A = 0", max(flat), 0.0),
        Measured("slope elsewhere, against A", max(steep), 1e-12),
        Measured("at ρ = 1, against the PG gradient", float(jnp.max(jnp.abs(same - plain))), 1e-10),
        Measured("at ε = ∞, against weighted PG", float(jnp.max(jnp.abs(free - weighted))), 1e-10),
    ]
