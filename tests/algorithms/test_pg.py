"""PG's equations against loops in NumPy, its memory against a deque, and numbers at the edges."""

import dataclasses
from collections import deque

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import all_finite, random_rollout, tiny

from ridgeline.algorithms.pg import PG, Trajectories, mean_where, surrogate, trajectory_weights
from ridgeline.errors import UsageError
from ridgeline.trajectories import (
    Trajectory,
    TrajectoryMemory,
    effective_sample_size,
    importance_ratios,
    weighted_return,
)
from ridgeline.types import ArraySpec, Continuous, Discrete, EnvSpec, Steps

SPEC = EnvSpec("Discrete", ArraySpec((3,)), Discrete(3))
GAMMA = 0.9
STEPS = Steps(jnp.float32(0), jnp.float32(100), jnp.int32(0))
random = np.random.default_rng(0)
update = jax.jit(lambda algorithm, *rest: algorithm.update(*rest))
init = jax.jit(lambda algorithm, spec: algorithm.init(jax.random.key(0), spec), static_argnums=1)


def trajectory(length: int, size: int = 6):
    """Rewards, log-probabilities under two policies, and which of `size` rows are live."""
    now, then, reward = jnp.asarray(random.normal(size=(3, size)), float)
    return reward, now, then, jnp.arange(size) < length


def test_ratios_stay_where_their_squares_are_floats():
    ratios = importance_ratios(jnp.full(3, 1e4), jnp.zeros(3), jnp.ones(3, bool))
    assert all_finite(jnp.sum(jnp.tile(ratios, 1000) ** 2))
    np.testing.assert_allclose(ratios, np.exp(30), rtol=1e-5)


@pytest.mark.parametrize("length", [1, 4, 6])
def test_ratios_are_products_that_stop_at_the_end(length):
    _, now, then, live = trajectory(length)
    ratios = np.asarray(importance_ratios(now, then, live))
    for t in range(6):
        k = min(t + 1, length)
        np.testing.assert_allclose(ratios[t], np.prod(np.exp(now - then)[:k]), rtol=1e-5)


@pytest.mark.parametrize("length", [1, 4, 6])
@pytest.mark.parametrize("per_decision", [False, True])
def test_weighted_returns_are_their_double_sum(length, per_decision):
    reward, _, _, live = trajectory(length)
    weight, baseline = jnp.asarray(np.exp(random.normal(size=6)), float), 0.7
    found = weighted_return(reward, live, weight, GAMMA, baseline, per_decision)
    if not per_decision:
        plain = weighted_return(reward, live, weight, GAMMA)
        np.testing.assert_array_equal(plain, weighted_return(reward, live, weight, GAMMA, 0.0, False))
    for t in range(length):
        discounts = GAMMA ** np.arange(length - t)
        if per_decision:
            expected = np.sum(discounts * (weight * reward)[t:length]) - weight[t] * baseline
        else:
            expected = weight[t] * (np.sum(discounts * reward[t:length]) - baseline)
        np.testing.assert_allclose(found[t], expected, rtol=1e-5)


def test_no_gradient_flows_through_psi_nor_from_behind_the_end():
    def loss(log_probs, psi):
        return surrogate(log_probs, psi, jnp.array([True, True, False]))

    by_log_prob, by_psi = jax.grad(loss, (0, 1))(-jnp.arange(1.0, 4), jnp.array([2.0, -3.0, 5.0]))
    np.testing.assert_array_equal(by_log_prob, [2, -3, 0])
    np.testing.assert_array_equal(by_psi, 0)
    assert loss(-jnp.arange(1.0, 4), jnp.array([2.0, -3.0, 5.0])) == -2 + 6


def test_effective_sample_sizes_by_hand():
    def size(*weights, held=None):
        return float(
            effective_sample_size(jnp.array(weights), jnp.ones(len(weights), bool) if held is None else held)
        )

    assert size(2.0, 2.0, 2.0, 2.0) == 4
    assert size(1.0, 0.0, 0.0) == 1
    np.testing.assert_allclose(size(1.0, 3.0), 16 / 10)
    np.testing.assert_allclose(size(1.0, 3.0, 9.0, held=jnp.array([True, True, False])), 16 / 10)
    assert size(0.0, 0.0) == 0


