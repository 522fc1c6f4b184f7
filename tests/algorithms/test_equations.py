"""Equations of DQN, PPO, TRPO and of what algorithms share, against hand calculations in float64."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from miniatures import tiny

from ridgeline.algorithms.dqn import DQN, epsilon_greedy, td_error
from ridgeline.algorithms.dqn import td_target as best_td_target
from ridgeline.algorithms.ppo import clipped_surrogate
from ridgeline.algorithms.trpo import adapted_penalty, improvement
from ridgeline.critics import Regression, fit, fit_value, least, td_target, where_next_action
from ridgeline.distributions import DiagonalGaussian
from ridgeline.memory import Batch
from ridgeline.networks import Policy
from ridgeline.normalisation import ObservationNormaliser
from ridgeline.records import DrawnActions
from ridgeline.rollouts import Sample, everywhere, in_blocks, samples, standardise, successor_values
from ridgeline.types import ArraySpec, Discrete, EnvSpec, Steps, Transition


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


def test_dqn_moves_its_static_network_every_so_many_steps():
    """C = 3, τ = 1: after the second step nothing has moved, after the third it is the online network."""
    learner, x, _ = dqn_learner(False)
    learn = functools.partial(dqn_step, tiny("dqn", optimiser="sgd", target_period=3, tau=1.0))
    second, third = (learn(dataclasses.replace(learner, updates=jnp.int32(k)), x)[0] for k in (1, 2))
    for before, after in ((learner.static, second.static), (third.online, third.static)):
        for got, expected in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True):
            np.testing.assert_array_equal(got, expected)


# Critics


@pytest.mark.parametrize("huber", [False, True])
def test_a_step_of_the_critics_is_the_weighted_mean_of_their_gradients(huber):
    x = batch(3, weight=a(1, 0.5, 2))
    target, w = a(1.0, -9.0, 2.4), np.array([0.4, -0.7])
    state = Regression.begin((_Linear(a(w[0])), _Linear(a(w[1]))), "sgd")
    fitted, metrics, error = fit(state, x, target, "sgd", 0.1, 1e9, *([True] if huber else []))
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


def test_a_step_of_v_is_the_weighted_mean_of_its_gradients():
    s, target, weight, w = np.array([1.0, 2, 3]), np.array([1.0, -9, 2.4]), np.array([1, 0.5, 2]), 0.7
    state = Regression.begin(_Slope(a(w)), "sgd")
    fitted, before = fit_value(state, a(s), a(target), a(weight), "sgd", 0.1, 1e9)
    delta = w * s - target
    assert before == pytest.approx(np.mean(weight * delta**2 / 2))
    assert fitted.critics.slope == pytest.approx(w - 0.1 * np.mean(weight * delta * s))


@jax.tree_util.register_dataclass
@dataclasses.dataclass
class _Slope:
    """V(s) = w s."""

    slope: jax.Array

    def __call__(self, obs):
        return self.slope * obs


def test_the_least_of_critics():
    assert least((lambda s, u: s + u, lambda s, u: s * u, lambda s, u: s), a(3), a(2)) == 3


def test_td_target():
    assert td_target(row(batch(2), 1), a(4)) == pytest.approx(0.2 + 0.9 * 4)


def test_rows_without_a_next_action_weigh_nothing_and_the_others_more():
    """The first goes on, the second ends, the third is terminal: only the second's next action is wanted."""
    x = batch(3, continues=jnp.array([True, False, False]), discount=a(0.9, 0.9, 0.0), weight=a(1, 1, 0.5))
    np.testing.assert_allclose(where_next_action(x).weight, [1.5, 0, 0.75])
    one = where_next_action(batch(3, continues=jnp.array([False, True, False])))
    np.testing.assert_allclose(one.weight, [0, 3, 0])
    none = where_next_action(batch(2, continues=jnp.zeros(2, bool)))
    np.testing.assert_array_equal(none.weight, [0, 0])


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


@pytest.mark.parametrize("value_clip", [0.0, 0.1])
def test_ppo_descends_the_objective_of_equation_9(value_clip):
    """V of before the update is the target less the advantage: 0.5, −1.8, 0.7."""
    ppo = tiny("ppo", value_coef=0.3, entropy_coef=0.1, normalise_advantages=False, value_clip=value_clip)
    obs, action, old = a([[1, 0], [5, 3], [-2, 9]]), np.array([1, 0, 1]), np.array([-0.18, -1.61, -0.79])
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
    error = (np.array(value) - target) ** 2
    if value_clip:
        within = np.clip(value, target - advantage - value_clip, target - advantage + value_clip)
        assert ((within - target) ** 2 > error).any()
        error = np.maximum(error, (within - target) ** 2)
    error = np.mean(error)
    entropy = -np.mean(np.sum(np.exp(log_pi) * log_pi, 1))
    assert loss == pytest.approx(-(surrogate - 0.3 * error + 0.1 * entropy))
    assert metrics["train/policy_gradient_loss"] == pytest.approx(-surrogate)
    assert metrics["train/value_loss"] == pytest.approx(error)
    assert metrics["train/entropy_loss"] == pytest.approx(-entropy)
    assert metrics["train/approx_kl"] == pytest.approx(np.mean(ratio - 1 - log_ratio))
    assert (ratio < [0.7, 3, 1.2]).all()
    assert metrics["train/clip_fraction"] == pytest.approx(2 / 3)


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


