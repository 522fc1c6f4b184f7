"""Records to JSON and back: hyper-parameters and environment specs. Reading runs no code."""

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np

from ridgeline.errors import FileError, short
from ridgeline.specs import spec_from_json as spec_from_json
from ridgeline.specs import spec_to_json as spec_to_json


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
            raise FileError(f"{where}: no hyper-parameter {short(name)}: it is of another version of ridgeline")
        old = getattr(default, name)
        if isinstance(old, eqx.Module) and isinstance(value, dict):
            data = data | {name: record_from_json(old, value, where)}
        elif isinstance(old, tuple) and isinstance(value, list):
            data = data | {name: tuple(value)}
        elif type(old) is not type(value) and not (isinstance(old, float) and isinstance(value, int)):
            raise FileError(f"{where}: {name} is {short(value)}, and {type(old).__name__} is expected")
    return dataclasses.replace(default, **data)
