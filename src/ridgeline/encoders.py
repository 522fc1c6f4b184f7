"""Encoders: one observation to a vector of features, by a network chosen from the observation's spec.

Parameters are drawn as PPO's baselines do: orthogonal weights, zero biases. Apply `vmap` at the edge.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from ridgeline.linear import Linear
from ridgeline.types import ACTION_MASK, ArraySpec, Obs, ObservationSpec, example_obs, observation_parts

type Activation = Literal["tanh", "relu", "elu", "silu"]
# Builds a custom network: (key, observation spec) → a module that maps one observation to a vector of features.
type Encode = Callable[[Obs], Float[Array, "n"]]
type EncoderBuilder = Callable[[PRNGKeyArray, ObservationSpec], Encode]

_ACTIVATIONS = {"tanh": jnp.tanh, "relu": jax.nn.relu, "elu": jax.nn.elu, "silu": jax.nn.silu}


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What a network's hidden layers are: widths, activation, layer norm, or the user's own encoder."""

    hidden: tuple[int, ...]
    activation: Activation = "tanh"
    layer_norm: bool = False
    custom: EncoderBuilder | None = None


def standardise_features(x: Float[Array, "n"]) -> Float[Array, "n"]:
    """(x − mean) / √(variance + 1e-5) over the features of one layer (Ba et al. 2016), with no gain or bias."""
    return (x - jnp.mean(x)) * jax.lax.rsqrt(jnp.var(x) + 1e-5)


class MLP(eqx.Module):
    """h ← σ(h W + b), layer after layer; with no layers, the identity. Layer norm comes before σ."""

    layers: tuple[Linear, ...]
    activation: Activation = eqx.field(static=True)
    layer_norm: bool = eqx.field(static=True)

    @classmethod
    def create(cls, key: PRNGKeyArray, n: int, architecture: Architecture) -> "MLP":
        """One layer for each width in `hidden`."""
        hidden = architecture.hidden
        keys = jax.random.split(key, len(hidden) + 1)
        widths = zip((n, *hidden), hidden, keys, strict=False)
        layers = tuple(Linear.create(k, i, o, math.sqrt(2)) for i, o, k in widths)
        return cls(layers, architecture.activation, architecture.layer_norm)

    def __call__(self, x: Float[Array, "n"]) -> Float[Array, "m"]:
        """One input to one vector of features."""
        for layer in self.layers:
            h = layer(x)
            x = _ACTIVATIONS[self.activation](standardise_features(h) if self.layer_norm else h)
        return x


class CNN(eqx.Module):
    """The convolutions of DQN (Mnih et al. 2015): 32 of 8×8/4, 64 of 4×4/2, 64 of 3×3/1, 512 units; relu."""

    kernels: tuple[Float[Array, "_ _ _ _"], ...]
    biases: tuple[Float[Array, "_"], ...]
    dense: Linear
    channels_first: bool = eqx.field(static=True)

    @classmethod
    def create(cls, key: PRNGKeyArray, shape: tuple[int, ...]) -> "CNN":
        """For images of this shape; the axis with the fewest entries of the first and last holds channels."""
        first = shape[0] < shape[-1]
        height, width, depth = (shape[1], shape[2], shape[0]) if first else shape
        keys = jax.random.split(key, 4)
        kernels = []
        for k, (side, stride, filters) in zip(keys[:3], _CONVOLUTIONS, strict=True):
            flat = jax.nn.initializers.orthogonal(math.sqrt(2))(k, (side * side * depth, filters))
            kernels.append(flat.reshape(side, side, depth, filters))
            height, width, depth = (height - side) // stride + 1, (width - side) // stride + 1, filters
        dense = Linear.create(keys[3], height * width * depth, 512, math.sqrt(2))
        return cls(tuple(kernels), tuple(jnp.zeros(k.shape[-1]) for k in kernels), dense, first)

    def __call__(self, image: Array) -> Float[Array, "512"]:
        """One uint8 image, scaled to [0, 1], to 512 features."""
        x = (jnp.moveaxis(image, 0, -1) if self.channels_first else image) / 255.0
        for kernel, bias, (_, stride, _) in zip(self.kernels, self.biases, _CONVOLUTIONS, strict=True):
            y = jax.lax.conv_general_dilated(
                x[None], kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jax.nn.relu(y[0] + bias[None, None])
        return jax.nn.relu(self.dense(x.reshape(-1)))


_CONVOLUTIONS = ((8, 4, 32), (4, 2, 64), (3, 1, 64))
CONVOLUTION_STRIDES = tuple(stride for _, stride, _ in _CONVOLUTIONS)
_SMALLEST_IMAGE = 36  # the last convolution's kernel has no room on anything smaller


def is_image(spec: ArraySpec) -> bool:
    """Whether an array goes through the CNN: uint8, three axes, and large enough for its kernels."""
    large = len(spec.shape) == 3 and sorted(spec.shape)[1] >= _SMALLEST_IMAGE
    return spec.dtype == "uint8" and large


class Encoder(eqx.Module):
    """One observation to a vector of features.

    Images go through the CNN, categories become one-hot, other arrays are flattened; they are joined in the
    order of their names, then an MLP follows (none behind a lone image: that is DQN's network).
    """

    images: dict[str, CNN]
    mlp: MLP
    spec: ObservationSpec = eqx.field(static=True)

    @classmethod
    def create(cls, key: PRNGKeyArray, spec: ObservationSpec, architecture: Architecture) -> "Encoder":
        """The encoder for observations of this spec."""
        parts = [(name, part) for name, part in observation_parts(spec) if name != ACTION_MASK]
        images = {
            name: CNN.create(jax.random.fold_in(key, i + 1), part.shape)
            for i, (name, part) in enumerate(parts)
            if is_image(part)
        }
        width = sum(_width(part) for _, part in parts)
        lone_image = bool(images) and len(parts) == 1
        if lone_image:
            architecture = dataclasses.replace(architecture, hidden=())
        mlp = MLP.create(jax.random.fold_in(key, 0), width, architecture)
        return cls(images, mlp, spec)

    def __call__(self, obs: Obs) -> Float[Array, "features"]:
        """Features of one observation."""
        parts = [(name, part) for name, part in observation_parts(self.spec) if name != ACTION_MASK]
        arrays = obs if isinstance(obs, dict) else {"": obs}
        return self.mlp(jnp.concatenate([self._features(name, part, arrays[name]) for name, part in parts]))

    def _features(self, name: str, part: ArraySpec, x: Array) -> Float[Array, "n"]:
        if name in self.images:
            return self.images[name](x)
        if part.categories:
            entries = jnp.reshape(x, -1)
            return jnp.concatenate([jax.nn.one_hot(entries[i], n) for i, n in enumerate(part.categories)])
        flat = jnp.reshape(x, -1).astype(float)
        return flat / 255.0 if part.dtype == "uint8" else flat


def _width(part: ArraySpec) -> int:
    return 512 if is_image(part) else sum(part.categories) or math.prod(part.shape)


def build_encoder(key: PRNGKeyArray, spec: ObservationSpec, architecture: Architecture) -> tuple[Encode, int]:
    """The encoder, the user's own if there is one, and the number of features it yields."""
    custom = architecture.custom
    module = custom(key, spec) if custom else Encoder.create(key, spec, architecture)
    features = jax.eval_shape(module, example_obs(spec))
    return module, features.shape[0]
