"""What only Gymnasium's adapter does; what it owes every runner is in test_contract."""

import functools
import importlib.util
import multiprocessing
import os
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from ridgeline.environments.gymnasium import GymnasiumFactory
from ridgeline.errors import EnvironmentCrash, UsageError
from ridgeline.types import ArraySpec, Discrete

VECTORS = ("sync", "async")


class Echo(gymnasium.Env):
    """Observes [the latest action's sum, the step]; refuses an action that is not exactly its space's."""

    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: spaces.Space = spaces.Discrete(2)
    buffer = None

    def __init__(self, action_space=None, observation_space=None, cut=None):
        if action_space is not None:
            self.action_space = action_space
        if observation_space is not None:
            self.observation_space = observation_space
        self.cut = cut
        self.closed = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.look(0), {}

    def step(self, action):
        self.t += 1
        same_kind = isinstance(action, np.ndarray) or not isinstance(self.action_space, spaces.Box)
        exact = action.dtype == self.action_space.dtype and action.shape == self.action_space.shape
        if not (same_kind and exact and self.action_space.contains(action)):
            raise ValueError(f"not mine: {action!r}")
        return self.look(np.sum(action)), float(self.t), False, self.t == self.cut, {}

    def look(self, number):
        self.observation_space.seed(self.t)
        if self.observation_space != Echo.observation_space:
            return self.observation_space.sample()
        return np.array([number, self.t], np.float32)

    def close(self):
        self.closed += 1
        raise RuntimeError("closing fails")


class OneBuffer(Echo):
    """Returns the same array each time."""

    def look(self, number):
        if self.buffer is None:
            self.buffer = np.zeros(2, np.float32)
        self.buffer[:] = number, self.t
        return self.buffer


def start(env, vector="sync", num_envs=1, **options):
    host = GymnasiumFactory(env, vector, **options).build(num_envs)
    return host, host.reset(np.arange(num_envs), np.ones(num_envs, bool))


def test_a_registered_environment_brings_its_limit_and_threshold():
    spec = GymnasiumFactory("CartPole-v1").spec
    assert (spec.id, spec.observation, spec.action) == ("CartPole-v1", ArraySpec((4,)), Discrete(2))
    assert (spec.max_episode_steps, spec.reward_threshold) == (500, 475.0)
    assert GymnasiumFactory("CartPole-v1", max_episode_steps=900).spec.max_episode_steps == 900
    assert GymnasiumFactory(Echo).spec.max_episode_steps is None
    assert GymnasiumFactory(Echo).spec.id == "Echo"


def test_a_limit_longer_than_the_registered_one_is_kept():
    host, _ = start("Pendulum-v1", max_episode_steps=203)
    action = np.zeros((1, 1), np.float32)
    truncated = [bool(host.step(action).truncated[0]) for _ in range(203)]
    assert truncated == [False] * 202 + [True]


def test_a_time_limit_among_the_wrappers_is_found():
    def wrapped():
        return gymnasium.wrappers.NormalizeObservation(gymnasium.wrappers.TimeLimit(Echo(), 7))

    assert GymnasiumFactory(wrapped).spec.max_episode_steps == 7
    assert GymnasiumFactory(wrapped, max_episode_steps=5).spec.max_episode_steps == 5
    with pytest.raises(UsageError, match=r"max_episode_steps is 9, but .* at 7"):
        GymnasiumFactory(wrapped, max_episode_steps=9)
    with pytest.raises(UsageError, match="at least 1"):
        GymnasiumFactory("CartPole-v1", max_episode_steps=0)


@pytest.mark.parametrize("vector", VECTORS)
def test_an_environment_may_truncate_by_itself(vector):
    host, _ = start(functools.partial(Echo, cut=2), vector, 2)
    action = np.zeros(2, np.int32)
    assert not host.step(action).truncated.any()
    step = host.step(action)
    host.close()
    assert step.truncated.all()
    assert not step.terminated.any()


@pytest.mark.parametrize("vector", VECTORS)
@pytest.mark.parametrize(
    ("space", "canonical", "total"),
    [
        (spaces.Discrete(3, start=-4), [0, 2], [-4, -2]),
        (spaces.Box(0, 4, (), np.float64), [[-1], [0.5]], [0, 3]),
        (spaces.Box(0, 4, (2, 1), np.float32), [[-1, 1], [1, 1]], [4, 8]),
        (spaces.MultiBinary((2, 2)), [[0, 1, 1, 0], [1, 1, 1, 1]], [2, 4]),
        (spaces.MultiDiscrete([2, 3], dtype=np.int32, start=[5, 5]), [[0, 2], [1, 2]], [12, 13]),
    ],
)
def test_actions_arrive_in_the_spaces_own_dtype_and_shape(vector, space, canonical, total):
    host, _ = start(functools.partial(Echo, space), vector, 2)
    step = host.step(np.array(canonical, np.float32 if isinstance(space, spaces.Box) else np.int32))
    host.close()
    np.testing.assert_allclose(step.next_obs[:, 0], total)


