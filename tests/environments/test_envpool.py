"""What only EnvPool's adapter does; what it owes every runner is in test_contract."""

import sys

import numpy as np
import pytest

from ridgeline.environments.envpool import EnvPoolFactory, ids
from ridgeline.errors import ContractError, NumericalError, UsageError
from ridgeline.types import ArraySpec, Continuous, Discrete

pytest.importorskip("envpool")


@pytest.fixture
def start():
    """Builds a pool, resets all of it and closes it afterwards."""
    built = []

    def start(env, seeds=(1, 2, 3), **options):
        host = EnvPoolFactory(env, **options).build(len(seeds))
        built.append(host)
        return host, host.reset(np.array(seeds), np.ones(len(seeds), bool))

    yield start
    for host in built:
        host.close()


@pytest.mark.parametrize(
    ("env", "observation", "action", "limit"),
    [
        ("CartPole-v1", ArraySpec((4,)), Discrete(2), 500),
        ("FrozenLake-v1", ArraySpec((), "int32", (16,)), Discrete(4), 100),
        ("Blackjack-v1", ArraySpec((3,), "int32"), Discrete(2), None),
        ("LunarLanderContinuous-v3", ArraySpec((8,)), Continuous(2, (True, True)), 1000),
        ("HalfCheetah-v5", ArraySpec((17,)), Continuous(6, (True,) * 6), 1000),
        ("Pendulum-v1", ArraySpec((3,)), Continuous(1, (True,)), 200),
    ],
)
def test_an_environment_runs_as_its_spec_says(start, env, observation, action, limit):
    host, obs = start(env)
    assert (host.spec.observation, host.spec.action, host.spec.max_episode_steps) == (observation, action, limit)
    size = () if isinstance(action, Discrete) else (action.size,)
    step = host.step(np.zeros((3, *size), np.int32 if isinstance(action, Discrete) else np.float32))
    for found in (obs, step.next_obs):
        assert (found.shape, found.dtype.name) == ((3, *observation.shape), observation.dtype)
    assert [array.dtype.name for array in step[1:]] == ["float32", "bool", "bool"]


def test_canonical_actions_are_rescaled(start):
    # Pendulum: θ̈ = 3/2 g/l sin θ + 3/(m l²) u, so one more unit of torque turns it 3 · 0.05 faster.
    speeds = []
    for canonical in (0.0, 0.5):
        host, _ = start("Pendulum-v1", [1])
        speeds.append(host.step(np.full((1, 1), canonical, np.float32)).next_obs[0, 2])
    assert speeds[1] - speeds[0] == pytest.approx(0.15, abs=1e-5)


def test_the_first_seeds_decide_later_episodes_too(start):
    latter = []
    for later_seed in (4, 5):
        host, _ = start("CartPole-v1")
        host.step(np.zeros(3, np.int32))
        latter.append(host.reset(np.full(3, later_seed), np.array([False, True, False]))[1])
    np.testing.assert_array_equal(latter[0], latter[1])
    host, first = start("CartPole-v1")
    assert not np.array_equal(first[1], latter[0])


def test_of_large_seeds_31_bits_count(start):
    _, first = start("CartPole-v1", [2**32 - 1, 2**31, 0])
    assert not np.array_equal(first[0], first[2])
    np.testing.assert_array_equal(first[1], first[2])


@pytest.mark.parametrize(
    ("env", "actions", "error"),
    [
        ("CartPole-v1", np.zeros(2, np.int32), UsageError),
        ("CartPole-v1", np.zeros((3, 1), np.int32), UsageError),
        ("CartPole-v1", np.array([0, 1, 2]), UsageError),
        ("CartPole-v1", np.zeros(3), UsageError),
        ("HalfCheetah-v5", np.zeros((3, 5)), UsageError),
        ("HalfCheetah-v5", np.full((3, 6), np.nan), NumericalError),
    ],
)
def test_actions_are_checked_before_they_are_sent(start, env, actions, error):
    host, _ = start(env)
    with pytest.raises(error):
        host.step(actions)


class Lying:
    """A pool whose second environment returns what it should not."""

    def __init__(self, pool, obs=0.0, reward=0.0):
        self.pool, self.obs, self.reward = pool, obs, reward

    def step(self, actions):
        obs, reward, *rest = self.pool.step(actions)
        return obs + np.array([[0], [self.obs], [0]]), reward + np.array([0, self.reward, 0]), *rest

    def close(self):
        self.pool.close()


@pytest.mark.parametrize(
    ("lie", "says"),
    [
        ({"obs": np.nan}, r"environment 1, step 2 of its episode: observation\[0\] is nan"),
        ({"reward": np.inf}, "environment 1, step 2 of its episode: reward is .*inf"),
        ({"reward": np.nan}, "environment 1, step 2 of its episode: reward is .*nan"),
        ({"reward": 1e300}, r"environment 1, step 2 of its episode: reward is .*1e\+300"),
    ],
)
def test_values_are_checked_and_the_first_bad_row_is_named(start, lie, says):
    host, _ = start("CartPole-v1")
    host.step(np.zeros(3, np.int32))
    host._pool = Lying(host._pool, **lie)
    with pytest.raises(ContractError, match=says) as caught:
        host.step(np.zeros(3, np.int32))
    assert "\n" not in str(caught.value)


def test_rows_of_a_partial_reset_are_where_they_belong(start):
    host, _ = start("CartPole-v1", range(8))
    mask = np.array([0, 1, 0, 1, 0, 0, 1, 1], bool)
    for _ in range(5):
        host.step(np.zeros(8, np.int32))
    fresh = host.reset(np.arange(8), mask)
    assert (np.abs(fresh[mask]).max(axis=1) > 0).all()
    assert not fresh[~mask].any()
    step = host.step(np.zeros(8, np.int32))
    # A pole pushed for six steps has speed; one pushed once has little.
    np.testing.assert_array_equal(np.abs(step.next_obs[:, 1]) < 0.5, mask)


@pytest.mark.parametrize(
    ("env", "options", "says"),
    [
        ("CartPol-v1", {}, "EnvPool has no environment 'CartPol-v1'.*CartPole-v1"),
        ("CartPole-v1", {"num_envs": 3}, r"options \['num_envs'\] belong to ridgeline"),
        ("CartPole-v1", {"colour": "red"}, "EnvPool refused CartPole-v1: TypeError: .*colour"),
        ("CartPole-v1", {"max_episode_steps": 0}, "at least 1"),
    ],
)
def test_what_cannot_be_built_is_explained_in_one_line(env, options, says):
    with pytest.raises(UsageError, match=says) as caught:
        EnvPoolFactory(env, **options)
    assert "\n" not in str(caught.value)


def test_envpool_that_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "envpool", None)
    with pytest.raises(UsageError, match=r"pip install 'ridgeline\[envpool\]'"):
        ids()


def test_a_closed_pool_is_freed():
    host = EnvPoolFactory("CartPole-v1").build(1)
    host.close()
    host.reset(np.zeros(1, int), np.ones(1, bool))
    host.close()
    assert host._pool is None
