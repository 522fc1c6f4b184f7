"""Every distribution against SciPy, sums and quadrature (property 5)."""

import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ridgeline import distributions
from ridgeline.distributions import Categorical, DiagonalGaussian, Distribution, Product, TanhGaussian, log_prob
from ridgeline.theory.property import EVERY, QUICK_TO_COMPILE, Measured, needs, proves

_COUNT, _DRAWS = 4, 4_000


class Case(NamedTuple):
    """Two distributions p and q of a family; Σ weight · f(action) is the sum or the integral of f.

    `log_p` and `log_q` are SciPy's at the actions. `below(x)` is P(aᵢ ≤ xᵢ) under p for each entry, `mode` the
    most probable action, or what the family gives for it.
    """

    p: Distribution
    q: Distribution
    actions: np.ndarray
    weight: Float[np.ndarray, "M"]
    log_p: Float[np.ndarray, "M"]
    log_q: Float[np.ndarray, "M"]
    below: Callable[[np.ndarray], np.ndarray]
    mode: np.ndarray


def categorical(random: np.random.Generator) -> Case:
    """Logits of any size."""
    return _categorical(random.normal(size=(2, _COUNT)) * 3)


def masked(random: np.random.Generator) -> Case:
    """Two of the four actions are forbidden, as `networks.allowed_actions` does it."""
    return _categorical(np.where(np.arange(_COUNT) % 2 == 0, random.normal(size=(2, _COUNT)), -1e9))


def _categorical(logits: Float[np.ndarray, "2 A"]) -> Case:
    log_p, log_q = needs("scipy.special").log_softmax(logits, 1)
    p, q = (Categorical(jnp.asarray(x)) for x in logits)
    n, total = len(log_p), np.cumsum(np.exp(log_p))
    return Case(p, q, np.arange(n), np.ones(n), log_p, log_q, lambda x: total[x], np.argmax(log_p, keepdims=True))


def product(random: np.random.Generator) -> Case:
    """Three categoricals of 2, 3 and 4 values."""
    sizes = (2, 3, 4)
    logits = [random.normal(size=(2, n)) * 2 for n in sizes]
    parts = [_categorical(x) for x in logits]
    actions = np.array(list(itertools.product(*map(range, sizes))))
    log_p, log_q = (
        sum(getattr(part, name)[actions[:, i]] for i, part in enumerate(parts)) for name in ("log_p", "log_q")
    )
    return Case(
        Product(tuple(Categorical(jnp.asarray(x[0])) for x in logits)),
        Product(tuple(Categorical(jnp.asarray(x[1])) for x in logits)),
        actions,
        np.ones(len(actions)),
        log_p,
        log_q,
        lambda x: np.stack([part.below(x[:, i]) for i, part in enumerate(parts)], 1),
        np.concatenate([part.mode for part in parts]),
    )


def gaussian(random: np.random.Generator) -> Case:
    """Two entries."""
    return _gaussian(random, DiagonalGaussian, (False, False))


def squashed(random: np.random.Generator) -> Case:
    """Tanh in the first entry alone."""
    bounded = (True, False)
    return _gaussian(random, lambda mean, log_std: TanhGaussian(mean, log_std, bounded), bounded)


def _gaussian(
    random: np.random.Generator, family: Callable[[Array, Array], Distribution], bounded: tuple[bool, bool]
) -> Case:
    """Quadrature by equal steps in the Gaussian's own coordinate: exact to rounding for such smooth functions."""
    normal = needs("scipy.stats").norm
    mean, log_std = random.uniform(-0.6, 0.6, (2, 2)), random.uniform(-1.2, -0.5, (2, 2))
    std = np.exp(log_std)
    z, step = np.linspace(-9, 9, 73, retstep=True)
    u = mean[0] + std[0] * np.array(list(itertools.product(z, z)))
    squash = np.array(bounded)

    def log_density(k: int) -> np.ndarray:
        # a = tanh u: log p(a) = log N(u) − log da/du, with da/du = sech² u.
        slope = np.where(squash, 2 * np.log(np.cosh(u)), 0)
        return np.sum(normal.logpdf(u, mean[k], std[k]) + slope, 1)

    def below(x: np.ndarray) -> np.ndarray:
        return normal.cdf(np.where(squash, np.arctanh(np.where(squash, x, 0)), x), mean[0], std[0])

    weight = step**2 * np.prod(std[0]) * np.prod(np.where(squash, np.cosh(u) ** -2.0, 1), 1)
    actions, mode = np.where(squash, np.tanh(u), u), np.where(squash, np.tanh(mean[0]), mean[0])
    p, q = (family(jnp.asarray(m), jnp.asarray(s)) for m, s in zip(mean, log_std, strict=True))
    return Case(p, q, actions, weight, log_density(0), log_density(1), below, mode)


