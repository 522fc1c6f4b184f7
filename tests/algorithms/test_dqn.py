"""DQN's quantiles, its priorities and its layer norm; what any algorithm promises is tested elsewhere."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import SEEDS, TINY, random_rollout, tiny

from ridgeline.algorithms.dqn import quantile_errors, quantile_huber
from ridgeline.encoders import MLP, Architecture
from ridgeline.environments.probes import Probe
from ridgeline.memory import Batch
from ridgeline.theory.probes import LEARNED, QUICK, quick
from ridgeline.training.runner import Compiled
from ridgeline.types import ACTION_MASK, ArraySpec, Discrete, EnvSpec, Steps

PLAIN = EnvSpec("Plain", ArraySpec((3,)), Discrete(3))
MASKED = EnvSpec("Masked", ((ACTION_MASK, ArraySpec((3,), "int8")), ("place", ArraySpec((2,)))), Discrete(3))
STEPS = Steps(jnp.float32(8), jnp.float32(100), jnp.int32(1))
RANDOM = np.random.default_rng(0)


# The loss of quantiles


def slow_quantile_huber(theta, targets, huber):
    """Equation 10 term by term, in the paper's own sign: u = y − θ."""
    total = 0.0
    for i, quantile in enumerate(theta):
        level = (2 * i + 1) / (2 * len(theta))
        for target in targets:
            u = target - quantile
            loss = 0.5 * u**2 if abs(u) <= 1 else abs(u) - 0.5
            total += abs(level - (1 if u < 0 else 0)) * (loss if huber else abs(u)) / len(targets)
    return total


@pytest.mark.parametrize("huber", [False, True])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_quantile_huber_is_the_double_sum(count, huber):
    with jax.enable_x64(True):
        values, targets = RANDOM.normal(size=(3, count)), 2 * RANDOM.normal(size=count)
        error = quantile_errors(jnp.array(values), jnp.array(1), jnp.array(targets))
        np.testing.assert_allclose(error, values[1][:, None] - targets[None], rtol=1e-12)
        expected = slow_quantile_huber(values[1], targets, huber)
        assert quantile_huber(error, huber) == pytest.approx(expected, rel=1e-12)


def test_only_the_quantiles_of_the_action_are_pulled():
    def loss(quantiles, targets):
        return quantile_huber(quantile_errors(quantiles, jnp.array(2), targets))

    quantiles, targets = jnp.array([[1.0, 2], [0, 5], [3, -4]]), jnp.array([9.0, -8])
    pull, through = jax.grad(loss, (0, 1))(quantiles, targets)
    # τ = ¼, ¾; both targets are further than 1 away, one above, one below: ½ (−τ + (1 − τ))
    np.testing.assert_allclose(pull, [[0, 0], [0, 0], [0.25, -0.25]], atol=1e-6)
    np.testing.assert_array_equal(through, [0, 0])


@pytest.mark.parametrize(("huber", "within"), [(False, 0.02), (True, 1.0)])
def test_the_minimum_lies_at_the_quantiles_of_what_is_seen(huber, within):
    """Returns −20, 0, 10 and 15; Huber's loss is even about its minimum only within κ = 1 of a return."""
    returns, chance, count = np.array([-20.0, 0, 10, 15]), np.array([0.15, 0.5, 0.3, 0.05]), 8

    def loss(theta):
        def one(y):
            return quantile_huber(quantile_errors(theta[None], jnp.array(0), jnp.full(count, y)), huber)

        return jnp.sum(jnp.array(chance) * jax.vmap(one)(jnp.array(returns)))

    @jax.jit
    def minimise(theta):
        return jax.lax.fori_loop(0, 10_000, lambda i, x: x - 50 / (10 + i) * jax.grad(loss)(x), theta)

    with jax.enable_x64(True):
        found = np.asarray(minimise(jnp.zeros(count)))
    levels = (np.arange(count) + 0.5) / count
    np.testing.assert_allclose(found, returns[np.searchsorted(np.cumsum(chance), levels)], atol=within)
    assert (np.diff(found) >= -within).all()


# One gradient step


@functools.partial(jax.jit, static_argnames="spec")
def begun(algorithm, key, spec):
    """A learner whose online and static networks differ."""
    one, other = jax.random.split(key)
    learner = algorithm.init(one, spec).learner
    return dataclasses.replace(learner, static=algorithm.init(other, spec).learner.online)


