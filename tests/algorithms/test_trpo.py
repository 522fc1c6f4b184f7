"""The trust region's solvers against NumPy, what is rejected bit for bit, and numbers at the edges."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import TINY, all_finite, assert_same, numpy_leaves, random_rollout, tiny

from ridgeline.algorithms.trpo import Rows, mean_improvement, mean_kl
from ridgeline.critics import create_critics, state_value
from ridgeline.distributions import Categorical, DiagonalGaussian, Product
from ridgeline.encoders import Architecture
from ridgeline.errors import UsageError
from ridgeline.memory import Batch
from ridgeline.rollouts import Sample
from ridgeline.theory.property import QUICK_TO_COMPILE
from ridgeline.trust_region import backtrack, conjugate_gradient, fisher_vector_product, natural_step, trust_region
from ridgeline.types import ArraySpec, Continuous, Discrete, EnvSpec, Steps

SPEC = EnvSpec("Discrete", ArraySpec((3,)), Discrete(3))
CONTINUOUS = EnvSpec("Continuous", ArraySpec((3,)), Continuous(2, (True, False)))
STEPS = Steps(jnp.float32(8), jnp.float32(100), jnp.int32(1))
RANDOM = np.random.default_rng(0)
FORMS = [{"form": form, "critic": critic} for form in ("constraint", "penalty") for critic in ("v", "q")]
every_form = pytest.mark.parametrize("form", FORMS, ids=lambda x: f"{x['form']}-{x['critic']}")


@functools.partial(jax.jit, static_argnames="spec", compiler_options=QUICK_TO_COMPILE)
def updated(algorithm, rollout, spec=SPEC):
    state = algorithm.init(jax.random.key(0), spec)
    return state, *algorithm.update(jax.random.key(1), state, rollout, STEPS)


def update(spec=SPEC, change=lambda x: x, **changes):
    """(state before, state after, metrics) of one update from a rollout of noise."""
    algorithm = tiny("trpo", **changes)
    rollout = random_rollout(np.random.default_rng(0), algorithm, spec)
    return updated(algorithm, rollout._replace(transitions=change(rollout.transitions)), spec)


def moved(before, after) -> bool:
    first, last = numpy_leaves(before.policy.network), numpy_leaves(after.policy.network)
    return any((first[leaf] != last[leaf]).any() for leaf in first)


# Conjugate gradient


def matrix(size: int, least: float) -> np.ndarray:
    """A symmetric matrix with eigenvalues from `least` to 1."""
    q = np.linalg.qr(np.random.default_rng(size).normal(size=(size, size)))[0]
    return q * np.linspace(least, 1, size) @ q.T


def product_of(a: np.ndarray):
    """The matrix as a product on {"w": 2 × 2, "b": rest}."""

    def product(v):
        y = jnp.asarray(a) @ jnp.concatenate([v["w"].reshape(-1), v["b"]])
        return {"w": y[:4].reshape(2, 2), "b": y[4:]}

    return product


def as_tree(x):
    return {"w": jnp.asarray(x[:4]).reshape(2, 2), "b": jnp.asarray(x[4:])}


def as_vector(tree) -> np.ndarray:
    return np.concatenate([np.ravel(tree["w"]), tree["b"]])


def test_conjugate_gradient_solves():
    with jax.enable_x64(True):
        a, b = matrix(7, 0.01), np.random.default_rng(0).normal(size=7)
        found = conjugate_gradient(product_of(a), as_tree(b), 7, tolerance=1e-12)
        np.testing.assert_allclose(as_vector(found.x), np.linalg.solve(a, b), rtol=1e-8)
        np.testing.assert_allclose(as_vector(found.image), b, rtol=1e-8)
        assert found.residual < 1e-9
        assert 0.01 <= found.curvature <= 1


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_residual_is_that_of_the_answer(iterations):
    with jax.enable_x64(True):
        a, b = matrix(7, 0.01), np.random.default_rng(0).normal(size=7)
        found = conjugate_gradient(product_of(a), as_tree(b), iterations)
        expected = np.linalg.norm(a @ as_vector(found.x) - b) / np.linalg.norm(b)
        assert found.residual == pytest.approx(expected, rel=1e-10)
        assert found.residual > 0.01


def test_conjugate_gradient_stops_once_converged():
    """Of the identity one iteration is enough; a hundred more would divide 0 by 0."""
    b = as_tree(np.arange(1.0, 8, dtype=np.float32))
    one, many = (conjugate_gradient(lambda v: v, b, n) for n in (1, 100))
    assert_same(many.x, one.x)
    assert_same(many.x, b)
    assert all_finite(many)


def hestenes_stiefel(a: np.ndarray, b: np.ndarray, iterations: int, tolerance: float):
    """(x, how many iterations) as in the paper, until ‖r‖ ≤ tolerance · ‖b‖."""
    x, r, p = np.zeros_like(b), b, b
    for i in range(iterations):
        if np.linalg.norm(r) <= tolerance * np.linalg.norm(b):
            return x, i
        alpha = r @ r / (p @ a @ p)
        x, old, r = x + alpha * p, r, r - alpha * (a @ p)
        p = r + (r @ r) / (old @ old) * p
    return x, iterations


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize(("tolerance", "iterations"), [(0.3, 7), (0.03, 7), (0.003, 7), (1e-9, 4), (1e-9, 0)])
def test_conjugate_gradient_stops_where_the_residual_is_small_enough(scale, tolerance, iterations):
    with jax.enable_x64(True):
        a, b = matrix(7, 0.3), scale * np.random.default_rng(0).normal(size=7)
        found = conjugate_gradient(product_of(a), as_tree(b), iterations, tolerance)
        x, taken = hestenes_stiefel(a, b, iterations, tolerance)
        assert (taken < iterations) == (tolerance > 1e-6)
        np.testing.assert_allclose(as_vector(found.x), x, rtol=1e-7)
        assert found.residual == pytest.approx(np.linalg.norm(a @ x - b) / np.linalg.norm(b), rel=1e-7)


def test_the_tolerance_is_1e_6_unless_told():
    """One iteration leaves a residual of 1.5e-6 here, which is not small enough."""
    with jax.enable_x64(True):
        a = jnp.array([1.0, 1 + 3e-6])
        assert conjugate_gradient(lambda v: a * v, jnp.ones(2), 1).residual == pytest.approx(1.5e-6, rel=1e-3)
        assert conjugate_gradient(lambda v: a * v, jnp.ones(2), 9).residual < 1e-12


@pytest.mark.parametrize("last", [0.0, -0.25])
def test_what_was_found_before_a_direction_without_curvature_is_kept(last):
    """The second direction is (0, 1) times a number; x is that of the first iteration."""
    a, b = jnp.array([1.0, last]), jnp.array([2.0, 1.0])
    one, many = (conjugate_gradient(lambda v: a * v, b, n) for n in (1, 10))
    np.testing.assert_array_equal(many.x, one.x)
    assert one.curvature == pytest.approx((4 + last) / 5)
    assert many.curvature <= 0
    assert natural_step(lambda v: a * v, b, 0.01, 1).usable
    assert not natural_step(lambda v: a * v, b, 0.01, 10).usable


def test_curvature_does_not_depend_on_the_length_of_b():
    for length in (1e-3, 1.0, 1e3):
        assert conjugate_gradient(lambda v: 2 * v, length * jnp.ones(3), 5).curvature == 2


@pytest.mark.parametrize(("length", "curvature"), [(0.0, 1.0), (1e18, 1e-3), (np.nan, 1.0), (1.0, 1e-45)])
def test_a_step_of_no_finite_length_is_not_usable(length, curvature):
    """A gradient of 0, one with xᵀAx = ∞, one that is not finite, a curvature below float32's numbers."""
    natural = natural_step(lambda v: curvature * v, jnp.array([length, 0.0]), 0.01, 10)
    assert not natural.usable
    np.testing.assert_array_equal(natural.step, 0)