FAMILIES: list[Callable[[np.random.Generator], Case]] = [categorical, masked, product, gaussian, squashed]


class Shipped(NamedTuple):
    """What a family says of itself."""

    log_p: Array
    log_q: Array
    score: Distribution
    entropy: Array
    kl: Array
    mode: Array
    samples: Array
    with_log_prob: Array


def _shipped(p: Distribution, q: Distribution, actions: Array, key: Array) -> Shipped:
    """Everything that a distribution computes: log-probabilities and scores [M], and samples with theirs."""
    score = jax.vmap(jax.grad(log_prob), (None, 0))(p, actions)
    samples, log_probs = jax.vmap(lambda k: p.draw_and_log_prob(p.noise(k)))(jax.random.split(key, _DRAWS))
    alone = jax.vmap(p.sample)(jax.random.split(key, _DRAWS))
    difference = jnp.max(jnp.abs(log_probs - jax.vmap(log_prob, (None, 0))(p, samples)))
    log_p, log_q = (jax.vmap(log_prob, (None, 0))(d, actions) for d in (p, q))
    return Shipped(log_p, log_q, score, p.entropy(), p.kl(q), p.mode(), alone, difference)


def _errors(case: Case, found: Shipped) -> dict[str, float]:
    """By how much they miss the reference, as the largest absolute difference."""
    density = np.exp(np.asarray(found.log_p)) * case.weight
    exact = np.exp(case.log_p) * case.weight
    possible = case.log_p > -1e8
    score = [np.tensordot(density, np.asarray(x), 1) for x in jax.tree.leaves(found.score)]
    samples = np.asarray(found.samples)
    discrete = np.issubdtype(samples.dtype, np.integer)
    return {
        "log π": _largest((found.log_p - case.log_p)[possible]),
        "log π′": _largest((found.log_q - case.log_q)[possible]),
        "∫ π − 1": abs(float(np.sum(density)) - 1),
        "E[score]": max(map(_largest, score)),
        "entropy": abs(float(found.entropy) + float(np.sum(exact * np.where(possible, case.log_p, 0)))),
        "KL": abs(float(found.kl) - float(np.sum(exact * np.where(possible, case.log_p - case.log_q, 0)))),
        "mode": _largest(np.asarray(found.mode) - case.mode),
        "log π of a sample": float(found.with_log_prob),
        "samples": max(_kolmogorov(below, x, discrete) for below, x in _columns(case.below(samples), samples)),
    }


def _largest(x: Array | np.ndarray) -> float:
    return float(np.max(np.abs(x)))


def _columns(below: np.ndarray, samples: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each entry of an action on its own."""
    return [(b, x) for b, x in zip(below.reshape(_DRAWS, -1).T, samples.reshape(_DRAWS, -1).T, strict=True)]


def _kolmogorov(below: np.ndarray, samples: np.ndarray, discrete: bool) -> float:
    """√n max |empirical − true distribution function|; above 2.5 once in 130,000 times."""
    order = np.argsort(samples, kind="stable")
    upto = np.searchsorted(samples[order], samples[order], "right") / len(samples)
    before = upto if discrete else upto - 1 / len(samples)
    true = below[order]
    return float(np.sqrt(len(samples)) * max(np.max(np.abs(upto - true)), np.max(np.abs(before - true))))


@proves(5, "every distribution's log π, score, entropy, KL and samples", EVERY, "SciPy, quadrature")
def distributions_are_scipys(full: bool) -> list[Measured]:
    """E[score] = 0 and ∫ π = 1, too. One compilation a family; random parameters."""
    random, measured = np.random.default_rng(5), []
    for family in FAMILIES:
        cases = [family(random) for _ in range(200 if full else 10)]
        keys = jax.random.split(jax.random.key(5), len(cases))
        shipped = jax.jit(_shipped, compiler_options=QUICK_TO_COMPILE)
        each = [
            _errors(case, shipped(case.p, case.q, jnp.asarray(case.actions), key))
            for case, key in zip(cases, keys, strict=True)
        ]
        for name in each[0]:
            tolerance = {"samples": 2.5, "mode": 1e-12}.get(name, 1e-10)
            worst = max(errors[name] for errors in each)
            measured.append(Measured(f"{family.__name__}: {name}", worst, tolerance))
    unlisted = _concrete() - {type(family(random).p) for family in FAMILIES}
    return [*measured, Measured("distributions without a case", float(len(unlisted)), 0.0)]


def _concrete() -> set[type[Distribution]]:
    """Every distribution that the library has."""
    return {
        x
        for x in vars(distributions).values()
        if isinstance(x, type) and issubclass(x, Distribution) and x is not Distribution
    }
