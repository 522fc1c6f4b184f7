"""Gradient steps and target copies."""

from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

type OptimiserName = Literal["adam", "sgd"]

# ε = 1e-5, as the PPO baselines have it; Adam's own 1e-8 lets a near-zero second moment take a huge step.
_TRANSFORMS = {"adam": optax.scale_by_adam(eps=1e-5), "sgd": optax.identity()}


def optimiser_state(name: OptimiserName, params: PyTree[Float[Array, "..."]]) -> PyTree[Array]:
    """The optimiser's state before the first gradient step."""
    return _TRANSFORMS[name].init(params)


def descend[Params: PyTree[Array]](
    name: OptimiserName,
    params: Params,
    gradient: Params,
    state: PyTree[Array],
    learning_rate: Float[Array, ""] | float,
    max_norm: Float[Array, ""] | float,
) -> tuple[Params, PyTree[Array], Float[Array, ""]]:
    """θ ← θ − α · transform(g · min(1, max_norm/‖g‖)): one step, with g clipped by its global norm.

    Adam is Kingma & Ba (2015), SGD takes g as it is. Returns parameters, optimiser state and ‖g‖ before clipping.
    """
    norm = jnp.linalg.norm(ravel_pytree(gradient)[0])  # one sum: leaf by leaf it takes as long as all of Adam
    scale = jnp.minimum(1, max_norm / (norm + 1e-6))
    gradient = jax.tree.map(lambda g: g * scale, gradient)
    updates, state = _TRANSFORMS[name].update(gradient, state)
    return jax.tree.map(lambda p, u: p - learning_rate * u, params, updates), state, norm


def regression_loss(error: Float[Array, "..."], huber: bool = False) -> Float[Array, "..."]:
    """½δ²; Huber's is linear beyond |δ| = 1, which clips its gradient to ±1 (Mnih et al. 2015)."""
    return optax.huber_loss(error) if huber else 0.5 * error**2


def polyak[Params: PyTree[Array]](target: Params, params: Params, tau: Float[Array, ""] | float) -> Params:
    """φ′ ← τ φ + (1 − τ) φ′; τ = 1 copies exactly."""
    return jax.tree.map(lambda old, new: jnp.where(tau == 1, new, old + tau * (new - old)), target, params)
