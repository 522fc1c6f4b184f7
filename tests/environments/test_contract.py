"""What every host environment owes its runner, and what happens when an environment breaks its own promises."""

import dataclasses
import functools
import os
import time

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ridgeline.environments import make
from ridgeline.environments.classic import CartPole, CartPoleState
from ridgeline.environments.gymnasium import GymnasiumFactory
from ridgeline.errors import ContractError, EnvironmentCrash

HOSTS = ("gymnasium", "gymnasium-async", "envpool", "stepped")
FOREVER = 10_000


def cartpole(backend, limit):
    """A factory of CartPole with that time limit."""
    if backend != "stepped":
        return make("CartPole-v1", backend, max_episode_steps=limit)

    class Limited(CartPole):
        spec = dataclasses.replace(CartPole.spec, max_episode_steps=limit)

    return make(Limited(), backend)


@pytest.fixture
def build(request):
    """Builds a started host environment and closes it afterwards."""
    built = []

    def start(backend, seeds, limit):
        host = cartpole(backend, limit).build(len(seeds))
        built.append(host)
        return host, host.reset(np.array(seeds), np.ones(len(seeds), bool))

    yield start
    for host in built:
        host.close()


@jax.jit
def successor(obs, action):
    """Where CartPole goes, by the pure-JAX copy."""
    return jax.vmap(lambda o, a: CartPole().step(jax.random.key(0), CartPoleState(*o), a)[1])(obs, action)


@pytest.mark.parametrize("backend", HOSTS)
def test_a_limit_of_four_steps_gives_four_transitions_whose_last_is_true(backend, build):
    host, obs = build(backend, [1, 2], 4)
    assert host.spec.max_episode_steps == 4
    everyone = np.ones(2, bool)
    for episode in range(3):
        for t in range(1, 5):
            action = np.array([t % 2, (t + 1) % 2], np.int32)
            step = host.step(action)
            np.testing.assert_array_equal(step.truncated, [t == 4] * 2)
            np.testing.assert_array_equal(step.terminated, [False] * 2)
            np.testing.assert_array_equal(step.reward, [1, 1])
            np.testing.assert_allclose(step.next_obs, successor(obs, action).next_obs, atol=1e-5)
            obs = step.next_obs
        fresh = host.reset(np.array([3, 4]) + episode, everyone)
        assert np.abs(fresh).max() <= 0.05
        assert np.abs(fresh - obs).max() > 1e-3
        obs = fresh


@pytest.mark.parametrize("backend", HOSTS)
def test_a_termination_on_the_last_allowed_step_is_a_termination(backend, build):
    push = np.ones(1, np.int32)
    host, _ = build(backend, [5], FOREVER)
    length = next(t for t in range(1, 100) if host.step(push).terminated[0])
    host, _ = build(backend, [5], length)
    for _ in range(length - 1):
        step = host.step(push)
        assert not (step.terminated | step.truncated)[0]
    step = host.step(push)
    assert step.terminated[0]
    assert step.truncated[0]


@pytest.mark.parametrize("backend", HOSTS)
def test_a_partial_reset_touches_only_its_rows(backend, build):
    host, obs = build(backend, [1, 2, 3], 4)
    middle, outer = np.array([False, True, False]), np.array([True, False, True])
    action = np.array([0, 1, 1], np.int32)
    for _ in range(2):
        obs = host.step(action).next_obs
    before = obs.copy()
    fresh = host.reset(np.array([7, 8, 9]), middle)
    np.testing.assert_array_equal(obs, before)  # what was returned earlier is left alone
    obs = np.where(middle[:, None], fresh, obs)
    assert np.abs(obs[1]).max() <= 0.05
    for _ in range(2):
        step = host.step(action)
        np.testing.assert_allclose(step.next_obs, successor(obs, action).next_obs, atol=1e-5)
        obs = step.next_obs
    np.testing.assert_array_equal(step.truncated, outer)
    host.reset(np.array([10, 11, 12]), outer)
    host.step(action)
    np.testing.assert_array_equal(host.step(action).truncated, middle)


@pytest.mark.parametrize("backend", HOSTS)
def test_a_reset_of_no_row_changes_nothing(backend, build):
    host, obs = build(backend, [1, 2], 2)
    action = np.array([0, 1], np.int32)
    host.step(action)
    assert host.reset(np.array([3, 4]), np.zeros(2, bool)).shape == obs.shape
    assert host.step(action).truncated.all()


@pytest.mark.parametrize("backend", HOSTS)
def test_a_seed_decides_its_rows_episode(backend, build):
    (_, first), (_, second) = build(backend, [1, 2], FOREVER), build(backend, [2, 3], FOREVER)
    np.testing.assert_array_equal(first[1], second[0])
    assert not np.array_equal(first[0], first[1])
    assert not np.array_equal(first[0], second[1])


