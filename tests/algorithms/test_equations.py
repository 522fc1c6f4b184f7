"""The equations of the algorithms against hand calculations and slow loops in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from miniatures import tiny

from ridgeline.algorithms.ac import entropy_target, score_loss, temperature_loss
from ridgeline.algorithms.dqn import DQN, epsilon_greedy, td_error
from ridgeline.algorithms.dqn import td_target as best_td_target
from ridgeline.algorithms.naf import cholesky_root, quadratic_advantage
from ridgeline.algorithms.ppo import clipped_surrogate
from ridgeline.algorithms.trpo import adapted_penalty, improvement
from ridgeline.critics import Regression, expected_soft_value, fit, least, soft_value, td_target, where_next_action
from ridgeline.distributions import Categorical
from ridgeline.memory import Batch
from ridgeline.rollouts import Sample
from ridgeline.types import ACTION_MASK, ArraySpec, Continuous, Discrete, EnvSpec, MultiDiscrete, Steps


@pytest.fixture(autouse=True)
def float64():
    with jax.enable_x64(True):
        yield


def a(*x):
    return jnp.array(x[0] if len(x) == 1 else x, float)


def batch(rows: int, **changes) -> Batch:
    """Rows with observations 1, 2, … and next observations 11, 12, …"""
    number = jnp.arange(1.0, rows + 1)
    zeros = jnp.zeros(rows, int)
    whole = Batch(
        obs=number,
        action=zeros,
        reward=number / 10,
        next_obs=number + 10,
        next_action=zeros,
        continues=jnp.ones(rows, bool),
        discount=jnp.full(rows, 0.9),
        weight=jnp.ones(rows),
        index=jnp.zeros((rows, 2), int),
    )
    return dataclasses.replace(whole, **changes)


def row(x: Batch, i: int) -> Batch:
    return jax.tree.map(lambda leaf: leaf[i], x)


# DQN


def test_dqn_values_the_action_of_the_selector_with_the_static_network():
    x = row(batch(2), 1)
    target = best_td_target(lambda s: a(1, 5, 3) * s, lambda s: a(7, 2, 4) * s, x)
    assert target == pytest.approx(0.2 + 0.9 * 2 * 12)
    assert best_td_target(lambda s: a(7, 2, 4), lambda s: a(7, 2, 4), x) == pytest.approx(0.2 + 0.9 * 7)


def test_dqn_error_is_that_of_the_action_and_no_gradient_flows_through_the_target():
    error, (q, target) = jax.value_and_grad(td_error, (0, 2))(a(1, 5, 3), jnp.array(2), a(4.5))
    assert error == 3 - 4.5
    np.testing.assert_array_equal(q, [0, 0, 1])
    assert target == 0


@pytest.mark.parametrize(("epsilon", "shares"), [(0.0, [0, 0, 1]), (0.4, [0.2, 0, 0.8]), (1.0, [0.5, 0, 0.5])])
def test_epsilon_is_the_share_of_uniform_allowed_actions(epsilon, shares):
    keys = jax.random.split(jax.random.key(0), 4000)
    act = jax.vmap(epsilon_greedy, (0, None, None, None))
    actions = act(keys, a(1, -1e9, 2), a(0, -1e9, 0), a(epsilon))
    np.testing.assert_allclose(np.bincount(actions, minlength=3) / 4000, shares, atol=0.03)


@pytest.mark.parametrize(("taken", "expected"), [(0, 0.9), (10, 0.5), (20, 0.1), (90, 0.1)])
def test_epsilon_falls_linearly_then_stays(taken, expected):
    dqn = DQN(epsilon_start=0.9, epsilon_end=0.1, exploration_fraction=0.2)
    assert dqn.epsilon(Steps(a(taken), a(100), jnp.array(0))) == pytest.approx(expected)


@jax.jit
def dqn_step(algorithm, learner, x):
    return algorithm.learn(jax.random.key(0), learner, x, Steps(a(0), a(1), jnp.array(0)))


@functools.cache
def dqn_learner(double: bool):
    """A learner whose online and static networks differ, a batch, and the step that learns from it."""
    algorithm = tiny("dqn", double=double, optimiser="sgd", huber=False, max_grad_norm=1e9)
    spec = EnvSpec("numbers", ArraySpec((2,)), Discrete(3))
    draw = np.random.default_rng(0).normal
    learner = algorithm.init(jax.random.key(0), spec).learner
    learner = dataclasses.replace(learner, static=algorithm.init(jax.random.key(1), spec).learner.online)
    x = batch(4, obs=a(draw(size=(4, 2))), next_obs=a(draw(size=(4, 2))), action=jnp.array([0, 1, 2, 0]))
    x = jax.tree.map(lambda leaf: leaf.astype("float32") if leaf.dtype == float else leaf, x)
    return learner, x, functools.partial(dqn_step, algorithm)


@pytest.mark.parametrize("double", [False, True])
def test_dqn_targets_are_the_static_networks(double):
    learner, x, learn = dqn_learner(double)
    _, _, error = learn(learner, x)
    for i in range(4):
        q, selecting = learner.static(x.next_obs[i]), learner.online if double else learner.static
        target = x.reward[i] + x.discount[i] * q[np.argmax(selecting(x.next_obs[i]))]
        assert error[i] == pytest.approx(float(learner.online(x.obs[i])[x.action[i]] - target), rel=1e-4)


def test_dqn_rows_count_by_their_weights():
    """A row of weight 0 is as if it were not there; one of weight 2 as if it were there twice."""
    learner, x, learn = dqn_learner(False)
    weighted = learn(learner, dataclasses.replace(x, weight=jnp.float32(np.array([2, 1, 1, 0]))))[0]
    twice = learn(learner, jax.tree.map(lambda leaf: leaf[np.array([0, 0, 1, 2])], x))[0]
    for got, expected in zip(jax.tree.leaves(weighted), jax.tree.leaves(twice), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-7)


# Critics


@pytest.mark.parametrize("huber", [False, True])
def test_a_step_of_the_critics_is_the_weighted_mean_of_their_gradients(huber):
    x = batch(3, weight=a(1, 0.5, 2))
    target, w = a(1.0, -9.0, 2.4), np.array([0.7, -0.4])
    state = Regression.begin((_Linear(a(w[0])), _Linear(a(w[1]))), "sgd")
    fitted, metrics, error = fit(state, x, target, "sgd", 0.1, 1e9, huber)
    s, weight = np.array(x.obs), np.array(x.weight)
    q = np.outer(w, s)
    delta = q - np.array(target)
    pull = np.clip(delta, -1, 1) if huber else delta
    gradient = np.mean(weight * pull * s, 1)
    np.testing.assert_allclose([c.slope for c in fitted.critics], w - 0.1 * gradient, rtol=1e-9)
    np.testing.assert_allclose(error, np.mean(delta, 0), rtol=1e-9)
    each = np.where(np.abs(delta) > 1, np.abs(delta) - 0.5, delta**2 / 2) if huber else delta**2 / 2
    assert metrics["train/critic_loss"] == pytest.approx(np.sum(np.mean(weight * each, 1)))
    assert metrics["train/q_value"] == pytest.approx(np.mean(q))
    assert metrics["train/q_max"] == pytest.approx(np.max(np.abs(q)))
    assert metrics["train/grad_norm"] == pytest.approx(np.linalg.norm(gradient))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Linear:
    """Q(s, a) = w s."""

    slope: jax.Array

    def __call__(self, obs, action):
        return self.slope * obs


def test_the_least_of_critics():
    assert least((lambda s, u: s + u, lambda s, u: s * u, lambda s, u: s), a(3), a(2)) == 3


def test_td_target():
    assert td_target(row(batch(2), 1), a(4)) == pytest.approx(0.2 + 0.9 * 4)


def test_rows_without_a_next_action_weigh_nothing_and_the_others_more():
    """The first goes on, the second ends, the third is terminal: only the second's next action is wanted."""
    x = batch(3, continues=jnp.array([True, False, False]), discount=a(0.9, 0.9, 0.0), weight=a(1, 1, 0.5))
    np.testing.assert_allclose(where_next_action(x).weight, [1.5, 0, 0.75])
    none = where_next_action(batch(2, continues=jnp.zeros(2, bool)))
    np.testing.assert_array_equal(none.weight, [0, 0])


