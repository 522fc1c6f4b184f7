"""AC's equations against NumPy; which rows it learns from; its estimators in the mean; its edges."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import all_finite, assert_same, index, numpy_leaves, random_actions, random_obs, tiny

from ridgeline.algorithms.ac import (
    AC,
    SAC,
    entropy_target,
    score_loss,
    temperature_loss,
)
from ridgeline.critics import expected_soft_value, soft_value
from ridgeline.distributions import Categorical, DiagonalGaussian, TanhGaussian
from ridgeline.errors import UsageError
from ridgeline.memory import Batch
from ridgeline.theory.conformance import first_state
from ridgeline.theory.property import QUICK_TO_COMPILE
from ridgeline.types import ACTION_MASK, ArraySpec, Continuous, Discrete, EnvSpec, MultiDiscrete, Steps

VECTOR = ArraySpec((3,))
DISCRETE = EnvSpec("Discrete", VECTOR, Discrete(3))
CONTINUOUS = EnvSpec("Continuous", VECTOR, Continuous(2, (True, False)))
MASKED = EnvSpec("Masked", ((ACTION_MASK, ArraySpec((3,), "int8")), ("place", ArraySpec((2,)))), Discrete(3))
STEPS = Steps(jnp.float32(0), jnp.float32(100), jnp.int32(0))
CONTINUES, TERMINAL, TRUNCATED, NEWEST = range(4)


def batch_of(spec: EnvSpec, rows: int = 4) -> Batch:
    """Rows of noise: one that goes on, a terminal one, a truncated one, the newest of the memory, and so on."""
    rng, kind = np.random.default_rng(0), np.arange(rows) % 4
    obs, next_obs = random_obs(rng, spec, (rows,)), random_obs(rng, spec, (rows,))
    leaves = (
        obs,
        random_actions(rng, spec, obs, (rows,)),
        rng.normal(size=rows).astype(np.float32),
        next_obs,
        random_actions(rng, spec, next_obs, (rows,)),
        kind == CONTINUES,
        np.where(kind == TERMINAL, 0, 0.9).astype(np.float32),
        np.ones(rows, np.float32),
        np.zeros((rows, 2), np.int32),
    )
    return Batch(*jax.tree.map(jnp.asarray, leaves))


def learn(algorithm: Any, spec: EnvSpec, batch: Batch, learner: Any = None) -> Any:
    """The learner after one gradient step, its metrics and the rows' errors."""
    learner = first_state(algorithm, jax.random.key(0), spec).learner if learner is None else learner
    update = jax.jit(type(algorithm).learn, compiler_options=QUICK_TO_COMPILE)
    return update(algorithm, jax.random.key(1), learner, batch, STEPS)


def test_equations() -> None:
    rng = np.random.default_rng(0)
    logits, q, alpha = rng.normal(size=4), rng.normal(size=4), 0.3
    pi = np.exp(logits) / np.sum(np.exp(logits))
    value = sum(p * (x - alpha * np.log(p)) for p, x in zip(pi, q, strict=True))
    shipped = expected_soft_value(Categorical(jnp.float32(logits)), jnp.float32(q), alpha)
    np.testing.assert_allclose(shipped, value, rtol=1e-5)
    np.testing.assert_allclose(soft_value(jnp.float32(2), jnp.float32(-1.5), alpha), 2 + 0.3 * 1.5, rtol=1e-6)
    loss, slopes = jax.value_and_grad(score_loss, (0, 1))(jnp.float32(-1.5), jnp.float32(2))
    np.testing.assert_allclose((loss, *slopes), (3.0, -2.0, 0.0))
    arguments = jnp.float32(-2), jnp.float32(0.5), jnp.float32(0.2)
    loss, slopes = jax.value_and_grad(temperature_loss, (0, 1, 2))(*arguments)
    np.testing.assert_allclose((loss, *slopes), (-0.6, 0.3, 0, 0), rtol=1e-6)


def test_entropy_targets() -> None:
    obs = jnp.zeros(3)
    np.testing.assert_allclose(entropy_target(Continuous(3, (True,) * 3), obs, -1.0, 0.5), -3)
    np.testing.assert_allclose(entropy_target(Discrete(4), obs, -1.0, 0.5), np.log(4) / 2, rtol=1e-6)
    three = entropy_target(MultiDiscrete((2, 5, 3)), obs, -1.0, 0.5)
    np.testing.assert_allclose(three, np.log(30) / 2, rtol=1e-6)
    two = entropy_target(MultiDiscrete((2, 3)), obs, -1.0, 0.5)
    np.testing.assert_allclose(two, np.log(6) / 2, rtol=1e-6)
    masked = {ACTION_MASK: jnp.array([1, 0, 1, 0, 0], jnp.int8)}
    np.testing.assert_allclose(entropy_target(MultiDiscrete((2, 3)), masked, -1.0, 0.5), 0, atol=1e-6)


