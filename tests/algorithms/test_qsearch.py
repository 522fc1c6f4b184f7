"""Q-learning by search: every maximiser in acting and in the target, its cost, and numbers at the edges."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import all_finite, assert_same, tiny

from ridgeline.errors import UsageError
from ridgeline.experiments.presets import PRESETS
from ridgeline.maximisers import CEM, CMAES, Sampling
from ridgeline.memory import Batch
from ridgeline.theory.property import QUICK_TO_COMPILE
from ridgeline.types import ArraySpec, Continuous, Discrete, EnvSpec, Steps

SPEC = EnvSpec("Box", ArraySpec((3,)), Continuous(2, (True, True)))
KINDS = {"sampling": Sampling, "cem": CEM, "cma_es": CMAES}
random = np.random.default_rng(0)
learn = jax.jit(lambda algorithm, *rest: algorithm.learn(*rest), compiler_options=QUICK_TO_COMPILE)
greedy = jax.jit(
    jax.vmap(lambda a, *rest: a.greedy(*rest)[0], (None, 0, None, None, 0)), compiler_options=QUICK_TO_COMPILE
)
act = jax.jit(
    jax.vmap(lambda a, *rest: a.act(*rest)[0], (None, 0, None, None, None, None)),
    compiler_options=QUICK_TO_COMPILE,
)


def steps_at(taken: float) -> Steps:
    return Steps(jnp.float32(taken), jnp.float32(100), jnp.int32(0))


def batch_of(count: int, terminal: bool = False) -> Batch:
    """Transitions of noise."""
    obs, next_obs = jnp.asarray(random.normal(size=(2, count, 3)), float)
    action, next_action = jnp.asarray(random.uniform(-1, 1, (2, count, 2)), float)
    reward, ones = jnp.asarray(random.normal(size=count), float), jnp.ones(count)
    discount = jnp.full(count, 0.0 if terminal else 0.9)
    index = jnp.zeros((count, 2), jnp.int32)
    return Batch(obs, action, reward, next_obs, next_action, ones > 0, discount, ones, index)


@pytest.fixture(scope="module")
def state():
    """Of twin critics whose output layers are large enough that actions matter."""
    algorithm = tiny("qsearch", critics=2)
    return jax.jit(lambda a: a.init(jax.random.key(0), SPEC), compiler_options=QUICK_TO_COMPILE)(algorithm)


def grid_maximum(critics, obs):
    """maxₐ minₖ Qₖ(s, a) over 101 × 101 actions, for each observation."""
    axis = jnp.linspace(-1, 1, 101)
    actions = jnp.stack(jnp.meshgrid(axis, axis), -1).reshape(-1, 2)
    each = jnp.stack([jax.vmap(lambda s, c=c: jax.vmap(lambda a: c(s, a))(actions))(obs) for c in critics])
    return np.asarray(jnp.max(jnp.min(each, 0), 1))


@pytest.mark.parametrize("name", KINDS)
def test_the_name_chooses_the_search_and_its_sizes(name):
    search = tiny("qsearch", maximiser=name, population=12, iterations=4, elites=3).search
    assert type(search) is KINDS[name]
    assert search.evaluations == 48 + (name != "sampling")
    if name == "cem":
        assert search.elites == 3
    if name != "sampling":
        assert search.initial_std == pytest.approx(0.7)


@pytest.mark.parametrize("name", KINDS)
def test_greedy_actions_and_targets_are_near_the_maximum_of_a_grid(state, name):
    """Of the online critics when acting, of the copies in the target."""
    algorithm = tiny("qsearch", critics=2, maximiser=name, population=30, iterations=8)
    batch, learner = batch_of(8), state.learner
    keys = jax.random.split(jax.random.key(1), 8)
    chosen = greedy(algorithm, keys, algorithm.policy(state), (), batch.obs)
    critics = learner.critic.critics
    reached = np.min([jax.vmap(critic)(batch.obs, chosen) for critic in critics], 0)
    best = grid_maximum(critics, batch.obs)
    np.testing.assert_allclose(reached, best, atol=0.1)
    assert np.abs(chosen).max() <= 1

    copies = dataclasses.replace(learner.static, each=jax.tree.map(lambda x: 1.5 * x, learner.static.each))
    moved = dataclasses.replace(learner, static=copies)
    _, _, error = learn(algorithm, jax.random.key(0), moved, batch, steps_at(50))
    q = np.mean([jax.vmap(critic)(batch.obs, batch.action) for critic in critics], 0)
    target = batch.reward + 0.9 * grid_maximum(copies.each, batch.next_obs)
    np.testing.assert_allclose(q - np.asarray(error), target, atol=0.1)
    assert np.abs(target - batch.reward).max() > 0.3


def test_actions_are_uniform_until_the_warm_up_then_the_best_with_noise(state):
    replay = dataclasses.replace(PRESETS["qsearch", "Pendulum-v1"].algorithm.replay, warmup=10)
    algorithm = tiny("qsearch", critics=2, noise_scale=0.1, population=20, iterations=6, replay=replay)
    keys, obs = jax.random.split(jax.random.key(0), 500), jnp.ones(3)
    policy = algorithm.policy(state)
    early = np.asarray(act(algorithm, keys, policy, (), obs, steps_at(9)))
    late = np.asarray(act(algorithm, keys, policy, (), obs, steps_at(10)))
    best = np.asarray(greedy(algorithm, keys[:1], policy, (), obs[None]))[0]
    assert np.std(early, 0) == pytest.approx(1 / np.sqrt(3), rel=0.1)
    assert np.abs(late).max() <= 1
    assert np.median(np.abs(late - best), 0).max() < 0.2


def test_the_copies_follow_by_tau(state):
    algorithm = tiny("qsearch", critics=2, tau=0.25)
    later, _, _ = learn(algorithm, jax.random.key(0), state.learner, batch_of(8), steps_at(50))
    expected = jax.tree.map(lambda o, n: o + 0.25 * (n - o), state.learner.static.each, later.critic.critics)
    assert_same(later.static.each, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("scale", [0.0, 1e12])
def test_flat_and_steep_critics_stay_finite(state, scale):
    algorithm = tiny("qsearch", critics=2, maximiser="cma_es")
    critics = jax.tree.map(lambda x: scale * x, state.learner.critic.critics)
    learner = dataclasses.replace(state.learner, critic=dataclasses.replace(state.learner.critic, critics=critics))
    _, metrics, error = learn(algorithm, jax.random.key(0), learner, batch_of(8, terminal=True), steps_at(50))
    assert all_finite(error)
    assert np.isfinite(metrics["train/q_value"])


def test_terminal_rows_are_worth_their_reward(state):
    batch = batch_of(8, terminal=True)
    _, _, error = learn(tiny("qsearch", critics=2), jax.random.key(0), state.learner, batch, steps_at(50))
    q = np.mean([jax.vmap(critic)(batch.obs, batch.action) for critic in state.learner.critic.critics], 0)
    np.testing.assert_allclose(q - np.asarray(error), batch.reward, rtol=1e-4, atol=1e-5)


def test_the_preset_evaluates_q_at_most_six_thousand_times_an_update():
    record = PRESETS["qsearch", "Pendulum-v1"].algorithm
    assert record.maximiser == "cem"
    assert record.critics * record.replay.batch_size * record.search.evaluations <= 6_000


@pytest.mark.parametrize(
    ("action", "changes", "message"),
    [
        (Discrete(3), {}, "bounded Continuous"),
        (Continuous(2, (True, False)), {}, "bounded Continuous"),
        (SPEC.action, {"elites": 9, "population": 8}, "9 elites of 8 samples"),
    ],
)
def test_what_cannot_be_searched_is_refused(action, changes, message):
    with pytest.raises(UsageError, match=message):
        tiny("qsearch", **changes).check(EnvSpec("Other", ArraySpec((3,)), action))
