"""The probes, whose answers are known (property 22)."""

import jax
import numpy as np

from ridgeline.algorithms import REGISTRY
from ridgeline.environments.probes import PROBE_COUNT, Probe
from ridgeline.theory.probes import LEARNED, kinds, misses, quick, train
from ridgeline.theory.property import Measured, proves

TOLERANCE = 0.1


@proves(22, "five probes, both runners: greedy actions and values", tuple(REGISTRY), "by hand")
def every_algorithm_learns_the_probes(full: bool) -> list[Measured]:
    """Every algorithm of the registry. `full`: 20 seeds, and each kind of action that it takes."""
    with jax.enable_x64(False):
        return [measure for name in REGISTRY for measure in learns_the_probes(name, full)]


def learns_the_probes(name: str, full: bool) -> list[Measured]:
    """One algorithm: the worst miss of any seed, for every probe and both runners."""
    algorithm, seeds, measured = quick(name), tuple(range(20 if full else 3)), []
    for continuous in kinds(algorithm) if full else kinds(algorithm)[:1]:
        for hosted in (False, True):
            for index in range(PROBE_COUNT):
                env = Probe(index, continuous)
                found = misses(algorithm, env, train(algorithm, env, seeds, hosted, 2 * LEARNED))
                where = f"{name} {'hosted' if hosted else 'compiled'}{' continuous' * continuous}, probe {index}"
                for what, missed in found.items():
                    learned = int(np.sum(missed <= TOLERANCE))
                    text = f"{where}: {what}, {learned} of {len(seeds)} seeds"
                    measured.append(Measured(text, float(np.max(missed)), TOLERANCE))
    return measured
