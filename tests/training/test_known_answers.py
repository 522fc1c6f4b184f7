"""Both runners drive every algorithm to the known answers of the probes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import ALGORITHMS, SAMPLE, SEEDS, compilations, sampled

from ridgeline.environments.probes import PROBE_COUNT, Forever, Probe
from ridgeline.theory.probes import CHOOSING, GAMMA, LEARNED, VALUES, answers, kinds, misses, quick, train
from ridgeline.training.runner import Compiled

KINDS = [(name, continuous) for name in ALGORITHMS for continuous in kinds(quick(name))]
VALUED_SAMPLE = ("dqn", "ddpg", "ppo")
VALUED = [(name, kinds(quick(name))[0]) for name in ALGORITHMS if name in VALUES]


def test_every_algorithm_but_pg_holds_a_value() -> None:
    assert set(ALGORITHMS) - set(VALUES) == {"pg"}


def long_unless(short: bool) -> Any:
    return [] if short else pytest.mark.slow


def case(name: str, continuous: bool, hosted: bool, probe: int) -> Any:
    """The first kind of action alone: compiled the hardest probe, of the sample all; on hosts its hardest.

    `ridgeline verify` takes every algorithm through every probe.
    """
    first, hardest, sample = continuous == kinds(quick(name))[0], probe == PROBE_COUNT - 1, name in SAMPLE
    short = (hardest and sample) if hosted else (hardest or sample)
    return pytest.param(name, continuous, probe, hosted, marks=long_unless(first and short))


RUNS = [case(*kind, hosted, probe) for kind in KINDS for hosted in (False, True) for probe in range(PROBE_COUNT)]


@pytest.mark.parametrize(("name", "continuous", "probe", "hosted"), RUNS)
def test_learns_the_known_answers(name: str, continuous: bool, probe: int, hosted: bool) -> None:
    algorithm, env = quick(name), Probe(probe, continuous)
    found = misses(algorithm, env, train(algorithm, env, SEEDS, hosted))
    compared = {"value": name in VALUES, "action": probe in CHOOSING}
    assert found.keys() == {what for what, known in compared.items() if known}
    assert all((missed <= 0.1).all() for missed in found.values()), found


@pytest.mark.parametrize(
    ("name", "continuous", "hosted"),
    [
        pytest.param(*kind, hosted, marks=long_unless(kind[0] in VALUED_SAMPLE and not hosted))
        for kind in VALUED
        for hosted in (False, True)
    ],
)
def test_a_truncated_episode_is_worth_as_if_it_went_on(name: str, continuous: bool, hosted: bool) -> None:
    algorithm, env = quick(name), Forever(continuous=continuous)
    states = train(algorithm, env, SEEDS, hosted, 2 * LEARNED)
    _, values = answers(algorithm, states, algorithm.begin(env.spec), jnp.ones((1, 1)))
    # Of discrete actions the best: one that is no longer tried may keep an old value.
    best = values.max(-1) if values.ndim == 3 else values
    np.testing.assert_allclose(best, 1 / (1 - GAMMA), atol=0.1)


@pytest.mark.parametrize("name", sampled(ALGORITHMS))
def test_one_compilation_serves_all_probes(name: str) -> None:
    algorithm, continuous = quick(name), kinds(quick(name))[0]
    train(algorithm, Probe(0, continuous), SEEDS, hosted=False, iterations=1)
    with compilations() as compiled:
        for probe in range(PROBE_COUNT):
            train(algorithm, Probe(probe, continuous), SEEDS, hosted=False, iterations=1)
    assert compiled == []


def test_a_static_network_that_never_moves_is_what_targets_are_made_of() -> None:
    algorithm = quick("dqn", tau=0.0)
    runner = Compiled(algorithm, Probe(2), SEEDS)
    first = jax.tree.map(jnp.copy, runner.states)
    at_one = answers(algorithm, first, (), jnp.array([[-1.0], [0.0], [1.0]]))[1][:, 2]
    runner.run(0, LEARNED, 32.0 * LEARNED)
    at_zero = answers(algorithm, runner.states, (), jnp.array([[-1.0], [0.0], [1.0]]))[1][:, 1]
    expected = np.broadcast_to(GAMMA * np.max(at_one, 1, keepdims=True), at_zero.shape)
    np.testing.assert_allclose(at_zero, expected, atol=0.1)
