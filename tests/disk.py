"""A disk that remembers what was done to it, and what of that a loss of power would have left.

`recording` notes every operation on files below a folder, and may make one of them fail. `Disk` does such
operations again on a model in which a file's content lasts only once it was synced, and a folder's names only once
the folder was; `crashes` are the states that the loss may leave.
"""

import contextlib
import io
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest


class Operation(NamedTuple):
    """create, write (data), sync (a file's content or a folder's names), rename (to), mkdir, unlink or rmdir."""

    kind: str
    path: str
    data: bytes = b""
    to: str = ""


def no_fault(operation: Operation) -> None:
    """Let every operation pass."""


@contextlib.contextmanager
def recording(root: Path, fault: Callable[[Operation], None] = no_fault) -> Iterator[list[Operation]]:
    """The operations below `root`, as they are done; before each is, `fault` may raise an `OSError`."""
    done: list[Operation] = []
    root = root.resolve()

    @contextlib.contextmanager
    def noted(kind: str, path: Any, folder: int | None = None, data: bytes = b"", to: Any = "") -> Iterator[None]:
        names = []
        for name in (path, to):
            if isinstance(name, int):
                whole = Path(os.readlink(f"/proc/self/fd/{name}"))
            else:
                base = Path(os.readlink(f"/proc/self/fd/{folder}")) if folder is not None else Path.cwd()
                whole = base / os.fsdecode(name)
            names.append(whole)
        if not names[0].is_relative_to(root):
            yield
            return
        second = str(names[1].relative_to(root)) if to != "" else ""
        operation = Operation(kind, str(names[0].relative_to(root)), data, second)
        fault(operation)
        yield
        done.append(operation)

    class Raw(io.FileIO):
        """An unbuffered file whose writes are noted."""

        def write(self, data: Any, /) -> int:
            with noted("write", self.fileno(), data=bytes(data)):
                return super().write(data)

    real: dict[str, Any] = {name: getattr(os, name) for name in ("fsync", "mkdir", "unlink", "rmdir")}
    real |= {"rename": os.rename, "replace": os.replace, "io": io.open}

    def opened(file: Any, mode: str = "r", buffering: int = -1, *rest: Any, **more: Any) -> Any:
        if not set(mode) & set("wxa") or isinstance(file, int):
            return real["io"](file, mode, buffering, *rest, **more)
        new = "w" in mode or not os.path.lexists(file)
        with noted("create", file) if new else contextlib.nullcontext():
            raw = Raw(file, mode.replace("b", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedWriter(raw)
        return buffered if "b" in mode else io.TextIOWrapper(buffered, *rest, **more)

    def fsync(descriptor: int) -> None:
        with noted("sync", descriptor):
            real["fsync"](descriptor)

    def moved(name: str) -> Callable[..., None]:
        def move(source: Any, target: Any, **more: Any) -> None:
            with noted("rename", source, to=target):
                real[name](source, target, **more)

        return move

    def changed(name: str) -> Callable[..., None]:
        def change(path: Any, *rest: Any, dir_fd: int | None = None) -> None:
            with noted(name, path, dir_fd):
                real[name](path, *rest, dir_fd=dir_fd)

        return change

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(io, "open", opened)
        patch.setattr(os, "fsync", fsync)
        for name in ("rename", "replace"):
            patch.setattr(os, name, moved(name))
        for name in ("mkdir", "unlink", "rmdir"):
            patch.setattr(os, name, changed(name))
        yield done


class Disk:
    """Folders and files with what lasts of them, and what is still to be written."""

    def __init__(self) -> None:
        self.folders: dict[int, tuple[dict[str, int], list[dict[str, int | None]]]] = {0: ({}, [])}
        self.files: dict[int, tuple[bytes, bytes]] = {}
        self.count = 0

    def names(self, folder: int) -> dict[str, int]:
        """A folder as a process sees it."""
        lasting, pending = self.folders[folder]
        return apply(lasting, pending)

    def find(self, path: str) -> int:
        """The number of a file or folder."""
        at = 0
        for part in Path(path).parts:
            at = self.names(at)[part]
        return at

    def do(self, operation: Operation) -> None:
        """Do an operation."""
        kind, path, data, to = operation
        if kind == "write":
            lasting, pending = self.files[self.find(path)]
            self.files[self.find(path)] = lasting, pending + data
        elif kind == "sync":
            number = self.find(path)
            if number in self.files:
                self.files[number] = b"".join(self.files[number]), b""
            else:
                self.folders[number] = self.names(number), []
        else:
            parent, name = self.find(str(Path(path).parent)), Path(path).name
            change: dict[str, int | None] = {name: None}
            if kind in ("create", "mkdir"):
                self.count += 1
                change = {name: self.count}
                if kind == "create":
                    self.files[self.count] = b"", b""
                else:
                    self.folders[self.count] = {}, []
            elif kind == "rename":
                assert Path(to).parent == Path(path).parent, operation
                change = {name: None, Path(to).name: self.find(path)}
            self.folders[parent][1].append(change)

    def write(self, target: Path) -> None:
        """As a process sees it, or the system after the process was killed."""
        self._write(target, 0, lambda n: len(self.folders[n][1]), lambda n: b"".join(self.files[n]))

    def crashes(self, most: int) -> Iterator[Callable[[Path], None]]:
        """Writers of at most `most` states that a loss of power may leave: of every unsynced file nothing, a half,
        zeros or all; of every folder's unsynced names the first few, in the order in which they were changed.
        """
        folders = {n: range(len(pending) + 1) for n, (_, pending) in self.folders.items() if pending}
        files = {n: kept(*content) for n, content in self.files.items() if content[1]}
        options = [*folders.values(), *files.values()]
        total = 1
        for option in options:
            total *= len(option)
        every = max(1, -(-total // most))
        for choice in itertools.islice(itertools.product(*options), 0, None, every):
            cuts = dict(zip(folders, choice, strict=False))
            contents = dict(zip(files, choice[len(folders) :], strict=True))

            def write(target: Path, cuts: Any = cuts, contents: Any = contents) -> None:
                self._write(target, 0, lambda n: cuts.get(n, 0), lambda n: contents.get(n, self.files[n][0]))

            yield write

    def _write(
        self, target: Path, folder: int, cut: Callable[[int], int], content: Callable[[int], bytes]
    ) -> None:
        lasting, pending = self.folders[folder]
        for name, number in apply(lasting, pending[: cut(folder)]).items():
            if number in self.files:
                (target / name).write_bytes(content(number))
            else:
                (target / name).mkdir()
                self._write(target / name, number, cut, content)


def apply(names: dict[str, int], changes: list[dict[str, int | None]]) -> dict[str, int]:
    """Names after changes to them."""
    merged: dict[str, int | None] = dict(names)
    for change in changes:
        merged |= change
    return {name: number for name, number in merged.items() if number is not None}


def kept(lasting: bytes, pending: bytes) -> list[bytes]:
    """What may be left of a file."""
    zeros = lasting + b"\0" * len(pending)
    return [lasting, lasting + pending[: len(pending) // 2], zeros, lasting + pending]
