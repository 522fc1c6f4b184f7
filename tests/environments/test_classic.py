"""The JAX classics equal Gymnasium's: 10,000 steps each, from the same state with the same action."""

import functools
from typing import NamedTuple

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ridgeline.environments.classic import CLASSICS, CartPole, MountainCarContinuous, Pendulum, PendulumState
from ridgeline.types import ArraySpec, Continuous, Discrete

STEPS = 10_000

# The states that every other episode starts from, so that walls, speed limits and goals are met too.
WIDE = {
    "CartPole-v1": ([-2.4, -2.0, -0.2, -2.0], [2.4, 2.0, 0.2, 2.0]),
    "Acrobot-v1": (np.pi * np.array([-1, -1, -4, -9]), np.pi * np.array([1, 1, 4, 9])),
    "MountainCar-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "MountainCarContinuous-v0": ([-1.2, -0.07], [0.6, 0.07]),
    "Pendulum-v1": ([-20.0, -8.0], [20.0, 8.0]),
}


class Recorded(NamedTuple):
    """Steps of Gymnasium: one row each."""

    state: np.ndarray
    action: np.ndarray
    next_state: np.ndarray
    next_obs: np.ndarray
    reward: np.ndarray
    terminated: np.ndarray


@functools.cache
def recorded(name: str) -> Recorded:
    """Random steps of Gymnasium's own environment; its state is read back before and after every one."""
    env = gymnasium.make(name).unwrapped
    env.action_space.seed(1)
    random = np.random.default_rng(2)
    rows = []
    episode, elapsed = -1, 0
    ended = True
    for _ in range(STEPS):
        if ended:
            episode += 1
            elapsed = 0
            env.reset(seed=episode)
            if episode % 2:
                env.state = random.uniform(*WIDE[name])
        state = np.array(env.state, float)
        action = env.action_space.sample()
        next_obs, reward, terminated, _, _ = env.step(action)
        rows.append((state, action, np.array(env.state, float), np.array(next_obs), float(reward), terminated))
        elapsed += 1
        ended = terminated or elapsed == 100
    env.close()
    return Recorded(*(np.stack(column) for column in zip(*rows, strict=True)))


def ours(name: str, dtype: type) -> tuple[NamedTuple, Recorded]:
    """Our step from each recorded state, and the record itself."""
    env, record = CLASSICS[name](), recorded(name)
    kind = type(jax.eval_shape(env.reset, jax.random.key(0))[0])
    state = kind(*jnp.asarray(record.state, dtype).T)
    # Gymnasium's pendulum takes a torque in ±2, which is the canonical ±1.
    action = record.action / 2 if name == "Pendulum-v1" else record.action
    action = jnp.asarray(action, int if action.dtype == int else dtype)
    keys = jax.random.split(jax.random.key(0), STEPS)
    return jax.jit(jax.vmap(env.step))(keys, state, action), record


