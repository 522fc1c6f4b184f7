"""What both runners look like to the loop, the compiled one as such an object, and the door into either."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from ridgeline.errors import ContractError, EnvironmentCrash, RidgelineError, UsageError
from ridgeline.training.compiled import Lane, begin, chunk
from ridgeline.training.devices import copy_seeds, pad_seeds, seed_mesh
from ridgeline.training.evaluation import Episodes, evaluate_compiled, evaluation_keys, play
from ridgeline.training.hosted import Hosted
from ridgeline.training.layout import layout_of
from ridgeline.training.snapshot import Leaf, Saved, fork_keys, keyed, place, plain
from ridgeline.training.summary import MOST_INTERVALS, NO_END, Summary
from ridgeline.types import Algorithm, Environment, EnvSpec, HostFactory, example_transition


@runtime_checkable
class Runner(Protocol):
    """Trains every seed; holds what they have between chunks."""

    def compile(self, episodes: int) -> None:
        """Compile what can be compiled before the first step; evaluations will have so many episodes."""

    def run(self, first: int, count: int, total: float, ends: Sequence[int] = NO_END) -> list[Summary]:
        """`count` ≥ 1 iterations of every seed, from the one numbered `first`, in a run of `total` steps.

        They are summed up apart up to each of `ends`, at most `MOST_INTERVALS`, and do not go beyond the last. It
        counts iterations; where rollouts are whole episodes, each seed counts its own, and ends are steps of it.
        """

    @property
    def algorithm(self) -> Algorithm[Any, Any]:
        """What learns."""

    @property
    def states(self) -> PyTree[Array]:
        """The algorithm's state of every seed; leading axis: seeds."""

    @property
    def policies(self) -> PyTree[Array]:
        """What acts now, of every seed; leading axis: seeds. It stays what it is while training goes on."""

    def evaluate(self, seed: int, episodes: int) -> Episodes:
        """Greedy episodes [S, E], from starts that `seed` decides."""

    def snapshot(self) -> PyTree[Leaf]:
        """All that decides what happens next, to be saved; a runner made from it goes on from here."""

    def fork(self, number: int) -> None:
        """Go on with other random numbers: those of the fork of that number."""

    def change(self, function: Callable[[PyTree[Array]], PyTree[Array]]) -> None:
        """Put what a function makes of the states in their place."""

    @property
    def approximate(self) -> str | None:
        """Why what was restored is not exactly what was saved, if it is not."""

    def close(self) -> None:
        """Free what the runner holds."""


