"""The policy of one seed as a file: its arrays in safetensors, what they mean in the header's JSON."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from ridgeline.algorithms import REGISTRY
from ridgeline.errors import FileError, RidgelineError, short
from ridgeline.experiments.config import record_from_json, record_to_json, spec_from_json, spec_to_json
from ridgeline.experiments.description import describe
from ridgeline.experiments.files import write_whole
from ridgeline.numpy_policy import SCHEMA, open_policy
from ridgeline.safe import pack
from ridgeline.specs import own_spaces
from ridgeline.training.runner import prepare
from ridgeline.types import Algorithm, Carry, EnvSpec, Obs, observation_parts

# What a record out of a file may have of what is built one by one: layers of its networks, and critics.
_LAYERS, _CRITICS, _ENTRIES = 64, 16, 1024


@dataclasses.dataclass(frozen=True, eq=False)
class Policy:
    """A trained policy: `policy(obs)` is the greedy action, both in the terms of the environment.

    `spaces` are the environment's own, as JSON; without them its terms are those of the spec. `source` is the file
    that it was read from.
    """

    algorithm: Algorithm[Any, Any]
    spec: EnvSpec
    parameters: PyTree[np.ndarray]
    spaces: dict[str, Any] | None = None
    source: str = "policy"

    def __call__(self, obs: Any, key: PRNGKeyArray | None = None) -> Any:
        """The greedy action for one observation, both as the environment has them; for a policy without carry."""
        return self.step(obs, self.algorithm.begin(self.spec), key)[0]

    def step(self, obs: Any, carry: Carry, key: PRNGKeyArray | None = None) -> tuple[Any, Carry]:
        """The greedy action and the carry for the next call."""
        action, carry = self._greedy(self._adapter.read(obs), carry, key)
        return self._adapter.write(action), carry

    def batch(self, obs: Any, key: PRNGKeyArray | None = None) -> np.ndarray:
        """Greedy actions [B, ...] for observations [B, ...], each at the start of an episode."""
        canonical, rows = self._adapter.read_batch(obs)
        keys = jax.random.split(jax.random.key(0) if key is None else key, rows)
        actions = _greedy_batch(self.algorithm, keys, self.parameters, self._begin, canonical)
        return self._adapter.write_batch(np.asarray(actions))

    def canonical(self, obs: Obs, key: PRNGKeyArray | None = None) -> np.ndarray:
        """The greedy action in canonical form for one observation as the spec has it."""
        return self._greedy(obs, self._begin, key)[0]

    @property
    def own_spaces(self) -> dict[str, Any]:
        """The spaces as JSON that its observations and actions are of."""
        return own_spaces(self.spec) if self.spaces is None else self.spaces

    @property
    def _begin(self) -> Carry:
        return self.algorithm.begin(self.spec)

    def _greedy(self, obs: Obs, carry: Carry, key: PRNGKeyArray | None) -> tuple[np.ndarray, Carry]:
        key = jax.random.key(0) if key is None else key
        action, carry = _greedy(self.algorithm, key, self.parameters, carry, obs)
        return np.asarray(action), carry

    @functools.cached_property
    def _adapter(self) -> Any:
        from ridgeline.adapter import Adapter  # with it comes Gymnasium, which training in JAX does without

        return Adapter(self.spec, self.own_spaces, self.source)

    def save(self, path: Path, **facts: Any) -> None:
        """Write the file whole or not at all; `facts` (seed, steps, …) go into its header."""
        header = {
            "schema": SCHEMA,
            "algorithm": type(self.algorithm).__name__.lower(),
            "hyperparameters": record_to_json(self.algorithm),
            "spec": spec_to_json(self.spec),
            "spaces": self.own_spaces,
            "network": describe(self.algorithm, self.parameters),
            **facts,
        }
        leaves = jax.tree_util.tree_leaves_with_path(self.parameters)
        write_whole(path, pack(header, {leaf_name(at): np.asarray(leaf) for at, leaf in leaves}))


@jax.jit
def _greedy(algorithm: Algorithm[Any, Any], key: PRNGKeyArray, parameters: Any, carry: Carry, obs: Obs) -> Any:
    return algorithm.greedy(key, parameters, carry, obs)


@jax.jit
def _greedy_batch(algorithm: Algorithm[Any, Any], keys: Any, parameters: Any, carry: Carry, obs: Obs) -> Any:
    return jax.vmap(algorithm.greedy, (0, None, None, 0))(keys, parameters, carry, obs)[0]


def leaf_name(path: Any) -> str:
    """The name of an array in a file: its path in the tree, joined by "/"."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def load(path: str | Path, algorithm: Algorithm[Any, Any] | None = None) -> Policy:
    """Read a policy; no code in it is run. Pass the `algorithm` record if it has a custom encoder.

    Raises `FileError` where the file is damaged or its arrays are not those of the record.
    """
    header, arrays = open_policy(path)
    try:
        spec = spec_from_json(header["spec"], str(path))
        record = prepare(_record(header, str(path)) if algorithm is None else algorithm)
        _check_size(record, spec)
        spaces = header["spaces"]
        if not isinstance(spaces, dict):
            raise ValueError("its spaces are no object")
        shapes = jax.eval_shape(lambda a: a.policy(a.init(jax.random.key(0), spec)), record)
        policy = Policy(record, spec, _fill(shapes, arrays, str(path)), spaces, str(path))
        _ = policy._adapter  # that its spaces can be used is found out here, not at the first action
    except FileError:
        raise
    except RidgelineError as error:
        raise FileError(f"{path}: {error}") from error
    except Exception as error:  # a file may say anything of its record
        raise FileError(f"{path}: not a readable policy ({short(error)}): train again or restore it") from error
    return policy


