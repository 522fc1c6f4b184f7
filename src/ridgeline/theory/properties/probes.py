"""The probes, whose answers are known (property 22)."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import jax
import numpy as np

from ridgeline.algorithms import REGISTRY
from ridgeline.environments.probes import PROBE_COUNT, Probe
from ridgeline.theory.probes import kinds, misses, quick, train
from ridgeline.theory.property import Measured, proves

TOLERANCE = 0.1


def learns_the_probes(name: str, full: bool) -> list[Measured]:
    """One algorithm: the worst miss of any seed, for every probe and both runners."""
    with jax.enable_x64(False):  # of this thread alone
        return list(_misses(name, tuple(range(20 if full else 3)), full))


def _misses(name: str, seeds: tuple[int, ...], full: bool) -> Iterator[Measured]:
    algorithm = quick(name)
    for continuous in kinds(algorithm) if full else kinds(algorithm)[:1]:
        for hosted in (False, True):
            for index in range(PROBE_COUNT - 1 if hosted and not full else 0, PROBE_COUNT):
                env = Probe(index, continuous)
                found = misses(algorithm, env, train(algorithm, env, seeds, hosted))
                where = f"{name} {'hosted' if hosted else 'compiled'}{' continuous' * continuous}, probe {index}"
                for what, missed in found.items():
                    learned = int(np.sum(missed <= TOLERANCE))
                    text = f"{where}: {what}, {learned} of {len(seeds)} seeds"
                    yield Measured(text, float(np.max(missed)), TOLERANCE)


@proves(
    22, "the probes, in both runners: greedy actions and values", tuple(REGISTRY), "by hand", learns_the_probes
)
def every_algorithm_learns_the_probes(full: bool) -> list[Measured]:
    """Every algorithm of the registry; on hosts the last probe, the hardest.

    `full`: 20 seeds, each kind of action that it takes, and all probes on hosts too.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # most of the time XLA compiles, which needs no lock
        each = pool.map(partial(learns_the_probes, full=full), REGISTRY)
        return [measure for measures in each for measure in measures]
