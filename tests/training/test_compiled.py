"""Seeds are independent, and nothing about how a run is cut into chunks changes it."""

import os
import subprocess
import sys

import numpy as np
import pytest
from miniatures import ALGORITHMS, assert_same, index, numpy_leaves, quick

from ridgeline.environments.classic import CartPole
from ridgeline.training.runner import Compiled

TOTAL = 1_000.0
SHARED_OUT = """
import jax
jax.config.update("jax_num_cpu_devices", 2)
from miniatures import assert_same, index, quick
from ridgeline.environments.probes import Probe
from ridgeline.training.runner import Compiled

algorithm, seeds = quick("{name}"), (5, 6, 7)
together, alone = Compiled(algorithm, Probe(4), seeds), Compiled(algorithm, Probe(4), (7,))
assert together.mesh.size == 2 and alone.mesh.size == 1
summary, expected = (runner.run(0, 8, 100.0) for runner in (together, alone))
assert_same(index(together.lanes, 2), index(alone.lanes, 0))
assert_same(index(summary, 2), index(expected, 0))
episodes, expected = (runner.evaluate(0, 4) for runner in (together, alone))
assert_same(index(episodes, 2), index(expected, 0))
assert len(summary.episodes) == len(episodes.returns) == len(jax.tree.leaves(together.policies)[0]) == 3
"""


def run(name: str, seeds: tuple[int, ...], chunks: tuple[int, ...] = (10,), total: float = TOTAL, **changes):
    runner = Compiled(quick(name, **changes), CartPole(), seeds)
    first = 0
    for count in chunks:
        runner.run(first, count, total)
        first += count
    return runner.lanes


@pytest.fixture(scope="module", params=ALGORITHMS)
def name(request) -> str:
    return request.param


def test_a_seed_among_ten_is_the_seed_alone(name: str) -> None:
    together = run(name, tuple(range(10)))
    for seed in (0, 7):
        assert_same(index(together, seed), index(run(name, (seed,)), 0))


@pytest.mark.parametrize("chunks", [(3, 7), (1,) * 10], ids=str)
def test_the_length_of_chunks_changes_nothing(name: str, chunks: tuple[int, ...]) -> None:
    assert_same(run(name, (7,), chunks), run(name, (7,)))


def test_no_iterations_change_nothing(name: str) -> None:
    assert_same(run(name, (7,), (0, 10)), run(name, (7,)))


SCHEDULES = {"ppo": ({}, {"learning_rate_anneal": 0.5}), "dqn": ({"epsilon_end": 1.0}, {"epsilon_end": 0.0})}


def test_the_total_matters_to_schedules_alone(name: str) -> None:
    constant, scheduled = SCHEDULES[name]
    short, long = (run(name, (7,), total=total, **constant) for total in (400.0, 4_000.0))
    assert_same(short, long)
    short, long = (numpy_leaves(run(name, (7,), total=total, **scheduled)) for total in (400.0, 4_000.0))
    assert any((short[leaf] != long[leaf]).any() for leaf in short)


def test_two_seeds_share_nothing(name: str) -> None:
    runner = Compiled(quick(name), CartPole(), tuple(range(10)))
    first = np.asarray(runner.lanes.running.obs)
    weights = [x for x in numpy_leaves(runner.policies).values() if x.ndim > 2]
    assert (first[0] != first[1]).all()
    assert weights
    assert all((x[0] != x[1]).any() for x in weights)
    for i in range(20):
        runner.run(i, 1, TOTAL)
        # Where both seeds' environments have just been reset
        running = runner.lanes.running
        fresh = np.asarray((running.elapsed == 0) & (running.episode == 1))
        for n in range(fresh.shape[1]):
            starts = np.asarray(running.obs)[fresh[:, n], n]
            assert len({row.tobytes() for row in starts}) == len(starts)


def test_seeds_shared_out_over_devices_are_the_seeds_alone(name: str) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    script = SHARED_OUT.format(name=name)
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
