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
from miniatures import ALGORITHMS, TINY, assert_same, index, random_obs, tiny

from ridgeline.algorithms import REGISTRY
from ridgeline.errors import UsageError
from ridgeline.types import (
    ACTION_MASK,
    ArraySpec,
    Continuous,
    Discrete,
    EnvSpec,
    MultiDiscrete,
    Rollout,
    Steps,
    Transition,
)

VECTOR = ArraySpec((3,))
# A number, a category and a mask; the names are in the order in which JAX sorts dictionaries.
PARTS = (("kind", ArraySpec((2,), "int32", (2, 3))), ("place", ArraySpec((2,))))


def masked(width: int) -> tuple[tuple[str, ArraySpec], ...]:
    return ((ACTION_MASK, ArraySpec((width,), "int8")), *PARTS)


SPECS = {
    "discrete": EnvSpec("Discrete", VECTOR, Discrete(3)),
    "multidiscrete": EnvSpec("MultiDiscrete", VECTOR, MultiDiscrete((2, 3))),
    "continuous": EnvSpec("Continuous", VECTOR, Continuous(2, (True, False))),
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
every_case = pytest.mark.parametrize(("name", "world"), CASES)
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def steps_at(iteration: int) -> Steps:
    return Steps(jnp.float32(8 * iteration), jnp.float32(100), jnp.int32(iteration))


def make_rollout(algorithm: Any, key: jax.Array, state: Any, spec: EnvSpec, steps: Steps) -> Rollout:
    """Noise as observations, and what the policy does there."""
    shape = (algorithm.rollout_length, algorithm.num_envs)
    obs_key, next_key, act_key, reward_key, end_key = jax.random.split(key, 5)
    grid = lambda f, key: jax.vmap(jax.vmap(f))(jax.random.split(key, shape))  # noqa: E731
    obs = grid(lambda k: random_obs(k, spec), obs_key)
    policy, carry = algorithm.policy(state), algorithm.begin(spec)
    acting = jax.vmap(jax.vmap(lambda k, o: algorithm.act(k, policy, carry, o, steps)[0]))
    action = acting(jax.random.split(act_key, shape), obs)
    terminated, truncated = jax.random.bernoulli(end_key, 0.2, (2, *shape))
    reward = jax.random.normal(reward_key, shape)
    following = grid(lambda k: random_obs(k, spec), next_key)
    first_carry = jax.tree.map(lambda x: jnp.broadcast_to(x, (algorithm.num_envs, *x.shape)), carry)
    return Rollout(Transition(obs, action, reward, following, terminated, truncated), first_carry)


def learn(algorithm: Any, key: jax.Array, state: Any, steps: Steps, spec: EnvSpec) -> Any:
    """One iteration: a rollout and the update."""
    rollout_key, update_key = jax.random.split(key)
    rollout = make_rollout(algorithm, rollout_key, state, spec, steps)
    return algorithm.update(update_key, state, rollout, steps)


class Trained(NamedTuple):
    """An algorithm, its states before and after each of a few iterations, and the last metrics."""

    algorithm: Any
    spec: EnvSpec
    states: list[Any]
    metrics: dict[str, jax.Array]


# Op by op: every number is computed once, and compiling whole programs for that takes longer.
@jax.disable_jit()
def train(algorithm: Any, spec: EnvSpec, iterations: int) -> Trained:
    algorithm = jax.tree.map(jnp.asarray, algorithm)
    states, metrics = [algorithm.init(jax.random.key(0), spec)], {}
    for i in range(iterations):
        state, metrics = learn(algorithm, jax.random.key(i), states[-1], steps_at(i), spec)
        states.append(state)
    return Trained(algorithm, spec, states, metrics)


@functools.cache
def trained(name: str, world: str) -> Trained:
    return train(tiny(name), SPECS[world], 2)


@functools.cache
@jax.disable_jit()
def actions(name: str, world: str, greedy: bool) -> tuple[Any, jax.Array]:
    """Sixty-four observations of noise and what is done there."""
    algorithm, spec, states, _ = trained(name, world)
    policy, carry = algorithm.policy(states[-1]), algorithm.begin(spec)
    keys = jax.random.split(jax.random.key(7), 64)
    obs = jax.vmap(lambda k: random_obs(k, spec))(keys)

    def choose(key: jax.Array, obs: Any) -> jax.Array:
        if greedy:
            return algorithm.greedy(key, policy, carry, obs)[0]
        return algorithm.act(key, policy, carry, obs, steps_at(0))[0]

    return obs, jax.vmap(choose)(keys, obs)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), jax.eval_shape(lambda: tree))


def all_finite(tree: Any) -> bool:
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


@every_case
def test_every_leaf_of_the_state_is_an_array(name: str, world: str) -> None:
    for state in trained(name, world).states:
        assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(state))


@every_case
def test_update_keeps_structure_shapes_and_dtypes(name: str, world: str) -> None:
    algorithm, spec, states, _ = trained(name, world)
    traced, _ = jax.eval_shape(
        lambda a, k, s: learn(a, k, s, steps_at(0), spec), algorithm, jax.random.key(0), states[0]
    )
    assert shapes(traced) == shapes(states[0])
    assert all(shapes(state) == shapes(states[0]) for state in states)


