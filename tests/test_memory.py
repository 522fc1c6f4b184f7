"""The memory against a deque of rows, walked step by step (property 20)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ridgeline.errors import UsageError
from ridgeline.memory import Batch, Memory, Replay, divergence
from ridgeline.normalisation import ObservationNormaliser
from ridgeline.theory.ring import NUMBERS, SlowMemory, Stream, filled
from ridgeline.types import ArraySpec, Discrete, EnvSpec, Rollout, Steps

GAMMA = 0.9
WINDOWS = (1, 3, 7)
sample = jax.jit(Memory.sample, static_argnums=(2, 3))
sample_prioritised = jax.jit(Memory.sample_prioritised, static_argnums=(2, 3))
prioritise = jax.jit(Memory.prioritise)
add = jax.jit(Memory.add)


@jax.jit
def all_windows(memory: Memory) -> list[Batch]:
    """The windows of every age and column, for each n."""
    ages, columns = jnp.arange(memory.rows), jnp.arange(memory.data.reward.shape[1])
    grid = lambda n: jax.vmap(lambda a: jax.vmap(lambda c: memory.window(a, c, n, GAMMA))(columns))(ages)  # noqa: E731
    return [grid(n) for n in WINDOWS]


def assert_same(actual: Batch, expected: dict[str, np.ndarray]) -> None:
    """Equal in every field, as far as rows are held; `next_action` means something only where it continues."""
    held = len(expected["reward"])
    for name, wanted in expected.items():
        found = np.asarray(getattr(actual, name))[:held]
        found = np.where(expected["continues"], found, 0) if name == "next_action" else found
        tolerance = 1e-6 if name in ("reward", "discount") else 0
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 12])
def test_every_window_is_the_one_found_by_walking(rows):
    """Rollouts as long as the ring, one row shorter, or of any length that does not divide it."""
    length = next((t for t in (5, 4, 3, 2) if t < rows and rows % t), rows)
    num_envs = 1 + rows % 3
    ends = arrays(np.int8, (length, num_envs), elements=st.sampled_from([0, 0, 0, 0, 1, 2, 3]))

    @settings(deadline=None, derandomize=True, max_examples=6)
    @given(st.lists(ends, min_size=1, max_size=2 + 2 * rows // length))
    def check(rollouts):
        memory, slow = filled(rows, num_envs, rollouts)
        assert memory.filled == len(slow.columns[0])
        for n, batch in zip(WINDOWS, all_windows(memory), strict=True):
            assert_same(batch, slow.windows(n, GAMMA))

    check()


def test_one_row_at_a_time_is_the_same_memory():
    """A rollout of one row is written by another instruction than a longer one."""
    ends = np.random.default_rng(0).choice([0, 0, 1, 2], (14, 2))
    whole, _ = filled(5, 2, [ends[:4], ends[4:8], ends[8:12], ends[12:]])
    single, _ = filled(5, 2, list(ends[:, None]))
    jax.tree.map(np.testing.assert_array_equal, whole, single)


ENDS = np.random.default_rng(1).choice([0, 0, 0, 1, 2], (20, 3))


states = pytest.mark.parametrize("rollouts", [[ENDS[:4]], [ENDS[:4], ENDS[4:8]]], ids=["partly filled", "wrapped"])


@states
def test_sample_is_uniform_over_the_transitions_held(rollouts):
    memory, slow = filled(6, 3, rollouts)
    index = np.asarray(sample(memory, jax.random.key(0), 30_000, 3, GAMMA).index)
    observed = np.histogram2d(*index.T, bins=(np.arange(7), np.arange(4)))[0]
    written = len(slow.columns[0])
    assert observed[written:].sum() == 0
    assert scipy.stats.chisquare(observed[:written].ravel()).pvalue > 1e-3


@states
def test_samples_are_windows(rollouts):
    """Rows not yet written are zeros, which no sample may show."""
    memory, slow = filled(6, 3, rollouts)
    batch = sample(memory, jax.random.key(1), 30_000, 3, GAMMA)
    row, column = np.asarray(batch.index).T
    age = (row - (memory.head - memory.filled)) % memory.rows
    assert_same(batch, {name: x[age, column] for name, x in slow.windows(3, GAMMA).items()})
    assert np.all(np.asarray(batch.obs) > 0)
    assert np.all(np.asarray(batch.next_obs) > 0)


def test_one_key_is_one_sample():
    memory, _ = filled(6, 3, [ENDS[:4]])
    a, b, c = (sample(memory, jax.random.key(k), 8, 1, GAMMA) for k in (0, 0, 1))
    np.testing.assert_array_equal(a.obs, b.obs)
    assert not np.array_equal(a.obs, c.obs)


def test_observations_keep_their_dtypes():
    parts = (
        ("camera", ArraySpec((2, 2), "uint8")),
        ("speed", ArraySpec((3,))),
        ("gear", ArraySpec((), "int32", (4,))),
    )
    memory = Memory.create(EnvSpec("car", parts, Discrete(2)), 4, 2)
    expected = {"camera": ((4, 2, 2, 2), "uint8"), "speed": ((4, 2, 3), "float32"), "gear": ((4, 2), "int32")}
    for stored in (memory.data.obs, memory.data.next_obs):
        assert {name: (x.shape, x.dtype) for name, x in stored.items()} == expected
    assert sample(memory, jax.random.key(0), 8, 3, GAMMA).obs["camera"].dtype == "uint8"


def test_capacity_counts_transitions():
    assert Replay(capacity=100).begin(NUMBERS, 8, (), False).memory.data.reward.shape == (12, 8)


@pytest.mark.parametrize(
    ("batch_size", "rollout", "named"), [(65, 8, "batch_size 65"), (8, 33, "num_envs . rollout_length 66")]
)
def test_what_does_not_fit_is_refused(batch_size, rollout, named):
    with pytest.raises(UsageError, match=f"^{named} exceeds the memory's capacity 64"):
        Replay(capacity=64, batch_size=batch_size).check(2, rollout)


def test_what_just_fits_is_accepted():
    Replay(capacity=64, batch_size=64).check(2, 32)


UPDATES, WARMUP = 5, 100


class Negative(ObservationNormaliser):
    """Reads every observation with its sign changed."""

    def __call__(self, obs):
        return -obs


@pytest.fixture(scope="module")
def study():
    """Study one rollout after `taken` steps, with a learner that notes each call: its random number, its batch."""
    replay = Replay(capacity=18, batch_size=4, warmup=WARMUP, updates=UPDATES, window=3)
    x = Stream().rollout(ENDS[:4])
    rollout = Rollout(x._replace(reward=-1 - jnp.abs(x.reward)), ())

    def learn(key, learner, batch, steps):
        calls, numbers, starts = learner
        learner = calls + 1, numbers.at[calls].set(jax.random.uniform(key)), starts.at[calls].set(batch.obs)
        metrics = {"train/calls": calls.astype(float), "train/q_max": jnp.full((), 7.0)}
        return learner, metrics, batch.reward

    @jax.jit
    def run(taken):
        learner = jnp.zeros((), jnp.int32), jnp.zeros(UPDATES + 1), jnp.zeros((UPDATES + 1, 4))
        steps = Steps(taken, jnp.asarray(1e6), jnp.zeros((), jnp.int32))
        state = replay.begin(NUMBERS, 3, learner, False)
        state = dataclasses.replace(state, normaliser=Negative({}))
        state, metrics = replay.study(jax.random.key(0), state, rollout, steps, GAMMA, learn)
        return state.learner, state.memory, metrics

    return lambda taken: run(jnp.asarray(taken, float))


def test_warm_up_stores_and_learns_nothing(study):
    (calls, numbers, _), memory, metrics = study(WARMUP - 1)
    assert calls == 0
    assert memory.filled == 4
    assert not numbers.any()
    assert np.isnan(metrics["train/calls"])


@pytest.mark.parametrize("taken", [WARMUP, 10 * WARMUP])
def test_after_warm_up_it_learns_exactly_so_many_times(study, taken):
    (calls, numbers, _), memory, metrics = study(taken)
    assert calls == UPDATES
    assert memory.filled == 4
    assert len(np.unique(numbers)) == UPDATES + 1
    assert metrics["train/calls"] == np.mean(range(UPDATES))


def test_each_minibatch_is_drawn_anew_from_the_rollout_just_stored(study):
    """The learner sees observations through `read`, here a change of sign."""
    (_, _, starts), memory, _ = study(WARMUP)
    assert len(np.unique(starts[:UPDATES], axis=0)) == UPDATES
    assert np.isin(starts[:UPDATES], -memory.data.obs[:4]).all()


def test_divergence_is_measured_against_the_largest_reward_yet(study):
    _, memory, metrics = study(WARMUP)
    largest = max(1.0, np.abs(memory.data.reward).max())
    assert metrics["train/divergence"] == pytest.approx(7 * (1 - GAMMA) / largest, rel=1e-5)
    assert np.isnan(study(WARMUP - 1)[2]["train/divergence"])


def test_observations_alone_are_read_through_a_function():
    memory, _ = filled(6, 3, [ENDS[:4]])
    batch = sample(memory, jax.random.key(0), 8, 1, GAMMA)
    both = {"obs": -batch.obs, "next_obs": -batch.next_obs}
    jax.tree.map(
        np.testing.assert_array_equal, batch.read_through(jnp.negative), dataclasses.replace(batch, **both)
    )


class Prioritised:
    """The reference beside `SlowMemory`: the mass of every cell by (row, column), and the largest so far."""

    def __init__(self) -> None:
        self.mass: dict[tuple[int, int], float] = {}
        self.largest = 1.0

    def add(self, rows: range, ring: int, num_envs: int) -> None:
        """Rows written by a rollout get the largest mass."""
        self.mass |= {(row % ring, column): self.largest for row in rows for column in range(num_envs)}

    def change(self, index: np.ndarray, mass: np.ndarray) -> None:
        """Masses replaced."""
        self.mass |= {tuple(map(int, i)): float(m) for i, m in zip(index, mass, strict=True)}
        self.largest = max(self.largest, float(mass.max()))


def prioritised_memory(rows: int, num_envs: int, rollouts: int) -> tuple[Memory, SlowMemory, Prioritised]:
    """A ring that rollouts of no divisor's length go through, some masses changed after each of them."""
    random, length = np.random.default_rng(rows), next((t for t in (4, 3, 2) if t < rows and rows % t), rows)
    memory, slow, stream = Memory.create(NUMBERS, rows, num_envs, True), SlowMemory(rows, num_envs), Stream()
    reference = Prioritised()
    for _ in range(rollouts):
        x = stream.rollout(random.choice([0, 0, 0, 1, 2], (length, num_envs)))
        reference.add(range(slow.written, slow.written + length), rows, num_envs)
        memory = add(memory, x)
        slow.add(x)
        held = list(reference.mass)
        index = np.array([held[i] for i in random.permutation(len(held))[: 1 + len(held) // 2]], np.int32)
        mass = random.uniform(0.1, 4, len(index)).astype(np.float32)
        reference.change(index, mass)
        memory = prioritise(memory, jnp.asarray(index), jnp.asarray(mass))
    return memory, slow, reference


every_ring = pytest.mark.parametrize(
    ("rows", "rollouts"), [(1, 3), (2, 3), (3, 2), (4, 5), (5, 3), (6, 4), (7, 1), (7, 4)]
)


@every_ring
def test_masses_follow_the_ring(rows, rollouts):
    """New rows replace the masses of those they overwrite by the largest so far; nothing else changes."""
    num_envs = 1 + rows % 3
    memory, _, reference = prioritised_memory(rows, num_envs, rollouts)
    x = Stream().rollout(np.zeros((1, num_envs), np.int32))
    reference.add(range(int(memory.head), int(memory.head) + 1), rows, num_envs)
    masses = np.asarray(add(memory, x).priorities.mass).reshape(-1)
    found = {(row, column): masses[row * num_envs + column] for row, column in reference.mass}
    assert found == pytest.approx(reference.mass)
    assert np.count_nonzero(masses) == len(reference.mass)


@every_ring
def test_prioritised_samples_are_windows_in_proportion_to_their_masses(rows, rollouts):
    num_envs, beta, count = 1 + rows % 3, 0.7, 128
    memory, slow, reference = prioritised_memory(rows, num_envs, rollouts)
    keys = jax.random.split(jax.random.key(0), 100)
    draws = jax.vmap(lambda key: sample_prioritised(memory, key, count, 3, GAMMA, beta))(keys)
    flat = jax.tree.map(lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), draws)
    row, column = flat.index.T
    age = (row - int(memory.head) + int(memory.filled)) % rows
    assert_same(flat, {name: x[age, column] for name, x in slow.windows(3, GAMMA).items()})
    total = sum(reference.mass.values())
    chance = {cell: mass / total for cell, mass in reference.mass.items()}
    observed = np.array([np.sum((row == r) & (column == c)) for r, c in chance])
    assert observed.sum() == row.size
    expected = np.array(list(chance.values())) * row.size
    if len(chance) > 1:
        assert scipy.stats.chisquare(observed, expected).pvalue > 1e-3
    weight = np.array([(len(chance) * chance[r, c]) ** -beta for r, c in zip(row, column, strict=True)])
    weight = weight.reshape(-1, count)
    np.testing.assert_allclose(draws.weight, weight / weight.max(1, keepdims=True), rtol=1e-5)


def test_uniform_samples_all_weigh_the_same():
    memory, _ = filled(6, 3, [ENDS[:4]])
    np.testing.assert_array_equal(sample(memory, jax.random.key(0), 8, 3, GAMMA).weight, np.ones(8))
    assert memory.priorities is None


def test_study_gives_each_transition_the_priority_of_its_own_error():
    """mass = (|δ| + 1e-6)^α, δ negative here and different in each cell; what was not drawn keeps its mass."""
    replay = Replay(
        capacity=21, batch_size=4, warmup=0, updates=2, prioritised=True, priority_exponent=0.6, window=3
    )
    rollout, alpha, beta = Rollout(Stream().rollout(ENDS[:4]), ()), 0.6, 0.4 + 0.6 * 0.25

    def learn(key, learner, batch, steps):
        calls, index, weights = learner
        learner = calls + 1, index.at[calls].set(batch.index), weights.at[calls].set(batch.weight)
        error = -10.0 * batch.index[:, 0] - batch.index[:, 1]
        return learner, {"train/q_max": jnp.full((), 7.0)}, error

    @jax.jit
    def run(taken):
        learner = jnp.zeros((), jnp.int32), jnp.zeros((2, 4, 2), jnp.int32), jnp.zeros((2, 4))
        steps = Steps(taken, jnp.asarray(1e4), jnp.zeros((), jnp.int32))
        state = replay.begin(NUMBERS, 3, learner, False)
        state, _ = replay.study(jax.random.key(0), state, rollout, steps, GAMMA, learn)
        return state

    state = run(jnp.asarray(2_500.0))
    _, index, weights = state.learner
    mass = {(row, column): 1.0 for row in range(4) for column in range(3)}
    for drawn, weight in zip(np.asarray(index), np.asarray(weights), strict=True):
        total = sum(mass.values())
        expected = np.array([(12 * mass[tuple(map(int, i))] / total) ** -beta for i in drawn])
        np.testing.assert_allclose(weight, expected / expected.max(), rtol=1e-5)
        mass |= {(int(r), int(c)): (10.0 * r + c + 1e-6) ** alpha for r, c in drawn}
    masses = np.asarray(state.memory.priorities.mass).reshape(-1)[:21].reshape(7, 3)
    np.testing.assert_allclose(masses[:4], [[mass[r, c] for c in range(3)] for r in range(4)], rtol=1e-5)
    assert not masses[4:].any()


def test_divergence_is_what_the_largest_value_is_to_the_largest_return():
    """γ = 0.9: rewards up to 3 are worth 30 at most; up to ½, which counts as 1, at most 10."""
    for reward, expected in ((3.0, 2.0), (0.5, 6.0)):
        found = divergence(jnp.asarray(60.0), jnp.asarray(reward), GAMMA)
        assert found == pytest.approx(expected, rel=1e-5)
    assert divergence(jnp.asarray(60.0), jnp.asarray(1.0), 1.0) == 0
