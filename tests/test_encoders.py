"""Encoders: which network each observation gets, and what it computes."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import orthonormal

from ridgeline.encoders import CNN, MLP, Architecture, Encoder, build_encoder
from ridgeline.types import ACTION_MASK, ArraySpec, example_obs

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
VECTOR = ArraySpec((3,))
CATEGORY = ArraySpec((), "int32", (4,))
CATEGORIES = ArraySpec((2,), "int32", (3, 5))
SMALL_IMAGE = ArraySpec((5, 5, 2), "uint8")
IMAGE = ArraySpec((36, 44, 2), "uint8")
MASK = ArraySpec((2,), "bool")
DICT = (("gear", CATEGORY), ("speed", VECTOR))
CAMERA = (("camera", IMAGE), ("speed", VECTOR))


def plain(spec):
    """An encoder with no layers behind the features, so that they can be seen."""
    return Encoder.create(KEY, spec, Architecture(()))


def image(*shape: int) -> jax.Array:
    return jnp.asarray(RANDOM.integers(0, 256, shape), jnp.uint8)


def slow_convolution(x, kernel, stride):
    """Σ over each patch, filter by filter: a cross-correlation without padding."""
    side = kernel.shape[0]
    patches = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(0, 1))[::stride, ::stride]
    return np.einsum("hwcij,ijco->hwo", patches, kernel, optimize=True)


def slow_cnn(cnn, x):
    """DQN's network in float64."""
    x = np.asarray(x, float) / 255
    for kernel, bias, stride in zip(cnn.kernels, cnn.biases, (4, 2, 1), strict=True):
        x = np.maximum(slow_convolution(x, np.asarray(kernel, float), stride) + np.asarray(bias), 0)
    return np.maximum(x.reshape(-1) @ np.asarray(cnn.dense.weight, float) + np.asarray(cnn.dense.bias), 0)


@pytest.fixture(scope="module")
def cnn() -> CNN:
    """One for `IMAGE`, with biases that are not zero."""
    drawn = CNN.create(KEY, IMAGE.shape)
    biases = tuple(jnp.asarray(0.1 * RANDOM.normal(size=b.shape), float) for b in drawn.biases)
    return dataclasses.replace(drawn, biases=biases)


@pytest.mark.parametrize(
    ("spec", "obs", "features"),
    [
        (VECTOR, [1.0, -2.0, 3.0], [1, -2, 3]),
        (ArraySpec((2, 2)), [[1.0, 2.0], [3.0, 4.0]], [1, 2, 3, 4]),
        (CATEGORY, 2, [0, 0, 1, 0]),
        (CATEGORIES, [1, 4], [0, 1, 0, 0, 0, 0, 0, 1]),
        (ArraySpec((2,), "int32"), [7, -1], [7, -1]),
        (ArraySpec((2,), "uint8"), [255, 51], [1, 0.2]),
        (MASK, [True, False], [1, 0]),
    ],
    ids=["vector", "matrix", "category", "categories", "integers", "bytes", "flags"],
)
def test_the_features_of_one_array(spec, obs, features):
    np.testing.assert_allclose(plain(spec)(jnp.asarray(obs, spec.dtype)), features, rtol=1e-6)


def test_a_dictionary_is_joined_in_the_order_of_its_spec():
    obs = {"speed": jnp.asarray([7.0, 8.0, 9.0]), "gear": jnp.asarray(1, jnp.int32)}
    np.testing.assert_array_equal(plain(DICT)(obs), [0, 1, 0, 0, 7, 8, 9])


def test_the_action_mask_is_no_feature():
    obs = {"speed": jnp.asarray([7.0, 8.0, 9.0]), ACTION_MASK: jnp.asarray([True, False])}
    np.testing.assert_array_equal(plain(((ACTION_MASK, MASK), ("speed", VECTOR)))(obs), [7, 8, 9])


def test_an_image_beside_other_arrays_goes_through_its_own_cnn():
    encoder = plain(CAMERA)
    obs = {"camera": image(*IMAGE.shape), "speed": jnp.asarray([7.0, 8.0, 9.0])}
    features = encoder(obs)
    np.testing.assert_array_equal(features[:512], encoder.images["camera"](obs["camera"]))
    np.testing.assert_array_equal(features[512:], obs["speed"])


def test_two_images_get_two_networks():
    encoder = plain((("left", IMAGE), ("right", IMAGE)))
    assert not np.array_equal(encoder.images["left"].dense.weight, encoder.images["right"].dense.weight)


