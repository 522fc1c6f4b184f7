"""What every algorithm promises the runners, checked on rollouts of noise: for ours in tests, and for a user's.

A check takes an algorithm that learned a few iterations in a world, and returns what is wrong, in words.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, PyTree

from ridgeline.memory import Replay
from ridgeline.theory.property import QUICK_TO_COMPILE
from ridgeline.training.compiled import begin_carry
from ridgeline.types import (
    ACTION_MASK,
    Algorithm,
    ArraySpec,
    Continuous,
    Discrete,
    EnvSpec,
    MultiDiscrete,
    Obs,
    Rollout,
    Steps,
    Transition,
    observation_parts,
)

# Sizes with which an algorithm compiles and runs as fast as it can.
TINY = {
    "num_envs": 2,
    "rollout_length": 4,
    "epochs": 2,
    "policy_epochs": 2,
    "value_epochs": 2,
    "batch_size": 4,
    "target_period": 3,
    "hidden": (8,),
    "replay": Replay(capacity=16, batch_size=4, warmup=0, updates=2),
}

_SEEN = 64
_VECTOR = ArraySpec((3,))
# A number, a category and a mask; the names are in the order in which JAX sorts dictionaries.
_PARTS = (("kind", ArraySpec((2,), "int32", (2, 3))), ("place", ArraySpec((2,))))


def _masked(width: int) -> tuple[tuple[str, ArraySpec], ...]:
    return ((ACTION_MASK, ArraySpec((width,), "int8")), *_PARTS)


WORLDS = {
    "discrete": EnvSpec("Discrete", _VECTOR, Discrete(3)),
    "continuous": EnvSpec("Continuous", _VECTOR, Continuous(2, (True, False))),
    "box": EnvSpec("Box", _VECTOR, Continuous(2, (True, True))),
    "masked": EnvSpec("Masked", _masked(4), Discrete(4)),
    "masked-multidiscrete": EnvSpec("MaskedMultiDiscrete", _masked(5), MultiDiscrete((2, 3))),
    "image": EnvSpec("Image", ArraySpec((36, 36, 1), "uint8"), Discrete(3)),
}


def random_obs(rng: np.random.Generator, spec: EnvSpec, shape: tuple[int, ...]) -> Any:
    """Observations of noise; a mask forbids one action in each choice."""

    def one(name: str, part: ArraySpec) -> np.ndarray:
        size = (*shape, *part.shape)
        if name == ACTION_MASK:
            kept = [np.arange(n) != rng.integers(0, n, shape)[..., None] for n in action_counts(spec)]
            return np.concatenate(kept, -1).astype(part.dtype)
        if part.dtype.startswith("float"):
            return rng.normal(size=size).astype(part.dtype)
        high = np.reshape(part.categories, part.shape) if part.categories else 256
        return rng.integers(0, high, size).astype(part.dtype)

    arrays = {name: one(name, part) for name, part in observation_parts(spec.observation)}
    return arrays.get("", arrays)


def action_counts(spec: EnvSpec) -> tuple[int, ...]:
    """How many values each choice of a discrete action has."""
    if isinstance(spec.action, Discrete):
        return (spec.action.count,)
    assert isinstance(spec.action, MultiDiscrete)
    return spec.action.counts


def random_actions(rng: np.random.Generator, spec: EnvSpec, obs: Obs, shape: tuple[int, ...]) -> np.ndarray:
    """Actions of noise, none of them forbidden by the observations."""
    if isinstance(spec.action, Continuous):
        return rng.normal(size=(*shape, spec.action.size)).astype(np.float32)
    counts = action_counts(spec)
    allowed = obs[ACTION_MASK] if isinstance(obs, dict) else np.ones((*shape, sum(counts)))
    parts = np.split(allowed, np.cumsum(counts)[:-1], -1)
    chosen = np.stack([np.argmax(part * rng.uniform(0.1, 1, part.shape), -1) for part in parts], -1)
    return chosen.astype(np.int32).reshape(*shape, *spec.action.zeros().shape)


def random_rollout(rng: np.random.Generator, algorithm: Algorithm[Any, Any], spec: EnvSpec) -> Rollout:
    """A rollout [T, N] of noise."""
    shape = (algorithm.rollout_length, algorithm.num_envs)
    obs = random_obs(rng, spec, shape)
    transitions = Transition(
        obs,
        random_actions(rng, spec, obs, shape),
        rng.normal(size=shape).astype(np.float32),
        random_obs(rng, spec, shape),
        rng.random(shape) < 0.2,
        rng.random(shape) < 0.2,
    )
    return Rollout(transitions, begin_carry(algorithm, spec))


def numpy_leaves(tree: PyTree[Any]) -> dict[str, np.ndarray]:
    """Every leaf by its path, keys as their words."""

    def array(x: Any) -> np.ndarray:
        is_key = isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(x) if is_key else x)

    return {jax.tree_util.keystr(path): array(x) for path, x in jax.tree_util.tree_leaves_with_path(tree)}


def all_finite(tree: PyTree[Any]) -> bool:
    """Whether no leaf holds a NaN or an infinity."""
    return all(np.isfinite(x).all() for x in jax.tree.leaves(tree))


def index(tree: PyTree[Any], i: int | Array) -> PyTree[Any]:
    """Entry i of every leaf's leading axis."""
    return jax.tree.map(lambda x: x[i], tree)


