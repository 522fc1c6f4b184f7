"""Where log rows go: always metrics.jsonl; CSV and TensorBoard where asked for."""

import csv
import hashlib
import importlib.util
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ridgeline.errors import UsageError
from ridgeline.experiments.files import storing, write_all, write_whole
from ridgeline.report import curves
from ridgeline.safe import parse_json, read_lines, read_pieces
from ridgeline.training.loop import Row

SINKS = ("csv", "tensorboard")


@runtime_checkable
class Sink(Protocol):
    """Takes the log rows of a run."""

    def write(self, rows: Sequence[Row]) -> None:
        """Take rows in their order, one a seed for each log point."""

    def close(self) -> None:
        """Finish what was begun."""


class JsonLines:
    """metrics.jsonl: one JSON object a line, each row one write.

    Where a run goes on, the file is cut to what it held at the checkpoint's `mark`, or to nothing without one.
    `notes` say what was out of order.
    """

    def __init__(self, folder: Path, mark: dict[str, Any] | None = None) -> None:
        self.path = folder / "metrics.jsonl"
        self.notes: list[str] = []
        with storing(self.path):
            held, digest = 0, hashlib.sha256()
            for piece in read_pieces(self.path, mark["bytes"]) if mark and self.path.exists() else ():
                held += len(piece)
                digest.update(piece)
            if mark is not None and digest.hexdigest() != mark["sha256"]:
                aside = self.path.with_name("metrics.damaged.jsonl")
                if self.path.exists():
                    os.replace(self.path, aside)
                    self.notes.append(f"{self.path} was changed: set aside as {aside.name}, and begun anew")
                else:
                    self.notes.append(f"{self.path} is missing: begun anew")
                held, digest = 0, hashlib.sha256()
            with self.path.open("ab") as file:
                file.truncate(held)
        self._bytes, self._digest = held, digest

    def write(self, rows: Sequence[Row]) -> None:
        """Append each row, in one write."""
        if not rows:
            return
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        with storing(self.path), self.path.open("ab", buffering=0) as file:
            write_all(file, memoryview(text))
        self._bytes += len(text)
        self._digest.update(text)

    def mark(self) -> dict[str, Any]:
        """How long the file is, and a digest of it; what it holds lasts."""
        with storing(self.path), self.path.open("rb") as file:
            os.fsync(file.fileno())
        return {"bytes": self._bytes, "sha256": self._digest.hexdigest()}

    def close(self) -> None:
        """Nothing is open."""


class Csv:
    """metrics.csv: the rows of metrics.jsonl as a table."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder = folder

    def write(self, rows: Sequence[Row]) -> None:
        """Nothing yet: a metric of a later row may need a column."""

    def close(self) -> None:
        """Write the table."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in self._rows() for name in row)))
        writer.writeheader()
        writer.writerows(self._rows())
        write_whole(self.folder / "metrics.csv", text.getvalue().encode())

    def _rows(self) -> Iterator[dict[str, Any]]:
        path = self.folder / "metrics.jsonl"
        for number, line in enumerate(read_lines(path, curves.FILE, curves.LINE), start=1):
            yield parse_json(line, f"{path}, line {number}", finite=False)


class TensorBoard:
    """tensorboard/seed-K: one event file a seed."""

    def __init__(self, folder: Path, steps: int) -> None:
        from tensorboardX import SummaryWriter

        self.folder, self.writer_type, self.steps = folder / "tensorboard", SummaryWriter, steps
        self.writers: dict[Any, Any] = {}

    def write(self, rows: Sequence[Row]) -> None:
        """One scalar for each metric that was measured."""
        for row in rows:
            seed, steps = row["seed"], row["steps"]
            if seed not in self.writers:
                # Points after these steps are of a part of the run that is done again.
                purge = self.steps + 1 if self.steps else None
                self.writers[seed] = self.writer_type(str(self.folder / f"seed-{seed}"), purge_step=purge)
            for name, value in row.items():
                if name not in ("seed", "steps") and value is not None:
                    self.writers[seed].add_scalar(name, value, steps)

    def close(self) -> None:
        """Flush the event files."""
        for writer in self.writers.values():
            writer.close()


def check_sinks(names: Sequence[str]) -> None:
    """Raise `UsageError` for a name that is no sink, or whose package is not installed."""
    for name in names:
        if name not in SINKS:
            raise UsageError(f"no sink {name!r}: there are {', '.join(SINKS)}")
    if "tensorboard" in names and importlib.util.find_spec("tensorboardX") is None:
        raise UsageError("sink tensorboard needs a package: pip install 'ridgeline[tensorboard]'")


def open_sinks(folder: Path, names: Sequence[str], steps: int) -> list[Sink]:
    """The named sinks, which `check_sinks` has let pass, of a run that goes on after so many steps."""
    kinds: dict[str, Any] = {"csv": Csv, "tensorboard": TensorBoard}
    return [kinds[name](folder, steps) for name in names]
