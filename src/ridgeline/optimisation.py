"""Gradient steps and target copies."""

from typing import Literal

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from ridgeline.adam import Moments, adam

type OptimiserName = Literal["adam", "sgd"]


def optimiser_state(name: OptimiserName, params: PyTree[Float[Array, "..."]]) -> PyTree[Array]:
    """The optimiser's state before the first gradient step: none of SGD, zeros of Adam."""
    if name == "sgd":
        return ()
    return Moments.begin(params)


def descend[Params: PyTree[Array]](
    name: OptimiserName,
    params: Params,
    gradient: Params,
    state: PyTree[Array],
    learning_rate: Float[Array, ""] | float,
    max_norm: Float[Array, ""] | float,
    taken: Bool[Array, ""] | bool = True,
) -> tuple[Params, PyTree[Array], Float[Array, ""]]:
    """θ ← θ − α · transform(g · min(1, max_norm/‖g‖)): one step, with g clipped by its global norm.

    SGD takes g as it is, Adam as `adam` says. A step that is not `taken` leaves parameters and state what they
    were. Returns both, and ‖g‖ before clipping.
    """
    norm = jnp.linalg.norm(ravel_pytree(gradient)[0])  # one sum: leaf by leaf it takes as long as all of Adam
    scale = jnp.minimum(1, max_norm / (norm + 1e-6))
    gradient = jax.tree.map(lambda g: jnp.where(taken, g * scale, 0), gradient)
    if name == "sgd":
        params = jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)
    else:
        params, state = adam(params, gradient, state, learning_rate, taken)
    return params, state, norm


def regression_loss(error: Float[Array, "..."], huber: bool = False) -> Float[Array, "..."]:
    """½δ²; Huber's is |δ| − ½ beyond |δ| = 1, which clips its gradient to ±1 (Mnih et al. 2015)."""
    if not huber:
        return 0.5 * error**2
    within = jnp.clip(error, -1, 1)
    return within * (error - 0.5 * within)


def polyak[Params: PyTree[Array]](target: Params, params: Params, tau: Float[Array, ""] | float) -> Params:
    """φ′ ← τ φ + (1 − τ) φ′; τ = 1 copies exactly."""
    return jax.tree.map(lambda old, new: jnp.where(tau == 1, new, old + tau * (new - old)), target, params)
