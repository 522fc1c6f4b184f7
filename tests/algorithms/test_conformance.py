"""What every algorithm promises the runners. A new one is tested by being listed in the registry."""

import dataclasses
import functools
import typing
from typing import Any

import equinox as eqx
import jax
import pytest
from miniatures import ALGORITHMS, SAMPLE, TINY, all_finite, assert_same, index, sampled, tiny

from ridgeline.algorithms import REGISTRY
from ridgeline.theory.conformance import (
    CHECKS,
    WORLDS,
    Trained,
    depends_on_successors,
    learn,
    shapes,
    stacked_arguments,
)
from ridgeline.theory.probes import accepts
from ridgeline.theory.property import QUICK_TO_COMPILE

CASES = [(name, world) for name in ALGORITHMS for world in WORLDS if accepts(tiny(name), WORLDS[world])]
HOMES = {name: next(world for other, world in CASES if other == name) for name in ALGORITHMS}
# By default the sample at home, in a box and behind a mask, the others at home.
SHORT = [
    (name, world)
    for name, world in CASES
    if world == HOMES[name] or (name in SAMPLE and world in ("box", "masked"))
]
every_case = pytest.mark.parametrize(
    ("name", "world"),
    [pytest.param(*case, marks=[] if case in SHORT else pytest.mark.slow) for case in CASES],
)
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


@functools.cache
def trained(name: str, world: str) -> Trained:
    return learn(tiny(name), WORLDS[world])


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@every_case
def test_conforms(name: str, world: str, check: Any) -> None:
    assert check(trained(name, world)) == []


@every_algorithm
def test_a_truncation_hides_nothing(name: str) -> None:
    """What follows it is learned from, but by PG, which has no value to bootstrap from."""
    assert depends_on_successors(trained(name, HOMES[name]), "truncated") == (name != "pg")


@pytest.mark.parametrize("name", sampled(ALGORITHMS))
def test_vmapped_update_learns_what_the_lone_one_does(name: str) -> None:
    run = trained(name, HOMES[name])
    update = jax.jit(jax.vmap(type(run.algorithm).update, (None, 0, 0, 0, 0)), compiler_options=QUICK_TO_COMPILE)
    learned, _ = update(run.algorithm, *stacked_arguments(run))
    for i in (0, 1):
        assert_same(index(learned, i), run.states[i + 1], rtol=1e-4, atol=1e-5)


@every_algorithm
def test_floats_are_leaves_and_nothing_else_is(name: str) -> None:
    def floats(record: type) -> int:
        fields = dataclasses.fields(record)
        nested = [f.type for f in fields if isinstance(f.type, type) and issubclass(f.type, eqx.Module)]
        for field in fields:
            assert field.metadata.get("static", False) == (field.type is not float and field.type not in nested)
        return sum(f.type is float for f in fields) + sum(map(floats, nested))

    leaves = jax.tree.leaves(REGISTRY[name]())
    assert all(type(x) is float for x in leaves)
    assert len(leaves) == floats(REGISTRY[name])


@every_algorithm
def test_structure_is_hashable_and_free_of_floats(name: str) -> None:
    record = REGISTRY[name]()
    changed = jax.tree.map(lambda x: x / 2, record)
    assert jax.tree.structure(changed) == jax.tree.structure(record)
    assert hash(jax.tree.structure(changed)) == hash(jax.tree.structure(record))


def alternatives(name: str) -> dict[str, list[Any]]:
    """What else each option may be: a flag the other way round, the other names of its type, longer windows."""
    found: dict[str, list[Any]] = {}
    for field in dataclasses.fields(REGISTRY[name]):
        named = typing.get_args(getattr(field.type, "__value__", None))
        if field.type is bool:
            found[field.name] = [not field.default]
        elif named and isinstance(named[0], str):
            found[field.name] = [other for other in named if other != field.default]
        elif field.name == "replay":
            found[field.name] = [dataclasses.replace(TINY["replay"], window=3)]
    return found


# A compilation each, so the first of every option's alternatives are tried together, then the second …; but for
# the sample's, those are slow.
OPTIONS = [
    pytest.param(
        name,
        {option: others[i] for option, others in alternatives(name).items() if i < len(others)},
        marks=[] if i == 0 or name in SAMPLE else pytest.mark.slow,
    )
    for name in ALGORITHMS
    for i in range(max(map(len, alternatives(name).values())))
]


def test_options_are_found() -> None:
    flags = {flag for each in OPTIONS for flag in each.values[1]}
    assert {"double", "dueling", "replay", "shared", "normalise_rewards", "optimiser", "activation"} <= flags


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_every_option_learns_finite_numbers(name: str, options: dict[str, Any]) -> None:
    _, _, (before, after), metrics, *_ = learn(tiny(name, **options), WORLDS[HOMES[name]], 1)
    assert shapes(after) == shapes(before)
    assert all_finite((after, metrics))
