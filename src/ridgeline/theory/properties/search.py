"""Searches for argmaxₐ f(a): CEM against loops in NumPy, CMA-ES against pycma (property 14)."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ridgeline.maximisers import CEM, CMAES, CMAState, Sampling, ask, cma_constants, decompose, tell
from ridgeline.theory.property import Measured, needs, proves

_GENERATIONS = 50


def _peak(a: Float[Array, "d"]) -> Float[Array, ""]:
    """One peak off the middle, with unequal curvatures."""
    return -jnp.sum((jnp.arange(a.size) + 1) * (a - 0.3) ** 2)


def _cem_by_hand(record: CEM, key: PRNGKeyArray, d: int) -> tuple[np.ndarray, float]:
    """The best of all samples and the last mean, with the same normal numbers."""

    def value(a: np.ndarray) -> float:
        return -sum((i + 1) * (x - 0.3) ** 2 for i, x in enumerate(a))

    mean, std, seen = np.zeros(d), np.full(d, float(record.initial_std)), []
    for k in jax.random.split(key, record.iterations):
        z = np.asarray(jax.random.normal(k, (record.population, d), float))
        actions = [np.clip(mean + std * row, -1, 1) for row in z]
        actions.sort(key=value, reverse=True)
        seen += actions
        elites = actions[: record.elites]
        mean = sum(elites) / len(elites)
        std = np.maximum(np.sqrt(sum((a - mean) ** 2 for a in elites) / len(elites)), float(record.min_std))
    best = max([mean, *seen], key=value)
    return best, value(best)


def _apart_from_pycma(f: Callable[[np.ndarray], float], d: int, seed: int) -> float:
    """The largest relative distance of our state from pycma's, fed pycma's own points for 50 generations."""
    cma: Any = needs("cma")
    options = {"verbose": -9, "seed": seed + 1, "CMA_active": True, "tolx": 0, "tolfun": 0, "tolfunhist": 0}
    es = cma.CMAEvolutionStrategy(np.full(d, 0.2), 0.5, options)
    constants = cma_constants(d, es.popsize)
    state = CMAState.create(jnp.full(d, 0.2), jnp.asarray(0.5))
    # pycma's first covariance is not quite I: its entries differ by 1e-4, so that no two axes are as long.
    first = decompose(dataclasses.replace(state, covariance=jnp.asarray(es.sm.C)))
    state = dataclasses.replace(first, axes=jnp.asarray(es.sm.B), lengths=jnp.asarray(es.sm.D))
    worst = 0.0
    for _ in range(_GENERATIONS):
        points = np.array(es.ask())
        values = [f(x) for x in points]
        es.tell(points, values)  # pycma minimises
        state = _follow(state, jnp.asarray(points), -jnp.asarray(values), constants=constants)
        pairs = [
            (state.mean, es.mean),
            (state.sigma, es.sigma),
            (state.covariance, es.sm.C),
            (state.covariance_path, es.pc),
            (state.step_path, es.adapt_sigma.ps),
        ]
        for ours, theirs in pairs:
            theirs = np.asarray(theirs)
            worst = max(worst, float(np.max(np.abs(ours - theirs)) / max(np.max(np.abs(theirs)), 1e-12)))
    return worst


@partial(jax.jit, static_argnames="constants")
def _follow(state: CMAState, points: Array, values: Array, *, constants: Any) -> CMAState:
    """Decompose where `ask` would, then tell."""
    return tell(ask(jax.random.key(0), state, constants)[0], points, values, constants)


@proves(14, "CEM and CMA-ES are theirs; in bounds, by rank alone, NaN last", ("qsearch",), "NumPy, pycma")
def searches_are_the_published_ones(full: bool) -> list[Measured]:
    """CEM with the same random numbers; pycma's own points to our `tell`, active, with lazy decomposition."""
    cem = CEM(population=12, elites=4, iterations=4)
    records = (cem, CMAES(population=8, iterations=6), Sampling(40))
    keys = jax.random.split(jax.random.key(14), 200 if full else 20)
    same, moved, outside, with_nan = [], [], [], []
    for d in (1, 2, 3):
        found = [cem(key, _peak, d) for key in keys[:3]]
        for key, best in zip(keys, found, strict=False):
            action, value = _cem_by_hand(cem, key, d)
            same += [np.max(np.abs(best.action - action)), abs(float(best.value) - value)]
    for record in records:
        every = jax.jit(jax.vmap(lambda key, record=record: record(key, _peak, 2).action))(keys)
        monotone = jax.jit(
            jax.vmap(lambda key, record=record: record(key, lambda a: jnp.exp(_peak(a)) - 3, 2).action)
        )(keys)
        half = jax.jit(
            jax.vmap(lambda key, record=record: record(key, lambda a: jnp.where(a[0] > 0, jnp.nan, a[0]), 2))
        )(keys)
        edge = jax.jit(jax.vmap(lambda key, record=record: record(key, lambda a: jnp.sum(a), 2).action))(keys)
        moved.append(float(jnp.max(jnp.abs(every - monotone))))
        outside.append(float(jnp.max(jnp.abs(edge))) - 1)
        with_nan.append(float(jnp.sum(jnp.isnan(half.value))))
    functions: dict[str, Callable[[np.ndarray], float]] = {
        "sphere": lambda x: float(np.sum(x**2)),
        "ridge": lambda x: float(x[0] + 100 * np.sqrt(np.sum(x[1:] ** 2))),
        "Rosenbrock": lambda x: float(np.sum(100 * (x[1:] - x[:-1] ** 2) ** 2) + np.sum((1 - x) ** 2)),
    }
    dimensions = (2, 3, 5, 8) if full else (2, 5)
    apart = {name: max(_apart_from_pycma(f, d, d) for d in dimensions) for name, f in functions.items()}
    return [
        Measured("CEM against NumPy", float(max(same)), 1e-12),
        Measured("moved by a monotone transform", max(moved), 0.0),
        Measured("out of bounds", max(max(outside), 0.0), 0.0),
        Measured("NaN taken for the best", max(with_nan), 0.0),
        *(Measured(f"CMA-ES against pycma, {name}", value, 1e-8) for name, value in apart.items()),
    ]
