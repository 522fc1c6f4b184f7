"""Checkpoints and whole files: whatever is interrupted, the last one is there or the one before it."""

import errno
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disk import Disk, Operation, recording

from ridgeline.errors import StorageError
from ridgeline.experiments import config, training
from ridgeline.experiments.checkpoint import Checkpoint, Checkpoints, read
from ridgeline.experiments.files import write_whole
from ridgeline.experiments.sinks import JsonLines
from ridgeline.safe import read_json
from ridgeline.training.snapshot import Leaf

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is open is looked up in /proc")
STATES = 6  # of a loss of power, after each operation


def snapshot(number: int) -> dict[str, Leaf]:
    """What the checkpoint of that number holds: several dtypes, a scalar, an empty array, part of one."""
    rng = np.random.default_rng(number)
    big = rng.normal(size=(3, 40)).astype(np.float32)
    arrays = {"w": big, "n": rng.integers(0, 9, (2, 2)), "flag": np.array(True), "none": np.zeros((0, 3))}
    return {name: Leaf(array) for name, array in arrays.items()} | {"part": Leaf(big, 2)}


def save(run: Path, number: int) -> None:
    Checkpoints(run).save(snapshot(number), {"run": "r", "steps": number})


def check(found: Checkpoint | None) -> int:
    """Which checkpoint it is, 0 for none; every byte of it must be right."""
    if found is None:
        return 0
    number = int(found.folder.name)
    assert found.facts["steps"] == number
    for name, leaf in snapshot(number).items():
        wanted = np.asarray(leaf.array)[: leaf.rows] if leaf.rows else np.asarray(leaf.array)
        assert found.arrays[name].dtype == wanted.dtype
        assert found.arrays[name].tobytes() == wanted.tobytes()
    return number


def record(root: Path, *steps: Callable[[], Any]) -> list[list[Operation]]:
    """The operations of each step."""
    found = []
    for step in steps:
        with recording(root) as operations:
            step()
        found.append(operations)
    return found


def states(disk: Disk, folder: Path, most: int = STATES) -> list[Path]:
    """The state as it is, and those that a loss of power may leave, each in a folder."""
    found = []
    for index, write in enumerate([disk.write, *disk.crashes(most)]):
        target = folder / str(index)
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        write(target)
        found.append(target)
    return found


def test_what_was_recorded_is_what_was_done(tmp_path: Path) -> None:
    (root := tmp_path / "run").mkdir()
    disk = Disk()
    for operations in record(root, *[lambda i=i: save(root, i) for i in range(1, 5)]):
        for operation in operations:
            disk.do(operation)
    (copy := tmp_path / "copy").mkdir()
    disk.write(copy)
    there, again = (
        {str(p.relative_to(at)): p.read_bytes() if p.is_file() else None for p in at.rglob("*")}
        for at in (root, copy)
    )
    assert there == again
    assert sorted(p.name for p in (root / "checkpoints").iterdir()) == ["000003", "000004"]


@pytest.mark.parametrize("most", [STATES, pytest.param(200, marks=pytest.mark.slow)])
def test_a_save_that_is_cut_short_leaves_it_or_the_one_before(most: int, tmp_path: Path) -> None:
    """After every operation of four saves, whether the process dies or the power goes; then it is saved again."""
    (root := tmp_path / "run").mkdir()
    disk, tried = Disk(), 0
    for number, operations in enumerate(record(root, *[lambda i=i: save(root, i) for i in range(1, 5)]), start=1):
        for operation in operations:
            disk.do(operation)
            for state in states(disk, tmp_path / "states", most):
                tried += 1
                found, skipped = Checkpoints(state).latest()
                assert check(found) in (number - 1, number), operation
                assert not skipped
                if tried % (STATES if most == STATES else 1) == 0:
                    save(state, check(found) + 1)
                    again, _ = Checkpoints(state).latest()
                    assert check(again) == check(found) + 1
                    assert all(path.name.isdecimal() for path in (state / "checkpoints").iterdir())
            for folder in sorted((tmp_path / "states/0/checkpoints").glob("0*")):
                read(folder)  # where only the process died, what has a number is whole
        for state in states(disk, tmp_path / "states"):  # a save that has returned lasts
            assert check(Checkpoints(state).latest()[0]) == number
    assert tried > 50 * STATES