@jax.jit
def step(algorithm, learner, batch):
    return algorithm.learn(jax.random.key(0), learner, batch, STEPS)


def sgd(**changes):
    return tiny("dqn", optimiser="sgd", max_grad_norm=1e9, **changes)


def masked_batch() -> Batch:
    """Four rows; each observation forbids one action."""
    random = np.random.default_rng(4)
    x = jax.tree.map(lambda a: jnp.asarray(a[:, 0]), random_rollout(random, tiny("dqn"), MASKED).transitions)
    return Batch(
        obs=x.obs,
        action=x.action,
        reward=x.reward,
        next_obs=x.next_obs,
        next_action=x.action,
        continues=~x.terminated,
        discount=jnp.array([0.9, 0.81, 0.0, 0.9]),
        weight=jnp.array([1, 0.5, 0.25, 1]),
        index=jnp.zeros((4, 2), jnp.int32),
    )


def slow_values(network, obs):
    """θ [A, K] from the layers, quantile by quantile, and Q [A]."""
    features = np.asarray(network.encoder(jax.tree.map(jnp.asarray, obs)), float)
    theta = (features @ np.asarray(network.advantage.weight) + network.advantage.bias).reshape(3, -1)
    if network.value is not None:
        state = features @ np.asarray(network.value.weight) + network.value.bias
        theta = np.stack([state[k] + theta[:, k] - np.mean(theta[:, k]) for k in range(len(state))], 1)
    q = np.mean(theta, 1)
    if isinstance(obs, dict):
        q = np.where(np.asarray(obs[ACTION_MASK]) == 0, -1e9, q)
    return theta, q


def slow_targets(learner, double, reward, discount, next_obs):
    """The K targets of one transition."""
    theta, q = slow_values(learner.static, next_obs)
    best = np.argmax(slow_values(learner.online, next_obs)[1] if double else q)
    return reward + discount * theta[best]


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("huber", [False, True])
def test_quantiles_are_regressed_on_those_of_the_selectors_action(double, huber):
    algorithm = sgd(quantiles=5, dueling=True, double=double, huber=huber)
    learner, x = begun(algorithm, jax.random.key(3), MASKED), masked_batch()
    _, metrics, error = step(algorithm, learner, x)
    losses, values = [], []
    for i in range(4):
        obs, next_obs = (jax.tree.map(lambda a, i=i: a[i], tree) for tree in (x.obs, x.next_obs))
        targets = slow_targets(learner, double, x.reward[i], x.discount[i], next_obs)
        theta, q = slow_values(learner.online, obs)
        np.testing.assert_allclose(learner.online(obs), q, rtol=1e-4)
        chosen = theta[x.action[i]]
        assert error[i] == pytest.approx(np.mean([abs(t - y) for t in chosen for y in targets]), rel=1e-4)
        losses.append(x.weight[i] * slow_quantile_huber(chosen, targets, huber))
        values.append(np.max(q))
    assert metrics["train/loss"] == pytest.approx(np.mean(losses), rel=1e-4)
    assert metrics["train/q_value"] == pytest.approx(np.mean(values), rel=1e-4)
    assert metrics["train/q_max"] == pytest.approx(np.max(np.abs(values)), rel=1e-4)


def test_both_selectors_choose_differently_here():
    """Or the test above could not tell them apart."""
    learner, x = begun(sgd(quantiles=5, dueling=True), jax.random.key(3), MASKED), masked_batch()
    choices = [
        [np.argmax(slow_values(network, jax.tree.map(lambda a, i=i: a[i], x.next_obs))[1]) for i in range(4)]
        for network in (learner.online, learner.static)
    ]
    assert any(x.discount[i] > 0 and choices[0][i] != choices[1][i] for i in range(4))


def test_one_quantile_is_the_median_with_half_of_hubers_loss():
    """So that with twice α it is DQN."""
    plain, one = sgd(learning_rate=0.1), sgd(learning_rate=0.2, quantiles=1)
    learner, x = begun(plain, jax.random.key(0), MASKED), masked_batch()
    (expected, before, delta), (found, after, error) = step(plain, learner, x), step(one, learner, x)
    np.testing.assert_allclose(error, np.abs(delta), rtol=1e-5)
    assert after["train/loss"] == pytest.approx(float(before["train/loss"]) / 2, rel=1e-5)
    for leaf, other in zip(jax.tree.leaves(found.online), jax.tree.leaves(expected.online), strict=True):
        np.testing.assert_allclose(leaf, other, rtol=1e-5, atol=1e-7)
    moved = zip(jax.tree.leaves(found.online), jax.tree.leaves(learner.online), strict=True)
    assert any((leaf != first).any() for leaf, first in moved)