def test_kinds_of_weights_by_hand():
    weight, held = jnp.array([0.5, 1.0, 4.5, 100.0]), jnp.array([True, True, True, False])
    kinds = {kind: trajectory_weights(weight, held, kind, 2.0)[:3] for kind in ("trajectory", "truncated")}
    np.testing.assert_allclose(kinds["trajectory"], [0.5, 1, 4.5])
    np.testing.assert_allclose(kinds["truncated"], [0.5, 1, 2])
    np.testing.assert_allclose(trajectory_weights(weight, held, "self_normalised", 2.0)[:3], [0.25, 0.5, 2.25])
    assert all_finite(trajectory_weights(jnp.zeros(4), held, "self_normalised", 2.0))


@pytest.mark.parametrize("capacity", [2, 3, 5])
def test_the_memory_is_a_deque(capacity):
    memory, slow = TrajectoryMemory.create(SPEC, capacity, 2), deque(maxlen=capacity)
    for number in range(0, 12, 2):
        marks = np.float32([number, number + 1])
        rows = np.broadcast_to(marks[:, None], (2, 2))
        obs, live = np.zeros((2, 2, 3), np.float32), np.ones((2, 2), bool)
        memory, newest = memory.add(Trajectory(obs, rows.astype(np.int32), rows, live, rows))
        slow.extend(marks)
        assert set(memory.data.reward[memory.held][:, 0].tolist()) == set(slow)
        assert set(memory.data.reward[newest][:, 0].tolist()) == set(marks.tolist())


def linear(**changes):
    """Plain PG on a linear softmax policy: SGD, so that a step is the gradient."""
    sizes = {"num_envs": 4, "rollout_length": 6, "hidden": (), "optimiser": "sgd", "learning_rate": 1.0}
    return tiny("pg", **sizes | {"gamma": GAMMA} | changes)


def stepped(algorithm, state, rollout):
    after, metrics = update(algorithm, jax.random.key(1), state, rollout, STEPS)
    weights = [s.policy.network.head.linear.weight for s in (state, after)]
    return np.asarray(weights[1] - weights[0]), after, metrics


def by_hand(state, rollout, baseline: bool = False, standardise: bool = False) -> np.ndarray:
    """(1/N) Σᵢ Σₜ ∇log π ψ of a linear softmax policy, in loops."""
    head, x = state.policy.network.head.linear, jax.tree.map(np.asarray, rollout.transitions)
    weight, bias = np.asarray(head.weight, float), np.asarray(head.bias, float)
    terms = []
    for n in range(x.reward.shape[1]):
        length = next((t + 1 for t in range(len(x.reward)) if x.ended[t, n]), len(x.reward))
        for t in range(length):
            psi = sum(GAMMA ** (k - t) * x.reward[k, n] for k in range(t, length))
            logits = x.obs[t, n] @ weight + bias
            p = np.exp(logits - logits.max())
            score = np.eye(3)[x.action[t, n]] - p / p.sum()
            terms.append((np.outer(x.obs[t, n], score), psi))
    psi = np.array([term[1] for term in terms])
    if baseline or standardise:
        psi = psi - psi.mean()
    if standardise:
        psi = psi / psi.std()
    return sum(score * value for (score, _), value in zip(terms, psi, strict=True)) / x.reward.shape[1]


@pytest.mark.parametrize(
    ("changes", "options"),
    [({}, {}), ({"baseline": "mean"}, {"baseline": True}), ({"standardise": True}, {"standardise": True})],
    ids=["plain", "mean", "standardised"],
)
@pytest.mark.parametrize("capacity", [0, 8])
def test_a_step_is_the_gradient_of_step_2(changes, options, capacity):
    """Also with a memory that holds nothing else yet: there every weight is 1."""
    algorithm = linear(trajectories=Trajectories(capacity=capacity), **changes)
    state = init(algorithm, SPEC)
    rollout = random_rollout(np.random.default_rng(3), algorithm, SPEC)
    assert rollout.transitions.ended.any()
    np.testing.assert_allclose(
        stepped(algorithm, state, rollout)[0], by_hand(state, rollout, **options), rtol=1e-4
    )


