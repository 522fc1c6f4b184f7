"""What a run would take, without running it."""

from pathlib import Path
from typing import Any

import pytest

import ridgeline
from ridgeline.environments.probes import Forever
from ridgeline.errors import UsageError
from ridgeline.experiments import forecast as module
from ridgeline.memory import Replay

SMALL = ridgeline.PPO(num_envs=2, rollout_length=8, batch_size=16, epochs=1, hidden=(8,))


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "CALIBRATION_SECONDS", 0.05)
    monkeypatch.chdir(tmp_path)


def test_it_counts_what_a_seed_holds_and_writes_nothing(tmp_path: Path) -> None:
    found = ridgeline.forecast(SMALL, Forever(), steps=1_000, seeds=3, compile_cache=False)
    assert min(found.compile_seconds, found.evaluation_seconds, found.steps_per_second) > 0
    assert found.steps == 1_008
    assert found.seeds == 3
    # A row is two observations, an action and a reward of 4 bytes each, and two flags of one.
    observation = 4 * Forever().spec.observation.shape[0]
    assert found.seed_bytes["rollout"] == 16 * (2 * observation + 4 + 4 + 2)
    assert found.bytes == 3 * sum(found.seed_bytes.values())
    assert found.run_seconds == pytest.approx(3 * 1_008 / found.steps_per_second)
    assert found.calibrated <= 4 * 1_008
    assert list(tmp_path.iterdir()) == []


def test_the_memory_of_transitions_is_counted() -> None:
    def states(capacity: int) -> int:
        record = ridgeline.DQN(num_envs=1, hidden=(8,), replay=Replay(capacity=capacity, batch_size=8, warmup=0))
        found = ridgeline.forecast(record, Forever(), steps=50, seeds=1, compile_cache=False)
        return found.seed_bytes["state"]

    observation = 4 * Forever().spec.observation.shape[0]
    assert states(1_100) - states(100) == 1_000 * (2 * observation + 4 + 4 + 2)


def test_what_is_measured_includes_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    record = ridgeline.DQN(num_envs=1, rollout_length=4, replay=Replay(capacity=100, batch_size=8, warmup=30))
    begun: list[int] = []
    measure = module._calibrate
    monkeypatch.setattr(module, "_calibrate", lambda r, p, first: (begun.append(first), measure(r, p, first))[1])
    ridgeline.forecast(record, Forever(), steps=200, seeds=1, compile_cache=False)
    assert begun == [9]  # one iteration after the eighth, which is the first that begins with 30 steps taken


def test_a_host_environment_is_measured_too(tmp_path: Path) -> None:
    found = ridgeline.forecast(SMALL, "CartPole-v1", backend="gymnasium", steps=320, seeds=2, compile_cache=False)
    assert found.devices == 1
    assert found.steps_per_second > 0
    assert list(tmp_path.iterdir()) == []


def test_episodes_are_measured_by_the_steps_that_were_taken() -> None:
    found = ridgeline.forecast("pg", "CartPole-v1", steps=5_000, seeds=2, compile_cache=False)
    assert found.steps == 5_000
    assert found.steps_per_second > 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"steps": 0}, "steps is 0"), ({"seeds": 2000}, "1,024"), ({"gama": 1}, "no setting 'gama'")],
)
def test_it_refuses_what_training_refuses(settings: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        ridgeline.forecast(SMALL, Forever(), **settings)
    with pytest.raises(UsageError, match=says):
        ridgeline.train(SMALL, Forever(), **settings, out=tmp_path)
    assert list(tmp_path.iterdir()) == []
