"""Runs from Python: what they write, what they read back, and what they refuse."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ridgeline
from ridgeline.environments.classic import CartPole
from ridgeline.errors import ContractError, EnvironmentCrash, FileError, NumericalError, UsageError
from ridgeline.experiments.presets import PRESETS, preset
from ridgeline.types import ArraySpec, Discrete, EnvSpec, Step

SMALL = ridgeline.PPO(num_envs=2, rollout_length=16, batch_size=16, epochs=1, hidden=(8,))
QUICK: dict[str, Any] = {"steps": 128, "seeds": 2, "evaluations": 2, "evaluation_episodes": 2, "final_episodes": 4}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ridgeline.Run:
    normalised = dataclasses.replace(SMALL, normalise_observations=True)
    return ridgeline.train(normalised, "CartPole-v1", out=tmp_path_factory.mktemp("runs"), **QUICK)


def test_result_has_the_schema(run: ridgeline.Run) -> None:
    assert run.result.keys() >= {"algorithm", "env", "steps", "seeds", "wall_seconds", "eval"}
    assert run.result["eval"].keys() == {"iqm", "low", "high", "per_seed", "episodes", "max_over_training"}
    assert run.result["eval"]["max_over_training"] >= run.result["eval"]["iqm"]
    assert run.result["solved"] is False
    assert run.result["warnings"] == []


def test_curves_hold_every_seed(run: ridgeline.Run) -> None:
    curves = run.curves
    assert curves.seeds == (0, 1)
    assert curves.steps.tolist() == [32, 64, 96, 128]
    assert np.isfinite(curves.get("eval/mean_reward")).sum() == 4


def test_config_says_what_was_asked(run: ridgeline.Run) -> None:
    assert run.config["hyperparameters"]["gamma"] == 0.99  # as given, not as rounded to float32
    assert run.config["spec"]["action"] == {"kind": "Discrete", "count": 2}


def test_a_saved_policy_is_the_trained_one(run: ridgeline.Run) -> None:
    """Its returns from the final evaluation's starts are those that the run wrote down."""
    for seed, mean in zip(run.seeds, run.result["eval"]["per_seed"], strict=True):
        returns = ridgeline.evaluate(run.policy(seed), "CartPole-v1", episodes=4)
        assert returns.mean() == mean


def test_a_policy_acts(run: ridgeline.Run) -> None:
    assert run.policy(0)(np.zeros(4, np.float32)) in (0, 1)


def test_policies_are_only_played_where_the_spaces_agree(run: ridgeline.Run) -> None:
    with pytest.raises(UsageError, match="spaces"):
        ridgeline.evaluate(run.policy(0), "Acrobot-v1")


def test_unknown_seed(run: ridgeline.Run) -> None:
    with pytest.raises(UsageError, match="no seed 7"):
        run.policy(7)


