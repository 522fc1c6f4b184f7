"""Signals stop a run after saving, or save it, whatever it is doing; resumed it ends where it would have.

Most are raised in this process, at a moment that is chosen exactly, so no test waits for a clock.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ridgeline import cli
from ridgeline.experiments.checkpoint import Checkpoints
from ridgeline.experiments.settings import FINAL_SEED
from ridgeline.training.hosted import Hosted
from ridgeline.training.runner import Compiled

if sys.platform == "win32":
    pytest.skip("signals are those of Unix", allow_module_level=True)

FLAGS = "--seeds 2 --evaluations 2 --evaluation-episodes 2 --final-episodes 2 --checkpoint-seconds 0"
SIZES = "--steps 1280 --num-envs 2 --rollout-length 16 --batch-size 16 --epochs 1 --hidden 8"
KINDS = {"jax": Compiled, "gymnasium": Hosted}
PHASES = ("compiling", "training", "evaluation", "final evaluation")


def command(words: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    return stop.value.code


def train(backend: str, folder: Path) -> list[str]:
    words = f"train ppo CartPole-v1 --backend {backend} {FLAGS} {SIZES}".split()
    return [*words, "--out", str(folder.parent), "--run", folder.name]


def end(folder: Path) -> dict[str, Any]:
    """The state, the policies and the evaluation at a run's end."""
    found, skipped = Checkpoints(folder).latest()
    assert found is not None
    assert not skipped
    arrays: dict[str, Any] = {name: x.tobytes() for name, x in found.arrays.items() if name != "restored"}
    arrays |= {path.name: path.read_bytes() for path in (folder / "policies").iterdir()}
    return arrays | {"eval": json.loads((folder / "result.json").read_text())["eval"]}


def at(phase: str, kind: Any, act: Callable[[], None], patch: pytest.MonkeyPatch) -> None:
    """Do something once, amid a phase of a run."""
    real = {name: getattr(kind, name) for name in ("compile", "run", "evaluate")}
    calls = {"training": 0, "evaluation": 0}
    done = []

    def once() -> None:
        if not done:
            done.append(True)
            act()

    def compile_(self: Any, episodes: int) -> None:
        if phase == "compiling":
            once()
        real["compile"](self, episodes)

    def run(self: Any, first: int, count: int, *rest: Any, **more: Any) -> Any:
        calls["training"] += count > 0
        if phase == "training" and calls["training"] == 2:
            once()
        return real["run"](self, first, count, *rest, **more)

    def evaluate(self: Any, seed: int, episodes: int) -> Any:
        if phase == ("final evaluation" if seed == FINAL_SEED else "evaluation"):
            once()
        return real["evaluate"](self, seed, episodes)

    patch.setattr(kind, "compile", compile_)
    patch.setattr(kind, "run", run)
    patch.setattr(kind, "evaluate", evaluate)


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The undisturbed runs' ends, by backend."""
    found = {}
    for backend in KINDS:
        folder = tmp_path_factory.mktemp("runs") / backend
        assert command(train(backend, folder)) == 0
        found[backend] = end(folder)
    return found


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    ("backend", "number"), [("jax", signal.SIGTERM), ("jax", signal.SIGINT), ("gymnasium", signal.SIGTERM)]
)
def test_a_signal_stops_a_run_after_saving(
    backend: str,
    number: int,
    phase: str,
    ends: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        at(phase, KINDS[backend], lambda: os.kill(os.getpid(), number), patch)
        assert command(train(backend, folder)) == 128 + number
    said = capfd.readouterr().err
    name = signal.Signals(number).name
    assert f"ridgeline: {name}: saving, then stopping" in said
    assert f"ridgeline: stopped by {name}; go on with: ridgeline resume {folder}" in said
    assert not (folder / "result.json").exists()
    saved, _ = Checkpoints(folder).latest()
    assert (saved is None) == (phase == "compiling")
    assert command(["resume", str(folder)]) == 0
    said = capfd.readouterr().err
    assert ("the run begins anew" if saved is None else f"resumed at step {saved.facts['steps']:,}") in said
    assert end(folder) == ends[backend]


@pytest.mark.parametrize("phase", PHASES)
def test_a_signal_saves_a_run_that_goes_on(
    phase: str, ends: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else asks for a checkpoint before the end."""
    folder = tmp_path / "run"
    with monkeypatch.context() as patch:
        at(phase, Compiled, lambda: os.kill(os.getpid(), signal.SIGUSR1), patch)
        assert command(train("jax", folder)) == 0
    numbers = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert numbers == (["000001"] if phase == "final evaluation" else ["000001", "000002"])
    assert end(folder) == ends["jax"]


SLOW_TO_SAVE = """
import sys, time
from ridgeline import cli
from ridgeline.experiments.training import Training
real = Training.save
def save(self):
    time.sleep(60)
    real(self)
Training.save = save
cli.main(sys.argv[1:])
"""


@contextlib.contextmanager
def spawn(words: list[str], folder: Path) -> Iterator[subprocess.Popen[str]]:
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    with subprocess.Popen(
        [sys.executable, *words], stderr=subprocess.PIPE, text=True, env=environment, cwd=folder
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Until a line on standard error contains the text."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if text in line:
            return
    raise AssertionError(said)


def test_a_second_signal_leaves_at_once(tmp_path: Path) -> None:
    """While the first one's saving takes a minute."""
    with spawn(["-c", SLOW_TO_SAVE, *train("jax", tmp_path / "run")], tmp_path) as process:
        wait_for(process, "steps/s")  # before there is anything to save, one signal leaves at once
        process.send_signal(signal.SIGINT)
        wait_for(process, "saving, then stopping")
        process.send_signal(signal.SIGINT)
        wait_for(process, "SIGINT again: stopped without saving")
        assert process.wait(30) == 130


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["compiling", "steps/s", "judging"])
def test_signals_from_outside(phase: str, tmp_path: Path) -> None:
    """Of a real process, at about the moment that it says what it is doing."""
    folder = tmp_path / "run"
    with spawn(["-m", "ridgeline.cli", *train("jax", folder), "--final-episodes", "20000"], tmp_path) as process:
        wait_for(process, phase)
        process.send_signal(signal.SIGTERM)
        wait_for(process, "stopped by SIGTERM")
        assert process.wait(60) == 143
    assert (Checkpoints(folder).latest()[0] is None) == (phase == "compiling")


def test_nothing_is_left_installed(tmp_path: Path) -> None:
    """After a run the signals are whoever's they were."""
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert command(train("jax", tmp_path / "run")) == 0
    assert before == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