class Compiled:
    """Trains every seed on a JAX environment, its lanes shared out over the devices."""

    approximate: str | None = None

    def __init__(
        self,
        algorithm: Algorithm[Any, Any],
        env: Environment[Any],
        seeds: tuple[int, ...],
        saved: Saved | None = None,
    ) -> None:
        self.algorithm, self.env, self.num_seeds = algorithm, env, len(seeds)
        self.mesh = seed_mesh(len(seeds))
        padded = pad_seeds(seeds, self.mesh)
        self.wanted = np.arange(len(padded)) < len(seeds)
        if saved is None:
            lanes = begin(algorithm, env, padded, mesh=self.mesh)
        else:
            lanes = self._restored(jax.eval_shape(partial(begin, mesh=self.mesh), algorithm, env, padded), saved)
        fixed, together = jax.tree.flatten((algorithm, env))
        self._fixed = jax.device_put(fixed, NamedSharding(self.mesh, PartitionSpec()))
        self._lanes, state = jax.tree.flatten(lanes)
        self._layout = layout_of(together, state, env.spec)
        self._acting: list[Array] | None = None  # what the last chunk left to act, if nothing changed since

    @property
    def lanes(self) -> Lane:
        """What every seed's training consists of; leading axis: seeds, filled up to equally many a device."""
        lanes: Lane = jax.tree.unflatten(self._layout.state, self._lanes)
        return lanes

    @lanes.setter
    def lanes(self, lanes: Lane) -> None:
        self._lanes, self._acting = jax.tree.leaves(lanes), None

    def compile(self, episodes: int) -> None:
        """Run no iteration and play no step: that compiles both."""
        self.run(0, 0, 1.0)
        if episodes:
            policies = self.algorithm.policy(self.lanes.state)
            keys = evaluation_keys(0, episodes)
            jax.block_until_ready(play(self.algorithm, self.env, policies, keys, np.int32(0), mesh=self.mesh))

    def run(self, first: int, count: int, total: float, ends: Sequence[int] = NO_END) -> list[Summary]:
        """`count` iterations of every seed, from the one numbered `first`, as one summary for each of `ends`."""
        # Seeds that only fill up the last device's share get none.
        counts = np.where(self.wanted, np.int32(count), np.int32(0))
        # As many as there may be, so that their number compiles nothing anew.
        padded = np.pad(np.minimum(ends, NO_END), (0, MOST_INTERVALS - len(ends)), mode="edge").astype(np.int32)
        where = (np.int32(first), padded, _real(total))
        self._lanes, self._acting, numbers = chunk(
            self._fixed, self._lanes, counts, *where, layout=self._layout, mesh=self.mesh
        )
        intervals = np.asarray(numbers)[: self.num_seeds].transpose(1, 2, 0)[: len(ends)]
        return [jax.tree.unflatten(self._layout.summary, list(columns)) for columns in intervals]

    @property
    def states(self) -> PyTree[Array]:
        """The algorithm's state of every seed; leading axis: seeds."""
        return copy_seeds(self.lanes.state, count=self.num_seeds)

    @property
    def policies(self) -> PyTree[Array]:
        """What acts, of every seed; leading axis: seeds."""
        if self._acting is None:
            return copy_seeds(self.algorithm.policy(self.lanes.state), count=self.num_seeds)
        policies = jax.tree.unflatten(self._layout.policies, self._acting)
        return policies if self.wanted.all() else copy_seeds(policies, count=self.num_seeds)

    def evaluate(self, seed: int, episodes: int) -> Episodes:
        """Greedy episodes [S, E], from starts that `seed` decides."""
        policies = self.algorithm.policy(self.lanes.state)
        every = evaluate_compiled(self.algorithm, self.env, policies, seed, episodes, self.mesh)
        return jax.tree.map(lambda x: x[: self.num_seeds], every)

    def snapshot(self) -> PyTree[Leaf]:
        """The lanes of all seeds, without those that only fill up a device's share."""
        return jax.tree.map(lambda x: Leaf(x, self.num_seeds), plain(self.lanes))

    def fork(self, number: int) -> None:
        """Go on with other random numbers: those of the fork of that number."""
        forked = self.lanes._replace(key=fork_keys(self.lanes.key, np.uint32(number)))
        self.lanes = place(forked, mesh=self.mesh)

    def change(self, function: Callable[[PyTree[Array]], PyTree[Array]]) -> None:
        """Put what a function makes of the states [S', ...] in their place; S' ≥ S fills every device's share."""
        self.lanes = self.lanes._replace(state=function(self.lanes.state))

    def close(self) -> None:
        """Nothing to free."""

    def _restored(self, shapes: Lane, saved: Saved) -> Lane:
        more = len(self.wanted) - self.num_seeds

        def want(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((self.num_seeds, *x.shape[1:]), x.dtype)

        def pad(x: np.ndarray) -> Array:
            return jnp.asarray(np.concatenate([x, np.repeat(x[:1], more, 0)]) if more else x)

        found = jax.tree.map(pad, saved(jax.tree.map(want, plain(shapes))))
        return place(keyed(shapes, found), mesh=self.mesh)


def make_runner(
    algorithm: Algorithm[Any, Any],
    env: Environment[Any] | HostFactory,
    seeds: tuple[int, ...],
    saved: Saved | None = None,
) -> Runner:
    """The runner for this kind of environment, before its first step or where `saved` says."""
    if isinstance(env, HostFactory):
        return Hosted(algorithm, env, seeds, saved)
    return Compiled(algorithm, env, seeds, saved)


def check_environment(env: Environment[Any]) -> None:
    """Trace a JAX environment once: `ContractError` names what does not match its spec."""
    try:
        state, obs = jax.eval_shape(env.reset, jax.random.key(0))
        action = jax.eval_shape(env.spec.action.zeros)
        after, step = jax.eval_shape(env.step, jax.random.key(0), state, action)
    except RidgelineError:
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        raise EnvironmentCrash(f"{env.spec.id} cannot be traced: {type(error).__name__}: {text}") from error
    expected = jax.eval_shape(lambda: example_transition(env.spec))
    found = {"reset's observation": obs, "reward": step.reward, "next_obs": step.next_obs}
    found |= {"terminated": step.terminated, "truncated": step.truncated, "the state after a step": after}
    wanted = (expected.obs, expected.reward, expected.next_obs, expected.terminated, expected.truncated, state)
    for (name, is_), should in zip(found.items(), wanted, strict=True):
        if shapes_of(is_) != shapes_of(should):
            raise ContractError(
                f"{env.spec.id}: {name} is {shapes_of(is_)}, and {shapes_of(should)} is expected: "
                "mend the environment or its spec"
            )


def shapes_of(tree: PyTree[Any]) -> str:
    """The arrays of a tree by name, dtype and shape, in one line."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    each = [f"{jax.tree_util.keystr(path)}{x.dtype}{list(x.shape)}" for path, x in leaves]
    return ", ".join(each) or "nothing"


def prepare[Record: Algorithm[Any, Any]](algorithm: Record) -> Record:
    """The record as runners take it: every value checked, its floats arrays, so that none of them retraces."""
    _check_values(algorithm)
    return jax.tree.map(_real, algorithm)


def required_bytes(algorithm: Algorithm[Any, Any], spec: EnvSpec) -> dict[str, int]:
    """Bytes that one seed holds: its state, and one rollout. A lower bound on what training it needs."""

    def total(tree: PyTree[Any], each: int = 1) -> int:
        return sum(x.size * x.dtype.itemsize * each for x in jax.tree.leaves(tree))

    state = jax.eval_shape(lambda a: a.init(jax.random.key(0), spec), algorithm)
    row = jax.eval_shape(lambda: example_transition(spec))
    return {"state": total(state), "rollout": total(row, algorithm.num_envs * algorithm.rollout_length)}


def _real(x: float) -> np.ndarray:
    return np.asarray(x, jax.dtypes.canonicalize_dtype(float))


def _check_values(record: eqx.Module) -> None:
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if isinstance(value, eqx.Module):
            _check_values(value)
        elif "range" in field.metadata:
            low, high = field.metadata["range"]
            whole = field.metadata.get("static", False)
            _check_range(field.name, value, low, high, whole)
        elif field.name == "hidden":
            for width in value:
                _check_range("hidden", width, 1, 2**20, True)


def _check_range(name: str, value: Any, low: float | int, high: float | int, whole: bool) -> None:
    kind = "a whole number" if whole else "a number"
    numeric = isinstance(value, int | np.integer if whole else int | float | np.number | np.ndarray)
    if not numeric or isinstance(value, bool):
        raise UsageError(f"{name} is {value!r}: it must be {kind}")
    if not (low <= float(value) <= high and math.isfinite(value)):  # NaN compares false
        bounds = f"from {low:g} to {high:g}" if math.isfinite(high) else f"at least {low:g}"
        raise UsageError(f"{name} is {value}: it must be {kind} {bounds}")
