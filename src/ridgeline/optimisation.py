"""Gradient steps, target copies and minibatch passes."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

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
    norm = optax.tree.norm(gradient)
    scale = jnp.minimum(1, max_norm / (norm + 1e-6))
    gradient = jax.tree.map(lambda g: g * scale, gradient)
    updates, state = _TRANSFORMS[name].update(gradient, state)
    return jax.tree.map(lambda p, u: p - learning_rate * u, params, updates), state, norm


def polyak[Params: PyTree[Array]](target: Params, params: Params, tau: Float[Array, ""] | float) -> Params:
    """φ′ ← τ φ + (1 − τ) φ′; τ = 1 copies exactly."""
    return jax.tree.map(lambda old, new: jnp.where(tau == 1, new, old + tau * (new - old)), target, params)


def epochs[Learner, Data: PyTree[Array], Out](
    key: PRNGKeyArray,
    learn: Callable[[Learner, Data], tuple[Learner, Out]],
    learner: Learner,
    data: Data,
    count: int,
    batch_size: int,
) -> tuple[Learner, Out]:
    """Pass `count` times over the rows of `data`, in minibatches cut from a fresh permutation each time.

    `batch_size` divides the number of rows. Outputs of `learn` are stacked [count, minibatches].
    """
    rows = jax.tree.leaves(data)[0].shape[0]

    def one_epoch(learner: Learner, key: PRNGKeyArray) -> tuple[Learner, Out]:
        # One sort of random words; jax.random.permutation sorts several times.
        order = jnp.argsort(jax.random.bits(key, (rows,)))

        def one_batch(learner: Learner, index: Array) -> tuple[Learner, Out]:
            return learn(learner, jax.tree.map(lambda x: x[index], data))

        return jax.lax.scan(one_batch, learner, order.reshape(-1, batch_size))

    return jax.lax.scan(one_epoch, learner, jax.random.split(key, count))