class Trained(NamedTuple):
    """An algorithm, its states before and after each of a few iterations, and the last metrics."""

    algorithm: Algorithm[Any, Any]
    spec: EnvSpec
    states: list[Any]
    metrics: dict[str, Any]
    traces: int
    update: Callable[..., Any]


def learn(algorithm: Algorithm[Any, Any], spec: EnvSpec, iterations: int = 3) -> Trained:
    """An algorithm after that many updates from noise."""
    traces = 0

    def counted(algorithm: Algorithm[Any, Any], *rest: Any) -> Any:
        nonlocal traces
        traces += 1
        return algorithm.update(*rest)

    update = jax.jit(counted, compiler_options=QUICK_TO_COMPILE)
    states, metrics = [first_state(algorithm, jax.random.key(0), spec)], dict[str, Any]()
    for i in range(iterations):
        state, metrics = update(algorithm, *arguments(algorithm, spec, states[-1], i))
        states.append(state)
    return Trained(algorithm, spec, states, metrics, traces, update)


def steps_at(iteration: int) -> Steps:
    """An iteration's place in a run of 100 steps."""
    return Steps(jnp.asarray(8 * iteration, float), jnp.asarray(100, float), jnp.asarray(iteration, jnp.int32))


def arguments(algorithm: Algorithm[Any, Any], spec: EnvSpec, state: Any, iteration: int) -> tuple[Any, ...]:
    """What `update` is called with in an iteration."""
    rollout = random_rollout(np.random.default_rng(iteration), algorithm, spec)
    return jax.random.key(iteration), state, rollout, steps_at(iteration)


@functools.partial(jax.jit, static_argnames="spec", compiler_options=QUICK_TO_COMPILE)
def first_state(algorithm: Algorithm[Any, Any], key: PRNGKeyArray, spec: EnvSpec) -> Any:
    """A state before its first update."""
    return algorithm.init(key, spec)


def actions(run: Trained) -> tuple[Any, dict[str, Array]]:
    """Observations of noise and what is done there, exploring and greedily."""

    def choose(algorithm: Algorithm[Any, Any], policy: Any, key: PRNGKeyArray, obs: Obs) -> dict[str, Array]:
        carry = algorithm.begin(run.spec)
        exploring, _ = algorithm.act(algorithm.randomness(key, policy, obs), policy, carry, obs, steps_at(0))
        greedy, _ = algorithm.greedy(key, policy, carry, obs)
        return {"act": exploring, "greedy": greedy}

    obs, keys = (
        random_obs(np.random.default_rng(0), run.spec, (_SEEN,)),
        jax.random.split(jax.random.key(0), _SEEN),
    )
    everywhere = jax.jit(jax.vmap(choose, (None, None, 0, 0)), compiler_options=QUICK_TO_COMPILE)
    return obs, everywhere(run.algorithm, run.algorithm.policy(run.states[-1]), keys, obs)


