"""How a name becomes an environment, and what is imported on the way."""

import subprocess
import sys

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ridgeline.environments import BACKENDS, ids, make
from ridgeline.environments.classic import CLASSICS, CartPole
from ridgeline.environments.envpool import EnvPoolFactory
from ridgeline.environments.gymnasium import GymnasiumFactory
from ridgeline.environments.stepped import Stepped, SteppedFactory
from ridgeline.errors import EnvironmentCrash, UsageError
from ridgeline.types import ArraySpec, Discrete, EnvSpec, Step


def plain():
    return gymnasium.make("CartPole-v1")


@pytest.mark.parametrize(
    ("env", "backend", "kind"),
    [
        ("CartPole-v1", None, CartPole),
        ("CartPole-v1", "jax", CartPole),
        ("CartPole-v1", "stepped", SteppedFactory),
        ("CartPole-v1", "envpool", EnvPoolFactory),
        ("CartPole-v1", "gymnasium", GymnasiumFactory),
        ("CartPole-v1", "gymnasium-async", GymnasiumFactory),
        ("FrozenLake-v1", None, EnvPoolFactory),
        ("ridgeline.environments.classic:CartPole", None, CartPole),
        ("ridgeline.environments.classic:CartPole", "stepped", SteppedFactory),
        ("gymnasium.envs.classic_control:CartPoleEnv", None, GymnasiumFactory),
        ("gymnasium.envs.classic_control:CartPole-v1", None, GymnasiumFactory),
        (CartPole(), None, CartPole),
        (CartPole(), "stepped", SteppedFactory),
        (CartPole, None, CartPole),
        (plain, None, GymnasiumFactory),
        (plain, "gymnasium-async", GymnasiumFactory),
        (plain(), None, GymnasiumFactory),
        (SteppedFactory(CartPole()), None, SteppedFactory),
        (GymnasiumFactory("CartPole-v1"), None, GymnasiumFactory),
    ],
)
def test_a_name_becomes_what_it_means(env, backend, kind):
    made = make(env, backend)
    assert isinstance(made, kind)
    assert made.spec.observation in (ArraySpec((4,)), ArraySpec((), "int32", (16,)))


def test_gymnasium_is_the_last_to_be_asked():
    gymnasium.register("OnlyHere-v0", gymnasium.registry["CartPole-v1"].entry_point)
    try:
        assert isinstance(make("OnlyHere-v0"), GymnasiumFactory)
    finally:
        gymnasium.registry.pop("OnlyHere-v0")


def test_what_is_made_already_is_returned_as_it_is():
    for env in (CartPole(), SteppedFactory(CartPole())):
        assert make(env) is env


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "jax"])
def test_every_host_backend_builds_and_steps(backend):
    host = make("CartPole-v1", backend).build(2)
    try:
        assert host.reset(np.arange(2), np.ones(2, bool)).shape == (2, 4)
        assert host.step(np.array([0, 1], np.int32)).next_obs.shape == (2, 4)
    finally:
        host.close()


def test_options_reach_the_backend():
    assert make("CartPole-v1", "envpool", max_episode_steps=7).spec.max_episode_steps == 7
    assert make("CartPole-v1", "gymnasium", max_episode_steps=7).spec.max_episode_steps == 7


