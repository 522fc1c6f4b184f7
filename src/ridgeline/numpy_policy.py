"""A saved policy in NumPy alone: what acts greedily, read from its file, where JAX is not installed.

    from ridgeline.numpy_policy import load

    policy = load("seed-0.safetensors")
    action = policy(obs)

It follows the description in the file (`network` in the header): the normaliser, the encoder, the head.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ridgeline.errors import FileError, UsageError, short
from ridgeline.safe import unpack
from ridgeline.specs import (
    ACTION_MASK,
    ActionSpec,
    Continuous,
    EnvSpec,
    MultiDiscrete,
    observation_parts,
    spec_from_json,
)

SCHEMA = 2

# What a file may ask for: layers, and products of one layer of convolutions.
_LAYERS, _OPERATIONS = 64, 2**31

type Floats = np.ndarray
type Function = Callable[[Floats], Floats]

_ACTIVATIONS: dict[str, Function] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "silu": lambda x: x * (0.5 * (1 + np.tanh(x / 2))),  # exp(−x) would overflow
}
_HEADS = ("categorical", "gaussian", "tanh-gaussian", "deterministic", "action-values")


class NumpyPolicy:
    """A trained policy: `policy(obs)` is the greedy action, both in the terms of the environment.

    `header` is what the file says of it: `algorithm`, `hyperparameters`, `spec`, `spaces`, `seed`, `steps`.
    """

    def __init__(self, header: dict[str, Any], arrays: dict[str, np.ndarray], where: str) -> None:
        """Raises `UsageError` where the policy needs JAX, `FileError` where something does not fit."""
        from ridgeline.adapter import Adapter  # with it comes Gymnasium, which a run in JAX does without

        self.header, self._arrays, self._where = header, arrays, where
        self.spec: EnvSpec = spec_from_json(self._entry("spec"), where)
        self._adapter = Adapter(self.spec, self._entry("spaces"), where)
        network = self._entry("network")
        if isinstance(network, dict) and "needs" in network:
            raise UsageError(
                f"{where}: acts with JAX only ({short(network['needs'])}): open it with runtime='jax'"
            )
        try:
            self._encoder, self._head, self._normalised = (network[k] for k in ("encoder", "head", "normaliser"))
            self._activation = _ACTIVATIONS[self._encoder["activation"]]
            if self._head["kind"] not in _HEADS:
                raise ValueError(f"no head {short(self._head['kind'])}")
            if len(self._encoder["layers"]) > _LAYERS or any(len(x["strides"]) > _LAYERS for x in self._images):
                raise ValueError("too many layers")
            if self._categories > max((x.size for x in arrays.values()), default=0):
                raise ValueError("more categories than weights")
            with np.errstate(all="ignore"):  # its arrays may hold anything
                _require(self.outputs(self._zeros()).shape == (_width(self.spec.action),), "outputs")
        except Exception as error:  # a file may say anything
            problem = f"its network is damaged ({short(error)})"
            raise FileError(f"{where}: {problem}: train again or restore it") from error

    def __call__(self, obs: Any) -> Any:
        """The greedy action for one observation, both as the environment has them."""
        return self._adapter.write(self.canonical(self._adapter.read(obs)))

    def batch(self, obs: Any) -> np.ndarray:
        """Greedy actions [B, ...] for observations [B, ...]."""
        canonical, rows = self._adapter.read_batch(obs)
        lone = not isinstance(canonical, dict)
        each = (canonical[i] if lone else {k: x[i] for k, x in canonical.items()} for i in range(rows))
        return self._adapter.write_batch(np.stack([self.canonical(one) for one in each]))

    def canonical(self, obs: Any) -> np.ndarray:
        """The greedy action in canonical form, for one observation as the spec has it."""
        outputs, spec = self.outputs(obs), self.spec.action
        if isinstance(spec, Continuous):
            return outputs
        if isinstance(spec, MultiDiscrete):
            parts = np.split(outputs, np.cumsum(spec.counts)[:-1])
            return np.array([np.argmax(part) for part in parts], np.int32)
        return np.array(np.argmax(outputs), np.int32)

    def outputs(self, obs: Any) -> Floats:
        """What the head says of one observation: logits or values of each choice, or the continuous action."""
        head, features = self._head, self._features(obs)
        y = self._linear(head["linear"], features)
        if head["kind"] == "action-values":
            y = y.reshape(-1, head["quantiles"])
            if "value" in head:
                y = self._linear(head["value"], features) + y - y.mean(0)
            y = y.mean(1)
        if isinstance(self.spec.action, Continuous):
            y = y[: self.spec.action.size] if head["kind"] == "tanh-gaussian" else y
            return y if head["kind"] == "gaussian" else np.where(self.spec.action.bounded, np.tanh(y), y)
        if isinstance(obs, dict) and ACTION_MASK in obs:
            y = np.where(obs[ACTION_MASK].astype(bool), y, np.float32(-1e9))
        return y

    def _features(self, obs: Any) -> Floats:
        arrays = obs if isinstance(obs, dict) else {"": obs}
        parts = [(name, part) for name, part in observation_parts(self.spec.observation) if name != ACTION_MASK]
        found = []
        for name, part in parts:
            x = np.asarray(arrays[name])
            if name in self._normalised:
                x = self._normalise(f"normaliser/statistics/{name}", x)
            if name in self._encoder["images"]:
                found.append(self._image(self._encoder["images"][name], x))
            elif part.categories:
                each = zip(np.ravel(x), part.categories, strict=True)
                found.extend(np.arange(count) == entry for entry, count in each)
            else:
                found.append(np.ravel(x) / np.float32(255 if part.dtype == "uint8" else 1))
        x = np.concatenate([np.asarray(x, np.float32) for x in found])
        for layer in self._encoder["layers"]:
            x = self._linear(layer, x)
            if self._encoder["layer_norm"]:
                x = (x - x.mean()) / np.sqrt(x.var() + np.float32(1e-5))
            x = self._activation(x)
        return x

    def _image(self, cnn: dict[str, Any], image: np.ndarray) -> Floats:
        """DQN's convolutions and its layer of 512 units."""
        x = (np.moveaxis(image, 0, -1) if cnn["channels_first"] else image) / np.float32(255)
        for i, stride in enumerate(cnn["strides"]):
            kernel, bias = self._array(f"{cnn['at']}/kernels/{i}"), self._array(f"{cnn['at']}/biases/{i}")
            _require(
                kernel.ndim == 4 and kernel.shape[2] == x.shape[2] and bias.shape == kernel.shape[3:], "a kernel"
            )
            windows = np.lib.stride_tricks.sliding_window_view(x, kernel.shape[:2], (0, 1))[::stride, ::stride]
            _require(windows.size * bias.size <= _OPERATIONS, "an image")
            # Row by row: all windows at once would take many times the image's memory.
            rows = [np.tensordot(row, kernel, ([2, 3, 1], [0, 1, 2])) for row in windows]
            x = np.maximum(np.stack(rows) + bias, 0)
        return np.maximum(self._linear(f"{cnn['at']}/dense", x.ravel()), 0)

    def _normalise(self, at: str, x: Floats) -> Floats:
        """(x − mean) / √(variance + 1e-8) within ±10; sums stand in two words."""
        count, mean, variance = (
            self._array(f"{at}/{name}/high") + self._array(f"{at}/{name}/low")
            for name in ("count", "mean", "variance")
        )
        _require(mean.shape == variance.shape == np.shape(x) and count.shape == (), "a normaliser")
        deviation = np.sqrt(variance + np.float32(1e-8)) if count > 0 else np.float32(1)
        return np.asarray(np.clip((x - mean) / deviation, -10, 10))

    def _linear(self, at: str, x: Floats) -> Floats:
        weight, bias = self._array(f"{at}/weight"), self._array(f"{at}/bias")
        _require(weight.ndim == 2 and bias.shape == weight.shape[1:], "a layer")
        return x @ weight + bias

    def _array(self, name: str) -> np.ndarray:
        return self._arrays[name]

    @property
    def _images(self) -> list[dict[str, Any]]:
        return list(self._encoder["images"].values())

    @property
    def _categories(self) -> int:
        return sum(sum(part.categories) for _, part in observation_parts(self.spec.observation))

    def _entry(self, name: str) -> Any:
        if name not in self.header:
            raise FileError(f"{self._where}: its header has no {name}: train again or restore it")
        return self.header[name]

    def _zeros(self) -> Any:
        arrays = {n: np.zeros(p.shape, p.dtype) for n, p in observation_parts(self.spec.observation)}
        return arrays.get("", arrays)


def _require(fits: bool, what: str) -> None:
    if not fits:
        raise ValueError(f"{what} does not fit")


def _width(spec: ActionSpec) -> int:
    if isinstance(spec, Continuous):
        return spec.size
    return sum(spec.counts) if isinstance(spec, MultiDiscrete) else spec.count


def load(path: str | Path) -> NumpyPolicy:
    """Open a policy; no code in it is run, and JAX is not imported.

    Raises: `UsageError` where it acts with JAX only, `FileError` where it is damaged or of another version.
    """
    return NumpyPolicy(*open_policy(path), str(path))


def open_policy(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Header and arrays of a policy's file, its checksum verified. Raises `FileError`."""
    header, arrays = unpack(path)
    if header.get("schema") != SCHEMA:
        raise FileError(
            f"{path}: schema {short(header.get('schema'))}, and this version reads {SCHEMA}: train again"
        )
    return header, arrays
