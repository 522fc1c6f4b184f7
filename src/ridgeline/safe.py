"""Files of unknown origin, read within bounds that are checked before anything is allocated. No code is run.

JSON is bounded in bytes, depth and entries; JSON lines also in the length of each, and they are read one by one;
arrays (safetensors) by the sizes of file and header, and in their number, names, dtypes and shapes. `pack` seals a
header and arrays with a SHA-256, `unpack` verifies it. What is wrong with a file is a `FileError` of one line that
begins with its path.
"""

import contextlib
import hashlib
import json
import math
import os
import re
import stat
from collections.abc import Iterator, KeysView, Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from ridgeline.errors import FileError, short

MIB = 2**20
# Of a file that is one JSON object. Parsed, text may take 13 times its bytes: 2 × file + 64 MiB allow that.
JSON = 4 * MIB
REMEDY = "restore the file or make it anew"


class Limits(NamedTuple):
    """What a file of arrays may hold: bytes in all and of header, arrays, and levels and entries of JSON."""

    file: int = 16 * 2**30
    header: int = 2 * MIB
    arrays: int = 4096
    depth: int = 32
    entries: int = 100_000


DEFAULT = Limits()

# What safetensors calls the dtypes that NumPy has.
DTYPES = {
    "BOOL": "|b1",
    "U8": "|u1",
    "I8": "|i1",
    "U16": "<u2",
    "I16": "<i2",
    "U32": "<u4",
    "I32": "<i4",
    "U64": "<u8",
    "I64": "<i8",
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
}

_NAMES = {kind: name for name, kind in DTYPES.items()}

# A string that nothing closes ends with the data: so one pass suffices, whatever the data are.
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_STEP = np.zeros(256, np.int8)
_STEP[list(b"[{")], _STEP[list(b"]}")] = 1, -1
_ENTRY = np.isin(np.arange(256), list(b",[{:"))


def refuse(path: Path | str, problem: str) -> NoReturn:
    """Raise the `FileError` of a file in which something is wrong."""
    raise FileError(f"{path}: {problem}: {REMEDY}")


def file_size(path: Path | str, limit: int) -> int:
    """The size of a plain file in bytes; `FileError` where it is none (a pipe would wait for ever) or larger."""
    try:
        found = os.stat(path)
    except (OSError, ValueError) as error:  # a name that holds a zero byte is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise FileError(f"{path}: cannot be read ({reason}): check the path") from error
    if not stat.S_ISREG(found.st_mode):
        raise FileError(f"{path}: not a plain file: check the path")
    if found.st_size > limit:
        refuse(path, f"{found.st_size:,} bytes, and at most {limit:,} are read")
    return found.st_size


def read_bytes(path: Path | str, limit: int) -> bytes:
    """The whole file, at most `limit` bytes of it; `FileError` where it is larger or cannot be read."""
    file_size(path, limit)
    return _read(path, 0, limit)


@contextlib.contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FileError(f"{path}: cannot be read ({error.strerror}): check the path") from error


def _read(path: Path | str, start: int, count: int) -> bytes:
    with _reading(path), open(path, "rb") as file:
        file.seek(start)
        return file.read(count)


def read_pieces(path: Path | str, count: int) -> Iterator[bytes]:
    """The first `count` bytes of a file, or as many as it has, 1 MiB at a time."""
    left = min(count, file_size(path, 2**63))
    with _reading(path), open(path, "rb") as file:
        while piece := file.read(min(left, MIB)):
            left -= len(piece)
            yield piece


def read_lines(path: Path | str, limit: int, longest: int) -> Iterator[bytes]:
    """The lines of a file of at most `limit` bytes, each of at most `longest`; only the last may lack its end.

    What is written to the file meanwhile is left out.
    """
    left, number = file_size(path, limit), 0
    with _reading(path), open(path, "rb") as file:
        while line := file.readline(min(left, longest + 1)):
            left, number = left - len(line), number + 1
            if len(line) > longest:
                refuse(f"{path}, line {number}", f"longer than {longest:,} bytes")
            yield line


def parse_json(
    data: bytes,
    where: Path | str,
    depth: int = DEFAULT.depth,
    entries: int = DEFAULT.entries,
    *,
    finite: bool = True,
) -> dict[str, Any]:
    """The object that JSON text means: at most `depth` levels and about `entries` entries.

    Raises: `FileError` that begins with `where`; also where an object names one key twice, and where a number is
    not finite but should be.
    """
    marks = np.frombuffer(_STRING.sub(b"", data), np.uint8)
    if int(np.max(np.cumsum(_STEP[marks], dtype=np.int32), initial=0)) > depth:
        refuse(where, f"JSON of more than {depth} levels")
    if int(np.count_nonzero(_ENTRY[marks])) > entries:
        refuse(where, f"JSON of more than {entries:,} entries")
    number = _finite if finite else float
    try:
        found = json.loads(data.decode(), object_pairs_hook=_object, parse_float=number, parse_constant=number)
    except (ValueError, RecursionError) as error:
        raise FileError(f"{where}: not readable JSON ({_reason(error)}): {REMEDY}") from error
    if not isinstance(found, dict):
        refuse(where, "not a JSON object")
    return found


def read_json(path: Path | str, limit: int = JSON) -> dict[str, Any]:
    """The JSON object that a file of at most `limit` bytes holds; `FileError` if it holds none."""
    return parse_json(read_bytes(path, limit), path)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands twice")
    return found


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError("a number is not finite")
    return value