def test_conjugate_gradient_of_nothing_is_nothing():
    found = conjugate_gradient(lambda v: v, jnp.zeros(3), 10)
    np.testing.assert_array_equal(found.x, 0)
    assert found.residual == 0
    assert found.curvature == np.inf


@pytest.mark.parametrize("least", [-0.5, 0.0])
def test_curvature_tells_where_the_matrix_is_not_positive_definite(least):
    a = np.diag([least, 1.0]).astype(np.float32)
    b = jnp.asarray([1.0, 0.0])
    found = conjugate_gradient(lambda v: jnp.asarray(a) @ v, b, 10)
    assert found.curvature == least
    np.testing.assert_array_equal(found.x, 0)
    natural = natural_step(lambda v: jnp.asarray(a) @ v, b, 0.01, 10)
    assert not natural.usable
    np.testing.assert_array_equal(natural.step, 0)


def test_the_natural_step_is_as_long_as_the_region():
    with jax.enable_x64(True):
        a, b = matrix(7, 0.1), np.random.default_rng(1).normal(size=7)
        natural = natural_step(product_of(a), as_tree(b), 0.03, 20)
        x = np.linalg.solve(a, b)
        np.testing.assert_allclose(as_vector(natural.step), np.sqrt(0.06 / (x @ a @ x)) * x, rtol=1e-5)


