"""An algorithm of the user's own: does it keep the protocol, learn the probes, follow its objective's slope?"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ridgeline.environments.host import load
from ridgeline.environments.probes import PROBE_COUNT, Probe
from ridgeline.errors import UsageError
from ridgeline.theory.conformance import CHECKS, TINY, WORLDS, Trained, arguments, learn
from ridgeline.theory.probes import CHOOSING, QUICK, accepts, kinds, misses, shrunk, train
from ridgeline.theory.property import Measured, Property
from ridgeline.training.runner import prepare
from ridgeline.types import Algorithm

_OBJECTIVES = ("objective", "loss")
type Sized = Callable[[dict[str, Any]], Algorithm[Any, Any]]


def properties_of_own(source: str) -> tuple[list[Property], list[str]]:
    """The proofs of `module:Class` or `module:record`, and what could not be proven, in words.

    A class is given small sizes by the names that ours have; a record is taken as it is.
    """
    module, _, member = source.rpartition(":")
    found = getattr(load(module), member, None)
    if isinstance(found, type) and issubclass(found, Algorithm):
        return _proofs(member, lambda sizes: shrunk(found, sizes))
    if isinstance(found, Algorithm):
        return _proofs(member, lambda sizes: prepare(found))
    raise UsageError(f"{source} is no Algorithm: name a class or a record that is one")


def _proofs(name: str, sized: Sized) -> tuple[list[Property], list[str]]:
    worlds = {world: spec for world, spec in WORLDS.items() if accepts(sized(TINY), spec)}
    if not worlds:
        raise UsageError(f"{name} accepts none of these spaces: {', '.join(WORLDS)}")
    trained: dict[str, Trained] = {}

    def conforms(check: Callable[[Trained], list[str]]) -> Callable[[bool], list[Measured]]:
        def measure(full: bool) -> list[Measured]:
            measured = []
            with jax.enable_x64(False):
                for world, spec in worlds.items():
                    if world not in trained:
                        trained[world] = learn(sized(TINY), spec)
                    wrong = check(trained[world])
                    said = f"{world}: {wrong[0]}" if wrong else world
                    measured.append(Measured(said, float(len(wrong)), 0.0))
            return measured

        return measure

    titles = [((check.__doc__ or "").split("\n")[0].rstrip("."), conforms(check), "protocol") for check in CHECKS]
    missing = ["values are not compared: only the registry's own algorithms say where theirs are"]
    if kinds(sized(QUICK)):
        titles.append(("learns the probes where the action matters", lambda full: _probes(sized, full), "by hand"))
    else:
        missing.append("it accepts neither two actions nor a continuous one: the probes were not run")
    objective = next((word for word in _OBJECTIVES if callable(getattr(sized(TINY), word, None))), None)
    if objective:
        title = f"the gradient of `{objective}` is its slope"
        world = next(iter(worlds))
        titles.append((title, lambda full: _gradient(sized, world, objective), "finite differences"))
    else:
        missing.append("it exposes neither `objective` nor `loss`: its gradient was not checked")
    numbered = enumerate(titles, 1)
    return [Property(i, title, (name,), reference, f) for i, (title, f, reference) in numbered], missing


def _probes(sized: Sized, full: bool) -> list[Measured]:
    """The greedy actions of the two probes that pay for them, after a few seconds of learning."""
    measured, seeds = [], tuple(range(20 if full else 3))
    with jax.enable_x64(False):
        algorithm = sized(QUICK)
        for continuous in kinds(algorithm):
            for hosted in (False, True):
                for index in set(range(PROBE_COUNT)) & set(CHOOSING):
                    env = Probe(index, continuous)
                    missed = misses(algorithm, env, train(algorithm, env, seeds, hosted))["action"]
                    kind = "continuous" if continuous else "discrete"
                    where = f"{'hosted' if hosted else 'compiled'}, {kind}, probe {index}"
                    measured.append(Measured(where, float(np.max(missed)), 0.1))
    return measured


def _gradient(sized: Sized, world: str, objective: str) -> list[Measured]:
    """⟨∇f, v⟩ against (f(θ + hv) − f(θ − hv)) / 2h in a few directions, on the arguments that `update` passes."""
    algorithm, spec = jax.tree.map(jnp.asarray, sized(TINY)), WORLDS[world]
    calls: list[tuple[Any, ...]] = []

    def watched(self: Any, *given: Any) -> Any:
        jax.debug.callback(lambda *values: calls.append(values), *given)
        return getattr(super(kind, self), objective)(*given)

    kind: Any = type(type(algorithm).__name__, (type(algorithm),), {objective: watched, "__doc__": "Watched."})
    fields = [field for field in dataclasses.fields(algorithm) if field.init]
    watcher = kind(**{field.name: getattr(algorithm, field.name) for field in fields})
    state = algorithm.init(jax.random.key(0), spec)
    key, state, rollout, steps = arguments(algorithm, spec, state, 0)
    wide = jax.tree.map(_widened, rollout)
    jax.block_until_ready(jax.jit(kind.update)(watcher, key, state, wide, steps))
    jax.effects_barrier()
    if not calls:
        return [Measured(f"`update` never calls `{objective}`", float("nan"), 0.0)]
    params, *rest = jax.tree.map(jnp.asarray, calls[0])

    def value(params: PyTree[Any]) -> Any:
        found = getattr(algorithm, objective)(params, *rest)
        return found[0] if isinstance(found, tuple) else found

    value = jax.jit(value)
    gradient, random, h = jax.jit(jax.grad(value))(params), np.random.default_rng(0), 1e-6
    errors = []
    for _ in range(5):
        direction = jax.tree.map(lambda x: jnp.asarray(random.normal(size=x.shape)), params)
        there, back = (jax.tree.map(lambda x, v, s=s: x + s * h * v, params, direction) for s in (1, -1))
        slope = float(value(there) - value(back)) / (2 * h)
        along = sum(
            float(jnp.sum(g * v)) for g, v in zip(*map(jax.tree.leaves, (gradient, direction)), strict=True)
        )
        errors.append(abs(along - slope) / max(abs(slope), 1e-3))
    return [Measured("relative, five directions", max(errors), 1e-5)]


def _widened(x: Any) -> Any:
    """Floats as wide as JAX has them now."""
    return jnp.asarray(x, float) if np.issubdtype(np.asarray(x).dtype, np.floating) else jnp.asarray(x)