@pytest.mark.parametrize("backend", ["gymnasium", "gymnasium-async", "stepped"])
def test_a_seed_decides_a_later_episode_too(backend, build):
    host, first = build(backend, [1, 2], FOREVER)
    host.step(np.zeros(2, np.int32))
    again = host.reset(np.array([0, 1]), np.array([False, True]))
    np.testing.assert_array_equal(again[1], first[0])


@pytest.mark.parametrize("backend", HOSTS)
def test_the_jax_copy_fed_the_same_actions_earns_the_same_returns(backend, build):
    # Random pushes topple the pole after some twenty steps, long before float32 and float64 part visibly.
    host, obs = build(backend, range(8), 500)
    rng = np.random.default_rng(0)
    copy = jnp.asarray(obs)
    alive, copy_alive = np.ones(8, bool), np.ones(8, bool)
    returns, copy_returns = np.zeros(8), np.zeros(8)
    while alive.any():
        action = rng.integers(0, 2, 8).astype(np.int32)
        step, copied = host.step(action), successor(copy, action)
        returns += alive * step.reward
        copy_returns += copy_alive * np.asarray(copied.reward)
        np.testing.assert_allclose(step.next_obs[alive], np.asarray(copied.next_obs)[alive], atol=1e-3)
        alive &= ~step.terminated
        copy_alive &= ~np.asarray(copied.terminated)
        if not alive.all():
            host.reset(np.arange(8), ~alive)  # so that no backend is stepped past an end
        copy = copied.next_obs
    np.testing.assert_array_equal(returns, copy_returns)
    assert len(set(returns)) > 3


BAD_SEED = 13


def change(i, value):
    """The answer with its i-th value replaced."""
    return lambda answer: (*answer[:i], value, *answer[i + 1 :])


def explode(error):
    def fault(answer):
        raise error

    return fault


OBS, REWARD, TERMINATED, TRUNCATED, INFO = range(5)
NAN_OBS = np.array([0.0, np.nan], np.float32)

# name: (step, of which 0 is the reset; what becomes of the answer; error; what the message says)
FAULTS = {
    "NaN observation": (3, change(OBS, NAN_OBS), ContractError, r"observation\[1\] is nan"),
    "infinite observation": (3, change(OBS, np.array([np.inf, 0.0])), ContractError, r"observation\[0\] is inf"),
    "None observation": (3, change(OBS, None), ContractError, "observation is None"),
    "observation too long": (3, change(OBS, np.zeros(3)), ContractError, r"observation has shape \(3,\)"),
    "scalar observation": (3, change(OBS, 0.5), ContractError, r"observation has shape \(\)"),
    "observation in a batch": (3, change(OBS, np.zeros((1, 2))), ContractError, r"observation has shape \(1, 2\)"),
    "text observation": (3, change(OBS, np.array(["a", "b"])), ContractError, "observation is .* of dtype <U1"),
    "object observation": (
        3,
        change(OBS, np.array([{}, None])),
        ContractError,
        "observation is .* of dtype object",
    ),
    "ragged observation": (3, change(OBS, [[1], [1, 2]]), ContractError, "observation is .* expected an array"),
    "complex observation": (3, change(OBS, np.zeros(2, complex)), ContractError, "observation is .*complex128"),
    "dictionary observation": (3, change(OBS, {"x": 1}), ContractError, "observation is .*dtype object"),
    "observation overflows": (3, change(OBS, np.array([1e300, 0])), ContractError, r"observation\[0\] is 1e\+300"),
    "infinite reward": (3, change(REWARD, np.inf), ContractError, "reward is inf"),
    "NaN reward": (3, change(REWARD, np.float32("nan")), ContractError, "reward is .*nan"),
    "reward overflows": (3, change(REWARD, -1e300), ContractError, r"reward is -1e\+300"),
    "None reward": (3, change(REWARD, None), ContractError, "reward is None"),
    "text reward": (3, change(REWARD, "1"), ContractError, "reward is '1'"),
    "complex reward": (3, change(REWARD, 1j), ContractError, "reward is 1j"),
    "two rewards": (3, change(REWARD, np.ones(2)), ContractError, r"reward is array\(\[1., 1.\]\)"),
    "terminated is None": (3, change(TERMINATED, None), ContractError, "terminated is None"),
    "terminated is 2": (3, change(TERMINATED, 2), ContractError, "terminated is 2"),
    "terminated is a string": (3, change(TERMINATED, "False"), ContractError, "terminated is 'False'"),
    "truncated is 0.5": (3, change(TRUNCATED, 0.5), ContractError, "truncated is 0.5"),
    "truncated is NaN": (3, change(TRUNCATED, np.nan), ContractError, "truncated is nan"),
    "truncated is two flags": (3, change(TRUNCATED, np.zeros(2, bool)), ContractError, "truncated is array"),
    "info is None": (3, change(INFO, None), ContractError, "info is None"),
    "old interface": (3, lambda a: (a[0], 1.0, False, {}), ContractError, "4 values, which is the old Gym"),
    "three values": (3, lambda a: a[:3], ContractError, "step returned"),
    "no tuple": (3, lambda a: None, ContractError, "step returned None"),
    "step raises": (3, explode(ValueError("motor\nbroke 100%")), EnvironmentCrash, "ValueError: motor broke 100%"),
    "step exits": (3, explode(SystemExit(0)), EnvironmentCrash, "step raised SystemExit: 0"),
    "first step raises": (1, explode(ZeroDivisionError()), EnvironmentCrash, "step raised ZeroDivisionError"),
    "reset raises": (0, explode(KeyError("map")), EnvironmentCrash, "reset raised KeyError: 'map'"),
    "reset of NaN": (0, change(OBS, NAN_OBS), ContractError, r"observation\[1\] is nan"),
    "reset returns only an observation": (0, lambda a: a[0], ContractError, "reset returned array"),
    "reset without info": (0, change(1, None), ContractError, "reset returned .*observation, info"),
    "reset returns None": (0, lambda a: None, ContractError, "reset returned None"),
}


