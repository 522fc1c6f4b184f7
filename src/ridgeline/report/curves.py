"""The metrics of a run: `metrics.jsonl` as arrays [seeds, grid points]."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import FileError
from ridgeline.report.statistics import Floats, bootstrap_interval, interquartile_mean

KEYS = ("steps", "seed")


@dataclasses.dataclass(frozen=True, eq=False)
class Curves:
    """Metrics over training: `steps` [K] of one seed, `values[name]` [S, K] ordered as `seeds`, NaN if missing."""

    steps: NDArray[np.int64]
    seeds: tuple[int, ...]
    values: dict[str, Floats]

    def get(self, name: str) -> Floats:
        """A metric [S, K]; all NaN if the run never logged it."""
        return self.values.get(name, np.full((len(self.seeds), len(self.steps)), np.nan))

    def iqm(self, name: str) -> tuple[Floats, Floats, Floats]:
        """The interquartile mean over seeds and its 95 % interval: (iqm [K], low [K], high [K])."""
        return interquartile_mean(self.get(name)), *bootstrap_interval(self.get(name))

    def only(self, name: str, most: int) -> "Curves":
        """One metric at the grid points where some seed has a value, at most `most` of them, evenly chosen."""
        values = self.get(name)
        present = np.flatnonzero(np.any(~np.isnan(values), axis=0))
        if len(present) > most:
            present = present[np.linspace(0, len(present) - 1, most).round().astype(int)]
        return Curves(self.steps[present], self.seeds, {name: values[:, present]})


def read(path: Path) -> Curves:
    """Read `metrics.jsonl`.

    An unfinished last line is ignored: a run may be writing, or died while it was. Where a resumed run logged a
    point again, the later row counts. Null and non-finite values are missing ones. `FileError` names the line.
    """
    rows: dict[tuple[int, int], dict[str, float]] = {}
    *lines, tail = read_bytes(path).split(b"\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            where = f"{path}, line {number}"
            _add(rows, parse(line, where), where)
    if tail.strip():
        where = f"{path}, line {len(lines) + 1}"
        try:
            record = parse(tail, where)
        except FileError:
            record = {}
        if record:
            _add(rows, record, where)

    steps, seeds = (sorted(set(column)) for column in zip(*rows, strict=True)) if rows else ([], [])
    at_step, at_seed = ({value: index for index, value in enumerate(axis)} for axis in (steps, seeds))
    values: dict[str, Floats] = {}
    for (step, seed), row in rows.items():
        for name, value in row.items():
            if name not in values:
                values[name] = np.full((len(seeds), len(steps)), np.nan)
            values[name][at_seed[seed], at_step[step]] = value
    return Curves(np.array(steps, dtype=np.int64), tuple(seeds), values)


def read_bytes(path: Path) -> bytes:
    """A file's bytes; `FileError` where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}); name the folder of a run") from error


def parse(text: bytes, where: str) -> dict[str, Any]:
    """A JSON object; `FileError` at `where` if it is anything else."""
    try:
        record = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where}: not valid JSON ({error}); restore it from a copy or train again") from error
    if not isinstance(record, dict):
        raise FileError(f"{where}: holds a {type(record).__name__}, not a JSON object; restore it or train again")
    return record


def finite(value: object, where: str, name: str) -> float:
    """A JSON number as a float: null and numbers beyond the floats are NaN; anything else is a `FileError`."""
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise FileError(f"{where}: `{shorten(name)}` is {shorten(value)}, not a number; restore it or train again")
    try:
        return float(value) if math.isfinite(value) else math.nan
    except OverflowError:
        return math.nan


def shorten(value: object) -> str:
    """A value from a file, fit for one line of an error message."""
    text = value if isinstance(value, str) and value.isprintable() else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _add(rows: dict[tuple[int, int], dict[str, float]], record: dict[str, Any], where: str) -> None:
    for key in KEYS:
        value = record.get(key)
        if type(value) is not int or not 0 <= value < 2**63:
            raise FileError(f"{where}: `{key}` is {shorten(value)}, not a whole number; restore it or train again")
    row = {name: finite(value, where, name) for name, value in record.items() if name not in KEYS}
    rows[record["steps"], record["seed"]] = row