@pytest.mark.parametrize("vector", VECTORS)
def test_nested_observations_come_flat(vector):
    space = spaces.Dict(
        {
            "image": spaces.Box(0, 255, (2, 2), np.uint8),
            "pair": spaces.Tuple([spaces.Discrete(3, start=1), spaces.Box(-1, 1, (2,), np.float64)]),
            "action_mask": spaces.MultiBinary(2),
        }
    )
    host, obs = start(functools.partial(Echo, observation_space=space), vector, 2)
    step = host.step(np.zeros(2, np.int32))
    host.close()
    for found, t in ((obs, 0), (step.next_obs, 1)):
        space.seed(t)
        sample = space.sample()
        assert {key: (array.shape, array.dtype.name) for key, array in found.items()} == {
            "action_mask": ((2, 2), "bool"),
            "image": ((2, 2, 2), "uint8"),
            "pair/0": ((2,), "int32"),
            "pair/1": ((2, 2), "float32"),
        }
        for row in range(2):
            np.testing.assert_array_equal(found["image"][row], sample["image"])
            np.testing.assert_array_equal(found["action_mask"][row], sample["action_mask"].astype(bool))
            assert found["pair/0"][row] == sample["pair"][0] - 1
            np.testing.assert_array_equal(found["pair/1"][row], sample["pair"][1].astype(np.float32))


@pytest.mark.parametrize("num_envs", [1, 2])
def test_an_array_that_the_environment_reuses_is_not_ours(num_envs):
    host, first = start(OneBuffer, num_envs=num_envs)
    second = host.step(np.ones(num_envs, np.int32)).next_obs
    host.step(np.zeros(num_envs, np.int32))
    np.testing.assert_array_equal(first, [[0, 0]] * num_envs)
    np.testing.assert_array_equal(second, [[1, 1]] * num_envs)


def test_an_instance_serves_as_one_environment_at_a_time_and_stays_open():
    mine = Echo()
    factory = GymnasiumFactory(mine)
    with pytest.raises(UsageError, match=r"cannot serve as 2 environments .*: pass a callable"):
        factory.build(2)
    with pytest.raises(UsageError, match="pass a callable"):
        GymnasiumFactory(mine, "async").build(1)
    host = factory.build(1)
    with pytest.raises(UsageError, match=r"in use.*: pass a callable"):
        factory.build(1)
    host.close()
    factory.build(1).close()
    assert mine.closed == 0


def test_environments_are_closed_and_a_failing_close_is_harmless():
    made = []

    def build():
        made.append(Echo())
        return made[-1]

    host, _ = start(build, num_envs=2)
    host.close()
    assert [env.closed for env in made] == [1, 1, 1]  # the first was opened for its spaces only


def test_a_callable_must_return_new_and_like_environments():
    shared = Echo()
    with pytest.raises(UsageError, match="returned one environment twice"):
        GymnasiumFactory(lambda: shared).build(2)
    sizes = iter([2, 2, 3])
    with pytest.raises(UsageError, match="environment 1 has other spaces"):
        GymnasiumFactory(lambda: Echo(spaces.Discrete(next(sizes)))).build(2)


def test_gymnasiums_own_checker_stays_silent():
    class Sloppy(Echo):
        observation_space = spaces.Box(0, 1, (2,), np.float64)  # float32 outside it: two warnings, if it looked

        def look(self, number):
            return np.array([-7, 0], np.float32)

    gymnasium.register("Sloppy-v0", Sloppy)
    try:
        for env in ("Sloppy-v0", lambda: gymnasium.make("Sloppy-v0")):
            host, obs = start(env)
            host.step(np.zeros(1, np.int32))
            np.testing.assert_array_equal(obs, [[-7, 0]])
    finally:
        gymnasium.registry.pop("Sloppy-v0")


