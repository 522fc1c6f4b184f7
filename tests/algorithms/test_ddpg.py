"""DDPG's and TD3's equations against NumPy, their noise, and numbers at the edges."""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import all_finite, assert_same, random_rollout, tiny

from ridgeline.algorithms.ddpg import policy_objective, smoothed
from ridgeline.critics import least, where_next_action
from ridgeline.errors import UsageError
from ridgeline.exploration import explore, into_bounds, ornstein_uhlenbeck, uniform_action
from ridgeline.memory import Batch, Replay
from ridgeline.theory.property import QUICK_TO_COMPILE
from ridgeline.types import ArraySpec, Continuous, Discrete, EnvSpec, Steps

BOUNDED = (True, False)
SPEC = EnvSpec("Continuous", ArraySpec((3,)), Continuous(2, BOUNDED))
random = np.random.default_rng(0)
learn = jax.jit(lambda algorithm, *rest: algorithm.learn(*rest), compiler_options=QUICK_TO_COMPILE)
targets = jax.jit(jax.vmap(lambda a, *rest: a.target(*rest), (None, None, 0, 0)))
choose_next = jax.jit(lambda algorithm, *rest: algorithm.choose_next(*rest))
values = jax.jit(lambda critic, obs, action: jax.vmap(critic)(obs, action))
act = jax.jit(jax.vmap(lambda a, *rest: a.act(*rest), (None, 0, None, None, None, None)))


@functools.cache
def first(name: str) -> Any:
    """The state before the first step; one compilation serves every option."""
    return jax.jit(lambda a: a.init(jax.random.key(0), SPEC), compiler_options=QUICK_TO_COMPILE)(tiny(name))


def steps_at(taken: float) -> Steps:
    return Steps(jnp.float32(taken), jnp.float32(100), jnp.int32(0))


def batch_of(count: int, terminal: bool = False, continues: bool = True) -> Batch:
    """Transitions of noise."""
    obs, next_obs = jnp.asarray(random.normal(size=(2, count, 3)), float)
    action, next_action = jnp.asarray(random.uniform(-1, 1, (2, count, 2)), float)
    reward, ones = jnp.asarray(random.normal(size=count), float), jnp.ones(count)
    discount = jnp.zeros(count) if terminal else jnp.full(count, 0.9)
    known = jnp.full(count, continues)
    index = jnp.zeros((count, 2), jnp.int32)
    return Batch(obs, action, reward, next_obs, next_action, known, discount, ones, index)


class LinearActor(eqx.Module):
    gain: jax.Array

    def __call__(self, obs):
        return obs @ self.gain


class QuadraticCritic(eqx.Module):
    peak: jax.Array

    def __call__(self, obs, action):
        return jnp.sum(obs) * jnp.sum(action) - jnp.sum((action - self.peak) ** 2)


def test_the_policy_gradient_is_the_chain_rule():
    """∇_W Q(s, sW) = s ⊗ ∇ₐQ, with ∇ₐQ = (Σs) 1 − 2 (a − p) by hand; the critic gets no part in it."""
    gain, peak, obs = random.normal(size=(3, 2)), random.normal(size=2), random.normal(size=3)
    actor, critic = LinearActor(jnp.asarray(gain, float)), QuadraticCritic(jnp.asarray(peak, float))
    found = jax.grad(policy_objective)(actor, critic, jnp.asarray(obs, float))
    np.testing.assert_allclose(found.gain, np.outer(obs, obs.sum() - 2 * (obs @ gain - peak)), rtol=1e-4)