@pytest.mark.parametrize("name", CLASSICS)
def test_every_step_equals_gymnasiums(name: str) -> None:
    # In float64, as Gymnasium steps: then even a threshold is crossed in the same step.
    with jax.enable_x64(True):
        (state, step), record = ours(name, float)
        assert step.next_obs.dtype == step.reward.dtype == jnp.float64
    difference = np.abs(np.stack(state, axis=1) - record.next_state)
    if name == "Pendulum-v1":  # Gymnasium's angle grows without end, ours starts each step in ±π
        difference[:, 0] -= 2 * np.pi * np.round(difference[:, 0] / (2 * np.pi))
    np.testing.assert_allclose(difference, 0, atol=1e-5)
    np.testing.assert_allclose(step.next_obs, record.next_obs, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(step.terminated, record.terminated)
    assert not np.any(step.truncated)
    if name in ("Pendulum-v1", "MountainCarContinuous-v0"):
        np.testing.assert_allclose(step.reward, record.reward, rtol=0, atol=1e-5)
    else:
        np.testing.assert_array_equal(step.reward, record.reward)
    assert np.any(record.terminated) == (name != "Pendulum-v1")


@pytest.mark.parametrize("name", CLASSICS)
def test_in_float32_only_rounding_differs(name: str) -> None:
    (_, step), record = ours(name, np.float32)
    assert step.next_obs.dtype == step.reward.dtype == jnp.float32
    np.testing.assert_allclose(step.next_obs, record.next_obs, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(step.terminated, record.terminated)
    np.testing.assert_allclose(step.reward, record.reward, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CLASSICS)
def test_spec_equals_gymnasiums_registry_and_spaces(name: str) -> None:
    spec, env = CLASSICS[name]().spec, gymnasium.make(name)
    assert spec.id == name
    assert spec.max_episode_steps == env.spec.max_episode_steps
    assert spec.reward_threshold == env.spec.reward_threshold
    assert spec.observation == ArraySpec(env.observation_space.shape, str(env.observation_space.dtype))
    if isinstance(env.action_space, gymnasium.spaces.Discrete):
        assert env.action_space.start == 0
        assert spec.action == Discrete(int(env.action_space.n))
    else:
        assert spec.action == Continuous(*env.action_space.shape, (True,))
    env.close()


@pytest.mark.parametrize("name", CLASSICS)
def test_resets_are_distributed_as_gymnasiums(name: str) -> None:
    count = 10_000
    state, obs = jax.jit(jax.vmap(CLASSICS[name]().reset))(jax.random.split(jax.random.key(0), count))
    assert obs.dtype == jnp.float32
    env = gymnasium.make(name).unwrapped
    env.reset(seed=0)
    theirs = np.stack([np.r_[env.reset()[0], env.state] for _ in range(count)])
    mine = np.concatenate([obs, np.stack(state, axis=1)], axis=1)
    # Eight standard errors of a difference of means; extremes of 10,000 uniform draws lie 1e-3 of the range in.
    spread = np.ptp(theirs, axis=0)
    tolerance = 8 * theirs.std(axis=0) * np.sqrt(2 / count) + 1e-7
    assert np.all(np.abs(mine.mean(axis=0) - theirs.mean(axis=0)) <= tolerance)
    np.testing.assert_allclose(mine.std(axis=0), theirs.std(axis=0), rtol=0.05, atol=1e-7)
    assert np.all(np.abs(mine.min(axis=0) - theirs.min(axis=0)) <= 2e-3 * spread + 1e-7)
    assert np.all(np.abs(mine.max(axis=0) - theirs.max(axis=0)) <= 2e-3 * spread + 1e-7)
    env.close()


@pytest.mark.parametrize("env", [Pendulum(), MountainCarContinuous()])
@pytest.mark.parametrize(("action", "limit"), [(1.0001, 1.0), (7.0, 1.0), (-3.0, -1.0)])
def test_actions_outside_the_bounds_are_clipped(env, action: float, limit: float) -> None:
    key = jax.random.key(0)
    state, _ = env.reset(key)
    outside = env.step(key, state, jnp.array([action]))
    at_limit = env.step(key, state, jnp.array([limit]))
    assert jax.tree.all(jax.tree.map(jnp.array_equal, outside, at_limit))
    inside = env.step(key, state, jnp.array([0.9 * limit]))
    assert not jnp.array_equal(inside[1].next_obs, at_limit[1].next_obs)


def test_full_canonical_torque_is_two_newton_metres() -> None:
    state = PendulumState(jnp.array(0.0), jnp.array(0.0))
    _, step = Pendulum().step(jax.random.key(0), state, jnp.array([1.0]))
    np.testing.assert_allclose(step.next_obs[2], 0.05 * 3 * 2, rtol=1e-6)
    np.testing.assert_allclose(step.reward, -0.001 * 2**2, rtol=1e-6)


@pytest.mark.parametrize("name", CLASSICS)
def test_environments_hold_no_arrays_and_the_state_keeps_its_type(name: str) -> None:
    env = CLASSICS[name]()
    assert jax.tree.leaves(env) == []
    key = jax.random.key(0)
    first, obs = jax.eval_shape(env.reset, key)
    action = jnp.array(0) if isinstance(env.spec.action, Discrete) else jnp.zeros(env.spec.action.size)
    second, step = jax.eval_shape(env.step, key, first, action)
    assert first == second
    assert step.next_obs == obs
    assert not any(leaf.weak_type for leaf in jax.tree.leaves((first, obs, second, step)))


def test_another_instance_does_not_compile_again() -> None:
    traces = 0

    @jax.jit
    def step(env: CartPole, key: jax.Array) -> jax.Array:
        nonlocal traces
        traces += 1
        state, _ = env.reset(key)
        return env.step(key, state, jnp.array(0))[1].next_obs

    step(CartPole(), jax.random.key(0))
    step(CartPole(), jax.random.key(1))
    assert traces == 1
