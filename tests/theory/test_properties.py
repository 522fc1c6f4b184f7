"""Every property of the theory suite holds, and would be seen not to."""

import math

import pytest

from ridgeline.theory.property import Measured, Outcome, Property
from ridgeline.theory.verify import all_properties

# The probes are in tests/training/test_known_answers.py, one by one.
FOUND = [p for p in all_properties() if p.number != 22]


# The probes (22) are what tests/training/test_known_answers.py is about.
CASES = [pytest.param(p, marks=pytest.mark.slow) if p.number == 22 else p for p in FOUND]


@pytest.mark.parametrize("found", CASES, ids=lambda p: f"{p.number}-{p.measure.__name__}")
def test_property_holds(found: Property) -> None:
    outcome = found.run()
    assert outcome.measured
    assert not [m for m in outcome.measured if not m.ok]


@pytest.mark.parametrize(("error", "ok"), [(0.0, True), (1e-3, True), (1.1e-3, False), (math.nan, False)])
def test_a_measure_passes_up_to_its_tolerance(error: float, ok: bool) -> None:
    assert Measured("x", error, 1e-3).ok is ok


def test_the_worst_measure_is_furthest_beyond_its_tolerance() -> None:
    fine, worse = Measured("fine", 1.0, 2.0), Measured("worse", 1e-5, 1e-6)
    nan, exact = Measured("nan", math.nan, 1.0), Measured("exact", 1e-300, 0.0)
    assert Outcome(FOUND[0], (fine, worse), 0.0).worst is worse
    assert Outcome(FOUND[0], (fine, worse, nan), 0.0).worst is nan
    assert Outcome(FOUND[0], (fine, exact, worse), 0.0).worst is exact


def test_measuring_nothing_is_a_failure() -> None:
    assert not Outcome(FOUND[0], (), 0.0).ok
