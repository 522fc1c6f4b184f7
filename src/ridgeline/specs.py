"""What environments are, as data: specs, and the JSON of specs and of spaces. Importing this imports no JAX.

A space as JSON is an object with its `kind`: Box (`low` and `high`, one number where all entries agree, null for
none, `shape`, `dtype`), Discrete (`n`, `start`), MultiDiscrete (`nvec` and `start` in row order, `shape`),
MultiBinary (`shape`), Dict and Tuple (`spaces`).
"""

import dataclasses
import math
from typing import Any

import numpy as np

from ridgeline.errors import FileError, NumericalError, UsageError, short

ACTION_MASK = "action_mask"

FLOAT32_MAX = float(np.finfo(np.float32).max)
_UNSIGNED = {size: np.dtype(f"u{size}") for size in (1, 2, 4, 8)}


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """One array of an observation. `categories` holds, for integers that name categories, how many each has."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    categories: tuple[int, ...] = ()

    def zeros(self) -> Any:
        """An array of zeros of this shape and dtype."""
        import jax.numpy as jnp

        return jnp.zeros(self.shape, self.dtype)


@dataclasses.dataclass(frozen=True)
class Discrete:
    """One of `count` actions: an int32 scalar from 0."""

    count: int

    def zeros(self) -> Any:
        """The action 0."""
        import jax.numpy as jnp

        return jnp.zeros((), jnp.int32)


@dataclasses.dataclass(frozen=True)
class MultiDiscrete:
    """Several choices at once: an int32 vector, each from 0."""

    counts: tuple[int, ...]

    def zeros(self) -> Any:
        """Every choice 0."""
        import jax.numpy as jnp

        return jnp.zeros(len(self.counts), jnp.int32)


@dataclasses.dataclass(frozen=True)
class Continuous:
    """A float vector of `size`; its bounded entries mean [−1, 1], the others pass through as they are."""

    size: int
    bounded: tuple[bool, ...]

    def zeros(self) -> Any:
        """The zero vector."""
        import jax.numpy as jnp

        return jnp.zeros(self.size)


ObservationSpec = ArraySpec | tuple[tuple[str, ArraySpec], ...]
ActionSpec = Discrete | MultiDiscrete | Continuous


def observation_parts(spec: ObservationSpec) -> tuple[tuple[str, ArraySpec], ...]:
    """Each array of an observation with its name; a lone array's name is empty."""
    return (("", spec),) if isinstance(spec, ArraySpec) else spec


@dataclasses.dataclass(frozen=True)
class EnvSpec:
    """What an environment is, as far as an algorithm may know it. Hashable, so that it is static under jit."""

    id: str
    observation: ObservationSpec
    action: ActionSpec
    max_episode_steps: int | None = None
    reward_threshold: float | None = None


def spec_to_json(spec: EnvSpec) -> dict[str, Any]:
    """An environment spec as JSON; its action spec carries its kind."""
    data = dataclasses.asdict(spec)
    data["action"] = {"kind": type(spec.action).__name__, **data["action"]}
    if not isinstance(spec.observation, ArraySpec):
        data["observation"] = {name: dataclasses.asdict(part) for name, part in spec.observation}
    return data


