"""Records to JSON and back: hyper-parameters and environment specs. Reading runs no code."""

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np

from ridgeline.errors import FileError
from ridgeline.types import ArraySpec, Continuous, Discrete, EnvSpec, MultiDiscrete

_ACTIONS = {kind.__name__: kind for kind in (Discrete, MultiDiscrete, Continuous)}


def record_to_json(record: eqx.Module) -> dict[str, Any]:
    """The fields of a record, nested records as nested objects; a custom encoder only by its name."""
    return {f.name: _value_to_json(getattr(record, f.name)) for f in dataclasses.fields(record)}


def _value_to_json(value: Any) -> Any:
    if isinstance(value, eqx.Module):
        return record_to_json(value)
    if callable(value):
        return f"{value.__module__}:{value.__qualname__}"
    if isinstance(value, np.ndarray):
        return value.item()
    return list(value) if isinstance(value, tuple) else value


def record_from_json[Record: eqx.Module](default: Record, data: dict[str, Any], where: str) -> Record:
    """`default` with its fields replaced by those of a JSON object; `FileError` names one that does not fit."""
    names = {f.name for f in dataclasses.fields(default)}
    for name, value in data.items():
        if name not in names:
            raise FileError(f"{where}: no hyper-parameter {name!r}: the file is of another version of ridgeline")
        old = getattr(default, name)
        if isinstance(old, eqx.Module) and isinstance(value, dict):
            data = data | {name: record_from_json(old, value, where)}
        elif isinstance(old, tuple) and isinstance(value, list):
            data = data | {name: tuple(value)}
        elif type(old) is not type(value) and not (isinstance(old, float) and isinstance(value, int)):
            raise FileError(f"{where}: {name} is {value!r}, and {type(old).__name__} is expected")
    return dataclasses.replace(default, **data)


def spec_to_json(spec: EnvSpec) -> dict[str, Any]:
    """An environment spec as JSON; its action spec carries its kind."""
    data = dataclasses.asdict(spec)
    data["action"] = {"kind": type(spec.action).__name__, **data["action"]}
    if not isinstance(spec.observation, ArraySpec):
        data["observation"] = {name: dataclasses.asdict(part) for name, part in spec.observation}
    return data


def spec_from_json(data: dict[str, Any], where: str) -> EnvSpec:
    """The inverse of `spec_to_json`; `FileError` if the object is not one of those."""
    try:
        action = {name: _tuples(value) for name, value in data["action"].items()}
        observation = data["observation"]
        return EnvSpec(
            id=str(data["id"]),
            observation=_array_spec(observation)
            if "shape" in observation
            else tuple((str(name), _array_spec(part)) for name, part in observation.items()),
            action=_ACTIONS[action.pop("kind")](**action),
            max_episode_steps=data["max_episode_steps"],
            reward_threshold=data["reward_threshold"],
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise FileError(f"{where}: the environment's spec is damaged ({error!r}): restore the file") from error


def _array_spec(data: dict[str, Any]) -> ArraySpec:
    return ArraySpec(**{name: _tuples(value) for name, value in data.items()})


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
