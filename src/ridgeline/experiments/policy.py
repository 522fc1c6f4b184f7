"""The policy of one seed as a file: its arrays in safetensors, what they mean in the header's JSON."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import safetensors
import safetensors.numpy
from jaxtyping import PRNGKeyArray, PyTree

from ridgeline.algorithms import REGISTRY
from ridgeline.errors import FileError
from ridgeline.experiments.config import record_from_json, record_to_json, spec_from_json, spec_to_json
from ridgeline.experiments.files import write_whole
from ridgeline.training.runner import prepare
from ridgeline.types import Algorithm, Carry, EnvSpec, Obs

_SCHEMA = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A trained policy: `policy(obs)` is the greedy action for one observation, in canonical form."""

    algorithm: Algorithm[Any, Any]
    spec: EnvSpec
    parameters: PyTree[np.ndarray]

    def __call__(self, obs: Obs, key: PRNGKeyArray | None = None) -> np.ndarray:
        """The greedy action for one observation, of a policy that keeps no carry."""
        return self.step(obs, self.algorithm.begin(self.spec), key)[0]

    def step(self, obs: Obs, carry: Carry, key: PRNGKeyArray | None = None) -> tuple[np.ndarray, Carry]:
        """The greedy action and the carry for the next call."""
        key = jax.random.key(0) if key is None else key
        action, carry = _greedy(self.algorithm, key, self.parameters, carry, obs)
        return np.asarray(action), carry

    def save(self, path: Path, **facts: Any) -> None:
        """Write the file whole or not at all; `facts` (seed, steps, …) go into its header."""
        leaves = jax.tree_util.tree_leaves_with_path(self.parameters)
        header = {
            "schema": _SCHEMA,
            "algorithm": type(self.algorithm).__name__.lower(),
            "hyperparameters": record_to_json(self.algorithm),
            "spec": spec_to_json(self.spec),
            **facts,
        }
        arrays = {_name(leaf_path): np.array(leaf, order="C") for leaf_path, leaf in leaves}
        write_whole(path, safetensors.numpy.save(arrays, metadata={"ridgeline": json.dumps(header)}))


@jax.jit
def _greedy(algorithm: Algorithm[Any, Any], key: PRNGKeyArray, parameters: Any, carry: Carry, obs: Obs) -> Any:
    return algorithm.greedy(key, parameters, carry, obs)


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def load_policy(path: str | Path, algorithm: Algorithm[Any, Any] | None = None) -> Policy:
    """Read a policy; no code in it is run. Pass the `algorithm` record if it has a custom encoder.

    Raises `FileError` where the file is damaged or its arrays are not those of the record.
    """
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        header = json.loads(metadata["ridgeline"])
        if header["schema"] != _SCHEMA:
            raise FileError(f"{path}: schema {header['schema']}, and this version reads {_SCHEMA}")
        if algorithm is None:
            default: Any = REGISTRY.get(header["algorithm"])
            if default is None:
                raise FileError(f"{path}: of algorithm {header['algorithm']!r}, not one of ours: pass its record")
            if header["hyperparameters"].get("encoder") is not None:
                raise FileError(f"{path}: of a custom encoder: pass the record that has it, as `algorithm`")
            algorithm = record_from_json(default(), header["hyperparameters"], str(path))
        spec = spec_from_json(header["spec"], str(path))
    except (OSError, safetensors.SafetensorError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"{path}: not a readable policy ({error}): train again or restore it") from error
    algorithm = prepare(algorithm)
    shapes = jax.eval_shape(lambda a: a.policy(a.init(jax.random.key(0), spec)), algorithm)
    return Policy(algorithm, spec, _fill(shapes, arrays, str(path)))


def _fill(shapes: PyTree[jax.ShapeDtypeStruct], arrays: dict[str, np.ndarray], where: str) -> PyTree[np.ndarray]:
    """The arrays in the places of `shapes`; `FileError` names the first that is missing or does not fit."""
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    names = [_name(path) for path, _ in paths]
    if set(names) != set(arrays):
        odd = sorted(set(names) ^ set(arrays))[0]
        raise FileError(f"{where}: array {odd} is {'missing' if odd in names else 'not expected'}")
    for name, (_, shape) in zip(names, paths, strict=True):
        found = arrays[name]
        if found.shape != shape.shape or found.dtype != shape.dtype:
            raise FileError(
                f"{where}: array {name} is {found.dtype}{list(found.shape)}, "
                f"and {shape.dtype}{list(shape.shape)} is expected"
            )
    return jax.tree.unflatten(structure, [arrays[name] for name in names])
