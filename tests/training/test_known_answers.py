"""Both runners drive every algorithm to the known answers of the probes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import ALGORITHMS, LEARNED, SEEDS, TwinFactory, compilations, quick

from ridgeline.algorithms import REGISTRY
from ridgeline.critics import least, least_values
from ridgeline.environments.probes import PROBE_COUNT, Forever, Probe
from ridgeline.errors import UsageError
from ridgeline.training.hosted import Hosted
from ridgeline.training.runner import Compiled, Runner
from ridgeline.types import Discrete

GAMMA = 0.9
SEEN = {0: (0.0,), 1: (-1.0, 1.0), 2: (0.0, 1.0), 3: (0.0,), 4: (-1.0, 1.0)}
CHOOSING = (3, 4)  # the probes where the action matters


def critic_value(state, obs, action):
    """Q(s, ·) of discrete actions, else Q(s, a)."""
    critics = state.learner.critic.critics
    discrete = isinstance(getattr(critics[0], "spec", None), Discrete)
    return least_values(critics, obs) if discrete else least(critics, obs, action)


# What an algorithm's state holds to be worth: V(s), Q(s, a*), or Q(s, a) for each a; PG holds nothing.
VALUES = dict.fromkeys(("ac", "sac", "ddpg", "td3", "naf", "qsearch"), critic_value) | {
    "dqn": lambda state, obs, action: state.learner.online(obs),
    "pg": lambda state, obs, action: jnp.nan,
    "ppo": lambda state, obs, action: state.policy.network.state_value(obs),
    "trpo": lambda state, obs, action: state.critic.critics(obs),
    "vpg": lambda state, obs, action: state.value.critics(obs),
}


def accepts(name: str, continuous: bool) -> bool:
    try:
        quick(name).check(Probe(0, continuous).spec)
    except UsageError:
        return False
    return True


KINDS = [(name, continuous) for name in ALGORITHMS for continuous in (False, True) if accepts(name, continuous)]
VALUED = [(name, kinds[0]) for name in ALGORITHMS if name != "pg" if (kinds := [c for n, c in KINDS if n == name])]
both_runners = pytest.mark.parametrize("hosted", [False, True], ids=["compiled", "hosted"])


def make(algorithm, env, hosted: bool) -> Runner:
    return Hosted(algorithm, TwinFactory(env, SEEDS), SEEDS) if hosted else Compiled(algorithm, env, SEEDS)


def train(algorithm, env, hosted: bool, iterations: int = LEARNED):
    runner = make(algorithm, env, hosted)
    runner.run(0, iterations, float(iterations * algorithm.num_envs * algorithm.rollout_length))
    return runner.states


@jax.jit
def answers(algorithm, states, obs):
    """Greedy actions and values [S, X] at the observations."""
    values = VALUES[next(name for name, record in REGISTRY.items() if type(algorithm) is record)]

    def answer(state, x):
        policy = algorithm.policy(state)
        action = algorithm.greedy(jax.random.key(0), policy, (), x)[0]
        return action, jnp.asarray(values(state, x, action))

    return jax.vmap(jax.vmap(answer, (None, 0)), (0, None))(states, obs)


@both_runners
@pytest.mark.parametrize("probe", range(PROBE_COUNT))
@pytest.mark.parametrize(("name", "continuous"), KINDS)
def test_learns_the_known_answers(name: str, continuous: bool, probe: int, hosted: bool) -> None:
    algorithm, env = quick(name), Probe(probe, continuous)
    states = train(algorithm, env, hosted)
    actions, values = map(np.asarray, answers(algorithm, states, jnp.array([[-1.0], [0.0], [1.0]])))
    for x in SEEN[probe]:
        obs, at = jnp.array([x]), int(x) + 1
        if probe in CHOOSING:
            expected = np.broadcast_to(env.optimal_action(obs), actions[:, at].shape)
            np.testing.assert_allclose(actions[:, at], expected, atol=0.1)
        if name == "pg":
            continue
        if values.ndim == 2:
            np.testing.assert_allclose(values[:, at], env.value(obs, GAMMA), atol=0.1)
        else:
            for a in (0, 1):
                expected = env.action_value(obs, jnp.int32(a), GAMMA)
                np.testing.assert_allclose(values[:, at, a], expected, atol=0.1)


@both_runners
@pytest.mark.parametrize(("name", "continuous"), VALUED)
def test_a_truncated_episode_is_worth_as_if_it_went_on(name: str, continuous: bool, hosted: bool) -> None:
    algorithm = quick(name)
    states = train(algorithm, Forever(continuous=continuous), hosted)
    _, values = answers(algorithm, states, jnp.ones((1, 1)))
    np.testing.assert_allclose(values, 1 / (1 - GAMMA), atol=0.1)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_one_compilation_serves_all_probes(name: str) -> None:
    algorithm, continuous = quick(name), not accepts(name, False)
    train(algorithm, Probe(0, continuous), hosted=False, iterations=1)
    with compilations() as compiled:
        for probe in range(PROBE_COUNT):
            train(algorithm, Probe(probe, continuous), hosted=False, iterations=1)
    assert compiled == []


def test_a_static_network_that_never_moves_is_what_targets_are_made_of() -> None:
    algorithm = quick("dqn", tau=0.0)
    runner = make(algorithm, Probe(2), hosted=False)
    first = jax.tree.map(jnp.copy, runner.states)
    at_one = answers(algorithm, first, jnp.array([[-1.0], [0.0], [1.0]]))[1][:, 2]
    runner.run(0, LEARNED, 32.0 * LEARNED)
    at_zero = answers(algorithm, runner.states, jnp.array([[-1.0], [0.0], [1.0]]))[1][:, 1]
    expected = np.broadcast_to(GAMMA * np.max(at_one, 1, keepdims=True), at_zero.shape)
    np.testing.assert_allclose(at_zero, expected, atol=0.1)
