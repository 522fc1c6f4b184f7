"""Whole numbers at random: in range, as likely as they should be, shuffled well."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ridgeline.draws import below, shuffled, uniform_below


@pytest.mark.parametrize("n", [1, 2, 3, 1_000, 65_535, 65_536, 65_537, 10**7, 2**31 - 1, 2**32 - 1])
def test_a_word_becomes_its_share_of_n(n):
    """Beside whole numbers of any size."""
    edges = [0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1]
    words = np.concatenate([edges, np.random.default_rng(0).integers(0, 2**32, 1_000)]).astype(np.uint32)
    expected = [int(w) * n >> 32 for w in words]
    np.testing.assert_array_equal(below(jnp.asarray(words), jnp.uint32(n)), expected)


def test_each_number_is_as_likely():
    found = uniform_below(jax.random.key(0), 100_000, jnp.int32(7))
    assert found.dtype == jnp.int32
    assert scipy.stats.chisquare(np.bincount(found, minlength=7)).pvalue > 1e-3


@pytest.mark.parametrize("count", [1, 2, 3, 12, 1_000, 4_096])
def test_a_shuffle_holds_every_number_once(count):
    for seed in range(5):
        np.testing.assert_array_equal(np.sort(shuffled(jax.random.key(seed), count)), np.arange(count))


@pytest.mark.parametrize(("count", "orders"), [(2, 2), (3, 6), (4, 24), (5, 120)])
def test_every_order_is_as_likely(count, orders):
    keys = jax.random.split(jax.random.key(0), 1_000 * orders)
    found = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, count)))(keys))
    observed = np.unique(found, axis=0, return_counts=True)[1]
    assert len(observed) == orders
    assert scipy.stats.chisquare(observed).pvalue > 1e-3


def test_neighbours_do_not_stay_together():
    """Of n − 1 pairs of neighbours 2 (n − 1)/n are so again, in the mean; a minibatch holds its share of pairs."""
    keys = jax.random.split(jax.random.key(1), 400)
    found = np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, 1_024)))(keys))
    again = np.sum(np.abs(np.diff(found)) == 1, 1)
    assert np.mean(again) == pytest.approx(2, abs=5 * np.sqrt(2 / 400))
    for apart in (1, 2, 4, 512):  # rows of one environment, or of one moment
        place = np.argsort(found, 1) // 64
        together = np.mean(place[:, apart:] == place[:, :-apart])
        assert together == pytest.approx(63 / 1_023, abs=0.003)
