"""Trust regions (properties 15, 16 and 17); the bound on the improvement, 18, has a file of its own."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from ridgeline.algorithms.trpo import improvement
from ridgeline.distributions import Categorical, DiagonalGaussian, Distribution, divergence
from ridgeline.encoders import Architecture
from ridgeline.networks import Actor
from ridgeline.theory.property import Measured, proves
from ridgeline.trust_region import Move, fisher_vector_product, natural_step, trust_region
from ridgeline.types import ActionSpec, ArraySpec, Continuous, Discrete, EnvSpec, MultiDiscrete

_STATES, _ACTIONS = 3, 4
# These programs run once: to compile them well would take longer than it saves.
_ONCE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

type Params = dict[str, Array]


@proves(15, "Fisher-vector product = Hessian of mean KL = E[score scoreᵀ]", ("trpo",), "dense matrix")
def fisher_vector_product_is_the_fisher_matrix(full: bool) -> list[Measured]:
    """Column by column, for small networks with every kind of policy; symmetric, PSD, damping adds λv exactly."""
    specs: dict[str, ActionSpec] = {
        "discrete": Discrete(3),
        "multi-discrete": MultiDiscrete((2, 3)),
        "continuous": Continuous(1, (True,)),
    }
    return [measured for name, spec in specs.items() for measured in _fisher(name, spec)]


def _fisher(name: str, spec: ActionSpec) -> list[Measured]:
    architecture = Architecture((3,), "tanh", False, None)
    obs = np.random.default_rng(15).normal(size=(5, 2))

    @functools.partial(jax.jit, compiler_options=_ONCE)
    def matrices(obs: Array) -> tuple[Array, ...]:
        actor = Actor.create(jax.random.key(15), EnvSpec(name, ArraySpec((2,)), spec), architecture, -0.3)
        start, unravel = ravel_pytree(actor)
        theta = start + 0.5 * jax.random.normal(jax.random.key(16), start.shape)
        actor = unravel(theta)
        old = jax.vmap(actor.distribution)(obs)

        def product(v: Array, damping: float) -> Array:
            shipped = fisher_vector_product(
                lambda new: jax.vmap(new.distribution)(obs), functools.partial(divergence, old), actor, damping
            )
            return ravel_pytree(shipped(unravel(v)))[0]

        def outer(s: Array, action: Array) -> Array:
            score = jax.grad(lambda t: unravel(t).distribution(s).log_prob(action))(theta)
            return score[:, None] * score[None]

        def expected(s: Array) -> Array:
            actions, weights = _quadrature(actor.distribution(s))
            return jnp.einsum("k,kij->ij", weights, jax.vmap(lambda a: outer(s, a))(actions))

        hessian = jax.hessian(lambda t: jnp.mean(jax.vmap(_kl)(old, jax.vmap(unravel(t).distribution)(obs))))(
            theta
        )
        plain, damped = (jax.vmap(product, (0, None))(jnp.eye(theta.size), d) for d in (0.0, 0.25))
        return plain, damped, hessian, jnp.mean(jax.vmap(expected)(obs), 0)

    plain, damped, hessian, score = map(np.asarray, matrices(obs))
    size = float(np.max(np.abs(hessian)))
    return [
        Measured(f"{name}: Hessian of mean KL, relative", float(np.max(np.abs(plain - hessian))) / size, 1e-10),
        Measured(f"{name}: E[score scoreᵀ], relative", float(np.max(np.abs(plain - score))) / size, 1e-5),
        Measured(f"{name}: symmetric, relative", float(np.max(np.abs(plain - plain.T))) / size, 1e-12),
        Measured(f"{name}: −least eigenvalue, relative", -float(np.linalg.eigvalsh(plain)[0]) / size, 1e-12),
        Measured(
            f"{name}: damping adds λv", float(np.max(np.abs(damped - plain - 0.25 * np.eye(len(plain))))), 1e-15
        ),
    ]


def _kl(old: Distribution, new: Distribution) -> Array:
    """KL(old ‖ new), written once more."""
    if isinstance(old, DiagonalGaussian) and isinstance(new, DiagonalGaussian):
        ratio = jnp.exp(new.log_std - old.log_std)
        shift = (old.mean - new.mean) / jnp.exp(new.log_std)
        return jnp.sum(jnp.log(ratio) + 0.5 / ratio**2 + 0.5 * shift**2 - 0.5)
    ours: Any = (old,) if isinstance(old, Categorical) else old.parts  # type: ignore[attr-defined]
    theirs: Any = (new,) if isinstance(new, Categorical) else new.parts  # type: ignore[attr-defined]
    total = jnp.zeros(())
    for one, other in zip(ours, theirs, strict=True):
        p, q = jax.nn.softmax(one.logits), jax.nn.softmax(other.logits)
        total += jnp.sum(p * jnp.log(p / q))
    return total


def _quadrature(pi: Distribution) -> tuple[Array, Array]:
    """Actions and weights that make E exact: all of them, or Gauss–Hermite nodes for one dimension's Gaussian."""
    if isinstance(pi, Categorical):
        return jnp.arange(pi.logits.size), jax.nn.softmax(pi.logits)
    if isinstance(pi, DiagonalGaussian):
        nodes, weights = np.polynomial.hermite_e.hermegauss(7)
        actions = pi.mean[None] + jnp.exp(pi.log_std)[None] * jnp.asarray(nodes)[:, None]
        return actions, jnp.asarray(weights / weights.sum())
    first, second = (jax.nn.softmax(part.logits) for part in pi.parts)  # type: ignore[attr-defined]
    both = jnp.stack(jnp.meshgrid(jnp.arange(first.size), jnp.arange(second.size), indexing="ij"), -1)
    return both.reshape(-1, 2), (first[:, None] * second[None]).reshape(-1)


