"""Running statistics (property 21)."""

import jax
import jax.numpy as jnp
import numpy as np

from ridgeline.normalisation import Normaliser, ObservationNormaliser, Total
from ridgeline.theory.property import EVERY, Measured, proves
from ridgeline.types import ArraySpec

_BATCHES, _ROWS = 50, 64


def _both_words(total: Total) -> np.ndarray:
    """A total in float64, which holds both of its words."""
    return np.asarray(np.asarray(total.high, float) + np.asarray(total.low, float))


@jax.jit
@jax.vmap
def _fold_all(batches: jax.Array) -> Normaliser:
    start = Normaliser.create(batches.shape[2:])
    return jax.lax.scan(lambda n, batch: (n.fold(batch), None), start, batches)[0]


@jax.jit
def _count_on(total: Total, more: jax.Array) -> Total:
    return jax.lax.fori_loop(0, more, lambda _, t: t.add(jnp.ones(())), total)


@jax.jit
def _single_samples(normaliser: Normaliser, x: jax.Array, more: jax.Array) -> Normaliser:
    return jax.lax.fori_loop(0, more, lambda _, n: n.fold(x[None]), normaliser)


@proves(21, "the normaliser is the mean and variance of all data, past 2²⁴ samples", EVERY, "NumPy float64")
def statistics_are_those_of_all_data(full: bool) -> list[Measured]:
    """In float32, against float64 over all the data at once; errors relative to one rounding of the data."""
    random = np.random.default_rng(21)
    count = 400 if full else 40
    offset = random.choice([0, 1, -300, 1e5], count)[:, None, None, None]
    spread = 10.0 ** random.uniform(-3, 3, count)[:, None, None, None]
    data = (offset + spread * random.normal(size=(count, _BATCHES, _ROWS, 2))).astype(np.float32)
    with jax.enable_x64(False):
        folded = _fold_all(data)
        counted = _count_on(Total(jnp.float32(2**24), jnp.float32(0)), jnp.int32(100_000))
        start = (jnp.float32(2**24), jnp.ones(1), jnp.ones(1))
        normaliser = Normaliser(*(Total(x, jnp.zeros_like(x)) for x in start))
        moved = _single_samples(normaliser, jnp.full(1, 1.5), jnp.int32(20_000))
        reader = ObservationNormaliser.create(ArraySpec((2,))).fold(jnp.asarray(data[0]))
        read = np.asarray(jax.vmap(jax.vmap(reader))(data[0]), float)
        beyond = float(jnp.max(jnp.abs(reader(jnp.full(2, 1e30)) - 10)))
    exact = data.reshape(count, -1, 2).astype(float)
    scale = np.abs(offset[:, 0, 0]) + spread[:, 0, 0]
    mean, variance = exact.mean(1), exact.var(1)
    rounding = 6e-8 * scale
    allowed = 2e-5 * variance + 5 * rounding * (rounding + spread[:, 0, 0])
    share = 20_000 / (2**24 + 20_000)
    expected = np.clip((exact[0] - mean[0]) / np.sqrt(variance[0] + 1e-8), -10, 10).reshape(read.shape)
    return [
        Measured("count", float(np.max(np.abs(_both_words(folded.count) - _BATCHES * _ROWS))), 0.0),
        Measured("mean / rounding", float(np.max(np.abs(_both_words(folded.mean) - mean) / rounding)), 5.0),
        Measured(
            "variance / rounding", float(np.max(np.abs(_both_words(folded.variance) - variance) / allowed)), 1.0
        ),
        Measured("count past 2²⁴", float(abs(_both_words(counted) - 2**24 - 100_000)), 0.0),
        Measured("mean past 2²⁴", float(abs(_both_words(moved.mean)[0] - 1 - share * 0.5)), 1e-8),
        Measured("what a policy reads", float(np.max(np.abs(read - expected))), 1e-3),
        Measured("clip at 10", beyond, 0.0),
    ]
