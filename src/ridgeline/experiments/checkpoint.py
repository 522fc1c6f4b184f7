"""Checkpoints: all that a run is between two chunks, in a folder that is there whole or not at all.

RUN/checkpoints/000007/arrays.safetensors    what the runner holds
                       manifest.json         a digest of every array, where the run stands, its config

A checkpoint is written under another name; its files are made to last, the manifest last of all, before one rename
gives it its own. The two newest are kept.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ridgeline.errors import FileError, NumericalError, StorageError
from ridgeline.experiments.files import remove, storing, sync, write_all
from ridgeline.safe import head, read_arrays, read_json
from ridgeline.training.snapshot import Leaf, named

SCHEMA = 1
KEPT = 2


@dataclasses.dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that was read and found whole. `facts` is everything but the arrays."""

    folder: Path
    facts: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def fill(self, shapes: PyTree[jax.ShapeDtypeStruct]) -> PyTree[np.ndarray]:
        """The arrays in the places of shapes (−1 is any length); `FileError` names the first that differs."""
        wanted = named(shapes)
        if odd := sorted(wanted.keys() ^ self.arrays.keys()):
            state = "missing" if odd[0] in wanted else "not expected"
            raise FileError(f"{self.folder}: array {odd[0]} is {state}: the checkpoint is of another version")
        for name, shape in wanted.items():
            found = self.arrays[name]
            fits = len(found.shape) == len(shape.shape) and all(
                b in (-1, a) for a, b in zip(found.shape, shape.shape, strict=True)
            )
            if not fits or found.dtype != shape.dtype:
                raise FileError(
                    f"{self.folder}: array {name} is {found.dtype}{list(found.shape)}, "
                    f"and {shape.dtype}{list(shape.shape)} is expected: the checkpoint is of another version"
                )
        return jax.tree.unflatten(jax.tree.structure(shapes), [self.arrays[name] for name in wanted])


class Checkpoints:
    """The checkpoints of one run's folder."""

    def __init__(self, run: Path) -> None:
        self.folder = run / "checkpoints"

    def save(self, snapshot: PyTree[Leaf], facts: dict[str, Any]) -> Path:
        """Write one more and remove all but the newest two; its folder. Raises `StorageError`."""
        number = max(self._numbers(), default=0) + 1
        final, temporary = self.folder / f"{number:06}", self.folder / f".writing-{number:06}"
        with storing(final):
            self.folder.mkdir(exist_ok=True)
            self.sweep()
            temporary.mkdir()
            try:
                arrays = write_arrays(temporary / "arrays.safetensors", named(snapshot))
                manifest = {"schema": SCHEMA, "number": number, **facts, "arrays": arrays}
                with (temporary / "manifest.json").open("xb", buffering=0) as file:
                    write_all(file, memoryview(_signed(manifest)))
                    os.fsync(file.fileno())
                sync(temporary)
                sync(self.folder.parent)  # this folder may be new
                os.rename(temporary, final)
            except OSError:
                remove(temporary)
                raise
            sync(self.folder)
            for old in sorted(self._numbers())[:-KEPT]:
                # Half removed it would look like a damaged one.
                going = self.folder / f".removing-{old:06}"
                os.rename(self.folder / f"{old:06}", going)
                remove(going)
        return final

    def latest(self) -> tuple[Checkpoint | None, list[str]]:
        """The newest that is whole, with a line for each newer one that is not; None where there never was one.

        Raises: `FileError` where none of those that there are is whole, `StorageError` where none can be listed.
        """
        skipped: list[str] = []
        for number in sorted(self._numbers(), reverse=True):
            try:
                return read(self.folder / f"{number:06}"), skipped
            except FileError as error:
                skipped.append(str(error))
        if skipped:
            raise FileError(f"{self.folder}: no checkpoint is whole ({skipped[0]}): restore one or train again")
        return None, []

    def _numbers(self) -> list[int]:
        try:
            return [int(path.name) for path in self.folder.iterdir() if path.name.isdecimal() and path.is_dir()]
        except FileNotFoundError:
            return []
        except OSError as error:  # were it taken for empty, the run would begin anew
            raise StorageError(f"{self.folder}: cannot be listed ({error.strerror}): check the disk") from error

    def sweep(self) -> None:
        """Remove what a process that was killed has left."""
        for path in self.folder.glob(".*ing-*"):
            remove(path)


def read(folder: Path) -> Checkpoint:
    """A checkpoint whose every array is the one that was written; else `FileError`."""
    path = folder / "manifest.json"
    signed = read_json(path)
    manifest = signed.get("manifest")
    if not isinstance(manifest, dict) or signed.get("sha256") != _digest(manifest):
        raise FileError(f"{path}: damaged: its digest differs")
    if manifest.get("schema") != SCHEMA:
        raise FileError(f"{path}: schema {manifest.get('schema')!r:.20}, and this version reads {SCHEMA}")
    number, known = manifest.get("number"), manifest.get("arrays")
    if type(number) is not int or not isinstance(known, dict):
        raise FileError(f"{path}: names no number and arrays: not a checkpoint's")
    if f"{number:06}" != folder.name:
        raise FileError(f"{path}: of checkpoint {number}: put it back in its place")
    file = folder / "arrays.safetensors"
    _, arrays = read_arrays(file)
    if arrays.keys() != known.keys():
        raise FileError(f"{file}: damaged: its arrays are not those of the manifest")
    found = {}
    for name, facts in known.items():
        found[name] = array = arrays[name]
        what = {"sha256": hashlib.sha256(_bytes(array)).hexdigest(), **_describe(array)}
        if what != facts:
            raise FileError(f"{file}: damaged: array {name} is not what was written")
    return Checkpoint(folder, {k: v for k, v in manifest.items() if k != "arrays"}, found)


def check_finite(names: Iterable[tuple[str, Any]], seeds: tuple[int, ...]) -> None:
    """Raise `NumericalError` for the first leaf [S, ...] that is not finite: such a state is never saved."""
    for name, leaf in names:
        finite = np.isfinite(np.asarray(leaf)).reshape(len(leaf), -1).all(1)
        if not finite.all():
            raise NumericalError(f"seed {seeds[int(np.argmin(finite))]}: {name} is not finite: not saved")


def write_arrays(path: Path, leaves: dict[str, Leaf]) -> dict[str, Any]:
    """Write a safetensors file piece by piece and make it last; each array's digest, dtype and shape."""
    found = {}
    with path.open("xb", buffering=0) as file:
        write_all(file, memoryview(head({name: (leaf.dtype, leaf.shape) for name, leaf in leaves.items()}, {})))
        for name, leaf in leaves.items():
            digest = hashlib.sha256()
            for piece in leaf.pieces():
                data = _bytes(piece)
                digest.update(data)
                write_all(file, data)
            found[name] = {"sha256": digest.hexdigest(), **_describe(leaf)}
        os.fsync(file.fileno())
    return found


def _describe(array: Leaf | np.ndarray) -> dict[str, Any]:
    return {"dtype": array.dtype.name, "shape": list(array.shape)}


def _bytes(array: np.ndarray) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8)) if array.size else memoryview(b"")


def _signed(manifest: dict[str, Any]) -> bytes:
    """A manifest with its digest, which covers all of it, as JSON."""
    return json.dumps({"sha256": _digest(manifest), "manifest": manifest}, indent=1).encode()


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True, allow_nan=False).encode()).hexdigest()
