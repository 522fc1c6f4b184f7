"""The exact problems that the properties compare with, against simulation, enumeration and finite differences."""

import numpy as np
import pytest

from ridgeline.theory.lqr import LQR
from ridgeline.theory.mdp import MDP, softmax

RNG = np.random.default_rng(0)
H = 4


@pytest.fixture
def mdp() -> MDP:
    return MDP.random(np.random.default_rng(1))


@pytest.fixture
def logits() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(3, 2))


def central_differences(function, x: np.ndarray, h: float = 1e-6) -> np.ndarray:
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[i] = h
        gradient[i] = (function(x + step) - function(x - step)) / (2 * h)
    return gradient


def test_there_are_3888_trajectories_and_their_probabilities_add_up_to_1(mdp, logits):
    trajectories = mdp.trajectories(H)
    assert len(trajectories.states) == 3_888
    assert trajectories.probability(softmax(logits)).sum() == pytest.approx(1, abs=1e-13)


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_finite_performance_is_the_enumerated_return(mdp, logits, gamma):
    policy, trajectories = softmax(logits), mdp.trajectories(H)
    returns = trajectories.rewards @ gamma ** np.arange(H)
    enumerated = trajectories.probability(policy) @ returns
    assert mdp.finite_performance(policy, H, gamma) == pytest.approx(enumerated, abs=1e-13)


@pytest.mark.parametrize("gamma", [1.0, 0.7])
def test_finite_gradient_is_the_slope(mdp, logits, gamma):
    slope = central_differences(lambda x: mdp.finite_performance(softmax(x), H, gamma), logits)
    np.testing.assert_allclose(mdp.finite_gradient(softmax(logits), H, gamma), slope, atol=1e-9)


@pytest.mark.parametrize("ending", [False, True])
def test_the_discounted_problem_is_the_limit_of_long_horizons(logits, ending):
    mdp = MDP.random(np.random.default_rng(3), gamma=0.8, ending=ending)
    policy, horizon = softmax(logits), 200
    chance, value, visits = mdp.start, 0.0, np.zeros(3)
    for t in range(horizon):
        visits += 0.2 * 0.8**t * chance
        value += 0.8**t * chance @ np.sum(policy * mdp.reward, 1)
        chance = chance @ np.einsum("sa,sat->st", policy, mdp.transition * ~mdp.terminal)
    assert mdp.performance(policy) == pytest.approx(value, abs=1e-12)
    np.testing.assert_allclose(mdp.state_distribution(policy), visits, atol=1e-12)
    slope = central_differences(lambda x: mdp.performance(softmax(x)), logits)
    np.testing.assert_allclose(mdp.policy_gradient(policy), slope, atol=1e-8)


def test_optimal_values_are_a_fixed_point_of_the_optimal_backup():
    mdp = MDP.random(RNG, 6, 3, 0.95, ending=True)
    q = mdp.optimal_action_values()
    np.testing.assert_allclose(q, mdp.reward + 0.95 * (mdp.transition * ~mdp.terminal) @ q.max(1), atol=1e-12)


@pytest.fixture
def lqr() -> LQR:
    return LQR.random(np.random.default_rng(4), noise=0.3)


def test_performance_is_what_a_simulation_of_moments_earns(lqr):
    K = 0.1 * np.random.default_rng(5).normal(size=(2, 3))
    moment, total = lqr.start, 0.0
    for t in range(400):
        total -= lqr.gamma**t * np.trace((lqr.Q + K.T @ lqr.R @ K) @ moment)
        moment = (lqr.A - lqr.B @ K) @ moment @ (lqr.A - lqr.B @ K).T + lqr.noise
    assert lqr.performance(K) == pytest.approx(total, rel=1e-12)


def test_gradient_is_the_slope_and_vanishes_at_the_riccati_gain(lqr):
    K = 0.1 * np.random.default_rng(5).normal(size=(2, 3))
    np.testing.assert_allclose(lqr.gradient(K), central_differences(lqr.performance, K), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(lqr.gradient(lqr.optimal_gain()), 0, atol=1e-10)


def test_action_value_of_the_policys_own_action_is_the_value(lqr):
    K, x = 0.1 * np.random.default_rng(5).normal(size=(2, 3)), np.array([1.0, -2, 0.5])
    H, c = lqr.action_value(K)
    z, P = np.concatenate([x, -K @ x]), lqr.cost_to_go(K)
    constant = lqr.gamma / (1 - lqr.gamma) * np.trace(P @ lqr.noise)
    assert -z @ H @ z - c == pytest.approx(-x @ P @ x - constant, rel=1e-12)


def test_a_gain_that_does_not_stabilise_is_refused(lqr):
    with pytest.raises(ValueError, match="does not stabilise"):
        lqr.cost_to_go(np.full((2, 3), 50.0))