def shapes(tree: PyTree[Any]) -> PyTree[Any]:
    """Shape, dtype and weakness of every leaf."""
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), jax.eval_shape(lambda: tree))


def differing(one: PyTree[Any], other: PyTree[Any], rtol: float = 0.0, atol: float = 0.0) -> list[str]:
    """The leaves in which two trees of one structure differ."""
    left, right = numpy_leaves(one), numpy_leaves(other)
    return [name for name in left if not np.allclose(left[name], right[name], rtol, atol, equal_nan=True)]


def state_is_arrays(run: Trained) -> list[str]:
    """Every leaf of the state is an array."""
    leaves = jax.tree_util.tree_leaves_with_path(run.states)
    return [
        f"{jax.tree_util.keystr(path)} is a {type(x).__name__}"
        for path, x in leaves
        if not isinstance(x, jax.Array)
    ]


def update_keeps_shapes(run: Trained) -> list[str]:
    """Update keeps the state's structure, shapes and dtypes."""
    before, *later = map(shapes, run.states)
    return [f"the state changed its shape in update {i}" for i, after in enumerate(later) if after != before]


def update_traces_once(run: Trained) -> list[str]:
    """Update is traced once."""
    return [] if run.traces == 1 else [f"update was traced {run.traces} times for {len(run.states) - 1} calls"]


def update_learns(run: Trained) -> list[str]:
    """What acts changes, and stays finite."""
    first, last = (run.algorithm.policy(state) for state in (run.states[0], run.states[-1]))
    wrong = [] if all_finite(last) else ["a parameter is not finite"]
    return wrong if differing(first, last) else [*wrong, "no parameter changed"]


def metrics_are_scalars(run: Trained) -> list[str]:
    """Metrics are finite scalars named train/… or rollout/…"""
    wrong = [] if run.metrics else ["there are none"]
    for name, value in run.metrics.items():
        if not name.startswith(("train/", "rollout/")):
            wrong.append(f"{name} is named neither train/… nor rollout/…")
        if np.shape(value) or not np.isfinite(value):
            wrong.append(f"{name} is {value}")
    return wrong


def actions_fit_the_spec(run: Trained) -> list[str]:
    """Actions have the spec's shape, dtype and range."""
    wrong, wanted = [], run.spec.action.zeros()
    for method, chosen in actions(run)[1].items():
        if (chosen.shape[1:], chosen.dtype) != (wanted.shape, wanted.dtype):
            wrong.append(f"{method} gives {chosen.dtype}{list(chosen.shape[1:])}")
        elif isinstance(run.spec.action, Continuous):
            wrong += [] if all_finite(chosen) else [f"{method} is not finite"]
        else:
            each = np.asarray(chosen).reshape(_SEEN, -1)
            inside = (each >= 0) & (each < np.array(action_counts(run.spec)))
            wrong += [] if inside.all() else [f"{method} leaves the range"]
    return wrong


def masked_actions_are_never_chosen(run: Trained) -> list[str]:
    """No action that the observation's mask forbids."""
    if not isinstance(run.spec.observation, tuple):
        return []
    obs, chosen = actions(run)
    # An action's column in the mask: the choices stand behind one another.
    starts = np.cumsum([0, *action_counts(run.spec)[:-1]])
    columns = {method: np.asarray(x).reshape(_SEEN, -1) + starts for method, x in chosen.items()}
    return [f"{m} takes one" for m, x in columns.items() if not np.take_along_axis(obs[ACTION_MASK], x, 1).all()]


