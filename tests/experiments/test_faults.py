"""Damaged files of a run: refused in one line, or passed over and said, or nothing was lost; never taken as whole.

A real run is stopped on its way; bits of its files are flipped, files are cut, deleted and exchanged.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import ridgeline
from ridgeline import cli
from ridgeline.errors import FileError
from ridgeline.experiments.checkpoint import Checkpoints, read
from ridgeline.experiments.config import read_config
from ridgeline.experiments.policy import load as load_policy
from ridgeline.experiments.run import _config_of, resume
from ridgeline.experiments.sinks import JsonLines

SMALL = ridgeline.PPO(num_envs=2, rollout_length=16, batch_size=16, epochs=1, hidden=(8,))
SETTINGS: dict[str, Any] = {
    "steps": 320,
    "evaluations": 2,
    "evaluation_episodes": 2,
    "final_episodes": 2,
    "checkpoint_steps": 64,
    "checkpoint_seconds": 0.0,
}


def stopped(out: Path, gamma: float, after: int) -> Path:
    """A run's folder, the run stopped after so many steps of its 320."""
    record = dataclasses.replace(SMALL, gamma=gamma)
    training = ridgeline.start(record, "CartPole-v1", seeds=1, out=out, name=f"{gamma}", **SETTINGS)
    for progress in training:
        if progress.steps >= after:
            break
    training.abandon()
    return training.folder


@dataclasses.dataclass(frozen=True)
class World:
    """A stopped run, another of its kind, and what they hold."""

    run: Path
    other: Path
    config: dict[str, Any]
    generations: dict[str, dict[str, Any]]  # facts and arrays, by number
    policy: dict[str, bytes]
    end: dict[str, str]

    @property
    def files(self) -> list[Path]:
        """What is read when the run goes on, and the policies; relative."""
        kept = ("config.json", "metrics.jsonl", "manifest.json", "arrays.safetensors")
        found = [p.relative_to(self.run) for p in sorted(self.run.rglob("*")) if p.is_file()]
        return [p for p in found if p.name in kept or p.suffix == ".safetensors"]


def digests(folder: Path) -> dict[str, str]:
    """The state and the policies at a run's end."""
    newest, _ = Checkpoints(folder).latest()
    assert newest is not None
    found = {name: hashlib.sha256(x.tobytes()).hexdigest() for name, x in newest.arrays.items()}
    paths = sorted((folder / "policies").iterdir())
    return found | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def parameters(path: Path) -> dict[str, bytes]:
    leaves = jax.tree_util.tree_leaves_with_path(load_policy(path).parameters)
    return {jax.tree_util.keystr(where): np.asarray(leaf).tobytes() for where, leaf in leaves}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    out = tmp_path_factory.mktemp("runs")
    run, other = stopped(out, 0.9, 256), stopped(out, 0.8, 256)
    shutil.copytree(run, copy := out / "copy")
    resume(copy)
    generations = {}
    for folder in sorted((run / "checkpoints").iterdir()):
        found = read(folder)
        generations[folder.name] = found.facts | {"arrays": found.arrays}
    assert len(generations) == 2
    policy = parameters(run / "policies" / "seed-0.safetensors")
    return World(run, other, read_config(run), generations, policy, digests(copy))


def examine(world: World, folder: Path) -> str:
    """What becomes of a damaged run, as far as its files are read; what is wrong is an `AssertionError`."""
    try:
        config, notes = _config_of(folder)
        found, skipped = Checkpoints(folder).latest()
    except FileError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        assert str(folder) in refusal
        return "refused"
    assert found is not None
    if found.facts["run"] != config["run"]:
        return "refused"  # as resume does
    said, verdict = notes + skipped, "equal"
    assert {k: v for k, v in config.items() if k != "sha256"} == world.config
    true = world.generations[found.folder.name]
    assert {k: v for k, v in true.items() if k != "arrays"} == found.facts
    assert found.arrays.keys() == true["arrays"].keys()
    for name, array in found.arrays.items():
        assert array.dtype == true["arrays"][name].dtype
        assert array.shape == true["arrays"][name].shape
        assert array.tobytes() == true["arrays"][name].tobytes()
    rows = JsonLines(folder, found.facts["metrics"])
    said += rows.notes
    if not rows.notes:
        whole = (world.run / "metrics.jsonl").read_bytes()[: found.facts["metrics"]["bytes"]]
        assert (folder / "metrics.jsonl").read_bytes() == whole
    if found.folder.name != max(world.generations):
        assert skipped
        verdict = "fallen back"
    assert all("\n" not in line for line in said)
    return "said" if said and verdict == "equal" else verdict


def damaged(world: World, tmp_path: Path) -> Path:
    """A copy to be damaged."""
    folder = tmp_path / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(world.run, folder)
    return folder


def flips(world: World, count: int, seed: int) -> Iterator[tuple[Path, int, int]]:
    """File, byte and bit; every file as often as another."""
    random = np.random.default_rng(seed)
    files = [file for file in world.files if file.parts[0] != "policies"]
    for i in range(count):
        file = files[i % len(files)]
        yield file, int(random.integers((world.run / file).stat().st_size)), int(random.integers(8))


