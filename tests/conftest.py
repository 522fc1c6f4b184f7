"""Hostile settings: annotations are enforced, rank promotion raises, warnings are errors (pyproject)."""

import os
import re
from collections.abc import Iterator

# Without bytecode a thousand modules are compiled in each of the commands that tests start: 2 s.
os.environ["PYTHONDONTWRITEBYTECODE"] = ""
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["RIDGELINE_COMPILE_CACHE"] = "0"  # what is counted here are compilations

import jax
import pytest
from jaxtyping import install_import_hook
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

install_import_hook("ridgeline", "beartype.beartype")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full", action="store_true", help="also what is marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip what is slow unless asked for."""
    skip = pytest.mark.skip(reason="slow: run with --full")
    for item in items:
        if item.get_closest_marker("slow") and not config.getoption("--full"):
            item.add_marker(skip)


class ByAlgorithm(LoadScopeScheduling):
    """One worker runs all tests of one module and one algorithm: they share compilations."""

    def _split_scope(self, nodeid: str) -> str:
        from ridgeline.algorithms import REGISTRY

        module, _, test = nodeid.partition("::")
        return " ".join([module, *(word for word in re.findall(r"\w+", test)[1:] if word in REGISTRY)][:2])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByAlgorithm:
    """Hand tests out by what they compile. The groups of pytest-xdist 3.8 do nothing under pytest 9.2."""
    return ByAlgorithm(config, log)


def pytest_collection_finish() -> None:
    """JAX starts with the devices that test modules asked for; no command that is run here changes them."""
    jax.devices()


@pytest.fixture(scope="module", autouse=True)
def forget_compilations() -> Iterator[None]:
    """A process that keeps thousands of compiled programs dies in XLA's compiler, so none outlives its module."""
    yield
    jax.clear_caches()