def test_no_step_is_taken_once_a_direction_had_no_positive_curvature():
    """The first direction is b itself, along which the matrix is positive: what is found there is not taken."""
    a, b = np.diag([1, 1, -0.5, 1, 1, 1]).astype(np.float32), jnp.asarray([2.0, 1, 0.5, 1, 1, 1])
    natural = natural_step(product_of(a), as_tree(b), 0.01, 10)
    assert (as_vector(natural.solution.x) != 0).any()
    assert not natural.usable
    np.testing.assert_array_equal(as_vector(natural.step), 0)


def test_damping_is_added():
    bend = jnp.array([1.0, 2.0])
    product = fisher_vector_product(lambda t: t, lambda t: jnp.sum(t**2 * bend), jnp.array([3.0, 4.0]), 0.5)
    np.testing.assert_allclose(product(jnp.array([1.0, 1.0])), [2.5, 4.5])


# The line search


@pytest.mark.parametrize(("limit", "fraction"), [(2.0, 1.0), (0.6, 0.5), (0.26, 0.25)])
def test_backtracking_takes_the_first_that_is_accepted(limit, fraction):
    def judge(x):
        return x[0] <= limit, {"at": x[0]}

    found = backtrack(judge, jnp.zeros(2), jnp.array([1.0, 2.0]), 0.5, 10)
    assert found.fraction == fraction
    np.testing.assert_array_equal(found.params, fraction * np.array([1.0, 2.0]))
    assert found.found["at"] == fraction


@pytest.mark.parametrize("step", [1.0, np.nan, np.inf])
@pytest.mark.parametrize("tries", [0, 3])
def test_a_failed_search_returns_the_start_bit_for_bit(step, tries):
    start = jnp.array([-0.0, 1 / 3, 1e-40])

    def judge(x):
        return x[1] < 0, x[1]

    found = backtrack(judge, start, jnp.full(3, step), 0.5, tries)
    assert np.asarray(found.params).tobytes() == np.asarray(start).tobytes()
    assert found.fraction == 0
    assert found.found == 0


def test_tries_are_counted():
    accepted = [
        float(backtrack(lambda x: (x <= 0.3, x), jnp.zeros(()), jnp.ones(()), 0.5, n).fraction) for n in (2, 3)
    ]
    assert accepted == [0, 0.25]


# Equations


class Table:
    """Logits that do not depend on the state."""

    def __init__(self, logits):
        self.logits = jnp.asarray(logits)

    def distribution(self, obs):
        return Categorical(self.logits)


def test_the_divergence_is_of_the_old_policy_from_the_new():
    p, q = np.array([0.7, 0.2, 0.1], np.float32), np.array([0.1, 0.3, 0.6], np.float32)
    obs, none = jnp.zeros((2, 1)), jnp.zeros(2)
    rows = Rows(Sample(obs, none, none, none, none), jax.vmap(Categorical)(jnp.stack([jnp.log(p)] * 2)))
    there, back = np.sum(p * np.log(p / q)), np.sum(q * np.log(q / p))
    assert abs(there - back) > 0.05
    kl = mean_kl(rows, Table(np.log(q)))
    assert kl == pytest.approx(there, rel=1e-5)


def test_the_improvement_is_the_surrogates():
    p, q = np.array([0.7, 0.2, 0.1], np.float32), np.array([0.1, 0.3, 0.6], np.float32)
    action, advantage = jnp.array([0, 2]), jnp.array([-1.0, 3.0])
    sample = Sample(jnp.zeros((2, 1)), action, jnp.log(p)[action], advantage, advantage)
    gain = mean_improvement(Table(np.log(q)), sample)
    ratio = (q / p)[np.asarray(action)]
    assert gain == pytest.approx(np.mean((ratio - 1) * np.asarray(advantage)), rel=1e-5)


