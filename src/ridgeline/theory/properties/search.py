"""Searches for argmaxₐ f(a): CEM and CMA-ES against loops in NumPy, CMA-ES against pycma (property 14)."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray

from ridgeline.maximisers import CEM, CMAES, Best, CMAState, Maximiser, Sampling, ask, cma_constants, tell
from ridgeline.theory.property import QUICK_TO_COMPILE, Measured, needs, proves

_GENERATIONS = 50


def _value(a: Float[np.ndarray, "d"]) -> float:
    """One peak off the middle, with unequal curvatures."""
    return -float(sum((i + 1) * (x - 0.3) ** 2 for i, x in enumerate(a)))


def _peak(a: Float[Array, "d"]) -> Float[Array, ""]:
    """`_value`, for JAX."""
    return -jnp.sum((jnp.arange(a.size) + 1) * (a - 0.3) ** 2)


@partial(jax.jit, static_argnames=("iterations", "shape"), compiler_options=QUICK_TO_COMPILE)
def _normal(keys: Key[Array, "k"], iterations: int, shape: tuple[int, int]) -> Float[Array, "k iterations n d"]:
    """The normal numbers of a search from each key, for each of its iterations."""
    split = jax.vmap(lambda key: jax.random.split(key, iterations))(keys)
    return jax.vmap(jax.vmap(lambda key: jax.random.normal(key, shape, float)))(split)


def _cem_by_hand(record: CEM, noise: Float[np.ndarray, "t n d"]) -> tuple[np.ndarray, float]:
    """The best of all samples and the last mean, from the same normal numbers."""
    mean, std, seen = np.zeros(noise.shape[-1]), np.full(noise.shape[-1], float(record.initial_std)), []
    for rows in noise:
        actions = [np.clip(mean + std * z, -1, 1) for z in rows]
        actions.sort(key=_value, reverse=True)
        seen += actions
        elites = actions[: record.elites]
        mean = sum(elites) / len(elites)
        std = np.maximum(np.sqrt(sum((a - mean) ** 2 for a in elites) / len(elites)), float(record.min_std))
    best = max([mean, *seen], key=_value)
    return best, _value(best)


def _cma_es_by_hand(record: CMAES, noise: Float[np.ndarray, "t n 1"]) -> tuple[np.ndarray, float]:
    """The tutorial's algorithm for one dimension, where C is a number; c_σ, d_σ and h_σ are pycma's there."""
    raw = [math.log((record.population + 1) / 2) - math.log(rank) for rank in range(1, record.population + 1)]
    gain, loss = (sum(max(sign * w, 0) for w in raw) for sign in (1, -1))
    mu = gain**2 / sum(max(w, 0) ** 2 for w in raw)
    mu_minus = loss**2 / sum(min(w, 0) ** 2 for w in raw)
    c_1 = min(1, record.population / 6) * 2 / (2.3**2 + mu)
    c_mu = min(1 - c_1, 2 * (mu + 1 / mu - 1.75) / (9 + mu))
    least = min(1 + c_1 / c_mu, 1 + 2 * mu_minus / (mu + 2), (1 - c_1 - c_mu) / c_mu)
    weights = [w / gain if w > 0 else least * w / loss for w in raw]
    c_c = (4 + mu) / (5 + 2 * mu)
    damping = 1.5 + 2 * max(0, math.sqrt((mu - 1) / 2) - 1)
    mean, sigma, C, step_path, path, seen = 0.0, float(record.initial_std), 1.0, 0.0, 0.0, []
    for t, rows in enumerate(noise[:, :, 0], 1):
        points = [mean + sigma * math.sqrt(C) * z for z in rows]
        points.sort(key=lambda x: _value(np.clip([x], -1, 1)), reverse=True)
        seen += points
        y = [(x - mean) / sigma for x in points]
        shift = sum(max(w, 0) * v for w, v in zip(weights, y, strict=True))
        step_path = 0.5 * step_path + math.sqrt(0.75 * mu) * shift / math.sqrt(C)
        h = step_path**2 / (1 - 0.25**t) < 4
        path = (1 - c_c) * path + h * math.sqrt(c_c * (2 - c_c) * mu) * shift
        # Where w < 0 its y is made as long as the ellipse, which leaves w C of it (1e-9 as pycma has it).
        lengths = [1 if w > 0 else abs(v) / math.sqrt(C) + 1e-9 for w, v in zip(weights, y, strict=True)]
        learnt = sum(w * (v / length) ** 2 for w, v, length in zip(weights, y, lengths, strict=True))
        kept = 1 - c_1 + (1 - h) * c_1 * c_c * (2 - c_c) - c_mu * sum(weights)
        C = kept * C + c_1 * path**2 + c_mu * learnt
        mean += sigma * shift
        sigma *= math.exp((abs(step_path) * math.sqrt(math.pi / 2) - 1) / 2 / damping)
    best = max(np.clip([[mean], *([x] for x in seen)], -1, 1), key=_value)
    return best, _value(best)


def _pycma(d: int, population: int) -> Any:
    """Pycma about 0.2, which never stops of itself.

    It adds mirrored samples where there are fewer than 6, which is always so in one dimension; the tutorial
    doesn't have them.
    """
    options = {"verbose": -9, "seed": d, "popsize": population, "CMA_active": True, "CMA_mirrors": 0}
    never = {"tolx": 0, "tolfun": 0, "tolfunhist": 0}
    cma: Any = needs("cma")
    return cma.CMAEvolutionStrategy(np.full(d, 0.2), 0.5, options | never)


def _constants_apart(d: int, population: int) -> float:
    """The largest relative distance of our constants from pycma's."""
    es, ours = _pycma(d, population), cma_constants(d, population)
    pairs = [
        (ours.mu, es.sp.weights.mu),
        (ours.mu_eff, es.sp.weights.mueff),
        (ours.c_sigma, es.adapt_sigma.cs),
        (ours.d_sigma, es.adapt_sigma.damps),
        (ours.c_c, es.sp.cc),
        (ours.c_1, es.sp.c1),
        (ours.c_mu, es.sp.cmu),
        (ours.gap, max(1, math.ceil(es.sm.lazy_update_gap))),
    ]
    weights = np.max(np.abs(np.array(ours.weights) - es.sp.weights))
    return max(float(weights), *(abs(a / b - 1) for a, b in pairs))