@pytest.mark.parametrize("source", ["policy", "expected", "memory"])
@pytest.mark.parametrize("row", [CONTINUES, TERMINAL, TRUNCATED, NEWEST])
def test_the_stored_next_action_is_learned_from_only_where_there_is_one(source: Any, row: int) -> None:
    algorithm, batch = tiny("ac", next_action=source), batch_of(DISCRETE)
    changed = dataclasses.replace(batch, reward=batch.reward.at[row].add(5))
    one, other = (numpy_leaves(learn(algorithm, DISCRETE, x)[0].critic.critics) for x in (batch, changed))
    moved = any((one[leaf] != other[leaf]).any() for leaf in one)
    assert moved == (source != "memory" or row in (CONTINUES, TERMINAL))


def test_rows_left_out_change_nothing_for_the_others() -> None:
    algorithm, batch = tiny("ac", next_action="memory"), batch_of(DISCRETE)
    learned = learn(algorithm, DISCRETE, batch)
    alone = learn(algorithm, DISCRETE, index(batch, jnp.array([CONTINUES, TERMINAL])))
    assert_same(learned[0].critic, alone[0].critic, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(learned[2][:2], alone[2], rtol=1e-5)


def test_the_stored_next_action_is_that_of_the_target() -> None:
    algorithm, batch = tiny("sac", next_action="memory"), batch_of(CONTINUOUS)
    learner = first_state(algorithm, jax.random.key(0), CONTINUOUS).learner
    x, alpha = index(batch, CONTINUES), jnp.float32(0.7)
    shipped = algorithm.next_value(None, learner.actor, learner.static, x, alpha)
    q = min(float(critic(x.next_obs, x.next_action)) for critic in learner.static)
    log_prob = learner.actor.distribution(x.next_obs).log_prob(x.next_action)
    np.testing.assert_allclose(shipped, q - 0.7 * log_prob, rtol=1e-5)


def test_a_drawn_next_action_gives_the_sum_in_the_mean() -> None:
    drawn, summed = tiny("ac", critics=2), tiny("ac", critics=2, next_action="expected")
    learner, x = first_state(drawn, jax.random.key(0), DISCRETE).learner, index(batch_of(DISCRETE), 0)
    actor = dataclasses.replace(learner.actor, head=sharper(learner.actor.head))
    alpha, keys = jnp.float32(0.5), jax.random.split(jax.random.key(0), 20_000)

    @jax.jit
    @jax.vmap
    def each_value(key: Any) -> Any:
        return drawn.next_value(actor.distribution(x.next_obs).noise(key), actor, learner.static, x, alpha)

    each = each_value(keys)
    exact = summed.next_value(None, actor, learner.static, x, alpha)
    assert abs(each.mean() - exact) < 5 * each.std() / np.sqrt(len(keys))


def sharper(head: Any) -> Any:
    """The head with weights × 100: a policy that is far from uniform."""
    linear = dataclasses.replace(head.linear, weight=100 * head.linear.weight)
    return dataclasses.replace(head, linear=linear)


class Given:
    """A policy that is the same distribution everywhere."""

    def __init__(self, pi: Any):
        self.pi = pi

    def distribution(self, obs: Any) -> Any:
        return self.pi


class Quadratic:
    """Q(s, a) = −Σ (a − ½)² + a₀ of continuous actions; a table of discrete ones."""

    table = jnp.array([1.0, -2.0, 0.5])

    def __call__(self, obs: Any, action: Any) -> Any:
        if action.ndim == 0:
            return self.table[action]
        return action[0] - jnp.sum((action - 0.5) ** 2)

    def values(self, obs: Any) -> Any:
        return self.table


def mean_gradient(algorithm: AC, make: Any, parameters: Any, keys: Any) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the actor's gradients over keys, and its standard error."""

    def one(key: Any) -> Any:
        def loss(parameters: Any) -> Any:
            actor, action = Given(make(parameters)), jnp.zeros_like(make(parameters).mode())
            noise_key, baseline_key = jax.random.split(key)
            chance = actor.distribution(jnp.zeros(3)).noise(noise_key), baseline_key
            return algorithm.actor_loss(*chance, actor, (Quadratic(),), jnp.zeros(3), action, jnp.float32(0.2))[0]

        return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(jax.grad(loss)(parameters))])

    each = np.asarray(jax.jit(jax.vmap(one))(keys))
    return each.mean(0), each.std(0) / np.sqrt(len(each)) + 1e-7


