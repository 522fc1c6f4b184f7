"""The probes, whose answers are known (property 22)."""

import os
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np

from ridgeline.algorithms import REGISTRY
from ridgeline.environments.probes import PROBE_COUNT, Probe
from ridgeline.theory.probes import kinds, misses, quick, train
from ridgeline.theory.property import Measured, proves

TOLERANCE = 0.1


@proves(22, "five probes, both runners: greedy actions and values", tuple(REGISTRY), "by hand")
def every_algorithm_learns_the_probes(full: bool) -> list[Measured]:
    """Every algorithm of the registry; on hosts the last probe, the hardest.

    `full`: 20 seeds, each kind of action that it takes, and all probes on hosts too.
    """

    def one(name: str) -> list[Measured]:
        with jax.enable_x64(False):  # of this thread alone
            return learns_the_probes(name, full)

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # most of the time XLA compiles, which needs no lock
        return [measure for measures in pool.map(one, REGISTRY) for measure in measures]


def learns_the_probes(name: str, full: bool) -> list[Measured]:
    """One algorithm: the worst miss of any seed, for every probe and both runners."""
    algorithm, seeds, measured = quick(name), tuple(range(20 if full else 3)), []
    for continuous in kinds(algorithm) if full else kinds(algorithm)[:1]:
        for hosted in (False, True):
            for index in range(PROBE_COUNT - 1 if hosted and not full else 0, PROBE_COUNT):
                env = Probe(index, continuous)
                found = misses(algorithm, env, train(algorithm, env, seeds, hosted))
                where = f"{name} {'hosted' if hosted else 'compiled'}{' continuous' * continuous}, probe {index}"
                for what, missed in found.items():
                    learned = int(np.sum(missed <= TOLERANCE))
                    text = f"{where}: {what}, {learned} of {len(seeds)} seeds"
                    measured.append(Measured(text, float(np.max(missed)), TOLERANCE))
    return measured