class _Case:
    """Softmax policies on a table, the last action's logit 0 so that A is not singular; weights, advantages."""

    def __init__(self, seed: int, count: int):
        random = np.random.default_rng(seed)
        self.theta = random.normal(size=(count, _STATES, _ACTIONS - 1))
        self.weight = random.dirichlet(np.full(_STATES, 2.0), count)
        self.advantage = random.normal(size=(count, _STATES, _ACTIONS)) * 10 ** random.uniform(
            -3, 3, (count, 1, 1)
        )
        self.random = random


def _log_probs(theta: Float[Array, "S n"]) -> Float[Array, "S A"]:
    return jax.nn.log_softmax(jnp.concatenate([theta, jnp.zeros((theta.shape[0], 1))], 1))


def _gain(theta: Array, old: Array, weight: Array, advantage: Array) -> Array:
    before = jax.lax.stop_gradient(_log_probs(old))
    each = jax.vmap(jax.vmap(improvement))(_log_probs(theta), before, advantage)
    return jnp.sum(weight[:, None] * jnp.exp(before) * each)


def _divergence(theta: Array, old: Array, weight: Array) -> Array:
    pairs = (jax.lax.stop_gradient(_log_probs(old)), _log_probs(theta))
    return jnp.sum(weight * jax.vmap(lambda p, q: Categorical(p).kl(Categorical(q)))(*pairs))


def _numbers(theta: np.ndarray, old: np.ndarray, weight: np.ndarray, advantage: np.ndarray) -> tuple[Any, Any]:
    """(KL(old ‖ new), L(new) − L(old)) in NumPy, cases [N, S, A − 1]."""

    def probs(x: np.ndarray) -> np.ndarray:
        x = np.exp(np.concatenate([x, np.zeros((*x.shape[:-1], 1))], -1))
        return x / x.sum(-1, keepdims=True)

    p, q = probs(old), probs(theta)
    kl = np.sum(weight * np.sum(p * np.log(p / q), -1), -1)
    return kl, np.sum(weight * np.sum((q - p) * advantage, -1), -1)


@proves(16, "TRPO's step: KL/δ → 1; accepted ⇒ KL ≤ δ and better; else θ bitwise", ("trpo",), "NumPy, dense solve")
def the_step_keeps_its_promises(full: bool) -> list[Measured]:
    """Random problems: δ from 1e-8 to 100, λ from 0 to 1, some with NaN advantages, some with A ≺ 0."""
    count = 10_000 if full else 200
    case = _Case(16, count)
    delta = 10 ** case.random.uniform(-8, 2, count)
    damping = np.where(case.random.random(count) < 0.3, 0.0, 10 ** case.random.uniform(-6, 0, count))
    ratio = case.random.choice([0.5, 0.8, 1.0], count)  # 1 tries the same step again, and may fail
    kind = case.random.integers(0, 10, count)
    sign = np.where(kind == 0, -1.0, 1.0)
    broken = kind <= 1  # of these one has a negative A, the other a gradient that is not finite
    damping = np.where(kind == 0, 0.0, damping)
    advantage = case.advantage.copy()
    advantage[kind == 1, 0, 0] = np.nan

    def one(
        theta: Array, weight: Array, advantage: Array, delta: Array, damping: Array, sign: Array, ratio: Array
    ) -> Move[Array]:
        return trust_region(
            theta,
            lambda new: _gain(new, theta, weight, advantage),
            lambda new: _divergence(new, theta, weight),
            fisher_vector_product(
                lambda new: new, lambda new: sign * _divergence(new, theta, weight), theta, damping
            ),
            delta,
            damping,
            20,
            ratio,
            4,
        )

    given = (case.theta, case.weight, advantage, delta, damping, sign, ratio)
    moved = jax.device_get(jax.jit(jax.vmap(one))(*given))
    kl, gain = _numbers(moved.params, case.theta, case.weight, case.advantage)
    accepted = moved.fraction > 0
    # The reference rounds otherwise: 1e-12 of the scale of what is summed.
    slack = 1e-12 * np.max(np.abs(case.advantage), (1, 2))
    same = (moved.params.view(np.int64) == case.theta.view(np.int64)).all((1, 2))
    violations = {
        "accepted with KL > δ": accepted & (kl > delta + 1e-13),
        "accepted with no better L": accepted & (gain < -slack),
        "rejected with θ changed": ~accepted & ~same,
        "accepted with θ unchanged": accepted & same,
        "pᵀAp ≤ 0 or not finite, yet moved": broken & ~same,
        "that, yet not counted": broken & moved.usable,
        "sound, yet counted as broken": ~broken & ~moved.usable,
        "reported KL is not the KL": accepted & (np.abs(moved.kl - kl) > 1e-9 * kl + 1e-13),
        "reported gain is not the gain": accepted & (np.abs(moved.gain - gain) > 1e-9 * np.abs(gain) + slack),
    }
    found = [
        Measured(f"cases of {count}: {name}", float(np.sum(where)), 0.0) for name, where in violations.items()
    ]
    kinds = min(np.sum(accepted), np.sum(~accepted & ~broken), np.sum(broken))
    return [*found, Measured("kinds of outcome that never came", float(kinds == 0), 0.0), *_small_steps()]


