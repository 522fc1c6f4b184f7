"""Priorities against a plain list of masses: draws in proportion, sums that are the cells', weights by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from ridgeline.priorities import Priorities, importance, locate

put = jax.jit(Priorities.put)
put_new = jax.jit(Priorities.put_new)
draw = jax.jit(Priorities.draw, static_argnums=2)
SIZES = [1, 2, 3, 4, 5, 6, 7, 10, 50]
every_size = pytest.mark.parametrize("size", SIZES)


def some_masses(size: int) -> np.ndarray:
    """Masses of very different size, a third of them 0, but never all."""
    random = np.random.default_rng(size)
    mass = 10.0 ** random.uniform(-1, 1, size) * (random.random(size) > 1 / 3)
    mass[random.integers(size)] = 1.0
    return mass.astype(np.float32)


def held(mass: np.ndarray) -> Priorities:
    return put(Priorities.create(len(mass)), jnp.arange(len(mass)), jnp.asarray(mass))


def cells_of(priorities: Priorities, size: int) -> np.ndarray:
    return np.asarray(priorities.mass).reshape(-1)[:size]


@every_size
def test_draws_are_in_proportion_to_the_masses(size):
    mass, count = some_masses(size), 64
    keys = jax.random.split(jax.random.key(0), 400)
    cells, probability = jax.vmap(lambda key: draw(held(mass), key, count))(keys)
    expected = mass.astype(float) / mass.astype(float).sum()
    np.testing.assert_allclose(probability, expected[np.asarray(cells)], rtol=1e-5)
    observed = np.bincount(np.asarray(cells).ravel(), minlength=size)
    there = expected > 0
    assert observed[~there].sum() == 0
    if there.sum() > 1:  # draws from equal parts of the mass vary less than independent ones
        total = observed.sum()
        assert scipy.stats.chisquare(observed[there], expected[there] * total).pvalue > 1e-3


def test_a_minibatch_of_one_is_in_proportion_too():
    """Where there is one part only, draws are independent, and chi-square holds in both directions."""
    mass = some_masses(50)
    keys = jax.random.split(jax.random.key(1), 20_000)
    cells, _ = jax.vmap(lambda key: draw(held(mass), key, 1))(keys)
    expected = mass[mass > 0].astype(float)
    observed = np.bincount(np.asarray(cells).ravel(), minlength=50)[mass > 0]
    assert 1e-3 < scipy.stats.chisquare(observed, expected / expected.sum() * 20_000).pvalue < 1 - 1e-3


def test_each_of_equal_parts_of_the_mass_is_drawn_from_once():
    """With `count` equal masses each cell is drawn exactly once."""
    cells, _ = draw(held(np.full(9, 0.3, np.float32)), jax.random.key(0), 9)
    np.testing.assert_array_equal(np.sort(cells), np.arange(9))


@pytest.mark.parametrize("at", [0.0, 0.999, 1.0, 2.999, 3.0, 3.5, 6.999, 7.0, 7.5, 1e9])
def test_locate_walks_along_the_masses(at):
    """Entries without mass, at the ends and between, are never where anything falls."""
    mass = np.array([0, 1, 0, 2, 0.5, 0, 3.5, 0, 0], np.float32)
    found, rest = locate(jnp.asarray(mass), jnp.asarray(at, jnp.float32))
    expected = next((i for i in range(9) if mass[: i + 1].sum() > at), 6)
    assert found == expected
    assert rest == pytest.approx(at - mass[:expected].sum())


def test_rounding_never_yields_an_entry_without_mass():
    """Sums of unlike sizes round; 0 entries within and at the end, places up to and at the total."""
    random = np.random.default_rng(0)
    for _ in range(20):
        mass = (10.0 ** random.uniform(-6, 2, 317) * (random.random(317) > 0.5)).astype(np.float32)
        mass[-20:] = 0
        total = np.float32(np.sum(mass))
        at = np.concatenate([np.cumsum(mass), [np.nextafter(total, 0), total, np.nextafter(total, np.inf)]])
        found, _ = jax.vmap(locate, (None, 0))(jnp.asarray(mass), jnp.asarray(at, jnp.float32))
        assert (mass[np.asarray(found)] > 0).all()


@every_size
def test_sums_are_those_of_the_cells_after_many_changes(size):
    """Bit for bit what they are when made at once: they cannot drift, even where masses of 1e12 come and go."""
    random = np.random.default_rng(size)
    priorities, mass = Priorities.create(size), np.zeros(size, np.float32)
    for _ in range(100):
        index = random.integers(size, size=3)
        new = (10.0 ** random.uniform(-6, 12, 3)).astype(np.float32)
        new = np.array([new[np.flatnonzero(index == i)[0]] for i in index])  # duplicates agree, as TD errors do
        priorities, mass[index] = put(priorities, jnp.asarray(index), jnp.asarray(new)), new
    np.testing.assert_array_equal(cells_of(priorities, size), mass)
    np.testing.assert_array_equal(priorities.sums, jnp.sum(priorities.mass, 1))
    assert not np.asarray(priorities.mass).reshape(-1)[size:].any()


def test_duplicates_that_disagree_leave_the_sums_true():
    priorities = put(held(np.ones(5, np.float32)), jnp.array([2, 2, 2]), jnp.array([5.0, 6.0, 7.0]))
    assert cells_of(priorities, 5)[2] in (5.0, 6.0, 7.0)
    np.testing.assert_array_equal(priorities.sums, jnp.sum(priorities.mass, 1))
    assert priorities.largest == 7


def test_new_cells_get_the_largest_mass_so_far():
    priorities = put_new(Priorities.create(6), jnp.array([0, 1]))
    np.testing.assert_array_equal(cells_of(priorities, 6), [1, 1, 0, 0, 0, 0])
    priorities = put(priorities, jnp.array([0]), jnp.array([0.25]))
    priorities = put_new(priorities, jnp.array([2]))  # none above 1 has been seen
    priorities = put(priorities, jnp.array([1]), jnp.array([9.0]))
    priorities = put(priorities, jnp.array([1]), jnp.array([2.0]))
    priorities = put_new(priorities, jnp.array([3, 4]))  # 9 has been, and is gone
    np.testing.assert_array_equal(cells_of(priorities, 6), [0.25, 2, 1, 9, 9, 0])


def test_weights_are_a_hand_calculation():
    """n = 4, P = ½, ¼, ⅛: n P = 2, 1, ½; to the power −½: 0.7071, 1, 1.4142; over the largest."""
    weight = importance(jnp.array([0.5, 0.25, 0.125]), jnp.array(4), 0.5)
    np.testing.assert_allclose(weight, [0.5, 2**-0.5, 1], rtol=1e-6)
    np.testing.assert_array_equal(importance(jnp.array([0.5, 0.1]), jnp.array(4), 0.0), [1, 1])


def test_weights_with_an_exponent_of_one_undo_the_chances():
    """Σᵢ P(i) w(i) x(i) is the plain mean of x, up to the common factor."""
    mass = some_masses(10)[some_masses(10) > 0]
    chance = mass / mass.sum()
    weighted = chance * np.asarray(importance(jnp.asarray(chance), jnp.array(len(mass)), 1.0))
    np.testing.assert_allclose(weighted / weighted.sum(), np.full(len(mass), 1 / len(mass)), rtol=1e-5)