@every_algorithm
def test_update_traces_once(name: str) -> None:
    traces = 0

    def counted(algorithm: Any, key: jax.Array, state: Any, steps: Steps) -> Any:
        nonlocal traces
        traces += 1
        return learn(algorithm, key, state, steps, SPECS["discrete"])[0]

    compiled, algorithm = jax.jit(counted), tiny(name)
    state = trained(name, "discrete").states[0]
    for i in range(3):
        state = compiled(algorithm, jax.random.key(i), state, steps_at(i))
    assert traces == 1


@every_case
def test_update_learns_finite_numbers(name: str, world: str) -> None:
    run = trained(name, world)
    first, last = (run.algorithm.policy(state) for state in (run.states[0], run.states[-1]))
    assert all_finite(last)
    assert any((a != b).any() for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(last), strict=True))


@every_case
def test_metrics_are_scalars_with_known_prefixes(name: str, world: str) -> None:
    metrics = trained(name, world).metrics
    assert metrics
    for metric, value in metrics.items():
        assert metric.startswith(("train/", "rollout/")), metric
        assert value.shape == (), metric
        assert np.isfinite(value), metric


@pytest.mark.parametrize("greedy", [False, True])
@every_case
def test_actions_fit_the_spec(name: str, world: str, greedy: bool) -> None:
    spec = SPECS[world].action
    _, chosen = actions(name, world, greedy)
    assert (chosen.shape[1:], chosen.dtype) == (spec.zeros().shape, spec.zeros().dtype)
    if isinstance(spec, Continuous):
        assert all_finite(chosen)
    else:
        counts = spec.count if isinstance(spec, Discrete) else np.array(spec.counts)
        assert (chosen >= 0).all()
        assert (np.asarray(chosen) < counts).all()


@pytest.mark.parametrize("greedy", [False, True])
@pytest.mark.parametrize(("name", "world"), [case for case in CASES if case[1].startswith("masked")])
def test_masked_actions_are_never_chosen(name: str, world: str, greedy: bool) -> None:
    obs, chosen = actions(name, world, greedy)
    spec = SPECS[world].action
    counts = (spec.count,) if isinstance(spec, Discrete) else spec.counts
    # An action's column in the mask: the choices stand behind one another.
    columns = np.asarray(chosen).reshape(len(chosen), -1) + np.cumsum([0, *counts[:-1]])
    assert np.take_along_axis(np.asarray(obs[ACTION_MASK]), columns, 1).all()


@every_algorithm
def test_exploring_tries_every_action(name: str) -> None:
    assert set(actions(name, "discrete", False)[1].tolist()) == {0, 1, 2}


@every_case
def test_vmapped_update_keeps_shapes(name: str, world: str) -> None:
    algorithm, spec, states, _ = trained(name, world)
    two = jax.tree.map(lambda x: jnp.stack([x, x]), states[0])
    keys = jax.random.split(jax.random.key(0), 2)
    over_states = jax.vmap(lambda a, k, s: learn(a, k, s, steps_at(0), spec)[0], (None, 0, 0))
    assert shapes(jax.eval_shape(over_states, algorithm, keys, two)) == shapes(two)


@every_algorithm
def test_vmapped_update_learns_what_the_lone_one_does(name: str) -> None:
    algorithm, spec, states, _ = trained(name, "discrete")
    pair = jax.tree.map(lambda a, b: jnp.stack([a, b]), *states[:2])
    keys = jnp.stack([jax.random.key(0), jax.random.key(1)])
    steps = jax.tree.map(lambda a, b: jnp.stack([a, b]), steps_at(0), steps_at(1))
    with jax.disable_jit():
        learned = jax.vmap(lambda k, s, at: learn(algorithm, k, s, at, spec)[0])(keys, pair, steps)
    for i in (0, 1):
        assert_same(index(learned, i), states[i + 1], rtol=1e-4, atol=1e-5)


@every_algorithm
def test_two_keys_draw_two_networks(name: str) -> None:
    algorithm, spec = trained(name, "discrete")[:2]
    one, other = (algorithm.policy(algorithm.init(jax.random.key(i), spec)) for i in (0, 1))
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    matrices = [(a, b) for a, b in pairs if a.ndim > 1]
    assert matrices
    assert all((a != b).any() for a, b in matrices)


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


def options(name: str) -> list[dict[str, Any]]:
    """Every flag turned over, every other name of those a field may hold, and longer windows, one at a time."""
    found: list[dict[str, Any]] = []
    for field in dataclasses.fields(REGISTRY[name]):
        if field.type is bool:
            found.append({field.name: not field.default})
        named = typing.get_args(getattr(field.type, "__value__", None))
        found += [{field.name: other} for other in named if isinstance(other, str) and other != field.default]
        if field.name == "replay":
            found.append({"replay": dataclasses.replace(TINY["replay"], window=3)})
    return found


OPTIONS = [(name, option) for name in ALGORITHMS for option in options(name)]


def test_options_are_found() -> None:
    flags = {flag for _, option in OPTIONS for flag in option}
    assert {"double", "dueling", "replay", "shared", "normalise_rewards", "optimiser", "activation"} <= flags


@pytest.mark.parametrize(("name", "option"), OPTIONS, ids=lambda x: x if isinstance(x, str) else str(*x.items()))
def test_every_option_learns_finite_numbers(name: str, option: dict[str, Any]) -> None:
    _, _, (before, after), metrics = train(tiny(name, **option), SPECS["discrete"], 1)
    assert shapes(after) == shapes(before)
    assert all_finite((after, metrics))
