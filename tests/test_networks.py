"""Heads: features to distributions, values and action values."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ridgeline.distributions import Categorical, DiagonalGaussian, Product
from ridgeline.encoders import Architecture, build_encoder
from ridgeline.linear import Linear
from ridgeline.networks import ActionValues, ActorCritic, Policy, PolicyHead, allowed_actions
from ridgeline.normalisation import ObservationNormaliser
from ridgeline.types import ACTION_MASK, ArraySpec, Continuous, Discrete, MultiDiscrete

KEYS = jax.random.split(jax.random.key(0), 5)
FEATURES, VECTOR = 6, ArraySpec((3,))
OBS = jnp.asarray([0.5, -1.0, 2.0])
X = jnp.linspace(-1, 1, FEATURES)
ACTIONS = [Discrete(4), MultiDiscrete((2, 3)), Continuous(2, (True, False))]
each_action = pytest.mark.parametrize("action", ACTIONS, ids=lambda a: type(a).__name__)


def linear(outputs: int, seed: int) -> Linear:
    """Weights and biases far from 0."""
    random = np.random.default_rng(seed)
    return Linear(*(jnp.asarray(random.normal(size=s), jnp.float32) for s in ((FEATURES, outputs), (outputs,))))


def encoder(key):
    return build_encoder(key, VECTOR, Architecture((FEATURES,)))[0]


def actor_critic(action, shared=True) -> ActorCritic:
    critic = None if shared else encoder(KEYS[1])
    return ActorCritic(encoder(KEYS[0]), critic, PolicyHead.create(KEYS[2], FEATURES, action), linear(1, 0))


def action_values(dueling: bool) -> ActionValues:
    return ActionValues(encoder(KEYS[0]), linear(4, 1), linear(1, 2) if dueling else None)


def masked(*allowed: int) -> dict[str, jax.Array]:
    return {ACTION_MASK: jnp.asarray(allowed, jnp.int8)}


def head(action) -> PolicyHead:
    """With weights that are not nearly 0."""
    drawn = PolicyHead.create(KEYS[2], FEATURES, action, 0.7)
    return dataclasses.replace(drawn, linear=linear(drawn.linear.bias.size, 3))


def test_discrete_actions_get_a_softmax():
    policy = head(ACTIONS[0])
    p = policy(X, OBS)
    assert isinstance(p, Categorical)
    np.testing.assert_allclose(p.logits, policy.linear(X), rtol=1e-6)


def test_several_choices_get_a_product_cut_from_one_vector():
    policy = head(ACTIONS[1])
    p = policy(X, OBS)
    assert isinstance(p, Product)
    assert [part.logits.size for part in p.parts] == [2, 3]
    np.testing.assert_allclose(jnp.concatenate([part.logits for part in p.parts]), policy.linear(X), rtol=1e-6)


def test_continuous_actions_get_a_gaussian_with_a_free_deviation():
    policy = head(ACTIONS[2])
    p = policy(X, OBS)
    assert isinstance(p, DiagonalGaussian)
    np.testing.assert_allclose(p.mean, policy.linear(X), rtol=1e-6)
    np.testing.assert_array_equal(p.log_std, jnp.full(2, 0.7))


@each_action
def test_the_first_policy_is_nearly_the_same_everywhere(action):
    """Orthogonal weights × 0.01; the deviation starts at 1."""
    policy = PolicyHead.create(KEYS[2], FEATURES, action)
    weight = np.asarray(policy.linear.weight)
    np.testing.assert_allclose(weight.T @ weight, 1e-4 * np.eye(weight.shape[1]), atol=1e-8)
    assert policy.log_std is None or not policy.log_std.any()


def test_a_mask_forbids_actions():
    p = head(Discrete(4))(X, masked(1, 0, 0, 1))
    probability = np.exp([p.log_prob(jnp.asarray(a)) for a in range(4)])
    np.testing.assert_array_equal(probability > 0, [True, False, False, True])
    assert probability.sum() == pytest.approx(1)


def test_a_mask_forbids_entries_of_each_choice():
    first, second = head(MultiDiscrete((2, 3)))(X, masked(1, 0, 0, 1, 1)).parts
    np.testing.assert_array_equal(first.logits == -1e9, [False, True])
    np.testing.assert_array_equal(second.logits == -1e9, [True, False, False])


def test_only_a_mask_forbids():
    logits = jnp.arange(3.0)
    for obs in (OBS, {"speed": OBS}, masked(1, 1, 1)):
        np.testing.assert_array_equal(allowed_actions(obs, logits), logits)


def test_the_value_comes_from_its_own_encoder_where_there_is_one():
    alone, shared = actor_critic(ACTIONS[0], shared=False), actor_critic(ACTIONS[0])
    for network, read in ((alone, alone.critic_encoder), (shared, shared.encoder)):
        np.testing.assert_allclose(network.state_value(OBS), network.value(read(OBS))[0], rtol=1e-6)
    assert alone.state_value(OBS) != shared.state_value(OBS)


@each_action
def test_calling_gives_both_the_policy_and_the_value(action):
    network = actor_critic(action)
    policy, value = network(OBS)
    jax.tree.map(np.testing.assert_array_equal, policy, network.policy(network.encoder(OBS), OBS))
    assert value == network.state_value(OBS)


def test_a_policy_reads_through_its_normaliser():
    normaliser = ObservationNormaliser.create(VECTOR).fold(jnp.stack([OBS, OBS + 1, 3 * OBS]))
    np.testing.assert_array_equal(Policy(actor_critic(ACTIONS[0]), normaliser).read(OBS), normaliser(OBS))


def test_action_values_are_one_layer_over_the_features():
    q = action_values(dueling=False)
    np.testing.assert_allclose(q(OBS), q.advantage(q.encoder(OBS)), rtol=1e-6)


def test_dueling_values_are_the_advantages_about_the_state_value():
    q = action_values(dueling=True)
    features = q.encoder(OBS)
    above = q(OBS) - q.value(features)
    assert jnp.mean(above) == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(jnp.diff(above), jnp.diff(q.advantage(features)), rtol=1e-5)


def test_forbidden_actions_have_no_value():
    q = dataclasses.replace(action_values(dueling=True), encoder=lambda obs: X)
    free, bound = q(OBS), q(masked(0, 1, 1, 0))
    np.testing.assert_array_equal(bound, np.where([False, True, True, False], free, -1e9))


NETWORKS = {
    **{
        f"{type(a).__name__}, {'shared' if s else 'apart'}": actor_critic(a, s)
        for a in ACTIONS
        for s in (True, False)
    },
    "values": action_values(dueling=False),
    "dueling": action_values(dueling=True),
}


def everything(output):
    """Σ over all that a network says: log π(mode), entropy and value, or the first action's value."""
    if not isinstance(output, tuple):
        return output[0]
    policy, value = output
    action = policy.mode() + (1 if isinstance(policy, DiagonalGaussian) else 0)
    return policy.log_prob(jax.lax.stop_gradient(action)) + policy.entropy() + value


@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_every_leaf_is_a_float_array_that_a_gradient_reaches(network):
    leaves, gradients = jax.tree.leaves(network), jax.tree.leaves(jax.grad(lambda n: everything(n(OBS)))(network))
    for leaf, gradient in zip(leaves, gradients, strict=True):
        assert isinstance(leaf, jax.Array)
        assert leaf.dtype == jnp.float32
        assert np.any(gradient != 0)
