"""Where log rows go: always metrics.jsonl; CSV and TensorBoard where asked for."""

import csv
import importlib.util
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from ridgeline.errors import StorageError, UsageError
from ridgeline.experiments.files import write_whole
from ridgeline.training.loop import Row

SINKS = ("csv", "tensorboard")


@runtime_checkable
class Sink(Protocol):
    """Takes the log rows of a run."""

    def write(self, rows: Sequence[Row]) -> None:
        """Take the rows of one log point, one a seed."""

    def close(self) -> None:
        """Finish what was begun."""


class JsonLines:
    """metrics.jsonl: one JSON object a line."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.jsonl"
        self.path.touch()

    def write(self, rows: Sequence[Row]) -> None:
        """Append each row, in one write."""
        if not rows:
            return
        text = "".join(json.dumps(row) + "\n" for row in rows)
        try:
            with self.path.open("ab", buffering=0) as file:
                file.write(text.encode())
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be written ({error.strerror}): free the disk") from error

    def close(self) -> None:
        """Nothing is open."""


class Csv:
    """metrics.csv: the same rows as a table."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "metrics.csv"
        self.rows: list[Row] = []

    def write(self, rows: Sequence[Row]) -> None:
        """Keep the rows: a metric of a later row may need a column."""
        self.rows.extend(rows)

    def close(self) -> None:
        """Write the table."""
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in self.rows for name in row)))
        writer.writeheader()
        writer.writerows(self.rows)
        write_whole(self.path, text.getvalue().encode())


class TensorBoard:
    """tensorboard/seed-K: one event file a seed."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self.folder, self.writer_type = folder / "tensorboard", SummaryWriter
        self.writers: dict[Any, Any] = {}

    def write(self, rows: Sequence[Row]) -> None:
        """One scalar for each metric that was measured."""
        for row in rows:
            seed, steps = row["seed"], row["steps"]
            if seed not in self.writers:
                self.writers[seed] = self.writer_type(str(self.folder / f"seed-{seed}"))
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


def open_sinks(folder: Path, names: Sequence[str]) -> list[Sink]:
    """metrics.jsonl and the named others, which `check_sinks` has let pass."""
    kinds: dict[str, Any] = {"csv": Csv, "tensorboard": TensorBoard}
    return [JsonLines(folder), *(kinds[name](folder) for name in names)]
