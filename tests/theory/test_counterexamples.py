"""The divergence monitor on the examples that diverge, and on one that does not: the figures of the DQN page."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import Array, Float

from ridgeline.memory import divergence
from ridgeline.theory.counterexamples import Problem, baird, expected_steps, two_states
from ridgeline.training.loop import DIVERGED


@pytest.fixture(autouse=True)
def in_double_precision() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def measured(problem: Problem, path: Float[Array, "K k"], gamma: float) -> np.ndarray:
    """`train/divergence` [K] at those weights; every reward is 0."""
    q = jnp.abs(jnp.einsum("sai,ki->ksa", problem.features, path))
    return np.asarray(jax.vmap(lambda q: divergence(jnp.max(q), jnp.zeros(()), gamma))(q))


@pytest.mark.parametrize(("gamma", "regression"), [(0.99, 45), (0.8, None)])
def test_the_monitor_names_two_states_above_the_threshold_alone(gamma: float, regression: int | None) -> None:
    problem = two_states(jnp.asarray(gamma), jnp.asarray(0.1))
    path = expected_steps(problem, jnp.ones(1), 0.3, 60 * 50, 50)[49::50]
    over = 1 + np.flatnonzero(measured(problem, path, gamma) > DIVERGED)
    assert over.tolist() == ([] if regression is None else list(range(regression, 61)))


def test_the_monitor_names_bairds_example() -> None:
    problem, start = baird(), jnp.ones(15).at[6].set(10)
    path = jax.jit(lambda w: expected_steps(problem, w, 0.01, 3_000))(start)
    over = 1 + np.flatnonzero(measured(problem, path, 0.99) > DIVERGED)
    assert over.tolist() == list(range(1_129, 3_001))
