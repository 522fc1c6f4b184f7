"""Conjugate gradient and the backtracking line search, on parameters as they are: pytrees, never flattened."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree


class Solution[Params](NamedTuple):
    """x ≈ A⁻¹b, `image` = A x computed afresh, ‖A x − b‖/‖b‖, and the least pᵀAp/pᵀp of the directions searched.

    A least curvature of 0 or below says that A is not positive definite: x is what was found before it.
    """

    x: Params
    image: Params
    residual: Float[Array, ""]
    curvature: Float[Array, ""]


def conjugate_gradient[Params: PyTree[Array]](
    product: Callable[[Params], Params], b: Params, iterations: int, tolerance: float = 1e-6
) -> Solution[Params]:
    """A⁻¹b for a symmetric A ≻ 0 that is known by its products v ↦ A v (Hestenes & Stiefel 1952).

    Stops where ‖r‖ ≤ tolerance · ‖b‖ or pᵀAp ≤ 0. `b` = 0 gives 0, with residual 0 and curvature ∞.
    """
    limit = tolerance**2 * optax.tree.vdot(b, b)
    zero = optax.tree.zeros_like(b)

    def going(at: tuple[Params, Params, Params, Array, Array, Array]) -> Bool[Array, ""]:
        *_, rr, curvature, i = at
        return (i < iterations) & (rr > limit) & (curvature > 0)

    def step(at: tuple[Params, Params, Params, Array, Array, Array]) -> tuple[Params, Params, Params, Array, ...]:
        x, r, p, rr, curvature, i = at
        image = product(p)
        bend = optax.tree.vdot(p, image)
        alpha = jnp.where(bend > 0, rr / bend, 0)
        x, r = optax.tree.add_scale(x, alpha, p), optax.tree.add_scale(r, -alpha, image)
        new = optax.tree.vdot(r, r)
        p = optax.tree.add_scale(r, new / rr, p)
        return x, r, p, new, jnp.minimum(curvature, bend / optax.tree.vdot(at[2], at[2])), i + 1

    rr = optax.tree.vdot(b, b)
    start = (zero, b, b, rr, jnp.full_like(rr, jnp.inf), jnp.zeros((), jnp.int32))
    x, *_, curvature, _ = jax.lax.while_loop(going, step, start)
    image = product(x)
    norm = optax.tree.norm(b)
    residual = jnp.where(norm > 0, optax.tree.norm(optax.tree.sub(image, b)) / norm, 0)
    return Solution(x, image, residual, curvature)


class Search[Params, Found](NamedTuple):
    """Where a line search ended, which fraction of the step that is (0: none), and what was found there."""

    params: Params
    fraction: Float[Array, ""]
    found: Found


def backtrack[Params: PyTree[Array], Found: PyTree[Array]](
    judge: Callable[[Params], tuple[Bool[Array, ""], Found]],
    start: Params,
    step: Params,
    ratio: Float[Array, ""] | float,
    tries: Int[Array, ""] | int,
) -> Search[Params, Found]:
    """θ + βᵏ s with the least k < tries that `judge` accepts; else `start`, bit for bit, and `found` of zeros."""

    def going(at: tuple[Array, Array, Array, Params, Found]) -> Bool[Array, ""]:
        k, _, accepted, *_ = at
        return (k < tries) & ~accepted

    def attempt(at: tuple[Array, Array, Array, Params, Found]) -> tuple[Array, Array, Array, Params, Found]:
        k, fraction, *_ = at
        params = optax.tree.add_scale(start, fraction, step)
        accepted, found = judge(params)
        return k + 1, jnp.where(accepted, fraction, fraction * ratio), accepted, params, found

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(judge, start)[1])
    one = jnp.ones_like(jax.tree.leaves(step)[0], shape=())
    first = (jnp.zeros((), jnp.int32), one, jnp.zeros((), bool), start, nothing)
    _, fraction, accepted, params, found = jax.lax.while_loop(going, attempt, first)
    params, found = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), (params, found), (start, nothing))
    return Search(params, jnp.where(accepted, fraction, 0), found)