def spec_from_json(data: Any, where: str) -> EnvSpec:
    """The inverse of `spec_to_json`; `FileError` if the object is not one of those."""
    try:
        observation = data["observation"]
        lone = "shape" in observation and not isinstance(observation["shape"], dict)
        parts = [("", observation)] if lone else [(str(name), part) for name, part in observation.items()]
        specs = [(name, _array_spec(part)) for name, part in parts]
        limit, threshold = data["max_episode_steps"], data["reward_threshold"]
        return EnvSpec(
            str(data["id"]),
            specs[0][1] if lone else tuple(specs),
            _action_spec(dict(data["action"])),
            None if limit is None else _count(limit),
            None if threshold is None else float(threshold),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise FileError(f"{where}: the environment's spec is damaged ({error!r}): restore the file") from error


def _array_spec(data: dict[str, Any]) -> ArraySpec:
    shape, categories = (tuple(map(_count, data[name])) for name in ("shape", "categories"))
    if categories and len(categories) != math.prod(shape):
        raise ValueError("categories do not fit the shape")
    if data.keys() != {"shape", "dtype", "categories"} or data["dtype"] not in _DTYPES:
        raise ValueError("not an array's")
    return ArraySpec(shape, data["dtype"], categories)


def _action_spec(data: dict[str, Any]) -> ActionSpec:
    match data:
        case {"kind": "Discrete", "count": count, **rest} if not rest:
            return Discrete(_count(count))
        case {"kind": "MultiDiscrete", "counts": list(counts), **rest} if not rest:
            return MultiDiscrete(tuple(map(_count, counts)))
        case {"kind": "Continuous", "size": size, "bounded": list(bounded), **rest} if not rest:
            if len(bounded) == _count(size) and all(type(flag) is bool for flag in bounded):
                return Continuous(size, tuple(bounded))
    raise ValueError("no action spec")


_DTYPES = {"bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"}
_DTYPES |= {"float16", "bfloat16", "float32", "float64"}


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise ValueError("not a count")
    return value


def own_spaces(spec: EnvSpec, bounds: Any = None) -> dict[str, Any]:
    """The spaces, as JSON, of an environment that has only a spec.

    `bounds` (low, high), numbers or one for each entry, are those of its bounded actions in terms of its own; ±1
    if there are none.
    """
    parts = {name: _own_space(name, part) for name, part in observation_parts(spec.observation)}
    observation = parts.get("") or {"kind": "Dict", "spaces": parts}
    return {"observation": observation, "action": _own_actions(spec.action, bounds or (-1.0, 1.0))}


def _own_space(name: str, part: ArraySpec) -> dict[str, Any]:
    shape = list(part.shape)
    if name == ACTION_MASK:
        return {"kind": "MultiBinary", "shape": shape}
    if part.categories:
        return _choices(part.categories, shape)
    kind = "float32" if part.dtype == "bfloat16" else part.dtype
    bound = None if "float" in kind else 0 if kind in ("bool", "uint8") else -(2**31)
    high = {"bool": 1, "uint8": 255}.get(kind, 2**31 - 1) if bound is not None else None
    kind = kind if bound is None or kind in ("bool", "uint8") else "int64"
    return {"kind": "Box", "low": bound, "high": high, "shape": shape, "dtype": kind}


def _choices(counts: tuple[int, ...], shape: list[int]) -> dict[str, Any]:
    if not shape:
        return {"kind": "Discrete", "n": counts[0], "start": 0}
    return {"kind": "MultiDiscrete", "nvec": list(counts), "start": [0] * len(counts), "shape": shape}


def _own_actions(spec: ActionSpec, bounds: Any) -> dict[str, Any]:
    if isinstance(spec, Discrete):
        return _choices((spec.count,), [])
    if isinstance(spec, MultiDiscrete):
        return _choices(spec.counts, [len(spec.counts)])
    low, high = (list(b) if isinstance(b, list | tuple) else [float(b)] * spec.size for b in bounds)
    sides = [[x if held else None for x, held in zip(side, spec.bounded, strict=True)] for side in (low, high)]
    return {"kind": "Box", "low": sides[0], "high": sides[1], "shape": [spec.size], "dtype": "float32"}


def require_actions(spec: ActionSpec, actions: np.ndarray, rows: int) -> None:
    """Check canonical actions [rows, ...] before they leave.

    Raises: `NumericalError` where one is not finite, `UsageError` where shape, dtype or range is wrong.
    """
    continuous = isinstance(spec, Continuous)
    counts = spec.count if isinstance(spec, Discrete) else None if isinstance(spec, Continuous) else spec.counts
    size = (
        (spec.size,) if isinstance(spec, Continuous) else () if isinstance(spec, Discrete) else (len(spec.counts),)
    )
    if actions.shape != (rows, *size) or actions.dtype.kind not in ("fiu" if continuous else "iu"):
        raise UsageError(
            f"actions have shape {actions.shape} and dtype {actions.dtype}, expected {(rows, *size)} for {spec}: "
            "send one canonical action for each environment"
        )
    if counts is None:
        require_finite(actions)
        return
    # One comparison for both ends: as an unsigned number a negative one is larger than any count.
    bad = actions.view(_UNSIGNED[actions.dtype.itemsize]) >= counts
    if np.logical_or.reduce(bad, axis=None):
        row = int(np.argwhere(bad)[0, 0])
        raise UsageError(f"action of environment {row} is {short(actions[row])}, outside {spec}: count from 0")


def require_finite(actions: np.ndarray) -> None:
    """Raise `NumericalError` for the first row [rows, d] of continuous actions that is not finite."""
    good = np.isfinite(actions)
    if not good.all():
        row = int(np.argmin(good.all(axis=1)))
        raise NumericalError(
            f"action of environment {row} is {short(actions[row])}: the policy has diverged; lower the "
            "learning rate or clip its gradients"
        )