# AC and SAC


def test_soft_values_by_hand():
    assert soft_value(a(3), a(-2), a(0.5)) == 4
    pi, q = Categorical(jnp.log(a(0.25, 0.75))), a(1, -2)
    expected = 0.25 * (1 - 0.1 * np.log(0.25)) + 0.75 * (-2 - 0.1 * np.log(0.75))
    assert expected_soft_value(pi, q, 0.1) == pytest.approx(expected)


def test_the_score_loss_descends_minus_the_score_times_psi():
    assert score_loss(a(-0.5), a(3)) == 1.5
    assert jax.grad(score_loss, (0, 1))(a(-0.5), a(3)) == (-3, 0)


def test_the_temperature_falls_where_the_policy_is_too_random():
    assert temperature_loss(a(-2), a(1.5), a(0.5)) == -2
    assert jax.grad(temperature_loss, (0, 1, 2))(a(-2), a(1.5), a(0.5)) == (1, 0, 0)


@pytest.mark.parametrize(
    ("spec", "obs", "expected"),
    [
        (Continuous(3, (True,) * 3), a(0), -1.5),
        (Discrete(4), a(0), 0.3 * np.log(4)),
        (Discrete(3), {ACTION_MASK: jnp.array([1, 0, 1])}, 0.3 * np.log(2)),
        (MultiDiscrete((2, 5, 3)), a(0), 0.3 * np.log(30)),
    ],
)
def test_entropy_targets_by_hand(spec, obs, expected):
    assert entropy_target(spec, obs, -0.5, 0.3) == pytest.approx(expected)