def test_the_policy_moves_where_its_objective_rises():
    algorithm, batch = tiny("ddpg", optimiser="sgd", actor_learning_rate=1e-2, learning_rate=0.0), batch_of(16)
    learner = first("ddpg").learner

    def objective(actor):
        return jnp.mean(jax.vmap(policy_objective, (None, None, 0))(actor, learner.critic.critics[0], batch.obs))

    later, metrics, _ = learn(algorithm, jax.random.key(0), learner, batch, steps_at(0))
    gradient = jax.grad(objective)(learner.actor)
    expected = jax.tree.map(lambda p, g: p + 1e-2 * g, learner.actor, gradient)
    assert_same(later.actor, expected, rtol=1e-5, atol=1e-6)
    assert objective(later.actor) > objective(learner.actor)
    assert metrics["train/actor_loss"] == pytest.approx(float(-objective(learner.actor)), rel=1e-5)
    assert_same(later.critic.critics, learner.critic.critics)


@pytest.mark.parametrize("source", ["target", "online", "memory"])
@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_targets_are_those_of_the_equation(name, source):
    """y = r + d minₖ Q′ₖ(s′, a′), a′ of μ′, of μ or of the memory; no noise here."""
    algorithm = tiny(name, next_action=source, **({} if name == "ddpg" else {"target_noise": 0.0}))
    learner, batch = first(name).learner, batch_of(8)
    copies = jax.tree.map(lambda x: x + 0.5, (learner.static_actor, learner.static_critics))
    learner = dataclasses.replace(learner, static_actor=copies[0], static_critics=copies[1])
    actor = {"target": learner.static_actor, "online": learner.actor, "memory": None}[source]
    action = jax.vmap(actor)(batch.next_obs) if actor else batch.next_action
    each = [values(critic, batch.next_obs, action) for critic in learner.static_critics]
    assert len(each) == (2 if name == "td3" else 1)
    chosen = choose_next(algorithm, jax.random.key(0), learner, batch)
    np.testing.assert_allclose(chosen, action, rtol=1e-6)
    found = targets(algorithm, learner, batch, chosen)
    np.testing.assert_allclose(found, batch.reward + 0.9 * np.min(each, 0), rtol=1e-4, atol=1e-5)


def test_the_lower_of_two_critics_is_read():
    low, high = QuadraticCritic(jnp.full(2, 3.0)), QuadraticCritic(jnp.zeros(2))
    for critics in ((low, high), (high, low)):
        assert least(critics, jnp.zeros(3), jnp.zeros(2)) == -18


def test_smoothing_is_clipped_noise_in_bounds():
    """a′ + clip(σ ε, −c, c) has ± c as its ends, and ±1 where the entry is bounded."""
    action = jnp.array([0.9, 0.9])
    for noise, expected in ((0.25, (0.95, 0.95)), (-1, (0.7, 0.7)), (2, (1, 1.2)), (-2, (0.6, 0.6))):
        found = smoothed(jnp.full(2, float(noise)), action, 0.2, 0.3, BOUNDED)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_array_equal(smoothed(jnp.ones(2), action, 0.0, 0.3, BOUNDED), action)


def test_every_row_of_a_batch_has_noise_of_its_own():
    batch = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), batch_of(8))
    _, _, error = learn(tiny("td3"), jax.random.key(0), first("td3").learner, batch, steps_at(0))
    assert len(set(error.tolist())) == 8


def test_rows_without_their_next_action_weigh_nothing():
    batch = dataclasses.replace(
        batch_of(4), continues=jnp.array([True, False, False, True]), discount=jnp.array([0.9, 0.9, 0.0, 0.9])
    )
    weight = where_next_action(batch).weight
    np.testing.assert_allclose(weight, [4 / 3, 0, 4 / 3, 4 / 3], rtol=1e-6)
    assert not where_next_action(batch_of(4, continues=False)).weight.any()


def test_what_the_memory_cannot_say_teaches_nothing():
    algorithm = tiny("ddpg", next_action="memory")
    learner = first("ddpg").learner
    later, metrics, _ = learn(algorithm, jax.random.key(0), learner, batch_of(8, continues=False), steps_at(0))
    assert_same(later.critic.critics, learner.critic.critics)
    assert all_finite(metrics)


