"""What is not structure never compiles anew, and a hosted step is one dispatch."""

import dataclasses
import sys
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
from miniatures import ALGORITHMS, SAMPLE, SEEDS, compilations, sampled

from ridgeline.algorithms import REGISTRY
from ridgeline.environments.probes import Probe
from ridgeline.environments.stepped import SteppedFactory
from ridgeline.theory.probes import kinds, quick
from ridgeline.training import hosted
from ridgeline.training.hosted import Hosted
from ridgeline.training.loop import Plan, iterate
from ridgeline.training.runner import make_runner
from ridgeline.types import EnvSpec, Step

CONTINUOUS = tuple(REGISTRY[name] for name in ALGORITHMS if kinds(quick(name)) == [True])


def run(algorithm: Any, seeds: tuple[int, ...] = SEEDS, steps: int = 100, host: bool = False, **plan: int) -> None:
    """A whole run, as `experiments.run` drives it."""
    probe = Probe(4, isinstance(algorithm, CONTINUOUS))
    env = SteppedFactory(probe) if host else probe
    plan = {"evaluations": 2, "evaluation_episodes": 4} | plan
    runner = make_runner(algorithm, env, seeds)
    runner.compile(plan["evaluation_episodes"])
    for _ in iterate(runner, Plan.of(algorithm, steps, **plan), seeds):
        pass
    runner.close()


# A sample of the algorithms, unless all are asked for.
WARM = [
    pytest.param((n, host), marks=[] if n in SAMPLE else pytest.mark.slow)
    for n in ALGORITHMS
    for host in (False, True)
]


@pytest.fixture(scope="module", params=WARM, ids=str)
def warm(request) -> tuple[str, bool]:
    """An algorithm and a kind of runner that have compiled what they need."""
    name, host = request.param
    run(quick(name), host=host)
    return name, host


def float_fields(record: type, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = []
    for field in dataclasses.fields(record):
        if field.type is float:
            found.append((*path, field.name))
        elif isinstance(field.type, type) and issubclass(field.type, eqx.Module):
            found += float_fields(field.type, (*path, field.name))
    return found


def halved(record: Any, path: tuple[str, ...]) -> Any:
    """The record with the float at this path halved, in the dtype it has."""

    def where(tree: Any) -> Any:
        for name in path:
            tree = getattr(tree, name)
        return tree

    return eqx.tree_at(where, record, replace_fn=lambda x: np.asarray(x / 2, x.dtype))


def test_the_counter_counts() -> None:
    with compilations() as compiled:
        jax.jit(lambda x: x * 3 + len(SEEDS))(1.0)
    assert compiled


def test_no_float_recompiles(warm: tuple[str, bool]) -> None:
    name, host = warm
    algorithm, fields = quick(name), float_fields(REGISTRY[name])
    assert len(fields) == len(jax.tree.leaves(algorithm))
    with compilations() as compiled:
        for path in fields:
            run(halved(algorithm, path), steps=32, host=host)
            assert not compiled, path


def test_a_float_written_as_it_is_in_python_recompiles_nothing(warm: tuple[str, bool]) -> None:
    name, host = warm
    with compilations() as compiled:
        run(quick(name, gamma=0.5, learning_rate=1.0), steps=32, host=host)
    assert not compiled


CHANGES = {
    "seeds": {"seeds": (9, 8, 7, 6, 2**32 - 1)},
    "steps": {"steps": 333},
    "log interval": {"log_points": 3},
    "evaluation interval": {"evaluations": 1},
    "no evaluations": {"evaluations": 0},
    "evaluation starts": {"evaluation_seed": 3},
}


@pytest.mark.parametrize("change", CHANGES)
def test_how_a_run_is_run_recompiles_nothing(warm: tuple[str, bool], change: str) -> None:
    name, host = warm
    with compilations() as compiled:
        run(quick(name), host=host, **CHANGES[change])
    assert not compiled


class NumpyCounter:
    """Counts to three in NumPy: whatever reaches JAX while it is stepped comes from the runner."""

    def __init__(self, num_envs: int, spec: EnvSpec):
        self.num_envs, self.spec = num_envs, spec
        self.taken = np.zeros((num_envs, 1), np.float32)

    def reset(self, seeds: np.ndarray, mask: np.ndarray) -> np.ndarray:
        self.taken[mask] = 0
        return self.taken

    def step(self, actions: np.ndarray) -> Step:
        self.taken += 1
        no = np.zeros(self.num_envs, bool)
        return Step(self.taken, np.ones(self.num_envs, np.float32), no, self.taken[:, 0] == 3)

    def close(self) -> None:
        pass


class NumpyFactory:
    backend, reseeds = "numpy", True

    def __init__(self, continuous: bool):
        self.spec = Probe(4, continuous).spec

    def build(self, num_envs: int) -> NumpyCounter:
        return NumpyCounter(num_envs, self.spec)


class Calls:
    """Counts the calls of the functions of a module, and whatever JAX runs op by op beside them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, module: Any, names: tuple[str, ...]):
        self.count = dict.fromkeys(("op by op", *names), 0)
        for name in names:
            monkeypatch.setattr(module, name, self._counted(name, getattr(module, name)))

    def _counted(self, name: str, function: Any) -> Any:
        def call(*arguments: Any, **keywords: Any) -> Any:
            self.count[name] += 1
            return function(*arguments, **keywords)

        return call

    def __enter__(self) -> dict[str, int]:
        sys.setprofile(self._profile)
        return self.count

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _profile(self, frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_name == "apply_primitive":
            self.count["op by op"] += 1


def test_op_by_op_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    x = jax.numpy.ones(3)
    with Calls(monkeypatch, hosted, ()) as count:
        jax.lax.neg(x)
    assert count["op by op"] == 1


@pytest.mark.parametrize("name", sampled(ALGORITHMS))
def test_a_hosted_step_is_one_dispatch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    algorithm = quick(name)
    runner = Hosted(algorithm, NumpyFactory(isinstance(algorithm, CONTINUOUS)), SEEDS)
    runner.run(0, 1, 1_000.0)
    with Calls(monkeypatch, hosted, ("gather_policies", "act", "learn")) as count:
        runner.run(1, 5, 1_000.0)
    rows = 3 if algorithm.fresh else algorithm.rollout_length  # every episode takes three steps
    assert count == {"op by op": 0, "gather_policies": 5, "act": 5 * rows, "learn": 5 * len(SEEDS)}
