"""Maximisers one by one: each against NumPy or closed form, in the box, counted, and finite where all is equal."""

import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ridgeline.errors import UsageError
from ridgeline.maximisers import (
    CEM,
    CMAES,
    MAXIMISERS,
    Best,
    CMAState,
    Maximiser,
    Sampling,
    ask,
    better_of,
    cma_constants,
    decompose,
    ranking,
    refit,
    tell,
)

RECORDS = [Sampling(40), CEM(population=12, elites=4, iterations=4), CMAES(population=8, iterations=5)]
every_record = pytest.mark.parametrize("record", RECORDS, ids=lambda r: type(r).__name__)
KEY, INF, NAN = jax.random.key(5), math.inf, math.nan


def peak(a: jax.Array) -> jax.Array:
    """A maximum at 0.3 in every entry, with unequal curvatures."""
    return -jnp.sum((jnp.arange(a.size) + 1) * (a - 0.3) ** 2)


def search(
    record: Maximiser, f: Callable[[jax.Array], jax.Array] = peak, d: int = 2, key: jax.Array = KEY
) -> Best:
    """What is found, as NumPy."""
    return jax.tree.map(np.asarray, jax.jit(lambda key: record(key, f, d))(key))


def evaluated(
    record: Maximiser, f: Callable[[jax.Array], jax.Array], d: int
) -> tuple[Best, np.ndarray, np.ndarray]:
    """What is found, and every action that was evaluated with its value, in some order."""
    actions, values = [], []

    def note(a: np.ndarray, value: np.ndarray) -> None:
        actions.append(np.asarray(a))
        values.append(float(value))

    def noting(a: jax.Array) -> jax.Array:
        value = f(a)
        jax.debug.callback(note, a, value)
        return value

    best = search(record, noting, d)
    jax.effects_barrier()
    return best, np.stack(actions), np.array(values)


def test_ranks_fall_with_the_value_and_nan_is_last():
    values = [1.0, NAN, -INF, 3.0, 1.0, INF, -3e38]
    assert ranking(jnp.array(values), 7).tolist() == [5, 3, 0, 4, 6, 2, 1]
    assert ranking(jnp.array(values), 2).tolist() == [5, 3]


@pytest.mark.parametrize(
    ("a", "b", "expected"), [(1.0, 2.0, 1), (2.0, 1.0, 0), (1.0, 1.0, 0), (NAN, -INF, 1), (NAN, NAN, 0)]
)
def test_the_better_of_two_is_the_first_where_they_are_equal(a, b, expected):
    two = [Best(jnp.array([float(i)]), jnp.array(value)) for i, value in enumerate((a, b))]
    assert better_of(*two).action.tolist() == [expected]


@every_record
@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize(
    "f", [lambda a: peak(3 * a - 4), lambda a: jnp.sin(1e3 * jnp.sum(a))], ids=["edge", "rugged"]
)
def test_the_best_of_all_that_was_evaluated_in_bounds_and_as_often_as_said(record, f, d):
    """On a slope to a corner most samples are clipped; where values are as good as random, any may be best."""
    best, actions, values = evaluated(record, f, d)
    assert len(values) == record.evaluations
    assert np.max(np.abs(actions)) <= 1
    assert best.value == values.max()
    assert any((action == best.action).all() for action in actions[values == values.max()])


@every_record
def test_the_maximum_is_approached(record):
    error = np.max(np.abs(search(record).action - 0.3))
    assert error < {Sampling: 0.25, CEM: 0.05, CMAES: 0.1}[type(record)]


def test_uniform_samples_fill_the_box():
    keys = jax.random.split(KEY, 4000)
    actions = np.asarray(jax.vmap(lambda key: Sampling(1)(key, peak, 2).action)(keys))
    assert actions.min() < -0.99
    assert actions.max() > 0.99
    np.testing.assert_allclose(actions.mean(0), 0, atol=0.05)
    np.testing.assert_allclose(actions.var(0), 1 / 3, atol=0.03)