def _apart_from_pycma(f: Callable[[np.ndarray], float], d: int, population: int) -> float:
    """The largest relative distance of our state from pycma's, fed pycma's own points for up to 50 generations.

    Compared while the samples are spread by 1e-4 to 1e6 σ₀: below, x − m has few digits; from σ = 1e9 σ₀ on pycma
    moves half of it into C.
    """
    es = _pycma(d, population)
    constants = cma_constants(d, population)
    zero = jnp.asarray(np.zeros(d))
    # pycma's first covariance is not quite I: its entries differ by 1e-4, so that no two axes are as long.
    first = map(jnp.asarray, (es.sm.C, zero, zero, es.sm.B, es.sm.D, np.int32(0)))
    state = CMAState(jnp.asarray(es.mean), jnp.asarray(np.float64(es.sigma)), *first)
    worst, compared = 0.0, 0
    while compared < _GENERATIONS and 1e-4 < es.sigma * np.max(es.sm.D) / es.sigma0 < 1e6:
        points = np.array(es.ask())
        values = np.array([f(x) for x in points])
        es.tell(points, values)  # pycma minimises
        state = _follow(state, points, -values, constants=constants)
        pairs = [
            (state.mean, es.mean),
            (state.sigma, es.sigma),
            (state.covariance, es.sm.C),
            (state.covariance_path, es.pc),
            (state.step_path, es.adapt_sigma.ps),
        ]
        for ours, theirs in pairs:
            miss = np.max(np.abs(np.asarray(ours) - theirs)) / max(np.max(np.abs(theirs)), 1e-12)
            worst = max(worst, float(miss))
        compared += 1
    return worst if compared >= 10 else math.nan


@partial(jax.jit, static_argnames="constants", compiler_options=QUICK_TO_COMPILE)
def _follow(state: CMAState, points: Array, values: Array, *, constants: Any) -> CMAState:
    """Decompose where `ask` would, then tell."""
    return tell(ask(jax.random.key(0), state, constants)[0], points, values, constants)