@pytest.mark.parametrize("baseline", [False, True])
def test_a_drawn_gradient_is_the_sum_in_the_mean(baseline: bool) -> None:
    keys, logits = jax.random.split(jax.random.key(0), 20_000), jnp.array([0.3, 1.0, -0.5])
    exact, _ = mean_gradient(AC(gradient_action="expected"), Categorical, logits, keys[:1])
    drawn, error = mean_gradient(AC(baseline=baseline), Categorical, logits, keys)
    assert (np.abs(drawn - exact) < 5 * error).all()
    assert (error > 1e-4).all()


def test_where_all_actions_are_worth_the_same_the_baseline_leaves_no_gradient() -> None:
    class Same(Quadratic):
        table = jnp.full(3, 7.0)

    def loss(logits: Any, key: Any) -> Any:
        actor, zero = Given(Categorical(logits)), jnp.float32(0)
        chance = actor.distribution(jnp.zeros(3)).noise(key), jax.random.fold_in(key, 1)
        return AC(baseline=True).actor_loss(*chance, actor, (Same(),), jnp.zeros(3), jnp.int32(0), zero)[0]

    keys = jax.random.split(jax.random.key(0), 8)
    gradients = jax.vmap(jax.grad(loss), (None, 0))(jnp.array([0.3, 1.0, -0.5]), keys)
    np.testing.assert_allclose(gradients, 0, atol=1e-5)


@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("baseline", [False, True])
def test_the_pathwise_gradient_is_the_score_in_the_mean(baseline: bool, squashed: bool) -> None:
    bounded = (True, False) if squashed else (False, False)
    start, keys = (jnp.array([0.2, -0.4]), jnp.array([-0.5, -1.0])), jax.random.split(jax.random.key(0), 20_000)

    def make(x: Any) -> TanhGaussian:
        return TanhGaussian(*x, bounded)

    pathwise, small = mean_gradient(AC(reparameterised=True), make, start, keys)
    score, large = mean_gradient(AC(baseline=baseline), make, start, keys)
    assert (np.abs(pathwise - score) < 5 * np.hypot(small, large)).all()
    if not squashed:  # E Q = μ₀ − Σ ((μᵢ − ½)² + σᵢ²), H = Σ log σᵢ + …: by hand
        mean, variance = np.array([0.2, -0.4]), np.exp(2 * np.array([-0.5, -1.0]))
        exact = -np.concatenate([np.array([1, 0]) - 2 * (mean - 0.5), -2 * variance + 0.2])
        assert (np.abs(pathwise - exact) < 5 * small).all()
        assert isinstance(DiagonalGaussian(*start).sample(keys[0]), jax.Array)


@pytest.mark.parametrize("changes", [{}, {"reparameterised": False}, {"next_action": "memory"}])
def test_saturated_actions_stay_finite(changes: dict[str, Any]) -> None:
    algorithm, batch = tiny("sac", **changes), batch_of(CONTINUOUS)
    learner = first_state(algorithm, jax.random.key(0), CONTINUOUS).learner
    actor = dataclasses.replace(
        learner.actor,
        head=dataclasses.replace(
            learner.actor.head,
            linear=dataclasses.replace(learner.actor.head.linear, bias=jnp.array([60.0, -60.0, 9.0, -9.0])),
        ),
    )
    ones = jnp.ones_like(batch.action)
    batch = dataclasses.replace(batch, action=ones, next_action=-ones)
    assert all_finite(learn(algorithm, CONTINUOUS, batch, dataclasses.replace(learner, actor=actor)))


@pytest.mark.parametrize("name", ["ac", "sac"])
@pytest.mark.parametrize("source", ["policy", "expected", "memory"])
def test_forbidden_actions_stay_finite(name: str, source: Any) -> None:
    algorithm = tiny(name, next_action=source, gradient_action=source, baseline=True)
    learner, metrics, errors = learn(algorithm, MASKED, batch_of(MASKED))
    assert all_finite((learner, metrics, errors))
    assert metrics["train/q_max"] < 1e3
    assert abs(metrics["train/actor_loss"]) < 1e3
    assert np.abs(errors).max() < 1e3