@pytest.mark.parametrize("first", [True, False])
def test_a_whole_file_is_the_new_or_the_old_one(first: bool, tmp_path: Path) -> None:
    (root := tmp_path / "run").mkdir()
    path, disk = root / "config.json", Disk()
    old, new = b"old" * 100, b"new" * 2000
    before, after = record(root, lambda: None if first else write_whole(path, old), lambda: write_whole(path, new))
    for operation in before:
        disk.do(operation)
    allowed = [None if first else old, new]
    for operation in after:
        disk.do(operation)
        for state in states(disk, tmp_path / "states"):
            file = state / "config.json"
            assert (file.read_bytes() if file.exists() else None) in allowed
            write_whole(file, b"newer")
            assert [p.name for p in state.iterdir()] == ["config.json"]
    for state in states(disk, tmp_path / "states"):
        assert (state / "config.json").read_bytes() == new


def test_a_run_that_has_begun_lasts(tmp_path: Path) -> None:
    """Its folder, its config, and the rows that a checkpoint's mark speaks of."""
    settings = training.Settings(1, (0,), out=tmp_path / "runs", name="r")

    def begin() -> None:
        folder = training._new_folder(settings, "a", "e")
        config.write_config(folder, {"schema": 1, "run": "r"})
        rows = JsonLines(folder)
        rows.write([{"steps": 1, "seed": 0}])
        Checkpoints(folder).save(snapshot(1), {"run": "r", "steps": 1, "metrics": rows.mark()})

    (root := tmp_path / "runs").mkdir()
    (operations,) = record(root, begin)
    disk = Disk()
    for operation in operations:
        disk.do(operation)
    for state in states(disk, tmp_path / "states"):
        assert read_json(state / "r" / "config.json")["run"] == "r"
        found, _ = Checkpoints(state / "r").latest()
        assert check(found) == 1
        assert found is not None
        assert JsonLines(state / "r", found.facts["metrics"]).notes == []
        assert (state / "r" / "metrics.jsonl").read_bytes()


def fails(when: Callable[[int, Operation], bool], code: int) -> Callable[[Operation], None]:
    """A fault: the operations that `when` names, by their index, fail."""
    count = iter(range(10**9))

    def fault(operation: Operation) -> None:
        if when(next(count), operation):
            raise OSError(code, os.strerror(code))

    return fault


def whole_after(run: Path, number: int, fault: Callable[[Operation], None]) -> bool:
    """Save while the disk fails: whether that was said, in one line. What is left must serve."""
    said = ""
    with recording(run, fault):
        try:
            save(run, number)
        except StorageError as error:
            said = str(error)
    assert said == "" or (str(run) in said and "\n" not in said)
    found, skipped = Checkpoints(run).latest()
    assert check(found) in (number - 1, number)
    assert not skipped
    save(run, check(found) + 1)
    assert check(Checkpoints(run).latest()[0]) == check(found) + 1
    left = list((run / "checkpoints").iterdir())
    assert len(left) <= 2
    assert all(path.name.isdecimal() for path in left)
    return bool(said)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS], ids=["EIO", "ENOSPC", "EROFS"])
@pytest.mark.parametrize("lasting", [False, True])
def test_a_disk_that_fails_at_any_operation(code: int, lasting: bool, tmp_path: Path) -> None:
    """Once, or from then on."""
    (root := tmp_path / "run").mkdir()
    count = len(record(root, *[lambda i=i: save(root, i) for i in range(1, 4)])[-1])
    said = []
    for at in range(count):
        (run := tmp_path / f"{at}").mkdir()
        save(run, 1)
        save(run, 2)
        said.append(whole_after(run, 3, fails(lambda i, _, at=at: i >= at if lasting else i == at, code)))
        shutil.rmtree(run)
    # What may fail in silence is to make a folder that is there, and to remove an old checkpoint.
    assert all(said[1 : count - 4])
    assert count > 15


def test_a_disk_of_any_size(tmp_path: Path) -> None:
    """40 sizes from nothing to enough; a write that does not fit writes what does."""
    (root := tmp_path / "run").mkdir()
    operations = record(root, *[lambda i=i: save(root, i) for i in range(1, 4)])[-1]
    needed = sum(len(operation.data) for operation in operations)
    for at, size in enumerate(np.linspace(0, needed - 1, 40).astype(int)):
        (run := tmp_path / f"{at}").mkdir()
        save(run, 1)
        save(run, 2)
        written = 0

        def fault(operation: Operation, size: int = int(size)) -> None:
            nonlocal written
            written += len(operation.data)
            if written > size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        assert whole_after(run, 3, fault), size
        shutil.rmtree(run)


@pytest.mark.parametrize("code", [errno.EIO, errno.EACCES], ids=["EIO", "EACCES"])
def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run must not begin anew, over its checkpoints, because they cannot be seen."""
    save(tmp_path, 1)

    def broken(path: Path) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "iterdir", broken)
    with pytest.raises(StorageError, match="checkpoints"):
        Checkpoints(tmp_path).latest()
    with pytest.raises(StorageError, match="checkpoints"):
        save(tmp_path, 2)