def exploring_tries_every_action(run: Trained) -> list[str]:
    """`act` takes each of a few discrete actions in 64 tries."""
    if not isinstance(run.spec.action, Discrete) or isinstance(run.spec.observation, tuple):
        return []
    tried = set(np.asarray(actions(run)[1]["act"]).tolist())
    return [f"never action {a}" for a in range(run.spec.action.count) if a not in tried]


def stacked_arguments(run: Trained) -> Any:
    """What `update` was called with in the first two iterations, on a leading axis."""
    pair = [arguments(run.algorithm, run.spec, run.states[i], i) for i in (0, 1)]
    return jax.tree.map(lambda *x: jnp.stack(x), *pair)


def vmapped_update_keeps_shapes(run: Trained) -> list[str]:
    """Update of several seeds at once keeps shapes."""
    together = stacked_arguments(run)
    updated, _ = jax.eval_shape(jax.vmap(type(run.algorithm).update, (None, 0, 0, 0, 0)), run.algorithm, *together)
    return [] if shapes(updated) == shapes(together[1]) else ["the state changed its shape"]


def a_termination_hides_what_follows(run: Trained) -> list[str]:
    """Where every row terminated, no successor is learned from."""
    return ["what follows a termination is learned from"] if depends_on_successors(run, "terminated") else []


def edges_stay_finite(run: Trained) -> list[str]:
    """Updates stay finite: rewards all the same, episodes of one step, actions at their bounds."""
    key, state, rollout, steps = arguments(run.algorithm, run.spec, run.states[-1], 0)
    x = rollout.transitions
    no = np.zeros_like(x.terminated)
    edges = {
        "rewards that are all 0": x._replace(reward=np.zeros_like(x.reward)),
        "rewards that are all 1e6": x._replace(reward=np.full_like(x.reward, 1e6)),
        "episodes of one step": x._replace(terminated=~no, truncated=no),
        "episodes cut after one step": x._replace(terminated=no, truncated=~no),
    }
    if isinstance(run.spec.action, Continuous):
        bound = np.where(run.spec.action.bounded, np.sign(x.action), x.action).astype(x.action.dtype)
        edges["actions at their bounds"] = x._replace(action=bound)
    wrong = []
    for name, rows in edges.items():
        after, _ = run.update(run.algorithm, key, state, rollout._replace(transitions=rows), steps)
        wrong += [] if all_finite(after) else [f"not with {name}"]
    return wrong


def depends_on_successors(run: Trained, end: str) -> bool:
    """Whether one update from rows that all ended so depends on their successors."""
    key, state, rollout, steps = arguments(run.algorithm, run.spec, run.states[0], 0)
    x, no = rollout.transitions, np.zeros_like(rollout.transitions.terminated)
    x = x._replace(**{"terminated": no, "truncated": no, end: ~no})
    learned = []
    for next_obs in (x.next_obs, jax.tree.map(lambda a: a[::-1], x.next_obs)):
        seen = rollout._replace(transitions=x._replace(next_obs=next_obs))
        learned.append(run.algorithm.policy(run.update(run.algorithm, key, state, seen, steps)[0]))
    return bool(differing(*learned))


def two_keys_draw_two_networks(run: Trained) -> list[str]:
    """Every matrix of what acts is drawn with the key."""
    states = [first_state(run.algorithm, jax.random.key(i), run.spec) for i in (0, 1)]
    one, other = (numpy_leaves(run.algorithm.policy(state)) for state in states)
    matrices = [leaf for leaf, value in one.items() if value.ndim > 1]
    return [f"{leaf} is the same" for leaf in matrices if np.array_equal(one[leaf], other[leaf])]


CHECKS: tuple[Callable[[Trained], list[str]], ...] = (
    state_is_arrays,
    update_keeps_shapes,
    update_traces_once,
    update_learns,
    metrics_are_scalars,
    actions_fit_the_spec,
    masked_actions_are_never_chosen,
    exploring_tries_every_action,
    vmapped_update_keeps_shapes,
    a_termination_hides_what_follows,
    edges_stay_finite,
    two_keys_draw_two_networks,
)