@pytest.mark.parametrize(
    ("env", "backend", "says"),
    [
        ("CartPol-v1", None, "unknown environment 'CartPol-v1': did you mean .*CartPole-v1"),
        ("CartPol-v1", "jax", "no pure-JAX environment 'CartPol-v1': did you mean .*CartPole-v1"),
        ("CartPol-v1", "stepped", "no pure-JAX environment 'CartPol-v1'"),
        ("CartPol-v1", "gymnasium", "unknown Gymnasium environment 'CartPol-v1': did you mean .*CartPole-v1"),
        ("CartPol-v1", "envpool", "EnvPool has no environment 'CartPol-v1'.*CartPole-v1"),
        ("HalfCheeta-v5", None, "HalfCheetah-v5"),
        ("§§§", None, "write module:Id"),
        ("FrozenLake-v1", "jax", "no pure-JAX environment"),
        ("CartPole-v1", "brax", "unknown backend 'brax': choose one of jax, envpool"),
        ("no_such_module:Id", None, "cannot import no_such_module"),
        ("math:Id", None, "module math neither registers nor holds 'Id'"),
        ("math:pi", None, "3.14.* is not an environment"),
        (3, None, "3 is not an environment"),
        (lambda: 3, None, "environment is 3, not a gymnasium.Env"),
        (CartPole(), "gymnasium", "backend 'gymnasium' cannot run the pure-JAX environment CartPole-v1"),
        (CartPole, "envpool", "backend 'envpool' cannot run the pure-JAX environment"),
        (plain, "jax", "backend 'jax' cannot run"),
        (SteppedFactory(CartPole()), "stepped", "a factory takes no options"),
    ],
)
def test_what_cannot_be_made_is_explained_in_one_line(env, backend, says):
    with pytest.raises(UsageError, match=says) as caught:
        make(env, backend)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("env", ["CartPole-v1", CartPole(), SteppedFactory(CartPole())])
def test_options_without_a_backend_to_take_them_are_refused(env):
    with pytest.raises(UsageError, match="max_episode_steps"):
        make(env, max_episode_steps=7)


def test_a_callable_that_raises_is_a_crash():
    with pytest.raises(EnvironmentCrash, match="ZeroDivisionError"):
        make(lambda: 1 / 0)


def test_the_ids_of_each_backend():
    found = ids()
    assert set(found["jax"]) == set(CLASSICS)
    assert "CartPole-v1" in found["gymnasium"]
    assert "HalfCheetah-v5" in found["envpool"]
    assert all(list(names) == sorted(names) for names in found.values())


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import ridgeline.environments", {"gymnasium", "envpool"}),
        ("from ridgeline.environments import make; make('CartPole-v1')", {"gymnasium", "envpool"}),
        (
            "from ridgeline.environments import make; make('CartPole-v1', 'stepped').build(1)",
            {"gymnasium", "envpool"},
        ),
        ("from ridgeline.environments import make; make('CartPole-v1', 'gymnasium').build(1)", {"envpool"}),
    ],
)
def test_only_what_is_used_is_imported(code, absent):
    report = f"{code}\nimport sys; print(*(set(sys.modules) & {absent!r}))"
    result = subprocess.run([sys.executable, "-c", report], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == ""


class Keys:
    """Observes the key that each call received."""

    spec = EnvSpec("Keys-v0", ArraySpec((2,), "uint32"), Discrete(2), 3)

    def reset(self, key):
        return jnp.zeros(()), jax.random.key_data(key)

    def step(self, key, state, action):
        return state + 1, Step(jax.random.key_data(key), state, jnp.array(False), jnp.array(False))


def test_stepped_keys_are_folded_from_the_seed_and_the_step():
    def data(seed, t):
        return jax.random.key_data(jax.random.fold_in(jax.random.key(seed), t))

    host = Stepped(Keys(), 2)
    obs = host.reset(np.array([5, 6]), np.ones(2, bool))
    np.testing.assert_array_equal(obs, [data(5, 0), data(6, 0)])
    for t in (1, 2, 3):
        step = host.step(np.zeros(2, np.int32))
        np.testing.assert_array_equal(step.next_obs, [data(5, t), data(6, t)])
        np.testing.assert_array_equal(step.reward, [t - 1] * 2)
    np.testing.assert_array_equal(step.truncated, [True, True])
    host.reset(np.array([7, 8]), np.array([True, False]))
    step = host.step(np.zeros(2, np.int32))
    np.testing.assert_array_equal(step.next_obs, [data(7, 1), data(6, 4)])
    np.testing.assert_array_equal(step.reward, [0, 3])


def test_stepped_episode_keys_can_be_replaced():
    class Fixed(Stepped):
        def episode_keys(self, seeds):
            return jax.random.split(jax.random.key(0), len(seeds))

    obs = Fixed(Keys(), 2).reset(np.array([5, 6]), np.ones(2, bool))
    expected = [jax.random.fold_in(key, 0) for key in jax.random.split(jax.random.key(0), 2)]
    np.testing.assert_array_equal(obs, jax.random.key_data(jnp.stack(expected)))
