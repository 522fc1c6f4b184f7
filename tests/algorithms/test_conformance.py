"""What every algorithm promises the runners. A new one is tested by being listed in the registry."""

import dataclasses
import functools
import typing
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from miniatures import (
    ALGORITHMS,
    TINY,
    action_counts,
    all_finite,
    assert_same,
    index,
    numpy_leaves,
    random_obs,
    random_rollout,
    tiny,
)

from ridgeline.algorithms import REGISTRY
from ridgeline.errors import UsageError
from ridgeline.types import (
    ACTION_MASK,
    ArraySpec,
    Continuous,
    Discrete,
    EnvSpec,
    MultiDiscrete,
    Steps,
)

VECTOR = ArraySpec((3,))
# A number, a category and a mask; the names are in the order in which JAX sorts dictionaries.
PARTS = (("kind", ArraySpec((2,), "int32", (2, 3))), ("place", ArraySpec((2,))))


def masked(width: int) -> tuple[tuple[str, ArraySpec], ...]:
    return ((ACTION_MASK, ArraySpec((width,), "int8")), *PARTS)


SPECS = {
    "discrete": EnvSpec("Discrete", VECTOR, Discrete(3)),
    "continuous": EnvSpec("Continuous", VECTOR, Continuous(2, (True, False))),
    "box": EnvSpec("Box", VECTOR, Continuous(2, (True, True))),
    "masked": EnvSpec("Masked", masked(4), Discrete(4)),
    "masked-multidiscrete": EnvSpec("MaskedMultiDiscrete", masked(5), MultiDiscrete((2, 3))),
    "image": EnvSpec("Image", ArraySpec((36, 36, 1), "uint8"), Discrete(3)),
}


def accepts(name: str, spec: EnvSpec) -> bool:
    try:
        tiny(name).check(spec)
    except UsageError:
        return False
    return True


CASES = [(name, world) for name in ALGORITHMS for world in SPECS if accepts(name, SPECS[world])]


def usual(name: str) -> str:
    """The first world that an algorithm takes."""
    return next(world for other, world in CASES if other == name)


every_case = pytest.mark.parametrize(("name", "world"), CASES)
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def steps_at(iteration: int) -> Steps:
    return Steps(jnp.float32(8 * iteration), jnp.float32(100), jnp.int32(iteration))


# These programs run once: to compile them well would take longer than it saves.
FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


class Trained(NamedTuple):
    """An algorithm, its states before and after each of a few iterations, and the last metrics."""

    algorithm: Any
    spec: EnvSpec
    states: list[Any]
    metrics: dict[str, jax.Array]
    traces: int
    update: Any


def train(algorithm: Any, spec: EnvSpec, iterations: int) -> Trained:
    traces = 0

    def counted(algorithm: Any, *arguments: Any) -> Any:
        nonlocal traces
        traces += 1
        return algorithm.update(*arguments)

    update = jax.jit(counted, compiler_options=FAST)
    states, metrics = [first_state(algorithm, jax.random.key(0), spec)], {}
    for i in range(iterations):
        state, metrics = update(algorithm, *arguments(algorithm, spec, states[-1], i))
        states.append(state)
    return Trained(algorithm, spec, states, metrics, traces, update)


def arguments(algorithm: Any, spec: EnvSpec, state: Any, iteration: int) -> tuple[Any, ...]:
    """What `update` is called with in an iteration."""
    rollout = random_rollout(np.random.default_rng(iteration), algorithm, spec)
    return jax.random.key(iteration), state, rollout, steps_at(iteration)


@functools.partial(jax.jit, static_argnames="spec", compiler_options=FAST)
def first_state(algorithm: Any, key: jax.Array, spec: EnvSpec) -> Any:
    return algorithm.init(key, spec)


@functools.cache
def trained(name: str, world: str) -> Trained:
    return train(tiny(name), SPECS[world], 3)


@functools.cache
def actions(name: str, world: str) -> tuple[Any, dict[str, jax.Array]]:
    """Sixty-four observations of noise and what is done there, exploring and greedily."""
    algorithm, spec, states, *_ = trained(name, world)

    def choose(algorithm: Any, policy: Any, key: jax.Array, obs: Any) -> dict[str, jax.Array]:
        exploring, _ = algorithm.act(key, policy, algorithm.begin(spec), obs, steps_at(0))
        greedy, _ = algorithm.greedy(key, policy, algorithm.begin(spec), obs)
        return {"act": exploring, "greedy": greedy}

    obs, keys = random_obs(np.random.default_rng(0), spec, (64,)), jax.random.split(jax.random.key(0), 64)
    everywhere = jax.jit(jax.vmap(choose, (None, None, 0, 0)), compiler_options=FAST)
    return obs, everywhere(algorithm, algorithm.policy(states[-1]), keys, obs)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), jax.eval_shape(lambda: tree))


@every_case
def test_every_leaf_of_the_state_is_an_array(name: str, world: str) -> None:
    for state in trained(name, world).states:
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))


@every_case
def test_update_keeps_structure_shapes_and_dtypes(name: str, world: str) -> None:
    before, *later = map(shapes, trained(name, world).states)
    assert all(after == before for after in later)


@every_case
def test_update_traces_once(name: str, world: str) -> None:
    assert trained(name, world).traces == 1