@pytest.mark.parametrize("damage", ["truncated", "not one", "empty"])
def test_a_damaged_policy_is_a_file_error(run: ridgeline.Run, damage: str, tmp_path: Path) -> None:
    whole = (run.folder / "policies" / "seed-0.safetensors").read_bytes()
    path = tmp_path / "policy.safetensors"
    path.write_bytes({"truncated": whole[: len(whole) // 2], "not one": b"hello" * 100, "empty": b""}[damage])
    with pytest.raises(FileError, match=r"policy\.safetensors"):
        ridgeline.load_policy(path)


def test_iterating_by_hand(tmp_path: Path) -> None:
    training = ridgeline.start(SMALL, CartPole(), out=tmp_path, **QUICK)
    steps = [progress.steps for progress in training]
    assert steps == sorted(steps)
    assert {32, 64, 128} <= set(steps)  # the first iteration, and the evaluations
    assert training.finish().result["steps"] == 128


def test_a_callback_sees_the_policy(tmp_path: Path) -> None:
    seen: list[Any] = []
    ridgeline.train(SMALL, CartPole(), out=tmp_path, callback=lambda p: seen.append(p.policy(1)), **QUICK)
    assert len(seen) >= 3
    first, last = (jax.tree.leaves(policy)[0] for policy in (seen[0], seen[-1]))
    assert not np.array_equal(first, last)


def test_what_a_failing_callback_leaves(tmp_path: Path) -> None:
    def fail(progress: Any) -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError):
        ridgeline.train(SMALL, CartPole(), out=tmp_path, name="left", callback=fail, **QUICK)
    assert ridgeline.load_policy(tmp_path / "left" / "policies" / "seed-1.safetensors")


class Diverging(ridgeline.PPO):
    """Its parameters are not finite after the second update."""

    def update(self, key: Any, state: Any, rollout: Any, steps: Any) -> Any:
        state, metrics = super().update(key, state, rollout, steps)
        broken = jnp.where(steps.iteration >= 1, jnp.nan, 1.0)
        policy = eqx.tree_at(lambda p: p.network.value.bias, state.policy, replace_fn=lambda b: b * broken)
        return dataclasses.replace(state, policy=policy), metrics


def test_divergence_keeps_the_last_good_policies(tmp_path: Path) -> None:
    record = Diverging(num_envs=2, rollout_length=16, batch_size=16, epochs=1, hidden=(8,))
    with pytest.raises(NumericalError, match=r"seed 0: .*value.*bias.* step 64"):
        ridgeline.train(record, CartPole(), out=tmp_path, name="d", **QUICK)
    kept = ridgeline.load_policy(tmp_path / "d" / "policies" / "seed-0.safetensors", record)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(kept.parameters))


class Mine(gymnasium.Env):
    """A walk: right pays."""

    observation_space = gymnasium.spaces.Box(-9, 9, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.at, self.steps = np.zeros(1, np.float32), 0
        return self.at, {}

    def step(self, action: int) -> Any:
        self.at, self.steps = self.at + (1 if action else -1), self.steps + 1
        return self.at, float(action), bool(abs(self.at[0]) >= 5), self.steps >= 9, {}


@pytest.mark.parametrize("env", [Mine, Mine(), lambda: Mine()])
def test_an_environment_of_ones_own(env: Any, tmp_path: Path) -> None:
    run = ridgeline.train(SMALL, env, out=tmp_path, **QUICK)
    assert run.config["backend"] == "gymnasium"
    assert run.result["eval"]["per_seed"][0] <= 9


class Encoder(eqx.Module):
    """Two features of four."""

    weight: jax.Array

    def __call__(self, obs: jax.Array) -> jax.Array:
        return jnp.tanh(obs @ self.weight)


def two_features(key: Any, spec: Any) -> Encoder:
    return Encoder(jax.random.normal(key, (4, 2)))


@pytest.mark.parametrize("kind", [ridgeline.PPO, ridgeline.DQN])
def test_a_custom_encoder(kind: Any, tmp_path: Path) -> None:
    sizes = {"batch_size": 16} if kind is ridgeline.PPO else {"replay": ridgeline.Replay(batch_size=8, warmup=0)}
    record = kind(num_envs=2, rollout_length=16, encoder=two_features, **sizes)
    run = ridgeline.train(record, "CartPole-v1", out=tmp_path, **QUICK)
    with pytest.raises(FileError, match="custom encoder"):
        run.policy(0)
    assert run.policy(0, record)(np.zeros(4, np.float32)) in (0, 1)


@dataclasses.dataclass(frozen=True)
class Wrong:
    """A JAX environment that breaks its own spec in one way."""

    fault: str
    spec = EnvSpec("Wrong-v0", ArraySpec((2,)), Discrete(2), max_episode_steps=4)

    def reset(self, key: Any) -> Any:
        return jnp.zeros(()), jnp.zeros(3 if self.fault == "reset's observation" else 2)

    def step(self, key: Any, state: Any, action: Any) -> Any:
        if self.fault == "raises":
            raise ValueError("no such thing")
        obs = jnp.zeros(2, int if self.fault == "next_obs" else float)
        reward = jnp.zeros(1 if self.fault == "reward" else ())
        ended = jnp.zeros((), float if self.fault == "terminated" else bool)
        state = state.astype(int) if self.fault == "state" else state
        return state, Step(obs, reward, ended, jnp.zeros((), bool))


@pytest.mark.parametrize("fault", ["reset's observation", "next_obs", "reward", "terminated", "state"])
def test_a_jax_environment_that_breaks_its_spec_is_named(fault: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=fault):
        ridgeline.start(SMALL, Wrong(fault), out=tmp_path, **QUICK)
    assert list(tmp_path.iterdir()) == []


def test_a_jax_environment_that_raises(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentCrash, match="no such thing"):
        ridgeline.start(SMALL, Wrong("raises"), out=tmp_path, **QUICK)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"sinks": ("foo",)}, "no sink 'foo'"),
        ({"gamma": 0.5}, "no setting 'gamma'"),
        ({"seeds": ()}, "no seeds"),
        ({"seeds": (1, 1)}, "repeat"),
        ({"seeds": (-1,)}, "seed -1"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_settings_are_checked_before_anything_is_written(
    settings: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        ridgeline.start(SMALL, "CartPole-v1", out=tmp_path, **QUICK | settings)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["ppo", "dqn"])
@pytest.mark.parametrize(
    "observation",
    [ArraySpec((3,)), ArraySpec((84, 84, 4), "uint8"), (("image", ArraySpec((64, 64, 3), "uint8")),)],
)
def test_general_presets_fit(name: str, observation: Any) -> None:
    spec = EnvSpec("Unknown-v0", observation, Discrete(3))
    preset(name, spec).algorithm.check(spec)


def test_every_preset_fits_its_environment() -> None:
    for (_, env), chosen in PRESETS.items():
        chosen.algorithm.check(ridgeline.make(env).spec)


def test_files_are_plain(run: ridgeline.Run) -> None:
    for line in (run.folder / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert "<script" not in run.report().read_text()