def critics_for(spec):
    return create_critics(jax.random.key(3), 1, spec, Architecture((8,), "tanh", False, None))


def test_the_value_of_discrete_actions_is_exact():
    critics, obs, logits = critics_for(SPEC), jnp.ones(3), jnp.array([0.3, -1.0, 2.0])
    value = state_value(jax.random.key(0), Categorical(logits), critics, obs, 1)
    p = np.exp(logits) / np.exp(logits).sum()
    expected = sum(p[a] * float(critics[0](obs, jnp.int32(a))) for a in range(3))
    assert value == pytest.approx(expected, rel=1e-5)


def test_the_value_of_continuous_actions_is_a_mean_of_draws():
    critics, obs = critics_for(CONTINUOUS), jnp.ones(3)
    pi = DiagonalGaussian(jnp.array([0.2, -0.4]), jnp.array([-0.5, 0.3]))
    value = state_value(jax.random.key(0), pi, critics, obs, 20_000)
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), -1).reshape(-1, 2)
    q = jax.vmap(lambda a: critics[0](obs, a))(
        pi.mean[None] + jnp.exp(pi.log_std)[None] * jnp.asarray(grid, jnp.float32)
    )
    expected = np.outer(weights, weights).reshape(-1) @ np.asarray(q) / weights.sum() ** 2
    assert value == pytest.approx(expected, abs=0.02)


def move(gain, divergence, start=(0.0,), curvature=None, delta=0.5, damping=0.0):
    start = jnp.array(start)
    return trust_region(
        start,
        gain,
        divergence,
        fisher_vector_product(lambda x: x, curvature or divergence, start, damping),
        delta,
        damping,
        iterations=3,
        ratio=0.5,
        tries=10,
    )


@pytest.mark.parametrize(
    ("bend", "quartic", "expected"),
    [(0.0, 0.0, 1.0), (1.0, 0.0, 0.5), (100.0, 0.0, 2**-7), (0.0, 1e-6, 0.5), (0.0, 5.0, 0.5)],
)
def test_a_step_has_to_be_better_and_within_the_region(bend, quartic, expected):
    """L = θ − bend θ², KL = ½ θ² + quartic θ⁴, from 0 with δ = ½: the full step is 1, where KL is exactly δ."""
    found = move(
        lambda x: jnp.sum(x - bend * x**2),
        lambda x: jnp.sum(0.5 * x**2 + quartic * x**4),
        curvature=lambda x: jnp.sum(0.5 * x**2),
    )
    assert found.fraction == expected
    np.testing.assert_allclose(found.params, expected, rtol=1e-5)
    assert found.predicted_kl == pytest.approx(0.5 * expected**2, rel=1e-5)
    assert found.predicted_gain == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("edge", [0.5, 10.0])
def test_predictions_are_those_of_the_quadratic_model(edge):
    """KL = ½ Σ aᵢ θᵢ², damped by ½, L = 3 θ₀ − 2 θ₁; beyond θ₀ = edge nothing is better."""
    a, g, delta, damping = np.array([1.0, 4.0]), np.array([3.0, -2.0]), 0.3, 0.5
    found = move(
        lambda x: jnp.where(x[0] > edge, -1.0, x @ jnp.array(g, jnp.float32)),
        lambda x: 0.5 * jnp.sum(jnp.array(a, jnp.float32) * x**2),
        (0.0, 0.0),
        delta=delta,
        damping=damping,
    )
    x = g / (a + damping)
    step = np.sqrt(2 * delta / (x @ ((a + damping) * x))) * x
    assert 0.5 < step[0] < 1
    assert found.fraction == (1.0 if edge > 1 else 0.5)
    taken = float(found.fraction) * step
    np.testing.assert_allclose(found.params, taken, rtol=1e-5)
    assert found.predicted_kl == pytest.approx(0.5 * np.sum(a * taken**2), rel=1e-5)
    assert found.predicted_kl == pytest.approx(float(found.kl), rel=1e-5)
    assert found.predicted_gain == pytest.approx(g @ taken, rel=1e-5)
    assert found.predicted_gain == pytest.approx(float(found.gain), rel=1e-5)


