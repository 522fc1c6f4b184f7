"""The probes pay what they promise, and one compilation serves all five."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ridgeline.environments.probes import PROBE_COUNT, Counter, Forever, Probe
from ridgeline.types import ArraySpec, Continuous, Discrete, Environment

GAMMA = 0.9
DISCRETE = jnp.array([0, 1])
GRID = jnp.linspace(-1, 1, 81)[:, None]  # holds ±½ exactly

# index, x, the optimal value and (discrete, continuous) optimal actions, by hand; None where none matters
KNOWN = [
    (0, 0.0, 1.0, 1.0, None, None),
    (1, -1.0, -1.0, -1.0, None, None),
    (1, 1.0, 1.0, 1.0, None, None),
    (2, 0.0, GAMMA, GAMMA, None, None),
    (2, 1.0, 1.0, 1.0, None, None),
    (3, 0.0, 1.0, 0.0, 1, 0.5),
    (4, -1.0, 1.0, 0.0, 0, -0.5),
    (4, 1.0, 1.0, 0.0, 1, 0.5),
]


def episode(env: Environment, key: jax.Array, policy, length: int):
    """The observations before each of `length` steps and the steps themselves, without resets."""

    def one(state_obs, key):
        state, obs = state_obs
        state, step = env.step(key, state, policy(obs))
        return (state, step.next_obs), (obs, step)

    return jax.lax.scan(one, env.reset(key), jax.random.split(key, length))[1]


def discounted_return(reward: np.ndarray, terminated: np.ndarray, gamma: float) -> float:
    """Σ γᵗ rₜ up to and with the first termination."""
    length = int(np.argmax(terminated)) + 1
    return float(np.sum(gamma ** np.arange(length) * reward[:length]))


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize(("index", "x", "discrete_value", "continuous_value", "choice", "level"), KNOWN)
def test_known_answers(continuous, index, x, discrete_value, continuous_value, choice, level) -> None:
    probe, obs = Probe(index, continuous), jnp.array([x])
    value = continuous_value if continuous else discrete_value
    np.testing.assert_allclose(probe.value(obs, GAMMA), value, atol=1e-6)
    actions = GRID if continuous else DISCRETE
    values = jax.vmap(lambda action: probe.action_value(obs, action, GAMMA))(actions)
    np.testing.assert_allclose(values.max(), value, atol=1e-6)
    known = level if continuous else choice
    if known is None:
        np.testing.assert_allclose(values, value, atol=1e-6)
    else:
        assert float(jnp.squeeze(probe.optimal_action(obs))) == known
        assert float(jnp.squeeze(actions[values.argmax()])) == pytest.approx(known)
        assert int(jnp.sum(values > values.max() - 1e-6)) == 1


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize("index", range(PROBE_COUNT))
def test_rollouts_return_the_stated_values(index: int, continuous: bool) -> None:
    probe = Probe(index, continuous)
    keys = jax.random.split(jax.random.key(index), 64)
    obs, step = jax.vmap(lambda key: episode(probe, key, probe.optimal_action, 2))(keys)
    assert not step.truncated.any()
    for row in range(len(keys)):
        expected = float(probe.value(obs[row, 0], GAMMA))
        actual = discounted_return(np.asarray(step.reward[row]), np.asarray(step.terminated[row]), GAMMA)
        assert actual == pytest.approx(expected, abs=1e-6)
    assert set(np.asarray(obs[:, 0, 0]).tolist()) == ({-1.0, 1.0} if index in (1, 4) else {0.0})
    assert bool(step.terminated[:, 0].all()) == (index != 2)
    if index == 2:
        np.testing.assert_array_equal(step.next_obs[:, 0], 1)
        np.testing.assert_array_equal(step.reward, [[0, 1]] * len(keys))
        assert step.terminated[:, 1].all()


def test_wrong_actions_are_paid_less() -> None:
    x = jnp.array(-1.0)
    assert float(Probe(3).reward(x, jnp.array(0))) == -1
    assert float(Probe(4).reward(x, jnp.array(1))) == -1
    np.testing.assert_allclose(Probe(3, True).reward(x, jnp.array([0.0])), -0.25)
    np.testing.assert_allclose(Probe(4, True).reward(x, jnp.array([0.5])), -1)
    np.testing.assert_allclose(Probe(3, True).reward(x, jnp.array([9.0])), -0.25)  # clipped to 1


@pytest.mark.parametrize("continuous", [False, True])
def test_one_compilation_serves_all_five(continuous: bool) -> None:
    traces = 0

    @jax.jit
    def rewards(probe: Probe, key: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        return episode(probe, key, probe.optimal_action, 2)[1].reward

    key = jax.random.key(0)
    alone = [rewards(Probe(index, continuous), key) for index in range(PROBE_COUNT)]
    assert traces == 1
    together = jax.vmap(rewards, in_axes=(0, None))(eqx.filter_vmap(Probe)(jnp.arange(5), continuous), key)
    np.testing.assert_array_equal(together, jnp.stack(alone))
    assert len({Probe(index, continuous).spec for index in range(PROBE_COUNT)}) == 1


def test_specs() -> None:
    assert Probe(0).spec.action == Discrete(2)
    assert Probe(0, continuous=True).spec.action == Continuous(1, (True,))
    assert Probe(0).spec.max_episode_steps is None
    assert Forever(limit=7).spec.max_episode_steps == 7
    assert Counter(limit=3).spec.max_episode_steps == 3
    for env in (Probe(2), Probe(2, continuous=True), Forever(), Counter()):
        _, obs = env.reset(jax.random.key(0))
        assert env.spec.observation == ArraySpec(obs.shape, str(obs.dtype))
        hash(env.spec)


def test_forever_pays_one_and_never_ends_by_itself() -> None:
    obs, step = episode(Forever(limit=3), jax.random.key(0), lambda obs: jnp.array(0), 10)
    np.testing.assert_array_equal(step.reward, 1)
    np.testing.assert_array_equal(obs, step.next_obs)
    assert not step.terminated.any()
    assert not step.truncated.any()


@pytest.mark.parametrize("ends_at", [None, 3])
def test_counter_observes_the_steps_taken(ends_at: int | None) -> None:
    obs, step = episode(Counter(limit=2, ends_at=ends_at), jax.random.key(0), lambda obs: jnp.array(0), 5)
    np.testing.assert_array_equal(obs[:, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(step.next_obs[:, 0], [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(step.terminated, [t == ends_at for t in range(1, 6)])
    assert not step.truncated.any()
