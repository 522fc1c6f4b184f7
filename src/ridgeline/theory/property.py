"""A property: a number, what it says, and a function that measures by how much the shipped code misses it."""

import dataclasses
import importlib
import math
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax

from ridgeline.errors import UsageError

# For programs that run once: to compile them well would take longer than it saves.
QUICK_TO_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
EVERY = ("every",)  # the systems of a property that concerns them all


@dataclasses.dataclass(frozen=True)
class Measured:
    """One error against a reference, and the most it may be."""

    name: str
    error: float
    tolerance: float

    @property
    def ok(self) -> bool:
        """error ≤ tolerance, which NaN never is."""
        return self.error <= self.tolerance

    @property
    def severity(self) -> float:
        """error / tolerance: above 1 where it fails, whatever the units; infinite for NaN."""
        if not self.ok and (math.isnan(self.error) or not self.tolerance):
            return math.inf
        return self.error / self.tolerance if self.tolerance else 0.0


@dataclasses.dataclass(frozen=True)
class Property:
    """A statement about some systems; `measure(full)` says how far the shipped code is from it."""

    number: int
    title: str
    systems: tuple[str, ...]
    reference: str
    measure: Callable[[bool], list[Measured]]
    alone: Callable[[str, bool], list[Measured]] | None = None  # of one system, where they are measured one by one

    def concerns(self, system: str) -> bool:
        """Whether it is one of the proofs of this system."""
        return self.systems == EVERY or system in self.systems

    def of(self, system: str) -> "Property":
        """The property of this system alone, if it can be told apart."""
        if self.alone is None:
            return self
        return dataclasses.replace(self, systems=(system,), measure=partial(self.alone, system))

    def run(self, full: bool = False) -> "Outcome":
        """Measure in float64. `full` takes more cases and more seeds."""
        begun = time.perf_counter()
        with jax.enable_x64(True):
            measured = self.measure(full)
        return Outcome(self, tuple(measured), time.perf_counter() - begun)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a property's measures came to."""

    proven: Property
    measured: tuple[Measured, ...]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether something was measured, and every measure is within its tolerance."""
        return bool(self.measured) and all(m.ok for m in self.measured)

    @property
    def worst(self) -> Measured:
        """The measure that is nearest to its tolerance, or furthest beyond it."""
        nothing = Measured("nothing was measured", math.nan, 0.0)
        return max(self.measured, key=lambda m: m.severity, default=nothing)


PROPERTIES: dict[int, Property] = {}


def proves(
    number: int,
    title: str,
    systems: tuple[str, ...] = EVERY,
    reference: str = "",
    alone: Callable[[str, bool], list[Measured]] | None = None,
) -> Callable[[Callable[[bool], list[Measured]]], Callable[[bool], list[Measured]]]:
    """Register the function below as the measure of that property. Each number has one."""

    def register(measure: Callable[[bool], list[Measured]]) -> Callable[[bool], list[Measured]]:
        if number in PROPERTIES:
            raise ValueError(f"property {number} is already there: {PROPERTIES[number].title}")
        PROPERTIES[number] = Property(number, title, systems, reference, measure, alone)
        return measure

    return register


def needs(module: str) -> Any:
    """A package of the extra `verify`, imported where it is used. Raises `UsageError` where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UsageError(f"{package} is a reference here and missing: pip install 'ridgeline[verify]'") from None