@pytest.mark.parametrize(
    ("spec", "convolved"),
    [
        (IMAGE, True),
        (ArraySpec((4, 36, 36), "uint8"), True),
        (ArraySpec((36, 36, 3), "uint8"), True),
        (ArraySpec((35, 36, 3), "uint8"), False),
        (SMALL_IMAGE, False),
        (ArraySpec((36, 36), "uint8"), False),
        (ArraySpec((36, 36, 3), "float32"), False),
    ],
)
def test_large_images_of_bytes_alone_are_convolved(spec, convolved):
    """Smaller ones leave the last kernel no room; they are flattened like any array."""
    build = lambda: build_encoder(KEY, spec, Architecture((8,), "relu"))[0]  # noqa: E731
    assert bool(jax.eval_shape(build).images) == convolved
    assert jax.eval_shape(lambda: build()(example_obs(spec))).shape == ((512,) if convolved else (8,))


def test_features_are_counted():
    assert build_encoder(KEY, DICT, Architecture((8, 5), "relu"))[1] == 5


@pytest.mark.parametrize(
    ("spec", "layers"), [(IMAGE, 0), (CAMERA, 2), (VECTOR, 2)], ids=["image", "camera", "vector"]
)
def test_no_mlp_follows_a_lone_image(spec, layers):
    assert (
        len(jax.eval_shape(lambda: Encoder.create(KEY, spec, Architecture((8, 8), "relu"))).mlp.layers) == layers
    )


def test_the_cnn_is_slow_convolutions(cnn):
    x = image(*IMAGE.shape)
    expected = slow_cnn(cnn, x)
    assert np.count_nonzero(expected) > 100
    np.testing.assert_allclose(cnn(x), expected, rtol=1e-4, atol=1e-5)


def test_channels_may_come_first(cnn):
    x = image(*IMAGE.shape)
    first = jax.eval_shape(lambda: CNN.create(KEY, (2, 36, 44)))
    assert first.channels_first
    assert not cnn.channels_first
    np.testing.assert_array_equal(dataclasses.replace(cnn, channels_first=True)(jnp.moveaxis(x, -1, 0)), cnn(x))
    assert [x.shape for x in jax.tree.leaves(first)] == [x.shape for x in jax.tree.leaves(cnn)]


def test_every_hidden_layer_starts_orthogonal_with_gain_root_2(cnn):
    layers = MLP.create(KEY, 4, Architecture((16, 8))).layers
    for weight in (layers[0].weight, layers[1].weight, *cnn.kernels, cnn.dense.weight):
        orthonormal(weight, np.sqrt(2))


def test_layers_of_one_shape_start_apart():
    first, second = MLP.create(KEY, 4, Architecture((4, 4))).layers
    assert not np.allclose(first.weight, second.weight)


ACTIVATIONS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_an_mlp_is_its_layers_in_turn(activation):
    mlp = MLP.create(KEY, 3, Architecture((5, 4), activation))
    x = jnp.asarray([1.0, -2.0, 0.5])
    hidden = np.asarray(x)
    for layer in mlp.layers:
        hidden = ACTIVATIONS[activation](hidden @ np.asarray(layer.weight))
    np.testing.assert_allclose(mlp(x), hidden, rtol=1e-5, atol=1e-6)


class Sum(eqx.Module):
    """A custom encoder of two features."""

    weight: jax.Array

    def __call__(self, obs):
        return self.weight * jnp.sum(obs)


def test_a_custom_encoder_is_built_from_the_key_and_the_spec():
    seen = []

    def custom(key, spec):
        seen.append((key, spec))
        return Sum(jnp.asarray([1.0, 2.0]))

    encoder, features = build_encoder(KEY, VECTOR, Architecture((64,), custom=custom))
    assert seen == [(KEY, VECTOR)]
    assert features == 2
    np.testing.assert_array_equal(encoder(jnp.ones(3)), [3, 6])


SPECS = {"vector": VECTOR, "categories": CATEGORIES, "small image": SMALL_IMAGE, "dict": DICT, "camera": CAMERA}


def ramp(x):
    """1, 2, 3, … in the shape and dtype of x."""
    return jnp.arange(1, x.size + 1).astype(x.dtype).reshape(x.shape)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_leaf_is_a_float_array_that_a_gradient_reaches(spec):
    encoder = build_encoder(KEY, spec, Architecture((8, 8)))[0]
    obs = jax.tree.map(ramp, example_obs(spec))
    gradients = jax.grad(lambda e: jnp.sum(e(obs)))(encoder)
    for leaf, gradient in zip(jax.tree.leaves(encoder), jax.tree.leaves(gradients), strict=True):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
        assert np.any(gradient != 0)
