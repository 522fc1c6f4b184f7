"""Training that starts from a policy: where its parameters go, and what is refused."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from miniatures import ALGORITHMS, assert_same, classic, tiny

import ridgeline
from ridgeline.environments.classic import CartPole
from ridgeline.environments.stepped import SteppedFactory
from ridgeline.errors import UsageError
from ridgeline.experiments.policy import Policy
from ridgeline.experiments.warm_start import begin_from, states_from
from ridgeline.theory.conformance import first_state
from ridgeline.training.runner import make_runner

# Copies of what acts, beside the policy itself; other static networks are of critics.
COPIES = {
    "dqn": "learner.static",
    "ddpg": "learner.static_actor",
    "td3": "learner.static_actor",
    "naf": "learner.static",
    "qsearch": "learner.static",
}


def at(tree: Any, path: str) -> Any:
    for name in path.split("."):
        tree = getattr(tree, name)
    return tree


def small(name: str) -> Any:
    sizes = {"rollout_length": 500} if name in ("pg", "vpg") else {}
    return tiny(name, normalise_observations=True, **sizes)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_starts_from_a_policy(name: str) -> None:
    """The policy and its copies are it, with separate memory; nothing else has changed."""
    algorithm, spec = small(name), classic(name).spec
    trained = first_state(algorithm, jax.random.key(7), spec)
    policy = Policy(algorithm, spec, jax.tree.map(lambda x: np.asarray(x + 1), algorithm.policy(trained)))
    begun = first_state(algorithm, jax.random.key(0), spec)
    states = jax.tree.map(lambda x: np.stack([x, x]), begun)
    states = jax.tree.map(jax.numpy.asarray, states)
    found = states_from(policy, algorithm, states)
    twice = jax.tree.map(lambda x: np.stack([x, x]), policy.parameters)
    assert_same(algorithm.policy(found), twice)
    replaced = len(jax.tree.leaves(twice))
    if name in COPIES:
        assert_same(at(found, COPIES[name]), twice.network)
        replaced += len(jax.tree.leaves(twice.network))
    assert sum(a is not b for a, b in zip(*map(jax.tree.leaves, (found, states)), strict=True)) == replaced
    buffers = [x.unsafe_buffer_pointer() for x in jax.tree.leaves(found)]
    assert len(set(buffers)) == len(buffers)


def leaf(policy: Policy) -> dict[str, np.ndarray]:
    return {
        jax.tree_util.keystr(k): np.asarray(v) for k, v in jax.tree_util.tree_leaves_with_path(policy.parameters)
    }


RECORD = ridgeline.PPO(
    num_envs=2, rollout_length=16, batch_size=16, epochs=1, hidden=(8,), normalise_observations=True
)
FEW: dict[str, Any] = {"steps": 64, "seeds": 2, "evaluations": 0, "final_episodes": 2}


@pytest.mark.parametrize("factory", [CartPole, lambda: SteppedFactory(CartPole())], ids=["compiled", "hosted"])
def test_both_runners_begin_with_it(factory: Any) -> None:
    algorithm, spec = tiny("ppo"), CartPole.spec
    given = jax.tree.map(np.asarray, algorithm.policy(first_state(algorithm, jax.random.key(7), spec)))
    runner = make_runner(algorithm, factory(), (0, 1, 2))
    begin_from(runner, Policy(algorithm, spec, given))
    assert_same(runner.policies, jax.tree.map(lambda x: np.stack([x] * 3), given))
    runner.run(0, 1, 100.0)
    runner.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> ridgeline.Run:
    return ridgeline.train(RECORD, "CartPole-v1", out=tmp_path_factory.mktemp("runs"), **FEW)


def test_a_run_from_a_file(run: ridgeline.Run, tmp_path: Path) -> None:
    """Learning rate 0 returns the parameters that it started from; the normaliser goes on counting."""
    path = run.folder / "policies" / "seed-1.safetensors"
    still = dataclasses.replace(RECORD, learning_rate=0.0)
    again = ridgeline.train(still, "CartPole-v1", out=tmp_path, initial_policy=path, **FEW)
    sha = hashlib.sha256(path.read_bytes()).hexdigest()
    assert again.config["initial_policy"] == {"path": str(path), "sha256": sha}
    assert run.config["initial_policy"] is None
    before, after = leaf(run.policy(1)), leaf(again.policy(0))
    for name, array in before.items():
        if "normaliser" not in name:
            np.testing.assert_array_equal(after[name], array)
        elif "count" in name and "high" in name:
            assert (array, after[name]) == (64, 128)


def test_what_does_not_fit(run: ridgeline.Run, tmp_path: Path) -> None:
    policy = run.policy(0)
    for record, env, says in [
        (ridgeline.DQN(), "CartPole-v1", "policy of ppo, and dqn"),
        (RECORD, "Acrobot-v1", "for CartPole-v1: the spaces of Acrobot-v1 differ"),
        (
            dataclasses.replace(RECORD, hidden=(9,)),
            "CartPole-v1",
            r"bias is float32\[8\] there and float32\[9\] in",
        ),
        (dataclasses.replace(RECORD, shared=False), "CartPole-v1", "critic_encoder.* is missing there"),
        (dataclasses.replace(RECORD, activation="relu"), "CartPole-v1", "activation or layer norm"),
        (dataclasses.replace(RECORD, normalise_observations=False), "CartPole-v1", "missing in this run"),
    ]:
        with pytest.raises(UsageError, match=says):
            ridgeline.start(record, env, out=tmp_path, initial_policy=policy, **FEW)
    assert list(tmp_path.iterdir()) == []
