"""`config.json`, and records to JSON and back: hyper-parameters and environment specs. Reading runs no code."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import numpy as np

from ridgeline.errors import FileError, short
from ridgeline.experiments.files import write_json
from ridgeline.safe import read_json
from ridgeline.specs import spec_from_json as spec_from_json
from ridgeline.specs import spec_to_json as spec_to_json

# The settings that `config.json` holds under their own names, for whoever resumes the run.
KEPT = (
    "evaluations",
    "evaluation_episodes",
    "final_episodes",
    "sinks",
    "checkpoint_seconds",
    "checkpoint_steps",
    "on_nan",
    "save_best",
)
# What whoever resumes the run needs of it, each of one of these types.
KINDS: dict[str, Any] = {
    "ridgeline": str,
    "algorithm": str,
    "env": str,
    "source": str | None,
    "backend": str | None,
    "steps": int,
    "seeds": list,
    "spec": dict,
    "hyperparameters": dict,
    "initial_policy": dict | None,
    "evaluations": int,
    "evaluation_episodes": int,
    "final_episodes": int,
    "sinks": list,
    "checkpoint_seconds": float | int,
    "checkpoint_steps": int,
    "on_nan": str,
    "save_best": bool,
}
ORIGIN: dict[str, Any] = {"path": str | None, "sha256": str}  # of the initial policy


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """`config.json`, with a digest of the rest."""
    write_json(folder / "config.json", config | {"sha256": _digest(config)})


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` as it was written; `FileError` where it was changed since, or is of another version."""
    path = folder / "config.json"
    config = read_json(path)
    if config.get("schema") != 1 or "run" not in config:
        raise FileError(f"{path}: schema {config.get('schema')!r:.20}: a run of another version cannot go on")
    sha256 = config.pop("sha256", None)
    if sha256 != _digest(config):
        raise FileError(f"{path}: not as it was written: restore it, or train again")
    require(config, KINDS, str(path))
    if config["initial_policy"] is not None:
        require(config["initial_policy"], ORIGIN, str(path))
    if not all(type(seed) is int for seed in config["seeds"]):
        raise FileError(f"{path}: `seeds` are not whole numbers: restore it, or train again")
    return config


def _digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def require(data: dict[str, Any], kinds: dict[str, Any], where: str) -> None:
    """Raise `FileError` for the first of these fields that is missing or of another type."""
    for name, kind in kinds.items():
        if not isinstance(data.get(name), kind):
            raise FileError(f"{where}: `{name}` is {short(data.get(name))}: restore it, or train again")


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