@partial(jax.jit, static_argnames="d", compiler_options=QUICK_TO_COMPILE)
def _search(record: Maximiser, keys: Key[Array, "k"], d: int) -> Best:
    """The best of `_peak` for each key."""
    return jax.vmap(lambda key: record(key, _peak, d))(keys)


@partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
def _search_each(record: Maximiser, keys: Key[Array, "k"], which: Int[Array, "f"]) -> Best:
    """The best of `_peak`, of a monotone transform of it, of a half plane of NaN, and of a slope to the corner."""

    def one(number: Int[Array, ""], key: PRNGKeyArray) -> Best:
        def f(a: Float[Array, "d"]) -> Float[Array, ""]:
            half = jnp.where(a[0] > 0, jnp.nan, a[0])
            return jnp.stack([_peak(a), jnp.exp(_peak(a)) - 3, half, jnp.sum(a)])[number]

        return record(key, f, 2)

    return jax.vmap(lambda number: jax.vmap(lambda key: one(number, key))(keys))(which)


@proves(14, "CEM and CMA-ES are theirs; in bounds, by rank alone, NaN last", ("qsearch",), "NumPy, pycma")
def searches_are_the_published_ones(full: bool) -> list[Measured]:
    """CEM, and CMA-ES in one dimension, with the same random numbers; pycma's own points to our `tell`, active.

    20 dimensions with 4 samples are decomposed in every second generation, the others in each.
    """
    cem, cma_es = CEM(population=12, elites=4, iterations=4), CMAES(population=8, iterations=8, initial_std=0.8)
    keys = jax.random.split(jax.random.key(14), 200 if full else 20)

    def apart(record: CEM | CMAES, d: int, by_hand: Callable[..., tuple[np.ndarray, float]]) -> float:
        found, worst = jax.tree.map(np.asarray, _search(record, keys, d)), 0.0
        noise = np.asarray(_normal(keys, record.iterations, (record.population, d)))
        for rows, action, value in zip(noise, found.action, found.value, strict=True):
            best, best_value = by_hand(record, rows)
            worst = max(worst, float(np.max(np.abs(best - action))), abs(float(best_value - value)))
        return worst

    cem_apart = max(apart(cem, d, _cem_by_hand) for d in ((1, 2, 3) if full else (1, 3)))
    cma_es_apart = apart(cma_es, 1, _cma_es_by_hand)
    moved, outside, with_nan = [], [], []
    for record in (cem, cma_es, Sampling(40)):
        found = _search_each(record, keys, jnp.arange(4))
        every, monotone, half, edge = (jax.tree.map(lambda x, i=i: np.asarray(x)[i], found) for i in range(4))
        moved.append(float(np.max(np.abs(every.action - monotone.action))))
        outside.append(float(np.max(np.abs(edge.action))) - 1)
        with_nan.append(float(np.sum(np.isnan(half.value))))
    functions: dict[str, Callable[[np.ndarray], float]] = {
        "sphere": lambda x: float(np.sum(x**2)),
        "ridge": lambda x: float(x[0] + 100 * np.sqrt(np.sum(x[1:] ** 2))),
        "Rosenbrock": lambda x: float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2) + np.sum((1 - x) ** 2)),
    }
    sizes = [(1, 4), (2, 6), (5, 10), (20, 4)] + [(1, 10), (2, 4), (3, 7), (8, 10), (20, 12)] * full
    apart_from = {name: max(_apart_from_pycma(f, d, n) for d, n in sizes) for name, f in functions.items()}
    constants = max(_constants_apart(d, n) for d in (1, 2, 8, 50) for n in (4, 5, 9, 100))
    return [
        Measured("CEM against NumPy", cem_apart, 1e-12),
        Measured("CMA-ES against NumPy, one dimension", cma_es_apart, 1e-12),
        Measured("constants of CMA-ES against pycma", constants, 1e-12),
        Measured("moved by a monotone transform", max(moved), 0.0),
        Measured("out of bounds", max(max(outside), 0.0), 0.0),
        Measured("NaN taken for the best", max(with_nan), 0.0),
        *(Measured(f"CMA-ES against pycma, {name}", value, 1e-8) for name, value in apart_from.items()),
    ]