def _reason(error: BaseException) -> str:
    """Why JSON or UTF-8 could not be read, without the data that the exception may hold."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg}, at character {error.pos}"
    return error.reason if isinstance(error, UnicodeDecodeError) else str(error)[:80]


class Place(NamedTuple):
    """Where in a file an array stands, and what it is."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    size: int


class Arrays:
    """Arrays of a file by name; each is read when it is asked for, and not kept; `dict` of it reads all.

    `places` says dtype and shape of each before anything is read.
    """

    def __init__(self, path: Path | str, places: dict[str, Place]) -> None:
        self.path, self.places = path, places

    def __getitem__(self, name: str) -> np.ndarray:
        dtype, shape, start, size = self.places[name]
        with _reading(self.path):
            raw = np.fromfile(self.path, np.uint8, size, offset=start)
        if raw.size != size:
            refuse(self.path, f"array {short(name)} is cut off")
        if dtype.kind == "b" and (raw > 1).any():
            refuse(self.path, f"array {short(name)} holds flags that are neither 0 nor 1")
        return raw.view(dtype).reshape(shape)

    def keys(self) -> KeysView[str]:
        """The names."""
        return self.places.keys()


def read_arrays(path: Path | str, limits: Limits = DEFAULT) -> tuple[dict[str, str], Arrays]:
    """Metadata and arrays of a safetensors file; of the arrays only names, dtypes and shapes are read yet.

    One parser of our own, and no memory map: a file that shrinks under a map kills the process.

    Raises: `FileError` where the file breaks the format or exceeds the limits.
    """
    size = file_size(path, limits.file)
    if size < 8:
        refuse(path, "too short to hold arrays")
    length = int.from_bytes(_read(path, 0, 8), "little")
    if length > min(limits.header, size - 8):
        refuse(path, f"its header of {length:,} bytes is longer than the file or than {limits.header:,} bytes")
    header = parse_json(_read(path, 8, length), path, limits.depth, limits.entries)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        refuse(path, "its metadata are not texts by name")
    if len(header) > limits.arrays:
        refuse(path, f"{len(header):,} arrays, and at most {limits.arrays:,} are read")
    places = {name: _place(path, name, entry, 8 + length) for name, entry in header.items()}
    end = 8 + length
    for place in sorted(places.values(), key=lambda place: (place.start, place.size)):
        if place.start != end:
            refuse(path, "its arrays overlap or leave gaps")
        end += place.size
    if end != size:
        refuse(path, f"{size:,} bytes, and its header speaks of {end:,}")
    return metadata, Arrays(path, places)


def _place(path: Path | str, name: str, entry: Any, origin: int) -> Place:
    if not (0 < len(name) <= 512 and name.isprintable()):
        refuse(path, f"an array cannot be named {short(name)}")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse(path, f"array {short(name)} has no dtype, shape and place")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        refuse(path, f"array {short(name)} is of dtype {short(kind)}, which is not read")
    if not (_counts(shape) and len(shape) <= 16 and _counts(offsets) and len(offsets) == 2):
        refuse(path, f"array {short(name)} has the shape {short(shape)} at {short(offsets)}")
    dtype, (first, last) = np.dtype(DTYPES[kind]), offsets
    if math.prod(shape) * dtype.itemsize != last - first:
        refuse(path, f"array {short(name)} of {dtype}{short(shape)} does not take {last - first} bytes")
    return Place(dtype, tuple(shape), origin + first, last - first)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**48 for n in value)


def digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of a text and of every array's name, dtype, shape and bytes, in the order of the names."""
    sha = hashlib.sha256()
    for name in (None, *sorted(arrays)):
        array = np.empty(0) if name is None else np.ascontiguousarray(arrays[name])
        label = text if name is None else json.dumps([name, array.dtype.str, np.shape(arrays[name])])
        data = label.encode("utf-8", "surrogatepass")
        sha.update(len(data).to_bytes(8, "little") + data)
        sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def head(places: Mapping[str, tuple[np.dtype[Any], tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """What a safetensors file begins with, before the bytes of arrays of those dtypes and shapes, in that order.

    The library would write metadata in an order that changes from call to call, and gather all bytes first.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for name, (dtype, shape) in places.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype.str], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def pack(header: dict[str, Any], arrays: Mapping[str, np.ndarray]) -> bytes:
    """A safetensors file whose metadata hold `header` as JSON, under `ridgeline`, and the `digest` of all."""
    text = json.dumps(header, allow_nan=False)
    whole = {name: np.array(array, order="C") for name, array in arrays.items()}
    places = {name: (array.dtype, array.shape) for name, array in whole.items()}
    begin = head(places, {"ridgeline": text, "sha256": digest(text, whole)})
    return b"".join([begin, *(array.tobytes() for array in whole.values())])


def unpack(path: Path | str, limits: Limits = DEFAULT) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays that `pack` wrote, once every byte of them is verified.

    Raises: `FileError` where the file is damaged, cut off, altered or of another kind.
    """
    metadata, places = read_arrays(path, limits)
    if not {"ridgeline", "sha256"} <= metadata.keys():
        refuse(path, "not a file of ridgeline's, or one that holds no checksum")
    arrays = dict(places)
    if digest(metadata["ridgeline"], arrays) != metadata["sha256"]:
        refuse(path, "damaged: its content is not what its checksum says")
    text = metadata["ridgeline"].encode("utf-8", "surrogatepass")
    return parse_json(text, path, limits.depth, limits.entries), arrays
