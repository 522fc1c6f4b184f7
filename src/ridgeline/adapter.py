"""An environment's own spaces as JSON, and the conversions between its terms and the canonical ones."""

import math
from typing import Any

import numpy as np
from gymnasium import Space, spaces

from ridgeline.errors import FileError, UsageError, short
from ridgeline.spaces import Actions, MalformedError, Observations
from ridgeline.specs import ArraySpec, EnvSpec, ObservationSpec, observation_parts

# Bounds of larger observations that differ from entry to entry are not kept: nothing reads them.
_LISTED = 1024
# What the arrays of a file's spaces may take, in bytes.
_BUDGET = 40 * 2**20


def spaces_to_json(observation: Space[Any], action: Space[Any]) -> dict[str, Any]:
    """Both spaces as JSON."""
    return {"observation": _to_json(observation, exact=False), "action": _to_json(action, exact=True)}


def _to_json(space: Space[Any], exact: bool) -> dict[str, Any]:
    kind, shape = type(space).__name__, list(map(int, space.shape or ()))
    if isinstance(space, spaces.Box):
        low, high = (_bound(side, exact) for side in (space.low, space.high))
        return {"kind": "Box", "low": low, "high": high, "shape": shape, "dtype": space.dtype.name}
    if isinstance(space, spaces.Discrete):
        return {"kind": "Discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        sides = (np.ravel(x).tolist() for x in (space.nvec, space.start))
        return {"kind": "MultiDiscrete", **dict(zip(("nvec", "start"), sides, strict=True)), "shape": shape}
    if isinstance(space, spaces.MultiBinary):
        return {"kind": "MultiBinary", "shape": shape}
    if isinstance(space, spaces.Dict):
        return {"kind": "Dict", "spaces": {str(k): _to_json(inner, exact) for k, inner in space.items()}}
    if isinstance(space, spaces.Tuple):
        return {"kind": "Tuple", "spaces": [_to_json(inner, exact) for inner in space.spaces]}
    raise UsageError(f"space {short(space)} of kind {kind} cannot be stored")


def _bound(side: np.ndarray, exact: bool) -> Any:
    """One number, or one for each entry; None for an infinite one."""

    def one(x: Any) -> Any:
        return x if math.isfinite(x) else None

    values = side.ravel()
    if values.size and (values == values[0]).all():
        return one(values[0].item())
    return [one(x) for x in values.tolist()] if exact or values.size <= _LISTED else None


def space_from_json(data: Any) -> Space[Any]:
    """The space that JSON means.

    Raises: whatever exception malformed JSON leads to; nothing large is allocated.
    """
    if _cost(data) > _BUDGET:
        raise ValueError("spaces too large")
    return _from_json(data)


def _cost(data: Any) -> int:
    """A bound on the bytes that a space's arrays take."""
    if "spaces" in data:
        inner = data["spaces"]
        return sum(map(_cost, inner.values() if isinstance(inner, dict) else inner))
    shape = data.get("shape", [])
    if not all(type(n) is int and 0 <= n < 2**48 for n in shape) or len(shape) > 16:
        raise ValueError("a shape is damaged")
    return math.prod(shape) * (3 * np.dtype(data["dtype"]).itemsize + 6 if data["kind"] == "Box" else 32)


def _from_json(data: Any) -> Space[Any]:
    match data:
        case {"kind": "Box", "low": low, "high": high, "shape": shape, "dtype": str(kind)}:
            sides = (_side(low, -math.inf, shape, kind), _side(high, math.inf, shape, kind))
            return spaces.Box(*sides, tuple(shape), np.dtype(kind).type)
        case {"kind": "Discrete", "n": int(n), "start": int(start)}:
            return spaces.Discrete(n, start=start)
        case {"kind": "MultiDiscrete", "nvec": list(nvec), "start": list(start), "shape": shape}:
            counts, starts = (np.array(x, np.int64).reshape(shape) for x in (nvec, start))
            return spaces.MultiDiscrete(counts, start=starts)
        case {"kind": "MultiBinary", "shape": shape}:
            return spaces.MultiBinary(shape[0] if len(shape) == 1 else shape)
        case {"kind": "Dict", "spaces": dict(inner)}:
            return spaces.Dict({name: _from_json(space) for name, space in inner.items()})
        case {"kind": "Tuple", "spaces": list(inner)}:
            return spaces.Tuple([_from_json(space) for space in inner])
    raise ValueError(f"no space is {short(data)}")


def _side(side: Any, none: float, shape: list[int], kind: str) -> np.ndarray:
    if np.dtype(kind).kind not in "fiub":
        raise ValueError("a Box of no numbers")
    values = [none if x is None else x for x in side] if isinstance(side, list) else none if side is None else side
    # As float64, 64-bit integers would lose their last bits.
    given = np.array(values, kind)
    return np.array(np.broadcast_to(given.reshape(shape) if isinstance(side, list) else given, shape))


class Adapter:
    """Between an environment's own terms and the canonical ones of its spec."""

    def __init__(self, spec: EnvSpec, spaces: Any, where: str) -> None:
        """`spaces` as JSON. Raises `FileError` where they are damaged or not those of the spec."""
        self.spec = spec
        try:
            found = {name: space_from_json(spaces[name]) for name in ("observation", "action")}
            self._observations, self._actions = Observations(found["observation"]), Actions(found["action"])
        except Exception as error:  # Gymnasium raises whatever comes to it
            raise FileError(
                f"{where}: the environment's spaces are damaged ({short(error)}): restore the file"
            ) from error
        if _forms(self._observations.spec) != _forms(spec.observation) or self._actions.spec != spec.action:
            raise FileError(f"{where}: the environment's spaces are not those of its spec: restore the file")

    def read(self, obs: Any) -> Any:
        """One observation of the environment in canonical form. Raises `UsageError` where it is none."""
        return self._read(obs, ())

    def read_batch(self, obs: Any) -> tuple[Any, int]:
        """The same of a batch: every array with one more axis in front, of as many rows as are returned."""
        first = obs
        while not isinstance(first, np.ndarray):
            if not isinstance(first, dict | list | tuple) or not first:
                break
            first = next(iter(first.values())) if isinstance(first, dict) else first[0]
        rows = len(np.atleast_1d(np.asarray(first)))
        return self._read(obs, (rows,)), rows

    def _read(self, obs: Any, lead: tuple[int, ...]) -> Any:
        try:
            found = self._observations.read(obs, lead)
        except MalformedError as error:
            raise UsageError(f"{error}: give the observation as {self.spec.id} returns it") from error
        if isinstance(self.spec.observation, ArraySpec):
            return _as(found, self.spec.observation)
        return {name: _as(found[name], part) for name, part in self.spec.observation}

    def write(self, action: np.ndarray) -> Any:
        """One canonical action as the environment takes it: rescaled, clipped, shifted, of its dtype and shape."""
        return self._actions.write(np.asarray(action)[None], 1)[0]

    def write_batch(self, actions: np.ndarray) -> np.ndarray:
        """The same of a batch."""
        return self._actions.write(np.asarray(actions), len(actions))


def _forms(spec: ObservationSpec) -> list[Any]:
    """What two specs must share to hold the same observations; dtypes are converted."""
    return sorted((name, part.shape, part.categories) for name, part in observation_parts(spec))


def _as(array: np.ndarray, part: ArraySpec) -> np.ndarray:
    return array if part.dtype == "bfloat16" else array.astype(part.dtype, copy=False)
