"""Runs on disks that are full, broken, read-only or gone: exit code 6 in one line, and what was saved is there.

The command line is called in this process; `disk.recording` makes operations on the run's files fail.
"""

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from disk import Operation, no_fault, recording

import ridgeline
from ridgeline import cli
from ridgeline.experiments.checkpoint import Checkpoints
from ridgeline.experiments.run import resume, take_up
from ridgeline.training.loop import Progress

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="what is open is looked up in /proc")

FLAGS = "--seeds 1 --evaluations 3 --evaluation-episodes 2 --final-episodes 2 --checkpoint-seconds 0"
SIZES = "--steps 9600 --num-envs 2 --rollout-length 16 --batch-size 16 --epochs 1 --hidden 8"


def train(folder: Path) -> list[str]:
    """Checkpoints every 2,400 steps, log rows every 96."""
    words = f"train ppo CartPole-v1 --checkpoint-steps 2400 {FLAGS} {SIZES}".split()
    return [*words, "--out", str(folder.parent), "--run", folder.name]


def command(words: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return stop.value.code


def rows(folder: Path) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in found]


def end(folder: Path) -> dict[str, Any]:
    """The state and the policies at a run's end."""
    found, skipped = Checkpoints(folder).latest()
    assert found is not None
    assert not skipped
    arrays: dict[str, Any] = {name: x.tobytes() for name, x in found.arrays.items()}
    return arrays | {path.name: path.read_bytes() for path in (folder / "policies").iterdir()}