class Fragile(gymnasium.Env):
    """Shows that fault, in the episode of `BAD_SEED` only."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,))
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, name):
        self.at, self.fault, *_ = FAULTS[name]

    def reset(self, *, seed=None, options=None):
        self.bad, self.t = seed == BAD_SEED, 0
        return self.answer((np.zeros(2, np.float32), {}))

    def step(self, action):
        self.t += 1
        return self.answer((np.zeros(2, np.float32), 1.0, False, False, {}))

    def answer(self, answer):
        return self.fault(answer) if self.bad and self.t == self.at else answer


def drive(env, vector, **options):
    """Three environments, of which the middle one starts a good and then the bad episode; at most five steps."""
    host = GymnasiumFactory(env, vector, **options).build(3)
    try:
        host.reset(np.array([1, 2, 3]), np.ones(3, bool))
        host.step(np.zeros(3, np.int32))
        host.reset(np.array([1, BAD_SEED, 3]), np.array([False, True, False]))
        for _ in range(5):
            host.step(np.zeros(3, np.int32))
    finally:
        host.close()


def refuses(name, vector):
    at, _, error, says = FAULTS[name]
    with pytest.raises(error, match=says) as caught:
        drive(functools.partial(Fragile, name), vector)
    message = str(caught.value)
    assert "\n" not in message
    assert f"environment 1, {f'step {at}' if at else 'reset'}" in message
    assert "13" in message
    assert "fix the environment" in message


@pytest.mark.parametrize("name", FAULTS)
def test_a_broken_environment_is_named_with_step_and_field(name):
    refuses(name, "sync")


@pytest.mark.parametrize("name", ["NaN observation", "old interface", "step raises", "step exits", "reset raises"])
def test_a_broken_environment_is_named_with_step_and_field_across_processes(name, capfd):
    refuses(name, "async")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "answer",
    [
        (np.zeros(2), np.float64(1), np.bool_(True), 0, {}),
        ([0, 0], np.array([1]), 1, np.array(False), {}),
        (np.zeros(2, int), True, np.int8(1), 0.0, {}),
        ((0.0, 0.0), np.array(1, np.float32), np.array([True]), False, {}),
    ],
)
def test_values_that_mean_the_same_are_read_alike(answer):
    class Plain(Fragile):
        def step(self, action):
            return answer

    host = GymnasiumFactory(lambda: Plain("no tuple")).build(1)
    host.reset(np.zeros(1, int), np.ones(1, bool))
    step = host.step(np.zeros(1, np.int32))
    assert (step.reward[0], step.terminated[0], step.truncated[0]) == (1, True, False)
    assert [array.dtype.name for array in step] == ["float32", "float32", "bool", "bool"]


class Deadly(Fragile):
    """Kills its process, or hangs, at the fault."""

    def __init__(self, how):
        self.at, self.fault = 3, self.hang if how == "hang" else self.die

    @staticmethod
    def die(answer):
        os._exit(9)

    @staticmethod
    def hang(answer):
        time.sleep(600)


@pytest.mark.parametrize(
    ("how", "says"), [("die", "environment 1 died .*9"), ("hang", "environment 1 did not answer")]
)
def test_a_process_that_dies_or_hangs_is_named(how, says, capfd):
    with pytest.raises(EnvironmentCrash, match=says) as caught:
        drive(functools.partial(Deadly, how), "async", env_timeout=3.0 if how == "hang" else 60.0)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