def test_the_penalty_stays_at_its_very_limits():
    assert adapted_penalty(a(3), a(0.75), 0.5) == 3
    assert adapted_penalty(a(3), a(0.5), 0.75) == 3


# What several share


def test_samples_bootstrap_from_the_successor_and_target_v():
    """Two episodes, of which the first is cut: its last row bootstraps from s′, not from the next row."""
    obs, next_obs = np.array([[1.0], [2], [7]]), np.array([[2.0], [3], [8]])
    ended, reward = np.array([[False], [True], [False]]), np.array([[0.5], [1.5], [-1]])
    x = Transition(a(obs), jnp.zeros((3, 1, 1)), a(reward), a(next_obs), jnp.zeros((3, 1), bool), jnp.array(ended))
    found = samples(lambda s: DiagonalGaussian(s[None], a([0])), lambda s: 10 * s, lambda s: s + 1, x, 0.9, 0.5)
    v, after = 10 * (obs + 1), 10 * (next_obs + 1)
    delta = reward + 0.9 * after - v
    advantage = delta + 0.45 * np.array([[float(delta[1, 0])], [0], [0]])
    np.testing.assert_allclose(found.advantage, advantage)
    np.testing.assert_allclose(found.target, advantage + v)
    np.testing.assert_allclose(found.obs, obs + 1)


@pytest.mark.parametrize("shape", [(1, 1), (256, 1), (257, 1), (100, 7)], ids=str)
def test_blocks_together_are_every_cell(shape):
    """Some more than a block holds, not a whole number of them."""
    x, y = jnp.arange(float(np.prod(shape))).reshape(shape), jnp.ones((*shape, 2))
    found = jax.jit(lambda *rows: in_blocks(lambda x, y: {"sum": x[None] + y, "x": x}, *rows))(x, y)
    np.testing.assert_array_equal(found["x"], x)
    np.testing.assert_array_equal(found["sum"], np.broadcast_to(x[..., None] + 1, y.shape))


@pytest.mark.parametrize("seed", range(4))
def test_a_successor_is_worth_what_it_is_wherever_an_episode_was_cut(seed):
    """Rows that follow one another, but for a reset where an episode ended, for either reason or for both."""
    random, shape = np.random.default_rng(seed), (12, 3)
    terminated, truncated = (random.random(shape) < p for p in (0.2, (0, 0.1, 0.5, 1)[seed]))
    next_obs, obs = random.normal(size=(*shape, 2)), np.zeros((*shape, 2))
    ended = (terminated | truncated)[:-1, :, None]
    obs[1:] = np.where(ended, random.normal(size=(11, 3, 2)), next_obs[:-1])
    x = Transition(a(obs), a(obs), a(obs[..., 0]), a(next_obs), jnp.array(terminated), jnp.array(truncated))
    value = lambda s: 10 * s[0] - s[1]  # noqa: E731
    found = jax.jit(lambda x: successor_values(value, x, everywhere(value, x.obs)))(x)
    expected = 10 * next_obs[..., 0] - next_obs[..., 1]
    np.testing.assert_allclose(np.asarray(found)[~terminated], expected[~terminated], rtol=1e-5)


def test_standardised_numbers_have_mean_0_and_deviation_1():
    np.testing.assert_allclose(standardise(a(1, 3, 8)), (np.array([1, 3, 8]) - 4) / np.std([1, 3, 8]), rtol=1e-6)


@pytest.mark.parametrize(("taken", "expected"), [(0, 2.0), (50, 1.5), (100, 1.0)])
def test_learning_rates_anneal_linearly(taken, expected):
    steps = Steps(a(taken), a(100), jnp.array(0))
    assert tiny("ppo", learning_rate_anneal=0.5).annealed(2.0, steps) == pytest.approx(expected)


def test_drawn_actions_read_the_normaliser_and_greedy_ones_are_the_mode():
    class Gaussian(eqx.Module):
        def distribution(self, obs):
            return DiagonalGaussian(obs, jnp.full(2, -1.0))

    normaliser = ObservationNormaliser.create(ArraySpec((2,)), True).fold(jnp.float32([[1, 2], [3, 6]]))
    policy, obs, key = Policy(Gaussian(), normaliser), jnp.float32([2.5, -2]), jax.random.key(0)
    mode = (np.array([2.5, -2]) - [2, 4]) / [1, 2]
    greedy, carry = DrawnActions().greedy(key, policy, (), obs)
    np.testing.assert_allclose(greedy, mode, rtol=1e-6)
    assert carry == ()
    keys = jax.random.split(key, 4_000)
    noise = jax.vmap(lambda k: DrawnActions().randomness(k, policy, obs))(keys)
    drawn = jax.vmap(lambda e: DrawnActions().act(e, policy, (), obs, Steps(a(0), a(1), jnp.array(0)))[0])(noise)
    np.testing.assert_allclose(np.mean(drawn, 0), mode, atol=0.03)
    np.testing.assert_allclose(np.std(drawn, 0), np.exp(-1), rtol=0.05)
