"""Gradient steps against Optax, target copies, and passes over minibatches."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from ridgeline.minibatches import epochs
from ridgeline.optimisation import descend, optimiser_state, polyak

PARAMS = {"w": jnp.asarray([[1.0, -2.0], [0.5, 3.0]]), "b": jnp.asarray([0.1, -0.2])}
REFERENCES = {"adam": lambda rate: optax.adam(rate, eps=1e-5), "sgd": optax.sgd}
optimisers = pytest.mark.parametrize("name", REFERENCES)


def gradient_of(params, scale=1.0):
    """Of Σ scale · x⁴/4."""
    return jax.tree.map(lambda x: scale * x**3, params)


def assert_close(actual, expected, rtol):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol), actual, expected)


@optimisers
@pytest.mark.parametrize("max_norm", [0.5, 1e9], ids=["clipped", "free"])
def test_descend_is_optaxs_chain(name, max_norm):
    """Ours divides by ‖g‖ + 1e-6 where Optax divides by ‖g‖; ε of Adam is 1e-5."""
    chain = optax.chain(optax.clip_by_global_norm(max_norm), REFERENCES[name](0.01))
    ours, state = PARAMS, optimiser_state(name, PARAMS)
    theirs, their_state = PARAMS, chain.init(PARAMS)
    for scale in (1.0, 0.1, 3.0, 0.01):
        gradient = gradient_of(ours, scale)
        ours, state, norm = descend(name, ours, gradient, state, 0.01, max_norm)
        assert norm == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-6)
        updates, their_state = chain.update(gradient_of(theirs, scale), their_state)
        theirs = optax.apply_updates(theirs, updates)
    assert_close(ours, theirs, rtol=1e-5)


@optimisers
def test_a_zero_gradient_or_rate_changes_nothing(name):
    state = optimiser_state(name, PARAMS)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    assert_close(descend(name, PARAMS, zero, state, 0.1, 1.0)[0], PARAMS, rtol=0)
    assert_close(descend(name, PARAMS, gradient_of(PARAMS), state, 0.0, 1.0)[0], PARAMS, rtol=0)


def test_the_norm_is_global_and_direction_is_kept():
    """Clipping element by element would turn the gradient."""
    gradient = {"w": jnp.asarray([[30.0, 0.0], [0.0, 0.0]]), "b": jnp.asarray([0.0, 40.0])}
    step, _, norm = descend("sgd", jax.tree.map(jnp.zeros_like, PARAMS), gradient, optax.EmptyState(), 1.0, 5.0)
    assert norm == 50
    assert_close(step, jax.tree.map(lambda g: -g / 10, gradient), rtol=1e-6)


def test_a_small_gradient_is_not_scaled_up():
    gradient = jax.tree.map(lambda x: 1e-3 * x, PARAMS)
    step, _, _ = descend("sgd", jax.tree.map(jnp.zeros_like, PARAMS), gradient, optax.EmptyState(), 1.0, 5.0)
    assert_close(step, jax.tree.map(jnp.negative, gradient), rtol=0)


@pytest.mark.parametrize("tau", [0.0, 0.005, 0.5])
def test_polyak_moves_by_tau(tau):
    target, params = jnp.asarray([1.0, 2.0, -3.0]), jnp.asarray([2.0, 0.0, 5.0])
    expected = tau * params + (1 - tau) * target
    np.testing.assert_allclose(polyak({"x": target}, {"x": params}, tau)["x"], expected, rtol=1e-6)


def test_polyak_with_tau_1_copies_bit_for_bit():
    """old + 1 · (new − old) would not: 1e8 swallows what is new."""
    target, params = jnp.asarray([1e8, -1e8, 3.0]), jnp.asarray([0.1, 1 / 3, jnp.pi])
    np.testing.assert_array_equal(jax.jit(polyak)(target, params, jnp.asarray(1.0)), params)


ROWS, BATCH = 12, 3
DATA = {"row": jnp.arange(ROWS), "vector": 10.0 * jnp.arange(ROWS)[:, None]}


def note(learner, batch):
    """Counts its calls and gives back what it was shown."""
    return learner + 1, (learner, batch)


def passes(seed: int, count: int):
    """The learner after `count` epochs, and its outputs."""
    return epochs(jax.random.key(seed), note, jnp.zeros((), jnp.int32), DATA, count, BATCH)


def test_every_epoch_visits_every_row_once():
    _, (_, shown) = passes(0, 5)
    assert shown["row"].shape == (5, ROWS // BATCH, BATCH)
    for epoch in np.asarray(shown["row"]):
        np.testing.assert_array_equal(np.sort(epoch, axis=None), np.arange(ROWS))


def test_the_learner_goes_through_every_minibatch_in_turn():
    learner, (before, _) = passes(0, 5)
    assert learner == 5 * ROWS // BATCH
    np.testing.assert_array_equal(before, np.arange(learner).reshape(5, -1))


def test_the_parts_of_a_row_stay_together():
    _, (_, shown) = passes(0, 2)
    np.testing.assert_array_equal(shown["vector"][..., 0], 10 * shown["row"])


def test_the_order_is_fresh_for_each_epoch_and_each_key():
    orders = np.concatenate([np.asarray(passes(seed, 3)[1][1]["row"]).reshape(3, ROWS) for seed in (0, 1)])
    assert len(np.unique(orders, axis=0)) == 6
    np.testing.assert_array_equal(orders[:3], passes(0, 3)[1][1]["row"].reshape(3, ROWS))


def test_every_row_is_as_likely_in_every_place():
    shown = np.asarray(passes(2, 3_000)[1][1]["row"]).reshape(-1, ROWS)
    for place in shown.T:
        assert scipy.stats.chisquare(np.bincount(place, minlength=ROWS)).pvalue > 1e-4


def test_one_minibatch_may_hold_every_row():
    _, (_, shown) = epochs(jax.random.key(0), note, jnp.zeros((), jnp.int32), DATA, 2, ROWS)
    assert shown["row"].shape == (2, 1, ROWS)