@pytest.mark.parametrize("min_std", [0.0, 0.8])
def test_elites_are_fitted_by_their_mean_and_deviation(min_std):
    elites = np.random.default_rng(0).uniform(-1, 1, (7, 3)).astype(np.float32)
    mean, std = refit(jnp.asarray(elites), min_std)
    by_hand = sum(elites) / 7
    np.testing.assert_allclose(mean, by_hand, rtol=1e-5)
    deviation = np.sqrt(sum((row - by_hand) ** 2 for row in elites) / 7)
    np.testing.assert_allclose(std, np.maximum(deviation, min_std), rtol=1e-5)
    assert refit(jnp.ones((4, 2)), min_std)[1].tolist() == pytest.approx([min_std] * 2)


def test_the_floor_of_the_deviation_keeps_the_search_alive():
    """One elite has no deviation, so that without the floor every later sample is that elite."""
    _, still, _ = evaluated(CEM(4, 1, 3, min_std=0.0), peak, 1)
    _, alive, _ = evaluated(CEM(4, 1, 3, min_std=0.05), peak, 1)
    assert (len(np.unique(still)), len(np.unique(alive))) == (4, 12)  # the last mean is the last elite


def some_state(d: int) -> CMAState:
    """A decomposed state with a covariance of unequal, turned axes."""
    random = np.random.default_rng(d)
    root = random.normal(size=(d, d))
    state = CMAState.create(jnp.asarray(random.uniform(-1, 1, d), jnp.float32), jnp.asarray(0.3))
    covariance = jnp.asarray(root @ root.T + 0.1 * np.eye(d), jnp.float32)
    return decompose(eqx.tree_at(lambda s: s.covariance, state, covariance))


@pytest.mark.parametrize("d", [1, 3])
def test_points_are_drawn_from_the_ellipse(d):
    """(x − m)ᵀC⁻¹(x − m)/σ² is ‖z‖² for each point, and the points' covariance is σ²C."""
    state, constants, count = some_state(d), cma_constants(d, 4), 3000
    points = jax.vmap(lambda key: ask(key, state, constants)[1])(jax.random.split(KEY, count))
    z = jax.vmap(lambda key: jax.random.normal(key, (4, d)))(jax.random.split(KEY, count))
    away = (np.asarray(points) - np.asarray(state.mean)) / 0.3
    lengths = np.einsum("kni,ij,knj->kn", away, np.linalg.inv(state.covariance), away)
    np.testing.assert_allclose(lengths, np.sum(np.asarray(z) ** 2, 2), rtol=2e-3, atol=1e-4)
    covariance = np.cov(away.reshape(-1, d).T).reshape(d, d)
    np.testing.assert_allclose(covariance, state.covariance, atol=0.06 * np.max(state.covariance))


def test_the_covariance_is_decomposed_when_it_is_due():
    """With 20 entries and 4 samples in every second generation, and never before the first."""
    constants = cma_constants(20, 4)
    assert constants.gap == 2
    other = eqx.tree_at(lambda s: s.covariance, CMAState.create(jnp.zeros(20), jnp.asarray(0.5)), 4 * jnp.eye(20))
    axes = jax.jit(lambda t: ask(KEY, eqx.tree_at(lambda s: s.generation, other, t), constants)[0].lengths[0])
    assert [round(float(axes(jnp.asarray(t)))) for t in range(5)] == [1, 1, 2, 1, 2]


def test_a_covariance_that_rounding_made_singular_is_still_decomposed():
    state = eqx.tree_at(lambda s: s.covariance, some_state(2), jnp.array([[1.0, 1.0], [1.0, 1.0 - 1e-6]]))
    lengths = decompose(state).lengths
    assert float(lengths.min()) > 0


def test_the_step_size_moves_by_e_at_most():
    state = eqx.tree_at(lambda s: s.step_path, some_state(2), jnp.array([1e3, 0.0]))
    constants = cma_constants(2, 4)
    after = tell(state, ask(KEY, state, constants)[1], jnp.arange(4.0), constants)
    assert float(after.sigma) == pytest.approx(0.3 * math.e, rel=1e-5)


def test_a_sample_at_the_mean_that_is_the_worst_divides_by_no_0():
    state, constants = some_state(2), cma_constants(2, 4)
    points = ask(KEY, state, constants)[1].at[0].set(state.mean)
    assert np.isfinite(tell(state, points, jnp.arange(4.0), constants).covariance).all()