@every_case
def test_update_learns_finite_numbers(name: str, world: str) -> None:
    run = trained(name, world)
    first, last = (numpy_leaves(run.algorithm.policy(state)) for state in (run.states[0], run.states[-1]))
    assert all_finite(last)
    assert any((first[leaf] != last[leaf]).any() for leaf in first)


@pytest.mark.parametrize("end", ["terminated", "truncated"])
@every_algorithm
def test_only_a_termination_hides_what_follows(name: str, end: str) -> None:
    algorithm, spec, states, _, _, update = trained(name, usual(name))
    key, state, rollout, steps = arguments(algorithm, spec, states[0], 0)
    x, no = rollout.transitions, np.zeros_like(rollout.transitions.terminated)
    x = x._replace(**{"terminated": no, "truncated": no, end: ~no})
    learned = []
    for next_obs in (x.next_obs, -x.next_obs):
        seen = rollout._replace(transitions=x._replace(next_obs=next_obs))
        learned.append(numpy_leaves(algorithm.policy(update(algorithm, key, state, seen, steps)[0])))
    same = all((learned[0][leaf] == learned[1][leaf]).all() for leaf in learned[0])
    assert same == (end == "terminated" or name == "pg")  # PG has no value to bootstrap from


@every_case
def test_metrics_are_scalars_with_known_prefixes(name: str, world: str) -> None:
    metrics = trained(name, world).metrics
    assert metrics
    for metric, value in metrics.items():
        assert metric.startswith(("train/", "rollout/")), metric
        assert value.shape == (), metric
        assert np.isfinite(value), metric


@pytest.mark.parametrize("method", ["act", "greedy"])
@every_case
def test_actions_fit_the_spec(name: str, world: str, method: str) -> None:
    spec = SPECS[world].action
    chosen = actions(name, world)[1][method]
    assert (chosen.shape[1:], chosen.dtype) == (spec.zeros().shape, spec.zeros().dtype)
    if isinstance(spec, Continuous):
        assert all_finite(chosen)
    else:
        assert (chosen >= 0).all()
        assert (np.asarray(chosen).reshape(64, -1) < action_counts(SPECS[world])).all()


@pytest.mark.parametrize("method", ["act", "greedy"])
@pytest.mark.parametrize(("name", "world"), [case for case in CASES if case[1].startswith("masked")])
def test_masked_actions_are_never_chosen(name: str, world: str, method: str) -> None:
    obs, chosen = actions(name, world)
    counts = action_counts(SPECS[world])
    # An action's column in the mask: the choices stand behind one another.
    columns = np.asarray(chosen[method]).reshape(64, -1) + np.cumsum([0, *counts[:-1]])
    assert np.take_along_axis(obs[ACTION_MASK], columns, 1).all()


@pytest.mark.parametrize("name", [name for name, world in CASES if world == "discrete"])
def test_exploring_tries_every_action(name: str) -> None:
    assert set(actions(name, "discrete")[1]["act"].tolist()) == {0, 1, 2}


@every_case
def test_vmapped_update_keeps_shapes(name: str, world: str) -> None:
    algorithm, spec, states, *_ = trained(name, world)
    together = stacked_arguments(algorithm, spec, states)
    updated, _ = jax.eval_shape(jax.vmap(type(algorithm).update, (None, 0, 0, 0, 0)), algorithm, *together)
    assert shapes(updated) == shapes(together[1])


@every_algorithm
def test_vmapped_update_learns_what_the_lone_one_does(name: str) -> None:
    algorithm, spec, states, *_ = trained(name, usual(name))
    update = jax.jit(jax.vmap(type(algorithm).update, (None, 0, 0, 0, 0)), compiler_options=FAST)
    learned, _ = update(algorithm, *stacked_arguments(algorithm, spec, states))
    for i in (0, 1):
        assert_same(index(learned, i), states[i + 1], rtol=1e-4, atol=1e-5)


def stacked_arguments(algorithm: Any, spec: EnvSpec, states: list[Any]) -> Any:
    """What `update` was called with in the first two iterations, on a leading axis."""
    pair = [arguments(algorithm, spec, states[i], i) for i in (0, 1)]
    return jax.tree.map(lambda *x: jnp.stack(x), *pair)


@every_algorithm
def test_two_keys_draw_two_networks(name: str) -> None:
    algorithm, spec = trained(name, usual(name))[:2]
    states = [first_state(algorithm, jax.random.key(i), spec) for i in (0, 1)]
    one, other = (numpy_leaves(algorithm.policy(state)) for state in states)
    matrices = [leaf for leaf, value in one.items() if value.ndim > 1]
    assert matrices
    assert all((one[leaf] != other[leaf]).any() for leaf in matrices)


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


# A compilation each, so the first of every option's alternatives are tried together, then the second …
OPTIONS = [
    (name, {option: others[i] for option, others in alternatives(name).items() if i < len(others)})
    for name in ALGORITHMS
    for i in range(max(map(len, alternatives(name).values())))
]


def test_options_are_found() -> None:
    flags = {flag for _, options in OPTIONS for flag in options}
    assert {"double", "dueling", "replay", "shared", "normalise_rewards", "optimiser", "activation"} <= flags


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda x: x if isinstance(x, str) else "+".join(x))
def test_every_option_learns_finite_numbers(name: str, options: dict[str, Any]) -> None:
    _, _, (before, after), metrics, *_ = train(tiny(name, **options), SPECS[usual(name)], 1)
    assert shapes(after) == shapes(before)
    assert all_finite((after, metrics))