def test_td3_moves_its_policy_and_copies_every_second_time():
    algorithm, batch = tiny("td3"), batch_of(8)
    begun = first("td3").learner
    second, metrics, _ = learn(algorithm, jax.random.key(0), begun, batch, steps_at(0))
    still = ("actor", "static_actor", "static_critics")
    assert_same([getattr(second, name) for name in still], [getattr(begun, name) for name in still])
    assert np.isnan(metrics["train/actor_loss"])
    third, metrics, _ = learn(algorithm, jax.random.key(1), second, batch, steps_at(0))
    assert np.isfinite(metrics["train/actor_loss"])
    for old, new in zip(jax.tree.leaves(second.actor), jax.tree.leaves(third.actor), strict=True):
        assert (old != new).any()
    tau = algorithm.tau
    expected = jax.tree.map(lambda o, n: o + tau * (n - o), second.static_critics, third.critic.critics)
    assert_same(third.static_critics, expected, rtol=1e-5, atol=1e-7)


def test_actions_are_uniform_until_the_warm_up_is_over():
    algorithm = tiny("ddpg", noise_scale=0.0, replay=Replay(capacity=16, batch_size=4, warmup=10))
    policy, obs = algorithm.policy(first("ddpg")), jnp.ones(3)
    noise = jax.random.normal(jax.random.key(0), (2_000, 2))
    early, _ = act(algorithm, noise, policy, (), obs, steps_at(9))
    late, _ = act(algorithm, noise, policy, (), obs, steps_at(10))
    assert np.abs(early[:, 0]).max() <= 1
    assert np.std(early[:, 0]) == pytest.approx(1 / np.sqrt(3), rel=0.05)
    assert np.std(early[:, 1]) == pytest.approx(1, rel=0.05)
    np.testing.assert_allclose(late, np.broadcast_to(policy.network(obs), late.shape), rtol=1e-6)


def test_gaussian_noise_has_its_scale_and_no_memory():
    noisy, carry = explore(jnp.array([-0.5, 3.0]), "gaussian", (), jnp.array([0.1, 0.1]), 0.2, BOUNDED)
    assert carry == ()
    np.testing.assert_allclose(noisy, [0, 0.7], atol=1e-7)


@pytest.mark.parametrize("name", ["ddpg", "naf"])
def test_each_action_has_standard_normal_noise_of_its_own(name):
    algorithm = tiny(name)
    policy = algorithm.policy(first(name))
    keys = jax.random.split(jax.random.key(0), 4_000)
    noise = np.asarray(jax.vmap(algorithm.randomness, (0, None, None))(keys, policy, jnp.ones(3)))
    assert noise.shape == (4_000, 2)
    assert np.mean(noise, 0) == pytest.approx(0, abs=0.05)
    assert np.std(noise, 0) == pytest.approx(1, rel=0.05)
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.05


def test_ornstein_uhlenbeck_noise_lasts_and_drifts_back():
    """From x: mean 0.85 x; in the long run variance σ² / (1 − 0.85²) and correlation 0.85."""
    moved = ornstein_uhlenbeck(jnp.array([0.0, 1.0, -2.0]), jnp.full(3, 2.0), 0.2)
    np.testing.assert_allclose(moved, [1.7, 1.9, 1.3], rtol=1e-6)

    def step(x, noise):
        x = ornstein_uhlenbeck(noise, x, 0.2)
        return x, x

    noise = jax.random.normal(jax.random.key(0), (2_000, 64))
    xs = np.asarray(jax.lax.scan(step, jnp.zeros(64), noise)[1])[100:]
    assert np.std(xs) == pytest.approx(0.2 / np.sqrt(1 - 0.85**2), rel=0.03)
    assert np.corrcoef(xs[1:].ravel(), xs[:-1].ravel())[0, 1] == pytest.approx(0.85, abs=0.01)