# Priorities


@pytest.mark.parametrize("quantiles", [0, 3])
def test_drawn_transitions_get_the_priority_of_their_error(quantiles):
    """One minibatch of 4 from 8 transitions of equal priority holds one of each pair; the others keep theirs."""
    replay = dataclasses.replace(TINY["replay"], updates=1, prioritised=True, priority_exponent=0.7)
    algorithm = tiny("dqn", quantiles=quantiles, replay=replay, gamma=0.9)
    rollout = random_rollout(RANDOM, algorithm, PLAIN)

    @jax.jit
    def update(algorithm, rollout):
        state = algorithm.init(jax.random.key(0), PLAIN)
        return state, algorithm.update(jax.random.key(1), state, rollout, STEPS)[0]

    before, after = update(algorithm, jax.tree.map(jnp.asarray, rollout))
    masses, x = np.asarray(after.memory.priorities.mass).reshape(-1)[:8], rollout.transitions
    for first in range(0, 8, 2):
        kept = []
        for cell in (first, first + 1):
            t, n = divmod(cell, 2)
            discount = 0 if x.terminated[t, n] else 0.9
            targets = slow_targets(before.learner, False, x.reward[t, n], discount, x.next_obs[t, n])
            theta = slow_values(before.learner.online, x.obs[t, n])[0][x.action[t, n]]
            error = np.mean(np.abs(theta[:, None] - targets[None]))
            kept.append(masses[cell] == 1)
            assert kept[-1] or masses[cell] == pytest.approx((error + 1e-6) ** 0.7, rel=1e-4)
        assert sum(kept) == 1


# Learning


PRIORITISED = dataclasses.replace(QUICK["replay"], prioritised=True)
LEARNERS = {
    "prioritised": quick("dqn", replay=PRIORITISED),
    "quantiles": quick("dqn", quantiles=4),
    "together": quick(
        "dqn", quantiles=4, double=True, dueling=True, replay=dataclasses.replace(PRIORITISED, window=2)
    ),
}


@pytest.mark.parametrize("name", LEARNERS)
def test_learns_the_known_answers(name):
    """Probe 2 discounts and bootstraps; probe 4 is a policy that reads the observation."""
    algorithm = LEARNERS[name]
    for probe, seen in ((2, (0.0, 1.0)), (4, (-1.0, 1.0))):
        env = Probe(probe)
        runner = Compiled(algorithm, env, SEEDS)
        runner.run(0, LEARNED, 32.0 * LEARNED)
        values = jax.jit(jax.vmap(jax.vmap(lambda s, x: s.learner.online(x), (None, 0)), (0, None)))
        q = np.asarray(values(runner.states, jnp.array(seen)[:, None]))
        for i, x in enumerate(seen):
            expected = [env.action_value(jnp.array([x]), jnp.int32(a), 0.9) for a in (0, 1)]
            np.testing.assert_allclose(q[:, i], np.broadcast_to(expected, (len(SEEDS), 2)), atol=0.1)


# Layer norm


def test_layer_norm_standardises_what_each_activation_reads():
    mlp = MLP.create(jax.random.key(0), 3, Architecture((7, 5), "tanh", layer_norm=True))
    layers = [dataclasses.replace(layer, bias=layer.bias + jnp.arange(layer.bias.size)) for layer in mlp.layers]
    mlp, x = dataclasses.replace(mlp, layers=tuple(layers)), np.array([0.3, -2, 1])
    expected = x
    for layer in layers:
        h = expected @ np.asarray(layer.weight, float) + np.asarray(layer.bias)
        expected = np.tanh((h - np.mean(h)) / np.sqrt(np.var(h) + 1e-5))
    np.testing.assert_allclose(mlp(jnp.asarray(x, jnp.float32)), expected, rtol=1e-4)


def test_with_layer_norm_the_scale_of_observations_does_not_matter():
    """Biases begin at 0."""
    obs = jnp.array([0.3, -2, 1])
    for layer_norm in (True, False):
        network = begun(tiny("dqn", layer_norm=layer_norm), jax.random.key(0), PLAIN).online
        assert np.allclose(network(1000 * obs), network(obs), rtol=1e-3) == layer_norm