@pytest.mark.parametrize("count", [36, pytest.param(1_000, marks=pytest.mark.slow)])
def test_a_flipped_bit(count: int, world: World, tmp_path: Path) -> None:
    found = []
    for file, at, bit in flips(world, count, 0):
        folder = damaged(world, tmp_path)
        data = bytearray((folder / file).read_bytes())
        data[at] ^= 1 << bit
        (folder / file).write_bytes(data)
        found.append(examine(world, folder))
    # Every bit counts but those of rows behind the checkpoint, and the older generation's.
    assert {"fallen back", "said", "equal"} <= set(found)


@pytest.mark.parametrize("count", [18, pytest.param(500, marks=pytest.mark.slow)])
def test_a_file_that_is_cut(count: int, world: World, tmp_path: Path) -> None:
    random, found = np.random.default_rng(1), []
    files = [file for file in world.files if file.parts[0] != "policies"]
    for i in range(count):
        folder, file = damaged(world, tmp_path), files[i % len(files)]
        data = (folder / file).read_bytes()
        (folder / file).write_bytes(data[: int(random.integers(len(data)))])
        found.append(examine(world, folder))
    assert {"fallen back", "said", "equal"} <= set(found)


def test_a_file_that_is_gone_or_another(world: World, tmp_path: Path) -> None:
    """Every file deleted, and every file in the place of every other: of this run, or the same of another run."""
    found = {}
    for file in world.files:
        folder = damaged(world, tmp_path)
        (folder / file).unlink()
        found[f"{file} gone"] = examine(world, folder)
        sources = [world.run / other for other in world.files if other != file] + [world.other / file]
        for source in sources:
            folder = damaged(world, tmp_path)
            shutil.copyfile(source, folder / file)
            found[f"{file} {source.parent.name}/{source.name}"] = examine(world, folder)
    newest = f"checkpoints/{max(world.generations)}"
    assert found[f"{newest}/manifest.json gone"] == "fallen back"
    assert found[f"{newest}/arrays.safetensors gone"] == "fallen back"
    assert found["config.json gone"] == "said"
    assert found["metrics.jsonl gone"] == "said"
    other = world.other.name
    assert found[f"config.json {other}/config.json"] == "refused"
    assert found[f"metrics.jsonl {other}/metrics.jsonl"] == "said"
    older = f"checkpoints/{min(world.generations)}"
    assert {verdict for name, verdict in found.items() if name.startswith(older)} == {"equal"}


@pytest.mark.parametrize("count", [20, pytest.param(300, marks=pytest.mark.slow)])
def test_a_damaged_policy(count: int, world: World, tmp_path: Path) -> None:
    """It is refused, or every parameter is the one that was trained."""
    data = (world.run / "policies" / "seed-0.safetensors").read_bytes()
    if b'"sha256"' not in data[: int.from_bytes(data[:8], "little") + 8]:
        pytest.skip("policy files have no checksum yet")
    random, path = np.random.default_rng(2), tmp_path / "policy.safetensors"
    for i in range(count):
        changed = bytearray(data)
        if i % 3:
            changed[random.integers(len(data))] ^= 1 << int(random.integers(8))
        else:
            del changed[random.integers(len(data)) :]
        path.write_bytes(changed)
        try:
            found = parameters(path)
        except FileError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert found == world.policy


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


NEWEST, BEFORE = "checkpoints/000004", "checkpoints/000003"


@pytest.mark.parametrize(
    ("files", "folders", "code", "says"),
    [
        ([], [], 0, "resumed at step 256, exactly"),
        ([f"{NEWEST}/arrays.safetensors"], [], 0, "passed over"),
        ([f"{NEWEST}/manifest.json"], [], 0, "passed over"),
        ([], [NEWEST], 0, "resumed at step 192, exactly"),
        ([], ["checkpoints"], 0, "the run begins anew"),
        (["config.json"], [], 0, "written anew from checkpoint 000004"),
        (["metrics.jsonl"], [], 0, "set aside as metrics.damaged.jsonl"),
        ([f"{NEWEST}/manifest.json", f"{BEFORE}/arrays.safetensors"], [], 5, "no checkpoint is whole"),
        (["config.json"], ["checkpoints"], 5, "config.json"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, list) else None,
)
def test_resuming_a_damaged_run(
    files: list[str],
    folders: list[str],
    code: int,
    says: str,
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """`ridgeline resume` as a user meets it: it ends where the undisturbed run does, or refuses in one line."""
    folder = damaged(world, tmp_path)
    for file in files:
        spoil(folder / file)
    for name in folders:
        shutil.rmtree(folder / name)
    with pytest.raises(SystemExit) as stop:
        cli.main(["resume", str(folder)])
    said = capsys.readouterr().err
    assert stop.value.code == code, said
    assert says in said
    assert "Traceback" not in said
    if code:
        assert said.splitlines()[-1].startswith("ridgeline: ")
        assert said.count("ridgeline: ") == 1
    else:
        assert digests(folder) == world.end
        assert json.loads((folder / "result.json").read_text())["steps"] == 320
