"""A step within a trust region: conjugate gradient, Fisher-vector products, a backtracking line search.

Parameters stay as they are, pytrees that are never flattened into one vector.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree


def dot[Params: PyTree[Array]](x: Params, y: Params) -> Float[Array, ""]:
    """xᵀy of parameters as vectors."""
    return sum(map(jnp.vdot, jax.tree.leaves(x), jax.tree.leaves(y)), start=jnp.zeros(()))


def along[Params: PyTree[Array]](x: Params, step: Float[Array, ""] | float, direction: Params) -> Params:
    """x + step · direction."""
    return jax.tree.map(lambda x, p: x + step * p, x, direction)


class Solution[Params](eqx.Module):
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
    limit = tolerance**2 * dot(b, b)
    zero = jax.tree.map(jnp.zeros_like, b)

    def going(at: tuple[Params, Params, Params, Array, Array, Array]) -> Bool[Array, ""]:
        *_, rr, curvature, i = at
        return (i < iterations) & (rr > limit) & (curvature > 0)

    def step(
        at: tuple[Params, Params, Params, Array, Array, Array],
    ) -> tuple[Params, Params, Params, Array, Array, Array]:
        x, r, p, rr, curvature, i = at
        image = product(p)
        bend = dot(p, image)
        alpha = jnp.where(bend > 0, rr / bend, 0)
        x, r = along(x, alpha, p), along(r, -alpha, image)
        new = dot(r, r)
        p = along(r, new / rr, p)
        least = jnp.minimum(curvature, bend / dot(at[2], at[2]))
        return x, r, p, new, least, i + 1

    rr = dot(b, b)
    start = (zero, b, b, rr, jnp.full_like(rr, jnp.inf), jnp.zeros((), jnp.int32))
    x, *_, curvature, _ = jax.lax.while_loop(going, step, start)
    image = product(x)
    off = along(image, -1.0, b)
    residual = jnp.where(rr > 0, jnp.sqrt(dot(off, off) / rr), 0)
    return Solution(x, image, residual, curvature)


class Search[Params, Found](eqx.Module):
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
        params = along(start, fraction, step)
        accepted, found = judge(params)
        return k + 1, jnp.where(accepted, fraction, fraction * ratio), accepted, params, found

    nothing = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(judge, start)[1])
    one = jnp.ones_like(jax.tree.leaves(step)[0], shape=())
    first = (jnp.zeros((), jnp.int32), one, jnp.zeros((), bool), start, nothing)
    _, fraction, accepted, params, found = jax.lax.while_loop(going, attempt, first)
    params, found = jax.tree.map(lambda a, b: jnp.where(accepted, a, b), (params, found), (start, nothing))
    return Search(params, jnp.where(accepted, fraction, 0), found)


def fisher_vector_product[Params: PyTree[Array], Out: PyTree[Array]](
    policy: Callable[[Params], Out],
    divergence: Callable[[Out], Float[Array, ""]],
    params: Params,
    damping: Float[Array, ""] | float,
) -> Callable[[Params], Params]:
    """v ↦ A v + λ v, A = JᵀMJ with J = ∂π_θ/∂θ and M the Hessian of π ↦ Ê KL(π_θold ‖ π), at θ_old (app. C).

    That is the Hessian of θ ↦ Ê KL(π_θold ‖ π_θ): what that has beside JᵀMJ is a multiple of the gradient of the
    KL, which is 0 at θ_old. `policy` gives what `divergence` reads: the distributions.
    """
    old, forward = jax.linearize(policy, params)
    bend = jax.linearize(jax.grad(divergence), old)[1]
    backward = jax.linear_transpose(forward, params)
    return lambda v: along(backward(bend(forward(v)))[0], damping, v)


class NaturalStep[Params](eqx.Module):
    """The step s = √(2δ / xᵀAx) x, the solution x it comes from, and whether it may be taken."""

    step: Params
    solution: Solution[Params]
    usable: Bool[Array, ""]


def natural_step[Params: PyTree[Array]](
    product: Callable[[Params], Params], gradient: Params, delta: Float[Array, ""] | float, iterations: int
) -> NaturalStep[Params]:
    """S = √(2δ / xᵀAx) x, x = A⁻¹∇L by conjugate gradient: the largest step with ½ sᵀAs = δ (app. C).

    Zero, and not `usable`, where ∇L is zero, anything is not finite, or a direction had pᵀAp ≤ 0.
    """
    solution = conjugate_gradient(product, gradient, iterations)
    length = dot(solution.x, solution.image)
    scale = jnp.sqrt(2 * delta / length)
    # A length of 0 makes the scale infinite, one below it NaN; an infinite one makes it 0.
    usable = jnp.isfinite(length) & jnp.isfinite(scale) & (solution.curvature > 0)
    return NaturalStep(jax.tree.map(lambda x: jnp.where(usable, scale * x, 0), solution.x), solution, usable)


class Move[Params](eqx.Module):
    """Where an update led, and what it reports; `fraction` of the full step is 0 where θ stayed as it was."""

    params: Params
    fraction: Float[Array, ""]
    kl: Float[Array, ""]
    gain: Float[Array, ""]
    predicted_kl: Float[Array, ""]
    predicted_gain: Float[Array, ""]
    solution: Solution[Params]
    usable: Bool[Array, ""]


def trust_region[Params: PyTree[Array]](
    params: Params,
    gain: Callable[[Params], Float[Array, ""]],
    divergence: Callable[[Params], Float[Array, ""]],
    product: Callable[[Params], Params],
    delta: Float[Array, ""] | float,
    damping: Float[Array, ""] | float,
    iterations: int,
    ratio: Float[Array, ""] | float,
    tries: int,
) -> Move[Params]:
    """θ ← θ_old + βᵏ s with the least k at which KL ≤ δ and L is better; else θ_old, bit for bit.

    `gain` is L(θ) − L(θ_old), `divergence` the KL that is bounded, `product` v ↦ A v + λ v with A its Hessian at
    θ_old, or that of fewer rows, and λ = `damping`.
    """
    gradient = jax.grad(gain)(params)
    natural = natural_step(product, gradient, delta, iterations)
    step, usable = natural.step, natural.usable

    def judge(params: Params) -> tuple[Bool[Array, ""], tuple[Array, Array]]:
        kl, better = divergence(params), gain(params)
        return (kl <= delta) & (better > 0) & jnp.isfinite(better), (kl, better)

    search = backtrack(judge, params, step, ratio, jnp.where(usable, tries, 0))
    fraction, (kl, better) = search.fraction, search.found
    # ½ sᵀAs without the damping: sᵀ(A + λI)s is 2δ.
    quadratic = delta - 0.5 * damping * dot(step, step)
    slope = dot(gradient, step)
    return Move(
        search.params, fraction, kl, better, fraction**2 * quadratic, fraction * slope, natural.solution, usable
    )
