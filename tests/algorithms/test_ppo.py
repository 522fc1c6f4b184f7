"""PPO's stop by KL, its clip of values, and numbers at the edges."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import assert_same, random_rollout, tiny

from ridgeline.algorithms.ppo import value_loss
from ridgeline.rollouts import standardise
from ridgeline.types import ACTION_MASK, ArraySpec, Discrete, EnvSpec, Steps

SPEC = EnvSpec("Discrete", ArraySpec((3,)), Discrete(3))
STEPS = Steps(jnp.float32(8), jnp.float32(100), jnp.int32(1))


def update(algorithm):
    """One update of 2 epochs × 2 minibatches from one beginning."""
    return updated(algorithm, random_rollout(np.random.default_rng(0), algorithm, SPEC))


@functools.partial(jax.jit, static_argnames="spec")
def updated(algorithm, rollout, spec=SPEC):
    state = algorithm.init(jax.random.key(0), spec)
    return state, *algorithm.update(jax.random.key(1), state, rollout, STEPS)


def ppo(**changes):
    return tiny("ppo", **{"learning_rate": 0.05} | changes)


def test_without_a_target_every_step_is_taken():
    _, _, metrics = update(ppo(target_kl=0.0))
    assert metrics["train/steps_taken"] == 1
    assert metrics["train/approx_kl"] > 0


def test_a_target_that_is_never_reached_changes_nothing():
    assert_same(update(ppo(target_kl=1e6)), update(ppo(target_kl=0.0)))


def test_beyond_the_target_no_further_step_is_taken():
    """The first minibatch has ρ = 1, so its step is taken; the second sees a KL far beyond the target."""
    before, after, metrics = update(ppo(target_kl=1e-9))
    assert metrics["train/steps_taken"] == 0.25
    assert after.optimiser.count == before.optimiser.count + 1
    _, whole, _ = update(ppo(target_kl=0.0))
    assert whole.optimiser.count == before.optimiser.count + 4
    assert not np.array_equal(before.policy.network.value.weight, after.policy.network.value.weight)


def test_the_stop_lasts_although_later_minibatches_are_within():
    """Where a mask leaves one action the KL is 0: so half the minibatches, of one row each, are within."""
    spec = EnvSpec("Masked", ((ACTION_MASK, ArraySpec((2,), "int8")), ("place", ArraySpec((3,)))), Discrete(2))
    algorithm = ppo(batch_size=1, epochs=4, target_kl=1e-9)
    rollout = random_rollout(np.random.default_rng(0), algorithm, spec)
    rollout.transitions.obs[ACTION_MASK][::2] = 1
    _, _, metrics = updated(algorithm, rollout, spec)
    assert 0 < metrics["train/steps_taken"] < 0.4


def test_a_higher_target_stops_later():
    """The first minibatch of a pass has no KL; 1.5 targets are still within."""
    shares = [
        float(update(ppo(target_kl=t))[2]["train/steps_taken"]) for t in (1e-9, 1e-4, 1e-3, 1e-2, 1e-1, 10.0)
    ]
    assert shares == sorted(shares)
    assert shares[-1] == 1
    kl = float(update(ppo(epochs=1, target_kl=0.0))[2]["train/approx_kl"]) * 2  # the first minibatch has none
    for factor, expected in ((1.001, 1.0), (0.999, 0.5)):
        assert update(ppo(epochs=1, target_kl=kl * factor / 1.5))[2]["train/steps_taken"] == expected


@pytest.mark.parametrize(
    ("value", "target", "expected", "gradient"),
    [
        (1.1, 3.0, 1.9**2, -2 * 1.9),  # within 0.2 of V_old = 1: the plain error
        (2.0, 3.0, 1.8**2, 0.0),  # moved towards the target beyond the clip: no gain from it
        (2.0, 0.0, 2.0**2, 2 * 2.0),  # moved away from it: the plain error is the larger
        (0.0, -1.0, 1.8**2, 0.0),  # the same downwards
        (0.0, 3.0, 3.0**2, -2 * 3.0),
        (3.5, 5.0, 3.8**2, 0.0),  # and far beyond it
    ],
)
def test_the_value_clip_by_hand(value, target, expected, gradient):
    arguments = (jnp.float32(value), jnp.float32(target), jnp.float32(1.0), jnp.float32(0.2))
    assert value_loss(*arguments) == pytest.approx(expected, rel=1e-5)
    assert jax.grad(value_loss)(*arguments) == pytest.approx(gradient, rel=1e-5)
    for clip in ((), (0.0,)):
        assert value_loss(*arguments[:3], *clip) == pytest.approx((value - target) ** 2, rel=1e-5)


def test_the_value_clip_acts_on_the_values_of_before_the_update():
    """So narrow a clip: only the first step moves V towards the targets; one so wide changes nothing."""
    assert_same(update(ppo(value_clip=1e6)), update(ppo(value_clip=0.0)), rtol=1e-4, atol=1e-6)
    free, clipped = (update(ppo(value_clip=c, value_coef=10.0))[2] for c in (0.0, 1e-4))
    assert clipped["train/value_loss"] > free["train/value_loss"]


@pytest.mark.parametrize("batch_size", [1, 4])
def test_advantages_without_variance_stay_finite(batch_size):
    """Minibatches of one row, and rewards, values and so advantages that are all alike."""
    algorithm = ppo(batch_size=batch_size, epochs=1)
    rollout = random_rollout(np.random.default_rng(0), algorithm, SPEC)
    x = rollout.transitions
    x = x._replace(reward=np.zeros_like(x.reward), obs=np.zeros_like(x.obs), next_obs=np.zeros_like(x.next_obs))
    _, after, metrics = updated(algorithm, rollout._replace(transitions=x))
    for leaf in jax.tree.leaves((after, {k: v for k, v in metrics.items() if k != "train/explained_variance"})):
        assert np.isfinite(leaf).all()
    np.testing.assert_array_equal(standardise(jnp.full(batch_size, 3.0)), np.zeros(batch_size))
