"""Where learning breaks a run goes on from its newest checkpoint, with other random numbers, thrice at most."""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ridgeline import cli
from ridgeline.experiments.checkpoint import Checkpoints
from ridgeline.experiments.loading import load_policy
from ridgeline.experiments.policy import open_policy
from ridgeline.training.hosted import Hosted
from ridgeline.training.runner import Compiled

FLAGS = "--seeds 2 --evaluations 0 --final-episodes 2 --checkpoint-steps 320 --checkpoint-seconds 0"
SIZES = "--steps 1280 --num-envs 2 --rollout-length 16 --batch-size 16 --epochs 1 --hidden 8"
KINDS = {"jax": Compiled, "gymnasium": Hosted}


def command(words: str) -> Any:
    with pytest.raises(SystemExit) as stop:
        cli.main(words.split())
    return stop.value.code


def spoil(leaf: jax.Array) -> jax.Array:
    """A matrix of every seed without that of the second."""
    return leaf.at[1].set(jnp.nan) if leaf.dtype == jnp.float32 and leaf.ndim > 2 else leaf


def poison(kind: Any, calls: set[int], patch: pytest.MonkeyPatch) -> None:
    """Make what is learned NaN before the calls of those numbers, whatever ran before."""
    real, count = kind.run, 0

    def run(self: Any, *rest: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count in calls:
            self.change(lambda states: jax.tree.map(spoil, states))
        return real(self, *rest, **more)

    patch.setattr(kind, "run", run)


@pytest.mark.parametrize("backend", KINDS)
def test_a_run_goes_on_from_its_checkpoint(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    poison(KINDS[backend], {4}, monkeypatch)
    words = f"train ppo CartPole-v1 --backend {backend} {FLAGS} {SIZES} --out {tmp_path} --run r"
    assert command(words + " --on-nan rollback") == 0
    said = capfd.readouterr().err
    assert "seed 1: " in said
    assert "on with other random numbers (rollback 1 of 3)" in said
    result = json.loads((tmp_path / "r/result.json").read_text())
    assert len([line for line in result["warnings"] if "rollback 1 of 3" in line]) == 1
    rows = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    steps = [row["steps"] for row in rows if row["seed"] == 1]
    assert steps == sorted(set(steps)), "what was rolled back is gone from the rows"
    assert steps[-1] == 1280
    for seed in (0, 1):
        act = load_policy(tmp_path / f"r/policies/seed-{seed}.safetensors")
        assert int(act(np.zeros(4, np.float32))) in (0, 1)


def test_after_three_it_stops_and_what_was_good_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    poison(Compiled, set(range(4, 100)), monkeypatch)
    words = f"train ppo CartPole-v1 --backend jax {FLAGS} {SIZES} --out {tmp_path} --run r"
    assert command(words + " --on-nan rollback") == 4
    said = capfd.readouterr().err
    assert "rollback 3 of 3" in said
    assert "rollback 4" not in said
    assert said.endswith("(also after 3 rollbacks)\n")
    found, skipped = Checkpoints(tmp_path / "r").latest()
    assert found is not None
    assert not skipped
    assert all(np.isfinite(x).all() for x in found.arrays.values() if x.dtype.kind == "f")
    assert not (tmp_path / "r/result.json").exists()


def test_without_it_the_first_stops_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    poison(Compiled, {4}, monkeypatch)
    assert command(f"train ppo CartPole-v1 --backend jax {FLAGS} {SIZES} --out {tmp_path} --run r") == 4
    assert "rollback" not in capfd.readouterr().err


def test_the_best_policy_of_each_seed_is_kept(tmp_path: Path) -> None:
    flags = "--seeds 2 --evaluations 4 --evaluation-episodes 3 --final-episodes 2"
    words = f"train ppo CartPole-v1 --backend jax {flags} {SIZES} --out {tmp_path} --run r --save-best"
    assert command(words) == 0
    rows = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    for seed in (0, 1):
        judged = [
            (row["eval/mean_reward"], -row["steps"])
            for row in rows
            if row["seed"] == seed and "eval/mean_reward" in row
        ]
        header, _ = open_policy(tmp_path / f"r/policies/seed-{seed}-best.safetensors")
        assert header["steps"] == -max(judged)[1], "of equal ones the first"
