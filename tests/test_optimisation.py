"""Gradient steps against Optax, and target copies."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ridgeline.optimisation import descend, optimiser_state, polyak, regression_loss

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


def test_the_guard_of_the_norm_is_as_large_as_it_is():
    """‖g‖ = c = 1e-6: g · c/(‖g‖ + 1e-6) is half of g."""
    start, gradient = {"w": jnp.zeros(2)}, {"w": jnp.asarray([0.6e-6, 0.8e-6])}
    moved, _, _ = descend("sgd", start, gradient, optimiser_state("sgd", start), 1.0, 1e-6)
    np.testing.assert_allclose(moved["w"], [-0.3e-6, -0.4e-6], rtol=1e-5)


def test_regression_losses_by_hand():
    error = jnp.asarray([-3.0, -0.4, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(regression_loss(error), [4.5, 0.08, 0, 0.5, 2], rtol=1e-6)
    np.testing.assert_allclose(regression_loss(error, True), [2.5, 0.08, 0, 0.5, 1.5], rtol=1e-6)


@optimisers
def test_a_zero_gradient_or_rate_changes_nothing(name):
    state = optimiser_state(name, PARAMS)
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    assert_close(descend(name, PARAMS, zero, state, 0.1, 1.0)[0], PARAMS, rtol=0)
    assert_close(descend(name, PARAMS, gradient_of(PARAMS), state, 0.0, 1.0)[0], PARAMS, rtol=0)


def test_the_norm_is_global_and_direction_is_kept():
    """Clipping element by element would turn the gradient."""
    gradient = {"w": jnp.asarray([[30.0, 0.0], [0.0, 0.0]]), "b": jnp.asarray([0.0, 40.0])}
    step, _, norm = descend("sgd", jax.tree.map(jnp.zeros_like, PARAMS), gradient, (), 1.0, 5.0)
    assert norm == 50
    assert_close(step, jax.tree.map(lambda g: -g / 10, gradient), rtol=1e-6)


def test_a_small_gradient_is_not_scaled_up():
    gradient = jax.tree.map(lambda x: 1e-3 * x, PARAMS)
    step, _, _ = descend("sgd", jax.tree.map(jnp.zeros_like, PARAMS), gradient, (), 1.0, 5.0)
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


@optimisers
@pytest.mark.parametrize("bad", [1.0, np.nan, np.inf])
def test_a_step_that_is_not_taken_changes_nothing(name, bad):
    """The first of all, and one between others; whatever its gradient is."""
    state = optimiser_state(name, PARAMS)
    for _ in range(2):
        still, kept, _ = descend(name, PARAMS, gradient_of(PARAMS, bad), state, 0.1, 1.0, jnp.array(False))
        assert_close((still, kept), (PARAMS, state), rtol=0)
        _, state, _ = descend(name, PARAMS, gradient_of(PARAMS), state, 0.1, 1.0, jnp.array(True))


def test_more_steps_than_can_be_counted_are_steps_like_any():
    moments = dataclasses.replace(optimiser_state("adam", PARAMS), count=jnp.int32(2**31 - 3))
    for _ in range(4):
        _, moments, _ = descend("adam", PARAMS, gradient_of(PARAMS), moments, 0.1, 1.0)
        assert moments.count >= 2**31 - 2
    assert moments.count == 2**31 - 1
