"""Bounded reading: what is refused, before anything is allocated, and what comes back."""

import json
import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from ridgeline import safe
from ridgeline.errors import FileError

ARRAYS = {
    "a/weight": np.arange(6, dtype=np.float32).reshape(2, 3),
    "a/flag": np.array([True, False]),
    "b": np.array(7, np.int32),
    "none": np.zeros((0, 4)),
}


def raw(header: Any, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(dtype: Any = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "it.safetensors"
    path.write_bytes(safe.pack({"x": [1, "é"]}, ARRAYS))
    return path


def test_what_was_packed_is_unpacked(file: Path) -> None:
    header, arrays = safe.unpack(file)
    assert header == {"x": [1, "é"]}
    assert arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_arrays_are_those_that_safetensors_reads(file: Path) -> None:
    metadata, arrays = safe.read_arrays(file)
    with safetensors.safe_open(file, framework="numpy") as other:
        assert other.metadata() == metadata
    for name, array in safetensors.numpy.load_file(file).items():
        np.testing.assert_array_equal(arrays[name], array, strict=True)


def test_every_flipped_bit_is_noticed(file: Path) -> None:
    whole, path = file.read_bytes(), file.with_name("flipped")
    for at in range(len(whole)):
        for bit in range(8) if at % 7 == 0 else (at % 8, 5):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            with pytest.raises(FileError):
                safe.unpack(path)


def test_every_truncation_is_noticed(file: Path) -> None:
    whole, path = file.read_bytes(), file.with_name("cut")
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(FileError):
            safe.unpack(path)


def test_swapped_arrays_are_noticed(tmp_path: Path) -> None:
    one, two = np.float32([1, 2]), np.float32([3, 4])
    path = tmp_path / "swapped"
    whole = safe.pack({}, {"one": one, "two": two})
    assert whole.endswith(one.tobytes() + two.tobytes())
    path.write_bytes(whole[:-16] + two.tobytes() + one.tobytes())
    with pytest.raises(FileError, match="checksum"):
        safe.unpack(path)


HOSTILE = {
    "empty": (b"", "too short"),
    "endless header": (b"\xff" * 8, "longer than the file"),
    "huge header": ((3 * safe.MIB).to_bytes(8, "little") + b" " * 3 * safe.MIB, "longer than"),
    "deep": (raw(b"[" * 10_000), "levels"),
    "deep in a string": (raw(b'{"[[[[' + b"[" * 100 + b'": 1}'), "no dtype"),
    "wide": (raw(b"[" + b"[]," * 150_000 + b"[]]"), "entries"),
    "unclosed quotes": (raw(b'"' + b'\\"' * 500_000), "JSON"),
    "a long number": (raw(b'{"a":' + b"1" * 100_000 + b"}"), "JSON"),
    "not a number": (raw(b'{"a": NaN}'), "not finite"),
    "infinite": (raw(b'{"a": 1e999}'), "not finite"),
    "twice": (raw(b'{"a": 1, "a": 1}'), "twice"),
    "not UTF-8": (raw(b'{"\xff": 1}'), "JSON"),
    "a list": (raw([]), "not a JSON object"),
    "metadata": (raw({"__metadata__": {"a": 1}}), "texts"),
    "many": (raw({str(i): entry(shape=[0], offsets=[0, 0]) for i in range(5000)}), "5,000 arrays"),
    "no place": (raw({"a": 1}), "no dtype"),
    "a name": (raw({"\n": entry()}, b"0000"), "cannot be named"),
    "no name": (raw({"": entry()}, b"0000"), "cannot be named"),
    "half a character": (raw({"\ud800": entry()}, b"0000"), "cannot be named"),
    "bfloat16": (raw({"a": entry("BF16", offsets=[0, 2])}, b"00"), "which is not read"),
    "a dtype that is none": (raw({"a": entry(["F32"])}, b"0000"), "which is not read"),
    "negative": (raw({"a": entry(shape=[-1])}, b"0000"), "shape"),
    "a flag for a length": (raw({"a": entry(shape=[True])}, b"0000"), "shape"),
    "endless": (raw({"a": entry(shape=[2**60, 2**60])}, b"0000"), "shape"),
    "empty but endless": (raw({"a": entry(shape=[0, 2**60], offsets=[0, 0])}), "shape"),
    "too large": (raw({"a": entry(shape=[2**40], offsets=[0, 2**42])}, b"0000"), "speaks of"),
    "overlap": (raw({"a": entry(), "b": entry()}, b"0000"), "overlap"),
    "gap": (raw({"a": entry(offsets=[4, 8])}, b"0" * 8), "gaps"),
    "more": (raw({"a": entry()}, b"0" * 5), "speaks of"),
    "unsealed": (raw({"a": entry()}, b"0000"), "no checksum"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_one_line(name: str, tmp_path: Path) -> None:
    data, says = HOSTILE[name]
    path = tmp_path / "hostile"
    path.write_bytes(data)
    tracemalloc.start()
    with pytest.raises(FileError, match=says) as caught:
        safe.unpack(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= 2 * len(data) + 64 * safe.MIB
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < len(str(path)) + 250


def test_flags_are_0_or_1(tmp_path: Path) -> None:
    path = tmp_path / "flags"
    path.write_bytes(raw({"a": entry("BOOL", offsets=[0, 1])}, b"\2"))
    _, arrays = safe.read_arrays(path)
    with pytest.raises(FileError, match="neither 0 nor 1"):
        arrays["a"]


def test_a_file_that_shrinks_meanwhile(file: Path) -> None:
    _, arrays = safe.read_arrays(file)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(FileError, match="cut off"):
        dict(arrays)


def test_what_is_no_plain_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, says in [
        (tmp_path / "pipe", "not a plain file"),
        (tmp_path, "not a plain file"),
        (tmp_path / "no", "No such"),
        ("\0", "null"),
    ]:
        with pytest.raises(FileError, match=says):
            safe.unpack(path)


def test_the_worst_json_within_the_limits_takes_no_time(tmp_path: Path) -> None:
    """The bound is generous: what is refused is a hang."""
    path = tmp_path / "json"
    path.write_bytes(b'["' + b'\\"' * (safe.MIB // 4) + b'",' + b"[]," * 49_000 + b"1]")
    begun = time.process_time()
    with pytest.raises(FileError, match="not a JSON object"):
        safe.read_json(path)
    assert time.process_time() - begun < 5


def test_json_is_bounded_in_bytes(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"a": 1.5, "b": [true, null]}')
    assert safe.read_json(path) == {"a": 1.5, "b": [True, None]}
    with pytest.raises(FileError, match="29 bytes, and at most 28"):
        safe.read_json(path, 28)
