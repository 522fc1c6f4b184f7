"""Files of a run, written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from ridgeline.errors import StorageError


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name, then rename it. Raises `StorageError`."""
    temporary = path.with_name(path.name + ".partial")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written ({error.strerror}): free the disk or give --out") from error


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Write a JSON object whole; it holds no NaN."""
    write_whole(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())