@pytest.mark.parametrize("beyond", [np.inf, np.nan])
def test_a_gain_that_is_not_finite_is_not_taken_for_better(beyond):
    found = move(lambda x: jnp.where(x[0] > 0.9, beyond, x[0]), lambda x: 0.5 * jnp.sum(x**2))
    assert found.fraction == 0.5
    assert found.gain == 0.5


def test_without_a_usable_direction_nothing_is_taken_whatever_is_said_of_it():
    """No step, of a gain that is positive at the start itself."""
    found = move(lambda x: 1.0 + x[0], lambda x: -0.5 * jnp.sum(x**2), start=(0.25,))
    assert not found.usable
    assert (found.fraction, found.predicted_kl, found.predicted_gain) == (0, 0, 0)
    np.testing.assert_array_equal(found.params, [0.25])


@functools.partial(jax.jit, compiler_options=QUICK_TO_COMPILE)
def begun(algorithm):
    return algorithm.init(jax.random.key(0), SPEC)


def test_q_rows_say_how_much_better_than_the_policy_an_action_is():
    algorithm = tiny("trpo", critic="q")
    state, x = begun(algorithm), random_rollout(RANDOM, algorithm, SPEC).transitions
    critics = critics_for(SPEC)
    rows = jax.jit(type(algorithm).q_rows)(algorithm, jax.random.key(1), state.policy, critics, x)
    pi = jax.nn.softmax(jax.vmap(jax.vmap(state.policy.network.distribution))(x.obs).logits)
    q = np.asarray(jax.vmap(jax.vmap(critics[0].values))(x.obs))
    chosen = np.take_along_axis(q, x.action[..., None], 2)[..., 0]
    np.testing.assert_allclose(rows.target, chosen, rtol=1e-4)
    np.testing.assert_allclose(rows.advantage, chosen - np.sum(pi * q, 2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(
        rows.log_prob, np.log(np.take_along_axis(pi, x.action[..., None], 2))[..., 0], rtol=1e-4
    )


def test_q_is_fitted_to_the_static_copys_value_of_the_policy():
    algorithm = tiny("trpo", critic="q", tau=0.25)
    state = begun(algorithm)
    learner = state.critic.learner
    learner = dataclasses.replace(learner, static=jax.tree.map(lambda x: x + 0.3, learner.static))
    obs, next_obs = jnp.asarray(RANDOM.normal(size=(2, 4, 3)), float)
    numbers, action, discount = jnp.arange(4.0), jnp.array([0, 2, 1, 0]), jnp.array([0.9, 0.0, 0.9, 0.9])
    ones = jnp.ones(4)
    batch = Batch(obs, action, numbers, next_obs, action, ones > 0, discount, ones, jnp.zeros((4, 2), jnp.int32))
    later, _, error = jax.jit(type(algorithm).fit_q)(
        algorithm, state.policy, jax.random.key(1), learner, batch, STEPS
    )
    pi = jax.nn.softmax(jax.vmap(state.policy.network.distribution)(next_obs).logits)
    value = np.sum(pi * jax.vmap(learner.static[0].values)(next_obs), 1)
    q = jax.vmap(learner.critic.critics[0])(obs, action)
    np.testing.assert_allclose(error, q - (numbers + discount * value), rtol=1e-4, atol=1e-5)
    expected = jax.tree.map(lambda o, n: o + 0.25 * (n - o), learner.static, later.critic.critics)
    assert_same(later.static, expected, rtol=1e-5, atol=1e-7)


# Updates


@every_form
def test_an_update_moves_the_policy_and_says_by_how_much(form):
    before, after, metrics = update(**form)
    assert moved(before, after)
    assert all_finite((after, metrics))
    assert metrics["train/approx_kl"] > 0
    if form["form"] == "constraint":
        assert metrics["train/approx_kl"] <= 0.01
        assert metrics["train/policy_objective"] > 0
        assert metrics["train/approx_kl"] == pytest.approx(metrics["train/predicted_kl"], rel=0.5)
        assert metrics["train/policy_objective"] == pytest.approx(metrics["train/predicted_objective"], rel=0.5)
        assert metrics["train/is_line_search_success"] == 1
        assert metrics["train/curvature_sign"] == 1
        assert metrics["train/cg_residual"] < 0.1


def test_a_region_of_no_size_leaves_the_policy_bit_for_bit():
    before, after, metrics = update(max_kl=0.0)
    assert_same(after.policy.network, before.policy.network)
    assert (after.failed_searches, after.broken_directions) == (1, 0)
    assert metrics["train/failed_searches"] == 1
    assert metrics["train/step_fraction"] == 0
    assert metrics["train/is_line_search_success"] == 0


def test_a_gradient_that_is_not_finite_leaves_the_policy_bit_for_bit_and_is_counted():
    before, after, metrics = update(change=lambda x: x._replace(reward=np.full_like(x.reward, np.nan)))
    assert_same(after.policy.network, before.policy.network)
    assert (after.failed_searches, after.broken_directions) == (0, 1)
    assert metrics["train/broken_directions"] == 1


def alike(x):
    """Every row the same, so that advantages do not vary."""
    one = jax.tree.map(lambda a: np.broadcast_to(a[:1, :1], a.shape).copy(), x)
    return one._replace(terminated=np.ones_like(x.terminated), truncated=np.zeros_like(x.truncated))


EDGES = {
    "δ = 1e-8": {"max_kl": 1e-8},
    "advantages that do not vary": {"change": alike},
    "all terminal": {"change": lambda x: x._replace(terminated=np.ones_like(x.terminated))},
    "all truncated": {"change": lambda x: x._replace(truncated=np.ones_like(x.truncated))},
    "one row": {"num_envs": 1, "rollout_length": 1, "batch_size": 1},
    "huge rewards": {"change": lambda x: x._replace(reward=1e6 * x.reward)},
}


@pytest.mark.parametrize("edge", EDGES)
@every_form
def test_numbers_at_the_edges_are_finite(form, edge):
    _, after, metrics = update(**EDGES[edge] | form)
    assert all_finite(after)
    unmeasured = {"train/explained_variance"} if edge in ("one row", "advantages that do not vary") else set()
    assert all(np.isfinite(value) for name, value in metrics.items() if name not in unmeasured)
    if edge == "δ = 1e-8" and form["form"] == "constraint":
        assert metrics["train/approx_kl"] <= 1e-8


def test_advantages_that_do_not_vary_have_no_direction():
    before, after, _ = update(change=alike)
    assert_same(after.policy.network, before.policy.network)
    assert after.broken_directions == 1


@pytest.mark.parametrize(("target", "factor"), [(1e-9, 2.0), (1e9, 0.5)])
def test_the_penalty_follows_the_divergence(target, factor):
    before, after, _ = update(form="penalty", max_kl=target)
    assert after.penalty.coefficient == factor * before.penalty.coefficient


def test_a_larger_penalty_keeps_the_policy_closer():
    kls = [
        float(update(form="penalty", penalty=c, policy_learning_rate=0.01)[2]["train/approx_kl"])
        for c in (0.0, 100.0)
    ]
    assert kls[1] < 0.5 * kls[0]


def test_with_q_nothing_moves_before_the_warm_up_is_over():
    before, after, metrics = update(critic="q", replay=dataclasses.replace(TINY["replay"], warmup=1_000))
    assert not moved(before, after)
    assert np.isnan(metrics["train/approx_kl"])


def test_fewer_rows_for_the_fisher_matrix_are_another_matrix():
    (_, every, _), (_, some, metrics) = update(), update(fisher_stride=3)
    assert moved(every, some)
    assert 0 < metrics["train/approx_kl"] <= 0.01


def test_several_choices_at_once_have_one_divergence():
    parts = tuple(Categorical(jnp.array(x)) for x in ([0.1, 0.2], [1.0, 0.0, -1.0]))
    assert Product(parts).kl(Product(parts)) == pytest.approx(0, abs=1e-6)


def test_a_batch_that_does_not_divide_the_rollout_is_refused():
    with pytest.raises(UsageError, match="does not divide"):
        tiny("trpo", batch_size=3).check(SPEC)
    tiny("trpo", batch_size=3, critic="q").check(SPEC)
    with pytest.raises(UsageError, match="capacity"):
        tiny("trpo", critic="q", replay=dataclasses.replace(TINY["replay"], capacity=4)).check(SPEC)