def test_the_noise_is_the_carry_and_starts_at_zero():
    algorithm = tiny("ddpg", noise="ornstein_uhlenbeck")
    carry, policy, obs = algorithm.begin(SPEC), algorithm.policy(first("ddpg")), jnp.ones(3)
    np.testing.assert_array_equal(carry, np.zeros(2))
    noise = jax.random.normal(jax.random.key(0), (4, 2))
    action, later = jax.tree.map(lambda x: x[0], act(algorithm, noise, policy, carry, obs, steps_at(50)))
    assert (later != 0).all()
    np.testing.assert_allclose(action, into_bounds(policy.network(obs) + later, BOUNDED), rtol=1e-6)
    assert tiny("ddpg").begin(SPEC) == ()
    np.testing.assert_array_equal(algorithm.greedy(jax.random.key(0), policy, carry, obs)[1], carry)


def test_lasting_noise_goes_on_from_its_carry_in_bounds():
    carry, action = jnp.array([2.0, 2.0]), jnp.array([0.5, 0.5])
    noisy, later = explore(jnp.ones(2), "ornstein_uhlenbeck", carry, action, 0.0, BOUNDED)
    np.testing.assert_allclose(later, 1.7, rtol=1e-6)
    np.testing.assert_allclose(noisy, [1, 2.2], rtol=1e-6)


def test_noise_ends_at_the_bounds_there_are():
    np.testing.assert_array_equal(into_bounds(jnp.array([-3.0, -3.0]), BOUNDED), [-1, -3])
    np.testing.assert_array_equal(into_bounds(jnp.array([3.0, 3.0]), BOUNDED), [1, 3])


def test_uniform_actions_fill_their_box():
    noise = jax.random.normal(jax.random.key(0), (10_000, 1))
    many = np.asarray(jax.vmap(lambda e: uniform_action(e, (True,)))(noise))
    assert np.histogram(many, 4, (-1, 1))[0] == pytest.approx(2_500, abs=200)
    np.testing.assert_array_equal(uniform_action(jnp.full(2, 9.0), BOUNDED), [1, 9])


@pytest.mark.parametrize("name", ["ddpg", "td3"])
def test_a_saturated_policy_stays_finite(name):
    """tanh ±1: its gradient is 0, and nothing is NaN."""
    algorithm = tiny(name, policy_delay=1)
    learner = first(name).learner
    bias = jnp.array([1e30, 1.0])  # of the bounded entry, and of the other
    huge = eqx.tree_at(lambda actor: actor.linear.bias, learner.actor, bias)
    learner = dataclasses.replace(learner, actor=huge, static_actor=huge)
    later, metrics, _ = learn(algorithm, jax.random.key(0), learner, batch_of(8), steps_at(0))
    assert all_finite((later, metrics))
    np.testing.assert_array_equal(later.actor.linear.weight[:, 0], huge.linear.weight[:, 0])


@pytest.mark.parametrize("name", ["ddpg", "td3"])
@pytest.mark.parametrize("source", ["target", "memory"])
def test_episodes_of_one_step_are_worth_their_reward(name, source):
    algorithm, batch = tiny(name, next_action=source), batch_of(8, terminal=True, continues=False)
    learner = first(name).learner
    found = targets(algorithm, learner, batch, choose_next(algorithm, jax.random.key(0), learner, batch))
    np.testing.assert_allclose(found, batch.reward, rtol=1e-6)
    later, metrics, error = learn(algorithm, jax.random.key(0), learner, batch, steps_at(0))
    assert all_finite((later, error, metrics["train/critic_loss"]))


def test_only_continuous_actions_are_taken():
    with pytest.raises(UsageError, match="td3 needs Continuous actions"):
        tiny("td3").check(EnvSpec("Discrete", ArraySpec((3,)), Discrete(3)))


def test_a_whole_update_moves_everything():
    algorithm = tiny("ddpg")
    state = first("ddpg")
    rollout = random_rollout(np.random.default_rng(0), algorithm, SPEC)
    later, metrics = jax.jit(lambda a, *rest: a.update(*rest))(
        algorithm, jax.random.key(0), state, rollout, steps_at(8)
    )
    assert later.learner.updates == 2
    assert {"train/actor_loss", "train/critic_loss", "train/q_max", "train/divergence"} <= metrics.keys()