def test_a_trajectory_of_an_older_policy_counts_by_its_weight():
    algorithm = linear(trajectories=Trajectories(capacity=8, weighting="trajectory", least_effective=0.0))
    first = init(algorithm, SPEC)
    rollouts = [random_rollout(np.random.default_rng(seed), algorithm, SPEC) for seed in (3, 4)]
    _, second, metrics = stepped(algorithm, first, rollouts[0])
    assert metrics["train/trajectories"] == 4
    step, _, metrics = stepped(algorithm, second, rollouts[1])
    assert metrics["train/trajectories"] == 8
    assert 1 < metrics["train/effective_sample_size"] < 8
    total = 4 * by_hand(second, rollouts[1])
    x = rollouts[0].transitions
    for n in range(4):
        lone = rollouts[0]._replace(transitions=jax.tree.map(lambda a, n=n: a[:, n : n + 1], x))
        total += np.exp(log_prob_of(second, lone) - log_prob_of(first, lone)) * by_hand(second, lone)
    np.testing.assert_allclose(step, total / 8, rtol=1e-3, atol=1e-5)


def log_prob_of(state, rollout) -> float:
    """log π(τ) of the one column's first episode."""
    x = rollout.transitions
    length = int(np.argmax(x.ended[:, 0])) + 1 if x.ended.any() else len(x.reward)
    pi = jax.vmap(state.policy.network.distribution)(x.obs[:length, 0])
    return float(jax.vmap(lambda p, a: p.log_prob(a))(pi, x.action[:length, 0]).sum())


def test_older_trajectories_are_dropped_where_they_say_nothing_any_more():
    algorithm = linear(trajectories=Trajectories(capacity=8, least_effective=0.9), learning_rate=30.0)
    state = init(algorithm, SPEC)
    for seed in (3, 4):
        rollout = random_rollout(np.random.default_rng(seed), algorithm, SPEC)
        _, state, metrics = stepped(algorithm, state, rollout)
    assert metrics["train/trajectories"] == 4
    assert state.memory.held.sum() == 4


def test_what_lies_behind_an_end_changes_nothing():
    algorithm = linear(normalise_observations=True)
    state = init(algorithm, SPEC)
    rollout = random_rollout(np.random.default_rng(3), algorithm, SPEC)
    x = rollout.transitions
    behind = np.cumsum(x.ended, 0) - x.ended > 0
    assert behind.any()
    other = x._replace(obs=np.where(behind[..., None], 50, x.obs), reward=np.where(behind, 1e3, x.reward))
    one, two = (
        update(algorithm, jax.random.key(1), state, rollout._replace(transitions=y), STEPS) for y in (x, other)
    )
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.mark.parametrize("name", ["pg", "vpg"])
@pytest.mark.parametrize("reward", [0.0, 1e6])
def test_equal_returns_and_one_step_episodes_stay_finite(name, reward):
    algorithm = tiny(name, standardise=True)
    state = init(algorithm, SPEC)
    rollout = random_rollout(np.random.default_rng(0), algorithm, SPEC)
    x = rollout.transitions
    rows = x._replace(reward=np.full_like(x.reward, reward), terminated=np.ones_like(x.terminated))
    after, _ = update(algorithm, jax.random.key(1), state, rollout._replace(transitions=rows), STEPS)
    assert all_finite(after)


@pytest.mark.parametrize("weighting", ["trajectory", "per_decision", "self_normalised", "truncated"])
def test_policies_that_have_nothing_in_common_stay_finite(weighting):
    spec = dataclasses.replace(SPEC, action=Continuous(2, (True, False)))
    algorithm = tiny("pg", trajectories=Trajectories(capacity=8, weighting=weighting), updates=3, log_std=-4.0)
    state = init(algorithm, spec)
    for seed in range(3):
        rollout = random_rollout(np.random.default_rng(seed), algorithm, spec)
        state, metrics = update(algorithm, jax.random.key(1), state, rollout, STEPS)
        assert all_finite((state, metrics))


def test_a_mean_over_nothing_is_zero():
    assert mean_where(jnp.ones(3), jnp.zeros(3, bool)) == 0
    assert mean_where(jnp.array([3.0, 5.0]), jnp.array([True, False])) == 3


LIMITED = dataclasses.replace(SPEC, max_episode_steps=500)


@pytest.mark.parametrize(
    ("record", "named"),
    [
        (PG(rollout_length=499), "rollout_length 499"),
        (PG(trajectories=Trajectories(capacity=5)), "capacity 5"),
        (PG(baseline="value", trajectories=Trajectories(capacity=50)), "baseline value"),
        (PG(updates=2), "updates 2"),
    ],
)
def test_records_that_cannot_work_are_refused(record, named):
    with pytest.raises(UsageError, match=named):
        record.check(LIMITED)


def test_a_limit_of_the_rollout_serves_where_the_environment_has_none():
    PG(rollout_length=20).check(SPEC)
    PG(rollout_length=500).check(LIMITED)
