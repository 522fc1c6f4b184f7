"""Where a run stands is read only as a run writes it, and the largest run's can be read."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ridgeline
from ridgeline.errors import FileError, UsageError
from ridgeline.experiments import config
from ridgeline.experiments.checkpoint import Checkpoint
from ridgeline.experiments.settings import MOST_SEEDS
from ridgeline.experiments.standing import standing
from ridgeline.safe import parse_json
from ridgeline.training.loop import MOST_ROWS, Position
from ridgeline.training.summary import Summary


def position(seeds: int, metrics: int, rows: int) -> dict[str, Any]:
    """A position amid a run, with numbers of all digits."""
    numbers = lambda: np.random.default_rng(0).normal(size=seeds).astype(np.float32)  # noqa: E731
    named = {f"train/metric_number_{i}": numbers() for i in range(metrics)}
    one = {name: numbers() for name in Summary._fields}
    summary = Summary(**one | {"metrics": named, "counts": dict(named)})
    row = {
        "steps": 64,
        "seed": 0,
        "rollout/ep_rew_mean": None,
        **{name: float(x) for name, (x, *_) in named.items()},
        "time/fps": 7,
    }
    return Position(2, 1, 1.5, numbers(), set(range(seeds)), summary, [row] * rows, 0.5).to_json()


def manifest(seeds: int = 2, metrics: int = 3, rows: int = 4) -> dict[str, Any]:
    """What a run of so many seeds writes beside its arrays, where so many rows wait for an evaluation."""
    return {
        "run": "r",
        "parent": None,
        "steps": 64,
        "fingerprint": {},
        "config": {},
        "position": position(seeds, metrics, rows),
        "metrics": {"bytes": 0, "sha256": ""},
        "facts": {"best": None, "best_of_seeds": [], "warnings": [], "rollbacks": 1, "resumed": []},
    }


def read(found: dict[str, Any]) -> Any:
    return standing(Checkpoint(Path("000001"), found, {}), 2)


def test_what_a_run_writes_is_read() -> None:
    found = read(manifest())
    assert found.position.to_json() == manifest()["position"]
    assert found.facts.rollbacks == 1


FORGED: list[tuple[tuple[str, ...], Any]] = [
    (("run",), None),
    (("steps",), "64"),
    (("metrics",), []),
    (("metrics", "bytes"), -1),
    (("metrics", "sha256"), 3),
    (("facts", "best"), "high"),
    (("facts", "unknown"), 1),
    (("position", "done"), None),
    (("position", "done"), -1),
    (("position", "judged"), 3),
    (("position", "rows"), None),
    (("position", "rows"), [3]),
    (("position", "rows"), [{"seed": 0}]),
    (("position", "rows"), [{"steps": 1, "seed": 0, "rollout/ep_rew_mean": None}]),
    (("position", "rows"), [{"steps": 1, "seed": 0, "rollout/ep_rew_mean": "3"}] * 2),
    (("position", "rows"), [{"steps": 1, "seed": 0, "rollout/ep_rew_mean": None, "train/divergence": "3"}] * 2),
    (("position", "rows"), [{"steps": 1, "seed": 0, "rollout/ep_rew_mean": None, "train/x": 10**400}] * 2),
    (("position", "summary", "steps"), [1.0]),
    (("position", "summary", "steps"), "all"),
    (("position", "summary", "unknown"), [1.0, 2.0]),
    (("position", "taken"), ["a", "b"]),
    (("position", "taken"), [10**400, 1]),
    (("position", "taken"), [1.0, 2.0, 3.0]),
    (("position", "diverged"), [[]]),
]


@pytest.mark.parametrize(("at", "value"), FORGED, ids=["/".join(at) + f"={value!r:.8}" for at, value in FORGED])
def test_what_no_run_writes_is_an_error_of_its_file(at: tuple[str, ...], value: Any) -> None:
    found = manifest()
    inner = found
    for name in at[:-1]:
        inner = inner[name]
    inner[at[-1]] = value
    with pytest.raises(FileError, match=r"^000001/manifest\.json: "):
        read(found)


@pytest.mark.parametrize("name", list(manifest()["position"]))
def test_a_position_that_lacks_a_field_is_an_error_of_its_file(name: str) -> None:
    found = manifest()
    del found["position"][name]
    with pytest.raises(FileError, match=r"^000001/manifest\.json: "):
        read(found)


@pytest.mark.parametrize(("seeds", "rows"), [(MOST_SEEDS, 0), (MOST_ROWS // 2, MOST_ROWS)])
def test_the_largest_run_writes_what_can_be_read(seeds: int, rows: int) -> None:
    text = json.dumps(manifest(seeds, 40, rows), indent=1)
    assert parse_json(text.encode(), "it")["steps"] == 64


def test_a_larger_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="1,025 seeds: a run has at most 1,024"):
        ridgeline.start("ppo", "CartPole-v1", seeds=MOST_SEEDS + 1, out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"), [("spec", None), ("seeds", ["0"]), ("initial_policy", {}), ("save_best", 1)]
)
def test_a_config_that_no_run_writes_is_an_error_of_its_file(tmp_path: Path, name: str, value: Any) -> None:
    training = ridgeline.start("ppo", "CartPole-v1", seeds=1, steps=64, out=tmp_path)
    training.abandon()
    known = config.read_config(training.folder)
    config.write_config(training.folder, known | {name: value})
    with pytest.raises(FileError, match=r"config\.json: `"):
        config.read_config(training.folder)