@pytest.mark.parametrize(
    ("env", "error", "says"),
    [
        ("CartPol-v1", UsageError, "unknown Gymnasium environment 'CartPol-v1': did you mean .*CartPole-v1"),
        ("zzzzzz", UsageError, "write module:Id"),
        ("no_such_module:Id-v0", UsageError, "cannot import no_such_module"),
        (lambda: 3, UsageError, "environment is 3, not a gymnasium.Env"),
        (lambda: 1 / 0, EnvironmentCrash, "could not be constructed: ZeroDivisionError: division by zero"),
        (functools.partial(Echo, spaces.Text(3)), UsageError, "action space is Text"),
        (functools.partial(Echo, observation_space=spaces.Text(3)), UsageError, "observation space is Text"),
    ],
)
def test_what_cannot_be_built_is_explained_in_one_line(env, error, says):
    with pytest.raises(error, match=says) as caught:
        GymnasiumFactory(env)
    assert "\n" not in str(caught.value)


def test_options_go_to_gymnasium_and_need_an_id():
    assert GymnasiumFactory("FrozenLake-v1", map_name="8x8").spec.observation == ArraySpec((), "int32", (64,))
    with pytest.raises(UsageError, match=r"CartPole-v1 refused the options .*colour"):
        GymnasiumFactory("CartPole-v1", colour="red")
    with pytest.raises(UsageError, match=r"options .*'colour'"):
        GymnasiumFactory(Echo, colour="red")
    with pytest.raises(UsageError, match="vector is"):
        GymnasiumFactory(Echo, "parallel")


@pytest.mark.parametrize(
    ("asks", "remedy"),
    [
        ('Box2D is not installed, run `pip install "gymnasium[box2d]"`', r"pip install 'ridgeline\[box2d\]'"),
        ("MuJoCo is not installed", r"pip install 'ridgeline\[mujoco\]'"),
        ("ale_py is not installed", "install what it asks for"),
    ],
)
def test_a_missing_dependency_is_named_with_what_installs_it(asks, remedy):
    def build():
        raise gymnasium.error.DependencyNotInstalled(asks)

    with pytest.raises(UsageError, match=remedy):
        GymnasiumFactory(build)


@pytest.mark.skipif(importlib.util.find_spec("mujoco") is not None, reason="MuJoCo is installed")
def test_mujoco_that_is_not_installed():
    with pytest.raises(UsageError, match=r"pip install 'ridgeline\[mujoco\]'"):
        GymnasiumFactory("HalfCheetah-v5")


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported."""

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)

    before = set(gymnasium.registry)
    yield write
    for name in set(gymnasium.registry) - before:
        gymnasium.registry.pop(name)


@pytest.mark.parametrize("vector", VECTORS)
def test_a_module_is_imported_for_the_ids_it_registers(module, vector):
    module(
        f"registers_{vector}",
        "import gymnasium\n"
        "from gymnasium.envs.classic_control import CartPoleEnv\n"
        f"gymnasium.register('Mine-{vector}-v0', lambda **options: CartPoleEnv(**options), max_episode_steps=9)\n",
    )
    host, obs = start(f"registers_{vector}:Mine-{vector}-v0", vector, 2)
    host.close()
    assert obs.shape == (2, 4)
    assert host.spec.max_episode_steps == 9


def test_a_module_that_raises_is_a_crash(module):
    module("raises_on_import", "1 / 0")
    with pytest.raises(EnvironmentCrash, match="importing raises_on_import raised ZeroDivisionError"):
        GymnasiumFactory("raises_on_import:Id-v0")


@pytest.mark.filterwarnings("ignore:builtin type .* has no __module__ attribute:DeprecationWarning")
def test_box2d_runs():
    host, obs = start("LunarLander-v3", num_envs=2)
    assert obs.shape == host.step(np.zeros(2, np.int32)).next_obs.shape == (2, 8)


class FailsInWorker(Echo):
    """Cannot be constructed in another process."""

    def __init__(self):
        super().__init__()
        if multiprocessing.parent_process() is not None:
            raise OSError("no display")


def test_a_constructor_that_fails_in_its_process_is_named(capfd):
    host = GymnasiumFactory(FailsInWorker, "async").build(2)
    with pytest.raises(EnvironmentCrash, match=r"environment . could not be constructed: OSError: no display"):
        host.reset(np.arange(2), np.ones(2, bool))
    host.close()
    assert capfd.readouterr().err == ""


def test_processes_leave_the_interrupt_key_to_the_parent_and_end_with_close():
    host, _ = start(Echo, "async", 2)
    workers = host._workers.processes
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    assert host.step(np.ones(2, np.int32)).next_obs[:, 0].tolist() == [1, 1]
    host.close()
    assert not any(worker.is_alive() for worker in workers)
    host.close()
    with pytest.raises(EnvironmentCrash, match="have ended"):
        host.step(np.ones(2, np.int32))
    assert gymnasium.logger.min_level == gymnasium.logger.WARN