def test_the_mean_moves_to_the_weighted_best_in_order():
    state, constants = some_state(3), cma_constants(3, 6)
    points = np.random.default_rng(1).uniform(-1, 1, (6, 3)).astype(np.float32)
    after = tell(state, jnp.asarray(points), jnp.array([0.0, 5.0, NAN, 2.0, 4.0, -INF]), constants)
    weights = np.log(3.5) - np.log([1, 2, 3])
    expected = sum(w * points[i] for w, i in zip(weights / weights.sum(), (1, 4, 3), strict=True))
    np.testing.assert_allclose(after.mean, expected, rtol=1e-4)


@pytest.mark.parametrize(("factor", "stalled"), [(0.9, False), (1.2, True)])
def test_the_covariance_path_stalls_while_the_step_path_is_long_for_its_age(factor, stalled):
    """In the first generation p_σ is √(1 − (1 − c_σ)²) of its later length, and its bound 2 + 4/(n + 1) too."""
    state, c = CMAState.create(jnp.zeros(3), jnp.float32(1)), cma_constants(3, 6)
    far = math.sqrt(factor * (2 + 4 / 4) * 3 / c.mu_eff)
    after = tell(state, jnp.full((6, 3), far / math.sqrt(3)), jnp.arange(6.0), c)
    assert (after.covariance_path == 0).all() == stalled


@every_record
@pytest.mark.parametrize(
    "f", [lambda a: 0 * a[0], lambda a: NAN * a[0], lambda a: 0 * a[0] - INF], ids=["0", "NaN", "-inf"]
)
def test_where_all_is_equal_the_answer_is_finite(record, f):
    best = search(record, f)
    assert np.isfinite(best.action).all()
    assert np.array_equal(best.value, np.float32(f(np.zeros(2, np.float32))), equal_nan=True)


@every_record
def test_some_nan_is_passed_over(record):
    """The best number is at the edge of the half plane of NaN."""
    best = search(record, lambda a: jnp.where(a[0] > 0.3, NAN, a[0]))
    assert -0.5 < best.action[0] <= 0.3
    assert best.value == best.action[0]


@every_record
def test_a_key_decides_and_states_are_searched_one_by_one(record):
    """The same under `vmap` over states as for each state alone; another key finds another action."""
    goals = jnp.array([-0.8, 0.1, 0.6, 3.0])
    keys = jax.random.split(KEY, 4)

    def one(key: jax.Array, goal: jax.Array) -> Best:
        return record(key, lambda a: -jnp.sum((a - goal) ** 2), 2)

    together, alone = jax.jit(jax.vmap(one))(keys, goals), jax.jit(one)
    for i in range(4):
        np.testing.assert_allclose(together.action[i], alone(keys[i], goals[i]).action, rtol=1e-4, atol=1e-5)
    assert (alone(keys[0], goals[0]).action == alone(keys[0], goals[0]).action).all()
    assert (alone(keys[1], goals[0]).action != alone(keys[0], goals[0]).action).any()


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (Sampling(0), "Sampling: count is 0: it must be at least 1"),
        (CEM(population=1, elites=1), "CEM: population is 1: it must be at least 2"),
        (CEM(elites=0), "CEM: elites is 0: it must be at least 1"),
        (CEM(iterations=0), "CEM: iterations is 0: it must be at least 1"),
        (CEM(population=4, elites=5), "cem: 5 elites of 4 samples: lower elites"),
        (CMAES(population=1), "CMAES: population is 1: it must be at least 4"),
        (CMAES(population=3), "CMAES: population is 3: it must be at least 4"),
        (CMAES(iterations=0), "CMAES: iterations is 0: it must be at least 1"),
    ],
    ids=str,
)
def test_sizes_that_cannot_be_are_refused(record, message):
    with pytest.raises(UsageError) as by_check:
        record.check()
    with pytest.raises(UsageError) as by_call:
        record(KEY, peak, 2)
    assert str(by_check.value) == str(by_call.value) == message


@pytest.mark.parametrize("record", [CEM(2, 1, 1), CEM(5, 5, 2), CMAES(4, 1), Sampling(1)], ids=str)
def test_the_least_sizes_are_searched(record):
    record.check()
    best, _, values = evaluated(record, peak, 1)
    assert len(values) == record.evaluations
    assert best.value == values.max()


def test_every_maximiser_is_tested():
    assert {type(record) for record in RECORDS} == set(MAXIMISERS.values())
