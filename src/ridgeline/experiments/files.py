"""Files of a run, written whole or not at all, and safe on the disk once they have their names."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ridgeline.errors import StorageError


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """What fails while this is written is a `StorageError` of one line."""
    try:
        yield
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}): free the disk or give --out") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name, then rename it. Raises `StorageError`."""
    temporary = path.with_name(path.name + ".partial")
    with storing(path):
        try:
            with temporary.open("wb", buffering=0) as file:
                write_all(file, memoryview(data))
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise
        sync(path.parent)


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object whole; it holds no NaN."""
    write_whole(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())


def write_all(file: Any, data: memoryview) -> None:
    """Write all of it to an unbuffered file, which may take less at once."""
    while data:
        data = data[file.write(data) :]


def sync(folder: Path) -> None:
    """Make the names in a folder last; a rename is lost with the power otherwise."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove(folder: Path) -> None:
    """Remove a folder and all in it; one that is gone already is as good."""
    shutil.rmtree(folder, ignore_errors=True)