@pytest.fixture(scope="module")
def whole(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[dict[str, Any], list[dict[str, Any]], list[Operation]]:
    """The undisturbed run: its end, its rows, and what it did to its files."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    with recording(folder.parent) as operations:
        assert command(train(folder)) == 0
    return end(folder), rows(folder), operations


def after_a_fault(
    folder: Path, fault: Callable[[Operation], None], whole: Any, capsys: pytest.CaptureFixture[str]
) -> int:
    """Train while the disk fails; what is left must serve to end as the undisturbed run. The exit code."""
    with recording(folder.parent, fault):
        code = command(train(folder))
    said = capsys.readouterr().err
    assert code in (0, 6), said
    assert "Traceback" not in said
    if code:
        assert said.count("ridgeline: ") == 1
        assert said.splitlines()[-1].startswith("ridgeline: ")
        assert str(folder.parent) in said.splitlines()[-1]
    _, skipped = Checkpoints(folder).latest()
    assert not skipped
    again = ["resume", str(folder)] if (folder / "config.json").exists() else train(folder)
    assert command(again) == 0, capsys.readouterr().err
    assert end(folder) == whole[0]
    assert len(rows(folder)) == len(whole[1])
    assert not [*folder.rglob("*.partial"), *folder.rglob(".writing*")]
    # The very last of a run's removals may fail, after which nothing is saved that would clear it away.
    assert code == 0 or not [*folder.rglob(".removing*")]
    return code


@pytest.mark.parametrize("count", [6, pytest.param(40, marks=pytest.mark.slow)])
def test_a_disk_that_is_full(count: int, whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Disks from empty to nearly large enough; nothing is freed by what is removed."""
    needed = sum(len(operation.data) for operation in whole[2])
    for at, size in enumerate(np.linspace(0, 0.95 * needed, count).astype(int)):
        written = 0

        def fault(operation: Operation, size: int = int(size)) -> None:
            nonlocal written
            written += len(operation.data)
            if operation.data and written > size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        assert after_a_fault(tmp_path / f"{at}", fault, whole, capsys) == 6, size


@pytest.mark.parametrize("count", [6, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize("code", [errno.EIO, errno.EROFS], ids=["EIO", "EROFS"])
def test_a_disk_that_breaks(
    code: int, count: int, whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """At some operation, once (EIO) or from then on (read-only)."""
    for at in np.linspace(0, len(whole[2]) - 1, count).astype(int):
        index = iter(range(10**9))

        def fault(operation: Operation, at: int = int(at), index: Iterator[int] = index) -> None:
            now = next(index)
            if now == at or (code == errno.EROFS and now > at):
                raise OSError(code, os.strerror(code))

        after_a_fault(tmp_path / f"{at}", fault, whole, capsys)


def test_no_fault_is_no_fault(whole: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert after_a_fault(tmp_path / "run", no_fault, whole, capsys) == 0


def test_a_folder_that_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    folder = tmp_path / "run"
    real = Checkpoints.save

    def save(self: Checkpoints, *rest: Any) -> Path:
        found = real(self, *rest)
        shutil.rmtree(folder)
        return found

    monkeypatch.setattr(Checkpoints, "save", save)
    assert command(train(folder)) == 6
    said = capsys.readouterr().err.splitlines()
    assert said[-1].startswith(f"ridgeline: {folder}/")
    assert "No such file" in said[-1]
    assert command(["resume", str(folder)]) == 5
    assert "no run is there" in capsys.readouterr().err


def test_two_processes_in_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The second is told who is there and touches nothing; when the first is gone it may."""
    folder = tmp_path / "run"
    assert command([*train(folder), "--steps", "320"]) == 0
    first = take_up(folder, steps=640)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert command(["resume", str(folder), "--steps", "640"]) == 2
    assert f"in use by process {os.getpid()}" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    first.abandon()
    assert command(["resume", str(folder), "--steps", "640"]) == 0


def kill(folder: Path, after: int) -> None:
    """What is left of a run that is killed in this process after so many steps: nothing is saved any more."""
    for progress in (training := take_up(folder)):
        if progress.steps >= after:
            break
    training.runner.close()
    training._lock.release()


@pytest.mark.parametrize(
    "tail", [b"", b'{"steps": 96', b"\0" * 40, b'{"steps": 9, "seed": 0}\n'], ids=["none", "torn", "zeros", "row"]
)
def test_rows_of_a_resumed_run(tail: bytes, whole: Any, tmp_path: Path) -> None:
    """Killed thrice, a torn row or rubbish behind the last; all rows are the undisturbed run's, none twice."""
    folder = tmp_path / "run"

    class Killed(Exception):
        pass

    def watch(progress: Progress) -> None:
        if progress.steps >= 500:
            raise Killed

    settings = {"seeds": 1, "evaluations": 3, "evaluation_episodes": 2, "final_episodes": 2, "out": tmp_path}
    record = ridgeline.PPO(num_envs=2, rollout_length=16, batch_size=16, epochs=1, hidden=(8,))
    with pytest.raises(Killed):
        ridgeline.train(
            record, "CartPole-v1", steps=9600, name="run", checkpoint_steps=1000, callback=watch, **settings
        )
    for after in (2_000, 5_000, 8_500):
        kill(folder, after)
        with (folder / "metrics.jsonl").open("ab") as file:
            file.write(tail)
    resume(folder)
    undisturbed = tmp_path / "undisturbed"
    ridgeline.train(record, "CartPole-v1", steps=9600, name=undisturbed.name, **settings)
    assert end(folder) == end(undisturbed)
    found, wanted = rows(folder), rows(undisturbed)
    assert [row["steps"] for row in found] == [row["steps"] for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert row.keys() == other.keys()
        missing = {name for name in row if row[name] is None}
        assert missing == {name for name in other if other[name] is None}
        numbers = [{name: x[name] for name in x.keys() - missing} for x in (row, other)]
        assert numbers[0] == pytest.approx(numbers[1], rel=1e-5, abs=1e-6)


@pytest.mark.slow
def test_a_small_disk(whole: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The same on file systems in memory that are that small, where they may be mounted."""
    with tempfile.TemporaryDirectory() as folder:
        for size in (64, 128, 192, 256, 512):
            mounted = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", folder], capture_output=True
            )
            if mounted.returncode:
                pytest.skip("mounting is not permitted")
            try:
                run = Path(folder) / "run"
                code = command(train(run))
                said = capsys.readouterr().err
                assert code in (0, 6), said
                assert "Traceback" not in said
                if (run / "config.json").exists():
                    assert not Checkpoints(run).latest()[1]
            finally:
                subprocess.run(["umount", folder], check=True)