def _small_steps() -> list[Measured]:
    """KL/δ of the full step as δ → 0."""
    case = _Case(160, 50)
    small = 1e-9

    def one(theta: Array, weight: Array, advantage: Array, damping: Array) -> tuple[Array, Array, Array]:
        gradient = jax.grad(_gain)(theta, theta, weight, advantage)
        product = fisher_vector_product(
            lambda new: new, lambda new: _divergence(new, theta, weight), theta, damping
        )
        dense = jax.hessian(lambda new: _divergence(new.reshape(theta.shape), theta, weight))(theta.reshape(-1))
        return natural_step(product, gradient, small, 60).step, gradient, dense

    shipped = jax.jit(jax.vmap(one))
    found = []
    for name, damping in (("undamped: KL/δ → 1", 0.0), ("damped: KL/δ → xᵀAx / xᵀ(A + λI)x", 0.1)):
        given = (case.theta, case.weight, case.advantage, np.full(50, damping))
        step, gradient, dense = (np.asarray(x) for x in shipped(*given))
        kl, _ = _numbers(case.theta + step, case.theta, case.weight, case.advantage)
        g = gradient.reshape(50, -1)
        x = np.linalg.solve(dense + damping * np.eye(g.shape[1]), g[..., None])[..., 0]
        quadratic = np.einsum("ni,nij,nj->n", x, dense, x)
        expected = quadratic / (quadratic + damping * np.sum(x * x, 1))
        found.append(Measured(name, float(np.max(np.abs(kl / small / expected - 1))), 1e-3))
    return found


@proves(
    17, "the natural step is invariant to a linear reparametrisation, the vanilla is not", ("trpo",), "θ = M φ"
)
def the_natural_step_is_invariant(full: bool) -> list[Measured]:
    """With θ = M φ, the undamped step in φ, taken through M, is that in θ; the gradient's direction turns.

    Conjugate gradient leaves a residual of 1e-6, which is an error of up to 1e-6 times the condition of A.
    """
    count = 1_000 if full else 50
    case = _Case(17, count)
    size = _STATES * (_ACTIONS - 1)
    matrix = np.eye(size) + 0.3 * case.random.normal(size=(count, size, size))

    def natural(gain: Any, kl: Any, at: Array) -> tuple[Array, Array]:
        gradient = jax.grad(gain)(at)
        return natural_step(fisher_vector_product(lambda t: t, kl, at, 0.0), gradient, 0.01, 60).step, gradient

    def one(theta: Array, weight: Array, advantage: Array, matrix: Array) -> tuple[Array, ...]:
        flat = theta.reshape(-1)

        def gain(t: Array) -> Array:
            return _gain(t.reshape(theta.shape), theta, weight, advantage)

        def kl(t: Array) -> Array:
            return _divergence(t.reshape(theta.shape), theta, weight)

        step, gradient = natural(gain, kl, flat)
        phi = jnp.linalg.solve(matrix, flat)
        other, slope = natural(lambda p: gain(matrix @ p), lambda p: kl(matrix @ p), phi)
        fisher = jax.vmap(fisher_vector_product(lambda t: t, kl, flat, 0.0))(jnp.eye(size))
        return step, matrix @ other, gradient, matrix @ slope, fisher

    step, other, gradient, slope, fisher = (
        np.asarray(x) for x in jax.jit(jax.vmap(one))(case.theta, case.weight, case.advantage, matrix)
    )

    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    apart = np.linalg.norm(step - other, axis=1) / np.linalg.norm(step, axis=1)
    turned = np.median(np.linalg.norm(unit(gradient) - unit(slope), axis=1))
    return [
        Measured("natural step, relative / condition of A", float(np.max(apart / np.linalg.cond(fisher))), 1e-5),
        Measured("0.1 − how far the vanilla step turns", 0.1 - float(turned), 0.0),
    ]