def test_a_batch_of_terminal_rows_learns_the_rewards() -> None:
    algorithm, batch = tiny("sac", next_action="memory"), batch_of(DISCRETE)
    batch = dataclasses.replace(batch, discount=jnp.zeros(4), continues=jnp.zeros(4, bool))
    learner = first_state(algorithm, jax.random.key(0), DISCRETE).learner
    q = np.mean([jax.vmap(c)(batch.obs, batch.action) for c in learner.critic.critics], 0)
    learned, _, errors = learn(algorithm, DISCRETE, batch)
    np.testing.assert_allclose(errors, q - batch.reward, rtol=1e-4, atol=1e-6)
    assert all_finite(learned)


def test_a_batch_with_no_next_action_learns_nothing() -> None:
    batch = index(batch_of(DISCRETE, 8), jnp.array([TRUNCATED, NEWEST]))
    algorithm = tiny("ac", next_action="memory")
    critics = first_state(algorithm, jax.random.key(0), DISCRETE).learner.critic.critics
    assert_same(learn(algorithm, DISCRETE, batch)[0].critic.critics, critics)


@pytest.mark.parametrize("spec", [DISCRETE, CONTINUOUS], ids=["discrete", "continuous"])
def test_the_temperature_falls_where_the_policy_is_random_enough(spec: EnvSpec) -> None:
    low, high = (
        learn(tiny("sac", target_entropy=t, target_entropy_share=s), spec, batch_of(spec))[0].log_temperature
        for t, s in ((-5.0, 0.1), (5.0, 1.0))
    )
    assert low < 0
    if spec is CONTINUOUS:
        assert high > 0
    frozen = learn(tiny("sac", tune_temperature=False), spec, batch_of(spec))
    assert frozen[0].log_temperature == 0
    assert frozen[1]["train/ent_coef"] == 1


def test_the_target_reads_the_least_critic_and_the_static_copy() -> None:
    algorithm, x = tiny("sac", temperature=0.0), index(batch_of(DISCRETE), 0)
    learner = first_state(algorithm, jax.random.key(0), DISCRETE).learner
    summed = tiny("sac", temperature=0.0, next_action="expected")
    pi = jax.nn.softmax(learner.actor.distribution(x.next_obs).logits)
    least = np.minimum(*[c.values(x.next_obs) for c in learner.static])
    shipped = summed.next_value(None, learner.actor, learner.static, x, jnp.float32(0))
    np.testing.assert_allclose(shipped, np.sum(pi * least), rtol=1e-5)
    still = learn(tiny("sac", tau=0.0), DISCRETE, batch_of(DISCRETE))[0]
    assert_same(still.static, learner.static)


def test_errors_are_those_to_the_static_copy_which_moves_every_so_many_steps() -> None:
    algorithm, batch = tiny("ac", next_action="expected", target_period=3, tau=1.0), batch_of(DISCRETE)
    first = algorithm.init(jax.random.key(0), DISCRETE).learner
    first = dataclasses.replace(first, static=jax.tree.map(lambda x: x + 0.3, first.static))
    second, _, error = learn(algorithm, DISCRETE, batch, first)
    pi = jax.nn.softmax(jax.vmap(first.actor.distribution)(batch.next_obs).logits)
    value = np.sum(pi * jax.vmap(first.static[0].values)(batch.next_obs), 1)
    q = jax.vmap(first.critic.critics[0])(batch.obs, batch.action)
    np.testing.assert_allclose(error, q - (batch.reward + batch.discount * value), rtol=1e-4, atol=1e-5)
    assert_same(second.static, first.static)
    fourth = learn(algorithm, DISCRETE, batch, dataclasses.replace(second, updates=jnp.int32(2)))[0]
    assert_same(fourth.static, fourth.critic.critics)


def test_rows_count_by_their_weights() -> None:
    """A row of weight 0 is as if it were not there; one of weight 2 as if it were there twice."""
    algorithm = tiny("ac", next_action="expected", gradient_action="expected", optimiser="sgd", max_grad_norm=1e9)
    batch = batch_of(DISCRETE)
    weighted = learn(algorithm, DISCRETE, dataclasses.replace(batch, weight=jnp.array([2.0, 1, 1, 0])))[0]
    twice = learn(algorithm, DISCRETE, index(batch, jnp.array([0, 0, 1, 2])))[0]
    assert_same((weighted.actor, weighted.critic), (twice.actor, twice.critic), rtol=1e-4, atol=1e-6)


def test_what_cannot_be_is_refused() -> None:
    for changes in ({"next_action": "expected"}, {"gradient_action": "expected"}):
        with pytest.raises(UsageError, match="needs Discrete actions"):
            AC(**changes).check(CONTINUOUS)
    with pytest.raises(UsageError, match="reparameterised needs gradient_action policy"):
        SAC(gradient_action="memory").check(CONTINUOUS)
    SAC(gradient_action="memory").check(DISCRETE)