def _record(header: dict[str, Any], where: str) -> Algorithm[Any, Any]:
    default: Any = REGISTRY.get(header["algorithm"])
    if default is None:
        raise FileError(f"{where}: of algorithm {short(header['algorithm'])}, not one of ours: pass its record")
    if header["hyperparameters"].get("encoder") is not None:
        raise FileError(f"{where}: of a custom encoder: pass the record that has it, as `algorithm`")
    return record_from_json(default(), header["hyperparameters"], where)


def _check_size(record: Any, spec: EnvSpec) -> None:
    """Refuse what would take long to trace: a file decides neither time nor memory."""
    entries = sum(len(part.categories) + 1 for _, part in observation_parts(spec.observation))
    entries += len(getattr(spec.action, "counts", ()))
    sizes = (len(getattr(record, "hidden", ())), getattr(record, "critics", 1), entries)
    if any(size > most for size, most in zip(sizes, (_LAYERS, _CRITICS, _ENTRIES), strict=True)):
        raise ValueError(f"{sizes[0]} layers, {sizes[1]} critics and {sizes[2]} entries are too many")


def _fill(shapes: PyTree[jax.ShapeDtypeStruct], arrays: dict[str, np.ndarray], where: str) -> PyTree[np.ndarray]:
    """The arrays in the places of `shapes`; `FileError` names the first that is missing or does not fit."""
    paths, structure = jax.tree_util.tree_flatten_with_path(shapes)
    names = [leaf_name(path) for path, _ in paths]
    if set(names) != set(arrays):
        odd = sorted(set(names) ^ set(arrays))[0]
        raise FileError(f"{where}: array {short(odd)} is {'missing' if odd in names else 'not expected'}")
    for name, (_, shape) in zip(names, paths, strict=True):
        found = arrays[name]
        if found.shape != shape.shape or found.dtype != shape.dtype:
            raise FileError(
                f"{where}: array {name} is {found.dtype}{list(found.shape)}, "
                f"and {shape.dtype}{list(shape.shape)} is expected"
            )
    return jax.tree.unflatten(structure, [arrays[name] for name in names])
