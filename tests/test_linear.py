"""A layer: what it computes, every derivative of it, and how XLA is asked for its gradient."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import orthonormal

from ridgeline.encoders import MLP, Architecture
from ridgeline.linear import Linear, add_bias, narrow_product, product

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("n", "m"), [(7, 3), (3, 7), (5, 5), (6, 1)])
def test_weights_start_orthogonal_and_biases_at_0(n, m):
    layer = Linear.create(KEY, n, m, 0.3)
    orthonormal(layer.weight, 0.3)
    np.testing.assert_array_equal(layer.bias, np.zeros(m))


@pytest.mark.parametrize("width", [1, 2])
def test_linear_is_the_matrix_product(width):
    layer = Linear(jnp.asarray(RANDOM.normal(size=(9, width)), float), jnp.arange(1.0, width + 1))
    x = jnp.asarray(RANDOM.normal(size=9), float)
    value, gradient = jax.value_and_grad(lambda layer: jnp.sum(layer(x) ** 2))(layer)
    y = np.asarray(x, float) @ np.asarray(layer.weight, float) + np.asarray(layer.bias)
    assert value == pytest.approx(np.sum(y**2), rel=1e-5)
    np.testing.assert_allclose(gradient.weight, 2 * np.outer(x, y), rtol=1e-5)
    np.testing.assert_allclose(gradient.bias, 2 * y, rtol=1e-5)


@pytest.mark.parametrize("multiply", [product, narrow_product])
def test_every_derivative_of_a_product_is_its_own(multiply):
    x, w = (jnp.asarray(RANDOM.normal(size=s), float) for s in ((6, 5, 3), (3, 4)))
    dx, dw = (jnp.asarray(RANDOM.normal(size=a.shape), float) for a in (x, w))

    def of_batch(x, w):
        return jnp.sum(jax.vmap(jax.vmap(multiply, (0, None)), (0, None))(x, w) ** 3)

    def plain(x, w):
        return jnp.sum((x @ w) ** 3)

    def slope(f):
        return lambda x, w: sum(jnp.sum(g**2) for g in jax.grad(f, (0, 1))(x, w))

    for f, g in ((of_batch, plain), (slope(of_batch), slope(plain))):
        for by in (0, 1, (0, 1)):
            for found, wanted in zip(
                jax.tree.leaves(jax.grad(f, by)(x, w)), jax.tree.leaves(jax.grad(g, by)(x, w)), strict=True
            ):
                np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-3 * np.abs(wanted).max())
        for tangents in ((dx, dw), (dx, 0 * dw), (0 * dx, dw)):
            found, wanted = (jax.jvp(each, (x, w), tangents)[1] for each in (f, g))
            np.testing.assert_allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("width", [64, 2])
def test_a_gradient_by_weights_is_a_product_that_reads_rows(width):
    """XLA leaves xᵀδ with x by rows to a library that takes half as long again, and δᵀx with δ by rows as well."""
    mlp = MLP.create(KEY, 8, Architecture((64, width), "relu"))

    def loss(mlp, x):
        return jnp.mean(jax.vmap(mlp)(x) ** 2)

    def compiled(f):
        program = jax.jit(f).lower(mlp, jnp.ones((256, 8))).compile().as_text()
        return [line for line in program.splitlines() if " dot(" in line]

    assert len(compiled(loss)) == 2
    products = compiled(jax.grad(loss))
    by_bias = [line for line in products if re.search(r"= f32\[\d+,1\]", line)]
    others = [line for line in products if line not in by_bias]
    assert len(by_bias) == 2  # with ones, in whose order nothing matters
    assert len(others) == 5  # none is by x, which wants no gradient
    assert not [line for line in others if "lhs_contracting_dims={0}" in line]


def test_a_bias_has_the_derivatives_of_a_sum():
    """By y and by b, a batch at a time and several batches at once."""
    y, dy = (jnp.asarray(RANDOM.normal(size=(2, 5, 3)), float) for _ in range(2))
    b, db = (jnp.asarray(RANDOM.normal(size=3), float) for _ in range(2))

    def ours(y, b):
        return jnp.sum(jax.vmap(jax.vmap(add_bias, (0, None)), (0, None))(y, b) ** 3)

    def plain(y, b):
        return jnp.sum((y + b[None, None]) ** 3)

    for by in (0, 1):
        np.testing.assert_allclose(jax.grad(ours, by)(y, b), jax.grad(plain, by)(y, b), rtol=1e-5)
        second = [jax.jacfwd(jax.grad(f, by), by)(y, b) for f in (ours, plain)]
        np.testing.assert_allclose(*second, rtol=1e-5, atol=1e-5)
    for tangents in ((dy, db), (dy, 0 * db), (0 * dy, db)):
        found, wanted = (jax.jvp(f, (y, b), tangents)[1] for f in (ours, plain))
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(jax.grad(lambda b: jnp.sum(add_bias(y[0, 0], b) ** 2))(b), 2 * (y[0, 0] + b))