# PPO


@pytest.mark.parametrize(
    ("ratio", "advantage", "expected", "gradient"),
    [
        (1.1, 2.0, 2.2, 2.0),
        (1.5, 2.0, 2.4, 0.0),
        (0.5, 2.0, 1.0, 2.0),
        (0.9, -2.0, -1.8, -2.0),
        (0.5, -2.0, -1.6, 0.0),
        (1.5, -2.0, -3.0, -2.0),
        (1.5, 0.0, 0.0, 0.0),
    ],
)
def test_the_clipped_surrogate_by_hand(ratio, advantage, expected, gradient):
    value, slope = jax.value_and_grad(clipped_surrogate)(a(ratio), a(advantage), 0.2)
    assert value == pytest.approx(expected)
    assert slope == pytest.approx(gradient)


def test_ppo_descends_the_objective_of_equation_9():
    ppo = tiny("ppo", value_coef=0.3, entropy_coef=0.1, normalise_advantages=False)
    obs, action, old = a([[1, 0], [5, 3], [-2, 9]]), np.array([1, 0, 1]), np.array([-0.6, -1.4, -0.9])
    advantage, target = np.array([0.5, 2.0, -1.0]), np.array([1.0, 0.2, -0.3])

    @jax.jit
    def judged(ppo, rows):
        spec = EnvSpec("numbers", ArraySpec((2,)), Discrete(2))
        network = ppo.init(jax.random.key(0), spec).policy.network
        return jax.vmap(network)(rows.obs), ppo.objective(network, rows, a(0.2))

    rows = Sample(obs, jnp.array(action), *map(a, (old, advantage, target)))
    (pi, value), (loss, metrics) = judged(ppo, rows)
    log_pi = np.log(scipy.special.softmax(np.array(pi.logits), 1))
    log_ratio = log_pi[range(3), action] - old
    ratio = np.exp(log_ratio)
    surrogate = np.mean(np.minimum(ratio * advantage, np.clip(ratio, 0.8, 1.2) * advantage))
    error = np.mean((np.array(value) - target) ** 2)
    entropy = -np.mean(np.sum(np.exp(log_pi) * log_pi, 1))
    assert loss == pytest.approx(-(surrogate - 0.3 * error + 0.1 * entropy))
    assert metrics["train/policy_gradient_loss"] == pytest.approx(-surrogate)
    assert metrics["train/value_loss"] == pytest.approx(error)
    assert metrics["train/entropy_loss"] == pytest.approx(-entropy)
    assert metrics["train/approx_kl"] == pytest.approx(np.mean(ratio - 1 - log_ratio))
    assert metrics["train/clip_fraction"] == pytest.approx(np.mean(np.abs(ratio - 1) > 0.2))


# TRPO


def test_improvement_by_hand():
    assert improvement(jnp.log(a(0.6)), jnp.log(a(0.5)), a(-3)) == pytest.approx(0.2 * -3)


@pytest.mark.parametrize(
    ("coefficient", "kl", "expected"),
    [
        (3.0, 0.151, 6.0),
        (3.0, 0.149, 3.0),
        (3.0, 0.068, 3.0),
        (3.0, 0.066, 1.5),
        (2.0**20, 1.0, 2.0**20),
        (2.0**-20, 0.0, 2.0**-20),
    ],
)
def test_the_penalty_follows_the_divergence(coefficient, kl, expected):
    assert adapted_penalty(a(coefficient), a(kl), 0.1) == expected


# NAF


def test_the_quadratic_advantage_by_hand():
    root = a([[2, 0], [3, 5]])
    off = np.array([0.5, -2])
    expected = -0.5 * off @ (np.array(root) @ np.array(root).T) @ off
    assert quadratic_advantage(a(1, 1), a(0.5, 3), root) == pytest.approx(expected)


def test_the_root_is_lower_triangular_with_a_positive_diagonal():
    root = cholesky_root(a(0.1, 0.2, -0.3, 0.4, 0.5, 9), 3)
    expected = [[np.exp(0.1), 0, 0], [0.2, np.exp(-0.3), 0], [0.4, 0.5, np.exp(5)]]
    np.testing.assert_allclose(root, expected)
    assert cholesky_root(a([-9.0]), 1)[0, 0] == pytest.approx(np.exp(-5))
