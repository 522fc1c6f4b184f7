"""Seeds are independent, and nothing about how a run is cut into chunks changes it."""

import functools
import os
import subprocess
import sys
import tempfile
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import ALGORITHMS, TEN, assert_same, classic, index, numpy_leaves, sampled

from ridgeline.environments.classic import CartPole
from ridgeline.theory.probes import quick
from ridgeline.training.compiled import Lane
from ridgeline.training.runner import Compiled
from ridgeline.training.summary import count_episodes

TOTAL = 1_000.0
ITERATIONS = 10


def run(name: str, seeds: tuple[int, ...], chunks: tuple[int, ...], total: float = TOTAL, **changes: Any) -> Lane:
    runner = Compiled(quick(name, **changes), classic(name), seeds)
    first = 0
    for count in chunks:
        runner.run(first, count, total)
        first += count
    return runner.lanes


@functools.cache
def alone(name: str, seed: int) -> Lane:
    return index(run(name, (seed,), (ITERATIONS,)), 0)


@pytest.mark.parametrize("name", sampled(ALGORITHMS))
def test_a_seed_among_ten_is_the_seed_alone(name: str) -> None:
    together = run(name, TEN, (ITERATIONS,))
    for seed in (0, 7):
        assert_same(index(together, seed), alone(name, seed))


@pytest.mark.parametrize("chunks", [(3, 7), (1,) * 10, (0, 10)], ids=str)
@pytest.mark.parametrize("name", sampled(ALGORITHMS))
def test_the_length_of_chunks_changes_nothing(name: str, chunks: tuple[int, ...]) -> None:
    assert_same(index(run(name, (7,), chunks), 0), alone(name, 7))


# What makes an algorithm's schedules constant, and what makes one of them fall.
ANNEALED = ({"learning_rate_anneal": 0.0}, {"learning_rate_anneal": 0.5})
SCHEDULES = dict.fromkeys(ALGORITHMS, ANNEALED) | {"dqn": ({"epsilon_end": 1.0}, {"epsilon_end": 0.0})}


@pytest.mark.parametrize("name", sampled(ALGORITHMS))
def test_the_total_matters_to_schedules_alone(name: str) -> None:
    for changes, same in zip(SCHEDULES[name], (True, False), strict=True):
        short, long = (
            numpy_leaves(run(name, (7,), (ITERATIONS,), total, **changes)) for total in (400.0, 4_000.0)
        )
        assert all((short[leaf] == long[leaf]).all() for leaf in short) == same


@pytest.mark.parametrize("name", ALGORITHMS)
def test_two_seeds_draw_two_networks(name: str) -> None:
    runner = Compiled(quick(name), classic(name), TEN)
    weights = [x for x in numpy_leaves(runner.policies).values() if x.ndim > 2]
    assert weights
    assert all(len({row.tobytes() for row in x}) == len(TEN) for x in weights)


def test_seeds_draw_their_own_environments() -> None:
    """No episode starts as another does, of whatever seed, environment or number."""
    runner = Compiled(quick("dqn"), CartPole(), TEN)
    starts = list(np.asarray(runner.lanes.running.obs).reshape(-1, 4))
    for i in range(20):
        runner.run(i, 1, TOTAL)
        running = runner.lanes.running
        starts += list(np.asarray(running.obs)[np.asarray(running.elapsed) == 0])
    assert len(starts) > len(TEN) * 8
    assert len({start.tobytes() for start in starts}) == len(starts)


# XLA fuses the updates of DDPG and NAF otherwise in a program for two devices, so they round otherwise (runs.md).
SHARED = ("dqn", "pg", "ppo")
# Three seeds on two devices: the second has one to train and one that fills up its share.
SHARED_OUT = f"""
import sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
import jax.numpy as jnp
import numpy as np
from miniatures import classic, numpy_leaves, quick
from ridgeline.training.runner import Compiled
from ridgeline.training.summary import count_episodes

name, path = sys.argv[1:]
runner = Compiled(quick(name), classic(name), (5, 6, 7))
assert runner.mesh.size == 2
(summary,) = runner.run(0, {ITERATIONS}, {TOTAL})
assert summary.episodes.shape == (3,)
assert runner.evaluate(0, 2).returns.shape == (3, 2)
assert all(len(x) == 3 for x in jax.tree.leaves(runner.policies))
np.savez(path, **numpy_leaves(runner.lanes))
"""


@functools.cache
def shared_out(name: str) -> dict[str, np.ndarray]:
    """The lanes of seeds 5, 6 and 7 that two devices shared out."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/lanes.npz"
        subprocess.run([sys.executable, "-c", SHARED_OUT, name, path], env=environment, check=True)
        with np.load(path) as lanes:
            return dict(lanes)


@pytest.mark.parametrize(("seed", "lane"), [(5, 0), (7, 2)])
@pytest.mark.parametrize("name", SHARED)
def test_a_seed_on_one_of_two_devices_is_the_seed_alone(name: str, seed: int, lane: int) -> None:
    expected, lanes = numpy_leaves(alone(name, seed)), shared_out(name)
    assert set(lanes) == set(expected)
    for leaf in lanes:
        np.testing.assert_array_equal(lanes[leaf][lane], expected[leaf], err_msg=leaf)


@pytest.mark.parametrize("first_only", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.5])
def test_what_ended_in_a_rollout_is_counted(share: float, first_only: bool) -> None:
    """Beside one row after another: numbers are small and whole, so sums are exact."""
    draw = np.random.default_rng(0)
    length, columns = 40, 5
    reward = draw.integers(-3, 4, (length, columns)).astype(np.float32)
    ended = draw.random((length, columns)) < share
    total = draw.integers(-9, 9, columns).astype(np.float32)
    elapsed = draw.integers(0, 9, columns).astype(np.int32)
    if first_only:  # whole episodes: they begin with the rollout and end with it at the latest
        total, elapsed = total * 0, elapsed * 0
        ended[-1] = True
    finished, after = count_episodes(*map(jnp.asarray, (reward, ended, total, elapsed)), first_only)

    steps = episodes = returns = lengths = 0
    live, running, length_so_far = np.ones(columns, bool), total.copy(), elapsed.copy()
    for r, e in zip(reward, ended, strict=True):
        steps += live.sum()
        running, length_so_far = running + r, length_so_far + 1
        counted = e & live
        episodes, returns = episodes + counted.sum(), returns + running[counted].sum()
        lengths += length_so_far[counted].sum()
        running, length_so_far = np.where(e, 0, running), np.where(e, 0, length_so_far)
        live &= ~e if first_only else True
    assert tuple(map(float, finished)) == (steps, episodes, returns, lengths)
    if not first_only:
        np.testing.assert_array_equal(after, running)
