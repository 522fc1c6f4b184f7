"""The faults that `python -m tools.mutants` puts into copies of the code."""

from tools.mutants.chosen import CHOSEN, chosen


def test_every_chosen_fault_finds_the_code_that_it_changes() -> None:
    assert len(chosen()) == len(CHOSEN)
