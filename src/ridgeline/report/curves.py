"""The metrics of a run: `metrics.jsonl` as arrays [seeds, grid points]."""

import dataclasses
import math
from array import array
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import FileError
from ridgeline.report.statistics import Floats, bootstrap_interval, interquartile_mean
from ridgeline.safe import MIB, file_size, parse_json, read_lines, refuse

KEYS = ("steps", "seed")
FILE, LINE = 256 * MIB, MIB  # bytes of a file, and of a row in it
ROWS, METRICS = 500_000, 4096


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
    # Every metric takes 8 bytes at every point of every seed, whether it has a value there or not.
    most = file_size(path, FILE) // 2 + 16 * MIB
    steps, seeds, columns = array("q"), array("q"), dict[str, array[float]]()
    for number, line in enumerate(read_lines(path, FILE, LINE), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            record = parse_json(line, where, entries=4 * METRICS, finite=False)
        except FileError:
            if line.endswith(b"\n"):
                raise
            break
        for key in KEYS:
            if type(record.get(key)) is not int or not 0 <= record[key] < 2**63:
                problem = f"`{key}` is {shorten(record.get(key))}, not a whole number"
                raise FileError(f"{where}: {problem}; restore it or train again")
        for name, value in record.items():
            if name not in KEYS:
                column = columns.setdefault(name, array("d"))
                column.extend([math.nan] * (len(steps) - len(column)))
                column.append(finite(value, where, name))
        steps.append(record["steps"])
        seeds.append(record["seed"])
        if len(steps) > ROWS or len(columns) > METRICS or 8 * len(steps) * len(columns) > most:
            refuse(where, f"{len(steps):,} rows of {len(columns):,} metrics are more than are read")

    points, at_step = np.unique(np.array(steps, np.int64), return_inverse=True)
    known, at_seed = np.unique(np.array(seeds, np.int64), return_inverse=True)
    if 8 * len(points) * len(known) * (len(columns) + 1) > most:
        refuse(path, f"{len(points):,} points of {len(known):,} seeds, and few rows: more than are read")
    values: dict[str, Floats] = {}
    for name in list(columns):
        column = columns.pop(name)
        column.extend([math.nan] * (len(steps) - len(column)))
        values[name] = np.full((len(known), len(points)), np.nan)
        values[name][at_seed, at_step] = column
    return Curves(points, tuple(known.tolist()), values)


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
