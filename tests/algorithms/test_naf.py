"""NAF's equations against NumPy, and numbers at the edges; its maximum is proven in the theory suite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import all_finite, assert_same, tiny

from ridgeline.algorithms.naf import cholesky_root, quadratic_advantage
from ridgeline.errors import UsageError
from ridgeline.memory import Batch
from ridgeline.theory.property import QUICK_TO_COMPILE
from ridgeline.types import ArraySpec, Continuous, Discrete, EnvSpec, Steps

SPEC = EnvSpec("Continuous", ArraySpec((3,)), Continuous(2, (True, False)))
STEPS = Steps(jnp.float32(50), jnp.float32(100), jnp.int32(0))
random = np.random.default_rng(0)
learn = jax.jit(lambda algorithm, *rest: algorithm.learn(*rest), compiler_options=QUICK_TO_COMPILE)


def batch_of(count: int, terminal: bool) -> Batch:
    """Transitions of noise."""
    obs, next_obs = jnp.asarray(random.normal(size=(2, count, 3)), float)
    action, next_action = jnp.asarray(random.uniform(-1, 1, (2, count, 2)), float)
    reward, ones = jnp.asarray(random.normal(size=count), float), jnp.ones(count)
    discount = jnp.full(count, 0.0 if terminal else 0.9)
    index = jnp.zeros((count, 2), jnp.int32)
    return Batch(obs, action, reward, next_obs, next_action, ones > 0, discount, ones, index)


@pytest.fixture(scope="module")
def learner():
    return jax.jit(lambda a: a.init(jax.random.key(0), SPEC), compiler_options=QUICK_TO_COMPILE)(
        tiny("naf")
    ).learner


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_advantage_is_the_quadratic_form_of_the_root(size):
    """−½ (a − μ)ᵀ (LLᵀ) (a − μ), L from its entries row by row, its diagonal their exp."""
    entries = random.normal(size=size * (size + 1) // 2)
    root = np.zeros((size, size))
    root[np.tril_indices(size)] = entries
    np.fill_diagonal(root, np.exp(np.diagonal(root)))
    found = np.asarray(cholesky_root(jnp.asarray(entries, float), size))
    np.testing.assert_allclose(found, root, rtol=1e-5)
    action, mean = random.normal(size=(2, size))
    expected = -0.5 * (action - mean) @ (root @ root.T) @ (action - mean)
    arguments = (jnp.asarray(x, float) for x in (action, mean, root))
    assert quadratic_advantage(*arguments) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("extreme", [-1e30, -30.0, 30.0, 1e30])
def test_the_root_of_extreme_outputs_is_invertible_and_finite(extreme):
    root = np.asarray(cholesky_root(jnp.array([extreme, 0.5, extreme]), 2))
    assert np.isfinite(root).all()
    assert (np.diagonal(root) >= np.exp(-5) * 0.999).all()
    assert (np.diagonal(root) <= np.exp(5) * 1.001).all()


def test_the_target_is_the_static_value_behind_the_reward(learner):
    """The error that comes back is Q(s, a) − [r + d V′(s′)], V′ of the copy and without any search."""
    copy = jax.tree.map(lambda x: x + 0.3, learner.static)
    batch = batch_of(8, terminal=False)
    _, metrics, error = learn(
        tiny("naf"), jax.random.key(0), dataclasses.replace(learner, static=copy), batch, STEPS
    )
    online = learner.critic.critics[0]
    q = jax.vmap(online)(batch.obs, batch.action)
    target = batch.reward + 0.9 * jax.vmap(copy.best_value)(batch.next_obs)
    np.testing.assert_allclose(error, q - target, rtol=1e-4, atol=1e-5)
    assert metrics["train/critic_loss"] == pytest.approx(float(jnp.mean((q - target) ** 2) / 2), rel=1e-4)


def test_the_copy_follows_by_tau(learner):
    algorithm = tiny("naf", tau=0.25)
    later, _, _ = learn(algorithm, jax.random.key(0), learner, batch_of(8, terminal=False), STEPS)
    expected = jax.tree.map(lambda o, n: o + 0.25 * (n - o), learner.static, later.critic.critics[0])
    assert_same(later.static, expected, rtol=1e-5, atol=1e-7)


def test_bounded_entries_of_the_best_action_are_within_them(learner):
    network = learner.critic.critics[0]
    far = dataclasses.replace(network, mean=jax.tree.map(lambda x: x + 1e3, network.mean))
    best = far.best_action(jnp.ones(3))
    assert best[0] == 1
    assert best[1] > 100
    assert np.isfinite(far(jnp.ones(3), jnp.zeros(2)))


def test_a_saturated_network_and_terminal_batches_stay_finite(learner):
    network = learner.critic.critics[0]
    grown = jax.tree.map(lambda x: x * 30, network)
    critic = dataclasses.replace(learner.critic, critics=(grown,))
    saturated = dataclasses.replace(learner, critic=critic, static=grown)
    later, metrics, error = learn(tiny("naf"), jax.random.key(0), saturated, batch_of(8, terminal=True), STEPS)
    assert all_finite((later, metrics, error))


def test_only_continuous_actions_are_taken():
    with pytest.raises(UsageError, match="naf needs Continuous actions"):
        tiny("naf").check(EnvSpec("Discrete", ArraySpec((3,)), Discrete(3)))
